"""TERM at some random times of a pilot's life, from exec on: the short form of tests/chaos/test_term_at_random_times.py."""

from __future__ import annotations

from pathlib import Path

from outage_support import Lives, a_table, environment, recorded_once

from pyanamo_core.aws import Clients
from pyanamo_core.ledger.table import delete_table
from pyanamo_core.local.dynamodb import DynamoDbLocal
from pyanamo_core.model import Cause


def test_a_pilot_may_be_told_to_end_at_any_moment_of_its_life(
    dynamodb_local: DynamoDbLocal, dynamodb_clients: Clients, unique_name: str, tmp_path: Path
) -> None:
    # Given a table, and how long a pilot lives that nobody disturbs
    ledger = a_table(dynamodb_clients, unique_name, budgets__interruptions=1000)
    lives = Lives(ledger, environment(dynamodb_local.endpoint, unique_name, tmp_path), tmp_path)
    life = lives.undisturbed()

    # When eight pilots get TERM at random times of that
    lives.random_times(8, life)

    # Then each left in good order, and nothing is lost, recorded twice or counted against an item
    items = lives.finish()
    recorded_once(ledger, causes={Cause.DRAINED})
    print(f"TERM at 8 random times of {life:.1f} s: {items} items, exit codes {dict(lives.codes)}")
    delete_table(dynamodb_clients, unique_name)
