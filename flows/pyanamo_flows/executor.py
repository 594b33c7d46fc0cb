"""Nests as Prefect task runs, without handing Prefect any say in them.

The future belongs to the core; the body of the task run fulfils it, and Prefect's own verdict is never read. A task
run that Prefect drops, cancels or leaves lying before its body starts is run here, as if there were no Prefect.
What is shown adapts: a task run per nest, else per item, else none (`Detail`); what was left out is counted, and said
once. Tasks carry no tags, artifacts, caching, stored results or limits: each of those needs the API to be up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events.worker import EventsWorker
from prefect.states import Completed, Failed

from pyanamo_core.model import Cause, NestCall, NestResult
from pyanamo_core.pilot.executor import DaemonPool

MAX_PLANNED_NESTS = 2_000
MAX_NESTS_PER_SECOND = 10.0
MAX_QUEUED_EVENTS = 500
RATE_WINDOW_SECONDS = 10.0
START_SECONDS = 15.0
"""A task run whose body has not begun after so long is run here instead."""

NEST, ITEM, NONE = "nest", "item", "none"
log = logging.getLogger("pyanamo.prefect")


def queued_events() -> int:
    """Events that this process has not sent to Prefect yet."""
    return sum(
        instance._queue.qsize()
        for instance in list(EventsWorker._instances.values())
        if isinstance(instance, EventsWorker)
    )


class Detail:
    """How much of a pilot's work is shown as task runs: `nest`, `item` or `none`. Only ever goes down.

    `auto` shows nests while the pilot's planned nests are at most 2,000 and come at most 10 a second, else items. Any
    wish stops at 500 unsent events: the API is slow or gone, and each task run would cost memory and time at the end.
    """

    def __init__(
        self,
        wish: str = "auto",
        *,
        queued: Callable[[], int] = queued_events,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self._adapts = wish not in (NEST, ITEM, NONE)
        self.shown = NEST if self._adapts else wish
        self.planned_nests = 0
        self.nests_shown = 0
        self.nests_not_shown = 0
        self.items_shown = 0
        self.stopped = ""
        """Why no more task runs are made at all; empty while they are."""
        self._queued = queued
        self._clock = clock
        self._say = say
        self._recent: deque[float] = deque()
        self._lock = threading.Lock()

    def plan(self, nests: int) -> None:
        """An item with so many nests was claimed."""
        with self._lock:
            self.planned_nests += nests
            if self._adapts and self.shown == NEST and self.planned_nests > MAX_PLANNED_NESTS:
                self._lower(ITEM, f"{self.planned_nests:,} nests are planned")

    def of_next(self) -> str:
        """What the nest that is submitted now shall be shown as; counts it."""
        with self._lock:
            if self.shown == NEST and self._adapts:
                now = self._clock()
                self._recent.append(now)
                while self._recent[0] < now - RATE_WINDOW_SECONDS:
                    self._recent.popleft()
                if len(self._recent) > MAX_NESTS_PER_SECOND * RATE_WINDOW_SECONDS:
                    self._lower(ITEM, f"nests come faster than {MAX_NESTS_PER_SECOND:.0f} a second")
            if self.shown != NONE and (queued := self._queued()) > MAX_QUEUED_EVENTS:
                self._stop(f"{queued} events wait to be sent")
            if self.shown == NEST:
                self.nests_shown += 1
            else:
                self.nests_not_shown += 1
            return self.shown

    def stop(self, why: str) -> None:
        """Make no more task runs in this pilot."""
        with self._lock:
            self._stop(why)

    def _stop(self, why: str) -> None:
        if not self.stopped:
            self.stopped = why
            self._lower(NONE, why)

    def _lower(self, to: str, why: str) -> None:
        self.shown = to
        self._recent.clear()
        left = "items are shown, no more nests" if to == ITEM else "no more task runs are made"
        self._say(f"Prefect: {why}; from here on {left}. The ledger has them all: pyanamo items show ITEM")

    def summary(self) -> str:
        """What was shown and what was not, in a sentence."""
        told = f"{self.nests_shown:,} nests and {self.items_shown:,} items shown as task runs"
        return f"{told}; {self.nests_not_shown:,} nests not shown" if self.nests_not_shown else told


@dataclass
class _Submission:
    """One nest on its way: whoever takes it first runs it, exactly once."""

    call: Callable[[], NestResult]
    future: Future[NestResult]
    since: float
    _taken: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """True for the first who asks."""
        with self._lock:
            taken, self._taken = self._taken, True
            return not taken

    def run(self) -> NestResult | None:
        """Run it and fulfil the core's future; gives the result back, or None if it raised."""
        try:
            result = self.call()
        except BaseException as error:  # noqa: BLE001 - whatever it was, the scheduler must hear of it
            self.future.set_exception(error)
            return None
        self.future.set_result(result)
        return result


class PrefectExecutor:
    """The core's Executor inside a flow run, over its ThreadPoolTaskRunner. Make it and submit in the flow's own thread.

    Args:
        slots: nests at a time; the flow's task runner must have at least `slots` + `items` workers.
        detail: what to show.
    """

    def __init__(self, slots: int, detail: Detail | None = None, *, start_seconds: float = START_SECONDS) -> None:
        self.detail = detail or Detail()
        self._start_seconds = start_seconds
        self._plain = DaemonPool(slots, "nest")
        self._open: dict[int, _Submission] = {}
        self._serial = 0
        self._lock = threading.Lock()
        self._items: dict[tuple[str, int], _ItemRun] = {}
        self._item_runs: dict[int, _ItemRun] = {}
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._nest_task = _quiet_task(self._nest_body, "nest")
        self._item_task = _quiet_task(self._item_body, "item")
        self._keeper = threading.Thread(target=self._keep, name="prefect-keeper", daemon=True)
        self._keeper.start()

    # ------------------------------------------------------------------ the seam

    def submit(self, call: Callable[[], NestResult], nest: NestCall) -> Future[NestResult]:
        """Run `call` on a slot of its own; the future is fulfilled in every case, whatever becomes of Prefect."""
        future: Future[NestResult] = Future()
        future.set_running_or_notify_cancel()
        submission = _Submission(call, future, time.monotonic())
        shown = self.detail.of_next()
        if shown == NEST:
            self._as_task_run(submission, nest)
        else:
            if shown == ITEM:
                self._begin_item(nest)
            self._here(submission)
        return future

    def close(self, timeout_seconds: float) -> None:
        """Let go of everything; wait so long for what still runs."""
        self._closing.set()
        self._wake.set()
        for run in list(self._items.values()):
            run.ended.set()
        self._keeper.join(timeout_seconds)
        self._plain.close(timeout_seconds)

    # ------------------------------------------------------------------ nests

    def _as_task_run(self, submission: _Submission, nest: NestCall) -> None:
        with self._lock:
            self._serial += 1
            key = self._serial
            self._open[key] = submission
        self._wake.set()
        try:
            handed = self._nest_task.submit(label=_label(nest), key=key)
            handed.wrapped_future.add_done_callback(lambda _: self._take_over(key, "was dropped"))
        except Exception as error:  # noqa: BLE001 - Prefect may fail in any way; the nest must run
            self.detail.stop(f"a task run could not be made ({error!r:.200})")
            self._take_over(key, "could not be made")

    def _nest_body(self, label: str, key: int) -> Any:
        """The body of a nest's task run. `label` is its name."""
        submission = self._closed(key)
        if submission is None or not submission.take():
            return Completed(message="This nest was run outside of Prefect")
        result = submission.run()
        if result is None:
            return Failed(message="The pilot could not run this nest; see its log")
        if result.cause is Cause.DONE:
            return Completed(message=f"exit code {result.exit_code}, {result.ended - result.started:.1f} s")
        return Failed(message=f"{result.cause}: {result.message}"[:1000])

    def _closed(self, key: int) -> _Submission | None:
        with self._lock:
            return self._open.pop(key, None)

    def _take_over(self, key: int, why: str) -> None:
        submission = self._closed(key)
        if submission is not None and submission.take():
            log.warning("Prefect: a task run %s before its body began; the nest is run without it", why)
            self._here(submission)

    def _here(self, submission: _Submission) -> None:
        submission.take()
        self._plain.submit(submission.run)

    def _keep(self) -> None:
        """Run what Prefect has left lying; a task runner that is stuck must not cost a slot."""
        while not self._closing.is_set():
            with self._lock:
                now = time.monotonic()
                late = [key for key, each in self._open.items() if now - each.since > self._start_seconds]
                idle = not self._open
                if idle:
                    self._wake.clear()
            if late:
                self.detail.stop(f"a task run did not start within {self._start_seconds:.0f} s")
            for key in late:
                self._take_over(key, "was left lying")
            if idle:
                self._wake.wait()
            else:
                self._closing.wait(min(1.0, self._start_seconds))

    # ------------------------------------------------------------------ items

    def _begin_item(self, nest: NestCall) -> None:
        key = (nest.item_id, nest.fence)
        if key in self._items:
            return
        run = self._items[key] = _ItemRun()
        self._serial += 1
        self._item_runs[self._serial] = run
        try:
            self._item_task.submit(label=nest.item_id, key=self._serial)
            self.detail.items_shown += 1
        except Exception as error:  # noqa: BLE001 - as for nests
            self._item_runs.pop(self._serial, None)
            self.detail.stop(f"a task run could not be made ({error!r:.200})")

    def _item_body(self, label: str, key: int) -> Any:
        """The body of an item's task run: it lasts as long as the item is held here. `label` is its name."""
        run = self._item_runs.pop(key)
        run.ended.wait()
        return Failed(message=run.message) if run.failed else Completed(name=run.name, message=run.message)

    def item_ended(self, item_id: str, *, name: str = "Completed", message: str = "", failed: bool = False) -> None:
        """An item is no longer held here: its task run, if there is one, ends with that."""
        for key in [key for key in list(self._items) if key[0] == item_id]:
            run = self._items.pop(key, None)
            if run:
                run.name, run.message, run.failed = name, message[:1000], failed
                run.ended.set()


@dataclass
class _ItemRun:
    name: str = "Completed"
    message: str = ""
    failed: bool = False
    ended: threading.Event = field(default_factory=threading.Event)


def _quiet_task(body: Callable[..., Any], name: str) -> Any:
    """A task that needs nothing of the API: no cache, no stored result, no retries, no printing, no tags."""

    def run(label: str, key: Any) -> Any:
        return body(label, key)

    return cast("Any", task)(
        run,
        name=name,
        task_run_name="{label}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=0,
        log_prints=False,
    )


def _label(nest: NestCall) -> str:
    """Name of a nest's task run: item and value."""
    value = nest.value if len(nest.value) <= 80 else f"{nest.value[:77]}..."
    return f"{nest.item_id} {value}".strip()
