"""Clocks: the machine's, corrected by its offset to AWS's, and one that tests move by hand."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable

MAX_OFFSET_SECONDS = 60.0
"""A machine whose clock is further off is refused: its leases would mean nothing."""


class SystemClock:
    """The machine's clock. `offset_seconds` is AWS's time minus ours."""

    def __init__(self, offset_seconds: float = 0.0) -> None:
        self.offset_seconds = offset_seconds

    def now(self) -> float:
        return time.time() + self.offset_seconds

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))


class FakeClock:
    """A clock that stands still until it is moved. Sleeping moves it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.move(seconds)

    def move(self, seconds: float) -> None:
        """Let so many seconds pass on both clocks."""
        with self._lock:
            self._now += seconds
            self._monotonic += seconds


def median_offset(samples: Iterable[tuple[float, float]]) -> float:
    """AWS's time minus ours, in seconds, from pairs (Date header, our time at the middle of the request).

    A Date header has whole seconds, so it stands for a time half a second later on average. Of at least five samples
    the median is taken; an answer that was slow or cached then moves nothing.
    """
    return statistics.median(told + 0.5 - ours for told, ours in samples)
