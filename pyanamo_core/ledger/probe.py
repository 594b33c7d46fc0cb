"""May this identity read and write a table? Asked by calls that change nothing, whatever the answer is.

DynamoDB judges a permission before a condition: a write whose condition can never hold is refused by the condition where
it is allowed, and by IAM where it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pyanamo_core.aws import Clients, code_of, explained
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.ledger import expressions as x
from pyanamo_core.model import State

_NOWHERE: Final = "!probe"
"""A hash key that no item and no row of PyAnamo has."""


def probe_rights(clients: Clients, table: str) -> dict[str, PyAnamoError | None]:
    """What a pilot does with a table: the operation, and with what it is refused (None: it is allowed).

    Costs two write units and at most two read units; no row is made or changed.
    """
    client = clients.client("dynamodb")
    key = {x.HASH: {"S": _NOWHERE}, x.RANGE: {"S": _NOWHERE}}
    never = {"ConditionExpression": f"attribute_exists({x.HASH})"}
    values = {":queue": {"S": x.queue(State.TODO, 0)}}
    calls: dict[str, Callable[[], Any]] = {
        "GetItem": lambda: client.get_item(TableName=table, Key=key, ConsistentRead=True),
        "Query": lambda: client.query(
            TableName=table,
            IndexName=x.INDEX,
            KeyConditionExpression="#queue = :queue",
            ExpressionAttributeNames={"#queue": x.QUEUE},
            ExpressionAttributeValues=values,
            Limit=1,
        ),
        "PutItem": lambda: client.put_item(TableName=table, Item=key, **never),
        "UpdateItem": lambda: client.update_item(
            TableName=table,
            Key=key,
            UpdateExpression="SET #mark = :mark",
            ExpressionAttributeNames={"#mark": x.MARK},
            ExpressionAttributeValues={":mark": {"N": "0"}},
            **never,
        ),
    }
    found: dict[str, PyAnamoError | None] = {}
    for operation, call in calls.items():
        try:
            with explained("dynamodb", operation):
                call()
            found[operation] = None
        except PyAnamoError as error:
            found[operation] = None if _by_condition(error) else error
    return found


def _by_condition(error: PyAnamoError) -> bool:
    cause = error.__cause__
    return cause is not None and code_of(cause) == "ConditionalCheckFailedException"
