"""The local Batch with jobs that are no processes, and pilots that are a few lines: fleets of ten thousand on a clock of their own.

The engine is the local cloud's, with its arrays, ceilings, retry rules and held queues; calls go through its API and the
SDK's model of Batch, without a server. A pilot claims, beats, works for a while, and leaves when nothing is left.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from pyanamo_core.clock import FakeClock
from pyanamo_core.errors import LeaseLost
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.local.batch_api import BatchApi
from pyanamo_core.local.compute import ClientException
from pyanamo_core.local.engine import Engine
from pyanamo_core.local.jobs import Array, Job
from pyanamo_core.model import Claim, PilotRecord, State

REGION = "us-east-1"
ARN = f"arn:aws:batch:{REGION}:000000000000:"


@dataclass
class Pretended:
    """An attempt that runs: nothing but its environment."""

    name: str
    environment: Mapping[str, str]
    host: str = ""
    termed: bool = False

    @property
    def job_id(self) -> str:
        return self.environment["AWS_BATCH_JOB_ID"]

    @property
    def attempt(self) -> int:
        return int(self.environment["AWS_BATCH_JOB_ATTEMPT"])


class Pretence:
    """Runs nothing: the engine's runner. Tests end what runs."""

    def __init__(self, on_started: Callable[[str, int], None], on_exited: Callable[[str, int, str], None]) -> None:
        self._on_started, self.on_exited = on_started, on_exited
        self.running: dict[str, Pretended] = {}

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, /
    ) -> None:
        self.running[name] = Pretended(name, environment)
        self._on_started(name, 1)

    def term(self, name: str) -> None:
        if name in self.running:
            self.running[name].termed = True

    def kill(self, name: str) -> None:
        self.end(name, 137)

    def end(self, name: str, code: int, error: str = "") -> None:
        """This attempt has exited."""
        if self.running.pop(name, None) is not None:
            self.on_exited(name, code, error)

    def close(self) -> None: ...


class LocalBatch:
    """The engine behind its API, as clients of Batch see it.

    Attributes:
        calls: of each operation, as Batch counts them.
        faults: by operation what the next calls raise first (None: nothing); a callable decides at each call.
    """

    def __init__(self, home: Path, clock: FakeClock, ceilings: Mapping[str, int]) -> None:
        """`ceilings`: vCPUs of each queue's environment, by the queue's name."""
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, Callable[[], Exception | None]] = {}
        self.ceilings = dict(ceilings)
        self.made: list[Pretence] = []
        self.job_ids: list[str] = []

        def runner(on_started: Any, on_exited: Any) -> Pretence:
            self.made.append(Pretence(on_started, on_exited))
            return self.made[-1]

        clients: Any = lambda region: self  # noqa: E731
        self.engine = Engine(home, "http://127.0.0.1:1", clients, runner=runner, now=clock.now)
        self._api = BatchApi(self.engine, clients)
        self._api.refresh(REGION)

    # ------------------------------------------------------------------ what tests do

    @property
    def jobs(self) -> Pretence:
        return self.made[0]

    def queue_arn(self, name: str) -> str:
        return f"{ARN}job-queue/{name}"

    def settle(self) -> None:
        """Until the engine has decided what follows from every end."""
        assert self.engine.wait_concluded(30)

    def leaves(self) -> list[Job]:
        """Every pilot that was ever submitted."""
        found = [self.engine.get(job_id) for job_id in self.job_ids]
        return [leaf for job in found if job for leaf in (job.children if isinstance(job, Array) else [job])]

    def live(self, queue: str = "") -> int:
        """Pilots that wait or run, by Batch itself."""
        return sum(not leaf.ended and queue in ("", leaf.plan.queue_name) for leaf in self.leaves())

    # ------------------------------------------------------------------ clients of it

    def client(self, service: str, region: str | None = None) -> Any:
        return self

    def once(self, service: str = "batch") -> Any:
        return self

    def get_paginator(self, name: str) -> Any:
        return _Pages(getattr(self, name))

    def _call(self, operation: str, asked: dict[str, Any]) -> dict[str, Any]:
        self.calls[operation] += 1
        fault = self.faults.get(operation, lambda: None)()
        if fault is not None:
            raise fault
        try:
            return self._api.answer(operation, json.dumps(asked).encode(), REGION)
        except ClientException as error:
            told: Any = {
                "Error": {"Code": "ClientException", "Message": str(error)},
                "ResponseMetadata": {"HTTPStatusCode": 400},
            }
            raise ClientError(told, operation) from error

    def submit_job(self, **asked: Any) -> dict[str, Any]:
        told = self._call("SubmitJob", asked)
        self.job_ids.append(told["jobId"])
        return told

    def describe_jobs(self, **asked: Any) -> dict[str, Any]:
        return self._call("DescribeJobs", asked)

    def list_jobs(self, **asked: Any) -> dict[str, Any]:
        return self._call("ListJobs", asked)

    def cancel_job(self, **asked: Any) -> dict[str, Any]:
        return self._call("CancelJob", asked)

    def terminate_job(self, **asked: Any) -> dict[str, Any]:
        return self._call("TerminateJob", asked)

    def describe_job_queues(self, **asked: Any) -> dict[str, Any]:
        wanted = asked.get("jobQueues", list(self.ceilings))
        return {
            "jobQueues": [
                {
                    "jobQueueName": name,
                    "jobQueueArn": self.queue_arn(name),
                    "priority": 1,
                    "state": "ENABLED",
                    "status": "VALID",
                    "computeEnvironmentOrder": [{"order": 1, "computeEnvironment": f"{name}-machines"}],
                }
                for name in self.ceilings
                if name in wanted
            ]
        }

    def describe_compute_environments(self, **asked: Any) -> dict[str, Any]:
        wanted = asked.get("computeEnvironments", [f"{name}-machines" for name in self.ceilings])
        return {
            "computeEnvironments": [
                {
                    "computeEnvironmentArn": f"{ARN}compute-environment/{name}-machines",
                    "computeEnvironmentName": f"{name}-machines",
                    "state": "ENABLED",
                    "status": "VALID",
                    "computeResources": {"maxvCpus": ceiling},
                }
                for name, ceiling in self.ceilings.items()
                if f"{name}-machines" in wanted
            ]
        }

    def describe_job_definitions(self, **asked: Any) -> dict[str, Any]:
        told = {
            "jobDefinitionName": "definition",
            "jobDefinitionArn": f"{ARN}job-definition/definition:1",
            "revision": 1,
            "status": "ACTIVE",
            "containerProperties": {"image": "i", "command": ["pyanamo", "pilot"], "vcpus": 1, "memory": 512},
        }
        return {"jobDefinitions": [told]}

    def get_log_events(self, **asked: Any) -> dict[str, Any]:
        return {"events": []}


@dataclass
class _Pages:
    call: Callable[..., dict[str, Any]]

    def paginate(self, **asked: Any) -> Any:
        asked = dict(asked)
        told = asked.pop("PaginationConfig", {})
        if told.get("PageSize"):
            asked["maxResults"] = told["PageSize"]
        left = told.get("MaxItems", 10**9)
        while True:
            page = self.call(**asked)
            yield page
            left -= len(page.get("jobSummaryList", ()))
            if "nextToken" not in page or left <= 0:
                return
            asked["nextToken"] = page["nextToken"]


@dataclass
class Worker:
    """A pilot that works: what it holds, until when, and its row."""

    record: PilotRecord
    queue: str
    claim: Claim | None = None
    done_at: float = 0.0
    beat_at: float = 0.0
    idle: int = 0
    leaves_at: float = 0.0


@dataclass
class Workers:
    """Every attempt that runs is a pilot. `step` lets each do what is due by now.

    Attributes:
        seconds: that an item takes, by its id.
        sick: what a pilot that starts dies of at once, by its environment: (exit code, error), or None.
    """

    batch: LocalBatch
    ledger: MemoryLedger
    clock: FakeClock
    run_id: str
    seconds: Callable[[str], float] = lambda item_id: 600.0
    sick: Callable[[Pretended], tuple[int, str] | None] = lambda pretended: None
    working: dict[str, Worker] = field(default_factory=dict[str, Worker])
    began: Counter[str] = field(default_factory=Counter[str])
    """How often each item was claimed."""
    calm: str = "calm"
    """The on-demand queue."""
    where: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The queues of the pilots that claimed each item."""

    def step(self) -> None:
        jobs, now = self.batch.jobs, self.clock.now()
        while True:
            fresh = [one for name, one in list(jobs.running.items()) if name not in self.working]
            ill = [(one, told) for one in fresh if (told := self.sick(one)) is not None]
            for one in fresh:
                if one not in [each for each, _ in ill]:
                    self.working[one.name] = self._arrive(one, now)
            for one, (code, error) in ill:
                jobs.end(one.name, code, error)
            self.batch.settle()
            if not ill:
                break
        for name, worker in list(self.working.items()):
            pretended = jobs.running.get(name)
            if pretended is None:  # its host is gone, without a word
                del self.working[name]
            elif pretended.termed:
                self._leave(name, worker, "drained: signal 15", 75, now)
            else:
                try:
                    self._work(name, worker, now)
                except LeaseLost:  # it beat too late: somebody else may have it
                    worker.claim = None
        self.batch.settle()

    def _arrive(self, one: Pretended, now: float) -> Worker:
        record = PilotRecord(
            pilot_id=f"p-{one.name}",
            run_id=self.run_id,
            batch_job=one.job_id,
            batch_attempt=one.attempt,
            host=one.name,
            started=now,
            last_beat=now,
        )
        self.ledger.put_pilot(record)
        return Worker(record, one.environment["AWS_BATCH_JQ_NAME"])

    def _work(self, name: str, worker: Worker, now: float) -> None:
        if worker.claim is not None:
            if now >= worker.beat_at:
                told = self.ledger.beat(worker.claim, progressed=False, nests_done=0, nests_failed=0)
                worker.claim = worker.claim.model_copy(update={"deadline": told.deadline})
                self._tell(worker, now)
                worker.beat_at = now + 60
            if now < worker.done_at:
                return
            self.ledger.finish(worker.claim, nests_done=1)
            worker.claim = None
        run = self.ledger.run(self.run_id)
        claim = self._claim(worker) if run.mode == "run" else None
        if claim is None:
            worker.idle += 1
            if worker.idle >= 3 or run.mode != "run":
                self._leave(name, worker, "empty" if run.mode == "run" else "drained", 0, now)
            return
        self.began[claim.item_id] += 1
        worker.claim, worker.idle = claim, 0
        worker.done_at, worker.beat_at = now + self.seconds(claim.item_id), now + 60
        self._tell(worker, now, claims=worker.record.claims + 1)

    def _claim(self, worker: Worker) -> Claim | None:
        for on_demand in (True, False) if worker.queue == self.calm else (False,):
            for state in (State.TODO, State.WAITING, State.LOCKED):
                for shard in range(self.ledger.rules.shards):
                    for item_id in self.ledger.candidates(state, shard, limit=3, on_demand=on_demand):
                        claim = self.ledger.claim(
                            item_id, worker.record.pilot_id, run_id=self.run_id, on_demand=on_demand
                        )
                        if claim is not None:
                            self.where[item_id].append(worker.queue)
                            return claim
        return None

    def _tell(self, worker: Worker, now: float, **more: Any) -> None:
        worker.record = worker.record.model_copy(update={"last_beat": now} | more)
        self.ledger.put_pilot(worker.record)

    def _leave(self, name: str, worker: Worker, why: str, code: int, now: float) -> None:
        if worker.claim is not None:
            self.ledger.hand_back(worker.claim, "drained", progressed=False, started=True, counts=False)  # type: ignore[arg-type]
        self._tell(worker, now, ended=now, leaving=why, exit_code=code)
        del self.working[name]
        self.batch.jobs.end(name, code)
