"""`results list`, `get` and `export` as they are typed, on a table in the local cloud."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.model import Cause, Definition, Nest, NestStatus, Output
from pyanamo_core.workflow import Buckets, Workflow

BUCKET = "report-results"
BODY = b"a result of many bytes\n" * 100


def output(cloud_clients, key: str, body: bytes = BODY) -> Output:
    """An object in the bucket, and what is recorded of it."""
    cloud_clients.client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)
    return Output(uri=f"s3://{BUCKET}/{key}", bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


@pytest.fixture
def table(cloud_clients, cloud_environment, unique_name, tmp_path: Path) -> str:
    """Item A is done (one nest has a file beside the bucket, one its results in an object), B failed, C waits."""
    name = unique_name
    cloud_clients.client("s3").create_bucket(Bucket=BUCKET)
    create_table(cloud_clients, name, deletion_protection=False, pitr=False)
    ledger = Ledger(cloud_clients, name)
    ledger.add_workflow(Workflow(name=name, queue="q", job_definition="d", buckets=Buckets(results=f"s3://{BUCKET}/x")))
    for item in "ABC":
        ledger.import_item(item, "t", Definition(script="s", arguments=("one", "two", "7")))
    beside = tmp_path / "beside.txt"
    beside.write_bytes(BODY)
    path_output = Output(uri=beside.as_uri(), bytes=len(BODY), sha256=hashlib.sha256(BODY).hexdigest())
    big = output(cloud_clients, f"{name}/big.txt")
    packed = gzip.compress(
        json.dumps({"outputs": [big.model_dump()], "tags": ["x"] * 3, "figures": {"variants": 99}}).encode()
    )
    held = output(cloud_clients, f"{name}/overflow.json.gz", packed)
    claim = ledger.claim("A", "p1")
    assert claim is not None
    common = {
        "item_id": "A",
        "epoch": claim.epoch,
        "status": NestStatus.DONE,
        "fence": claim.fence,
        "started": 1.8e9,
        "ended": 1.8e9 + 2,
    }
    first = (output(cloud_clients, f"{name}/one.txt"), path_output)
    ledger.record_nest(claim, Nest(index=0, outputs=first, figures={"variants": 31}, **common))
    ledger.record_nest(claim, Nest(index=1, overflow=held.uri, overflow_sha256=held.sha256, **common))
    ledger.record_nest(claim, Nest(index=2, **common))
    ledger.finish(claim, nests_done=3)
    claim = ledger.claim("B", "p1")
    assert claim is not None
    failed = {**common, "item_id": "B", "fence": claim.fence, "status": NestStatus.FAILED}
    ledger.record_nest(claim, Nest(index=0, exit_code=65, cause=Cause.PERMANENT, message="no such sample", **failed))
    ledger.fail(claim, Cause.PERMANENT, "no such sample", nests_failed=1)
    return name


@pytest.fixture
def pyanamo(table: str, tmp_path: Path):
    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pyanamo", *arguments, "--table", table]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_results_are_listed_with_what_was_too_big_for_its_row(pyanamo):
    rows = json.loads(pyanamo("results", "list", "--json").stdout)
    found = {(one["item"], one["nest"]): one for one in rows}
    assert len(found) == 9
    assert found["A", 1]["figures"] == {"variants": 99}
    assert found["B", 0]["message"] == "no such sample"
    assert [one["item"] for one in json.loads(pyanamo("results", "list", "--status", "failed", "--json").stdout)] == [
        "B"
    ]
    assert {one["item"] for one in json.loads(pyanamo("results", "list", "--state", "todo", "--json").stdout)} == {"C"}
    assert "… more than 2" in pyanamo("results", "list", "--limit", "2").stdout


def test_outputs_are_fetched_by_value_or_number_wherever_they_lie(pyanamo, tmp_path: Path):
    everything = json.loads(pyanamo("results", "get", "A", "--out", "all", "--json").stdout)
    assert [Path(one["path"]).name for one in everything] == ["one.txt", "beside.txt", "big.txt"]
    assert all((tmp_path / one["path"]).read_bytes() == BODY for one in everything)
    by_value = pyanamo("results", "get", "A", "two", "--out", "x", "--quiet").stdout
    assert by_value == pyanamo("results", "get", "A", "1", "--out", "x", "--quiet").stdout == "x/A/00001/big.txt\n"
    assert len(json.loads(pyanamo("results", "get", "A", "--suffix", "one.txt", "--out", "y", "--json").stdout)) == 1


def test_an_output_that_is_not_what_was_recorded_is_not_kept(pyanamo, cloud_clients, table: str, tmp_path: Path):
    for other, told in ((BODY[:-1] + b"!", "SHA-256"), (b"short", "5 bytes")):
        cloud_clients.client("s3").put_object(Bucket=BUCKET, Key=f"{table}/one.txt", Body=other)
        refused = pyanamo("results", "get", "A", "one", "--out", "bad", code=6)
        assert told in refused.stderr
        assert not [path for path in (tmp_path / "bad").rglob("*") if path.is_file()]


def test_what_is_not_there_is_said(pyanamo):
    assert "no nest nine" in pyanamo("results", "get", "A", "nine", code=4).stderr
    assert "no outputs recorded" in pyanamo("results", "get", "C", code=4).stderr
    assert "no item Z" in pyanamo("results", "get", "Z", code=4).stderr
    assert "does not say which format" in pyanamo("results", "export", "results.xlsx", code=3).stderr


def test_exports_hold_all_nests_in_each_format(pyanamo, tmp_path: Path):
    for name in ("r.tsv", "r.csv", "r.json", "r.html"):
        pyanamo("results", "export", name)
    with (tmp_path / "r.csv").open(newline="") as file:
        of_csv = list(csv.DictReader(file))
    of_tsv = list(csv.DictReader((tmp_path / "r.tsv").read_text().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    of_json = json.loads((tmp_path / "r.json").read_text())
    assert len(of_csv) == len(of_tsv) == len(of_json) == 9
    assert of_csv == of_tsv
    assert {one["figures.variants"] for one in of_csv} == {"31", "99", ""}
    page = (tmp_path / "r.html").read_text()
    assert "no such sample" in page
    assert page.rstrip().endswith("</html>")
    standard = pyanamo("results", "export", "-", "--format", "tsv").stdout
    assert list(csv.DictReader(io.StringIO(standard), delimiter="\t")) == of_tsv


def test_a_broken_export_leaves_the_old_file_alone(pyanamo, cloud_clients, table: str, tmp_path: Path):
    # Given an export, and a nest whose results have been damaged since
    pyanamo("results", "export", "r.tsv")
    before = (tmp_path / "r.tsv").read_text()
    cloud_clients.client("s3").put_object(Bucket=BUCKET, Key=f"{table}/overflow.json.gz", Body=b"damaged")
    # Then the next export says so, and the old file stands
    refused = pyanamo("results", "export", "r.tsv", code=6)
    assert "overflow.json.gz" in refused.stderr
    assert (tmp_path / "r.tsv").read_text() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_manifest_says_which_object_is_whose(pyanamo, tmp_path: Path):
    pyanamo("results", "manifest", "m.tsv")
    with (tmp_path / "m.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    # What was too big for its row is there too; failed and open nests are not.
    assert [(one["item"], one["nest"], one["locus"], one["uri"].rpartition("/")[2]) for one in rows] == [
        ("A", "0", "one", "one.txt"),
        ("A", "0", "one", "beside.txt"),
        ("A", "1", "two", "big.txt"),
    ]
    assert {(one["bytes"], one["sha256"]) for one in rows} == {(str(len(BODY)), hashlib.sha256(BODY).hexdigest())}
    chosen = pyanamo("results", "manifest", "-", "--suffix", "big.txt").stdout
    assert [line.split("\t")[1] for line in chosen.splitlines()] == ["item", "A"]
    assert "does not say which format" in pyanamo("results", "manifest", "m.xlsx", code=3).stderr
    assert "gather" in pyanamo("results", "manifest", "m.map", "--sample-map", code=5).stderr


def test_links_work_without_an_account_and_are_kept_from_others(pyanamo, tmp_path: Path):
    told = pyanamo("results", "links", "A", "--suffix", "one.txt", "--hours", "1", "--quiet").stdout.split()
    assert len(told) == 1
    with urllib.request.urlopen(told[0]) as answer:  # noqa: S310 - a link to 127.0.0.1
        assert answer.read() == BODY
    pyanamo("results", "links", "A", "--suffix", "g.txt", "--out", "links.tsv")
    assert (tmp_path / "links.tsv").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "links.tsv").read_text().startswith("A\t1\tbig.txt\thttp")
    # what lies on a machine has none, and what is not there is said
    assert "on a machine, not in a bucket" in pyanamo("results", "links", "A", code=3).stderr
    assert "No outputs of C" in pyanamo("results", "links", "C", code=4).stderr


@pytest.mark.parametrize("how", [(), ("--whole",)], ids=["by checksum", "whole"])
def test_outputs_are_compared_with_what_was_recorded(pyanamo, cloud_clients, table: str, how: tuple[str, ...]):
    told = json.loads(pyanamo("results", "verify", *how, "--json").stdout)
    assert (told["outputs"], told["bytes"], told["without_checksum"]) == (3, 3 * len(BODY), 0)
    # Given one object that was replaced by another of the same size, and one that is gone
    s3 = cloud_clients.client("s3")
    s3.put_object(Bucket=BUCKET, Key=f"{table}/one.txt", Body=BODY[:-1] + b"!")
    s3.delete_object(Bucket=BUCKET, Key=f"{table}/big.txt")
    # Then both are named with their nests
    refused = pyanamo("results", "verify", *how, code=6).stderr
    assert "2 of 3 outputs" in refused
    assert "item A, nest 0: s3://report-results/" in refused
    assert "has SHA-256" in refused
    assert "item A, nest 1:" in refused
    assert "big.txt does not exist" in refused
    assert "1 outputs" in pyanamo("results", "verify", "--suffix", "beside.txt", *how).stdout
