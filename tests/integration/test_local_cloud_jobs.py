"""Batch's semantics in the local cloud, with real processes for containers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pyanamo_core.aws import Clients
from pyanamo_core.local.provision import RETRY_RULES, ensure_compute

ENDED = ("SUCCEEDED", "FAILED")


class Batch:
    """One queue and as many job definitions as a test wants."""

    def __init__(self, clients: Clients, queue: str, max_vcpus: int = 4) -> None:
        self.clients, self.queue, self.max_vcpus = clients, queue, max_vcpus
        self.client = clients.client("batch")
        self._number = itertools.count()
        self.submitted: list[str] = []

    def define(self, script: str | Sequence[str], **more: Any) -> str:
        command = ["sh", "-c", script] if isinstance(script, str) else list(script)
        made = ensure_compute(
            self.clients,
            self.queue,
            f"{self.queue}-{next(self._number)}",
            command=command,
            max_vcpus=self.max_vcpus,
            **{"attempts": 1, "retry_rules": ()} | more,
        )
        return made.definition

    def submit(self, definition: str, size: int = 0, **more: Any) -> str:
        more |= {"arrayProperties": {"size": size}} if size else {}
        asked = {"jobName": "job", "jobQueue": self.queue, "jobDefinition": definition} | more
        job_id = self.client.submit_job(**asked)["jobId"]
        self.submitted.append(job_id)
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        return self.client.describe_jobs(jobs=[job_id])["jobs"][0]

    def wait(self, job_id: str, is_there: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
        """Wait until the job has ended, or `is_there`."""
        give_up = time.monotonic() + 60
        while True:
            job = self.job(job_id)
            if is_there(job) if is_there else job["status"] in ENDED:
                return job
            assert time.monotonic() < give_up, job
            time.sleep(0.03)

    def running(self, job_id: str) -> dict[str, Any]:
        return self.wait(job_id, lambda job: job["status"] == "RUNNING")

    def log(self, job: dict[str, Any], attempt: int = -1) -> list[str]:
        return self.lines(job["attempts"][attempt]["container"]["logStreamName"])

    def lines(self, stream: str) -> list[str]:
        logs = self.clients.client("logs")
        try:
            told = logs.get_log_events(logGroupName="/aws/batch/job", logStreamName=stream, startFromHead=True)
        except ClientError:
            return []
        return [event["message"] for event in told["events"]]


@pytest.fixture
def batch(cloud_clients: Clients, unique_name: str):
    made = Batch(cloud_clients, unique_name)
    yield made
    for job_id in made.submitted:
        if made.client.describe_jobs(jobs=[job_id])["jobs"]:
            made.client.terminate_job(jobId=job_id, reason="end of test")
    for job_id in made.submitted:
        if made.client.describe_jobs(jobs=[job_id])["jobs"]:
            made.wait(job_id)


def summary(job: dict[str, Any]) -> dict[str, int]:
    return {status: count for status, count in job["arrayProperties"]["statusSummary"].items() if count}


def until_there(path: Path) -> None:
    give_up = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < give_up
        time.sleep(0.02)


# --------------------------------------------------------------------------------------------- what a process sees


def test_a_job_sees_batch_s_variables_its_own_and_nothing_of_ours(batch: Batch, monkeypatch: pytest.MonkeyPatch):
    # Given a definition and a submit override with variables
    definition = batch.define(
        "env; pwd; ls -A", environment={"GIVEN": "definition", "KEPT": "yes"}, vcpus=2, memory=512
    )
    # When it runs
    override = {"environment": [{"name": "GIVEN", "value": "override"}]}
    job = batch.wait(batch.submit(definition, containerOverrides=override))
    lines = batch.log(job)
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    # Then it has Batch's, those given, the cloud's address with fake keys, and the limits of its container
    assert seen["AWS_BATCH_JOB_ID"] == job["jobId"]
    assert (seen["AWS_BATCH_JOB_ATTEMPT"], seen["AWS_BATCH_JQ_NAME"]) == ("1", batch.queue)
    assert seen["AWS_BATCH_CE_NAME"] == f"{batch.queue}-environment"
    assert (seen["GIVEN"], seen["KEPT"]) == ("override", "yes")
    assert seen["AWS_ENDPOINT_URL"] == batch.client.meta.endpoint_url
    assert seen["AWS_ACCESS_KEY_ID"] == "PYANAMOLOCAL"
    assert (seen["PYANAMO_CONTAINER_MEMORY_MB"], seen["PYANAMO_CONTAINER_VCPUS"]) == ("512", "2")
    assert "AWS_BATCH_JOB_ARRAY_INDEX" not in seen
    assert not [name for name in seen if name.startswith(("PYTEST_", "PREFECT_", "VIRTUAL_ENV"))]
    # And its folder is empty and private to it, and gone afterwards
    folder = Path(seen["PWD"])
    assert lines[-1] == str(folder)
    assert not folder.exists()


def test_children_of_an_array_know_their_index_and_their_parent(batch: Batch):
    parent = batch.submit(
        batch.define("echo $AWS_BATCH_JOB_ARRAY_INDEX of $AWS_BATCH_JOB_ARRAY_SIZE in $AWS_BATCH_JOB_ID"), 3
    )
    job = batch.wait(parent)
    assert (job["status"], summary(job), job["arrayProperties"]["size"]) == ("SUCCEEDED", {"SUCCEEDED": 3}, 3)
    children = [batch.job(f"{parent}:{index}") for index in range(3)]
    assert [batch.log(child) for child in children] == [[f"{i} of 3 in {parent}:{i}"] for i in range(3)]
    assert [child["arrayProperties"]["index"] for child in children] == [0, 1, 2]


def test_the_command_pyanamo_is_found(batch: Batch):
    job = batch.wait(batch.submit(batch.define(["pyanamo", "--help"])))
    assert job["status"] == "SUCCEEDED", batch.log(job)
    assert any("pyanamo" in line.lower() for line in batch.log(job))


def test_logs_come_while_the_job_runs(batch: Batch, tmp_path: Path):
    job_id = batch.submit(batch.define(f"echo first; while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; echo second"))
    stream = batch.running(job_id)["container"]["logStreamName"]
    give_up = time.monotonic() + 30
    while batch.lines(stream) != ["first"]:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    (tmp_path / "go").touch()
    job = batch.wait(job_id)
    assert batch.log(job) == ["first", "second"]
    assert job["container"]["logStreamName"] == stream


# ------------------------------------------------------------------------------------------------------ ends, retries


def test_a_failed_job_tells_exit_code_and_reason_and_is_not_tried_again_by_default(batch: Batch):
    job = batch.wait(batch.submit(batch.define("exit 3")))
    assert (job["status"], job["statusReason"]) == ("FAILED", "Essential container in task exited")
    assert [each["container"]["exitCode"] for each in job["attempts"]] == [3]
    assert job["createdAt"] <= job["startedAt"] <= job["stoppedAt"]


def test_handed_back_is_tried_again_until_it_is_done(batch: Batch, tmp_path: Path):
    # Given a job that hands back twice, under the fleet's rules
    script = f'echo x >> {tmp_path}/tries; [ "$AWS_BATCH_JOB_ATTEMPT" = 3 ] || exit 75'
    job = batch.wait(batch.submit(batch.define(script, attempts=10, retry_rules=RETRY_RULES)))
    # Then there were three attempts with a log each
    assert job["status"] == "SUCCEEDED"
    assert [each["container"]["exitCode"] for each in job["attempts"]] == [75, 75, 0]
    assert len({each["container"]["logStreamName"] for each in job["attempts"]}) == 3
    assert (tmp_path / "tries").read_text() == "x\n" * 3


def test_other_exit_codes_end_the_job_under_the_fleet_s_rules(batch: Batch):
    job = batch.wait(batch.submit(batch.define("exit 1", attempts=10, retry_rules=RETRY_RULES)))
    assert (job["status"], len(job["attempts"])) == ("FAILED", 1)


def test_the_submission_s_retry_strategy_wins_over_the_definition_s(batch: Batch):
    definition = batch.define("exit 9", attempts=10)
    job = batch.wait(batch.submit(definition, retryStrategy={"attempts": 2}))
    assert len(job["attempts"]) == 2


def test_one_failed_child_fails_the_array_and_spares_the_others(batch: Batch):
    parent = batch.submit(batch.define('[ "$AWS_BATCH_JOB_ARRAY_INDEX" != 1 ]'), 3)
    job = batch.wait(parent)
    assert (job["status"], summary(job)) == ("FAILED", {"FAILED": 1, "SUCCEEDED": 2})


def test_a_command_that_does_not_exist_never_starts(batch: Batch):
    job = batch.wait(batch.submit(batch.define(["no-such-command"])))
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["attempts"][0]["container"]["reason"].startswith("CannotStartContainerError")
    assert "exitCode" not in job["attempts"][0]["container"]


def test_a_time_out_sends_term_then_kill_and_is_not_tried_again(batch: Batch):
    # Given a job that is deaf to TERM but notes it
    script = "trap 'echo heard TERM' TERM; while :; do sleep 0.1; done"
    definition = batch.define(script, attempts=5, timeout_seconds=1)
    # When its time is over
    job = batch.wait(batch.submit(definition))
    # Then it has heard TERM, was killed, and ended for good
    assert batch.log(job) == ["heard TERM"]
    assert (job["status"], job["statusReason"]) == ("FAILED", "Job attempt duration exceeded timeout")
    assert [each["container"]["exitCode"] for each in job["attempts"]] == [137]


def test_what_a_job_leaves_running_ends_with_it(batch: Batch, tmp_path: Path):
    script = f"setsid sh -c 'echo $$ > {tmp_path}/daemon; exec sleep 600' & until [ -s {tmp_path}/daemon ]; do sleep 0.05; done"
    batch.wait(batch.submit(batch.define(script)))
    assert not Path(f"/proc/{int((tmp_path / 'daemon').read_text())}").exists()


# --------------------------------------------------------------------------------------------- terminate and cancel


def test_terminate_sends_term_and_the_reason_stands_on_the_job(batch: Batch, tmp_path: Path):
    script = f"trap 'echo drained; exit 75' TERM; touch {tmp_path}/set; while :; do sleep 0.1; done"
    job_id = batch.submit(batch.define(script, attempts=10, retry_rules=RETRY_RULES))
    until_there(tmp_path / "set")
    batch.client.terminate_job(jobId=job_id, reason="the run is cancelled")
    job = batch.wait(job_id)
    # 75 would be tried again, but not after TerminateJob
    assert (job["status"], job["statusReason"], len(job["attempts"])) == ("FAILED", "the run is cancelled", 1)
    assert job["attempts"][0]["container"]["exitCode"] == 75
    assert job["isTerminated"] is True
    assert batch.log(job) == ["drained"]


def test_terminating_an_array_ends_running_and_waiting_children(batch: Batch):
    # Given a queue with room for four, and six children
    parent = batch.submit(batch.define("sleep 600"), 6)
    batch.wait(parent, lambda job: summary(job) == {"RUNNING": 4, "RUNNABLE": 2})
    batch.client.terminate_job(jobId=parent, reason="enough")
    job = batch.wait(parent)
    assert (job["status"], summary(job)) == ("FAILED", {"FAILED": 6})
    assert {batch.job(f"{parent}:{index}")["statusReason"] for index in range(6)} == {"enough"}


def test_cancelling_an_array_spares_what_runs(batch: Batch, tmp_path: Path):
    # Given four running children and two that wait
    parent = batch.submit(batch.define(f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done"), 6)
    batch.wait(parent, lambda job: summary(job) == {"RUNNING": 4, "RUNNABLE": 2})
    # When the parent is cancelled
    batch.client.cancel_job(jobId=parent, reason="nothing left to claim")
    # Then the waiting ones have failed, the running ones run, and end as they like
    job = batch.job(parent)
    assert (job["status"], summary(job)) == ("PENDING", {"RUNNING": 4, "FAILED": 2})
    (tmp_path / "go").touch()
    job = batch.wait(parent)
    assert summary(job) == {"SUCCEEDED": 4, "FAILED": 2}
    assert job["isCancelled"] is True
    ended = [batch.job(f"{parent}:{index}") for index in range(6)]
    assert [child["statusReason"] for child in ended if child["status"] == "FAILED"] == ["nothing left to claim"] * 2


def test_cancelling_a_running_job_does_nothing_and_ended_ones_stay_as_they_are(batch: Batch, tmp_path: Path):
    job_id = batch.submit(batch.define(f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done"))
    batch.running(job_id)
    batch.client.cancel_job(jobId=job_id, reason="too late")
    (tmp_path / "go").touch()
    assert batch.wait(job_id)["status"] == "SUCCEEDED"
    batch.client.terminate_job(jobId=job_id, reason="much too late")
    assert batch.job(job_id)["status"] == "SUCCEEDED"


# --------------------------------------------------------------------------------------------------------- the ceiling


def test_no_more_runs_than_the_environment_has_room_for(batch: Batch, tmp_path: Path):
    # Given an environment of four vCPUs and jobs of two
    definition = batch.define(f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done", vcpus=2)
    parent = batch.submit(definition, 5)
    # Then two run and the rest waits
    job = batch.wait(parent, lambda job: summary(job).get("RUNNING") == 2)
    assert summary(job) == {"RUNNING": 2, "RUNNABLE": 3}
    # And when room is made, the others follow
    (tmp_path / "go").touch()
    assert batch.wait(parent)["status"] == "SUCCEEDED"


def test_a_raised_ceiling_lets_waiting_jobs_start(batch: Batch):
    parent = batch.submit(batch.define("sleep 600"), 6)
    batch.wait(parent, lambda job: summary(job).get("RUNNING") == 4)
    batch.client.update_compute_environment(
        computeEnvironment=f"{batch.queue}-environment", computeResources={"maxvCpus": 6}
    )
    assert summary(batch.wait(parent, lambda job: summary(job).get("RUNNING") == 6)) == {"RUNNING": 6}


def test_a_job_too_big_for_its_environment_waits_and_says_why(batch: Batch):
    job = batch.job(batch.submit(batch.define("true", vcpus=5)))
    assert job["status"] == "RUNNABLE"
    assert job["statusReason"].startswith("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT")


def test_a_ceiling_of_zero_holds_everything_back(cloud_clients: Clients, unique_name: str):
    batch = Batch(cloud_clients, unique_name, max_vcpus=0)
    job_id = batch.submit(batch.define("true"))
    assert batch.job(job_id)["status"] == "RUNNABLE"
    batch.client.cancel_job(jobId=job_id, reason="end of test")
    assert batch.job(job_id)["status"] == "FAILED"


# ----------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        ({"arrayProperties": {"size": 1}}, "between 2 and 10000"),
        ({"arrayProperties": {"size": 10_001}}, "between 2 and 10000"),
        ({"jobName": "no spaces"}, "not valid"),
        ({"jobName": "x" * 129}, "not valid"),
        ({"jobQueue": "nowhere"}, "not found"),
        ({"jobDefinition": "nothing"}, "not found or not active"),
        ({"dependsOn": [{"jobId": "1"}]}, "does not support dependsOn"),
        ({"containerOverrides": {"environment": [{"name": "X", "value": "y" * 9000}]}}, "8192"),
        ({"timeout": {"attemptDurationSeconds": 0, "unknown": 1}}, "nknown"),
    ],
)
def test_submissions_that_batch_refuses_are_refused(batch: Batch, ask: dict[str, Any], says: str):
    # Given a client that, unlike boto3's usual one, does not check what it sends
    definition = batch.define("true")
    asked = {"jobName": "job", "jobQueue": batch.queue, "jobDefinition": definition} | ask
    # When it submits
    status, body, headers = _raw(batch, "submitjob", asked)
    # Then Batch answers as AWS does
    assert (status, headers["x-amzn-errortype"]) == (400, "ClientException")
    assert says in body["message"]


def test_a_body_that_does_not_fit_the_service_s_model_is_refused(batch: Batch):
    for call, body, says in (
        ("submitjob", {"jobName": "a"}, "jobQueue"),
        ("submitjob", {"jobName": 7, "jobQueue": "a", "jobDefinition": "b"}, "jobName"),
        ("describejobs", {"jobs": "abc"}, "jobs"),
        ("terminatejob", {"jobId": "a"}, "reason"),
        ("listjobs", {"jobQueue": batch.queue, "jobStatus": "HAPPY"}, "jobStatus"),
    ):
        status, told, headers = _raw(batch, call, body)
        assert (status, headers["x-amzn-errortype"]) == (400, "ClientException")
        assert says in told["message"], call


def _raw(batch: Batch, call: str, body: dict[str, Any]) -> tuple[int, dict[str, Any], dict[str, str]]:
    """One call with a body of our own, signed for Batch."""
    import http.client
    import json

    port = int(batch.client.meta.endpoint_url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    scope = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/batch/aws4_request, SignedHeaders=host, Signature=0"
    connection.request("POST", f"/v1/{call}", json.dumps(body), {"Authorization": scope})
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told, dict(answer.getheaders())


def test_a_hundred_jobs_are_described_at_once_and_not_one_more(batch: Batch):
    assert batch.client.describe_jobs(jobs=["unknown"] * 100)["jobs"] == []
    with pytest.raises(ClientError, match="at most 100"):
        batch.client.describe_jobs(jobs=["unknown"] * 101)


def test_unknown_jobs_are_left_out_of_a_description_and_cannot_be_ended(batch: Batch):
    for call in (batch.client.terminate_job, batch.client.cancel_job):
        with pytest.raises(ClientError, match="not found"):
            call(jobId="unknown", reason="why not")


def test_a_disabled_queue_takes_nothing(batch: Batch):
    definition = batch.define("true")
    batch.client.update_job_queue(jobQueue=batch.queue, state="DISABLED")
    with pytest.raises(ClientError, match="DISABLED"):
        batch.submit(definition)


# --------------------------------------------------------------------------------------------- definitions and lists


def test_a_submission_names_a_revision_or_takes_the_newest(batch: Batch, unique_name: str):
    # Given two revisions of one definition, and the same one asked for again
    def make(word: str) -> str:
        command = ["echo", word]
        made = ensure_compute(batch.clients, batch.queue, unique_name, command=command, max_vcpus=4, attempts=1)
        return made.definition

    first, second, again = make("one"), make("two"), make("two")
    assert (first, second, again) == (f"{unique_name}:1", f"{unique_name}:2", f"{unique_name}:2")
    # Then each is run as named, by ARN too, and without a revision the newest active one
    arn = batch.client.describe_job_definitions(jobDefinitionName=unique_name)["jobDefinitions"][0]["jobDefinitionArn"]
    said = {name: batch.log(batch.wait(batch.submit(name))) for name in (first, second, arn, unique_name)}
    assert said == {first: ["one"], second: ["two"], arn: ["one"], unique_name: ["two"]}
    batch.client.deregister_job_definition(jobDefinition=second)
    assert batch.log(batch.wait(batch.submit(unique_name))) == ["one"]
    with pytest.raises(ClientError, match="not active"):
        batch.submit(second)


def test_jobs_are_found_by_exact_name_and_by_prefix_whatever_their_state(batch: Batch):
    # Given jobs of three names
    definition = batch.define("true")
    ids = {name: batch.submit(definition, jobName=name) for name in ("token-1", "token-11", "Token-2")}
    for job_id in ids.values():
        batch.wait(job_id)

    def find(name: str, value: str) -> set[str]:
        found = batch.client.list_jobs(jobQueue=batch.queue, filters=[{"name": name, "values": [value]}])
        return {job["jobId"] for job in found["jobSummaryList"]}

    # Then a name finds itself alone, and a prefix all that begin so
    assert find("JOB_NAME", "token-1") == {ids["token-1"]}
    assert find("JOB_NAME", "token*") == set(ids.values())
    assert find("JOB_DEFINITION", definition.partition(":")[0]) == set(ids.values())
    assert find("JOB_NAME", "nobody") == set()
    assert find("AFTER_CREATED_AT", "0") == set(ids.values())
    assert find("BEFORE_CREATED_AT", "1") == set()


def test_lists_are_by_status_and_children_are_listed_by_their_parent_alone(batch: Batch):
    parent = batch.submit(batch.define("sleep 600"), 5)
    batch.wait(parent, lambda job: summary(job) == {"RUNNING": 4, "RUNNABLE": 1})

    def listed(**ask: Any) -> list[dict[str, Any]]:
        return batch.client.list_jobs(**ask)["jobSummaryList"]

    assert [job["jobId"] for job in listed(jobQueue=batch.queue, jobStatus="PENDING")] == [parent]
    assert listed(jobQueue=batch.queue) == []
    running = listed(arrayJobId=parent)
    assert [job["arrayProperties"]["index"] for job in running] == [0, 1, 2, 3]
    assert len(listed(arrayJobId=parent, jobStatus="RUNNABLE")) == 1
    with pytest.raises(ClientError, match="Exactly one"):
        batch.client.list_jobs()


def test_long_lists_come_in_pages(batch: Batch):
    # Given an array of 250 of which none may start
    batch.max_vcpus = 0
    parent = batch.submit(batch.define("true"), 250)
    # When it is listed
    pages = batch.client.get_paginator("list_jobs").paginate(arrayJobId=parent, jobStatus="RUNNABLE")
    found = [[job["jobId"] for job in page["jobSummaryList"]] for page in pages]
    # Then no page has more than a hundred, and nothing is missing or doubled
    assert [len(page) for page in found] == [100, 100, 50]
    assert [each for page in found for each in page] == [f"{parent}:{index}" for index in range(250)]


def test_ten_thousand_children_are_one_parent_to_ask_for(batch: Batch):
    batch.max_vcpus = 0
    parent = batch.submit(batch.define("true"), 10_000)
    assert summary(batch.job(parent)) == {"RUNNABLE": 10_000}
    batch.client.cancel_job(jobId=parent, reason="end of test")
    assert summary(batch.job(parent)) == {"FAILED": 10_000}
