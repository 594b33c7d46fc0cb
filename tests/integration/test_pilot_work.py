"""A pilot at work on the ledger in memory, with real task scripts."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pilot_support import World, eventually, make_workflow

from pyanamo_core.errors import OutcomeUnknown, PilotTooOld, RunMissing, WorkflowMissing
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Definition, Item, Mode, NestCall, NestResult, NestStatus, State
from pyanamo_core.pilot import Pilot, PilotOptions, ThreadExecutor
from pyanamo_core.pilot.observer import NullObserver


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One item at a time, two nests at a time."""
    return World(tmp_path, make_workflow())


def causes(world: World, item_id: str) -> list[Cause | None]:
    """Causes of an item's attempts."""
    return [attempt.cause for attempt in world.ledger.attempts(item_id)]


def test_items_run_to_their_end_and_logs_hold_what_they_wrote(world: World) -> None:
    # Given two items of PyAnamo 1's seq sheet
    for name in ("Seq_Test_1", "Seq_Test_2"):
        world.add(name, "seq", "8", "2", "1")

    # When a pilot works
    code, pilot = world.work()

    # Then they are done, and each nest's log holds its numbers
    assert code == 0
    assert pilot.record.leaving == "empty"
    assert world.ledger.counts().done == 2
    item = world.ledger.item("Seq_Test_2")
    nests = world.ledger.nests(item)
    assert [world.ledger.tail(item, nests[n]).split() for n in range(3)] == [list("12345678"), ["1", "2"], ["1"]]
    assert causes(world, "Seq_Test_1") == [Cause.DONE]


def test_nothing_is_left_on_the_host(world: World) -> None:
    world.shell("a", "echo x > file; echo x > $TMPDIR/tmp; seq 1000")

    world.work()

    assert list((world.folder / "scratch").iterdir()) == []


def test_folders_of_failed_nests_are_kept_on_demand(tmp_path: Path) -> None:
    # Given a workflow that keeps them, and a nest that fails after it wrote a file
    world = World(tmp_path, make_workflow(keep_work_on_failure=True, budgets__tries=1))
    world.shell("a", "echo half > result.txt; exit $1", "1", "0")

    world.work()

    # Then its message says where it is
    nest = world.ledger.nests(world.ledger.item("a"))[0]
    folder = Path(nest.message.rpartition(": ")[2])
    assert (folder / "work" / "result.txt").read_text() == "half\n"
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["kept"]


def test_what_a_killed_pilot_left_on_the_host_is_swept(world: World) -> None:
    # Given the folder of a pilot that was killed, and that of one that lives
    living = world.pilot()
    living.prepare()
    dead = world.folder / "scratch" / "pilot-dead"
    dead.mkdir()
    (dead / ".lock").touch()
    (dead / "000001").mkdir()

    # When another pilot works
    world.work()

    # Then only the dead one's is gone
    assert [path.name for path in (world.folder / "scratch").iterdir()] == [f"pilot-{living.pilot_id}"]
    living.work()


def test_tag_lines_figures_and_outputs_are_recorded(world: World) -> None:
    # Given a script that makes a file and tells of it
    world.shell(
        "a",
        'printf "PyAnamo:\\tbases\\t%s\\n" $1; printf 12345 > $PYANAMO_WORK/../out;'
        " P=$(realpath $PYANAMO_WORK/../out);"
        ' echo "{\\"outputs\\": [{\\"uri\\": \\"$P\\", \\"bytes\\": 5}], \\"figures\\": {\\"n\\": 3}}" > $PYANAMO_RESULT',
        "100",
    )

    world.work()

    nest = world.ledger.nests(world.ledger.item("a"))[0]
    assert nest.status is NestStatus.DONE
    assert nest.tags == ("bases\t100",)
    assert nest.figures == {"n": 3}
    assert nest.outputs[0].bytes == 5
    assert nest.peak_memory_mb > 0


def test_an_output_that_is_not_there_is_not_done(world: World) -> None:
    # Given a script that claims a file that it never made
    world.shell("a", 'echo "{\\"outputs\\": [{\\"uri\\": \\"/no/such\\", \\"bytes\\": 5}]}" > $PYANAMO_RESULT')

    world.work()

    item = world.ledger.item("a")
    assert (item.state, item.cause, item.tries) == (State.FAILED, Cause.UNVERIFIED, 3)
    assert "/no/such" in item.message


def test_a_hook_has_the_last_word(tmp_path: Path) -> None:
    # Given a workflow whose hook refuses every nest with the value 2
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "pilot_work_hook.py").write_text(
        "def check(call, outputs):\n    return 'two' if call['value'] == '2' else None\n"
    )
    world = World(tmp_path, make_workflow(scripts=str(scripts), verify="pilot_work_hook:check", budgets__tries=1))
    world.add("a", "seq", "1", "2")

    world.work()

    nests = world.ledger.nests(world.ledger.item("a"))
    assert (nests[0].status, nests[1].status) == (NestStatus.DONE, NestStatus.FAILED)
    assert (nests[1].cause, nests[1].message) == (Cause.UNVERIFIED, "two")


def test_a_failed_nest_lets_its_siblings_go_on_and_only_it_is_run_again(world: World) -> None:
    # Given an item one of whose nests fails at its first attempt
    world.shell(
        "a", f"echo $1 >> {world.folder}/ran; [ $1 != 2 ] || [ $PYANAMO_ATTEMPT != 1 ] || exit 1", "1", "2", "3"
    )

    # When a pilot works
    world.work()

    # Then the item is done at the second attempt, which ran that nest alone
    item = world.ledger.item("a")
    assert (item.state, item.fence, item.tries) == (State.DONE, 2, 2)
    assert sorted((world.folder / "ran").read_text().split()) == ["1", "2", "2", "3"]
    assert causes(world, "a") == [Cause.TASK_ERROR, Cause.DONE]
    assert {n: nest.fence for n, nest in world.ledger.nests(item).items()} == {0: 1, 1: 2, 2: 1}


def test_a_permanent_error_is_not_tried_again(world: World) -> None:
    world.shell("a", "echo no such sample; exit 65", "1")

    world.work()

    item = world.ledger.item("a")
    assert (item.state, item.cause, item.fence) == (State.FAILED, Cause.PERMANENT, 1)
    assert item.message == "exit code 65: no such sample"
    nest = world.ledger.nests(item)[0]
    assert (nest.exit_code, world.ledger.tail(item, nest)) == (65, "no such sample\n")


def test_a_script_that_cannot_start_is_a_permanent_error_that_says_why(world: World) -> None:
    world.add("a", "seq ${NOWHERE}", "1")

    world.work()

    item = world.ledger.item("a")
    assert (item.state, item.cause) == (State.FAILED, Cause.PERMANENT)
    assert "NOWHERE" in item.message


def test_a_hung_nest_is_ended_at_its_deadline(tmp_path: Path) -> None:
    world = World(tmp_path, make_workflow(nest_time_seconds=0.3, budgets__tries=1))
    world.add("a", "sleep", "300")

    world.work()

    assert world.ledger.item("a").cause is Cause.TIMED_OUT


def test_an_item_that_is_tried_again_with_more_time_has_it(tmp_path: Path) -> None:
    # Given an item that took longer than the workflow allows
    world = World(tmp_path, make_workflow(nest_time_seconds=0.3, budgets__tries=1))
    world.add("a", "sleep", "1")
    world.work()
    failed = world.ledger.item("a")
    assert failed.cause is Cause.TIMED_OUT

    # When it is tried again with a limit of its own
    world.ledger.retry(failed, nest_seconds=60.0)
    world.work()

    # Then it ends
    assert world.ledger.item("a").state is State.DONE


def test_a_nest_that_neither_computes_nor_writes_is_ended_as_hung(tmp_path: Path) -> None:
    # Given a nest that hangs, one that computes and one that writes (to standard error) for longer than the limit
    world = World(tmp_path, make_workflow(nests=3, nest_silence_seconds=2.5, budgets__tries=1))
    compute = "S=$SECONDS; while [ $((SECONDS - S)) -lt 5 ]; do :; done"
    write = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i >&2; sleep 0.5; done"
    world.shell(
        "a", f"case $1 in hang) sleep 300;; compute) {compute};; write) {write};; esac", "hang", "compute", "write"
    )

    world.work()

    # Then only the one that hangs was ended, with a cause that says so
    nests = world.ledger.nests(world.ledger.item("a"))
    assert {nest.index: nest.cause for nest in nests.values()} == {0: Cause.TIMED_OUT, 1: Cause.DONE, 2: Cause.DONE}
    assert nests[0].message == "hung: no CPU and no output for 2.5 s"
    told = world.ledger.attempts("a")[0]
    assert (told.cause, told.evidence) == (
        Cause.TIMED_OUT,
        "nest 0: exit 143 SIGTERM by us: hung: no CPU and no output for 2.5 s",
    )


def test_a_failed_nest_ends_its_siblings_if_the_workflow_says_so(tmp_path: Path) -> None:
    # Given four nests, two at a time: at the first attempt one fails while its sibling runs
    world = World(tmp_path, make_workflow(nests=2, stop_on_failure=True))
    script = (
        f"echo $1 >> {tmp_path}/ran; [ $PYANAMO_ATTEMPT = 1 ] || exit 0;"
        f" case $1 in 1) while [ ! -e {tmp_path}/began ]; do sleep 0.02; done; echo no reads; exit 1;;"
        f" 2) touch {tmp_path}/began; sleep 300;; esac"
    )
    world.shell("a", script, "1", "2", "3", "4")

    world.work()

    # Then its sibling was ended and none other begun; nothing of them was recorded, and the item waited for that cause
    item = world.ledger.item("a")
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran[:2]) == ["1", "2"]
    assert sorted(ran[2:]) == ["1", "2", "3", "4"]
    assert (item.state, item.tries, item.interruptions) == (State.DONE, 2, 0)
    first, last = world.ledger.attempts("a")
    assert (first.cause, first.evidence) == (Cause.TASK_ERROR, "nest 0: exit 1: no reads")
    assert last.cause is Cause.DONE
    assert {nest.fence for nest in world.ledger.nests(item).values()} == {2}


def test_a_host_with_too_little_disk_is_left_before_anything_is_tried(tmp_path: Path) -> None:
    world = World(tmp_path, make_workflow(min_free_disk_mb=10**9))
    world.add("a", "seq", "1")

    code, pilot = world.work()

    assert code == 75
    assert pilot.record.leaving.startswith("host_fault: ")
    assert "too little disk" in pilot.record.leaving
    assert world.ledger.item("a").fence == 0


def test_a_disk_that_fills_up_stops_claims_and_what_runs_may_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a nest that runs while the disk of its host fills up
    world = World(tmp_path, make_workflow(nests=1, min_free_disk_mb=100))
    world.shell("a", f"touch {tmp_path}/began; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done", "1", "2")
    working = world.begin_work()
    assert eventually((tmp_path / "began").exists)
    monkeypatch.setattr("pyanamo_core.pilot.vitals.free_mb", lambda _folder: 99)
    working.pilot.observed_as("wake")
    assert eventually(lambda: (world.ledger.pilots() or [working.pilot.record])[0].free_disk_mb == 99)
    time.sleep(1.2)  # until the loop has asked the disk again

    # When it ends
    (tmp_path / "go").touch()

    # Then it was recorded, the next was not begun, and the item goes elsewhere as if interrupted after progress
    assert working.leaves() == 75
    item = world.ledger.item("a")
    assert (item.state, item.tries, item.nests_done, item.interruptions) == (State.TODO, 0, 1, 1)
    assert world.ledger.attempts("a")[0].cause is Cause.HOST_FAULT
    assert "too little disk: 99 MB are free" in world.ledger.attempts("a")[0].evidence


def test_a_pilots_row_tells_of_its_disk_and_memory(world: World) -> None:
    world.add("a", "seq", "1")

    _, pilot = world.work()

    record = world.ledger.pilot(pilot.pilot_id)
    assert record is not None
    assert record.free_disk_mb is not None
    assert record.free_disk_mb > 0
    assert record.free_staging_mb is not None


def test_more_memory_is_given_to_what_ran_out_of_it(tmp_path: Path) -> None:
    # Given two slots of 512 MB, and a task that dies of memory until it has 768: it gets the memory of the slots it takes
    world = World(tmp_path, make_workflow())
    world.shell("a", f"echo $PYANAMO_MEMORY_MB >> {tmp_path}/memory; [ $PYANAMO_MEMORY_MB -ge 768 ] || kill -9 $$", "1")

    world.work()

    assert (tmp_path / "memory").read_text().split() == ["512", "1024"]
    assert world.ledger.item("a").state is State.DONE
    assert causes(world, "a") == [Cause.OUT_OF_MEMORY, Cause.DONE]


def test_what_needs_more_than_the_container_fails_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path, make_workflow(nests=1))
    world.shell("a", "kill -9 $$", "1")

    world.work()

    item = world.ledger.item("a")
    assert (item.state, item.cause, item.tries) == (State.FAILED, Cause.OUT_OF_MEMORY, 1)
    assert item.message.startswith("needs ≥ 1536 MB")


def test_a_wrong_set_up_hands_back_and_stops_the_run(world: World) -> None:
    # Given a run of one pilot, and two items whose script says that the set-up is wrong
    world.begin_run(max_pilots=1)
    for item_id in ("a", "b"):
        world.shell(item_id, "echo no bucket; exit 78", "1")

    # When the pilot works
    code, pilot = world.work("r1")

    # Then nothing was used up, and the run stops with the reason
    items = [world.ledger.item(item_id) for item_id in ("a", "b")]
    assert code == 78
    assert [(item.state, item.tries, item.interruptions) for item in items] == [(State.TODO, 0, 0)] * 2
    run = world.ledger.run("r1")
    assert run.mode is Mode.DRAIN
    assert "no bucket" in run.reason
    assert pilot.record.leaving.startswith("set_up")
    # and after the first item no other was claimed
    assert sorted(item.fence for item in items) == [0, 1]


def test_siblings_of_a_wrong_set_up_are_ended_and_not_recorded(world: World) -> None:
    # Given a nest that runs while its sibling finds the set-up wrong
    script = f"[ $1 = 2 ] && {{ touch {world.folder}/began; sleep 300; }}; while [ ! -e {world.folder}/began ]; do sleep 0.02; done; exit 78"
    world.shell("a", script, "1", "2")

    code, _ = world.work()

    # Then only the sibling that said so is recorded
    nests = world.ledger.nests(world.ledger.item("a"))
    assert code == 78
    assert {index: nest.cause for index, nest in nests.items()} == {0: Cause.SET_UP}


class Patchy(MemoryLedger):
    """A ledger that answers one claim, then none for a while."""

    claims = 0

    def claim(self, item_id: str, pilot_id: str, *, run_id: str = "") -> Any:
        self.claims += 1
        if 2 <= self.claims <= 3:
            raise OutcomeUnknown(move="claim", what=item_id)
        return super().claim(item_id, pilot_id, run_id=run_id)


def test_what_was_claimed_before_the_network_failed_is_not_forgotten(tmp_path: Path) -> None:
    # Given a pilot that claims two items in one batch, the second without an answer
    world = World(tmp_path, make_workflow(items=2, nests=1))
    world.ledger = Patchy(rules=world.workflow.rules)
    world.ledger.add_workflow(world.workflow)
    world.add("a", "seq", "1")
    world.add("b", "seq", "1")

    code, _ = world.work()

    # Then both are done, at their first attempt
    assert code == 0
    assert {(item.state, item.fence) for item in world.ledger.items()} == {(State.DONE, 1)}


def test_a_run_of_many_hosts_goes_on_when_one_of_them_sees_a_wrong_set_up(world: World) -> None:
    world.begin_run(max_pilots=5)
    world.shell("a", "exit 78", "1")

    world.work("r1", host="host1")
    first = world.ledger.run("r1").mode
    world.work("r1", host="host2")

    assert (first, world.ledger.run("r1").mode) == (Mode.RUN, Mode.DRAIN)


def test_a_reference_that_is_missing_is_a_wrong_set_up_before_any_claim(tmp_path: Path) -> None:
    world = World(tmp_path, make_workflow(references=[{"name": "ref", "uri": str(tmp_path / "none.fa")}]))
    world.add("a", "seq", "1")

    code, pilot = world.work()

    assert code == 78
    assert "none.fa" in pilot.record.leaving
    assert world.ledger.item("a").fence == 0


def test_a_full_host_hands_back_and_is_left(world: World) -> None:
    # Given a host whose disk is full
    world.shell("a", "echo cp: error writing x: No space left on device; exit 1", "1")

    code, pilot = world.work()

    # Then the item goes back as an interruption, and Batch shall try elsewhere
    item = world.ledger.item("a")
    assert code == 75
    assert pilot.record.leaving.startswith("host_fault")
    assert (item.state, item.tries, item.interruptions) == (State.TODO, 0, 1)
    assert causes(world, "a") == [Cause.HOST_FAULT]
    assert world.ledger.nests(item) == {}


def test_if_the_first_items_all_fail_alike_claiming_stops(tmp_path: Path) -> None:
    # Given a workflow in which the first three items fail with one message (numbers aside)
    world = World(tmp_path, make_workflow(budgets__first_items=3, budgets__tries=1))
    world.begin_run(max_pilots=1)
    for number in range(8):
        world.shell(f"i{number}", f"echo cannot read sample {number}; exit 1", "1")

    code, _ = world.work("r1")

    # Then it is not tried on the others
    assert code == 78
    assert world.ledger.counts().failed == 3
    assert "all failed alike" in world.ledger.run("r1").reason


def test_if_one_of_the_first_items_is_done_claiming_goes_on(tmp_path: Path) -> None:
    # Given eight items that fail alike, and one that comes first and is done
    world = World(tmp_path, make_workflow(shards=1, budgets__first_items=3, budgets__tries=1))
    for number in range(8):
        world.shell(f"i{number}", "exit 1", "1")
    world.ledger.import_item("good", "T", Definition(script="seq 1"), priority=0)

    code, _ = world.work()

    # Then all are tried
    assert code == 0
    assert world.ledger.counts().failed == 8


def test_too_many_failures_stop_claiming(tmp_path: Path) -> None:
    # Given a run that bears two failures, and items that fail in different ways
    world = World(tmp_path, make_workflow(budgets__tries=1, timing__beat_seconds=0.05))
    world.begin_run(max_pilots=1, max_failures=2)
    words = ["apple", "pear", "plum", "fig", "lime", "kiwi", "date", "sloe"] * 4
    for number, word in enumerate(words):
        world.shell(f"i{number}", f"sleep 0.1; echo {word}; exit 1", "1")

    code, pilot = world.work("r1")

    assert code == 0
    assert pilot.record.leaving.startswith("max_failures")
    assert 2 <= world.ledger.counts().failed < len(words)
    assert world.ledger.run("r1").mode is Mode.DRAIN


def test_a_run_that_drains_ends_what_it_holds_and_claims_no_more(world: World) -> None:
    # Given a pilot with an item that takes its time
    world.begin_run(max_pilots=1)
    world.shell("a", f"touch {world.folder}/began; while [ ! -e {world.folder}/go ]; do sleep 0.05; done", "1")
    world.add("b", "seq", "1")
    world.add("c", "seq", "1")
    working = world.begin_work("r1", items=1, nests=1)
    assert eventually(lambda: (world.folder / "began").exists() or world.ledger.counts().done == 2)
    assert eventually((world.folder / "began").exists)

    # When the run is drained
    before = world.ledger.counts().done
    world.ledger.set_mode("r1", Mode.DRAIN, "enough")
    assert eventually(lambda: working.pilot.record.last_beat > 0)
    threading.Timer(0.8, (world.folder / "go").touch).start()

    # Then that item is done, and nothing else was begun
    assert working.leaves() == 0
    assert world.ledger.item("a").state is State.DONE
    assert world.ledger.counts().done == before + 1
    assert working.pilot.record.leaving == "drained: enough"


def test_a_run_that_is_cancelled_ends_its_children_and_hands_back(world: World) -> None:
    world.begin_run(max_pilots=1)
    world.shell("a", f"touch {world.folder}/began; sleep 300", "1", "2")
    working = world.begin_work("r1")
    assert eventually((world.folder / "began").exists)

    world.ledger.set_mode("r1", Mode.CANCEL, "wrong reference")

    assert working.leaves() == 0
    item = world.ledger.item("a")
    assert (item.state, item.tries, item.interruptions) == (State.TODO, 0, 0)
    assert causes(world, "a") == [Cause.CANCELLED]


def test_an_item_that_a_user_cancels_is_ended_and_others_go_on(world: World) -> None:
    world.shell("a", f"touch {world.folder}/began; sleep 300", "1")
    working = world.begin_work()
    assert eventually((world.folder / "began").exists)

    world.ledger.cancel(world.ledger.item("a"))
    world.add("b", "seq", "1")

    assert working.leaves() == 0
    assert world.ledger.item("a").state is State.CANCELLED
    assert world.ledger.item("b").state is State.DONE


class Stolen(MemoryLedger):
    """A ledger whose item another pilot takes when its lease is over; beats of the first pilot never arrive."""

    deaf = False

    def beat(self, claim: Any, **told: Any) -> Any:
        if self.deaf:
            raise TimeoutError("no answer")
        return super().beat(claim, **told)


def test_what_is_lost_is_ended_and_nothing_more_is_written(tmp_path: Path) -> None:
    # Given a pilot whose beats get no answer from now on
    world = World(tmp_path, make_workflow(timing__lease_seconds=1.5, timing__beat_seconds=0.2))
    ledger = Stolen(rules=world.workflow.rules)
    ledger.add_workflow(world.workflow)
    world.ledger = ledger
    world.shell("a", f"echo $PYANAMO_ATTEMPT >> {tmp_path}/began; [ $PYANAMO_ATTEMPT != 1 ] || sleep 300", "1", "2")
    working = world.begin_work()
    assert eventually((tmp_path / "began").exists)
    ledger.deaf = True

    # When its own deadline comes, and the item's lease is over
    # Then it ends what runs; the item is taken up with a new fence (by itself, having found it free) and done
    ledger_free = eventually(lambda: ledger.item("a").fence == 2)
    ledger.deaf = False
    assert ledger_free
    assert working.leaves() == 0
    assert ledger.item("a").state is State.DONE
    assert {nest.fence for nest in ledger.nests(ledger.item("a")).values()} == {2}
    assert causes(world, "a") == [Cause.LOST, Cause.DONE]


def test_done_nests_of_an_earlier_attempt_are_not_run_again(world: World) -> None:
    # Given an item with one nest done by another pilot that handed it back
    world.shell("a", f"echo $1 >> {world.folder}/ran", "1", "2")
    claim = world.ledger.claim("a", "p0")
    assert claim is not None
    world.ledger.record_nest(
        claim,
        _nest(claim.item, 0, claim.fence),
    )
    world.ledger.hand_back(claim, Cause.SPOT, progressed=True, started=True)

    world.work()

    assert (world.folder / "ran").read_text().split() == ["2"]
    assert world.ledger.item("a").state is State.DONE


def _nest(item: Item, index: int, fence: int) -> Any:
    from pyanamo_core.model import Nest

    return Nest(item_id=item.item_id, epoch=item.epoch, index=index, status=NestStatus.DONE, fence=fence)


def test_pilots_with_a_higher_index_leave_although_items_wait(tmp_path: Path) -> None:
    # Given an item that may start in a minute
    world = World(tmp_path, make_workflow(budgets__retry_delay_seconds=60.0))
    world.shell("a", "exit 1", "1")

    code, pilot = world.work(array_index=2)

    assert (code, pilot.record.leaving) == (0, "empty")
    assert world.ledger.item("a").state is State.WAITING


def test_the_first_pilots_stay_until_nothing_is_open(tmp_path: Path) -> None:
    # Given an item that waits for two seconds
    world = World(tmp_path, make_workflow(budgets__retry_delay_seconds=2.0))
    world.shell("a", "[ $PYANAMO_ATTEMPT = 2 ]", "1")

    code, _ = world.work(array_index=1)

    assert code == 0
    assert world.ledger.item("a").state is State.DONE


def test_near_its_wall_time_a_pilot_begins_nothing_that_would_not_end(tmp_path: Path) -> None:
    # Given nests of about half a second, and a wall time of three
    world = World(tmp_path, make_workflow(nests=1, wall_time_seconds=3.0))
    world.add("a", "sleep", *["0.5"] * 50)

    code, pilot = world.work()

    # Then it leaves in time, to be started again; what it did is done, and that was no interruption
    item = world.ledger.item("a")
    assert code == 75
    assert pilot.record.leaving == "wall_time"
    assert item.state is State.TODO
    assert 0 < item.nests_done < 50
    assert item.interruptions == 0
    assert len(world.ledger.nests(item)) == item.nests_done


def test_what_runs_at_the_end_of_the_wall_time_is_an_interruption(tmp_path: Path) -> None:
    world = World(tmp_path, make_workflow(nests=1, wall_time_seconds=1.0))
    world.add("a", "sleep", "300")

    code, _ = world.work()

    item = world.ledger.item("a")
    assert (code, item.state, item.interruptions) == (75, State.TODO, 1)
    assert causes(world, "a") == [Cause.WALL_TIME]


def test_overrides_stand_in_the_pilots_row(world: World) -> None:
    world.add("a", "seq", "1")

    _, pilot = world.work(items=2, nests=3, results="mine")

    record = world.ledger.pilot(pilot.pilot_id)
    assert record is not None
    assert record.overrides == {"PYANAMO_ITEMS": "2", "PYANAMO_NESTS": "3", "S3_BUCKET": "mine"}
    assert (record.slots, record.exit_code, record.items_done, record.nests_done) == (6, 0, 1, 1)


def test_a_table_without_a_workflow_is_refused(tmp_path: Path) -> None:
    pilot = Pilot(PilotOptions("Seq", scratch=tmp_path), None, ledger=MemoryLedger())

    with pytest.raises(WorkflowMissing):
        pilot.prepare()


def test_a_run_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(RunMissing):
        world.work("r9")


def test_a_pilot_that_is_too_old_for_its_run_is_refused(world: World) -> None:
    world.begin_run()
    world.ledger._runs["r1"] = world.ledger.run("r1").model_copy(update={"min_pilot": "99.0"})

    with pytest.raises(PilotTooOld, match=r"99\.0"):
        world.work("r1")


class Raising(NullObserver):
    """Fails at everything."""

    def claimed(self, claim: Any) -> None:
        raise RuntimeError("claimed")

    def nest_finished(self, nest: NestCall, result: NestResult) -> None:
        raise RuntimeError("finished")


class Hanging(NullObserver):
    """Never returns from its first call."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def claimed(self, claim: Any) -> None:
        self.go.wait(300)


@pytest.mark.parametrize("kind", [Raising, Hanging])
def test_an_observer_that_raises_or_hangs_costs_nothing(world: World, kind: type[NullObserver]) -> None:
    for number in range(3):
        world.add(f"i{number}", "seq", "1", "2")
    pilot = world.pilot()
    pilot.prepare()
    observer = kind()

    code = pilot.work(ThreadExecutor(pilot.slots), observer)

    assert code == 0
    assert world.ledger.counts().done == 3
    if isinstance(observer, Hanging):
        observer.go.set()


class Refusing(ThreadExecutor):
    """An executor that takes no nest."""

    def submit(self, call: Any, nest: NestCall) -> Any:
        raise RuntimeError("no room")


def test_an_executor_that_refuses_costs_no_result(world: World) -> None:
    world.add("a", "seq", "1", "2")
    pilot = world.pilot()
    pilot.prepare()

    assert pilot.work(Refusing(1)) == 0
    assert world.ledger.item("a").state is State.DONE


def test_two_pilots_share_the_work_and_each_nest_is_recorded_once(world: World) -> None:
    # Given twelve items, and two pilots at the same time
    for number in range(12):
        world.shell(f"i{number}", f"echo $PYANAMO_ITEM $1 >> {world.folder}/ran; sleep 0.05", "1", "2")
    both = [world.begin_work(), world.begin_work()]

    assert [each.leaves() for each in both] == [0, 0]

    # Then every nest ran once
    ran = (world.folder / "ran").read_text().splitlines()
    assert sorted(ran) == sorted({f"i{n} {v}" for n in range(12) for v in (1, 2)})
    assert world.ledger.counts().done == 12
