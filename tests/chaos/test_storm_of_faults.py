"""The whole storm: 10,000 items, 16 pilot processes, more than a hundred of them killed, and every fault at once.

PYANAMO_STORM_ITEMS, PYANAMO_STORM_PILOTS, PYANAMO_STORM_KILLS and PYANAMO_STORM_SEED make it smaller, bigger, another.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from checker import told
from proxy import Weather
from storm import Plan, storm

from pyanamo_core.aws import Clients
from pyanamo_core.ledger.table import delete_table
from pyanamo_core.local.dynamodb import DynamoDbLocal

ITEMS = int(os.environ.get("PYANAMO_STORM_ITEMS", "10000"))
PILOTS = int(os.environ.get("PYANAMO_STORM_PILOTS", "16"))
KILLS = int(os.environ.get("PYANAMO_STORM_KILLS", "120"))
SEED = int(os.environ.get("PYANAMO_STORM_SEED", "1"))
LIMIT_SECONDS = 2400.0


@pytest.mark.chaos
@pytest.mark.timeout(LIMIT_SECONDS + 600)
def test_a_storm_over_ten_thousand_items_shows_no_violation(
    dynamodb_local: DynamoDbLocal, dynamodb_clients: Clients, unique_name: str, tmp_path: Path
) -> None:
    # Given 10,000 items of four nests that do nothing, and 16 pilots of four slots
    plan = Plan(
        items=ITEMS,
        pilots=PILOTS,
        kills=KILLS,
        users_moves=ITEMS // 20,
        limit_seconds=LIMIT_SECONDS,
        seed=SEED,
        weather=Weather(lost=0.05, silenced=0.01, held=0.01, copied=0.02, late_seconds=60.0),
    )
    # When everything goes wrong at once, until all have ended
    found = storm(plan, dynamodb_local, dynamodb_clients, unique_name, tmp_path)
    print(found)
    # Then no history shows a violation
    assert not found.violations, told(found.violations)
    assert not found.faults, found.faults[:10]
    # And every item has ended: done, but for those that users cancelled or that nobody can do
    assert sum(found.states.values()) == ITEMS
    assert found.states["failed"] <= found.expected_failures
    assert found.states["done"] >= ITEMS - found.expected_failures - found.figures["moves of users"]
    # And the storm was one
    assert found.figures["killed"] + found.figures["told to end"] >= KILLS
    for fault in ("frozen", "conflicts", "self-heals", "unanswered writes", "recovered items"):
        assert found.figures[fault] > 0, fault
    network = found.figures["network"]
    for fault in ("lost answers", "silenced calls", "copied, refused", "held, refused"):
        assert network[fault] > 0, fault
    delete_table(dynamodb_clients, unique_name)
