"""`pyanamo prefect setup` where Prefect is not: a message that says what to do, and nothing done."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "No address of a Prefect server is set"),
        ("http://127.0.0.1:9/api", "Prefect at http://127.0.0.1:9/api does not answer"),
    ],
    ids=["no address", "nobody there"],
)
def test_setup_without_a_server_says_what_to_do_and_exits_with_6(tmp_path, address, message):
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)}
    if address:
        environment["PREFECT_API_URL"] = address
    command = [sys.executable, "-m", "pyanamo", "prefect", "setup", "--table", "Cohort"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert message in done.stderr
    assert "PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stderr
