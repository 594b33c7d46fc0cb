"""The on-demand queue: what it is used for, and how many pilots fit there.

Spot runs a workflow. Machines that nobody takes away run two things only: items that a user wants there
(`items retry --on-demand`), and the last items of a run, the end game, where one more reclaim or a shortage would hold up
everything. A ceiling of 0 vCPUs, the stack's default, means never.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Final

from pyanamo_core.aws import Clients
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.plan import DUE_SOON_SECONDS
from pyanamo_core.model import Counts, Limits, Run
from pyanamo_core.protocols import Clock, Ledger
from pyanamo_core.workflow import Workflow

log = logging.getLogger(__name__)

END_GAME_PART: Final = 20
"""The last items of a run: one in so many of its table, at least what one pilot holds."""
STUCK_SECONDS: Final = 300.0
"""Spot pilots that have waited so long, none of them starting, are not counted on in the end game."""
ASK_SECONDS: Final = 60.0
"""Between two counts of the items for on-demand pilots only."""
LOOK_SECONDS: Final = 300.0
"""For so long a look at the queue and its environments is good."""
UNBOUNDED: Final = 10_000
"""Pilots that fit where an environment tells no ceiling."""


@dataclass(frozen=True)
class Side:
    """The pilots of one queue: those that live or are submitted, those of them that are not leaving, and that wait."""

    live: int = 0
    could_claim: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class Split:
    """Pilots to add on each queue. `make_room`: cancel Spot pilots that wait in vain, they keep on-demand ones out."""

    spot: int = 0
    on_demand: int = 0
    make_room: bool = False


def is_end_game(counts: Counts, limits: Limits) -> bool:
    """Are these the last items of a table: one in twenty, at least what one pilot holds?"""
    return 0 < counts.open <= max(limits.items_per_pilot, counts.total // END_GAME_PART)


def split_top_up(
    *,
    claimable: int,
    marked: int,
    limits: Limits,
    spot: Side,
    on_demand: Side,
    fits: int,
    end_game: bool = False,
    stuck: bool = False,
) -> Split:
    """How many pilots to add, and where.

    Args:
        claimable: items for all pilots that could be claimed now or soon.
        marked: likewise, items for on-demand pilots only.
        fits: pilots that there is room for below the on-demand ceiling.
        end_game: the last items: what they need goes on demand.
        stuck: Spot pilots wait in vain.

    Returns:
        Never more, all together, than the run's limit leaves.
    """
    each = max(1, limits.items_per_pilot)
    room = max(0, limits.max_pilots - spot.live - on_demand.live)
    fits = max(0, fits)
    for_marked = -(-marked // each)
    own = max(0, min(for_marked - on_demand.could_claim, fits, room))
    room, fits = room - own, fits - own
    # On-demand pilots take what is for them only first; who is left over takes anything.
    spare = max(0, on_demand.could_claim + own - for_marked)
    for_all = -(-claimable // each)
    wanted = for_all - spot.could_claim - spare
    more, make_room = 0, False
    if end_game and fits:
        # Who waits in vain is not counted on, and would only find nothing left.
        missing = min(for_all - spare, wanted + (spot.waiting if stuck else 0))
        more = max(0, min(missing, fits, room))
        make_room = stuck and spot.waiting > 0 and min(missing, fits) > room
    return Split(max(0, min(wanted - more, room - more)), own + more, make_room)


class OnDemand:
    """What is for the on-demand queue, and what fits there, each asked seldom.

    Attributes:
        name: of the queue; "" if the workflow has none: nothing is ever wanted there.
        obstacle: why no pilot fits there, of the last look.
    """

    def __init__(self, ledger: Ledger, batch: Batch, clock: Clock, workflow: Workflow) -> None:
        self._ledger, self._batch, self._clock = ledger, batch, clock
        self.name = workflow.on_demand_queue if workflow.on_demand_queue != workflow.queue else ""
        self._definition = workflow.job_definition
        self._marked, self._marked_at = 0, -math.inf
        self._room, self._looked_at = 0, -math.inf
        self.obstacle = ""

    def marked(self, *, now: bool = False) -> int:
        """Claimable items for on-demand pilots only, as counted in the last minute, or `now`."""
        time = self._clock.monotonic()
        if now or (self.name and time - self._marked_at >= ASK_SECONDS):
            self._marked = self._ledger.claimable(within_seconds=DUE_SOON_SECONDS, on_demand=True)
            self._marked_at = time
        return self._marked

    def fits(self, run: Run, live: int) -> int:
        """How many pilots more fit below the ceiling, with so many alive; 0 where the queue takes none."""
        if not self.name:
            return 0
        time = self._clock.monotonic()
        if time >= self._looked_at + LOOK_SECONDS:
            self._looked_at = time
            try:
                self._room, self.obstacle = self._look(run)
            except PyAnamoError as error:
                self._room, self.obstacle = 0, f"the on-demand queue is not used: {error}"
        return max(0, self._room - live)

    def refused(self, error: PyAnamoError) -> None:
        """Batch took no pilots for it: it is left alone for some minutes."""
        self.obstacle = f"the on-demand queue takes no pilots: {error}"
        self._room, self._looked_at = 0, self._clock.monotonic()
        log.warning("%s", self.obstacle)

    def _look(self, run: Run) -> tuple[int, str]:
        return room_of(self._batch, self.name, run.submissions[0].definition if run.submissions else self._definition)


def ceiling_of(clients: Clients, workflow: Workflow) -> tuple[int, str]:
    """How many pilots fit in the workflow's on-demand queue, and why none does.

    Raises:
        QueueMissing, DefinitionMissing: there is none. AccessDenied, NoCredentials …: it cannot be asked.
    """
    return room_of(Batch(clients), workflow.on_demand_queue, workflow.job_definition)


def wanted(batch: Batch, ledger: Ledger, workflow: Workflow) -> tuple[int, str]:
    """Claimable items for on-demand pilots only, and why no such pilot comes for them ("": nothing keeps it)."""
    marked = ledger.claimable(within_seconds=DUE_SOON_SECONDS, on_demand=True)
    if not marked:
        return 0, ""
    if not workflow.on_demand_queue:
        return marked, "the workflow names no on_demand_queue"
    try:
        return marked, room_of(batch, workflow.on_demand_queue, workflow.job_definition)[1]
    except PyAnamoError as error:
        return marked, str(error)


def room_of(batch: Batch, name: str, definition_name: str) -> tuple[int, str]:
    """The same for a queue and a job definition by their names."""
    queue = batch.queue(name)
    if not queue.open:
        return 0, f"on-demand queue {name} is {queue.state}, {queue.status}"
    vcpus = batch.definition(definition_name).vcpus
    room, ceilings = 0, list[int]()
    for one in batch.environments(queue.environments):
        if one.state != "ENABLED" or one.status == "INVALID":
            continue
        if one.max_vcpus is None:
            return UNBOUNDED, ""
        ceilings.append(one.max_vcpus)
        room += int(one.max_vcpus // vcpus)
    if room:
        return room, ""
    if not ceilings:
        return 0, f"on-demand queue {name} has no environment that is enabled and valid"
    return 0, (
        f"on-demand queue {name} has a ceiling of {max(ceilings)} vCPUs, a pilot needs {vcpus:g}:"
        f" pyanamo deploy --set OnDemandVcpus={math.ceil(vcpus)} raises it"
    )
