"""The strongest source of a setting wins, and each value knows where it comes from."""

from __future__ import annotations

from pathlib import Path

from pyanamo_core.settings import resolve
from pyanamo_core.workflow_file import parse_workflow

WORKFLOW = parse_workflow(
    "name: Count\nqueue: Q\njob_definition: D\nbuckets: {results: s3://bucket/prefix}\nitems: 3\nnests: 4\n"
)


def test_option_beats_parameter_beats_environment_beats_workflow_beats_default() -> None:
    # Given a value for `items` from every source
    sources = [
        ({"items": 6}, {"items": 5}, {"PYANAMO_ITEMS": "4"}, WORKFLOW),
        ({}, {"items": 5}, {"PYANAMO_ITEMS": "4"}, WORKFLOW),
        ({}, {}, {"PYANAMO_ITEMS": "4"}, WORKFLOW),
        ({}, {}, {}, WORKFLOW),
        ({}, {}, {}, None),
    ]
    # When the strongest is taken away, one after the other
    found = [
        resolve(options, parameters=parameters, environ=environ, workflow=workflow, version=2)
        for options, parameters, environ, workflow in sources
    ]
    # Then the next one holds, and says so
    assert [(one.get("items"), one.source("items")) for one in found] == [
        ("6", "option --items"),
        ("5", "parameter items"),
        ("4", "environment PYANAMO_ITEMS"),
        ("3", "workflow version 2"),
        ("", "default"),
    ]


def test_an_empty_option_or_variable_is_as_if_it_were_not_there() -> None:
    # Given an empty option and an empty variable
    found = resolve({"table": ""}, environ={"PYANAMO_TABLE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "eu-west-1"})
    # Then the next source counts
    assert found.source("table") == "default"
    assert (found.get("region"), found.source("region")) == ("eu-west-1", "environment AWS_DEFAULT_REGION")


def test_the_folders_workflow_file_names_the_table(tmp_path: Path) -> None:
    # Given a folder with a workflow file, and one whose file is broken
    (tmp_path / "workflow.yaml").write_text("name: Count\n")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "workflow.yaml").write_text("name: [\n")
    # Then the first gives the table's name where nothing else does
    assert resolve(environ={}, folder=tmp_path).table == "Count"
    assert resolve(environ={}, folder=tmp_path).source("table") == "file workflow.yaml"
    assert resolve(environ={"PYANAMO_TABLE": "Other"}, folder=tmp_path).table == "Other"
    assert resolve(environ={}, folder=broken).table == ""


def test_the_address_of_prefects_active_profile_is_found_without_prefect(tmp_path: Path) -> None:
    # Given Prefect's profiles, of which one is active
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(
        'active = "lab"\n[profiles.lab]\nPREFECT_API_URL = "http://lab:4200/api"\n'
        '[profiles.cloud]\nPREFECT_API_URL = "https://cloud/api"\n[profiles.empty]\n'
    )
    home = {"PREFECT_HOME": str(tmp_path)}
    # Then it is the active one's, another one's when named, and none where a profile has none
    assert resolve(environ=home).prefect_api_url == "http://lab:4200/api"
    assert resolve(environ=home).source("prefect_api_url") == "Prefect's profile lab"
    assert resolve(environ={**home, "PREFECT_PROFILE": "cloud"}).prefect_api_url == "https://cloud/api"
    assert resolve(environ={**home, "PREFECT_PROFILE": "empty"}).prefect_api_url == ""
    assert resolve(environ={**home, "PREFECT_API_URL": "http://mine/api"}).prefect_api_url == "http://mine/api"


def test_only_what_overrides_the_workflow_is_recorded_as_an_override(tmp_path: Path) -> None:
    # Given one setting of the workflow from the environment, one from an option
    found = resolve({"nests": 8}, environ={"S3_BUCKET": "s3://other/x", "AWS_REGION": "us-east-1"}, workflow=WORKFLOW)
    # Then these two are overrides, and the region, which the workflow does not have, is not
    assert found.overridden() == {"nests": "8", "results": "s3://other/x"}
