"""`pyanamo workflow …`: a workflow's table and the versions of its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told, fields, table
from pyanamo_core.errors import BadInput, NotFound, PyAnamoError, Refused, WorkflowMissing
from pyanamo_core.settings import WORKFLOW_FILE
from pyanamo_core.workflow import Workflow

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.revision import Affected


class TagInvalid(BadInput):
    """The tag {tag!r} is not NAME=VALUE."""


class RunsLive(Refused):
    """Table {table} has live runs ({runs}); nothing was {what}. Cancel them first: pyanamo runs cancel RUN"""


@dataclass(frozen=True)
class Created:
    """A workflow in its table."""

    table: str
    created: bool
    workflow: str
    version: int
    revision: str


@dataclass(frozen=True)
class Version:
    """One stored version."""

    version: int
    revision: str
    workflow: Workflow


@dataclass(frozen=True)
class Listed:
    """A workflow found in this region."""

    table: str
    workflow: str
    version: int
    queue: str
    job_definition: str
    items: int
    done: int
    failed: int


@command(example=("pyanamo workflow create workflow.yaml", "pyanamo workflow create workflow.yaml --new-revision"))
def create(
    context: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The workflow file.")] = Path(WORKFLOW_FILE),
    protect: Annotated[
        bool, typer.Option("--protect/--no-protect", help="Deletion protection of a table that is made now.")
    ] = True,
    pitr: Annotated[
        bool, typer.Option("--pitr/--no-pitr", help="Point-in-time recovery of a table that is made now.")
    ] = True,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="A tag of a table that is made now.")
    ] = None,
    new_revision: Annotated[
        bool,
        typer.Option(
            "--new-revision", help="Do nests again that were done with other parameters, scripts or references."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --new-revision: do not ask.")] = False,
) -> Told:
    """Make the workflow's table, and store the workflow file in it as a version that never changes."""
    from pyanamo_core import driver
    from pyanamo_core.ledger import Ledger
    from pyanamo_core.workflow_file import read_workflow

    workflow = read_workflow(file)
    if context.table:
        workflow = workflow.model_copy(update={"table": context.table})
    tags = tags_of(tag or ())
    again = _to_do_again(context, workflow, yes=yes) if new_revision else []
    done = driver.provision(
        context.clients, workflow, deletion_protection=protect, pitr=pitr, tags=tags, new_revision=new_revision
    )
    if again:
        from pyanamo_core.revision import do_again

        context.say(
            f"{do_again(Ledger(context.clients, done.table, rules=workflow.rules), again):,} items are to do again"
        )
    told = Created(done.table, done.created, workflow.name, done.version, workflow.revision)
    return Told(
        told,
        view=lambda one: (
            f"{'made' if one.created else 'found'} table {one.table}; "
            f"its workflow {one.workflow} is version {one.version}, revision {one.revision}"
        ),
        quiet=[done.table],
        next="pyanamo sheet import sheet.txt"
        + (f" --table {done.table}" if done.table != context.settings.table else ""),
    )


def _to_do_again(context: Context, workflow: Workflow, *, yes: bool) -> list[Affected]:
    """Items with done nests of another revision than the file's, after their count was shown and confirmed.

    Raises:
        RunsLive: pilots work on the table.
        NotConfirmed: nothing was changed.
    """
    from pyanamo_core.ledger import open_ledger
    from pyanamo_core.revision import affected

    try:
        ledger, _, _ = open_ledger(context.clients, workflow.table_name)
    except NotFound:
        return []
    if live := ledger.live_runs():
        raise RunsLive(table=workflow.table_name, what="changed", runs=", ".join(run.run_id for run in live))
    found = list(affected(ledger, workflow.revision))
    if found:
        nests = sum(len(one.nests) for one in found)
        context.confirm(
            f"Do {nests:,} done nests of {len(found):,} items again, as they are of another revision", yes=yes
        )
    return found


def tags_of(told: Sequence[str]) -> dict[str, str]:
    """Tags from `NAME=VALUE`. Raises TagInvalid."""
    tags: dict[str, str] = {}
    for one in told:
        name, sign, value = one.partition("=")
        if not name or not sign:
            raise TagInvalid(tag=one)
        tags[name] = value
    return tags


@command(example=("pyanamo workflow show", "pyanamo workflow show --version 2 --json"))
def show(
    context: Context,
    version: Annotated[int | None, typer.Option("--version", min=1, help="Default: the newest.")] = None,
    versions: Annotated[bool, typer.Option("--versions", help="List all versions.")] = False,
) -> Told:
    """Show the workflow as it is stored in the table."""
    ledger = context.ledger
    if versions:
        found = [Version(number, one.revision, one) for number, one in ledger.workflow_versions()]
        return Told(found, view=_versions_view, quiet=[str(one.version) for one in found], next="pyanamo runs list")
    number, workflow = ledger.workflow(version) if version else (context.opened.version, context.workflow)
    told = Version(number, workflow.revision, workflow)
    return Told(told, view=_show_view, quiet=[str(number)], next="pyanamo status")


def _show_view(told: Version) -> RenderableType:
    return fields({"version": told.version, "revision": told.revision, **flat(told.workflow.model_dump())})


def _versions_view(found: list[Version]) -> RenderableType:
    rows = [
        [one.version, one.revision, one.workflow.pilots, one.workflow.items, one.workflow.nests, one.workflow.image]
        for one in found
    ]
    return table(["version", "revision", "pilots", "items", "nests", "image"], rows)


def flat(told: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields as `budgets.tries`; what is empty is left out."""
    found: dict[str, Any] = {}
    for name, value in told.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            for number, one in enumerate(value, start=1):
                found |= flat(one, f"{prefix}{name}[{number}].")
        elif value not in (None, "", (), []):
            found[prefix + name] = value
    return found


@command(example="pyanamo workflow list")
def list_workflows(context: Context) -> Told:
    """List the workflows in this region: every table that is a ledger."""
    from pyanamo_core.aws import explained
    from pyanamo_core.ledger import open_ledger

    found: list[Listed] = []
    with explained("dynamodb", "ListTables"):
        pages = context.clients.client("dynamodb").get_paginator("list_tables").paginate()
        names = [str(name) for page in pages for name in page["TableNames"]]
    for name in names:
        try:
            ledger, version, workflow = open_ledger(context.clients, name)
        except PyAnamoError as error:
            if isinstance(error, Refused) or error.exit_code == 4:
                continue
            raise
        counts = ledger.counts()
        found.append(
            Listed(
                name,
                workflow.name,
                version,
                workflow.queue,
                workflow.job_definition,
                counts.total,
                counts.done,
                counts.failed,
            )
        )
    return Told(
        found,
        view=lambda rows: (
            table(
                ["table", "workflow", "version", "queue", "job definition", "items", "done", "failed"],
                [list(vars(row).values()) for row in rows],
                right=["version", "items", "done", "failed"],
            )
            if rows
            else "no workflow in this region"
        ),
        quiet=[one.table for one in found],
        next=f"pyanamo status --table {found[0].table}" if found else "pyanamo workflow create workflow.yaml",
    )


@command(example="pyanamo workflow delete --table Trial")
def delete(
    context: Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even while runs are live.")] = False,
) -> Told:
    """Delete a workflow's table with all its items and results' records. Objects in buckets stay."""
    from pyanamo_core.ledger.table import delete_table

    name = context.table_name
    try:
        opened = context.opened
    except WorkflowMissing:
        items, whole = 0, f"Delete table {name}, which holds no workflow"
    else:
        live = opened.ledger.live_runs()
        if live and not force:
            raise RunsLive(table=name, what="deleted", runs=", ".join(run.run_id for run in live))
        items = opened.ledger.counts().total
        whole = f"Delete table {name} with {items:,} items and the records of their results"
    context.confirm(whole, yes=yes)
    delete_table(context.clients, name)
    return Told(
        {"table": name, "items": items, "deleted": True},
        view=lambda told: f"deleted table {told['table']}, {told['items']:,} items; objects in buckets stay",
        quiet=[name],
        next="pyanamo workflow list",
    )
