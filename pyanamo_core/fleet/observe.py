"""What is known of a run at one moment, for those who explain it: ledger, queues, environments, definition, jobs, pilots.

`look` asks Batch what a watcher does not know already; `observe` is for somebody who does not watch the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import DefinitionMissing, QueueMissing
from pyanamo_core.fleet import on_demand
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.jobs import Definition, Environment, Job, Queue
from pyanamo_core.fleet.plan import DUE_SOON_SECONDS, Pilots, fresh_seconds, sort_pilots
from pyanamo_core.fleet.tally import ChosenTally, Tally
from pyanamo_core.model import Counts, Item, Run, State
from pyanamo_core.protocols import Clock, Ledger
from pyanamo_core.workflow import Workflow

LOCKED_MAX: Final = 1000
"""Locked items among which those of silent pilots are looked for."""


@dataclass(frozen=True)
class Place:
    """A queue, and where its jobs can run. `queue` is None where it does not exist."""

    name: str
    queue: Queue | None
    environments: tuple[Environment, ...] = ()


@dataclass(frozen=True)
class Observation:
    """What is known about a run at one moment (`now`: seconds since 1970; 0: not told)."""

    run: Run
    counts: Counts
    claimable: int
    jobs: tuple[Job, ...] = ()
    missing: tuple[str, ...] = ()
    queue: Queue | None = None
    queue_name: str = ""
    environments: tuple[Environment, ...] = ()
    definition: Definition | None = None
    definition_name: str = ""
    waiting_reasons: tuple[str, ...] = ()
    failed: tuple[Job, ...] = field(default_factory=tuple[Job, ...])
    others: tuple[Place, ...] = ()
    """Further queues that the run has submitted to."""
    pilots: Pilots | None = None
    now: float = 0.0
    stranded: tuple[Item, ...] = ()
    """Locked items whose pilots are silent."""
    marked: int = 0
    """Items for on-demand pilots only that could be claimed, and why no such pilot comes ("": nothing keeps it)."""
    obstacle: str = ""

    @property
    def places(self) -> tuple[Place, ...]:
        return (Place(self.queue_name, self.queue, self.environments), *self.others)

    def jobs_of(self, place: Place) -> list[Job]:
        """The run's jobs on this queue; what no submission tells is the main queue's."""
        queues = {one.job_id: one.queue for one in self.run.submissions}
        return [job for job in self.jobs if queues.get(job.job_id, self.queue_name) == place.name]


def look(
    batch: Batch,
    run: Run,
    counts: Counts,
    claimable: int,
    jobs: Sequence[Job],
    *,
    queue: str,
    definition: str,
    pilots: Pilots | None = None,
    now: float = 0.0,
) -> Observation:
    """Ask Batch what `findings` needs. A queue or definition that does not exist is a finding, no error."""
    first, *others = [
        _place(batch, name) for name in dict.fromkeys((queue, *(each.queue for each in run.submissions if each.job_id)))
    ]
    try:
        found_definition = batch.definition(run.submissions[0].definition if run.submissions else definition)
    except DefinitionMissing:
        found_definition = None
    reasons: list[str] = []
    failed: list[Job] = []
    for job in jobs:
        if job.waiting:
            reasons += _waiting_reasons(batch, job)
        if job.failed:
            failed += batch.failed_children(job)
    known_jobs = {job.job_id for job in jobs}
    return Observation(
        run=run,
        counts=counts,
        claimable=claimable,
        jobs=tuple(jobs),
        missing=tuple(s.job_id for s in run.submissions if s.job_id and s.job_id not in known_jobs),
        queue=first.queue,
        queue_name=queue,
        environments=first.environments,
        definition=found_definition,
        definition_name=definition,
        waiting_reasons=tuple(dict.fromkeys(reasons)),
        failed=tuple(failed),
        others=tuple(others),
        pilots=pilots,
        now=now,
    )


def observe(batch: Batch, ledger: Ledger, run: Run, workflow: Workflow, *, clock: Clock | None = None) -> Observation:
    """`look` for somebody who does not watch the run: reads counts and pilots, and describes its jobs first."""
    clock = clock or SystemClock()
    now, timing = clock.now(), workflow.timing
    fresh = fresh_seconds(timing.beat_seconds, timing.lease_seconds)
    counts, claimable = counted(ledger, run, clock)
    pilots = sort_pilots(ledger.pilots(run.run_id), now=now, fresh_seconds=fresh)
    seen = look(
        batch,
        run,
        counts,
        claimable,
        list(batch.describe(each.job_id for each in run.submissions if each.job_id).values()),
        queue=workflow.queue,
        definition=workflow.job_definition,
        pilots=pilots,
        now=now,
    )
    # A dead pilot's row tells what it held at its last beat; by now others may have it, or it may have taken more.
    silent = {record.pilot_id for record in pilots.silent}
    locked = islice(ledger.items(State.LOCKED), LOCKED_MAX) if silent and counts.locked else ()
    stranded = sorted((item for item in locked if item.owner in silent), key=lambda item: item.item_id)
    marked, obstacle = on_demand.wanted(batch, ledger, workflow) if counts.todo and not run.only else (0, "")
    return replace(seen, stranded=tuple(stranded), marked=marked, obstacle=obstacle)


def counted(ledger: Ledger, run: Run, clock: Clock) -> tuple[Counts, int]:
    """Items by state, and how many are claimable soon: the table's, or of a canary its own."""
    tally = ChosenTally(ledger, clock, run.only) if run.only else Tally(ledger, clock)
    return tally.whole() if run.only else ledger.counts(), tally.claimable(within_seconds=DUE_SOON_SECONDS)


def _place(batch: Batch, name: str) -> Place:
    try:
        queue = batch.queue(name)
    except QueueMissing:
        return Place(name, None)
    return Place(name, queue, tuple(batch.environments(queue.environments)))


def _waiting_reasons(batch: Batch, job: Job) -> list[str]:
    if job.size == 1:
        return [job.status_reason] if job.status_reason else []
    return [child.status_reason for child in batch.children(job.job_id, "RUNNABLE") if child.status_reason]
