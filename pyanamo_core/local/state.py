"""The state folder of a local cloud: who runs where, and the sweeping of what an unclean end left behind.

    <home>/state.json     pid, start time, port, token, ledger (mode 0600: the token opens the admin path)
    <home>/server.log     what the server says
    <home>/processes/     one file per running job: its processes with their start times
    <home>/jobs/          private folders of jobs
    <home>/hosts/         what containers find mounted from their host
    <home>/lock           held while somebody starts or stops the cloud

A process is known by its number and its start time, so that a number that the system gave to somebody else meanwhile
is never signalled.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pyanamo_core.local.launcher import descendants, started


def default_home() -> Path:
    """`$XDG_STATE_HOME/pyanamo/local`, by default below ~/.local/state."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "pyanamo" / "local"


@dataclass(frozen=True)
class Record:
    """What state.json holds of a running server."""

    pid: int
    start_time: int
    port: int
    token: str
    ledger: str
    region: str
    started_at: float
    moto: str = ""
    dynamodb_endpoint: str = ""
    docker: str = ""

    @property
    def alive(self) -> bool:
        """Is the process that wrote this still there, and is it the same one?"""
        return alive(self.pid, self.start_time)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def alive(pid: int, start_time: int) -> bool:
    """Is this very process running? A zombie is not."""
    if start_time == 0 or started(pid) != start_time:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def prepare(home: Path) -> None:
    """Make the folder and its parts, open to its owner only."""
    for folder in (home, home / "processes", home / "jobs"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def write_record(home: Path, record: Record) -> None:
    """Replace state.json in one step."""
    new = home / f"state.json.{os.getpid()}"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump(asdict(record), out)
    new.replace(home / "state.json")


def read_record(home: Path) -> Record | None:
    """The last server's record, alive or not; None if there is none or it cannot be read."""
    try:
        return Record(**json.loads((home / "state.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def locked(home: Path) -> Generator[None]:
    """One at a time starts or stops the cloud of this folder."""
    prepare(home)
    with (home / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def running_processes(home: Path) -> list[int]:
    """Processes of jobs that the registry knows and that are still the same ones."""
    return [pid for pid, start_time in _registered(home) if alive(pid, start_time)]


def _registered(home: Path) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for entry in sorted((home / "processes").glob("*")):
        with suppress(OSError, ValueError):
            for pair in entry.read_text().split():
                pid, _, start_time = pair.partition(":")
                found.append((int(pid), int(start_time)))
    return found


def sweep(home: Path) -> list[int]:
    """Kill what an earlier server of this folder left running, and forget it.

    Returns:
        The processes killed. Processes that only share a number with one of ours are left alone.
    """
    killed: list[int] = []
    for pid, start_time in _registered(home):
        if alive(pid, start_time):
            for each in [*descendants(pid), pid]:
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
                    killed.append(each)
    for entry in (home / "processes").glob("*"):
        entry.unlink(missing_ok=True)
    (home / "state.json").unlink(missing_ok=True)
    return killed


def end(pid: int, start_time: int, term_seconds: float, kill_seconds: float = 5.0) -> bool:
    """End one process: TERM, then KILL, waiting for each. True if it is gone."""
    for number, seconds in ((signal.SIGTERM, term_seconds), (signal.SIGKILL, kill_seconds)):
        if not alive(pid, start_time):
            return True
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        give_up = time.monotonic() + seconds
        while alive(pid, start_time) and time.monotonic() < give_up:
            time.sleep(0.02)
    return not alive(pid, start_time)
