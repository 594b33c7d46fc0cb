"""docs/cohort.md's eight commands, typed as they stand by somebody with a folder of BAMs, end in the right VCF."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pysam
import pytest

from pyanamo_core.genomics.compare import compare_with_truth, total
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort

pytestmark = pytest.mark.system
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cohort.md").read_text()
SAMPLES = ("ANNA", "BEN", "CARL")


def blocks() -> list[str]:
    return re.findall(r"```\n(.*?)```", PAGE, re.S)


@dataclass(frozen=True)
class Newcomer:
    """A folder with reads/ and genome.fa, the truth beside it, and a shell's environment without any AWS."""

    folder: Path
    cohort: Cohort
    environment: dict[str, str]

    def types(self, commands: str, seconds: float = 900) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    prepare()
    folder = tmp_path_factory.mktemp("newcomer")
    contigs = (("demo1", 40_000), ("demo2", 30_000))
    cohort = simulate_cohort(folder / "truth", contigs=contigs, samples=SAMPLES, name="genome")
    shutil.copy(cohort.reference, folder / "genome.fa")  # alone: neither .fai nor .dict
    (folder / "reads").mkdir()
    for sample, cram in cohort.reads.items():
        bam = folder / "reads" / f"{sample}.bam"
        pysam.view("-b", "-T", str(cohort.reference), "-o", str(bam), str(cram), catch_stdout=False)
        pysam.index(str(bam))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYANAMO_", "PREFECT_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    made = Newcomer(folder, cohort, {**kept, "PATH": path, "XDG_STATE_HOME": str(folder / "state")})
    yield made
    subprocess.run(["pyanamo", "local", "down"], env=made.environment, capture_output=True, check=False)


@pytest.mark.timeout(1200)
def test_the_eight_commands_of_the_page_lead_from_bams_to_the_true_genotypes(newcomer: Newcomer):
    # Given the page's first block: eight commands, the heredoc being one of them
    first, second, third = blocks()[:3]
    body = re.sub(r"<<EOF\n.*?\nEOF\n", "<<EOF\n", first, flags=re.S)
    assert len(body.splitlines()) == 8
    # When they are typed as they stand, and then those that look at the quality
    newcomer.types(first)
    again = 'eval "$(pyanamo local env)"\n'
    newcomer.types(again + second)
    newcomer.types(again + "export PYANAMO_TABLE=MyCohort\n" + third.splitlines()[0])
    # Then the VCF holds every sample with the genotypes that were simulated
    (vcf,) = newcomer.folder.glob("cohort/**/*.vcf.gz")
    with pysam.VariantFile(str(vcf)) as opened:
        assert sorted(opened.header.samples) == sorted(SAMPLES)
    cohort = newcomer.cohort
    agreement = total(compare_with_truth(vcf, cohort.truth, cohort.callable_bed, cohort.reference))
    assert agreement.truth > 100
    assert (agreement.recall, agreement.precision) >= (0.99, 0.99)
    # And the quality is told in a table, on a page, and in files for MultiQC
    rows = (newcomer.folder / "qc.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in rows] == ["sample", *SAMPLES]
    assert "Quality of the samples" in (newcomer.folder / "report.html").read_text()
    assert {one.name for one in (newcomer.folder / "qc").iterdir()} >= {
        "joint.bcftools_stats.txt",
        "pyanamo_samples_mqc.json",
    }
