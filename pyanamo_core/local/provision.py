"""Queue, environment and job definition for a workflow where no stack has made them: in the local cloud.

On AWS deployments/cloudformation.yaml owns compute. Everything here is done once and found again the next time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyanamo_core.aws import Clients, code_of, explained
from pyanamo_core.local.compute import LOG_GROUP

# docs/fleet.md: 75 is handed back, 143 a TERM before the handlers stood; a lost host is no fault of the job.
RETRY_RULES: Final[tuple[Mapping[str, str], ...]] = (
    {"onExitCode": "75", "action": "RETRY"},
    {"onExitCode": "143", "action": "RETRY"},
    {"onStatusReason": "Host EC2*", "action": "RETRY"},
    {"onReason": "*", "action": "EXIT"},
)
ATTEMPTS: Final = 10
COMMAND: Final = ("pyanamo", "pilot")
SCRATCH: Final = "/scratch"
CONTAINED: Final[Mapping[str, Any]] = {
    "user": "1000",
    "readonlyRootFilesystem": True,
    "volumes": [{"name": "scratch", "host": {"sourcePath": SCRATCH}}],
    "mountPoints": [{"sourceVolume": "scratch", "containerPath": SCRATCH, "readOnly": False}],
}
"""How the stack's job definition runs the image: unprivileged, nothing written but below one folder of the host."""


@dataclass(frozen=True)
class MadeCompute:
    """What `ensure_compute` made or found."""

    queue: str
    queue_arn: str
    job_definition: str
    revision: int
    environment: str

    @property
    def definition(self) -> str:
        """`name:revision`, as a run submits it."""
        return f"{self.job_definition}:{self.revision}"


def ensure_queue(clients: Clients, queue: str, *, max_vcpus: int = 16) -> None:
    """Make a queue with an environment of its own where they are missing, e.g. a workflow's on-demand queue.

    Raises:
        PyAnamoError: as `pyanamo_core.aws.explain` says.
    """
    with explained("batch", "making the compute environment"):
        name = f"{queue}-environment"
        _ensure_environment(clients, name, max_vcpus)
        _ensure_queue(clients, queue, name)


def ensure_compute(
    clients: Clients,
    queue: str,
    job_definition: str,
    *,
    vcpus: float = 1,
    memory: int = 1024,
    command: Sequence[str] = COMMAND,
    environment: Mapping[str, str] | None = None,
    max_vcpus: int = 16,
    image: str = "pyanamo",
    retry_rules: Sequence[Mapping[str, str]] = RETRY_RULES,
    attempts: int = ATTEMPTS,
    timeout_seconds: int = 0,
    log_group: str = LOG_GROUP,
    buckets: Sequence[str] = (),
    container: Mapping[str, Any] | None = None,
) -> MadeCompute:
    """Make roles, compute environment, queue, job definition, log group and buckets where they are missing.

    Args:
        vcpus, memory: of one job (MiB).
        max_vcpus: the environment's ceiling; an environment that exists gets this one.
        attempts: of one job, the first included (1-10).
        timeout_seconds: of one attempt; 0 is none.
        container: more of the definition's containerProperties, e.g. `CONTAINED`.

    Returns:
        The names; a definition equal to the newest active revision is not registered again.

    Raises:
        PyAnamoError: as `pyanamo_core.aws.explain` says.
    """
    ensure_buckets(clients, buckets)
    ensure_log_group(clients, log_group)
    with explained("batch", "making the compute environment"):
        name = f"{queue}-environment"
        _ensure_environment(clients, name, max_vcpus)
        queue_arn = _ensure_queue(clients, queue, name)
        wanted: dict[str, Any] = {
            "jobDefinitionName": job_definition,
            "type": "container",
            "containerProperties": {
                "image": image,
                "command": list(command),
                "environment": [{"name": key, "value": value} for key, value in sorted((environment or {}).items())],
                "resourceRequirements": [
                    {"type": "VCPU", "value": f"{vcpus:g}"},
                    {"type": "MEMORY", "value": str(memory)},
                ],
                "logConfiguration": {
                    "logDriver": "awslogs",
                    "options": {"awslogs-group": log_group, "awslogs-stream-prefix": job_definition},
                },
                **(container or {}),
            },
            "retryStrategy": {"attempts": attempts, "evaluateOnExit": [dict(rule) for rule in retry_rules]},
        }
        if not retry_rules:
            del wanted["retryStrategy"]["evaluateOnExit"]
        if timeout_seconds:
            wanted["timeout"] = {"attemptDurationSeconds": timeout_seconds}
        revision = _ensure_definition(clients, wanted)
    return MadeCompute(queue, queue_arn, job_definition, revision, name)


def ensure_buckets(clients: Clients, buckets: Sequence[str]) -> None:
    """Create those buckets that do not exist."""
    s3 = clients.client("s3")
    for bucket in buckets:
        place = {} if clients.region == "us-east-1" else {"LocationConstraint": clients.region}
        with explained("s3", f"CreateBucket {bucket}"):
            try:
                s3.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": place} if place else {}))
            except Exception as error:
                if code_of(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                    raise


def ensure_log_group(clients: Clients, log_group: str) -> None:
    """Create the log group if it does not exist."""
    with explained("logs", "CreateLogGroup"):
        try:
            clients.client("logs").create_log_group(logGroupName=log_group)
        except Exception as error:
            if code_of(error) != "ResourceAlreadyExistsException":
                raise


def _ensure_environment(clients: Clients, name: str, max_vcpus: int) -> None:
    batch = clients.client("batch")
    if batch.describe_compute_environments(computeEnvironments=[name])["computeEnvironments"]:
        batch.update_compute_environment(computeEnvironment=name, computeResources={"maxvCpus": max_vcpus})
        return
    ec2 = clients.client("ec2")
    network = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    within = [{"Name": "vpc-id", "Values": [network]}]
    _ensure_way_out(ec2, network)
    batch.create_compute_environment(
        computeEnvironmentName=name,
        type="MANAGED",
        state="ENABLED",
        serviceRole=_ensure_role(clients, "pyanamo-local-batch", "batch.amazonaws.com"),
        computeResources={
            "type": "SPOT",
            "minvCpus": 0,
            "maxvCpus": max_vcpus,
            "instanceTypes": ["optimal"],
            "instanceRole": _ensure_profile(clients, "pyanamo-local-instance"),
            "subnets": [each["SubnetId"] for each in ec2.describe_subnets(Filters=within)["Subnets"]],
            "securityGroupIds": [
                each["GroupId"] for each in ec2.describe_security_groups(Filters=within)["SecurityGroups"]
            ],
        },
    )


def _ensure_way_out(ec2: Any, network: str) -> None:
    """The default network of AWS has an internet gateway and a route to it; moto's has not."""
    tables = ec2.describe_route_tables(
        Filters=[{"Name": "vpc-id", "Values": [network]}, {"Name": "association.main", "Values": ["true"]}]
    )["RouteTables"]
    everywhere = "0.0.0.0/0"
    if not tables or any(route.get("DestinationCidrBlock") == everywhere for route in tables[0]["Routes"]):
        return
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=network)
    ec2.create_route(RouteTableId=tables[0]["RouteTableId"], DestinationCidrBlock=everywhere, GatewayId=gateway)


def _ensure_role(clients: Clients, name: str, service: str) -> str:
    iam = clients.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    try:
        made = iam.create_role(
            RoleName=name,
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )
    except Exception as error:
        if code_of(error) != "EntityAlreadyExists":
            raise
        made = iam.get_role(RoleName=name)
    return str(made["Role"]["Arn"])


def _ensure_profile(clients: Clients, name: str) -> str:
    iam = clients.client("iam")
    _ensure_role(clients, name, "ec2.amazonaws.com")
    try:
        made = iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    except Exception as error:
        if code_of(error) != "EntityAlreadyExists":
            raise
        made = iam.get_instance_profile(InstanceProfileName=name)
    return str(made["InstanceProfile"]["Arn"])


def _ensure_queue(clients: Clients, queue: str, environment: str) -> str:
    batch = clients.client("batch")
    found = batch.describe_job_queues(jobQueues=[queue])["jobQueues"]
    if found:
        return str(found[0]["jobQueueArn"])
    order = [{"order": 1, "computeEnvironment": environment}]
    made = batch.create_job_queue(jobQueueName=queue, state="ENABLED", priority=1, computeEnvironmentOrder=order)
    return str(made["jobQueueArn"])


def _ensure_definition(clients: Clients, wanted: dict[str, Any]) -> int:
    batch = clients.client("batch")
    found = batch.describe_job_definitions(jobDefinitionName=wanted["jobDefinitionName"])["jobDefinitions"]
    active = [each for each in found if each["status"] == "ACTIVE"]
    if active:
        newest = max(active, key=lambda each: int(each["revision"]))
        if _essence(newest) == _essence(wanted):
            return int(newest["revision"])
    return int(batch.register_job_definition(**wanted)["revision"])


def _essence(definition: Mapping[str, Any]) -> str:
    """What makes two definitions equal, without the empty lists and the letters that a service changes."""
    container: Mapping[str, Any] = definition["containerProperties"]
    kept = {name: value for name, value in container.items() if value not in ([], {}, None)}
    return json.dumps(
        [kept, definition.get("retryStrategy"), definition.get("timeout") or {}], sort_keys=True, default=str
    ).lower()
