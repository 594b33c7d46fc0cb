"""What items and samples have cost, from their attempts: a stream over the table, memory flat whatever its size.

An attempt tells at its end what slots its nests held, and how much of that was kept. One whose pilot died told nothing:
what of it was recorded is known from its nests, the rest of its time counts as lost, with as many slots as its nests
could have had (`estimated`). What belongs to no item (starts of pilots, slots that nothing filled) is in spent.py.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

from pyanamo_core.cost.prices import Prices
from pyanamo_core.cost.ranges import NOTHING, Range
from pyanamo_core.cost.spent import MILLION, lifecycle_of, vcpu_second
from pyanamo_core.ledger import cost as units
from pyanamo_core.model import Attempt, Cause, Item, Move, Nest, NestStatus, State
from pyanamo_core.protocols import Ledger


@dataclass(frozen=True)
class ItemCost:
    """What an item has cost (vCPU-seconds; dollars as ranges).

    Attributes:
        sample: as its nests' figures name it; else the item's own name.
        lost_vcpu_seconds: of attempts that were cut short or failed, without what of them was kept.
        lost: the same by cause of the attempts.
        write_units: of the ledger, counted by its moves; nests' rows as big as that of its first nest.
        estimated: a pilot of it died, or works; then the time is counted from claims.
    """

    item_id: str
    task_id: str
    sample: str
    state: str
    attempts: int
    vcpu_seconds: float
    lost_vcpu_seconds: float
    lost: Mapping[str, float]
    cpu_seconds: float
    write_units: float
    dollars: Range
    lost_dollars: Range
    ledger_dollars: Range
    estimated: bool = False


@dataclass(frozen=True)
class SampleCost:
    """What a sample's items have cost together."""

    sample: str
    items: int
    attempts: int
    vcpu_seconds: float
    lost_vcpu_seconds: float
    cpu_seconds: float
    write_units: float
    dollars: Range
    lost_dollars: Range
    ledger_dollars: Range
    estimated: bool = False


@dataclass
class Pricing:
    """Prices by instance type and lifecycle, looked up once each.

    Args:
        now: seconds since 1970, the end of what has not ended.
        vcpus, slots: of pilots whose attempts do not tell theirs.
        beat_seconds, on_demand_queue: the workflow's.
    """

    prices: Prices
    now: float
    vcpus: float = 1.0
    slots: int = 1
    beat_seconds: float = 200.0
    on_demand_queue: str = ""
    _known: dict[tuple[str, str], Range] = field(default_factory=dict[tuple[str, str], Range])

    def of(self, attempt: Attempt) -> Range:
        """Dollars of a vCPU-second where an attempt ran."""
        lifecycle = lifecycle_of(attempt.lifecycle, attempt.job_queue, self.on_demand_queue)
        place = (attempt.instance_type, lifecycle)
        if place not in self._known:
            self._known[place] = vcpu_second(self.prices, *place)[0]
        return self._known[place]


def item_costs(ledger: Ledger, pricing: Pricing, *, run_id: str | None = None) -> Iterator[ItemCost]:
    """Each item that was claimed (by a run's pilots), in the order of the table.

    Reads attempts and a first nest of 50 items a call; of items whose pilots died, or work, or that another run has
    claimed, too, all nests (a query).
    """
    for item, attempts, first in ledger.histories(ledger.items()):
        mine = [
            (each, _end(each, following, item))
            for each, following in zip_longest(attempts, attempts[1:])
            if run_id in (None, each.run_id)
        ]
        if mine:
            yield _item_cost(ledger, pricing, item, mine, first, alone=len(mine) == len(attempts))


def _end(attempt: Attempt, following: Attempt | None, item: Item) -> float | None:
    """When an attempt was over at the latest, also where nobody has told its end; None: it goes on, for all that is known."""
    if attempt.ended is not None:
        return attempt.ended
    if following is not None:
        return following.started or None
    if attempt.fence != item.fence:
        return None
    return item.lease_end if item.state is State.LOCKED else item.finished_at


def _item_cost(
    ledger: Ledger,
    pricing: Pricing,
    item: Item,
    attempts: list[tuple[Attempt, float | None]],
    first: Nest | None,
    *,
    alone: bool,
) -> ItemCost:
    dollars = lost_dollars = NOTHING
    vcpu_seconds = lost_seconds = cpu_seconds = writes = 0.0
    lost: dict[str, float] = defaultdict(float)
    nests: dict[int, Nest] | None = None
    estimated = False
    for attempt, known_end in attempts:
        # An attempt that told no end, and whose lease is over: its pilot died, though nobody has seen that yet.
        dead = attempt.ended is None and known_end is not None and known_end < pricing.now
        ended = pricing.now if known_end is None else min(pricing.now, known_end)
        held_since = attempt.fence != item.fence or item.state is State.LOCKED
        cause = attempt.cause or (Cause.LOST if dead and held_since else None)
        slot_seconds, kept = attempt.slot_seconds, attempt.kept_seconds
        slots = attempt.slots or pricing.slots
        if slot_seconds is None:
            estimated = True
            if nests is None:
                nests = ledger.nests(item)
            slot_seconds, kept = _from_claim(attempt, nests, min(slots, item.nests), ended)
        each = (attempt.vcpus or pricing.vcpus) / slots
        price = pricing.of(attempt)
        gone = 0.0 if cause is None else max(0.0, slot_seconds - kept) * each
        vcpu_seconds += slot_seconds * each
        lost_seconds += gone
        if gone:
            lost[str(cause)] += gone
        cpu_seconds += attempt.cpu_seconds
        dollars += price * (slot_seconds * each)
        lost_dollars += price * gone
        writes += _units(attempt, pricing, ended)
    if alone:
        # Rows of an item's nests are about as big as that of its first one.
        writes += (item.nests_done + item.nests_failed) * (units.nest_units(first) if first is not None else 1)
    else:
        claims = {(attempt.fence, attempt.epoch) for attempt, _ in attempts}
        told = ledger.nests(item) if nests is None else nests
        writes += sum(units.nest_units(nest) for nest in told.values() if (nest.fence, nest.epoch) in claims)
    return ItemCost(
        item_id=item.item_id,
        task_id=item.task_id,
        sample=sample_of(item, first),
        state=item.state.value,
        attempts=len(attempts),
        vcpu_seconds=round(vcpu_seconds, 3),
        lost_vcpu_seconds=round(lost_seconds, 3),
        lost={cause: round(seconds, 3) for cause, seconds in sorted(lost.items())},
        cpu_seconds=round(cpu_seconds, 3),
        write_units=round(writes, 1),
        dollars=dollars,
        lost_dollars=lost_dollars,
        ledger_dollars=pricing.prices.write_million.dollars * (writes / MILLION),
        estimated=estimated,
    )


def _from_claim(attempt: Attempt, nests: Mapping[int, Nest], slots: int, ended: float) -> tuple[float, float]:
    """(slot-seconds, of these kept) of an attempt that told neither: its time times its slots; its recorded nests."""
    kept = sum(
        max(0.0, nest.ended - nest.started)
        for nest in nests.values()
        if nest.fence == attempt.fence and nest.epoch == attempt.epoch and nest.status is NestStatus.DONE
    )
    return max(kept, (ended - attempt.started) * slots if attempt.started else 0.0), kept


def _units(attempt: Attempt, pricing: Pricing, ended: float) -> float:
    """Write units of a claim's moves: claim, beats, end, and its attempt row."""
    beats = max(0.0, ended - attempt.started) / pricing.beat_seconds if attempt.started else 0.0
    told = units.MOVE_UNITS[Move.CLAIM] + units.ATTEMPT_UNITS + int(beats) * units.MOVE_UNITS[Move.BEAT]
    return told + (units.MOVE_UNITS[Move.FINISH] if attempt.cause is not None else 0)


def sample_of(item: Item, nest: Nest | None) -> str:
    """The sample that an item is of: as a calling nest tells it (@RG SM), else the item's name."""
    told = nest.figures.get("sample") if nest is not None else None
    return told if isinstance(told, str) and told else item.item_id


class SampleSums:
    """Sums by sample in a file of its own, so that memory does not grow with the number of samples. Use as a context."""

    def __enter__(self) -> SampleSums:
        self._folder = tempfile.TemporaryDirectory(prefix="pyanamo-cost-")
        self._rows = sqlite3.connect(Path(self._folder.name) / "samples.sqlite", isolation_level=None)
        self._rows.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4000;"
            "CREATE TABLE sums (sample TEXT PRIMARY KEY, items INT, attempts INT, vcpu REAL, lost REAL, cpu REAL,"
            " units REAL, low REAL, high REAL, lost_low REAL, lost_high REAL, ledger_low REAL, ledger_high REAL,"
            " estimated INT) WITHOUT ROWID"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()
        self._folder.cleanup()

    def passing(self, items: Iterable[ItemCost]) -> Iterator[ItemCost]:
        """The same items, added to their samples on the way."""
        for one in items:
            self._rows.execute(
                "INSERT INTO sums VALUES (?,1,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (sample) DO UPDATE SET items=items+1,"
                " attempts=attempts+excluded.attempts, vcpu=vcpu+excluded.vcpu, lost=lost+excluded.lost,"
                " cpu=cpu+excluded.cpu, units=units+excluded.units, low=low+excluded.low, high=high+excluded.high,"
                " lost_low=lost_low+excluded.lost_low, lost_high=lost_high+excluded.lost_high,"
                " ledger_low=ledger_low+excluded.ledger_low, ledger_high=ledger_high+excluded.ledger_high,"
                " estimated=MAX(estimated, excluded.estimated)",
                (
                    one.sample,
                    one.attempts,
                    one.vcpu_seconds,
                    one.lost_vcpu_seconds,
                    one.cpu_seconds,
                    one.write_units,
                    *(one.dollars.low, one.dollars.high),
                    *(one.lost_dollars.low, one.lost_dollars.high),
                    *(one.ledger_dollars.low, one.ledger_dollars.high),
                    one.estimated,
                ),
            )
            yield one

    def costs(self) -> Iterator[SampleCost]:
        """Every sample, the dearest first."""
        for row in self._rows.execute("SELECT * FROM sums ORDER BY high DESC, sample"):
            sample, items, attempts, vcpu, lost, cpu, writes, low, high, lost_low, lost_high, *rest = row
            yield SampleCost(
                sample,
                items,
                attempts,
                round(vcpu, 3),
                round(lost, 3),
                round(cpu, 3),
                round(writes, 1),
                Range(low, high),
                Range(lost_low, lost_high),
                Range(rest[0], rest[1]),
                bool(rest[2]),
            )


ITEM_COLUMNS = (
    "item",
    "task",
    "sample",
    "state",
    "attempts",
    "vcpu_seconds",
    "lost_vcpu_seconds",
    "lost_by_cause",
    "cpu_seconds",
    "write_units",
    "dollars_low",
    "dollars_high",
    "lost_dollars_low",
    "lost_dollars_high",
    "ledger_dollars_low",
    "ledger_dollars_high",
    "estimated",
)
SAMPLE_COLUMNS = ("sample", "items", *(name for name in ITEM_COLUMNS[4:] if name != "lost_by_cause"))


def as_row(one: ItemCost | SampleCost) -> dict[str, object]:
    """One line of an export: names of ITEM_COLUMNS or SAMPLE_COLUMNS; seconds, dollars between two bounds."""
    told: dict[str, object] = (
        {"item": one.item_id, "task": one.task_id, "sample": one.sample, "state": one.state}
        if isinstance(one, ItemCost)
        else {"sample": one.sample, "items": one.items}
    )
    told |= {
        "attempts": one.attempts,
        "vcpu_seconds": one.vcpu_seconds,
        "lost_vcpu_seconds": one.lost_vcpu_seconds,
    }
    if isinstance(one, ItemCost):
        told["lost_by_cause"] = json.dumps(dict(one.lost)) if one.lost else ""
    told |= {"cpu_seconds": one.cpu_seconds, "write_units": one.write_units}
    for name, amount in (("", one.dollars), ("lost_", one.lost_dollars), ("ledger_", one.ledger_dollars)):
        told |= {f"{name}dollars_low": float(f"{amount.low:.4g}"), f"{name}dollars_high": float(f"{amount.high:.4g}")}
    return told | {"estimated": "yes" if one.estimated else ""}
