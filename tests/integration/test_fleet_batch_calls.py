"""Batch's calls against the local Batch: what boto3 really sends and reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver_support import Place, wait_for

from pyanamo_core import driver
from pyanamo_core.errors import (
    AccessDenied,
    BucketMissing,
    DefinitionMissing,
    NoCredentials,
    QueueClosed,
    QueueMissing,
    SubmitRefused,
    SubmitThrottled,
    SubmitUnknown,
)
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.local import LocalCloud


@pytest.fixture
def place(misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path) -> Place:
    return Place(misbehaving_cloud, unique_name, tmp_path, command=["bash", "-c", 'exit "$CODE"'])


def submit(place: Place, name: str, size: int, code: int) -> str:
    return Batch(place.clients).submit(
        name, queue=place.name, definition=f"{place.name}:1", size=size, environment={"CODE": str(code)}
    )


def ended(place: Place, job_id: str):
    batch = Batch(place.clients)
    wait_for(lambda: batch.describe([job_id])[job_id].ended)
    return batch.describe([job_id])[job_id]


def test_an_array_is_described_by_its_parent_and_its_failed_children_by_their_attempts(place: Place):
    job = ended(place, submit(place, "three", 3, 6))
    assert (job.status, job.size, job.live, job.failed) == ("FAILED", 3, 0, 3)
    children = Batch(place.clients).failed_children(job)
    assert sorted(child.job_id for child in children) == [f"{job.job_id}:{n}" for n in range(3)]
    assert {child.attempts[-1].exit_code for child in children} == {6}
    # And children that are known are not described again
    skip = {f"{job.job_id}:0", f"{job.job_id}:1"}
    assert [child.index for child in Batch(place.clients).failed_children(job, skip)] == [2]


def test_a_single_pilot_is_a_plain_job_that_stands_for_itself(place: Place):
    job = ended(place, submit(place, "one", 1, 6))
    assert (job.size, job.index, dict(job.summary)) == (1, None, {"FAILED": 1})
    assert Batch(place.clients).failed_children(job) == [job]


def test_exit_code_75_is_tried_ten_times_by_batch_itself(place: Place):
    job = ended(place, submit(place, "again", 1, 75))
    assert [attempt.exit_code for attempt in job.attempts] == [75] * 10


def test_jobs_are_found_by_exact_name_the_oldest_first(place: Place):
    ids = [submit(place, "twin", 1, 0), submit(place, "twin", 1, 0)]
    submit(place, "TWIN", 1, 0)
    submit(place, "twin-2", 1, 0)
    assert [job.job_id for job in Batch(place.clients).find("twin", place.name)] == ids


def test_a_definition_is_the_newest_active_revision_or_the_one_that_is_named(place: Place):
    client = place.clients.client("batch")
    properties = {
        "image": "newer",
        "resourceRequirements": [{"type": "VCPU", "value": "2"}, {"type": "MEMORY", "value": "64"}],
    }
    client.register_job_definition(jobDefinitionName=place.name, type="container", containerProperties=properties)
    batch = Batch(place.clients)
    newest = batch.definition(place.name)
    assert (newest.name, newest.vcpus, newest.memory_mb, newest.image) == (f"{place.name}:2", 2, 64, "newer")
    assert batch.definition(f"{place.name}:1").name == f"{place.name}:1"
    client.deregister_job_definition(jobDefinition=f"{place.name}:2")
    assert batch.definition(place.name).name == f"{place.name}:1"


def test_unknown_jobs_are_absent_from_a_description_and_fine_to_end(place: Place):
    batch = Batch(place.clients)
    nobody = "00000000-0000-0000-0000-000000000000"
    assert batch.describe([nobody]) == {}
    batch.terminate(nobody, "test")
    batch.cancel(nobody, "test")


def test_cancel_spares_what_runs_and_terminate_does_not(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given an array of which one vCPU lets one child run
    place = Place(misbehaving_cloud, unique_name, tmp_path, command=["sleep", "60"], max_vcpus=1)
    batch = Batch(place.clients)
    job_id = submit(place, "three", 3, 0)
    wait_for(lambda: batch.describe([job_id])[job_id].summary.get("RUNNING"))
    # When it is cancelled, then the two that wait end
    batch.cancel(job_id, "nothing left")
    wait_for(lambda: batch.describe([job_id])[job_id].failed == 2)
    job = batch.describe([job_id])[job_id]
    assert (job.live, job.waiting) == (1, 0)
    assert all(child.ended_by_us for child in batch.failed_children(job))
    # When it is terminated, then all end
    batch.terminate(job_id, "the end")
    assert ended(place, job_id).failed == 3


def test_the_last_line_of_a_failed_pilots_log_can_be_read(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    command = ["bash", "-c", "echo first; echo the reason; exit 6"]
    place = Place(misbehaving_cloud, unique_name, tmp_path, command=command)
    job = ended(place, submit(place, "log", 1, 6))
    assert wait_for(lambda: Batch(place.clients).last_log_line(job)) == "the reason"


def test_a_submission_without_an_answer_is_unknown_and_one_with_a_no_is_refused(place: Place):
    for misbehave in (place.cloud.lose, place.cloud.drop):
        misbehave("batch", "SubmitJob")
        with pytest.raises(SubmitUnknown):
            submit(place, "unknown", 1, 0)
    place.cloud.answer("batch", "SubmitJob", "internal_error")
    with pytest.raises(SubmitUnknown):
        submit(place, "unknown", 1, 0)
    place.cloud.throttle("batch", "SubmitJob")
    with pytest.raises(SubmitThrottled):
        submit(place, "busy", 1, 0)
    with pytest.raises(SubmitRefused, match="no-such-definition"):
        Batch(place.clients).submit("x", queue=place.name, definition="no-such-definition:1", size=1, environment={})
    # And only the request whose answer was lost has made a job
    assert len(Batch(place.clients).find("unknown", place.name)) == 1


@pytest.mark.parametrize(("shape", "error"), [("expired_token", NoCredentials), ("access_denied", AccessDenied)])
def test_a_refusal_of_who_asks_is_told_as_such(place: Place, shape: str, error: type[Exception]):
    place.cloud.answer("batch", "SubmitJob", shape)
    with pytest.raises(error):
        submit(place, "x", 1, 0)


def test_provision_makes_the_table_once_and_says_what_is_missing(place: Place):
    workflow = place.workflow()
    # Given nothing is missing, then the table is made, once
    first = driver.provision(place.clients, workflow)
    again = driver.provision(place.clients, workflow)
    assert (first.created, first.version, again.created, again.version) == (True, 1, False, 1)
    assert driver.provision(place.clients, workflow.model_copy(update={"pilots": 3})).version == 2
    # Given something is, then it is named, and no table made
    nowhere = workflow.model_copy(update={"table": f"{place.name}-other"})
    for change, error in (
        ({"queue": "nobody"}, QueueMissing),
        ({"job_definition": "nobody"}, DefinitionMissing),
        ({"job_definition": f"{place.name}:9"}, DefinitionMissing),
        ({"buckets": {"results": "s3://no-such-bucket-of-ours/x"}}, BucketMissing),
    ):
        with pytest.raises(error):
            driver.provision(place.clients, type(workflow).model_validate(nowhere.model_dump() | change))
    place.clients.client("batch").update_job_queue(jobQueue=place.name, state="DISABLED")
    with pytest.raises(QueueClosed):
        driver.provision(place.clients, nowhere)
    assert nowhere.table_name not in place.clients.client("dynamodb").list_tables()["TableNames"]
