"""Batch's calls as the fleet needs them: submit once, find by name, describe parents, list children, cancel, terminate.

SubmitJob has no client token and the SDK repeats what was not answered, so it goes through a client that sends it one
single time; what then stays open is for submit.py. All other calls may be repeated and use the patient client.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, cast

from pyanamo_core.aws import Clients, code_of, explain, explained, is_aws_error, unanswered
from pyanamo_core.errors import (
    AwsFailed,
    AwsMissing,
    DefinitionMissing,
    EndpointDown,
    OverridesTooBig,
    QueueClosed,
    QueueMissing,
    SubmitRefused,
    SubmitThrottled,
    SubmitUnknown,
)
from pyanamo_core.fleet.jobs import (
    REASON,
    Definition,
    Environment,
    Found,
    Job,
    Queue,
    definition_of,
    environment_of,
    found_of,
    job_of,
)

DESCRIBE_MAX: Final = 100
"""Ids that one DescribeJobs takes."""
CHILDREN_MAX: Final = 100
"""Failed children that are looked at when their number rises."""
CHILDREN_PAGES: Final = 5
"""ListJobs calls that this may take at most."""
OVERRIDES_MAX_BYTES: Final = 8192
"""Batch's limit of containerOverrides."""

THROTTLED: Final = frozenset(
    {"TooManyRequestsException", "ThrottlingException", "Throttling", "RequestLimitExceeded", "RequestThrottled", "429"}
)

RETRY: Final[dict[str, Any]] = {
    "attempts": 10,
    "evaluateOnExit": [
        {"onExitCode": "75", "action": "RETRY"},  # items handed back in good order
        {"onExitCode": "143", "action": "RETRY"},  # TERM before the pilot's handlers stood
        {"onStatusReason": "Host EC2*", "action": "RETRY"},
        {"onReason": "*", "action": "EXIT"},  # without it Batch would try again
    ],
}
"""The retry rules: only what says nothing against the pilot is started again, by Batch itself, on another host."""


class Batch:
    """The calls. Every one raises PyAnamo's errors (aws.explain) instead of the SDK's."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    @property
    def _batch(self) -> Any:
        return self._clients.client("batch")

    # ------------------------------------------------------------------------------------------ submit and find

    def submit(self, name: str, *, queue: str, definition: str, size: int, environment: Mapping[str, str]) -> str:
        """Submit one job, exactly one request: an array of `size` children, or a plain job if it is 1.

        Args:
            name: the job's name, unique to this submission.
            definition: `name:revision`.
            environment: what is overridden, at most 8,192 bytes with its keys.

        Returns:
            The job's id.

        Raises:
            OverridesTooBig: nothing was sent.
            SubmitRefused: Batch said no; nothing was submitted.
            SubmitThrottled: likewise; another time it may say yes.
            NoCredentials, AccessDenied …: likewise.
            SubmitUnknown: no answer, or one that says nothing (5xx): it may have been submitted.
        """
        overrides = checked_overrides(name, environment)
        asked: dict[str, Any] = {
            "jobName": name,
            "jobQueue": queue,
            "jobDefinition": definition,
            "containerOverrides": overrides,
            "retryStrategy": RETRY,
        }
        if table := environment.get("PYANAMO_TABLE"):
            # By this tag a role is allowed to end its own jobs and no others (deployments/cloudformation.yaml).
            asked["tags"] = {"pyanamo": table}
        if size > 1:
            asked["arrayProperties"] = {"size": size}
        try:
            return str(self._clients.once("batch").submit_job(**asked)["jobId"])
        except Exception as error:
            if not is_aws_error(error):
                raise
            if is_unknown(error):
                raise SubmitUnknown(name=name, queue=queue, reason=_short(error)) from error
            if code_of(error) in THROTTLED:
                raise SubmitThrottled(name=name, queue=queue, reason=_short(error)) from error
            told = explain(error, "batch", "SubmitJob")
            if not isinstance(told, AwsFailed | AwsMissing):
                raise told from error
            raise SubmitRefused(name=name, queue=queue, reason=str(told.facts.get("reason", told))) from error

    def find(self, name: str, queue: str) -> list[Found]:
        """Jobs of exactly this name on the queue, the oldest first (children are not among them)."""
        found: list[Found] = []
        with explained("batch", "ListJobs"):
            pages = self._batch.get_paginator("list_jobs").paginate(
                jobQueue=queue, filters=[{"name": "JOB_NAME", "values": [name]}]
            )
            for page in pages:
                # Batch's filter ignores case.
                found += [found_of(told) for told in page["jobSummaryList"] if told["jobName"] == name]
        return sorted(found, key=lambda job: (job.created, job.job_id))

    # ------------------------------------------------------------------------------------------ look

    def describe(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Jobs by id, 100 ids a call; a job that Batch does not know is absent from the answer, no error."""
        wanted = list(dict.fromkeys(job_ids))
        jobs: dict[str, Job] = {}
        for start in range(0, len(wanted), DESCRIBE_MAX):
            with explained("batch", "DescribeJobs"):
                answer = self._batch.describe_jobs(jobs=wanted[start : start + DESCRIBE_MAX])
            jobs |= {told["jobId"]: job_of(told) for told in answer.get("jobs", ())}
        return jobs

    def children(self, parent: str, status: str, limit: int = CHILDREN_MAX) -> list[Found]:
        """Up to `limit` (≤ 100) children of an array in a status, by one call."""
        with explained("batch", "ListJobs"):
            answer = self._batch.list_jobs(arrayJobId=parent, jobStatus=status, maxResults=min(limit, CHILDREN_MAX))
        return [found_of(told) for told in answer.get("jobSummaryList", ())][:limit]

    def failed_children(self, job: Job, skip: Collection[str] = ()) -> list[Job]:
        """Up to 100 failed children of an array with their attempts, or the plain job itself; a handful of calls.

        Args:
            job: the parent, as described.
            skip: ids of children that are known already.
        """
        if job.size == 1:
            return [job] if job.status == "FAILED" and job.job_id not in skip else []
        fresh: list[str] = []
        with explained("batch", "ListJobs"):
            pages = self._batch.get_paginator("list_jobs").paginate(
                arrayJobId=job.job_id,
                jobStatus="FAILED",
                PaginationConfig={"PageSize": CHILDREN_MAX, "MaxItems": CHILDREN_PAGES * CHILDREN_MAX},
            )
            for page in pages:
                fresh += [told["jobId"] for told in page["jobSummaryList"] if told["jobId"] not in skip]
                if len(fresh) >= CHILDREN_MAX:
                    break
        return list(self.describe(fresh[:CHILDREN_MAX]).values())

    # ------------------------------------------------------------------------------------------ end

    def cancel(self, job_id: str, reason: str) -> None:
        """Cancel what has not started; running children are spared. An unknown job is fine."""
        self._end("cancel_job", "CancelJob", job_id, reason)

    def terminate(self, job_id: str, reason: str) -> None:
        """End a job with all its children. An unknown job is fine."""
        self._end("terminate_job", "TerminateJob", job_id, reason)

    def _end(self, method: str, operation: str, job_id: str, reason: str) -> None:
        try:
            getattr(self._batch, method)(jobId=job_id, reason=REASON + reason)
        except Exception as error:
            if not is_aws_error(error):
                raise
            if code_of(error) == "ClientException" and _says_unknown(error):
                return
            raise explain(error, "batch", operation) from error

    # ------------------------------------------------------------------------------------------ surroundings

    def queue(self, name: str) -> Queue:
        """The queue as it is now.

        Raises:
            QueueMissing: there is none.
        """
        with explained("batch", "DescribeJobQueues"):
            told = self._batch.describe_job_queues(jobQueues=[name]).get("jobQueues", ())
        if not told:
            raise QueueMissing(queue=name)
        found = told[0]
        return Queue(
            name=found["jobQueueName"],
            state=found.get("state", ""),
            status=found.get("status", "VALID"),
            status_reason=found.get("statusReason", ""),
            environments=tuple(one["computeEnvironment"] for one in found.get("computeEnvironmentOrder", ())),
        )

    def open_queue(self, name: str) -> Queue:
        """The queue, if it takes jobs.

        Raises:
            QueueMissing, QueueClosed: with what to do.
        """
        queue = self.queue(name)
        if not queue.open:
            reason = f" ({queue.status_reason})" if queue.status_reason else ""
            raise QueueClosed(queue=name, state=queue.state, status=queue.status, reason=reason)
        return queue

    def environments(self, names: Sequence[str]) -> list[Environment]:
        """Compute environments by name or ARN."""
        if not names:
            return []
        with explained("batch", "DescribeComputeEnvironments"):
            told = self._batch.describe_compute_environments(computeEnvironments=list(names))
        return [environment_of(one) for one in told.get("computeEnvironments", ())]

    def definition(self, name: str) -> Definition:
        """The newest active revision of a job definition, or the one that `name:revision` or an ARN names.

        Raises:
            DefinitionMissing: there is no active one.
        """
        plain, _, revision = name.partition(":")
        asked: dict[str, Any] = {"jobDefinitionName": plain, "status": "ACTIVE"}
        if name.startswith("arn:"):
            asked, revision = {"jobDefinitions": [name]}, ""
        revisions: list[dict[str, Any]] = []
        with explained("batch", "DescribeJobDefinitions"):
            for page in self._batch.get_paginator("describe_job_definitions").paginate(**asked):
                revisions += page["jobDefinitions"]
        active = [
            one
            for one in revisions
            if one.get("status", "ACTIVE") == "ACTIVE" and revision in ("", str(one["revision"]))
        ]
        if not active:
            raise DefinitionMissing(definition=name)
        return definition_of(max(active, key=lambda one: int(one["revision"])))

    def last_log_line(self, job: Job) -> str:
        """The last line that the job's last attempt wrote to CloudWatch Logs, or "" (best effort, one call)."""
        stream = next((attempt.log_stream for attempt in reversed(job.attempts) if attempt.log_stream), "")
        if not stream:
            return ""
        try:
            answer = self._clients.client("logs").get_log_events(
                logGroupName=job.log_group or "/aws/batch/job", logStreamName=stream, limit=5, startFromHead=False
            )
        except Exception as error:
            if not is_aws_error(error):
                raise
            return ""
        lines = [str(event["message"]).strip() for event in answer.get("events", ())]
        return next((line for line in reversed(lines) if line), "")


# ---------------------------------------------------------------------------------------------------- pure parts


def checked_overrides(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """containerOverrides with this environment.

    Raises:
        OverridesTooBig: Batch would refuse them.
    """
    overrides = {"environment": [{"name": key, "value": value} for key, value in sorted(environment.items())]}
    size = len(json.dumps(overrides, separators=(",", ":")).encode())
    if size > OVERRIDES_MAX_BYTES:
        raise OverridesTooBig(name=name, size=size, limit=OVERRIDES_MAX_BYTES)
    return overrides


def is_unknown(error: BaseException) -> bool:
    """May the call have happened although it raised? Without an answer, or with a 5xx, it may."""
    if unanswered(error):
        return True
    response = cast("dict[str, Any]", getattr(error, "response", None) or {})
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return isinstance(status, int) and status >= 500


def passes(error: AwsFailed | EndpointDown) -> bool:
    """Is this a trouble of Batch itself that passes: silence, an error of its own (5xx), too many requests?"""
    if error.facts.get("service") != "batch":
        return False
    if isinstance(error, EndpointDown) or error.code in THROTTLED:
        return True
    status = error.facts.get("status")
    return isinstance(status, int) and status >= 500


def _says_unknown(error: BaseException) -> bool:
    """AWS has no code of its own for an unknown job: ClientException, told apart by its text."""
    text = str(error).lower()
    return any(words in text for words in ("not exist", "not found", "no such", "unknown job", "doesn't exist"))


def _short(error: BaseException) -> str:
    return f"{code_of(error)}: {error}"[:300]
