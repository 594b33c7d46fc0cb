"""What the parts of the pilot's loop share. Only the loop's thread touches it."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from pyanamo_core.model import Cause
from pyanamo_core.pilot.clock import Learner, WallTimeKeeper
from pyanamo_core.pilot.desk import Desk
from pyanamo_core.pilot.lease import Leases
from pyanamo_core.pilot.leaving import FirstFailures, Leaving, Meaning, Stop
from pyanamo_core.pilot.nest import Bench
from pyanamo_core.pilot.scheduler import Board
from pyanamo_core.pilot.spending import Spending
from pyanamo_core.pilot.vitals import Vitals
from pyanamo_core.protocols import Clock, Observer
from pyanamo_core.workflow import Workflow

Job = Callable[[], None]
T = TypeVar("T")

_log = logging.getLogger("pyanamo.pilot")


@dataclass
class Counters:
    """What the pilot's row tells."""

    claims: int = 0
    conflicts: int = 0
    items_done: int = 0
    items_failed: int = 0
    nests_done: int = 0
    nests_failed: int = 0
    busy_seconds: float = 0.0
    notes: list[str] = field(default_factory=list[str])
    spending: Spending = field(default_factory=Spending)


@dataclass
class Floor:
    """The pilot's tools, what it holds, and whether it is ending.

    `memory_mb` is one slot's share. `stop`: what runs is being ended; `no_more`: nothing more is claimed, and why.
    """

    workflow: Workflow
    board: Board
    desk: Desk
    leases: Leases
    bench: Bench
    learner: Learner
    keeper: WallTimeKeeper
    clock: Clock
    inbox: queue.SimpleQueue[Job | None]
    memory_mb: int
    first: FirstFailures
    vitals: Vitals
    counters: Counters = field(default_factory=Counters)
    observer: Observer | None = None
    stop: Stop | None = None
    no_more: Leaving | None = None
    empty_sweeps: int = 0
    uploads_since: dict[tuple[str, int], float] = field(default_factory=dict[tuple[str, int], float])
    """Since when (monotonic) the log of a nest (item, number) has been on its way."""

    def then(self, future: Future[T], what: Callable[[Future[T]], None]) -> None:
        """When a job beside the loop has ended, let the loop's thread do this with it."""
        future.add_done_callback(lambda done: self.inbox.put(lambda: what(done)))

    def begin_stop(self, meaning: Meaning | None) -> None:
        """End what runs; None: what it means is still being asked for. The first stop counts."""
        if self.stop is not None:
            return
        self.stop = Stop(self.clock.monotonic(), meaning)
        self.desk.hurry()
        for held in self.board.held.values():
            for task in held.running.values():
                task.stop(meaning.cause if meaning else Cause.DRAINED)

    def claim_no_more(self, leaving: Leaving) -> None:
        """Claim nothing more, end what is held, then leave; the first reason counts."""
        if self.no_more is None:
            self.no_more = leaving
            _log.info("claiming no more: %s", leaving.reason)
