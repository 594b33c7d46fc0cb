"""Which items a pilot tries, and which it leaves to others."""

from __future__ import annotations

import random

import pytest

from pyanamo_core.clock import FakeClock
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Definition, Rules, State
from pyanamo_core.pilot.candidates import Candidates, Chosen
from pyanamo_core.pilot.host import keeps_its_machine

RULES = Rules(lease_seconds=100, shards=4)


class Counting(MemoryLedger):
    """A ledger that counts queries of the index."""

    asked = 0

    def candidates(
        self, state: State, shard: int, *, start: str | None = None, limit: int = 10, on_demand: bool = False
    ) -> list[str]:
        self.asked += 1
        return super().candidates(state, shard, start=start, limit=limit, on_demand=on_demand)


def bench(items: int) -> tuple[Counting, FakeClock, Candidates]:
    """A ledger with so many items, its clock, and a pilot's candidates."""
    clock = FakeClock()
    ledger = Counting(rules=RULES, clock=clock, rng=random.Random(1))
    for number in range(items):
        ledger.import_item(f"i{number}", "T", Definition(script="x"))
    return ledger, clock, Candidates(ledger, RULES.shards, clock, random.Random(2), rest_seconds=30)


def ids(page: list[tuple[State, str]]) -> list[str]:
    """Item ids of a page."""
    return [item_id for _, item_id in page]


def test_a_page_has_at_most_ten_items_to_do() -> None:
    ledger, _, candidates = bench(100)

    page = candidates.page()

    assert 0 < len(page) <= 10
    assert {state for state, _ in page} == {State.TODO}
    assert ledger.asked <= 2


def test_an_item_that_was_tried_is_skipped_for_a_while() -> None:
    # Given a single item
    _, clock, candidates = bench(1)
    assert ids(candidates.page()) == ["i0"]

    # When it was tried
    candidates.tried("i0")

    # Then it comes back only later
    assert candidates.page() == []
    clock.move(40)
    assert ids(candidates.page()) == ["i0"]


def test_empty_shards_are_not_asked_again_for_ten_seconds() -> None:
    # Given an empty table that was swept: three states, four shards
    ledger, clock, candidates = bench(0)
    assert candidates.page() == []
    assert ledger.asked == 12

    # When it is asked again within ten seconds, and after them
    clock.move(9)
    candidates.page()
    within = ledger.asked
    clock.move(2)
    candidates.page()

    # Then only the second sweep costs anything
    assert within == 12
    assert ledger.asked == 24


def test_waiting_items_come_when_they_are_due() -> None:
    # Given an item that failed and waits for 60 s
    ledger, clock, candidates = bench(1)
    claim = ledger.claim("i0", "p1")
    assert claim is not None
    ledger.wait(claim, Cause.TASK_ERROR, "no", delay_seconds=60)

    # Then it is a candidate after them, not before
    assert candidates.page() == []
    clock.move(61)
    assert candidates.page() == [(State.WAITING, "i0")]


def test_items_whose_lease_is_over_come_last() -> None:
    # Given an item whose pilot died, and one to do
    ledger, clock, candidates = bench(1)
    assert ledger.claim("i0", "dead") is not None
    ledger.import_item("fresh", "T", Definition(script="x"))
    clock.move(200)

    # Then the one to do comes first, then the dead one's
    assert candidates.page() == [(State.TODO, "fresh")]
    candidates.tried("fresh")
    assert candidates.page() == [(State.LOCKED, "i0")]


def test_two_pilots_seldom_meet() -> None:
    # Given 400 items and two pilots
    ledger, clock, first = bench(400)
    second = Candidates(ledger, RULES.shards, clock, random.Random(3), rest_seconds=30)

    # Then their first pages have nothing in common
    assert not set(ids(first.page())) & set(ids(second.page()))


def test_an_item_whose_pilot_died_does_not_wait_until_all_others_are_done() -> None:
    # Given a long queue, one item whose pilot died and one that was tried in vain, both long overdue
    ledger, clock, candidates = bench(400)
    dead, vain = (ledger.claim(item_id, "p") for item_id in ("i7", "i8"))
    assert dead
    assert vain
    ledger.wait(vain, Cause.TASK_ERROR, "exit code 1", delay_seconds=1)
    clock.move(RULES.lease_seconds + RULES.margin_seconds + 1)
    # When a pilot asks for a page each half minute, then both turn up among the first, though there is plenty to do
    seen: set[tuple[State, str]] = set()
    for _ in range(60):
        clock.move(31)
        seen |= set(candidates.page())
    assert {(State.LOCKED, "i7"), (State.WAITING, "i8")} <= seen
    assert ledger.count(State.TODO) == 398
    # And a pilot that asks all the time looks for them three times a minute, with two queries
    before = ledger.asked
    for _ in range(600):
        clock.move(0.1)
        candidates.page()
    assert ledger.asked - before <= 600 + 3 * 2


def chosen(*item_ids: str) -> tuple[Counting, FakeClock, Chosen]:
    """A ledger with ten items, its clock, and a canary's pilot with these."""
    ledger, clock, _ = bench(10)
    return ledger, clock, Chosen(ledger, item_ids, clock, random.Random(2), rest_seconds=30)


def test_a_canarys_pilot_claims_its_items_and_asks_the_queue_for_none() -> None:
    ledger, _, candidates = chosen("i3", "i7")
    assert sorted(ids(candidates.page())) == ["i3", "i7"]
    assert ledger.asked == 0
    # When one is done and the other is another's
    done = ledger.claim("i3", "p")
    assert done is not None
    ledger.finish(done, nests_done=1)
    assert ledger.claim("i7", "q") is not None
    # Then there is nothing to claim, and one is still open
    assert candidates.page() == []
    assert candidates.open() == 1


def test_a_canarys_item_is_free_again_when_its_delay_or_its_lease_is_over() -> None:
    ledger, clock, candidates = chosen("i3", "i7")
    tried = ledger.claim("i3", "p")
    assert tried is not None
    ledger.wait(tried, Cause.TASK_ERROR, "no", delay_seconds=50)
    assert ledger.claim("i7", "q") is not None
    assert candidates.page() == []
    # When the delay is over, then the lease
    clock.move(51)
    assert candidates.page() == [(State.WAITING, "i3")]
    candidates.tried("i3")
    clock.move(5)
    assert candidates.page() == []
    clock.move(60)
    assert sorted(candidates.page()) == [(State.LOCKED, "i7"), (State.WAITING, "i3")]


def test_a_pilot_that_keeps_its_machine_takes_what_is_for_such_pilots_first_and_then_all_else() -> None:
    # Given three items of which one is for on-demand pilots only
    ledger, clock, spot = bench(3)
    ledger.retry(ledger.cancel(ledger.item("i1")), on_demand=True)
    calm = Candidates(ledger, RULES.shards, clock, random.Random(2), rest_seconds=30, on_demand=True)

    # Then a Spot pilot never sees it
    seen: list[str] = []
    while page := ids(spot.page()):
        seen += page
        for item_id in page:
            spot.tried(item_id)
    assert sorted(seen) == ["i0", "i2"]
    assert not spot.for_on_demand("i0")

    # And an on-demand pilot sees it first
    assert ids(calm.page()) == ["i1"]
    assert calm.for_on_demand("i1")
    calm.tried("i1")
    assert ids(calm.page())[0] in ("i0", "i2")
    assert not calm.for_on_demand("i0")


@pytest.mark.parametrize(
    ("batch_job", "queue", "lifecycle", "keeps"),
    [
        ("", "", "", True),  # a person's own machine
        ("job", "X_Queue", "spot", False),
        ("job", "X_Queue", "", False),  # nobody says what it is
        ("job", "X_Queue", "on-demand", True),  # the workflow's queue is on demand as a whole
        ("job", "X_OnDemandQueue", "", True),
        ("job", "arn:aws:batch:us-east-1:1:job-queue/X_OnDemandQueue", "on-demand", True),
        ("job", "X_OnDemandQueue", "spot", True),  # the workflow's word for its queue goes before the instance's
    ],
)
def test_who_keeps_its_machine(batch_job: str, queue: str, lifecycle: str, keeps: bool) -> None:
    told = keeps_its_machine(batch_job=batch_job, queue=queue, on_demand_queue="X_OnDemandQueue", lifecycle=lifecycle)
    assert told is keeps
    assert not keeps_its_machine(batch_job="job", queue="", on_demand_queue="", lifecycle="")


def test_a_spot_pilot_does_not_stay_for_items_that_only_on_demand_pilots_may_take() -> None:
    # Given nothing open but an item for on-demand pilots only
    ledger, clock, spot = bench(1)
    ledger.retry(ledger.cancel(ledger.item("i0")), on_demand=True)
    calm = Candidates(ledger, RULES.shards, clock, random.Random(2), rest_seconds=30, on_demand=True)
    # Then for a Spot pilot nothing is open, for an on-demand one it is
    assert (spot.open(), calm.open()) == (0, 1)
    # And the same while it waits for its next try
    claim = ledger.claim("i0", "p", on_demand=True)
    assert claim is not None
    ledger.wait(claim, Cause.TASK_ERROR, "", delay_seconds=3000)
    assert (spot.open(), calm.open()) == (0, 1)
