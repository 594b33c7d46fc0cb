"""`pyanamo explain` and `items jobs`: why a run, an item or a nest is where it is, in one paragraph, and what to do about it;
which Batch job holds which item."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pyanamo.addressing import find_nest
from pyanamo.commands.runs import find_run
from pyanamo.context import Context, command
from pyanamo.render import Told, paragraph, short, span, table
from pyanamo_core.errors import ItemMissing, NotFound, RunMissing
from pyanamo_core.model import Run
from pyanamo_core.words import quoted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.fleet.account import Account
    from pyanamo_core.fleet.explain import Finding
    from pyanamo_core.fleet.item_jobs import ItemJob


class NothingOfThatName(NotFound):
    """Table {table} has neither an item nor a run {what}. See them with: pyanamo items list, pyanamo runs list"""


@dataclass(frozen=True)
class Explained:
    """An account as `--json` shows it: what, its facts as sentences, what keeps it and how that is mended."""

    about: str
    name: str
    text: str
    facts: list[str]
    findings: list[Finding]
    next: str


@command(
    example=(
        "pyanamo explain",
        "pyanamo explain 3f2c",
        "pyanamo explain NA12878",
        "pyanamo explain NA12878 chr21:31659566-31669931",
        "pyanamo explain NA12878 7 --json",
    )
)
def explain(
    context: Context,
    what: Annotated[
        str | None,
        typer.Argument(metavar="RUN|ITEM", help="An itemID, or a run's id or its beginning; default: the newest run."),
    ] = None,
    nest: Annotated[
        str | None, typer.Argument(metavar="NEST", help="Of an item: one nest, by value or number (from 0).")
    ] = None,
) -> Told:
    """Say in one paragraph why a run, an item or a nest is where it is: attempts and their causes, pilots and their
    beats, what Batch says of jobs, queue and machines, and how a known reason is mended. Changes nothing."""
    account = _account(context, what, nest)
    told = Explained(
        account.about,
        account.name,
        account.paragraph,
        list(account.facts),
        list(account.findings),
        account.next,
    )
    quiet = [one.code or one.fact for one in account.findings]
    return Told(told, view=lambda one: paragraph(one.text), quiet=quiet, next=account.next)


def _account(context: Context, what: str | None, nest: str | None) -> Account:
    from pyanamo_core.fleet.account import of_run, of_table
    from pyanamo_core.fleet.account_item import of_item, of_nest
    from pyanamo_core.fleet.batch import Batch

    opened = context.opened
    ledger = opened.ledger
    batch = Batch(context.clients)
    meant = _meant(context, what, nest)
    if meant is None:
        return of_table(ledger, opened.workflow, opened.version)
    if isinstance(meant, Run):
        return of_run(batch, ledger, meant, ledger.workflow(meant.workflow_version)[1])
    if nest is None:
        return of_item(batch, ledger, meant, opened.workflow)
    number = find_nest(meant, ledger.definition(ledger.item(meant)), nest)
    return of_nest(batch, ledger, meant, number, opened.workflow)


def _meant(context: Context, what: str | None, nest: str | None) -> Run | str | None:
    """A run, the name of an item, or nothing of either: then the table is meant. An item's name wins over the beginning
    of a run's."""
    ledger = context.ledger
    if what is None:
        try:
            return find_run(ledger, context.table_name, None)
        except RunMissing:
            return None
    try:
        return ledger.item(what).item_id
    except ItemMissing:
        if nest is not None:
            raise
    try:
        return find_run(ledger, context.table_name, what)
    except RunMissing:
        raise NothingOfThatName(table=context.table_name, what=what) from None


@command(example=("pyanamo items jobs", "pyanamo items jobs --gone", "pyanamo items jobs --json"))
def jobs(
    context: Context,
    gone: Annotated[bool, typer.Option("--gone", help="Only items whose pilot has ended by Batch's word.")] = False,
) -> Told:
    """Show which Batch job holds which locked item, and what Batch says of that job. Asks Batch once per 100 jobs."""
    from pyanamo_core.fleet.batch import Batch
    from pyanamo_core.fleet.item_jobs import item_jobs

    found = [one for one in item_jobs(Batch(context.clients), context.ledger) if one.gone or not gone]
    lost = any(one.gone for one in found)
    first = f"pyanamo explain {quoted(found[0].item_id)}" if found else "pyanamo status"
    return Told(
        found,
        view=lambda rows: _jobs_view(rows, gone),
        quiet=[one.item_id for one in found],
        next="pyanamo recover" if lost else first,
    )


def _jobs_view(found: list[ItemJob], gone: bool) -> RenderableType:
    from rich.console import Group

    if not found:
        return "no locked item's pilot is gone by Batch's word" if gone else "no item is locked"
    now = time.time()
    rows = [
        [
            one.item_id,
            one.job_status,
            short(one.batch_job),
            one.batch_attempt or "",
            short(one.pilot_id),
            f"{span(now - one.last_beat)} ago" if one.last_beat else "",
            f"in {span(one.lease_end - now)}" if one.lease_end > now else f"{span(now - one.lease_end)} ago",
            one.host,
            one.reason,
        ]
        for one in found
    ]
    columns = ["item", "job is", "Batch job", "attempt", "pilot", "last beat", "lease ends", "host", "reason"]
    states = Counter(one.job_status for one in found)
    summary = ", ".join(f"{count:,} {status}" for status, count in states.most_common())
    return Group(table(columns, rows, right=["attempt"]), f"{len(found):,} locked: {summary}")
