"""What moto leaves undone when it makes or deletes a stack, done with ordinary calls, so that a stack ends as on AWS."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from pyanamo_core.aws import Clients

_TIE: Final = "AWS::EC2::SubnetRouteTableAssociation"
Made = list[tuple[str, str]]
"""Kind and physical id of each resource of a stack."""


def tell_outputs(clients: Clients, asked: Mapping[str, str]) -> None:
    """A stack that moto makes from a change set has no outputs until it is updated, be it by nothing."""
    clients.once("cloudformation").update_stack(StackName=asked["StackName"], UsePreviousTemplate=True)


def tie_subnets(clients: Clients, asked: Mapping[str, str]) -> None:
    """Tie subnets to the route tables that the template says: moto notes the association, and makes none."""
    from botocore.exceptions import ClientError

    from pyanamo_core.stack.template import read_template

    formation: Any = clients.client("cloudformation")
    told = formation.list_stack_resources(StackName=asked["StackName"])["StackResourceSummaries"]
    made = {str(each["LogicalResourceId"]): str(each["PhysicalResourceId"]) for each in told}
    if not any(each["ResourceType"] == _TIE for each in told):
        return
    template = read_template(formation.get_template(StackName=asked["StackName"])["TemplateBody"])
    for name, resource in template["Resources"].items():
        if resource["Type"] == _TIE and name in made:
            ends = [resource["Properties"][key].get("Ref", "") for key in ("SubnetId", "RouteTableId")]
            with suppress(ClientError, KeyError):  # a parameter instead, or tied already
                clients.client("ec2").associate_route_table(SubnetId=made[ends[0]], RouteTableId=made[ends[1]])


def before_delete(clients: Clients, asked: Mapping[str, str]) -> Made:
    """Free a network of what moto does not take from it. Returns the stack's resources; none if there is no stack."""
    from botocore.exceptions import ClientError

    formation: Any = clients.client("cloudformation")
    try:
        stack = formation.describe_stacks(StackName=asked["StackName"])["Stacks"][0]
    except ClientError:
        return []
    # To list what a stack that is deleted, or not made yet, holds makes moto make it.
    if stack["StackStatus"] in ("DELETE_COMPLETE", "REVIEW_IN_PROGRESS"):
        return []
    told = formation.list_stack_resources(StackName=stack["StackId"])["StackResourceSummaries"]
    made: Made = [(str(each["ResourceType"]), str(each["PhysicalResourceId"])) for each in told]
    # moto forgets an environment whose parameters changed; it is named after its stack like any other.
    environments = clients.client("batch").describe_compute_environments()["computeEnvironments"]
    named = [str(each["computeEnvironmentName"]) for each in environments]
    made += [("AWS::Batch::ComputeEnvironment", name) for name in named if name.startswith(f"{stack['StackName']}-")]
    ec2: Any = clients.client("ec2")
    networks = [name for kind, name in made if kind == "AWS::EC2::VPC" and name]
    for kind, name in made:
        if kind == "AWS::EC2::InternetGateway" and name:
            for network in networks:
                with suppress(ClientError):
                    ec2.detach_internet_gateway(InternetGatewayId=name, VpcId=network)
    tables = [name for kind, name in made if kind == "AWS::EC2::RouteTable" and name]
    found: list[dict[str, Any]] = ec2.describe_route_tables(RouteTableIds=tables)["RouteTables"] if tables else []
    for table in found:
        for each in table["Associations"]:
            if not each.get("Main"):
                with suppress(ClientError):
                    ec2.disassociate_route_table(AssociationId=each["RouteTableAssociationId"])
        with suppress(ClientError):
            ec2.delete_route_table(RouteTableId=table["RouteTableId"])
    return made


def after_delete(clients: Clients, made: Made) -> None:
    """Delete queues, environments and job definitions, which moto keeps."""
    from botocore.exceptions import ClientError

    batch: Any = clients.client("batch")
    for kind, name in made:
        with suppress(ClientError):
            if kind == "AWS::Batch::JobQueue":
                batch.update_job_queue(jobQueue=name, state="DISABLED")
                batch.delete_job_queue(jobQueue=name)
    for kind, name in made:
        with suppress(ClientError):
            if kind == "AWS::Batch::ComputeEnvironment":
                batch.update_compute_environment(computeEnvironment=name, state="DISABLED")
                batch.delete_compute_environment(computeEnvironment=name)
            elif kind == "AWS::Batch::JobDefinition":
                batch.deregister_job_definition(jobDefinition=name)
