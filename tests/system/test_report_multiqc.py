"""The real MultiQC reads what `results qc --multiqc` writes, and names the statistics of a VCF after it.

MultiQC is no dependency: the test takes the program named by PYANAMO_MULTIQC, or the one on PATH, or installs a pinned
one into a folder of its own, and is left out where none of these can be.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from qc_support import gvcf, nest

from pyanamo_core.genomics.stats import write_stats
from pyanamo_core.report.multiqc import write_multiqc
from pyanamo_core.report.qc import QcFold

pytestmark = pytest.mark.system
VERSION = "multiqc==1.35"
VCF = """##fileformat=VCFv4.2
##contig=<ID=chr1,length=1000>
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tS00\tS01
chr1\t10\t.\tA\tG\t50\tPASS\t.\tGT\t0/1\t1/1
chr1\t30\t.\tC\tCA\t50\tPASS\t.\tGT\t0/0\t0/1
"""


@pytest.fixture(scope="module")
def multiqc(tmp_path_factory: pytest.TempPathFactory) -> str:
    known = os.environ.get("PYANAMO_MULTIQC") or shutil.which("multiqc")
    if known:
        return known
    home = tmp_path_factory.mktemp("multiqc")
    for command in ([sys.executable, "-m", "venv", str(home)], [str(home / "bin/pip"), "install", "-q", VERSION]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"MultiQC cannot be installed here: {done.stderr[-300:]}")
    return str(home / "bin/multiqc")


def fold(samples: int) -> QcFold:
    """Declared women and men in turn; S03's depth says something else."""
    made = QcFold()
    for number in range(samples):
        name, male = f"S{number:02}", bool(number % 2)
        depths = {"chr1:1-100000": 30.0, "chr2:1-100000": 33.0, "chrX:1-100000": 15.0 if male and number != 3 else 30.0}
        if male:
            depths["chrY:1-100000"] = 11.0 if number != 3 else 0.1
        counts = {"variants": 900, "snv": 800, "ts": 540, "tv": 260, "het": 500, "hom": 300, "indel": 100}
        for index, (locus, depth) in enumerate(depths.items()):
            told = gvcf(locus, depth, share=0.97, **counts)
            made.take(nest(name, index, told, sex="male" if male else "female"))
    return made


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["Sample"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_multiqc_shows_samples_loci_contigs_sex_and_the_sites_of_a_vcf(multiqc: str, tmp_path: Path):
    # Given the content of a cohort of 12, one of whom is not what was declared, and the statistics of its VCF
    source = tmp_path / "qc"
    assert len(write_multiqc(fold(12), source)) == 4
    vcf = tmp_path / "cohort.vcf"
    vcf.write_text(VCF)
    write_stats(vcf, source / "cohort.bcftools_stats.txt")
    # When MultiQC reads the folder, complaining of all that is not as it should be
    command = [multiqc, str(source), "-o", str(tmp_path / "out"), "--strict", "--no-version-check", "--no-ansi"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error" not in (done.stdout + done.stderr).lower()
    # Then its tables hold the figures, and the VCF has its own name, not that of a stream
    data = tmp_path / "out" / "multiqc_data"
    samples = table(data / "multiqc_pyanamo_samples_table.txt")
    assert len(samples) == 12
    assert (samples["S03"]["flags"], samples["S05"]["flags"]) == ("sex", "none")
    assert float(samples["S01"]["mean_depth"]) == 31.5
    assert float(table(data / "multiqc_pyanamo_loci_table.txt")["chrX:1-100000"]["samples"]) == 12
    assert set(table(data / "multiqc_pyanamo_contigs_heatmap.txt")) == set(samples)
    assert (data / "multiqc_pyanamo_sex_scatter.txt").stat().st_size > 100
    sites = table(data / "multiqc_bcftools_stats.txt")["cohort"]
    assert (float(sites["number_of_records"]), float(sites["number_of_samples"])) == (2, 2)
    page = (tmp_path / "out" / "multiqc_report.html").read_text()
    assert all(f'id="{one}' in page for one in ("pyanamo_samples", "pyanamo_loci", "pyanamo_contigs", "pyanamo_sex"))
