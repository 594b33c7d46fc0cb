"""What a sheet or a table asks for: items, nests, bases, seconds, and the units of its import. Read once, in a stream."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import ceil, inf
from typing import Final

from pyanamo_core.cost.pace import CALLER_LEAVES, OTHER_LEAVES, Bases, Leaves, Pace, Seen, locus_of
from pyanamo_core.cost.ranges import NOTHING, Range
from pyanamo_core.ledger import cost, rows
from pyanamo_core.model import Definition, Item, NestStatus, PilotRecord, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.sheet import Sheet

CALLER: Final = "HaplotypeCaller"
SAMPLED: Final = 200
"""Items of a table whose definitions are read; the others are taken to be like them."""
LEARN_ITEMS: Final = 500
_SHAPES: Final = 4096


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        items, nests: how many.
        bases: of nests whose loci are known, `located`; padding is not in it.
        genomic: every script is HaplotypeCaller's.
        import_units: write units of importing; 0 for what stands in a table.
        read_units: of reading each definition once.
        seconds: of all nests in their slots; None: no pace.
        item_seconds: how long items are held, summed; of the longest: `longest`.
        sampled: of so many items this was made; the others are taken to be like them. 0: of all.
        script: an example.
    """

    items: int = 0
    nests: int = 0
    bases: int = 0
    located: int = 0
    genomic: bool = False
    import_units: int = 0
    read_units: float = 0.0
    seconds: Range | None = None
    item_seconds: Range | None = None
    longest: Range | None = None
    sampled: int = 0
    script: str = ""

    @property
    def leaves(self) -> Leaves:
        """What nests of these scripts are known to leave."""
        return CALLER_LEAVES if self.genomic else OTHER_LEAVES


@dataclass(frozen=True)
class _Shape:
    """What follows from a definition's script and values."""

    nests: int
    bases: int
    located: int
    units: int
    read_units: float
    seconds: Range | None
    held: Range | None


class _Measure:
    """Adds items up. Many items of a cohort have the same loci: these are looked at once."""

    def __init__(self, pace: Pace, at_once: int, bases: Bases) -> None:
        self._pace, self._at_once, self._bases = pace, at_once, bases
        self._shapes: dict[tuple[int, bool, tuple[str, ...]], _Shape] = {}
        self.items = self.nests = self.bases = self.located = self.units = 0
        self.read_units = 0.0
        self.genomic = True
        self.script = ""
        self.seconds: Range | None = NOTHING
        self.held: Range | None = NOTHING
        self.longest: Range | None = NOTHING

    def add(self, item_id: str, definition: Definition) -> None:
        script = definition.script
        key = (len(item_id.encode()) + len(script.encode()), script.startswith(CALLER), definition.arguments)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            shape = self._shapes[key] = self._look(item_id, definition)
        self.items += 1
        self.nests += shape.nests
        self.bases += shape.bases
        self.located += shape.located
        self.units += shape.units
        self.read_units += shape.read_units
        self.genomic = self.genomic and key[1]
        self.script = self.script or script
        self.seconds = None if self.seconds is None or shape.seconds is None else self.seconds + shape.seconds
        self.held = None if self.held is None or shape.held is None else self.held + shape.held
        if self.longest is not None:
            held = shape.held
            self.longest = (
                None if held is None else Range(max(self.longest.low, held.low), max(self.longest.high, held.high))
            )

    def _look(self, item_id: str, definition: Definition) -> _Shape:
        bases = located = 0
        seconds: Range | None = NOTHING
        longest = NOTHING
        shortest = inf
        for number in range(definition.nests):
            value = definition.value(number)
            found = self._bases.of(value)
            if found is not None:
                bases, located = bases + found, located + 1
            taken = self._seconds(value, found)
            if taken is None or seconds is None:
                seconds = None
                continue
            seconds += taken
            longest = Range(max(longest.low, taken.low), max(longest.high, taken.high))
            shortest = min(shortest, taken.low)
        held = None if seconds is None else NOTHING
        if seconds is not None and definition.nests:
            held = _makespan(seconds, Range(shortest, longest.low), longest.high, self._at_once, definition.nests)
        units = cost.import_units(item_id, definition)
        size = sum(rows.size(row) for row in rows.definition_rows(item_id, definition, 0.0))
        inline = cost.definition_units(item_id, definition) == 0
        # Strong reads: of the definition's rows where they are apart, and of the nests' rows (there are none).
        read = 1.0 + (0 if inline else ceil(size / 4096))
        return _Shape(definition.nests, bases, located, units, read, seconds, held)

    def _seconds(self, value: str, bases: int | None) -> Range | None:
        pace = self._pace
        if pace.nest is not None:
            return pace.nest
        if pace.speed is None or bases is None:
            return None
        locus = locus_of(value)
        return pace.of_locus(locus) if locus is not None else pace.of_bases(bases)

    def work(self) -> Work:
        known = self.items > 0
        return Work(
            items=self.items,
            nests=self.nests,
            bases=self.bases,
            located=self.located,
            genomic=self.genomic and known,
            import_units=self.units,
            read_units=self.read_units,
            seconds=self.seconds,
            item_seconds=self.held,
            longest=self.longest,
            script=self.script,
        )


def _makespan(seconds: Range, least: Range, most: float, at_once: int, nests: int) -> Range:
    """How long an item of some nests is held: slots are filled as they come free, in whatever order.

    Args:
        seconds: of all nests.
        least: of the shortest and of the longest nest, at least.
        most: of the longest nest, at most.
    """
    slots = min(at_once, nests)
    # One slot has so many nests, at least; and so long it takes if all are as long as the longest.
    rounds = ceil(nests / slots)
    low = max(seconds.low / slots, least.high, rounds * least.low)
    # At worst the longest nest begins when all others are done.
    high = min(seconds.high / slots + (1 - 1 / slots) * most, rounds * most)
    return Range(low, max(low, high))


def work_of_sheet(sheet: Sheet, pace: Pace, *, at_once: int, bases: Bases | None = None) -> Work:
    """What a sheet asks for, every item of it.

    Args:
        at_once: nests that run at a time of an item.

    Raises:
        SheetInvalid: it has changed since it was checked.
    """
    return _of(((row.item_id, row.definition) for row in sheet.rows()), pace, at_once, bases)


def work_of_definitions(
    items: Iterable[tuple[str, Definition]], pace: Pace, *, at_once: int, bases: Bases | None = None
) -> Work:
    """The same of items in memory: (item id, definition)."""
    return _of(items, pace, at_once, bases)


def _of(items: Iterable[tuple[str, Definition]], pace: Pace, at_once: int, bases: Bases | None) -> Work:
    measure = _Measure(pace, at_once, bases or Bases())
    for item_id, definition in items:
        measure.add(item_id, definition)
    return measure.work()


def work_of_table(
    ledger: Ledger,
    pace: Pace,
    *,
    at_once: int,
    bases: Bases | None = None,
    sample: int = SAMPLED,
    but: Container[str] | None = None,
) -> Work:
    """What is left to do in a table: the items that are to do, waiting or at work.

    Definitions and nests of the first `sample` of them are read, in the random order of the queue; of the others only the
    number is.

    Args:
        but: ids of items that are left aside (of a sheet, which is looked at by itself); the others are then counted one by one.
    """
    open_items = ledger.counts().open
    measure = _Measure(pace, at_once, bases or Bases())
    queue = (item for item in _open(ledger) if but is None or item.item_id not in but)
    for item in islice(queue, sample):
        definition = ledger.definition(item)
        done = {index for index, nest in ledger.nests(item).items() if nest.status is NestStatus.DONE}
        left = tuple(value for index, value in enumerate(definition.arguments) if index not in done)
        if left or not definition.arguments:
            measure.add(item.item_id, Definition(script=definition.script, arguments=left))
        else:
            measure.items += 1
    found = measure.work()
    if not found.items:
        return Work()
    if but is not None:
        open_items = found.items + sum(1 for _ in queue)
    if open_items <= found.items:
        return scaled(found, found.items)
    return scaled(found, open_items, sampled=found.items)


def shape_of_table(
    ledger: Ledger, pace: Pace, *, at_once: int, bases: Bases | None = None, sample: int = SAMPLED
) -> Work:
    """What all items of a table ask for, done or not, by the definitions of the first `sample` of them."""
    measure = _Measure(pace, at_once, bases or Bases())
    for item in islice(ledger.items(), sample):
        measure.add(item.item_id, ledger.definition(item))
    found = measure.work()
    total = ledger.counts().total
    return scaled(found, total, sampled=found.items if total > found.items else 0) if found.items else found


def together(one: Work, other: Work) -> Work:
    """Both, to be done by one run."""
    if not (one.items and other.items):
        return one if one.items else other

    def both(first: Range | None, second: Range | None) -> Range | None:
        return None if first is None or second is None else first + second

    longest = None
    if one.longest is not None and other.longest is not None:
        longest = Range(max(one.longest.low, other.longest.low), max(one.longest.high, other.longest.high))
    return Work(
        items=one.items + other.items,
        nests=one.nests + other.nests,
        bases=one.bases + other.bases,
        located=one.located + other.located,
        genomic=one.genomic and other.genomic,
        import_units=one.import_units + other.import_units,
        read_units=one.read_units + other.read_units,
        seconds=both(one.seconds, other.seconds),
        item_seconds=both(one.item_seconds, other.item_seconds),
        longest=longest,
        sampled=(one.sampled or one.items) + (other.sampled or other.items) if one.sampled or other.sampled else 0,
        script=one.script,
    )


def scaled(work: Work, items: int, *, sampled: int = 0, imported: bool = False) -> Work:
    """Work of another number of items, each like these are on the mean.

    Args:
        sampled: of so many items it was made.
        imported: these items are yet to be imported, which costs units.
    """
    by = items / work.items if work.items else 0.0
    if not items:
        return Work(genomic=work.genomic, script=work.script)
    return Work(
        items=items,
        nests=round(work.nests * by),
        bases=round(work.bases * by),
        located=round(work.located * by),
        genomic=work.genomic,
        import_units=round(work.import_units * by) if imported else 0,
        read_units=work.read_units * by,
        seconds=None if work.seconds is None else work.seconds * by,
        item_seconds=None if work.item_seconds is None else work.item_seconds * by,
        longest=work.longest,
        sampled=sampled,
        script=work.script,
    )


def _open(ledger: Ledger) -> Iterator[Item]:
    for state in (State.TODO, State.WAITING, State.LOCKED):
        yield from ledger.items(state)


def is_genomic(ledger: Ledger) -> bool:
    """Are the scripts of a table's first items HaplotypeCaller's, all of them?"""
    scripts = scripts_of_table(ledger)
    return bool(scripts) and all(one.startswith(CALLER) for one in scripts)


def scripts_of_table(ledger: Ledger, *, sample: int = 20) -> list[str]:
    """TaskScripts of the first items of a table."""
    return list(dict.fromkeys(ledger.definition(item).script for item in islice(ledger.items(), sample)))


def losses_seen(pilots: Iterable[PilotRecord]) -> Range | None:
    """Slot-seconds that came to nothing, as a share of those that were worked to an end, by pilots' own rows.

    Half of that to one and a half times and two percent, for a run's luck is no law; None: no row tells any.
    """
    done = lost = 0.0
    for one in pilots:
        for cause, seconds in one.spent.slot_seconds.items():
            if cause == "done":
                done += seconds
            elif cause != "open":
                lost += seconds
    return Range(0.5 * lost / done, 1.5 * lost / done + 0.02) if done > 0 else None


def seen_nests(ledger: Ledger, items: Iterable[Item] | None = None, *, limit: int = LEARN_ITEMS) -> Iterator[Seen]:
    """Nests that are done, of up to `limit` items that have some: what they took and left, with their rows' own units."""
    those = ledger.items() if items is None else items
    for item in islice((one for one in those if one.nests_done), limit):
        definition = ledger.definition(item)
        for index, nest in ledger.nests(item).items():
            if nest.status is not NestStatus.DONE or nest.ended <= nest.started or index >= definition.nests:
                continue
            whole = not nest.overflow
            yield Seen(
                item=item.item_id,
                value=definition.value(index),
                seconds=nest.ended - nest.started,
                bases=int(float(nest.figures.get("called_bases") or 0)),
                outputs=len(nest.outputs) if whole else None,
                output_bytes=sum(one.bytes for one in nest.outputs) if whole else None,
                units=cost.nest_units(nest),
                row_bytes=rows.size(rows.nest_row(nest)),
                log_bytes=nest.log.bytes if nest.log is not None and nest.log.where == "cloudwatch" else 0,
            )
