"""`pyanamo plan` without an account: nobody listens at the endpoint, and there are no credentials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pyanamo.main import app

WORKFLOW = """
name: Call
queue: q
job_definition: d
pilots: 2
nests: 2
vcpus: 2
buckets:
  results: s3://my-results/x
  inputs: [{bucket: reads, region: us-east-1, access: anonymous}]
"""
LOCI = "chr20:1-1000000,chr20:1000001-2000000,chr21:1-1000000"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a workflow file and a sheet of two samples; keys are taken away."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    sheet(tmp_path, f"s1|call|HaplotypeCaller-1KG.sh|{LOCI}", f"s2|call|HaplotypeCaller-1KG.sh|{LOCI}")
    return tmp_path


def sheet(folder: Path, *lines: str) -> None:
    (folder / "sheet.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\n" + "".join(f"{one}\n" for one in lines))


def types(*words: str, code: int = 0) -> Result:
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["plan", *words])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def reads(*words: str) -> Any:
    return json.loads(types(*words, "--json").stdout)


def test_a_plan_needs_neither_account_nor_network(folder: Path):
    # Given a folder with workflow and sheet, and no credentials, when the plan is asked for
    told = reads("--sheet", "sheet.txt")
    # Then it is counted, timed and priced
    found = told["estimate"]
    assert (found["items"], found["nests"], found["bases"], found["pilots"]) == (2, 6, 6_000_000, 2)
    assert 0 < found["hours"]["low"] < found["hours"]["high"]
    assert 0 < told["once"]["low"] < told["once"]["high"]
    assert {one["what"] for one in found["lines"]} >= {"machines, Spot", "ledger, writes", "S3, PUT and LIST"}
    # … and nothing was written
    assert sorted(path.name for path in folder.iterdir()) == ["sheet.txt", "workflow.yaml"]


def test_people_see_lines_sums_and_the_next_command(folder: Path):
    (folder / "workflow.yaml").write_text(WORKFLOW + "references: [{name: ref, uri: s3://genomes/ref.fa}]\n")
    done = types("--sheet", "sheet.txt", "--cohort")
    assert "2 items, 6 nests, no fault" in done.output
    assert "in all $" in done.output
    assert "joint: machines, Spot" in done.output
    assert "not in it: what the joint call's machines cost" in done.output
    assert "next: pyanamo cohort run workflow.yaml --sheet sheet.txt" in done.output


def test_a_time_that_is_given_decides(folder: Path):
    short, long = reads("--sheet", "sheet.txt", "--nest-time", "1h"), reads("--sheet", "sheet.txt", "--nest-time", "2h")
    # Six nests in four slots take two rounds at most, and cost as they take.
    assert short["estimate"]["hours"]["low"] >= 1.5
    assert long["estimate"]["vcpu_hours"]["low"] > 1.8 * short["estimate"]["vcpu_hours"]["low"]
    assert "1h a nest" in short["estimate"]["pace"]


def test_an_earlier_runs_export_teaches_the_pace(folder: Path):
    rows = "".join(f"s{n}\tchr20:{n}000001-{n + 1}000000\tdone\t50\t1000000\n" for n in range(1, 31))
    (folder / "results.tsv").write_text("item\tvalue\tstatus\tseconds\tfigures.called_bases\n" + rows)
    told = reads("--sheet", "sheet.txt", "--learn", "results.tsv")["estimate"]
    assert "30 nests of results.tsv" in told["pace"]
    # Six nests of 50 s in slots of a processor: 300 s at the least, and what pilots take besides.
    assert told["vcpu_hours"]["high"] * 1.5 > 300 / 3600


def test_a_rehearsal_teaches_the_pace_of_any_script(folder: Path):
    sheet(folder, "a|count|seq|3,4,5")
    nests = [
        {"value": "3", "outcome": "done", "seconds": 40.0},
        {"value": "4", "outcome": "task_error", "seconds": 1.0},
    ]
    (folder / "rehearsal.json").write_text(json.dumps({"nests": nests}))
    told = reads("--sheet", "sheet.txt", "--learn", "rehearsal.json")["estimate"]
    assert "1 nest of rehearsal.json" in told["pace"]
    assert told["hours"]["low"] > 0


def test_of_an_unknown_script_hours_are_not_guessed(folder: Path):
    sheet(folder, "a|count|seq|3,4,5")
    done = types("--sheet", "sheet.txt")
    assert "not in it: hours, and what machines cost" in done.output
    assert "next: pyanamo rehearse sheet.txt" in done.output


@pytest.mark.parametrize(
    ("change", "words", "said", "code"),
    [
        ({"sheet.txt": "nonsense\n"}, (), "no header", 3),
        ({"workflow.yaml": "name: x\n"}, (), "queue", 3),
        ({"workflow.yaml": WORKFLOW + "scripts: nowhere\n"}, (), "there is no", 3),
        ({"prices.yaml": "gold: 1\n"}, ("--prices", "prices.yaml"), "unknown name 'gold'", 3),
        ({}, ("--prices", "nope.yaml"), "cannot be read", 3),
        ({}, ("--nest-time", "soon"), "60-120", 3),
        ({}, ("--nest-time", "3", "--rate", "4"), "one of", 2),
        ({"results.tsv": "item\tvalue\n"}, ("--learn", "results.tsv"), "no column seconds, status", 3),
        ({"results.tsv": "value\tseconds\tstatus\n"}, ("--learn", "results.tsv"), "none is done", 3),
        ({"r.json": "[1]"}, ("--learn", "r.json"), "tells no times", 3),
    ],
)
def test_bad_input_is_told_with_its_place(
    folder: Path, change: dict[str, str], words: tuple[str, ...], said: str, code: int
):
    for name, text in change.items():
        (folder / name).write_text(text)
    done = types("--sheet", "sheet.txt", *words, code=code)
    assert said in done.output.replace("\n", " ")


def test_loci_beyond_the_reference_are_told_by_line(folder: Path):
    (folder / "ref.fa").write_text(">chr20\nACGT\n")
    (folder / "ref.fa.fai").write_text("chr20\t4\t7\t4\t5\nchr21\t1000000\t20\t60\t61\n")
    (folder / "workflow.yaml").write_text(WORKFLOW + f"references: [{{name: ref, uri: {folder}/ref.fa}}]\n")
    done = types("--sheet", "sheet.txt", code=3)
    assert "2 faults" in done.output
    assert "line 2" in done.output
    assert "ends at 4" in done.output


def test_lists_that_the_scripts_lack_are_told(folder: Path):
    sheet(folder, "a|call|HaplotypeCaller-1KG.sh|@targets/0001.bed")
    assert "@targets/0001.bed: the task scripts have no such file" in types("--sheet", "sheet.txt", code=3).output


def test_a_reference_that_only_the_image_has_is_said(folder: Path):
    (folder / "workflow.yaml").write_text(WORKFLOW + "references: [{name: ref, uri: /no/where.fa}]\n")
    assert "/no/where.fa is not on this machine" in types("--sheet", "sheet.txt").output


def test_a_script_that_is_nowhere_is_said(folder: Path):
    sheet(folder, "a|x|made-up-name.sh --fast|1")
    assert "made-up-name.sh is neither among them nor on this machine" in types("--sheet", "sheet.txt").output


def test_another_region_is_said_to_be_known_by_ranges(folder: Path):
    done = types("--sheet", "sheet.txt", "--region", "eu-central-1")
    assert "of eu-central-1 PyAnamo knows ranges only" in done.output


def test_without_a_region_it_is_said_whose_prices_these_are(folder: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    assert "no region is set (--region): list prices of us-east-1" in types("--sheet", "sheet.txt").output


def test_prices_come_from_the_environment_too(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "mine.yaml").write_text("spot_vcpu_hour: 100\n")
    monkeypatch.setenv("PYANAMO_PRICES", "mine.yaml")
    assert reads("--sheet", "sheet.txt")["once"]["low"] > 1
