"""The local Batch's rules: retry strategy, overrides, what DescribeJobs tells, batches of log events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from pyanamo_core.local import logs
from pyanamo_core.local.compute import ClientException, Queue, work_out
from pyanamo_core.local.jobs import Array, Attempt, Job
from pyanamo_core.local.provision import RETRY_RULES
from pyanamo_core.local.retry import is_tried_again

FLEET = {"attempts": 10, "evaluateOnExit": RETRY_RULES}
QUEUE = Queue("arn:aws:batch:us-east-1:1:job-queue/q", "q", 1, True, ("arn:env",))
DEFINITION: dict[str, Any] = {
    "jobDefinitionName": "d",
    "jobDefinitionArn": "arn:aws:batch:us-east-1:1:job-definition/d:3",
    "revision": 3,
    "parameters": {"word": "default"},
    "retryStrategy": {"attempts": 2},
    "timeout": {"attemptDurationSeconds": 600},
    "containerProperties": {
        "image": "i",
        "command": ["say", "Ref::word", "Ref::unknown"],
        "vcpus": 2,
        "memory": 2048,
        "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    },
}


def plan(**ask: Any) -> Any:
    return work_out({"jobName": "j"} | ask, DEFINITION, QUEUE, "us-east-1", 60)


# ------------------------------------------------------------------------------------------------------------- retries


@pytest.mark.parametrize(
    ("exit_code", "status_reason", "again"),
    [
        (75, "Essential container in task exited", True),
        (143, "Essential container in task exited", True),
        (None, "Host EC2 (instance i-0123) terminated.", True),
        (1, "Essential container in task exited", False),
        (137, "Essential container in task exited", False),
        (7, "Essential container in task exited", False),
        (None, "Task failed to start", False),
    ],
)
def test_the_fleet_s_rules_retry_what_was_handed_back_and_lost_hosts_only(
    exit_code: int | None, status_reason: str, again: bool
):
    assert is_tried_again(FLEET, 1, exit_code, status_reason, "") is again


def test_attempts_end_even_where_a_rule_says_retry():
    assert is_tried_again(FLEET, 9, 75, "", "")
    assert not is_tried_again(FLEET, 10, 75, "", "")
    assert not is_tried_again({}, 1, 75, "", "")


def test_without_rules_every_failure_is_tried_again():
    assert is_tried_again({"attempts": 2}, 1, 1, "", "")


def test_a_job_that_no_rule_fits_is_tried_again():
    rules = {"attempts": 3, "evaluateOnExit": [{"onExitCode": "9", "action": "exit"}]}
    assert is_tried_again(rules, 1, 8, "", "")
    assert not is_tried_again(rules, 1, 9, "", "")


def test_all_conditions_of_a_rule_must_hold_and_a_star_stands_at_the_end_only():
    rule = {"onExitCode": "137", "onReason": "outofmemory*", "action": "RETRY"}
    rules = {"attempts": 3, "evaluateOnExit": [rule, {"onReason": "*", "action": "EXIT"}]}
    assert is_tried_again(rules, 1, 137, "", "OutOfMemoryError: Container killed due to memory usage")
    assert not is_tried_again(rules, 1, 137, "", "killed")
    assert not is_tried_again(rules, 1, 1, "", "OutOfMemoryError: Container killed due to memory usage")


# ----------------------------------------------------------------------------------------------------------- overrides


def test_overrides_win_over_the_definition_and_the_rest_stays():
    made = plan(
        containerOverrides={
            "environment": [{"name": "B", "value": "9"}, {"name": "C", "value": "3"}],
            "resourceRequirements": [{"type": "MEMORY", "value": "4096"}],
        },
        parameters={"word": "given"},
        retryStrategy={"attempts": 5},
        timeout={"attemptDurationSeconds": 60},
    )
    assert made.environment == {"A": "1", "B": "9", "C": "3"}
    assert (made.vcpus, made.memory_mb) == (2.0, 4096)
    assert made.command == ("say", "given", "Ref::unknown")
    assert (made.retry, made.timeout_seconds) == ({"attempts": 5}, 60)


def test_a_definition_written_by_cloudformation_is_understood():
    rules = {"Attempts": 3, "EvaluateOnExit": [{"OnExitCode": "75", "Action": "RETRY"}]}
    made = work_out({"jobName": "j"}, DEFINITION | {"retryStrategy": rules}, QUEUE, "us-east-1", 60)
    assert made.retry == {"attempts": 3, "evaluateOnExit": [{"onExitCode": "75", "action": "RETRY"}]}


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        ({"containerOverrides": {"environment": [{"name": "X", "value": "y" * 8192}]}}, "8192"),
        ({"containerOverrides": {"environment": [{"name": "AWS_BATCH_JOB_ID", "value": "1"}]}}, "AWS_BATCH"),
        ({"timeout": {"attemptDurationSeconds": 59}}, "60 seconds"),
        ({"retryStrategy": {"attempts": 11}}, "between 1 and 10"),
    ],
)
def test_what_batch_refuses_is_refused_with_a_reason(ask: dict[str, Any], says: str):
    with pytest.raises(ClientException, match=says):
        plan(**ask)


def test_overrides_of_8192_bytes_are_taken():
    made = plan(containerOverrides={"environment": [{"name": "X", "value": "y" * 8191}]})
    assert len(made.environment["X"]) == 8191


# ------------------------------------------------------------------------------------------- what DescribeJobs tells


def described(job: Job | Array) -> dict[str, Any]:
    """A job as told, checked against the SDK's own model of the answer."""
    shape = botocore.session.get_session().get_service_model("batch").shape_for("JobDetail")
    told = job.detail()
    report = ParamValidator().validate({"startedAt": 0} | told, shape)
    assert not report.has_errors(), report.generate_report()
    return told


def test_a_child_tells_its_attempts_its_index_and_its_last_exit_code():
    job = Job("parent:4", plan(), 1_000, index=4, status="FAILED", started_at=1_100, stopped_at=1_200)
    job.attempts = [
        Attempt(1_000, "d/default/a", "i-1", 1_050, None, "", "Host EC2 (instance i-1) terminated."),
        Attempt(1_100, "d/default/b", "i-2", 1_200, 3, "", "Essential container in task exited"),
    ]
    told = described(job)
    assert told["arrayProperties"]["index"] == 4
    assert [each["container"].get("exitCode") for each in told["attempts"]] == [None, 3]
    assert told["attempts"][0]["statusReason"].startswith("Host EC2")
    assert told["container"]["exitCode"] == 3
    assert told["container"]["logStreamName"] == "d/default/b"


def test_a_parent_is_pending_until_its_last_child_has_ended_and_failed_if_one_has():
    # Given an array with children in every state
    children = [Job(f"p:{index}", plan(), 1, index) for index in range(3)]
    array = Array("p", plan(), 1, children)
    children[0].status, children[1].status, children[2].status = "FAILED", "RUNNING", "SUCCEEDED"
    # Then it is pending, and counts them all, the empty states included
    told = described(array)
    assert told["status"] == "PENDING"
    assert told["arrayProperties"]["size"] == 3
    assert told["arrayProperties"]["statusSummary"] == {
        "SUBMITTED": 0,
        "PENDING": 0,
        "RUNNABLE": 0,
        "STARTING": 0,
        "RUNNING": 1,
        "SUCCEEDED": 1,
        "FAILED": 1,
    }
    # And when the last one has ended, it has failed; without a failed one it has succeeded
    children[1].status = "SUCCEEDED"
    assert array.status == "FAILED"
    children[0].status = "SUCCEEDED"
    assert array.status == "SUCCEEDED"


# ---------------------------------------------------------------------------------------------------------------- logs


def test_log_events_keep_within_what_one_request_may_hold():
    lines = ["x" * 1000] * 12_345
    made = list(logs.batches(lines, 7))
    assert sum(len(batch) for batch in made) == 12_345
    assert all(len(batch) <= 10_000 for batch in made)
    assert all(sum(len(each["message"]) + 26 for each in batch) <= 1_048_576 for batch in made)
    assert [len(batch) for batch in logs.batches(["y"] * 10_001, 7)] == [10_000, 1]


def test_a_line_too_long_for_one_event_is_cut_between_characters():
    line = "€" * 200_000
    parts = list(logs.pieces(line))
    assert len(parts) == 3
    assert "".join(parts) == line
    assert all(len(part.encode()) <= logs.EVENT_BYTES for part in parts)


def test_an_unfinished_line_waits_for_its_end_unless_the_attempt_has_ended(tmp_path: Any):
    # Given a file that ends in the middle of a line
    tail = logs.Tail(tmp_path / "log", "g", "s")
    assert tail.unsent(final=True) == ([], 0)
    tail.path.write_text("one\n\ntw")
    # Then the line is not sent yet, and an empty one is a blank
    assert tail.unsent(final=False) == (["one", " "], 5)
    assert tail.unsent(final=True) == (["one", " ", "tw"], 7)
    # And what was sent is not sent again
    assert replace(tail, sent_bytes=5).unsent(final=True) == (["tw"], 7)
