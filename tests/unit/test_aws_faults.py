"""The client that misbehaves: what happens to the call, and what the caller sees."""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from botocore import exceptions

from pyanamo_core.aws import Faults, faulty, unanswered
from pyanamo_core.faults import SDK_TRIES


class Counter:
    """A client of a service that counts; `take` succeeds once, as a conditional write does."""

    meta = SimpleNamespace(
        method_to_api_mapping={"take": "Take", "query": "Query"}, endpoint_url="http://127.0.0.1:9", region_name="x"
    )

    def __init__(self) -> None:
        self.taken = 0
        self.rows = ["a"]

    def take(self, **parameters: Any) -> dict[str, Any]:
        self.taken += 1
        if self.taken > 1:
            raise exceptions.ClientError({"Error": {"Code": "ConditionalCheckFailedException"}}, "Take")
        return {"taken": parameters}

    def query(self, **parameters: Any) -> dict[str, Any]:
        return {"Items": list(self.rows)}


@pytest.fixture
def service() -> Counter:
    return Counter()


def query(client: Any, start: str, shard: str = "todo#1") -> list[str]:
    values = {":q": {"S": shard}, ":from": {"N": start}}
    return client.query(TableName="t", IndexName="by-queue", ExpressionAttributeValues=values)["Items"]


def test_a_lost_answer_leaves_the_write_done_and_the_caller_in_the_dark(service: Counter):
    faults = Faults()
    faults.lose_next("Take")
    with pytest.raises(exceptions.ConnectionClosedError) as caught:
        faulty(service, faults).take(key=1)
    assert unanswered(caught.value)
    assert service.taken == 1


def test_a_lost_error_is_lost_too(service: Counter):
    service.taken = 1
    faults = Faults()
    faults.lose_next("Take")
    with pytest.raises(exceptions.ConnectionClosedError):
        faulty(service, faults).take()


def test_a_repeated_call_tells_the_second_outcome(service: Counter):
    faults = Faults()
    faults.lose_next("Take", repeat=True)
    with pytest.raises(exceptions.ClientError, match="ConditionalCheckFailed"):
        faulty(service, faults).take()
    assert service.taken == 2


def test_a_dropped_request_does_nothing_and_looks_like_a_lost_answer(service: Counter):
    faults = Faults()
    faults.drop_next("Take")
    with pytest.raises(exceptions.ReadTimeoutError) as caught:
        faulty(service, faults).take()
    assert unanswered(caught.value)
    assert service.taken == 0


def test_a_throttled_call_does_nothing(service: Counter):
    faults = Faults()
    faults.throttle_next("Take", times=2)
    client = faulty(service, faults)
    for _ in range(2):
        with pytest.raises(exceptions.ClientError, match="ProvisionedThroughputExceededException"):
            client.take()
    assert client.take(key=1) == {"taken": {"key": 1}}


def test_a_refusal_has_the_code_that_was_asked_for(service: Counter):
    faults = Faults()
    faults.refuse_next("Take", "AccessDeniedException", "not you")
    with pytest.raises(exceptions.ClientError, match=r"AccessDeniedException.*not you"):
        faulty(service, faults).take()


def test_a_delayed_call_sleeps_on_the_clock_it_was_given(service: Counter):
    slept: list[float] = []
    faults = Faults(sleep=slept.append)
    faults.delay_next("Take", 12.5)
    assert faulty(service, faults).take(key=1) == {"taken": {"key": 1}}
    assert slept == [12.5]


def test_a_fault_waits_for_the_call_it_is_meant_for(service: Counter):
    faults = Faults()
    faults.drop_next("Take", when=lambda asked: asked["key"] == 2)
    client = faulty(service, faults)
    assert client.take(key=1) == {"taken": {"key": 1}}
    assert faults.pending == 1
    with pytest.raises(exceptions.ReadTimeoutError):
        client.take(key=2)
    assert faults.pending == 0
    assert list(faults.happened) == [("Take", "dropped")]


def test_a_stale_page_is_the_oldest_of_that_shard_whatever_the_sweep_s_start(service: Counter):
    # Given an index that was asked twice, the second time with another start and one row more
    faults = Faults()
    client = faulty(service, faults)
    assert query(client, "0.1") == ["a"]
    service.rows.append("b")
    assert query(client, "0.7") == ["a", "b"]
    # When the next answer is stale
    faults.stale_next()
    # Then it is the older page, and the one after it is fresh; another shard has no past
    assert query(client, "0.4") == ["a"]
    assert query(client, "0.4") == ["a", "b"]
    faults.stale_next()
    assert query(client, "0.4", shard="todo#2") == ["a", "b"]


def test_random_faults_are_the_same_for_the_same_seed():
    def run(seed: int) -> list[tuple[str, str]]:
        faults = Faults(rng=random.Random(seed), lost=0.2, dropped=0.2, throttled=0.2, sleep=lambda seconds: None)
        service = Counter()
        client = faulty(service, faults)
        for _ in range(200):
            service.taken = 0
            try:
                client.take()
            except (exceptions.ClientError, exceptions.BotoCoreError):
                continue
        return [*faults.happened]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert {kind for _, kind in run(1)} == {"lost", "dropped", "throttled"}


def test_random_faults_touch_only_the_operations_named(service: Counter):
    faults = Faults(rng=random.Random(1), dropped=1.0, operations=frozenset({"Query"}))
    client = faulty(service, faults)
    client.take()
    with pytest.raises(exceptions.ReadTimeoutError):
        query(client, "0")


def test_a_paginator_of_a_real_client_suffers_the_same_faults():
    from pyanamo_core.aws import Clients

    faults = Faults()
    faults.throttle_next("ListTables")
    client = faulty(Clients.with_keys("k", "s", "http://127.0.0.1:9", "us-east-1").once("dynamodb"), faults)
    with pytest.raises(exceptions.ClientError, match="ProvisionedThroughput"):
        list(client.get_paginator("list_tables").paginate())
    assert client.meta.region_name == "us-east-1"


def test_a_silenced_call_happens_at_each_try_and_nobody_hears_of_it(service: Counter):
    faults = Faults()
    faults.silence_next("Take")
    with pytest.raises(exceptions.ConnectionClosedError):
        faulty(service, faults).take()
    assert service.taken == SDK_TRIES


def test_a_copy_of_a_write_arrives_later_and_nobody_hears_of_it(service: Counter):
    # Given a network that keeps a copy of the next write
    due: list[tuple[float, Callable[[], None]]] = []
    faults = Faults(later=lambda seconds, call: due.append((seconds, call)))
    faults.copy_next("Take", 7.0)
    # When the write is made, then it is answered at once
    assert faulty(service, faults).take(key=[1]) == {"taken": {"key": [1]}}
    # And its copy happens when its time has come; the refusal that it meets is nobody's
    assert [seconds for seconds, _ in due] == [7.0]
    due[0][1]()
    assert service.taken == 2


def test_a_hot_key_is_throttled_for_its_time_and_no_other_is(service: Counter):
    now = [100.0]
    faults = Faults(now=lambda: now[0])
    faults.heat("i1", 5.0)
    client = faulty(service, faults)
    for _ in range(2):
        with pytest.raises(exceptions.ClientError, match="ProvisionedThroughputExceededException"):
            client.take(Key={"itemID": {"S": "i1"}})
    client.take(Key={"itemID": {"S": "i2"}})
    now[0] = 105.0
    service.taken = 0
    client.take(Key={"itemID": {"S": "i1"}})
    faults.heat("todo#1", 5.0)
    with pytest.raises(exceptions.ClientError, match="ProvisionedThroughputExceededException"):
        client.query(IndexName="by-queue", ExpressionAttributeValues={":queue": {"S": "todo#1"}})


def test_hot_keys_are_the_same_for_all_and_others_after_a_while(service: Counter):
    now = [100.0]

    def hot(faults: Faults) -> set[int]:
        found: set[int] = set()
        for number in range(300):
            service.taken = 0
            try:
                faulty(service, faults).take(Item={"itemID": {"S": f"i{number}"}})
            except exceptions.ClientError:
                found.add(number)
        return found

    first, second = (Faults(hot=0.1, hot_seconds=10.0, now=lambda: now[0]) for _ in range(2))
    at_first = hot(first)
    assert 10 < len(at_first) < 60
    assert hot(second) == at_first
    now[0] = 110.0
    assert hot(first) != at_first


def test_a_stale_page_is_as_old_as_the_index_lags(service: Counter):
    # Given pages of three moments
    now = [100.0]
    faults = Faults(now=lambda: now[0], stale_seconds=3.0)
    client = faulty(service, faults)
    for each in ("b", "c", "d"):
        query(client, "0")
        service.rows.append(each)
        now[0] += 2.0
    # When an index that lags three seconds behind is asked, then it is the newest page of that age
    faults.stale_next()
    assert query(client, "0") == ["a", "b"]
