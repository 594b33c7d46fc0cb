"""What a user agrees to is what a run does: the sheet's items and all others that the table has open."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pyanamo.commands import agree
from pyanamo_core.cost.pace import given_pace
from pyanamo_core.cost.work import is_genomic, together, work_of_definitions, work_of_table
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Definition, Nest, NestStatus
from pyanamo_core.sheet import Sheet, read_sheet
from pyanamo_core.workflow import Buckets, Workflow

TWO = Definition(script="sleep", arguments=("1", "2"))
WORKFLOW = Workflow(name="Sleep", queue="q", job_definition="d", buckets=Buckets(results="s3://results/x"))


def a_sheet(folder: Path, *names: str) -> Sheet:
    path = folder / "sheet.txt"
    path.write_text("itemID|TaskID|TaskScript|TaskArgs\n" + "".join(f"{name}|t|sleep|1,2\n" for name in names))
    return read_sheet(path)


def a_table(*names: str, definition: Definition = TWO) -> MemoryLedger:
    ledger = MemoryLedger()
    for name in names:
        ledger.import_item(name, "t", definition)
    return ledger


def plan(monkeypatch: pytest.MonkeyPatch, folder: Path, ledger: MemoryLedger | None, sheet: Sheet | None) -> Any:
    monkeypatch.setattr(agree, "table_of", lambda *_: ledger)
    context = SimpleNamespace(folder=folder, settings={}, clients=None, ledger=ledger)
    return agree.planned(cast("Any", context), WORKFLOW, sheet)


def test_a_run_of_a_sheet_is_planned_with_what_the_table_has_open(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given a table of eight open items, and a sheet of two new ones and one of these
    ledger = a_table(*(f"i{number}" for number in range(8)))
    told = plan(monkeypatch, tmp_path, ledger, a_sheet(tmp_path, "n1", "n2", "i3"))
    # Then the plan is of ten items, and says how many of them the sheet does not name
    assert (told.estimate.items, told.estimate.nests, told.beside_sheet) == (10, 20, 7)
    assert agree.question(told, "Run", None).startswith(
        "Run: 10 items (7 of them open in the table, not in the sheet), 20 nests"
    )
    assert agree.as_data(told)["items_beside_sheet"] == 7


def test_a_sheet_for_a_new_table_is_planned_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = plan(monkeypatch, tmp_path, None, a_sheet(tmp_path, "n1", "n2"))
    assert (told.estimate.items, told.beside_sheet) == (2, 0)
    assert agree.question(told, "Run", None).startswith("Run: 2 items, 4 nests")


def test_what_has_ended_in_the_table_is_not_planned_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Given a sheet of which one item is done, one failed and one cancelled in the table
    ledger = a_table("done", "failed", "cancelled")
    done, failed = ledger.claim("done", "p"), ledger.claim("failed", "p")
    assert done is not None
    assert failed is not None
    ledger.finish(done, nests_done=2)
    ledger.fail(failed, Cause.TASK_ERROR, "no")
    ledger.cancel(ledger.item("cancelled"))
    told = plan(monkeypatch, tmp_path, ledger, a_sheet(tmp_path, "done", "failed", "cancelled", "new"))
    # Then a run does the new one only
    assert (told.estimate.items, told.beside_sheet) == (1, 0)


def test_times_learnt_from_a_table_of_other_scripts_are_not_taken_for_haplotypecallers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given a table whose nests copy files, with one item done
    ledger = a_table("a", "b")
    claim = ledger.claim("a", "p")
    assert claim is not None
    for index in range(2):
        nest = Nest(item_id="a", epoch=0, index=index, status=NestStatus.DONE, fence=claim.fence, started=1, ended=9)
        ledger.record_nest(claim, nest)
    ledger.finish(claim, nests_done=2)
    asked: list[bool] = []
    learn = agree.learnt_from

    def noted(ledger: Any, *, genomic: bool) -> Any:
        asked.append(genomic)
        return learn(ledger, genomic=genomic)

    monkeypatch.setattr(agree, "learnt_from", noted)
    monkeypatch.setattr("pyanamo.planning._is_genomic", lambda _context, _table: is_genomic(ledger))
    told = plan(monkeypatch, tmp_path, ledger, None)
    # Then what they leave is learnt as of these
    assert asked == [False]
    assert told.estimate.pace.startswith("2 nests of table")
    assert is_genomic(a_table("s", definition=Definition(script="HaplotypeCaller-1KG.sh", arguments=("chr1:1-9",))))


def test_works_add_up_and_what_is_left_aside_is_not_counted() -> None:
    pace = given_pace("10")
    ledger = a_table("a", "b", "c", "d")
    others = work_of_table(ledger, pace, at_once=1, but={"a"}, sample=1)
    assert (others.items, others.nests, others.sampled) == (3, 6, 1)
    mine = work_of_definitions([("a", TWO)], pace, at_once=1)
    both = together(mine, others)
    assert (both.items, both.nests, both.sampled, both.import_units) == (4, 8, 2, mine.import_units)
    assert both.seconds is not None
    assert both.seconds.low == 80
    assert together(mine, work_of_table(MemoryLedger(), pace, at_once=1, but={"a"})) == mine
