"""`pyanamo gather`: one gVCF per sample, from the recorded nests of its item."""

from __future__ import annotations

import tempfile
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
    files: list[Path] = field(default_factory=list[Path])


@command(
    example=("pyanamo gather", "pyanamo gather DEMO0001 DEMO0002 --out gvcf/", "pyanamo gather DEMO0001 --partial")
)
def gather(
    context: Context,
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="Default: all items.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Also items with nests that are not done; recorded.")
    ] = False,
    to: Annotated[
        str | None, typer.Option("--to", help="s3://bucket/prefix; default: <results>/<table>/results/gvcf.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Copy them into this folder, too.")] = None,
) -> Told:
    """Gather loci: one gVCF per sample. Overlap, hole, duplicate and strangers are refused, naming the nest."""
    from pyanamo.cohort import bring, recorded_nests, refuse_same_sample, results_place
    from pyanamo_core.genomics import cohort
    from pyanamo_core.genomics.inputs import Inputs

    ledger, clients = context.ledger, context.clients
    where = to or results_place(context.workflow, context.table_name, "gvcf")
    chosen = [ledger.item(one) for one in items] if items else sorted(ledger.items(), key=lambda one: one.item_id)
    refuse_same_sample(ledger, chosen, clients)
    inputs = Inputs(clients=clients)
    # Every item is asked for before the first is gathered: a cohort with a hole costs nothing.
    prepared = [(item, *recorded_nests(ledger, item, clients, partial=partial)) for item in chosen]
    if partial:
        prepared = [one for one in prepared if one[1]]
    done: list[GatheredSample] = []
    with Bar(context, "gather", unit="samples") as bar:
        for item, nests, values in prepared:
            with tempfile.TemporaryDirectory(prefix="pyanamo-gather-") as work:
                made = cohort.gather(
                    nests, where, Path(work), expected=values, partial=partial, inputs=inputs, clients=clients
                )
            done.append(_told(item.item_id, made, bring(inputs, made.outputs, out) if out else []))
            bar.update(len(done), len(prepared), made.sample)
    return Told(
        done,
        view=_view,
        quiet=[str(one.files[0]) if one.files else one.gvcf for one in done],
        next="pyanamo joint --out joint.vcf.gz",
    )


def _told(item_id: str, made: Gathered, files: list[Path]) -> GatheredSample:
    return GatheredSample(
        sample=made.sample,
        item_id=item_id,
        gvcf=made.gvcf.uri,
        bytes=made.gvcf.bytes,
        records=int(made.manifest["records"]),
        loci=len(made.manifest["loci"]),
        missing=made.missing,
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
            f"lacks {len(one.missing)} loci" if one.missing else "",
            one.files[0] if one.files else one.gvcf,
        ]
        for one in rows
    ]
    columns = ["sample", "loci", "records", "size", "", "gVCF"]
    if not any(one.missing for one in rows):
        columns.remove("")
        lines = [line[:4] + line[5:] for line in lines]
    return table(columns, lines, right=["loci", "records", "size"])
