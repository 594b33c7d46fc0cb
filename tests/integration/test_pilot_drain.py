"""What a pilot does when it is told to end: by a signal, by a Spot notice, at any moment."""

from __future__ import annotations

import http.server
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pilot_support import World, eventually, make_workflow

import pyanamo_core.pilot.furnish as furnish_module
import pyanamo_core.pilot.loop as loop_module
import pyanamo_core.pilot.nest as nest_module
import pyanamo_core.pilot.pilot as pilot_module
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Claim, Mode, Nest, Recorded, State
from pyanamo_core.pilot.drain import Metadata, SpotWatch, metadata_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two nests at a time."""
    return World(tmp_path, make_workflow())


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Whatever handlers a pilot puts in are gone after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def when(condition: Callable[[], Any], then: Callable[[], Any]) -> threading.Thread:
    """Do something, in a thread, as soon as something is so."""

    def watch() -> None:
        if eventually(condition):
            then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def term(number: int = signal.SIGTERM) -> Callable[[], None]:
    """Send this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def work(world: World, run_id: str = "", **options: Any) -> tuple[int, str]:
    """A pilot in the main thread, with its handlers; exit code and why it left."""
    pilot = world.pilot(run_id, **options)
    pilot.install_signals()
    pilot.prepare()
    return pilot.work(), pilot.record.leaving


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_mid_nest_hands_back_and_exits_75(world: World, number: int) -> None:
    # Given a pilot in the middle of two nests
    world.shell("a", f"touch {world.folder}/began$1; sleep 300", "1", "2", "3")
    when((world.folder / "began2").exists, term(number))

    # When it is told to end
    code, leaving = work(world)

    # Then the item is free at once, the try is given back, and the drain counts as an interruption
    item = world.ledger.item("a")
    assert code == 75
    assert leaving == f"drained: signal {int(number)}"
    assert (item.state, item.tries, item.interruptions) == (State.TODO, 0, 1)
    assert [attempt.cause for attempt in world.ledger.attempts("a")] == [Cause.DRAINED]
    assert world.ledger.nests(item) == {}


def drained(world: World, began: Path, mark: Callable[[], Any] = lambda: True) -> int:
    """A pilot that is told to end when it is in mid-nest; its exit code."""
    began.unlink(missing_ok=True)
    watcher = when(lambda: began.exists() and mark(), term())
    code, _ = work(world)
    watcher.join()
    return code


def test_ten_drains_in_a_row_without_progress_fail_the_item_and_say_what_to_do(world: World) -> None:
    # Given an item whose nest never ends before its pilot must
    world.shell("a", f"touch {world.folder}/began; sleep 300", "1")

    # When ten pilots in a row are drained in its middle
    codes, states = [], []
    for _ in range(10):
        codes.append(drained(world, world.folder / "began"))
        states.append(world.ledger.item("a").state)

    # Then the tenth fails it, without a try having been used, and tells the way out
    item = world.ledger.item("a")
    assert codes == [75] * 10
    assert states == [State.TODO] * 9 + [State.FAILED]
    assert (item.tries, item.interruptions, item.cause) == (0, 10, Cause.DRAINED)
    assert item.message.startswith(
        "interrupted 10 times in a row without progress: needs shorter nests or longer pilots, then a retry"
    )
    assert [attempt.cause for attempt in world.ledger.attempts("a")] == [Cause.DRAINED] * 10

    # And a retry begins to count anew
    assert world.ledger.retry(item).interruptions == 0


def test_ten_drains_in_a_row_with_progress_never_fail_the_item(world: World) -> None:
    # Given an item of which each pilot does one nest before it must end
    script = f"if mkdir {world.folder}/$PYANAMO_ATTEMPT; then exit; else touch {world.folder}/began; sleep 300; fi"
    world.shell("a", script, *(str(nest) for nest in range(11)))

    def recorded() -> int:
        return len(world.ledger.nests(world.ledger.item("a")))

    # When ten pilots in a row are drained, each after one more nest
    counts = []
    for number in range(10):
        assert drained(world, world.folder / "began", lambda n=number: recorded() > n) == 75
        counts.append(world.ledger.item("a").interruptions)

    # Then that never adds up, and the eleventh pilot finishes
    assert counts == [1] * 10
    assert world.work()[0] == 0
    item = world.ledger.item("a")
    assert (item.state, item.tries, sorted(world.ledger.nests(item))) == (State.DONE, 1, list(range(11)))


def test_nests_that_were_recorded_stay_and_the_count_begins_again(world: World) -> None:
    # Given an item whose first nest is quick
    world.shell("a", f"[ $1 = 1 ] || {{ touch {world.folder}/began; sleep 300; }}", "1", "2")
    when(lambda: (world.folder / "began").exists() and world.ledger.nests(world.ledger.item("a")), term())

    code, _ = work(world)

    item = world.ledger.item("a")
    assert code == 75
    assert (item.state, item.interruptions, list(world.ledger.nests(item))) == (State.TODO, 1, [0])


def test_a_task_that_does_not_listen_is_killed_and_the_item_handed_back(world: World) -> None:
    world.shell("a", f'trap "" TERM; touch {world.folder}/began; while true; do sleep 1; done', "1")
    when((world.folder / "began").exists, term())

    code, _ = work(world)

    assert code == 75
    assert world.ledger.item("a").state is State.TODO


@pytest.mark.parametrize(
    ("mode", "cause", "leaving"), [(Mode.CANCEL, Cause.CANCELLED, "cancelled"), (Mode.DRAIN, Cause.DRAINED, "drained")]
)
def test_a_term_of_a_run_that_ends_is_no_interruption_and_no_retry(
    tmp_path: Path, mode: Mode, cause: Cause, leaving: str
) -> None:
    # Given a pilot that does not beat before the TERM comes
    world = World(tmp_path, make_workflow(timing__lease_seconds=600.0, timing__beat_seconds=200.0))
    world.begin_run()
    world.shell("a", f"touch {tmp_path}/began; sleep 300", "1")

    def end() -> None:
        world.ledger.set_mode("r1", mode, "enough")
        term()()

    when((tmp_path / "began").exists, end)

    # When the run's mode is set and TERM follows
    code, told = work(world, "r1")

    # Then Batch shall not start it again
    item = world.ledger.item("a")
    assert (code, told) == (0, f"{leaving}: enough")
    assert (item.state, item.tries, item.interruptions) == (State.TODO, 0, 0)
    assert [attempt.cause for attempt in world.ledger.attempts("a")] == [cause]


def test_a_term_while_staging_ends_the_pilot_before_any_claim(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given staging that takes for ever
    staging, never = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        staging.set()
        never.wait(300)

    monkeypatch.setattr(furnish_module, "stage", slow)
    world.add("a", "seq", "1")
    when(staging.is_set, term())

    code, leaving = work(world)

    assert (code, leaving) == (75, "drained: signal 15 before the first claim")
    assert world.ledger.item("a").fence == 0
    never.set()


def test_a_term_between_prepare_and_work_hands_back(world: World) -> None:
    # Given a pilot that has claimed and is about to be registered somewhere
    world.add("a", "seq", "1")
    pilot = world.pilot()
    pilot.install_signals()
    pilot.prepare()
    assert world.ledger.item("a").state is State.LOCKED

    # When TERM comes before it works
    term()()
    code = pilot.work()

    # Then no nest is begun, and that is no interruption
    item = world.ledger.item("a")
    assert code == 75
    assert (item.state, item.interruptions) == (State.TODO, 0)
    assert world.ledger.nests(item) == {}


class SlowRecord(MemoryLedger):
    """Holds a nest's result until it is let go."""

    recording = threading.Event()
    go = threading.Event()

    def record_nest(self, claim: Claim, nest: Nest) -> Recorded:
        self.recording.set()
        self.go.wait(300)
        return super().record_nest(claim, nest)


@pytest.mark.parametrize(("values", "state"), [(("1",), State.DONE), (("1", "2"), State.TODO)])
def test_a_term_between_nests_waits_for_the_answer_to_a_result(
    tmp_path: Path, values: tuple[str, ...], state: State
) -> None:
    # Given one slot, and a result that is on its way to the ledger
    world = World(tmp_path, make_workflow(nests=1))
    SlowRecord.recording, SlowRecord.go = threading.Event(), threading.Event()
    world.ledger = SlowRecord(rules=world.workflow.rules)
    world.ledger.add_workflow(world.workflow)
    world.shell("a", "[ $1 = 1 ] || sleep 300", *values)

    def end() -> None:
        term()()
        threading.Timer(0.5, SlowRecord.go.set).start()

    when(SlowRecord.recording.is_set, end)

    # When TERM comes
    code, _ = work(world)

    # Then the result counts: an item that is complete is done, another is handed back with it
    item = world.ledger.item("a")
    assert code == 75
    assert item.state is state
    assert list(world.ledger.nests(item)) == [0]


class SlowLogs:
    """A CloudWatch that never answers."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.go = threading.Event()

    def client(self, _service: str, _region: str | None = None) -> Any:
        return self

    def create_log_stream(self, **_: Any) -> None: ...

    def put_log_events(self, **_: Any) -> dict[str, Any]:
        self.called.set()
        self.go.wait(300)
        return {}


def test_a_term_in_the_upload_of_logs_gives_the_logs_up_not_the_item(world: World) -> None:
    # Given an item that is complete but for its logs
    logs = SlowLogs()
    world.clients = logs
    world.shell("a", "seq 1000", "1")
    when(logs.called.is_set, term())

    # When TERM comes
    code, _ = work(world)

    # Then it is done, and its row says what is missing
    item = world.ledger.item("a")
    assert code == 75
    assert item.state is State.DONE
    assert "log of nest 0 given up" in item.message
    logs.go.set()


def test_a_term_of_an_idle_pilot_ends_it_at_once(tmp_path: Path) -> None:
    # Given a pilot that stays because an item waits for an hour
    world = World(tmp_path, make_workflow(budgets__retry_delay_seconds=3600.0))
    world.shell("a", "exit 1", "1")
    when(lambda: world.ledger.item("a").state is State.WAITING, term())

    assert work(world) == (75, "drained: signal 15")


@pytest.mark.parametrize(
    ("order", "cause", "state", "leaving"),
    [
        ("items cancel", Cause.CANCELLED, State.CANCELLED, "empty"),
        ("runs cancel", Cause.CANCELLED, State.TODO, "cancelled: enough"),
        ("runs drain", Cause.DRAINED, State.TODO, "drained: enough"),
    ],
)
def test_a_running_nest_is_ended_by_the_beat_that_hears_of_a_cancel_or_a_drain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, cause: Cause, state: State, leaving: str
) -> None:
    # Given a pilot that beats every half second, in a nest that takes for ever and tells who ends it
    world = World(tmp_path, make_workflow())
    world.begin_run()
    script = f'trap "echo ended by TERM >> {tmp_path}/ended; exit 143" TERM; touch {tmp_path}/began; sleep 300 & wait'
    world.shell("a", script, "1")
    beats: list[str] = []
    beat = world.ledger.beat

    def counted(*told: Any, **more: Any) -> Any:
        beats.append("beat" if world.ledger.item("a").cancelled or world.ledger.run("r1").mode is not Mode.RUN else "")
        return beat(*told, **more)

    world.ledger.beat = counted  # pyright: ignore[reportAttributeAccessIssue]
    heard: list[int] = []
    stop = nest_module.Task.stop

    def marked(task: nest_module.Task, *told: Any, **more: Any) -> None:
        heard.append(beats.count("beat"))
        stop(task, *told, **more)

    monkeypatch.setattr(nest_module.Task, "stop", marked)

    def told() -> None:
        if order == "items cancel":
            world.ledger.cancel(world.ledger.item("a"))
        elif order == "runs cancel":
            world.ledger.set_mode("r1", Mode.CANCEL, "enough")
        else:
            world.ledger.set_mode("r1", Mode.DRAIN, "enough", hand_back=True)

    when((tmp_path / "began").exists, told)

    # When a user cancels or drains, and no signal comes
    code, why = work(world, "r1")

    # Then the first beat after that has ended the nest, by us and with the right cause, and nothing counts
    item = world.ledger.item("a")
    assert (code, why) == (0, leaving)
    assert (tmp_path / "ended").read_text() == "ended by TERM\n"
    assert heard[0] <= 2, "the beat that hears of it, and one that may begin before the pilot acts"
    assert [attempt.cause for attempt in world.ledger.attempts("a")] == [cause]
    assert (item.state, item.tries, item.interruptions) == (state, 0, 0)


def test_a_wall_time_given_to_the_pilot_hands_back_what_runs_before_its_end(world: World) -> None:
    # Given a pilot with three seconds of its own, although the workflow gives none, in a nest that takes for ever
    world.shell("a", f"touch {world.folder}/began; sleep 300", "1", "2")
    pilot = world.pilot(wall_time_seconds=3.0)
    began = time.monotonic()

    # When its time is nearly over
    pilot.prepare()
    code = pilot.work()

    # Then it has handed back by itself, as an interruption, and its row tells of the override
    item = world.ledger.item("a")
    assert (code, pilot.record.leaving) == (75, "wall_time")
    assert (item.state, item.tries, item.interruptions) == (State.TODO, 0, 1)
    assert [attempt.cause for attempt in world.ledger.attempts("a")] == [Cause.WALL_TIME]
    assert pilot.record.overrides == {"PYANAMO_WALL_TIME": "3"}
    print(f"left {time.monotonic() - began:.1f} s after its start, wall time 3 s")


def test_a_pilot_that_fails_itself_hands_back_what_it_holds(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a pilot in mid-nest, and a fault in its own loop
    world.shell("a", f"touch {world.folder}/began; sleep 300", "1")

    def broken(*_: Any) -> None:
        if (world.folder / "began").exists():
            raise ZeroDivisionError("a bug")

    monkeypatch.setattr(loop_module.Loop, "on_beat", broken)

    # When that happens
    code, leaving = work(world)

    # Then the item is free at once, the log says where it failed, and Batch does not start it again and again
    item = world.ledger.item("a")
    assert (code, leaving) == (1, "the pilot failed: ZeroDivisionError: a bug")
    assert (item.state, item.tries, item.interruptions) == (State.TODO, 0, 1)
    assert "in broken" in caplog.text


class Instance(http.server.BaseHTTPRequestHandler):
    """A metadata service, version 2, of a Spot instance."""

    notice = ""

    def do_PUT(self) -> None:
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200, "token")

    def do_GET(self) -> None:
        told = {
            "/latest/meta-data/instance-id": "i-123",
            "/latest/meta-data/instance-type": "c7i.large",
            "/latest/meta-data/instance-life-cycle": "spot",
            "/latest/meta-data/spot/instance-action": type(self).notice,
        }.get(self.path, "")
        if self.headers["X-aws-ec2-metadata-token"] != "token":
            self._answer(401, "")
        else:
            self._answer(200 if told else 404, told)

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *_: Any) -> None: ...


@pytest.fixture
def instance() -> Iterator[str]:
    """The address of a metadata service; `Instance.notice` is what it says of Spot."""
    Instance.notice = ""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Instance)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_spot_notice_hands_back_and_waits_for_the_hosts_end(
    world: World, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a pilot on a Spot instance, in mid-nest
    monkeypatch.setattr("pyanamo_core.pilot.drain.SPOT_POLL_SECONDS", 0.05)
    world.shell("a", f"touch {world.folder}/began; sleep 300", "1")
    world.add("b", "seq", "1")

    def notice() -> None:
        Instance.notice = '{"action": "terminate", "time": "2030-01-01T00:00:00Z"}'

    when((world.folder / "began").exists, notice)
    # The host's end, as Batch tells it, after the pilot has handed back
    when(lambda: world.ledger.item("a").interruptions, lambda: threading.Timer(0.5, term()).start())

    # When the instance is to be taken away
    code, leaving = work(world, environ={"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance})

    # Then the item is free long before, and nothing else was claimed
    item = world.ledger.item("a")
    assert code == 75
    assert leaving == "spot: terminate at 2030-01-01T00:00:00Z"
    assert (item.state, item.tries, item.interruptions) == (State.TODO, 0, 1)
    attempt = world.ledger.attempts("a")[0]
    assert (attempt.cause, attempt.host, attempt.instance_type, attempt.lifecycle) == (
        Cause.SPOT,
        "i-123",
        "c7i.large",
        "spot",
    )


@pytest.mark.parametrize(("mode", "told"), [(Mode.RUN, (75, "spot")), (Mode.CANCEL, (0, "cancelled"))])
def test_a_notice_that_is_there_at_start_lets_a_pilot_claim_nothing(
    tmp_path: Path, instance: str, monkeypatch: pytest.MonkeyPatch, mode: Mode, told: tuple[int, str]
) -> None:
    # Given an instance that will be taken away, and an item to do
    world = World(tmp_path, make_workflow())
    world.begin_run()
    world.add("a", "seq", "1")
    Instance.notice = '{"action": "terminate", "time": "2030-01-01T00:00:00Z"}'
    if mode is not Mode.RUN:
        world.ledger.set_mode("r1", mode)

    staged: list[str] = []
    monkeypatch.setattr(furnish_module, "stage", lambda *_, **__: staged.append("staged"))

    # When a pilot starts on it, and the host's end comes while it waits for that
    when(lambda: any(each.ended for each in world.ledger.pilots()), term())
    code, leaving = work(world, "r1", environ={"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance})

    # Then it has staged and claimed nothing, and Batch starts it again elsewhere, unless the run has ended
    assert (code, leaving.partition(":")[0]) == told
    assert staged == []
    assert world.ledger.item("a").fence == 0


def test_a_notice_that_comes_while_staging_lets_a_pilot_claim_nothing(
    world: World, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given staging that takes for ever
    monkeypatch.setattr("pyanamo_core.pilot.drain.SPOT_POLL_SECONDS", 0.05)
    staging, never = threading.Event(), threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        staging.set()
        never.wait(300)

    monkeypatch.setattr(furnish_module, "stage", slow)
    world.add("a", "seq", "1")

    def notice() -> None:
        Instance.notice = '{"action": "stop", "time": "2030-01-01T00:00:00Z"}'

    # When the notice comes in the middle of it
    when(staging.is_set, notice)
    when(lambda: any(each.ended for each in world.ledger.pilots()), term())
    code, leaving = work(world, environ={"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance})

    # Then nothing is claimed
    assert (code, leaving) == (75, "spot: stop at 2030-01-01T00:00:00Z")
    assert world.ledger.item("a").fence == 0
    never.set()


def test_a_term_that_comes_with_a_notice_is_the_hosts_end_and_not_waited_for(
    world: World, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a pilot in mid-nest that has heard of its instance's end and whose children do not listen
    monkeypatch.setattr("pyanamo_core.pilot.drain.SPOT_POLL_SECONDS", 0.05)
    world.shell("a", f'trap "" TERM; touch {world.folder}/began; while true; do sleep 1; done', "1")

    def notice() -> None:
        monkeypatch.setattr(pilot_module.SystemClock, "sleep", waits)
        Instance.notice = '{"action": "terminate", "time": "2030-01-01T00:00:00Z"}'
        threading.Timer(0.5, term()).start()

    def waits(*_: Any) -> None:
        raise AssertionError("it waits for KILL, which would change its exit code")

    when((world.folder / "began").exists, notice)

    # When TERM comes while it still hands back; then it leaves as soon as that is done
    code, leaving = work(world, environ={"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance})

    assert (code, leaving) == (75, "spot: terminate at 2030-01-01T00:00:00Z")
    assert world.ledger.item("a").state is State.TODO


def test_a_token_that_has_run_out_is_renewed(instance: str) -> None:
    metadata = Metadata(instance)
    metadata._token = "old"

    assert metadata.get("instance-id") == "i-123"
    assert metadata.get("spot/instance-action") is None


def test_a_metadata_service_that_is_not_there_says_nothing() -> None:
    told: list[str] = []

    from pyanamo_core.clock import SystemClock

    assert not SpotWatch(Metadata("http://127.0.0.1:9"), SystemClock(), told.append).look()
    assert told == []


def test_only_containers_on_ec2_are_asked() -> None:
    assert metadata_of({}) is None
    assert metadata_of({"AWS_EXECUTION_ENV": "AWS_ECS_FARGATE"}) is None
    assert metadata_of({"AWS_EXECUTION_ENV": "AWS_ECS_EC2"}) is not None
    assert metadata_of({"AWS_EXECUTION_ENV": "AWS_ECS_EC2", "AWS_EC2_METADATA_DISABLED": "true"}) is None


class Silent(MemoryLedger):
    """A ledger that does not answer when items are handed back."""

    go = threading.Event()

    def hand_back(self, claim: Claim, cause: Cause, message: str = "", **told: Any) -> Any:
        self.go.wait(300)
        return super().hand_back(claim, cause, message, **told)


def test_a_ledger_that_does_not_answer_does_not_keep_the_pilot(world: World) -> None:
    # Given a pilot in mid-nest, and a ledger that falls silent
    Silent.go = threading.Event()
    world.ledger = Silent(rules=world.workflow.rules)
    world.ledger.add_workflow(world.workflow)
    world.shell("a", f"touch {world.folder}/began; sleep 300", "1")
    when((world.folder / "began").exists, term())

    # When TERM comes
    code, leaving = work(world)

    # Then it leaves all the same, and says that the lease has to bring the item back
    assert code == 75
    assert "leases bring them back" in leaving
    Silent.go.set()
