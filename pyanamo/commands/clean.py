"""`pyanamo clean`: delete what costs money or room and is no result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.clean_local import LocalFolder, local_folders, remove
from pyanamo.commands.fsck import corrected_clock
from pyanamo.context import Context, command
from pyanamo.planning import prices_of
from pyanamo.progress import Bar
from pyanamo.render import Told, size, span, table
from pyanamo_core.errors import PyAnamoError, Refused

if TYPE_CHECKING:
    from pyanamo_core.ledger import Ledger
    from pyanamo_core.ledger.fsck_walk import Fsck
    from pyanamo_core.report.clean import CleanTally
    from pyanamo_core.report.clean_loci import LociTally

SHOWN = 20


class NothingChosen(PyAnamoError):
    """Say what to clean: --orphans, --work, --loci-after-gather or --local. See what it would be with --dry-run."""

    exit_code = 2


class RunsLive(Refused):
    """Table {table} has live runs ({runs}): they may read these loci. Nothing was deleted. Wait for them, or end them: pyanamo runs cancel RUN --table {table}"""


@dataclass(frozen=True)
class Cleaned:
    """One kind of thing that went, or would go. Dollars are those of a month."""

    what: str
    objects: int
    bytes: int
    dollars_a_month: float
    deleted: bool


@dataclass
class Report:
    """What `clean` has to tell."""

    table: str
    dry_run: bool
    price: float
    cleaned: list[Cleaned] = field(default_factory=list[Cleaned])
    kept: dict[str, int] = field(default_factory=dict[str, int])
    stays: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    """Items whose loci stay, and folders of this machine that stay, each with why."""
    notes: list[str] = field(default_factory=list[str])

    @property
    def objects(self) -> int:
        return sum(one.objects for one in self.cleaned)


@command(
    example=(
        "pyanamo clean --orphans --dry-run",
        "pyanamo clean --work --yes",
        "pyanamo clean --loci-after-gather --dry-run --price 0.0125",
        "pyanamo clean --local",
    )
)
def clean(
    context: Context,
    work: Annotated[
        bool, typer.Option("--work", help="What --orphans takes, and results of before a reset, an edit or a redo.")
    ] = False,
    orphans: Annotated[
        bool, typer.Option("--orphans", help="What attempts left in the bucket that died or failed: no row names it.")
    ] = False,
    loci_after_gather: Annotated[
        bool,
        typer.Option("--loci-after-gather", help="The gVCFs of loci of which a verified gathered gVCF has been made."),
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="This machine's staged files, and work folders of pilots that died.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell: objects, bytes, dollars a month.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="HOURS", help="Leave what was written in the last hours.")
    ] = 0.0,
    price: Annotated[
        float | None,
        typer.Option(
            "--price",
            min=0,
            metavar="DOLLARS",
            help="A GB and month; default: your prices (PYANAMO_PRICES), or S3's list.",
        ),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="With --loci-after-gather: read every byte of what was gathered.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> Told:
    """Delete what costs money or room and is no result. Pilots may work meanwhile: what a live claim writes is left alone.

    --orphans and --work never touch a recorded result of an item's present epoch, nor what lies beside it, nor what is
    younger than a lease, nor what belongs to no item of the table. --loci-after-gather keeps manifests and QC records. Afterwards a sample is gathered anew (after
    items reset, or with --reblock) only once its nests are called again; a joint call, also with more samples,
    needs the gathered gVCFs only. Interrupted, the same command goes on. docs/again.md says more.
    """
    if not (work or orphans or loci_after_gather or local):
        raise NothingChosen
    dollars = price if price is not None else prices_of(context, None).s3_gb_month.dollars.middle
    asked = _Asked(context, work, orphans, loci_after_gather, local, older_than, dollars, whole)
    if dry_run:
        return _told(asked.go(delete=False), asked.command)
    if not yes:
        would = asked.go(delete=False)
        if not would.objects:
            return _told(would, asked.command)
        context.say("\n".join(_lines(would)))
        context.confirm(_question(would), yes=False)
    return _told(asked.go(delete=True), asked.command)


@dataclass(frozen=True)
class _Asked:
    """What was asked for; `go` counts it, or does it."""

    context: Context
    work: bool
    orphans: bool
    loci: bool
    local: bool
    older_than: float
    price: float
    whole: bool

    @property
    def command(self) -> str:
        """The same command without --dry-run."""
        flags = {
            "--work": self.work,
            "--orphans": self.orphans,
            "--loci-after-gather": self.loci,
            "--local": self.local,
        }
        words = ["pyanamo", "clean", *(name for name, given in flags.items() if given)]
        words += ["--older-than", f"{self.older_than:g}"] if self.older_than else []
        return " ".join([*words, *(["--whole"] if self.whole else [])])

    def go(self, *, delete: bool) -> Report:
        in_bucket = self.work or self.orphans or self.loci
        report = Report(self.context.table_name if in_bucket else "", not delete, self.price)
        if self.work or self.orphans:
            self._in_bucket(report, delete)
        if self.loci:
            self._loci(report, delete)
        if self.local:
            _on_this_machine(report, delete)
        return report

    def _in_bucket(self, report: Report, delete: bool) -> None:
        from pyanamo_core.ledger.fsck_walk import Fsck
        from pyanamo_core.report.clean import Leftover, WorkCleaner
        from pyanamo_core.report.objects import work_prefixes

        context = self.context
        clock = corrected_clock(context)
        fsck: Fsck = Fsck(context.clients, context.table_name, clock=clock)
        workflows = [one for _, one in context.ledger.workflow_versions()]
        # A claim that has just ended may still have a write on its way; after a lease and its margin none has.
        lease = max(one.rules.lease_seconds + one.rules.margin_seconds for one in workflows)
        kinds = {Leftover.ORPHAN, Leftover.UPLOAD} | ({Leftover.OLD} if self.work else set())
        cleaner = WorkCleaner(
            context.clients,
            fsck,
            work_prefixes(workflows, context.table_name),
            kinds=frozenset(kinds),
            older_than=clock.now() - max(lease, self.older_than * 3600),
            delete=delete,
            read_on=_gathers_at_work(context),
        )
        with Bar(context, "clean", unit="objects") as bar:
            for tally in cleaner.walk():
                bar.update(tally.seen.objects, tally.seen.objects)
            homes = dict.fromkeys(one.buckets.results for one in workflows)
            cleaner.parts([f"{home}/{context.table_name}/plans/parts/" for home in homes], context.ledger)
        self._add(report, cleaner.tally, delete)

    def _add(self, report: Report, tally: CleanTally, delete: bool) -> None:
        for kind, found in sorted(tally.found.items()):
            report.cleaned.append(Cleaned(_WORDS[kind], found.objects, found.bytes, found.dollars(self.price), delete))
        report.kept |= dict(sorted(tally.kept.items()))

    def _loci(self, report: Report, delete: bool) -> None:
        from pyanamo_core.clock import SystemClock
        from pyanamo_core.report.clean_loci import LociCleaner

        context = self.context
        results = context.workflow.buckets.results
        _refuse_live_runs(context)
        cleaner = LociCleaner(
            context.clients, context.ledger, results, delete=delete, now=SystemClock().now(), whole=self.whole
        )
        with Bar(context, "clean", unit="samples") as bar:
            for number, tally in enumerate(cleaner.walk(_manifests(context)), start=1):
                bar.update(number, number, f"{tally.found.objects:,} objects")
        tally: LociTally = cleaner.tally
        if tally.found.objects:
            report.cleaned.append(
                Cleaned(
                    "loci that have been gathered",
                    tally.found.objects,
                    tally.found.bytes,
                    tally.found.dollars(self.price),
                    delete,
                )
            )
            report.notes.append(
                f"To gather one of these {tally.items:,} samples anew (also with another --reblock), its nests must"
                f" be called again; all {tally.nests:,} took {span(tally.seconds)}. A joint call needs the gathered gVCFs only."
            )
        report.stays += [{"what": f"loci of item {item_id}", "why": why} for item_id, why in tally.stays.items()]


_WORDS = {
    "orphan": "left by attempts that died or failed",
    "of an older epoch": "of before a reset, an edit or a redo",
    "unfinished upload": "uploads that nobody will finish",
    "segment": "segments of gathers that did not end",
}


def _refuse_live_runs(context: Context) -> None:
    """Gathers read loci: none may be under way."""
    live = [(context.table_name, context.ledger.live_runs())]
    if (gather := _gather_ledger(context)) is not None:
        live.append((gather.table, gather.live_runs()))
    for one, runs in live:
        if runs:
            raise RunsLive(table=one, runs=", ".join(run.run_id for run in runs))


def _gather_ledger(context: Context) -> Ledger | None:
    from pyanamo_core.ledger import open_ledger

    try:
        return open_ledger(context.clients, f"{context.table_name}-gather")[0]
    except PyAnamoError as error:
        if error.exit_code != 4:
            raise
    return None


def _gathers_at_work(context: Context) -> bool:
    """May somebody read this table's results now, by plans that were made before?"""
    from pyanamo_core.model import State

    gather = _gather_ledger(context)
    return gather is not None and bool(gather.live_runs() or gather.count(State.LOCKED, bound=1))


def _manifests(context: Context) -> Iterator[str]:
    """Addresses of the manifests of gathered gVCFs: those that the gather table has recorded, and those of `results/gvcf`."""
    from pyanamo.cohort import results_place
    from pyanamo_core.errors import NotFound
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.ledger import open_ledger
    from pyanamo_core.model import NestStatus, State
    from pyanamo_core.overflow import s3_fetch, unfolded

    try:
        ledger, _, _ = open_ledger(context.clients, f"{context.table_name}-gather")
        for item in ledger.items(State.DONE):
            for nest in ledger.nests(item).values():
                if nest.status is NestStatus.DONE:
                    outputs = unfolded(nest, s3_fetch(context.clients)).outputs
                    yield from (one.uri for one in outputs if one.uri.endswith(".manifest.json"))
    except NotFound:
        pass
    where = results_place(context.workflow, context.table_name, "gvcf")
    for one in Inputs(clients=context.clients).listing(f"{where}/"):
        if one.uri.endswith(".manifest.json"):
            yield one.uri


def _on_this_machine(report: Report, delete: bool) -> None:
    from pyanamo_core.local.state import default_home
    from pyanamo_core.pilot.options import PilotOptions
    from pyanamo_core.store import default_root

    own = os.environ.get("PYANAMO_SCRATCH")
    scratch = PilotOptions(table="", scratch=Path(own) if own else None).scratch_root
    sums: dict[str, list[LocalFolder]] = {}
    for one in local_folders(scratch, default_root(), default_home()):
        if one.why:
            report.stays.append({"what": str(one.path), "why": one.why})
            continue
        if delete:
            remove(one)
        sums.setdefault(one.kind, []).append(one)
    for kind, found in sums.items():
        files, total = sum(one.files for one in found), sum(one.bytes for one in found)
        places = f"{kind} ({', '.join(sorted({str(one.path.parent) for one in found}))})"
        report.cleaned.append(Cleaned(places, files, total, 0.0, delete))


# ---------------------------------------------------------------------------------------------------------------- words


def _question(would: Report) -> str:
    total = sum(one.bytes for one in would.cleaned)
    of = f" of table {would.table}" if would.table else ""
    return f"Delete these {would.objects:,} objects{of}, {size(total)}"


def _told(report: Report, command: str) -> Told:
    return Told(
        report,
        view=_view,
        quiet=[f"{one.objects} {one.bytes} {one.what}" for one in report.cleaned],
        next=command if report.dry_run and report.objects else "",
    )


def _view(report: Report) -> Any:
    from rich.console import Group

    if not report.cleaned:
        return Group("nothing to clean", *_rest(report))
    rows = [
        [one.what, f"{one.objects:,}", size(one.bytes), _dollars(one.dollars_a_month) if one.dollars_a_month else ""]
        for one in report.cleaned
    ]
    verb = "would be deleted" if report.dry_run else "deleted"
    columns = [verb, "objects", "bytes", "dollars a month"]
    if not any(row[3] for row in rows):
        columns, rows = columns[:3], [row[:3] for row in rows]
    return Group(table(columns, rows, right=["objects", "bytes", "dollars a month"]), *_rest(report))


def _lines(report: Report) -> Iterable[str]:
    for one in report.cleaned:
        cost = f", {_dollars(one.dollars_a_month)} dollars a month" if one.dollars_a_month else ""
        yield f"{one.what}: {one.objects:,} objects, {size(one.bytes)}{cost}"
    yield from _rest(report)


def _rest(report: Report) -> list[str]:
    kept = [f"{number:,} {kind}" for kind, number in report.kept.items()]
    told = [f"left alone: {', '.join(kept)}"] if kept else []
    told += [f"stays: {one['what']}: {one['why']}" for one in report.stays[:SHOWN]]
    if len(report.stays) > SHOWN:
        told.append(f"… and {len(report.stays) - SHOWN:,} more (all with --json)")
    return [*told, *report.notes]


def _dollars(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.01 else "< 0.01"
