"""docs/own-workflow.md, typed as it stands in an empty folder: objects are copied, counted, and copied once."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from policy_support import Needed, allowed

from pyanamo_core.aws import Clients
from pyanamo_core.stack.template import Resolved, read_template

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "own-workflow.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", PAGE, re.S)
SCRIPT, WORKFLOW, OBJECTS, SHEET, RUN, AGAIN, SMALL, IMAGE, DEPLOY = BLOCKS


@dataclass(frozen=True)
class Newcomer:
    """An empty folder, and a shell without any AWS that leads to a local cloud once one is up."""

    folder: Path
    environment: dict[str, str]

    def types(self, commands: str) -> str:
        """What the shell says; every command must go well."""
        here = f'[ ! -e "$XDG_STATE_HOME/pyanamo/local/state.json" ] || eval "$(pyanamo local env)"\n{commands}'
        done = subprocess.run(
            ["bash", "-e", "-c", here],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def clients(self) -> Clients:
        """Of the local cloud that runs."""
        endpoint = self.types("echo $AWS_ENDPOINT_URL").strip()
        return Clients.with_keys("x", "x", endpoint, "us-east-1")

    def objects(self, bucket: str, prefix: str) -> dict[str, Any]:
        """Keys below a prefix, and when they were written."""
        told = self.clients.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)
        return {one["Key"]: one["LastModified"] for one in told.get("Contents", ())}


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYANAMO_", "PREFECT_"))}
    folder = tmp_path / "empty"
    folder.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    made = Newcomer(folder, {**kept, "PATH": path, "XDG_STATE_HOME": str(tmp_path / "state")})
    yield made
    subprocess.run(["pyanamo", "local", "down"], env=made.environment, capture_output=True, check=False)


def test_the_pages_commands_copy_each_object_once_and_count_its_bytes(newcomer: Newcomer) -> None:
    # Given the page's chapters 1 to 5, when they are typed as they stand
    newcomer.types(SCRIPT + WORKFLOW + OBJECTS)
    assert "at this pace the sheet's 12 nests take" in newcomer.types(SHEET)
    said = newcomer.types(RUN)
    # Then all objects lie in the other bucket, and what was counted is their bytes
    first = newcomer.objects("my-archive", "copies/")
    assert sorted(first) == sorted(f"copies/{key}" for key in newcomer.objects("my-inbox", "logs/"))
    assert len(first) == 12
    with (newcomer.folder / "results.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["figures.bytes"] for row in rows[:4]] == ["29", "58", "87", "116"]
    assert "\n870 bytes copied\n" in said
    assert "12 outputs, 870 B: all as recorded" in said
    # And when there is another day, then only that day's objects are copied
    newcomer.clients.client("s3").put_object(Bucket="my-inbox", Key="logs/2026-01-04/00.log", Body=b"late\n")
    newcomer.types(SHEET.replace("pyanamo rehearse sheet.txt", "") + AGAIN)
    after = newcomer.objects("my-archive", "copies/")
    assert {key: after[key] for key in first} == first
    assert sorted(set(after) - set(first)) == ["copies/logs/2026-01-04/00.log"]


def test_the_pages_stack_gives_pilots_the_two_buckets_and_no_more(newcomer: Newcomer) -> None:
    # Given the page's workflow file, when its stack is made with the page's commands
    newcomer.types(SCRIPT + WORKFLOW + "pyanamo local up")
    assert "dkr.ecr" in newcomer.types(DEPLOY)
    (stack,) = newcomer.clients.client("cloudformation").describe_stacks(StackName="CopyLogs")["Stacks"]
    given = {one["ParameterKey"]: str(one.get("ParameterValue", "")) for one in stack["Parameters"]}
    pilot = [Resolved(read_template(), given, "CopyLogs", "123456789012", "us-east-1").roles["PilotRole"].document]
    # Then pilots may do what the script does
    inbox, archive = "arn:aws:s3:::my-inbox", "arn:aws:s3:::my-archive"
    table = "arn:aws:dynamodb:us-east-1:123456789012:table/CopyLogs"
    for needed in (
        Needed("s3:GetObject", f"{inbox}/logs/2026-01-01/00.log"),
        Needed("s3:ListBucket", inbox),
        Needed("s3:PutObject", f"{archive}/copies/logs/2026-01-01/00.log"),
        Needed("s3:GetObject", f"{archive}/copies/logs/2026-01-01/00.log"),
        Needed("dynamodb:UpdateItem", table),
    ):
        assert allowed(pilot, needed), needed
    # And nothing beside it
    for needed in (
        Needed("s3:PutObject", f"{inbox}/logs/2026-01-01/00.log"),
        Needed("s3:PutObject", f"{archive}/payroll/x"),
        Needed("dynamodb:UpdateItem", table.replace("CopyLogs", "HaplotypeCaller")),
    ):
        assert not allowed(pilot, needed), needed
