"""`pyanamo settings`: each setting, its value and where that comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyanamo.context import Context, command
from pyanamo.render import Told, table
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.settings import WORKFLOW_FILE, Setting, Settings, resolve
from pyanamo_core.workflow import Workflow

if TYPE_CHECKING:
    from rich.console import RenderableType


@command(example=("pyanamo settings", "pyanamo settings --table HaplotypeCaller --json"))
def settings(context: Context) -> Told:
    """Show each setting with its value and where that comes from: option, environment, workflow, default."""
    workflow, version = _workflow(context)
    found = with_region(
        context,
        resolve(context.options, environ=context.environ, workflow=workflow, version=version, folder=context.folder),
    )
    rows = list(found.values.values())
    return Told(rows, view=_view, quiet=[f"{one.name}={one.value}" for one in rows if one.value], next="pyanamo status")


def _view(rows: list[Setting]) -> RenderableType:
    return table(["name", "value", "source"], [[one.name, one.value, one.source] for one in rows])


def _workflow(context: Context) -> tuple[Workflow | None, int | None]:
    """The table's newest workflow and its version; else the folder's workflow file; else nothing."""
    if context.settings.table:
        try:
            return context.workflow, context.opened.version
        except PyAnamoError as error:
            context.say(f"table {context.settings.table} was not read: {error}")
    if (context.folder / WORKFLOW_FILE).is_file():
        from pyanamo_core.workflow_file import read_workflow

        try:
            return read_workflow(Path(WORKFLOW_FILE)), None
        except PyAnamoError as error:
            context.say(str(error))
    return None, None


def with_region(context: Context, found: Settings) -> Settings:
    """The region as the SDK finds it (profile, configuration file), where neither option nor environment gives one."""
    if found.get("region"):
        return found
    try:
        region = context.clients.region
    except PyAnamoError:
        region = None
    if not region:
        return found
    told = Setting("region", region, "AWS configuration", found.values["region"].about)
    return Settings({**found.values, "region": told})
