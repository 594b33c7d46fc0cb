"""Recover: taking back at once the items of pilots that Batch says are gone, and writing down what only Batch knows.

A pilot's row names its Batch job and attempt. When Batch says that this attempt has ended, nobody will renew the leases
of that pilot; its items need not wait for their end. What Batch knows of the end (container out of memory, host
terminated, time-out) is joined into the attempt rows of those items.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pyanamo_core.aws import Clients
from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import ItemMissing, LeaseLost, MoveRefused
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.jobs import Attempt as BatchAttempt
from pyanamo_core.fleet.jobs import Job
from pyanamo_core.model import Attempt, Cause, Item, PilotRecord, State
from pyanamo_core.protocols import Clock, Ledger
from pyanamo_core.workflow import Workflow

EVIDENCE_BYTES: Final = 120


@dataclass(frozen=True)
class Gone:
    """A pilot whose Batch attempt has ended although it never said so (seconds since 1970)."""

    pilot_id: str
    batch_job: str
    batch_attempt: int
    ended_at: float
    cause: Cause | None
    """None: Batch does not know either; the ledger says `lost`."""
    evidence: str
    holding: tuple[str, ...] = ()


@dataclass(frozen=True)
class TakenBack:
    """What became of the items of gone pilots."""

    items: tuple[str, ...] = ()
    joined: int = 0
    """Attempt rows that got Batch's cause."""
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """Items that had moved on meanwhile, or whose attempt ended too short a time ago, and the ledger's words."""


@dataclass(frozen=True)
class RecoverReport:
    """What `recover` did."""

    locked: int
    """Items that were locked."""
    gone: tuple[str, ...] = ()
    """Pilots that Batch says are gone."""
    items: tuple[str, ...] = ()
    """Items taken back."""
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """Items left alone by the ledger, and why."""
    joined: int = 0
    """Attempt rows that got Batch's cause."""
    unwatched: tuple[str, ...] = ()
    """Live runs that nobody watches."""


def attempt_end(job: Job, attempt: int) -> BatchAttempt | None:
    """How attempt number `attempt` (1-based) of a job ended; None if Batch does not say that it has.

    Batch lists attempts when they end. A job that failed without listing the attempt (its host vanished before it was
    seen) ended with the job itself.
    """
    if 1 <= attempt <= len(job.attempts):
        return job.attempts[attempt - 1]
    if job.ended and job.stopped is not None:
        return BatchAttempt(0.0, job.stopped, None, "", job.status_reason, "", "")
    return None


def cause_of(ended: BatchAttempt, lifecycle: str = "") -> Cause | None:
    """What Batch's words for the end of an attempt mean, or None where they say nothing that the ledger does not know.

    Args:
        ended: the attempt.
        lifecycle: of the pilot's host: `spot` or `on-demand`, "" if unknown.
    """
    if ended.reason.startswith("OutOfMemoryError"):
        return Cause.OUT_OF_MEMORY
    if ended.status_reason.startswith("Host EC2"):
        return Cause.HOST_FAULT if lifecycle == "on-demand" else Cause.SPOT
    if "attempt duration exceeded timeout" in ended.status_reason.lower():
        return Cause.WALL_TIME
    return None


def shortened(text: str, limit: int = EVIDENCE_BYTES) -> str:
    """Text of at most `limit` bytes of UTF-8."""
    data = text.encode()
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"


def find_gone(batch: Batch, records: Iterable[PilotRecord]) -> dict[str, Gone]:
    """Which of these pilots are gone by Batch's word, by their id; 100 a call.

    A job that Batch does not know (any more) says nothing: its pilots' items come back by their leases.
    """
    asked = [record for record in records if record.batch_job]
    jobs = batch.describe(record.batch_job for record in asked)
    gone: dict[str, Gone] = {}
    for record in asked:
        job = jobs.get(record.batch_job)
        ended = attempt_end(job, record.batch_attempt or 1) if job else None
        if ended is not None:
            gone[record.pilot_id] = Gone(
                pilot_id=record.pilot_id,
                batch_job=record.batch_job,
                batch_attempt=record.batch_attempt,
                ended_at=ended.ended,
                cause=cause_of(ended, record.lifecycle),
                evidence=shortened(ended.told),
                holding=record.holding,
            )
    return gone


def owners_of(ledger: Ledger, locked: Iterable[Item]) -> list[PilotRecord]:
    """The pilots that hold these items and have not said that they ended, one read each.

    A pilot that died before it wrote its row is known by the attempt row of its claim.
    """
    records: dict[str, PilotRecord] = {}
    for item in locked:
        if item.owner is None or item.owner in records:
            continue
        record = ledger.pilot(item.owner)
        if record is None:
            claims = [each for each in ledger.attempts(item.item_id) if each.fence == item.fence]
            told = claims[0] if claims else Attempt(item_id=item.item_id, fence=item.fence)
            record = PilotRecord(
                pilot_id=item.owner,
                run_id=item.run_id or "",
                batch_job=told.batch_job,
                batch_attempt=told.batch_attempt,
                lifecycle=told.lifecycle,
            )
        records[item.owner] = record
    return list(records.values())


@dataclass(frozen=True)
class Memory:
    """How memory grows after a container ran out of it: by this factor, up to all of the container (shares of a slot)."""

    growth: float
    most: float
    container_mb: int

    @classmethod
    def of(cls, workflow: Workflow) -> Memory:
        return cls(workflow.budgets.memory_growth, float(workflow.slots), workflow.memory_mb)

    def after(self, factor: float) -> tuple[float, str]:
        """What an item gets that had so much, and the message that says why."""
        more = max(factor, min(factor * self.growth, self.most))
        told = "its container ran out of memory"
        return more, told if more > factor else f"needs ≥ {math.ceil(self.container_mb * self.growth)} MB: {told}"


def take_back(
    ledger: Ledger, gone: Mapping[str, Gone], memory: Memory, locked: Iterable[Item] | None = None
) -> TakenBack:
    """Take back what gone pilots hold, and write Batch's cause into the attempt rows.

    The ledger guards each move by the owner and fence that were seen, so that an item that somebody else has claimed by
    now is left alone.

    Args:
        gone: by pilot id.
        memory: for items whose container ran out of it: Batch's word counts as a try, and they get more.
        locked: the locked items, if they have been read; a pilot's row alone names what it held at its last beat only.
    """
    if not gone:
        return TakenBack()
    taken: list[str] = []
    refused: dict[str, str] = {}
    touched: dict[str, set[str]] = {pilot_id: set(one.holding) for pilot_id, one in gone.items()}
    for item in locked if locked is not None else ledger.items(State.LOCKED):
        if item.owner is None or item.owner not in gone:
            continue
        touched[item.owner].add(item.item_id)
        try:
            if gone[item.owner].cause is Cause.OUT_OF_MEMORY:
                factor, told = memory.after(item.memory_factor)
                ledger.recover(item, ended_at=gone[item.owner].ended_at, memory_factor=factor, message=told)
            else:
                ledger.recover(item, ended_at=gone[item.owner].ended_at)
        except (MoveRefused, LeaseLost, ItemMissing) as error:
            refused[item.item_id] = str(error)
        else:
            taken.append(item.item_id)
    joined = sum(_join(ledger, gone[pilot_id], item_ids) for pilot_id, item_ids in touched.items())
    return TakenBack(tuple(taken), joined, refused)


def recover(clients: Clients, ledger: Ledger, *, clock: Clock | None = None) -> RecoverReport:
    """Take back at once the items of pilots that Batch says are gone, and name the live runs that nobody watches.

    Asks Batch only about pilots that hold an item, 100 a call. What Batch does not know comes back by its lease.
    """
    now = (clock or SystemClock()).now()
    locked = list(ledger.items(State.LOCKED))
    gone = find_gone(Batch(clients), owners_of(ledger, locked))
    taken = take_back(ledger, gone, Memory.of(ledger.workflow()[1]), locked) if gone else TakenBack()
    return RecoverReport(
        locked=len(locked),
        gone=tuple(sorted(gone)),
        items=taken.items,
        refused=taken.refused,
        joined=taken.joined,
        unwatched=tuple(run.run_id for run in ledger.live_runs() if run.watcher_lease_end <= now),
    )


def _join(ledger: Ledger, gone: Gone, item_ids: Collection[str]) -> int:
    """Write the cause into this pilot's attempt rows that have none, or `lost`; how many there were."""
    if gone.cause is None:
        return 0
    joined = 0
    for item_id in sorted(item_ids):
        for attempt in ledger.attempts(item_id):
            if attempt.pilot_id == gone.pilot_id and attempt.cause in (None, Cause.LOST):
                ledger.put_attempt(_told(attempt, gone))
                joined += 1
    return joined


def _told(attempt: Attempt, gone: Gone) -> Attempt:
    # A lost pilot's attempt was ended when its item was taken back; Batch knows when the pilot really ended.
    ended = min(attempt.ended or gone.ended_at, max(gone.ended_at, attempt.started))
    return attempt.model_copy(update={"cause": gone.cause, "evidence": gone.evidence, "ended": ended})
