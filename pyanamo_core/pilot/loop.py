"""The pilot's loop: one thread that decides; nests, paperwork, leases and signals report to it through one queue."""

from __future__ import annotations

import contextlib
import logging
import queue
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from pyanamo_core.errors import LeaseLost, MoveRefused
from pyanamo_core.model import INTERRUPTIONS, Cause, Item, Mode, NestCall, NestResult, PilotRecord, Recorded, State
from pyanamo_core.pilot.clock import Learner, WallTimeKeeper
from pyanamo_core.pilot.desk import Batch, Desk, Entry, Status, last_move
from pyanamo_core.pilot.drain import Signals
from pyanamo_core.pilot.executor import ThreadExecutor
from pyanamo_core.pilot.lease import Leases
from pyanamo_core.pilot.leaving import (
    FirstFailures,
    Leaving,
    Meaning,
    Stop,
    by_mode,
    host_fault,
    meaning_of_signal,
    set_up,
    spot,
    wall_time,
)
from pyanamo_core.pilot.nest import Bench, Task
from pyanamo_core.pilot.scheduler import Board, Held, longest_first
from pyanamo_core.pilot.settling import settle
from pyanamo_core.pilot.verdict import SET_UP_CODE, TRY_AGAIN_CODE
from pyanamo_core.protocols import Clock, Executor, Observer
from pyanamo_core.workflow import Workflow

SWEEPS: Final = 3
MODE_SECONDS: Final = 3.0
"""How long a TERM waits to learn what it means."""
CHILDREN_SECONDS: Final = 9.0
"""After a stop: TERM, 5 s, KILL, and the time to reap. What is not gone then is stuck in the kernel."""
LOGS_SECONDS: Final = 5.0
"""Logs get so long when the pilot wants to leave."""
LOGS_BUSY_SECONDS: Final = 60.0
"""Logs get so long while there is other work."""
STOP_SECONDS: Final = 14.0
"""After a stop, the loop ends by then in any case."""
WAKE_SECONDS: Final = 5.0
NOTE_CHARACTERS: Final = 400
_LAST_LINES: Final = 8

Job = Callable[[], None]

_log = logging.getLogger("pyanamo.pilot")


@dataclass
class Counters:
    """What the pilot's row tells."""

    claims: int = 0
    conflicts: int = 0
    items_done: int = 0
    items_failed: int = 0
    nests_done: int = 0
    nests_failed: int = 0
    busy_seconds: float = 0.0
    notes: list[str] = field(default_factory=list[str])


class Loop:
    """See the module. Made by Pilot.prepare; `run` by Pilot.work, after `attach`."""

    def __init__(
        self,
        *,
        workflow: Workflow,
        board: Board,
        desk: Desk,
        leases: Leases,
        bench: Bench,
        learner: Learner,
        keeper: WallTimeKeeper,
        signals: Signals,
        clock: Clock,
        inbox: queue.SimpleQueue[Job | None],
        memory_mb: int,
        stays: bool,
        max_failures: int | None,
        record: Callable[[], PilotRecord],
    ) -> None:
        self._workflow = workflow
        self._board = board
        self._desk = desk
        self._leases = leases
        self._bench = bench
        self._learner = learner
        self._keeper = keeper
        self._signals = signals
        self._clock = clock
        self._inbox = inbox
        self._memory_mb = memory_mb
        self._stays = stays
        self._max_failures = max_failures
        self._record = record
        self._executor: Executor | None = None
        self._fallback: ThreadExecutor | None = None
        self._observer: Observer | None = None
        self._stop: Stop | None = None
        self._no_more: Leaving | None = None
        self._claiming = False
        self._claim_at = 0.0
        self._empty_sweeps = 0
        self._open: int | None = None
        self._status_asked = False
        self._spot_notice = ""
        self._first = FirstFailures(workflow.budgets.first_items)
        self._uploads_since: dict[tuple[str, int], float] = {}
        self.counters = Counters()

    # ------------------------------------------------------------------ life

    def attach(self, executor: Executor, observer: Observer) -> None:
        """With what to run nests, and whom to tell."""
        self._executor, self._observer = executor, observer

    def run(self) -> Leaving:
        """Work until there is a reason to leave."""
        while True:
            self._notice_signals()
            self._notice_time()
            if self._stop is None:
                self._start_nests()
                self._want_claims()
            self._settle_ready()
            leaving = self._leaving()
            if leaving is not None:
                return leaving
            self._take(self._patience())

    def _take(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            job = self._inbox.get(timeout=seconds)
            while True:
                if job is not None:
                    job()
                job = self._inbox.get_nowait()

    def _patience(self) -> float:
        if self._stop is not None:
            return 0.1
        now = self._clock.monotonic()
        until = [WAKE_SECONDS, self._keeper.left]
        if not self._claiming and self._board.may_claim() and self._no_more is None:
            until.append(self._claim_at - now)
        limit = self._log_seconds
        until += [since + limit - now for since in self._uploads_since.values()]
        return max(0.01, min(until))

    # ------------------------------------------------------------------ reasons to stop

    def _notice_signals(self) -> None:
        if self._stop is not None and self._stop.meaning is None:
            if self._clock.monotonic() - self._stop.since > MODE_SECONDS:
                self._meant(Mode.RUN, "")
            return
        if self._signals.received is None or self._stop is not None:
            return
        self._begin_stop(None)
        future = self._desk.mode()
        future.add_done_callback(lambda done: self._inbox.put(partial(self._mode_told, done)))

    def _mode_told(self, done: Future[tuple[Mode, str]]) -> None:
        mode, reason = (Mode.RUN, "") if done.exception() else done.result()
        self._meant(mode, reason)

    def _meant(self, mode: Mode, why: str) -> None:
        if self._stop is not None and self._stop.meaning is None:
            self._stop.meaning = meaning_of_signal(
                self._signals.received or 0,
                mode,
                why,
                spot_notice=self._spot_notice,
                wall_time_over=self._keeper.over,
            )

    def _notice_time(self) -> None:
        if self._stop is None and self._keeper.over:
            self._begin_stop(wall_time())

    def on_spot(self, notice: str) -> None:
        """A Spot notice came: hand back while there is time."""
        self._spot_notice = notice
        self._begin_stop(spot(notice))

    def _begin_stop(self, meaning: Meaning | None) -> None:
        if self._stop is not None:
            return
        self._stop = Stop(self._clock.monotonic(), meaning)
        for held in self._board.held.values():
            for task in held.running.values():
                task.stop(meaning.cause if meaning else Cause.DRAINED)

    def _claim_no_more(self, leaving: Leaving) -> None:
        if self._no_more is None:
            self._no_more = leaving
            _log.info("claiming no more: %s", leaving.reason)

    def _heed(self, mode: Mode, why: str) -> None:
        meaning = by_mode(mode, why)
        if meaning is None:
            return
        if mode is Mode.CANCEL:
            self._begin_stop(meaning)
        else:
            self._claim_no_more(Leaving(meaning.reason, meaning.exit_code))

    # ------------------------------------------------------------------ claims

    def _want_claims(self) -> None:
        wanted = self._board.may_claim()
        if self._claiming or self._no_more is not None or not wanted:
            return
        if self._clock.monotonic() < self._claim_at:
            return
        if not self._keeper.may_claim():
            self._claim_no_more(Leaving("wall_time", TRY_AGAIN_CODE))
            return
        self._claiming = True
        future = self._desk.claim(wanted, count_open=self._stays and self._empty_sweeps + 1 >= SWEEPS)
        future.add_done_callback(lambda done: self._inbox.put(partial(self.on_claimed, done)))

    def claiming_began(self) -> None:
        """Somebody else (prepare) has asked for a batch of claims."""
        self._claiming = True

    def on_claimed(self, done: Future[Batch]) -> None:
        """A batch of claims has come back."""
        self._claiming = False
        error = done.exception()
        if error is not None:
            _log.warning("claiming went wrong: %s", error)
            self._claim_at = self._clock.monotonic() + max(1.0, self._workflow.timing.sweep_seconds)
            return
        batch = done.result()
        self.counters.conflicts += batch.conflicts
        self._heed(batch.mode, batch.reason)
        for claimed in batch.claimed:
            left = (each for each in range(claimed.definition.nests) if each not in claimed.done)
            pending = longest_first(claimed.definition, left)
            held = Held(claimed.claim, claimed.definition, pending, done=len(claimed.done))
            self._board.add(held)
            self.counters.claims += 1
            _log.info("claimed %s: %d of %d nests to do", held.item_id, len(pending), held.nests)
            if self._observer:
                self._observer.claimed(claimed.claim)
        if batch.claimed:
            self._empty_sweeps, self._open, self._claim_at = 0, None, 0.0
        elif batch.mode is Mode.RUN and not batch.conflicts:
            self._empty_sweeps += 1
            self._open = batch.open
            self._claim_at = self._clock.monotonic() + self._workflow.timing.sweep_seconds
        else:
            # Others were quicker: look again soon, but not at once.
            self._claim_at = self._clock.monotonic() + min(0.2, self._workflow.timing.sweep_seconds)

    # ------------------------------------------------------------------ nests

    def _start_nests(self) -> None:
        while (chosen := self._board.next(self._learner.order, self._keeper.may_start)) is not None:
            held, index = chosen
            call = held.call(index)
            factor = held.claim.item.memory_factor
            memory_mb = min(self._memory_mb * self._board.slots, int(self._memory_mb * factor))
            task = Task(call, self._bench, memory_mb=memory_mb, deadline_seconds=held.claim.item.nest_seconds)
            self._board.start(held, index, task)
            if self._observer:
                self._observer.nest_started(call)
            future = self._submit(task, call)
            future.add_done_callback(partial(self._nest_came, call))

    def _submit(self, task: Task, call: NestCall) -> Future[NestResult]:
        if self._executor is not None:
            try:
                return self._executor.submit(task, call)
            except Exception as error:  # noqa: BLE001 - an executor that refuses must not cost a result
                _log.warning("the executor refused a nest, it runs without: %s", error)
        if self._fallback is None:
            self._fallback = ThreadExecutor(self._board.slots)
        return self._fallback.submit(task, call)

    def _nest_came(self, call: NestCall, done: Future[NestResult]) -> None:
        self._inbox.put(partial(self._nest_ended, call, done))

    def _nest_ended(self, call: NestCall, done: Future[NestResult]) -> None:
        held = self._board.held.get(call.item_id)
        if held is None or held.claim.fence != call.fence:
            return
        task = self._board.end(held, call.index)
        if task is None:
            return
        if done.cancelled() or done.exception() is not None:
            why = "it was cancelled" if done.cancelled() else repr(done.exception())
            result = NestResult(cause=Cause.TASK_ERROR, message=f"the executor failed: {why}")
        else:
            result = done.result()
        self.counters.busy_seconds += max(0.0, result.ended - result.started)
        if self._observer:
            self._observer.nest_finished(call, result)
        interrupted = result.cause in INTERRUPTIONS or (task.stopped and result.cause is not Cause.DONE)
        if interrupted or held.lost or held.cancelled:
            # Nothing of an interrupted nest is recorded: it is still to be done.
            held.pending.append(call.index)
            _remove(result.log_path)
            if result.cause is Cause.HOST_FAULT:
                self._begin_stop(host_fault(result.message))
            return
        if result.cause is Cause.SET_UP:
            self._begin_stop(set_up(f"item {call.item_id}, nest {call.index}: {result.message}"))
        if result.cause is Cause.DONE:
            self._learner.learn(call.value, result.ended - result.started)
        held.recording.add(call.index)
        prefix = self._bench.setting.output_prefix(call)
        future = self._desk.record(call, result, task.slot, task.log_bytes, prefix)
        future.add_done_callback(
            lambda told: self._inbox.put(partial(self._recorded, call, told, result.log_path, task))
        )

    def _recorded(self, call: NestCall, told: Future[Entry], log_path: str, task: Task) -> None:
        held = self._board.held.get(call.item_id)
        if held is None or held.claim.fence != call.fence:
            _remove(log_path)
            return
        held.recording.discard(call.index)
        error = told.exception()
        if error is not None:
            _remove(log_path)
            self.on_lost(call.item_id, call.fence, str(error))
            return
        entry = told.result()
        if entry.recorded is Recorded.WON:
            held.progressed = True
        if entry.cause is Cause.DONE or entry.recorded is Recorded.KEPT:
            # Kept: an earlier result of this epoch was verified; the nest is done either way.
            held.done += 1
            self.counters.nests_done += 1
        else:
            held.failed[call.index] = (entry.cause, entry.message)
            self.counters.nests_failed += 1
        self._leases.progress(
            call.item_id, progressed=held.progressed, nests_done=held.done, nests_failed=len(held.failed)
        )
        pointer = entry.pointer
        if pointer is None or pointer.where not in {"s3", "cloudwatch"}:
            if pointer is not None and pointer.note:
                held.notes.append(f"log of nest {call.index} given up: {pointer.note}")
            _remove(log_path)
            return
        held.uploading.add(call.index)
        self._uploads_since[(call.item_id, call.index)] = self._clock.monotonic()
        future = self._desk.ship(pointer, log_path, task.marks)
        future.add_done_callback(lambda done: self._inbox.put(partial(self._shipped, call, done)))

    def _shipped(self, call: NestCall, done: Future[str]) -> None:
        self._uploads_since.pop((call.item_id, call.index), None)
        held = self._board.held.get(call.item_id)
        if held is None or held.claim.fence != call.fence or call.index not in held.uploading:
            return
        held.uploading.discard(call.index)
        note = str(done.exception()) if done.exception() else done.result()
        if note:
            held.notes.append(f"log of nest {call.index} given up: {note}")

    # ------------------------------------------------------------------ what leases, users and hosts say

    def on_lost(self, item_id: str, fence: int, reason: str) -> None:
        """An item is no longer ours: end what runs for it, write nothing more."""
        held = self._board.held.get(item_id)
        if held is None or held.claim.fence != fence or held.settling or held.lost:
            return
        _log.warning("item %s was lost: %s", item_id, reason)
        held.lost = True
        self._leases.drop(item_id)
        for task in held.running.values():
            task.stop(Cause.LOST)

    def on_cancelled(self, item_id: str) -> None:
        """A user has cancelled an item of ours."""
        held = self._board.held.get(item_id)
        if held is None or held.settling or held.cancelled:
            return
        held.cancelled = True
        for task in held.running.values():
            task.stop(Cause.CANCELLED)

    # ------------------------------------------------------------------ settling

    @property
    def _log_seconds(self) -> float:
        idle = self._no_more is not None or self._empty_sweeps > 0
        return LOGS_SECONDS if self._stop is not None or idle else LOGS_BUSY_SECONDS

    def _give_up_logs(self, held: Held) -> None:
        now = self._clock.monotonic()
        for index in list(held.uploading):
            if now - self._uploads_since.get((held.item_id, index), now) >= self._log_seconds:
                held.uploading.discard(index)
                self._uploads_since.pop((held.item_id, index), None)
                held.notes.append(f"log of nest {index} given up: the upload took too long")

    def _settle_ready(self) -> None:
        stuck = self._stop is not None and self._clock.monotonic() - self._stop.since > CHILDREN_SECONDS
        for held in list(self._board.held.values()):
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
        budgets, slots = self._workflow.budgets, self._board.slots
        told = settle(held, self._stop, budgets, slots=slots, slot_mb=self._memory_mb)
        if told is None:
            return
        held.settling = True
        if told.cause is Cause.DONE:
            self._first.done()
        elif told.verdict.counts and (reason := self._first.failed(held.item_id, told.message)):
            self._claim_no_more(Leaving(f"set_up: {reason}", SET_UP_CODE, stop_run=reason))
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
        future = self._desk.settle(held.claim, move, told.cause, told.message)
        future.add_done_callback(lambda done: self._inbox.put(partial(self._settled, held, told.cause, done)))

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
            self.counters.items_done += 1
        elif item.state is State.FAILED:
            self.counters.items_failed += 1
        else:
            self._empty_sweeps = 0
        if self._observer:
            if item.state in {State.TODO, State.CANCELLED}:
                self._observer.handed_back(held.item_id, cause)
            else:
                self._observer.item_done(item)

    def _gone(self, held: Held) -> None:
        self._leases.drop(held.item_id)
        if self._board.held.get(held.item_id) is held:
            self._board.drop(held.item_id)
        for index in held.uploading:
            self._uploads_since.pop((held.item_id, index), None)

    # ------------------------------------------------------------------ beats

    def on_beat(self) -> None:
        """Once per beat: the pilot's row, the run's mode, the count of failures."""
        if self._status_asked:
            return
        self._status_asked = True
        future = self._desk.status(self._record(), self._max_failures)
        future.add_done_callback(lambda done: self._inbox.put(partial(self._status_told, done)))

    def _status_told(self, done: Future[Status]) -> None:
        self._status_asked = False
        error = done.exception()
        if error is not None:
            _log.warning("the pilot's row: %s", error)
            return
        status = done.result()
        self._heed(status.mode, status.reason)
        if status.failed is not None and self._max_failures is not None and status.failed >= self._max_failures:
            told = f"{status.failed} items have failed, max_failures is {self._max_failures}"
            self._claim_no_more(Leaving(f"max_failures: {told}", 0, stop_run=told))

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines of what runs, for the pilot's row."""
        lines = [
            f"{held.item_id} {index}: {task.last_line}"[:160]
            for held in list(self._board.held.values())
            for index, task in list(held.running.items())
            if task.last_line
        ]
        return tuple(lines[:_LAST_LINES])

    # ------------------------------------------------------------------ leaving

    def _leaving(self) -> Leaving | None:
        stop = self._stop
        if stop is not None:
            meaning = stop.meaning
            if meaning is None:
                return None
            if not self._board.held and not self._claiming:
                return Leaving(meaning.reason, meaning.exit_code, meaning.stop_run)
            if self._clock.monotonic() - stop.since > STOP_SECONDS:
                told = f"{meaning.reason} (not all could be handed back; leases bring them back)"
                return Leaving(told, meaning.exit_code, meaning.stop_run)
            return None
        if self._board.held or self._claiming:
            return None
        if self._no_more is not None:
            return self._no_more
        if self._empty_sweeps >= SWEEPS and (not self._stays or self._open == 0):
            return Leaving("empty", 0)
        return None


def _remove(path: str) -> None:
    if path:
        Path(path).unlink(missing_ok=True)
