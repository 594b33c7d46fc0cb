"""Items: import, definitions, and the moves of users (retry, reset, edit, extend, redo, cancel, recover)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pyanamo_core.errors import ItemMissing, MoveRefused, NestMissing, OutcomeUnknown, PyAnamoError
from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.base import USER_SECONDS
from pyanamo_core.ledger.decisions import Refusal
from pyanamo_core.ledger.nests import NestRows
from pyanamo_core.ledger.store import Lost, NoAnswer, Won
from pyanamo_core.model import Definition, Imported, Item, Move, NestStatus, State


class UserMoves(NestRows):
    """What users do with items."""

    # ------------------------------------------------------------------------------------- import and definitions

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
        """DEF rows first, the item row last and only if it does not exist: an interrupted import can be repeated.

        Args:
            priority: 0 (first) to 9 (last).
            update: another definition is an edit, where the item's state allows one.

        Returns:
            created; exists (the same definition stands); edited; conflict (another one stands, and stays).

        Raises:
            BadInput, DefinitionTooBig: nothing was written.
            OutcomeUnknown: nothing answered; import again.
        """
        rows.check_ids(item_id, task_id)
        rows.check_definition(definition)
        self._store.check()
        token = self._token()
        item = Item(
            item_id=item_id,
            task_id=task_id,
            state=State.TODO,
            priority=priority,
            nests=definition.nests,
            definition_hash=definition.hash,
            revision=revision,
            created=self._now(),
            last_move=token,
        )
        inline = definition if rows.fits_inline(item, definition) else None
        if inline is None:
            self._put_definition(item_id, definition)
        row = rows.item_row(item, self.rules.shards, f"{self._rng.getrandbits(48):012x}", inline)
        answer = self._put_once(row, token)
        if isinstance(answer, Won):
            return Imported.CREATED
        if answer.row is None:
            raise OutcomeUnknown(move="import", what=f"item {item_id}", reason="the refusal shows no row")
        standing = self._read_item(answer.row)
        if standing.definition_hash == definition.hash:
            return Imported.EXISTS
        if not update:
            return Imported.CONFLICT
        try:
            self._edit(standing, definition, revision)
        except MoveRefused:
            return Imported.CONFLICT
        return Imported.EDITED

    def _put_definition(self, item_id: str, definition: Definition) -> None:
        """Write the DEF rows. Their key holds their content's hash, so that a repetition changes nothing but their date."""
        until = self._clock.monotonic() + USER_SECONDS
        for row in rows.definition_rows(item_id, definition, self._now()):
            self._put(row, "", {}, until=until)

    def definition(self, item: Item) -> Definition:
        """What an item does, from its row or its DEF rows.

        Raises:
            ItemMissing: neither holds it (the item was edited since you looked, or is gone).
        """
        found = self._remembered(item)
        if found is not None:
            return found
        found = rows.read_definition(list(self._store.rows(item.item_id, x.definition_prefix(item.definition_hash))))
        if found is None:
            standing = self.item(item.item_id)
            found = self._remembered(standing) if standing.definition_hash == item.definition_hash else None
        if found is None:
            raise ItemMissing(
                "The definition {definition_hash} of item {item_id} is no longer in table {table}. Look again with:"
                " pyanamo items show {item_id}",
                table=self.table,
                item_id=item.item_id,
                definition_hash=item.definition_hash,
            )
        self._remember(item.item_id, item.definition_hash, found)
        return found

    # ----------------------------------------------------------------------------------------------- moves of users

    def retry(
        self,
        item: Item,
        *,
        memory_factor: float | None = None,
        nest_seconds: float | None = None,
        on_demand: bool | None = None,
    ) -> Item:
        """A failed or cancelled item again, with fresh budgets and the nests it has.

        Args:
            memory_factor: absolute; None keeps what stands.
            nest_seconds: a deadline of its own for each nest; None keeps what stands.
            on_demand: from now on only for pilots on machines that nobody takes away, or (False) for all; None keeps what stands.

        Raises:
            MoveRefused, OutcomeUnknown.
        """
        return self._user_move(
            Move.RETRY,
            item,
            lambda row, token: decisions.retry(
                row,
                seen=item,
                token=token,
                memory_factor=memory_factor,
                nest_seconds=nest_seconds,
                on_demand=on_demand,
            ),
            _always(x.RETRY, Move.RETRY),
        )

    def reset(self, item: Item) -> Item:
        """An item from nothing: results of its older epochs no longer count. Raises MoveRefused, OutcomeUnknown."""
        return self._user_move(
            Move.RESET,
            item,
            lambda row, token: decisions.reset(row, seen=item, token=token),
            _always(x.NOT_LOCKED, Move.RESET),
        )

    def edit(self, item: Item, definition: Definition) -> Item:
        """A reset with another definition. Raises MoveRefused, OutcomeUnknown, DefinitionTooBig."""
        rows.check_definition(definition)
        return self._edit(item, definition, "")

    def _edit(self, item: Item, definition: Definition, revision: str) -> Item:
        self._put_definition(item.item_id, definition)
        self._remember(item.item_id, definition.hash, definition)
        return self._user_move(
            Move.EDIT,
            item,
            lambda row, token: decisions.edit(row, seen=item, token=token, definition=definition, revision=revision),
            _always(x.NOT_LOCKED, Move.EDIT),
        )

    def extend(self, item: Item, values: Sequence[str]) -> Item:
        """More nests for an item, under new numbers; the old ones stay. Raises MoveRefused, OutcomeUnknown."""
        try:
            longer = decisions.extended(self.definition(item), values)
        except Refusal as refusal:
            raise MoveRefused(move=Move.EXTEND.value, item_id=item.item_id, reason=refusal.reason) from None
        rows.check_definition(longer)
        self._put_definition(item.item_id, longer)
        self._remember(item.item_id, longer.hash, longer)
        return self._user_move(
            Move.EXTEND,
            item,
            lambda row, token: decisions.extend(row, seen=item, token=token, definition=longer),
            _always(x.NOT_LOCKED, Move.EXTEND),
        )

    def redo(self, item: Item, nests: Iterable[int]) -> Item:
        """Some nests again (at most 99): the only transaction, for the item's row and each nest's belong together.

        Raises:
            NestMissing: the item has no nest of that number.
            MoveRefused, OutcomeUnknown.
        """
        wanted = sorted(set(nests))
        for index in wanted:
            if not 0 <= index < item.nests:
                raise NestMissing(item_id=item.item_id, nest=index)
        left = sum(
            1 for index, nest in self.nests(item).items() if nest.status is NestStatus.DONE and index not in wanted
        )
        token = self._token()
        until = self._clock.monotonic() + USER_SECONDS
        try:
            return self._redo(item, wanted, left, token, until)
        except Refusal as refusal:
            raise MoveRefused(move=Move.REDO.value, item_id=item.item_id, reason=refusal.reason) from None

    def _redo(self, item: Item, wanted: list[int], left: int, token: str, until: float) -> Item:
        before, fresh = item, False
        while True:
            try:
                after = decisions.redo(before, seen=item, token=token, done_left=left, nests=wanted)
            except Refusal:
                if fresh:
                    raise
                before, fresh = self.item(item.item_id), True
                continue
            guarded = self._expressions(before, after, _always(x.NOT_LOCKED, Move.REDO), token, {}).parameters()
            actions = [
                {
                    "Update": {
                        "Key": rows.key(item.item_id, x.ITEM_ROW),
                        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                        **guarded,
                    }
                },
                *({"Put": {"Item": rows.nest_row(decisions.reset_nest(after, index, token))}} for index in wanted),
            ]
            try:
                answer = self._store.transact(actions)
            except NoAnswer as none:
                if self._clock.monotonic() + 1.0 >= until:
                    return self._settled(Move.REDO, item.item_id, token, none)
                self._clock.sleep(self._rng.uniform(0.2, 1.0))
                continue
            if isinstance(answer, Won):
                return self._after_redo(after)
            before, fresh = self._shown(answer, item.item_id), True
            if before.last_move == token:
                return before

    def _after_redo(self, after: Item) -> Item:
        """The row as it stands: a transaction does not show it, and what we decided from may have been older."""
        try:
            standing = self.item(after.item_id)
        except PyAnamoError:
            return after
        return standing if standing.last_move == after.last_move else after

    def _shown(self, answer: Lost, item_id: str) -> Item:
        """The row that a transaction's refusal shows; read where it shows none."""
        return self.item(item_id) if not answer.row else self._read_item(answer.row)

    def cancel(self, item: Item) -> Item:
        """Todo or waiting: cancelled at once. Locked: marked, and its owner acts at its next beat.

        Raises:
            MoveRefused: it is finished.
        """

        def say(before: Item, after: Item) -> tuple[str, str]:
            if before.state is State.LOCKED:
                return x.CANCEL_LOCKED, x.MARK
            return x.CANCEL_OPEN, Move.CANCEL.value

        return self._user_move(
            Move.CANCEL, item, lambda row, token: decisions.cancel(row, token=token, now=self._now()), say
        )

    def recover(self, item: Item, *, ended_at: float, memory_factor: float | None = None, message: str = "") -> Item:
        """Take back the item of a pilot whose Batch attempt ended, without waiting for its lease.

        Args:
            item: as seen; its fence and owner must still stand.
            ended_at: when the attempt ended (seconds since 1970); refused within `rules.recover_seconds`.
            memory_factor: what the item shall have now, if the container ran out of memory; the try then counts.
            message: what is then said of it.

        Raises:
            MoveRefused, OutcomeUnknown.
        """

        def say(before: Item, after: Item) -> tuple[str, str]:
            return (x.RECOVER_CANCELLED if before.cancelled else x.RECOVER_WANTED), Move.RECOVER.value

        after = self._user_move(
            Move.RECOVER,
            item,
            lambda row, token: decisions.recover(
                row,
                seen=item,
                token=token,
                now=self._now(),
                rules=self.rules,
                ended_at=ended_at,
                memory_factor=memory_factor,
                message=message,
            ),
            say,
        )
        self._mark_lost(item.item_id, item.fence, "its Batch attempt is over", ended_at)
        return after


def _always(condition: str, move: Move) -> Callable[[Item, Item], tuple[str, str]]:
    return lambda before, after: (condition, move.value)
