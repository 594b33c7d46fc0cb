"""The table of results: one row per nest of every item, as the ledger holds it for the item's present epoch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pydantic import Field

from pyanamo_core.model import Item, Nest, Output, State, Value
from pyanamo_core.overflow import Fetch, s3_fetch, unfolded
from pyanamo_core.protocols import Ledger

__all__ = ["Fetch", "Result", "results", "s3_fetch", "unfolded"]

READERS = 16
"""Items whose rows are read at a time; one strong query each."""
NESTS_HELD = 4_000
"""Rows that are read ahead at most (of one item at least): some 10 KB each in memory."""


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


def results(
    ledger: Ledger, items: Iterable[Item] | None = None, *, fetch: Fetch | None = None, readers: int = READERS
) -> Iterator[Result]:
    """Every nest of the given items (default: all of the table), in the items' order, nests by number.

    Memory is bounded: no more than NESTS_HELD nests (or one item) are held at a time.

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
        ahead: deque[tuple[int, Future[list[Result]]]] = deque()
        for item in todo:
            ahead.append((item.nests, pool.submit(_of_item, ledger, fetch, item)))
            while len(ahead) > readers * 4 or (len(ahead) > 1 and sum(nests for nests, _ in ahead) > NESTS_HELD):
                yield from ahead.popleft()[1].result()
        while ahead:
            yield from ahead.popleft()[1].result()


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
