"""Histories: every move of every pilot with real times, in a file that kill -9 cannot spoil, and how it is read again.

A call is two lines: one before it is sent, one when it has come back. A process that is killed leaves at most its open
lines behind (an operation without an end: nobody knows). Times are time.monotonic(), which all processes of a machine
share.

    history = History(folder / "pilot-1.jsonl", "pilot-1")
    ledger = LoggedLedger(ledger, history)          # protocols.Ledger; give it to a pilot
    operations = read_histories(folder.glob("*.jsonl"))
"""

from __future__ import annotations

import itertools
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyanamo_core.errors import LeaseLost, MoveRefused, OutcomeUnknown
from pyanamo_core.model import (
    Beaten,
    Cause,
    Claim,
    Definition,
    Imported,
    Item,
    Nest,
    Recorded,
)
from pyanamo_core.protocols import Ledger

WON, LOST, KEPT, UNKNOWN, OPEN = "won", "lost", "kept", "unknown", "open"


class History:
    """The history of one actor.

    Args:
        path: appended to, one write per line: what is written survives the process.
        actor: the pilot's id, `user`, `network`, `harness`.
        now: time in seconds; tests hand in their clock's.
    """

    def __init__(self, path: Path, actor: str, now: Callable[[], float] = time.monotonic) -> None:
        self.actor = actor
        self._now = now
        self._numbers = itertools.count(1)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def begin(self, kind: str, item: str, **told: Any) -> int:
        """An operation is about to be sent; gives its number."""
        number = next(self._numbers)
        self._write({"n": number, "t": self._now(), "a": self.actor, "do": kind, "item": item} | told)
        return number

    def end(self, number: int, outcome: str, **told: Any) -> None:
        """It has come back."""
        self._write({"n": number, "t": self._now(), "ok": outcome} | told)

    def note(self, kind: str, item: str = "", **told: Any) -> None:
        """Something that happened at once."""
        self.end(self.begin(kind, item, **told), WON)

    def close(self) -> None:
        os.close(self._file)

    def _write(self, told: dict[str, Any]) -> None:
        os.write(self._file, (json.dumps(told, separators=(",", ":")) + "\n").encode())


@dataclass(slots=True)
class Op:
    """One operation. `ended` is infinite and the outcome `open` if its process did not live to see the end.

    `told` holds what both lines say beside. `place` is file and lines.
    """

    actor: str
    kind: str
    item: str
    began: float
    told: dict[str, Any]
    place: str
    ended: float = math.inf
    outcome: str = OPEN

    @property
    def fence(self) -> int:
        return self.told.get("fence", 0)

    @property
    def epoch(self) -> int:
        return self.told.get("epoch", 0)

    @property
    def happened(self) -> bool:
        """Certainly."""
        return self.outcome == WON

    @property
    def possible(self) -> bool:
        """It has happened, or nobody knows."""
        return self.outcome in (WON, UNKNOWN, OPEN)

    def __str__(self) -> str:
        until = "…" if math.isinf(self.ended) else f"{self.ended:.3f}"
        told = " ".join(f"{name}={value}" for name, value in self.told.items())
        return (
            f"{self.began:.3f}–{until} {self.actor[:12]} {self.kind} {self.item} {self.outcome} {told} ({self.place})"
        )


@dataclass(slots=True)
class Histories:
    """All that was read, and when each actor was last known to be alive."""

    ops: list[Op] = field(default_factory=list)
    last_sign: dict[str, float] = field(default_factory=dict)


def read_histories(paths: Iterable[Path]) -> Histories:
    """Operations of all files. A last line that is cut off is left aside; any other that is broken is an error."""
    found = Histories()
    for path in sorted(paths):
        open_ops: dict[int, Op] = {}
        for place, told in _lines(path):
            number, when = told.pop("n"), told.pop("t")
            if "do" in told:
                op = Op(told.pop("a"), told.pop("do"), told.pop("item"), when, told, f"{path.name}:{place}")
                open_ops[number] = op
                found.ops.append(op)
            else:
                op = open_ops.pop(number)
                op.ended, op.outcome = when, told.pop("ok")
                op.told.update(told)
                op.place += f",{place}"
            found.last_sign[op.actor] = max(when, found.last_sign.get(op.actor, 0.0))
    found.ops.sort(key=lambda op: op.began)
    return found


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as lines:
        for place, line in enumerate(lines, 1):
            if line.endswith(b"\n"):
                yield place, json.loads(line)


class Pulse(threading.local):
    """What a thread's present call has met on the network: answers that never came, and refusals that showed our own token."""

    silent = 0
    heals = 0

    def reset(self) -> None:
        self.silent = self.heals = 0

    @property
    def told(self) -> dict[str, int]:
        found = {"silent": self.silent, "heals": self.heals}
        return {name: count for name, count in found.items() if count}


class LoggedLedger:
    """A ledger whose moves are written down (protocols.Ledger); what it does not name goes through as it is."""

    def __init__(self, ledger: Ledger, history: History, pulse: Pulse | None = None) -> None:
        self._ledger = ledger
        self._history = history
        self._pulse = pulse or Pulse()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    @contextmanager
    def _call(self, kind: str, item: str, **told: Any) -> Iterator[dict[str, Any]]:
        """Writes the first line; the second from what the block leaves in the dictionary, or from what it raises."""
        self._pulse.reset()
        number = self._history.begin(kind, item, **told)
        answer: dict[str, Any] = {"ok": WON}
        try:
            yield answer
        except (LeaseLost, MoveRefused) as error:
            answer |= {"ok": LOST, "why": str(error)[:120]}
            raise
        except OutcomeUnknown as error:
            answer |= {"ok": UNKNOWN, "why": str(error)[:120], "unknown": 1}
            raise
        except BaseException as error:
            answer |= {"ok": UNKNOWN, "why": f"{type(error).__name__}: {error}"[:120]}
            raise
        finally:
            self._history.end(number, answer.pop("ok"), **answer, **self._pulse.told)

    # ------------------------------------------------------------------ pilots

    def claim(self, item_id: str, pilot_id: str, *, run_id: str = "") -> Claim | None:
        with self._call("claim", item_id) as answer:
            claim = self._ledger.claim(item_id, pilot_id, run_id=run_id)
            if claim is None:
                answer["ok"] = LOST
            else:
                item = claim.item
                answer |= {"fence": claim.fence, "epoch": claim.epoch, "deadline": round(claim.deadline, 3)}
                answer |= {"hash": item.definition_hash, "nests": item.nests}
                answer |= {"tries": item.tries, "interruptions": item.interruptions}
            return claim

    def definition(self, item: Item) -> Definition:
        found = self._ledger.definition(item)
        self._history.note("definition", item.item_id, fence=item.fence, hash=item.definition_hash, read=found.hash)
        return found

    def expire(self, item_id: str) -> Item | None:
        with self._call("expire", item_id) as answer:
            item = self._ledger.expire(item_id)
            answer |= {"ok": LOST} if item is None else {"fence": item.fence, "state": item.state.value}
            return item

    def beat(self, claim: Claim, *, progressed: bool, nests_done: int, nests_failed: int) -> Beaten:
        with self._held("beat", claim) as answer:
            beaten = self._ledger.beat(claim, progressed=progressed, nests_done=nests_done, nests_failed=nests_failed)
            answer["renewed"] = round(beaten.deadline, 3)
            return beaten

    def record_nest(self, claim: Claim, nest: Nest) -> Recorded:
        with self._held("record", claim, nest=nest.index, status=nest.status.value) as answer:
            recorded = self._ledger.record_nest(claim, nest)
            answer["ok"] = WON if recorded is Recorded.WON else KEPT
            return recorded

    def finish(self, claim: Claim, *, nests_done: int, note: str = "") -> Item:
        with self._held("finish", claim, nests_done=nests_done, nests=claim.item.nests) as answer:
            return _state(answer, self._ledger.finish(claim, nests_done=nests_done, note=note))

    def fail(self, claim: Claim, cause: Cause, message: str, **counts: int) -> Item:
        with self._held("fail", claim, cause=cause.value) as answer:
            return _state(answer, self._ledger.fail(claim, cause, message, **counts))

    def wait(self, claim: Claim, cause: Cause, message: str, **more: Any) -> Item:
        with self._held("wait", claim, cause=cause.value) as answer:
            return _state(answer, self._ledger.wait(claim, cause, message, **more))

    def hand_back(self, claim: Claim, cause: Cause, message: str = "", **more: Any) -> Item:
        with self._held("hand back", claim, cause=cause.value) as answer:
            return _state(answer, self._ledger.hand_back(claim, cause, message, **more))

    def _held(self, kind: str, claim: Claim, **told: Any) -> Any:
        return self._call(
            kind, claim.item_id, fence=claim.fence, epoch=claim.epoch, deadline=round(claim.deadline, 3), **told
        )

    # ------------------------------------------------------------------ users

    def import_item(self, item_id: str, task_id: str, definition: Definition, **more: Any) -> Imported:
        told = {"hash": definition.hash, "nests": definition.nests, "update": bool(more.get("update"))}
        with self._call("import", item_id, **told) as answer:
            imported = self._ledger.import_item(item_id, task_id, definition, **more)
            answer["imported"] = imported.value
            return imported

    def retry(self, item: Item, **more: Any) -> Item:
        return self._user("retry", item, lambda: self._ledger.retry(item, **more))

    def reset(self, item: Item) -> Item:
        return self._user("reset", item, lambda: self._ledger.reset(item))

    def edit(self, item: Item, definition: Definition) -> Item:
        return self._user("edit", item, lambda: self._ledger.edit(item, definition), hash=definition.hash)

    def extend(self, item: Item, values: Sequence[str]) -> Item:
        return self._user("extend", item, lambda: self._ledger.extend(item, values))

    def redo(self, item: Item, nests: Iterable[int]) -> Item:
        wanted = sorted(set(nests))
        return self._user("redo", item, lambda: self._ledger.redo(item, wanted), redone=wanted)

    def cancel(self, item: Item) -> Item:
        return self._user("cancel", item, lambda: self._ledger.cancel(item))

    def recover(self, item: Item, *, ended_at: float, memory_factor: float | None = None, message: str = "") -> Item:
        told: dict[str, Any] = {"ended_at": ended_at, "memory_factor": memory_factor, "message": message}
        return self._user("recover", item, lambda: self._ledger.recover(item, **told))

    def _user(self, kind: str, item: Item, move: Callable[[], Item], **told: Any) -> Item:
        with self._call(kind, item.item_id, seen=item.fence, **told) as answer:
            after = move()
            answer |= {"fence": after.fence, "epoch": after.epoch, "state": after.state.value}
            answer |= {"hash": after.definition_hash, "nests": after.nests}
            return after


def _state(answer: dict[str, Any], item: Item) -> Item:
    answer["state"] = item.state.value
    return item
