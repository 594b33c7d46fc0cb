"""How much of a pilot's work is shown as task runs, and that a nest runs whatever Prefect does."""

from __future__ import annotations

import threading

import pytest
from pyanamo_flows.executor import ITEM, NEST, NONE, Detail, PrefectExecutor

from pyanamo_core.model import Cause, NestCall, NestResult


def nest(index: int = 0) -> NestCall:
    return NestCall(item_id="S1", task_id="S1", index=index, value=f"v{index}", fence=1, epoch=0, script="true")


class Slow:
    """A clock that goes a second further each time it is asked."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def said():
    return []


def test_a_few_slow_nests_are_all_shown(said):
    detail = Detail("auto", queued=lambda: 0, clock=Slow(1.0), say=said.append)
    detail.plan(100)
    assert {detail.of_next() for _ in range(100)} == {NEST}
    assert detail.nests_shown == 100
    assert said == []


def test_above_2000_planned_nests_items_are_shown_and_it_is_said_once(said):
    # Given a pilot that has shown nests
    detail = Detail("auto", queued=lambda: 0, clock=Slow(1.0), say=said.append)
    detail.plan(1_999)
    assert detail.of_next() == NEST
    # When it claims more than 2,000 in all
    detail.plan(2)
    # Then from here on items are shown, and what was left out is counted
    assert [detail.of_next() for _ in range(3)] == [ITEM] * 3
    assert len(said) == 1
    assert "2,001 nests are planned" in said[0]
    assert detail.nests_not_shown == 3
    assert "3 nests not shown" in detail.summary()


def test_nests_that_come_faster_than_ten_a_second_are_shown_as_items(said):
    detail = Detail("auto", queued=lambda: 0, clock=Slow(0.01), say=said.append)
    shown = [detail.of_next() for _ in range(150)]
    assert shown[:100] == [NEST] * 100
    assert set(shown[100:]) == {ITEM}
    assert "faster than 10 a second" in said[0]


def test_a_wish_for_nests_is_not_overruled_by_numbers(said):
    detail = Detail("nest", queued=lambda: 0, clock=Slow(0.001), say=said.append)
    detail.plan(50_000)
    assert {detail.of_next() for _ in range(500)} == {NEST}


@pytest.mark.parametrize("wish", ["auto", "nest", "item"])
def test_above_500_unsent_events_no_more_task_runs_are_made_whatever_was_wished(said, wish):
    queue = [500]
    detail = Detail(wish, queued=lambda: queue[0], clock=Slow(1.0), say=said.append)
    assert detail.of_next() != NONE
    queue[0] = 501
    assert detail.of_next() == NONE
    queue[0] = 0
    assert detail.of_next() == NONE
    assert len(said) == 1
    assert "501 events" in said[0]


def test_detail_none_shows_nothing_and_asks_nothing(said):
    def never() -> int:
        raise AssertionError

    detail = Detail("none", queued=never, say=said.append)
    assert detail.of_next() == NONE
    assert detail.nests_not_shown == 1


def test_a_nest_whose_task_run_cannot_be_made_is_run_all_the_same():
    # Given an executor outside of any flow run, where Prefect refuses to submit
    detail = Detail("nest", queued=lambda: 0)
    executor = PrefectExecutor(2, detail)
    # When nests are submitted
    futures = [executor.submit(lambda: NestResult(cause=Cause.DONE, exit_code=0), nest(i)) for i in range(3)]
    # Then each runs once, and no further task run is tried
    assert [future.result(10).cause for future in futures] == [Cause.DONE] * 3
    assert detail.shown == NONE
    executor.close(1)


def test_what_a_call_raises_reaches_the_future():
    executor = PrefectExecutor(1, Detail("none"))

    def fails() -> NestResult:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        executor.submit(fails, nest()).result(10)
    executor.close(1)


class Swallows:
    """A Prefect task whose runs end without their body, or never."""

    def __init__(self, *, ends: bool) -> None:
        self.ends = ends

    def submit(self, **_):
        from concurrent.futures import Future
        from types import SimpleNamespace

        wrapped: Future = Future()
        if self.ends:
            wrapped.cancel()
        return SimpleNamespace(wrapped_future=wrapped)


@pytest.mark.parametrize("ends", [True, False], ids=["cancelled", "left lying"])
def test_a_task_run_that_never_reaches_its_body_is_run_by_the_executor_itself(ends):
    # Given a Prefect that takes task runs and does not run them
    detail = Detail("nest", queued=lambda: 0)
    executor = PrefectExecutor(1, detail, start_seconds=0.05)
    executor._nest_task = Swallows(ends=ends)
    ran = threading.Event()

    def call() -> NestResult:
        ran.set()
        return NestResult(cause=Cause.DONE)

    # When a nest is submitted
    future = executor.submit(call, nest())
    # Then it runs, once
    assert future.result(10).cause is Cause.DONE
    assert ran.is_set()
    executor.close(1)
