"""Refusals of the commands around a cohort: each with its exit code and the words that say what, where, and what to do.

Those of gather, joint, plans, loci, QC and of results stand in the tests of these parts; here are the commands'.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyanamo.context import Context, Opened
from pyanamo.main import app
from pyanamo_core.clock import FakeClock
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Definition, Nest, NestStatus, Run
from pyanamo_core.workflow import Buckets, Workflow

WORKFLOW = Workflow(name="Calls", queue="Q", job_definition="D", buckets=Buckets(results="s3://bucket/prefix"))


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MemoryLedger:
    """A table with a locked item A and a failed one B, in a folder with files that are of no use."""
    made = MemoryLedger(rules=WORKFLOW.rules, clock=FakeClock(), table="Calls")
    monkeypatch.setattr(Context, "opened", property(lambda _: Opened(made, 1, WORKFLOW)))
    monkeypatch.chdir(tmp_path)
    for item_id in ("A", "B"):
        made.import_item(item_id, "t", Definition(script="s", arguments=("c:1-100", "c:101-200")))
    made.claim("A", "pilot-1")
    claim = made.claim("B", "pilot-1")
    assert claim is not None
    made.fail(claim, Cause.PERMANENT, "no such sample")
    for number in (1, 2):
        made.begin_run(Run(run_id=f"r{number}", workflow_version=1, token=f"t{number}", started=float(number)))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "nameless.tsv").write_text("colour\tsize\nred\t1\n")
    (tmp_path / "samples.tsv").write_text("sample\treads\nA\ta.bam\n")
    (tmp_path / "list.bed").write_text("c\t0\t100\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "one.bam").write_bytes(b"no BAM at all")
    (tmp_path / "workflow.yaml").write_text(
        "name: Calls\nqueue: Q\njob_definition: D\nbuckets: {results: 's3://bucket/prefix'}\n"
    )
    return made


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        # ------------------------------------------------------------------------------------------------ items
        ("items reset A --yes", 5, "reset of item A was refused: it is locked by pilot pilot-1"),
        ("items retry A --state failed", 2, "Name items, or give --state to mean every item in one."),
        ("items extend A e:1-9", 5, "extend of item A was refused: it is locked"),
        ("items redo A 0 --yes", 5, "redo of item A was refused: it is locked"),
        ("items redo --nest c:9-9 --yes", 4, "No item of table Calls has a recorded nest c:9-9"),
        # ------------------------------------------------------------------------------------- samples and sheets
        ("samples list empty", 4, "There are no BAM or CRAM files below /"),
        ("samples list nowhere", 3, "no such folder"),
        ("samples list damaged", 3, "one.bam.bai is missing; make it with: samtools index"),
        ("sheet make --items broken.json --script s", 3, "broken.json: no valid JSON"),
        ("sheet make --items nameless.tsv --script s", 3, "none of its columns (colour, size) is one of itemID, item"),
        ("sheet make --items samples.tsv --script 's {sex}'", 3, "there is no column 'sex'; there are: "),
        ("sheet make --items A --script s --args list.bed", 3, "it is a BED file; make loci of it with: pyanamo loci"),
        ("sheet make --items A --script s --args gone.txt", 3, "There is no file gone.txt. A list is given as A,B,C."),
        ("sheet import gone.txt", 3, "gone.txt"),
        # ------------------------------------------------------------------------------------------------ loci
        ("loci plan --genome GRCh38 --time 20m", 2, "--time needs --learn: a table of an earlier run"),
        (
            "loci plan --genome GRCh38 --time soon --learn Earlier",
            3,
            "--time soon: give a number with s, m or h, e.g. 20m",
        ),
        ("loci plan --genome GRCh36", 3, "PyAnamo ships no tables of the genome GRCh36; it has"),
        # ------------------------------------------------------------------------------------------------ results
        ("results export results.xlsx", 3, "does not say which format is meant. End it in .tsv, .csv, .json, .html or"),
        ("results publish --to /folder", 3, "--to /folder is no s3://bucket/prefix."),
        (
            "results qc --vcf list.vcf.gz",
            3,
            "--vcf writes bcftools' statistics into the folder of --multiqc, which is not",
        ),
        ("results qc --multiqc qc --vcf gone.vcf.gz", 4, "There is no VCF gone.vcf.gz. Make one with: pyanamo joint"),
        ("joint --out cohort.vcf", 3, "--out cohort.vcf must end in .vcf.gz: the file is bgzipped."),
        ("clean", 2, "Say what to clean: --orphans, --work, --loci-after-gather or --local"),
        # ---------------------------------------------------------------------------------------- rehearse and runs
        ("rehearse", 2, "Give either a sheet, or --script with --args, not neither."),
        ("runs show r", 3, "r is the beginning of 2 runs: r"),
        ("runs show x", 4, "Table Calls holds no run x"),
        ("workflow create --tag colour", 3, "The tag 'colour' is not NAME=VALUE."),
        ("workflow delete --yes", 5, "Table Calls has live runs (r"),
    ],
)
def test_each_refusal_says_what_where_and_what_to_do(ledger: MemoryLedger, line: str, code: int, told: str) -> None:
    # Given a table with an item at work and one that failed
    import shlex

    before = {item.item_id: item for item in ledger.items()}
    # When something is typed that cannot be done
    done: Any = CliRunner(env={"COLUMNS": "300", "PYANAMO_TABLE": "Calls"}).invoke(app, shlex.split(line))
    # Then the words are the refusal's, without a traceback, and nothing has changed
    assert told in done.stderr, done.output
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert {item.item_id: item for item in ledger.items()} == before


def test_when_every_item_is_refused_the_reasons_stand_together(ledger: MemoryLedger) -> None:
    # Given two items that pilots hold, when both are to be extended, then both reasons are told and the code says so
    ledger.retry(ledger.item("B"))
    ledger.claim("B", "pilot-2")
    done = CliRunner().invoke(app, ["items", "extend", "A", "B", "--loci", "e:1-9", "--table", "Calls"])
    assert done.exit_code == 5
    assert "2 of 2 items were refused:" in done.stderr
    assert "extend of item B was refused: it is locked by pilot pilot-2" in done.stderr


# ------------------------------------------------------------------------------------- sheets over what is done


@pytest.fixture
def half_done(ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MemoryLedger:
    """Item D with two done nests, item T that is to do, and a sheet with other nests for both and a new item N."""
    ledger.import_item("D", "t", Definition(script="s", arguments=("c:1-100", "c:101-200")))
    ledger.import_item("T", "t", Definition(script="s", arguments=("c:1-100", "c:101-200")))
    claim = ledger.claim("D", "pilot-1")
    assert claim is not None
    for index in (0, 1):
        ledger.record_nest(claim, Nest(item_id="D", epoch=0, index=index, status=NestStatus.DONE, fence=claim.fence))
    ledger.finish(claim, nests_done=2)
    (tmp_path / "sheet.txt").write_text(
        "itemID|TaskID|TaskScript|TaskArgs\n" + "".join(f"{one}|t|s|c:1-100\n" for one in "NTD")
    )
    monkeypatch.setattr(Context, "clients", None)
    monkeypatch.setattr("pyanamo_core.ledger.open_ledger", lambda *_, **__: (ledger, 1, WORKFLOW))
    return ledger


@pytest.mark.parametrize(
    "line",
    ["sheet import sheet.txt --update", "run --sheet sheet.txt --update", "cohort run --sheet sheet.txt --update"],
)
def test_done_nests_are_not_thrown_away_by_a_sheet_unasked(half_done: MemoryLedger, line: str) -> None:
    # Given a sheet with another definition for an item whose nests are done, when nobody is there to answer
    before = {item.item_id: item for item in half_done.items()}
    done: Any = CliRunner(env={"COLUMNS": "300", "PYANAMO_TABLE": "Calls"}).invoke(app, line.split())
    # Then it says what would be lost, and changes nothing: not even the new item is there
    assert done.exit_code == 5, done.output
    assert "nobody is there to answer 'Edit item D of table Calls; 2 done nests of it no longer count" in done.stderr
    assert {item.item_id: item for item in half_done.items()} == before


def test_a_sheet_that_is_confirmed_or_costs_nothing_is_imported(half_done: MemoryLedger, tmp_path: Path) -> None:
    # Given a sheet that edits only what has no done nests, when it is imported with --update, then nobody is asked
    whole = (tmp_path / "sheet.txt").read_text()
    (tmp_path / "free.txt").write_text(whole.rpartition("D|")[0])
    typed = CliRunner(env={"COLUMNS": "300", "PYANAMO_TABLE": "Calls"})
    assert typed.invoke(app, ["sheet", "import", "free.txt", "--update"]).exit_code == 0
    assert half_done.item("T").nests == 1
    # And the other one with --yes
    assert typed.invoke(app, ["sheet", "import", "sheet.txt", "--update", "--yes"]).exit_code == 0
    assert (half_done.item("D").nests, half_done.item("D").nests_done) == (1, 0)
