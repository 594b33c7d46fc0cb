"""`pyanamo results publish` and the export to Parquet as they are typed, on a table and a bucket in the local cloud."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from place_support import ODD, Place

from pyanamo_core.aws import Clients
from pyanamo_core.model import Cause, Definition, Output
from pyanamo_core.report import publish as core

PLACE = "results/loci"
rows = import_module("pyanamo_core.report.results")


@pytest.fixture
def place(cloud_clients: Clients, cloud_environment: dict[str, str], unique_name: str, tmp_path: Path) -> Place:
    """A and the odd one are done with two nests each, B has one of two."""
    made = Place(cloud_clients, unique_name, tmp_path)
    for item_id in ("A", "B", ODD):
        made.ledger.import_item(item_id, "t", Definition(script="s", arguments=("c:1-100", "c:101-200")))
    for item_id in ("A", ODD):
        claim = made.claim(item_id)
        for index in (0, 1):
            outputs = [
                made.put(item_id, index, claim.fence, name, f"{item_id} {index} {name}".encode())
                for name in ("x.g.vcf.gz", "qc/x.json")
            ]
            made.record(claim, index, *outputs, figures={"sample": f"S-{item_id}"}, revision="r" * 12)
        made.finish(claim)
    claim = made.claim("B")
    made.record(claim, 0, made.put("B", 0, claim.fence, "x.g.vcf.gz"))
    made.put("B", 1, claim.fence, "under way.txt")
    made.ledger.hand_back(claim, Cause.SPOT, progressed=True, started=True, nests_done=1)
    return made


def body(place: Place, key: str) -> bytes:
    return place.s3.get_object(Bucket=place.name, Key=f"calls/{place.name}/{key}")["Body"].read()


def manifest(place: Place, item: str) -> dict[str, Any]:
    return json.loads(body(place, f"{PLACE}/{item}/manifest.json"))


def times(place: Place) -> dict[str, Any]:
    """Key to when it was written, of all that was published."""
    listed = place.s3.list_objects_v2(Bucket=place.name, Prefix=f"calls/{place.name}/{PLACE}/")
    return {one["Key"]: (one["LastModified"], one["ETag"]) for one in listed.get("Contents", [])}


def test_done_items_are_published_under_names_to_browse_with_a_manifest_each(place: Place) -> None:
    # Given two done items and one that is not
    told = place.reads("results", "publish")
    # Then what is recorded of the done ones lies there, byte for byte, and manifests say whose it is
    assert (told["items"], told["files"], told["copied"], told["left_out"]) == (2, 8, 8, 1)
    names = [
        "00000/qc/x.json",
        "00000/x.g.vcf.gz",
        "00001/qc/x.json",
        "00001/x.g.vcf.gz",
        "manifest.json",
    ]
    assert place.objects(f"{PLACE}/A/") == [f"{PLACE}/A/{name}" for name in names]
    assert body(place, f"{PLACE}/A/00001/x.g.vcf.gz") == b"A 1 x.g.vcf.gz"
    found = manifest(place, "%C3%BC%2Fa%20%231")
    assert (found["item"], found["sample"], found["complete"]) == (ODD, f"S-{ODD}", True)
    first = found["files"][1]
    assert (first["locus"], first["nest"], first["attempt"], first["revision"]) == ("c:1-100", 0, 1, "r" * 12)
    assert first["bytes"] == len(f"{ODD} 0 x.g.vcf.gz".encode())
    # and nothing of the one that is not done
    assert not place.objects(f"{PLACE}/B/")


def test_what_is_there_is_not_copied_again(place: Place) -> None:
    # Given a publication, when it is asked for again, then nothing is written
    place.types("results", "publish")
    before = times(place)
    assert place.reads("results", "publish")["copied"] == 0
    assert times(place) == before


def test_a_publication_that_was_killed_goes_on_and_has_no_manifest_until_it_is_whole(place: Place) -> None:
    # Given a publication that dies (-9) after three copies
    place.dies_typing(
        ["results", "publish", "A"],
        """
from pyanamo_core.report import publish
publish.THREADS = 1
really = publish.Publisher._copy
count = 0
def dies(self, item_id, one):
    global count
    done = really(self, item_id, one)
    count += 1
    if count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
publish.Publisher._copy = dies
""",
    )
    assert len(place.objects(f"{PLACE}/A/0")) == 3
    assert not place.objects(f"{PLACE}/A/manifest.json")
    # When it is given again, then only the fourth is copied, and nothing of the first try is left
    assert place.reads("results", "publish", "A")["copied"] == 1
    assert len(manifest(place, "A")["files"]) == 4
    assert len(place.objects(f"{PLACE}/A/")) == 5


def test_a_redone_nest_is_published_anew_and_what_it_no_longer_has_is_removed(place: Place) -> None:
    # Given a published item, one nest of which was redone and made a file of another name
    place.types("results", "publish", "A")
    place.ledger.redo(place.ledger.item("A"), [1])
    claim = place.claim("A")
    place.record(claim, 1, place.put("A", 1, claim.fence, "x.g.vcf.gz", b"better"))
    place.finish(claim)
    before = times(place)
    # When it is published again
    told = place.reads("results", "publish", "A")
    # Then that nest's file is the new one, its old QC record is gone, and the other nest was not touched
    assert (told["copied"], told["removed"], told["files"]) == (1, 1, 3)
    assert body(place, f"{PLACE}/A/00001/x.g.vcf.gz") == b"better"
    assert f"{PLACE}/A/00001/qc/x.json" not in place.objects()
    after = times(place)
    assert {key: after[key] for key in after if "/00000/" in key} == {
        key: before[key] for key in before if "/00000/" in key
    }
    assert {one["nest"]: one["attempt"] for one in manifest(place, "A")["files"]} == {0: 1, 1: 3}


def test_a_removal_that_was_interrupted_is_finished(place: Place) -> None:
    # Given a publication that was interrupted between the old manifest's end and the removal of what is stale
    place.types("results", "publish", "A")
    folder = f"calls/{place.name}/{PLACE}/A"
    stale = f"{folder}/00001/gone.txt"
    place.s3.put_object(Bucket=place.name, Key=stale, Body=b"?")
    part = {"files": [{"uri": f"s3://{place.name}/{stale}"}]}
    place.s3.put_object(Bucket=place.name, Key=f"{folder}/manifest.part.json", Body=json.dumps(part).encode())
    place.s3.delete_object(Bucket=place.name, Key=f"{folder}/manifest.json")
    # When it is given again, then it is finished, and nothing was copied
    told = place.reads("results", "publish", "A")
    assert (told["copied"], told["removed"]) == (0, 1)
    assert len(place.objects(f"{PLACE}/A/")) == 5


def test_only_some_outputs_can_be_published_and_elsewhere(place: Place) -> None:
    # Given another bucket, when gVCFs of one item are published there, then only these are, and the manifest says so
    place.types("results", "publish", "A", "--suffix", ".g.vcf.gz", "--to", f"s3://{place.name}-else/group/calls")
    listed = place.s3.list_objects_v2(Bucket=f"{place.name}-else")["Contents"]
    assert [one["Key"] for one in listed] == [
        "group/calls/A/00000/x.g.vcf.gz",
        "group/calls/A/00001/x.g.vcf.gz",
        "group/calls/A/manifest.json",
    ]
    told = place.s3.get_object(Bucket=f"{place.name}-else", Key="group/calls/A/manifest.json")["Body"].read()
    assert (json.loads(told)["complete"], json.loads(told)["suffix"]) == (False, ".g.vcf.gz")


def test_what_was_published_stays_when_another_kind_is(place: Place) -> None:
    # Given a published item whose gVCFs went from the work prefix since: the copies are the only ones
    place.types("results", "publish", "A")
    for key in place.objects("work/A/", ".g.vcf.gz"):
        place.s3.delete_object(Bucket=place.name, Key=f"calls/{place.name}/{key}")
    # When one of its nests is done again, and only the records are published
    place.ledger.redo(place.ledger.item("A"), [1])
    claim = place.claim("A")
    place.record(claim, 1, place.put("A", 1, claim.fence, "qc/x.json", b"better"))
    place.finish(claim)
    told = place.reads("results", "publish", "A", "--suffix", ".json")
    # Then the gVCF of the other nest stays, in the manifest too; what the item no longer has is removed
    assert (told["copied"], told["removed"], told["files"]) == (1, 1, 3)
    names = ["00000/qc/x.json", "00000/x.g.vcf.gz", "00001/qc/x.json", "manifest.json"]
    assert place.objects(f"{PLACE}/A/") == [f"{PLACE}/A/{name}" for name in names]
    found = manifest(place, "A")
    assert [one["uri"].partition("/A/")[2] for one in found["files"]] == names[:3]
    assert (found["complete"], found["suffix"]) == (True, "")


def test_what_a_killed_publication_of_another_kind_has_copied_stays(place: Place) -> None:
    # Given copies without a manifest, of a publication that was killed, one of them of an earlier attempt
    place.types("results", "publish", "A")
    folder = f"calls/{place.name}/{PLACE}/A"
    files = [{"uri": one["uri"]} for one in manifest(place, "A")["files"]]
    place.s3.put_object(Bucket=place.name, Key=f"{folder}/manifest.part.json", Body=json.dumps({"files": files}))
    place.s3.delete_object(Bucket=place.name, Key=f"{folder}/manifest.json")
    place.s3.put_object(Bucket=place.name, Key=f"{folder}/00001/x.g.vcf.gz", Body=b"another")
    # When records only are published, then the gVCF that is the recorded one stays, and the other does not
    assert place.reads("results", "publish", "A", "--suffix", ".json")["removed"] == 1
    names = ["00000/qc/x.json", "00000/x.g.vcf.gz", "00001/qc/x.json"]
    assert [one["uri"].partition("/A/")[2] for one in manifest(place, "A")["files"]] == names
    assert not manifest(place, "A")["complete"]


def anew(place: Place, *, finished: bool = True) -> None:
    """Item A is reset and done again with other results."""
    place.ledger.reset(place.ledger.item("A"))
    claim = place.claim("A")
    for index in (0, 1):
        place.record(claim, index, place.put("A", index, claim.fence, "x.g.vcf.gz", b"anew %d" % index))
    if finished:
        place.finish(claim)


def once(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, act: Any) -> None:
    """Something happens before the first call of a function."""
    really, todo = getattr(where, name), [act]

    def called(*given: Any, **named: Any) -> Any:
        if todo:
            todo.pop()()
        return really(*given, **named)

    monkeypatch.setattr(where, name, called)


@pytest.mark.parametrize("moment", ["listed", "read", "copied", "removed"])
def test_an_item_that_is_done_again_while_it_is_published_is_published_as_it_is_then(
    place: Place, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    # Given an item that is reset and done again when it has been listed, read, or copied
    if moment == "removed":
        extra = {"files": [{"uri": f"s3://{place.name}/calls/{place.name}/{PLACE}/A/gone.txt"}]}
        key = f"calls/{place.name}/{PLACE}/A/manifest.part.json"
        place.s3.put_object(Bucket=place.name, Key=key, Body=json.dumps(extra))
    where: dict[str, tuple[Any, str]] = {
        "listed": (rows, "results"),
        "read": (core.Publisher, "publish"),
        "copied": (core.Publisher, "_copy"),
        "removed": (core, "delete_objects"),
    }
    once(monkeypatch, *where[moment], lambda: anew(place))
    # When all is published
    place.types("results", "publish")
    # Then the copies are those of the second time, and so is the manifest
    assert [body(place, f"{PLACE}/A/0000{n}/x.g.vcf.gz") for n in (0, 1)] == [b"anew 0", b"anew 1"]
    assert [(one["attempt"], one["bytes"]) for one in manifest(place, "A")["files"]] == [(3, 6), (3, 6)]
    assert not place.objects(f"{PLACE}/A/", "qc")
    assert not place.objects(f"{PLACE}/A/", "part")


def test_an_item_that_is_to_do_again_by_the_time_it_is_read_keeps_what_was_published(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a published item of which a nest is sent back right after it was listed
    place.types("results", "publish")
    before = place.objects(f"{PLACE}/A/")
    once(monkeypatch, rows, "results", lambda: place.ledger.redo(place.ledger.item("A"), [1]))
    # When all is published again, then it is left out, and its copies stay as they are
    told = place.reads("results", "publish")
    assert (told["items"], told["left_out"], told["removed"]) == (1, 2, 0)
    assert place.objects(f"{PLACE}/A/") == before


def test_an_item_that_never_stands_still_is_told_of(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an item that is done again each time it is being copied
    really = core.Publisher._copy

    def copy(self: Any, *given: Any) -> Any:
        anew(place)
        return really(self, *given)

    monkeypatch.setattr(core.Publisher, "_copy", copy)
    monkeypatch.setattr(core, "THREADS", 1)
    # When it is published, then that is refused with what to do
    assert "Item A moved each time it was being published" in place.types("results", "publish", "A", code=5).stderr
    assert not place.objects(f"{PLACE}/A/manifest.json")


def test_two_publications_at_once_leave_a_manifest_of_what_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a publication of all in whose middle another, of records only, comes and ends
    def other() -> None:
        item = place.ledger.item("A")
        publisher = core.Publisher(place.clients, f"s3://{place.name}/calls/{place.name}/{PLACE}", place.name)
        publisher.publish(item, list(rows.results(place.ledger, [item])), ".json")

    once(monkeypatch, core.Publisher, "_copy", other)
    # When it ends, then all is there, and the manifest lists it
    place.types("results", "publish", "A")
    assert len(place.objects(f"{PLACE}/A/0")) == len(manifest(place, "A")["files"]) == 4
    assert not place.objects(f"{PLACE}/A/", "part")


def test_an_item_that_is_not_done_is_published_only_when_that_is_said(place: Place) -> None:
    # Given an item with one of two nests done, when it is named, then it is refused
    told = place.types("results", "publish", "A", "B", code=5)
    assert "Item B is todo, with 1 of 2 nests done" in told.stderr
    assert not place.objects(PLACE)
    # unless what is there is wanted, which the manifest says
    assert place.reads("results", "publish", "B", "--partial")["files"] == 1
    assert (manifest(place, "B")["complete"], manifest(place, "B")["nests"]) == (False, 2)


def test_a_source_that_is_not_what_was_recorded_is_not_published(place: Place) -> None:
    # Given a result that somebody replaced, and one that is gone
    [one] = place.objects("work/A/00000/1/x.g.vcf.gz")
    place.s3.put_object(Bucket=place.name, Key=f"calls/{place.name}/{one}", Body=b"A 0 X.g.vcf.gz")
    [two] = place.objects("work/%C3%BC", "00001/1/x.g.vcf.gz")
    place.s3.delete_object(Bucket=place.name, Key=f"calls/{place.name}/{two}")
    # When these are published, then each is refused with what to do, and has no manifest
    told = place.types("results", "publish", "A", code=6)
    assert (
        "its SHA-256 is another. It was removed. Do the nest again with: pyanamo items redo A number=0" in told.stderr
    )
    told = place.types("results", "publish", ODD, code=6)
    assert (
        "nest 1, does not exist. If it went after it had been gathered, publish the rest with --suffix" in told.stderr
    )
    assert not place.objects(PLACE, "manifest.json")
    assert f"{PLACE}/A/00000/x.g.vcf.gz" not in place.objects()


def test_big_objects_are_copied_in_parts_and_uploads_that_were_left_are_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an object above what one copy takes (12 MB stand for 5 GB), and an upload that a killed try left
    monkeypatch.setattr(core, "COPY_BYTES", 6 * 2**20)
    monkeypatch.setattr(core, "PART_BYTES", 5 * 2**20)
    big = bytes(range(256)) * (12 * 2**12)
    place.ledger.redo(place.ledger.item("A"), [0])
    claim = place.claim("A")
    place.record(claim, 0, place.put("A", 0, claim.fence, "big.g.vcf.gz", big))
    place.finish(claim)
    target = f"calls/{place.name}/{PLACE}/A/00000/big.g.vcf.gz"
    place.s3.create_multipart_upload(Bucket=place.name, Key=target)
    # When it is published
    assert place.reads("results", "publish", "A")["copied"] == 3
    # Then it is there as it was, once, and no upload is left
    assert body(place, f"{PLACE}/A/00000/big.g.vcf.gz") == big
    assert not place.s3.list_multipart_uploads(Bucket=place.name).get("Uploads")
    assert place.reads("results", "publish", "A")["copied"] == 0


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["--to", "results/loci"], 3, "--to results/loci is no s3://bucket/prefix"),
        (["Z"], 4, "holds no item Z"),
    ],
)
def test_what_cannot_be_published_is_said(place: Place, words: list[str], code: int, what: str) -> None:
    # Given a place or an item that is none, then it is told, and nothing is written
    assert what in place.types("results", "publish", *words, code=code).stderr
    assert not place.objects(PLACE)


def test_results_are_not_published_among_what_pilots_write_nor_from_other_machines(place: Place) -> None:
    # Given a place below work/, where clean would take copies for leftovers
    to = f"s3://{place.name}/calls/{place.name}/work/A"
    assert "is where pilots write" in place.types("results", "publish", "--to", to, code=3).stderr
    # and an output on a file system, and two of one name
    for outputs, what in (
        ((Output(uri="/shared/file.txt", bytes=3),), "/shared/file.txt lies on a machine"),
        (
            (Output(uri="s3://other/a/x.txt", bytes=3), Output(uri="s3://other/b/x.txt", bytes=3)),
            "recorded two outputs that are called x.txt",
        ),
    ):
        place.ledger.redo(place.ledger.item("A"), [0])
        claim = place.claim("A")
        place.record(claim, 0, *outputs)
        place.finish(claim)
        assert what in place.types("results", "publish", "A", code=3).stderr
        assert not place.objects(PLACE)


def test_a_table_with_nothing_done_has_nothing_to_publish(
    cloud_clients: Clients, cloud_environment: dict[str, str], unique_name: str, tmp_path: Path
) -> None:
    # Given a table with an item to do, then there is nothing to publish, and it is said
    made = Place(cloud_clients, unique_name, tmp_path)
    made.ledger.import_item("A", "t", Definition(script="s"))
    assert "there is nothing to publish" in made.types("results", "publish", code=5).stderr


def test_parquet_holds_a_row_for_each_output_of_each_done_nest(place: Place, tmp_path: Path) -> None:
    # Given results, when they are exported as Parquet
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "outputs.parquet"
    assert place.reads("results", "export", str(file))["outputs"] == 9
    # Then each output stands there with sample, locus, address, size and checksum, and types are those of the page
    table = parquet.read_table(file)
    rows = {(row["item"], row["uri"].rpartition("/work/")[2]): row for row in table.to_pylist()}
    assert len(rows) == 9
    row = rows["A", "A/00001/1/x.g.vcf.gz"]
    assert (row["sample"], row["locus"], row["nest"], row["attempt"]) == ("S-A", "c:101-200", 1, 1)
    assert (row["size"], row["revision"]) == (len(b"A 1 x.g.vcf.gz"), "r" * 12)
    assert len(row["sha256"]) == 64
    assert [str(kind) for kind in table.schema.types] == [
        *("string", "string", "int32", "string", "int64", "string", "string", "int64", "string")
    ]
    # and it cannot go where no file is
    assert (
        "Parquet cannot be written to standard output"
        in place.types("results", "export", "-", "--format", "parquet", code=3).stderr
    )
