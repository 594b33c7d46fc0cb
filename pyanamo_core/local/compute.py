"""Queues, compute environments and job definitions as moto keeps them, and a submission worked out from them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pyanamo_core.aws import Clients
from pyanamo_core.local.jobs import Plan

LOG_GROUP: Final = "/aws/batch/job"
OVERRIDES_BYTES: Final = 8_192
MAX_ATTEMPTS: Final = 10


class ClientException(Exception):
    """What Batch answers when the caller is at fault (HTTP 400)."""


@dataclass(frozen=True)
class Queue:
    """A job queue: its environments in the order in which they are tried, higher priorities first."""

    arn: str
    name: str
    priority: int
    enabled: bool
    environments: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    """A compute environment and its ceiling."""

    arn: str
    name: str
    max_vcpus: float
    enabled: bool
    lifecycle: str = ""
    """`spot` or `on-demand`, as a host's metadata tell it; empty: unmanaged, nobody knows."""


@dataclass(frozen=True)
class Compute:
    """All queues and environments of a region, by ARN."""

    queues: Mapping[str, Queue]
    environments: Mapping[str, Environment]

    def queue(self, name_or_arn: str) -> Queue | None:
        return next((queue for queue in self.queues.values() if name_or_arn in (queue.name, queue.arn)), None)


def part(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A structure inside a structure; an empty one where it is absent or null."""
    return dict(cast("Mapping[str, Any]", told.get(name) or {}))


def read_compute(clients: Clients) -> Compute:
    """Ask moto for the queues and environments of one region."""
    batch = clients.client("batch")
    environments: dict[str, Environment] = {}
    for told in batch.describe_compute_environments()["computeEnvironments"]:
        resources = part(told, "computeResources")
        environments[told["computeEnvironmentArn"]] = Environment(
            told["computeEnvironmentArn"],
            told["computeEnvironmentName"],
            # An unmanaged environment has no ceiling in Batch: this machine's processors are the honest one.
            float(resources.get("maxvCpus", os.cpu_count() or 1)),
            told.get("state", "ENABLED") == "ENABLED",
            {"SPOT": "spot", "EC2": "on-demand"}.get(str(resources.get("type")), ""),
        )
    by_name = {environment.name: environment.arn for environment in environments.values()}
    queues: dict[str, Queue] = {}
    for told in batch.describe_job_queues()["jobQueues"]:
        order = sorted(told["computeEnvironmentOrder"], key=lambda entry: int(entry["order"]))
        named = [str(entry["computeEnvironment"]) for entry in order]
        queues[told["jobQueueArn"]] = Queue(
            told["jobQueueArn"],
            told["jobQueueName"],
            int(told["priority"]),
            told.get("state", "ENABLED") == "ENABLED",
            tuple(by_name.get(name, name) for name in named),
        )
    return Compute(queues, environments)


def find_definition(clients: Clients, asked: str) -> dict[str, Any]:
    """The job definition for `name`, `name:revision` or an ARN; without a revision the newest active one.

    Raises:
        ClientException: there is none, or that revision is not active.
    """
    short = asked.rpartition("job-definition/")[2]
    name, _, revision = short.partition(":")
    found = clients.client("batch").describe_job_definitions(jobDefinitionName=name)["jobDefinitions"]
    active = [each for each in found if each["status"] == "ACTIVE"]
    if revision:
        active = [each for each in active if str(each["revision"]) == revision]
    if not active:
        raise ClientException(f"JobDefinition: {asked} is not found or not active")
    return max(active, key=lambda each: int(each["revision"]))


def work_out(
    ask: Mapping[str, Any],
    definition: Mapping[str, Any],
    queue: Queue,
    region: str,
    shortest: int,
    secrets: Mapping[str, str] | None = None,
) -> Plan:
    """A submission's overrides over its definition.

    Args:
        ask: SubmitJob's body, already of the right shape.
        shortest: the shortest time-out allowed (seconds).
        secrets: values of the definition's secrets, by the names of their variables.

    Raises:
        ClientException: as Batch would.
    """
    container: dict[str, Any] = _lowered(part(definition, "containerProperties"))
    if not container:
        raise ClientException("The local cloud runs definitions with containerProperties only")
    overrides = part(ask, "containerOverrides")
    _check_overrides(overrides)
    resources = _resources(container) | _resources(overrides)
    parameters = part(definition, "parameters") | part(ask, "parameters")
    command: Sequence[str] = overrides.get("command") or container.get("command") or ()
    timeout = int((part(ask, "timeout") or part(definition, "timeout")).get("attemptDurationSeconds", 0))
    if timeout and timeout < shortest:
        raise ClientException(f"Job timeout must be at least {shortest} seconds")
    retry: dict[str, Any] = _lowered(part(ask, "retryStrategy") or part(definition, "retryStrategy"))
    if not 1 <= int(retry.get("attempts") or 1) <= MAX_ATTEMPTS:
        raise ClientException(f"Number of attempts must be between 1 and {MAX_ATTEMPTS}")
    log = part(container, "logConfiguration")
    options = part(log, "options") if log.get("logDriver", "awslogs") == "awslogs" else {}
    environment = _pairs(container.get("environment")) | _pairs(overrides.get("environment"))
    return Plan(
        name=ask["jobName"],
        region=region,
        queue_arn=queue.arn,
        queue_name=queue.name,
        definition_arn=definition["jobDefinitionArn"],
        definition_name=definition["jobDefinitionName"],
        image=container["image"],
        command=tuple(_filled(command, parameters)),
        environment=environment,
        vcpus=float(resources.get("VCPU", 1)),
        memory_mb=int(resources.get("MEMORY", 1024)),
        retry=retry,
        timeout_seconds=timeout,
        log_group=options.get("awslogs-group", LOG_GROUP),
        log_prefix=options.get("awslogs-stream-prefix", definition["jobDefinitionName"]),
        parameters=parameters,
        tags=part(ask, "tags"),
        container=container,
        secrets=secrets or {},
    )


def read_secrets(clients: Clients, definition: Mapping[str, Any]) -> dict[str, str]:
    """The values of a definition's `secrets`, from Secrets Manager, by the names of their variables.

    AWS reads them with the execution role when a container starts; here it is done when a job is submitted.

    Raises:
        ClientException: there is no such secret.
    """
    from botocore.exceptions import ClientError

    told: list[Mapping[str, str]] = part(definition, "containerProperties").get("secrets") or []
    found: dict[str, str] = {}
    for one in told:
        try:
            answer = clients.client("secretsmanager").get_secret_value(SecretId=one["valueFrom"])
        except ClientError as error:
            reason = f"ResourceInitializationError: unable to pull secrets: {one['valueFrom']}: {error}"
            raise ClientException(reason) from error
        found[one["name"]] = str(answer["SecretString"])
    return found


def _check_overrides(overrides: Mapping[str, Any]) -> None:
    size = len(str(overrides.get("command", ""))) + sum(
        len(name) + len(value) for name, value in _pairs(overrides.get("environment")).items()
    )
    if size > OVERRIDES_BYTES:
        raise ClientException(f"Container Overrides length must be at most {OVERRIDES_BYTES}")
    for name in _pairs(overrides.get("environment")):
        if name.startswith("AWS_BATCH"):
            raise ClientException(f"Environment variable names must not start with AWS_BATCH: {name}")


def _resources(told: Mapping[str, Any]) -> dict[str, float]:
    old = {"VCPU": told.get("vcpus"), "MEMORY": told.get("memory")}
    new = {str(each["type"]).upper(): each["value"] for each in told.get("resourceRequirements") or ()}
    return {kind: float(value) for kind, value in (old | new).items() if value and kind in old}


def _pairs(told: Sequence[Mapping[str, str]] | None) -> dict[str, str]:
    # moto makes an empty list of an empty text that comes from a template.
    return {each["name"]: each.get("value") or "" for each in told or ()}


def _filled(command: Sequence[str], parameters: Mapping[str, str]) -> list[str]:
    """`Ref::name` stands for a parameter; without one of that name it stays as it is."""
    return [parameters.get(word[5:], word) if word.startswith("Ref::") else word for word in command]


def _lowered(told: Any) -> Any:
    """CloudFormation writes `OnExitCode` where the API writes `onExitCode`: keys with a small first letter."""
    if isinstance(told, dict):
        items = cast("dict[str, Any]", told).items()
        return {key[:1].lower() + key[1:]: _lowered(value) for key, value in items}
    return [_lowered(value) for value in cast("list[Any]", told)] if isinstance(told, list) else told
