"""Check a whole table against what must be true of it, page by page, and repair what is asked for.

The walk is a Scan: only so are rows found that no item names. Its pages are no snapshot, so they raise suspicions only.
Before anything is told, all rows of that item are read again by a strong query between two equal readings of the item's
row; what a working pilot has under way is no finding. A repair is one write that is refused if anything has moved since.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from pyanamo_core.aws import Clients
from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import RowUnreadable, SchemaNewer
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger import rows
from pyanamo_core.ledger.base import LedgerBase
from pyanamo_core.ledger.expressions import Expressions
from pyanamo_core.ledger.fsck import (
    SETTLING,
    Bounds,
    Finding,
    ItemRows,
    Kind,
    PutAttempt,
    Remove,
    Repair,
    SetItem,
    SetPilotKeys,
    Weight,
    weight_of,
)
from pyanamo_core.ledger.fsck_own import Own, check_other, check_own
from pyanamo_core.ledger.rows import Row, key, unpack
from pyanamo_core.ledger.store import NoAnswer, Won
from pyanamo_core.model import SCHEMA, Attempt, Cause, Item, Nest, NestStatus, State
from pyanamo_core.protocols import Clock
from pyanamo_core.workflow import Workflow

SETTLE_SECONDS: Final = 5.0
_LOOKS: Final = 5
_ROUNDS: Final = 10
_WAITING_MOST: Final = 10_000
_FRESH_SECONDS: Final = 2.0
_SILENT_LEASES: Final = 3


@dataclass(frozen=True)
class Checked:
    """A finding, and what became of it."""

    finding: Finding
    repaired: bool = False


@dataclass
class Tally:
    """How far a walk is."""

    rows: int = 0
    items: int = 0
    suspected: int = 0
    """Items that were read again."""
    moving: int = 0
    """Items that moved each time they were read: they are at work, and nothing is told of them."""
    found: Counter[Kind] = field(default_factory=Counter[Kind])
    repaired: Counter[Kind] = field(default_factory=Counter[Kind])

    def open(self, weight: Weight) -> int:
        """Findings of this weight that were not repaired."""
        return sum(number - self.repaired[kind] for kind, number in self.found.items() if weight_of(kind) is weight)


class Fsck(LedgerBase):
    """The check of one table.

    Args:
        clients: where boto3's clients come from.
        table: its name.
        clock: the machine's, or a test's.
        settle_seconds: attempt rows that lag behind a move get so long to appear.
    """

    def __init__(
        self, clients: Clients, table: str, *, clock: Clock | None = None, settle_seconds: float = SETTLE_SECONDS
    ) -> None:
        super().__init__(clients, table, clock=clock or SystemClock())
        self.tally = Tally()
        self.workflows: list[Workflow] = []
        """Every version that could be read, once the walk has begun."""
        self._settle_seconds = settle_seconds
        self._settling: deque[tuple[float, str]] = deque()
        self._bounds = Bounds.of(self.rules, self._now(), live=True)
        self._bounds_at = float("-inf")

    def walk(self, *, repair: bool = False, progress: Callable[[Tally], None] | None = None) -> Iterator[Checked]:
        """Every finding, as it is found. Memory is bounded: a page of the Scan and what one item's checks need.

        Args:
            repair: mend what can be mended.
            progress: is told after each page.

        Raises:
            TableMissing, ForeignTable, SchemaNewer: nothing was touched.
        """
        self._store.check()
        own = self._look_at_own()
        for finding in own.findings:
            yield self._counted(Checked(finding))
        gathered: ItemRows | None = None
        for page in self._store.scan():
            self._refresh()
            self.tally.rows += len(page)
            for item_id, found in groupby(page, key=lambda row: str(row[x.HASH]["S"])):
                if item_id.startswith("!"):
                    for row in found:
                        yield from self._other(row, repair)
                    continue
                if gathered is None or gathered.item_id != item_id:
                    if gathered is not None:
                        yield from self._judge(gathered, repair)
                    gathered = ItemRows(item_id)
                for row in found:
                    gathered.add(row)
            if progress:
                progress(self.tally)
            yield from self._waited(repair)
        if gathered is not None:
            yield from self._judge(gathered, repair)
        while self._settling:
            yield from self._waited(repair, wait=True)

    # ---------------------------------------------------------------------------------------------------- surroundings

    def _look_at_own(self) -> Own:
        versions = list(self._store.rows(x.WORKFLOW_ID, x.VERSION_PREFIX))
        for row in versions:
            found = unpack(row[x.SCHEMA]) if x.SCHEMA in row else SCHEMA
            if found > SCHEMA:
                raise SchemaNewer(table=self.table, found=found, known=SCHEMA)
        own = check_own(versions, self._store.rows(x.RUN_ID, ""), self._now())
        self.workflows = [workflow for _, workflow in sorted(own.workflows.items())]
        bounds = own.bounds(self._now(), pilots_work=False)
        self.rules = bounds.rules
        since = self._now() - _SILENT_LEASES * bounds.longest_lease_seconds
        self._bounds = own.bounds(self._now(), pilots_work=not bounds.live and self._pilots_work(since))
        self._bounds_at = self._clock.monotonic()
        return own

    def _pilots_work(self, since: float) -> bool:
        """Has a pilot that has not said goodbye beaten since then?"""
        for shard in range(self.rules.shards):
            for page in self._store.queue_ids(x.queue(x.PILOT_QUEUE, shard), at_least=x.due_at(since)):
                found = self._store.batch((key(pilot, x.PILOT_ROW) for pilot in page), strong=True)
                if any(x.PILOT["ended"] not in row for row in found):
                    return True
        return False

    def _refresh(self) -> None:
        """Time and runs as they are now: a walk may last for hours."""
        if self._clock.monotonic() - self._bounds_at >= _FRESH_SECONDS:
            self._look_at_own()

    # ---------------------------------------------------------------------------------------------------------- items

    def _judge(self, gathered: ItemRows, repair: bool) -> Iterator[Checked]:
        self.tally.items += gathered.row is not None
        suspicions = gathered.findings(self._bounds)
        if not suspicions:
            return
        self.tally.suspected += 1
        if any(each.kind in SETTLING for each in suspicions):
            self._settling.append((self._clock.monotonic() + self._settle_seconds, gathered.item_id))
        if any(each.kind not in SETTLING for each in suspicions):
            yield from self._item(gathered.item_id, repair, settled=False)

    def _waited(self, repair: bool, *, wait: bool = False) -> Iterator[Checked]:
        """What was set aside and has had its time; with `wait`, or when too many wait, the oldest is waited for."""
        while self._settling:
            at, item_id = self._settling[0]
            left = at - self._clock.monotonic()
            if left > 0:
                if not wait and len(self._settling) < _WAITING_MOST:
                    return
                self._clock.sleep(left)
            self._settling.popleft()
            yield from self._item(item_id, repair, settled=True)

    def _item(self, item_id: str, repair: bool, *, settled: bool) -> Iterator[Checked]:
        """Read an item again, repair what is to be repaired, and tell what was found."""
        told: dict[tuple[Kind, str], Finding] = {}
        left: set[tuple[Kind, str]] = set()
        for _ in range(_ROUNDS):
            self._refresh()
            found = self._look(item_id)
            if found is None:
                self.tally.moving += 1
                break
            wanted = [each for each in found if (each.kind in SETTLING) is settled]
            left = {(each.kind, each.row) for each in wanted}
            for each in wanted:
                told.setdefault((each.kind, each.row), each)
            mendable = [(each.row, each.repair) for each in wanted if each.repair is not None]
            if not repair or not mendable:
                break
            self._mend(item_id, mendable)
        for name, finding in told.items():
            yield self._counted(Checked(finding, name not in left))

    def _look(self, item_id: str) -> list[Finding] | None:
        """What is wrong with an item while its own row stands still; None if it never did."""
        for _ in range(_LOOKS):
            gathered = ItemRows(item_id)
            for row in self._store.rows(item_id, ""):
                gathered.add(row)
            if gathered.row == self._store.get(item_id, x.ITEM_ROW):
                return gathered.findings(self._bounds)
        return None

    def results(self, item_id: str) -> tuple[Item | None, Iterator[Nest]]:
        """An item as it stands (None: there is none) and its recorded nests of every epoch, as they are read.

        Nest rows that cannot be read are left out: the walk tells of them.
        """
        row = self._store.get(item_id, x.ITEM_ROW)
        return (rows.read_item(row) if row else None), self._nests_of(item_id)

    def recorded(self, item_id: str) -> tuple[Item | None, list[Nest]]:
        """As `results`, for who will delete what no row names: the item's row is read first, so that a claim that comes
        between the two reads has a newer fence than the item that is told.

        Raises:
            RowUnreadable: a nest's row cannot be read, so that nobody knows what it names.
        """
        item, found = None, self._store.get(item_id, x.ITEM_ROW)
        try:
            item = rows.read_item(found) if found else None
            return item, [rows.read_nest(row) for row in self._store.rows(item_id, x.NEST_PREFIX)]
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise RowUnreadable(table=self.table, item_id=item_id, reason=repr(error)) from error

    def _nests_of(self, item_id: str) -> Iterator[Nest]:
        for row in self._store.rows(item_id, x.NEST_PREFIX):
            with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError):
                yield rows.read_nest(row)

    def done_nests(self) -> Iterator[Nest]:
        """Every done nest of the items' present epochs, page by page."""
        epoch: tuple[str, int] | None = None
        for page in self._store.scan():
            for row in page:
                item_id, name = row[x.HASH]["S"], row[x.RANGE]["S"]
                if name == x.ITEM_ROW and "epoch" in row:
                    epoch = item_id, int(unpack(row[x.ITEM["epoch"]]))
                if not name.startswith(x.NEST_PREFIX) or epoch is None or epoch[0] != item_id:
                    continue
                with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError):
                    nest = rows.read_nest(row)
                    if nest.epoch == epoch[1] and nest.status is NestStatus.DONE:
                        yield nest

    def _other(self, row: Row, repair: bool) -> Iterator[Checked]:
        """A row of PyAnamo's own; versions and runs have been looked at."""
        item_id, name = row[x.HASH]["S"], row[x.RANGE]["S"]
        if item_id == x.RUN_ID or (item_id == x.WORKFLOW_ID and name.startswith(x.VERSION_PREFIX)):
            return
        if not check_other(row, self._bounds.shards):
            return
        standing = self._store.get(item_id, name)
        for finding in check_other(standing, self._bounds.shards) if standing else []:
            repaired = False
            if repair and finding.repair is not None:
                self._apply(item_id, name, finding.repair)
                now = self._store.get(item_id, name)
                repaired = now is None or not check_other(now, self._bounds.shards)
            yield self._counted(Checked(finding, repaired))

    def _counted(self, checked: Checked) -> Checked:
        self.tally.found[checked.finding.kind] += 1
        self.tally.repaired[checked.finding.kind] += checked.repaired
        return checked

    # -------------------------------------------------------------------------------------------------------- repairs

    def _mend(self, item_id: str, repairs: list[tuple[str, Repair]]) -> None:
        """Carry repairs out: of those of the item's own row one, since the next was decided from the row before it."""
        changed = False
        for row, repair in repairs:
            if isinstance(repair, SetItem):
                if changed:
                    continue
                changed = True
            self._apply(item_id, row, repair)

    def _apply(self, item_id: str, row: str, repair: Repair) -> None:
        """One guarded write. Whether it was refused, or nobody answered, the next look shows."""
        try:
            if isinstance(repair, Remove):
                condition, values = x.as_seen(repair.seen)
                self._store.delete(key(item_id, row), condition, values)
            elif isinstance(repair, PutAttempt):
                self._put_attempt(repair.attempt, x.NEW if repair.new else x.ATTEMPT_OPEN)
            elif isinstance(repair, SetPilotKeys):
                condition, values = x.as_seen({x.PILOT["last_beat"]: repair.last_beat})
                told = {f":{name}": value for name, value in repair.keys.items()}
                update = x.set_and_remove(repair.keys, ())
                self._store.update(key(item_id, row), Expressions(condition, update, values | told))
            else:
                self._set_item(repair)
        except NoAnswer:
            return

    def _set_item(self, repair: SetItem) -> None:
        before = repair.before
        token = self._token() if repair.move else before.last_move
        after = rows.with_message(repair.after.model_copy(update={"last_move": token}))
        update, told = rows.written_fields(after, repair.fields, self._index_keys(after), token)
        seen = rows.values(seen_state=before.state.value, seen_fence=before.fence, seen_move=before.last_move)
        answer = self._store.update(key(before.item_id, x.ITEM_ROW), Expressions(x.AS_SEEN, update, seen | told))
        if isinstance(answer, Won) and before.state is State.LOCKED and after.state is not State.LOCKED:
            self._end_attempt(before)

    def _end_attempt(self, before: Item) -> None:
        ended = Attempt(
            item_id=before.item_id, fence=before.fence, cause=Cause.LOST, ended=self._now(), evidence="its lease ended"
        )
        self._put_attempt(ended, x.ATTEMPT_OPEN)

    def _put_attempt(self, attempt: Attempt, condition: str) -> None:
        told: dict[str, Any] = rows.attempt_fields(attempt)
        values = {f":{name}": value for name, value in told.items()}
        row = key(attempt.item_id, x.attempt_row(attempt.fence))
        self._store.update(row, Expressions(condition, x.set_and_remove(told, ()), values))
