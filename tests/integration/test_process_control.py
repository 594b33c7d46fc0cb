"""What tasks do to the pilot that reads them: floods, bytes that are no text, closed and held pipes, daemons."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest
from process_support import alive, bash, began, descriptors, flood, run

from pyanamo_core.clock import SystemClock
from pyanamo_core.model import Cause
from pyanamo_core.pilot.process import Ended, Process, Program

PATIENCE_SECONDS = 60.0
FLOOD_MB = 64

DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for name in ('0', '1', '2') if sys.argv[1] == 'close' else ():
    os.close(int(name))
open('daemon', 'w').write(str(os.getpid()))
time.sleep(300)
"""


def test_a_flood_of_output_fills_a_file_and_no_memory(tmp_path: Path) -> None:
    # Given a task that writes tens of megabytes of lines to standard output and as many to standard error
    ended, grown_mb = flood(tmp_path, FLOOD_MB)

    # Then all of it is in the log, its tag line was found, and the pilot's memory stayed as it was
    print(f"a flood of {ended.log_bytes >> 20} MB: memory grew by {grown_mb} MB in {ended.ended - ended.started:.1f} s")
    assert ended.log_bytes > 2 * FLOOD_MB << 20
    assert ended.tags == ("last",)
    assert grown_mb < 16


def test_output_without_a_single_newline_passes_whole(tmp_path: Path) -> None:
    ended = bash(tmp_path, f"head -c {8 << 20} /dev/zero | tr '\\0' 'x'; printf 'PyAnamo:\\tno'")

    assert ended.log_bytes == (8 << 20) + len("PyAnamo:\tno")
    assert ended.tags == ()
    assert 0 < len(ended.tail) <= 2048


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_every_byte_there_is_stands_in_the_log_as_it_was_written(tmp_path: Path, stream: str) -> None:
    # Given a task that writes all 256 values, zero bytes and broken UTF-8 among them, and a tag line of such bytes
    text = bytes(range(256)) * 1000 + b"\xc3\n" + b"\0" * 1000 + b"\nPyAnamo:\t\xff\0\xfe\n"
    script = f"import sys; sys.{stream}.buffer.write(bytes(range(256)) * 1000 + b'\\xc3\\n' + b'\\0' * 1000 + b'\\nPyAnamo:\\t\\xff\\0\\xfe\\n')"

    ended = run(tmp_path, sys.executable, "-c", script)

    assert ended.exit_code == 0
    assert hashlib.sha256((tmp_path / "log").read_bytes()).digest() == hashlib.sha256(text).digest()
    assert ended.tags == (("\ufffd\0\ufffd",) if stream == "stdout" else ())


def test_a_task_that_closes_its_output_goes_on_to_its_end(tmp_path: Path) -> None:
    # Given a task that closes all its streams and works on for a while
    ended = bash(tmp_path, "echo first; exec 0<&- 1>&- 2>&-; sleep 0.7; touch done; exit 4")

    # Then it was waited for
    assert ended.exit_code == 4
    assert (tmp_path / "done").exists()
    assert (tmp_path / "log").read_text() == "first\n"


def test_a_task_that_asks_for_input_gets_none_and_does_not_wait(tmp_path: Path) -> None:
    ended = bash(tmp_path, "cat; read -r line || echo nothing; python3 -c 'print(len(input()))'")

    assert ended.exit_code == 1
    assert "nothing" in (tmp_path / "log").read_text()
    assert "EOFError" in ended.tail


def test_children_that_hold_the_pipe_do_not_hold_the_nest(tmp_path: Path) -> None:
    # Given a task that ends while its children, one of them in a session of its own, still hold its output and write
    script = (
        "(echo $BASHPID > one; while true; do echo noise; sleep 0.01; done) &"
        " setsid bash -c 'echo $$ > two; exec sleep 300' &"
        " while [ ! -s one ] || [ ! -s two ]; do sleep 0.01; done; exit 5"
    )

    ended = bash(tmp_path, script)

    # Then its end is the nest's, and they are gone
    assert ended.exit_code == 5
    assert not alive(tmp_path / "one")
    assert not alive(tmp_path / "two")


@pytest.mark.parametrize("streams", ["close", "keep"])
def test_a_daemon_that_forked_twice_ends_with_its_task(tmp_path: Path, streams: str) -> None:
    # Given a task that leaves a daemon as they have been made since Unix: two forks, a session of its own
    script = f'"{sys.executable}" -c "$0" {streams}; while [ ! -s daemon ]; do sleep 0.01; done'

    ended = run(tmp_path, "bash", "-c", script, DAEMON)

    assert ended.exit_code == 0
    assert not alive(tmp_path / "daemon")


def test_a_daemon_that_ignores_term_is_killed_when_its_task_is_stopped(tmp_path: Path) -> None:
    # Given a task whose daemon, in a session of its own, is deaf to TERM
    deaf = DAEMON.replace(
        "import os, sys, time", "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    )
    told = Program(
        ("bash", "-c", f'"{sys.executable}" -c "$0" close; sleep 300', deaf),
        dict(os.environ),
        tmp_path,
        tmp_path / "log",
    )
    process = Process(told, SystemClock())
    ended: list[Ended] = []
    thread = threading.Thread(target=lambda: ended.append(process.run()))
    thread.start()
    assert began(tmp_path / "daemon")

    # When it is stopped with half a second of patience
    process.stop(Cause.DRAINED, term_seconds=0.5)
    thread.join(PATIENCE_SECONDS)

    # Then the task died of TERM, its daemon of KILL
    assert (ended[0].exit_code, ended[0].stopped_by) == (143, Cause.DRAINED)
    assert not alive(tmp_path / "daemon")


def test_cpu_of_grandchildren_that_ended_long_ago_is_counted(tmp_path: Path) -> None:
    # Given a task whose child waits for grandchildren that compute for half a second each; and orphans that do the same
    work = "import time\nwhile time.process_time() < 0.5: pass"
    script = f"""bash -c '"{sys.executable}" -c "$0" & "{sys.executable}" -c "$0" & wait' "$0"; (setsid "{sys.executable}" -c "$0" &) ; sleep 1.5"""

    ended = run(tmp_path, "bash", "-c", script, work)

    assert ended.exit_code == 0
    assert ended.cpu_seconds >= 1.5


def test_cpu_of_children_that_nobody_waits_for_is_counted_as_it_was_seen(tmp_path: Path) -> None:
    # Given a task that ignores SIGCHLD, so that the kernel forgets what its children used
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "if os.fork() == 0:\n"
        "    while time.process_time() < 1.5: pass\n"
        "    os._exit(0)\n"
        "time.sleep(3)\n"
    )

    ended = run(tmp_path, sys.executable, "-c", script)

    assert ended.cpu_seconds > 0.5


def test_a_task_may_start_a_thousand_processes(tmp_path: Path) -> None:
    # Given a task that starts them one after the other, a hundred of which are never waited for
    before = descriptors()
    ended = bash(tmp_path, "for i in $(seq 900); do /bin/true; done; for i in $(seq 100); do sleep 300 & done; exit 0")

    assert ended.exit_code == 0
    assert descriptors() == before


def test_a_nests_own_deadline_ends_its_whole_tree_and_says_so(tmp_path: Path) -> None:
    ended = bash(
        tmp_path, "setsid sleep 300 & echo $! > child; trap '' TERM; sleep 300; sleep 300", deadline_seconds=0.5
    )

    assert (ended.exit_code, ended.stopped_by, ended.fault) == (137, Cause.TIMED_OUT, "ended at its deadline of 0.5 s")
    assert not alive(tmp_path / "child")
