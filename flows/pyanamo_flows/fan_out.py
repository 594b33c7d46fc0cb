"""The subflow `fan_out`: the array jobs of a run. Doing it again submits nothing twice."""

from __future__ import annotations

from prefect import flow, get_run_logger
from pydantic import BaseModel

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.ledger import open_ledger
from pyanamo_core.model import Run
from pyanamo_core.protocols import Ledger
from pyanamo_core.workflow import Workflow
from pyanamo_flows.hooks import on_cancellation
from pyanamo_flows.parameters import Aws


class FannedOut(BaseModel):
    """The Batch jobs of a run, and their pilots in all."""

    jobs: list[str]
    pilots: int


@flow(name="fan_out", persist_result=False, on_cancellation=[on_cancellation])
def fan_out(table: str, run_id: str, aws: Aws = Aws()) -> FannedOut:  # noqa: B008 - Prefect's form needs it
    """Submit the pilots of a run that stands in the table.

    Args:
        table: Name of the table.
        run_id: Id of the run.
        aws: Which AWS to talk to.
    """
    clients = aws.clients()
    ledger, _, _ = open_ledger(clients, table)
    run = ledger.run(run_id)
    _, workflow = ledger.workflow(run.workflow_version)
    run = submit(clients, ledger, run, workflow) if run.ended is None else run
    done = [submission for submission in run.submissions if submission.job_id]
    told = FannedOut(jobs=[submission.job_id for submission in done], pilots=sum(s.size for s in done))
    get_run_logger().info("%s pilots in %s jobs: %s", told.pilots, len(told.jobs), ", ".join(told.jobs) or "none")
    return told


def submit(clients: Clients, ledger: Ledger, run: Run, workflow: Workflow) -> Run:
    """Fan a run out; one whose first submission is refused ends as `stopped`, since no pilot will ever come.

    Raises:
        SubmitRefused, DefinitionMissing, OverridesTooBig: nothing was submitted, and why.
    """
    try:
        return driver.fan_out(clients, ledger, run, workflow, watcher=driver.watcher_name())
    except PyAnamoError as error:
        if all(each.outcome == "failed" for each in ledger.run(run.run_id).submissions):
            ledger.end_run(run.run_id, "stopped", str(error))
        raise
