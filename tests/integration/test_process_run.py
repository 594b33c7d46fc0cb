"""Real processes under their guardian."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from process_support import alive, bash, run

from pyanamo_core.clock import SystemClock
from pyanamo_core.model import Cause
from pyanamo_core.pilot.process import Ended, Process, Program

PATIENCE_SECONDS = 60.0


def program(tmp_path: Path, *arguments: str, deadline_seconds: float | None = None) -> Program:
    """What to run in a test's folder."""
    return Program(arguments, dict(os.environ), tmp_path, tmp_path / "log", deadline_seconds)


def eventually(condition: object) -> bool:
    """Does it become true in good time?"""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < give_up:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_output_of_both_kinds_stands_in_the_log(tmp_path: Path) -> None:
    ended = bash(tmp_path, "echo out; echo err >&2; exit 3")

    assert ended.exit_code == 3
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]
    assert ended.log_bytes == 8


def test_tag_lines_count_on_standard_output_only(tmp_path: Path) -> None:
    ended = bash(tmp_path, r"printf 'PyAnamo:\tone\n'; printf 'PyAnamo:\tno\n' >&2; printf 'PyAnamo:\ttwo'")

    assert ended.tags == ("one", "two")


def test_a_megabyte_of_output_passes_whole(tmp_path: Path) -> None:
    ended = bash(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' 'x'")

    assert ended.log_bytes == 3_000_000
    assert len(ended.tail) <= 2048


def test_death_by_a_signal_is_told_as_a_shell_tells_it(tmp_path: Path) -> None:
    ended = bash(tmp_path, "kill -9 $$")

    assert (ended.exit_code, ended.stopped_by) == (137, None)


def test_at_its_deadline_a_task_is_ended_and_that_was_us(tmp_path: Path) -> None:
    ended = bash(tmp_path, "sleep 300", deadline_seconds=0.3)

    assert ended.stopped_by is Cause.TIMED_OUT


def test_grandchildren_and_daemons_end_with_the_task(tmp_path: Path) -> None:
    # Given a task that leaves a daemon in a session of its own, deaf to TERM
    script = "(trap '' TERM; setsid bash -c 'echo $$ > daemon; sleep 300') & while [ ! -s daemon ]; do sleep 0.01; done"

    # When it ends
    ended = bash(tmp_path, script)

    # Then the daemon has ended too
    assert ended.exit_code == 0
    assert not alive(tmp_path / "daemon")


def test_a_task_that_ignores_term_is_killed_with_all_its_children(tmp_path: Path) -> None:
    # Given a task that ignores TERM, as does its child
    script = "trap '' TERM; (trap '' TERM; echo $BASHPID > child; sleep 300) & sleep 300; sleep 300"
    process = Process(program(tmp_path, "bash", "-c", script), SystemClock())
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(process.run()))
    thread.start()
    assert eventually(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())

    # When it is stopped, with half a second of patience
    process.stop(Cause.SPOT, term_seconds=0.5)
    thread.join(PATIENCE_SECONDS)

    # Then it died by KILL, by our hand, and nothing is left
    assert (ended[0].exit_code, ended[0].stopped_by) == (137, Cause.SPOT)
    assert not alive(tmp_path / "child")


def test_a_task_may_use_its_term_to_clean_up(tmp_path: Path) -> None:
    # Given a task that writes a file when it is told to end
    script = "trap 'echo clean > cleaned; exit 9' TERM; echo > ready; while true; do sleep 0.05; done"
    process = Process(program(tmp_path, "bash", "-c", script), SystemClock())
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(process.run()))
    thread.start()
    assert eventually((tmp_path / "ready").exists)

    # When it is stopped
    process.stop(Cause.DRAINED)
    thread.join(PATIENCE_SECONDS)

    # Then it did, and the cause is still ours
    assert (tmp_path / "cleaned").exists()
    assert (ended[0].exit_code, ended[0].stopped_by) == (9, Cause.DRAINED)


def test_a_task_that_was_stopped_before_it_began_never_runs(tmp_path: Path) -> None:
    process = Process(program(tmp_path, "touch", "ran"), SystemClock())
    process.stop(Cause.DRAINED)

    ended = process.run()

    assert (ended.exit_code, ended.stopped_by) == (None, Cause.DRAINED)
    assert not (tmp_path / "ran").exists()


def test_memory_and_cpu_are_those_of_the_whole_tree(tmp_path: Path) -> None:
    # Given a shell whose two children take 60 MB each, at the same time, and work
    child = "import time; x = bytearray(60 << 20); t = time.process_time()\nwhile time.process_time() - t < 0.4: pass\ntime.sleep(1)"
    script = f'"{sys.executable}" -c "$0" & "{sys.executable}" -c "$0" & wait'

    ended = run(tmp_path, "bash", "-c", script, child)

    assert ended.exit_code == 0
    assert ended.peak_memory_mb > 120
    assert ended.cpu_seconds >= 0.8


def test_descriptors_do_not_leak(tmp_path: Path) -> None:
    run(tmp_path, "true")
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(20):
        run(tmp_path, "true")

    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_arguments_that_are_too_long_are_the_tasks_own_fault(tmp_path: Path) -> None:
    ended = run(tmp_path, "true", "x" * 3_000_000)

    assert ended.exit_code is None
    assert "too long" in ended.fault
    assert not ended.host_fault


@pytest.mark.parametrize("how", ["kill -9", "exit"])
def test_when_the_pilot_dies_nothing_of_its_tasks_lives_on(tmp_path: Path, how: str) -> None:
    # Given a process with a running task that has a daemon of its own
    script = "setsid bash -c 'echo $$ > daemon; sleep 300' & echo $$ > task; sleep 300"
    program = (
        "import os, sys, threading\n"
        "from pathlib import Path\n"
        "from pyanamo_core.clock import SystemClock\n"
        "from pyanamo_core.pilot.process import Process, Program\n"
        "folder = Path(sys.argv[1])\n"
        "told = Program(('bash', '-c', sys.argv[2]), dict(os.environ), folder, folder / 'log')\n"
        "threading.Thread(target=Process(told, SystemClock()).run, daemon=True).start()\n"
        "sys.stdin.read()\n"
        "os._exit(0)\n"
    )
    pilot = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), script], stdin=subprocess.PIPE)
    files = [tmp_path / "task", tmp_path / "daemon"]
    assert eventually(lambda: all(each.exists() and each.read_text().strip() for each in files))

    # When that process goes away
    if how == "kill -9":
        pilot.kill()
    else:
        assert pilot.stdin is not None
        pilot.stdin.close()
    pilot.wait(PATIENCE_SECONDS)

    # Then the task and its daemon go too
    assert eventually(lambda: not any(alive(each) for each in files))


def test_a_task_whose_guardian_is_killed_ends_too(tmp_path: Path) -> None:
    # Given a running task with a child in a session of its own
    script = "setsid sleep 300 & echo $! > child; echo $PPID > guardian; sleep 300"
    process = Process(program(tmp_path, "bash", "-c", script), SystemClock())
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(process.run()))
    thread.start()
    guardian = tmp_path / "guardian"
    assert eventually(lambda: guardian.exists() and guardian.read_text().strip())
    time.sleep(1.0)  # until the tree has been looked at once more

    # When somebody kills its guardian
    os.kill(int(guardian.read_text()), 9)
    thread.join(PATIENCE_SECONDS)

    # Then the task is told to have been killed, not by us, and nothing is left
    assert (ended[0].exit_code, ended[0].stopped_by) == (137, None)
    assert eventually(lambda: not alive(tmp_path / "child"))
