"""`pyanamo items redo, extend`: some nests again, or more of them; all others stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote

import typer

from pyanamo.addressing import find_nest, find_nests, read_region, value_loci
from pyanamo.commands.items import ALL_IN, THREADS, YES, Moved, NothingNamed, each
from pyanamo.commands.sheet import read_list
from pyanamo.context import Context, command
from pyanamo.new_values import NewValues
from pyanamo.render import Told
from pyanamo_core.errors import BadInput, MoveRefused, NestMissing, NotFound, PyAnamoError, Refused
from pyanamo_core.model import Definition, Item, Nest, NestStatus, Output, State
from pyanamo_core.revision import MAX_REDO

if TYPE_CHECKING:
    from pyanamo_core.genomics.intervals import Locus

_AWS_REGION = re.compile(r"[a-z]{2}(-[a-z]+){1,3}-\d")
_RECORDED = frozenset({NestStatus.DONE, NestStatus.FAILED})


class NothingThere(NotFound):
    """No item of table {table}{which} has a recorded nest {what}. See what there is with: pyanamo results list"""


class LociUnknown(BadInput):
    """Item {item_id}, nest {nest}: which loci {value} holds is not known, as no manifest of it is recorded. Name such nests with --nest"""


class LociGone(Refused):
    """The gVCFs of {gone} of {nests} nests of item {item_id} were deleted after they had been gathered (clean --loci-after-gather): without them nothing can be gathered from it again. It was left as it is. Have all of it called again: pyanamo items reset {item_id}"""


class NothingGiven(BadInput):
    """Give the values of the new nests: after the item, or for many items with --loci FILE."""

    exit_code = 2


# ------------------------------------------------------------------------------------------------------------- extend


@command(
    example=(
        "pyanamo items extend NA12878 chr4:169391809-169613627",
        "pyanamo items extend --loci more.txt --yes",
        "pyanamo items extend NA12878 NA12891 --loci more.txt",
    )
)
def extend(
    context: Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ITEM] [VALUE]...", help="An item and the values of its new nests; with --loci: items."
        ),
    ] = None,
    arguments: Annotated[
        str | None,
        typer.Option(
            "--loci", "--args", metavar="FILE|LIST", help="The new nests of each item: a line each, or A,B,C."
        ),
    ] = None,
    state: ALL_IN = None,
    overlapping: Annotated[
        bool, typer.Option("--overlapping", help="Take loci that overlap those that are there.")
    ] = False,
    yes: YES = False,
) -> Told:
    """Give items more nests; those that they have stay as they are, rows and objects.

    With --loci and no item named: every item that is not cancelled. An item that a pilot holds is refused, and the same
    command given again later extends it; one that has all of these nests is left as it is.
    """
    named = list(dict.fromkeys(words or ()))
    if arguments is None:
        if not named or state is not None:
            raise NothingNamed
        if len(words or ()) < 2:
            raise NothingGiven
        row = context.ledger.item(named[0])
        values = tuple(dict.fromkeys((words or ())[1:]))
        rule = NewValues(context, of_nest=_target_loci(context), overlapping=overlapping)
        noted = _noted(context)
        return each(context, "extend", [row], lambda item: _extended(context, item, values, rule, noted))
    values = tuple(dict.fromkeys(read_list(arguments)))
    if not values:
        raise NothingGiven
    rule = NewValues(context, of_nest=_target_loci(context), overlapping=overlapping)
    rule.refuse_twice(values)
    chosen = _many(context, named, state)
    whom = f"{len(chosen):,} items" if named or state else f"every item of table {context.table_name} ({len(chosen):,})"
    if not named:
        context.confirm(f"Extend {whom} by up to {len(values):,} nests each", yes=yes)
    _check_all(context, chosen, values, rule)
    noted = _noted(context)
    return each(context, "extend", chosen, lambda item: _extended(context, item, values, rule, noted))


def _refuse_gone(context: Context, item: Item, noted: frozenset[str], again: Sequence[int] = ()) -> None:
    """Raise LociGone if nests that are not done again have lost their gVCFs after a gather: what would be called now
    could not be gathered with them."""
    if item.item_id not in noted:
        return
    from pyanamo_core.report.clean_loci import GVCF_ENDINGS, cleaned

    is_gone = cleaned(context.clients, [context.workflow.buckets.results], context.table_name)
    rows = context.ledger.nests(item)
    gone = [
        number
        for number, nest in rows.items()
        if nest.status is NestStatus.DONE
        and number not in again
        and is_gone(item.item_id, number, nest.fence, GVCF_ENDINGS[0])
    ]
    if gone:
        raise LociGone(item_id=item.item_id, gone=len(gone), nests=item.nests)


def _noted(context: Context) -> frozenset[str]:
    """Items of which there is a note that their loci were deleted after a gather: one listing for the whole command."""
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.report.clean_loci import marker_of

    results = context.workflow.buckets.results
    if not results.startswith("s3://"):
        return frozenset()
    where = marker_of(results, context.table_name, "").removesuffix(".json")
    try:
        names = [one.uri.rpartition("/")[2] for one in Inputs(clients=context.clients).listing(where)]
    except PyAnamoError:  # who may not look into the bucket, or has none yet, can still move items: gather refuses too
        return frozenset()
    return frozenset(unquote(name.removesuffix(".json")) for name in names)


def _many(context: Context, named: Sequence[str], state: State | None) -> list[Item]:
    """Items by name, in a state, or all but the cancelled ones (a move would revive them)."""
    if named:
        if state is not None:
            raise NothingNamed
        return [context.ledger.item(name) for name in named]
    found = context.ledger.items(state)
    return [item for item in found if state is not None or item.state is not State.CANCELLED]


def _check_all(context: Context, items: Sequence[Item], values: tuple[str, ...], rule: NewValues) -> None:
    """Refuse what cannot be called or overlaps in any item before the first is moved."""

    def check(item: Item) -> None:
        rule.refuse(item, context.ledger.definition(item), values)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="extend") as pool:
        for _ in pool.map(check, items):
            pass


def _extended(
    context: Context, item: Item, values: tuple[str, ...], rule: NewValues, noted: frozenset[str]
) -> Item | Moved:
    definition = context.ledger.definition(item)
    known = frozenset(definition.arguments)
    new = tuple(value for value in values if value not in known)
    if not new:
        return _left(item, "it has these nests already")
    rule.refuse(item, definition, new)
    _refuse_gone(context, item, noted)
    after = context.ledger.extend(item, new)
    return Moved(after.item_id, "extend", after.state, after.cancelled, f"{len(new)} nests more" if new[1:] else "")


# --------------------------------------------------------------------------------------------------------------- redo


@command(
    example=(
        "pyanamo items redo NA12878 chr21:31659566-31669931",
        "pyanamo items redo NA12878 0 7 --yes",
        "pyanamo items redo --region chr21:31000000-32000000",
        "pyanamo items redo NA12878 NA12891 --nest chr21:31659566-31669931",
    ),
    replaces=("region",),
)
def redo(
    context: Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ITEM] [NEST]...", help="An item and its nests by value or number (from 0); else: items."
        ),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region",
            metavar="REGION",
            help="Nests with a base in this region of the genome (may be repeated). AWS's goes before `items`.",
        ),
    ] = None,
    nest: Annotated[
        list[str] | None,
        typer.Option("--nest", metavar="NEST", help="Nests by value or number, of many items (may be repeated)."),
    ] = None,
    state: ALL_IN = None,
    yes: YES = False,
) -> Told:
    """Do some nests again; the others stay as they are, rows and objects.

    With --region or --nest and no item named: of every item that is not cancelled. Only nests with a recorded result
    are done again, so that the command, stopped in its middle and given again, goes on.
    """
    named = list(dict.fromkeys(words or ()))
    region = _of_the_genome(context, region or ())
    if not region and not nest:
        if not named or state is not None:
            raise NothingNamed
        return _redo_one(context, named[0], (words or ())[1:], yes)
    regions = [read_region(one) for one in region]
    chosen = _many(context, named, state)
    found = [one for one in _affected(context, chosen, regions, nest or ()) if one[1]]
    if not found:
        which = f" named {', '.join(named[:5])}" if named else f" in state {state}" if state else ""
        what = " or ".join([*(f"that overlaps {one}" for one in region), *(nest or ())])
        raise NothingThere(table=context.table_name, which=which, what=what)
    numbers = {item.item_id: wanted for item, wanted in found}
    count = sum(len(wanted) for wanted in numbers.values())
    whose = f"{count:,} nests of {len(found):,} items" if count > 1 else f"a nest of item {found[0][0].item_id}"
    context.confirm(f"Do {whose} of table {context.table_name} again, whatever is recorded", yes=yes)
    noted = _noted(context)
    return each(
        context, "redo", [item for item, _ in found], lambda item: _redone(context, item, numbers[item.item_id], noted)
    )


def _of_the_genome(context: Context, told: Sequence[str]) -> list[str]:
    """Regions of the genome; what is a region of AWS, as everywhere else, says where the table is."""
    for one in told:
        if _AWS_REGION.fullmatch(one):
            context.region = one
    return [one for one in told if not _AWS_REGION.fullmatch(one)]


def _redo_one(context: Context, name: str, told: Sequence[str], yes: bool) -> Told:
    row = context.ledger.item(name)
    if not told:
        raise NothingNamed(f"Name the nests of item {name} that are to be done again, or give --region or --nest.")
    numbers = find_nests(name, context.ledger.definition(row), told)
    whose = "nest" if len(numbers) == 1 else "nests"
    listed = ", ".join(str(number) for number in numbers[:10]) + (" …" if len(numbers) > 10 else "")
    context.confirm(f"Do {whose} {listed} of item {name} again, whatever is recorded", yes=yes)
    noted = _noted(context)
    return each(context, "redo", [row], lambda seen: _redone(context, seen, numbers, noted))


def _redone(context: Context, item: Item, numbers: Sequence[int], noted: frozenset[str]) -> Item | Moved:
    """The redo of any number of nests: a transaction takes 99, and a pilot may take the item after the first of them.

    The nests that were done longest ago go first, so that the same command, given again, begins with what it did not reach.
    """
    done, after = 0, item
    _refuse_gone(context, item, noted, numbers)
    if len(numbers) > MAX_REDO:
        rows = context.ledger.nests(item)
        numbers = sorted(numbers, key=lambda number: (rows[number].fence if number in rows else 0, number))
    chunks = [numbers[start : start + MAX_REDO] for start in range(0, len(numbers), MAX_REDO)]
    for chunk in chunks:
        try:
            after = context.ledger.redo(after, chunk)
        except MoveRefused as refused:
            if not done:
                raise
            reason = f"{done} of {len(numbers)} nests are to do again; then: {refused.facts.get('reason', refused)}"
            raise MoveRefused(move="redo", item_id=item.item_id, reason=reason) from refused
        done += len(chunk)
    return Moved(after.item_id, "redo", after.state, after.cancelled, f"{done} nests" if done > 1 else "")


def _affected(
    context: Context, items: Iterable[Item], regions: Sequence[Locus], told: Sequence[str]
) -> Iterator[tuple[Item, list[int]]]:
    """Each item with its recorded nests that are meant, many items read at a time."""
    of_targets = _target_loci(context)

    def look(item: Item) -> tuple[Item, list[int]]:
        definition = context.ledger.definition(item)
        recorded = {n: nest for n, nest in context.ledger.nests(item).items() if nest.status in _RECORDED}
        wanted = {number for number in _named(item, definition, told) if number in recorded}
        if regions:
            for number, nest in recorded.items():
                value = definition.value(number)
                loci = of_targets(nest, value) if value.startswith("@") else value_loci(value)
                if any(locus.overlaps(one) for locus in loci for one in regions):
                    wanted.add(number)
        return item, sorted(wanted)

    todo = iter(items)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="redo") as pool:
        while batch := list(islice(todo, 4 * THREADS)):
            yield from pool.map(look, batch)


def _named(item: Item, definition: Definition, told: Sequence[str]) -> Iterator[int]:
    """Numbers of the nests that are named, as far as this item has them."""
    for one in told:
        try:
            yield find_nest(item.item_id, definition, one)
        except NestMissing:
            continue


def _target_loci(context: Context) -> Callable[[Nest, str], list[Locus]]:
    """The loci of an interval list of the archive, from the manifest of a nest that was done with it; read once each."""
    known: dict[tuple[str, str], list[Locus]] = {}

    def loci(nest: Nest, value: str) -> list[Locus]:
        key = (value, nest.revision)
        if key not in known:
            uri = next((one.uri for one in _outputs(context, nest) if one.uri.endswith(".manifest.json")), "")
            if not uri and nest.status is NestStatus.FAILED:
                return []
            if not uri:
                raise LociUnknown(item_id=nest.item_id, nest=nest.index, value=value)
            known[key] = [locus for one in _manifest_loci(context, uri) for locus in value_loci(one)]
        return known[key]

    return loci


def _outputs(context: Context, nest: Nest) -> tuple[Output, ...]:
    from pyanamo_core.report.results import s3_fetch, unfolded

    return unfolded(nest, s3_fetch(context.clients)).outputs if nest.overflow else nest.outputs


def _manifest_loci(context: Context, uri: str) -> list[str]:
    from pyanamo_core.genomics.inputs import Inputs

    clients = context.clients if uri.startswith("s3://") else None
    data, _ = Inputs(clients=clients).read_range(uri, 0, 1 << 26)
    return [str(one) for one in json.loads(data)["loci"]]


def _left(item: Item, why: str) -> Moved:
    return Moved(item.item_id, "", item.state, item.cancelled, why)
