"""What a command loads: told by the list of modules, not by time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyanamo_core.aws import Clients
    from pyanamo_core.local import LocalCloud

HEAVY = ("boto3", "botocore", "moto", "prefect", "pysam", "pyanamo_flows")
PROGRAM = """
import json, sys
sys.argv = ["pyanamo", *json.loads(sys.argv[1])]
from pyanamo.main import main
try:
    main()
except SystemExit as leaving:
    code = leaving.code
print("\\n" + json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def loaded_by(*words: str, **environment: str) -> tuple[int, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize("words", [["--help"], ["items", "list", "--help"], ["run", "--help"], ["pilot", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    # Given a user who asks for help, then none of the big libraries is loaded
    code, modules = loaded_by(*words)
    assert code == 0
    assert modules.isdisjoint(HEAVY)


def test_checking_a_sheet_needs_no_aws(tmp_path: object) -> None:
    # Given a sheet that is only checked
    from pyanamo.commands.init import TEMPLATES

    code, modules = loaded_by("sheet", "check", str(TEMPLATES / "sheet.txt"))
    # Then boto3 is not loaded for it
    assert code == 0
    assert modules.isdisjoint(HEAVY)


def test_status_and_explain_load_neither_prefect_nor_moto(
    local_cloud: LocalCloud, cloud_clients: Clients, unique_name: str
) -> None:
    # Given a table with a workflow, and an address of Prefect in the environment
    from pyanamo_core.ledger import Ledger
    from pyanamo_core.ledger.table import create_table
    from pyanamo_core.workflow import Buckets, Workflow

    create_table(cloud_clients, unique_name)
    plan = Workflow(name=unique_name, queue="Q", job_definition="D", buckets=Buckets(results="s3://bucket/x"))
    Ledger(cloud_clients, unique_name, rules=plan.rules).add_workflow(plan)
    # When its status, or an explanation, is asked for
    for asked in ("status", "explain"):
        code, modules = loaded_by(
            asked, "--table", unique_name, **local_cloud.environment(), PREFECT_API_URL="http://127.0.0.1:9/api"
        )
        # Then boto3 was needed, and nothing else
        assert code == 0
        assert "boto3" in modules
        assert modules.isdisjoint({"moto", "prefect", "pysam", "pyanamo_flows"})


def test_ctrl_c_while_modules_are_loaded_ends_the_command_quietly(tmp_path: Path) -> None:
    # Given a command that is still loading its modules
    (tmp_path / "typer.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    started = subprocess.Popen(
        [sys.executable, "-m", "pyanamo", "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "loading\n"

    # When the user presses Ctrl-C
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=60)

    # Then it ends as programs do, without a traceback
    assert (started.returncode, said) == (-signal.SIGINT, "")
