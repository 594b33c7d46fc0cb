"""The fleet's decisions, by table and by property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyanamo_core.fleet import plan
from pyanamo_core.fleet.plan import Fruitless
from pyanamo_core.fleet.progress import Rate
from pyanamo_core.model import Cause, Counts, Mode, PilotRecord, Run

SMALL = st.integers(0, 200)


@pytest.mark.parametrize(
    ("pilots", "sizes"),
    [
        (0, ()),
        (1, (1,)),
        (2, (2,)),
        (10_000, (10_000,)),
        (10_001, (10_000, 1)),
        (25_000, (10_000, 10_000, 5_000)),
    ],
)
def test_pilots_are_cut_into_arrays_of_at_most_ten_thousand_and_a_single_one_is_a_plain_job(pilots, sizes):
    assert plan.array_sizes(pilots) == sizes


@given(st.integers(0, 100_000))
def test_the_arrays_together_hold_every_pilot_once(pilots):
    sizes = plan.array_sizes(pilots)
    assert sum(sizes) == pilots
    assert all(1 <= size <= plan.ARRAY_MAX for size in sizes)


@pytest.mark.parametrize(
    ("claimable", "items_per_pilot", "could_claim", "live", "max_pilots", "pilots"),
    [
        (100, 1, 0, 0, 10, 10),  # the start: the limit decides
        (3, 1, 0, 0, 10, 3),  # little work: the work decides
        (10, 4, 0, 0, 10, 3),  # three pilots hold 4 + 4 + 2
        (0, 1, 0, 0, 10, 0),
        (5, 1, 2, 2, 10, 3),  # two are there and will claim two of the five
        (5, 1, 5, 5, 10, 0),
        (5, 1, 0, 2, 10, 5),  # two live and are leaving: they claim no more
        (5, 1, 0, 8, 10, 2),  # … but they count against the limit
        (5, 1, 9, 12, 10, 0),  # never negative
    ],
)
def test_top_up_is_the_smaller_of_what_the_work_asks_for_and_what_the_limit_leaves(
    claimable, items_per_pilot, could_claim, live, max_pilots, pilots
):
    asked = {"claimable": claimable, "items_per_pilot": items_per_pilot, "could_claim": could_claim}
    assert plan.plan_top_up(**asked, live=live, max_pilots=max_pilots) == pilots


@given(SMALL, st.integers(1, 8), SMALL, SMALL, SMALL)
def test_top_up_never_exceeds_the_limit_nor_the_work_and_leaves_no_item_without_a_pilot_below_the_limit(
    claimable, items_per_pilot, could_claim, leaving, max_pilots
):
    live = could_claim + leaving
    added = plan.plan_top_up(
        claimable=claimable,
        items_per_pilot=items_per_pilot,
        could_claim=could_claim,
        live=live,
        max_pilots=max_pilots,
    )
    assert added >= 0
    assert added == 0 or live + added <= max_pilots
    assert added * items_per_pilot < claimable + items_per_pilot
    if added and live + added < max_pilots:
        assert (could_claim + added) * items_per_pilot >= claimable


def test_a_top_up_after_fruitless_ones_waits_longer_each_time_and_never_above_ten_minutes():
    waits = [plan.backed_off(15.0, rounds) for rounds in range(9)]
    assert waits == [0, 15, 30, 60, 120, 240, 480, 600, 600]


def pilot(name: str, **told) -> PilotRecord:
    return PilotRecord(pilot_id=name, **({"started": 1000.0, "last_beat": 1000.0, "host": "h1"} | told))


def test_pilots_are_fresh_silent_or_ended_by_what_their_rows_say():
    # Given one that beats, one that beats and leaves, one that is silent, one that has said goodbye
    rows = [
        pilot("a", claims=2),
        pilot("b", leaving="empty"),
        pilot("c", last_beat=900.0, started=800.0),
        pilot("d", last_beat=900.0, ended=950.0, claims=1),
    ]
    # When they are sorted
    sorted_ = plan.sort_pilots(rows, now=1010.0, fresh_seconds=20.0)
    # Then each stands where it belongs
    assert [p.pilot_id for p in sorted_.fresh] == ["a", "b"]
    assert [p.pilot_id for p in sorted_.silent] == ["c"]
    assert [p.pilot_id for p in sorted_.ended] == ["d"]
    assert (sorted_.leaving, sorted_.claims, len(sorted_)) == (1, 3, 4)


def test_pilots_whose_job_or_attempt_batch_calls_ended_do_not_count_as_living_although_their_beats_are_fresh():
    sorted_ = plan.sort_pilots(
        [
            pilot("a", batch_job="j1:0", batch_attempt=1),
            pilot("b", batch_job="j1:1", batch_attempt=1),
            pilot("c", batch_job="j1:1", batch_attempt=2),
            pilot("d", batch_job="j2", batch_attempt=1),
        ],
        now=1000.0,
        fresh_seconds=20.0,
    )
    # Given attempt 1 of a child beside attempt 2: one of them is over, whoever says so
    assert plan.still_beating(sorted_, set(), set()) == 3
    assert plan.still_beating(sorted_, set(), {("j1:0", 1)}) == 2
    assert plan.still_beating(sorted_, {"j2"}, {("j1:1", 1)}) == 2


ANY = "CannotPullContainerError: no such image"


@pytest.mark.parametrize(
    ("hosts", "live", "stops"),
    [
        (["h1", "h2"], 0, False),
        (["h1", "h2", "h3"], 0, True),
        (["h1", "h2", "h3"], 20, True),
        (["h1"] * 50, 20, False),  # one bad host swallows pilots while others live
        (["h1"] * 4, 0, False),
        (["h1"] * 5, 0, True),  # a fleet on one machine, nobody left
        ([""] * 5, 0, True),  # hosts unknown
        (["h1", "h2", "h3"], 1000, False),  # three of a thousand say little
        ([f"h{n % 7}" for n in range(20)], 1000, True),
    ],
)
def test_a_run_stops_when_pilots_on_three_hosts_end_without_a_claim(hosts, live, stops):
    reason = plan.stop_for_fruitless([Fruitless(host, ANY) for host in hosts], live=live)
    assert bool(reason) is stops
    assert not stops or ANY in reason


@pytest.mark.parametrize(
    ("told", "fruitless"),
    [
        ({"leaving": "empty", "exit_code": 0}, False),
        ({"leaving": "set_up: no table", "exit_code": 1}, True),
        ({"leaving": "set_up: no table", "exit_code": 1, "claims": 1}, False),
        ({"leaving": "host_fault: disk full", "exit_code": 75}, False),
        ({"leaving": "drained", "exit_code": 75}, False),
        ({"leaving": "", "exit_code": 4}, True),
    ],
)
def test_a_pilot_is_fruitless_if_it_claimed_nothing_and_its_end_speaks_against_the_run(told, fruitless):
    assert plan.is_fruitless(pilot("a", ended=1001.0, **told)) is fruitless


def test_a_wrong_set_up_must_be_seen_by_two_hosts_or_by_the_only_one():
    seen = pilot("a", host="h1", leaving=f"{Cause.SET_UP}: reference 404")
    other = pilot("b", host="h2")
    assert "reference 404" in plan.stop_for_set_up([seen])
    assert plan.stop_for_set_up([seen, other]) == ""
    assert plan.stop_for_set_up([seen], unknown=1) == ""  # one that has not said yet where it runs
    assert "reference 404" in plan.stop_for_set_up(
        [seen, other, pilot("c", host="h3", leaving="set_up: reference 404")]
    )


def test_the_limit_of_failures_stops_a_run_when_it_is_reached():
    assert plan.stop_for_failures(Counts(failed=2), 3) == ""
    assert "3 items" in plan.stop_for_failures(Counts(failed=3), 3)
    assert plan.stop_for_failures(Counts(failed=99), None) == ""


def a_run(mode: Mode = Mode.RUN, reason: str = "") -> Run:
    return Run(run_id="r", mode=mode, workflow_version=1, token="t", reason=reason)


@pytest.mark.parametrize(
    ("run", "counts", "outcome"),
    [
        (a_run(), Counts(done=3), "completed"),
        (a_run(), Counts(), "completed"),
        (a_run(), Counts(done=3, cancelled=1), "completed"),
        (a_run(), Counts(done=3, failed=1), "failed"),
        (a_run(Mode.CANCEL), Counts(done=3, todo=1), "cancelled"),
        (a_run(Mode.DRAIN), Counts(done=3, todo=1), "drained"),
        (a_run(Mode.DRAIN), Counts(done=3), "completed"),
        (a_run(Mode.DRAIN, "stopped: too many"), Counts(failed=3, todo=1), "stopped"),
    ],
)
def test_a_run_ends_with_the_outcome_that_its_mode_and_its_items_say(run, counts, outcome):
    assert plan.outcome_of(run, counts)[0] == outcome


def test_a_stopped_run_tells_its_reason_without_the_mark():
    assert plan.outcome_of(a_run(Mode.DRAIN, plan.STOPPED + "too many"), Counts(todo=1))[1] == "too many"


def test_a_job_is_missing_after_a_minute_and_two_polls_not_before():
    # Given a job that one poll does not show
    first = plan.still_absent(None, 100.0)
    # Then neither a long time alone nor a second poll alone makes it missing
    assert not plan.is_missing(first, 170.0, seconds=60, polls=2)
    second = plan.still_absent(first, 110.0)
    assert not plan.is_missing(second, 110.0, seconds=60, polls=2)
    # But both do
    assert plan.is_missing(plan.still_absent(second, 161.0), 161.0, seconds=60, polls=2)


def test_the_rate_is_that_of_the_window_and_gives_the_eta():
    # Given 10 items in the first hour, and one a second in the last minutes
    rate = Rate(window_seconds=100)
    rate.see(0, 0)
    rate.see(3600, 10)
    for second in range(1, 201):
        rate.see(3600 + second, 10 + second)
    # Then only the window counts
    assert rate.per_second == pytest.approx(1.0)
    assert rate.eta_seconds(50) == pytest.approx(50.0)
    assert rate.eta_seconds(0) == 0.0


def test_without_progress_there_is_no_eta_and_a_reset_starts_the_rate_anew():
    rate = Rate()
    assert rate.eta_seconds(5) is None
    rate.see(0, 100)
    rate.see(10, 100)
    assert rate.eta_seconds(5) is None
    rate.see(20, 90)
    assert rate.per_second == 0.0
