"""Streams of BGZF: what goes in comes out, cut anywhere and gone on with; coverage that misses no base."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pysam
import pytest
from genomics_support import block, variant, write_gvcf
from hypothesis import given
from hypothesis import strategies as st

from pyanamo_core.errors import EndpointDown, GvcfInvalid, OutputRefused, ReadsInterrupted
from pyanamo_core.genomics import slices
from pyanamo_core.genomics.assemble import FileSink, assemble, sink_for
from pyanamo_core.genomics.bgzf import Lines, Packer, RangedReader, pack, split_blocks
from pyanamo_core.genomics.coverage import Covered
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.plan_task import code_of
from pyanamo_core.genomics.read_back import read_back
from pyanamo_core.genomics.records import BGZF_EOF
from pyanamo_core.genomics.regions import cut_regions

# ---------------------------------------------------------------------------------------------------------------- BGZF


def test_packed_text_is_bgzf_that_htslib_reads_also_where_it_cannot_be_compressed(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(300_000)
    path = tmp_path / "x.gz"
    path.write_bytes(pack(noise) + BGZF_EOF)
    assert gzip.decompress(path.read_bytes()) == noise
    with pysam.BGZFile(str(path)) as file:
        assert file.read() == noise


def test_a_block_ends_with_a_line_and_blocks_are_found_again_however_the_stream_is_cut() -> None:
    lines = [f"{number}\t{'x' * (number % 700)}\n".encode() for number in range(3000)] + [b"y" * 200_000 + b"\n"]
    packer = Packer()
    packed = b"".join([*(packer.add(line) for line in lines), packer.flush()])
    chunks = [packed[at : at + 1013] for at in range(0, len(packed), 1013)]
    blocks = list(split_blocks(iter(chunks), "x"))
    assert b"".join(blocks) == packed
    assert gzip.decompress(packed) == b"".join(lines)
    ends = [gzip.decompress(block)[-1:] for block in blocks[:-4]]
    assert set(ends) == {b"\n"}
    with pytest.raises(GvcfInvalid, match="ends within a block"):
        list(split_blocks(iter([packed[:-5]]), "x"))
    with pytest.raises(GvcfInvalid, match="no BGZF"):
        list(split_blocks(iter([gzip.compress(b"text")]), "x"))


class Flaky(Inputs):
    """Reads that break off now and then."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.asked = every, 0

    def read_range(self, uri: str, start: int, length: int) -> tuple[bytes, int]:
        self.asked += 1
        if self.asked % self.every == 0:
            raise EndpointDown(endpoint="S3", reason="connection closed")
        return super().read_range(uri, start, length)


def test_a_read_that_breaks_off_is_asked_for_again_and_given_up_after_five_tries(tmp_path: Path) -> None:
    path = tmp_path / "x"
    content = random.Random(2).randbytes(100_000)
    path.write_bytes(content)
    waited: list[float] = []
    reader = RangedReader(Flaky(2), str(path), chunk=7_001, sleep=waited.append)
    assert io.BufferedReader(reader).read() == content
    assert len(waited) > 10
    with pytest.raises(EndpointDown):
        RangedReader(Flaky(1), str(path), sleep=waited.append).whole_digest()


def test_a_truncated_file_is_said_to_be_truncated(tmp_path: Path) -> None:
    path = write_gvcf(tmp_path / "x.g.vcf.gz", [block(n, n) for n in range(1, 900)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(GvcfInvalid, match="truncated"):
        list(Lines(RangedReader(Inputs(), str(path))))


# ------------------------------------------------------------------------------------------------------------ assembling


class Numbers:
    """A source of blocks that dies where it is told to."""

    def __init__(self, die_at: int = -1) -> None:
        self.sum, self.die_at = 0, die_at

    units = 4

    def snapshot(self) -> dict[str, Any]:
        return {"sum": self.sum}

    def restore(self, snapshot: dict[str, Any]) -> None:
        self.sum = int(snapshot["sum"])

    def stream(self, unit: int, skip: int) -> Iterator[tuple[bytes, int]]:
        for number in range(10):
            self.sum += unit * 10 + number
            if unit * 10 + number == self.die_at:
                raise KeyboardInterrupt
            if number + 1 > skip:
                yield pack(f"{unit}.{number}\n".encode() * 50), number + 1


@pytest.mark.parametrize("die_at", [0, 1, 9, 10, 25, 39])
def test_an_assembly_that_died_anywhere_goes_on_and_makes_the_same_file(tmp_path: Path, die_at: int) -> None:
    assemble(Numbers(), FileSink(tmp_path / "whole.gz", "key", 200))
    path = tmp_path / "x.gz"
    with pytest.raises(KeyboardInterrupt):
        assemble(Numbers(die_at), FileSink(path, "key", 200))
    assert not path.exists()
    source, sink = Numbers(), FileSink(path, "key", 200)
    made = assemble(source, sink)
    sink.forget()
    assert path.read_bytes() == (tmp_path / "whole.gz").read_bytes()
    assert source.sum == sum(range(40))
    assert (made.reused > 0) == (die_at > 5)
    assert {one.name for one in tmp_path.iterdir()} == {"x.gz", "whole.gz", ".whole.gz.key.json"}


def test_what_is_stored_otherwise_than_it_was_sent_is_found_when_it_is_read_back(tmp_path: Path) -> None:
    path = write_gvcf(tmp_path / "x.g.vcf.gz", [block(1, 100)])
    digest = read_back(Inputs(), str(path), tmp_path / "x.tbi")
    assert gzip.decompress((tmp_path / "x.tbi").read_bytes()) == gzip.decompress(Path(f"{path}.tbi").read_bytes())
    assert read_back(Inputs(), str(path), tmp_path / "x.tbi", sha256=digest) == digest
    with pytest.raises(OutputRefused, match="not what was sent"):
        read_back(Inputs(), str(path), tmp_path / "x.tbi", sha256="0" * 64)
    unsorted = tmp_path / "u.gz"
    unsorted.write_bytes(
        pack(b"##fileformat=VCFv4.2\n#CHROM\nc\t9\t.\tA\tG\nd\t1\t.\tA\tG\nc\t1\t.\tA\tG\n") + BGZF_EOF
    )
    with pytest.raises(GvcfInvalid, match="cannot be indexed"):
        read_back(Inputs(), str(unsorted), tmp_path / "u.tbi")


# -------------------------------------------------------------------------------------------------------------- coverage


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=8, unique=True),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), max_size=20),
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)), max_size=2),
)
def test_holes_are_exactly_the_bases_under_no_record(
    edges: list[int], records: list[tuple[int, int]], exempt: list[tuple[int, int]]
) -> None:
    loci = [Locus("c", a, b - 1) for a, b in list(pairwise(sorted(edges)))[::2]]
    free = [Locus("c", a, a + n) for a, n in sorted(exempt)]
    check = Covered(loci, free)
    for position, more in sorted(records):
        check.saw("c", position, position + more)
    found = {base for hole in check.finish() for base in range(hole.start, hole.end + 1)}
    wanted = {base for locus in loci for base in range(locus.start, locus.end + 1)}
    covered = {base for a, n in records for base in range(a, a + n + 1)}
    allowed = {base for x in free for base in range(x.start, x.end + 1)}
    assert wanted - covered - allowed <= found
    assert found <= wanted - covered


# ---------------------------------------------------------------------------------------------------------------- slices


def member(path: Path, **told: Any) -> dict[str, Any]:
    return {"sample": "S1", "gvcf": str(path), "loci": "all", "outside_deletions": [], "left_out": [], **told}


def test_a_slice_holds_each_record_once_also_one_that_reaches_over_two_intervals(tmp_path: Path) -> None:
    path = write_gvcf(tmp_path / "x.g.vcf.gz", [block(1, 300), variant(301, "A" * 50, "A"), block(351, 400)])
    wide = [Locus("c", 100, 150), Locus("c", 250, 305), Locus("c", 340, 345)]
    (tmp_path / "work").mkdir()
    [made] = slices.slice_all([member(path)], wide, {"all": [Locus("c", 1, 400)]}, Inputs(), tmp_path / "work")
    assert [line.split(b"\t")[1] for line in Lines(RangedReader(Inputs(), str(made)))] == [b"1", b"301"]


def test_a_slice_that_comes_incomplete_is_asked_for_again_and_then_given_up(tmp_path: Path) -> None:
    # htslib ends an iteration silently where a read fails: a hole is all that is seen of it
    path = write_gvcf(tmp_path / "x.g.vcf.gz", [block(1, 100), block(201, 300)])
    waited: list[float] = []
    for told, complete in ({}, False), ({"left_out": ["c:101-200"]}, True), ({"outside_deletions": ["c:90+111"]}, True):
        (tmp_path / f"work{len(waited)}-{complete}-{len(told)}{next(iter(told), '')}").mkdir()
        folder = tmp_path / f"work{len(waited)}-{complete}-{len(told)}{next(iter(told), '')}"
        arguments: Any = (
            [member(path, **told)],
            [Locus("c", 50, 250)],
            {"all": [Locus("c", 1, 300)]},
            Inputs(),
            folder,
        )
        if complete:
            slices.slice_all(*arguments, sleep=waited.append)
        else:
            with pytest.raises(ReadsInterrupted, match="no record covers c:101-200"):
                slices.slice_all(*arguments, sleep=waited.append)
            assert len(waited) == 2


class Denying:
    """S3 for a role that may get and put objects, but not list the bucket: what is not there is 403, not 404."""

    def __init__(self) -> None:
        self.put: dict[str, bytes] = {}

    def client(self, service: str) -> Denying:
        assert service == "s3"
        return self

    def get_object(self, **asked: Any) -> Any:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "Access Denied"}}, "GetObject")

    def put_object(self, *, Key: str, Body: bytes, **more: Any) -> Any:  # noqa: N803 - as boto3 has it
        self.put[Key] = Body
        return {"ETag": '"x"'}

    def head_object(self, *, Key: str, **more: Any) -> Any:  # noqa: N803
        return {"ContentLength": len(self.put[Key]), "ETag": '"x"'}


class Losing(Denying):
    """S3 whose segments vanish before they are put together."""

    def create_multipart_upload(self, **asked: Any) -> Any:
        return {"UploadId": "1"}

    def upload_part_copy(self, **asked: Any) -> Any:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "NoSuchKey", "Message": "gone"}}, "UploadPartCopy")

    def abort_multipart_upload(self, **asked: Any) -> Any:
        self.put["aborted"] = b""


def test_segments_that_a_zombie_tidied_away_make_the_attempt_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyanamo_core.genomics.assemble.SEGMENT_BYTES", 300)
    s3 = Losing()
    with pytest.raises(ReadsInterrupted, match="segments of an earlier attempt are gone") as failed:
        assemble(Numbers(), sink_for("s3://bucket/out/x.gz", "key", clients=s3))
    assert code_of(failed.value) == 75
    assert "aborted" in s3.put
    assert "out/x.gz" not in s3.put


def test_a_role_that_may_not_list_the_bucket_gathers_all_the_same() -> None:
    s3 = Denying()
    made = assemble(Numbers(), sink_for("s3://bucket/out/x.gz", "key", clients=s3))
    assert list(s3.put) == ["out/x.gz"]
    assert made.bytes == len(s3.put["out/x.gz"])


@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=10, unique=True),
    st.lists(st.integers(1, 60), min_size=2, max_size=10, unique=True),
)
def test_what_a_slice_must_cover_is_what_its_gvcf_covers_within_the_intervals(one: list[int], two: list[int]) -> None:
    def loci(edges: list[int]) -> list[Locus]:
        return [Locus("c", a, b - 1) for a, b in list(pairwise(sorted(edges)))[::2]]

    def bases(found: list[Locus]) -> list[int]:
        return [base for x in found for base in range(x.start, x.end + 1)]

    covered, wide = loci(one), loci(two)
    assert bases(slices.cut(covered, wide)) == sorted(set(bases(covered)) & set(bases(wide)))
    assert slices.cut(covered, [Locus("d", 1, 9)]) == []


def test_an_exome_of_200_000_targets_is_cut_into_regions_and_slices_in_moments() -> None:
    targets = [Locus(f"c{n % 20:02d}", 1 + n // 20 * 3000, 150 + n // 20 * 3000) for n in range(200_000)]
    targets.sort()
    regions = cut_regions(targets, 5_000_000)
    assert sum(len(region.loci) for region in regions) == 200_000
    assert len(regions) == 40
    assert slices.cut(targets, regions[20].loci) == list(regions[20].loci)
