"""Outputs of done nests as Parquet: a row for each object, for pandas, DuckDB, Athena and the like."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from pyanamo_core.errors import ExtraMissing
from pyanamo_core.model import NestStatus
from pyanamo_core.report.results import Result

COLUMNS: Final = (
    ("sample", "string"),
    ("item", "string"),
    ("nest", "int32"),
    ("locus", "string"),
    ("attempt", "int64"),
    ("revision", "string"),
    ("uri", "string"),
    ("size", "int64"),
    ("sha256", "string"),
)
"""Name and type. `sample` is what the script told, else the item; `size` is bytes; `sha256` is null where none is recorded."""

GROUP_ROWS: Final = 50_000
"""So many rows are held in memory."""


def write_parquet(rows: Iterable[Result], path: Path) -> int:
    """Write a row for each output of each done nest, zstd-compressed; returns how many.

    The file appears when it is whole.

    Raises:
        ExtraMissing: pyarrow is not installed.
    """
    pyarrow, parquet = _require()
    schema = pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS])
    part = path.with_name(f".{path.name}.part")
    count, todo = 0, _records(rows)
    try:
        with parquet.ParquetWriter(str(part), schema, compression="zstd") as writer:
            while batch := list(islice(todo, GROUP_ROWS)):
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
                count += len(batch)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _require() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ExtraMissing(what="Writing Parquet", extra="parquet") from error


def _records(rows: Iterable[Result]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row.status != NestStatus.DONE:
            continue
        sample = str(row.figures.get("sample") or row.item_id)
        for output in row.outputs:
            yield {
                "sample": sample,
                "item": row.item_id,
                "nest": row.nest,
                "locus": row.value,
                "attempt": row.fence or 0,
                "revision": row.revision,
                "uri": output.uri,
                "size": output.bytes,
                "sha256": output.sha256 or None,
            }
