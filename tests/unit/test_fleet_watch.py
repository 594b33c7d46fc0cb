"""The watcher: what it does on which sight, and how runs end. No time passes but the clock's."""

from __future__ import annotations

import contextlib
import itertools
import threading
from itertools import pairwise
from typing import Any

import pytest
from fleet_fake_batch import refused
from fleet_support import Scene

from pyanamo_core.errors import AwsFailed, SubmitRefused
from pyanamo_core.fleet import plan
from pyanamo_core.model import Cause, Definition, Mode


def sizes(scene: Scene) -> list[int]:
    return [len(job.children) for job in scene.batch.jobs]


# ---------------------------------------------------------------------------------------------------- fan out, top up


def test_a_fan_out_submits_what_the_work_asks_for_and_a_second_one_nothing():
    # Given three items and room for four pilots
    scene = Scene(items=3, pilots=4)
    # When the run is fanned out, twice
    scene.watch("w1").fan_out()
    scene.watch("w2").fan_out()
    # Then there is one array of three, and the watch is free for the next
    assert sizes(scene) == [3]
    assert scene.run.watcher == ""


def test_a_fan_out_without_anything_to_do_submits_nothing():
    scene = Scene(items=0)
    assert scene.watch().fan_out().submissions == ()


def test_a_fan_out_waits_for_the_outcome_of_its_submission():
    scene = Scene(items=3)
    scene.batch.submit_faults = [("late", 25.0)]
    run = scene.watch().fan_out()
    assert [s.job_id for s in run.submissions] == ["job-0"]
    assert scene.batch.calls["SubmitJob"] == 1


def test_a_fan_out_that_batch_refuses_says_so():
    scene = Scene(items=3)
    scene.batch.submit_faults = [refused("SubmitJob", "ClientException", "JobQueue queue is DISABLED")]
    with pytest.raises(SubmitRefused, match="DISABLED"):
        scene.watch().fan_out()
    assert scene.run.watcher == ""


@pytest.mark.parametrize("mode", [Mode.CANCEL, Mode.DRAIN])
def test_a_fan_out_of_a_run_that_was_stopped_before_submits_nothing(mode):
    scene = Scene(items=3)
    scene.ledger.set_mode(scene.run_id, mode)
    assert scene.watch().fan_out().submissions == ()


def test_a_watcher_tops_up_when_pilots_have_died_and_items_are_left():
    # Given four pilots of which two finish early
    scene = Scene(items=9, pilots=4)
    watch = scene.watch()
    scene.polls(watch)
    assert sizes(scene) == [4]
    scene.batch.job().set("RUNNING")
    for n in range(4):
        scene.pilot(f"p{n}", batch_job=f"job-0:{n}", batch_attempt=1, claims=1)
    scene.batch.job().set("SUCCEEDED", 0, 1)
    for n in range(2):
        scene.pilot(f"p{n}", ended=scene.clock.now(), exit_code=0, leaving="wall_time")
    # When the watcher polls again
    scene.polls(watch)
    # Then it adds two, not more: the others may claim as well
    assert sizes(scene) == [4, 2]


def test_pilots_that_are_leaving_are_not_counted_on():
    scene = Scene(items=2, pilots=4)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    for n in range(2):
        scene.pilot(f"p{n}", batch_job=f"job-0:{n}", batch_attempt=1, claims=1, leaving="wall_time")
    scene.polls(watch, 2, seconds=30)
    assert sizes(scene) == [2, 2]


def test_a_watcher_counts_parents_only_and_a_bounded_number_of_calls_however_many_pilots():
    # Given a thousand pilots at work
    scene = Scene(items=1200, pilots=1000)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    scene.batch.calls.clear()
    # When it polls 20 times
    scene.polls(watch, 20)
    # Then each poll was one call to Batch
    assert scene.batch.calls == {"DescribeJobs": 20}


def test_with_nothing_left_to_claim_waiting_pilots_are_cancelled_and_running_ones_spared():
    # Given two items, claimed by the two pilots that have started; two more wait for a machine
    scene = Scene(items=4, pilots=4)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING", 0, 1)
    scene.finish("i2", "x")
    scene.finish("i3", "x")
    scene.claim("i0", "p0")
    scene.claim("i1", "p1")
    # When two polls in a row find nothing to claim
    scene.polls(watch, 1)
    assert scene.batch.ended == []
    scene.polls(watch, 1)
    # Then only those that wait are gone
    assert scene.batch.ended == [("cancel", "job-0")]
    assert [child["status"] for child in scene.batch.job().children] == ["RUNNING", "RUNNING", "FAILED", "FAILED"]
    # And their end is not taken for a fault
    scene.polls(watch, 3)
    assert scene.run.mode is Mode.RUN


def test_items_that_wait_for_their_next_try_get_a_pilot_only_when_they_are_due_soon():
    scene = Scene(items=1)
    claim = scene.claim("i0", "p")
    scene.ledger.wait(claim, Cause.TASK_ERROR, "oops", delay_seconds=1000)
    watch = scene.watch()
    scene.polls(watch, 3)
    assert scene.batch.jobs == []
    scene.clock.move(1000 - plan.DUE_SOON_SECONDS)
    scene.polls(watch)
    assert sizes(scene) == [1]


# ---------------------------------------------------------------------------------------------------- the end


def test_a_run_ends_completed_when_nothing_is_left_and_its_pilots_have_gone():
    scene = Scene(items=2, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    scene.finish_all()
    assert scene.polls(watch, 2) is None  # pilots are still leaving
    scene.batch.job().set("SUCCEEDED")
    outcome = scene.polls(watch, 1)
    assert (outcome.outcome, outcome.counts.done) == ("completed", 2)
    assert (scene.run.outcome, scene.run.ended) == ("completed", scene.clock.now())
    assert scene.batch.ended == []


def test_pilots_that_do_not_leave_are_terminated_after_twenty_seconds():
    scene = Scene(items=2, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    scene.finish_all()
    scene.polls(watch, 3)
    assert scene.batch.ended == []
    scene.polls(watch, 1)
    assert scene.batch.ended == [("terminate", "job-0")]
    assert scene.polls(watch, 1).outcome == "completed"


def test_one_empty_count_does_not_end_a_run_for_an_index_may_miss_an_item_that_moves():
    scene = Scene(items=1, pilots=1)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("SUCCEEDED")
    counts = scene.ledger.counts
    scene.ledger.counts = lambda: counts().model_copy(update={"todo": 0})  # type: ignore[method-assign]
    assert scene.polls(watch, 1) is None
    scene.ledger.counts = counts  # type: ignore[method-assign]
    assert scene.polls(watch, 1) is None
    assert scene.run.ended is None


def test_a_run_with_failed_items_ends_failed():
    scene = Scene(items=2, pilots=1)
    watch = scene.watch()
    scene.polls(watch)
    scene.finish("i0")
    scene.ledger.fail(scene.claim("i1", "p"), Cause.PERMANENT, "no such sample")
    scene.batch.job().set("SUCCEEDED")
    outcome = scene.polls(watch, 3)
    assert outcome.outcome == "failed"
    assert "1 of 2 items failed" in outcome.reason


def test_a_run_without_items_completes():
    scene = Scene(items=0)
    assert scene.polls(scene.watch(), 2).outcome == "completed"
    assert scene.batch.jobs == []


def test_a_cancelled_run_ends_cancelled_and_its_jobs_with_it():
    scene = Scene(items=4, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    scene.ledger.set_mode(scene.run_id, Mode.CANCEL, "enough")
    outcome = scene.polls(watch, 2)
    assert (outcome.outcome, outcome.reason) == ("cancelled", "enough")
    assert scene.batch.live_jobs() == []
    assert scene.ledger.counts().todo == 4  # items are left as they are


def test_a_drained_run_ends_when_its_pilots_have_left_and_starts_none():
    scene = Scene(items=6, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING", 0)
    scene.ledger.set_mode(scene.run_id, Mode.DRAIN, "lunch")
    assert scene.polls(watch, 5) is None
    assert scene.batch.ended == [("cancel", "job-0")]  # the one that had not started; the other one works on
    scene.batch.job().set("SUCCEEDED", 0)
    outcome = scene.polls(watch, 1)
    assert (outcome.outcome, outcome.reason, sizes(scene)) == ("drained", "lunch", [2])


def test_a_stubborn_job_does_not_keep_a_cancelled_run_for_ever():
    scene = Scene(items=1, pilots=1)
    watch = scene.watch()
    scene.polls(watch)
    asked: list[str] = []
    scene.batch.terminate_job = lambda **told: asked.append(told["jobId"]) or {}  # type: ignore[method-assign]
    scene.ledger.set_mode(scene.run_id, Mode.CANCEL)
    assert scene.polls(watch, 30).outcome == "cancelled"
    assert asked == ["job-0", "job-0"]  # once a minute, for 90 s


# ---------------------------------------------------------------------------------------------------- missing jobs


def test_a_job_that_batch_forgets_is_missing_after_a_minute_and_its_items_get_new_pilots():
    # Given a running array that vanishes from Batch, its pilots with it
    scene = Scene(items=4, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    scene.batch.job().forgotten = True
    # When a minute has passed, then there is a new array; not before
    scene.polls(watch, 6)
    assert sizes(scene) == [2]
    scene.polls(watch, 2)
    assert sizes(scene) == [2, 2]


def test_a_forgotten_job_whose_pilots_still_beat_is_not_replaced():
    scene = Scene(items=4, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().forgotten = True
    for _ in range(30):
        for n in range(2):
            scene.pilot(f"p{n}", batch_job=f"job-0:{n}", batch_attempt=1, claims=1)
        scene.polls(watch)
    assert sizes(scene) == [2]


def test_a_job_that_shows_up_again_is_taken_up_again():
    scene = Scene(items=4, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().visible = scene.clock.now() + 55  # DescribeJobs is not consistent right after SubmitJob
    scene.polls(watch, 10)
    assert sizes(scene) == [2]


# ---------------------------------------------------------------------------------------------------- stopping


def test_a_run_stops_with_the_reason_when_pilots_on_three_hosts_end_without_a_claim():
    # Given an image that no host can pull
    scene = Scene(items=9, pilots=3)
    watch = scene.watch()
    scene.polls(watch)
    for n in range(3):
        scene.batch.job().fail(n, exit_code=None, host=f"host-{n}", reason="CannotPullContainerError: denied")
    # When the watcher sees it
    outcome = scene.polls(watch, 3)
    # Then it starts no more of them, and says why
    assert outcome.outcome == "stopped"
    assert "CannotPullContainerError: denied" in outcome.reason
    assert sizes(scene) == [3]


def test_one_bad_host_does_not_stop_a_run():
    scene = Scene(items=9, pilots=4)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    for n in range(3):
        scene.batch.job().fail(n, host="bad-host")
    scene.polls(watch, 5)
    assert scene.run.mode is Mode.RUN
    assert sizes(scene)[0:2] == [4, 3]


def test_a_fleet_of_one_machine_stops_after_five_fruitless_pilots_with_growing_pauses_between():
    # Given a task table that pilots cannot find, on one machine
    scene = Scene(items=9, pilots=1)
    watch = scene.watch()
    started: list[float] = []
    outcome = None
    for _ in range(200):
        outcome = scene.polls(watch, 1)
        if outcome is not None:
            break
        for job in scene.batch.live_jobs():
            started.append(job.created)
            job.fail(0, exit_code=4)
    # Then five were tried, each after a longer pause, and the run stopped
    assert outcome is not None
    assert outcome.outcome == "stopped"
    assert "exit code 4" in outcome.reason
    pauses = [round(b - a) for a, b in pairwise(started)]
    assert len(started) == 5
    assert pauses == sorted(pauses)
    assert pauses[-1] > pauses[0]


def test_ends_that_say_nothing_against_the_run_do_not_stop_it():
    # Given pilots that Batch started again until it gave up, or lost with their hosts
    scene = Scene(items=9, pilots=4)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING", 3)
    scene.batch.job().fail(0, exit_code=75, host="a")
    scene.batch.job().fail(1, exit_code=143, host="b")
    scene.batch.job().fail(2, exit_code=None, host="c", status_reason="Host EC2 (instance i-1) terminated.")
    scene.polls(watch, 3)
    assert scene.run.mode is Mode.RUN


def test_progress_forgives_earlier_fruitless_ends():
    scene = Scene(items=30, pilots=5)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING", 2, 3, 4)
    for n in range(2):
        scene.batch.job().fail(n, host=f"h{n}")
    scene.polls(watch)
    scene.finish("i0")
    scene.polls(watch)
    scene.batch.job().fail(2, host="h2")
    scene.polls(watch, 3)
    assert scene.run.mode is Mode.RUN


def test_a_pilots_end_is_judged_once_by_its_row_or_by_batch():
    # Given a pilot whose row tells its end before Batch does, and progress since
    scene = Scene(items=30, pilots=5)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    scene.pilot("p", batch_job="job-0:0", batch_attempt=1, ended=1.0, exit_code=4, leaving="")
    scene.polls(watch, 4)
    assert len(watch._sight.fruitless) == 1
    scene.finish("i0")
    scene.polls(watch)
    # When Batch tells it, too
    scene.batch.job().fail(0, exit_code=4)
    scene.polls(watch)
    # Then that is no news
    assert watch._sight.fruitless == []


def test_a_wrong_set_up_that_the_only_host_reports_stops_the_run():
    scene = Scene(items=3, pilots=1)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().fail(0, exit_code=6)
    scene.pilot("p", batch_job="job-0", batch_attempt=1, claims=1, ended=1.0, exit_code=6, leaving="set_up: ref 404")
    outcome = scene.polls(watch, 3)
    assert (outcome.outcome, "ref 404" in outcome.reason) == ("stopped", True)


def test_too_many_failed_items_stop_a_run_and_its_pilots_finish_what_they_hold():
    scene = Scene(items=5, pilots=1, max_failures=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    for n in range(2):
        scene.ledger.fail(scene.claim(f"i{n}", "p"), Cause.PERMANENT, "bad")
    assert scene.polls(watch, 4) is None
    assert scene.run.mode is Mode.DRAIN
    scene.batch.job().set("SUCCEEDED")
    outcome = scene.polls(watch, 1)
    assert (outcome.outcome, outcome.reason) == ("stopped", "2 items have failed, the limit is 2")


def test_a_top_up_that_batch_refuses_three_times_stops_the_run():
    scene = Scene(items=5, pilots=1)
    no = refused("SubmitJob", "ClientException", "JobQueue queue is DISABLED")
    scene.batch.submit_faults = [no] * 9
    outcome = scene.polls(scene.watch(), 30)
    assert outcome.outcome == "stopped"
    assert "DISABLED" in outcome.reason
    assert scene.batch.calls["SubmitJob"] == 3


# ---------------------------------------------------------------------------------------------------- watchers


def test_of_two_watchers_one_acts_and_the_other_looks_on():
    scene = Scene(items=4, pilots=2)
    one, two = scene.watch("w1"), scene.watch("w2")
    for _ in range(5):
        assert one.poll() is None
        assert two.poll() is None
        scene.clock.move(10)
    assert sizes(scene) == [2]
    assert "watcher w1 holds this run" in scene.told[-1].note
    assert "watcher" not in scene.told[-2].note


def test_when_a_watcher_dies_the_next_one_carries_on_from_the_row():
    # Given a watcher that has submitted two pilots and is heard of no more
    scene = Scene(items=4, pilots=2)
    scene.polls(scene.watch("w1"))
    scene.batch.job().set("RUNNING")
    fence = scene.run.watcher_fence
    # When its lease is over
    two = scene.watch("w2")
    assert scene.polls(two, 1) is None
    scene.clock.move(60)
    scene.polls(two, 2)
    # Then the next one holds the run, has submitted nothing more, and ends it
    assert (scene.run.watcher, scene.run.watcher_fence) == ("w2", fence + 1)
    assert sizes(scene) == [2]
    scene.finish_all()
    scene.batch.job().set("SUCCEEDED")
    assert scene.polls(two, 2).outcome == "completed"


def test_a_watcher_that_has_lost_its_lease_does_nothing_more():
    scene = Scene(items=4, pilots=2)
    one, two = scene.watch("w1"), scene.watch("w2")
    run = one._take()
    scene.clock.move(1000)
    assert two.poll() is None
    jobs = len(scene.batch.jobs)
    assert run is not None
    one._top_up(run, 4, 0, refused=None)
    assert len(scene.batch.jobs) == jobs


def test_everybody_who_looks_on_learns_of_the_end():
    scene = Scene(items=1, pilots=1)
    one, two = scene.watch("w1"), scene.watch("w2")
    scene.polls(one)
    assert two.poll() is None
    scene.finish_all()
    scene.batch.job().set("SUCCEEDED")
    assert scene.polls(one, 2).outcome == "completed"
    outcome = two.poll()
    assert outcome is not None
    assert outcome.outcome == "completed"


def test_a_watch_that_is_stopped_gives_its_lease_back_and_the_run_goes_on():
    scene = Scene(items=4, pilots=2)
    stop = threading.Event()
    outcome = scene.watch(stop=stop, on_progress=lambda told: stop.set()).until_end()
    assert outcome.outcome == ""
    assert "pyanamo watch run" in outcome.reason
    assert (scene.run.watcher, scene.run.ended, sizes(scene)) == ("", None, [2])


def test_a_display_that_fails_does_not_end_the_watch():
    def broken(told):
        raise RuntimeError("no terminal")

    scene = Scene(items=0)
    assert scene.watch(on_progress=broken).until_end().outcome == "completed"


def fails_for(scene: Scene, polls: int) -> None:
    """The ledger's counts fail so many times; then everything is done."""
    counts = scene.ledger.counts
    left = polls

    def sometimes():
        nonlocal left
        left -= 1
        if left >= 0:
            raise AwsFailed(service="dynamodb", operation="Query", code="500", reason="oops", request_id="r")
        scene.finish_all()
        scene.batch.job().set("SUCCEEDED")
        return counts()

    scene.ledger.counts = sometimes  # type: ignore[method-assign]


def first_poll_then_until_end(scene: Scene, failures: int):
    watch = scene.watch()
    poll, first = watch.poll, [True]

    def and_break():
        outcome = poll()
        if first:
            first.clear()
            fails_for(scene, failures)
        return outcome

    watch.poll = and_break  # type: ignore[method-assign]
    return watch.until_end()


def test_a_watcher_survives_aws_being_silent_for_minutes():
    scene = Scene(items=4, pilots=2)
    asked: list[float] = []
    take = scene.ledger.take_watch
    scene.ledger.take_watch = lambda *told: asked.append(scene.clock.monotonic()) or take(*told)  # type: ignore[method-assign]
    assert first_poll_then_until_end(scene, 8).outcome == "completed"
    # And it asks less and less: after 1, 2, 4 … polls, at most two minutes
    assert [later - one for one, later in pairwise(asked)][2:10] == [10, 20, 40, 80, 120, 120, 120, 120]


def test_a_watcher_gives_up_when_the_ledger_is_silent_for_more_than_fifteen_minutes():
    scene = Scene(items=4, pilots=2)
    began = scene.clock.monotonic()
    with pytest.raises(AwsFailed):
        first_poll_then_until_end(scene, 1000)
    assert 900 <= scene.clock.monotonic() - began <= 1040
    assert scene.run.watcher == ""


def busy(operation: str = "SubmitJob"):
    return refused(operation, "TooManyRequestsException", "Too many requests", 429)


def test_while_batch_is_too_busy_to_take_pilots_it_is_asked_less_and_less():
    # Given a run with one of its four pilots alive, and a Batch that takes no more for twenty minutes
    scene = Scene(items=8, pilots=4)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("SUCCEEDED", 0, 1, 2)
    scene.batch.job().set("RUNNING", 3)
    until = scene.clock.now() + 1200
    scene.batch.submit_faults = [lambda: busy() if scene.clock.now() < until else None] * 1000
    reserved = len(scene.run.submissions)
    # When it is polled for half an hour
    while scene.clock.now() < until + 600:
        scene.pilot("p3", batch_job="job-0:3", claims=1)
        scene.polls(watch)
    # Then few submissions were tried in vain, with growing pauses, and the fleet is whole again
    in_vain = [each for each in scene.run.submissions[reserved:] if each.outcome == "failed"]
    assert len(in_vain) <= 8
    assert any("Batch was too busy; new ones in" in told.note for told in scene.told)
    assert [len(job.children) for job in scene.batch.live_jobs()] == [4, 3]


@pytest.mark.parametrize("operation", ["DescribeJobs", "ListJobs", "CancelJob", "TerminateJob", "SubmitJob"])
def test_whichever_call_batch_is_too_busy_for_the_run_goes_on_to_its_end(operation):
    # Given a run whose Batch refuses every other call of one kind
    scene = Scene(items=6, pilots=3)
    method = {
        "DescribeJobs": "describe_jobs",
        "ListJobs": "list_jobs",
        "CancelJob": "cancel_job",
        "TerminateJob": "terminate_job",
        "SubmitJob": "submit_job",
    }[operation]
    real, calls = getattr(scene.batch, method), itertools.count()

    def sometimes(**asked: Any) -> Any:
        if next(calls) % 2:
            raise busy(operation)
        return real(**asked)

    scene.batch.submit_faults = ["lost"]
    setattr(scene.batch, method, sometimes)
    watch = scene.watch()
    # When it is watched; some pilots end, work is left, then nothing is, and one pilot does not leave
    stop_at = scene.clock.now() + 4000
    outcome = None
    while outcome is None and scene.clock.now() < stop_at:
        if scene.clock.now() > stop_at - 3000:
            scene.finish_all()
        with contextlib.suppress(AwsFailed):  # until_end waits and goes on
            outcome = watch.poll()
        scene.clock.move(10)
    # Then it ends, and there was one fleet
    assert outcome is not None
    assert outcome.outcome == "completed"
    assert len(scene.batch.jobs) == 1
    assert scene.batch.live_jobs() == []


def test_a_role_that_may_not_look_at_environments_watches_on():
    scene = Scene(items=4, pilots=2)
    scene.batch.describe_compute_environments = denied  # type: ignore[method-assign]
    watch = scene.watch()
    assert scene.polls(watch, 8) is None
    assert any("it could not be asked" in told.note for told in scene.told)


def denied(**asked: Any) -> Any:
    raise refused("DescribeComputeEnvironments", "AccessDeniedException", "not authorized", 403)


def test_aws_unreachable_from_the_start_is_said_at_once():
    scene = Scene(items=4)
    watch = scene.watch()

    def silent():
        raise AwsFailed(service="batch", operation="DescribeJobs", code="500", reason="oops", request_id="r")

    watch.poll = silent  # type: ignore[method-assign]
    began = scene.clock.monotonic()
    with pytest.raises(AwsFailed):
        watch.until_end()
    assert scene.clock.monotonic() == began


# ---------------------------------------------------------------------------------------------------- telling


def test_progress_tells_counts_pilots_jobs_rate_and_eta():
    scene = Scene(items=10, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    for n in range(4):
        scene.finish(f"i{n}")
        scene.polls(watch)
    last = scene.told[-1]
    assert (last.counts.done, last.live_pilots, dict(last.jobs)) == (4, 2, {"RUNNING": 2})
    assert last.rate_per_second == pytest.approx(0.1)
    assert last.eta_seconds == pytest.approx(60)


def test_pilots_that_do_not_start_are_explained():
    scene = Scene(items=4, pilots=2)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNABLE", statusReason="MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - nothing fits")
    scene.polls(watch, 6)
    assert "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT" in scene.told[-1].note
    # And not any more once one has started
    scene.batch.job().set("RUNNING", 0)
    scene.polls(watch, 1)
    assert scene.told[-1].note == ""


def test_new_items_of_a_running_run_get_pilots_too():
    scene = Scene(items=1, pilots=4)
    watch = scene.watch()
    scene.polls(watch)
    for n in range(2):
        scene.ledger.import_item(f"new{n}", "t", Definition(script="true"))
    scene.polls(watch, 2)
    assert sum(sizes(scene)) == 3


def test_a_drain_that_a_pilot_ordered_ends_the_run_as_stopped_with_its_reason():
    # Given a pilot on the only host that found the reference missing, and drained the run itself
    scene = Scene(items=3, pilots=1)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().fail(0, exit_code=6)
    scene.pilot("p", batch_job="job-0", ended=1.0, exit_code=6, leaving="set_up: reference s3://b/ref.fa: 404")
    scene.ledger.set_mode(scene.run_id, Mode.DRAIN, "reference s3://b/ref.fa: 404")
    # When the watcher ends the run
    outcome = scene.polls(watch, 3)
    # Then it was stopped, not drained
    assert (outcome.outcome, outcome.reason) == ("stopped", "reference s3://b/ref.fa: 404")


def test_pilot_rows_are_read_on_a_change_and_twice_a_beat_not_at_each_poll():
    # Given pilots at work, and beats of 60 s
    scene = Scene(items=50, pilots=3)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    reads = 0
    pilots = scene.ledger.pilots

    def counted(run_id: str | None = None):
        nonlocal reads
        reads += 1
        return pilots(run_id)

    scene.ledger.pilots = counted  # type: ignore[method-assign]
    # When the watcher polls for five minutes, then it has read them ten times and once for the change
    scene.polls(watch, 30)
    assert 10 <= reads <= 12


def test_of_many_failed_children_a_hundred_are_examined_by_a_handful_of_calls():
    scene = Scene(items=2000, pilots=1000)
    watch = scene.watch()
    scene.polls(watch)
    scene.batch.job().set("RUNNING")
    for n in range(500):
        scene.batch.job().fail(n, exit_code=75)
    scene.batch.calls.clear()
    scene.polls(watch)
    assert scene.batch.calls == {"DescribeJobs": 2, "ListJobs": 1, "SubmitJob": 1}
