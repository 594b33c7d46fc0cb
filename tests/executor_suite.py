"""What every Executor must do: one suite of functions, called by the tests of each executor.

A test module takes them all over with a fixture `executor` (4 slots, closed by the fixture):

    from executor_suite import *  # noqa: F403
"""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest

from pyanamo_core.model import Cause, NestCall, NestResult
from pyanamo_core.protocols import Executor

PATIENCE_SECONDS = 60.0

__all__ = [
    "test_a_nest_that_ends_makes_room_for_the_next",
    "test_a_result_comes_back_through_the_future",
    "test_an_exception_comes_back_through_the_future",
    "test_each_call_runs_exactly_once",
    "test_nests_run_beside_each_other_on_all_slots",
    "test_no_more_nests_run_than_there_are_slots",
]


def call(index: int = 0, item_id: str = "item") -> NestCall:
    """A nest's call."""
    return NestCall(item_id=item_id, task_id="T", index=index, value=str(index), fence=1, epoch=0, script="true")


def result(index: int = 0) -> NestResult:
    """A result that can be told from others by its message."""
    return NestResult(cause=Cause.DONE, exit_code=0, message=str(index))


def test_a_result_comes_back_through_the_future(executor: Executor) -> None:
    # Given a nest that ends well
    # When it is submitted
    future = executor.submit(lambda: result(7), call(7))

    # Then the future holds exactly its result
    assert future.result(PATIENCE_SECONDS) == result(7)


def test_an_exception_comes_back_through_the_future(executor: Executor) -> None:
    # Given a call that raises
    def broken() -> NestResult:
        raise RuntimeError("no such thing")

    # When it is submitted
    future = executor.submit(broken, call())

    # Then the future raises the same, and the next nest runs
    with pytest.raises(RuntimeError, match="no such thing"):
        future.result(PATIENCE_SECONDS)
    assert executor.submit(lambda: result(1), call(1)).result(PATIENCE_SECONDS) == result(1)


def test_each_call_runs_exactly_once(executor: Executor) -> None:
    # Given 40 nests that count their runs
    runs: list[int] = []
    lock = threading.Lock()

    def counted(index: int) -> NestResult:
        with lock:
            runs.append(index)
        return result(index)

    # When all are submitted from one thread
    futures = [executor.submit(lambda index=index: counted(index), call(index)) for index in range(40)]
    told = [future.result(PATIENCE_SECONDS) for future in futures]

    # Then each ran once, and each future has its own result
    assert sorted(runs) == list(range(40))
    assert [each.message for each in told] == [str(index) for index in range(40)]


def test_nests_run_beside_each_other_on_all_slots(executor: Executor) -> None:
    # Given four nests that all wait for each other
    meeting = threading.Barrier(4)

    def meets() -> NestResult:
        meeting.wait(PATIENCE_SECONDS)
        return result()

    # When they are submitted to an executor with four slots
    futures = [executor.submit(meets, call(index)) for index in range(4)]

    # Then they meet: all four ran at the same time
    assert [future.result(PATIENCE_SECONDS).cause for future in futures] == [Cause.DONE] * 4


def test_no_more_nests_run_than_there_are_slots(executor: Executor) -> None:
    # Given more nests than slots, submitted as the pilot does: one more when one has ended
    lock = threading.Lock()
    running = most = 0

    def counted() -> NestResult:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.01)
        with lock:
            running -= 1
        return result()

    # When they run
    waiting = [executor.submit(counted, call(index)) for index in range(4)]
    for index in range(4, 16):
        done, rest = wait(waiting, PATIENCE_SECONDS, return_when="FIRST_COMPLETED")
        waiting = [*rest, *list(done)[1:], executor.submit(counted, call(index))]
    wait(waiting, PATIENCE_SECONDS)

    # Then never more than four did at a time
    assert 1 <= most <= 4


def test_a_nest_that_ends_makes_room_for_the_next(executor: Executor) -> None:
    # Given four nests that hold all slots until they are let go
    go = threading.Event()

    def held() -> NestResult:
        go.wait(PATIENCE_SECONDS)
        return result()

    futures = [executor.submit(held, call(index)) for index in range(4)]

    # When they are let go and a fifth comes
    go.set()
    wait(futures, PATIENCE_SECONDS)
    fifth = executor.submit(lambda: result(5), call(5))

    # Then it runs
    assert fifth.result(PATIENCE_SECONDS) == result(5)
