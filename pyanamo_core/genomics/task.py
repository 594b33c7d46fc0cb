"""HaplotypeCaller over the loci of one sample: extract, transform, verify, trim, load. The task script calls this.

    python -m pyanamo_core.genomics.task SAMPLE LOCUS[,LOCUS…]

Exit codes: 0 done; 64 the arguments are wrong, 65 the data are (no retry helps); 75 try again; 78 the set-up is wrong;
137 out of memory; 1 anything else. After a failure neither this machine nor the bucket holds anything of it.
Everything lies in a private folder until it is verified, and the manifest is put last. docs/task-scripts.md.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pyanamo_core import errors
from pyanamo_core.genomics.callers import Call, Called, call, caller_version
from pyanamo_core.genomics.genomes import Ploidy, genome_of, ploidy
from pyanamo_core.genomics.gvcf import Inspection, LeftDeletion, check
from pyanamo_core.genomics.inputs import Inputs, redact
from pyanamo_core.genomics.intervals import (
    Dictionary,
    Locus,
    pad_and_merge,
    parse_locus,
    read_dictionary,
    read_targets,
)
from pyanamo_core.genomics.load import Stored, Target
from pyanamo_core.genomics.parameters import Parameters, canonical_json, heap_megabytes
from pyanamo_core.genomics.reads import check_reference, open_reads, slice_reads
from pyanamo_core.genomics.samples import Reads, parse_argument, resolve
from pyanamo_core.genomics.trim import trim

MANIFEST_SCHEMA = 1
DONE, FAILED, USAGE, DATA, TRY_AGAIN, SET_UP, NO_MEMORY = 0, 1, 64, 65, 75, 78, 137
SHOWN_LOCI = 20  # a result's figures name each locus up to this many; the QC record always does

USAGE_TEXT = """usage: HaplotypeCaller-1KG.sh SAMPLE LOCUS[,LOCUS...]
  SAMPLE  a sample or an ENA run below READS, or reads: [NAME[:SM]=]URI[,INDEX]
  LOCUS   contig:start-end (1-based, closed), a contig, or @targets/0007.bed
  ref     (environment) the reference's FASTA, with .fai and .dict beside it
  READS   (environment) where SAMPLE is looked up: a bucket's prefix or a folder; or one file of reads
  PYANAMO_OUTPUT  (environment) an s3:// prefix or a folder for the results; default: ./gvcf
Example: ref=demo.fa READS=data HaplotypeCaller-1KG.sh NA12878 chr21:31659566-31669931"""


class Usage(errors.BadInput):
    """{reason}"""


@dataclass(frozen=True)
class Group:
    """Loci that share one gVCF: one locus, or all of an interval list."""

    stem: str
    value: str
    loci: list[Locus]


@dataclass
class Job:
    """Everything that one invocation knows before it touches reads."""

    sample_argument: str
    groups: list[Group]
    reference: Path
    dictionary: Dictionary
    parameters: Parameters
    version: str
    environ: Mapping[str, str]
    inputs: Inputs
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def loci(self) -> list[Locus]:
        """Of all groups, in the reference's order."""
        rank = self.dictionary.rank()
        return sorted((x for g in self.groups for x in g.loci), key=lambda x: (rank[x.contig], x.start))


@dataclass(frozen=True)
class Made:
    """What came of the reads: the verified, trimmed gVCF of each group (in the work folder), and how."""

    sample: str
    reads: Reads
    read_group_sample: str
    gvcfs: list[tuple[Group, Path, Inspection]]
    left_out: list[Group]
    called: Called
    intervals: list[Locus]
    ploidies: list[Ploidy]
    warnings: list[str]
    read_count: int
    slice_bytes: int


# ---------------------------------------------------------------------------------------------------------- preparing


def prepare(arguments: Sequence[str], environ: Mapping[str, str]) -> Job:
    """Read arguments and environment and refuse what cannot work, before anything is opened.

    Raises:
        Usage, LocusInvalid, TargetsInvalid, ParameterInvalid: the arguments.
        DictInvalid, GatkMissing …: the set-up.
    """
    if len(arguments) != 2 or not all(arguments):
        raise Usage(reason=USAGE_TEXT)
    given = environ.get("ref")
    if not given:
        raise errors.DictInvalid(path="ref", reason="the variable `ref` names no FASTA file")
    # Not resolved: staging links a user's FASTA into a folder in which it has put the .fai and .dict.
    reference = Path(given).absolute()
    for needed in (reference, Path(f"{reference}.fai")):
        if not needed.exists():
            raise errors.DictInvalid(path=reference, reason=f"{needed} does not exist")
    dictionary = read_dictionary(reference)
    parameters = Parameters.from_environ(environ)
    groups = _groups(arguments[1], dictionary, Path(environ.get("PIPELINE") or "."))
    inputs = Inputs.from_environ(environ)
    return Job(arguments[0], groups, reference, dictionary, parameters, caller_version(parameters), environ, inputs)


def _groups(text: str, dictionary: Dictionary, pipeline: Path) -> list[Group]:
    groups: list[Group] = []
    for value in text.split(","):
        if value.startswith("@"):
            path = pipeline / value[1:]
            stem = f"{path.parent.name}_{path.stem}" if path.parent.name else path.stem
            groups.append(Group(stem, value, read_targets(path, dictionary)))
        else:
            locus = parse_locus(value, dictionary)
            groups.append(Group(locus.file_stem, str(locus), [locus]))
    every = sorted(locus for group in groups for locus in group.loci)
    for one, two in itertools.pairwise(every):
        if one.overlaps(two):
            raise errors.LocusInvalid(locus=str(two), reason=f"overlaps {one}")
    return groups


def find_reads(job: Job) -> Reads:
    """The reads that SAMPLE means.

    Raises:
        SampleMissing, ReadsInvalid: none or several.
        Usage: a bare name and nowhere to look.
    """
    reads = parse_argument(job.sample_argument)
    if reads is not None:
        return reads
    where = job.environ.get("READS", "")
    named = parse_argument(where) if where else None
    if named is not None and named.uri.endswith((".bam", ".cram")):
        return Reads(named.uri, named.index, job.sample_argument, named.read_group_sample, named.run)
    if not where:
        buckets: list[dict[str, str]] = json.loads(job.environ.get("PYANAMO_INPUT_BUCKETS") or "[]")
        if not buckets:
            raise Usage(
                reason=f"{job.sample_argument} is a name; say in READS where to look it up, or give the reads' address"
            )
        where = f"s3://{buckets[0]['bucket']}"
    return resolve(job.inputs, job.sample_argument, where)


# ------------------------------------------------------------------------------------------------------------ working


def make(job: Job, work: Path) -> Made:
    """Extract, transform, verify and trim, all inside `work`."""
    with _Timed(job, "extract"):
        reads = find_reads(job)
        with open_reads(job.inputs, reads.uri, reads.index or None, work, job.reference) as opened:
            sample = reads.settle(opened.sample)
            by_length = job.parameters.reference_check == "length"
            contigs = [x.contig for x in job.loci]
            warnings = check_reference(opened, contigs, job.dictionary, by_length=by_length)
            ploidies = _ploidies(job, sample, warnings)
            absent = {x for p in ploidies for x, value in p.pieces if value == 0}
            groups = [Group(g.stem, g.value, [x for x in g.loci if x not in absent]) for g in job.groups]
            left_out = [g for g, kept in zip(job.groups, groups, strict=True) if not kept.loci]
            groups = [g for g in groups if g.loci]
            loci = [x for x in job.loci if x not in absent]
            padding, slack = job.parameters.padding, job.parameters.slack
            intervals = pad_and_merge(loci, padding, job.dictionary)
            bam = work / "slice.bam"
            count = slice_reads(opened, pad_and_merge(loci, padding + slack, job.dictionary), bam, sample)
            found = opened.sample
    size = bam.stat().st_size
    if not loci:
        return Made(sample, reads, found, [], left_out, Called("", 0, 0), [], ploidies, warnings, count, size)
    raw = work / "raw.g.vcf.gz"
    called_ploidies = [p for x in intervals for p in [_ploidy(job, x, sample)]]
    with _Timed(job, "transform"):
        memory = job.environ.get("PYANAMO_MEMORY_MB")
        heap = heap_megabytes(job.parameters, int(memory) if memory else None)
        called = call(Call(bam, sample, intervals, job.reference, raw, work, called_ploidies, job.parameters, heap))
        bam.unlink()
    non_ref = job.parameters.caller == "gatk"
    with _Timed(job, "verify"):
        whole = check(raw, loci, sample=sample, non_ref=non_ref)
        left = {x.locus: x.left_deletion for x in whole.loci if x.left_deletion is not None}
    with _Timed(job, "trim"):
        targets = {work / f"{sample}.{g.stem}.g.vcf.gz": g.loci for g in groups}
        trim(raw, targets, job.reference, _header_lines(job, reads, sample, found, left))
        raw.unlink()
        gvcfs = [
            (group, path, check(path, group.loci, sample=sample, non_ref=non_ref, left=left))
            for group, path in zip(groups, targets, strict=True)
        ]
    return Made(sample, reads, found, gvcfs, left_out, called, intervals, ploidies, warnings, count, size)


def _ploidies(job: Job, sample: str, warnings: list[str]) -> list[Ploidy]:
    found = [_ploidy(job, locus, sample) for locus in job.loci]
    warnings += sorted({p.warning for p in found if p.warning})
    return found


def _ploidy(job: Job, locus: Locus, sample: str) -> Ploidy:
    if job.parameters.ploidy != "auto":
        return Ploidy(((locus, int(job.parameters.ploidy)),))
    sex = job.parameters.sex_of(sample, job.environ.get("PIPELINE"))
    return ploidy(locus, sex, genome_of(job.dictionary))


def _header_lines(job: Job, reads: Reads, sample: str, found: str, left: Mapping[Locus, LeftDeletion]) -> list[str]:
    lines = [f"##PyAnamo_parameters={job.parameters.hash(job.version)}"]
    if found != sample:
        lines.append(f'##PyAnamo_alias=<ID={sample},SM="{found}",Reads="{reads.uri}">')
    for locus, deletion in left.items():
        at = f"{locus.contig}:{deletion.position}"
        lines.append(f'##PyAnamo_left_deletion=<Locus="{locus}",Position="{at}",RefLength={deletion.reference_length}>')
    return lines


class _Timed:
    """Seconds of one step, kept in the job and told on stderr."""

    def __init__(self, job: Job, step: str) -> None:
        self.job, self.step = job, step

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.job.seconds[self.step] = round(time.monotonic() - self.began, 3)
        if kind is None:
            print(f"{self.step}: {self.job.seconds[self.step]:.2f} s", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------------ loading


def load(job: Job, made: Made, target: Target, work: Path) -> dict[str, Any]:
    """Put gVCF, index, QC record and manifest of each group, in this order; returns what goes into PYANAMO_RESULT."""
    figures: list[dict[str, Any]] = []
    for group, path, found in made.gvcfs:
        stem = path.name.removesuffix(".g.vcf.gz")
        figure = {"name": path.name, "value": group.value, "expected_sample": made.sample, **found.as_dict()}
        record = work / f"{stem}.qc.json"
        record.write_text(canonical_json({**figure, **_circumstances(job, made)}))
        stored = [target.put(p) for p in (path, Path(f"{path}.tbi"), record)]
        manifest = work / f"{stem}.manifest.json"
        manifest.write_text(canonical_json(_manifest(job, made, group, found, stored)))
        target.put(manifest)
        if len(group.loci) > SHOWN_LOCI:
            figure.pop("loci")
        figures.append(figure)
    for group in made.left_out:
        manifest = work / f"{made.sample}.{group.stem}.manifest.json"
        manifest.write_text(canonical_json(_manifest(job, made, group, None, [])))
        target.put(manifest)
    return {
        "outputs": [stored.as_dict() for stored in target.stored],
        "figures": {
            "sample": made.sample,
            "variants": sum(f["variants"] for f in figures),
            "gvcfs": figures,
            "left_out": [group.value for group in made.left_out],
            "parameters_hash": job.parameters.hash(job.version),
            **_circumstances(job, made),
        },
    }


def _circumstances(job: Job, made: Made) -> dict[str, Any]:
    return {
        "reads": made.read_count,
        "slice_bytes": made.slice_bytes,
        "seconds": job.seconds,
        "caller_peak_mb": round(made.called.peak_mb, 1),
        "warnings": made.warnings,
    }


def _manifest(job: Job, made: Made, group: Group, found: Inspection | None, stored: Sequence[Stored]) -> dict[str, Any]:
    from importlib.metadata import version

    environ = job.environ
    contigs = list(dict.fromkeys(x.contig for x in group.loci))
    return {
        "schema": MANIFEST_SCHEMA,
        "pyanamo": version("pyanamo"),
        "sample": made.sample,
        "read_group_sample": made.read_group_sample,
        "reads": made.reads.uri,
        "value": group.value,
        "loci": [str(x) for x in group.loci],
        "left_out": found is None,
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
        "ploidy": [[str(x), value] for p in made.ploidies for x, value in p.pieces if x.contig in contigs],
        "warnings": made.warnings,
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
        callable_bases = sum(n for x in found.loci for k, n in x.ref_bases_by_gq.items() if k not in ("0", "1-19"))
        share = callable_bases / max(1, sum(sum(x.ref_bases_by_gq.values()) for x in found.loci))
        titv = total["ts"] / max(1, total["tv"])
        columns = [made.sample, group.value, total["variants"], total["snv"], total["indel"]]
        print("PyAnamo:", *columns, f"{titv:.2f}", f"{depth:.1f}", f"{share:.4f}", sep="\t", flush=True)
    for group in made.left_out:
        print("PyAnamo:", made.sample, group.value, "left out: ploidy 0", sep="\t", flush=True)


# ------------------------------------------------------------------------------------------------------------ failing


def exit_code(error: BaseException) -> int:
    """What the pilot shall do about it (design of the ledger: permanent, try again, set-up, out of memory)."""
    permanent_caller = isinstance(error, errors.CallerFailed) and error.facts.get("permanent")
    if isinstance(error, Usage | errors.LocusInvalid | errors.TargetsInvalid):
        return USAGE
    if isinstance(error, errors.ReadsInvalid | errors.SampleMissing) or permanent_caller:
        return DATA
    if isinstance(error, errors.OutOfMemory):
        return NO_MEMORY
    if isinstance(error, OSError | errors.EndpointDown | errors.AwsFailed):
        return TRY_AGAIN
    settings = (errors.Surroundings, errors.ParameterInvalid, errors.DictInvalid, errors.NotFound)
    return SET_UP if isinstance(error, settings) else FAILED


def _disk_full(work: Path) -> bool:
    """Libraries in C report a full disk as all sorts of things."""
    return shutil.disk_usage(work).free < 1 << 20


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """One invocation of the task script, from arguments to exit code; prints why it failed."""
    work: Path | None = None
    try:
        job = prepare(arguments, environ)
        base = environ.get("PYANAMO_WORK")
        with suppress(FileNotFoundError):
            work = Path(tempfile.mkdtemp(prefix="hc-", dir=base or None))
        if work is None:
            raise Usage(reason=f"PYANAMO_WORK={base} is no folder")
        where = environ.get("PYANAMO_OUTPUT") or str(Path("gvcf").resolve())
        with Target(where) as target:
            target.check()
            made = make(job, work)
            with _Timed(job, "load"):
                result = load(job, made, target, work)
            report(made, result, environ)
        return DONE
    except (errors.PyAnamoError, OSError) as error:
        code = exit_code(error)
        if work is not None and code not in (USAGE, SET_UP) and _disk_full(work):
            code, error = TRY_AGAIN, OSError(28, "No space left on device", str(work))
        print(f"Error: {redact(str(error))}", file=sys.stderr, flush=True)
        return code
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _stop(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Entry point; TERM ends the caller, cleans up and exits with 143."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return run(sys.argv[1:], os.environ)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    raise SystemExit(main())
