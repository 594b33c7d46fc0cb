"""Looking at items and moving them, as typed, over the ledger in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from pyanamo.context import Context, Opened
from pyanamo.main import app
from pyanamo_core.clock import FakeClock
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Claim, Definition, LogPointer, Nest, NestStatus, State
from pyanamo_core.workflow import Buckets, Workflow

WORKFLOW = Workflow(name="Count", queue="Q", job_definition="D", buckets=Buckets(results="s3://bucket/prefix"))


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> MemoryLedger:
    made = MemoryLedger(rules=WORKFLOW.rules, clock=FakeClock())
    monkeypatch.setattr(Context, "opened", property(lambda _: Opened(made, 1, WORKFLOW)))
    monkeypatch.setenv("PYANAMO_TABLE", "Count")
    return made


def typed(*words: str, answer: str | None = None) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words), input=answer)


def add(ledger: MemoryLedger, item_id: str, *values: str) -> None:
    ledger.import_item(item_id, "task", Definition(script="seq", arguments=values))


def claimed(ledger: MemoryLedger, item_id: str) -> Claim:
    claim = ledger.claim(item_id, "pilot-1", run_id="run-1")
    assert claim is not None
    return claim


def record(ledger: MemoryLedger, claim: Claim, index: int, status: NestStatus = NestStatus.DONE, **facts: Any) -> None:
    ledger.record_nest(
        claim,
        Nest(item_id=claim.item_id, epoch=claim.epoch, index=index, status=status, fence=claim.fence, **facts),
    )


def fail(ledger: MemoryLedger, item_id: str, message: str = "boom") -> None:
    claim = claimed(ledger, item_id)
    record(ledger, claim, 0)
    record(ledger, claim, 1, NestStatus.FAILED, exit_code=65, message=message, cause=Cause.PERMANENT, tail="oh dear\n")
    ledger.fail(claim, Cause.PERMANENT, f"nest 1: {message}", nests_done=1, nests_failed=1)


def test_items_list_shows_state_progress_and_reason(ledger: MemoryLedger) -> None:
    # Given an item to do and one that failed
    add(ledger, "A", "8", "2")
    add(ledger, "B", "8", "2")
    fail(ledger, "B")
    # When they are listed
    told = typed("items", "list")
    # Then both stand there, the reason with the failed one, and the hint leads to it
    lines = told.stdout.splitlines()
    assert any(line.split() == ["A", "todo", "0/2"] for line in lines)
    assert any("B" in line and "failed" in line and "nest 1: boom" in line for line in lines)
    assert told.stderr == "next: pyanamo items show B\n"


def test_items_list_as_json_is_all_of_each_row_and_quiet_is_ids_only(ledger: MemoryLedger) -> None:
    # Given two items
    add(ledger, "A")
    add(ledger, "B")
    # When they are listed for programs
    rows = json.loads(typed("items", "list", "--json").stdout)
    bare = typed("--quiet", "items", "list")
    # Then JSON has the rows, quiet the ids, and neither has hints
    assert {row["item_id"]: row["state"] for row in rows} == {"A": "todo", "B": "todo"}
    assert sorted(bare.stdout.split()) == ["A", "B"]
    assert bare.stderr == ""


def test_items_list_stops_at_its_limit_and_says_so(ledger: MemoryLedger) -> None:
    # Given three items
    for name in ("A", "B", "C"):
        add(ledger, name)
    # When two are asked for, then two are shown, and that there are more
    told = typed("items", "list", "--limit", "2")
    assert sum("todo" in line for line in told.stdout.splitlines()) == 2
    assert "these are the first 2; all of them with --limit 0" in told.stdout
    assert sum("todo" in line for line in typed("items", "list", "--limit", "0").stdout.splitlines()) == 3


def test_items_show_tells_definition_nests_and_attempts(ledger: MemoryLedger) -> None:
    # Given a failed item with one done and one failed nest
    add(ledger, "B", "8", "2")
    fail(ledger, "B")
    # When it is shown
    told = typed("items", "show", "B")
    # Then script, values, the nest's exit code and message are there
    assert told.exit_code == 0
    assert "seq" in told.stdout
    [nest] = [line for line in told.stdout.splitlines() if line.split()[:2] == ["1", "2"]]
    assert "failed" in nest
    assert "65" in nest
    assert "boom" in nest


def test_an_unknown_item_is_exit_code_4_with_what_to_do(ledger: MemoryLedger) -> None:
    # Given no such item, when it is shown, reset and logged, then each says so and nothing is printed on stdout
    for words in (["items", "show", "X"], ["items", "reset", "X", "--yes"], ["logs", "X"]):
        told = typed(*words)
        assert told.exit_code == 4
        assert told.stdout == ""
        assert "holds no item X. See them with: pyanamo items list" in told.stderr


def test_retry_gives_a_failed_item_back_with_what_it_has(ledger: MemoryLedger) -> None:
    # Given a failed item
    add(ledger, "B", "8", "2")
    fail(ledger, "B")
    # When it is retried
    told = typed("items", "retry", "B")
    # Then it is to do, its done nest stays, and the hint is to run
    assert told.stdout == "B: retry, now todo\n"
    assert told.stderr == "next: pyanamo run\n"
    item = ledger.item("B")
    assert (item.state, item.tries) == (State.TODO, 0)
    assert ledger.nests(item)[0].status is NestStatus.DONE


def test_a_move_that_the_state_forbids_is_exit_code_5_and_changes_nothing(ledger: MemoryLedger) -> None:
    # Given an item to do
    add(ledger, "A", "8")
    before = ledger.item("A")
    # When it is retried, which only failed and cancelled items can be
    told = typed("items", "retry", "A")
    # Then it is refused with the reason, and the row is as it was
    assert told.exit_code == 5
    assert "retry of item A was refused: it is todo" in told.stderr
    assert ledger.item("A") == before


def test_of_several_items_those_that_can_be_moved_are_and_the_others_are_told(ledger: MemoryLedger) -> None:
    # Given a failed item and one to do
    add(ledger, "A", "8", "2")
    add(ledger, "B", "8", "2")
    fail(ledger, "B")
    # When both are retried
    told = typed("items", "retry", "A", "B")
    # Then one moved, the other is told, and the exit code says that not all went
    assert told.exit_code == 5
    assert told.stdout == "B: retry, now todo\n"
    assert "A was refused" in told.stderr


def test_an_unknown_name_among_several_stops_the_command_before_any_move(ledger: MemoryLedger) -> None:
    # Given one item
    add(ledger, "A")
    # When it is cancelled together with one that is not there
    told = typed("items", "cancel", "A", "X", "--yes")
    # Then nothing was cancelled
    assert told.exit_code == 4
    assert ledger.item("A").state is State.TODO


def test_a_whole_state_can_be_moved_at_once(ledger: MemoryLedger) -> None:
    # Given 30 items to do
    for number in range(30):
        add(ledger, f"I{number:02d}")
    # When all of them are cancelled
    told = typed("items", "cancel", "--state", "todo", "--yes")
    # Then each is, told in one line
    assert told.stdout == "cancel: 30 items are now cancelled\n"
    assert ledger.counts().cancelled == 30


@pytest.mark.parametrize("words", [["items", "reset"], ["items", "reset", "A", "--state", "todo"]])
def test_neither_names_nor_a_state_or_both_is_a_usage_error(ledger: MemoryLedger, words: list[str]) -> None:
    # Given nothing that says which items, or too much, then nothing is done
    add(ledger, "A")
    assert typed(*words, "--yes").exit_code == 2


@pytest.mark.parametrize("words", [["reset", "A"], ["redo", "A", "0"], ["cancel", "A"]])
def test_what_loses_something_is_not_done_where_nobody_can_be_asked(ledger: MemoryLedger, words: list[str]) -> None:
    # Given an item, and no terminal
    add(ledger, "A", "8")
    before = ledger.item("A")
    # When something destructive is typed without --yes
    told = typed("items", *words)
    # Then it is refused, and nothing has changed
    assert told.exit_code == 5
    assert "--yes" in told.stderr
    assert ledger.item("A") == before


def test_redo_takes_nests_by_value_and_by_number(ledger: MemoryLedger) -> None:
    # Given a done item with three nests
    add(ledger, "A", "x", "y", "z")
    claim = claimed(ledger, "A")
    for index in range(3):
        record(ledger, claim, index)
    ledger.finish(claim, nests_done=3)
    # When one is named by value and one by number
    told = typed("items", "redo", "A", "x", "2", "--yes")
    # Then these two are to be done again, and the third stays done
    assert told.exit_code == 0, told.stderr
    nests = ledger.nests(ledger.item("A"))
    assert [nests[index].status for index in range(3)] == [NestStatus.RESET, NestStatus.DONE, NestStatus.RESET]


def test_an_ambiguous_nest_is_refused_and_nothing_is_redone(ledger: MemoryLedger) -> None:
    # Given PyAnamo 1's values 8, 2, 1
    add(ledger, "A", "8", "2", "1")
    before = ledger.item("A")
    # When nest 2 is named, then the command asks for more
    told = typed("items", "redo", "A", "2", "--yes")
    assert told.exit_code == 3
    assert "Say value=2 or number=2" in told.stderr
    assert ledger.item("A") == before


def test_extend_adds_nests_with_new_numbers(ledger: MemoryLedger) -> None:
    # Given an item with one nest, when two more are given, then it has three in that order
    add(ledger, "A", "x")
    assert typed("items", "extend", "A", "y", "z").exit_code == 0
    assert ledger.definition(ledger.item("A")).arguments == ("x", "y", "z")


def test_logs_print_what_the_row_keeps_with_a_head_for_each_nest(ledger: MemoryLedger) -> None:
    # Given an item with a done and a failed nest
    add(ledger, "B", "8", "2")
    claim = claimed(ledger, "B")
    record(ledger, claim, 0, tail="1\t2\n", log=LogPointer(where="row"))
    record(ledger, claim, 1, NestStatus.FAILED, tail="oh dear\n", cause=Cause.TASK_ERROR)
    # When the logs are printed: all, one by value, the failed ones
    # Then each is the text as it was written, tabs included
    assert typed("logs", "B").stdout == (
        "==> nest 0 (8), done, attempt 1 <==\n1\t2\n\n==> nest 1 (2), failed, attempt 1 <==\noh dear\n"
    )
    assert typed("logs", "B", "8").stdout == "1\t2\n"
    assert typed("logs", "B", "--failed").stdout == "oh dear\n"


def test_a_nest_without_a_result_has_no_log_yet(ledger: MemoryLedger) -> None:
    # Given an item to do, when its log is asked for, then that is exit code 4
    add(ledger, "A", "8")
    told = typed("logs", "A", "8")
    assert told.exit_code == 4
    assert "Item A, nest 8 has no log yet" in told.stderr


def test_status_tells_states_and_why_items_failed(ledger: MemoryLedger) -> None:
    # Given two items that failed alike, and one to do
    for name in ("A", "B", "C"):
        add(ledger, name, "8", "2")
    fail(ledger, "A")
    fail(ledger, "B")
    # When the status is asked for
    told = typed("status")
    # Then states are counted and the message stands once, with how many it met
    assert any(line.split() == ["failed", "2", "66.7%"] for line in told.stdout.splitlines())
    [line] = [line for line in told.stdout.splitlines() if "nest 1: boom" in line]
    assert line.split()[0] == "2"
    assert told.stderr in {"next: pyanamo logs A\n", "next: pyanamo logs B\n"}
    assert typed("status", "-q").stdout.splitlines()[:1] == ["todo 1"]


def test_nothing_recorded_yet_leads_to_the_next_step(ledger: MemoryLedger) -> None:
    # Given an empty table, then its status leads to the import
    told = typed("status")
    assert "no items yet" in told.stdout
    assert told.stderr == "next: pyanamo sheet import sheet.txt\n"


def test_a_retry_may_change_the_limits_that_an_item_broke(ledger: MemoryLedger) -> None:
    # Given an item that was stopped at its deadline
    add(ledger, "A", "1")
    ledger.fail(claimed(ledger, "A"), Cause.TIMED_OUT, "it was stopped at its deadline")
    assert typed("items", "show", "A").stderr == (
        "next: pyanamo logs A, then pyanamo items retry A --nest-time SECONDS\n"
    )

    # When it is tried again with other limits
    told = typed("items", "retry", "A", "--nest-time", "7200", "--memory-factor", "1.5")

    # Then they stand in its row, and are shown
    item = ledger.item("A")
    assert (told.exit_code, item.state, item.nest_seconds, item.memory_factor) == (0, State.TODO, 7200.0, 1.5)
    assert "at most 2h00m" in typed("items", "show", "A").stdout
    # and a limit that is none is refused
    assert typed("items", "retry", "A", "--nest-time", "0").exit_code == 2


def on_demand(monkeypatch: pytest.MonkeyPatch, ledger: MemoryLedger, pilots: int, obstacle: str = "") -> None:
    """A workflow with an on-demand queue that so many pilots fit in."""
    ledger.add_workflow(WORKFLOW.model_copy(update={"on_demand_queue": "Q_OnDemandQueue"}))
    monkeypatch.setattr(Context, "clients", property(lambda _: None))
    monkeypatch.setattr("pyanamo_core.fleet.on_demand.ceiling_of", lambda clients, workflow: (pilots, obstacle))


def test_a_retry_on_demand_is_for_pilots_whose_machine_nobody_takes_away_until_it_is_for_all_again(
    ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a failed item, and room for pilots on demand
    on_demand(monkeypatch, ledger, 4)
    add(ledger, "B", "8", "2")
    fail(ledger, "B")
    # When it is retried on demand, then it is so, and says so
    told = typed("items", "retry", "B", "--on-demand")
    assert (told.exit_code, ledger.item("B").on_demand) == (0, True)
    assert "on demand only, no Spot" in typed("items", "show", "B").stdout
    assert "for on-demand pilots only" in typed("items", "list").stdout
    # and when it has failed and is retried as it stands, too
    claim = ledger.claim("B", "pilot", on_demand=True)
    assert claim is not None
    ledger.fail(claim, Cause.PERMANENT, "again")
    assert typed("items", "retry", "B").exit_code == 0
    assert ledger.item("B").on_demand
    # and anywhere ends it
    ledger.cancel(ledger.item("B"))
    assert typed("items", "retry", "B", "--anywhere").exit_code == 0
    assert not ledger.item("B").on_demand


def test_a_retry_on_demand_that_nobody_would_take_is_refused_and_changes_nothing(
    ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a failed item, and a workflow without an on-demand queue
    ledger.add_workflow(WORKFLOW)
    add(ledger, "B", "8", "2")
    fail(ledger, "B")
    told = typed("items", "retry", "B", "--on-demand")
    assert told.exit_code == 3
    assert "names no `on_demand_queue`" in told.stderr
    # or one with a ceiling of 0
    on_demand(monkeypatch, ledger, 0, "it has a ceiling of 0 vCPUs: pyanamo deploy --set OnDemandVcpus=4 raises it")
    told = typed("items", "retry", "B", "--on-demand")
    assert told.exit_code == 3
    assert "pyanamo deploy --set OnDemandVcpus=4 raises it" in told.stderr
    # Then nothing has moved
    assert (ledger.item("B").state, ledger.item("B").on_demand) == (State.FAILED, False)
