"""Loci and interval lists planned: a genome, or targets, cut into nests of about one size, in bases or in seconds.

Edges fall into runs of N first, and always on the borders of the pseudoautosomal regions, where ploidy changes; only a
longer stretch is cut, into equal parts. Targets are never cut unless one alone is too big, and a list ends where no
two targets share called bases, so that lists together call what one call of all targets calls.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyanamo_core.errors import LocusInvalid
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.intervals import MITOCHONDRIAL, PRIMARY, Dictionary, Locus, suggestion
from pyanamo_core.genomics.speed import PADDING, Speed

MIN_GAP_BASES = 50  # shorter runs of N do not end a locus
TARGET_BASES = 5_000_000
MOST_LISTS = 200
SEX_CHROMOSOMES = ("X", "Y", "Z", "W")

Borders = Mapping[str, Sequence[int]]
"""Contig to the places (0-based) at which ploidy changes for somebody: always edges."""


@dataclass(frozen=True)
class Planned:
    """A nest to be: its value, what it covers and calls; `targets` is 0 for a locus.

    Args:
        value: a locus, or @targets/0001.bed.
        loci: what is to be covered (of a list: its targets).
        called: bases that are called, padding included.
        seconds: what it should take, if a speed is known.
    """

    value: str
    loci: tuple[Locus, ...] = field(repr=False)
    called: int
    seconds: float | None = None

    @property
    def bases(self) -> int:
        return sum(x.bases for x in self.loci)

    @property
    def targets(self) -> int:
        return len(self.loci) if self.value.startswith("@") else 0

    @property
    def place(self) -> str:
        """From its first base to its last."""
        first, last = self.loci[0], self.loci[-1]
        if first.contig == last.contig:
            return f"{first.contig}:{first.start}-{last.end}"
        return f"{first.contig}:{first.start} to {last.contig}:{last.end}"


def primary_contigs(dictionary: Dictionary, *, mitochondria: bool = False) -> list[str]:
    """The chromosomes of a genome, without alternates, decoys and HLA; every contig where none is named as one."""
    chosen = [name for name in dictionary if PRIMARY.fullmatch(name)]
    if not chosen:
        return [name for name in dictionary if mitochondria or name not in MITOCHONDRIAL]
    return chosen + [name for name in dictionary if mitochondria and name in MITOCHONDRIAL]


def chosen_contigs(dictionary: Dictionary, contigs: Sequence[str] | None, *, mitochondria: bool = False) -> list[str]:
    """The contigs that were asked for, default: `primary_contigs`.

    Raises:
        LocusInvalid: the reference has no such contig.
    """
    if contigs is None:
        return primary_contigs(dictionary, mitochondria=mitochondria)
    unknown = next((x for x in contigs if x not in dictionary), None)
    if unknown is not None:
        reason = f"the reference has no such contig{suggestion(unknown, dictionary)}"
        raise LocusInvalid(locus=unknown, reason=reason)
    return list(contigs)


# ---------------------------------------------------------------------------------------------------------------- loci


def plan_loci(
    dictionary: Dictionary,
    *,
    target_bases: int = TARGET_BASES,
    fasta: Path | None = None,
    gaps: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    borders: Borders | None = None,
    contigs: Sequence[str] | None = None,
    min_gap: int = MIN_GAP_BASES,
    mitochondria: bool = False,
    speed: Speed | None = None,
    target_seconds: float | None = None,
    padding: int = PADDING,
) -> list[Locus]:
    """Loci that cover the contigs except their runs of N, in the reference's order, each of at most `target_bases`.

    Args:
        fasta: where to look for runs of N; or
        gaps: contig to gaps (0-based, half-open), as `read_gaps` or a shipped genome gives.
        borders: further edges (a genome's `borders`: its PAR).
        contigs: default: `primary_contigs`.
        speed, target_seconds: cut by time instead of bases.

    Raises:
        LocusInvalid: no such contig. TimeTooShort: `target_seconds` is less than a nest's start-up.
    """
    target = speed.target(target_seconds, padding) if speed is not None and target_seconds is not None else None
    loci: list[Locus] = []
    for contig in chosen_contigs(dictionary, contigs, mitochondria=mitochondria):
        holes = list(gaps.get(contig, ())) if gaps is not None else []
        if fasta is not None:
            holes += _runs_of_n(fasta, contig, min_gap)
        stretches = outside(holes, dictionary.length(contig), min_gap)
        for begin, end in split_at(stretches, (borders or {}).get(contig, ())):
            if target is not None and speed is not None:
                edges = speed.edges(contig, begin, end, target)
            else:
                edges = _equal_edges(begin, end, -(-(end - begin) // target_bases))
            loci += [Locus(contig, a + 1, b) for a, b in itertools.pairwise(edges)]
    return loci


def planned_loci(
    loci: Iterable[Locus], dictionary: Dictionary, speed: Speed | None = None, padding: int = PADDING
) -> list[Planned]:
    """Loci as nests."""
    return [
        Planned(
            str(x),
            (x,),
            x.padded(padding, dictionary.length(x.contig)).bases,
            None if speed is None else speed.seconds(x, padding),
        )
        for x in loci
    ]


def _equal_edges(begin: int, end: int, parts: int) -> list[int]:
    return [begin + (end - begin) * i // parts for i in range(parts + 1)]


def _runs_of_n(fasta: Path, contig: str, min_gap: int) -> list[tuple[int, int]]:
    with require_pysam().FastaFile(str(fasta)) as reference:
        bases: str = reference.fetch(contig)
    return [m.span() for m in re.finditer(f"[Nn]{{{min_gap},}}", bases)]


def outside(holes: Iterable[tuple[int, int]], length: int, min_gap: int = 1) -> Iterator[tuple[int, int]]:
    """What is left of 0 … length (half-open) outside the holes."""
    at = 0
    for begin, end in sorted(h for h in holes if h[1] - h[0] >= min_gap):
        if begin > at:
            yield at, begin
        at = max(at, end)
    if at < length:
        yield at, length


def split_at(stretches: Iterable[tuple[int, int]], places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The stretches (half-open), cut at these places."""
    for begin, end in stretches:
        edges = [begin, *sorted(x for x in set(places) if begin < x < end), end]
        yield from itertools.pairwise(edges)


# ------------------------------------------------------------------------------------------------------------- targets


@dataclass
class _Cluster:
    """Targets whose padded intervals touch: called as one interval, and never cut unless too big."""

    targets: list[Locus]
    begin: int
    end: int
    cost: float


def plan_targets(
    targets: Sequence[Locus],
    dictionary: Dictionary,
    *,
    target_bases: int = TARGET_BASES,
    borders: Borders | None = None,
    most: int = MOST_LISTS,
    speed: Speed | None = None,
    target_seconds: float | None = None,
    padding: int = PADDING,
    folder: str = "targets",
) -> list[Planned]:
    """Interval lists of targets, in the reference's order, each of about `target_bases` called bases (or seconds).

    Targets are padded and merged before they are counted, as they are called. Autosomes, each stretch of a sex
    chromosome between borders, and mitochondria have lists of their own: a list has one ploidy.

    Args:
        targets: sorted in the reference's order, disjoint (`read_targets`).
        most: never more lists than this; they become bigger instead.

    Raises:
        TimeTooShort: `target_seconds` is less than a nest's start-up.
    """
    if speed is not None and target_seconds is not None:
        limit = speed.target(target_seconds, padding=0)
    else:
        limit = float(target_bases)

    def cost(contig: str, begin: int, end: int) -> float:
        return speed.cost(contig, begin, end) if speed is not None and target_seconds is not None else end - begin

    classes = _by_ploidy(_cut_at_borders(targets, borders or {}), borders or {})
    clusters = [_clusters(group, dictionary, borders or {}, padding, limit, cost) for group in classes]
    costs = [sum(c.cost for c in group) for group in clusters]
    # One list at least for each class; what is left of `most` bounds the rest.
    limit = max(limit, sum(costs) / max(1, most - len(classes)))
    lists = [
        part
        for group, whole in zip(clusters, costs, strict=True)
        for part in _packed(group, max(1, math.ceil(whole / limit - 1e-9)))
    ]
    digits = max(4, len(str(len(lists))))
    planned: list[Planned] = []
    for number, part in enumerate(lists, 1):
        loci = tuple(x for c in part for x in c.targets)
        seconds = None
        if speed is not None:
            seconds = speed.fixed + sum(speed.cost(c.targets[0].contig, c.begin, c.end) for c in part)
        called = sum(c.end - c.begin for c in part)
        planned.append(Planned(f"@{folder}/{number:0{digits}d}.bed", loci, called, seconds))
    return planned


def _cut_at_borders(targets: Iterable[Locus], borders: Borders) -> Iterator[Locus]:
    for x in targets:
        for begin, end in split_at([(x.start - 1, x.end)], borders.get(x.contig, ())):
            yield Locus(x.contig, begin + 1, end)


def _by_ploidy(targets: Iterable[Locus], borders: Borders) -> list[list[Locus]]:
    """Targets in groups that have one ploidy in everybody."""

    def key(x: Locus) -> tuple[str, int]:
        sexual = x.contig.removeprefix("chr") in SEX_CHROMOSOMES or x.contig in MITOCHONDRIAL or x.contig in borders
        return (x.contig, sum(b < x.start for b in borders.get(x.contig, ()))) if sexual else ("", 0)

    return [list(group) for _, group in itertools.groupby(targets, key=key)]


def _clusters(
    targets: Sequence[Locus],
    dictionary: Dictionary,
    borders: Borders,
    padding: int,
    limit: float,
    cost: Callable[[str, int, int], float],
) -> list[_Cluster]:
    found: list[_Cluster] = []
    for whole in targets:
        low, high = _stretch(whole, dictionary, borders)
        for x in _cut(whole, limit, cost):
            begin, end = max(low, x.start - 1 - padding), min(high, x.end + padding)
            last = found[-1] if found else None
            if last is not None and last.targets[-1].contig == x.contig and begin <= last.end:
                wide = max(last.end, end)
                if cost(x.contig, last.begin, wide) <= limit:
                    last.targets.append(x)
                    last.cost += cost(x.contig, last.end, wide)
                    last.end = wide
                    continue
            found.append(_Cluster([x], begin, end, cost(x.contig, begin, end)))
    return found


def _stretch(x: Locus, dictionary: Dictionary, borders: Borders) -> tuple[int, int]:
    """Between the borders around a locus (0-based, half-open): padding does not cross them."""
    places = borders.get(x.contig, ())
    low = max([0, *(b for b in places if b < x.start)])
    return low, min([dictionary.length(x.contig), *(b for b in places if b >= x.end)])


def _cut(x: Locus, limit: float, cost: Callable[[str, int, int], float]) -> Iterator[Locus]:
    """A target in parts that are each below the limit: most targets as they are."""
    parts = max(1, math.ceil(cost(x.contig, x.start - 1, x.end) / limit - 1e-9))
    for a, b in itertools.pairwise(_equal_edges(x.start - 1, x.end, parts)):
        yield Locus(x.contig, a + 1, b)


def _packed(clusters: Sequence[_Cluster], parts: int) -> list[list[_Cluster]]:
    """Clusters in their order in at most so many lists of about the same cost."""
    whole = sum(c.cost for c in clusters)
    packed: list[list[_Cluster]] = [[]]
    done = 0.0
    for cluster in clusters:
        # A list ends where its share of the whole is reached, be it by half of the next cluster.
        if packed[-1] and len(packed) < parts and done + cluster.cost / 2 > whole * len(packed) / parts:
            packed.append([])
        packed[-1].append(cluster)
        done += cluster.cost
    return [x for x in packed if x]
