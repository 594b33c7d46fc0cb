"""A tiny synthetic cohort: reference, phased truth, aligned CRAMs with index; needs only pysam.

Every read is placed where it came from (MAPQ 60), so what a caller misses is the caller's doing. The same seed gives
the same reference, truth and reads; the CRAM files themselves differ, as htslib writes the reference's path into them.
Of three samples the first is the child of the other two: per contig it inherits one whole haplotype from each. With
sexes (the second is then the father), X and Y are inherited and present as in a family: a father's first X haplotype is
his X, his second one the PAR of his Y.
"""

from __future__ import annotations

import bisect
import hashlib
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyanamo_core.genomics import simreads
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.simfamily import Sexes, genotypes
from pyanamo_core.genomics.simreads import Carried, Variant

BASES = "ACGT"
TRANSITION = {"A": "G", "G": "A", "C": "T", "T": "C"}
# Order-1 chain with about 41 % GC and few CpG: P(next base | base) in the order of BASES.
CHAIN = {"A": (33, 17, 24, 26), "C": (33, 26, 5, 36), "G": (28, 22, 25, 25), "T": (22, 19, 25, 34)}
SNP_RATE, INDEL_RATE = 1 / 900, 1 / 7000
EDGE = 300  # bases at a contig's ends and around gaps that hold no variant and are not judged
GAP = 500  # bases of N in the middle of each contig: a natural edge between loci


@dataclass(frozen=True)
class Contig:
    """A contig of `length` bases of which only `window` (1-based, closed) holds bases; the rest is N.

    So a locus of a real genome, e.g. chr21:31659566-31669931, exists without simulating the genome around it.
    """

    name: str
    length: int
    window: tuple[int, int] | None = None
    gap: bool = True

    @property
    def span(self) -> tuple[int, int]:
        return self.window or (1, self.length)


@dataclass(frozen=True)
class Repeat:
    """A tandem repeat set into the reference at `position` (1-based) before any variant is made."""

    contig: str
    position: int
    unit: str
    count: int


@dataclass(frozen=True)
class Planted:
    """A variant at a given place (1-based position of its first changed base), with each sample's phased genotype.

    Give `deleted` (bases), `inserted` (sequence before the position) or neither for a transition. An indel is
    left-aligned, so the truth may show it earlier.
    """

    contig: str
    position: int
    genotypes: tuple[simreads.Genotype, ...]
    deleted: int = 0
    inserted: str = ""


@dataclass(frozen=True)
class Cohort:
    """Where everything of a simulated cohort lies; `reads` maps sample to CRAM, the index beside it."""

    folder: Path
    reference: Path
    truth: Path
    callable_bed: Path
    reads: dict[str, Path]
    variants: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def samples(self) -> list[str]:
        return list(self.reads)


def simulate_cohort(
    out_dir: Path | str,
    *,
    seed: int = 1,
    depth: float = 30,
    read_length: int = 150,
    contigs: Sequence[tuple[str, int] | Contig] = (("demo1", 100_000), ("demo2", 80_000), ("demo3", 60_000)),
    samples: Sequence[str] = ("DEMO0001", "DEMO0002", "DEMO0003"),
    planted: Sequence[Planted] = (),
    repeats: Sequence[Repeat] = (),
    random_variants: bool = True,
    name: str = "demo",
    sexes: Mapping[str, str] | None = None,
) -> Cohort:
    """Write a cohort into `out_dir`: NAME.fa (.fai, .dict), truth.vcf.gz, callable.bed and SAMPLE.final.cram (.crai).

    Args:
        depth: mean depth of each sample.
        contigs: names with lengths, or Contigs padded with N.
        planted: variants at given places, on top of the random ones unless `random_variants` is off.
        sexes: sample to male or female; X and Y must then have the lengths of a shipped genome.
    """
    folder = Path(out_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [c if isinstance(c, Contig) else Contig(*c) for c in contigs]
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    windows = {c.name: _sequence(rng, c, repeats) for c in wanted}
    variants: dict[str, list[Variant]] = {c.name: [] for c in wanted}
    if random_variants:
        variants = {c.name: _random_variants(rng, windows[c.name]) for c in wanted}
    sexed = Sexes({c.name: (c.length, c.span) for c in wanted}, sexes or {})
    carried = genotypes(rng, variants, samples, sexed)
    for contig in wanted:
        _plant(contig, windows[contig.name], planted, samples, variants[contig.name], carried)

    reference = folder / f"{name}.fa"
    md5 = _write_reference(reference, wanted, windows)
    truth = _write_truth(folder / "truth.vcf", wanted, variants, carried, samples)
    callable_bed = _write_callable(folder / "callable.bed", wanted, windows)
    header = [{"SN": c.name, "LN": c.length, "M5": md5[c.name]} for c in wanted]
    reads: dict[str, Path] = {}
    for sample in samples:
        own = random.Random(f"{seed}/{sample}")  # noqa: S311
        present = {c.name: sexed.present(c.name, sample) for c in wanted}
        pairs = _pairs(own, wanted, windows, carried[sample], depth, read_length, present)
        reads[sample] = folder / f"{sample}.final.cram"
        _write_reads(reads[sample], reference, sample, header, pairs)
    return Cohort(folder, reference, truth, callable_bed, reads, {c: len(v) for c, v in variants.items()})


# ------------------------------------------------------------------------------------------ a bucket like 1000 Genomes'


def bucket_layout(
    cohort: Cohort, *, prefix: str = "1000G_2504_high_coverage/data", first_run: int = 3_239_276
) -> dict[str, Path]:
    """Key to local file as 1000 Genomes lays them out: <prefix>/ERR<run>/SAMPLE.final.cram and its .crai.

    As in the real bucket, the folder is an ENA run and says nothing about the sample.
    """
    layout: dict[str, Path] = {}
    for number, (sample, cram) in enumerate(cohort.reads.items()):
        for suffix in ("", ".crai"):
            layout[f"{prefix}/ERR{first_run + 58 * number}/{sample}.final.cram{suffix}"] = Path(f"{cram}{suffix}")
    return layout


def place_cohort(cohort: Cohort, folder: Path, **layout: Any) -> list[Path]:
    """Copy the reads below `folder` in 1000 Genomes' layout; returns what was written."""
    written: list[Path] = []
    for key, path in bucket_layout(cohort, **layout).items():
        target = folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        written.append(target)
    return written


def upload_cohort(cohort: Cohort, s3: Any, bucket: str, **layout: Any) -> list[str]:
    """Put the reads into `bucket` in 1000 Genomes' layout through the boto3 client `s3`; returns the keys."""
    placed = bucket_layout(cohort, **layout)
    for key, path in placed.items():
        s3.upload_file(str(path), bucket, key)
    return list(placed)


# ---------------------------------------------------------------------------------------------- reference and variants


def _sequence(rng: random.Random, contig: Contig, repeats: Iterable[Repeat]) -> str:
    """The bases of the contig's window."""
    start, end = contig.span
    length = end - start + 1
    bases = [rng.choice(BASES)]
    for _ in range(length - 1):
        bases.append(rng.choices(BASES, CHAIN[bases[-1]])[0])
    for _ in range(length // 10_000):  # short tandem repeats
        place = rng.randrange(1000, length - 1000)
        unit = "".join(rng.choice(BASES) for _ in range(rng.choice((1, 2, 2, 3, 4))))
        tract = list((unit * 12)[: rng.randrange(10, 24)])
        bases[place : place + len(tract)] = tract
    if contig.gap:
        bases[length // 2 : length // 2 + GAP] = "N" * GAP
    for repeat in repeats:
        if repeat.contig == contig.name:
            tract = repeat.unit * repeat.count
            bases[repeat.position - start : repeat.position - start + len(tract)] = tract
    return "".join(bases)


def _random_variants(rng: random.Random, sequence: str, spacing: int = 27) -> list[Variant]:
    """Sorted variants at least `spacing` bases apart, indels left-aligned, none near an end or a gap."""
    variants: list[Variant] = []
    used: list[int] = []
    for rate, make in ((SNP_RATE, _snp), (INDEL_RATE, _indel)):
        for _ in range(int(len(sequence) * rate)):
            place = _free_place(rng, sequence, used, spacing)
            if place is None:
                continue
            offset, ref, alt = make(rng, sequence, place)
            if "N" in ref or ref == alt:
                continue
            bisect.insort(used, offset)
            variants.append(Variant(offset, ref, alt, min(0.95, max(0.05, rng.betavariate(0.8, 1.6)))))
    return sorted(variants, key=lambda v: v.offset)


def _free_place(rng: random.Random, sequence: str, used: list[int], spacing: int) -> int | None:
    for _ in range(50):
        place = rng.randrange(EDGE, len(sequence) - EDGE)
        after = bisect.bisect(used, place)
        if after and place - used[after - 1] < spacing:
            continue
        if after < len(used) and used[after] - place < spacing:
            continue
        if "N" not in sequence[place - 200 : place + 200]:
            return place
    return None


def _snp(rng: random.Random, sequence: str, place: int) -> tuple[int, str, str]:
    ref = sequence[place]
    other = [b for b in BASES if b not in (ref, TRANSITION[ref])]
    return place, ref, TRANSITION[ref] if rng.random() < 0.68 else rng.choice(other)


def _indel(rng: random.Random, sequence: str, place: int) -> tuple[int, str, str]:
    size = min(12, 1 + int(rng.expovariate(0.45)))
    if rng.random() < 0.5:
        inserted = "".join(rng.choice(BASES) for _ in range(size))
        return left_align(sequence, place, sequence[place], sequence[place] + inserted)
    return left_align(sequence, place, sequence[place : place + size + 1], sequence[place])


def left_align(sequence: str, offset: int, ref: str, alt: str) -> tuple[int, str, str]:
    """The same change written as far left as it goes (VCF's normal form); `offset` is 0-based in `sequence`."""
    while ref[-1] == alt[-1]:
        if min(len(ref), len(alt)) > 1:
            ref, alt = ref[:-1], alt[:-1]
        elif len(ref) != len(alt) and offset > 0:
            offset -= 1
            ref, alt = sequence[offset] + ref[:-1], sequence[offset] + alt[:-1]
        else:
            break
    return offset, ref, alt


def _plant(
    contig: Contig,
    sequence: str,
    planted: Iterable[Planted],
    samples: Sequence[str],
    variants: list[Variant],
    carried: Carried,
) -> None:
    """Add the planted variants of one contig, keeping everything sorted."""
    for wish in planted:
        if wish.contig != contig.name:
            continue
        place = wish.position - contig.span[0]
        if wish.deleted:
            change = left_align(sequence, place - 1, sequence[place - 1 : place + wish.deleted], sequence[place - 1])
        elif wish.inserted:
            change = left_align(sequence, place - 1, sequence[place - 1], sequence[place - 1] + wish.inserted)
        else:
            change = (place, sequence[place], TRANSITION[sequence[place]])
        variant = Variant(*change, 0.5)
        variants.append(variant)
        for sample, genotype in zip(samples, wish.genotypes, strict=True):
            carried[sample][contig.name].append((variant, genotype))
    variants.sort(key=lambda v: (v.offset, len(v.ref)))
    for sample in samples:
        carried[sample][contig.name].sort(key=lambda entry: (entry[0].offset, len(entry[0].ref)))


# -------------------------------------------------------------------------------------------------------------- writing

_LINE = 80


def _write_reference(path: Path, contigs: Sequence[Contig], windows: dict[str, str]) -> dict[str, str]:
    """Write FASTA, .fai and .dict; returns the MD5 of each contig. Runs of N are written in bulk."""
    md5: dict[str, str] = {}
    fai: list[str] = []
    with path.open("wb") as fasta:
        for contig in contigs:
            start, end = contig.span
            fasta.write(f">{contig.name}\n".encode())
            fai.append(f"{contig.name}\t{contig.length}\t{fasta.tell()}\t{_LINE}\t{_LINE + 1}\n")
            sequence = b"N" * (start - 1) + windows[contig.name].encode() + b"N" * (contig.length - end)
            md5[contig.name] = hashlib.md5(sequence, usedforsecurity=False).hexdigest()
            lead = (start - 1) // _LINE * _LINE  # whole lines of N before the window
            tail = -(-end // _LINE) * _LINE  # whole lines of N after it
            line = b"N" * _LINE + b"\n"
            fasta.write(line * (lead // _LINE))
            middle = sequence[lead:tail]
            fasta.write(b"".join(middle[i : i + _LINE] + b"\n" for i in range(0, len(middle), _LINE)))
            rest = max(0, contig.length - tail)
            fasta.write(line * (rest // _LINE) + (b"N" * (rest % _LINE) + b"\n" if rest % _LINE else b""))
    Path(f"{path}.fai").write_text("".join(fai))
    sq = "".join(f"@SQ\tSN:{c.name}\tLN:{c.length}\tM5:{md5[c.name]}\n" for c in contigs)
    path.with_suffix(".dict").write_text(f"@HD\tVN:1.6\tSO:unsorted\n{sq}")
    return md5


def _write_truth(
    path: Path,
    contigs: Sequence[Contig],
    variants: dict[str, list[Variant]],
    carried: Carried,
    samples: Sequence[str],
) -> Path:
    pysam = require_pysam()
    with path.open("w") as vcf:
        vcf.write('##fileformat=VCFv4.2\n##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n')
        vcf.writelines(f"##contig=<ID={c.name},length={c.length}>\n" for c in contigs)
        vcf.write("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t" + "\t".join(samples) + "\n")
        for contig in contigs:
            for number, v in enumerate(variants[contig.name]):
                genotypes = (carried[s][contig.name][number][1] for s in samples)
                calls = "\t".join("|".join(map(str, g)) or "." for g in genotypes)
                vcf.write(f"{contig.name}\t{contig.span[0] + v.offset}\t.\t{v.ref}\t{v.alt}\t.\tPASS\t.\tGT\t{calls}\n")
    return Path(pysam.tabix_index(str(path), preset="vcf", force=True))


def _write_callable(path: Path, contigs: Sequence[Contig], windows: dict[str, str]) -> Path:
    """BED (0-based, half-open) of the bases where calls are compared with the truth: not next to ends and gaps."""
    with path.open("w") as bed:
        for contig in contigs:
            first, sequence = contig.span[0] - 1, windows[contig.name]
            pieces = [(0, len(sequence))]
            if "N" in sequence:
                pieces = [(0, sequence.index("N")), (sequence.rindex("N") + 1, len(sequence))]
            bed.writelines(
                f"{contig.name}\t{first + a + EDGE}\t{first + b - EDGE}\n" for a, b in pieces if b - a > 2 * EDGE
            )
    return path


def _pairs(
    rng: random.Random,
    contigs: Sequence[Contig],
    windows: dict[str, str],
    carried: dict[str, list[tuple[Variant, simreads.Genotype]]],
    depth: float,
    read_length: int,
    present: Mapping[str, Sequence[Sequence[tuple[int, int]]] | None],
) -> Iterator[tuple[int, int, simreads.Pair]]:
    """Contig number, the window's 0-based start, and a pair of reads in the window's coordinates."""
    for number, contig in enumerate(contigs):
        here = present[contig.name]
        if here == [[], []]:
            continue
        made = simreads.pairs(rng, windows[contig.name], carried[contig.name], contig.name, depth, read_length, here)
        for pair in made:
            yield number, contig.span[0] - 1, pair


def _write_reads(
    path: Path,
    reference: Path,
    sample: str,
    sequences: list[dict[str, Any]],
    pairs: Iterator[tuple[int, int, simreads.Pair]],
) -> None:
    """Sort the pairs' reads and write them as CRAM 3.0 (GATK 4.6 reads no 3.1) with a .crai."""
    pysam = require_pysam()
    group = f"{sample}.1"
    header = pysam.AlignmentHeader.from_dict(
        {
            "HD": {"VN": "1.6", "SO": "coordinate"},
            "SQ": sequences,
            "RG": [{"ID": group, "SM": sample, "LB": sample, "PL": "ILLUMINA", "PU": f"SIM.1.{sample}"}],
        }
    )
    reads = [read for tid, first, pair in pairs for read in simreads.segments(header, tid, first, pair, group)]
    reads.sort(key=lambda r: (r.reference_id, r.reference_start, r.flag & 16))
    options = [b"version=3.0", b"lossy_names=1"]
    with pysam.AlignmentFile(
        str(path), "wc", header=header, reference_filename=str(reference), format_options=options
    ) as cram:
        for read in reads:
            cram.write(read)
    pysam.index(str(path))
