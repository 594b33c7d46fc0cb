"""Read pairs from the two haplotypes of a simulated sample, with qualities, errors and true alignments."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyanamo_core.genomics.extras import require_pysam

# Four quality bins as current sequencers write them, with their error rates.
ERROR_RATE = {37: 10**-3.4, 23: 10**-2.3, 12: 10**-1.2, 2: 0.5}
FRAGMENT_MEAN, FRAGMENT_SD = 420, 60
_OTHER = {"A": "CGT", "C": "AGT", "G": "ACT", "T": "ACG", "N": "ACGT"}


@dataclass(frozen=True)
class Variant:
    """A change at `offset` (0-based in the contig's window) with its allele frequency."""

    offset: int
    ref: str
    alt: str
    frequency: float


Genotype = tuple[int, ...]
"""Alleles of the first and the second haplotype; one where the sample is haploid, none where it lacks the contig."""
Carried = dict[str, dict[str, list[tuple[Variant, Genotype]]]]


@dataclass(frozen=True)
class Block:
    """A stretch of a haplotype: from the reference (`M`) or inserted (`I`); 0-based starts, length in bases."""

    haplotype_start: int
    reference_start: int
    length: int
    kind: str


@dataclass(frozen=True)
class End:
    """One read of a pair: 0-based place in the window, CIGAR tuples, bases and qualities on the forward strand."""

    start: int
    cigar: list[tuple[int, int]]
    bases: str
    qualities: list[int]
    reverse: bool

    @property
    def stop(self) -> int:
        return self.start + sum(n for op, n in self.cigar if op in (0, 2))


@dataclass(frozen=True)
class Pair:
    """Two reads of one fragment; `flipped` if the fragment was read from its other strand."""

    name: str
    ends: tuple[End, End]
    flipped: bool


def haplotype(sequence: str, carried: list[Variant]) -> tuple[str, list[Block]]:
    """The haplotype that carries these variants (sorted, not overlapping), and how it lies on the reference."""
    parts: list[str] = []
    blocks: list[Block] = []
    at = here = 0  # reference and haplotype offsets written so far
    for variant in carried:
        kept = len(variant.ref) if len(variant.ref) == len(variant.alt) else 1
        stretch = sequence[at : variant.offset] + variant.alt[:kept]
        parts.append(stretch)
        blocks.append(Block(here, at, len(stretch), "M"))
        here += len(stretch)
        at = variant.offset + len(variant.ref)
        inserted = variant.alt[kept:]
        if inserted:
            parts.append(inserted)
            blocks.append(Block(here, at, len(inserted), "I"))
            here += len(inserted)
    parts.append(sequence[at:])
    blocks.append(Block(here, at, len(sequence) - at, "M"))
    return "".join(parts), blocks


def align(blocks: list[Block], starts: list[int], begin: int, length: int) -> tuple[int, list[tuple[int, int]]]:
    """Reference start and CIGAR of haplotype[begin : begin + length]; insertions at an end become soft clips."""
    number = bisect.bisect_right(starts, begin) - 1
    cigar: list[list[int]] = []
    start = -1
    last = -1  # end on the reference of what is aligned so far
    left = length
    while left:
        block = blocks[number]
        skipped = max(0, begin + (length - left) - block.haplotype_start)
        take = min(left, block.length - skipped)
        if take > 0:
            if block.kind == "I":
                cigar.append([1 if start >= 0 else 4, take])
            else:
                here = block.reference_start + skipped
                if start < 0:
                    start = here
                elif here > last:
                    cigar.append([2, here - last])
                if cigar and cigar[-1][0] == 0:
                    cigar[-1][1] += take
                else:
                    cigar.append([0, take])
                last = here + take
            left -= take
        number += 1
    if cigar[-1][0] == 1:
        cigar[-1][0] = 4
    return start, [(op, n) for op, n in cigar]


def qualities(rng: random.Random, length: int) -> list[int]:
    """Runs of binned qualities, worse towards the 3' end; runs keep the CRAM small."""
    found: list[int] = []
    while len(found) < length:
        along = len(found) / length
        bad = 0.02 + 0.10 * along * along
        draw = rng.random()
        value = 37 if draw > bad else 23 if draw > bad * 0.4 else 12 if draw > bad * 0.03 else 2
        found += [value] * (rng.randrange(12, 40) if value == 37 else rng.randrange(1, 4))
    return found[:length]


def pairs(
    rng: random.Random,
    sequence: str,
    carried: list[tuple[Variant, Genotype]],
    contig: str,
    depth: float,
    read_length: int,
    present: Sequence[Sequence[tuple[int, int]]] | None = None,
) -> Iterator[Pair]:
    """Read pairs over one contig's window; fragments with an end in a run of N yield none.

    Args:
        present: of each haplotype, where on the window (0-based, half-open) it exists; None: both everywhere.
    """
    haplotypes: list[tuple[str, list[Block], list[int]]] = []
    for which in (0, 1):
        bases, blocks = haplotype(sequence, [v for v, genotype in carried if any(genotype[which : which + 1])])
        haplotypes.append((bases, blocks, [b.haplotype_start for b in blocks]))
    for number in range(int(len(sequence) * depth / (2 * read_length))):
        which = rng.randrange(2)
        bases, blocks, starts = haplotypes[which]
        fragment = max(read_length + 10, int(rng.gauss(FRAGMENT_MEAN, FRAGMENT_SD)))
        begin = rng.randrange(0, len(bases) - fragment)
        places = (begin, begin + fragment - read_length)
        if any("N" in bases[p : p + read_length] for p in places):
            continue
        one, two = (
            _read(rng, bases, blocks, starts, place, read_length, reverse)
            for place, reverse in zip(places, (False, True), strict=True)
        )
        pair = Pair(f"{contig}.{number}", (one, two), rng.random() < 0.5)
        low, high = min(one.start, two.start), max(one.stop, two.stop)
        if present is None or any(a <= low and high <= b for a, b in present[which]):
            yield pair


def _read(
    rng: random.Random, bases: str, blocks: list[Block], starts: list[int], place: int, length: int, reverse: bool
) -> End:
    seen = list(bases[place : place + length])
    quality = qualities(rng, length)
    if reverse:
        quality.reverse()
    draw = rng.random
    for i, value in enumerate(quality):
        if draw() < ERROR_RATE[value]:
            seen[i] = rng.choice(_OTHER[seen[i]])
    start, cigar = align(blocks, starts, place, length)
    return End(start, cigar, "".join(seen), quality, reverse)


def segments(header: Any, tid: int, first: int, pair: Pair, group: str) -> Iterator[Any]:
    """The pair as two pysam reads of contig number `tid`, shifted by `first`, the window's 0-based start."""
    pysam = require_pysam()
    span = pair.ends[1].stop - pair.ends[0].start
    for which, end in enumerate(pair.ends):
        mate = pair.ends[1 - which]
        read = pysam.AlignedSegment(header)
        read.query_name = pair.name
        read.query_sequence = end.bases
        read.query_qualities = pysam.qualitystring_to_array("".join(chr(q + 33) for q in end.qualities))
        read.flag = 1 | 2 | (16 if end.reverse else 32) | (64 if (which == 0) != pair.flipped else 128)
        read.reference_id = read.next_reference_id = tid
        read.reference_start = first + end.start
        read.next_reference_start = first + mate.start
        read.mapping_quality = 60
        read.cigartuples = end.cigar
        read.template_length = span if which == 0 else -span
        read.set_tag("RG", group)
        yield read
