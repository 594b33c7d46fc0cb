"""`pyanamo run`, `watch` and `recover`: execute a workflow, look on, and take back what dead pilots held."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands import agree
from pyanamo.commands.agree import MAX_DOLLARS, YES
from pyanamo.commands.plan import PRICES
from pyanamo.commands.runs import RUN, find_run, state_of
from pyanamo.commands.sheet import confirm_losses_of
from pyanamo.context import Context, NotConfirmed, command, read_workflow_for
from pyanamo.planning import prices_of
from pyanamo.progress import Bar, RunDisplay
from pyanamo.render import Told, fields, span
from pyanamo_core.model import Counts, Run
from pyanamo_core.sheet import read_sheet
from pyanamo_core.workflow import Workflow

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo.planning import Planned
    from pyanamo_core.canary import Measured
    from pyanamo_core.driver import Outcome, Progress, RecoverReport

NOT_COMPLETED = 7
"""Exit code of a run that ended otherwise than completed."""


@dataclass(frozen=True)
class Ended:
    """A run after it was watched; `plan` and `canary` where there were any."""

    run: Run
    counts: Counts
    outcome: str
    reason: str
    plan: Mapping[str, Any] | None = None
    canary: Measured | None = None


@dataclass(frozen=True)
class Wanted:
    """What a user wants to be run: the options of `run`."""

    workflow: Workflow
    file: Path | None = None
    sheet: Path | None = None
    update: bool = False
    pilots: int | None = None
    run_id: str | None = None
    max_failures: int | None = None
    max_dollars: float | None = None
    detach: bool = False


@command(
    example=(
        "pyanamo run",
        "pyanamo run workflow.yaml --sheet sheet.txt --pilots 4",
        "pyanamo run --first 3",
        "pyanamo run --max-dollars 200 --yes",
        "pyanamo run --yes --detach && pyanamo watch",
    )
)
def run(
    context: Context,
    workflow: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A workflow file; default: the workflow that the table holds."),
    ] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Import this sheet first.")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="With --sheet: edit items that stand with another definition.")
    ] = False,
    pilots: Annotated[int | None, typer.Option("--pilots", min=1, help="Pilots, instead of the workflow's.")] = None,
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", help="Go on with this run, or give a new one this id.")
    ] = None,
    max_failures: Annotated[
        int | None, typer.Option("--max-failures", min=1, help="Stop when so many items have failed.")
    ] = None,
    max_dollars: MAX_DOLLARS = None,
    first: Annotated[
        int | None,
        typer.Option(
            "--first",
            min=1,
            metavar="N",
            help="Run N items first (small, usual, big by their nests), correct the plan by what they took, ask again.",
        ),
    ] = None,
    prices: PRICES = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start the pilots and leave: nobody watches, Prefect has no part.")
    ] = False,
    no_prefect: Annotated[
        bool, typer.Option("--no-prefect", help="Without Prefect, even if it has an address.")
    ] = False,
    yes: YES = False,
) -> Told:
    """Run a workflow: say what it will take, ask, start its pilots on Batch and watch them until no item is left."""
    found = read_sheet(sheet) if sheet is not None else None
    told = read_workflow_for(context, workflow) if workflow is not None else context.workflow
    if found is not None and update and not yes:
        confirm_losses_of(context, told.table_name, found.path, yes=yes)
    wanted = Wanted(told, workflow, sheet, update, pilots, run_id, max_failures, max_dollars, detach)
    url = context.settings.prefect_api_url
    if not url:
        context.say("no address of Prefect is set (PREFECT_API_URL): running without it")
    plan: Planned | None = None
    canary: Measured | None = None
    if not _goes_on(context, told, run_id):
        plan = agree.planned(context, told, found, prices=prices, pilots=pilots)
        if plan.estimate.items:
            limit = max_dollars if max_dollars is not None else told.budgets.max_dollars
            if first is not None and first < plan.estimate.items:
                ended = _first(context, wanted, first, plan, limit, prices=prices, yes=yes)
                if isinstance(ended, Told):
                    return ended
                plan, canary = ended
                wanted = replace(wanted, sheet=None, max_dollars=agree.left_dollars(limit, canary))
            else:
                agree.show(context, plan, short=yes)
                context.confirm(agree.question(plan, "Run", limit), yes=yes)
    if url and not (no_prefect or detach):
        outcome = _with_prefect(context, url, wanted)
    else:
        outcome = _plainly(context, wanted, prices)
    return told_outcome(outcome, plan, canary)


def _goes_on(context: Context, workflow: Workflow, run_id: str | None) -> bool:
    """Is it a live run that is carried on? Its pilots were agreed to when it began."""
    if run_id is None:
        return False
    ledger = agree.table_of(context, workflow)
    return ledger is not None and any(run.run_id == run_id for run in ledger.live_runs())


def _first(
    context: Context,
    wanted: Wanted,
    count: int,
    plan: Planned,
    limit: float | None,
    *,
    prices: Path | None,
    yes: bool,
) -> Told | tuple[Planned, Measured]:
    """Run a canary, tell what it took, and ask whether the others shall follow.

    Returns:
        The corrected plan of the others and what was measured; or what ends the command: the canary did not complete,
        nothing else is to do, or the answer was no.

    Raises:
        NotConfirmed: nothing was begun. OverDollars: the others would cost more than what is left.
    """
    from pyanamo_core import canary
    from pyanamo_core.cost.work import is_genomic

    agree.show(context, plan, short=yes)
    context.confirm(agree.question(plan, f"Run {count} of these items first", limit), yes=yes)
    outcome = _canary(context, wanted, count, limit, prices)
    if outcome is None:
        return told_outcome(_plainly(context, wanted, prices), plan)
    workflow = wanted.workflow
    ledger = agree.table_of(context, workflow)
    if ledger is None or not outcome.outcome:
        return told_outcome(outcome, plan)
    measured = canary.measured(ledger, outcome.run, workflow)
    context.say(agree.told_measured(measured))
    if outcome.outcome != "completed":
        return told_outcome(outcome, plan, measured)
    pace = canary.pace(ledger, outcome.run, genomic=is_genomic(ledger))
    corrected = agree.planned(context, workflow, None, prices=prices, pilots=wanted.pilots, pace=pace)
    if not corrected.estimate.items:
        return told_outcome(outcome, corrected, measured)
    left = agree.left_dollars(limit, measured)
    agree.show(context, corrected, short=yes)
    if left is not None and corrected.estimate.hours is not None and corrected.once.low > left:
        from pyanamo_core.cost.ranges import dollars

        raise agree.OverDollars(dollars=dollars(corrected.once), left=dollars(left))
    try:
        context.confirm(agree.question(corrected, "Run the others", left), yes=yes)
    except NotConfirmed:
        context.say("the canary is done, the others were not begun")
        return told_outcome(outcome, corrected, measured)
    return corrected, measured


def _canary(context: Context, wanted: Wanted, count: int, limit: float | None, prices: Path | None) -> Outcome | None:
    """The canary's run, watched here, without Prefect. None: nothing is to do."""
    from pyanamo_core import canary, driver

    begun: list[Run] = []
    with ExitStack() as stack:
        display = RunDisplay(context)
        bar = Bar(context, "import")
        importing = ExitStack()
        if wanted.sheet is not None:
            stack.callback(importing.close)
            importing.enter_context(bar)

        def on_begin(run: Run) -> None:
            importing.close()
            begun.append(run)
            context.say(f"canary {run.run_id} runs {', '.join(run.only)}")
            stack.enter_context(display)

        try:
            return canary.run_first(
                context.clients,
                wanted.workflow,
                count,
                sheet=read_sheet(wanted.sheet) if wanted.sheet is not None else None,
                update=wanted.update,
                pilots=wanted.pilots,
                max_failures=wanted.max_failures,
                max_dollars=limit,
                vcpu_hour=driver.vcpu_hour_of(prices_of(context, prices)),
                on_import=bar.update,
                on_begin=on_begin,
                on_progress=display.update_run,
            )
        except KeyboardInterrupt:
            stack.close()
            if begun:
                _still_goes_on(context, begun[0].run_id)
            raise


def _plainly(context: Context, wanted: Wanted, prices: Path | None) -> Outcome:
    from pyanamo_core import driver

    leave = threading.Event()
    if wanted.detach:
        leave.set()
    with ExitStack() as stack:
        bar = Bar(context, "import")
        display = RunDisplay(context)
        importing = ExitStack()
        if wanted.sheet is not None:
            stack.callback(importing.close)
            importing.enter_context(bar)
        begun: list[Run] = []

        def on_begin(run: Run) -> None:
            importing.close()
            begun.append(run)
            context.say(f"run {run.run_id} begins")
            if not wanted.detach:
                stack.enter_context(display)

        try:
            return driver.run(
                context.clients,
                wanted.workflow,
                sheet=read_sheet(wanted.sheet) if wanted.sheet is not None else None,
                update=wanted.update,
                run_id=wanted.run_id,
                pilots=wanted.pilots,
                max_failures=wanted.max_failures,
                max_dollars=wanted.max_dollars,
                vcpu_hour=driver.vcpu_hour_of(prices_of(context, prices)),
                on_import=bar.update,
                on_begin=on_begin,
                on_progress=display.update_run,
                stop=leave,
            )
        except KeyboardInterrupt:
            stack.close()
            if begun:
                _still_goes_on(context, begun[0].run_id)
            raise


def _with_prefect(context: Context, url: str, wanted: Wanted) -> Outcome:
    """The flow `run` in this process; how it ends comes from the ledger all the same."""
    context.say(f"running as a flow of Prefect at {url}")
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    os.environ["PREFECT_API_URL"] = url
    from pyanamo_flows.run import start

    file, sheet = wanted.file, wanted.sheet
    display = RunDisplay(context)
    told: set[str] = set()

    def on_progress(progress: Progress) -> None:
        page = page_of(url, progress.run.flow_run_id)
        if page not in told:
            told.add(page)
            context.say(f"run {progress.run.run_id} is seen at {page}")
        display.update_run(progress)

    try:
        with display:
            return start(
                context.clients,
                table=wanted.workflow.table_name,
                workflow=str(file.resolve()) if file is not None else "",
                sheet=str(sheet.resolve()) if sheet is not None else "",
                update=wanted.update,
                pilots=wanted.pilots,
                max_failures=wanted.max_failures,
                max_dollars=wanted.max_dollars,
                run_id=wanted.run_id or "",
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        _still_goes_on(context, "")
        raise


def page_of(api_url: str, flow_run_id: str) -> str:
    """The page of a flow run of a server of one's own; Prefect's cloud has its pages elsewhere, so there it is the API."""
    if not api_url.endswith("/api") or not flow_run_id:
        return api_url
    return f"{api_url.removesuffix('/api')}/runs/flow-run/{flow_run_id}"


def _still_goes_on(context: Context, run_id: str) -> None:
    name = f" {run_id}" if run_id else ""
    context.say(
        f"no longer watched; the run and its pilots go on.\n"
        f"look again: pyanamo watch{name}\nstop it:    pyanamo runs cancel{name}"
    )


def told_outcome(outcome: Outcome, plan: Planned | None = None, canary: Measured | None = None) -> Told:
    """How a run ended, and the exit code that follows."""
    counts = outcome.counts
    after = "pyanamo results list"
    if not outcome.outcome:
        after = f"pyanamo watch {outcome.run.run_id}"
    elif counts.failed:
        after = "pyanamo items list --state failed"
    elif outcome.outcome == "stopped":
        after = f"pyanamo explain {outcome.run.run_id}"
    elif outcome.outcome != "completed" or outcome.run.only:
        after = "pyanamo run"
    return Told(
        Ended(
            outcome.run,
            counts,
            outcome.outcome,
            outcome.reason,
            agree.as_data(plan) if plan is not None else None,
            canary,
        ),
        view=_ended_view,
        quiet=[outcome.run.run_id],
        next=after,
        exit_code=0 if outcome.outcome in {"completed", ""} else NOT_COMPLETED,
    )


def _ended_view(told: Ended) -> RenderableType:
    counts = {name: count for name, count in told.counts.model_dump().items() if count}
    shown: dict[str, Any] = {
        "run": told.run.run_id,
        "canary": " ".join(told.run.only),
        "outcome": told.outcome or f"{state_of(told.run)}; no longer watched",
        "reason": told.reason if told.outcome else "",
        "items": ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none",
        "pilots": sum(one.size for one in told.run.submissions if one.outcome != "failed"),
        "took": span(told.run.ended - told.run.started) if told.run.ended else "",
    }
    return fields({name: value for name, value in shown.items() if value != ""})


@command(example=("pyanamo watch", "pyanamo watch 3f2c"))
def watch(context: Context, run: RUN = None) -> Told:
    """Watch a run until it ends: keeps enough pilots going, and shows how far it is."""
    opened = context.opened
    found = find_run(opened.ledger, context.table_name, run)
    workflow = opened.workflow
    if found.workflow_version != opened.version:
        workflow = opened.ledger.workflow(found.workflow_version)[1]
    from pyanamo_core import driver

    try:
        with RunDisplay(context) as display:
            outcome = driver.watch(
                context.clients,
                opened.ledger,
                found.run_id,
                workflow,
                watcher=driver.watcher_name(),
                on_progress=display.update_run,
            )
    except KeyboardInterrupt:
        _still_goes_on(context, found.run_id)
        raise
    return told_outcome(outcome)


@command(example=("pyanamo recover", "pyanamo recover --table Count --json"))
def recover(context: Context) -> Told:
    """Take back at once the items of pilots that Batch says are gone, without waiting for their leases."""
    from pyanamo_core import driver

    report = driver.recover(context.clients, context.ledger)
    after = f"pyanamo watch {report.unwatched[0]}" if report.unwatched else "pyanamo status"
    return Told(report, view=_recover_view, quiet=list(report.items), next=after)


def _recover_view(report: RecoverReport) -> str:
    if not report.locked:
        return "no item is locked; nothing to take back"
    lines = [
        f"{report.locked:,} items are locked; pilots gone by Batch's word: {len(report.gone)}; "
        f"items taken back: {len(report.items)}"
    ]
    lines += [f"  {item_id}" for item_id in report.items[:20]]
    lines += [f"  {reason}" for reason in list(report.refused.values())[:20]]
    if report.unwatched:
        lines.append(f"nobody watches: {', '.join(report.unwatched)}")
    return "\n".join(lines)
