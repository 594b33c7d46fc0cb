"""Where a pilot runs: its instance as the metadata service tells it, and the PyAnamo that is installed there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from pyanamo_core.pilot.drain import Metadata

_log = logging.getLogger("pyanamo.pilot")


@dataclass(frozen=True)
class Instance:
    """The host: instance id or host name, instance type, lifecycle (`spot`, `on-demand`)."""

    host: str
    kind: str = ""
    lifecycle: str = ""


def instance_of(metadata: Metadata, known: Instance) -> Instance:
    """The instance as its metadata service tells it; what is known already where it does not answer."""
    try:
        return Instance(
            metadata.get("instance-id") or known.host,
            metadata.get("instance-type") or "",
            metadata.get("instance-life-cycle") or "",
        )
    except OSError as error:
        _log.info("no instance metadata: %s", error)
        return known


def own_version() -> str:
    """The version of this PyAnamo; "0" where it is not installed."""
    try:
        return version_of("pyanamo")
    except PackageNotFoundError:
        return "0"


def parts_of(version: str) -> tuple[int, ...]:
    """A version's first three numbers, for comparing."""
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:3])
