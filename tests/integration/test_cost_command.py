"""`pyanamo cost` as it is typed, after a run on the local cloud whose pilots were killed in its middle."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from driver_support import PILOT, Place, recorded_once, sleeping, wait_for
from fleet_fire import Watched, kill_pilots
from killed_driver import QUICK_PATIENCE

from pyanamo_core import driver
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import State

Typed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def killed(misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path) -> tuple[Typed, Any, str]:
    """A run of three items with two nests each, whose pilot was killed in its first and took nobody's farewell."""
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    workflow = place.workflow(pilots=1, nests=2, vcpus=1)
    ledger, version = place.filled(workflow, sleeping(3, 1.5, nests=2))
    run = driver.begin(ledger, version, workflow)
    watched = Watched(place, ledger, run, workflow, patience=QUICK_PATIENCE)
    wait_for(lambda: list(ledger.items(State.LOCKED)))
    wait_for(lambda: any(pilot.spent.slot_seconds for pilot in ledger.pilots()))
    assert kill_pilots(place, run)
    assert watched.outcome().outcome == "completed"
    recorded_once(ledger)

    def typed(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | place.cloud.environment() | {"PYANAMO_TABLE": ledger.table, "COLUMNS": "200"}
        return subprocess.run([PILOT[0], *words], env=environment, capture_output=True, text=True, check=False)

    return typed, ledger, run.run_id


def test_a_run_whose_pilot_was_killed_tells_what_that_cost(killed: tuple[Typed, Any, str], tmp_path: Path) -> None:
    typed, ledger, run_id = killed
    # When it is asked what the run has cost, after the dead pilot's lease is over
    wait_for(lambda: json.loads(typed("cost", "--json").stdout)["spending"]["silent"] == 1)
    told = json.loads(typed("cost", run_id, "--json").stdout)["spending"]
    # Then each vCPU-second of its pilots has one fate, and what ran when it was killed is lost
    pilots = ledger.pilots(run_id)
    assert told["pilots"] == len(pilots) >= 2
    lives = sum((pilot.ended or pilot.last_beat) - pilot.started for pilot in pilots)
    fates = {line["what"]: line["vcpu_seconds"] for line in told["lines"]}
    assert sum(fates.values()) == pytest.approx(told["vcpu_seconds"], rel=0.02, abs=0.1)
    assert told["vcpu_seconds"] == pytest.approx(lives, abs=0.1)
    assert fates["lost"] > 0
    assert fates["done"] >= 3 * 2 * 1.5 / 2 * 0.5
    assert told["unseen_vcpu_seconds"] > 0
    # And DynamoDB's units that the pilots were told lie within those counted from their moves
    assert told["write_units"] > 0
    # And by item the time of what is done is the pilots' own, but for the attempt that nobody could tell of
    out = tmp_path / "items.tsv"
    done = typed("cost", "--by", "item", "--out", str(out))
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert len(rows) == 3
    (cut,) = [row for row in rows if row["estimated"]]
    assert int(cut["attempts"]) == 2
    assert float(cut["lost_vcpu_seconds"]) > 0
    clean = [float(row["vcpu_seconds"]) for row in rows if not row["estimated"]]
    assert all(seconds >= 1.5 * 2 / 2 for seconds in clean)
    assert "about: 1 whose pilots died" in done.stdout
    # And the page says it in words
    page = typed("cost").stdout
    assert "cut short" in page
    assert "not seen" in page
    # And a cohort that has only been called so far costs what its call did
    cohort = json.loads(typed("cohort", "cost", "--by", "sample", "--json").stdout)
    assert [(step["step"], step["items_done"]) for step in cohort["steps"]] == [("call", 3)]
    assert cohort["samples"] == 3
    assert cohort["steps"][0]["lost_vcpu_seconds"] > 0
