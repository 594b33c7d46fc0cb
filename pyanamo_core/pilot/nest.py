"""One nest from its call to its result: private directories, environment, process, cause, verification.

Nothing here knows the ledger, so that a rehearsal runs exactly what a pilot runs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pyanamo_core.errors import ScriptRefused
from pyanamo_core.model import Cause, NestCall, NestResult, Output
from pyanamo_core.pilot.environment import Setting, command_line, task_environment
from pyanamo_core.pilot.outputs import Hook, Unverified, ask_hook, check_output, read_result
from pyanamo_core.pilot.process import TERM_SECONDS, Ended, Process, Program
from pyanamo_core.pilot.verdict import Evidence, cause_of
from pyanamo_core.protocols import Clock

NO_ROOM_BYTES: Final = 1 << 20
"""A scratch folder with less room is full: what failed then, failed for that."""


@dataclass(frozen=True)
class Bench:
    """Where and with what a pilot's nests run.

    `s3` gives a boto3 S3 client for the checks of outputs; `keep` is where folders of failed nests are moved to (None:
    they are removed like all others).
    """

    setting: Setting
    scratch: Path
    clock: Clock
    s3: Callable[[], Any]
    hook: Hook | None = None
    deadline_seconds: float | None = None
    keep: Path | None = None
    _numbers: Any = field(default_factory=itertools.count)

    def folder(self) -> Path:
        """A new private folder for one nest (short, whatever the item is called)."""
        return self.scratch / f"{next(self._numbers):06d}"


@dataclass
class Task:
    """One nest to run, and the handle by which it is stopped. `log_path` stays after the run; who uploads it removes it."""

    call: NestCall
    bench: Bench
    slot: int = 0
    memory_mb: int | None = None
    deadline_seconds: float | None = None
    """Of this nest alone, instead of the bench's."""
    _process: Process | None = None
    _stopped_by: Cause | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    marks: tuple[tuple[int, float], ...] = ()
    log_bytes: int = 0

    def stop(self, cause: Cause, *, term_seconds: float = TERM_SECONDS) -> None:
        """End it: TERM, and KILL after so long; idempotent, from any thread, also before it has begun."""
        if self._stopped_by is None:
            self._stopped_by = cause
        self._stopping.set()
        if self._process is not None:
            self._process.stop(cause, term_seconds=term_seconds)

    @property
    def stopped(self) -> bool:
        """Was it ended by `stop`? (Its own deadline is not that.)"""
        return self._stopped_by is not None

    @property
    def last_line(self) -> str:
        """The last line of its standard output so far."""
        return self._process.last_line if self._process else ""

    def __call__(self) -> NestResult:
        """Run the nest to its end. Never raises for what the task or the host does: that is a cause."""
        bench = self.bench
        started = bench.clock.now()
        folder = bench.folder()
        log = folder.with_suffix(".log")
        try:
            for part in ("work", "tmp"):
                (folder / part).mkdir(parents=True, mode=0o700)
            return self._run(folder, log)
        except ScriptRefused as error:
            return NestResult(cause=Cause.PERMANENT, message=str(error), started=started, ended=bench.clock.now())
        except OSError as error:
            message = f"this host failed: {error}"
            return NestResult(cause=Cause.HOST_FAULT, message=message, started=started, ended=bench.clock.now())

    def _run(self, folder: Path, log: Path) -> NestResult:
        bench = self.bench
        result_path = folder / "result.json"
        environment = task_environment(
            bench.setting,
            self.call,
            work=str(folder / "work"),
            temporary=str(folder / "tmp"),
            result=str(result_path),
            memory_mb=self.memory_mb,
        )
        deadline = bench.deadline_seconds if self.deadline_seconds is None else self.deadline_seconds
        program = Program(command_line(self.call, environment), environment, folder / "work", log, deadline)
        self._process = Process(program, bench.clock)
        if self._stopped_by is not None:
            self._process.stop(self._stopped_by)
        kills = oom_kills()
        ended = self._process.run()
        self.marks, self.log_bytes = ended.marks, ended.log_bytes
        cause, message = cause_of(
            Evidence(
                exit_code=ended.exit_code,
                stopped_by=ended.stopped_by,
                tail=ended.tail,
                oom_kills=max(0, oom_kills() - kills),
                disk_full=_is_full(folder),
                host_fault=ended.host_fault,
                fault=ended.fault,
            )
        )
        outputs: tuple[Output, ...] = ()
        figures: dict[str, Any] = {}
        if cause is Cause.DONE:
            try:
                outputs, figures = self._verify(result_path)
            except Unverified as error:
                cause, message = Cause.UNVERIFIED, str(error)
            except Exception as error:  # noqa: BLE001 - S3 unreachable, a client that cannot be made: not the task's fault, not proven either
                cause, message = Cause.UNVERIFIED, f"its outputs could not be checked: {error}"
        if ended.tags_dropped:
            message = f"{message}; {ended.tags_dropped} tag lines beyond the limit were dropped".removeprefix("; ")
        if bench.keep is not None and cause is not Cause.DONE and not self.stopped:
            message = f"{message}; its folder is kept: {_keep(folder, bench.keep)}"
        shutil.rmtree(folder, ignore_errors=True)
        return self._result(ended, cause, message, outputs, figures, log)

    def _verify(self, result_path: Path) -> tuple[tuple[Output, ...], dict[str, Any]]:
        result, outputs, figures = read_result(result_path)
        for output in outputs:
            check_output(output, self.bench.s3)
        if self.bench.hook is not None:
            ask_hook(self.bench.hook, self.call.model_dump(), result)
        return outputs, figures

    @staticmethod
    def _result(
        ended: Ended, cause: Cause, message: str, outputs: tuple[Output, ...], figures: dict[str, Any], log: Path
    ) -> NestResult:
        return NestResult(
            cause=cause,
            exit_code=ended.exit_code,
            message=message,
            started=ended.started,
            ended=ended.ended,
            peak_memory_mb=ended.peak_memory_mb,
            cpu_seconds=ended.cpu_seconds,
            outputs=outputs,
            tags=ended.tags,
            figures=figures,
            tail=ended.tail,
            log_path=str(log),
        )


def _keep(folder: Path, place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Path(shutil.move(folder, place / f"{folder.parent.name}-{folder.name}"))


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < NO_ROOM_BYTES
    except OSError:
        return False


def oom_kills(root: Path = Path("/sys/fs/cgroup")) -> int:
    """How often the kernel has killed for memory in this container: cgroup v2, else v1, else 0."""
    for name in ("memory.events", "memory/memory.oom_control"):
        with contextlib.suppress(OSError, ValueError):
            for line in (root / name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


def container_memory_mb(asked_mb: int, root: Path = Path("/sys/fs/cgroup")) -> int:
    """What a pilot may use: the workflow's figure, the container's limit or the machine's memory, whichever is least."""
    limits = [asked_mb]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int((root / name).read_text()) >> 20)
    return max(1, min(limits))
