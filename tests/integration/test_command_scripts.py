"""`pyanamo scripts …` as a user types it: pack, push, list."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pyanamo.main import app
from pyanamo_core.aws import Clients
from pyanamo_core.local.provision import ensure_compute
from pyanamo_core.staging import stage
from pyanamo_core.workflow import Buckets, Workflow

WORKFLOW = """
name: NAME
queue: NAME
job_definition: NAME
buckets:
  results: s3://NAME/results
"""


def types(*words: str, exit_code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == exit_code, f"{words}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
    return done


def reads(*words: str) -> Any:
    return json.loads(types(*words, "--json").stdout)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with task scripts in it."""
    monkeypatch.chdir(tmp_path)
    scripts = tmp_path / "mine"
    scripts.mkdir()
    (scripts / "run.sh").write_text("#!/bin/sh\n")
    (scripts / "run.sh").chmod(0o755)
    (scripts / "table.tsv").write_text("a\tb\n")
    return tmp_path


@pytest.fixture
def bucket(cloud_clients: Clients, cloud_environment: dict[str, str], unique_name: str) -> str:
    """A bucket of the local cloud, where the commands lead."""
    ensure_compute(cloud_clients, unique_name, unique_name, buckets=[unique_name])
    return unique_name


def test_a_packed_folder_is_the_same_archive_wherever_and_whenever(folder: Path) -> None:
    first = reads("scripts", "pack", "mine", "-o", "a.tar")
    (folder / "mine" / "table.tsv").touch()
    second = reads("scripts", "pack", "mine", "-o", "b.tar")

    assert first["files"] == 2
    assert first["sha256"] == second["sha256"] == hashlib.sha256((folder / "a.tar").read_bytes()).hexdigest()
    with tarfile.open("b.tar") as archive:
        assert [(each.name, oct(each.mode)) for each in archive] == [("run.sh", "0o755"), ("table.tsv", "0o644")]


def test_nothing_of_the_users_is_overwritten(folder: Path) -> None:
    (folder / "task_scripts.tar").write_text("mine")

    assert "is there already" in types("scripts", "pack", "mine", exit_code=3).stderr
    assert (folder / "task_scripts.tar").read_text() == "mine"


def test_pushed_scripts_are_listed_staged_and_pushed_once(folder: Path, bucket: str, cloud_clients: Clients) -> None:
    # Given a workflow file that says where results go
    (folder / "workflow.yaml").write_text(WORKFLOW.replace("NAME", bucket))

    # When a folder is pushed twice
    first, again = reads("scripts", "push", "mine"), reads("scripts", "push", "mine")

    # Then it lies beside the results, once, under its hash
    assert first["uri"] == f"s3://{bucket}/results/{bucket}/scripts/{first['sha256'][:16]}.tar"
    assert (first["new"], again["new"], again["uri"]) == (True, False, first["uri"])
    # and the workflow version that names it is told with it
    assert [(each["uri"], each["used_by"]) for each in reads("scripts", "list")] == [(first["uri"], None)]
    (folder / "workflow.yaml").write_text(WORKFLOW.replace("NAME", bucket) + f"scripts: {first['uri']}\n")
    types("workflow", "create", "--no-protect")
    assert [(each["uri"], each["used_by"]) for each in reads("scripts", "list")] == [(first["uri"], 1)]
    # and a host stages it
    told = Workflow(
        name="Any",
        queue="q",
        job_definition="j",
        buckets=Buckets(results=f"s3://{bucket}"),
        scripts=first["uri"],
        scripts_sha256=first["sha256"],
    )
    staged = stage(told, cloud_clients, root=folder / "store")
    assert (Path(staged.pipeline) / "run.sh").stat().st_mode & 0o100


def test_an_archive_goes_where_it_is_told(folder: Path, bucket: str) -> None:
    types("scripts", "pack", "mine", "-o", "own.tar")

    sent = reads("scripts", "push", "own.tar", "--to", f"s3://{bucket}/elsewhere/")

    assert sent["uri"].startswith(f"s3://{bucket}/elsewhere/")
    assert [each["uri"] for each in reads("scripts", "list", "--to", f"s3://{bucket}/elsewhere")] == [sent["uri"]]


def test_what_hosts_would_refuse_is_not_pushed(folder: Path, bucket: str, cloud_clients: Clients) -> None:
    # Given an archive with a link that leads out, an empty folder, and a file that is no archive
    with tarfile.open("evil.tar", "w") as archive:
        link = tarfile.TarInfo("evil")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (folder / "empty").mkdir()
    to = ("--to", f"s3://{bucket}/x")

    assert "leads out of its folder" in types("scripts", "push", "evil.tar", *to, exit_code=6).stderr
    assert "holds no task scripts" in types("scripts", "push", "empty", *to, exit_code=3).stderr
    assert "holds no task scripts" in types("scripts", "push", "mine/run.sh", *to, exit_code=3).stderr
    assert "is no s3://bucket/prefix" in types("scripts", "push", "mine", "--to", "bucket", exit_code=3).stderr
    assert cloud_clients.client("s3").list_objects_v2(Bucket=bucket)["KeyCount"] == 0
