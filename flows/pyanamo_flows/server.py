"""A Prefect server of our own, for the demo, the tests and a try on a laptop: 127.0.0.1, a free port, its own folder.

Nothing of the user's Prefect is read or written: own PREFECT_HOME, own database, no profile, no PREFECT_* inherited.
It ends with the process that started it, however that ends (its standard input is a life line), unless `keep` is set.
Making the tables of an empty database takes three times the work of starting: the first server of a version of Prefect
leaves its empty database in the cache, and later ones begin with a copy.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pyanamo_core.errors import Surroundings
from pyanamo_core.resources import resource

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TERM", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
START_SECONDS = 120.0
STOP_SECONDS = 5.0


class PrefectServerFailed(Surroundings):
    """Prefect's server did not start: {reason}. Its log is {log}."""


def settings_file() -> dict[str, str]:
    """The settings of deployments/prefect-server.env."""
    lines = (line.strip() for line in resource("deployments/prefect-server.env").read_text("utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now."""
    with socket.socket() as asked:
        asked.bind((host, 0))
        return int(asked.getsockname()[1])


def empty_database() -> Path:
    """Where this version of Prefect's empty database is kept: `$XDG_CACHE_HOME/pyanamo/prefect`, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pyanamo" / "prefect" / f"{importlib.metadata.version('prefect')}.db"


def copy_database(source: Path, target: Path, *, clear: bool = False) -> bool:
    """Copy a database, which may be in use, into place at once and readable by us alone; False if that cannot be.

    Args:
        clear: leave out what is one server's own: its key and its session.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as aside:
            made = Path(aside) / target.name
            made.touch(mode=0o600)
            with (
                closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
                closing(sqlite3.connect(made)) as new,
            ):
                old.backup(new)
                if clear:
                    new.execute("DELETE FROM configuration")
                    new.commit()
                    # So that whoever reads it leaves no files beside it; a server that begins with it changes that.
                    new.execute("PRAGMA journal_mode = DELETE")
            made.replace(target)
    except (OSError, sqlite3.Error):
        return False
    return True


class PrefectServer:
    """Start and stop a server. A context manager; or `start()` and, in a finally, `stop()`.

    Args:
        folder: home of the server (database, log `server.log`); it is made, and used again the next time.
        port: 0 takes a free one.
        keep: let the server outlive this process (its number is in `pid`).
        on_wait: is called about twice a second while the server starts.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        port: int = 0,
        keep: bool = False,
        environment: dict[str, str] | None = None,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.port = port
        self.keep = keep
        self._more = dict(environment or {})
        self._on_wait = on_wait
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.keep or kind is not None:
            self.stop()

    @property
    def url(self) -> str:
        """The address of the user interface."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """What PREFECT_API_URL must be."""
        return f"{self.url}/api"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def client_environment(self) -> dict[str, str]:
        """What a process must have in its environment to use this server, and nothing else of Prefect."""
        return {
            "PREFECT_API_URL": self.api_url,
            "PREFECT_HOME": str(self.folder / "client"),
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def environment(self) -> dict[str, str]:
        """The server's own environment."""
        own = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return (
            own
            | settings_file()
            | {
                "PREFECT_HOME": str(self.folder),
                # The page in the browser asks this address; else it is guessed from the server's own environment.
                "PREFECT_UI_API_URL": self.api_url,
                "PREFECT_SERVER_API_HOST": "127.0.0.1",
                "PREFECT_SERVER_API_PORT": str(self.port),
                "PYTHONUNBUFFERED": "1",
            }
            | self._more
        )

    def start(self, timeout_seconds: float = START_SECONDS) -> Self:
        """Start, and come back when the API is healthy.

        Raises:
            PrefectServerFailed: it ended, or was not healthy in time; nothing is left running.
        """
        # Prefect reads .env, prefect.toml and pyproject.toml of the folder it is started in: so in its own.
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "client").mkdir(exist_ok=True)
        if not self.port:
            self.port = free_port()
        database, empty = self.folder / "prefect.db", empty_database()
        fresh = not database.exists() and not (empty.exists() and copy_database(empty, database))
        command = [sys.executable, "-m", "pyanamo_flows.server", "keep" if self.keep else "tied"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL if self.keep else subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for whoever started us; he stops the server in order.
                start_new_session=True,
            )
        give_up = time.monotonic() + timeout_seconds
        try:
            while not self.healthy():
                if (code := self._process.poll()) is not None:
                    raise PrefectServerFailed(reason=f"it ended with code {code}: {self._last_line()}", log=self.log)
                if time.monotonic() > give_up:
                    raise PrefectServerFailed(reason=f"not healthy after {timeout_seconds:.0f} s", log=self.log)
                if self._on_wait:
                    self._on_wait()
                time.sleep(0.3)
        except BaseException:
            self.stop()
            raise
        if fresh:  # nobody has its address yet, so nothing of anybody's is in it
            copy_database(database, empty, clear=True)
        return self

    def healthy(self) -> bool:
        """Does the API answer?"""
        # Not urllib: it would ask the user's proxy for 127.0.0.1.
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            asked.request("GET", "/api/health")
            return asked.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            asked.close()

    def kill(self) -> None:
        """End it at once, as a crash would (for tests)."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> None:
        """End it: TERM, and KILL if it takes longer. Does nothing if it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                # Open websockets hold it up; what it wrote is safe in its database.
                process.kill()
                process.wait()
        if process.stdin:
            with suppress(OSError):
                process.stdin.close()

    def _last_line(self) -> str:
        with suppress(OSError):
            lines = self.log.read_text("utf-8", "replace").strip().splitlines()
            if lines:
                return lines[-1].strip()
        return "it said nothing"


def _end_with_parent() -> None:
    """Wait for the other end of standard input to close, which it does when our parent ends, in whatever way."""
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os._exit(1)


def main() -> None:
    """Become the server (the child's side): `python -m pyanamo_flows.server tied|keep`, settings in the environment.

    `python -m pyanamo_flows.server prepare` makes the empty database that all servers begin with, if it is missing.
    """
    import runpy

    if sys.argv[1:] == ["prepare"]:
        if not empty_database().exists():
            with tempfile.TemporaryDirectory() as folder, PrefectServer(folder):
                pass
        return
    if sys.argv[1:] == ["tied"]:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    host, port = os.environ["PREFECT_SERVER_API_HOST"], os.environ["PREFECT_SERVER_API_PORT"]
    sys.argv = ["prefect", "server", "start", "--host", host, "--port", port]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
