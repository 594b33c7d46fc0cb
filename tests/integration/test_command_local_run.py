"""The commands as a user types them, against the local cloud: from `init` to results, and everything that goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from pyanamo.main import app

if TYPE_CHECKING:
    from pyanamo_core.local import LocalCloud

# Where the tests run in the background of a shell, Ctrl-C is ignored, and children inherit that.
INTERRUPTIBLE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("pyanamo", run_name="__main__", alter_sys=True)
"""
SLOW = "itemID|TaskID|TaskScript|TaskArgs\nslow|sleep|sleep|30,31\n"


class User:
    """Somebody in a folder with a shell. Commands run in this process, as starting one for each would take most of the time."""

    def __init__(self, folder: Path, environment: dict[str, str], patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = patch
        patch.chdir(folder)
        for name, value in (environment | {"PREFECT_HOME": str(folder / "no-prefect")}).items():
            patch.setenv(name, value)
        patch.delenv("PREFECT_API_URL", raising=False)

    def types(self, *words: str, exit_code: int = 0, **environment: str | None) -> Result:
        done = CliRunner().invoke(app, list(words), env=environment)
        assert done.exit_code == exit_code, f"{words}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def reads(self, *words: str) -> Any:
        return json.loads(self.types(*words, "--json").stdout)

    def starts(self, *words: str) -> subprocess.Popen[str]:
        """A process of its own: for what is interrupted, and for what ends its process."""
        return subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def user(local_cloud: LocalCloud, unique_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    """A user in the folder that `init` has made, its workflow renamed, with queue, definition and bucket made."""
    from pyanamo.commands.local import make_compute
    from pyanamo_core.workflow_file import read_workflow

    someone = User(tmp_path, local_cloud.environment(), monkeypatch)
    someone.types("init")
    file = tmp_path / "workflow.yaml"
    text = file.read_text().replace("Count", unique_name).replace("count-results", unique_name)
    file.write_text(text)
    make_compute(local_cloud, read_workflow(file))
    return someone


@pytest.fixture
def prepared(user: User) -> User:
    """The same, with the table made and the sheet imported."""
    user.types("workflow", "create")
    user.types("sheet", "import", "sheet.txt")
    return user


@pytest.fixture
def slow_run(prepared: User) -> Iterator[str]:
    """A run with an item that takes long; its id."""
    (prepared.folder / "slow.txt").write_text(SLOW)
    prepared.types("sheet", "import", "slow.txt")
    begun = prepared.reads("run", "--detach", "--yes")
    run_id = begun["run"]["run_id"]
    yield run_id
    prepared.types("runs", "cancel", run_id, "--yes")


def wait_for(user: User, item: str, state: str) -> None:
    give_up = time.monotonic() + 60
    while user.reads("items", "show", item)["item"]["state"] != state:
        assert time.monotonic() < give_up, f"{item} is not {state}"
        time.sleep(0.2)


def test_a_first_run_from_init_to_logs(user: User) -> None:
    # Given what init has written, when it is created, imported and run
    assert "made table" in user.types("workflow", "create").stdout
    assert "version 1" in user.types("workflow", "create").stdout
    assert "3 items: 3 new" in user.types("sheet", "import", "sheet.txt").stdout
    assert "3 already there" in user.types("sheet", "import", "sheet.txt").stdout
    done = user.types("run", "--yes")
    # Then all is done, and that Prefect had no part was said
    assert "completed" in done.stdout
    assert "running without it" in done.stderr
    assert done.stderr.rstrip().endswith("next: pyanamo results list")
    # And logs hold the numbers, from the row and from CloudWatch
    assert user.types("logs", "small", "5").stdout == "1\n2\n3\n4\n5\nPyAnamo:\tsum\t15\n"
    long = user.types("logs", "large", "2000").stdout.splitlines()
    assert long[:2000] == [str(number) for number in range(1, 2001)]
    # And the run and its pilots are in the list
    [run] = user.reads("runs", "list")
    assert run["outcome"] == "completed"
    assert len(user.reads("runs", "show")["pilots"]) >= 1
    assert user.types("runs", "show", run["run_id"][:8], "-q").stdout == "completed\n"


def test_one_command_does_it_all(user: User) -> None:
    # Given a workflow file and a sheet, when `run` gets both
    done = user.types("run", "workflow.yaml", "--sheet", "sheet.txt", "--pilots", "1", "--yes", "--json")
    # Then table, import and run are done
    told = json.loads(done.stdout)
    assert (told["outcome"], told["counts"]["done"]) == ("completed", 3)
    assert done.stderr == ""


def test_a_failed_nest_is_exit_code_7_and_leads_to_its_log_and_its_mending(prepared: User) -> None:
    # Given an item that gets a value its script refuses
    prepared.types("items", "extend", "named", "nonsense")
    # When it is run
    done = prepared.types("run", "--yes", exit_code=7)
    # Then the hints lead to the reason
    assert "next: pyanamo items list --state failed" in done.stderr
    assert "'nonsense' is no number" in prepared.types("items", "list", "--state", "failed").stdout
    assert prepared.types("logs", "named", "--failed").stdout == "count.sh: 'nonsense' is no number\n"
    assert "permanent" in prepared.types("status").stdout
    prepared.types("items", "retry", "named")
    assert prepared.reads("items", "show", "named")["item"]["state"] == "todo"


def test_ctrl_c_ends_the_watching_and_not_the_run(prepared: User) -> None:
    # Given a watched run with an item that takes long
    (prepared.folder / "slow.txt").write_text(SLOW)
    prepared.types("sheet", "import", "slow.txt")
    watching = prepared.starts("run", "--yes")
    wait_for(prepared, "slow", "locked")
    # When the user presses Ctrl-C
    watching.send_signal(signal.SIGINT)
    _, told = watching.communicate(timeout=60)
    # Then the command has ended with 130, says how to go on, and the run is live
    assert watching.returncode == 130
    assert "Traceback" not in told
    assert "pyanamo watch" in told
    [run] = prepared.reads("runs", "list")
    assert run["ended"] is None
    assert prepared.reads("items", "show", "slow")["item"]["state"] == "locked"
    # And cancelling it hands the item back
    assert "cancelled" in prepared.types("runs", "cancel", "--yes", "--reason", "enough").stdout
    assert prepared.reads("items", "show", "slow")["item"]["state"] == "todo"
    assert prepared.types("watch", exit_code=7).stdout.count("cancelled")


def test_a_live_run_is_shown_drained_and_watched_to_its_end(prepared: User, slow_run: str) -> None:
    # Given a detached run whose pilot works on a slow item
    wait_for(prepared, "slow", "locked")
    assert slow_run[:8] in prepared.types("status").stdout
    # Then what it holds cannot be reset, cancelling the item waits for its pilot, and recover finds nobody gone
    assert "is locked" in prepared.types("items", "reset", "slow", "--yes", exit_code=5).stderr
    assert "items taken back: 0" in prepared.types("recover").stdout
    assert "until its pilot's next beat" in prepared.types("items", "cancel", "slow", "--yes").stdout
    # And a drain is shown
    assert "drains" in prepared.types("runs", "drain").stdout
    assert prepared.reads("runs", "show")["run"]["mode"] == "drain"


def test_a_table_with_a_live_run_is_not_deleted(prepared: User, slow_run: str) -> None:
    # Given a live run, when the table is deleted, then that is refused and it is there
    assert slow_run in prepared.types("workflow", "delete", "--yes", exit_code=5).stderr
    prepared.types("status")


def test_a_workflow_is_listed_shown_and_deleted(prepared: User, unique_name: str) -> None:
    # Given a workflow in its table
    assert unique_name in prepared.types("workflow", "list", "-q").stdout.split()
    assert prepared.reads("workflow", "show")["workflow"]["queue"] == f"{unique_name}_Queue"
    # When it is changed and created again, then it has two versions
    file = prepared.folder / "workflow.yaml"
    file.write_text(file.read_text().replace("STEP: 1", "STEP: 2"))
    assert "version 2" in prepared.types("workflow", "create").stdout
    assert prepared.types("workflow", "show", "--versions", "-q").stdout.split() == ["1", "2"]
    # And it is deleted only when that is confirmed
    assert "--yes" in prepared.types("workflow", "delete", exit_code=5).stderr
    assert f"deleted table {unique_name}, 3 items" in prepared.types("workflow", "delete", "--yes").stdout
    assert "does not exist" in prepared.types("status", exit_code=4).stderr


def test_other_parameters_are_refused_where_nests_are_done_unless_these_are_done_again(prepared: User) -> None:
    # Given a table whose items are done, and a workflow file with another parameter
    prepared.types("run", "--yes")
    file = prepared.folder / "workflow.yaml"
    file.write_text(file.read_text().replace("STEP: 1", "STEP: 2"))
    # When it is created, also as a part of a run, then it is refused and the old version stays
    assert "--new-revision" in prepared.types("workflow", "create", exit_code=5).stderr
    prepared.types("run", "workflow.yaml", "--yes", exit_code=5)
    assert prepared.types("workflow", "show", "-q").stdout == "1\n"
    # When that is asked for, it shows how much is done again, and does nothing unconfirmed
    asked = prepared.types("workflow", "create", "--new-revision", exit_code=5).stderr
    assert "Do 6 done nests of 3 items again" in asked
    assert prepared.reads("status")["counts"]["done"] == 3
    assert "version 2" in prepared.types("workflow", "create", "--new-revision", "--yes").stdout
    # Then they are to do, and run with the new parameter
    assert prepared.reads("status")["counts"]["todo"] == 3
    prepared.types("run", "--yes")
    assert prepared.types("logs", "small", "5").stdout == "1\n3\n5\nPyAnamo:\tsum\t9\n"


def test_an_import_with_conflicts_is_exit_code_5_and_tells_them(prepared: User) -> None:
    # Given an imported sheet, when one with another script for an item is imported
    (prepared.folder / "other.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\nsmall|count|seq|3,5,8\n")
    done = prepared.types("sheet", "import", "other.txt", exit_code=5)
    # Then the conflict is told with its line, and --update edits the item
    assert "line 2: small" in done.stdout
    assert "1 edited" in prepared.types("sheet", "import", "other.txt", "--update").stdout


def test_a_faulty_sheet_imports_nothing(prepared: User) -> None:
    # Given a sheet with one good and one bad row, when it is imported, then nothing of it is
    (prepared.folder / "bad.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\ngood|t|seq|1\n|t|seq|1\n")
    assert "line 3: itemID is empty" in prepared.types("sheet", "import", "bad.txt", exit_code=3).stderr
    prepared.types("items", "show", "good", exit_code=4)
    assert prepared.types("run", "--sheet", "bad.txt", exit_code=3).stdout == ""


@pytest.mark.parametrize(
    ("field", "value", "code", "told"),
    [
        ("queue:", "queue: Nowhere", 4, "Batch has no job queue Nowhere"),
        ("job_definition:", "job_definition: Nothing", 4, "no active job definition Nothing"),
        ("  results:", "  results: s3://no-such-bucket-here/x", 4, "no-such-bucket-here"),
        ("pilots:", "pilots: many", 3, "`pilots` must be a whole number"),
    ],
)
def test_what_is_missing_is_named_and_no_table_is_made(
    user: User, unique_name: str, field: str, value: str, code: int, told: str
) -> None:
    # Given a workflow file that names what does not exist
    file = user.folder / "workflow.yaml"
    lines = [value if line.startswith(field) else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines) + "\n")
    # When it is created, then the message names it, and there is no table
    assert told in user.types("workflow", "create", exit_code=code).stderr
    assert unique_name not in user.types("workflow", "list", "-q").stdout.split()


def test_surroundings_that_are_broken_are_told_in_words(user: User) -> None:
    # Given no region, no credentials, nobody at the endpoint, expired keys, a table that is not there
    bare = {"AWS_REGION": None, "AWS_DEFAULT_REGION": None, "AWS_ENDPOINT_URL": None}
    empty = {"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_ENDPOINT_URL": ""}
    nobody = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_ENDPOINT_URL": None}
    # Then each is one message with the way out
    assert "No AWS region is set" in user.types("status", exit_code=6, **bare).stderr
    assert "No AWS region is set" in user.types("status", exit_code=6, **empty).stderr
    assert "AWS credentials are missing" in user.types("status", exit_code=6, **nobody).stderr
    down = user.types("status", "--endpoint-url", "http://127.0.0.1:9", exit_code=6).stderr
    assert "http://127.0.0.1:9" in down
    assert "pyanamo local up" in down
    assert "pyanamo workflow create" in user.types("status", exit_code=4).stderr


def test_expired_keys_are_told_in_words(user: User, misbehaving_cloud: LocalCloud) -> None:
    # Given a cloud that answers with AWS's own words for an expired token
    user.types("workflow", "create")
    misbehaving_cloud.answer("dynamodb", "", "expired_token", times=-1)
    # When the status is asked for, then the message says what to renew
    assert "no longer valid" in user.types("status", exit_code=6).stderr


def test_a_sheet_is_made_of_lists_and_of_tables(user: User) -> None:
    # Given a table of samples and a file of loci
    (user.folder / "samples.tsv").write_text(
        "sample\turi\nNA12878\ts3://b/NA12878.cram\nNA12891\ts3://b/NA12891.cram\n"
    )
    (user.folder / "loci.txt").write_text("chr21:1-100\nchr21:101-200\n")
    # When a sheet is made of them
    made = user.types(
        "sheet", "make", "--samples", "samples.tsv", "--loci", "loci.txt",
        "--script", "call.sh {sample} {uri} ${ref}", "--out", "calls.txt",
    )  # fmt: skip
    # Then each item has its own script and the same nests
    assert "nests       4" in made.stdout
    assert (user.folder / "calls.txt").read_text().splitlines() == [
        "itemID|TaskID|TaskScript|TaskArgs",
        "NA12878|call|call.sh NA12878 s3://b/NA12878.cram ${ref}|chr21:1-100,chr21:101-200",
        "NA12891|call|call.sh NA12891 s3://b/NA12891.cram ${ref}|chr21:1-100,chr21:101-200",
    ]
    # And it is not replaced unasked, an unknown column and a missing file are named
    words = ("sheet", "make", "--items", "A,B", "--script", "seq {size}", "--args", "1,2")
    assert "exists" in user.types(*words, "--out", "calls.txt", exit_code=5).stderr
    assert "there is no column 'size'" in user.types(*words, "--out", "new.txt", exit_code=3).stderr
    lost = user.types("sheet", "make", "--items", "none.txt", "--script", "seq", "--out", "new.txt", exit_code=3)
    assert "There is no file none.txt" in lost.stderr
    assert not (user.folder / "new.txt").exists()
    # And on standard output it is the sheet and nothing else
    out = user.types("sheet", "make", "--items", "A", "--script", "seq", "--args", "8,2,1", "--out", "-")
    assert out.stdout == "itemID|TaskID|TaskScript|TaskArgs\nA|seq|seq|8,2,1\n"


def test_settings_say_where_each_value_comes_from(prepared: User, unique_name: str) -> None:
    # Given a table named by the folder, nests by the workflow, items by the environment
    shown = prepared.types("settings", "--json", PYANAMO_ITEMS="7").stdout
    found = {one["name"]: (one["value"], one["source"]) for one in json.loads(shown)}
    # Then each says so
    assert found["table"] == (unique_name, "file workflow.yaml")
    assert found["items"] == ("7", "environment PYANAMO_ITEMS")
    assert found["nests"] == ("2", "workflow version 1")
    assert found["region"] == ("us-east-1", "environment AWS_REGION")


def test_a_pilot_by_hand_works_the_table_off(prepared: User, unique_name: str) -> None:
    # Given items to do and no run
    pilot = prepared.starts("pilot", "--items", "2")
    told = pilot.communicate(timeout=120)
    assert pilot.returncode == 0, told
    # Then a free pilot has done them all
    assert prepared.reads("status")["counts"]["done"] == 3
    # And one for a table without a workflow is refused, and runs nothing
    pilot = prepared.starts("pilot", "--table", f"{unique_name}-none")
    _, why = pilot.communicate(timeout=120)
    assert pilot.returncode == 78
    assert "does not exist" in why


def test_the_local_cloud_is_started_asked_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given no local cloud in this folder
    alone = User(tmp_path, {"XDG_STATE_HOME": str(tmp_path / "state"), "AWS_ENDPOINT_URL": ""}, monkeypatch)
    assert "pyanamo local up" in alone.types("local", "status", exit_code=4).stderr
    assert "pyanamo local up" in alone.types("local", "env", exit_code=4).stderr
    alone.types("init")
    try:
        # When it is started for a workflow file
        up = alone.reads("local", "up", "workflow.yaml")
        # Then queue, definition and bucket are made, and the shell lines lead there
        assert (up["queue"], up["buckets"]) == ("Count_Queue", ["count-results"])
        assert f"export AWS_ENDPOINT_URL={up['endpoint']}" in alone.types("local", "env").stdout
        assert alone.reads("local", "status")["pid"] == up["pid"]
    finally:
        stopped = alone.types("local", "down")
    assert stopped.stdout == "stopped the local cloud\n"
    assert alone.types("local", "down").stdout == "no local cloud was running\n"
