"""A workflow of its own on the local cloud: queue, definition, table, sheet; pilots are `pyanamo pilot` of this very Python."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyanamo_core import driver
from pyanamo_core.ledger import Ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.local.provision import ensure_compute
from pyanamo_core.model import NestStatus, Run
from pyanamo_core.sheet import Sheet, read_sheet
from pyanamo_core.workflow import Buckets, Timing, Workflow

PILOT = (str(Path(sys.executable).with_name("pyanamo")), "pilot")
HEADER = "itemID|TaskID|TaskScript|TaskArgs\n"
QUICK = Timing(
    lease_seconds=6,
    beat_seconds=1.5,
    sweep_seconds=0.5,
    poll_seconds=0.5,
    start_jitter_seconds=0,
    host_fault_wait_seconds=1,
)
WAIT_SECONDS = 90.0


class Place:
    """What one test has for itself on the shared cloud."""

    def __init__(self, cloud: LocalCloud, name: str, folder: Path, *, command: Sequence[str] = PILOT, **compute: Any):
        self.cloud, self.name, self.folder = cloud, name, folder
        self.clients = cloud.clients()
        ensure_compute(self.clients, name, name, command=command, buckets=[name], **compute)

    def workflow(self, *, timing: Timing = QUICK, **more: Any) -> Workflow:
        told: dict[str, Any] = {"pilots": 2, "items": 1, "nests": 1} | more
        return Workflow(
            name=self.name,
            queue=self.name,
            job_definition=self.name,
            buckets=Buckets(results=f"s3://{self.name}/results"),
            timing=timing,
            **told,
        )

    def sheet(self, lines: Sequence[str]) -> Sheet:
        path = self.folder / "sheet.txt"
        path.write_text(HEADER + "".join(line + "\n" for line in lines))
        return read_sheet(path)

    def filled(self, workflow: Workflow, lines: Sequence[str]) -> tuple[Ledger, int]:
        """Table and workflow made, sheet imported."""
        from pyanamo_core.importer import import_sheet

        done = driver.provision(self.clients, workflow)
        ledger = Ledger(self.clients, done.table, rules=workflow.rules)
        import_sheet(ledger, self.sheet(lines), revision=workflow.revision)
        return ledger, done.version

    def jobs(self, run: Run) -> list[dict[str, Any]]:
        """The run's jobs by their names, whatever its row says."""
        asked = {"jobQueue": self.name, "filters": [{"name": "JOB_NAME", "values": [f"{run.token}*"]}]}
        return self.clients.client("batch").list_jobs(**asked)["jobSummaryList"]

    def live_jobs(self, run: Run) -> list[str]:
        return [job["jobId"] for job in self.jobs(run) if job["status"] not in ("SUCCEEDED", "FAILED")]


def sleeping(items: int, seconds: float = 1, nests: int = 1) -> list[str]:
    """Lines of a sheet whose nests sleep."""
    args = ",".join(
        f"{seconds}{'0' * nest if '.' in str(seconds) else '.' + '0' * nest}" for nest in range(1, nests + 1)
    )
    return [f"item-{number}|sleep|sleep|{args}" for number in range(items)]


def wait_for(what: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    """Ask until the answer is true; fails after so many seconds."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        answer = what()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} s: {what}")


def recorded_once(ledger: Ledger) -> None:
    """Each item is done, and each nest of its epoch has exactly one row that says so."""
    for item in ledger.items():
        nests = ledger.nests(item)
        assert item.state == "done", item
        assert sorted(nests) == list(range(item.nests))
        assert {nest.status for nest in nests.values()} == {NestStatus.DONE}
