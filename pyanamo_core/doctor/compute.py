"""AWS Batch from the queue to the definition: can a pilot of this workflow ever start?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from pyanamo_core.doctor.case import Case
from pyanamo_core.fleet.jobs import definition_of
from pyanamo_core.fleet.reasons import INVALID, known
from pyanamo_core.workflow import Workflow

PAGE: Final = "docs/aws.md, What the stack makes"
HOST_SHARE: Final = 0.96
"""Of a machine's memory; the rest is its own (kernel, ECS agent), so that a container never gets all of it."""
QUOTAS: Final = {"SPOT": ("L-34B43A08", "Spot"), "EC2": ("L-1216C47A", "on-demand")}
"""Service quotas of EC2: all standard instances, in vCPUs."""


def look_at_compute(case: Case, workflow: Workflow) -> list[dict[str, Any]]:
    """Definition, queues and environments; the environments that exist, as Batch describes them."""
    _definition(case, workflow)
    found = _queue(case, workflow.queue, on_demand=False)
    if workflow.on_demand_queue:
        found += _queue(case, workflow.on_demand_queue, on_demand=True)
    return found


# ---------------------------------------------------------------------------------------------------- the definition


def _definition(case: Case, workflow: Workflow) -> None:
    chart, name = case.chart, workflow.job_definition
    with chart.part("job definition", name):
        told = newest_definition(case, name)
        if told is None:
            mend = f"Make it with pyanamo deploy ({PAGE}), or name another in the workflow file's `job_definition`."
            chart.wrong("job definition", name, "no revision of it is active", mend)
            return
        case.definition = told
        before = len(chart.lines)
        _fits(case, workflow, told)
        if len(chart.lines) == before:
            one = definition_of(told)
            chart.ok("job definition", one.name, f"{one.vcpus:g} vCPUs, {one.memory_mb} MiB, image {one.image}")


def newest_definition(case: Case, name: str) -> dict[str, Any] | None:
    """The newest active revision, or the one that `name:revision` or an ARN names. Raises as Case.ask."""
    plain, _, revision = name.partition(":")
    asked: dict[str, Any] = {"jobDefinitionName": plain, "status": "ACTIVE"}
    if name.startswith("arn:"):
        asked, revision = {"jobDefinitions": [name]}, ""
    told = case.pages("batch", "DescribeJobDefinitions", "jobDefinitions", **asked)
    active = [one for one in told if one.get("status", "ACTIVE") == "ACTIVE" and revision in ("", str(one["revision"]))]
    return max(active, key=lambda one: int(one["revision"])) if active else None


def _fits(case: Case, workflow: Workflow, told: Mapping[str, Any]) -> None:
    chart, one = case.chart, definition_of(told)
    container: Mapping[str, Any] = told.get("containerProperties") or {}
    environment = {one["name"]: one.get("value", "") for one in container.get("environment") or ()}
    name = one.name
    if told.get("type") != "container" or "FARGATE" in (told.get("platformCapabilities") or ()):
        mend = "Register one of type container for EC2: pilots share a volume of their host."
        chart.wrong(
            "job definition", name, f"it is of type {told.get('type')} for {told.get('platformCapabilities')}", mend
        )
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    if region and region != case.region:
        mend = f"Set it to {case.region} (pyanamo deploy does), or run from there."
        chart.wrong("job definition", name, f"it sends pilots to {region}, the table is in {case.region}", mend)
    results = environment.get("S3_BUCKET", "")
    if results and _as_uri(results) not in workflow.buckets.results:
        fact = f"its S3_BUCKET {results} goes before the workflow's results, {workflow.buckets.results}"
        chart.warn("job definition", name, fact, "Correct the one that is not meant; pyanamo deploy sets it anew.")
    if one.memory_mb < workflow.memory_mb or one.vcpus < workflow.vcpus:
        fact = (
            f"it gives {one.vcpus:g} vCPUs and {one.memory_mb} MiB, the workflow file says {workflow.vcpus:g} and"
            f" {workflow.memory_mb}"
        )
        chart.warn(
            "job definition", name, fact, "Update the stack (pyanamo deploy), or lower them in the workflow file."
        )
    timeout: Mapping[str, Any] = told.get("timeout") or {}
    limit = timeout.get("attemptDurationSeconds")
    if limit and workflow.wall_time_seconds and limit <= workflow.wall_time_seconds:
        fact = f"Batch ends an attempt after {limit} s, the workflow's wall time is {workflow.wall_time_seconds:.0f} s"
        chart.warn("job definition", name, fact, "Make its time-out longer: a pilot then hands back in good order.")
    if container.get("readonlyRootFilesystem"):
        scratch = environment.get("PYANAMO_SCRATCH", "/scratch")
        places = [
            each.get("containerPath", "") for each in container.get("mountPoints") or () if not each.get("readOnly")
        ]
        if not any(scratch == place or scratch.startswith(f"{place.rstrip('/')}/") for place in places if place):
            mend = f"Mount a volume of the host at {scratch}, or name a mounted one as PYANAMO_SCRATCH."
            chart.wrong("job definition", name, f"its root is read-only, and nothing is mounted at {scratch}", mend)


def _as_uri(results: str) -> str:
    return results.rstrip("/") if results.startswith("s3://") else f"s3://{results.rstrip('/')}"


# ---------------------------------------------------------------------------------------------------- queue, environments


def _queue(case: Case, name: str, *, on_demand: bool) -> list[dict[str, Any]]:
    chart = case.chart
    check = "on-demand queue" if on_demand else "queue"
    found: list[dict[str, Any]] = []
    with chart.part(check, name):
        told = case.ask("batch", "DescribeJobQueues", jobQueues=[name]).get("jobQueues", [])
        if not told:
            mend = f"Make it with pyanamo deploy ({PAGE}), or name another in the workflow file's `queue`."
            chart.wrong(check, name, f"it does not exist in {case.region}", mend)
            return []
        one = told[0]
        names = [each["computeEnvironment"] for each in one.get("computeEnvironmentOrder", ())]
        reason = f" ({one['statusReason']})" if one.get("statusReason") else ""
        if one.get("state") != "ENABLED":
            mend = f"aws batch update-job-queue --job-queue {name} --state ENABLED"
            chart.wrong(check, name, f"it is {one.get('state')}: it takes no jobs{reason}", mend)
        elif one.get("status", "VALID") not in ("VALID", "UPDATING"):
            chart.wrong(check, name, f"it is {one.get('status')}{reason}", "Its reason says what to mend.")
        elif not names:
            chart.wrong(check, name, "it has no compute environment", f"Give it one ({PAGE}).")
        else:
            chart.ok(check, name, f"ENABLED, {one.get('status', 'VALID')}")
        if names:
            found = case.ask("batch", "DescribeComputeEnvironments", computeEnvironments=names)["computeEnvironments"]
            there = {
                value for each in found for value in (each["computeEnvironmentName"], each["computeEnvironmentArn"])
            }
            for missing in (each for each in names if each not in there):
                chart.wrong("compute environment", missing, "it does not exist", "Give the queue one that does.")
    for each in found:
        _environment(case, each, on_demand=on_demand)
    return found


def _environment(case: Case, told: Mapping[str, Any], *, on_demand: bool) -> None:
    chart, name = case.chart, str(told["computeEnvironmentName"])
    reason = f" ({told['statusReason']})" if told.get("statusReason") else ""
    check = "compute environment"
    if told.get("state") != "ENABLED":
        mend = f"aws batch update-compute-environment --compute-environment {name} --state ENABLED"
        chart.wrong(check, name, f"it is {told.get('state')}{reason}", mend)
        return
    if told.get("status", "VALID") not in ("VALID", "UPDATING"):
        mend = known(reason, INVALID).mend or "Its reason says what to mend."
        chart.wrong(check, name, f"it is {told.get('status')}{reason}", mend)
        return
    resources: Mapping[str, Any] = told.get("computeResources") or {}
    if told.get("type") == "UNMANAGED" or not resources:
        chart.unknown(check, name, "it is UNMANAGED: its machines are somebody's own")
        return
    kind = str(resources.get("type", ""))
    if kind.startswith("FARGATE"):
        chart.wrong(
            check,
            name,
            f"it is {kind}",
            "Pilots share a volume of their host: give the queue an EC2 or SPOT environment.",
        )
        return
    ceiling, need = int(resources.get("maxvCpus", 0)), _need(case)
    room = int(ceiling // need) if need else 0
    fact = f"ENABLED, {told.get('status', 'VALID')}, {kind}, up to {ceiling} vCPUs: {room} pilots of {need:g}"
    raise_it = "Raise maxvCpus: pyanamo deploy --set " + ("OnDemandVcpus=N" if on_demand else "SpotVcpus=N")
    wanted = case.workflow.pilots if case.workflow else 1
    if not room:
        said = f"its ceiling is {ceiling} vCPUs, a pilot asks for {need:g}: none can ever start"
        (chart.warn if on_demand and ceiling == 0 else chart.wrong)(check, name, said, raise_it)
    elif not on_demand and room < wanted:
        chart.warn(check, name, f"{fact}; the workflow asks for {wanted}", raise_it)
    else:
        chart.ok(check, name, fact)
    _machines(case, name, resources)
    _quota(case, kind, ceiling)


def _need(case: Case) -> float:
    if case.definition is not None:
        return definition_of(case.definition).vcpus
    return case.workflow.vcpus if case.workflow else 1.0


def _machines(case: Case, name: str, resources: Mapping[str, Any]) -> None:
    """Is there a type of machine on which a pilot has room? One that is too big for all of them waits for ever."""
    chart, check = case.chart, "instance types"
    types = [str(one) for one in resources.get("instanceTypes") or ()]
    if not types or {"optimal"} & set(types) or any(one.startswith("default_") for one in types):
        chart.unknown(check, name, f"{', '.join(types) or 'none named'}: AWS chooses the families")
        return
    if case.definition is None:
        chart.unknown(check, name, "there is no job definition to compare them with")
        return
    need = definition_of(case.definition)
    with chart.part(check, name, needed=False):
        patterns = [one if "." in one else f"{one}.*" for one in types]
        told = case.pages(
            "ec2", "DescribeInstanceTypes", "InstanceTypes", Filters=[{"Name": "instance-type", "Values": patterns}]
        )
        sizes = [(each["VCpuInfo"]["DefaultVCpus"], each["MemoryInfo"]["SizeInMiB"]) for each in told]
        if not sizes:
            chart.wrong(
                check,
                name,
                f"{', '.join(types)}: {case.region} has none of these",
                "Name others: --set InstanceTypes=…",
            )
            return
        fit = [one for one in sizes if one[0] >= need.vcpus and one[1] * HOST_SHARE >= need.memory_mb]
        if fit:
            chart.ok(check, name, f"a pilot fits on {len(fit)} of {len(sizes)} types of machine")
            return
        fact = f"no type of {', '.join(types)} has {need.vcpus:g} vCPUs and {need.memory_mb} MiB besides what is the host's own"
        chart.wrong(
            check, name, fact, "Ask for less (a machine of 16 GiB gives a container about 15), or name bigger types."
        )


def _quota(case: Case, kind: str, ceiling: int) -> None:
    code, words = QUOTAS.get(kind, QUOTAS["EC2"])
    check = "vCPU quota"
    if any(line.check == check and line.subject == words for line in case.chart.lines):
        return
    with case.chart.part(check, words, needed=False, codes={}):
        try:
            told = case.ask("service-quotas", "GetServiceQuota", ServiceCode="ec2", QuotaCode=code)["Quota"]
        except Exception as error:
            if getattr(error, "exit_code", 0) == 4 or "NoSuchResource" in str(cast("Any", error)):
                case.chart.unknown(check, words, "this endpoint does not tell it")
                return
            raise
        value = int(told["Value"])
        if value < ceiling:
            mend = f"Ask for more: aws service-quotas request-service-quota-increase --service-code ec2 --quota-code {code} --desired-value {ceiling}"
            case.chart.warn(
                check, words, f"the account may run {value} vCPUs, the environment's ceiling is {ceiling}", mend
            )
        else:
            case.chart.ok(check, words, f"the account may run {value} vCPUs")
