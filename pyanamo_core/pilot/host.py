"""Where a pilot runs: its instance as the metadata service tells it, and the PyAnamo that is installed there."""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Final

from pyanamo_core.pilot.drain import Metadata

_UNITS_OF_VCPU: Final = 1024
_SECONDS: Final = 2.0

_log = logging.getLogger("pyanamo.pilot")


@dataclass(frozen=True)
class Instance:
    """The host: instance id or host name, instance type, lifecycle (`spot`, `on-demand`), availability zone."""

    host: str
    kind: str = ""
    lifecycle: str = ""
    zone: str = ""


def instance_of(metadata: Metadata, known: Instance) -> Instance:
    """The instance as its metadata service tells it; what is known already where it does not answer."""
    try:
        return Instance(
            metadata.get("instance-id") or known.host,
            metadata.get("instance-type") or "",
            metadata.get("instance-life-cycle") or "",
            metadata.get("placement/availability-zone") or "",
        )
    except OSError as error:
        _log.info("no instance metadata: %s", error)
        return known


def vcpus_of(environ: Mapping[str, str], stated: float) -> float:
    """vCPUs of this container, as ECS tells it what Batch gave it; where nobody tells, what the workflow states."""
    address = environ.get("ECS_CONTAINER_METADATA_URI_V4", "")
    if not address.startswith("http://"):
        return stated
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=_SECONDS) as answer:
            units = float(json.loads(answer.read())["Limits"]["CPU"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.info("ECS does not tell this container's vCPUs: %s", error)
        return stated
    return round(units / _UNITS_OF_VCPU, 3) or stated


def keeps_its_machine(*, batch_job: str, queue: str, on_demand_queue: str, lifecycle: str) -> bool:
    """Will nobody take this pilot's machine away? Then it may have the items that are for such pilots only.

    So it is outside Batch (a person's own machine), on the workflow's on-demand queue, and on an on-demand instance of
    whatever queue.

    Args:
        queue: of its job, as Batch tells it; a name or an ARN, as `on_demand_queue`.
        lifecycle: of its instance: `spot`, `on-demand`, "" if unknown.
    """
    if not batch_job or lifecycle == "on-demand":
        return True
    named = on_demand_queue.rpartition("/")[2]
    # The workflow's word goes before the instance's: what is for that queue only must not wait there for ever.
    return bool(named) and named == queue.rpartition("/")[2]


def own_version() -> str:
    """The version of this PyAnamo; "0" where it is not installed."""
    try:
        return version_of("pyanamo")
    except PackageNotFoundError:
        return "0"


def parts_of(version: str) -> tuple[int, ...]:
    """A version's first three numbers, for comparing."""
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:3])
