"""What the doctor makes of answers that only an account gives: INVALID environments, NAT, quotas, IAM's simulation, jobs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from pyanamo_core.clock import FakeClock
from pyanamo_core.doctor import Case, Chart, Line, State, examine_as_job
from pyanamo_core.doctor.as_job import lines_of
from pyanamo_core.doctor.compute import look_at_compute
from pyanamo_core.doctor.data import reads_named
from pyanamo_core.doctor.identity import look_at_clock
from pyanamo_core.doctor.network import look_at_network
from pyanamo_core.doctor.prefect import look_at_prefect
from pyanamo_core.doctor.roles import look_at_roles, trusted_services
from pyanamo_core.doctor.tables import differences
from pyanamo_core.workflow import Workflow

ARN = "arn:aws:iam::111122223333:role/pilots"
DEFINITION = {
    "jobDefinitionName": "D",
    "revision": 3,
    "status": "ACTIVE",
    "type": "container",
    "containerProperties": {
        "image": "pyanamo",
        "jobRoleArn": ARN,
        "resourceRequirements": [{"type": "VCPU", "value": "4"}, {"type": "MEMORY", "value": "12288"}],
    },
}
ENVIRONMENT = {
    "computeEnvironmentName": "E",
    "computeEnvironmentArn": "arn:E",
    "state": "ENABLED",
    "status": "VALID",
    "type": "MANAGED",
    "computeResources": {"type": "SPOT", "maxvCpus": 64, "instanceTypes": ["m5"], "subnets": ["subnet-1"]},
}
QUEUE = {"state": "ENABLED", "status": "VALID", "computeEnvironmentOrder": [{"computeEnvironment": "E"}]}
SIZES = [{"VCpuInfo": {"DefaultVCpus": 4}, "MemoryInfo": {"SizeInMiB": 16384}}]


class FakeAws:
    """Clients that give the answers which a test has in mind; what it did not think of is an error."""

    endpoint_url = None

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.meta = self
        self.events = self

    def register(self, *_: Any) -> None:
        """Nobody listens."""

    def client(self, service: str, region: str | None = None) -> FakeAws:
        return self

    once = quick = client

    def __getattr__(self, name: str) -> Any:
        operation = "".join(word.title() for word in name.split("_"))

        def call(**asked: Any) -> Any:
            self.asked.append((operation, asked))
            found = self.answers[operation]
            found = found(**asked) if callable(found) else found
            if isinstance(found, Exception):
                raise found
            return found

        return call

    def get_paginator(self, name: str) -> Any:
        call = getattr(self, name)

        class Pages:
            def paginate(self, **asked: Any) -> list[Any]:
                return [call(**asked)]

        return Pages()


def refused(code: str, operation: str = "X", message: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def healthy(**changed: Any) -> dict[str, Any]:
    return {
        "DescribeJobDefinitions": {"jobDefinitions": [DEFINITION]},
        "DescribeJobQueues": {"jobQueues": [QUEUE]},
        "DescribeComputeEnvironments": {"computeEnvironments": [ENVIRONMENT]},
        "DescribeInstanceTypes": {"InstanceTypes": SIZES},
        "GetServiceQuota": {"Quota": {"Value": 64.0}},
    } | changed


def workflow(**more: Any) -> Workflow:
    told = {"name": "Flow", "queue": "Q", "job_definition": "D", "buckets": {"results": "s3://bucket/lab"}}
    return Workflow.model_validate({**told, **more})


def case_of(**answers: Any) -> Case:
    made: Any = FakeAws(**answers)
    case = Case(clients=made, table="Flow", chart=Chart(), workflow=workflow())
    case.region, case.account = "us-east-1", "111122223333"
    return case


def the(case: Case, check: str) -> Line:
    return next(line for line in case.chart.lines if line.check == check)


# ---------------------------------------------------------------------------------------------------- environments


@pytest.mark.parametrize(
    ("environment", "state", "words"),
    [
        ({"status": "INVALID", "statusReason": "CLIENT_ERROR - not authorized"}, State.WRONG, "INVALID (CLIENT_ERROR"),
        ({"state": "DISABLED"}, State.WRONG, "it is DISABLED"),
        ({"type": "UNMANAGED"}, State.NOT_CHECKED, "UNMANAGED"),
        ({"computeResources": {"type": "FARGATE", "maxvCpus": 64}}, State.WRONG, "FARGATE"),
        ({"computeResources": {"type": "SPOT", "maxvCpus": 2}}, State.WRONG, "none can ever start"),
        ({}, State.OK, "up to 64 vCPUs: 16 pilots of 4"),
    ],
)
def test_an_environment_that_starts_no_pilot_is_told_with_its_reason(
    environment: Mapping[str, Any], state: State, words: str
) -> None:
    case = case_of(**healthy(DescribeComputeEnvironments={"computeEnvironments": [ENVIRONMENT | environment]}))
    look_at_compute(case, workflow())
    found = the(case, "compute environment")
    assert (found.state, words in found.fact) == (state, True), found


def test_more_pilots_than_the_ceiling_bears_are_a_warning() -> None:
    case = case_of(**healthy())
    case.workflow = workflow(pilots=100)
    look_at_compute(case, case.workflow)
    found = the(case, "compute environment")
    assert (found.state, "16 pilots of 4; the workflow asks for 100" in found.fact) == (State.WARNING, True)


def test_an_on_demand_queue_that_is_switched_off_is_worth_a_word_and_no_fault() -> None:
    # Given a second queue whose environment has a ceiling of 0, as the stack makes it
    def environments(**asked: Any) -> Any:
        (name,) = asked["computeEnvironments"]
        vcpus = {"E": 64, "O": 0}[name]
        resources = {"type": "SPOT" if name == "E" else "EC2", "maxvCpus": vcpus, "instanceTypes": ["m5"]}
        told = {"computeEnvironmentName": name, "computeEnvironmentArn": f"arn:{name}", "computeResources": resources}
        return {"computeEnvironments": [ENVIRONMENT | told]}

    def queues(**asked: Any) -> Any:
        name = "E" if asked["jobQueues"] == ["Q"] else "O"
        return {"jobQueues": [QUEUE | {"computeEnvironmentOrder": [{"computeEnvironment": name}]}]}

    case = case_of(**healthy(DescribeJobQueues=queues, DescribeComputeEnvironments=environments))
    look_at_compute(case, workflow(on_demand_queue="Second"))
    assert the(case, "on-demand queue").subject == "Second"
    found = next(line for line in case.chart.lines if line.subject == "O" and line.check == "compute environment")
    assert (found.state, "OnDemandVcpus" in found.mend) == (State.WARNING, True)


def test_an_environment_that_the_queue_names_and_nobody_has_is_wrong() -> None:
    case = case_of(**healthy(DescribeComputeEnvironments={"computeEnvironments": []}))
    look_at_compute(case, workflow())
    assert (the(case, "compute environment").subject, the(case, "compute environment").state) == ("E", State.WRONG)


def test_a_machine_of_16_gib_does_not_give_a_container_16_gib() -> None:
    # Given pilots that ask for all the memory of the only type
    container = DEFINITION["containerProperties"] | {"resourceRequirements": [{"type": "MEMORY", "value": "16384"}]}
    whole = DEFINITION | {"containerProperties": container}
    case = case_of(**healthy(DescribeJobDefinitions={"jobDefinitions": [whole]}))
    look_at_compute(case, workflow())
    assert the(case, "instance types").state is State.WRONG
    assert "16384 MiB besides what is the host's own" in the(case, "instance types").fact


def test_a_quota_below_the_ceiling_is_told_with_how_to_raise_it() -> None:
    case = case_of(**healthy(GetServiceQuota={"Quota": {"Value": 5.0}}))
    look_at_compute(case, workflow())
    found = the(case, "vCPU quota")
    assert (found.state, found.fact) == (State.WARNING, "the account may run 5 vCPUs, the environment's ceiling is 64")
    assert "--quota-code L-34B43A08 --desired-value 64" in found.mend


def test_the_newest_active_revision_is_the_one_that_is_looked_at() -> None:
    older = DEFINITION | {"revision": 2}
    gone = DEFINITION | {"revision": 9, "status": "INACTIVE"}
    case = case_of(**healthy(DescribeJobDefinitions={"jobDefinitions": [older, DEFINITION, gone]}))
    look_at_compute(case, workflow())
    assert the(case, "job definition").subject == "D:3"


# ---------------------------------------------------------------------------------------------------- the network


def networked(route: Mapping[str, Any], *, public: bool = False, endpoints: tuple[str, ...] = ()) -> Case:
    """A subnet whose route table has this route besides the local one."""
    subnet = {"SubnetId": "subnet-1", "VpcId": "vpc-1", "AvailabilityZone": "a", "MapPublicIpOnLaunch": public}
    local = {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local"}
    table = {"VpcId": "vpc-1", "Associations": [{"Main": True}], "Routes": [local, *([route] if route else [])]}
    case = case_of(
        DescribeSubnets={"Subnets": [subnet]},
        DescribeRouteTables={"RouteTables": [table]},
        DescribeVpcEndpoints={"VpcEndpoints": [{"ServiceName": f"com.amazonaws.us-east-1.{one}"} for one in endpoints]},
    )
    look_at_network(case, [ENVIRONMENT])
    return case


@pytest.mark.parametrize(
    ("route", "more", "state", "words"),
    [
        ({}, {}, State.WRONG, "no route leads out"),
        ({}, {"endpoints": ("ecs", "ecs-agent")}, State.OK, "by interface endpoints"),
        ({"GatewayId": "igw-1"}, {"public": True}, State.OK, "by igw-1"),
        ({"GatewayId": "igw-1"}, {}, State.WARNING, "give no public addresses"),
        ({"NatGatewayId": "nat-1"}, {}, State.WARNING, "every byte of reads and results is charged"),
        ({"NatGatewayId": "nat-1"}, {"endpoints": ("s3",)}, State.OK, "by nat-1"),
        ({"NatGatewayId": "nat-1", "State": "blackhole"}, {}, State.WRONG, "no route leads out"),
    ],
)
def test_the_way_of_machines_to_aws_is_read_from_the_routes(
    route: Mapping[str, Any], more: Mapping[str, Any], state: State, words: str
) -> None:
    told = {"DestinationCidrBlock": "0.0.0.0/0", **route} if route else {}
    found = the(networked(told, **more), "way to AWS")
    assert found.state is state
    assert re.search(words, found.fact)


def test_a_subnet_that_was_deleted_is_wrong() -> None:
    case = case_of(
        DescribeSubnets=refused("InvalidSubnetID.NotFound", message="The subnet ID 'subnet-1' does not exist")
    )
    look_at_network(case, [ENVIRONMENT])
    assert the(case, "subnets").state is State.WRONG
    assert "--set Subnets=" in the(case, "subnets").mend


# ---------------------------------------------------------------------------------------------------- roles


def with_role(simulated: Any) -> Case:
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}}]}
    case = case_of(GetRole={"Role": {"AssumeRolePolicyDocument": trust}}, SimulatePrincipalPolicy=simulated)
    case.definition = DEFINITION
    look_at_roles(case, workflow(), [])
    return case


def simulation(**decisions: str) -> Callable[..., dict[str, Any]]:
    def simulate(**asked: Any) -> dict[str, Any]:
        return {
            "EvaluationResults": [
                {
                    "EvalActionName": action,
                    "EvalResourceName": asked["ResourceArns"][0],
                    "EvalDecision": decisions.get(action.partition(":")[2], "allowed"),
                }
                for action in asked["ActionNames"]
            ]
        }

    return simulate


def test_what_the_job_role_may_not_do_is_named_by_iams_own_simulation() -> None:
    case = with_role(simulation(PutObject="implicitDeny"))
    found = the(case, "job role rights")
    assert found.state is State.WRONG
    assert found.fact == "it may not s3:PutObject on arn:aws:s3:::bucket/lab/Flow/work/probe"


def test_a_job_role_that_may_do_all_is_ok_with_the_number_of_calls() -> None:
    assert "11 calls simulated" in the(with_role(simulation()), "job role rights").fact


def test_who_may_not_simulate_is_told_that_the_job_shows_it() -> None:
    found = the(with_role(refused("AccessDenied")), "job role rights")
    assert (found.state, "pyanamo doctor --as-job" in found.fact) == (State.NOT_CHECKED, True)


@pytest.mark.parametrize(
    ("statement", "services"),
    [
        ({"Effect": "Allow", "Principal": {"Service": ["a", "b"]}}, {"a", "b"}),
        ({"Effect": "Deny", "Principal": {"Service": "a"}}, set()),
        ({"Effect": "Allow", "Principal": {"AWS": "arn:x"}}, set()),
        ({"Effect": "Allow", "Principal": "*"}, set()),
    ],
)
def test_services_that_a_trust_policy_names(statement: Any, services: set[str]) -> None:
    assert trusted_services({"Statement": statement}) == services
    assert trusted_services(json.dumps({"Statement": [statement]})) == services


# ---------------------------------------------------------------------------------------------------- small things


def test_a_service_that_does_not_answer_is_asked_once() -> None:
    case = case_of(**healthy(DescribeJobDefinitions=EndpointConnectionError(endpoint_url="https://batch")))
    look_at_compute(case, workflow())
    asked: Any = case.clients
    assert [one for one, _ in asked.asked] == ["DescribeJobDefinitions"]
    assert [line.state for line in case.chart.lines] == [State.WRONG, State.NOT_CHECKED]


def test_a_clock_is_judged_by_the_median_of_what_aws_told() -> None:
    case = case_of()
    case._heard += [(1000.0, 1000.4), (1001.0, 1001.6), (1500.0, 1002.0), (1003.0, 1003.5), (1004.0, 1004.4)]
    look_at_clock(case)
    assert the(case, "clock").state is State.OK


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("call.sh --reads s3://b/a b/x.cram", ""),
        ("call.sh S1 --reads 's3://b/k/x.final.cram' --sex male", "s3://b/k/x.final.cram"),
        ("s3://b/x.bam.bai s3://b/x.bam", "s3://b/x.bam"),
        ("count.sh https://host/x.cram", ""),
    ],
)
def test_the_reads_that_a_task_script_names(text: str, found: str) -> None:
    assert reads_named([text]) == found


def test_what_workflow_create_fills_in_is_no_difference_to_the_file() -> None:
    stored = workflow(scripts="s3://bucket/scripts.tar", scripts_sha256="0" * 64, table="Flow")
    assert differences(workflow(), stored) == []
    assert differences(workflow(pilots=3), stored) == ["pilots"]


@pytest.mark.parametrize(
    ("url", "state", "words"),
    [
        ("http://127.0.0.1:9/api", State.WRONG, "nobody answers"),
        ("https://me:hunter2@127.0.0.1/api", State.WRONG, "holds a user or password"),
        ("host:4200/api", State.WRONG, "no http"),
        ("", State.OK, "do without Prefect"),
    ],
)
def test_prefects_address_is_tried_and_never_shown_with_a_password(url: str, state: State, words: str) -> None:
    case = case_of()
    case.prefect_api_url = url
    look_at_prefect(case)
    found = the(case, "Prefect API")
    assert (found.state, words in found.fact) == (state, True)
    assert "hunter2" not in str(case.chart.lines)


# ---------------------------------------------------------------------------------------------------- as a job

TOLD = {
    "table": "Flow",
    "lines": [
        {"check": "scratch", "subject": "/scratch", "state": "wrong", "fact": "f", "mend": "m", "where": "container"}
    ],
}


def job(status: str, **more: Any) -> dict[str, Any]:
    return {"jobs": [{"jobId": "J", "jobName": "n", "status": status, **more}]}


def ended(code: int, **more: Any) -> dict[str, Any]:
    container = {"exitCode": code, "logStreamName": "s"}
    attempt = {"startedAt": 1000, "stoppedAt": 2000, "container": container | more}
    return job("SUCCEEDED" if code == 0 else "FAILED", attempts=[attempt])


def as_job(**answers: Any) -> Case:
    told = {"SubmitJob": {"jobId": "J"}, "TerminateJob": {}, "GetLogEvents": {"events": []}}
    case = case_of(**(told | answers))
    case.definition = DEFINITION
    examine_as_job(case, workflow(), wait_seconds=60, clock=FakeClock())
    return case


def printed(text: str) -> Callable[..., Any]:
    def read(**asked: Any) -> Any:
        events = [] if "nextToken" in asked else [{"message": line} for line in text.splitlines()]
        return {"events": events, "nextForwardToken": "t"}

    return read


def test_a_jobs_lines_are_those_that_it_printed() -> None:
    text = "PYANAMO_TABLE    Flow\n" + json.dumps(TOLD, indent=2)
    case = as_job(DescribeJobs=ended(8), GetLogEvents=printed(text))
    assert [(line.check, line.where) for line in case.chart.lines] == [("job", "here"), ("scratch", "container")]
    asked: Any = case.clients
    submitted = dict(asked.asked)["SubmitJob"]
    assert submitted["jobDefinition"] == "D:3"
    assert submitted["containerOverrides"]["command"] == ["pyanamo", "doctor", "--inside", "--json"]
    assert submitted["tags"] == {"pyanamo": "Flow"}
    assert submitted["retryStrategy"] == {"attempts": 1}


def test_a_job_is_of_the_revision_that_a_live_run_keeps_to() -> None:
    case = case_of(SubmitJob={"jobId": "J"}, DescribeJobs=ended(0), GetLogEvents=printed(json.dumps(TOLD, indent=2)))
    case.definition, case.run_definition = DEFINITION, "D:1"
    examine_as_job(case, workflow(), wait_seconds=60, clock=FakeClock())
    asked: Any = case.clients
    assert dict(asked.asked)["SubmitJob"]["jobDefinition"] == "D:1"


def test_a_job_that_does_not_start_is_ended_and_its_reason_told() -> None:
    case = as_job(DescribeJobs=job("RUNNABLE", statusReason="MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - too big"))
    assert "after 60 s it is RUNNABLE: MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT" in case.chart.lines[-1].fact
    asked: Any = case.clients
    assert asked.asked[-1][0] == "TerminateJob"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (ended(2), "it is older than this one"),
        (ended(127), "exit code 127"),
        (job("FAILED", statusReason="Task failed to start", attempts=[]), "Task failed to start"),
        (
            job(
                "FAILED",
                attempts=[{"stoppedAt": 1, "container": {"reason": "CannotPullContainerError: manifest unknown"}}],
            ),
            "CannotPullContainerError",
        ),
    ],
)
def test_a_job_that_could_not_look_says_how_it_ended(told: Any, words: str) -> None:
    found = as_job(DescribeJobs=told).chart.lines[-1]
    assert (found.state, words in found.fact) == (State.WRONG, True), found
    assert found.mend


def test_a_submission_that_nobody_answered_is_looked_for_by_its_name() -> None:
    # Given a submission whose answer was lost, and a job of that name
    names: list[str] = []

    def lost(**asked: Any) -> Any:
        names.append(asked["jobName"])
        return EndpointConnectionError(endpoint_url="https://batch")

    def listed(**asked: Any) -> Any:
        return {"jobSummaryList": [{"jobId": "J", "jobName": names[0], "createdAt": 1}]}

    case = as_job(
        SubmitJob=lost, ListJobs=listed, DescribeJobs=ended(0), GetLogEvents=printed(json.dumps(TOLD, indent=2))
    )
    # Then it was sent once, and its lines are there
    assert len(names) == 1
    assert case.chart.lines[-1].check == "scratch"


def test_a_log_that_may_not_be_read_leaves_the_exit_code() -> None:
    case = as_job(DescribeJobs=ended(0), GetLogEvents=refused("AccessDeniedException"))
    assert [(line.check, line.state) for line in case.chart.lines[1:]] == [
        ("job log", State.NOT_CHECKED),
        ("job", State.NOT_CHECKED),
    ]
    assert "exit code 0" in case.chart.lines[-1].mend


@pytest.mark.parametrize("text", ["", "nothing", "{", '{"other": 1}', '{"lines": [{"check": 1}]}'])
def test_output_that_is_no_doctors_has_no_lines(text: str) -> None:
    assert lines_of(text) == []
