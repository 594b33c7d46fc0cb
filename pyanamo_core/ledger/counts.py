"""Counting, listing and pilots' rows: everything that is read through the queue index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.base import LedgerBase
from pyanamo_core.ledger.store import BATCH_KEYS
from pyanamo_core.model import Counts, Item, PilotRecord, State

_THREADS: Final = 8


class Counting(LedgerBase):
    """Reads of the index; it lags behind the rows by fractions of a second, so all figures are approximate."""

    def counts(self) -> Counts:
        """Items by state: a COUNT query for each state and shard (a million items: about 6,000 read units)."""
        queues = [(state, shard) for state in State for shard in range(self.rules.shards)]
        found = self._each(lambda q: self._store.queue_count(x.queue(*q)), queues)
        sums = {state.value: 0 for state in State}
        for (state, _), number in zip(queues, found, strict=True):
            sums[state.value] += number
        return Counts(**sums)

    def count(self, state: State, *, bound: int | None = None, since: float = 0.0) -> int:
        """Items in a state; stops counting at `bound`. `since`: of a finished state, those that finished then or later."""
        found, at_least = 0, x.due_at(since) if since else ""
        if self.rules.shards > _THREADS:
            queues = [(state, shard) for shard in range(self.rules.shards)]
            ask = self._store.queue_count
            sums = self._each(lambda queue: ask(x.queue(*queue), at_least=at_least, bound=bound), queues)
            return sum(sums) if bound is None else min(bound, sum(sums))
        for shard in range(self.rules.shards):
            left = None if bound is None else bound - found
            found += self._store.queue_count(x.queue(state, shard), at_least=at_least, bound=left)
            if bound is not None and found >= bound:
                return bound
        return found

    def claimable(self, *, within_seconds: float = 0.0, on_demand: bool = False) -> int:
        """todo + waiting due within so many seconds + locked with an expired lease: of the items for on-demand pilots
        only, or of all others."""
        now = self._now()
        edge = decisions.lease_limit(now, self.rules)
        if on_demand:  # BETWEEN includes its end
            at_least = x.MARK_ON_DEMAND
            below = {
                State.TODO: "",
                State.WAITING: x.marked(x.due_at(now + within_seconds)),
                State.LOCKED: x.marked(x.due_at(edge - 0.001)),
            }
        else:
            at_least = ""
            below = {
                State.TODO: x.MARK_ON_DEMAND,
                State.WAITING: x.due_at(now + within_seconds + 0.001),
                State.LOCKED: x.due_at(edge),
            }
        queues = [(state, shard) for state in below for shard in range(self.rules.shards)]
        ask = self._store.queue_count
        return sum(self._each(lambda q: ask(x.queue(*q), at_least=at_least, below=below[q[0]]), queues))

    def _each(self, ask: Callable[[tuple[State, int]], int], queues: list[tuple[State, int]]) -> list[int]:
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(ask, queues))

    def item_ids(self, state: State) -> Iterator[str]:
        """Every item id of a state through the index, shard by shard in the order of `due`, page by page."""
        for shard in range(self.rules.shards):
            for page in self._store.queue_ids(x.queue(state, shard)):
                yield from page

    def items(self, state: State | None = None) -> Iterator[Item]:
        """Every item (of a state), 100 rows at a time; None walks all states.

        A row that has left the state since the index was read is left out; an item that moves from one state to the
        next during a walk of all states may be told in both, or in neither.
        """
        for each in State if state is None else (state,):
            waiting: list[str] = []
            for item_id in self.item_ids(each):
                waiting.append(item_id)
                if len(waiting) == BATCH_KEYS:
                    yield from self._items_of(waiting, each)
                    waiting = []
            yield from self._items_of(waiting, each)

    def _items_of(self, item_ids: list[str], state: State) -> Iterator[Item]:
        place = {item_id: number for number, item_id in enumerate(item_ids)}
        found = [rows.read_item(row) for row in self._store.batch(rows.key(i, x.ITEM_ROW) for i in place)]
        yield from sorted((item for item in found if item.state is state), key=lambda item: place[item.item_id])

    # ------------------------------------------------------------------------------------------------------ pilots

    def put_pilot(self, record: PilotRecord) -> None:
        """Write a pilot's row: absolute figures that only the pilot itself writes. TTL removes it after 30 days.

        A row that tells the pilot's end stays: a beat that was on its way for long comes too late.

        Raises:
            BadInput: the id is longer than 64 bytes.
            OutcomeUnknown: nothing answered.
        """
        rows.check_owner("Pilot", record.pilot_id)
        self._store.check()
        condition = x.PILOT_NOT_ENDED if record.ended is None else ""
        self._put(rows.pilot_row(record, self.rules.shards), condition, {}, until=self._clock.monotonic())

    def pilot(self, pilot_id: str) -> PilotRecord | None:
        row = self._store.get(x.pilot_hash(pilot_id), x.PILOT_ROW)
        return rows.read_pilot(row) if row else None

    def pilots(self, run_id: str | None = None, *, beaten_since: float = 0.0) -> list[PilotRecord]:
        """Pilots (of a run) whose last beat is not older, oldest start first."""
        found: list[PilotRecord] = []
        since = x.due_at(beaten_since) if beaten_since else ""
        for shard in range(self.rules.shards):
            for page in self._store.queue_ids(x.queue(x.PILOT_QUEUE, shard), at_least=since):
                found += [rows.read_pilot(row) for row in self._store.batch(rows.key(i, x.PILOT_ROW) for i in page)]
        kept = [pilot for pilot in found if run_id is None or pilot.run_id == run_id]
        return sorted(kept, key=lambda pilot: (pilot.started, pilot.pilot_id))
