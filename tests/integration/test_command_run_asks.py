"""`pyanamo run` says what it will take and asks; a canary measures first; dollars bound it. As a user types it."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from pyanamo.main import app
from pyanamo_core.ledger import open_ledger
from pyanamo_core.model import State

if TYPE_CHECKING:
    from pyanamo_core.local import LocalCloud
    from pyanamo_core.protocols import Ledger

DEAR = "spot_vcpu_hour: [1800, 3600]\non_demand_vcpu_hour: 7200\n"
"""A vCPU costs a dollar a second."""


class Someone:
    """A user with a workflow of eight items that sleep, in a table that is made and filled."""

    def __init__(self, cloud: LocalCloud, name: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
        from pyanamo_core.local.provision import ensure_compute

        self.folder, self.name, self.clients, self.patch = folder, name, cloud.clients(), patch
        patch.chdir(folder)
        for variable, value in (cloud.environment() | {"PREFECT_HOME": str(folder / "none")}).items():
            patch.setenv(variable, value)
        patch.delenv("PREFECT_API_URL", raising=False)
        ensure_compute(self.clients, name, name, command=_pilot(), buckets=[name])
        (folder / "scripts").mkdir()
        (folder / "scripts" / "nothing.sh").write_text("true\n")
        (folder / "workflow.yaml").write_text(
            f"name: {name}\nqueue: {name}\njob_definition: {name}\npilots: 2\nscripts: scripts\n"
            f"buckets: {{results: s3://{name}/results}}\n"
            "timing: {lease_seconds: 6, beat_seconds: 1.5, sweep_seconds: 0.5, poll_seconds: 0.5,"
            " start_jitter_seconds: 0}\n"
        )
        lines = [f"i{number}|t|sleep|0.2,0.3" for number in range(8)]
        (folder / "sheet.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\n" + "\n".join(lines) + "\n")
        (folder / "dear.yaml").write_text(DEAR)
        self.types("workflow", "create")
        self.types("sheet", "import", "sheet.txt")

    def types(self, *words: str, code: int = 0, answers: str | None = None) -> Result:
        with pytest.MonkeyPatch.context() as patch:
            if answers is not None:
                # The runner's standard input is no terminal; for the command it shall be one.
                patch.setattr("pyanamo.context.is_there_somebody", lambda: True)
            done = CliRunner().invoke(app, list(words), input=answers)
        assert done.exit_code == code, f"{words}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def reads(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.types(*words, "--json", code=code).stdout)

    @property
    def ledger(self) -> Ledger:
        return open_ledger(self.clients, self.name)[0]

    @property
    def done(self) -> int:
        return self.ledger.counts().done


def _pilot() -> tuple[str, ...]:
    from driver_support import PILOT

    return PILOT


@pytest.fixture
def someone(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Someone:
    return Someone(misbehaving_cloud, unique_name, tmp_path, monkeypatch)


def test_without_a_terminal_it_says_what_to_give_and_begins_nothing(someone: Someone) -> None:
    # When it is typed where nobody can answer
    told = someone.types("run", code=5)
    # Then the plan is shown, and what to give is said
    assert "8 items, 16 nests, 2 pilots" in told.stderr
    assert "With --yes it is done without being asked" in told.stderr
    # And for a program the same
    refused = someone.types("run", "--json", code=5)
    assert json.loads(refused.stderr)["kind"] == "NotConfirmed"
    assert refused.stdout == ""
    # And with a sheet it says what the run does beside that
    (someone.folder / "more.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\nn1|t|sleep|1\nn2|t|sleep|1\n")
    told = someone.types("run", "workflow.yaml", "--sheet", "more.txt", code=5)
    assert "Run: 10 items (8 of them open in the table, not in the sheet), 18 nests" in told.stderr
    assert someone.ledger.runs() == []


def test_a_person_sees_the_plan_and_may_say_no_or_yes(someone: Someone) -> None:
    # When the answer is no
    told = someone.types("run", code=5, answers="n\n")
    # Then each line of the bill was shown, and nothing was begun
    assert "machines, Spot" in told.stderr
    assert "hours not known" in told.stderr
    assert "the answer was no" in told.stderr
    assert someone.ledger.runs() == []
    # When it is yes, then it runs to its end
    told = someone.types("run", "--max-dollars", "5", answers="y\n")
    assert "drained at $5.00" in told.stderr
    assert someone.done == 8
    # And where nothing is left, nothing is asked
    someone.types("run")


def test_a_canary_measures_corrects_the_plan_and_asks_again(someone: Someone) -> None:
    # Given a first yes and a second no
    told = someone.types("run", "--first", "3", answers="y\nn\n")
    # Then three items were run, what they took is told, and the hours of the others are known by it
    assert re.search(r"canary: i\d, i\d, i\d: 3 done, 0 failed; 6 nests of 0\.\ds on average", told.stderr)
    assert "Run the others: 5 items, 10 nests" in told.stderr
    assert "hours not known" not in told.stderr.partition("canary:")[2]
    assert "the others were not begun" in told.stderr
    assert told.stderr.rstrip().endswith("next: pyanamo run")
    assert (someone.done, [len(run.only) for run in someone.ledger.runs()]) == (3, [3])
    # When it is given again with yes, then the canary is not run again, and the others are
    done = someone.reads("run", "--first", "3", "--yes")
    assert (someone.done, [len(run.only) for run in someone.ledger.runs()]) == (8, [3, 0])
    # And as data there are what was measured and the corrected plan
    assert (done["canary"]["done"], done["canary"]["nests"]) == (3, 6)
    assert done["plan"]["items"] == 5
    assert done["plan"]["pace"].startswith("6 nests of canary ")
    assert done["plan"]["hours"]["low"] > 0
    assert done["outcome"] == "completed"


def test_a_canary_whose_items_fail_ends_the_command(someone: Someone) -> None:
    # Given items whose script fails
    lines = [f"bad{number}|t|false|{number}" for number in range(4)]
    (someone.folder / "bad.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\n" + "\n".join(lines) + "\n")
    for number in range(8):
        someone.types("items", "cancel", f"i{number}", "--yes")
    file = someone.folder / "workflow.yaml"
    file.write_text(file.read_text() + "budgets: {tries: 1, retry_delay_seconds: 0}\n")
    # When a canary of two runs
    told = someone.types("run", "workflow.yaml", "--sheet", "bad.txt", "--first", "2", "--yes", code=7)
    # Then the others are left alone, and it says where to look
    assert "0 done, 2 failed" in told.stderr
    assert told.stderr.rstrip().endswith("next: pyanamo items list --state failed")
    counts = someone.ledger.counts()
    assert (counts.failed, counts.todo) == (2, 2)


def test_what_the_others_would_cost_more_than_is_left_is_not_begun(someone: Someone) -> None:
    # Given prices of a dollar a second, and a limit that a canary fits into and the others do not
    told = someone.types("run", "--first", "2", "--yes", "--prices", "dear.yaml", "--max-dollars", "20", code=5)
    # Then the canary is done and the others were not begun, though --yes was given
    assert "2 done, 0 failed" in told.stderr
    assert re.search(r"The items that are left would cost \$[\d,–.]+, more than the \$", told.stderr)
    assert someone.done == 2


def test_a_run_that_reaches_its_dollars_is_stopped_and_says_so(someone: Someone) -> None:
    lines = [f"long{number}|t|sleep|1.5" for number in range(12)]
    (someone.folder / "long.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\n" + "\n".join(lines) + "\n")
    words = ("run", "workflow.yaml", "--sheet", "long.txt", "--prices", "dear.yaml", "--max-dollars", "10", "--yes")
    done = someone.reads(*words, code=7)
    assert done["outcome"] == "stopped"
    assert done["reason"].startswith("max_dollars $10.00: spent ≤ $")
    assert someone.ledger.counts().todo > 0
    told = someone.types("runs", "show")
    assert "$10.00 of machines" in told.stdout


def test_a_canary_that_is_broken_off_is_carried_on(someone: Someone) -> None:
    import subprocess
    import sys

    from driver_support import wait_for

    # Given a canary of slow items, whose command is killed while it runs
    lines = [f"slow{number}|t|sleep|4" for number in range(3)]
    (someone.folder / "slow.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\n" + "\n".join(lines) + "\n")
    for number in range(8):
        someone.types("items", "cancel", f"i{number}", "--yes")
    someone.types("sheet", "import", "slow.txt")
    words = [sys.executable, "-m", "pyanamo", "run", "--first", "1", "--yes"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: someone.ledger.counts().locked)
        process.send_signal(signal.SIGKILL)
    # When the same is given again
    someone.types("run", "--first", "1", "--yes")
    # Then there was one canary, of one item, and all is done
    assert [len(run.only) for run in someone.ledger.runs()] == [1, 0]
    assert len(list(someone.ledger.items(State.DONE))) == 3


def test_a_live_run_that_is_carried_on_is_not_asked_for(someone: Someone) -> None:
    begun = someone.reads("run", "--detach", "--yes")
    run_id = begun["run"]["run_id"]
    someone.types("run", "--run-id", run_id)
    assert someone.done == 8
