"""Observers: one that looks away, and a guard that keeps any other from harming a pilot.

The guard calls the observer in one thread of its own, in order. A call that takes longer than its budget does not stop
the pilot: until it returns, further events are dropped and counted. Exceptions are logged once and swallowed.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from typing import Any, Final

from pyanamo_core.model import Cause, Claim, Item, NestCall, NestResult
from pyanamo_core.protocols import Clock, Observer

BUDGET_SECONDS: Final = 5.0
QUEUED: Final = 10_000

_log = logging.getLogger("pyanamo.pilot")


class NullObserver:
    """Looks away."""

    def claimed(self, claim: Claim) -> None: ...
    def nest_started(self, nest: NestCall) -> None: ...
    def nest_finished(self, nest: NestCall, result: NestResult) -> None: ...
    def item_done(self, item: Item) -> None: ...
    def handed_back(self, item_id: str, cause: Cause) -> None: ...
    def leaving(self, reason: str, exit_code: int) -> None: ...


class GuardedObserver:
    """An observer whose exceptions and delays stay with it.

    Args:
        observer: the real one.
        clock: measures its calls.
        budget_seconds: how long one call may take before events are dropped.
    """

    def __init__(self, observer: Observer, clock: Clock, budget_seconds: float = BUDGET_SECONDS) -> None:
        self._observer = observer
        self._clock = clock
        self._budget = budget_seconds
        self._events: queue.SimpleQueue[tuple[contextvars.Context, str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._since: float | None = None
        self._thread: threading.Thread | None = None
        self._complained = False
        self._closed = False
        self.dropped = 0

    def claimed(self, claim: Claim) -> None:
        self._post("claimed", claim)

    def nest_started(self, nest: NestCall) -> None:
        self._post("nest_started", nest)

    def nest_finished(self, nest: NestCall, result: NestResult) -> None:
        self._post("nest_finished", nest, result)

    def item_done(self, item: Item) -> None:
        self._post("item_done", item)

    def handed_back(self, item_id: str, cause: Cause) -> None:
        self._post("handed_back", item_id, cause)

    def leaving(self, reason: str, exit_code: int) -> None:
        self._post("leaving", reason, exit_code)

    def close(self, timeout_seconds: float) -> None:
        """Wait at most so long for events that are still queued."""
        self._closed = True
        if self._thread is not None:
            self._events.put(None)
            self._thread.join(timeout_seconds)

    @property
    def hangs(self) -> bool:
        """Is the observer in a call that has used up its budget?"""
        since = self._since
        return since is not None and self._clock.monotonic() - since > self._budget

    def _post(self, name: str, *arguments: Any) -> None:
        if self._closed or type(self._observer) is NullObserver:
            return
        if self.hangs or self._events.qsize() >= QUEUED:
            self.dropped += 1
            self._complain(
                f"the observer takes more than {self._budget:.0f} s a call; events are dropped until it returns"
            )
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
            self._thread.start()
        # The caller's context, because an observer may look for the flow run that it belongs to.
        self._events.put((contextvars.copy_context(), name, arguments))

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            context, name, arguments = event
            self._since = self._clock.monotonic()
            try:
                context.run(getattr(self._observer, name), *arguments)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the pilot goes on
                self._complain(f"the observer failed in {name}: {type(error).__name__}: {error}")
            self._since = None

    def _complain(self, what: str) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("%s (said once)", what)
