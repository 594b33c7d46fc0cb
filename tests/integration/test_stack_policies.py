"""The stack's roles against what a run really calls: every call of deploy, driver and pilots is allowed, nothing leaks.

The calls are recorded by the local cloud, which checks no permissions; what AWS would ask for them is worked out and
evaluated with the policies that the stack made. Each principal has an access key of its own, which says who asked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from guard_support import (
    ACCOUNT,
    ADMIN,
    DEPLOYER,
    DRIVER,
    PILOT,
    REGION,
    jobs_of,
    left_by,
    log_lines,
    objects_of,
    policies_of,
    recorded,
)
from policy_support import Needed, allowed, listed
from typer.testing import CliRunner

from pyanamo.main import app
from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.sheet import read_sheet
from pyanamo_core.stack.admin import deployer_policy
from pyanamo_core.workflow_file import read_workflow

MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"digest": "sha256:" + "0" * 64, "size": 1},
        "layers": [],
    }
)
SECRET = "pnu_0planted0secret0of0prefect0"
SHEET = """\
itemID|TaskID|TaskScript|TaskArgs
good|probe|probe.py|small,cloudwatch,object
bad|probe|probe.py|fail
"""
SCRIPT = '''\
#!/usr/bin/env python
"""Tells its whole environment, reads an input, writes an output."""
import hashlib, json, os, re, sys
import boto3
from pathlib import Path
s3 = boto3.client("s3")
told = "\\n".join(f"{name}={value}" for name, value in sorted(os.environ.items()))
print(told)
pid, keys = os.getppid(), set()
while pid > 1:  # the pilot is one of those who started this; only a hash of what it was given is told
    for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\\0"):
        if one.startswith(b"PREFECT_API_KEY="):
            keys.add(hashlib.sha256(one.partition(b"=")[2]).hexdigest())
    pid = int(re.search(r"PPid:\\s+(\\d+)", Path(f"/proc/{pid}/status").read_text())[1])
print("hashes of keys:", *keys)
s3.list_objects_v2(Bucket="reads", Prefix="cohort/")
s3.get_object(Bucket="reads", Key="cohort/sample")["Body"].read()
if sys.argv[1] == "fail":
    sys.exit(1)
print("x" * {"small": 10, "cloudwatch": 60_000, "object": 11_000_000}[sys.argv[1]])
bucket, _, prefix = os.environ["PYANAMO_OUTPUT"].removeprefix("s3://").partition("/")
body = told.encode()
s3.put_object(Bucket=bucket, Key=prefix + "environment.txt", Body=body)
made = {"uri": f"s3://{bucket}/{prefix}environment.txt", "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
with open(os.environ["PYANAMO_RESULT"], "w") as file:
    json.dump({"outputs": [made]}, file)
'''
WORKFLOW = """\
name: Guarded
queue: Guarded_Queue
job_definition: Guarded_JobDef
pilots: 2
vcpus: 1
memory_mb: 512
timing: {{lease_seconds: 6, beat_seconds: 1.5, sweep_seconds: 0.5, poll_seconds: 0.5, start_jitter_seconds: 0}}
budgets: {{tries: 1, retry_delay_seconds: 0}}
scripts: scripts
references:
  - {{name: ref, uri: "s3://reads/reference/ref.txt"}}
buckets:
  results: {results}
  inputs: [{{bucket: reads, access: role}}]
log_group: {log_group}
"""


@dataclass
class Played:
    """A run that was played: who asked for what, and all that it left."""

    needed: dict[str, list[Needed]] = field(default_factory=dict[str, "list[Needed]"])
    policies: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, "list[dict[str, Any]]"])
    left: dict[str, str] = field(default_factory=dict[str, str])
    output: str = ""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    home = tmp_path_factory.mktemp("cloud")
    yield up(Options(home=home, owner=os.getpid(), stop_seconds=2))
    down(home)


@pytest.fixture(scope="module")
def played(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """From an empty account to results, read, checked and cancelled, with each call recorded."""
    folder = tmp_path_factory.mktemp("guarded")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.environment().items():
            patch.setenv(name, value)
        patch.chdir(folder)
        return play(cloud, folder, patch)


def play(cloud: LocalCloud, folder: Path, patch: pytest.MonkeyPatch) -> Played:
    admin = Clients.with_keys(ADMIN, "x", cloud.endpoint, REGION)
    admin.client("s3").create_bucket(Bucket="reads")
    for key in ("cohort/sample", "reference/ref.txt"):
        admin.client("s3").put_object(Bucket="reads", Key=key, Body=b"ACGT")
    for key in ("S1.cram", "S1.cram.crai"):
        admin.client("s3").put_object(Bucket="reads", Key=f"cohort/{key}", Body=b"CRAM")
    key = admin.client("secretsmanager").create_secret(Name="prefect", SecretString=SECRET)["ARN"]
    (folder / "scripts").mkdir()
    (folder / "scripts" / "probe.py").write_text(SCRIPT)
    (folder / "scripts" / "probe.py").chmod(0o755)
    (folder / "workflow.yaml").write_text(WORKFLOW.format(results="s3://none-yet/lab", log_group="/none"))
    (folder / "sheet.txt").write_text(SHEET)

    cloud.watch()
    patch.setenv("AWS_ACCESS_KEY_ID", DEPLOYER)
    made = command("deploy", "--set", f"PrefectApiKeySecret={key}", "--set", f"Scratch={folder / 'scratch'}")
    outputs = made["outputs"]
    (folder / "workflow.yaml").write_text(WORKFLOW.format(results=outputs["Results"], log_group=outputs["LogGroup"]))

    patch.setenv("AWS_ACCESS_KEY_ID", DRIVER)
    ours = Clients.with_keys(DRIVER, "x", cloud.endpoint, REGION)
    workflow = read_workflow(folder / "workflow.yaml")
    outcome = driver.run(ours, workflow, sheet=read_sheet(folder / "sheet.txt"))
    assert (outcome.outcome, outcome.counts.done, outcome.counts.failed) == ("failed", 1, 1), list(log_lines(admin))[
        -40:
    ]
    for words in (
        ["status"],
        ["plan", "--sheet", "sheet.txt"],
        ["plan", "--sheet", "sheet.txt", "--look"],
        ["explain"],
        ["explain", "bad"],
        ["items", "jobs"],
        ["runs", "losses"],
        ["cost"],
        ["cost", "--by", "item"],
        ["results", "export", "report.html"],
        ["logs", "bad", "0"],
        ["logs", "good", "1"],
        ["logs", "good", "2"],
        ["results", "list"],
        ["results", "verify"],
        ["fsck", "--outputs"],
        ["items", "retry", "bad"],
        ["workflow", "scale", "autoscaling", "--writes", "25:400", "--reads", "25:400", "--yes"],
        ["workflow", "scale", "on-demand", "--yes"],
        ["run", "--detach", "--no-prefect", "--yes"],
    ):
        told = CliRunner().invoke(app, [*words, "--json"])
        assert told.exit_code in (0, 1), (words, told.output)
    repository = outputs["Repository"].partition("/")[2]
    admin.client("ecr").put_image(repositoryName=repository, imageManifest=MANIFEST, imageTag="latest")
    told = CliRunner().invoke(app, ["doctor", "--as-job", "--reads", "s3://reads/cohort/S1.cram", "--json"])
    lines = json.loads(told.stdout)["lines"]
    assert [line for line in lines if line["state"] == "wrong"] == []
    assert {line["where"] for line in lines} == {"here", "container"}
    live = next(run["run_id"] for run in command("runs", "list") if not run.get("ended"))
    command("runs", "cancel", live, "--yes")

    played = Played()
    played.needed = recorded(cloud, jobs_of(admin, "Guarded_Queue"))
    for key, output in ((PILOT, "JobRole"), (DRIVER, "DriverRole")):
        played.policies[key] = policies_of(admin, outputs[output])
    played.policies[DEPLOYER] = [deployer_policy("Guarded", made["given"], ACCOUNT, REGION)]
    played.left = left_by(cloud, admin, outputs["Bucket"], ["Guarded"], "Guarded", "Guarded_Queue")
    told = objects_of(admin, outputs["Bucket"])
    played.output = next(body for key, body in told.items() if key.endswith("environment.txt"))
    return played


def command(*words: str) -> Any:
    told = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


@pytest.mark.parametrize("who", [PILOT, DRIVER, DEPLOYER])
def test_every_call_of_a_whole_run_is_allowed(played: Played, who: str) -> None:
    # Given all that this principal called, from an empty account to a cancelled run
    assert len(set(map(str, played.needed[who]))) > 5
    # When each call is judged by the policies of its role
    refused = {str(one) for one in played.needed[who] if not allowed(played.policies[who], one)}
    # Then all are allowed; deploy's look for the bucket that the file names is one that may be refused
    assert refused <= {"s3:ListBucket on arn:aws:s3:::none-yet"}


UNUSED = {
    # of multipart uploads that are cut short
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
    # of AWS's own with the driver's permissions, when it makes what scales a table by itself, for the first time in an account
    "cloudwatch:PutMetricAlarm",
    "cloudwatch:DescribeAlarms",
    "cloudwatch:DeleteAlarms",
    "iam:CreateServiceLinkedRole",
    # `fsck --repair`, and what needs no call where tags are given at creation
    "dynamodb:DeleteItem",
    "dynamodb:TagResource",
    # `runs cancel`, when its pilots have left by themselves before their time
    "batch:TerminateJob",
    # the watcher, when jobs wait and nothing is left to claim
    "batch:CancelJob",
    # staging asks for a bucket's place only when it is told another region
    "s3:GetBucketLocation",
}


@pytest.mark.parametrize("who", [PILOT, DRIVER])
def test_nothing_is_allowed_that_no_run_needs(played: Played, who: str) -> None:
    # Given the actions that a role has, and those that were called
    has = {one for policy in played.policies[who] for told in policy["Statement"] for one in listed(told["Action"])}
    used = {one.action for one in played.needed[who]}
    # Then the rest is known, and has its reason
    assert has - used <= UNUSED
    assert not any("*" in one for one in has)


def test_a_planted_secret_reaches_the_pilot_and_nothing_else(played: Played) -> None:
    # Given a key for Prefect in Secrets Manager, named in the job definition
    assert "secretsmanager" in played.left["stack and job definition"]
    # When a run has ended whose task scripts printed and stored their whole environment
    assert "PYANAMO_ITEM=good" in played.output
    assert "PYANAMO_ITEM=good" in played.left["logs"]
    # Then the pilot that started them has it
    assert f"hashes of keys: {hashlib.sha256(SECRET.encode()).hexdigest()}" in played.left["logs"]
    # And its value is nowhere else, not even its name in a task's environment
    for place, text in played.left.items():
        assert text, place
        assert SECRET not in text, place
    assert "PREFECT_API_KEY" not in played.output
