"""DynamoDB cut off from all pilots for one and a half leases, noticed or not, in the middle of their work."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from outage_support import LONG_FIRST, Cut, a_table, cut_off, environment, recorded_once, running

from pyanamo_core.aws import Clients
from pyanamo_core.ledger.table import delete_table
from pyanamo_core.local.dynamodb import DynamoDbLocal
from pyanamo_core.model import Cause, Definition

PILOTS = 3
ITEMS = 20
LEASE_SECONDS = 10.0

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


@pytest.mark.parametrize("silently", [False, True], ids=["connections break", "no answer comes"])
def test_pilots_that_are_cut_off_stop_by_their_own_clock_and_all_items_end_once(
    dynamodb_local: DynamoDbLocal, dynamodb_clients: Clients, unique_name: str, tmp_path: Path, silently: bool
) -> None:
    # Given three pilots behind a line: each in a nest that does not listen, beside items of short nests
    line, marks = Cut(dynamodb_local.endpoint), tmp_path / "marks"
    marks.mkdir()
    ledger = a_table(
        dynamodb_clients,
        unique_name,
        items=2,
        nests=1,
        timing__lease_seconds=LEASE_SECONDS,
        timing__beat_seconds=2.0,
        budgets__interruptions=100,
    )
    for number in range(PILOTS):
        ledger.import_item(f"i{number}", "T", Definition(script=LONG_FIRST.format(folder=marks), arguments=("1",)))
    told = environment(line.endpoint, unique_name, tmp_path)
    log = (tmp_path / "pilots.log").open("wb")
    command = [sys.executable, "-m", "pyanamo_core.pilot"]
    pilots = [subprocess.Popen(command, env=told | {"PYANAMO_ITEMS": "2"}, stderr=log) for _ in range(PILOTS)]
    with running(*pilots):
        for number in range(ITEMS):
            values = tuple(str(each) for each in range(4))
            ledger.import_item(f"short{number}", "T", Definition(script="bash -c 'sleep 1.$1' _", arguments=values))

        # When nothing passes for 1.5 leases
        began = time.monotonic()
        figures = cut_off(ledger, line, marks, PILOTS, silently=silently)

        # Then the same pilots come back and go on, and every item ends with each nest recorded once
        mended = time.monotonic()
        assert [pilot.wait(300) for pilot in pilots] == [0] * PILOTS
    recorded_once(ledger, causes={Cause.LOST})
    lost = sum(each.cause is Cause.LOST for item in ledger.items() for each in ledger.attempts(item.item_id))
    how = "no answer came" if silently else "connections broke"
    print(
        f"DynamoDB cut off for {1.5 * LEASE_SECONDS:.0f} s (lease {LEASE_SECONDS:.0f} s), {how}: {figures}; "
        f"{ITEMS + PILOTS} items done at their first try, {lost} claims lost, {PILOTS} pilots went on and were done"
        f" {time.monotonic() - mended:.0f} s after the line was mended ({mended - began:.0f} s after the test began)"
    )
    line.close()
    log.close()
    delete_table(dynamodb_clients, unique_name)
