"""Why nothing runs, or why it stopped: ledger, fleet, queue, compute environment and children's exits in plain words.

`findings` is pure; `look` makes the few calls that it needs (four, and one for each array that waits).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pyanamo_core.errors import DefinitionMissing, PyAnamoError, QueueMissing
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.jobs import Definition, Environment, Job, Queue
from pyanamo_core.fleet.plan import HANDED_BACK, merged
from pyanamo_core.model import Counts, Mode, Run

EXIT_CODES: Final[Mapping[int, str]] = {
    1: "the pilot died of an error that nobody foresaw: see its log",
    2: "the pilot was started with wrong options: see the job definition's command",
    3: "the pilot found bad input: see its log",
    4: "the pilot did not find its table, workflow or run: see PYANAMO_TABLE, region and role",
    5: "the ledger refused the pilot: see its log",
    6: "the pilot's surroundings are wrong (credentials, region, endpoint, disk): see its log",
    75: "the pilot handed its items back again and again (Spot, drain, host fault)",
    125: "the container could not be created: see the reason",
    126: "the container's command cannot be executed: see the job definition's command",
    127: "the container has no command `pyanamo`: is PyAnamo in the image?",
    137: "the pilot was killed: by the kernel for memory, or with its host",
    139: "the pilot crashed (segmentation fault)",
    143: "the pilot was told to end before it had begun",
}

IMAGE_WORDS: Final = (
    "cannotpullcontainer",
    "pull access denied",
    "manifest unknown",
    "imagenotfound",
    "image not found",
)


@dataclass(frozen=True)
class Finding:
    """Something that keeps pilots from working: of what, what it is, and what to do."""

    subject: str
    fact: str
    advice: str = ""

    @property
    def told(self) -> str:
        return f"{self.subject}: {self.fact}" + (f". {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class Observation:
    """What is known about a run at one moment."""

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


def look(
    batch: Batch, run: Run, counts: Counts, claimable: int, jobs: Sequence[Job], *, queue: str, definition: str
) -> Observation:
    """Ask Batch what `findings` needs. A queue or definition that does not exist is a finding, no error."""
    found_queue: Queue | None = None
    found_definition: Definition | None = None
    try:
        found_queue = batch.queue(queue)
    except QueueMissing:
        found_queue = None
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
    known = {job.job_id for job in jobs}
    return Observation(
        run=run,
        counts=counts,
        claimable=claimable,
        jobs=tuple(jobs),
        missing=tuple(s.job_id for s in run.submissions if s.job_id and s.job_id not in known),
        queue=found_queue,
        queue_name=queue,
        environments=tuple(batch.environments(found_queue.environments)) if found_queue else (),
        definition=found_definition,
        definition_name=definition,
        waiting_reasons=tuple(dict.fromkeys(reasons)),
        failed=tuple(failed),
    )


def _waiting_reasons(batch: Batch, job: Job) -> list[str]:
    if job.size == 1:
        return [job.status_reason] if job.status_reason else []
    return [child.status_reason for child in batch.children(job.job_id, "RUNNABLE") if child.status_reason]


def findings(seen: Observation) -> list[Finding]:
    """What keeps this run from going on, the gravest first; empty if nothing does."""
    return [
        *_about_run(seen),
        *_about_queue(seen),
        *_about_environments(seen),
        *_about_waiting(seen),
        *_about_ends(seen),
    ]


def _about_run(seen: Observation) -> list[Finding]:
    run, counts = seen.run, seen.counts
    name = f"run {run.run_id}"
    found: list[Finding] = []
    if run.ended is not None:
        return [Finding(name, f"it has ended: {run.outcome}" + (f" ({run.reason})" if run.reason else ""))]
    if run.mode is not Mode.RUN:
        found.append(Finding(name, f"its mode is {run.mode}" + (f" ({run.reason})" if run.reason else "")))
    if counts.total == 0:
        found.append(Finding("table", "it holds no items", "Import a sheet with: pyanamo sheet import SHEET"))
    elif counts.open == 0:
        found.append(Finding("table", "nothing is left to do"))
    elif seen.claimable == 0 and counts.locked == 0:
        found.append(Finding("table", f"{counts.waiting} items wait for their next try, none is due within 5 minutes"))
    for submission in run.submissions:
        if submission.outcome == "reserved":
            found.append(
                Finding(
                    f"job {submission.name}",
                    "nobody knows yet whether it was submitted",
                    "It is looked for by its name.",
                )
            )
        elif submission.outcome == "failed":
            found.append(Finding(f"job {submission.name}", submission.reason or "it was not submitted"))
    found += [
        Finding(f"job {job_id}", "Batch does not know it (any more)", "Its items come back by their leases.")
        for job_id in seen.missing
    ]
    return found


def _about_queue(seen: Observation) -> list[Finding]:
    name = f"queue {seen.queue_name}"
    if seen.queue is None:
        return [Finding(name, "it does not exist", "Create it, or correct `queue` in the workflow file.")]
    if seen.queue.open:
        return []
    reason = f" ({seen.queue.status_reason})" if seen.queue.status_reason else ""
    advice = f"Enable it with: aws batch update-job-queue --job-queue {seen.queue_name} --state ENABLED"
    return [Finding(name, f"it is {seen.queue.state}, {seen.queue.status}{reason}", advice)]


def _about_environments(seen: Observation) -> list[Finding]:
    found: list[Finding] = []
    if seen.definition is None:
        found.append(Finding(f"job definition {seen.definition_name}", "no revision of it is active", "Register it."))
    running = sum(merged(job.summary for job in seen.jobs).get(status, 0) for status in ("STARTING", "RUNNING"))
    waiting = sum(job.waiting for job in seen.jobs)
    for one in seen.environments:
        name = f"compute environment {one.name}"
        reason = f" ({one.status_reason})" if one.status_reason else ""
        if one.state != "ENABLED":
            found.append(Finding(name, f"it is {one.state}{reason}", "Enable it."))
        elif one.status == "INVALID":
            found.append(Finding(name, f"it is INVALID{reason}", "Its reason says what to mend."))
        elif one.max_vcpus is not None and seen.definition is not None and waiting:
            found += _about_ceiling(name, one.max_vcpus, one.desired_vcpus, seen.definition, running, waiting)
    return found


def _about_ceiling(
    name: str, ceiling: int, desired: int | None, definition: Definition, running: int, waiting: int
) -> list[Finding]:
    if definition.vcpus > ceiling:
        fact = f"a pilot asks for {definition.vcpus:g} vCPUs, the ceiling is {ceiling}: it can never start"
        return [Finding(name, fact, "Raise maxvCpus, or ask for fewer vCPUs.")]
    used = max(running * definition.vcpus, float(desired or 0))
    if used + definition.vcpus <= ceiling:
        return []
    fact = f"it is at its ceiling of {ceiling} vCPUs; {waiting} pilots of {definition.vcpus:g} wait"
    return [Finding(name, fact, "They start as others end; raise maxvCpus to start them sooner.")]


def _about_waiting(seen: Observation) -> list[Finding]:
    waiting = sum(job.waiting for job in seen.jobs)
    if not waiting:
        return []
    if seen.waiting_reasons:
        return [Finding(f"{waiting} pilots not started", reason, _advice(reason)) for reason in seen.waiting_reasons]
    started = sum(job.live for job in seen.jobs) - waiting
    return (
        []
        if started
        else [Finding(f"{waiting} pilots not started", "Batch gives no reason; a new machine takes minutes")]
    )


def _advice(reason: str) -> str:
    if reason.startswith("MISCONFIGURATION:"):
        return "This does not pass by itself: change the compute environment or the job definition."
    if reason.startswith("CAPACITY:"):
        return "This passes when capacity is free; more instance types or zones help."
    return ""


def _about_ends(seen: Observation) -> list[Finding]:
    """Failed pilots, grouped by what Batch says of their last attempt."""
    grouped: Counter[tuple[str, str]] = Counter()
    for job in seen.failed:
        if not job.ended_by_us:
            grouped[end_of(job)] += 1
    return [Finding(f"{count} pilots failed", fact, advice) for (fact, advice), count in grouped.most_common()]


def end_of(job: Job) -> tuple[str, str]:
    """How a failed pilot ended, and what that means."""
    if not job.attempts:
        return job.status_reason or "no reason given", "It never started: see the job definition's roles and image."
    last = job.attempts[-1]
    text = f"{last.reason} {last.status_reason}".lower().replace(" ", "")
    if any(word.replace(" ", "") in text for word in IMAGE_WORDS):
        return (
            last.reason or last.status_reason,
            "The image cannot be pulled: check its name, tag and the execution role.",
        )
    if last.reason.startswith("OutOfMemoryError"):
        return last.told, "The container needs more memory, or fewer slots."
    if last.status_reason.startswith("Host EC2"):
        return "its host was terminated", "Spot reclaims hosts; Batch starts such pilots again, up to 10 times."
    advice = EXIT_CODES.get(last.exit_code, "") if last.exit_code is not None else ""
    return last.told, advice


def says_nothing_against(job: Job) -> bool:
    """Did this failed pilot end in good order, by its host's end, or on request? Then it is no sign of a wrong set-up."""
    if job.ended_by_us:
        return True
    if not job.attempts:
        return False
    last = job.attempts[-1]
    return last.exit_code in HANDED_BACK or last.status_reason.startswith("Host EC2")


def told(seen: Observation, limit: int = 2) -> str:
    """The gravest findings in one line."""
    return "; ".join(one.told for one in findings(seen)[:limit])


def guarded(error: PyAnamoError) -> Finding:
    """A finding for what could not be asked."""
    return Finding("Batch", f"it could not be asked: {error}")
