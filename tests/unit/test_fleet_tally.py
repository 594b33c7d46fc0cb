"""Counting a table at every poll without reading all of it: the same figures as a whole count."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pyanamo_core.clock import FakeClock
from pyanamo_core.fleet.tally import Tally
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Counts, Definition, Rules, State


class Table:
    """A ledger in memory on which pilots and users make moves."""

    def __init__(self, items: int) -> None:
        self.clock = FakeClock()
        self.ledger = MemoryLedger(Rules(lease_seconds=1e9), self.clock, random.Random(1))
        self.items = 0
        self.add(items)

    def add(self, items: int) -> None:
        for _ in range(items):
            self.ledger.import_item(f"i{self.items}", "t", Definition(script="true"))
            self.items += 1

    def pick(self, state: State, number: int) -> Any:
        found = list(self.ledger.items(state))
        return found[number % len(found)] if found else None

    def work(self, how: str, number: int) -> None:
        """A pilot takes an item that is to do, and ends with it so."""
        item = self.pick(State.TODO, number) or self.pick(State.WAITING, number)
        if item is None or (claim := self.ledger.claim(item.item_id, "p")) is None:
            return
        if how == "finish":
            self.ledger.finish(claim, nests_done=1)
        elif how == "fail":
            self.ledger.fail(claim, Cause.PERMANENT, "no")
        elif how == "wait":
            self.ledger.wait(claim, Cause.TASK_ERROR, "no", delay_seconds=30)
        elif how == "hand back":
            self.ledger.hand_back(claim, Cause.DRAINED, progressed=False, started=True, counts=False)

    def use(self, how: str, number: int) -> None:
        """A user moves items."""
        if how == "import":
            self.add(1 + number % 7)
        elif how == "reset" and (item := self.pick(State.DONE, number)):
            self.ledger.reset(item)
        elif how == "retry" and (item := self.pick(State.FAILED, number)):
            self.ledger.retry(item)
        elif how == "cancel" and (item := self.pick(State.TODO, number)):
            self.ledger.cancel(item)


PILOTS = st.tuples(st.sampled_from(["hold", "finish", "finish", "fail", "wait", "hand back"]), st.integers(0, 99))
USERS = st.tuples(st.sampled_from(["import", "reset", "retry", "cancel"]), st.integers(0, 99))
SECONDS = st.floats(0, 100)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.lists(st.tuples(PILOTS, SECONDS), max_size=80))
def test_whatever_pilots_do_the_tally_is_what_a_whole_count_says(items: int, steps: list[Any]):
    # Given a watcher for which more than three items of a state are many, and whose whole counts are far between
    table = Table(items)
    tally = Tally(table.ledger, table.clock, few=3)
    tally.counts()
    tally._whole_at = float("inf")
    for (how, number), seconds in steps:
        table.work(how, number)
        table.clock.move(seconds)
        assert tally.counts() == table.ledger.counts()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.lists(st.tuples(st.one_of(PILOTS, USERS), SECONDS), max_size=80))
def test_whatever_users_do_nothing_open_is_never_a_guess_and_the_next_whole_count_is_right(
    items: int, steps: list[Any]
):
    table = Table(items)
    tally = Tally(table.ledger, table.clock, few=3)
    for (how, number), seconds in steps:
        table.work(how, number)
        table.use(how, number)
        table.clock.move(seconds)
        told, true = tally.counts(), table.ledger.counts()
        assert told.open > 0 or true.open == 0
        assert (told.locked, told.waiting) == (true.locked, true.waiting)
    assert tally.whole() == table.ledger.counts()


class Reading:
    """A ledger that counts how many entries counting has read."""

    def __init__(self, done: int, todo: int) -> None:
        self.states = dict.fromkeys(State, 0) | {State.DONE: done, State.TODO: todo, State.LOCKED: 100}
        self.lately = 50
        self.read = 0

    def counts(self) -> Counts:
        self.read += sum(self.states.values())
        return Counts(**{state.value: number for state, number in self.states.items()})

    def count(self, state: State, *, bound: int | None = None, since: float = 0.0) -> int:
        found = self.lately if since else self.states[state]
        self.read += found if bound is None else min(found, bound)
        return found if bound is None else min(found, bound)


def test_polls_of_a_hundred_thousand_items_read_some_hundreds_of_entries_between_whole_counts():
    # Given 100,000 items of which 70,000 are done
    clock, ledger = FakeClock(), Reading(done=70_000, todo=29_900)
    tally = Tally(ledger, clock)  # pyright: ignore[reportArgumentType]
    first = tally.counts()
    assert ledger.read >= 100_000
    # When it is polled each 15 s for an hour, the first whole count aside
    ledger.read = 0
    for _ in range(240):
        clock.move(15)
        assert tally.counts() == first
    # Then the reading stays within what is allowed on average: 500 entries a second, instead of 6,667
    assert ledger.read / 3600 < 600
    # And between whole counts a poll reads a few hundred
    tally.whole()
    ledger.read = 0
    clock.move(15)
    tally.counts()
    assert ledger.read < 500
