"""Reads in a bucket are sliced from the bytes that their index names: the same reads as from the whole file, and few bytes."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pysam
import pytest
from genomics_support import DATA

from pyanamo_core.errors import AwsFailed, EndpointDown, HostFault, ReadsInterrupted, ReadsInvalid
from pyanamo_core.genomics import cram, windows
from pyanamo_core.genomics.inputs import End, Inputs
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.reads import open_reads, slice_reads
from pyanamo_core.genomics.remote import KEPT_BYTES
from pyanamo_core.genomics.simulate import Cohort, Contig, simulate_cohort
from pyanamo_core.genomics.task import TRY_AGAIN, exit_code
from pyanamo_core.genomics.windows import header_end, merged, pieces

LAYOUTS = [
    "bai",
    "csi",
    *(f"{v} {x}" for v in ("2.1", "3.0", "3.1") for x in ("seqs_per_slice=40", "multi_seq_per_slice=1", "slices=3")),
]


class Bucket(Inputs):
    """`s3://b/…` is a folder here, and what is asked of it is noted."""

    def __init__(self, folder: Path, shared: Path | None = None) -> None:
        super().__init__(shared=shared)
        self.folder = folder
        self.asked: list[tuple[str, str, int]] = []
        self.lock = threading.Lock()

    def _note(self, what: str, uri: str, size: int) -> Path:
        path = self.folder / uri.removeprefix("s3://b/")
        with self.lock:
            self.asked.append((what, path.name, size))
        if not path.exists():
            raise FileNotFoundError(uri)
        return path

    def read_range(self, uri: str, start: int, length: int) -> tuple[bytes, int]:
        return super().read_range(str(self._note("range", uri, length)), start, length)

    def read_end(self, uri: str, count: int) -> End:
        path = self._note("end", uri, count)
        data, size = super().read_range(str(path), -count, 0)
        return End(data, size, hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest())

    def fetch(self, uri: str, target: Path) -> None:
        path = self._note("index", uri, 0)
        target.write_bytes(path.read_bytes())

    def copy_range(self, uri: str, start: int, end: int, target: BinaryIO, etag: str = "") -> None:
        path = self._note("copy", uri, end - start)
        if etag != hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest():
            raise ReadsInterrupted(reads=uri, reason="it was replaced by another version meanwhile")
        target.seek(start)
        target.write(path.read_bytes()[start:end])


@pytest.fixture(autouse=True)
def _reference_variables_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REF_PATH", os.environ.get("REF_PATH", ""))
    monkeypatch.setenv("REF_CACHE", os.environ.get("REF_CACHE", ""))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    contigs = [("a", 60_000), *(Contig(name, 2500, gap=False) for name in "bc"), ("d", 40_000)]
    return simulate_cohort(
        tmp_path_factory.mktemp("cohort"), contigs=contigs, samples=["S1"], depth=8, random_variants=False
    )


@pytest.fixture(scope="module")
def layouts(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same reads in every layout, with some that span much, a hole in the middle, and unplaced ones at the end."""
    folder = tmp_path_factory.mktemp("layouts")
    rng = random.Random(4)
    with pysam.AlignmentFile(str(cohort.reads["S1"]), reference_filename=str(cohort.reference)) as source:
        header = source.header
        reads = [r for r in source.fetch(until_eof=True) if not 20_000 < r.reference_start < 30_000]
    long: list[pysam.AlignedSegment] = []
    for number in range(30):  # spliced over up to 15 kb
        read = pysam.AlignedSegment(header)
        read.query_name, read.reference_id, read.reference_start = f"long{number}", 0, rng.randrange(100, 40_000)
        read.query_sequence, read.mapping_quality = "A" * 60, 60
        read.cigartuples = [(0, 30), (3, rng.randrange(10, 15_000)), (0, 30)]
        read.set_tag("RG", "S1.1")
        long.append(read)
    for number in range(50):
        read = pysam.AlignedSegment(header)
        read.query_name, read.flag, read.query_sequence = f"unplaced{number}", 4, "ACGT"
        reads.append(read)
    everything = sorted([*reads, *long], key=lambda r: (r.reference_id % 1000, r.reference_start))
    for layout in LAYOUTS:
        version, _, option = layout.partition(" ")
        options = [f"version={version}".encode(), *([option.encode()] if "slices" not in option else [])]
        if option == "slices=3":
            options += [b"seqs_per_slice=30", b"slices_per_container=3"]
        path = folder / f"{layout.replace(' ', '-')}.{'cram' if option else 'bam'}"
        more: dict[str, Any] = {"reference_filename": str(cohort.reference), "format_options": options}
        with pysam.AlignmentFile(str(path), "wc" if option else "wb", header=header, **(more if option else {})) as out:
            for read in everything:
                out.write(read)
        pysam.index(*(["-c"] if layout == "csi" else []), str(path))
    return folder


def loci(number: int, seed: int = 1) -> Iterator[list[Locus]]:
    """Sets of disjoint, ordered loci of all sizes."""
    rng = random.Random(seed)
    for _ in range(number):
        found = list[Locus]()
        for contig, length in (("a", 60_000), ("b", 2500), ("c", 2500), ("d", 40_000)):
            at = 1
            while at < length and rng.random() < 0.6:
                start = rng.randrange(at, length + 1)
                end = min(length, start + rng.choice((0, 10, 500, 5000, 50_000)))
                found.append(Locus(contig, start, end))
                at = end + 2
        if found:
            yield found


def sliced(inputs: Inputs, uri: str, work: Path, wanted: Sequence[Locus], reference: Path) -> list[str]:
    """The slice's reads as text."""
    work.mkdir(parents=True, exist_ok=True)
    with open_reads(inputs, uri, None, work, reference) as reads:
        slice_reads(reads, wanted, work / "slice.bam", "S1")
    return str(pysam.view("--no-PG", str(work / "slice.bam"))).splitlines()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_slice_from_ranges_is_the_slice_of_the_whole_file(
    layouts: Path, cohort: Cohort, tmp_path: Path, layout: str
) -> None:
    # Given reads in one layout, in a bucket and here
    name = f"{layout.replace(' ', '-')}.{'cram' if ' ' in layout else 'bam'}"
    bucket, found = Bucket(layouts, tmp_path / "shared"), 0
    # When loci of all kinds are sliced from both
    for wanted in loci(8 if " " in layout else 40):
        theirs = sliced(bucket, f"s3://b/{name}", tmp_path / "work", wanted, cohort.reference)
        ours = sliced(Inputs(), str(layouts / name), tmp_path / "own", wanted, cohort.reference)
        # Then they hold the same reads
        assert theirs == ours, wanted
        found += len(ours)
    assert found > 2000
    # And header, end and index were read once, and each range once
    asked = Counter(what for what, _, _ in bucket.asked)
    assert (asked["end"], asked["index"] <= 3, asked["range"] <= 4) == (1, True, True)
    assert asked["copy"] <= 4 * (8 if " " in layout else 40)


SPARSE = [(index, kind) for index in ("bai", "csi") for kind in ("long", "spliced")]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Islands of reads up to 400 kb apart on contigs of 4 and 3 Mb: long ones, and spliced ones."""
    folder = tmp_path_factory.mktemp("sparse")
    contigs = [{"SN": "a", "LN": 4_000_000}, {"SN": "b", "LN": 3_000_000}]
    header = pysam.AlignmentHeader.from_dict(
        {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": contigs, "RG": [{"ID": "1", "SM": "S1"}]}
    )
    for index, kind in SPARSE:
        rng = random.Random(f"{index} {kind}")
        reads: list[pysam.AlignedSegment] = []
        for contig, length in ((0, 4_000_000), (1, 3_000_000)):
            at = rng.randrange(50_000)
            while at < length - 250_000:
                for _ in range(rng.choice((1, 2, 12))):
                    read = pysam.AlignedSegment(header)
                    read.reference_id, read.reference_start = contig, at + rng.randrange(3000)
                    bases = rng.randrange(10_000, 40_000) if kind == "long" and rng.random() < 0.6 else 150
                    read.query_sequence = (
                        rng.randbytes(bases).translate(bytes(b"ACGT"[n % 4] for n in range(256))).decode()
                    )
                    read.query_qualities = array("B", (byte % 41 for byte in rng.randbytes(bases)))
                    gap = rng.random() < (0.1 if kind == "spliced" else 0)
                    gapped = [(0, 50), (3, rng.randrange(1000, 200_000)), (0, bases - 50)]
                    read.cigartuples = gapped if gap else [(0, bases)]
                    read.query_name, read.mapping_quality = f"r{len(reads)}", 60
                    read.set_tag("RG", "1")
                    reads.append(read)
                at += rng.choice((4000, 20_000, 100_000, 100_000, 400_000))
        path = folder / f"{index}-{kind}.bam"
        with pysam.AlignmentFile(str(path), "wb", header=header) as out:
            for read in sorted(reads, key=lambda r: (r.reference_id, r.reference_start)):
                out.write(read)
        pysam.index(*(["-c"] if index == "csi" else []), str(path))
    return folder


@pytest.mark.parametrize(("index", "kind"), SPARSE)
def test_loci_between_islands_of_reads_find_what_the_whole_file_has(
    sparse: Path, tmp_path: Path, index: str, kind: str
) -> None:
    # Given reads in islands, so that most loci have no smallest bin of their own
    bucket, rng, found = Bucket(sparse, tmp_path / "shared"), random.Random(7), 0
    name = f"{index}-{kind}.bam"
    with pysam.AlignmentFile(str(sparse / name)) as file:
        places = [(str(read.reference_name), read.reference_start) for read in file.fetch(until_eof=True)]
    # When loci in and behind islands are sliced
    for _ in range(60):
        contig, start = rng.choice(places)
        start += rng.randrange(1, 60_000)
        wanted = [Locus(contig, start, start + rng.choice((0, 100, 5000, 60_000)))]
        theirs = sliced(bucket, f"s3://b/{name}", tmp_path / "work", wanted, tmp_path / "none.fa")
        # Then no locus is refused, and none has fewer reads
        assert theirs == sliced(Inputs(), str(sparse / name), tmp_path / "own", wanted, tmp_path / "none.fa"), wanted
        found += len(theirs)
    assert found > 30


def test_a_cram_before_3_is_copied_to_its_end_as_its_reader_takes_a_hole_for_the_end(
    layouts: Path, cohort: Cohort, tmp_path: Path
) -> None:
    ends: dict[str, list[int]] = {}

    class Noting(Bucket):
        def copy_range(self, uri: str, start: int, end: int, target: BinaryIO, etag: str = "") -> None:
            ends.setdefault(uri, []).append(end)
            super().copy_range(uri, start, end, target, etag)

    for version in ("2.1", "3.0"):
        name = f"{version}-seqs_per_slice=40.cram"
        reads = sliced(
            Noting(layouts), f"s3://b/{name}", tmp_path / version, [Locus("a", 1000, 2000)], cohort.reference
        )
        assert reads
    old, new = (max(ends[f"s3://b/{version}-seqs_per_slice=40.cram"]) for version in ("2.1", "3.0"))
    assert old == (layouts / "2.1-seqs_per_slice=40.cram").stat().st_size
    assert new < (layouts / "3.0-seqs_per_slice=40.cram").stat().st_size


def test_a_contigs_part_of_an_index_is_unpacked_once_for_all_loci(
    layouts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an index of each kind, and what is unpacked of it counted
    unpacked = Counter[str]()
    real = windows.struct.unpack_from

    def counted(form: str, data: bytes, at: int = 0) -> Any:
        unpacked[str(len(data))] += 1
        return real(form, data, at)

    monkeypatch.setattr(windows.struct, "unpack_from", counted)
    for name in ("bai.bam.bai", "csi.bam.csi"):
        index = windows.Index(layouts / name, 1 << 40)
        first = index.ranges(3, 1, 40_000)
        before = unpacked.total()
        # When many loci are looked up, then nothing is unpacked again
        assert all(index.ranges(3, 1 + step, 40_000 - step) for step in range(0, 15_000, 10))
        assert index.ranges(3, 1, 40_000) == first
        assert index.ranges(0, 1, 60_000)
        assert unpacked.total() == before


def test_slices_of_a_cram_are_found_by_place_and_not_one_by_one() -> None:
    # Given the index of a genome's CRAM: 40,000 slices on a contig, one of which spans much
    listed = [cram.Slice(0, 1 + 1000 * n, 50_000 if n == 70 else 1100, 10_000 + 100 * n, 10, 90) for n in range(40_000)]
    found = windows.Crai(listed, None)
    for start, end in (
        (1, 1),
        (75_500, 75_600),
        (119_000, 119_001),
        (34_000_000, 39_100_000),
        (39_999_900, 50_000_000),
    ):
        near = [one.offset for one in listed if one.start <= end and one.start + one.span > start]
        assert near
        [(low, high)] = list(found.ranges(0, start, end))
        # Then what is read begins a container before the first and ends behind the one after the last
        assert low == max(10_000, min(near) - 100)
        assert high > max(near) + 100 or max(near) == listed[-1].offset
        assert len(found.near(0, start, end)) <= (end - start) // 1000 + 52
    assert not list(found.ranges(0, 60_000_000, 60_000_001))
    assert not list(found.ranges(1, 1, 100))


def test_real_files_give_the_same_reads_from_ranges(tmp_path: Path) -> None:
    for name, wanted in (
        ("1kg-chr17/mpileup.1.bam", Locus("17", 1000, 2000)),
        ("na12878-chr22/NA12878.chr22.tiny.bam", Locus("q", 4000, 5000)),
    ):
        folder = (DATA / name).parent
        theirs = sliced(Bucket(folder), f"s3://b/{Path(name).name}", tmp_path / "w", [wanted], tmp_path / "none.fa")
        ours = sliced(Inputs(), str(DATA / name), tmp_path / "o", [wanted], tmp_path / "none.fa")
        assert theirs == ours
        assert len(ours) > 100


def test_a_small_locus_moves_few_bytes_of_a_large_file(cohort: Cohort, tmp_path: Path) -> None:
    # Given 2 MB of reads
    big = simulate_cohort(tmp_path / "big", contigs=[("a", 150_000)], samples=["S1"], depth=15, random_variants=False)
    bam = tmp_path / "S1.bam"
    with pysam.AlignmentFile(str(big.reads["S1"]), reference_filename=str(big.reference)) as source:
        rng = random.Random(1)
        with pysam.AlignmentFile(str(bam), "wb", header=source.header) as out:
            for read in source.fetch(until_eof=True):
                read.query_qualities = array("B", (byte % 41 for byte in rng.randbytes(read.query_length)))
                out.write(read)
    pysam.index(str(bam))
    size = bam.stat().st_size
    # When 2 kb in its middle are sliced
    bucket = Bucket(tmp_path)
    assert sliced(bucket, "s3://b/S1.bam", tmp_path / "w", [Locus("a", 90_000, 92_000)], big.reference)
    # Then one range was copied, and little was moved
    copied = [moved for what, _, moved in bucket.asked if what == "copy"]
    assert len(copied) == 1
    assert copied[0] < size / 5
    # And nothing of the copy is left
    assert not (tmp_path / "w" / "reads").exists()


def test_a_locus_without_reads_is_empty_and_copies_nothing(layouts: Path, cohort: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "few.bam"
    with (
        pysam.AlignmentFile(str(layouts / "bai.bam")) as source,
        pysam.AlignmentFile(str(path), "wb", header=source.header) as out,
    ):
        for read in source.fetch("a"):
            out.write(read)
    pysam.index(str(path))
    bucket = Bucket(tmp_path)
    assert sliced(bucket, "s3://b/few.bam", tmp_path / "w", [Locus("d", 1, 40_000)], cohort.reference) == []
    assert not [what for what, _, _ in bucket.asked if what == "copy"]


# -------------------------------------------------------------------------------------------------------------- sharing


def test_nests_at_a_time_read_header_and_index_once(layouts: Path, cohort: Cohort, tmp_path: Path) -> None:
    # Given eight nests of one sample that begin together
    bucket = Bucket(layouts, tmp_path / "shared")
    found: dict[int, list[str]] = {}

    def nest(number: int) -> None:
        wanted = [Locus("a", 1000 + 5000 * number, 3000 + 5000 * number)]
        found[number] = sliced(bucket, "s3://b/bai.bam", tmp_path / str(number), wanted, cohort.reference)

    threads = [threading.Thread(target=nest, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then each has its reads, and the bucket was asked once for what they share
    assert len(found) == 8
    asked = Counter(what for what, _, _ in bucket.asked)
    assert (asked["end"], asked["index"]) == (1, 1)
    assert asked["copy"] <= 8


def test_reads_replaced_while_a_pilot_works_are_noticed_and_read_anew(
    layouts: Path, cohort: Cohort, tmp_path: Path
) -> None:
    # Given a pilot that knows a sample's header and index
    for name in ("bai.bam", "bai.bam.bai"):
        (tmp_path / name).write_bytes((layouts / name).read_bytes())
    bucket, wanted = Bucket(tmp_path, tmp_path / "shared"), [Locus("a", 1000, 2000)]
    before = sliced(bucket, "s3://b/bai.bam", tmp_path / "w1", wanted, cohort.reference)
    # When the reads are replaced by others
    with (
        pysam.AlignmentFile(str(layouts / "bai.bam")) as source,
        pysam.AlignmentFile(str(tmp_path / "bai.bam"), "wb", header=source.header) as out,
    ):
        for read in list(source.fetch(until_eof=True))[100:]:
            out.write(read)
    pysam.index(str(tmp_path / "bai.bam"))
    # Then the next nest does not mix two versions, and the one after it reads the new one
    with pytest.raises(ReadsInterrupted, match="another version") as raised:
        sliced(bucket, "s3://b/bai.bam", tmp_path / "w2", wanted, cohort.reference)
    assert exit_code(raised.value) == TRY_AGAIN
    after = sliced(bucket, "s3://b/bai.bam", tmp_path / "w3", wanted, cohort.reference)
    assert 0 < len(after) < len(before)


def test_the_longest_unused_samples_make_room(
    layouts: Path, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given room for the headers and indexes of about three samples
    one = sum((layouts / name).stat().st_size for name in ("bai.bam.bai",))
    monkeypatch.setattr("pyanamo_core.genomics.remote.KEPT_BYTES", 4 * one)
    assert KEPT_BYTES > 1 << 29
    for number in range(8):
        for suffix in ("", ".bai"):
            os.link(layouts / f"bai.bam{suffix}", tmp_path / f"{number}.bam{suffix}")
    bucket = Bucket(tmp_path, tmp_path / "shared")
    # When a pilot meets eight of them
    for number in range(8):
        assert sliced(bucket, f"s3://b/{number}.bam", tmp_path / "w", [Locus("a", 1, 500)], cohort.reference)
    # Then it has not kept all
    assert 1 <= len(list((tmp_path / "shared").glob("*/known.json"))) < 8
    # and the last one is known still
    bucket.asked.clear()
    assert sliced(bucket, "s3://b/7.bam", tmp_path / "w", [Locus("a", 1, 500)], cohort.reference)
    assert {what for what, _, _ in bucket.asked} == {"copy"}


def test_room_is_never_made_of_an_entry_that_another_nest_is_making(
    layouts: Path, cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given no room at all, an entry in the making, and one on its way out
    monkeypatch.setattr("pyanamo_core.genomics.remote.KEPT_BYTES", 0)
    others = [tmp_path / "shared" / name for name in ("abc.part", ".abc-1-2")]
    for other in others:
        other.mkdir(parents=True, mode=0o700)
        (other / "known.json").write_text("{}")
    # When another sample is met
    assert sliced(
        Bucket(layouts, tmp_path / "shared"), "s3://b/bai.bam", tmp_path / "w", [Locus("a", 1, 500)], cohort.reference
    )
    # Then they are left alone
    assert all((other / "known.json").exists() for other in others)


def test_a_damaged_entry_is_made_anew(layouts: Path, cohort: Cohort, tmp_path: Path) -> None:
    bucket = Bucket(layouts, tmp_path / "shared")
    wanted = [Locus("a", 1, 500)]
    first = sliced(bucket, "s3://b/bai.bam", tmp_path / "w", wanted, cohort.reference)
    next((tmp_path / "shared").glob("*/known.json")).write_text("{")
    assert sliced(bucket, "s3://b/bai.bam", tmp_path / "w", wanted, cohort.reference) == first


def test_what_is_wrong_with_reads_is_told_and_not_remembered(layouts: Path, cohort: Cohort, tmp_path: Path) -> None:
    # Given a truncated file, one without index, and one that is no BAM
    whole = (layouts / "bai.bam").read_bytes()
    (tmp_path / "cut.bam").write_bytes(whole[:-100])
    (tmp_path / "alone.bam").write_bytes(whole)
    (tmp_path / "text.bam").write_bytes(b"x" * 100 + whole[-28:])
    for name in ("cut", "text"):
        (tmp_path / f"{name}.bam.bai").write_bytes((layouts / "bai.bam.bai").read_bytes())
    bucket = Bucket(tmp_path, tmp_path / "shared")
    for name, reason in (
        ("cut", "truncated"),
        ("alone", r"alone\.bam\.bai is missing"),
        ("none", "no such file"),
        ("text", "stale|header cannot be read"),
    ):
        with pytest.raises(ReadsInvalid, match=reason):
            sliced(bucket, f"s3://b/{name}.bam", tmp_path / "w", [Locus("a", 1, 500)], cohort.reference)
    # When the first one is put right, it is used
    (tmp_path / "cut.bam").write_bytes(whole)
    assert sliced(bucket, "s3://b/cut.bam", tmp_path / "w", [Locus("a", 1, 500)], cohort.reference)


@pytest.mark.parametrize(
    "error",
    [
        EndpointDown(endpoint="S3", reason="it hangs"),
        AwsFailed(service="s3", operation="GetObject", code="SlowDown", reason="x", request_id="y"),
        HostFault(reason="no room"),
    ],
)
def test_a_network_that_fails_while_reading_means_try_again(error: Exception) -> None:
    assert exit_code(error) == TRY_AGAIN


# ---------------------------------------------------------------------------------------------------------------- parts


def test_ranges_that_lie_close_are_one_and_large_ones_several() -> None:
    assert merged([(50, 60), (0, 10), (12, 20), (55, 90), (5, 5)], gap=5) == [(0, 20), (50, 90)]
    assert pieces([(0, 20), (50, 55)], 8) == [(0, 8), (8, 16), (16, 20), (50, 55)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_headers_end_is_found_from_its_first_bytes(layouts: Path, layout: str) -> None:
    path = layouts / f"{layout.replace(' ', '-')}.{'cram' if ' ' in layout else 'bam'}"
    whole = path.read_bytes()
    end = header_end(whole)
    assert end is not None
    assert header_end(whole[:end]) == end
    assert header_end(whole[:20]) is None
    with pytest.raises(ValueError, match="BAM"):
        header_end(b"no reads at all, but text")


class _Breaking:
    """An S3 client whose connection breaks in the middle of an answer, so many times."""

    def __init__(self, data: bytes, breaks: int) -> None:
        self.data, self.breaks, self.ranges = data, breaks, list[str]()

    def get_object(self, *, Range: str, IfMatch: str, **_: str) -> dict[str, Any]:  # noqa: N803 - S3's own names
        self.ranges.append(Range)
        start, end = (int(x) for x in Range.removeprefix("bytes=").split("-"))
        return {"Body": self, "start": self._begin(start, end + 1), "IfMatch": IfMatch}

    def _begin(self, start: int, end: int) -> int:
        self.part = self.data[start:end]
        return start

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        from botocore.exceptions import IncompleteReadError

        if self.breaks:
            self.breaks -= 1
            yield self.part[: len(self.part) // 2]
            raise IncompleteReadError(actual_bytes=len(self.part) // 2, expected_bytes=len(self.part))
        yield self.part


@pytest.mark.parametrize(("breaks", "works"), [(3, True), (4, False)])
def test_a_range_goes_on_where_its_connection_broke(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, breaks: int, works: bool
) -> None:
    client = _Breaking(bytes(range(100)), breaks)
    inputs = Inputs()
    monkeypatch.setattr(inputs, "_s3", lambda bucket: (client, {}))
    with (tmp_path / "x").open("wb") as file:
        if not works:
            with pytest.raises(EndpointDown):
                inputs.copy_range("s3://b/x", 20, 100, file, "v1")
            return
        inputs.copy_range("s3://b/x", 20, 100, file, "v1")
    assert (tmp_path / "x").read_bytes()[20:] == client.data[20:]
    assert client.ranges == ["bytes=20-99", "bytes=60-99", "bytes=80-99", "bytes=90-99"]
