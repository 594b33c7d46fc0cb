"""Importing a sheet: once, again, after an interruption, and over other content."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pyanamo_core.clock import FakeClock
from pyanamo_core.importer import import_sheet
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Definition, Imported, State
from pyanamo_core.sheet import Sheet, read_sheet

HEADER = "itemID|TaskID|TaskScript|TaskArgs\n"


def sheet_of(folder: Path, *lines: str) -> Sheet:
    path = folder / "sheet.txt"
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines))
    return read_sheet(path)


class Fragile(MemoryLedger):
    """A ledger that answers so many imports and then none."""

    def __init__(self, good: int) -> None:
        super().__init__(clock=FakeClock())
        self.good = good
        self._count = threading.Lock()

    def import_item(self, *given: object, **named: object) -> Imported:  # type: ignore[override]
        with self._count:
            if self.good <= 0:
                raise ConnectionError("the network is gone")
            self.good -= 1
        return super().import_item(*given, **named)  # type: ignore[arg-type]


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger(clock=FakeClock())


def test_every_item_of_a_sheet_stands_in_the_ledger_with_its_definition(ledger: MemoryLedger, tmp_path: Path) -> None:
    # Given a sheet with two items
    sheet = sheet_of(tmp_path, "A|t|seq|8,2,1", "B|t|seq 5|")
    seen: list[tuple[int, int]] = []
    # When it is imported
    report = import_sheet(ledger, sheet, progress=lambda done, total: seen.append((done, total)), revision="r1")
    # Then both are to do, with their nests, and progress was told to the end
    assert (report.total, report.created) == (2, 2)
    item = ledger.item("A")
    assert (item.state, item.nests, item.revision) == (State.TODO, 3, "r1")
    assert ledger.definition(item) == Definition(script="seq", arguments=("8", "2", "1"))
    assert ledger.item("B").nests == 1
    assert seen[-1] == (2, 2)


def test_the_same_sheet_again_changes_nothing(ledger: MemoryLedger, tmp_path: Path) -> None:
    # Given an imported sheet
    sheet = sheet_of(tmp_path, "A|t|seq|1", "B|t|seq|1")
    import_sheet(ledger, sheet)
    before = [ledger.item(name) for name in ("A", "B")]
    # When it is imported again
    report = import_sheet(ledger, sheet)
    # Then nothing is new, and the rows are the same to the last attribute
    assert (report.created, report.exists, report.conflicts) == (0, 2, 0)
    assert [ledger.item(name) for name in ("A", "B")] == before


def test_other_content_is_a_conflict_that_is_told_with_its_line(ledger: MemoryLedger, tmp_path: Path) -> None:
    # Given an imported item
    import_sheet(ledger, sheet_of(tmp_path, "A|t|seq|1"))
    before = ledger.item("A")
    # When a sheet gives it other nests, beside a new item
    report = import_sheet(ledger, sheet_of(tmp_path, "B|t|seq|1", "A|t|seq|1,2"))
    # Then the new one is there, the old one untouched, and the conflict names item and line
    assert (report.created, report.conflicts) == (1, 1)
    assert [(one.item_id, one.line) for one in report.shown_conflicts] == [("A", 3)]
    assert ledger.item("A") == before


def test_update_edits_what_nobody_works_on_and_reports_the_rest(ledger: MemoryLedger, tmp_path: Path) -> None:
    # Given two imported items, one of them claimed
    import_sheet(ledger, sheet_of(tmp_path, "A|t|seq|1", "B|t|seq|1"))
    assert ledger.claim("B", "pilot-1") is not None
    # When a sheet with other nests for both is imported with update
    report = import_sheet(ledger, sheet_of(tmp_path, "A|t|seq|1,2", "B|t|seq|1,2"), update=True)
    # Then the free one is edited, the claimed one left to its pilot, with the ledger's reason
    assert (report.edited, report.conflicts) == (1, 1)
    assert ledger.item("A").nests == 2
    assert ledger.item("B").nests == 1
    assert report.shown_conflicts[0].item_id == "B"
    assert "a pilot works on it" in report.shown_conflicts[0].reason


def test_an_interrupted_import_completes_when_it_is_run_again(tmp_path: Path) -> None:
    # Given an import of 500 items during which the ledger goes away after 200
    sheet = sheet_of(tmp_path, *(f"I{number}|t|seq|1" for number in range(500)))
    ledger = Fragile(200)
    with pytest.raises(ConnectionError):
        import_sheet(ledger, sheet)
    assert ledger.counts().todo == 200
    # When it is run again
    ledger.good = 500
    report = import_sheet(ledger, sheet)
    # Then the missing ones are added, and the others were left alone
    assert (report.created, report.exists) == (300, 200)
    assert ledger.counts().todo == 500
