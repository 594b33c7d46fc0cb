"""Custom content for MultiQC: samples, loci, depth by contig, sex by depth. Files that `multiqc FOLDER` finds by name.

MultiQC has no module for HaplotypeCaller, and is no dependency: these are plain JSON files of its documented form
(docs.seqera.io/multiqc/custom_content), with the data that the quality fold already holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyanamo_core.report.qc import LocusQc, QcFold, SampleQc

PARENT = {
    "parent_id": "pyanamo",
    "parent_name": "PyAnamo",
    "parent_description": "variant calling by locus: figures of the recorded nests",
}
MAX_TABLE_LOCI = 2_000
GOOD = "none"
"""What stands under `flags` where there is none."""


@dataclass(frozen=True)
class _Column:
    title: str
    description: str
    low: float | None = None
    high: float | None = None
    form: str = "{:,.0f}"
    scale: str | bool = False
    hidden: bool = False

    def header(self) -> dict[str, Any]:
        told: dict[str, Any] = {"title": self.title, "description": self.description, "format": self.form}
        told |= {"scale": self.scale, "hidden": self.hidden}
        return told | {k: v for k, v in (("min", self.low), ("max", self.high)) if v is not None}


SAMPLE_COLUMNS: Mapping[str, _Column] = {
    "flags": _Column("Flags", "Figures out of their bounds"),
    "sex": _Column("Sex", "As declared"),
    "depth_says": _Column("Depth says", "Sex by the depth of X and Y outside PAR"),
    "mean_depth": _Column("Depth", "Mean depth of the autosomes", 0, form="{:,.1f}", scale="Blues"),
    "callable_fraction": _Column(
        "Callable", "Bases with GQ of 20 or more, of bases without a variant", 0, 1, "{:,.3f}", "RdYlGn"
    ),
    "variants": _Column("Variants", "Records with a called ALT", 0, scale="Greens"),
    "snv": _Column("SNVs", "Called alleles", 0, scale="Greens", hidden=True),
    "indel": _Column("Indels", "Called alleles", 0, scale="Greens", hidden=True),
    "titv": _Column("Ti/Tv", "Transitions to transversions", form="{:,.2f}", scale="PuBu"),
    "het_hom": _Column("Het/hom", "Of diploid calls", form="{:,.2f}", scale="PuBu"),
    "x_copies": _Column("X copies", "Twice the depth of X over the autosomes'", 0, 3, "{:,.2f}", "Purples"),
    "y_copies": _Column("Y copies", "Twice the depth of Y over the autosomes'", 0, 2, "{:,.2f}", "Purples"),
    "bases": _Column("Bases", "Of the recorded loci", 0, hidden=True),
    "nests_done": _Column("Nests", "Recorded as done", 0, hidden=True),
}
LOCUS_COLUMNS: Mapping[str, _Column] = {
    "samples": _Column("Samples", "That have it", 0),
    "bases": _Column("Bases", "Of the locus", 0),
    "mean_depth": _Column("Depth", "Mean over samples", 0, form="{:,.1f}", scale="Blues"),
    "relative_depth": _Column("Relative", "Depth over the sample's own mean", 0, 2, "{:,.2f}", "RdYlBu"),
    "lowest_relative_depth": _Column("Lowest relative", "Of any sample", 0, 2, "{:,.2f}", "RdYlBu"),
    "callable_fraction": _Column("Callable", "Mean over samples", 0, 1, "{:,.3f}", "RdYlGn"),
    "lowest_callable": _Column("Lowest callable", "Of any sample", 0, 1, "{:,.3f}", "RdYlGn"),
    "lowest_sample": _Column("Of sample", "Whose callable fraction is the lowest"),
    "variants": _Column("Variants", "Sum over samples", 0, scale="Greens"),
    "seconds": _Column("Seconds", "Mean time of its nests", 0, form="{:,.1f}", scale="Oranges"),
}


def write_multiqc(fold: QcFold, folder: Path) -> list[Path]:
    """Write the files into `folder` (made if missing), each whole or not at all; an older one is replaced.

    Returns:
        The files, none for a plot without data.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, content in contents(fold).items():
        path = folder / f"{name}_mqc.json"
        if content["data"]:
            part = path.with_name(f".{path.name}.part")
            part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(path)
            written.append(path)
        else:
            path.unlink(missing_ok=True)  # of an earlier export, when there was something to show
    return written


def contents(fold: QcFold) -> dict[str, dict[str, Any]]:
    """Name of a file without `_mqc.json`, and what it holds."""
    samples, loci = fold.samples(), fold.loci()
    return {
        "pyanamo_samples": _samples(samples, fold),
        "pyanamo_contigs": _contigs(fold),
        "pyanamo_sex": _sex(samples),
        "pyanamo_loci": _loci(loci),
    }


def _samples(samples: Sequence[SampleQc], fold: QcFold) -> dict[str, Any]:
    bounds = fold.bounds
    flags = SAMPLE_COLUMNS["flags"].header() | {
        "cond_formatting_rules": {"pass": [{"s_eq": GOOD}], "warn": [{"s_ne": GOOD}]}
    }
    about = (
        f"Flagged, not refused: Ti/Tv outside {_span(bounds.titv)} and het/hom outside {_span(bounds.het_hom)}"
        f" (with {bounds.min_calls} calls or more), depth outside {_span(bounds.mean_depth)}, callable below"
        f" {bounds.callable_fraction[0]:g}, nests not done, and X or Y depth that contradicts the declared sex."
    )
    return {
        "id": "pyanamo_samples",
        **PARENT,
        "section_name": "Samples",
        "description": about,
        "plot_type": "table",
        "pconfig": {"id": "pyanamo_samples_table", "title": "PyAnamo: samples", "namespace": "PyAnamo"},
        "headers": {name: column.header() for name, column in SAMPLE_COLUMNS.items()} | {"flags": flags},
        "data": {one.sample: _row(one, SAMPLE_COLUMNS) for one in samples},
    }


def _loci(loci: Sequence[LocusQc]) -> dict[str, Any]:
    worst = sorted(loci, key=lambda one: 1.0 if one.lowest_callable is None else one.lowest_callable)
    more = f" The {MAX_TABLE_LOCI:,} least callable of {len(loci):,}." if len(loci) > MAX_TABLE_LOCI else ""
    return {
        "id": "pyanamo_loci",
        **PARENT,
        "section_name": "Loci",
        "description": f"Each locus over all samples that have it.{more}",
        "plot_type": "table",
        "pconfig": {
            "id": "pyanamo_loci_table",
            "title": "PyAnamo: loci",
            "namespace": "PyAnamo",
            "col1_header": "Locus",
            "no_violin": True,
        },
        "headers": {name: column.header() for name, column in LOCUS_COLUMNS.items()},
        "data": {one.locus: _row(one, LOCUS_COLUMNS) for one in worst[:MAX_TABLE_LOCI]},
    }


def _contigs(fold: QcFold) -> dict[str, Any]:
    names, rows = fold.relative_depths()
    return {
        "id": "pyanamo_contigs",
        **PARENT,
        "section_name": "Depth by contig",
        "description": "Depth over that of the sample's autosomes (X and Y outside PAR): 1 everywhere, 0.5 on a single X.",
        "plot_type": "heatmap",
        "pconfig": {
            "id": "pyanamo_contigs_heatmap",
            "title": "PyAnamo: depth by contig",
            "xlab": "contig",
            "ylab": "sample",
            "zlab": "relative depth",
            "min": 0,
            "max": 2,
            "square": False,
            "tt_decimals": 2,
            "cluster_rows": False,
            "cluster_cols": False,
        },
        "data": {
            sample: {name: value for name, value in zip(names, row, strict=True) if value is not None}
            for sample, row in rows.items()
        },
    }


SEX_COLOURS = {"male": "#3b7dd8", "female": "#e39a2d"}


def _sex(samples: Sequence[SampleQc]) -> dict[str, Any]:
    """A point per sample with X and Y copies, in the colour of the declared sex."""
    return {
        "id": "pyanamo_sex",
        **PARENT,
        "section_name": "X and Y",
        "description": "Copies of X and Y by depth; blue declared male, orange female, grey unknown. Not called: 0.",
        "plot_type": "scatter",
        "pconfig": {
            "id": "pyanamo_sex_scatter",
            "title": "PyAnamo: copies of X and Y",
            "xlab": "X copies",
            "ylab": "Y copies",
            "xmin": 0,
            "ymin": 0,
        },
        "data": {
            one.sample: {"x": one.x_copies, "y": one.y_copies or 0, "color": SEX_COLOURS.get(one.sex, "#8a94a1")}
            for one in samples
            if one.x_copies is not None
        },
    }


def _row(one: SampleQc | LocusQc, columns: Mapping[str, _Column]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in columns:
        value = getattr(one, name)
        if name == "flags":
            value = ", ".join(flag.name for flag in value) or GOOD
        if value is not None and value != "":
            told[name] = value
    return told


def _span(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g}-{bounds[1]:g}"
