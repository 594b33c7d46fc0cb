"""The subflow `provision`: the table and the workflow version of a run."""

from __future__ import annotations

from prefect import flow, get_run_logger
from pydantic import BaseModel

from pyanamo_core import driver
from pyanamo_core.ledger import open_ledger
from pyanamo_core.scripts import publish_scripts
from pyanamo_flows.parameters import Aws, NothingNamed, workflow_from


class Provisioned(BaseModel):
    """The table of a run, the workflow version that it will pin, and whether the table is new."""

    table: str
    version: int
    created: bool


@flow(name="provision", persist_result=False)
def provision(table: str = "", workflow: str = "", aws: Aws = Aws()) -> Provisioned:  # noqa: B008 - Prefect's form needs it
    """Make sure that the table, the workflow version, the queue and the job definition are there.

    Args:
        table: Name of the table. Empty: as the workflow file says.
        workflow: Path or s3:// address of a workflow file; empty: the newest version in the table.
        aws: Which AWS to talk to.
    """
    clients = aws.clients()
    if workflow:
        told = publish_scripts(clients, workflow_from(clients, workflow, table))
    elif table:
        _, _, told = open_ledger(clients, table)
    else:
        raise NothingNamed
    done = driver.provision(clients, told)
    get_run_logger().info("table %s%s, workflow version %s", done.table, " (new)" if done.created else "", done.version)
    return Provisioned(table=done.table, version=done.version, created=done.created)
