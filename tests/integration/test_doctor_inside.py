"""`pyanamo doctor` from inside: as the container that a pilot would be, and as a job of the run's definition."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from doctor_support import Ward, the
from typer.testing import CliRunner

from pyanamo.main import app
from pyanamo_core.doctor import Line, State
from pyanamo_core.local import LocalCloud

UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def standing(local_cloud: LocalCloud) -> Ward:
    return Ward(local_cloud, f"ward-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def ward(misbehaving_cloud: LocalCloud, cloud_environment: dict[str, str], standing: Ward) -> Ward:
    """A healthy place, to which this test's environment leads."""
    return standing


def typed(ward: Ward, *words: str, code: int = 0, **environment: str) -> list[Line]:
    """The lines of a doctor that was typed."""
    done = CliRunner(env=environment).invoke(app, ["doctor", *words, "--table", ward.name, "--json"])
    assert done.exit_code == code, done.output
    told = json.loads(done.stdout)
    assert told["ok"] == (code == 0)
    return [Line(**{**line, "state": State(line["state"])}) for line in told["lines"]]


def jobs(ward: Ward) -> dict[str, str]:
    """Status of each job of the doctor's."""
    told = ward.clients.client("batch").list_jobs(
        jobQueue=f"{ward.name}_Queue", filters=[{"name": "JOB_NAME", "values": ["pyanamo-doctor-*"]}]
    )
    return {one["jobId"]: one["status"] for one in told["jobSummaryList"]}


# ---------------------------------------------------------------------------------------------------- as a job


def test_a_job_of_the_runs_definition_looks_with_its_own_eyes(ward: Ward) -> None:
    # Given a definition whose command is that of pilots
    before = set(jobs(ward))
    # When the doctor sends a job
    lines = typed(ward, "--as-job")
    # Then the container's lines stand below those from here, and one plain job has run
    inside = {line.check: line.state for line in lines if line.where == "container"}
    assert set(inside) >= {
        *("PyAnamo", "credentials", "table", "table rights", "scratch", "memory", "log rights", "clock"),
        *("bucket of results: write", "bucket of results: delete", "reads", "index of reads", "reference ref"),
    }
    assert State.WRONG not in inside.values()
    assert [status for name, status in jobs(ward).items() if name not in before] == ["SUCCEEDED"]


def test_a_fault_that_only_the_container_has_is_found_there(ward: Ward) -> None:
    # Given a definition that names a scratch folder where nothing can be written
    ward.define(environment=[{"name": "PYANAMO_SCRATCH", "value": "/dev/null/scratch"}])
    try:
        lines = typed(ward, "--as-job", code=8)
    finally:
        ward.define()
    # Then the container says so, and from here nothing was wrong
    found = the(lines, "scratch", "/dev/null/scratch", "mode 1777")
    assert (found.state, found.where) == (State.WRONG, "container")
    assert {line.check for line in lines if line.state is State.WRONG} == {"scratch"}


def test_a_job_that_does_not_start_is_ended_and_says_why(ward: Ward) -> None:
    # Given a queue that stands still
    before = set(jobs(ward))
    ward.cloud.hold(f"{ward.name}_Queue", "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - too big for all")
    # When nobody waits longer than some seconds
    lines = typed(ward, "--as-job", "--wait", "2", code=8)
    # Then Batch's reason is told with its mend, and no job is left behind
    assert the(lines, "job", "it is RUNNABLE: MISCONFIGURATION", "InstanceTypes").state is State.WRONG
    assert [status for name, status in jobs(ward).items() if name not in before] == ["FAILED"]


def doctor_process(ward: Ward) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pyanamo", "doctor", "--as-job", "--table", ward.name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def submitted(ward: Ward, before: set[str]) -> str:
    """The id of a job that was submitted since."""
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if new := set(jobs(ward)) - before:
            return new.pop()
        time.sleep(0.1)
    raise AssertionError("no job was submitted")


def test_ctrl_c_ends_the_job(ward: Ward) -> None:
    # Given a doctor whose job waits
    before = set(jobs(ward))
    ward.cloud.hold(f"{ward.name}_Queue")
    process = doctor_process(ward)
    job = submitted(ward, before)
    # When its user presses Ctrl-C
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # Then the job is ended, too
    assert (process.returncode, jobs(ward)[job]) == (130, "FAILED")
    assert "Traceback" not in said


def test_a_doctor_that_was_killed_is_simply_asked_again(ward: Ward) -> None:
    # Given a doctor that was killed while its job waited
    before = set(jobs(ward))
    ward.cloud.hold(f"{ward.name}_Queue")
    process = doctor_process(ward)
    submitted(ward, before)
    process.kill()
    process.communicate(timeout=60)
    ward.cloud.release(f"{ward.name}_Queue")
    # When it is asked again, then it tells all, and the first one's job has ended by itself
    assert the(typed(ward, "--as-job"), "scratch").where == "container"
    give_up = time.monotonic() + 60
    while min(jobs(ward).values()) != "SUCCEEDED" and time.monotonic() < give_up:
        if not set(jobs(ward).values()) - {"SUCCEEDED", "FAILED"}:
            break
        time.sleep(0.2)
    assert set(jobs(ward).values()) <= {"SUCCEEDED", "FAILED"}
    # And no probe object was left by either
    assert "Contents" not in ward.clients.client("s3").list_objects_v2(
        Bucket=ward.name, Prefix=f"lab/{ward.name}/doctor/"
    )


# ---------------------------------------------------------------------------------------------------- in this process


def test_inside_nothing_of_batch_is_asked(ward: Ward) -> None:
    ward.cloud.watch()
    typed(ward, "--inside")
    assert {one["service"] for one in ward.cloud.seen()} <= {"sts", "dynamodb", "s3", "logs"}


def full_scratch(ward: Ward) -> Mapping[str, str]:
    ward.store(min_free_disk_mb=10**9)
    return {}


def too_much_memory(ward: Ward) -> Mapping[str, str]:
    ward.store(memory_mb=10**8)
    return {}


def another_caller(ward: Ward) -> Mapping[str, str]:
    ward.store(parameters={"HC_CALLER": "bcftools"}, caller_version="0.1")
    return {}


def no_caller(ward: Ward) -> Mapping[str, str]:
    ward.store(parameters={"HC_CALLER": "gatk"})
    return {"GATK_JAR": "/none/gatk.jar", "JAVA": "/none/java"}


def no_file_in_the_image(ward: Ward) -> Mapping[str, str]:
    ward.store(references=[{"name": "ref", "uri": "/opt/none/ref.fa"}])
    return {}


def no_scripts_in_the_image(ward: Ward) -> Mapping[str, str]:
    ward.store(scripts="/opt/none/scripts")
    return {}


def no_metadata(ward: Ward) -> Mapping[str, str]:
    return {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "false"}


def wrong_items(ward: Ward) -> Mapping[str, str]:
    return {"PYANAMO_ITEMS": "many"}


def no_log_rights(ward: Ward) -> Mapping[str, str]:
    ward.cloud.answer("logs", "PutLogEvents", "access_denied", times=-1)
    return {}


def no_log_group(ward: Ward) -> Mapping[str, str]:
    ward.store(log_group=f"/none/{ward.name}")
    return {}


def another_bucket(ward: Ward) -> Mapping[str, str]:
    return {"S3_BUCKET": f"none-{ward.name}"}


def no_prefect(ward: Ward) -> Mapping[str, str]:
    return {"PREFECT_API_URL": "http://127.0.0.1:9/api"}


FAULTS: dict[Callable[[Ward], Mapping[str, str]], tuple[str, str, str]] = {
    full_scratch: ("scratch", "too little disk", "ScratchGb"),
    too_much_memory: ("memory", "the workflow file says 100,000,000", "memory_mb"),
    another_caller: ("caller", "the workflow pins 0.1", "Renew the image"),
    no_caller: ("caller", "gatk", "Build the image"),
    no_file_in_the_image: ("reference ref", "not in this container", "Put it into the image"),
    no_scripts_in_the_image: ("task scripts", "not in this container", "Put it into the image"),
    no_metadata: ("instance metadata", "sees no Spot notice", "HttpPutResponseHopLimit"),
    wrong_items: ("settings", "PYANAMO_ITEMS", "job definition"),
    no_log_rights: ("log rights", "AWS refused PutLogEvents", "logs:PutLogEvents"),
    no_log_group: ("log rights", "does not exist", "create-log-group"),
    another_bucket: ("bucket of results", "there is no bucket none-ward", "pyanamo deploy"),
    no_prefect: ("Prefect API", "nobody answers", "PREFECT_API_URL"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_container_is_found_by_its_name(
    ward: Ward, fault: Callable[[Ward], Mapping[str, str]], tmp_path: Path
) -> None:
    check, fact, mend = FAULTS[fault]
    environment: dict[str, Any] = {"PYANAMO_SCRATCH": str(tmp_path / "scratch"), **fault(ward)}
    try:
        done = CliRunner(env=environment).invoke(app, ["doctor", "--inside", "--table", ward.name, "--json"])
    finally:
        ward.store()
    lines = [Line(**{**line, "state": State(line["state"])}) for line in json.loads(done.stdout)["lines"]]
    found = the(lines, check, fact, mend)
    assert found.state in (State.WRONG, State.WARNING)
    assert done.exit_code == (8 if found.state is State.WRONG else 0)
    assert {line.check for line in lines if line.state is State.WRONG} <= {check}
    # And a folder that was made for the look is gone
    assert not (tmp_path / "scratch").exists()


def test_a_full_disk_is_told_by_the_kernels_own_words(ward: Ward, tmp_path: Path) -> None:
    # Given a scratch folder on a file system without room for a single file (one inode, which is its root)

    code = (
        "import subprocess, sys, runpy\n"
        f"subprocess.run(['mount', '-t', 'tmpfs', '-o', 'nr_inodes=1,size=1m', 'none', {str(tmp_path)!r}], check=True)\n"
        "sys.argv = ['pyanamo', 'doctor', '--inside', '--json']\n"
        "runpy.run_module('pyanamo', run_name='__main__')\n"
    )
    done = subprocess.run(
        [*UNSHARE, sys.executable, "-c", code],
        env={**os.environ, "PYANAMO_TABLE": ward.name, "PYANAMO_SCRATCH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [Line(**{**line, "state": State(line["state"])}) for line in json.loads(done.stdout)["lines"]]
    assert the(lines, "scratch", "No space left on device").state is State.WRONG
    assert done.returncode == 8


def test_inside_and_as_job_at_once_is_a_mistake(ward: Ward) -> None:
    done = CliRunner().invoke(app, ["doctor", "--inside", "--as-job", "--table", ward.name])
    assert done.exit_code == 2
    assert "give one of them" in done.output
