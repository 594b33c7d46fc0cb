"""One program under its guardian: output streamed to a file, own kills marked, memory and CPU of the whole tree measured.

Standard error goes straight into the log file; standard output passes through here, so that tag lines are found while
they are written. Nothing is held in memory but one line and the tag lines, both up to a limit.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pyanamo_core.model import Cause
from pyanamo_core.pilot.streams import Marks, TagScanner, tail_of
from pyanamo_core.pilot.tree import Silence, Tree
from pyanamo_core.protocols import Clock

TERM_SECONDS: Final = 5.0
"""From TERM to KILL."""
KILL_SECONDS: Final = 2.0
"""From KILL by the guardian to KILL of the guardian itself and all that was seen of its tree."""
_READ_BYTES: Final = 64 * 1024
_SAMPLE_SECONDS: Final = (0.05, 2.0)
_GUARDIAN: Final = str(Path(__file__).with_name("guardian.py"))


@dataclass(frozen=True)
class Program:
    """What to start: arguments (no shell), environment, working directory, log file.

    `deadline_seconds` counts from its start; without CPU and output for `silence_seconds` it is hung. Either ends it.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    log: Path
    deadline_seconds: float | None = None
    silence_seconds: float | None = None


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    `exit_code` is 128 + n after signal n, as in a shell; None if it never started. `stopped_by` is the cause of our own
    kill, marked before the signal was sent. Memory is the largest sum of resident sizes seen over the whole tree, and at
    least the peak of its biggest process; shared pages count once per process. `marks` says how long the log was when
    (bytes, seconds since 1970), ascending.
    """

    exit_code: int | None
    stopped_by: Cause | None
    started: float
    ended: float
    peak_memory_mb: float = 0.0
    cpu_seconds: float = 0.0
    tags: tuple[str, ...] = ()
    tags_dropped: int = 0
    tail: str = ""
    log_bytes: int = 0
    marks: tuple[tuple[int, float], ...] = ()
    fault: str = ""
    """Why it could not be started, its log not be written, or it was ended by us."""
    host_fault: bool = False


@dataclass
class Process:
    """One run of a program. `run` blocks its thread; `stop` may be called from any other, also before `run`."""

    program: Program
    clock: Clock
    _scanner: TagScanner = field(default_factory=TagScanner)
    _stopped_by: Cause | None = None
    _why: str = ""
    _stop_at: float = 0.0
    _term_seconds: float = TERM_SECONDS
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _wake: int | None = None
    _ended: bool = False

    def stop(self, cause: Cause, why: str = "", *, term_seconds: float = TERM_SECONDS) -> None:
        """End the program: TERM, and KILL after `term_seconds`. Idempotent; the first cause, and its reason, count."""
        with self._lock:
            if self._stopped_by is not None or self._ended:
                return
            # Marked before any signal, so that its death is never taken for another's deed.
            self._stopped_by = cause
            self._why = why
            self._stop_at = self.clock.monotonic()
            self._term_seconds = term_seconds
            if self._wake is not None:
                os.write(self._wake, b"!")

    @property
    def last_line(self) -> str:
        """The last line of its standard output so far."""
        return self._scanner.last_line

    def run(self) -> Ended:
        """Run it to its end; every descendant is gone when this returns."""
        started = self.clock.now()
        with contextlib.ExitStack() as undo:
            try:
                log = os.open(self.program.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                undo.callback(os.close, log)
                wake_read, wake_write = os.pipe()
                undo.callback(os.close, wake_read)
                undo.callback(os.close, wake_write)
                with self._lock:
                    if self._stopped_by is not None:
                        return Ended(None, self._stopped_by, started, self.clock.now())
                    self._wake = wake_write
                undo.callback(self._close)
                return _Watch(self, log, wake_read, started).watch(undo)
            except OSError as error:
                too_long = error.errno == errno.E2BIG
                fault = "its arguments and environment are too long" if too_long else str(error)
                return Ended(None, self._stopped_by, started, self.clock.now(), fault=fault, host_fault=not too_long)

    def _close(self) -> None:
        with self._lock:
            self._ended = True
            self._wake = None

    @property
    def stopped_by(self) -> Cause | None:
        """The cause of our own kill, if there was one."""
        return self._stopped_by

    @property
    def why(self) -> str:
        """The reason of our own kill, if one was given."""
        return self._why

    def due_signals(self) -> tuple[bool, bool, bool]:
        """Which steps of the end are due by now: TERM, KILL by the guardian, KILL of the guardian."""
        if self._stopped_by is None:
            return False, False, False
        passed = self.clock.monotonic() - self._stop_at
        return True, passed >= self._term_seconds, passed >= self._term_seconds + KILL_SECONDS

    @property
    def scanner(self) -> TagScanner:
        """What was found on standard output so far."""
        return self._scanner


class _Watch:
    """The loop beside one running program."""

    def __init__(self, process: Process, log: int, wake: int, started: float) -> None:
        self._process = process
        self._program = process.program
        self._clock = process.clock
        self._log = log
        self._wake = wake
        self._started = started
        self._marks = Marks()
        self._tree = Tree()
        self._silence = Silence(self._program.silence_seconds)
        self._sent = [False, False, False]
        self._host_fault = ""

    def watch(self, undo: contextlib.ExitStack) -> Ended:
        """Start the program, pump its output, measure, send the signals that are due, take the report."""
        out_read, out_write = os.pipe()
        undo.callback(os.close, out_read)
        report_read, report_write = os.pipe()
        undo.callback(os.close, report_read)
        try:
            guardian = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    _GUARDIAN,
                    str(os.getpid()),
                    str(report_write),
                    *self._program.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=out_write,
                stderr=self._log,
                cwd=self._program.directory,
                env=dict(self._program.environment),
                pass_fds=(report_write,),
                start_new_session=True,
            )
        finally:
            os.close(out_write)
            os.close(report_write)
        os.set_blocking(out_read, False)
        report = self._pump(guardian.pid, out_read, report_read)
        _, status, _ = os.wait4(guardian.pid, 0)
        guardian.returncode = os.waitstatus_to_exitcode(status)  # it is reaped: Popen must not try again
        if not report:
            # Somebody killed the guardian: of its tree, only what was seen can still be ended.
            self._tree.kill()
        self._drain(out_read)
        self._process.scanner.close()
        return self._told(report, guardian.returncode)

    def _pump(self, pid: int, out: int, report: int) -> bytes:
        told = b""
        interval = _SAMPLE_SECONDS[0]
        next_sample = self._clock.monotonic() + interval
        deadline = self._program.deadline_seconds
        ends = None if deadline is None else self._clock.monotonic() + deadline
        with selectors.DefaultSelector() as selector:
            for descriptor in (out, report, self._wake):
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                now = self._clock.monotonic()
                if ends is not None and now >= ends:
                    self._process.stop(Cause.TIMED_OUT, f"ended at its deadline of {deadline:g} s")
                self._send(pid)
                if now >= next_sample:
                    self._sample(pid)
                    interval = min(_SAMPLE_SECONDS[1], interval * 1.6)
                    next_sample = now + interval
                wait = next_sample - now
                if ends is not None and self._process.stopped_by is None:
                    wait = min(wait, ends - now)
                if self._process.stopped_by is not None:
                    wait = min(wait, 0.2)
                for key, _ in selector.select(max(0.0, wait)):
                    if key.fd == out:
                        if not self._read(out):
                            selector.unregister(out)
                    elif key.fd == report:
                        more = os.read(report, _READ_BYTES)
                        if not more:
                            return told
                        told += more
                    else:
                        os.read(self._wake, 16)

    def _read(self, out: int) -> bool:
        """Pass on one chunk; False at the end of the stream."""
        try:
            chunk = os.read(out, _READ_BYTES)
        except BlockingIOError:
            return True
        if not chunk:
            return False
        self._process.scanner.feed(chunk)
        try:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(self._log, rest) :]
        except OSError as error:
            if not self._host_fault:
                self._host_fault = f"the log cannot be written: {error.strerror}"
            self._process.stop(Cause.HOST_FAULT)
        return True

    def _drain(self, out: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(out, _READ_BYTES):
                self._process.scanner.feed(chunk)
                with contextlib.suppress(OSError):
                    os.write(self._log, chunk)

    def _send(self, pid: int) -> None:
        due = self._process.due_signals()
        for step, number in enumerate((signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL)):
            if due[step] and not self._sent[step]:
                self._sent[step] = True
                if number == signal.SIGKILL:
                    self._sample(pid)
                    self._tree.kill()
                # The guardian is not reaped before the loop ends: its pid cannot be another's.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _sample(self, pid: int) -> None:
        self._tree.look(pid)
        size = 0
        with contextlib.suppress(OSError):
            size = os.fstat(self._log).st_size
            self._marks.add(size, self._clock.now())
        if self._silence.look(self._clock.monotonic(), self._tree.cpu_seconds, size):
            self._process.stop(Cause.TIMED_OUT, f"hung: no CPU and no output for {self._silence.limit:g} s")

    def _told(self, report: bytes, guardian_code: int) -> Ended:
        ended = self._clock.now()
        size = os.fstat(self._log).st_size
        self._marks.add(size, ended)
        told: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            told = json.loads(report)
        code = os.waitstatus_to_exitcode(int(told["status"])) if told else guardian_code
        scanner = self._process.scanner
        return Ended(
            exit_code=128 - code if code < 0 else code,
            stopped_by=self._process.stopped_by,
            started=self._started,
            ended=ended,
            peak_memory_mb=round(max(self._tree.peak_bytes / 2**20, float(told.get("peak_kb", 0)) / 1024), 1),
            # What a process without SIGCHLD has not waited for was only seen while it lived.
            cpu_seconds=round(max(float(told.get("cpu_seconds", 0.0)), self._tree.most_cpu_seconds), 3),
            tags=tuple(scanner.tags),
            tags_dropped=scanner.dropped,
            tail=tail_of(self._program.log),
            log_bytes=size,
            marks=self._marks.told(),
            fault=self._host_fault or self._process.why,
            host_fault=bool(self._host_fault),
        )
