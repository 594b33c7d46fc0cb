"""S3 away, hooks that hang: what a pilot waits for, what it gives up, and what it says."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from pilot_support import World, eventually, make_workflow

import pyanamo_core.pilot.desk as desk_module
import pyanamo_core.pilot.furnish as furnish_module
import pyanamo_core.pilot.patience as patience_module
from pyanamo_core.model import Cause, Mode, State


class Store:
    """An S3 and a CloudWatch in memory that are away until they come back."""

    def __init__(self) -> None:
        self.away = True
        self.objects: dict[str, int] = {}
        self.asked = 0

    def client(self, _service: str, _region: str | None = None) -> Any:
        return self

    def _answer(self) -> None:
        self.asked += 1
        if self.away:
            raise EndpointConnectionError(endpoint_url="https://s3.test")

    def head_object(self, **told: Any) -> dict[str, Any]:
        self._answer()
        return {"ContentLength": self.objects[f"{told['Bucket']}/{told['Key']}"]}

    def put_object(self, **told: Any) -> None:
        self._answer()
        self.objects[f"{told['Bucket']}/{told['Key']}"] = len(told["Body"])

    def upload_fileobj(self, file: Any, bucket: str, key: str, **_: Any) -> None:
        self._answer()
        self.objects[f"{bucket}/{key}"] = len(file.read())


OUTPUT = {"outputs": [{"uri": "s3://results/x", "bytes": 3}]}


@pytest.fixture
def store() -> Store:
    """It holds the output that tasks tell of."""
    store = Store()
    store.objects["results/x"] = 3
    return store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Patience with S3 of so many seconds, and short pauses."""
    monkeypatch.setattr(patience_module, "PAUSE_SECONDS", (0.05, 0.1))

    def seconds(patience: float) -> None:
        monkeypatch.setattr(furnish_module, "S3_SECONDS", patience)
        monkeypatch.setattr(desk_module, "S3_SECONDS", patience)
        monkeypatch.setattr(desk_module, "LOG_SECONDS", patience)

    seconds(60.0)
    return seconds


def a_world(folder: Path, store: Store, script: str, **workflow: Any) -> World:
    """One item with two nests: the script's result, then 2,000 tag lines and a log for S3."""
    world = World(folder, make_workflow(logs="s3", **workflow))
    world.clients = store
    result = folder / "result.json"
    result.write_text(json.dumps(OUTPUT))
    world.shell("a", script.format(result=result), "1", "2")
    return world


CHECKED = "cp {result} $PYANAMO_RESULT; echo done"
BULKY = 'for n in $(seq 2000); do printf "PyAnamo:\\\\t%s a line of some length\\\\n" $n; done'


@pytest.mark.parametrize("script", [CHECKED, BULKY], ids=["outputs to check", "results to store"])
def test_an_s3_that_is_away_for_a_while_costs_nothing(
    tmp_path: Path, store: Store, quick: Callable[[float], None], script: str
) -> None:
    # Given an S3 that is away while outputs are checked, results stored, logs uploaded
    world = a_world(tmp_path, store, script)

    def back() -> None:
        if eventually(lambda: store.asked >= 8):
            store.away = False

    threading.Thread(target=back, daemon=True).start()

    # When a pilot works through that
    code, pilot = world.work()

    # Then all is done at the first try, with everything that belongs to it
    item = world.ledger.item("a")
    assert (code, item.state, item.tries, item.message) == (0, State.DONE, 1, "")
    assert sum(key.endswith("log.gz") for key in store.objects) == 2
    nests = world.ledger.nests(item)
    if script == BULKY:
        assert [(nest.tag_count, bool(nest.overflow)) for nest in nests.values()] == [(2000, True)] * 2
    assert pilot.record.nests_done == 2


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (CHECKED, "its outputs could not be checked: S3 did not answer for"),
        (BULKY, "its results could not be stored: S3 did not answer for"),
    ],
    ids=["outputs to check", "results to store"],
)
def test_an_s3_that_stays_away_is_a_task_error_that_says_so(
    tmp_path: Path, store: Store, quick: Callable[[float], None], script: str, told: str
) -> None:
    # Given an S3 that never comes back
    quick(0.5)
    world = a_world(tmp_path, store, script, budgets__tries=2)

    # When a pilot works; its logs go nowhere either
    code, _ = world.work()

    # Then the item has failed after its tries, and says why; nothing pretends to be done
    item = world.ledger.item("a")
    assert (code, item.state, item.cause) == (0, State.FAILED, Cause.TASK_ERROR)
    assert told in item.message
    assert "Could not connect" in item.message
    assert [attempt.cause for attempt in world.ledger.attempts("a")] == [Cause.TASK_ERROR] * 2
    assert {nest.status for nest in world.ledger.nests(item).values()} == {"failed"}

    # And when S3 is back, a retry needs nothing else
    store.away = False
    world.ledger.retry(item)
    assert world.work()[0] == 0
    assert world.ledger.item("a").state is State.DONE


def test_a_nest_that_failed_keeps_its_reason_when_its_results_cannot_be_stored_either(
    tmp_path: Path, store: Store, quick: Callable[[float], None]
) -> None:
    # Given a task that tells a lot, then fails, and an S3 that never comes back
    quick(0.5)
    world = a_world(tmp_path, store, BULKY + "; exit 65")

    world.work()

    # Then the item says what was wrong with the task
    item = world.ledger.item("a")
    assert (item.state, item.cause) == (State.FAILED, Cause.PERMANENT)
    assert "exit code 65" in item.message


@pytest.mark.parametrize("script", [CHECKED, BULKY], ids=["outputs to check", "results to store"])
def test_a_term_while_s3_is_away_hands_back_at_once(
    tmp_path: Path, store: Store, quick: Callable[[float], None], script: str
) -> None:
    # Given a pilot that waits for S3
    world = a_world(tmp_path, store, script)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def term() -> None:
        if eventually(lambda: store.asked >= 4):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=term, daemon=True).start()

    # When it is told to end
    pilot = world.pilot()
    pilot.install_signals()
    pilot.prepare()
    code = pilot.work()
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)

    # Then the item is free, and its try given back
    item = world.ledger.item("a")
    assert (code, item.state, item.tries) == (75, State.TODO, 0)
    assert "leases bring them back" not in pilot.record.leaving


HANGING = """
import threading
never = threading.Event()
def check(call, outputs):
    if call["value"] == "1":
        never.wait()
"""


def hooked(folder: Path, name: str, **workflow: Any) -> World:
    """A world whose verify hook hangs for the first of two nests."""
    scripts = folder / "scripts"
    scripts.mkdir()
    (scripts / f"{name}.py").write_text(HANGING)
    return World(folder, make_workflow(scripts=str(scripts), verify=f"{name}:check", **workflow))


def test_a_hook_that_hangs_ends_at_the_nests_deadline_and_gives_its_slot_back(tmp_path: Path) -> None:
    # Given one slot, and a hook that never answers for the first nest
    world = hooked(tmp_path, "outages_hook_hangs", nests=1, nest_time_seconds=1.0, budgets__tries=1)
    world.add("a", "true", "1", "2")

    # When a pilot works
    code, _ = world.work()

    # Then that nest has timed out, and the other one is done
    item = world.ledger.item("a")
    nests = world.ledger.nests(item)
    assert code == 0
    assert (item.state, item.cause) == (State.FAILED, Cause.TIMED_OUT)
    assert "the verify hook did not answer within 1 s" in item.message
    assert [str(nests[index].status) for index in (0, 1)] == ["failed", "done"]


def test_a_drain_does_not_wait_for_a_hook_that_hangs(tmp_path: Path) -> None:
    # Given a pilot whose hook hangs
    world = hooked(tmp_path, "outages_hook_drained", nests=1)
    world.begin_run()
    world.shell("a", f"touch {tmp_path}/ran", "1")
    working = world.begin_work("r1")
    assert eventually((tmp_path / "ran").exists)

    # When the run is drained
    world.ledger.set_mode("r1", Mode.DRAIN, hand_back=True)

    # Then the nest is not recorded, and the item is free
    assert working.leaves() == 0
    item = world.ledger.item("a")
    assert (item.state, item.tries, item.interruptions) == (State.TODO, 0, 0)
    assert world.ledger.nests(item) == {}
