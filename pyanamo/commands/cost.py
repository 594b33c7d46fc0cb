"""`pyanamo cost`: what a run has cost, by run, sample or item; of which lost, and what Spot saved."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands.plan import PRICES
from pyanamo.commands.runs import find_run, state_of, took
from pyanamo.context import Context, command
from pyanamo.planning import prices_of
from pyanamo.render import Told, fields, size, span, table
from pyanamo_core.errors import BadInput, NotFound

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.cost.items import ItemCost, SampleCost
    from pyanamo_core.cost.prices import Prices
    from pyanamo_core.cost.ranges import Range
    from pyanamo_core.cost.spent import Spending
    from pyanamo_core.model import Run

SHOWN = 20
NOT_IN_IT = (
    "not in it: machines between pilots, S3 calls of task scripts that tell none, transfers, the import of the sheet, the watcher's"
    " reads, logs of containers, taxes; prices are list prices (docs/cost.md)"
)


class By(StrEnum):
    """What costs are told of."""

    RUN = "run"
    SAMPLE = "sample"
    ITEM = "item"


class OutUnfit(BadInput):
    """--out {path}: {reason}. Nothing was written."""


class NoPilots(NotFound):
    """Run {run_id} has no pilot's row: {reason}"""


@dataclass(frozen=True)
class RunCost:
    """What a run has cost."""

    table: str
    run_id: str
    state: str
    took: str
    region: str
    spending: Spending
    dollars: Range
    not_in_it: str = NOT_IN_IT


@dataclass(frozen=True)
class PartsCost:
    """What the dearest samples or items of a run have cost, all of them together, and what belongs to none."""

    table: str
    run_id: str
    by: By
    count: int
    vcpu_seconds: float
    lost_vcpu_seconds: float
    dollars: Range
    lost_dollars: Range
    ledger_dollars: Range
    estimated: int
    overhead_vcpu_seconds: float
    overhead_dollars: Range
    shown: list[Mapping[str, object]] = field(default_factory=list[Mapping[str, object]])


@command(
    example=(
        "pyanamo cost",
        "pyanamo cost 3f2c --by sample",
        "pyanamo cost --by item --out items.tsv",
        "pyanamo cost --prices prices.yaml --json",
    )
)
def cost(
    context: Context,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Its id, or the beginning of it; default: the newest.")
    ] = None,
    by: Annotated[By, typer.Option("--by", help="The run as a whole, its samples, or its items.")] = By.RUN,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="All lines as .tsv, .csv or .json; - is standard output, as TSV."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Samples or items to show, the dearest first.")] = SHOWN,
    prices: PRICES = None,
) -> Told:
    """Say what a run has cost: vCPU time by what came of it, dollars, what was lost, the ledger's units, what Spot saved.

    A run that goes on is told up to its pilots' last beats. By run only pilots' rows are read; by sample and item every
    item with its attempts. Dollars are list prices, as ranges where the price of Spot is concerned.
    """
    check_name(out)
    listed = prices_of(context, prices)
    found = find_run(context.ledger, context.table_name, run)
    if by is By.RUN:
        told = _of_run(context, found, listed)
        if out:
            write_all(out, LINE_COLUMNS, _lines(told.spending))
        return Told(
            None if out == "-" else told,
            view=_run_view,
            quiet=[_dollars(told.dollars)],
            next=f"pyanamo cost {found.run_id} --by sample",
        )
    return _of_parts(context, found, listed, by, out, limit)


# ------------------------------------------------------------------------------------------------- a run


def _of_run(context: Context, run: Run, prices: Prices) -> RunCost:
    from pyanamo_core.cost.spent import of_run

    spending = of_run(context.ledger, run, prices, now=time.time())
    if not spending.pilots:
        gone = run.ended is not None and time.time() - run.ended > 30 * 86400
        reason = "rows are kept for 30 days" if gone else "none has come to its first beat yet; see: pyanamo runs show"
        raise NoPilots(run_id=run.run_id, reason=reason)
    return RunCost(context.table_name, run.run_id, state_of(run), took(run), prices.region, spending, spending.dollars)


def _run_view(told: RunCost) -> RenderableType:
    from rich.console import Group

    from pyanamo_core.cost.ranges import dollars

    spent = told.spending
    cut = f", {spent.silent:,} silent" if spent.silent else ""
    alive = f", {spent.working:,} at work" if spent.working else ""
    head = (
        f"run {told.run_id} of {told.table}: {told.state}, {told.took};"
        f" {spent.pilots:,} pilot{'s' * (spent.pilots != 1)}{alive}{cut}"
    )
    rows = [
        [
            line.what,
            "" if line.kind == line.what else line.kind,
            hours(line.vcpu_seconds),
            share(line.share),
            dollars(line.dollars),
        ]
        for line in spent.lines
    ]
    rows.append(["all", "", hours(spent.vcpu_seconds), "", dollars(spent.compute_dollars)])
    columns = ["vCPU time", "", "vCPU hours", "share", "dollars"]
    parts: list[Any] = [head, "", table(columns, rows, right=columns[2:])]
    if any(place.instance_type or place.job_queue for place in spent.places):
        rows = [
            [
                place.job_queue or "?",
                place.lifecycle or "?",
                place.instance_type or "?",
                place.zone or "?",
                place.pilots,
                hours(place.vcpu_seconds),
                dollars(place.dollars),
            ]
            for place in spent.places
        ]
        names = ["queue", "lifecycle", "type", "zone", "pilots", "vCPU hours", "dollars"]
        parts += ["", table(names, rows, right=names[4:])]
    rows = [[bill.what, _amount(bill.amount, bill.unit), dollars(bill.dollars), bill.basis] for bill in spent.bills]
    rows.append(["in all", "", dollars(told.dollars), ""])
    parts += ["", table(["besides", "amount", "dollars", ""], rows, right=["amount", "dollars"])]
    parts += ["", fields(_about(spent)), "", told.not_in_it]
    return Group(*parts)


def _about(spent: Spending) -> dict[str, str]:
    from pyanamo_core.cost.ranges import dollars, two_digits

    lost_share = spent.lost_vcpu_seconds / spent.vcpu_seconds if spent.vcpu_seconds else 0.0
    told = {"lost": f"{hours(spent.lost_vcpu_seconds)} vCPU hours ({share(lost_share)}), {dollars(spent.lost_dollars)}"}
    if spent.unseen_vcpu_seconds:
        told["not seen"] = (
            f"up to {hours(spent.unseen_vcpu_seconds)} vCPU hours after the last beats of pilots that died; in the upper bounds"
        )
    if spent.unpriced:
        parts = ", ".join(f"{hours(seconds)} vCPU hours of {name}" for name, seconds in spent.unpriced.items())
        told["price not known"] = f"{parts}: without dollars here; say it in a file of your own (--prices, instances)"
    if spent.saved.high:
        told["saved by Spot"] = f"{dollars(spent.saved)} of {dollars(spent.on_demand_dollars)} on demand"
    if spent.vcpu_seconds:
        told["CPU in use"] = (
            f"{span(spent.cpu_seconds)} of processors, {share(spent.cpu_seconds / spent.vcpu_seconds)} of the vCPU time"
        )
    if spent.write_units:
        counted = f"{two_digits(spent.counted_units.low)}–{two_digits(spent.counted_units.high)}"
        told["ledger"] = f"{spent.write_units:,.0f} write units measured; counted from the pilots' moves: {counted}"
    if spent.output_bytes:
        told["results"] = f"{size(spent.output_bytes)} of {spent.nests_done:,} nests: {dollars(spent.a_month)} a month"
    return told


LINE_COLUMNS = (
    "what",
    "kind",
    "vcpu_seconds",
    "share",
    "amount_low",
    "amount_high",
    "unit",
    "dollars_low",
    "dollars_high",
)


def _lines(spent: Spending) -> Iterator[Mapping[str, object]]:
    for line in spent.lines:
        yield {
            "what": line.what,
            "kind": line.kind,
            "vcpu_seconds": line.vcpu_seconds,
            "share": round(line.share, 4),
            **_bounds("dollars", line.dollars),
        }
    for bill in spent.bills:
        yield {
            "what": bill.what,
            "unit": bill.unit,
            **_bounds("amount", bill.amount),
            **_bounds("dollars", bill.dollars),
        }


def _bounds(name: str, amount: Range) -> dict[str, float]:
    return {f"{name}_low": float(f"{amount.low:.6g}"), f"{name}_high": float(f"{amount.high:.6g}")}


# ------------------------------------------------------------------------------------------------- samples and items


@dataclass
class _Dearest:
    """Sums of what passes by, and the dearest of it."""

    limit: int
    count: int = 0
    estimated: int = 0
    vcpu_seconds: float = 0.0
    lost_vcpu_seconds: float = 0.0
    amounts: list[float] = field(default_factory=lambda: [0.0] * 6)
    _heap: list[tuple[float, int, ItemCost | SampleCost]] = field(
        default_factory=list[tuple[float, int, "ItemCost | SampleCost"]]
    )

    def passing(self, parts: Iterable[ItemCost | SampleCost]) -> Iterator[ItemCost | SampleCost]:
        for one in parts:
            self.count += 1
            self.estimated += one.estimated
            self.vcpu_seconds += one.vcpu_seconds
            self.lost_vcpu_seconds += one.lost_vcpu_seconds
            bounds = (one.dollars, one.lost_dollars, one.ledger_dollars)
            self.amounts = [
                known + more
                for known, more in zip(self.amounts, (b for each in bounds for b in (each.low, each.high)), strict=True)
            ]
            entry = (one.vcpu_seconds, -self.count, one)
            if not self.limit or len(self._heap) < self.limit:
                heapq.heappush(self._heap, entry)
            else:
                heapq.heappushpop(self._heap, entry)
            yield one

    @property
    def dearest(self) -> list[ItemCost | SampleCost]:
        return [one for *_, one in sorted(self._heap, key=lambda entry: (-entry[0], -entry[1]))]


def _of_parts(context: Context, run: Run, prices: Prices, by: By, out: str | None, limit: int) -> Told:
    from pyanamo_core.cost.items import (
        ITEM_COLUMNS,
        SAMPLE_COLUMNS,
        Pricing,
        SampleSums,
        as_row,
        item_costs,
    )
    from pyanamo_core.cost.ranges import Range, total
    from pyanamo_core.cost.spent import of_run

    workflow = context.ledger.workflow(run.workflow_version)[1]
    pricing = Pricing(
        prices, time.time(), workflow.vcpus, workflow.slots, workflow.timing.beat_seconds, workflow.on_demand_queue
    )
    dearest = _Dearest(limit)
    with ExitStack() as stack:
        parts: Iterable[Any] = item_costs(context.ledger, pricing, run_id=run.run_id)
        if by is By.SAMPLE:
            sums = stack.enter_context(SampleSums())
            for _ in sums.passing(parts):
                pass
            parts = sums.costs()
        told = dearest.passing(parts)
        if out:
            write_all(out, ITEM_COLUMNS if by is By.ITEM else SAMPLE_COLUMNS, (as_row(one) for one in told))
        for _ in told:
            pass
    spending = of_run(context.ledger, run, prices, now=time.time())
    overhead = [line for line in spending.lines if line.kind == "overhead"]
    low, high, lost_low, lost_high, ledger_low, ledger_high = dearest.amounts
    data = PartsCost(
        table=context.table_name,
        run_id=run.run_id,
        by=by,
        count=dearest.count,
        vcpu_seconds=round(dearest.vcpu_seconds, 3),
        lost_vcpu_seconds=round(dearest.lost_vcpu_seconds, 3),
        dollars=Range(low, high),
        lost_dollars=Range(lost_low, lost_high),
        ledger_dollars=Range(ledger_low, ledger_high),
        estimated=dearest.estimated,
        overhead_vcpu_seconds=round(sum(line.vcpu_seconds for line in overhead), 3),
        overhead_dollars=total(line.dollars for line in overhead),
        shown=[as_row(one) for one in dearest.dearest],
    )
    shown = dearest.dearest
    return Told(
        None if out == "-" else data,
        view=lambda _: _parts_view(data, shown),
        quiet=[_name(one) for one in shown],
        next="" if out else f"pyanamo cost {run.run_id} --by {by.value} --out {by.value}s.tsv",
    )


def _parts_view(told: PartsCost, shown: Sequence[ItemCost | SampleCost]) -> RenderableType:
    from rich.console import Group

    from pyanamo_core.cost.ranges import dollars

    def row(name: str, one: Any, more: Sequence[object]) -> list[object]:
        lost = one.lost_vcpu_seconds
        return [
            name,
            *more,
            hours(one.vcpu_seconds),
            hours(lost) if lost else "",
            f"{one.write_units:,.0f}",
            dollars(one.dollars + one.ledger_dollars),
            "about" if one.estimated else "",
        ]

    item = told.by is By.ITEM
    rows = [
        row(_name(one), one, [getattr(one, "sample", ""), getattr(one, "state", ""), one.attempts])
        if item
        else row(_name(one), one, [getattr(one, "items", ""), one.attempts])
        for one in shown
    ]
    columns = [
        told.by.value,
        *(["sample", "state"] if item else ["items"]),
        "attempts",
        "vCPU hours",
        "lost",
        "write units",
        "dollars",
        "",
    ]
    left = told.count - len(shown)
    lines = [
        f"{told.count:,} {told.by.value}s: {hours(told.vcpu_seconds)} vCPU hours, of which {hours(told.lost_vcpu_seconds)} lost;"
        f" {dollars(told.dollars + told.ledger_dollars)}",
        f"of none of them: {hours(told.overhead_vcpu_seconds)} vCPU hours of starts and idle slots, {dollars(told.overhead_dollars)}",
    ]
    if told.estimated:
        lines.append(f"about: {told.estimated:,} whose pilots died or work; their time is counted from their claims")
    if left > 0:
        lines.insert(0, f"… and {left:,} more (--limit 0, or --out FILE)")
    head = f"run {told.run_id} of {told.table}, by {told.by.value}, the dearest first"
    return Group(head, "", table(columns, rows, right=[*columns[-6:-1], "items"]), "", "\n".join(lines))


def _name(one: ItemCost | SampleCost) -> str:
    return str(getattr(one, "item_id", "") or one.sample)


# ------------------------------------------------------------------------------------------------- small


def check_name(out: str | None) -> None:
    """Raises OutUnfit for a file whose name says no format."""
    if out and out != "-" and not out.endswith((".tsv", ".csv", ".json")):
        raise OutUnfit(path=out, reason="the name must end in .tsv, .csv or .json")


def write_all(out: str, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """All rows into a file, whole or not at all; `-` is standard output."""
    import sys

    from pyanamo_core.report.export import write_rows

    if out == "-":
        write_rows(rows, columns, sys.stdout, "tsv")
        sys.stdout.flush()
        return
    path = Path(out)
    form = path.suffix.removeprefix(".")
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            write_rows(rows, columns, stream, form)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutUnfit(path=out, reason=error.strerror or str(error)) from error


def hours(vcpu_seconds: float) -> str:
    """vCPU hours with as many digits as mean something."""
    value = vcpu_seconds / 3600
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def share(value: float) -> str:
    """A share of one in per cent."""
    return f"{100 * value:.0f} %" if value >= 0.095 or value == 0 else f"{100 * value:.1f} %"


def _amount(amount: Range, unit: str) -> str:
    from pyanamo_core.cost.ranges import two_digits

    if not amount.exact:
        return f"{two_digits(amount.low)}–{two_digits(amount.high)} {unit}"
    return f"{amount.low:,.0f} {unit}" if amount.low >= 10 else f"{two_digits(amount.low)} {unit}"


def _dollars(amount: Range) -> str:
    """For scripts: both bounds with a blank between."""
    return f"{amount.low:.4g} {amount.high:.4g}"
