"""`pyanamo rehearse`: a task script over a few items or values on this machine, exactly as a pilot would run it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands.sheet import DELIMITER, NESTED, read_list, sign_of, task_of
from pyanamo.context import Context, command
from pyanamo.render import Told, span, table
from pyanamo_core.errors import ItemMissing, NestMissing, PyAnamoError
from pyanamo_core.model import Cause, Definition
from pyanamo_core.settings import WORKFLOW_FILE
from pyanamo_core.sheet import Sheet, read_sheet

if TYPE_CHECKING:
    from pyanamo_core.model import NestCall, NestResult
    from pyanamo_core.pilot.rehearse import RehearsedNest
    from pyanamo_core.workflow import Workflow

NOT_DONE = 7
"""Exit code when a nest was not done, as of a run with failed items."""


class NothingToRehearse(PyAnamoError):
    """Give either a sheet, or --script with --args, not {what}."""

    exit_code = 2


@dataclass(frozen=True)
class Rehearsed:
    """A nest that was run here; seconds, MB."""

    item_id: str
    nest: int
    value: str
    outcome: str
    exit_code: int | None
    seconds: float
    cpu_seconds: float
    peak_memory_mb: float
    outputs: list[str]
    message: str
    log: str


@dataclass(frozen=True)
class Rehearsal:
    """All nests that were run here, and what the whole sheet would take at their pace."""

    nests: list[Rehearsed]
    sheet_nests: int | None = None
    sheet_cpu_hours: float | None = None


@command(
    example=(
        "pyanamo rehearse sheet.txt --items 1 --nests 2",
        "pyanamo rehearse sheet.txt --item NA12878 --nest chr21:31659566-31669931",
        "pyanamo rehearse --script 'count.sh --label x' --args 3,5,8",
    )
)
def rehearse(
    context: Context,
    sheet: Annotated[Path | None, typer.Argument(metavar="[SHEET]", help="The sheet.")] = None,
    item: Annotated[list[str] | None, typer.Option("--item", help="This item (may be repeated).")] = None,
    nest: Annotated[
        list[str] | None, typer.Option("--nest", help="This nest, by value or number (may be repeated).")
    ] = None,
    items: Annotated[int, typer.Option("--items", min=1, help="Without --item: the first so many items.")] = 1,
    nests: Annotated[int, typer.Option("--nests", min=1, help="Without --nest: the first so many of each item.")] = 1,
    script: Annotated[str | None, typer.Option("--script", help="Without a sheet: the TaskScript.")] = None,
    arguments: Annotated[
        str | None, typer.Option("--args", "--loci", metavar="FILE|LIST", help="Without a sheet: its values.")
    ] = None,
    workflow: Annotated[
        Path | None, typer.Option("--workflow", help="Workflow file; default: workflow.yaml, else the table's.")
    ] = None,
    results: Annotated[
        str | None, typer.Option("--results", help="s3://bucket/prefix or a folder, instead of the workflow's.")
    ] = None,
    slots: Annotated[int | None, typer.Option("--slots", min=1, help="Nests at a time; default: a pilot's.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Where work directories and logs lie; default: a temporary one.")
    ] = None,
    delimiter: DELIMITER = None,
    nested_delimiter: NESTED = ",",
) -> Told:
    """Run a few nests on this machine as a pilot would: same environment, limits and checks, but no ledger."""
    from pyanamo_core.pilot.rehearse import rehearse as run_here

    if (sheet is None) == (script is None):
        raise NothingToRehearse(what="both" if sheet else "neither")
    found = (
        read_sheet(sheet, delimiter=sign_of(delimiter), nested_delimiter=sign_of(nested_delimiter) or ",")
        if sheet
        else None
    )
    chosen = list(_of_sheet(found, item, nest, items, nests) if found else _of_script(script or "", arguments, item))
    plan = _workflow(context, workflow)
    where = folder or Path(tempfile.mkdtemp(prefix="pyanamo-rehearsal-"))
    if results and not results.startswith("s3://"):
        results = str(Path(results).resolve())

    def tell(what: str, call: NestCall, result: NestResult | None) -> None:
        if result is None:
            context.say(f"{what} {_named(call)}")
        else:
            context.say(f"{result.cause.value} {_named(call)} after {span(result.ended - result.started)}")

    ran = run_here(
        plan, chosen, clients=context.clients, folder=where.resolve(), slots=slots, results=results or "", on_event=tell
    )
    told = _rehearsal([_told(one) for one in ran], found)
    good = all(one.outcome == Cause.DONE for one in told.nests)
    return Told(
        told,
        view=_view,
        quiet=[one.outcome for one in told.nests],
        next=_next(context, workflow, sheet)
        if good
        else f"less {next(one.log for one in told.nests if one.outcome != Cause.DONE)}",
        exit_code=0 if good else NOT_DONE,
    )


def _workflow(context: Context, file: Path | None) -> Workflow:
    """The workflow file that is named or lies here; else the one that the table holds."""
    from pyanamo_core.workflow_file import read_workflow

    here = context.folder / WORKFLOW_FILE
    if file is not None or here.exists():
        return read_workflow(file or here)
    return context.workflow


def _of_sheet(
    sheet: Sheet, wanted: list[str] | None, nests: list[str] | None, first: int, first_nests: int
) -> Iterator[tuple[str, str, Definition]]:
    """Items and nests of a sheet: those that are named, or the first ones."""
    from pyanamo.addressing import find_nests

    open_names = set(wanted or ())
    rows = (row for row in sheet.rows() if row.item_id in open_names) if wanted else islice(sheet.rows(), first)
    for row in rows:
        open_names.discard(row.item_id)
        values = row.definition.arguments
        if nests:
            numbers = find_nests(row.item_id, row.definition, nests)
            values = tuple(values[number] for number in numbers) if values else ()
        else:
            values = values[:first_nests]
        yield row.item_id, row.task_id, Definition(script=row.definition.script, arguments=values)
    if open_names:
        raise ItemMissing(
            "The sheet {sheet} has no item {item_id}", sheet=sheet.path, item_id=", ".join(sorted(open_names))
        )


def _of_script(script: str, arguments: str | None, items: list[str] | None) -> Iterator[tuple[str, str, Definition]]:
    values = tuple(read_list(arguments)) if arguments else ()
    if "" in values:
        raise NestMissing("--args has an empty value")
    for item in items or ["rehearsal"]:
        yield item, task_of(script), Definition(script=script, arguments=values)


def _named(call: NestCall) -> str:
    return f"{call.item_id} {call.value}".strip()


def _told(one: RehearsedNest) -> Rehearsed:
    result = one.result
    return Rehearsed(
        item_id=one.call.item_id,
        nest=one.call.index,
        value=one.call.value,
        outcome=result.cause,
        exit_code=result.exit_code,
        seconds=round(result.ended - result.started, 3),
        cpu_seconds=round(result.cpu_seconds, 3),
        peak_memory_mb=round(result.peak_memory_mb, 1),
        outputs=[output.uri for output in result.outputs],
        message=result.message,
        log=one.log,
    )


def _rehearsal(ran: list[Rehearsed], sheet: Sheet | None) -> Rehearsal:
    good = [one for one in ran if one.outcome == Cause.DONE]
    if sheet is None or not good:
        return Rehearsal(ran)
    hours = sheet.nests * sum(one.cpu_seconds for one in good) / len(good) / 3600
    return Rehearsal(ran, sheet.nests, round(hours, 4))


def _next(context: Context, workflow: Path | None, sheet: Path | None) -> str:
    if sheet is None:
        return "pyanamo sheet make --items FILE --script SCRIPT --args FILE"
    if context.settings.source("table").startswith("workflow version"):
        return f"pyanamo sheet import {sheet}"
    return f"pyanamo workflow create {workflow or WORKFLOW_FILE}"


def _view(told: Rehearsal) -> Any:
    from rich.console import Group

    lines = [
        [
            one.item_id,
            one.value,
            one.outcome,
            one.exit_code,
            span(one.seconds),
            span(one.cpu_seconds),
            f"{one.peak_memory_mb:.0f} MB",
            len(one.outputs),
            one.log if one.outcome == Cause.DONE else one.message,
        ]
        for one in told.nests
    ]
    columns = ["item", "value", "outcome", "exit", "took", "CPU", "memory", "outputs", "log or reason"]
    parts: list[Any] = [table(columns, lines, right=["exit", "took", "CPU", "memory", "outputs"])]
    for one in told.nests:
        if one.outcome != Cause.DONE and one.log:
            parts += ["", f"the end of {one.log}:", _tail(Path(one.log))]
    if told.sheet_cpu_hours is not None:
        hours = told.sheet_cpu_hours
        parts.append(f"at this pace the sheet's {told.sheet_nests:,} nests take {span(hours * 3600)} of CPU time")
    return Group(*parts)


def _tail(path: Path, lines: int = 12) -> Any:
    from rich.text import Text

    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            text = file.read().decode(errors="replace")
    except OSError as error:
        text = str(error)
    return Text("\n".join(f"  {line}" for line in text.splitlines()[-lines:]))
