"""DynamoDB cut off from a pilot for longer than its lease: the short form of tests/chaos/test_dynamodb_cut_off.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from outage_support import LONG_FIRST, Cut, a_table, cut_off, environment, recorded_once, running

from pyanamo_core.aws import Clients
from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import ClockOff
from pyanamo_core.ledger.table import delete_table
from pyanamo_core.local.dynamodb import DynamoDbLocal
from pyanamo_core.model import Cause, Definition
from pyanamo_core.pilot import Pilot, PilotOptions


def test_a_pilot_that_is_cut_off_stops_by_its_own_clock_and_goes_on_when_it_is_back(
    dynamodb_local: DynamoDbLocal, dynamodb_clients: Clients, unique_name: str, tmp_path: Path
) -> None:
    # Given a pilot behind a line, in a nest that does not listen
    line, marks = Cut(dynamodb_local.endpoint), tmp_path / "marks"
    marks.mkdir()
    ledger = a_table(dynamodb_clients, unique_name, nests=1, timing__lease_seconds=3.0, timing__beat_seconds=0.7)
    ledger.import_item("i1", "T", Definition(script=LONG_FIRST.format(folder=marks), arguments=("1",)))
    pilot = subprocess.Popen(
        [sys.executable, "-m", "pyanamo_core.pilot"], env=environment(line.endpoint, unique_name, tmp_path)
    )
    with running(pilot):
        # When requests get no answer for one and a half leases
        told = cut_off(ledger, line, marks, 1, silently=True)

        # Then the same pilot takes the item again, and ends it
        assert pilot.wait(120) == 0
    recorded_once(ledger, causes={Cause.LOST})
    assert ledger.item("i1").fence == 2
    print(f"DynamoDB silent for 1.5 leases: {told}")
    line.close()
    delete_table(dynamodb_clients, unique_name)


class Skewed(SystemClock):
    """A machine's clock that is two minutes ahead."""

    def now(self) -> float:
        return super().now() + 120.0


def test_a_pilot_whose_clock_is_off_refuses_to_start(
    dynamodb_clients: Clients, dynamodb_local: DynamoDbLocal, unique_name: str, tmp_path: Path
) -> None:
    # Given an item, and a machine whose clock is two minutes ahead of the Date headers of DynamoDB's answers
    ledger = a_table(dynamodb_clients, unique_name)
    ledger.import_item("i1", "T", Definition(script="true", arguments=("1",)))
    clients = Clients.with_keys("testing", "testing", dynamodb_local.endpoint, "us-east-1")
    options = PilotOptions(table=unique_name, scratch=tmp_path / "scratch", staging=tmp_path / "staging")
    pilot = Pilot(options, clients, clock=Skewed(), environ={"PATH": os.environ["PATH"]})

    # When a pilot starts there, then it says by how much, and has claimed nothing
    with pytest.raises(ClockOff, match=r"-1(19|20|21) s off"):
        pilot.prepare()
    assert ledger.item("i1").fence == 0
    delete_table(dynamodb_clients, unique_name)
