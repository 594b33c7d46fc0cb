"""Settings and where each comes from: option > flow parameter > environment > pinned workflow version > default.

Every value keeps its source, so that `pyanamo settings` can show it and a pilot can record what was overridden.
A workflow file named `workflow.yaml` in the present folder gives the table's name where nothing else does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from pyanamo_core.workflow import Workflow

WORKFLOW_FILE: Final = "workflow.yaml"


@dataclass(frozen=True)
class Setting:
    """One value and its source: `option --table`, `environment PYANAMO_TABLE`, `workflow version 3`, `default` …"""

    name: str
    value: str
    source: str
    about: str = ""


@dataclass(frozen=True)
class Known:
    """A setting that PyAnamo knows: its option, its variables of the environment, its field of the workflow."""

    name: str
    about: str
    environment: tuple[str, ...] = ()
    option: str = ""
    field: str = ""
    default: str = ""


KNOWN: Final[tuple[Known, ...]] = (
    Known("table", "The ledger's table", ("PYANAMO_TABLE",), "--table"),
    Known("region", "The AWS region", ("AWS_REGION", "AWS_DEFAULT_REGION"), "--region"),
    Known("endpoint_url", "Where AWS is; empty: AWS itself", ("AWS_ENDPOINT_URL",), "--endpoint-url"),
    Known("profile", "The AWS profile", ("AWS_PROFILE",), default="default"),
    Known("run", "The run that a pilot works for", ("PYANAMO_RUN",)),
    Known("items", "Items that a pilot holds at a time", ("PYANAMO_ITEMS",), field="items"),
    Known("nests", "Nests that run at a time per item", ("PYANAMO_NESTS",), field="nests"),
    Known(
        "wall_time",
        "Seconds after which a pilot hands back and leaves",
        ("PYANAMO_WALL_TIME",),
        field="wall_time_seconds",
    ),
    Known("results", "Where results go", ("S3_BUCKET",), field="buckets.results"),
    Known("scripts", "The task scripts; empty: the packaged ones", ("PYANAMO_SCRIPTS",), field="scripts"),
    Known("pilots", "Pilots of a run", (), "--pilots", "pilots"),
    Known("queue", "The job queue", field="queue"),
    Known("job_definition", "The job definition", field="job_definition"),
    Known("prices", "A file of prices; empty: the list prices that PyAnamo knows", ("PYANAMO_PRICES",), "--prices"),
    Known("prefect_api_url", "Prefect's address; empty: runs do without Prefect", ("PREFECT_API_URL",)),
)
"""In the order in which `pyanamo settings` shows them."""


@dataclass(frozen=True)
class Settings:
    """The resolved settings by name."""

    values: Mapping[str, Setting]

    def get(self, name: str) -> str:
        """A setting's value; empty if nothing sets it. Raises KeyError for a name that PyAnamo does not know."""
        return self.values[name].value

    def source(self, name: str) -> str:
        return self.values[name].source

    @property
    def table(self) -> str:
        return self.get("table")

    @property
    def prefect_api_url(self) -> str:
        return self.get("prefect_api_url")

    def overridden(self) -> dict[str, str]:
        """Settings of the workflow that an option, a parameter or the environment overrides, for the pilot's row."""
        return {
            known.name: self.get(known.name)
            for known in KNOWN
            if known.field and self.source(known.name).startswith(("option", "parameter", "environment"))
        }


def resolve(
    options: Mapping[str, Any] | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    workflow: Workflow | None = None,
    version: int | None = None,
    folder: Path | None = None,
) -> Settings:
    """Settings from all their sources, the strongest first.

    Args:
        options: what was given on the command line, by the setting's name.
        parameters: parameters of a flow run, by the setting's name.
        environ: the environment; None: this process's.
        workflow: the pinned workflow, and its `version`.
        folder: where a workflow.yaml may lie; None: none is looked for.
    """
    environ = os.environ if environ is None else environ
    found: dict[str, Setting] = {}
    for known in KNOWN:
        value, source = _one(known, options or {}, parameters or {}, environ, workflow, version, folder)
        found[known.name] = Setting(known.name, value, source, known.about)
    return Settings(found)


def _one(
    known: Known,
    options: Mapping[str, Any],
    parameters: Mapping[str, Any],
    environ: Mapping[str, str],
    workflow: Workflow | None,
    version: int | None,
    folder: Path | None,
) -> tuple[str, str]:
    if options.get(known.name) not in (None, ""):
        return str(options[known.name]), f"option {known.option or '--' + known.name.replace('_', '-')}"
    if parameters.get(known.name) not in (None, ""):
        return str(parameters[known.name]), f"parameter {known.name}"
    for name in known.environment:
        if environ.get(name):
            return environ[name], f"environment {name}"
    if known.name == "prefect_api_url" and (told := prefect_profile(environ)):
        return told[0], f"Prefect's profile {told[1]}"
    if known.field and workflow is not None:
        value: Any = workflow
        for part in known.field.split("."):
            value = getattr(value, part)
        return "" if value is None else str(value), f"workflow version {version}" if version else "workflow file"
    if known.name == "table" and folder is not None and (name := table_of_folder(folder)):
        return name, f"file {WORKFLOW_FILE}"
    return known.default, "default"


def table_of_folder(folder: Path) -> str:
    """The table named by the folder's workflow.yaml; empty if there is none or it cannot be read."""
    path = folder / WORKFLOW_FILE
    if not path.is_file():
        return ""
    import yaml

    try:
        told: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return ""
    if not isinstance(told, dict):
        return ""
    fields = cast("dict[str, Any]", told)
    return str(fields.get("table") or fields.get("name") or "")


def prefect_profile(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """PREFECT_API_URL of Prefect's active profile and that profile's name, read without importing Prefect."""
    import tomllib

    home = Path(environ.get("PREFECT_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".prefect")
    path = Path(environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        told: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return None
    name = str(environ.get("PREFECT_PROFILE") or told.get("active") or "")
    try:
        url = str(told["profiles"][name]["PREFECT_API_URL"])
    except (KeyError, TypeError):
        return None
    return (url, name) if url else None
