"""What is left of a cohort to do, in hours and dollars: for `cohort plan` and what `cohort run` shows beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyanamo.planning import Check, Looked, Planned, look, pace_of, price_cohort, prices_of

if TYPE_CHECKING:
    from pyanamo.context import Context
    from pyanamo_core.chain import Look
    from pyanamo_core.cost.pace import Pace
    from pyanamo_core.cost.work import Work
    from pyanamo_core.workflow import Workflow


ALSO = "what earlier cohorts (--also) add to the joint call: more regions, and reads and bytes by their samples"


@dataclass(frozen=True)
class Priced:
    """By which times and prices; empty: what is known by itself (commands/plan.py)."""

    nest_time: str = ""
    rate: str = ""
    learn: str = ""
    sample_time: str = ""
    region_time: str = ""
    prices: Path | None = None
    on_demand: bool = False
    pilots: int | None = None
    also: bool = False
    """Samples of earlier cohorts are called jointly, too; how many these are is not asked."""


def price_what_is_left(
    context: Context, workflow: Workflow, sheet: Path | None, looks: list[Look], priced: Priced
) -> Planned | None:
    """Price the steps that are not done. None: nothing is left, or no item is known.

    A step that waits for the one before it is priced by what that one will give it.

    Raises:
        SheetInvalid, PlanUnfit, PricesInvalid, RateMalformed …: as `pyanamo plan`.
    """
    from pyanamo_core.cost.estimate import estimate
    from pyanamo_core.cost.work import scaled

    steps = {one.step: one for one in looks}
    left = {name: one.todo for name, one in steps.items()}
    waiting = {name for name, one in steps.items() if one.state == "waits"}
    if not waiting and not any(left.values()):
        return None
    looked = look(context, None, sheet, workflow=workflow)
    pace = pace_of(context, looked, nest_time=priced.nest_time, rate=priced.rate, learn=priced.learn)
    whole = _all_samples(context, looked, pace)
    if not whole.items:
        return None
    listed = prices_of(context, priced.prices)
    called = steps.get("call")
    to_call = min(whole.items, left.get("call", 0))
    new = called.new + called.changed if called is not None else 0
    work = scaled(whole, to_call, imported=new > 0)
    call = estimate(workflow, work, pace, listed, pilots=priced.pilots, on_demand=priced.on_demand)
    told = price_cohort(
        workflow,
        call,
        whole,
        pace,
        listed,
        pilots=priced.pilots,
        on_demand=priced.on_demand,
        sample_time=priced.sample_time,
        region_time=priced.region_time,
        to_gather=_left("gather", steps, left, waiting, left_to_gather(steps.get("gather"), to_call, whole.items)),
        regions=_left("joint", steps, left, waiting, None),
    )
    checks = [*looked.checks, Check("left", f"{to_call:,} of {whole.items:,} samples to call")]
    missing = list(told.missing)
    if priced.also and told.regions:
        missing.append(ALSO)
    return Planned(checks, call, told.once, told.a_month, told, missing)


def left_to_gather(gather: Look | None, to_call: int, samples: int) -> int:
    """Samples whose gather waits for the call: those that are called now, and those called before that nobody gathered."""
    return max(to_call, samples - (gather.done if gather is not None else 0))


def _left(
    name: str, steps: dict[str, Look], left: dict[str, int], waiting: set[str], waits_for: int | None
) -> int | None:
    """Items of a step to do: 0 where it has no part, what it waits for where it is not planned yet; None: all."""
    if name not in steps:
        return 0
    return waits_for if name in waiting else left[name]


def _all_samples(context: Context, looked: Looked, pace: Pace) -> Work:
    """The work of all samples: of the sheet, else of the table, done or not."""
    from pyanamo_core.cost.work import Work, shape_of_table, work_of_sheet
    from pyanamo_core.errors import TableMissing
    from pyanamo_core.ledger import open_ledger

    at_once = looked.workflow.nests
    if looked.sheet is not None:
        return work_of_sheet(looked.sheet, pace, at_once=at_once, bases=looked.bases)
    try:
        ledger, _, _ = open_ledger(context.clients, looked.workflow.table_name)
    except TableMissing:
        return Work()
    return shape_of_table(ledger, pace, at_once=at_once, bases=looked.bases)
