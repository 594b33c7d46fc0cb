"""Why items of a table failed, grouped by cause and message: what `status` and `explain` tell of many at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Final

from pyanamo_core.model import State
from pyanamo_core.protocols import Ledger

LOOKED_AT: Final = 200
"""Failed items whose messages are looked at."""
SHOWN: Final = 5


@dataclass(frozen=True)
class Failure:
    """A message with which items failed: how many of those looked at, and one of them."""

    cause: str
    message: str
    items: int
    example: str


def failures(ledger: Ledger, looked_at: int = LOOKED_AT, shown: int = SHOWN) -> list[Failure]:
    """The most frequent messages of the first so many failed items."""
    seen: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    for item in islice(ledger.items(State.FAILED), looked_at):
        key = (str(item.cause or ""), item.message)
        seen[key] += 1
        example.setdefault(key, item.item_id)
    return [
        Failure(cause, message, count, example[cause, message]) for (cause, message), count in seen.most_common(shown)
    ]
