"""Parameters of flows, keys of hooks, the plan of a deployment: what needs no server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from pyanamo_flows import hooks, parameters, pilot_runs, setup, watch
from pyanamo_flows.parameters import Aws

from pyanamo_core.aws import Clients
from pyanamo_core.model import Counts, PilotRecord, Run
from pyanamo_core.resources import resource
from pyanamo_core.workflow_file import read_workflow


@pytest.fixture
def packaged() -> str:
    return resource("deployments/prefect.yaml").read_text("utf-8")


def test_the_packaged_workflow_file_is_valid_and_names_what_the_stack_makes():
    workflow = read_workflow(resource("deployments/haplotype_caller.yaml"))
    assert (workflow.table_name, workflow.queue, workflow.job_definition) == (
        "HaplotypeCaller",
        "HaplotypeCaller_Queue",
        "HaplotypeCaller_JobDef",
    )
    assert workflow.verify == "pyanamo_core.genomics.gvcf:verify_outputs"


def test_deployments_store_no_folder_and_are_limited_to_one_run(packaged):
    told = setup.plan(packaged, name="T", table="T", pool="p", aws={}, active={})
    assert told["pull"] == []
    by_flow = {setup.flow_name(each): each for each in told["deployments"]}
    assert set(by_flow) == {"run", "watch", "recover", "report"}
    for flow in ("run", "watch", "recover"):
        assert by_flow[flow]["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert all(not s["active"] for each in told["deployments"] for s in each["schedules"])


def test_the_call_of_a_cohort_has_a_deployment_more_which_is_limited_too(packaged):
    told = setup.plan(packaged, name="T", table="T", pool="p", aws={}, active={}, cohort=True)
    by_flow = {setup.flow_name(each): each for each in told["deployments"]}
    assert set(by_flow) == {"run", "watch", "recover", "report", "cohort"}
    assert by_flow["cohort"]["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    assert by_flow["cohort"]["parameters"] == {"table": "T"}


def test_a_schedule_that_was_switched_on_stays_on(packaged):
    told = setup.plan(packaged, name="T", table="T", pool="p", aws={}, active={("run", "nightly"): True})
    on = [(setup.flow_name(d), s["slug"]) for d in told["deployments"] for s in d["schedules"] if s["active"]]
    assert on == [("run", "nightly")]


def test_a_deployment_is_for_one_table_in_the_users_pool_and_region(packaged):
    told = setup.plan(packaged, name="nightly", table="T2", pool="mine", aws={"region": "eu-west-1"}, active={})
    assert all(each["name"] == "nightly" for each in told["deployments"])
    assert all(each["parameters"] == {"table": "T2", "aws": {"region": "eu-west-1"}} for each in told["deployments"])
    assert all(each["work_pool"] == {"name": "mine"} for each in told["deployments"])


def test_entry_points_of_the_deployments_are_flows_named_after_their_functions(packaged):
    from importlib import import_module

    told = setup.plan(packaged, name="T", table="T", pool="p", aws={}, active={}, cohort=True)
    for each in told["deployments"]:
        module, _, function = each["entrypoint"].rpartition(".")
        assert getattr(import_module(module), function).name == function


def test_cancelling_hooks_have_exactly_the_names_that_prefect_calls_them_by():
    from inspect import signature

    from pyanamo_flows import cohort
    from pyanamo_flows.fan_out import fan_out
    from pyanamo_flows.run import run

    assert list(signature(hooks.on_cancellation).parameters) == ["flow", "flow_run", "state"]
    for flow in (run, fan_out, watch.watch):
        assert flow.on_cancellation_hooks == [hooks.on_cancellation]
    assert list(signature(cohort.on_cancellation).parameters) == ["flow", "flow_run", "state"]
    assert cohort.cohort.on_cancellation_hooks == [cohort.on_cancellation]


def test_a_hook_finds_its_run_by_parameter_or_by_its_own_id():
    own = uuid4()
    assert hooks.run_key(SimpleNamespace(id=own, parameters={"run_id": "r1"})) == "r1"
    assert hooks.run_key(SimpleNamespace(id=own, parameters={"run_id": ""})) == str(own)
    assert hooks.run_key(SimpleNamespace(id=own, parameters={})) == str(own)


def test_the_parameter_table_wins_over_the_workflow_files(tmp_path):
    path = tmp_path / "workflow.yaml"
    path.write_text("name: One\nqueue: q\njob_definition: d\nbuckets:\n  results: s3://bucket/p\n")
    clients = Clients()
    assert parameters.table_of(clients, "", str(path)) == "One"
    assert parameters.workflow_from(clients, str(path), "Two").table_name == "Two"


def test_a_file_that_is_not_there_is_named_with_its_whole_path():
    with pytest.raises(parameters.FileMissing, match=str(Path.cwd())), parameters.local_file(Clients(), "no/such.txt"):
        pass


def test_neither_table_nor_workflow_is_an_error_that_names_both():
    with pytest.raises(parameters.NothingNamed, match=r"`table`.*`workflow`"):
        parameters.table_of(Clients(), "", "")


def test_aws_parameters_refuse_a_field_that_could_hold_a_secret():
    with pytest.raises(ValueError, match="aws_secret_access_key"):
        Aws.model_validate({"aws_secret_access_key": "x"})


def outcome(word: str, **counts: int):
    run = Run(run_id="r", workflow_version=1, token="t", outcome=word)
    return SimpleNamespace(run=run, counts=Counts(**counts), outcome=word, reason="")


@pytest.mark.parametrize(
    ("word", "state", "name"),
    [
        ("completed", "COMPLETED", "Completed"),
        ("drained", "COMPLETED", "Drained"),
        ("cancelled", "CANCELLED", "Cancelled"),
        ("failed", "FAILED", "Failed"),
        ("stopped", "FAILED", "Failed"),
        ("", "FAILED", "Failed"),
    ],
)
def test_a_flow_runs_state_follows_the_ledgers_outcome(word, state, name):
    told = watch.state_of(outcome(word, done=1, failed=2))
    assert (told.type.value, told.name) == (state, name)
    assert "1 done, 2 failed" in told.message


def test_of_several_watched_runs_the_failed_one_decides():
    states = [watch.state_of(outcome(word)) for word in ("completed", "cancelled", "failed")]
    assert watch.worst(states).is_failed()
    assert watch.worst(states[:2]).is_cancelled()
    assert watch.worst(states[:1]).is_completed()


def record(**fields) -> PilotRecord:
    return PilotRecord(pilot_id="p", started=1000.0, flow_run_id=str(uuid4()), **fields)


def test_a_pilot_is_dead_when_it_is_silent_or_its_run_is_over():
    beating = record(last_beat=1990.0)
    assert pilot_runs.verdict(beating, now=2000.0, silent_seconds=600, run_ended=False) == "alive"
    assert pilot_runs.verdict(beating, now=2000.0, silent_seconds=600, run_ended=True) == "dead"
    assert pilot_runs.verdict(record(last_beat=1000.0), now=2000.0, silent_seconds=600, run_ended=False) == "dead"


def test_a_pilot_that_has_just_ended_may_still_speak_for_itself():
    ended = record(last_beat=1990.0, ended=1995.0, exit_code=0)
    assert pilot_runs.verdict(ended, now=2000.0, silent_seconds=600, run_ended=False) == "alive"
    assert pilot_runs.verdict(ended, now=2100.0, silent_seconds=600, run_ended=False) == "ended"


def test_the_state_of_a_pilot_follows_its_row():
    assert pilot_runs.final_state(record(), "spot: Host EC2 terminated").type.value == "CRASHED"
    assert "spot" in pilot_runs.final_state(record(), "spot: Host EC2 terminated").message
    assert pilot_runs.final_state(record(ended=1.0, exit_code=0), "").type.value == "COMPLETED"
    assert pilot_runs.final_state(record(ended=1.0, exit_code=75), "").name == "HandedBack"
    assert pilot_runs.final_state(record(ended=1.0, exit_code=1), "").type.value == "FAILED"
