"""The parent of all processes of the local cloud: starts them, tells their ends, and lets none outlive it.

A process of its own, started as a script with the standard library only, single-threaded, so that forking is safe and
cheap. Each job gets an init process, as a container does: it is the subreaper of everything that the job starts, kills
what is left when the job's main process has ended, and dies with the launcher (parent-death signal). The launcher in
turn ends with its master: when the socket to it closes, everything is killed.

    master → launcher   {"start": id, "command": [...], "environment": {...}, "folder": path, "log": path}
                        {"term": id}      SIGTERM to the main process
                        {"kill": id}      SIGKILL to everything of that job
    launcher → master   {"started": id, "pid": main process}
                        {"exited": id, "code": 0-255, "error": why it could not be started, or ""}

Exit codes are a container's: 128 + n for signal n.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_WATCHED = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM)
_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def parents() -> dict[int, int]:
    """The parent of every process of this machine that we can see."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib is not worth its import here
        if name.isdigit():
            with suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat", "rb") as stat:  # noqa: PTH123
                # The command's name stands in parentheses and may hold anything; state and parent follow the last one.
                state, parent = stat.read().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    found[int(name)] = int(parent)
    return found


def descendants(root: int) -> list[int]:
    """Living processes below `root`, parents before children."""
    below: dict[int, list[int]] = {}
    for child, parent in parents().items():
        below.setdefault(parent, []).append(child)
    found: list[int] = []
    queue = [root]
    while queue:
        children = below.get(queue.pop(0), [])
        found += children
        queue += children
    return found


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        if int(name) > 2 and int(name) not in kept:
            with suppress(OSError):
                os.close(int(name))


def _run_main(ask: dict[str, Any], report: int) -> None:
    """Become the job's main process (in the child of the init)."""
    try:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # In this order: a TERM that waits must meet the default action, not the launcher's handler.
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        log = os.open(ask["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(ask["folder"])
        os.execvpe(ask["command"][0], ask["command"], ask["environment"])  # noqa: S606
    except OSError as error:
        os.write(report, f"error {error.strerror}: {ask['command'][0]}\n".encode())
        os._exit(127)


def _reap_all() -> None:
    """Kill and reap everything below this process; as its subreaper it inherits what loses its parent meanwhile."""
    while True:
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _run_init(ask: dict[str, Any], report: int, launcher: int) -> None:
    """Be a container's init: run the main process, then leave nothing behind. Does not return."""
    code = 137
    try:
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        _close_all_but(report)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher:
            os._exit(137)
        main = os.fork()
        if main == 0:
            _run_main(ask, report)
        os.write(report, f"pid {main}\n".encode())
        running = True
        while running:
            number = signal.sigwait(_WATCHED)
            if number == signal.SIGUSR1:
                with suppress(ProcessLookupError):
                    os.kill(main, signal.SIGTERM)
            elif number == signal.SIGTERM:
                running = False
            else:
                with suppress(ChildProcessError):
                    while True:
                        pid, status = os.waitpid(-1, os.WNOHANG)
                        if pid == 0:
                            break
                        if pid == main:
                            code = _code(status)
                            running = False
        _reap_all()
    finally:
        os._exit(code)


def _code(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@dataclass
class _Job:
    name: str
    init: int
    report: int
    main: int = 0
    error: str = ""
    heard: bytes = b""


class _Launcher:
    def __init__(self, master: socket.socket, registry: str) -> None:
        self.master, self.registry = master, registry
        self.jobs: dict[str, _Job] = {}
        self.selector = selectors.DefaultSelector()
        self.waker, wakes = socket.socketpair()
        self.waker.setblocking(False)
        wakes.setblocking(False)
        self.wakes = wakes
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, self.on_child)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self.on_term)
        self.selector.register(master, selectors.EVENT_READ, "master")
        self.selector.register(self.waker, selectors.EVENT_READ, "child")
        self.heard = b""
        self.pid = os.getpid()

    def on_child(self, number: int, frame: FrameType | None) -> None:
        """A child ended: the wake-up socket has said so; without a handler it would not."""

    def on_term(self, number: int, frame: FrameType | None) -> None:
        self.leave()

    def loop(self) -> None:
        while True:
            for key, _ in self.selector.select():
                if key.data == "child":
                    with suppress(BlockingIOError):
                        self.waker.recv(4096)
                    self.reap()
                elif key.data == "master":
                    self.listen()
                elif self.jobs.get(key.data.name) is key.data:  # it may have ended in this very round
                    self.hear(key.data)

    def listen(self) -> None:
        try:
            data = self.master.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            self.leave()
        self.heard += data
        *lines, self.heard = self.heard.split(b"\n")
        for line in lines:
            ask = json.loads(line)
            if "start" in ask:
                self.start(ask)
            elif job := self.jobs.get(ask.get("term", "") or ask.get("kill", "")):
                with suppress(ProcessLookupError):
                    os.kill(job.init, signal.SIGUSR1 if "term" in ask else signal.SIGTERM)

    def start(self, ask: dict[str, Any]) -> None:
        report, writes = os.pipe()
        # Blocked over the fork, so that the init misses no signal sent before it waits for them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            init = os.fork()
            if init == 0:
                _run_init(ask, writes, self.pid)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        os.close(writes)
        os.set_blocking(report, False)
        job = _Job(ask["start"], init, report)
        self.jobs[job.name] = job
        self.selector.register(report, selectors.EVENT_READ, job)
        self.note(job)

    def hear(self, job: _Job) -> None:
        try:
            data = os.read(job.report, 65536)
        except BlockingIOError:
            return
        if not data:
            self.selector.unregister(job.report)
            return
        job.heard += data
        *lines, job.heard = job.heard.split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "pid":
                job.main = int(rest)
                self.note(job)
                self.tell({"started": job.name, "pid": job.main})
            elif word == "error":
                job.error = rest

    def reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                for job in [job for job in self.jobs.values() if job.init == pid]:
                    self.ended(job, _code(status))
        # Whoever was adopted here has lost its init, which only happens when somebody killed that: nothing may remain.
        known = {job.init for job in self.jobs.values()}
        if any(parent == self.pid and pid not in known for pid, parent in parents().items()):
            for pid in [p for p, parent in parents().items() if parent == self.pid and p not in known]:
                for each in [*descendants(pid), pid]:
                    with suppress(ProcessLookupError):
                        os.kill(each, signal.SIGKILL)

    def ended(self, job: _Job, code: int) -> None:
        if job.report in self.selector.get_map():
            self.hear(job)
        with suppress(KeyError, ValueError):
            self.selector.unregister(job.report)
        os.close(job.report)
        del self.jobs[job.name]
        with suppress(FileNotFoundError):
            os.unlink(f"{self.registry}/{job.init}")  # noqa: PTH108
        self.tell({"exited": job.name, "code": code, "error": job.error})

    def note(self, job: _Job) -> None:
        """Write the job's processes and their start times down, for whoever has to sweep after us."""
        with open(f"{self.registry}/{job.init}", "w") as out:  # noqa: PTH123
            out.write(" ".join(f"{pid}:{started(pid)}" for pid in (job.init, job.main) if pid))

    def tell(self, event: dict[str, Any]) -> None:
        with suppress(OSError):
            self.master.sendall(json.dumps(event).encode() + b"\n")

    def leave(self) -> None:
        """Kill everything and end. Does not return."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for job in list(self.jobs.values()):
            with suppress(ProcessLookupError):
                os.kill(job.init, signal.SIGTERM)
        give_up = time.monotonic() + 5
        while self.jobs and time.monotonic() < give_up:
            self.reap()
            time.sleep(0.005)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        _reap_all()
        os._exit(0)


def started(pid: int) -> int:
    """When a process started (clock ticks since boot); 0 if it is gone. Together with its number this is its identity."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def main() -> None:
    """`launcher.py FD REGISTRY`: serve the master at the other end of that socket."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _Launcher(socket.socket(fileno=int(sys.argv[1])), sys.argv[2]).loop()


if __name__ == "__main__":
    main()
