"""What the stack's roles may not do, each beside its twin that they may: the same call on a thing of their own."""

from __future__ import annotations

import pytest
from policy_support import Needed, allowed

from pyanamo_core.stack.admin import deployer_policy
from pyanamo_core.stack.template import Resolved, read_template

SECRET = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:prefect-a1b2c3"
GIVEN = {
    "Table": "Calls",
    "Prefix": "lab",
    "InputBuckets": "reads,more-reads",
    "InputPrefixes": "shared/references/,lab-results/lab/Earlier-gather/",
    "OutputPrefixes": "logs/lab/Calls",
    "PrefectApiKeySecret": SECRET,
    "ListBuckets": "lab-results,adopted",
    "ListPrefixes": "lab/Earlier-gather/,gvcf/2025/",
    "EarlierTables": "Earlier,Earlier-gather",
}
ONE = Resolved(read_template(), GIVEN, "HC", "111122223333", "eu-west-1")
POLICIES = {name: [role.document] for name, role in ONE.roles.items()} | {
    "deployer": [deployer_policy("HC", GIVEN, "111122223333", "eu-west-1")]
}
PILOT, DRIVER, STARTER, DEPLOYER = "PilotRole", "RunnerRole", "StarterRole", "deployer"

TABLE = "arn:aws:dynamodb:eu-west-1:111122223333:table/"
BATCH = "arn:aws:batch:eu-west-1:111122223333:"
BUCKET = "arn:aws:s3:::hc-resultsbucket"
LOGS = "arn:aws:logs:eu-west-1:111122223333:log-group:"
ROLE = "arn:aws:iam::111122223333:role/"
ECS_MANAGED = "arn:aws:iam::aws:policy/service-role/AmazonEC2ContainerServiceforEC2Role"
HERE = {"aws:ResourceAccount": "111122223333", "aws:RequestedRegion": "eu-west-1"}
SCALED = "arn:aws:application-autoscaling:eu-west-1:111122223333:scalable-target/0a1b"
SCALES = "application-autoscaling:service-namespace"
ALARM = "arn:aws:cloudwatch:eu-west-1:111122223333:alarm:"
SCALER_NAME = "dynamodb.application-autoscaling.amazonaws.com"
SCALER = f"aws-service-role/{SCALER_NAME}/AWSServiceRoleForApplicationAutoScaling_DynamoDBTable"
TASKS = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}


TWINS: dict[str, tuple[str, Needed, str, Needed]] = {
    "another table": (
        PILOT,
        Needed("dynamodb:UpdateItem", TABLE + "Calls"),
        PILOT,
        Needed("dynamodb:UpdateItem", TABLE + "Trials"),
    ),
    "a table whose name begins alike": (
        PILOT,
        Needed("dynamodb:PutItem", TABLE + "Calls-joint"),
        PILOT,
        Needed("dynamodb:PutItem", TABLE + "Calls-jointly"),
    ),
    "another table's index": (
        PILOT,
        Needed("dynamodb:Query", TABLE + "Calls-gather/index/by-queue"),
        PILOT,
        Needed("dynamodb:Query", TABLE + "Trials/index/by-queue"),
    ),
    "reading a table from end to end": (
        DRIVER,
        Needed("dynamodb:Scan", TABLE + "Calls"),
        PILOT,
        Needed("dynamodb:Scan", TABLE + "Calls"),
    ),
    "making another table": (
        DRIVER,
        Needed("dynamodb:CreateTable", TABLE + "Calls-gather"),
        DRIVER,
        Needed("dynamodb:CreateTable", TABLE + "Trials"),
    ),
    "deleting the ledger": (
        DRIVER,
        Needed("dynamodb:UpdateTable", TABLE + "Calls"),
        DRIVER,
        Needed("dynamodb:DeleteTable", TABLE + "Calls"),
    ),
    "scaling something that is no table": (
        DRIVER,
        Needed("application-autoscaling:RegisterScalableTarget", SCALED, {SCALES: "dynamodb"}),
        DRIVER,
        Needed("application-autoscaling:RegisterScalableTarget", SCALED, {SCALES: "ecs"}),
    ),
    "scaling from a pilot": (
        DRIVER,
        Needed("application-autoscaling:PutScalingPolicy", SCALED, {SCALES: "dynamodb"}),
        PILOT,
        Needed("application-autoscaling:PutScalingPolicy", SCALED, {SCALES: "dynamodb"}),
    ),
    "somebody's alarm": (
        DRIVER,
        Needed("cloudwatch:DeleteAlarms", ALARM + "TargetTracking-table/Calls/index/by-queue-AlarmHigh-0a1b"),
        DRIVER,
        Needed("cloudwatch:DeleteAlarms", ALARM + "TargetTracking-table/Trials-AlarmHigh-0a1b"),
    ),
    "a role of AWS's own for another service": (
        DRIVER,
        Needed("iam:CreateServiceLinkedRole", ROLE + SCALER, {"iam:AWSServiceName": SCALER_NAME}),
        DRIVER,
        Needed("iam:CreateServiceLinkedRole", ROLE + SCALER, {"iam:AWSServiceName": "ecs.amazonaws.com"}),
    ),
    "results of another table": (
        PILOT,
        Needed("s3:PutObject", BUCKET + "/lab/Calls/results/x"),
        PILOT,
        Needed("s3:PutObject", BUCKET + "/lab/Trials/results/x"),
    ),
    "another prefix of the bucket": (
        PILOT,
        Needed("s3:GetObject", BUCKET + "/lab/Calls-joint/x"),
        PILOT,
        Needed("s3:GetObject", BUCKET + "/archive/Calls-joint/x"),
    ),
    "listing another prefix": (
        DRIVER,
        Needed("s3:ListBucket", BUCKET, {"s3:prefix": "lab/Calls/results/"}),
        DRIVER,
        Needed("s3:ListBucket", BUCKET, {"s3:prefix": "archive/"}),
    ),
    "listing the whole bucket": (
        PILOT,
        Needed("s3:ListBucket", BUCKET, {"s3:prefix": "lab/Calls/"}),
        PILOT,
        Needed("s3:ListBucket", BUCKET, {"s3:prefix": ""}),
    ),
    "another bucket": (
        PILOT,
        Needed("s3:GetObject", "arn:aws:s3:::more-reads/x.cram"),
        PILOT,
        Needed("s3:GetObject", "arn:aws:s3:::more-reads-of-others/x.cram"),
    ),
    "writing to an input bucket": (
        PILOT,
        Needed("s3:GetObject", "arn:aws:s3:::reads/x.cram"),
        PILOT,
        Needed("s3:PutObject", "arn:aws:s3:::reads/x.cram"),
    ),
    "more of a bucket of which a prefix is given": (
        PILOT,
        Needed("s3:GetObject", "arn:aws:s3:::shared/references/hg38.fa"),
        PILOT,
        Needed("s3:GetObject", "arn:aws:s3:::shared/private/x"),
    ),
    "listing more than an earlier cohort's prefix": (
        DRIVER,
        Needed("s3:ListBucket", "arn:aws:s3:::adopted", {"s3:prefix": "gvcf/2025/"}),
        DRIVER,
        Needed("s3:ListBucket", "arn:aws:s3:::adopted", {"s3:prefix": ""}),
    ),
    "writing to an earlier cohort's ledger": (
        DRIVER,
        Needed("dynamodb:Query", TABLE + "Earlier-gather/index/by-queue", HERE),
        DRIVER,
        Needed("dynamodb:UpdateItem", TABLE + "Earlier-gather", HERE),
    ),
    "an earlier cohort's ledger by a pilot": (
        DRIVER,
        Needed("dynamodb:GetItem", TABLE + "Earlier", HERE),
        PILOT,
        Needed("dynamodb:GetItem", TABLE + "Earlier", HERE),
    ),
    "a ledger of that name in another account": (
        DRIVER,
        Needed("dynamodb:GetItem", TABLE + "Earlier", HERE),
        DRIVER,
        Needed(
            "dynamodb:GetItem",
            TABLE.replace("111122223333", "999999999999") + "Earlier",
            {**HERE, "aws:ResourceAccount": "999999999999"},
        ),
    ),
    "writing to an earlier table's results": (
        PILOT,
        Needed("s3:GetObject", "arn:aws:s3:::lab-results/lab/Earlier-gather/x"),
        PILOT,
        Needed("s3:PutObject", "arn:aws:s3:::lab-results/lab/Earlier-gather/x"),
    ),
    "logs beside the given prefix": (
        PILOT,
        Needed("s3:PutObject", "arn:aws:s3:::logs/lab/Calls/work/x"),
        PILOT,
        Needed("s3:PutObject", "arn:aws:s3:::logs/lab/Trials/work/x"),
    ),
    "another queue": (
        DRIVER,
        Needed("batch:SubmitJob", BATCH + "job-queue/HaplotypeCaller_OnDemandQueue"),
        DRIVER,
        Needed("batch:SubmitJob", BATCH + "job-queue/Trials_Queue"),
    ),
    "another job definition": (
        DRIVER,
        Needed("batch:SubmitJob", BATCH + "job-definition/HaplotypeCaller_JobDef:7"),
        DRIVER,
        Needed("batch:SubmitJob", BATCH + "job-definition/HaplotypeCaller_JobDefRoot:7"),
    ),
    "starting pilots from a pilot": (
        DRIVER,
        Needed("batch:SubmitJob", BATCH + "job-queue/HaplotypeCaller_Queue"),
        PILOT,
        Needed("batch:SubmitJob", BATCH + "job-queue/HaplotypeCaller_Queue"),
    ),
    "ending somebody's jobs": (
        DRIVER,
        Needed("batch:TerminateJob", BATCH + "job/0a1b", {"aws:ResourceTag/pyanamo": "Calls-gather"}),
        DRIVER,
        Needed("batch:TerminateJob", BATCH + "job/0a1b", {"aws:ResourceTag/pyanamo": "Trials"}),
    ),
    "ending a job without a tag": (
        DRIVER,
        Needed("batch:CancelJob", BATCH + "job/0a1b", {"aws:ResourceTag/pyanamo": "Calls"}),
        DRIVER,
        Needed("batch:CancelJob", BATCH + "job/0a1b"),
    ),
    "calling a job somebody else's": (
        DRIVER,
        Needed("batch:TagResource", BATCH + "job/0a1b", {"aws:RequestTag/pyanamo": "Calls"}),
        DRIVER,
        Needed("batch:TagResource", BATCH + "job/0a1b", {"aws:RequestTag/pyanamo": "Trials"}),
    ),
    "another log group": (
        PILOT,
        Needed("logs:PutLogEvents", LOGS + "HC-Logs:log-stream:Calls/x"),
        PILOT,
        Needed("logs:PutLogEvents", LOGS + "HC-Logs-of-others:log-stream:x"),
    ),
    "reading logs from a pilot": (
        DRIVER,
        Needed("logs:GetLogEvents", LOGS + "HC-Logs:log-stream:Calls/x"),
        PILOT,
        Needed("logs:GetLogEvents", LOGS + "HC-Logs:log-stream:Calls/x"),
    ),
    "Prefect's key by the job role": (
        STARTER,
        Needed("secretsmanager:GetSecretValue", SECRET),
        PILOT,
        Needed("secretsmanager:GetSecretValue", SECRET),
    ),
    "another secret": (
        STARTER,
        Needed("secretsmanager:GetSecretValue", SECRET),
        STARTER,
        Needed("secretsmanager:GetSecretValue", SECRET.replace("prefect", "payroll")),
    ),
    "another repository": (
        STARTER,
        Needed("ecr:BatchGetImage", "arn:aws:ecr:eu-west-1:111122223333:repository/pyanamo/haplotypecaller"),
        STARTER,
        Needed("ecr:BatchGetImage", "arn:aws:ecr:eu-west-1:111122223333:repository/payroll"),
    ),
    "passing a role on, as a driver": (
        DEPLOYER,
        Needed("iam:PassRole", ROLE + "HC-PilotRole-X", TASKS),
        DRIVER,
        Needed("iam:PassRole", ROLE + "HC-PilotRole-X", TASKS),
    ),
    "passing a role on, as a pilot": (
        DEPLOYER,
        Needed("iam:PassRole", ROLE + "HC-PilotRole-X", TASKS),
        PILOT,
        Needed("iam:PassRole", ROLE + "HC-PilotRole-X", TASKS),
    ),
    "passing a role that is none of the stack's": (
        DEPLOYER,
        Needed("iam:PassRole", ROLE + "HC-StarterRole-X", TASKS),
        DEPLOYER,
        Needed("iam:PassRole", ROLE + "Administrator", TASKS),
    ),
    "passing a role to another service": (
        DEPLOYER,
        Needed("iam:PassRole", ROLE + "HC-InstanceRole-X", {"iam:PassedToService": "ec2.amazonaws.com"}),
        DEPLOYER,
        Needed("iam:PassRole", ROLE + "HC-InstanceRole-X", {"iam:PassedToService": "lambda.amazonaws.com"}),
    ),
    "making somebody an administrator": (
        DEPLOYER,
        Needed("iam:AttachRolePolicy", ROLE + "HC-InstanceRole-X", {"iam:PolicyARN": ECS_MANAGED}),
        DEPLOYER,
        Needed(
            "iam:AttachRolePolicy",
            ROLE + "HC-InstanceRole-X",
            {"iam:PolicyARN": "arn:aws:iam::aws:policy/AdministratorAccess"},
        ),
    ),
    "making a role of another name": (
        DEPLOYER,
        Needed("iam:CreateRole", ROLE + "HC-RunnerRole-X"),
        DEPLOYER,
        Needed("iam:CreateRole", ROLE + "Runner"),
    ),
    "another stack": (
        DEPLOYER,
        Needed("cloudformation:DeleteStack", "arn:aws:cloudformation:eu-west-1:111122223333:stack/HC/0a1b"),
        DEPLOYER,
        Needed("cloudformation:DeleteStack", "arn:aws:cloudformation:eu-west-1:111122223333:stack/Payroll/0a1b"),
    ),
    "deleting another bucket's objects": (
        DEPLOYER,
        Needed("s3:DeleteObject", "arn:aws:s3:::hc-resultsbucket-x/y"),
        DEPLOYER,
        Needed("s3:DeleteObject", "arn:aws:s3:::reads/y"),
    ),
}


@pytest.mark.parametrize("case", sorted(TWINS))
def test_a_denied_call_has_a_twin_that_is_allowed(case: str) -> None:
    may, this, may_not, that = TWINS[case]
    # Given the twin, which shows that the case is spelt right
    assert allowed(POLICIES[may], this)
    # Then the case itself is refused
    assert not allowed(POLICIES[may_not], that)


@pytest.mark.parametrize("role", [PILOT, DRIVER, STARTER])
def test_roles_name_each_action_and_each_resource_unless_aws_knows_none(role: str) -> None:
    for statement in POLICIES[role][0]["Statement"]:
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        assert not any("*" in action for action in actions)
        if statement["Resource"] == "*":
            assert all(action.split(":")[1].startswith(("Describe", "List", "GetAuthorization")) for action in actions)
