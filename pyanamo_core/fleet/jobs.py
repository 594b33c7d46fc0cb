"""Batch's answers as values: jobs, attempts, queues, environments, definitions, and how they are read from the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

WAITING: Final = ("SUBMITTED", "PENDING", "RUNNABLE")
STARTED: Final = ("STARTING", "RUNNING")
ENDED: Final = ("SUCCEEDED", "FAILED")

REASON: Final = "PyAnamo: "
"""How the reasons begin that we give Batch for a cancelled or terminated job."""


@dataclass(frozen=True)
class Attempt:
    """An attempt of a job that has ended (seconds since 1970)."""

    started: float
    ended: float
    exit_code: int | None
    reason: str
    """Of the container, e.g. `OutOfMemoryError: Container killed due to memory usage`."""
    status_reason: str
    """Of the attempt, e.g. `Host EC2 (instance i-0123) terminated.`"""
    host: str
    log_stream: str

    @property
    def told(self) -> str:
        """In one line, for people."""
        code = "" if self.exit_code is None else f"exit code {self.exit_code}"
        return "; ".join(part for part in (self.reason, code, self.status_reason) if part) or "no reason given"


@dataclass(frozen=True)
class Job:
    """A parent, a child or a plain job, as DescribeJobs tells it."""

    job_id: str
    name: str
    status: str
    status_reason: str = ""
    size: int = 1
    index: int | None = None
    summary: Mapping[str, int] = field(default_factory=dict[str, int])
    """Children by status; of a plain job or a child itself."""
    created: float = 0.0
    stopped: float | None = None
    attempts: tuple[Attempt, ...] = ()
    ended_by_us: bool = False
    """Cancelled or terminated on request."""
    log_group: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def live(self) -> int:
        """Pilots that are SUBMITTED … RUNNING; children that Batch does not count yet are live."""
        if self.ended:
            return 0
        return max(0, self.size - self.summary.get("SUCCEEDED", 0) - self.summary.get("FAILED", 0))

    @property
    def waiting(self) -> int:
        """Pilots that have not started."""
        return max(0, self.live - sum(self.summary.get(status, 0) for status in STARTED))

    @property
    def failed(self) -> int:
        return self.summary.get("FAILED", 0)


@dataclass(frozen=True)
class Found:
    """A job as ListJobs tells it."""

    job_id: str
    name: str
    status: str
    status_reason: str
    created: float


@dataclass(frozen=True)
class Queue:
    """A job queue and where its jobs can run."""

    name: str
    state: str
    status: str
    status_reason: str
    environments: tuple[str, ...]

    @property
    def open(self) -> bool:
        return self.state == "ENABLED" and self.status not in ("INVALID", "DELETING", "DELETED")


@dataclass(frozen=True)
class Environment:
    """A compute environment."""

    name: str
    state: str
    status: str
    status_reason: str
    max_vcpus: int | None
    desired_vcpus: int | None


@dataclass(frozen=True)
class Definition:
    """A revision of a job definition."""

    name: str
    """`name:revision`."""
    vcpus: float
    memory_mb: int
    image: str


def found_of(told: Mapping[str, Any]) -> Found:
    """A job of ListJobs."""
    return Found(
        job_id=told["jobId"],
        name=told.get("jobName", ""),
        status=told.get("status", ""),
        status_reason=told.get("statusReason", ""),
        created=told.get("createdAt", 0) / 1000,
    )


def job_of(told: Mapping[str, Any]) -> Job:
    """A job of DescribeJobs: a parent, a child or a plain one."""
    array: Mapping[str, Any] = told.get("arrayProperties") or {}
    container: Mapping[str, Any] = told.get("container") or {}
    status = told["status"]
    size = int(array.get("size") or 1)
    reason = told.get("statusReason", "")
    logs: Mapping[str, Any] = container.get("logConfiguration") or {}
    options: Mapping[str, str] = logs.get("options") or {}
    return Job(
        job_id=told["jobId"],
        name=told.get("jobName", ""),
        status=status,
        status_reason=reason,
        size=size,
        index=array.get("index"),
        summary=dict(array.get("statusSummary") or {}) if size > 1 else {status: 1},
        created=told.get("createdAt", 0) / 1000,
        stopped=told["stoppedAt"] / 1000 if told.get("stoppedAt") else None,
        attempts=tuple(attempt_of(one) for one in told.get("attempts") or () if one.get("stoppedAt")),
        ended_by_us=bool(told.get("isCancelled") or told.get("isTerminated")) or reason.startswith(REASON),
        log_group=options.get("awslogs-group", ""),
    )


def attempt_of(told: Mapping[str, Any]) -> Attempt:
    """An attempt that has ended, of a job of DescribeJobs."""
    container: Mapping[str, Any] = told.get("container") or {}
    return Attempt(
        started=(told.get("startedAt") or 0) / 1000,
        ended=told["stoppedAt"] / 1000,
        exit_code=container.get("exitCode"),
        reason=container.get("reason", ""),
        status_reason=told.get("statusReason", ""),
        host=container.get("containerInstanceArn", ""),
        log_stream=container.get("logStreamName", ""),
    )


def environment_of(told: Mapping[str, Any]) -> Environment:
    """An environment of DescribeComputeEnvironments."""
    resources: Mapping[str, Any] = told.get("computeResources") or {}
    return Environment(
        name=told["computeEnvironmentName"],
        state=told.get("state", ""),
        status=told.get("status", "VALID"),
        status_reason=told.get("statusReason", ""),
        max_vcpus=resources.get("maxvCpus"),
        desired_vcpus=resources.get("desiredvCpus"),
    )


def definition_of(told: Mapping[str, Any]) -> Definition:
    """A revision of DescribeJobDefinitions."""
    container: Mapping[str, Any] = told.get("containerProperties") or {}
    needs = {one["type"]: one["value"] for one in container.get("resourceRequirements") or ()}
    return Definition(
        name=f"{told['jobDefinitionName']}:{told['revision']}",
        vcpus=float(needs.get("VCPU", container.get("vcpus") or 1)),
        memory_mb=int(needs.get("MEMORY", container.get("memory") or 0)),
        image=container.get("image", ""),
    )
