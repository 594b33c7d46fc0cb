"""How long fsck looks at 100,000 items and how much memory it takes, against a store that answers at once.

    python benchmarks/fsck_memory.py [items]

The rows are made as they are asked for, so what is measured is fsck itself: its share of one core and its peak of memory
for a tenth of the items and for all of them.
"""

from __future__ import annotations

import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

from pyanamo_core.aws import Clients
from pyanamo_core.clock import FakeClock
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger import rows
from pyanamo_core.ledger.fsck_walk import Checked, Fsck
from pyanamo_core.ledger.rows import Row
from pyanamo_core.model import Attempt, Cause, Definition, Item, Nest, NestStatus, Output, State

PAGE_ROWS = 500
NESTS = 4
NOW = 1_800_000_000.0


def done_item(*, outputs: int = 1, nests: int = NESTS) -> list[Row]:
    """The rows of a done item, in the order of their range keys."""
    item_id = "item"
    definition = Definition(script="bash call.sh", arguments=tuple(f"chr1:{n}00-{n}99" for n in range(nests)))
    item = Item(
        item_id=item_id,
        task_id="trio",
        state=State.DONE,
        fence=1,
        tries=1,
        owner="pilot-1",
        nests=nests,
        nests_done=nests,
        definition_hash=definition.hash,
        cause=Cause.DONE,
        last_move="t" * 16,
        created=NOW,
        locked_at=NOW,
        finished_at=NOW,
    )
    inline = definition if rows.fits_inline(item, definition) else None
    found = rows.definition_rows(item_id, definition, NOW) if inline is None else []
    found.append(rows.item_row(item, 4, "", inline))
    made = tuple(Output(uri=f"s3://results/{item_id}/{n}.g.vcf.gz", bytes=n, sha256="a" * 64) for n in range(outputs))
    nest = Nest(item_id=item_id, epoch=0, index=0, status=NestStatus.DONE, fence=1, outputs=made, token="t")
    recorded = rows.nest_row(nest)
    found += [recorded | {x.RANGE: {"S": x.nest_row(0, index)}} for index in range(nests)]
    attempt = Attempt(item_id=item_id, fence=1, pilot_id="pilot-1", started=NOW, ended=NOW, cause=Cause.DONE)
    return [*found, rows.key(item_id, x.attempt_row(1)) | rows.attempt_fields(attempt)]


class MadeUp:
    """A store whose rows are made when they are asked for; each `broken`th item has lost its queue key."""

    def __init__(self, items: int, *, broken: int = 0, **of_item: Any) -> None:
        self.table = "made-up"
        self._items, self._broken, self._rows = items, broken, done_item(**of_item)
        self.asked = 0

    def check(self) -> None:
        """It is a ledger."""

    def _rows_of(self, number: int) -> Iterator[Row]:
        item_id = f"item-{number:07d}"
        queue = {"S": x.queue(State.DONE, rows.shard_of(item_id, 4))}
        for row in self._rows:
            made = row | {x.HASH: {"S": item_id}}
            if x.QUEUE in row:
                made[x.QUEUE] = queue if not self._broken or number % self._broken else {"S": "lost#0"}
            yield made

    def scan(self) -> Iterator[list[Row]]:
        page: list[Row] = []
        for number in range(self._items):
            for row in self._rows_of(number):
                page.append(row)
                if len(page) == PAGE_ROWS:
                    yield page
                    page = []
        yield page

    def rows(self, item_id: str, prefix: str) -> Iterator[Row]:
        if not item_id.startswith("!"):
            self.asked += 1
            yield from self._rows_of(int(item_id[5:]))

    def get(self, item_id: str, row: str) -> Row | None:
        return next((one for one in self._rows_of(int(item_id[5:])) if one[x.RANGE]["S"] == row), None)

    def queue_ids(self, queue: str, *, at_least: str = "") -> Iterator[list[str]]:
        yield from ()


def checked(store: MadeUp) -> tuple[Fsck, Iterator[Checked]]:
    """A walk over a made-up table."""
    fsck = Fsck(Clients(), store.table, clock=FakeClock(NOW))
    fsck._store = store  # type: ignore[assignment]
    return fsck, fsck.walk()


def peak_bytes(store: MadeUp) -> int:
    """The most memory that a walk has at a time; findings are not kept."""
    _, walk = checked(store)
    tracemalloc.start()
    try:
        for _ in walk:
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    items = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    began = time.monotonic()
    made = sum(len(page) for page in MadeUp(items).scan())
    alone = time.monotonic() - began
    began = time.monotonic()
    fsck, walk = checked(MadeUp(items, broken=1000))
    found = sum(1 for _ in walk)
    took = time.monotonic() - began - alone
    print(
        f"{made:,} rows of {items:,} items: {took:.1f} s of one core ({made / took:,.0f} rows a second), {found} findings"
    )
    small, big = peak_bytes(MadeUp(items // 10)), peak_bytes(MadeUp(items))
    print(f"peak of memory: {small / 2**20:.1f} MB for {items // 10:,} items, {big / 2**20:.1f} MB for {items:,}")
    wide = peak_bytes(MadeUp(1, nests=20_000, outputs=8))
    print(f"one item of 20,000 nests with 8 outputs each: {wide / 2**20:.1f} MB")
    assert fsck.tally.items == items


if __name__ == "__main__":
    main()
