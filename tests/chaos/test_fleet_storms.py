"""Fleets under fire, in full: drivers killed at each step, late doubles, a third reclaimed, a bad host in an array of 200."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from driver_support import QUICK, Place, recorded_once, sleeping, wait_for
from fleet_fire import (
    Watched,
    arrays_that_worked,
    died_and_carried_on,
    full_disk,
    nothing_counted,
    run_with_a_bad_host,
    run_with_reclaimed_pilots,
    start_driver,
    watched_by_two,
)
from killed_driver import ON_ITS_WAY, QUICK_PATIENCE, STEPS

from pyanamo_core import driver
from pyanamo_core.local import LocalCloud

pytestmark = pytest.mark.chaos


def test_whichever_step_a_driver_dies_at_exactly_one_array_works(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given a run for each step of a submission: its driver is killed there (all at once, each waits for a lease)
    with ThreadPoolExecutor(len(STEPS)) as pool:
        told = [
            pool.submit(died_and_carried_on, misbehaving_cloud, f"{unique_name}-{number}", tmp_path / str(number), step)
            for number, step in enumerate(STEPS)
        ]
        for each in told:
            print(f"driver killed {each.result()}")


def test_a_double_that_arrives_late_never_works_and_is_found_and_ended(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given a driver that is killed while its SubmitJob is on its way, for 16 s
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    workflow = place.workflow(pilots=2)
    ledger, version = place.filled(workflow, sleeping(44, 1))
    run = driver.begin(ledger, version, workflow)
    place.cloud.delay("batch", "SubmitJob", seconds=16)
    assert start_driver(place, ledger.table, run, ON_ITS_WAY).wait(60) == -signal.SIGKILL
    assert place.jobs(run) == []
    # When the next one finds nothing, and sends it again under the same name
    # (it looks for doubles seldom, so that the double's pilots have time to come)
    watched = Watched(place, ledger, run, workflow, patience=replace(QUICK_PATIENCE, double_seconds=12))
    (one,) = wait_for(lambda: place.jobs(run))
    # And then the first request arrives after all
    double = wait_for(lambda: [job for job in place.jobs(run) if job["jobId"] != one["jobId"]])[0]
    assert (double["jobName"], double["createdAt"] >= one["createdAt"]) == (one["jobName"], True)
    # Then it is ended, and only the pilots of the one that was settled have ever claimed anything
    wait_for(lambda: double["jobId"] not in place.live_jobs(run))
    outcome = watched.outcome()
    assert outcome.outcome == "completed"
    recorded_once(ledger)
    assert arrays_that_worked(ledger) == {one["jobId"]}
    told = place.clients.client("batch").describe_jobs(jobs=[double["jobId"]])["jobs"][0]
    came = [record for record in ledger.pilots() if record.batch_job.startswith(double["jobId"])]
    print(f"late double: {told['status']}, {len(came)} of its 2 pilots came, claims {[each.claims for each in came]}")
    assert came
    assert {each.claims for each in came} == {0}
    assert {each.leaving.partition(":")[0] for each in came} == {"drained"}


def test_two_watchers_at_once_and_a_request_that_is_lost_make_one_array(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given a network that loses the request of SubmitJob
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    place.cloud.drop("batch", "SubmitJob")
    # When two watchers start together, then one array does it all
    watched_by_two(place)


def test_a_host_with_a_full_disk_does_not_swallow_an_array_of_two_hundred(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given 200 pilots, four hosts with room for two each, the first one without room on its disk; pilots live for some
    # seconds only, so that many children of the array have their turn
    wait_seconds = 10.0
    place = Place(misbehaving_cloud, unique_name, tmp_path, max_vcpus=8)
    timing = QUICK.model_copy(update={"host_fault_wait_seconds": wait_seconds})
    workflow = place.workflow(pilots=200, timing=timing, wall_time_seconds=15)
    with full_disk(tmp_path) as scratch:
        figures, ledger = run_with_a_bad_host(
            place, workflow, sleeping(300, 0.5), {"PYANAMO_SCRATCH": str(scratch)}, good_hosts=3
        )
    print(f"bad host, array of 200, 8 at a time, wait {wait_seconds:.0f} s: {figures}")
    # Then the run completes on the other hosts, by one array, and Batch has given up no child
    assert (figures.outcome, figures.done, figures.submissions) == ("completed", 300, 1)
    recorded_once(ledger)
    assert figures.failed_children == 0
    # And the bad host has had one child per slot and wait
    assert 2 <= figures.starts_on_bad <= 2 * (figures.seconds / wait_seconds + 1)


def test_a_third_of_thirty_pilots_reclaimed_twice_counts_nothing(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given thirty pilots, of which ten are reclaimed, and ten again: every second one after a notice
    place = Place(misbehaving_cloud, unique_name, tmp_path, max_vcpus=30)
    # (thirty pilots that start at once on two cores: leases must bear that)
    timing = QUICK.model_copy(update={"lease_seconds": 20.0, "beat_seconds": 4.0})
    workflow = place.workflow(pilots=30, timing=timing)
    figures, ledger, _ = run_with_reclaimed_pilots(place, workflow, sleeping(90, 4, nests=2), times=2)
    print(f"third reclaimed twice: {figures}")
    # Then nothing counts, the interruptions are there to be seen, and what they cost
    nothing_counted(ledger)
    assert figures.reclaimed == 20
    assert set(figures.causes) <= {"spot", "lost", "drained"}
    assert figures.causes["spot"] >= figures.reclaimed // 2
    assert figures.lost_seconds > 0
