"""What a pilot believes and what it keeps: truncated results, big logs, thousands of tag lines and outputs."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pilot_support import World, make_workflow

from pyanamo_core.aws import Clients
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.ledger.table import create_table, delete_table
from pyanamo_core.model import Cause, Definition, LogPointer, NestStatus, State

MIB = 1 << 20
TAGS = 5000
OUTPUTS = 2000


class CloudWorld(World):
    """A world whose ledger is a table of the local cloud and whose bucket is there too."""

    def __init__(self, folder: Path, clients: Clients, name: str, environ: dict[str, str], **more: Any) -> None:
        self.environ = {**environ, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        self.bucket = f"{name}-results"
        workflow = make_workflow(name=name, buckets={"results": f"s3://{self.bucket}/prefix"}, **more)
        super().__init__(folder, workflow, clients=clients)
        clients.client("s3").create_bucket(Bucket=self.bucket)
        create_table(clients, name, deletion_protection=False, pitr=False)
        Ledger(clients, name).add_workflow(workflow)
        self.table = open_ledger(clients, name)[0]
        self.ledger: Any = self.table

    def python(self, item_id: str, text: str, *values: str) -> None:
        """Import an item whose nests run a Python program with the nest's value as its argument."""
        script = self.folder / f"{item_id}.py"
        script.write_text(text)
        self.table.import_item(item_id, "T", Definition(script=f"{sys.executable} {script}", arguments=values))

    def read(self, uri: str) -> bytes:
        """An object."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return self.clients.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()

    def lines(self, log: LogPointer) -> Iterator[str]:
        """The lines of a log in CloudWatch Logs, within its time range."""
        told: dict[str, Any] = {"logGroupName": log.group, "logStreamName": log.stream, "startFromHead": True}
        token: dict[str, str] = {}
        while True:
            page = self.clients.client("logs").get_log_events(
                **told, startTime=log.start_ms, endTime=log.end_ms + 1, **token
            )
            yield from (event["message"] for event in page["events"])
            if page["nextForwardToken"] == token.get("nextToken"):
                return
            token = {"nextToken": page["nextForwardToken"]}


@pytest.fixture
def made(cloud_clients: Clients, cloud_environment: dict[str, str], unique_name: str, tmp_path: Path) -> Iterator[Any]:
    """Makes a world in the local cloud."""
    tables: list[str] = []

    def make(**more: Any) -> CloudWorld:
        tables.append(unique_name)
        return CloudWorld(tmp_path, cloud_clients, unique_name, cloud_environment, **more)

    yield make
    for table in tables:
        delete_table(cloud_clients, table)


# A task that puts a gVCF and its companions, and tells of them; and does so wrongly, as its nest's value says.
GVCF = """
import boto3, hashlib, json, os, sys
how = sys.argv[1].split(':')[0]
end = bytes.fromhex('1f8b08040000000000ff0600424302001b0003000000000000000000')
body = b'\\x1f\\x8b\\x08\\x04' * 5000 + end
name = 'S1.g.vcf.gz'
told = []
for each, text in ((name, body), (name + '.tbi', b'index'), ('S1.qc.json', b'{}'), ('S1.manifest.json', b'{}')):
    cut = each == name and how in ('cut', 'cut_later')
    uri = os.environ['PYANAMO_OUTPUT'] + each
    bucket, _, key = uri[5:].partition('/')
    put = text[:-1000] if cut else text
    boto3.client('s3').put_object(Bucket=bucket, Key=key, Body=put)
    said = text if how == 'cut_later' else put
    told.append({'uri': uri, 'bytes': len(said), 'sha256': hashlib.sha256(said).hexdigest()})
figures = {'name': name, 'sample': 'S1', 'bases_missing': 3 if how == 'short' else 0, 'blocks_overlapping': 0}
figures |= {'bgzf_eof': how != 'noticed', 'indexed': True, 'loci': [{'locus': sys.argv[1]}]}
open(os.environ['PYANAMO_RESULT'], 'w').write(json.dumps({'outputs': told, 'figures': {'gvcfs': [figures]}}))
"""


def test_a_truncated_gvcf_with_exit_code_0_is_unverified(made: Any) -> None:
    # Given the hook for gVCFs and nests that all exit 0: one is good; one's object is cut and told as it is, with
    # figures from before; one is cut on its way; one noticed that its end is missing; one left three bases out
    world = made(nests=2, verify="pyanamo_core.genomics.gvcf:verify_outputs", budgets__tries=1)
    world.python("a", GVCF, "good:1-100", "cut:1-100", "cut_later:1-100", "noticed:1-100", "short:1-100")

    world.work(environ=world.environ)

    # Then only the good one is done
    item = world.table.item("a")
    nests = world.table.nests(item)
    print("truncated gVCFs: " + "; ".join(nests[number].message for number in range(1, 5)))
    assert item.state is State.FAILED
    assert {number: nest.exit_code for number, nest in nests.items()} == dict.fromkeys(range(5), 0)
    assert [nests[number].status for number in range(5)] == [NestStatus.DONE] + [NestStatus.FAILED] * 4
    assert {nests[number].cause for number in range(1, 5)} == {Cause.UNVERIFIED}
    assert nests[1].message == "S1.g.vcf.gz: its BGZF end is missing"
    assert "has 19028 bytes, not 20028" in nests[2].message
    assert "BGZF end" in nests[3].message
    assert "3 bases" in nests[4].message


def log_line(number: int) -> str:
    """A line of the logs below, of about a kilobyte."""
    return f"{number:06d} " + hashlib.sha256(str(number).encode()).hexdigest() * 15


LOG = """
import hashlib, sys
for number in range(int(sys.argv[1])):
    print(f"{number:06d} " + hashlib.sha256(str(number).encode()).hexdigest() * 15)
"""


def test_logs_of_9_and_40_megabytes_are_complete_line_by_line(made: Any) -> None:
    # Given a nest with a log of 9 MB and one with 40 MB, which tails are kept of
    world = made(nests=2, keep_tail_on_success=True)
    length = len(log_line(0)) + 1
    lines = [9 * MIB // length, 40 * MIB // length]
    world.python("a", LOG, *map(str, lines))

    # When a pilot works
    code, _ = world.work(environ=world.environ)

    # Then the first is in CloudWatch, the second an object, each line by line as it was written
    item = world.table.item("a")
    nests = world.table.nests(item)
    small, big = nests[0].log, nests[1].log
    assert code == 0
    assert small is not None
    assert big is not None
    assert (small.where, small.bytes) == ("cloudwatch", lines[0] * length)
    assert list(world.lines(small)) == [log_line(number) for number in range(lines[0])]
    assert (big.where, big.bytes) == ("s3", lines[1] * length)
    text = gzip.decompress(world.read(big.uri)).decode()
    assert text.splitlines() == [log_line(number) for number in range(lines[1])]
    print(f"logs: {small.bytes / MIB:.1f} MB in CloudWatch, {big.bytes / MIB:.1f} MB in S3, {sum(lines)} lines equal")
    # and their tails are in rows
    for number in (0, 1):
        tail = world.table.tail(item, nests[number])
        assert tail == f"{log_line(lines[number] - 2)}\n{log_line(lines[number] - 1)}\n"
    assert item.message == ""


RESULTS = f"""
import hashlib, json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
told = []
for number in range({OUTPUTS}):
    path = folder / f'{{number:05d}}.txt'
    path.write_text(str(number))
    told.append({{'uri': str(path), 'bytes': path.stat().st_size, 'sha256': hashlib.sha256(path.read_bytes()).hexdigest()}})
for number in range({TAGS}):
    print(f'PyAnamo:\\tline\\t{{number}}\\tä')
    print('noise', number)
open(os.environ['PYANAMO_RESULT'], 'w').write(json.dumps({{'outputs': told, 'figures': {{'n': 1}}}}))
"""


def test_thousands_of_tag_lines_and_outputs_of_one_nest_are_all_recorded_in_order(made: Any, tmp_path: Path) -> None:
    # Given a nest with 5,000 tag lines, noise between them, and 2,000 outputs
    world = made(nests=1)
    (tmp_path / "out").mkdir()
    world.python("a", RESULTS, str(tmp_path / "out"))

    world.work(environ=world.environ)

    # Then the row counts them and names an object that holds all of them, in order, with its checksum
    item = world.table.item("a")
    nest = world.table.nests(item)[0]
    packed = world.read(nest.overflow)
    told = json.loads(gzip.decompress(packed))
    print(f"{nest.tag_count} tag lines and {nest.output_count} outputs in an object of {len(packed)} bytes")
    assert item.state is State.DONE
    assert (nest.tag_count, nest.output_count, nest.tags, nest.outputs) == (TAGS, OUTPUTS, (), ())
    assert hashlib.sha256(packed).hexdigest() == nest.overflow_sha256
    assert told["tags"] == [f"line\t{number}\tä" for number in range(TAGS)]
    assert [Path(each["uri"]).name for each in told["outputs"]] == [f"{number:05d}.txt" for number in range(OUTPUTS)]
    assert told["figures"] == {"n": 1}
