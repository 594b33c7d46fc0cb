"""What interruptions cost a run: how often, for which reason, and how much time brought nothing.

An interruption is an attempt that ended for a reason that is not the item's (Spot, a lost pilot, a drain, the wall time, a
fault of the host). Its lost time is the time of the claim in which no nest was recorded: from the claim to the attempt's
end, less the times of the nests that this attempt recorded. It counts time of items, once whatever number of nests ran
side by side; the end of a lost pilot's attempt is what Batch says, else when the item was taken back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pyanamo_core.model import INTERRUPTIONS, Attempt, Item, Nest, NestStatus, State
from pyanamo_core.protocols import Ledger


@dataclass(frozen=True)
class Loss:
    """Interruptions of one cause."""

    cause: str
    attempts: int
    items: int
    lost_seconds: float


@dataclass(frozen=True)
class QueueLoss:
    """Interruptions of pilots of one Batch queue; "" where nobody told."""

    queue: str
    attempts: int
    lost_seconds: float


@dataclass(frozen=True)
class Losses:
    """What interruptions cost (seconds of items)."""

    causes: tuple[Loss, ...] = ()
    """The costliest first."""
    attempts: int = 0
    items: int = 0
    lost_seconds: float = 0.0
    by_item: dict[str, float] = field(default_factory=dict[str, float])
    queues: tuple[QueueLoss, ...] = ()
    """By the pilots' queue (Spot, on demand), the costliest first."""


class Losing:
    """Gathers losses while items pass by.

    Args:
        run_id: whose attempts count; None: all.
    """

    def __init__(self, ledger: Ledger, run_id: str | None) -> None:
        self._ledger, self._run_id = ledger, run_id
        self._attempts: dict[str, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        self._items: dict[str, set[str]] = defaultdict(set)
        self._by_item: dict[str, float] = defaultdict(float)
        self._by_queue: dict[str, list[float]] = defaultdict(list)

    def passing(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; of those that were claimed and not done at once, attempts and nests are read (two queries)."""
        for item in items:
            if item.fence > 1 or (item.fence == 1 and item.state is not State.DONE):
                self._take(item)
            yield item

    def _take(self, item: Item) -> None:
        cut = [
            attempt
            for attempt in self._ledger.attempts(item.item_id)
            if attempt.cause in INTERRUPTIONS and self._run_id in (None, attempt.run_id)
        ]
        if not cut:
            return
        nests = self._ledger.nests(item).values() if any(each.epoch == item.epoch for each in cut) else ()
        for attempt in cut:
            cause = str(attempt.cause)
            lost = lost_seconds(attempt, nests)
            self._attempts[cause] += 1
            self._seconds[cause] += lost
            self._items[cause].add(item.item_id)
            self._by_item[item.item_id] += lost
            # A queue is named by its name or its ARN.
            self._by_queue[attempt.job_queue.rpartition("/")[2]].append(lost)

    @property
    def losses(self) -> Losses:
        """What has passed by until now."""
        causes = [
            Loss(cause, count, len(self._items[cause]), round(self._seconds[cause], 3))
            for cause, count in self._attempts.items()
        ]
        return Losses(
            causes=tuple(sorted(causes, key=lambda loss: (-loss.lost_seconds, loss.cause))),
            attempts=sum(self._attempts.values()),
            items=len(self._by_item),
            lost_seconds=round(sum(self._seconds.values()), 3),
            by_item={item_id: round(seconds, 3) for item_id, seconds in self._by_item.items()},
            queues=tuple(
                QueueLoss(queue, len(lost), round(sum(lost), 3))
                for queue, lost in sorted(self._by_queue.items(), key=lambda pair: (-sum(pair[1]), pair[0]))
            ),
        )


def losses(ledger: Ledger, run_id: str | None = None) -> Losses:
    """What interruptions cost a run, or all runs of the table. Reads every item, and of interrupted ones their attempts."""
    losing = Losing(ledger, run_id)
    for _ in losing.passing(ledger.items()):
        pass
    return losing.losses


def lost_seconds(attempt: Attempt, nests: Iterable[Nest]) -> float:
    """Seconds of an attempt in which nothing that it recorded was made; 0 while its end is not known."""
    if attempt.ended is None or not attempt.started:
        return 0.0
    spans = sorted(
        (max(nest.started, attempt.started), min(nest.ended, attempt.ended))
        for nest in nests
        if nest.fence == attempt.fence and nest.epoch == attempt.epoch and nest.status is NestStatus.DONE
    )
    useful, until = 0.0, attempt.started
    for begin, end in spans:
        useful += max(0.0, end - max(begin, until))
        until = max(until, end)
    return max(0.0, attempt.ended - attempt.started - useful)
