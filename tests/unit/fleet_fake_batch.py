"""A Batch that stands still until a test moves it: jobs, arrays, lost answers, forgotten jobs. Answers are shaped as Batch's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

from pyanamo_core.clock import FakeClock

LIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


def refused(operation: str, code: str, message: str, status: int = 400) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, operation)


@dataclass
class FakeJob:
    job_id: str
    asked: dict[str, Any]
    created: float
    visible: float
    children: list[dict[str, Any]]
    is_array: bool
    forgotten: bool = False

    @property
    def name(self) -> str:
        return self.asked["jobName"]

    @property
    def status(self) -> str:
        statuses = {child["status"] for child in self.children}
        if not self.is_array:
            return self.children[0]["status"]
        if statuses & set(LIVE):
            return "PENDING"
        return "FAILED" if "FAILED" in statuses else "SUCCEEDED"

    def set(self, status: str, *indexes: int, **more: Any) -> None:
        for index in indexes or range(len(self.children)):
            self.children[index] |= {"status": status} | more

    def fail(self, index: int, *, exit_code: int | None = 1, host: str = "", at: float = 0.0, **more: Any) -> None:
        """End a child with one attempt: `reason` and `status_reason` may be given."""
        container: dict[str, Any] = {"containerInstanceArn": host} if host else {}
        container |= {"exitCode": exit_code} if exit_code is not None else {}
        container |= {"reason": more["reason"]} if more.get("reason") else {}
        attempt = {
            "startedAt": 1000,
            "stoppedAt": int(at * 1000) or 2000,
            "container": container,
            "statusReason": more.get("status_reason", "Essential container in task exited"),
        }
        child = self.children[index]
        self.set("FAILED", index, attempts=[*child.get("attempts", []), attempt], stoppedAt=attempt["stoppedAt"])


class FakeBatch:
    """Both the client for SubmitJob and the patient one."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.jobs: list[FakeJob] = []
        self.calls: Counter[str] = Counter()
        self.submit_faults: list[Any] = []
        """Per SubmitJob to come: None, an exception, "lost" (it happens, nobody says so), ("late", seconds) or a callable."""
        self.queues: dict[str, dict[str, Any]] = {
            "queue": {
                "jobQueueName": "queue",
                "state": "ENABLED",
                "status": "VALID",
                "computeEnvironmentOrder": [{"order": 1, "computeEnvironment": "ce"}],
            }
        }
        self.environments: dict[str, dict[str, Any]] = {
            "ce": {
                "computeEnvironmentName": "ce",
                "state": "ENABLED",
                "status": "VALID",
                "computeResources": {"maxvCpus": 64},
            }
        }
        self.definitions: list[dict[str, Any]] = [
            {"jobDefinitionName": "definition", "revision": revision, "status": "ACTIVE", "containerProperties": {}}
            for revision in (1, 3, 2)
        ]
        self.ended: list[tuple[str, str]] = []
        """("cancel" or "terminate", job id), as asked."""

    # ------------------------------------------------------------------ what tests do

    def job(self, number: int = 0) -> FakeJob:
        return self.jobs[number]

    def live_jobs(self) -> list[FakeJob]:
        return [job for job in self.jobs if job.status in LIVE]

    # ------------------------------------------------------------------ Batch

    def submit_job(self, **asked: Any) -> dict[str, Any]:
        self.calls["SubmitJob"] += 1
        fault = self.submit_faults.pop(0) if self.submit_faults else None
        if callable(fault):
            fault = fault()
        if isinstance(fault, Exception):
            raise fault
        delay = fault[1] if isinstance(fault, tuple) else 0.0
        size = asked.get("arrayProperties", {}).get("size", 1)
        assert size == 1 or "arrayProperties" not in asked or 2 <= size <= 10_000
        number = len(self.jobs)
        job = FakeJob(
            job_id=f"job-{number}",
            asked=asked,
            created=self.clock.now() + delay,
            visible=self.clock.now() + delay,
            children=[{"status": "RUNNABLE"} for _ in range(size)],
            is_array="arrayProperties" in asked,
        )
        self.jobs.append(job)
        if fault == "lost" or delay:
            raise ReadTimeoutError(endpoint_url="fake")
        return {"jobId": job.job_id, "jobName": job.name}

    def _seen(self) -> list[FakeJob]:
        return [job for job in self.jobs if not job.forgotten and job.visible <= self.clock.now()]

    def _child(self, job: FakeJob, index: int) -> dict[str, Any]:
        child = job.children[index]
        told = {"jobId": f"{job.job_id}:{index}", "jobName": job.name, "createdAt": int(job.created * 1000)}
        return told | child | {"arrayProperties": {"index": index}}

    def describe_jobs(self, *, jobs: list[str]) -> dict[str, Any]:
        self.calls["DescribeJobs"] += 1
        assert len(jobs) <= 100
        told: list[dict[str, Any]] = []
        for job in self._seen():
            if job.job_id in jobs:
                summary = Counter(child["status"] for child in job.children)
                common = {"jobId": job.job_id, "jobName": job.name, "createdAt": int(job.created * 1000)}
                if job.is_array:
                    array = {"size": len(job.children), "statusSummary": dict(summary)}
                    told.append(common | {"status": job.status, "arrayProperties": array})
                else:
                    told.append(common | job.children[0])
            told += [
                self._child(job, index)
                for index in range(len(job.children))
                if job.is_array and f"{job.job_id}:{index}" in jobs
            ]
        return {"jobs": told}

    def list_jobs(self, **asked: Any) -> dict[str, Any]:
        self.calls["ListJobs"] += 1
        if "arrayJobId" in asked:
            job = next(job for job in self._seen() if job.job_id == asked["arrayJobId"])
            children = [self._child(job, index) for index in range(len(job.children))]
            wanted = [child for child in children if child["status"] == asked["jobStatus"]]
            return {"jobSummaryList": wanted[: asked.get("maxResults", 100)]}
        (name,) = asked["filters"][0]["values"]
        found = [job for job in self._seen() if job.name.lower() == name.lower()]
        return {
            "jobSummaryList": [
                {"jobId": job.job_id, "jobName": job.name, "status": job.status, "createdAt": int(job.created * 1000)}
                for job in reversed(found)
            ]
        }

    def _end(self, how: str, job_id: str, reason: str, statuses: tuple[str, ...]) -> dict[str, Any]:
        self.ended.append((how, job_id))
        found = [job for job in self.jobs if job.job_id == job_id and not job.forgotten]
        if not found:
            raise refused("TerminateJob", "ClientException", f"Job {job_id} does not exist")
        for index, child in enumerate(found[0].children):
            if child["status"] in statuses:
                found[0].set("FAILED", index, statusReason=reason, stoppedAt=int(self.clock.now() * 1000))
        return {}

    def cancel_job(self, *, jobId: str, reason: str) -> dict[str, Any]:  # noqa: N803 - Batch's own name
        self.calls["CancelJob"] += 1
        return self._end("cancel", jobId, reason, ("SUBMITTED", "PENDING", "RUNNABLE"))

    def terminate_job(self, *, jobId: str, reason: str) -> dict[str, Any]:  # noqa: N803
        self.calls["TerminateJob"] += 1
        return self._end("terminate", jobId, reason, LIVE)

    def describe_job_queues(self, *, jobQueues: list[str]) -> dict[str, Any]:  # noqa: N803
        return {"jobQueues": [self.queues[name] for name in jobQueues if name in self.queues]}

    def describe_compute_environments(self, *, computeEnvironments: list[str]) -> dict[str, Any]:  # noqa: N803
        return {"computeEnvironments": [self.environments[n] for n in computeEnvironments if n in self.environments]}

    def describe_job_definitions(self, **asked: Any) -> dict[str, Any]:
        named = asked.get("jobDefinitionName")
        exact = asked.get("jobDefinitions", [])
        return {
            "jobDefinitions": [
                one
                for one in self.definitions
                if one["jobDefinitionName"] == named or f"{one['jobDefinitionName']}:{one['revision']}" in exact
            ]
        }

    def get_log_events(self, **asked: Any) -> dict[str, Any]:
        return {"events": [{"message": "the last line"}]}

    def head_bucket(self, **asked: Any) -> dict[str, Any]:
        return {}

    def get_paginator(self, name: str) -> Any:
        return _Pages(getattr(self, name))


@dataclass
class _Pages:
    call: Any
    pages: list[Any] = field(default_factory=list)

    def paginate(self, **asked: Any) -> list[Any]:
        asked.pop("PaginationConfig", None)
        return [self.call(**asked)]


class FakeClients:
    """Gives the one fake for every service."""

    def __init__(self, batch: FakeBatch) -> None:
        self.batch = batch

    def client(self, service: str, region: str | None = None) -> Any:
        return self.batch

    def once(self, service: str = "batch") -> Any:
        return self.batch
