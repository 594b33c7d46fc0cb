"""A narrow connector to one DynamoDB table: guarded writes with their three answers, strong reads, pages.

A write is won (the row after it comes back), lost (the row that stood in its way comes back) or has no answer. The SDK
repeats by itself; only when it has given up do we speak of no answer, and then the write may still have happened.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from pyanamo_core.aws import Clients, code_of, explain, is_aws_error, unanswered
from pyanamo_core.errors import ForeignTable, PyAnamoError, TableMissing
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.expressions import Expressions
from pyanamo_core.ledger.rows import Row, key
from pyanamo_core.ledger.table import why_foreign
from pyanamo_core.model import State

REFUSED: Final = "ConditionalCheckFailedException"
_TRANSIENT: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "LimitExceededException",
        "InternalServerError",
        "InternalFailure",
        "ServiceUnavailable",
        "TransactionInProgressException",
        "TransactionConflictException",
        "ReplicatedWriteConflictException",
        "500",
        "502",
        "503",
        "504",
    }
)
BATCH_KEYS: Final = 100
_BATCH_TRIES: Final = 12


class NoAnswer(Exception):
    """No try of a write was answered, or each was throttled: it may or may not have happened. `reason` says what came."""

    def __init__(self, reason: PyAnamoError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class TooBig(Exception):
    """DynamoDB refused a row for its size."""


@dataclass(frozen=True)
class Won:
    """The write happened; the row as it stands now."""

    row: Row


@dataclass(frozen=True)
class Lost:
    """The condition did not hold; the row that stood there, or None."""

    row: Row | None


Answer = Won | Lost


class Store:
    """One table.

    Args:
        clients: where boto3's clients come from.
        table: name of the table.
        rng: jitter of repeated batch reads.
    """

    def __init__(self, clients: Clients, table: str, rng: random.Random) -> None:
        self.clients = clients
        self.table = table
        self._rng = rng
        self._known = False

    def check(self) -> None:
        """Look once at the queue index before the first put: a put alone would also go into a table that is no ledger.

        Raises:
            TableMissing, ForeignTable.
        """
        if not self._known:
            self.queue_page(x.queue(State.TODO, 0), limit=1)
            self._known = True

    # ---------------------------------------------------------------------------------------------------- writes

    def update(self, row_key: Row, expressions: Expressions, *, quick: bool = False) -> Answer:
        """One conditional UpdateItem.

        Args:
            quick: use the beats' client, which gives up early.

        Raises:
            NoAnswer: it may or may not have happened.
            PyAnamoError: the table is missing or foreign, credentials, permission.
        """
        return self._guarded(
            "UpdateItem",
            quick=quick,
            Key=row_key,
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
            **expressions.parameters(),
        )

    def put(self, row: Row, condition: str = "", values: Mapping[str, Any] | None = None) -> Answer:
        """One PutItem, conditional if a condition is given.

        Raises:
            NoAnswer, TooBig, PyAnamoError: as `update`; TooBig when the row is beyond DynamoDB's limit.
        """
        guarded: dict[str, Any] = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"} if condition else {}
        answer = self._guarded("PutItem", Item=row, **guarded, **Expressions(condition, "", values or {}).parameters())
        return Won(row) if isinstance(answer, Won) else answer

    def delete(self, row_key: Row, condition: str, values: Mapping[str, Any]) -> Answer:
        return self._guarded("DeleteItem", Key=row_key, **Expressions(condition, "", values).parameters())

    def transact(self, actions: list[dict[str, Any]]) -> Answer:
        """One transaction whose first action is the guarded one; the others have no condition.

        DynamoDB answers a known ClientRequestToken as it did before, without doing anything: so it is always a new one,
        never from the ledger's generator, which a test may have seeded.

        Raises:
            NoAnswer: no answer, throttled, or in conflict with another write.
        """
        client = self.clients.client("dynamodb")
        for action in actions:
            for inner in action.values():
                inner["TableName"] = self.table
        try:
            client.transact_write_items(TransactItems=actions, ClientRequestToken=uuid.uuid4().hex)
        except Exception as error:
            if not is_aws_error(error):
                raise
            if code_of(error) == "TransactionCanceledException":
                response = cast("dict[str, Any]", getattr(error, "response", {}))
                reasons = cast("list[dict[str, Any]]", response.get("CancellationReasons", []))
                if reasons and reasons[0].get("Code") == "ConditionalCheckFailed":
                    return Lost(reasons[0].get("Item"))
                if any(reason.get("Code") not in (None, "None", "ValidationError") for reason in reasons):
                    raise NoAnswer(self._explained(error, "TransactWriteItems")) from error
            raise self._failure(error, "TransactWriteItems") from error
        return Won({})

    def _guarded(self, operation: str, *, quick: bool = False, **parameters: Any) -> Answer:
        client = self.clients.quick("dynamodb") if quick else self.clients.client("dynamodb")
        method = {
            "UpdateItem": client.update_item,
            "PutItem": client.put_item,
            "DeleteItem": client.delete_item,
        }[operation]
        try:
            return Won(method(TableName=self.table, **parameters).get("Attributes", {}))
        except Exception as error:
            if not is_aws_error(error):
                raise
            if code_of(error) == REFUSED:
                return Lost(cast("Any", error).response.get("Item"))
            raise self._failure(error, operation) from error

    def _failure(self, error: Exception, operation: str) -> Exception:
        code = code_of(error)
        if unanswered(error) or code in _TRANSIENT or _status(error) >= 500:
            return NoAnswer(explain(error, "dynamodb", operation))
        if code == "ValidationException" and "size has exceeded" in str(error):
            return TooBig(str(error))
        return self._explained(error, operation)

    def _explained(self, error: Exception, operation: str) -> PyAnamoError:
        """The error in PyAnamo's words; a wrong table is told from a wrong request by looking at it."""
        code = code_of(error)
        if code in ("ResourceNotFoundException", "ValidationException"):
            client = self.clients.client("dynamodb")
            try:
                told = client.describe_table(TableName=self.table)["Table"]
            except Exception as again:
                if not is_aws_error(again):
                    raise
                if code_of(again) == "ResourceNotFoundException":
                    return table_missing(self.clients, self.table)
                return explain(error, "dynamodb", operation)
            reason = why_foreign(told)
            if reason:
                return ForeignTable(table=self.table, reason=reason)
        return explain(error, "dynamodb", operation)

    # ----------------------------------------------------------------------------------------------------- reads

    def get(self, item_id: str, row: str, *, strong: bool = True) -> Row | None:
        """One row, or None."""
        client = self.clients.client("dynamodb")
        answer = self._read(
            "GetItem", client.get_item, TableName=self.table, Key=key(item_id, row), ConsistentRead=strong
        )
        return answer.get("Item")

    def rows(self, item_id: str, prefix: str, *, newest_first: bool = False, limit: int = 0) -> Iterator[Row]:
        """Rows of one hash key whose range key starts with `prefix`, by strong reads, page by page."""
        (condition,), names = x.named("itemID = :hash AND begins_with(row, :prefix)")
        parameters: dict[str, Any] = {
            "KeyConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {":hash": {"S": item_id}, ":prefix": {"S": prefix}},
            "ConsistentRead": True,
            "ScanIndexForward": not newest_first,
        }
        if not prefix:
            (parameters["KeyConditionExpression"],), parameters["ExpressionAttributeNames"] = x.named("itemID = :hash")
            del parameters["ExpressionAttributeValues"][":prefix"]
        given = 0
        for page in self._pages(parameters, limit):
            for row in page["Items"]:
                yield row
                given += 1
                if limit and given >= limit:
                    return

    def queue_page(self, queue: str, *, at_least: str = "", below: str = "", limit: int = 10) -> list[tuple[str, str]]:
        """One page of the queue index, in the order of `due`: (item id, due). `below` alone is exclusive."""
        page = next(self._pages(self._queue_query(queue, at_least, below), limit))
        return [(row[x.HASH]["S"], row[x.DUE]["S"]) for row in page["Items"]]

    def queue_ids(self, queue: str, *, at_least: str = "") -> Iterator[list[str]]:
        """All item ids of a queue in the order of `due`, in pages as DynamoDB cuts them."""
        for page in self._pages(self._queue_query(queue, at_least, "")):
            yield [row[x.HASH]["S"] for row in page["Items"]]

    def queue_count(self, queue: str, *, at_least: str = "", below: str = "", bound: int | None = None) -> int:
        """How many entries a queue has; stops once `bound` is reached."""
        found = 0
        for page in self._pages({**self._queue_query(queue, at_least, below), "Select": "COUNT"}, bound or 0):
            found += page["Count"]
            if bound is not None and found >= bound:
                return bound
        return found

    def scan(self) -> Iterator[list[Row]]:
        """Every row of the table by strong reads, a page (up to 1 MB) at a time; rows of one hash key come together."""
        client = self.clients.client("dynamodb")
        parameters: dict[str, Any] = {"TableName": self.table, "ConsistentRead": True}
        while True:
            page = self._read("Scan", client.scan, **parameters)
            yield page["Items"]
            if "LastEvaluatedKey" not in page:
                return
            parameters = {**parameters, "ExclusiveStartKey": page["LastEvaluatedKey"]}

    def _queue_query(self, queue: str, at_least: str, below: str) -> dict[str, Any]:
        said, values = "queue = :queue", {":queue": {"S": queue}}
        if at_least and below:
            # A key condition takes one BETWEEN, which includes both ends.
            said += " AND due BETWEEN :at_least AND :below"
            values |= {":at_least": {"S": at_least}, ":below": {"S": below}}
        elif at_least:
            said += " AND due >= :at_least"
            values[":at_least"] = {"S": at_least}
        elif below:
            said += " AND due < :below"
            values[":below"] = {"S": below}
        (condition,), names = x.named(said)
        return {
            "IndexName": x.INDEX,
            "KeyConditionExpression": condition,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
        }

    def _pages(self, parameters: dict[str, Any], limit: int = 0) -> Iterator[dict[str, Any]]:
        client = self.clients.client("dynamodb")
        if limit:
            parameters = {**parameters, "Limit": limit}
        while True:
            page = self._read("Query", client.query, TableName=self.table, **parameters)
            yield page
            if "LastEvaluatedKey" not in page:
                return
            parameters = {**parameters, "ExclusiveStartKey": page["LastEvaluatedKey"]}

    def batch(self, keys: Iterable[Row], *, strong: bool = False) -> list[Row]:
        """Rows by their keys, 100 a call, unprocessed keys asked for again; missing rows are left out."""
        client = self.clients.client("dynamodb")
        wanted, found = list(keys), list[Row]()
        for begin in range(0, len(wanted), BATCH_KEYS):
            left: list[Row] = wanted[begin : begin + BATCH_KEYS]
            for attempt in range(_BATCH_TRIES):
                answer = self._read(
                    "BatchGetItem",
                    client.batch_get_item,
                    RequestItems={self.table: {"Keys": left, "ConsistentRead": strong}},
                )
                found += answer["Responses"].get(self.table, [])
                left = answer.get("UnprocessedKeys", {}).get(self.table, {}).get("Keys", [])
                if not left:
                    break
                time.sleep(self._rng.uniform(0, min(5.0, 0.05 * 2**attempt)))
            if left:
                raise PyAnamoError(
                    f"DynamoDB left {len(left)} rows of table {self.table} unread {_BATCH_TRIES} times (throttled)."
                )
        return found

    def _read(self, operation: str, call: Any, **parameters: Any) -> dict[str, Any]:
        try:
            return call(**parameters)
        except Exception as error:
            if not is_aws_error(error):
                raise
            raise self._explained(error, operation) from error


def table_missing(clients: Clients, table: str) -> TableMissing:
    """The error, with the place that was asked."""
    where = f" at {clients.endpoint_url}" if clients.endpoint_url else f" in {clients.region}" if clients.region else ""
    return TableMissing(table=table, where=where)


def _status(error: Exception) -> int:
    response = cast("dict[str, Any]", getattr(error, "response", None) or {})
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
