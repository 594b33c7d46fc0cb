"""The table itself: made, described and deleted here and nowhere else (no stack owns it)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pyanamo_core.aws import Clients, code_of, explained
from pyanamo_core.errors import ForeignTable
from pyanamo_core.ledger import expressions as x

_log = logging.getLogger(__name__)

_KEYS: Final = [(x.HASH, "HASH"), (x.RANGE, "RANGE")]
_INDEX_KEYS: Final = [(x.QUEUE, "HASH"), (x.DUE, "RANGE")]
EMULATORS_LACK: Final = frozenset(
    {"UnknownOperationException", "UnknownOperation", "InvalidAction", "NotImplemented", "501"}
)


@dataclass(frozen=True)
class TableInfo:
    """A table as AWS describes it. `items` and `bytes` are AWS's own figures, up to six hours old."""

    name: str
    status: str
    arn: str
    rows: int
    bytes: int
    billing: str
    deletion_protection: bool
    created: float


def definition_of(name: str) -> dict[str, Any]:
    """CreateTable's parameters for a ledger: keys, the one index, on-demand billing."""

    def schema(keys: list[tuple[str, str]]) -> list[dict[str, str]]:
        return [{"AttributeName": attribute, "KeyType": kind} for attribute, kind in keys]

    return {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": schema(_KEYS),
        "AttributeDefinitions": [
            {"AttributeName": attribute, "AttributeType": "S"} for attribute, _ in (*_KEYS, *_INDEX_KEYS)
        ],
        "GlobalSecondaryIndexes": [
            {
                "IndexName": x.INDEX,
                "KeySchema": schema(_INDEX_KEYS),
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
        ],
    }


def why_foreign(described: Mapping[str, Any]) -> str:
    """Why a described table is no ledger; "" if it is one."""
    keys = {(k["AttributeName"], k["KeyType"]) for k in described.get("KeySchema", [])}
    if keys != set(_KEYS):
        told = ", ".join(f"{attribute} ({kind.lower()})" for attribute, kind in sorted(keys, key=lambda k: k[1]))
        return f"its key is {told}, not {x.HASH} (hash), {x.RANGE} (range)"
    indexes: list[dict[str, Any]] = described.get("GlobalSecondaryIndexes") or []
    for index in indexes:
        if index["IndexName"] == x.INDEX:
            found = {(k["AttributeName"], k["KeyType"]) for k in index["KeySchema"]}
            return "" if found == set(_INDEX_KEYS) else f"its index {x.INDEX} has another key"
    return f"it has no index {x.INDEX}"


def create_table(
    clients: Clients,
    name: str,
    *,
    deletion_protection: bool = True,
    pitr: bool = True,
    tags: Mapping[str, str] | None = None,
    wait: bool = True,
) -> bool:
    """Make the table unless it exists; True if this call made it.

    Args:
        deletion_protection: AWS then refuses DeleteTable until it is switched off.
        pitr: point-in-time recovery (costs storage; $0.20 a GB and month in us-east-1).
        tags: of the table.
        wait: until the table is active (AWS takes some seconds).

    Raises:
        ForeignTable: a table of that name exists, and is no ledger.
    """
    client = clients.client("dynamodb")
    parameters = definition_of(name) | {"DeletionProtectionEnabled": deletion_protection}
    if tags:
        parameters["Tags"] = [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
    created = True
    with explained("dynamodb", "CreateTable"):
        try:
            client.create_table(**parameters)
        except client.exceptions.ResourceInUseException:
            created = False
    if wait or not created:
        with explained("dynamodb", "DescribeTable"):
            client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 300})
            described = client.describe_table(TableName=name)["Table"]
        reason = why_foreign(described)
        if reason:
            raise ForeignTable(table=name, reason=reason)
    if created and wait:
        _switch_on(client, name, pitr)
    return created


def _switch_on(client: Any, name: str, pitr: bool) -> None:
    with explained("dynamodb", "UpdateTimeToLive"), _where_it_exists("TTL", name):
        client.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": x.EXPIRES}
        )
    if pitr:
        with explained("dynamodb", "UpdateContinuousBackups"), _where_it_exists("point-in-time recovery", name):
            client.update_continuous_backups(
                TableName=name, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
            )


@contextlib.contextmanager
def _where_it_exists(what: str, table: str) -> Any:
    """Emulators lack some switches; a table works without them."""
    try:
        yield
    except Exception as error:
        if code_of(error) not in EMULATORS_LACK:
            raise
        _log.info("The endpoint of table %s does not know %s.", table, what)


def table_as_described(clients: Clients, name: str) -> dict[str, Any] | None:
    """DescribeTable's answer; None if there is no table.

    Raises:
        ForeignTable: it is no ledger.
    """
    client = clients.client("dynamodb")
    with explained("dynamodb", "DescribeTable"):
        try:
            told: dict[str, Any] = client.describe_table(TableName=name)["Table"]
        except client.exceptions.ResourceNotFoundException:
            return None
    reason = why_foreign(told)
    if reason:
        raise ForeignTable(table=name, reason=reason)
    return told


def describe_table(clients: Clients, name: str) -> TableInfo | None:
    """What AWS says of the table; None if there is none.

    Raises:
        ForeignTable: it is no ledger.
    """
    told = table_as_described(clients, name)
    if told is None:
        return None
    created = told.get("CreationDateTime")
    return TableInfo(
        name=name,
        status=told["TableStatus"],
        arn=told.get("TableArn", ""),
        rows=told.get("ItemCount", 0),
        bytes=told.get("TableSizeBytes", 0),
        billing=told.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED"),
        deletion_protection=bool(told.get("DeletionProtectionEnabled")),
        created=created.timestamp() if created else 0.0,
    )


def delete_table(clients: Clients, name: str, *, wait: bool = True) -> bool:
    """Delete a ledger, its deletion protection switched off first; False if there was none.

    Raises:
        ForeignTable: it is no ledger, and stays.
    """
    info = describe_table(clients, name)
    if info is None:
        return False
    client = clients.client("dynamodb")
    with explained("dynamodb", "DeleteTable"):
        if info.deletion_protection:
            client.update_table(TableName=name, DeletionProtectionEnabled=False)
            client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 300})
        client.delete_table(TableName=name)
        if wait:
            client.get_waiter("table_not_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 300})
    return True
