"""Runs with real pilots that are bounded: by the items of a canary, by dollars."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver_support import Place, sleeping

from pyanamo_core import driver
from pyanamo_core.fleet.canary import choose
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import State, VcpuHour


@pytest.fixture
def place(misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path) -> Place:
    return Place(misbehaving_cloud, unique_name, tmp_path)


def test_a_canary_does_its_items_and_leaves_the_others_alone(place: Place) -> None:
    # Given twelve items, of which three are chosen, and two pilots with two items each
    workflow = place.workflow(items=2)
    ledger, version = place.filled(workflow, sleeping(12, 0.2))
    names = choose(ledger, 3)
    # When the canary has run
    run = driver.begin(ledger, version, workflow, only=names)
    outcome = driver.carry_on(place.clients, ledger, run, workflow)
    # Then exactly these are done, it says so, and its pilots have left
    assert (outcome.outcome, outcome.counts.done, outcome.counts.total) == ("completed", 3, 3)
    assert sorted(item.item_id for item in ledger.items(State.DONE)) == sorted(names)
    assert ledger.counts().todo == 9
    assert all(pilot.leaving == "empty" for pilot in ledger.pilots(run.run_id))
    # And the rest is a run of its own
    assert driver.run(place.clients, workflow).counts.done == 12


def test_a_run_drains_at_its_dollars_and_the_rest_is_done_by_another(place: Place) -> None:
    # Given pilots that cost three dollars a second and item, and a limit of some seconds of two
    workflow = place.workflow()
    ledger, version = place.filled(workflow, sleeping(24, 0.7))
    dear = VcpuHour(spot=(3600.0, 10_800.0), on_demand=(10_800.0, 10_800.0))
    run = driver.begin(ledger, version, workflow, max_dollars=20.0, vcpu_hour=dear)
    # When it runs
    seen: list[driver.Progress] = []
    outcome = driver.carry_on(place.clients, ledger, run, workflow, on_progress=seen.append)
    # Then it has stopped for its dollars with some items done, and says so
    assert outcome.outcome == "stopped"
    assert outcome.reason.startswith("max_dollars $20.00: spent ≤ $")
    counts = ledger.counts()
    assert counts.done >= 1
    assert counts.todo >= 1
    assert counts.locked == counts.failed == 0
    told = seen[-1].spending
    assert told is not None
    assert told.high > told.low > 0
    # When another run begins without a limit, the rest is done
    assert driver.run(place.clients, workflow).outcome == "completed"
    assert ledger.counts().done == 24
