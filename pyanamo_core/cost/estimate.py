"""What a run will cost, line by line: exact units where they can be counted, measured sizes else, and the price as a range.

    work = work_of_sheet(sheet, pace, at_once=workflow.nests)
    told = estimate(workflow, work, pace, price_list("us-east-1"))
    dollars(told.once), dollars(told.a_month)

Nothing here asks AWS or a ledger. A line without dollars says why it has none; the sums then are sums of the others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pyanamo_core.cost.pace import MEGABASE, Leaves, Pace
from pyanamo_core.cost.prices import GB, HOURS_A_MONTH, Price, Prices
from pyanamo_core.cost.ranges import NOTHING, Range, exactly, total, two_digits
from pyanamo_core.cost.work import Work
from pyanamo_core.ledger import cost
from pyanamo_core.model import Move
from pyanamo_core.workflow import InputBucket, Workflow

SWEEPS: Final = 3
"""Empty looks after which a pilot leaves."""
LOSSES: Final = Range(0, 0.1)
"""Seconds of calling lost with machines of Spot, as a share. Assumed; `runs losses` tells what was."""
MACHINE_VCPUS: Final = 48
"""Of the biggest machine that Batch is likely to take: pilots share its volume and address."""
SCRATCH_GB: Final = 200
MEMORY_OF_A_VCPU: Final = Range(4, 8)
"""GiB that machines have for a vCPU: the m families 4, the r families 8. A pilot that asks for more occupies more vCPUs."""
STACK_VCPUS: Final = 256
"""Of the stack's Spot machines at a time, unless `SpotVcpus` says something else."""
READS_BYTES_A_BASE: Final = Range(4.9, 5.1)
"""CRAMs of the 1000 Genomes at 30x: 14.4 GB for 2.94 Gb, and what the edges of loci add (docs/cohort.md)."""
PILOT_LOG_BYTES: Final = Range(1_000, 30_000)
LOG_MONTHS: Final = 3
"""The stack keeps logs for 90 days."""
TABLE_ROW_OVERHEAD: Final = 200
"""Bytes that DynamoDB bills for a row beside its own, with the index entry of an item."""
_COUNTED, _MEASURED, _ASSUMED = "counted", "measured", "assumed"


@dataclass(frozen=True)
class Starts:
    """What goes by before work begins, in seconds.

    Attributes:
        machine: until Spot machines stand: waited for, not paid.
        pilot: from a container's start to the pilot's first claim: reference and scripts. Paid.
    """

    machine: Range
    pilot: Range


STARTS: Final = Starts(machine=Range(60, 300), pilot=Range(20, 180))
"""On AWS. Assumed."""


@dataclass(frozen=True)
class Line:
    """One line of a bill to come.

    Attributes:
        what: compute, ledger …
        amount: how much, in `unit`; None: not known.
        dollars: None: not known; `note` says why.
        monthly: each month while it is kept, not once.
        basis: how the amount is known: counted, measured, learnt, given, assumed.
        source: of the price, and of which day.
    """

    what: str
    amount: Range | None
    unit: str
    dollars: Range | None
    basis: str
    note: str = ""
    monthly: bool = False
    source: str = ""


@dataclass(frozen=True)
class Estimate:
    """What a run will take. Hours and dollars are ranges; None: nothing is known.

    Attributes:
        table: that it is for.
        pilots: that will run at most at a time; `slots` nests at a time in each.
        vcpu_hours: of pilots' containers, start and losses included.
        hours: by the clock, from the first machine's start to the last nest.
        write_units, read_units: of the ledger.
        puts, gets: calls to S3 (PUT, COPY, LIST; GET, HEAD).
        missing: what is not known, in words.
        vcpus: of a pilot.
    """

    table: str
    region: str
    items: int
    nests: int
    bases: int
    pilots: int
    slots: int
    vcpu_hours: Range | None
    hours: Range | None
    pace: str
    write_units: Range
    read_units: Range
    puts: Range
    gets: Range
    lines: tuple[Line, ...]
    missing: tuple[str, ...] = ()
    vcpus: float = 0.0

    @property
    def vcpus_at_once(self) -> float:
        """That Batch must give so that `hours` hold; where its ceiling is lower, they are as much more."""
        return self.pilots * self.vcpus

    @property
    def once(self) -> Range:
        """Dollars for the run itself, of the lines that have any."""
        return total(line.dollars for line in self.lines if line.dollars is not None and not line.monthly)

    @property
    def a_month(self) -> Range:
        """Dollars a month for what is kept."""
        return total(line.dollars for line in self.lines if line.dollars is not None and line.monthly)


def pilots_of(workflow: Workflow, items: int, pilots: int | None = None) -> int:
    """Pilots that a run of so many items will have at a time."""
    return min(pilots or workflow.pilots, max(1, math.ceil(items / workflow.items)))


def estimate(
    workflow: Workflow,
    work: Work,
    pace: Pace,
    prices: Prices,
    *,
    pilots: int | None = None,
    on_demand: bool = False,
    reads: bool | None = None,
    what: str = "",
    starts: Starts = STARTS,
) -> Estimate:
    """Price a run.

    Args:
        work: of the same pace.
        pilots: instead of the workflow's.
        on_demand: the queue's machines are not of Spot.
        reads: nests read sequencing reads by their loci; None: where scripts are HaplotypeCaller's.
        what: put before each line's name: the step of a cohort.
        starts: how long machines and pilots take to begin.
    """
    return _Estimate(
        workflow, work, pace, prices, pilots, on_demand, work.genomic if reads is None else reads, what, starts
    ).all()


class _Estimate:
    def __init__(
        self,
        workflow: Workflow,
        work: Work,
        pace: Pace,
        prices: Prices,
        pilots: int | None,
        on_demand: bool,
        reads: bool,
        what: str,
        starts: Starts,
    ) -> None:
        self.workflow, self.work, self.pace, self.prices = workflow, work, pace, prices
        self.pilots = pilots_of(workflow, work.items, pilots)
        self.on_demand, self.reads, self.what, self.starts = on_demand, reads, what, starts
        self.leaves: Leaves = pace.leaves or work.leaves
        self.missing: list[str] = []
        self._time()

    # ------------------------------------------------------------------------------------------------------ time

    def _time(self) -> None:
        """Pilots' seconds and the clock's, from how long items are held."""
        workflow, work, timing = self.workflow, self.work, self.workflow.timing
        self.held = work.item_seconds
        # A pilot looks three times into an empty ledger; the jitter is half of itself on the mean.
        self.idle = self.starts.pilot + (SWEEPS - 1) * timing.sweep_seconds + timing.start_jitter_seconds / 2
        self.worked: Range | None = None
        self.pilot_seconds: Range | None = None
        self.hours: Range | None = None
        if not work.items:
            self.held = self.worked = self.pilot_seconds = self.hours = NOTHING
            return
        if self.held is None or work.longest is None:
            self.missing.append(
                "hours, and what machines cost: nothing is known of how long a nest takes (--nest-time, --learn)"
            )
            return
        losses = self.pace.losses if self.pace.losses is not None else NOTHING if self.on_demand else LOSSES
        at_once = min(workflow.items, work.items)
        self.worked = self.held * (1 / at_once)
        self.lost = self.worked * losses
        even = (self.worked + self.lost) * (1 / self.pilots)
        # The last items leave slots of a pilot without work beside those that still have some; at worst each item
        # takes as long as the longest, in as many rounds as all slots need.
        last = self.worked.high + self.pilots * (1 - 1 / at_once) * work.longest.high
        rounds = math.ceil(work.items / (self.pilots * at_once)) * self.pilots * work.longest.high
        self.worked = Range(self.worked.low, max(self.worked.high, min(last, rounds)))
        self.pilot_seconds = self.worked + self.lost + self.idle * self.pilots
        longest = work.longest
        clock = Range(max(even.low, longest.low), max(even.high, longest.high, min(even.high + longest.high, 1e12)))
        self.hours = (clock + self.starts.pilot + self.starts.machine) * (1 / 3600)

    # --------------------------------------------------------------------------------------------------- ledger

    def _write_units(self) -> Range:
        work, timing = self.work, self.workflow.timing
        per_item = cost.MOVE_UNITS[Move.CLAIM] + cost.MOVE_UNITS[Move.FINISH] + cost.ATTEMPT_UNITS
        units = exactly(work.import_units + work.items * per_item) + work.nests * self.leaves.units
        if not work.items:
            return exactly(work.import_units)
        if self.held is not None and self.pilot_seconds is not None and self.hours is not None:
            beats = Range(0.8, 1.15) * self.held * (1 / timing.beat_seconds)
            units += beats * cost.MOVE_UNITS[Move.BEAT]
            # A pilot's row: put at its start and end, and at each beat, where its index key moves.
            rounds = Range(0.8, 1.15) * self.pilot_seconds * (1 / timing.beat_seconds) + self.pilots
            units += rounds * Range(3, 5) + self.pilots * Range(2, 4)
            units += self.hours * 3600 * Range(0.5, 1.1) * (1 / timing.poll_seconds)
            units += Range(0, 0.1) * work.items * (cost.MOVE_UNITS[Move.HAND_BACK] + cost.MOVE_UNITS[Move.CLAIM])
        # Versions of the workflow, the run's row and its submissions; claims that another pilot was quicker with.
        return units + Range(4, 25) + Range(0, 0.02) * work.items

    def _read_units(self) -> Range:
        workflow, work, timing = self.workflow, self.work, self.workflow.timing
        if not work.items:
            return NOTHING
        shards = workflow.shard_count
        # Of a claim: the run's row, a page of candidates, the definition and the nests' rows.
        units = work.items * Range(1.0, 3.0) + work.read_units
        if self.hours is not None and self.pilot_seconds is not None:
            polls = self.hours * 3600 * Range(0.5, 1.1) * (1 / timing.poll_seconds)
            units += polls * Range(1, 5) * shards
            rounds = self.pilot_seconds * (1 / timing.beat_seconds) + SWEEPS * self.pilots
            units += rounds * Range(1, 1 + 2.0 * shards)
        return units + Range(5, 40) + self.pilots * Range(3, 10)

    # --------------------------------------------------------------------------------------------------- the bill

    def all(self) -> Estimate:
        prices, work = self.prices, self.work
        writes, reads = self._write_units(), self._read_units()
        puts, gets = self._calls()
        lines = [
            *self._machines(),
            self._line("ledger, writes", writes, "write units", prices.write_million, MEGABASE, self._counted()),
            self._line("ledger, reads", reads, "read units", prices.read_million, MEGABASE, _ASSUMED),
            self._line("S3, PUT and LIST", puts, "calls", prices.put_million, MEGABASE, self.leaves.basis),
            self._line("S3, GET and HEAD", gets, "calls", prices.get_million, MEGABASE, self.leaves.basis),
            *self._transfers(),
            *self._logs(),
            *self._kept(),
        ]
        vcpus = None if self.pilot_seconds is None else self.pilot_seconds * self.workflow.vcpus * (1 / 3600)
        return Estimate(
            table=self.workflow.table_name,
            region=prices.region,
            items=work.items,
            nests=work.nests,
            bases=work.bases,
            pilots=self.pilots if work.items else 0,
            slots=self.workflow.slots,
            vcpu_hours=vcpus,
            hours=self.hours,
            pace=self.pace.source if self.pace.basis else "",
            write_units=writes,
            read_units=reads,
            puts=puts,
            gets=gets,
            lines=tuple(line for line in lines if line.amount is None or line.amount.high > 0),
            missing=tuple(self.missing),
            vcpus=self.workflow.vcpus,
        )

    def _counted(self) -> str:
        return _COUNTED if self.leaves.basis in ("learnt", _MEASURED) and self.held is not None else _ASSUMED

    def _line(
        self,
        what: str,
        amount: Range | None,
        unit: str,
        price: Price,
        per: float,
        basis: str,
        note: str = "",
        monthly: bool = False,
    ) -> Line:
        dollars = None if amount is None else amount * (1 / per) * price.dollars
        source = f"{price.source}, {price.date}" if price.date else price.source
        return Line(f"{self.what}{what}", amount, unit, dollars, basis, note, monthly, source)

    def _machines(self) -> list[Line]:
        workflow, prices = self.workflow, self.prices
        price = prices.vcpu_hour(on_demand=self.on_demand)
        kind = "on demand" if self.on_demand else "Spot"
        note = "" if self.pilot_seconds is not None else "not known: how long does a nest take?"
        hours = self.pilot_seconds
        gib = workflow.memory_mb / 1024
        taken = Range(max(workflow.vcpus, gib / MEMORY_OF_A_VCPU.high), max(workflow.vcpus, gib / MEMORY_OF_A_VCPU.low))
        vcpu_hours = None if hours is None else hours * taken * (1 / 3600)
        if vcpu_hours is not None and not self.on_demand:
            note = f"${two_digits((vcpu_hours * prices.on_demand_vcpu_hour.dollars).low)} or more on demand"
        if taken.high > workflow.vcpus:
            note += f"{'; ' if note else ''}a pilot's {gib:.3g} GiB of memory occupy {taken} vCPUs of a machine"
        lines = [self._line(f"machines, {kind}", vcpu_hours, "vCPU hours", price, 1, self.pace.basis, note)]
        if hours is not None:
            # A machine of its own for each pilot at most; at least as many as hold them all.
            share = Range(min(1.0, taken.low / MACHINE_VCPUS), 1.0)
            machines = hours * share * (1 / 3600)
            an_hour = prices.scratch_gb_month.dollars * (SCRATCH_GB / HOURS_A_MONTH) + prices.address_hour.dollars
            both = Price(an_hour, "hour", prices.scratch_gb_month.source, prices.scratch_gb_month.date)
            what = "machines, volume and address"
            lines.append(self._line(what, machines, "machine hours", both, 1, _ASSUMED, f"{SCRATCH_GB} GiB each"))
        return lines

    def _calls(self) -> tuple[Range, Range]:
        work, hosts = self.work, Range(1, self.pilots)
        if not work.items:
            return NOTHING, NOTHING
        again = 1 + (NOTHING if self.on_demand else Range(0, 0.05))
        puts, gets = work.nests * self.leaves.puts * again, work.nests * self.leaves.gets * again
        # The scripts' archive and each reference, once per host; the bucket is looked at by the driver.
        staged = hosts * (2 + len(self.workflow.references) * Range(2, 8))
        return puts + Range(0, 2), gets + staged + Range(1, 4)

    def _transfers(self) -> list[Line]:
        """What reading from buckets of other regions costs, and who pays."""
        if not self.reads or not self.work.bases:
            return []
        amount = self.work.bases * READS_BYTES_A_BASE * (1 / GB)
        inputs: Sequence[InputBucket] = self.workflow.buckets.inputs
        if not inputs:
            return [self._transfer("reads", amount, "role", "", "")]
        told = [self._transfer(one.bucket, amount, one.access, one.region, one.endpoint) for one in inputs]
        if len(told) == 1:
            return told
        # How much lies in which bucket is not known: their sum is between all in the cheapest and all in the dearest.
        known = [line.dollars for line in told if line.dollars is not None]
        if not known:
            return told
        least = min(one.low for one in known) if len(known) == len(told) else 0.0
        both = Range(least, max(one.high for one in known))
        dear = max((line for line in told if line.dollars is not None), key=lambda line: (line.dollars or NOTHING).high)
        note = "; ".join(f"{line.what.removeprefix(f'{self.what}transfer, ')}: {line.note}" for line in told)
        what = f"{self.what}transfer, {len(told)} buckets"
        return [replace(dear, what=what, dollars=both, note=f"as if all lay in one of them; {note}")]

    def _transfer(self, bucket: str, amount: Range, access: str, region: str, endpoint: str) -> Line:
        # S3 bills by the region that the data leave.
        price, here = self.prices.transfer_from(region), self.prices.region
        same, free = region == here, Price(NOTHING, "GB", "", "")
        where = f"transfer, {bucket}"
        if endpoint:
            return Line(f"{self.what}{where}", amount, "GB", None, _MEASURED, f"not known: {endpoint} is not AWS")
        if same:
            return self._line(where, amount, "GB", free, 1, _MEASURED, f"none within {here}")
        if access == "anonymous":
            return self._line(where, amount, "GB", free, 1, _MEASURED, "its owner pays for public reads")
        some = f"from {region}" if region else f"none if it lies in {here}; its region is not named"
        if access == "requester_pays":
            low = price.dollars.low if region else 0.0
            asked = Price(Range(low, price.dollars.high), "GB", price.source, price.date)
            return self._line(where, amount, "GB", asked, 1, _MEASURED, f"you pay: {some}")
        yours = Price(Range(0, price.dollars.high), "GB", price.source, price.date)
        return self._line(where, amount, "GB", yours, 1, _MEASURED, f"{some}; its owner's bill")

    def _logs(self) -> list[Line]:
        work, prices = self.work, self.prices
        if not work.items:
            return []
        nests = NOTHING if self.workflow.logs == "s3" else work.nests * self.leaves.log_bytes
        amount = (nests + self.pilots * PILOT_LOG_BYTES) * (1 / GB)
        kept = f"for as long as the log group keeps them (the stack's: {LOG_MONTHS} months)"
        return [
            self._line("CloudWatch Logs", amount, "GB", prices.log_gb, 1, self.leaves.basis),
            self._line("CloudWatch Logs, kept", amount, "GB", prices.log_gb_month, 1, self.leaves.basis, kept, True),
        ]

    def _kept(self) -> list[Line]:
        work, prices, leaves = self.work, self.prices, self.leaves
        rows = work.nests * (leaves.row_bytes + TABLE_ROW_OVERHEAD) + work.items * Range(900, 1800)
        table = (rows + work.import_units * 1024) * (1 / GB)
        lines = [
            self._line("ledger, kept", table, "GB", prices.table_gb_month, 1, leaves.basis, monthly=True),
            self._line(
                "ledger, backup", table, "GB", prices.backup_gb_month, 1, leaves.basis, "point-in-time recovery", True
            ),
        ]
        by_bases = leaves.bytes_a_base.high > 0 and work.located == work.nests
        made = work.bases * leaves.bytes_a_base if by_bases else None
        if made is None and leaves.output_bytes is not None:
            made = work.nests * leaves.output_bytes
        note = "" if made is not None else "not known before some have run (--learn)"
        if made is None:
            self.missing.append("how much results take in the bucket, and what that costs a month (--learn)")
        amount = None if made is None else made * (1 / GB)
        basis = leaves.basis if made is not None else _ASSUMED
        return [*lines, self._line("S3, results", amount, "GB", prices.s3_gb_month, 1, basis, note, True)]
