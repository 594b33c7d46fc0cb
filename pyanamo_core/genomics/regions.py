"""Regions of a joint call: cut from what the gathered gVCFs cover, and what each of them is made from.

A region's **content** is a digest over the samples and the locus files that touch it. It names no address and no fence
of the gathered files, so a region is called again exactly if a locus file near it changed, or a sample came or went.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyanamo_core.errors import CohortRefused
from pyanamo_core.genomics.coverage import Covered
from pyanamo_core.genomics.intervals import Dictionary, Locus, merge

REGION_BASES = 5_000_000
SLICE_BASES = 2_000_000_000
"""Bases times samples that one region holds on local disk: about one byte each (a 30x gVCF has 3 GB for 3 Gb)."""
MAX_TARGETS = 5000
LEAD_IN = 1000


@dataclass(frozen=True)
class Region:
    """Intervals of one contig, called together; its name is its item."""

    name: str
    loci: tuple[Locus, ...]


def default_bases(samples: int) -> int:
    """Bases of a region: 5 Mb, fewer where more than 400 samples would fill the disk of a pilot."""
    return max(50_000, min(REGION_BASES, SLICE_BASES // max(1, samples)))


def lead_in(longest: int) -> int:
    """Bases before a region from which it is read: 1,000, doubled until the longest deletion fits.

    In steps, so that one longer deletion does not make every region another one.
    """
    lead = LEAD_IN
    while lead < longest:
        lead *= 2
    return lead


def cut_regions(covered: Sequence[Locus], region_bases: int) -> list[Region]:
    """Regions of at most `region_bases`: long intervals in equal parts, short ones (targets) together.

    Args:
        covered: merged, in the reference's order.
    """
    pieces: list[Locus] = []
    for locus in covered:
        parts = -(-locus.bases // region_bases)
        edges = [locus.start + locus.bases * i // parts for i in range(parts + 1)]
        pieces += [Locus(locus.contig, a, b - 1) for a, b in itertools.pairwise(edges)]
    regions: list[Region] = []
    group: list[Locus] = []
    bases = 0  # of the group: adding it up anew for each of 200,000 targets takes minutes
    for piece in pieces:
        full = bases + piece.bases > region_bases or len(group) >= MAX_TARGETS
        if group and (full or group[0].contig != piece.contig):
            regions.append(_region(group))
            group, bases = [], 0
        group.append(piece)
        bases += piece.bases
    if group:
        regions.append(_region(group))
    return regions


def chosen_regions(wanted: Sequence[Locus], covered: Sequence[Locus], dictionary: Dictionary) -> list[Region]:
    """A region for each locus asked for, as far as it is covered.

    Raises:
        CohortRefused: two overlap, or nothing of one is gathered.
    """
    ordered = sorted(wanted, key=lambda x: (dictionary.rank()[x.contig], x.start))
    regions: list[Region] = []
    for number, locus in enumerate(ordered):
        if number and ordered[number - 1].overlaps(locus):
            raise CohortRefused(
                reason=f"the regions {ordered[number - 1]} and {locus} overlap: a record could come twice"
            )
        parts = [
            Locus(x.contig, max(x.start, locus.start), min(x.end, locus.end)) for x in covered if x.overlaps(locus)
        ]
        if not parts:
            raise CohortRefused(reason=f"nothing of {locus} is gathered")
        regions.append(_region(parts))
    return regions


def merged_regions(regions: Sequence[Region]) -> list[Locus]:
    """What regions in the reference's order cover together; those that touch are one."""
    merged: list[Locus] = []
    for locus in (x for region in regions for x in region.loci):
        last = merged[-1] if merged else None
        if last is not None and last.contig == locus.contig and locus.start == last.end + 1:
            merged[-1] = Locus(last.contig, last.start, locus.end)
        else:
            merged.append(locus)
    return merged


def _region(loci: Sequence[Locus]) -> Region:
    return Region(Locus(loci[0].contig, loci[0].start, loci[-1].end).file_stem, tuple(loci))


class Union:
    """What several gathered gVCFs cover together; lists of loci that were seen before cost nothing."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._names: dict[bytes, str] = {}
        self._first: dict[str, str] = {}
        self.sets: dict[str, list[Locus]] = {}
        """Merged loci by the name of the set: what members cover, most of them the same."""
        self.covered: list[Locus] = []

    def add(self, sample: str, loci: Iterable[Locus]) -> str:
        """Add what a sample covers; gives the name of its set.

        Raises:
            CohortRefused: a contig that the reference does not have.
        """
        loci = list(loci)
        digest = hashlib.blake2b("\n".join(map(str, loci)).encode(), digest_size=16).digest()
        if digest not in self._names:
            strange = next((x for x in loci if x.contig not in self._dictionary), None)
            if strange is not None:
                raise CohortRefused(reason=f"sample {sample}: the reference has no contig of {strange}")
            merged = merge(loci, self._dictionary)
            name = hashlib.sha256("\n".join(map(str, merged)).encode()).hexdigest()[:12]
            self._names[digest] = name
            self._first.setdefault(name, sample)
            if name not in self.sets:
                self.sets[name] = merged
                self.covered = merge([*self.covered, *merged], self._dictionary)
        return self._names[digest]

    def refuse_uneven(self, wanted: Sequence[Locus]) -> None:
        """Every sample must cover all that is called.

        Raises:
            CohortRefused: one does not; it would be ./. there, as if it had been looked at.
        """
        for name, loci in self.sets.items():
            check = Covered(wanted)
            for locus in loci:
                check.saw(locus.contig, locus.start, locus.end)
            holes = check.finish()
            if holes:
                raise CohortRefused(
                    reason=f"sample {self._first[name]} covers nothing of {holes[0]}, which others do: it would have no"
                    " genotypes there. Call what all have (--locus), or all the same: --partial"
                )


class Contents:
    """The digest of what each region is made from; samples are added one by one, in their order."""

    def __init__(self, regions: Sequence[Region], lead: int) -> None:
        self._hashes = [hashlib.sha256() for _ in regions]
        self._starts: dict[str, list[int]] = {}
        self._ends: dict[str, list[int]] = {}
        self._numbers: dict[str, list[int]] = {}
        for number, region in enumerate(regions):
            contig = region.loci[0].contig
            self._starts.setdefault(contig, []).append(region.loci[0].start - lead)
            self._ends.setdefault(contig, []).append(region.loci[-1].end)
            self._numbers.setdefault(contig, []).append(number)

    def add(self, sample: str, files: Iterable[tuple[Sequence[Locus], str]]) -> None:
        """Add a sample: for each of its locus files the loci and the SHA-256."""
        touched: dict[int, list[str]] = {}
        for loci, sha256 in files:
            mine = {number for locus in loci for number in self._touched(locus)}
            for number in mine:
                touched.setdefault(number, []).append(sha256)
        for number, digest in enumerate(self._hashes):
            digest.update(f"{sample}\t{','.join(touched.get(number, ()))}\n".encode())

    def _touched(self, locus: Locus) -> Iterable[int]:
        starts, ends = self._starts.get(locus.contig, []), self._ends.get(locus.contig, [])
        first = bisect.bisect_left(ends, locus.start)
        behind = bisect.bisect_right(starts, locus.end)
        return self._numbers.get(locus.contig, [])[first:behind]

    def digests(self) -> list[str]:
        return [digest.hexdigest() for digest in self._hashes]
