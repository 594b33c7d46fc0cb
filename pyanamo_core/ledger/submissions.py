"""A run's submissions, and how they stand in its row (below 1 KB): one short text each. Pure."""

from __future__ import annotations

from pyanamo_core.errors import RunConflict
from pyanamo_core.ledger.rows import clipped
from pyanamo_core.model import Run, Submission

REASON_BYTES = 80
_OUTCOMES = {"r": "reserved", "s": "submitted", "f": "failed"}
_LETTERS = {outcome: letter for letter, outcome in _OUTCOMES.items()}


def reserved(run: Run, *, size: int, queue: str, definition: str, now: float) -> Submission:
    """The next submission of a run: its sequence number, and the job name by which it is found again."""
    sequence = len(run.submissions)
    return Submission(
        sequence=sequence,
        name=f"{run.token}-{sequence}",
        size=size,
        queue=queue,
        definition=definition,
        reserved_at=now,
    )


def settled(run: Run, sequence: int, *, job_id: str, reason: str) -> Run:
    """The run with one submission submitted (a job id) or failed (a reason). A job id is never lost to a failure.

    Raises:
        RunConflict: the run has no such submission.
    """
    if not 0 <= sequence < len(run.submissions):
        raise RunConflict(run_id=run.run_id, reason=f"it has no submission {sequence}")
    standing = run.submissions[sequence]
    if job_id:
        changed = standing.model_copy(update={"job_id": job_id, "outcome": "submitted", "reason": ""})
    elif standing.outcome == "submitted":
        changed = standing
    else:
        changed = standing.model_copy(update={"outcome": "failed", "reason": clipped(reason, REASON_BYTES)})
    return run.model_copy(
        update={"submissions": (*run.submissions[:sequence], changed, *run.submissions[sequence + 1 :])}
    )


def names_of(submissions: tuple[Submission, ...]) -> list[str]:
    """The queues and job definitions that submissions refer to by number, in the order of their first use."""
    found: list[str] = []
    for each in submissions:
        for name in (each.queue, each.definition):
            if name not in found:
                found.append(name)
    return found


def told(submission: Submission, names: list[str]) -> str:
    """A submission as text: size|queue|definition|reserved at (ms)|outcome|job id|reason."""
    return "|".join(
        (
            str(submission.size),
            str(names.index(submission.queue)),
            str(names.index(submission.definition)),
            str(round(submission.reserved_at * 1000)),
            _LETTERS[submission.outcome],
            submission.job_id,
            submission.reason,
        )
    )


def read(sequence: int, token: str, text: str, names: list[str]) -> Submission:
    size, queue, definition, reserved_at, outcome, job_id, reason = text.split("|", 6)
    return Submission(
        sequence=sequence,
        name=f"{token}-{sequence}",
        size=int(size),
        queue=names[int(queue)],
        definition=names[int(definition)],
        reserved_at=int(reserved_at) / 1000,
        job_id=job_id,
        outcome=_OUTCOMES[outcome],
        reason=reason,
    )
