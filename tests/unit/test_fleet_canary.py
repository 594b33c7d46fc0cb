"""Which items a canary gets, and which canary stands before a run."""

from __future__ import annotations

import pytest
from fleet_support import Scene

from pyanamo_core import driver
from pyanamo_core.fleet.canary import CanaryTooBig, choose, standing
from pyanamo_core.model import Definition


def scene_of(*nests: int) -> Scene:
    scene = Scene()
    for number, count in enumerate(nests):
        values = tuple(str(value) for value in range(count))
        scene.ledger.import_item(f"i{number}", "t", Definition(script="x", arguments=values))
    return scene


def test_three_are_a_small_a_usual_and_a_big_item() -> None:
    # Given thirty items with one to thirty nests
    scene = scene_of(*range(1, 31))
    nests = [scene.ledger.item(each).nests for each in choose(scene.ledger, 3)]
    # Then they are the middles of three thirds
    assert nests == [6, 16, 26]
    assert [scene.ledger.item(each).nests for each in choose(scene.ledger, 1)] == [16]


def test_of_fewer_items_all_are_chosen_and_what_is_not_to_do_is_none() -> None:
    scene = scene_of(1, 1, 1)
    scene.finish("i1")
    assert sorted(choose(scene.ledger, 5)) == ["i0", "i2"]


def test_a_canary_that_a_runs_row_cannot_name_is_refused() -> None:
    scene = Scene()
    for number in range(20):
        scene.ledger.import_item(f"{'x' * 250}{number}", "t", Definition(script="x"))
    with pytest.raises(CanaryTooBig, match="Give --first fewer items"):
        choose(scene.ledger, 20)
    with pytest.raises(CanaryTooBig):
        choose(scene.ledger, 101)
    assert len(choose(scene.ledger, 10)) == 10


def test_a_live_canary_is_found_again_and_an_ended_one_until_another_run_begins() -> None:
    # Given the scene's own run, which is ended
    scene = scene_of(1, 2, 3)
    scene.ledger.end_run("run", "completed")
    scene.clock.move(10)
    revision = scene.workflow.revision
    assert standing(scene.ledger, revision) is None
    # When a canary has begun, then it is found, live or completed
    canary = driver.begin(scene.ledger, 1, scene.workflow, run_id="c", only=("i1",), clock=scene.clock)
    assert standing(scene.ledger, revision) == canary
    scene.ledger.end_run("c", "completed")
    found = standing(scene.ledger, revision)
    assert found is not None
    assert found.run_id == "c"
    # But not for another revision, and not once the others were begun; nor one that was cancelled
    assert standing(scene.ledger, "0123") is None
    scene.clock.move(10)
    driver.begin(scene.ledger, 1, scene.workflow, run_id="rest", clock=scene.clock)
    assert standing(scene.ledger, revision) is None
    scene.ledger.end_run("rest", "completed")
    scene.clock.move(10)
    driver.begin(scene.ledger, 1, scene.workflow, run_id="d", only=("i2",), clock=scene.clock)
    scene.ledger.end_run("d", "cancelled")
    assert standing(scene.ledger, revision) is None
