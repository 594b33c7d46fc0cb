"""What a watch tells: progress at each poll, with rate and ETA, and the outcome at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pyanamo_core.fleet.spending import Spending
from pyanamo_core.model import Counts, Run

RATE_SECONDS: Final = 600.0
"""Over how long the rate is taken."""


@dataclass(frozen=True)
class Progress:
    """A run at one poll."""

    counts: Counts
    run: Run
    live_pilots: int
    jobs: Mapping[str, int] = field(default_factory=dict[str, int])
    """Batch's jobs of the run by status, children counted one by one."""
    rate_per_second: float = 0.0
    """Items finished per second, over the last ten minutes."""
    eta_seconds: float | None = None
    """Until the last item is finished at this rate; None without one."""
    note: str = ""
    """What a person should know: why nothing runs, who else watches."""
    spending: Spending | None = None
    """What its machines have cost so far; None where the run's row holds no prices."""


@dataclass(frozen=True)
class Outcome:
    """How a watch ended."""

    run: Run
    counts: Counts
    outcome: str
    """completed, failed (items failed), cancelled, drained, stopped; "" if only the watch was stopped and the run goes on."""
    reason: str = ""


class Rate:
    """Items per second over a sliding window, from (monotonic seconds, finished items)."""

    def __init__(self, window_seconds: float = RATE_SECONDS) -> None:
        self._window = window_seconds
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, now: float, finished: int) -> None:
        """Add a sample; one that is older than needed for the window is dropped."""
        if self._seen and finished < self._seen[-1][1]:
            self._seen.clear()  # items were reset: what was finished no longer is
        self._seen.append((now, finished))
        while len(self._seen) > 2 and now - self._seen[1][0] >= self._window:
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        if len(self._seen) < 2:
            return 0.0
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        return (after - before) / (end - start) if end > start else 0.0

    def eta_seconds(self, left: int) -> float | None:
        """Seconds until so many items are finished; None while nothing is."""
        rate = self.per_second
        if left == 0:
            return 0.0
        return left / rate if rate > 0 else None
