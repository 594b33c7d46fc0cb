"""What a guarded run leaves to be judged: who asked for what, which policies its roles have, and every place to look for a secret."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from policy_support import Needed, needs

from pyanamo_core.aws import Clients
from pyanamo_core.local import LocalCloud
from pyanamo_core.local.container import ACCESS_KEY as PILOT

REGION = "us-east-1"
ACCOUNT = "123456789012"
ADMIN, DRIVER, DEPLOYER = "ADMINSKEY", "DRIVERSKEY", "DEPLOYERSKEY"


def jobs_of(clients: Clients, queue: str) -> list[dict[str, Any]]:
    """All jobs that were submitted to a queue, as Batch describes them."""
    batch = clients.client("batch")
    asked = {"jobQueue": queue, "filters": [{"name": "JOB_NAME", "values": ["*"]}]}
    pages = batch.get_paginator("list_jobs").paginate(**asked)
    ids = [job["jobId"] for page in pages for job in page["jobSummaryList"]]
    return [job for n in range(0, len(ids), 100) for job in batch.describe_jobs(jobs=ids[n : n + 100])["jobs"]]


def recorded(cloud: LocalCloud, jobs: Sequence[Mapping[str, Any]]) -> dict[str, list[Needed]]:
    """What pilots, driver and deployer needed for their calls since `cloud.watch()`, by access key."""
    tags = {job["jobId"]: job["tags"].get("pyanamo", "") for job in jobs}
    needed: dict[str, list[Needed]] = {}
    for request in cloud.seen():
        if request["key"] in (PILOT, DRIVER, DEPLOYER):
            needed.setdefault(request["key"], []).extend(needs(request, ACCOUNT, REGION, tags))
    return needed


def policies_of(clients: Clients, role_arn: str) -> list[dict[str, Any]]:
    """The inline policies that a role has."""
    iam, role = clients.client("iam"), role_arn.rpartition("/")[2]
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    told = [iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names]
    # moto keeps a role's inline policy as Python would print it.
    return [ast.literal_eval(one) if isinstance(one, str) else one for one in told]


def rows(clients: Clients, table: str) -> list[Any]:
    """Every row of a table, as it is stored."""
    pages = clients.client("dynamodb").get_paginator("scan").paginate(TableName=table)
    return [row for page in pages for row in page["Items"]]


def log_lines(clients: Clients) -> Iterator[str]:
    """Every line of every log group."""
    logs = clients.client("logs")
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for stream in logs.describe_log_streams(logGroupName=name)["logStreams"]:
            told = logs.get_log_events(logGroupName=name, logStreamName=stream["logStreamName"], startFromHead=True)
            yield from (event["message"] for event in told["events"])


def objects_of(clients: Clients, bucket: str) -> dict[str, str]:
    """Every object of a bucket as text, by key."""
    s3 = clients.client("s3")
    keys = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", ())]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode("utf-8", "replace") for key in keys}


def left_by(
    cloud: LocalCloud, clients: Clients, bucket: str, tables: Sequence[str], stack: str, queue: str
) -> dict[str, str]:
    """All places where something could have been left, as text: rows, objects, logs, submissions, stack and definition."""
    jobs = jobs_of(clients, queue)
    stacks = clients.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    definitions = clients.client("batch").describe_job_definitions()["jobDefinitions"]
    return {
        "submissions and overrides": json.dumps([jobs, [one["asked"] for one in cloud.seen()]], default=str),
        "rows": json.dumps([rows(clients, table) for table in tables], default=str),
        "logs": "\n".join(log_lines(clients)),
        "objects": "\n".join(objects_of(clients, bucket).values()),
        "stack and job definition": json.dumps([stacks, definitions], default=str),
    }
