"""How long nests take, and what they leave: learnt from an earlier run, given by the user, or measured defaults.

A pace is a range on purpose: machines of Spot differ, and reads of real samples are harder than simulated ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from pyanamo_core.cost.ranges import NOTHING, Range, exactly
from pyanamo_core.errors import BadInput, TargetsInvalid
from pyanamo_core.genomics.intervals import Dictionary, Locus, parse_locus
from pyanamo_core.genomics.speed import PADDING, NothingLearnt, Observation, Speed, learn
from pyanamo_core.words import number_of

MEGABASE: Final = 1_000_000
CALLER_SECONDS: Final = Range(24, 112)
"""CPU seconds of HaplotypeCaller for a megabase at 30x: 45 s for 1.9 Mb of simulated reads, to 61 h for a 20x genome
(Heldenbrand et al. 2019, BMC Bioinformatics 20:557) times 1.5."""
CALLER_START: Final = Range(3, 8)
"""Seconds of a nest before its first base: Java, reference, index of the reads."""

_LOCUS: Final = re.compile(r"(?P<contig>[^:\s@]+(?::[^:\s]+)*):(?P<start>\d{1,12})-(?P<end>\d{1,12})", re.ASCII)


class RateMalformed(BadInput):
    """{told!r} is no {what}. Give seconds, or a range of them: 90 or 60-120."""


@dataclass(frozen=True)
class Leaves:
    """What a nest leaves in ledger, bucket and logs.

    Attributes:
        units: write units of its row (and of its tail's).
        row_bytes: of these, in the table.
        puts, gets: calls to S3 by script and pilot.
        output_bytes: of a nest, where bases are not known or say nothing; None: not known.
        bytes_a_base: of its outputs, for each base of its loci; 0: they do not follow from bases.
        log_bytes: that go to CloudWatch Logs.
        basis: measured, learnt or assumed.
    """

    units: Range
    row_bytes: Range
    puts: Range
    gets: Range
    output_bytes: Range | None
    bytes_a_base: Range
    log_bytes: Range
    basis: str


CALLER_LEAVES: Final = Leaves(
    units=Range(2, 3),
    row_bytes=Range(1800, 2700),
    puts=exactly(4),
    gets=Range(8, 16),
    output_bytes=None,
    bytes_a_base=Range(1.2, 2.4),
    log_bytes=Range(1_000, 20_000),
    basis="measured",
)
"""HaplotypeCaller-1KG.sh: a row of 2.6 KB, 4 PUT, 12 GET and HEAD (docs/cohort.md); 1.22 bytes a base on simulated reads."""
OTHER_LEAVES: Final = Leaves(
    units=Range(1, 2),
    row_bytes=Range(400, 1400),
    puts=Range(0, 3),
    gets=Range(0, 6),
    output_bytes=None,
    bytes_a_base=exactly(0),
    log_bytes=Range(0, 5_000),
    basis="assumed",
)
"""Any other script: what it asks of S3 itself is not known before it has run."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a nest in its slot.

    Attributes:
        basis: learnt, given, measured; "": nothing is known, and no hours are told.
        source: of what, in words.
        nest: seconds of a nest whatever its value; or
        speed: seconds by bases, as `low` and `high`.
        leaves: None: what is known of the script.
        losses: seconds lost of those that were worked, as a share; None: not known.
    """

    basis: str = ""
    source: str = ""
    nest: Range | None = None
    speed: tuple[Speed, Speed] | None = None
    leaves: Leaves | None = None
    losses: Range | None = None

    def of_locus(self, locus: Locus) -> Range:
        """Seconds of a nest with this locus."""
        if self.speed is not None:
            low, high = (one.seconds(locus) for one in self.speed)
            return Range(min(low, high), max(low, high))
        return self.nest or NOTHING

    def of_bases(self, bases: int) -> Range:
        """Seconds of a nest of so many bases, wherever they lie."""
        if self.speed is not None:
            low, high = (one.fixed + one.rate * bases for one in self.speed)
            return Range(min(low, high), max(low, high))
        return self.nest or NOTHING


NO_PACE: Final = Pace()


def default_pace(slot_vcpus: float) -> Pace:
    """HaplotypeCaller as docs/cohort.md has it; a slot with less than a processor takes longer."""
    share = min(1.0, slot_vcpus)
    low, high = (
        Speed(start / share, seconds / MEGABASE / share)
        for start, seconds in zip(
            (CALLER_START.low, CALLER_START.high), (CALLER_SECONDS.low, CALLER_SECONDS.high), strict=True
        )
    )
    return Pace("measured", "HaplotypeCaller at 30x, 24–112 s of CPU a megabase (docs/cohort.md)", speed=(low, high))


def seconds_range(told: str, what: str) -> Range:
    """`90`, `60-120`, `1.5-2h`, `2m`: seconds as a range.

    Raises:
        RateMalformed: it is neither.
    """
    found = re.fullmatch(
        r"(?P<low>\d+(?:\.\d+)?)(?:-(?P<high>\d+(?:\.\d+)?))?\s*(?P<unit>s|m|min|h|)", told.strip(), re.ASCII
    )
    if found is None:
        raise RateMalformed(told=told, what=what)
    by = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}[found["unit"]]
    low, high = float(found["low"]) * by, float(found["high"] or found["low"]) * by
    if not 0 < low <= high < 1e9:
        raise RateMalformed(told=told, what=what)
    return Range(low, high)


def given_pace(nest: str = "", megabase: str = "") -> Pace:
    """A pace that the user gives: seconds of a nest, or of a megabase.

    Raises:
        RateMalformed: it is no number or range of seconds.
    """
    if nest:
        return Pace("given", f"{_told(nest)} a nest", nest=seconds_range(nest, "time of a nest"))
    rate = seconds_range(megabase, "time of a megabase")
    low, high = Speed(0, rate.low / MEGABASE), Speed(0, rate.high / MEGABASE)
    return Pace("given", f"{_told(megabase)} a megabase", speed=(low, high))


def _told(time: str) -> str:
    """A time as it was given; a bare number is of seconds."""
    return f"{time} s" if time.strip()[-1:].isdigit() else time


# ------------------------------------------------------------------------------------------------------ learning


@dataclass(frozen=True)
class Seen:
    """A nest that is done: what it was, took and left.

    Args:
        value: of its item's TaskArgs.
        bases: that it called, padding included; 0: not known.
        seconds: of its process, by the clock.
        outputs, output_bytes: what it recorded; None: not known.
        units, row_bytes: of its row in the ledger; None: not known.
        log_bytes: in CloudWatch Logs.
        item: that it is of; "": not known, and it counts as one of its own.
    """

    value: str
    seconds: float
    bases: int = 0
    outputs: int | None = None
    output_bytes: int | None = None
    units: int | None = None
    row_bytes: int | None = None
    log_bytes: int | None = None
    item: str = ""


@dataclass
class _Sums:
    count: int = 0
    figures: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    def add(self, name: str, value: float | None) -> None:
        if value is not None:
            self.figures.setdefault(name, []).append(value)

    def mean(self, name: str, otherwise: Range | None, spread: float) -> Range | None:
        told = self.figures.get(name)
        return spreading(fmean(told), spread) if told else otherwise


def spreading(value: float, spread: float) -> Range:
    return Range(value / (1 + spread), value * (1 + spread))


def uncertainty(count: int) -> float:
    """How far the next run may lie from what so many items showed: a tenth, more with few of them.

    Nests of one item are of the same sample, by the same depth, and ran on one machine: many of them are no more than one.
    """
    return max(0.1, 1 / math.sqrt(max(1, count)))


def learnt_pace(seen: Iterable[Seen], source: str, *, genomic: bool) -> Pace:
    """What these nests took and left, as a pace for others like them.

    With loci and bases, seconds follow from bases (speed.py); otherwise the mean holds for every nest.

    Raises:
        NothingLearnt: none is done and has a time.
    """
    sums, observed, all_located = _Sums(), list[Observation](), True
    items, alone = set[str](), 0
    for one in seen:
        sums.count += 1
        items.add(one.item)
        alone += not one.item
        sums.add("seconds", one.seconds)
        for name in ("outputs", "output_bytes", "units", "row_bytes", "log_bytes"):
            sums.add(name, getattr(one, name))
        locus = locus_of(one.value)
        bases = one.bases or (locus.bases if locus else 0)
        all_located = all_located and bases > 0
        if bases > 0:
            sums.add("a_base", one.output_bytes / bases if one.output_bytes is not None else None)
            observed.append(Observation(one.value, bases, one.seconds, locus))
    if not sums.count:
        raise NothingLearnt(source=source, reason="none is done and has a time")
    spread = uncertainty(len(items - {""}) + alone)
    leaves = _leaves(sums, spread, CALLER_LEAVES if genomic else OTHER_LEAVES, by_bases=all_located and genomic)
    named = f"{number_of(sums.count, 'nest')} of {source}"
    if observed and all_located and genomic:
        found = learn(observed, source)
        return Pace(
            "learnt", named, speed=(_scaled(found, 1 / (1 + spread)), _scaled(found, 1 + spread)), leaves=leaves
        )
    return Pace("learnt", named, nest=sums.mean("seconds", None, spread), leaves=leaves)


def _scaled(speed: Speed, by: float) -> Speed:
    local = {contig: [(a, b, rate * by) for a, b, rate in pieces] for contig, pieces in speed.local.items()}
    return Speed(speed.fixed * by, speed.rate * by, local, speed.nests, speed.source)


def _leaves(sums: _Sums, spread: float, known: Leaves, *, by_bases: bool) -> Leaves:
    """What was seen instead of what is known; calls to S3 follow from the number of outputs where nothing is known."""
    outputs = sums.mean("outputs", None, 0.0)
    puts, gets = known.puts, known.gets
    if outputs is not None and known is OTHER_LEAVES:
        # A PUT or a multipart upload of each output; a HEAD by the pilot, and a read where S3 keeps no SHA-256.
        puts, gets = outputs * Range(1, 2), outputs * Range(1, 3)
    a_base = sums.mean("a_base", None, spread) if by_bases else None
    return Leaves(
        units=sums.mean("units", known.units, 0.05) or known.units,
        row_bytes=sums.mean("row_bytes", known.row_bytes, 0.05) or known.row_bytes,
        puts=puts,
        gets=gets,
        output_bytes=sums.mean("output_bytes", known.output_bytes, spread),
        bytes_a_base=a_base or known.bytes_a_base,
        log_bytes=sums.mean("log_bytes", known.log_bytes, spread) or known.log_bytes,
        basis="learnt" if outputs is not None or "units" in sums.figures else known.basis,
    )


def seen_in(record: Mapping[str, Any]) -> Seen | None:
    """A row of exported results (`results export`), of `results list --json`, or of a rehearsal; None if it is not done."""
    status = record.get("status", record.get("outcome"))
    try:
        seconds = float(record.get("seconds") or 0)
        called = int(float(record.get("figures.called_bases") or 0))
    except (TypeError, ValueError):
        return None
    if status != "done" or not 0 < seconds < math.inf:
        return None
    return Seen(str(record.get("value") or ""), seconds, called, item=str(record.get("item") or ""))


# ---------------------------------------------------------------------------------------------------------- bases


@lru_cache(maxsize=65536)
def locus_of(value: str) -> Locus | None:
    """A value that is `contig:start-end`; None for any other. Whether there is such a contig is not asked."""
    found = _LOCUS.fullmatch(value.strip())
    if found is None:
        return None
    start, end = int(found["start"]), int(found["end"])
    return Locus(found["contig"], start, end) if 1 <= start <= end else None


class Bases:
    """How many bases a nest calls, by its value.

    Args:
        dictionary: the reference's contigs, for values that are whole contigs; None: they are not known.
        scripts: the folder below which @targets/… lie.
    """

    def __init__(self, dictionary: Dictionary | None = None, scripts: Path | None = None) -> None:
        self._dictionary, self._scripts = dictionary, scripts
        self._known: dict[str, int | None] = {}

    def of(self, value: str) -> int | None:
        """None: the value is no locus, or not known here."""
        if locus := locus_of(value):
            return locus.bases
        if value not in self._known:
            self._known[value] = self._look(value)
        return self._known[value]

    def _look(self, value: str) -> int | None:
        if value.startswith("@") and self._scripts is not None:
            return _bases_of_list(self._scripts / value[1:])
        if self._dictionary is not None and value in self._dictionary:
            return parse_locus(value, self._dictionary).bases
        return None


def _bases_of_list(path: Path) -> int | None:
    """What an interval list calls, each target with its padding; lists hold no two that touch."""
    from pyanamo_core.genomics.intervals import read_bed

    try:
        return sum(int(cells[2]) - int(cells[1]) + 2 * PADDING for _, cells in read_bed(path))
    except (TargetsInvalid, ValueError, IndexError):
        return None
