"""The budgets table end to end: real tasks end in every way there is, and rows say how and what followed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pilot_support import World, eventually, make_workflow

from pyanamo_core.model import Attempt, Cause, Item, NestStatus, State

ALLOCATE = "import sys\nkept = b'x' * (int(sys.argv[1]) << 20)\nprint('held', len(kept) >> 20, 'MB')\n"
SLOT_MB = 300


def ended(world: World, item_id: str) -> tuple[Item, list[Attempt]]:
    """An item and its attempts."""
    return world.ledger.item(item_id), world.ledger.attempts(item_id)


@pytest.mark.parametrize(
    ("script", "state", "cause", "tries", "evidence"),
    [
        ("echo fine", State.DONE, Cause.DONE, 1, "exit 0"),
        ("echo no reads; exit 1", State.FAILED, Cause.TASK_ERROR, 2, "exit 1: no reads"),
        ("echo later; exit 75", State.FAILED, Cause.TASK_ERROR, 2, "exit 75: later"),
        ("echo no such sample; exit 65", State.FAILED, Cause.PERMANENT, 1, "exit 65: no such sample"),
        ("kill -SEGV $$", State.FAILED, Cause.TASK_ERROR, 2, "exit 139 SIGSEGV"),
        ("sleep 300", State.FAILED, Cause.TIMED_OUT, 2, "exit 143 SIGTERM by us: ended at its deadline of 0.8 s"),
        ("echo {} x > $PYANAMO_RESULT", State.FAILED, Cause.UNVERIFIED, 2, "exit 0: PYANAMO_RESULT is no JSON"),
        ("echo java.lang.OutOfMemoryError; exit 3", State.FAILED, Cause.OUT_OF_MEMORY, 2, "exit 3: java.lang.OutOf"),
        ("kill -9 $$", State.FAILED, Cause.OUT_OF_MEMORY, 2, "exit 137 SIGKILL"),
        ("echo bad bucket; exit 78", State.TODO, Cause.SET_UP, 0, "set_up: item a, nest 0: exit code 78: bad bucket"),
        (
            "echo x > /dev/full || exit 1",
            State.TODO,
            Cause.HOST_FAULT,
            0,
            "exit 1: _: line 1: echo: write error: No space",
        ),
    ],
)
def test_every_end_is_told_and_followed_by_what_the_table_says(
    tmp_path: Path, script: str, state: State, cause: Cause, tries: int, evidence: str
) -> None:
    # Given an item of one nest, two tries, and two slots; a pilot of a run on Batch
    world = World(tmp_path, make_workflow(budgets__tries=2, nest_time_seconds=0.8))
    world.begin_run(max_pilots=1)
    world.shell("a", script)

    # When the pilot works
    _, pilot = world.work("r1", batch_job="j1", batch_attempt=2, host="h1")

    # Then state, cause and tries are the table's
    item, attempts = ended(world, "a")
    assert (item.state, item.tries) == (state, tries)
    # and every attempt's row is complete
    assert len(attempts) == max(1, tries)
    for attempt in attempts:
        assert attempt.cause is cause
        assert attempt.evidence.startswith(evidence)
        assert len(attempt.evidence.encode()) <= 120
        told = (attempt.pilot_id, attempt.run_id, attempt.batch_job, attempt.batch_attempt, attempt.host)
        assert told == (pilot.pilot_id, "r1", "j1", 2, "h1")
        assert attempt.ended is not None
        assert 0 < attempt.started <= attempt.ended


def test_a_task_that_really_needs_1_7_times_its_memory_is_done_at_the_second_attempt(tmp_path: Path) -> None:
    # Given two slots of 300 MB and a task that holds 510 MB, under a limit that it sets itself by PYANAMO_MEMORY_MB
    world = World(tmp_path, make_workflow(memory_mb=2 * SLOT_MB))
    (tmp_path / "allocate.py").write_text(ALLOCATE)
    script = f"ulimit -v $((PYANAMO_MEMORY_MB * 1024)); exec python3 -S {tmp_path}/allocate.py $1"
    world.shell("a", script, str(int(1.7 * SLOT_MB)))

    world.work()

    # Then it ran out of memory, got two slots, and was done
    item, attempts = ended(world, "a")
    print(f"out of memory at 1.7 × its share: {[str(each.cause) for each in attempts]}")
    assert (item.state, item.tries, item.memory_factor) == (State.DONE, 2, 1.5)
    assert [(each.cause, each.evidence) for each in attempts] == [
        (Cause.OUT_OF_MEMORY, "exit 1: MemoryError"),
        (Cause.DONE, "exit 0"),
    ]
    nest = world.ledger.nests(item)[0]
    assert world.ledger.tail(item, nest) == "held 510 MB\n"
    assert nest.peak_memory_mb > 510


def test_a_nest_with_more_memory_runs_in_fewer_slots(tmp_path: Path) -> None:
    # Given four slots, and an item of two nests each of which needs more than its share at the first attempt
    world = World(tmp_path, make_workflow(nests=4, memory_mb=400, vcpus=4))
    meanwhile = f"echo $PYANAMO_MEMORY_MB $PYANAMO_CPUS >> {tmp_path}/told; echo + >> {tmp_path}/running"
    script = f"[ $PYANAMO_ATTEMPT != 1 ] || kill -9 $$; {meanwhile}; sleep 0.5; echo - >> {tmp_path}/running"
    world.shell("a", script, "1", "2", "3")

    world.work()

    # Then each got two slots' memory and CPUs, and only two ran at a time
    item, attempts = ended(world, "a")
    at_a_time = 0
    most = 0
    for sign in (tmp_path / "running").read_text().split():
        at_a_time += 1 if sign == "+" else -1
        most = max(most, at_a_time)
    assert (item.state, len(attempts), most) == (State.DONE, 2, 2)
    assert (tmp_path / "told").read_text().splitlines() == ["200 2"] * 3


def test_interruptions_count_in_a_row_and_only_without_progress(tmp_path: Path) -> None:
    # Given an item of four nests that may be interrupted three times in a row
    world = World(tmp_path, make_workflow(nests=1, budgets__interruptions=3))
    script = f"[ -e {tmp_path}/go$1 ] && exit 0; touch {tmp_path}/at$1; sleep 300"
    world.shell("a", script, "1", "2", "3", "4")

    counted: list[tuple[int, State]] = []
    for number, (go, at) in enumerate([(0, 1), (0, 1), (1, 2), (2, 3), (2, 3), (2, 3)]):
        # When a pilot is told to end, in turn with and without a nest done since it began
        (tmp_path / f"go{go}").touch()
        (tmp_path / f"at{at}").unlink(missing_ok=True)
        working = world.begin_work()
        assert eventually((tmp_path / f"at{at}").exists), number
        working.pilot._signals._handle(15, None)
        assert working.leaves() == 75
        item = world.ledger.item("a")
        counted.append((item.interruptions, item.state))

    # Then progress begins the count again at one, and the third in a row without any ends the item
    todo, failed = State.TODO, State.FAILED
    assert counted == [(1, todo), (2, todo), (1, todo), (1, todo), (2, todo), (3, failed)]
    item, attempts = ended(world, "a")
    assert (item.cause, item.tries) == (Cause.DRAINED, 0)
    assert [each.evidence for each in attempts] == ["drained: signal 15"] * 6
    assert sum(nest.status is NestStatus.DONE for nest in world.ledger.nests(item).values()) == 2


def test_an_item_whose_definition_is_gone_fails_and_holds_up_nobody(tmp_path: Path) -> None:
    # Given an item whose definition somebody has removed from the table by hand, and another
    world = World(tmp_path, make_workflow())
    world.add("a", "seq", *[str(number) for number in range(100)])
    world.add("b", "seq", "1")
    world.ledger._definitions.pop(("a", world.ledger.item("a").definition_hash))

    code, _ = world.work()

    # Then it fails with words, and the other is done
    item, attempts = ended(world, "a")
    assert code == 0
    assert (item.state, item.cause) == (State.FAILED, Cause.PERMANENT)
    assert item.message.startswith("its definition is gone")
    assert [each.cause for each in attempts] == [Cause.PERMANENT]
    assert world.ledger.item("b").state is State.DONE
