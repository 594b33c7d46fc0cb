"""`pyanamo sheet …`: make, check and import the to-do list."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.context import Context, command
from pyanamo.progress import Bar
from pyanamo.render import Told, fields
from pyanamo_core.errors import BadInput, NotFound, Refused
from pyanamo_core.sheet import Sheet, find_delimiter, read_sheet, write_sheet

if TYPE_CHECKING:
    from pyanamo_core.protocols import Ledger

ID_COLUMNS = ("itemID", "item", "sample", "id")
"""Columns of a table of items that may hold the itemID, the first that is there."""

CALL = "HaplotypeCaller-1KG.sh {argument}"
CALL_WITH_SEX = "HaplotypeCaller-1KG.sh --sex {sex} {argument}"
"""TaskScripts for a table of `samples list`, where none is given: each names its reads, so that pilots list no bucket."""

_COLUMN = re.compile(r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FILE_ENDINGS = (".txt", ".tsv", ".csv", ".json", ".list")

DELIMITER = Annotated[
    str | None,
    typer.Option("--delimiter", metavar="SIGN", help="Between fields; default: found in the header. 'tab' is a tab."),
]
YES_UPDATE = Annotated[
    bool, typer.Option("--yes", "-y", help="With --update: do not ask before done nests are done again.")
]
NESTED = Annotated[str, typer.Option("--nested-delimiter", metavar="SIGN", help="Between the values of TaskArgs.")]


class ListMissing(BadInput):
    """There is no file {name}. A list is given as A,B,C."""


class ListInvalid(BadInput):
    """{name}: {reason}."""


class ScriptMissing(BadInput):
    """There is no --script, and {items} is no table of `pyanamo samples list`, whose samples are called by HaplotypeCaller-1KG.sh. Give --script."""


class SheetThere(Refused):
    """{path} exists; nothing was written. Give --force to replace it."""


@dataclass(frozen=True)
class SheetTold:
    """What is in a sheet."""

    path: Path
    items: int
    nests: int
    delimiter: str
    nested_delimiter: str
    scripts: tuple[str, ...]


@command(
    example=(
        "pyanamo sheet make --samples samples.tsv --loci loci.txt",
        "pyanamo sheet make --items samples.tsv --script 'HaplotypeCaller-1KG.sh {sample}' --args loci.txt",
        "pyanamo sheet make --items A,B,C --script 'count.sh' --args 3,5,8 --out sheet.txt",
    )
)
def make(
    context: Context,
    items: Annotated[
        str,
        typer.Option(
            "--items", "--samples", metavar="FILE|LIST", help="A line per item, a table with a header, or A,B,C."
        ),
    ],
    script: Annotated[
        str | None,
        typer.Option(
            "--script",
            help="The TaskScript; {column} stands for a column of a table of items. Default, for a table of `samples"
            " list`: HaplotypeCaller-1KG.sh with each sample's reads, index and sex.",
        ),
    ] = None,
    arguments: Annotated[
        str | None,
        typer.Option(
            "--args",
            "--loci",
            metavar="FILE|LIST",
            help="The nests of each item: a line each, a table with a column locus, or A,B,C.",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="The TaskID; default: the script's name.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The sheet; - is standard output.")] = Path("sheet.txt"),
    delimiter: DELIMITER = None,
    nested_delimiter: NESTED = ",",
    force: Annotated[bool, typer.Option("--force", help="Replace a sheet that exists.")] = False,
) -> Told:
    """Make a sheet: every item with the same nests."""
    if str(out) != "-" and out.exists() and not force:
        raise SheetThere(path=out)
    values = tuple(read_list(arguments)) if arguments else ()
    told = script or _call_of(items)
    task_id = task or task_of(told)
    rows = ((item_id, task_id, filled(told, record), values) for item_id, record in read_items(items))
    sign = sign_of(delimiter) or "|"
    nested = sign_of(nested_delimiter) or ","
    if str(out) == "-":
        with tempfile.TemporaryDirectory() as folder:
            written = write_sheet(Path(folder) / "sheet", rows, delimiter=sign, nested_delimiter=nested)
            with written.path.open(encoding="utf-8") as file:
                shutil.copyfileobj(file, sys.stdout)
        return Told()
    written = _told(write_sheet(out, rows, delimiter=sign, nested_delimiter=nested))
    return Told(written, view=_view, quiet=[str(out)], next=f"pyanamo sheet import {out}")


@command(example=("pyanamo sheet check sheet.txt", "pyanamo sheet check sheet.csv --nested-delimiter ';'"))
def check(
    context: Context,
    sheet: Annotated[Path, typer.Argument(metavar="SHEET")],
    delimiter: DELIMITER = None,
    nested_delimiter: NESTED = ",",
) -> Told:
    """Check a sheet; all its faults are told at once, with their lines."""
    found = read_sheet(sheet, delimiter=sign_of(delimiter), nested_delimiter=sign_of(nested_delimiter) or ",")
    return Told(_told(found), view=_view, next=f"pyanamo sheet import {sheet}")


@command(example=("pyanamo sheet import sheet.txt", "pyanamo sheet import sheet.txt --table Count --update"))
def import_(
    context: Context,
    sheet: Annotated[Path, typer.Argument(metavar="SHEET")],
    delimiter: DELIMITER = None,
    nested_delimiter: NESTED = ",",
    update: Annotated[
        bool, typer.Option("--update", help="Edit items that stand in the table with another definition.")
    ] = False,
    priority: Annotated[int, typer.Option("--priority", min=0, max=9, help="0 is first, 9 is last.")] = 5,
    yes: YES_UPDATE = False,
) -> Told:
    """Import a sheet. The same sheet again changes nothing; an import that was interrupted completes.

    An item that is edited begins from nothing. Where nests of it are done, --update asks first.
    """
    from pyanamo.cohort import cohort_words
    from pyanamo_core.importer import import_sheet

    found = read_sheet(sheet, delimiter=sign_of(delimiter), nested_delimiter=sign_of(nested_delimiter) or ",")
    opened = context.opened
    if update:
        confirm_losses(context, opened.ledger, found, yes=yes)
    try:
        with Bar(context, "import") as bar:
            report = import_sheet(
                opened.ledger,
                found,
                update=update,
                progress=bar.update,
                priority=priority,
                revision=opened.workflow.revision,
            )
    except KeyboardInterrupt:
        context.say("stopped; what was imported stays, and the same command again imports the rest")
        raise
    return Told(
        report,
        view=import_view,
        quiet=[conflict.item_id for conflict in report.shown_conflicts],
        next="pyanamo items list"
        if report.conflicts
        else cohort_words(opened.ledger, context.table_name, "run") or "pyanamo run",
        exit_code=Refused.exit_code if report.conflicts else 0,
    )


def confirm_losses(context: Context, ledger: Ledger, sheet: Sheet, *, yes: bool) -> None:
    """Ask before an import with --update makes done nests to be done again. Raises NotConfirmed; nothing was changed."""
    from pyanamo_core.importer import losses

    if yes:
        return
    lost = losses(ledger, sheet)
    if lost.items:
        whose = f"{lost.items:,} items (e.g. {lost.example})" if lost.items > 1 else f"item {lost.example}"
        nests = "a done nest" if lost.nests == 1 else f"{lost.nests:,} done nests"
        context.confirm(
            f"Edit {whose} of table {ledger.table}; {nests} of {'these' if lost.items > 1 else 'it'} no longer count"
            " and are done again (nests are only added by: pyanamo items extend)",
            yes=False,
        )


def confirm_losses_of(context: Context, table: str, sheet: Path, *, yes: bool) -> None:
    """The same for a sheet that a run imports; a table that is not there yet has nothing to lose. Raises NotConfirmed."""
    from pyanamo_core.ledger import open_ledger

    try:
        ledger = open_ledger(context.clients, table)[0]
    except NotFound:
        return
    confirm_losses(context, ledger, read_sheet(sheet), yes=yes)


def import_view(report: Any) -> str:
    """What an import did, and the first conflicts."""
    counts = {
        "new": report.created,
        "already there": report.exists,
        "edited": report.edited,
        "in conflict and left as they are": report.conflicts,
    }
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    lines = [f"{report.total:,} items: {told}" if told else "no items"]
    lines += [f"  line {one.line}: {one.item_id}: {one.reason}" for one in report.shown_conflicts[:20]]
    if report.conflicts > 20:
        lines.append(f"  … and {report.conflicts - 20:,} more (all with --json)")
    if any("another TaskScript" in one.reason for one in report.shown_conflicts):
        lines.append("  Give --update to edit items that nobody works on.")
    return "\n".join(lines)


def _call_of(items: str) -> str:
    """The TaskScript that calls the samples of a table; with their sex where the table tells one."""
    columns, sexes = set[str](), False
    for _, record in read_items(items):
        columns.update(record)
        sexes = sexes or record.get("sex", "") in {"male", "female"}
    if "argument" not in columns:
        raise ScriptMissing(items=items)
    return CALL_WITH_SEX if sexes else CALL


def _told(sheet: Sheet) -> SheetTold:
    return SheetTold(sheet.path, sheet.items, sheet.nests, sheet.delimiter, sheet.nested_delimiter, sheet.scripts)


def _view(told: SheetTold) -> Any:
    def sign(told: str) -> str:
        return "tab" if told == "\t" else f"'{told}'"

    return fields(
        {
            "sheet": told.path,
            "items": f"{told.items:,}",
            "nests": f"{told.nests:,}",
            "delimiters": f"{sign(told.delimiter)} between fields, {sign(told.nested_delimiter)} between nests",
            "scripts": "\n".join(told.scripts[:10]) + ("\n…" if len(told.scripts) > 10 else ""),
        }
    )


# ---------------------------------------------------------------------------------------------------- lists


def sign_of(told: str | None) -> str | None:
    """A delimiter as typed: `tab` and `\\t` are a tab."""
    return "\t" if told in {"tab", "TAB", "\\t"} else told


def task_of(script: str) -> str:
    """A TaskID from a TaskScript: the name of its program without folder and ending, at most 64 bytes."""
    first = script.split()[0] if script.split() else "task"
    return (Path(first).stem or "task").encode()[:64].decode(errors="ignore")


def filled(script: str, record: Mapping[str, str]) -> str:
    """A TaskScript with `{column}` replaced; `${NAME}` is the pilot's business. Raises ListInvalid for an unknown column."""

    def value(match: re.Match[str]) -> str:
        if match.group(1) not in record:
            known = ", ".join(record)
            raise ListInvalid(name="--script", reason=f"there is no column {match.group(1)!r}; there are: {known}")
        return record[match.group(1)]

    return _COLUMN.sub(value, script)


def read_list(told: str) -> Iterator[str]:
    """Values from `A,B,C`, or from a file: one a line, or a table's column `locus` (or value).

    Raises:
        ListMissing: no such file. LociUnreadable: a BED file, or a table without such a column.
    """
    path = _file_of(told)
    if path is None:
        yield from (one.strip() for one in told.split(","))
        return
    from pyanamo_core.genomics.loci_file import read_values

    yield from (value for _, value in read_values(path))


def read_items(told: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Items with what is known of each: from `A,B,C`, a file with one a line, a table with a header, or JSON records.

    Raises:
        ListMissing, ListInvalid: no such file; no column that could hold the itemID.
    """
    path = _file_of(told)
    if path is None:
        yield from ((one.strip(), {"item": one.strip()}) for one in told.split(","))
        return
    if path.suffix == ".json":
        yield from _json_items(path)
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline().rstrip("\r\n")
        delimiter = _table_delimiter(header)
        if delimiter is None:
            file.seek(0)
            for line in file:
                value = line.strip()
                if value and not value.startswith("#"):
                    yield value, {"item": value}
            return
        names = [name.strip().lstrip("#") for name in header.split(delimiter)]
        column = id_column(names, path)
        for record in csv.reader(file, delimiter=delimiter):
            if record:
                known = dict(zip(names, record, strict=False))
                yield known.get(column, "").strip(), {"item": known.get(column, "").strip(), **known}


def _json_items(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    try:
        told: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ListInvalid(name=path, reason=f"no valid JSON: {error}") from None
    for one in told if isinstance(told, list) else []:
        if isinstance(one, str):
            yield one, {"item": one}
            continue
        known = {str(name): "" if value is None else str(value) for name, value in one.items()}
        name = known[id_column(list(known), path)]
        yield name, {"item": name, **known}


def id_column(names: Sequence[str], path: Path) -> str:
    """The column that holds the itemID. Raises ListInvalid if none does."""
    for wanted in ID_COLUMNS:
        for name in names:
            if name.lower() == wanted.lower():
                return name
    raise ListInvalid(name=path, reason=f"none of its columns ({', '.join(names)}) is one of {', '.join(ID_COLUMNS)}")


def _table_delimiter(header: str) -> str | None:
    """The delimiter of a table with a header; None for a plain list."""
    if sheetlike := find_delimiter(header):
        return sheetlike
    return next((sign for sign in ("\t", "|", ",", ";") if sign in header), None)


def _file_of(told: str) -> Path | None:
    """The file that is meant, or None for a list. Raises ListMissing for what looks like a file and is none."""
    path = Path(told)
    try:
        if path.is_file():
            return path
    except OSError:
        return None
    if not told.startswith("@") and (told.lower().endswith(_FILE_ENDINGS) or told.startswith(("/", "./", "../", "~"))):
        raise ListMissing(name=told)
    return None
