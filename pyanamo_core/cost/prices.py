"""What AWS charges, each figure with its unit, its source and the date of that, as a range where it is not one number.

    prices = price_list("us-east-1")                         # built in
    prices = price_list("eu-west-2", Path("prices.yaml"))    # your own figures instead, where the file has them
    prices.vcpu_hour("m5.xlarge", on_demand=False).dollars   # Range(low=0.0144, high=0.0288)

The built-in figures are list prices of us-east-1, without free tiers, discounts of an account and taxes; of another
region they are ranges, and say so. Nothing is asked of AWS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from pyanamo_core.cost.ranges import Range, as_range, exactly
from pyanamo_core.errors import BadInput

HOURS_A_MONTH: Final = 730
GB: Final = 2**30
"""Bytes of the GB that AWS bills."""


class PricesInvalid(BadInput):
    """{path} is no list of prices: {reason}. A line is NAME: DOLLARS, or NAME: [LOW, HIGH]; see docs/cost.md"""


@dataclass(frozen=True)
class Price:
    """A figure in dollars per `unit`, where it comes from, and of which day that is."""

    dollars: Range
    unit: str
    source: str
    date: str


@dataclass(frozen=True)
class Prices:
    """A region's prices. Each is a Price; a GB has 2^30 bytes, a month 730 hours."""

    region: str
    spot_vcpu_hour: Price
    """Of the families that the stack asks for; of a type: `vcpu_hour`."""
    on_demand_vcpu_hour: Price
    spot_share: Price
    """A Spot price as a share of the price on demand (1: as much)."""
    scratch_gb_month: Price
    address_hour: Price
    """Of a public IPv4 address, which each machine has."""
    write_million: Price
    """DynamoDB on demand, write request units."""
    read_million: Price
    write_unit_hour: Price
    """DynamoDB provisioned: a unit a second, for an hour."""
    read_unit_hour: Price
    table_gb_month: Price
    backup_gb_month: Price
    """Point-in-time recovery."""
    s3_gb_month: Price
    put_million: Price
    """PUT, COPY, POST, LIST."""
    get_million: Price
    """GET, HEAD and all others but DELETE, which is free."""
    transfer_gb: Price
    """From a bucket of this region to another; its owner pays, or who asked where the requester pays. See `transfer_from`."""
    internet_gb: Price
    log_gb: Price
    """CloudWatch Logs, taken in."""
    log_gb_month: Price
    image_gb_month: Price
    secret_month: Price
    factor: Range
    """What this region asks for machines, of what us-east-1 does."""
    own_instances: Mapping[str, float]
    """Family (`m5`) or type (`m5.xlarge`) → dollars of a vCPU and hour on demand, as the user's file says."""
    own: frozenset[str]
    """Names of the prices that come from the user's file."""

    def vcpu_hour(self, instance_type: str = "", *, on_demand: bool) -> Price:
        """Dollars of a vCPU for an hour, by instance type or its family; else of the families that the stack asks for.

        In the user's file a price of a type goes before one of its family, and that before `spot_vcpu_hour` and
        `on_demand_vcpu_hour`, which hold for every type.
        """
        family = instance_type.partition(".")[0]
        name = "on_demand_vcpu_hour" if on_demand else "spot_vcpu_hour"
        general: Price = getattr(self, name)
        mine = self.own_instances.get(instance_type, self.own_instances.get(family))
        listed = INSTANCES.get(family)
        if mine is not None:
            found = Price(exactly(mine), VCPU_HOUR, f"your price of {family}", "")
        elif name not in self.own and listed is not None:
            found = Price(listed * self.factor, VCPU_HOUR, MACHINES, LISTED)
        else:
            return general
        if on_demand:
            return found
        source = f"{found.source}; {self.spot_share.source}"
        return replace(found, dollars=found.dollars * self.spot_share.dollars, source=source)

    def knows(self, instance_type: str, *, on_demand: bool) -> bool:
        """Is there a price of this type? So it is where no type is named.

        Of types without one `vcpu_hour` tells that of the stack's families, which may be far from it.
        """
        family = instance_type.partition(".")[0]
        mine = instance_type in self.own_instances or family in self.own_instances
        general = ("on_demand_vcpu_hour" if on_demand else "spot_vcpu_hour") in self.own
        return not family or mine or general or family in INSTANCES

    def transfer_from(self, region: str) -> Price:
        """Dollars of a GB that leaves a bucket of a region ("": not known which) for this one; the user's own before all."""
        if "transfer_gb" in self.own:
            return self.transfer_gb
        return built_in(region).transfer_gb if region else replace(self.transfer_gb, dollars=_FROM_ANYWHERE)

    def named(self) -> dict[str, Price]:
        """Every price by its name, in order."""
        return {name: getattr(self, name) for name in NAMES}


VCPU_HOUR: Final = "vCPU and hour"
LISTED: Final = "2025-03-02"
PAGES: Final = "2025"

MACHINES: Final = (
    "AWS's price list of EC2 (Linux, on demand, shared), as pricing.json of Apache Libcloud 3.9.1 repeats it"
)
FAMILIES: Final = ("m5", "m5a", "m5d", "m6i", "m6a", "r5", "r5a", "r6i")
"""What deployments/cloudformation.yaml asks for."""

INSTANCES: Final[Mapping[str, float]] = MappingProxyType(
    {
        "c4": 0.04975, "c5": 0.0425, "c5a": 0.0385, "c5ad": 0.043, "c5d": 0.048, "c5n": 0.054,
        "c6a": 0.03825, "c6i": 0.0425, "c6id": 0.0504, "c6in": 0.0567, "c7a": 0.05132, "c7i": 0.04463,
        "c7i-flex": 0.0424, "m4": 0.05, "m5": 0.048, "m5a": 0.043, "m5ad": 0.0515, "m5d": 0.0565, "m5n": 0.0595,
        "m6a": 0.0432, "m6i": 0.048, "m6id": 0.05933, "m6in": 0.06962, "m7a": 0.05796, "m7i": 0.0504,
        "m7i-flex": 0.04788, "r4": 0.0665, "r5": 0.063, "r5a": 0.0565, "r5d": 0.072, "r5n": 0.0745,
        "r6a": 0.0567, "r6i": 0.063, "r6id": 0.0756, "r7a": 0.07608, "r7i": 0.06615,
        "c6g": 0.034, "c7g": 0.03625, "c8g": 0.03988, "m6g": 0.0385, "m7g": 0.0408, "m8g": 0.04488,
        "r6g": 0.0504, "r7g": 0.05355, "r8g": 0.05891,
    }
)  # fmt: skip
"""us-east-1: dollars of a vCPU and hour on demand; one for all sizes of a family."""

_SHARE: Final = Range(0.3, 0.6)
_SHARE_SOURCE: Final = "assumed: Spot at 30 to 60 % of the price on demand; AWS's EC2 Auto Scaling user guide shows 40 to 48 % for c5.18xlarge"
_FACTORS: Final[Mapping[str, Range]] = MappingProxyType(
    {
        region: Range(round(0.92 * middle, 2), round(1.08 * middle, 2))
        for region, middle in {
            "af-south-1": 1.33, "ap-east-1": 1.33, "ap-northeast-1": 1.27, "ap-northeast-2": 1.23,
            "ap-northeast-3": 1.29, "ap-south-1": 1.0, "ap-south-2": 1.04, "ap-southeast-1": 1.25,
            "ap-southeast-2": 1.25, "ap-southeast-3": 1.25, "ap-southeast-4": 1.26, "ca-central-1": 1.12,
            "ca-west-1": 1.1, "eu-central-1": 1.21, "eu-central-2": 1.32, "eu-north-1": 1.06, "eu-south-1": 1.17,
            "eu-south-2": 1.12, "eu-west-1": 1.12, "eu-west-2": 1.18, "eu-west-3": 1.17, "il-central-1": 1.18,
            "me-central-1": 1.23, "me-south-1": 1.24, "sa-east-1": 1.59, "us-gov-east-1": 1.2, "us-gov-west-1": 1.2,
            "us-west-1": 1.17,
        }.items()
    }
)  # fmt: skip
"""Region → what its machines cost, of us-east-1's: the median over FAMILIES in the same list, ± 8 %."""
_LIKE_US_EAST_1: Final = frozenset({"us-east-1", "us-east-2", "us-west-2"})
_ELSEWHERE: Final = Range(1.0, 1.6)
"""Services of other regions, of us-east-1's price: S3 1.0–1.3, DynamoDB 1.1–1.3, logs 1.0–1.5; sa-east-1 up to 1.8."""
_SAO_PAULO: Final = Range(1.2, 2.0)

_US_EAST_1: Final[Mapping[str, tuple[float | Range, str, str, str]]] = MappingProxyType(
    {
        "spot_share": (_SHARE, "price on demand", _SHARE_SOURCE, "2025-03-02"),
        "scratch_gb_month": (0.08, "GB and month", "AWS's price page of EBS: gp3, us-east-1", PAGES),
        "address_hour": (0.005, "hour", "AWS's price page of VPC: public IPv4 addresses", PAGES),
        "write_million": (
            0.625,
            "million write units",
            "AWS's price page of DynamoDB: on demand, us-east-1, since November 2024 (airbyte.com, July 2025, repeats it)",
            "2025-07-21",
        ),
        "read_million": (0.125, "million read units", "as write_million", "2025-07-21"),
        "write_unit_hour": (
            0.00065,
            "write unit and hour",
            "AWS's price page of DynamoDB: provisioned, us-east-1",
            PAGES,
        ),
        "read_unit_hour": (
            0.00013,
            "read unit and hour",
            "AWS's price page of DynamoDB: provisioned, us-east-1",
            PAGES,
        ),
        "table_gb_month": (
            0.25,
            "GB and month",
            "AWS's price page of DynamoDB: standard tables; the first 25 GB of an account are free and not taken off",
            PAGES,
        ),
        "backup_gb_month": (0.20, "GB and month", "AWS's price page of DynamoDB: point-in-time recovery", PAGES),
        "s3_gb_month": (0.023, "GB and month", "AWS's price page of S3: Standard, us-east-1, the first 50 TB", PAGES),
        "put_million": (5.0, "million PUT, COPY, POST, LIST", "AWS's price page of S3: Standard, us-east-1", PAGES),
        "get_million": (0.4, "million GET and HEAD", "AWS's price page of S3: Standard, us-east-1", PAGES),
        "transfer_gb": (
            Range(0.01, 0.02),
            "GB",
            "AWS's price page of S3: from us-east-1 to another region 0.02, to us-east-2 0.01",
            PAGES,
        ),
        "internet_gb": (0.09, "GB", "AWS's price page of EC2: out to the internet, the first 10 TB", PAGES),
        "log_gb": (0.50, "GB", "AWS's price page of CloudWatch, us-east-1: logs taken in, standard class", "2026-06"),
        "log_gb_month": (0.03, "GB and month", "AWS's price page of CloudWatch: logs kept", "2026-06"),
        "image_gb_month": (0.10, "GB and month", "AWS's price page of ECR", PAGES),
        "secret_month": (0.40, "month", "AWS's price page of Secrets Manager", PAGES),
    }
)
_FROM_ELSEWHERE: Final = Range(0.02, 0.16)
_FROM_ANYWHERE: Final = Range(0.01, 0.16)
_SERVICES: Final = tuple(name for name in _US_EAST_1 if name not in ("spot_share", "address_hour", "transfer_gb"))

NAMES: Final = ("spot_vcpu_hour", "on_demand_vcpu_hour", *_US_EAST_1)
"""Names of prices, as a user's file has them."""


def built_in(region: str = "us-east-1") -> Prices:
    """The list prices that PyAnamo knows: of us-east-1 and the two regions that cost the same, else ranges."""
    region = region or "us-east-1"
    same = region in _LIKE_US_EAST_1
    factor = exactly(1) if same else _FACTORS.get(region, _ELSEWHERE)
    families = [INSTANCES[name] for name in FAMILIES]
    listed = Range(min(families), max(families)) * factor
    # Of Spot, Batch takes what has capacity and a low price: the m families, and not r or local disks.
    spot = Range(min(families), INSTANCES["m5"]) * factor * _SHARE
    where = "" if same else f"; {region}: {factor} times us-east-1's, the same list"
    known: dict[str, Price] = {
        "spot_vcpu_hour": Price(spot, VCPU_HOUR, f"{MACHINES}{where}; {_SHARE_SOURCE}", LISTED),
        "on_demand_vcpu_hour": Price(listed, VCPU_HOUR, f"{MACHINES}{where}; {', '.join(FAMILIES)}", LISTED),
    }
    services = _SAO_PAULO if region == "sa-east-1" else _ELSEWHERE
    for name, (figure, unit, source, date) in _US_EAST_1.items():
        amount = as_range(figure)
        if not same and name in _SERVICES:
            amount, source = amount * services, f"{source}; {region} taken as {services} times that"
        elif not same and name == "transfer_gb":
            amount, source = _FROM_ELSEWHERE, f"{source}; from other regions 0.02 to 0.16"
        known[name] = Price(amount, unit, source, date)
    return Prices(region=region, factor=factor, own_instances=MappingProxyType({}), own=frozenset(), **known)


# ----------------------------------------------------------------------------------------------------- a file


def price_list(region: str = "", path: str | Path | None = None) -> Prices:
    """The prices of a region; a file's figures instead of the built-in ones, where it has them.

    The file is YAML or JSON: `NAME: DOLLARS` or `NAME: [LOW, HIGH]` with the names of `Prices`, besides `region` (if
    none is given), `source`, `date`, and `instances`: `{m5: 0.04, c6i.xlarge: 0.039}`, dollars of a vCPU and hour on
    demand.

    Raises:
        PricesInvalid: the file cannot be read, or has an unknown name or a figure that is none.
    """
    if not path:
        return built_in(region)
    path = Path(path)
    told = _read(path)
    found = built_in(region or str(told.get("region") or ""))
    source = str(told.get("source") or path)
    date = str(told.get("date") or "")
    changed: dict[str, Price] = {}
    for name, given in told.items():
        if name in ("region", "source", "date", "instances"):
            continue
        if name not in NAMES:
            near = get_close_matches(name, NAMES, n=1)
            reason = f"unknown name {name!r}" + (
                f"; did you mean {near[0]}?" if near else f"; known: {', '.join(NAMES)}"
            )
            raise PricesInvalid(path=path, reason=reason)
        changed[name] = Price(_figure(path, name, given), getattr(found, name).unit, source, date)
    types: dict[str, float] = {}
    mapping: Any = told.get("instances") or {}
    if not isinstance(mapping, dict):
        raise PricesInvalid(path=path, reason="instances must have names and dollars: {m5: 0.04}")
    for name, given in cast("dict[Any, Any]", mapping).items():
        if not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)?", str(name)):
            raise PricesInvalid(path=path, reason=f"{name!r} is no family or type of instances")
        types[str(name)] = _number(path, f"instances: {name}", given)
    # A price on demand and a share of it say what Spot costs, unless the file says that, too.
    if "spot_vcpu_hour" not in changed and {"on_demand_vcpu_hour", "spot_share"} & changed.keys():
        base = changed.get("on_demand_vcpu_hour", found.on_demand_vcpu_hour)
        share = changed.get("spot_share", found.spot_share)
        changed["spot_vcpu_hour"] = Price(base.dollars * share.dollars, VCPU_HOUR, source, date)
    return replace(found, own_instances=MappingProxyType(types), own=frozenset(changed), **changed)


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        told: Any = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise PricesInvalid(path=path, reason=f"cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PricesInvalid(path=path, reason=str(error).replace("\n", " ")) from error
    if not isinstance(told, dict):
        raise PricesInvalid(path=path, reason="it has no names")
    return {str(name): value for name, value in cast("dict[Any, Any]", told).items()}


def _figure(path: Path, name: str, given: Any) -> Range:
    if isinstance(given, list | tuple):
        bounds = cast("list[Any]", given)
        if len(bounds) != 2:
            raise PricesInvalid(path=path, reason=f"{name}: a range has two numbers, [LOW, HIGH]")
        low, high = (_number(path, name, one) for one in bounds)
        if low > high:
            raise PricesInvalid(path=path, reason=f"{name}: {low} is more than {high}")
        return Range(low, high)
    return exactly(_number(path, name, given))


def _number(path: Path, name: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1e9:
        raise PricesInvalid(path=path, reason=f"{name}: {given!r} is no number of dollars")
    return float(given)
