"""What a test with real containers has for itself: a bucket, a folder, a shell that leads to the cloud, and a look at jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from container_support import IMAGE, containers_of

from pyanamo_core.aws import Clients
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.local.docker import connect
from pyanamo_core.model import State

QUEUE, DEFINITION = "HaplotypeCaller_Queue", "HaplotypeCaller_JobDef"
QUICK = {
    "lease_seconds": 60,
    "beat_seconds": 5,
    "sweep_seconds": 0.5,
    "poll_seconds": 1,
    "start_jitter_seconds": 0,
    "host_fault_wait_seconds": 2,
}


def eventually(look: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """What `look` finds, as soon as it finds something."""
    give_up = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < give_up, what
        time.sleep(0.3)
    return found


class Site:
    """A bucket, a folder and a shell that leads to the cloud."""

    def __init__(self, cloud: LocalCloud, engine: str, name: str, folder: Path) -> None:
        self.cloud, self.engine, self.name, self.folder = cloud, engine, name, folder
        self.clients: Clients = cloud.clients()
        self.s3 = self.clients.client("s3")
        self.s3.create_bucket(Bucket=name)
        self.started: list[subprocess.Popen[str]] = []
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
            **cloud.environment(),
        }

    def starts(self, *words: str) -> subprocess.Popen[str]:
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-m", "pyanamo", *words],
                cwd=self.folder,
                env=self.environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return self.started[-1]

    def types(self, *words: str, code: int = 0) -> str:
        with self.starts(*words) as running:
            out, err = running.communicate(timeout=600)
        assert running.returncode == code, f"{words}: {running.returncode}\n{out}\n{err}"
        return out

    def write_workflow(self, **more: Any) -> None:
        told = {
            "name": self.name,
            "queue": QUEUE,
            "job_definition": DEFINITION,
            "image": IMAGE,
            "timing": QUICK,
            "vcpus": 1,
            "memory_mb": 2600,
            "buckets": {"results": f"s3://{self.name}/results", "inputs": [{"bucket": self.name}]},
        }
        (self.folder / "workflow.yaml").write_text(yaml.safe_dump(told | more))

    @property
    def ledger(self) -> Ledger:
        return open_ledger(self.clients, self.name)[0]

    def pilot_of(self, item: str) -> str:
        """Batch's job of the pilot that holds an item, "" if none does."""
        held = self.ledger.item(item)
        if held.state is not State.LOCKED or not held.owner:
            return ""
        pilot = self.ledger.pilot(held.owner)
        return pilot.batch_job if pilot else ""

    def hanging_in(self, item: str) -> str:
        """The container in which the item's first attempt sleeps, "" if it does not yet."""
        container = containers_of(self.engine).get(self.pilot_of(item), "")
        if container and "sleep 3599" in json.dumps(connect(self.engine).top(container)):
            return container
        return ""

    def job(self, job_id: str) -> Any:
        return self.clients.client("batch").describe_jobs(jobs=[job_id])["jobs"][0]

    def holder_of(self, folder: Path) -> str:
        """The container whose process holds a lock in a host's folder; the others wait for it. "" if none does."""
        inodes = {str(lock.stat().st_ino) for lock in folder.glob("*.lock")}
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "->" not in words and words[1] == "FLOCK" and words[5].rpartition(":")[2] in inodes:
                group = Path(f"/proc/{words[4]}/cgroup").read_text()
                for container in containers_of(self.engine).values():
                    if container in group:
                        return container
        return ""
