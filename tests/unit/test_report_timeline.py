"""The timeline puts each nest on a free lane of its pilot, to scale."""

from __future__ import annotations

import itertools

import pytest

from pyanamo_core.model import PilotRecord, State
from pyanamo_core.report.results import Result
from pyanamo_core.report.timeline import LABEL, WIDTH, draw, duration

START = 1_800_000_000.0


def nest(number: int, begun: float, ended: float | None, *, pilot: str = "p1", item: str = "A", status: str = "done"):
    return Result(
        item_id=item,
        task_id="t",
        nest=number,
        value=f"demo1:{number}-{number}",
        item_state=State.DONE,
        status=status,
        started=START + begun,
        ended=None if ended is None else START + ended,
        pilot_id=pilot,
    )


def pilot(name: str, begun: float, ended: float | None, index: int | None = None) -> PilotRecord:
    return PilotRecord(
        pilot_id=name,
        started=START + begun,
        ended=None if ended is None else START + ended,
        last_beat=START + begun,
        array_index=index,
    )


def test_nothing_begun_draws_nothing():
    waiting = Result(item_id="A", task_id="t", nest=0, value="", item_state=State.TODO)
    assert draw([], [waiting], now=START) is None


def test_nests_that_overlap_lie_on_different_lanes_and_others_share_one():
    # Given three nests of one pilot, of which the third begins when the first has ended
    drawn = draw([pilot("p1", 0, 30)], [nest(0, 0, 10), nest(1, 5, 20), nest(2, 12, 30)], now=START + 40)
    # Then the second has a lane of its own, and the third lies on the first's
    assert drawn is not None
    first, second, third = drawn.rows[0].bars
    assert second.y > first.y
    assert third.y == first.y


def test_no_two_bars_cover_each_other():
    nests = [nest(n, (n * 7) % 23, (n * 7) % 23 + 1 + n % 5) for n in range(40)]
    drawn = draw([], nests, now=START + 60)
    assert drawn is not None
    for one, other in itertools.combinations(drawn.rows[0].bars, 2):
        apart = one.x + one.width <= other.x + 2.5 or other.x + other.width <= one.x + 2.5
        assert apart or one.y != other.y


def test_bars_are_to_scale_and_end_at_the_right_edge():
    drawn = draw([pilot("p1", 0, 100)], [nest(0, 25, 75)], now=START + 200)
    assert drawn is not None
    bar, span = drawn.rows[0].bars[0], WIDTH - LABEL
    assert bar.x == pytest.approx(LABEL + span / 4)
    assert bar.width == pytest.approx(span / 2, abs=1)
    assert drawn.rows[0].x + drawn.rows[0].width == pytest.approx(WIDTH)


def test_a_nest_without_an_end_goes_on_until_now():
    drawn = draw([], [nest(0, 0, None, status="")], now=START + 50)
    assert drawn is not None
    assert drawn.seconds == 50


def test_a_failed_nest_has_the_colour_of_failure_and_says_why():
    failed = nest(0, 0, 5, status="failed").model_copy(update={"message": "truncated CRAM"})
    drawn = draw([], [failed], now=START + 9)
    assert drawn is not None
    assert drawn.rows[0].bars[0].style == "bad"
    assert "truncated CRAM" in drawn.rows[0].bars[0].title


def test_what_does_not_fit_is_counted_and_not_lost_silently():
    pilots = [pilot(f"p{n}", n, 100) for n in range(5)]
    nests = [nest(n, n, n + 1, pilot=f"p{n % 5}") for n in range(20)]
    drawn = draw(pilots, nests, now=START + 100, max_pilots=3, max_nests=15)
    assert drawn is not None
    assert (len(drawn.rows), drawn.pilots_left_out, drawn.nests_left_out) == (3, 2, 5)


def test_nests_of_a_pilot_whose_row_has_expired_are_still_drawn():
    drawn = draw([pilot("p1", 0, 10, index=0)], [nest(0, 1, 2, pilot="gone")], now=START + 10)
    assert drawn is not None
    assert [row.name for row in drawn.rows] == ["pilot 0 · p1", "pilot gone"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (185, "3:05 min"), (7200, "2:00 h"), (100_000, "1 d 3 h")],
)
def test_durations_read_well(seconds: float, text: str):
    assert duration(seconds) == text
