"""Whole runs on the local cloud, with real pilots: from the sheet to the outcome, two at a time, cancelled, forgotten, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from driver_support import PILOT, QUICK, Place, recorded_once, sleeping, wait_for

from pyanamo_core import driver
from pyanamo_core.driver import Outcome, Patience, Progress
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import Cause, Run, State
from pyanamo_core.workflow import Workflow

SEQ = [f"Seq_Test_{number}|Seq_8_2_1|seq|8,2,1" for number in range(1, 9)]
"""PyAnamo 1's test sheet."""


@pytest.fixture
def place(misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path) -> Place:
    return Place(misbehaving_cloud, unique_name, tmp_path)


def in_thread(
    place: Place, ledger: Ledger, run: Run, workflow: Workflow, **more
) -> tuple[threading.Thread, list[Outcome]]:
    """A watch beside the test; its outcome appears in the list."""
    ended: list[Outcome] = []

    def watch() -> None:
        ended.append(driver.watch(place.clients, ledger, run.run_id, workflow, watcher=driver.watcher_name(), **more))

    thread = threading.Thread(target=watch, name=f"watch {run.run_id}")
    thread.start()
    return thread, ended


def joined(thread: threading.Thread, ended: list[Outcome]) -> Outcome:
    thread.join(timeout=90)
    assert ended, "the watch has not ended"
    return ended[0]


def test_the_seq_sheet_of_pyanamo_1_runs_and_its_logs_hold_the_numbers(place: Place):
    # Given PyAnamo 1's sheet of eight items
    told: list[Progress] = []
    # When it is run by two pilots
    workflow = place.workflow(nests=3)
    outcome = driver.run(place.clients, workflow, sheet=place.sheet(SEQ), on_progress=told.append)
    # Then all is done, by one array of the pinned revision
    assert (outcome.outcome, outcome.counts.done, outcome.counts.total) == ("completed", 8, 8)
    (submission,) = outcome.run.submissions
    assert (submission.size, submission.definition) == (2, f"{place.name}:1")
    assert [job["jobId"] for job in place.jobs(outcome.run)] == [submission.job_id]
    # And each nest's log holds what seq prints
    ledger, _, _ = open_ledger(place.clients, workflow.table_name)
    recorded_once(ledger)
    for item in ledger.items():
        nests = ledger.nests(item)
        tails = [ledger.tail(item, nests[index]) for index in range(3)]
        assert tails == ["\n".join(map(str, range(1, last + 1))) + "\n" for last in (8, 2, 1)]
    # And somebody could see it happen
    assert any(progress.live_pilots for progress in told)
    assert told[-1].counts.done == 8
    # When the same is run again, then nothing is submitted
    again = driver.run(place.clients, workflow, sheet=place.sheet(SEQ))
    assert (again.outcome, again.run.submissions) == ("completed", ())


def test_two_runs_of_one_table_record_each_item_once_and_cancelling_one_leaves_the_other_alone(place: Place):
    # Given eight items and two runs, with a pilot each
    workflow = place.workflow(pilots=1)
    ledger, version = place.filled(workflow, sleeping(8, 0.5, nests=2))
    runs = [driver.begin(ledger, version, workflow) for _ in range(2)]
    for run in runs:
        driver.fan_out(place.clients, ledger, run, workflow, watcher=run.run_id)
    watches = [in_thread(place, ledger, run, workflow) for run in runs]
    # When both work, and then one is cancelled
    wait_for(lambda: {item.run_id for item in ledger.items(State.LOCKED)} == {run.run_id for run in runs})
    cancelled = driver.cancel(place.clients, ledger, runs[0].run_id, "enough")
    # Then its pilots are gone and its watch says so, while the other run goes on to the end
    assert cancelled.outcome == "cancelled"
    assert place.live_jobs(runs[0]) == []
    assert joined(*watches[0]).outcome == "cancelled"
    assert joined(*watches[1]).outcome == "completed"
    recorded_once(ledger)
    assert {job["status"] for job in place.jobs(runs[1])} == {"SUCCEEDED"}


def test_a_submission_whose_answer_is_lost_makes_exactly_one_array(place: Place):
    workflow = place.workflow()
    ledger, version = place.filled(workflow, SEQ)
    run = driver.begin(ledger, version, workflow)
    # Given a network that loses Batch's next answer
    place.cloud.lose("batch", "SubmitJob")
    # When the run is fanned out
    run = driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    # Then the one array was found by its name
    assert [job["jobId"] for job in place.jobs(run)] == [run.submissions[0].job_id]
    # And the run ends
    outcome = driver.watch(place.clients, ledger, run.run_id, workflow, watcher="w")
    assert (outcome.outcome, len(place.jobs(run))) == ("completed", 1)


def test_a_submission_whose_request_is_lost_is_sent_again_under_its_name(place: Place):
    workflow = place.workflow()
    ledger, version = place.filled(workflow, SEQ)
    run = driver.begin(ledger, version, workflow)
    place.cloud.drop("batch", "SubmitJob")
    run = driver.fan_out(
        place.clients, ledger, run, workflow, watcher="w", patience=Patience(look_seconds=1.5, answer_seconds=1)
    )
    assert [(s.name, s.outcome) for s in run.submissions] == [(f"{run.token}-0", "submitted")]
    assert [job["jobName"] for job in place.jobs(run)] == [f"{run.token}-0"]
    driver.cancel(place.clients, ledger, run.run_id)


def test_two_watchers_make_one_fleet_and_the_second_carries_on_when_the_first_is_gone(place: Place):
    # Given a run with two watchers
    workflow = place.workflow()
    ledger, version = place.filled(workflow, sleeping(6, 0.5))
    run = driver.begin(ledger, version, workflow)
    stop = threading.Event()
    first, first_end = in_thread(place, ledger, run, workflow, stop=stop)
    wait_for(lambda: ledger.run(run.run_id).submissions)
    notes: list[str] = []
    second, second_end = in_thread(place, ledger, run, workflow, on_progress=lambda told: notes.append(told.note))
    wait_for(lambda: any("holds this run" in note for note in notes))
    # When the first one is stopped
    stop.set()
    assert joined(first, first_end).outcome == ""
    # Then the second one ends the run, and no second array was made
    assert joined(second, second_end).outcome == "completed"
    assert len(place.jobs(run)) == 1
    recorded_once(ledger)


def test_cancel_leaves_no_process_and_the_items_to_do(place: Place):
    workflow = place.workflow()
    ledger, version = place.filled(workflow, sleeping(4, 60))
    run = driver.begin(ledger, version, workflow)
    driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    wait_for(lambda: ledger.counts().locked == 2)
    # When the run is cancelled
    ended = driver.cancel(place.clients, ledger, run.run_id, "enough")
    # Then nothing of it is left, and everything is as it was
    assert (ended.outcome, ended.reason) == ("cancelled", "enough")
    assert place.live_jobs(run) == []
    assert wait_for(lambda: ledger.counts().todo == 4)
    # And once more changes nothing
    assert driver.cancel(place.clients, ledger, run.run_id) == ended


def test_cancel_before_the_submit_leaves_no_pilot(place: Place):
    workflow = place.workflow()
    ledger, version = place.filled(workflow, SEQ)
    run = driver.begin(ledger, version, workflow)
    driver.cancel(place.clients, ledger, run.run_id)
    run = driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    assert (run.submissions, place.jobs(run)) == ((), [])


def test_a_drained_run_finishes_what_it_holds_and_leaves_the_rest(place: Place):
    workflow = place.workflow()
    ledger, version = place.filled(workflow, sleeping(6, 2))
    run = driver.begin(ledger, version, workflow)
    driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    wait_for(lambda: ledger.counts().locked == 2)
    driver.drain(ledger, run.run_id, "lunch", finish=True)
    outcome = driver.watch(place.clients, ledger, run.run_id, workflow, watcher="w")
    assert (outcome.outcome, outcome.reason) == ("drained", "lunch")
    assert outcome.counts.locked == 0
    assert outcome.counts.done + outcome.counts.todo == 6
    assert outcome.counts.todo > 0


def test_a_run_that_drains_at_once_hands_back_within_a_beat(place: Place):
    # Given a run whose pilots are in nests that take for ever
    workflow = place.workflow(pilots=2)
    ledger, version = place.filled(workflow, sleeping(3, 600))
    run = driver.begin(ledger, version, workflow)
    driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    wait_for(lambda: ledger.counts().locked == 2)
    # When it is drained, and nobody terminates its jobs
    driver.drain(ledger, run.run_id, "new reference")
    outcome = driver.watch(place.clients, ledger, run.run_id, workflow, watcher="w")
    # Then its pilots have ended what ran and handed it back, and nothing counts
    assert (outcome.outcome, outcome.reason) == ("drained", "new reference")
    assert outcome.counts.todo == 3
    assert {(item.tries, item.interruptions) for item in ledger.items()} == {(0, 0)}
    assert {pilot.leaving for pilot in ledger.pilots()} == {"drained: new reference"}
    assert {pilot.exit_code for pilot in ledger.pilots()} == {0}


def test_a_killed_pilot_is_replaced_and_every_nest_recorded_once(place: Place):
    # Given a pilot in the middle of its work
    workflow = place.workflow(pilots=1)
    ledger, version = place.filled(workflow, sleeping(3, 1, nests=2))
    run = driver.begin(ledger, version, workflow)
    before = set(place.cloud.processes())
    thread, ended = in_thread(place, ledger, run, workflow)
    wait_for(lambda: ledger.counts().locked)
    # When it is killed
    for pid in set(place.cloud.processes()) - before:
        os.kill(pid, signal.SIGKILL)
    # Then another one takes its place
    assert joined(thread, ended).outcome == "completed"
    recorded_once(ledger)
    assert len(place.jobs(run)) == 2


def test_a_pilot_whose_host_is_terminated_is_started_again_by_batch_and_its_attempt_says_spot(place: Place):
    # Given a pilot in the middle of its work
    workflow = place.workflow(pilots=1)
    ledger, version = place.filled(workflow, sleeping(2, 3))
    run = driver.begin(ledger, version, workflow)
    thread, ended = in_thread(place, ledger, run, workflow)
    (item,) = wait_for(lambda: list(ledger.items(State.LOCKED)))
    # When its host goes
    place.cloud.terminate_host(ledger.run(run.run_id).submissions[0].job_id)
    # Then Batch starts the same job again, and the run ends
    assert joined(thread, ended).outcome == "completed"
    recorded_once(ledger)
    (job,) = place.jobs(run)
    # And the attempt that was cut short has the cause that only Batch knew
    cut = ledger.attempts(item.item_id)[0]
    assert cut.batch_job == job["jobId"]
    assert (cut.cause, cut.evidence.startswith("Host EC2")) == (Cause.SPOT, True)


def test_an_array_that_batch_forgets_does_not_stop_a_run(place: Place):
    workflow = place.workflow()
    ledger, version = place.filled(workflow, sleeping(6, 0.5))
    run = driver.begin(ledger, version, workflow)
    run = driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    place.cloud.forget(run.submissions[0].job_id)
    outcome = driver.watch(
        place.clients, ledger, run.run_id, workflow, watcher="w", patience=Patience(missing_seconds=1)
    )
    assert outcome.outcome == "completed"
    recorded_once(ledger)


def test_pilots_that_cannot_begin_stop_the_run_with_what_they_said(
    misbehaving_cloud: LocalCloud, unique_name, tmp_path
):
    # Given an image whose command ends at once
    place = Place(misbehaving_cloud, unique_name, tmp_path, command=["bash", "-c", "echo no such reference; exit 6"])
    workflow = place.workflow(pilots=3)
    # When it is run
    outcome = driver.run(place.clients, workflow, sheet=place.sheet(SEQ))
    # Then the run stops, and says why
    assert outcome.outcome == "stopped"
    assert "exit code 6" in outcome.reason
    assert "no such reference" in outcome.reason
    assert outcome.counts.todo == 8
    assert place.live_jobs(outcome.run) == []


def test_failed_items_make_a_failed_run(place: Place):
    workflow = place.workflow(budgets={"tries": 1})
    lines = ["good|t|true|", "bad|t|bash -c 'exit 64'|"]
    outcome = driver.run(place.clients, workflow, sheet=place.sheet(lines))
    assert (outcome.outcome, outcome.counts.done, outcome.counts.failed) == ("failed", 1, 1)
    assert "1 of 2 items failed" in outcome.reason


def test_a_queue_that_is_held_is_explained_and_the_run_goes_on_when_it_is_released(place: Place):
    # Given a queue that keeps its jobs RUNNABLE
    workflow = place.workflow()
    ledger, version = place.filled(workflow, SEQ)
    run = driver.begin(ledger, version, workflow)
    place.cloud.hold(place.name, "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - no instance fits")
    notes: list[str] = []
    thread, ended = in_thread(place, ledger, run, workflow, on_progress=lambda told: notes.append(told.note))
    # When nothing starts, then the watcher and the status say why
    wait_for(lambda: any("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT" in note for note in notes))
    asked = [PILOT[0], "status", "--table", workflow.table_name, "--json"]
    environment = os.environ | place.cloud.environment()
    status = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert any("MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT" in one for one in json.loads(status.stdout)["obstacles"])
    # When it is released, then the run ends
    place.cloud.release(place.name)
    assert joined(thread, ended).outcome == "completed"


def test_a_ceiling_of_one_vcpu_is_explained(misbehaving_cloud: LocalCloud, unique_name, tmp_path):
    place = Place(misbehaving_cloud, unique_name, tmp_path, max_vcpus=1)
    workflow = place.workflow()
    ledger, version = place.filled(workflow, sleeping(2, 60))
    run = driver.begin(ledger, version, workflow)
    driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    wait_for(lambda: ledger.counts().locked == 1)
    told = [one.told for one in driver.explain_run(place.clients, ledger, run.run_id, workflow)]
    assert any("at its ceiling of 1 vCPUs; 1 pilots of 1 wait" in one for one in told), told
    driver.cancel(place.clients, ledger, run.run_id)


def test_items_of_a_pilot_that_batch_calls_gone_are_named_by_recover(place: Place):
    # Given a killed pilot
    workflow = place.workflow(pilots=1, timing=QUICK.model_copy(update={"lease_seconds": 300.0}))
    ledger, version = place.filled(workflow, sleeping(1, 60))
    run = driver.begin(ledger, version, workflow)
    before = set(place.cloud.processes())
    driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    (item,) = wait_for(lambda: list(ledger.items(State.LOCKED)))
    for pid in set(place.cloud.processes()) - before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: place.live_jobs(run) == [])
    # When somebody recovers at once, then the ledger asks for a minute of patience
    report = driver.recover(place.clients, ledger)
    assert (report.gone, report.items) == ((item.owner,), ())
    assert "ended only" in report.refused[item.item_id]
    assert report.unwatched == (run.run_id,)
    driver.cancel(place.clients, ledger, run.run_id)
