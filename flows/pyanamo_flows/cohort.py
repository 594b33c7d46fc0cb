"""The flow `cohort`: call → gather → joint → concat → report. Each step's run is a subflow `run` of it.

What is to be done comes from the ledgers (pyanamo_core.chain); this flow only has the runs executed where Prefect sees
them. A run's id is a parameter of its subflow, so that a cancel finds those that this flow run began or carried on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as own
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.chain import AwsTables, Chain, Look, Opened, Runner, Say, Step, StepIncomplete, StepStopped, plainly
from pyanamo_core.chain.cohort import cohort_steps, tables_of
from pyanamo_core.chain.running import next_run_id
from pyanamo_core.errors import NotFound, PyAnamoError
from pyanamo_core.ledger import open_ledger
from pyanamo_core.model import Run
from pyanamo_core.sheet import read_sheet
from pyanamo_flows import publish
from pyanamo_flows.hooks import clients_of, wait_seconds
from pyanamo_flows.parameters import Aws, NothingNamed, local_file, table_of, workflow_from
from pyanamo_flows.run import DRAIN_SECONDS, Detail, run_here

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.flows import Flow

log = logging.getLogger("pyanamo.prefect")


@dataclass
class _Trace:
    """What a `cohort` in this process came to, for `start`, and how it is shown there."""

    looks: list[Look] = field(default_factory=list[Look])
    error: BaseException | None = None
    ended: bool = False
    on_progress: Callable[[driver.Progress], None] | None = None
    wrap: Callable[[Runner], Runner] | None = None
    say: Say | None = None


_trace: ContextVar[_Trace | None] = ContextVar("pyanamo_cohort_trace", default=None)


# ---------------------------------------------------------------------------------------------------- cancelling


def on_cancellation(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the run of the step that is live, begun or carried on by this flow run. `flow` and `state` are unused."""
    del flow, state
    given: dict[str, Any] = dict(flow_run.parameters or {})
    clients = clients_of(given)
    try:
        table = table_of(clients, str(given.get("table") or ""), str(given.get("workflow") or ""))
    except NotFound as nothing:
        log.warning("Nothing to cancel: %s", nothing)
        return
    shown = publish.Guard("the runs below this flow run")(_runs_below, str(flow_run.id))
    if shown is None:
        log.warning("Prefect does not say which runs are below this flow run: cancel them with `pyanamo cancel`")
        return
    for name in dict.fromkeys(tables_of(table).values()):
        try:
            ledger = open_ledger(clients, name)[0]
        except NotFound:
            continue
        mine = {run_id for where, run_id in shown if where == name}
        for run in ledger.live_runs():
            if run.run_id in mine:
                driver.cancel(clients, ledger, run.run_id, reason="cancelled in Prefect", wait_seconds=wait_seconds())
                log.warning("Run %s of table %s is cancelled, its jobs are terminated", run.run_id, name)


def _runs_below(flow_run_id: str) -> list[tuple[str, str]]:
    """(table, run id) of the flow runs `run` below a flow run, by Prefect's word: also those that were carried on."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    with get_client(sync_client=True) as client:
        parent = FlowRunFilterParentFlowRunId(any_=[UUID(flow_run_id)])
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
    told = [one.parameters or {} for one in found]
    return [(str(one.get("table") or ""), str(one["run_id"])) for one in told if one.get("run_id")]


# ---------------------------------------------------------------------------------------------------- the flow


@flow(name="cohort", persist_result=False, on_cancellation=[on_cancellation])
def cohort(
    table: str = "",
    workflow: str = "",
    sheet: str = "",
    update: bool = False,
    also: list[str] | None = None,
    partial: bool = False,
    first: str = "",
    last: str = "",
    pilots: Annotated[int, Field(ge=1, le=100_000)] | None = None,
    new_revision: bool = False,
    prefect_detail: Detail | None = None,
    aws: Aws = Aws(),  # noqa: B008 - Prefect's form needs it
) -> State[Any]:
    """From samples to the VCF of their cohort: call, gather, joint, concat, report. What is done is not done again.

    Cancelling this flow run cancels the run of the step that is live. If it fails or crashes, that run's pilots go on;
    start `cohort` again to carry on.

    Args:
        table: Name of the call's table. Empty: as the workflow file says.
        workflow: Path or s3:// address of a workflow file. Empty: the newest version that the table holds.
        sheet: Path or s3:// address of a sheet of samples to import first.
        update: Edit items that stand in the table with another definition; else the sheet is refused.
        also: Call tables of earlier cohorts, or s3:// prefixes with gathered gVCFs, called jointly with these.
        partial: Go on although samples failed or lack loci.
        first: The step to begin with: call, gather, joint, concat or report.
        last: The step to end with.
        pilots: Pilots at most, of each step. Empty: as the workflow says.
        new_revision: Have done nests of another revision done again.
        prefect_detail: What Prefect shows of a pilot's work. Empty: as the workflow says.
        aws: Which AWS to talk to.
    """
    trace = _trace.get() or _Trace()
    flow_log = get_run_logger()
    clients = aws.clients()

    def say(text: str) -> None:
        flow_log.info("%s", text)
        if trace.say is not None:
            trace.say(text)

    def runner(step: Step, opened: Opened, live: Run | None) -> driver.Outcome:
        run_id = live.run_id if live else next_run_id(opened.ledger, step.table)
        told = {"table": step.table, "run_id": run_id, "prefect_detail": prefect_detail, "pilots": pilots, "aws": aws}
        outcome = run_here(clients, told, on_progress=trace.on_progress)
        return outcome or plainly(clients, pilots=pilots, on_progress=trace.on_progress)(step, opened, live)

    try:
        with ExitStack() as stack:
            chain = open_chain(stack, clients, table, workflow, sheet, update, also or [], partial, new_revision)
            wrapped = trace.wrap(runner) if trace.wrap else runner
            trace.looks = chain.run(wrapped, first=first, last=last, say=say)
    except (StepIncomplete, StepStopped) as stopped:
        trace.error = stopped
        return _state_of(stopped)
    except BaseException as error:
        trace.error = error
        raise
    trace.ended = True
    _show(table or chain.steps[0].table, trace.looks)
    return Completed(message="; ".join(f"{one.step} {one.state}" for one in trace.looks))


def open_chain(
    stack: ExitStack,
    clients: Clients,
    table: str,
    workflow: str,
    sheet: str,
    update: bool,
    also: Sequence[str],
    partial: bool,
    new_revision: bool,
) -> Chain:
    """The chain of these parameters; a sheet in S3 is a file here until the stack closes."""
    if workflow:
        told = workflow_from(clients, workflow, table)
    elif table:
        told = open_ledger(clients, table)[2]
    else:
        raise NothingNamed
    found = read_sheet(stack.enter_context(local_file(clients, sheet))) if sheet else None
    steps = cohort_steps(clients, told, sheet=found, update=update, partial=partial, also=also)
    return Chain(steps, AwsTables(clients), partial=partial, new_revision=new_revision)


def _state_of(stopped: StepIncomplete | StepStopped) -> State[Any]:
    outcome = str(stopped.facts.get("outcome", ""))
    if outcome == "cancelled":
        return Cancelled(message=str(stopped))
    if outcome == "drained":
        return Completed(name="Drained", message=str(stopped))
    return Failed(message=str(stopped))


def _show(table: str, looks: Sequence[Look]) -> None:
    rows = [
        {"step": one.step, "table": one.table, "state": str(one.state), "done": one.done, "items": one.wanted}
        for one in looks
    ]
    guard = publish.Guard("the table of steps")
    flow_run_id = UUID(str(own.id)) if own.id else None
    guard(publish.put_artifact, {}, publish.key(table, "cohort"), "table", rows, f"Cohort of {table}", flow_run_id)


def start(
    clients: Clients,
    *,
    table: str = "",
    workflow: str = "",
    sheet: str = "",
    update: bool = False,
    also: Sequence[str] = (),
    partial: bool = False,
    first: str = "",
    last: str = "",
    pilots: int | None = None,
    new_revision: bool = False,
    aws: Aws | None = None,
    on_progress: Callable[[driver.Progress], None] | None = None,
    wrap: Callable[[Runner], Runner] | None = None,
    say: Say | None = None,
) -> list[Look]:
    """Run the flow `cohort` in this process, and tell how its steps stand by the ledgers. For `pyanamo cohort run`.

    Prefect that cannot be reached, or goes away in the middle, costs the window only: the chain goes on without it.

    Args:
        clients: of the same AWS as `aws` (by default: their endpoint and region).
        on_progress: called at each poll of a step's run.
        wrap: put around what executes a step's run.
        say: told what is done.

    Raises:
        PyAnamoError: as Chain.run does.
    """
    aws = aws or Aws(region=clients.region or "", endpoint_url=clients.endpoint_url or "")
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).propagate = False
    trace = _Trace(on_progress=on_progress, wrap=wrap, say=say)
    held = _trace.set(trace)
    gone: BaseException | None = None
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
            cohort(
                table=table,
                workflow=workflow,
                sheet=sheet,
                update=update,
                also=list(also),
                partial=partial,
                first=first,
                last=last,
                pilots=pilots,
                new_revision=new_revision,
                aws=aws,
                return_state=True,
            )
    except Exception as error:  # noqa: BLE001 - Prefect's; ours stand in the trace
        gone = error
    finally:
        _trace.reset(held)
        publish.drain(DRAIN_SECONDS)
    if isinstance(trace.error, PyAnamoError):
        raise trace.error
    if trace.ended:
        return trace.looks
    if gone is not None or trace.error is not None:
        what = gone or trace.error
        log.warning("Prefect: %s: %.300s; the cohort goes on without it", type(what).__name__, what)
    with ExitStack() as stack:
        chain = open_chain(stack, clients, table, workflow, sheet, update, also, partial, new_revision)
        runner = plainly(clients, pilots=pilots, on_progress=on_progress)
        return chain.run(wrap(runner) if wrap else runner, first=first, last=last, **({"say": say} if say else {}))
