"""A ledger behind a network that delays calls and loses answers, and the same with one rule of it broken.

Wire is the twin in memory (its decisions are the table's own) with what Ledger adds on a network: a token for each
move, so that a repeated call knows its own first try. Each subclass lacks one rule; the checker must see that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyanamo_core.clock import FakeClock
from pyanamo_core.errors import LeaseLost
from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Claim, Definition, Imported, Item, Nest, Recorded, Rules, State


class World(FakeClock):
    """The time of all, and how far the clock of whoever acts now is off."""

    def __init__(self) -> None:
        super().__init__()
        self.skew = 0.0

    def now(self) -> float:
        return super().now() + self.skew

    @contextmanager
    def seen_with(self, skew: float) -> Iterator[None]:
        before, self.skew = self.skew, skew
        try:
            yield
        finally:
            self.skew = before


class Wire(MemoryLedger):
    """The sound ledger.

    Args:
        travel: called when a call is under way, before it arrives: others may act then.
        loses: is this answer lost? The call is then repeated with the same token, as the SDK does.
    """

    def __init__(
        self,
        rules: Rules,
        world: World,
        rng: random.Random,
        *,
        travel: Callable[[], None] = lambda: None,
        loses: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(rules, world, rng)
        self.travel, self.loses = travel, loses
        self._lock_ids: dict[str, str] = {}

    def _twice(self, arrive: Callable[[], Any]) -> Any:
        """One call; if its answer is lost, the same call again."""
        skew = self._clock.skew  # type: ignore[attr-defined]
        for _ in range(10):
            self.travel()
            with self._clock.seen_with(skew):  # type: ignore[attr-defined]
                answer = arrive()
            if not self.loses():
                return answer
        return answer

    # ------------------------------------------------------------------ claims

    def claim(self, item_id: str, pilot_id: str, *, run_id: str = "") -> Claim | None:
        token, deadline = self._token(), self._clock.monotonic() + self.rules.lease_seconds
        sent = self._now()
        return self._twice(lambda: self._claim_arrives(item_id, pilot_id, token, deadline, sent))

    def _claim_arrives(self, item_id: str, pilot_id: str, token: str, deadline: float, sent: float) -> Claim | None:
        before = self._items.get(item_id)
        if before is None:
            return None
        if self._lock_ids.get(item_id) == token:
            return self._own(before, pilot_id, token, deadline)
        locked = before.state is State.LOCKED
        decide = decisions.reclaim if locked else decisions.claim
        told: dict[str, Any] = {"pilot_id": pilot_id, "run_id": "", "token": token, "rules": self.rules, "now": sent}
        try:
            after = decide(before, **told)
        except decisions.Refusal:
            return None
        self._lock_ids[item_id] = token
        self._put(self._claimed(before, after))
        return Claim(item=self._items[item_id], pilot_id=pilot_id, deadline=deadline)

    def _own(self, standing: Item, pilot_id: str, token: str, deadline: float) -> Claim | None:
        """A refusal that shows our own token is a win."""
        if standing.state is not State.LOCKED or standing.owner != pilot_id:
            return None
        return Claim(item=standing, pilot_id=pilot_id, deadline=deadline)

    def _claimed(self, before: Item, after: Item) -> Item:
        return after

    # ------------------------------------------------------------------ owners

    def _mine(self, claim: Claim, decide: Callable[[Item, str], Item]) -> Item:
        self._in_time(claim)
        token = self._token()
        return self._twice(lambda: self._mine_arrives(claim, decide, token))

    def _mine_arrives(self, claim: Claim, decide: Callable[[Item, str], Item], token: str) -> Item:
        standing = self.item(claim.item_id)
        if standing.last_move == token:
            return standing
        try:
            self._put(self._decided(standing, claim, decide, token))
        except decisions.Refusal as refusal:
            raise LeaseLost(item_id=claim.item_id, fence=claim.fence, reason=refusal.reason) from None
        return self._items[claim.item_id]

    def _decided(self, standing: Item, claim: Claim, decide: Callable[[Item, str], Item], token: str) -> Item:
        return decide(standing, token)

    def record_nest(self, claim: Claim, nest: Nest) -> Recorded:
        self._in_time(claim)
        recorded, _ = rows.recordable(self._stamped(claim, nest))
        return self._twice(lambda: self._nest_arrives(claim, recorded))

    def _nest_arrives(self, claim: Claim, nest: Nest) -> Recorded:
        standing = self._nests[claim.item_id, claim.epoch]
        answer = decisions.record(standing.get(nest.index), nest)
        if answer is Recorded.WON:
            standing[nest.index] = nest
        return answer


# ------------------------------------------------------------------------------------------------------------- broken


class NoFence(Wire):
    """Owners' writes are accepted whatever fence the row has."""

    def _decided(self, standing: Item, claim: Claim, decide: Callable[[Item, str], Item], token: str) -> Item:
        after = decide(standing.model_copy(update={"fence": claim.fence}), token)
        return after.model_copy(update={"fence": standing.fence})


class NoSelfHeal(Wire):
    """A claim whose answer was lost takes the refusal of its repetition for a defeat."""

    def _own(self, standing: Item, pilot_id: str, token: str, deadline: float) -> Claim | None:
        return None


class UnconditionalFinish(Wire):
    """An item is finished whatever its row says."""

    def finish(self, claim: Claim, *, nests_done: int, note: str = "") -> Item:
        def decide(row: Item, token: str) -> Item:
            held = row.model_copy(update={"state": State.LOCKED, "fence": claim.fence})
            after = decisions.finish(
                held, fence=claim.fence, token=token, now=self._now(), nests_done=row.nests, note=note
            )
            return after.model_copy(update={"fence": row.fence})

        return self._mine(claim, decide)


class MarginlessRules(Rules):
    """A lease is over for others at the very moment that its end says."""

    @property
    def margin_seconds(self) -> float:
        return 0.0


class NoMargin(Wire):
    """Clocks that disagree are not allowed for."""

    def __init__(self, rules: Rules, *told: Any, **more: Any) -> None:
        super().__init__(MarginlessRules(**rules.model_dump()), *told, **more)


class ReusedAttemptNumbers(Wire):
    """A reclaim goes on under the fence of the dead claim."""

    def _claimed(self, before: Item, after: Item) -> Item:
        return after.model_copy(update={"fence": before.fence}) if before.state is State.LOCKED else after


class ImportOverwrites(Wire):
    """An import with another definition replaces the one that stands."""

    def import_item(self, item_id: str, task_id: str, definition: Definition, **more: Any) -> Imported:
        standing = self._items.get(item_id)
        if standing is None or standing.definition_hash == definition.hash:
            return super().import_item(item_id, task_id, definition, **more)
        self._definitions[item_id, definition.hash] = definition
        self._put(standing.model_copy(update={"definition_hash": definition.hash, "nests": definition.nests}))
        return Imported.EXISTS


class ImportOverwritesRows(Wire):
    """An import with another definition writes it into the rows that the old one has."""

    def import_item(self, item_id: str, task_id: str, definition: Definition, **more: Any) -> Imported:
        standing = self._items.get(item_id)
        if standing is not None:
            self._definitions[item_id, standing.definition_hash] = definition
        return super().import_item(item_id, task_id, definition, **more)


class ResetWithoutEpoch(Wire):
    """A reset leaves the epoch, and with it the old results, as they are."""

    def reset(self, item: Item) -> Item:
        before = self.item(item.item_id)
        after = super().reset(item)
        self._put(after.model_copy(update={"epoch": before.epoch, "nests_done": before.nests_done}))
        return self.item(item.item_id)


class NoExpiry(Wire):
    """A locked item that nobody may claim any more stays as it is."""

    def expire(self, item_id: str) -> Item | None:
        return None


class NestTwice(Wire):
    """A nest's row may be written again in its epoch."""

    def _nest_arrives(self, claim: Claim, nest: Nest) -> Recorded:
        self._nests[claim.item_id, claim.epoch][nest.index] = nest
        return Recorded.WON


BROKEN: dict[type[Wire], str] = {
    NoFence: "acting",
    NoSelfHeal: "unowned",
    UnconditionalFinish: "released",
    NoMargin: "acting",
    ReusedAttemptNumbers: "fence",
    ImportOverwrites: "definition",
    ImportOverwritesRows: "definition",
    ResetWithoutEpoch: "epoch",
    NoExpiry: "lost",
    NestTwice: "twice",
}
"""Each broken ledger, and the rule of the checker that it breaks first of all."""
