"""What an administrator is handed, and what a workflow file says about its stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyanamo.main import app
from pyanamo_core.resources import resource
from pyanamo_core.stack.admin import ROLES, UNKNOWN_ACCOUNT, packet
from pyanamo_core.stack.given import LinesNotPut, ResultsBare, given_by, lines_for, stack_name, with_lines
from pyanamo_core.stack.life import STACK_NAME
from pyanamo_core.stack.template import checked, read_template
from pyanamo_core.workflow import Buckets, CohortSection, InputBucket, Reference, Workflow
from pyanamo_core.workflow_file import parse_workflow

PAGE_LINES = 75


def workflow(**more: Any) -> Workflow:
    told: dict[str, Any] = {
        "name": "Calls",
        "queue": "Calls_Queue",
        "job_definition": "Calls_JobDef",
        "buckets": Buckets(results="s3://lab/prefix"),
    }
    return Workflow(**told | more)


def test_the_packet_holds_template_policies_and_a_letter_of_one_page() -> None:
    # Given a workflow whose stack somebody else is to make
    made = packet("Calls", given_by(workflow()), "111122223333", "eu-west-2").files
    # Then there are the template, its parameters, and each role's trust and policies
    assert "AWSTemplateFormatVersion" in made["cloudformation.yaml"]
    assert {"ParameterKey": "Table", "ParameterValue": "Calls"} in json.loads(made["parameters.json"])
    for name, parameter, _ in ROLES.values():
        assert json.loads(made[f"{name}-trust.json"])["Statement"]
        assert f"`{parameter}`" in made["letter.md"]
    # And nothing in the policies is left open
    for file, text in made.items():
        if file.endswith(".json"):
            assert "${" not in text, file
            assert "Fn::" not in text, file
    assert "arn:aws:dynamodb:eu-west-2:111122223333:table/Calls" in made["job-role.json"]
    # And the letter says on one page what is asked for, what it costs, and how to be rid of it
    assert len(made["letter.md"].splitlines()) <= PAGE_LINES
    for words in ("aws cloudformation deploy", "deployer.json", "What it costs", "delete-stack"):
        assert words in made["letter.md"]


def test_the_papers_need_neither_a_login_nor_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given nobody who answers, and a role that is given
    monkeypatch.chdir(tmp_path)
    words = [
        "deploy",
        "--for-admin",
        "--out",
        "papers",
        "--account",
        "111122223333",
        "--set",
        "JobRole=arn:aws:iam::1:role/x",
    ]
    told = CliRunner().invoke(app, words, catch_exceptions=False)
    # Then the files are written, without one for the role that exists
    assert told.exit_code == 0, told.output
    names = {path.name for path in (tmp_path / "papers").iterdir()}
    assert {"letter.md", "cloudformation.yaml", "driver-role.json", "deployer.json"} <= names
    assert "job-role.json" not in names
    # And they are never written over
    again = CliRunner().invoke(app, words)
    assert (again.exit_code, "nothing was written" in again.output) == (5, True)


def test_where_nobody_knows_the_account_the_letter_says_so() -> None:
    made = packet("Calls", {}, UNKNOWN_ACCOUNT, "us-east-1").files
    assert "replace it" in made["letter.md"]


def test_the_policies_of_other_partitions_name_them() -> None:
    made = packet("Calls", {}, "111122223333", "us-gov-west-1").files
    assert "arn:aws-us-gov:dynamodb" in made["job-role.json"]
    assert "arn:aws:" not in made["job-role.json"]


def test_a_workflow_file_says_all_names_and_what_is_read() -> None:
    told = given_by(
        workflow(
            table="Calls_2026",
            vcpus=1.5,
            memory_mb=3000,
            wall_time_seconds=86400,
            buckets=Buckets(
                results="s3://lab/prefix/deep",
                logs="s3://logs/x",
                inputs=(
                    InputBucket(bucket="reads"),
                    InputBucket(bucket="payers", access="requester_pays"),
                    InputBucket(bucket="public", access="anonymous"),
                    InputBucket(bucket="elsewhere", endpoint="https://s3.lab.example"),
                ),
            ),
            references=(
                Reference(name="ref", uri="s3://shared/references/hg38.fa"),
                Reference(name="known", uri="s3://public/known.vcf.gz"),
                Reference(name="page", uri="https://example.org/x.bed"),
            ),
            scripts="s3://shared/scripts/one.tar",
        )
    )
    assert checked(told, read_template()) == told
    assert (told["Table"], told["Prefix"], told["Vcpus"], told["MemoryMb"]) == (
        "Calls_2026",
        "prefix/deep",
        "2",
        "3000",
    )
    # Batch's time-out comes after the pilot's own
    assert int(told["AttemptSeconds"]) > 86400
    # Neither public buckets nor those of other endpoints need a permission
    assert told["InputBuckets"] == "reads,payers"
    assert told["InputPrefixes"] == "shared/references/,shared/scripts/one.tar"
    assert told["OutputPrefixes"] == "logs/x/Calls_2026"
    assert told["OnDemandQueueName"] == "Calls_OnDemandQueue"
    # The number of items and nests stays the workflow's: later tables of a chain have others
    assert not {"Items", "Nests"} & set(told)


def test_what_a_cohort_takes_in_of_earlier_ones_may_be_read() -> None:
    # Given a cohort with an earlier one by its table, gVCFs below a prefix, and public ones
    also = ("Batch1", "s3://adopted/gvcf/2025", "s3://public/gvcf")
    inputs = (InputBucket(bucket="public", access="anonymous"),)
    told = given_by(
        workflow(cohort=CohortSection(also=also), buckets=Buckets(results="s3://lab/prefix", inputs=inputs))
    )
    assert checked(told, read_template()) == told
    # Then pilots read what was gathered; the driver also the earlier ledgers, and it lists that prefix alone
    assert told["InputPrefixes"] == "lab/prefix/Batch1/,lab/prefix/Batch1-gather/,adopted/gvcf/2025/"
    assert told["EarlierTables"] == "Batch1,Batch1-gather"
    assert (told["ListBuckets"], told["ListPrefixes"]) == ("adopted", "gvcf/2025/")


def test_a_queue_by_its_arn_is_given_and_not_made() -> None:
    queue = "arn:aws:batch:eu-west-2:111122223333:job-queue/Shared_Queue"
    told = given_by(workflow(queue=queue))
    assert (told["Queue"], told["QueueName"]) == (queue, "Shared_Queue")
    assert checked(told, read_template())


def test_results_at_a_buckets_root_are_refused_with_what_to_write() -> None:
    with pytest.raises(ResultsBare, match="s3://lab/pyanamo"):
        given_by(workflow(buckets=Buckets(results="s3://lab")))


@pytest.mark.parametrize("name", ["Calls", "calls_of_2026.v2", "1000-genomes", "x" * 100])
def test_every_workflows_name_makes_a_stacks_name(name: str) -> None:
    assert STACK_NAME.fullmatch(stack_name(workflow(name=name)))


def test_the_lines_for_the_workflow_file_are_yaml_of_it() -> None:
    import yaml

    outputs = {"Queue": "Q", "JobDefinition": "J", "Results": "s3://made/prefix", "LogGroup": "L"}
    told = yaml.safe_load(lines_for(outputs))
    assert told == {"queue": "Q", "job_definition": "J", "buckets": {"results": "s3://made/prefix"}, "log_group": "L"}
    # And where the stack has an on-demand queue, it is named
    told = yaml.safe_load(lines_for(outputs | {"OnDemandQueue": "Q_OnDemandQueue"}))
    assert told["on_demand_queue"] == "Q_OnDemandQueue"


def test_the_on_demand_queue_that_a_workflow_names_is_the_stacks() -> None:
    assert given_by(workflow(on_demand_queue="Mine"))["OnDemandQueueName"] == "Mine"
    arn = "arn:aws:batch:us-east-1:123456789012:job-queue/Theirs"
    told = given_by(workflow(on_demand_queue=arn))
    assert (told["OnDemandQueueName"], told["OnDemandQueue"]) == ("Theirs", arn)


def test_the_lines_are_put_into_a_file_whose_comments_stay() -> None:
    # Given the worked example's file, with its comments
    text = resource("deployments/haplotype_caller.yaml").read_text()
    outputs = {"Queue": "Q", "JobDefinition": "J", "Results": "s3://made/prefix", "LogGroup": "HC-Logs-x"}
    # When the lines of a stack are put into it, once or twice
    after = with_lines(text, lines_for(outputs))
    assert with_lines(after, lines_for(outputs)) == after
    # Then these values are others, and every other line is as it was
    told = parse_workflow(after)
    assert (told.queue, told.job_definition, told.log_group) == ("Q", "J", "HC-Logs-x")
    assert told.buckets.results == "s3://made/prefix"
    assert told.buckets.inputs == parse_workflow(text).buckets.inputs
    changed = [one for one, other in zip(text.splitlines(), after.splitlines(), strict=False) if one != other]
    assert [line.split(":")[0].strip() for line in changed] == ["queue", "job_definition", "results", "log_group"]


@pytest.mark.parametrize(
    "buckets",
    [
        "buckets: {results: s3://aaa/b, logs: s3://logs/d}",
        "buckets:\n  logs: s3://logs/d\n  results: s3://aaa/b # ours",
    ],
)
def test_a_field_that_is_not_there_is_added_and_a_short_form_is_kept(buckets: str) -> None:
    text = f"name: Calls\nqueue: q\njob_definition: d\n{buckets}"
    lines = "queue: Q\nbuckets:\n  results: s3://made/prefix\nlog_group: L\n"
    after = parse_workflow(with_lines(text, lines))
    assert (after.queue, after.job_definition, after.log_group) == ("Q", "d", "L")
    assert (after.buckets.results, after.buckets.logs) == ("s3://made/prefix", "s3://logs/d")


def test_a_file_without_a_place_for_the_results_is_left_to_its_owner() -> None:
    with pytest.raises(LinesNotPut, match="buckets: results"):
        with_lines("name: Calls\nqueue:\n", "queue: Q\nbuckets:\n  results: s3://made/prefix\n")
    assert with_lines("queue:\nname: x\n", "queue: Q\n") == "queue: Q\nname: x\n"
