"""A plan beside what the run then took: the ledger's units, calls to S3, and pilots' hours, on a local cloud that meters.

DynamoDB Local tells the units of each call; the cloud's porter counts the calls to S3.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver_support import Place

from pyanamo_core import driver
from pyanamo_core.cost.estimate import Estimate, Starts, estimate
from pyanamo_core.cost.pace import OTHER_LEAVES, given_pace, learnt_pace
from pyanamo_core.cost.prices import built_in
from pyanamo_core.cost.ranges import Range
from pyanamo_core.cost.work import seen_nests, work_of_sheet
from pyanamo_core.ledger import Ledger
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.model import NestStatus
from pyanamo_core.workflow import Timing

ITEMS, NESTS = 12, 5
QUIET = Timing(
    lease_seconds=90,
    beat_seconds=30,
    sweep_seconds=0.5,
    poll_seconds=3,
    start_jitter_seconds=0,
    host_fault_wait_seconds=1,
)
HERE = Starts(machine=Range(0, 5), pilot=Range(0.5, 60))
"""No machine comes up on this one; Python's start on a busy one takes long."""
SCRIPT = """
import hashlib, http.client, json, os, sys, time
time.sleep(0.3)
body = (sys.argv[1] * 1000).encode()
uri = os.environ["PYANAMO_OUTPUT"].rstrip("/") + "/out.txt"
# Put as S3 is told to: boto3's import would be most of what this script takes.
where = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
connection = http.client.HTTPConnection(where)
connection.request("PUT", "/" + uri.removeprefix("s3://"), body)
assert connection.getresponse().status == 200
told = {"outputs": [{"uri": uri, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}]}
open(os.environ["PYANAMO_RESULT"], "w").write(json.dumps(told))
"""


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud of its own, whose ledger is DynamoDB Local."""
    home = tmp_path_factory.mktemp("metered")
    cloud = up(Options(home=home, ledger="dynamodb-local", owner=os.getpid(), stop_seconds=2))
    yield cloud
    down(home)


def pilot_seconds(ledger: Ledger) -> float:
    return sum((one.ended or one.last_beat) - one.started for one in ledger.pilots())


def within(told: float, low: float, high: float) -> bool:
    return low <= told <= high


def test_a_plan_and_the_run_that_follows(metered: LocalCloud, unique_name: str, tmp_path: Path) -> None:
    # Given a sheet of twelve items of five nests that each put an object
    place = Place(metered, unique_name, tmp_path)
    (tmp_path / "work.py").write_text(SCRIPT)
    workflow = place.workflow(timing=QUIET, nests=2)
    values = ",".join(str(number) for number in range(1, NESTS + 1))
    sheet = place.sheet([f"item-{n}|work|{sys.executable} -S {tmp_path}/work.py|{values}" for n in range(ITEMS)])
    # … and its plan, with a time as somebody guesses it who has run it once by hand
    guessed = given_pace("0.5-3")
    plan = estimate(workflow, work_of_sheet(sheet, guessed, at_once=2), guessed, built_in(), starts=HERE)
    # When it is run
    metered.watch()
    outcome = driver.run(metered.clients(), workflow, sheet=sheet)
    assert outcome.outcome == "completed"
    units, calls = metered.units(), Counter(each["operation"] for each in metered.seen() if each["service"] == "s3")
    ledger = Ledger(metered.clients(), unique_name, rules=workflow.rules)
    # Then it took the units, calls and hours that the plan has bounds for
    writes, reads = units[f"{unique_name} write"], units[f"{unique_name} read"]
    puts = calls["PutObject"] + calls["ListObjectsV2"] + calls["CopyObject"]
    gets = calls["GetObject"] + calls["HeadObject"] + calls["HeadBucket"]
    took = pilot_seconds(ledger)
    print(f"write units {writes:.0f} of {plan.write_units}, read units {reads:.0f} of {plan.read_units}")
    print(f"PUT {puts} of {plan.puts}, GET {gets} of {plan.gets}, {took:.0f} s of pilots")
    assert within(writes, plan.write_units.low, plan.write_units.high)
    assert within(reads, plan.read_units.low, plan.read_units.high)
    assert within(puts, plan.puts.low, plan.puts.high)
    assert within(gets, plan.gets.low, plan.gets.high)
    assert plan.vcpu_hours is not None
    assert within(took / 3600 * workflow.vcpus, plan.vcpu_hours.low, plan.vcpu_hours.high)
    assert plan.hours is not None
    assert outcome.run.ended is not None
    assert outcome.run.ended - outcome.run.started <= plan.hours.high * 3600
    # … and what it cost teaches the next plan: outputs, rows and times, within narrower bounds
    pace = learnt_pace(seen_nests(ledger), unique_name, genomic=False)
    again: Estimate = estimate(workflow, work_of_sheet(sheet, pace, at_once=2), pace, built_in(), starts=HERE)
    assert pace.leaves is not None
    assert pace.leaves != OTHER_LEAVES
    print(f"learnt: write units {again.write_units}, PUT {again.puts}, GET {again.gets}, {again.vcpu_hours} vCPU hours")
    assert within(writes, again.write_units.low, again.write_units.high)
    # (what a run needs at least is counted; what varies are beats, polls, and how long pilots live)
    assert writes < 1.4 * again.write_units.low
    assert again.write_units.high < 2 * again.write_units.low
    assert within(puts, again.puts.low, again.puts.high)
    assert within(gets, again.gets.low, again.gets.high)
    worked = sum(nest.ended - nest.started for item in ledger.items() for nest in ledger.nests(item).values())
    assert all(n.status is NestStatus.DONE for item in ledger.items() for n in ledger.nests(item).values())
    work = work_of_sheet(sheet, pace, at_once=2)
    assert work.seconds is not None
    assert within(worked, work.seconds.low, work.seconds.high)
