"""Prefect's API down, slow (5 s a call), or answering 429 or 500 from beginning to end: pilots and runs do their work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flows_support import Api, Place
from outage_support import Faulty, a_table, begin_run, environment, recorded_once, running
from pyanamo_flows.server import PrefectServer, free_port

from pyanamo_core.aws import Clients
from pyanamo_core.ledger.table import delete_table
from pyanamo_core.local.dynamodb import DynamoDbLocal
from pyanamo_core.model import Definition

if TYPE_CHECKING:
    from pyanamo_core.local import LocalCloud

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]
FAULTS = ["down", "slow", "429", "500"]
SLOW_SECONDS = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with PrefectServer(tmp_path_factory.mktemp("prefect")) as running_server:
        yield running_server


def address(server: PrefectServer, fault: str) -> str:
    """An address of Prefect's API that has this fault."""
    if fault == "down":
        return f"http://127.0.0.1:{free_port()}/api"
    if fault == "slow":
        return Faulty(server.api_url, seconds=SLOW_SECONDS).url
    return Faulty(server.api_url, status=int(fault)).url


@pytest.mark.parametrize("fault", FAULTS)
def test_pilots_do_their_work_and_say_what_is_not_shown(
    server: PrefectServer,
    dynamodb_local: DynamoDbLocal,
    dynamodb_clients: Clients,
    unique_name: str,
    tmp_path: Path,
    fault: str,
) -> None:
    # Given eight items of four nests, and pilots whose run names an address with a fault
    ledger = a_table(dynamodb_clients, unique_name, nests=4)
    for number in range(8):
        definition = Definition(script="bash -c 'sleep 0.2; echo made $1' _", arguments=("1", "2", "3", "4"))
        ledger.import_item(f"i{number}", "T", definition)
    root = Api(server.api_url).root() if fault == "slow" else ""
    run = begin_run(ledger, prefect_api_url=address(server, fault), flow_run_id=root, prefect_detail="nest")
    told = environment(dynamodb_local.endpoint, unique_name, tmp_path, PYANAMO_RUN=run.run_id)

    # When two pilots work
    began = time.monotonic()
    pilots: list[subprocess.Popen[str]] = []
    for index in range(2):
        own = told | {"AWS_BATCH_JOB_ARRAY_INDEX": str(index)}
        how: dict[str, Any] = {"env": own, "stderr": subprocess.PIPE, "text": True}
        pilots.append(subprocess.Popen([sys.executable, "-m", "pyanamo", "pilot"], **how))
    with running(*pilots):
        said = [pilot.communicate(timeout=400)[1] for pilot in pilots]
    seconds = time.monotonic() - began

    # Then all is done and recorded, they leave with the ledger's exit code, and each says what Prefect does not show
    assert [pilot.returncode for pilot in pilots] == [0, 0], said
    recorded_once(ledger, causes=set())
    for each in said:
        assert "Prefect:" in each
    words = [line.partition("Prefect: ")[2][:100] for line in said[0].splitlines() if "Prefect: " in line]
    print(f"Prefect {fault} throughout, two pilots: 32 nests done in {seconds:.0f} s, the first one said: {words}")
    delete_table(dynamodb_clients, unique_name)


START = """
import json
from pyanamo_core.aws import Clients
from pyanamo_flows.run import start
outcome = start(Clients(), workflow={workflow!r}, sheet={sheet!r})
print()
print(json.dumps([outcome.outcome, outcome.counts.model_dump()]))
"""


@pytest.mark.parametrize("fault", FAULTS)
def test_runs_begin_are_watched_and_end_with_the_same_outcome(
    server: PrefectServer, local_cloud: LocalCloud, unique_name: str, tmp_path: Path, fault: str
) -> None:
    # Given a workflow on the local cloud, and a user whose Prefect has a fault
    place = Place(local_cloud, unique_name, tmp_path)
    code = START.format(workflow=str(place.workflow), sheet=str(place.sheet(4)))
    own = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_STATE_HOME") if name in os.environ}
    told = own | local_cloud.environment() | server.client_environment()
    told["PREFECT_API_URL"] = address(server, fault)

    # When a run is started
    began = time.monotonic()
    how: dict[str, Any] = {"env": told, "cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([sys.executable, "-c", code], text=True, **how)
    with running(process):
        out = process.communicate(timeout=900)[0]
    seconds = time.monotonic() - began

    # Then it completes, and so do its pilots
    assert process.returncode == 0, out
    outcome, counts = json.loads(out.strip().splitlines()[-1])
    assert (outcome, counts["done"]) == ("completed", 4), out
    assert {pilot.exit_code for pilot in place.ledger.pilots()} == {0}
    print(f"Prefect {fault} throughout, a run of 4 items: {outcome} in {seconds:.0f} s")
