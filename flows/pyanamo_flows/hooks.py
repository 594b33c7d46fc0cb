"""Cancelling in Prefect cancels the run: first its mode in the ledger, then its array jobs.

Prefect calls the hook by keyword from the runner's process, where nothing is in memory, and by position from the flow's
own: names and order of its arguments are Prefect's. It may be called twice. The run is found by its key, never by a
search. Only cancelling ends pilots; a flow that failed or crashed leaves them working, and `recover` finds them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.errors import NotFound
from pyanamo_core.ledger import open_ledger
from pyanamo_flows.parameters import Aws, table_of

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

log = logging.getLogger("pyanamo.prefect")


def run_key(flow_run: FlowRun) -> str:
    """Id of the PyAnamo run that a flow run is about: its parameter `run_id`, or its own id if it began the run."""
    return str((flow_run.parameters or {}).get("run_id") or flow_run.id)


def clients_of(parameters: dict[str, Any]) -> Clients:
    """The clients of a flow run's parameter `aws`, which is a model in the flow's own process and plain data elsewhere."""
    aws = parameters.get("aws")
    return (aws if isinstance(aws, Aws) else Aws.model_validate(aws or {})).clients()


def wait_seconds() -> float:
    """How long to wait for the jobs' end. A flow's own process is being ended by its runner and has no time for that."""
    from prefect.context import FlowRunContext

    return driver.CANCEL_WAIT_SECONDS if FlowRunContext.get() is None else 0.0


def on_cancellation(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the run of this flow run. Nothing to cancel is success. `flow` and `state` are Prefect's, unused."""
    del flow, state
    given: dict[str, Any] = dict(flow_run.parameters or {})
    clients = clients_of(given)
    run_id = run_key(flow_run)
    try:
        table = table_of(clients, str(given.get("table") or ""), str(given.get("workflow") or ""))
        ledger, _, _ = open_ledger(clients, table)
        driver.cancel(clients, ledger, run_id, reason="cancelled in Prefect", wait_seconds=wait_seconds())
    except NotFound as nothing:
        # Cancelled before the run stood in the table: no job can have been submitted for it.
        log.warning("Nothing to cancel: %s", nothing)
        return
    log.warning("Run %s of table %s is cancelled, its jobs are terminated", run_id, table)
