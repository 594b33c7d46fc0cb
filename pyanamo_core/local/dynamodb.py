"""DynamoDB Local: AWS's own emulator, for tests and for a local cloud whose ledger is to be as strict as DynamoDB's.

Its jars are listed with their hashes in docker/dynamodb-local/jars.lock, fetched once, and never shipped (AWS's licence
allows development and tests). It listens on all interfaces and knows no other way: for tests, not for shared machines.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pyanamo_core.errors import LocalCloudBroken
from pyanamo_core.genomics.gatk import bundled_java, fetch_jars, read_lock, verify_jars
from pyanamo_core.local.processes import Processes
from pyanamo_core.resources import resource

MAIN_CLASS: Final = "com.amazonaws.services.dynamodbv2.local.main.ServerRunner"
START_SECONDS: Final = 60
PORT_TRIES: Final = 3


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/pyanamo/dynamodb-local`, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return (Path(base) / "pyanamo" / "dynamodb-local").resolve()


def fetch(folder: Path | None = None, report: Callable[[str], None] = lambda text: None) -> list[Path]:
    """Bring the jars that are missing, and check every hash.

    Raises:
        DownloadFailed, WrongHash: as fetch_jars says; what came is kept, and the next call goes on from there.
    """
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    jars = read_lock(resource("docker/dynamodb-local/jars.lock"))
    with (folder / "lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        verify_jars(folder, jars)
        if any(not (folder / "jars" / jar.name).exists() for jar in jars):
            report(f"Fetching DynamoDB Local into {folder}")
            repository = os.environ.get("PYANAMO_MAVEN_REPOSITORY")
            fetch_jars(folder, jars, repository=repository, report=lambda text: None)
    return [folder / "jars" / jar.name for jar in jars]


class DynamoDbLocal:
    """A running DynamoDB Local, its data in memory; it dies with the process that started it.

    Args:
        folder: for its log and its registry.

    Raises:
        LocalCloudBroken: it does not start.
        DownloadFailed, WrongHash, ExtraMissing: it cannot be had.
    """

    def __init__(self, folder: Path) -> None:
        jars = fetch()
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "dynamodb.log"
        self._ended = threading.Event()
        self._processes = Processes(folder / "processes", on_exited=lambda name, code, error: self._ended.set())
        self.port = 0
        for _ in range(PORT_TRIES):
            self.port = free_port()
            self._ended.clear()
            self._processes.start("dynamodb", self._command(jars), {"PATH": os.defpath}, folder, self._log)
            if self._answers():
                return
        self._processes.close()
        raise LocalCloudBroken(what="DynamoDB Local", reason="it does not answer", log=self._log)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def launcher(self) -> int:
        """The process that holds it."""
        return self._processes.pid

    def close(self) -> None:
        """End it, and wait for that."""
        self._processes.close()

    def _command(self, jars: list[Path]) -> list[str]:
        java = [str(bundled_java()), "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"]
        java += ["--enable-native-access=ALL-UNNAMED", "-cp", os.pathsep.join(str(jar) for jar in jars), MAIN_CLASS]
        return [*java, "-inMemory", "-sharedDb", "-disableTelemetry", "-port", str(self.port)]

    def _answers(self) -> bool:
        """Wait until it takes requests; False if it has ended, or time is up."""
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up and not self._ended.wait(0.05):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            with suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/")
                connection.getresponse().read()
                return True
            connection.close()
        return False


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def dynamodb_local() -> Generator[DynamoDbLocal]:
    """A DynamoDB Local for the time of the block, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="pyanamo-dynamodb-") as folder:
        running = DynamoDbLocal(Path(folder))
        try:
            yield running
        finally:
            running.close()
