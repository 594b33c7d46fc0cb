"""`pyanamo joint`: one VCF of the cohort, from gathered gVCFs."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from pyanamo.context import Context, command
from pyanamo.progress import Bar
from pyanamo.render import Told, fields, size, span
from pyanamo_core.errors import BadInput


class VcfMisnamed(BadInput):
    """--out {path} must end in .vcf.gz: the file is bgzipped."""


@dataclass(frozen=True)
class JointTold:
    """The cohort's VCF."""

    vcf: str
    bytes: int
    samples: list[str]
    regions: int
    called: int
    """Regions called now."""
    kept: int
    """Regions that were called before, and near which nothing has changed."""
    variants: int
    seconds: float
    files: list[Path] = field(default_factory=list[Path])


@dataclass(frozen=True)
class JointPlanned:
    """Regions that would be called now, and those that would stay."""

    call: list[str]
    keep: list[str]


@command(
    example=(
        "pyanamo joint --out joint.vcf.gz",
        "pyanamo joint --sample DEMO0001 --sample DEMO0002 --locus demo1:1-50000",
        "pyanamo joint --dry-run",
        "pyanamo joint --also s3://lab/results/2025/results/gvcf --out joint.vcf.gz",
    )
)
def joint(
    context: Context,
    sample: Annotated[
        list[str] | None, typer.Option("--sample", help="Only this sample (may be repeated); default: all gathered.")
    ] = None,
    locus: Annotated[
        list[str] | None, typer.Option("--locus", help="Only this region (may be repeated); default: all gathered.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the VCF, without ending.")] = "joint",
    reference: Annotated[
        Path | None, typer.Option("--reference", help="FASTA; default: the workflow's reference `ref`.", exists=True)
    ] = None,
    gathered: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Where gathered gVCFs lie; default: <results>/<table>/results/gvcf, or what cohort run gathered.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="PREFIX", help="Gathered gVCFs of an earlier table, too (may be repeated)."),
    ] = None,
    region_bases: Annotated[
        int | None, typer.Option("--region-bases", min=1000, help="Bases called at a time; default: by the samples.")
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Also of samples that lack loci; recorded.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which regions would be called, and which stay as they are.")
    ] = False,
    heap: Annotated[int, typer.Option("--heap", min=256, help="The JVM's heap, in MB.")] = 2048,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Copy it to this file, too (.vcf.gz).")] = None,
) -> Told:
    """Call the cohort jointly: one VCF from gathered gVCFs (never from those of loci: genotypes at edges would be wrong).

    Region by region, each read by ranges through the gVCFs' indexes. Regions stay beside the result: interrupted, the
    same command goes on with the next one, and later only those are called again near which a sample has changed. A new
    sample changes all of them. Large cohorts run the regions as a table of their own: pyanamo cohort run.
    """
    from pyanamo.cohort import gathered_gvcfs, gathered_here, results_place, workflow_reference
    from pyanamo_core.genomics import joint as joint_call
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.genomics.intervals import parse_locus, read_dictionary
    from pyanamo_core.genomics.plans import gathered_below

    if out is not None and not out.name.endswith(".vcf.gz"):
        raise VcfMisnamed(path=out)
    began = time.monotonic()
    where = gathered or results_place(context.workflow, context.table_name, "gvcf")
    find = gathered_gvcfs if gathered else gathered_here
    gvcfs = find(context.ledger, context.clients, where, sample or ())
    fasta = reference or workflow_reference(context.workflow, context.clients)
    dictionary = read_dictionary(fasta)
    regions = [parse_locus(one, dictionary) for one in locus or ()] or None
    inputs = Inputs(clients=context.clients)
    gvcfs += [one.gvcf for place in also or () for one in gathered_below(inputs, place.rstrip("/"))]
    target = results_place(context.workflow, context.table_name, "joint")
    if dry_run:
        options: dict[str, Any] = {"regions": regions, "region_bases": region_bases, "partial": partial}
        calls, keeps = joint_call.planned(gvcfs, fasta, f"{target}/.{name}", inputs, **options)
        return Told(JointPlanned(calls, keeps), view=_planned_view, quiet=calls)
    with Bar(context, "joint", unit="regions") as bar, tempfile.TemporaryDirectory(prefix="pyanamo-joint-") as work:
        called = joint_call.joint(
            gvcfs,
            fasta,
            target,
            Path(work),
            name=name,
            regions=regions,
            region_bases=region_bases,
            partial=partial,
            heap_mb=heap,
            inputs=inputs,
            clients=context.clients,
            keep=f"{target}/.{name}",
            told=bar.update,
        )
    told = JointTold(
        vcf=called.vcf.uri,
        bytes=called.vcf.bytes,
        samples=list(called.manifest["samples"]),
        regions=len(called.manifest["parts"]),
        called=called.called,
        kept=called.kept,
        variants=int(called.manifest["variants"]),
        seconds=round(time.monotonic() - began, 1),
        files=_copied(inputs, called.outputs, out) if out else [],
    )
    return Told(
        told,
        view=_view,
        quiet=[str(told.files[0]) if told.files else told.vcf],
        next="pyanamo results export report.html",
    )


def _copied(inputs: Any, stored: Any, out: Path) -> list[Path]:
    """VCF, index and manifest under the name that was asked for."""
    from pyanamo.cohort import bring

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pyanamo-", dir=out.parent) as folder:
        copied: list[Path] = []
        for path in bring(inputs, stored, Path(folder)):
            ending = next(
                one for one in (".vcf.gz.tbi", ".vcf.gz", ".stats.txt", ".manifest.json") if path.name.endswith(one)
            )
            copied.append(path.replace(out.with_name(out.name.removesuffix(".vcf.gz") + ending)))
    return copied


def _planned_view(told: JointPlanned) -> Any:
    shown = ", ".join(told.call[:5]) + (" …" if len(told.call) > 5 else "")
    return fields(
        {
            "would be called": f"{len(told.call):,} regions" + (f": {shown}" if told.call else ""),
            "would be kept": f"{len(told.keep):,} regions, near which nothing has changed",
        }
    )


def _view(told: JointTold) -> Any:
    return fields(
        {
            "joint VCF": told.files[0] if told.files else told.vcf,
            "samples": f"{len(told.samples):,}",
            "variants": f"{told.variants:,} sites in {told.regions:,} regions",
            **({"kept": f"{told.kept:,} regions did not change since they were called"} if told.kept else {}),
            "size": size(told.bytes),
            "took": span(told.seconds),
        }
    )
