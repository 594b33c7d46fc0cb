"""The same look from inside: one plain job of the run's definition runs `pyanamo doctor --inside`, under the job role.

It costs what a pilot's start costs. The job ends by itself after ten minutes, whatever becomes of who waits for it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pyanamo_core.aws import is_aws_error
from pyanamo_core.clock import SystemClock
from pyanamo_core.doctor.case import Case
from pyanamo_core.doctor.lines import Line, State
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.fleet.batch import Batch, is_unknown
from pyanamo_core.fleet.explain import end_of
from pyanamo_core.fleet.jobs import Job
from pyanamo_core.fleet.reasons import WAITING, known
from pyanamo_core.protocols import Clock
from pyanamo_core.workflow import Workflow

ATTEMPT_SECONDS: Final = 600
POLL_SECONDS: Final = 3.0
FIND_TRIES: Final = 10
LOG_TRIES: Final = 10
"""CloudWatch Logs lags behind a job's end by some seconds."""
RAN: Final = frozenset({0, 8})
"""Exit codes of a doctor that looked: nothing is wrong, something is."""


def examine_as_job(
    case: Case,
    workflow: Workflow,
    *,
    wait_seconds: float,
    clock: Clock | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Line]:
    """Submit the job, wait for its end, and add its lines to the chart.

    Args:
        wait_seconds: for it to start and end; then it is ended, and why it did not start is told.
        say: told when the job's state changes.
    """
    clock = clock or SystemClock()
    batch = Batch(case.clients)
    name = f"pyanamo-doctor-{uuid.uuid4().hex[:12]}"
    queue = workflow.queue
    with case.chart.part("job", name):
        definition = _definition_of_runs(case, workflow)
        case.chart.ok("job", name, f"submitted to {queue} as {definition}")
        job_id = _submitted(case, batch, clock, name, queue, definition)
        if not job_id:
            case.chart.unknown("job", name, "nobody answered whether it was submitted, and it is not found")
            return case.chart.lines
        try:
            job = _followed(batch, job_id, clock, wait_seconds, say)
        except BaseException:
            batch.terminate(job_id, "nobody waits for it any more")
            raise
        if job is None or not job.ended:
            batch.terminate(job_id, "it did not start in time")
            _not_started(case, name, job, wait_seconds)
            return case.chart.lines
        _told(case, batch, clock, name, job)
    return case.chart.lines


def _definition_of_runs(case: Case, workflow: Workflow) -> str:
    """That of a live run, which keeps to the revision it began with; else the newest, which the next run takes."""
    if case.run_definition:
        return case.run_definition
    if case.definition is not None:
        return f"{case.definition['jobDefinitionName']}:{case.definition['revision']}"
    return workflow.job_definition


def command(case: Case) -> list[str]:
    """What the container runs; the image's entry script passes programs of the image on."""
    words = ["pyanamo", "doctor", "--inside", "--json"]
    words += ["--reads", case.reads] if case.reads else []
    return words + ([] if case.write else ["--no-write"])


def _submitted(case: Case, batch: Batch, clock: Clock, name: str, queue: str, definition: str) -> str:
    """The job's id; "" if nobody knows whether there is one."""
    asked: dict[str, Any] = {
        "jobName": name,
        "jobQueue": queue,
        "jobDefinition": definition,
        "containerOverrides": {
            "command": command(case),
            "environment": [{"name": "PYANAMO_TABLE", "value": case.table}],
        },
        "retryStrategy": {"attempts": 1},
        "timeout": {"attemptDurationSeconds": ATTEMPT_SECONDS},
        # By this tag a role is allowed to end its own jobs and no others (deployments/cloudformation.yaml).
        "tags": {"pyanamo": case.table},
    }
    try:
        with case.asked("batch", "SubmitJob"):
            try:
                return str(case.clients.once("batch").submit_job(**asked)["jobId"])
            except Exception as error:
                if not is_aws_error(error) or not is_unknown(error):
                    raise
    except PyAnamoError:
        raise
    for _ in range(FIND_TRIES):
        clock.sleep(POLL_SECONDS)
        if found := batch.find(name, queue):
            return found[0].job_id
    return ""


def _followed(batch: Batch, job_id: str, clock: Clock, wait_seconds: float, say: Callable[[str], None]) -> Job | None:
    give_up = clock.monotonic() + wait_seconds
    before = ""
    job: Job | None = None
    while clock.monotonic() < give_up:
        job = batch.describe([job_id]).get(job_id)
        if job is not None:
            told = f"job {job_id}: {job.status}" + (f" ({job.status_reason})" if job.status_reason else "")
            if told != before:
                say(told)
                before = told
            if job.ended:
                return job
        clock.sleep(POLL_SECONDS)
    return job


def _not_started(case: Case, name: str, job: Job | None, waited: float) -> None:
    if job is None:
        case.chart.wrong("job", name, "Batch does not know it any more", "Try again.")
        return
    reason = job.status_reason or "Batch gives no reason; a new machine takes minutes"
    mend = (
        known(reason, WAITING).mend or "See queue, environment, network and quota above; --wait SECONDS waits longer."
    )
    case.chart.wrong("job", name, f"after {waited:.0f} s it is {job.status}: {reason}", mend)


def _told(case: Case, batch: Batch, clock: Clock, name: str, job: Job) -> None:
    """The lines that the container printed; else how it ended."""
    last = job.attempts[-1] if job.attempts else None
    code = last.exit_code if last else None
    if code in RAN and last is not None:
        lines = _read(case, clock, job, last.log_stream)
        for line in lines:
            case.chart.take(line)
        if not lines:
            why = "it ran, but its lines cannot be read from its log"
            group = f"{job.log_group or '/aws/batch/job'}, stream {last.log_stream}"
            case.chart.unknown("job", name, why, f"See log group {group}; it ended with exit code {code}.")
        return
    end = end_of(job)
    fact, mend = end.fact, end.advice
    if code == 2:
        fact, mend = (
            "the image's PyAnamo has no `doctor`: it is older than this one",
            "Renew the image (docs/image.md).",
        )
    said = batch.last_log_line(job)
    case.chart.wrong("job", name, f"it failed: {fact}" + (f"; it said: {said[:300]}" if said else ""), mend)


def _read(case: Case, clock: Clock, job: Job, stream: str) -> list[Line]:
    group = job.log_group or "/aws/batch/job"
    for attempt in range(LOG_TRIES):
        try:
            text = _log(case, group, stream)
        except PyAnamoError as error:
            if attempt == 0 and error.exit_code != 4:
                case.chart.told_by("job log", group, error, needed=False)
                return []
            text = ""
        if found := lines_of(text):
            return found
        clock.sleep(POLL_SECONDS)
    return []


def _log(case: Case, group: str, stream: str) -> str:
    messages: list[str] = []
    token: dict[str, str] = {}
    while True:
        told = case.ask("logs", "GetLogEvents", logGroupName=group, logStreamName=stream, startFromHead=True, **token)
        messages += [str(event["message"]) for event in told["events"]]
        after = told.get("nextForwardToken", "")
        if not told["events"] or after == token.get("nextToken"):
            return "\n".join(messages)
        token = {"nextToken": after}


def lines_of(text: str) -> list[Line]:
    """The lines in a container's output: the JSON that `pyanamo doctor --inside --json` printed, among other things."""
    start, end = text.find("\n{\n") + 1 if not text.startswith("{") else 0, text.rfind("}")
    if end < 0:
        return []
    try:
        told: Mapping[str, Any] = json.loads(text[start : end + 1])
        listed: Sequence[Mapping[str, Any]] = told["lines"]
        return [Line(**{**one, "state": State(one["state"])}) for one in listed]
    except (ValueError, KeyError, TypeError):
        return []
