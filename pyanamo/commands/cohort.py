"""`pyanamo cohort`: from samples to the VCF of their cohort, step by step, each a table of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands.run import page_of, read_workflow_for
from pyanamo.context import Context, command
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
        "--also", metavar="PREFIX", help="Also gVCFs gathered earlier, below this s3:// prefix (may be repeated)."
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
    planned: bool = field(default=False, repr=False)


@command(
    example=(
        "pyanamo cohort run workflow.yaml --sheet sheet.txt",
        "pyanamo cohort run",
        "pyanamo cohort run --to gather",
        "pyanamo cohort run --also s3://my-bucket/pyanamo/Batch1/results/gvcf",
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
) -> Told:
    """Call, gather and call jointly: each sample's loci, a gVCF per sample, a VCF of all. What is done is skipped.

    Killed or interrupted anywhere, it goes on when it is given again.
    """
    told = _called(context, workflow)
    if dry_run:
        return _planned(context, told, sheet, update, first, last, also, partial)
    url = context.settings.prefect_api_url
    looks: list[Look]
    try:
        if url and not no_prefect:
            looks = _with_prefect(
                context, url, told, workflow, sheet, update, first, last, also, partial, pilots, new_revision
            )
        else:
            if not url:
                context.say("no address of Prefect is set (PREFECT_API_URL): running without it")
            chain = _chain(context, told, sheet, update, also, partial, pilots, new_revision)
            looks = chain.run(_shown(context)(_plainly(context)), first=first, last=last, say=context.say)
    except KeyboardInterrupt:
        context.say("no longer watched; the step's run and its pilots go on.\ngo on: pyanamo cohort run")
        raise
    done = _told(context, told, looks)
    after = f"pyanamo results get cohort --table {told.table_name}-joint --out cohort" if done.vcf else ""
    return Told(done, view=_view, quiet=[done.vcf] if done.vcf else [], next=after or "pyanamo cohort status")


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
) -> Told:
    """Say what `cohort run` would do, step by step; changes nothing."""
    return _planned(context, _called(context, workflow), sheet, update, first, last, also, partial)


@command(example=("pyanamo cohort status", "pyanamo cohort status --table HaplotypeCaller --json"))
def status(context: Context, also: ALSO = None, partial: PARTIAL = False) -> Told:
    """Show how far each step is: its table, its items, and what comes next."""
    told = _called(context, None)
    chain = _chain(context, told, None, False, also, partial, None, False)
    done = _told(context, told, chain.look())
    return Told(done, view=_view, quiet=[f"{one.step} {one.state}" for one in done.steps], next=_next(done))


# ---------------------------------------------------------------------------------------------------- inside


def _called(context: Context, file: Path | None) -> Workflow:
    return read_workflow_for(context, file) if file is not None else context.workflow


def _chain(
    context: Context,
    workflow: Workflow,
    sheet: Path | None,
    update: bool,
    also: list[str] | None,
    partial: bool,
    pilots: int | None,
    new_revision: bool,
) -> Chain:
    from pyanamo_core.chain import AwsTables, Chain
    from pyanamo_core.chain.cohort import cohort_steps

    steps = cohort_steps(
        context.clients,
        workflow,
        sheet=read_sheet(sheet) if sheet is not None else None,
        update=update,
        partial=partial,
        also=also or (),
        pilots=pilots,
    )
    return Chain(steps, AwsTables(context.clients), partial=partial, new_revision=new_revision)


def _planned(
    context: Context,
    workflow: Workflow,
    sheet: Path | None,
    update: bool,
    first: str,
    last: str,
    also: list[str] | None,
    partial: bool,
) -> Told:
    chain = _chain(context, workflow, sheet, update, also, partial, None, False)
    looks = chain.look(first=first, last=last)
    done = CohortTold(workflow.table_name, looks, planned=True)
    return Told(done, view=_plan_view, quiet=[f"{one.step} {one.todo}" for one in looks], next="pyanamo cohort run")


def _plainly(context: Context) -> Callable[[Callable[[Progress], None]], Runner]:
    from pyanamo_core.chain import plainly

    return lambda on_progress: plainly(context.clients, on_progress=on_progress)


def _shown(context: Context) -> Callable[[Callable[[Callable[[Progress], None]], Runner]], Runner]:
    """Each step's run with a display of its own."""

    def around(make: Callable[[Callable[[Progress], None]], Runner]) -> Runner:
        def work(step: Step, opened: Opened, live: Run | None) -> Outcome:
            with RunDisplay(context, step.name) as display:
                return make(display.update_run)(step, opened, live)

        return work

    return around


def _with_prefect(
    context: Context,
    url: str,
    told: Workflow,
    file: Path | None,
    sheet: Path | None,
    update: bool,
    first: str,
    last: str,
    also: list[str] | None,
    partial: bool,
    pilots: int | None,
    new_revision: bool,
) -> list[Look]:
    """The flow `cohort` in this process; how its steps stand comes from their ledgers all the same."""
    context.say(f"running as a flow of Prefect at {url}")
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    os.environ["PREFECT_API_URL"] = url
    from pyanamo_flows.cohort import start

    shown: list[RunDisplay] = []
    seen: set[str] = set()

    def on_progress(progress: Progress) -> None:
        page = page_of(url, progress.run.flow_run_id)
        if page not in seen:
            seen.add(page)
            context.say(f"run {progress.run.run_id} is seen at {page}")
        if shown:
            shown[-1].update_run(progress)

    def wrap(runner: Runner) -> Runner:
        def work(step: Step, opened: Opened, live: Run | None) -> Outcome:
            with RunDisplay(context, step.name) as display:
                shown.append(display)
                return runner(step, opened, live)

        return work

    return start(
        context.clients,
        table=told.table_name,
        workflow=str(file.resolve()) if file is not None else "",
        sheet=str(sheet.resolve()) if sheet is not None else "",
        update=update,
        also=also or (),
        partial=partial,
        first=first,
        last=last,
        pilots=pilots,
        new_revision=new_revision,
        on_progress=on_progress,
        wrap=wrap,
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
            one.note,
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
    return table(("step", "table", "state", "what would be done"), rows)


def _would(one: Look) -> str:
    if one.state == "waits":
        return f"waits {one.note}; then it is planned by what that gives"
    if not one.table:
        return "nothing" if one.state == "done" else "would be written"
    parts = [f"run {run_id} would be carried on" for run_id in one.runs]
    if one.new:
        parts.append(f"{one.new:,} new items")
    if one.changed:
        parts.append(f"{one.changed:,} items again, for what they are made from has changed")
    if one.open:
        parts.append(f"{one.open:,} items that are open")
    if one.stale:
        parts.append(f"{one.stale:,} items that are wanted no more would be cancelled")
    if one.changes:
        more = one.new + one.changed - len(one.changes)
        parts.append(f"({', '.join(one.changes)}{f' and {more:,} more' if more else ''})")
    if one.failed or one.cancelled:
        parts.append(f"{one.failed + one.cancelled:,} items keep the chain from going on")
    if one.note:
        parts.append(one.note)
    return "; ".join(parts) or "nothing: done"
