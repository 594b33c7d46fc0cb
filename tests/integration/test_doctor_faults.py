"""`pyanamo doctor` on faults that were put there one by one: each is found by its name, with how to mend it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from doctor_support import ACCOUNT, CRAM, EC2, ECS, REGION, Ward, bad, the

from pyanamo_core.aws import Clients
from pyanamo_core.doctor import State
from pyanamo_core.local import LocalCloud

Undo = Callable[[], Any]
Fault = Callable[[Ward], Undo]


@pytest.fixture(scope="module")
def standing(local_cloud: LocalCloud) -> Ward:
    return Ward(local_cloud, f"ward-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def ward(misbehaving_cloud: LocalCloud, standing: Ward) -> Ward:
    """A healthy place; a test that changes it puts it right again."""
    return standing


def test_in_a_healthy_place_nothing_is_wrong_and_what_cannot_be_known_is_said(ward: Ward) -> None:
    # Given all that a run needs, and somebody who listens
    ward.cloud.watch()
    lines = ward.examined()
    # Then nothing is wrong, and nothing is left to warn of
    assert bad(lines) == []
    # And each thing of a run has its line
    looked_at = {line.check for line in lines if line.state is State.OK}
    assert looked_at >= {
        *("region", "credentials", "clock", "table", "index", "table rights", "workflow", "queue", "subnets"),
        *("compute environment", "job definition", "image", "job role", "execution role", "instance profile"),
        *("log group", "bucket of results: write", "bucket of results: read", "bucket of results: delete"),
        *("reads", "index of reads", "reference ref", "Prefect API", "way to AWS"),
    }
    # And what could not be checked says why
    assert all(line.fact for line in lines if line.state is State.NOT_CHECKED)
    # And nothing was written but a probe, which is gone
    writes = [
        one
        for one in ward.cloud.seen()
        if one["operation"] in ("PutObject", "DeleteObject", "CopyObject", "CreateBucket")
    ]
    assert [one["operation"] for one in writes] == ["PutObject", "DeleteObject"]
    assert {one["path"].partition("/doctor/")[0] for one in writes} == {f"/{ward.name}/lab/{ward.name}"}
    kept = ward.clients.client("s3").list_objects_v2(Bucket=ward.name)["Contents"]
    assert all(one["Key"].startswith("in/") for one in kept)
    rows = ward.clients.client("dynamodb").scan(TableName=ward.name)["Items"]
    assert not [row for row in rows if "probe" in row["itemID"]["S"]]


# ---------------------------------------------------------------------------------------------------- who asks, from where


def test_no_credentials_are_told_and_nothing_else_is_asked(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an environment without keys
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    lines = ward.examined(clients=Clients(endpoint_url=ward.cloud.endpoint, region=REGION, tries=1))
    found = the(lines, "credentials", "none are found", "aws sso login")
    assert found.state is State.WRONG
    assert lines[-1].check == "everything else"
    assert lines[-1].state is State.NOT_CHECKED


@pytest.mark.parametrize(
    ("shape", "words"), [("expired_token", "log in again"), ("invalid_token", "aws sts get-caller-identity")]
)
def test_keys_that_aws_does_not_take_are_told(ward: Ward, shape: str, words: str) -> None:
    ward.cloud.answer("sts", "GetCallerIdentity", shape, times=-1)
    assert the(ward.examined(), "credentials", "AWS does not take them", words).state is State.WRONG


def test_a_clock_that_is_minutes_off_is_told_with_its_offset(ward: Ward) -> None:
    # Given a machine that is five minutes ahead
    lines = ward.examined(now=lambda: time.time() + 300)
    assert the(lines, "clock", "300 s ahead of", "chrony").state is State.WRONG


def test_a_signature_that_is_too_old_is_the_clocks_fault_and_not_the_keys(ward: Ward) -> None:
    ward.cloud.answer(
        "sts",
        "GetCallerIdentity",
        "SignatureDoesNotMatch",
        message="Signature expired: 2026 is now earlier",
        status=403,
    )
    lines = ward.examined()
    assert the(lines, "clock", "Signature expired").state is State.WRONG
    assert not [line for line in lines if line.check == "credentials"]


@pytest.mark.parametrize(
    ("region", "words"), [("", "AWS_REGION"), ("Frankfurt", "no region of AWS"), ("us-est-1", "does not know it")]
)
def test_a_region_that_is_none_is_told(ward: Ward, monkeypatch: pytest.MonkeyPatch, region: str, words: str) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    lines = ward.examined(clients=Clients(endpoint_url=ward.cloud.endpoint, region=region or None, tries=1))
    assert the(lines, "region", words).state in (State.WRONG, State.WARNING)


def test_an_address_where_nobody_listens_is_told_once(ward: Ward) -> None:
    nobody = Clients.with_keys("x", "x", "http://127.0.0.1:9", REGION, tries=1)
    lines = ward.examined(clients=nobody)
    assert the(lines, "endpoint", "http://127.0.0.1:9", "AWS_ENDPOINT_URL").state is State.WRONG
    assert [line.check for line in lines] == ["region", "endpoint", "everything else"]


def test_a_service_that_is_silent_is_asked_once_and_the_others_go_on(ward: Ward) -> None:
    # Given a Batch that never answers
    ward.cloud.misbehave("drop", service="batch", times=-1)
    lines = ward.examined()
    # Then that is told once, what hangs on it was not checked, and the bucket was
    assert the(lines, "job definition", "cannot be reached").state is State.WRONG
    assert the(lines, "queue", "batch did not answer").state is State.NOT_CHECKED
    assert the(lines, "bucket of results: write").state is State.OK


# ---------------------------------------------------------------------------------------------------- the table


def no_table(ward: Ward) -> Undo:
    ward.clients.client("dynamodb").delete_table(TableName=ward.name)
    return ward.make_table


def another_table(ward: Ward, *keys: str) -> Undo:
    no_table(ward)
    ward.clients.client("dynamodb").create_table(
        TableName=ward.name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
    )

    def undo() -> None:
        no_table(ward)()

    return undo


def foreign_table(ward: Ward) -> Undo:
    return another_table(ward, "id")


def no_index(ward: Ward) -> Undo:
    return another_table(ward, "itemID", "row")


def no_workflow(ward: Ward) -> Undo:
    dynamodb = ward.clients.client("dynamodb")
    for row in dynamodb.scan(TableName=ward.name)["Items"]:
        if row["itemID"]["S"].startswith("!workflow"):
            dynamodb.delete_item(TableName=ward.name, Key={name: row[name] for name in ("itemID", "row")})
    return ward.store


def no_expiry(ward: Ward) -> Undo:
    def switch(on: bool) -> None:
        told = {"Enabled": on, "AttributeName": "expires"}
        ward.clients.client("dynamodb").update_time_to_live(TableName=ward.name, TimeToLiveSpecification=told)

    switch(False)
    return lambda: switch(True)


def refused(service: str, operation: str, shape: str = "access_denied", **more: Any) -> Fault:
    """AWS's own error body for each call of an operation."""

    def inject(ward: Ward) -> Undo:
        ward.cloud.answer(service, operation, shape, times=-1, **more)
        return ward.cloud.behave

    return inject


# ---------------------------------------------------------------------------------------------------- compute


def queue_disabled(ward: Ward) -> Undo:
    def switch(state: str) -> None:
        ward.clients.client("batch").update_job_queue(jobQueue=f"{ward.name}_Queue", state=state)

    switch("DISABLED")
    return lambda: switch("ENABLED")


def queue_gone(ward: Ward) -> Undo:
    queue_disabled(ward)
    ward.clients.client("batch").delete_job_queue(jobQueue=f"{ward.name}_Queue")
    return ward.define


def environment_disabled(ward: Ward) -> Undo:
    def switch(state: str) -> None:
        name = f"{ward.name}_Queue-environment"
        ward.clients.client("batch").update_compute_environment(computeEnvironment=name, state=state)

    switch("DISABLED")
    return lambda: switch("ENABLED")


def definition_gone(ward: Ward) -> Undo:
    batch = ward.clients.client("batch")
    for one in batch.describe_job_definitions(jobDefinitionName=f"{ward.name}_JobDef")["jobDefinitions"]:
        batch.deregister_job_definition(jobDefinition=one["jobDefinitionArn"])
    return ward.define


def defined(**told: Any) -> Fault:
    """Another revision of the job definition."""

    def define(ward: Ward) -> Undo:
        ward.define(**told)
        return ward.define

    return define


def no_job_role(ward: Ward) -> Undo:
    ward.clients.client("iam").delete_role(RoleName=f"{ward.name}-job")
    return lambda: ward.role("job", ECS)


def job_role_for_machines(ward: Ward) -> Undo:
    ward.define(jobRoleArn=ward.role("machine", EC2))
    return ward.define


def no_execution_role(ward: Ward) -> Undo:
    ward.clients.client("iam").delete_role(RoleName=f"{ward.name}-execution")
    return lambda: ward.role("execution", ECS)


def no_log_group(ward: Ward) -> Undo:
    ward.clients.client("logs").delete_log_group(logGroupName=ward.logs)
    return ward.define


# ---------------------------------------------------------------------------------------------------- data


def stored(**told: Any) -> Fault:
    """Another version of the workflow."""

    def store(ward: Ward) -> Undo:
        ward.store(**json.loads(json.dumps(told).replace("NAME", ward.name)))
        return ward.store

    return store


def gone(key: str) -> Fault:
    """An object that is no more."""

    def delete(ward: Ward) -> Undo:
        ward.clients.client("s3").delete_object(Bucket=ward.name, Key=key)
        return lambda: ward.put(key)

    return delete


def reads_of_another_kind(ward: Ward) -> Undo:
    ward.put("in/S1.cram", b"<html>" + CRAM)
    return lambda: ward.put("in/S1.cram")


def readers_pay(ward: Ward) -> Undo:
    ward.clients.client("s3").create_bucket(Bucket=f"theirs-{ward.name}")
    undo = stored(references=[{"name": "ref", "uri": "s3://theirs-NAME/in/ref.fa"}])(ward)
    ward.cloud.bucket_rule(f"theirs-{ward.name}", "requester_pays")
    return undo


SECRET = [{"name": "PREFECT_API_KEY", "valueFrom": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:x"}]
ELSEWHERE = [{"name": "AWS_REGION", "value": "eu-west-1"}]
FAULTS: dict[Fault, tuple[str, str, str]] = {
    no_table: ("table", "does not exist", "pyanamo workflow create"),
    foreign_table: ("table", "it is no ledger", "Choose another table"),
    no_index: ("index", "it has no index by-queue", "Choose another table"),
    no_workflow: ("workflow", "holds none", "pyanamo workflow create"),
    no_expiry: ("table expiry", "it is off", "update-time-to-live"),
    refused("dynamodb", "UpdateItem"): ("table rights", "AWS refused UpdateItem", "docs/iam.md"),
    refused("dynamodb", "Query"): ("table rights", "AWS refused Query", "docs/iam.md"),
    queue_gone: ("queue", "does not exist", "pyanamo deploy"),
    queue_disabled: ("queue", "it is DISABLED", "--state ENABLED"),
    environment_disabled: ("compute environment", "it is DISABLED", "--state ENABLED"),
    defined(vcpus=64): ("compute environment", "none can ever start", "SpotVcpus"),
    definition_gone: ("job definition", "no revision of it is active", "pyanamo deploy"),
    defined(readonlyRootFilesystem=True): ("job definition", "nothing is mounted at /scratch", "Mount a volume"),
    defined(environment=ELSEWHERE): ("job definition", "sends pilots to eu-west-1", "us-east-1"),
    defined(tag=":2.0"): ("image", "holds no image 2.0", "Push it"),
    defined(image=f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/nobodys:1"): (
        "image",
        "there is no repository",
        "push the image",
    ),
    no_job_role: ("job role", "does not exist", "docs/iam.md"),
    job_role_for_machines: ("job role", "trusts ec2.amazonaws.com, not ecs-tasks", "trust policy"),
    no_execution_role: ("execution role", "does not exist", "docs/iam.md"),
    defined(executionRoleArn="", secrets=SECRET): (
        "execution role",
        "no execution role to read them with",
        "executionRoleArn",
    ),
    no_log_group: ("log group", "no container starts", "create-log-group"),
    stored(buckets={"results": "s3://none-NAME/lab"}): ("bucket of results", "there is no bucket", "pyanamo deploy"),
    refused("s3", "PutObject"): ("bucket of results: write", "AWS refused PutObject", "docs/iam.md"),
    refused("s3", "GetObject", path="/doctor/"): ("bucket of results: read", "AWS refused GetObject", "docs/iam.md"),
    refused("s3", "DeleteObject"): ("bucket of results: delete", "AWS refused DeleteObject", "docs/iam.md"),
    refused("s3", "GetObject", path="S1.cram"): ("reads", "refused to let them be read", "access: requester_pays"),
    gone("in/S1.cram"): ("reads", "there is no such object", "--reads"),
    reads_of_another_kind: ("reads", "that is no CRAM", "Correct the address"),
    gone("in/S1.cram.crai"): ("index of reads", "none lies beside them", "samtools index"),
    gone("in/ref.fa"): ("reference ref", "there is no such file", "`uri`"),
    readers_pay: ("reference ref", "access: requester_pays", "buckets: inputs:"),
    stored(scripts="s3://NAME/lab/scripts/none.tar.gz"): ("task scripts", "there is no such file", "put it there"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: "-".join(FAULTS[fault][:2]).replace(" ", "_"))
def test_a_fault_is_found_by_its_name_with_how_to_mend_it(ward: Ward, fault: Fault) -> None:
    # Given a healthy place into which one fault is put
    undo = fault(ward)
    # When it is examined
    try:
        lines = ward.examined()
    finally:
        undo()
    # Then the fault has its line, and what to do stands beside it
    check, fact, mend = FAULTS[fault]
    found = the(lines, check, fact, mend)
    assert found.state in (State.WRONG, State.WARNING)
    # And what hangs on it may not have been checked, but nothing else is called wrong
    assert {line.check for line in lines if line.state is State.WRONG} <= {check}


def test_a_probe_that_may_not_be_deleted_is_named(ward: Ward) -> None:
    ward.cloud.answer("s3", "DeleteObject", "access_denied", times=-1)
    left = the(ward.examined(), "bucket of results: left", "the probe object stays", "aws s3 rm s3://")
    s3 = ward.clients.client("s3")
    kept = s3.list_objects_v2(Bucket=ward.name, Prefix=f"lab/{ward.name}/doctor/")["Contents"]
    assert f"s3://{ward.name}/{kept[-1]['Key']}" == left.subject or left.subject.endswith(kept[0]["Key"])


def test_what_only_an_administrator_may_see_is_not_checked_and_no_fault(ward: Ward) -> None:
    # Given somebody who may neither look at roles nor at networks, images and log groups
    for service in ("iam", "ec2", "ecr", "logs", "service-quotas"):
        ward.cloud.answer(service, "", "access_denied", times=-1)
    lines = ward.examined()
    # Then none of it is called wrong, and each says why it was not checked
    assert bad(lines) == []
    for check in ("job role", "execution role", "instance profile", "subnets", "image", "log group"):
        assert "AWS refused" in the(lines, check).fact
        assert the(lines, check).state is State.NOT_CHECKED


def test_the_file_here_that_is_newer_than_the_tables_version_is_told(ward: Ward) -> None:
    lines = ward.examined(workflow=ward.workflow(pilots=7, nests=3))
    assert the(lines, "workflow", "differs in pilots, nests", "pyanamo workflow create").state is State.WARNING


def test_a_machine_type_for_each_pilot_is_looked_for(ward: Ward) -> None:
    # Given an environment of small machines only
    batch, name = ward.clients.client("batch"), f"{ward.name}-small"
    told = batch.describe_compute_environments(computeEnvironments=[f"{ward.name}_Queue-environment"])
    resources = told["computeEnvironments"][0]["computeResources"]
    kept = {
        key: resources[key] for key in ("type", "minvCpus", "maxvCpus", "instanceRole", "subnets", "securityGroupIds")
    }
    batch.create_compute_environment(
        computeEnvironmentName=name,
        type="MANAGED",
        state="ENABLED",
        serviceRole=told["computeEnvironments"][0]["serviceRole"],
        computeResources=kept | {"instanceTypes": ["t3.micro"]},
    )
    queue = f"{ward.name}_Small"
    batch.create_job_queue(
        jobQueueName=queue,
        state="ENABLED",
        priority=1,
        computeEnvironmentOrder=[{"order": 1, "computeEnvironment": name}],
    )
    ward.store(queue=queue)
    lines = ward.examined()
    assert (
        the(lines, "instance types", "no type of t3.micro has 1 vCPUs and 1024 MiB", "bigger types").state
        is State.WRONG
    )


def test_a_bucket_elsewhere_is_a_warning_for_it_costs(ward: Ward) -> None:
    elsewhere = f"far-{ward.name}"
    ward.cloud.clients("eu-west-1").client("s3").create_bucket(
        Bucket=elsewhere, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    ward.store(buckets={"results": f"s3://{elsewhere}/lab"})
    try:
        found = the(ward.examined(), "bucket of results", "lies in eu-west-1", "across regions")
    finally:
        ward.store()
    assert found.state is State.WARNING


def test_lines_are_plain_json(ward: Ward) -> None:
    from pydantic_core import to_jsonable_python

    told = json.loads(json.dumps(to_jsonable_python(ward.examined())))
    assert {"check", "subject", "state", "fact", "mend", "where"} == set(told[0])
