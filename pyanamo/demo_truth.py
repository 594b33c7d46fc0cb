"""Compare the demo's joint VCF with the truth it was simulated from: site, alleles and genotype must agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEAST = 0.99
"""The demo fails below this recall or precision."""

Allele = tuple[str, int, str, str]
"""Contig, 1-based position, REF, ALT; left-aligned and as short as can be."""


@dataclass(frozen=True)
class SampleScore:
    """One sample: its true and its called alleles, and how many are the same with the same number of copies."""

    sample: str
    true: int
    called: int
    same: int

    @property
    def recall(self) -> float:
        return self.same / self.true if self.true else 1.0

    @property
    def precision(self) -> float:
        return self.same / self.called if self.called else 1.0


@dataclass(frozen=True)
class Score:
    """A cohort's comparison."""

    samples: tuple[SampleScore, ...]

    @property
    def recall(self) -> float:
        true = sum(one.true for one in self.samples)
        return sum(one.same for one in self.samples) / true if true else 1.0

    @property
    def precision(self) -> float:
        called = sum(one.called for one in self.samples)
        return sum(one.same for one in self.samples) / called if called else 1.0

    @property
    def good(self) -> bool:
        """Both at least 0.99 over the cohort, and something was there to find."""
        return sum(one.true for one in self.samples) > 0 and min(self.recall, self.precision) >= LEAST


def compare(truth: Path, calls: Path, reference: Path, regions: Path) -> Score:
    """Score called genotypes against true ones, allele by allele.

    A sample's allele counts as found if contig, position, REF, ALT and its number of copies agree. A sample that the
    calls do not hold has found nothing.

    Args:
        truth, calls: VCFs.
        reference: FASTA, to left-align with.
        regions: BED (0-based, half-open) of what is judged, by the position of the record.
    """
    from pyanamo_core.genomics.extras import require_pysam

    pysam = require_pysam()
    inside = _read_bed(regions)
    with pysam.FastaFile(str(reference)) as fasta:
        sequences = {name: fasta.fetch(name).upper() for name in inside}
    true, called = (_copies(pysam, path, sequences, inside) for path in (truth, calls))
    scores: list[SampleScore] = []
    for sample, expected in true.items():
        found = called.get(sample, {})
        same = sum(1 for allele, copies in expected.items() if found.get(allele) == copies)
        scores.append(SampleScore(sample, len(expected), len(found), same))
    return Score(tuple(scores))


def normal(sequence: str, position: int, ref: str, alt: str) -> tuple[int, str, str]:
    """An allele left-aligned and as short as can be (the method of vt normalize); position is 1-based."""
    while True:
        if ref and alt and ref[-1] == alt[-1] and (len(ref) > 1 or len(alt) > 1):
            ref, alt = ref[:-1], alt[:-1]
        elif (not ref or not alt) and position > 1:
            position -= 1
            ref, alt = sequence[position - 1] + ref, sequence[position - 1] + alt
        else:
            break
    while len(ref) > 1 and len(alt) > 1 and ref[0] == alt[0]:
        position, ref, alt = position + 1, ref[1:], alt[1:]
    return position, ref, alt


def _copies(
    pysam: Any, path: Path, sequences: Mapping[str, str], inside: Mapping[str, list[tuple[int, int]]]
) -> dict[str, dict[Allele, int]]:
    """Per sample the alleles that it carries inside the regions, and in how many copies."""
    with pysam.VariantFile(str(path)) as records:
        carried: dict[str, dict[Allele, int]] = {name: {} for name in records.header.samples}
        for record in records:
            if not _within(record.contig, record.pos, inside):
                continue
            alleles: list[Allele | None] = [None]
            for alt in record.alts or ():
                plain = set(alt) <= set("ACGTN")
                alleles.append(
                    (record.contig, *normal(sequences[record.contig], record.pos, record.ref, alt)) if plain else None
                )
            for name, call in record.samples.items():
                for index in call["GT"]:
                    allele = alleles[index] if index else None
                    if allele is not None:
                        carried[name][allele] = carried[name].get(allele, 0) + 1
    return carried


def _read_bed(path: Path) -> dict[str, list[tuple[int, int]]]:
    regions: dict[str, list[tuple[int, int]]] = {}
    for line in path.read_text().splitlines():
        contig, begin, end = line.split("\t")[:3]
        regions.setdefault(contig, []).append((int(begin), int(end)))
    return regions


def _within(contig: str, position: int, regions: Mapping[str, Iterable[tuple[int, int]]]) -> bool:
    return any(begin < position <= end for begin, end in regions.get(contig, ()))
