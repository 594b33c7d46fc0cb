"""Learnt times, the wall time, the clock's offset."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest

from pyanamo_core.clock import FakeClock, SystemClock
from pyanamo_core.errors import ClockOff
from pyanamo_core.pilot.clock import Learner, OffsetMeter, WallTimeKeeper, bases_of


@pytest.mark.parametrize(
    ("value", "bases"),
    [
        ("chr1:1-100", 100),
        ("HLA-A*01:01:01:5-6", 2),
        ("chr1:1-10,chr2:1-5", 15),
        ("8", None),
        ("", None),
        ("@targets/0007.bed", None),
        ("chr1:100-1", None),
    ],
)
def test_loci_are_told_from_other_values(value: str, bases: int | None) -> None:
    assert bases_of(value) == bases


def test_seconds_per_base_are_learnt_from_loci() -> None:
    # Given 100 bases that took 2 s and 300 that took 6 s
    learner = Learner()
    learner.learn("c:1-100", 2.0)
    learner.learn("c:1-300", 6.0)

    # Then 1,000 bases are expected to take 20 s, and a value that is no locus the mean
    assert learner.expected("c:1-1000") == pytest.approx(20.0)
    assert learner.expected("8") == pytest.approx(4.0)


def test_nothing_is_expected_before_anything_was_learnt() -> None:
    assert Learner().expected("c:1-1000") is None


def test_a_nest_that_would_not_end_in_time_is_not_started() -> None:
    # Given a wall time of 1,000 s, 30 of which are kept, and nests of 0.1 s a base
    clock, learner = FakeClock(), Learner()
    learner.learn("c:1-100", 10.0)
    keeper = WallTimeKeeper(1000.0, clock.monotonic(), clock, learner)

    # When 900 s have passed
    clock.move(900.0)

    # Then 69 s of work start, 71 do not
    assert keeper.may_start("c:1-690")
    assert not keeper.may_start("c:1-710")


def test_claiming_ends_when_the_shortest_nest_seen_would_not_fit() -> None:
    clock, learner = FakeClock(), Learner()
    learner.learn("a", 50.0)
    learner.learn("b", 20.0)
    keeper = WallTimeKeeper(1000.0, clock.monotonic(), clock, learner)

    clock.move(949.0)
    assert keeper.may_claim()
    clock.move(2.0)
    assert not keeper.may_claim()
    assert not keeper.over


def test_the_wall_time_is_over_while_there_is_still_time_to_hand_back() -> None:
    clock = FakeClock()
    keeper = WallTimeKeeper(1000.0, clock.monotonic(), clock, Learner())

    clock.move(970.0)

    assert keeper.over


def test_without_a_wall_time_everything_may_start() -> None:
    clock = FakeClock()
    keeper = WallTimeKeeper(None, 0.0, clock, Learner())

    clock.move(1e9)

    assert keeper.may_start("x")
    assert keeper.may_claim()
    assert not keeper.over


class Events:
    """The hook of a boto3 client's events."""

    def __init__(self) -> None:
        self.meta = self
        self.events = self
        self.heard: Any = None

    def register(self, _name: str, handler: Any) -> None:
        self.heard = handler

    def answer(self, date: str) -> None:
        """An answer of AWS with this Date header."""
        self.heard(parsed={"ResponseMetadata": {"HTTPHeaders": {"date": date}}})


def metered(off_by: float, answers: int) -> tuple[OffsetMeter, SystemClock]:
    """A meter that has heard so many answers of an AWS that is so many seconds ahead."""
    clock = SystemClock()
    meter, client = OffsetMeter(clock), Events()
    meter.listen(client)
    for _ in range(answers):
        client.answer(formatdate(clock.now() + off_by, usegmt=True))
    return meter, clock


def test_the_clock_is_set_by_the_dates_of_answers() -> None:
    meter, clock = metered(20.0, 5)

    assert meter.adjust() == pytest.approx(20.0, abs=1.0)
    assert clock.offset_seconds == pytest.approx(20.0, abs=1.0)


def test_less_than_a_second_is_noise() -> None:
    meter, clock = metered(0.0, 9)

    meter.adjust()

    assert clock.offset_seconds == 0.0


def test_four_answers_are_too_few() -> None:
    meter, clock = metered(20.0, 4)

    assert meter.adjust() is None
    assert clock.offset_seconds == 0.0


def test_a_clock_that_is_over_a_minute_off_is_refused() -> None:
    meter, _ = metered(-70.0, 5)

    with pytest.raises(ClockOff, match="-70"):
        meter.adjust()


class MovedClock(SystemClock):
    """A machine's clock that somebody sets, while the monotonic one goes on."""

    wall = 0.0
    passed = 0.0

    def now(self) -> float:
        return super().now() + self.wall

    def monotonic(self) -> float:
        return super().monotonic() + self.passed


def test_the_offset_is_measured_again_each_hour_of_a_pilots_life() -> None:
    # Given a pilot whose clock was right at its start
    clock = MovedClock()
    meter, client = OffsetMeter(clock), Events()
    meter.listen(client)
    right = SystemClock()

    def hear() -> None:
        for _ in range(15):
            client.answer(formatdate(right.now(), usegmt=True))

    hear()
    assert meter.adjust() == 0.0

    # When the clock is then 30 s ahead
    clock.wall = 30.0
    hear()

    # Then that is found within the hour after which it is looked at again, and corrected
    clock.passed = 3500.0
    assert meter.adjust(at_work=True) is None
    clock.passed = 3700.0
    assert meter.adjust(at_work=True) == pytest.approx(-30.0, abs=1.0)
    assert clock.now() == pytest.approx(right.now(), abs=2.0)


def test_a_clock_that_goes_astray_at_work_is_corrected_whatever_it_is_off() -> None:
    # Given a pilot that holds items: to leave would help nobody, and its deadlines are monotonic
    meter, clock = metered(300.0, 5)

    assert meter.adjust(at_work=True) == pytest.approx(300.0, abs=1.0)
    assert clock.offset_seconds == pytest.approx(300.0, abs=1.0)
