"""Calls that are to happen later, made by one thread."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Timers:
    """Calls functions when their time has come, one after the other."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._ticked = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="timers", daemon=True)
        self._thread.start()

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call this after so many seconds."""
        with self._ticked:
            heapq.heappush(self._waiting, (time.monotonic() + seconds, next(self._count), call))
            self._ticked.notify()

    def close(self) -> None:
        """Call nothing more, and end the thread."""
        with self._ticked:
            self._closing = True
            self._ticked.notify()
        self._thread.join(5)

    def _run(self) -> None:
        while True:
            with self._ticked:
                if self._closing:
                    return
                now = time.monotonic()
                if not self._waiting or self._waiting[0][0] > now:
                    self._ticked.wait(self._waiting[0][0] - now if self._waiting else None)
                    continue
                call = heapq.heappop(self._waiting)[2]
            call()
