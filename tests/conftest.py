"""What all tests share: no real AWS, no process left behind, a local cloud, a DynamoDB Local.

`local_cloud` and `dynamodb_local` start once in a run, when the first test asks for them. They are shared: take names
of your own from `unique_name`, and leave no misbehaviour planned (`misbehaving_cloud` sees to that).
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import time
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from pyanamo_core.local.launcher import PR_SET_CHILD_SUBREAPER, descendants

if TYPE_CHECKING:
    from pyanamo_core.aws import Clients
    from pyanamo_core.local import LocalCloud
    from pyanamo_core.local.dynamodb import DynamoDbLocal

# No test asserts a duration, hypothesis's examples included.
settings.register_profile("pyanamo", deadline=None)
settings.load_profile("pyanamo")

# Where the tests run in the background of a shell, Ctrl-C is ignored, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

NOBODY = "http://127.0.0.1:9"  # nothing listens there: a test that forgets its endpoint fails, and reaches no AWS
KEPT = ("PYANAMO_GATK_CACHE", "PYANAMO_MAVEN_REPOSITORY")
# Helpers of multiprocessing end with this very process, not before.
HARMLESS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
GRACE_SECONDS = 10.0


# With several workers (pytest-xdist) the files that take long begin first: whichever begins last, ends last. A file that
# is not listed is taken for one of middling length; `python .ci/seconds.py` writes the list anew from a run's reports.
SECONDS = Path(__file__).with_name("seconds.txt")
UNLISTED = {"unit": 1.0, "integration": 20.0, "system": 120.0}


def _seconds_of_files() -> dict[str, float]:
    lines = (line.split() for line in SECONDS.read_text().splitlines())
    return {name: float(seconds) for seconds, name in lines}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Beside others, long files first (Makefile's `--no-loadscope-reorder` keeps that order); alone, as they stand."""
    if not hasattr(config, "workerinput"):
        return
    known = _seconds_of_files()

    def length(item: pytest.Item) -> float:
        return known.get(item.path.name, UNLISTED.get(item.path.parent.name, 0.0))

    items.sort(key=length, reverse=True)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
    except OSError:
        return b""


def _left() -> dict[int, bytes]:
    found = {pid: _command_line(pid) for pid in descendants(os.getpid())}
    return {pid: line for pid, line in found.items() if line and not any(word in line for word in HARMLESS)}


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Generator[None]:
    """Fail the run if a process that it started, however far removed, is alive at its end."""
    # As the subreaper this process inherits orphans, so that a daemon cannot slip away.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    give_up = time.monotonic() + GRACE_SECONDS
    while (left := _left()) and time.monotonic() < give_up:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if left:
        lines = "\n".join(f"  {pid}: {line.decode(errors='replace')}" for pid, line in left.items())
        pytest.fail(f"processes of the tests were left behind (killed now):\n{lines}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def no_real_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fake keys, an endpoint where nobody listens, and none of the user's own settings or state."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "PYANAMO_")) and name not in KEPT:
                patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", NOBODY)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def read_and_built_once() -> Iterator[None]:
    """What each command in a process of its own reads and builds, thousands of commands in one process do once.

    These are botocore's service models (40 ms of JSON for each client of each session) and the tree of our commands
    (100 ms for each command that is typed). Neither changes, whatever a command does.
    """
    import typer.testing
    from botocore.loaders import JSONFileLoader

    read = JSONFileLoader().load_file
    read_once = functools.cache(read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: read_once(path))
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="session")
def local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud with moto's DynamoDB; between TERM and KILL it waits 2 s, and time-outs may be as short as 1 s."""
    from pyanamo_core.local import Options, down, up

    home = tmp_path_factory.mktemp("cloud")
    cloud = up(Options(home=home, owner=os.getpid(), stop_seconds=2, shortest_timeout_seconds=1))
    yield cloud
    down(home)


@pytest.fixture
def misbehaving_cloud(local_cloud: LocalCloud) -> Iterator[LocalCloud]:
    """The local cloud for a test that makes it misbehave; behaves again afterwards."""
    yield local_cloud
    local_cloud.behave()


@pytest.fixture(scope="session")
def cloud_clients(local_cloud: LocalCloud) -> Clients:
    """boto3 clients of the local cloud."""
    return local_cloud.clients()


@pytest.fixture
def cloud_environment(local_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This test's environment leads to the local cloud, for it and the processes that it starts."""
    for name, value in local_cloud.environment().items():
        monkeypatch.setenv(name, value)
    return local_cloud.environment()


@pytest.fixture(scope="session")
def dynamodb_local() -> Iterator[DynamoDbLocal]:
    """A DynamoDB Local. Never skipped: where its jars cannot be fetched, the tests that need it fail and say so."""
    from pyanamo_core.local.dynamodb import dynamodb_local as started

    with started() as running:
        yield running


@pytest.fixture(scope="session")
def dynamodb_clients(dynamodb_local: DynamoDbLocal) -> Clients:
    """boto3 clients of the DynamoDB Local."""
    from pyanamo_core.aws import Clients

    return Clients.with_keys("testing", "testing", dynamodb_local.endpoint, "us-east-1")


@pytest.fixture
def unique_name() -> str:
    """A name that no other test has, good for tables, buckets, queues and definitions."""
    return f"test-{uuid.uuid4().hex[:12]}"
