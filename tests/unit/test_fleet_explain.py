"""Why nothing runs, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_support import Scene

from pyanamo_core import driver
from pyanamo_core.fleet.explain import Observation, end_of, findings, says_nothing_against
from pyanamo_core.fleet.jobs import Attempt, Definition, Environment, Job, Queue
from pyanamo_core.model import Counts, Mode, Run, Submission

RUN = Run(run_id="run", workflow_version=1, token="t")
GOOD = Observation(
    run=RUN,
    counts=Counts(todo=5),
    claimable=5,
    queue=Queue("q", "ENABLED", "VALID", "", ("ce",)),
    queue_name="q",
    environments=(Environment("ce", "ENABLED", "VALID", "", 4, 0),),
    definition=Definition("d:1", 2, 1024, "image"),
    definition_name="d",
)


def job(**told) -> Job:
    return Job(**({"job_id": "j", "name": "n", "status": "PENDING", "size": 4, "summary": {"RUNNABLE": 4}} | told))


def attempt(reason: str = "", status_reason: str = "", code: int | None = None) -> Attempt:
    return Attempt(1.0, 2.0, code, reason, status_reason, "", "")


def submission(outcome: str, reason: str = "") -> Submission:
    return Submission(
        sequence=0, name="t-0", size=4, queue="q", definition="d:1", reserved_at=1.0, outcome=outcome, reason=reason
    )


def test_nothing_is_found_where_nothing_is_wrong():
    assert findings(GOOD) == []


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(GOOD, queue=None), "queue q: it does not exist"),
        (
            replace(GOOD, queue=Queue("q", "DISABLED", "VALID", "", ())),
            "it is DISABLED, VALID. Enable it with: aws batch",
        ),
        (replace(GOOD, queue=Queue("q", "ENABLED", "INVALID", "no role", ())), "it is ENABLED, INVALID (no role)"),
        (replace(GOOD, definition=None), "job definition d: no revision of it is active"),
        (
            replace(GOOD, environments=(Environment("ce", "DISABLED", "VALID", "", 4, 0),)),
            "compute environment ce: it is DISABLED",
        ),
        (
            replace(GOOD, environments=(Environment("ce", "ENABLED", "INVALID", "CLIENT_ERROR - role", 4, 0),)),
            "it is INVALID (CLIENT_ERROR - role)",
        ),
        (
            replace(GOOD, jobs=(job(summary={"RUNNING": 2, "RUNNABLE": 2}),)),
            "it is at its ceiling of 4 vCPUs; 2 pilots of 2 wait",
        ),
        (
            replace(GOOD, jobs=(job(),), definition=Definition("d:1", 8, 1, "")),
            "a pilot asks for 8 vCPUs, the ceiling is 4: it can never start",
        ),
        (replace(GOOD, jobs=(job(),)), "4 pilots not started: Batch gives no reason"),
        (
            replace(GOOD, jobs=(job(),), waiting_reasons=("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - x",)),
            "does not pass by itself",
        ),
        (
            replace(GOOD, jobs=(job(),), waiting_reasons=("CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - x",)),
            "passes when capacity is free",
        ),
        (replace(GOOD, missing=("j",)), "job j: Batch does not know it"),
        (
            replace(GOOD, run=RUN.model_copy(update={"mode": Mode.DRAIN, "reason": "lunch"})),
            "its mode is drain (lunch)",
        ),
        (replace(GOOD, run=RUN.model_copy(update={"ended": 1.0, "outcome": "failed"})), "it has ended: failed"),
        (replace(GOOD, counts=Counts(), claimable=0), "table: it holds no items. Import a sheet"),
        (replace(GOOD, counts=Counts(done=3), claimable=0), "nothing is left to do"),
        (replace(GOOD, counts=Counts(waiting=3), claimable=0), "3 items wait for their next try"),
        (
            replace(GOOD, run=RUN.model_copy(update={"submissions": (submission("reserved"),)})),
            "job t-0: nobody knows yet whether it was submitted",
        ),
        (
            replace(GOOD, run=RUN.model_copy(update={"submissions": (submission("failed", "refused"),)})),
            "job t-0: refused",
        ),
    ],
)
def test_each_obstacle_is_named(seen, words):
    assert any(words in one.told for one in findings(seen)), [one.told for one in findings(seen)]


def test_a_run_that_has_ended_is_told_alone_of_its_kind():
    ended = replace(GOOD, run=RUN.model_copy(update={"ended": 1.0, "outcome": "completed"}), counts=Counts(done=1))
    assert [one.fact for one in findings(ended)] == ["it has ended: completed"]


@pytest.mark.parametrize(
    ("attempts", "fact", "advice"),
    [
        ((attempt("CannotPullContainerError: x"),), "CannotPullContainerError: x", "The image cannot be pulled"),
        ((attempt("OutOfMemoryError: killed", code=137),), "OutOfMemoryError: killed; exit code 137", "more memory"),
        ((attempt("", "Host EC2 (instance i-1) terminated."),), "its host was terminated", "Spot reclaims hosts"),
        ((attempt("", "x", 127),), "exit code 127; x", "is PyAnamo in the image?"),
        ((attempt("", "", 42),), "exit code 42", ""),
        ((attempt(code=1), attempt(code=6)), "exit code 6", "credentials"),
        ((), "no reason given", "It never started"),
    ],
)
def test_the_ends_of_pilots_are_told_with_what_they_mean(attempts, fact, advice):
    told = end_of(job(status="FAILED", size=1, attempts=attempts))
    assert told[0] == fact
    assert advice in told[1]


def test_failed_pilots_are_grouped_and_those_that_we_ended_left_out():
    failed = (
        *(job(status="FAILED", size=1, attempts=(attempt("CannotPullContainerError: x"),)) for _ in range(3)),
        job(status="FAILED", size=1, attempts=(attempt(code=6),)),
        job(status="FAILED", size=1, ended_by_us=True),
    )
    told = findings(replace(GOOD, failed=failed))
    assert [one.subject for one in told] == ["3 pilots failed", "1 pilots failed"]


@pytest.mark.parametrize(
    ("told", "nothing"),
    [
        ({"ended_by_us": True}, True),
        ({"attempts": (attempt(code=75),)}, True),
        ({"attempts": (attempt(code=143),)}, True),
        ({"attempts": (attempt(status_reason="Host EC2 (x) terminated."),)}, True),
        ({"attempts": (attempt(code=1),)}, False),
        ({"attempts": (attempt("CannotPullContainerError: x"),)}, False),
        ({}, False),
    ],
)
def test_only_ends_that_are_nobodys_fault_say_nothing_against_a_run(told, nothing):
    assert says_nothing_against(job(status="FAILED", size=1, **told)) is nothing


def test_a_run_is_explained_from_batch_and_ledger_together():
    # Given a disabled queue, and pilots that wait in it
    scene = Scene(items=3, pilots=2)
    scene.polls(scene.watch())
    scene.batch.queues["queue"]["state"] = "DISABLED"
    # When the user asks why
    told = [one.told for one in driver.explain_run(scene.clients, scene.ledger, "run", scene.workflow)]
    # Then it is the queue
    assert any("queue queue: it is DISABLED" in one for one in told)


def test_a_queue_or_a_definition_that_was_deleted_is_a_finding_and_no_error():
    scene = Scene(items=3)
    scene.batch.queues.clear()
    scene.batch.definitions.clear()
    told = [one.told for one in driver.explain_run(scene.clients, scene.ledger, "run", scene.workflow)]
    assert any("does not exist" in one for one in told)
    assert any("no revision of it is active" in one for one in told)
