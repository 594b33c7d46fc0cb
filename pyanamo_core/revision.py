"""What a new revision of a workflow means for what is done: results of two revisions must not stand side by side.

A revision is the hash of what nests run with: parameters, task scripts, references, verify hook, the pinned version of the caller. Each nest's row holds
the revision that made it. A workflow file with another revision is refused on a table with done nests, unless these
are done again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from pyanamo_core.errors import Refused
from pyanamo_core.model import Item, NestStatus
from pyanamo_core.protocols import Ledger

MAX_REDO: Final = 99
"""A redo is one transaction; an item with more affected nests is reset (docs/ledger.md)."""
READERS: Final = 16


class RevisionChanged(Refused):
    """Table {table} holds done nests of revision {found} (e.g. item {item_id}), and the workflow file is now revision {revision}: its parameters, scripts, references, verify hook or caller differ. Nothing was changed. Restore them, or have those nests done again with: pyanamo workflow create FILE --new-revision"""


class RevisionPinned(Refused):
    """Run {run_id} of table {table} is live and works with revision {found}; the workflow is now revision {revision}: its parameters, scripts, references, verify hook or caller differ. Nothing was changed. Restore them, or let that run end first: pyanamo watch {run_id} --table {table}      (or end it: pyanamo runs drain {run_id} --table {table})"""


@dataclass(frozen=True)
class Affected:
    """An item with done nests of other revisions than the one asked for."""

    item: Item
    nests: tuple[int, ...]
    revision: str
    """That of the first of them."""


def affected(ledger: Ledger, revision: str) -> Iterator[Affected]:
    """Items with done nests of another revision, one query for each item that has done nests; memory is bounded."""

    def look(item: Item) -> Affected | None:
        done = {
            number: nest.revision
            for number, nest in ledger.nests(item).items()
            if nest.status is NestStatus.DONE and nest.revision not in ("", revision)
        }
        return Affected(item, tuple(sorted(done)), done[min(done)]) if done else None

    with ThreadPoolExecutor(READERS, thread_name_prefix="revision") as pool:
        batch: list[Item] = []
        for item in ledger.items():
            if item.nests_done:
                batch.append(item)
            if len(batch) == READERS:
                yield from (found for found in pool.map(look, batch) if found)
                batch = []
        yield from (found for found in pool.map(look, batch) if found)


def check_version(ledger: Ledger, revision: str, *, new_revision: bool = False) -> None:
    """Refuse to store a version of this revision beside work of another one.

    Args:
        new_revision: done nests of another revision are going to be done again.

    Raises:
        RevisionPinned: a live run works with another revision, so that what it does next would be of that one.
        RevisionChanged: nests of another revision are done.
    """
    for run in ledger.live_runs():
        if run.revision != revision:
            raise RevisionPinned(table=ledger.table, run_id=run.run_id, found=run.revision, revision=revision)
    if not new_revision:
        check_done(ledger, revision)


def check_done(ledger: Ledger, revision: str) -> None:
    """Refuse done nests of another revision. Nests are read only if the table has ever held a version of another one:
    that its newest version has this revision says nothing of what older ones have left.

    Raises:
        RevisionChanged: names the first item that was found.
    """
    if any(version.revision != revision for _, version in ledger.workflow_versions()):
        check_revision(ledger, revision)


def check_revision(ledger: Ledger, revision: str) -> None:
    """Refuse a revision with which done nests were not made.

    Raises:
        RevisionChanged: names the first item that was found.
    """
    first = next(affected(ledger, revision), None)
    if first is not None:
        raise RevisionChanged(table=ledger.table, item_id=first.item.item_id, found=first.revision, revision=revision)


def do_again(ledger: Ledger, found: Iterable[Affected]) -> int:
    """Send affected nests back to todo; the number of items. Can be repeated after an interruption.

    Raises:
        MoveRefused: an item is locked; end the runs first.
    """
    count = 0
    for one in found:
        if len(one.nests) > MAX_REDO:
            ledger.reset(one.item)
        else:
            ledger.redo(one.item, one.nests)
        count += 1
    return count
