"""`pyanamo plan`: what a run will take, in hours and dollars, before anything is begun."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.planning import Looked, Planned, look, look_closer, pace_of, price
from pyanamo.planning import prices_of as prices_of
from pyanamo.render import Told, fields, table
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.settings import WORKFLOW_FILE

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.cost.estimate import Estimate, Line
    from pyanamo_core.cost.ranges import Range

FILE = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="The workflow file; default: workflow.yaml here, else the table's."),
]
NEST_TIME = Annotated[
    str, typer.Option("--nest-time", metavar="TIME", help="What a nest takes: 90, 60-120, 2m, in its slot.")
]
RATE = Annotated[
    str, typer.Option("--rate", metavar="TIME", help="What a megabase of a locus takes: 30-60, in its slot.")
]
LEARN = Annotated[
    str,
    typer.Option(
        "--learn",
        metavar="TABLE|FILE",
        help="Take times and sizes from an earlier run: its table, a file of `results export`, or `rehearse --json`.",
    ),
]
PRICES = Annotated[
    Path | None, typer.Option("--prices", metavar="FILE", help="Your own prices (docs/cost.md); or PYANAMO_PRICES.")
]
ON_DEMAND = Annotated[bool, typer.Option("--on-demand", help="The queue's machines are on demand, not of Spot.")]
SAMPLE_TIME = Annotated[str, typer.Option("--sample-time", metavar="TIME", help="What gathering a sample takes.")]
REGION_TIME = Annotated[
    str, typer.Option("--region-time", metavar="TIME", help="What a region of the joint call takes, measured by you.")
]


class PaceTwice(PyAnamoError):
    """Give one of --nest-time, --rate and --learn."""

    exit_code = 2


@command(
    example=(
        "pyanamo plan --sheet sheet.txt",
        "pyanamo plan workflow.yaml --sheet sheet.txt --pilots 1000 --region us-east-1",
        "pyanamo plan --sheet sheet.txt --learn results.tsv --cohort",
        "pyanamo plan --sheet sheet.txt --nest-time 60-120 --prices prices.yaml --json",
        "pyanamo plan --sheet sheet.txt --look",
    )
)
def plan(
    context: Context,
    workflow: FILE = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="The sheet to run; without it what the table has open.")
    ] = None,
    pilots: Annotated[int | None, typer.Option("--pilots", min=1, help="Pilots, instead of the workflow's.")] = None,
    nest_time: NEST_TIME = "",
    rate: RATE = "",
    learn: LEARN = "",
    prices: PRICES = None,
    on_demand: ON_DEMAND = False,
    cohort: Annotated[
        bool, typer.Option("--cohort", help="With gather and joint call, as `pyanamo cohort run` does them.")
    ] = False,
    sample_time: SAMPLE_TIME = "",
    region_time: REGION_TIME = "",
    closer: Annotated[
        bool,
        typer.Option(
            "--look", help="Ask AWS, too: are references there, what does Spot cost now, what is done already?"
        ),
    ] = False,
) -> Told:
    """Say what a run will take: items, pilots, hours, dollars line by line. Needs no account, and changes nothing.

    Sheet, workflow file, task scripts and reference are checked as `run` would. Times are learnt from an earlier run,
    given, or (of HaplotypeCaller) measured defaults; dollars are list prices as ranges.
    """
    if sum(map(bool, (nest_time, rate, learn))) > 1:
        raise PaceTwice
    looked = look(context, workflow, sheet)
    if closer:
        look_closer(context, looked)
    pace = pace_of(context, looked, nest_time=nest_time, rate=rate, learn=learn)
    told = price(
        context,
        looked,
        pace,
        prices=prices,
        pilots=pilots,
        on_demand=on_demand,
        cohort=cohort,
        sample_time=sample_time,
        region_time=region_time,
        spot_now=closer,
    )
    return Told(told, view=view, quiet=[_quiet(told)], next=_next(looked, workflow, sheet, told))


# -------------------------------------------------------------------------------------------------- showing


def view(told: Planned) -> RenderableType:
    """A plan as people see it."""
    from rich.console import Group

    known = {one.what: one.said for one in told.checks}
    return Group(fields({**known, **summary(told.estimate)}), "", *bill(told))


def summary(estimate: Estimate) -> dict[str, str]:
    """Pilots, pace and hours of an estimate, as fields."""
    from pyanamo_core.cost.estimate import STACK_VCPUS
    from pyanamo_core.cost.ranges import two_digits

    shown = {"pilots": f"{estimate.pilots:,}, each {estimate.slots} nests at a time", "region": estimate.region}
    if estimate.bases:
        shown["bases"] = f"{two_digits(estimate.bases / 1e6)} Mb in loci"
    if estimate.pace:
        shown["pace"] = estimate.pace
    if estimate.hours is not None and estimate.vcpu_hours is not None:
        shown["hours"] = f"{hours(estimate.hours)} by the clock, {estimate.vcpu_hours} vCPU hours"
        if estimate.hours.high > 0:
            shown["hours"] += f"; if Batch gives {estimate.vcpus_at_once:,g} vCPUs at once"
        if estimate.vcpus_at_once > STACK_VCPUS:
            times = estimate.vcpus_at_once / STACK_VCPUS
            shown["hours"] += f" (with the stack's {STACK_VCPUS}, its default, about {times:,.2g} times as long)"
    return shown


def hours(told: Range) -> str:
    """Hours as `15–74 h`; below two hours as minutes."""
    return f"{told} h" if told.high >= 2 else f"{told * 60} min"


def bill(told: Planned) -> list[RenderableType]:
    """Lines and sums of a plan, as people see them."""
    lines = list(told.estimate.lines)
    if told.cohort is not None:
        lines += [*told.cohort.gather.lines, *told.cohort.joint.lines]
    return [lines_table(lines), "", *totals(told)]


def lines_table(lines: list[Line]) -> RenderableType:
    """The lines of a bill."""
    from pyanamo_core.cost.ranges import dollars

    rows = [
        [
            line.what,
            amount(line.amount),
            line.unit,
            "?" if line.dollars is None else dollars(line.dollars) + (" a month" if line.monthly else ""),
            line.basis,
            line.note,
        ]
        for line in lines
    ]
    return table(["what", "amount", "of", "dollars", "how known", "remark"], rows, right=["amount"])


def amount(told: Range | None) -> str:
    """How much, with two digits; nothing for what is not known."""
    if told is None:
        return ""
    return "under 0.001" if 0 < told.high < 0.001 else str(told)


def totals(told: Planned) -> list[str]:
    """The sums in words, and what is in none of them."""
    from pyanamo_core.cost.ranges import dollars

    lines = [
        f"in all {dollars(told.once)} once, {dollars(told.a_month)} a month for what is kept (list prices, no taxes)",
        "not in it: vCPUs of machines that no container takes",
    ]
    return lines + [f"not in it: {text}" for text in told.missing]


def _quiet(told: Planned) -> str:
    return f"{told.once.low:.2f} {told.once.high:.2f}"


def _next(looked: Looked, file: Path | None, sheet: Path | None, told: Planned) -> str:
    if not told.estimate.items:
        return "pyanamo sheet import SHEET"
    if told.estimate.hours is None and looked.sheet is not None:
        rehearse = ["pyanamo", "rehearse", str(looked.sheet.path), "--items", "1", "--nests", "3", "--json"]
        again = ["pyanamo", "plan", *([str(file)] if file else []), "--sheet", str(sheet), "--learn", "rehearsal.json"]
        return f"{shlex.join(rehearse)} > rehearsal.json && {shlex.join(again)}"
    words = ["pyanamo", *(["cohort"] if told.cohort is not None else []), "run"]
    words += [str(file)] if file else [WORKFLOW_FILE] if sheet is not None else []
    return shlex.join([*words, *(["--sheet", str(sheet)] if sheet is not None else [])])
