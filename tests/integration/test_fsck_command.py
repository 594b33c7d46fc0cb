"""`pyanamo fsck` as it is typed, on a table and a bucket in the local cloud."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest
from place_support import BODY, ODD, Place

from pyanamo.commands.fsck import fsck
from pyanamo.context import Context
from pyanamo_core.aws import Clients
from pyanamo_core.errors import ClockOff
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger import rows
from pyanamo_core.model import Attempt, Cause, Definition, LogPointer, Output, encoded


@pytest.fixture
def place(cloud_clients: Clients, cloud_environment: dict[str, str], unique_name: str, tmp_path: Path) -> Place:
    """Item A is done at its second claim, the odd one at its first, B is at work."""
    made = Place(cloud_clients, unique_name, tmp_path)
    for item_id in ("A", ODD, "B", "C"):
        made.ledger.import_item(item_id, "t", Definition(script="s", arguments=("one", "two")))
    claim = made.claim("A")
    made.put("A", 0, claim.fence, "lost.txt")
    made.ledger.hand_back(claim, Cause.SPOT, "notice", progressed=False, started=True)
    made.ledger.put_attempt(Attempt(item_id="A", fence=claim.fence, cause=Cause.SPOT, ended=1.8e9))
    claim = made.claim("A")
    log = made.put("A", 0, claim.fence, "log.gz")
    made.record(claim, 0, made.put("A", 0, claim.fence, "one.txt"), log=LogPointer(where="s3", uri=log.uri))
    big = made.put("A", 1, claim.fence, "big.txt")
    made.s3.put_object(Bucket=f"{unique_name}-else", Key="two.txt", Body=BODY)
    beside = Output(uri=f"s3://{unique_name}-else/two.txt", bytes=len(BODY))
    shared = Output(uri="/shared/file.txt", bytes=3)
    told = {"outputs": [one.model_dump() for one in (big, beside, shared)], "tags": [], "figures": {}}
    held = made.put("A", 1, claim.fence, "overflow.json.gz", gzip.compress(json.dumps(told).encode()))
    made.record(claim, 1, overflow=held.uri, overflow_sha256=held.sha256)
    made.finish(claim)
    claim = made.claim(ODD)
    for index in (0, 1):
        made.record(claim, index, made.put(ODD, index, claim.fence, "x.txt"))
    made.put(ODD, 1, claim.fence, "undeclared.txt")
    made.finish(claim)
    claim = made.claim("B")
    made.put("B", 0, claim.fence, "under way.txt")
    return made


def test_a_sound_table_is_told_in_one_line_with_exit_code_0(place: Place) -> None:
    # Given a table as pilots leave it, when it is checked, then nothing is told but its size
    told = place.types("fsck")
    assert told.stdout.startswith(f"table {place.name}: 4 items,")
    assert told.stdout.rstrip().endswith("no fault")


def test_faults_are_told_and_repaired_only_when_asked(place: Place) -> None:
    # Given an item whose queue key is lost and a done item with a nest that is not recorded
    client = place.clients.client("dynamodb")
    client.update_item(TableName=place.name, Key=rows.key("C", x.ITEM_ROW), UpdateExpression="REMOVE queue")
    client.delete_item(TableName=place.name, Key=rows.key("A", x.nest_row(0, 1)))
    # When it is checked, then both are told with what a repair does, and the exit code says so
    told = place.types("fsck", code=8)
    assert "queue_key" in told.stdout
    assert "1 of its 2 nests are not" in told.stdout
    assert "2 faults are left" in told.stdout
    assert "next: pyanamo fsck --repair" in told.stderr
    assert sorted(place.types("fsck", "--quiet", code=8).stdout.splitlines()) == ["queue_key C ITEM", "undone A ITEM"]
    # When a repair is asked for where nobody can confirm it, then it is refused, and nothing is changed
    assert "--yes" in place.types("fsck", "--repair", code=5).stderr
    assert "queue" not in client.get_item(TableName=place.name, Key=rows.key("C", x.ITEM_ROW))["Item"]
    # When it is confirmed, then both are mended: C is found again, A is to do
    mended = place.reads("fsck", "--repair", "--yes")
    assert mended["repaired"] == {"queue_key": 1, "undone": 1}
    assert sorted(place.ledger.item_ids(place.ledger.item("C").state)) == ["A", "C"]
    assert place.ledger.item("A").nests_done == 1
    assert place.reads("fsck")["findings"] == []


def test_only_so_many_findings_are_listed_and_all_are_counted(place: Place) -> None:
    # Given three faults, when one may be listed, then three are counted
    client = place.clients.client("dynamodb")
    for item_id in ("A", "B", "C"):
        client.update_item(TableName=place.name, Key=rows.key(item_id, x.ITEM_ROW), UpdateExpression="REMOVE queue")
    told = place.types("fsck", "--limit", "1", code=8).stdout
    assert told.count("queue_key") == 1
    assert "… and 2 more" in told
    assert "3 faults are left" in told


def test_objects_that_no_nest_names_are_told_and_left_alone(place: Place) -> None:
    # Given what a dead claim left, an object of no item, one that its script did not declare, one that is being written
    place.put("nobody", 0, 1, "x.txt", b"12345")
    before = place.s3.list_objects_v2(Bucket=place.name)["KeyCount"]
    # When outputs are checked, also with a repair
    told = place.reads("fsck", "--outputs", "--repair", "--yes")["outputs"]
    # Then each is told for what it is, with its key and bytes; none is a fault; nothing was deleted
    found = {(one["kind"], one["item_id"], one["uri"].rpartition("/")[2]) for one in told["listed"]}
    assert found == {("orphan", "A", "lost.txt"), ("orphan", "nobody", "x.txt"), ("unnamed", ODD, "undeclared.txt")}
    assert told["counts"] == {"orphan": 2, "unnamed": 1}
    assert told["counted_bytes"] == {"orphan": len(BODY) + 5, "unnamed": len(BODY)}
    assert (told["objects"], told["being_written"], told["elsewhere"]) == (10, 1, 1)
    assert told["named"] == 5
    assert place.s3.list_objects_v2(Bucket=place.name)["KeyCount"] == before
    assert "1 are of claims at work" in place.types("fsck", "--outputs").stdout


def test_outputs_that_are_named_and_not_there_are_faults(place: Place) -> None:
    # Given three outputs that are gone (one from another bucket) and one that was overwritten
    work = f"calls/{place.name}/work"
    place.s3.delete_object(Bucket=place.name, Key=f"{work}/A/00000/2/one.txt")
    place.s3.delete_object(Bucket=f"{place.name}-else", Key="two.txt")
    for index in (0, 1):
        place.s3.delete_object(Bucket=place.name, Key=f"{work}/{encoded(ODD)}/{index:05d}/1/x.txt")
    place.s3.delete_object(Bucket=place.name, Key=f"{work}/{encoded(ODD)}/00001/1/undeclared.txt")
    place.put("A", 1, 2, "big.txt", b"another size")
    # When outputs are checked, then each is told with its nest, and the exit code says so
    told = place.reads("fsck", "--outputs", code=8)
    found = {(one["kind"], one["item_id"], one["nest"]) for one in told["outputs"]["listed"]}
    assert found == {
        ("missing", "A", 0),
        ("missing", "A", 1),
        ("differs", "A", 1),
        ("missing", ODD, 0),
        ("missing", ODD, 1),
        ("orphan", "A", 0),
    }
    assert told["faults"] == 5
    # And where the object with a nest's results is damaged, that is told instead
    place.put("A", 1, 2, "overflow.json.gz", b"damaged")
    assert "broken" in place.reads("fsck", "--outputs", code=8)["outputs"]["counts"]


def test_a_table_that_is_not_there_is_exit_code_4(place: Place) -> None:
    # Given no such table, when it is checked, then that is said
    place.name = "no-such-table"
    assert "no-such-table" in place.types("fsck", code=4).stderr


def test_a_clock_that_is_off_checks_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a machine whose clock is two hours ahead: each lease would seem to be long over
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 7200)
    # When the table is to be repaired, then that is refused, and the claim at work is left alone
    context = Context(table=place.name, folder=place.folder, json=True)
    with pytest.raises(ClockOff, match="7200 s off"):
        fsck.__wrapped__(context, repair=True, yes=True)
    assert place.ledger.item("B").owner == "p1"
