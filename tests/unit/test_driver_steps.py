"""The driver's steps, one by one, on the ledger in memory."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from fleet_fake_batch import refused
from fleet_support import Scene

from pyanamo_core import driver
from pyanamo_core.errors import BucketMissing, DefinitionMissing, QueueClosed, QueueMissing, RunConflict, RunMissing
from pyanamo_core.fleet.submit import Patience
from pyanamo_core.model import Mode

# ---------------------------------------------------------------------------------------------------- provision


def test_provision_names_a_queue_that_does_not_exist():
    scene = Scene()
    scene.batch.queues.clear()
    with pytest.raises(QueueMissing, match="no job queue queue"):
        driver.provision(scene.clients, scene.workflow)


@pytest.mark.parametrize("told", [{"state": "DISABLED"}, {"status": "INVALID", "statusReason": "no role"}])
def test_provision_refuses_a_queue_that_takes_no_jobs(told):
    scene = Scene()
    scene.batch.queues["queue"] |= told
    with pytest.raises(QueueClosed, match="update-job-queue"):
        driver.provision(scene.clients, scene.workflow)


def test_provision_names_a_definition_without_an_active_revision():
    scene = Scene()
    for one in scene.batch.definitions:
        one["status"] = "INACTIVE"
    with pytest.raises(DefinitionMissing, match="no active job definition definition"):
        driver.provision(scene.clients, scene.workflow)


def test_provision_names_a_bucket_that_does_not_exist():
    scene = Scene()

    def head_bucket(**asked: Any) -> None:
        raise refused("HeadBucket", "404", "Not Found", 404)

    scene.batch.head_bucket = head_bucket  # type: ignore[method-assign]
    with pytest.raises(BucketMissing, match="s3://bucket/seq"):
        driver.provision(scene.clients, scene.workflow)


# ---------------------------------------------------------------------------------------------------- begin


def test_a_run_pins_version_revision_and_limits():
    scene = Scene()
    run = driver.begin(
        scene.ledger, 1, scene.workflow, pilots=3, max_failures=7, prefect_api_url="http://p", clock=scene.clock
    )
    assert (run.workflow_version, run.revision) == (1, scene.workflow.revision)
    assert (run.limits.max_pilots, run.limits.items_per_pilot, run.limits.max_failures) == (3, 1, 7)
    assert run.prefect_api_url == "http://p"
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", run.token)


def test_a_run_that_is_begun_again_is_the_same_run():
    scene = Scene()
    first = driver.begin(scene.ledger, 1, scene.workflow, run_id="mine", pilots=2)
    again = driver.begin(scene.ledger, 1, scene.workflow, run_id="mine")
    assert again == first


def test_a_run_that_has_ended_is_not_begun_again():
    scene = Scene()
    driver.begin(scene.ledger, 1, scene.workflow, run_id="mine")
    scene.ledger.end_run("mine", "completed")
    with pytest.raises(RunConflict, match="it has ended"):
        driver.begin(scene.ledger, 1, scene.workflow, run_id="mine")


def test_a_second_live_run_with_another_revision_is_refused():
    scene = Scene()
    other = scene.workflow.model_copy(update={"parameters": {"mode": "other"}})
    with pytest.raises(RunConflict, match="run is live with revision"):
        driver.begin(scene.ledger, 2, other, run_id="two")


@pytest.mark.parametrize("name", ["Haplotype.Caller", "..odd", "a" * 128])
def test_job_names_are_such_that_batch_takes_them(name):
    token = driver._token(name)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,120}", token)
    assert token != driver._token(name)


def test_each_watcher_has_a_name_of_its_own():
    assert driver.watcher_name() != driver.watcher_name()


# ---------------------------------------------------------------------------------------------------- drain, cancel


def test_drain_sets_the_mode_and_refuses_a_run_that_has_ended():
    scene = Scene()
    assert driver.drain(scene.ledger, "run", "lunch").mode is Mode.DRAIN
    scene.ledger.end_run("run", "drained")
    with pytest.raises(RunConflict):
        driver.drain(scene.ledger, "run")
    with pytest.raises(RunMissing):
        driver.drain(scene.ledger, "nobody")


def test_cancel_sets_the_mode_first_then_terminates_and_ends_the_run():
    # Given a run with two submissions
    scene = Scene(items=9, pilots=4)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    modes: list[Mode] = []
    terminate = scene.batch.terminate_job

    def seen(**asked: Any) -> Any:
        modes.append(scene.run.mode)
        return terminate(**asked)

    scene.batch.terminate_job = seen  # type: ignore[method-assign]
    # When it is cancelled
    run = driver.cancel(scene.clients, scene.ledger, "run", "enough", clock=scene.clock)
    # Then the pilots could know before Batch did, and the run is over
    assert modes == [Mode.CANCEL]
    assert scene.batch.live_jobs() == []
    assert (run.outcome, run.reason) == ("cancelled", "enough")


def test_cancel_can_be_repeated_and_forgives_jobs_that_batch_has_forgotten():
    scene = Scene(items=9, pilots=4)
    scene.polls(scene.watch())
    scene.batch.job().forgotten = True
    first = driver.cancel(scene.clients, scene.ledger, "run", "enough", clock=scene.clock)
    assert first.outcome == "cancelled"
    assert driver.cancel(scene.clients, scene.ledger, "run", "again", clock=scene.clock) == first


def test_cancel_leaves_a_run_that_has_ended_as_it_is():
    scene = Scene()
    ended = scene.ledger.end_run("run", "completed")
    assert driver.cancel(scene.clients, scene.ledger, "run", "too late", clock=scene.clock) == ended
    assert scene.run == ended


def test_cancel_finds_what_was_reserved_and_never_settled_by_its_name():
    # Given a submission whose answer was lost, and a watcher that died of it
    scene = Scene(items=9, pilots=4)
    scene.batch.submit_faults = [("late", 2.5)]
    scene.watch().poll()
    assert scene.run.submissions[0].job_id == ""
    # When the run is cancelled before the job shows up
    driver.cancel(scene.clients, scene.ledger, "run", clock=scene.clock)
    # Then it has been found and terminated all the same
    assert scene.batch.live_jobs() == []
    assert scene.batch.ended == [("terminate", "job-0")]


def test_cancel_before_the_submit_leaves_no_pilot():
    scene = Scene(items=9)
    driver.cancel(scene.clients, scene.ledger, "run", clock=scene.clock, wait_seconds=0)
    run = driver.fan_out(scene.clients, scene.ledger, scene.run, scene.workflow, watcher="w", clock=scene.clock)
    assert run.submissions == ()
    assert scene.batch.jobs == []


def test_cancelling_one_run_leaves_the_other_of_the_same_table_alone():
    # Given two runs of one table
    scene = Scene(items=9, pilots=2)
    scene.ledger.end_run("run", "completed")
    runs = [driver.begin(scene.ledger, 1, scene.workflow, pilots=2, clock=scene.clock) for _ in range(2)]
    for run in runs:
        driver.fan_out(scene.clients, scene.ledger, run, scene.workflow, watcher=run.run_id, clock=scene.clock)
    scene.batch.job(0).set("RUNNING")
    scene.batch.job(1).set("RUNNING")
    # When one is cancelled
    driver.cancel(scene.clients, scene.ledger, runs[0].run_id, clock=scene.clock)
    # Then the other's pilots run on
    assert [job.status for job in scene.batch.jobs] == ["FAILED", "PENDING"]
    assert scene.ledger.run(runs[1].run_id).mode is Mode.RUN


def test_cancel_does_not_wait_longer_than_it_may():
    scene = Scene(items=9)
    scene.polls(scene.watch())
    scene.batch.terminate_job = lambda **asked: {}  # type: ignore[method-assign]
    began = scene.clock.monotonic()
    run = driver.cancel(scene.clients, scene.ledger, "run", clock=scene.clock, wait_seconds=20)
    assert run.ended is None
    assert scene.clock.monotonic() - began == pytest.approx(20)


# ---------------------------------------------------------------------------------------------------- all of it


def test_fan_out_and_watch_together_bring_a_run_to_its_end():
    scene = Scene(items=3, pilots=2)
    driver.fan_out(scene.clients, scene.ledger, scene.run, scene.workflow, watcher="w", clock=scene.clock)

    def work(told: driver.Progress) -> None:
        scene.finish_all()
        scene.batch.job().set("SUCCEEDED")

    outcome = driver.watch(
        scene.clients, scene.ledger, "run", scene.workflow, watcher="w", clock=scene.clock, on_progress=work
    )
    assert (outcome.outcome, outcome.counts.done) == ("completed", 3)


def test_a_network_that_drops_every_request_ends_as_a_submission_given_up_not_as_a_hang():
    scene = Scene(items=3)
    scene.batch.submit_faults = [EndpointConnectionError(endpoint_url="fake")] * 50
    run = driver.fan_out(scene.clients, scene.ledger, scene.run, scene.workflow, watcher="w", clock=scene.clock)
    assert run.submissions[0].outcome == "failed"
    assert scene.batch.calls["SubmitJob"] == Patience().tries


def test_the_driver_is_light_until_it_is_used():
    code = "import sys, pyanamo_core.driver; print([m for m in ('boto3', 'moto', 'prefect') if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
