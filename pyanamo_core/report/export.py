"""Results as a file for other programs: TSV, CSV or JSON, in bounded memory.

The columns of figures are known only when every row has been seen, so rows are spooled to a temporary file first.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import IO, Any

from pyanamo_core.report.figures import tabular, text
from pyanamo_core.report.results import Result

COLUMNS = (
    "item",
    "task",
    "nest",
    "value",
    "item_state",
    "status",
    "exit_code",
    "cause",
    "message",
    "started",
    "ended",
    "seconds",
    "cpu_seconds",
    "peak_memory_mb",
    "epoch",
    "attempt",
    "revision",
    "run",
    "pilot",
    "outputs",
    "tags",
)
"""Columns of every export; each figure follows in a column of its own, `figures.<name>`, in alphabetical order."""

_SPOOL_BYTES = 8 * 2**20


class Format(StrEnum):
    """How a table of results is written."""

    TSV = "tsv"
    CSV = "csv"
    JSON = "json"


def export(rows: Iterable[Result], stream: IO[str], form: Format | str = Format.TSV) -> int:
    """Write results to a text stream (opened with newline="").

    In TSV and CSV lists are joined by `;`, times are ISO 8601 in UTC, unknown values are empty; in TSV a tab or a line
    break inside a value becomes a space, so that `cut` and `awk` see the columns. JSON keeps lists and nested figures.

    Returns:
        The number of rows written.
    """
    form = Format(form)
    if form is Format.JSON:
        return _write_json(map(record, rows), stream)
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+", encoding="utf-8", newline="\n") as spool:
        names: set[str] = set()
        for row in rows:
            line = flat(row)
            names.update(line)
            spool.write(json.dumps(line, ensure_ascii=False) + "\n")
        spool.seek(0)
        columns = [*COLUMNS, *sorted(names.difference(COLUMNS))]
        return _write_table(_spooled(spool), columns, stream, form)


def record(row: Result) -> dict[str, Any]:
    """A row as JSON shows it: every column of COLUMNS, lists as lists, and `figures` as an object."""
    return {
        "item": row.item_id,
        "task": row.task_id,
        "nest": row.nest,
        "value": row.value,
        "item_state": row.item_state.value,
        "status": row.status,
        "exit_code": row.exit_code,
        "cause": row.cause,
        "message": row.message,
        "started": iso(row.started),
        "ended": iso(row.ended),
        "seconds": None if row.seconds is None else round(row.seconds, 3),
        "cpu_seconds": None if row.cpu_seconds is None else round(row.cpu_seconds, 3),
        "peak_memory_mb": None if row.peak_memory_mb is None else round(row.peak_memory_mb, 1),
        "epoch": row.epoch,
        "attempt": row.fence,
        "revision": row.revision,
        "run": row.run_id,
        "pilot": row.pilot_id,
        "outputs": [one.uri for one in row.outputs],
        "tags": list(row.tags),
        "figures": row.figures,
    }


def flat(row: Result) -> dict[str, Any]:
    """A row as TSV and CSV show it: lists joined, each figure in a column of its own."""
    told = record(row)
    figures = told.pop("figures")
    told["outputs"] = ";".join(told["outputs"])
    told["tags"] = ";".join(told["tags"])
    return told | {f"figures.{name}": value for name, value in tabular(figures).items()}


def iso(seconds: float | None) -> str | None:
    """A time as ISO 8601 in UTC with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _spooled(spool: IO[str]) -> Iterator[dict[str, Any]]:
    for line in spool:
        yield json.loads(line)


def write_rows(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], stream: IO[str], form: Format | str = Format.TSV
) -> int:
    """Write rows that are at hand one by one, with the columns that are told, as `export` does; returns their number."""
    form = Format(form)
    if form is not Format.JSON:
        return _write_table(rows, columns, stream, form)
    return _write_json(rows, stream)


def _write_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], stream: IO[str], form: Format) -> int:
    count = 0
    if form is Format.CSV:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([text(row.get(name)) for name in columns])
            count += 1
        return count
    stream.write("\t".join(columns) + "\n")
    for row in rows:
        stream.write("\t".join(_one_line(text(row.get(name))) for name in columns) + "\n")
        count += 1
    return count


_SPACES = str.maketrans(dict.fromkeys("\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029", " "))


def _one_line(cell: str) -> str:
    return cell.translate(_SPACES)


def _write_json(rows: Iterable[Mapping[str, Any]], stream: IO[str]) -> int:
    count = 0
    stream.write("[")
    for count, row in enumerate(rows, 1):
        stream.write(("\n" if count == 1 else ",\n") + json.dumps(row, ensure_ascii=False))
    stream.write("\n]\n" if count else "]\n")
    return count
