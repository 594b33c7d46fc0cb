"""S3 away for 30 s in the middle of load, and for good: outputs to check, big results, logs, and a pilot that stages."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from outage_support import Cut, a_table, environment, recorded_once, running
from pilot_support import Working, eventually
from pyanamo_flows.server import free_port

import pyanamo_core.pilot.desk as desk_module
import pyanamo_core.pilot.furnish as furnish_module
from pyanamo_core.aws import Clients
from pyanamo_core.ledger.table import delete_table
from pyanamo_core.local.dynamodb import DynamoDbLocal
from pyanamo_core.model import Cause, Definition, State
from pyanamo_core.pilot import Pilot, PilotOptions

if TYPE_CHECKING:
    from pyanamo_core.local import LocalCloud

AWAY_SECONDS = 30.0
ITEMS, NESTS = 12, 4
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SCRIPT = (
    "bash -c 'sleep 0.$((RANDOM % 9)); cp {result} $PYANAMO_RESULT;"
    ' for n in $(seq 1500); do printf "PyAnamo:\\t%s of nest %s\\n" $n $1; done; seq 20000\' _'
)
"""An output to check, tag lines for an overflow object, and a log for S3."""


def prepared(clients: Clients, bucket: str, folder: Path) -> str:
    """The bucket, with one object in it and the task scripts; the script whose result tells of that object."""
    s3 = clients.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="made", Body=b"abc")
    s3.put_object(Bucket=bucket, Key="scripts/task.sh", Body=b"true")
    result = folder / "result.json"
    result.write_text(json.dumps({"outputs": [{"uri": f"s3://{bucket}/made", "bytes": 3}]}))
    return SCRIPT.format(result=result)


def test_for_30_seconds_it_is_waited_for_and_nothing_is_lost(
    dynamodb_local: DynamoDbLocal,
    dynamodb_clients: Clients,
    local_cloud: LocalCloud,
    cloud_clients: Clients,
    unique_name: str,
    tmp_path: Path,
) -> None:
    # Given two pilots of four slots under load, whose S3 lies behind a line; logs go to S3 whatever their size
    script = prepared(cloud_clients, unique_name, tmp_path)
    ledger = a_table(
        dynamodb_clients,
        unique_name,
        nests=4,
        logs="s3",
        buckets={"results": f"s3://{unique_name}/results"},
        scripts=f"s3://{unique_name}/scripts",
    )
    for number in range(ITEMS):
        values = tuple(str(each) for each in range(NESTS))
        ledger.import_item(f"i{number}", "T", Definition(script=script, arguments=values))
    line = Cut(local_cloud.endpoint)
    more = {"AWS_ENDPOINT_URL_DYNAMODB": dynamodb_local.endpoint, "AWS_ENDPOINT_URL_S3": line.endpoint}
    log = (tmp_path / "pilots.log").open("wb")

    def start(host: str) -> subprocess.Popen[Any]:
        told = environment(local_cloud.endpoint, unique_name, tmp_path / host, **more)
        (tmp_path / host).mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, "-m", "pyanamo_core.pilot"], env=told, stderr=log)

    pilots = [start("host"), start("host")]
    codes: list[int] = []
    with running(*pilots):
        assert eventually(lambda: ledger.counts().done >= 2, 120.0)
        # When S3 is away for 30 s, and a third pilot on another host begins to stage its scripts meanwhile
        line.cut()
        began, before = time.monotonic(), ledger.counts().done
        late = start("other-host")
        with running(late):
            time.sleep(AWAY_SECONDS)
            meanwhile = ledger.counts().done - before
            line.mend()
            # Then all of them end in good order; one that could not stage would be started again
            codes = [pilot.wait(300) for pilot in (*pilots, late)]
    assert codes[:2] == [0, 0]
    assert codes[2] in {0, 75}
    recorded_once(ledger, causes=set())
    for item in ledger.items():
        assert item.message == "", "no log was given up"
        for nest in ledger.nests(item).values():
            assert (nest.output_count, nest.tag_count, bool(nest.overflow)) == (1, 1500, True)
    s3 = cloud_clients.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=unique_name)
    names = [each["Key"].rpartition("/")[2] for page in pages for each in page.get("Contents", [])]
    assert names.count("log.gz") == names.count("overflow.json.gz") == ITEMS * NESTS
    print(
        f"S3 away for {AWAY_SECONDS:.0f} s in load: {ITEMS} items of {NESTS} nests done at their first try"
        f" ({meanwhile} items while it was away), {ITEMS * NESTS} logs and big results complete, exit codes {codes},"
        f" {time.monotonic() - began - AWAY_SECONDS:.0f} s after it came back"
    )
    line.close()
    log.close()
    delete_table(dynamodb_clients, unique_name)


def test_for_good_it_is_a_task_error_that_names_it_and_a_retry_is_all_that_is_needed(
    dynamodb_local: DynamoDbLocal,
    dynamodb_clients: Clients,
    local_cloud: LocalCloud,
    cloud_clients: Clients,
    unique_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a pilot whose S3 is gone, and patience of a few seconds beside that of the SDK
    for module in (furnish_module, desk_module):
        monkeypatch.setattr(module, "S3_SECONDS", 3.0)
    monkeypatch.setattr(desk_module, "LOG_SECONDS", 3.0)
    script = prepared(cloud_clients, unique_name, tmp_path)
    ledger = a_table(
        dynamodb_clients,
        unique_name,
        nests=4,
        logs="s3",
        budgets__tries=2,
        buckets={"results": f"s3://{unique_name}/results"},
    )
    ledger.import_item("i0", "T", Definition(script=script, arguments=("1", "2", "3", "4")))
    own = environment(local_cloud.endpoint, unique_name, tmp_path, AWS_ENDPOINT_URL_DYNAMODB=dynamodb_local.endpoint)

    def work(s3: str) -> int:
        for name, value in (own | {"AWS_ENDPOINT_URL_S3": s3}).items():
            if name.startswith("AWS_"):
                monkeypatch.setenv(name, value)
        options = PilotOptions(table=unique_name, scratch=tmp_path / "scratch", staging=tmp_path / "staging")
        working = Working(Pilot(options, Clients(), environ=own))
        working.thread.join(400)
        return working.leaves()

    # When it works
    began = time.monotonic()
    assert work(f"http://127.0.0.1:{free_port()}") == 0

    # Then the item failed after its tries, says why, and nothing pretends to be done
    item = ledger.item("i0")
    seconds = time.monotonic() - began
    assert (item.state, item.cause, item.tries) == (State.FAILED, Cause.TASK_ERROR, 2)
    assert "S3 did not answer for" in item.message
    assert {nest.status for nest in ledger.nests(item).values()} == {"failed"}

    # And when S3 is back, a retry does it
    ledger.retry(item)
    assert work(local_cloud.endpoint) == 0
    assert ledger.item("i0").state is State.DONE
    print(f"S3 away for good: {item.cause} after 2 tries in {seconds:.0f} s ({item.message}); done after a retry")
    delete_table(dynamodb_clients, unique_name)
