"""Roles: do they exist, may AWS's services assume them, and is the job role allowed what a pilot does?

Reading roles needs permissions of its own. Where they lack, that is said; the job itself shows it (`doctor --as-job`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import unquote

from pyanamo_core.doctor.case import Case
from pyanamo_core.doctor.lines import IAM_PAGE, Unanswered
from pyanamo_core.errors import AccessDenied, EndpointDown, NoCredentials, PyAnamoError
from pyanamo_core.ledger import expressions as x
from pyanamo_core.workflow import Workflow

JOB: Final = "; the job shows it: pyanamo doctor --as-job"
LEDGER_ACTIONS: Final = ("GetItem", "Query", "PutItem", "UpdateItem", "DescribeTable")


def look_at_roles(case: Case, workflow: Workflow, environments: Sequence[Mapping[str, Any]]) -> None:
    """The roles of definition and environments."""
    _of_definition(case, workflow)
    seen: set[str] = set()
    for one in environments:
        resources: Mapping[str, Any] = one.get("computeResources") or {}
        service, profile = str(one.get("serviceRole", "")), str(resources.get("instanceRole", ""))
        if service and service not in seen:
            seen.add(service)
            _role(case, "service role", service, "batch.amazonaws.com")
        if profile and profile not in seen:
            seen.add(profile)
            _profile(case, profile)


def _of_definition(case: Case, workflow: Workflow) -> None:
    chart = case.chart
    if case.definition is None:
        return
    container: Mapping[str, Any] = case.definition.get("containerProperties") or {}
    job, execution = str(container.get("jobRoleArn", "")), str(container.get("executionRoleArn", ""))
    if not job:
        mend = f"Give the definition a jobRoleArn ({IAM_PAGE})."
        chart.warn("job role", "", "the definition names none: pilots have what their machine's role may", mend)
    elif _role(case, "job role", job, "ecs-tasks.amazonaws.com"):
        _allowed(case, workflow, job)
    private = ".dkr.ecr." in str(container.get("image", ""))
    if not execution and container.get("secrets"):
        mend = "Give it an executionRoleArn that may read the secret (secretsmanager:GetSecretValue)."
        chart.wrong("execution role", "", "the definition has secrets and no execution role to read them with", mend)
    elif execution:
        _role(case, "execution role", execution, "ecs-tasks.amazonaws.com")
    elif private:
        chart.unknown(
            "execution role", "", "the definition names none: the machine's role pulls the image and writes logs"
        )


def _role(case: Case, check: str, arn: str, service: str) -> bool:
    """One role; True if it exists, as far as may be known."""
    chart = case.chart
    name = arn.rpartition("/")[2]
    try:
        told: dict[str, Any] = case.ask("iam", "GetRole", RoleName=name)["Role"]
    except PyAnamoError as error:
        if error.exit_code == 4:
            chart.wrong(check, arn, "it does not exist", f"Make it, or name another: {IAM_PAGE}.")
            return False
        before = len(chart.lines)
        chart.told_by(check, arn, error, needed=False)
        return len(chart.lines) > before
    trusted = trusted_services(told.get("AssumeRolePolicyDocument") or {})
    if service not in trusted:
        who = ", ".join(sorted(trusted)) or "no service"
        mend = f"Add {service} as a principal that may sts:AssumeRole to the role's trust policy."
        chart.wrong(check, arn, f"it trusts {who}, not {service}", mend)
        return False
    chart.ok(check, arn, f"it exists, and {service} may assume it")
    return True


def trusted_services(document: Mapping[str, Any] | str) -> set[str]:
    """Services that a trust policy lets assume its role."""
    if isinstance(document, str):
        import json

        document = dict(json.loads(unquote(document)))
    found: set[str] = set()
    for statement in _listed(document.get("Statement", [])):
        if statement.get("Effect") == "Allow":
            principal: Any = statement.get("Principal", {})
            named = cast("dict[str, Any]", principal) if isinstance(principal, dict) else {}
            found |= {str(one) for one in _listed(named.get("Service", []))}
    return found


def _listed(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else [value]


def _profile(case: Case, told: str) -> None:
    chart, check = case.chart, "instance profile"
    name = told.rpartition("/")[2]
    try:
        profile: dict[str, Any] = case.ask("iam", "GetInstanceProfile", InstanceProfileName=name)["InstanceProfile"]
    except PyAnamoError as error:
        if error.exit_code == 4:
            chart.wrong(
                check, told, "it does not exist: no machine can start", "Make it, or give the environment another."
            )
        else:
            chart.told_by(check, told, error, needed=False)
        return
    roles: list[dict[str, Any]] = profile.get("Roles", [])
    if not roles:
        mend = f"aws iam add-role-to-instance-profile --instance-profile-name {name} --role-name ROLE"
        chart.wrong(check, told, "it holds no role: machines start, and join nothing", mend)
        return
    trusted = trusted_services(roles[0].get("AssumeRolePolicyDocument") or {})
    if not any(one.startswith("ec2.amazonaws.com") for one in trusted):
        mend = "Add ec2.amazonaws.com as a principal to that role's trust policy."
        chart.wrong(check, told, f"its role {roles[0]['RoleName']} does not trust ec2.amazonaws.com", mend)
    else:
        chart.ok(check, told, f"it holds the role {roles[0]['RoleName']}")


# ---------------------------------------------------------------------------------------------------- what it may do


def needed_of_pilots(case: Case, workflow: Workflow) -> list[tuple[list[str], list[str]]]:
    """What a pilot must be allowed: actions, and what each of them is asked on."""
    partition, place = case.partition, f"{case.region}:{case.account}"
    table = f"arn:{partition}:dynamodb:{place}:table/{case.table or workflow.table_name}"
    needed = [
        ([f"dynamodb:{one}" for one in LEDGER_ACTIONS], [table]),
        (["dynamodb:Query"], [f"{table}/index/{x.INDEX}"]),
        (
            ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
            [f"{_arn(partition, workflow.buckets.results)}/{workflow.table_name}/work/probe"],
        ),
        (
            ["logs:CreateLogStream", "logs:PutLogEvents"],
            [f"arn:{partition}:logs:{place}:log-group:{workflow.log_group}:log-stream:probe"],
        ),
    ]
    own = workflow.buckets.results.removeprefix("s3://").partition("/")[0]
    inputs = [one.bucket for one in workflow.buckets.inputs if one.access != "anonymous" and one.bucket != own]
    if inputs:
        needed.append((["s3:GetObject"], [f"arn:{partition}:s3:::{bucket}/probe" for bucket in inputs]))
    return needed


def _arn(partition: str, uri: str) -> str:
    return f"arn:{partition}:s3:::{uri.removeprefix('s3://').rstrip('/')}"


def _allowed(case: Case, workflow: Workflow, role: str) -> None:
    """IAM's own simulation of the role's policies (bucket policies and boundaries of an organisation are not in it)."""
    chart, check = case.chart, "job role rights"
    refused: list[str] = []
    asked = 0
    for actions, resources in needed_of_pilots(case, workflow):
        try:
            told = case.ask(
                "iam", "SimulatePrincipalPolicy", PolicySourceArn=role, ActionNames=actions, ResourceArns=resources
            )
        except PyAnamoError as error:
            if error.exit_code == 4 or isinstance(error, NoCredentials):
                chart.told_by(check, role, error, needed=False)
            else:
                known = isinstance(error, AccessDenied | EndpointDown | Unanswered)
                why = f"AWS refused {error.facts.get('operation')}" if known else "this endpoint does not simulate it"
                chart.unknown(check, role, f"{why}{JOB}")
            return
        asked += len(told.get("EvaluationResults", []))
        refused += [
            f"{one['EvalActionName']} on {one['EvalResourceName']}"
            for one in told.get("EvaluationResults", [])
            if one.get("EvalDecision") != "allowed"
        ]
    if refused:
        chart.wrong(
            check, role, f"it may not {'; '.join(refused[:4])}{' …' if len(refused) > 4 else ''}", f"{IAM_PAGE}."
        )
    else:
        chart.ok(check, role, f"it may do what pilots do ({asked} calls simulated by IAM)")
