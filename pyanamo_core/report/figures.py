"""Figures as columns of a table: nested objects by dotted names, and a calling nest's gVCFs as their totals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

SUMMED = (
    "bases",
    "bases_missing",
    "variants",
    "snv",
    "indel",
    "ts",
    "tv",
    "het",
    "hom",
    "nocall",
    "multiallelic",
    "spanning",
)


def tabular(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A nest's figures as names and values.

    The list `gvcfs` of task_scripts/HaplotypeCaller-1KG.sh (a QC record for each file) becomes totals: counts are
    summed, depth and callable fraction are means weighted by bases, `titv` and `het_hom` are ratios of the sums.
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
    loci = [locus for one in gvcfs for locus in cast("list[Mapping[str, Any]]", one.get("loci") or ())]
    bases = sum(int(one.get("bases") or 0) for one in loci)
    for name in ("mean_depth", "callable_fraction"):
        if bases and all(name in one for one in loci):
            told[name] = round(sum(one[name] * one["bases"] for one in loci) / bases, 4)
    return told
