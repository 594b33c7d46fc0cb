"""`pyanamo items …`: look at items, and the moves that users make (docs/ledger.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.context import Context, command
from pyanamo.progress import Bar
from pyanamo.render import Told, cell, fields, short, span, table, when
from pyanamo_core.errors import BadInput, PyAnamoError, Refused, Surroundings
from pyanamo_core.model import INTERRUPTIONS, Attempt, Cause, Definition, Item, Nest, State
from pyanamo_core.words import quoted as quoted

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN_VALUES = 40
"""Columns of a nest's value in a table of nests; JSON has all of it."""

THREADS = 16
"""Items that are moved at a time."""

ITEM = Annotated[str, typer.Argument(metavar="ITEM", help="The itemID.")]
ITEMS = Annotated[list[str] | None, typer.Argument(metavar="ITEM", help="The itemIDs.")]
ALL_IN = Annotated[State | None, typer.Option("--state", help="Instead of names: every item in this state.")]
YES = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class NothingNamed(PyAnamoError):
    """Name items, or give --state to mean every item in one."""

    exit_code = 2


class OnDemandUnnamed(BadInput):
    """The workflow of table {table} names no `on_demand_queue`, so nobody would take these items. Put the line that `pyanamo deploy` prints into the workflow file, then: pyanamo workflow create FILE"""


class OnDemandClosed(BadInput):
    """No pilot would start there, so nobody would take these items: {reason}. Nothing was retried."""


class SomeRefused(Refused):
    """{refused} of {total} items were refused:
    {reasons}"""


@dataclass(frozen=True)
class NestView:
    """A nest as `items show` tells it: recorded or not."""

    nest: int
    value: str
    status: str
    cause: str
    exit_code: int | None
    seconds: float | None
    peak_memory_mb: float | None
    attempt: int | None
    message: str


@dataclass(frozen=True)
class ItemView:
    """All that the ledger knows of one item."""

    item: Item
    script: str
    values: tuple[str, ...]
    nests: list[NestView]
    attempts: list[Attempt]


@dataclass(frozen=True)
class Moved:
    """An item after a move; `move` is empty where it was left as it is, and `message` then says why."""

    item_id: str
    move: str
    state: State
    cancelled: bool
    message: str = ""


# ---------------------------------------------------------------------------------------------------- looking


@command(example=("pyanamo items list --state failed", "pyanamo items list --limit 0 --json"))
def list_items(
    context: Context,
    state: Annotated[State | None, typer.Option("--state", help="Only items in this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Items to show at most; 0: all.")] = 100,
) -> Told:
    """List items with their state, progress and what went wrong."""
    found = list(islice(context.ledger.items(state), limit + 1 if limit else None))
    more = bool(limit) and len(found) > limit
    items = found[:limit] if limit else found
    failed = next((item for item in items if item.state is State.FAILED), None)
    first = failed or (items[0] if items else None)
    return Told(
        items,
        view=lambda rows: _list_view(rows, state, f"… these are the first {limit}; all of them with --limit 0" * more),
        quiet=[item.item_id for item in items],
        next=f"pyanamo items show {quoted(first.item_id)}" if first else "pyanamo sheet import sheet.txt",
    )


def _list_view(items: list[Item], state: State | None, more: str) -> RenderableType:
    from rich.console import Group

    if not items:
        return f"no item is {state}" if state else "the table holds no items"
    rows = [
        [
            item.item_id,
            state_text(item),
            f"{item.nests_done}/{item.nests}",
            item.tries or "",
            item.interruptions or "",
            item.cause if item.state in {State.FAILED, State.CANCELLED, State.WAITING} else "",
            remark(item),
        ]
        for item in items
    ]
    columns = ["item", "state", "nests", "tries", "interruptions", "cause", "remark"]
    listed = table(columns, rows, right=["nests", "tries", "interruptions"])
    return Group(listed, more) if more else listed


@command(example=("pyanamo items show NA12878", "pyanamo items show NA12878 --json"))
def show(context: Context, item: ITEM) -> Told:
    """Show an item: its definition, its nests, and every attempt at it."""
    ledger = context.ledger
    row = ledger.item(item)
    definition = ledger.definition(row)
    recorded = ledger.nests(row)
    nests = [nest_view(number, definition, recorded.get(number)) for number in range(definition.nests)]
    told = ItemView(row, definition.script, definition.arguments, nests, ledger.attempts(item))
    return Told(told, view=_show_view, quiet=[str(row.state)], next=_after_show(row))


def nest_view(number: int, definition: Definition, nest: Nest | None) -> NestView:
    """One nest of a definition, with what is recorded of it."""
    value = definition.value(number)
    if nest is None:
        return NestView(number, value, "", "", None, None, None, None, "")
    return NestView(
        number,
        value,
        str(nest.status),
        str(nest.cause or ""),
        nest.exit_code,
        max(0.0, nest.ended - nest.started) if nest.ended else None,
        nest.peak_memory_mb or None,
        nest.fence,
        nest.message,
    )


def _show_view(told: ItemView) -> RenderableType:
    from rich.console import Group

    item = told.item
    about: dict[str, Any] = {
        "item": item.item_id,
        "task": item.task_id,
        "script": told.script,
        "state": state_text(item),
        "nests": f"{item.nests_done} of {item.nests} done"
        + (f", {item.nests_failed} failed" if item.nests_failed else ""),
        "tries": f"{item.tries}, interruptions {item.interruptions}",
        "cause": item.cause if item.state is not State.DONE else None,
        "message": item.message,
        "pilot": item.owner if item.state is State.LOCKED else None,
        "lease until": when(item.lease_end) if item.state is State.LOCKED else None,
        "starts at": when(item.due) if item.state is State.WAITING else None,
        "memory": f"x {item.memory_factor:.3g}" if item.memory_factor != 1 else None,
        "nest time": f"at most {span(item.nest_seconds)}" if item.nest_seconds else None,
        "pilots": "on demand only, no Spot" if item.on_demand else None,
        "imported": when(item.created),
        "finished": when(item.finished_at),
        "fence, epoch": f"{item.fence}, {item.epoch}",
    }
    parts: list[Any] = [fields({name: value for name, value in about.items() if value not in (None, "")})]
    rows = [
        [
            nest.nest,
            shortened(nest.value),
            nest.status or "open",
            nest.exit_code,
            span(nest.seconds),
            f"{nest.peak_memory_mb:.0f} MB" if nest.peak_memory_mb else "",
            nest.attempt,
            " ".join(part for part in (nest.cause if nest.status == "failed" else "", nest.message) if part),
        ]
        for nest in told.nests
    ]
    columns = ["nest", "value", "status", "exit", "took", "memory", "attempt", "remark"]
    parts += ["", table(columns, rows, right=["nest", "exit", "took", "memory", "attempt"])]
    if told.attempts:
        tries = [
            [
                attempt.fence,
                when(attempt.started),
                span(attempt.ended - attempt.started) if attempt.ended else "",
                attempt.cause or "goes on",
                short(attempt.pilot_id),
                attempt.host,
                attempt.evidence,
            ]
            for attempt in told.attempts
        ]
        columns = ["attempt", "began", "took", "ended", "pilot", "host", "evidence"]
        parts += ["", table(columns, tries, right=["attempt", "took"])]
    return Group(*parts)


def _after_show(item: Item) -> str:
    name = quoted(item.item_id)
    if item.state is State.FAILED:
        if item.cause in INTERRUPTIONS:
            return f"shorter nests, or pilots that live longer; then pyanamo items retry {name}"
        limit = {Cause.TIMED_OUT: " --nest-time SECONDS", Cause.OUT_OF_MEMORY: " --memory-factor FACTOR"}
        return f"pyanamo logs {name}, then pyanamo items retry {name}{limit.get(item.cause or Cause.DONE, '')}"
    if item.state is State.DONE:
        return f"pyanamo results list {name}"
    if item.state is State.CANCELLED:
        return f"pyanamo items retry {name}"
    return f"pyanamo explain {name}" if item.state is State.LOCKED else "pyanamo run"


# ---------------------------------------------------------------------------------------------------- moving


@command(example=("pyanamo items reset NA12878", "pyanamo items reset --state failed --yes"))
def reset(context: Context, items: ITEMS = None, state: ALL_IN = None, yes: YES = False) -> Told:
    """Start items from nothing: what they have recorded no longer counts."""
    chosen = _chosen(context, items, state)
    _confirm(context, "Reset", chosen, yes, "; what is recorded of it no longer counts")
    return each(context, "reset", chosen, context.ledger.reset)


@command(
    example=(
        "pyanamo items retry NA12878",
        "pyanamo items retry --state failed --memory-factor 2",
        "pyanamo items retry NA12878 --nest-time 14400",
        "pyanamo items retry NA12878 --on-demand",
    )
)
def retry(
    context: Context,
    items: ITEMS = None,
    state: ALL_IN = None,
    memory_factor: Annotated[
        float | None, typer.Option("--memory-factor", min=1.0, max=64.0, help="So many times the usual memory.")
    ] = None,
    nest_time: Annotated[
        float | None,
        typer.Option("--nest-time", min=1.0, help="Seconds that each nest may take, instead of the workflow's."),
    ] = None,
    on_demand: Annotated[
        bool | None,
        typer.Option(
            "--on-demand/--anywhere",
            help="Only by pilots whose machine nobody takes away (no Spot), or by all again; default: as it stands.",
            show_default=False,
        ),
    ] = None,
) -> Told:
    """Try failed or cancelled items again with what they have: done nests stay done. Limits may be changed.

    With --on-demand no Spot pilot will take them: a run's watcher submits pilots for them to the workflow's
    `on_demand_queue`, below its ceiling. They come first there. Without a live run: start one with pyanamo run.
    """
    chosen = _chosen(context, items, state)
    if on_demand:
        _check_on_demand(context)
    return each(
        context,
        "retry",
        chosen,
        lambda item: context.ledger.retry(
            item, memory_factor=memory_factor, nest_seconds=nest_time, on_demand=on_demand
        ),
    )


def _check_on_demand(context: Context) -> None:
    """Refuse what would wait for ever: no on-demand queue, or one that no pilot fits in. What cannot be asked is let pass."""
    from pyanamo_core.fleet.on_demand import ceiling_of

    _, workflow = context.ledger.workflow()
    if not workflow.on_demand_queue:
        raise OnDemandUnnamed(table=context.table_name)
    try:
        pilots, obstacle = ceiling_of(context.clients, workflow)
    except Surroundings as error:
        context.say(f"the on-demand queue could not be looked at: {error}")
        return
    if not pilots:
        raise OnDemandClosed(reason=obstacle)


@command(example=("pyanamo items cancel NA12878", "pyanamo items cancel --state todo --yes"))
def cancel(context: Context, items: ITEMS = None, state: ALL_IN = None, yes: YES = False) -> Told:
    """Cancel items. A pilot that works on one stops at its next beat."""
    chosen = _chosen(context, items, state)
    _confirm(context, "Cancel", chosen, yes, "")
    return each(context, "cancel", chosen, context.ledger.cancel)


def _chosen(context: Context, names: list[str] | None, state: State | None) -> Iterable[Item]:
    """The items that are meant. Named ones are read at once, so that an unknown one stops the command before a move."""
    if bool(names) == (state is not None):
        raise NothingNamed
    if state is not None:
        return context.ledger.items(state)
    return [context.ledger.item(name) for name in dict.fromkeys(names or ())]


def _confirm(context: Context, verb: str, chosen: Iterable[Item], yes: bool, what_follows: str) -> None:
    if isinstance(chosen, list):
        names = [item.item_id for item in chosen]
        whom = f"item {names[0]}" if len(names) == 1 else f"{len(names)} items"
    else:
        whom = "every item in that state"
    context.confirm(f"{verb} {whom} of table {context.table_name}{what_follows}", yes=yes)


def each(context: Context, move: str, items: Iterable[Item], do: Callable[[Item], Item | Moved]) -> Told:
    """Make a move with each item; those that are refused are told at the end, the others are moved.

    Args:
        do: the move; gives the item after it, or what is to be told of it where nothing was to be moved.
    """
    # A listing is read to its end first: moves would change it under our feet.
    listed = list(items)
    if len(listed) == 1:
        return moved_told(context, move, [_as_moved(move, do(listed[0]))], [])
    moved: list[Moved] = []
    reasons: list[str] = []

    def attempt(item: Item) -> Moved | Refused:
        try:
            return _as_moved(move, do(item))
        except Refused as refusal:
            return refusal

    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="move")
    try:
        with Bar(context, move) as bar:
            for count, after in enumerate(pool.map(attempt, listed), start=1):
                if isinstance(after, Refused):
                    reasons.append(f"  {after}")
                else:
                    moved.append(after)
                bar.update(count, len(listed))
    finally:
        # After Ctrl-C the moves that have begun end, and no other begins.
        pool.shutdown(cancel_futures=True)
    if reasons and not moved:
        raise SomeRefused(refused=len(reasons), total=len(listed), reasons="\n".join(reasons[:100]))
    for reason in reasons[:100]:
        context.say(f"refused:{reason}")
    return moved_told(context, move, moved, reasons)


def _as_moved(move: str, after: Item | Moved) -> Moved:
    return after if isinstance(after, Moved) else Moved(after.item_id, move, after.state, after.cancelled)


def moved_told(context: Context, move: str, moved: list[Moved], reasons: list[str]) -> Told:
    from pyanamo.cohort import cohort_words

    again = cohort_words(context.ledger, context.table_name, "run") or "pyanamo run"
    return Told(
        moved,
        view=_moved_view,
        quiet=[one.item_id for one in moved],
        next="pyanamo status" if move == "cancel" else again,
        exit_code=Refused.exit_code if reasons else 0,
    )


def _moved_view(moved: list[Moved]) -> RenderableType:
    if not moved:
        return "nothing to do"
    if len(moved) <= 20:
        return "\n".join(_moved_line(one) for one in moved)
    did, left = [one for one in moved if one.move], [one for one in moved if not one.move]
    told = (
        [f"{did[0].move}: {len(did)} items are now {', '.join(sorted({str(one.state) for one in did}))}"] if did else []
    )
    if left:
        told.append(f"{len(left)} items were left as they are: {', '.join(sorted({one.message for one in left})[:5])}")
    return "\n".join(told)


def _moved_line(one: Moved) -> str:
    if not one.move:
        return f"{one.item_id}: left as it is: {one.message}"
    what = f"{one.move} ({one.message})" if one.message else one.move
    until = " until its pilot's next beat" if one.cancelled and one.state is State.LOCKED else ""
    return f"{one.item_id}: {what}, now {one.state}{until}"


# ---------------------------------------------------------------------------------------------------- words


def state_text(item: Item) -> str:
    """The state, and whether a cancellation is on its way."""
    return f"{item.state} (being cancelled)" if item.cancelled and item.state is State.LOCKED else str(item.state)


def remark(item: Item) -> str:
    """What a list says of an item beside its state."""
    if item.state is State.WAITING:
        return " ".join(part for part in (f"again at {when(item.due)}", item.message) if part)
    if item.state is State.LOCKED:
        return f"pilot {short(item.owner or '')}"
    if item.state is State.TODO and item.on_demand:
        return "for on-demand pilots only"
    return item.message if item.state is not State.DONE else ""


def shortened(value: str) -> str:
    """A nest's value, cut in the middle where it is long."""
    if len(value) <= SHOWN_VALUES:
        return cell(value)
    half = (SHOWN_VALUES - 1) // 2
    return f"{value[:half]}…{value[-half:]}"
