"""`pyanamo explain` names the reason: situations seeded in the local cloud, real pilots where pilots are needed.

The words of Batch's reasons are AWS's as its documents have them; what is injected is their shape.
"""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from driver_support import QUICK, Place, sleeping, wait_for
from fleet_fire import running
from typer.testing import CliRunner

from pyanamo.context import Context
from pyanamo.main import app
from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.errors import SubmitRefused
from pyanamo_core.ledger import Ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import Run, State
from pyanamo_core.workflow import Timing

STEADY = Timing(
    lease_seconds=120,
    beat_seconds=1,
    sweep_seconds=0.5,
    poll_seconds=0.5,
    start_jitter_seconds=0,
    host_fault_wait_seconds=1,
)
"""Leases that outlast a test, so that what a dead pilot held stays as it was."""


class Told:
    """What `pyanamo explain` says, as typed."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.text: str = told["text"]
        self.next: str = told["next"]
        self.codes: list[str] = [one["code"] for one in told["findings"]]


class Scene:
    """A place on the cloud with a run; commands are typed in its table."""

    def __init__(self, cloud: LocalCloud, name: str, folder: Path) -> None:
        self.cloud, self.name, self.folder = cloud, name, folder
        self.ledger: Ledger
        self.run: Run

    def begins(
        self, lines: list[str], *, watcher: str = "w", compute: dict[str, Any] | None = None, **more: Any
    ) -> Run:
        """A run begins, and asks for its pilots once; nobody watches it afterwards."""
        self.place = Place(self.cloud, self.name, self.folder, **(compute or {}))
        workflow = self.place.workflow(**more)
        if lines:
            self.ledger, version = self.place.filled(workflow, lines)
        else:
            version = driver.provision(self.place.clients, workflow).version
            self.ledger = Ledger(self.place.clients, self.name, rules=workflow.rules)
        self.run = driver.begin(self.ledger, version, workflow)
        self.workflow = workflow
        if watcher:
            self.run = driver.fan_out(self.place.clients, self.ledger, self.run, workflow, watcher=watcher)
        return self.run

    @property
    def batch(self) -> Any:
        return self.place.clients.client("batch")

    def types(self, *words: str) -> str:
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--table", self.name])
        assert done.exit_code == 0, done.output
        return done.stdout

    def explain(self, *words: str) -> Told:
        return Told(json.loads(self.types("explain", *words, "--json")))

    def jobs(self) -> list[dict[str, Any]]:
        return json.loads(self.types("items", "jobs", "--json"))

    def ends(self) -> None:
        """No pilot is left behind."""
        for job_id in self.place.live_jobs(self.run):
            self.batch.terminate_job(jobId=job_id, reason="end of test")
        wait_for(lambda: not self.place.live_jobs(self.run))


@pytest.fixture
def scene(
    misbehaving_cloud: LocalCloud,
    cloud_clients: Clients,
    unique_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    # Some thirty commands are typed here: making clients anew for each would take most of the time.
    monkeypatch.setattr(Context, "clients", property(lambda _: cloud_clients))
    return Scene(misbehaving_cloud, unique_name, tmp_path)


# ---------------------------------------------------------------------------------------------------- nothing starts

TRUST = "CLIENT_ERROR - User: arn:aws:sts::1:assumed-role/x is not authorized to perform: sts:AssumeRole"
CAPACITY = "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - Service cannot fulfill the capacity requested"
UNDETERMINED = "UNDETERMINED - Batch job is blocked, root cause is undetermined."
NO_IMAGE = "CannotPullContainerError: Error response from daemon: manifest for lab/seq:1.0 not found: manifest unknown"
NO_ROLE = "ECS was unable to assume the role 'arn:aws:iam::1:role/seq' that was provided for this task."


def test_why_pilots_stay_runnable_is_named(scene: Scene):
    # Given a queue whose environment has a ceiling of 0, and a run that has asked for two pilots
    scene.begins(sleeping(2), watcher="", compute={"max_vcpus": 2, "memory": 512})
    batch, cloud, q = scene.batch, scene.cloud, scene.name
    environment = f"{q}-environment"
    batch.update_compute_environment(computeEnvironment=environment, computeResources={"maxvCpus": 0})
    driver.fan_out(scene.place.clients, scene.ledger, scene.run, scene.workflow, watcher="w")
    # When the user asks, Then all of it is told in one paragraph, and the reason with its mend
    told = scene.explain()
    assert told.codes == ["ceiling_zero"]
    assert re.sub(r"for \d\S+;", "for a while;", told.text) == (
        f"Run {scene.run.run_id} of table {q} (workflow version 1) has gone on for a while; nobody watches it. All 2 items"
        f" are to do. It asked Batch for 2 pilots on queue {q} (1 vCPUs and 512 MB each): 2 RUNNABLE. No pilot has written"
        f" its row. Queue {q} is ENABLED and VALID, with compute environment {environment} (ENABLED, VALID, 0 of at most 0"
        f" vCPUs). Its pilots are containers of pyanamo ({q}:1). Compute environment {environment}: the ceiling is 0 vCPUs,"
        f" which switches queue {q} off; 2 pilots wait. Raise it with pyanamo deploy --set SpotVcpus=N (OnDemandVcpus=N),"
        f" or: aws batch update-compute-environment --compute-environment {environment} --compute-resources maxvCpus=N."
    )
    # And `status` has it among its obstacles
    assert any("the ceiling is 0 vCPUs" in one for one in json.loads(scene.types("status", "--json"))["obstacles"])
    # When the environment is disabled, or INVALID, or what it lacks are machines
    batch.update_compute_environment(computeEnvironment=environment, state="DISABLED")
    told = scene.explain()
    assert told.codes == ["environment_disabled"]
    enable = f"aws batch update-compute-environment --compute-environment {environment} --state ENABLED."
    assert f"Compute environment {environment}: it is DISABLED. Enable it with: {enable}" in told.text
    cloud.invalidate(environment, TRUST)
    batch.update_compute_environment(computeEnvironment=environment, state="ENABLED")
    told = scene.explain()
    assert told.codes == ["environment_invalid"]
    assert f"it is INVALID ({TRUST}). Batch may not act: its service role is missing or not trusted." in told.text
    cloud.hold(q, CAPACITY)
    cloud.invalidate(environment)
    batch.update_compute_environment(computeEnvironment=environment, computeResources={"maxvCpus": 2})
    told = scene.explain()
    assert told.codes == ["no_capacity"]
    assert f"2 pilots not started: {CAPACITY}. This passes when capacity is free; more instance types" in told.text
    cloud.hold(q, UNDETERMINED)
    told = scene.explain()
    assert told.codes == ["undetermined"]
    assert "Machines that start and never join the cluster look like this" in told.text
    # And when its definition is gone, that comes first; an item that waits for all this tells the same
    batch.deregister_job_definition(jobDefinition=f"{q}:1")
    told = scene.explain("item-0")
    assert told.codes == ["definition_missing", "undetermined"]
    assert "No pilot has claimed it yet." in told.text
    assert f"Job definition {q}: no revision of it is active. Register it" in told.text
    scene.ends()


def test_why_containers_do_not_start_is_named(scene: Scene):
    # Given containers whose role is missing, and a run that has asked for two pilots
    scene.begins(sleeping(2), watcher="")
    scene.cloud.refuse_to_start(scene.name, NO_ROLE)
    driver.fan_out(scene.place.clients, scene.ledger, scene.run, scene.workflow, watcher="w")
    wait_for(lambda: not scene.place.live_jobs(scene.run))
    # Then
    told = scene.explain()
    assert told.codes == ["unwatched", "role_missing"]
    assert "2 FAILED. No pilot has written its row." in told.text
    mend = (
        "The job role or the execution role is missing, or does not trust ecs-tasks.amazonaws.com: make it again with"
    )
    assert f"2 pilots failed: {NO_ROLE} {mend}" in told.text


def test_a_queue_that_is_disabled_is_named(scene: Scene):
    # Given a queue that was disabled after its workflow was stored
    scene.begins(sleeping(2), watcher="")
    scene.batch.update_job_queue(jobQueue=scene.name, state="DISABLED")
    with suppress(SubmitRefused):
        driver.fan_out(scene.place.clients, scene.ledger, scene.run, scene.workflow, watcher="w")
    # Then
    told = scene.explain()
    assert "queue_disabled" in told.codes
    assert (
        f"Queue {scene.name}: it is DISABLED, VALID. Enable it with: aws batch update-job-queue --job-queue {scene.name}"
        " --state ENABLED." in told.text
    )


def test_a_job_that_fits_no_environment_is_named_by_batch_and_by_the_ceiling(scene: Scene):
    scene.begins(sleeping(2), compute={"max_vcpus": 2, "vcpus": 3})
    told = scene.explain()
    assert {"ceiling_too_low", "job_too_big"} <= set(told.codes)
    assert "a pilot asks for 3 vCPUs, the ceiling is 2: it can never start" in told.text
    scene.ends()


def test_a_table_into_which_nothing_was_imported_says_so(scene: Scene):
    scene.begins([], watcher="")
    told = scene.explain()
    assert told.codes == ["nothing_imported"]
    assert "The table holds no items. It has not asked for any pilots yet." in told.text
    assert "Import a sheet with: pyanamo sheet import SHEET." in told.text
    assert told.next == "pyanamo sheet import sheet.txt"


# ---------------------------------------------------------------------------------------------------- items failed


def test_items_that_failed_tell_their_causes_and_mends_and_the_run_that_all_failed(scene: Scene):
    # Given a run all of whose items fail, each for another reason
    lines = [
        "error|t|bash -c 'echo the input is empty >&2; exit 1'|",
        "memory|t|bash -c 'exit 137'|",
        "hung|t|sleep|60",
        "useless|t|bash -c 'echo no such chromosome >&2; exit 65'|",
    ]
    budgets = {"tries": 1, "retry_delay_seconds": 0}
    scene.begins(lines, pilots=1, items=4, nest_time_seconds=1, budgets=budgets)
    driver.carry_on(scene.place.clients, scene.ledger, scene.run, scene.workflow)
    # Then each tells what happened, where, and what to do
    told = scene.explain("error")
    assert told.codes == ["task_error"]
    assert "task_error: exit code 1: the input is empty. 1 attempt: number 1 ended with task_error after" in told.text
    assert "pyanamo rehearse SHEET --item error --nest 0 — once it is mended: pyanamo items retry error." in told.text
    assert "Its log ends with: 'the input is empty'." in scene.explain("error", "0").text
    told = scene.explain("memory")
    assert told.codes == ["out_of_memory"]
    assert "out_of_memory: exit code 137." in told.text
    assert "Its nests had 512 MB each: pyanamo items retry memory --memory-factor 2." in told.text
    told = scene.explain("hung")
    assert told.codes == ["timed_out"]
    assert "then give its nests more time (each had 1.0s): pyanamo items retry hung --nest-time SECONDS" in told.text
    told = scene.explain("useless")
    assert told.codes == ["permanent"]
    assert "exit code 65: no such chromosome" in told.text
    # And the run, that all have failed, with one of each
    told = scene.explain()
    assert told.codes == ["run_failed", "all_failed"]
    assert "All 4 items have failed." in told.text
    assert "1 item failed with permanent, e.g. useless: exit code 65: no such chromosome." in told.text
    assert told.next.startswith("pyanamo explain ")


# ---------------------------------------------------------------------------------------------------- pilots gone


def locked(scene: Scene) -> dict[str, str]:
    """Owner by item, of what is locked."""
    return {item.item_id: item.owner or "" for item in scene.ledger.items(State.LOCKED)}


def test_pilots_that_are_gone_are_named_by_batch_s_word_and_the_map_shows_their_jobs(scene: Scene):
    # Given three pilots at work
    scene.begins(sleeping(3, 300), pilots=3, timing=STEADY)
    wait_for(lambda: len(locked(scene)) == 3)
    jobs = {one["item_id"]: one for one in scene.jobs()}
    assert {one["job_status"] for one in jobs.values()} == {"RUNNING"}
    assert len({one["batch_job"] for one in jobs.values()}) == 3
    # And all is well with the items that they hold
    told = scene.explain("item-0")
    assert told.codes == []
    assert f"Its Batch job {jobs['item-0']['batch_job']}, attempt 1, is RUNNING. Nothing keeps it" in told.text
    # When the host of the first is terminated, and the container of the second runs out of memory
    scene.cloud.hold(scene.name)
    scene.cloud.terminate_host(jobs["item-0"]["batch_job"])
    scene.cloud.out_of_memory(jobs["item-1"]["batch_job"])
    wait_for(lambda: sum(one["gone"] for one in scene.jobs()) == 2)
    # Then the items tell it
    told = scene.explain("item-0")
    assert told.codes == ["pilot_gone"]
    assert "it is gone: Batch says that its attempt ended" in told.text
    assert "(Host EC2 (instance i-" in told.text
    assert "when the lease ends. At once: pyanamo recover." in told.text
    assert "OutOfMemoryError: Container killed due to memory usage; exit code 137" in scene.explain("item-1").text
    # And the map does, and so does the run of the second, whose job Batch does not start again
    after = {one["item_id"]: (one["job_status"], one["gone"]) for one in scene.jobs()}
    assert after == {"item-0": ("ended", True), "item-1": ("FAILED", True), "item-2": ("RUNNING", False)}
    assert "2 locked" in scene.types("items", "jobs", "--gone")
    told = scene.explain(scene.run.run_id[:8])
    assert "out_of_memory" in told.codes
    assert "The container needs more memory, or fewer slots" in told.text
    scene.cloud.release(scene.name)
    scene.ends()


def test_the_lease_of_a_dead_pilot_that_batch_has_forgotten_is_named(scene: Scene):
    # Given a pilot at work
    scene.begins(
        sleeping(1, 300), pilots=1, timing=QUICK.model_copy(update={"lease_seconds": 3.0, "beat_seconds": 1.0})
    )
    wait_for(lambda: scene.jobs() and scene.jobs()[0]["last_beat"])
    # When Batch forgets its job, and it is killed
    (job,) = scene.place.jobs(scene.run)
    pids = scene.cloud.processes()
    scene.cloud.forget(job["jobId"])
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # Then, its lease over, the item says so
    told = wait_for(lambda: (found := scene.explain("item-0")).codes == ["lease_over"] and found)
    assert f"Batch does not know its job {job['jobId']} (any more)." in told.text
    assert "it no longer beats, and Batch does not know its job. The next pilot that claims takes it." in told.text
    # And so does the run: of a job that Batch does not know, and of a silent pilot with what it holds
    told = scene.explain()
    assert {"job_forgotten", "pilots_silent"} <= set(told.codes)
    assert "1 pilot went silent" in told.text


def test_pilots_that_batch_ended_at_their_time_out_are_named(scene: Scene):
    scene.begins(sleeping(1, 300), pilots=1, compute={"timeout_seconds": 1})
    wait_for(lambda: not scene.place.live_jobs(scene.run))
    told = scene.explain()
    assert "timed_out" in told.codes
    assert "Job attempt duration exceeded timeout. Batch ended it at the time-out of the job definition" in told.text


def test_a_run_that_its_image_stopped_says_so_afterwards(scene: Scene):
    # Given a watched run whose containers do not start
    scene.begins(sleeping(6), watcher="", pilots=6)
    scene.cloud.refuse_to_start(scene.name, NO_IMAGE)
    outcome = driver.carry_on(scene.place.clients, scene.ledger, scene.run, scene.workflow)
    assert outcome.outcome == "stopped"
    # Then it is told with the reason and the mend
    told = scene.explain()
    assert told.codes == ["run_stopped", "image_not_found"]
    assert "CannotPullContainerError" in told.text
    assert "register a revision" in told.text
    assert running(scene.place, scene.run) == []
