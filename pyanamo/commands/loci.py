"""`pyanamo loci …`: cut a genome into loci, the nests of calling items."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told, table
from pyanamo_core.errors import PyAnamoError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from pyanamo_core.genomics.intervals import Dictionary, Locus

SHOWN = 30


class ReferenceUnnamed(PyAnamoError):
    """Give either a reference (FASTA or .dict) or --genome NAME, not {what}."""

    exit_code = 2


@dataclass(frozen=True)
class PlannedLocus:
    """A locus: 1-based, closed."""

    locus: str
    contig: str
    start: int
    end: int
    bases: int


@command(
    example=(
        "pyanamo loci plan ref.fa --size 5000000 --out loci.txt",
        "pyanamo loci plan --genome GRCh38 --contig chr21 --contig chr22",
    )
)
def plan(
    context: Context,
    reference: Annotated[
        Path | None, typer.Argument(help="FASTA (split at its runs of N), or a .dict.", show_default=False)
    ] = None,
    gaps: Annotated[
        Path | None, typer.Option("--gaps", help="BED of gaps, for a .dict.", exists=True, dir_okay=False)
    ] = None,
    genome: Annotated[str | None, typer.Option("--genome", help="GRCh38 or GRCh37, instead of a file.")] = None,
    size: Annotated[int, typer.Option("--size", min=1, help="Bases of a locus, at most.")] = 5_000_000,
    contig: Annotated[
        list[str] | None, typer.Option("--contig", help="Only this contig (may be repeated). Default: primary ones.")
    ] = None,
    mitochondria: Annotated[bool, typer.Option("--mitochondria", help="With chrM.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the loci there, one per line.")] = None,
) -> Told:
    """Plan loci: a genome cut at its runs of N, and longer stretches into equal parts."""
    from pyanamo_core.genomics.intervals import plan_loci, read_gaps

    known: Mapping[str, Sequence[tuple[int, int]]] | None = read_gaps(gaps) if gaps else None
    dictionary, fasta, shipped = _source(reference, genome)
    loci = plan_loci(
        dictionary,
        target_bases=size,
        fasta=fasta,
        gaps=known if known is not None else shipped,
        contigs=contig or None,
        mitochondria=mitochondria,
    )
    planned = [PlannedLocus(str(one), one.contig, one.start, one.end, one.bases) for one in loci]
    if out:
        _write(out, loci)
    return Told(
        planned,
        view=lambda rows: _view(rows, out),
        quiet=[one.locus for one in planned],
        next=f"pyanamo sheet make --items samples.tsv --script 'HaplotypeCaller-1KG.sh {{argument}}' --args {out}"
        if out
        else f"pyanamo loci plan {f'--genome {genome}' if genome else reference} --size {size} --out loci.txt",
    )


def _source(
    reference: Path | None, genome_name: str | None
) -> tuple[Dictionary, Path | None, Mapping[str, Sequence[tuple[int, int]]] | None]:
    """The contigs, the FASTA in which to look for runs of N, and gaps that are known."""
    from pyanamo_core.genomics.genomes import genome

    if (reference is None) == (genome_name is None):
        raise ReferenceUnnamed(what="both" if reference else "neither")
    if reference is None:
        shipped = genome(genome_name or "")
        return shipped.dictionary, None, shipped.gaps
    from pyanamo_core.genomics.intervals import read_dictionary

    if reference.suffix == ".dict":
        return read_dictionary(reference), None, None
    return _dictionary_of(reference), reference, None


def _dictionary_of(fasta: Path) -> Dictionary:
    """Contigs of a FASTA: of the .dict beside it, else of the FASTA itself."""
    from pyanamo_core.genomics.extras import require_pysam
    from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, read_dictionary

    pysam = require_pysam()
    beside = (fasta.with_suffix("") if fasta.suffix == ".gz" else fasta).with_suffix(".dict")
    if beside.exists():
        return read_dictionary(beside)
    if not fasta.is_file():
        raise FileNotFoundError(2, "No such file", str(fasta))
    with pysam.FastaFile(str(fasta)) as opened:
        entries = {
            name: ContigEntry(name, length) for name, length in zip(opened.references, opened.lengths, strict=True)
        }
    return Dictionary(str(fasta), entries)


def _write(path: Path, loci: Sequence[Locus]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text("".join(f"{one}\n" for one in loci))
    part.replace(path)


def _view(rows: list[PlannedLocus], out: Path | None) -> RenderableType:
    from rich.console import Group

    shown: list[Any] = [
        table(["locus", "bases"], [[one.locus, f"{one.bases:,}"] for one in rows[:SHOWN]], right=["bases"])
    ]
    if len(rows) > SHOWN:
        shown.append(f"… and {len(rows) - SHOWN:,} more")
    total = sum(one.bases for one in rows)
    shown.append(f"{len(rows):,} loci, {total:,} bases" + (f", written to {out}" if out else ""))
    return Group(*shown)
