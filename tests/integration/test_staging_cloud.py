"""Staging from S3 and the web: whose fault it is when that fails."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pilot_support import make_workflow

from pyanamo_core.aws import Clients
from pyanamo_core.errors import HostFault, SetUpError
from pyanamo_core.local import LocalCloud
from pyanamo_core.staging import ranges, stage

FASTA = b">one\nACGTACGT\n>two\nGGGG\n"


@pytest.fixture
def bucket(cloud_clients: Clients, unique_name: str) -> str:
    """A bucket with a FASTA without index, and an archive of scripts."""
    client = cloud_clients.client("s3")
    client.create_bucket(Bucket=unique_name)
    client.put_object(Bucket=unique_name, Key="data/x.fa", Body=FASTA)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("task_scripts/run.sh")
        info.size, info.mode = 10, 0o755
        archive.addfile(info, io.BytesIO(b"#!/bin/sh\n"))
    client.put_object(Bucket=unique_name, Key="scripts.tar.gz", Body=packed.getvalue())
    client.put_object(Bucket=unique_name, Key="folder/sub/a.sh", Body=b"#!/bin/sh\n")
    return unique_name


def staged(clients: Clients | None, root: Path, **more: Any) -> Any:
    """What staging gives for a workflow."""
    return stage(make_workflow(**more), clients, root=root)


def reference(uri: str, **more: str) -> list[dict[str, str]]:
    """The references of a workflow file."""
    return [{"name": "ref", "uri": uri, **more}]


def test_a_reference_is_fetched_once_and_gets_its_index(cloud_clients: Clients, bucket: str, tmp_path: Path) -> None:
    # Given a FASTA in S3
    references = reference(f"s3://{bucket}/data/x.fa", sha256=hashlib.sha256(FASTA).hexdigest())

    # When it is staged twice, the second time without a client
    first = staged(cloud_clients, tmp_path, references=references)
    second = staged(None, tmp_path, references=references)

    # Then it was fetched once, verified, and indexed
    path = Path(first.references["ref"])
    assert second.references == first.references
    assert path.read_bytes() == FASTA
    assert (path.parent / "x.fa.fai").exists()
    assert (path.parent / "x.dict").exists()


def test_an_index_that_lies_beside_the_reference_is_fetched_with_it(
    cloud_clients: Clients, bucket: str, tmp_path: Path
) -> None:
    cloud_clients.client("s3").put_object(Bucket=bucket, Key="data/x.dict", Body=b"@HD\tVN:1.6\n@CO\tours\n")

    path = Path(staged(cloud_clients, tmp_path, references=reference(f"s3://{bucket}/data/x.fa")).references["ref"])

    assert "ours" in (path.parent / "x.dict").read_text()


def test_a_reference_that_has_changed_is_fetched_again(cloud_clients: Clients, bucket: str, tmp_path: Path) -> None:
    references = reference(f"s3://{bucket}/data/x.fa")
    before = staged(cloud_clients, tmp_path, references=references).references["ref"]

    cloud_clients.client("s3").put_object(Bucket=bucket, Key="data/x.fa", Body=b">one\nTTTT\n")

    after = staged(cloud_clients, tmp_path, references=references).references["ref"]
    assert Path(after).read_bytes() == b">one\nTTTT\n"
    assert Path(before).read_bytes() == FASTA


def test_scripts_come_as_an_archive_or_as_a_folder_of_objects(
    cloud_clients: Clients, bucket: str, tmp_path: Path
) -> None:
    archive = staged(cloud_clients, tmp_path, scripts=f"s3://{bucket}/scripts.tar.gz").pipeline
    folder = staged(cloud_clients, tmp_path, scripts=f"s3://{bucket}/folder/").pipeline

    assert os.access(Path(archive) / "run.sh", os.X_OK)
    assert os.access(Path(folder) / "sub" / "a.sh", os.X_OK)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"references": [{"name": "ref", "uri": "s3://BUCKET/none.fa"}]}, "none.fa does not exist"),
        ({"references": [{"name": "ref", "uri": "s3://no-such-bucket-here/x.fa"}]}, "does not exist"),
        ({"references": [{"name": "ref", "uri": "s3://BUCKET/data/x.fa", "sha256": "0" * 64}]}, "SHA-256"),
        ({"scripts": "s3://BUCKET/none.tar.gz"}, "none.tar.gz do not exist"),
        ({"scripts": "s3://BUCKET/empty/"}, "hold no object"),
        ({"scripts": "s3://BUCKET/scripts.tar.gz", "scripts_sha256": "0" * 64}, "SHA-256"),
    ],
)
def test_what_is_missing_or_another_is_the_set_ups_fault(
    cloud_clients: Clients, bucket: str, tmp_path: Path, what: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SetUpError, match=reason):
        staged(cloud_clients, tmp_path, **json.loads(json.dumps(what).replace("BUCKET", bucket)))

    # And nothing half is left behind
    assert not [path for path in tmp_path.glob("*") if not path.name.endswith(".lock")]


def test_what_may_not_be_read_is_the_set_ups_fault(
    cloud_clients: Clients, misbehaving_cloud: LocalCloud, bucket: str, tmp_path: Path
) -> None:
    misbehaving_cloud.answer("s3", "", "access_denied", times=-1, path=f"/{bucket}/data/x.fa")

    with pytest.raises(SetUpError):
        staged(cloud_clients, tmp_path, references=reference(f"s3://{bucket}/data/x.fa"))


def test_an_s3_that_cannot_be_reached_is_the_hosts_fault(tmp_path: Path) -> None:
    clients = Clients.with_keys("testing", "testing", "http://127.0.0.1:9", "us-east-1")

    with pytest.raises(HostFault):
        stage(make_workflow(references=reference("s3://bucket/x.bed")), _Quick(clients), root=tmp_path)


class _Quick:
    """Clients without patience."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def client(self, service: str, region: str | None = None) -> Any:
        return self._clients.quick(service)

    def anonymous(self, service: str = "s3", region: str | None = None) -> Any:
        return self._clients.quick(service)


class Web(http.server.BaseHTTPRequestHandler):
    """A web server with one file; what it answers to another path is in the path."""

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name in {"x.bed", "short.bed"}:
            body = b"c\t1\t2\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + (100 if name == "short.bed" else 0)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
        else:
            self.send_response(int(name.partition(".")[0]))
            self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *_: Any) -> None: ...


@pytest.fixture
def web() -> Iterator[str]:
    """Its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_reference_may_come_from_the_web(web: str, tmp_path: Path) -> None:
    path = staged(None, tmp_path, references=reference(f"{web}/x.bed")).references["ref"]

    assert Path(path).read_text() == "c\t1\t2\n"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("404.bed", SetUpError),
        ("403.bed", SetUpError),
        ("503.bed", HostFault),
        ("429.bed", HostFault),
        ("short.bed", HostFault),
    ],
)
def test_a_web_servers_answer_tells_whose_fault_it_is(web: str, tmp_path: Path, name: str, fault: type) -> None:
    with pytest.raises(fault, match=name):
        staged(None, tmp_path, references=reference(f"{web}/{name}"))


# ------------------------------------------------------------------------------------------------ big files, in ranges

MB = 2**20
STAGE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from pilot_support import make_workflow
from pyanamo_core.aws import Clients
from pyanamo_core.staging import ranges, stage
ranges.RANGE_BYTES = 2**20
ranges.READERS = 1
stage(make_workflow(references=[{"name": "ref", "uri": sys.argv[1]}]), Clients(endpoint_url=sys.argv[2]), root=Path(sys.argv[3]))
"""


@pytest.fixture
def big(cloud_clients: Clients, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that is no FASTA, of six ranges of 1 MB."""
    monkeypatch.setattr(ranges, "RANGE_BYTES", MB)
    cloud_clients.client("s3").put_object(Bucket=bucket, Key="big.bin", Body=random.Random(1).randbytes(6 * MB - 5))
    return f"s3://{bucket}/big.bin"


def left(root: Path) -> list[str]:
    """What staging has left behind, but for its locks."""
    return sorted(path.name for path in root.glob("*") if not path.name.endswith(".lock"))


def test_a_reference_whose_fetching_was_killed_is_gone_on_with(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, big: str, tmp_path: Path
) -> None:
    # Given a process that fetches it range by range, and is killed after two of them
    misbehaving_cloud.delay("s3", "GetObject", 0.5, times=-1)
    arguments = [big, misbehaving_cloud.endpoint, str(tmp_path), str(Path(__file__).parents[1])]
    with subprocess.Popen(
        [sys.executable, "-c", STAGE, *arguments], env=os.environ | misbehaving_cloud.environment()
    ) as one:
        give_up = time.monotonic() + 60
        while not any(path.read_text().count("\n") > 2 for path in tmp_path.glob("*.notes")):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        one.kill()
    arrived = next(tmp_path.glob("*.notes")).read_text().count("\n") - 1
    assert 2 <= arrived < 6
    misbehaving_cloud.behave()

    # When the next one stages it
    misbehaving_cloud.watch()
    path = Path(staged(cloud_clients, tmp_path, references=reference(big)).references["ref"])

    # Then only the rest was fetched, the file is whole, and nothing half is left
    asked = [each["range"] for each in misbehaving_cloud.seen() if each["operation"] == "GetObject"]
    assert len(asked) == 6 - arrived
    assert path.read_bytes() == random.Random(1).randbytes(6 * MB - 5)
    assert left(tmp_path) == [path.parent.name]


def test_a_part_of_an_object_that_was_replaced_is_not_taken(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, big: str, tmp_path: Path
) -> None:
    # Given an object that changes between the look at it and its bytes
    misbehaving_cloud.answer("s3", "GetObject", "PreconditionFailed", status=412, message="another ETag", times=1)

    with pytest.raises(HostFault, match="was changed while it was fetched"):
        staged(cloud_clients, tmp_path, references=reference(big))

    assert staged(cloud_clients, tmp_path, references=reference(big)).references["ref"]


@pytest.mark.parametrize("when", ["before", "in the middle"])
def test_a_host_without_room_fetches_nothing_and_keeps_nothing(
    cloud_clients: Clients, big: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    # Given a disk with room for half of it
    written = iter(range(1000))

    def pwrite(handle: int, data: Any, place: int) -> int:
        if next(written) >= 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return _pwrite(handle, data, place)

    _pwrite = os.pwrite
    with monkeypatch.context() as patch:
        if when == "before":
            usage = shutil.disk_usage(tmp_path)
            patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=3 * MB))
        else:
            patch.setattr(os, "pwrite", pwrite)

        with pytest.raises(HostFault, match=r"room for|No space left"):
            staged(cloud_clients, tmp_path, references=reference(big))

    # Then it is the host's fault, and what had arrived does not keep the room
    assert left(tmp_path) == []
