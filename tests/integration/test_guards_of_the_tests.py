"""The guards in conftest.py do guard: a run that leaves a process fails, and no test reaches AWS."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError

CONFTEST = Path(__file__).parent.parent / "conftest.py"
LEAVES_A_DAEMON = """
import conftest, subprocess
conftest.GRACE_SECONDS = 0.1

def test_that_leaves_a_daemon(tmp_path):
    # The shell ends at once: what it started belongs to nobody any more.
    subprocess.run(["sh", "-c", "setsid sleep 600.25 >/dev/null 2>&1 &"], check=True)
"""


def run(folder: Path, test: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder / "conftest.py")
    (folder / "test_in_question.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_a_run_that_leaves_a_daemon_fails_and_kills_it(tmp_path: Path):
    # Given a test that passes, and leaves a daemon in a session of its own
    done = run(tmp_path, LEAVES_A_DAEMON)
    # Then the run fails, names it, and it is gone
    assert done.returncode == 1, done.stdout
    assert "sleep 600.25" in done.stdout
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and b"600.25" in _command_line(pid)]  # noqa: PTH208


def test_a_run_that_leaves_nothing_passes(tmp_path: Path):
    assert run(tmp_path, "def test_nothing():\n    assert True\n").returncode == 0


def test_a_test_that_forgets_its_endpoint_reaches_nobody():
    from botocore.config import Config

    client = boto3.client("sts", config=Config(retries={"total_max_attempts": 1}))
    with pytest.raises(EndpointConnectionError, match=r"127\.0\.0\.1"):
        client.get_caller_identity()


def _command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
