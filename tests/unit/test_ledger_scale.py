"""From how a table is scaled to how it should be: which calls, in which order, and none for what is so already."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyanamo_core.ledger.scale import (
    PLACES,
    Bounds,
    Kind,
    Place,
    Scaling,
    Step,
    Wanted,
    steps,
    units_of_beats,
    warm_steps,
)

ON_DEMAND = Scaling("Calls", Kind.ON_DEMAND)
WIDE: dict[Place, Bounds] = dict.fromkeys(PLACES, Bounds(25, 4000))
AUTO = Wanted(Kind.AUTOSCALING, WIDE)


def ordered(units: int) -> dict[Place, int]:
    return dict.fromkeys(PLACES, units)


def just(units: int) -> Wanted:
    return Wanted(Kind.PROVISIONED, dict.fromkeys(PLACES, Bounds.just(units)))


def calls(found: list[Step]) -> list[str]:
    return [step.operation for step in found]


def test_from_on_demand_to_provisioned_is_one_call_for_table_and_index() -> None:
    (step,) = steps(ON_DEMAND, just(50))
    assert step.operation == "UpdateTable"
    both = {"ReadCapacityUnits": 50, "WriteCapacityUnits": 50}
    assert step.asked == {
        "TableName": "Calls",
        "BillingMode": "PROVISIONED",
        "ProvisionedThroughput": both,
        "GlobalSecondaryIndexUpdates": [{"Update": {"IndexName": "by-queue", "ProvisionedThroughput": both}}],
    }


def test_only_what_differs_is_sent_since_aws_refuses_a_change_that_changes_nothing() -> None:
    now = Scaling("Calls", Kind.PROVISIONED, ordered(50))
    assert steps(now, just(50)) == []
    wanted = replace(just(50), bounds={**just(50).bounds, ("index", "writes"): Bounds.just(100)})
    (step,) = steps(now, wanted)
    (update,) = step.asked["GlobalSecondaryIndexUpdates"]
    assert update["Update"]["ProvisionedThroughput"] == {"ReadCapacityUnits": 50, "WriteCapacityUnits": 100}
    assert {"ProvisionedThroughput", "BillingMode"} & set(step.asked) == set()


def test_autoscaling_registers_all_four_places_after_units_were_ordered() -> None:
    found = steps(ON_DEMAND, AUTO)
    assert calls(found) == ["UpdateTable", *["RegisterScalableTarget", "PutScalingPolicy"] * 4]
    assert found[0].asked["ProvisionedThroughput"] == {"ReadCapacityUnits": 25, "WriteCapacityUnits": 25}
    told = {(one.asked["ResourceId"], one.asked["ScalableDimension"]) for one in found[1:]}
    assert told == {
        ("table/Calls", "dynamodb:table:ReadCapacityUnits"),
        ("table/Calls", "dynamodb:table:WriteCapacityUnits"),
        ("table/Calls/index/by-queue", "dynamodb:index:ReadCapacityUnits"),
        ("table/Calls/index/by-queue", "dynamodb:index:WriteCapacityUnits"),
    }


@pytest.mark.parametrize("taken", range(10))
def test_broken_off_after_any_step_the_rest_is_done_and_no_more(taken: int) -> None:
    # Given autoscaling that was broken off after so many of its nine steps
    whole = steps(ON_DEMAND, AUTO)
    now = ON_DEMAND
    for step in whole[:taken]:
        now = after(now, step)
    # When the same is asked again, then exactly the rest is called
    assert calls(steps(now, AUTO)) == calls(whole[taken:])


def after(now: Scaling, step: Step) -> Scaling:
    """How the table is scaled after a step, as `look` would tell."""
    if step.operation == "UpdateTable":
        return replace(now, kind=Kind.PROVISIONED, units=ordered(25))
    part = "index" if "/index/" in step.asked["ResourceId"] else "table"
    place = (part, "reads" if "Read" in step.asked["ScalableDimension"] else "writes")
    if step.operation == "RegisterScalableTarget":
        bounds = Bounds(step.asked["MinCapacity"], step.asked["MaxCapacity"])
        return replace(now, kind=Kind.AUTOSCALING, bounds={**now.bounds, place: bounds})
    percent = step.asked["TargetTrackingScalingPolicyConfiguration"]["TargetValue"]
    return replace(now, targets_percent={**now.targets_percent, place: percent})


def test_units_that_load_has_raised_stay_when_bounds_change() -> None:
    # Given a table that autoscaling has brought to 900 units
    now = Scaling("Calls", Kind.AUTOSCALING, ordered(900), WIDE, dict.fromkeys(PLACES, 70.0))
    # When only the upper bound is raised, then no unit is ordered; when it falls below 900, they follow
    higher = Wanted(Kind.AUTOSCALING, dict.fromkeys(PLACES, Bounds(25, 9000)))
    assert calls(steps(now, higher)) == ["RegisterScalableTarget"] * 4
    lower = Wanted(Kind.AUTOSCALING, dict.fromkeys(PLACES, Bounds(25, 500)))
    found = steps(now, lower)
    assert calls(found) == ["UpdateTable", *["RegisterScalableTarget"] * 4]
    assert found[0].asked["ProvisionedThroughput"]["WriteCapacityUnits"] == 500


@pytest.mark.parametrize(("wanted", "last"), [(Wanted(Kind.ON_DEMAND), "PAY_PER_REQUEST"), (just(30), None)])
def test_what_scales_by_itself_is_let_go_first(wanted: Wanted, last: str | None) -> None:
    now = Scaling("Calls", Kind.AUTOSCALING, ordered(25), WIDE, dict.fromkeys(PLACES, 70.0))
    found = steps(now, wanted)
    assert calls(found) == [*["DeregisterScalableTarget"] * 4, "UpdateTable"]
    assert found[-1].asked.get("BillingMode") == last


def test_warmth_is_raised_where_it_is_less_and_never_lowered() -> None:
    now = replace(ON_DEMAND, warm={("table", "writes"): 4000, ("index", "writes"): 40_000, ("table", "reads"): 12_000})
    (step,) = warm_steps(now, reads=12_000, writes=20_000)
    assert step.asked["WarmThroughput"] == {"WriteUnitsPerSecond": 20_000}
    (update,) = step.asked["GlobalSecondaryIndexUpdates"]
    assert update["Update"]["WarmThroughput"] == {"ReadUnitsPerSecond": 12_000}
    assert warm_steps(now, reads=None, writes=4000) == []


def test_the_beats_of_a_thousand_pilots_need_so_many_units() -> None:
    # 3,000 items held, a beat of each every 200 s: 15 a second, each one unit of the table and two of the index
    assert units_of_beats(3000, 200.0) == {("table", "writes"): 15.0, ("index", "writes"): 30.0}
