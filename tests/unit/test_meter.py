"""The meter at boto3's clients: DynamoDB's units, requests to S3 by price class, bytes of logs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError

from pyanamo_core.aws import Clients
from pyanamo_core.meter import Reading


class Raw:
    """A response's body."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Any:
        yield self._body

    def read(self) -> bytes:
        return self._body


class Wire:
    """Answers each request with what lies next, and keeps what was sent."""

    def __init__(self, client: Any, service: str, *answers: tuple[int, Any]) -> None:
        self.sent: list[Any] = []
        self._answers = list(answers)
        client.meta.events.register_last(f"before-send.{service}", self._answer)

    def _answer(self, request: Any, **_: Any) -> AWSResponse:
        self.sent.append(request)
        status, told = self._answers.pop(0)
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        return AWSResponse(request.url, status, HTTPHeaders(), Raw(body))


@pytest.fixture
def clients() -> Clients:
    return Clients.with_keys("key", "secret", None, "us-east-1")


KEY = {"itemID": {"S": "NA12878"}, "row": {"S": "ITEM"}}


def test_dynamodb_is_asked_for_its_units_and_the_answers_are_summed(clients: Clients) -> None:
    # Given a table that answers a write of 3 units, a read of half a unit, and a transaction over one table
    dynamodb = clients.client("dynamodb")
    wire = Wire(
        dynamodb,
        "dynamodb",
        (200, {"ConsumedCapacity": {"TableName": "Seq", "CapacityUnits": 3.0}}),
        (200, {"ConsumedCapacity": {"TableName": "Seq", "CapacityUnits": 0.5}}),
        (200, {"ConsumedCapacity": [{"TableName": "Seq", "CapacityUnits": 8.0}]}),
    )
    # When it is used as the ledger does, which asks for nothing
    dynamodb.put_item(TableName="Seq", Item=KEY)
    dynamodb.get_item(TableName="Seq", Key=KEY)
    dynamodb.transact_write_items(TransactItems=[{"Delete": {"TableName": "Seq", "Key": KEY}}])
    # Then each request asked, and the meter tells writes from reads
    assert all(json.loads(each.body)["ReturnConsumedCapacity"] == "TOTAL" for each in wire.sent)
    assert clients.meter.reading == Reading(write_units=11.0, read_units=0.5)


def test_what_a_caller_asks_for_himself_stays(clients: Clients) -> None:
    dynamodb = clients.client("dynamodb")
    wire = Wire(dynamodb, "dynamodb", (200, {}))
    dynamodb.put_item(TableName="Seq", Item=KEY, ReturnConsumedCapacity="INDEXES")
    assert json.loads(wire.sent[0].body)["ReturnConsumedCapacity"] == "INDEXES"


def test_a_refused_condition_is_billed_as_one_write(clients: Clients) -> None:
    dynamodb = clients.client("dynamodb")
    Wire(dynamodb, "dynamodb", (400, {"__type": "com.amazonaws#ConditionalCheckFailedException", "message": "no"}))
    with pytest.raises(ClientError):
        dynamodb.put_item(TableName="Seq", Item=KEY, ConditionExpression="attribute_not_exists(itemID)")
    assert clients.meter.reading.write_units == 1.0


def test_requests_to_s3_are_counted_by_the_class_of_their_price_and_deleting_is_free(clients: Clients) -> None:
    s3 = clients.client("s3")
    Wire(s3, "s3", *((200, b""),) * 4)
    s3.put_object(Bucket="results", Key="a", Body=b"x")
    s3.head_object(Bucket="results", Key="a")
    s3.get_object(Bucket="results", Key="a")
    s3.delete_object(Bucket="results", Key="a")
    assert clients.meter.reading == Reading(s3_writes=1, s3_reads=2)


def test_of_logs_the_bytes_are_counted(clients: Clients) -> None:
    logs = clients.client("logs")
    wire = Wire(logs, "logs", (200, {}), (200, {}))
    logs.put_log_events(logGroupName="g", logStreamName="s", logEvents=[{"timestamp": 1, "message": "m" * 500}])
    logs.create_log_stream(logGroupName="g", logStreamName="s")
    assert clients.meter.reading.log_bytes == len(wire.sent[0].body) > 500


def test_what_is_read_without_a_signature_is_on_nobodys_bill(clients: Clients) -> None:
    s3 = clients.anonymous()
    Wire(s3, "s3", (200, b""))
    s3.head_object(Bucket="public", Key="a")
    assert clients.meter.reading == Reading()
