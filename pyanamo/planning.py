"""What a run will take, as commands tell it: what is looked at, at which pace, for what price (commands/plan.py shows it)."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyanamo.context import read_workflow_for
from pyanamo.render import size
from pyanamo_core.errors import BadInput, EndpointDown, PyAnamoError, TableMissing
from pyanamo_core.settings import WORKFLOW_FILE
from pyanamo_core.words import number_of

if TYPE_CHECKING:
    from pyanamo.context import Context
    from pyanamo_core.cost.closer import Standing
    from pyanamo_core.cost.cohort_estimate import CohortEstimate
    from pyanamo_core.cost.estimate import Estimate
    from pyanamo_core.cost.pace import Bases, Pace, Seen
    from pyanamo_core.cost.prices import Prices
    from pyanamo_core.cost.ranges import Range
    from pyanamo_core.cost.work import Work
    from pyanamo_core.genomics.intervals import Dictionary
    from pyanamo_core.sheet import Sheet
    from pyanamo_core.workflow import Workflow

LOOKED_AT = 20
"""Loci that do not fit the reference are shown up to so many."""


class PlanUnfit(BadInput):
    """{what}
    {faults}"""


class LearnUseless(BadInput):
    """{path} tells no times: it should be what `pyanamo results export` or `pyanamo rehearse --json` writes ({reason})."""


@dataclass(frozen=True)
class Check:
    """A thing that was looked at: what, and what was found or why it was not looked at."""

    what: str
    said: str


@dataclass(frozen=True)
class Planned:
    """What a run will take."""

    checks: list[Check]
    estimate: Estimate
    once: Range
    a_month: Range
    cohort: CohortEstimate | None = None
    missing: list[str] = field(default_factory=list[str])
    beside_sheet: int = 0
    """Of its items, those that the table has open and the sheet does not name: a run of the sheet does these, too."""


# ------------------------------------------------------------------------------------------------- looking


@dataclass
class Looked:
    """What is to be run, after it was checked; `sheet` None: what a table has open."""

    workflow: Workflow
    sheet: Sheet | None
    bases: Bases
    genomic: bool
    checks: list[Check]
    done: Standing | None = None
    """What of the sheet is done already, where that was looked at."""


def look_closer(context: Context, looked: Looked) -> None:
    """Ask AWS whether references are there, and what of the sheet is done.

    Raises:
        ReferenceMissing: a reference does not exist.
    """
    from pyanamo_core.cost.closer import look_at_references, standing

    try:
        clients = context.clients
    except EndpointDown as error:
        looked.checks.append(Check("AWS", f"was not asked: {error}"))
        return
    said = look_at_references(clients, looked.workflow)
    looked.checks[:] = [
        Check(one.what, said.get(one.what.removeprefix("reference "), one.said)) for one in looked.checks
    ]
    if looked.sheet is not None:
        looked.done, told = standing(clients, looked.workflow.table_name)
        looked.checks.append(Check("table", told))


def look(context: Context, file: Path | None, sheet: Path | None, *, workflow: Workflow | None = None) -> Looked:
    """Check workflow file, sheet, task scripts and reference on this machine.

    Args:
        workflow: that was read already.

    Raises:
        WorkflowInvalid, SheetInvalid, ScriptsMissing, PlanUnfit: every fault of the first that has some.
    """
    from pyanamo_core.cost.pace import Bases
    from pyanamo_core.cost.work import CALLER
    from pyanamo_core.sheet import read_sheet

    here = context.folder / WORKFLOW_FILE
    if file is None and here.is_file():
        file = here
    if workflow is None:
        workflow = read_workflow_for(context, file) if file is not None else context.workflow
    of = file.name if file else "the table"
    checks = [Check("workflow", f"{workflow.name}, revision {workflow.revision}, of {of}")]
    found = read_sheet(sheet) if sheet is not None else None
    folder = _check_scripts(workflow, found, checks)
    dictionary = _check_references(workflow, checks)
    bases = Bases(dictionary, folder)
    genomic = False
    if found is not None:
        genomic = bool(found.scripts) and all(one.startswith(CALLER) for one in found.scripts)
        if genomic:
            _check_loci(found, folder, dictionary)
        checks.append(
            Check(
                "sheet", f"{found.path}: {number_of(found.items, 'item')}, {number_of(found.nests, 'nest')}, no fault"
            )
        )
    else:
        genomic = _is_genomic(context, workflow.table_name)
    return Looked(workflow, found, bases, genomic, checks)


def _is_genomic(context: Context, table: str) -> bool:
    from pyanamo_core.cost.work import is_genomic
    from pyanamo_core.ledger import open_ledger

    try:
        ledger, _, _ = open_ledger(context.clients, table)
    except TableMissing:
        return False
    return is_genomic(ledger)


def _check_scripts(workflow: Workflow, sheet: Sheet | None, checks: list[Check]) -> Path | None:
    """Pack the scripts as a run would, and see that those which the sheet names are in it; their folder."""
    from pyanamo_core.resources import resource
    from pyanamo_core.scripts import pack

    if "://" in workflow.scripts:
        checks.append(Check("scripts", f"{workflow.scripts}: not checked, it does not lie on this machine"))
        return None
    place = Path(workflow.scripts) if workflow.scripts else resource("task_scripts")
    packed = pack(place)
    where = str(place) if workflow.scripts else "those that come with PyAnamo"
    checks.append(
        Check("scripts", f"{where}: {number_of(packed.files, 'file')}, {size(len(packed.content))} as archive")
    )
    if sheet is None or not place.is_dir():
        return place if place.is_dir() else None
    absent: dict[str, None] = {}
    for script in sheet.scripts:
        name = shlex.split(script)[0]
        if not (place / name).exists() and shutil.which(name) is None:
            absent.setdefault(name)
    for name in absent:
        checks.append(Check("scripts", f"{name} is neither among them nor on this machine: the image must have it"))
    return place


def _check_references(workflow: Workflow, checks: list[Check]) -> Dictionary | None:
    """The contigs of the reference `ref`, where they are known on this machine."""
    from pyanamo_core.genomics.intervals import read_dictionary

    dictionary: Dictionary | None = None
    for one in workflow.references:
        path = Path(one.uri.removeprefix("file://"))
        if one.uri.startswith(("s3://", "http://", "https://")):
            checks.append(
                Check(f"reference {one.name}", f"{one.uri}: not checked, it does not lie on this machine (--look)")
            )
            continue
        if not path.exists():
            checks.append(Check(f"reference {one.name}", f"{path} is not on this machine: the image must have it"))
            continue
        said = f"{path}: {size(path.stat().st_size)}" if path.is_file() else str(path)
        if one.name == "ref":
            try:
                dictionary = read_dictionary(path)
                said += f", {len(dictionary.contigs):,} contigs"
            except PyAnamoError:
                dictionary = _from_fai(path)
                said += (
                    f", {len(dictionary.contigs):,} contigs" if dictionary else "; .fai and .dict are made by pilots"
                )
        checks.append(Check(f"reference {one.name}", said))
    return dictionary


def _from_fai(path: Path) -> Dictionary | None:
    from pyanamo_core.genomics.intervals import ContigEntry, Dictionary

    try:
        cells = [line.split("\t") for line in Path(f"{path}.fai").read_text().splitlines()]
        return Dictionary(f"{path}.fai", {one[0]: ContigEntry(one[0], int(one[1])) for one in cells})
    except (OSError, ValueError, IndexError):
        return None


def _check_loci(sheet: Sheet, folder: Path | None, dictionary: Dictionary | None) -> None:
    """Loci against the reference, lists against the scripts. Raises PlanUnfit."""
    from pyanamo_core.errors import LocusInvalid
    from pyanamo_core.genomics.intervals import parse_locus

    seen: set[str] = set()
    faults: list[str] = []
    for row in sheet.rows():
        for value in row.definition.arguments:
            if value in seen or len(seen) > 500_000:
                continue
            seen.add(value)
            if value.startswith("@"):
                if folder is not None and not (folder / value[1:]).is_file():
                    faults.append(f"  line {row.line}: {value}: the task scripts have no such file")
            elif dictionary is not None:
                try:
                    parse_locus(value, dictionary)
                except LocusInvalid as error:
                    faults.append(f"  line {row.line}: {error}")
    if faults:
        more = [f"  … and {len(faults) - LOOKED_AT} more"] if len(faults) > LOOKED_AT else []
        raise PlanUnfit(
            what=f"{sheet.path} does not fit reference or scripts, {len(faults)} faults:",
            faults="\n".join([*faults[:LOOKED_AT], *more]),
        )


# -------------------------------------------------------------------------------------------------- pricing


def pace_of(context: Context, looked: Looked, *, nest_time: str = "", rate: str = "", learn: str = "") -> Pace:
    """How long nests take: given, learnt, or the measured default of HaplotypeCaller.

    Raises:
        RateMalformed, LearnUseless, NothingLearnt.
    """
    from pyanamo_core.cost.pace import NO_PACE, default_pace, given_pace, learnt_pace
    from pyanamo_core.cost.work import losses_seen, seen_nests
    from pyanamo_core.ledger import open_ledger

    if nest_time or rate:
        return given_pace(nest_time, rate)
    if learn:
        path = Path(learn)
        if path.is_file():
            return learnt_pace(_seen_in_file(path), learn, genomic=looked.genomic)
        ledger, _, _ = open_ledger(context.clients, learn)
        pace = learnt_pace(seen_nests(ledger), learn, genomic=looked.genomic)
        return replace(pace, losses=losses_seen(ledger.pilots()))
    if looked.genomic:
        return default_pace(looked.workflow.vcpus / looked.workflow.slots)
    return NO_PACE


def _seen_in_file(path: Path) -> Iterator[Seen]:
    from pyanamo_core.cost.pace import seen_in

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if file.read(1) in "[{":
                file.seek(0)
                told = json.load(file)
                records: Any = told.get("nests", []) if isinstance(told, dict) else told
                for one in records:
                    figures = {f"figures.{k}": v for k, v in (one.get("figures") or {}).items()}
                    if found := seen_in({**one, **figures}):
                        yield found
                return
            file.seek(0)
            reader = csv.DictReader(file, delimiter="," if path.suffix == ".csv" else "\t")
            absent = {"value", "seconds", "status"}.difference(reader.fieldnames or ())
            if absent:
                raise LearnUseless(path=path, reason=f"it has no column {', '.join(sorted(absent))}")
            for row in reader:
                if found := seen_in(row):
                    yield found
    except (ValueError, AttributeError, TypeError) as error:
        raise LearnUseless(path=path, reason=str(error).splitlines()[0]) from error


def prices_of(context: Context, path: Path | None) -> Prices:
    """The prices of the settings' region; with a file's figures where one is named.

    Raises:
        PricesInvalid.
    """
    from pyanamo_core.cost.prices import price_list

    return price_list(context.settings.get("region"), path or context.settings.get("prices") or None)


def price(
    context: Context,
    looked: Looked,
    pace: Pace,
    *,
    prices: Path | None = None,
    pilots: int | None = None,
    on_demand: bool = False,
    cohort: bool = False,
    sample_time: str = "",
    region_time: str = "",
    spot_now: bool = False,
) -> Planned:
    """What it takes, by this pace; `spot_now` asks AWS for the prices of this moment."""
    from pyanamo_core.cost import closer
    from pyanamo_core.cost.estimate import estimate

    listed = prices_of(context, prices)
    work = work_of(context, looked, pace)
    checks = list(looked.checks)
    if not context.settings.get("region") and not listed.own:
        checks.append(Check("prices", f"no region is set (--region): list prices of {listed.region}"))
    if spot_now and not on_demand and "AWS" not in {one.what for one in checks}:
        listed, said = closer.spot_now(context.clients, listed)
        checks.append(Check("Spot", said))
    if looked.sheet is None:
        said = f"{work.items:,} items are open, {work.nests:,} nests of them to do"
        checks.append(Check("table", said + (f" (by the first {work.sampled:,})" if work.sampled else "")))
    if not listed.own and listed.region not in ("us-east-1", "us-east-2", "us-west-2"):
        checks.append(Check("prices", f"list prices; of {listed.region} PyAnamo knows ranges only (--prices)"))
    call = estimate(looked.workflow, work, pace, listed, pilots=pilots, on_demand=on_demand)
    if not cohort:
        return Planned(checks, call, call.once, call.a_month, None, list(call.missing))
    whole = price_cohort(
        looked.workflow,
        call,
        work,
        pace,
        listed,
        pilots=pilots,
        on_demand=on_demand,
        sample_time=sample_time,
        region_time=region_time,
    )
    return Planned(checks, call, whole.once, whole.a_month, whole, list(whole.missing))


def price_cohort(
    workflow: Workflow,
    call: Estimate,
    work: Work,
    pace: Pace,
    prices: Prices,
    *,
    pilots: int | None = None,
    on_demand: bool = False,
    sample_time: str = "",
    region_time: str = "",
    to_gather: int | None = None,
    regions: int | None = None,
) -> CohortEstimate:
    """Gather and joint call beside a call; `work` is that of all samples."""
    from pyanamo_core.chain.cohort import gather_workflow, joint_workflow
    from pyanamo_core.cost.cohort_estimate import cohort_estimate
    from pyanamo_core.cost.pace import seconds_range

    return cohort_estimate(
        call,
        work,
        pace.leaves or work.leaves,
        gather_workflow(workflow),
        joint_workflow(workflow),
        prices,
        section=workflow.cohort,
        to_gather=to_gather,
        regions=regions,
        sample_time=seconds_range(sample_time, "time of a sample") if sample_time else None,
        region_time=seconds_range(region_time, "time of a region") if region_time else None,
        pilots=pilots,
        on_demand=on_demand,
    )


def work_of(context: Context, looked: Looked, pace: Pace) -> Work:
    """What is to be done: all of the sheet, or what the table has open."""
    from pyanamo_core.cost.closer import left_of
    from pyanamo_core.cost.work import work_of_definitions, work_of_sheet, work_of_table

    at_once = looked.workflow.nests
    if looked.sheet is not None and looked.done is not None:
        return work_of_definitions(left_of(looked.sheet, looked.done), pace, at_once=at_once, bases=looked.bases)
    if looked.sheet is not None:
        return work_of_sheet(looked.sheet, pace, at_once=at_once, bases=looked.bases)
    return work_of_table(context.ledger, pace, at_once=at_once, bases=looked.bases)
