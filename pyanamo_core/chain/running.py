"""Where a chain's tables are, and who executes its runs: AWS, and this process."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from uuid import NAMESPACE_URL, uuid5

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.chain.steps import Opened, Runner, Step
from pyanamo_core.errors import TableMissing, WorkflowMissing
from pyanamo_core.fleet.progress import Outcome, Progress
from pyanamo_core.model import Run
from pyanamo_core.protocols import Ledger


def next_run_id(ledger: Ledger, table: str) -> str:
    """Id of the run that a chain begins next in a table: whoever sees the same runs there gives it the same id.

    So two chains that begin a run in one moment begin one run.
    """
    ended = {run.run_id: run.ended is not None for run in ledger.runs()}
    ids = (str(uuid5(NAMESPACE_URL, f"pyanamo:{table}/{number}")) for number in count(len(ended)))
    return next(run_id for run_id in ids if not ended.get(run_id))


class AwsTables:
    """Ledgers in DynamoDB, files in S3."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def open(self, table: str) -> Opened | None:
        from pyanamo_core.ledger import open_ledger

        try:
            return Opened(*open_ledger(self._clients, table))
        except (TableMissing, WorkflowMissing):
            return None

    def provision(self, step: Step, *, new_revision: bool) -> Opened:
        from pyanamo_core.ledger import open_ledger

        done = driver.provision(self._clients, step.workflow, new_revision=new_revision)
        return Opened(*open_ledger(self._clients, done.table, version=done.version))


def plainly(
    clients: Clients,
    *,
    pilots: int | None = None,
    on_begin: Callable[[Step, Run], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Runner:
    """A runner in this process, without Prefect.

    Args:
        pilots: at most, of each run that is begun, instead of the workflow's; nothing of it is stored in a workflow.
        on_begin: told the run before anything is submitted for it.
    """

    def work(step: Step, opened: Opened, live: Run | None) -> Outcome:
        ledger = opened.ledger
        run = live or driver.begin_or_join(
            ledger, opened.version, opened.workflow, run_id=next_run_id(ledger, step.table), pilots=pilots
        )
        if on_begin is not None:
            on_begin(step, run)
        if run.ended is not None:  # another chain has begun and ended it meanwhile
            return Outcome(run, ledger.counts(), run.outcome, run.reason)
        return driver.carry_on(clients, opened.ledger, run, on_progress=on_progress)

    return work
