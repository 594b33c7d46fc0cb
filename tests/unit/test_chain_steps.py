"""A chain of steps on ledgers in memory: order, skipping, going on after any interruption, and what stops it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chain_support import Killed, World

from pyanamo_core import driver
from pyanamo_core.chain import (
    Chain,
    Step,
    StepEmpty,
    StepIncomplete,
    StepRevisionChanged,
    StepsReversed,
    StepState,
    StepStopped,
    StepUnknown,
)
from pyanamo_core.chain.running import next_run_id
from pyanamo_core.fleet.progress import Outcome
from pyanamo_core.model import Definition, Mode, State
from pyanamo_core.revision import RevisionPinned
from pyanamo_core.sheet import Sheet, read_sheet

ALL = ["Calls/S0", "Calls/S1", "Calls/S2"]
ALL += ["Calls-gather/S0", "Calls-gather/S1", "Calls-gather/S2"]
ALL += ["Calls-joint/r0", "Calls-joint/r1", "Calls-joint/cohort"]


def states(world: World, **how) -> list[str]:
    return [f"{look.step} {look.state}" for look in world.chain(**how).look()]


def all_done(world: World) -> None:
    assert states(world) == ["call done", "gather done", "joint done", "concat done", "report done"]


def test_each_step_runs_when_what_it_needs_is_done():
    world = World()
    looks = world.run()
    assert [look.step for look in looks] == ["call", "gather", "joint", "concat", "report"]
    order = [name.partition("/")[0] for name in world.ran]
    assert order == ["Calls"] * 3 + ["Calls-gather"] * 3 + ["Calls-joint"] * 3
    assert sorted(world.ran) == sorted(ALL)
    assert world.ran[-1] == "Calls-joint/cohort"
    all_done(world)


def test_what_is_done_is_not_done_again():
    world = World()
    world.run()
    ran, begun = list(world.ran), list(world.begun)
    looks = world.run()
    assert (world.ran, world.begun) == (ran, begun)
    assert {look.state for look in looks} == {StepState.DONE}


def test_a_sample_that_was_done_again_makes_its_gather_and_what_follows_again_and_nothing_else():
    # Given a cohort, and a nest of one sample that is to be done again
    world = World()
    world.run()
    call = world.tables["Calls"]
    call.redo(call.item("S1"), [0])
    world.ran.clear()
    # When the chain is run again
    world.run()
    # Then that sample is called and gathered again, and the regions and the cohort follow
    assert sorted(world.ran) == sorted(
        ["Calls/S1", "Calls-gather/S1", "Calls-joint/r0", "Calls-joint/r1", "Calls-joint/cohort"]
    )
    all_done(world)


def test_a_new_sample_is_called_and_gathered_and_the_old_ones_are_left_alone():
    world = World()
    world.run()
    before = {i.item_id: i for i in world.tables["Calls-gather"].items()}
    world.tables["Calls"].import_item("S9", "call", Definition(script="call"))
    world.ran.clear()
    world.run()
    assert sorted(world.ran)[:2] == ["Calls-gather/S9", "Calls-joint/cohort"]
    after = {i.item_id: i for i in world.tables["Calls-gather"].items()}
    assert {name: after[name] for name in before} == before


def effects() -> int:
    world = World()
    world.run()
    return world.effects


@pytest.mark.parametrize("die_at", range(effects()))
def test_a_chain_killed_anywhere_goes_on_and_does_nothing_twice(die_at):
    # Given a chain that dies at one of its effects
    world = World()
    world.die_at = die_at
    with pytest.raises(Killed):
        world.run()
    # When the same is given again
    world.die_at = None
    world.run()
    # Then all is done, each item once
    all_done(world)
    assert sorted(world.ran) == sorted(ALL)


def test_a_chain_killed_while_its_run_goes_on_carries_that_run_on():
    world = World()
    world.die_at = 5
    with pytest.raises(Killed):
        world.run()
    live = [run.run_id for ledger in world.tables.values() for run in ledger.live_runs()]
    world.die_at = None
    world.run()
    assert len(live) == 1
    assert len(world.begun) == 4
    assert any(f"run {live[0]} of table" in line and "carried on" in line for line in world.said)
    assert not [run for ledger in world.tables.values() for run in ledger.live_runs()]


def test_failed_items_stop_the_chain_with_their_causes_and_the_command_that_mends_them():
    world = World()
    world.broken = {"Calls-gather/S1"}
    with pytest.raises(StepIncomplete) as refusal:
        world.run()
    told = str(refusal.value)
    assert "Step gather stops the chain: of 3 items of table Calls-gather are 2 done, 1 failed" in told
    assert "S1: permanent: no reads" in told
    assert "pyanamo items retry --state failed --table Calls-gather" in told
    assert "pyanamo logs S1 --table Calls-gather" in told
    assert "--partial" in told
    assert states(world)[1:3] == ["gather failed", "joint waits"]
    # When it is mended and tried again, then the chain goes on from there
    world.broken = set()
    gather = world.tables["Calls-gather"]
    gather.retry(gather.item("S1"))
    world.ran.clear()
    world.run()
    assert world.ran[0] == "Calls-gather/S1"
    all_done(world)


def test_a_run_that_stopped_at_too_many_failures_is_told_by_their_causes():
    world = World()

    def stopping(step, opened, live):
        run = driver.begin(opened.ledger, opened.version, opened.workflow)
        world.broken = {"S1"}
        world.do(opened.ledger, "S1", run.run_id)
        run = opened.ledger.end_run(run.run_id, "stopped", "1 item has failed")
        return Outcome(run, opened.ledger.counts(), "stopped", run.reason)

    with pytest.raises(StepIncomplete, match=r"1 failed, 2 to do\.\n  S1: permanent: no reads"):
        world.chain(partial=True).run(stopping)


def test_a_chain_with_failed_items_begins_no_run_until_they_are_mended():
    world = World()
    world.broken = {"Calls/S0"}
    for _ in range(2):
        with pytest.raises(StepIncomplete):
            world.run()
    assert world.begun == ["Calls"]


def test_partial_goes_on_without_failed_items():
    world = World()
    world.broken = {"Calls/S1"}
    looks = world.run(partial=True)
    assert [look.state for look in looks][:2] == [StepState.PARTIAL, StepState.DONE]
    assert sorted(i.item_id for i in world.tables["Calls-gather"].items()) == ["S0", "S2"]
    assert states(world, partial=True)[0] == "call partial"


def test_partial_does_not_go_on_with_nothing():
    world = World(samples=1)
    world.broken = {"Calls/S0"}
    with pytest.raises(StepIncomplete):
        world.run(partial=True)


def test_items_that_no_plan_wants_any_more_are_cancelled_and_taken_up_again_when_one_does():
    # Given a joint step of three regions that has not begun
    world = World(regions=3)
    world.run(last="gather")
    plan = world.joint_plan(True)
    joint = world.ledger("Calls-joint")
    joint.add_workflow(world.workflow("Calls-joint"))
    for row in plan.rows:
        joint.import_item(row.item_id, row.task_id, row.definition)
    # When the plan has two regions only
    world.regions = 2
    assert world.chain().look()[2].stale == 1
    world.run()
    # Then the third is cancelled, not called
    assert joint.item("r2").state is State.CANCELLED
    assert "Calls-joint/r2" not in world.ran
    all_done(world)
    # When it has three again, then the third is called
    world.regions = 3
    world.run()
    assert "Calls-joint/r2" in world.ran
    all_done(world)


@pytest.mark.parametrize("mode", [Mode.DRAIN, Mode.CANCEL])
def test_a_run_that_is_ended_by_somebody_stops_the_chain_and_the_next_one_begins_a_run_of_its_own(mode):
    # Given a chain in the middle of a run that a user drains or cancels
    world = World()
    world.run(last="call")
    work = world.work

    def ended(step, opened, live):
        run_id = "mine"
        if not opened.ledger.runs():
            run = driver.begin(opened.ledger, opened.version, opened.workflow, run_id=run_id)
            opened.ledger.set_mode(run_id, mode, "enough")
            return work(step, opened, run)
        return work(step, opened, live)

    outcome = {Mode.DRAIN: "drained", Mode.CANCEL: "cancelled"}[mode]
    with pytest.raises(StepStopped, match=f"run mine of table Calls-gather is {outcome}"):
        world.chain().run(ended)
    # When the chain is run again, then it begins a run of its own
    world.run()
    all_done(world)


def test_a_run_that_was_draining_already_is_awaited_and_followed_by_a_new_one():
    world = World()
    call = world.tables["Calls"]
    version = call.add_workflow(world.workflow("Calls"))
    driver.begin(call, version, world.workflow("Calls"), run_id="old")
    call.set_mode("old", Mode.DRAIN, "night")
    world.run()
    assert call.run("old").outcome == "drained"
    all_done(world)


def test_from_and_to_choose_steps():
    world = World()
    assert [look.step for look in world.run(last="gather")] == ["call", "gather"]
    assert "Calls-joint" not in world.tables
    assert [look.step for look in world.run(first="joint", last="joint")] == ["joint"]
    assert states(world)[2:] == ["joint done", "concat to do", "report waits"]
    with pytest.raises(StepUnknown, match=r"no step sing\. The steps are call, gather, joint, concat, report"):
        world.run(first="sing")
    with pytest.raises(StepsReversed, match="Step joint comes after step call"):
        world.run(first="joint", last="call")


def test_a_look_changes_nothing_and_says_what_would_be_done():
    world = World()
    world.run()
    call = world.tables["Calls"]
    call.redo(call.item("S1"), [0])
    world.do(call, "S1", "")
    before = {name: list(ledger.items()) for name, ledger in world.tables.items()}
    objects, effects_before = dict(world.objects), world.effects
    looks = world.chain().look()
    assert (looks[1].state, looks[1].changed, looks[1].done, looks[1].changes) == (StepState.TODO, 1, 2, ("S1",))
    assert [look.state for look in looks[2:]] == [StepState.WAITS] * 3
    assert looks[4].note == "for gather"
    assert before == {name: list(ledger.items()) for name, ledger in world.tables.items()}
    assert (world.objects, world.effects) == (objects, effects_before)


def test_a_table_without_items_is_told():
    world = World(samples=0)
    with pytest.raises(StepEmpty, match="pyanamo cohort run FILE --sheet SHEET"):
        world.run()


def sheet_of(folder: Path, *lines: str) -> Sheet:
    path = folder / "sheet.txt"
    path.write_text("itemID|TaskID|TaskScript|TaskArgs\n" + "".join(f"{line}\n" for line in lines))
    return read_sheet(path)


def planned(world: World, sheet: Sheet, *, update: bool = False):
    """The plan's word about the call, with a sheet."""
    first = Step("call", world.workflow("Calls"), sheet=sheet, update=update)
    return Chain([first, *world.chain().steps[1:]], world).look()


def test_a_plan_says_that_a_sheet_with_other_content_would_be_refused(tmp_path):
    # Given a cohort that is done, and a sheet with another script for one of its samples
    world = World()
    world.run()
    sheet = sheet_of(tmp_path, "S0|call|other|l1,l2", "S1|call|call|l1,l2", "S9|call|call|l1,l2")
    # When a run with it is planned, then the obstacle is named with its item; with --update there is none
    call, gather, *_ = planned(world, sheet)
    assert call.obstacle.startswith("an item of the sheet (e.g. S0) stands in table Calls with another definition")
    assert "With --update such items are edited and begin from nothing" in call.obstacle
    assert gather.state is StepState.WAITS
    assert planned(world, sheet, update=True)[0].obstacle == ""


def test_a_plan_says_that_a_sheet_lacks_the_nests_that_an_extension_added(tmp_path):
    # Given a cohort of which two samples got another nest since the sheet was made
    world = World()
    world.run()
    call = world.tables["Calls"]
    for name in ("S1", "S2"):
        call.extend(call.item(name), ["l3"])
    sheet = sheet_of(tmp_path, *(f"S{number}|call|call|l1,l2" for number in range(3)))
    # When a run with that sheet is planned, then the plan says so, and nothing of throwing nests away
    told = planned(world, sheet)[0].obstacle
    assert "2 items of the sheet (e.g. S1) stand in table Calls with another definition" in told
    assert "They have nests that the sheet lacks, as `items extend` adds them" in told
    assert "from nothing" not in told


def test_a_plan_names_another_revision_as_what_is_in_the_way():
    # Given a cohort that is done, and other parameters of its gather
    world = World()
    world.run()
    world.parameters = {"REBLOCK": "1"}
    # When a run is planned, then what it would refuse is told at that step, and the later ones wait for it
    looks = {look.step: look for look in world.chain().look()}
    assert (looks["call"].state, looks["call"].obstacle) == (StepState.DONE, "")
    assert "Table Calls-gather holds done nests of revision" in looks["gather"].obstacle
    assert "--new-revision" in looks["gather"].obstacle
    assert (looks["gather"].state, looks["joint"].state) == (StepState.TODO, StepState.WAITS)
    # And with --new-revision nothing is in the way
    assert all(not look.obstacle for look in world.chain(new_revision=True).look())


def test_other_parameters_of_a_step_are_refused_and_done_again_on_demand():
    world = World()
    world.run()
    world.parameters = {"REBLOCK": "1"}
    world.ran.clear()
    with pytest.raises(StepRevisionChanged, match="pyanamo cohort run --new-revision"):
        world.run()
    assert world.ran == []
    world.run(new_revision=True)
    assert "Calls-gather/S0" in world.ran
    assert "Calls/S0" not in world.ran
    all_done(world)


# ---------------------------------------------------------------------------------------------------- revisions


def test_other_parameters_are_refused_while_a_run_of_the_old_ones_is_live_and_nothing_is_stored():
    # Given a run of gather that has begun and done nothing yet
    world = World()
    world.run(last="call")
    gather = world.ledger("Calls-gather")
    old = world.workflow("Calls-gather")
    driver.begin(gather, gather.add_workflow(old), old, run_id="old")
    # When the chain comes with others
    world.parameters = {"REBLOCK": "1"}
    for again in (False, True):
        with pytest.raises(RevisionPinned, match="Run old of table Calls-gather is live and works with revision"):
            world.run(new_revision=again)
    # Then nothing of them is in the table, and that run is not taken for one of theirs
    assert [workflow for _, workflow in gather.workflow_versions()] == [old]
    assert [run.run_id for run in gather.live_runs()] == ["old"]
    # When it has ended, then all is of the new ones
    gather.end_run("old", "cancelled")
    world.run()
    nests = [nest for item in gather.items() for nest in gather.nests(item).values()]
    assert {nest.revision for nest in nests} == {world.workflow("Calls-gather").revision} != {old.revision}


def test_a_new_revision_killed_before_it_sent_nests_back_is_not_taken_for_done():
    # Given a cohort, and other parameters for it
    world = World()
    world.run()
    world.parameters = {"REBLOCK": "1"}
    gather = world.ledger("Calls-gather")
    # When the chain is killed between storing them and sending the first nest back
    world.die_at = world.effects + 3
    with pytest.raises(Killed):
        world.run(new_revision=True)
    world.die_at = None
    assert len(gather.workflow_versions()) == 2
    assert gather.count(State.DONE) == 3
    # Then it is refused plainly, as before, and goes on when it is given again as it was
    with pytest.raises(StepRevisionChanged, match="than step gather has now"):
        world.run()
    world.run(new_revision=True)
    nests = [nest for item in gather.items() for nest in gather.nests(item).values()]
    assert {nest.revision for nest in nests} == {world.workflow("Calls-gather").revision}


def test_nests_that_a_run_of_another_revision_did_meanwhile_are_not_called_done():
    # Given gather's table, where a run of the old revision begins after the new one was stored
    world = World()
    world.run(last="call")
    gather = world.ledger("Calls-gather")
    old = world.workflow("Calls-gather")
    first = gather.add_workflow(old)
    world.parameters = {"REBLOCK": "1"}

    def other(step, opened, live):
        return world.work(step, opened, driver.begin(gather, first, old))

    # When the chain watches it to its end, then it does not call that done
    with pytest.raises(StepRevisionChanged):
        world.chain().run(other)


# ---------------------------------------------------------------------------------------------------- two chains


def test_a_chain_that_another_one_has_overtaken_ends_with_what_that_one_added():
    # Given a chain that watches its joint call, while another one brings a sample more to its end
    world = World()
    work = world.work

    def watching(step, opened, live):
        outcome = work(step, opened, live)
        if step.name == "joint" and "S9" not in {item.item_id for item in world.tables["Calls"].items()}:
            world.tables["Calls"].import_item("S9", "call", Definition(script="call"))
            world.run()
            world.ran.clear()
        return outcome

    # When it goes on
    looks = world.chain().run(watching)
    # Then it plans anew, finds that one's regions done, and undoes nothing of them
    assert {look.state for look in looks} == {StepState.DONE}
    assert world.ran == []
    all_done(world)


def test_chains_that_begin_a_run_in_one_moment_begin_one_run_and_the_others_look_on():
    # Given chains that have all looked at a table of ended runs, and want other numbers of pilots
    world = World()
    ledger, workflow = world.ledger("Calls"), world.workflow("Calls")
    version = ledger.add_workflow(workflow)
    for _ in range(2):
        ended = driver.begin_or_join(ledger, version, workflow, run_id=next_run_id(ledger, "Calls"), clock=world.clock)
        ledger.end_run(ended.run_id, "completed")
    together = threading.Barrier(8)

    def begins(pilots: int) -> str:
        run_id = next_run_id(ledger, "Calls")
        together.wait()
        return driver.begin_or_join(ledger, version, workflow, run_id=run_id, pilots=pilots, clock=world.clock).run_id

    # When they begin
    with ThreadPoolExecutor(8) as pool:
        begun = set(pool.map(begins, range(1, 9)))
    # Then there is one run, which all of them have
    (live,) = ledger.live_runs()
    assert begun == {live.run_id}
    assert len(ledger.runs()) == 3


def test_a_chain_that_comes_to_begin_a_run_that_another_one_has_ended_plans_anew():
    # Given a chain that is about to begin a run of its gather, when another one brings all to its end
    world = World()
    overtaken: list[str] = []

    def late(step, opened, live):
        if step.name != "gather" or overtaken:
            return world.work(step, opened, live)
        overtaken.append(next_run_id(opened.ledger, step.table))
        world.run()
        run = driver.begin_or_join(opened.ledger, opened.version, opened.workflow, run_id=overtaken[0])
        return Outcome(run, opened.ledger.counts(), run.outcome, run.reason)

    # When it goes on
    looks = world.chain().run(late)
    # Then it begins no second run, and does nothing twice
    assert {look.state for look in looks} == {StepState.DONE}
    assert [run.run_id for run in world.tables["Calls-gather"].runs()] == overtaken
    assert len(world.ran) == len(set(world.ran))


def test_no_plan_is_written_and_no_item_moved_while_a_run_of_that_table_is_live():
    # Given a joint call that somebody's run works on, and a sample that came since
    world = World()
    world.run(last="gather")
    joint, workflow = world.ledger("Calls-joint"), world.workflow("Calls-joint")
    version = joint.add_workflow(workflow)
    for row in world.joint_plan(True).rows:
        joint.import_item(row.item_id, row.task_id, row.definition)
    driver.begin(joint, version, workflow, run_id="theirs")
    before, objects = list(joint.items()), dict(world.objects)
    world.tables["Calls"].import_item("S9", "call", Definition(script="call"))
    work, seen = world.work, []

    def looking(step, opened, live):
        if live is not None and live.run_id == "theirs":
            kept = {name: content for name, content in world.objects.items() if "S9" not in name}
            seen.append((list(joint.items()) == before, kept == objects))
        return work(step, opened, live)

    # When a chain comes
    world.chain().run(looking)
    # Then that run finds items and plans as they were; afterwards all is made with the new sample
    assert seen == [(True, True)]
    all_done(world)


# ---------------------------------------------------------------------------------------------------- the report


def test_a_report_alone_is_written_again_if_the_tables_have_gone_on_since():
    # Given a cohort with its report, and a sample that was done again without one
    world = World()
    world.run()
    first = world.reported
    call = world.tables["Calls"]
    call.redo(call.item("S1"), [0])
    world.run(last="concat")
    # When the report alone is looked at and asked for
    assert [look.state for look in world.chain().look(first="report")] == [StepState.TODO]
    world.run(first="report")
    # Then it is written anew, and not a third time
    assert world.reported is not None
    assert first is not None
    assert world.reported > first
    assert [look.state for look in world.chain().look(first="report")] == [StepState.DONE]
    effects_before = world.effects
    world.run(first="report")
    assert world.effects == effects_before
