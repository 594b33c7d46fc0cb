"""The guardian of one nest: a tiny program between the pilot and a task script. Nothing outlives it, and it not the pilot.

It is run by path (`python -I -S guardian.py PILOT_PID REPORT_FD PROGRAM ARGUMENT…`) and imports the standard library
only: it starts in 20 ms and takes 9 MB. It is the subreaper of all that the task starts, daemons included; when the
pilot dies, however it dies, the kernel tells it, and it kills them all.

    SIGTERM   passed on to every descendant
    SIGUSR1   every descendant is killed (also sent by the kernel when the pilot is gone)

When the task's main process has ended, what is left of its descendants is killed, and one line of JSON goes to
REPORT_FD: wait status, user + system CPU seconds of all descendants, peak resident kilobytes of the biggest one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CANNOT_EXECUTE = 126
NOT_FOUND = 127
OOM_SCORE = "500"


def descendants(root: int) -> list[int]:
    """Process ids of all living descendants of `root`, by /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib would double the start-up time
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    # The command's name stands in brackets and may hold anything; what follows the last one is plain.
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    children.setdefault(int(parent), []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        more = children.get(queue.pop(), [])
        found += more
        queue += more
    return found


def signal_all(number: int) -> None:
    """Send a signal to every living descendant."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def pass_on(number: int, _frame: object) -> None:
    """Handler of the guardian's own signals."""
    signal_all(signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL)


def start(libc: ctypes.CDLL, program: list[str]) -> int:
    """Fork and execute the program in a session of its own; returns its process id."""
    guardian = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})
        return pid
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guardian:
        os._exit(CANNOT_EXECUTE)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR1})
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        # When memory runs out the kernel shall take a task, not the pilot or a guardian.
        file.write(OOM_SCORE)
    try:
        os.execvp(program[0], program)  # noqa: S606 - a shell is what nobody wants here
    except FileNotFoundError:
        os.write(2, f"pyanamo: {program[0]}: not found\n".encode())
        os._exit(NOT_FOUND)
    except OSError as error:
        os.write(2, f"pyanamo: {program[0]}: {error.strerror}\n".encode())
    os._exit(CANNOT_EXECUTE)


def main(arguments: list[str]) -> int:
    """Run the program, wait for it and for all that it left behind, report."""
    pilot, report = int(arguments[0]), int(arguments[1])
    os.set_inheritable(report, False)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGUSR1, pass_on)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
    if os.getppid() != pilot:
        return CANNOT_EXECUTE
    child = start(libc, arguments[2:])
    status = peak = 0
    while True:
        try:
            pid, ended, used = os.wait4(-1, 0)
        except ChildProcessError:
            break
        if pid == child:
            status, peak = ended, used.ru_maxrss
            child = 0
        peak = max(peak, used.ru_maxrss)
        if not child:
            signal_all(signal.SIGKILL)
    total = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {"status": status, "cpu_seconds": total.ru_utime + total.ru_stime, "peak_kb": peak}
    with contextlib.suppress(OSError):
        os.write(report, json.dumps(told).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
