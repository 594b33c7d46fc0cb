"""A run on the ledger in memory and a Batch that stands still: what the fleet's unit tests start from."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from fleet_fake_batch import FakeBatch, FakeClients

from pyanamo_core.clock import FakeClock
from pyanamo_core.fleet.submit import Patience
from pyanamo_core.fleet.watch import Watch
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Claim, Definition, Limits, PilotRecord, Run
from pyanamo_core.workflow import Buckets, Timing, Workflow


class Scene:
    """One table, one queue, one run. `poll_seconds` of the workflow is 10."""

    def __init__(
        self,
        items: int = 0,
        *,
        pilots: int = 4,
        items_per_pilot: int = 1,
        max_failures: int | None = None,
        clients: Callable[[FakeClock], Any] | None = None,
        poll_seconds: float = 10.0,
        **more: Any,
    ):
        """`clients`: made of the clock, instead of the Batch that stands still; `more`: further fields of the workflow."""
        self.clock = FakeClock()
        self.batch = FakeBatch(self.clock)
        self.clients: Any = clients(self.clock) if clients else FakeClients(self.batch)
        self.workflow = Workflow(
            name="seq",
            queue="queue",
            job_definition="definition",
            pilots=pilots,
            items=items_per_pilot,
            buckets=Buckets(results="s3://bucket/seq"),
            timing=Timing(poll_seconds=poll_seconds, beat_seconds=60.0, lease_seconds=180.0),
            **more,
        )
        self.ledger = MemoryLedger(self.workflow.rules, self.clock, random.Random(1))
        version = self.ledger.add_workflow(self.workflow)
        for number in range(items):
            self.ledger.import_item(f"i{number}", "t", Definition(script="true"))
        limits = Limits(max_failures=max_failures, max_pilots=pilots, items_per_pilot=items_per_pilot)
        self.run_id = self.ledger.begin_run(
            Run(
                run_id="run",
                workflow_version=version,
                revision=self.workflow.revision,
                token="seq-0123",
                limits=limits,
                started=self.clock.now(),
            )
        ).run_id
        self.told: list[Any] = []

    @property
    def run(self) -> Run:
        return self.ledger.run(self.run_id)

    def watch(self, watcher: str = "w1", **more: Any) -> Watch:
        return Watch(
            self.clients,
            self.ledger,
            self.run_id,
            self.workflow,
            watcher=watcher,
            clock=self.clock,
            on_progress=more.pop("on_progress", self.told.append),
            patience=more.pop("patience", Patience()),
            **more,
        )

    def polls(self, watch: Watch, times: int = 1, seconds: float = 10.0) -> Any:
        """Poll so many times, that long apart; the outcome if there is one."""
        for _ in range(times):
            outcome = watch.poll()
            if outcome is not None:
                return outcome
            self.clock.move(seconds)
        return None

    # ------------------------------------------------------------------ pilots by hand

    def pilot(self, name: str, **told: Any) -> PilotRecord:
        standing = self.ledger.pilot(name)
        now = self.clock.now()
        first = {"pilot_id": name, "run_id": self.run_id, "started": now, "host": "h1"}
        base: dict[str, Any] = standing.model_dump() if standing else first
        record = PilotRecord.model_validate(base | {"last_beat": now} | told)
        self.ledger.put_pilot(record)
        return record

    def claim(self, item_id: str, pilot: str) -> Claim:
        claim = self.ledger.claim(item_id, pilot, run_id=self.run_id)
        assert claim is not None
        return claim

    def finish(self, item_id: str, pilot: str = "p") -> None:
        self.ledger.finish(self.claim(item_id, pilot), nests_done=1)

    def finish_all(self) -> None:
        for item_id in [item.item_id for item in self.ledger.items() if item.state == "todo"]:
            self.finish(item_id)
