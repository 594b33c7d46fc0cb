"""`pyanamo deploy` where things exist already: each of them is used, and nothing of its kind is made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pyanamo.main import app
from pyanamo_core.aws import Clients
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.local.provision import ensure_compute
from pyanamo_core.stack.template import read_template

WORKFLOW = """\
name: {name}
queue: {name}_Queue
job_definition: {name}_JobDef
buckets:
  results: s3://not-made-yet/lab
"""
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})


@dataclass
class Lab:
    """An account in which an administrator has made one of each; `given` has them by the parameter that takes them."""

    clients: Clients
    given: dict[str, str] = field(default_factory=dict[str, str])

    def settings(self, *names: str) -> list[str]:
        return [word for name in names for word in ("--set", f"{name}={self.given[name]}")]

    def counts(self) -> dict[str, int]:
        """How many of each kind there are in the account."""
        ec2, iam, batch = self.clients.client("ec2"), self.clients.client("iam"), self.clients.client("batch")
        groups = self.clients.client("logs").describe_log_groups()["logGroups"]
        return {
            "roles": sum("/aws-service-role/" not in one["Arn"] for one in iam.list_roles()["Roles"]),
            "profiles": len(iam.list_instance_profiles()["InstanceProfiles"]),
            "buckets": len(self.clients.client("s3").list_buckets()["Buckets"]),
            "log groups": sum("Batch" not in one["logGroupName"] for one in groups),
            "repositories": len(self.clients.client("ecr").describe_repositories()["repositories"]),
            "networks": len(ec2.describe_vpcs()["Vpcs"]),
            "walls": len(ec2.describe_security_groups()["SecurityGroups"]),
            "environments": len(batch.describe_compute_environments()["computeEnvironments"]),
            "queues": len(batch.describe_job_queues()["jobQueues"]),
            "definitions": len(batch.describe_job_definitions(status="ACTIVE")["jobDefinitions"]),
        }


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    home = tmp_path_factory.mktemp("cloud")
    yield up(Options(home=home, owner=os.getpid(), stop_seconds=2))
    down(home)


@pytest.fixture(scope="module")
def lab(cloud: LocalCloud) -> Lab:
    clients = cloud.clients()
    ec2, iam = clients.client("ec2"), clients.client("iam")
    network = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=network, CidrBlock=f"10.9.{n}.0/24", AvailabilityZone=f"us-east-1{zone}")["Subnet"]
        for n, zone in enumerate("ab")
    ]
    wall = ec2.create_security_group(GroupName="lab", Description="lab", VpcId=network)["GroupId"]
    profile = iam.create_instance_profile(InstanceProfileName="lab-hosts")["InstanceProfile"]["Arn"]
    clients.client("logs").create_log_group(logGroupName="/lab/logs")
    clients.client("s3").create_bucket(Bucket="lab-results")
    clients.client("ecr").create_repository(repositoryName="lab/pyanamo")
    for each in ("Spot", "OnDemand"):
        ensure_compute(clients, f"Lab_{each}", "Lab_JobDef")
    batch = clients.client("batch")
    told = {one["jobQueueName"]: one for one in batch.describe_job_queues()["jobQueues"]}
    environment = {name: one["computeEnvironmentOrder"][0]["computeEnvironment"] for name, one in told.items()}
    roles = {
        name: iam.create_role(RoleName=f"lab-{name}", AssumeRolePolicyDocument=TRUST)["Role"]["Arn"]
        for name in ("JobRole", "ExecutionRole", "DriverRole", "ServiceRole")
    }
    return Lab(
        clients,
        {
            **roles,
            "DriverPrincipal": "arn:aws:iam::123456789012:user/ann",
            "InstanceProfile": profile,
            "Bucket": "lab-results",
            "LogGroup": "/lab/logs",
            "Repository": "lab/pyanamo",
            "VpcId": network,
            "Subnets": ",".join(one["SubnetId"] for one in subnets),
            "SecurityGroups": wall,
            "RouteTables": ec2.create_route_table(VpcId=network)["RouteTable"]["RouteTableId"],
            "SpotEnvironment": environment["Lab_Spot"],
            "OnDemandEnvironment": environment["Lab_OnDemand"],
            "Queue": told["Lab_Spot"]["jobQueueArn"],
            "OnDemandQueue": told["Lab_OnDemand"]["jobQueueArn"],
            "JobDefinition": "Lab_JobDef",
        },
    )


@pytest.fixture(autouse=True)
def place(cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def deployed(lab: Lab, name: str, *names: str, more: tuple[str, ...] = ()) -> tuple[dict[str, str], dict[str, int]]:
    """The outputs of a stack to which these are given, and what it made, by kind."""
    Path("workflow.yaml").write_text(WORKFLOW.format(name=name))
    before = lab.counts()
    result = CliRunner().invoke(app, ["deploy", *lab.settings(*names), *more, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    after = lab.counts()
    return json.loads(result.stdout)["outputs"], {
        kind: n - before[kind] for kind, n in after.items() if n != before[kind]
    }


def test_all_that_may_be_given_is_tried_here(lab: Lab) -> None:
    groups = read_template()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    (given,) = [one["Parameters"] for one in groups if one["Label"]["default"] == "Given instead of made"]
    assert sorted(given) == sorted(lab.given)


def test_in_given_roles_network_bucket_and_logs_only_machines_queues_and_definition_are_made(lab: Lab) -> None:
    # Given everything that machines and containers are made of
    names = ["JobRole", "ExecutionRole", "DriverRole", "ServiceRole", "InstanceProfile", "Bucket", "LogGroup"]
    names += ["Repository", "VpcId", "Subnets", "SecurityGroups", "RouteTables"]
    outputs, made = deployed(lab, "Machines", *names)
    # Then there are two environments and queues and a definition more in the account, and nothing else
    assert made == {"environments": 2, "queues": 2, "definitions": 1}
    assert outputs["Results"] == "s3://lab-results/lab"
    assert outputs["LogGroup"] == "/lab/logs"
    # And they are made of what was given
    batch = lab.clients.client("batch")
    (definition,) = batch.describe_job_definitions(jobDefinitionName="Machines_JobDef")["jobDefinitions"]
    container = definition["containerProperties"]
    assert (container["jobRoleArn"], container["executionRoleArn"]) == (
        lab.given["JobRole"],
        lab.given["ExecutionRole"],
    )
    assert container["image"].endswith("dkr.ecr.us-east-1.amazonaws.com/lab/pyanamo:latest")
    assert container["logConfiguration"]["options"]["awslogs-group"] == "/lab/logs"
    environments = batch.describe_compute_environments()["computeEnvironments"]
    own = [one for one in environments if "Machines" in json.dumps(one.get("computeResources", {}).get("tags", {}))]
    assert len(own) == 2
    for one in own:
        machines = one["computeResources"]
        assert machines["instanceRole"] == lab.given["InstanceProfile"]
        assert ",".join(machines["subnets"]) == lab.given["Subnets"]
        assert machines["securityGroupIds"] == [lab.given["SecurityGroups"]]
        assert one["serviceRole"] == lab.given["ServiceRole"]


def test_queues_take_given_environments_and_the_drivers_role_only_who_is_named(lab: Lab) -> None:
    outputs, made = deployed(lab, "Queues", "SpotEnvironment", "OnDemandEnvironment", "DriverPrincipal", "Bucket")
    # Then neither network nor machines are made
    assert made == {"queues": 2, "definitions": 1, "roles": 3, "profiles": 1, "log groups": 1, "repositories": 1}
    told = lab.clients.client("batch").describe_job_queues(jobQueues=["Queues_Queue", "Queues_OnDemandQueue"])
    orders = {one["jobQueueName"]: one["computeEnvironmentOrder"] for one in told["jobQueues"]}
    assert orders["Queues_Queue"] == [{"order": 1, "computeEnvironment": lab.given["SpotEnvironment"]}]
    assert orders["Queues_OnDemandQueue"] == [{"order": 1, "computeEnvironment": lab.given["OnDemandEnvironment"]}]
    role = outputs["DriverRole"].rpartition("/")[2]
    trust = lab.clients.client("iam").get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]
    assert lab.given["DriverPrincipal"] in str(trust)
    assert ":root" not in str(trust)


def test_with_given_queues_a_definition_is_made_and_nothing_else(lab: Lab) -> None:
    names = ["Queue", "OnDemandQueue", "JobRole", "ExecutionRole", "Bucket", "LogGroup"]
    outputs, made = deployed(lab, "Bare", *names, more=("--set", "DriverRole=none", "--set", "Image=lab/image:1"))
    assert made == {"definitions": 1}
    assert outputs["Queue"] == lab.given["Queue"]
    assert "DriverRole" not in outputs


def test_where_all_is_given_the_stack_makes_nothing_and_tells_the_lines(lab: Lab) -> None:
    names = ["Queue", "OnDemandQueue", "JobDefinition", "Bucket", "LogGroup", "DriverRole"]
    outputs, made = deployed(lab, "Nothing", *names)
    assert made == {}
    assert (outputs["Queue"], outputs["JobDefinition"]) == (lab.given["Queue"], "Lab_JobDef")
    assert outputs["Results"] == "s3://lab-results/lab"
