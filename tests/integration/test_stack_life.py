"""`pyanamo deploy` and `destroy` against the local cloud: made, changed, gone, made again around the data that stayed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from pyanamo.main import app
from pyanamo_core.aws import Clients
from pyanamo_core.local import LocalCloud, Options, down, up

WORKFLOW = """\
name: {name}
queue: {name}_Queue
job_definition: {name}_JobDef
vcpus: 2
memory_mb: 2048
wall_time_seconds: 7200
buckets:
  results: s3://not-made-yet/lab
  inputs:
    - bucket: reads
    - bucket: public
      access: anonymous
"""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud of its own: a stack that another test left would be found by its name."""
    home = tmp_path_factory.mktemp("cloud")
    yield up(Options(home=home, owner=os.getpid(), stop_seconds=2))
    down(home)


@pytest.fixture
def clients(cloud: LocalCloud) -> Clients:
    return cloud.clients()


@pytest.fixture(autouse=True)
def place(cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def pyanamo(*words: str) -> Result:
    return CliRunner().invoke(app, [*words], catch_exceptions=False)


def told(*words: str) -> Any:
    result = pyanamo(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def workflow(name: str) -> None:
    Path("workflow.yaml").write_text(WORKFLOW.format(name=name))


def stacks(clients: Clients) -> list[str]:
    return [each["StackName"] for each in clients.client("cloudformation").describe_stacks()["Stacks"]]


def test_a_dry_run_shows_the_change_set_and_leaves_nothing(clients: Clients) -> None:
    # Given a workflow file, when its stack is only shown
    workflow("Dry")
    shown = told("deploy", "--dry-run")
    # Then its changes are told, and neither stack, roles of AWS nor anything else was made
    assert {"action": "Add", "thing": "SpotQueue", "kind": "AWS::Batch::JobQueue", "replaces": ""} in shown["changes"]
    assert shown["given"]["InputBuckets"] == "reads"
    assert shown["outputs"] == {}
    assert "Dry" not in stacks(clients)
    assert clients.client("batch").describe_job_queues(jobQueues=["Dry_Queue"])["jobQueues"] == []


def test_a_stack_is_made_changed_deleted_and_made_again_around_its_data(clients: Clients) -> None:
    # Given a stack that was made from a workflow file
    workflow("Whole")
    first = told("deploy")
    outputs = first["outputs"]
    assert outputs["Queue"] == "Whole_Queue"
    assert outputs["OnDemandQueue"] == "Whole_OnDemandQueue"
    assert outputs["Results"] == f"s3://{outputs['Bucket']}/lab"
    assert re.fullmatch(r"arn:aws:iam::\d+:role/Whole-RunnerRole-\w+", outputs["DriverRole"])
    batch = clients.client("batch")
    (definition,) = batch.describe_job_definitions(jobDefinitionName="Whole_JobDef")["jobDefinitions"]
    needs = {one["type"]: one["value"] for one in definition["containerProperties"]["resourceRequirements"]}
    assert needs == {"VCPU": "2", "MEMORY": "2048"}
    # When it is deployed again as it is, then nothing is to change
    assert told("deploy")["changes"] == []
    # When a ceiling is raised, then this is another one, and every other parameter is as it was
    # (the machines themselves moto leaves as they are: AWS alone can show their update in place)
    told("deploy", "--set", "SpotVcpus=64")
    (stack,) = clients.client("cloudformation").describe_stacks(StackName="Whole")["Stacks"]
    values = {one["ParameterKey"]: one["ParameterValue"] for one in stack["Parameters"]}
    assert (values["SpotVcpus"], values["OnDemandVcpus"], values["InputBuckets"]) == ("64", "0", "reads")
    assert len(stack["Outputs"]) == len(outputs)
    # When there are results, and the stack is destroyed
    clients.client("s3").put_object(Bucket=outputs["Bucket"], Key="lab/Whole/result", Body=b"weeks of work")
    gone = told("destroy", "--yes")
    # Then queues, machines and network are gone, and the data stay
    assert "Whole" not in stacks(clients)
    assert batch.describe_job_queues()["jobQueues"] == []
    assert batch.describe_compute_environments()["computeEnvironments"] == []
    assert gone["kept"] == {
        "Bucket": outputs["Bucket"],
        "LogGroup": outputs["LogGroup"],
        "Repository": "pyanamo/whole",
    }
    # When it is made again, then it takes what stayed
    again = told("deploy")["outputs"]
    assert {name: again[name] for name in ("Bucket", "LogGroup", "Results")} == {
        name: outputs[name] for name in ("Bucket", "LogGroup", "Results")
    }
    body = clients.client("s3").get_object(Bucket=again["Bucket"], Key="lab/Whole/result")["Body"].read()
    assert body == b"weeks of work"
    # And told so, destroy takes the data along
    told("destroy", "--with-data", "--yes")
    assert outputs["Bucket"] not in [each["Name"] for each in clients.client("s3").list_buckets()["Buckets"]]
    nothing = pyanamo("destroy", "--with-data", "--yes")
    assert (nothing.exit_code, "no stack Whole" in nothing.output) == (4, True)


def test_the_data_of_a_stack_of_the_same_name_in_another_region_stay(clients: Clients) -> None:
    # Given a stack, and a newer bucket of one of the same name elsewhere
    workflow("Twice")
    bucket = told("deploy", "--set", "Image=x")["outputs"]["Bucket"]
    s3 = clients.client("s3")
    other = "twice-resultsbucket-newer"
    s3.create_bucket(Bucket=other, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket=other, Key="lab/Twice/result", Body=b"weeks of work")
    # When the stack is destroyed with its data, then its own bucket goes, and the other stays
    told("destroy", "--with-data", "--yes")
    names = [each["Name"] for each in s3.list_buckets()["Buckets"]]
    assert (bucket in names, other in names) == (False, True)
    assert s3.get_object(Bucket=other, Key="lab/Twice/result")["Body"].read() == b"weeks of work"
    # And neither a new stack takes it, nor the end of one that is gone, nor of one to which it was given
    assert "Bucket" not in told("deploy", "--dry-run", "--set", "Image=x")["given"]
    assert pyanamo("destroy", "--with-data", "--yes").exit_code == 4
    told("deploy", "--set", "Image=x", "--set", f"Bucket={other}")
    told("destroy", "--with-data", "--yes")
    assert s3.get_object(Bucket=other, Key="lab/Twice/result")["Body"].read() == b"weeks of work"


def test_the_newest_bucket_of_a_name_is_not_taken_for_that_of_a_stack_with_another(clients: Clients) -> None:
    # Given a stack, and in the same region a newer bucket whose name begins like that of its own
    workflow("Alike")
    bucket = told("deploy", "--set", "Image=x")["outputs"]["Bucket"]
    s3 = clients.client("s3")
    s3.create_bucket(Bucket="alike-resultsbucket-newer")
    # When the stack is destroyed with its data, then the bucket that it made goes, and no other
    told("destroy", "--with-data", "--yes")
    names = [each["Name"] for each in s3.list_buckets()["Buckets"]]
    assert (bucket in names, "alike-resultsbucket-newer" in names) == (False, True)


def test_destroy_asks_and_a_no_changes_nothing(clients: Clients) -> None:
    # Given a stack in a network that is given, and nobody to answer
    workflow("Asked")
    ec2 = clients.client("ec2")
    network = next(one["VpcId"] for one in ec2.describe_vpcs()["Vpcs"] if one["IsDefault"])
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [network]}])["Subnets"]
    names = ",".join(one["SubnetId"] for one in subnets[:2])
    before = len(ec2.describe_vpcs()["Vpcs"])
    told("deploy", "--set", f"VpcId={network}", "--set", f"Subnets={names}", "--set", "Bucket=lab", "--set", "Image=x")
    assert len(ec2.describe_vpcs()["Vpcs"]) == before
    # When it is destroyed without --yes
    result = pyanamo("destroy")
    # Then it is refused, and the stack is there
    assert (result.exit_code, "--yes" in result.output) == (5, True)
    assert "Asked" in stacks(clients)
    # And with its data, the given bucket is not among them
    assert "Bucket" not in told("destroy", "--yes")["kept"]


def test_a_stack_that_waits_for_its_first_change_set_is_removed_and_made(clients: Clients) -> None:
    # Given what a deploy that was killed before it executed its change set leaves
    workflow("Killed")
    from pyanamo_core.stack.template import template_text

    asked = {"StackName": "Killed", "ChangeSetName": "killed", "ChangeSetType": "CREATE"}
    clients.client("cloudformation").create_change_set(
        **asked, TemplateBody=template_text(), Capabilities=["CAPABILITY_IAM"]
    )
    # When the same command is given again, then the stack is made, once
    told("deploy", "--set", "Image=x")
    assert stacks(clients).count("Killed") == 1
    told("destroy", "--yes")


def test_a_stack_with_jobs_in_its_queue_is_not_deleted(cloud: LocalCloud, clients: Clients) -> None:
    # Given a stack with a job that waits for a machine
    workflow("Busy")
    told("deploy", "--set", "Image=x")
    cloud.hold("Busy_Queue", "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - none")
    batch = clients.client("batch")
    asked = {"jobName": "waits", "jobQueue": "Busy_Queue", "jobDefinition": "Busy_JobDef"}
    job = batch.submit_job(**asked, containerOverrides={"command": ["true"]})["jobId"]
    # When it is destroyed, then it is refused, and everything is there
    refused = pyanamo("destroy", "--yes")
    assert (refused.exit_code, "1 jobs are in queue Busy_Queue" in refused.output) == (5, True)
    assert "Busy" in stacks(clients)
    # When the job is ended, then the stack goes
    batch.cancel_job(jobId=job, reason="test")
    cloud.release("Busy_Queue")
    told("destroy", "--yes")
    assert "Busy" not in stacks(clients)


def test_a_parameter_that_does_not_exist_changes_nothing(clients: Clients) -> None:
    workflow("Wrong")
    result = pyanamo("deploy", "--set", "Spots=3")
    assert (result.exit_code, "no parameter Spots" in result.output) == (3, True)
    assert "Wrong" not in stacks(clients)
