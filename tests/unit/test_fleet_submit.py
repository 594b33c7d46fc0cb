"""Submitting exactly once, whatever the network and the watchers do."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from fleet_fake_batch import refused
from fleet_support import Scene
from hypothesis import given, settings
from hypothesis import strategies as st

from pyanamo_core.errors import OverridesTooBig, RunConflict, SubmitRefused
from pyanamo_core.fleet.batch import OVERRIDES_MAX_BYTES, Batch, checked_overrides
from pyanamo_core.fleet.submit import Submitter
from pyanamo_core.model import Mode


def submitter(scene: Scene, **more) -> Submitter:
    return Submitter(scene.ledger, Batch(scene.clients), scene.clock, queue="queue", definition="definition", **more)


def held(scene: Scene, watcher: str = "w1", lease: float = 100.0):
    run = scene.ledger.take_watch(scene.run_id, watcher, lease)
    assert run is not None
    return run


def settle_for(scene: Scene, one: Submitter, seconds: float, *, watcher: str = "w1", every: float = 10.0) -> None:
    for _ in range(round(seconds / every)):
        one.settle(held(scene, watcher))
        scene.clock.move(every)


def test_a_submission_is_one_array_with_name_overrides_pinned_revision_and_retry_rules():
    # Given a run that knows an address of Prefect
    scene = Scene()
    scene.ledger._runs["run"] = scene.run.model_copy(update={"prefect_api_url": "http://prefect/api"})
    # When three pilots are submitted
    run = submitter(scene, environment={"MORE": "1"}).add(held(scene), 3)
    # Then Batch was asked once, with all that a pilot needs and the rules by which it is tried again
    (job,) = scene.batch.jobs
    assert job.asked == {
        "jobName": "seq-0123-0",
        "jobQueue": "queue",
        "jobDefinition": "definition:3",
        "arrayProperties": {"size": 3},
        "containerOverrides": {
            "environment": [
                {"name": "MORE", "value": "1"},
                {"name": "PREFECT_API_URL", "value": "http://prefect/api"},
                {"name": "PYANAMO_RUN", "value": "run"},
                {"name": "PYANAMO_SUBMISSION", "value": "0"},
                {"name": "PYANAMO_TABLE", "value": "memory"},
            ]
        },
        "tags": {"pyanamo": "memory"},
        "retryStrategy": {
            "attempts": 10,
            "evaluateOnExit": [
                {"onExitCode": "75", "action": "RETRY"},
                {"onExitCode": "143", "action": "RETRY"},
                {"onStatusReason": "Host EC2*", "action": "RETRY"},
                {"onReason": "*", "action": "EXIT"},
            ],
        },
    }
    # And the run's row knows the job
    (submission,) = run.submissions
    assert (submission.job_id, submission.outcome, submission.definition) == ("job-0", "submitted", "definition:3")


def test_one_pilot_is_a_plain_job_and_more_than_ten_thousand_are_several_arrays():
    scene = Scene()
    one = submitter(scene)
    one.add(held(scene), 1)
    one.add(held(scene), 10_001)
    assert [job.asked.get("arrayProperties") for job in scene.batch.jobs] == [None, {"size": 10_000}, None]
    assert [s.name for s in scene.run.submissions] == ["seq-0123-0", "seq-0123-1", "seq-0123-2"]


def test_a_run_stays_with_the_revision_of_its_first_submission():
    # Given a run that has submitted revision 3
    scene = Scene()
    submitter(scene).add(held(scene), 2)
    # When a newer revision is registered, and another watcher tops up
    scene.batch.definitions.append({"jobDefinitionName": "definition", "revision": 4, "status": "ACTIVE"})
    submitter(scene).add(held(scene, "w1"), 2)
    # Then it is revision 3 again
    assert [job.asked["jobDefinition"] for job in scene.batch.jobs] == ["definition:3", "definition:3"]


def test_a_lost_answer_makes_no_second_array():
    # Given Batch takes the job and the answer is lost
    scene = Scene()
    scene.batch.submit_faults = ["lost"]
    one = submitter(scene)
    run = one.add(held(scene), 5)
    assert one.is_open(run)
    # When the next poll looks for it by name
    run = one.settle(held(scene))
    # Then it is found, and nothing was sent again
    assert [s.job_id for s in run.submissions] == ["job-0"]
    assert scene.batch.calls["SubmitJob"] == 1


def test_a_request_that_never_arrived_is_sent_again_after_a_minute_and_three_looks_not_before():
    # Given a request that dies on its way
    scene = Scene()
    scene.batch.submit_faults = [EndpointConnectionError(endpoint_url="fake")]
    one = submitter(scene)
    one.add(held(scene), 5)
    # When it is looked for during 59 s, many times
    for _ in range(59):
        one.settle(held(scene))
        scene.clock.move(1)
    assert scene.batch.calls["SubmitJob"] == 1
    scene.clock.move(2)
    run = one.settle(held(scene))
    # Then it is sent again after that, under the same name
    assert scene.batch.calls["SubmitJob"] == 2
    assert [(s.name, s.job_id) for s in run.submissions] == [("seq-0123-0", "job-0")]


def test_a_minute_alone_is_not_enough_three_looks_are_needed():
    scene = Scene()
    scene.batch.submit_faults = [EndpointConnectionError(endpoint_url="fake")]
    one = submitter(scene)
    one.add(held(scene), 5)
    for calls in (1, 1, 2):
        scene.clock.move(100)
        one.settle(held(scene))
        assert scene.batch.calls["SubmitJob"] == calls


def test_of_two_jobs_of_one_name_the_one_that_is_settled_is_kept_and_the_other_terminated():
    # Given a request that Batch shows only after it was sent a second time and answered
    scene = Scene()
    scene.batch.submit_faults = [("late", 65.0)]
    one = submitter(scene)
    one.add(held(scene), 5)
    scene.batch.job(0).created -= 60
    settle_for(scene, one, 200)
    # Then there were two, and the one that the run's row names lives on, although the other is older
    assert len(scene.batch.jobs) == 2
    assert [job.job_id for job in scene.batch.live_jobs()] == ["job-1"]
    assert [s.job_id for s in scene.run.submissions] == ["job-1"]


def test_of_two_jobs_that_nobody_has_settled_the_older_is_kept():
    # Given a watcher that died after its second request, when the first arrived too
    scene = Scene()
    scene.batch.submit_faults = ["lost", "lost"]
    submitter(scene).add(held(scene), 5)
    scene.clock.move(1)
    again = scene.batch.job(0).asked
    with suppress(ReadTimeoutError):
        scene.batch.submit_job(**again)
    # When the next watcher looks
    scene.clock.move(200)
    submitter(scene).settle(held(scene, "w2"))
    # Then the older one is the run's
    assert [job.job_id for job in scene.batch.live_jobs()] == ["job-0"]
    assert [s.job_id for s in scene.run.submissions] == ["job-0"]


def test_a_double_is_ended_although_batch_has_forgotten_the_job_that_was_kept():
    scene = Scene()
    scene.batch.submit_faults = [("late", 100.0)]
    one = submitter(scene)
    one.add(held(scene), 5)
    settle_for(scene, one, 90)
    assert [s.job_id for s in scene.run.submissions] == ["job-1"]
    scene.batch.job(1).forgotten = True
    settle_for(scene, one, 100)
    assert scene.batch.job(0).status == "FAILED"
    assert [s.job_id for s in scene.run.submissions] == ["job-1"]


def test_a_job_of_the_same_name_but_for_case_is_not_ours():
    scene = Scene()
    scene.batch.submit_job(jobName="SEQ-0123-0", jobQueue="queue", jobDefinition="x")
    scene.batch.submit_faults = ["lost"]
    one = submitter(scene)
    one.add(held(scene), 2)
    run = one.settle(held(scene))
    assert run.submissions[0].job_id == "job-1"
    assert scene.batch.ended == []


def test_an_answer_of_the_servers_kind_is_unknown_one_of_the_callers_kind_is_a_refusal():
    scene = Scene()
    one = submitter(scene)
    # Given a 500: nobody knows
    scene.batch.submit_faults = [refused("SubmitJob", "ServerException", "oops", 500)]
    assert one.is_open(one.add(held(scene), 2))
    # Given a 400: nothing was submitted, and the row says so
    scene.batch.submit_faults = [refused("SubmitJob", "ClientException", "JobQueue queue is DISABLED")]
    with pytest.raises(SubmitRefused, match="JobQueue queue is DISABLED"):
        one.add(held(scene), 2)
    assert scene.run.submissions[1].outcome == "failed"
    assert "DISABLED" in scene.run.submissions[1].reason


def test_a_busy_batch_is_asked_again_within_the_window_and_at_the_next_poll_not_longer():
    # Given a Batch that is too busy for 4 s
    busy = refused("SubmitJob", "TooManyRequestsException", "slow down", 429)
    scene = Scene()
    scene.batch.submit_faults = [busy, busy]
    run = submitter(scene).add(held(scene), 2)
    assert [s.job_id for s in run.submissions] == ["job-0"]
    # And one that is busy for longer: the reservation lapses, nobody is told an error
    scene.batch.submit_faults = [busy] * 99
    run = submitter(scene).add(held(scene), 2)
    assert (run.submissions[1].outcome, len(scene.batch.jobs)) == ("failed", 1)


def test_a_watcher_that_stalls_for_longer_than_the_window_submits_nothing():
    # Given a watcher that sleeps for 11 s between its reservation and its request
    scene = Scene()
    run = held(scene)
    reserve = scene.ledger.reserve_submission

    def slow(*args, **kwargs):
        answer = reserve(*args, **kwargs)
        scene.clock.move(11)
        return answer

    scene.ledger.reserve_submission = slow  # type: ignore[method-assign]
    # When it wakes up
    run = submitter(scene).add(run, 3)
    # Then it sends nothing, and says so in the row
    assert scene.batch.jobs == []
    assert run.submissions[0].outcome == "failed"


def test_a_watcher_without_the_fence_reserves_nothing():
    scene = Scene()
    run = held(scene, "w1", lease=1)
    scene.clock.move(2)
    held(scene, "w2")
    with pytest.raises(RunConflict):
        submitter(scene).add(run, 3)
    assert scene.batch.jobs == []


@pytest.mark.parametrize("mode", [Mode.CANCEL, Mode.DRAIN])
def test_a_run_that_was_stopped_between_reservation_and_request_submits_nothing(mode):
    # Given a user who cancels just after the reservation
    scene = Scene()
    run = held(scene)
    reserve = scene.ledger.reserve_submission

    def and_cancelled(*args, **kwargs):
        answer = reserve(*args, **kwargs)
        scene.ledger.set_mode(scene.run_id, mode)
        return answer

    scene.ledger.reserve_submission = and_cancelled  # type: ignore[method-assign]
    # When two arrays were to be submitted
    run = submitter(scene).add(run, 10_002)
    # Then none is
    assert scene.batch.jobs == []
    assert run.mode is mode
    assert [s.outcome for s in run.submissions] == ["failed"]


def test_a_run_cancelled_while_batch_answers_loses_its_new_array_at_once():
    scene = Scene()
    run = held(scene)
    scene.batch.submit_faults = [lambda: scene.ledger.set_mode(scene.run_id, Mode.CANCEL) and None]
    submitter(scene).add(run, 3)
    assert len(scene.batch.jobs) == 1
    assert scene.batch.live_jobs() == []


@pytest.mark.parametrize("sent", [True, False])
def test_the_next_watcher_finds_or_repeats_what_a_dead_one_had_reserved(sent):
    # Given a watcher that died between its reservation and its note of the job's id
    scene = Scene()
    _, submission = scene.ledger.reserve_submission(held(scene), size=4, queue="queue", definition="definition:3")
    if sent:
        scene.batch.submit_job(
            jobName=submission.name, jobQueue="queue", jobDefinition="definition:3", arrayProperties={"size": 4}
        )
    scene.clock.move(100)
    # When the next one takes over
    next_one = submitter(scene)
    settle_for(scene, next_one, 120, watcher="w2")
    # Then there is one array, and it stands in the row
    assert len(scene.batch.jobs) == 1
    assert scene.batch.job().asked["arrayProperties"] == {"size": 4}
    assert [s.job_id for s in scene.run.submissions] == ["job-0"]


def test_a_dead_watchers_request_may_still_be_on_its_way_so_nothing_is_sent_before_its_time_out():
    scene = Scene()
    scene.ledger.reserve_submission(held(scene, lease=1), size=4, queue="queue", definition="definition:3")
    scene.clock.move(2)
    next_one = submitter(scene)
    settle_for(scene, next_one, 66, watcher="w2", every=6)
    assert scene.batch.calls["SubmitJob"] == 0
    settle_for(scene, next_one, 12, watcher="w2", every=6)
    assert scene.batch.calls["SubmitJob"] == 1


def test_what_is_no_longer_needed_is_looked_for_but_not_sent_again():
    scene = Scene()
    scene.ledger.reserve_submission(held(scene), size=4, queue="queue", definition="definition:3")
    one = submitter(scene)
    for _ in range(20):
        one.settle(held(scene), needed=False)
        scene.clock.move(10)
    assert scene.batch.jobs == []
    assert scene.run.submissions[0].outcome == "failed"


def test_a_late_arrival_of_a_submission_given_up_becomes_part_of_the_fleet():
    # Given a submission that was given up, not being needed any more
    scene = Scene()
    scene.batch.submit_faults = [("late", 150.0)]
    one = submitter(scene)
    one.add(held(scene), 4)
    for _ in range(10):
        one.settle(held(scene), needed=False)
        scene.clock.move(10)
    assert scene.run.submissions[0].outcome == "failed"
    # When it turns up all the same
    settle_for(scene, one, 100)
    # Then the run knows it, and can end it
    assert scene.run.submissions[0].job_id == "job-0"


def test_overrides_above_batchs_limit_are_refused_before_anything_is_sent():
    scene = Scene()
    with pytest.raises(OverridesTooBig, match="at most 8192"):
        submitter(scene, environment={"BIG": "x" * 8192}).add(held(scene), 2)
    assert scene.batch.calls["SubmitJob"] == 0
    assert scene.run.submissions[0].outcome == "failed"


@given(st.integers(0, OVERRIDES_MAX_BYTES))
def test_overrides_pass_exactly_up_to_the_limit(length):
    empty = len(json.dumps(checked_overrides("n", {"K": ""}), separators=(",", ":")))
    try:
        told = checked_overrides("n", {"K": "x" * length})
    except OverridesTooBig:
        assert empty + length > OVERRIDES_MAX_BYTES
    else:
        assert len(json.dumps(told, separators=(",", ":"))) <= OVERRIDES_MAX_BYTES


FAULT = st.one_of(
    st.none(),
    st.just("lost"),
    st.just("dropped"),
    st.tuples(st.just("late"), st.floats(1, 55)),
)


@settings(max_examples=150, deadline=None)
@given(
    faults=st.lists(FAULT, max_size=4),
    deaths=st.lists(st.integers(0, 40), max_size=2),
    every=st.sampled_from([3.0, 10.0, 25.0]),
)
def test_whatever_is_lost_late_or_dead_one_fan_out_ends_as_exactly_one_living_array(faults, deaths, every):
    # Given a network that loses and delays requests (less than their time-out), and watchers that die
    scene = Scene()
    scene.batch.submit_faults = [
        EndpointConnectionError(endpoint_url="fake") if fault == "dropped" else fault for fault in faults
    ]
    one, name = submitter(scene), "w0"
    one.add(held(scene, name, lease=5), 7)
    # When watchers look after it for some minutes, each taking over from a dead one
    for step in range(round(900 / every)):
        if step in deaths:
            one, name = submitter(scene), f"w{step + 1}"
            scene.clock.move(81)  # its lease, longer while it submits
        one.settle(held(scene, name, lease=5))
        scene.clock.move(every)
    # Then at most one array lives, and the row names it; none lives only if it was given up
    living = [job.job_id for job in scene.batch.live_jobs()]
    (submission,) = scene.run.submissions
    assert living == ([submission.job_id] if submission.job_id else [])
    assert len(living) == 1 or submission.outcome == "failed"
