"""What `run` and `cohort run` ask before they begin: is this plan, with its hours and dollars, what you want?"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands.plan import hours, view
from pyanamo.context import Context
from pyanamo.planning import Planned, look, pace_of, prices_of, work_of
from pyanamo_core.errors import NotFound, Refused

if TYPE_CHECKING:
    from pyanamo_core.canary import Measured
    from pyanamo_core.cost.pace import Pace
    from pyanamo_core.protocols import Ledger
    from pyanamo_core.sheet import Sheet
    from pyanamo_core.workflow import Workflow

LEARNT_FROM = 50
"""Items of a table from which the time of a nest is learnt."""

YES = Annotated[bool, typer.Option("--yes", "-y", help="Begin without asking; with --update: edit without asking.")]
MAX_DOLLARS = Annotated[
    float | None,
    typer.Option("--max-dollars", min=0.01, help="Drain when the machines have cost so much; default: the workflow's."),
]


class OverDollars(Refused):
    """The items that are left would cost {dollars}, more than the {left} that --max-dollars leaves; they were not begun.
    Give more, or none: pyanamo run"""


def planned(
    context: Context,
    workflow: Workflow,
    sheet: Sheet | None,
    *,
    prices: Path | None = None,
    pilots: int | None = None,
    pace: Pace | None = None,
) -> Planned:
    """What a run will take: of all that the table has open, and of a sheet that is imported first what is new.

    Args:
        pace: how long nests take; None: learnt from the table's done nests, where there are some, else measured defaults
            for HaplotypeCaller.
    """
    from pyanamo_core.cost.closer import settled
    from pyanamo_core.cost.estimate import estimate
    from pyanamo_core.cost.work import together, work_of_table

    ledger = table_of(context, workflow)
    looked = look(context, None, sheet.path if sheet is not None else None, workflow=workflow)
    if pace is None and ledger is not None:
        pace = learnt_from(ledger, genomic=looked.genomic)
    if pace is None:
        pace = pace_of(context, looked)
    beside = 0
    if sheet is not None:
        if ledger is not None:  # what has ended already is not done again
            looked.done = settled(ledger)
        work = work_of(context, looked, pace)
        if ledger is not None:  # pilots claim whatever is open
            named = frozenset(row.item_id for row in sheet.rows())
            others = work_of_table(ledger, pace, at_once=workflow.nests, bases=looked.bases, but=named)
            work, beside = together(work, others), others.items
    else:
        work = work_of_table(ledger or context.ledger, pace, at_once=workflow.nests, bases=looked.bases)
    call = estimate(workflow, work, pace, prices_of(context, prices), pilots=pilots)
    # Which file or table the workflow is of, the user has just typed.
    return Planned(looked.checks[1:], call, call.once, call.a_month, None, list(call.missing), beside)


def table_of(context: Context, workflow: Workflow) -> Ledger | None:
    """The workflow's ledger; None where there is none yet."""
    from pyanamo_core.ledger import open_ledger

    try:
        return open_ledger(context.clients, workflow.table_name)[0]
    except NotFound:
        return None


def learnt_from(ledger: Ledger, *, genomic: bool) -> Pace | None:
    """How long nests took that are done in this table; None where none is."""
    from pyanamo_core.cost.pace import learnt_pace
    from pyanamo_core.cost.work import seen_nests
    from pyanamo_core.genomics.speed import NothingLearnt
    from pyanamo_core.model import State

    done = islice(ledger.items(State.DONE), LEARNT_FROM)
    try:
        return learnt_pace(seen_nests(ledger, done), f"table {ledger.table}", genomic=genomic)
    except NothingLearnt:
        return None


def show(context: Context, told: Planned, *, short: bool) -> None:
    """The plan for people, on standard error: whole, or in one line where nothing is asked."""
    if not context.for_people:
        return
    if short:
        context.say(f"plan: {in_words(told)}")
        return
    from pyanamo.render import console

    console(stderr=True).print(view(told))


def in_words(told: Planned) -> str:
    """A plan in one line: `12 items (10 of them open in the table), 4 pilots, 2–9 h, $1.20–5.90`."""
    from pyanamo_core.cost.ranges import dollars

    one = told.estimate
    known = f"{hours(one.hours)}, {dollars(told.once)}" if one.hours is not None else f"hours not known{_beside(told)}"
    beside = f" ({told.beside_sheet:,} of them open in the table, not in the sheet)" if told.beside_sheet else ""
    return f"{_count(one.items, 'item')}{beside}, {_count(one.nests, 'nest')}, {_count(one.pilots, 'pilot')}, {known}"


def _beside(told: Planned) -> str:
    from pyanamo_core.cost.ranges import dollars

    return f", {dollars(told.once)} beside machines" if told.once.high else ""


def sum_in_words(told: Planned) -> str:
    """The sums of a plan: `$12–40 once, $0.10 a month`."""
    from pyanamo_core.cost.ranges import dollars

    return f"{dollars(told.once)} once, {dollars(told.a_month)} a month" + (
        "; more is not known" if told.missing else ""
    )


def limit_in_words(limit: float) -> str:
    """A limit in dollars as it was given."""
    return f"${limit:,.2f}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def question(told: Planned, what: str, max_dollars: float | None) -> str:
    """What is asked, with what it costs and where it will be stopped."""
    asked = f"{what}: {in_words(told)}"
    if max_dollars is None:
        return asked
    over = "; that is less than the plan" if told.estimate.hours is not None and told.once.low > max_dollars else ""
    return f"{asked}, drained at {limit_in_words(max_dollars)} of machines{over}"


def told_measured(found: Measured) -> str:
    """What a canary took, in words."""
    from pyanamo.render import span
    from pyanamo_core.cost.ranges import Range, dollars

    spent = "" if found.dollars is None else f", {dollars(Range(*found.dollars))}"
    return (
        f"canary: {', '.join(found.items)}: {found.done} done, {found.failed} failed; "
        f"{_count(found.nests, 'nest')} of {span(found.nest_seconds)} on average "
        f"({span(found.shortest)} to {span(found.longest)}); "
        f"{_count(found.pilots, 'pilot')}, {found.vcpu_hours:.3g} vCPU hours{spent}"
    )


def left_dollars(limit: float | None, found: Measured) -> float | None:
    """What a limit leaves for the others after a canary."""
    if limit is None:
        return None
    return max(0.01, limit - (found.dollars[1] if found.dollars else 0.0))


def as_data(told: Planned) -> dict[str, Any]:
    """A plan for `--json`, with its sums and without its lines: `pyanamo plan --json` has those."""
    one = told.estimate
    return {
        "items": one.items,
        "items_beside_sheet": told.beside_sheet,
        "nests": one.nests,
        "pilots": one.pilots,
        "pace": one.pace,
        "hours": one.hours,
        "vcpu_hours": one.vcpu_hours,
        "dollars": told.once,
        "dollars_a_month": told.a_month,
        "missing": told.missing,
    }
