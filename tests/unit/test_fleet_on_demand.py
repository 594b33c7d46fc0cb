"""The on-demand queue: items that a user wants there, the last items of a run, and never more pilots than the maximum."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from fleet_fake_batch import refused
from fleet_local_batch import LocalBatch, Workers
from fleet_support import Scene
from hypothesis import given
from hypothesis import strategies as st

from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.explain import findings, observe
from pyanamo_core.fleet.on_demand import Side, Split, is_end_game, split_top_up
from pyanamo_core.model import Counts, Limits, State

POLL = 30.0
NO_SPOT = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no Spot"


def split(**told: Any) -> Split:
    limits = Limits(max_pilots=told.pop("pilots", 10), items_per_pilot=told.pop("items", 1))
    return split_top_up(
        **{"claimable": 0, "marked": 0, "limits": limits, "spot": Side(), "on_demand": Side(), "fits": 10} | told
    )


# ---------------------------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        # ordinary work goes to Spot, whatever fits on demand
        ({"claimable": 4}, Split(spot=4)),
        ({"claimable": 40}, Split(spot=10)),
        # what a user wants there goes there, and comes first
        ({"claimable": 40, "marked": 3}, Split(spot=7, on_demand=3)),
        ({"marked": 3, "items": 2}, Split(on_demand=2)),
        ({"marked": 3, "on_demand": Side(2, 2)}, Split(on_demand=1)),
        ({"marked": 3, "on_demand": Side(3, 1)}, Split(on_demand=2)),
        ({"marked": 3, "fits": 0}, Split()),
        ({"marked": 3, "fits": 2}, Split(on_demand=2)),
        ({"marked": 3, "spot": Side(9, 9)}, Split(on_demand=1)),
        # an on-demand pilot without such items does anything
        ({"claimable": 2, "on_demand": Side(1, 1)}, Split(spot=1)),
        # the last items go there as far as it fits, the rest to Spot
        ({"claimable": 3, "end_game": True}, Split(on_demand=3)),
        ({"claimable": 3, "end_game": True, "fits": 2}, Split(spot=1, on_demand=2)),
        ({"claimable": 3, "end_game": True, "fits": 0}, Split(spot=3)),
        ({"claimable": 3, "end_game": True, "spot": Side(3, 3, 3)}, Split()),
        # Spot pilots that wait in vain are not counted on, and make room where they keep others out
        ({"claimable": 3, "end_game": True, "stuck": True, "spot": Side(3, 3, 3)}, Split(on_demand=3, make_room=False)),
        ({"claimable": 3, "end_game": True, "stuck": True, "spot": Side(10, 10, 8)}, Split(make_room=True)),
        ({"claimable": 3, "end_game": True, "stuck": True, "spot": Side(10, 10, 8), "fits": 0}, Split()),
        ({"claimable": 3, "stuck": True, "spot": Side(10, 10, 8)}, Split()),
    ],
)
def test_pilots_go_to_spot_but_for_the_last_items_and_those_that_a_user_wants_on_demand(told, expected):
    assert split(**told) == expected


@given(
    claimable=st.integers(0, 50),
    marked=st.integers(0, 20),
    spot=st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)),
    on_demand=st.tuples(st.integers(0, 20), st.integers(0, 20)),
    fits=st.integers(-3, 20),
    pilots=st.integers(1, 30),
    items=st.integers(1, 4),
    end_game=st.booleans(),
    stuck=st.booleans(),
)
def test_whatever_is_wanted_where_the_limit_and_the_ceiling_hold(
    claimable, marked, spot, on_demand, fits, pilots, items, end_game, stuck
):
    here, there = Side(spot[0], min(spot[:2]), min(spot[0], spot[2])), Side(on_demand[0], min(on_demand))
    told = split(
        claimable=claimable,
        marked=marked,
        spot=here,
        on_demand=there,
        fits=fits,
        pilots=pilots,
        items=items,
        end_game=end_game,
        stuck=stuck,
    )
    added = told.spot + told.on_demand
    assert told.spot >= 0
    assert 0 <= told.on_demand <= max(0, fits)
    assert here.live + there.live + added <= max(pilots, here.live + there.live)
    # And nobody is added for whom there is no item
    assert added <= -(-claimable // items) + -(-marked // items)
    if not end_game and not marked:
        assert told.on_demand == 0


@pytest.mark.parametrize(
    ("counts", "items", "last"),
    [
        (Counts(done=95, locked=5), 1, True),
        (Counts(done=94, todo=6), 1, False),
        (Counts(todo=1), 1, True),  # the only item; its first pilot is a Spot one all the same
        (Counts(done=10, todo=3, locked=1), 4, True),  # what one pilot holds
        (Counts(done=10), 1, False),
    ],
)
def test_the_end_game_is_one_item_in_twenty_or_what_one_pilot_holds(counts, items, last):
    assert is_end_game(counts, Limits(items_per_pilot=items)) is last


# ---------------------------------------------------------------------------------------------------- whole runs


def scene_of(home: Path, items: int, pilots: int, spot: int, calm: int, **more: Any) -> tuple[Scene, LocalBatch]:
    scene = Scene(
        items,
        pilots=pilots,
        poll_seconds=POLL,
        clients=lambda clock: LocalBatch(home, clock, {"queue": spot, "calm": calm}),
        on_demand_queue="calm",
        **more,
    )
    return scene, scene.clients


def to_the_end(scene: Scene, batch: LocalBatch, workers: Workers, *, each: Any = lambda now: None) -> Any:
    """Poll until the run has ended; never more pilots than the maximum, nor than the on-demand ceiling."""
    watch, began = scene.watch(), scene.clock.now()
    for _ in range(800):
        each(scene.clock.now() - began)
        batch.settle()
        workers.step()
        outcome = watch.poll()
        assert batch.live() <= scene.run.limits.max_pilots
        assert batch.live("calm") <= batch.ceilings["calm"]
        if outcome is not None:
            return outcome
        scene.clock.move(POLL)
    raise AssertionError(f"the run goes on: {scene.told[-1]}")


@pytest.mark.parametrize("pilots", [10, 3])
def test_the_last_items_that_spot_has_no_machine_for_go_on_demand(tmp_path: Path, pilots: int):
    # Given sixty items, and Spot that takes everything away when three are left, and gives nothing back
    scene, batch = scene_of(tmp_path, 60, pilots, 10, 2)
    workers = Workers(batch, scene.ledger, scene.clock, scene.run_id)

    def spot_goes(_: float) -> None:
        if scene.ledger.counts().open <= 3:
            batch.engine.hold(batch.queue_arn("queue"), NO_SPOT)
            for one in list(batch.jobs.running.values()):
                if one.environment["AWS_BATCH_JQ_NAME"] == "queue":
                    batch.engine.terminate_host(one.job_id)

    workers.seconds = lambda item_id: 600 + 37 * (int(item_id[1:]) % 11)
    outcome = to_the_end(scene, batch, workers, each=spot_goes)
    # Then the run is done in spite of it, the last items by on-demand pilots, all others by Spot
    assert outcome.outcome == "completed"
    moved = [item_id for item_id, queues in workers.where.items() if "calm" in queues]
    assert 1 <= len(moved) <= 5
    assert all(queues[-1] == "calm" for item_id, queues in workers.where.items() if item_id in moved)


def test_spot_pilots_that_wait_in_vain_for_the_last_items_make_room_within_the_maximum(tmp_path: Path):
    # Given forty items of which two are left, and a run whose two pilots wait for Spot that does not come
    scene, batch = scene_of(tmp_path, 40, 2, 0, 8)
    for number in range(38):
        scene.finish(f"i{number}")
    scene.watch().fan_out()
    began = scene.clock.now()
    assert (batch.live("queue"), batch.live("calm")) == (2, 0)
    workers = Workers(batch, scene.ledger, scene.clock, scene.run_id)
    # Then for five minutes Spot is waited for
    waits: list[float] = []

    def seen(now: float) -> None:
        if batch.live("calm") and not waits:
            waits.append(scene.clock.now() - began)

    outcome = to_the_end(scene, batch, workers, each=seen)
    # And then the last items go on demand, the others having been cancelled first
    assert outcome.outcome == "completed"
    assert 300 <= waits[0] <= 300 + 4 * POLL
    assert workers.where["i38"] == workers.where["i39"] == ["calm"]
    assert any("the last items go on demand" in told.note for told in scene.told)
    assert batch.live() == 0


def test_while_more_than_the_last_items_are_left_a_shortage_of_spot_spends_nothing_on_demand(tmp_path: Path):
    # Given forty items, and a shortage of Spot of forty minutes in the middle of the run
    scene, batch = scene_of(tmp_path, 40, 8, 8, 8)
    workers = Workers(batch, scene.ledger, scene.clock, scene.run_id)
    rng = random.Random(5)

    def shortage(now: float) -> None:
        if now == 600:
            batch.engine.hold(batch.queue_arn("queue"), NO_SPOT)
            for one in rng.sample(list(batch.jobs.running.values()), 6):
                batch.engine.terminate_host(one.job_id)
        if now == 3000:
            batch.engine.hold(batch.queue_arn("queue"), "")
            assert batch.live("calm") == 0

    outcome = to_the_end(scene, batch, workers, each=shortage)
    assert outcome.outcome == "completed"
    assert all(queues[-1] == "queue" for queues in workers.where.values())


def test_a_ceiling_of_zero_means_never(tmp_path: Path):
    # Given an on-demand queue with a ceiling of 0, and one item for it
    scene, batch = scene_of(tmp_path, 20, 4, 4, 0)
    scene.ledger.retry(scene.ledger.cancel(scene.ledger.item("i7")), on_demand=True)
    workers = Workers(batch, scene.ledger, scene.clock, scene.run_id)
    watch = scene.watch()
    for _ in range(400):
        workers.step()
        assert watch.poll() is None
        scene.clock.move(POLL)
    # Then everything else is done, nobody has touched that one, and the watch says what to do
    assert scene.ledger.counts() == Counts(done=19, todo=1)
    assert {submission.queue for submission in scene.run.submissions} == {"queue"}
    assert "1 items are for on-demand pilots only" in scene.told[-1].note
    assert "pyanamo deploy --set OnDemandVcpus=1 raises it" in scene.told[-1].note
    # When the ceiling is raised
    batch.ceilings["calm"] = 1
    batch.engine.set_ceiling("calm-machines", 1)
    outcome = to_the_end(scene, batch, workers)
    assert outcome.outcome == "completed"
    assert workers.where["i7"] == ["calm"]


def test_items_that_a_user_retries_on_demand_wait_for_no_spot_pilot(tmp_path: Path):
    # Given a run with Spot pilots at work, and an item that is retried on demand meanwhile
    scene, batch = scene_of(tmp_path, 30, 6, 5, 2)
    workers = Workers(batch, scene.ledger, scene.clock, scene.run_id)

    def retried(now: float) -> None:
        if now == 300:
            item = next(scene.ledger.items(State.TODO))
            scene.ledger.retry(scene.ledger.cancel(item), on_demand=True)
            told.append(item.item_id)

    told: list[str] = []
    outcome = to_the_end(scene, batch, workers, each=retried)
    # Then a pilot of the on-demand queue did it, and no Spot pilot
    assert outcome.outcome == "completed"
    assert set(workers.where[told[0]]) == {"calm"}


def test_a_fan_out_serves_both_queues(tmp_path: Path):
    scene, _ = scene_of(tmp_path, 10, 6, 10, 10)
    for name in ("i1", "i2"):
        scene.ledger.retry(scene.ledger.cancel(scene.ledger.item(name)), on_demand=True)
    run = scene.watch().fan_out()
    assert [(each.queue, each.size) for each in run.submissions] == [("calm", 2), ("queue", 4)]


def test_a_queue_that_refuses_on_demand_pilots_leaves_the_run_to_spot():
    # Given a role that may not submit to the on-demand queue, and an item for it
    scene = Scene(items=4, pilots=4, on_demand_queue="calm")
    scene.batch.queues["calm"] = scene.batch.queues["queue"] | {"jobQueueName": "calm"}
    scene.ledger.retry(scene.ledger.cancel(scene.ledger.item("i0")), on_demand=True)
    denied = refused("SubmitJob", "AccessDeniedException", "not authorized to submit to calm", 403)
    scene.batch.submit_faults = [denied]
    # When it is watched
    watch = scene.watch()
    scene.polls(watch, 4)
    # Then Spot pilots were submitted, the run is alive, and it is said what does not go
    assert [len(job.children) for job in scene.batch.jobs] == [3]
    assert scene.run.mode == "run"
    assert "the on-demand queue takes no pilots: AWS refused SubmitJob" in scene.told[-1].note
    # And some minutes later it is tried again
    scene.polls(watch, 31)
    assert [job.asked["jobQueue"] for job in scene.batch.jobs] == ["queue", "calm"]


def test_a_run_whose_last_items_are_for_on_demand_pilots_that_no_queue_is_named_for_stops_and_says_so():
    scene = Scene(items=2, pilots=2)
    scene.ledger.retry(scene.ledger.cancel(scene.ledger.item("i0")), on_demand=True)
    watch = scene.watch()
    scene.polls(watch)
    scene.finish("i1")
    scene.batch.job().set("SUCCEEDED")
    outcome = scene.polls(watch, 10)
    assert outcome is not None
    assert outcome.outcome == "stopped"
    assert outcome.reason == "1 items are for on-demand pilots only, and the workflow names no on_demand_queue"


def test_explain_says_why_items_for_on_demand_pilots_are_left(tmp_path: Path):
    # Given a run of which only such an item is left
    for more, words in (
        ({"on_demand_queue": ""}, "the workflow names no on_demand_queue"),
        ({}, "has a ceiling of 0 vCPUs, a pilot needs 1: pyanamo deploy --set OnDemandVcpus=1 raises it"),
    ):
        scene = Scene(
            1,
            clients=lambda clock: LocalBatch(tmp_path, clock, {"queue": 4, "calm": 0}),
            **({"on_demand_queue": "calm"} | more),
        )
        scene.ledger.retry(scene.ledger.cancel(scene.ledger.item("i0")), on_demand=True)
        # When it is asked why
        found = findings(observe(Batch(scene.clients), scene.ledger, scene.run, scene.workflow, clock=scene.clock))
        # Then that is said, with what to do, and not that items wait for their next try
        (told,) = [one for one in found if one.code == "on_demand_only"]
        assert told.fact.startswith("1 item for on-demand pilots only; ")
        assert words in told.fact
        assert "--anywhere" in told.advice
        assert not any(one.code == "all_wait" for one in found)
