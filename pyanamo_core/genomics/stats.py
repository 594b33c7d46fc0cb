"""Summary of a VCF's sites and samples by bcftools stats, as MultiQC and plot-vcfstats read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyanamo_core.errors import CallerFailed
from pyanamo_core.genomics.extras import require_pysam

ENDING = ".bcftools_stats.txt"


def stats_name(vcf: str) -> str:
    """The name of a VCF's statistics: cohort.vcf.gz has cohort.bcftools_stats.txt."""
    return vcf.removesuffix(".gz").removesuffix(".vcf").removesuffix(".bcf") + ENDING


def write_stats(vcf: Path, target: Path | None = None) -> Path:
    """Write `bcftools stats` of a genotyped VCF, with counts per sample; default: beside it, NAME.bcftools_stats.txt.

    Of a genotyped VCF only: in a gVCF every block counts as a record and <NON_REF> makes every variant multiallelic.
    The VCF is given by its name, never as a stream: MultiQC names what it shows after it.

    Returns:
        The file, which appears when it is whole.

    Raises:
        CallerFailed: with the reason of bcftools.
        ExtraMissing: pysam is not installed.
    """
    pysam: Any = require_pysam()
    import pysam.bcftools as bcftools  # type: ignore[import-untyped]  # not part of pysam's own import

    target = target or vcf.with_name(stats_name(vcf.name))
    part = target.with_name(f".{target.name}.part")
    try:
        bcftools.stats("-s", "-", str(vcf), save_stdout=str(part))
        if not any(line.startswith("SN\t") for line in _lines(part)):
            raise CallerFailed(caller="bcftools stats", code=1, permanent=True, reason=f"it said nothing of {vcf}")
        part.replace(target)
    except (pysam.SamtoolsError, OSError) as error:
        said = str(error).partition("stderr=")[2].replace("\\n", " ").strip("'\" ") or str(error)
        raise CallerFailed(caller="bcftools stats", code=1, permanent=True, reason=said[:1000]) from error
    finally:
        part.unlink(missing_ok=True)
    return target


def summary(stats: Path) -> dict[str, int]:
    """The summary numbers of a file of bcftools stats: `records`, `SNPs`, `indels`, `multiallelic sites` …"""
    found: dict[str, int] = {}
    for line in _lines(stats):
        fields = line.rstrip("\n").split("\t")
        if fields[0] == "SN" and len(fields) == 4:
            found[fields[2].removesuffix(":").removeprefix("number of ")] = int(fields[3])
    return found


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as lines:
            yield from lines
