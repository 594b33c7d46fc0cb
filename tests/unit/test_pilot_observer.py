"""Observers can neither delay nor break a pilot."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

from pyanamo_core.clock import FakeClock, SystemClock
from pyanamo_core.model import Cause
from pyanamo_core.pilot.observer import GuardedObserver, NullObserver

FLOW = contextvars.ContextVar[str]("FLOW", default="")


class Noting(NullObserver):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def handed_back(self, item_id: str, cause: Cause) -> None:
        self.told.append((item_id, FLOW.get()))

    def leaving(self, reason: str, exit_code: int) -> None:
        self.told.append(reason)


def test_events_arrive_in_order_and_in_the_callers_context() -> None:
    # Given an observer that looks for the flow run that it belongs to
    noting = Noting()
    guard = GuardedObserver(noting, SystemClock())
    FLOW.set("the run")

    # When it is told three things
    guard.handed_back("a", Cause.SPOT)
    guard.handed_back("b", Cause.SPOT)
    guard.leaving("empty", 0)
    guard.close(10)

    assert noting.told == [("a", "the run"), ("b", "the run"), "empty"]


class Raising(Noting):
    """Cannot bear item `a`."""

    def handed_back(self, item_id: str, cause: Cause) -> None:
        if item_id == "a":
            raise SystemExit("enough")
        super().handed_back(item_id, cause)


def test_what_an_observer_raises_stays_with_it() -> None:
    observer = Raising()
    guard = GuardedObserver(observer, SystemClock())

    guard.handed_back("a", Cause.SPOT)
    guard.handed_back("b", Cause.SPOT)
    guard.close(10)

    assert [item for item, _ in observer.told] == ["b"]


class Hanging(Noting):
    """Hangs in its first call until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.in_it = threading.Event()
        self.go = threading.Event()

    def handed_back(self, item_id: str, cause: Cause) -> None:
        self.in_it.set()
        self.go.wait(60)
        super().handed_back(item_id, cause)


def test_a_hanging_observer_costs_its_events_not_the_pilots_time() -> None:
    # Given an observer that hangs
    clock, observer = FakeClock(), Hanging()
    guard = GuardedObserver(observer, clock, budget_seconds=5)
    guard.handed_back("a", Cause.SPOT)
    assert observer.in_it.wait(60)

    # When its budget is used up
    clock.move(6)
    guard.handed_back("b", Cause.SPOT)

    # Then further events are dropped and counted until it returns
    assert guard.hangs
    assert guard.dropped == 1
    observer.go.set()
    guard.close(10)
    assert [item for item, _ in observer.told] == ["a"]


def test_closing_does_not_wait_for_one_that_hangs() -> None:
    observer = Hanging()
    guard = GuardedObserver(observer, SystemClock())
    guard.handed_back("a", Cause.SPOT)
    assert observer.in_it.wait(60)

    guard.close(0.01)

    assert observer.told == []
    observer.go.set()
