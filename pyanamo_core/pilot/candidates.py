"""Which items to try to claim: todo, then waiting that are due, then locked whose lease is over.

Now and then the order is turned round for one shard: what was interrupted or failed in the first hour of a long run
shall not wait for its last.

Nothing here is shared between pilots but the index: random start keys, random shards and a memory of what was tried
lately keep thousands of them from running after the same few items.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from pyanamo_core.model import FINISHED, Item, State
from pyanamo_core.protocols import Clock, Ledger

PAGE: Final = 10
EMPTY_SECONDS: Final = 10.0
TRIED_SECONDS: Final = 10.0
TRIED: Final = 200
OVERDUE_RESTS: Final = 2.0
"""After so many rests a page looks first for what is overdue, in one shard: at most two queries in 20 s and pilot."""
FAR_SECONDS: Final = 1e9
_ORDER: Final = (State.TODO, State.WAITING, State.LOCKED)


class Source(Protocol):
    """Where a pilot's claims come from."""

    def page(self) -> list[tuple[State, str]]:
        """The next candidates with the state they were seen in; [] after a full sweep in vain."""
        ...

    def tried(self, item_id: str) -> None:
        """This one was tried: leave it to others for a while."""
        ...

    def for_on_demand(self, item_id: str) -> bool:
        """Is this item of the last page for on-demand pilots only?"""
        ...

    def open(self) -> int:
        """Items that are not finished: while there are any, the first pilots of an array stay."""
        ...


class Candidates:
    """Pages of item ids that may be free.

    Args:
        shards: of the queue index.
        rest_seconds: how long an empty shard is not asked again (at most 10 s; a sweep's pause if that is shorter).
        on_demand: nobody takes our machine away: items for such pilots only come first.
    """

    def __init__(
        self,
        ledger: Ledger,
        shards: int,
        clock: Clock,
        rng: random.Random,
        rest_seconds: float,
        *,
        on_demand: bool = False,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._rng = rng
        self._shards = list(range(shards))
        rng.shuffle(self._shards)
        self._rest = min(EMPTY_SECONDS, rest_seconds)
        self._remember = min(TRIED_SECONDS, max(rest_seconds, 0.2))
        self._overdue_at = clock.monotonic() + OVERDUE_RESTS * self._rest
        self._sides = (True, False) if on_demand else (False,)
        self._on_demand: set[str] = set()
        """Of the last page, those that are for on-demand pilots only."""
        self._empty_until: dict[tuple[State, int, bool], float] = {}
        self._tried: OrderedDict[str, float] = OrderedDict()

    def page(self) -> list[tuple[State, str]]:
        """The next page of candidates with the state they were seen in, in random order, without those tried lately.

        [] after a full sweep in vain.
        """
        if self._clock.monotonic() >= self._overdue_at and (overdue := self._overdue()):
            return overdue
        for on_demand in self._sides:
            for state in _ORDER:
                for shard in list(self._shards):
                    fresh = self._fresh(state, shard, on_demand=on_demand)
                    if fresh:
                        # The next page begins with the shard that had something.
                        self._shards.remove(shard)
                        self._shards.insert(0, shard)
                        return fresh
        return []

    def for_on_demand(self, item_id: str) -> bool:
        """Is this item of the last page for on-demand pilots only?"""
        return item_id in self._on_demand

    def _overdue(self) -> list[tuple[State, str]]:
        self._overdue_at = self._clock.monotonic() + OVERDUE_RESTS * self._rest
        shard = self._rng.choice(self._shards)
        return self._fresh(State.LOCKED, shard) or self._fresh(State.WAITING, shard)

    def _fresh(self, state: State, shard: int, *, on_demand: bool = False) -> list[tuple[State, str]]:
        """A page of one shard without those tried lately, in random order; an empty shard then rests."""
        key = (state, shard, on_demand)
        if self._empty_until.get(key, 0.0) > self._clock.monotonic():
            return []
        seen = (
            self._ledger.candidates(state, shard, limit=PAGE, on_demand=True) if on_demand else self._ask(state, shard)
        )
        if not seen:
            self._empty_until[key] = self._clock.monotonic() + self._rest
        fresh = [each for each in seen if not self._tried_lately(each)]
        self._rng.shuffle(fresh)
        self._on_demand = set(fresh) if on_demand else set()
        return [(state, each) for each in fresh]

    def open(self) -> int:
        """Items of the table that are not finished."""
        found = self._ledger.counts().open
        if not found or True in self._sides:
            return found
        # Nobody stays for what is not for him: nothing but an on-demand pilot will ever take it.
        return max(0, found - self._ledger.claimable(within_seconds=FAR_SECONDS, on_demand=True))

    def tried(self, item_id: str) -> None:
        """This one was tried: leave it to others for a while."""
        self._tried[item_id] = self._clock.monotonic() + self._remember
        self._tried.move_to_end(item_id)
        while len(self._tried) > TRIED:
            self._tried.popitem(last=False)

    def _tried_lately(self, item_id: str) -> bool:
        until = self._tried.get(item_id)
        return until is not None and until > self._clock.monotonic()

    def _ask(self, state: State, shard: int) -> list[str]:
        if state is not State.TODO:
            return self._ledger.candidates(state, shard, limit=PAGE)
        # Within the first priority that has items; the ledger wraps around at its end.
        return self._ledger.candidates(state, shard, start=f"{self._rng.getrandbits(48):012x}", limit=PAGE)


class Chosen:
    """The items of a canary, which claims no others.

    Args:
        item_ids: those that the run's row names; few (fleet/canary.py).
        rest_seconds: how long an item that was tried is left to others.
    """

    def __init__(
        self, ledger: Ledger, item_ids: Sequence[str], clock: Clock, rng: random.Random, rest_seconds: float
    ) -> None:
        self._ledger, self._item_ids, self._clock, self._rng = ledger, tuple(item_ids), clock, rng
        self._remember = min(TRIED_SECONDS, max(rest_seconds, 0.2))
        self._tried: dict[str, float] = {}
        self._on_demand: set[str] = set()

    def page(self) -> list[tuple[State, str]]:
        """Those that are free by their rows, in random order, without those tried lately."""
        now = self._clock.monotonic()
        asked = [each for each in self._item_ids if self._tried.get(each, 0.0) <= now]
        free = [item for item in map(self._ledger.item, asked) if self._is_free(item)]
        self._on_demand = {item.item_id for item in free if item.on_demand}
        found = [(item.state, item.item_id) for item in free]
        self._rng.shuffle(found)
        return found

    def for_on_demand(self, item_id: str) -> bool:
        """Is it by now for on-demand pilots only? It is still the canary's, which nobody else would finish."""
        return item_id in self._on_demand

    def _is_free(self, item: Item) -> bool:
        # The ledger has the last word; here only what it would surely refuse is left out.
        if item.state is State.WAITING:
            return item.due is None or item.due <= self._clock.now()
        if item.state is State.LOCKED:
            return item.lease_end is None or item.lease_end <= self._clock.now()
        return item.state is State.TODO

    def open(self) -> int:
        """Of these, the items that are not finished."""
        return sum(self._ledger.item(each).state not in FINISHED for each in self._item_ids)

    def tried(self, item_id: str) -> None:
        """This one was tried: leave it to others for a while."""
        self._tried[item_id] = self._clock.monotonic() + self._remember
