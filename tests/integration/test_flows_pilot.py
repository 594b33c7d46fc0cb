"""A pilot seen by a real Prefect server, with a pilot that has no ledger: the window, and that it is never more than that."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import executor_suite
import pytest
from flows_support import Api, eventually
from outage_support import Faulty
from pyanamo_flows.server import PrefectServer, free_port

SUPPORT = Path(__file__).parents[1] / "flows_support.py"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def server(prefect_server: PrefectServer) -> PrefectServer:
    return prefect_server


@pytest.fixture(scope="module")
def api(server: PrefectServer) -> Api:
    return Api(server.api_url)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a fake pilot as a process of its own, with nothing of Prefect in its environment."""
    started: list[subprocess.Popen[str]] = []

    def pilot(**plan: Any) -> subprocess.Popen[str]:
        command = [sys.executable, str(SUPPORT), json.dumps(plan)]
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment, **pipes))
        return started[-1]

    yield pilot
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def working(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Wait until it works."""
    assert process.stdout.readline() == "working\n"
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    """Its exit code, and what it told last."""
    out, err = process.communicate(timeout=120)
    lines = out.strip().splitlines()
    assert lines, err
    return process.returncode, json.loads(lines[-1])


def test_without_an_address_nothing_of_prefect_is_imported(start):
    code, told = ended(start(nests=3))
    assert code == 0
    assert told["ran"] == 3
    assert told["prefect"] is False
    assert told["rss"] < 130


def test_an_api_that_is_never_reachable_costs_nothing_but_the_window(start):
    code, told = ended(start(api_url=f"http://127.0.0.1:{free_port()}/api", nests=5))
    assert (code, told["ran"], told["flow_run_id"]) == (0, 5, "")


def test_pilots_are_children_of_the_runs_root_flow_run_and_nests_their_task_runs(server, api, start):
    # Given a root flow run
    root = api.root()
    # When two pilots work for it, one of whose nests fails
    pilots = [
        start(api_url=server.api_url, flow_run_id=root, index=i, nests=6, seconds=0.1, item=f"S{i}", failing=[2])
        for i in range(2)
    ]
    told = [ended(pilot) for pilot in pilots]
    # Then each ends with the ledger's code, whatever Prefect thinks of failed task runs
    assert [code for code, _ in told] == [0, 0]
    # And both hang below the root, under their names and with their states
    graph = eventually(lambda: api.graph(root), lambda seen: len(seen) == 2)
    assert graph == [("flow-run", "pilot / pilot 0", "COMPLETED"), ("flow-run", "pilot / pilot 1", "COMPLETED")]
    # And every nest is a task run with its own outcome
    for index, (_, what) in enumerate(told):
        runs = eventually(
            lambda what=what: api.task_runs(what["flow_run_id"]),
            # The server writes task runs from their events, a moment after these have come.
            lambda seen: len(seen) == 6 and all(run["state_type"] in {"COMPLETED", "FAILED"} for run in seen),
        )
        states = {run["name"]: run["state_type"] for run in runs}
        assert states == {f"S{index} v{n}": "FAILED" if n == 2 else "COMPLETED" for n in range(6)}
        assert "claimed" in api.logs(what["flow_run_id"])
        assert what["rss"] < 250


@pytest.fixture(scope="module")
def suite(server: PrefectServer, api: Api) -> dict[str, str]:
    """The executors' suite, run in the body of a real flow run with four slots."""
    plan = {"api_url": server.api_url, "flow_run_id": api.root(), "suite": True, "slots": 4, "detail": "nest"}
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    command = [sys.executable, str(SUPPORT), json.dumps(plan)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["flow_run_id"], done.stderr
    # Not a flow run in which everything ran beside Prefect.
    assert eventually(lambda: api.task_runs(told["flow_run_id"]))
    return told["suite"]


@pytest.mark.parametrize("name", executor_suite.__all__)
def test_prefects_executor_keeps_the_executors_contract(suite, name):
    assert suite[name] == ""


def test_detail_item_shows_one_task_run_per_item_and_none_shows_none(server, api, start):
    root = api.root()
    both = [start(api_url=server.api_url, flow_run_id=root, nests=20, detail=detail) for detail in ("item", "none")]
    (_, item), (_, none) = (ended(pilot) for pilot in both)
    assert (item["ran"], none["ran"]) == (20, 20)
    runs = eventually(lambda: api.task_runs(item["flow_run_id"]))
    assert [(run["name"], run["state_type"]) for run in runs] == [("S1", "COMPLETED")]
    assert api.task_runs(none["flow_run_id"]) == []


def test_term_is_the_cores_also_in_a_flow_and_the_flow_run_ends_as_handed_back(server, api, start):
    # Given a pilot in the middle of nests
    pilot = working(start(api_url=server.api_url, flow_run_id=api.root(), nests=100, seconds=30))
    # When it is told to end
    pilot.send_signal(signal.SIGTERM)
    code, told = ended(pilot)
    # Then its own handler was in force (put in a second time by the flow), and it left with the ledger's code
    assert (code, told["signals"]) == (75, 2)
    assert api.flow_run(told["flow_run_id"])["state_name"] == "HandedBack"


def test_what_a_pilot_raises_reaches_its_caller(server, api, start):
    plan = {"api_url": server.api_url, "flow_run_id": api.root(), "nests": 2, "raise": True}
    code, told = ended(start(**plan))
    assert code == 1
    assert told["raised"] == "the pilot itself failed"


@pytest.mark.parametrize(
    ("seconds", "status"),
    [
        pytest.param(5.0, 0, id="slow", marks=pytest.mark.chaos),
        pytest.param(0.0, 429, id="429", marks=pytest.mark.chaos),
        pytest.param(0.0, 500, id="500"),
    ],
)
def test_an_api_that_goes_bad_in_mid_run_costs_only_the_window(server, api, start, seconds, status):
    # Given a pilot that is registered and works
    proxy = Faulty(server.api_url)
    pilot = working(start(api_url=proxy.url, flow_run_id=api.root(), nests=12, seconds=0.1, detail="nest"))
    # When the API then takes 5 s a call, or refuses each, until the pilot's end
    proxy.seconds, proxy.status = seconds, status
    code, told = ended(pilot)
    # Then every nest ran once, and the process ended with the ledger's code, within the few seconds that Prefect gets
    assert (code, told["ran"], told["twice"], told["code"]) == (0, 12, 0, 0)
    assert told["flow_run_id"], "it was registered"
    proxy.shutdown()
    proxy.server_close()


def test_a_server_that_hangs_in_mid_run_neither_stops_nests_nor_changes_the_exit_code(server, api, start):
    pilot = working(start(api_url=server.api_url, flow_run_id=api.root(), nests=12, seconds=0.2))
    os.kill(server.pid, signal.SIGSTOP)
    try:
        assert pilot.wait(60) == 0
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert "ending with code 0" in pilot.stderr.read()
