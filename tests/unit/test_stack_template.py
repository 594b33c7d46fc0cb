"""The template's own rules, seen without an account: names, what outlives it, what may be given, what a container gets."""

from __future__ import annotations

from typing import Any

import pytest

from pyanamo_core.fleet.batch import RETRY
from pyanamo_core.local.provision import RETRY_RULES
from pyanamo_core.stack.template import (
    MAX_BYTES,
    ParameterMalformed,
    ParameterUnknown,
    Resolved,
    checked,
    parameters,
    read_template,
    template_text,
)

TEMPLATE = read_template()
NAMED = {
    ("AWS::Batch::JobQueue", "JobQueueName"),
    ("AWS::Batch::JobDefinition", "JobDefinitionName"),
    ("AWS::ECR::Repository", "RepositoryName"),
}
"""Physical names that users and runs type."""
DATA = {"AWS::S3::Bucket", "AWS::Logs::LogGroup", "AWS::ECR::Repository", "AWS::DynamoDB::Table"}


def resolved(**given: str) -> Resolved:
    return Resolved(TEMPLATE, given, "HC", "111122223333", "eu-west-1")


def kinds(one: Resolved) -> set[str]:
    return {told["Type"] for told in one.resources.values()}


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {name: told for name, told in TEMPLATE["Resources"].items() if told["Type"] == kind}


def test_only_what_users_type_has_a_physical_name() -> None:
    # Given every resource, and the properties by which CloudFormation would give it a name
    found = {
        (told["Type"], name)
        for told in TEMPLATE["Resources"].values()
        for name in told.get("Properties", {})
        if (name.endswith("Name") and name not in ("ServiceName", "PolicyName"))
        or name in ("BucketName", "LogGroupName", "RoleName", "LaunchTemplateName", "ComputeEnvironmentName")
    }
    # Then only queues, job definition and repository have one: nothing else collides with itself when replaced
    assert found == NAMED


def test_what_holds_data_outlives_the_stack_and_its_own_replacement() -> None:
    for name, told in TEMPLATE["Resources"].items():
        if told["Type"] in DATA:
            assert (told["DeletionPolicy"], told["UpdateReplacePolicy"]) == ("Retain", "Retain"), name
    # And the ledger's table is no part of the stack at all
    assert not of_kind("AWS::DynamoDB::Table")


def test_revisions_of_the_job_definition_stay_for_the_runs_that_pinned_them() -> None:
    (definition,) = of_kind("AWS::Batch::JobDefinition").values()
    assert definition["Properties"]["ResourceRetentionPolicy"] == {"SkipDeregisterOnUpdate": True}
    assert definition["UpdateReplacePolicy"] == "Retain"


def test_environments_are_updated_in_place_and_spare_what_runs() -> None:
    environments = of_kind("AWS::Batch::ComputeEnvironment")
    assert len(environments) == 2
    for told in environments.values():
        properties = told["Properties"]
        assert properties["ReplaceComputeEnvironment"] is False
        assert properties["UpdatePolicy"]["TerminateJobsOnUpdate"] is False
        # Only these strategies can be updated in place
        assert properties["ComputeResources"]["AllocationStrategy"] in (
            "SPOT_PRICE_CAPACITY_OPTIMIZED",
            "BEST_FIT_PROGRESSIVE",
        )


def test_queues_cancel_only_what_no_waiting_mends() -> None:
    for told in of_kind("AWS::Batch::JobQueue").values():
        reasons = [one["Reason"] for one in told["Properties"]["JobStateTimeLimitActions"]]
        assert reasons
        assert all(reason.startswith("MISCONFIGURATION:") for reason in reasons)
        # And each queue has one environment: Spot's never spills to on-demand
        assert len(told["Properties"]["ComputeEnvironmentOrder"]) == 1


def test_on_demand_spends_nothing_unless_asked() -> None:
    machines = resolved().resources["OnDemandMachines"]["Properties"]["ComputeResources"]
    assert (machines["Type"], machines["MaxvCpus"], machines["MinvCpus"]) == ("EC2", "0", 0)


def test_the_container_is_as_the_design_says() -> None:
    # Given the job definition for a workflow with a key for Prefect
    secret = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:prefect"
    properties = resolved(PrefectApiKeySecret=secret, Image="lab/pyanamo:7").resources["PilotDefinition"]["Properties"]
    container = properties["ContainerProperties"]
    # Then it runs unprivileged on a read-only root, with an init, and writes to the scratch volume only
    assert container["User"] == "1000"
    assert container["ReadonlyRootFilesystem"] is True
    assert container["Privileged"] is False
    assert container["LinuxParameters"]["InitProcessEnabled"] is True
    assert container["Volumes"][0]["Host"]["SourcePath"] == container["MountPoints"][0]["ContainerPath"] == "/scratch"
    environment = {one["Name"]: one["Value"] for one in container["Environment"]}
    assert environment["PYANAMO_SCRATCH"] == "/scratch"
    # And the key comes from Secrets Manager, not as a value
    assert container["Secrets"] == [{"Name": "PREFECT_API_KEY", "ValueFrom": secret}]
    assert "PREFECT_API_KEY" not in environment
    assert container["Image"] == "lab/pyanamo:7"
    assert container["LogConfiguration"]["LogDriver"] == "awslogs"
    assert properties["Timeout"]["AttemptDurationSeconds"] == "90000"


def test_retry_rules_are_those_that_each_submission_sends() -> None:
    (definition,) = of_kind("AWS::Batch::JobDefinition").values()
    told = definition["Properties"]["RetryStrategy"]
    rules = [{key[0].lower() + key[1:]: value for key, value in one.items()} for one in told["EvaluateOnExit"]]
    assert rules == [dict(rule) for rule in RETRY_RULES] == [dict(rule) for rule in RETRY["evaluateOnExit"]]
    assert told["Attempts"] == RETRY["attempts"] == 10


GIVEN = {
    "Bucket": ("lab-results", "AWS::S3::Bucket"),
    "LogGroup": ("/lab/logs", "AWS::Logs::LogGroup"),
    "Repository": ("lab/pyanamo", "AWS::ECR::Repository"),
    "JobDefinition": ("Lab_JobDef", "AWS::Batch::JobDefinition"),
}


@pytest.mark.parametrize("parameter", sorted(GIVEN))
def test_a_given_thing_is_not_made(parameter: str) -> None:
    value, kind = GIVEN[parameter]
    assert kind in kinds(resolved())
    assert kind not in kinds(resolved(**{parameter: value}))


ROLES = {"JobRole": "PilotRole", "ExecutionRole": "StarterRole", "DriverRole": "RunnerRole"}


@pytest.mark.parametrize("parameter", sorted(ROLES))
def test_a_given_role_is_not_made_and_gets_no_policies(parameter: str) -> None:
    given = {parameter: "arn:aws:iam::111122223333:role/lab", "InputBuckets": "reads", "OutputPrefixes": "logs/x"}
    one = resolved(**given)
    assert ROLES[parameter] not in one.roles
    for told in one.resources.values():
        if told["Type"] == "AWS::IAM::Policy":
            assert f"HC-{ROLES[parameter]}" not in told["Properties"]["Roles"]


def test_with_given_queues_nothing_of_machines_roles_or_network_is_made() -> None:
    queue = "arn:aws:batch:eu-west-1:111122223333:job-queue/"
    one = resolved(Queue=queue + "lab", OnDemandQueue="none", JobRole="a", ExecutionRole="b", DriverRole="none")
    assert kinds(one) == {"AWS::S3::Bucket", "AWS::Logs::LogGroup", "AWS::ECR::Repository", "AWS::Batch::JobDefinition"}


def test_with_a_given_environment_the_queue_takes_it() -> None:
    environment = "arn:aws:batch:eu-west-1:111122223333:compute-environment/lab"
    one = resolved(SpotEnvironment=environment, OnDemandEnvironment=environment)
    order = one.resources["SpotQueue"]["Properties"]["ComputeEnvironmentOrder"]
    assert order == [{"Order": 1, "ComputeEnvironment": environment}]
    assert not kinds(one) & {"AWS::Batch::ComputeEnvironment", "AWS::EC2::VPC", "AWS::EC2::LaunchTemplate"}


def test_in_a_given_network_only_endpoints_are_made_and_only_if_route_tables_are_named() -> None:
    given = {"VpcId": "vpc-1", "Subnets": "subnet-1,subnet-2", "SecurityGroups": "sg-1"}
    assert not kinds(resolved(**given)) & {"AWS::EC2::VPC", "AWS::EC2::Subnet", "AWS::EC2::VPCEndpoint"}
    one = resolved(**given, RouteTables="rtb-1")
    assert sum(told["Type"] == "AWS::EC2::VPCEndpoint" for told in one.resources.values()) == 2
    machines = one.resources["SpotMachines"]["Properties"]["ComputeResources"]
    assert (machines["Subnets"], machines["SecurityGroupIds"]) == (["subnet-1", "subnet-2"], ["sg-1"])


def test_the_stack_fits_into_a_request() -> None:
    # Given the template as it is sent, then it fits, and nothing but comments was left out
    assert len(template_text().encode()) < MAX_BYTES
    assert read_template(template_text()) == read_template(template_text(comments=True))
    assert "#!" in template_text()


def test_each_parameter_says_what_it_is_for_and_stands_in_a_group() -> None:
    groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(parameters(TEMPLATE))
    assert all(one.about for one in parameters(TEMPLATE).values())


@pytest.mark.parametrize(("name", "value"), [("Vcpus", "many"), ("Nests", "-1"), ("LogDays", "8"), ("Prefix", "/x")])
def test_a_parameter_that_cannot_be_is_told_before_anything_is_sent(name: str, value: str) -> None:
    with pytest.raises(ParameterMalformed, match=name):
        checked({name: value}, TEMPLATE)


def test_an_unknown_parameter_is_told_with_those_that_exist() -> None:
    with pytest.raises(ParameterUnknown, match=r"SpotVCPU.*SpotVcpus"):
        checked({"SpotVCPU": "8"}, TEMPLATE)


def test_the_resolver_fails_loudly_for_a_function_that_it_does_not_know() -> None:
    strange = {"X": {"Type": "T", "Properties": {"A": {"Fn::Cidr": [1]}}}}
    with pytest.raises(NotImplementedError, match="Fn::Cidr"):
        assert Resolved({"Parameters": {}, "Resources": strange}, {}, "s", "1", "r").resources
