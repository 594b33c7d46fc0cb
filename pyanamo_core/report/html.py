"""The HTML report: one file without outside references, so that it opens anywhere, also offline and years later."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from pyanamo_core.cost.prices import Prices
from pyanamo_core.cost.ranges import dollars
from pyanamo_core.cost.spent import Spending, in_words, of_run
from pyanamo_core.errors import ExtraMissing, FolderMissing
from pyanamo_core.model import Counts, Item, PilotRecord, Run, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.report.export import iso
from pyanamo_core.report.figures import tabular
from pyanamo_core.report.losses import Losing, Losses
from pyanamo_core.report.qc import QcFold
from pyanamo_core.report.quality import Quality, quality
from pyanamo_core.report.results import Fetch, Result, results
from pyanamo_core.report.timeline import Timeline, draw, duration

MAX_ITEMS = 1000
MAX_NESTS = 3000
MAX_PROBLEMS = 200
MAX_FIGURES = 9

PREFERRED = (
    "variants",
    "snv",
    "indel",
    "titv",
    "tstv",
    "het_hom",
    "mean_depth",
    "callable_fraction",
    "bases_missing",
    "reads",
    "caller_peak_mb",
)
"""QC figures of a gVCF that stand first; others follow in the order in which they are met."""


@dataclass(frozen=True)
class Section:
    """A table of the caller's own in the report, e.g. a comparison with a truth set.

    `kind` colours a row: `good`, `bad` or nothing, one per row, or empty.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text: str = ""
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class ItemLine:
    """An item as the report lists it."""

    item_id: str
    task_id: str
    state: str
    nests: int
    nests_done: int
    nests_failed: int
    tries: int
    interruptions: int
    seconds: float
    cpu_seconds: float
    peak_memory_mb: float
    message: str
    """Why it is not done, or nothing."""


@dataclass(frozen=True)
class ReportData:
    """All that the template shows."""

    title: str
    table: str
    made: str
    version: str
    counts: Counts
    run: Run | None
    run_seconds: float | None
    runs: tuple[Run, ...]
    pilots: tuple[PilotRecord, ...]
    items: tuple[ItemLine, ...]
    items_left_out: int
    nests: tuple[Result, ...]
    nests_left_out: int
    nest_counts: Mapping[str, int]
    figure_names: tuple[str, ...]
    problems: tuple[Result, ...]
    timeline: Timeline | None
    cpu_seconds: float
    busy_seconds: float
    peak_memory_mb: float
    median_seconds: float | None
    sections: tuple[Section, ...] = field(default=())
    losses: Losses = field(default_factory=Losses)
    """What interruptions cost the run."""
    spending: Spending | None = None
    """What the run has cost, if prices were given."""
    quality: Quality | None = None
    """Of samples whose variants were called."""

    @property
    def states(self) -> list[tuple[str, int, float]]:
        """(state, items, share of all in per cent) of the states that occur."""
        total = max(1, self.counts.total)
        told = [(state.value, int(getattr(self.counts, state.value))) for state in State]
        return [(name, count, 100.0 * count / total) for name, count in told if count]

    @property
    def shows_tags(self) -> bool:
        """Tag lines stand in the table where there are no figures."""
        return not self.figure_names and any(one.tags for one in self.nests)

    @property
    def parallel(self) -> float | None:
        """Nests in flight on average over the run."""
        return self.busy_seconds / self.run_seconds if self.run_seconds else None


def collect(
    ledger: Ledger,
    *,
    run_id: str | None = None,
    title: str = "",
    fetch: Fetch | None = None,
    sections: Sequence[Section] = (),
    now: float | None = None,
    prices: Prices | None = None,
    max_items: int = MAX_ITEMS,
    max_nests: int = MAX_NESTS,
) -> ReportData:
    """Read from the ledger what the report shows.

    Args:
        ledger: where to read.
        run_id: the run whose timeline is drawn; default: the newest.
        title: headline; default: the table's name.
        fetch: reads results that were too big for their row (results.s3_fetch).
        sections: tables of the caller's own, shown first.
        now: seconds since 1970, for what has not ended.
        prices: to say what the run has cost; None: the report does not say it.
        max_items, max_nests: rows of a table on the page; the export has all of them.

    Raises:
        RunMissing: no such run.
    """
    moment = time.time() if now is None else now
    runs = sorted(ledger.runs(), key=lambda one: one.started, reverse=True)
    run = ledger.run(run_id) if run_id else next(iter(runs), None)
    pilots = sorted(ledger.pilots(run.run_id if run else None), key=lambda one: (one.started, one.pilot_id))
    gathered = _Gathered(max_items, max_nests, run.run_id if run else None)
    losing = Losing(ledger, run.run_id if run else None)
    fold = QcFold()
    for row in fold.passing(results(ledger, gathered.remember(losing.passing(ledger.items())), fetch=fetch)):
        gathered.take(row)
    run_seconds = None
    if run is not None and run.started:
        run_seconds = max(0.0, (run.ended or moment) - run.started)
    spending = of_run(ledger, run, prices, now=moment) if run is not None and prices is not None and pilots else None
    return ReportData(
        title=title or f"Report of {ledger.table}",
        table=ledger.table,
        made=(iso(moment) or "").replace("T", " ")[:19] + " UTC",
        version=_version(),
        counts=ledger.counts(),
        run=run,
        run_seconds=run_seconds,
        runs=tuple(runs[:20]),
        pilots=tuple(pilots[:500]),
        items=tuple(sorted(gathered.lines(), key=lambda one: one.item_id)),
        items_left_out=gathered.items_left_out,
        nests=tuple(sorted(gathered.nests, key=lambda one: (one.item_id, one.nest))),
        nests_left_out=gathered.nests_left_out,
        nest_counts=dict(gathered.nest_counts),
        figure_names=gathered.figure_names(),
        problems=tuple(gathered.problems),
        timeline=draw(pilots, gathered.of_run, now=moment),
        cpu_seconds=gathered.cpu_seconds,
        busy_seconds=gathered.busy_seconds,
        peak_memory_mb=gathered.peak_memory_mb,
        median_seconds=statistics.median(gathered.durations) if gathered.durations else None,
        sections=(*sections, *_about_costs(spending), *_about_losses(losing.losses)),
        spending=spending,
        losses=losing.losses,
        quality=quality(fold),
    )


def _about_costs(spending: Spending | None) -> Iterable[Section]:
    if spending is None or not spending.pilots:
        return
    rows = [
        (
            line.what,
            line.kind,
            f"{line.vcpu_seconds / 3600:,.2f} vCPU hours",
            f"{100 * line.share:.1f} %",
            dollars(line.dollars),
        )
        for line in spending.lines
    ]
    kinds = ["" if line.kind == "useful" else "bad" if line.kind == "failed" else "" for line in spending.lines]
    rows += [
        (bill.what, bill.basis, f"{bill.amount} {bill.unit}", "", dollars(bill.dollars)) for bill in spending.bills
    ]
    rows.append(("in all", "", "", "", dollars(spending.dollars)))
    yield Section(
        "What it cost",
        ("what", "", "amount", "share", "dollars"),
        tuple(rows),
        f"{in_words(spending)}. Lost is everything that is not useful; docs/cost.md says what is not in it.",
        tuple(kinds + [""] * (len(rows) - len(kinds))),
    )


def _about_losses(losses: Losses) -> Iterable[Section]:
    if losses.attempts:
        rows = tuple(
            (loss.cause, f"{loss.attempts:,}", f"{loss.items:,}", duration(loss.lost_seconds)) for loss in losses.causes
        )
        total = ("all", f"{losses.attempts:,}", f"{losses.items:,}", duration(losses.lost_seconds))
        yield Section(
            "Interruptions",
            ("cause", "attempts cut short", "items", "time lost"),
            (*rows, total) if len(rows) > 1 else rows,
            "Time of claims in which no nest was recorded. Interruptions are no failures: nests that were done stay done.",
        )


class _Gathered:
    """Figures of results as they pass by; of rows only as many are kept as the page shows."""

    def __init__(self, max_items: int, max_nests: int, run_id: str | None) -> None:
        self._max_items, self._max_nests, self._run_id = max_items, max_nests, run_id
        self._items: dict[str, Item] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._cpu: dict[str, float] = defaultdict(float)
        self._peak: dict[str, float] = defaultdict(float)
        self._done: dict[str, int] = defaultdict(int)
        self._failed: dict[str, int] = defaultdict(int)
        self._figures: dict[str, None] = {}
        self.items_left_out = self.nests_left_out = 0
        self.nests: list[Result] = []
        self.of_run: list[Result] = []
        self.problems: list[Result] = []
        self.nest_counts: dict[str, int] = defaultdict(int)
        self.cpu_seconds = self.busy_seconds = self.peak_memory_mb = 0.0
        self.durations: list[float] = []

    def remember(self, items: Iterable[Item]) -> Iterable[Item]:
        for item in items:
            if len(self._items) < self._max_items:
                self._items[item.item_id] = item
            else:
                self.items_left_out += 1
            yield item

    def take(self, row: Result) -> None:
        self.nest_counts[row.status or "open"] += 1
        if len(self.nests) < self._max_nests:
            self.nests.append(row)
        else:
            self.nests_left_out += 1
        if row.status == "failed" and len(self.problems) < MAX_PROBLEMS:
            self.problems.append(row)
        for name, value in tabular(row.figures).items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and len(self._figures) < 200:
                self._figures.setdefault(name)
        if row.item_id in self._items:
            self._done[row.item_id] += row.status == "done"
            self._failed[row.item_id] += row.status == "failed"
            self._seconds[row.item_id] += row.seconds or 0.0
            self._cpu[row.item_id] += row.cpu_seconds or 0.0
            self._peak[row.item_id] = max(self._peak[row.item_id], row.peak_memory_mb or 0.0)
        self.peak_memory_mb = max(self.peak_memory_mb, row.peak_memory_mb or 0.0)
        if self._run_id is not None and row.run_id != self._run_id:
            return
        if len(self.of_run) < self._max_nests + 1:
            self.of_run.append(row)
        self.cpu_seconds += row.cpu_seconds or 0.0
        self.busy_seconds += row.seconds or 0.0
        if row.seconds is not None and len(self.durations) < 100_000:
            self.durations.append(row.seconds)

    def figure_names(self) -> tuple[str, ...]:
        first = [name for name in PREFERRED if name in self._figures]
        # A gVCF's QC record has dozens more; they stand in the export.
        rest = [] if len(first) > 2 else [name for name in self._figures if name not in PREFERRED]
        return tuple((first + rest)[:MAX_FIGURES])

    def lines(self) -> Iterable[ItemLine]:
        for item in self._items.values():
            key = item.item_id
            yield ItemLine(
                item_id=key,
                task_id=item.task_id,
                state=item.state.value,
                nests=item.nests,
                nests_done=self._done[key],
                nests_failed=self._failed[key],
                tries=item.tries,
                interruptions=item.interruptions,
                seconds=self._seconds[key],
                cpu_seconds=self._cpu[key],
                peak_memory_mb=self._peak[key],
                message="" if item.state is State.DONE else _why(item),
            )


def _why(item: Item) -> str:
    cause = item.cause.value if item.cause else ""
    return f"{cause}: {item.message}" if cause and item.message else cause or item.message


def render(data: ReportData) -> str:
    """The report as HTML.

    Raises:
        ExtraMissing: Jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise ExtraMissing(what="The HTML report", extra="report") from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    filters: dict[str, Any] = environment.filters  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    filters.update(duration=duration, number=_number, when=_when, figure=_figure, digits=_digits)
    source = files("pyanamo_core.report").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(data=data)


def write_report(ledger: Ledger, path: Path, **options: Any) -> ReportData:
    """Write the HTML report of a ledger to `path`, whole or not at all; options as of `collect`.

    Returns:
        What the report shows.

    Raises:
        ExtraMissing: Jinja2 is not installed.
        FolderMissing: the folder of `path` does not exist.
    """
    if not path.parent.is_dir():
        raise FolderMissing(folder=path.parent)
    data = collect(ledger, **options)
    page = render(data)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(page, encoding="utf-8")
    beside.replace(path)
    return data


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pyanamo")
    except PackageNotFoundError:
        return ""


def _number(value: float | None, digits: int = 0) -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits}f}".replace(",", "\u202f")


def _digits(value: float | None, digits: int) -> str:
    """A figure of a table; nothing where it is not known."""
    return "" if value is None else f"{value:.{digits}f}"


def _when(seconds: float | None) -> str:
    return (iso(seconds) or "–").replace("T", " ")[:19]


def _figure(row: Result, name: str) -> str:
    value = tabular(row.figures).get(name)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) <= 1 else f"{value:.2f}"
    return _number(value) if isinstance(value, int) else str(value)
