"""`pyanamo workflow scale`: how much a workflow's table and its index may do in a second, and how that is billed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands.plan import PRICES, prices_of
from pyanamo.context import Context, command
from pyanamo.render import Told, fields
from pyanamo_core.errors import BadInput

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.cost.prices import Prices
    from pyanamo_core.ledger.scale import Bounds, Place, Scaling, Step, Wanted

_UNITS = re.compile(r"([1-9][0-9,]*)(?::([1-9][0-9,]*))?")
KINDS = ("on-demand", "provisioned", "autoscaling", "warm")


class KindUnknown(BadInput):
    """A table is scaled {kinds}, not {given!r}."""


class UnitsMalformed(BadInput):
    """{option} takes {form}, not {given!r}."""


class UnitsMissing(BadInput):
    """How many {what} a second the table shall have is not told. Give {option}. For beats alone a run of this workflow
    ({pilots:,} pilots with {items} items) writes {table} units a second to the table and {index} to its index;
    imports, claims and nests come on top."""


class NothingToScale(BadInput):
    """{option} means nothing for {kind}. {hint}"""


@dataclass(frozen=True)
class Scaled:
    """How a table was scaled, what was called or would be, and how it is scaled now."""

    table: str
    kind: str
    before: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...] = ()
    done: bool = False
    after: Mapping[str, Any] = field(default_factory=dict[str, Any])
    cost: str = ""
    """What it costs as it is, or would be after these steps."""


UNITS_HELP = "a second: UNITS, or LEAST:MOST for autoscaling"


@command(
    example=(
        "pyanamo workflow scale",
        "pyanamo workflow scale provisioned --writes 400 --reads 200 --index-writes 800 --dry-run",
        "pyanamo workflow scale autoscaling --writes 25:4000 --reads 25:2000 --target 70",
        "pyanamo workflow scale warm --writes 40000 --reads 12000",
        "pyanamo workflow scale on-demand --table HaplotypeCaller-gather",
    )
)
def scale(
    context: Context,
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="HOW", help="on-demand, provisioned, autoscaling or warm; without it: show how it is scaled."
        ),
    ] = None,
    writes: Annotated[
        str | None, typer.Option("--writes", metavar="UNITS", help=f"Of 1 KB to the table {UNITS_HELP}.")
    ] = None,
    reads: Annotated[
        str | None, typer.Option("--reads", metavar="UNITS", help=f"Of 4 KB from the table {UNITS_HELP}.")
    ] = None,
    index_writes: Annotated[
        str | None,
        typer.Option("--index-writes", metavar="UNITS", help="To the index; default: as --writes. A move takes two."),
    ] = None,
    index_reads: Annotated[
        str | None, typer.Option("--index-reads", metavar="UNITS", help="From the index; default: as --reads.")
    ] = None,
    target: Annotated[
        float, typer.Option("--target", min=20, max=90, help="autoscaling: percent of the units that shall be in use.")
    ] = 70.0,
    prices: PRICES = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be called, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> Told:
    """Show or change how much the table and its index may do in a second.

    on-demand (how tables are made): each request is paid, nothing else; AWS doubles what it takes within 30 minutes.
    provisioned: so many units are paid for each hour, used or not; more is throttled, and pilots wait and try again.
    autoscaling: provisioned, and AWS follows the load between your bounds, some minutes behind it.
    warm: on-demand or not, table and index take so much at once, for a big import or start; paid once, never lowered.
    """
    from pyanamo_core.ledger import scale as scaling

    given = {"--writes": writes, "--reads": reads, "--index-writes": index_writes, "--index-reads": index_reads}
    if kind is not None and kind not in KINDS:
        raise KindUnknown(kinds=", ".join(KINDS[:-1]) + f" or {KINDS[-1]}", given=kind)
    name = context.table_name
    now = scaling.look(context.clients, name)
    listed = prices_of(context, prices)
    if kind is None:
        shown_now = Scaled(name, now.kind.value, told(now), cost=cost_of(now.kind.value, _bounds(now), listed))
        return Told(shown_now, view=_view, quiet=[now.kind.value], next=NEXT_SHOWN)
    if kind == "warm":
        todo = _warm(context, now, given)
        cost = "AWS bills what is added once, by its price page (DynamoDB, warm throughput), and nothing later"
    else:
        wanted = _wanted(context, now, scaling.Kind(kind), given, target)
        todo = scaling.steps(now, wanted)
        cost = cost_of(kind, wanted.bounds, listed)
        if not now.targets_seen:
            context.say("not seen: what AWS scales by itself (no permission for application-autoscaling)")
    _show_steps(context, todo)
    if todo:
        context.say(f"what it costs then: {cost}")
    before = told(now)
    shown = tuple(
        {"call": f"{step.service} {step.operation}", "asked": step.asked, "does": step.words} for step in todo
    )
    if dry_run or not todo:
        done = Scaled(name, kind, before, shown, done=not todo, cost=cost)
        return Told(done, view=_view, quiet=[kind], next=f"pyanamo workflow scale {kind} …" if todo else NEXT_SCALED)
    context.confirm(f"Scale table {name}: {kind}", yes=yes)
    scaling.apply(context.clients, name, todo, on_step=lambda step: context.say(f"{step.operation}: {step.words}"))
    after = scaling.look(context.clients, name)
    return Told(
        Scaled(name, kind, before, shown, done=True, after=told(after), cost=cost),
        view=_view,
        quiet=[after.kind.value],
        next=NEXT_SCALED,
    )


NEXT_SHOWN = "pyanamo workflow scale autoscaling --writes 25:4000 --reads 25:2000 --dry-run"
NEXT_SCALED = "pyanamo run"


def cost_of(kind: str, bounds: Mapping[Place, Bounds], prices: Prices) -> str:
    """What a table costs beside what it keeps: by request, or by the hour, used or not."""
    from pyanamo_core.cost.prices import HOURS_A_MONTH
    from pyanamo_core.cost.ranges import Range, dollars, total

    if kind == "on-demand":
        writes, reads = prices.write_million.dollars, prices.read_million.dollars
        return f"{dollars(writes)} a million write units, {dollars(reads)} a million read units; nothing while idle"
    an_hour = total(
        Range(one.low, one.high) * (prices.write_unit_hour if what == "writes" else prices.read_unit_hour).dollars
        for (_, what), one in bounds.items()
    )
    return f"{dollars(an_hour)} an hour, {dollars(an_hour * HOURS_A_MONTH)} a month, used or not"


def _bounds(now: Scaling) -> dict[Place, Bounds]:
    """The units as bounds: what scales itself by its bounds, the rest as it is ordered."""
    from pyanamo_core.ledger.scale import Bounds

    return {place: now.bounds.get(place, Bounds.just(units)) for place, units in now.units.items()}


def told(now: Scaling) -> dict[str, Any]:
    """A scaling as plain data."""
    found: dict[str, Any] = {"kind": now.kind.value}
    for place in sorted({*now.units, *now.bounds, *now.warm}):
        one: dict[str, Any] = {}
        if place in now.units:
            one["units"] = now.units[place]
        if bounds := now.bounds.get(place):
            one |= {"least": bounds.low, "most": bounds.high, "target_percent": now.targets_percent.get(place)}
        if place in now.warm:
            one["warm"] = now.warm[place]
        found[" ".join(place)] = one
    return found


def _show_steps(context: Context, todo: list[Step]) -> None:
    if not todo:
        context.say("it is so already; nothing to change")
        return
    context.say("what this calls:")
    for step in todo:
        context.say(f"  {step.service} {step.operation}: {step.words}")


def _view(done: Scaled) -> RenderableType:
    def line(one: Any) -> str:
        if not isinstance(one, dict):
            return str(one)
        parts: list[str] = []
        if "units" in one:
            parts.append(f"{one['units']:,} a second")
        if "least" in one:
            aim = f", {one['target_percent']:g} % in use" if one["target_percent"] is not None else ", not yet scaled"
            parts.append(f"scaled between {one['least']:,} and {one['most']:,}{aim}")
        if "warm" in one:
            parts.append(f"at once {one['warm']:,}")
        return "; ".join(parts)

    now = done.after or done.before
    shown = {"table": done.table} | {name: line(one) for name, one in now.items()}
    costs_now = {"costs": done.cost} if done.cost and (done.done or not done.steps) else {}
    return fields(shown | costs_now)


def _warm(context: Context, now: Scaling, given: Mapping[str, str | None]) -> list[Step]:
    from pyanamo_core.ledger import scale as scaling

    for option in ("--index-writes", "--index-reads"):
        if given[option] is not None:
            raise NothingToScale(option=option, kind="warm", hint="Table and index are made as warm as each other.")
    asked = {option: _units(option, given[option], one=True) for option in ("--writes", "--reads")}
    if not any(asked.values()):
        raise _missing(context, "writes or reads", "--writes UNITS or --reads UNITS")
    wanted = {option: bounds.high if bounds else None for option, bounds in asked.items()}
    return scaling.warm_steps(now, writes=wanted["--writes"], reads=wanted["--reads"])


def _wanted(context: Context, now: Scaling, kind: Any, given: Mapping[str, str | None], target: float) -> Wanted:
    """What was asked for; places that are not named stay as they are.

    Raises:
        UnitsMalformed, UnitsMissing, NothingToScale.
    """
    from pyanamo_core.ledger.scale import PLACES, Kind, Wanted

    if kind is Kind.ON_DEMAND:
        if option := next((name for name, value in given.items() if value is not None), None):
            raise NothingToScale(option=option, kind="on-demand", hint="Each request is taken. See: warm, provisioned.")
        return Wanted(kind)
    one = kind is Kind.PROVISIONED
    bounds: dict[Place, Bounds] = {}
    for part, what in PLACES:
        option = f"--{what}" if part == "table" else f"--index-{what}"
        asked = _units(option, given[option], one=one) or _standing(now, (part, what), one=one)
        if asked is None and part == "index":
            asked = bounds["table", what]
        if asked is None:
            raise _missing(context, what, f"{option} " + ("UNITS" if one else "LEAST:MOST"))
        bounds[part, what] = asked
    wanted = Wanted(kind, bounds, target)
    _warn_of_beats(context, wanted)
    return wanted


def _standing(now: Scaling, place: Place, *, one: bool) -> Bounds | None:
    from pyanamo_core.ledger.scale import Bounds

    if one:
        return Bounds.just(now.units[place]) if place in now.units else None
    return now.bounds.get(place)


def _units(option: str, given: str | None, *, one: bool) -> Bounds | None:
    from pyanamo_core.ledger.scale import Bounds

    if given is None:
        return None
    found = _UNITS.fullmatch(given.strip())
    low, high = (int(part.replace(",", "")) if part else 0 for part in found.groups()) if found else (0, 0)
    if not found or (one and high) or (high and high < low):
        form = "one whole number of units a second" if one else "LEAST:MOST units a second, e.g. 25:4000"
        raise UnitsMalformed(option=option, form=form, given=given)
    return Bounds(low, high or low)


def _beats(context: Context) -> tuple[Any, Mapping[Place, float]]:
    from pyanamo_core.ledger.scale import units_of_beats

    workflow = context.workflow
    return workflow, units_of_beats(workflow.pilots * workflow.items, workflow.timing.beat_seconds)


def _missing(context: Context, what: str, option: str) -> UnitsMissing:
    workflow, beats = _beats(context)
    return UnitsMissing(
        what=what,
        option=option,
        pilots=workflow.pilots,
        items=workflow.items,
        table=f"{beats['table', 'writes']:,.1f}",
        index=f"{beats['index', 'writes']:,.1f}",
    )


def _warn_of_beats(context: Context, wanted: Wanted) -> None:
    """Say so where a run of this workflow could not even keep its items."""
    workflow, beats = _beats(context)
    for place, units in beats.items():
        if (most := wanted.bounds[place].high) < units:
            context.say(
                f"too little for this workflow: {workflow.pilots:,} pilots with {workflow.items} items write "
                f"{units:,.0f} units a second to the {place[0]} for beats alone, more than {most:,}; "
                "pilots that cannot beat lose their items"
            )
