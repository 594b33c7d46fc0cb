"""A chain on the local cloud with real pilots, killed with SIGKILL in each of its steps: the next one carries on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from chain_process import STEPS, chain
from driver_support import Place, recorded_once, wait_for

from pyanamo_core.chain import StepState, plainly
from pyanamo_core.errors import NotFound
from pyanamo_core.ledger import open_ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import State

PROCESS = Path(__file__).resolve().parent.parent / "chain_process.py"


def test_a_chain_killed_in_each_of_its_steps_goes_on_and_does_nothing_twice(
    local_cloud: LocalCloud, cloud_environment: dict[str, str], unique_name: str, tmp_path: Path
):
    place = Place(local_cloud, unique_name, tmp_path)
    tables = {"call": unique_name, "gather": f"{unique_name}-gather", "joint": f"{unique_name}-joint"}
    tables["concat"] = tables["joint"]

    def held(step: str) -> bool:
        """Does a pilot hold an item of this step?"""
        try:
            ledger = open_ledger(place.clients, tables[step])[0]
            return any((item.item_id == "cohort") == (step == "concat") for item in ledger.items(State.LOCKED))
        except NotFound:  # the table is being made
            return False

    for step in STEPS:
        # Given a chain in the middle of a step
        process = subprocess.Popen(
            [sys.executable, str(PROCESS), unique_name, str(tmp_path)], stdout=subprocess.DEVNULL
        )
        try:
            wait_for(lambda step=step: held(step))
        finally:
            # When it is killed, and its pilots go on without it
            process.kill()
            process.wait()
        (tmp_path / f"go-{step}").touch()
    # Then the next one comes to the end
    said: list[str] = []
    again = chain(place.clients, unique_name, tmp_path)
    looks = again.run(plainly(place.clients), say=said.append)
    assert {look.state for look in looks} == {StepState.DONE}
    # And every item was done by one attempt, in the one run that each step has
    for table, runs in ((tables["call"], 1), (tables["gather"], 1), (tables["joint"], 2)):
        ledger = open_ledger(place.clients, table)[0]
        recorded_once(ledger)
        assert [run.outcome for run in ledger.runs()] == ["completed"] * runs
        assert {len(ledger.attempts(item.item_id)) for item in ledger.items()} == {1}
        assert sum(len(run.submissions) for run in ledger.runs()) == runs
    # And once more there is nothing to do
    assert again.run(plainly(place.clients), say=said.append) == again.look()
    assert len(open_ledger(place.clients, tables["joint"])[0].runs()) == 2
