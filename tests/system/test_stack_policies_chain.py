"""The stack's roles against a whole cohort under Prefect: reads to VCF, beside earlier cohorts, with a key for Prefect planted.

As tests/integration/test_stack_policies.py, with the flows and the chain of tables instead of one table and its commands.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from flows_support import Api
from guard_support import (
    ACCOUNT,
    ADMIN,
    DEPLOYER,
    DRIVER,
    PILOT,
    REGION,
    jobs_of,
    left_by,
    policies_of,
    recorded,
)
from policy_support import Needed, allowed
from pyanamo_flows.server import PrefectServer

from pyanamo_core.aws import Clients
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.local.provision import ensure_compute
from pyanamo_core.stack.admin import deployer_policy

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SECRET = "pnu_0planted0secret0of0another0prefect0"
SAMPLES = ("DEMO0001", "DEMO0002", "DEMO0003")
TABLES = ("Cohort", "Cohort-gather", "Cohort-joint")
QUICK = {"lease_seconds": 20, "beat_seconds": 5, "sweep_seconds": 0.5, "poll_seconds": 0.5, "start_jitter_seconds": 0}


@dataclass
class Played:
    """What was recorded, what it is judged by, and all that it left."""

    needed: dict[str, list[Needed]] = field(default_factory=dict[str, "list[Needed]"])
    policies: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, "list[dict[str, Any]]"])
    left: dict[str, str] = field(default_factory=dict[str, str])
    flows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class Lab:
    """A folder, a shell and a cloud; `types` runs a command with one principal's access key."""

    def __init__(self, cloud: LocalCloud, server: PrefectServer, folder: Path) -> None:
        self.cloud, self.server, self.folder = cloud, server, folder
        self.admin = Clients.with_keys(ADMIN, "x", cloud.endpoint, REGION)
        self.s3 = self.admin.client("s3")

    def types(self, key: str, *words: str, prefect: bool = False) -> Any:
        own = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_STATE_HOME") if name in os.environ}
        told = own | self.cloud.environment() | {"AWS_ACCESS_KEY_ID": key}
        if prefect:
            told |= self.server.client_environment() | {"PREFECT_API_KEY": SECRET}
        done = subprocess.run(
            [sys.executable, "-m", "pyanamo", *words, "--json"],
            cwd=self.folder,
            env=told,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def write(self, name: str, sample: str, simulated: Cohort, **more: Any) -> None:
        """workflow.yaml and sheet.txt of a cohort of one sample with one locus."""
        told = {
            "name": name,
            "queue": f"{name}_Queue",
            "job_definition": f"{name}_JobDef",
            "pilots": 1,
            "nests": 1,
            "vcpus": 1,
            "memory_mb": 1024,
            "image": "none",
            "timing": QUICK,
            "buckets": {"results": "s3://lab/calls", "inputs": [{"bucket": "reads"}]},
            "references": [{"name": "ref", "uri": f"s3://genomes/{simulated.reference.name}"}],
            "verify": "pyanamo_core.genomics.gvcf:verify_outputs",
            "parameters": {"HC_CALLER": "bcftools"},
        }
        (self.folder / "workflow.yaml").write_text(yaml.safe_dump(told | more))
        line = f"{sample}|HC|HaplotypeCaller-1KG.sh s3://reads/{simulated.reads[sample].name}|demo1:1-6000"
        (self.folder / "sheet.txt").write_text(f"itemID|TaskID|TaskScript|TaskArgs\n{line}\n")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("cloud")
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as server:
        yield Lab(up(Options(home=home, owner=os.getpid(), stop_seconds=2)), server, tmp_path_factory.mktemp("lab"))
        down(home)


@pytest.fixture(scope="module")
def played(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Two cohorts of the past, of which one is a table and one a folder of gVCFs; then ours, with both, as a flow."""
    folder = tmp_path_factory.mktemp("reads")
    cohort = simulate_cohort(folder, depth=12, contigs=(("demo1", 6000),), samples=SAMPLES)
    for bucket in ("reads", "genomes", "lab", "adopted"):
        lab.s3.create_bucket(Bucket=bucket)
    for path in folder.iterdir():
        if path.is_file():
            lab.s3.upload_file(str(path), "reads", path.name)
            lab.s3.upload_file(str(path), "genomes", path.name)
    for name, sample in (("Early", SAMPLES[0]), ("Older", SAMPLES[1])):
        ensure_compute(lab.admin, f"{name}_Queue", f"{name}_JobDef")
        lab.write(name, sample, cohort)
        lab.types(ADMIN, "cohort", "run", "workflow.yaml", "--sheet", "sheet.txt", "--to", "gather", "--yes")
    lab.types(ADMIN, "results", "publish", "--to", "s3://adopted/2025", "--table", "Older-gather")

    # Everything from here on is recorded.
    key = lab.admin.client("secretsmanager").create_secret(Name="prefect", SecretString=SECRET)["ARN"]
    also = ["Early", "s3://adopted/2025"]
    lab.write("Cohort", SAMPLES[2], cohort, cohort={"also": also})
    lab.cloud.watch()
    scratch = lab.folder / "scratch"
    given = {"PrefectApiKeySecret": key, "Scratch": scratch, "Bucket": "lab"}
    settings = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    made = lab.types(DEPLOYER, "deploy", *settings)
    outputs = made["outputs"]
    assert outputs["Results"] == "s3://lab/calls"
    lab.write("Cohort", SAMPLES[2], cohort, cohort={"also": also}, log_group=outputs["LogGroup"])
    lab.types(DRIVER, "cohort", "plan", "workflow.yaml", "--sheet", "sheet.txt")
    done = lab.types(DRIVER, "cohort", "run", "workflow.yaml", "--sheet", "sheet.txt", "--yes", prefect=True)
    assert {one["state"] for one in done["steps"]} == {"done"}
    lab.types(DRIVER, "cohort", "status")
    lab.types(DRIVER, "results", "qc", "--table", "Cohort")
    lab.types(DRIVER, "results", "get", "cohort", "--table", "Cohort-joint", "--out", "cohort")

    played = Played(recorded(lab.cloud, jobs_of(lab.admin, "Cohort_Queue")))
    for who, output in ((PILOT, "JobRole"), (DRIVER, "DriverRole")):
        played.policies[who] = policies_of(lab.admin, outputs[output])
    played.policies[DEPLOYER] = [deployer_policy("Cohort", made["given"], ACCOUNT, REGION)]
    played.left = left_by(lab.cloud, lab.admin, "lab", TABLES, "Cohort", "Cohort_Queue")
    api = Api(lab.server.api_url)
    played.flows = api.post("/flow_runs/filter", limit=200)
    played.left["Prefect"] = json.dumps([played.flows, api.post("/logs/filter", limit=200)])
    return played


@pytest.mark.parametrize("who", [PILOT, DRIVER, DEPLOYER])
def test_every_call_of_a_cohort_as_a_flow_is_allowed(played: Played, who: str) -> None:
    # Given all calls of a cohort from an empty stack to its VCF, with pilots as flow runs
    names = {one["name"] for one in played.flows}
    assert len(names) > 5, names
    assert len(set(map(str, played.needed[who]))) > 5
    # When each call is judged by the policies of its role, then all are allowed
    assert {str(one) for one in played.needed[who] if not allowed(played.policies[who], one)} == set()


def test_what_a_cohort_takes_in_was_read_by_the_stacks_own_permissions(played: Played) -> None:
    # Given the calls, then among them are those that only `cohort: also` allows
    by_driver, by_pilots = ({str(one) for one in played.needed[who]} for who in (DRIVER, PILOT))
    assert any("s3:ListBucket on arn:aws:s3:::adopted" in one for one in by_driver)
    assert any("table/Early-gather" in one for one in by_driver)
    assert any("arn:aws:s3:::lab/calls/Early-gather/" in one for one in by_pilots)
    assert any("arn:aws:s3:::adopted/2025/" in one for one in by_pilots)
    # And without it they would be refused
    plain = [one for policy in played.policies[PILOT] for one in policy["Statement"]]
    narrow = [{"Statement": [one for one in plain if "adopted" not in json.dumps(one)]}]
    assert not all(allowed(narrow, one) for one in played.needed[PILOT])


def test_the_key_for_prefect_is_nowhere_but_in_the_secret(played: Played) -> None:
    assert "secretsmanager" in played.left["stack and job definition"]
    assert played.flows
    for place, text in played.left.items():
        assert text, place
        assert SECRET not in text, place
