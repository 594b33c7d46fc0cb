"""The items that a pilot holds and which nest comes next: slots shared, work-conserving, longest first. No effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pyanamo_core.model import Cause, Claim, Definition, NestCall
from pyanamo_core.pilot.clock import bases_of
from pyanamo_core.pilot.nest import Task
from pyanamo_core.pilot.verdict import weight_of


class Failure(NamedTuple):
    """Why a nest of an item failed under this claim."""

    cause: Cause
    message: str
    evidence: str = ""
    """At most 120 bytes, for the attempt's row."""


@dataclass
class Held:
    """An item of ours and how far it is. Only the scheduler's thread changes it."""

    claim: Claim
    definition: Definition
    pending: list[int]
    """Nests that have not been started, the longest first (`longest_first`)."""
    done: int = 0
    running: dict[int, Task] = field(default_factory=dict[int, Task])
    recording: set[int] = field(default_factory=set[int])
    uploading: set[int] = field(default_factory=set[int])
    failed: dict[int, Failure] = field(default_factory=dict[int, Failure])
    """In the order in which they were recorded."""
    notes: list[str] = field(default_factory=list[str])
    started: bool = False
    """Has a nest been started under this claim?"""
    progressed: bool = False
    """Has this claim recorded a nest?"""
    lost: bool = False
    cancelled: bool = False
    refused_for_time: bool = False
    settling: bool = False
    host_said: str = ""
    """Evidence of a nest that this host could not do."""
    ended: bool = False
    """A nest failed and the workflow says that its siblings shall not go on (`stop_on_failure`)."""
    slot_seconds: float = 0.0
    """Of all its nests that ended under this claim."""
    kept_seconds: float = 0.0
    """Of those that were recorded as done."""
    cpu_seconds: float = 0.0

    @property
    def item_id(self) -> str:
        return self.claim.item_id

    @property
    def nests(self) -> int:
        return self.definition.nests

    @property
    def startable(self) -> bool:
        """May nests of it be started?"""
        return bool(self.pending) and not (self.settling or self.lost or self.cancelled or self.ended)

    @property
    def complete(self) -> bool:
        """Is every nest recorded as done?"""
        return self.done >= self.nests

    @property
    def quiet(self) -> bool:
        """Nothing of it runs or is being recorded (logs may be on their way)."""
        return not self.running and not self.recording

    def call(self, index: int) -> NestCall:
        """The call of one of its nests."""
        return NestCall(
            item_id=self.item_id,
            task_id=self.claim.item.task_id,
            index=index,
            value=self.definition.value(index),
            fence=self.claim.fence,
            epoch=self.claim.epoch,
            script=self.definition.script,
        )


def longest_first(definition: Definition, nests: Iterable[int]) -> list[int]:
    """Nests in the order in which they start: by the bases of their loci, then by number.

    Within an item that is the order by expected seconds too, learnt or not.
    """
    return sorted(nests, key=lambda index: (-(bases_of(definition.value(index)) or 0), index))


class Board:
    """Held items and free slots.

    Args:
        items: how many may be held.
        slots: how many nests run at a time; a nest with more memory takes several.
    """

    def __init__(self, items: int, slots: int) -> None:
        self.items = items
        self.slots = slots
        self.held: dict[str, Held] = {}
        self._free = sorted(range(slots), reverse=True)
        self._used = 0

    def add(self, held: Held) -> None:
        """An item was claimed."""
        self.held[held.item_id] = held

    def drop(self, item_id: str) -> None:
        """An item is no longer ours."""
        self.held.pop(item_id, None)

    @property
    def running(self) -> int:
        """Nests that run now."""
        return sum(len(each.running) for each in self.held.values())

    @property
    def free(self) -> int:
        """Slots that are free."""
        return self.slots - self._used

    def may_claim(self) -> int:
        """How many items to claim now: only for slots that no held nest can fill, never more than may be held."""
        if any(each.startable and not each.refused_for_time for each in self.held.values()):
            return 0
        return max(0, min(self.items - len(self.held), self.free))

    def next(self, order: Callable[[str], float], may_start: Callable[[str], bool]) -> tuple[Held, int] | None:
        """The nest to start now: the longest of those that fit; None if none does.

        An item whose nests need several slots blocks those claimed after it until it has room: it would starve else.

        Args:
            order: sorts nests' values, the greatest first.
            may_start: would a nest with this value end in time?
        """
        best: tuple[float, int, Held, int] | None = None
        for rank, held in enumerate(self.held.values()):
            if not held.startable:
                continue
            index = next((each for each in held.pending if may_start(held.definition.value(each))), None)
            held.refused_for_time = index is None
            if index is None:
                continue
            if weight_of(held.claim.item.memory_factor, self.slots) > self.free:
                break
            length = order(held.definition.value(index))
            if best is None or (length, -rank) > best[:2]:
                best = (length, -rank, held, index)
        return (best[2], best[3]) if best else None

    def start(self, held: Held, index: int, task: Task) -> None:
        """A nest takes its slots."""
        held.pending.remove(index)
        held.running[index] = task
        held.started = True
        task.slot = self._free.pop()
        self._used += weight_of(held.claim.item.memory_factor, self.slots)

    def end(self, held: Held, index: int) -> Task | None:
        """A nest gives its slots back; None if it is not running."""
        task = held.running.pop(index, None)
        if task is not None:
            self._free.append(task.slot)
            self._free.sort(reverse=True)
            self._used -= weight_of(held.claim.item.memory_factor, self.slots)
        return task
