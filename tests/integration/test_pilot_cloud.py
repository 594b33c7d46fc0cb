"""Pilots as processes of their own, against the local cloud: as Batch starts them, and as it ends them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pilot_support import eventually, make_workflow

from pyanamo_core.aws import Clients
from pyanamo_core.errors import LeaseLost, MoveRefused
from pyanamo_core.importer import import_sheet
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.ledger.table import create_table, delete_table
from pyanamo_core.local import LocalCloud
from pyanamo_core.local.provision import ensure_compute
from pyanamo_core.model import (
    Cause,
    Claim,
    Definition,
    Limits,
    Mode,
    Nest,
    NestStatus,
    Recorded,
    Run,
    State,
)
from pyanamo_core.sheet import read_sheet

PATIENCE_SECONDS = 90.0
SEQ_SHEET = "itemID|TaskID|TaskScript|TaskArgs\n" + "".join(f"Seq_Test_{n}|Seq_8_2_1|seq|8,2,1\n" for n in range(1, 9))


class Table:
    """A table of the local cloud with a workflow, and pilots for it."""

    def __init__(self, cloud: LocalCloud, clients: Clients, name: str, folder: Path) -> None:
        self.cloud, self.clients, self.name, self.folder = cloud, clients, name, folder
        self.bucket = f"{name}-results"
        clients.client("s3").create_bucket(Bucket=self.bucket)
        create_table(clients, name, deletion_protection=False, pitr=False)
        self.pilots: list[subprocess.Popen[str]] = []
        self.ledger = Ledger(clients, name)

    def workflow(self, **more: Any) -> Ledger:
        """Store a workflow; the ledger under its rules."""
        told = {"name": self.name, "buckets": {"results": f"s3://{self.bucket}/prefix"}, **more}
        Ledger(self.clients, self.name).add_workflow(make_workflow(**told))
        self.ledger = open_ledger(self.clients, self.name)[0]
        return self.ledger

    def shell(self, item_id: str, script: str, *values: str) -> None:
        """Import an item whose nests run a shell script."""
        self.ledger.import_item(item_id, "T", Definition(script=f"bash -c '{script}' _", arguments=values))

    def environment(self, **more: str) -> dict[str, str]:
        """Of a pilot's container."""
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
        return {
            **kept,
            **self.cloud.environment(),
            "AWS_EC2_METADATA_DISABLED": "true",
            "PYANAMO_TABLE": self.name,
            "PYANAMO_SCRATCH": str(self.folder / "scratch"),
            "PYANAMO_STAGING": str(self.folder / "staging"),
            **more,
        }

    def pilot(self, **more: str) -> subprocess.Popen[str]:
        """Start a pilot."""
        made = subprocess.Popen(
            [sys.executable, "-m", "pyanamo_core.pilot"],
            env=self.environment(**more),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pilots.append(made)
        return made

    def submit(self, **more: Any) -> str:
        """Start a pilot through Batch, once; the job's id."""
        made = ensure_compute(
            self.clients, f"{self.name}-queue", f"{self.name}-job", log_group=f"/{self.name}", attempts=1
        )
        environment = {**self.environment(), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        del environment["AWS_EC2_METADATA_DISABLED"]
        told = [{"name": name, "value": value} for name, value in environment.items()]
        asked = {"jobName": "pilot", "jobQueue": made.queue, "jobDefinition": made.definition, **more}
        answer = self.clients.client("batch").submit_job(**asked, containerOverrides={"environment": told})
        return str(answer["jobId"])

    def status(self, job: str) -> str:
        """Of a job."""
        return str(self.clients.client("batch").describe_jobs(jobs=[job])["jobs"][0]["status"])

    def begin_run(self, run_id: str, **limits: Any) -> Run:
        """Begin a run that pins the newest workflow."""
        version, workflow = self.ledger.workflow()
        run = Run(
            run_id=run_id,
            workflow_version=version,
            revision=workflow.revision,
            token=run_id,
            limits=Limits(**limits),
            started=time.time(),
        )
        return self.ledger.begin_run(run)

    def end(self) -> None:
        """End what a test left."""
        for pilot in self.pilots:
            pilot.kill()
            pilot.communicate()
        delete_table(self.clients, self.name)


@pytest.fixture
def table(local_cloud: LocalCloud, cloud_clients: Clients, unique_name: str, tmp_path: Path) -> Iterator[Table]:
    """A table of its own for each test."""
    made = Table(local_cloud, cloud_clients, unique_name, tmp_path)
    yield made
    made.end()
    local_cloud.behave()


def left(pilot: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait until a pilot has left: exit code, and what it said."""
    _, said = pilot.communicate(timeout=PATIENCE_SECONDS)
    return pilot.returncode, said


def test_pyanamo_1s_seq_sheet_runs_on_batch_and_its_logs_hold_the_numbers(table: Table) -> None:
    # Given PyAnamo 1's sheet of eight items, imported
    ledger = table.workflow(items=2, nests=2)
    sheet = table.folder / "seq.txt"
    sheet.write_text(SEQ_SHEET)
    assert import_sheet(ledger, read_sheet(sheet)).created == 8

    # When two pilots are started through Batch
    job = table.submit(arrayProperties={"size": 2})
    assert eventually(lambda: table.status(job) in {"SUCCEEDED", "FAILED"}, PATIENCE_SECONDS)

    # Then all items are done, and every log holds its numbers
    assert table.status(job) == "SUCCEEDED"
    assert ledger.counts().done == 8
    for number in range(1, 9):
        item = ledger.item(f"Seq_Test_{number}")
        nests = ledger.nests(item)
        assert {n: ledger.tail(item, nests[n]).split() for n in nests} == {
            0: [str(n) for n in range(1, 9)],
            1: ["1", "2"],
            2: ["1"],
        }
    assert sum(pilot.items_done for pilot in ledger.pilots()) == 8


def test_a_spot_notice_of_the_host_hands_back_before_the_host_ends(table: Table) -> None:
    # Given a pilot of Batch in mid-nest
    ledger = table.workflow()
    table.shell("a", f"touch {table.folder}/began; sleep 300", "1")
    job = table.submit()
    assert eventually((table.folder / "began").exists, PATIENCE_SECONDS)

    # When its host gets a Spot notice
    table.cloud.spot_notice(job, seconds=20.0)

    # Then the item is free while the host still runs
    assert eventually(lambda: ledger.item("a").state is State.TODO, PATIENCE_SECONDS)
    assert table.status(job) == "RUNNING"
    assert eventually(lambda: ledger.attempts("a")[0].cause is Cause.SPOT)
    assert eventually(lambda: table.status(job) == "FAILED", PATIENCE_SECONDS)
    assert ledger.item("a").interruptions == 1


def test_kill_9_in_mid_nest_costs_the_lease_and_nothing_else(table: Table) -> None:
    # Given a pilot with a short lease, one nest done and the next one running
    ledger = table.workflow(nests=1, timing__lease_seconds=3.0, timing__beat_seconds=0.5)
    began = table.folder / "began"
    script = f"echo $1 $PYANAMO_ATTEMPT >> {table.folder}/ran; [ $1 != 2 ] || [ $PYANAMO_ATTEMPT != 1 ] || {{ echo $$ > {began}; sleep 300; }}"
    table.shell("a", script, "1", "2", "3")
    first = table.pilot()
    assert eventually(began.exists, PATIENCE_SECONDS)
    before = ledger.item("a")
    dead = Claim(item=before, pilot_id=before.owner or "", deadline=float("inf"))

    # When it is killed, and another pilot works
    first.kill()
    left(first)
    task = int(began.read_text())
    code, _ = left(table.pilot())

    # Then nothing of it lives on, the item is done, and no nest was recorded twice
    assert eventually(lambda: not psutil.pid_exists(task))
    item = ledger.item("a")
    assert code == 0
    assert (item.state, item.fence, item.tries, item.interruptions) == (State.DONE, 2, 1, 1)
    assert {n: nest.fence for n, nest in ledger.nests(item).items()} == {0: 1, 1: 2, 2: 2}
    assert (table.folder / "ran").read_text().splitlines() == ["1 1", "2 1", "2 2", "3 2"]
    assert [attempt.cause for attempt in ledger.attempts("a")] == [Cause.LOST, Cause.DONE]

    # And whatever the dead one still had to say is refused
    late = Nest(item_id="a", epoch=0, index=1, status=NestStatus.DONE, fence=1, message="late")
    assert ledger.record_nest(dead, late) is Recorded.KEPT
    with pytest.raises((LeaseLost, MoveRefused)):
        ledger.beat(dead, progressed=True, nests_done=2, nests_failed=0)
    with pytest.raises((LeaseLost, MoveRefused)):
        ledger.finish(dead, nests_done=3)
    with pytest.raises((LeaseLost, MoveRefused)):
        ledger.fail(dead, Cause.TASK_ERROR, "late")
    with pytest.raises((LeaseLost, MoveRefused)):
        ledger.hand_back(dead, Cause.SPOT, progressed=True, started=True)
    assert ledger.item("a") == item
    assert ledger.nests(item)[1].message == ""


def test_term_in_mid_nest_hands_back_and_exits_75(table: Table) -> None:
    ledger = table.workflow()
    table.shell("a", f"touch {table.folder}/began; sleep 300", "1", "2")
    pilot = table.pilot()
    assert eventually((table.folder / "began").exists, PATIENCE_SECONDS)

    pilot.send_signal(signal.SIGTERM)

    code, _ = left(pilot)
    item = ledger.item("a")
    assert code == 75
    assert (item.state, item.tries, item.interruptions) == (State.TODO, 0, 1)
    assert list((table.folder / "scratch").iterdir()) == []


def test_term_in_start_up_is_either_death_or_a_clean_end(table: Table) -> None:
    # Given a pilot that was started this moment
    ledger = table.workflow()
    table.shell("a", "sleep 300", "1")
    codes: set[int] = set()
    for delay in (0.0, 0.1, 0.3, 0.6):
        pilot = table.pilot()
        time.sleep(delay)

        # When TERM comes
        pilot.send_signal(signal.SIGTERM)
        codes.add(left(pilot)[0])

    # Then it died of it (Batch: 143), or left in order (75): both are tried again, and the item is free
    assert codes <= {-signal.SIGTERM, 75}
    assert ledger.item("a").state is State.TODO


def test_term_while_a_reference_is_fetched(table: Table) -> None:
    # Given a reference whose fetching takes its time
    client = table.clients.client("s3")
    client.put_object(Bucket=table.bucket, Key="x.bed", Body=b"c\t1\t2\n")
    ledger = table.workflow(references=[{"name": "tgt", "uri": f"s3://{table.bucket}/x.bed"}])
    table.cloud.delay("s3", "", 8.0, times=-1)
    table.shell("a", "sleep 300", "1")
    pilot = table.pilot()
    assert eventually(ledger.pilots, PATIENCE_SECONDS)

    # When TERM comes
    pilot.send_signal(signal.SIGTERM)

    # Then the pilot leaves, having claimed nothing
    code, said = left(pilot)
    assert code == 75
    assert "before the first claim" in said
    assert ledger.item("a").fence == 0


def test_logs_and_results_go_where_their_size_says(table: Table) -> None:
    # Given one nest with a log of some kilobytes, one of 11 MB, and one with many tag lines
    ledger = table.workflow(nests=3)
    table.ledger.import_item(
        "a/b",
        "T",
        Definition(
            script=r"""bash -c 'case $1 in
                middle) seq 2000 ;;
                big) yes 0123456789 | head -c 11000000 ;;
                tags) for i in $(seq 3000); do printf "PyAnamo:\tname\t%s\n" $i; done >&1 ;;
            esac' _""",
            arguments=("middle", "big", "tags"),
        ),
    )

    # When a pilot works
    code, _ = left(table.pilot())

    # Then the first log is in CloudWatch, whole, within its time range
    item = ledger.item("a/b")
    nests = ledger.nests(item)
    assert code == 0
    log = nests[0].log
    assert log is not None
    assert log.where == "cloudwatch"
    events = table.clients.client("logs").get_log_events(
        logGroupName=log.group,
        logStreamName=log.stream,
        startTime=log.start_ms,
        endTime=log.end_ms + 1,
        startFromHead=True,
    )["events"]
    assert [event["message"] for event in events] == [str(n) for n in range(1, 2001)]

    # And the second is a gzipped object below the prefix of its fence
    log = nests[1].log
    assert log is not None
    assert log.uri == f"s3://{table.bucket}/prefix/{table.name}/work/a%2Fb/00001/1/log.gz"
    assert len(gzip.decompress(_read(table, log.uri))) == 11_000_000

    # And the third's tag lines are in an object that the row points to, with count and checksum
    nest = nests[2]
    packed = _read(table, nest.overflow)
    assert (nest.tags, nest.tag_count) == ((), 3000)
    assert hashlib.sha256(packed).hexdigest() == nest.overflow_sha256
    assert json.loads(gzip.decompress(packed))["tags"][2999] == "name\t3000"


def _read(table: Table, uri: str) -> bytes:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return table.clients.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()


def test_outputs_in_s3_are_checked(table: Table) -> None:
    # Given a script that puts an object under its prefix, and one that only says so
    ledger = table.workflow(budgets__tries=1)
    put = (
        "import boto3, hashlib, json, os, sys\n"
        "uri = os.environ['PYANAMO_OUTPUT'] + 'x.txt'\n"
        "bucket, _, key = uri.removeprefix('s3://').partition('/')\n"
        "if sys.argv[1] == 'true': boto3.client('s3').put_object(Bucket=bucket, Key=key, Body=b'12345')\n"
        "told = {'uri': uri, 'bytes': 5, 'sha256': hashlib.sha256(b'12345').hexdigest()}\n"
        "open(os.environ['PYANAMO_RESULT'], 'w').write(json.dumps({'outputs': [told]}))\n"
    )
    script = table.folder / "put.py"
    script.write_text(put)
    table.ledger.import_item("a", "T", Definition(script=f"{sys.executable} {script}", arguments=("true", "false")))

    left(table.pilot())

    nests = ledger.nests(ledger.item("a"))
    assert nests[0].status is NestStatus.DONE
    assert nests[0].outputs[0].uri.endswith("/work/a/00000/1/x.txt")
    assert (nests[1].status, nests[1].cause) == (NestStatus.FAILED, Cause.UNVERIFIED)
    assert "does not exist" in nests[1].message


@pytest.mark.parametrize("operation", ["PutItem", "UpdateItem"])
def test_answers_that_get_lost_cost_nothing(table: Table, operation: str) -> None:
    # Given a network that loses the answers to three writes in a row
    ledger = table.workflow(nests=1, timing__lease_seconds=120.0)
    for number in range(4):
        table.shell(f"i{number}", f"echo $PYANAMO_ITEM $1 >> {table.folder}/ran", "1", "2")
    table.cloud.lose("dynamodb", operation, times=3)

    # When a pilot works
    code, said = left(table.pilot())

    # Then each nest ran once, and all items are done at their first attempt
    assert code == 0, said
    assert len((table.folder / "ran").read_text().splitlines()) == 8, said
    assert {(item.state, item.fence) for item in ledger.items()} == {(State.DONE, 1)}


def test_two_runs_share_a_table_and_cancelling_one_leaves_the_other_alone(table: Table) -> None:
    # Given two runs with a pilot each
    ledger = table.workflow(nests=1)
    for number in range(12):
        table.shell(f"i{number}", f"echo $PYANAMO_RUN $PYANAMO_ITEM >> {table.folder}/ran; sleep 0.4", "1")
    table.begin_run("one", max_pilots=1)
    table.begin_run("two", max_pilots=1)
    one, two = table.pilot(PYANAMO_RUN="one"), table.pilot(PYANAMO_RUN="two")

    def at_work() -> bool:
        ran = table.folder / "ran"
        return ran.exists() and {line.split()[0] for line in ran.read_text().splitlines()} == {"one", "two"}

    assert eventually(at_work, PATIENCE_SECONDS)

    # When one of them is cancelled
    ledger.set_mode("one", Mode.CANCEL, "by a test")

    # Then its pilot leaves, the other does the rest, and each item is recorded once
    assert left(one)[0] == 0
    assert left(two)[0] == 0
    assert ledger.counts().done == 12
    assert {nest.run_id for item in ledger.items() for nest in ledger.nests(item).values()} <= {"one", "two"}
    leaving = {pilot.run_id: pilot.leaving for pilot in ledger.pilots()}
    assert leaving == {"one": "cancelled: by a test", "two": "empty"}


def test_a_table_that_does_not_exist_is_an_error_that_names_it(table: Table) -> None:
    code, said = left(table.pilot(PYANAMO_TABLE="no-such-table"))

    assert code == 78
    assert "no-such-table" in said


def test_a_table_without_a_workflow_is_refused(table: Table) -> None:
    code, said = left(table.pilot())

    assert code == 78
    assert "holds no workflow" in said


def test_a_pilot_loads_neither_prefect_nor_moto_nor_pysam(table: Table) -> None:
    # Given a pilot that does some work and then tells its modules
    table.workflow()
    table.shell("a", "seq 1000", "1")
    program = (
        "import sys\n"
        "from pyanamo_core.pilot.__main__ import main\n"
        "code = main()\n"
        "print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=table.environment(), capture_output=True, text=True, timeout=90, check=True
    )

    assert not {"prefect", "moto", "pysam", "fastapi", "sqlalchemy", "typer"} & set(done.stdout.split())
    assert "boto3" in done.stdout.split()
