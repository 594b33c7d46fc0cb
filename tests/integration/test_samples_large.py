"""`samples list` over a bucket of ten thousand objects: in pages, in parallel, few bytes of each; and the sheet made of it."""

from __future__ import annotations

import csv
import gzip
import http.server
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pysam
import pytest

PAGE = 1000


class Store(http.server.ThreadingHTTPServer):
    """S3 as far as samples are listed and looked into: ListObjectsV2 by pages, GetObject by ranges. Anybody may."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.keys: list[str] = []
        self.content: Callable[[str], bytes] = lambda key: b""
        self.asked: Counter[str] = Counter()
        self.at_a_time = self.most_at_a_time = self.moved = 0
        self.pause = 0.0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_GET(self) -> None:
        store, parts = self.server, urlsplit(self.path)
        with store.lock:
            store.at_a_time += 1
            store.most_at_a_time = max(store.most_at_a_time, store.at_a_time)
        time.sleep(store.pause)
        query = parse_qs(parts.query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0], int(query.get("continuation-token", ["0"])[0]))
        else:
            self._get(unquote(parts.path).split("/", 2)[2])
        with store.lock:
            store.at_a_time -= 1

    def _list(self, prefix: str, start: int) -> None:
        keys = [key for key in self.server.keys if key.startswith(prefix)]
        page = "".join(f"<Contents><Key>{key}</Key><Size>7</Size></Contents>" for key in keys[start : start + PAGE])
        more = start + PAGE < len(keys)
        token = f"<NextContinuationToken>{start + PAGE}</NextContinuationToken>" if more else ""
        told = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{page}"
        self._send("LIST", 200, f"<ListBucketResult>{told}</ListBucketResult>".encode())

    def _get(self, key: str) -> None:
        if key not in self.server.keys:
            self._send("MISSING", 404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        data = self.server.content(key)
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self._send("WHOLE", 200, data)
            return
        first, last = asked.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(len(data), int(last) + 1 if first and last else len(data))
        self._send("RANGE", 206, data[start:end], f"bytes {start}-{end - 1}/{len(data)}")

    def _send(self, what: str, status: int, body: bytes, span: str = "") -> None:
        with self.server.lock:
            self.server.asked[what] += 1
            self.server.moved += len(body)
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *_: object) -> None: ...


@pytest.fixture
def store() -> Iterator[Store]:
    server = Store()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """A BAM of 1 MB with its .bai, of a sample that is called as the file is; NOBODY's is cut, DOUBLE's is named OTHER."""
    folder = tmp_path_factory.mktemp("contents")
    header = {"HD": {"SO": "coordinate"}, "SQ": [{"SN": "c", "LN": 10_000_000}], "RG": [{"ID": "1", "SM": "SAMPLE"}]}
    plain, index = folder / "x.bam", folder / "x.bam.bai"
    with pysam.AlignmentFile(str(plain), "wb", header=header, format_options=[b"level=0"]) as out:
        for number in range(2000):
            read = pysam.AlignedSegment(out.header)
            read.query_name, read.reference_id, read.reference_start = f"r{number}", 0, number * 1000
            read.query_sequence, read.cigarstring = "ACGT" * 80, "320M"
            out.write(read)
    pysam.index(str(plain))
    data = plain.read_bytes()
    head = gzip.GzipFile(fileobj=io.BytesIO(data)).read(400)
    assert head.count(b"SAMPLE") == 1

    def content(key: str) -> bytes:
        if key.endswith(".bai"):
            return index.read_bytes()
        name = key.rpartition("/")[2].partition(".")[0]
        if name == "NOBODY":
            return data[:-30]
        return _renamed(data, b"SAMPLE", name.replace("DOUBLE", "S00001").encode())

    return content


def _renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    """The BAM with another sample of the same length; its first block is stored, not deflated."""
    import struct
    import zlib

    assert len(old) == len(new)
    size = struct.unpack_from("<H", data, 16)[0] + 1
    text = zlib.decompress(data[:size], wbits=31).replace(old, new)
    body = data[18 : size - 8].replace(old, new)
    assert zlib.decompress(body, wbits=-15) == text
    return data[:18] + body + struct.pack("<II", zlib.crc32(text), len(text)) + data[size:]


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pyanamo", *arguments]


def pyanamo(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(folder, *arguments), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_ten_thousand_objects_are_listed_by_pages_and_become_a_sheet_of_full_addresses(
    store: Store, tmp_path: Path
) -> None:
    # Given 5,000 samples' reads and indexes in a bucket outside AWS
    store.keys = sorted(f"set/ERR{n:07d}/S{n:05d}.cram{suffix}" for n in range(5000) for suffix in ("", ".crai"))
    where = ("s3://theirs/set", "--access", "anonymous", "--bucket-endpoint", store.url)
    # When they are listed without a look into them
    pyanamo(tmp_path, "samples", "list", *where, "--no-check", "--out", "samples.tsv")
    # Then each page was asked for once, and nothing else
    assert store.asked == {"LIST": 10}
    found = rows(tmp_path / "samples.tsv")
    assert len(found) == 5000
    assert found[4999]["index"] == "s3://theirs/set/ERR0004999/S04999.cram.crai"
    # And the sheet's scripts name reads and index, so that nobody lists them again
    pyanamo(tmp_path, "sheet", "make", "--samples", "samples.tsv", "--loci", "c:1-10,c:11-20")
    lines = (tmp_path / "sheet.txt").read_text().splitlines()
    assert len(lines) == 5001
    uri = "s3://theirs/set/ERR0000007/S00007.cram"
    assert lines[8] == f"S00007|HaplotypeCaller-1KG|HaplotypeCaller-1KG.sh {uri},{uri}.crai|c:1-10,c:11-20"


def test_headers_and_indexes_are_looked_at_by_ranges_and_in_parallel(
    store: Store, contents: Callable[[str], bytes], tmp_path: Path
) -> None:
    # Given 120 samples' BAMs of 1 MB each at a store that takes its time, and a pedigree
    store.content, store.pause = contents, 0.005
    store.keys = sorted(f"set/S{n:05d}.bam{suffix}" for n in range(120) for suffix in ("", ".bai"))
    (tmp_path / "x.ped").write_text("F S00003 0 0 1 0\nF S00004 0 0 2 0\n")
    where = ("s3://theirs/set", "--access", "anonymous", "--bucket-endpoint", store.url)
    # When they are looked into
    done = pyanamo(tmp_path, "samples", "list", *where, "--ped", "x.ped", "--out", "samples.tsv")
    # Then each is named by its read group, which took an index, three or four ranges and a part of the bytes of each
    found = rows(tmp_path / "samples.tsv")
    assert [one["sample"] for one in found] == [f"S{n:05d}" for n in range(120)]
    assert [one["sex"] for one in found[2:6]] == ["unknown", "male", "female", "unknown"]
    assert (store.asked["LIST"], store.asked["WHOLE"], store.asked["MISSING"]) == (1, 120, 0)
    assert store.asked["RANGE"] <= 4 * 120
    assert store.moved < 120 * 400_000 < 120 * len(contents("set/S00001.bam"))
    assert store.most_at_a_time > 4
    assert "samples" in done.stdout + done.stderr
    # And the sheet says the sex, as one is known
    pyanamo(tmp_path, "sheet", "make", "--samples", "samples.tsv", "--loci", "c:1-10")
    lines = (tmp_path / "sheet.txt").read_text().splitlines()
    assert (
        "|HaplotypeCaller-1KG.sh --sex male S00003=s3://theirs/set/S00003.bam,s3://theirs/set/S00003.bam.bai|"
        in lines[4]
    )


def test_bad_files_among_many_are_told_together_and_nothing_is_written(
    store: Store, contents: Callable[[str], bytes], tmp_path: Path
) -> None:
    # Given among 30 samples a cut file, a sample that is there twice, one that has another name, and one without index
    store.content = contents
    names = [*(f"S{n:05d}" for n in range(30)), "NOBODY", "DOUBLE"]
    store.keys = sorted(f"set/{name}.bam{suffix}" for name in names for suffix in ("", ".bai"))
    store.keys.remove("set/S00029.bam.bai")
    where = ("s3://theirs/set", "--access", "anonymous", "--bucket-endpoint", store.url)
    refused = pyanamo(tmp_path, "samples", "list", *where, "--out", "samples.tsv", code=3)
    for told in (
        "4 of 32 files",
        "NOBODY.bam: it is truncated",
        "sample S00001 is also in s3://theirs/set/DOUBLE.bam",
        "S00029.bam.bai is missing",
    ):
        assert told in refused.stderr
    assert not (tmp_path / "samples.tsv").exists()


def test_a_list_that_was_killed_leaves_nothing_and_is_made_by_the_same_command(
    store: Store, contents: Callable[[str], bytes], tmp_path: Path
) -> None:
    # Given a list in the making
    store.content, store.pause = contents, 0.02
    store.keys = sorted(f"set/S{n:05d}.bam{suffix}" for n in range(60) for suffix in ("", ".bai"))
    where = ("s3://theirs/set", "--access", "anonymous", "--bucket-endpoint", store.url, "--out", "samples.tsv")
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        store.asked.clear()
        process = subprocess.Popen(command(tmp_path, "samples", "list", *where), cwd=tmp_path, stderr=subprocess.PIPE)
        while store.asked["RANGE"] < 20:
            assert process.poll() is None
            time.sleep(0.01)
        # When it is killed, or ended by Ctrl-C
        process.send_signal(number)
        process.communicate(timeout=60)
        # Then no half table is there, and few of the checks were made
        assert process.returncode == code
        assert [each.name for each in tmp_path.iterdir()] == []
        assert store.asked["RANGE"] < 150
    # And the same command makes it whole
    store.pause = 0.0
    pyanamo(tmp_path, "samples", "list", *where)
    assert len(rows(tmp_path / "samples.tsv")) == 60


def test_samples_of_a_list_in_json_are_as_many_as_of_the_table(store: Store, tmp_path: Path) -> None:
    store.keys = [f"set/S{n}.bam{suffix}" for n in range(2500) for suffix in ("", ".csi")]
    where = ("s3://theirs/set", "--access", "anonymous", "--bucket-endpoint", store.url)
    found = json.loads(pyanamo(tmp_path, "samples", "list", *where, "--no-check", "--json").stdout)
    assert len(found) == 2500
    assert found[0]["index"].endswith(".bam.csi")


def test_a_script_must_be_named_where_no_table_of_samples_tells_one(tmp_path: Path) -> None:
    refused = pyanamo(tmp_path, "sheet", "make", "--samples", "A,B", "--loci", "c:1-10", code=3)
    assert "Give --script" in refused.stderr
    assert list(tmp_path.iterdir()) == []
