"""S3 that does not answer: what is repeated, for how long, and what is not."""

from __future__ import annotations

import threading

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from pyanamo_core.clock import FakeClock
from pyanamo_core.pilot.patience import StoreDown, patiently

DOWN = EndpointConnectionError(endpoint_url="https://s3.test")
SLOW = ReadTimeoutError(endpoint_url="https://s3.test")


def refused(code: str, status: int) -> ClientError:
    """An error that S3 answers with."""
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


class Hurry(threading.Event):
    """Waiting moves the clock instead."""

    def __init__(self, clock: FakeClock, after: float = float("inf")) -> None:
        super().__init__()
        self._clock, self._after = clock, clock.monotonic() + after

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.move(timeout or 0.0)
        return self._clock.monotonic() >= self._after


class Store:
    """Fails with these, one after the other, each try taking a while; the last one for ever."""

    def __init__(self, clock: FakeClock, *errors: Exception | None, seconds: float = 2.0) -> None:
        self._clock, self._errors, self._seconds = clock, list(errors), seconds
        self.tries = 0

    def __call__(self) -> str:
        self.tries += 1
        self._clock.move(self._seconds)
        error = self._errors.pop(0) if len(self._errors) > 1 else self._errors[0]
        if error is not None:
            raise error
        return "stored"


@pytest.mark.parametrize(
    "error", [DOWN, SLOW, refused("SlowDown", 503), refused("InternalError", 500), refused("TooMany", 429)]
)
def test_what_may_pass_is_tried_again_until_it_works(error: Exception) -> None:
    # Given a store that is away for nine tries
    clock = FakeClock()
    store = Store(clock, *[error] * 9, None)

    # When something is stored
    told = patiently(store, clock, seconds=300, hurry=Hurry(clock))

    # Then it is, in the end
    assert (told, store.tries) == ("stored", 10)


def test_a_store_that_stays_away_is_given_up_in_time_and_the_reason_told() -> None:
    clock = FakeClock()
    store, began = Store(clock, DOWN), clock.monotonic()

    with pytest.raises(StoreDown, match=r"S3 did not answer for 2\d\d s .*s3\.test"):
        patiently(store, clock, seconds=300, hurry=Hurry(clock))

    assert 280 < clock.monotonic() - began <= 302


@pytest.mark.parametrize("error", [refused("AccessDenied", 403), refused("NoSuchBucket", 404), ValueError("no")])
def test_what_does_not_pass_is_not_repeated(error: Exception) -> None:
    clock = FakeClock()
    store = Store(clock, error)

    with pytest.raises(type(error)):
        patiently(store, clock, seconds=300, hurry=Hurry(clock))

    assert store.tries == 1


def test_a_pilot_that_ends_waits_no_longer() -> None:
    # Given a pilot that is told to end after 10 s of an outage
    clock = FakeClock()
    store, began = Store(clock, DOWN), clock.monotonic()

    with pytest.raises(StoreDown):
        patiently(store, clock, seconds=300, hurry=Hurry(clock, after=10))

    assert clock.monotonic() - began < 20


def test_without_patience_there_is_one_try() -> None:
    clock = FakeClock()
    store = Store(clock, DOWN)

    with pytest.raises(StoreDown):
        patiently(store, clock, seconds=0, hurry=Hurry(clock))

    assert store.tries == 1
