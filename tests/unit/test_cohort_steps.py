"""The steps of a cohort: workflows made from the call's, and what the section `cohort` of its file changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.chain import Opened, cohort, plainly
from pyanamo_core.chain.cohort import (
    ReferenceUnnamed,
    cohort_steps,
    gather_workflow,
    joint_workflow,
    place_of,
    tables_of,
)
from pyanamo_core.errors import WorkflowInvalid
from pyanamo_core.genomics import plans
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Definition, Run
from pyanamo_core.resources import resource
from pyanamo_core.workflow import Workflow
from pyanamo_core.workflow_file import parse_workflow, read_workflow

TEXT = """
name: Calls
queue: Calls_Queue
job_definition: Calls_JobDef
pilots: 10
items: 1
nests: 4
vcpus: 4
memory_mb: 12288
nest_time_seconds: 14400
caller_version: 4.6.2.0
buckets:
  results: s3://bucket/results
scripts: s3://bucket/scripts.tar.gz
references:
  - {name: ref, uri: s3://bucket/ref.fa}
  - {name: bed, uri: s3://bucket/targets.bed}
verify: pyanamo_core.genomics.gvcf:verify_outputs
parameters:
  HC_CALLER: gatk
"""


def workflow(section: str = "") -> Workflow:
    return parse_workflow(TEXT + section)


def test_the_workflows_of_gather_and_joint_are_the_calls_with_tables_and_scripts_of_their_own():
    call = workflow()
    gather, joint = gather_workflow(call), joint_workflow(call)
    assert tables_of("Calls") == {
        "call": "Calls",
        "gather": gather.table_name,
        "joint": joint.table_name,
        "concat": joint.table_name,
    }
    assert (gather.table_name, joint.table_name) == ("Calls-gather", "Calls-joint")
    for one in (gather, joint):
        assert (one.queue, one.job_definition, one.pilots) == ("Calls_Queue", "Calls_JobDef", 10)
        # Packaged scripts, one nest per item, nothing of the caller's parameters
        assert (one.scripts, one.nests, one.parameters, one.caller_version) == ("", 1, {}, "")
        assert one.verify.startswith("pyanamo_core.genomics.")
    assert place_of(gather) == "s3://bucket/results/Calls-gather/plans"
    # A gather streams and needs no reference; a joint call needs that one
    assert (gather.references, [one.name for one in joint.references]) == ((), ["ref"])


def test_as_many_items_run_at_a_time_as_the_container_has_processors_and_memory_for():
    call = workflow()
    # 4 vCPUs, 12 GB: four gathers of 512 MB, three regions of 4 GB
    assert (gather_workflow(call).items, joint_workflow(call).items) == (4, 3)
    small = call.model_copy(update={"vcpus": 1, "memory_mb": 1024})
    assert (gather_workflow(small).items, joint_workflow(small).items) == (1, 1)


def test_the_section_cohort_wins_and_is_no_part_of_the_calls_revision():
    section = """
cohort:
  gather: {reblock: true, items: 2, parameters: {LEVEL: 010}}
  joint: {pilots: 3, memory_mb: 32768, vcpus: 8, job_definition: Big, queue: Big_Queue, nest_time_seconds: 60}
"""
    call = workflow(section)
    gather, joint = gather_workflow(call), joint_workflow(call)
    assert (gather.items, gather.parameters) == (2, {"LEVEL": "010"})
    # ReblockGVCF is GATK's and needs the reference
    assert [one.name for one in gather.references] == ["ref"]
    assert (joint.pilots, joint.memory_mb, joint.items) == (3, 32768, 8)
    assert (joint.queue, joint.job_definition, joint.nest_time_seconds) == ("Big_Queue", "Big", 60)
    assert call.revision == workflow().revision


def test_the_number_of_pilots_that_is_asked_for_is_that_of_the_runs_and_is_stored_nowhere(
    monkeypatch: pytest.MonkeyPatch,
):
    # Given a joint call of three pilots by its file, and a user who asks for seven of each step
    call = workflow("cohort: {joint: {pilots: 3}}\n")
    ledger = MemoryLedger()
    monkeypatch.setattr(driver, "carry_on", lambda _, within, run, **__: within.run(run.run_id))
    begun: list[Run] = []
    runner = plainly(Clients(), pilots=7, on_begin=lambda _, run: begun.append(run))
    # When its steps are run
    for step in (cohort_steps(Clients(), call)[0], cohort_steps(Clients(), call)[2]):
        number = ledger.add_workflow(step.workflow)
        runner(step, Opened(ledger, number, step.workflow), None)
        ledger.end_run(begun[-1].run_id, "completed")
    # Then each run has seven, and the next one what the file says
    assert [run.limits.max_pilots for run in begun] == [7, 7]
    assert [told.pilots for _, told in ledger.workflow_versions()] == [10, 3]


@pytest.mark.parametrize(("partial", "asked"), [(False, None), (True, ["S0", "S2"])])
def test_a_sample_that_was_cancelled_is_left_out_where_partial_is_allowed_and_else_refused(
    monkeypatch: pytest.MonkeyPatch, partial: bool, asked: list[str] | None
):
    # Given three samples, of which one was cancelled
    call = MemoryLedger()
    for name in ("S0", "S1", "S2"):
        call.import_item(name, "t", Definition(script="call"))
    call.cancel(call.item("S1"))
    monkeypatch.setattr(cohort, "_ledger", lambda *_: call)
    seen: list[Any] = []

    def gather_rows(*_: Any, items: Any, **__: Any) -> list[Any]:
        seen.append(items)
        return []

    monkeypatch.setattr(plans, "gather_rows", gather_rows)
    # When its gather is planned
    step = cohort_steps(Clients(), workflow(), partial=partial)[1]
    assert step.plan is not None
    step.plan(False)
    # Then the plan is of the others; or of all, which refuses what is not done
    assert seen == [asked]


def test_a_call_without_a_reference_is_refused_before_it_begins():
    bare = workflow().model_copy(update={"references": ()})
    with pytest.raises(ReferenceUnnamed, match=r"table Calls names no reference `ref`.*`references`"):
        cohort_steps(Clients(), bare)


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ("cohort: {joint: {region_bases: 10}}", "`cohort.joint.region_bases` should be greater than or equal to 1000"),
        (
            "cohort: {joint: {regoin_bases: 5000}}",
            "unknown field `cohort.joint.regoin_bases`; did you mean `region_bases`",
        ),
        ("cohort: {joint: {name: a/b}}", "`cohort.joint.name`"),
    ],
)
def test_faults_of_the_section_are_told_with_field_and_line(section: str, fault: str):
    with pytest.raises(WorkflowInvalid) as refusal:
        workflow(section + "\n")
    assert fault in str(refusal.value)
    assert f"line {TEXT.count(chr(10)) + 1}:" in str(refusal.value)


def test_the_packaged_workflow_file_makes_a_cohort():
    steps = cohort_steps(Clients(), read_workflow(resource(Path("deployments") / "haplotype_caller.yaml")))
    told: list[Any] = [(step.name, step.table) for step in steps]
    assert told == [
        ("call", "HaplotypeCaller"),
        ("gather", "HaplotypeCaller-gather"),
        ("joint", "HaplotypeCaller-joint"),
        ("concat", "HaplotypeCaller-joint"),
        ("report", ""),
    ]
