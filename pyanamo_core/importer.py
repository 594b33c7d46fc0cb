"""Put a sheet's items into a ledger, many at a time; an import that was interrupted completes when it is run again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from pyanamo_core.errors import Refused
from pyanamo_core.model import Imported, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.sheet import SheetRow

SHOWN_CONFLICTS = 1000
"""So many conflicts are kept with their reason; the others are counted."""

OTHER = "another TaskScript or other TaskArgs stand in the table"
LOCKED = "other content stands in the table, and a pilot works on it; import again when it has ended"


@dataclass(frozen=True)
class Conflict:
    """An item that was left as it is in the table, its line in the sheet, and why."""

    item_id: str
    line: int
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """What an import did, in items."""

    total: int
    created: int = 0
    exists: int = 0
    edited: int = 0
    conflicts: int = 0
    shown_conflicts: tuple[Conflict, ...] = ()
    """The first 1,000, by line."""


@dataclass(frozen=True)
class Losses:
    """Done nests that an import with `update` would do again: how many, of how many items, and one of these."""

    items: int = 0
    nests: int = 0
    example: str = ""


class Rows(Protocol):
    """Items to import, and how many: a sheet, or rows in memory."""

    @property
    def items(self) -> int: ...
    def rows(self) -> Iterable[SheetRow]: ...


def losses(ledger: Ledger, sheet: Rows) -> Losses:
    """What an import with `update` would throw away: an edited item begins from nothing. Reads only.

    One listing of the table; of it, only the items that have done nests are kept. Items at work are not counted, for
    these are not edited.
    """
    done = {
        item.item_id: (item.definition_hash, item.nests_done)
        for item in ledger.items()
        if item.nests_done and item.state is not State.LOCKED
    }
    items = nests = 0
    example = ""
    for row in sheet.rows() if done else ():
        standing, count = done.get(row.item_id, ("", 0))
        if count and standing != row.definition.hash:
            items, nests, example = items + 1, nests + count, example or row.item_id
    return Losses(items, nests, example)


def import_sheet(
    ledger: Ledger,
    sheet: Rows,
    *,
    update: bool = False,
    progress: Callable[[int, int], None] | None = None,
    threads: int = 16,
    priority: int = 5,
    revision: str = "",
) -> ImportReport:
    """Import every item of a sheet.

    An item that stands in the table with the same definition is left alone, so the same sheet again changes nothing.
    One with another definition is a conflict and left alone too, unless `update`: then it is edited, where its state
    allows that.

    Args:
        progress: told (items so far, items of the sheet) after each item, by the calling thread.
        threads: items that are written at a time.
        priority: 0 (first) to 9 (last).
        revision: the workflow's, for the items' rows.

    Raises:
        PyAnamoError: a write failed; what was written before stays, and the same import again completes it.
    """
    did: Counter[Imported] = Counter()
    conflicts: list[Conflict] = []

    def put(row: SheetRow) -> tuple[Imported, Conflict | None]:
        try:
            done = ledger.import_item(
                row.item_id, row.task_id, row.definition, priority=priority, revision=revision, update=update
            )
        except Refused as refusal:
            return Imported.CONFLICT, Conflict(row.item_id, row.line, str(refusal))
        if done is Imported.CONFLICT:
            return done, Conflict(row.item_id, row.line, LOCKED if update else OTHER)
        return done, None

    def settle(flying: set[Future[tuple[Imported, Conflict | None]]]) -> None:
        for future in flying:
            done, conflict = future.result()
            did[done] += 1
            if conflict is not None and len(conflicts) < SHOWN_CONFLICTS:
                conflicts.append(conflict)
        if progress is not None and flying:
            progress(did.total(), sheet.items)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="import")
    flying: set[Future[tuple[Imported, Conflict | None]]] = set()
    try:
        for row in sheet.rows():
            flying.add(pool.submit(put, row))
            if len(flying) >= 4 * threads:
                landed, flying = wait(flying, return_when=FIRST_COMPLETED)
                settle(landed)
        settle(flying)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return ImportReport(
        total=did.total(),
        created=did[Imported.CREATED],
        exists=did[Imported.EXISTS],
        edited=did[Imported.EDITED],
        conflicts=did[Imported.CONFLICT],
        shown_conflicts=tuple(sorted(conflicts, key=lambda conflict: conflict.line)),
    )
