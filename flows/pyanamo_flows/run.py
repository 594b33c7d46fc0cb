"""The flow `run`: a run from table to report. Its parts are subflows: provision, import_sheet, fan_out, watch, report.

The run's id is this flow run's id. What it ends as comes from the ledger. `start` is what `pyanamo run` calls: the same
flow in this process, whose outcome does not depend on Prefect either.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as own
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from pydantic import Field

from pyanamo_core import canary, driver
from pyanamo_core.aws import Clients
from pyanamo_core.cost.estimate import estimate
from pyanamo_core.cost.prices import price_list
from pyanamo_core.cost.work import is_genomic, work_of_table
from pyanamo_core.errors import PyAnamoError, RunMissing
from pyanamo_core.ledger import open_ledger
from pyanamo_core.model import Run, VcpuHour
from pyanamo_core.protocols import Ledger
from pyanamo_core.scripts import publish_scripts
from pyanamo_core.sheet import read_sheet
from pyanamo_flows import entry
from pyanamo_flows.fan_out import fan_out, submit
from pyanamo_flows.hooks import on_cancellation
from pyanamo_flows.import_sheet import import_sheet
from pyanamo_flows.parameters import Aws, local_file, workflow_from
from pyanamo_flows.provision import provision
from pyanamo_flows.publish import drain
from pyanamo_flows.report import report
from pyanamo_flows.watch import progress_listener, state_of, watch

DRAIN_SECONDS = 5.0
log = logging.getLogger("pyanamo.prefect")
Detail = Literal["auto", "nest", "item", "none"]


@dataclass
class _Trace:
    """How far a `run` in this process came, for `start`."""

    table: str = ""
    run_id: str = ""
    error: BaseException | None = None


_trace: ContextVar[_Trace | None] = ContextVar("pyanamo_run_trace", default=None)


@flow(name="run", persist_result=False, on_cancellation=[on_cancellation])
def run(
    table: str = "",
    workflow: str = "",
    sheet: str = "",
    update: bool = False,
    delimiter: str = "",
    nested_delimiter: str = ",",
    pilots: Annotated[int, Field(ge=1, le=100_000)] | None = None,
    max_failures: Annotated[int, Field(ge=1)] | None = None,
    max_dollars: Annotated[float, Field(gt=0)] | None = None,
    first: Annotated[int, Field(ge=1, le=100)] | None = None,
    prefect_detail: Detail | None = None,
    run_id: str = "",
    aws: Aws = Aws(),  # noqa: B008 - Prefect's form needs it
) -> State[Any]:
    """Work off a table: import a sheet if one is given, start pilots on AWS Batch, watch them, sum up.

    Cancelling this flow run cancels the run and ends its pilots. If it fails or crashes, the pilots go on; start it
    again with `run_id` to carry on, or let `recover` find it.

    Args:
        table: Name of the table. Empty: as the workflow file says.
        workflow: Path or s3:// address of a workflow file. Empty: the newest version that the table holds.
        sheet: Path or s3:// address of a sheet to import first. Empty: what the table holds is worked off.
        update: Edit items that stand in the table with another definition; else the sheet is refused.
        delimiter: Delimiter of the sheet's columns. Empty: found out.
        nested_delimiter: Delimiter of the nests in TaskArgs.
        pilots: Pilots at most. Empty: as the workflow says.
        max_failures: Stop claiming when so many items have failed. Empty: as the workflow says.
        max_dollars: Drain the run when the machines of its pilots have cost so much. Empty: as the workflow says.
        first: Run so many items first. The others follow if these are all done, and fit into what max_dollars leaves.
        prefect_detail: What Prefect shows of a pilot's work. Empty: as the workflow says.
        run_id: Carry on with this run instead of beginning a new one.
        aws: Which AWS to talk to.
    """
    trace = _trace.get() or _Trace()
    try:
        done = provision(table=table, workflow=workflow, aws=aws)
        trace.table = done.table
        if sheet:
            import_sheet(done.table, sheet, update, delimiter, nested_delimiter, aws)
        if first and not run_id:
            before = run_first(done.table, first, pilots, max_failures, max_dollars, aws)
            if before.ended_here is not None:
                return state_of(before.ended_here)
            max_dollars = before.max_dollars
        return _run(trace, done.version, pilots, max_failures, max_dollars, prefect_detail, run_id, aws)
    except BaseException as error:
        trace.error = error
        raise


def _run(
    trace: _Trace,
    version: int,
    pilots: int | None,
    max_failures: int | None,
    max_dollars: float | None,
    prefect_detail: Detail | None,
    run_id: str,
    aws: Aws,
) -> State[Any]:
    log = get_run_logger()
    table = trace.table
    clients = aws.clients()
    ledger, version, told = open_ledger(clients, table, version=version)
    begun = existing(ledger, run_id)
    if begun is None:
        url, why = entry.url_for_pilots(entry.api_url(), told.prefect_api_url_for_pilots, clients.endpoint_url)
        if why:
            log.warning("Pilots are not shown in Prefect: %s", why)
        # Of those that begin the run of one id in one moment, one begins it and the others look on.
        begun = driver.begin_or_join(
            ledger,
            version,
            told,
            run_id=run_id or str(own.id),
            pilots=pilots,
            flow_run_id=str(own.id),
            prefect_api_url=url,
            prefect_detail=prefect_detail or told.prefect_detail,
            max_failures=max_failures,
            max_dollars=max_dollars,
            vcpu_hour=prices_here(clients),
        )
    trace.run_id = begun.run_id
    log.info("Run %s of table %s: up to %s pilots", begun.run_id, table, begun.limits.max_pilots)
    seen = True
    if begun.ended is None:
        fan_out(table=table, run_id=begun.run_id, aws=aws)
        seen = _watch(ledger, begun.run_id, table, aws)
    if seen:
        _report(table, begun.run_id, aws)
    return state_of(outcome_of(ledger, begun.run_id))


def prices_here(clients: Clients) -> VcpuHour:
    """What a vCPU costs in the clients' region, by the file of prices that the environment names or PyAnamo's own."""
    return driver.vcpu_hour_of(price_list(clients.region or "", os.environ.get("PYANAMO_PRICES") or None))


@dataclass(frozen=True)
class First:
    """What a canary leaves: the dollars for the others; or how the flow ends with it."""

    max_dollars: float | None = None
    ended_here: driver.Outcome | None = None


def run_first(
    table: str, count: int, pilots: int | None, max_failures: int | None, max_dollars: float | None, aws: Aws
) -> First:
    """Run a canary in this flow (its pilots are not shown), and say whether the others follow: nobody can be asked here."""
    log = get_run_logger()
    clients = aws.clients()
    ledger, _, told = open_ledger(clients, table)
    limit = max_dollars if max_dollars is not None else told.budgets.max_dollars
    outcome = canary.run_first(
        clients,
        told,
        count,
        pilots=pilots,
        max_failures=max_failures,
        max_dollars=limit,
        vcpu_hour=prices_here(clients),
        on_progress=progress_listener.get(),
    )
    if outcome is None:
        return First(limit)
    found = canary.measured(ledger, outcome.run, told)
    log.info(
        "Canary %s: %s done, %s failed, %.1f s a nest, %.3g vCPU hours",
        ", ".join(found.items),
        found.done,
        found.failed,
        found.nest_seconds,
        found.vcpu_hours,
    )
    if outcome.outcome != "completed" or limit is None:
        return First(limit, outcome if outcome.outcome != "completed" else None)
    left = max(0.01, limit - (found.dollars[1] if found.dollars else 0.0))
    pace = canary.pace(ledger, outcome.run, genomic=is_genomic(ledger))
    work = work_of_table(ledger, pace, at_once=told.nests)
    needed = estimate(told, work, pace, price_list(clients.region or "", os.environ.get("PYANAMO_PRICES") or None))
    if needed.hours is not None and needed.once.low > left:
        reason = f"the others would cost ${needed.once.low:,.2f} or more, max_dollars leaves ${left:,.2f}"
        log.error("%s; they were not begun", reason)
        return First(left, driver.Outcome(outcome.run, ledger.counts(), "stopped", reason))
    return First(left)


def existing(ledger: Ledger, run_id: str) -> Run | None:
    """The run that is to be carried on, if it stands in the table."""
    if not run_id:
        return None
    try:
        return ledger.run(run_id)
    except RunMissing:
        return None


def outcome_of(ledger: Ledger, run_id: str) -> driver.Outcome:
    """A run's outcome by its row."""
    row = ledger.run(run_id)
    return driver.Outcome(row, ledger.counts(), row.outcome, row.reason)


def _watch(ledger: Ledger, run_id: str, table: str, aws: Aws) -> bool:
    """Watch. Once the ledger says that the run has ended, what Prefect makes of that flow run does not matter.

    Returns:
        Is Prefect still there?
    """
    try:
        watch(table=table, run_id=run_id, aws=aws, return_state=True)
    except Exception as error:
        if ledger.run(run_id).ended is None:
            raise
        get_run_logger().warning("Prefect could not end the flow run `watch`: %s", error)
        return False
    return True


def _report(table: str, run_id: str, aws: Aws) -> None:
    try:
        report(table=table, run_id=run_id, aws=aws)
    except Exception as error:  # noqa: BLE001 - a picture of the run, not the run
        get_run_logger().warning("No report: %s: %s", type(error).__name__, error)


def start(
    clients: Clients,
    *,
    table: str = "",
    workflow: str = "",
    sheet: str = "",
    update: bool = False,
    delimiter: str = "",
    nested_delimiter: str = ",",
    pilots: int | None = None,
    max_failures: int | None = None,
    max_dollars: float | None = None,
    prefect_detail: Detail | None = None,
    run_id: str = "",
    aws: Aws | None = None,
    on_progress: Callable[[driver.Progress], None] | None = None,
) -> driver.Outcome:
    """Run the flow `run` in this process, and tell how it ended by the ledger. For `pyanamo run`.

    Prefect that cannot be reached, or goes away in the middle, costs the window only: the run is begun or carried on
    in plain Python.

    Args:
        clients: of the same AWS as `aws` (by default: their endpoint and region).
        on_progress: called at each poll of the watch.

    Raises:
        PyAnamoError: as driver.run does.
    """
    aws = aws or Aws(region=clients.region or "", endpoint_url=clients.endpoint_url or "")
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        # To Prefect, not to the terminal: the command shows the run itself, and errors once.
        logging.getLogger(name).propagate = False
    told: dict[str, Any] = {
        "table": table,
        "workflow": workflow,
        "sheet": sheet,
        "update": update,
        "delimiter": delimiter,
        "nested_delimiter": nested_delimiter,
        "pilots": pilots,
        "max_failures": max_failures,
        "max_dollars": max_dollars,
        "prefect_detail": prefect_detail,
        "run_id": run_id,
        "aws": aws,
    }
    try:
        # A person waits for this process: where Prefect is gone, each of its calls is tried twice, not six times.
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
            outcome = run_here(clients, told, on_progress=on_progress)
    finally:
        drain(DRAIN_SECONDS)
    if outcome is not None:
        return outcome
    bounds = {"pilots": pilots, "max_failures": max_failures, "max_dollars": max_dollars}
    return _plainly(clients, table, workflow, sheet, update, bounds, run_id, delimiter, nested_delimiter, on_progress)


def run_here(
    clients: Clients, parameters: dict[str, Any], *, on_progress: Callable[[driver.Progress], None] | None = None
) -> driver.Outcome | None:
    """The flow `run` in this process, as a subflow where a flow is running; its outcome by the ledger.

    If Prefect takes the watch with it, the run is watched here.

    Args:
        parameters: the flow's.

    Returns:
        None: Prefect failed before the run stood in its table.

    Raises:
        PyAnamoError: as driver.run does.
    """
    trace = _Trace()
    held, listening = _trace.set(trace), progress_listener.set(on_progress)
    gone: BaseException | None = None
    try:
        run(**parameters, return_state=True)
    except Exception as error:  # noqa: BLE001 - Prefect's; ours stand in the trace
        gone = error
    finally:
        progress_listener.reset(listening)
        _trace.reset(held)
    if isinstance(trace.error, PyAnamoError):
        raise trace.error
    if gone is not None:
        log.warning("Prefect: %s: %.300s; the run goes on without it", type(gone).__name__, gone)
    return _carry_on(clients, trace, on_progress) if trace.run_id else None


def _carry_on(clients: Clients, trace: _Trace, on_progress: Callable[[driver.Progress], None] | None) -> driver.Outcome:
    """The outcome of a run that has begun; if Prefect took the watch with it, it is watched here."""
    ledger, _, _ = open_ledger(clients, trace.table)
    row = ledger.run(trace.run_id)
    if row.ended is not None:
        return outcome_of(ledger, trace.run_id)
    _, told = ledger.workflow(row.workflow_version)
    submit(clients, ledger, row, told)
    watcher = driver.watcher_name()
    return driver.watch(clients, ledger, row.run_id, told, watcher=watcher, on_progress=on_progress)


def _plainly(
    clients: Clients,
    table: str,
    workflow: str,
    sheet: str,
    update: bool,
    bounds: Mapping[str, Any],
    run_id: str,
    delimiter: str,
    nested_delimiter: str,
    on_progress: Callable[[driver.Progress], None] | None,
) -> driver.Outcome:
    """The whole run without Prefect."""
    if workflow:
        told = publish_scripts(clients, workflow_from(clients, workflow, table))
    else:
        told = open_ledger(clients, table)[2]
    with ExitStack() as stack:
        found = None
        if sheet:
            path = stack.enter_context(local_file(clients, sheet))
            found = read_sheet(path, delimiter=delimiter or None, nested_delimiter=nested_delimiter)
        return driver.run(
            clients,
            told,
            sheet=found,
            update=update,
            run_id=run_id or None,
            on_progress=on_progress,
            vcpu_hour=prices_here(clients),
            **bounds,
        )
