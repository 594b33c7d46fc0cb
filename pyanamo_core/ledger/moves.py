"""The moves of pilots: candidates, claim and reclaim, expire, beat, finish, fail, wait, hand back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pyanamo_core.errors import ItemMissing, LeaseLost, OutcomeUnknown, PyAnamoError
from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.base import Say
from pyanamo_core.ledger.decisions import Refusal
from pyanamo_core.ledger.expressions import Expressions
from pyanamo_core.ledger.nests import NestRows
from pyanamo_core.ledger.store import NoAnswer, Won
from pyanamo_core.model import Beaten, Cause, Claim, Item, Move, State

_TIMED_PAGE: Final = 25
_DIGIT_SECONDS: Final = 10.0


class PilotMoves(NestRows):
    """What pilots do with items."""

    # -------------------------------------------------------------------------------------------------- candidates

    def candidates(
        self, state: State, shard: int, *, start: str | None = None, limit: int = 10, on_demand: bool = False
    ) -> list[str]:
        """One page of item ids of a shard of the queue index.

        Args:
            state: todo; waiting: those that are due; locked: those whose lease is over, margin included.
            start: for todo up to 12 random hex digits: the page begins there among the items of the best priority,
                and wraps. With a random start ten thousand claimers hardly ever meet; None takes the first.
            limit: of the page.
            on_demand: of the items for on-demand pilots only (few: they are shuffled, not begun at random); else of all others.
        """
        queue = x.queue(state, shard)
        if on_demand:
            return self._of_on_demand(state, queue, limit)
        if state is State.TODO and start is not None:
            return self._from_random(queue, start[:12], limit)
        if state is State.WAITING:
            page = self._store.queue_page(queue, below=x.due_at(self._now() + 0.001), limit=max(limit, _TIMED_PAGE))
        elif state is State.LOCKED:
            edge = x.due_at(decisions.lease_limit(self._now(), self.rules))
            page = self._store.queue_page(queue, below=edge, limit=max(limit, _TIMED_PAGE))
        else:
            return [item_id for item_id, _ in self._store.queue_page(queue, below=x.MARK_ON_DEMAND, limit=limit)]
        return self._shuffled(page, limit)

    def _of_on_demand(self, state: State, queue: str, limit: int) -> list[str]:
        below = ""
        if state is State.WAITING:
            below = x.marked(x.due_at(self._now()))
        elif state is State.LOCKED:
            # BETWEEN includes its end, an expired lease is before its limit.
            below = x.marked(x.due_at(decisions.lease_limit(self._now(), self.rules) - 0.001))
        page = self._store.queue_page(queue, at_least=x.MARK_ON_DEMAND, below=below, limit=max(limit, _TIMED_PAGE))
        return self._shuffled(page, limit)

    def _shuffled(self, page: list[tuple[str, str]], limit: int) -> list[str]:
        """All claimers are shown the same page in the same order; a shuffle keeps them apart."""
        found = [item_id for item_id, _ in page]
        self._rng.shuffle(found)
        return found[:limit]

    def _from_random(self, queue: str, start: str, limit: int) -> list[str]:
        digit = self._best_priority(queue)
        if digit is None:
            return []
        page = self._store.queue_page(queue, at_least=digit + start, below=digit + "~", limit=limit)
        if not page:
            page = self._store.queue_page(queue, at_least=digit, below=digit + start, limit=limit)
        if not page:
            with self._lock:
                self._digits.pop(queue, None)
            page = self._store.queue_page(queue, below=x.MARK_ON_DEMAND, limit=limit)
        return [item_id for item_id, _ in page]

    def _best_priority(self, queue: str) -> str | None:
        """The priority digit that a shard's first item has, looked up at most every 10 s; None: the shard is empty."""
        with self._lock:
            known = self._digits.get(queue)
        if known and known[1] > self._clock.monotonic():
            return known[0]
        first = self._store.queue_page(queue, below=x.MARK_ON_DEMAND, limit=1)
        if not first:
            return None
        digit = first[0][1][:1]
        with self._lock:
            self._digits[queue] = (digit, self._clock.monotonic() + _DIGIT_SECONDS)
        return digit

    # ------------------------------------------------------------------------------------------------------- claims

    def claim(self, item_id: str, pilot_id: str, *, run_id: str = "", on_demand: bool = False) -> Claim | None:
        """Take one item, or find that somebody else has.

        One conditional write. The SDK may repeat a write whose answer was lost; the repeat then fails its condition
        although we own the item, so a refusal that shows our own token counts as a win. A refusal that shows a lease
        that is over leads to a reclaim: a second guarded write, with the fence and lease that were shown.

        Args:
            on_demand: take it only if it is for on-demand pilots only; else only if it is for all.

        Returns:
            The claim with its fence, or None if the item is no longer free.

        Raises:
            OutcomeUnknown: no try was answered, nor the strong read after it.
        """
        rows.check_owner("Pilot", pilot_id)
        token = self._token()
        deadline = self._clock.monotonic() + self.rules.lease_seconds
        now = self._now()
        blank = Item(
            item_id=item_id,
            task_id="",
            state=State.LOCKED,
            lease_end=now + self.rules.lease_seconds,
            on_demand=on_demand,
        )
        told = rows.values(
            owner=pilot_id,
            run_id=run_id,
            lease_end=round(now + self.rules.lease_seconds, 3),
            locked_at=rows.date_text(now),
        )
        keys = self._index_keys(blank)
        told |= {f":{name}": value for name, value in keys.items()}
        values = self._values(blank, token) | told
        if on_demand:
            values |= rows.values(now=x.marked(x.due_at(now)))
        condition = x.CLAIM_ON_DEMAND if on_demand else x.CLAIM_ORDINARY
        expressions = Expressions(condition, x.CLAIM_UPDATE, values)
        try:
            answer = self._store.update(rows.key(item_id, x.ITEM_ROW), expressions)
        except NoAnswer as none:
            return self._claim_settled(item_id, pilot_id, token, deadline, none)
        if isinstance(answer, Won):
            return Claim(item=self._read_item(answer.row), pilot_id=pilot_id, deadline=deadline)
        if answer.row is None:
            return None
        standing = self._read_item(answer.row)
        if answer.row.get(x.LOCK_ID, {}).get("S") == token:
            return Claim(item=standing, pilot_id=pilot_id, deadline=deadline)
        if standing.state is not State.LOCKED or standing.on_demand != on_demand:
            return None
        return self._reclaim(standing, pilot_id, run_id)

    def _claim_settled(self, item_id: str, pilot_id: str, token: str, deadline: float, none: NoAnswer) -> Claim | None:
        """Nothing answered: the row says whose it is. If ours comes late, it stays locked until its lease is over."""
        try:
            row = self._store.get(item_id, x.ITEM_ROW)
        except PyAnamoError as error:
            raise OutcomeUnknown(move=Move.CLAIM.value, what=f"item {item_id}", reason=str(none)) from error
        if row is None or row.get(x.LOCK_ID, {}).get("S") != token:
            return None
        found = self._read_item(row)
        if found.state is not State.LOCKED:
            return None
        return Claim(item=found, pilot_id=pilot_id, deadline=deadline)

    def _reclaim(self, standing: Item, pilot_id: str, run_id: str) -> Claim | None:
        token = self._token()
        deadline = self._clock.monotonic() + self.rules.lease_seconds
        dead = standing.fence
        try:
            item = self._move(
                Move.RECLAIM,
                standing,
                lambda row: decisions.reclaim(
                    row, pilot_id=pilot_id, run_id=run_id, token=token, now=self._now(), rules=self.rules
                ),
                lambda before, after: (x.RECLAIM, Move.RECLAIM.value),
                token=token,
                until=self._clock.monotonic(),
                extra={x.LOCK_ID: {"S": token}},
            )
        except (Refusal, ItemMissing):
            return None
        except OutcomeUnknown as unknown:
            return _not_ours(unknown)
        self._mark_lost(item.item_id, dead, "its lease ended", standing.lease_end)
        return Claim(item=item, pilot_id=pilot_id, deadline=deadline)

    def expire(self, item_id: str) -> Item | None:
        """End a locked item whose lease is over and which is cancelled or at its cap; None if there is nothing to do."""
        token = self._token()

        def say(before: Item, after: Item) -> tuple[str, str]:
            return (x.EXPIRE_CANCELLED if before.cancelled else x.EXPIRE_AT_CAP), Move.EXPIRE.value

        try:
            before = self.item(item_id)
            after = self._move(
                Move.EXPIRE,
                before,
                lambda row: decisions.expire(row, token=token, now=self._now(), rules=self.rules),
                say,
                token=token,
                until=self._clock.monotonic(),
            )
        except (Refusal, ItemMissing):
            return None
        except OutcomeUnknown as unknown:
            return _not_ours(unknown)
        self._mark_lost(item_id, after.fence, "its lease ended", before.lease_end)
        return after

    # --------------------------------------------------------------------------------------------- of a held item

    def beat(self, claim: Claim, *, progressed: bool, nests_done: int, nests_failed: int) -> Beaten:
        """Renew the lease, and hear whether a user has cancelled the item.

        Sent by the impatient client and repeated for a twentieth of the lease at most: one thread beats for all items.

        Args:
            progressed: has this claim recorded a nest? Its interruptions then start again.
            nests_done, nests_failed: absolute.

        Raises:
            LeaseLost: the item is no longer ours.
            OutcomeUnknown: nothing answered; beat again, the deadline still stands.
        """
        sent = self._clock.monotonic()
        lease_end = round(self._now() + self.rules.lease_seconds, 3)
        written = x.BEAT_WITH_PROGRESS if progressed else Move.BEAT.value
        after = self._mine(
            Move.BEAT,
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
            lambda before, after: (x.BEAT, written),
            until=min(claim.deadline, sent + self.rules.lease_seconds / 20),
            quick=True,
        )
        return Beaten(
            lease_end=after.lease_end or lease_end,
            deadline=sent + self.rules.lease_seconds,
            cancelled=after.cancelled,
        )

    def finish(self, claim: Claim, *, nests_done: int, note: str = "") -> Item:
        """Done: each nest of the epoch is. Raises LeaseLost, OutcomeUnknown."""
        return self._mine(
            Move.FINISH,
            claim,
            lambda row, token: decisions.finish(
                row, fence=claim.fence, token=token, now=self._now(), nests_done=nests_done, note=note
            ),
            lambda before, after: (x.FINISH, Move.FINISH.value),
        )

    def fail(self, claim: Claim, cause: Cause, message: str, *, nests_done: int = 0, nests_failed: int = 0) -> Item:
        """Failed for good (until a user's retry). Raises LeaseLost, OutcomeUnknown."""
        return self._mine(
            Move.FAIL,
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
            lambda before, after: (x.HELD, Move.FAIL.value),
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
        """Tried in vain: again after a delay. The try counts; without one left the item is failed.

        Args:
            memory_factor: absolute, as a factor of one slot's share.

        Raises:
            LeaseLost, OutcomeUnknown.
        """
        return self._mine(
            Move.WAIT,
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
            _unless_cancelled(Move.WAIT),
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
        """Give an item back unfinished: todo, the try given back. At the cap: failed. Cancelled: cancelled.

        Args:
            progressed: has this claim recorded a nest? The count of interruptions then starts again at 1.
            started: had a nest been started? If not, this is no interruption.
            counts: False when an operator drained.

        Raises:
            LeaseLost, OutcomeUnknown.
        """
        return self._mine(
            Move.HAND_BACK,
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
            _unless_cancelled(Move.HAND_BACK),
        )

    def _mine(
        self,
        move: Move,
        claim: Claim,
        decide: Callable[[Item, str], Item],
        say: Say,
        *,
        until: float | None = None,
        quick: bool = False,
    ) -> Item:
        """A move of the owner, repeated until the claim's deadline while nothing answers."""
        self._in_time(claim)
        token = self._token()
        try:
            return self._move(
                move,
                claim.item,
                lambda row: decide(row, token),
                say,
                token=token,
                until=claim.deadline if until is None else until,
                quick=quick,
            )
        except Refusal as refusal:
            raise LeaseLost(item_id=claim.item_id, fence=claim.fence, reason=refusal.reason) from None


def _unless_cancelled(move: Move) -> Say:
    """What is written depends on the mark, so the condition says which of both was meant."""
    return lambda before, after: ((x.HELD_CANCELLED if before.cancelled else x.HELD_WANTED), move.value)


def _not_ours(unknown: OutcomeUnknown) -> None:
    """A strong read that shows another token settles a claim: it is not ours. Without that read nobody knows."""
    if not isinstance(unknown.__cause__, NoAnswer):
        raise unknown
