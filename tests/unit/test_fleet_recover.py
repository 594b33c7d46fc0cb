"""Taking back what gone pilots held, and Batch's causes in the attempt rows."""

from __future__ import annotations

import pytest
from fleet_support import Scene

from pyanamo_core import driver
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.jobs import Attempt as BatchAttempt
from pyanamo_core.fleet.jobs import Job
from pyanamo_core.fleet.recover import attempt_end, cause_of, find_gone, shortened
from pyanamo_core.model import Attempt, Cause, State

OOM = "OutOfMemoryError: Container killed due to memory usage"
HOST = "Host EC2 (instance i-0123) terminated."


def ended(reason: str = "", status_reason: str = "", code: int | None = None, at: float = 5.0) -> BatchAttempt:
    return BatchAttempt(1.0, at, code, reason, status_reason, "host", "stream")


@pytest.mark.parametrize(
    ("attempt", "lifecycle", "cause"),
    [
        (ended(OOM, code=137), "", Cause.OUT_OF_MEMORY),
        (ended("", HOST), "spot", Cause.SPOT),
        (ended("", HOST), "", Cause.SPOT),
        (ended("", HOST), "on-demand", Cause.HOST_FAULT),
        (ended("", "Job attempt duration exceeded timeout"), "", Cause.WALL_TIME),
        (ended("", "Essential container in task exited", code=1), "", None),
        (ended(code=137), "", None),
    ],
)
def test_batchs_words_become_causes(attempt, lifecycle, cause):
    assert cause_of(attempt, lifecycle) is cause


def test_an_attempt_has_ended_if_batch_lists_it_or_the_whole_job_has_ended():
    first, second = ended(at=5.0), ended(at=9.0)
    running = Job("j:0", "n", "RUNNING", attempts=(first,))
    over = Job("j:0", "n", "FAILED", stopped=20.0, attempts=(first, second), status_reason="gone")
    assert attempt_end(running, 1) == first
    assert attempt_end(running, 2) is None
    assert attempt_end(over, 2) == second
    assert attempt_end(over, 3).ended == 20.0  # type: ignore[union-attr]


def test_evidence_has_at_most_120_bytes_and_stays_text():
    assert len(shortened("ü" * 100).encode()) <= 120
    assert shortened("short") == "short"


def crashed(scene: Scene, *, attempt: int = 1) -> None:
    """A pilot that claimed i0, wrote its rows, and was killed by the kernel."""
    claim = scene.claim("i0", "p")
    scene.pilot("p", batch_job="job-0:0", batch_attempt=attempt, claims=1, holding=("i0",))
    scene.ledger.put_attempt(
        Attempt(
            item_id="i0",
            fence=claim.fence,
            pilot_id="p",
            batch_job="job-0:0",
            batch_attempt=attempt,
            started=scene.clock.now(),
        )
    )


def test_the_watcher_takes_back_what_a_dead_pilot_held_and_tells_why_it_died():
    # Given a pilot that Batch has seen running out of memory
    scene = Scene(items=4, pilots=2, items_per_pilot=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    crashed(scene)
    scene.batch.job().fail(0, exit_code=137, reason=OOM, at=scene.clock.now())
    # When a tenth of the lease has not passed, then the item is still locked
    scene.polls(watch, 2)
    assert scene.ledger.item("i0").state is State.LOCKED
    # When it has (18 s; the lease would have lasted for three minutes), then the item is to do again
    scene.polls(watch, 2)
    item = scene.ledger.item("i0")
    assert item.state is State.TODO
    # And has more memory the next time, the try being counted
    assert (item.cause, item.memory_factor, item.tries, item.interruptions) == (Cause.OUT_OF_MEMORY, 1.5, 1, 0)
    # And its attempt says what only Batch knew
    (attempt,) = scene.ledger.attempts("i0")
    assert attempt.cause is Cause.OUT_OF_MEMORY
    assert attempt.evidence.startswith("OutOfMemoryError")


def test_an_item_whose_container_ran_out_of_memory_fails_where_a_pilot_has_no_more_to_give():
    # Given pilots that give one item all that they have
    scene = Scene(items=2, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    crashed(scene)
    scene.batch.job().fail(0, exit_code=137, reason=OOM, at=scene.clock.now())
    # When the watcher takes its item back
    scene.polls(watch, 4)
    # Then it has failed, and says what it needs
    item = scene.ledger.item("i0")
    assert (item.state, item.cause) == (State.FAILED, Cause.OUT_OF_MEMORY)
    assert item.message == "needs ≥ 3072 MB: its container ran out of memory"


def test_an_item_that_somebody_else_claimed_by_now_is_left_alone():
    scene = Scene(items=1, pilots=1)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    crashed(scene)
    scene.clock.move(400)  # the lease is over
    scene.claim("i0", "q")
    scene.batch.job().fail(0, exit_code=137, at=scene.clock.now() - 300)
    scene.polls(watch, 3)
    assert scene.ledger.item("i0").owner == "q"


def test_recover_asks_only_about_pilots_that_hold_something_and_takes_their_items():
    # Given a pilot that is gone, one that runs, and a run that nobody watches
    scene = Scene(items=3, pilots=2)
    scene.batch.submit_job(jobName="x", jobQueue="queue", jobDefinition="d", arrayProperties={"size": 2})
    scene.batch.job().set("RUNNING")
    crashed(scene)
    scene.claim("i1", "q")
    scene.pilot("q", batch_job="job-0:1", batch_attempt=1, claims=1)
    scene.batch.job().fail(0, exit_code=None, status_reason=HOST, at=scene.clock.now())
    scene.clock.move(61)
    # When the user recovers
    report = driver.recover(scene.clients, scene.ledger, clock=scene.clock)
    # Then the one item is back, and the run is named
    assert (report.locked, report.gone, report.items) == (2, ("p",), ("i0",))
    assert report.unwatched == ("run",)
    assert scene.ledger.item("i0").state is State.TODO
    assert scene.ledger.item("i1").owner == "q"
    assert scene.ledger.attempts("i0")[0].cause is Cause.SPOT


def test_recover_knows_a_pilot_without_a_row_by_its_attempt():
    scene = Scene(items=1)
    scene.batch.submit_job(jobName="x", jobQueue="queue", jobDefinition="d")
    crashed(scene)
    scene.ledger._pilots.clear()
    scene.batch.job().fail(0, exit_code=1, at=scene.clock.now())
    scene.ledger.put_attempt(Attempt(item_id="i0", fence=1, pilot_id="p", batch_job="job-0", batch_attempt=1))
    scene.clock.move(61)
    assert driver.recover(scene.clients, scene.ledger, clock=scene.clock).items == ("i0",)


def test_recover_leaves_alone_what_ended_too_short_a_time_ago_and_says_so():
    scene = Scene(items=1)
    scene.batch.submit_job(jobName="x", jobQueue="queue", jobDefinition="d", arrayProperties={"size": 2})
    crashed(scene)
    scene.batch.job().fail(0, exit_code=1, at=scene.clock.now())
    scene.clock.move(15)
    report = driver.recover(scene.clients, scene.ledger, clock=scene.clock)
    assert report.items == ()
    assert "ended only 15 s ago" in report.refused["i0"]


def test_a_job_that_batch_does_not_know_says_nothing():
    scene = Scene(items=1)
    crashed(scene)
    record = scene.ledger.pilot("p")
    assert record is not None
    assert find_gone(Batch(scene.clients), [record]) == {}


def test_many_silent_pilots_are_asked_about_a_hundred_at_a_time():
    scene = Scene()
    records = [scene.pilot(f"p{n}", batch_job=f"job-0:{n}", batch_attempt=1) for n in range(250)]
    scene.batch.submit_job(jobName="x", jobQueue="queue", jobDefinition="d", arrayProperties={"size": 250})
    for n in range(250):
        scene.batch.job().fail(n)
    assert len(find_gone(Batch(scene.clients), records)) == 250
    assert scene.batch.calls["DescribeJobs"] == 3
