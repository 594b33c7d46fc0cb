"""Fleets of thousands on the local Batch, without processes and on a clock of their own: calls, memory, maximum, reasons."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from fleet_local_batch import LocalBatch, Workers
from fleet_support import Scene

from pyanamo_core.model import Counts, Mode, PilotRecord

POLL = 30.0


def scene_of(home: Path, items: int, pilots: int, *, vcpus: int = 20_000, **more: Any) -> tuple[Scene, LocalBatch]:
    scene = Scene(
        items,
        pilots=pilots,
        poll_seconds=POLL,
        clients=lambda clock: LocalBatch(home, clock, {"queue": vcpus}),
        **more,
    )
    return scene, scene.clients


def workers_of(scene: Scene, batch: LocalBatch, **more: Any) -> Workers:
    return Workers(batch, scene.ledger, scene.clock, scene.run_id, **more)


def only_counted(scene: Scene, items: int) -> None:
    """A table of so many items to do, without their rows: importing them would take the test's time."""
    scene.ledger.counts = lambda: Counts(todo=items)  # type: ignore[method-assign]
    scene.ledger.count = lambda state, **more: items if state == "todo" else 0  # type: ignore[method-assign]
    scene.ledger.claimable = lambda **more: items  # type: ignore[method-assign]


@pytest.mark.parametrize(("pilots", "arrays"), [(10_000, [10_000]), (25_000, [10_000, 10_000, 5_000])])
def test_a_fleet_of_ten_thousand_is_one_submission_and_one_describe_a_poll(tmp_path: Path, pilots, arrays):
    # Given work for more pilots than the run may have, and room for a fifth of them
    scene, batch = scene_of(tmp_path, 0, pilots, vcpus=2000)
    only_counted(scene, 2 * pilots)
    watch = scene.watch()
    watch.fan_out()
    # Then the fleet is submitted as whole arrays, each by one call
    assert [submission.size for submission in scene.run.submissions] == arrays
    assert batch.calls["SubmitJob"] == len(arrays) == len(batch.job_ids)
    # When it is watched for a while
    batch.calls.clear()
    scene.polls(watch, 40, POLL)
    # Then each poll was one describe for all arrays together, and nothing more was submitted
    assert batch.calls["DescribeJobs"] == 40
    assert batch.calls["SubmitJob"] == batch.calls["ListJobs"] == 0
    told = scene.told[-1]
    assert told.jobs == {"RUNNING": 2000, "RUNNABLE": pilots - 2000}
    assert told.live_pilots == batch.live() == pilots


def test_the_watcher_of_ten_thousand_pilots_keeps_its_memory(tmp_path: Path):
    # Given ten thousand pilots, of which five hundred run, with rows that beat
    scene, batch = scene_of(tmp_path, 0, 10_000, vcpus=500)
    only_counted(scene, 20_000)
    scene.told = _Last()
    watch = scene.watch()
    watch.fan_out()
    for name, one in batch.jobs.running.items():
        scene.ledger.put_pilot(
            PilotRecord(
                pilot_id=name,
                run_id=scene.run_id,
                batch_job=one.job_id,
                batch_attempt=1,
                host=name,
                started=scene.clock.now(),
                last_beat=scene.clock.now() + 10_000,
                claims=1,
            )
        )
    scene.polls(watch, 5, POLL)
    # When fifty more polls go by
    tracemalloc.start()
    try:
        scene.polls(watch, 2, POLL)
        before = tracemalloc.get_traced_memory()[0]
        scene.polls(watch, 50, POLL)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # Then nothing has been added up
    assert grown < 2_000_000  # one more copy of the rows would be as much; in a process of its own it is 75 KB
    assert scene.told[-1].live_pilots == 10_000


class _Last(list[Any]):
    """Keeps the last that is appended."""

    def append(self, one: Any, /) -> None:
        self[:] = [one]


@pytest.mark.parametrize("seed", range(3))
def test_in_forty_minutes_without_spot_the_pilots_never_outnumber_the_maximum(tmp_path: Path, seed: int):
    # Given 150 items of ten minutes, at most 40 pilots, and Spot that takes some hosts away now and then
    scene, batch = scene_of(tmp_path, 150, 40, vcpus=40)
    rng = random.Random(seed)
    workers = workers_of(scene, batch, seconds=lambda item_id: 500 + 20 * (zlib.crc32(item_id.encode()) % 10))
    watch, most, outcome = scene.watch(), 0, None
    for poll in range(600):
        now = poll * POLL
        short = 600 <= now < 3000
        # When for forty minutes nothing new starts, while hosts go away
        if now == 600:
            batch.engine.hold(batch.queue_arn("queue"), "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no Spot")
        if now == 3000:
            batch.engine.hold(batch.queue_arn("queue"), "")
        for one in list(batch.jobs.running.values()):
            if rng.random() < (0.04 if short else 0.002):
                batch.engine.terminate_host(one.job_id)
        batch.settle()
        workers.step()
        outcome = watch.poll()
        most = max(most, batch.live())
        assert batch.live() <= 40
        if outcome is not None:
            break
        scene.clock.move(POLL)
    # Then the run ends with every item done, and never had more pilots than it may
    assert outcome is not None
    assert outcome.outcome == "completed"
    assert scene.ledger.counts() == Counts(done=150)
    assert most == 40
    # And what Spot took away was done again, not twice over
    assert sum(workers.began.values()) > 150


def test_a_bad_image_stops_the_run_with_its_reason_and_what_waits_is_cancelled(tmp_path: Path):
    # Given an image that no host can pull, for a fleet of ten thousand
    scene, batch = scene_of(tmp_path, 0, 10_000, vcpus=200)
    only_counted(scene, 20_000)
    reason = "CannotPullContainerError: pull access denied for repo/pyanamo, repository does not exist"
    workers = workers_of(scene, batch)
    watch = scene.watch()
    watch.fan_out()
    batch.calls.clear()
    # When the first hosts try
    for one in list(batch.jobs.running.values())[:50]:
        batch.jobs.end(one.name, 1, reason)
    batch.settle()
    assert watch.poll() is None
    # Then the run stops, and says why
    assert scene.run.mode is Mode.DRAIN
    assert "CannotPullContainerError: pull access denied" in scene.run.reason
    # And what has not started never will
    scene.clock.move(POLL)
    workers.sick = lambda one: (1, reason)
    watch.poll()
    assert all(leaf.ended for leaf in batch.leaves() if leaf.status not in ("STARTING", "RUNNING"))
    workers.step()
    scene.clock.move(POLL)
    outcome = watch.poll() or scene.polls(watch, 3, POLL)
    assert outcome is not None
    assert outcome.outcome == "stopped"
    assert "CannotPullContainerError" in outcome.reason
    # And few calls were needed for all that
    assert batch.calls["SubmitJob"] == 0
    assert sum(batch.calls.values()) < 30


def test_a_host_that_swallows_pilots_gets_fewer_and_fewer_and_is_named_while_the_others_work(tmp_path: Path):
    # Given two hosts of which one cannot start a container, and is free again at once; room for eight pilots
    scene, batch = scene_of(tmp_path, 60, 8, vcpus=8)
    hosts = [{"vcpus": 4, "environment": {"HOST": "bad"}, "instance": "bad"}, {"vcpus": 4, "instance": "good"}]
    batch.engine.set_hosts(batch.queue_arn("queue"), hosts)
    workers = workers_of(scene, batch)
    workers.sick = lambda one: (125, "CannotStartContainerError: no runtime") if "HOST" in one.environment else None
    watch, outcome, ended = scene.watch(), None, 0
    first_hour = scene.clock.now() + 3600
    # When the run is watched
    for _ in range(600):
        workers.step()
        outcome = watch.poll()
        if outcome is not None:
            break
        if scene.clock.now() < first_hour:
            ended = sum(leaf.status == "FAILED" for leaf in batch.leaves())
        scene.clock.move(POLL)
    # Then one bad host does not stop it, and the good one does all
    assert outcome is not None
    assert outcome.outcome == "completed"
    # And it has not swallowed a fleet at each poll: 120 polls, and top-ups with growing pauses
    assert 0 < ended < 100
    assert any(
        "without a claim; keep others off it with: aws ecs update-container-instances-state" in told.note
        for told in scene.told
    )


@pytest.mark.parametrize("kind", ["no answer", "500", "throttled", "empty"])
def test_ten_minutes_in_which_nobody_describes_jobs_make_no_second_fleet(tmp_path: Path, kind: str):
    # Given a fleet of which some work and some wait for a machine
    scene, batch = scene_of(tmp_path, 60, 20, vcpus=12)
    workers = workers_of(scene, batch)
    began = scene.clock.now()
    real = batch.describe_jobs

    # When for ten minutes DescribeJobs fails, or answers as if it knew nothing
    def later() -> None:
        away = 300 <= scene.clock.now() - began < 900
        if kind == "empty":
            batch.describe_jobs = (lambda **asked: {"jobs": []}) if away else real  # type: ignore[method-assign]
        else:
            batch.faults["DescribeJobs"] = FAULTS[kind] if away else lambda: None
        if away:
            assert (len(workers.working), batch.live()) == (12, 20)

    outcome = scene.watch(stop=_Meanwhile(scene, workers, later)).until_end()
    # Then nothing was submitted a second time, the watch went on, and the run ends with all items done
    assert outcome.outcome == "completed"
    assert scene.ledger.counts() == Counts(done=60)
    assert [submission.size for submission in scene.run.submissions] == [20]
    # And somebody who looked was told
    told = [progress.note for progress in scene.told]
    if kind == "empty":
        assert any("DescribeJobs does not know" in note for note in told)
    else:
        assert any("Batch does not answer" in note and "nothing is submitted or ended" in note for note in told)


FAULTS: dict[str, Any] = {
    "no answer": lambda: EndpointConnectionError(endpoint_url="https://batch"),
    "500": lambda: error("ServerException", 500),
    "throttled": lambda: error("TooManyRequestsException", 429),
}


def error(code: str, status: int) -> ClientError:
    told: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told, "DescribeJobs")


class _Meanwhile:
    """The event that would end a watch. Whenever it is looked at, pilots do what is due, and what is given happens."""

    def __init__(self, scene: Scene, workers: Workers, then: Callable[[], None]) -> None:
        self._scene, self._workers, self._then, self._stepped = scene, workers, then, 0.0

    def is_set(self) -> bool:
        now = self._scene.clock.now()
        if now - self._stepped >= 10:
            self._stepped = now
            self._workers.step()
            self._then()
        return False
