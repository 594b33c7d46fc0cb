"""Quality of samples and loci, folded from the nests' figures as they pass by.

A nest of calling records sums (bases, depth, calls) of each of its gVCFs; means over a sample follow from these, weighted
by bases, without rounding and without the files. What is kept is a few hundred numbers per sample and a dozen per locus,
whatever the number of nests. Bounds make flags, never failures: what must not be wrong (a base under no record) is
refused before a nest is done.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from pyanamo_core.genomics.intervals import MITOCHONDRIAL
from pyanamo_core.report.figures import contigs
from pyanamo_core.report.results import Result

MIN_CALLS = 500
"""Calls below which a ratio says little: with 500 a het/hom of 1.6 is still anything from 1.34 to 1.93 (95 %)."""
MIN_SEX_BASES = 5_000
MIN_SEX_DEPTH = 5.0
ONE_X, TWO_X = (0.6, 1.4), (1.6, 2.4)
NO_Y, SOME_Y = 0.15, 0.3
"""Copies of X and Y (twice their depth over the autosomes'). Y has room below 1: much of it is repeats, where reads of
mapping quality 0 count for nothing."""
MAX_LOCI = 20_000

COUNTS = ("bases", "bases_missing", "variants", "snv", "indel", "ts", "tv", "het", "hom", "haploid", "multiallelic")
_SUMS = ("depth_sum", "depth_bases", "callable_bases", "block_bases", "par_depth_sum", "par_bases")


@dataclass(frozen=True)
class Bounds:
    """From … to, both included; outside is flagged. Ratios only of `min_calls` calls or more."""

    titv: tuple[float, float]
    het_hom: tuple[float, float]
    mean_depth: tuple[float, float]
    callable_fraction: tuple[float, float]
    min_calls: int = MIN_CALLS


GENOME = Bounds(titv=(1.9, 2.2), het_hom=(1.3, 2.2), mean_depth=(20, 50), callable_fraction=(0.9, 1))
"""Of a genome at 30x. Het/hom differs by ancestry, from 1.4 in East Asia to 2.0 in Africa (Wang et al. 2015,
Bioinformatics 31:318), Ti/Tv by region of the genome."""
TARGETS = replace(GENOME, titv=(2.4, 3.4), mean_depth=(20, 300))
"""Of targets: coding sequence has more transitions, and captures are deeper."""


@dataclass(frozen=True)
class Flag:
    """A figure out of its bounds, and why that matters."""

    name: str
    text: str


@dataclass(frozen=True)
class SampleQc:
    """A sample's figures over all of its recorded nests.

    Depth and callable fraction are the autosomes' (of all contigs, where there is nothing but X, Y and mitochondria);
    counts are of everything that was called. None: cannot be told.
    """

    sample: str
    items: tuple[str, ...]
    nests: int
    nests_done: int
    sex: str
    """As declared: male, female or unknown."""
    depth_says: str
    """male, female, XXY, X0 or unclear, from the depth of X and Y; empty: they were not called."""
    x_copies: float | None
    y_copies: float | None
    bases: int
    bases_missing: int
    variants: int
    snv: int
    indel: int
    titv: float | None
    het: int
    hom: int
    haploid: int
    het_hom: float | None
    multiallelic: int
    mean_depth: float | None
    callable_fraction: float | None
    flags: tuple[Flag, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"items": list(self.items), "flags": [asdict(one) for one in self.flags]}


@dataclass(frozen=True)
class LocusQc:
    """A locus (or interval list) over all samples. `relative_depth` is to each sample's own mean."""

    locus: str
    samples: int
    bases: int
    variants: int
    mean_depth: float | None
    relative_depth: float | None
    lowest_relative_depth: float | None
    callable_fraction: float | None
    lowest_callable: float | None
    lowest_sample: str
    """Whose callable fraction is the lowest."""
    seconds: float | None
    """Mean time of the nests."""


class QcFold:
    """Takes results row by row, those of an item together, and tells the figures of samples and loci.

    Rows that no caller of variants made pass without a trace.
    """

    def __init__(self, bounds: Bounds | None = None, max_loci: int = MAX_LOCI) -> None:
        self._bounds = bounds
        self._max_loci = max_loci
        self._contigs: dict[str, int] = {}
        self._samples: dict[str, _Sample] = {}
        self._loci: dict[str, _Locus] = {}
        self._item = _Item("")
        self._targets = False
        self.loci_left_out = 0

    def passing(self, rows: Iterable[Result]) -> Iterator[Result]:
        """The rows, taken as they pass."""
        for row in rows:
            self.take(row)
            yield row

    def take(self, row: Result) -> None:
        """Count one nest. The nests of an item must follow each other."""
        if row.item_id != self._item.item_id:
            self._close()
            self._item = _Item(row.item_id)
        self._item.nests += 1
        gvcfs = row.figures.get("gvcfs") if row.status == "done" else None
        if not isinstance(gvcfs, list):
            return
        self._item.done += 1
        self._item.sample = str(row.figures.get("sample") or self._item.sample)
        self._item.sex = str(row.figures.get("sex") or self._item.sex)
        for gvcf in cast("list[Any]", gvcfs):
            if isinstance(gvcf, Mapping):
                self._count(cast("Mapping[str, Any]", gvcf), row)

    def samples(self) -> list[SampleQc]:
        """Every sample so far, by name."""
        self._close()
        bounds = self.bounds
        return [self._judged(name, self._samples[name], bounds) for name in sorted(self._samples)]

    def loci(self) -> list[LocusQc]:
        """Every locus so far, in the order in which they were met."""
        self._close()
        return [one.told(name) for name, one in self._loci.items()]

    def relative_depths(self) -> tuple[list[str], dict[str, list[float | None]]]:
        """Contigs in the order in which they were met, and each sample's depth there over that of its autosomes."""
        self._close()
        told: dict[str, list[float | None]] = {}
        for name in sorted(self._samples):
            depth = self._depth(self._samples[name])
            told[name] = [
                _ratio(_mean(self._samples[name].of(number), par=False), depth, 3) for number in self._contigs.values()
            ]
        return list(self._contigs), told

    @property
    def bounds(self) -> Bounds:
        """Those given, else the targets' if interval lists were called, else the genome's."""
        return self._bounds or (TARGETS if self._targets else GENOME)

    def judged_by(self, bounds: Bounds) -> QcFold:
        """This fold, by these bounds from now on."""
        self._bounds = bounds
        return self

    def _count(self, gvcf: Mapping[str, Any], row: Result) -> None:
        item, value = self._item, str(gvcf.get("value") or row.value)
        self._targets = self._targets or value.startswith("@")
        found = contigs(gvcf)
        for name in COUNTS:
            item.counts[name] = item.counts.get(name, 0) + int(gvcf.get(name) or 0)
        total = [0.0] * len(_SUMS)
        for contig, sums in found.items():
            number = self._contigs.setdefault(contig, len(self._contigs))
            here = item.sums.setdefault(number, [0.0] * len(_SUMS))
            for place, name in enumerate(_SUMS):
                here[place] += sums.get(name, 0)
                total[place] += sums.get(name, 0)
        bases, variants = int(gvcf.get("bases") or 0), int(gvcf.get("variants") or 0)
        item.loci.append(_Passed(value, bases, variants, total, row.seconds))

    def _close(self) -> None:
        """Add the item that has passed to its sample and to its loci."""
        item, self._item = self._item, _Item("")
        if not item.done:
            return
        sample = self._samples.setdefault(item.sample or item.item_id, _Sample())
        sample.add(item)
        depth = _mean(_added(one for number, one in item.sums.items() if number in self._autosomes(item.sums)))
        for one in item.loci:
            locus = self._loci.get(one.locus)
            if locus is None:
                if len(self._loci) >= self._max_loci:
                    self.loci_left_out += 1
                    continue
                locus = self._loci[one.locus] = _Locus(one.bases)
            locus.add(item.sample or item.item_id, one, depth)

    def _autosomes(self, numbers: Iterable[int]) -> set[int]:
        kinds = {number: kind(contig) for contig, number in self._contigs.items()}
        numbers = list(numbers)
        return {n for n in numbers if kinds[n] == ""} or set(numbers)

    def _depth(self, sample: _Sample) -> float | None:
        return _mean(_added(sample.of(number) for number in self._autosomes(sample.numbers())))

    def _judged(self, name: str, sample: _Sample, bounds: Bounds) -> SampleQc:
        autosomes = _added(sample.of(number) for number in self._autosomes(sample.numbers()))
        depth, counts = _mean(autosomes), sample.counts
        copies = {which: self._copies(sample, which) for which in ("X", "Y")}
        told = SampleQc(
            sample=name,
            items=tuple(sample.items),
            nests=sample.nests,
            nests_done=sample.done,
            sex=sample.sex or "unknown",
            depth_says=sex_by_depth(copies["X"], copies["Y"]),
            x_copies=copies["X"],
            y_copies=copies["Y"],
            titv=_ratio(counts["ts"], counts["tv"], 3),
            het_hom=_ratio(counts["het"], counts["hom"], 3),
            mean_depth=None if depth is None else round(depth, 2),
            callable_fraction=_ratio(autosomes[2], autosomes[3], 4),
            **cast("dict[str, Any]", {one: counts[one] for one in COUNTS if one not in ("ts", "tv")}),
        )
        return replace(told, flags=tuple(flags(told, bounds)))

    def _copies(self, sample: _Sample, which: str) -> float | None:
        """Twice the depth of X or Y outside PAR over that of the autosomes; None where there is too little of either."""
        sexual = _added(sample.of(n) for contig, n in self._contigs.items() if kind(contig) == which)
        autosomal = _added(sample.of(n) for contig, n in self._contigs.items() if not kind(contig))
        depth = _mean(autosomal)
        if depth is None or depth < MIN_SEX_DEPTH:
            return None
        if min(sexual[1] - sexual[5], autosomal[1]) < MIN_SEX_BASES:
            return None
        return _ratio(2 * (_mean(sexual, par=False) or 0.0), depth, 2)


def kind(contig: str) -> str:
    """X, Y or M; empty for all other contigs."""
    if contig in MITOCHONDRIAL:
        return "M"
    name = contig.removeprefix("chr")
    return name if name in ("X", "Y") else ""


def sex_by_depth(x_copies: float | None, y_copies: float | None) -> str:
    """What the depth of X and Y says: male, female, XXY, X0 or unclear; nothing where neither was called.

    A female's Y is not called at all (ploidy 0), so X alone decides where Y is None.
    """
    if x_copies is None and y_copies is None:
        return ""
    some_y = None if y_copies is None or NO_Y < y_copies < SOME_Y else y_copies >= SOME_Y
    if y_copies is not None and some_y is None:
        return "unclear"
    if x_copies is None:
        return "male" if some_y else "female"
    if ONE_X[0] <= x_copies <= ONE_X[1]:
        return "X0" if some_y is False else "male"
    if TWO_X[0] <= x_copies <= TWO_X[1]:
        return "XXY" if some_y else "female"
    return "unclear"


def flags(sample: SampleQc, bounds: Bounds) -> Iterator[Flag]:
    """What is out of bounds, the gravest first."""
    if sample.bases_missing:
        yield Flag("bases_missing", f"{sample.bases_missing:,} bases stand under no record")
    if sample.nests_done < sample.nests:
        yield Flag("incomplete", f"{sample.nests - sample.nests_done:,} of {sample.nests:,} nests are not done")
    if sample.depth_says and (sample.depth_says not in ("male", "female") or _contradicts(sample)):
        y = "Y not called" if sample.y_copies is None else f"Y {sample.y_copies:.2f}"
        x = "X not called" if sample.x_copies is None else f"X {sample.x_copies:.2f}"
        yield Flag("sex", f"declared {sample.sex}, depth says {sample.depth_says} (copies: {x}, {y})")
    for name, label in (("mean_depth", "depth"), ("callable_fraction", "callable")):
        yield from _outside(name, label, getattr(sample, name), getattr(bounds, name))
    if sample.snv >= bounds.min_calls:
        yield from _outside("titv", "Ti/Tv", sample.titv, bounds.titv)
    if sample.het + sample.hom >= bounds.min_calls:
        yield from _outside("het_hom", "het/hom", sample.het_hom, bounds.het_hom)


def _contradicts(sample: SampleQc) -> bool:
    return sample.sex in ("male", "female") and sample.sex != sample.depth_says


def _outside(name: str, label: str, value: float | None, allowed: tuple[float, float]) -> Iterator[Flag]:
    low, high = allowed
    if value is None:
        return
    if value < low:
        yield Flag(name, f"{label} {value:g} is below {low:g}")
    elif value > high:
        yield Flag(name, f"{label} {value:g} is above {high:g}")


# ------------------------------------------------------------------------------------------------------------ the sums


@dataclass(frozen=True, slots=True)
class _Passed:
    """A locus of the item that passes; `sums` as of _SUMS, over its contigs."""

    locus: str
    bases: int
    variants: int
    sums: list[float]
    seconds: float | None


@dataclass
class _Item:
    """The item that passes."""

    item_id: str
    sample: str = ""
    sex: str = ""
    nests: int = 0
    done: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])
    sums: dict[int, list[float]] = field(default_factory=dict[int, list[float]])
    loci: list[_Passed] = field(default_factory=list["_Passed"])


class _Sample:
    """Sums of a sample; those of contig `n` stand from n × len(_SUMS) on."""

    __slots__ = ("counts", "done", "items", "nests", "sex", "sums")

    def __init__(self) -> None:
        self.items: list[str] = []
        self.sex = ""
        self.nests = self.done = 0
        self.counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
        self.sums = array("d")

    def add(self, item: _Item) -> None:
        self.items.append(item.item_id)
        self.sex = item.sex or self.sex
        self.nests += item.nests
        self.done += item.done
        for name, count in item.counts.items():
            self.counts[name] += count
        for number, sums in item.sums.items():
            missing = (number + 1) * len(_SUMS) - len(self.sums)
            self.sums.extend([0.0] * max(0, missing))
            for place, value in enumerate(sums):
                self.sums[number * len(_SUMS) + place] += value

    def numbers(self) -> range:
        return range(len(self.sums) // len(_SUMS))

    def of(self, number: int) -> Sequence[float]:
        return self.sums[number * len(_SUMS) : (number + 1) * len(_SUMS)] or [0.0] * len(_SUMS)


class _Locus:
    """Sums of a locus over samples."""

    __slots__ = ("bases", "callable", "depth", "lowest", "relative", "samples", "seconds", "variants")

    def __init__(self, bases: int) -> None:
        self.bases = bases
        self.samples = self.variants = 0
        self.depth, self.relative, self.callable, self.seconds = _Moments(), _Moments(), _Moments(), _Moments()
        self.lowest = ""

    def add(self, sample: str, passed: _Passed, depth: float | None) -> None:
        self.samples += 1
        self.variants += passed.variants
        self.depth.add(_mean(passed.sums))
        self.relative.add(_ratio(_mean(passed.sums), depth, 4))
        share = _ratio(passed.sums[2], passed.sums[3], 4)
        if share is not None and share < self.callable.lowest:
            self.lowest = sample
        self.callable.add(share)
        self.seconds.add(passed.seconds)

    def told(self, name: str) -> LocusQc:
        return LocusQc(
            locus=name,
            samples=self.samples,
            bases=self.bases,
            variants=self.variants,
            mean_depth=self.depth.mean(2),
            relative_depth=self.relative.mean(3),
            lowest_relative_depth=self.relative.least(3),
            callable_fraction=self.callable.mean(4),
            lowest_callable=self.callable.least(4),
            lowest_sample=self.lowest,
            seconds=self.seconds.mean(2),
        )


class _Moments:
    """Mean and minimum of what was added."""

    __slots__ = ("count", "lowest", "total")

    def __init__(self) -> None:
        self.count, self.total, self.lowest = 0, 0.0, math.inf

    def add(self, value: float | None) -> None:
        if value is not None:
            self.count += 1
            self.total += value
            self.lowest = min(self.lowest, value)

    def mean(self, digits: int) -> float | None:
        return round(self.total / self.count, digits) if self.count else None

    def least(self, digits: int) -> float | None:
        return round(self.lowest, digits) if self.count else None


def _added(parts: Iterable[Sequence[float]]) -> list[float]:
    total = [0.0] * len(_SUMS)
    for part in parts:
        for place, value in enumerate(part):
            total[place] += value
    return total


def _mean(sums: Sequence[float], *, par: bool = True) -> float | None:
    """Mean depth of some sums, without their pseudoautosomal bases if `par` is false."""
    depth, bases = (sums[0], sums[1]) if par else (sums[0] - sums[4], sums[1] - sums[5])
    return depth / bases if bases > 0 else None


def _ratio(one: float | None, other: float | None, digits: int) -> float | None:
    return round(one / other, digits) if one is not None and other else None
