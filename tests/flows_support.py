"""Help for the tests of the flows: a pilot without ledger and AWS that runs as a process of its own, and what Prefect shows."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from pyanamo_core.model import Cause, Claim, Item, NestCall, NestResult, PilotRecord, Run, State


class FakePilot:
    """A pilot that runs `nests` nests of `seconds` each over `slots` slots, and hands back on SIGTERM."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.slots = plan.get("slots", 2)
        self.pilot_id = uuid4().hex
        self.run = Run(
            run_id=plan.get("run_id") or str(uuid4()),
            workflow_version=1,
            token="t",
            prefect_api_url=plan.get("api_url", ""),
            flow_run_id=plan.get("flow_run_id", ""),
            prefect_detail=plan.get("detail", "auto"),
        )
        self.workflow = SimpleNamespace(table_name="Fake", items=1, prefect_detail="auto")
        self.record = PilotRecord(pilot_id=self.pilot_id, array_index=plan.get("index"), batch_attempt=1)
        self.stop = threading.Event()
        self.ran: list[int] = []
        self.signals = 0
        self.told: dict[str, Any] = {}

    def install_signals(self) -> None:
        self.signals += 1
        signal.signal(signal.SIGTERM, lambda *_: self.stop.set())

    def observed_as(self, flow_run_id: str) -> None:
        self.record = self.record.model_copy(update={"flow_run_id": flow_run_id})

    def _call(self, index: int) -> NestResult:
        started = time.time()
        if not self.stop.wait(self.plan.get("seconds", 0.0)):
            self.ran.append(index)
            cause = Cause.TASK_ERROR if index in self.plan.get("failing", []) else Cause.DONE
            return NestResult(cause=cause, exit_code=int(cause is not Cause.DONE), started=started, ended=time.time())
        return NestResult(cause=Cause.DRAINED, started=started, ended=time.time())

    def work(self, executor: Any = None, observer: Any = None) -> int:
        if self.plan.get("suite"):
            self.told |= {"suite": contract(executor), "flow_run_id": self.record.flow_run_id}
            return 0
        pool = ThreadPoolExecutor(self.slots)
        nests = self.plan.get("nests", 4)
        item = Item(item_id=self.plan.get("item", "S1"), task_id="S1", state=State.LOCKED, fence=1, nests=nests)
        if observer:
            observer.claimed(Claim(item=item, pilot_id=self.pilot_id, deadline=time.monotonic() + 600))
        print("working", flush=True)
        open_: set[Future[NestResult]] = set()
        todo = iter(range(nests))
        more = True
        while (more or open_) and not (self.stop.is_set() and not open_):
            while more and len(open_) < self.slots and not self.stop.is_set():
                index = next(todo, None)
                if index is None:
                    more = False
                    break
                nest = NestCall(
                    item_id=item.item_id, task_id="S1", index=index, value=f"v{index}", fence=1, epoch=0, script="true"
                )
                call = partial(self._call, index)
                open_.add(executor.submit(call, nest) if executor else pool.submit(call))
            if self.stop.is_set():
                more = False
            if open_:
                done, open_ = wait(open_, timeout=1.0, return_when=FIRST_COMPLETED)
                for each in done:
                    each.result()
            if self.plan.get("rss") and len(self.ran) in (1, 1000):
                self.told.setdefault(f"rss_{len(self.ran)}", rss_mb())
        code = 75 if self.stop.is_set() else self.plan.get("code", 0)
        self.record = self.record.model_copy(update={"leaving": "drained" if code == 75 else "empty"})
        if observer:
            observer.item_done(item.model_copy(update={"state": State.DONE}))
            observer.leaving(self.record.leaving, code)
        if self.plan.get("raise"):
            raise RuntimeError("the pilot itself failed")
        detail = getattr(executor, "detail", None)
        self.told |= {
            "ran": len(self.ran),
            "twice": len(self.ran) - len(set(self.ran)),
            "code": code,
            "decided": time.time(),
            "flow_run_id": self.record.flow_run_id,
            "signals": self.signals,
            "shown": detail and detail.nests_shown,
            "not_shown": detail and detail.nests_not_shown,
        }
        # The last word of one that Prefect holds up for too long and that ends itself.
        print(json.dumps(self.told), flush=True)
        return code


def contract(executor: Any) -> dict[str, str]:
    """Each test of the executors' suite with this one: "" or what went wrong."""
    import executor_suite

    told: dict[str, str] = {}
    for name in executor_suite.__all__:
        try:
            getattr(executor_suite, name)(executor)
        except BaseException:  # noqa: BLE001 - told to the test
            told[name] = traceback.format_exc()
        else:
            told[name] = ""
    return told


class Api:
    """Prefect's HTTP API, asked without Prefect: what a user's page would show."""

    def __init__(self, url: str) -> None:
        import httpx

        self.url = url
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        give_up = time.monotonic() + 60
        while True:
            answer = self._http.request(method, path, json=body)
            if answer.status_code != 503 or time.monotonic() > give_up:
                answer.raise_for_status()
                return answer.json() if answer.content else None
            time.sleep(0.5)  # SQLite is locked now and then

    def post(self, path: str, **body: Any) -> Any:
        return self._ask("POST", path, body)

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def patch(self, path: str, **body: Any) -> None:
        self._ask("PATCH", path, body)

    def root(self) -> str:
        """A flow run that pilots can be children of."""
        flow = self.post("/flows/", name="root")
        return self.post("/flow_runs/", flow_id=flow["id"], state={"type": "RUNNING", "name": "Running"})["id"]

    def flow_runs(self, **filters: Any) -> list[dict[str, Any]]:
        return self.post("/flow_runs/filter", flow_runs=filters, limit=200)

    def children(self, flow_run_id: str) -> list[dict[str, Any]]:
        return self.flow_runs(parent_flow_run_id={"any_": [flow_run_id]})

    def flow_run(self, flow_run_id: str) -> dict[str, Any]:
        return self.get(f"/flow_runs/{flow_run_id}")

    def task_runs(self, flow_run_id: str) -> list[dict[str, Any]]:
        return self.post("/task_runs/filter", flow_runs={"id": {"any_": [flow_run_id]}}, limit=200)

    def logs(self, flow_run_id: str) -> str:
        found = self.post("/logs/filter", logs={"flow_run_id": {"any_": [flow_run_id]}}, limit=200)
        return "\n".join(each["message"] for each in found)

    def graph(self, flow_run_id: str) -> list[tuple[str, str, str]]:
        """(kind, label, state) of what hangs below a flow run in its picture."""
        nodes = self.get(f"/flow_runs/{flow_run_id}/graph-v2")["nodes"]
        return sorted((node["kind"], node["label"], node["state_type"]) for _, node in nodes)


WORKFLOW = """
name: {name}
queue: {name}
job_definition: {name}
pilots: {pilots}
items: 1
nests: 2
memory_mb: 512
timing:
  lease_seconds: {lease}
  beat_seconds: {beat}
  sweep_seconds: 0.3
  poll_seconds: 0.5
  start_jitter_seconds: 0
buckets:
  results: s3://{name}/results
"""


class Place:
    """A workflow of its own on the local cloud, with files as a user has them; pilots are `pyanamo pilot` of this Python."""

    def __init__(self, cloud: Any, name: str, folder: Path, *, pilots: int = 2, lease: float = 20.0) -> None:
        from pyanamo_core.local.provision import ensure_compute

        self.cloud, self.name, self.folder, self.clients = cloud, name, folder, cloud.clients()
        command = (sys.executable, "-m", "pyanamo", "pilot")
        ensure_compute(self.clients, name, name, command=command, memory=512, buckets=[name])
        self.workflow = folder / "workflow.yaml"
        self.workflow.write_text(WORKFLOW.format(name=name, pilots=pilots, lease=lease, beat=lease / 5))

    @property
    def gate(self) -> Path:
        return self.folder / "go"

    def open_gate(self) -> None:
        """Let the nests end that wait for it."""
        self.gate.touch()

    def sheet(self, items: int, nests: int = 2, *, held: bool = False) -> Path:
        """A sheet whose nests end at once, or (`held`) when the gate is opened."""
        path = self.folder / "sheet.txt"
        script = f"bash -c 'until [ -e {self.gate} ]; do sleep 0.2; done'" if held else "true"
        values = ",".join(str(nest) for nest in range(nests))
        rows = "".join(f"item-{number}|wait|{script}|{values}\n" for number in range(items))
        path.write_text("itemID|TaskID|TaskScript|TaskArgs\n" + rows)
        return path

    def fill(self, items: int, nests: int = 2, *, held: bool = False) -> Any:
        """Table, workflow version and items; the ledger."""
        from pyanamo_core import driver
        from pyanamo_core.importer import import_sheet
        from pyanamo_core.ledger import open_ledger
        from pyanamo_core.sheet import read_sheet
        from pyanamo_core.workflow_file import read_workflow

        driver.provision(self.clients, read_workflow(self.workflow))
        ledger = open_ledger(self.clients, self.name)[0]
        import_sheet(ledger, read_sheet(self.sheet(items, nests, held=held)))
        return ledger

    @property
    def ledger(self) -> Any:
        from pyanamo_core.ledger import open_ledger

        return open_ledger(self.clients, self.name)[0]

    def jobs(self) -> list[str]:
        """Status of every job and child that was ever submitted to the queue, by Batch's word."""
        batch = self.clients.client("batch")
        asked = {"jobQueue": self.name, "filters": [{"name": "JOB_NAME", "values": ["*"]}]}
        parents = batch.list_jobs(**asked)["jobSummaryList"]
        return [each["status"] for each in parents]

    def pilots_gone(self) -> bool:
        return all(status in ("SUCCEEDED", "FAILED") for status in self.jobs())


def eventually(look: Any, enough: Any = bool, seconds: float = 120.0) -> Any:
    """What `look()` gives as soon as it is enough; Prefect writes down in batches, some time later. Fails in the end."""
    give_up = time.monotonic() + seconds
    while True:
        seen = look()
        if enough(seen):
            return seen
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {seconds:.0f} s; last seen: {seen!r}")
        time.sleep(0.2)


def rss_mb() -> float:
    """Resident memory of this process now, in MB."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Run a fake pilot as `pyanamo pilot` would, and tell how it went as the last line of standard output."""
    pilot = FakePilot(json.loads(sys.argv[1]))
    pilot.install_signals()
    from pyanamo_flows import pilot as observed

    # What is shown is tested here, not how fast a machine full of tests is.
    observed.LOCAL_REGISTRATION_SECONDS = 120.0
    try:
        code = observed.run_observed(pilot)
    except RuntimeError as error:
        pilot.told["raised"] = str(error)
        code = 1
    pilot.told |= {"returned": code, "prefect": "prefect" in sys.modules, "rss": rss_mb()}
    print(json.dumps(pilot.told), flush=True)
    os._exit(code)


if __name__ == "__main__":
    main()
