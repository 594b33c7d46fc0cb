"""PyAnamo 1's case, typed as its user would: ten random samples by ENA run, SOD1 and NEK1 as loci, rehearsed, then run."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyanamo_core.genomics.compare import compare_with_truth, total
from pyanamo_core.genomics.simulate import Cohort, Contig, bucket_layout, simulate_cohort

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

SOD1, NEK1 = (31_659_566, 31_669_931), (169_391_809, 169_613_627)
LOCI = f"chr21:{SOD1[0]}-{SOD1[1]},chr4:{NEK1[0]}-{NEK1[1]}"
AROUND = 3000
CONTIGS = (
    Contig("chr4", 190_214_555, (NEK1[0] - AROUND, NEK1[1] + AROUND), gap=False),
    Contig("chr21", 46_709_983, (SOD1[0] - AROUND, SOD1[1] + AROUND), gap=False),
)
WORKFLOW = """
name: HaplotypeCaller
queue: HaplotypeCaller_Queue
job_definition: HaplotypeCaller_JobDef
pilots: 2
nests: 2
vcpus: 2
memory_mb: 4096
buckets:
  results: s3://my-results/calls
  inputs:
    - {{bucket: 1000genomes, access: anonymous}}
references:
  - {{name: ref, uri: "{reference}"}}
verify: pyanamo_core.genomics.gvcf:verify_outputs
timing: {{lease_seconds: 120, beat_seconds: 30, sweep_seconds: 1, poll_seconds: 1, start_jitter_seconds: 0}}
"""


class Shell:
    """A folder, an environment, and the command `pyanamo` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(os.environ)

    def pyanamo(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "pyanamo", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in front of a local cloud of its own."""
    made = Shell(tmp_path)
    made.environment["XDG_STATE_HOME"] = str(tmp_path / "state")
    yield made
    made.pyanamo("local", "down")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Twelve samples over two genes on contigs as long as the real ones, N all around."""
    samples = [f"HG{number:05d}" for number in range(96, 108)]
    return simulate_cohort(
        tmp_path_factory.mktemp("genes"), depth=24, contigs=CONTIGS, samples=samples, name="GRCh38_genes"
    )


def test_ten_random_samples_over_two_genes_are_rehearsed_run_gathered_and_called(shell: Shell, cohort: Cohort):
    folder = shell.folder
    # Given a workflow file, a cloud, and reads in 1000 Genomes' layout
    (folder / "workflow.yaml").write_text(WORKFLOW.format(reference=cohort.reference))
    shell.pyanamo("local", "up", "workflow.yaml")
    shell.environment |= json.loads(shell.pyanamo("local", "env", "--json"))
    from pyanamo_core.local import status

    cloud = status(folder / "state" / "pyanamo" / "local")
    assert cloud is not None
    s3 = cloud.clients().client("s3")
    s3.create_bucket(Bucket="1000genomes")
    for key, path in bucket_layout(cohort).items():
        s3.upload_file(str(path), "1000genomes", key, ExtraArgs={"ACL": "public-read"})
    # When ten of them are chosen, the genes given as loci, one rehearsed, and all run
    place = "s3://1000genomes/1000G_2504_high_coverage/data"
    listing = ("samples", "list", place, "--access", "anonymous", "--random", "10", "--seed", "7", "--by", "run")
    shell.pyanamo(*listing, "--out", "samples.tsv")
    script = "HaplotypeCaller-1KG.sh {argument}"
    shell.pyanamo("sheet", "make", "--items", "samples.tsv", "--script", script, "--args", LOCI)
    rehearsed = json.loads(shell.pyanamo("rehearse", "sheet.txt", "--json"))
    shell.pyanamo("run", "workflow.yaml", "--sheet", "sheet.txt", "--yes")
    # Then the items bear the runs' names, and every nest is done
    with (folder / "samples.tsv").open(newline="") as file:
        chosen = {row["run"]: row["sample"] for row in csv.DictReader(file, delimiter="\t")}
    assert len(chosen) == 10
    assert [one["outcome"] for one in rehearsed["nests"]] == ["done"]
    assert rehearsed["nests"][0]["value"] == LOCI.split(",")[0]
    nests = json.loads(shell.pyanamo("results", "list", "--json"))
    assert {(one["item"], one["value"]) for one in nests} == {
        (run, locus) for run in chosen for locus in LOCI.split(",")
    }
    assert {one["status"] for one in nests} == {"done"}
    # And the cohort's calls in the genes meet the truth
    shell.pyanamo("gather", "--out", "gvcf")
    shell.pyanamo("joint", "--out", "genes.vcf.gz")
    bed = folder / "genes.bed"
    bed.write_text(f"chr21\t{SOD1[0] - 1}\t{SOD1[1]}\nchr4\t{NEK1[0] - 1}\t{NEK1[1]}\n")
    scores = compare_with_truth(folder / "genes.vcf.gz", cohort.truth, bed, cohort.reference)
    score = total([one for one in scores if one.sample in chosen.values()])
    assert score.truth > 1000
    assert min(score.recall, score.precision) >= 0.98, score
