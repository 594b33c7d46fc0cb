"""IAM's rules, as far as PyAnamo's policies use them, and what a recorded request needs by them.

`allowed` follows AWS's evaluation of policies of one identity: an explicit Deny wins, else an Allow, else no. Statements
have Action or NotAction, Resource or NotResource, and Condition with the operators below; an operator, a policy
variable or an element that it does not know is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, unquote

KNOWN = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}


@dataclass(frozen=True)
class Needed:
    """One permission that a request needs: `s3:GetObject` on an ARN, under what the request says of itself."""

    action: str
    resource: str
    conditions: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"{self.action} on {self.resource}" + (f" with {dict(self.conditions)}" if self.conditions else "")


def allowed(policies: Iterable[Mapping[str, Any]], needed: Needed) -> bool:
    """Would these policies of one identity allow it?"""
    effects = {
        str(statement["Effect"])
        for policy in policies
        for statement in listed(policy["Statement"])
        if applies(statement, needed)
    }
    if effects - {"Allow", "Deny"}:
        raise ValueError(f"unknown effects {effects}")
    return effects == {"Allow"}


def applies(statement: Mapping[str, Any], needed: Needed) -> bool:
    if unknown := set(statement) - KNOWN:
        raise ValueError(f"unknown elements {unknown}")
    if "Action" in statement:
        names = any(like(one, needed.action, ignore_case=True) for one in listed(statement["Action"]))
    else:
        names = not any(like(one, needed.action, ignore_case=True) for one in listed(statement["NotAction"]))
    if "Resource" in statement:
        reaches = any(like(one, needed.resource) for one in listed(statement["Resource"]))
    else:
        reaches = not any(like(one, needed.resource) for one in listed(statement["NotResource"]))
    return (
        names
        and reaches
        and all(
            holds(operator, key, listed(values), needed.conditions)
            for operator, asked in statement.get("Condition", {}).items()
            for key, values in asked.items()
        )
    )


def holds(operator: str, key: str, values: Sequence[Any], facts: Mapping[str, str]) -> bool:
    plain = operator.removesuffix("IfExists")
    fact = next((value for name, value in facts.items() if name.lower() == key.lower()), None)
    negative = plain in ("StringNotEquals", "StringNotLike", "ArnNotEquals", "ArnNotLike")
    if plain == "Null":
        return (fact is None) == (str(values[0]).lower() == "true")
    if fact is None:
        return operator.endswith("IfExists") or negative
    if plain in ("StringEquals", "StringNotEquals", "Bool"):
        found = any(str(value).lower() == fact.lower() if plain == "Bool" else str(value) == fact for value in values)
    elif plain in ("StringLike", "StringNotLike", "ArnLike", "ArnEquals", "ArnNotLike", "ArnNotEquals"):
        found = any(like(str(value), fact) for value in values)
    else:
        raise ValueError(f"unknown operator {operator}")
    return found != negative


def like(pattern: str, value: str, *, ignore_case: bool = False) -> bool:
    """`*` is any text, `?` one letter; everything else is itself."""
    if "${" in pattern:
        raise ValueError(f"policy variables are not played: {pattern}")
    expression = "".join(".*" if one == "*" else "." if one == "?" else re.escape(one) for one in pattern)
    return re.fullmatch(expression, value, re.IGNORECASE | re.DOTALL if ignore_case else re.DOTALL) is not None


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


# ---------------------------------------------------------------------------------------------------- what a request needs

S3_READS = {"GetObject", "HeadObject"}
UNNAMED = {
    "batch": {
        "describejobs": "DescribeJobs",
        "listjobs": "ListJobs",
        "describejobqueues": "DescribeJobQueues",
        "describejobdefinitions": "DescribeJobDefinitions",
        "describecomputeenvironments": "DescribeComputeEnvironments",
    }
}
"""Calls of Batch for which AWS knows no resources, by the last part of their paths."""


def needs(request: Mapping[str, Any], account: str, region: str, job_tags: Mapping[str, str]) -> list[Needed]:
    """The permissions that AWS would ask for a request which the local cloud recorded.

    Args:
        job_tags: tag `pyanamo` by job id, of jobs that the recorded requests submitted.
    """
    service, operation, asked = request["service"], request["operation"], request["asked"]
    place = f"{region}:{account}"
    if service == "s3":
        return _s3(request)
    if service == "dynamodb":
        where = {"aws:ResourceAccount": account, "aws:RequestedRegion": region}
        told = _dynamodb(operation, asked, f"arn:aws:dynamodb:{place}:table/")
        return [replace(one, conditions={**one.conditions, **where}) for one in told]
    if service == "batch":
        return _batch(operation, asked, f"arn:aws:batch:{place}:", job_tags)
    if service == "logs":
        group = asked.get("logGroupName", asked.get("logGroupNamePrefix", ""))
        streams = f":log-stream:{asked['logStreamName']}" if "logStreamName" in asked else ""
        if operation == "DescribeLogGroups":
            return [Needed(f"logs:{operation}", f"arn:aws:logs:{place}:log-group:*")]
        return [Needed(f"logs:{operation}", f"arn:aws:logs:{place}:log-group:{group}{streams or ':'}")]
    if service == "application-autoscaling":
        if operation.startswith("Describe"):
            return [Needed(f"{service}:{operation}", "*")]
        facts = {f"{service}:service-namespace": str(asked["ServiceNamespace"])}
        return [Needed(f"{service}:{operation}", f"arn:aws:{service}:{place}:scalable-target/0a1b", facts)]
    if service == "cloudformation":
        name = asked.get("StackName", "").partition(":stack/")[2] or f"{asked.get('StackName', '')}/0"
        return [Needed(f"cloudformation:{operation}", f"arn:aws:cloudformation:{place}:stack/{name}")]
    if service == "iam" and operation == "ListRoles":
        return [Needed("iam:ListRoles", "*")]
    if service == "iam" and operation == "CreateServiceLinkedRole":
        name = asked["AWSServiceName"]
        role = f"arn:aws:iam::{account}:role/aws-service-role/{name}/AWSServiceRole"
        return [Needed("iam:CreateServiceLinkedRole", role, {"iam:AWSServiceName": name})]
    if service == "ecr" and operation == "DescribeRepositories":
        return [
            Needed("ecr:DescribeRepositories", f"arn:aws:ecr:{place}:repository/{one}")
            for one in asked["repositoryNames"]
        ]
    if service == "sts" and operation == "GetCallerIdentity":
        return []  # AWS asks no permission for it
    if service == "iam" and operation in ("GetRole", "SimulatePrincipalPolicy"):
        name = asked.get("RoleName") or asked["PolicySourceArn"].rpartition("/")[2]
        path = "aws-service-role/batch.amazonaws.com/" if name.startswith("AWSServiceRole") else ""
        return [Needed(f"iam:{operation}", f"arn:aws:iam::{account}:role/{path}{name}")]
    if service == "iam" and operation == "GetInstanceProfile":
        return [Needed(f"iam:{operation}", f"arn:aws:iam::{account}:instance-profile/{asked['InstanceProfileName']}")]
    if service == "ecr" and operation == "DescribeImages":
        return [Needed("ecr:DescribeImages", f"arn:aws:ecr:{place}:repository/{asked['repositoryName']}")]
    if service == "servicequotas" and operation == "GetServiceQuota":
        quota = f"{asked['ServiceCode']}/{asked['QuotaCode']}"
        return [Needed("servicequotas:GetServiceQuota", f"arn:aws:servicequotas:{place}:{quota}")]
    if service == "ec2" and operation.startswith("Describe"):
        return [Needed(f"ec2:{operation}", "*")]
    raise ValueError(f"nobody said what {service} {operation} needs")


def _s3(request: Mapping[str, Any]) -> list[Needed]:
    bucket, _, key = unquote(request["path"]).lstrip("/").partition("/")
    operation = request["operation"]
    query = {name: values[0] for name, values in parse_qs(request["query"], keep_blank_values=True).items()}
    if not bucket:
        return [Needed("s3:ListAllMyBuckets", "*")]
    whole, one = f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/{key}"
    if operation in ("ListObjects", "ListObjectsV2", "HeadBucket"):
        return [Needed("s3:ListBucket", whole, {"s3:prefix": query["prefix"]} if "prefix" in query else {})]
    if operation in S3_READS:
        return [Needed("s3:GetObject", one)]
    if operation in ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"):
        needed = [Needed("s3:PutObject", one)]
        return needed + ([Needed("s3:GetObject", f"arn:aws:s3:::{request['copies']}")] if request["copies"] else [])
    if operation == "CopyObject":
        return [Needed("s3:PutObject", one), Needed("s3:GetObject", f"arn:aws:s3:::{request['copies']}")]
    plain = {
        "DeleteObject": ("s3:DeleteObject", one),
        "AbortMultipartUpload": ("s3:AbortMultipartUpload", one),
        "ListParts": ("s3:ListMultipartUploadParts", one),
        "CreateBucket": ("s3:CreateBucket", whole),
    }
    return [Needed(*plain[operation])]


def _dynamodb(operation: str, asked: Mapping[str, Any], tables: str) -> list[Needed]:
    if operation == "TransactWriteItems":
        actions = {
            "Put": "PutItem",
            "Update": "UpdateItem",
            "Delete": "DeleteItem",
            "ConditionCheck": "ConditionCheckItem",
        }
        return [Needed(f"dynamodb:{actions[kind]}", tables + table) for kind, table in asked["TransactItems"]]
    if operation in ("BatchGetItem", "BatchWriteItem"):
        return [Needed(f"dynamodb:{operation}", tables + table) for table in asked["RequestItems"]]
    if operation == "ListTables":
        return [Needed("dynamodb:ListTables", "*")]
    if operation == "TagResource":
        return [Needed("dynamodb:TagResource", asked["ResourceArn"])]
    index = f"/index/{asked['IndexName']}" if "IndexName" in asked else ""
    return [Needed(f"dynamodb:{operation}", f"{tables}{asked['TableName']}{index}")]


def _batch(operation: str, asked: Mapping[str, Any], start: str, job_tags: Mapping[str, str]) -> list[Needed]:
    if operation in UNNAMED["batch"]:
        return [Needed(f"batch:{UNNAMED['batch'][operation]}", "*")]
    if operation == "submitjob":
        queue, definition = asked["jobQueue"], asked["jobDefinition"]
        needed = [
            Needed("batch:SubmitJob", queue if queue.startswith("arn:") else f"{start}job-queue/{queue}"),
            Needed("batch:SubmitJob", f"{start}job-definition/{definition}"),
        ]
        tags = {f"aws:RequestTag/{name}": value for name, value in asked.get("tags", {}).items()}
        return needed + ([Needed("batch:TagResource", f"{start}job/*", tags)] if tags else [])
    if operation in ("canceljob", "terminatejob"):
        action = {"canceljob": "CancelJob", "terminatejob": "TerminateJob"}[operation]
        job = asked["jobId"]
        tag = {"aws:ResourceTag/pyanamo": job_tags[job]} if job in job_tags else {}
        return [Needed(f"batch:{action}", f"{start}job/{job}", tag)]
    raise ValueError(f"nobody said what batch {operation} needs")
