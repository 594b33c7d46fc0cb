"""Figures as columns of a table: nested objects by dotted names, and a calling nest's gVCFs as their totals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

SUMMED = (
    "bases",
    "bases_missing",
    "blocks_overlapping",
    "records",
    "blocks",
    "variants",
    "snv",
    "indel",
    "ts",
    "tv",
    "het",
    "hom",
    "haploid",
    "nocall",
    "multiallelic",
    "spanning",
)
BANDS = ("variant_gq_over", "ref_bases_by_gq")


def tabular(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A nest's figures as names and values.

    The list `gvcfs` of task_scripts/HaplotypeCaller-1KG.sh (a QC record for each file) becomes totals: counts are
    summed, GQ bands too; depth and callable fraction are means weighted by bases, `titv` and `het_hom` are ratios of
    the sums.
    """
    rest = {name: value for name, value in figures.items() if name != "gvcfs"}
    gvcfs = figures.get("gvcfs")
    if not isinstance(gvcfs, list) or not all(isinstance(one, Mapping) for one in cast("list[Any]", gvcfs)):
        return flat(figures)
    return flat(rest) | _calling(cast("list[Mapping[str, Any]]", gvcfs))


def flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects by dotted names, lists joined by `;`."""
    columns: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            columns |= flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            columns[prefix + name] = ";".join(text(one) for one in cast("list[Any]", value))
        else:
            columns[prefix + name] = value
    return columns


def text(value: Any) -> str:
    """A value in a cell: nothing for None, JSON for what has parts."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (Mapping, list)) else str(value)


def _calling(gvcfs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {
        name: sum(int(one.get(name) or 0) for one in gvcfs) for name in SUMMED if any(name in one for one in gvcfs)
    }
    if told.get("tv"):
        told["titv"] = round(told["ts"] / told["tv"], 3)
    if told.get("hom"):
        told["het_hom"] = round(told["het"] / told["hom"], 3)
    for name in BANDS:
        for one in gvcfs:
            for band, count in cast("Mapping[str, int]", one.get(name) or {}).items():
                told[f"{name}.{band}"] = told.get(f"{name}.{band}", 0) + count
    return told | _means(gvcfs)


def contigs(gvcf: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Contig to the sums `bases, depth_sum, depth_bases, block_bases, callable_bases` (and `par_…`) of a QC record.

    Records of before these sums were kept give them from their loci's means, weighted by bases.
    """
    kept = gvcf.get("contigs")
    if isinstance(kept, Mapping):
        return dict(cast("Mapping[str, Mapping[str, float]]", kept))
    found: dict[str, dict[str, float]] = {}
    for locus in cast("list[Mapping[str, Any]]", gvcf.get("loci") or ()):
        bases = int(locus.get("bases") or 0)
        sums = found.setdefault(str(locus.get("locus", "")).rpartition(":")[0], {"bases": 0})
        sums["bases"] += bases
        for mean, total, over in (
            ("mean_depth", "depth_sum", "depth_bases"),
            ("callable_fraction", "callable_bases", "block_bases"),
        ):
            if mean in locus:
                sums[total] = sums.get(total, 0) + float(locus[mean]) * bases
                sums[over] = sums.get(over, 0) + bases
    return dict(found)


def _means(gvcfs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    every = [sums for one in gvcfs for sums in contigs(one).values()]
    told: dict[str, float] = {}
    for mean, total, over in (
        ("mean_depth", "depth_sum", "depth_bases"),
        ("callable_fraction", "callable_bases", "block_bases"),
    ):
        bases = sum(sums.get(over, 0) for sums in every)
        if bases:
            told[mean] = round(sum(sums.get(total, 0) for sums in every) / bases, 4)
    return told
