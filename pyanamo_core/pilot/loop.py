"""The pilot's loop: one thread that decides; nests, paperwork, leases and signals report to it through one queue."""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from pyanamo_core.meter import Reading
from pyanamo_core.model import Mode, PilotRecord, Spent
from pyanamo_core.pilot.desk import Batch, Status
from pyanamo_core.pilot.drain import Signals
from pyanamo_core.pilot.floor import Counters, Floor
from pyanamo_core.pilot.leaving import (
    NO_ORDER,
    Leaving,
    Order,
    by_order,
    host_fault,
    meaning_of_signal,
    own_fault,
    spot,
    wall_time,
)
from pyanamo_core.pilot.nests import Nests
from pyanamo_core.pilot.scheduler import Held, longest_first
from pyanamo_core.pilot.settler import Settler
from pyanamo_core.pilot.verdict import TRY_AGAIN_CODE
from pyanamo_core.protocols import Executor, Observer

SWEEPS: Final = 3
MODE_SECONDS: Final = 3.0
"""How long a TERM waits to learn what it means."""
STOP_SECONDS: Final = 14.0
"""After a stop, the loop ends by then in any case."""
WAKE_SECONDS: Final = 5.0
OWN_FAULTS: Final = 5
"""After so many faults of its own while it hands back the pilot leaves all the same."""

_log = logging.getLogger("pyanamo.pilot")


class Loop:
    """See the module. Made by Pilot.prepare; `run` by Pilot.work, after `attach`."""

    def __init__(
        self,
        floor: Floor,
        *,
        signals: Signals,
        stays: bool,
        max_failures: int | None,
        record: Callable[[], PilotRecord],
    ) -> None:
        self._floor = floor
        self._nests = Nests(floor)
        self._settler = Settler(floor)
        self._signals = signals
        self._stays = stays
        self._max_failures = max_failures
        self._record = record
        self._claiming = False
        self._claim_at = 0.0
        self._open: int | None = None
        self._status_asked = False
        self._spot_notice = ""
        self._short = ""

    # ------------------------------------------------------------------ what others tell and ask

    @property
    def counters(self) -> Counters:
        """What the pilot's row tells."""
        return self._floor.counters

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines of what runs, for the pilot's row."""
        return self._nests.last_lines

    def spent(self, reading: Reading) -> Spent:
        """What it has cost so far.

        Args:
            reading: of the meter at its clients.
        """
        floor = self._floor
        return floor.counters.spending.told(reading, floor.board.held.values(), floor.clock.monotonic())

    def on_lost(self, item_id: str, fence: int, reason: str) -> None:
        """An item is no longer ours."""
        self._nests.on_lost(item_id, fence, reason)

    def on_cancelled(self, item_id: str) -> None:
        """A user has cancelled an item of ours."""
        self._nests.on_cancelled(item_id)

    # ------------------------------------------------------------------ life

    def attach(self, executor: Executor, observer: Observer) -> None:
        """With what to run nests, and whom to tell."""
        self._nests.attach(executor)
        self._floor.observer = observer

    def run(self) -> Leaving:
        """Work until there is a reason to leave."""
        faults = 0
        while True:
            try:
                return self._work()
            except Exception as error:  # noqa: BLE001 - a fault of ours: what is held goes back while that still works
                _log.exception("the pilot itself failed; it hands back what it holds and leaves")
                fault = own_fault(error)
                faults += 1
                if faults > OWN_FAULTS:
                    return Leaving(f"{fault.reason} (leases bring back what it held)", fault.exit_code)
                self._floor.begin_stop(fault)

    def _work(self) -> Leaving:
        while True:
            self._notice_signals()
            self._notice_time()
            if self._floor.stop is None and not self._short_of_disk():
                self._nests.start()
                self._want_claims()
            self._settler.settle_ready()
            leaving = self._leaving()
            if leaving is not None:
                return leaving
            self._take(self._patience())

    def _take(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            job = self._floor.inbox.get(timeout=seconds)
            while True:
                if job is not None:
                    job()
                job = self._floor.inbox.get_nowait()

    def _patience(self) -> float:
        if self._floor.stop is not None:
            return 0.1
        now = self._floor.clock.monotonic()
        until = [WAKE_SECONDS, self._floor.keeper.left]
        if not self._claiming and self._floor.board.may_claim() and self._floor.no_more is None:
            until.append(self._claim_at - now)
        limit = self._settler.log_seconds
        until += [since + limit - now for since in self._floor.uploads_since.values()]
        return max(0.01, min(until))

    # ------------------------------------------------------------------ reasons to stop

    def _notice_signals(self) -> None:
        if self._floor.stop is not None and self._floor.stop.meaning is None:
            if self._floor.clock.monotonic() - self._floor.stop.since > MODE_SECONDS:
                self._meant(NO_ORDER)
            return
        if self._signals.received is None or self._floor.stop is not None:
            return
        self._floor.begin_stop(None)
        self._floor.then(self._floor.desk.order(), self._ordered)

    def _ordered(self, done: Future[Order]) -> None:
        self._meant(NO_ORDER if done.exception() else done.result())

    def _meant(self, order: Order) -> None:
        if self._floor.stop is not None and self._floor.stop.meaning is None:
            self._floor.stop.meaning = meaning_of_signal(
                self._signals.received or 0,
                order,
                spot_notice=self._spot_notice,
                wall_time_over=self._floor.keeper.over,
            )

    def _notice_time(self) -> None:
        if self._floor.stop is None and self._floor.keeper.over:
            self._floor.begin_stop(wall_time())

    def _short_of_disk(self) -> bool:
        """Nothing is started without room for its work. What runs may go on, and its end may make room."""
        told = self._floor.vitals.short_of_disk()
        if told and not self._short:
            _log.warning("%s: nothing more is started for now", told)
        self._short = told
        busy = any(not held.quiet or held.uploading for held in self._floor.board.held.values())
        if told and not busy and not self._claiming:
            self._floor.begin_stop(host_fault(told))
        return bool(told)

    def on_spot(self, notice: str) -> None:
        """A Spot notice came: hand back while there is time."""
        self._spot_notice = notice
        self._floor.begin_stop(spot(notice))

    def _heed(self, order: Order) -> None:
        meaning = by_order(order)
        if meaning is None:
            return
        if order.at_once:
            self._floor.begin_stop(meaning)
        else:
            self._floor.claim_no_more(Leaving(meaning.reason, meaning.exit_code))

    # ------------------------------------------------------------------ claims

    def _want_claims(self) -> None:
        wanted = self._floor.board.may_claim()
        if self._claiming or self._floor.no_more is not None or not wanted:
            return
        if self._floor.clock.monotonic() < self._claim_at:
            return
        if not self._floor.keeper.may_claim():
            self._floor.claim_no_more(Leaving("wall_time", TRY_AGAIN_CODE))
            return
        self._claiming = True
        future = self._floor.desk.claim(wanted, count_open=self._stays and self._floor.empty_sweeps + 1 >= SWEEPS)
        self._floor.then(future, self.on_claimed)

    def claiming_began(self) -> None:
        """Somebody else (prepare) has asked for a batch of claims."""
        self._claiming = True

    def on_claimed(self, done: Future[Batch]) -> None:
        """A batch of claims has come back."""
        self._claiming = False
        error = done.exception()
        if error is not None:
            _log.warning("claiming went wrong: %s", error)
            self._claim_at = self._floor.clock.monotonic() + max(1.0, self._floor.workflow.timing.sweep_seconds)
            return
        batch = done.result()
        self._floor.counters.conflicts += batch.conflicts
        self._heed(batch.order)
        for claimed in batch.claimed:
            left = (each for each in range(claimed.definition.nests) if each not in claimed.done)
            pending = longest_first(claimed.definition, left)
            held = Held(claimed.claim, claimed.definition, pending, done=len(claimed.done))
            self._floor.board.add(held)
            self._floor.counters.claims += 1
            _log.info("claimed %s: %d of %d nests to do", held.item_id, len(pending), held.nests)
            if self._floor.observer:
                self._floor.observer.claimed(claimed.claim)
        if batch.claimed:
            self._floor.empty_sweeps, self._open, self._claim_at = 0, None, 0.0
        elif batch.order.mode is Mode.RUN and not batch.conflicts:
            self._floor.empty_sweeps += 1
            self._open = batch.open
            self._claim_at = self._floor.clock.monotonic() + self._floor.workflow.timing.sweep_seconds
        else:
            # Others were quicker: look again soon, but not at once.
            self._claim_at = self._floor.clock.monotonic() + min(0.2, self._floor.workflow.timing.sweep_seconds)

    # ------------------------------------------------------------------ beats

    def on_beat(self) -> None:
        """Once per beat: the pilot's row, the run's mode, the count of failures."""
        if self._status_asked:
            return
        self._status_asked = True
        future = self._floor.desk.status(self._record(), self._max_failures)
        self._floor.then(future, self._status_told)

    def _status_told(self, done: Future[Status]) -> None:
        self._status_asked = False
        error = done.exception()
        if error is not None:
            _log.warning("the pilot's row: %s", error)
            return
        status = done.result()
        self._heed(status.order)
        if status.failed is not None and self._max_failures is not None and status.failed >= self._max_failures:
            told = f"{status.failed} items have failed, max_failures is {self._max_failures}"
            self._floor.claim_no_more(Leaving(f"max_failures: {told}", 0, stop_run=told))

    # ------------------------------------------------------------------ leaving

    def _leaving(self) -> Leaving | None:
        stop = self._floor.stop
        if stop is not None:
            meaning = stop.meaning
            if meaning is None:
                return None
            if not self._floor.board.held and not self._claiming:
                return Leaving(meaning.reason, meaning.exit_code, meaning.stop_run)
            if self._floor.clock.monotonic() - stop.since > STOP_SECONDS:
                told = f"{meaning.reason} (not all could be handed back; leases bring them back)"
                return Leaving(told, meaning.exit_code, meaning.stop_run)
            return None
        if self._floor.board.held or self._claiming:
            return None
        if self._floor.no_more is not None:
            return self._floor.no_more
        if self._floor.empty_sweeps >= SWEEPS and (not self._stays or self._open == 0):
            return Leaving("empty", 0)
        return None
