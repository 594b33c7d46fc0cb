"""Which nest comes next, and when a further item is claimed."""

from __future__ import annotations

from pathlib import Path

from pyanamo_core.clock import FakeClock
from pyanamo_core.model import Claim, Definition, Item, State
from pyanamo_core.pilot.clock import Learner
from pyanamo_core.pilot.environment import Setting
from pyanamo_core.pilot.nest import Bench, Task
from pyanamo_core.pilot.scheduler import Board, Held, longest_first, weight_of
from pyanamo_core.workflow import Buckets, Workflow

WORKFLOW = Workflow(name="Seq", queue="q", job_definition="j", buckets=Buckets(results="s3://results"))
BENCH = Bench(Setting(WORKFLOW, "Seq", "", "s3://results", "/"), Path("/"), FakeClock(), lambda: None)


def held(item_id: str, *values: str, memory_factor: float = 1.0) -> Held:
    """A held item with these nests."""
    definition = Definition(script="x", arguments=values)
    item = Item(item_id=item_id, task_id="T", state=State.LOCKED, fence=1, memory_factor=memory_factor)
    claim = Claim(item=item, pilot_id="p", deadline=1e9)
    return Held(claim, definition, longest_first(definition, range(definition.nests)))


def started(board: Board, *, may_start: bool = True) -> list[tuple[str, int]]:
    """Start all that can be started; item and nest of each, in order."""
    order = Learner().order
    seen: list[tuple[str, int]] = []
    while (chosen := board.next(order, lambda _: may_start)) is not None:
        which, index = chosen
        board.start(which, index, Task(which.call(index), BENCH))
        seen.append((which.item_id, index))
    return seen


def test_the_longest_nests_come_first() -> None:
    # Given an item with loci of different lengths
    board = Board(items=1, slots=3)
    board.add(held("a", "c:1-10", "c:1-500", "c:1-20", "c:1-400"))

    # When three slots are filled
    # Then the longest three start, the longest first
    assert started(board) == [("a", 1), ("a", 3), ("a", 2)]


def test_slots_are_shared_by_items_and_none_stays_idle() -> None:
    # Given two items, one of which has a single nest left
    board = Board(items=2, slots=4)
    board.add(held("a", "1"))
    board.add(held("b", "1", "2", "3", "4"))

    # Then all four slots are filled
    assert sorted(started(board)) == [("a", 0), ("b", 0), ("b", 1), ("b", 2)]


def test_no_item_is_claimed_while_a_held_nest_could_fill_the_slot() -> None:
    board = Board(items=2, slots=2)
    board.add(held("a", "1", "2", "3"))

    assert board.may_claim() == 0


def test_an_item_is_claimed_for_a_slot_that_no_held_nest_can_fill() -> None:
    # Given two slots and an item whose only nest runs
    board = Board(items=2, slots=2)
    board.add(held("a", "1"))
    started(board)

    assert board.may_claim() == 1


def test_never_more_items_are_held_than_allowed() -> None:
    # Given an item whose only nest runs, and three free slots
    board = Board(items=1, slots=4)
    board.add(held("a", "1"))
    started(board)

    assert board.may_claim() == 0


def test_a_nest_with_more_memory_takes_more_slots() -> None:
    # Given four slots, and items that ran out of memory before
    board = Board(items=2, slots=4)
    board.add(held("a", "1", "2", "3", memory_factor=1.5))

    # Then only two of its nests run at a time, and the slots come back
    assert started(board) == [("a", 0), ("a", 1)]
    assert board.free == 0
    board.end(board.held["a"], 0)
    assert board.free == 2
    assert started(board) == [("a", 2)]


def test_a_big_nest_is_not_starved_by_small_ones_claimed_later() -> None:
    # Given two slots, one of them busy with an older item, and a nest that needs both
    board = Board(items=3, slots=2)
    board.add(held("old", "1"))
    started(board)
    board.add(held("big", "1", memory_factor=2.0))
    board.add(held("late", "1", "2"))

    # Then nothing that came later slips in
    assert started(board) == []
    board.end(board.held["old"], 0)
    board.drop("old")
    assert started(board) == [("big", 0)]


def test_weights_are_whole_slots() -> None:
    assert [weight_of(factor, 4) for factor in (0.5, 1.0, 1.01, 2.25, 9.0)] == [1, 1, 2, 3, 4]


def test_nests_that_would_not_end_in_time_are_refused_and_said_so() -> None:
    # Given a pilot with no time left for any nest
    board = Board(items=1, slots=1)
    board.add(held("a", "1"))

    # Then none starts, the item says why, and it does not keep others from being claimed
    assert started(board, may_start=False) == []
    assert board.held["a"].refused_for_time


def test_slot_numbers_are_used_again() -> None:
    # Given two slots
    board = Board(items=1, slots=2)
    board.add(held("a", "1", "2", "3"))
    started(board)
    slots = {task.slot for task in board.held["a"].running.values()}

    # When one nest ends and another starts
    board.end(board.held["a"], 1)
    started(board)

    # Then its slot is taken again
    assert slots == {0, 1}
    assert {task.slot for task in board.held["a"].running.values()} == {0, 1}


def test_ten_thousand_nests_are_ordered_once() -> None:
    # Given an item with 10,000 loci
    definition = Definition(script="x", arguments=tuple(f"c:1-{length}" for length in range(1, 10_001)))

    assert longest_first(definition, range(10_000))[:3] == [9_999, 9_998, 9_997]
