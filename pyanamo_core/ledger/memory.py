"""The same ledger in memory: for tests, ours and the users'. It obeys every rule, needs no AWS, and is safe to share by threads.

Decisions are those of decisions.py, as for DynamoDB's ledger; rows live in dictionaries, the queue index in sorted lists.
"""

from __future__ import annotations

import bisect
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

from pyanamo_core.errors import (
    ItemMissing,
    LeaseLost,
    MoveRefused,
    NestMissing,
    PyAnamoError,
)
from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.memory_runs import MemoryRuns
from pyanamo_core.model import (
    Attempt,
    Beaten,
    Cause,
    Claim,
    Counts,
    Definition,
    Imported,
    Item,
    Move,
    Nest,
    NestStatus,
    Recorded,
    Rules,
    State,
)
from pyanamo_core.protocols import Clock


class MemoryLedger(MemoryRuns):
    """A ledger without a table (protocols.Ledger).

    Args:
        rules: budgets, lease and shards.
        clock: tests hand in a FakeClock.
        rng: source of tokens and random places; tests hand in a seeded one.
    """

    def __init__(
        self,
        rules: Rules | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        *,
        table: str = "memory",
    ) -> None:
        super().__init__(rules, clock, rng, table)
        self._items: dict[str, Item] = {}
        self._places: dict[str, tuple[str, str]] = {}
        self._queues: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._definitions: dict[tuple[str, str], Definition] = {}
        self._nests: dict[tuple[str, int], dict[int, Nest]] = defaultdict(dict)
        self._tails: dict[tuple[str, int, int, int], str] = {}
        self._attempts: dict[str, dict[int, Attempt]] = defaultdict(dict)

    # ------------------------------------------------------------------ items

    def import_item(
        self,
        item_id: str,
        task_id: str,
        definition: Definition,
        *,
        priority: int = 5,
        revision: str = "",
        update: bool = False,
    ) -> Imported:
        rows.check_ids(item_id, task_id)
        rows.check_definition(definition)
        with self._lock:
            standing = self._items.get(item_id)
            if standing is None:
                self._definitions[item_id, definition.hash] = definition
                self._put(
                    Item(
                        item_id=item_id,
                        task_id=task_id,
                        state=State.TODO,
                        priority=priority,
                        nests=definition.nests,
                        definition_hash=definition.hash,
                        revision=revision,
                        created=self._now(),
                        last_move=self._token(),
                    )
                )
                return Imported.CREATED
            if standing.definition_hash == definition.hash:
                return Imported.EXISTS
            if not update or standing.state is State.LOCKED:
                return Imported.CONFLICT
            self._edit(standing, definition, revision)
            return Imported.EDITED

    def item(self, item_id: str) -> Item:
        with self._lock:
            found = self._items.get(item_id)
        if found is None:
            raise ItemMissing(table=self.table, item_id=item_id)
        return found

    def definition(self, item: Item) -> Definition:
        with self._lock:
            found = self._definitions.get((item.item_id, item.definition_hash))
        if found is None:
            raise ItemMissing(table=self.table, item_id=item.item_id)
        return found

    def nests(self, item: Item) -> dict[int, Nest]:
        with self._lock:
            return dict(sorted(self._nests[item.item_id, item.epoch].items()))

    def attempts(self, item_id: str) -> list[Attempt]:
        with self._lock:
            return [attempt for _, attempt in sorted(self._attempts[item_id].items())]

    def histories(self, items: Iterable[Item]) -> Iterator[tuple[Item, list[Attempt], Nest | None]]:
        for item in items:
            yield item, self.attempts(item.item_id), self.nests(item).get(0)

    def tail(self, item: Item, nest: Nest) -> str:
        with self._lock:
            return nest.tail or self._tails.get((item.item_id, nest.epoch, nest.index, nest.fence), "")

    # ------------------------------------------------------------------ moves of users

    def retry(
        self,
        item: Item,
        *,
        memory_factor: float | None = None,
        nest_seconds: float | None = None,
        on_demand: bool | None = None,
    ) -> Item:
        return self._move(
            Move.RETRY,
            item.item_id,
            lambda row, token: decisions.retry(
                row,
                seen=item,
                token=token,
                memory_factor=memory_factor,
                nest_seconds=nest_seconds,
                on_demand=on_demand,
            ),
        )

    def reset(self, item: Item) -> Item:
        return self._move(Move.RESET, item.item_id, lambda row, token: decisions.reset(row, seen=item, token=token))

    def edit(self, item: Item, definition: Definition) -> Item:
        rows.check_definition(definition)
        with self._lock:
            return self._edit(item, definition, "")

    def _edit(self, item: Item, definition: Definition, revision: str) -> Item:
        self._definitions[item.item_id, definition.hash] = definition
        return self._move(
            Move.EDIT,
            item.item_id,
            lambda row, token: decisions.edit(row, seen=item, token=token, definition=definition, revision=revision),
        )

    def extend(self, item: Item, values: Sequence[str]) -> Item:
        with self._lock:
            try:
                longer = decisions.extended(self.definition(item), values)
            except decisions.Refusal as refusal:
                raise self._refused(Move.EXTEND, item.item_id, refusal) from None
            rows.check_definition(longer)
            self._definitions[item.item_id, longer.hash] = longer
            return self._move(
                Move.EXTEND,
                item.item_id,
                lambda row, token: decisions.extend(row, seen=item, token=token, definition=longer),
            )

    def redo(self, item: Item, nests: Iterable[int]) -> Item:
        wanted = sorted(set(nests))
        with self._lock:
            for index in wanted:
                if not 0 <= index < item.nests:
                    raise NestMissing(item_id=item.item_id, nest=index)
            recorded = self._nests[item.item_id, item.epoch]
            left = sum(1 for i, n in recorded.items() if n.status is NestStatus.DONE and i not in wanted)
            after = self._move(
                Move.REDO,
                item.item_id,
                lambda row, token: decisions.redo(row, seen=item, token=token, done_left=left, nests=wanted),
            )
            for index in wanted:
                recorded[index] = decisions.reset_nest(after, index, after.last_move)
            return after

    def cancel(self, item: Item) -> Item:
        return self._move(
            Move.CANCEL, item.item_id, lambda row, token: decisions.cancel(row, token=token, now=self._now())
        )

    def recover(self, item: Item, *, ended_at: float, memory_factor: float | None = None, message: str = "") -> Item:
        def decide(row: Item, token: str) -> Item:
            return decisions.recover(
                row,
                seen=item,
                token=token,
                now=self._now(),
                rules=self.rules,
                ended_at=ended_at,
                memory_factor=memory_factor,
                message=message,
            )

        after = self._move(Move.RECOVER, item.item_id, decide)
        self._mark_lost(item.item_id, item.fence, "its Batch attempt is over", ended_at)
        return after

    # ------------------------------------------------------------------ moves of pilots

    def candidates(
        self, state: State, shard: int, *, start: str | None = None, limit: int = 10, on_demand: bool = False
    ) -> list[str]:
        with self._lock:
            entries = self._side(x.queue(state, shard), on_demand=on_demand)
            if on_demand:
                start = None
            if state is State.WAITING:
                free = [i for due, i in entries if due <= x.due_at(self._now())]
            elif state is State.LOCKED:
                edge = x.due_at(decisions.lease_limit(self._now(), self.rules))
                free = [i for due, i in entries if due < edge]
            elif start is not None and entries:
                digit = entries[0][0][0]
                begin = bisect.bisect_left(entries, (digit + start[:12], ""))
                after = [i for due, i in entries[begin : begin + limit] if due[0] == digit]
                return after or [i for due, i in entries[:limit] if due[0] == digit]
            else:
                return [i for _, i in entries[:limit]]
            page = free[: max(limit, 25)]
            self._rng.shuffle(page)
            return page[:limit]

    def _side(self, queue: str, *, on_demand: bool) -> list[tuple[str, str]]:
        """The entries of a queue that are for on-demand pilots only, without their mark, or all others."""
        entries, border = self._queues[queue], (x.MARK_ON_DEMAND, "")
        if not on_demand:
            return entries[: bisect.bisect_left(entries, border)]
        return [(due.removeprefix(x.MARK_ON_DEMAND), i) for due, i in entries[bisect.bisect_left(entries, border) :]]

    def claim(self, item_id: str, pilot_id: str, *, run_id: str = "", on_demand: bool = False) -> Claim | None:
        rows.check_owner("Pilot", pilot_id)
        deadline = self._clock.monotonic() + self.rules.lease_seconds
        with self._lock:
            before = self._items.get(item_id)
            if before is None or before.on_demand != on_demand:
                return None
            decide = decisions.reclaim if before.state is State.LOCKED else decisions.claim
            try:
                after = decide(
                    before,
                    pilot_id=pilot_id,
                    run_id=run_id,
                    token=self._token(),
                    now=self._now(),
                    rules=self.rules,
                )
            except decisions.Refusal:
                return None
            self._put(after)
            if before.state is State.LOCKED:
                self._mark_lost(item_id, before.fence, "its lease ended", before.lease_end)
            return Claim(item=after, pilot_id=pilot_id, deadline=deadline)

    def expire(self, item_id: str) -> Item | None:
        with self._lock:
            before = self._items.get(item_id)
            if before is None:
                return None
            try:
                after = decisions.expire(before, token=self._token(), now=self._now(), rules=self.rules)
            except decisions.Refusal:
                return None
            self._put(after)
            self._mark_lost(item_id, before.fence, "its lease ended", before.lease_end)
            return after

    def beat(self, claim: Claim, *, progressed: bool, nests_done: int, nests_failed: int) -> Beaten:
        deadline = self._clock.monotonic() + self.rules.lease_seconds
        lease_end = round(self._now() + self.rules.lease_seconds, 3)
        after = self._mine(
            claim,
            lambda row, token: decisions.beat(
                row,
                fence=claim.fence,
                token=token,
                lease_end=lease_end,
                progressed=progressed,
                nests_done=nests_done,
                nests_failed=nests_failed,
            ),
        )
        return Beaten(lease_end=after.lease_end or lease_end, deadline=deadline, cancelled=after.cancelled)

    def record_nest(self, claim: Claim, nest: Nest) -> Recorded:
        self._in_time(claim)
        recorded, tail = rows.recordable(self._stamped(claim, nest))
        with self._lock:
            if tail:
                # Also of a result that is not kept: a table has it before the result is decided on.
                self._tails[claim.item_id, claim.epoch, recorded.index, recorded.fence] = tail
            standing = self._nests[claim.item_id, claim.epoch]
            answer = decisions.record(standing.get(recorded.index), recorded)
            if answer is Recorded.WON:
                standing[recorded.index] = rows.read_nest(rows.nest_row(recorded))
            return answer

    def _stamped(self, claim: Claim, nest: Nest) -> Nest:
        return nest.model_copy(
            update={
                "item_id": claim.item_id,
                "epoch": claim.epoch,
                "fence": claim.fence,
                "pilot_id": nest.pilot_id or claim.pilot_id,
                "run_id": nest.run_id or claim.item.run_id or "",
                "token": nest.token or self._token(),
            }
        )

    def finish(self, claim: Claim, *, nests_done: int, note: str = "") -> Item:
        return self._mine(
            claim,
            lambda row, token: decisions.finish(
                row, fence=claim.fence, token=token, now=self._now(), nests_done=nests_done, note=note
            ),
        )

    def fail(self, claim: Claim, cause: Cause, message: str, *, nests_done: int = 0, nests_failed: int = 0) -> Item:
        return self._mine(
            claim,
            lambda row, token: decisions.fail(
                row,
                fence=claim.fence,
                token=token,
                now=self._now(),
                cause=cause,
                message=message,
                nests_done=nests_done,
                nests_failed=nests_failed,
            ),
        )

    def wait(
        self,
        claim: Claim,
        cause: Cause,
        message: str,
        *,
        delay_seconds: float,
        memory_factor: float = 1.0,
        nests_done: int = 0,
        nests_failed: int = 0,
    ) -> Item:
        return self._mine(
            claim,
            lambda row, token: decisions.wait(
                row,
                fence=claim.fence,
                token=token,
                now=self._now(),
                rules=self.rules,
                cause=cause,
                message=message,
                delay_seconds=delay_seconds,
                memory_factor=memory_factor,
                nests_done=nests_done,
                nests_failed=nests_failed,
            ),
        )

    def hand_back(
        self,
        claim: Claim,
        cause: Cause,
        message: str = "",
        *,
        progressed: bool,
        started: bool,
        counts: bool = True,
        nests_done: int = 0,
    ) -> Item:
        return self._mine(
            claim,
            lambda row, token: decisions.hand_back(
                row,
                fence=claim.fence,
                token=token,
                now=self._now(),
                rules=self.rules,
                cause=cause,
                message=message,
                progressed=progressed,
                started=started,
                counts=counts,
                nests_done=nests_done,
            ),
        )

    def put_attempt(self, attempt: Attempt) -> None:
        told = attempt.model_dump(exclude_defaults=True)
        if "evidence" in told:
            told["evidence"] = rows.clipped(told["evidence"], rows.EVIDENCE_BYTES)
        with self._lock:
            standing = self._attempts[attempt.item_id]
            known = standing.get(attempt.fence, Attempt(item_id=attempt.item_id, fence=attempt.fence))
            standing[attempt.fence] = known.model_copy(update=told)

    def _mark_lost(self, item_id: str, fence: int, evidence: str, over: float | None) -> None:
        ended = self._now() if over is None else min(self._now(), over)
        with self._lock:
            known = self._attempts[item_id].get(fence)
            if known is None or known.cause is None:
                self.put_attempt(
                    Attempt(item_id=item_id, fence=fence, cause=Cause.LOST, ended=ended, evidence=evidence)
                )

    # ------------------------------------------------------------------ counting and listing

    def counts(self) -> Counts:
        with self._lock:
            return Counts(**{state.value: self.count(state) for state in State})

    def count(self, state: State, *, bound: int | None = None, since: float = 0.0) -> int:
        at_least = (x.due_at(since), "") if since else ("", "")
        with self._lock:
            queues = [self._queues[x.queue(state, shard)] for shard in range(self.rules.shards)]
            found = sum(len(entries) - bisect.bisect_left(entries, at_least) for entries in queues)
        return found if bound is None else min(found, bound)

    def claimable(self, *, within_seconds: float = 0.0, on_demand: bool = False) -> int:
        with self._lock:
            soon = x.due_at(self._now() + within_seconds)
            edge = x.due_at(decisions.lease_limit(self._now(), self.rules))
            found = 0
            for shard in range(self.rules.shards):
                todo, waiting, locked = (
                    self._side(x.queue(state, shard), on_demand=on_demand)
                    for state in (State.TODO, State.WAITING, State.LOCKED)
                )
                found += len(todo)
                found += sum(1 for due, _ in waiting if due <= soon)
                found += sum(1 for due, _ in locked if due < edge)
            return found

    def item_ids(self, state: State) -> Iterator[str]:
        with self._lock:
            found = [entry for shard in range(self.rules.shards) for entry in self._queues[x.queue(state, shard)]]
        return iter([item_id for _, item_id in found])

    def items(self, state: State | None = None) -> Iterator[Item]:
        for each in State if state is None else (state,):
            for item_id in self.item_ids(each):
                with self._lock:
                    found = self._items[item_id]
                if found.state is each:
                    yield found

    # ------------------------------------------------------------------ underneath

    def _put(self, item: Item) -> None:
        item = rows.with_message(item)
        keys = rows.index_keys(item, self.rules.shards, f"{self._rng.getrandbits(48):012x}")
        queue, due = keys[x.QUEUE]["S"], keys[x.DUE]["S"]
        before = self._items.get(item.item_id)
        if before is not None:
            old_queue, old_due = self._places[item.item_id]
            entries = self._queues[old_queue]
            del entries[bisect.bisect_left(entries, (old_due, item.item_id))]
        bisect.insort(self._queues[queue], (due, item.item_id))
        self._places[item.item_id] = (queue, due)
        self._items[item.item_id] = item

    def _refused(self, move: Move, item_id: str, refusal: decisions.Refusal) -> PyAnamoError:
        return MoveRefused(move=move.value, item_id=item_id, reason=refusal.reason)

    def _move(self, move: Move, item_id: str, decide: Callable[[Item, str], Item]) -> Item:
        with self._lock:
            try:
                self._put(decide(self.item(item_id), self._token()))
            except decisions.Refusal as refusal:
                raise self._refused(move, item_id, refusal) from None
            return self._items[item_id]

    def _in_time(self, claim: Claim) -> None:
        if self._clock.monotonic() >= claim.deadline:
            raise LeaseLost(item_id=claim.item_id, fence=claim.fence, reason=decisions.PAST_DEADLINE)

    def _mine(self, claim: Claim, decide: Callable[[Item, str], Item]) -> Item:
        self._in_time(claim)
        with self._lock:
            try:
                self._put(decide(self.item(claim.item_id), self._token()))
            except decisions.Refusal as refusal:
                raise LeaseLost(item_id=claim.item_id, fence=claim.fence, reason=refusal.reason) from None
            return self._items[claim.item_id]
