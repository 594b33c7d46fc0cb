"""`pyanamo clean` again and again while pilots work: what claims at work write is never taken, what failed attempts left is."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from driver_support import Place
from typer.testing import CliRunner

from pyanamo.commands import clean as command
from pyanamo.main import app
from pyanamo_core import driver
from pyanamo_core.clock import FakeClock, SystemClock
from pyanamo_core.ledger import Ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.workflow import Budgets

SCRIPT = """\
import json, os, sys, time
import boto3
bucket, _, prefix = os.environ["PYANAMO_OUTPUT"].removeprefix("s3://").partition("/")
s3 = boto3.client("s3")
value = sys.argv[1]
s3.put_object(Bucket=bucket, Key=prefix + "first.txt", Body=value.encode())
time.sleep(0.3)
if value == "fails" and os.environ["PYANAMO_ATTEMPT"] == "1":
    sys.exit(1)
s3.put_object(Bucket=bucket, Key=prefix + "second.txt", Body=value.encode())
outputs = [{"uri": f"s3://{bucket}/{prefix}{name}.txt", "bytes": len(value)} for name in ("first", "second")]
json.dump({"outputs": outputs}, open(os.environ["PYANAMO_RESULT"], "w"))
"""


def test_cleaning_while_pilots_work_takes_what_failed_attempts_left_and_nothing_else(
    local_cloud: LocalCloud,
    cloud_environment: dict[str, str],
    unique_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given six items, whose second nest fails at the first attempt after it has written something
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "put.py").write_text(SCRIPT)
    place = Place(local_cloud, unique_name, tmp_path)
    workflow = place.workflow(
        pilots=2, nests=2, scripts=str(tmp_path / "scripts"), budgets=Budgets(retry_delay_seconds=0)
    )
    lines = [f"I{number}|put|${{PYANAMO_PYTHON}} ${{PIPELINE}}/put.py|a,fails,b,c" for number in range(6)]
    place.filled(workflow, lines)
    # And a clock by which nothing is too young to be cleaned
    monkeypatch.setattr(command, "corrected_clock", lambda _: FakeClock(SystemClock().now() + 3600))
    ended = threading.Event()

    def run() -> None:
        try:
            driver.run(place.clients, workflow)
        finally:
            ended.set()

    # When the work is cleaned again and again while they run
    running = threading.Thread(target=run)
    running.start()
    rounds = 0
    try:
        while not ended.wait(0.2):
            typed("clean", "--work", "--yes", "--table", unique_name)
            rounds += 1
    finally:
        running.join()
    typed("clean", "--work", "--yes", "--table", unique_name)
    # Then every item is done and every result is there, and no orphan is left
    assert rounds > 3
    ledger = Ledger(place.clients, unique_name, rules=workflow.rules)
    assert ledger.counts().done == 6
    assert "48 outputs" in typed("results", "verify", "--table", unique_name)
    pages = place.clients.client("s3").get_paginator("list_objects_v2").paginate(Bucket=unique_name)
    left = [one["Key"] for page in pages for one in page.get("Contents", ()) if "/work/" in one["Key"]]
    assert len([key for key in left if key.endswith(".txt")]) == 48, left


def typed(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout
