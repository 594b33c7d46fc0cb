"""A chain of no-op steps on the local cloud as a process of its own, to be killed; and the same steps for the test.

    python chain_process.py NAME FOLDER

A nest of step STEP ends as soon as FOLDER/go-STEP exists.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from driver_support import QUICK

from pyanamo_core.aws import Clients
from pyanamo_core.chain import AwsTables, Chain, Plan, Step, plainly
from pyanamo_core.fleet import watch
from pyanamo_core.ledger import open_ledger
from pyanamo_core.model import Definition, State
from pyanamo_core.sheet import SheetRow, read_sheet
from pyanamo_core.workflow import Buckets, Workflow

STEPS = ("call", "gather", "joint", "concat")
SAMPLES = ("S0", "S1")
REGIONS = ("r0", "r1")


def chain(clients: Clients, name: str, folder: Path) -> Chain:
    """call (two samples), gather (an item for each), joint (two regions) and concat (one item in joint's table)."""

    def script(step: str) -> str:
        return f"bash -c 'until [ -e {folder}/go-{step} ]; do sleep 0.1; done'"

    def workflow(table: str) -> Workflow:
        told: dict[str, Any] = {"queue": name, "job_definition": name, "timing": QUICK, "pilots": 1, "items": 2}
        return Workflow(name=table, buckets=Buckets(results=f"s3://{name}/results"), **told)

    def rows(step: str, item_ids: Sequence[str], made_from: str) -> Plan:
        value = hashlib.sha256(made_from.encode()).hexdigest()[:12]
        definition = Definition(script=script(step), arguments=(value,))
        return Plan([SheetRow(item_id=one, task_id=step, definition=definition, line=1) for one in item_ids])

    def fences(table: str) -> str:
        ledger = open_ledger(clients, table)[0]
        return str(sorted((i.item_id, i.fence) for i in ledger.items(State.DONE) if i.item_id != "cohort"))

    sheet = folder / "sheet.txt"
    sheet.write_text(
        "itemID|TaskID|TaskScript|TaskArgs\n" + "".join(f"{s}|call|{script('call')}|1,2\n" for s in SAMPLES)
    )
    gather, joint = f"{name}-gather", f"{name}-joint"
    return Chain(
        [
            Step("call", workflow(name), sheet=read_sheet(sheet)),
            Step("gather", workflow(gather), lambda _: rows("gather", SAMPLES, fences(name))),
            Step(
                "joint",
                workflow(joint),
                lambda _: rows("joint", REGIONS, fences(gather)),
                owns=lambda one: one != "cohort",
            ),
            Step(
                "concat",
                workflow(joint),
                lambda _: rows("concat", ["cohort"], fences(joint)),
                owns=lambda one: one == "cohort",
            ),
        ],
        AwsTables(clients),
    )


if __name__ == "__main__":
    # Who comes after a killed watcher waits for its lease.
    watch.LEASE_MIN_SECONDS = 2.0
    clients = Clients()
    chain(clients, sys.argv[1], Path(sys.argv[2])).run(plainly(clients), say=print)
