"""Sheets that PyAnamo writes are sheets that it reads, or they are not written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyanamo_core.errors import SheetInvalid
from pyanamo_core.sheet import read_sheet, write_sheet

WORD = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp")), min_size=1, max_size=12)
VALUES = st.lists(WORD.filter(lambda word: "," not in word), unique=True, max_size=5)
SCRIPT = WORD.filter(lambda word: not set(word) & set("\"'\\#"))


@given(
    rows=st.lists(st.tuples(WORD.filter(lambda w: w[0] != "!"), SCRIPT, VALUES), min_size=1, unique_by=lambda r: r[0])
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, list[str]]]
) -> None:
    # Given items with any letters in them, delimiters and quotes included
    path = tmp_path_factory.mktemp("sheet") / "sheet.txt"
    # When they are written
    write_sheet(path, ((item, "task", script, values) for item, script, values in rows))
    # Then the same items are read
    found = [(row.item_id, row.definition.script, list(row.definition.arguments)) for row in read_sheet(path).rows()]
    assert found == rows


def test_a_value_with_the_nested_delimiter_in_it_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    # Given a value that would fall apart when read
    path = tmp_path / "sheet.txt"
    # When it is written
    with pytest.raises(SheetInvalid, match=r"line 2: value 'a,b' holds the nested delimiter ','"):
        write_sheet(path, [("A", "t", "seq", ["a,b"])])
    # Then there is neither a sheet nor a draft
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_with_a_fault_does_not_replace_the_one_that_stands(tmp_path: Path) -> None:
    # Given a good sheet
    path = tmp_path / "sheet.txt"
    write_sheet(path, [("A", "t", "seq", ["1"])])
    before = path.read_bytes()
    # When one with a repeated itemID is written over it
    with pytest.raises(SheetInvalid, match=f"sheet {path} has 1 fault"):
        write_sheet(path, [("A", "t", "seq", ["1"]), ("A", "t", "seq", ["2"])])
    # Then the good one is as it was
    assert path.read_bytes() == before
