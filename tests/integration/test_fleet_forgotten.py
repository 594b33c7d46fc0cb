"""Batch forgets an array, holders die while everybody else is idle: the run ends all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver_support import Place, recorded_once, sleeping, wait_for
from fleet_fire import Watched, arrays_that_worked, kill_pilots
from killed_driver import QUICK_PATIENCE

from pyanamo_core import driver
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import State


def test_a_run_ends_although_batch_forgets_its_array_and_its_pilots_are_killed(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given an array in the middle of its work
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    workflow = place.workflow(pilots=3)
    ledger, version = place.filled(workflow, sleeping(6, 1))
    run = driver.begin(ledger, version, workflow)
    watched = Watched(place, ledger, run, workflow, patience=QUICK_PATIENCE)
    held = wait_for(lambda: found if len(found := list(ledger.items(State.LOCKED))) >= 2 else None)
    (first,) = ledger.run(run.run_id).submissions
    # When Batch forgets it, and its machines are gone
    place.cloud.forget(first.job_id)
    assert kill_pilots(place, run) >= 3
    # Then the items come back by their leases, new pilots are submitted, and the run completes
    outcome = watched.outcome()
    assert outcome.outcome == "completed"
    recorded_once(ledger)
    worked = arrays_that_worked(ledger)
    assert len(worked) >= 2
    assert first.job_id in worked
    again = [ledger.attempts(item.item_id) for item in held]
    print(
        f"array forgotten, {len(held)} items held: {[str(one[0].cause) for one in again]}, {len(outcome.run.submissions)} submissions"
    )
    assert {str(attempts[0].cause) for attempts in again} <= {"lost", "done"}


def test_idle_pilots_that_stay_finish_what_a_dead_holder_left_without_any_watcher(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given four pilots, an item that one of them holds for long, and one that waits for its next try; nobody watches
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    marker = tmp_path / "failed-once"
    once = f"bash -c 'if [ -e {marker} ]; then exit 0; fi; touch {marker}; exit 1'"
    hold = f"bash -c 'if [ -e {tmp_path}/held ]; then exit 0; fi; touch {tmp_path}/held; sleep 300'"
    lines = [f"waits|t|{once}|", f"held|t|{hold}|", *sleeping(2, 0.2)]
    workflow = place.workflow(pilots=4, budgets={"retry_delay_seconds": 4})
    ledger, version = place.filled(workflow, lines)
    run = driver.begin(ledger, version, workflow)
    driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    # When all others are idle, and the holder dies
    wait_for(lambda: ledger.counts().done >= 2 and marker.exists() and (tmp_path / "held").exists())
    (holder,) = [item.owner for item in ledger.items(State.LOCKED) if item.item_id == "held"]
    record = ledger.pilot(holder or "")
    assert record is not None
    assert kill_pilots(place, run, record.batch_job)
    # Then those that stay wait for its lease, and for the waiting item, and nothing is left open
    wait_for(lambda: ledger.counts().open == 0)
    recorded_once(ledger)
    lost = ledger.attempts("held")[0]
    print(f"holder (index {record.array_index}) killed, others idle: {lost.cause}, {len(place.jobs(run))} array")
    assert len(place.jobs(run)) == 1
    driver.cancel(place.clients, ledger, run.run_id)


@pytest.mark.chaos
def test_when_all_others_have_left_the_watcher_gives_a_dead_holders_item_a_new_pilot(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given one pilot that holds the last item, and waiting ones that are due later
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    marker = tmp_path / "failed-once"
    once = f"bash -c 'if [ -e {marker} ]; then exit 0; fi; touch {marker}; exit 1'"
    hold = f"bash -c 'if [ -e {tmp_path}/held ]; then exit 0; fi; touch {tmp_path}/held; sleep 300'"
    workflow = place.workflow(pilots=1, budgets={"retry_delay_seconds": 2})
    ledger, version = place.filled(workflow, [f"held|t|{hold}|", f"waits|t|{once}|"])
    run = driver.begin(ledger, version, workflow)
    watched = Watched(place, ledger, run, workflow, patience=QUICK_PATIENCE)
    wait_for((tmp_path / "held").exists)
    # When the only pilot dies
    assert kill_pilots(place, run)
    # Then another one is submitted, and the run completes
    outcome = watched.outcome()
    assert (outcome.outcome, len(outcome.run.submissions)) == ("completed", 2)
    recorded_once(ledger)
