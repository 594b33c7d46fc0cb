"""`pyanamo gather` and `pyanamo joint` over a bucket: given again they go on, and say what they keep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from driver_support import Place
from genomics_support import run_task

from pyanamo_core import driver
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort
from pyanamo_core.ledger import Ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import Definition, Nest, NestStatus, Output
from pyanamo_core.workflow import Reference, Timing

LOCI = ("demo1:1-6000", "demo1:6001-12000")


class Lab:
    """A table whose items were called by the second caller, its results in a bucket, and a user who types commands."""

    def __init__(self, place: Place, folder: Path, cohort: Cohort, environment: dict[str, str]) -> None:
        self.place, self.folder, self.cohort, self.environment = place, folder, cohort, environment
        reference = Reference(name="ref", uri=str(cohort.reference))
        workflow = place.workflow(references=(reference,), timing=Timing())
        self.ledger = Ledger(place.clients, driver.provision(place.clients, workflow).table, rules=workflow.rules)

    def called(self, sample: str, nests: tuple[int, ...] = (0, 1)) -> None:
        """An item done, or nests of it done again."""
        self.ledger.import_item(sample, "HC", Definition(script="call", arguments=LOCI))
        claim = self.ledger.claim(sample, "pilot")
        assert claim is not None
        for number in nests:
            where = f"s3://{self.place.name}/work/{sample}/{number}/{claim.fence}"
            work = self.folder / f"call-{sample}-{number}-{claim.fence}"
            ran = run_task(
                self.cohort.reads[sample],
                LOCI[number],
                self.cohort.reference,
                where,
                work,
                HC_CALLER="bcftools",
                **self.environment,
            )
            assert ran.code == 0, ran.stderr
            row = Nest(
                item_id=sample,
                epoch=claim.epoch,
                index=number,
                status=NestStatus.DONE,
                fence=claim.fence,
                outputs=tuple(
                    Output(uri=o["uri"], bytes=o["bytes"], sha256=o["sha256"]) for o in ran.result["outputs"]
                ),
                figures={"sample": sample},
            )
            self.ledger.record_nest(claim, row)
        self.ledger.finish(claim, nests_done=len(LOCI))

    def begins(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pyanamo", *words, "--table", self.ledger.table, "--json"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=self.folder, env={**os.environ, **self.environment}, **pipes)

    def types(self, *words: str) -> Any:
        process = self.begins(*words)
        out, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        return json.loads(out)

    def keys(self, part: str) -> list[str]:
        listed = self.place.clients.client("s3").list_objects_v2(Bucket=self.place.name).get("Contents", ())
        return [one["Key"] for one in listed if part in one["Key"]]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    contigs, samples = (("demo1", 12_000),), ("DEMO0001", "DEMO0002", "DEMO0003")
    return simulate_cohort(tmp_path_factory.mktemp("cohort"), depth=12, contigs=contigs, samples=samples)


def test_gather_and_joint_go_on_after_a_kill_and_call_again_only_what_changed(
    local_cloud: LocalCloud, unique_name: str, tmp_path: Path, cohort: Cohort
) -> None:
    # Given two samples that were called, and gathered
    lab = Lab(Place(local_cloud, unique_name, tmp_path), tmp_path, cohort, local_cloud.environment())
    for sample in ("DEMO0001", "DEMO0002"):
        lab.called(sample)
    assert [one["kept"] for one in lab.types("gather")] == [False, False]
    assert [one["kept"] for one in lab.types("gather")] == [True, True]
    options = ("joint", "--region-bases", "3000")
    assert len(lab.types(*options, "--dry-run")["call"]) == 4
    # When the joint call is killed behind its first region, and given again
    killed = lab.begins(*options)
    deadline = time.monotonic() + 60
    while not (
        first := lab.keys("manifest.json") and [k for k in lab.keys("/regions/") if k.endswith("manifest.json")]
    ):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    told = lab.types(*options)
    # Then the regions that were done are kept, and the VCF is whole
    assert told["regions"] == 4
    assert told["kept"] >= len(first)
    assert told["variants"] > 10
    # When a region is damaged without a change of its size, then the cohort is refused once, and it is called again
    damaged = next(key for key in lab.keys("/regions/") if key.endswith("_6000.vcf.gz"))
    s3 = lab.place.clients.client("s3")
    whole = s3.get_object(Bucket=lab.place.name, Key=damaged)["Body"].read()
    s3.put_object(Bucket=lab.place.name, Key=damaged, Body=whole[:4] + b"\x01" + whole[5:])
    refused = lab.begins(*options)
    said = refused.communicate(timeout=60)[1]
    assert refused.returncode == 5
    assert "it was recorded with" in said
    assert (again := lab.types(*options))["called"] == 1
    assert again["variants"] == told["variants"]
    # When a locus of one sample is done again, then the old gVCF is not taken any more
    lab.ledger.redo(lab.ledger.item("DEMO0001"), [1])
    lab.called("DEMO0001", (1,))
    refused = lab.begins(*options)
    said = refused.communicate(timeout=60)[1]
    assert refused.returncode == 5
    assert "Gather it again: pyanamo gather DEMO0001" in said
    # And once it is gathered, the regions near that locus are called again, and no other
    assert [one["kept"] for one in lab.types("gather")] == [False, True]
    planned = lab.types(*options, "--dry-run")
    assert planned["keep"] == ["demo1_000000001_3000", "demo1_000003001_6000"]
    told = lab.types(*options)
    assert (told["called"], told["kept"]) == (2, 2)
    # And a sample more changes all
    lab.called("DEMO0003")
    lab.types("gather")
    assert len(lab.types(*options, "--dry-run")["call"]) == 4
    assert lab.types(*options)["samples"] == ["DEMO0001", "DEMO0002", "DEMO0003"]
