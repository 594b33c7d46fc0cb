"""How what a command returns is printed: for people (the default), as JSON (`--json`), or bare (`--quiet`).

A command returns plain data, or `Told` to add the next command to type, lines for `--quiet` and an exit code. How data
looks to people is told by `view`: a function of the data that gives something rich can print. Without one, a list of
records becomes a table and a record a list of its fields.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyanamo_core.words import span as span
from pyanamo_core.words import when as when

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PIPE_WIDTH = 4000
"""Columns of an output that is no terminal: tables are never cut there."""

FOLDED = frozenset({"item", "value", "message", "reason", "remark", "script", "holds", "host", "queue", "run"})
"""Columns of text, which may be folded on a narrow terminal."""

LEAST_TEXT = 12
"""Columns that the last column of a table keeps on a narrow terminal."""


@dataclass(frozen=True)
class Told:
    """What a command has to tell.

    Args:
        data: what `--json` prints: models, dataclasses, dicts, lists, text, numbers; None prints nothing.
        view: makes of `data` what people see (text or anything rich can print); None: a table or list of fields.
        quiet: the lines of `--quiet`, e.g. ids.
        next: the command to type next, shown to people on standard error.
        exit_code: docs/exit-codes.md.
    """

    data: Any = None
    view: Callable[[Any], RenderableType] | None = None
    quiet: Sequence[str] = ()
    next: str = ""
    exit_code: int = 0


def console(*, stderr: bool = False) -> Console:
    """A console on standard output or error; as wide as needed where that is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    made = Console(file=stream, highlight=False, emoji=False, soft_wrap=False)
    if not made.is_terminal:
        made = Console(file=stream, highlight=False, emoji=False, width=PIPE_WIDTH, no_color=True)
    return made


def show(told: Told, *, as_json: bool = False, quiet: bool = False) -> None:
    """Print what a command returned. Only people are told what to type next."""
    if as_json:
        if told.data is None:
            return
        sys.stdout.write(as_json_text(told.data) + "\n")
        sys.stdout.flush()
        return
    if quiet:
        for line in told.quiet:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
        return
    if told.data is not None:
        print_trimmed(told.view(told.data) if told.view else view(told.data))
    if told.next:
        sys.stdout.flush()
        sys.stderr.write(f"next: {told.next}\n")


def print_trimmed(what: RenderableType) -> None:
    """Print on standard output, without the blanks that rich puts at the ends of lines in a pipe."""
    if isinstance(what, str):
        # Not through rich, which would turn tabs into blanks: logs and ids are printed as they are.
        sys.stdout.write(what + "\n")
        sys.stdout.flush()
        return
    out = console()
    if out.is_terminal:
        out.print(what)
    else:
        with out.capture() as captured:
            out.print(what)
        sys.stdout.write("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))
        sys.stdout.flush()


def paragraph(text: str) -> RenderableType:
    """Prose: broken between words on a terminal, one line elsewhere, where a program may look for words in it."""
    from rich.text import Text

    return Text(text) if console().is_terminal else text


def as_json_text(data: Any) -> str:
    """JSON of models, dataclasses, enums, paths and what they hold, indented by two blanks."""
    from pydantic_core import to_jsonable_python

    return json.dumps(to_jsonable_python(data, fallback=str), indent=2, ensure_ascii=False)


def view(data: Any) -> RenderableType:
    """What people see when a command has no view of its own."""
    if isinstance(data, str | int | float):
        return str(data)
    if isinstance(data, list | tuple):
        rows = [fields_of(row) for row in data]
        if not rows:
            return "nothing"
        if not all(isinstance(row, Mapping) for row in rows):
            return "\n".join(str(row) for row in data)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return table(columns, [[cell(row.get(name)) for name in columns] for row in rows])
    known = fields_of(data)
    return fields(known) if isinstance(known, Mapping) else str(data)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> RenderableType:
    """A table without lines: header, then rows; columns named in `right` are flush right.

    On a narrow terminal the last column and those that hold text are folded first, numbers and times last.
    """
    from rich.table import Table
    from rich.text import Text

    flush_right = set(right)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in columns:
        made.add_column(
            Text(name),
            justify="right" if name in flush_right else "left",
            overflow="fold",
            no_wrap=name != columns[-1] and name not in FOLDED,
            min_width=LEAST_TEXT if name == columns[-1] and name else None,
        )
    for row in rows:
        made.add_row(*(value if isinstance(value, Text) else Text(cell(value)) for value in row))
    return made


def fields(known: Mapping[str, Any]) -> RenderableType:
    """Names and values of one record, a line each."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for name, value in known.items():
        made.add_row(Text(name), value if isinstance(value, Text) else Text(cell(value)))
    return made


def fields_of(record: Any) -> Any:
    """Fields of a model, dataclass or mapping by name; anything else as it is."""
    if hasattr(type(record), "model_fields"):
        return {name: getattr(record, name) for name in type(record).model_fields}
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    return record


def cell(value: Any) -> str:
    """One value in a table: nothing for None, blanks between several."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return " ".join(cell(one) for one in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={cell(one)}" for name, one in value.items())
    return str(value)


def short(name: str) -> str:
    """A UUID by its beginning, which commands take for the whole, also before a colon; any other name as it is."""
    head, colon, rest = name.partition(":")
    return head[:8] + colon + rest if _UUID.fullmatch(head) else name


def size(count: float | None) -> str:
    """A size in bytes as `512 B`, `1.5 KiB`, `3.2 GiB`; nothing for None."""
    if count is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return ""


def share(used_mb: int | None, limit_mb: int | None) -> str:
    """Memory in use and its limit (MB) as `512.0 MiB of 2.0 GiB`; what is not known is left out."""
    used = size(None if used_mb is None else used_mb << 20)
    return f"{used} of {size(limit_mb << 20)}" if used and limit_mb is not None else used
