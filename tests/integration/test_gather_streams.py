"""Gather from S3 to S3: in bounded memory, going on after a kill, through segments that leave no trace."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pysam
import pytest
from genomics_support import Nest

from pyanamo_core.genomics.plan_files import put_plan
from pyanamo_core.local import LocalCloud

PIECES, LINES = 4, 26_000
"""About 16 MB of BGZF: three segments of the 5 MiB that S3 demands at least."""
CHILD = """
import sys
import pyanamo_core.genomics.assemble as assemble
assemble.SEGMENT_BYTES = 5 << 20
from pyanamo_core.genomics import plan_task
import os
code = plan_task.run(["gather", sys.argv[1]], os.environ)
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak, file=sys.stderr)
raise SystemExit(code)
"""


class Bucket:
    """A bucket with one sample's recorded nests, and the plan that lists them."""

    def __init__(self, cloud: LocalCloud, name: str, folder: Path) -> None:
        self.name, self.folder, self.cloud = name, folder, cloud
        self.s3 = cloud.clients().client("s3")
        self.s3.create_bucket(Bucket=name)
        numbers = random.Random(5)
        self.lines: list[str] = []
        listed: list[dict[str, Any]] = []
        for piece in range(PIECES):
            first = piece * LINES * 10 + 1
            records = [record(first + n * 10, numbers) for n in range(LINES)]
            self.lines += records
            locus = f"c:{first}-{first + LINES * 10 - 1}"
            made = Nest(locus, records, nest=piece, contigs={"c": 10_000_000}).record(folder)
            outputs = [[self.put(Path(uri), f"work/{piece}"), ""] for uri in made.outputs if not uri.endswith(".tbi")]
            listed.append({"nest": piece, "attempt": 7, "value": locus, "outputs": outputs})
        told = {"schema": 1, "kind": "gather", "table": "T", "item": "S1", "sample": "S1", "partial": False}
        told |= {"reblock": False, "expected": [one["value"] for one in listed], "nests": listed}
        self.plan = put_plan(cloud.clients(), f"s3://{name}/plans", "S1", told)

    def put(self, path: Path, where: str) -> str:
        self.s3.upload_file(str(path), self.name, f"{where}/{path.name}")
        return f"s3://{self.name}/{where}/{path.name}"

    def keys(self, prefix: str) -> list[str]:
        return [one["Key"] for one in self.s3.list_objects_v2(Bucket=self.name, Prefix=prefix).get("Contents", ())]

    def start(self, attempt: int) -> subprocess.Popen[str]:
        """A gather in a process of its own, as a pilot starts it."""
        work = self.folder / f"work-{attempt}"
        work.mkdir()
        environ = {
            **os.environ,
            **self.cloud.environment(),
            "PYANAMO_OUTPUT": f"s3://{self.name}/out/{attempt}/",
            "PYANAMO_WORK": str(work),
            "PYANAMO_RESULT": str(self.folder / f"result-{attempt}.json"),
        }
        command = [sys.executable, "-c", CHILD, self.plan]
        return subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)

    def end(self, child: subprocess.Popen[str], attempt: int) -> tuple[dict[str, Any], str]:
        _, said = child.communicate(timeout=120)
        assert child.returncode == 0, said
        return json.loads((self.folder / f"result-{attempt}.json").read_text()), said

    def records(self, attempt: int) -> list[str]:
        body = self.s3.get_object(Bucket=self.name, Key=f"out/{attempt}/S1.g.vcf.gz")["Body"].read()
        text = gzip.decompress(body).decode().splitlines(keepends=True)
        return [line for line in text if not line.startswith("#")]


def record(position: int, numbers: random.Random) -> str:
    """A block of ten bases that does not compress."""
    noise = numbers.randbytes(150).hex()
    return f"c\t{position}\t.\tA\t<NON_REF>\t.\t.\tEND={position + 9};X={noise}\tGT:DP:GQ:MIN_DP:PL\t0/0:30:99:25:0,99,900\n"


@pytest.fixture
def bucket(local_cloud: LocalCloud, unique_name: str, tmp_path: Path) -> Bucket:
    return Bucket(local_cloud, unique_name, tmp_path)


def sums(told: dict[str, Any]) -> Sequence[str]:
    return [one["sha256"] for one in told["outputs"] if one["uri"].endswith(".g.vcf.gz")]


def test_a_gather_killed_in_its_middle_goes_on_with_its_segments_and_makes_the_same_file(bucket: Bucket) -> None:
    # Given a gather that is killed once it has stored a segment
    first = bucket.start(1)
    deadline = time.monotonic() + 60
    while not any(key.endswith("progress.json") for key in bucket.keys("plans/parts/")):
        assert first.poll() is None, first.stderr and first.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not bucket.keys("out/1/S1.manifest.json")
    kept = [key for key in bucket.keys("plans/parts/") if not key.endswith(".json")]
    assert kept
    # When the next attempt follows the same plan, into a prefix of its own
    told, _ = bucket.end(bucket.start(2), 2)
    # Then it has gone on with what was stored, and nothing is missing or twice
    assert told["figures"]["segments_reused"] >= len(kept)
    assert told["figures"]["records"] == len(bucket.lines)
    assert bucket.records(2) == bucket.lines
    # And what one that is not interrupted makes is the same, byte by byte
    assert not bucket.keys("plans/parts/")
    again, said = bucket.end(bucket.start(3), 3)
    assert sums(again) == sums(told)
    assert again["figures"]["segments_reused"] == 0
    # And what it held at most (98 MB; 105 MB for six times as much) is Python, boto3 and a few segments
    assert int(said.split()[-1]) < 160_000
    assert not bucket.keys("plans/parts/")
    # And the index leads to the records
    for suffix in ("", ".tbi"):
        bucket.s3.download_file(bucket.name, f"out/3/S1.g.vcf.gz{suffix}", str(bucket.folder / f"S1.g.vcf.gz{suffix}"))
    with pysam.TabixFile(str(bucket.folder / "S1.g.vcf.gz")) as indexed:
        [found] = indexed.fetch("c", 700_004, 700_005)
    assert found + "\n" == bucket.lines[70_000]


def test_a_locus_file_that_changed_is_refused_and_leaves_nothing(bucket: Bucket) -> None:
    # Given that the third locus file is not the one that was recorded
    key = next(key for key in bucket.keys("work/2/") if key.endswith(".g.vcf.gz"))
    body = bucket.s3.get_object(Bucket=bucket.name, Key=key)["Body"].read()
    bucket.s3.put_object(Bucket=bucket.name, Key=key, Body=body[: len(body) // 2])
    # When it is gathered
    child = bucket.start(1)
    _, said = child.communicate(timeout=120)
    # Then it is refused for good, naming nest and file, and neither result nor segments stay
    assert child.returncode == 65
    assert "item S1 nest 2" in said
    assert "its manifest says" in said
    assert not bucket.keys("out/")
    assert not bucket.keys("plans/parts/")
