"""The desk: what a batch of claims brings, also when the ledger fails in the middle of it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pyanamo_core.clock import FakeClock
from pyanamo_core.errors import AwsFailed, OutcomeUnknown
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Claim, Definition, Nest, NestCall, NestResult, Recorded, Rules, State
from pyanamo_core.pilot.candidates import Candidates
from pyanamo_core.pilot.desk import Desk, Facts
from pyanamo_core.pilot.lease import Leases

RULES = Rules(lease_seconds=600, shards=1)


class OnePageEach(MemoryLedger):
    """A ledger whose pages have one item, and whose next but so many pages are throttled."""

    pages_left = 1

    def candidates(self, state: State, shard: int, *, start: str | None = None, limit: int = 10) -> list[str]:
        if not self.pages_left:
            raise AwsFailed(service="dynamodb", operation="Query", code="Throttling", message="too much", request_id="")
        self.pages_left -= 1
        return super().candidates(state, shard, start=start, limit=1)


class Unheard(MemoryLedger):
    """A ledger whose first answer about a nest is never heard."""

    heard = False

    def record_nest(self, claim: Claim, nest: Nest) -> Recorded:
        recorded = super().record_nest(claim, nest)
        if not self.heard:
            self.heard = True
            raise OutcomeUnknown(move="record", what="nest 0", reason="no answer")
        return recorded


class NoLogs:
    """A shipper for nests that say nothing."""

    keeps_tail = False

    def plan(self, *told: Any, **more: Any) -> None:
        return None


def desk_of(ledger: MemoryLedger, clock: FakeClock) -> tuple[Desk, Leases]:
    nothing: Any = NoLogs()
    leases = Leases(
        ledger,
        clock,
        random.Random(1),
        beat_seconds=200,
        lease_seconds=600,
        on_lost=lambda *told: None,
        on_cancelled=lambda item_id: None,
        on_beat=lambda: None,
    )
    candidates = Candidates(ledger, 1, clock, random.Random(2), rest_seconds=0.1)
    return Desk(ledger, clock, candidates, leases, nothing, Facts("p", "", ""), None), leases


def test_what_was_claimed_is_not_forgotten_when_the_next_page_of_candidates_fails() -> None:
    # Given two items to do, and an index that answers once and is throttled then
    clock = FakeClock()
    ledger = OnePageEach(rules=RULES, clock=clock)
    for item_id in ("a", "b"):
        ledger.import_item(item_id, "T", Definition(script="x"))
    desk, leases = desk_of(ledger, clock)
    # When a pilot asks for two
    batch = desk.claim(2).result(timeout=10)
    # Then it hears of the one that it got: its lease is renewed from now on, so nobody else could ever do it
    assert [each.claim.item_id for each in batch.claimed] == list(leases.holding)
    assert len(batch.claimed) == 1
    desk.close()


def test_a_failure_before_anything_was_claimed_is_told() -> None:
    clock = FakeClock()
    ledger = OnePageEach(rules=RULES, clock=clock)
    ledger.pages_left = 0
    desk, leases = desk_of(ledger, clock)
    with pytest.raises(AwsFailed):
        desk.claim(2).result(timeout=10)
    assert leases.holding == ()
    desk.close()


def test_a_result_that_was_recorded_unheard_is_our_own_when_it_is_recorded_again() -> None:
    # Given a nest of a held item, and a ledger that takes its result but is not heard
    clock = FakeClock()
    ledger = Unheard(rules=RULES, clock=clock)
    ledger.import_item("a", "T", Definition(script="x"))
    desk, _ = desk_of(ledger, clock)
    (claimed,) = desk.claim(1).result(timeout=10).claimed
    call = NestCall(item_id="a", task_id="T", index=0, value="", fence=claimed.claim.fence, epoch=0, script="x")
    # When the desk records it, and so tries twice
    entry = desk.record(call, NestResult(cause=Cause.DONE), 0, 0, "s3://results/").result(timeout=10)
    # Then it counts as this claim's progress, not as somebody else's result
    assert (ledger.heard, entry.recorded) == (True, Recorded.WON)
    desk.close()
