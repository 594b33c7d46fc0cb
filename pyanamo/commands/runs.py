"""`pyanamo runs …`: executions of a workflow, from fan-out to completion."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told, fields, share, short, size, span, table, when
from pyanamo_core.errors import BadInput, PyAnamoError, RunMissing
from pyanamo_core.model import INTERRUPTIONS, PilotRecord, Run

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.protocols import Ledger
    from pyanamo_core.report.losses import Losses

RUN = Annotated[str | None, typer.Argument(metavar="RUN", help="Its id, or the beginning of it; default: the newest.")]
YES = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
REASON = Annotated[str, typer.Option("--reason", help="Why, for the record.")]


class RunAmbiguous(BadInput):
    """{told} is the beginning of {count} runs: {runs}. Give more of it."""


@dataclass(frozen=True)
class RunView:
    """A run and its pilots."""

    run: Run
    pilots: list[PilotRecord]
    held_up: list[str]
    """Why a live run does not go on, the gravest reason first; empty if nothing keeps it."""
    interrupted: dict[str, int]
    """Pilots that were cut short, by cause: by their own rows, the dead ones by their silence."""
    cost: str = ""
    """What they have cost so far, in a line."""


def find_run(ledger: Ledger, table_name: str, told: str | None) -> Run:
    """The run that is meant: by its id, the beginning of it, or the newest live one (else the newest).

    Raises:
        RunMissing: there is none.
        RunAmbiguous: several begin like that.
    """
    runs = sorted(ledger.runs(), key=lambda run: run.started)
    if told is None:
        if not runs:
            raise RunMissing("Table {table} holds no run yet. Start one with: pyanamo run", table=table_name)
        return next((run for run in reversed(runs) if run.ended is None), runs[-1])
    found = [run for run in runs if run.run_id == told] or [run for run in runs if run.run_id.startswith(told)]
    if not found:
        raise RunMissing(table=table_name, run_id=told)
    if len(found) > 1:
        raise RunAmbiguous(told=told, count=len(found), runs=", ".join(run.run_id for run in found[:5]))
    return found[0]


@command(example=("pyanamo runs list", "pyanamo runs list --json"))
def list_runs(context: Context) -> Told:
    """List runs, the newest first."""
    runs = sorted(context.ledger.runs(), key=lambda run: -run.started)
    return Told(
        runs,
        view=_list_view,
        quiet=[run.run_id for run in runs],
        next=f"pyanamo runs show {runs[0].run_id}" if runs else "pyanamo run",
    )


def _list_view(runs: list[Run]) -> RenderableType:
    if not runs:
        return "no run yet"
    rows = [
        [
            short(run.run_id),
            state_of(run),
            run.workflow_version,
            when(run.started),
            took(run),
            pilots_of(run),
            run.reason.partition(";")[0],
        ]
        for run in runs
    ]
    columns = ["run", "state", "version", "began", "took", "pilots", "reason"]
    return table(columns, rows, right=["version", "took", "pilots"])


@command(example=("pyanamo runs show", "pyanamo runs show 3f2c --json"))
def show(context: Context, run: RUN = None) -> Told:
    """Show a run, its submissions to Batch and its pilots."""
    ledger = context.ledger
    found = find_run(ledger, context.table_name, run)
    live = found.ended is None
    pilots = ledger.pilots(found.run_id)
    held_up = _held_up(context, found) if live else []
    lease_seconds = context.opened.workflow.timing.lease_seconds
    told = RunView(found, pilots, held_up, interrupted(pilots, lease_seconds), _cost(context, found, pilots))
    return Told(
        told,
        view=_show_view,
        quiet=[state_of(found)],
        next=f"pyanamo {'explain' if held_up else 'watch'} {found.run_id}" if live else "pyanamo status",
    )


def _cost(context: Context, run: Run, pilots: list[PilotRecord]) -> str:
    """What a run's pilots have cost; nothing where there are none, or the user's prices cannot be read."""
    from pyanamo.commands.plan import prices_of
    from pyanamo_core.cost.spent import in_words, spent

    if not pilots:
        return ""
    try:
        prices = prices_of(context, None)
        workflow = context.ledger.workflow(run.workflow_version)[1]
    except PyAnamoError as error:
        context.say(f"What it cost is not told: {error}")
        return ""
    timing = workflow.timing
    told = spent(
        pilots,
        prices,
        now=time.time(),
        vcpus=workflow.vcpus,
        beat_seconds=timing.beat_seconds,
        lease_seconds=timing.lease_seconds,
        until=run.ended,
        on_demand_queue=workflow.on_demand_queue,
    )
    return f"{in_words(told)}; more: pyanamo cost {run.run_id}"


def _held_up(context: Context, run: Run) -> list[str]:
    """What Batch and the ledger say keeps a run from going on; nothing where Batch cannot be asked."""
    from pyanamo_core import driver

    try:
        workflow = context.ledger.workflow(run.workflow_version)[1]
        found = driver.explain_run(context.clients, context.ledger, run.run_id, workflow)
    except PyAnamoError as error:
        context.say(f"Batch was not asked what keeps the run: {error}")
        return []
    return [one.told for one in found]


def _stops_at(run: Run) -> list[str]:
    """What ends the run before its items are done."""
    failures = [f"{run.limits.max_failures} failed items"] if run.limits.max_failures else []
    return failures + ([f"${run.max_dollars:,.2f} of machines"] if run.max_dollars is not None else [])


def _show_view(told: RunView) -> RenderableType:
    from rich.console import Group

    run = told.run
    about: dict[str, Any] = {
        "run": run.run_id,
        "state": state_of(run),
        "reason": run.reason,
        "workflow": f"version {run.workflow_version}, revision {run.revision}",
        "began": when(run.started),
        "ended": when(run.ended),
        "took": took(run),
        "pilots": f"at most {run.limits.max_pilots}, {run.limits.items_per_pilot} item(s) at a time each",
        "stops at": " or ".join(_stops_at(run)),
        "only": " ".join(run.only),
        "watched by": run.watcher if run.ended is None else "",
        "Prefect": run.prefect_api_url,
        "flow run": run.flow_run_id,
        "interrupted": interruptions(told.interrupted),
        "cost": told.cost,
    }
    parts: list[Any] = [fields({name: value for name, value in about.items() if value})]
    if told.held_up:
        parts += ["", "\n".join(["it does not go on, because", *(f"  {reason}" for reason in told.held_up)])]
    if run.submissions:
        rows = [
            [one.name, one.size, one.queue, one.definition, one.outcome, short(one.job_id), one.reason]
            for one in run.submissions
        ]
        columns = ["submission", "pilots", "queue", "job definition", "outcome", "Batch job", "reason"]
        parts += ["", table(columns, rows, right=["pilots"])]
    if told.pilots:
        rows = [
            [
                short(pilot.pilot_id),
                pilot.leaving or "works",
                pilot.exit_code,
                pilot.items_done,
                pilot.items_failed or "",
                pilot.nests_done,
                span((pilot.ended or time.time()) - pilot.started),
                size(None if pilot.free_disk_mb is None else pilot.free_disk_mb << 20),
                share(pilot.memory_mb, pilot.memory_limit_mb),
                pilot.host,
                short(pilot.batch_job),
            ]
            for pilot in sorted(told.pilots, key=lambda pilot: pilot.started)
        ]
        columns = [
            "pilot",
            "left",
            "exit",
            "items",
            "failed",
            "nests",
            "time",
            "free disk",
            "memory",
            "host",
            "Batch job",
        ]
        parts += ["", table(columns, rows, right=["exit", "items", "failed", "nests", "time", "free disk"])]
    return Group(*parts)


def interrupted(pilots: list[PilotRecord], lease_seconds: float) -> dict[str, int]:
    """Pilots that were cut short, by cause. A pilot that is silent for a lease without having said farewell is `lost`."""
    told: Counter[str] = Counter()
    for pilot in pilots:
        cause = pilot.leaving.partition(":")[0].strip()
        if pilot.ended is None and pilot.last_beat < time.time() - lease_seconds:
            told["lost"] += 1
        elif cause in {each.value for each in INTERRUPTIONS}:
            told[cause] += 1
    return dict(told)


def interruptions(told: dict[str, int]) -> str:
    """`7 pilots (5 spot, 2 lost); what it cost: pyanamo runs losses`, or nothing."""
    if not told:
        return ""
    causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(told.items(), key=lambda pair: -pair[1]))
    return f"{sum(told.values()):,} pilots ({causes}); what it cost: pyanamo runs losses"


@dataclass(frozen=True)
class LossesView:
    """What interruptions cost a run."""

    run_id: str
    losses: Losses


@command(example=("pyanamo runs losses", "pyanamo runs losses 3f2c --json"))
def losses(context: Context, run: RUN = None) -> Told:
    """Show what interruptions cost a run: attempts cut short and the time lost, by cause. Reads every item."""
    from pyanamo_core.report.losses import losses as of_run

    found = find_run(context.ledger, context.table_name, run)
    told = LossesView(found.run_id, of_run(context.ledger, found.run_id))
    return Told(
        told,
        view=_losses_view,
        quiet=[f"{told.losses.lost_seconds:.0f}"],
        next=f"pyanamo runs show {run or ''}".strip(),
    )


def _losses_view(told: LossesView) -> RenderableType:
    from rich.console import Group

    lost = told.losses
    if not lost.attempts:
        return f"run {told.run_id}: no attempt was cut short"
    rows = [[each.cause, f"{each.attempts:,}", f"{each.items:,}", span(each.lost_seconds)] for each in lost.causes]
    if len(rows) > 1:
        rows.append(["all", f"{lost.attempts:,}", f"{lost.items:,}", span(lost.lost_seconds)])
    columns = ["cause", "attempts cut short", "items", "time lost"]
    parts: list[Any] = [
        f"run {told.run_id}: interruptions, which are no failures; nests that were done stay done",
        table(columns, rows, right=columns[1:]),
    ]
    if len(lost.queues) > 1:
        by_queue = [[each.queue or "not told", f"{each.attempts:,}", span(each.lost_seconds)] for each in lost.queues]
        columns = ["queue", "attempts cut short", "time lost"]
        parts.append(table(columns, by_queue, right=columns[1:]))
    return Group(*parts)


@command(example=("pyanamo runs drain", "pyanamo runs drain 3f2c --finish --reason 'new reference'"))
def drain(
    context: Context,
    run: RUN = None,
    reason: REASON = "",
    finish: Annotated[bool, typer.Option("--finish", help="Pilots first finish the items that they hold.")] = False,
) -> Told:
    """Let a run's pilots end what runs within a beat, hand back what they hold, and leave. Nothing counts, nothing is lost."""
    from pyanamo_core import driver

    found = find_run(context.ledger, context.table_name, run)
    return _after(driver.drain(context.ledger, found.run_id, reason, finish=finish))


@command(example=("pyanamo runs cancel", "pyanamo runs cancel 3f2c --yes"))
def cancel(context: Context, run: RUN = None, reason: REASON = "", yes: YES = False) -> Told:
    """Stop a run: its pilots hand back what they hold, and its Batch jobs are terminated. Items are not cancelled."""
    from pyanamo_core import driver

    found = find_run(context.ledger, context.table_name, run)
    if found.ended is None:
        context.confirm(f"Cancel run {found.run_id}, which has begun at {when(found.started)}", yes=yes)
        context.say(f"waiting until its pilots have handed back (at most {driver.CANCEL_WAIT_SECONDS:.0f}s)")
    return _after(driver.cancel(context.clients, context.ledger, found.run_id, reason))


def _after(run: Run) -> Told:
    return Told(
        run,
        view=lambda one: f"run {one.run_id}: {state_of(one)}" + (f" ({one.reason})" if one.reason else ""),
        quiet=[run.run_id],
        next="pyanamo status" if run.ended else f"pyanamo watch {run.run_id}",
    )


def state_of(run: Run) -> str:
    """How a run ended, or what it does now."""
    if run.ended is not None:
        return run.outcome or "ended"
    return {"run": "runs", "drain": "drains", "cancel": "is being cancelled"}[run.mode]


def took(run: Run) -> str:
    """Time since a run began, or until it ended."""
    return span((run.ended or time.time()) - run.started) if run.started else ""


def pilots_of(run: Run) -> int:
    """Pilots that were submitted."""
    return sum(one.size for one in run.submissions if one.outcome != "failed")
