"""Nests of held items from their start to their record: executor, results, logs on their way."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Final

from pyanamo_core.model import INTERRUPTIONS, Cause, NestCall, NestResult, Recorded
from pyanamo_core.pilot.desk import Entry
from pyanamo_core.pilot.executor import ThreadExecutor
from pyanamo_core.pilot.floor import Floor
from pyanamo_core.pilot.leaving import host_fault, set_up
from pyanamo_core.pilot.nest import Task
from pyanamo_core.pilot.scheduler import Failure, Held
from pyanamo_core.pilot.spending import KEPT
from pyanamo_core.pilot.verdict import weight_of
from pyanamo_core.protocols import Executor

_LAST_LINES: Final = 8

_log = logging.getLogger("pyanamo.pilot")


class Nests:
    """Starts what the board chooses, and hears of its end."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._executor: Executor | None = None
        self._fallback: ThreadExecutor | None = None

    def attach(self, executor: Executor) -> None:
        """With what to run nests."""
        self._executor = executor

    def start(self) -> None:
        """Start what the board chooses, as long as there is room."""
        while (chosen := self._floor.board.next(self._floor.learner.order, self._floor.keeper.may_start)) is not None:
            held, index = chosen
            call = held.call(index)
            item = held.claim.item
            shares = weight_of(item.memory_factor, self._floor.board.slots)
            task = Task(call, self._floor.bench, shares=shares, deadline_seconds=item.nest_seconds)
            task.began = self._floor.clock.monotonic()
            self._floor.board.start(held, index, task)
            if self._floor.observer:
                self._floor.observer.nest_started(call)
            future = self._submit(task, call)
            self._floor.then(future, partial(self._ended, call, shares))

    def _submit(self, task: Task, call: NestCall) -> Future[NestResult]:
        if self._executor is not None:
            try:
                return self._executor.submit(task, call)
            except Exception as error:  # noqa: BLE001 - an executor that refuses must not cost a result
                _log.warning("the executor refused a nest, it runs without: %s", error)
        if self._fallback is None:
            self._fallback = ThreadExecutor(self._floor.board.slots)
        return self._fallback.submit(task, call)

    def _ended(self, call: NestCall, shares: int, done: Future[NestResult]) -> None:
        if done.cancelled() or done.exception() is not None:
            why = "it was cancelled" if done.cancelled() else repr(done.exception())
            result = NestResult(cause=Cause.TASK_ERROR, message=f"the executor failed: {why}")
        else:
            result = done.result()
        held = self._floor.board.held.get(call.item_id)
        task = None if held is None or held.claim.fence != call.fence else self._floor.board.end(held, call.index)
        self._floor.counters.spending.ended(held if task else None, result, shares)
        if held is None or task is None:
            return
        self._floor.counters.busy_seconds += max(0.0, result.ended - result.started)
        if self._floor.observer:
            self._floor.observer.nest_finished(call, result)
        interrupted = result.cause in INTERRUPTIONS or (task.stopped and result.cause is not Cause.DONE)
        if interrupted or held.lost or held.cancelled:
            # Nothing of an interrupted nest is recorded: it is still to be done.
            held.pending.append(call.index)
            _remove(result.log_path)
            if result.cause is Cause.HOST_FAULT:
                held.host_said = f"nest {call.index}: {result.evidence}" if held.nests > 1 else result.evidence
                self._floor.begin_stop(host_fault(result.message))
            return
        if result.cause is Cause.SET_UP:
            self._floor.begin_stop(set_up(f"item {call.item_id}, nest {call.index}: {result.message}"))
        if result.cause is Cause.DONE:
            self._floor.learner.learn(call.value, result.ended - result.started)
        held.recording.add(call.index)
        prefix = self._floor.bench.setting.output_prefix(call)
        future = self._floor.desk.record(call, result, task.slot, task.log_bytes, prefix)
        self._floor.then(future, partial(self._recorded, call, result, task))

    def _recorded(self, call: NestCall, result: NestResult, task: Task, told: Future[Entry]) -> None:
        held, log_path = self._floor.board.held.get(call.item_id), result.log_path
        if held is None or held.claim.fence != call.fence:
            _remove(log_path)
            return
        held.recording.discard(call.index)
        error = told.exception()
        spending = self._floor.counters.spending
        if error is not None:
            _remove(log_path)
            spending.recorded(held, result, task.shares, Cause.LOST)
            self.on_lost(call.item_id, call.fence, str(error))
            return
        entry = told.result()
        spending.recorded(held, result, task.shares, KEPT if entry.recorded is Recorded.KEPT else entry.cause)
        if entry.recorded is Recorded.WON:
            held.progressed = True
        if entry.cause is Cause.DONE or entry.recorded is Recorded.KEPT:
            # Kept: an earlier result of this epoch was verified; the nest is done either way.
            held.done += 1
            self._floor.counters.nests_done += 1
        else:
            held.failed[call.index] = Failure(entry.cause, entry.message, entry.evidence)
            self._floor.counters.nests_failed += 1
            if self._floor.workflow.stop_on_failure:
                self._end_siblings(held)
        self._floor.leases.progress(
            call.item_id, progressed=held.progressed, nests_done=held.done, nests_failed=len(held.failed)
        )
        pointer = entry.pointer
        if pointer is None or pointer.where not in {"s3", "cloudwatch"}:
            if pointer is not None and pointer.note:
                held.notes.append(f"log of nest {call.index} given up: {pointer.note}")
            _remove(log_path)
            return
        held.uploading.add(call.index)
        self._floor.uploads_since[(call.item_id, call.index)] = self._floor.clock.monotonic()
        future = self._floor.desk.ship(pointer, log_path, task.marks)
        self._floor.then(future, partial(self._shipped, call))

    def _end_siblings(self, held: Held) -> None:
        """End what else runs of an item, as if interrupted: nothing of it is recorded, nothing more is started."""
        held.ended = True
        for task in held.running.values():
            task.stop(Cause.DRAINED)

    def _shipped(self, call: NestCall, done: Future[str]) -> None:
        self._floor.uploads_since.pop((call.item_id, call.index), None)
        held = self._floor.board.held.get(call.item_id)
        if held is None or held.claim.fence != call.fence or call.index not in held.uploading:
            return
        held.uploading.discard(call.index)
        note = str(done.exception()) if done.exception() else done.result()
        if note:
            held.notes.append(f"log of nest {call.index} given up: {note}")

    def on_lost(self, item_id: str, fence: int, reason: str) -> None:
        """An item is no longer ours: end what runs for it, write nothing more."""
        held = self._floor.board.held.get(item_id)
        if held is None or held.claim.fence != fence or held.settling or held.lost:
            return
        _log.warning("item %s was lost: %s", item_id, reason)
        held.lost = True
        self._floor.leases.drop(item_id)
        for task in held.running.values():
            task.stop(Cause.LOST, term_seconds=self._floor.leases.term_seconds)

    def on_cancelled(self, item_id: str) -> None:
        """A user has cancelled an item of ours."""
        held = self._floor.board.held.get(item_id)
        if held is None or held.settling or held.cancelled:
            return
        held.cancelled = True
        for task in held.running.values():
            task.stop(Cause.CANCELLED)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """The last lines of what runs, for the pilot's row."""
        lines = [
            f"{held.item_id} {index}: {task.last_line}"[:160]
            for held in list(self._floor.board.held.values())
            for index, task in list(held.running.items())
            if task.last_line
        ]
        return tuple(lines[:_LAST_LINES])


def _remove(path: str) -> None:
    if path:
        Path(path).unlink(missing_ok=True)
