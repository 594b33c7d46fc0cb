"""The sheet: the to-do file `itemID|TaskID|TaskScript|TaskArgs`, its faults with their lines, and how one is made.

A sheet is read twice: once to find every fault, once to import, so that memory stays bounded at any number of items
(an id costs 16 bytes and its place in a dict) and a faulty sheet imports nothing. A row is one line of UTF-8 text;
fields may stand in double quotes, in which a quote is written twice. Blanks around fields and values are dropped.
"""

from __future__ import annotations

import csv
import hashlib
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from pyanamo_core.errors import SheetInvalid
from pyanamo_core.model import MAX_ITEM_ID_BYTES, MAX_TASK_ID_BYTES, Definition, Value

COLUMNS: Final = ("itemID", "TaskID", "TaskScript", "TaskArgs")
REQUIRED: Final = COLUMNS[:3]
DELIMITERS: Final = ("|", "\t", ",", ";")
"""The field delimiters that are found by themselves."""

MAX_NESTS: Final = 100_000
"""A nest's row key has five digits."""

MAX_VALUE_BYTES: Final = 64 * 1024
"""A value is one argument of a program: Linux allows 128 KiB, of which the other half is left to the script's own."""

SHOWN_FAULTS: Final = 1000
"""So many faults are kept with their text; the others are counted."""

MAX_LINE_BYTES: Final = 64 * 2**20

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


class SheetRow(Value):
    """One item of a sheet."""

    item_id: str
    task_id: str
    definition: Definition
    line: int
    """Its line in the sheet, from 1."""


@dataclass(frozen=True)
class Sheet:
    """A sheet without faults. `rows` reads the file again.

    Args:
        path: the file.
        delimiter, nested_delimiter: between fields, and between the values of TaskArgs.
        items, nests: how many there are.
        scripts: distinct TaskScripts in the order of the file, the first 20.
        stamp: size and time of change of the file when it was checked.
    """

    path: Path
    delimiter: str
    nested_delimiter: str
    items: int
    nests: int
    scripts: tuple[str, ...]
    stamp: tuple[int, int]

    def rows(self) -> Iterator[SheetRow]:
        """The items in the order of the file.

        Raises:
            SheetInvalid: the file has changed since it was checked.
        """
        if _stamp(self.path) != self.stamp:
            raise _invalid(self.path, ["the file has changed since it was checked; try again"], 1)
        reader = _Reader(self.path, self.delimiter, self.nested_delimiter)
        yield from reader.rows()
        if reader.fault_count:
            raise _invalid(self.path, reader.faults, reader.fault_count)


def read_sheet(path: str | Path, *, delimiter: str | None = None, nested_delimiter: str = ",") -> Sheet:
    """Check a sheet, in bounded memory.

    Args:
        path: a file of UTF-8 text with a header.
        delimiter: between fields, one character; None finds `|`, tab, comma or `;` in the header.
        nested_delimiter: between the values of TaskArgs.

    Raises:
        SheetInvalid: every fault that was found, each with its line.
    """
    path = Path(path)
    try:
        stamp = _stamp(path)
    except OSError as error:
        raise _invalid(path, [f"cannot be read: {error.strerror}"], 1) from error
    reader = _Reader(path, delimiter, nested_delimiter)
    items = nests = 0
    scripts: dict[str, None] = {}
    for row in reader.rows():
        items += 1
        nests += row.definition.nests
        if len(scripts) < 20:
            scripts.setdefault(row.definition.script)
    if reader.fault_count:
        raise _invalid(path, reader.faults, reader.fault_count)
    return Sheet(path, reader.delimiter or "|", nested_delimiter, items, nests, tuple(scripts), stamp)


def _stamp(path: Path) -> tuple[int, int]:
    told = path.stat()
    return told.st_size, told.st_mtime_ns


def _invalid(path: Path, faults: Sequence[str], count: int) -> SheetInvalid:
    shown = list(faults)
    if count > len(shown):
        shown.append(f"… and {count - len(shown)} more")
    return SheetInvalid(path=path, count=count, faults="\n".join(f"  {fault}" for fault in shown))


class _Reader:
    """One pass over a sheet: yields rows without faults, and collects the faults."""

    def __init__(self, path: Path, delimiter: str | None, nested_delimiter: str) -> None:
        self.path = path
        self.delimiter = delimiter
        self.nested_delimiter = nested_delimiter
        self.faults: list[str] = []
        self.fault_count = 0
        self._columns: list[str] = []
        self._first_line_of: dict[bytes, int] = {}
        self._good_scripts: set[str] = set()

    def fault(self, line: int, text: str) -> None:
        self.fault_count += 1
        if len(self.faults) < SHOWN_FAULTS:
            self.faults.append(f"line {line}: {text}")

    def rows(self) -> Iterator[SheetRow]:
        if self.delimiter is not None and len(self.delimiter) != 1:
            self.fault(1, f"the delimiter {self.delimiter!r} is not one character")
            return
        if not self.nested_delimiter:
            self.fault(1, "the nested delimiter is empty")
            return
        found = False
        try:
            for line, text in self._lines():
                if not self._columns:
                    if not self._header(line, text):
                        return
                    continue
                found = True
                row = self._row(line, text)
                if row is not None:
                    yield row
        except OSError as error:
            self.fault(1, f"cannot be read: {error.strerror}")
            return
        if not self._columns and not self.fault_count:
            self.fault(1, f"the file is empty; its first line should be {'|'.join(COLUMNS)}")
        elif not found and not self.fault_count:
            self.fault(1, "there is a header, but no item")

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Lines that are not blank, with their number; a line that is not UTF-8 is a fault and left out."""
        with self.path.open("rb") as file:
            number = 0
            while raw := file.readline(MAX_LINE_BYTES):
                number += 1
                if number == 1:
                    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                        self.fault(1, "the file is UTF-16; save it as UTF-8")
                        return
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    text = raw.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    self.fault(number, f"byte {error.start + 1} (0x{raw[error.start]:02x}) is not UTF-8")
                    if number == 1:
                        return
                    continue
                if text.strip():
                    yield number, text

    def _header(self, line: int, text: str) -> bool:
        delimiter = self.delimiter or find_delimiter(text)
        if delimiter is None:
            self.fault(line, f"no header: the first line should be {'|'.join(COLUMNS)}, with | or tab or comma or ;")
            return False
        self.delimiter = delimiter
        names = self._fields(line, text)
        if names is None:
            return False
        for position, name in enumerate(names):
            if name not in COLUMNS:
                self.fault(line, f"unknown column {name!r}{_suggest(name)}")
            elif name in names[:position]:
                self.fault(line, f"column {name} stands twice")
        for name in REQUIRED:
            if name not in names:
                self.fault(line, f"column {name} is missing")
        self._columns = names
        return set(REQUIRED) <= set(names)

    def _fields(self, line: int, text: str) -> list[str] | None:
        """The fields of a line without the blanks around them; None (and a fault) where quotes do not match."""
        delimiter = self.delimiter or "|"
        if '"' not in text:
            return [field.strip() for field in text.split(delimiter)]
        try:
            [fields] = csv.reader([text], delimiter=delimiter, strict=True)
        except csv.Error:
            self.fault(line, 'unbalanced quotes: a quoted field ends with ", and a quote in it is written ""')
            return None
        return [field.strip() for field in fields]

    def _row(self, line: int, text: str) -> SheetRow | None:
        fields = self._fields(line, text)
        if fields is None:
            return None
        if len(fields) != len(self._columns):
            hint = ""
            if self.delimiter == self.nested_delimiter and len(fields) > len(self._columns):
                hint = f'; put TaskArgs in quotes, as they hold {self.delimiter!r} too: "8,2,1"'
            self.fault(line, f"{len(fields)} fields, but the header has {len(self._columns)}{hint}")
            return None
        before = self.fault_count
        named = dict(zip(self._columns, fields, strict=True))
        item_id, task_id, script = (named[name] for name in REQUIRED)
        self._check_id(line, "itemID", item_id, MAX_ITEM_ID_BYTES)
        self._check_id(line, "TaskID", task_id, MAX_TASK_ID_BYTES)
        if item_id:
            self._check_unique(line, item_id)
        self._check_script(line, script)
        arguments = self._arguments(line, named.get("TaskArgs", ""))
        for name, value in named.items():
            if not value.isprintable() and any(ord(sign) < 32 and sign != "\t" for sign in value):
                self.fault(line, f"{name} holds a control character")
        if self.fault_count > before:
            return None
        definition = Definition.model_construct(script=script, arguments=arguments)
        return SheetRow.model_construct(item_id=item_id, task_id=task_id, definition=definition, line=line)

    def _check_id(self, line: int, name: str, value: str, limit: int) -> None:
        if not value:
            self.fault(line, f"{name} is empty")
        elif value.startswith("!"):
            self.fault(line, f"{name} {value!r} starts with '!', which is reserved")
        elif (length := len(value.encode())) > limit:
            self.fault(line, f"{name} {value[:32]!r}… has {length} bytes; {limit} are allowed")

    def _check_unique(self, line: int, item_id: str) -> None:
        digest = hashlib.blake2b(item_id.encode(), digest_size=16).digest()
        first = self._first_line_of.setdefault(digest, line)
        if first != line:
            self.fault(line, f"itemID {item_id!r} stands already in line {first}")

    def _check_script(self, line: int, script: str) -> None:
        if not script:
            self.fault(line, "TaskScript is empty")
            return
        if script in self._good_scripts:
            return
        try:
            shlex.split(script)
        except ValueError as error:
            self.fault(line, f"TaskScript {script!r}: {str(error).lower()}")
            return
        if len(self._good_scripts) < 1000:
            self._good_scripts.add(script)

    def _arguments(self, line: int, text: str) -> tuple[str, ...]:
        if not text:
            return ()
        values = tuple(value.strip() for value in text.split(self.nested_delimiter))
        if len(values) > MAX_NESTS:
            self.fault(line, f"{len(values)} nests; {MAX_NESTS} are allowed")
        if len(set(values)) < len(values) or "" in values:
            first: dict[str, int] = {}
            for number, value in enumerate(values, start=1):
                if not value:
                    self.fault(line, f"nest {number} of {len(values)} is empty")
                elif first.setdefault(value, number) != number:
                    self.fault(line, f"nest {value!r} is repeated (values {first[value]} and {number})")
        if len(text) > MAX_VALUE_BYTES and any(len(value.encode()) > MAX_VALUE_BYTES for value in values):
            self.fault(line, f"a nest has more than {MAX_VALUE_BYTES} bytes")
        return values


def find_delimiter(header: str) -> str | None:
    """The delimiter with which most of a header's fields are columns of a sheet; None if no two are."""
    names = {name.lower() for name in COLUMNS}

    def known(delimiter: str) -> int:
        return sum(field.strip().strip('"').strip().lower() in names for field in header.split(delimiter))

    best = max(DELIMITERS, key=known)
    return best if known(best) >= 2 else None


def _suggest(name: str) -> str:
    close = {known.lower(): known for known in COLUMNS}
    near = get_close_matches(name.lower(), close, n=1, cutoff=0.6)
    return f"; did you mean {close[near[0]]}?" if near else f"; known are {', '.join(COLUMNS)}"


# ---------------------------------------------------------------------------------------------------- making one


def write_sheet(
    path: str | Path,
    rows: Iterable[tuple[str, str, str, Sequence[str]]],
    *,
    delimiter: str = "|",
    nested_delimiter: str = ",",
) -> Sheet:
    """Write a sheet, put in place only when it is whole and has no faults.

    Args:
        rows: itemID, TaskID, TaskScript and the values of TaskArgs (none: one nest without a value).

    Raises:
        SheetInvalid: what was given makes no sheet; the line numbers are those it would have had.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
            writer.writerow(COLUMNS)
            for line, (item_id, task_id, script, values) in enumerate(rows, start=2):
                for value in values:
                    if nested_delimiter in value:
                        fault = f"line {line}: value {value!r} holds the nested delimiter {nested_delimiter!r}"
                        raise _invalid(path, [f"{fault}; choose another one"], 1)
                writer.writerow((item_id, task_id, script, nested_delimiter.join(values)))
        try:
            made = read_sheet(draft, delimiter=delimiter, nested_delimiter=nested_delimiter)
        except SheetInvalid as error:
            raise SheetInvalid(path=path, count=error.facts["count"], faults=error.facts["faults"]) from None
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return Sheet(path, made.delimiter, nested_delimiter, made.items, made.nests, made.scripts, _stamp(path))
