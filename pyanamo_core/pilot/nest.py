"""One nest from its call to its result: private directories, environment, process, cause, verification.

Nothing here knows the ledger, so that a rehearsal runs exactly what a pilot runs.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from pyanamo_core.errors import ScriptRefused
from pyanamo_core.meter import reported
from pyanamo_core.model import Cause, NestCall, NestResult, Output
from pyanamo_core.pilot.environment import Setting, command_line, task_environment
from pyanamo_core.pilot.evidence import Evidence, evidence_line, fitted
from pyanamo_core.pilot.executor import DaemonPool
from pyanamo_core.pilot.outputs import Hook, Unverified, ask_hook, check_output, read_end, read_result
from pyanamo_core.pilot.patience import StoreDown, patiently
from pyanamo_core.pilot.process import TERM_SECONDS, Process, Program
from pyanamo_core.pilot.verdict import cause_of
from pyanamo_core.pilot.vitals import oom_kills
from pyanamo_core.protocols import Clock

HOOK_SECONDS: Final = 3600.0
"""How long a verify hook may take where nests have no deadline."""
NO_ROOM_BYTES: Final = 1 << 20
"""A scratch folder with less room is full: what failed then, failed for that."""


class HookHangs(Exception):
    """The verify hook gives no answer. The text is for the user."""


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
    silence_seconds: float | None = None
    keep: Path | None = None
    s3_seconds: float = 0.0
    """How long the check of outputs is repeated while S3 does not answer."""
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
    shares: int = 1
    """Slots that it takes, whose memory and CPUs it has."""
    deadline_seconds: float | None = None
    """Of this nest alone, instead of the bench's."""
    began: float | None = None
    """When it was given its slots (monotonic)."""
    _process: Process | None = None
    _stopped_by: Cause | None = None
    _news: threading.Event = field(default_factory=threading.Event)
    """Set when it is stopped, and when its verify hook has answered."""
    marks: tuple[tuple[int, float], ...] = ()
    log_bytes: int = 0

    def stop(self, cause: Cause, *, term_seconds: float = TERM_SECONDS) -> None:
        """End it: TERM, and KILL after so long; idempotent, from any thread, also before it has begun."""
        if self._stopped_by is None:
            self._stopped_by = cause
        self._news.set()
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
        try:
            for part in ("work", "tmp"):
                (folder / part).mkdir(parents=True, mode=0o700)
            return self._run(folder, folder.with_suffix(".log"))
        except ScriptRefused as error:
            return self._never_ran(Cause.PERMANENT, str(error), started)
        except OSError as error:
            return self._never_ran(Cause.HOST_FAULT, f"this host failed: {error}", started)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _never_ran(self, cause: Cause, message: str, started: float) -> NestResult:
        ended = self.bench.clock.now()
        return NestResult(cause=cause, message=message, evidence=fitted(message), started=started, ended=ended)

    def _run(self, folder: Path, log: Path) -> NestResult:
        bench = self.bench
        result_path = folder / "result.json"
        environment = task_environment(
            bench.setting,
            self.call,
            work=str(folder / "work"),
            temporary=str(folder / "tmp"),
            result=str(result_path),
            shares=self.shares,
            meter=str(folder / "meter"),
        )
        program = Program(
            command_line(self.call, environment),
            environment,
            folder / "work",
            log,
            deadline_seconds=bench.deadline_seconds if self.deadline_seconds is None else self.deadline_seconds,
            silence_seconds=bench.silence_seconds,
        )
        self._process = Process(program, bench.clock)
        if self._stopped_by is not None:
            self._process.stop(self._stopped_by)
        kills = oom_kills()
        ended = self._process.run()
        self.marks, self.log_bytes = ended.marks, ended.log_bytes
        evidence = Evidence(
            exit_code=ended.exit_code,
            stopped_by=ended.stopped_by,
            tail=ended.tail,
            oom_kills=max(0, oom_kills() - kills),
            disk_full=_is_full(folder),
            host_fault=ended.host_fault,
            fault=ended.fault,
        )
        outputs: tuple[Output, ...] = ()
        figures: dict[str, Any] = {}
        if cause_of(evidence)[0] is Cause.DONE:
            try:
                outputs, figures = self._verify(result_path)
            except Unverified as error:
                evidence = replace(evidence, unverified=str(error))
            except StoreDown as error:
                evidence = replace(evidence, unchecked=f"its outputs could not be checked: {error}")
            except HookHangs as error:
                evidence = replace(evidence, stopped_by=Cause.TIMED_OUT, fault=str(error))
            except Exception as error:  # noqa: BLE001 - S3 unreachable, a client that cannot be made: not the task's fault, not proven either
                evidence = replace(evidence, unverified=f"its outputs could not be checked: {error}")
            if self._stopped_by is not None and (evidence.unchecked or evidence.stopped_by):
                evidence = replace(evidence, stopped_by=self._stopped_by, fault="")
        cause, message = cause_of(evidence)
        s3_writes, s3_reads = reported(folder / "meter")
        if ended.tags_dropped:
            message = f"{message}; {ended.tags_dropped} tag lines beyond the limit were dropped".removeprefix("; ")
        if bench.keep is not None and cause is not Cause.DONE and not self.stopped:
            message = f"{message}; {_keep(folder, bench.keep)}"
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
            evidence=evidence_line(evidence),
            s3_writes=s3_writes,
            s3_reads=s3_reads,
            log_path=str(log),
        )

    def _verify(self, result_path: Path) -> tuple[tuple[Output, ...], dict[str, Any]]:
        result, outputs, figures = read_result(result_path)
        bench = self.bench
        for output in outputs:
            patiently(partial(check_output, output, bench.s3), bench.clock, seconds=bench.s3_seconds, hurry=self._news)
        if bench.hook is not None:
            self._ask(bench.hook, result)
        return outputs, figures

    def _ask(self, hook: Hook, result: dict[str, Any]) -> None:
        """Let the hook judge, for as long as a nest may take (without a deadline an hour): nobody can end a thread.

        Raises:
            Unverified: what it found. HookHangs: it did not answer, or the nest was stopped meanwhile.
        """
        limit = self.bench.deadline_seconds if self.deadline_seconds is None else self.deadline_seconds
        limit = limit or HOOK_SECONDS
        call = {**self.call.model_dump(), "read_end": partial(read_end, self.bench.s3)}
        asked = DaemonPool(1, "verify").submit(partial(ask_hook, hook, call, result))
        asked.add_done_callback(lambda _: self._news.set())
        self._news.wait(limit)
        if not asked.done():
            raise HookHangs(f"the verify hook did not answer within {limit:.0f} s")
        asked.result()


def _keep(folder: Path, place: Path) -> str:
    """Move a folder to where it stays; says where. What went wrong with the nest matters more than whether that works."""
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        return f"its folder is kept: {shutil.move(folder, place / f'{folder.parent.name}-{folder.name}')}"
    except OSError as error:
        return f"its folder could not be kept: {error.strerror}"


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < NO_ROOM_BYTES
    except OSError:
        return False
