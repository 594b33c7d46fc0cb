"""`pyanamo results qc`: are the samples sound? Figures per sample with their flags, and content for MultiQC."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands.results import SUFFIXES, FormatUnknown, opened, read_results
from pyanamo.context import Context, command
from pyanamo.render import Told, table
from pyanamo_core.errors import BadInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyanamo_core.report.qc import Bounds, SampleQc

BOUNDED = ("titv", "het_hom", "mean_depth", "callable_fraction")


class Judged(StrEnum):
    """Which bounds hold."""

    AUTO = "auto"
    GENOME = "genome"
    TARGETS = "targets"


class BoundMalformed(BadInput):
    """The bound {bound} is not of the form NAME=LOW..HIGH. Names: {names}. E.g. --bound mean_depth=10..80"""


class NothingCalled(NotFound):
    """Table {table} holds no nest with figures of a gVCF{of}. See what its nests recorded with: pyanamo results list"""


class NoVcf(NotFound):
    """There is no VCF {vcf}. Make one with: pyanamo joint --out cohort.vcf.gz"""


class VcfUnreadable(BadInput):
    """{vcf} cannot be read as a VCF: {reason}. Nothing was written."""


class VcfWithoutFolder(BadInput):
    """--vcf writes bcftools' statistics into the folder of --multiqc, which is not given."""


@command(
    example=(
        "pyanamo results qc",
        "pyanamo results qc --flagged --json",
        "pyanamo results qc --out qc.tsv --bound mean_depth=10..80",
        "pyanamo results qc --multiqc qc/ && multiqc qc/ -o qc/",
        "pyanamo results qc --multiqc qc/ --vcf filtered.vcf.gz",
    )
)
def qc(
    context: Context,
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="Only these items.")] = None,
    flagged: Annotated[bool, typer.Option("--flagged", help="Show only samples with a flag.")] = False,
    bounds: Annotated[
        Judged, typer.Option("--bounds", help="Of a genome at 30x or of targets; auto: targets for interval lists.")
    ] = Judged.AUTO,
    bound: Annotated[
        list[str] | None,
        typer.Option("--bound", metavar="NAME=LOW..HIGH", help="Another bound (may be repeated); inf is no bound."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="All samples as .tsv, .csv or .json; - is standard output.")
    ] = None,
    multiqc: Annotated[
        Path | None, typer.Option("--multiqc", metavar="FOLDER", help="Write custom content for MultiQC there.")
    ] = None,
    vcf: Annotated[
        list[str] | None,
        typer.Option(
            "--vcf",
            help="With --multiqc: bcftools stats of this genotyped VCF (path or s3://; may be repeated)."
            " Default: those that `cohort run` made.",
        ),
    ] = None,
) -> Told:
    """Judge the samples by the figures of their nests: depth, callable bases, Ti/Tv, het/hom, X and Y against sex.

    A flag says what is out of its bounds; nothing is refused because of it.
    """
    from pyanamo_core.report.multiqc import write_multiqc
    from pyanamo_core.report.qc import QcFold

    chosen = _bounds(bounds, bound or ())
    form = _format(out) if out else ""
    if vcf and multiqc is None:
        raise VcfWithoutFolder
    for one in vcf or ():
        if not one.startswith("s3://") and not Path(one).is_file():
            raise NoVcf(vcf=one)
    fold = QcFold(chosen)
    for row in read_results(context, items, None):
        fold.take(row)
    if bound and chosen is None:  # auto: what was called decides, then what was asked for is changed
        fold = fold.judged_by(_changed(fold.bounds, bound))
    samples = fold.samples()
    if not samples:
        raise NothingCalled(table=context.ledger.table, of=f" of item {', '.join(items)}" if items else "")
    with tempfile.TemporaryDirectory(prefix="pyanamo-") as scratch:
        stats = [_stats(context, one, Path(scratch)) for one in vcf or ()]
        if multiqc is not None and not vcf:
            stats = _stats_of_the_chain(context, Path(scratch))
        if out:
            _write(out, form, samples)
        if multiqc is not None:
            write_multiqc(fold, multiqc)
            for path in stats:
                part = multiqc / f".{path.name}.part"
                shutil.copyfile(path, part)
                part.replace(multiqc / path.name)
    shown = [one for one in samples if one.flags or not flagged]
    if out == "-":
        return Told()
    return Told(
        [one.as_dict() for one in shown],
        view=lambda _: _view(shown, len(samples)),
        quiet=[one.sample for one in shown],
        next=_next(multiqc, samples),
    )


def _next(multiqc: Path | None, samples: Sequence[SampleQc]) -> str:
    if multiqc is not None:
        return f"multiqc {multiqc} -o {multiqc}"
    doubtful = next((one for one in samples if one.flags), None)
    return f"pyanamo results list {doubtful.items[0]}" if doubtful else "pyanamo results export report.html"


def _bounds(judged: Judged, bound: Sequence[str]) -> Bounds | None:
    """The bounds asked for; None: what was called decides."""
    from pyanamo_core.report.qc import GENOME, TARGETS

    checked = _changed(GENOME, bound)  # complains of a malformed one before anything is read
    if judged is Judged.AUTO:
        return None
    return checked if judged is Judged.GENOME else _changed(TARGETS, bound)


def _changed(bounds: Bounds, changes: Sequence[str]) -> Bounds:
    for one in changes:
        name, _, span = one.partition("=")
        low, dots, high = span.partition("..")
        if name not in BOUNDED or not dots:
            raise BoundMalformed(bound=one, names=", ".join(BOUNDED))
        try:
            ends = (float(low or "-inf"), float(high or "inf"))
        except ValueError:
            raise BoundMalformed(bound=one, names=", ".join(BOUNDED)) from None
        if not ends[0] <= ends[1]:
            raise BoundMalformed(bound=one, names=", ".join(BOUNDED))
        bounds = dataclasses.replace(bounds, **{name: ends})
    return bounds


def _format(out: str) -> str:
    form = "tsv" if out == "-" else SUFFIXES.get(Path(out).suffix.lower(), "")
    if form not in ("tsv", "csv", "json"):
        raise FormatUnknown(name=out)
    return form


def _write(out: str, form: str, samples: Sequence[SampleQc]) -> None:
    with opened(out) as stream:
        if form == "json":
            stream.write(json.dumps([one.as_dict() for one in samples], indent=1, ensure_ascii=False) + "\n")
            return
        told = [_flat(one) for one in samples]
        writer = csv.DictWriter(stream, list(told[0]), delimiter="," if form == "csv" else "\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(told)


def _flat(one: SampleQc) -> dict[str, Any]:
    told = one.as_dict()
    told["items"] = ";".join(one.items)
    told["flags"] = ";".join(flag.name for flag in one.flags)
    told["why"] = "; ".join(flag.text for flag in one.flags)
    return told


def _stats(context: Context, vcf: str, scratch: Path) -> Path:
    """bcftools' statistics of a VCF here or in a bucket, under the VCF's own name."""
    from pyanamo_core.errors import CallerFailed
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.genomics.stats import stats_name, write_stats

    local = Path(vcf)
    target = scratch / stats_name(local.name)
    try:
        if vcf.startswith("s3://"):
            local = scratch / local.name
            Inputs(clients=context.clients).fetch(vcf, local)
        return write_stats(local, target)
    except FileNotFoundError:
        raise NoVcf(vcf=vcf) from None
    except CallerFailed as error:
        raise VcfUnreadable(vcf=vcf, reason=error.facts["reason"]) from error


def _stats_of_the_chain(context: Context, scratch: Path) -> list[Path]:
    """The statistics that the chain's last step recorded, checked, under the VCF's name; none if it has not come to that."""
    from pyanamo.commands.results import fetch_output
    from pyanamo_core.chain.cohort import COHORT_ITEM, tables_of
    from pyanamo_core.genomics.stats import ENDING
    from pyanamo_core.ledger import open_ledger
    from pyanamo_core.report.results import results, s3_fetch

    try:
        ledger, _, _ = open_ledger(context.clients, tables_of(context.table_name)["concat"])
        item = ledger.item(COHORT_ITEM)
    except NotFound:
        return []
    found: list[Path] = []
    for row in results(ledger, [item], fetch=s3_fetch(context.clients)):
        for output in row.outputs if row.status == "done" else ():
            name = output.uri.rpartition("/")[2]
            if name.endswith(".stats.txt"):
                target = scratch / f"{name.removesuffix('.stats.txt')}{ENDING}"
                found.append(fetch_output(context, row, output, target).path)
    return found


def _view(rows: Sequence[SampleQc], total: int) -> Any:
    from rich.console import Group

    columns = [
        "sample",
        "sex",
        "by depth",
        "depth",
        "callable",
        "variants",
        "snv",
        "indel",
        "titv",
        "het/hom",
        "X",
        "Y",
    ]
    cells: list[list[Any]] = [
        [
            one.sample,
            one.sex,
            one.depth_says,
            *("" if value is None else f"{value:.{digits}f}" for value, digits in _figures(one)),
        ]
        for one in rows
    ]
    for place in range(len(columns) - 1, 0, -1):  # what nobody has says nothing: X and Y of an autosome's loci
        if not any(line[place] and line[place] != "unknown" for line in cells):
            del columns[place]
            for line in cells:
                del line[place]
    right = [name for name in columns if name not in ("sample", "sex", "by depth")]
    cells = [[*line, "; ".join(flag.text for flag in one.flags)] for line, one in zip(cells, rows, strict=True)]
    flagged = sum(bool(one.flags) for one in rows)
    parts: list[Any] = [table([*columns, "flags"], cells, right=right)] if rows else []
    return Group(*parts, f"{total:,} samples, {flagged:,} with a flag")


def _figures(one: SampleQc) -> list[tuple[float | None, int]]:
    return [
        (one.mean_depth, 1),
        (one.callable_fraction, 3),
        (one.variants, 0),
        (one.snv, 0),
        (one.indel, 0),
        (one.titv, 2),
        (one.het_hom, 2),
        (one.x_copies, 2),
        (one.y_copies, 2),
    ]
