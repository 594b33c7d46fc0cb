"""A canary: a run over a few items of a table, so that the others' hours and dollars follow from what was measured.

The run's row names its items (`only`): its pilots claim no others, and it ends with them. What is named stays so, whoever
carries the run on.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from pyanamo_core.errors import BadInput
from pyanamo_core.model import Item, Run, State
from pyanamo_core.protocols import Ledger

LOOKED_AT = 1000
"""Items among which a canary's are chosen: the queue's order is random, so that they stand for all."""
MOST = 100
MOST_BYTES = 3000
"""Each pilot reads the run's row at each beat: it stays a read unit."""


class CanaryTooBig(BadInput):
    """A canary of {count} items is no canary: their names have {bytes:,} B, a run's row holds {most:,} of up to {items}
    items. Give --first fewer items."""


def choose(ledger: Ledger, count: int) -> tuple[str, ...]:
    """Up to so many items that are to do, for all pilots, which stand for the others: by their number of nests from small to big.

    Of 1,000 items in the queue's random order, sorted by nests, the middles of as many equal parts: of three a small one, a
    usual one and a big one. Where all have as many nests it is chance.

    Raises:
        CanaryTooBig: nothing was changed.
    """
    if count > MOST:
        raise CanaryTooBig(count=count, bytes=0, most=MOST_BYTES, items=MOST)
    free = (item for item in ledger.items(State.TODO) if not item.on_demand)
    found = middles(sorted(islice(free, LOOKED_AT), key=lambda item: item.nests), count)
    names = tuple(item.item_id for item in found)
    if (size := sum(len(name.encode()) + 3 for name in names)) > MOST_BYTES:
        raise CanaryTooBig(count=len(names), bytes=size, most=MOST_BYTES, items=MOST)
    return names


def middles(items: Sequence[Item], count: int) -> list[Item]:
    """The middles of so many equal parts; all of them where there are not more."""
    if len(items) <= count:
        return list(items)
    return [items[int((part + 0.5) * len(items) / count)] for part in range(count)]


def standing(ledger: Ledger, revision: str) -> Run | None:
    """The canary that goes before the run to come: a live one, or one that was the last run of the table.

    Given again, a canary that was broken off is thereby carried on, and one that has ended is not run again.
    """
    runs = ledger.runs()
    live = [run for run in runs if run.ended is None and run.only and run.revision == revision]
    if live:
        return live[-1]
    last = runs[-1] if runs else None
    ended = last is not None and last.only and last.revision == revision and last.outcome in ("completed", "failed")
    return last if ended else None
