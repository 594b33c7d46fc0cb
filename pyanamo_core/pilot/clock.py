"""Time on a pilot: how long nests take (learnt), whether one would still end in time, and how far the clock is off."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

from pyanamo_core.clock import MAX_OFFSET_SECONDS, SystemClock, median_offset
from pyanamo_core.errors import ClockOff
from pyanamo_core.protocols import Clock

OFFSET_SAMPLES: Final = 5
OFFSET_SECONDS: Final = 3600.0
"""How often the offset is measured again."""

_log = logging.getLogger("pyanamo.pilot")
_LOCUS: Final = re.compile(r".+:([\d,]+)-([\d,]+)")


def bases_of(value: str) -> int | None:
    """Bases of a nest's value that is a locus, or loci joined by commas (`chr1:1-100,chr2:5-9`); None for anything else.

    Only for expectations of time: the strict parser is genomics.intervals'.
    """
    total = 0
    for part in value.split(","):
        match = _LOCUS.fullmatch(part)
        if not match:
            return None
        start, end = (int(each.replace(",", "")) for each in match.groups())
        if end < start:
            return None
        total += end - start + 1
    return total


class Learner:
    """What nests took so far: seconds per base where values are loci, else the mean."""

    def __init__(self) -> None:
        self._bases = 0
        self._seconds_of_bases = 0.0
        self._nests = 0
        self._seconds = 0.0
        self.shortest: float | None = None
        """The shortest nest so far (seconds)."""

    def learn(self, value: str, seconds: float) -> None:
        """A nest with this value took so many seconds."""
        bases = bases_of(value)
        if bases:
            self._bases += bases
            self._seconds_of_bases += seconds
        self._nests += 1
        self._seconds += seconds
        self.shortest = seconds if self.shortest is None else min(self.shortest, seconds)

    def expected(self, value: str) -> float | None:
        """Seconds that a nest will take; None while nothing is known."""
        bases = bases_of(value)
        if bases and self._bases:
            return bases * self._seconds_of_bases / self._bases
        return self._seconds / self._nests if self._nests else None

    def order(self, value: str) -> float:
        """Longer nests sort first: expected seconds, or bases while nothing is known."""
        expected = self.expected(value)
        return expected if expected is not None else float(bases_of(value) or 0)


class WallTimeKeeper:
    """Keeps a pilot within its wall time.

    Args:
        wall_time_seconds: from `started`; None: there is no limit.
        started: on the monotonic clock.
    """

    def __init__(self, wall_time_seconds: float | None, started: float, clock: Clock, learner: Learner) -> None:
        self._ends = None if wall_time_seconds is None else started + wall_time_seconds
        self._reserve = 0.0 if wall_time_seconds is None else min(30.0, wall_time_seconds / 10)
        self._clock = clock
        self._learner = learner

    @property
    def left(self) -> float:
        """Seconds for nests; the last 30 (or a tenth) are kept for handing back."""
        return float("inf") if self._ends is None else self._ends - self._reserve - self._clock.monotonic()

    @property
    def over(self) -> bool:
        """Must what runs be ended now?"""
        return self.left <= 0

    def may_start(self, value: str) -> bool:
        """Would this nest end in time?"""
        return self.left > (self._learner.expected(value) or 0.0)

    def may_claim(self) -> bool:
        """Is there time for the shortest nest seen?"""
        return self.left > (self._learner.shortest or 0.0)


class OffsetMeter:
    """Listens to the Date headers of a boto3 client's answers: AWS's time costs no call of its own."""

    def __init__(self, clock: SystemClock) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, float]] = deque(maxlen=15)
        self._lock = threading.Lock()
        self._set_at: float | None = None

    def listen(self, client: Any) -> None:
        """Register with a client; each of its answers becomes a sample."""
        client.meta.events.register("after-call.*.*", self._heard)

    @property
    def samples(self) -> int:
        """Samples so far (the last 15 are kept)."""
        return len(self._samples)

    def _heard(self, parsed: Any = None, **_: Any) -> None:
        about = cast("dict[str, Any]", (cast("dict[str, Any]", parsed or {})).get("ResponseMetadata") or {})
        date = cast("dict[str, str]", about.get("HTTPHeaders") or {}).get("date")
        if not date:
            return
        try:
            told = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        with self._lock:
            self._samples.append((told, self._clock.now() - self._clock.offset_seconds))

    def adjust(self, *, at_work: bool = False) -> float | None:
        """Set the clock's offset if it is due and there are samples enough; the offset in seconds, or None.

        Args:
            at_work: the pilot holds items. A clock that went astray since is then followed by the offset, whatever it
                is: AWS's time is what leases count by.

        Raises:
            ClockOff: more than 60 s, unless `at_work`.
        """
        now = self._clock.monotonic()
        with self._lock:
            samples = list(self._samples)
        if len(samples) < OFFSET_SAMPLES or (self._set_at is not None and now - self._set_at < OFFSET_SECONDS):
            return None
        offset = median_offset(samples)
        if abs(offset) > MAX_OFFSET_SECONDS:
            if not at_work:
                raise ClockOff(offset_seconds=offset, limit_seconds=MAX_OFFSET_SECONDS)
            _log.warning("this machine's clock is %.0f s off AWS's by now: it is corrected for that", offset)
        self._set_at = now
        # Whole seconds are told: less than that is noise, and a clock that is right shall stay as it is.
        self._clock.offset_seconds = offset if abs(offset) > 1.0 else 0.0
        return self._clock.offset_seconds
