"""`pyanamo cohort cost`: what a cohort has cost, by step or by sample."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands.cost import SHOWN, check_name, hours, write_all
from pyanamo.commands.plan import PRICES, prices_of
from pyanamo.context import Context, command
from pyanamo.render import Told, span, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.chain.costs import StepCost
    from pyanamo_core.cost.ranges import Range


class By(StrEnum):
    """What the costs of a cohort are told of."""

    STEP = "step"
    SAMPLE = "sample"


@dataclass(frozen=True)
class CohortCost:
    """What a cohort has cost. `samples`: how many; `shown`: the dearest of them."""

    table: str
    steps: list[StepCost]
    dollars: Range
    samples: int | None = None
    shown: Sequence[Mapping[str, object]] = ()


STEP_COLUMNS = ("step", "table", "items", "items_done", "runs", "pilots", "vcpu_seconds", "lost_vcpu_seconds")


@command(
    example=(
        "pyanamo cohort cost",
        "pyanamo cohort cost --by sample --out samples.tsv",
        "pyanamo cohort cost --table HaplotypeCaller --json",
    )
)
def cost(
    context: Context,
    by: Annotated[By, typer.Option("--by", help="The steps, or the samples over call and gather.")] = By.STEP,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="All lines as .tsv, .csv or .json; - is standard output, as TSV.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Samples to show, the dearest first; 0: all.")] = SHOWN,
    prices: PRICES = None,
) -> Told:
    """Say what a cohort has cost, all runs of its tables together: call, gather, joint, their sum, and each sample.

    Pilots' rows are kept for 30 days: steps that are older cost nothing here. A sample's share is what its items in call and
    gather took; the joint call is of all samples and stands with the steps.
    """
    from pyanamo_core.chain.costs import ledgers_of, sample_costs, step_costs
    from pyanamo_core.cost.items import SAMPLE_COLUMNS, SampleSums, as_row
    from pyanamo_core.cost.ranges import total

    check_name(out)
    listed, now = prices_of(context, prices), time.time()
    ledgers = ledgers_of(context.clients, context.table_name)
    steps = step_costs(ledgers, listed, now)
    whole = total(step.dollars for step in steps)
    if by is By.STEP:
        if out:
            write_all(out, [*STEP_COLUMNS, "dollars_low", "dollars_high"], map(_row, steps))
        told = CohortCost(context.table_name, steps, whole)
    else:
        count, shown = 0, list[Mapping[str, object]]()
        with SampleSums() as sums:
            for _ in sums.passing(sample_costs(ledgers, listed, now)):
                pass
            if out:
                write_all(out, SAMPLE_COLUMNS, map(as_row, sums.costs()))
            for count, one in enumerate(sums.costs(), 1):
                if not limit or count <= limit:
                    shown.append(as_row(one))
        told = CohortCost(context.table_name, steps, whole, count, shown)
    return Told(
        None if out == "-" else told,
        view=_view,
        quiet=[f"{whole.low:.4g} {whole.high:.4g}"],
        next="" if out or by is By.SAMPLE else "pyanamo cohort cost --by sample",
    )


def _row(step: StepCost) -> Mapping[str, object]:
    told: dict[str, object] = {name: getattr(step, name) for name in STEP_COLUMNS}
    return told | {"dollars_low": round(step.dollars.low, 6), "dollars_high": round(step.dollars.high, 6)}


def _view(told: CohortCost) -> RenderableType:
    from rich.console import Group

    from pyanamo_core.cost.ranges import Range, dollars

    rows: list[list[object]] = [
        [
            step.step,
            f"{step.items_done:,} of {step.items:,}",
            step.runs,
            span(step.seconds),
            hours(step.vcpu_seconds),
            hours(step.lost_vcpu_seconds),
            dollars(step.dollars),
        ]
        for step in told.steps
    ]
    rows.append(["in all", "", "", "", "", "", dollars(told.dollars)])
    columns = ["step", "items done", "runs", "took", "vCPU hours", "lost", "dollars"]
    parts: list[Any] = [f"cohort {told.table}, list prices", "", table(columns, rows, right=columns[1:])]
    if told.samples is not None:
        shown = [
            [
                one["sample"],
                one["items"],
                hours(_number(one["vcpu_seconds"])),
                hours(_number(one["lost_vcpu_seconds"])),
                dollars(Range(_number(one["dollars_low"]), _number(one["dollars_high"]))),
                "about" if one["estimated"] else "",
            ]
            for one in told.shown
        ]
        names = ["sample", "items", "vCPU hours", "lost", "dollars", ""]
        parts += ["", table(names, shown, right=names[1:5])]
        if told.samples > len(shown):
            parts.append(f"… and {told.samples - len(shown):,} more (--limit 0, or --out FILE)")
    return Group(*parts)


def _number(value: object) -> float:
    return float(str(value))
