"""What the demo starts, and its end: two servers in the background, one command at a time in front, nothing left behind.

Everything started here ends with this process: in order at the end or on Ctrl-C, TERM and hang-up, and by a signal
from the kernel if the process is killed. With `keep` the servers alone go on, once everything went well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pyanamo_core.errors import PyAnamoError

PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded here: between fork and exec nothing may be loaded
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_SECONDS = 8.0
FOREIGN = ("AWS_", "PREFECT_", "PYANAMO_", "S3_BUCKET", "GATK_LOCAL_JAR")
"""Prefixes of variables that the demo does not take over from its caller: it uses no account and no server of theirs."""


class StepFailed(PyAnamoError):
    """The demo stopped: `{command}` ended with exit code {code}. Its logs are in {folder}."""


class Stopped(BaseException):
    """The demo was asked to stop while something was starting in the background."""


@dataclass
class Background:
    """Something that starts in a thread while the demo goes on: `wait` gives its result or its error."""

    name: str
    call: Callable[[], Any]
    seconds: float = 0.0
    _result: Any = None
    _error: BaseException | None = None
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> Self:
        def run() -> None:
            begun = time.monotonic()
            try:
                self._result = self.call()
            except BaseException as error:  # noqa: BLE001 - told to the thread that waits
                self._error = error
            self.seconds = time.monotonic() - begun

        self._thread = threading.Thread(target=run, name=self.name, daemon=True)
        self._thread.start()
        return self

    def wait(self) -> Any:
        """Wait for its end, so that Ctrl-C is still heard."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.2)
        if self._error is not None:
            raise self._error
        return self._result


class Stage:
    """A place where servers and commands run and end together. A context manager, for the main thread.

    Args:
        folder: the demo's folder; commands run in it.
        keep: leave the servers running if the block ends well.
        out: where commands print: None is this process's standard output.
    """

    def __init__(self, folder: Path, *, keep: bool, out: int | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.stopping = threading.Event()
        self._out = out
        self._environment = clean_environment(os.environ)
        self._child: subprocess.Popen[str] | None = None
        self._undo: list[tuple[str, Callable[[], Any]]] = []
        self._background: list[Background] = []
        self._helpers: list[subprocess.Popen[str]] = []
        self._before: dict[int, Any] = {}
        self._own_environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        def interrupt(number: int, _frame: Any) -> None:
            raise KeyboardInterrupt(number)

        for number in SIGNALS:
            # Under nohup a hang-up is meant to be ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, interrupt)
        # This process speaks to the local cloud, too: a profile named in the environment would be looked for.
        self._own_environment = dict(os.environ)
        os.environ.clear()
        os.environ.update(self._environment)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A second Ctrl-C while we put things away would leave processes behind.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        try:
            self._end(well=kind is None)
        finally:
            os.environ.clear()
            os.environ.update(self._own_environment)
            for number, handler in self._before.items():
                signal.signal(number, handler)

    # ------------------------------------------------------------------------------------------------- background

    def begin(self, name: str, call: Callable[[], Any]) -> Background:
        """Start something in a thread; the stage's end waits for it, so it must heed `stopping`."""
        started = Background(name, call).start()
        self._background.append(started)
        return started

    def helper(self, *command: str) -> str:
        """Run a program silently, for the background: its standard output, or StepFailed with its last words."""
        child = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._helpers.append(child)
        told, _ = child.communicate()
        self.check()
        if child.returncode:
            raise StepFailed(
                command=f"{shlex.join(command)}: {told.strip()}", code=child.returncode, folder=self.folder
            )
        return told

    def on_end(self, what: str, undo: Callable[[], Any]) -> None:
        """How to stop what was started; called at the end, the last first, unless it went well and `keep` is set."""
        self._undo.append((what, undo))

    def check(self) -> None:
        """Raise Stopped if the demo is ending; for loops in the background."""
        if self.stopping.is_set():
            raise Stopped

    # ------------------------------------------------------------------------------------------------- commands

    def set_environment(self, more: Mapping[str, str]) -> None:
        """Variables for the commands that follow."""
        self._environment.update(more)

    @property
    def environment(self) -> dict[str, str]:
        return dict(self._environment)

    def pyanamo(
        self, *arguments: str, capture: bool = False, may_fail: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run `pyanamo ARGUMENTS` in the demo's folder, as a user would, and wait.

        Args:
            capture: return what it prints on standard output instead of showing it.
            may_fail: give its exit code back instead of raising.

        Raises:
            StepFailed: it ended with another exit code than 0.
        """
        command = [sys.executable, "-m", "pyanamo", *arguments]
        out = subprocess.PIPE if capture else self._out
        # A session of its own: Ctrl-C in the terminal reaches us alone, and we end it in order.
        child = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            text=True,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - only from the main thread, and it calls prctl alone
        )
        self._child = child
        told, _ = child.communicate()
        self._child = None
        if child.returncode and not may_fail:
            raise StepFailed(command=shlex.join(["pyanamo", *arguments]), code=child.returncode, folder=self.folder)
        return subprocess.CompletedProcess(command, child.returncode, told)

    # ------------------------------------------------------------------------------------------------- the end

    def _end(self, *, well: bool) -> None:
        self.stopping.set()
        if self._child is not None:
            end_tree(self._child.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(1)
        for one in self._helpers:
            if one.poll() is None:
                end_tree(one.pid, 1.0)
        for one in self._background:
            with contextlib.suppress(BaseException):
                one.wait()
        kept = well and self.keep
        if not kept:
            ending = [Background(what, undo).start() for what, undo in reversed(self._undo)]
            for one in ending:
                try:
                    one.wait()
                except Exception as error:  # noqa: BLE001 - the others must be stopped all the same
                    sys.stderr.write(f"stopping {one.name}: {error}\n")
            end_children()


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what belongs to other accounts and servers, and with our own command first."""
    kept = {name: value for name, value in environ.items() if not name.startswith(FOREIGN)}
    own = str(Path(sys.executable).parent)
    kept["PATH"] = os.pathsep.join([own, kept.get("PATH", os.defpath)])
    # Neither a profile of the user nor the metadata service of the machine shall be asked for credentials.
    return kept | {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def end_tree(pid: int, grace_seconds: float = GRACE_SECONDS) -> None:
    """End a process of ours and all that descend from it: TERM, then KILL."""
    import psutil

    try:
        top = psutil.Process(pid)
        tree = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    _end_all(tree, grace_seconds, first=[top])


def end_children() -> None:
    """End whatever still descends from this process."""
    import psutil

    _end_all(psutil.Process().children(recursive=True), 3.0)


def _end_all(processes: list[Any], grace_seconds: float, first: list[Any] | None = None) -> None:
    import psutil

    for one in processes if first is None else first:
        with contextlib.suppress(psutil.Error):
            one.terminate()
    _, alive = psutil.wait_procs(processes, timeout=grace_seconds)
    for one in alive:
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(alive, timeout=3)


def _die_with_parent() -> None:
    # KILL: a command that is asked politely would first talk at length to servers that are gone as well.
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One demo at a time in a folder. Raises FolderBusy."""
    import fcntl

    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderBusy(folder=folder) from error
        yield


class FolderBusy(PyAnamoError):
    """Another demo runs in {folder}. Wait for its end, or give another --folder."""

    exit_code = 5
