"""A driver that is killed between SubmitJob and its answer being noted, and two watchers at once: one array works.

The other steps of a submission are in tests/chaos/test_fleet_storms.py.
"""

from __future__ import annotations

from pathlib import Path

from driver_support import Place, recorded_once, sleeping
from fleet_fire import Watched, arrays_that_worked, died_and_carried_on
from killed_driver import QUICK_PATIENCE

from pyanamo_core import driver
from pyanamo_core.local import LocalCloud


def test_a_driver_killed_between_submit_and_settle_has_made_the_one_array(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    print(died_and_carried_on(misbehaving_cloud, unique_name, tmp_path / "run", "after SubmitJob"))


def test_two_watchers_at_once_and_a_lost_answer_make_one_array(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given two watchers that start together, and a network that loses the answer of SubmitJob
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    workflow = place.workflow(pilots=2)
    ledger, version = place.filled(workflow, sleeping(6, 0.3))
    run = driver.begin(ledger, version, workflow)
    place.cloud.lose("batch", "SubmitJob")
    # When both watch
    both = [Watched(place, ledger, run, workflow, patience=QUICK_PATIENCE) for _ in range(2)]
    outcomes = [each.outcome() for each in both]
    # Then both see the run complete, by one array
    assert [outcome.outcome for outcome in outcomes] == ["completed"] * 2
    recorded_once(ledger)
    assert len(place.jobs(run)) == 1
    assert len(arrays_that_worked(ledger)) == 1
