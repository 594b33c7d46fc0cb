"""The launcher: jobs as processes that end with their container, and none that outlives its master."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyanamo_core.local.launcher import descendants, started
from pyanamo_core.local.processes import Processes
from pyanamo_core.local.state import alive, prepare, running_processes, sweep

ENVIRONMENT = {"PATH": os.environ["PATH"]}


class Told:
    """What a launcher has told, to wait for."""

    def __init__(self) -> None:
        self.pids: dict[str, int] = {}
        self.codes: dict[str, int] = {}
        self.errors: dict[str, str] = {}
        self.changed = threading.Condition()

    def on_started(self, name: str, pid: int) -> None:
        with self.changed:
            self.pids[name] = pid
            self.changed.notify_all()

    def on_exited(self, name: str, code: int, error: str) -> None:
        with self.changed:
            self.codes[name], self.errors[name] = code, error
            self.changed.notify_all()

    def wait(self, what: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(what, 30)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def processes(tmp_path: Path, told: Told) -> Iterator[Processes]:
    prepare(tmp_path)
    running = Processes(tmp_path / "processes", told.on_started, told.on_exited)
    yield running
    running.close()


def until(what: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def run(processes: Processes, folder: Path, name: str, script: str) -> Path:
    processes.start(name, ["sh", "-c", script], ENVIRONMENT, folder, folder / f"{name}.log")
    return folder / f"{name}.log"


def test_exit_codes_are_a_container_s(processes: Processes, told: Told, tmp_path: Path):
    run(processes, tmp_path, "seven", "exit 7")
    run(processes, tmp_path, "killed", "kill -KILL $$")
    run(processes, tmp_path, "fine", "exit 0")
    told.wait(lambda: len(told.codes) == 3)
    assert told.codes == {"seven": 7, "killed": 137, "fine": 0}


def test_a_command_that_does_not_exist_is_told_with_its_reason(processes: Processes, told: Told, tmp_path: Path):
    processes.start("none", ["no-such-command"], ENVIRONMENT, tmp_path, tmp_path / "log")
    told.wait(lambda: "none" in told.codes)
    assert told.codes["none"] == 127
    assert told.errors["none"] == "CannotStartContainerError: No such file or directory: no-such-command"


def test_output_goes_to_the_log_and_input_is_empty(processes: Processes, told: Told, tmp_path: Path):
    log = run(processes, tmp_path, "talker", "echo out; echo err >&2; cat; pwd; echo ${HOME:-none}")
    told.wait(lambda: "talker" in told.codes)
    assert log.read_text() == f"out\nerr\n{tmp_path}\nnone\n"


def test_what_a_job_started_ends_with_it_even_in_sessions_of_its_own(processes: Processes, told: Told, tmp_path: Path):
    # Given a job that leaves a daemon in another session behind
    run(
        processes, tmp_path, "parent", f"setsid sh -c 'echo $$ > {tmp_path}/daemon; exec sleep 600' & sleep 0.3; exit 3"
    )
    told.wait(lambda: "parent" in told.codes)
    # Then the daemon is gone when the end of the job is told
    daemon = int((tmp_path / "daemon").read_text())
    assert not Path(f"/proc/{daemon}").exists()
    assert told.codes["parent"] == 3


def test_term_reaches_the_main_process_alone(processes: Processes, told: Told, tmp_path: Path):
    # Given a main process that handles TERM, with a child that notes one
    script = f"(trap 'touch {tmp_path}/child-was-hit' TERM; sleep 600 & wait) & trap 'exit 75' TERM; touch {tmp_path}/set; wait"
    run(processes, tmp_path, "pilot", script)
    until((tmp_path / "set").exists)
    # When it is asked to end
    processes.term("pilot")
    told.wait(lambda: "pilot" in told.codes)
    # Then it ends in its own way, and its child heard nothing
    assert told.codes["pilot"] == 75
    assert not (tmp_path / "child-was-hit").exists()


def test_a_term_sent_at_once_is_not_lost(processes: Processes, told: Told, tmp_path: Path):
    for number in range(20):
        run(processes, tmp_path, f"early{number}", "exec sleep 600")
        processes.term(f"early{number}")
    told.wait(lambda: len(told.codes) == 20)
    assert set(told.codes.values()) == {143}


def test_kill_ends_everything_of_one_job_and_nothing_of_another(processes: Processes, told: Told, tmp_path: Path):
    # Given two jobs, the first deaf to TERM and with a child in another session
    run(processes, tmp_path, "deaf", "trap '' TERM; setsid sleep 600 & sleep 600")
    run(processes, tmp_path, "other", "sleep 600")
    told.wait(lambda: len(told.pids) == 2)
    until(lambda: len(descendants(told.pids["deaf"])) == 2)
    below = descendants(told.pids["deaf"])
    # When the first is killed
    processes.kill("deaf")
    told.wait(lambda: "deaf" in told.codes)
    # Then all of it is gone, and the other one runs
    assert told.codes["deaf"] == 137
    assert not any(Path(f"/proc/{pid}").exists() for pid in below)
    assert Path(f"/proc/{told.pids['other']}").exists()


def test_a_launcher_that_is_killed_takes_its_jobs_along(processes: Processes, told: Told, tmp_path: Path):
    run(processes, tmp_path, "job", "setsid sleep 600 & sleep 600")
    told.wait(lambda: "job" in told.pids)
    until(lambda: len(descendants(told.pids["job"])) == 2)
    below = [told.pids["job"], *descendants(told.pids["job"])]
    os.kill(processes.pid, signal.SIGKILL)
    until(lambda: not any(started(pid) and alive(pid, started(pid)) for pid in below))


def test_a_master_that_is_killed_takes_launcher_and_jobs_along(tmp_path: Path):
    # Given a master in a process of its own, with a job
    code = f"""
import sys, time
from pathlib import Path
from pyanamo_core.local.processes import Processes
here = Path({str(tmp_path)!r})
processes = Processes(here / "processes", on_started=lambda name, pid: print(pid, processes.pid, flush=True))
processes.start("job", ["sh", "-c", "setsid sleep 600 & sleep 600"], {{"PATH": {os.environ["PATH"]!r}}}, here, here / "log")
time.sleep(600)
"""
    master = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert master.stdout is not None
    pids = [int(word) for word in master.stdout.readline().split()]
    until(lambda: len(descendants(pids[0])) == 2)
    pids += descendants(pids[0])
    # When the master is killed
    master.kill()
    master.communicate()
    # Then nothing remains
    until(lambda: not any(started(pid) and alive(pid, started(pid)) for pid in pids))


def test_the_sweep_kills_what_the_registry_knows_and_never_a_stranger_with_the_same_number(tmp_path: Path):
    # Given a process that the registry knows, and one whose number it knows with another start time
    prepare(tmp_path)
    ours = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
    stranger = subprocess.Popen(["sleep", "600"])
    until(lambda: descendants(ours.pid))
    child = descendants(ours.pid)[0]
    (tmp_path / "processes" / "1").write_text(f"{ours.pid}:{started(ours.pid)}")
    (tmp_path / "processes" / "2").write_text(f"{stranger.pid}:{started(stranger.pid) - 1}")
    assert running_processes(tmp_path) == [ours.pid]
    # When the folder is swept
    killed = sweep(tmp_path)
    # Then ours is gone with its child, the stranger lives, and the registry is empty
    assert set(killed) == {ours.pid, child}
    # The shell may see its child die and end by itself before it is its own turn.
    assert ours.wait() in {-signal.SIGKILL, 0}
    assert stranger.poll() is None
    assert running_processes(tmp_path) == []
    stranger.kill()
    stranger.wait()
