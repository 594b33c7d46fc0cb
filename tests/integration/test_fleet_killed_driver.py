"""A driver that is killed between SubmitJob and its answer being noted, and two watchers at once: one array works.

The other steps of a submission are in tests/chaos/test_fleet_storms.py.
"""

from __future__ import annotations

from pathlib import Path

from driver_support import Place
from fleet_fire import died_and_carried_on, watched_by_two

from pyanamo_core.local import LocalCloud


def test_a_driver_killed_between_submit_and_settle_has_made_the_one_array(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    print(died_and_carried_on(misbehaving_cloud, unique_name, tmp_path / "run", "after SubmitJob"))


def test_two_watchers_at_once_and_a_lost_answer_make_one_array(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given a network that loses the answer of SubmitJob
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    place.cloud.lose("batch", "SubmitJob")
    # When two watchers start together, then one array does it all
    watched_by_two(place)
