"""A table, a workflow and pilots in this process, for tests of the pilot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Definition, Limits, Run
from pyanamo_core.pilot import Pilot, PilotOptions
from pyanamo_core.workflow import Workflow

PATIENCE_SECONDS = 60.0


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> bool:
    """Does it become true in good time?"""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if condition():
            return True
        time.sleep(0.02)
    return bool(condition())


def make_workflow(**more: Any) -> Workflow:
    """A workflow with quick rhythms; dotted names (`timing__sweep_seconds`) set fields of its parts."""
    told: dict[str, Any] = {
        "name": "Seq",
        "queue": "Seq_Queue",
        "job_definition": "Seq_JobDef",
        "items": 1,
        "nests": 2,
        "memory_mb": 1024,
        "buckets": {"results": "s3://results/prefix"},
        "budgets": {"retry_delay_seconds": 0.0},
        "timing": {
            "lease_seconds": 20.0,
            "beat_seconds": 0.5,
            "sweep_seconds": 0.1,
            "start_jitter_seconds": 0.0,
            "host_fault_wait_seconds": 0.1,
        },
    }
    for name, value in more.items():
        part, _, name_in_part = name.partition("__")
        if name_in_part:
            told[part] = {**told.get(part, {}), name_in_part: value}
        else:
            told[name] = value
    return Workflow.model_validate(told)


@dataclass
class World:
    """A ledger in memory with a workflow, and pilots that share a scratch folder."""

    folder: Path
    workflow: Workflow
    ledger: MemoryLedger = field(init=False)
    clients: Any = None

    def __post_init__(self) -> None:
        self.ledger = MemoryLedger(rules=self.workflow.rules)
        self.ledger.add_workflow(self.workflow)

    def add(self, item_id: str, script: str, *values: str) -> None:
        """Import an item."""
        self.ledger.import_item(item_id, "T", Definition(script=script, arguments=values))

    def shell(self, item_id: str, script: str, *values: str) -> None:
        """Import an item whose nests run a shell script, with the nest's value as `$1`."""
        self.add(item_id, f"bash -c '{script}' _", *values)

    def begin_run(self, run_id: str = "r1", **limits: Any) -> None:
        """Begin a run that pins the workflow."""
        version, workflow = self.ledger.workflow()
        self.ledger.begin_run(
            Run(
                run_id=run_id,
                workflow_version=version,
                revision=workflow.revision,
                token=run_id,
                limits=Limits(**limits),
                started=time.time(),
            )
        )

    def pilot(self, run_id: str = "", environ: dict[str, str] | None = None, **options: Any) -> Pilot:
        """A pilot that is not prepared yet."""
        told = PilotOptions(
            table="Seq", run_id=run_id, scratch=self.folder / "scratch", staging=self.folder / "staging", **options
        )
        host = {"PATH": "/usr/bin:/bin", **(environ or {})}
        return Pilot(told, self.clients, ledger=self.ledger, environ=host)

    def work(self, run_id: str = "", **options: Any) -> tuple[int, Pilot]:
        """Let one pilot work until it leaves; its exit code, and it."""
        pilot = self.pilot(run_id, **options)
        pilot.prepare()
        return pilot.work(), pilot

    def begin_work(self, run_id: str = "", **options: Any) -> Working:
        """Let one pilot work in a thread."""
        return Working(self.pilot(run_id, **options))


class Working:
    """A pilot at work in a thread of its own."""

    def __init__(self, pilot: Pilot) -> None:
        self.pilot = pilot
        self.codes: list[int] = []
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        self.pilot.prepare()
        self.codes.append(self.pilot.work())

    def leaves(self) -> int:
        """Wait until it has left; its exit code."""
        self.thread.join(PATIENCE_SECONDS)
        assert not self.thread.is_alive(), "the pilot is still at work"
        return self.codes[0]
