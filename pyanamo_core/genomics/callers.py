"""The callers behind one function: GATK's HaplotypeCaller as a process, bcftools inside this one."""

from __future__ import annotations

import contextlib
import heapq
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyanamo_core.errors import CallerFailed, CallerRefused, OutOfMemory
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.gatk import find_gatk
from pyanamo_core.genomics.genomes import Ploidy
from pyanamo_core.genomics.intervals import Dictionary, Locus
from pyanamo_core.genomics.parameters import Parameters
from pyanamo_core.genomics.records import has_bgzf_eof, open_gvcf, read_record

DEPTH_BANDS = "1,5,10,20,30,50"  # of bcftools' blocks, which know depth and no GQ
_OUT_OF_MEMORY = ("OutOfMemoryError", "Cannot allocate memory", "insufficient memory for the Java Runtime")
_KILLED = (-9, 137)


@dataclass(frozen=True)
class Call:
    """What to call: reads, merged padded intervals, reference, where the raw gVCF goes, and a folder of one's own."""

    reads: Path
    sample: str
    intervals: Sequence[Locus]
    reference: Path
    target: Path
    work: Path
    ploidy: Sequence[Ploidy]
    parameters: Parameters
    heap_mb: int

    @property
    def bases(self) -> int:
        return sum(x.bases for x in self.intervals)


@dataclass(frozen=True)
class Called:
    """How it went: the command without paths of secrets, seconds, and the caller's peak memory in MB."""

    command: str
    seconds: float
    peak_mb: float


def caller_version(parameters: Parameters) -> str:
    """Version of the caller that `call` will run.

    Raises:
        GatkMissing, GatkPairRefused, ExtraMissing: it cannot run here.
    """
    if parameters.caller == "gatk":
        return find_gatk().version
    require_pysam()
    from pysam.version import __bcftools_version__

    return str(__bcftools_version__)


def check_pinned(caller: str, version: str, environ: Mapping[str, str]) -> None:
    """Refuse a caller that is not the version that the workflow pins; a workflow that pins none takes any.

    Raises:
        CallerRefused: with both versions.
    """
    pinned = environ.get("PYANAMO_CALLER_VERSION", "")
    if pinned and pinned != version:
        raise CallerRefused(caller=caller, found=version, pinned=pinned)


def call(what: Call) -> Called:
    """Write the gVCF of all intervals to `what.target`, with index.

    Raises:
        OutOfMemory: the caller ran out of it; with more it may work.
        CallerFailed: with the caller's last lines. OSError: no space left.
    """
    return _gatk(what) if what.parameters.caller == "gatk" else _bcftools(what)


def call_in_rounds(what: Call, rounds: Sequence[Sequence[tuple[Locus, int]]], dictionary: Dictionary) -> Called:
    """Call intervals with their ploidies, one call for each round (genomes.call_rounds), into one gVCF.

    Raises:
        OutOfMemory, CallerFailed, OSError: as `call`.
    """
    done: list[Called] = []
    parts: list[Path] = []
    for number, intervals in enumerate(rounds):
        target = what.target if len(rounds) == 1 else what.work / f"round{number}.g.vcf.gz"
        ploidies = [Ploidy(((x, value),)) for x, value in intervals]
        done.append(call(replace(what, intervals=[x for x, _ in intervals], ploidy=ploidies, target=target)))
        parts.append(target)
    if len(parts) > 1:
        _merge(parts, what.target, dictionary)
        for part in parts:
            part.unlink()
    command = " ; ".join(one.command for one in done)
    return Called(command, sum(one.seconds for one in done), max(one.peak_mb for one in done))


def _merge(parts: Sequence[Path], target: Path, dictionary: Dictionary) -> None:
    """Records of several gVCFs of a sample in one, in the reference's order."""
    pysam = require_pysam()
    rank = dictionary.rank()

    def place(line: str) -> tuple[int, int]:
        contig, position, _ = line.split("\t", 2)
        return rank[contig], int(position)

    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_gvcf(part)) for part in parts]
        out = stack.enter_context(pysam.BGZFile(str(target), "wb"))
        out.write("".join(opened[0][0]).encode())
        for line in heapq.merge(*(lines for _, lines in opened), key=place):
            out.write(line.encode())
    if not has_bgzf_eof(target):  # BGZFile.close does not report a full disk
        raise OSError(28, "No space left on device", str(target))
    pysam.tabix_index(str(target), preset="vcf", force=True)


# ---------------------------------------------------------------------------------------------------------------- GATK


def gatk_arguments(what: Call) -> list[str]:
    """HaplotypeCaller's arguments, as in production for joint calling: GVCF mode, GQ bands, allele-specific annotations."""
    args = ["-R", str(what.reference), "-I", str(what.reads), "-O", str(what.target), "-ERC", "GVCF"]
    if len(what.intervals) > 50:
        bed = what.work / "called.bed"
        bed.write_text("".join(f"{x.contig}\t{x.start - 1}\t{x.end}\n" for x in what.intervals))
        args += ["-L", str(bed)]
    else:
        for interval in what.intervals:
            args += ["-L", str(interval)]
    for group in ("StandardAnnotation", "StandardHCAnnotation", "AS_StandardAnnotation"):
        args += ["-G", group]
    for band in what.parameters.bands():
        args += ["-GQB", str(band)]
    args += ["--native-pair-hmm-threads", "1", "--pcr-indel-model", what.parameters.pcr_model]
    return args + _ploidy_arguments(what)


def _ploidy_arguments(what: Call) -> list[str]:
    pieces = [piece for ploidy in what.ploidy for piece in ploidy.pieces]
    values = {value for _, value in pieces}
    if len(values) == 1:
        return ["-ploidy", str(values.pop())]
    bed = what.work / "ploidy.bed"
    bed.write_text("".join(f"{x.contig}\t{x.start - 1}\t{x.end}\t{value}\n" for x, value in pieces))
    return ["-ploidy", "2", "--ploidy-regions", str(bed)]


def _gatk(what: Call) -> Called:
    arguments = gatk_arguments(what)
    short = what.bases < what.parameters.short_bases
    command = find_gatk().java_command("HaplotypeCaller", arguments, what.heap_mb, short, what.work)
    log = what.work / "caller.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    if code != 0:
        raise _gatk_error(code, log.read_text(errors="replace"), what)
    shown = " ".join(["HaplotypeCaller", *(a.replace(f"{what.work}{os.sep}", "") for a in arguments)])
    return Called(shown, time.monotonic() - began, peak)


def _gatk_error(code: int, log: str, what: Call) -> Exception:
    """What a failed HaplotypeCaller means; its exit codes: 1 command line, 2 user's error, 3 any other."""
    if "No space left on device" in log:
        return OSError(28, "No space left on device", str(what.work))
    said = [x for x in log.splitlines() if x.strip() and not x.startswith(("\tat ", "Using ", "***"))]
    tail = " | ".join(x.strip()[:300] for x in said[-6:])
    if code in _KILLED or any(word in log for word in _OUT_OF_MEMORY):
        return OutOfMemory(what=f"HaplotypeCaller with a heap of {what.heap_mb} MB", reason=tail or f"exit code {code}")
    return CallerFailed(caller="HaplotypeCaller", code=code, permanent=code in (1, 2), reason=tail)


# ------------------------------------------------------------------------------------------------------------ bcftools


def _bcftools(what: Call) -> Called:
    pysam = require_pysam()
    import pysam.bcftools as bcftools  # type: ignore[import-untyped] # not part of pysam's own import

    began = time.monotonic()
    bed, pileup, plain = what.work / "called.bed", what.work / "pileup.bcf", what.work / "called.vcf"
    bed.write_text("".join(f"{x.contig}\t{x.start - 1}\t{x.end}\n" for x in what.intervals))
    ploidies = {value for p in what.ploidy for _, value in p.pieces}
    rules = what.work / "ploidy.txt"
    rules.write_text(
        "".join(f"{x.contig} {x.start} {x.end} F {value}\n" for p in what.ploidy for x, value in p.pieces)
        + "* * * F 2\n"
    )
    first = ["-g", DEPTH_BANDS, "-f", str(what.reference), "-a", "AD,DP", "-q", "20", "-R", str(bed)]
    second = ["-m", "-g", DEPTH_BANDS, "-a", "GQ"]
    second += ["--ploidy-file", str(rules)] if len(ploidies) > 1 else ["--ploidy", str(ploidies.pop())]
    try:
        bcftools.mpileup(*first, "-Ou", "-o", str(pileup), str(what.reads), catch_stdout=False)
        bcftools.call(*second, "-Ov", "-o", str(plain), str(pileup), catch_stdout=False)
    except pysam.SamtoolsError as error:
        raise CallerFailed(caller="bcftools", code=1, permanent=False, reason=str(error)[:1000]) from error
    _fill_uncovered(plain, what)
    shown = f"bcftools mpileup {' '.join(first)} | bcftools call {' '.join(second)}".replace(f"{what.work}{os.sep}", "")
    return Called(shown, time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _fill_uncovered(plain: Path, what: Call) -> None:
    """bcftools writes nothing where no read lies: such bases get a block without genotype and depth."""
    pysam = require_pysam()
    with (
        open_gvcf(plain) as (header, lines),
        pysam.FastaFile(str(what.reference)) as bases,
        pysam.BGZFile(str(what.target), "wb") as out,
    ):
        out.write("".join(header).encode())

        def hole(contig: str, start: int, end: int) -> None:
            if start <= end:
                ref = bases.fetch(contig, start - 1, start).upper()
                values = f"END={end};MIN_DP=0\tGT:DP\t{unknown[waiting[0]]}:0"
                out.write(f"{contig}\t{start}\t.\t{ref}\t.\t.\t.\t{values}\n".encode())

        unknown = {x: "/".join("." * value) for ploidy in what.ploidy for x, value in ploidy.pieces}
        waiting = list(what.intervals)
        covered = waiting[0].start - 1
        for line in lines:
            record = read_record(line)
            while waiting and (waiting[0].contig != record.contig or waiting[0].end < record.position):
                hole(waiting[0].contig, covered + 1, waiting[0].end)
                waiting.pop(0)
                covered = waiting[0].start - 1 if waiting else 0
            if waiting:
                hole(record.contig, covered + 1, record.position - 1)
                covered = max(covered, min(record.end, waiting[0].end))
            out.write(line.encode())
        while waiting:
            hole(waiting[0].contig, covered + 1, waiting[0].end)
            waiting.pop(0)
            covered = waiting[0].start - 1 if waiting else 0
    if not has_bgzf_eof(what.target):  # BGZFile.close does not report a full disk
        raise OSError(28, "No space left on device", str(what.target))
    pysam.tabix_index(str(what.target), preset="vcf", force=True)
