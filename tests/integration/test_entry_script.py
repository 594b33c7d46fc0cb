"""docker/fetch_and_run.sh: what a container is told is printed and checked before it becomes a pilot."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pyanamo_core.resources import resource

SCRIPT = resource("docker/fetch_and_run.sh")
GOOD = {"PYANAMO_TABLE": "HaplotypeCaller", "AWS_REGION": "us-east-1"}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with a `pyanamo` that tells how it was called and what it sees."""
    folder = tmp_path / "bin"
    folder.mkdir()
    told = folder / "pyanamo"
    told.write_text(
        "#!/usr/bin/env python3\nimport json, os, sys\n"
        "print('called', json.dumps({'arguments': sys.argv[1:], 'pid': os.getpid(), 'environment': dict(os.environ)}))\n"
    )
    told.chmod(0o755)
    return folder


def entered(programs: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The entry script's end, with nothing in its environment but these settings."""
    scratch = programs.parent / "scratch"
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "PYANAMO_SCRATCH": str(scratch)} | settings
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False, timeout=20
    )


def pilot_of(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    """What the pilot that the script became has told."""
    return json.loads(done.stdout.partition("called ")[2])


@pytest.mark.parametrize(
    ("settings", "arguments", "variable", "words"),
    [
        ({"PYANAMO_TABLE": ""}, [], "PYANAMO_TABLE", "not set"),
        ({"PYANAMO_TABLE": "no table!"}, [], "PYANAMO_TABLE", "no name of a table"),
        ({"AWS_REGION": ""}, [], "AWS_REGION", "not set"),
        ({"AWS_REGION": "Frankfurt"}, [], "AWS_REGION", "no region of AWS"),
        ({"S3_BUCKET": "My_Bucket"}, [], "S3_BUCKET", "neither a bucket's name nor"),
        ({"S3_BUCKET": "bucket/prefix"}, [], "S3_BUCKET", "write s3://bucket/prefix"),
        ({"PYANAMO_ITEMS": "0"}, [], "PYANAMO_ITEMS", "no whole number"),
        ({"PYANAMO_ITEMS": "2.5"}, [], "PYANAMO_ITEMS", "no whole number"),
        ({"PYANAMO_NESTS": "many"}, [], "PYANAMO_NESTS", "no whole number"),
        ({"PYANAMO_NESTS": "-1"}, [], "PYANAMO_NESTS", "no whole number"),
        ({}, ["gs://bucket/scripts.tar.gz"], "SCRIPTS", "no s3://bucket/key"),
        ({}, ["s3://bucket"], "SCRIPTS", "no s3://bucket/key"),
        ({}, ["/opt/none/scripts.tar.gz"], "SCRIPTS", "neither a file, a folder nor a program"),
        ({"PYANAMO_SCRIPTS": "scripts.tgz"}, [], "SCRIPTS", "neither a file, a folder nor a program"),
        ({}, ["s3://bucket/a.tar", "s3://bucket/b.tar"], "SCRIPTS", "one argument is taken"),
    ],
)
def test_a_wrong_setting_is_told_by_its_name_and_nothing_is_run(
    programs: Path, settings: dict[str, str], arguments: list[str], variable: str, words: str
) -> None:
    done = entered(programs, *arguments, **(GOOD | settings))

    [line] = done.stderr.splitlines()
    assert line.startswith(f"fetch_and_run.sh: {variable}: ")
    assert words in line
    assert done.returncode == 78
    assert "called" not in done.stdout
    assert not (programs.parent / "scratch").exists()


def test_all_faults_are_told_at_once(programs: Path) -> None:
    done = entered(programs, PYANAMO_ITEMS="x", PYANAMO_NESTS="0")

    told = [line.split(": ")[1] for line in done.stderr.splitlines()]
    assert told == ["PYANAMO_TABLE", "AWS_REGION", "PYANAMO_ITEMS", "PYANAMO_NESTS"]


def test_with_a_table_alone_it_becomes_a_pilot_that_writes_below_the_scratch_folder_only(programs: Path) -> None:
    done = entered(programs, PYANAMO_TABLE="Table", AWS_DEFAULT_REGION="eu-west-2")

    # Then what it was told is printed, and the pilot's folders all lie below one
    assert "PYANAMO_TABLE    Table\n" in done.stdout
    assert "S3_BUCKET        (the workflow's)\n" in done.stdout
    pilot = pilot_of(done)
    assert pilot["arguments"] == ["pilot"]
    seen = pilot["environment"]
    scratch = str(programs.parent / "scratch")
    assert seen["PYANAMO_SCRATCH"] == scratch
    for name in ("HOME", "TMPDIR"):
        assert seen[name].startswith(f"{scratch}/")
        assert Path(seen[name]).is_dir()
    assert seen["PYANAMO_STAGING"].startswith(f"{scratch}/")
    assert seen["AWS_REGION"] == "eu-west-2"
    assert "PYANAMO_SCRIPTS" not in seen


@pytest.mark.parametrize("scripts", ["s3://bucket/my/scripts.tar.gz", "s3://bucket/folder/", "https://host/s.zip"])
def test_an_archive_as_argument_overrides_the_workflows(programs: Path, scripts: str) -> None:
    done = entered(programs, scripts, **GOOD, PYANAMO_SCRIPTS="s3://bucket/other.tar")

    assert pilot_of(done)["environment"]["PYANAMO_SCRIPTS"] == scripts
    assert f"SCRIPTS          {scripts}\n" in done.stdout


def test_an_archive_that_is_baked_into_the_image_is_taken_by_its_path(programs: Path, tmp_path: Path) -> None:
    baked = tmp_path / "scripts.tar.gz"
    baked.write_bytes(b"")

    assert pilot_of(entered(programs, str(baked), **GOOD))["environment"]["PYANAMO_SCRIPTS"] == str(baked)


def test_any_program_of_the_image_can_be_run_instead(programs: Path) -> None:
    done = entered(programs, "pyanamo", "status", "--json")

    assert pilot_of(done)["arguments"] == ["status", "--json"]


def test_the_script_becomes_the_pilot_so_that_signals_reach_it(programs: Path) -> None:
    scratch = programs.parent / "scratch"
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "PYANAMO_SCRATCH": str(scratch)} | GOOD
    with subprocess.Popen(["bash", str(SCRIPT)], env=environment, stdout=subprocess.PIPE, text=True) as running:
        told, _ = running.communicate(timeout=20)

    assert json.loads(told.partition("called ")[2])["pid"] == running.pid


def test_a_scratch_folder_that_cannot_be_written_is_the_hosts_fault(programs: Path) -> None:
    # Given a file where the folder should be: nobody can write below it, whoever runs this
    (programs.parent / "scratch").write_text("")

    done = entered(programs, **GOOD)

    assert "PYANAMO_SCRATCH: user" in done.stderr
    assert "mode 1777" in done.stderr
    assert done.returncode == 75
