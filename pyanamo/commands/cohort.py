"""`pyanamo cohort`: from samples to the VCF of their cohort, step by step, each a table of its own."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.cohort_cost import Priced, price_what_is_left
from pyanamo.commands import agree
from pyanamo.commands.agree import YES
from pyanamo.commands.plan import (
    LEARN,
    NEST_TIME,
    ON_DEMAND,
    PRICES,
    RATE,
    REGION_TIME,
    SAMPLE_TIME,
    PaceTwice,
    bill,
    summary,
)
from pyanamo.commands.run import page_of
from pyanamo.commands.sheet import confirm_losses_of
from pyanamo.context import Context, command, read_workflow_for
from pyanamo.planning import Planned
from pyanamo.progress import RunDisplay
from pyanamo.render import Told, fields, table
from pyanamo_core.sheet import read_sheet

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.chain import Chain, Look, Opened, Runner, Step
    from pyanamo_core.driver import Outcome, Progress
    from pyanamo_core.model import Run
    from pyanamo_core.workflow import Workflow

FILE = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="The call's workflow file; default: the workflow that the table holds."),
]
SHEET = Annotated[Path | None, typer.Option("--sheet", help="Import this sheet of samples first.")]
UPDATE = Annotated[bool, typer.Option("--update", help="With --sheet: edit items that stand with another definition.")]
FIRST = Annotated[
    str, typer.Option("--from", metavar="STEP", help="Begin with this step: call, gather, joint, concat, report.")
]
LAST = Annotated[str, typer.Option("--to", metavar="STEP", help="End with this step.")]
ALSO = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="TABLE|PREFIX",
        help="Call jointly also what an earlier cohort gathered (its call table), or gathered gVCFs below an s3:// prefix; may be repeated.",
    ),
]
PARTIAL = Annotated[
    bool, typer.Option("--partial", help="Go on although samples failed or lack loci; recorded in the results.")
]


@dataclass(frozen=True)
class CohortTold:
    """How far a cohort is."""

    table: str
    steps: list[Look]
    vcf: str = ""
    report: str = ""
    cost: Planned | None = None
    """Of what is left to do, where it was asked for."""


@dataclass(frozen=True)
class Asked:
    """What a user asks of a cohort: the options of these commands."""

    workflow: Workflow
    file: Path | None = None
    sheet: Path | None = None
    update: bool = False
    first: str = ""
    last: str = ""
    also: tuple[str, ...] = ()
    partial: bool = False
    pilots: int | None = None
    new_revision: bool = False


@command(
    example=(
        "pyanamo cohort run workflow.yaml --sheet sheet.txt",
        "pyanamo cohort run",
        "pyanamo cohort run --to gather",
        "pyanamo cohort run --also Batch1 --also s3://my-bucket/pyanamo/Batch2/results/gvcf",
        "pyanamo cohort run --dry-run",
    )
)
def run(
    context: Context,
    workflow: FILE = None,
    sheet: SHEET = None,
    update: UPDATE = False,
    first: FIRST = "",
    last: LAST = "",
    also: ALSO = None,
    partial: PARTIAL = False,
    pilots: Annotated[
        int | None, typer.Option("--pilots", min=1, help="Pilots of each step, instead of the workflow's.")
    ] = None,
    new_revision: Annotated[
        bool, typer.Option("--new-revision", help="Have nests done again that other parameters or scripts made.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    no_prefect: Annotated[
        bool, typer.Option("--no-prefect", help="Without Prefect, even if it has an address.")
    ] = False,
    prices: PRICES = None,
    yes: YES = False,
) -> Told:
    """Say what is left to do and what it will take, ask, then call, gather and call jointly: each sample's loci, a gVCF per sample, a VCF of all. What is done is skipped.

    Killed or interrupted anywhere, it goes on when it is given again.
    """
    told = _called(context, workflow)
    asked = Asked(told, workflow, sheet, update, first, last, tuple(also or ()), partial, pilots, new_revision)
    if dry_run:
        return _planned(context, asked)
    if sheet is not None and update:
        confirm_losses_of(context, told.table_name, sheet, yes=yes)
    if not yes:
        _agree(context, asked, prices)
    url = context.settings.prefect_api_url
    try:
        looks = _with_prefect(context, url, asked) if url and not no_prefect else _plainly(context, url, asked)
    except KeyboardInterrupt:
        context.say(f"no longer watched; the step's run and its pilots go on.\ngo on: {_again(asked)}")
        raise
    done = _told(context, told, looks)
    return Told(done, view=_view, quiet=[done.vcf] if done.vcf else [], next=_next(done))


@command(example=("pyanamo cohort plan", "pyanamo cohort plan workflow.yaml --sheet sheet.txt --json"))
def plan(
    context: Context,
    workflow: FILE = None,
    sheet: SHEET = None,
    update: UPDATE = False,
    first: FIRST = "",
    last: LAST = "",
    also: ALSO = None,
    partial: PARTIAL = False,
    nest_time: NEST_TIME = "",
    rate: RATE = "",
    learn: LEARN = "",
    sample_time: SAMPLE_TIME = "",
    region_time: REGION_TIME = "",
    prices: PRICES = None,
    on_demand: ON_DEMAND = False,
) -> Told:
    """Say what `cohort run` would do, step by step, with hours and dollars of what is left to do; changes nothing.

    Times and prices are those of `pyanamo plan`; docs/cost.md says how each is known.
    """
    if sum(map(bool, (nest_time, rate, learn))) > 1:
        raise PaceTwice
    asked = Asked(_called(context, workflow), workflow, sheet, update, first, last, tuple(also or ()), partial)
    priced = Priced(nest_time, rate, learn, sample_time, region_time, prices, on_demand)
    return _planned(context, asked, priced)


@command(example=("pyanamo cohort status", "pyanamo cohort status --table HaplotypeCaller --json"))
def status(context: Context, also: ALSO = None, partial: PARTIAL = False) -> Told:
    """Show how far each step is: its table, its items, and what comes next."""
    told = _called(context, None)
    chain = _chain(context, Asked(told, also=tuple(also or ()), partial=partial))
    done = _told(context, told, chain.look())
    return Told(done, view=_view, quiet=[f"{one.step} {one.state}" for one in done.steps], next=_next(done))


# ---------------------------------------------------------------------------------------------------- inside


def _agree(context: Context, asked: Asked, prices: Path | None) -> None:
    """Show what is left to do and what it will take, and ask; not where a step's run is live, or all is done.

    Raises:
        NotConfirmed: nothing was begun.
    """
    looks = _chain(context, asked).look(first=asked.first, last=asked.last)
    if any(one.state == "running" or one.obstacle for one in looks):
        return  # agreed to before; or refused by the run itself, in its own words
    cost = price_what_is_left(
        context, asked.workflow, asked.sheet, looks, Priced(prices=prices, pilots=asked.pilots, also=bool(asked.also))
    )
    if cost is None:
        return
    if context.for_people:
        from pyanamo.render import console

        console(stderr=True).print(_plan_view(CohortTold(asked.workflow.table_name, looks, cost=cost)))
    steps = ", ".join(one.step for one in looks if one.todo or one.state == "waits")
    limit = asked.workflow.budgets.max_dollars
    bound = (
        f"; the run of each step is drained at {agree.limit_in_words(limit)} of machines" if limit is not None else ""
    )
    context.confirm(f"Run {steps} of cohort {asked.workflow.table_name}, {agree.sum_in_words(cost)}{bound}", yes=False)


def _called(context: Context, file: Path | None) -> Workflow:
    return read_workflow_for(context, file) if file is not None else context.workflow


def _chain(context: Context, asked: Asked) -> Chain:
    from pyanamo_core.chain import AwsTables, Chain
    from pyanamo_core.chain.cohort import cohort_steps

    steps = cohort_steps(
        context.clients,
        asked.workflow,
        sheet=read_sheet(asked.sheet) if asked.sheet is not None else None,
        update=asked.update,
        partial=asked.partial,
        also=asked.also,
    )
    return Chain(steps, AwsTables(context.clients), partial=asked.partial, new_revision=asked.new_revision)


def _planned(context: Context, asked: Asked, priced: Priced | None = None) -> Told:
    looks = _chain(context, asked).look(first=asked.first, last=asked.last)
    cost = price_what_is_left(
        context, asked.workflow, asked.sheet, looks, replace(priced or Priced(), also=bool(asked.also))
    )
    done = CohortTold(asked.workflow.table_name, looks, cost=cost)
    # A command that would be refused is no advice.
    after = "" if any(one.obstacle for one in looks) else _again(asked)
    return Told(done, view=_plan_view, quiet=[f"{one.step} {one.todo}" for one in looks], next=after)


def _again(asked: Asked) -> str:
    """`cohort run` with what was asked for, to be typed as it stands."""
    words = ["pyanamo", "cohort", "run", *([str(asked.file)] if asked.file else [])]
    words += ["--sheet", str(asked.sheet)] if asked.sheet else []
    words += ["--from", asked.first] if asked.first else []
    words += ["--to", asked.last] if asked.last else []
    words += [word for where in asked.also for word in ("--also", where)]
    words += ["--pilots", str(asked.pilots)] if asked.pilots else []
    flags = {"--update": asked.update, "--partial": asked.partial, "--new-revision": asked.new_revision}
    return shlex.join([*words, *(flag for flag, given in flags.items() if given)])


class _Display:
    """Each step's run shown in its turn; `update` goes to the one that is shown."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._shown: RunDisplay | None = None

    def update(self, progress: Progress) -> None:
        if self._shown is not None:
            self._shown.update_run(progress)

    def around(self, runner: Runner) -> Runner:
        def work(step: Step, opened: Opened, live: Run | None) -> Outcome:
            with RunDisplay(self._context, step.name) as self._shown:
                return runner(step, opened, live)

        return work


def _plainly(context: Context, url: str, asked: Asked) -> list[Look]:
    """In this process, without Prefect."""
    from pyanamo_core.chain import plainly

    if not url:
        context.say("no address of Prefect is set (PREFECT_API_URL): running without it")
    display = _Display(context)
    runner = display.around(plainly(context.clients, pilots=asked.pilots, on_progress=display.update))
    return _chain(context, asked).run(runner, first=asked.first, last=asked.last, say=context.say)


def _with_prefect(context: Context, url: str, asked: Asked) -> list[Look]:
    """The flow `cohort` in this process; how its steps stand comes from their ledgers all the same."""
    context.say(f"running as a flow of Prefect at {url}")
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    os.environ["PREFECT_API_URL"] = url
    from pyanamo_flows.cohort import start

    display = _Display(context)
    seen: set[str] = set()

    def on_progress(progress: Progress) -> None:
        page = page_of(url, progress.run.flow_run_id)
        if page not in seen:
            seen.add(page)
            context.say(f"run {progress.run.run_id} is seen at {page}")
        display.update(progress)

    return start(
        context.clients,
        table=asked.workflow.table_name,
        workflow=str(asked.file.resolve()) if asked.file is not None else "",
        sheet=str(asked.sheet.resolve()) if asked.sheet is not None else "",
        update=asked.update,
        also=asked.also,
        partial=asked.partial,
        first=asked.first,
        last=asked.last,
        pilots=asked.pilots,
        new_revision=asked.new_revision,
        on_progress=on_progress,
        wrap=display.around,
        say=context.say,
    )


def _told(context: Context, workflow: Workflow, looks: list[Look]) -> CohortTold:
    from pyanamo_core.chain.cohort import cohort_vcf, tables_of
    from pyanamo_core.chain.report import report_uri
    from pyanamo_core.errors import NotFound
    from pyanamo_core.ledger import open_ledger

    by_step = {one.step: one for one in looks}
    vcf = ""
    if "concat" in by_step and by_step["concat"].state == "done":
        try:
            vcf = cohort_vcf(open_ledger(context.clients, tables_of(workflow.table_name)["concat"])[0])
        except NotFound:
            vcf = ""
    reported = "report" in by_step and by_step["report"].state == "done"
    return CohortTold(workflow.table_name, looks, vcf, report_uri(workflow) if reported else "")


def _next(told: CohortTold) -> str:
    for one in told.steps:
        if one.state == "running":
            return f"pyanamo watch {one.runs[0]} --table {one.table}"
        if one.state == "failed":
            return f"pyanamo items list --state {'failed' if one.failed else 'cancelled'} --table {one.table}"
        if one.state in ("to do", "waits"):
            return "pyanamo cohort run"
    return f"pyanamo results get cohort --table {told.table}-joint --out cohort" if told.vcf else "pyanamo cohort run"


def _view(told: CohortTold) -> RenderableType:
    from rich.console import Group

    rows = [
        (
            one.step,
            one.table,
            f"{one.done:,} of {one.wanted:,}" if one.table and one.wanted else "",
            _rest(one),
            str(one.state),
            one.obstacle or one.note,
        )
        for one in told.steps
    ]
    parts: list[Any] = [table(("step", "table", "items done", "others", "state", ""), rows, right=("items done",))]
    for one in told.steps:
        parts += [f"{one.step}: {each.item_id}: {each.cause}: {each.message}" for each in one.failures]
    if told.vcf:
        parts += ["", fields({"VCF": told.vcf, **({"report": told.report} if told.report else {})})]
    return Group(*parts)


def _rest(one: Look) -> str:
    counts = {
        "open": one.open,
        "new": one.new,
        "to be done again": one.changed,
        "failed": one.failed,
        "cancelled": one.cancelled,
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _plan_view(told: CohortTold) -> RenderableType:
    rows = [(one.step, one.table, str(one.state), _would(one)) for one in told.steps]
    steps = table(("step", "table", "state", "what would be done"), rows)
    if told.cost is None:
        return steps
    from rich.console import Group

    return Group(steps, "", fields(summary(told.cost.estimate)), "", *bill(told.cost))


def _would(one: Look) -> str:
    if one.obstacle:
        return f"would be refused: {one.obstacle}"
    if one.state == "waits":
        return f"waits {one.note}; then it is planned by what that gives"
    if not one.table:
        return "nothing" if one.state == "done" else "would be written"
    parts = [f"run {run_id} would be carried on" for run_id in one.runs]
    if one.new:
        parts.append(f"{one.new:,} new items")
    if one.changed:
        parts.append(f"{one.changed:,} items again, for what they are made from has changed")
    if one.changes:
        more = one.new + one.changed - len(one.changes)
        parts[-1] += f" ({', '.join(one.changes)}{f' and {more:,} more' if more else ''})"
    if one.open:
        parts.append(f"{one.open:,} items that are open")
    if one.stale:
        parts.append(f"{one.stale:,} items that are wanted no more would be cancelled")
    if one.failed or one.cancelled:
        parts.append(f"{one.failed + one.cancelled:,} items keep the chain from going on")
    if one.note:
        parts.append(one.note)
    return "; ".join(parts) or "nothing: done"
