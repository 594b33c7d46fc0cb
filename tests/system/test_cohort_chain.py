"""`pyanamo cohort run` with GATK on a simulated cohort, killed in each step: from reads in a bucket to a VCF that is true."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driver_support import Place, recorded_once, wait_for

from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import State

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

WORKFLOW = """
name: {name}
queue: {name}
job_definition: {name}
pilots: 1
items: 1
nests: 2
memory_mb: 3072
timing: {{lease_seconds: 20, beat_seconds: 5, sweep_seconds: 0.5, poll_seconds: 1, start_jitter_seconds: 0}}
buckets:
  results: s3://{name}/results
  inputs:
    - bucket: {name}
references:
  - name: ref
    uri: s3://{name}/input/{reference}
verify: pyanamo_core.genomics.gvcf:verify_outputs
cohort:
  gather: {{items: 1}}
  joint: {{items: 1, region_bases: 20000}}
"""
LOCI = ("demo1:1-20000", "demo1:20001-36000", "demo2:1-24000")
SAMPLES = ("DEMO0001", "DEMO0002", "DEMO0003")


class User:
    """Somebody with reads in a bucket, a workflow file and a sheet."""

    def __init__(self, cloud: LocalCloud, name: str, folder: Path, cohort: Cohort, samples: tuple[str, ...]) -> None:
        self.place, self.name, self.folder = Place(cloud, name, folder, memory=3072), name, folder
        self.clients = self.place.clients
        s3 = self.clients.client("s3")
        for path in sorted(cohort.folder.iterdir()):
            if path.is_file():
                s3.upload_file(str(path), name, f"input/{path.name}")
        (folder / "workflow.yaml").write_text(WORKFLOW.format(name=name, reference=cohort.reference.name))
        self.cohort = cohort
        self.sheet(samples)

    def sheet(self, samples: tuple[str, ...]) -> None:
        script = "${PIPELINE}/HaplotypeCaller-1KG.sh"
        rows = [
            f"{sample}|HC|{script} s3://{self.name}/input/{self.cohort.reads[sample].name}|{','.join(LOCI)}\n"
            for sample in samples
        ]
        (self.folder / "sheet.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\n" + "".join(rows))

    def begins(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pyanamo", "cohort", *arguments]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, **pipes)

    def types(self, *arguments: str) -> str:
        process = self.begins(*arguments)
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err
        return out

    def table(self, step: str) -> str:
        return self.name + {"call": "", "gather": "-gather"}.get(step, "-joint")

    def ledger(self, step: str) -> Ledger:
        return open_ledger(self.clients, self.table(step))[0]

    def at_work(self, step: str) -> bool:
        """Does a pilot hold an item of this step?"""
        try:
            held = self.ledger(step).items(State.LOCKED)
            return any((item.item_id == "cohort") == (step == "concat") for item in held)
        except Exception:  # noqa: BLE001 - the table is not there yet
            return False

    def fences(self) -> dict[str, dict[str, int]]:
        return {step: {i.item_id: i.fence for i in self.ledger(step).items()} for step in ("call", "gather", "joint")}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    prepare()
    contigs = (("demo1", 36_000), ("demo2", 24_000))
    return simulate_cohort(tmp_path_factory.mktemp("reads"), contigs=contigs, samples=SAMPLES)


@pytest.fixture
def user(
    local_cloud: LocalCloud,
    cloud_environment: dict[str, str],
    unique_name: str,
    tmp_path: Path,
    simulated: Cohort,
) -> User:
    return User(local_cloud, unique_name, tmp_path, simulated, SAMPLES[:2])


def test_a_cohort_killed_in_each_step_ends_as_a_true_vcf_and_a_new_sample_costs_only_its_own(
    user: User, simulated: Cohort
):
    command = ("run", "workflow.yaml", "--sheet", "sheet.txt", "--no-prefect", "--yes", "--json")
    # Given a chain that is killed in each of its steps, while its pilots go on
    for step in ("call", "gather", "joint", "concat"):
        process = user.begins(*command)
        try:
            wait_for(lambda step=step: user.at_work(step), seconds=300)
        finally:
            process.kill()
            process.communicate()
    # When it is given again
    told = json.loads(user.types(*command))
    # Then each step is done, each item by one attempt
    assert {one["step"]: one["state"] for one in told["steps"]} == dict.fromkeys(
        ("call", "gather", "joint", "concat", "report"), "done"
    )
    for step in ("call", "gather", "joint"):
        recorded_once(user.ledger(step))
        assert {len(user.ledger(step).attempts(item.item_id)) for item in user.ledger(step).items()} == {1}
    # And the VCF is that of the two samples, and true
    score = judged(user, told["vcf"], simulated, SAMPLES[:2])
    assert min(score) >= 0.99, score
    assert user.clients.client("s3").head_object(**bucket_and_key(told["report"]))["ContentLength"] > 1000
    # When the same is given once more, then nothing is done
    before = user.fences()
    assert json.loads(user.types(*command))["vcf"] == told["vcf"]
    assert user.fences() == before
    # When a sample comes, then it is called and gathered, the old ones stay, and all regions are called again
    user.sheet(SAMPLES)
    told = json.loads(user.types(*command))
    after = user.fences()
    for step in ("call", "gather"):
        assert {sample: after[step][sample] for sample in SAMPLES[:2]} == before[step]
        assert set(after[step]) == set(SAMPLES)
    assert all(after["joint"][item] > fence for item, fence in before["joint"].items())
    score = judged(user, told["vcf"], simulated, SAMPLES)
    assert min(score) >= 0.99, score


def bucket_and_key(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def judged(user: User, uri: str, simulated: Cohort, samples: tuple[str, ...]) -> tuple[float, float]:
    """Recall and precision of the VCF's samples, over all of them."""
    import pysam

    from pyanamo_core.genomics.compare import compare_with_truth, total

    path = user.folder / "cohort.vcf.gz"
    where = bucket_and_key(uri)
    for suffix in ("", ".tbi"):
        user.clients.client("s3").download_file(where["Bucket"], where["Key"] + suffix, f"{path}{suffix}")
    with pysam.VariantFile(str(path)) as found:
        assert tuple(found.header.samples) == samples
    agreements = compare_with_truth(path, simulated.truth, simulated.callable_bed, simulated.reference)
    all_of_them = [one for one in agreements if one.sample in samples]
    summed = total(all_of_them)
    assert summed.truth > 0
    return summed.recall, summed.precision
