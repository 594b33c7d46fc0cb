"""Start and end the local cloud's processes through its launcher (launcher.py), and hear of their ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from pyanamo_core.local import launcher


class Processes:
    """A launcher process and what it runs.

    Args:
        registry: folder in which the launcher notes what runs.
        on_started: told the job's name and the number of its main process.
        on_exited: told the job's name, its exit code (128 + n for signal n) and, if it could not be started, why, in ECS's
            words.

    Both are called from one thread, in the order in which things happened; they must not block for long.
    """

    def __init__(
        self,
        registry: Path,
        on_started: Callable[[str, int], None] = lambda name, pid: None,
        on_exited: Callable[[str, int, str], None] = lambda name, code, error: None,
    ) -> None:
        registry.mkdir(parents=True, exist_ok=True)
        self._on_started, self._on_exited = on_started, on_exited
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._launcher = subprocess.Popen(
                # -I: nothing of the user's environment or folder; -S: the standard library is enough.
                [sys.executable, "-I", "-S", launcher.__file__, str(theirs.fileno()), str(registry)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", os.defpath)},
            )
        self._reader = threading.Thread(target=self._read, name="launcher", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The launcher's process number."""
        return self._launcher.pid

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        """Start a main process: own session, output appended to `log`, nothing on its standard input."""
        self._tell(
            {
                "start": name,
                "command": list(command),
                "environment": dict(environment),
                "folder": str(folder),
                "log": str(log),
            }
        )

    def term(self, name: str) -> None:
        """SIGTERM to the main process alone, as a container's stop does."""
        self._tell({"term": name})

    def kill(self, name: str) -> None:
        """SIGKILL to the main process and everything below it."""
        self._tell({"kill": name})

    def close(self) -> None:
        """Kill everything, and wait until the launcher has ended."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._launcher.wait(10)
        except subprocess.TimeoutExpired:
            self._launcher.kill()
            self._launcher.wait()
        if threading.current_thread() is not self._reader:
            self._reader.join(5)
        self._socket.close()

    def _tell(self, ask: dict[str, Any]) -> None:
        with self._lock, suppress(OSError):
            self._socket.sendall(json.dumps(ask).encode() + b"\n")

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                event = cast("dict[str, Any]", json.loads(line))
                if "started" in event:
                    self._on_started(event["started"], event["pid"])
                else:
                    error = f"CannotStartContainerError: {event['error']}" if event["error"] else ""
                    self._on_exited(event["exited"], event["code"], error)
