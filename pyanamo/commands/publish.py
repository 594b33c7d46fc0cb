"""`pyanamo results publish`: recorded results under names that people browse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.progress import Bar
from pyanamo.render import Told, size
from pyanamo_core.errors import BadInput, Refused
from pyanamo_core.model import Item, State

if TYPE_CHECKING:
    from pyanamo_core.report.publish import Published, Publisher

TRIES = 5


class NothingDone(Refused):
    """No item of table {table} is done: there is nothing to publish. See how far it is with: pyanamo status"""


class ItemOpen(Refused):
    """Item {item_id} is {state}, with {done} of {nests} nests done. Wait for it, or publish what is there with --partial. Nothing was published."""


class ItemMoves(Refused):
    """Item {item_id} moved each time it was being published; now it is {state}. Copies that are there stay, and without a manifest they are not whole. Give the same command again when the item stands still."""


class PlaceInvalid(BadInput):
    """--to {place} is no s3://bucket/prefix."""


class PlaceTaken(BadInput):
    """--to {place} is where pilots write ({work}). Choose another place, e.g. {other}"""


@dataclass(frozen=True)
class PublishedAll:
    """What was published."""

    place: str
    items: int
    files: int
    bytes: int
    copied: int
    removed: int
    left_out: int
    """Items that are not done."""


@command(
    example=(
        "pyanamo results publish",
        "pyanamo results publish NA12878 --suffix .g.vcf.gz",
        "pyanamo results publish --to s3://group-bucket/calls",
    )
)
def publish(
    context: Context,
    items: Annotated[
        list[str] | None, typer.Argument(metavar="[ITEM]...", help="Only these items; default: all done ones.")
    ] = None,
    suffix: Annotated[str, typer.Option("--suffix", help="Only outputs whose name ends so, e.g. .g.vcf.gz")] = "",
    to: Annotated[
        str | None, typer.Option("--to", help="s3://bucket/prefix; default: <results>/<table>/results/loci.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Also items with nests that are not done; their manifest says so.")
    ] = False,
) -> Told:
    """Copy recorded results to <place>/<item>/<nest>/<name>, a manifest for each item last. S3 copies; no byte comes here.

    Only results of done nests are copied, each compared with its recorded size and SHA-256 (above 5 GB: the size). What is
    there already is not copied again: interrupted, the same command goes on. An item that was redone is published
    anew, and what it no longer has is removed. With --suffix what else was published of an item stays, and is listed.
    """
    from pyanamo.cohort import results_place
    from pyanamo_core.report.publish import Publisher

    place = _place(context, to or results_place(context.workflow, context.table_name, "loci"))
    publisher = Publisher(context.clients, place, context.table_name)
    done: list[Published] = []
    left_out = 0
    with Bar(context, "publish") as bar:
        for item in _chosen(context, items or [], partial=partial):
            one = _published(context, publisher, item, suffix, partial=partial, named=bool(items))
            if one is None:
                left_out += 1
                continue
            done.append(one)
            bar.update(len(done), len(done), item.item_id)
    if not done:
        raise NothingDone(table=context.table_name)
    told = PublishedAll(
        place,
        len(done),
        sum(one.files for one in done),
        sum(one.bytes for one in done),
        sum(one.copied for one in done),
        sum(one.removed for one in done),
        left_out,
    )
    return Told(told, view=_view, quiet=[one.manifest for one in done], next="pyanamo results verify")


def _published(
    context: Context, publisher: Publisher, item: Item, suffix: str, *, partial: bool, named: bool
) -> Published | None:
    """Publish an item as it stands: items are listed long before their turn, and may be redone while they are copied.

    Returns:
        None if it is not done.
    """
    from pyanamo_core.report.publish import Unsettled
    from pyanamo_core.report.results import results, s3_fetch

    if not _ready(item, partial=partial):
        return None
    for _ in range(TRIES):
        item = context.ledger.item(item.item_id)
        if not _ready(item, partial=partial):
            if named:
                break
            return None
        rows = list(results(context.ledger, [item], fetch=s3_fetch(context.clients)))
        still = _standing(context, item)
        if still():
            try:
                return publisher.publish(item, rows, suffix, still)
            except Unsettled:
                continue
    raise ItemMoves(item_id=item.item_id, state=context.ledger.item(item.item_id).state.value)


def _ready(item: Item, *, partial: bool) -> bool:
    return item.state is State.DONE or (partial and item.nests_done > 0)


def _standing(context: Context, seen: Item) -> Callable[[], bool]:
    """A question: has nobody claimed, redone or reset the item since?"""

    def still() -> bool:
        now = context.ledger.item(seen.item_id)
        return (now.epoch, now.fence) == (seen.epoch, seen.fence)

    return still


def _chosen(context: Context, names: list[str], *, partial: bool) -> Iterator[Item]:
    """Named items are looked at before the first is published; others come as they are listed."""
    if not names:
        yield from context.ledger.items()
        return
    named = [context.ledger.item(name) for name in dict.fromkeys(names)]
    for item in named:
        if item.state is not State.DONE and not partial:
            raise ItemOpen(item_id=item.item_id, state=item.state.value, done=item.nests_done, nests=item.nests)
    yield from named


def _place(context: Context, told: str) -> str:
    """Where to; never among what pilots write, where `clean` would take it for leftovers."""
    from pyanamo_core.report.objects import work_prefixes

    place = told.rstrip("/")
    if not place.startswith("s3://") or not place.removeprefix("s3://").partition("/")[0]:
        raise PlaceInvalid(place=told)
    for work in work_prefixes([context.workflow], context.table_name):
        if f"{place}/".startswith(work):
            other = f"{context.workflow.buckets.results}/{context.table_name}/results/loci"
            raise PlaceTaken(place=told, work=work, other=other)
    return place


def _view(told: PublishedAll) -> str:
    copied = f"{told.copied:,} copied" if told.copied < told.files else "all copied"
    removed = f"; {told.removed:,} of before removed" if told.removed else ""
    left = f"\n{told.left_out:,} items are not done and were left out (--partial takes them)" if told.left_out else ""
    what = f"{told.items:,} items, {told.files:,} files, {size(told.bytes)}"
    return f"{told.place}: {what}, {copied}{removed}{left}"
