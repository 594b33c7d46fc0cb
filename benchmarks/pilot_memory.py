"""Memory of a pilot without Prefect: resident size over 10,000 no-op nests, and how flat it stays after the first 1,000.

    python benchmarks/pilot_memory.py [--nests 10000] [--slots 4] [--store dynamodb-local|moto]

The pilot is a process of its own on a local cloud. Its resident size is read from /proc every half second, with the
nests recorded so far; guardians and tasks are not counted. Prints its conditions, a table, and the verdicts:
at most 130 MB, and at most 20 MB more at the end than after 1,000 nests.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.local import Options, down, up
from pyanamo_core.model import Definition
from pyanamo_core.workflow import Buckets, Timing, Workflow

LIMIT_MB = 130.0
GROWTH_MB = 20.0
FIRST_NESTS = 1000
SAMPLE_SECONDS = 0.5
TABLE = "PilotMemory"


def main() -> int:
    """Run the benchmark; 0 if both limits hold."""
    parser = argparse.ArgumentParser(description="Memory of a pilot without Prefect")
    parser.add_argument("--nests", type=int, default=10_000)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--store", choices=["dynamodb-local", "moto"], default="moto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pilot-memory-") as folder:
        cloud = up(Options(home=Path(folder) / "cloud", ledger=options.store, owner=os.getpid()))
        try:
            return measure(cloud, Path(folder), options.nests, options.slots, options.store)
        finally:
            down(Path(folder) / "cloud")


def measure(cloud: object, folder: Path, nests: int, slots: int, store: str) -> int:
    """One pilot over one item with so many nests."""
    clients = cloud.clients()  # type: ignore[attr-defined]
    clients.client("s3").create_bucket(Bucket="pilot-memory")
    create_table(clients, TABLE, deletion_protection=False, pitr=False)
    workflow = Workflow(
        name=TABLE,
        queue="queue",
        job_definition="definition",
        nests=slots,
        buckets=Buckets(results="s3://pilot-memory/results"),
        timing=Timing(lease_seconds=60, beat_seconds=5, sweep_seconds=0.5, start_jitter_seconds=0),
    )
    ledger = Ledger(clients, TABLE, rules=workflow.rules)
    ledger.add_workflow(workflow)
    values = tuple(f"chr1:{n * 1000 + 1}-{(n + 1) * 1000}" for n in range(nests))
    ledger.import_item("item", "T", Definition(script="bash -c 'echo line $1' _", arguments=values))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        **cloud.environment(),  # type: ignore[attr-defined]
        "PYANAMO_TABLE": TABLE,
        "PYANAMO_SCRATCH": str(folder / "scratch"),
        "PYANAMO_STAGING": str(folder / "staging"),
    }
    log = (folder / "pilot.log").open("w+")
    started = time.monotonic()
    pilot = subprocess.Popen([sys.executable, "-m", "pyanamo_core.pilot"], env=environment, stderr=log)
    samples: list[tuple[int, float]] = []
    told = threading.Event()
    recorded = 0

    def count() -> None:
        nonlocal recorded
        while not told.wait(SAMPLE_SECONDS * 4):
            for record in ledger.pilots():
                recorded = max(recorded, record.nests_done)

    threading.Thread(target=count, daemon=True).start()
    process = psutil.Process(pilot.pid)
    while pilot.poll() is None:
        try:
            samples.append((recorded, process.memory_info().rss / 2**20))
        except psutil.NoSuchProcess:
            break
        time.sleep(SAMPLE_SECONDS)
    told.set()
    seconds = time.monotonic() - started
    item = ledger.item("item")
    if pilot.returncode or item.nests_done != nests:
        log.seek(0)
        print(log.read()[-3000:], file=sys.stderr)
        print(f"the pilot left with {pilot.returncode}, {item.nests_done} of {nests} nests are done", file=sys.stderr)
        return 1
    return tell(samples, nests, slots, store, seconds)


def tell(samples: list[tuple[int, float]], nests: int, slots: int, store: str, seconds: float) -> int:
    """Print conditions, table and verdicts."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"python {platform.python_version()}, {os.cpu_count()} cpus, load {load}, ledger on {store}")
    print(f"{nests} no-op nests, {slots} slots, {seconds:.0f} s ({nests / seconds:.0f} nests/s)")
    print(f"{'nests recorded':>15} {'resident MB':>12}")
    step = max(1, nests // 10)
    for edge in range(0, nests + 1, step):
        at = [size for done, size in samples if edge <= done < edge + step]
        if at:
            print(f"{edge:>15} {max(at):>12.1f}")
    peak = max(size for _, size in samples)
    early = [size for done, size in samples if done <= FIRST_NESTS]
    late = [size for done, size in samples if done > FIRST_NESTS]
    growth = max(late) - max(early) if late else 0.0
    print(f"peak {peak:.1f} MB (at most {LIMIT_MB:.0f}): {'ok' if peak <= LIMIT_MB else 'TOO MUCH'}")
    print(
        f"growth after the first {FIRST_NESTS} nests {growth:.1f} MB (at most {GROWTH_MB:.0f}): "
        f"{'ok' if growth <= GROWTH_MB else 'TOO MUCH'}"
    )
    return 0 if peak <= LIMIT_MB and growth <= GROWTH_MB else 1


if __name__ == "__main__":
    sys.exit(main())
