"""Stopping a run at once: its mode first, then its jobs, those that nobody has settled included."""

from __future__ import annotations

from typing import Final

from pyanamo_core.aws import Clients
from pyanamo_core.clock import SystemClock
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.submit import Patience
from pyanamo_core.model import Mode, Run
from pyanamo_core.protocols import Clock, Ledger

CANCEL_WAIT_SECONDS: Final = 45.0
"""Batch gives a terminated pilot 30 s."""
CANCEL_POLL_SECONDS: Final = 1.0


def cancel(
    clients: Clients,
    ledger: Ledger,
    run_id: str,
    reason: str = "",
    *,
    wait_seconds: float = CANCEL_WAIT_SECONDS,
    clock: Clock | None = None,
    patience: Patience | None = None,
) -> Run:
    """Stop a run's pilots at once: they hand back what they hold; items are left as they are.

    First the run's mode, which pilots and watchers obey by themselves, then TerminateJob for each of its jobs, those that
    were reserved and never settled included, by their names. Can be repeated, and from several places at a time.

    Args:
        wait_seconds: how long to wait for the jobs' end; the run's row is ended with them. 0 does not wait.

    Raises:
        RunMissing: there is no such run.
    """
    time = clock or SystemClock()
    wanted = patience or Patience()
    standing = ledger.run(run_id)
    if standing.ended is not None:
        return standing
    ledger.set_mode(run_id, Mode.CANCEL, reason)
    batch = Batch(clients)
    began = time.monotonic()
    asked: set[str] = set()
    absent: dict[str, int] = {}
    looks = 0
    while True:
        standing = ledger.run(run_id)
        if standing.ended is not None:
            return standing
        unsettled = [each for each in standing.submissions if each.outcome == "reserved"]
        job_ids = [each.job_id for each in standing.submissions if each.job_id]
        job_ids += [found.job_id for each in unsettled for found in batch.find(each.name, each.queue)]
        looks += 1
        jobs = batch.describe(job_ids)
        left = False
        for job_id in job_ids:
            job = jobs.get(job_id)
            if job is not None and job.ended:
                continue
            if job_id not in asked:
                batch.terminate(job_id, reason or "the run was cancelled")
                asked.add(job_id)
            absent[job_id] = absent.get(job_id, 0) + 1 if job is None else 0
            left = left or absent[job_id] < wanted.missing_polls
        # Nobody submits later than the window after a reservation, and whoever does so after this reads the mode first.
        may_come = any(time.now() < each.reserved_at + wanted.window_seconds for each in unsettled)
        if not left and not may_come and (not unsettled or looks >= wanted.look_polls):
            return ledger.end_run(run_id, "cancelled", standing.reason)
        if time.monotonic() - began >= wait_seconds:
            return standing
        time.sleep(CANCEL_POLL_SECONDS)
