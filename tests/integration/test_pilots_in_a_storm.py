"""A short storm over pilots on one table (its full form: tests/chaos/test_storm_of_faults.py)."""

from __future__ import annotations

from pathlib import Path

from checker import told
from proxy import Weather
from storm import Plan, storm

from pyanamo_core.aws import Clients
from pyanamo_core.ledger.table import delete_table
from pyanamo_core.local.dynamodb import DynamoDbLocal

WEATHER = Weather(late_seconds=3.0)


def test_a_short_storm_of_faults_loses_nothing_and_does_nothing_twice(
    dynamodb_local: DynamoDbLocal, dynamodb_clients: Clients, unique_name: str, tmp_path: Path
) -> None:
    # Given items of four nests, and four pilots with short leases
    plan = Plan(
        items=200,
        pilots=4,
        kills=12,
        users_moves=20,
        lease_seconds=3.0,
        beat_seconds=0.6,
        sweep_seconds=0.3,
        limit_seconds=200.0,
        weather=WEATHER,
    )
    # When they are killed, told to end and frozen, on a bad network, with clocks, index and keys that misbehave
    found = storm(plan, dynamodb_local, dynamodb_clients, unique_name, tmp_path)
    print(found)
    # Then no history shows a violation, and every item has ended: done, but for what users cancelled or nobody can do
    assert not found.violations, told(found.violations)
    assert not found.faults, found.faults[:10]
    assert sum(found.states.values()) == plan.items
    assert found.figures["killed"] + found.figures["told to end"] >= plan.kills
    assert min(found.figures[fault] for fault in ("frozen", "self-heals")) > 0
    assert found.states["failed"] <= found.expected_failures
    delete_table(dynamodb_clients, unique_name)


def test_the_storm_shows_a_ledger_that_does_not_know_its_own_claims(
    dynamodb_local: DynamoDbLocal, dynamodb_clients: Clients, unique_name: str, tmp_path: Path
) -> None:
    # Given pilots whose ledger takes the refusal of its own repeated claim for a defeat, where answers get lost
    plan = Plan(
        items=16,
        pilots=2,
        kills=0,
        users_moves=0,
        lease_seconds=1.0,
        beat_seconds=0.3,
        sweep_seconds=0.1,
        limit_seconds=200.0,
        weather=Weather(lost=0.3, silenced=0.0, held=0.0, copied=0.0),
        hot=0.0,
        heals=False,
    )
    # When they work, then the checker finds fences that were given to nobody
    found = storm(plan, dynamodb_local, dynamodb_clients, unique_name, tmp_path)
    assert "unowned" in {each.rule for each in found.violations}, found
    delete_table(dynamodb_clients, unique_name)
