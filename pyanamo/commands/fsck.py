"""`pyanamo fsck`: compare a table with what must be true of it, and repair what is asked for (docs/ledger.md, fsck)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.context import Context, command
from pyanamo.progress import LINE_SECONDS
from pyanamo.render import Told, size, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.clock import SystemClock
    from pyanamo_core.ledger.fsck_walk import Checked, Fsck, Tally
    from pyanamo_core.report.objects import ObjectCheck, Stray

FAULTS_LEFT = 8
"""Exit code: faults were found that are not repaired."""


@dataclass(frozen=True)
class Found:
    """One finding, as it is told."""

    finding: str
    weight: str
    item: str
    row: str
    wrong: str
    repair: str
    repaired: bool


@dataclass(frozen=True)
class Objects:
    """What `--outputs` saw."""

    prefixes: list[str]
    objects: int
    bytes: int
    named: int
    being_written: int
    elsewhere: int
    counts: dict[str, int]
    counted_bytes: dict[str, int]
    listed: list[Stray]


@dataclass(frozen=True)
class Report:
    """What fsck has to tell. `findings` and `listed` are the first so many; the counts are of all."""

    table: str
    rows: int
    items: int
    read_again: int
    at_work: int
    faults: int
    """Faults that are left, those of outputs included."""
    counts: dict[str, int]
    repaired: dict[str, int]
    findings: list[Found]
    outputs: Objects | None = None


@dataclass
class _Gathered:
    """The first so many of what comes, and counts of all of it."""

    limit: int
    shown: list[Any] = field(default_factory=list[Any])

    def add(self, one: Any) -> None:
        if not self.limit or len(self.shown) < self.limit:
            self.shown.append(one)


@command(example=("pyanamo fsck", "pyanamo fsck --outputs --json", "pyanamo fsck --repair"))
def fsck(
    context: Context,
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Compare the bucket too: what no nest names, what is named and missing.")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Repair rows; objects are never touched.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Findings to list at most; 0: all.")] = 1000,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> Told:
    """Check the table: is everything true that must be true of its rows?

    Pilots may work meanwhile. A fault breaks what PyAnamo guarantees (an item that nobody would find, a done item whose
    nests are not done). What is left over (results of before a reset, definitions of before an edit) hurts nobody.
    A repair is one write that is refused if the item has moved since, and leaves items alone that a pilot holds.
    Each finding is explained in docs/ledger.md, fsck. Exit code 8: faults are left.
    """
    from pyanamo_core.ledger.fsck import Weight
    from pyanamo_core.ledger.fsck_walk import Fsck

    if repair:
        what = f"Repair table {context.table_name}; rows that are left over of older epochs and definitions are removed"
        context.confirm(what, yes=yes)
    check = Fsck(context.clients, context.table_name, clock=corrected_clock(context))
    gathered = _Gathered(limit)
    for one in check.walk(repair=repair, progress=_progress(context)):
        gathered.add(_found(one))
    objects = _objects(context, check, limit) if outputs else None
    faults = check.tally.open(Weight.FAULT) + (_object_faults(objects) if objects else 0)
    told = Report(
        table=context.table_name,
        rows=check.tally.rows,
        items=check.tally.items,
        read_again=check.tally.suspected,
        at_work=check.tally.moving,
        faults=faults,
        counts={str(kind): number for kind, number in check.tally.found.items()},
        repaired={str(kind): number for kind, number in check.tally.repaired.items() if number},
        findings=gathered.shown,
        outputs=objects,
    )
    mendable = any(not one.repaired and one.repair and one.weight != Weight.NOTE for one in told.findings)
    return Told(
        told,
        view=_view,
        quiet=[f"{one.finding} {one.item} {one.row}" for one in told.findings]
        + [f"{one.kind} {one.uri}" for one in (objects.listed if objects else [])],
        next="pyanamo fsck --repair" if mendable and not repair else "",
        exit_code=FAULTS_LEFT if faults else 0,
    )


def corrected_clock(context: Context) -> SystemClock:
    """This machine's clock, corrected by AWS's as a pilot's is: leases are measured by it.

    Raises:
        ClockOff: it is more than 60 s off.
    """
    from pyanamo_core.clock import SystemClock
    from pyanamo_core.ledger.table import describe_table
    from pyanamo_core.pilot.clock import OFFSET_SAMPLES, OffsetMeter

    clock = SystemClock()
    meter = OffsetMeter(clock)
    meter.listen(context.clients.client("dynamodb"))
    for _ in range(OFFSET_SAMPLES):
        describe_table(context.clients, context.table_name)
    meter.adjust()
    return clock


def _found(one: Checked) -> Found:
    finding = one.finding
    return Found(
        str(finding.kind), str(finding.weight), finding.item_id, finding.row, finding.wrong, finding.does, one.repaired
    )


def _progress(context: Context) -> Callable[[Tally], None]:
    due = time.monotonic() + LINE_SECONDS

    def told(tally: Tally) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + LINE_SECONDS
            context.say(f"{tally.rows:,} rows, {tally.items:,} items, {sum(tally.found.values()):,} findings")

    return told


def _objects(context: Context, check: Fsck, limit: int) -> Objects:
    from pyanamo_core.report.clean_loci import cleaned
    from pyanamo_core.report.objects import ObjectCheck, work_prefixes

    prefixes = work_prefixes(check.workflows, context.table_name)
    meant = cleaned(context.clients, (one.buckets.results for one in check.workflows), context.table_name)
    looked: ObjectCheck = ObjectCheck(context.clients, check, prefixes, meant)
    counts: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    gathered = _Gathered(limit)
    for stray in looked.walk():
        counts[str(stray.kind)] += 1
        sums[str(stray.kind)] += stray.bytes
        gathered.add(stray)
    tally = looked.tally
    return Objects(
        prefixes=prefixes,
        objects=tally.objects,
        bytes=tally.bytes,
        named=tally.named,
        being_written=tally.being_written,
        elsewhere=tally.elsewhere,
        counts=dict(counts),
        counted_bytes=dict(sums),
        listed=gathered.shown,
    )


def _object_faults(objects: Objects) -> int:
    from pyanamo_core.report.objects import FAULTS

    return sum(number for kind, number in objects.counts.items() if kind in FAULTS)


def _view(told: Report) -> RenderableType:
    from rich.console import Group

    parts: list[Any] = [f"table {told.table}: {told.items:,} items, {told.rows:,} rows"]
    if told.at_work:
        parts.append(f"{told.at_work} items moved whenever they were read: they are at work")
    if told.counts:
        parts += ["", _listed(told)]
    if told.outputs is not None:
        parts += ["", *_objects_view(told.outputs)]
    left = f"{told.faults:,} faults are left" if told.faults else "no fault" + (" is left" if told.repaired else "")
    return Group(*parts, "", left)


def _listed(told: Report) -> RenderableType:
    from rich.console import Group

    columns = ["weight", "finding", "item", "row", "wrong", "repair"]
    lines = [
        [one.weight, one.finding, one.item, one.row, one.wrong, "repaired" if one.repaired else one.repair]
        for one in told.findings
    ]
    more = sum(told.counts.values()) - len(told.findings)
    return Group(table(columns, lines), *([f"… and {more:,} more; all with --limit 0"] if more else []))


def _objects_view(told: Objects) -> list[Any]:
    said = f"{told.objects:,} objects ({size(told.bytes)}) below {', '.join(told.prefixes)}; {told.named:,} outputs compared"
    parts: list[Any] = [said]
    if told.being_written:
        parts.append(f"{told.being_written:,} are of claims at work")
    if told.elsewhere:
        parts.append(f"{told.elsewhere:,} outputs lie on file systems and were not looked at")
    if told.counts:
        rows = [[kind, f"{number:,}", size(told.counted_bytes[kind])] for kind, number in sorted(told.counts.items())]
        parts += ["", table(["objects", "number", "bytes"], rows, right=["number", "bytes"])]
        columns = ["objects", "item", "nest", "bytes", "uri", "wrong"]
        shown = [[one.kind, one.item_id, one.nest, one.bytes, one.uri, one.wrong] for one in told.listed]
        parts += ["", table(columns, shown, right=["nest", "bytes"])]
    return parts
