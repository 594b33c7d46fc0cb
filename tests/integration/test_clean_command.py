"""`pyanamo clean` as it is typed, on a table and a bucket in the local cloud."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from place_support import BODY, ODD, Place

from pyanamo.commands import clean as command
from pyanamo_core.aws import Clients
from pyanamo_core.clock import FakeClock, SystemClock
from pyanamo_core.ledger import Ledger, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.table import create_table
from pyanamo_core.model import Cause, Definition, LogPointer, Output

LOCI = ("c:1-100", "c:101-200")
GVCF = b"a gVCF of many bytes\n" * 50
HOUR = 3600.0


@pytest.fixture
def place(cloud_clients: Clients, cloud_environment: dict[str, str], unique_name: str, tmp_path: Path) -> Place:
    return Place(cloud_clients, unique_name, tmp_path)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour has passed since everything was written: leases and their margins are over."""
    monkeypatch.setattr(command, "corrected_clock", lambda _: FakeClock(SystemClock().now() + HOUR))


def add(place: Place, item_id: str, *values: str) -> None:
    place.ledger.import_item(item_id, "t", Definition(script="s", arguments=values or ("one", "two")))


def sums(told: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {one["what"]: (one["objects"], one["bytes"]) for one in told["cleaned"]}


# ------------------------------------------------------------------------------------------------------ orphans and work


@pytest.fixture
def worked(place: Place) -> Place:
    """A: done at its second claim, after a first that was lost. B: at work. The odd one: reset after it was done."""
    for item_id in ("A", "B", ODD):
        add(place, item_id)
    claim = place.claim("A")
    place.put("A", 0, claim.fence, "lost.txt")
    place.put("A", 1, claim.fence, "lost too.txt")
    place.ledger.hand_back(claim, Cause.SPOT, "notice", progressed=False, started=True)
    claim = place.claim("A")
    log = place.put("A", 0, claim.fence, "log.gz")
    place.record(claim, 0, place.put("A", 0, claim.fence, "one.txt"), log=LogPointer(where="s3", uri=log.uri))
    place.put("A", 0, claim.fence, "undeclared.txt")
    big = place.put("A", 1, claim.fence, "big.txt")
    told = {"outputs": [big.model_dump()], "tags": [], "figures": {}}
    held = place.put("A", 1, claim.fence, "overflow.json.gz", gzip.compress(json.dumps(told).encode()))
    place.record(claim, 1, overflow=held.uri, overflow_sha256=held.sha256)
    place.finish(claim)
    claim = place.claim(ODD)
    for index in (0, 1):
        place.record(claim, index, place.put(ODD, index, claim.fence, "old.txt"))
    place.put(ODD, 1, claim.fence, "undeclared.txt")
    place.finish(claim)
    place.ledger.reset(place.ledger.item(ODD))
    claim = place.claim("B")
    place.put("B", 0, claim.fence, "under way.txt")
    return place


def test_a_dry_run_tells_objects_bytes_and_dollars_and_deletes_nothing(worked: Place, later: None) -> None:
    # Given what two claims left behind
    before = worked.objects()
    # When orphans are asked for with a price at which nine bytes cost something
    told = worked.reads("clean", "--orphans", "--dry-run", "--price", str(2**30))
    # Then the lost claim's are counted, and everything lies where it did
    assert told["cleaned"] == [
        {
            "what": "left by attempts that died or failed",
            "objects": 2,
            "bytes": 2 * len(BODY),
            "dollars_a_month": 2.0 * len(BODY),
            "deleted": False,
        }
    ]
    assert worked.objects() == before
    assert "18 B           < 0.01" in worked.types("clean", "--orphans", "--dry-run").stdout


def test_orphans_go_and_results_work_under_way_and_what_lies_beside_results_stay(worked: Place, later: None) -> None:
    # Given what two claims left behind
    before = set(worked.objects())
    # When orphans are cleaned
    told = worked.reads("clean", "--orphans", "--yes")
    # Then the lost claim's objects are gone and nothing else is; fsck finds every result
    gone = before - set(worked.objects())
    assert gone == {"work/A/00000/1/lost.txt", "work/A/00001/1/lost too.txt"}
    assert told["kept"] == {"beside a recorded result": 1, "of a claim at work": 1, "of an older epoch": 3}
    assert worked.reads("fsck", "--outputs")["faults"] == 0
    # and again there is nothing left to do
    assert worked.types("clean", "--orphans", "--yes").stdout.startswith("nothing to clean")


def test_work_takes_results_of_before_a_reset_too(worked: Place, later: None) -> None:
    # Given an item that was reset after it was done, when the work is cleaned, then its old results go as well
    told = worked.reads("clean", "--work", "--yes")
    assert sums(told) == {
        "left by attempts that died or failed": (2, 2 * len(BODY)),
        "of before a reset, an edit or a redo": (3, 3 * len(BODY)),
    }
    kept = {"big.txt", "log.gz", "one.txt", "overflow.json.gz", "undeclared.txt", "under way.txt"}
    assert {key.rpartition("/")[2] for key in worked.objects("/work/")} == kept
    assert worked.reads("fsck", "--outputs")["faults"] == 0


def test_what_is_younger_than_a_lease_stays(worked: Place) -> None:
    # Given objects that were written a moment ago: a write of their claim may still be on its way
    before = worked.objects()
    # When they are cleaned, then nothing goes, and it is said
    told = worked.reads("clean", "--work", "--yes")
    assert (told["cleaned"], told["kept"]["too young"]) == ([], 5)
    assert worked.objects() == before


def test_older_than_leaves_what_was_written_in_the_last_hours(worked: Place, later: None) -> None:
    # Given objects of an hour ago, when only those of before two hours shall go, then they stay
    assert worked.reads("clean", "--work", "--yes", "--older-than", "2")["cleaned"] == []
    assert sums(worked.reads("clean", "--orphans", "--yes", "--older-than", "0.5"))


def test_a_claim_between_listing_and_deletion_keeps_what_it_writes(
    worked: Place, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a retried item: what its first attempt left lies there, and a pilot claims it while objects are listed
    add(worked, "R")
    first = worked.claim("R")
    worked.put("R", 0, first.fence, "x.txt")
    worked.ledger.fail(first, Cause.PERMANENT, "no")
    worked.ledger.retry(worked.ledger.item("R"))
    listed = command_listing(monkeypatch)
    listed(lambda: worked.put("R", 0, worked.claim("R").fence, "x.txt"))
    # When orphans are cleaned, then the second claim's object is not touched, and the first one's is gone
    worked.types("clean", "--orphans", "--yes")
    assert worked.objects("/R/") == ["work/R/00000/2/x.txt"]


def command_listing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets something happen when the objects of item R have been listed."""
    from pyanamo_core.report import clean as core

    listing = core.listed

    def after(act: Any) -> None:
        def listed(clients: Any, prefix: str) -> Any:
            found = list(listing(clients, prefix))
            act()
            yield from [*found, *(one for one in listing(clients, prefix) if one not in found)]

        monkeypatch.setattr(core, "listed", listed)

    return after


def test_rows_that_cannot_be_read_keep_all_of_their_item(worked: Place, later: None) -> None:
    # Given a nest's row that somebody has spoilt: nobody knows what it names
    worked.clients.client("dynamodb").update_item(
        TableName=worked.name,
        Key=rows.key("A", x.nest_row(0, 0)),
        UpdateExpression="REMOVE fence",
    )
    before = worked.objects("/A/")
    # When orphans are cleaned, then nothing of that item goes
    told = worked.reads("clean", "--orphans", "--yes")
    assert worked.objects("/A/") == before
    assert told["kept"]["of rows that cannot be read"] == len(before)


def test_results_whose_list_cannot_be_read_stay(worked: Place, later: None) -> None:
    # Given a nest whose results were too big for its row, and the object that lists them spoilt
    worked.s3.put_object(Bucket=worked.name, Key=f"calls/{worked.name}/work/A/00001/2/overflow.json.gz", Body=b"?")
    # When all work is cleaned, then what it may have listed stays
    worked.types("clean", "--work", "--yes")
    assert "work/A/00001/2/big.txt" in worked.objects()


def test_objects_of_an_earlier_table_of_this_name_are_not_taken_for_orphans_of_this_one(
    place: Place, later: None
) -> None:
    # Given an object with a fence that its item has not reached yet
    add(place, "A")
    place.put("A", 0, 7, "from before.txt")
    # When the work is cleaned, then it stays: a claim of this table will write there one day
    told = place.reads("clean", "--work", "--yes")
    assert (told["cleaned"], told["kept"]) == ([], {"newer than its item's row": 1})


def test_objects_of_an_item_that_the_table_does_not_hold_stay(place: Place, later: None) -> None:
    # Given results and an upload of a table of this name that was deleted and made anew for the next batch
    place.put("earlier", 0, 1, "result.g.vcf.gz")
    key = f"calls/{place.name}/work/earlier/00001/1/big.bin"
    place.s3.create_multipart_upload(Bucket=place.name, Key=key)
    # When the work is cleaned, then they stay: nobody knows here what they are
    told = place.reads("clean", "--work", "--yes")
    assert (told["cleaned"], told["kept"]) == ([], {"of no item of this table": 2})
    assert place.objects() == ["work/earlier/00000/1/result.g.vcf.gz"]


def test_the_result_of_a_nest_that_is_to_do_again_is_no_orphan_until_there_is_a_new_one(
    place: Place, later: None
) -> None:
    # Given a done item of which a nest is to do again, and a claim of that which was lost
    called(place, "A", *LOCI)
    place.ledger.redo(place.ledger.item("A"), [1])
    claim = place.claim("A")
    place.put("A", 1, claim.fence, "lost.txt")
    place.ledger.hand_back(claim, Cause.SPOT, "notice", progressed=False, started=True)
    # When orphans are cleaned, then what the lost claim left goes, and the old result does not
    told = place.reads("clean", "--orphans", "--yes")
    assert sums(told) == {"left by attempts that died or failed": (1, len(BODY))}
    assert told["kept"] == {"of a nest that is to do again": 4}
    assert len(place.objects("work/A/00001/1/")) == 4
    # When all work is, then it goes, too, and is called what it is
    told = place.reads("clean", "--work", "--yes")
    assert sums(told) == {"of before a reset, an edit or a redo": (4, len(GVCF) + 3 * len(BODY))}
    assert not place.objects("work/A/00001/")


def test_what_was_a_result_stays_while_a_gather_may_read_it(place: Place, later: None) -> None:
    # Given a gather at work on a plan with a nest that has been done again since
    called(place, "A", *LOCI)
    redone(place, "A")
    create_table(place.clients, f"{place.name}-gather", deletion_protection=False, pitr=False)
    gather = Ledger(place.clients, f"{place.name}-gather")
    gather.add_workflow(place.ledger.workflow()[1])
    gather.import_item("A", "gather", Definition(script="s", arguments=("plan",)))
    claim = gather.claim("A", "p1")
    assert claim is not None
    # When the work is cleaned, then the old result stays
    told = place.reads("clean", "--work", "--yes")
    assert (told["cleaned"], told["kept"]) == ([], {"perhaps read by a gather at work": 4})
    # When that gather has ended, then it goes
    gather.fail(claim, Cause.PERMANENT, "no")
    assert sums(place.reads("clean", "--orphans", "--yes"))["left by attempts that died or failed"][0] == 4
    assert place.reads("fsck", "--outputs")["faults"] == 0


def test_an_object_below_another_items_prefix_stays_while_a_result_names_it(worked: Place, later: None) -> None:
    # Given a done nest that names what a lost claim of another item left, in its row or beside it
    lost = worked.put("A", 0, 1, "lost.txt")
    add(worked, "F", "one", "two")
    claim = worked.claim("F")
    worked.record(claim, 0, lost)
    told = {"outputs": [worked.put("A", 1, 1, "lost too.txt").model_dump()], "tags": [], "figures": {}}
    held = worked.put("F", 1, claim.fence, "overflow.json.gz", gzip.compress(json.dumps(told).encode()))
    worked.record(claim, 1, overflow=held.uri, overflow_sha256=held.sha256)
    worked.finish(claim)
    # When the work is cleaned, then it stays, and fsck finds every result
    assert worked.reads("clean", "--work", "--yes")["kept"]["named by another item"] == 2
    assert worked.objects("/lost")
    assert worked.reads("fsck", "--outputs")["faults"] == 0


def test_uploads_that_nobody_will_finish_are_ended(worked: Place, later: None) -> None:
    # Given an upload of the lost claim of A, and one of the claim of B that is at work
    prefix = f"calls/{worked.name}/work"
    uploads = {}
    for key in (f"{prefix}/A/00000/1/big.bin", f"{prefix}/B/00000/1/big.bin"):
        made = worked.s3.create_multipart_upload(Bucket=worked.name, Key=key)
        part = {"Bucket": worked.name, "Key": key, "UploadId": made["UploadId"], "PartNumber": 1}
        worked.s3.upload_part(**part, Body=b"12345")
        uploads[key] = made["UploadId"]
    # When orphans are cleaned, then the first is ended with what it had sent, the second goes on
    told = worked.reads("clean", "--orphans", "--yes")
    assert sums(told)["uploads that nobody will finish"] == (1, 5)
    left = worked.s3.list_multipart_uploads(Bucket=worked.name).get("Uploads", [])
    assert [one["Key"] for one in left] == [f"{prefix}/B/00000/1/big.bin"]


def test_a_deletion_that_was_killed_goes_on_when_it_is_given_again(place: Place, later: None) -> None:
    # Given six orphans, and a command that dies (-9) after the first two
    add(place, "A")
    claim = place.claim("A")
    for number in range(6):
        place.put("A", 0, claim.fence, f"{number}.txt")
    place.ledger.fail(claim, Cause.PERMANENT, "no")
    place.dies_typing(
        ["clean", "--orphans", "--yes"],
        """
from pyanamo.commands import clean as command
from pyanamo_core.clock import FakeClock, SystemClock
from pyanamo_core.report import clean
command.corrected_clock = lambda _: FakeClock(SystemClock().now() + 3600)
clean.DELETED_AT_ONCE = 2
really = clean.delete_objects
def dies(clients, uris, done=0):
    really(clients, uris, done)
    os.kill(os.getpid(), signal.SIGKILL)
clean.delete_objects = dies
""",
    )
    assert len(place.objects("/work/")) == 4
    # When it is given again, then the rest goes
    assert sums(place.reads("clean", "--orphans", "--yes")) == {"left by attempts that died or failed": (4, 36)}
    assert place.objects("/work/") == []


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 2, "Say what to clean: --orphans, --work, --loci-after-gather or --local"),
        (["--orphans"], 5, "nobody is there to answer 'Delete these 2 objects of table"),
        (["--orphans", "--price", "-1"], 2, "--price"),
    ],
)
def test_nothing_goes_unasked(worked: Place, later: None, words: list[str], code: int, told: str) -> None:
    # Given orphans, when it is not said what, or nobody can confirm, then nothing goes
    before = worked.objects()
    assert told in worked.types("clean", *words, code=code).stderr
    assert worked.objects() == before


def test_a_deletion_that_s3_refuses_is_told_with_what_is_needed(
    worked: Place, later: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a role that may not delete
    refusal = {"Errors": [{"Key": "calls/x", "Code": "AccessDenied", "Message": "Access Denied"}]}
    really = BaseClient._make_api_call

    def call(self: BaseClient, operation: str, parameters: Any) -> Any:
        return refusal if operation == "DeleteObjects" else really(self, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    # When orphans are cleaned, then the message names the object and the permission
    told = worked.types("clean", "--orphans", "--yes", code=6)
    assert f"s3://{worked.name}/calls/x was not deleted: S3 says AccessDenied" in told.stderr
    assert "s3:DeleteObject" in told.stderr


# ---------------------------------------------------------------------------------------------------- loci after gather


def called(place: Place, item_id: str, *loci: str) -> dict[int, int]:
    """An item whose loci are called: gVCF, index, QC record and manifest of each; nest → attempt."""
    add(place, item_id, *loci)
    claim = place.claim(item_id)
    for index in range(len(loci)):
        names = (f"{index}.g.vcf.gz", f"{index}.g.vcf.gz.tbi", f"{index}.qc.json", f"{index}.manifest.json")
        outputs = [
            place.put(item_id, index, claim.fence, name, GVCF if name.endswith("gz") else BODY) for name in names
        ]
        place.record(claim, index, *outputs, started=100.0, ended=160.0)
    place.finish(claim)
    return dict.fromkeys(range(len(loci)), claim.fence)


def gathered(place: Place, item_id: str, nests: dict[int, int], **more: Any) -> Output:
    """A gathered gVCF with its manifest where `pyanamo gather` puts them."""
    files: list[Output] = []
    for ending in (".g.vcf.gz", ".g.vcf.gz.tbi", ".manifest.json"):
        key = f"calls/{place.name}/results/gvcf/{item_id}{ending}"
        told = {
            "kind": "gathered",
            "sample": item_id,
            "missing": [],
            "nests": [{"item": item_id, "nest": n, "attempt": a} for n, a in nests.items()],
            "files": [{"name": f.uri.rpartition("/")[2], **f.model_dump()} for f in files],
        } | more
        body = json.dumps(told).encode() if ending == ".manifest.json" else f"{item_id}{ending}".encode()
        place.s3.put_object(Bucket=place.name, Key=key, Body=body, ChecksumAlgorithm="SHA256")
        files.append(place.output(key, body))
    return files[0]


def test_loci_go_when_a_gathered_gvcf_of_exactly_these_nests_is_there(place: Place) -> None:
    # Given two samples that are called, one of which is gathered
    gathered(place, "A", called(place, "A", *LOCI))
    called(place, "B", *LOCI)
    # When it is asked what would go, then gVCFs and indexes of the gathered one, and what that costs later
    told = place.types("clean", "--loci-after-gather", "--dry-run").stdout
    assert "loci that have been gathered" in told
    assert "To gather one of these 1 samples anew" in told
    assert "all 2 took 2m00s" in told
    # When they are cleaned
    done = place.reads("clean", "--loci-after-gather", "--yes")
    # Then these four are gone; manifests, QC and the other sample stay
    assert sums(done) == {"loci that have been gathered": (4, 2 * len(GVCF) + 2 * len(BODY))}
    assert {key.rpartition("/")[2] for key in place.objects("work/A/")} == {
        f"{n}.{end}" for n in (0, 1) for end in ("qc.json", "manifest.json")
    }
    assert len(place.objects("work/B/")) == 8
    # and nobody takes them for lost
    assert "4 are gone since they have been gathered" in place.types("results", "verify").stdout
    checked = place.reads("fsck", "--outputs")
    assert (checked["faults"], checked["outputs"]["counts"]) == (0, {"cleaned": 4})
    # and again there is nothing to do
    assert place.types("clean", "--loci-after-gather", "--yes").stdout.startswith("nothing to clean")


def redone(place: Place, item_id: str) -> None:
    place.ledger.redo(place.ledger.item(item_id), [1])
    claim = place.claim(item_id)
    place.record(claim, 1, place.put(item_id, 1, claim.fence, "1.g.vcf.gz", GVCF))
    place.finish(claim)


def extended(place: Place, item_id: str) -> None:
    place.ledger.extend(place.ledger.item(item_id), ["c:201-300"])
    claim = place.claim(item_id)
    place.record(claim, 2, place.put(item_id, 2, claim.fence, "2.g.vcf.gz", GVCF))
    place.ledger.finish(claim, nests_done=3)


def reset(place: Place, item_id: str) -> None:
    place.ledger.reset(place.ledger.item(item_id))


def spoilt(place: Place, item_id: str) -> None:
    key = f"calls/{place.name}/results/gvcf/{item_id}.g.vcf.gz"
    place.s3.put_object(Bucket=place.name, Key=key, Body=b"Another", ChecksumAlgorithm="SHA256")


def same_size(place: Place, item_id: str) -> None:
    key = f"calls/{place.name}/results/gvcf/{item_id}.g.vcf.gz"
    place.s3.put_object(Bucket=place.name, Key=key, Body=b"?.g.vcf.gz", ChecksumAlgorithm="SHA256")


def unsummed(place: Place, item_id: str) -> None:
    key = f"calls/{place.name}/results/gvcf/{item_id}.g.vcf.gz"
    place.s3.put_object(Bucket=place.name, Key=key, Body=b"?.g.vcf.gz", ChecksumAlgorithm="CRC32")


def in_parts(place: Place, item_id: str) -> None:
    """Another object of that size, put in parts: S3 has no SHA-256 of it to compare."""
    time.sleep(1.1)  # S3 tells times in seconds
    put_in_parts(place, f"calls/{place.name}/results/gvcf/{item_id}.g.vcf.gz", b"?.g.vcf.gz")


def put_in_parts(place: Place, key: str, body: bytes) -> None:
    where = {"Bucket": place.name, "Key": key}
    where["UploadId"] = place.s3.create_multipart_upload(**where)["UploadId"]
    part = place.s3.upload_part(**where, PartNumber=1, Body=body)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    place.s3.complete_multipart_upload(**where, MultipartUpload=parts)


def missing(place: Place, item_id: str) -> None:
    place.s3.delete_object(Bucket=place.name, Key=f"calls/{place.name}/results/gvcf/{item_id}.g.vcf.gz.tbi")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (redone, "nest 1 was done again since it was gathered"),
        (extended, "2 nests were gathered, it has 3 with 3 done"),
        (reset, "it is todo"),
        (spoilt, "has 7 bytes, not 10: gather it again before its loci go"),
        (same_size, "A.g.vcf.gz has another SHA-256"),
        (unsummed, "A.g.vcf.gz has another SHA-256"),
        (in_parts, "A.g.vcf.gz was written again after its manifest"),
        (missing, "A.g.vcf.gz.tbi does not exist"),
    ],
)
def test_loci_stay_where_what_was_gathered_is_not_of_them_or_not_whole(place: Place, change: Any, why: str) -> None:
    # Given a gathered sample that something happened to
    gathered(place, "A", called(place, "A", *LOCI))
    change(place, "A")
    before = place.objects("/work/")
    # When its loci are to go, then they stay, and it is said why
    told = place.types("clean", "--loci-after-gather", "--yes").stdout
    assert "nothing to clean" in told
    assert why in told
    assert place.objects("/work/") == before


def test_what_was_put_in_parts_and_not_touched_since_its_manifest_is_enough_and_can_be_read_whole(place: Place) -> None:
    # Given a gathered gVCF that was put in parts before its manifest; its bytes are not those of the manifest
    gathered(place, "A", called(place, "A", *LOCI))
    key = f"calls/{place.name}/results/gvcf/A"
    body = place.s3.get_object(Bucket=place.name, Key=f"{key}.manifest.json")["Body"].read()
    put_in_parts(place, f"{key}.g.vcf.gz", b"?.g.vcf.gz")
    place.s3.put_object(Bucket=place.name, Key=f"{key}.manifest.json", Body=body)
    # When every byte is read, then that is found out; gather has done so before, so it is not done each time
    assert "has another SHA-256" in place.types("clean", "--loci-after-gather", "--dry-run", "--whole").stdout
    assert sums(place.reads("clean", "--loci-after-gather", "--dry-run"))["loci that have been gathered"][0] == 4


def test_loci_that_are_gone_are_not_joined_by_others_that_could_not_be_gathered_with_them(place: Place) -> None:
    # Given a sample whose loci went after it had been gathered
    for item_id in ("A", ODD):
        gathered(place, item_id, called(place, item_id, *LOCI))
    place.types("clean", "--loci-after-gather", "--yes")
    before = place.ledger.item(ODD)
    # When some of its nests are to be done again, or it shall have more, then that is refused with what to do
    for words in (["redo", ODD, "1", "--yes"], ["redo", "--nest", LOCI[0], "--yes"], ["extend", ODD, "c:201-300"]):
        told = place.types("items", *words, code=5)
        assert "were deleted after they had been gathered" in told.stderr
        assert f"pyanamo items reset {ODD}" in told.stderr
        assert place.ledger.item(ODD) == before
    # unless all of them are done again
    place.types("items", "redo", ODD, "0", "1", "--yes")
    claim = place.claim(ODD)
    for index in (0, 1):
        place.record(claim, index)
    place.finish(claim)
    place.types("items", "extend", ODD, "c:201-300")


def test_segments_of_gathers_that_did_not_end_go_when_nobody_is_at_work(place: Place, later: None) -> None:
    # Given segments beside the plans, and an item that a pilot holds
    key = f"calls/{place.name}/plans/parts/0123/000.bin"
    place.s3.put_object(Bucket=place.name, Key=key, Body=b"12345")
    add(place, "A")
    claim = place.claim("A")
    # When orphans are cleaned, then they stay: its gather may go on from them
    assert place.reads("clean", "--orphans", "--yes")["kept"] == {"of a claim at work": 1}
    assert place.objects("plans/parts")
    # When nobody holds anything any more, then they go
    place.ledger.fail(claim, Cause.PERMANENT, "no")
    assert sums(place.reads("clean", "--orphans", "--yes")) == {"segments of gathers that did not end": (1, 5)}
    assert not place.objects("plans/parts")


def test_a_partial_gather_is_no_reason_to_delete_loci(place: Place) -> None:
    # Given what was gathered although a locus was lacking, then its loci stay
    gathered(place, "A", called(place, "A", *LOCI), missing=["c:201-300"])
    assert "it lacks c:201-300" in place.types("clean", "--loci-after-gather", "--yes").stdout


def test_loci_stay_while_a_run_may_read_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a live run of the table
    gathered(place, "A", called(place, "A", *LOCI))
    place.begin_run("r1")
    # When loci are to go, then that is refused
    told = place.types("clean", "--loci-after-gather", "--yes", code=5)
    assert f"Table {place.name} has live runs (r1)" in told.stderr
    assert len(place.objects("/work/")) == 8


def test_the_loci_of_a_killed_deletion_are_known_and_the_rest_goes(place: Place) -> None:
    # Given a deletion of four loci that died (-9) after the first two
    gathered(place, "A", called(place, "A", *LOCI))
    place.dies_typing(
        ["clean", "--loci-after-gather", "--yes"],
        """
from pyanamo_core.report import clean, clean_loci
clean.DELETED_AT_ONCE = 2
really = clean_loci.delete_objects
def dies(clients, uris, done=0):
    really(clients, uris, done)
    os.kill(os.getpid(), signal.SIGKILL)
clean_loci.delete_objects = dies
""",
    )
    assert len(place.objects("/work/")) == 6
    # Then nobody takes these for lost
    assert place.reads("fsck", "--outputs")["faults"] == 0
    # and the same command takes the rest
    assert sums(place.reads("clean", "--loci-after-gather", "--yes")) == {
        "loci that have been gathered": (2, len(GVCF) + len(BODY))
    }
    assert len(place.objects("/work/")) == 4


def test_an_output_that_is_lost_without_a_word_is_still_a_fault_after_a_cleaning(place: Place) -> None:
    # Given a cleaned sample, of which a QC record is lost too
    gathered(place, "A", called(place, "A", *LOCI))
    place.types("clean", "--loci-after-gather", "--yes")
    [lost] = place.objects("work/A/00000", "qc.json")
    place.s3.delete_object(Bucket=place.name, Key=f"calls/{place.name}/{lost}")
    # Then that is a fault, for fsck and for verify
    assert place.reads("fsck", "--outputs", code=8)["faults"] == 1
    assert "0.qc.json does not exist" in place.types("results", "verify", code=6).stderr


# --------------------------------------------------------------------------------------------------------- this machine


def test_this_machines_leftovers_go_and_what_a_living_pilot_uses_stays(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given the work folder of a pilot that died, one of a pilot that lives, kept work, and something staged
    from pyanamo_core.pilot.scratch import Scratch

    scratch, staging = tmp_path / "scratch", tmp_path / "staging"
    monkeypatch.setenv("PYANAMO_SCRATCH", str(scratch))
    monkeypatch.setenv("PYANAMO_STAGING", str(staging))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lives = Scratch(scratch, "lives")
    for folder in (scratch / "pilot-died", scratch / "kept" / "A", staging / "0123456789abcdef0123"):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"12345")
    (scratch / "pilot-died" / ".lock").touch()
    # When this machine is cleaned
    told = place.reads("clean", "--local", "--yes")
    # Then what nobody uses is gone, and what stays is told with why
    assert sum(one["bytes"] for one in told["cleaned"]) == 10
    assert {one["why"] for one in told["stays"]} == {"its pilot lives", "a pilot that lives may use it"}
    assert sorted(path.name for path in scratch.iterdir()) == ["pilot-lives"]
    assert (staging / "0123456789abcdef0123" / "file").exists()
    # When the pilot has left, then what it used goes, too
    lives.close()
    place.types("clean", "--local", "--yes")
    assert not list(staging.iterdir())
