"""Joint: one VCF of the cohort from gathered gVCFs, and from nothing else.

A locus file lacks the deletions that span its edge, and joint genotypes under them come out wrong with exit 0 (five of
five measured); gathered files hold them. Each region is read from at least LEAD_IN bases before it, further where a
longer deletion was called, and gives the records that start in it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyanamo_core.errors import CallerFailed, CohortRefused
from pyanamo_core.genomics.cohort import GATHERED, merged_loci
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.gatk import SHORT_BASES, find_gatk
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Dictionary, Locus, pad_and_merge, read_dictionary
from pyanamo_core.genomics.load import Stored, Target
from pyanamo_core.genomics.parameters import canonical_json

LEAD_IN = 1000
COMBINE_UP_TO = 100  # samples; above, GenomicsDBImport
BATCH = 50
_SAME = ("caller", "caller_version", "parameters_hash")


@dataclass(frozen=True)
class JointCalled:
    """What was called: the VCF, its manifest, all that was put."""

    vcf: Stored
    manifest: Mapping[str, Any]
    outputs: tuple[Stored, ...]


@dataclass(frozen=True)
class _Member:
    sample: str
    gvcf: Path
    manifest: Mapping[str, Any]


def joint(
    gvcfs: Sequence[str],
    reference: Path,
    target: str,
    work: Path,
    *,
    name: str = "joint",
    regions: Sequence[Locus] | None = None,
    partial: bool = False,
    heap_mb: int = 2048,
    inputs: Inputs | None = None,
    clients: Any = None,
    combine_up_to: int = COMBINE_UP_TO,
) -> JointCalled:
    """Write <target>/<name>.vcf.gz with .tbi and .manifest.json (last).

    Args:
        gvcfs: addresses or paths of gathered gVCFs, their .tbi and .manifest.json beside them.
        regions: where to call; default: all that the gathered files cover.
        partial: accept gathered files that lack loci.

    Raises:
        CohortRefused: not gathered, two of one sample, other parameters, caller or reference, partial.
        CallerFailed: with the tool's last lines.
    """
    inputs = inputs or Inputs(clients=clients)
    dictionary = read_dictionary(reference)
    members = [_member(uri, inputs, work) for uri in gvcfs]
    _refuse(members, dictionary, partial)
    wanted = list(regions) if regions else merged_loci([m.manifest for m in members], dictionary)
    lead = max([LEAD_IN, *(int(m.manifest["longest_reference_span"]) for m in members)])
    vcf = work / f"{name}.vcf.gz"
    if members[0].manifest["caller"] == "gatk":
        commands = _gatk(members, reference, dictionary, wanted, lead, vcf, work, heap_mb, combine_up_to)
    else:
        commands = _bcftools(members, reference, wanted, vcf, work)
    with Target(target, clients) as place:
        place.check()
        stored = [place.put(vcf), place.put(Path(f"{vcf}.tbi"))]
        first = members[0].manifest
        manifest: dict[str, Any] = {
            "schema": 1,
            "kind": "joint",
            "samples": [m.sample for m in members],
            "regions": [str(x) for x in wanted],
            "lead_in": lead,
            "partial": any(m.manifest["partial"] for m in members),
            **{key: first[key] for key in _SAME},
            "commands": commands,
            "gvcfs": [{"sample": m.sample, "uri": u} for m, u in zip(members, gvcfs, strict=True)],
            "files": [s.as_dict() for s in stored],
        }
        record = work / f"{name}.manifest.json"
        record.write_text(canonical_json(manifest))
        place.put(record)
        return JointCalled(stored[0], manifest, tuple(place.stored))


def _member(uri: str, inputs: Inputs, work: Path) -> _Member:
    """A gathered gVCF on this machine, with its index and manifest."""
    stem = uri.removesuffix(".g.vcf.gz")
    try:
        data, _ = inputs.read_range(f"{stem}.manifest.json", 0, 1 << 26)
        manifest: dict[str, Any] = json.loads(data)
    except (FileNotFoundError, ValueError) as error:
        raise CohortRefused(
            reason=f"{uri} has no manifest beside it: only gathered gVCFs may be called jointly"
        ) from error
    if manifest.get("kind") != GATHERED:
        raise CohortRefused(
            reason=f"{uri} is the gVCF of a locus, not a gathered one: joint genotypes at its edges would be wrong"
        )
    path = work / f"{manifest['sample']}.g.vcf.gz"
    if path.exists():
        raise CohortRefused(reason=f"{uri} is a second gVCF of sample {manifest['sample']}")
    for suffix in ("", ".tbi"):
        if uri.startswith("s3://"):
            inputs.fetch(f"{uri}{suffix}", Path(f"{path}{suffix}"))
        else:
            Path(f"{path}{suffix}").symlink_to(Path(f"{uri}{suffix}").resolve())
    return _Member(str(manifest["sample"]), path, manifest)


def _refuse(members: Sequence[_Member], dictionary: Dictionary, partial: bool) -> None:
    if not members:
        raise CohortRefused(reason="there is no gathered gVCF")
    first = members[0]
    for member in members:
        for key in _SAME:
            if member.manifest.get(key) != first.manifest.get(key):
                what = key.replace("_hash", "").replace("_", " ")
                raise CohortRefused(
                    reason=f"sample {member.sample} has another {what} ({member.manifest.get(key)}) than {first.sample} ({first.manifest.get(key)})"
                )
        for contig, entry in member.manifest["reference"].items():
            mine = dictionary.contigs.get(contig)
            if (
                mine is None
                or mine.length != entry["length"]
                or (mine.md5 and entry["md5"] and mine.md5 != entry["md5"])
            ):
                raise CohortRefused(
                    reason=f"sample {member.sample} was called on another reference than {dictionary.path} ({contig})"
                )
        if member.manifest["partial"] and not partial:
            raise CohortRefused(
                reason=f"sample {member.sample} lacks loci ({', '.join(member.manifest['missing'][:3])} …); to call all the same: --partial"
            )


# ---------------------------------------------------------------------------------------------------------------- GATK


def _gatk(
    members: Sequence[_Member],
    reference: Path,
    dictionary: Dictionary,
    regions: Sequence[Locus],
    lead: int,
    vcf: Path,
    work: Path,
    heap_mb: int,
    combine_up_to: int,
) -> list[str]:
    """Combine (or import) with the lead-in, then genotype the regions."""
    wide = _bed(work / "combined.bed", pad_and_merge(regions, lead, dictionary))
    narrow = _bed(work / "regions.bed", regions)
    if len(members) <= combine_up_to:
        source = str(work / "combined.g.vcf.gz")
        gather = [
            "-R",
            str(reference),
            "-L",
            str(wide),
            "-O",
            source,
            "-G",
            "StandardAnnotation",
            "-G",
            "AS_StandardAnnotation",
        ]
        for member in members:
            gather += ["-V", str(member.gvcf)]
        first = "CombineGVCFs"
    else:
        names = work / "samples.tsv"
        names.write_text("".join(f"{m.sample}\t{m.gvcf}\n" for m in members))
        source = f"gendb://{work / 'genomicsdb'}"
        gather = ["--genomicsdb-workspace-path", str(work / "genomicsdb"), "--sample-name-map", str(names)]
        gather += ["-L", str(wide), "--batch-size", str(BATCH), "--merge-input-intervals", "true"]
        gather += ["--genomicsdb-shared-posixfs-optimizations", "true", "-R", str(reference)]
        first = "GenomicsDBImport"
    genotype = ["-R", str(reference), "-V", source, "-L", str(narrow), "--variant-output-filtering", "STARTS_IN"]
    genotype += ["-O", str(vcf), "-G", "StandardAnnotation", "-G", "AS_StandardAnnotation"]
    short = sum(x.bases for x in regions) * len(members) < 4 * SHORT_BASES
    commands = [(first, gather), ("GenotypeGVCFs", genotype)]
    for tool, arguments in commands:
        _run(tool, arguments, heap_mb, short, work)
    return [" ".join([tool, *arguments]).replace(f"{work}/", "") for tool, arguments in commands]


def _bed(path: Path, loci: Sequence[Locus]) -> Path:
    path.write_text("".join(f"{x.contig}\t{x.start - 1}\t{x.end}\n" for x in loci))
    return path


def _run(tool: str, arguments: Sequence[str], heap_mb: int, short: bool, work: Path) -> None:
    command = find_gatk().java_command(tool, arguments, heap_mb, short, work)
    log = work / f"{tool}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code != 0:
        said = [x.strip() for x in log.read_text(errors="replace").splitlines() if x.strip() and "\tat " not in x]
        raise CallerFailed(caller=tool, code=code, permanent=False, reason=" | ".join(said[-6:]))


# ------------------------------------------------------------------------------------------------------------ bcftools


def _bcftools(
    members: Sequence[_Member], reference: Path, regions: Sequence[Locus], vcf: Path, work: Path
) -> list[str]:
    """Merge the gVCFs with their blocks; keep what somebody carries with QUAL of 20 or more."""
    pysam: Any = require_pysam()
    import pysam.bcftools as bcftools  # type: ignore[import-untyped]  # not part of pysam's own import

    bed = _bed(work / "regions.bed", regions)
    merge = ["--gvcf", str(reference), "-R", str(bed), "-Ob", "-o", str(work / "merged.bcf"), "--force-single"]
    keep = ["-c", "1", "-i", "QUAL>=20", "-Oz", "-o", str(vcf), str(work / "merged.bcf")]
    try:
        bcftools.merge(*merge, *(str(m.gvcf) for m in members), catch_stdout=False)
        bcftools.view(*keep, catch_stdout=False)
    except pysam.SamtoolsError as error:
        raise CallerFailed(caller="bcftools", code=1, permanent=False, reason=str(error)[:1000]) from error
    pysam.tabix_index(str(vcf), preset="vcf", force=True)
    return [
        f"bcftools merge {' '.join(merge)}".replace(f"{work}/", ""),
        f"bcftools view {' '.join(keep)}".replace(f"{work}/", ""),
    ]
