"""`pyanamo cohort` as a user types it, on the local cloud: what it plans, what it does, and how it stops."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driver_support import Place, recorded_once

from pyanamo_core.local import LocalCloud

WORKFLOW = """
name: {name}
queue: {name}
job_definition: {name}
pilots: 1
items: 2
timing: {{lease_seconds: 6, beat_seconds: 1.5, sweep_seconds: 0.3, poll_seconds: 0.5, start_jitter_seconds: 0}}
budgets: {{tries: 1}}
buckets:
  results: s3://{name}/results
references:
  - name: ref
    uri: s3://{name}/ref.fa
cohort:
  gather:
    parameters: {{LEVEL: 010}}
"""
SHEET = "itemID|TaskID|TaskScript|TaskArgs\nS0|call|true|1,2\nS1|call|{script}|1,2\n"


class User:
    """Somebody with a workflow file, a sheet and a shell."""

    def __init__(self, cloud: LocalCloud, name: str, folder: Path) -> None:
        self.place, self.folder = Place(cloud, name, folder), folder
        self.place.clients.client("s3").put_object(Bucket=name, Key="ref.fa", Body=b">chr1\nACGT\n")
        (folder / "workflow.yaml").write_text(WORKFLOW.format(name=name))

    def sheet(self, script: str) -> None:
        (self.folder / "sheet.txt").write_text(SHEET.format(script=script))

    def types(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pyanamo", "cohort", *arguments]
        return subprocess.run(command, cwd=self.folder, text=True, capture_output=True, check=False)


@pytest.fixture
def user(local_cloud: LocalCloud, cloud_environment: dict[str, str], unique_name: str, tmp_path: Path) -> User:
    return User(local_cloud, unique_name, tmp_path)


def steps(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return {one["step"]: one for one in json.loads(done.stdout)["steps"]}


def test_a_cohort_is_planned_without_a_change_then_called_and_its_state_is_shown(user: User):
    user.sheet("true")
    # Given a plan of a cohort whose table does not exist yet
    planned = steps(user.types("run", "workflow.yaml", "--sheet", "sheet.txt", "--dry-run", "--json"))
    # Then it says what would be done, and there is no table
    assert (planned["call"]["state"], planned["call"]["new"]) == ("to do", 2)
    assert {planned[name]["state"] for name in ("gather", "joint", "concat", "report")} == {"waits"}
    assert user.place.clients.client("dynamodb").list_tables()["TableNames"].count(user.place.name) == 0
    # And what comes next is said so that it can be typed
    told = user.types("plan", "workflow.yaml", "--sheet", "sheet.txt", "--to", "call", "--nest-time", "60-90")
    assert "next: pyanamo cohort run workflow.yaml --sheet sheet.txt --to call" in told.stderr
    # And what that costs, line by line, of the steps that are to be done
    assert "in all $" in told.stdout
    assert "machines, Spot" in told.stdout
    assert "gather: " not in told.stdout
    # When it is run where nobody can be asked, then it shows that, says what to give, and makes nothing
    asked = user.types("run", "workflow.yaml", "--sheet", "sheet.txt")
    assert (asked.returncode, asked.stdout) == (5, "")
    assert "machines, Spot" in asked.stderr
    assert "Run call, gather, joint, concat" in asked.stderr
    assert "With --yes it is done without being asked" in asked.stderr
    assert user.place.clients.client("dynamodb").list_tables()["TableNames"].count(user.place.name) == 0
    # When the call alone is run
    done = user.types("run", "workflow.yaml", "--sheet", "sheet.txt", "--to", "call", "--yes")
    assert done.returncode == 0, done.stderr
    assert "call: 2 of 2 items done" in done.stderr
    assert "next: pyanamo cohort status" in done.stderr or "next: pyanamo cohort run" in done.stderr
    # Then it is done, and the state says what comes next
    told = user.types("status")
    assert [line.split()[0] for line in told.stdout.splitlines()[:6]] == [
        "step",
        "call",
        "gather",
        "joint",
        "concat",
        "report",
    ]
    assert "2 of 2" in told.stdout.splitlines()[1]
    assert "next: pyanamo cohort run" in told.stderr
    # And with a sheet that a run would refuse, the plan says so; with --update the run asks, and changes nothing
    user.sheet("false")
    told = user.types("plan", "--sheet", "sheet.txt")
    assert (told.returncode, "would be refused" in told.stdout, "next:" in told.stderr) == (0, True, False), told.stdout
    asked = user.types("run", "--sheet", "sheet.txt", "--update", "--to", "call")
    assert (asked.returncode, "2 done nests of it no longer count" in asked.stderr) == (5, True), asked.stderr
    from pyanamo_core.ledger import open_ledger

    recorded_once(open_ledger(user.place.clients, user.place.name)[0])


def test_a_failed_sample_stops_the_chain_with_the_commands_that_show_and_mend_it(user: User):
    user.sheet("bash -c 'echo no reads >&2; exit 65'")
    done = user.types("run", "workflow.yaml", "--sheet", "sheet.txt", "--yes")
    assert done.returncode == 7
    assert f"Step call stops the chain: of 2 items of table {user.place.name} are 1 done, 1 failed" in done.stderr
    assert "S1: permanent:" in done.stderr
    assert f"pyanamo items retry --state failed --table {user.place.name}" in done.stderr
    assert "Traceback" not in done.stderr
    # And the state shows the same, with what to do next
    told = user.types("status")
    assert "1 failed" in told.stdout
    assert f"next: pyanamo items list --state failed --table {user.place.name}" in told.stderr


def test_a_cohort_whose_prefect_is_away_is_brought_to_its_end_without_it(user: User, monkeypatch: pytest.MonkeyPatch):
    # Given an address of Prefect where nobody answers
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_HOME", str(user.folder / "prefect"))
    user.sheet("true")
    # When the call is run
    done = user.types("run", "workflow.yaml", "--sheet", "sheet.txt", "--to", "call", "--yes", "--json")
    # Then it is done all the same, by one run
    assert steps(done)["call"]["done"] == 2
    from pyanamo_core.ledger import open_ledger

    assert [run.outcome for run in open_ledger(user.place.clients, user.place.name)[0].runs()] == ["completed"]


def test_what_cannot_be_done_is_refused_before_anything_is_made(user: User):
    user.sheet("true")
    for arguments, code, message in (
        (("--from", "sing"), 3, "There is no step sing. The steps are call, gather, joint, concat, report"),
        (("--from", "joint", "--to", "call"), 3, "Step joint comes after step call"),
    ):
        done = user.types("run", "workflow.yaml", *arguments, "--yes")
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
    text = (user.folder / "workflow.yaml").read_text().replace("name: ref", "name: genome")
    (user.folder / "workflow.yaml").write_text(text)
    done = user.types("run", "workflow.yaml", "--sheet", "sheet.txt", "--yes")
    assert (done.returncode, "names no reference `ref`" in done.stderr) == (3, True)
    assert user.place.clients.client("dynamodb").list_tables()["TableNames"].count(user.place.name) == 0
