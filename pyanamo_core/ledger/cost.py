"""What moves cost in DynamoDB's write units, as code. benchmarks/ledger_cost.py measures the same on DynamoDB Local.

A unit is a write of up to 1 KB. A write that moves an index key costs two more (the entry is deleted and put). An
item's row stays below 1 KB by construction (rows.py), so that its moves cost the same for every item.
What a unit costs, pyanamo_core/cost/prices.py says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from pyanamo_core.ledger import rows
from pyanamo_core.model import Definition, Item, Move, Nest, State

_SOME_TIME: Final = 1_799_999_999.999
_ROW = 1
_INDEX_PUT = 1
_INDEX_MOVED = 2

MOVE_UNITS: Final[dict[Move, int]] = {
    Move.CLAIM: _ROW + _INDEX_MOVED,
    # The claim that is refused because the item is locked, the reclaim, and the dead one's attempt row.
    Move.RECLAIM: _ROW + (_ROW + _INDEX_MOVED) + _ROW,
    Move.EXPIRE: (_ROW + _INDEX_MOVED) + _ROW,
    Move.BEAT: _ROW + _INDEX_MOVED,
    Move.FINISH: _ROW + _INDEX_MOVED,
    Move.FAIL: _ROW + _INDEX_MOVED,
    Move.WAIT: _ROW + _INDEX_MOVED,
    Move.HAND_BACK: _ROW + _INDEX_MOVED,
    Move.RETRY: _ROW + _INDEX_MOVED,
    Move.RESET: _ROW + _INDEX_MOVED,
    Move.EDIT: _ROW + _INDEX_MOVED,
    Move.EXTEND: _ROW + _INDEX_MOVED,
    Move.CANCEL: _ROW + _INDEX_MOVED,
    Move.RECOVER: (_ROW + _INDEX_MOVED) + _ROW,
}
"""Units of each move without rows of definitions (edit, extend) and nests (redo: see redo_units)."""
MARK_UNITS: Final = _ROW
"""Cancelling a locked item: the mark touches no index key."""
REFUSED_UNITS: Final = _ROW
"""A condition that does not hold is billed as a write of the row that stands."""
ATTEMPT_UNITS: Final = 2 * _ROW
"""An attempt row, written when it begins and when it ends."""


def units(size_bytes: int) -> int:
    """Write units of a row of so many bytes."""
    return max(1, math.ceil(size_bytes / 1024))


def definition_units(item_id: str, definition: Definition) -> int:
    """Units of the DEF rows; 0 if the definition stands in the item's row."""
    blank = Item(item_id=item_id, task_id="", state=State.TODO)
    if rows.fits_inline(blank, definition):
        return 0
    return sum(units(rows.size(row)) for row in rows.definition_rows(item_id, definition, _SOME_TIME))


def import_units(item_id: str, definition: Definition) -> int:
    """Units of importing a new item."""
    return _ROW + _INDEX_PUT + definition_units(item_id, definition)


def nest_units(nest: Nest) -> int:
    """Units of recording a nest: its row, and the row of its tail if it has one."""
    recorded, tail = rows.recordable(nest)
    return units(rows.size(rows.nest_row(recorded))) + (units(rows.size(rows.log_row(nest, tail))) if tail else 0)


def redo_units(nests: int) -> int:
    """Units of a redo: a transaction bills each row twice, the index once."""
    return 2 * (_ROW + nests) + _INDEX_MOVED


@dataclass(frozen=True)
class Life:
    """The write units of one item from import to done, by what they were spent on."""

    imported: int
    claim: int
    beats: int
    nests: int
    finish: int
    attempt: int

    @property
    def total(self) -> int:
        return self.imported + self.claim + self.beats + self.nests + self.finish + self.attempt


def life(item_id: str, definition: Definition, *, beats: int, nest: Nest) -> Life:
    """What an item costs that is done at its first claim.

    Args:
        beats: how often its lease is renewed (every 200 s).
        nest: a typical result; each nest of the item is taken to be like it.
    """
    return Life(
        imported=import_units(item_id, definition),
        claim=MOVE_UNITS[Move.CLAIM],
        beats=beats * MOVE_UNITS[Move.BEAT],
        nests=definition.nests * nest_units(nest),
        finish=MOVE_UNITS[Move.FINISH],
        attempt=ATTEMPT_UNITS,
    )
