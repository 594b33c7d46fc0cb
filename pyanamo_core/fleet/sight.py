"""What a watcher sees: the run's jobs as Batch tells them, its pilots as their rows tell them, kept from poll to poll.

Parents only are described; children are examined when FAILED rises, at most 100; pilot rows are read when Batch's counts
have changed, else twice a beat. A job that Batch no longer knows is `missing`, no error.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

from pyanamo_core.fleet import ends, plan
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.jobs import ENDED, STARTED, Job
from pyanamo_core.fleet.on_demand import Side
from pyanamo_core.fleet.recover import Gone, Memory, find_gone, take_back
from pyanamo_core.fleet.submit import Patience
from pyanamo_core.model import Counts, PilotRecord, Run, Submission
from pyanamo_core.protocols import Clock, Ledger
from pyanamo_core.workflow import Workflow

log = logging.getLogger(__name__)

REPEAT_SECONDS: Final = 60.0
"""Between two looks at one silent pilot."""
ROWS_PER_SECOND: Final = 200
SUSPECTS_MAX: Final = 100
"""Silent pilots that one poll asks Batch about (one call)."""
HOLE_ENDS: Final = 5
"""So many pilots that ended on one host without a claim make it a suspect."""
EXAMINED_MAX: Final = 3
"""Arrays whose failed children one poll looks at (up to six calls each)."""


class Sight:
    """The fleet of one run as last seen.

    Attributes:
        jobs: the last description of each job; ended ones are not asked for again.
        missing: ids of jobs that Batch no longer knows.
        doubted: names of jobs that DescribeJobs does not know while ListJobs does: they count as last seen.
        pilots: the pilot rows, sorted.
    """

    def __init__(self, ledger: Ledger, batch: Batch, clock: Clock, workflow: Workflow, patience: Patience) -> None:
        self._ledger, self._batch, self._clock = ledger, batch, clock
        self._timing, self._patience = workflow.timing, patience
        # Not sooner than the ledger allows, whose clock may differ a little: what it refuses waits for its lease.
        self._recover_seconds = workflow.rules.recover_seconds + 1.0
        self._memory = Memory.of(workflow)
        self.jobs: dict[str, Job] = {}
        self.missing: set[str] = set()
        self.doubted: dict[str, str] = {}
        self.pilots = plan.Pilots()
        self.progress_mark = (0, 0)
        self._absent: dict[str, plan.Absence] = {}
        self._listed_at: dict[str, float] = {}
        self._waited: tuple[int, float] | None = None
        self._failed: dict[str, int] = {}
        self._known_children: set[str] = set()
        self._ended_attempts: set[tuple[str, int]] = set()
        self._fruitless: dict[str, plan.Fruitless] = {}
        self._swallowed: Counter[str] = Counter()
        """Pilots that ever ended without a claim, by host; progress elsewhere does not clear it."""
        self._judged: set[str] = set()
        """Pilots whose end has been judged: once."""
        self._pilots_seen: float | None = None
        self._pilots_stale = True
        self._gone: dict[str, Gone] = {}
        self._settled_pilots: set[str] = set()
        self._asked_pilots: dict[str, float] = {}

    @property
    def fruitless_ever(self) -> int:
        """Pilots that ended without a claim, since this watch began."""
        return self._swallowed.total()

    def hole(self) -> str:
        """The host on which most pilots ended without a claim, and how to keep further ones off it; "" if none is suspect."""
        host, count = max(self._swallowed.items(), key=lambda pair: pair[1], default=("", 0))
        if not host or count < HOLE_ENDS:
            return ""
        said = f"{count} pilots ended on host {host.rpartition('/')[2]} without a claim"
        if ":container-instance/" not in host:
            return said
        cluster = host.partition(":container-instance/")[2].partition("/")[0]
        return (
            f"{said}; keep others off it with: aws ecs update-container-instances-state --status DRAINING"
            f" --cluster {cluster} --container-instances {host}"
        )

    @property
    def fruitless(self) -> list[plan.Fruitless]:
        """Pilots that ended without a claim since the last progress."""
        return list(self._fruitless.values())

    def ended_jobs(self) -> set[str]:
        return {job_id for job_id, job in self.jobs.items() if job.ended}

    def not_ended(self, run: Run) -> list[str]:
        """Ids of the run's jobs that may still have pilots."""
        over = self.ended_jobs() | self.missing
        return [each.job_id for each in run.submissions if each.job_id and each.job_id not in over]

    def by_status(self) -> dict[str, int]:
        """Jobs by status, children counted one by one."""
        return plan.merged(job.summary for job in self.jobs.values())

    def not_started(self) -> int:
        """Pilots that wait while none has started; 0 if one has."""
        jobs = [job for job in self.jobs.values() if not job.ended]
        started = sum(job.summary.get(status, 0) for job in jobs for status in STARTED)
        return 0 if started else sum(job.waiting for job in jobs)

    # ------------------------------------------------------------------------------------------ jobs

    def look_at_jobs(self, run: Run) -> None:
        """Describe the parents that have not ended; examine children where FAILED has risen."""
        now = self._clock.monotonic()
        asked = [s.job_id for s in run.submissions if s.job_id and s.job_id not in self.ended_jobs()]
        if not asked:
            return
        found = self._batch.describe(asked)
        risen: list[Job] = []
        for job_id in asked:
            job = found.get(job_id)
            if job is None:
                self._see_absent(run, job_id, now)
                continue
            self._absent.pop(job_id, None)
            self.doubted.pop(job_id, None)
            self.missing.discard(job_id)
            before = self.jobs.get(job_id)
            self.jobs[job_id] = job
            if before is None or before.summary != job.summary:
                self._pilots_stale = True
            if job.failed > self._failed.get(job_id, 0):
                risen.append(job)
        for job in risen[:EXAMINED_MAX]:  # the others at later polls: their number has still risen then
            self._examine(run, job)
            self._failed[job.job_id] = job.failed

    def _see_absent(self, run: Run, job_id: str, now: float) -> None:
        patience = self._patience
        self._absent[job_id] = plan.still_absent(self._absent.get(job_id), now)
        if job_id in self.missing or not plan.is_missing(
            self._absent[job_id], now, seconds=patience.missing_seconds, polls=patience.missing_polls
        ):
            return
        # One answer of nothing is not enough to call a fleet lost: another call of Batch must not know it either.
        if now - self._listed_at.get(job_id, -math.inf) < patience.missing_seconds:
            return
        self._listed_at[job_id] = now
        submission = next(each for each in run.submissions if each.job_id == job_id)
        listed = self._batch.find(submission.name, submission.queue)
        if any(each.job_id == job_id and each.status not in ENDED for each in listed):
            self.doubted[job_id] = submission.name
            return
        self.doubted.pop(job_id, None)
        self.missing.add(job_id)
        self.jobs.pop(job_id, None)
        self._pilots_stale = True
        log.warning("Batch no longer knows job %s; its pilots' items come back by their leases", job_id)

    def _examine(self, run: Run, job: Job) -> None:
        """Why did children fail? Those that ended without a claim speak against the run."""
        children = self._batch.failed_children(job, self._known_children)
        if not children:
            return
        self.refresh_pilots(run, force=True)
        claimed = {record.batch_job for record in self.pilots if record.claims}
        for child in children:
            self._known_children.add(child.job_id)
            self._ended_attempts |= {(child.job_id, n) for n in range(1, len(child.attempts) + 1)}
            if child.job_id in self._judged:
                continue
            self._judged.add(child.job_id)
            if child.job_id not in claimed and not ends.says_nothing_against(child):
                host = child.attempts[-1].host if child.attempts else ""
                line = self._batch.last_log_line(child) if len(self._fruitless) < plan.FRUITLESS_HOSTS else ""
                reason = ends.end_of(child)[0] + (f" — {line}" if line else "")
                self._fruitless[child.job_id] = plan.Fruitless(host, reason)
                self._swallowed[host] += 1

    # ------------------------------------------------------------------------------------------ pilots

    def refresh_pilots(self, run: Run, *, force: bool = False) -> None:
        """Read the run's pilot rows: twice a beat, and soon when Batch's counts have changed (200 rows a second at most)."""
        now, timing = self._clock.monotonic(), self._timing
        every = max(timing.poll_seconds, min(timing.beat_seconds / 2, 60.0))
        soon = len(self.pilots) / ROWS_PER_SECOND
        age = math.inf if self._pilots_seen is None else now - self._pilots_seen
        if not force and age < (soon if self._pilots_stale else max(every, soon)):
            return
        self._pilots_seen, self._pilots_stale = now, False
        fresh = plan.fresh_seconds(timing.beat_seconds, timing.lease_seconds)
        records = self._ledger.pilots(run.run_id)
        self.pilots = plan.sort_pilots(records, now=self._clock.now(), fresh_seconds=fresh)
        for record in self.pilots.ended:
            key = record.batch_job or record.pilot_id
            if record.pilot_id in self._judged:
                continue
            self._judged |= {record.pilot_id, key}
            if plan.is_fruitless(record):
                self._fruitless[key] = plan.Fruitless(record.host, record.leaving or f"exit code {record.exit_code}")
                self._swallowed[record.host] += 1

    def mark_progress(self, counts: Counts) -> bool:
        """Claims and finished items since the last look say that the set-up works: earlier fruitless ends are forgotten."""
        before, now = self.progress_mark, (self.pilots.claims, counts.done + counts.failed)
        self.progress_mark = now
        if now[0] <= before[0] and now[1] <= before[1]:
            return False
        self._fruitless.clear()
        return True

    def live(self, run: Run) -> int:
        """Pilots that live or are submitted; those of jobs that may still exist count."""
        by_batch = sum(job.live for job in self.jobs.values()) + self._not_yet_told(run.submissions)
        return plan.live_pilots(by_batch, plan.still_beating(self.pilots, self.ended_jobs(), self._ended_attempts))

    def _not_yet_told(self, submissions: Iterable[Submission]) -> int:
        """Pilots of submissions that no description tells of yet, and that are not missing."""
        return sum(
            each.size
            for each in submissions
            if each.outcome == "reserved"
            or (each.job_id and each.job_id not in self.jobs and each.job_id not in self.missing)
        )

    def sides(self, run: Run, on_demand_queue: str) -> tuple[Side, Side]:
        """The pilots of all other queues, and those of the on-demand queue. All together they are `live`."""
        theirs = [each for each in run.submissions if on_demand_queue and each.queue == on_demand_queue]
        ids = {each.job_id for each in theirs if each.job_id}
        own = plan.of_jobs(self.pilots, ids)
        by_batch = sum(job.live for job_id, job in self.jobs.items() if job_id in ids) + self._not_yet_told(theirs)
        beating = plan.still_beating(own, self.ended_jobs(), self._ended_attempts)
        total = self.live(run)
        on_demand = min(total, plan.live_pilots(by_batch, beating))
        spot = total - on_demand
        waiting = sum(job.waiting for job_id, job in self.jobs.items() if job_id not in ids)
        leaving = max(0, self.pilots.leaving - own.leaving)
        return (
            Side(spot, max(0, spot - leaving), min(spot, waiting)),
            Side(on_demand, max(0, on_demand - own.leaving)),
        )

    def waited_seconds(self, waiting: int) -> float:
        """How long so many pilots have waited without one of them starting or leaving. To be told at each poll."""
        now = self._clock.monotonic()
        if waiting == 0:
            self._waited = None
        elif self._waited is None or waiting < self._waited[0]:
            self._waited = waiting, now
        else:
            self._waited = waiting, self._waited[1]
        return now - self._waited[1] if self._waited else 0.0

    def take_back(self) -> None:
        """Take back the items of pilots that Batch says are gone, and join Batch's causes."""
        now = self._clock.monotonic()
        suspects = [record for record in self._suspects() if self._may_ask(record, now)][:SUSPECTS_MAX]
        if suspects:
            self._asked_pilots |= {record.pilot_id: now for record in suspects}
            self._gone |= find_gone(self._batch, suspects)
        due = {
            pilot_id: one
            for pilot_id, one in self._gone.items()
            if self._clock.now() - one.ended_at > self._recover_seconds
        }
        if not due:
            return
        taken = take_back(self._ledger, due, self._memory)
        self._settled_pilots |= set(due)
        self._gone = {pilot_id: one for pilot_id, one in self._gone.items() if pilot_id not in due}
        if taken.items:
            log.info("took back %d items of %d pilots that Batch says are gone", len(taken.items), len(due))

    def _suspects(self) -> list[PilotRecord]:
        """Pilots that never said that they end, but are silent or belong to a job or an attempt that has ended."""
        over = self.ended_jobs()
        return [
            *self.pilots.silent,
            *(
                record
                for record in self.pilots.fresh
                if record.batch_job.partition(":")[0] in over
                or (record.batch_job, record.batch_attempt) in self._ended_attempts
            ),
        ]

    def _may_ask(self, record: PilotRecord, now: float) -> bool:
        known = record.pilot_id in self._settled_pilots or record.pilot_id in self._gone
        return not known and now - self._asked_pilots.get(record.pilot_id, -math.inf) >= REPEAT_SECONDS
