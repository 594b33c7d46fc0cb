"""Real processes under their guardian, for tests."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil

from pyanamo_core.clock import SystemClock
from pyanamo_core.pilot.process import Ended, Process, Program

PATIENCE_SECONDS = 60.0


def run(tmp_path: Path, *arguments: str, deadline_seconds: float | None = None) -> Ended:
    """Run a program in a test's folder to its end; its output is in `log` there."""
    told = Program(arguments, dict(os.environ), tmp_path, tmp_path / "log", deadline_seconds)
    return Process(told, SystemClock()).run()


def bash(tmp_path: Path, script: str, deadline_seconds: float | None = None) -> Ended:
    """Run a shell script."""
    return run(tmp_path, "bash", "-c", script, deadline_seconds=deadline_seconds)


def began(pid_file: Path) -> bool:
    """Does a process id come to stand in this file in good time?"""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        if pid_file.exists() and pid_file.read_text().strip():
            return True
        time.sleep(0.02)
    return False


def alive(pid_file: Path) -> bool:
    """Is the process whose id stands in this file alive?"""
    try:
        return psutil.Process(int(pid_file.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descriptors() -> int:
    """Open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def flood(tmp_path: Path, megabytes: int) -> tuple[Ended, int]:
    """Run a task that writes so much to each of its outputs; its end, and by how many MB our own memory grew."""
    process = psutil.Process()
    bash(tmp_path, "true")  # whatever is loaded for the first task is loaded
    before = process.memory_info().rss
    peak = [before]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    told = f"head -c {megabytes << 20} /dev/zero | tr '\\0' 'x' | fold -w 99; printf '\\nPyAnamo:\\tlast\\n'"
    ended = bash(tmp_path, f"({told}) & ({told}) >&2; wait")
    over.set()
    watcher.join()
    return ended, (peak[0] - before) >> 20
