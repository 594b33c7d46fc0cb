"""`pyanamo status`: how far a workflow is, who works on it, and what failed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyanamo.commands.items import quoted
from pyanamo.commands.runs import interrupted, interruptions
from pyanamo.context import Context, command
from pyanamo.render import Told, fields, share, short, size, span, table, when
from pyanamo_core.fleet.failures import Failure, failures
from pyanamo_core.model import Counts, PilotRecord, Run

if TYPE_CHECKING:
    from rich.console import RenderableType

BEATS = 3
"""A pilot that has been silent for so many leases counts as gone."""


@dataclass(frozen=True)
class Status:
    """A table at this moment."""

    table: str
    workflow: str
    version: int
    revision: str
    counts: Counts
    runs: list[Run]
    pilots: list[PilotRecord]
    failures: list[Failure]
    obstacles: list[str]
    """Why a live run that nobody works for does not go on."""
    interrupted: dict[str, int]
    """Pilots of live runs, or of the last one, that were cut short, by cause."""


@command(example=("pyanamo status", "pyanamo status --table HaplotypeCaller --json"))
def status(context: Context) -> Told:
    """Show items by state, live runs and pilots, and why items failed."""
    opened = context.opened
    ledger, workflow = opened.ledger, opened.workflow
    fresh = time.time() - BEATS * workflow.timing.lease_seconds
    counts = ledger.counts()
    runs = ledger.live_runs()
    everybody = ledger.pilots()
    pilots = [pilot for pilot in everybody if pilot.ended is None and pilot.last_beat >= fresh]
    of_runs = {run.run_id for run in runs} or {everybody[-1].run_id for _ in everybody[-1:]}
    cut_short = interrupted([each for each in everybody if each.run_id in of_runs], workflow.timing.lease_seconds)
    told = Status(
        table=context.table_name,
        workflow=workflow.name,
        version=opened.version,
        revision=workflow.revision,
        counts=counts,
        runs=runs,
        pilots=pilots,
        failures=failures(ledger) if counts.failed else [],
        obstacles=_obstacles(context, runs, {pilot.run_id for pilot in pilots}),
        interrupted=cut_short,
    )
    return Told(told, view=_view, quiet=_quiet(counts), next=_next(told))


def _obstacles(context: Context, runs: list[Run], at_work: set[str]) -> list[str]:
    """What Batch and ledger say of live runs without a pilot at work."""
    from pyanamo_core import driver
    from pyanamo_core.errors import PyAnamoError

    told: list[str] = []
    for run in runs:
        if run.run_id in at_work:
            continue
        try:
            _, workflow = context.ledger.workflow(run.workflow_version)
            found = driver.explain_run(context.clients, context.ledger, run.run_id, workflow)
        except PyAnamoError as error:
            told.append(f"run {run.run_id}: why it does not go on could not be asked: {error}")
        else:
            told += [one.told for one in found] or [f"run {run.run_id}: no pilot works for it yet"]
    return list(dict.fromkeys(told))


def _quiet(counts: Counts) -> list[str]:
    return [f"{name} {count}" for name, count in counts.model_dump().items()]


def _next(told: Status) -> str:
    if told.runs and told.obstacles:
        return f"pyanamo explain {told.runs[0].run_id}"
    if told.runs:
        return f"pyanamo watch {told.runs[0].run_id}"
    if told.counts.failed:
        return (
            f"pyanamo logs {quoted(told.failures[0].example)}" if told.failures else "pyanamo items list --state failed"
        )
    if told.counts.open:
        return "pyanamo run"
    return "pyanamo results list" if told.counts.total else "pyanamo sheet import sheet.txt"


def _view(told: Status) -> RenderableType:
    from rich.console import Group

    counts = told.counts
    total = counts.total
    rows = [[name, f"{count:,}", f"{count / total:.1%}"] for name, count in counts.model_dump().items() if count]
    parts: list[Any] = [
        fields({"table": told.table, "workflow": f"{told.workflow}, version {told.version}, revision {told.revision}"}),
        "",
        table(["state", "items", ""], [*rows, ["all", f"{total:,}", ""]], right=["items", ""])
        if total
        else "no items yet",
    ]
    if told.runs:
        parts += ["", table(["live run", "mode", "began", "since"], [_run_row(run) for run in told.runs])]
    if told.pilots:
        columns = ["pilot", "holds", "items done", "nests done", "free disk", "memory", "last beat"]
        parts += ["", table(columns, [_pilot_row(pilot) for pilot in told.pilots[:20]])]
        if len(told.pilots) > 20:
            parts.append(f"… and {len(told.pilots) - 20} more pilots")
    if told.interrupted:
        parts += ["", f"cut short, which is no failure: {interruptions(told.interrupted)}"]
    if told.failures:
        columns = ["failed items", "cause", "message", "e.g."]
        failed = [[one.items, one.cause, one.message, one.example] for one in told.failures]
        parts += ["", table(columns, failed, right=["failed items"])]
    if told.obstacles:
        parts += ["", *told.obstacles]
    return Group(*parts)


def _run_row(run: Run) -> list[str]:
    return [short(run.run_id), str(run.mode), when(run.started), span(time.time() - run.started)]


def _pilot_row(pilot: PilotRecord) -> list[Any]:
    return [
        short(pilot.pilot_id),
        pilot.holding,
        pilot.items_done,
        pilot.nests_done,
        size(None if pilot.free_disk_mb is None else pilot.free_disk_mb << 20),
        share(pilot.memory_mb, pilot.memory_limit_mb),
        f"{span(time.time() - pilot.last_beat)} ago",
    ]
