"""Pilots as processes that are killed and told to end at random for a minute: nothing is lost, nothing recorded twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from pilot_support import eventually, make_workflow

from pyanamo_core.aws import Clients
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.ledger.fsck import Finding, Weight
from pyanamo_core.ledger.fsck_walk import Fsck
from pyanamo_core.ledger.table import create_table, delete_table
from pyanamo_core.local.dynamodb import DynamoDbLocal
from pyanamo_core.model import Cause, Definition, NestStatus, State

ITEMS = 30
NESTS = 4
PILOTS = 4
CHAOS_SECONDS = 60.0
SEED = 7


class Fleet:
    """Pilots of one table; each that ends is replaced while the chaos lasts."""

    def __init__(self, table: str, endpoint: str, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYANAMO_TABLE": table,
            "PYANAMO_SCRATCH": str(folder / "scratch"),
            "PYANAMO_STAGING": str(folder / "staging"),
        }
        self.living: list[subprocess.Popen[bytes]] = []
        self.codes: Counter[int] = Counter()

    def fill(self) -> None:
        """Count the exit codes of those that ended, and start as many as are missing."""
        for pilot in [each for each in self.living if each.poll() is not None]:
            self.codes[pilot.returncode] += 1
            self.living.remove(pilot)
        while len(self.living) < PILOTS:
            with (self._folder / "pilots.log").open("ab") as log:
                self.living.append(
                    subprocess.Popen([sys.executable, "-m", "pyanamo_core.pilot"], env=self._environment, stderr=log)
                )

    def end(self) -> None:
        """End whoever is left."""
        for pilot in self.living:
            pilot.kill()
            pilot.wait()


@pytest.mark.chaos
def test_pilots_killed_at_random_lose_nothing_and_record_each_nest_once(
    dynamodb_local: DynamoDbLocal, dynamodb_clients: Clients, unique_name: str, tmp_path: Path
) -> None:
    # Given items of four nests that take up to a second, and pilots with short leases and ample budgets
    create_table(dynamodb_clients, unique_name, deletion_protection=False, pitr=False)
    Ledger(dynamodb_clients, unique_name).add_workflow(
        make_workflow(
            name=unique_name,
            nests=2,
            budgets__interruptions=1000,
            timing__lease_seconds=4.0,
            timing__beat_seconds=1.0,
        )
    )
    ledger = open_ledger(dynamodb_clients, unique_name)[0]
    script = "bash -c 'sleep 0.$((RANDOM % 10)); echo made $1' _"
    for number in range(ITEMS):
        definition = Definition(script=script, arguments=tuple(str(each) for each in range(NESTS)))
        ledger.import_item(f"i{number}", "T", definition)
    rng = random.Random(SEED)
    fleet = Fleet(unique_name, dynamodb_local.endpoint, tmp_path)
    sent: Counter[str] = Counter()
    walks: list[list[Finding]] = []
    try:
        # When for a minute pilots are killed or told to end, again and again
        until = time.monotonic() + CHAOS_SECONDS
        while time.monotonic() < until and ledger.counts().open:
            fleet.fill()
            time.sleep(rng.uniform(0.5, 2.0))
            pilot = rng.choice(fleet.living)
            number = rng.choice([signal.SIGKILL, signal.SIGTERM])
            pilot.send_signal(number)
            sent[number.name] += 1
            if sum(sent.values()) % 5 == 0:
                walks.append([each.finding for each in Fsck(dynamodb_clients, unique_name).walk()])
        # and then left alone
        fleet.fill()
        assert eventually(lambda: not ledger.counts().open, 180.0), ledger.counts()
    finally:
        fleet.end()

    # Then each item is done, each nest of it was recorded by a claim that had the item then, and no try was used up
    assert sent["SIGKILL"] >= 3, sent
    for item in ledger.items():
        nests = ledger.nests(item)
        assert (item.state, sorted(nests)) == (State.DONE, list(range(NESTS))), item
        assert {nest.status for nest in nests.values()} == {NestStatus.DONE}
        assert all(nest.fence <= item.fence for nest in nests.values()), item
        assert [ledger.tail(item, nests[index]).strip() for index in nests] == [f"made {index}" for index in nests]
        assert item.tries <= 1
        # and every claim that ended says how
        ended = {attempt.fence: attempt.cause for attempt in ledger.attempts(item.item_id)}
        assert ended[item.fence] is Cause.DONE
        assert set(ended.values()) <= {Cause.DONE, Cause.LOST, Cause.DRAINED}, ended
    # and fsck took none of it for a fault, while it went on and afterwards
    walks.append([each.finding for each in Fsck(dynamodb_clients, unique_name).walk()])
    found = Counter(str(each.kind) for walk in walks for each in walk)
    print(f"pilots killed at random: {dict(sent)}; {len(walks)} walks of fsck beside them, findings {dict(found)}")
    assert [each for walk in walks for each in walk if each.weight is Weight.FAULT] == []
    delete_table(dynamodb_clients, unique_name)
