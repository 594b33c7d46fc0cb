"""What only Batch knows of a pilot's end: `pyanamo recover` takes its items back, a container out of memory gets more."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from driver_support import PILOT, QUICK, Place, recorded_once, sleeping, wait_for
from fleet_fire import Watched, kill_pilots
from killed_driver import QUICK_PATIENCE

from pyanamo_core import driver
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import Cause, State


def test_recover_takes_back_at_once_what_a_killed_pilot_held(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given a killed pilot whose lease would last for a minute, in a run that nobody watches
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    timing = QUICK.model_copy(update={"lease_seconds": 60.0})
    workflow = place.workflow(pilots=1, timing=timing)
    ledger, version = place.filled(workflow, sleeping(1, 300))
    run = driver.begin(ledger, version, workflow)
    driver.fan_out(place.clients, ledger, run, workflow, watcher="w")
    (held,) = wait_for(lambda: list(ledger.items(State.LOCKED)))
    assert kill_pilots(place, run)
    wait_for(lambda: place.live_jobs(run) == [])

    def recovered() -> dict:
        asked = [PILOT[0], "recover", "--table", ledger.table, "--json"]
        environment = os.environ | place.cloud.environment()
        done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    # When it is recovered too early, then the item is left alone, with the reason
    first = recovered()
    # And a tenth of the lease after Batch's word, it is taken back
    if not first["items"]:
        assert "ended only" in first["refused"][held.item_id]
    told = first if first["items"] else wait_for(lambda: one if (one := recovered())["items"] else None)
    assert told["items"] == [held.item_id]
    assert told["unwatched"] == [run.run_id]
    item = ledger.item(held.item_id)
    assert (item.state, item.interruptions, item.tries) == (State.TODO, 1, 0)
    assert time.time() < (held.lease_end or 0.0)
    driver.cancel(place.clients, ledger, run.run_id)


def test_a_container_that_ran_out_of_memory_is_told_by_batch_and_its_item_gets_more(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given a pilot with room for two items, in the middle of one
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    timing = QUICK.model_copy(update={"lease_seconds": 60.0})
    workflow = place.workflow(pilots=1, items=2, timing=timing)
    ledger, version = place.filled(workflow, sleeping(1, 4))
    run = driver.begin(ledger, version, workflow)
    watched = Watched(place, ledger, run, workflow, patience=QUICK_PATIENCE)
    (item,) = wait_for(lambda: list(ledger.items(State.LOCKED)))
    # When the kernel kills its container for the memory that it used
    place.cloud.out_of_memory(ledger.run(run.run_id).submissions[0].job_id)
    # Then the run goes on: the item is done at its second try, with half as much memory again
    assert watched.outcome().outcome == "completed"
    recorded_once(ledger)
    after = ledger.item(item.item_id)
    assert (after.tries, after.memory_factor, after.interruptions) == (2, 1.5, 0)
    # And the attempt says what only Batch knew
    first, second = ledger.attempts(item.item_id)
    assert (first.cause, first.evidence.startswith("OutOfMemoryError")) == (Cause.OUT_OF_MEMORY, True)
    assert second.cause is Cause.DONE
