"""Deploy the flows for one table from the packaged deployments/prefect.yaml, in any folder. For `pyanamo prefect setup`.

It is `prefect deploy --all` with three things added: the table's name is filled in, a missing work pool is made, and
schedules stay as active as they are on the server, since a plain redeploy would switch them off again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from pyanamo_core.chain.cohort import tables_of
from pyanamo_core.errors import Surroundings
from pyanamo_core.resources import resource
from pyanamo_flows import entry

POOL = "pyanamo"
COHORT = "cohort"
DEPLOY_SECONDS = 120.0


class PrefectUnset(Surroundings):
    """No address of a Prefect server is set. Set PREFECT_API_URL, or choose a profile: prefect profile use NAME"""


class PrefectUnreachable(Surroundings):
    """Prefect at {url} does not answer ({reason}). Start it, or set PREFECT_API_URL to the right address."""


class DeployFailed(Surroundings):
    """Prefect refused the deployments:
    {reason}"""


@dataclass(frozen=True)
class Deployed:
    """A deployment, and its schedules: slug → switched on?"""

    name: str
    entrypoint: str
    work_pool: str
    schedules: dict[str, bool]


def flow_name(deployment: dict[str, Any]) -> str:
    """Name of the flow of an entry point: the function's, which all our flows are named after."""
    return str(deployment["entrypoint"]).rpartition(".")[2]


def plan(
    text: str,
    *,
    name: str,
    table: str,
    pool: str,
    aws: dict[str, str],
    active: dict[tuple[str, str], bool],
    cohort: bool = False,
) -> dict[str, Any]:
    """The contents of the file for `prefect deploy`: the packaged one for this table, schedules as they are switched.

    Args:
        text: the packaged prefect.yaml.
        name: name of the deployments, by default the table's.
        aws: region and endpoint_url, where they are given.
        active: (flow, slug) → switched on, on the server.
        cohort: the table is a cohort's call: deploy the flow `cohort`, too.
    """
    told = cast("dict[str, Any]", yaml.safe_load(text))
    told.pop("definitions", None)
    told["deployments"] = [each for each in told["deployments"] if cohort or flow_name(each) != COHORT]
    for deployment in told["deployments"]:
        deployment["name"] = name
        deployment["parameters"] = {"table": table, **({"aws": aws} if aws else {})}
        deployment["work_pool"] = {"name": pool}
        # Copies: YAML's anchors made one object of several.
        if "concurrency_limit" in deployment:
            deployment["concurrency_limit"] = dict(deployment["concurrency_limit"])
        for schedule in deployment.get("schedules", []):
            schedule["active"] = active.get((flow_name(deployment), schedule["slug"]), schedule["active"])
    return told


@dataclass(frozen=True)
class _Target:
    """Deployments of one name, for one table."""

    name: str
    table: str
    cohort: bool = False


def _targets(name: str, table: str, cohort: bool) -> list[_Target]:
    """The table, and with `cohort` those of the steps that follow its call."""
    first = _Target(name, table, cohort)
    others = [one for one in dict.fromkeys(tables_of(table).values()) if one != table] if cohort else []
    return [first, *(_Target(f"{name}{other.removeprefix(table)}", other) for other in others)]


def setup(
    table: str,
    *,
    name: str = "",
    pool: str = POOL,
    region: str = "",
    endpoint_url: str = "",
    file: Path | None = None,
    cohort: bool = False,
) -> list[Deployed]:
    """Create or renew the deployments for a table.

    Args:
        name: of the deployments; empty: the table's.
        pool: work pool; made (type `process`) if it does not exist.
        region, endpoint_url: become the deployments' AWS parameters; empty: the worker's environment.
        file: another prefect.yaml than the packaged one.
        cohort: the table is a cohort's call: the flow `cohort`, too, and the others for each step's table.

    Raises:
        PrefectUnset, PrefectUnreachable, DeployFailed.
    """
    url = entry.api_url()
    if not url:
        raise PrefectUnset
    text = (file or resource("deployments/prefect.yaml")).read_text("utf-8")
    aws = {key: value for key, value in (("region", region), ("endpoint_url", endpoint_url)) if value}
    targets = _targets(name or table, table, cohort)
    with get_client(sync_client=True) as client:
        trouble = client.api_healthcheck()
        if trouble is not None:
            raise PrefectUnreachable(url=url, reason=str(trouble) or type(trouble).__name__)
        before = {one: _standing(client, text, one.name) for one in targets}
        plans = [
            plan(
                text,
                name=one.name,
                table=one.table,
                pool=pool,
                aws=aws,
                active=switched(before[one]),
                cohort=one.cohort,
            )
            for one in targets
        ]
        _ensure_pool(client, pool)
        _deploy(plans[0] | {"deployments": [each for told in plans for each in told["deployments"]]})
        for one in targets:
            _restore(client, before[one], one.name)
        after = {one: _standing(client, text, one.name) for one in targets}
    return [
        Deployed(
            name=f"{flow}/{target.name}",
            entrypoint=one.entrypoint or "",
            work_pool=one.work_pool_name or "",
            schedules={name_of(schedule): bool(schedule.active) for schedule in one.schedules},
        )
        for target, found in after.items()
        for flow, one in found.items()
    ]


def name_of(schedule: DeploymentSchedule) -> str:
    """A schedule's slug, or what it says if a user made it."""
    told = schedule.schedule
    rhythm = getattr(told, "cron", None) or getattr(told, "rrule", None) or f"every {getattr(told, 'interval', '?')}"
    return schedule.slug or str(rhythm)


def switched(standing: dict[str, DeploymentResponse]) -> dict[tuple[str, str], bool]:
    """(flow, slug) → is that schedule switched on?"""
    return {
        (flow, schedule.slug): bool(schedule.active)
        for flow, deployment in standing.items()
        for schedule in deployment.schedules
        if schedule.slug
    }


def _standing(client: SyncPrefectClient, text: str, name: str) -> dict[str, DeploymentResponse]:
    found: dict[str, DeploymentResponse] = {}
    for deployment in yaml.safe_load(text)["deployments"]:
        flow = flow_name(deployment)
        try:
            found[flow] = client.read_deployment_by_name(f"{flow}/{name}")
        except ObjectNotFound:
            continue
    return found


def _ensure_pool(client: SyncPrefectClient, pool: str) -> None:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        from prefect.workers.process import ProcessWorker

        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=pool, type=ProcessWorker.type, base_job_template=template))


def _deploy(wanted: dict[str, Any]) -> None:
    # A folder of its own: Prefect reads settings (prefect.toml, pyproject.toml, .env) of the one it is started in.
    with tempfile.TemporaryDirectory(prefix="pyanamo-") as folder:
        path = Path(folder) / "prefect.yaml"
        path.write_text(yaml.safe_dump(wanted, sort_keys=False), "utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env={**os.environ, "PREFECT_CLI_COLORS": "false", "COLUMNS": "200"},
                capture_output=True,
                text=True,
                timeout=DEPLOY_SECONDS,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise DeployFailed(reason=f"prefect deploy did not end within {DEPLOY_SECONDS:.0f} s") from late
    if done.returncode != 0:
        raise DeployFailed(reason="\n    ".join((done.stderr or done.stdout).strip().splitlines()[-12:]))


def _restore(client: SyncPrefectClient, before: dict[str, DeploymentResponse], name: str) -> None:
    """Put back schedules that users made (they have no slug of ours), should the redeploy have dropped them."""
    for flow, old in before.items():
        now = client.read_deployment_by_name(f"{flow}/{name}")
        kept = {schedule.slug for schedule in now.schedules if schedule.slug}
        standing = {str(schedule.schedule) for schedule in now.schedules}
        lost = [
            (schedule.schedule, bool(schedule.active))
            for schedule in old.schedules
            if schedule.slug not in kept and str(schedule.schedule) not in standing
        ]
        if lost:
            client.create_deployment_schedules(UUID(str(now.id)), lost)
