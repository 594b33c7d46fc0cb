"""Memory from a table of samples to the plan of a joint call, for 100 and for 1,000 samples of 20 loci each, side by side.

    python benchmarks/cohort_scale.py [--samples 100 1000] [--loci 20] [--ledger dynamodb-local|moto]

Each step is a process of its own: sheet make, sheet import, a pilot (its nests do nothing and tell four outputs and the
figures of a real one), the plan of gather, the plan of joint over gathered gVCFs whose manifests are written in between.
Printed are seconds, the resident memory at the step's start and its highest ever, and what S3 was asked. No test.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyanamo_core.aws import Clients
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.workflow import Buckets, Timing, Workflow

BUCKET = "cohort-scale"
STEPS = ("sheet make", "sheet import", "pilot", "plan of gather", "plan of joint")
LOCUS_BASES = 1_000_000
M5 = "0" * 32


def memory_mb(name: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the highest of this program)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


# --------------------------------------------------------------------------------------------------- what is measured


class Nothing:
    """An executor whose nests do nothing, and tell what a call of HaplotypeCaller tells."""

    def submit(self, call: Any, nest: Any) -> Future[Any]:
        """A future that is done."""
        from pyanamo_core.model import Cause, NestResult, Output

        stem = f"s3://{BUCKET}/results/work/{nest.item_id}/{nest.index:05d}/{nest.fence}/{nest.item_id}.{nest.index}"
        figures = {
            "sample": nest.item_id,
            "variants": 1000,
            "gvcfs": [{"value": nest.value, **{f"figure_{n}": n * 1000.5 for n in range(30)}}],
            "left_out": [],
            "parameters_hash": "0123456789ab",
        }
        outputs = tuple(
            Output(uri=f"{stem}{end}", bytes=1000, sha256=hashlib.sha256(f"{stem}{end}".encode()).hexdigest())
            for end in (".g.vcf.gz", ".g.vcf.gz.tbi", ".qc.json", ".manifest.json")
        )
        now = time.time()
        done: Future[Any] = Future()
        done.set_result(
            NestResult(cause=Cause.DONE, exit_code=0, started=now, ended=now, outputs=outputs, figures=figures)
        )
        return done

    def close(self, timeout_seconds: float) -> None:
        """Nothing runs."""


def measured(step: str, table: str, folder: Path) -> None:
    """The process of one step; the last line that it prints is JSON."""
    began: float = 0.0
    told = ""
    if step.startswith("sheet"):
        import pyanamo.main  # noqa: F401 - what every command imports is not the step's

        words = (
            ["--samples", "samples.tsv", "--loci", "loci.txt"]
            if step == "sheet make"
            else ["sheet.txt", "--table", table]
        )
        sys.argv = ["pyanamo", *step.split(), *words]
        os.chdir(folder)
        start, began = memory_mb("VmRSS"), time.monotonic()
        try:
            runpy.run_module("pyanamo", run_name="__main__")
        except SystemExit as ended:
            told = f"exit code {ended.code}" if ended.code else ""
    else:
        clients = Clients()
        ledger, _, _ = open_ledger(clients, table)
        clients.client("s3").list_buckets()
        if step == "pilot":
            from pyanamo_core.pilot import Pilot, PilotOptions

            options = PilotOptions(table=table, scratch=folder / "scratch", staging=folder / "staging")
            pilot = Pilot(options, clients)
            pilot.prepare()
            start, began = memory_mb("VmRSS"), time.monotonic()
            code = pilot.work(Nothing())
            told = f"exit code {code}" if code else ""
        else:
            from pyanamo_core.genomics import plans
            from pyanamo_core.genomics.inputs import Inputs
            from pyanamo_core.genomics.intervals import read_dictionary

            dictionary = read_dictionary(folder / "ref.dict")
            start, began = memory_mb("VmRSS"), time.monotonic()
            if step == "plan of gather":
                told = f"{len(plans.gather_rows(ledger, clients, f's3://{BUCKET}/{table}/plans'))} plans"
            else:
                gathered = plans.gathered_below(Inputs(clients=clients), f"s3://{BUCKET}/{table}/gathered")
                plan = plans.joint_rows(gathered, dictionary, f"s3://{BUCKET}/{table}/joint", clients=clients)
                told = f"{len(plan.rows)} regions"
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "start": start, "peak": memory_mb("VmHWM"), "told": told}))


# ------------------------------------------------------------------------------------------------------- what is given


def prepare(clients: Clients, folder: Path, table: str, samples: int, loci: int) -> None:
    """A table, and the files of a cohort."""
    folder.mkdir()
    create_table(clients, table, deletion_protection=False, pitr=False)
    workflow = Workflow(
        name=table,
        queue="queue",
        job_definition="definition",
        items=4,
        nests=4,
        buckets=Buckets(results=f"s3://{BUCKET}/results"),
        timing=Timing(lease_seconds=120, beat_seconds=20, sweep_seconds=0.2, start_jitter_seconds=0),
    )
    Ledger(clients, table, rules=workflow.rules).add_workflow(workflow)
    with (folder / "samples.tsv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter="\t", lineterminator="\n")
        rows.writerow(("item", "sample", "sex", "argument"))
        for number in range(samples):
            uri = f"s3://1000genomes/1000G_2504_high_coverage/data/ERR{number:07d}/HG{number:05d}.final.cram"
            rows.writerow((f"HG{number:05d}", f"HG{number:05d}", "female", f"HG{number:05d}={uri},{uri}.crai"))
    (folder / "loci.txt").write_text("".join(f"{one}\n" for one in loci_of(loci)))
    (folder / "ref.dict").write_text(f"@HD\tVN:1.6\n@SQ\tSN:c\tLN:{loci * LOCUS_BASES}\tM5:{M5}\n")


def loci_of(number: int) -> list[str]:
    """Loci that adjoin."""
    return [f"c:{n * LOCUS_BASES + 1}-{(n + 1) * LOCUS_BASES}" for n in range(number)]


def put_gathered(clients: Clients, table: str, samples: int, loci: int) -> None:
    """Manifests of gathered gVCFs, as gather leaves them."""
    s3 = clients.client("s3")

    def put(number: int) -> None:
        sample = f"HG{number:05d}"
        told = {
            "kind": "gathered",
            "sample": sample,
            "loci": loci_of(loci),
            "partial": False,
            "missing": [],
            "left_out": [],
            "outside_deletions": [],
            "longest_reference_span": 40,
            "caller": "gatk",
            "caller_version": "4.6.2.0",
            "parameters_hash": "0123456789ab",
            "reference": {"c": {"length": loci * LOCUS_BASES, "md5": M5}},
            "files": [{"name": f"{sample}.g.vcf.gz", "bytes": 3_000_000_000, "sha256": "1" * 64}],
            "nests": [
                {"nest": n, "loci": [one], "sha256": hashlib.sha256(f"{sample} {one}".encode()).hexdigest()}
                for n, one in enumerate(loci_of(loci))
            ],
        }
        s3.put_object(Bucket=BUCKET, Key=f"{table}/gathered/{sample}.manifest.json", Body=json.dumps(told).encode())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(samples)))


def measure(cloud: LocalCloud, folder: Path, samples: int, loci: int) -> dict[str, dict[str, Any]]:
    """All steps for so many samples."""
    clients, table = cloud.clients(), f"Scale{samples}"
    prepare(clients, folder, table, samples, loci)
    found: dict[str, dict[str, Any]] = {}
    for step in STEPS:
        if step == "plan of joint":
            put_gathered(clients, table, samples, loci)
        cloud.watch()
        done = subprocess.run(
            [sys.executable, __file__, "--step", step, "--table", table, "--folder", str(folder)],
            env={**os.environ, **cloud.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            found[step] = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            sys.exit(f"{step}: {done.stderr[-3000:]}")
        asked = Counter(one["operation"] for one in cloud.seen() if one["service"] == "s3")
        found[step]["s3"] = ", ".join(f"{count} {name}" for name, count in sorted(asked.items())) or "nothing"
        print(f"{samples:>6} samples, {step}: {found[step]['seconds']:.0f} s {found[step]['told']}", file=sys.stderr)
    item = open_ledger(clients, table)[0].counts()
    if item.done != samples:
        sys.exit(f"{item.done} of {samples} items are done")
    return found


def main() -> int:
    """Run the benchmark, or one of its steps."""
    parser = argparse.ArgumentParser(description="Memory from a table of samples to the plan of a joint call")
    parser.add_argument("--samples", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--loci", type=int, default=20)
    parser.add_argument("--ledger", choices=["dynamodb-local", "moto"], default="dynamodb-local")
    parser.add_argument("--step")
    parser.add_argument("--table", default="")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.step:
        measured(options.step, options.table, options.folder)
        return 0
    with tempfile.TemporaryDirectory(prefix="cohort-scale-") as place:
        cloud = up(Options(home=Path(place) / "cloud", ledger=options.ledger, owner=os.getpid()))
        try:
            cloud.clients().client("s3").create_bucket(Bucket=BUCKET)
            found = {n: measure(cloud, Path(place) / str(n), n, options.loci) for n in options.samples}
        finally:
            down(Path(place) / "cloud")
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"python {platform.python_version()}, {os.cpu_count()} cpus, load {load}, ledger on {options.ledger}")
    print(f"{'step':<16}{'samples':>8}{'nests':>8}{'seconds':>9}{'start MB':>10}{'peak MB':>9}  S3 was asked")
    for step in STEPS:
        for number, steps in found.items():
            one = steps[step]
            figures = f"{one['seconds']:>9.1f}{one['start']:>10.1f}{one['peak']:>9.1f}"
            print(f"{step:<16}{number:>8}{number * options.loci:>8}{figures}  {one['s3']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
