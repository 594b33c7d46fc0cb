"""Does moto still do what the local cloud builds on? Stack → job definition → array → describe → logs, in one go.

It runs in a region that nobody uses, before the cloud is called ready, so that a moto which has changed is found at
`local up` and not in the middle of somebody's run.
"""

from __future__ import annotations

import json
import time
from typing import Any, Final

from pyanamo_core.aws import Clients
from pyanamo_core.errors import LocalCloudBroken

REGION: Final = "ap-northeast-3"
WAIT_SECONDS: Final = 60
WORDS: Final = ["sh", "-c", "echo probe $AWS_BATCH_JOB_ARRAY_INDEX"]


def _role(service: str) -> dict[str, Any]:
    allowed = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    return {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [allowed]}}


def _ref(name: str) -> dict[str, str]:
    return {"Ref": name}


def _arn(name: str) -> dict[str, list[str]]:
    return {"Fn::GetAtt": [name, "Arn"]}


def template() -> dict[str, Any]:
    """The smallest stack that runs a job: network, roles, environment, queue, definition."""
    parts: dict[str, tuple[str, dict[str, Any]]] = {
        "Net": ("EC2::VPC", {"CidrBlock": "10.0.0.0/16"}),
        "Part": ("EC2::Subnet", {"VpcId": _ref("Net"), "CidrBlock": "10.0.1.0/24"}),
        "Wall": ("EC2::SecurityGroup", {"VpcId": _ref("Net"), "GroupDescription": "probe"}),
        "Host": ("IAM::Role", _role("ec2.amazonaws.com")),
        "Profile": ("IAM::InstanceProfile", {"Roles": [_ref("Host")]}),
        "Room": (
            "Batch::ComputeEnvironment",
            {
                "Type": "MANAGED",
                "ServiceRole": _arn("Host"),
                "ComputeResources": {
                    "Type": "EC2",
                    "MinvCpus": 0,
                    "MaxvCpus": 4,
                    "InstanceTypes": ["optimal"],
                    "InstanceRole": _arn("Profile"),
                    "Subnets": [_ref("Part")],
                    "SecurityGroupIds": [_ref("Wall")],
                },
            },
        ),
        "Queue": (
            "Batch::JobQueue",
            {"Priority": 1, "ComputeEnvironmentOrder": [{"Order": 1, "ComputeEnvironment": _ref("Room")}]},
        ),
        "Definition": (
            "Batch::JobDefinition",
            {
                "Type": "container",
                "JobDefinitionName": "pyanamo-probe",
                "RetryStrategy": {"Attempts": 1},
                "ContainerProperties": {"Image": "probe", "Vcpus": 1, "Memory": 64, "Command": WORDS},
            },
        ),
    }
    resources = {name: {"Type": f"AWS::{kind}", "Properties": rest} for name, (kind, rest) in parts.items()}
    return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}


def probe(clients: Clients, moto: str) -> None:
    """Run the probe to its end.

    Args:
        clients: of REGION.
        moto: moto's version, for the message.

    Raises:
        LocalCloudBroken: something did not come out as it must.
    """
    step = "stack"
    try:
        # Sent once and waited for: on a busy machine the first answer takes long, and a repeat finds the stack made.
        formation, batch = clients.once("cloudformation"), clients.once("batch")
        logs = clients.client("logs")
        formation.create_stack(StackName="pyanamo-probe", TemplateBody=json.dumps(template()))
        made = formation.describe_stack_resources(StackName="pyanamo-probe")["StackResources"]
        names = {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in made}
        step = "array"
        parent = batch.submit_job(
            jobName="probe",
            jobQueue=names["Queue"],
            jobDefinition="pyanamo-probe:1",
            arrayProperties={"size": 2},
        )["jobId"]
        step = "describe"
        give_up = time.monotonic() + WAIT_SECONDS
        while (job := batch.describe_jobs(jobs=[parent])["jobs"][0])["status"] not in ("SUCCEEDED", "FAILED"):
            if time.monotonic() > give_up:
                raise LocalCloudBroken(what=f"moto {moto}", reason=f"probe's jobs: {job['arrayProperties']}", log="")
            time.sleep(0.02)
        child = batch.describe_jobs(jobs=[f"{parent}:1"])["jobs"][0]
        if (job["status"], child["attempts"][0]["container"]["exitCode"]) != ("SUCCEEDED", 0):
            raise LocalCloudBroken(what=f"moto {moto}", reason=f"probe's child ended as {child}", log="")
        step = "logs"
        stream = child["container"]["logStreamName"]
        events = logs.get_log_events(logGroupName="/aws/batch/job", logStreamName=stream)["events"]
        if [event["message"] for event in events] != ["probe 1"]:
            raise LocalCloudBroken(what=f"moto {moto}", reason=f"probe's log holds {events}", log="")
        formation.delete_stack(StackName="pyanamo-probe")
    except LocalCloudBroken:
        raise
    except Exception as error:
        raise LocalCloudBroken(what=f"moto {moto}", reason=f"probe's {step}: {error!r}", log="") from error
