"""What is called jointly is of what the call's table holds now: not what was gathered once and has been outlived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyanamo_core import ledger as ledgers
from pyanamo_core.aws import Clients
from pyanamo_core.chain import cohort
from pyanamo_core.chain.cohort import GatheredOutdated, cohort_steps
from pyanamo_core.clock import FakeClock
from pyanamo_core.errors import PyAnamoError, TableMissing
from pyanamo_core.genomics import plans
from pyanamo_core.genomics.plan_files import canonical, plan_name
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Definition, Nest, NestStatus, Output, State
from pyanamo_core.workflow import Buckets, Reference, Workflow


class World:
    """Tables of call and gather in memory; what the joint call would be made from."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tables: dict[str, MemoryLedger] = {}
        self.seen: list[plans.GatheredGvcf] = []
        monkeypatch.setattr(cohort, "_ledger", lambda _, workflow: self.table(workflow.table_name))
        monkeypatch.setattr(ledgers, "open_ledger", self.open)
        monkeypatch.setattr(plans, "put_plan", lambda _, place, stem, told: plan_name(stem, canonical(told)))
        monkeypatch.setattr(plans, "reference_dictionary", lambda *_: None)
        monkeypatch.setattr(plans, "joint_rows", self.joint_rows)

    def table(self, name: str) -> MemoryLedger:
        return self.tables.setdefault(name, MemoryLedger(clock=FakeClock(), table=name))

    def open(self, _: Clients, name: str) -> tuple[MemoryLedger, int, Workflow]:
        if name not in self.tables:
            raise TableMissing(table=name, where="here")
        return self.tables[name], 1, workflow(name.removesuffix("-gather"))

    def joint_rows(self, gathered: list[plans.GatheredGvcf], *_: Any, **__: Any) -> plans.JointPlan:
        self.seen = gathered
        return plans.JointPlan((), tuple(one.sample for one in gathered), 0, 0, (), (), (), (), "")

    def does(self, table: str, item_id: str, output: str, *, fails: bool = False) -> None:
        """A pilot works an item of one nest off."""
        ledger = self.table(table)
        claim = ledger.claim(item_id, "pilot")
        assert claim is not None
        if fails:
            ledger.fail(claim, Cause.PERMANENT, "no reads")
            return
        uri = f"s3://b/{table}/{item_id}/{claim.fence}/{output}"
        told: dict[str, Any] = {"status": NestStatus.DONE, "fence": claim.fence, "figures": {"sample": item_id}}
        told["outputs"] = (Output(uri=uri, bytes=1),)
        ledger.record_nest(claim, Nest(item_id=item_id, epoch=claim.epoch, index=0, **told))
        ledger.finish(claim, nests_done=1)

    def called(self, item_id: str, table: str = "Calls", reads: str = "reads", *, fails: bool = False) -> None:
        definition = Definition(script=f"call.sh {reads}", arguments=("chr1",))
        self.table(table).import_item(item_id, "t", definition, update=True)
        self.does(table, item_id, "l.g.vcf.gz", fails=fails)

    def gathered(self, table: str = "Calls") -> None:
        """The gather step is brought to its end."""
        plan = cohort_steps(Clients(), workflow(table))[1].plan
        assert plan is not None
        for row in plan(True).rows:
            self.table(f"{table}-gather").import_item(row.item_id, row.task_id, row.definition, update=True)
            if self.table(f"{table}-gather").item(row.item_id).state is not State.DONE:
                self.does(f"{table}-gather", row.item_id, f"{row.item_id}.manifest.json")

    def joint(self, **how: Any) -> list[str]:
        """Samples that a joint call would be planned of."""
        plan = cohort_steps(Clients(), workflow("Calls"), **how)[2].plan
        assert plan is not None
        plan(True)
        return [one.sample for one in self.seen]


def workflow(table: str) -> Workflow:
    told: dict[str, Any] = {"queue": "q", "job_definition": "d", "buckets": Buckets(results="s3://bucket/r")}
    return Workflow(name=table, references=(Reference(name="ref", uri="s3://b/ref.fa"),), **told)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(monkeypatch)
    for sample in ("S0", "S1"):
        made.called(sample)
    made.gathered()
    assert made.joint() == ["S0", "S1"]
    return made


def test_a_sample_whose_new_reads_failed_is_left_out_and_not_called_by_its_old_gvcf(world: World):
    # Given S0 of wrong reads, gathered, then imported with others, with which it fails wholly
    world.called("S0", reads="others", fails=True)
    assert world.table("Calls-gather").item("S0").state is State.DONE
    # When the cohort goes on without it
    # Then its old gVCF is no part of the joint call
    assert world.joint(partial=True) == ["S1"]


def redone(world: World) -> None:
    call = world.table("Calls")
    call.redo(call.item("S0"), [0])


def redone_and_done(world: World) -> None:
    redone(world)
    world.does("Calls", "S0", "l.g.vcf.gz")


def came_new(world: World) -> None:
    world.called("S2")


@pytest.mark.parametrize("change", [redone_and_done, came_new])
def test_a_joint_call_of_gathers_that_the_calls_table_has_outlived_is_refused_with_what_brings_them_up(
    world: World, change: Callable[[World], None]
):
    change(world)
    sample = "S2" if change is came_new else "S0"
    with pytest.raises(GatheredOutdated) as refusal:
        world.joint()
    assert f"1 items of table Calls, the first {sample}, are not gathered as they are now" in str(refusal.value)
    assert "pyanamo cohort run --from gather" in str(refusal.value)
    # And once they are gathered, it is made of them
    world.gathered()
    assert sample in world.joint()


def test_a_joint_call_while_a_sample_is_to_be_called_again_is_refused(world: World):
    redone(world)
    with pytest.raises(PyAnamoError, match="Item S0 is todo"):
        world.joint()


def test_an_earlier_cohorts_gathers_are_held_against_its_own_call_table(world: World):
    # Given an earlier cohort, gathered
    for sample in ("E0", "E1"):
        world.called(sample, "Earlier")
    world.gathered("Earlier")
    assert world.joint(also=["Earlier"]) == ["S0", "S1", "E0", "E1"]
    # When one of its samples is done again and not gathered again
    call = world.table("Earlier")
    call.redo(call.item("E0"), [0])
    world.does("Earlier", "E0", "l.g.vcf.gz")
    # Then it is refused, and with --partial left out
    with pytest.raises(GatheredOutdated, match=r"of table Earlier, the first E0.*--from gather --table Earlier"):
        world.joint(also=["Earlier"])
    assert world.joint(also=["Earlier"], partial=True) == ["S0", "S1", "E1"]


def test_an_earlier_cohort_of_which_only_the_gathers_are_left_takes_part_by_them(world: World):
    world.called("E0", "Earlier")
    world.gathered("Earlier")
    del world.tables["Earlier"]
    assert world.joint(also=["Earlier"]) == ["S0", "S1", "E0"]
