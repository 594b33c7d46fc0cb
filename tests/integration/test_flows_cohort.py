"""The flow `cohort` against a real Prefect server: each step's run is a subflow, and a cancel reaches the live one only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chain_process import chain
from driver_support import Place, sleeping
from flows_support import Api, eventually
from pyanamo_flows import cohort as cohort_flow
from pyanamo_flows.server import PrefectServer

from pyanamo_core import driver
from pyanamo_core.chain import Opened
from pyanamo_core.ledger import open_ledger
from pyanamo_core.local import LocalCloud

TESTS = Path(__file__).resolve().parent.parent

COHORT = """
import json, sys
from pathlib import Path
from pyanamo_core.aws import Clients
from pyanamo_flows import cohort
from chain_process import chain
cohort.open_chain = lambda stack, clients, table, *rest: chain(clients, table, Path({folder!r}))
told = []
looks = cohort.start(Clients(), table={table!r}, last="gather", say=told.append)
print()
print(json.dumps([[one.step, one.state, one.done] for one in looks]))
"""


@pytest.fixture
def place(local_cloud: LocalCloud, unique_name: str, tmp_path: Path) -> Place:
    return Place(local_cloud, unique_name, tmp_path)


def test_the_runs_of_a_cohorts_steps_are_subflows_of_it_and_a_second_cohort_begins_none(
    prefect_server: PrefectServer, local_cloud: LocalCloud, place: Place
):
    # Given a cohort's first two steps, whose nests end at once
    for step in ("call", "gather"):
        (place.folder / f"go-{step}").touch()
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = own | local_cloud.environment() | prefect_server.client_environment() | {"PYTHONPATH": str(TESTS)}
    code = COHORT.format(folder=str(place.folder), table=place.name)

    def run() -> Any:
        how: dict[str, Any] = {"env": environment, "cwd": place.folder, "text": True, "capture_output": True}
        done = subprocess.run([sys.executable, "-c", code], check=False, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.strip().splitlines()[-1])

    # When it runs under Prefect
    assert run() == [["call", "done", 2], ["gather", "done", 2]]
    # Then its page shows a run of each step, which has ended well
    api = Api(prefect_server.api_url)

    def cohorts() -> list[dict[str, Any]]:
        found = api.post("/flow_runs/filter", flows={"name": {"any_": ["cohort"]}}, limit=50)
        return [one for one in found if one["parameters"]["table"] == place.name]

    (root,) = cohorts()
    below = eventually(
        lambda: sorted(api.children(root["id"]), key=lambda one: one["start_time"]),
        lambda seen: [one["state_type"] for one in seen] == ["COMPLETED"] * 2,
    )
    assert [one["parameters"]["table"] for one in below] == [place.name, f"{place.name}-gather"]
    # And Prefect tells the ids of the ledgers' runs, so that a cancel finds them
    for shown in below:
        (row,) = open_ledger(place.clients, shown["parameters"]["table"])[0].runs()
        assert row.run_id == shown["parameters"]["run_id"]
    # When it is run again, then it finds all done and begins no run
    assert run() == [["call", "done", 2], ["gather", "done", 2]]
    (again,) = [one for one in cohorts() if one["id"] != root["id"]]
    assert api.children(again["id"]) == []
    assert eventually(lambda: api.flow_run(again["id"])["state_type"], lambda seen: seen == "COMPLETED")


def test_cancelling_a_cohort_cancels_the_runs_it_began_or_carried_on_and_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    # Given a flow run whose step `gather` has begun a run, which carried on one of the call's table, beside another
    clients = place.clients
    workflow = place.workflow()
    ledger, version = place.filled(workflow, sleeping(1, 60))
    carried_on = driver.begin(ledger, version, workflow)
    other = driver.begin(ledger, version, workflow)
    step = chain(clients, place.name, place.folder).steps[1]
    done = driver.provision(clients, step.workflow)
    gather = Opened(*open_ledger(clients, done.table))
    began = driver.begin(gather.ledger, gather.version, gather.workflow)
    shown = [(place.name, carried_on.run_id), (gather.workflow.table_name, began.run_id)]
    monkeypatch.setattr(cohort_flow, "_runs_below", lambda _: shown)
    flow_run: Any = SimpleNamespace(
        id="cohort-1",
        parameters={"table": place.name, "aws": {"endpoint_url": place.cloud.endpoint, "region": "us-east-1"}},
    )
    for name, value in place.cloud.environment().items():
        monkeypatch.setenv(name, value)
    # When it is cancelled, twice as Prefect may do
    nothing: Any = None
    for _ in range(2):
        cohort_flow.on_cancellation(nothing, flow_run, nothing)
    # Then those two runs are cancelled, and the other one is live
    assert ledger.run(carried_on.run_id).outcome == "cancelled"
    assert gather.ledger.run(began.run_id).outcome == "cancelled"
    assert [run.run_id for run in ledger.live_runs()] == [other.run_id]
