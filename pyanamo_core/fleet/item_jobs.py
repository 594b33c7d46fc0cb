"""Which Batch job holds which item, and what Batch says of it (PyAnamo 1: getItem_JobStates).

One DescribeJobs for 100 jobs, however many items they hold; the pilots' rows are read one by one where few pilots hold
items, else page by page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.jobs import Job
from pyanamo_core.fleet.recover import attempt_end, owners_of
from pyanamo_core.model import Item, PilotRecord, State
from pyanamo_core.protocols import Ledger

ONE_BY_ONE: Final = 50
"""Up to so many pilots are read by their names."""
UNKNOWN: Final = "unknown"
"""Batch does not know the job (any more)."""
NO_JOB: Final = "none"
"""The pilot is no job of Batch."""
ENDED: Final = "ended"
"""This attempt of the job has ended, while a later one goes on or waits."""


@dataclass(frozen=True)
class ItemJob:
    """A locked item, the pilot that holds it and the pilot's job (seconds since 1970)."""

    item_id: str
    pilot_id: str
    host: str
    batch_job: str
    batch_attempt: int
    job_status: str
    """Batch's word; `ended` for an attempt that a later one follows, `unknown`, `none`."""
    reason: str
    last_beat: float
    lease_end: float
    gone: bool
    """By Batch's word this pilot has ended: `pyanamo recover` takes the item back."""


def item_jobs(batch: Batch, ledger: Ledger) -> list[ItemJob]:
    """Every locked item with its job, by item."""
    locked = sorted(ledger.items(State.LOCKED), key=lambda item: item.item_id)
    owners = {record.pilot_id: record for record in _owners(ledger, locked)}
    jobs = batch.describe(record.batch_job for record in owners.values() if record.batch_job)
    return [_told(item, owners.get(item.owner or ""), jobs) for item in locked]


def _owners(ledger: Ledger, locked: list[Item]) -> Iterable[PilotRecord]:
    names = {item.owner for item in locked if item.owner}
    if len(names) <= ONE_BY_ONE:
        return owners_of(ledger, locked)
    found = [record for record in ledger.pilots() if record.pilot_id in names]
    known = {record.pilot_id for record in found}
    # Those that died before they wrote their rows are known by the attempt rows of their claims.
    return [*found, *owners_of(ledger, (item for item in locked if item.owner not in known))]


def _told(item: Item, record: PilotRecord | None, jobs: dict[str, Job]) -> ItemJob:
    record = record or PilotRecord(pilot_id=item.owner or "")
    job = jobs.get(record.batch_job)
    ended = attempt_end(job, record.batch_attempt or 1) if job else None
    status, reason = (UNKNOWN if record.batch_job else NO_JOB), ""
    if job is not None:
        status = job.status if ended is None or job.ended else ENDED
        reason = ended.told if ended else job.status_reason
    return ItemJob(
        item_id=item.item_id,
        pilot_id=record.pilot_id,
        host=record.host,
        batch_job=record.batch_job,
        batch_attempt=record.batch_attempt,
        job_status=status,
        reason=reason,
        last_beat=record.last_beat,
        lease_end=item.lease_end or 0.0,
        gone=ended is not None,
    )
