"""Helpers of the genomics tests: small references, hand-written gVCFs, nests as a pilot records them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pysam

from pyanamo_core.genomics.cohort import RecordedNest

DATA = Path(__file__).resolve().parent / "data"
ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "task_scripts" / "HaplotypeCaller-1KG.sh"


def write_reference(folder: Path, name: str = "ref.fa", **contigs: str) -> Path:
    """A FASTA with .fai and .dict."""
    fasta = folder / name
    fasta.write_text("".join(f">{c}\n{bases}\n" for c, bases in contigs.items()))
    pysam.faidx(str(fasta))
    lines = [
        f"@SQ\tSN:{c}\tLN:{len(bases)}\tM5:{hashlib.md5(bases.encode(), usedforsecurity=False).hexdigest()}\n"
        for c, bases in contigs.items()
    ]
    fasta.with_suffix(".dict").write_text("@HD\tVN:1.6\n" + "".join(lines))
    return fasta


def copy_reference(source: Path, folder: Path) -> Path:
    """A copy of a FASTA with .fai and .dict made, as staging does."""
    with pysam.FastaFile(str(source)) as fasta:
        return write_reference(folder, source.name, **{c: fasta.fetch(c) for c in fasta.references})


def block(position: int, end: int, contig: str = "c", quality: int = 99, ref: str = "A") -> str:
    """A reference block's line."""
    values = f"0/0:30:{quality}:25:0,{quality},900"
    return f"{contig}\t{position}\t.\t{ref}\t<NON_REF>\t.\t.\tEND={end}\tGT:DP:GQ:MIN_DP:PL\t{values}\n"


def variant(position: int, ref: str, alt: str, contig: str = "c", genotype: str = "0/1") -> str:
    """A variant record's line."""
    values = f"{genotype}:15,15,0:30:99:500,0,500,545,545,1090"
    return f"{contig}\t{position}\t.\t{ref}\t{alt},<NON_REF>\t50\t.\tDP=30\tGT:AD:DP:GQ:PL\t{values}\n"


def write_gvcf(
    path: Path, records: Sequence[str], sample: str = "S1", contigs: Mapping[str, int] | None = None
) -> Path:
    """A gVCF from lines, BGZF and indexed."""
    header = "##fileformat=VCFv4.2\n"
    header += "".join(f"##contig=<ID={c},length={n}>\n" for c, n in (contigs or {"c": 1000}).items())
    header += f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{sample}\n"
    with pysam.BGZFile(str(path), "wb") as out:
        out.write((header + "".join(records)).encode())
    pysam.tabix_index(str(path), preset="vcf", force=True)
    return path


@dataclass
class Nest:
    """A recorded nest to be: change what you like, then `record` it."""

    locus: str
    records: list[str]
    sample: str = "S1"
    nest: int = 0
    attempt: int = 7
    left: dict[str, dict[str, int]] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    contigs: dict[str, int] = field(default_factory=lambda: {"c": 1000, "d": 500})

    def record(self, folder: Path) -> RecordedNest:
        place = folder / f"{self.nest}-{self.attempt}"
        place.mkdir(parents=True)
        name = f"{self.sample}.{self.nest}.g.vcf.gz"
        gvcf = write_gvcf(place / name, self.records, self.sample, self.contigs)
        contig = self.locus.rpartition(":")[0]
        manifest = {
            "sample": self.sample,
            "value": self.locus,
            "loci": [self.locus],
            "left_deletions": self.left,
            "left_out": False,
            "reference": {contig: {"length": self.contigs[contig], "md5": "0" * 32}},
            "caller": "gatk",
            "caller_version": "4.6.2.0",
            "parameters": {},
            "parameters_hash": "abc",
            "files": [{"name": name, "sha256": hashlib.sha256(gvcf.read_bytes()).hexdigest()}],
            **self.changes,
        }
        listed = place / f"{self.sample}.{self.nest}.manifest.json"
        listed.write_text(json.dumps(manifest))
        return RecordedNest("S1", self.nest, self.attempt, self.locus, (str(gvcf), f"{gvcf}.tbi", str(listed)))


@dataclass(frozen=True)
class TaskRun:
    """How the task script ended."""

    code: int
    stdout: str
    stderr: str
    result: dict[str, Any]

    @property
    def uris(self) -> tuple[str, ...]:
        return tuple(o["uri"] for o in self.result["outputs"])

    def recorded(self, value: str, nest: int = 0, attempt: int = 1) -> RecordedNest:
        """The nest as the ledger would hold it."""
        assert self.code == 0, self.stderr
        return RecordedNest("item", nest, attempt, value, self.uris)


def run_task(
    sample: str | Path,
    loci: str,
    reference: Path,
    output: Path | str,
    work: Path,
    *,
    options: tuple[str, ...] = (),
    **environment: str,
) -> TaskRun:
    """The task script as a pilot starts it, with its private folder and PYANAMO_RESULT."""
    work.mkdir(parents=True, exist_ok=True)
    result = work.parent / f"{work.name}-result.json"
    result.unlink(missing_ok=True)
    environ = {
        **os.environ,
        "ref": str(reference),
        "PYANAMO_OUTPUT": str(output),
        "PYANAMO_WORK": str(work),
        "PYANAMO_RESULT": str(result),
        "PYANAMO_PYTHON": sys.executable,
        **environment,
    }
    done = subprocess.run(
        [str(SCRIPT), *options, str(sample), loci], env=environ, capture_output=True, text=True, check=False
    )
    told: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    return TaskRun(done.returncode, done.stdout, done.stderr, told)
