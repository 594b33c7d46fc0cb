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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pyanamo_core import errors
from pyanamo_core.genomics.callers import Call, Called, call_in_rounds, caller_version, check_pinned
from pyanamo_core.genomics.genomes import call_rounds, genome_of, read_ploidies
from pyanamo_core.genomics.gvcf import LeftDeletion, check
from pyanamo_core.genomics.inputs import Inputs, redact
from pyanamo_core.genomics.intervals import (
    Dictionary,
    Locus,
    in_order,
    pad_and_merge,
    parse_locus,
    read_dictionary,
    read_targets,
)
from pyanamo_core.genomics.job import Extracted, Group, Job, Made, Timed, Usage
from pyanamo_core.genomics.load import Target
from pyanamo_core.genomics.parameters import Parameters, heap_megabytes
from pyanamo_core.genomics.reads import check_reference, open_reads, slice_reads
from pyanamo_core.genomics.results import load, report
from pyanamo_core.genomics.samples import Reads, parse_argument, resolve
from pyanamo_core.genomics.trim import trim

DONE, FAILED, USAGE, DATA, TRY_AGAIN, SET_UP, NO_MEMORY = 0, 1, 64, 65, 75, 78, 137

SEXES = ("male", "female", "unknown")
USAGE_TEXT = """usage: HaplotypeCaller-1KG.sh [--sex male|female|unknown] SAMPLE LOCUS[,LOCUS...]
  --sex   of the sample, for the ploidy of X and Y; goes before HC_SEX
  SAMPLE  a sample or an ENA run below READS, or reads: [NAME[:SM]=]URI[,INDEX]
  LOCUS   contig:start-end (1-based, closed), a contig, or @targets/0007.bed
  ref     (environment) the reference's FASTA, with .fai and .dict beside it
  READS   (environment) where SAMPLE is looked up: a bucket's prefix or a folder; or one file of reads
  PYANAMO_OUTPUT  (environment) an s3:// prefix or a folder for the results; default: ./gvcf
Example: ref=demo.fa READS=data HaplotypeCaller-1KG.sh NA12878 chr21:31659566-31669931"""


# ---------------------------------------------------------------------------------------------------------- preparing


def prepare(arguments: Sequence[str], environ: Mapping[str, str]) -> Job:
    """Read arguments and environment and refuse what cannot work, before anything is opened.

    Raises:
        Usage, LocusInvalid, TargetsInvalid, ParameterInvalid: the arguments.
        DictInvalid, GatkMissing …: the set-up.
    """
    sex = ""
    if arguments and arguments[0] == "--sex":
        sex = arguments[1] if len(arguments) > 1 else ""
        if sex not in SEXES:
            raise Usage(reason=f"--sex {sex}: it is none of {', '.join(SEXES)}\n{USAGE_TEXT}")
        arguments = arguments[2:]
    if len(arguments) != 2 or not all(arguments):
        raise Usage(reason=USAGE_TEXT)
    given = environ.get("ref")
    if not given:
        raise errors.DictInvalid(path="ref", reason="the variable `ref` names no FASTA file")
    # Not resolved: staging links a user's FASTA into a folder in which it has put the .fai and .dict.
    reference = Path(given).absolute()
    indexes = [Path(f"{reference}{each}") for each in (".fai", *((".gzi",) if reference.suffix == ".gz" else ()))]
    for needed in (reference, *indexes):
        if not needed.exists():
            hint = f"; make it with: samtools faidx {reference}" if needed != reference else ""
            raise errors.DictInvalid(path=reference, reason=f"{needed} does not exist{hint}")
    dictionary = read_dictionary(reference)
    parameters = Parameters.from_environ(environ)
    groups = _groups(arguments[1], dictionary, Path(environ.get("PIPELINE") or "."))
    inputs = Inputs.from_environ(environ)
    version = caller_version(parameters)
    check_pinned(parameters.caller, version, environ)
    table = parameters.ploidy_table(environ.get("PIPELINE"))
    return Job(
        arguments[0],
        groups,
        reference,
        dictionary,
        parameters,
        version,
        environ,
        inputs,
        sex,
        genome_of(dictionary),
        read_ploidies(table, dictionary) if table is not None else (),
    )


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


def extract(job: Job, work: Path) -> Extracted:
    """Open and check the sample's reads, settle its name and ploidies, and slice what the call will read."""
    reads = find_reads(job)
    with open_reads(job.inputs, reads.uri, reads.index or None, work, job.reference) as opened:
        sample = reads.settle(opened.sample)
        by_length = job.parameters.reference_check == "length"
        contigs = [x.contig for x in job.loci]
        warnings = check_reference(opened, contigs, job.dictionary, by_length=by_length)
        found = {locus: job.ploidy(locus, sample) for locus in job.loci}
        ploidies = list(found.values())
        warnings += sorted({p.warning for p in ploidies if p.warning})
        kept = [
            Group(
                g.stem,
                g.value,
                [part for x in g.loci for part in found[x].present],
                tuple(part for x in g.loci for part in found[x].absent),
            )
            for g in job.groups
        ]
        left_out = [whole for whole, rest in zip(job.groups, kept, strict=True) if not rest.loci]
        around = job.parameters.padding + job.parameters.slack
        wide = pad_and_merge([x for g in kept for x in g.loci], around, job.dictionary)
        bam = work / "slice.bam"
        count = slice_reads(opened, wide, bam, sample)
        groups = [g for g in kept if g.loci]
        size = bam.stat().st_size
        return Extracted(sample, reads, opened.sample, groups, left_out, ploidies, warnings, bam, count, size)


def make(job: Job, work: Path) -> Made:
    """Extract, transform, verify and trim, all inside `work`."""
    with Timed(job, "extract"):
        extracted = extract(job, work)
    sample, loci = extracted.sample, in_order(extracted.loci, job.dictionary)
    if not loci:
        return Made(extracted, [], Called("", 0, 0), [])
    raw = work / "raw.g.vcf.gz"
    rounds = call_rounds(loci, job.parameters.padding, job.dictionary, lambda x: job.ploidy(x, sample))
    with Timed(job, "transform"):
        memory = job.environ.get("PYANAMO_MEMORY_MB")
        heap = heap_megabytes(job.parameters, int(memory) if memory else None)
        called = call_in_rounds(
            Call(extracted.slice, sample, (), job.reference, raw, work, (), job.parameters, heap),
            rounds,
            job.dictionary,
        )
        extracted.slice.unlink()
    non_ref = job.parameters.caller == "gatk"
    with Timed(job, "verify"):
        whole = check(raw, loci, sample=sample, non_ref=non_ref)
        left = {x.locus: x.left_deletion for x in whole.loci if x.left_deletion is not None}
    with Timed(job, "trim"):
        targets = {work / f"{sample}.{g.stem}.g.vcf.gz": g.loci for g in extracted.groups}
        trim(raw, targets, job.reference, _header_lines(job, extracted, left))
        raw.unlink()
        known = genome_of(job.dictionary)
        par = known.par if known else None
        gvcfs = [
            (group, path, check(path, group.loci, sample=sample, non_ref=non_ref, left=left, par=par))
            for group, path in zip(extracted.groups, targets, strict=True)
        ]
    return Made(extracted, gvcfs, called, in_order((x for one in rounds for x, _ in one), job.dictionary))


def _header_lines(job: Job, extracted: Extracted, left: Mapping[Locus, LeftDeletion]) -> list[str]:
    lines = [f"##PyAnamo_parameters={job.parameters.hash(job.version)}"]
    sample, found = extracted.sample, extracted.read_group_sample
    if found != sample:
        lines.append(f'##PyAnamo_alias=<ID={sample},SM="{found}",Reads="{extracted.reads.uri}">')
    for locus, deletion in left.items():
        at = f"{locus.contig}:{deletion.position}"
        lines.append(f'##PyAnamo_left_deletion=<Locus="{locus}",Position="{at}",RefLength={deletion.reference_length}>')
    return lines


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
    if isinstance(error, OSError | errors.EndpointDown | errors.AwsFailed | errors.ReadsInterrupted | errors.HostFault):
        return TRY_AGAIN
    settings = (
        errors.Surroundings,
        errors.ParameterInvalid,
        errors.PloidiesInvalid,
        errors.DictInvalid,
        errors.NotFound,
    )
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
            target.check(job.inputs.shared)
            made = make(job, work)
            with Timed(job, "load"):
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
