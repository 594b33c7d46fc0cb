"""TERM at 100 random times of a pilot's life, from exec to the last moment, with and without Prefect.

Real processes: TERM comes before the handlers stand, while modules load, while the pilot opens its table, stages, claims,
runs, records, uploads logs, sweeps an empty table, leaves. Each must go with one of the exit codes that mean something,
leave no process and no locked item, and cost no item a try.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from flows_support import Api
from outage_support import Lives, a_table, begin_run, environment, recorded_once
from pyanamo_flows.server import PrefectServer

from pyanamo_core.aws import Clients
from pyanamo_core.ledger.table import delete_table
from pyanamo_core.local.dynamodb import DynamoDbLocal
from pyanamo_core.model import Cause

if TYPE_CHECKING:
    from pyanamo_core.local import LocalCloud

TIMES = int(os.environ.get("PYANAMO_TERM_TIMES", "100"))

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]


def test_without_prefect(
    dynamodb_local: DynamoDbLocal,
    dynamodb_clients: Clients,
    local_cloud: LocalCloud,
    unique_name: str,
    tmp_path: Path,
) -> None:
    # Given a table on DynamoDB Local, logs on the local cloud, and how long a pilot lives that nobody disturbs
    ledger = a_table(dynamodb_clients, unique_name, budgets__interruptions=1000)
    told = environment(local_cloud.endpoint, unique_name, tmp_path, AWS_ENDPOINT_URL_DYNAMODB=dynamodb_local.endpoint)
    lives = Lives(ledger, told, tmp_path)
    life = lives.undisturbed()

    # When 100 pilots get TERM at random times of that
    lives.random_times(TIMES, life)

    # Then nothing is lost, recorded twice, or counted against an item
    items = lives.finish()
    recorded_once(ledger, causes={Cause.DRAINED})
    tell("without Prefect", life, lives, items)
    delete_table(dynamodb_clients, unique_name)


def test_with_prefect(
    dynamodb_local: DynamoDbLocal,
    dynamodb_clients: Clients,
    local_cloud: LocalCloud,
    unique_name: str,
    tmp_path: Path,
) -> None:
    # Given the same, and a real Prefect server that the run's row names
    with PrefectServer(tmp_path / "prefect") as server:
        api = Api(server.api_url)
        ledger = a_table(dynamodb_clients, unique_name, budgets__interruptions=1000)
        root = api.root()
        run = begin_run(ledger, prefect_api_url=server.api_url, flow_run_id=root, prefect_detail="nest")
        told = environment(
            local_cloud.endpoint,
            unique_name,
            tmp_path,
            AWS_ENDPOINT_URL_DYNAMODB=dynamodb_local.endpoint,
            PYANAMO_RUN=run.run_id,
        )
        lives = Lives(ledger, told, tmp_path, module=("pyanamo", "pilot"), lanes=2)
        life = lives.undisturbed()

        # When 100 pilots, two at a time, get TERM at random times of that
        lives.random_times(TIMES, life)

        # Then the same holds, whatever Prefect was doing
        items = lives.finish()
        recorded_once(ledger, causes={Cause.DRAINED})
        seen = sum(bool(pilot.flow_run_id) for pilot in ledger.pilots())
        tell(f"with Prefect ({seen} of {len(ledger.pilots())} pilots were registered)", life, lives, items)
    delete_table(dynamodb_clients, unique_name)


def tell(what: str, life: float, lives: Lives, items: int) -> None:
    """One line with the figures."""
    codes = ", ".join(f"{code}: {count}" for code, count in sorted(lives.codes.items()))
    print(
        f"TERM at {sum(lives.codes.values())} random times of a life of {life:.1f} s, {what}: {items} items done at"
        f" their first try, exit codes {codes}, at most {lives.slowest:.1f} s from TERM to the end"
    )
