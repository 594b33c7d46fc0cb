"""`pyanamo plan --look` against the local cloud: references, prices of Spot, and what is done already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pyanamo.main import app
from pyanamo_core.importer import import_sheet
from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import Nest, NestStatus
from pyanamo_core.sheet import read_sheet
from pyanamo_core.workflow_file import read_workflow

WORKFLOW = """
name: {name}
queue: q
job_definition: d
buckets:
  results: s3://{name}/x
  inputs: [{{bucket: {name}, region: us-east-1}}]
references: [{{name: ref, uri: s3://{name}/ref.fa}}]
"""


@pytest.fixture
def name(
    misbehaving_cloud: LocalCloud,
    cloud_environment: dict[str, str],
    unique_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A bucket with a reference, and a folder with workflow and a sheet of three items; the bucket's name."""
    s3 = misbehaving_cloud.clients().client("s3")
    s3.create_bucket(Bucket=unique_name)
    s3.put_object(Bucket=unique_name, Key="ref.fa", Body=b">chr1\nACGT\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflow.yaml").write_text(WORKFLOW.format(name=unique_name))
    lines = "".join(f"item-{n}|count|seq|3,4\n" for n in range(3))
    (tmp_path / "sheet.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\n" + lines)
    return unique_name


def types(*words: str, code: int = 0) -> Result:
    done = CliRunner(env={"COLUMNS": "240"}).invoke(app, ["plan", "--sheet", "sheet.txt", "--nest-time", "60", *words])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done


def checks(told: Any) -> dict[str, str]:
    return {one["what"]: one["said"] for one in told["checks"]}


def test_a_closer_look_finds_reference_prices_and_what_is_done(name: str, misbehaving_cloud: LocalCloud) -> None:
    # Given no table yet, when the plan looks closer
    told = json.loads(types("--look", "--json").stdout)
    # Then it says what it found, and where the price comes from
    assert told["estimate"]["items"] == 3
    assert checks(told)["reference ref"] == f"s3://{name}/ref.fa is there, 11 bytes"
    assert checks(told)["table"] == f"there is no table {name} yet: nothing is done"
    assert "a vCPU and hour" in checks(told)["Spot"]
    machines = next(one for one in told["estimate"]["lines"] if one["what"] == "machines, Spot")
    assert "AWS's Spot prices of us-east-1" in machines["source"]
    # And given one item that is done, then two are left to pay
    clients = misbehaving_cloud.clients()
    create_table(clients, name, deletion_protection=False, pitr=False)
    ledger = Ledger(clients, name)
    ledger.add_workflow(read_workflow("workflow.yaml"))
    import_sheet(ledger, read_sheet("sheet.txt"))
    claim = ledger.claim("item-1", "p")
    assert claim is not None
    for index in range(2):
        ledger.record_nest(
            claim, Nest(item_id="item-1", epoch=0, index=index, status=NestStatus.DONE, fence=claim.fence)
        )
    ledger.finish(claim, nests_done=2)
    told = json.loads(types("--look", "--json").stdout)
    assert (told["estimate"]["items"], told["estimate"]["nests"]) == (2, 4)
    assert checks(told)["table"] == f"table {name} holds 1 done item"
    # … which a plan without a look does not know
    assert json.loads(types("--json").stdout)["estimate"]["items"] == 3


def test_what_may_not_be_looked_at_is_said_and_keeps_nothing_from_the_plan(
    name: str, misbehaving_cloud: LocalCloud
) -> None:
    misbehaving_cloud.answer("ec2", "DescribeSpotPriceHistory", "access_denied", times=-1)
    misbehaving_cloud.answer("s3", "HeadObject", "access_denied", times=-1)
    misbehaving_cloud.answer("dynamodb", "DescribeTable", "access_denied", times=-1)
    misbehaving_cloud.answer("dynamodb", "Query", "access_denied", times=-1)
    told = json.loads(types("--look", "--json").stdout)
    found = checks(told)
    assert "not checked" in found["reference ref"]
    assert found["Spot"].startswith("prices of Spot were not asked for")
    assert told["estimate"]["items"] == 3
    assert told["once"]["high"] > 0


def test_where_nobody_answers_the_plan_is_made_without_a_look(name: str) -> None:
    told = json.loads(types("--look", "--json", "--endpoint-url", "http://127.0.0.1:9").stdout)
    assert checks(told)["AWS"].startswith("was not asked: http://127.0.0.1:9 cannot be reached")
    assert "Spot" not in checks(told)
    assert told["estimate"]["items"] == 3


def test_a_reference_that_is_not_there_is_refused(name: str) -> None:
    file = Path("workflow.yaml")
    file.write_text(file.read_text().replace("ref.fa", "nope.fa"))
    done = types("--look", code=3)
    assert f"s3://{name}/nope.fa" in done.output
    assert "nothing was planned" in done.output
