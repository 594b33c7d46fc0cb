"""What must be true of the rows of one item, as pure checks; fsck_walk.py walks a table and repairs.

Rows are fed one by one in the order of their range keys (DEF, ITEM, LOG, NEST, TRY), as a Query gives them; of each only
what the checks need is kept, so that an item with a hundred thousand nests costs a few MB.
Times are seconds since 1970.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from pyanamo_core.errors import BadInput
from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.rows import Row, unpack
from pyanamo_core.model import Attempt, Cause, Item, NestStatus, Rules, State

DEFINITION_SECONDS: Final = 3600.0
"""A definition that no item names is left over once it is so old: an import or edit writes it before the item's row."""


class Kind(StrEnum):
    """What can be wrong. Its weight: WEIGHTS."""

    UNREADABLE = "unreadable"
    BAD_ID = "bad_id"
    QUEUE_KEY = "queue_key"
    LEASE = "lease"
    MARK = "mark"
    UNCLAIMABLE = "unclaimable"
    STUCK = "stuck"
    FENCE = "fence"
    UNDONE = "undone"
    COUNTS = "counts"
    DEFINITION = "definition"
    ORPHAN = "orphan"
    WORKFLOW = "workflow"
    RUN = "run"
    PILOT_KEY = "pilot_key"
    # left over
    OLD_EPOCH = "old_epoch"
    OLD_DEFINITION = "old_definition"
    COUNTS_BEHIND = "counts_behind"
    NO_ATTEMPT = "no_attempt"
    OPEN_ATTEMPT = "open_attempt"
    # notes
    TAKEOVER = "takeover"
    UNKNOWN_ROW = "unknown_row"
    OPEN_SUBMISSION = "open_submission"


class Weight(StrEnum):
    """A fault breaks an invariant. Left over is what a crash or an edit may leave, and nothing depends on. A note is told."""

    FAULT = "fault"
    LEFT_OVER = "left over"
    NOTE = "note"


_LEFT_OVER: Final = frozenset(
    {Kind.OLD_EPOCH, Kind.OLD_DEFINITION, Kind.COUNTS_BEHIND, Kind.NO_ATTEMPT, Kind.OPEN_ATTEMPT}
)
_NOTES: Final = frozenset({Kind.TAKEOVER, Kind.UNKNOWN_ROW, Kind.OPEN_SUBMISSION})
SETTLING: Final = frozenset({Kind.NO_ATTEMPT, Kind.OPEN_ATTEMPT})
"""Attempt rows follow a move within seconds: what they lack is told only if they still lack it a little later."""


def weight_of(kind: Kind) -> Weight:
    return Weight.LEFT_OVER if kind in _LEFT_OVER else Weight.NOTE if kind in _NOTES else Weight.FAULT


# ---------------------------------------------------------------------------------------------------------- repairs


@dataclass(frozen=True)
class SetItem:
    """Write these fields of the item's row, and its index keys, if fence, state and last move are as seen.

    `move`: with a token of its own, as every move has; without one only what is derived is put right.
    """

    before: Item
    after: Item
    fields: tuple[str, ...]
    move: bool = False


@dataclass(frozen=True)
class Remove:
    """Delete a row whose attributes are as seen; None: it had none of that name."""

    seen: Mapping[str, Any | None] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class PutAttempt:
    """Write an attempt row if there is none (`new`), or if it has no cause yet."""

    attempt: Attempt
    new: bool


@dataclass(frozen=True)
class SetPilotKeys:
    """Derive a pilot's index keys again if its last beat is as seen."""

    keys: Row
    last_beat: Any


Repair = SetItem | Remove | PutAttempt | SetPilotKeys


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        item_id: the hash key; `!run` and the like for PyAnamo's own rows.
        row: the range key.
        wrong: what is wrong, for people.
        does: what a repair does, or who else mends it.
        repair: the guarded write; None: fsck does not touch it.
    """

    kind: Kind
    item_id: str
    row: str
    wrong: str
    does: str = ""
    repair: Repair | None = None

    @property
    def weight(self) -> Weight:
        return weight_of(self.kind)


@dataclass(frozen=True)
class Bounds:
    """What the checks measure by.

    Attributes:
        now: of a clock that AWS's Date headers have corrected.
        rules: of the newest workflow version.
        shards: every number of shards that a version had: an item keeps its key until its next move.
        longest_lease_seconds: of all versions.
        live: does a run live, or a pilot work?
    """

    now: float
    rules: Rules
    shards: frozenset[int]
    longest_lease_seconds: float
    live: bool

    @classmethod
    def of(cls, rules: Rules, now: float, *, live: bool) -> Bounds:
        """Those of one set of rules."""
        return cls(now, rules, frozenset({rules.shards}), rules.lease_seconds, live)


# ----------------------------------------------------------------------------------------------------- rows, one by one

_NEST_ROW = re.compile(r"NEST#(\d+)#(\d{5,})")
_LOG_ROW = re.compile(r"LOG#(\d+)#(\d{5,})#(\d+)")
_ATTEMPT_ROW = re.compile(r"TRY#(\d+)")
_DEFINITION_ROW = re.compile(r"DEF#([0-9a-f]{12})#(\d{3,})")
_ALWAYS: Final = ("task_id", "state", "fence", "epoch", "tries", "interruptions", "priority", "nests", "last_move")


@dataclass
class _Definition:
    """Rows of one definition. Its hash is made as they come: values need not be kept."""

    parts: int = 0
    chunks: int = 0
    nests: int = 0
    whole: bool = True
    stamps: dict[str, Any] = field(default_factory=dict[str, Any])
    """Row → when it was written, as it stands there."""
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, chunk: int, row: Row) -> None:
        self.whole = self.whole and chunk == self.chunks and (chunk > 0 or x.TASK_SCRIPT in row)
        self.chunks += 1
        self.stamps[row[x.RANGE]["S"]] = row.get(x.CREATED)
        if not self.whole:
            return
        if chunk == 0:
            self.parts = int(unpack(row[x.PARTS])) if x.PARTS in row else 1
            self.digest.update(f"[{_json(row[x.TASK_SCRIPT]['S'])},[".encode())
        for value in row.get(x.TASK_ARGS, {}).get("L", ()):
            self.digest.update((("," if self.nests else "") + _json(value["S"])).encode())
            self.nests += 1

    @property
    def hash(self) -> str:
        """As Definition.hash makes it; "" if rows are missing."""
        if not self.whole or self.chunks != self.parts:
            return ""
        told = self.digest.copy()
        told.update(b"]]")
        return told.hexdigest()[:12]


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True)
class _Nest:
    row: str
    epoch: int
    index: int
    fence: int
    done: bool
    failed: bool
    seen: Mapping[str, Any | None]


class ItemRows:
    """The rows of one item, as far as the checks need them. Feed them with `add`, then ask for `findings`."""

    def __init__(self, item_id: str) -> None:
        self.item_id = item_id
        self.count = 0
        self.row: Row | None = None
        self._definitions: dict[str, _Definition] = {}
        self._nests: list[_Nest] = []
        self._logs: list[tuple[str, int]] = []
        self._attempts: dict[int, Row] = {}
        self._odd: list[Finding] = []

    def add(self, row: Row) -> None:
        self.count += 1
        name = row[x.RANGE]["S"]
        try:
            known = self._known(name, row)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self._odd.append(Finding(Kind.UNREADABLE, self.item_id, name, f"it cannot be read: {_told(error)}"))
            return
        if not known:
            self._odd.append(
                Finding(Kind.UNKNOWN_ROW, self.item_id, name, "PyAnamo knows no such row", "it is left alone")
            )

    def _known(self, name: str, row: Row) -> bool:
        if name == x.ITEM_ROW:
            self.row = row
        elif found := _DEFINITION_ROW.fullmatch(name):
            self._definitions.setdefault(found[1], _Definition()).add(int(found[2]), row)
        elif found := _NEST_ROW.fullmatch(name):
            status, fence = NestStatus(row[x.NEST["status"]]["S"]), int(row[x.NEST["fence"]]["N"])
            seen = {each: row.get(each) for each in (x.NEST["status"], x.NEST["fence"], x.NEST["token"])}
            done, failed = status is NestStatus.DONE, status is NestStatus.FAILED
            self._nests.append(_Nest(name, int(found[1]), int(found[2]), fence, done, failed, seen))
        elif found := _LOG_ROW.fullmatch(name):
            self._logs.append((name, int(found[1])))
        elif found := _ATTEMPT_ROW.fullmatch(name):
            rows.read_attempt(row)
            self._attempts[int(found[1])] = row
        else:
            return False
        return True

    # ------------------------------------------------------------------------------------------------------- checks

    def findings(self, bounds: Bounds) -> list[Finding]:
        """All that is wrong with this item."""
        found = list(self._odd)
        if self.row is None:
            return found + self._without_item(bounds)
        try:
            item = _read(self.row, bounds)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            return [*found, self._finding(Kind.UNREADABLE, f"it cannot be read: {_told(error)}")]
        try:
            rows.check_ids(self.item_id, item.task_id)
        except BadInput as error:
            found.append(self._finding(Kind.BAD_ID, str(error)))
        found += self._definition(item, bounds)
        found += self._of_state(item, bounds)
        found += self._queue_key(item, bounds)
        found += self._epochs(item)
        if not any(each.kind is Kind.UNREADABLE for each in self._odd):
            # Rows that cannot be read may be just those that are missed.
            found += self._fences(item)
            found += self._results(item)
            found += self._attempt_rows(item, bounds)
        return found

    def _finding(self, kind: Kind, wrong: str, does: str = "", repair: Repair | None = None, row: str = "") -> Finding:
        return Finding(kind, self.item_id, row or x.ITEM_ROW, wrong, does, repair)

    def _removal(self, kind: Kind, row: str, wrong: str, seen: Mapping[str, Any | None]) -> Finding:
        return self._finding(kind, wrong, "the row is removed", Remove(seen), row)

    def _without_item(self, bounds: Bounds) -> list[Finding]:
        wrong = "there is no item of this name"
        found = [self._removal(Kind.ORPHAN, nest.row, wrong, nest.seen) for nest in self._nests]
        found += [self._removal(Kind.ORPHAN, row, wrong, {}) for row, _ in self._logs]
        for fence, row in self._attempts.items():
            found.append(self._removal(Kind.ORPHAN, x.attempt_row(fence), wrong, _attempt_seen(row)))
        return found + self._old_definitions("", bounds)

    def _old_definitions(self, named: str, bounds: Bounds) -> list[Finding]:
        """Definitions that no item names: left by edits, by refused imports, by an import that was interrupted."""
        found: list[Finding] = []
        for definition_hash, definition in self._definitions.items():
            if definition_hash == named:
                continue
            for row, stamp in definition.stamps.items():
                if stamp is None or bounds.now - float(stamp["N"]) > DEFINITION_SECONDS:
                    found.append(self._removal(Kind.OLD_DEFINITION, row, "no item names it", {x.CREATED: stamp}))
        return found

    def _definition(self, item: Item, bounds: Bounds) -> list[Finding]:
        found = self._old_definitions(item.definition_hash, bounds)
        inline = rows.read_definition([self.row]) if self.row is not None and x.TASK_SCRIPT in self.row else None
        if inline is not None:
            known, nests = inline.hash, inline.nests
            mend = "import the item's line with another definition and --update"
        else:
            definition = self._definitions.get(item.definition_hash, _Definition(whole=False))
            known, nests = definition.hash, max(1, definition.nests)
            mend = "import the sheet again: that writes the rows of its definition"
        if known != item.definition_hash:
            what = f"hashes to {known}" if known else "is missing or not whole"
            found.append(self._finding(Kind.DEFINITION, f"its definition {item.definition_hash} {what}", mend))
        elif nests != item.nests:
            wrong = f"it says {item.nests} nests, its definition has {nests}"
            if item.state is State.LOCKED:
                found.append(self._finding(Kind.DEFINITION, wrong, "not while it is locked"))
            else:
                after = item.model_copy(update={"nests": nests})
                change = SetItem(item, after, ("nests",))
                found.append(self._finding(Kind.DEFINITION, wrong, "its definition's number is written", change))
        return found

    def _of_state(self, item: Item, bounds: Bounds) -> list[Finding]:
        if item.state is State.LOCKED:
            return self._locked(item, bounds)
        found: list[Finding] = []
        if item.lease_end is not None:
            change = SetItem(item, item.model_copy(update={"lease_end": None}), ("lease_end",))
            found.append(
                self._finding(Kind.LEASE, f"it is {item.state} and has a lease", "the lease is removed", change)
            )
        open_still = item.state in {State.TODO, State.WAITING}
        if item.cancelled:
            # The mark keeps every claim away. An open item is what the mark says; a finished one has no use for it.
            if open_still:
                after = decisions.cancel(item, token="", now=bounds.now)
                change = SetItem(item, after, x.WRITES["cancel"], move=True)
                does = "it is cancelled, as the mark says"
            else:
                change = SetItem(item, item.model_copy(update={"cancelled": False}), ("cancelled",))
                does = "the mark is removed"
            found.append(self._finding(Kind.MARK, f"it is {item.state} and marked as cancelled", does, change))
        elif open_still and item.tries >= bounds.rules.max_tries:
            message = f"its {bounds.rules.max_tries} tries are used up"
            after = item.model_copy(
                update={"state": State.FAILED, "due": None, "finished_at": bounds.now, "message": message}
                | {"cause": item.cause or Cause.TASK_ERROR}
            )
            change = SetItem(item, after, ("state", "cause", "message", "finished_at"), move=True)
            wrong = f"it is {item.state}, but {message}: nobody may claim it"
            found.append(self._finding(Kind.UNCLAIMABLE, wrong, "it is failed; then: pyanamo items retry", change))
        return found

    def _locked(self, item: Item, bounds: Bounds) -> list[Finding]:
        found: list[Finding] = []
        latest = bounds.now + bounds.longest_lease_seconds + 60.0
        if item.lease_end is None or item.lease_end > latest:
            wrong = (
                "it is locked without a lease" if item.lease_end is None else "its lease ends beyond any lease's length"
            )
            fresh = round(bounds.now + bounds.longest_lease_seconds, 3)
            change = SetItem(item, item.model_copy(update={"lease_end": fresh}), ("lease_end",))
            does = "it gets a lease of the usual length: a pilot that holds it goes on, else any takes it over"
            found.append(self._finding(Kind.LEASE, wrong, does, change))
        elif item.lease_end < decisions.lease_limit(bounds.now, bounds.rules):
            found.append(self._overdue(item, bounds))
        if item.owner is None:
            attempt = self._attempts.get(item.fence)
            told = rows.read_attempt(attempt).pilot_id if attempt is not None else ""
            change = SetItem(item, item.model_copy(update={"owner": told or "unknown"}), ("owner",))
            found.append(self._finding(Kind.LEASE, "it is locked by nobody", "its attempt's pilot is written", change))
        return found

    def _overdue(self, item: Item, bounds: Bounds) -> Finding:
        wrong = f"its lease was over at {decisions.told(item.lease_end)}"
        if bounds.live:
            return self._finding(Kind.TAKEOVER, wrong, "any pilot takes it over")
        if item.cancelled or item.interruptions >= bounds.rules.max_interruptions:
            after = decisions.expire(item, token="", now=bounds.now, rules=bounds.rules)
            change, does = SetItem(item, after, x.WRITES["expire"], move=True), f"it is {after.state}"
        else:
            after = decisions.recover(item, seen=item, token="", now=bounds.now, rules=bounds.rules, ended_at=0.0)
            after = after.model_copy(update={"message": "its lease was over and nobody worked"})
            change, does = (
                SetItem(item, after, x.WRITES["recover"], move=True),
                f"it is {after.state} again; done nests stay",
            )
        return self._finding(Kind.STUCK, f"{wrong}, and no run is live", does, change)

    def _queue_key(self, item: Item, bounds: Bounds) -> list[Finding]:
        row = self.row or {}
        queue, due = row.get(x.QUEUE, {}).get("S"), row.get(x.DUE, {}).get("S")
        shards = bounds.shards | {bounds.rules.shards}
        right = {x.queue(item.state, rows.shard_of(self.item_id, each)) for each in shards}
        if queue not in right:
            wrong = f"its queue is {queue or 'missing'}, not {x.queue(item.state, rows.shard_of(self.item_id, bounds.rules.shards))}"
        elif due is None or not _due_fits(item, due):
            wrong = f"its due is {due or 'missing'}, which is not what {item.state} needs"
        else:
            return []
        change = SetItem(item, item, ())
        return [self._finding(Kind.QUEUE_KEY, wrong, "queue and due are derived again", change)]

    def _fences(self, item: Item) -> list[Finding]:
        """Nothing below an item may have a newer fence than the item: a claim would be kept out by it."""
        newest, row = item.fence, ""
        for nest in self._nests:
            if nest.epoch == item.epoch and nest.fence > newest:
                newest, row = nest.fence, nest.row
        for fence in self._attempts:
            if fence > newest:
                newest, row = fence, x.attempt_row(fence)
        if not row:
            return []
        wrong = f"its fence is {newest}, the item's {item.fence}"
        if item.state is State.LOCKED:
            return [self._finding(Kind.FENCE, wrong, "not while it is locked", row=row)]
        update: dict[str, object] = {"fence": newest}
        if newest not in self._attempts:
            update |= {"owner": None, "locked_at": None}
        change = SetItem(item, item.model_copy(update=update), ("fence", "owner", "locked_at"), move=True)
        return [self._finding(Kind.FENCE, wrong, f"the item's fence is raised to {newest}", change, row)]

    def _results(self, item: Item) -> list[Finding]:
        found: list[Finding] = []
        present = [nest for nest in self._nests if nest.epoch == item.epoch]
        for nest in present:
            if nest.index >= item.nests:
                wrong = f"the item has only {item.nests} nests"
                found.append(self._removal(Kind.ORPHAN, nest.row, wrong, nest.seen))
        done = sum(1 for nest in present if nest.done and nest.index < item.nests)
        failed = sum(1 for nest in present if nest.failed and nest.index < item.nests)
        if item.state is State.DONE and done < item.nests:
            # As a redo of the nests that are not done: they need no row, a new fence keeps late writes in their place.
            after = decisions.redo(item, seen=item, token="", done_left=done, nests=[0])
            change = SetItem(item, after, x.WRITES["redo"], move=True)
            wrong = f"it is done, but {item.nests - done} of its {item.nests} nests are not"
            found.append(self._finding(Kind.UNDONE, wrong, "it is todo again; done nests stay", change))
        elif item.state is not State.LOCKED and (item.nests_done != done or item.nests_failed > failed):
            after = item.model_copy(update={"nests_done": done, "nests_failed": min(item.nests_failed, failed)})
            change = SetItem(item, after, ("nests_done", "nests_failed"))
            wrong = (
                f"it says {item.nests_done} nests done, {item.nests_failed} failed; recorded are {done} and {failed}"
            )
            # Fewer are what a pilot leaves that died between two beats.
            kind = Kind.COUNTS if item.nests_done > done else Kind.COUNTS_BEHIND
            found.append(self._finding(kind, wrong, "what is recorded is written", change))
        return found

    def _epochs(self, item: Item) -> list[Finding]:
        found: list[Finding] = []
        nothing: Mapping[str, Any | None] = {}
        results = [(nest.row, nest.epoch, nest.seen) for nest in self._nests]
        for row, epoch, seen in results + [(row, epoch, nothing) for row, epoch in self._logs]:
            if epoch < item.epoch:
                found.append(self._removal(Kind.OLD_EPOCH, row, f"the item is in epoch {item.epoch}", seen))
            elif epoch > item.epoch:
                found.append(self._removal(Kind.ORPHAN, row, f"the item is only in epoch {item.epoch}", seen))
        return found

    def _attempt_rows(self, item: Item, bounds: Bounds) -> list[Finding]:
        found: list[Finding] = []
        locked = item.state is State.LOCKED
        for fence, row in sorted(self._attempts.items()):
            attempt = rows.read_attempt(row)
            if attempt.cause is not None or fence > item.fence or (fence == item.fence and locked):
                continue
            ended = self._ended(attempt, item, bounds)
            change = PutAttempt(ended, new=False)
            found.append(
                self._finding(
                    Kind.OPEN_ATTEMPT,
                    "it has no end, and its claim is over",
                    f"it gets the cause {ended.cause}",
                    change,
                    x.attempt_row(fence),
                )
            )
        last_moved = max(item.locked_at or 0.0, item.finished_at or 0.0)
        if item.owner is None or item.fence in self._attempts or item.fence == 0:
            return found
        if bounds.now - last_moved <= bounds.longest_lease_seconds:
            return found
        begun = Attempt(
            item_id=self.item_id,
            fence=item.fence,
            epoch=item.epoch,
            pilot_id=item.owner,
            run_id=item.run_id or "",
            started=item.locked_at or 0.0,
        )
        change = PutAttempt(begun if locked else self._ended(begun, item, bounds), new=True)
        wrong = "the item's present claim has no attempt row"
        found.append(
            self._finding(
                Kind.NO_ATTEMPT, wrong, "it is written from the item's row", change, x.attempt_row(item.fence)
            )
        )
        return found

    def _ended(self, attempt: Attempt, item: Item, bounds: Bounds) -> Attempt:
        """The attempt with the end that the rows tell: the item's own for its last claim, `lost` for an older one."""
        if attempt.fence == item.fence and item.cause is not None:
            cause, evidence, ended = item.cause, item.message, item.finished_at
        else:
            cause, evidence, ended = Cause.LOST, "its end was not recorded", None
            begins = [int(fence) for fence in self._attempts if fence > attempt.fence]
            if begins:
                ended = rows.read_attempt(self._attempts[min(begins)]).started or None
        return attempt.model_copy(
            update={
                "cause": cause,
                "evidence": rows.clipped(evidence, rows.EVIDENCE_BYTES),
                "ended": ended or bounds.now,
            }
        )


def check_item(item_id: str, found: Iterable[Row], bounds: Bounds) -> list[Finding]:
    """All that is wrong with the rows of one item, given in the order of their range keys."""
    gathered = ItemRows(item_id)
    for row in found:
        gathered.add(row)
    return gathered.findings(bounds)


def _attempt_seen(row: Row) -> dict[str, Any | None]:
    return {name: row.get(name) for name in (x.ATTEMPT["started"], x.ATTEMPT["ended"], x.ATTEMPT["cause"])}


def _due_fits(item: Item, due: str) -> bool:
    if item.on_demand and item.state in (State.TODO, State.WAITING, State.LOCKED):
        if not due.startswith(x.MARK_ON_DEMAND):
            return False
        due = due.removeprefix(x.MARK_ON_DEMAND)
    if item.state is State.TODO:
        return re.fullmatch(rf"{item.priority}[0-9a-f]{{12}}", due) is not None
    if item.state is State.WAITING:
        return re.fullmatch(r"\d{15}", due) is not None
    if item.state is State.LOCKED:
        return item.lease_end is None or due == x.due_at(item.lease_end)
    return due == x.due_at(item.finished_at or 0.0)


def _read(row: Row, bounds: Bounds) -> Item:
    """The item of a row, every field of the right type. A waiting item whose due is none may start now."""
    missing = [x.ITEM[name] for name in _ALWAYS if x.ITEM[name] not in row]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    if not re.fullmatch(r"\d{15}", row.get(x.DUE, {}).get("S", "")):
        row = {**row, x.DUE: {"S": x.due_at(bounds.now)}}
    return Item.model_validate(rows.read_item(row).model_dump())


def _told(error: Exception) -> str:
    text = f"no attribute {error}" if isinstance(error, KeyError) else str(error)
    return rows.clipped(" ".join(text.split()), 160)
