"""Why nothing runs, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleet_support import Scene

from pyanamo_core import driver
from pyanamo_core.fleet.ends import end_of, says_nothing_against
from pyanamo_core.fleet.explain import Observation, Place, findings
from pyanamo_core.fleet.jobs import Attempt, Definition, Environment, Job, Queue
from pyanamo_core.fleet.plan import Pilots
from pyanamo_core.model import Counts, Mode, PilotRecord, Run, Submission

RUN = Run(run_id="run", workflow_version=1, token="t")
WATCHED = RUN.model_copy(update={"watcher_lease_end": 1e9})
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


def codes(seen: Observation) -> list[str]:
    return [one.code for one in findings(seen)]


ZERO = Environment("ce", "ENABLED", "VALID", "", 0, 0)


def test_a_ceiling_of_nothing_is_a_queue_that_is_switched_off():
    seen = replace(GOOD, jobs=(job(),), environments=(ZERO,))
    (found,) = findings(seen)
    assert found.code == "ceiling_zero"
    assert "the ceiling is 0 vCPUs, which switches queue q off; 4 pilots wait" in found.told
    assert "maxvCpus=N" in found.advice


def test_a_ceiling_is_all_environments_of_a_queue_together():
    # Given a queue whose first environment is switched off, and whose second one has room
    second = Environment("second", "ENABLED", "VALID", "", 64, 0)
    assert codes(replace(GOOD, jobs=(job(),), environments=(ZERO, second))) == ["machine_comes"]
    # When that one is full, or too small, Then it is said of both
    full = replace(GOOD, jobs=(job(summary={"RUNNING": 32, "RUNNABLE": 4}, size=36),), environments=(ZERO, second))
    assert codes(full) == ["at_ceiling"]
    assert "compute environments ce and second: it is at its ceiling of 64 vCPUs" in findings(full)[0].told
    small = replace(GOOD, jobs=(job(),), environments=(ZERO, second), definition=Definition("d:1", 65, 1, ""))
    assert codes(small) == ["ceiling_too_low"]


def test_jobs_of_a_second_queue_are_judged_by_its_own_environments():
    # Given jobs on the queue of the workflow, which run, and one on another queue that is switched off
    spot, extra = submission("submitted"), submission("submitted").model_copy(update={"queue": "od", "job_id": "k"})
    run = RUN.model_copy(update={"submissions": (spot.model_copy(update={"job_id": "j"}), extra)})
    jobs = (job(summary={"RUNNING": 2, "SUCCEEDED": 2}), job(job_id="k", size=1, summary={"RUNNABLE": 1}))
    other = Place("od", Queue("od", "ENABLED", "VALID", "", ("od-ce",)), (replace(ZERO, name="od-ce"),))
    # Then the ceiling that is told is that of the other queue
    (found,) = findings(replace(GOOD, run=run, jobs=jobs, others=(other,)))
    assert (found.code, found.subject) == ("ceiling_zero", "compute environment od-ce")
    assert "switches queue od off; 1 pilot waits" in found.fact
    # And a queue that does not exist is told as such
    assert codes(replace(GOOD, run=run, jobs=jobs, others=(Place("od", None),))) == ["queue_missing"]


@pytest.mark.parametrize(
    ("reason", "code", "mend"),
    [
        ("CLIENT_ERROR - User is not authorized to perform sts:AssumeRole", "environment_invalid", "service role"),
        ("CLIENT_ERROR - Invalid IamInstanceProfile", "environment_invalid", "instance profile"),
        (
            "CLIENT_ERROR - The specified launch template, lt-1, does not exist",
            "environment_invalid",
            "launch template",
        ),
        ("CLIENT_ERROR - The subnet ID 'subnet-1' does not exist", "environment_invalid", "--set Subnets"),
        ("something new", "environment_invalid", "Its reason says what to mend"),
    ],
)
def test_an_invalid_environment_is_told_with_its_mend(reason, code, mend):
    (found,) = findings(replace(GOOD, environments=(Environment("ce", "ENABLED", "INVALID", reason, 4, 0),)))
    assert (found.code, mend in found.advice) == (code, True)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity requested", "no_capacity"),
        ("MISCONFIGURATION:COMPUTE_ENVIRONMENT_MAX_RESOURCE - CE(s) cannot meet it", "ceiling_too_low"),
        ("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement", "job_too_big"),
        ("MISCONFIGURATION:SERVICE_ROLE_PERMISSIONS - Batch service role", "service_role"),
        ("MISCONFIGURATION:SOMETHING_NEW", "misconfiguration"),
        ("ACTION_REQUIRED - CE(s) associated with the job queue are invalid.", "environment_invalid"),
        ("UNDETERMINED - Batch job is blocked, root cause is undetermined.", "undetermined"),
    ],
)
def test_why_pilots_are_runnable_is_told_with_its_mend(reason, code):
    (found,) = findings(replace(GOOD, jobs=(job(),), waiting_reasons=(reason,)))
    assert (found.code, found.fact) == (code, reason)
    assert found.advice


def test_pilots_that_wait_longer_than_a_machine_takes_wait_for_something_else():
    waits = replace(GOOD, jobs=(job(created=1000.0),), now=1300.0)
    assert codes(waits) == ["machine_comes"]
    (found,) = findings(replace(waits, now=1000.0 + 1500))
    assert found.code == "undetermined"
    assert "they wait since 25m00s" in found.fact
    assert "need a way to ECS" in found.advice


def test_silent_pilots_and_what_they_hold_are_told_by_what_is_locked_now():
    # Given a pilot that claimed two items and fell silent before a beat told of the second, and one that works
    scene = Scene(items=4, pilots=2)
    scene.polls(scene.watch())
    scene.claim("i0", "dead")
    scene.pilot("dead", holding=("i0",))
    scene.claim("i1", "dead")
    scene.clock.move(400)
    scene.claim("i2", "alive")
    scene.pilot("alive", holding=("i2",))

    def told() -> list[str]:
        found = driver.explain_run(scene.clients, scene.ledger, "run", scene.workflow, clock=scene.clock)
        return [one.told for one in found if one.code == "pilots_silent"]

    # Then the silent one is told with both
    (found,) = told()
    assert found.startswith("1 pilot: silent (last beat 6m40s ago), it holds i0 and i1. That comes back when")
    assert found.endswith("with: pyanamo recover")
    # And once others have them it is no longer told, although its row still names one
    scene.finish("i0", "alive")
    scene.finish("i1", "alive")
    assert told() == []


def test_hosts_that_pilots_left_are_told_while_no_pilot_works():
    left = PilotRecord(pilot_id="p", host="h", ended=5.0, leaving="host_fault: no space left on /scratch")
    seen = replace(GOOD, run=WATCHED, pilots=Pilots(ended=(left,)), now=700.0)
    (found,) = findings(seen)
    assert (found.code, found.fact) == ("host_fault", "they left their hosts: no space left on /scratch")
    assert "--set ScratchGb=N" in found.advice
    assert findings(replace(seen, pilots=Pilots(fresh=(PilotRecord(pilot_id="q"),), ended=(left,)))) == []


def test_a_set_up_that_pilots_found_wrong_is_told():
    left = PilotRecord(pilot_id="p", host="h", ended=5.0, leaving="set_up: reference ref has another checksum")
    (found,) = findings(replace(GOOD, run=WATCHED, pilots=Pilots(ended=(left,)), now=700.0))
    assert (found.code, "another checksum" in found.fact) == ("set_up", True)


def test_a_run_that_nobody_watches_and_nobody_works_for_is_told_as_such():
    (found,) = findings(replace(GOOD, now=100.0))
    assert found.told == "run run: nobody watches it, so that no pilots come. Let it go on with: pyanamo watch run"
    # But not while its pilots work
    assert findings(replace(GOOD, now=100.0, pilots=Pilots(fresh=(PilotRecord(pilot_id="p"),)))) == []


def test_a_run_all_of_whose_items_failed_says_so():
    ended = RUN.model_copy(update={"ended": 1.0, "outcome": "failed", "reason": "3 of 3 items failed"})
    assert codes(replace(GOOD, run=ended, counts=Counts(failed=3))) == ["run_failed", "all_failed"]


def test_a_run_that_has_ended_is_told_alone_of_its_kind():
    ended = replace(GOOD, run=RUN.model_copy(update={"ended": 1.0, "outcome": "completed"}), counts=Counts(done=1))
    assert [one.fact for one in findings(ended)] == ["it has ended: completed"]


@pytest.mark.parametrize(
    ("attempts", "fact", "advice"),
    [
        (
            (attempt("CannotPullContainerError: pull access denied for x, repository does not exist or may require"),),
            "CannotPullContainerError: pull access denied for x, repository does not exist or may require",
            "ecr:BatchGetImage",
        ),
        (
            (
                attempt(
                    "CannotPullContainerError: Error response from daemon: manifest for x:1 not found: manifest unknown"
                ),
            ),
            "CannotPullContainerError: Error response from daemon: manifest for x:1 not found: manifest unknown",
            "register a revision",
        ),
        (
            (attempt("CannotPullContainerError: dial tcp 1.2.3.4:443: i/o timeout"),),
            "CannotPullContainerError: dial tcp 1.2.3.4:443: i/o timeout",
            "NAT gateway",
        ),
        (
            (
                attempt(
                    "ECS was unable to assume the role 'arn:aws:iam::1:role/x' that was provided for this task.",
                    "Task failed to start",
                ),
            ),
            "ECS was unable to assume the role 'arn:aws:iam::1:role/x' that was provided for this task.",
            "--set JobRole=ARN",
        ),
        (
            (attempt("ResourceInitializationError: unable to pull secrets or registry auth: x"),),
            "ResourceInitializationError: unable to pull secrets or registry auth: x",
            "secretsmanager:GetSecretValue",
        ),
        (
            (attempt("CannotStartContainerError: failed to initialize logging driver: ResourceNotFoundException"),),
            "CannotStartContainerError: failed to initialize logging driver: ResourceNotFoundException",
            "make the log group",
        ),
        (
            (attempt("", "Job attempt duration exceeded timeout", 137),),
            "exit code 137; Job attempt duration exceeded timeout",
            "AttemptSeconds",
        ),
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


def test_a_job_that_batch_cancelled_in_the_queue_tells_why():
    reason = "Canceled by JobStateTimeLimit action due to reason: MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT"
    end = end_of(job(status="FAILED", size=1, status_reason=reason))
    assert (end.fact, end.code) == (reason, "job_too_big")


def test_failed_pilots_are_grouped_and_those_that_we_ended_left_out():
    failed = (
        *(job(status="FAILED", size=1, attempts=(attempt("CannotPullContainerError: x"),)) for _ in range(3)),
        job(status="FAILED", size=1, attempts=(attempt(code=6),)),
        job(status="FAILED", size=1, ended_by_us=True),
    )
    told = findings(replace(GOOD, failed=failed))
    assert [one.subject for one in told] == ["3 pilots failed", "1 pilot failed"]


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
