"""What interruptions cost: attempts cut short, and the time of claims in which nothing was recorded."""

from __future__ import annotations

import pytest

from pyanamo_core.clock import FakeClock
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Attempt, Cause, Claim, Definition, Nest, NestStatus, Run
from pyanamo_core.report.losses import losses, lost_seconds


def nest(begin: float, end: float, *, index: int = 0, fence: int = 1, status: NestStatus = NestStatus.DONE) -> Nest:
    return Nest(item_id="i", epoch=0, index=index, status=status, fence=fence, started=begin, ended=end)


@pytest.mark.parametrize(
    ("nests", "lost"),
    [
        ([], 100.0),
        ([nest(100, 160)], 40.0),
        ([nest(100, 160), nest(160, 190, index=1)], 10.0),
        ([nest(100, 160), nest(120, 150, index=1)], 40.0),  # side by side: item time counts once
        ([nest(110, 130), nest(150, 170, index=1)], 60.0),
        ([nest(100, 160, fence=2)], 100.0),  # of another attempt
        ([nest(100, 160, status=NestStatus.FAILED)], 100.0),
        ([nest(50, 300)], 0.0),
    ],
)
def test_lost_is_what_no_recorded_nest_of_the_attempt_covers(nests: list[Nest], lost: float):
    attempt = Attempt(item_id="i", fence=1, started=100.0, ended=200.0, cause=Cause.SPOT)
    assert lost_seconds(attempt, nests) == pytest.approx(lost)


def test_an_attempt_whose_end_nobody_knows_has_lost_nothing_yet():
    assert lost_seconds(Attempt(item_id="i", fence=1, started=100.0), []) == 0.0


def test_losses_are_told_by_cause_and_failures_are_none():
    # Given a run with an item that was reclaimed by Spot after one of its two nests, one that failed, one that was drained
    clock = FakeClock()
    ledger = MemoryLedger(clock=clock)
    ledger.begin_run(Run(run_id="r", workflow_version=1, token="t"))
    for name in ("spot", "failed", "drained", "done"):
        ledger.import_item(name, "t", Definition(script="s", arguments=("1", "2")))

    def claimed(name: str) -> Claim:
        claim = ledger.claim(name, "p", run_id="r")
        assert claim is not None
        queue = "arn:aws:batch:us-east-1:1:job-queue/calm" if name == "drained" else "queue"
        told = {"item_id": name, "fence": claim.fence, "run_id": "r", "job_queue": queue}
        ledger.put_attempt(Attempt(**told, started=clock.now()))
        return claim

    def ended(claim: Claim, cause: Cause) -> None:
        told = {"item_id": claim.item_id, "fence": claim.fence, "run_id": "r"}
        ledger.put_attempt(Attempt(**told, ended=clock.now(), cause=cause))

    claim = claimed("spot")
    begun = clock.now()
    clock.move(60)
    ledger.record_nest(claim, nest(begun, clock.now()).model_copy(update={"item_id": "spot"}))
    clock.move(30)
    ledger.hand_back(claim, Cause.SPOT, progressed=True, started=True)
    ended(claim, Cause.SPOT)
    claim = claimed("failed")
    clock.move(50)
    ledger.fail(claim, Cause.PERMANENT, "exit code 64")
    ended(claim, Cause.PERMANENT)
    claim = claimed("drained")
    clock.move(10)
    ledger.hand_back(claim, Cause.DRAINED, progressed=False, started=True)
    ended(claim, Cause.DRAINED)
    ended(again := claimed("drained"), Cause.DONE)
    ledger.finish(again, nests_done=2)
    # When the run is asked what interruptions cost
    told = losses(ledger, "r")
    # Then Spot cost what came after the recorded nest, the drain all of it, and the failure is no interruption
    assert [(one.cause, one.attempts, one.items, one.lost_seconds) for one in told.causes] == [
        ("spot", 1, 1, 30.0),
        ("drained", 1, 1, 10.0),
    ]
    assert (told.attempts, told.items, told.lost_seconds) == (2, 2, 40.0)
    assert told.by_item == {"spot": 30.0, "drained": 10.0}
    assert [(one.queue, one.attempts, one.lost_seconds) for one in told.queues] == [
        ("queue", 1, 30.0),
        ("calm", 1, 10.0),
    ]
    # And another run nothing
    assert losses(ledger, "other").attempts == 0
