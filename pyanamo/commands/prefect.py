"""`pyanamo prefect setup`: deploy the flows for a table, so that Prefect can start and schedule runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told, table

if TYPE_CHECKING:
    from pyanamo_flows.setup import Deployed
    from rich.console import RenderableType


@command(
    example=(
        "pyanamo prefect setup --table HaplotypeCaller",
        "pyanamo prefect setup --table HaplotypeCaller --cohort",
        "pyanamo prefect setup --pool my-pool",
    )
)
def setup(
    context: Context,
    name: Annotated[str, typer.Option("--name", help="Name of the deployments; default: the table's.")] = "",
    pool: Annotated[str, typer.Option("--pool", help="Work pool; made if there is none of that name.")] = "pyanamo",
    file: Annotated[
        Path | None,
        typer.Option("--file", exists=True, dir_okay=False, help="Another prefect.yaml than PyAnamo's own."),
    ] = None,
    cohort: Annotated[
        bool,
        typer.Option("--cohort", help="Of a table that calls variants: deploy cohort, too, and each step's table."),
    ] = False,
) -> Told:
    """Deploy run, watch, recover and report for a table. Schedules stay as active as they were switched."""
    import pyanamo_flows  # noqa: F401 - before Prefect: sets what must stand when it is imported
    from pyanamo_flows.setup import setup as deploy

    done = deploy(
        context.table_name,
        name=name,
        pool=pool,
        region=context.region or "",
        endpoint_url=context.endpoint_url or "",
        file=file,
        cohort=cohort,
    )
    first = next((one.name for one in done if one.name.startswith("cohort/")), done[0].name if done else "")
    return Told(
        done,
        view=_view,
        quiet=[one.name for one in done],
        next=f"prefect worker start --pool {pool}      then: prefect deployment run {first}",
    )


def _view(done: list[Deployed]) -> RenderableType:
    rows = [
        (one.name, one.entrypoint, ", ".join(f"{name} ({'on' if on else 'off'})" for name, on in one.schedules.items()))
        for one in done
    ]
    return table(("deployment", "entry point", "schedules"), rows)
