"""fsck on a real table: each invariant broken by a raw write is found by its name, and repaired where it can be."""

from __future__ import annotations

import contextlib
import random
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

pytest.register_assert_rewrite("ledger_suite")

from ledger_suite import LOCI, RULES, SEQ, a_run, claimed, imported, nest, record_all  # noqa: E402

from pyanamo_core.aws import Clients  # noqa: E402
from pyanamo_core.clock import FakeClock, SystemClock  # noqa: E402
from pyanamo_core.errors import MoveRefused  # noqa: E402
from pyanamo_core.ledger import Ledger, rows  # noqa: E402
from pyanamo_core.ledger import expressions as x  # noqa: E402
from pyanamo_core.ledger.fsck import Kind, Weight  # noqa: E402
from pyanamo_core.ledger.fsck_walk import Checked, Fsck  # noqa: E402
from pyanamo_core.ledger.table import create_table  # noqa: E402
from pyanamo_core.model import (  # noqa: E402
    Attempt,
    Cause,
    Claim,
    Definition,
    NestStatus,
    PilotRecord,
    Recorded,
    Rules,
    State,
)
from pyanamo_core.workflow import Buckets, Budgets, Timing, Workflow  # noqa: E402

BIG = Definition(script="bash call.sh NA12878", arguments=tuple(f"chr1:{n}00-{n}99" for n in range(60)))
"""Too big for the item's row: it stands in DEF rows."""


@dataclass
class Table:
    """A ledger, the raw client to break it with, and its check."""

    ledger: Ledger
    clients: Clients
    clock: FakeClock

    @property
    def name(self) -> str:
        return self.ledger.table

    def check(self, *, repair: bool = False) -> list[Checked]:
        return list(Fsck(self.clients, self.name, clock=self.clock).walk(repair=repair))

    def set(self, item_id: str, row: str = x.ITEM_ROW, **attributes: Any) -> None:
        """Write attributes by hand; None removes."""
        sets = {name: value for name, value in attributes.items() if value is not None}
        removes = [name for name, value in attributes.items() if value is None]
        names = {f"#{name}": name for name in attributes}
        told = "SET " + ", ".join(f"#{name} = :{name}" for name in sets) if sets else ""
        told += (" REMOVE " + ", ".join(f"#{name}" for name in removes)) if removes else ""
        values = {f":{name}": rows.pack(value) for name, value in sets.items()}
        self.clients.client("dynamodb").update_item(
            TableName=self.name,
            Key=rows.key(item_id, row),
            UpdateExpression=told.strip(),
            ExpressionAttributeNames=names,
            **({"ExpressionAttributeValues": values} if values else {}),
        )

    def remove(self, item_id: str, row: str) -> None:
        self.clients.client("dynamodb").delete_item(TableName=self.name, Key=rows.key(item_id, row))

    def row(self, item_id: str, row: str = x.ITEM_ROW) -> dict[str, Any] | None:
        return (
            self.clients.client("dynamodb")
            .get_item(TableName=self.name, Key=rows.key(item_id, row), ConsistentRead=True)
            .get("Item")
        )

    def claim(self, item_id: str, pilot: str = "pilot-1") -> Claim:
        """As a pilot does it: the claim, then its attempt row."""
        claim = claimed(self.ledger, item_id, pilot)
        self.ledger.put_attempt(Attempt(item_id=item_id, fence=claim.fence, pilot_id=pilot, started=self.clock.now()))
        return claim

    def ended(self, claim: Claim, cause: Cause) -> None:
        self.ledger.put_attempt(Attempt(item_id=claim.item_id, fence=claim.fence, cause=cause, ended=self.clock.now()))


def told(found: list[Checked]) -> list[tuple[Kind, str, str]]:
    return [(each.finding.kind, each.finding.item_id, each.finding.row) for each in found]


def open_table(clients: Clients, name: str) -> Table:
    create_table(clients, name, deletion_protection=False, pitr=False, wait=False)
    clock = FakeClock()
    return Table(Ledger(clients, name, rules=RULES, clock=clock, rng=random.Random(name)), clients, clock)


def workflow(rules: Rules) -> Workflow:
    return Workflow(
        name="sound",
        queue="q",
        job_definition="d",
        buckets=Buckets(results="s3://results/x"),
        budgets=Budgets(tries=rules.max_tries, interruptions=rules.max_interruptions),
        timing=Timing(lease_seconds=rules.lease_seconds),
        shards=rules.shards,
    )


@pytest.fixture(scope="module")
def sound_rows(dynamodb_clients: Clients) -> list[dict[str, Any]]:
    """Items in every state, as pilots leave them, a live run and a pilot: the rows that the ledger made of it."""
    made = open_table(dynamodb_clients, f"sound-{uuid.uuid4().hex}")
    ledger, clock = made.ledger, made.clock
    ledger.add_workflow(workflow(RULES))
    ledger.begin_run(a_run("run-1", started=clock.now()))
    ledger.put_pilot(PilotRecord(pilot_id="pilot-1", run_id="run-1", started=clock.now(), last_beat=clock.now()))
    for name in ("todo", "waiting", "locked", "done", "failed", "cancelled", "big", "again"):
        imported(ledger, name, BIG if name == "big" else LOCI)
    made.claim("locked")
    claim = made.claim("waiting")
    ledger.wait(claim, Cause.TASK_ERROR, "exit code 1", delay_seconds=900)
    made.ended(claim, Cause.TASK_ERROR)
    claim = made.claim("done")
    record_all(ledger, claim)
    ledger.finish(claim, nests_done=2)
    made.ended(claim, Cause.DONE)
    claim = made.claim("failed")
    ledger.record_nest(claim, nest(claim, 0, NestStatus.FAILED, tail="the end"))
    ledger.fail(claim, Cause.PERMANENT, "exit code 65", nests_failed=1)
    made.ended(claim, Cause.PERMANENT)
    ledger.cancel(ledger.item("cancelled"))
    claim = made.claim("again")
    record_all(ledger, claim)
    made.ended(claim, Cause.DONE)
    ledger.redo(ledger.finish(claim, nests_done=2), [1])
    return [row for page in ledger._store.scan() for row in page]


@pytest.fixture
def table(dynamodb_clients: Clients, unique_name: str, sound_rows: list[dict[str, Any]]) -> Table:
    """A table of its own with the sound rows."""
    made = open_table(dynamodb_clients, unique_name)
    for begin in range(0, len(sound_rows), 25):
        puts = [{"PutRequest": {"Item": row}} for row in sound_rows[begin : begin + 25]]
        dynamodb_clients.client("dynamodb").batch_write_item(RequestItems={unique_name: puts})
    return made


def test_a_sound_table_has_no_findings(table: Table) -> None:
    # Given items in every state, a live run and a pilot, when the table is checked
    fsck = Fsck(table.clients, table.name, clock=table.clock)
    assert list(fsck.walk()) == []
    # Then every row has been looked at
    assert fsck.tally.items == 8
    assert fsck.tally.rows > 20


Break = Callable[[Table], None]
BROKEN: dict[str, tuple[Break, Kind]] = {
    "a queue of another state": (lambda t: t.set("todo", queue="done#0"), Kind.QUEUE_KEY),
    "a queue of another shard": (
        lambda t: t.set("todo", queue=f"todo#{(rows.shard_of('todo', RULES.shards) + 1) % RULES.shards}"),
        Kind.QUEUE_KEY,
    ),
    "no queue key": (lambda t: t.set("todo", queue=None), Kind.QUEUE_KEY),
    "no due": (lambda t: t.set("todo", due=None), Kind.QUEUE_KEY),
    "a due of another priority": (lambda t: t.set("todo", due="9" + "0" * 12), Kind.QUEUE_KEY),
    "a waiting item without due": (lambda t: t.set("waiting", due=None), Kind.QUEUE_KEY),
    "a locked item whose due is not its lease": (lambda t: t.set("locked", due=x.due_at(1e9)), Kind.QUEUE_KEY),
    "a done item whose due is not its end": (lambda t: t.set("done", due=x.due_at(1e9)), Kind.QUEUE_KEY),
    "a locked item without a lease": (lambda t: t.set("locked", lease_end=None), Kind.LEASE),
    "a lease that ends in the next century": (
        lambda t: t.set("locked", lease_end=4e9, due=x.due_at(4e9)),
        Kind.LEASE,
    ),
    "a locked item without owner": (lambda t: t.set("locked", InstanceID=None), Kind.LEASE),
    "a lease of an item that is not locked": (lambda t: t.set("todo", lease_end=1.9e9), Kind.LEASE),
    "a mark on an item to do": (lambda t: t.set("todo", cancelled=True), Kind.MARK),
    "a mark on a done item": (lambda t: t.set("done", cancelled=True), Kind.MARK),
    "an item to do without a try left": (lambda t: t.set("todo", tries=3), Kind.UNCLAIMABLE),
    "a waiting item without a try left": (lambda t: t.set("waiting", tries=3), Kind.UNCLAIMABLE),
    "a nest with a newer fence than its item": (lambda t: t.set("done", x.nest_row(0, 0), fence=9), Kind.FENCE),
    "an attempt with a newer fence than its item": (
        lambda t: t.ledger.put_attempt(Attempt(item_id="done", fence=9, cause=Cause.DONE)),
        Kind.FENCE,
    ),
    "a done item with a nest that failed": (lambda t: t.set("done", x.nest_row(0, 1), status="failed"), Kind.UNDONE),
    "a done item with a nest that is not recorded": (lambda t: t.remove("done", x.nest_row(0, 1)), Kind.UNDONE),
    "more nests said to be done than recorded": (lambda t: t.set("failed", nests_done=1), Kind.COUNTS),
    "fewer nests said to be done than recorded": (lambda t: t.set("again", nests_done=0), Kind.COUNTS_BEHIND),
    "a number of nests that is not the definition's": (lambda t: t.set("todo", Nested_Tasks=5), Kind.DEFINITION),
    "a nest that the definition does not have": (
        lambda t: t.set("done", x.nest_row(0, 7), status="done", fence=1, token="t"),
        Kind.ORPHAN,
    ),
    "a nest of an epoch to come": (
        lambda t: t.set("done", x.nest_row(3, 0), status="done", fence=1, token="t"),
        Kind.ORPHAN,
    ),
    "a nest without item": (
        lambda t: t.set("nobody", x.nest_row(0, 0), status="done", fence=1, token="t"),
        Kind.ORPHAN,
    ),
    "a log tail without item": (lambda t: t.set("nobody", x.log_row(0, 0, 1), tail="x"), Kind.ORPHAN),
    "an attempt without item": (lambda t: t.set("nobody", x.attempt_row(1), cause="done"), Kind.ORPHAN),
    "results of an older epoch": (lambda t: t.ledger.reset(t.ledger.item("failed")) and None, Kind.OLD_EPOCH),
    "a definition that no item names": (
        lambda t: t.set("todo", x.definition_row("0" * 12, 0), TaskScript="x", parts=1),
        Kind.OLD_DEFINITION,
    ),
    "a definition without item": (
        lambda t: t.set("nobody", x.definition_row("0" * 12, 0), TaskScript="x", created=1.7e9),
        Kind.OLD_DEFINITION,
    ),
    "a claim without attempt row": (
        lambda t: t.remove("done", x.attempt_row(1)) or t.clock.move(RULES.lease_seconds + 1),
        Kind.NO_ATTEMPT,
    ),
    "an attempt without end": (lambda t: t.set("failed", x.attempt_row(1), cause=None), Kind.OPEN_ATTEMPT),
    "an older attempt without end": (lambda t: t.set("again", x.attempt_row(1), cause=None), Kind.OPEN_ATTEMPT),
    "a pilot outside the index": (lambda t: t.set("!pilot/pilot-1", x.PILOT_ROW, queue=None), Kind.PILOT_KEY),
    "a pilot whose due is not its beat": (
        lambda t: t.set("!pilot/pilot-1", x.PILOT_ROW, due=x.due_at(1e9)),
        Kind.PILOT_KEY,
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_found_by_its_name_and_repaired(table: Table, what: str) -> None:
    # Given a sound table in which one thing is broken by hand
    breaking, kind = BROKEN[what]
    breaking(table)
    # Then it is found by its name, and looking changed nothing
    found = table.check()
    assert kind in {each.finding.kind for each in found}
    assert told(table.check()) == told(found)
    assert not any(each.repaired for each in found)
    # When it is repaired, then it is told as repaired, and a second look finds nothing
    mended = table.check(repair=True)
    assert {each.finding.kind for each in mended} >= {each.finding.kind for each in found}
    assert all(each.repaired for each in mended), mended
    left = [each.finding for each in table.check() if each.finding.weight is not Weight.NOTE]
    assert left == []


ONLY_TOLD: dict[str, tuple[Break, Kind, str]] = {
    "an item without a fence": (lambda t: t.set("done", fence=None), Kind.UNREADABLE, "fence missing"),
    "an item in a state that nobody knows": (lambda t: t.set("done", ItemState="asleep"), Kind.UNREADABLE, "asleep"),
    "a nest without status": (lambda t: t.set("done", x.nest_row(0, 0), status=None), Kind.UNREADABLE, "status"),
    "a TaskID that is too long": (lambda t: t.set("done", TaskID="t" * 65), Kind.BAD_ID, "65 bytes"),
    "a definition whose rows are gone": (
        lambda t: t.remove("big", x.definition_row(BIG.hash, 0)),
        Kind.DEFINITION,
        "import the sheet again",
    ),
    "a definition that was changed": (
        lambda t: t.set("big", x.definition_row(BIG.hash, 0), TaskScript="rm -r"),
        Kind.DEFINITION,
        "hashes to",
    ),
    "an inline definition that was changed": (lambda t: t.set("todo", TaskScript="rm"), Kind.DEFINITION, "hashes to"),
    "a row that nobody knows": (lambda t: t.set("todo", "NOTE#1", text="mine"), Kind.UNKNOWN_ROW, "left alone"),
    "a run that cannot be read": (lambda t: t.set("!run", "run-1", mode="fast"), Kind.RUN, "fast"),
    "two live runs of different revisions": (
        lambda t: t.ledger.begin_run(a_run("run-2")) and t.set("!run", "run-2", revision="other"),
        Kind.RUN,
        "another run with",
    ),
    "a run of a version that is not there": (lambda t: t.set("!run", "run-1", version=7), Kind.RUN, "version 7"),
    "a version with fewer shards than items stand in": (
        lambda t: t.set("!workflow", "V#0001", shards=2),
        Kind.WORKFLOW,
        "says 2 shards",
    ),
}


@pytest.mark.parametrize("what", ONLY_TOLD)
def test_what_nobody_but_the_user_can_mend_is_told_and_left_alone(table: Table, what: str) -> None:
    # Given a sound table in which something is broken that no row tells how to mend
    breaking, kind, said = ONLY_TOLD[what]
    breaking(table)
    before = list(table.ledger._store.scan())
    # When it is checked, and to be repaired
    found = table.check(repair=True)
    # Then it is told with what to do, and nothing of it was written
    assert any(
        each.finding.kind is kind and said in f"{each.finding.wrong} {each.finding.does}" and not each.repaired
        for each in found
    ), found
    assert [row for row in table.ledger._store.scan() if row not in before] == []


def test_a_definition_whose_rows_are_gone_comes_back_with_the_sheet(table: Table) -> None:
    # Given an item whose definition's row is lost
    table.remove("big", x.definition_row(BIG.hash, 0))
    assert table.check() != []
    # When its sheet is imported again, as fsck says, then it is whole
    table.ledger.import_item("big", "trio", BIG)
    assert table.check() == []


def test_a_definition_that_an_import_has_just_written_is_no_finding(table: Table) -> None:
    # Given an import that has written a definition, and not yet the item's row
    for row in rows.definition_rows("new", BIG, table.clock.now()):
        table.clients.client("dynamodb").put_item(TableName=table.name, Item=row)
    assert table.check(repair=True) == []
    # Then it is left over only after an hour
    table.clock.move(3601)
    assert (Kind.OLD_DEFINITION, "new", x.definition_row(BIG.hash, 0)) in told(table.check(repair=True))
    assert table.row("new", x.definition_row(BIG.hash, 0)) is None


def test_a_repair_leaves_a_live_claim_its_item(table: Table) -> None:
    # Given a pilot that holds an item whose queue key, lease and owner are broken
    claim = table.claim("todo")
    table.set("todo", queue=None, lease_end=None, InstanceID=None)
    # When the table is repaired, then the pilot still holds it: it records, beats and finishes
    assert all(each.repaired for each in table.check(repair=True))
    assert table.ledger.item("todo").owner == "pilot-1"
    table.clock.move(10)
    table.ledger.beat(claim, progressed=False, nests_done=0, nests_failed=0)
    record_all(table.ledger, claim)
    assert table.ledger.finish(claim, nests_done=2).state is State.DONE


def test_a_done_item_that_is_not_goes_on_where_it_is_not_done(table: Table) -> None:
    # Given a done item of whose two nests one is not recorded
    table.remove("done", x.nest_row(0, 1))
    # When it is repaired, then it is to be done with a new fence and fresh budgets, and its done nest stays
    table.check(repair=True)
    item = table.ledger.item("done")
    assert (item.state, item.fence, item.epoch, item.tries, item.nests_done) == (State.TODO, 2, 0, 0, 1)
    claim = table.claim("done", "pilot-2")
    assert [index for index, one in table.ledger.nests(claim.item).items() if one.status is NestStatus.DONE] == [0]
    table.ledger.record_nest(claim, nest(claim, 1))
    assert table.ledger.finish(claim, nests_done=2).state is State.DONE


def test_an_item_whose_pilot_is_gone_is_a_finding_only_without_a_run(table: Table) -> None:
    # Given a locked item whose lease is long over, while a run is live
    table.clock.move(RULES.lease_seconds * 4)
    assert told(table.check()) == [(Kind.TAKEOVER, "locked", "ITEM")]
    # When the run has ended and no pilot beats, then it is stuck until somebody runs the workflow
    table.ledger.end_run("run-1", "stopped")
    assert told(table.check()) == [(Kind.STUCK, "locked", "ITEM")]
    # And a repair hands it back as an interruption, with a new fence, and ends the dead pilot's attempt
    assert all(each.repaired for each in table.check(repair=True))
    item = table.ledger.item("locked")
    assert (item.state, item.fence, item.tries, item.interruptions) == (State.TODO, 2, 0, 1)
    assert table.ledger.attempts("locked")[0].cause is Cause.LOST
    assert table.check() == []


def test_a_stuck_item_at_its_cap_is_failed_and_a_cancelled_one_cancelled(table: Table) -> None:
    # Given two stuck items, one without an interruption left, one marked as cancelled
    table.claim("todo")
    table.set("locked", interruptions=RULES.max_interruptions)
    table.ledger.cancel(table.ledger.item("todo"))
    table.ledger.end_run("run-1", "stopped")
    table.clock.move(RULES.lease_seconds * 4)
    # When they are repaired, then they end as any pilot would have ended them
    assert all(each.repaired for each in table.check(repair=True))
    assert table.ledger.item("locked").state is State.FAILED
    assert table.ledger.item("todo").state is State.CANCELLED


def test_a_pilot_that_beats_without_a_run_keeps_the_table_alive(table: Table) -> None:
    # Given an item whose lease is over, no run, but a pilot that still beats
    table.ledger.end_run("run-1", "stopped")
    table.clock.move(RULES.lease_seconds * 2)
    table.ledger.put_pilot(PilotRecord(pilot_id="pilot-9", last_beat=table.clock.now()))
    assert told(table.check()) == [(Kind.TAKEOVER, "locked", "ITEM")]


def test_a_repair_that_comes_too_late_is_refused(table: Table) -> None:
    # Given an item that breaks, and a pilot that claims it in the moment between fsck's look and its write
    table.set("todo", due="9" + "0" * 12)
    fsck = Fsck(table.clients, table.name, clock=table.clock)
    apply = fsck._apply

    def late(*given: Any) -> None:
        fsck._apply = apply
        table.claim("todo")
        apply(*given)

    fsck._apply = late
    # When it is repaired, then the claim stands as it is, its key with it
    found = list(fsck.walk(repair=True))
    assert (Kind.QUEUE_KEY, "todo", "ITEM") in told(found)
    item = table.ledger.item("todo")
    assert (item.state, item.fence, item.owner) == (State.LOCKED, 1, "pilot-1")
    assert table.check() == []


def test_a_removed_row_that_was_written_again_stays(table: Table) -> None:
    # Given an orphaned nest row, and an import and a pilot that make a new one in its place before the removal comes
    table.set("new", x.nest_row(0, 0), status="done", fence=1, token="old")
    fsck = Fsck(table.clients, table.name, clock=table.clock)
    apply = fsck._apply

    def late(*given: Any) -> None:
        fsck._apply = apply
        table.remove("new", x.nest_row(0, 0))
        table.ledger.import_item("new", "trio", SEQ)
        claim = table.claim("new")
        assert table.ledger.record_nest(claim, nest(claim, 0)) is Recorded.WON
        apply(*given)

    fsck._apply = late
    list(fsck.walk(repair=True))
    # Then the new result stands
    assert table.ledger.nests(table.ledger.item("new"))[0].status is NestStatus.DONE
    assert table.check() == []


def test_a_submission_that_nobody_settles_is_told(table: Table) -> None:
    # Given a run whose watcher died between its reservation and Batch's answer
    run = table.ledger.take_watch("run-1", "w-1", 60)
    assert run is not None
    table.ledger.reserve_submission(run, size=8, queue="Q", definition="D:3")
    assert [each for each in told(table.check()) if each[0] is Kind.OPEN_SUBMISSION] == []
    # When an hour has passed, then it is told with what to do
    table.clock.move(3700)
    found = [each.finding for each in table.check() if each.finding.kind is Kind.OPEN_SUBMISSION]
    assert [(each.row, each.does) for each in found] == [("run-1", "pyanamo watch run-1: looks for it by its name")]


def test_more_shards_are_no_fault_for_items_of_before(table: Table) -> None:
    # Given items of 4 shards, and a newer version of the workflow with 16
    table.ledger.add_workflow(workflow(RULES.model_copy(update={"shards": 16})))
    # Then their keys are right as they are; and a wrong one is derived for the newest number
    assert table.check() == []
    table.set("todo", queue="todo#15x")
    assert all(each.repaired for each in table.check(repair=True))
    assert (table.row("todo") or {})["queue"]["S"] == f"todo#{rows.shard_of('todo', 16)}"


def test_pilots_at_work_are_no_findings(dynamodb_clients: Clients, unique_name: str) -> None:
    # Given three pilots and a user who work on a table as fast as they can
    create_table(dynamodb_clients, unique_name, deletion_protection=False, pitr=False, wait=False)
    rules = Rules(max_tries=99, shards=4)
    ledger = Ledger(dynamodb_clients, unique_name, rules=rules)
    ledger.add_workflow(workflow(rules))
    for number in range(24):
        imported(ledger, f"i{number:02d}", BIG if number % 5 == 0 else LOCI)
    over = threading.Event()
    errors: list[Exception] = []

    def work(seed: int) -> None:
        rng, clock, pilot = random.Random(seed), SystemClock(), f"p{seed}"
        try:
            while not over.is_set():
                claim = ledger.claim(f"i{rng.randrange(24):02d}", pilot)
                if claim is None:
                    continue
                told = {"item_id": claim.item_id, "fence": claim.fence}
                ledger.put_attempt(Attempt(**told, pilot_id=pilot, started=clock.now()))
                done = {index for index, one in ledger.nests(claim.item).items() if one.status is NestStatus.DONE}
                for index in range(claim.item.nests):
                    if index not in done and rng.random() < 0.9:
                        ledger.record_nest(claim, nest(claim, index))
                        done.add(index)
                if len(done) == claim.item.nests:
                    ledger.finish(claim, nests_done=len(done))
                else:
                    ledger.wait(claim, Cause.TASK_ERROR, "m", delay_seconds=0, nests_done=len(done))
                ledger.put_attempt(Attempt(**told, cause=Cause.DONE, ended=clock.now()))
        except Exception as error:  # noqa: BLE001 - told by the test
            errors.append(error)

    def use() -> None:
        rng = random.Random(9)
        while not over.is_set():
            item = ledger.item(f"i{rng.randrange(24):02d}")
            if item.state is State.DONE:
                with contextlib.suppress(MoveRefused):
                    ledger.redo(item, [0]) if rng.random() < 0.5 else ledger.reset(item)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)] + [threading.Thread(target=use)]
    for thread in threads:
        thread.start()
    try:
        # When fsck walks the table again and again, repairing whatever it finds
        found: list[Checked] = []
        suspected = 0
        for _ in range(3):
            fsck = Fsck(dynamodb_clients, unique_name, settle_seconds=0.3)
            found += list(fsck.walk(repair=True))
            suspected += fsck.tally.suspected
    finally:
        over.set()
        for thread in threads:
            thread.join()
    # Then it has suspected much, and told nothing but what resets leave behind
    assert errors == []
    assert {each.finding.kind for each in found} <= {Kind.OLD_EPOCH}
    print(f"fsck beside 3 pilots: 3 walks, {suspected} items read again, {len(found)} old rows removed, 0 faults")
    assert suspected > 0
    assert [
        each
        for each in Fsck(dynamodb_clients, unique_name, settle_seconds=0.1).walk(repair=True)
        if each.finding.weight is Weight.FAULT
    ] == []
