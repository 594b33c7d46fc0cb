"""How much a table and its index may do in a second: by request, as many units as were ordered, or between bounds.

`look` reads how it is, `steps` (pure) says what is missing to how it should be, `apply` does that. What is done already
is never a step: broken off in its middle, the same call goes on. A scalable target is Application Auto Scaling's word for
one of the four numbers: reads and writes of the table, reads and writes of the index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from pyanamo_core.aws import Clients, code_of, explained, is_aws_error
from pyanamo_core.errors import AccessDenied, Refused
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.cost import MOVE_UNITS
from pyanamo_core.ledger.store import table_missing
from pyanamo_core.ledger.table import EMULATORS_LACK, table_as_described
from pyanamo_core.model import Move

NAMESPACE: Final = "dynamodb"
READS, WRITES = "reads", "writes"
_ON: Final = {"table": NAMESPACE + ":table:", "index": NAMESPACE + ":index:"}
_DIMENSION: Final = {READS: "ReadCapacityUnits", WRITES: "WriteCapacityUnits"}
_WARM: Final = {READS: "ReadUnitsPerSecond", WRITES: "WriteUnitsPerSecond"}
_METRIC: Final = {READS: "DynamoDBReadCapacityUtilization", WRITES: "DynamoDBWriteCapacityUtilization"}
TARGETS_PERCENT: Final = (20, 90)
"""Between these Application Auto Scaling takes a target for DynamoDB."""
LEAST_UNITS: Final = 1
Place = tuple[str, str]
"""`table` or `index`, and `reads` or `writes`."""
PLACES: Final[tuple[Place, ...]] = tuple((part, what) for part in ("table", "index") for what in (READS, WRITES))


class ScaleRefused(Refused):
    """AWS does not scale table {table} now: {reason}. It switches a table to on-demand at most four times in 24 hours, and
    lowers units 27 times a day at most; what was asked for is done by the same command later."""


class Kind(StrEnum):
    """How a table is billed and bounded."""

    ON_DEMAND = "on-demand"
    PROVISIONED = "provisioned"
    AUTOSCALING = "autoscaling"


@dataclass(frozen=True)
class Bounds:
    """Least and most units a second; the same twice where there is one number."""

    low: int
    high: int

    @classmethod
    def just(cls, units: int) -> Bounds:
        return cls(units, units)

    def nearest(self, units: int) -> int:
        """The units within the bounds that are nearest to these."""
        return min(max(units, self.low), self.high)


@dataclass(frozen=True)
class Scaling:
    """How a table is scaled. Units are of 1 KB written or 4 KB read a second."""

    table: str
    kind: Kind
    units: Mapping[Place, int] = field(default_factory=dict[Place, int])
    """Provisioned now; empty on demand."""
    bounds: Mapping[Place, Bounds] = field(default_factory=dict[Place, Bounds])
    """Of what is scaled by itself."""
    targets_percent: Mapping[Place, float] = field(default_factory=dict[Place, float])
    """How much of the units shall be in use; a place with bounds and without one is not scaled yet."""
    warm: Mapping[Place, int] = field(default_factory=dict[Place, int])
    """What the table can do at once, where AWS tells."""
    targets_seen: bool = True
    """False: we may not look at what is scaled by itself."""


@dataclass(frozen=True)
class Wanted:
    """How a table should be scaled."""

    kind: Kind
    bounds: Mapping[Place, Bounds] = field(default_factory=dict[Place, Bounds])
    """Of all four places; nothing on demand."""
    target_percent: float = 70.0


@dataclass(frozen=True)
class Step:
    """One call of AWS, and in words what it does."""

    service: str
    operation: str
    asked: Mapping[str, Any]
    words: str


def look(clients: Clients, name: str) -> Scaling:
    """How the table is scaled now.

    Raises:
        TableMissing, ForeignTable, AccessDenied.
    """
    told = table_as_described(clients, name)
    if told is None:
        raise table_missing(clients, name)
    index = next(one for one in told["GlobalSecondaryIndexes"] if one["IndexName"] == x.INDEX)
    parts = {"table": told, "index": index}
    # A table that was never on demand is described without a word of its billing.
    on_demand = told.get("BillingModeSummary", {}).get("BillingMode") == "PAY_PER_REQUEST"
    units: dict[Place, int] = {}
    warm: dict[Place, int] = {}
    for part, what in PLACES:
        if not on_demand:
            units[part, what] = int(parts[part].get("ProvisionedThroughput", {}).get(_DIMENSION[what], 0))
        if known := int(parts[part].get("WarmThroughput", {}).get(_WARM[what], 0)):
            warm[part, what] = known
    bounds, percents, seen = _targets(clients, name)
    kind = Kind.ON_DEMAND if on_demand else (Kind.AUTOSCALING if bounds else Kind.PROVISIONED)
    return Scaling(name, kind, units, bounds, percents, warm, seen)


def _targets(clients: Clients, name: str) -> tuple[dict[Place, Bounds], dict[Place, float], bool]:
    """Bounds and targets of what is scaled by itself; and whether we may see that."""
    client = clients.client("application-autoscaling")
    places = {(_resource(name, part), _ON[part] + _DIMENSION[what]): (part, what) for part, what in PLACES}
    bounds: dict[Place, Bounds] = {}
    percents: dict[Place, float] = {}
    try:
        with explained("application-autoscaling", "DescribeScalableTargets"):
            resources = sorted({resource for resource, _ in places})
            told = client.describe_scalable_targets(ServiceNamespace=NAMESPACE, ResourceIds=resources)
        for one in told["ScalableTargets"]:
            if place := places.get((one["ResourceId"], one["ScalableDimension"])):
                bounds[place] = Bounds(int(one["MinCapacity"]), int(one["MaxCapacity"]))
        for resource in resources if bounds else ():
            with explained("application-autoscaling", "DescribeScalingPolicies"):
                told = client.describe_scaling_policies(ServiceNamespace=NAMESPACE, ResourceId=resource)
            for one in told["ScalingPolicies"]:
                place = places.get((one["ResourceId"], one["ScalableDimension"]))
                if place and one["PolicyName"] == _policy(name, place):
                    percents[place] = float(one["TargetTrackingScalingPolicyConfiguration"]["TargetValue"])
    except AccessDenied:
        return {}, {}, False
    except Exception as error:
        cause = error.__cause__ or error
        if is_aws_error(cause) and code_of(cause) in EMULATORS_LACK:
            return {}, {}, True
        raise
    return bounds, percents, True


def _resource(name: str, part: str) -> str:
    return f"table/{name}" + (f"/index/{x.INDEX}" if part == "index" else "")


def _policy(name: str, place: Place) -> str:
    return f"pyanamo-{name}-{place[0]}-{place[1]}"


def steps(now: Scaling, wanted: Wanted) -> list[Step]:
    """What is to be called, in this order, so that the table is scaled as wanted; empty if it is. Pure."""
    found: list[Step] = []
    if wanted.kind is not Kind.AUTOSCALING:
        # First: what scales by itself would change the numbers again.
        found += [_deregister(now.table, place) for place in PLACES if place in now.bounds]
    if wanted.kind is Kind.ON_DEMAND:
        if now.kind is not Kind.ON_DEMAND:
            asked = {"TableName": now.table, "BillingMode": "PAY_PER_REQUEST"}
            found.append(Step("dynamodb", "UpdateTable", asked, "table and index are billed by request"))
        return found
    units: dict[Place, int] = {place: wanted.bounds[place].nearest(now.units.get(place, 0)) for place in PLACES}
    if update := _provision(now, units):
        found.append(update)
    if wanted.kind is Kind.AUTOSCALING:
        for place in PLACES:
            if now.bounds.get(place) != wanted.bounds[place]:
                found.append(_register(now.table, place, wanted.bounds[place]))
            if now.targets_percent.get(place) != wanted.target_percent:
                found.append(_follow(now.table, place, wanted.target_percent))
    return found


def _provision(now: Scaling, units: Mapping[Place, int]) -> Step | None:
    """The change of units; AWS refuses one that changes nothing."""

    def throughput(part: str) -> dict[str, int]:
        return {_DIMENSION[what]: units[part, what] for what in (READS, WRITES)}

    changed = {part for part, what in PLACES if now.units.get((part, what)) != units[part, what]}
    if not changed:
        return None
    asked: dict[str, Any] = {"TableName": now.table}
    if now.kind is Kind.ON_DEMAND:
        asked["BillingMode"] = "PROVISIONED"
    if "table" in changed:
        asked["ProvisionedThroughput"] = throughput("table")
    if "index" in changed:
        update = {"IndexName": x.INDEX, "ProvisionedThroughput": throughput("index")}
        asked["GlobalSecondaryIndexUpdates"] = [{"Update": update}]
    words = ", ".join(
        f"{part} {units[part, READS]:,} reads and {units[part, WRITES]:,} writes a second"
        for part in sorted(changed)[::-1]
    )
    return Step("dynamodb", "UpdateTable", asked, f"ordered: {words}")


def _target(name: str, place: Place) -> dict[str, str]:
    part, what = place
    return {
        "ServiceNamespace": NAMESPACE,
        "ResourceId": _resource(name, part),
        "ScalableDimension": _ON[part] + _DIMENSION[what],
    }


def _deregister(name: str, place: Place) -> Step:
    # Its policies and their alarms go with it.
    words = f"{place[1]} of the {place[0]} are no longer scaled by themselves"
    return Step("application-autoscaling", "DeregisterScalableTarget", _target(name, place), words)


def _register(name: str, place: Place, bounds: Bounds) -> Step:
    asked = _target(name, place) | {"MinCapacity": bounds.low, "MaxCapacity": bounds.high}
    words = f"{place[1]} of the {place[0]} between {bounds.low:,} and {bounds.high:,} a second"
    return Step("application-autoscaling", "RegisterScalableTarget", asked, words)


def _follow(name: str, place: Place, percent: float) -> Step:
    tracking = {
        "TargetValue": percent,
        "PredefinedMetricSpecification": {"PredefinedMetricType": _METRIC[place[1]]},
    }
    asked = _target(name, place) | {
        "PolicyName": _policy(name, place),
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": tracking,
    }
    words = f"{place[1]} of the {place[0]} follow the load, {percent:g} % of them in use"
    return Step("application-autoscaling", "PutScalingPolicy", asked, words)


def warm_steps(now: Scaling, *, reads: int | None, writes: int | None) -> list[Step]:
    """What raises the warm throughput of table and index to so many units a second; it is never lowered. Pure."""
    asked: dict[str, dict[str, int]] = {}
    words: list[str] = []
    for (part, what), units in ((place, reads if place[1] == READS else writes) for place in PLACES):
        if units is not None and units > now.warm.get((part, what), 0):
            asked.setdefault(part, {})[_WARM[what]] = units
            words.append(f"{what} of the {part} at once: {units:,} a second, were {_told(now.warm.get((part, what)))}")
    if not asked:
        return []
    update: dict[str, Any] = {"TableName": now.table}
    if "table" in asked:
        update["WarmThroughput"] = asked["table"]
    if "index" in asked:
        update["GlobalSecondaryIndexUpdates"] = [{"Update": {"IndexName": x.INDEX, "WarmThroughput": asked["index"]}}]
    return [Step("dynamodb", "UpdateTable", update, "; ".join(words))]


def _told(units: int | None) -> str:
    return "not told" if units is None else f"{units:,}"


def apply(clients: Clients, name: str, todo: list[Step], *, on_step: Callable[[Step], None] | None = None) -> None:
    """Take these steps. The table serves meanwhile; AWS takes minutes over some.

    Args:
        on_step: told each step before it is taken.

    Raises:
        ScaleRefused: AWS's limits of changes. AccessDenied. Steps before it stand; given again, the rest is done.
    """
    for step in todo:
        if on_step is not None:
            on_step(step)
        # The SDK takes a limit of changes for throttling, and would try it again for a minute.
        client = clients.once("dynamodb") if step.service == "dynamodb" else clients.client(step.service)
        call = getattr(client, _snake(step.operation))
        if step.service == "dynamodb":
            _until_active(client, name)
        with explained(step.service, step.operation):
            try:
                call(**step.asked)
            except Exception as error:
                code = code_of(error) if is_aws_error(error) else ""
                if code == "ObjectNotFoundException":
                    continue  # somebody was faster; it is as it should be
                if code in ("LimitExceededException", "ResourceInUseException"):
                    raise ScaleRefused(table=name, reason=str(error)) from error
                raise
        if step.service == "dynamodb":
            _until_active(client, name)


def _snake(operation: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in operation).lstrip("_")


def _until_active(client: Any, name: str) -> None:
    with explained("dynamodb", "DescribeTable"):
        client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 1800})


def units_of_beats(holding: int, beat_seconds: float) -> dict[Place, float]:
    """Write units a second that go for beats alone while so many items are held: the least that a run needs."""
    each = holding / beat_seconds
    on_index = MOVE_UNITS[Move.BEAT] - 1
    return {("table", WRITES): each, ("index", WRITES): each * on_index}
