"""The flow `recover`, for a schedule: takes back at once what dead pilots hold, and gives orphaned runs a watcher.

A pilot that was killed loses its items when their leases end, without anybody's help; this is faster, and joins causes
that only Batch knows. A run whose watcher died goes on working off items but gets no new pilots: `recover` starts a
`watch`. In a deployment that is a run of the deployment `watch` of the same name, so that `recover` itself ends; its
concurrency limit keeps it to one. Outside of one, the run is watched here.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import deployment
from prefect.states import Completed

from pyanamo_core import driver
from pyanamo_core.ledger import open_ledger
from pyanamo_flows.parameters import Aws
from pyanamo_flows.watch import watch


@flow(name="recover", persist_result=False)
def recover(table: str, watch_orphans: bool = True, aws: Aws = Aws()) -> State[Any]:  # noqa: B008 - Prefect's form needs it
    """Take back the items of pilots that Batch says are gone, and start a watch for live runs that have none.

    Args:
        table: Name of the table.
        watch_orphans: Start a `watch` for live runs without one.
        aws: Which AWS to talk to.
    """
    log = get_run_logger()
    clients = aws.clients()
    ledger, _, _ = open_ledger(clients, table)
    told = driver.recover(clients, ledger)
    log.info("%s locked items, %s dead pilots, %s items taken back", told.locked, len(told.gone), len(told.items))
    for item_id, why in told.refused.items():
        log.warning("%s is left alone: %s", item_id, why)
    orphans = told.unwatched if watch_orphans else ()
    for run_id in orphans:
        log.warning("Run %s is live and nobody watches it", run_id)
        _start_watch(table, run_id, aws)
    return Completed(message=f"{len(told.items)} items taken back, {len(orphans)} runs without a watcher got one")


def _start_watch(table: str, run_id: str, aws: Aws) -> None:
    name = deployment.name
    parameters = {"table": table, "run_id": run_id, "aws": aws.model_dump()}
    if name:
        from prefect.deployments import run_deployment
        from prefect.exceptions import ObjectNotFound

        try:
            run_deployment(f"watch/{name}", parameters=parameters, timeout=0, as_subflow=False)
        except ObjectNotFound:
            get_run_logger().info("There is no deployment watch/%s; the run is watched here", name)
        else:
            return
    watch(table, run_id, aws, return_state=True)
