"""Fleets under fire on the local cloud: what short and long forms of one proof share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driver_support import Place, recorded_once, sleeping, wait_for
from killed_driver import QUICK_PATIENCE

from pyanamo_core import driver
from pyanamo_core.driver import Outcome
from pyanamo_core.errors import LocalCloudBroken
from pyanamo_core.ledger import Ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import Attempt, Cause, Run, State
from pyanamo_core.report.losses import losses
from pyanamo_core.workflow import Workflow

STATUSES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")


def children(place: Place, run: Run, *statuses: str) -> list[dict[str, Any]]:
    """The run's children (plain jobs are children too), described."""
    batch = place.clients.client("batch")
    found: list[str] = []
    for job in place.jobs(run):
        if "arrayProperties" not in job:
            found.append(job["jobId"])
            continue
        for status in statuses or STATUSES:
            pages = batch.get_paginator("list_jobs").paginate(arrayJobId=job["jobId"], jobStatus=status)
            found += [child["jobId"] for page in pages for child in page["jobSummaryList"]]
    told: list[dict[str, Any]] = []
    for start in range(0, len(found), 100):
        told += batch.describe_jobs(jobs=found[start : start + 100])["jobs"]
    return [job for job in told if not statuses or job["status"] in statuses]


def running(place: Place, run: Run) -> list[str]:
    """Ids of the children that run, by their index."""
    jobs = children(place, run, "RUNNING")
    return [job["jobId"] for job in sorted(jobs, key=lambda job: job.get("arrayProperties", {}).get("index", 0))]


class Watched:
    """A watch in a thread; `outcome` waits for its end."""

    def __init__(self, place: Place, ledger: Ledger, run: Run, workflow: Workflow, **more: Any) -> None:
        self._ended: list[Outcome | BaseException] = []
        self._stop = threading.Event()

        def watch() -> None:
            name = driver.watcher_name()
            try:
                outcome = driver.watch(
                    place.clients, ledger, run.run_id, workflow, watcher=name, stop=self._stop, **more
                )
                self._ended.append(outcome)
            except BaseException as error:  # noqa: BLE001 - told to the test
                self._ended.append(error)

        self._thread = threading.Thread(target=watch, name=f"watch {run.run_id}", daemon=True)
        self._thread.start()

    def outcome(self, seconds: float = 120.0) -> Outcome:
        self._thread.join(timeout=seconds)
        self._stop.set()
        if not self._ended:
            self._thread.join(timeout=10)
            raise AssertionError(f"the run has not ended within {seconds:.0f} s")
        (ended,) = self._ended
        if isinstance(ended, BaseException):
            raise ended
        return ended


def attempts_of(ledger: Ledger) -> list[Attempt]:
    return [attempt for item in ledger.items() for attempt in ledger.attempts(item.item_id)]


# ------------------------------------------------------------------------------------------------------ a bad host


@dataclass(frozen=True)
class BadHostFigures:
    """How much of an array a bad host took."""

    outcome: str
    done: int
    seconds: float
    starts_on_bad: int
    starts_on_good: int
    failed_children: int
    submissions: int


def run_with_a_bad_host(
    place: Place, workflow: Workflow, lines: Sequence[str], fault: dict[str, str], *, good_hosts: int, slots: int = 2
) -> tuple[BadHostFigures, Ledger]:
    """A whole run while the first host, with room for `slots` pilots, has a fault; the others, as big, have none."""
    place.cloud.set_hosts(
        place.name,
        [{"vcpus": slots, "environment": fault, "instance": "i-bad"}]
        + [{"vcpus": slots, "instance": f"i-good{number}"} for number in range(good_hosts)],
    )
    ledger, version = place.filled(workflow, lines)
    run = driver.begin(ledger, version, workflow)
    began = time.monotonic()
    watcher = driver.watcher_name()
    driver.fan_out(place.clients, ledger, run, workflow, watcher=watcher)
    outcome = driver.watch(place.clients, ledger, run.run_id, workflow, watcher=watcher)
    seconds = time.monotonic() - began
    starts: Counter[str] = Counter()
    jobs = children(place, outcome.run)
    for job in jobs:
        for attempt in job["attempts"]:
            starts[attempt["container"]["containerInstanceArn"].rpartition("/")[2]] += 1
    bad = starts.pop("i-bad", 0)
    figures = BadHostFigures(
        outcome=outcome.outcome,
        done=outcome.counts.done,
        seconds=seconds,
        starts_on_bad=bad,
        starts_on_good=sum(starts.values()),
        failed_children=sum(
            1 for job in jobs if job["status"] == "FAILED" and not job["isCancelled"] and not job["isTerminated"]
        ),
        submissions=len(outcome.run.submissions),
    )
    return figures, ledger


def unwritable(folder: Path) -> Path:
    """A path below a file: nothing can be made there, not even by root."""
    file = folder / "a-file"
    file.touch()
    return file / "scratch"


@contextmanager
def full_disk(folder: Path) -> Iterator[Path]:
    """A file system without room, where this machine lets us mount one; else a path at which nothing can be made."""
    place = folder / "full"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        yield unwritable(folder)
        return
    try:
        with suppress(OSError):
            (place / "filling").write_bytes(b"x" * 65536)
        yield place / "scratch"
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# ------------------------------------------------------------------------------------------------------ killed drivers


def start_driver(place: Place, table: str, run: Run, step: str) -> subprocess.Popen[bytes]:
    """A driver in a process of its own that dies at this step (killed_driver.py)."""
    script = Path(__file__).with_name("killed_driver.py")
    with (place.folder / f"driver-{run.run_id}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(script), table, run.run_id, step],
            env=os.environ | place.cloud.environment(),
            stdout=log,
            stderr=log,
        )


def arrays_that_worked(ledger: Ledger) -> set[str]:
    """Ids of the jobs (parents) whose pilots ever claimed an item, by the attempt rows and the pilots' own."""
    claimed = {attempt.batch_job for attempt in attempts_of(ledger)}
    claimed |= {record.batch_job for record in ledger.pilots() if record.claims}
    return {job.partition(":")[0] for job in claimed if job}


def died_and_carried_on(cloud: LocalCloud, name: str, folder: Path, step: str) -> str:
    """One run whose first driver dies at this step, and whose second one carries on."""
    folder.mkdir()
    place = Place(cloud, name, folder)
    workflow = place.workflow(pilots=2)
    ledger, version = place.filled(workflow, sleeping(4, 0.3))
    run = driver.begin(ledger, version, workflow)
    # When the driver dies
    first = start_driver(place, ledger.table, run, step)
    assert first.wait(60) == -signal.SIGKILL
    jobs_then = len(place.jobs(run))
    # And another one carries on
    watcher = driver.watcher_name()
    driver.fan_out(place.clients, ledger, run, workflow, watcher=watcher, patience=QUICK_PATIENCE)
    outcome = Watched(place, ledger, run, workflow, patience=QUICK_PATIENCE).outcome()
    # Then the run ends, and exactly one array has ever worked, or been made
    assert outcome.outcome == "completed"
    recorded_once(ledger)
    assert len(arrays_that_worked(ledger)) == 1
    assert [job["jobId"] for job in place.jobs(run)] == [each.job_id for each in outcome.run.submissions]
    return f"{step}: {jobs_then} array(s) at the death, {len(place.jobs(run))} in the end"


# ------------------------------------------------------------------------------------------------------ reclaimed pilots


@dataclass(frozen=True)
class ReclaimedFigures:
    """What it did to a run that pilots were taken away from it."""

    items: int
    pilots: int
    reclaimed: int
    """Pilots whose host was taken away, half of them after a notice."""
    interrupted: int
    """Attempts that say so."""
    causes: dict[str, int]
    lost_seconds: float
    seconds: float


def run_with_reclaimed_pilots(
    place: Place, workflow: Workflow, lines: Sequence[str], *, times: int = 1, notice_seconds: float = 7.0
) -> tuple[ReclaimedFigures, Ledger, Run]:
    """A run of which a third of the pilots is reclaimed at once, so many times; every second one gets a Spot notice."""
    ledger, version = place.filled(workflow, lines)
    run = driver.begin(ledger, version, workflow)
    began = time.monotonic()
    watched = Watched(place, ledger, run, workflow, patience=QUICK_PATIENCE)
    third = max(1, workflow.pilots // 3)
    reclaimed = 0
    for _ in range(times):
        wait_for(lambda: ledger.count(State.LOCKED) >= workflow.pilots - third)
        holders = {item.owner for item in ledger.items(State.LOCKED)}
        jobs = [record.batch_job for record in ledger.pilots(run.run_id) if record.pilot_id in holders]
        for number, job in enumerate(jobs[:third]):
            with suppress(LocalCloudBroken):  # it has ended by itself
                if number % 2:
                    place.cloud.spot_notice(job, seconds=notice_seconds)
                else:
                    place.cloud.terminate_host(job)
                reclaimed += 1
    outcome = watched.outcome(300)
    assert outcome.outcome == "completed", outcome
    told = losses(ledger, run.run_id)
    figures = ReclaimedFigures(
        items=outcome.counts.total,
        pilots=workflow.pilots,
        reclaimed=reclaimed,
        interrupted=told.attempts,
        causes={loss.cause: loss.attempts for loss in told.causes},
        lost_seconds=told.lost_seconds,
        seconds=time.monotonic() - began,
    )
    return figures, ledger, outcome.run


def nothing_counted(ledger: Ledger) -> None:
    """Every item is done, by one counted try at most, and no attempt ended by its own fault."""
    recorded_once(ledger)
    assert {item.tries for item in ledger.items()} == {1}
    causes = {attempt.cause for attempt in attempts_of(ledger)}
    assert causes <= {Cause.DONE, Cause.SPOT, Cause.LOST, Cause.DRAINED}, causes


def kill_pilots(place: Place, run: Run, batch_job: str = "") -> int:
    """SIGKILL to the run's pilots on this machine (or to that of one Batch job), and to all of their containers."""
    wanted = {f"PYANAMO_RUN={run.run_id}"} | ({f"AWS_BATCH_JOB_ID={batch_job}"} if batch_job else set())
    killed = 0
    for pid in place.cloud.processes():
        with suppress(OSError):
            environment = set(Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0"))
            if wanted <= environment:
                os.kill(pid, signal.SIGKILL)
                killed += 1
    return killed


def watched_by_two(place: Place) -> None:
    """Two watchers start together on a line that loses something of SubmitJob: both see the run complete, by one array."""
    workflow = place.workflow(pilots=2)
    ledger, version = place.filled(workflow, sleeping(6, 0.3))
    run = driver.begin(ledger, version, workflow)
    both = [Watched(place, ledger, run, workflow, patience=QUICK_PATIENCE) for _ in range(2)]
    outcomes = [each.outcome() for each in both]
    assert [outcome.outcome for outcome in outcomes] == ["completed"] * 2
    recorded_once(ledger)
    assert len(place.jobs(run)) == 1
    assert len(arrays_that_worked(ledger)) == 1
