"""The flow `run` with a canary and a limit in dollars, against a real Prefect server: nobody is asked there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driver_support import Place, sleeping
from pyanamo_flows.server import PrefectServer

from pyanamo_core.ledger import Ledger
from pyanamo_core.local import LocalCloud

FLOW = """
import json
from pyanamo_flows.run import run
state = run(table={table!r}, first=2, max_dollars={dollars}, return_state=True)
print()
print(json.dumps([str(state.type.value), state.message or ""]))
"""


@pytest.fixture
def place(local_cloud: LocalCloud, unique_name: str, tmp_path: Path) -> Place:
    return Place(local_cloud, unique_name, tmp_path)


def run_flow(place: Place, server: PrefectServer, dollars: float, prices: Path) -> tuple[str, str]:
    own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = own | place.cloud.environment() | server.client_environment() | {"PYANAMO_PRICES": str(prices)}
    how: dict[str, Any] = {"env": environment, "cwd": place.folder, "text": True, "capture_output": True}
    code = FLOW.format(table=place.name, dollars=dollars)
    done = subprocess.run([sys.executable, "-c", code], check=False, **how)
    assert done.returncode == 0, done.stderr
    kind, message = json.loads(done.stdout.strip().splitlines()[-1])
    return kind, message


def test_a_flow_runs_a_canary_first_and_the_others_if_they_fit_into_its_dollars(
    prefect_server: PrefectServer, place: Place
) -> None:
    # Given six items, and prices of a dollar a second
    ledger, _ = place.filled(place.workflow(), sleeping(6, 0.2))
    prices = place.folder / "prices.yaml"
    prices.write_text("spot_vcpu_hour: [3600, 3600]\non_demand_vcpu_hour: 3600\n")
    # When the flow has dollars for its canary only
    kind, message = run_flow(place, prefect_server, 30, prices)
    # Then two items are done, it has failed, and says why
    assert (kind, done_by(ledger)) == ("FAILED", [2]), message
    assert "max_dollars leaves $" in message
    # When it has enough, then the canary is not run again, and the others are
    kind, message = run_flow(place, prefect_server, 100_000, prices)
    assert (kind, done_by(ledger)) == ("COMPLETED", [2, 0]), message
    assert ledger.counts().done == 6


def done_by(ledger: Ledger) -> list[int]:
    """Items that each run names: 0 is all of the table."""
    return [len(run.only) for run in ledger.runs()]
