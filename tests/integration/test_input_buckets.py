"""Buckets that others own: read by role, by anybody, by who pays; in another region, at another endpoint.

The local cloud answers as S3 does where a request has the wrong shape (`bucket_rule`) and tells what it was asked
(`seen`); nobody checks a signature here.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pysam
import pytest
from genomics_support import run_task
from pilot_support import make_workflow

from pyanamo_core.aws import Clients
from pyanamo_core.errors import SetUpError
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort
from pyanamo_core.local import LocalCloud
from pyanamo_core.staging import stage

FASTA = b">one\nACGTACGT\n>two\nGGGG\n"
MODES = ("role", "anonymous", "requester_pays")


@pytest.fixture
def owned(misbehaving_cloud: LocalCloud, cloud_clients: Clients, unique_name: str) -> Iterator[str]:
    """A bucket of somebody else's with a FASTA, which everybody may read; each test says how it wants to be asked."""
    s3 = cloud_clients.client("s3")
    s3.create_bucket(Bucket=unique_name)
    s3.put_object(Bucket=unique_name, Key="data/x.fa", Body=FASTA, ACL="public-read")
    misbehaving_cloud.watch()
    yield unique_name
    misbehaving_cloud.behave()


def staged(clients: Any, root: Path, bucket: str, **declared: str) -> Path:
    """The path of the FASTA as staging brings it; the bucket is declared if anything is said about it."""
    inputs = [{"bucket": bucket, **declared}] if declared else []
    references = [{"name": "ref", "uri": f"s3://{bucket}/data/x.fa"}]
    told = {"results": "s3://results/prefix", "inputs": inputs}
    return Path(stage(make_workflow(references=references, buckets=told), clients, root=root).references["ref"])


def asked(cloud: LocalCloud, bucket: str) -> list[dict[str, Any]]:
    """Requests for this bucket since the test began to watch."""
    return [one for one in cloud.seen() if one["path"].startswith(f"/{bucket}")]


@pytest.mark.parametrize("mode", MODES)
def test_staging_asks_a_bucket_as_it_is_declared(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, owned: str, tmp_path: Path, mode: str
) -> None:
    # Given a bucket that refuses everybody who asks in another way
    misbehaving_cloud.bucket_rule(owned, mode)
    # When a reference of it is staged
    assert staged(cloud_clients, tmp_path, owned, access=mode).read_bytes() == FASTA
    # Then each request had the right shape
    requests = asked(misbehaving_cloud, owned)
    assert {(one["signed"], one["payer"]) for one in requests} == {
        {"role": (True, ""), "anonymous": (False, ""), "requester_pays": (True, "requester")}[mode]
    }
    assert not any(one["presigned"] for one in requests)


@pytest.mark.parametrize(
    ("wants", "declared", "advice"),
    [
        ("requester_pays", "role", "one whose readers pay `access: requester_pays`"),
        ("anonymous", "role", "a public bucket needs `access: anonymous`"),
        ("role", "anonymous", "it is not public: give `access: role`"),
        ("anonymous", "requester_pays", "the task's role needs s3:GetObject"),
    ],
)
def test_a_bucket_asked_in_the_wrong_way_says_what_the_workflow_file_needs(
    misbehaving_cloud: LocalCloud,
    cloud_clients: Clients,
    owned: str,
    tmp_path: Path,
    wants: str,
    declared: str,
    advice: str,
) -> None:
    misbehaving_cloud.bucket_rule(owned, wants)
    with pytest.raises(SetUpError, match=f"AWS refused .*It was read with `access: {declared}`.*{advice}"):
        staged(cloud_clients, tmp_path, owned, access=declared)


def test_a_bucket_of_another_region_is_asked_there_and_nowhere_else(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, owned: str, tmp_path: Path
) -> None:
    # Given a bucket of Ireland's, and a task in Virginia
    misbehaving_cloud.bucket_rule(owned, "role", region="eu-west-1")
    # When its region is declared
    assert staged(cloud_clients, tmp_path / "1", owned, region="eu-west-1").read_bytes() == FASTA
    # Then nothing was asked in vain
    assert {one["region"] for one in asked(misbehaving_cloud, owned)} == {"eu-west-1"}
    # And where it is not declared, the SDK follows S3's answer
    assert staged(cloud_clients, tmp_path / "2", owned).read_bytes() == FASTA
    assert {one["region"] for one in asked(misbehaving_cloud, owned)} == {"eu-west-1", "us-east-1"}


def test_a_region_that_cannot_be_followed_is_named(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, owned: str, tmp_path: Path
) -> None:
    misbehaving_cloud.answer("s3", "", "wrong_region", path=f"/{owned}/", times=-1, region="eu-west-1")
    with pytest.raises(SetUpError, match="set `region: eu-west-1`"):
        staged(cloud_clients, tmp_path, owned, access="anonymous")


@pytest.mark.parametrize("mode", MODES)
def test_a_bucket_at_another_endpoint_is_asked_there(
    misbehaving_cloud: LocalCloud, owned: str, tmp_path: Path, mode: str
) -> None:
    # Given a session that leads nowhere, and a bucket outside AWS
    nowhere = Clients.with_keys("testing", "testing", "http://127.0.0.1:9", "us-east-1")
    misbehaving_cloud.bucket_rule(owned, mode, region="elsewhere-1")
    # When the bucket's endpoint is declared
    told = {"access": mode, "endpoint": misbehaving_cloud.endpoint, "region": "elsewhere-1"}
    # Then it is read there, with the session's own credentials where it is signed
    assert staged(nowhere, tmp_path, owned, **told).read_bytes() == FASTA
    assert {one["signed"] for one in asked(misbehaving_cloud, owned)} == {mode != "anonymous"}


# ------------------------------------------------------------------------------------------------------ the task's reads


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """One sample, as CRAM and as BAM."""
    made = simulate_cohort(tmp_path_factory.mktemp("cohort"), contigs=[("demo1", 16_000)], samples=["S1"])
    bam = made.folder / "S1.bam"
    with (
        pysam.AlignmentFile(str(made.reads["S1"]), reference_filename=str(made.reference)) as source,
        pysam.AlignmentFile(str(bam), "wb", header=source.header) as out,
    ):
        for read in source.fetch(until_eof=True):
            out.write(read)
    pysam.index(str(bam))
    return made


@pytest.fixture
def reads(misbehaving_cloud: LocalCloud, cloud_clients: Clients, owned: str, cohort: Cohort) -> str:
    """The bucket with that sample's reads."""
    s3 = cloud_clients.client("s3")
    for path in (cohort.reads["S1"], cohort.folder / "S1.bam"):
        for suffix in ("", ".crai" if path.suffix == ".cram" else ".bai"):
            key = f"reads/{path.name}{suffix}"
            s3.put_object(Bucket=owned, Key=key, Body=Path(f"{path}{suffix}").read_bytes(), ACL="public-read")
    misbehaving_cloud.watch()
    return owned


def called(cloud: LocalCloud, cohort: Cohort, uri: str, folder: Path, locus: str, **declared: str) -> Any:
    """The task script over a locus, as a pilot starts it, of a bucket that is declared so."""
    environ = {**cloud.environment(), "HC_CALLER": "bcftools", "PYANAMO_SHARED": str(folder / "shared")}
    environ["PYANAMO_INPUT_BUCKETS"] = json.dumps([{"bucket": uri.split("/")[2], **declared}])
    index = f"{uri}.{'crai' if uri.endswith('.cram') else 'bai'}"
    return run_task(f"{uri},{index}", locus, cohort.reference, folder / "out", folder / "work", **environ)


@pytest.mark.parametrize(("mode", "name"), [*zip(MODES, ("S1.bam", "S1.bam", "S1.final.cram"), strict=True)])
def test_a_nest_reads_by_ranges_in_every_mode_and_its_next_one_reads_no_header(
    misbehaving_cloud: LocalCloud, reads: str, cohort: Cohort, tmp_path: Path, mode: str, name: str
) -> None:
    # Given somebody's reads, which refuse everybody who asks in another way, in another region at another endpoint
    misbehaving_cloud.bucket_rule(reads, mode, region="" if mode == "anonymous" else "eu-west-1")
    told = {"access": mode, "region": "eu-west-1", "endpoint": misbehaving_cloud.endpoint}
    uri = f"s3://{reads}/reads/{name}"
    # When two nests of a pilot call them, one after the other
    first = called(misbehaving_cloud, cohort, uri, tmp_path, "demo1:2000-4000", **told)
    assert (first.code, bool(first.uris)) == (0, True), first.stderr
    requests = asked(misbehaving_cloud, reads)
    misbehaving_cloud.watch()
    second = called(misbehaving_cloud, cohort, uri, tmp_path, "demo1:10000-11000", **told)
    assert second.code == 0, second.stderr
    # Then each request had the right shape, and nothing was listed or read without a range but the index
    more = asked(misbehaving_cloud, reads)
    assert {(one["signed"], one["payer"]) for one in requests + more} == {
        {"role": (True, ""), "anonymous": (False, ""), "requester_pays": (True, "requester")}[mode]
    }
    assert {one["operation"] for one in requests + more} == {"GetObject"}
    assert Counter(one["path"].endswith("ai") for one in requests if not one["range"]) == {True: 1}
    assert len(requests) <= 6
    # And the second one asked for its own reads only, of the version that the first one saw
    assert len(more) == 1
    assert more[0]["range"]
    assert more[0]["if_match"]
    # And no address with a signature was made or told
    assert not any(one["presigned"] for one in requests + more)
    everything = first.stdout + first.stderr + second.stdout + second.stderr + json.dumps(first.result)
    assert "X-Amz" not in everything
    assert "Signature" not in everything


@pytest.mark.parametrize(("wants", "declared"), [("requester_pays", "role"), ("role", "anonymous")])
def test_a_nest_that_may_not_read_stops_the_run_and_says_what_the_workflow_file_needs(
    misbehaving_cloud: LocalCloud, reads: str, cohort: Cohort, tmp_path: Path, wants: str, declared: str
) -> None:
    misbehaving_cloud.bucket_rule(reads, wants)
    done = called(misbehaving_cloud, cohort, f"s3://{reads}/reads/S1.bam", tmp_path, "demo1:1-900", access=declared)
    assert done.code == 78
    assert f"It was read with `access: {declared}`. In `buckets: inputs:` of the workflow file, {reads}" in done.stderr


@pytest.mark.parametrize(("shape", "times"), [("internal_error", 2), ("throttled", 2)])
def test_a_hiccup_of_s3_is_no_news_to_a_nest(
    misbehaving_cloud: LocalCloud, reads: str, cohort: Cohort, tmp_path: Path, shape: str, times: int
) -> None:
    misbehaving_cloud.answer("s3", "GetObject", shape, times=times, path=f"/{reads}/")
    done = called(misbehaving_cloud, cohort, f"s3://{reads}/reads/S1.bam", tmp_path, "demo1:1-900", access="role")
    assert done.code == 0, done.stderr


# ---------------------------------------------------------------------------------------------------------- the reference


@pytest.mark.parametrize("caller", ["bcftools", "gatk"])
def test_a_reference_in_plain_gzip_calls_as_the_unpacked_one(
    cloud_clients: Clients, owned: str, cohort: Cohort, tmp_path: Path, caller: str
) -> None:
    # Given a reference in a bucket, packed in one piece, without indexes
    if caller == "gatk":
        prepare()
    packed = gzip.compress(cohort.reference.read_bytes())
    cloud_clients.client("s3").put_object(Bucket=owned, Key="data/ref.fa.gz", Body=packed)
    references = [{"name": "ref", "uri": f"s3://{owned}/data/ref.fa.gz"}]
    reference = Path(stage(make_workflow(references=references), cloud_clients, root=tmp_path).references["ref"])
    # When a sample is called with it, and with the plain one
    records: list[list[str]] = []
    for number, each in enumerate((reference, cohort.reference)):
        out = tmp_path / f"out-{number}"
        done = run_task(cohort.folder / "S1.bam", "demo1:2000-4000", each, out, tmp_path / "work", HC_CALLER=caller)
        assert done.code == 0, done.stderr
        text = gzip.decompress(next(out.glob("*.g.vcf.gz")).read_bytes()).decode()
        records.append([line for line in text.splitlines() if line[0] != "#"])
    # Then the records are the same
    assert records[0] == records[1]
    assert len(records[0]) > 10
