"""`pyanamo pilot`: what a container runs. Claims items until nothing is left, and leaves with the pilot's exit code."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pyanamo.context import INTERRUPTED, Context, command, tell_error

if TYPE_CHECKING:
    from pyanamo_core.pilot import Pilot


@command(example=("pyanamo pilot --table HaplotypeCaller", "PYANAMO_TABLE=HaplotypeCaller pyanamo pilot -w 3600"))
def pilot(
    context: Context,
    items: Annotated[int | None, typer.Option("--items", min=1, help="Items to hold at a time.")] = None,
    nests: Annotated[int | None, typer.Option("--nests", min=1, help="Nests at a time, of each item.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="The run to work for.")] = None,
    wall_time: Annotated[
        float | None,
        typer.Option("--wall-time", "-w", metavar="SECONDS", help="Hand back and leave before so long has passed."),
    ] = None,
) -> None:
    """Work as a pilot: claim items, run their nests, until nothing is left. This is the container's command."""
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    environ = dict(context.environ)
    told = {"PYANAMO_ITEMS": items, "PYANAMO_NESTS": nests, "PYANAMO_RUN": run, "PYANAMO_WALL_TIME": wall_time}
    for name, value in told.items():
        if value is not None:
            environ[name] = str(value)
    environ["PYANAMO_TABLE"] = context.table_name
    try:
        leave(work(context, environ))
    except KeyboardInterrupt:
        leave(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - a pilot must end, whatever threads it has
        from pyanamo_core.pilot.leaving import refusal_code

        leave(refusal_code(error, tell_error(context, error)))


def work(context: Context, environ: dict[str, str]) -> int:
    """Prepare and work, seen by Prefect if the run says where that is; returns the exit code."""
    from pyanamo_core.pilot import Pilot, PilotOptions
    from pyanamo_core.pilot.console import log_to_stderr

    log_to_stderr()
    made = Pilot(PilotOptions.from_environment(environ), context.patient_clients, environ=environ)
    made.install_signals()
    made.prepare()
    if made.run is not None and made.run.prefect_api_url:
        return observed(made)
    return made.work()


def observed(made: Pilot) -> int:
    """Work with Prefect looking on; where Prefect cannot even be imported, without it."""
    try:
        from pyanamo_flows.pilot import run_observed
    except ImportError as error:
        sys.stderr.write(f"Prefect cannot be used ({error}); the pilot goes on without it\n")
        return made.work()
    return run_observed(made)


def leave(code: int) -> NoReturn:
    """End the process at once: threads of libraries must not keep a container alive."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
