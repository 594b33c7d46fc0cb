"""What all moves of DynamoDB's ledger share: one guarded write, repeated until it has an answer.

Of a write there are three answers. Won. Lost: the row that stood in the way comes back with the refusal, and unless it
shows our own token (then an earlier try of ours went through: won) the decision is made again with that row, which
either says why the move is refused or what to write now. No answer: the same write, with the same token, is repeated
until a deadline; then a strong read settles it, or OutcomeUnknown says that nobody knows.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from pyanamo_core.aws import Clients
from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import ItemMissing, MoveRefused, OutcomeUnknown, PyAnamoError
from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.decisions import Refusal
from pyanamo_core.ledger.expressions import Expressions
from pyanamo_core.ledger.rows import Row
from pyanamo_core.ledger.store import Lost, NoAnswer, Store, Won
from pyanamo_core.model import Definition, Item, Move, Rules, State
from pyanamo_core.protocols import Clock

log = logging.getLogger("pyanamo_core.ledger")

USER_SECONDS: Final = 30.0
"""So long a user's move is repeated while nothing answers."""
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 10.0
_ROUNDS: Final = 10
_DEFINITIONS_KEPT: Final = 256

Say = Callable[[Item, Item], tuple[str, str]]
"""From the row before and after a move: the condition, and the name of what is written (expressions.WRITES)."""


class LedgerBase:
    """Store, clock, generator and rules of one ledger, and the guarded move.

    Args:
        clients: where boto3's clients come from.
        table: name of the table.
        rules: budgets, lease and shards; open_ledger takes them from the pinned workflow version.
        clock: the machine's, corrected by its offset; tests hand in their own.
        rng: source of tokens and random places; tests hand in a seeded one.
    """

    def __init__(
        self,
        clients: Clients,
        table: str,
        *,
        rules: Rules | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.rules = rules or Rules()
        self._clock: Clock = clock or SystemClock()
        # The system's generator: a thousand containers that start in one second must not share their tokens.
        self._rng = rng or random.SystemRandom()
        self._store = Store(clients, table, self._rng)
        self._definitions: OrderedDict[tuple[str, str], Definition] = OrderedDict()
        self._digits: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()

    @property
    def table(self) -> str:
        return self._store.table

    # ------------------------------------------------------------------------------------------------------ small

    def _now(self) -> float:
        return round(self._clock.now(), 3)

    def _token(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    def _index_keys(self, item: Item) -> Row:
        return rows.index_keys(item, self.rules.shards, f"{self._rng.getrandbits(48):012x}")

    def _read_item(self, row: Row) -> Item:
        """The item of a row; a definition that stands inline is remembered."""
        item = rows.read_item(row)
        if x.TASK_SCRIPT in row:
            found = rows.read_definition([row])
            if found is not None:
                self._remember(item.item_id, item.definition_hash, found)
        return item

    def _remember(self, item_id: str, definition_hash: str, definition: Definition) -> None:
        with self._lock:
            self._definitions[item_id, definition_hash] = definition
            while len(self._definitions) > _DEFINITIONS_KEPT:
                self._definitions.popitem(last=False)

    def _remembered(self, item: Item) -> Definition | None:
        with self._lock:
            return self._definitions.get((item.item_id, item.definition_hash))

    def item(self, item_id: str) -> Item:
        """The item's row, by a strong read.

        Raises:
            ItemMissing: there is none.
        """
        row = None if item_id.startswith("!") else self._store.get(item_id, x.ITEM_ROW)
        if row is None:
            raise ItemMissing(table=self.table, item_id=item_id)
        return self._read_item(row)

    # ------------------------------------------------------------------------------------------------------- moves

    def _values(self, before: Item, token: str) -> dict[str, Any]:
        """All values that a condition may name; what it compares is what we have seen."""
        now = self._now()
        return rows.values(
            token=token,
            one=1,
            now=x.due_at(now),
            seen_fence=before.fence,
            seen_move=before.last_move,
            seen_owner=before.owner or "",
            seen_lease_end=before.lease_end or 0.0,
            lease_limit=decisions.lease_limit(now, self.rules),
            max_tries=self.rules.max_tries,
            max_interruptions=self.rules.max_interruptions,
            **{state.value: state.value for state in State},
        )

    def _move(
        self,
        move: Move,
        before: Item,
        decide: Callable[[Item], Item],
        say: Say,
        *,
        token: str,
        until: float,
        quick: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> Item:
        """One guarded write (module docstring).

        Args:
            before: the row as we have seen it last.
            decide: the row after the move; pure; raises Refusal. A row given back as it is needs no write.
            say: condition and written fields.
            token: fresh for this move; `decide` has put it into the row.
            until: monotonic time up to which unanswered tries are repeated.
            quick: use the beats' client.
            extra: further attributes to set.

        Raises:
            Refusal: the row does not allow it.
            OutcomeUnknown: no try was answered, and the strong read did not settle it.
        """
        pause, lost, fresh = _FIRST_PAUSE, 0, False
        while True:
            try:
                after = decide(before)
            except Refusal:
                if fresh:
                    raise
                after = before
            if after is before:
                if fresh:
                    return after
                # What we saw may be old: a refusal, and that nothing needs to be written, are told from the row itself.
                before, fresh = self.item(before.item_id), True
                continue
            after = rows.with_message(after)
            expressions = self._expressions(before, after, say, token, extra or {})
            try:
                answer = self._store.update(rows.key(before.item_id, x.ITEM_ROW), expressions, quick=quick)
            except NoAnswer as none:
                if self._clock.monotonic() + pause >= until:
                    if quick:  # the patient read would hang longer than the whole beat may
                        raise OutcomeUnknown(move=move.value, what=f"item {before.item_id}", reason=str(none)) from none
                    return self._settled(move, before.item_id, token, none)
                self._clock.sleep(pause * self._rng.uniform(0.5, 1.0))
                pause = min(_LONGEST_PAUSE, 2 * pause)
                continue
            if isinstance(answer, Won):
                return self._read_item(answer.row)
            if answer.row is None:
                raise ItemMissing(table=self.table, item_id=before.item_id)
            before, fresh = self._read_item(answer.row), True
            if before.last_move == token:
                return before
            lost += 1
            if lost >= _ROUNDS:
                raise Refusal(f"others moved it {lost} times meanwhile")

    def _expressions(self, before: Item, after: Item, say: Say, token: str, extra: Mapping[str, Any]) -> Expressions:
        condition, written = say(before, after)
        keys = self._index_keys(after) if written != x.MARK else {}
        update, told = rows.written(after, written, keys | dict(extra), token)
        return Expressions(condition, update, self._values(before, token) | told)

    def _settled(self, move: Move, item_id: str, token: str, none: NoAnswer) -> Item:
        """After the last unanswered try: our token in the row is a win; everything else stays unknown."""
        unknown = OutcomeUnknown(move=move.value, what=f"item {item_id}", reason=str(none))
        try:
            found = self.item(item_id)
        except PyAnamoError as error:
            raise unknown from error
        if found.last_move == token:
            return found
        raise unknown from none

    def _user_move(
        self,
        move: Move,
        item: Item,
        decide: Callable[[Item, str], Item],
        say: Say,
        extra: Mapping[str, Any] | None = None,
    ) -> Item:
        """A user's move.

        Raises:
            MoveRefused: with the condition that failed.
            OutcomeUnknown: nothing answered for USER_SECONDS.
        """
        token = self._token()
        try:
            return self._move(
                move,
                item,
                lambda row: decide(row, token),
                say,
                token=token,
                until=self._clock.monotonic() + USER_SECONDS,
                extra=extra,
            )
        except Refusal as refusal:
            raise MoveRefused(move=move.value, item_id=item.item_id, reason=refusal.reason) from None

    def _put_once(self, row: Row, token: str) -> Won | Lost:
        """A put that is repeated while nothing answers, with the condition that no such row exists.

        Raises:
            OutcomeUnknown: nothing answered for USER_SECONDS, and the row is not there.
        """
        return self._put(row, x.NEW, {}, until=self._clock.monotonic() + USER_SECONDS, token=token)

    def _put(self, row: Row, condition: str, values: Mapping[str, Any], *, until: float, token: str = "") -> Won | Lost:
        """A put that is repeated until a monotonic time; a refusal that shows our own token is a win."""
        pause = _FIRST_PAUSE
        while True:
            try:
                answer = self._store.put(row, condition, values)
            except NoAnswer as none:
                if self._clock.monotonic() + pause >= until:
                    return self._put_settled(row, token, none)
                self._clock.sleep(pause * self._rng.uniform(0.5, 1.0))
                pause = min(_LONGEST_PAUSE, 2 * pause)
                continue
            if isinstance(answer, Lost) and token and _shows(answer.row, token):
                return Won(answer.row or {})
            return answer

    def _put_settled(self, row: Row, token: str, none: NoAnswer) -> Won | Lost:
        item_id, range_key = row[x.HASH]["S"], row[x.RANGE]["S"]
        unknown = OutcomeUnknown(move="put", what=f"row {range_key} of {item_id}", reason=str(none))
        try:
            found = self._store.get(item_id, range_key)
        except PyAnamoError as error:
            raise unknown from error
        if found is None:
            raise unknown from none
        return Won(found) if token and _shows(found, token) else Lost(found)


def _shows(row: Row | None, token: str) -> bool:
    return row is not None and any(row.get(name, {}).get("S") == token for name in (x.LAST_MOVE, x.NEST["token"]))
