"""What a run's machines have cost so far, and what stops it in time: pure functions of its pilots' rows.

A watcher has those rows anyway (sight.py), so that this costs no call. Counted is the compute of pilots from their start to
their end, at the upper end of the price that the run's row holds: a limit shall hold where Spot is dear. Ledger, storage
and logs are not in it: they are small beside it (docs/cost.md), and bought already.

A limit is kept in two steps. When what was spent and what the held items will still cost reach it, nothing more is begun, and
the pilots finish what they hold. When the spent alone reaches it, they hand back within a beat: so it is passed by what
its pilots cost in one beat and a poll, however wrong the estimate of the rest was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyanamo_core.fleet.plan import Pilots
from pyanamo_core.model import PilotRecord, Run

ON_DEMAND = "on-demand"
LEFT_OF_AN_ITEM = 0.5
"""Of an item that is held, so much is still to be done on average."""


@dataclass(frozen=True)
class Spending:
    """Dollars of compute: spent between two bounds, and committed (at the upper price)."""

    low: float = 0.0
    high: float = 0.0
    committed: float = 0.0


def pilot_seconds(pilots: Iterable[PilotRecord], now: float) -> tuple[float, float]:
    """Seconds of pilots on Spot and on demand, from start to end; a silent one's until its last beat.

    Args:
        now: seconds since 1970.
    """
    spot = on_demand = 0.0
    for record in pilots:
        lived = max(0.0, _end(record, now) - record.started)
        if record.lifecycle == ON_DEMAND:
            on_demand += lived
        else:
            spot += lived
    return spot, on_demand


def _end(record: PilotRecord, now: float) -> float:
    return record.ended if record.ended is not None else now


def spending(run: Run, pilots: Pilots, *, vcpus: float, now: float) -> Spending | None:
    """What the run's pilots have cost and will; None for a run whose row holds no prices.

    Args:
        vcpus: of one pilot.
        now: seconds since 1970.
    """
    if run.vcpu_hour is None:
        return None
    spot, on_demand = pilot_seconds((*pilots.fresh, *pilots.ended), now)
    # A silent one is no longer there, or will be found to be: its machine was paid up to its last beat at least.
    silent = sum(max(0.0, record.last_beat - record.started) for record in pilots.silent)
    hours = vcpus / 3600
    low, high = (
        hours * ((spot + silent) * run.vcpu_hour.spot[end] + on_demand * run.vcpu_hour.on_demand[end]) for end in (0, 1)
    )
    left_spot, left_on_demand = _left(pilots, now)
    committed = hours * (left_spot * run.vcpu_hour.spot[1] + left_on_demand * run.vcpu_hour.on_demand[1])
    return Spending(low, high, committed)


def _left(pilots: Pilots, now: float) -> tuple[float, float]:
    """Pilot seconds that the held items will still take, on Spot and on demand.

    By the mean of the finished items; while none is, as long again as the pilots that hold some have lived.
    """
    finished = sum(record.items_done + record.items_failed for record in pilots)
    lived = sum(pilot_seconds(pilots, now))
    spot = on_demand = 0.0
    for record in pilots.fresh:
        if not record.holding:
            continue
        # Of a pilot with several items at a time, the mean is of one: together they take as many times that.
        mean = lived / finished * len(record.holding) if finished else None
        left = mean * LEFT_OF_AN_ITEM if mean is not None else max(0.0, now - record.started)
        if record.lifecycle == ON_DEMAND:
            on_demand += left
        else:
            spot += left
    return spot, on_demand


def stop_for_dollars(run: Run, seen: Spending | None) -> str:
    """Why the run must begin nothing more, or ""."""
    if run.max_dollars is None or seen is None or seen.high + seen.committed < run.max_dollars:
        return ""
    return told(run.max_dollars, seen)


def hand_back_for_dollars(run: Run, seen: Spending | None) -> str:
    """Why its pilots must hand back what they hold, or ""."""
    if run.max_dollars is None or seen is None or seen.high < run.max_dollars:
        return ""
    return told(run.max_dollars, seen)


def told(limit: float, seen: Spending) -> str:
    """The reason, short enough for a run's row (80 bytes)."""
    return f"max_dollars {_dollars(limit)}: spent ≤ {_dollars(seen.high)}, committed {_dollars(seen.committed)}"


def _dollars(amount: float) -> str:
    """`$0.0042`, `$0.31`, `$12.50`, `$1,250`: a limit is not told more roughly than it was given."""
    if amount >= 1000:
        return f"${amount:,.0f}"
    return f"${amount:.2f}" if amount >= 0.1 or amount == 0 else f"${amount:.2g}"
