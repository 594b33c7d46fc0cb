"""A chain on ledgers in memory: call → gather → joint → concat → report, with steps that only know fences and hashes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from pyanamo_core import driver
from pyanamo_core.chain import Chain, Opened, Plan, Step
from pyanamo_core.chain.running import next_run_id
from pyanamo_core.clock import FakeClock
from pyanamo_core.fleet.progress import Outcome
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Definition, Mode, Nest, NestStatus, Run, State
from pyanamo_core.revision import check_version
from pyanamo_core.sheet import SheetRow
from pyanamo_core.workflow import Buckets, Workflow


class Killed(BaseException):
    """The process of the chain is gone."""


class World:
    """Tables, objects and pilots of one cohort. `die_at`: the effect (from 0) at which the chain is killed, if at all."""

    def __init__(self, samples: int = 3, regions: int = 2) -> None:
        self.clock = FakeClock()
        self.tables: dict[str, MemoryLedger] = {}
        self.objects: dict[str, bytes] = {}
        self.regions = regions
        self.broken: set[str] = set()
        """Items whose nests fail."""
        self.ran: list[str] = []
        """What pilots did, in order: `table/item`."""
        self.begun: list[str] = []
        """Tables in the order in which runs were begun for them."""
        self.said: list[str] = []
        self.reported: float | None = None
        self.effects = 0
        self.die_at: int | None = None
        self.parameters: dict[str, str] = {}
        call = self.ledger("Calls")
        for number in range(samples):
            call.import_item(f"S{number}", "call", Definition(script="call", arguments=("l1", "l2")))

    def effect(self) -> None:
        """Something is about to happen outside; the place to die."""
        if self.effects == self.die_at:
            raise Killed
        self.effects += 1

    def ledger(self, table: str) -> MemoryLedger:
        if table not in self.tables:
            self.tables[table] = MemoryLedger(clock=self.clock, rng=random.Random(table), table=table)
        return self.tables[table]

    # ------------------------------------------------------------------ tables, as the chain sees them

    def open(self, table: str) -> Opened | None:
        if table not in self.tables or not self.tables[table].workflow_versions():
            return None
        return Opened(self.tables[table], *self.tables[table].workflow())

    def provision(self, step: Step, *, new_revision: bool) -> Opened:
        self.effect()
        ledger = self.ledger(step.table)
        check_version(ledger, step.workflow.revision, new_revision=new_revision)
        ledger.add_workflow(step.workflow)
        self.effect()
        return Opened(ledger, *ledger.workflow())

    # ------------------------------------------------------------------ the steps

    def workflow(self, table: str) -> Workflow:
        told: dict[str, Any] = {"queue": "q", "job_definition": "d", "buckets": Buckets(results="s3://bucket/c")}
        return Workflow(name=table, parameters=self.parameters if table != "Calls" else {}, **told)

    def fences(self, table: str, owns: Callable[[str], bool] = lambda _: True) -> str:
        """Who made what the done items of a table are."""
        done = sorted(f"{i.item_id}:{i.fence}" for i in self.ledger(table).items(State.DONE) if owns(i.item_id))
        return ",".join(done)

    def row(self, item_id: str, content: str) -> tuple[SheetRow, str, bytes]:
        name = f"s3://bucket/plans/{item_id}.{hashlib.sha256(content.encode()).hexdigest()[:12]}.json"
        definition = Definition(script="work", arguments=(name,))
        return SheetRow(item_id=item_id, task_id="t", definition=definition, line=1), name, content.encode()

    def plan(self, told: dict[str, str], store: bool, table: str) -> Plan:
        # Pilots of a live run find plans as they were when it began.
        assert not (store and self.ledger(table).live_runs()), f"a plan of {table} written beside a live run"
        made = [self.row(item_id, content) for item_id, content in told.items()]
        for _, name, content in made if store else ():
            self.effect()
            self.objects[name] = content
        return Plan([row for row, _, _ in made])

    def gather_plan(self, store: bool) -> Plan:
        done = self.ledger("Calls").items(State.DONE)
        return self.plan({item.item_id: f"{item.item_id} {item.fence}" for item in done}, store, "Calls-gather")

    def joint_plan(self, store: bool) -> Plan:
        return self.plan(
            {f"r{n}": f"r{n} {self.fences('Calls-gather')}" for n in range(self.regions)}, store, "Calls-joint"
        )

    def concat_plan(self, store: bool) -> Plan:
        return self.plan({"cohort": self.fences("Calls-joint", lambda one: one != "cohort")}, store, "Calls-joint")

    def report(self) -> str:
        self.effect()
        self.reported = self.clock.now()
        return "written"

    def chain(self, **how: Any) -> Chain:
        joint = self.workflow("Calls-joint")
        steps = [
            Step("call", self.workflow("Calls")),
            Step("gather", self.workflow("Calls-gather"), self.gather_plan),
            Step("joint", joint, self.joint_plan, owns=lambda one: one != "cohort"),
            Step("concat", joint, self.concat_plan, owns=lambda one: one == "cohort"),
            Step("report", joint, act=self.report, made=lambda: self.reported),
        ]
        return Chain(steps, self, **how)

    def run(self, *, first: str = "", last: str = "", **how: Any) -> Any:
        return self.chain(**how).run(self.work, first=first, last=last, say=self.said.append)

    # ------------------------------------------------------------------ pilots

    def work(self, step: Step, opened: Opened, live: Run | None) -> Outcome:
        """A run by one pilot, to its end."""
        self.effect()
        ledger: Any = opened.ledger
        if live is None:
            run_id = next_run_id(ledger, step.table)
            live = driver.begin_or_join(ledger, opened.version, opened.workflow, run_id=run_id, clock=self.clock)
            self.begun.append(step.table)
        run = live
        if run.ended is not None:
            return Outcome(run, ledger.counts(), run.outcome, run.reason)
        self.effect()
        for state in (State.TODO, State.WAITING):
            for item_id in list(ledger.item_ids(state)):
                if ledger.run(run.run_id).mode is Mode.RUN:
                    self.do(ledger, item_id, run.run_id)
                    self.effect()
        modes = {Mode.DRAIN: "drained", Mode.CANCEL: "cancelled"}
        failed = ledger.count(State.FAILED)
        outcome = modes.get(ledger.run(run.run_id).mode) or ("failed" if failed else "completed")
        run = ledger.end_run(run.run_id, outcome)
        self.effect()
        return Outcome(run, ledger.counts(), outcome)

    def do(self, ledger: MemoryLedger, item_id: str, run_id: str) -> None:
        self.clock.move(10.0)
        claim = ledger.claim(item_id, "pilot", run_id=run_id)
        assert claim is not None
        name = f"{ledger.table}/{item_id}"
        self.ran.append(name)
        for uri in ledger.definition(claim.item).arguments:
            # A pilot finds the plan that its item names.
            assert uri in self.objects or not uri.startswith("s3://"), uri
        if name in self.broken or item_id in self.broken:
            ledger.fail(claim, Cause.PERMANENT, "no reads")
            return
        for index in range(claim.item.nests):
            nest = Nest(item_id=item_id, epoch=claim.epoch, index=index, status=NestStatus.DONE, fence=claim.fence)
            # The revision that its run pins, as a pilot does.
            revision = ledger.run(run_id).revision if run_id else ledger.workflow()[1].revision
            ledger.record_nest(claim, nest.model_copy(update={"revision": revision}))
        ledger.finish(claim, nests_done=claim.item.nests)
