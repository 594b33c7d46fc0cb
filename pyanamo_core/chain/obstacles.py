"""What a run of a chain would refuse at a step, told before it is tried. Reads only, and next to nothing where all is well."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

from pyanamo_core.chain.steps import Look, Opened, Step
from pyanamo_core.errors import ItemMissing
from pyanamo_core.model import Item
from pyanamo_core.revision import RevisionChanged, RevisionPinned, check_version
from pyanamo_core.sheet import SheetRow

READERS: Final = 16


def obstacle(step: Step, opened: Opened, seen: Look, *, new_revision: bool) -> str:
    """Why `Chain.run` would refuse a step that stands like this, and what to do; empty: nothing is in its way."""
    told = (_revision(step, opened, new_revision), _sheet(step, opened) if seen.changed else "")
    return " ".join(one for one in told if one)


def _revision(step: Step, opened: Opened, new_revision: bool) -> str:
    """As `driver.provision` refuses another revision than the one that done nests and live runs have."""
    wanted = step.workflow.revision
    try:
        check_version(opened.ledger, wanted, new_revision=new_revision)
    except RevisionPinned as refusal:
        return str(refusal)
    except RevisionChanged as refusal:
        return (
            f"Table {step.table} holds done nests of revision {refusal.facts['found']} (e.g. item"
            f" {refusal.facts['item_id']}), and the workflow is now revision {wanted}: its parameters, scripts, references,"
            " verify hook or caller differ. Restore them, or have these nests done again with --new-revision."
        )
    return ""


def _sheet(step: Step, opened: Opened) -> str:
    """As the import refuses a sheet without --update."""
    if step.sheet is None or step.update:
        return ""
    standing = {item.item_id: item for item in opened.ledger.items()}
    other = [
        (row, standing[row.item_id])
        for row in step.sheet.rows()
        if row.item_id in standing and standing[row.item_id].definition_hash != row.definition.hash
    ]
    if not other:
        return ""

    def look(pair: tuple[SheetRow, Item]) -> bool:
        return _has_more(opened, *pair)

    with ThreadPoolExecutor(READERS, thread_name_prefix="definitions") as pool:
        grown = [item.item_id for (_, item), more in zip(other, pool.map(look, other), strict=True) if more]
    whose = f"{len(other):,} items" if len(other) > 1 else "an item"
    what = f"{whose} of the sheet (e.g. {other[0][1].item_id}) stand{'' if len(other) > 1 else 's'} in table"
    told = f"{what} {step.table} with another definition, and --update is not given."
    if grown:
        which = "They have" if len(grown) == len(other) > 1 else "It has" if len(other) == 1 else ""
        which = which or f"{len(grown):,} of them (e.g. {grown[0]}) have"
        told += (
            f" {which} nests that the sheet lacks, as `items extend` adds them: make the sheet with these loci too,"
            " or leave --sheet out."
        )
    if len(grown) < len(other):
        told += " With --update such items are edited and begin from nothing."
    return told


def _has_more(opened: Opened, row: SheetRow, item: Item) -> bool:
    """Does an item do what its row says, and other nests beside it?"""
    try:
        stands = opened.ledger.definition(item)
    except ItemMissing:
        return False
    return stands.script == row.definition.script and set(row.definition.arguments) < set(stands.arguments)
