"""Runs through Prefect with everything real: server, worker, command line, Batch's array jobs, pilots; and with parts of it dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flows_support import Api, Place, eventually
from pyanamo_flows.server import PrefectServer, free_port

from pyanamo_core import driver
from pyanamo_core.model import Mode

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
LIVE = {"STARTING", "RUNNING", "RUNNABLE", "SUBMITTED", "PENDING"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as running:
        yield running


@pytest.fixture(scope="module")
def api(server: PrefectServer) -> Api:
    return Api(server.api_url)


@pytest.fixture(scope="module")
def environment(server: PrefectServer, local_cloud: Any) -> dict[str, str]:
    """What a user of both has in the environment."""
    own = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_STATE_HOME") if name in os.environ}
    return own | local_cloud.environment() | server.client_environment()


@pytest.fixture
def place(local_cloud: Any, unique_name: str, tmp_path: Path) -> Place:
    return Place(local_cloud, unique_name, tmp_path)


@pytest.fixture(scope="module")
def worker(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], None]]:
    """Starts a real worker for the pool, once; it ends with the tests, which takes it up to two signals."""
    folder = tmp_path_factory.mktemp("worker")
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        if not started:
            command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "pyanamo", "--name", "tests"]
            with (folder / "worker.log").open("wb") as log:
                quick = {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_WORKER_PREFETCH_SECONDS": "1"}
                how: dict[str, Any] = {"env": environment | quick, "cwd": folder, "stdout": log, "stderr": log}
                started.append(subprocess.Popen(command, **how))

    yield start
    for process in started:
        for _ in range(2):
            process.terminate()
            try:
                process.wait(5)
                break
            except subprocess.TimeoutExpired:
                continue
        process.kill()
        process.wait()


@pytest.fixture
def spawn(place: Place) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in the user's folder; it does not outlive the test."""
    alive: list[subprocess.Popen[str]] = []

    def command(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen([sys.executable, *arguments], env=environment, cwd=place.folder, **pipes)
        alive.append(process)
        return process

    yield command
    for process in alive:
        process.kill()
        process.wait()
        process.stdout.close()


def prefect(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    return subprocess.run(
        command, env=environment, cwd=folder, text=True, capture_output=True, timeout=400, check=False
    )


def deploy(environment: dict[str, str], place: Place) -> None:
    command = [sys.executable, "-m", "pyanamo", "prefect", "setup", "--table", place.name, "--json"]
    done = subprocess.run(command, env=environment, cwd=place.folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {each["name"] for each in json.loads(done.stdout)} == {
        f"{flow}/{place.name}" for flow in ("run", "watch", "recover", "report")
    }


def begin(api: Api, place: Place, flow: str = "run", late_seconds: float = 0.0, **parameters: Any) -> str:
    """A flow run of a deployment, scheduled for now or some time ago; its id."""
    deployment = api.get(f"/deployments/name/{flow}/{place.name}")["id"]
    if not late_seconds:
        return api.post(f"/deployments/{deployment}/create_flow_run", parameters=parameters)["id"]
    due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - late_seconds))
    state = {"type": "SCHEDULED", "name": "Late", "state_details": {"scheduled_time": due}}
    return api.post(f"/deployments/{deployment}/create_flow_run", parameters=parameters, state=state)["id"]


def state(api: Api, flow_run_id: str) -> str:
    return api.flow_run(flow_run_id)["state_type"]


START = """
import json, sys
from pyanamo_core.aws import Clients
from pyanamo_flows.run import start
outcome = start(Clients(), workflow={workflow!r}, sheet={sheet!r})
print()
print(json.dumps([outcome.outcome, outcome.counts.model_dump(), outcome.run.run_id, outcome.run.flow_run_id]))
"""


def run_code(place: Place, **sheet: Any) -> str:
    """A run as `pyanamo run` does it: the flow in a process of the user's."""
    return START.format(workflow=str(place.workflow), sheet=str(place.sheet(**sheet)))


def told(process: subprocess.Popen[str]) -> Any:
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    return json.loads(out.strip().splitlines()[-1])


def at_work(place: Place, pilots: int = 1) -> list[Any]:
    """Rows of pilots that hold an item, as soon as there are enough."""

    def look() -> list[Any]:
        try:
            return [each for each in place.ledger.pilots() if each.claims and each.ended is None]
        except Exception:  # noqa: BLE001 - the table is not there yet
            return []

    return eventually(look, lambda seen: len(seen) >= pilots)


def test_deployment_run_through_a_worker_completes_and_shows_pilots_as_children(
    server, api, environment, place, worker
):
    # Given a table with items and its deployments, and a worker in some other folder
    ledger = place.fill(items=4)
    deploy(environment, place)
    worker()
    # When a user starts a run from the command line and waits for it
    done = prefect(environment, place.folder, "deployment", "run", f"run/{place.name}", "-p", "pilots=2", "--watch")
    # Then it completes, and so do the items, by the ledger
    assert done.returncode == 0, done.stdout + done.stderr
    assert ledger.counts().done == 4
    (run,) = ledger.runs()
    assert (run.outcome, run.flow_run_id) == ("completed", run.run_id)
    # And below the run hang its parts and its pilots, with what they have done
    graph = eventually(lambda: api.graph(run.flow_run_id), lambda seen: sum("pilot /" in n[1] for n in seen) == 2)
    assert {label.partition(" /")[0] for _, label, _ in graph} == {"provision", "fan_out", "watch", "report", "pilot"}
    assert {what for _, _, what in graph} == {"COMPLETED"}
    pilots = [each for each in api.children(run.flow_run_id) if each["name"].startswith("pilot ")]
    shown = [r["name"] for p in pilots for r in eventually(lambda p=p: api.task_runs(p["id"]))]
    assert sorted(name.partition(" ")[0] for name in shown) == sorted(f"item-{n // 2}" for n in range(8))
    # And artifacts say how it went
    keys = {each["key"] for each in api.post("/artifacts/filter", flow_runs={"deployment_id": {}})}
    assert {f"pyanamo-{place.name}-{what}" for what in ("progress", "states", "summary")} <= keys


def test_three_late_scheduled_runs_make_one_array(server, api, environment, place, worker):
    # Given a table, its deployments, and three runs that no worker has taken
    ledger = place.fill(items=3)
    deploy(environment, place)
    late = [begin(api, place, late_seconds=3600.0 * hours) for hours in (3, 2, 1)]
    # When a worker comes
    worker()
    # Then one runs, the others are cancelled, and Batch has seen one job
    states = eventually(
        lambda: sorted(state(api, each) for each in late), lambda seen: not LIVE.union({"SCHEDULED"}) & set(seen)
    )
    assert states == ["CANCELLED", "CANCELLED", "COMPLETED"]
    assert len(ledger.runs()) == 1
    assert len(place.jobs()) == 1
    assert ledger.counts().done == 3


def test_cancelling_by_command_in_mid_watch_leaves_no_pilot(server, api, environment, place, worker):
    # Given a run whose pilots are in long nests
    ledger = place.fill(items=4, held=True)
    deploy(environment, place)
    worker()
    flow_run = begin(api, place)
    at_work(place, 2)
    # When a user cancels the flow run
    done = prefect(environment, place.folder, "flow-run", "cancel", flow_run)
    assert done.returncode == 0, done.stderr
    # Then the run is cancelled in the ledger, its jobs are gone, its items are back
    eventually(lambda: state(api, flow_run), lambda seen: seen == "CANCELLED")
    eventually(place.pilots_gone)
    run = eventually(lambda: ledger.run(flow_run), lambda row: row.ended is not None)
    assert (run.mode, run.outcome, run.reason) == (Mode.CANCEL, "cancelled", "cancelled in Prefect")
    assert ledger.counts().todo == 4


def test_cancelling_a_cohort_cancels_the_run_of_its_live_step(server, api, environment, place, worker):
    # Given a cohort whose call is at work in long nests
    place.clients.client("s3").put_object(Bucket=place.name, Key="ref.fa", Body=b">chr1\nACGT\n")
    with place.workflow.open("a") as file:
        file.write(f"references:\n  - name: ref\n    uri: s3://{place.name}/ref.fa\n")
    ledger = place.fill(items=4, held=True)
    command = [sys.executable, "-m", "pyanamo", "prefect", "setup", "--table", place.name, "--cohort"]
    subprocess.run(command, env=environment, cwd=place.folder, check=True, capture_output=True)
    worker()
    flow_run = begin(api, place, "cohort")
    at_work(place, 2)
    # When a user cancels the flow run of the cohort
    done = prefect(environment, place.folder, "flow-run", "cancel", flow_run)
    assert done.returncode == 0, done.stderr
    # Then the step's run is cancelled in the ledger, its jobs are gone, its items are back
    eventually(lambda: state(api, flow_run), lambda seen: seen == "CANCELLED")
    (run,) = eventually(ledger.runs, lambda rows: all(row.ended is not None for row in rows))
    assert (run.mode, run.outcome, run.reason) == (Mode.CANCEL, "cancelled", "cancelled in Prefect")
    eventually(place.pilots_gone)
    assert ledger.counts().todo == 4
    # And the run was the step's, below the cohort's
    assert [one["parameters"]["run_id"] for one in api.children(flow_run)] == [run.run_id]


def test_cancelling_before_the_submit_leaves_no_pilot(server, api, environment, place, worker, misbehaving_cloud):
    # Given a run that stands in the table and is about to submit, which takes Batch a while to answer
    ledger = place.fill(items=4, held=True)
    deploy(environment, place)
    worker()
    misbehaving_cloud.delay("batch", "SubmitJob", 12.0)
    flow_run = begin(api, place)
    eventually(lambda: [s for row in ledger.runs() for s in row.submissions])
    # When a user cancels the flow run in that moment
    done = prefect(environment, place.folder, "flow-run", "cancel", flow_run)
    assert done.returncode == 0, done.stderr
    eventually(lambda: state(api, flow_run), lambda seen: seen == "CANCELLED")
    # Then whatever Batch made of that request ends, and no item is held
    run = eventually(lambda: ledger.run(flow_run), lambda row: row.ended is not None)
    assert run.outcome == "cancelled"
    eventually(place.pilots_gone)
    assert ledger.counts().todo == 4


def test_recover_gives_a_run_that_nobody_watches_a_watch_that_ends_it(server, api, environment, place, worker):
    # Given a run whose pilots have been submitted, and nobody who watches it
    ledger = place.fill(items=3)
    version, workflow = ledger.workflow()
    run = driver.begin(ledger, version, workflow)
    driver.fan_out(place.clients, ledger, run, workflow, watcher=driver.watcher_name())
    deploy(environment, place)
    worker()
    # When `recover` comes by, as its schedule would have it
    recover = begin(api, place, "recover")
    eventually(lambda: state(api, recover), lambda seen: seen == "COMPLETED")
    # Then a run of the deployment `watch` ends it
    row = eventually(lambda: ledger.run(run.run_id), lambda row: row.ended is not None)
    assert (row.outcome, ledger.counts().done) == ("completed", 3)
    watch = api.get(f"/deployments/name/watch/{place.name}")["id"]
    (flow_run,) = api.flow_runs(deployment_id={"any_": [watch]})
    assert flow_run["parameters"]["run_id"] == run.run_id


def test_a_server_killed_in_mid_run_changes_nothing_but_the_picture(local_cloud, place, spawn, tmp_path):
    # Given a run under a Prefect server of its own, with pilots at work
    with PrefectServer(tmp_path / "prefect") as server:
        own = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_STATE_HOME") if name in os.environ}
        environment = own | local_cloud.environment() | server.client_environment()
        process = spawn(environment, "-c", run_code(place, items=4, held=True))
        eventually(lambda: [p for p in at_work(place) if p.flow_run_id])
        # When the server is killed, never to come back
        server.kill()
        place.open_gate()
        # Then the run completes by the ledger, and its pilots are gone
        outcome, counts, _, _ = told(process)
    assert outcome == "completed"
    assert counts["done"] == 4
    assert place.pilots_gone()
    assert {pilot.exit_code for pilot in place.ledger.pilots()} == {0}


def test_an_api_that_pilots_never_reach_changes_nothing(place):
    # Given a run whose row names an address where nobody listens
    ledger = place.fill(items=3)
    version, workflow = ledger.workflow()
    nowhere = f"http://127.0.0.1:{free_port()}/api"
    run = driver.begin(ledger, version, workflow, flow_run_id="", prefect_api_url=nowhere)
    # When it is worked off
    driver.fan_out(place.clients, ledger, run, workflow, watcher=driver.watcher_name())
    outcome = driver.watch(place.clients, ledger, run.run_id, workflow, watcher=driver.watcher_name())
    # Then it completes, and every pilot left in good order
    assert (outcome.outcome, outcome.counts.done) == ("completed", 3)
    assert {(pilot.exit_code, pilot.flow_run_id) for pilot in ledger.pilots()} == {(0, "")}


MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(process.pid, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss / 1024)
"""
# The kernel counts what a process was before its exec, too: so the one that starts it must be small.


def peak_mb(command: list[str], environment: dict[str, str], folder: Path) -> tuple[int, float]:
    """Exit code of a command and the highest resident memory of its process or one of its children, in MB."""
    small = [sys.executable, "-I", "-S", "-c", MEASURE, *command]
    how: dict[str, Any] = {"env": environment, "cwd": folder, "text": True, "stdout": subprocess.PIPE}
    out = subprocess.run(small, check=True, **how).stdout
    code, megabytes = out.strip().splitlines()[-1].split()
    return int(code), float(megabytes)


@pytest.mark.parametrize(("seen", "limit"), [(False, 130), (True, 250)], ids=["without Prefect", "with Prefect"])
def test_a_pilot_stays_within_its_memory_and_starts_no_server(server, api, environment, place, seen, limit):
    # Given a run, seen by Prefect or not, and a user whose environment names no address
    ledger = place.fill(items=3, nests=4)
    version, workflow = ledger.workflow()
    url = server.api_url if seen else ""
    run = driver.begin(ledger, version, workflow, flow_run_id=api.root() if seen else "", prefect_api_url=url)
    plain = {name: value for name, value in environment.items() if not name.startswith("PREFECT_")}
    # When a pilot works
    own = plain | {"PYANAMO_TABLE": place.name, "PYANAMO_RUN": run.run_id}
    code, megabytes = peak_mb([sys.executable, "-m", "pyanamo", "pilot"], own, place.folder)
    # Then it does all, in so much memory (an ephemeral server alone would take more)
    assert code == 0
    assert ledger.counts().done == 3
    assert megabytes <= limit
    assert bool(ledger.pilots()[0].flow_run_id) is seen


def test_term_with_prefect_hands_back_with_exit_code_75(server, api, environment, place, spawn):
    # Given a pilot under Prefect in the middle of a nest
    ledger = place.fill(items=1, held=True)
    version, workflow = ledger.workflow()
    root = api.root()
    run = driver.begin(ledger, version, workflow, flow_run_id=root, prefect_api_url=server.api_url)
    own = environment | {"PYANAMO_TABLE": place.name, "PYANAMO_RUN": run.run_id}
    process = spawn(own, "-m", "pyanamo", "pilot")
    eventually(lambda: api.graph(root), lambda found: found and found[0][2] == "RUNNING")
    eventually(lambda: [r for c in api.children(root) for r in api.task_runs(c["id"])])
    # When it is told to end
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=200)
    # Then its item is back, its exit code lets Batch try again, and its flow run says so
    assert process.returncode == 75, out
    assert ledger.counts().todo == 1
    assert [each["state_name"] for each in api.children(root)] == ["HandedBack"]


def test_the_flow_run_of_a_pilot_that_was_killed_is_crashed_with_its_cause(server, api, environment, place, spawn):
    # Given a run with two pilots at work
    process = spawn(environment, "-c", run_code(place, items=4, held=True))
    seen = eventually(lambda: [p for p in at_work(place) if p.flow_run_id])
    victim = seen[0]
    # When one of them is killed
    job = place.clients.client("batch").describe_jobs(jobs=[victim.batch_job])["jobs"][0]
    assert job["status"] == "RUNNING"
    place.cloud.terminate_host(victim.batch_job)
    place.open_gate()
    # Then the run completes all the same
    outcome, counts, run_id, _ = told(process)
    assert (outcome, counts["done"]) == ("completed", 4)
    # And the dead one's flow run is crashed, none goes on for ever
    states = {each["id"]: each for each in api.children(run_id) if each["name"].startswith("pilot ")}
    dead = eventually(lambda: api.flow_run(victim.flow_run_id), lambda found: found["state_type"] == "CRASHED")
    assert dead["state"]["message"]
    assert "RUNNING" not in {each["state_type"] for each in states.values()}
