"""`pyanamo local …`: AWS on this machine, for trying things out and for tests."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told, fields, span
from pyanamo_core.workflow import Workflow

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.local import LocalCloud

HOME = Annotated[Path | None, typer.Option("--home", help="Its folder; default: below ~/.local/state/pyanamo.")]
ENV = 'eval "$(pyanamo local env)"'


class LedgerKind(StrEnum):
    """Who keeps the tables of a local cloud."""

    MOTO = "moto"
    DYNAMODB_LOCAL = "dynamodb-local"


@dataclass(frozen=True)
class CloudTold:
    """A local cloud that runs, and what was made in it."""

    endpoint: str
    region: str
    ledger: str
    moto: str
    pid: int
    home: Path
    log: Path
    running_since: float
    jobs: int = 0
    queue: str = ""
    job_definition: str = ""
    buckets: tuple[str, ...] = ()
    docker: str = ""


@command(
    example=(
        "pyanamo local up workflow.yaml",
        "pyanamo local up --ledger dynamodb-local",
        "pyanamo local up workflow.yaml --docker /var/run/docker.sock",
    )
)
def up(
    context: Context,
    workflow: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Make the queue, job definition and buckets that it names.")
    ] = None,
    ledger: Annotated[LedgerKind, typer.Option("--ledger", help="Who keeps the tables.")] = LedgerKind.MOTO,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: a free one.")] = 0,
    docker: Annotated[
        str,
        typer.Option(
            "--docker",
            metavar="SOCKET",
            help="Run jobs as containers of this Docker engine, from the workflow's image.",
        ),
    ] = "",
    home: HOME = None,
) -> Told:
    """Start the local cloud (AWS Batch, DynamoDB, S3, Logs … on 127.0.0.1), or find the one that runs."""
    from pyanamo_core import local
    from pyanamo_core.workflow_file import read_workflow

    plan = read_workflow(workflow) if workflow else None
    options = local.Options(
        home=home, ledger=ledger.value, region=context.region or "us-east-1", port=port, docker=docker
    )
    cloud = local.up(options)
    told = _told(cloud, make_compute(cloud, plan) if plan else None)
    return Told(told, view=_view, quiet=[told.endpoint], next=ENV)


def make_compute(cloud: LocalCloud, workflow: Workflow) -> dict[str, object]:
    """Make what a workflow file names: queue, job definition, buckets. What exists is left as it is."""
    from pyanamo_core.local.provision import CONTAINED, ensure_compute, ensure_queue

    uris = [uri for uri in (workflow.buckets.results, workflow.buckets.logs) if uri]
    buckets = tuple(dict.fromkeys(uri.removeprefix("s3://").partition("/")[0] for uri in uris))
    ensure_compute(
        cloud.clients(),
        workflow.queue,
        workflow.job_definition.partition(":")[0],
        vcpus=workflow.vcpus,
        memory=workflow.memory_mb,
        buckets=buckets,
        image=workflow.image or "pyanamo",
        **({"command": (), "container": CONTAINED} if cloud.docker else {}),
    )
    if workflow.on_demand_queue:
        ensure_queue(cloud.clients(), workflow.on_demand_queue)
    return {"queue": workflow.queue, "job_definition": workflow.job_definition, "buckets": buckets}


@command(example="pyanamo local status")
def status(context: Context, home: HOME = None) -> Told:
    """Show whether the local cloud runs, where, and with how many jobs."""
    from pyanamo_core import local
    from pyanamo_core.errors import LocalCloudMissing
    from pyanamo_core.local.state import default_home

    cloud = local.status(home)
    if cloud is None:
        raise LocalCloudMissing(home=home or default_home())
    told = _told(cloud, None)
    return Told(told, view=_view, quiet=[told.endpoint], next=ENV)


@command(example=('eval "$(pyanamo local env)"', "pyanamo local env --json"))
def env(context: Context, home: HOME = None) -> Told:
    """Print the variables that lead a shell's commands to the local cloud."""
    from pyanamo_core import local

    variables = local.env(home)
    lines = local.export_lines(variables)
    if context.json:
        return Told(variables)
    sys.stdout.write(lines)
    return Told()


@command(example="pyanamo local down")
def down(context: Context, home: HOME = None) -> Told:
    """Stop the local cloud and all that runs in it. Its tables and buckets go with it."""
    from pyanamo_core import local

    was = local.down(home)
    return Told(
        {"was_running": was},
        view=lambda told: "stopped the local cloud" if told["was_running"] else "no local cloud was running",
        next="pyanamo local up",
    )


def _told(cloud: LocalCloud, made: dict[str, object] | None) -> CloudTold:
    return CloudTold(
        endpoint=cloud.endpoint,
        region=cloud.region,
        ledger=cloud.ledger,
        moto=cloud.moto,
        pid=cloud.pid,
        home=cloud.home,
        log=cloud.log,
        running_since=cloud.started_at,
        jobs=len(cloud.processes()),
        docker=cloud.docker,
        **(made or {}),  # type: ignore[arg-type]
    )


def _view(told: CloudTold) -> RenderableType:
    shown = {
        "endpoint": told.endpoint,
        "region": told.region,
        "tables kept by": told.ledger,
        "running": f"{span(time.time() - told.running_since)}, process {told.pid}, {told.jobs} jobs",
        "log": str(told.log),
    }
    if told.docker:
        shown["jobs are"] = f"containers of {told.docker}"
    if told.queue:
        shown |= {
            "queue": told.queue,
            "job definition": told.job_definition,
            "buckets": " ".join(told.buckets),
        }
    return fields(shown)
