"""What somebody gets who may create roles and stacks in an account where the user may not: template, policies, a letter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pyanamo_core.aws import Clients, explained
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.resources import resource
from pyanamo_core.stack.data import SERVICES
from pyanamo_core.stack.template import Resolved, read_template, template_text

DEPLOYER: Final = "deployments/deployer_policy.json"
UNKNOWN_ACCOUNT: Final = "111122223333"
ROLES: Final = {
    "PilotRole": ("job-role", "JobRole", "pilots and task scripts work with it"),
    "StarterRole": ("execution-role", "ExecutionRole", "AWS starts containers with it: image, log, secret"),
    "InstanceRole": ("instance-role", "InstanceProfile", "the machines' role; its instance profile is the parameter"),
    "RunnerRole": ("driver-role", "DriverRole", "who makes the table, runs and watches"),
}
"""Logical id of a role → its file's name, the parameter that gives one instead, and what it is for."""


@dataclass(frozen=True)
class Packet:
    """Files by name: `letter.md`, `cloudformation.yaml`, `parameters.json`, and the policies as JSON."""

    files: Mapping[str, str]


def packet(stack: str, given: Mapping[str, str], account: str, region: str) -> Packet:
    """Everything for an administrator.

    Args:
        given: parameters that are not as their defaults.
        account: its number; UNKNOWN_ACCOUNT where nobody knows it yet.
    """
    text = template_text(comments=True)
    partition = "aws-us-gov" if region.startswith("us-gov-") else "aws-cn" if region.startswith("cn-") else "aws"
    resolved = Resolved(read_template(text), given, stack, account, region, partition)
    told = [{"ParameterKey": name, "ParameterValue": value} for name, value in sorted(given.items())]
    files = {"cloudformation.yaml": text, "parameters.json": _json(told)}
    for logical, role in resolved.roles.items():
        name = ROLES[logical][0]
        files[f"{name}-trust.json"] = _json(role.trust)
        if role.policies:
            files[f"{name}.json"] = _json(role.document)
    files["deployer.json"] = _json(deployer_policy(stack, given, account, region, partition))
    return Packet({"letter.md": letter(resolved), **files})


def deployer_policy(
    stack: str, given: Mapping[str, str], account: str, region: str, partition: str = "aws"
) -> dict[str, Any]:
    """What somebody needs who runs `pyanamo deploy` and `pyanamo destroy` of this one stack.

    Args:
        given: parameters that are not as their defaults (names of queues, definition and repository).
    """
    values = Resolved(read_template(), given, stack, account, region, partition).values
    names = {
        "Partition": partition,
        "Region": region,
        "Account": account,
        "Stack": stack,
        "Small": stack.lower(),
        "Queue": values["QueueName"],
        "OnDemandQueue": values["OnDemandQueueName"],
        "JobDefinition": values["JobDefinitionName"],
        "Repository": values["RepositoryName"],
    }
    text = resource(DEPLOYER).read_text(encoding="utf-8")
    return dict(json.loads(re.sub(r"\$\{(\w+)\}", lambda found: names[found[1]], text)))


def account_of(clients: Clients) -> str:
    """The credentials' account; UNKNOWN_ACCOUNT where there are none: the letter needs no account."""
    try:
        with explained("sts", "GetCallerIdentity"):
            return str(clients.quick("sts").get_caller_identity()["Account"])
    except PyAnamoError:
        return UNKNOWN_ACCOUNT


def letter(resolved: Resolved) -> str:
    """One page for an administrator: what is asked for, what it may do, what it costs, three ways to do it."""
    stack, region, account = resolved.stack, resolved.region, resolved.account
    values = resolved.values
    rows: list[str] = []
    for logical, role in resolved.roles.items():
        name, parameter, about = ROLES[logical]
        policy = f"`{name}.json`" if role.policies else " ".join(f"`{arn}`" for arn in role.managed)
        rows.append(f"| {about} | `{name}-trust.json` | {policy} | `{parameter}` |")
    settings = "".join(f" {name}={value}" for name, value in sorted(resolved.given.items()))
    unknown = (
        f"\n(Account {account} stands for yours in the files: replace it.)\n" if account == UNKNOWN_ACCOUNT else ""
    )
    services = "\n".join(f"    aws iam create-service-linked-role --aws-service-name {one}" for one in SERVICES)
    return f"""# A stack for the workflow {values["Name"]}: what I ask for
{unknown}
I want to run a genomic workflow with PyAnamo on AWS Batch in {region}. I may not create roles, so I ask you to do **one** of these.

1. **Make the stack** (no roles are made by hand; five minutes):

       aws cloudformation deploy --region {region} --stack-name {stack} --template-file cloudformation.yaml \\
         --capabilities CAPABILITY_IAM --parameter-overrides{settings}

   then tell me its outputs (`aws cloudformation describe-stacks --stack-name {stack}`) and let me assume the role `DriverRole`.

2. **Let me make it**: attach `deployer.json` to me. It lets me manage this one stack and what it holds, create roles
   named `{stack}-*`, and pass these only to EC2, ECS tasks and AWS Batch. As I write their policies, that is in effect
   the right to give those roles any permission; where that is too much, take 1 or 3.

3. **Make only the roles**, from the files named below, and tell me their ARNs; I give each to `pyanamo deploy` with
   `--set PARAMETER=ARN`. The same goes for an existing bucket, network, queue, compute environment or job definition:
   every one may be given instead of made.

| for | who may assume it | what it may do | parameter |
|---|---|---|---|
{chr(10).join(rows)}

Once in an account, if they are missing (AWS's own roles; AWS defines what they may do):

{services}

**What it can reach.** Tables {values["Table"]}, {values["Table"]}-gather and {values["Table"]}-joint; objects below
`{values["Prefix"]}/` of its own bucket in folders of these names; reading of: {_reads(values)}; its own log group, its own
queues and job definition; ending of its own jobs, told by a tag. No role may create roles, reach other tables or prefixes, or pass a role on.

**What it costs.** The stack itself: nothing while no job runs (no NAT gateway, no machine that stays). While jobs run: Spot
machines up to {values["SpotVcpus"]} vCPUs, on-demand ones up to {values["OnDemandVcpus"]}, and {values["ScratchGb"]} GiB of gp3 volume each; DynamoDB and S3 by
use; logs kept {values["LogDays"]} days.{_budget(values)}

**How to be rid of it.** `aws cloudformation delete-stack --stack-name {stack}`. The bucket, the log group, the image repository
and the DynamoDB tables stay until somebody deletes them.
"""


def _reads(values: Mapping[str, str]) -> str:
    names = [one for key in ("InputBuckets", "InputPrefixes") for one in values[key].split(",") if one]
    return ", ".join(f"`{name}`" for name in names) or "public data only"


def _budget(values: Mapping[str, str]) -> str:
    if values["MonthlyDollars"] in ("", "0") or not values["BudgetEmail"]:
        return " No budget alarm is set; `MonthlyDollars` and `BudgetEmail` set one."
    return f" {values['BudgetEmail']} gets mail at 50, 80 and 100 % of ${values['MonthlyDollars']} a month."


def _json(told: Any) -> str:
    return json.dumps(told, indent=2) + "\n"
