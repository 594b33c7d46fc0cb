"""Asking Batch to end a run's jobs, each seldom: an end takes its time, and polls come often."""

from __future__ import annotations

from typing import Final

from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.sight import Sight
from pyanamo_core.model import Run
from pyanamo_core.protocols import Clock

REPEAT_SECONDS: Final = 60.0
"""Between two CancelJob or TerminateJob of one job, and two explanations."""


class Ender:
    """Cancels and terminates jobs that have not ended."""

    def __init__(self, batch: Batch, sight: Sight, clock: Clock) -> None:
        self._batch, self._sight, self._clock = batch, sight, clock
        self._asked: dict[tuple[str, str], float] = {}

    def cancel_waiting(self, run: Run, reason: str, *, spared: str = "") -> None:
        """CancelJob spares what runs; only jobs with children that wait are asked, none of the queue that is spared."""
        kept = {each.job_id for each in run.submissions if spared and each.queue == spared}
        for job_id in self._sight.not_ended(run):
            if job_id in kept:
                continue
            job = self._sight.jobs.get(job_id)
            if job is not None and job.waiting and self._may_ask("cancel", job_id):
                self._batch.cancel(job_id, reason)

    def terminate_all(self, run: Run, reason: str) -> None:
        """TerminateJob for each job that has not ended."""
        for job_id in self._sight.not_ended(run):
            if self._may_ask("terminate", job_id):
                self._batch.terminate(job_id, reason)

    def _may_ask(self, how: str, job_id: str) -> bool:
        now, key = self._clock.monotonic(), (how, job_id)
        if now - self._asked.get(key, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return False
        self._asked[key] = now
        return True
