"""What commands advise next: the commands of the table at hand, to be typed as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pyanamo.cohort import cohort_words
from pyanamo.commands.clean import _Asked
from pyanamo.main import app
from pyanamo_core.chain.cohort import gather_workflow
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.workflow import Buckets, CohortSection, Workflow

PLAIN = Workflow(name="Calls", queue="q", job_definition="d", buckets=Buckets(results="s3://bucket/c"))


@pytest.mark.parametrize(
    ("workflow", "table", "advice"),
    [
        (PLAIN, "Calls", ""),
        (PLAIN.model_copy(update={"cohort": CohortSection(also=("Earlier",))}), "Calls", "pyanamo cohort run"),
        (gather_workflow(PLAIN), "Calls-gather", "pyanamo cohort run --table Calls"),
    ],
)
def test_tables_of_a_cohort_are_gone_on_with_as_one(workflow: Workflow, table: str, advice: str):
    ledger = MemoryLedger(table=table)
    ledger.add_workflow(workflow)
    assert cohort_words(ledger, table, "run") == advice


def test_a_table_without_a_workflow_has_no_advice_of_its_own():
    assert cohort_words(MemoryLedger(table="Calls"), "Calls", "run") == ""


def test_a_dry_run_of_clean_ends_with_the_command_that_does_it():
    asked = _Asked(None, True, False, True, False, 12.0, 0.023, True)  # type: ignore[arg-type]
    assert asked.command == "pyanamo clean --work --loci-after-gather --older-than 12 --whole"


def test_targets_that_are_not_there_are_bad_input_like_any_other_file(tmp_path: Path):
    (tmp_path / "ref.fa").write_text(">a\nACGT\n")
    nope = tmp_path / "nope.bed"
    done = CliRunner().invoke(app, ["loci", "plan", str(tmp_path / "ref.fa"), "--bed", str(nope)])
    assert done.exit_code == 3
    assert "nope.bed: there is no such file" in done.stderr
