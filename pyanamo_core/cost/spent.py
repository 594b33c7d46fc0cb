"""What a run has cost, from the rows of its pilots: vCPU time by what came of it, the ledger's units, requests, bytes.

    told = spent(ledger.pilots(run.run_id), price_list("us-east-1"), now=time.time())
    told.vcpu_seconds, told.lost_dollars, told.dollars

A pilot is paid for from its start to its end, with all vCPUs of its container. What its slots were held for stands in its
row; the rest is its start, and slots that nothing filled. A pilot that died has told that up to its last beat only; what
may have come after is `unseen`, and stands in the upper bounds of dollars.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pyanamo_core.cost.estimate import MACHINE_VCPUS, SCRATCH_GB
from pyanamo_core.cost.prices import GB, HOURS_A_MONTH, Prices
from pyanamo_core.cost.ranges import NOTHING, Range, dollars, exactly, total
from pyanamo_core.ledger import cost as units
from pyanamo_core.model import INTERRUPTIONS, Cause, Move, PilotRecord, Run
from pyanamo_core.protocols import Ledger

HOUR: Final = 3600.0
MILLION: Final = 1e6
DONE, OPEN, KEPT, IDLE, START = "done", "open", "kept", "idle", "start-up"
_CUT: Final = frozenset({*(cause.value for cause in INTERRUPTIONS), Cause.CANCELLED.value, KEPT})
_USEFUL: Final = frozenset({DONE, OPEN})
_FALLBACK_BUSY: Final = "busy"
"""Of pilots before they told what their slots were held for."""


@dataclass(frozen=True)
class Line:
    """vCPU time of one fate and what it cost.

    Attributes:
        what: `done`, a cause, `idle`, `start-up` …
        kind: useful, failed (by the items' own fault), cut short, overhead.
    """

    what: str
    kind: str
    vcpu_seconds: float
    share: float
    dollars: Range


@dataclass(frozen=True)
class Place:
    """Pilots of one queue, lifecycle, instance type and zone; empty where nobody told."""

    job_queue: str
    lifecycle: str
    instance_type: str
    zone: str
    pilots: int
    vcpu_seconds: float
    dollars: Range


@dataclass(frozen=True)
class Bill:
    """One line of what else was spent: how much, of what, dollars; how it is known."""

    what: str
    amount: Range
    unit: str
    dollars: Range
    basis: str
    note: str = ""


@dataclass(frozen=True)
class Spending:
    """What was spent (vCPU-seconds of containers; dollars as ranges).

    Attributes:
        working, silent: pilots that beat, and that said no farewell and beat no more.
        unseen_vcpu_seconds: what silent ones may have had after their last beats, at most.
        on_demand_dollars: the same vCPU time at the price on demand.
        saved: what Spot saved against that.
        cpu_seconds: what processes of nests used.
        hosts: that were told apart.
        unpriced: types whose prices are not known, with their vCPU-seconds, which stand in no dollars.
    """

    pilots: int = 0
    working: int = 0
    silent: int = 0
    vcpu_seconds: float = 0.0
    unseen_vcpu_seconds: float = 0.0
    lines: tuple[Line, ...] = ()
    places: tuple[Place, ...] = ()
    compute_dollars: Range = NOTHING
    on_demand_dollars: Range = NOTHING
    saved: Range = NOTHING
    lost_vcpu_seconds: float = 0.0
    lost_dollars: Range = NOTHING
    cpu_seconds: float = 0.0
    hosts: int = 0
    write_units: float = 0.0
    read_units: float = 0.0
    counted_units: Range = NOTHING
    output_bytes: int = 0
    nests_done: int = 0
    bills: tuple[Bill, ...] = ()
    unpriced: Mapping[str, float] = field(default_factory=dict[str, float])
    a_month: Range = NOTHING
    """Of results in S3, while they are kept."""

    @property
    def dollars(self) -> Range:
        """Compute and everything else, without what is kept by the month."""
        return self.compute_dollars + total(bill.dollars for bill in self.bills)


@dataclass
class _Sum:
    vcpu_seconds: float = 0.0
    dollars: Range = NOTHING

    def add(self, vcpu_seconds: float, price: Range) -> None:
        self.vcpu_seconds += vcpu_seconds
        self.dollars = self.dollars + price * vcpu_seconds


@dataclass
class Counting:
    """Adds pilots up, one at a time; what is kept is a few numbers per fate, place and host.

    Args:
        now: seconds since 1970.
        vcpus: of a pilot whose row does not tell them.
        beat_seconds, lease_seconds: the workflow's.
        until: when the run ended; None: it runs.
        on_demand_queue: the workflow's; its pilots are on demand also where no metadata said so.
    """

    prices: Prices
    now: float
    vcpus: float = 1.0
    beat_seconds: float = 200.0
    lease_seconds: float = 600.0
    until: float | None = None
    on_demand_queue: str = ""
    _fates: dict[str, _Sum] = field(default_factory=lambda: defaultdict[str, _Sum](_Sum))
    _places: dict[tuple[str, str, str, str], list[float]] = field(
        default_factory=dict[tuple[str, str, str, str], list[float]]
    )
    _hosts: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    _vcpu_prices: dict[tuple[str, str], tuple[Range, Range]] = field(
        default_factory=dict[tuple[str, str], tuple[Range, Range]]
    )
    _unpriced: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    _sums: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    _paid: Range = NOTHING
    _unseen: Range = NOTHING
    _on_demand: Range = NOTHING
    _saved: Range = NOTHING
    _counted: Range = NOTHING

    # ------------------------------------------------------------------ one pilot

    def add(self, pilot: PilotRecord) -> None:
        """Count a pilot."""
        silent = pilot.ended is None and self.now - pilot.last_beat > self.lease_seconds
        end = max(pilot.started, pilot.last_beat if pilot.ended is None else pilot.ended)
        vcpus = pilot.vcpus or self.vcpus
        lifecycle = lifecycle_of(pilot.lifecycle, pilot.job_queue, self.on_demand_queue)
        spot, on_demand = self._price(pilot.instance_type, lifecycle)
        life = end - pilot.started
        if not self.prices.knows(pilot.instance_type, on_demand=lifecycle != "spot"):
            self._unpriced[pilot.instance_type] += life * vcpus
        fates = self._fates_of(pilot, life, silent=silent)
        slots = max(1, pilot.slots)
        for what, slot_seconds in fates.items():
            self._fates[what].add(slot_seconds * vcpus / slots, spot)
        self._paid += spot * (life * vcpus)
        self._on_demand += on_demand * (life * vcpus)
        if lifecycle == "spot":
            most, least = on_demand.high - spot.low, on_demand.low - spot.high
            self._saved += Range(max(0.0, least), max(0.0, most)) * (life * vcpus)
        if silent:
            last = min(self.now, self.until or self.now, end + 1.1 * self.beat_seconds)
            after = max(0.0, last - end) * vcpus
            self._sums["unseen"] += after
            self._unseen += Range(0, (spot * after).high)
        sums = self._sums
        sums["pilots"] += 1
        sums["silent"] += silent
        sums["working"] += pilot.ended is None and not silent
        sums["vcpu_seconds"] += life * vcpus
        for name in ("cpu_seconds", "write_units", "read_units", "s3_writes", "s3_reads", "log_bytes", "output_bytes"):
            sums[name] += getattr(pilot.spent, name)
        sums["nests_done"] += pilot.nests_done
        self._counted += counted(pilot, self.beat_seconds)
        place = self._places.setdefault(
            (pilot.job_queue, lifecycle, pilot.instance_type, pilot.zone), [0, 0.0, 0.0, 0.0]
        )
        paid = spot * (life * vcpus)
        for number, more in enumerate((1, life * vcpus, paid.low, paid.high)):
            place[number] += more
        # Without metadata a host is the container's name: each pilot then counts as one.
        host = self._hosts.setdefault(pilot.host or pilot.pilot_id, [pilot.started, end, 0.0])
        host[0], host[1], host[2] = min(host[0], pilot.started), max(host[1], end), host[2] + life * vcpus

    def _fates_of(self, pilot: PilotRecord, life: float, *, silent: bool) -> dict[str, float]:
        """Slot-seconds of a pilot by what came of them; together its life."""
        slots = max(1, pilot.slots)
        told = dict(pilot.spent.slot_seconds) or ({_FALLBACK_BUSY: pilot.busy_seconds} if pilot.busy_seconds else {})
        if silent and OPEN in told:
            told[Cause.LOST.value] = told.get(Cause.LOST.value, 0.0) + told.pop(OPEN)
        if pilot.ready is not None:
            started = max(0.0, pilot.ready - pilot.started)
        else:
            started = 0.0 if told or pilot.claims else life
        told[START] = min(life, started) * slots
        # Children are waited for and recorded a little beyond the end; what is over is the measuring's.
        told[IDLE] = max(0.0, life * slots - sum(told.values()))
        return told

    def _price(self, instance_type: str, lifecycle: str) -> tuple[Range, Range]:
        """Dollars of a vCPU-second as it was bought, and on demand."""
        known = self._vcpu_prices.get((instance_type, lifecycle))
        if known is None:
            known = vcpu_second(self.prices, instance_type, lifecycle)
            self._vcpu_prices[instance_type, lifecycle] = known
        return known

    # ------------------------------------------------------------------ the sum

    @property
    def spending(self) -> Spending:
        """What has been counted until now."""
        sums = self._sums
        whole = sums["vcpu_seconds"]
        lines = [
            Line(
                what, kind_of(what), round(one.vcpu_seconds, 3), one.vcpu_seconds / whole if whole else 0.0, one.dollars
            )
            for what, one in self._fates.items()
            if one.vcpu_seconds > 0.0005
        ]
        order = ("useful", "failed", "cut short", "overhead")
        lines.sort(key=lambda line: (order.index(line.kind), -line.vcpu_seconds, line.what))
        lost = [line for line in lines if line.kind != "useful"]
        places = [
            Place(*names, int(told[0]), round(told[1], 3), Range(told[2], told[3]))
            for names, told in self._places.items()
        ]
        output_bytes = int(sums["output_bytes"])
        return Spending(
            pilots=int(sums["pilots"]),
            working=int(sums["working"]),
            silent=int(sums["silent"]),
            vcpu_seconds=round(whole, 3),
            unseen_vcpu_seconds=round(sums["unseen"], 3),
            lines=tuple(lines),
            places=tuple(sorted(places, key=lambda place: (-place.vcpu_seconds, place.job_queue, place.zone))),
            compute_dollars=self._paid + self._unseen,
            on_demand_dollars=self._on_demand,
            saved=self._saved,
            lost_vcpu_seconds=round(sum(line.vcpu_seconds for line in lost), 3),
            lost_dollars=total(line.dollars for line in lost) + self._unseen,
            cpu_seconds=round(sums["cpu_seconds"], 3),
            hosts=len(self._hosts),
            write_units=sums["write_units"],
            read_units=sums["read_units"],
            counted_units=self._counted,
            output_bytes=output_bytes,
            nests_done=int(sums["nests_done"]),
            unpriced={name: round(seconds, 3) for name, seconds in sorted(self._unpriced.items())},
            bills=tuple(bill for bill in self._bills() if bill.amount.high > 0),
            a_month=self.prices.s3_gb_month.dollars * (output_bytes / GB),
        )

    def _bills(self) -> list[Bill]:
        prices, sums = self.prices, self._sums
        hours = self._machine_hours()
        an_hour = prices.scratch_gb_month.dollars * (SCRATCH_GB / HOURS_A_MONTH) + prices.address_hour.dollars
        measured = [
            ("ledger, writes", "write_units", "write units", prices.write_million.dollars, MILLION),
            ("ledger, reads", "read_units", "read units", prices.read_million.dollars, MILLION),
            ("S3, PUT and LIST", "s3_writes", "calls", prices.put_million.dollars, MILLION),
            ("S3, GET and HEAD", "s3_reads", "calls", prices.get_million.dollars, MILLION),
            ("CloudWatch Logs of nests", "log_bytes", "GB", prices.log_gb.dollars, GB),
        ]
        return [
            Bill("volume and address", hours, "machine hours", hours * an_hour, "assumed", f"{SCRATCH_GB} GiB each"),
            *(
                Bill(
                    what,
                    exactly(sums[name] / (GB if unit == "GB" else 1)),
                    unit,
                    price * (sums[name] / per),
                    "measured",
                )
                for what, name, unit, price, per in measured
            ),
        ]

    def _machine_hours(self) -> Range:
        """From each host's first pilot to its last one's end; at least as many machines as hold all vCPUs."""
        most = sum(end - start for start, end, _ in self._hosts.values()) / HOUR
        least = sum(vcpus for *_, vcpus in self._hosts.values()) / HOUR / MACHINE_VCPUS
        return Range(min(least, most), most)


def spent(
    pilots: Iterable[PilotRecord],
    prices: Prices,
    *,
    now: float,
    vcpus: float = 1.0,
    beat_seconds: float = 200.0,
    lease_seconds: float = 600.0,
    until: float | None = None,
    on_demand_queue: str = "",
) -> Spending:
    """What pilots have cost (see Counting for the arguments)."""
    counting = Counting(prices, now, vcpus, beat_seconds, lease_seconds, until, on_demand_queue)
    for pilot in pilots:
        counting.add(pilot)
    return counting.spending


def of_run(ledger: Ledger, run: Run, prices: Prices, *, now: float) -> Spending:
    """What a run's pilots have cost, by the workflow that it pins. Reads their rows, and no items."""
    workflow = ledger.workflow(run.workflow_version)[1]
    return spent(
        ledger.pilots(run.run_id),
        prices,
        now=now,
        vcpus=workflow.vcpus,
        beat_seconds=workflow.timing.beat_seconds,
        lease_seconds=workflow.timing.lease_seconds,
        until=run.ended,
        on_demand_queue=workflow.on_demand_queue,
    )


def in_words(spending: Spending) -> str:
    """One line: dollars, vCPU hours, what of them was lost, what Spot saved."""
    told = spending
    text = f"{dollars(told.dollars)} by list prices: {told.vcpu_seconds / HOUR:,.2f} vCPU hours"
    if told.vcpu_seconds:
        text += (
            f", {100 * told.lost_vcpu_seconds / told.vcpu_seconds:.0f} % of them lost ({dollars(told.lost_dollars)})"
        )
    if told.unpriced:
        text += f"; without dollars for {', '.join(told.unpriced)}, whose prices are not known"
    if told.write_units:
        text += f"; {told.write_units:,.0f} write units"
    if told.saved.high >= 0.01:
        text += f"; Spot saved {dollars(told.saved)}"
    return text


def lifecycle_of(told: str, job_queue: str, on_demand_queue: str) -> str:
    """`spot`, `on-demand` or empty: as the machine's metadata told it, else by the queue (a name, or its ARN)."""
    if told or not job_queue:
        return told
    return "on-demand" if on_demand_queue.rpartition("/")[2] == job_queue else ""


def vcpu_second(prices: Prices, instance_type: str, lifecycle: str) -> tuple[Range, Range]:
    """Dollars of a vCPU-second as it was bought, and on demand. Of an unknown lifecycle the first is either.

    Of a type whose price is not known both are nothing: see Spending.unpriced.
    """
    if not prices.knows(instance_type, on_demand=lifecycle != "spot"):
        return NOTHING, NOTHING
    on_demand = prices.vcpu_hour(instance_type, on_demand=True).dollars * (1 / HOUR)
    if lifecycle and lifecycle != "spot":
        return on_demand, on_demand
    spot = prices.vcpu_hour(instance_type, on_demand=False).dollars * (1 / HOUR)
    if lifecycle == "spot":
        return spot, on_demand
    return Range(min(spot.low, on_demand.low), max(spot.high, on_demand.high)), on_demand


def kind_of(what: str) -> str:
    """useful, cut short, overhead or failed: of a fate or a cause."""
    if what in _USEFUL or what == _FALLBACK_BUSY:
        return "useful"
    if what in _CUT:
        return "cut short"
    return "overhead" if what in (IDLE, START) else "failed"


def counted(pilot: PilotRecord, beat_seconds: float) -> Range:
    """Write units of a pilot's moves as ledger/cost.py counts them, to be compared with what DynamoDB told.

    A nest's row takes one to three units; how long items were held is not told, so that their beats are bounds.
    """
    ends = pilot.items_done + pilot.items_failed
    life = max(0.0, (pilot.ended or pilot.last_beat) - pilot.started)
    rounds = life / beat_seconds
    nests = pilot.nests_done + pilot.nests_failed
    sure = (
        pilot.claims * (units.MOVE_UNITS[Move.CLAIM] + 1)
        + pilot.conflicts * units.REFUSED_UNITS
        + ends * (units.MOVE_UNITS[Move.FINISH] + 1)
        + nests
        + 2
    )
    open_ended = (pilot.claims - ends) * (units.MOVE_UNITS[Move.HAND_BACK] + 1) if pilot.claims > ends else 0
    held = max(pilot.items, 1) * units.MOVE_UNITS[Move.BEAT] * rounds * 1.15
    return Range(sure + int(0.8 * rounds), sure + open_ended + 2 * nests + held + (rounds * 1.15 + 2) * 5)
