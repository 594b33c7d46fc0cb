"""Leases: who holds what until when."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from pyanamo_core.clock import FakeClock, SystemClock
from pyanamo_core.errors import OutcomeUnknown
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Claim, Definition, Rules
from pyanamo_core.pilot.lease import Leases

RULES = Rules(lease_seconds=600)


class Told:
    """What the leases told the pilot."""

    def __init__(self) -> None:
        self.lost: list[tuple[str, int, str]] = []
        self.cancelled: list[str] = []
        self.beats = 0

    def beat(self) -> None:
        self.beats += 1


class Bench:
    """A ledger in memory with one item, held by a pilot."""

    def __init__(self, ledger: Any = None) -> None:
        self.clock = FakeClock()
        self.ledger = MemoryLedger(rules=RULES, clock=self.clock)
        self.ledger.import_item("a", "T", Definition(script="x", arguments=("1", "2")))
        claim = self.ledger.claim("a", "p1")
        assert claim is not None
        self.claim: Claim = claim
        self.told = Told()
        self.leases = Leases(
            ledger(self.ledger) if ledger else self.ledger,
            self.clock,
            random.Random(1),
            beat_seconds=200,
            lease_seconds=600,
            on_lost=lambda *told: self.told.lost.append(told),
            on_cancelled=self.told.cancelled.append,
            on_beat=self.told.beat,
        )
        self.leases.add(claim)


def test_a_beat_moves_the_deadline() -> None:
    # Given an item held for 200 s
    bench = Bench()
    bench.clock.move(200)

    # When the pilot beats
    assert bench.leases.beat()

    # Then the lease counts from now
    claim = bench.leases.claim("a")
    assert claim is not None
    assert claim.deadline == pytest.approx(bench.claim.deadline + 200)


def test_an_item_that_another_has_taken_is_lost_at_the_next_beat() -> None:
    # Given a pilot that slept past its lease, and another that reclaimed the item
    bench = Bench()
    bench.clock.move(700)
    assert bench.ledger.claim("a", "p2") is not None

    # When the first one beats
    bench.leases.beat()

    # Then it knows, once
    assert [(item, fence) for item, fence, _ in bench.told.lost] == [("a", bench.claim.fence)]
    assert bench.leases.claim("a") is None


def test_the_own_deadline_counts_although_nobody_has_taken_the_item() -> None:
    # Given a lease that could not be renewed
    bench = Bench()
    bench.clock.move(592)
    bench.leases.check_deadlines()
    assert bench.told.lost == []

    # When its end is so near that what runs has just the time to be ended
    bench.clock.move(1.5)
    assert 592 + 1.5 + bench.leases.term_seconds < 600
    bench.leases.check_deadlines()

    # Then the item is given up before another may take it
    assert [item for item, _, _ in bench.told.lost] == ["a"]
    assert bench.ledger.claim("a", "p2") is None


class Silent:
    """A ledger whose beats get no answer."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.beats = 0

    def beat(self, claim: Claim, **_: Any) -> None:
        self.beats += 1
        raise OutcomeUnknown(move="beat", what=claim.item_id)


def test_a_beat_without_an_answer_loses_nothing_before_the_deadline() -> None:
    # Given a network that swallows beats
    bench = Bench(Silent)
    bench.clock.move(200)

    # When the pilot beats
    answered = bench.leases.beat()

    # Then it is told to try again sooner, and the item is still its own
    assert not answered
    assert bench.told.lost == []
    claim = bench.leases.claim("a")
    assert claim is not None
    assert claim.deadline == bench.claim.deadline


def test_a_beat_brings_back_that_a_user_has_cancelled() -> None:
    bench = Bench()
    bench.ledger.cancel(bench.ledger.item("a"))

    bench.leases.beat()

    assert bench.told.cancelled == ["a"]


def test_a_beat_tells_the_progress() -> None:
    # Given a pilot that has recorded a nest
    bench = Bench()
    bench.leases.progress("a", progressed=True, nests_done=1, nests_failed=0)

    # When it beats
    bench.clock.move(200)
    bench.leases.beat()

    # Then the row shows it
    item = bench.ledger.item("a")
    assert (item.nests_done, item.progress_fence) == (1, bench.claim.fence)


def test_an_item_that_was_dropped_is_not_renewed() -> None:
    bench = Bench()
    before = bench.ledger.item("a").lease_end
    bench.leases.drop("a")
    bench.clock.move(200)

    bench.leases.beat()

    assert bench.ledger.item("a").lease_end == before
    assert bench.leases.holding == ()


class Hanging:
    """A ledger whose beats hang until they are let go."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.hangs, self.go = threading.Event(), threading.Event()

    def beat(self, claim: Claim, **_: Any) -> None:
        self.hangs.set()
        self.go.wait(60)
        raise OutcomeUnknown(move="beat", what=claim.item_id)


def test_a_beat_that_hangs_does_not_keep_an_item_past_its_deadline() -> None:
    # Given an item whose lease ends soon, by the real clock, and a beat that gets no answer
    lost = threading.Event()
    ledger = MemoryLedger(rules=Rules(lease_seconds=1))
    ledger.import_item("a", "T", Definition(script="x"))
    claim = ledger.claim("a", "p1")
    assert claim is not None
    hanging = Hanging(ledger)
    leases = Leases(
        hanging,  # pyright: ignore[reportArgumentType]
        SystemClock(),
        random.Random(1),
        beat_seconds=0.05,
        lease_seconds=1,
        on_lost=lambda *_: lost.set(),
        on_cancelled=lambda _: None,
        on_beat=lambda: None,
    )
    leases.add(claim)

    # When the beat hangs past the lease's end
    leases.start()
    assert hanging.hangs.wait(30)

    # Then the item is given up all the same, while the beat still hangs
    assert lost.wait(30)
    assert leases.holding == ()
    leases.stop()
    hanging.go.set()


class Choosy:
    """A ledger that answers beats of all items but one."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger
        self.order: list[str] = []

    def beat(self, claim: Claim, **told: Any) -> Any:
        self.order.append(claim.item_id)
        if claim.item_id == "a":
            raise OutcomeUnknown(move="beat", what=claim.item_id)
        return self.ledger.beat(claim, **told)


def test_an_item_whose_beats_get_no_answer_does_not_keep_the_others_from_theirs() -> None:
    # Given two items, the first of which gets no answer
    bench = Bench(Choosy)
    bench.ledger.import_item("b", "T", Definition(script="x"))
    second = bench.ledger.claim("b", "p1")
    assert second is not None
    bench.clock.move(1)
    bench.leases.add(second)

    # When the pilot beats twice
    bench.clock.move(100)
    assert not bench.leases.beat()
    bench.clock.move(20)
    assert not bench.leases.beat()

    # Then the second round begins with the other one, and renews it
    claim = bench.leases.claim("b")
    assert claim is not None
    assert claim.deadline > second.deadline
