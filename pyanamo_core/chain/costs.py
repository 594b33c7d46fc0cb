"""What a cohort has cost: step by step over its tables, and by sample over those whose items are samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyanamo_core.aws import Clients
from pyanamo_core.cost.items import ItemCost, Pricing, item_costs
from pyanamo_core.cost.prices import Prices
from pyanamo_core.cost.ranges import Range
from pyanamo_core.cost.spent import Spending, spent
from pyanamo_core.errors import NotFound
from pyanamo_core.protocols import Ledger

BY_SAMPLE = ("call", "gather")
"""Steps whose items are samples; a region of the joint call is of all."""


@dataclass(frozen=True)
class StepCost:
    """All runs of one step's table (seconds of vCPUs; dollars as ranges)."""

    step: str
    table: str
    items: int
    items_done: int
    runs: int
    seconds: float
    """From the starts of its runs to their ends."""
    pilots: int
    vcpu_seconds: float
    lost_vcpu_seconds: float
    dollars: Range
    saved: Range


def ledgers_of(clients: Clients, table: str) -> dict[str, Ledger]:
    """Step → ledger, of the steps of a cohort that have a table by now.

    Raises:
        PyAnamoError: as `open_ledger` says, of anything but a table that is not there.
    """
    # The chain's steps write a report that tells these costs.
    from pyanamo_core.chain.cohort import tables_of
    from pyanamo_core.ledger import open_ledger

    found: dict[str, Ledger] = {}
    for step in ("call", "gather", "joint"):
        try:
            found[step] = open_ledger(clients, tables_of(table)[step])[0]
        except NotFound:
            if step == "call":
                raise
    return found


def step_costs(ledgers: Mapping[str, Ledger], prices: Prices, now: float) -> list[StepCost]:
    """A line for each step, from its pilots' rows (of the last 30 days)."""
    return [_step(step, ledger, prices, now) for step, ledger in ledgers.items()]


def _step(step: str, ledger: Ledger, prices: Prices, now: float) -> StepCost:
    counts, runs = ledger.counts(), ledger.runs()
    workflow = ledger.workflow()[1]
    timing = workflow.timing
    told: Spending = spent(
        ledger.pilots(),
        prices,
        now=now,
        vcpus=workflow.vcpus,
        beat_seconds=timing.beat_seconds,
        lease_seconds=timing.lease_seconds,
        on_demand_queue=workflow.on_demand_queue,
    )
    return StepCost(
        step=step,
        table=ledger.table,
        items=counts.total,
        items_done=counts.done,
        runs=len(runs),
        seconds=sum(max(0.0, run.ended - run.started) for run in runs if run.ended),
        pilots=told.pilots,
        vcpu_seconds=told.vcpu_seconds,
        lost_vcpu_seconds=told.lost_vcpu_seconds,
        dollars=told.dollars,
        saved=told.saved,
    )


def sample_costs(ledgers: Mapping[str, Ledger], prices: Prices, now: float) -> Iterator[ItemCost]:
    """The items of call and gather, to be summed by sample (SampleSums)."""
    for step in BY_SAMPLE:
        ledger = ledgers.get(step)
        if ledger is not None:
            workflow = ledger.workflow()[1]
            pricing = Pricing(
                prices, now, workflow.vcpus, workflow.slots, workflow.timing.beat_seconds, workflow.on_demand_queue
            )
            yield from item_costs(ledger, pricing)
