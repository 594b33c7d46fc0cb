"""Are two sets of calls the same, and how well do calls meet a truth?

Per sample, gathered equals whole after reference blocks that were split at edges are merged: GQ, PL and MIN_DP of
a block are minima over its bases, so merging pieces by minimum gives the whole's; DP is a median and cannot be compared.
Per cohort, calls are equal once ALT alleles stand in one order, since GATK's own order varies.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.records import Record, open_gvcf, read_record

DEFAULT_BANDS = (10, 20, 30, 40, 50, 60, 70, 80, 90)


# ---------------------------------------------------------------------------------------------------------- one sample


@dataclass(frozen=True)
class _Block:
    contig: str
    start: int
    end: int
    ref: str
    genotype: str
    likelihoods: tuple[int, ...]
    min_depth: int
    band: int


def canonical_gvcf(path: Path, bands: Sequence[int] = DEFAULT_BANDS) -> Iterator[str]:
    """One line per variant record (all but the INFO and DP that vary) and per reference block, split blocks merged."""
    held: _Block | None = None
    with open_gvcf(path) as (_, lines):
        for line in lines:
            record = read_record(line)
            if record.block:
                block = _block(record, bands)
                if held is not None and _continues(held, block):
                    held = _joined(held, block)
                    continue
                if held is not None:
                    yield _block_line(held)
                held = block
            else:
                if held is not None:
                    yield _block_line(held)
                    held = None
                values = record.sample()
                shown = ":".join(f"{k}={values[k]}" for k in ("GT", "AD", "DP", "GQ", "PL") if k in values)
                yield f"{record.contig}:{record.position} {record.ref}>{record.fields[4]} {shown}"
    if held is not None:
        yield _block_line(held)


def _block(record: Record, bands: Sequence[int]) -> _Block:
    values = record.sample()
    info = dict(x.split("=", 1) for x in record.fields[7].split(";") if "=" in x)
    quality = int(values.get("GQ", "0"))
    likelihoods = tuple(int(x) for x in values.get("PL", "").split(",") if x)
    depth = int(values.get("MIN_DP") or info.get("MIN_DP") or values.get("DP") or 0)
    band = sum(quality >= b for b in bands)
    return _Block(
        record.contig, record.position, record.end, record.ref, values.get("GT", "."), likelihoods, depth, band
    )


def _continues(one: _Block, two: _Block) -> bool:
    same = (one.contig, one.genotype, one.band) == (two.contig, two.genotype, two.band)
    return same and two.start == one.end + 1


def _joined(one: _Block, two: _Block) -> _Block:
    likelihoods = tuple(min(pair) for pair in zip(one.likelihoods, two.likelihoods, strict=True))
    depth = min(one.min_depth, two.min_depth)
    return _Block(one.contig, one.start, two.end, one.ref, one.genotype, likelihoods, depth, one.band)


def _block_line(block: _Block) -> str:
    likelihoods = ",".join(map(str, block.likelihoods))
    place = f"{block.contig}:{block.start}-{block.end} {block.ref}"
    return f"{place} band={block.band} GT={block.genotype} PL={likelihoods} MIN_DP={block.min_depth}"


def gvcf_differences(one: Path, two: Path, limit: int = 20) -> list[str]:
    """Lines that only one of two gVCFs of a sample has (`-` the first, `+` the second), up to `limit`; empty = equal."""
    return _differences(canonical_gvcf(one), canonical_gvcf(two), limit)


# -------------------------------------------------------------------------------------------------------------- cohort


def canonical_calls(path: Path) -> Iterator[str]:
    """One line per record of a VCF: place, REF, ALTs sorted, and each sample's genotype as sorted alleles."""
    samples: list[str] = []
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            if line.startswith("##"):
                continue
            fields = line.rstrip("\n").split("\t")
            if line.startswith("#"):
                samples = fields[9:]
                continue
            alleles = [fields[3], *fields[4].split(",")]
            calls: list[str] = []
            for name, call in sorted(zip(samples, fields[9:], strict=True)):
                genotype = call.split(":", 1)[0].replace("|", "/").split("/")
                named = sorted(g if g == "." else alleles[int(g)] for g in genotype)
                calls.append(f"{name}={'/'.join(named)}")
            yield f"{fields[0]}:{fields[1]} {fields[3]}>{','.join(sorted(alleles[1:]))} {' '.join(calls)}"


def call_differences(one: Path, two: Path, limit: int = 20) -> list[str]:
    """Lines that only one of two joint VCFs has (`-` the first, `+` the second), up to `limit`; empty = equal."""
    return _differences(canonical_calls(one), canonical_calls(two), limit)


def _differences(one: Iterator[str], two: Iterator[str], limit: int) -> list[str]:
    first, second = list(one), list(two)
    if first == second:
        return []
    in_first, in_second = set(first), set(second)
    found = [f"- {x}" for x in first if x not in in_second] + [f"+ {x}" for x in second if x not in in_first]
    return (found or ["the same lines in another order"])[:limit]


# --------------------------------------------------------------------------------------------------------------- truth


@dataclass(frozen=True)
class Agreement:
    """Calls of one sample against the truth, by site and genotype, inside the callable regions."""

    sample: str
    truth: int
    true_positives: int
    false_negatives: int
    false_positives: int

    @property
    def recall(self) -> float:
        return self.true_positives / self.truth if self.truth else 1.0

    @property
    def precision(self) -> float:
        called = self.true_positives + self.false_positives
        return self.true_positives / called if called else 1.0


def total(agreements: Sequence[Agreement]) -> Agreement:
    """The cohort's sums."""
    return Agreement(
        "all",
        sum(a.truth for a in agreements),
        sum(a.true_positives for a in agreements),
        sum(a.false_negatives for a in agreements),
        sum(a.false_positives for a in agreements),
    )


def compare_with_truth(calls: Path, truth: Path, callable_bed: Path, reference: Path) -> list[Agreement]:
    """Agreement per sample of the truth: both sides split into biallelic records and left-aligned first.

    A sample that the calls lack counts as all missed.
    """
    with tempfile.TemporaryDirectory(prefix="pyanamo-compare-") as name:
        told = _genotypes(truth, callable_bed, reference, Path(name) / "truth.vcf")
        found = _genotypes(calls, callable_bed, reference, Path(name) / "calls.vcf")
    agreements: list[Agreement] = []
    for sample, expected in told.items():
        called = found.get(sample, set())
        agreements.append(
            Agreement(sample, len(expected), len(expected & called), len(expected - called), len(called - expected))
        )
    return agreements


def _genotypes(vcf: Path, bed: Path, reference: Path, work: Path) -> dict[str, set[tuple[str, int, str, str, str]]]:
    """Sample to {(contig, position, ref, alt, genotype)} of what it carries inside the regions."""
    require_pysam()
    import pysam.bcftools as bcftools  # type: ignore[import-untyped]  # not part of pysam's own import

    bcftools.norm("-m", "-any", "-f", str(reference), "-Ov", "-o", str(work), str(vcf), catch_stdout=False)
    inside = _regions(bed)
    found: dict[str, set[tuple[str, int, str, str, str]]] = {}
    samples: list[str] = []
    with work.open() as lines:
        for line in lines:
            if line.startswith("##"):
                continue
            fields = line.rstrip("\n").split("\t")
            if line.startswith("#"):
                samples = fields[9:]
                found = {s: set() for s in samples}
                continue
            contig, position, ref, alt = fields[0], int(fields[1]), fields[3], fields[4]
            if alt in ("*", ".") or not any(a < position <= b for a, b in inside.get(contig, ())):
                continue
            for sample, call in zip(samples, fields[9:], strict=True):
                alleles = sorted(call.split(":", 1)[0].replace("|", "/").replace(".", "0").split("/"))
                if "1" in alleles:
                    found[sample].add((contig, position, ref, alt, "/".join(alleles)))
    return found


def _regions(bed: Path) -> dict[str, list[tuple[int, int]]]:
    regions: dict[str, list[tuple[int, int]]] = {}
    for line in bed.read_text().splitlines():
        contig, start, end = line.split("\t")[:3]
        regions.setdefault(contig, []).append((int(start), int(end)))
    return regions
