"""The part of the ledger in memory that is not about items: workflow versions, pilots, runs."""

from __future__ import annotations

import random
import threading
from typing import Any

from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import RunConflict, RunMissing, WorkflowMissing
from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger.run_rows import reserved, settled
from pyanamo_core.model import Mode, PilotRecord, Rules, Run, Submission
from pyanamo_core.protocols import Clock
from pyanamo_core.workflow import Workflow


class MemoryRuns:
    """Versions, pilots and runs in dictionaries, under one lock (arguments: see MemoryLedger)."""

    def __init__(self, rules: Rules | None, clock: Clock | None, rng: random.Random | None, table: str) -> None:
        self.rules = rules or Rules()
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - places in a queue and idempotency tokens, no secrets
        self._table = table
        self._lock = threading.RLock()
        self._pilots: dict[str, PilotRecord] = {}
        self._runs: dict[str, Run] = {}
        self._workflows: list[Workflow] = []

    @property
    def table(self) -> str:
        return self._table

    def _now(self) -> float:
        return round(self._clock.now(), 3)

    def _token(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    # ------------------------------------------------------------------ workflow versions

    def add_workflow(self, workflow: Workflow) -> int:
        with self._lock:
            if not self._workflows or self._workflows[-1] != workflow:
                self._workflows.append(workflow)
            return len(self._workflows)

    def workflow(self, version: int | None = None) -> tuple[int, Workflow]:
        with self._lock:
            if not self._workflows:
                raise WorkflowMissing(table=self.table)
            number = version or len(self._workflows)
            if not 1 <= number <= len(self._workflows):
                raise WorkflowMissing(
                    "Table {table} holds no version {version} of its workflow. See them with: pyanamo workflow list",
                    table=self.table,
                    version=number,
                )
            return number, self._workflows[number - 1]

    def workflow_versions(self) -> list[tuple[int, Workflow]]:
        with self._lock:
            return list(enumerate(self._workflows, start=1))

    # ------------------------------------------------------------------ pilots

    def put_pilot(self, record: PilotRecord) -> None:
        rows.check_owner("Pilot", record.pilot_id)
        with self._lock:
            known = self._pilots.get(record.pilot_id)
            if record.ended is not None or known is None or known.ended is None:
                self._pilots[record.pilot_id] = record

    def pilot(self, pilot_id: str) -> PilotRecord | None:
        with self._lock:
            return self._pilots.get(pilot_id)

    def pilots(self, run_id: str | None = None, *, beaten_since: float = 0.0) -> list[PilotRecord]:
        with self._lock:
            found = [
                pilot
                for pilot in self._pilots.values()
                if (run_id is None or pilot.run_id == run_id) and pilot.last_beat >= beaten_since
            ]
        return sorted(found, key=lambda p: (p.started, p.pilot_id))

    # ------------------------------------------------------------------ runs

    def begin_run(self, run: Run) -> Run:
        rows.check_owner("Run", run.run_id)
        with self._lock:
            standing = self._runs.get(run.run_id)
            try:
                if standing is not None:
                    decisions.same_run(standing, run)
                    return standing
                decisions.alone(run, self.live_runs())
            except decisions.Refusal as refusal:
                raise RunConflict(run_id=run.run_id, reason=refusal.reason) from None
            self._runs[run.run_id] = run
            return run

    def run(self, run_id: str) -> Run:
        with self._lock:
            found = self._runs.get(run_id)
        if found is None:
            raise RunMissing(table=self.table, run_id=run_id)
        return found

    def runs(self) -> list[Run]:
        with self._lock:
            return sorted(self._runs.values(), key=lambda run: (run.started, run.run_id))

    def live_runs(self) -> list[Run]:
        return [run for run in self.runs() if run.ended is None]

    def set_mode(self, run_id: str, mode: Mode, reason: str = "", *, hand_back: bool = False) -> Run:
        with self._lock:
            run = self.run(run_id)
            try:
                if not decisions.forward(run, mode, hand_back=hand_back):
                    return run
            except decisions.Refusal as refusal:
                raise RunConflict(run_id=run_id, reason=refusal.reason) from None
            return self._put_run(run, mode=mode, reason=rows.clipped(reason, rows.REASON_BYTES), hand_back=hand_back)

    def take_watch(self, run_id: str, watcher: str, lease_seconds: float) -> Run | None:
        with self._lock:
            run = self.run(run_id)
            now = self._now()
            if run.watcher != watcher and run.watcher_lease_end > now:
                return None
            return self._put_run(
                run,
                watcher=watcher,
                watcher_fence=run.watcher_fence + (run.watcher != watcher),
                watcher_lease_end=round(now + lease_seconds, 3),
            )

    def release_watch(self, run: Run) -> None:
        with self._lock:
            standing = self.run(run.run_id)
            if standing.watcher_fence == run.watcher_fence:
                self._put_run(standing, watcher="", watcher_lease_end=0.0)

    def reserve_submission(self, run: Run, *, size: int, queue: str, definition: str) -> tuple[Run, Submission]:
        with self._lock:
            standing = self.run(run.run_id)
            if standing.watcher_fence != run.watcher_fence:
                raise RunConflict(
                    run_id=run.run_id,
                    reason=f"its watcher's fence is {standing.watcher_fence}, not {run.watcher_fence}",
                )
            made = reserved(standing, size=size, queue=queue, definition=definition, now=self._now())
            return self._put_run(standing, submissions=(*standing.submissions, made)), made

    def settle_submission(self, run: Run, sequence: int, *, job_id: str = "", reason: str = "") -> Run:
        with self._lock:
            standing = self.run(run.run_id)
            return self._put_run(
                standing, submissions=settled(standing, sequence, job_id=job_id, reason=reason).submissions
            )

    def end_run(self, run_id: str, outcome: str, reason: str = "") -> Run:
        with self._lock:
            run = self.run(run_id)
            if run.ended is not None:
                return run
            return self._put_run(
                run, ended=self._now(), outcome=outcome, reason=rows.clipped(reason, rows.REASON_BYTES) or run.reason
            )

    def _put_run(self, run: Run, **changes: Any) -> Run:
        self._runs[run.run_id] = run.model_copy(update=changes)
        return self._runs[run.run_id]
