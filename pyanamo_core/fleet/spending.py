"""What a run's machines have cost so far, and what stops it in time: pure functions of its pilots' rows.

A watcher has those rows anyway (sight.py), so that this costs no call. Counted are vCPUs of pilots from their start to
their end, by instance type and lifecycle, and volume and address of their hosts. A limit shall hold where Spot is dear, and
compute environments without a bid percentage pay as much as on demand costs: that is the upper end, unless prices of one's
own say what Spot costs. Ledger, storage and logs are not in it: they are small beside it (docs/cost.md), and bought already.

A limit is kept in two steps. When what was spent and what the held items will still cost reach it, nothing more is begun, and
the pilots finish what they hold. When the spent alone reaches it, they hand back within a beat: so it is passed by what
its pilots cost in one beat and a poll, however wrong the estimate of the rest was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyanamo_core.cost.estimate import MACHINE_VCPUS
from pyanamo_core.cost.prices import INSTANCES
from pyanamo_core.cost.spent import HOUR, lifecycle_of
from pyanamo_core.fleet.plan import Pilots
from pyanamo_core.model import PilotRecord, Run, VcpuHour

SPOT, ON_DEMAND = "spot", "on-demand"
LEFT_OF_AN_ITEM = 0.5
"""Of an item that is held, so much is still to be done on average."""


@dataclass(frozen=True)
class Spending:
    """Dollars of machines: spent between two bounds, and committed (at the upper price)."""

    low: float = 0.0
    high: float = 0.0
    committed: float = 0.0


def pilot_seconds(pilots: Pilots, now: float) -> float:
    """Seconds of pilots from start to end; a silent one's until its last beat.

    Args:
        now: seconds since 1970.
    """
    return sum(_lived(record, end) for record, end in _ends(pilots, now))


def _ends(pilots: Pilots, now: float) -> Iterator[tuple[PilotRecord, float]]:
    """Each pilot with its end, or until when it surely was paid for.

    A silent one is no longer there, or will be found to be: its machine was paid up to its last beat at least.
    """
    for record in (*pilots.fresh, *pilots.ended):
        yield record, record.ended if record.ended is not None else now
    for record in pilots.silent:
        yield record, record.last_beat


def _lived(record: PilotRecord, end: float) -> float:
    return max(0.0, end - record.started)


@dataclass(frozen=True)
class _Bought:
    """What a run's row and its workflow say of a pilot: its vCPUs, and what one costs for an hour."""

    prices: VcpuHour
    vcpus: float
    on_demand_queue: str

    def hour(self, record: PilotRecord) -> tuple[float, float]:
        """Dollars of the pilot for an hour, least and most."""
        vcpus = record.vcpus or self.vcpus
        spot, on_demand = self.prices.spot, self.prices.on_demand
        listed = INSTANCES.get(record.instance_type.partition(".")[0])
        if listed is not None and self.prices.factor[1]:
            on_demand = listed * self.prices.factor[0], listed * self.prices.factor[1]
            # Spot costs as much as on demand at most.
            spot = min(spot[0], on_demand[0]), on_demand[1]
        lifecycle = lifecycle_of(record.lifecycle, record.job_queue, self.on_demand_queue)
        if lifecycle == ON_DEMAND:
            spot = on_demand
        elif lifecycle != SPOT:  # nobody said: it may be either
            spot = min(spot[0], on_demand[0]), max(spot[1], on_demand[1])
        return spot[0] * vcpus, spot[1] * vcpus


def spending(run: Run, pilots: Pilots, *, vcpus: float, now: float, on_demand_queue: str = "") -> Spending | None:
    """What the run's pilots have cost and will; None for a run whose row holds no prices.

    Args:
        vcpus: of a pilot whose row does not tell them.
        now: seconds since 1970.
        on_demand_queue: the workflow's: what comes from it is on demand, also where no metadata said so.
    """
    if run.vcpu_hour is None:
        return None
    bought = _Bought(run.vcpu_hour, vcpus, on_demand_queue)
    low = high = held = 0.0
    hosts: dict[str, tuple[float, float]] = {}
    for record, end in _ends(pilots, now):
        hours = _lived(record, end) / HOUR
        least, most = bought.hour(record)
        low, high, held = low + hours * least, high + hours * most, held + hours * (record.vcpus or vcpus)
        # Without metadata a host is the container's name: each pilot then counts as one.
        host = record.host or record.pilot_id
        first, last = hosts.get(host, (record.started, end))
        hosts[host] = min(first, record.started), max(last, end)
    machines = sum(max(0.0, last - first) for first, last in hosts.values()) / HOUR
    low += min(machines, held / MACHINE_VCPUS) * run.vcpu_hour.machine[0]
    high += machines * run.vcpu_hour.machine[1]
    committed = sum(seconds / HOUR * bought.hour(record)[1] for record, seconds in _left(pilots, now))
    return Spending(low, high, committed)


def _left(pilots: Pilots, now: float) -> Iterator[tuple[PilotRecord, float]]:
    """Pilots with the seconds that the items which they hold will still take.

    By the mean of the finished items; while none is, as long again as the pilots that hold some have lived.
    """
    finished = sum(record.items_done + record.items_failed for record in pilots)
    lived = pilot_seconds(pilots, now)
    for record in pilots.fresh:
        if not record.holding:
            continue
        # Of a pilot with several items at a time, the mean is of one: together they take as many times that.
        mean = lived / finished * len(record.holding) if finished else None
        yield record, mean * LEFT_OF_AN_ITEM if mean is not None else max(0.0, now - record.started)


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
