"""The table of results: one row per nest of every item, as the ledger holds it for the item's present epoch."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

from pydantic import Field

from pyanamo_core.errors import OverflowBroken, PyAnamoError
from pyanamo_core.model import Item, Nest, Output, State, Value
from pyanamo_core.protocols import Ledger

READERS = 16
"""Items whose rows are read at a time; one strong query each."""


class Result(Value):
    """One nest: what it was, and what is recorded of it. Times are seconds since 1970 (UTC), memory is in MB (2**20)."""

    item_id: str
    task_id: str
    nest: int
    value: str
    item_state: State
    status: str = ""
    """done, failed, reset; empty: nothing is recorded yet."""
    exit_code: int | None = None
    cause: str = ""
    message: str = ""
    started: float | None = None
    ended: float | None = None
    cpu_seconds: float | None = None
    peak_memory_mb: float | None = None
    epoch: int = 0
    fence: int | None = None
    revision: str = ""
    run_id: str = ""
    pilot_id: str = ""
    outputs: tuple[Output, ...] = ()
    tags: tuple[str, ...] = ()
    figures: dict[str, Any] = Field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """How long it took, or None if that is not known."""
        if self.started is None or self.ended is None:
            return None
        return max(0.0, self.ended - self.started)


Fetch = Callable[[str], bytes]
"""Reads a whole object by its s3:// URI."""


def results(
    ledger: Ledger, items: Iterable[Item] | None = None, *, fetch: Fetch | None = None, readers: int = READERS
) -> Iterator[Result]:
    """Every nest of the given items (default: all of the table), in the items' order, nests by number.

    Memory is bounded: no more than a few items are held at a time.

    Args:
        ledger: where to read.
        items: which items.
        fetch: reads the object to which a nest's results went that were too big for its row. Without it such a nest
            has no outputs, tags and figures here, and its message says where they are.
        readers: items read at a time.

    Raises:
        OverflowBroken: an object that a row points to is missing or has another checksum.
    """
    todo = iter(items if items is not None else ledger.items())
    with ThreadPoolExecutor(max_workers=readers, thread_name_prefix="results") as pool:
        while batch := list(islice(todo, readers * 4)):
            for rows in pool.map(partial(_of_item, ledger, fetch), batch):
                yield from rows


def _of_item(ledger: Ledger, fetch: Fetch | None, item: Item) -> list[Result]:
    definition = ledger.definition(item)
    recorded = ledger.nests(item)
    return [
        _row(item, number, definition.value(number), recorded.get(number), fetch) for number in range(definition.nests)
    ]


def _row(item: Item, number: int, value: str, nest: Nest | None, fetch: Fetch | None) -> Result:
    common: dict[str, Any] = {
        "item_id": item.item_id,
        "task_id": item.task_id,
        "item_state": item.state,
        "epoch": item.epoch,
        "nest": number,
        "value": value,
    }
    if nest is None:
        return Result(**common)
    message = nest.message
    if nest.overflow:
        if fetch is None:
            message = f"{message}; results in {nest.overflow}".lstrip("; ")
        else:
            nest = unfolded(nest, fetch)
    return Result(
        **common,
        status=nest.status.value,
        exit_code=nest.exit_code,
        cause=nest.cause.value if nest.cause else "",
        message=message,
        started=nest.started or None,
        ended=nest.ended or None,
        cpu_seconds=nest.cpu_seconds,
        peak_memory_mb=nest.peak_memory_mb,
        fence=nest.fence,
        revision=nest.revision,
        run_id=nest.run_id,
        pilot_id=nest.pilot_id,
        outputs=nest.outputs,
        tags=nest.tags,
        figures=nest.figures,
    )


def unfolded(nest: Nest, fetch: Fetch) -> Nest:
    """A nest with the outputs, tags and figures that were too big for its row, read from the object it points to.

    Raises:
        OverflowBroken: the object is missing, has another checksum, or does not hold what the row says.
    """
    facts: dict[str, Any] = {"uri": nest.overflow, "item_id": nest.item_id, "nest": nest.index}
    try:
        body = fetch(nest.overflow)
    except PyAnamoError as error:
        raise OverflowBroken(reason=str(error), **facts) from error
    if nest.overflow_sha256 and hashlib.sha256(body).hexdigest() != nest.overflow_sha256:
        raise OverflowBroken(reason="its checksum is not the recorded one", **facts)
    try:
        held: dict[str, Any] = json.loads(gzip.decompress(body))
        outputs = tuple(Output.model_validate(one) for one in held.get("outputs", ()))
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise OverflowBroken(reason=f"it is no gzipped JSON of results ({error})", **facts) from error
    return nest.model_copy(
        update={
            "outputs": outputs,
            "tags": tuple(held.get("tags", ())),
            "figures": held.get("figures", {}),
        }
    )


def s3_fetch(clients: Any) -> Fetch:
    """A reader of objects by s3:// URI over these clients (aws.Clients)."""

    def fetch(uri: str) -> bytes:
        from pyanamo_core.aws import explained

        bucket, _, key = uri.removeprefix("s3://").partition("/")
        with explained("s3", f"reading {uri}"):
            return clients.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()

    return fetch
