"""Batch's five job calls: checked against the SDK's own model of the service, answered by the engine."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from pyanamo_core.aws import Clients
from pyanamo_core.local.compute import (
    ClientException,
    Queue,
    find_definition,
    part,
    read_compute,
    read_secrets,
    work_out,
)
from pyanamo_core.local.engine import Engine
from pyanamo_core.local.jobs import Array, Job
from pyanamo_core.local.retry import matches

OPERATIONS: Final = ("SubmitJob", "DescribeJobs", "ListJobs", "CancelJob", "TerminateJob")
DESCRIBED_AT_ONCE: Final = 100
LISTED_AT_ONCE: Final = 100
ARRAY_SIZES: Final = range(2, 10_001)
JOB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
UNSUPPORTED: Final = (
    "dependsOn",
    "nodeOverrides",
    "eksPropertiesOverride",
    "ecsPropertiesOverride",
    "consumableResourcePropertiesOverride",
)


class BatchApi:
    """Answers for one cloud.

    Args:
        engine: what runs the jobs.
        clients: gives clients of a region, to read queues and definitions from moto.
        shortest_timeout_seconds: below which SubmitJob refuses a time-out (Batch: 60).
    """

    def __init__(
        self, engine: Engine, clients: Callable[[str], Clients], *, shortest_timeout_seconds: int = 60
    ) -> None:
        from botocore.session import get_session

        self._engine, self._clients, self._shortest = engine, clients, shortest_timeout_seconds
        self._model: Any = get_session().get_service_model("batch")

    def answer(self, operation: str, body: bytes, region: str) -> dict[str, Any]:
        """One call's answer.

        Raises:
            ClientException: the caller is at fault; says how.
        """
        try:
            ask = json.loads(body or b"{}")
        except ValueError:
            raise ClientException("The request's body is not JSON") from None
        if not isinstance(ask, dict):
            raise ClientException("The request's body is not a JSON object")
        told = cast("dict[str, Any]", ask)
        self._check(operation, told)
        calls: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
            "SubmitJob": self._submit,
            "DescribeJobs": self._describe,
            "ListJobs": self._list,
            "CancelJob": self._cancel,
            "TerminateJob": self._terminate,
        }
        return calls[operation](told, region)

    def refresh(self, region: str) -> None:
        """Read the region's queues and environments again."""
        self._engine.compute_is(region, read_compute(self._clients(region)))

    def queue(self, name_or_arn: str, region: str) -> Queue:
        """The queue of that name or ARN.

        Raises:
            ClientException: there is none.
        """
        queue = self._engine.compute(region).queue(name_or_arn)
        if queue is None:
            self.refresh(region)
            queue = self._engine.compute(region).queue(name_or_arn)
        if queue is None:
            raise ClientException(f"JobQueue {name_or_arn} not found.")
        return queue

    def _check(self, operation: str, ask: dict[str, Any]) -> None:
        from botocore.validate import ParamValidator

        shape = self._model.operation_model(operation).input_shape
        report = ParamValidator().validate(ask, shape)
        if report.has_errors():
            raise ClientException(f"Error executing request, Exception : {report.generate_report()}")
        for name, given in ask.items():
            allowed = shape.members[name].metadata.get("enum") if name in shape.members else None
            if allowed and given not in allowed:
                raise ClientException(f"Error executing request, Exception : {name} must be one of {list(allowed)}")

    def _submit(self, ask: dict[str, Any], region: str) -> dict[str, Any]:
        if not JOB_NAME.fullmatch(ask["jobName"]):
            raise ClientException(f"Job name {ask['jobName']} is not valid: up to 128 letters, digits, - and _")
        for name in UNSUPPORTED:
            if ask.get(name):
                raise ClientException(f"The local cloud does not support {name}")
        size = part(ask, "arrayProperties").get("size")
        if size is not None and size not in ARRAY_SIZES:
            raise ClientException("Array size must be between 2 and 10000")
        self.refresh(region)
        queue = self.queue(ask["jobQueue"], region)
        if not queue.enabled:
            raise ClientException(f"Cannot submit job to the job queue {queue.name}: it is DISABLED")
        definition = find_definition(self._clients(region), ask["jobDefinition"])
        secrets = read_secrets(self._clients(region), definition)
        job = self._engine.submit(work_out(ask, definition, queue, region, self._shortest, secrets), size)
        return {"jobArn": job.arn, "jobName": ask["jobName"], "jobId": job.job_id}

    def _describe(self, ask: dict[str, Any], region: str) -> dict[str, Any]:
        if len(ask["jobs"]) > DESCRIBED_AT_ONCE:
            raise ClientException(f"Error executing request, Exception : jobs must have at most {DESCRIBED_AT_ONCE}")
        return {"jobs": self._engine.details(ask["jobs"])}

    def _list(self, ask: dict[str, Any], region: str) -> dict[str, Any]:
        given = [name for name in ("jobQueue", "arrayJobId", "multiNodeJobId") if ask.get(name)]
        if len(given) != 1:
            raise ClientException("Exactly one of jobQueue, arrayJobId and multiNodeJobId must be given")
        filters: list[dict[str, Any]] = ask.get("filters") or []
        if len(filters) > 1:
            raise ClientException("Only one filter can be used at a time")
        if filters and not ask.get("jobQueue"):
            raise ClientException("Filters can be used with a job queue only")
        count = ask.get("maxResults") or LISTED_AT_ONCE
        if not 1 <= count <= LISTED_AT_ONCE:
            raise ClientException(f"maxResults must be between 1 and {LISTED_AT_ONCE}")
        wanted = _filter(filters[0]) if filters else _of_status(ask.get("jobStatus") or "RUNNING")
        queue_arn = self.queue(ask["jobQueue"], region).arn if ask.get("jobQueue") else ""
        jobs, following = self._engine.listed(
            queue_arn, ask.get("arrayJobId", ""), wanted, _start_of(ask.get("nextToken")), count
        )
        more = {"nextToken": base64.b64encode(f"from {following}".encode()).decode()} if following else {}
        return {"jobSummaryList": jobs} | more

    def _cancel(self, ask: dict[str, Any], region: str) -> dict[str, Any]:
        self._engine.cancel(self._known(ask["jobId"]), ask["reason"])
        return {}

    def _terminate(self, ask: dict[str, Any], region: str) -> dict[str, Any]:
        self._engine.terminate(self._known(ask["jobId"]), ask["reason"])
        return {}

    def _known(self, job_id: str) -> str:
        if self._engine.get(job_id) is None:
            raise ClientException(f"Job {job_id} not found")
        return job_id


def _start_of(token: str | None) -> int:
    if not token:
        return 0
    try:
        return int(base64.b64decode(token, validate=True).decode().removeprefix("from "))
    except ValueError:
        raise ClientException("nextToken is not valid") from None


def _of_status(status: str) -> Callable[[Job | Array], bool]:
    return lambda job: job.status == status


def _filter(told: Mapping[str, Any]) -> Callable[[Job | Array], bool]:
    """ListJobs' filters; several values of one filter: any of them."""
    name, values = told.get("name"), [str(value) for value in told.get("values") or ()]
    if not values:
        raise ClientException(f"Filter {name} needs values")
    if name == "JOB_NAME":
        return lambda job: any(matches(value, job.plan.name) for value in values)
    if name == "JOB_DEFINITION":
        return lambda job: any(_is_definition(value, job) for value in values)
    if name in ("BEFORE_CREATED_AT", "AFTER_CREATED_AT"):
        if not values[0].isdigit():
            raise ClientException(f"Filter {name} needs milliseconds since 1970")
        limit = int(values[0])
        if name == "BEFORE_CREATED_AT":
            return lambda job: job.created_at < limit
        return lambda job: job.created_at > limit
    raise ClientException(f"Filter {name} is not supported")


def _is_definition(value: str, job: Job | Array) -> bool:
    if value.startswith("arn:"):
        return value == job.plan.definition_arn
    if value.endswith("*"):
        return job.plan.definition_name.startswith(value[:-1])
    return value == job.plan.definition_name
