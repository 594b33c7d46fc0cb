"""A pilot under Prefect: its memory over 10,000 no-op nests, and what of them Prefect shows.

    python benchmarks/prefect_pilot.py [--nests 10000] [--items 1] [--slots 4] [--detail auto]

A local cloud, a Prefect server of its own, one pilot as a process of its own. Resident size is read from /proc every
half second; guardians and tasks are not counted. Prints its conditions, a table, what the pilot said it did not show,
what the server recorded, and the verdicts: at most 250 MB, at most 20 MB more at the end than after 1,000 nests, gone
at most 15 s after the last nest.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from pyanamo_flows.server import PrefectServer

from pyanamo_core import driver
from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.local import Options, down, up
from pyanamo_core.model import Definition
from pyanamo_core.workflow import Buckets, Timing, Workflow

LIMIT_MB = 250.0
GROWTH_MB = 20.0
EXIT_SECONDS = 15.0
FIRST_NESTS = 1000
SAMPLE_SECONDS = 0.5
COUNT_SECONDS = 2.0
TABLE = "PrefectPilot"


def main() -> int:
    """Run the benchmark; 0 if the limits hold."""
    parser = argparse.ArgumentParser(description="Memory of a pilot under Prefect, and what Prefect shows of its nests")
    parser.add_argument("--nests", type=int, default=10_000, help="in all")
    parser.add_argument("--items", type=int, default=1, help="that share the nests")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--detail", choices=["auto", "nest", "item", "none"], default="auto")
    parser.add_argument("--seconds", type=float, default=0.0, help="that each nest takes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prefect-pilot-") as folder:
        home = Path(folder)
        cloud = up(Options(home=home / "cloud", owner=os.getpid()))
        try:
            with PrefectServer(home / "prefect") as server:
                return measure(cloud, server, home, options)
        finally:
            down(home / "cloud")


def measure(cloud: Any, server: PrefectServer, home: Path, options: argparse.Namespace) -> int:
    """One pilot over the items of a run that Prefect shows."""
    clients = cloud.clients()
    clients.client("s3").create_bucket(Bucket="prefect-pilot")
    create_table(clients, TABLE, deletion_protection=False, pitr=False)
    workflow = Workflow(
        name=TABLE,
        queue="queue",
        job_definition="definition",
        nests=options.slots,
        buckets=Buckets(results="s3://prefect-pilot/results"),
        timing=Timing(lease_seconds=60, beat_seconds=5, sweep_seconds=0.5, start_jitter_seconds=0),
    )
    ledger = Ledger(clients, TABLE, rules=workflow.rules)
    version = ledger.add_workflow(workflow)
    script = f"bash -c 'sleep {options.seconds}; echo line $1' _"
    for item in range(options.items):
        values = tuple(f"chr{item + 1}:{n * 1000 + 1}-{(n + 1) * 1000}" for n in range(options.nests // options.items))
        ledger.import_item(f"item-{item}", "T", Definition(script=script, arguments=values))
    root = root_flow_run(server)
    run = driver.begin(
        ledger,
        version,
        workflow,
        flow_run_id=root,
        prefect_api_url=server.api_url,
        prefect_detail=options.detail,
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        **cloud.environment(),
        "PYANAMO_TABLE": TABLE,
        "PYANAMO_RUN": run.run_id,
        "PYANAMO_SCRATCH": str(home / "scratch"),
        "PYANAMO_STAGING": str(home / "staging"),
    }
    log = (home / "pilot.log").open("w+")
    started = time.monotonic()
    pilot = subprocess.Popen([sys.executable, "-m", "pyanamo", "pilot"], env=environment, stdout=log, stderr=log)
    process = psutil.Process(pilot.pid)
    samples: list[tuple[int, float]] = []
    recorded, last_count, finished = 0, 0.0, 0.0
    try:
        while pilot.poll() is None:
            if time.monotonic() - last_count > COUNT_SECONDS:
                last_count = time.monotonic()
                recorded = max([recorded, *(record.nests_done for record in ledger.pilots())])
                if not finished and ledger.counts().open == 0:
                    finished = time.monotonic()
            try:
                samples.append((recorded, process.memory_info().rss / 2**20))
            except psutil.NoSuchProcess:
                break
            time.sleep(SAMPLE_SECONDS)
    finally:
        pilot.kill()
        pilot.wait()
    ended = time.monotonic()
    log.seek(0)
    said = log.read()
    done = sum(item.nests_done for item in ledger.items())
    if pilot.returncode or done != options.nests // options.items * options.items:
        print(said[-3000:], file=sys.stderr)
        print(f"the pilot left with {pilot.returncode}; {done} of {options.nests} nests are done", file=sys.stderr)
        return 1
    return tell(samples, options, server, root, said, ended - started, ended - (finished or ended))


def root_flow_run(server: PrefectServer) -> str:
    """A flow run for the pilot to be a child of."""
    with httpx.Client(base_url=server.api_url, timeout=30, trust_env=False) as http:
        flow = http.post("/flows/", json={"name": "benchmark"}).json()["id"]
        state = {"type": "RUNNING", "name": "Running"}
        return str(http.post("/flow_runs/", json={"flow_id": flow, "state": state}).json()["id"])


def shown(server: PrefectServer, root: str) -> tuple[str, dict[str, int]]:
    """State of the pilot's flow run, and its task runs by state, once the server has caught up."""
    with httpx.Client(base_url=server.api_url, timeout=30, trust_env=False) as http:
        below = {"parent_flow_run_id": {"any_": [root]}}
        (pilot,) = http.post("/flow_runs/filter", json={"flow_runs": below}).json()
        mine = {"flow_runs": {"id": {"any_": [pilot["id"]]}}}
        before, now = -1, 0
        while before != now:
            time.sleep(3)
            before, now = now, http.post("/task_runs/count", json=mine).json()
        told = {}
        for name in ("COMPLETED", "FAILED", "RUNNING", "PENDING"):
            wanted = mine | {"task_runs": {"state": {"type": {"any_": [name]}}}}
            told[name] = http.post("/task_runs/count", json=wanted).json()
        return pilot["state_name"] + ": " + (pilot["state"]["message"] or ""), told


def tell(
    samples: list[tuple[int, float]],
    options: argparse.Namespace,
    server: PrefectServer,
    root: str,
    said: str,
    seconds: float,
    leaving_seconds: float,
) -> int:
    """Print conditions, table and verdicts."""
    import prefect

    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(
        f"python {platform.python_version()}, prefect {prefect.__version__}, {os.cpu_count()} cpus, load {load}, SQLite"
    )
    print(f"{options.nests} nests in {options.items} items, {options.slots} slots, prefect_detail {options.detail}")
    print(f"{seconds:.0f} s ({options.nests / seconds:.0f} nests/s)")
    print(f"{'nests recorded':>15} {'resident MB':>12}")
    step = max(1, options.nests // 10)
    for edge in range(0, options.nests + 1, step):
        at = [size for done, size in samples if edge <= done < edge + step]
        if at:
            print(f"{edge:>15} {max(at):>12.1f}")
    for line in said.splitlines():
        if "Prefect:" in line:
            print(f"the pilot said: {line.strip()}")
    state, counted = shown(server, root)
    print(f"flow run: {state}")
    print("task runs on the server: " + ", ".join(f"{count} {name.lower()}" for name, count in counted.items()))
    peak = max(size for _, size in samples)
    early = [size for done, size in samples if done <= FIRST_NESTS]
    late = [size for done, size in samples if done > FIRST_NESTS]
    growth = max(late) - max(early) if late and early else 0.0
    verdicts = [
        (f"peak {peak:.1f} MB (at most {LIMIT_MB:.0f})", peak <= LIMIT_MB),
        (f"growth after the first {FIRST_NESTS} nests {growth:.1f} MB (at most {GROWTH_MB:.0f})", growth <= GROWTH_MB),
        (
            f"gone {leaving_seconds:.1f} s (± {COUNT_SECONDS:.0f} s) after nothing was left (at most {EXIT_SECONDS:.0f} s)",
            leaving_seconds <= EXIT_SECONDS,
        ),
    ]
    for text, good in verdicts:
        print(f"{text}: {'ok' if good else 'TOO MUCH'}")
    return 0 if all(good for _, good in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
