"""What an invocation leaves: QC records and manifests beside the gVCFs, PYANAMO_RESULT, and result lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyanamo_core.genomics.gvcf import Inspection
from pyanamo_core.genomics.job import Group, Job, Made
from pyanamo_core.genomics.load import Stored, Target
from pyanamo_core.genomics.parameters import canonical_json

MANIFEST_SCHEMA = 1
SHOWN_LOCI = 20  # a result's figures name each locus up to this many; the QC record always does


def load(job: Job, made: Made, target: Target, work: Path) -> dict[str, Any]:
    """Put gVCF, index, QC record and manifest of each group, in this order; returns what goes into PYANAMO_RESULT."""
    figures: list[dict[str, Any]] = []
    for group, path, found in made.gvcfs:
        stem = path.name.removesuffix(".g.vcf.gz")
        figure = {"name": path.name, "value": group.value, "expected_sample": made.extracted.sample, **found.as_dict()}
        record = work / f"{stem}.qc.json"
        record.write_text(canonical_json({**figure, **_circumstances(job, made)}))
        stored = [target.put(p) for p in (path, Path(f"{path}.tbi"), record)]
        manifest = work / f"{stem}.manifest.json"
        manifest.write_text(canonical_json(_manifest(job, made, group, found, stored)))
        target.put(manifest)
        if len(group.loci) > SHOWN_LOCI:
            figure.pop("loci")
        figures.append(figure)
    for group in made.extracted.left_out:
        manifest = work / f"{made.extracted.sample}.{group.stem}.manifest.json"
        manifest.write_text(canonical_json(_manifest(job, made, group, None, [])))
        target.put(manifest)
    return {
        "outputs": [stored.as_dict() for stored in target.stored],
        "figures": {
            "sample": made.extracted.sample,
            "sex": job.sex_of(made.extracted.sample),
            "variants": sum(f["variants"] for f in figures),
            "gvcfs": figures,
            "left_out": [group.value for group in made.extracted.left_out],
            "caller": job.parameters.caller,
            "caller_version": job.version,
            "parameters_hash": job.parameters.hash(job.version),
            **_circumstances(job, made),
        },
    }


def _circumstances(job: Job, made: Made) -> dict[str, Any]:
    return {
        "reads": made.extracted.read_count,
        "slice_bytes": made.extracted.slice_bytes,
        "called_bases": sum(x.bases for x in made.intervals),
        "seconds": job.seconds,
        "caller_peak_mb": round(made.called.peak_mb, 1),
        "warnings": made.extracted.warnings,
    }


def _manifest(job: Job, made: Made, group: Group, found: Inspection | None, stored: Sequence[Stored]) -> dict[str, Any]:
    from importlib.metadata import version

    environ = job.environ
    contigs = list(dict.fromkeys(x.contig for x in (*group.loci, *group.absent)))
    return {
        "schema": MANIFEST_SCHEMA,
        "pyanamo": version("pyanamo"),
        "sample": made.extracted.sample,
        "read_group_sample": made.extracted.read_group_sample,
        "reads": made.extracted.reads.uri,
        "value": group.value,
        "loci": [str(x) for x in group.loci],
        "left_out": found is None,
        "absent": [str(x) for x in group.absent],
        "called": [str(x) for x in made.intervals],
        "left_deletions": {
            str(x.locus): asdict(x.left_deletion) for x in (found.loci if found else ()) if x.left_deletion is not None
        },
        "reference": {c: {"length": job.dictionary.length(c), "md5": job.dictionary[c].md5} for c in contigs},
        "caller": job.parameters.caller,
        "caller_version": job.version,
        "command": made.called.command,
        "parameters": job.parameters.of_the_result(),
        "parameters_hash": job.parameters.hash(job.version),
        "sex": job.sex_of(made.extracted.sample),
        "ploidy": [[str(x), value] for p in made.extracted.ploidies for x, value in p.pieces if x.contig in contigs],
        "warnings": made.extracted.warnings,
        "files": [s.as_dict() for s in stored],
        "revision": environ.get("PYANAMO_REVISION", ""),
        **{k: environ.get(f"PYANAMO_{k.upper()}", "") for k in ("table", "run", "item", "nest", "attempt")},
    }


def report(made: Made, result: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Write PYANAMO_RESULT, and a tag line per gVCF: sample, loci, variants, SNVs, indels, Ti/Tv, depth, callable."""
    if environ.get("PYANAMO_RESULT"):
        Path(environ["PYANAMO_RESULT"]).write_text(json.dumps(result))
    for group, _, found in made.gvcfs:
        total = found.as_dict()
        depth = sum(x.depth_sum for x in found.loci) / max(1, sum(x.depth_bases for x in found.loci))
        share = sum(x.callable_bases for x in found.loci) / max(1, sum(x.block_bases for x in found.loci))
        titv = total["ts"] / max(1, total["tv"])
        columns = [made.extracted.sample, group.value, total["variants"], total["snv"], total["indel"]]
        print("PyAnamo:", *columns, f"{titv:.2f}", f"{depth:.1f}", f"{share:.4f}", sep="\t", flush=True)
    for group in made.extracted.left_out:
        print("PyAnamo:", made.extracted.sample, group.value, "left out: ploidy 0", sep="\t", flush=True)
