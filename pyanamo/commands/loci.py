"""`pyanamo loci …`: cut a genome, or the targets of an exome, into loci, the nests of calling items."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told, span, table
from pyanamo_core.errors import BadInput, PyAnamoError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.genomics.intervals import Dictionary
    from pyanamo_core.genomics.planning import Borders, Planned
    from pyanamo_core.genomics.speed import Observation, Speed

SHOWN = 30
LEARN_ITEMS = 100
"""So many items of a table tell its speed; a locus in so many samples is known well enough."""
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "": 1}

GENOME = Annotated[str | None, typer.Option("--genome", help="GRCh38, GRCh37 or hg19, instead of a file.")]
GAPS = Annotated[
    Path | None, typer.Option("--gaps", help="BED of gaps (runs of N), for a .dict.", exists=True, dir_okay=False)
]


class ReferenceUnnamed(PyAnamoError):
    """Give either a reference (FASTA or .dict) or --genome NAME, not {what}."""

    exit_code = 2


class FastaUnreadable(BadInput):
    """{path} cannot be read as FASTA ({reason}). A compressed one must be packed with bgzip, not gzip; or give its .dict and --gaps."""


class TargetsMissing(BadInput):
    """{bed}: there is no such file. --bed names the targets, in BED format."""


class OptionsUnfit(PyAnamoError):
    """{reason}"""

    exit_code = 2


class TimeMalformed(BadInput):
    """--time {told}: give a number with s, m or h, e.g. 20m."""


class ExportUseless(BadInput):
    """{path} tells no speed: it should be what `pyanamo results export results.tsv` writes ({reason})."""


@dataclass(frozen=True)
class PlannedLocus:
    """A nest to be: its value, the bases it covers and calls, its targets (of an interval list) and seconds, if known."""

    locus: str
    place: str
    bases: int
    called_bases: int
    targets: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class _Source:
    """A reference: its contigs, and what is known of gaps and ploidy borders."""

    dictionary: Dictionary
    fasta: Path | None
    gaps: Mapping[str, Sequence[tuple[int, int]]] | None
    borders: Borders = field(default_factory=dict[str, Sequence[int]])
    genome: str = ""


@command(
    example=(
        "pyanamo loci plan ref.fa --size 5000000 --out loci.tsv",
        "pyanamo loci plan --genome GRCh38 --contig chr21 --contig chr22",
        "pyanamo loci plan --genome GRCh38 --time 30m --learn Calling2025 --out loci.tsv",
        "pyanamo loci plan ref.fa --bed targets.bed --scripts scripts --out loci.tsv",
    )
)
def plan(
    context: Context,
    reference: Annotated[
        Path | None, typer.Argument(help="FASTA (split at its runs of N), or a .dict.", show_default=False)
    ] = None,
    gaps: GAPS = None,
    genome: GENOME = None,
    bed: Annotated[
        Path | None,
        typer.Option("--bed", help="Targets (BED), e.g. an exome: nests are interval lists."),
    ] = None,
    scripts: Annotated[
        Path, typer.Option("--scripts", help="With --bed: the folder of task scripts; lists go to its folder targets.")
    ] = Path("scripts"),
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Bases of a nest; of lists, called bases. Default: 5,000,000."),
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="TIME", help="Time of a nest instead, e.g. 20m; with --learn.")
    ] = None,
    learn: Annotated[
        str | None,
        typer.Option("--learn", metavar="TABLE|FILE", help="An earlier run's table, or its `results export`: speed."),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=8, help="With --bed: never more lists than this.")] = 200,
    padding: Annotated[int, typer.Option("--padding", min=0, help="Bases called around each (HC_PADDING).")] = 1000,
    contig: Annotated[
        list[str] | None, typer.Option("--contig", help="Only this contig (may be repeated). Default: primary ones.")
    ] = None,
    every: Annotated[bool, typer.Option("--all-contigs", help="Alternates, decoys and HLA, too.")] = False,
    mitochondria: Annotated[bool, typer.Option("--mitochondria", help="With chrM.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write them there: .tsv is a table, else one value per line.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace other interval lists.")] = False,
) -> Told:
    """Plan loci: a genome cut at its runs of N and the borders of PAR, longer stretches into equal parts.

    With --bed, the targets of an exome become interval lists, one nest and one JVM each, which `sheet make` names
    `@targets/0001.bed`. They lie in the folder of the task scripts: name it in the workflow file (`scripts: scripts`).
    The lists are part of the workflow's revision: the same targets give the same lists, others another revision, whose
    nests are not mixed with those that are done.

    With --time, the seconds per base that an earlier run took, place by place, decide instead of bases. The table may
    be edited: only its column `locus` is read again; `pyanamo loci check` looks through it.
    """
    from pyanamo_core.genomics.loci_file import write_lists, write_planned
    from pyanamo_core.genomics.planning import TARGET_BASES, chosen_contigs, plan_loci, plan_targets, planned_loci

    if (time is None) != (learn is None) and time is not None:
        raise OptionsUnfit(reason="--time needs --learn: a table of an earlier run, or its exported results.")
    if size is not None and time is not None:
        raise OptionsUnfit(reason="Give either --size or --time.")
    if bed is not None and not bed.is_file():
        raise TargetsMissing(bed=bed)
    seconds = _seconds(time) if time else None
    source = _source(reference, genome, gaps)
    names = list(source.dictionary) if every and not contig else contig
    chosen = chosen_contigs(source.dictionary, names or None, mitochondria=mitochondria)
    speed = _speed(context, learn, source.dictionary) if learn else None
    left_out = 0
    if bed is None:
        loci = plan_loci(
            source.dictionary,
            target_bases=size or TARGET_BASES,
            fasta=source.fasta,
            gaps=source.gaps,
            borders=source.borders,
            contigs=chosen,
            speed=speed,
            target_seconds=seconds,
            padding=padding,
        )
        planned = planned_loci(loci, source.dictionary, speed, padding)
    else:
        from pyanamo_core.genomics.intervals import read_targets

        targets = read_targets(bed, source.dictionary)
        wanted = set(chosen)
        kept = [x for x in targets if x.contig in wanted]
        left_out = len(targets) - len(kept)
        if not kept:
            raise OptionsUnfit(reason=f"{bed} has no target on {', '.join(chosen[:5])} …; name its contigs: --contig")
        planned = plan_targets(
            kept,
            source.dictionary,
            target_bases=size or TARGET_BASES,
            borders=source.borders,
            most=most,
            speed=speed,
            target_seconds=seconds,
            padding=padding,
        )
        if out is not None:
            about = f"Interval lists of {bed.name}: {len(kept)} targets in {len(planned)} lists.\n"
            write_lists(planned, scripts, about=about, force=force)
    if out:
        write_planned(out, planned)
    given = f"--genome {genome}" if genome else str(reference)
    again = f"pyanamo loci plan {given}" + (f" --bed {bed} --scripts {scripts}" if bed else "") + " --out loci.tsv"
    make = f"pyanamo sheet make --items samples.tsv --script 'HaplotypeCaller-1KG.sh --sex {{sex}} {{argument}}' --loci {out}"
    return Told(
        [_told(one) for one in planned],
        view=lambda rows: _view(rows, out, scripts if bed else None, left_out, speed),
        quiet=[one.value for one in planned],
        next=make if out else again,
    )


@command(
    example=(
        "pyanamo loci check loci.tsv ref.fa",
        "pyanamo loci check loci.tsv --genome GRCh38 --out sorted.tsv",
        "pyanamo loci check loci.tsv ref.dict --scripts scripts",
    )
)
def check(
    context: Context,
    loci: Annotated[Path, typer.Argument(metavar="LOCI", help="A table or list of loci.", exists=True, dir_okay=False)],
    reference: Annotated[Path | None, typer.Argument(help="FASTA or .dict.", show_default=False)] = None,
    gaps: GAPS = None,
    genome: GENOME = None,
    scripts: Annotated[Path, typer.Option("--scripts", help="The folder below which @targets/… lie.")] = Path(
        "scripts"
    ),
    padding: Annotated[int, typer.Option("--padding", min=0, help="Bases called around each (HC_PADDING).")] = 1000,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write them there again, in the reference's order.")
    ] = None,
) -> Told:
    """Check loci that were edited or made by hand: unknown, repeated or overlapping ones are told with their lines.

    It also says what of the chromosomes (without gaps) no locus covers, and which loci lie across a border of PAR.
    """
    from pyanamo_core.genomics.intervals import pad_and_merge
    from pyanamo_core.genomics.loci_file import check_loci, write_planned
    from pyanamo_core.genomics.planning import Planned

    source = _source(reference, genome, gaps)
    found = check_loci(loci, source.dictionary, gaps=source.gaps or {}, borders=source.borders, scripts=scripts)
    planned = [
        Planned(value, tuple(own), sum(x.bases for x in pad_and_merge(own, padding, source.dictionary)))
        for value, own in found.nests
    ]
    if out:
        write_planned(out, planned)
    remarks = [f"{one} lies across a border of PAR: males are called there in two parts" for one in found.crossing]
    missing = sum(x.bases for x in found.uncovered)
    if missing and not any(value.startswith("@") for value, _ in found.nests):
        shown = ", ".join(str(x) for x in found.uncovered[:5]) + (" …" if len(found.uncovered) > 5 else "")
        known = "" if source.gaps or source.fasta is None else " (its runs of N included)"
        remarks.append(f"{missing:,} bases of the chromosomes{known} are in no locus: {shown}")
    told = {
        "loci": len(planned),
        "bases": sum(x.bases for x in planned),
        "uncovered_bases": missing,
        "uncovered": [str(x) for x in found.uncovered],
        "crossing": found.crossing,
        "written": out,
    }
    lines = [f"{len(planned):,} loci, {told['bases']:,} bases: no fault" + (f", written to {out}" if out else "")]
    return Told(
        told,
        view=lambda _: "\n".join([*lines, *remarks]),
        quiet=[x.value for x in planned],
        next=f"pyanamo sheet make --items samples.tsv --script 'HaplotypeCaller-1KG.sh --sex {{sex}} {{argument}}' --loci {out or loci}",
    )


# -------------------------------------------------------------------------------------------------------------- source


def _source(reference: Path | None, genome_name: str | None, gaps: Path | None) -> _Source:
    """The contigs, where to look for runs of N, gaps that are known, and the borders of PAR where it is a known genome."""
    from pyanamo_core.genomics.genomes import genome, genome_of
    from pyanamo_core.genomics.intervals import read_dictionary, read_gaps

    if (reference is None) == (genome_name is None):
        raise ReferenceUnnamed(what="both" if reference else "neither")
    told = read_gaps(gaps) if gaps else None
    if reference is not None and not reference.is_file():
        raise FileNotFoundError(2, "No such file", str(reference))
    if reference is None:
        shipped = genome(genome_name or "")
        known = told if told is not None else shipped.gaps
        return _Source(shipped.dictionary, None, known, shipped.borders, shipped.name)
    is_dict = reference.suffix == ".dict"
    dictionary = read_dictionary(reference) if is_dict else _dictionary_of(reference)
    known = genome_of(dictionary)
    borders = known.borders if known is not None else {}
    return _Source(dictionary, None if is_dict else reference, told, borders, known.name if known else "")


def _dictionary_of(fasta: Path) -> Dictionary:
    """Contigs of a FASTA: of the .dict beside it, else of the FASTA itself."""
    from pyanamo_core.genomics.extras import require_pysam
    from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, read_dictionary

    pysam = require_pysam()
    beside = (fasta.with_suffix("") if fasta.suffix == ".gz" else fasta).with_suffix(".dict")
    if beside.exists():
        return read_dictionary(beside)
    try:
        with pysam.FastaFile(str(fasta)) as opened:
            pairs = list(zip(opened.references, opened.lengths, strict=True))
    except (OSError, ValueError) as error:
        raise FastaUnreadable(path=fasta, reason=str(error).splitlines()[0]) from error
    entries = {name: ContigEntry(name, length) for name, length in pairs}
    return Dictionary(str(fasta), entries)


# --------------------------------------------------------------------------------------------------------------- speed


def _seconds(told: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|)", told.strip())
    if found is None or float(found[1]) <= 0:
        raise TimeMalformed(told=told)
    return float(found[1]) * _SECONDS[found[2]]


def _speed(context: Context, where: str, dictionary: Dictionary) -> Speed:
    """The speed of an earlier run: of an exported file, or of a table."""
    from pyanamo_core.genomics.speed import learn

    path = Path(where)
    records = _exported(path) if path.is_file() else _of_table(context, where)
    observed = (one for record in records if (one := _observation(record, dictionary)) is not None)
    return learn(observed, where)


def _exported(path: Path) -> Iterator[Mapping[str, Any]]:
    import json

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".json":
                for one in json.load(file):
                    yield {**one, **{f"figures.{k}": v for k, v in (one.get("figures") or {}).items()}}
                return
            reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            missing = {"value", "seconds", "status"}.difference(reader.fieldnames or ())
            if missing:
                raise ExportUseless(path=path, reason=f"it has no column {', '.join(sorted(missing))}")
            yield from reader
    except (ValueError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise ExportUseless(path=path, reason=str(error)) from error


def _of_table(context: Context, name: str) -> Iterator[Mapping[str, Any]]:
    from itertools import islice

    from pyanamo_core.ledger import open_ledger
    from pyanamo_core.report.results import results, s3_fetch

    ledger, _, _ = open_ledger(context.clients, name)
    items = list(islice((x for x in ledger.items() if x.nests_done), LEARN_ITEMS))
    for row in results(ledger, items, fetch=s3_fetch(context.clients)):
        yield {
            "value": row.value,
            "seconds": row.seconds,
            "status": row.status,
            "figures.called_bases": row.figures.get("called_bases"),
        }


def _observation(record: Mapping[str, Any], dictionary: Dictionary) -> Observation | None:
    """What a row of results tells of speed; None where it tells nothing (not done, no locus of this reference)."""
    from pyanamo_core.errors import LocusInvalid
    from pyanamo_core.genomics.intervals import parse_locus
    from pyanamo_core.genomics.speed import PADDING, Observation

    value = str(record.get("value") or "")
    if record.get("status") != "done" or not record.get("seconds") or not value:
        return None
    locus, called = None, int(float(record.get("figures.called_bases") or 0))
    if not value.startswith("@"):
        try:
            locus = parse_locus(value, dictionary)
        except LocusInvalid:
            return None
        called = called or locus.padded(PADDING, dictionary.length(locus.contig)).bases
    return Observation(value, called, float(record["seconds"]), locus) if called else None


# ------------------------------------------------------------------------------------------------------------- showing


def _told(one: Planned) -> PlannedLocus:
    seconds = None if one.seconds is None else round(one.seconds, 1)
    return PlannedLocus(one.value, one.place, one.bases, one.called, one.targets or None, seconds)


def _view(
    rows: list[PlannedLocus], out: Path | None, scripts: Path | None, left_out: int, speed: Speed | None
) -> RenderableType:
    from rich.console import Group

    lists, timed = scripts is not None, speed is not None
    columns = ["locus", *(["place", "targets"] if lists else []), "bases", *(["time"] if timed else [])]
    lines = [
        [
            one.locus,
            *([one.place, f"{one.targets:,}"] if lists else []),
            f"{one.bases:,}",
            *([span(one.seconds)] if timed else []),
        ]
        for one in rows[:SHOWN]
    ]
    shown: list[Any] = [table(columns, lines, right=["targets", "bases", "time"])]
    if len(rows) > SHOWN:
        shown.append(f"… and {len(rows) - SHOWN:,} more")
    total = sum(one.bases for one in rows)
    what = (
        f"{sum(one.targets or 0 for one in rows):,} targets in {len(rows):,} interval lists"
        if lists
        else f"{len(rows):,} loci"
    )
    summary = f"{what}, {total:,} bases"
    if lists:
        summary += f", called with padding {sum(one.called_bases for one in rows):,}"
    if speed is not None:
        summary += (
            f", {span(sum(one.seconds or 0 for one in rows))} per sample (as {speed.nests:,} nests of {speed.source})"
        )
    shown.append(summary + (f", written to {out}" if out else ""))
    if left_out:
        shown.append(
            f"{left_out:,} targets lie on contigs that are not called (--contig, --all-contigs) and are left out"
        )
    if scripts is not None and out is not None:
        shown.append(
            f"The lists are in {scripts / 'targets'}. Name {scripts} in the workflow file (scripts: {scripts}): they are part of its\n"
            "revision. Planning the same targets again changes nothing; other targets are another revision, so use a table of\n"
            "its own for them, or have done nests done again: pyanamo workflow create --new-revision"
        )
    elif scripts is not None:
        shown.append("Nothing is written without --out.")
    return Group(*shown)
