"""`pyanamo demo`: the main job for real, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told


@command(example=("pyanamo demo", "pyanamo demo --samples 6 --size 500000 --keep", "pyanamo demo --stop"))
def demo(
    context: Context,
    samples: Annotated[int, typer.Option("--samples", min=1, max=1000, help="Samples; 3 are a trio.")] = 3,
    size: Annotated[int, typer.Option("--size", help="Bases of the reference.")] = 240_000,
    pilots: Annotated[int, typer.Option("--pilots", min=1, max=100, help="Pilots that the run starts.")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="The same seed simulates the same samples.")] = 1,
    folder: Annotated[Path, typer.Option("--folder", help="Where everything lies; made if missing.")] = Path(
        "pyanamo-demo"
    ),
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="NAME=VALUE", help="For the task script, e.g. HC_CALLER=bcftools."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave Prefect's server and the local cloud running.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop what --keep left running, and do nothing else.")] = False,
) -> Told:
    """Call a simulated cohort locus by locus, from reads to a joint VCF that is compared with the truth.

    A Prefect server and a local cloud are started on 127.0.0.1, and stopped at the end. No account is used.
    """
    from pyanamo.demo import DemoOptions, run_demo, stop_kept

    if stop:
        stopped = stop_kept(folder.resolve())
        return Told(stopped, view=lambda them: f"stopped {' and '.join(them)}" if them else "nothing was running")
    options = DemoOptions(folder, samples, size, seed, pilots, keep, tuple(parameter or ()))
    result = run_demo(options, quiet=not context.for_people)
    return Told(
        result if not context.for_people else None,
        quiet=[str(result.joint)],
        next=f"xdg-open {result.report}" if result.report else "",
    )
