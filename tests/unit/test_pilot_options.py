"""What a pilot is told by its environment."""

from __future__ import annotations

import pytest

from pyanamo_core.pilot.options import OptionInvalid, PilotOptions, TableNotNamed
from pyanamo_core.workflow import Buckets, Workflow

WORKFLOW = Workflow(name="Seq", queue="q", job_definition="j", buckets=Buckets(results="s3://results/prefix"))


def test_a_table_is_all_that_a_pilot_needs() -> None:
    options = PilotOptions.from_environment({"PYANAMO_TABLE": "Seq"})

    assert (options.table, options.run_id, options.items, options.array_index) == ("Seq", "", None, None)
    assert options.overrides() == {}


def test_without_a_table_it_is_refused() -> None:
    with pytest.raises(TableNotNamed, match="PYANAMO_TABLE"):
        PilotOptions.from_environment({})


def test_overrides_are_told() -> None:
    environ = {"PYANAMO_TABLE": "Seq", "PYANAMO_ITEMS": "3", "S3_BUCKET": "mine", "PYANAMO_SCRIPTS": "s3://b/s.zip"}

    assert PilotOptions.from_environment(environ).overrides() == {
        "PYANAMO_ITEMS": "3",
        "S3_BUCKET": "mine",
        "PYANAMO_SCRIPTS": "s3://b/s.zip",
    }


def test_a_wall_time_in_seconds_overrides_the_workflows() -> None:
    options = PilotOptions.from_environment({"PYANAMO_TABLE": "Seq", "PYANAMO_WALL_TIME": "3600"})

    assert options.wall_time_seconds == 3600
    assert options.overrides() == {"PYANAMO_WALL_TIME": "3600"}


@pytest.mark.parametrize("value", ["0", "-5", "1h", "inf", "nan"])
def test_a_wall_time_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(OptionInvalid, match="PYANAMO_WALL_TIME"):
        PilotOptions.from_environment({"PYANAMO_TABLE": "Seq", "PYANAMO_WALL_TIME": value})


def test_batch_tells_job_attempt_and_index() -> None:
    options = PilotOptions.from_environment(
        {
            "PYANAMO_TABLE": "Seq",
            "AWS_BATCH_JOB_ID": "j:3",
            "AWS_BATCH_JOB_ATTEMPT": "2",
            "AWS_BATCH_JOB_ARRAY_INDEX": "0",
        }
    )

    assert (options.batch_job, options.batch_attempt, options.array_index) == ("j:3", 2, 0)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_number_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(OptionInvalid, match="PYANAMO_NESTS"):
        PilotOptions.from_environment({"PYANAMO_TABLE": "Seq", "PYANAMO_NESTS": value})


@pytest.mark.parametrize(
    ("given", "prefix"),
    [
        ("", "s3://results/prefix"),
        ("mine", "s3://mine/prefix"),
        ("s3://mine/other/", "s3://mine/other"),
    ],
)
def test_a_bucket_or_a_prefix_may_replace_the_workflows(given: str, prefix: str) -> None:
    assert PilotOptions(table="Seq", results=given).results_prefix(WORKFLOW) == prefix
