"""How much memory a watcher needs, and how much it reads at each poll: one process that watches a run, on a table with few and with many items.

    python benchmarks/watcher_memory.py [--items 100000] [--pilots 1000] [--polls 5] [--ledger dynamodb-local]

Starts a local cloud, fills a table, and lets a process of its own watch a run whose pilots wait in a held queue while
their rows beat. Printed are the resident memory after the first poll and at the end, and the highest ever; and how many entries of the index
its queries read at the first poll, which counts everything, and at the others on average. No test.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.ledger import Ledger, open_ledger, rows
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.local.provision import ensure_compute
from pyanamo_core.model import Definition, Item, PilotRecord, State
from pyanamo_core.workflow import Buckets, Timing, Workflow

LIMIT_MB = 250
FEW = 100
THREADS = 8


def memory_mb(name: str) -> float:
    """`VmRSS` (now) or `VmHWM` (the highest of this program; getrusage would tell that of its parent before exec, too)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def watch(table: str, run_id: str, polls: int) -> None:
    """The process that is measured: `driver.watch`, stopped after so many polls."""
    clients = Clients()
    ledger, _, workflow = open_ledger(clients, table)
    stop, seen, entries, queries = threading.Event(), list[float](), [0], [0]

    def on_answer(parsed: dict[str, Any], **_: Any) -> None:
        entries[-1] += parsed.get("ScannedCount", 0)
        queries[-1] += 1

    clients.client("dynamodb").meta.events.register("after-call.dynamodb.Query", on_answer)

    def on_progress(told: driver.Progress) -> None:
        seen.append(memory_mb("VmRSS"))
        entries.append(0)
        queries.append(0)
        if len(seen) >= polls:
            stop.set()

    began = time.monotonic()
    outcome = driver.watch(
        clients, ledger, run_id, workflow, watcher=driver.watcher_name(), on_progress=on_progress, stop=stop
    )
    print(
        json.dumps(
            {
                "items": outcome.counts.total,
                "polls": len(seen),
                "first_mb": round(seen[0], 1),
                "last_mb": round(seen[-1], 1),
                "peak_mb": round(memory_mb("VmHWM"), 1),
                "entries_first": entries[0],
                "entries_later": round(sum(entries[1 : len(seen)]) / max(1, len(seen) - 1)),
                "queries_first": queries[0],
                "queries_later": round(sum(queries[1 : len(seen)]) / max(1, len(seen) - 1)),
                "seconds_per_poll": round((time.monotonic() - began) / len(seen), 2),
            }
        )
    )


def fill(clients: Clients, ledger: Ledger, items: int) -> None:
    """Put items to do, 25 rows a call: an import of 100,000 on an emulator would take most of the benchmark's time."""
    client, rng = clients.client("dynamodb"), random.Random(1)
    definition = Definition(script="true")

    def put(first: int) -> None:
        requests: list[dict[str, Any]] = []
        for number in range(first, min(first + 25, items)):
            item = Item(
                item_id=f"sample-{number:06d}",
                task_id="bench",
                state=State.TODO,
                definition_hash=definition.hash,
                created=time.time(),
            )
            row = rows.item_row(item, ledger.rules.shards, f"{rng.getrandbits(48):012x}", definition)
            requests.append({"PutRequest": {"Item": row}})
        while requests:
            answer = client.batch_write_item(RequestItems={ledger.table: requests})
            requests = answer.get("UnprocessedItems", {}).get(ledger.table, [])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put, range(0, items, 25)))


def measured(cloud: LocalCloud, name: str, items: int, pilots: int, polls: int) -> dict[str, float]:
    clients = cloud.clients()
    ensure_compute(clients, name, name, buckets=[name])
    cloud.hold(name, "held by the benchmark")
    workflow = Workflow(
        name=name,
        queue=name,
        job_definition=name,
        pilots=pilots,
        buckets=Buckets(results=f"s3://{name}/results"),
        timing=Timing(poll_seconds=0.5, beat_seconds=2, lease_seconds=20),
    )
    done = driver.provision(clients, workflow, deletion_protection=False, pitr=False)
    ledger = Ledger(clients, done.table, rules=workflow.rules)
    fill(clients, ledger, items)
    run = driver.begin(ledger, done.version, workflow)
    run = driver.fan_out(clients, ledger, run, workflow, watcher="benchmark")
    now = time.time()

    def put_pilot(number: int) -> None:
        record = PilotRecord(
            pilot_id=f"pilot-{number}",
            run_id=run.run_id,
            batch_job=f"{run.submissions[0].job_id}:{number}",
            batch_attempt=1,
            host=f"host-{number // 8}",
            started=now,
            last_beat=now + 3600,
            claims=1,
            holding=(f"sample-{number:06d}",),
            last_lines=("a line of what runs",) * 4,
        )
        ledger.put_pilot(record)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put_pilot, range(min(pilots, items))))
    command = [sys.executable, __file__, "--watch", done.table, "--run", run.run_id, "--polls", str(polls)]
    told = subprocess.run(
        command, env=os.environ | cloud.environment(), stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    driver.cancel(clients, ledger, run.run_id)
    return json.loads(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--pilots", type=int, default=1000)
    parser.add_argument("--polls", type=int, default=5)
    parser.add_argument("--ledger", choices=["moto", "dynamodb-local"], default="dynamodb-local")
    parser.add_argument("--watch", help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.watch:
        watch(asked.watch, asked.run, asked.polls)
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        cloud = up(Options(home=home, ledger=asked.ledger, owner=os.getpid()))
        try:
            print(
                f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, ledger {asked.ledger}, {asked.pilots} pilots"
            )
            for items in (FEW, asked.items):
                told = measured(cloud, f"watch-{items}", items, asked.pilots, asked.polls)
                print(
                    f"{told['items']:>9,} items: {told['first_mb']} MB after the first poll, {told['last_mb']} MB after"
                    f" {told['polls']}, highest {told['peak_mb']} MB; {told['entries_first']:,} entries read by"
                    f" {told['queries_first']} queries at the first poll, {told['entries_later']:,} by"
                    f" {told['queries_later']} at later ones ({told['seconds_per_poll']} s a poll);"
                    f" {'within' if told['peak_mb'] <= LIMIT_MB else 'ABOVE'} the limit of {LIMIT_MB} MB"
                )
        finally:
            down(home)


if __name__ == "__main__":
    main()
