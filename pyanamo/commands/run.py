"""`pyanamo run`, `watch` and `recover`: execute a workflow, look on, and take back what dead pilots held."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands.runs import RUN, find_run, state_of
from pyanamo.commands.sheet import YES_UPDATE, confirm_losses_of
from pyanamo.context import Context, command
from pyanamo.progress import Bar, RunDisplay
from pyanamo.render import Told, fields, span
from pyanamo_core.model import Counts, Run
from pyanamo_core.sheet import read_sheet
from pyanamo_core.workflow import Workflow

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.driver import Outcome, Progress, RecoverReport

NOT_COMPLETED = 7
"""Exit code of a run that ended otherwise than completed."""


@dataclass(frozen=True)
class Ended:
    """A run after it was watched."""

    run: Run
    counts: Counts
    outcome: str
    reason: str


@command(
    example=(
        "pyanamo run",
        "pyanamo run workflow.yaml --sheet sheet.txt --pilots 4",
        "pyanamo run --detach && pyanamo watch",
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
    detach: Annotated[
        bool, typer.Option("--detach", help="Start the pilots and leave: nobody watches, Prefect has no part.")
    ] = False,
    no_prefect: Annotated[
        bool, typer.Option("--no-prefect", help="Without Prefect, even if it has an address.")
    ] = False,
    yes: YES_UPDATE = False,
) -> Told:
    """Run a workflow: start its pilots on Batch and watch them until no item is left."""
    if sheet is not None:
        read_sheet(sheet)
        if update and not yes:
            table = context.table_name if workflow is None else read_workflow_for(context, workflow).table_name
            confirm_losses_of(context, table, sheet, yes=yes)
    url = context.settings.prefect_api_url
    if url and not (no_prefect or detach):
        return _with_prefect(context, url, workflow, sheet, update, pilots, run_id, max_failures)
    if not url:
        context.say("no address of Prefect is set (PREFECT_API_URL): running without it")
    return _plainly(context, workflow, sheet, update, pilots, run_id, max_failures, detach)


def _plainly(
    context: Context,
    file: Path | None,
    sheet: Path | None,
    update: bool,
    pilots: int | None,
    run_id: str | None,
    max_failures: int | None,
    detach: bool,
) -> Told:
    from pyanamo_core import driver

    workflow = read_workflow_for(context, file) if file is not None else context.workflow
    leave = threading.Event()
    if detach:
        leave.set()
    with ExitStack() as stack:
        bar = Bar(context, "import")
        display = RunDisplay(context)
        importing = ExitStack()
        if sheet is not None:
            stack.callback(importing.close)
            importing.enter_context(bar)
        begun: list[Run] = []

        def on_begin(run: Run) -> None:
            importing.close()
            begun.append(run)
            context.say(f"run {run.run_id} begins")
            if not detach:
                stack.enter_context(display)

        try:
            outcome = driver.run(
                context.clients,
                workflow,
                sheet=read_sheet(sheet) if sheet is not None else None,
                update=update,
                run_id=run_id,
                pilots=pilots,
                max_failures=max_failures,
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
    return told_outcome(outcome)


def _with_prefect(
    context: Context,
    url: str,
    file: Path | None,
    sheet: Path | None,
    update: bool,
    pilots: int | None,
    run_id: str | None,
    max_failures: int | None,
) -> Told:
    """The flow `run` in this process; how it ends comes from the ledger all the same."""
    context.say(f"running as a flow of Prefect at {url}")
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    os.environ["PREFECT_API_URL"] = url
    from pyanamo_flows.run import start

    table = context.table_name if file is None else read_workflow_for(context, file).table_name
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
            outcome = start(
                context.clients,
                table=table,
                workflow=str(file.resolve()) if file is not None else "",
                sheet=str(sheet.resolve()) if sheet is not None else "",
                update=update,
                pilots=pilots,
                max_failures=max_failures,
                run_id=run_id or "",
                on_progress=on_progress,
            )
    except KeyboardInterrupt:
        _still_goes_on(context, "")
        raise
    return told_outcome(outcome)


def page_of(api_url: str, flow_run_id: str) -> str:
    """The page of a flow run of a server of one's own; Prefect's cloud has its pages elsewhere, so there it is the API."""
    if not api_url.endswith("/api") or not flow_run_id:
        return api_url
    return f"{api_url.removesuffix('/api')}/runs/flow-run/{flow_run_id}"


def read_workflow_for(context: Context, file: Path) -> Workflow:
    """The workflow of a file, for the table that --table names."""
    from pyanamo_core.workflow_file import read_workflow

    workflow = read_workflow(file)
    return workflow.model_copy(update={"table": context.table}) if context.table else workflow


def _still_goes_on(context: Context, run_id: str) -> None:
    name = f" {run_id}" if run_id else ""
    context.say(
        f"no longer watched; the run and its pilots go on.\n"
        f"look again: pyanamo watch{name}\nstop it:    pyanamo runs cancel{name}"
    )


def told_outcome(outcome: Outcome) -> Told:
    """How a run ended, and the exit code that follows."""
    counts = outcome.counts
    after = "pyanamo results list"
    if not outcome.outcome:
        after = f"pyanamo watch {outcome.run.run_id}"
    elif counts.failed:
        after = "pyanamo items list --state failed"
    elif outcome.outcome == "stopped":
        after = f"pyanamo explain {outcome.run.run_id}"
    elif outcome.outcome != "completed":
        after = "pyanamo run"
    return Told(
        Ended(outcome.run, counts, outcome.outcome, outcome.reason),
        view=_ended_view,
        quiet=[outcome.run.run_id],
        next=after,
        exit_code=0 if outcome.outcome in {"completed", ""} else NOT_COMPLETED,
    )


def _ended_view(told: Ended) -> RenderableType:
    counts = {name: count for name, count in told.counts.model_dump().items() if count}
    shown: dict[str, Any] = {
        "run": told.run.run_id,
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
