"""`pyanamo gather`: one gVCF per sample, from the recorded nests of its item, or adopted from elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.context import Context, command
from pyanamo.progress import Bar
from pyanamo.render import Told, size, table

if TYPE_CHECKING:
    from pyanamo_core.genomics.cohort import Gathered


@dataclass(frozen=True)
class GatheredSample:
    """A sample's gVCF: where it lies, and what it lacks."""

    sample: str
    item_id: str
    gvcf: str
    bytes: int
    records: int
    loci: int
    missing: list[str]
    kept: bool = False
    files: list[Path] = field(default_factory=list[Path])


@command(
    example=(
        "pyanamo gather",
        "pyanamo gather DEMO0001 DEMO0002 --out gvcf/",
        "pyanamo gather DEMO0001 --partial",
        "pyanamo gather --adopt s3://lab/old/NA12878.g.vcf.gz --locus chr20",
    )
)
def gather(
    context: Context,
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="Default: all items.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Also items with nests that are not done; recorded.")
    ] = False,
    reblock: Annotated[
        bool, typer.Option("--reblock", help="Let GATK's ReblockGVCF go over the merged gVCF: smaller, coarser GQ.")
    ] = False,
    to: Annotated[
        str | None, typer.Option("--to", help="s3://bucket/prefix; default: <results>/<table>/results/gvcf.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Copy them into this folder, too.")] = None,
    adopt: Annotated[
        list[str] | None,
        typer.Option(
            "--adopt", metavar="GVCF", help="Take in a gVCF that was made elsewhere, after the same checks (repeat)."
        ),
    ] = None,
    locus: Annotated[
        list[str] | None,
        typer.Option("--locus", help="What an adopted gVCF must cover (repeat); default: what it happens to cover."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="FASTA; default: the workflow's reference `ref`.", exists=True)
    ] = None,
) -> Told:
    """Gather loci: one gVCF per sample. Overlap, hole, duplicate and strangers are refused, naming the nest.

    Streams from bucket to bucket: neither memory nor disk grows with the genome. Interrupted, the same command goes on:
    samples that are gathered of what the ledger holds now are kept, and one that was cut off continues in its middle.
    """
    from pyanamo.cohort import bring, results_place, workflow_reference
    from pyanamo_core.genomics.inputs import Inputs

    where = to or results_place(context.workflow, context.table_name, "gvcf")
    inputs = Inputs(clients=context.clients)
    if adopt:
        fasta = reference or workflow_reference(context.workflow, context.clients)
        made = _adopt(context, adopt, where, fasta, locus or ())
        done = [_told("", one, bring(inputs, one.outputs, out) if out else []) for one in made]
    else:
        fasta = (reference or workflow_reference(context.workflow, context.clients)) if reblock else None
        done = _gather(context, items, where, fasta, out, partial=partial)
    return Told(
        done,
        view=_view,
        quiet=[str(one.files[0]) if one.files else one.gvcf for one in done],
        next="pyanamo joint --out joint.vcf.gz",
    )


def _gather(
    context: Context, items: Sequence[str] | None, where: str, reblock: Path | None, out: Path | None, *, partial: bool
) -> list[GatheredSample]:
    from pyanamo.cohort import bring, kept_gather, recorded_nests, refuse_same_sample
    from pyanamo_core.genomics import cohort
    from pyanamo_core.genomics.inputs import Inputs

    ledger, clients = context.ledger, context.clients
    inputs = Inputs(clients=clients)
    chosen = [ledger.item(one) for one in items] if items else sorted(ledger.items(), key=lambda one: one.item_id)
    refuse_same_sample(ledger, chosen, clients)
    # Every item is asked for before the first is gathered: a cohort with a hole costs nothing.
    prepared = [(item, *recorded_nests(ledger, item, clients, partial=partial)) for item in chosen]
    if partial:
        prepared = [one for one in prepared if one[1]]
    done: list[GatheredSample] = []
    with Bar(context, "gather", unit="samples") as bar:
        for item, nests, values in prepared:
            made = kept_gather(inputs, where, ledger, item, nests, clients, reblocked=reblock is not None)
            kept = made is not None
            if made is None:
                with tempfile.TemporaryDirectory(prefix="pyanamo-gather-") as work:
                    how = cohort.Reblocking(reblock) if reblock else None
                    options: dict[str, Any] = {"expected": values, "partial": partial, "reblock": how}
                    made = cohort.gather(nests, where, Path(work), inputs=inputs, clients=clients, **options)
            done.append(_told(item.item_id, made, bring(inputs, made.outputs, out) if out else [], kept=kept))
            bar.update(len(done), len(prepared), made.sample)
    return done


def _adopt(
    context: Context, addresses: Sequence[str], where: str, reference: Path, loci: Sequence[str]
) -> list[Gathered]:
    from pyanamo_core.genomics.adopt import adopt
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.genomics.intervals import parse_locus, read_dictionary

    dictionary = read_dictionary(reference)
    wanted = [parse_locus(one, dictionary) for one in loci]
    inputs = Inputs(clients=context.clients)
    done: list[Gathered] = []
    with Bar(context, "adopt", unit="samples") as bar:
        for uri in addresses:
            with tempfile.TemporaryDirectory(prefix="pyanamo-adopt-") as work:
                options: dict[str, Any] = {"reference": reference, "loci": wanted, "clients": context.clients}
                done.append(adopt(uri, where, Path(work), inputs=inputs, **options))
            bar.update(len(done), len(addresses), done[-1].sample)
    return done


def _told(item_id: str, made: Gathered, files: list[Path], *, kept: bool = False) -> GatheredSample:
    return GatheredSample(
        sample=made.sample,
        item_id=item_id,
        gvcf=made.gvcf.uri,
        bytes=made.gvcf.bytes,
        records=int(made.manifest["records"]),
        loci=len(made.manifest["loci"]),
        missing=made.missing,
        kept=kept,
        files=files,
    )


def _view(rows: list[GatheredSample]) -> Any:
    if not rows:
        return "nothing to gather: the table holds no item with a nest done"
    lines = [
        [
            one.sample,
            one.loci,
            f"{one.records:,}",
            size(one.bytes),
            f"lacks {len(one.missing)} loci" if one.missing else "was there" if one.kept else "",
            one.files[0] if one.files else one.gvcf,
        ]
        for one in rows
    ]
    columns = ["sample", "loci", "records", "size", "", "gVCF"]
    if not any(line[4] for line in lines):
        columns.remove("")
        lines = [line[:4] + line[5:] for line in lines]
    return table(columns, lines, right=["loci", "records", "size"])
