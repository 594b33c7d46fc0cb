"""How a pilot's job ended, by Batch's word: what that means, and whether it speaks against the run."""

from __future__ import annotations

from typing import NamedTuple

from pyanamo_core.fleet.jobs import Job
from pyanamo_core.fleet.plan import HANDED_BACK
from pyanamo_core.fleet.reasons import EXIT_CODES, STARTING, UNKNOWN, WAITING, known


class End(NamedTuple):
    """How a pilot's job ended, and what that means."""

    fact: str
    advice: str
    code: str


def end_of(job: Job) -> End:
    """How a failed pilot ended, and what that means."""
    if not job.attempts:
        why = known(job.status_reason, (*STARTING, *WAITING))
        advice = why.mend or "It never started: see the job definition's roles and image."
        return End(job.status_reason or "no reason given", advice, why.code)
    last = job.attempts[-1]
    why = known(f"{last.reason} {last.status_reason} {job.status_reason}", STARTING)
    if why.code == "host_terminated":
        return End("its host was terminated", why.mend, why.code)
    if why is not UNKNOWN:
        fact = last.told if last.exit_code is not None else last.reason or last.status_reason
        return End(fact, why.mend, why.code)
    advice = EXIT_CODES.get(last.exit_code, "") if last.exit_code is not None else ""
    return End(last.told, advice, f"exit_{last.exit_code}" if last.exit_code is not None else "unknown")


def says_nothing_against(job: Job) -> bool:
    """Did this failed pilot end in good order, by its host's end, or on request? Then it is no sign of a wrong set-up."""
    if job.ended_by_us:
        return True
    if not job.attempts:
        return False
    last = job.attempts[-1]
    return last.exit_code in HANDED_BACK or last.status_reason.startswith("Host EC2")
