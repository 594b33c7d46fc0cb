"""Joint: one VCF of the cohort, region by region, from gathered gVCFs and from nothing else.

A locus file lacks the deletions that span its edge, and joint genotypes under them come out wrong with exit 0 (five of
five measured); gathered files hold them. Each region is read from a lead-in before it, further where a longer deletion
was called, and gives the records that start in it; concat.py puts them together.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyanamo_core.errors import CallerFailed, CohortRefused
from pyanamo_core.genomics.bgzf import Lines, RangedReader
from pyanamo_core.genomics.concat import concat, concat_plan
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.gatk import SHORT_BASES, GatkMissing, find_gatk, run_tool
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Dictionary, Locus, pad_and_merge, read_dictionary
from pyanamo_core.genomics.load import Stored, Target, remove
from pyanamo_core.genomics.members import SAME, GatheredGvcf, plain_locus, read_members
from pyanamo_core.genomics.parameters import canonical_json
from pyanamo_core.genomics.plan_files import PlanInvalid, read_json, read_plan
from pyanamo_core.genomics.plans import POINTER, joint_rows
from pyanamo_core.genomics.slices import slice_all

COMBINE_UP_TO = 100  # samples; above, GenomicsDBImport
BATCH = 50


@dataclass(frozen=True)
class JointCalled:
    """What was called: the VCF, its manifest, all that was put."""

    vcf: Stored
    manifest: Mapping[str, Any]
    outputs: tuple[Stored, ...]
    called: int = 1
    """Regions that were called now."""
    kept: int = 0
    """Regions that had been called before, and have not changed."""


def joint(
    gvcfs: Sequence[str],
    reference: Path,
    target: str,
    work: Path,
    *,
    name: str = "joint",
    regions: Sequence[Locus] | None = None,
    region_bases: int | None = None,
    partial: bool = False,
    heap_mb: int = 2048,
    inputs: Inputs | None = None,
    clients: Any = None,
    combine_up_to: int = COMBINE_UP_TO,
    keep: str = "",
    told: Callable[[int, int, str], None] | None = None,
) -> JointCalled:
    """All regions one after the other in this process: <target>/<name>.vcf.gz with .tbi, .stats.txt and .manifest.json (last).

    Args:
        gvcfs: addresses or paths of gathered gVCFs, their .tbi and .manifest.json beside them.
        regions: where to call; default: all that the gathered files cover.
        partial: accept gathered files that lack loci.
        keep: where plans and regions stay, so that a later call goes on with those that have not changed; default:
            `work`, which nobody keeps.
        told: called with the regions done, all regions, and the name of the one that was done.

    Raises:
        CohortRefused: not gathered, two of one sample, other parameters, caller or reference, partial.
        CallerFailed: with the tool's last lines.
    """
    inputs = inputs or Inputs(clients=clients)
    dictionary = read_dictionary(reference)
    gathered = _by_sample(gvcfs, inputs)
    options: dict[str, Any] = {"regions": regions, "region_bases": region_bases, "partial": partial}
    place = (keep or str(work)).rstrip("/")
    plan = joint_rows(gathered, dictionary, f"{place}/plans", inputs=inputs, clients=clients, **options)
    calling = joint_calling(_caller(plan.pointer, inputs), len(plan.samples), combine_up_to)
    done: list[Stored] = []
    called_now = 0
    for row in plan.rows:
        uri = row.definition.arguments[0]
        where = _region_place(place, uri)
        kept = kept_region(where, row.item_id, uri, inputs, calling)
        if kept is None:
            # Plans lie where clients write; in a folder of this machine they are read like any file.
            options = {"reference": reference, "inputs": inputs, "heap_mb": heap_mb, "combine_up_to": combine_up_to}
            kept = call_region(uri, where, work, clients=clients, **options).vcf
            called_now += 1
        done.append(kept)
        if told is not None:
            told(len(done), len(plan.rows), row.item_id)
    listed = concat_plan(plan.pointer, done, inputs, name=name)
    try:
        made = concatenated(listed, target, work, inputs=inputs, clients=clients)
    except CohortRefused as error:
        changed = str(error.facts.get("changed", ""))
        if changed:  # without its manifest the next call calls it again
            remove(f"{changed.removesuffix('.vcf.gz')}.manifest.json", clients)
        raise
    return JointCalled(made.vcf, made.manifest, made.outputs, called_now, len(done) - called_now)


def planned(
    gvcfs: Sequence[str],
    reference: Path,
    keep: str,
    inputs: Inputs,
    *,
    combine_up_to: int = COMBINE_UP_TO,
    **options: Any,
) -> tuple[list[str], list[str]]:
    """Regions that `joint` would call now, and those that it would keep; nothing is written.

    Args:
        options: as `joint` has them: regions, region_bases, partial.

    Raises:
        CohortRefused: as `joint` does.
    """
    place = keep.rstrip("/")
    with tempfile.TemporaryDirectory(prefix="pyanamo-plan-") as folder:
        gathered = _by_sample(gvcfs, inputs)
        plan = joint_rows(gathered, read_dictionary(reference), folder, inputs=inputs, **options)
        now, _ = read_json(Inputs(), plan.pointer)
    try:
        before, _ = read_json(inputs, f"{place}/plans/{POINTER}")
    except PlanInvalid:
        before = {}
    alike = all(now[key] == before.get(key) for key in ("lead_in", "samples", "partial", "covered", *SAME))
    calling = joint_calling(str(now["caller"]), len(plan.samples), combine_up_to)
    uris = {str(one["item"]): str(one["plan"]) for one in before.get("regions", ())}
    kept = [
        row.item_id
        for row in plan.rows
        if alike
        and now["contents"][row.item_id] == before["contents"].get(row.item_id)
        and kept_region(_region_place(place, uris[row.item_id]), row.item_id, uris[row.item_id], inputs, calling)
    ]
    return [row.item_id for row in plan.rows if row.item_id not in set(kept)], kept


def _by_sample(gvcfs: Sequence[str], inputs: Inputs) -> list[GatheredGvcf]:
    named = [GatheredGvcf("", uri.removesuffix(".g.vcf.gz") + ".manifest.json") for uri in gvcfs]
    found = zip(read_members(named, inputs), named, strict=True)
    return [GatheredGvcf(member.sample, one.manifest) for member, one in found]


def _region_place(place: str, plan: str) -> str:
    return f"{place}/regions/{plan.rpartition('/')[2].removesuffix('.json')}"


def joint_calling(caller: str, samples: int, combine_up_to: int = COMBINE_UP_TO) -> dict[str, str]:
    """How a region is called here and now: `method`, and `joint_version` of the program (empty if it is not here)."""
    if caller != "gatk":
        from pysam.version import __bcftools_version__

        return {"method": "bcftools", "joint_version": str(__bcftools_version__)}
    try:
        version = find_gatk().version
    except GatkMissing:
        version = ""
    method = "CombineGVCFs" if samples <= combine_up_to else "GenomicsDBImport"
    return {"method": method, "joint_version": version}


def _caller(pointer: str, inputs: Inputs) -> str:
    return str(read_json(inputs, pointer)[0]["caller"])


def kept_region(where: str, item: str, plan: str, inputs: Inputs, calling: Mapping[str, str]) -> Stored | None:
    """The VCF of a region that was called by this very plan before, and as it would be called now, if it is there whole.

    Args:
        calling: as joint_calling gives it; a version that is not known is not compared.
    """
    try:
        told, _ = read_json(inputs, f"{where}/{item}.manifest.json")
        if told.get("kind") != "region" or told.get("plan") != plan:
            return None
        if any(value and told.get(key) != value for key, value in calling.items()):
            return None
        [vcf] = [one for one in told["files"] if one["name"] == f"{item}.vcf.gz"]
        _, size = inputs.read_range(f"{where}/{item}.vcf.gz", 0, 1)
        if size != int(vcf["bytes"]):
            return None
    except (PlanInvalid, FileNotFoundError, ValueError):
        return None
    return Stored(vcf["name"], f"{where}/{item}.vcf.gz", int(vcf["bytes"]), str(vcf["sha256"]))


def concatenated(
    told: Mapping[str, Any], target: str, work: Path, *, inputs: Inputs, clients: Any = None, state: str = ""
) -> JointCalled:
    """Put the regions of a concat plan together (concat.py)."""
    vcf, manifest, outputs = concat(told, target, work, inputs=inputs, clients=clients, state=state)
    return JointCalled(vcf, manifest, outputs)


# -------------------------------------------------------------------------------------------------------------- region


def call_region(
    plan_uri: str,
    target: str,
    work: Path,
    *,
    reference: Path,
    inputs: Inputs,
    clients: Any = None,
    heap_mb: int = 2048,
    combine_up_to: int = COMBINE_UP_TO,
) -> JointCalled:
    """Call one region of a plan: <target>/<region>.vcf.gz with .tbi and .manifest.json (last).

    Raises:
        CohortRefused: the plan is outdated, or the reference is another one. CallerFailed, ReadsInterrupted.
    """
    plan = read_plan(inputs, plan_uri, "region")
    members = current_members(plan, plan_uri, inputs)
    dictionary = read_dictionary(reference)
    loci = [plain_locus(x) for x in plan["regions"]]
    _refuse_reference(loci, dictionary)
    wide = pad_and_merge(loci, int(plan["lead_in"]), dictionary)
    covered = {name: [plain_locus(x) for x in listed] for name, listed in members["loci_sets"].items()}
    listed: list[Mapping[str, Any]] = members["members"]
    name = str(plan["item"])
    with Target(target, clients) as place:
        place.check()
        folder = work / f"region-{name}"
        folder.mkdir(parents=True)
        slices = slice_all(listed, wide, covered, inputs, folder)
        vcf = work / f"{name}.vcf.gz"
        samples = [str(one["sample"]) for one in listed]
        calling = joint_calling(str(plan["caller"]), len(slices), combine_up_to)
        if plan["caller"] == "gatk":
            old = any(_old_mapping_quality(path) for one, path in zip(listed, slices, strict=True) if one["adopted"])
            commands = _gatk(
                samples,
                slices,
                reference,
                wide,
                loci,
                vcf,
                folder,
                heap_mb,
                calling["method"],
                old=old,
                reblocked=plan["reblocked"],
            )
        else:
            commands = _bcftools(slices, reference, loci, vcf, folder)
        variants = check_vcf(vcf, loci, samples)
        size = sum(path.stat().st_size for path in slices)
        shutil.rmtree(folder)
        stored = [place.put(vcf), place.put(Path(f"{vcf}.tbi"))]
        manifest: dict[str, Any] = {
            "schema": 1,
            "kind": "region",
            "plan": plan_uri,
            "content": plan["content"],
            "regions": plan["regions"],
            "samples": samples,
            "lead_in": plan["lead_in"],
            "partial": plan["partial"],
            **{key: plan[key] for key in SAME},
            **calling,
            "commands": commands,
            "variants": variants,
            "slice_bytes": size,
            "files": [s.as_dict() for s in stored],
        }
        record = work / f"{name}.manifest.json"
        record.write_text(canonical_json(manifest))
        place.put(record)
        for path in (vcf, Path(f"{vcf}.tbi"), record):
            path.unlink()
        return JointCalled(stored[0], manifest, tuple(place.stored))


def current_members(plan: Mapping[str, Any], plan_uri: str, inputs: Inputs) -> dict[str, Any]:
    """The list of members from which a region's plan was made.

    It is found through a pointer, because the gathered files of a sample may move without a change of what is in them.

    Raises:
        CohortRefused: the region has been planned anew with another content; import the new rows.
    """
    pointer, _ = read_json(inputs, str(plan["pointer"]))
    if pointer.get("kind") != "joint":
        raise PlanInvalid(uri=plan["pointer"], reason="it is no plan of a joint call")
    if pointer["contents"].get(plan["item"]) != plan["content"]:
        raise CohortRefused(reason=f"{plan_uri} is outdated: its region has been planned anew; import the new rows")
    return read_plan(inputs, str(pointer["members"]), "members")


def _refuse_reference(loci: Sequence[Locus], dictionary: Dictionary) -> None:
    for locus in loci:
        if locus.contig not in dictionary or dictionary.length(locus.contig) < locus.end:
            raise CohortRefused(reason=f"{locus} is not in the reference {dictionary.path}: it is another one")


def check_vcf(vcf: Path, loci: Sequence[Locus], samples: Sequence[str]) -> int:
    """Look at a called region: the samples in their order, records sorted, each starting in the region. Returns their number.

    Raises:
        CohortRefused: it is not so.
    """
    lines = Lines(RangedReader(Inputs(), str(vcf)))
    if lines.samples != list(samples):
        lost = sorted(set(samples) ^ set(lines.samples))
        raise CohortRefused(
            reason=f"the called VCF holds other samples than were given, or in another order ({', '.join(lost[:5])})"
        )
    count, at, last = 0, 0, 0
    for line in lines:
        contig, text, _ = line.split(b"\t", 2)
        position = int(text)
        while at < len(loci) and position > loci[at].end:
            at, last = at + 1, 0
        if at == len(loci) or contig.decode() != loci[at].contig or position < max(loci[at].start, last):
            raise CohortRefused(
                reason=f"the called VCF has a record at {contig.decode()}:{position}, out of order or region"
            )
        last = position
        count += 1
    return count


# ---------------------------------------------------------------------------------------------------------------- GATK


def _gatk(
    samples: Sequence[str],
    slices: Sequence[Path],
    reference: Path,
    wide: Sequence[Locus],
    loci: Sequence[Locus],
    vcf: Path,
    work: Path,
    heap_mb: int,
    method: str,
    *,
    old: bool,
    reblocked: bool,
) -> list[str]:
    """Combine (or import) with the lead-in, then genotype the regions.

    From a GenomicsDB a query gets no deletion that starts before it (measured: the SNP under one came out 0/0 and 1/1 for
    0/* and 1/*), so there the lead-in is genotyped, too, and left out afterwards. A reblocked gVCF has no PL in its
    reference blocks: its genotypes have to be carried over, else they are all ./.
    """
    around, narrow = _bed(work / "combined.bed", wide), _bed(work / "regions.bed", loci)
    annotations = ["-G", "StandardAnnotation", "-G", "AS_StandardAnnotation"]
    if method == "CombineGVCFs":
        source = str(work / "combined.g.vcf.gz")
        gather = ["-R", str(reference), "-L", str(around), "-O", source, *annotations]
        gather += itertools.chain.from_iterable(("-V", str(path)) for path in slices)
        if reblocked:
            gather += ["--call-genotypes", "true"]
    else:
        names = work / "samples.tsv"
        names.write_text("".join(f"{sample}\t{path}\n" for sample, path in zip(samples, slices, strict=True)))
        source = f"gendb://{work / 'genomicsdb'}"
        gather = ["--genomicsdb-workspace-path", str(work / "genomicsdb"), "--sample-name-map", str(names)]
        gather += ["-L", str(around), "--batch-size", str(BATCH), "--merge-input-intervals", "true"]
        gather += ["--genomicsdb-shared-posixfs-optimizations", "true", "-R", str(reference)]
    imported = method == "GenomicsDBImport"
    made = work / "wide.vcf.gz" if imported else vcf
    genotype = ["-R", str(reference), "-V", source, "-L", str(around if imported else narrow)]
    genotype += ["--variant-output-filtering", "STARTS_IN", "-O", str(made), *annotations]
    if imported and reblocked:
        genotype += ["--call-genotypes", "true"]
    if old:
        genotype.append("--allow-old-rms-mapping-quality-annotation-data")
    short = sum(x.bases for x in loci) * len(slices) < 4 * SHORT_BASES
    commands = [(method, gather), ("GenotypeGVCFs", genotype)]
    for tool, arguments in commands:
        run_tool(tool, arguments, heap_mb=heap_mb, work=work, short=short)
    if imported:
        starting_in(made, narrow, vcf)
    return [_shown(tool, arguments, work) for tool, arguments in commands]


def starting_in(source: Path, bed: Path, vcf: Path) -> None:
    """Write the records of a VCF that start in the intervals, with an index."""
    pysam: Any = require_pysam()
    import pysam.bcftools as bcftools  # type: ignore[import-untyped]  # not part of pysam's own import

    try:
        options = ("--no-version", "-T", str(bed), "--targets-overlap", "0", "-Oz", "-o", str(vcf), str(source))
        bcftools.view(*options, catch_stdout=False)
    except pysam.SamtoolsError as error:
        raise CallerFailed(caller="bcftools", code=1, permanent=False, reason=str(error)[:1000]) from error
    pysam.tabix_index(str(vcf), preset="vcf", force=True)


def _old_mapping_quality(path: Path) -> bool:
    """Does a gVCF have RAW_MQ, as GATK wrote it before 4.1? MQ is then of less worth, and GATK wants to be told."""
    return any(x.startswith(b"##INFO=<ID=RAW_MQ,") for x in Lines(RangedReader(Inputs(), str(path))).header)


def _shown(tool: str, arguments: Sequence[str], work: Path) -> str:
    """A command for the manifest: without this machine's folders, and not with a thousand files."""
    text = " ".join([tool, *arguments]).replace(f"{work}/", "")
    return text if len(text) < 2000 else f"{text[:1500]} … {text[-300:]}"


def _bed(path: Path, loci: Sequence[Locus]) -> Path:
    path.write_text("".join(f"{x.contig}\t{x.start - 1}\t{x.end}\n" for x in loci))
    return path


# ------------------------------------------------------------------------------------------------------------ bcftools


def _bcftools(slices: Sequence[Path], reference: Path, loci: Sequence[Locus], vcf: Path, work: Path) -> list[str]:
    """Merge the gVCFs with their blocks; keep what starts in the regions and somebody carries with QUAL of 20 or more."""
    pysam: Any = require_pysam()
    import pysam.bcftools as bcftools  # type: ignore[import-untyped]  # not part of pysam's own import

    bed = _bed(work / "regions.bed", loci)
    files = work / "slices.txt"
    files.write_text("".join(f"{path}\n" for path in slices))
    merge = ["--gvcf", str(reference), "-R", str(bed), "-Ob", "-o", str(work / "merged.bcf"), "--force-single"]
    merge += ["-l", str(files)]
    keep = ["-c", "1", "-i", "QUAL>=20", "-T", str(bed), "-Oz", "-o", str(vcf), str(work / "merged.bcf")]
    try:
        bcftools.merge(*merge, catch_stdout=False)
        bcftools.view(*keep, catch_stdout=False)
    except pysam.SamtoolsError as error:
        raise CallerFailed(caller="bcftools", code=1, permanent=False, reason=str(error)[:1000]) from error
    pysam.tabix_index(str(vcf), preset="vcf", force=True)
    return [_shown("bcftools merge", merge, work), _shown("bcftools view", keep, work)]
