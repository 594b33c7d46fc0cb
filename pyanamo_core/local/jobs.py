"""Jobs, their attempts and arrays as the local Batch keeps them, and as DescribeJobs and ListJobs tell them.

Times are milliseconds since 1970, as Batch's are. Nothing here locks: the engine does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Status = Literal["SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED"]
STATUSES: Final[tuple[Status, ...]] = (
    "SUBMITTED",
    "PENDING",
    "RUNNABLE",
    "STARTING",
    "RUNNING",
    "SUCCEEDED",
    "FAILED",
)
ENDED: Final[frozenset[Status]] = frozenset({"SUCCEEDED", "FAILED"})
STARTED: Final[frozenset[Status]] = frozenset({"STARTING", "RUNNING"})


@dataclass(frozen=True)
class Plan:
    """What all jobs of one submission share: the definition with its overrides worked in.

    Attributes:
        command: words, parameters filled in; none: the image's own.
        environment: of definition and overrides, without Batch's own variables.
        vcpus, memory_mb: of one job.
        retry: `retryStrategy`.
        timeout_seconds: attemptDurationSeconds; 0 is none.
        log_group, log_prefix: where in CloudWatch Logs the output goes.
        secrets: variables of the container that no description shows.
    """

    name: str
    region: str
    queue_arn: str
    queue_name: str
    definition_arn: str
    definition_name: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    vcpus: float
    memory_mb: int
    retry: Mapping[str, Any]
    timeout_seconds: int
    log_group: str
    log_prefix: str
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    container: Mapping[str, Any]
    secrets: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass
class Attempt:
    """One try of a job."""

    started_at: int
    log_stream: str
    host: str = ""
    stopped_at: int = 0
    exit_code: int | None = None
    reason: str = ""
    status_reason: str = ""

    def told(self) -> dict[str, Any]:
        """As in DescribeJobs' `attempts`."""
        container: dict[str, Any] = {
            "logStreamName": self.log_stream,
            "containerInstanceArn": f"arn:aws:ecs:local:000000000000:container-instance/local/{self.host}",
        }
        if self.exit_code is not None:
            container["exitCode"] = self.exit_code
        if self.reason:
            container["reason"] = self.reason
        return {
            "container": container,
            "startedAt": self.started_at,
            "stoppedAt": self.stopped_at,
            "statusReason": self.status_reason,
        }


@dataclass
class Job:
    """A job that runs: a plain one or a child of an array."""

    job_id: str
    plan: Plan
    created_at: int
    index: int | None = None
    status: Status = "SUBMITTED"
    status_reason: str = ""
    started_at: int = 0
    stopped_at: int = 0
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    is_cancelled: bool = False
    is_terminated: bool = False
    forgotten: bool = False

    @property
    def arn(self) -> str:
        return _job_arn(self.plan, self.job_id)

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def summary(self) -> dict[str, Any]:
        """As in ListJobs."""
        told = _common(self)
        if self.attempts and (last := self.attempts[-1]).stopped_at:
            ended = last.told()["container"]
            told["container"] = {key: ended[key] for key in ("exitCode", "reason") if key in ended}
        if self.index is not None:
            told["arrayProperties"] = {"index": self.index}
        return told

    def detail(self) -> dict[str, Any]:
        """As in DescribeJobs."""
        told = _common(self) | _planned(self.plan)
        container = dict(told["container"])
        if self.attempts:
            container |= self.attempts[-1].told()["container"]
        told |= {
            "container": container,
            "attempts": [attempt.told() for attempt in self.attempts if attempt.stopped_at],
            "isCancelled": self.is_cancelled,
            "isTerminated": self.is_terminated,
        }
        if self.index is not None:
            told["arrayProperties"] = {"index": self.index, "statusSummary": {}}
        return told


@dataclass
class Array:
    """An array job: it runs nothing itself, and is PENDING until its last child has ended."""

    job_id: str
    plan: Plan
    created_at: int
    children: list[Job]
    is_cancelled: bool = False
    is_terminated: bool = False
    forgotten: bool = False

    @property
    def arn(self) -> str:
        return _job_arn(self.plan, self.job_id)

    @property
    def ended(self) -> bool:
        return all(child.ended for child in self.children)

    @property
    def status(self) -> Status:
        if not self.ended:
            return "PENDING"
        return "FAILED" if any(child.status == "FAILED" for child in self.children) else "SUCCEEDED"

    @property
    def status_reason(self) -> str:
        return "Array Child Job failed" if self.status == "FAILED" else ""

    @property
    def started_at(self) -> int:
        return min((child.started_at for child in self.children if child.started_at), default=0)

    @property
    def stopped_at(self) -> int:
        return max(child.stopped_at for child in self.children) if self.ended else 0

    def summary(self) -> dict[str, Any]:
        """As in ListJobs."""
        return _common(self) | {"arrayProperties": {"size": len(self.children)}}

    def detail(self) -> dict[str, Any]:
        """As in DescribeJobs; the summary names every status, the empty ones too."""
        counted = Counter(child.status for child in self.children)
        return (
            _common(self)
            | _planned(self.plan)
            | {
                "arrayProperties": {
                    "size": len(self.children),
                    "statusSummary": {status: counted[status] for status in STATUSES},
                },
                "attempts": [],
                "isCancelled": self.is_cancelled,
                "isTerminated": self.is_terminated,
            }
        )


def _job_arn(plan: Plan, job_id: str) -> str:
    return plan.queue_arn.partition(":job-queue/")[0] + f":job/{job_id}"


def _common(job: Job | Array) -> dict[str, Any]:
    told: dict[str, Any] = {
        "jobArn": job.arn,
        "jobId": job.job_id,
        "jobName": job.plan.name,
        "jobDefinition": job.plan.definition_arn,
        "createdAt": job.created_at,
        "status": job.status,
    }
    told |= {"statusReason": job.status_reason} if job.status_reason else {}
    told |= {"startedAt": job.started_at} if job.started_at else {}
    told |= {"stoppedAt": job.stopped_at} if job.stopped_at else {}
    return told


def _planned(plan: Plan) -> dict[str, Any]:
    told: dict[str, Any] = {
        "jobQueue": plan.queue_arn,
        "dependsOn": [],
        "parameters": dict(plan.parameters),
        "tags": dict(plan.tags),
        "platformCapabilities": ["EC2"],
        "container": {
            "image": plan.image,
            "command": list(plan.command),
            "environment": [{"name": name, "value": value} for name, value in plan.environment.items()],
            "volumes": [],
            "mountPoints": [],
            "ulimits": [],
            "networkInterfaces": [],
            "secrets": [],
            "resourceRequirements": [
                {"type": "VCPU", "value": f"{plan.vcpus:g}"},
                {"type": "MEMORY", "value": str(plan.memory_mb)},
            ],
        },
    }
    told |= {"retryStrategy": _with_capitals(plan.retry)} if plan.retry else {}
    told |= {"timeout": {"attemptDurationSeconds": plan.timeout_seconds}} if plan.timeout_seconds else {}
    if role := plan.container.get("jobRoleArn"):
        told["container"]["jobRoleArn"] = role
    if log := plan.container.get("logConfiguration"):
        told["container"]["logConfiguration"] = log
    return told


def _with_capitals(retry: Mapping[str, Any]) -> dict[str, Any]:
    rules = [dict(rule) | {"action": str(rule.get("action", "")).upper()} for rule in retry.get("evaluateOnExit") or ()]
    return dict(retry) | ({"evaluateOnExit": rules} if rules else {})
