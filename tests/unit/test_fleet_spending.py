"""max_dollars: what a run's pilots have cost and will, when nothing more is begun, when all is handed back, and why it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from fleet_support import Scene

from pyanamo_core import canary, driver
from pyanamo_core.cost.prices import price_list
from pyanamo_core.errors import RunConflict
from pyanamo_core.fleet import plan
from pyanamo_core.fleet.spending import Spending, hand_back_for_dollars, spending, stop_for_dollars, told
from pyanamo_core.ledger.run_rows import read_run, run_row
from pyanamo_core.model import Cause, Claim, Definition, Mode, PilotRecord, Run, VcpuHour

PRICES = VcpuHour(spot=(0.01, 0.03), on_demand=(0.05, 0.06))
HOUR = 3600.0
NOW = 1_000_000.0


def a_run(max_dollars: float | None = 10.0, **more: Any) -> Run:
    return Run(run_id="run", workflow_version=1, token="t", max_dollars=max_dollars, vcpu_hour=PRICES, **more)


def a_pilot(name: str, hours: float, **more: Any) -> PilotRecord:
    told = {"pilot_id": name, "started": NOW - hours * HOUR, "last_beat": NOW, "lifecycle": "spot"}
    return PilotRecord.model_validate(told | more)


def seen(*pilots: PilotRecord, run: Run | None = None, vcpus: float = 4.0) -> Spending:
    found = spending(run or a_run(), plan.sort_pilots(pilots, now=NOW, fresh_seconds=600), vcpus=vcpus, now=NOW)
    assert found is not None
    return found


def test_compute_is_counted_from_start_to_end_at_the_price_of_its_queue() -> None:
    # Given a pilot that lives for two hours, one that ended after one, one on demand, and one silent since half an hour
    found = seen(
        a_pilot("lives", 2),
        a_pilot("ended", 5, ended=NOW - 4 * HOUR),
        a_pilot("dear", 1, lifecycle="on-demand"),
        a_pilot("silent", 3, last_beat=NOW - 0.5 * HOUR),
    )
    # Then 4 vCPUs for 2 + 1 + 2.5 hours of Spot and 1 on demand
    assert found.low == pytest.approx(4 * (5.5 * 0.01 + 1 * 0.05))
    assert found.high == pytest.approx(4 * (5.5 * 0.03 + 1 * 0.06))
    assert found.committed == 0


def test_a_pilot_of_the_on_demand_queue_is_on_demand_though_nobody_said_so() -> None:
    # Given pilots without metadata, one of the on-demand queue, one of another
    def of(queue: str, **more: Any) -> Spending:
        pilots = plan.sort_pilots([a_pilot("p", 1, lifecycle="", job_queue=queue)], now=NOW, fresh_seconds=600)
        found = spending(a_run(), pilots, vcpus=4, now=NOW, **more)
        assert found is not None
        return found

    dear = of("dear", on_demand_queue="arn:aws:batch:us-east-1:1:job-queue/dear")
    assert (dear.low, dear.high) == pytest.approx((4 * 0.05, 4 * 0.06))
    # Then of the other it may be either
    other = of("spot", on_demand_queue="dear")
    assert (other.low, other.high) == pytest.approx((4 * 0.01, 4 * 0.06))


@pytest.mark.parametrize(
    ("instance", "on_demand"), [("r5.2xlarge", 0.063), ("m5d.xlarge", 0.0565), ("m5.large", 0.048)]
)
def test_spot_may_cost_as_much_as_its_type_on_demand(instance: str, on_demand: float) -> None:
    run = a_run().model_copy(update={"vcpu_hour": driver.vcpu_hour_of(price_list("us-east-1"))})
    for lifecycle in ("spot", "on-demand", ""):
        told = seen(a_pilot("p", 10, instance_type=instance, lifecycle=lifecycle), run=run)
        # 200 GiB of volume and an address for ten hours beside it
        assert told.high == pytest.approx(10 * (4 * on_demand + 200 * 0.08 / 730 + 0.005), rel=1e-4)
        assert told.low < told.high


def test_a_host_has_one_volume_and_address_for_all_its_pilots() -> None:
    run = a_run().model_copy(update={"vcpu_hour": VcpuHour(spot=(0, 0), on_demand=(0, 0), machine=(0.02, 0.03))})
    found = seen(a_pilot("a", 3, host="h1"), a_pilot("b", 2, host="h1"), a_pilot("c", 1, host="h2"), run=run)
    assert found.high == pytest.approx(4 * 0.03)
    # 24 vCPU hours fill half an hour of the biggest machine
    assert found.low == pytest.approx(24 / 48 * 0.02)


def test_own_prices_of_spot_are_the_upper_end(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("spot_vcpu_hour: [0.02, 0.025]\n")
    run = a_run().model_copy(update={"vcpu_hour": driver.vcpu_hour_of(price_list("us-east-1", own))})
    told = seen(a_pilot("p", 1, instance_type="r5.large"), run=run)
    assert told.high == pytest.approx(4 * 0.025 + 200 * 0.08 / 730 + 0.005, rel=1e-4)
    own.write_text("instances: {m5: 0.2}\n")
    told = driver.vcpu_hour_of(price_list("us-east-1", own))
    assert told.spot[1] == told.on_demand[1] == 0.2
    # And without any, Spot may be as dear as the dearest of the stack's types
    told = driver.vcpu_hour_of(price_list("us-east-1"))
    assert told.spot[1] == told.on_demand[1] == 0.063


def test_a_canary_has_paid_for_pilots_that_said_no_farewell() -> None:
    # Given a canary of which one pilot ended after an hour, and another was taken by Spot after three
    scene = Scene(2)
    scene.ledger._runs["run"] = scene.run.model_copy(update={"only": ("i0",), "vcpu_hour": PRICES})
    now = scene.clock.now()
    scene.pilot("ended", started=now - HOUR, ended=now, lifecycle="spot")
    scene.pilot("taken", started=now - 4 * HOUR, last_beat=now - HOUR, lifecycle="spot")
    scene.ledger.end_run("run", "completed", "")
    found = canary.measured(scene.ledger, scene.run, scene.workflow)
    # Then both were paid for
    assert found.vcpu_hours == pytest.approx(4 * scene.workflow.vcpus)
    assert found.dollars == pytest.approx((4 * 0.01, 4 * 0.03))


def test_held_items_are_committed_by_the_mean_of_the_finished_ones() -> None:
    # Given pilots that finished 5 items in 10 hours, of which one holds two now
    holds = a_pilot("holds", 6, items_done=3, holding=("a", "b"))
    found = seen(holds, a_pilot("ended", 4, ended=NOW, items_done=1, items_failed=1))
    # Then each takes two hours of a pilot, and half of that is left on average: 2 × 2 h × ½
    assert found.committed == pytest.approx(4 * 2 * 0.03)


def test_while_no_item_is_finished_as_much_again_is_committed() -> None:
    assert seen(a_pilot("holds", 3, holding=("a",))).committed == pytest.approx(4 * 3 * 0.03)


def test_a_run_of_before_prices_spends_nothing_and_stops_for_none() -> None:
    old = Run(run_id="run", workflow_version=1, token="t", max_dollars=1)
    assert spending(old, plan.Pilots(), vcpus=1, now=NOW) is None
    assert stop_for_dollars(old, None) == hand_back_for_dollars(old, None) == ""


@pytest.mark.parametrize(
    ("high", "committed", "stops", "hands_back"),
    [(4.0, 5.9, False, False), (4.0, 6.0, True, False), (9.99, 0.01, True, False), (10.0, 0.0, True, True)],
)
def test_first_nothing_is_begun_then_all_is_handed_back(
    high: float, committed: float, stops: bool, hands_back: bool
) -> None:
    found = Spending(1.0, high, committed)
    assert bool(stop_for_dollars(a_run(), found)) is stops
    assert bool(hand_back_for_dollars(a_run(), found)) is hands_back
    assert stop_for_dollars(a_run(max_dollars=None), found) == ""


@pytest.mark.parametrize(("limit", "high"), [(0.002, 0.0021), (50, 41.2), (123_456, 123_000.5)])
def test_the_reason_fits_into_the_runs_row(limit: float, high: float) -> None:
    assert len((plan.STOPPED + told(limit, Spending(0, high, high / 3))).encode()) <= 80


def test_a_runs_row_holds_limit_prices_and_chosen_items_and_older_rows_load() -> None:
    run = a_run(only=("NA12878", "NA12891"))
    assert read_run(run_row(run)) == run
    row = {name: value for name, value in run_row(run).items() if name not in ("max_dollars", "vcpu_hour", "only")}
    assert read_run(row) == run.model_copy(update={"max_dollars": None, "vcpu_hour": None, "only": ()})


# ------------------------------------------------------------------------------------------------------ the watcher


def dear_scene(items: int, dollars: float, pilots: int = 2) -> Scene:
    """A run whose pilot of one vCPU costs 3.6 dollars an hour: a tenth of a cent each second."""
    scene = Scene(items, pilots=pilots)
    scene.ledger._runs["run"] = scene.run.model_copy(
        update={"max_dollars": dollars, "vcpu_hour": VcpuHour(spot=(1.8, 3.6), on_demand=(7.2, 7.2))}
    )
    return scene


def beat(scene: Scene, claim: Claim, pilot: str) -> Claim:
    """A pilot keeps its item."""
    beaten = scene.ledger.beat(claim, progressed=True, nests_done=0, nests_failed=0)
    scene.pilot(pilot)
    return claim.model_copy(update={"deadline": beaten.deadline})


def test_a_run_ends_as_stopped_when_spent_and_committed_reach_the_limit() -> None:
    # Given two pilots of which each holds an item, and more items than half a dollar pays
    scene = dear_scene(6, 0.5)
    watch = scene.watch()
    scene.polls(watch, 3)
    (job,) = scene.batch.jobs
    job.set("RUNNING")
    for name, item in (("p1", "i0"), ("p2", "i1")):
        scene.claim(item, name)
        scene.pilot(name, claims=1, holding=(item,), lifecycle="spot", batch_job=f"{job.job_id}:{name[1]}")
    # When they have lived for 130 s each: 0.26 spent, and as much again committed
    for _ in range(14):
        assert scene.polls(watch) is None
        for name in ("p1", "p2"):
            scene.pilot(name)
    # Then the run begins nothing more; the pilots finish what they hold
    run = scene.run
    assert (run.mode, run.hand_back) == (Mode.DRAIN, False)
    assert run.reason.startswith("stopped: max_dollars $0.50: spent")
    # When the spent alone has reached it, they hand back
    for _ in range(16):
        scene.polls(watch)
        for name in ("p1", "p2"):
            scene.pilot(name)
    assert scene.run.hand_back
    # When they have left, then the run has ended as stopped, and says why
    for name in ("p1", "p2"):
        scene.pilot(name, ended=scene.clock.now(), leaving="drained", exit_code=0, holding=())
    job.set("SUCCEEDED")
    outcome = scene.polls(watch, 30)
    assert outcome is not None
    assert (outcome.outcome, scene.run.outcome) == ("stopped", "stopped")
    assert outcome.reason.startswith("max_dollars $0.50: spent ≤ $0.5")


def test_a_limit_that_is_reached_starts_no_pilots_again() -> None:
    # Given a run that has spent its dollars, whose pilots were taken away by Spot
    scene = dear_scene(3, 0.1)
    scene.pilot("p1", claims=1, ended=scene.clock.now() + 1, leaving="spot", lifecycle="spot")
    scene.clock.move(200)
    scene.pilot("p2", started=scene.clock.now() - 200, claims=1, ended=scene.clock.now(), leaving="spot")
    # When it is carried on, then nothing is submitted
    scene.watch().fan_out()
    assert scene.run.submissions == ()


def test_where_nothing_is_left_to_begin_a_limit_changes_nothing() -> None:
    # Given the last item of a run, held, and a limit that spent and committed have reached
    scene = dear_scene(1, 0.5, pilots=1)
    watch = scene.watch()
    scene.polls(watch, 2)
    claim = scene.claim("i0", "p1")
    scene.clock.move(150)
    scene.pilot("p1", started=scene.clock.now() - 260, claims=1, holding=("i0",), lifecycle="spot")
    claim = beat(scene, claim, "p1")
    scene.polls(watch, 3)
    # Then the run goes on, so that it can end as completed
    assert scene.run.mode is Mode.RUN
    # But not beyond the limit, though the pilot beats and its item cannot be claimed
    for _ in range(30):
        scene.polls(watch)
        claim = beat(scene, claim, "p1")
    assert (scene.run.mode, scene.run.hand_back) == (Mode.DRAIN, True)
    assert scene.run.reason.startswith("stopped: max_dollars $0.50: spent")


def test_a_limit_holds_while_batch_is_silent() -> None:
    # Given a run whose last item is held, and a Batch that answers no more
    scene = dear_scene(1, 0.5, pilots=1)
    watch = scene.watch()
    scene.polls(watch, 2)
    claim = scene.claim("i0", "p1")
    scene.pilot("p1", claims=1, holding=("i0",), lifecycle="spot")
    scene.polls(watch)

    def describe_jobs(**asked: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="batch")

    scene.batch.describe_jobs = describe_jobs
    # When its pilot has cost the limit
    for _ in range(55):
        scene.polls(watch)
        claim = beat(scene, claim, "p1")
    # Then it is told to hand back
    assert (scene.run.mode, scene.run.hand_back) == (Mode.DRAIN, True)


def test_the_limit_comes_from_the_workflow_unless_the_run_has_its_own() -> None:
    scene = Scene(1)
    workflow = scene.workflow.model_copy(
        update={"budgets": scene.workflow.budgets.model_copy(update={"max_dollars": 7.0})}
    )
    assert driver.begin(scene.ledger, 1, workflow, run_id="a").max_dollars == 7.0
    mine = driver.begin(scene.ledger, 1, workflow, run_id="b", max_dollars=3.0)
    assert mine.max_dollars == 3.0
    # Given again without a limit it is the same run; with another it is refused
    assert driver.begin(scene.ledger, 1, workflow, run_id="b") == mine
    with pytest.raises(RunConflict, match="another max dollars"):
        driver.begin(scene.ledger, 1, workflow, run_id="b", max_dollars=4.0)


def test_the_newest_figures_of_dollars_are_told_at_each_poll() -> None:
    scene = dear_scene(2, 100.0)
    scene.pilot("p1", started=scene.clock.now() - 100, lifecycle="spot", holding=("i0",))
    scene.polls(scene.watch())
    told = scene.told[-1].spending
    assert (told.low, told.high) == pytest.approx((0.05, 0.1))


def test_a_canary_submits_for_its_items_only_and_ends_with_them() -> None:
    # Given a run of two chosen items in a table of fifty
    scene = Scene(50, pilots=20)
    scene.ledger._runs["run"] = scene.run.model_copy(update={"only": ("i7", "i9")})
    watch = scene.watch()
    scene.polls(watch, 3)
    # Then two pilots are enough
    (job,) = scene.batch.jobs
    assert len(job.children) == 2
    # When both items are done, and their pilots gone
    for item in ("i7", "i9"):
        scene.finish(item)
    job.set("SUCCEEDED")
    outcome = scene.polls(watch, 10)
    # Then the run has completed, of its items, while the others are to do
    assert outcome is not None
    assert (outcome.outcome, outcome.counts.total, outcome.counts.done) == ("completed", 2, 2)
    assert scene.ledger.counts().todo == 48


def test_a_canary_waits_for_a_chosen_item_that_will_be_tried_again() -> None:
    scene = Scene(5, pilots=5)
    scene.ledger._runs["run"] = scene.run.model_copy(update={"only": ("i1",)})
    watch = scene.watch()
    scene.polls(watch, 2)
    (job,) = scene.batch.jobs
    scene.ledger.wait(scene.claim("i1", "p"), Cause.TASK_ERROR, "no", delay_seconds=100)
    job.set("SUCCEEDED")
    assert scene.polls(watch, 5) is None
    scene.clock.move(100)
    scene.finish("i1")
    for each in scene.batch.jobs:
        each.set("SUCCEEDED")
    outcome = scene.polls(watch, 10)
    assert outcome is not None
    assert outcome.outcome == "completed"


def test_items_imported_later_are_none_of_a_canary() -> None:
    scene = Scene(1, pilots=4)
    scene.ledger._runs["run"] = scene.run.model_copy(update={"only": ("i0",)})
    scene.ledger.import_item("late", "t", Definition(script="true"))
    watch = scene.watch()
    scene.polls(watch, 3)
    (job,) = scene.batch.jobs
    assert len(job.children) == 1
