"""The local cloud's life: up, found again, swept, down; and what its services are like from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pyanamo_core import errors
from pyanamo_core.aws import Clients
from pyanamo_core.local import LocalCloud, Options, down, env, export_lines, status, up
from pyanamo_core.local.launcher import descendants, started
from pyanamo_core.local.provision import ensure_buckets, ensure_compute
from pyanamo_core.local.state import alive


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "cloud"
    down(tmp_path / "cloud")


def until(what: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.03)


def with_a_job(cloud: LocalCloud) -> list[int]:
    """Start a job with a grandchild in another session; the numbers of everything below the server."""
    clients = cloud.clients()
    ensure_compute(clients, "queue", "sleeper", command=["sh", "-c", "setsid sleep 600 & sleep 600"])
    clients.client("batch").submit_job(jobName="job", jobQueue="queue", jobDefinition="sleeper")
    # launcher, init, shell, two sleeps
    until(lambda: len(descendants(cloud.pid)) == 5)
    return [cloud.pid, *descendants(cloud.pid)]


def are_gone(pids: list[int]) -> bool:
    return not any(alive(pid, started(pid)) for pid in pids)


def test_down_ends_the_server_and_every_process_of_every_job(home: Path):
    # Given a cloud with a running job
    pids = with_a_job(up(Options(home=home)))
    # When it is ended
    assert down(home) is True
    # Then nothing is left, of processes as of files that could mislead
    assert are_gone(pids)
    assert status(home) is None
    assert not (home / "state.json").exists()
    assert list((home / "processes").iterdir()) == []
    assert not (home / "jobs").exists()
    # And ending it again is no error
    assert down(home) is False


def test_down_lets_a_job_end_in_its_own_way_before_it_is_killed(home: Path, tmp_path: Path):
    # Given a job that notes a TERM, and one that is deaf to it
    cloud = up(Options(home=home))
    clients = cloud.clients()
    polite = f"trap 'touch {tmp_path}/heard; exit 0' TERM; touch {tmp_path}/polite; while :; do sleep 0.1; done"
    deaf = f"trap '' TERM; touch {tmp_path}/deaf; sleep 600"
    for name, script in (("polite", polite), ("deaf", deaf)):
        ensure_compute(clients, "queue", name, command=["sh", "-c", script])
        clients.client("batch").submit_job(jobName="job", jobQueue="queue", jobDefinition=name)
        until((tmp_path / name).exists)
    pids = descendants(cloud.pid)
    # When the cloud is ended
    down(home)
    # Then the one has heard it, and both are gone
    assert (tmp_path / "heard").exists()
    assert are_gone(pids)


def test_up_finds_the_cloud_that_runs_and_refuses_to_change_it(local_cloud: LocalCloud):
    home = local_cloud.home
    assert up(Options(home=home)) == local_cloud
    assert status(home) == local_cloud
    with pytest.raises(errors.LocalCloudDiffers, match="dynamodb-local"):
        up(Options(home=home, ledger="dynamodb-local"))
    with pytest.raises(errors.LocalCloudDiffers, match="eu-west-1"):
        up(Options(home=home, region="eu-west-1"))


def test_a_server_that_was_killed_leaves_nothing_and_up_starts_afresh(home: Path):
    # Given a cloud with a job, whose server is killed
    first = up(Options(home=home))
    pids = with_a_job(first)
    os.kill(first.pid, signal.SIGKILL)
    # Then its jobs end too
    until(lambda: are_gone(pids))
    assert status(home) is None
    # And the next one starts, with nothing of the old one
    second = up(Options(home=home))
    assert second.pid != first.pid
    assert second.clients().client("batch").describe_job_queues()["jobQueues"] == []


def test_what_even_a_killed_launcher_left_is_swept_by_the_next_up(home: Path):
    # Given a registry that names a process which still runs
    (home / "processes").mkdir(parents=True)
    left = subprocess.Popen(["sleep", "600"])
    (home / "processes" / str(left.pid)).write_text(f"{left.pid}:{started(left.pid)}")
    # When a cloud starts
    up(Options(home=home))
    # Then that process is gone
    assert left.wait() == -signal.SIGKILL


def test_a_cloud_ends_with_its_owner(home: Path):
    # Given an owner in a process of its own
    code = f"""
import os, time
from pathlib import Path
from pyanamo_core.local import Options, up
print(up(Options(home=Path({str(home)!r}), owner=os.getpid())).pid, flush=True)
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert alive(pid, started(pid))
    # When the owner is killed
    owner.kill()
    owner.communicate()
    # Then the cloud ends by itself
    until(lambda: are_gone([pid]))


def test_an_interrupt_from_the_terminal_does_not_reach_the_cloud(local_cloud: LocalCloud):
    # Ctrl-C goes to the terminal's foreground group, in which neither the cloud nor its launcher may be
    for pid in (local_cloud.pid, *descendants(local_cloud.pid)):
        assert os.getpgid(pid) != os.getpgid(0)
        assert os.getsid(pid) != os.getsid(0)


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(home: Path, local_cloud: LocalCloud):
    # Given a port that is taken
    taken = int(local_cloud.endpoint.rpartition(":")[2])
    with pytest.raises(errors.LocalCloudBroken, match="Address already in use"):
        up(Options(home=home, port=taken))
    assert status(home) is None


def test_the_environment_leads_any_sdk_to_the_cloud_and_away_from_real_accounts(
    local_cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Given a shell that is set up for a real account
    with pytest.raises(errors.LocalCloudMissing, match="pyanamo local up"):
        env(tmp_path)
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "real")
    # When it takes the cloud's variables over
    code = (
        "import os, boto3; b = boto3.client('s3'); print(b.meta.endpoint_url, b.meta.region_name, *sorted(os.environ))"
    )
    lines = export_lines(env(local_cloud.home)) + f"{sys.executable} -c {json.dumps(code)}"
    said = subprocess.run(["sh", "-c", lines], capture_output=True, text=True, check=True).stdout.split()
    # Then the SDK goes to the cloud, and neither profile nor token are left
    assert said[:2] == [local_cloud.endpoint, "us-east-1"]
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN"} & set(said)


def test_the_module_s_own_command_starts_shows_and_ends_a_cloud(home: Path):
    def run(*words: str) -> str:
        command = [sys.executable, "-m", "pyanamo_core.local", *words, "--home", str(home)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    told = json.loads(run("up"))
    assert json.loads(run("status"))["pid"] == told["pid"]
    assert f"export AWS_ENDPOINT_URL={told['endpoint']}" in run("env")
    assert json.loads(run("down")) == {"was_running": True}
    assert json.loads(run("status")) == {}


def test_only_this_machine_can_reach_it_and_its_token_is_the_owners_alone(local_cloud: LocalCloud):
    listening = Path(f"/proc/{local_cloud.pid}/net/tcp").read_text()
    port = f":{int(local_cloud.endpoint.rpartition(':')[2]):04X}"
    assert [
        line.split()[1] for line in listening.splitlines() if port in line.split()[1] and line.split()[3] == "0A"
    ] == [f"0100007F{port}"]
    assert (local_cloud.home / "state.json").stat().st_mode & 0o077 == 0


# ---------------------------------------------------------------------------------------------------------- services


def test_dynamodb_calls_are_one_at_a_time_so_that_conditions_hold(cloud_clients: Clients, unique_name: str):
    # Given a table, and sixteen threads that all want the same row, fifty times
    dynamodb = cloud_clients.client("dynamodb")
    _make_table(dynamodb, unique_name)
    won: list[int] = []
    refused: list[str] = []

    def want(number: int) -> None:
        for row in range(50):
            try:
                dynamodb.put_item(
                    TableName=unique_name,
                    Item={"key": {"S": str(row)}, "owner": {"N": str(number)}},
                    ConditionExpression="attribute_not_exists(#k)",
                    ExpressionAttributeNames={"#k": "key"},
                )
                won.append(row)
            except ClientError as error:
                refused.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=want, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then each row was won once, and every other wish was refused for that reason
    assert sorted(won) == list(range(50))
    assert refused == ["ConditionalCheckFailedException"] * (15 * 50)


def test_a_ledger_on_dynamodb_local_is_as_strict_as_dynamodb_and_dies_with_the_cloud(home: Path, unique_name: str):
    # Given a cloud whose tables lie in DynamoDB Local
    cloud = up(Options(home=home, ledger="dynamodb-local"))
    dynamodb = cloud.clients().client("dynamodb")
    _make_table(dynamodb, unique_name)
    dynamodb.put_item(TableName=unique_name, Item={"key": {"S": "a"}, "owner": {"S": "first"}})
    # Then a failed condition shows the row, which moto does too, and capacity is exact, which moto's is not
    with pytest.raises(ClientError) as caught:
        dynamodb.put_item(
            TableName=unique_name,
            Item={"key": {"S": "a"}},
            ConditionExpression="attribute_not_exists(#k)",
            ExpressionAttributeNames={"#k": "key"},
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )
    assert caught.value.response["Item"]["owner"] == {"S": "first"}
    big = {"key": {"S": "b"}, "text": {"S": "x" * 2500}}
    answer = dynamodb.put_item(TableName=unique_name, Item=big, ReturnConsumedCapacity="TOTAL")
    assert answer["ConsumedCapacity"]["CapacityUnits"] == 3.0
    # And S3 is moto's as ever
    ensure_buckets(cloud.clients(), [unique_name])
    # And Java goes with the cloud
    below = descendants(cloud.pid)
    assert any(b"ServerRunner" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in below)
    down(home)
    assert are_gone(below)


def test_objects_come_back_as_they_went_in_parts_and_ranges(cloud_clients: Clients, unique_name: str, tmp_path: Path):
    # Given a file that boto3 uploads in parts
    content = os.urandom(20 * 2**20)
    (tmp_path / "big").write_bytes(content)
    ensure_buckets(cloud_clients, [unique_name, unique_name])
    s3 = cloud_clients.client("s3")
    s3.upload_file(str(tmp_path / "big"), unique_name, "folder/big file+ü.bin")
    # Then it is there, whole, in ranges, and in the listing
    assert s3.get_object(Bucket=unique_name, Key="folder/big file+ü.bin")["Body"].read() == content
    part = s3.get_object(Bucket=unique_name, Key="folder/big file+ü.bin", Range="bytes=7-9")
    assert part["Body"].read() == content[7:10]
    assert s3.head_object(Bucket=unique_name, Key="folder/big file+ü.bin")["ContentLength"] == len(content)
    listed = s3.list_objects_v2(Bucket=unique_name, Prefix="folder/")["Contents"]
    assert [each["Key"] for each in listed] == ["folder/big file+ü.bin"]


def test_a_public_object_is_read_without_a_signature_and_a_private_one_is_not(cloud_clients: Clients, unique_name: str):
    ensure_buckets(cloud_clients, [unique_name])
    s3 = cloud_clients.client("s3")
    s3.put_object(Bucket=unique_name, Key="open", Body=b"yes", ACL="public-read")
    s3.put_object(Bucket=unique_name, Key="closed", Body=b"no")
    assert cloud_clients.anonymous("s3").get_object(Bucket=unique_name, Key="open")["Body"].read() == b"yes"
    with pytest.raises(ClientError, match="403"):
        cloud_clients.anonymous("s3").get_object(Bucket=unique_name, Key="closed")


def test_connections_are_kept_open(local_cloud: LocalCloud):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", int(local_cloud.endpoint.rpartition(":")[2]))
    for _ in range(3):
        connection.request("GET", "/_pyanamo/health")
        told = json.loads(connection.getresponse().read())
        socket = connection.sock
        assert socket is not None
    assert told["pid"] == local_cloud.pid
    connection.close()


def test_the_session_s_dynamodb_local_answers(dynamodb_clients: Clients, unique_name: str):
    dynamodb = dynamodb_clients.client("dynamodb")
    _make_table(dynamodb, unique_name)
    assert dynamodb.describe_table(TableName=unique_name)["Table"]["TableStatus"] == "ACTIVE"


def _make_table(dynamodb: Any, name: str) -> None:
    dynamodb.create_table(
        TableName=name,
        AttributeDefinitions=[{"AttributeName": "key", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "key", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
