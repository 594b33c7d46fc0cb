"""A closer look for a plan, where there are credentials: references, what Spot costs at this moment, what is done already.

Each look is by itself: what may not be read is told as such, and the plan goes on without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import quantiles
from typing import Any, Final

from pyanamo_core.aws import Clients, explained
from pyanamo_core.cost.prices import FAMILIES, Price, Prices
from pyanamo_core.cost.ranges import Range
from pyanamo_core.errors import BadInput, PyAnamoError, TableMissing, WorkflowMissing
from pyanamo_core.model import Definition, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.sheet import Sheet
from pyanamo_core.staging.fetch import Fetcher, is_remote
from pyanamo_core.words import number_of
from pyanamo_core.workflow import Workflow

SIZES: Final = {"xlarge": 4, "2xlarge": 8, "4xlarge": 16}
"""Sizes whose Spot prices are asked for, with their vCPUs; a bigger one costs about as much for each."""


class ReferenceMissing(BadInput):
    """Reference {name} of the workflow file does not exist: {uri}. Mend its address; nothing was planned."""


@dataclass(frozen=True)
class Standing:
    """Items that a table holds as done (or ended otherwise): their ids, each with the hash of its definition."""

    done: frozenset[tuple[str, str]]

    def __contains__(self, item: object) -> bool:
        return item in self.done


def look_at_references(clients: Clients, workflow: Workflow) -> dict[str, str]:
    """Each remote reference's size by its name, or why it was not looked at.

    Raises:
        ReferenceMissing: it does not exist.
    """
    fetcher = Fetcher(clients, workflow.buckets.inputs)
    told: dict[str, str] = {}
    for one in workflow.references:
        if not is_remote(one.uri):
            continue
        try:
            found = fetcher.look(one.uri)
        except PyAnamoError as error:
            told[one.name] = f"{one.uri}: not checked, {error}"
            continue
        if found is None:
            raise ReferenceMissing(name=one.name, uri=one.uri)
        size = "" if found.bytes is None else f", {found.bytes:,} bytes"
        told[one.name] = f"{one.uri} is there{size}"
    return told


def spot_now(clients: Clients, prices: Prices) -> tuple[Prices, str]:
    """The prices with what Spot costs at this moment, over types and zones of the region; and a word on it.

    From the cheapest to the dearest but a quarter: Batch takes what has capacity and a low price. A price of the user's
    own stays.
    """
    if "spot_vcpu_hour" in prices.own:
        return prices, "your own price of Spot is taken"
    try:
        with explained("ec2", "asking for prices of Spot"):
            found = _history(clients)
    except PyAnamoError as error:
        return prices, f"prices of Spot were not asked for: {error}"
    if len(found) < 2:
        return prices, f"AWS tells no prices of Spot for {', '.join(FAMILIES)} here; the list's share is taken"
    now = Range(min(found), max(min(found), quantiles(found, n=4)[2]))
    price = Price(
        now,
        prices.spot_vcpu_hour.unit,
        f"AWS's Spot prices of {prices.region}, {len(found)} types and zones",
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )
    own = prices.own | {"spot_vcpu_hour"}
    return replace(prices, spot_vcpu_hour=price, own=own), f"Spot at this moment: ${now} a vCPU and hour"


def _history(clients: Clients) -> list[float]:
    """Dollars of a vCPU and hour, the newest of each type and zone."""
    types = {f"{family}.{size}": vcpus for family in FAMILIES for size, vcpus in SIZES.items()}
    pages = clients.client("ec2").get_paginator("describe_spot_price_history")
    newest: dict[tuple[str, str], tuple[Any, float]] = {}
    asked: dict[str, Any] = {
        "InstanceTypes": sorted(types),
        "ProductDescriptions": ["Linux/UNIX"],
        "StartTime": datetime.now(UTC),
    }
    for page in pages.paginate(**asked):
        for one in page.get("SpotPriceHistory", []):
            key = one["InstanceType"], one["AvailabilityZone"]
            vcpus = types.get(one["InstanceType"])
            if vcpus and (key not in newest or newest[key][0] < one["Timestamp"]):
                newest[key] = one["Timestamp"], float(one["SpotPrice"]) / vcpus
    return [price for _, price in newest.values()]


def standing(clients: Clients, table: str) -> tuple[Standing | None, str]:
    """What of a sheet is done in its table already, and a word on it; None: there is no table, or it cannot be read."""
    from pyanamo_core.ledger import open_ledger

    try:
        ledger, _, _ = open_ledger(clients, table)
        found = [(item.item_id, item.definition_hash) for item in ledger.items(State.DONE)]
    except (TableMissing, WorkflowMissing):
        return None, f"there is no table {table} yet: nothing is done"
    except PyAnamoError as error:
        return None, f"table {table} was not looked at: {error}"
    return Standing(frozenset(found)), f"table {table} holds {number_of(len(found), 'done item')}"


def settled(ledger: Ledger) -> Standing:
    """What of a table importing the same again does not begin anew: done, failed and cancelled items."""
    over = (State.DONE, State.FAILED, State.CANCELLED)
    return Standing(frozenset((item.item_id, item.definition_hash) for state in over for item in ledger.items(state)))


def left_of(sheet: Sheet, done: Standing | None) -> Iterator[tuple[str, Definition]]:
    """(item id, definition) of the sheet's items that are not done with this very definition."""
    for row in sheet.rows():
        if done is None or (row.item_id, row.definition.hash) not in done:
            yield row.item_id, row.definition
