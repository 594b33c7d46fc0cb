"""Seconds per base, learnt from the nests of an earlier run, so that loci can be planned by time.

A nest takes a fixed time (JVM, reference, index of the reads) and so many seconds per called base; where on the
genome, decides the latter: near centromeres ten times the usual. What was measured at a place is used at that place,
the mean elsewhere.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from pyanamo_core.errors import BadInput
from pyanamo_core.genomics.intervals import Locus

PADDING = 1000
"""Bases called on each side of a locus, where the run does not say (HC_PADDING)."""


class NothingLearnt(BadInput):
    """{source} holds no nest from which a speed could be learnt: {reason}."""


class TimeTooShort(BadInput):
    """{seconds:g} s are not enough for a nest: in {source} each takes {fixed:.1f} s before its first base. Give at least --time {least:.0f}s."""


@dataclass(frozen=True)
class Observation:
    """What a nest took: its value, the bases that it called (padding included), seconds; loci only if it was one."""

    value: str
    called_bases: int
    seconds: float
    locus: Locus | None = None


@dataclass(frozen=True)
class Speed:
    """Seconds of a nest = `fixed` + seconds per called base, which is `rate` where nothing was measured.

    Attributes:
        local: contig to (begin, end, seconds per base), 0-based, half-open, sorted, disjoint.
        nests: how many were measured.
        source: where.
    """

    fixed: float
    rate: float
    local: Mapping[str, Sequence[tuple[int, int, float]]] = field(
        default_factory=dict[str, Sequence[tuple[int, int, float]]]
    )
    nests: int = 0
    source: str = "an assumption"

    def seconds(self, locus: Locus, padding: int = PADDING) -> float:
        """What a nest with this locus takes."""
        return self.fixed + self.cost(locus.contig, locus.start - 1, locus.end) + 2 * padding * self.rate

    def cost(self, contig: str, begin: int, end: int) -> float:
        """Seconds for the bases begin … end (0-based, half-open) alone."""
        return sum((b - a) * rate for a, b, rate in self._pieces(contig, begin, end))

    def target(self, seconds: float, padding: int = PADDING) -> float:
        """What of a nest's `seconds` is left for the bases of its locus.

        Raises:
            TimeTooShort: nothing, or so little that nests would be mostly start-up.
        """
        fixed = self.fixed + 2 * padding * self.rate
        if seconds < 1.2 * fixed:
            raise TimeTooShort(seconds=seconds, source=self.source, fixed=fixed, least=math.ceil(1.2 * fixed))
        return seconds - fixed

    def edges(self, contig: str, begin: int, end: int, target: float) -> list[int]:
        """Where to cut begin … end so that each part costs the same and none more than `target`; both ends included."""
        pieces = self._pieces(contig, begin, end)
        costs = [0.0]
        for a, b, rate in pieces:
            costs.append(costs[-1] + (b - a) * rate)
        parts = max(1, math.ceil(costs[-1] / target - 1e-9))
        found = [begin]
        for number in range(1, parts):
            wanted = costs[-1] * number / parts
            place = min(bisect.bisect_right(costs, wanted) - 1, len(pieces) - 1)
            a, _, rate = pieces[place]
            at = a + round((wanted - costs[place]) / rate)
            if found[-1] < at < end:
                found.append(at)
        return [*found, end]

    def _pieces(self, contig: str, begin: int, end: int) -> list[tuple[int, int, float]]:
        """begin … end in stretches of one speed, without holes."""
        known = self.local.get(contig, ())
        pieces: list[tuple[int, int, float]] = []
        at = begin
        first = max(0, bisect.bisect_right(known, begin, key=lambda x: x[0]) - 1)
        for a, b, rate in known[first:]:
            low, high = max(a, at), min(b, end)
            if a >= end:
                break
            if low >= high:
                continue
            if low > at:
                pieces.append((at, low, self.rate))
            pieces.append((low, high, rate))
            at = high
        if at < end:
            pieces.append((at, end, self.rate))
        return pieces


def learn(observed: Iterable[Observation], source: str) -> Speed:
    """The speed that these nests had; nests of one value (a locus in many samples) are averaged.

    Raises:
        NothingLearnt: there are none with bases and a time.
    """
    by_value: dict[str, list[Observation]] = {}
    count = 0
    for one in observed:
        if one.seconds > 0 and one.called_bases > 0:
            by_value.setdefault(one.value, []).append(one)
            count += 1
    if not by_value:
        raise NothingLearnt(source=source, reason="none is done with a locus and a time")
    bases = {value: fmean(x.called_bases for x in all_of) for value, all_of in by_value.items()}
    seconds = {value: fmean(x.seconds for x in all_of) for value, all_of in by_value.items()}
    fixed = _intercept(list(bases.values()), list(seconds.values()))
    rate = max(1e-9, (sum(seconds.values()) - fixed * len(seconds)) / sum(bases.values()))
    local: dict[str, list[tuple[int, int, float]]] = {}
    for value, all_of in by_value.items():
        locus = all_of[0].locus
        if locus is not None:
            here = max(rate / 100, (seconds[value] - fixed) / bases[value])
            local.setdefault(locus.contig, []).append((locus.start - 1, locus.end, here))
    disjoint = {contig: _disjoint(places) for contig, places in local.items()}
    return Speed(fixed, rate, disjoint, count, source)


def _intercept(bases: Sequence[float], seconds: Sequence[float]) -> float:
    """Seconds at no bases by least squares, at least 0 and at most 0.9 of the shortest nest; 0 where sizes are alike."""
    mean_bases, mean_seconds = fmean(bases), fmean(seconds)
    spread = sum((x - mean_bases) ** 2 for x in bases)
    if spread <= len(bases) * (0.1 * mean_bases) ** 2:
        return 0.0
    slope = sum((x - mean_bases) * (y - mean_seconds) for x, y in zip(bases, seconds, strict=True)) / spread
    return min(max(0.0, mean_seconds - slope * mean_bases), 0.9 * min(seconds))


def _disjoint(places: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    kept: list[tuple[int, int, float]] = []
    for place in sorted(places):
        if not kept or place[0] >= kept[-1][1]:
            kept.append(place)
    return kept
