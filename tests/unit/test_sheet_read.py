"""A sheet is read as it stands, or every fault in it is told with its line."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from pyanamo_core.errors import SheetInvalid
from pyanamo_core.sheet import read_sheet

HEADER = "itemID|TaskID|TaskScript|TaskArgs\n"


def sheet_of(folder: Path, text: str | bytes) -> Path:
    path = folder / "sheet.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults_of(path: Path, **how: str) -> list[str]:
    with pytest.raises(SheetInvalid) as caught:
        read_sheet(path, **how)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_pyanamo_1s_seq_sheet_is_read_with_its_nests_in_order(tmp_path: Path) -> None:
    # Given the sheet of PyAnamo 1's example
    path = sheet_of(tmp_path, HEADER + "Seq_Test_1|Seq_8_2_1|seq|8,2,1\nSeq_Test_2|Seq_3|seq|3\n")
    # When it is read
    sheet = read_sheet(path)
    rows = list(sheet.rows())
    # Then items, nests and values are those of the file
    assert (sheet.items, sheet.nests, sheet.delimiter) == (2, 4, "|")
    assert [row.item_id for row in rows] == ["Seq_Test_1", "Seq_Test_2"]
    assert rows[0].definition.arguments == ("8", "2", "1")
    assert (rows[0].task_id, rows[0].definition.script, rows[0].line) == ("Seq_8_2_1", "seq", 2)


@pytest.mark.parametrize("delimiter", ["|", "\t", ",", ";"])
def test_each_of_the_four_delimiters_is_found_in_the_header(tmp_path: Path, delimiter: str) -> None:
    # Given a sheet with that delimiter, its TaskArgs in quotes as they hold commas
    text = delimiter.join(("itemID", "TaskID", "TaskScript", "TaskArgs")) + "\n"
    text += delimiter.join(("A", "t", "seq", '"8,2,1"')) + "\n"
    # When it is read without naming the delimiter
    sheet = read_sheet(sheet_of(tmp_path, text))
    # Then it was found, and the quotes are gone
    assert sheet.delimiter == delimiter
    assert next(sheet.rows()).definition.arguments == ("8", "2", "1")


def test_any_delimiters_can_be_given(tmp_path: Path) -> None:
    # Given a sheet with ^ between fields and a blank between nests
    path = sheet_of(tmp_path, "itemID^TaskID^TaskScript^TaskArgs\nA^t^seq^8 2 1\n")
    # When they are named
    rows = list(read_sheet(path, delimiter="^", nested_delimiter=" ").rows())
    # Then the nests are apart
    assert rows[0].definition.arguments == ("8", "2", "1")


def test_task_args_may_be_missing_as_a_column_or_empty_in_a_row(tmp_path: Path) -> None:
    # Given a sheet without that column, and one with an empty field
    bare = read_sheet(sheet_of(tmp_path, "TaskScript;itemID;TaskID\nseq 3;A;t\n"))
    row = next(bare.rows())
    empty = read_sheet(sheet_of(tmp_path, HEADER + "A|t|seq 3|\n"))
    # Then both items have exactly one nest, without a value, and columns may stand in any order
    assert (row.item_id, row.definition.script) == ("A", "seq 3")
    assert row.definition.arguments == ()
    assert row.definition.nests == 1
    assert empty.nests == 1


def test_quotes_hold_delimiters_quotes_and_blank_lines_are_left_out(tmp_path: Path) -> None:
    # Given quoted fields with a delimiter and a quote in them, a byte order mark, CRLF and blank lines
    text = "\ufeff" + HEADER.replace("\n", "\r\n") + '\r\nA|t|"bash -c \'a | b ""c""\'"|1\r\n\r\n'
    # When it is read
    [row] = list(read_sheet(sheet_of(tmp_path, text)).rows())
    # Then the script is what was meant, and its line is counted as an editor does
    assert row.definition.script == "bash -c 'a | b \"c\"'"
    assert row.line == 3


def test_all_faults_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    # Given a sheet with a different fault in nearly every line
    lines = [
        HEADER.strip().encode(),
        b"A|t|seq|1",
        b"|t|seq|1",
        b"A|t|seq|1",
        b"!x|t|seq|1",
        b"i" * 257 + b"|t|seq|1",
        b"B|" + b"t" * 65 + b"|seq|1",
        b"B2|!t|seq|1",
        b'C|t|"seq|1',
        b"D|t|seq|8,,1",
        b"E|t|seq|8,2,8",
        b"F|t|seq",
        b"G|t|seq|1|2",
        b"H\xff|t|seq|1",
        b"I|t||1",
        b"J|t|seq 'x|1",
        b"K||seq|1",
        b"L\x01|t|seq|1",
        b"Z|t|seq|1",
    ]
    # When it is checked
    faults = faults_of(sheet_of(tmp_path, b"\n".join(lines)))
    # Then each is there, with its line, and nothing else
    assert [(int(fault.split(":")[0].split()[1]), fault.split(": ", 1)[1].split(";")[0]) for fault in faults] == [
        (3, "itemID is empty"),
        (4, "itemID 'A' stands already in line 2"),
        (5, "itemID '!x' starts with '!', which is reserved"),
        (6, f"itemID '{'i' * 32}'… has 257 bytes"),
        (7, f"TaskID '{'t' * 32}'… has 65 bytes"),
        (8, "TaskID '!t' starts with '!', which is reserved"),
        (9, 'unbalanced quotes: a quoted field ends with ", and a quote in it is written ""'),
        (10, "nest 2 of 3 is empty"),
        (11, "nest '8' is repeated (values 1 and 3)"),
        (12, "3 fields, but the header has 4"),
        (13, "5 fields, but the header has 4"),
        (14, "byte 2 (0xff) is not UTF-8"),
        (15, "TaskScript is empty"),
        (16, 'TaskScript "seq \'x": no closing quotation'),
        (17, "TaskID is empty"),
        (18, "itemID holds a control character"),
    ]


def test_an_id_is_measured_in_bytes_not_in_letters(tmp_path: Path) -> None:
    # Given ids of 256 and 258 bytes, both of 129 letters or fewer
    path = sheet_of(tmp_path, HEADER + "é" * 128 + "|t|seq|1\n" + "é" * 129 + "|t|seq|1\n")
    # When it is checked, then only the second is too long
    assert [fault.split(":")[0] for fault in faults_of(path)] == ["line 3"]


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("itemID|TaskID|TaskArgs", ["column TaskScript is missing"]),
        ("itemID|TaskID|TaskScrip|TaskArgs", ["unknown column 'TaskScrip'; did you mean TaskScript?"]),
        ("itemID|TaskID|TaskScript|TaskID", ["column TaskID stands twice"]),
        ("itemid|TaskID|TaskScript", ["unknown column 'itemid'; did you mean itemID?", "column itemID is missing"]),
        ("A|t|seq|1", ["no header"]),
    ],
)
def test_faults_of_the_header_name_the_column(tmp_path: Path, header: str, told: list[str]) -> None:
    # Given a header with a fault
    faults = faults_of(sheet_of(tmp_path, f"{header}\nA|t|seq|1\n"))
    # Then it is told for line 1
    for one in told:
        assert any(fault.startswith(f"line 1: {one}") for fault in faults)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (HEADER.encode(), "there is a header, but no item"),
        ("itemID|TaskID|TaskScript".encode("utf-16"), "the file is UTF-16"),
        (b"item\xff", "byte 5 (0xff) is not UTF-8"),
    ],
)
def test_a_file_that_is_no_sheet_at_all_is_told_so(tmp_path: Path, content: bytes, told: str) -> None:
    # Given such a file, when it is checked, then the one fault says what is wrong with it
    [fault] = faults_of(sheet_of(tmp_path, content))
    assert told in fault


def test_a_missing_file_is_an_error_in_words(tmp_path: Path) -> None:
    # Given no file, when it is read, then the message names the reason and no traceback of Python's is needed
    assert faults_of(tmp_path / "none.txt") == ["cannot be read: No such file or directory"]


def test_unquoted_commas_in_a_sheet_of_commas_get_a_hint(tmp_path: Path) -> None:
    # Given commas between fields and between nests
    faults = faults_of(sheet_of(tmp_path, "itemID,TaskID,TaskScript,TaskArgs\nA,t,seq,8,2,1\n"))
    # Then the fault says how to write it
    assert faults == ["line 2: 6 fields, but the header has 4; put TaskArgs in quotes, as they hold ',' too: \"8,2,1\""]


def test_a_delimiter_of_two_signs_is_refused(tmp_path: Path) -> None:
    # Given two signs as delimiter, when the sheet is checked, then that is the fault
    path = sheet_of(tmp_path, HEADER + "A|t|seq|1\n")
    assert faults_of(path, delimiter="||") == ["line 1: the delimiter '||' is not one character"]


def test_a_sheet_that_changes_between_check_and_import_is_refused(tmp_path: Path) -> None:
    # Given a sheet that was checked
    path = sheet_of(tmp_path, HEADER + "A|t|seq|1\n")
    sheet = read_sheet(path)
    # When somebody adds a line before it is imported
    path.write_text(HEADER + "A|t|seq|1\nA|t|seq|1\n")
    # Then its rows are not given
    with pytest.raises(SheetInvalid, match="has changed"):
        list(sheet.rows())


def test_thousands_of_faults_are_counted_but_not_all_printed(tmp_path: Path) -> None:
    # Given 5,000 rows without an itemID
    faults = faults_of(sheet_of(tmp_path, HEADER + "|t|seq|1\n" * 5000))
    # Then the first 1,000 are told, and how many more there are
    assert len(faults) == 1001
    assert faults[-1] == "… and 4000 more"


def test_memory_grows_by_the_ids_only_however_many_nests_there_are(tmp_path: Path) -> None:
    # Given a sheet of 10,000 items with 20 nests each, about 5 MB
    path = tmp_path / "big.txt"
    values = ",".join(f"chr{number}:100000000-200000000" for number in range(20))
    with path.open("w") as file:
        file.write(HEADER)
        file.writelines(f"HG{number:06d}|call|call.sh|{values}\n" for number in range(10_000))
    # When it is checked and walked through
    tracemalloc.start()
    sheet = read_sheet(path)
    last = 0
    for row in sheet.rows():
        last = row.line
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Then all are there, and at the worst moment an item cost less than 250 bytes
    assert (sheet.items, sheet.nests, last) == (10_000, 200_000, 10_001)
    assert peak < 10_000 * 250
