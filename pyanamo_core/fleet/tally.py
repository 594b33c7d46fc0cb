"""Items by state for a watcher that asks at every poll, whatever the size of the table.

Counting reads every entry of the index: 100,000 items at each poll of 15 s are 1,600 read units a time, most of them for what
was done long ago. So everything is counted only as often as the table's size allows; in between

* states of few items are counted as they are; so `open` = 0 is never a guess;
* what finished is what had finished before a mark, and what has since (the index sorts finished items by when);
* of many items to do is what the others leave of the total.

Items imported meanwhile, or taken out of a finished state by a user, show at the next whole count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from pyanamo_core.model import FINISHED, Counts, Item, State
from pyanamo_core.protocols import Clock, Ledger

FEW: Final = 2000
ENTRIES_PER_SECOND: Final = 500.0
"""Whole counts read so many entries a second on average (60 read units are 4,000)."""
LONGEST_SECONDS: Final = 600.0
OVERLAP_SECONDS: Final = 180.0
"""The mark lies so far back: pilots' clocks may be a minute off, and the index lags."""


class Tally:
    """Counts a table's items. Not for several threads.

    Args:
        few: up to so many items of a state are counted at each poll.
    """

    def __init__(self, ledger: Ledger, clock: Clock, *, few: int = FEW) -> None:
        self._ledger, self._clock, self._few = ledger, clock, few
        self._last: Counts | None = None
        self._whole_at = 0.0
        self._mark = 0.0
        self._before_mark: dict[State, int] = {}

    def counts(self) -> Counts:
        """Items by state now: whole where that is cheap or due, else put together."""
        if self._last is None or self._clock.monotonic() >= self._whole_at:
            return self.whole()
        told: dict[State, int] = {}
        total = self._last.total
        for state in State:
            before = int(getattr(self._last, state.value))
            if before <= self._few or state in (State.LOCKED, State.WAITING):
                told[state] = self._ledger.count(state, bound=None if before > self._few else self._few + 1)
                if before <= self._few < told[state]:
                    return self.whole()  # few have become many: where from, only a whole count says
            elif state in FINISHED:
                told[state] = self._finished(state)
        if State.TODO not in told:
            told[State.TODO] = max(0, total - sum(told.values()))
            if told[State.TODO] <= self._few:
                told[State.TODO] = self._ledger.count(State.TODO, bound=self._few + 1)
        self._last = Counts(**{state.value: number for state, number in told.items()})
        return self._last

    def whole(self) -> Counts:
        """Count everything, now."""
        counts = self._ledger.counts()
        self._last = counts
        self._whole_at = self._clock.monotonic() + min(LONGEST_SECONDS, counts.total / ENTRIES_PER_SECOND)
        self._mark = self._clock.now() - OVERLAP_SECONDS
        self._before_mark = {
            state: number - self._ledger.count(state, since=self._mark)
            for state in FINISHED
            if (number := int(getattr(counts, state.value))) > self._few
        }
        return counts

    def claimable(self, *, within_seconds: float) -> int:
        """Items that a pilot could claim now or within so many seconds."""
        return self._ledger.claimable(within_seconds=within_seconds)

    def _finished(self, state: State) -> int:
        return max(0, self._before_mark[state]) + self._ledger.count(state, since=self._mark)


class ChosenTally:
    """The same of the few items of a canary, by their rows: each poll reads every one.

    Args:
        item_ids: those that the run's row names.
    """

    def __init__(self, ledger: Ledger, clock: Clock, item_ids: Sequence[str]) -> None:
        self._ledger, self._clock, self._item_ids = ledger, clock, tuple(item_ids)
        self._items: list[Item] = []

    def counts(self) -> Counts:
        """The chosen items by state now."""
        self._items = [self._ledger.item(each) for each in self._item_ids]
        return Counts(**Counter(item.state.value for item in self._items))

    def whole(self) -> Counts:
        """The same: nothing is put together here."""
        return self.counts()

    def claimable(self, *, within_seconds: float) -> int:
        """Of these, items that a pilot could claim now or within so many seconds; by what `counts` saw."""
        now = self._clock.now()
        return sum(
            item.state is State.TODO
            or (item.state is State.WAITING and (item.due or 0.0) <= now + within_seconds)
            or (item.state is State.LOCKED and (item.lease_end or 0.0) <= now)
            for item in self._items or map(self._ledger.item, self._item_ids)
        )
