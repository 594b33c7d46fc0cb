"""`pyanamo explain` and `items jobs` as typed, over the ledger in memory and a Batch that stands still."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fleet_support import Scene
from typer.testing import CliRunner

from pyanamo.context import Context, Opened
from pyanamo.main import app
from pyanamo_core.clock import SystemClock
from pyanamo_core.model import Definition


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(items=2, pilots=2)
    made.clock.move(SystemClock().now() - made.clock.now())
    made.ledger.import_item("A", "t", Definition(script="x", arguments=("chr1:1-10", "chr2:1-10")))
    monkeypatch.setattr(Context, "opened", property(lambda _: Opened(made.ledger, 1, made.workflow)))
    monkeypatch.setattr(Context, "clients", property(lambda _: made.clients))
    monkeypatch.setenv("PYANAMO_TABLE", "seq")
    return made


def typed(*words: str, code: int = 0) -> Any:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done


def read(*words: str) -> Any:
    return json.loads(typed(*words, "--json").stdout)


def test_without_a_name_the_newest_run_is_explained_in_one_paragraph(scene: Scene) -> None:
    scene.polls(scene.watch())
    scene.batch.queues["queue"]["state"] = "DISABLED"
    done = typed("explain")
    assert done.stdout.startswith("Run run of table memory")
    assert len(done.stdout.strip().splitlines()) == 1
    assert "Enable it with: aws batch update-job-queue --job-queue queue --state ENABLED." in done.stdout
    assert done.stderr == "next: pyanamo watch run\n"


def test_json_has_facts_and_findings_with_codes_for_programs(scene: Scene) -> None:
    scene.polls(scene.watch())
    scene.batch.environments["ce"] |= {"status": "INVALID", "statusReason": "CLIENT_ERROR - Invalid service role"}
    told = read("explain", "ru")
    assert (told["about"], told["name"], told["next"]) == ("run", "run", "pyanamo watch run")
    (found,) = told["findings"]
    assert (found["subject"], found["code"]) == ("compute environment ce", "environment_invalid")
    assert found["advice"].startswith("Batch may not act")
    assert told["text"] == " ".join(
        [*told["facts"], *(sentence for sentence in [told["text"].split(told["facts"][-1] + " ")[1]])]
    )
    assert typed("explain", "--quiet").stdout == "environment_invalid\n"


def test_an_item_and_its_nests_are_meant_by_their_names(scene: Scene) -> None:
    assert read("explain", "A")["about"] == "item"
    for nest in ("chr2:1-10", "1"):
        assert read("explain", "A", nest)["name"] == "A 1"


def test_a_name_of_neither_an_item_nor_a_run_is_refused_with_both_lists(scene: Scene) -> None:
    done = typed("explain", "nope", code=4)
    assert "neither an item nor a run nope" in done.stderr
    # And a nest is one of an item
    assert "no item run" in typed("explain", "run", "1", code=4).stderr
    assert "no nest 9" in typed("explain", "A", "9", code=4).stderr


def test_a_table_without_a_run_is_explained_itself(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene.ledger, "runs", list)
    assert read("explain")["about"] == "table"


def test_locked_items_are_listed_with_the_state_of_their_jobs(scene: Scene) -> None:
    # Given nothing locked, then an item of a pilot at work and one of a pilot whose job has ended
    assert typed("items", "jobs").stdout == "no item is locked\n"
    scene.polls(scene.watch())
    scene.batch.job().set("RUNNING")
    for number in (0, 1):
        scene.pilot(f"p{number}", batch_job=f"job-0:{number}", batch_attempt=1)
        scene.claim(f"i{number}", f"p{number}")
    scene.batch.job().fail(1, exit_code=1, at=scene.clock.now())
    # Then both are told, and what to do
    done = typed("items", "jobs")
    lines = done.stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["i0", "RUNNING", "job-0:0"], ["i1", "FAILED", "job-0:1"]]
    assert lines[-1] == "2 locked: 1 RUNNING, 1 FAILED"
    assert done.stderr == "next: pyanamo recover\n"
    # And those alone whose pilot is gone
    assert typed("items", "jobs", "--gone", "--quiet").stdout == "i1\n"
