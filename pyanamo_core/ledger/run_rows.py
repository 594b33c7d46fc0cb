"""A run's row (below 1 KB): its submissions stand in it as one short text each. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyanamo_core.errors import RunConflict
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.rows import Row, changed_fields, clipped, key, pack, read_fields, unpack
from pyanamo_core.model import Mode, Run, Submission

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


def sequence_key(sequence: int) -> str:
    """The name of a submission in the row's map."""
    return f"n{sequence}"


def run_row(run: Run) -> Row:
    """A run's row; what its conditions compare is always there."""
    names = names_of(run.submissions)
    row = key(x.RUN_ID, run.run_id)
    row |= {x.RUN[field]: pack(value) for field, value in changed_fields(run, x.RUN).items()}
    for field in ("mode", "watcher", "watcher_fence", "watcher_lease_end", "token", "workflow_version"):
        row[x.RUN[field]] = pack(getattr(run, field))
    row[x.SUBMISSIONS] = pack({sequence_key(s.sequence): told(s, names) for s in run.submissions})
    row[x.NAMES] = pack(names)
    return row


def read_run(row: Mapping[str, Any]) -> Run:
    """The run of a row. Attributes that this version does not know are left aside."""
    fields = read_fields(row, x.RUN)
    names: list[str] = unpack(row[x.NAMES])
    texts: dict[str, str] = unpack(row[x.SUBMISSIONS])
    submissions = [
        read(sequence, fields["token"], texts[sequence_key(sequence)], names) for sequence in range(len(texts))
    ]
    fields["mode"] = Mode(fields["mode"])
    return Run.model_validate({"run_id": row[x.RANGE]["S"], "submissions": submissions} | fields)
