"""Memory of `pyanamo cost --by item` and `--by sample`: 10,000 and 100,000 items of two attempts each, one sample per item.

    python benchmarks/cost_memory.py

The ledger gives made-up rows, so that what is measured is the counting: the peak of Python's own memory.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from pyanamo_core.cost.items import ITEM_COLUMNS, Pricing, SampleSums, as_row, item_costs
from pyanamo_core.cost.prices import price_list
from pyanamo_core.model import Attempt, Cause, Item, Nest, NestStatus, State
from pyanamo_core.report.export import write_rows


class Rows:
    """Items that are done at their second attempt."""

    def __init__(self, count: int) -> None:
        self._count = count

    def items(self) -> Iterator[Item]:
        for number in range(self._count):
            yield Item(item_id=f"sample-{number:06d}", task_id="t", state=State.DONE, fence=2, nests=50, nests_done=50)

    def histories(self, items: Iterator[Item]) -> Iterator[tuple[Item, list[Attempt], Nest]]:
        for item in items:
            about = {"item_id": item.item_id, "run_id": "r", "vcpus": 4, "slots": 4, "lifecycle": "spot"}
            told = [
                Attempt(**about, fence=1, started=1e9, ended=1e9 + 50, cause=Cause.SPOT, slot_seconds=200.0),
                Attempt(**about, fence=2, started=1e9, ended=2e9, cause=Cause.DONE, slot_seconds=4e3, kept_seconds=4e3),
            ]
            yield item, told, Nest(item_id=item.item_id, epoch=0, index=0, status=NestStatus.DONE, fence=2)


def measured(count: int, by_sample: bool) -> tuple[float, float]:
    """(peak in MB, seconds)."""
    pricing = Pricing(price_list("us-east-1"), now=2e9)
    tracemalloc.start()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "out.tsv").open("w") as stream, SampleSums() as sums:
        parts: Any = item_costs(cast("Any", Rows(count)), pricing, run_id="r")
        if by_sample:
            for _ in sums.passing(parts):
                pass
            parts = sums.costs()
        write_rows((as_row(one) for one in parts), ITEM_COLUMNS, stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20, time.monotonic() - begun


def main() -> None:
    for by_sample in (False, True):
        for count in (1_000, 10_000, 100_000):
            peak, seconds = measured(count, by_sample)
            print(f"by {'sample' if by_sample else 'item':8}{count:8,} items: peak {peak:6.2f} MB, {seconds:6.1f} s")


if __name__ == "__main__":
    main()
