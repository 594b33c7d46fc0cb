"""Held items whose nests are over: logs given up in time, the last move, the attempt's row."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from typing import Final

from pyanamo_core.errors import LeaseLost, MoveRefused
from pyanamo_core.model import Cause, Item, State
from pyanamo_core.pilot.desk import Used, last_move
from pyanamo_core.pilot.floor import Floor
from pyanamo_core.pilot.leaving import Leaving
from pyanamo_core.pilot.scheduler import Held
from pyanamo_core.pilot.settling import settle
from pyanamo_core.pilot.verdict import SET_UP_CODE

CHILDREN_SECONDS: Final = 9.0
"""After a stop: TERM, 5 s, KILL, and the time to reap. What is not gone then is stuck in the kernel."""
LOGS_SECONDS: Final = 5.0
"""Logs get so long when the pilot wants to leave."""
LOGS_SECONDS_AT_WORK: Final = 60.0
"""Logs get so long while it stays: an outage of half a minute costs none."""
NOTE_CHARACTERS: Final = 400

_log = logging.getLogger("pyanamo.pilot")


class Settler:
    """Decides over items that are quiet (`settling.settle`) and has the desk carry it out."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor

    @property
    def log_seconds(self) -> float:
        leaves = self._floor.stop is not None or self._floor.no_more is not None
        return LOGS_SECONDS if leaves else LOGS_SECONDS_AT_WORK

    def _give_up_logs(self, held: Held) -> None:
        now = self._floor.clock.monotonic()
        for index in list(held.uploading):
            if now - self._floor.uploads_since.get((held.item_id, index), now) >= self.log_seconds:
                held.uploading.discard(index)
                self._floor.uploads_since.pop((held.item_id, index), None)
                held.notes.append(f"log of nest {index} given up: the upload took too long")

    def settle_ready(self) -> None:
        stuck = (
            self._floor.stop is not None and self._floor.clock.monotonic() - self._floor.stop.since > CHILDREN_SECONDS
        )
        for held in list(self._floor.board.held.values()):
            if held.settling:
                continue
            if stuck:
                held.running.clear()
            if not held.quiet:
                continue
            if held.lost:
                self._gone(held)
                continue
            self._give_up_logs(held)
            if not held.uploading:
                self._settle(held)

    def _settle(self, held: Held) -> None:
        budgets, slots = self._floor.workflow.budgets, self._floor.board.slots
        told = settle(held, self._floor.stop, budgets, slots=slots, slot_mb=self._floor.memory_mb)
        if told is None:
            return
        held.settling = True
        if told.cause is Cause.DONE:
            self._floor.first.done()
        elif told.verdict.counts and (reason := self._floor.first.failed(held.item_id, told.message)):
            self._floor.claim_no_more(Leaving(f"set_up: {reason}", SET_UP_CODE, stop_run=reason))
        move = last_move(
            told.verdict,
            told.cause,
            told.message,
            done=held.done,
            failed=len(held.failed),
            progressed=held.progressed,
            started=held.started,
            counts=told.counts,
            note="; ".join(held.notes)[:NOTE_CHARACTERS],
        )
        used = Used(held.slot_seconds, held.kept_seconds, held.cpu_seconds)
        future = self._floor.desk.settle(held.claim, move, told.cause, told.evidence, used)
        self._floor.then(future, partial(self._settled, held, told.cause))

    def _settled(self, held: Held, cause: Cause, done: Future[Item]) -> None:
        self._gone(held)
        error = done.exception()
        if error is not None:
            level = logging.INFO if isinstance(error, LeaseLost | MoveRefused) else logging.WARNING
            _log.log(level, "item %s: %s", held.item_id, error)
            return
        item = done.result()
        about = f" ({cause}: {item.message})" if item.message else f" ({cause})" if cause is not Cause.DONE else ""
        _log.info("item %s is %s%s", held.item_id, item.state, about)
        if item.state is State.DONE:
            self._floor.counters.items_done += 1
        elif item.state is State.FAILED:
            self._floor.counters.items_failed += 1
        else:
            self._floor.empty_sweeps = 0
        if self._floor.observer:
            if item.state in {State.TODO, State.CANCELLED}:
                self._floor.observer.handed_back(held.item_id, cause)
            else:
                self._floor.observer.item_done(item)

    def _gone(self, held: Held) -> None:
        self._floor.leases.drop(held.item_id)
        if self._floor.board.held.get(held.item_id) is held:
            self._floor.board.drop(held.item_id)
        for index in held.uploading:
            self._floor.uploads_since.pop((held.item_id, index), None)
