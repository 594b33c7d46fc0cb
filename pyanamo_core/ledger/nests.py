"""Nest results, log tails and attempt rows: what a claim leaves behind, keyed by epoch and fence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from pyanamo_core.errors import LeaseLost, OutcomeUnknown, PyAnamoError
from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.base import LedgerBase, log
from pyanamo_core.ledger.expressions import Expressions
from pyanamo_core.ledger.store import Lost, NoAnswer, TooBig, Won
from pyanamo_core.model import Attempt, Cause, Claim, Item, Nest, NestStatus, Recorded

_ITEMS_AT_ONCE: Final = 50


class NestRows(LedgerBase):
    """Writes and reads the rows beside an item's."""

    def _in_time(self, claim: Claim) -> None:
        """Past our own deadline nothing is written any more: somebody else may own the item by now."""
        if self._clock.monotonic() >= claim.deadline:
            raise LeaseLost(item_id=claim.item_id, fence=claim.fence, reason=decisions.PAST_DEADLINE)

    def record_nest(self, claim: Claim, nest: Nest) -> Recorded:
        """Put a nest's result, once per epoch: the first verified one wins, also against our own slower twin.

        A long tail goes into a row of its own first, so that the result never points to nothing. Repeated until the
        claim's deadline while nothing answers. What DynamoDB refuses for its size is written in minimal form.

        Returns:
            won, or kept: a verified result, or a newer claim's row, stands and stays.

        Raises:
            LeaseLost: our own deadline has passed.
            OutcomeUnknown: nothing answered until the deadline, nor the strong read after it.
        """
        self._in_time(claim)
        token = nest.token or self._token()
        recorded, tail = rows.recordable(
            nest.model_copy(
                update={
                    "item_id": claim.item_id,
                    "epoch": claim.epoch,
                    "fence": claim.fence,
                    "pilot_id": nest.pilot_id or claim.pilot_id,
                    "run_id": nest.run_id or claim.item.run_id or "",
                    "token": token,
                }
            )
        )
        if tail:
            self._put_tail(recorded, tail)
        values = rows.values(done=NestStatus.DONE.value, fence=claim.fence)
        try:
            answer = self._put(rows.nest_row(recorded), x.NEST_PUT, values, until=claim.deadline, token=token)
        except TooBig:
            small = rows.nest_row(rows.minimal(recorded))
            answer = self._put(small, x.NEST_PUT, values, until=claim.deadline, token=token)
        if isinstance(answer, Won):
            return Recorded.WON
        return self._kept(answer, recorded)

    def _kept(self, answer: Lost, nest: Nest) -> Recorded:
        """A refusal after silence may show a row that ours would have replaced: then nobody knows."""
        standing = rows.read_nest(answer.row) if answer.row else None
        if decisions.record(standing, nest) is Recorded.KEPT:
            return Recorded.KEPT
        raise OutcomeUnknown(
            move="record", what=f"nest {nest.index} of item {nest.item_id}", reason="nothing answered in time"
        )

    def _put_tail(self, nest: Nest, tail: str) -> None:
        try:
            self._store.put(rows.log_row(nest, tail))
        except (NoAnswer, PyAnamoError) as error:
            # The end of a log is a help, not a result: it must not keep the result out of the ledger.
            log.warning("The log tail of nest %d of item %s was not written: %s", nest.index, nest.item_id, error)

    def nests(self, item: Item) -> dict[int, Nest]:
        """Recorded nests of the item's present epoch by number, by a strong read; failed and reset ones included."""
        found = [rows.read_nest(row) for row in self._store.rows(item.item_id, x.nest_prefix(item.epoch))]
        return {nest.index: nest for nest in sorted(found, key=lambda nest: nest.index)}

    def tail(self, item: Item, nest: Nest) -> str:
        """The recorded end of a nest's log (from its row, or the LOG row of its fence)."""
        if nest.tail:
            return nest.tail
        row = self._store.get(item.item_id, x.log_row(nest.epoch, nest.index, nest.fence))
        return row[x.TAIL]["S"] if row else ""

    # ---------------------------------------------------------------------------------------------------- attempts

    def attempts(self, item_id: str) -> list[Attempt]:
        """The claims of an item in the order of their fences, as far as their rows were written."""
        found = [rows.read_attempt(row) for row in self._store.rows(item_id, x.ATTEMPT_PREFIX)]
        return sorted(found, key=lambda attempt: attempt.fence)

    def histories(self, items: Iterable[Item]) -> Iterator[tuple[Item, list[Attempt], Nest | None]]:
        """Each item with its attempts, in their order, and its nest 0 if that is recorded.

        Rows are asked for by their keys, some 50 items a call: an item's fence says how many attempts it may have.
        Reads are not strong: what was written in the last second may be missing.
        """
        left = iter(items)
        while some := list(islice(left, _ITEMS_AT_ONCE)):
            attempts: dict[str, list[Attempt]] = {item.item_id: [] for item in some}
            first: dict[str, Nest] = {}
            for row in self._store.batch(key for item in some for key in _history_keys(item)):
                if row[x.RANGE]["S"].startswith(x.ATTEMPT_PREFIX):
                    found = rows.read_attempt(row)
                    attempts[found.item_id].append(found)
                else:
                    nest = rows.read_nest(row)
                    first[nest.item_id] = nest
            for item in some:
                told = sorted(attempts[item.item_id], key=lambda attempt: attempt.fence)
                yield item, told, first.get(item.item_id)

    def put_attempt(self, attempt: Attempt) -> None:
        """Write an attempt row, best effort, keyed by its fence; fields that are unset leave what stands."""
        self._put_attempt(attempt, "")

    def _mark_lost(self, item_id: str, fence: int, evidence: str, over: float | None) -> None:
        """Close an attempt that told no end; `over`: it was over by then, long before anybody saw that, maybe."""
        ended = self._now() if over is None else min(self._now(), over)
        self._put_attempt(
            Attempt(item_id=item_id, fence=fence, cause=Cause.LOST, ended=ended, evidence=evidence), x.ATTEMPT_OPEN
        )

    def _put_attempt(self, attempt: Attempt, condition: str) -> None:
        told = rows.attempt_fields(attempt)
        if not told:
            return
        update = x.set_and_remove(told, ())
        values = {f":{name}": value for name, value in told.items()}
        try:
            self._store.update(
                rows.key(attempt.item_id, x.attempt_row(attempt.fence)), Expressions(condition, update, values)
            )
        except (NoAnswer, PyAnamoError) as error:
            log.warning("The attempt row %d of item %s was not written: %s", attempt.fence, attempt.item_id, error)


def _history_keys(item: Item) -> Iterator[rows.Row]:
    if item.fence:
        yield rows.key(item.item_id, x.nest_row(item.epoch, 0))
    for fence in range(1, item.fence + 1):
        yield rows.key(item.item_id, x.attempt_row(fence))
