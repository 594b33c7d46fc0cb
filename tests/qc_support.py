"""Helpers of the tests of quality: figures as a calling nest records them."""

from __future__ import annotations

from typing import Any

from pyanamo_core.model import State
from pyanamo_core.report.results import Result


def gvcf(locus: str, depth: float, bases: int = 100_000, share: float = 1.0, **counts: int) -> dict[str, Any]:
    """A gVCF's figures as task_scripts/HaplotypeCaller-1KG.sh records them."""
    contig = locus.rpartition(":")[0] or locus
    sums = {"bases": bases, "depth_sum": round(depth * bases), "depth_bases": bases}
    sums |= {"block_bases": bases, "callable_bases": round(share * bases)}
    return {"value": locus, "bases": bases, "bases_missing": 0, "contigs": {contig: sums}, **counts}


def nest(sample: str, number: int, *gvcfs: dict[str, Any], sex: str = "", status: str = "done", item: str = ""):
    return Result(
        item_id=item or sample,
        task_id="t",
        nest=number,
        value=str(gvcfs[0]["value"]) if gvcfs else "",
        item_state=State.DONE,
        status=status,
        figures={"sample": sample, "sex": sex, "gvcfs": list(gvcfs)} if status == "done" else {},
    )
