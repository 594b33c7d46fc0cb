"""Batch as processes of this machine, or as its containers: queues, ceilings, attempts, retries, time-outs, ends.

    SubmitJob → RUNNABLE → (room under the environment's ceiling) → STARTING → RUNNING → SUCCEEDED | FAILED
                   ↑______________________ retry strategy says RETRY ______________|

One lock guards all jobs. Three threads work: the launcher's reader (starts and ends of processes; one for each container
where there is a Docker engine), `timers` (time-outs, KILL after TERM) and `logs` (ships output, then concludes attempts,
so that a job that has ended has its log).
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from pyanamo_core.aws import Clients
from pyanamo_core.local.capacity import TOO_BIG, Capacity, Place
from pyanamo_core.local.compute import Compute, Queue
from pyanamo_core.local.container import container_environment, job_command, job_environment
from pyanamo_core.local.docker import OUT_OF_MEMORY, Containers
from pyanamo_core.local.jobs import STARTED, Array, Attempt, Job, Plan
from pyanamo_core.local.logs import Tail, send
from pyanamo_core.local.processes import Processes
from pyanamo_core.local.retry import is_tried_again
from pyanamo_core.local.timers import Timers

SHIP_SECONDS: Final = 2.0
CLOSE_SECONDS: Final = 5.0
ENDED_ITSELF: Final = "Essential container in task exited"
TIMED_OUT: Final = "Job attempt duration exceeded timeout"
NOT_STARTED: Final = "Task failed to start"

KILLED_CODE: Final = 137

Stop = Literal["", "timeout", "terminated", "host", "memory"]
log = logging.getLogger(__name__)


@dataclass
class Running:
    """An attempt with a process."""

    name: str
    job: Job
    attempt: Attempt
    place: Place
    folder: Path
    tail: Tail
    stop: Stop = ""
    reason: str = ""
    spot_notice: float = 0.0
    left: bool = False


@dataclass
class Line:
    """A queue's jobs that wait, and why they are held, if they are."""

    queue: Queue
    waiting: deque[Job] = field(default_factory=deque[Job])
    held: str = ""
    unstartable: str = ""
    """Why no container of this queue starts; empty: they do."""


class Runner(Protocol):
    """What runs a job's main process; told of its start and end, the engine decides what follows."""

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, /
    ) -> None: ...
    def term(self, name: str) -> None: ...
    def kill(self, name: str) -> None: ...
    def close(self) -> None: ...


OnStarted = Callable[[str, int], None]
OnExited = Callable[[str, int, str], None]


class Engine:
    """The local Batch.

    Args:
        home: the cloud's state folder.
        endpoint: where this cloud is; jobs get it as AWS_ENDPOINT_URL.
        clients: gives clients of a region that no misbehaviour touches, for logs.
        stop_seconds: between TERM and KILL (Batch: 30).
        runner: makes what runs the jobs, from what it calls at their starts and ends; None: processes of this machine.
        now: seconds since 1970.
    """

    def __init__(
        self,
        home: Path,
        endpoint: str,
        clients: Callable[[str], Clients],
        *,
        stop_seconds: float = 30.0,
        runner: Callable[[OnStarted, OnExited], Runner] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._endpoint, self._clients, self._stop_seconds = home, endpoint, clients, stop_seconds
        self._clock = now
        self._lock = threading.RLock()
        self._jobs: dict[str, Job | Array] = {}
        self._arrays_of: dict[str, Array] = {}
        self._lines: dict[str, Line] = {}
        self._compute: dict[str, Compute] = {}
        self._capacity = Capacity()
        self._running: dict[str, Running] = {}
        self._by_job: dict[str, Running] = {}
        self._ends: queue.SimpleQueue[tuple[Running, int, str] | None] = queue.SimpleQueue()
        self._timers = Timers()
        self._closing = False
        self._concluded = threading.Condition(self._lock)
        self._exited = 0
        """Attempts that have exited and are not concluded yet."""
        self._processes: Runner | Containers = (
            runner(self._on_started, self._on_exited)
            if runner
            else Processes(home / "processes", self._on_started, self._on_exited)
        )
        self._thread = threading.Thread(target=self._conclude_all, name="logs", daemon=True)
        self._thread.start()

    def contain(self, docker: str) -> None:
        """Let jobs be containers of a Docker engine from now on; none may be running.

        Raises:
            LocalCloudBroken: no engine answers at that socket. ExtraMissing: its client is not installed.
        """
        containers = Containers(docker, self._home, self._on_started, self._on_exited)
        with self._lock:
            self._processes.close()
            self._processes = containers

    # ------------------------------------------------------------------------------------------ what Batch's calls do

    def submit(self, plan: Plan, size: int | None) -> Job | Array:
        """Take a plain job (`size` None) or an array, and start what there is room for."""
        now, job_id = self._now(), str(uuid.uuid4())
        with self._lock:
            line = self._lines[plan.queue_arn]
            taken: Job | Array
            if size is None:
                taken = Job(job_id, plan, now)
                jobs = [taken]
            else:
                jobs = [Job(f"{job_id}:{index}", plan, now, index) for index in range(size)]
                taken = Array(job_id, plan, now, jobs)
                self._arrays_of |= dict.fromkeys((job.job_id for job in jobs), taken)
            self._jobs |= {job_id: taken} | {job.job_id: job for job in jobs}
            for job in jobs:
                self._enqueue(line, job)
            self._start_what_fits()
            return taken

    def get(self, job_id: str) -> Job | Array | None:
        """A job by its id; None if Batch never knew it, or has forgotten it."""
        with self._lock:
            return self._jobs.get(job_id)

    def details(self, job_ids: Iterable[str]) -> list[dict[str, object]]:
        """DescribeJobs' answer: known ids only, in the order asked."""
        with self._lock:
            found = (self._jobs.get(job_id) for job_id in dict.fromkeys(job_ids))
            return [job.detail() for job in found if job is not None]

    def listed(
        self, queue_arn: str, array_id: str, wanted: Callable[[Job | Array], bool], start: int, count: int
    ) -> tuple[list[dict[str, object]], int]:
        """One page of ListJobs: children of an array by index, or a queue's own jobs, youngest first.

        Returns:
            The summaries, and where the next page starts; 0 if this was the last.
        """
        with self._lock:
            jobs: list[Job | Array]
            if array_id:
                array = self._jobs.get(array_id)
                jobs = list(array.children) if isinstance(array, Array) else []
            else:
                jobs = [job for job in self._jobs.values() if job.plan.queue_arn == queue_arn and ":" not in job.job_id]
                jobs.reverse()
            jobs = [job for job in jobs if wanted(job)]
            page = jobs[start : start + count]
            return [job.summary() for job in page], start + count if start + count < len(jobs) else 0

    def cancel(self, job_id: str, reason: str) -> None:
        """End what has not been started; what runs is spared, but not tried again."""
        with self._lock:
            job = self._jobs[job_id]
            if isinstance(job, Array):
                job.is_cancelled = True
            for each in _leaves(job):
                if not each.ended:
                    each.is_cancelled = True
                    if each.status not in STARTED:
                        self._end(each, "FAILED", reason)

    def terminate(self, job_id: str, reason: str) -> None:
        """End everything of a job: what waits at once, what runs by TERM and, later, KILL."""
        with self._lock:
            job = self._jobs[job_id]
            if isinstance(job, Array):
                job.is_terminated = True
            for each in _leaves(job):
                if each.ended:
                    continue
                each.is_terminated = True
                if each.status in STARTED:
                    self._stop(self._by_job[each.job_id], "terminated", reason)
                else:
                    self._end(each, "FAILED", reason)

    def compute_is(self, region: str, compute: Compute) -> None:
        """Learn of a region's queues and environments, and start what fits now."""
        with self._lock:
            self._compute[region] = compute
            for arn, each in compute.queues.items():
                line = self._lines.setdefault(arn, Line(each))
                line.queue = each
            self._start_what_fits()

    def compute(self, region: str) -> Compute:
        """The queues and environments of a region as last learnt."""
        with self._lock:
            return self._compute.get(region) or Compute({}, {})

    def set_ceiling(self, environment: str, max_vcpus: float) -> None:
        """UpdateComputeEnvironment's maxvCpus, by name or ARN (moto takes the call and changes nothing)."""
        with self._lock:
            self._capacity.set_ceiling(environment, max_vcpus)

    def set_hosts(self, queue_arn: str, hosts: Sequence[Mapping[str, Any]]) -> None:
        """Name the hosts on which a queue's jobs run (capacity.py); what runs already stays where it is."""
        with self._lock:
            for arn in self._lines[queue_arn].queue.environments:
                self._capacity.set_hosts(arn, hosts)
            self._start_what_fits()

    # --------------------------------------------------------------------------------------------------- misbehaviour

    def forget(self, job_id: str) -> None:
        """Batch no longer knows this job; its processes run on."""
        with self._lock:
            job = self._jobs.pop(job_id)
            for each in _leaves(job):
                self._jobs.pop(each.job_id, None)

    def terminate_host(self, job_id: str) -> None:
        """The instance under a running job is gone, with all that runs on it: KILL, no exit code, `Host EC2 (instance …)
        terminated.`"""
        with self._lock:
            self._lose_host(self._by_job[job_id])

    def spot_notice(self, job_id: str, seconds: float) -> None:
        """Tell a running job's host that it will be taken away after so many seconds, and do so."""
        with self._lock:
            running = self._by_job[job_id]
            for each in self._on_host_of(running):
                each.spot_notice = time.time() + seconds
            self._timers.later(seconds, lambda: self._lose_host(running))

    def out_of_memory(self, job_id: str) -> None:
        """The kernel kills a running job's container for its memory: KILL, exit code 137, `OutOfMemoryError: …`"""
        with self._lock:
            running = self._by_job[job_id]
            running.stop = "memory"
            self._processes.kill(running.name)

    def hold(self, queue_arn: str, reason: str) -> None:
        """Start nothing of this queue any more; its waiting jobs tell the reason. An empty reason releases it."""
        with self._lock:
            line = self._lines[queue_arn]
            line.held = reason
            for job in line.waiting:
                job.status_reason = reason
            self._start_what_fits()

    def set_invalid(self, environment: str, reason: str) -> None:
        """A compute environment becomes INVALID for this reason; an empty one makes it VALID again."""
        with self._lock:
            self._capacity.set_invalid(environment, reason)
            self._start_what_fits()

    def refuse_to_start(self, queue_arn: str, reason: str) -> None:
        """Containers of this queue fail to start for this reason (`CannotPullContainerError: …`); an empty one mends it."""
        with self._lock:
            self._lines[queue_arn].unstartable = reason

    def corrected(self, environments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Compute environments as DescribeComputeEnvironments tells them, with what only we know."""
        with self._lock:
            return self._capacity.corrected(environments)

    def running_name(self, name: str) -> Running | None:
        """The attempt that runs under this container name (its host's metadata are asked for)."""
        with self._lock:
            return self._running.get(name)

    def counted(self) -> dict[str, int]:
        """How many jobs run and wait, for `status`."""
        with self._lock:
            waiting = sum(not job.ended for line in self._lines.values() for job in line.waiting)
            return {"running": len(self._running), "waiting": waiting}

    def wait_concluded(self, seconds: float) -> bool:
        """Wait until what follows from every attempt that has exited is decided; False if that takes longer."""
        with self._concluded:
            return self._concluded.wait_for(lambda: self._exited == 0, seconds)

    def close(self) -> None:
        """End all jobs, by TERM and soon after by KILL, and the threads."""
        with self._lock:
            self._closing = True
            for running in self._running.values():
                self._processes.term(running.name)
        give_up = time.monotonic() + CLOSE_SECONDS
        while self._running and time.monotonic() < give_up:
            time.sleep(0.02)
        self._processes.close()
        self._timers.close()
        self._ends.put(None)
        self._thread.join(5)

    # ------------------------------------------------------------------------------------------------------- starting

    def _enqueue(self, line: Line, job: Job) -> None:
        job.status, job.status_reason = "RUNNABLE", line.held
        line.waiting.append(job)

    def _start_what_fits(self) -> None:
        if self._closing:
            return
        for line in sorted(self._lines.values(), key=lambda line: -line.queue.priority):
            while line.waiting and not line.held:
                job = line.waiting[0]
                if job.ended:
                    line.waiting.popleft()
                    continue
                environments = self._compute[job.plan.region].environments
                place = self._capacity.take(line.queue, environments, job.plan.vcpus)
                if place is None:
                    if self._capacity.is_too_big(line.queue, environments, job.plan.vcpus):
                        job.status_reason = TOO_BIG
                    break
                line.waiting.popleft()
                self._start(job, place, line.unstartable)

    def _start(self, job: Job, place: Place, unstartable: str = "") -> None:
        plan, name = job.plan, uuid.uuid4().hex
        attempt = Attempt(self._now(), f"{plan.log_prefix}/default/{name}", host=place.host.instance)
        folder = self._home / "jobs" / name
        (folder / "work").mkdir(parents=True)
        (folder / "tmp").mkdir()
        tail = Tail(folder / "output.log", plan.log_group, attempt.log_stream)
        running = Running(name, job, attempt, place, folder, tail)
        array = self._arrays_of.get(job.job_id)
        job.attempts.append(attempt)
        job.status, job.status_reason = "STARTING", ""
        self._running[name] = self._by_job[job.job_id] = running
        if unstartable:
            running.left = True
            self._ends.put((running, 1, unstartable))
            return
        told = (job, len(job.attempts), len(array.children) if array else 1, name, self._endpoint)
        ours = {"AWS_BATCH_CE_NAME": place.name} | dict(place.host.environment)
        if isinstance(self._processes, Containers):
            environment = container_environment(*told) | ours
            self._processes.start(name, plan, plan.command, environment, attempt.host, folder / "output.log")
        else:
            environment = job_environment(*told, folder, os.environ) | ours
            command = job_command(plan.command, environment)
            self._processes.start(name, command, environment, folder / "work", folder / "output.log")

    def _on_started(self, name: str, pid: int) -> None:
        with self._lock:
            running = self._running.get(name)
            if running is None:
                return
            job = running.job
            job.status, job.started_at = "RUNNING", self._now()
            running.attempt.started_at = job.started_at
            if job.plan.timeout_seconds:
                self._timers.later(job.plan.timeout_seconds, lambda: self._stop(running, "timeout", TIMED_OUT))

    # --------------------------------------------------------------------------------------------------------- ending

    def _stop(self, running: Running, stop: Stop, reason: str) -> None:
        with self._lock:
            if running.left or running.stop:
                return
            running.stop, running.reason = stop, reason
            self._processes.term(running.name)
            self._timers.later(self._stop_seconds, lambda: self._processes.kill(running.name))

    def _lose_host(self, running: Running) -> None:
        with self._lock:
            if running.left:
                return
            for each in self._on_host_of(running):
                each.stop = "host"
                self._processes.kill(each.name)
            self._capacity.replace(running.place.host)

    def _on_host_of(self, running: Running) -> list[Running]:
        return [each for each in self._running.values() if each.place.host is running.place.host and not each.left]

    def _on_exited(self, name: str, code: int, error: str) -> None:
        with self._lock:
            running = self._running.get(name)
            if running is not None:
                running.left = True
                self._exited += 1
                self._ends.put((running, code, error))

    def _conclude_all(self) -> None:
        shipped = time.monotonic()
        while True:
            try:
                ended = self._ends.get(timeout=max(0.0, shipped + SHIP_SECONDS - time.monotonic()))
                if ended is None:
                    return
                running, code, error = ended
                self._ship(running, final=True)
                shutil.rmtree(running.folder, ignore_errors=True)
                self._conclude(running, code, error)
            except queue.Empty:
                with self._lock:
                    now_running = list(self._running.values())
                for running in now_running:
                    self._ship(running, final=False)
                shipped = time.monotonic()

    def _ship(self, running: Running, final: bool) -> None:
        try:
            send(running.tail, self._clients(running.job.plan.region), final)
        except Exception:  # the job's end must be told whatever happens to its log
            log.exception("log of %s", running.job.job_id)

    def _conclude(self, running: Running, code: int, error: str) -> None:
        """Judge an attempt that has ended, and end its job or queue it again."""
        with self._lock:
            job, attempt = running.job, running.attempt
            del self._running[running.name]
            self._by_job.pop(job.job_id, None)
            self._capacity.give_back(running.place)
            attempt.stopped_at = self._now()
            if running.stop == "host":
                attempt.status_reason = f"Host EC2 (instance {attempt.host}) terminated."
            elif running.stop == "memory" or error == OUT_OF_MEMORY:
                attempt.exit_code, attempt.reason = KILLED_CODE, OUT_OF_MEMORY
                attempt.status_reason = ENDED_ITSELF
            elif error:
                attempt.status_reason, attempt.reason = NOT_STARTED, error
            else:
                attempt.exit_code = code
                attempt.status_reason = running.reason or ENDED_ITSELF
            ended_by_us = running.stop in ("timeout", "terminated") or job.is_terminated
            if code == 0 and not running.stop:
                self._end(job, "SUCCEEDED", attempt.status_reason)
            elif (
                not ended_by_us
                and not job.is_cancelled
                and is_tried_again(
                    job.plan.retry, len(job.attempts), attempt.exit_code, attempt.status_reason, attempt.reason
                )
            ):
                self._enqueue(self._lines[job.plan.queue_arn], job)
            else:
                self._end(job, "FAILED", running.reason or attempt.status_reason)
            self._start_what_fits()
            self._exited -= 1
            self._concluded.notify_all()

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _end(self, job: Job, status: Literal["SUCCEEDED", "FAILED"], reason: str) -> None:
        job.status, job.status_reason, job.stopped_at = status, reason, self._now()


def _leaves(job: Job | Array) -> list[Job]:
    return job.children if isinstance(job, Array) else [job]
