"""The stack's roles against what a run really calls: every call of deploy, driver and pilots is allowed, nothing leaks.

The calls are recorded by the local cloud, which checks no permissions; what AWS would ask for them is worked out and
evaluated with the policies that the stack made. Each principal has an access key of its own, which says who asked.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from policy_support import Needed, allowed, listed, needs
from typer.testing import CliRunner

from pyanamo.main import app
from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.local.container import ACCESS_KEY as PILOT
from pyanamo_core.sheet import read_sheet
from pyanamo_core.stack.admin import deployer_policy
from pyanamo_core.workflow_file import read_workflow

SECRET = "pnu_0planted0secret0of0prefect0"
REGION = "us-east-1"
ACCOUNT = "123456789012"
DRIVER, DEPLOYER = "DRIVERSKEY", "DEPLOYERSKEY"
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
    admin = Clients.with_keys("ADMINSKEY", "x", cloud.endpoint, REGION)
    admin.client("s3").create_bucket(Bucket="reads")
    for key in ("cohort/sample", "reference/ref.txt"):
        admin.client("s3").put_object(Bucket="reads", Key=key, Body=b"ACGT")
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
        ["logs", "bad", "0"],
        ["logs", "good", "1"],
        ["logs", "good", "2"],
        ["results", "list"],
        ["results", "verify"],
        ["fsck", "--outputs"],
        ["items", "retry", "bad"],
        ["run", "--detach", "--no-prefect"],
    ):
        told = CliRunner().invoke(app, [*words, "--json"])
        assert told.exit_code in (0, 1), (words, told.output)
    live = next(run["run_id"] for run in command("runs", "list") if not run.get("ended"))
    command("runs", "cancel", live, "--yes")

    played = Played()
    seen = cloud.seen()
    tags = {}
    batch = admin.client("batch")
    jobs = batch.list_jobs(jobQueue="Guarded_Queue", filters=[{"name": "JOB_NAME", "values": ["*"]}])["jobSummaryList"]
    described = batch.describe_jobs(jobs=[job["jobId"] for job in jobs])["jobs"]
    for job in described:
        tags[job["jobId"]] = job["tags"].get("pyanamo", "")
    for request in seen:
        if request["key"] in (PILOT, DRIVER, DEPLOYER):
            played.needed.setdefault(request["key"], []).extend(needs(request, ACCOUNT, REGION, tags))
    iam = admin.client("iam")
    for key, output in ((PILOT, "JobRole"), (DRIVER, "DriverRole")):
        role = outputs[output].rpartition("/")[2]
        names = iam.list_role_policies(RoleName=role)["PolicyNames"]
        told = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
        # moto keeps a role's inline policy as Python would print it.
        played.policies[key] = [ast.literal_eval(one) if isinstance(one, str) else one for one in told]
    played.policies[DEPLOYER] = [deployer_policy("Guarded", made["given"], ACCOUNT, REGION)]

    played.left["submissions and overrides"] = json.dumps([described, [one["asked"] for one in seen]], default=str)
    played.left["rows"] = json.dumps(rows(admin, "Guarded"), default=str)
    played.left["logs"] = "\n".join(log_lines(admin))
    s3, objects = admin.client("s3"), []
    for one in s3.list_objects_v2(Bucket=outputs["Bucket"])["Contents"]:
        body = s3.get_object(Bucket=outputs["Bucket"], Key=one["Key"])["Body"].read()
        objects.append(body.decode("utf-8", "replace"))
        if one["Key"].endswith("environment.txt"):
            played.output = objects[-1]
    played.left["objects"] = "\n".join(objects)
    stack = admin.client("cloudformation").describe_stacks(StackName="Guarded")["Stacks"]
    definitions = batch.describe_job_definitions(jobDefinitionName="Guarded_JobDef")["jobDefinitions"]
    played.left["stack and job definition"] = json.dumps([stack, definitions], default=str)
    return played


def command(*words: str) -> Any:
    told = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def rows(clients: Clients, table: str) -> list[Any]:
    pages = clients.client("dynamodb").get_paginator("scan").paginate(TableName=table)
    return [row for page in pages for row in page["Items"]]


def log_lines(clients: Clients) -> Iterator[str]:
    logs = clients.client("logs")
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for stream in logs.describe_log_streams(logGroupName=name)["logStreams"]:
            told = logs.get_log_events(logGroupName=name, logStreamName=stream["logStreamName"], startFromHead=True)
            yield from (event["message"] for event in told["events"])


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
    "s3:DeleteObject",
    # `workflow scale`, `fsck --repair`, and what needs no call where tags are given at creation
    "dynamodb:UpdateTable",
    "dynamodb:DeleteItem",
    "dynamodb:TagResource",
    # `runs cancel`, when its pilots have left by themselves before their time
    "batch:TerminateJob",
    # the watcher, when jobs wait and nothing is left to claim; `status`, when nothing starts; a table that is not there
    "batch:CancelJob",
    "batch:DescribeComputeEnvironments",
    "dynamodb:DescribeTable",
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
