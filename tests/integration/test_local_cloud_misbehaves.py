"""The local cloud misbehaves on demand. What it injects is a shape, not an enforcement: nobody checks a token here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from pyanamo_core import errors
from pyanamo_core.aws import Clients, code_of, explained
from pyanamo_core.local import LocalCloud
from pyanamo_core.local.provision import RETRY_RULES, ensure_buckets, ensure_compute


@pytest.fixture
def batch(cloud_clients: Clients) -> Any:
    return cloud_clients.client("batch")


@pytest.fixture
def sleeper(cloud_clients: Clients, unique_name: str) -> str:
    """A queue and a definition of the same name, whose job sleeps, under the fleet's rules."""
    script = 'echo "$AWS_EC2_METADATA_SERVICE_ENDPOINT"; sleep 600'
    command = ["sh", "-c", script]
    ensure_compute(cloud_clients, unique_name, unique_name, command=command, max_vcpus=2, retry_rules=RETRY_RULES)
    return unique_name


@pytest.fixture
def table(cloud_clients: Clients, unique_name: str) -> str:
    cloud_clients.client("dynamodb").create_table(
        TableName=unique_name,
        AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return unique_name


def wait(batch: Any, job_id: str, is_there: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    give_up = time.monotonic() + 60
    while not is_there(job := batch.describe_jobs(jobs=[job_id])["jobs"][0]):
        assert time.monotonic() < give_up, job
        time.sleep(0.03)
    return job


def submit(batch: Any, name: str) -> str:
    return batch.submit_job(jobName="job", jobQueue=name, jobDefinition=name)["jobId"]


def end(batch: Any, job_id: str) -> None:
    batch.terminate_job(jobId=job_id, reason="end of test")
    wait(batch, job_id, lambda job: job["status"] == "FAILED")


def ask(cloud: LocalCloud, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", int(cloud.endpoint.rpartition(":")[2]), timeout=30)
    connection.request(method, f"/_pyanamo/{path}", body, headers)
    answer = connection.getresponse()
    told = answer.status, answer.read().decode()
    connection.close()
    return told


def is_running(job: dict[str, Any]) -> bool:
    return job["status"] == "RUNNING"


def test_a_terminated_host_kills_the_job_and_batch_tries_it_again(
    misbehaving_cloud: LocalCloud, batch: Any, sleeper: str
):
    # Given a job that runs
    job_id = submit(batch, sleeper)
    wait(batch, job_id, is_running)
    # When its host is terminated
    misbehaving_cloud.terminate_host(job_id)
    # Then the attempt has no exit code but a host in its reason, and another one runs elsewhere
    job = wait(batch, job_id, lambda job: len(job["attempts"]) == 1 and is_running(job))
    attempt = job["attempts"][0]
    assert attempt["statusReason"].startswith("Host EC2 (instance i-")
    assert attempt["statusReason"].endswith(") terminated.")
    assert "exitCode" not in attempt["container"]
    assert job["container"]["logStreamName"] != attempt["container"]["logStreamName"]
    end(batch, job_id)


def test_a_spot_notice_is_read_from_the_host_s_metadata_and_then_the_host_goes(
    misbehaving_cloud: LocalCloud, batch: Any, sleeper: str
):
    # Given a job that has said where its metadata are
    job_id = submit(batch, sleeper)
    wait(batch, job_id, is_running)
    name = wait(batch, job_id, lambda job: "container" in job)["container"]["logStreamName"].rpartition("/")[2]
    metadata = f"host/{name}/latest/meta-data"
    assert ask(misbehaving_cloud, "GET", f"{metadata}/spot/instance-action") == (404, "")
    _, host = ask(misbehaving_cloud, "GET", f"{metadata}/instance-id")
    # When a notice of one second comes
    misbehaving_cloud.spot_notice(job_id, seconds=1)
    told = json.loads(ask(misbehaving_cloud, "GET", f"{metadata}/spot/instance-action")[1])
    assert told["action"] == "terminate"
    assert told["time"].endswith("Z")
    # Then the host goes, and Batch says which
    job = wait(batch, job_id, lambda job: len(job["attempts"]) == 1)
    assert job["attempts"][0]["statusReason"] == f"Host EC2 (instance {host}) terminated."
    end(batch, job_id)


def test_a_forgotten_array_is_unknown_while_its_processes_run_on(
    misbehaving_cloud: LocalCloud, batch: Any, cloud_clients: Clients, unique_name: str, tmp_path: Path
):
    # Given an array that runs
    script = f"touch {tmp_path}/$AWS_BATCH_JOB_ARRAY_INDEX; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; touch {tmp_path}/end"
    ensure_compute(cloud_clients, unique_name, unique_name, command=["sh", "-c", script])
    asked = {"jobName": "gone", "jobQueue": unique_name, "jobDefinition": unique_name}
    parent = batch.submit_job(arrayProperties={"size": 2}, **asked)["jobId"]
    wait(batch, parent, lambda job: job["arrayProperties"]["statusSummary"]["RUNNING"] == 2)
    # When Batch forgets it
    misbehaving_cloud.forget(parent)
    # Then no call finds it
    assert batch.describe_jobs(jobs=[parent, f"{parent}:0"])["jobs"] == []
    assert (
        batch.list_jobs(jobQueue=unique_name, filters=[{"name": "JOB_NAME", "values": ["gone"]}])["jobSummaryList"]
        == []
    )
    # And its processes end as they would have
    (tmp_path / "go").touch()
    give_up = time.monotonic() + 30
    while not (tmp_path / "end").exists():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_held_queue_starts_nothing_and_says_why_until_it_is_released(
    misbehaving_cloud: LocalCloud, batch: Any, sleeper: str
):
    misbehaving_cloud.hold(sleeper, "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no c5 today")
    job_id = submit(batch, sleeper)
    job = wait(batch, job_id, lambda job: "statusReason" in job)
    assert job["status"] == "RUNNABLE"
    assert job["statusReason"] == "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no c5 today"
    misbehaving_cloud.release(sleeper)
    job = wait(batch, job_id, is_running)
    assert "statusReason" not in job
    end(batch, job_id)


@pytest.mark.parametrize(
    ("service", "call"),
    [
        ("dynamodb", lambda clients, name: clients.once("dynamodb").list_tables()),
        ("batch", lambda clients, name: clients.once("batch").describe_jobs(jobs=["x"])),
        ("logs", lambda clients, name: clients.once("logs").describe_log_groups()),
        ("s3", lambda clients, name: clients.once("s3").list_buckets()),
    ],
)
def test_each_service_s_errors_come_out_as_our_own(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, service: str, call: Callable[[Clients, str], Any]
):
    for shape, meaning in (
        ("expired_token", errors.NoCredentials),
        ("access_denied", errors.AccessDenied),
        ("requester_pays", errors.AccessDenied),
    ):
        misbehaving_cloud.answer(service, "", shape)
        with pytest.raises(meaning), explained(service, "call"):
            call(cloud_clients, service)
        call(cloud_clients, service)


def test_a_bucket_of_another_region_says_which_and_the_rest_is_left_alone(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, unique_name: str
):
    # Given a bucket that S3 says is elsewhere, and one that is here
    s3 = cloud_clients.client("s3")
    ensure_buckets(cloud_clients, [unique_name, f"{unique_name}-here"])
    misbehaving_cloud.answer("s3", "", "wrong_region", path=f"/{unique_name}/", times=-1, region="eu-west-1")
    # When an object of each is asked for
    with pytest.raises(errors.WrongRegion, match="eu-west-1"), explained("s3", "GetObject"):
        s3.get_object(Bucket=unique_name, Key="a")
    with pytest.raises(ClientError, match="NoSuchKey"):
        s3.get_object(Bucket=f"{unique_name}-here", Key="a")


def test_a_lost_answer_is_a_write_that_happened(misbehaving_cloud: LocalCloud, cloud_clients: Clients, table: str):
    # Given a network that loses the next answer
    misbehaving_cloud.lose("dynamodb", "PutItem")
    # When a client that makes one try writes
    with pytest.raises(ConnectionClosedError):
        cloud_clients.once("dynamodb").put_item(TableName=table, Item={"key": {"S": "a"}})
    # Then the row is there
    assert "Item" in cloud_clients.client("dynamodb").get_item(TableName=table, Key={"key": {"S": "a"}})


def test_the_sdk_s_own_repetition_turns_a_lost_success_into_a_failed_condition(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, table: str
):
    misbehaving_cloud.lose("dynamodb", "PutItem")
    with pytest.raises(ClientError) as caught:
        cloud_clients.client("dynamodb").put_item(
            TableName=table, Item={"key": {"S": "a"}}, ConditionExpression="attribute_not_exists(#k)",
            ExpressionAttributeNames={"#k": "key"},
        )  # fmt: skip
    assert code_of(caught.value) == "ConditionalCheckFailedException"


def test_a_dropped_request_is_a_write_that_never_happened(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, table: str
):
    misbehaving_cloud.drop("dynamodb", "PutItem")
    with pytest.raises(ConnectionClosedError):
        cloud_clients.once("dynamodb").put_item(TableName=table, Item={"key": {"S": "a"}})
    assert "Item" not in cloud_clients.client("dynamodb").get_item(TableName=table, Key={"key": {"S": "a"}})


def test_a_submission_whose_answer_is_lost_has_started_its_job(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, batch: Any, sleeper: str
):
    misbehaving_cloud.lose("batch", "SubmitJob")
    with pytest.raises(ConnectionClosedError):
        cloud_clients.once("batch").submit_job(jobName="token-1", jobQueue=sleeper, jobDefinition=sleeper)
    found = batch.list_jobs(jobQueue=sleeper, filters=[{"name": "JOB_NAME", "values": ["token-1"]}])["jobSummaryList"]
    assert len(found) == 1
    end(batch, found[0]["jobId"])


def test_throttling_passes_with_the_sdk_s_own_repetition(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, table: str
):
    misbehaving_cloud.throttle("dynamodb", "DescribeTable", times=2)
    with pytest.raises(ClientError, match="ProvisionedThroughputExceededException"):
        cloud_clients.once("dynamodb").describe_table(TableName=table)
    answer = cloud_clients.client("dynamodb").describe_table(TableName=table)
    assert answer["ResponseMetadata"]["RetryAttempts"] == 1


def test_a_delay_longer_than_a_beat_s_patience_costs_it_a_try(misbehaving_cloud: LocalCloud, cloud_clients: Clients):
    misbehaving_cloud.delay("dynamodb", "ListTables", seconds=4)
    answer = cloud_clients.quick("dynamodb").list_tables()
    assert answer["ResponseMetadata"]["RetryAttempts"] == 1


def test_logs_are_shipped_whatever_the_users_calls_suffer(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, batch: Any, unique_name: str
):
    # Given CloudWatch Logs that deny everybody
    ensure_compute(cloud_clients, unique_name, unique_name, command=["echo", "hello"])
    misbehaving_cloud.answer("logs", "", "access_denied", times=-1)
    # When a job ends
    job = wait(batch, submit(batch, unique_name), lambda job: job["status"] == "SUCCEEDED")
    # Then its log is there for whoever may read again
    misbehaving_cloud.behave()
    told = cloud_clients.client("logs").get_log_events(
        logGroupName="/aws/batch/job", logStreamName=job["container"]["logStreamName"]
    )
    assert [event["message"] for event in told["events"]] == ["hello"]


def test_misbehaviour_needs_the_token_and_a_name_that_exists(misbehaving_cloud: LocalCloud):
    status, _ = ask(misbehaving_cloud, "POST", "misbehave", '{"kind": "clear"}', **{"X-Pyanamo-Token": "guessed"})
    assert status == 403
    for kind, facts in (("sulk", {}), ("terminate_host", {"job": "nobody"}), ("hold", {"queue": "nowhere"})):
        with pytest.raises(errors.LocalCloudBroken):
            misbehaving_cloud.misbehave(kind, **facts)


def test_a_container_killed_for_its_memory_says_so_and_is_not_tried_again(
    misbehaving_cloud: LocalCloud, batch: Any, sleeper: str
):
    job_id = submit(batch, sleeper)
    wait(batch, job_id, is_running)
    misbehaving_cloud.out_of_memory(job_id)
    job = wait(batch, job_id, lambda job: job["status"] == "FAILED")
    (attempt,) = job["attempts"]
    assert attempt["container"]["exitCode"] == 137
    assert attempt["container"]["reason"].startswith("OutOfMemoryError")


def test_jobs_share_named_hosts_and_a_terminated_host_takes_all_its_jobs_along(
    misbehaving_cloud: LocalCloud, batch: Any, cloud_clients: Clients, unique_name: str
):
    # Given a host of one vCPU that fails whoever comes, and a sound one
    script = '[ -z "$BAD" ] || exit 75; sleep 600'
    compute: dict[str, Any] = {"command": ["sh", "-c", script], "max_vcpus": 3, "retry_rules": RETRY_RULES}
    ensure_compute(cloud_clients, unique_name, unique_name, **compute)
    misbehaving_cloud.set_hosts(unique_name, [{"vcpus": 1, "environment": {"BAD": "yes"}}, {"vcpus": 2}])
    # When three jobs are submitted
    unlucky, first, second = (submit(batch, unique_name) for _ in range(3))
    # Then the first one comes back from the bad host again and again, and fails
    failed = wait(batch, unlucky, lambda job: job["status"] == "FAILED")
    assert len(failed["attempts"]) == 10
    assert len({attempt["container"]["containerInstanceArn"] for attempt in failed["attempts"]}) == 1
    # And those on the sound host run side by side until it goes
    wait(batch, first, is_running)
    wait(batch, second, is_running)
    misbehaving_cloud.terminate_host(first)
    ends = [wait(batch, job_id, lambda job: bool(job["attempts"]))["attempts"][0] for job_id in (first, second)]
    assert {one["statusReason"].startswith("Host EC2") for one in ends} == {True}
    assert len({one["container"]["containerInstanceArn"] for one in ends}) == 1
    for job_id in (first, second):
        batch.terminate_job(jobId=job_id, reason="end of test")
        wait(batch, job_id, lambda job: job["status"] == "FAILED")
