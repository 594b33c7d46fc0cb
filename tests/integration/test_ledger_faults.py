"""Three answers, not two: what the ledger does when answers are lost, repeated, late or throttled, and pages are old."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite("ledger_suite")

from ledger_suite import (  # noqa: E402
    LOCI,
    RULES,
    SEQ,
    a_run,
    claimed,
    imported,
    nest,
    pass_lease,
    record_all,
    undying,
)

from pyanamo_core.clock import FakeClock  # noqa: E402
from pyanamo_core.errors import LeaseLost, MoveRefused, OutcomeUnknown, PyAnamoError, RunConflict  # noqa: E402
from pyanamo_core.faults import Faults, faulty  # noqa: E402
from pyanamo_core.ledger import Ledger  # noqa: E402
from pyanamo_core.ledger.table import create_table  # noqa: E402
from pyanamo_core.model import (  # noqa: E402
    Cause,
    Claim,
    Definition,
    Imported,
    Item,
    Mode,
    NestStatus,
    Recorded,
    Rules,
    State,
)

if TYPE_CHECKING:
    from pyanamo_core.aws import Clients

FOREVER = 10_000


class Wrapped:
    """Clients whose every client passes through `wrap`."""

    def __init__(self, clients: Clients, wrap: Callable[[Any], Any]) -> None:
        self._clients, self._wrap = clients, wrap
        self.endpoint_url, self.region = clients.endpoint_url, clients.region

    def client(self, service: str) -> Any:
        return self._wrap(self._clients.client(service))

    def quick(self, service: str) -> Any:
        return self._wrap(self._clients.quick(service))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def faults(clock: FakeClock) -> Faults:
    return Faults(sleep=clock.sleep)


@pytest.fixture
def table(dynamodb_clients: Clients, unique_name: str) -> str:
    create_table(dynamodb_clients, unique_name, deletion_protection=False, pitr=False, wait=False)
    return unique_name


@pytest.fixture
def ledger(dynamodb_clients: Clients, table: str, clock: FakeClock, faults: Faults) -> Ledger:
    """A ledger on a network that does what `faults` says."""
    clients: Any = Wrapped(dynamodb_clients, lambda client: faulty(client, faults))
    return Ledger(clients, table, rules=RULES, clock=clock, rng=random.Random(table))


@pytest.fixture
def quiet(dynamodb_clients: Clients, table: str, clock: FakeClock) -> Ledger:
    """A ledger of the same table on a network without faults."""
    return Ledger(dynamodb_clients, table, rules=RULES, clock=clock, rng=random.Random(f"quiet {table}"))


# --------------------------------------------------------------------------------------------------------------- claims


def test_a_claim_whose_answer_was_lost_is_still_ours(ledger: Ledger, faults: Faults) -> None:
    # Given an item to do, and an SDK that repeats the claim because its answer was lost
    imported(ledger)
    faults.lose_next("UpdateItem", repeat=True)
    # When a pilot claims it
    claim = claimed(ledger)
    # Then the pilot owns it, and the fence has grown by one, not two
    assert (claim.fence, claim.item.tries, ledger.item("NA12878").fence) == (1, 1, 1)


def test_a_claim_that_nobody_answered_is_settled_by_a_strong_read(ledger: Ledger, faults: Faults) -> None:
    imported(ledger)
    faults.lose_next("UpdateItem")
    assert claimed(ledger).fence == 1
    assert faults.pending == 0


def test_a_claim_that_never_arrived_is_not_ours(ledger: Ledger, faults: Faults) -> None:
    before = imported(ledger)
    faults.drop_next("UpdateItem")
    assert ledger.claim("NA12878", "pilot-1") is None
    assert ledger.item("NA12878") == before


def test_a_claim_is_unknown_while_nothing_can_be_read_either(ledger: Ledger, faults: Faults, quiet: Ledger) -> None:
    imported(ledger)
    faults.lose_next("UpdateItem")
    faults.drop_next("GetItem")
    with pytest.raises(OutcomeUnknown, match="claim on item NA12878"):
        ledger.claim("NA12878", "pilot-1")
    assert quiet.item("NA12878").owner == "pilot-1"


def test_a_reclaim_whose_answer_was_lost_is_ours(ledger: Ledger, faults: Faults, clock: FakeClock) -> None:
    imported(ledger)
    claimed(ledger)
    pass_lease(clock)
    reclaims = _updates_with("interruptions")
    faults.lose_next("UpdateItem", when=reclaims)
    assert claimed(ledger, pilot="pilot-2").fence == 2
    pass_lease(clock)
    faults.repeat_next("UpdateItem", when=reclaims)
    assert claimed(ledger, pilot="pilot-3").fence == 3
    pass_lease(clock)
    faults.drop_next("UpdateItem", when=reclaims)
    assert ledger.claim("NA12878", "pilot-4") is None
    assert (faults.pending, ledger.item("NA12878").owner) == (0, "pilot-3")


def _updates_with(name: str) -> Callable[[Any], bool]:
    return lambda call: f"#{name} = :" in call["UpdateExpression"]


def test_a_throttled_claim_leaves_the_item_alone(ledger: Ledger, faults: Faults) -> None:
    before = imported(ledger)
    faults.throttle_next("UpdateItem")
    assert ledger.claim("NA12878", "pilot-1") is None
    assert ledger.item("NA12878") == before


def test_a_delayed_copy_of_a_claim_that_was_used_up_is_refused(
    dynamodb_clients: Clients, table: str, clock: FakeClock
) -> None:
    # Given a claim that was won, and its item handed back, while a copy of it was still on the way
    sent: list[tuple[str, dict[str, Any]]] = []
    clients: Any = Wrapped(dynamodb_clients, lambda client: Recording(client, sent))
    ledger = Ledger(clients, table, rules=RULES, clock=clock)
    imported(ledger)
    claim = claimed(ledger)
    copy = sent[-1]
    before = ledger.hand_back(claim, Cause.SPOT, progressed=False, started=False)
    # When the copy arrives
    refused = replayed(dynamodb_clients, [copy])
    # Then nobody holds the item
    assert refused == ["ConditionalCheckFailedException"]
    assert ledger.item("NA12878") == before


# ------------------------------------------------------------------------------------------------------ owners' writes


def _beat(ledger: Ledger, claim: Claim) -> object:
    return ledger.beat(claim, progressed=True, nests_done=2, nests_failed=0)


def _record(ledger: Ledger, claim: Claim) -> object:
    answer = ledger.record_nest(claim, nest(claim, 0))
    assert answer is Recorded.WON
    return ledger.nests(claim.item)[0].fence


OWNERS: dict[str, Callable[[Ledger, Claim], object]] = {
    "beat": _beat,
    "record": _record,
    "finish": lambda ledger, claim: ledger.finish(claim, nests_done=2).state,
    "fail": lambda ledger, claim: ledger.fail(claim, Cause.PERMANENT, "m").state,
    "wait": lambda ledger, claim: ledger.wait(claim, Cause.TASK_ERROR, "m", delay_seconds=9).state,
    "hand back": lambda ledger, claim: (
        ledger.hand_back(claim, Cause.SPOT, progressed=False, started=True).interruptions
    ),
}
CALLS = {"record": "PutItem"}


@pytest.mark.parametrize("kind", ["lose", "repeat", "drop", "throttle", "delay"])
@pytest.mark.parametrize("name", list(OWNERS))
def test_an_owners_write_happens_once_whatever_the_network_does(
    ledger: Ledger, quiet: Ledger, faults: Faults, clock: FakeClock, name: str, kind: str
) -> None:
    # Given a held item, and what the write does on a quiet network
    imported(quiet, "other")
    imported(ledger)
    other, claim = claimed(quiet, "other"), claimed(ledger)
    clock.move(100)
    expected = OWNERS[name](quiet, other)
    # When the network loses the answer, repeats, drops or delays the request, or DynamoDB throttles, twice
    call = CALLS.get(name, "UpdateItem")
    plan: dict[str, Callable[[], None]] = {
        "lose": lambda: faults.lose_next(call, times=2),
        "repeat": lambda: faults.repeat_next(call),
        "drop": lambda: faults.drop_next(call, times=2),
        "throttle": lambda: faults.throttle_next(call, times=2),
        "delay": lambda: faults.delay_next(call, 3.0),
    }
    plan[kind]()
    got = OWNERS[name](ledger, claim)
    # Then it is won all the same, and happened once
    assert faults.pending == 0
    if name == "beat":
        assert ledger.item("NA12878").progress_fence == 1
    else:
        assert got == expected
    here, there = ledger.item("NA12878"), quiet.item("other")
    same = ("state", "fence", "tries", "interruptions", "nests_done", "cause")
    assert [getattr(here, field) for field in same] == [getattr(there, field) for field in same]


@pytest.mark.parametrize("name", [name for name in OWNERS if name != "beat"])
def test_an_owners_write_that_never_arrives_is_unknown_at_its_deadline(
    ledger: Ledger, faults: Faults, clock: FakeClock, name: str
) -> None:
    imported(ledger)
    claim = claimed(ledger)
    faults.drop_next(CALLS.get(name, "UpdateItem"), times=FOREVER)
    with pytest.raises(OutcomeUnknown, match="NA12878"):
        OWNERS[name](ledger, claim)
    assert claim.deadline - 11 < clock.monotonic() < claim.deadline
    assert ledger.item("NA12878") == claim.item
    assert ledger.nests(claim.item) == {}


@pytest.mark.parametrize("name", [name for name in OWNERS if name not in ("beat", "record")])
def test_an_owners_write_that_was_never_answered_is_won_if_the_row_shows_it(
    ledger: Ledger, faults: Faults, name: str
) -> None:
    imported(ledger)
    claim = claimed(ledger)
    faults.lose_next("UpdateItem", times=FOREVER)
    OWNERS[name](ledger, claim)
    assert ledger.item("NA12878").state is not State.LOCKED


def test_a_nest_that_was_never_answered_is_won_if_the_row_shows_it(ledger: Ledger, faults: Faults) -> None:
    imported(ledger)
    claim = claimed(ledger)
    faults.lose_next("PutItem", times=FOREVER)
    assert ledger.record_nest(claim, nest(claim, 0)) is Recorded.WON
    assert ledger.nests(claim.item)[0].fence == 1


def test_a_beat_gives_up_early_so_that_others_can_be_sent(ledger: Ledger, faults: Faults, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    clock.move(1)
    faults.drop_next("UpdateItem", times=FOREVER)
    began = clock.monotonic()
    with pytest.raises(OutcomeUnknown, match="beat on item NA12878"):
        _beat(ledger, claim)
    assert clock.monotonic() - began <= RULES.lease_seconds / 20
    assert ledger.item("NA12878") == claim.item


def test_an_unanswered_write_that_meets_a_new_owner_is_lost_not_unknown(
    ledger: Ledger, quiet: Ledger, faults: Faults, clock: FakeClock
) -> None:
    imported(ledger)
    dead = undying(claimed(ledger))
    pass_lease(clock)
    claimed(quiet, pilot="pilot-2")
    faults.drop_next("UpdateItem", times=2)
    with pytest.raises(LeaseLost, match="its fence is 2, not 1"):
        ledger.finish(dead, nests_done=2)


def test_a_cancellation_that_comes_between_decides_how_an_item_is_handed_back(ledger: Ledger, quiet: Ledger) -> None:
    # Given a claim whose pilot has not heard of a cancellation yet
    imported(ledger)
    claim = claimed(ledger)
    quiet.cancel(claim.item)
    # When it hands back what it believes to be wanted, then the item is cancelled, not to do for nobody
    assert ledger.hand_back(claim, Cause.SPOT, progressed=False, started=True).state is State.CANCELLED


# ---------------------------------------------------------------------------------------------- late writes, replayed


class Recording:
    """A client that notes its writes; with `drop` they never arrive."""

    def __init__(self, client: Any, sent: list[tuple[str, dict[str, Any]]], *, drop: bool = False) -> None:
        self._client, self._sent, self._drop = client, sent, drop
        self.meta, self.exceptions = client.meta, client.exceptions

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in ("update_item", "put_item", "transact_write_items", "delete_item"):
            return found

        def noted(**parameters: Any) -> Any:
            self._sent.append((name, parameters))
            if self._drop:
                from botocore.exceptions import ReadTimeoutError

                raise ReadTimeoutError(endpoint_url="http://127.0.0.1")
            return found(**parameters)

        return noted


def replayed(clients: Clients, sent: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Send the calls; each one's error code, or "" if it went through."""
    from botocore.exceptions import ClientError

    codes: list[str] = []
    for name, parameters in sent:
        try:
            getattr(clients.client("dynamodb"), name)(**parameters)
            codes.append("")
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])
    return codes


def test_all_that_a_dead_pilot_still_had_on_the_way_is_refused_when_it_arrives(
    dynamodb_clients: Clients, quiet: Ledger, table: str, clock: FakeClock
) -> None:
    # Given a pilot that was cut off and killed: its beat, nests and last moves left it, and hang in the network
    sent: list[tuple[str, dict[str, Any]]] = []
    clients: Any = Wrapped(dynamodb_clients, lambda client: Recording(client, sent, drop=True))
    imported(quiet)
    claim = claimed(quiet)
    clock_of_the_dead = FakeClock()
    clock_of_the_dead.move(1)
    cut_off = Ledger(clients, table, rules=RULES, clock=clock_of_the_dead, rng=random.Random(f"dead {table}"))
    killed = claim.model_copy(update={"deadline": clock_of_the_dead.monotonic() + 0.1})
    for index in (0, 1):
        with pytest.raises(OutcomeUnknown):
            cut_off.record_nest(killed, nest(claim, index))
    for write in OWNERS.values():
        with pytest.raises(OutcomeUnknown):
            write(cut_off, killed)
    assert len(sent) >= 8
    # And another that did the work after the lease was over
    pass_lease(clock)
    second = claimed(quiet, pilot="pilot-2")
    record_all(quiet, second)
    done = quiet.finish(second, nests_done=2)
    rows = quiet.nests(done)
    # When all of it arrives, in any order, twice
    random.Random(3).shuffle(sent)
    codes = replayed(dynamodb_clients, sent * 2)
    # Then each write is refused, and nothing has changed
    assert set(codes) == {"ConditionalCheckFailedException"}
    assert (quiet.item("NA12878"), quiet.nests(done)) == (done, rows)


# -------------------------------------------------------------------------------------------------------- users' moves

USERS: dict[str, Callable[[Ledger, Item], Item]] = {
    "retry": lambda ledger, item: ledger.retry(item),
    "reset": lambda ledger, item: ledger.reset(item),
    "edit": lambda ledger, item: ledger.edit(item, SEQ),
    "extend": lambda ledger, item: ledger.extend(item, ["chr9:1-2"]),
    "redo": lambda ledger, item: ledger.redo(item, [0]),
}


@pytest.mark.parametrize("kind", ["lose", "repeat", "drop"])
@pytest.mark.parametrize("name", list(USERS))
def test_a_users_move_happens_once_whatever_the_network_does(
    ledger: Ledger, faults: Faults, name: str, kind: str
) -> None:
    imported(ledger)
    failed = ledger.fail(claimed(ledger), Cause.PERMANENT, "m")
    call = "TransactWriteItems" if name == "redo" else "UpdateItem"
    plan = {"lose": faults.lose_next, "repeat": faults.repeat_next, "drop": faults.drop_next}
    plan[kind](call)
    after = USERS[name](ledger, failed)
    assert (after.state, after.tries) == (State.TODO, 0)
    assert after.fence == failed.fence + (name != "retry")
    assert (ledger.item("NA12878"), faults.pending) == (after, 0)


def test_delayed_copies_of_users_moves_do_not_undo_newer_ones(
    dynamodb_clients: Clients, table: str, clock: FakeClock
) -> None:
    # Given a user who cancels, retries, cancels the running item, retries and cancels again; copies hang in the network
    sent: list[tuple[str, dict[str, Any]]] = []
    clients: Any = Wrapped(dynamodb_clients, lambda client: Recording(client, sent))
    ledger = Ledger(clients, table, rules=RULES, clock=clock)
    imported(ledger)
    sent.clear()
    ledger.cancel(ledger.item("NA12878"))
    ledger.retry(ledger.item("NA12878"))
    claim = claimed(ledger)
    ledger.cancel(claim.item)
    ledger.hand_back(claim, Cause.SPOT, progressed=False, started=True)
    ledger.retry(ledger.item("NA12878"))
    wanted = ledger.item("NA12878")
    # When all copies arrive while the item is wanted, then it stays wanted
    assert set(replayed(dynamodb_clients, sent * 2)) == {"ConditionalCheckFailedException"}
    assert ledger.item("NA12878") == wanted
    # And when they arrive after the user has cancelled it for good, or while a pilot has it, they change nothing either
    cancelled = ledger.cancel(wanted)
    assert set(replayed(dynamodb_clients, sent * 2)) == {"ConditionalCheckFailedException"}
    assert ledger.item("NA12878") == cancelled
    ledger.retry(cancelled)
    held = claimed(ledger).item
    assert set(replayed(dynamodb_clients, sent * 2)) == {"ConditionalCheckFailedException"}
    assert ledger.item("NA12878") == held


def test_a_users_move_that_never_arrives_is_unknown(ledger: Ledger, faults: Faults) -> None:
    imported(ledger)
    failed = ledger.fail(claimed(ledger), Cause.PERMANENT, "m")
    faults.drop_next("UpdateItem", times=FOREVER)
    with pytest.raises(OutcomeUnknown, match="retry on item NA12878"):
        ledger.retry(failed)


@pytest.mark.parametrize("kind", ["lose", "repeat", "drop", "throttle"])
def test_an_import_creates_once_whatever_the_network_does(ledger: Ledger, faults: Faults, kind: str) -> None:
    plan = {
        "lose": faults.lose_next,
        "repeat": faults.repeat_next,
        "drop": faults.drop_next,
        "throttle": faults.throttle_next,
    }
    big = Definition(script="x", arguments=tuple(f"chr1:{n}" for n in range(200)))
    plan[kind]("PutItem", times=2)
    assert ledger.import_item("NA12878", "t", big) is Imported.CREATED
    assert ledger.definition(ledger.item("NA12878")) == big


def test_an_interrupted_import_is_completed_by_the_next(ledger: Ledger, quiet: Ledger, faults: Faults) -> None:
    # Given an import that broke off between the definition's rows and the item's
    big = Definition(script="x", arguments=tuple(f"chr1:{n}" for n in range(200)))
    faults.drop_next("PutItem", times=FOREVER, when=lambda call: call["Item"]["row"]["S"] == "ITEM")
    with pytest.raises(OutcomeUnknown):
        ledger.import_item("NA12878", "t", big)
    assert quiet.counts().total == 0
    # When it is run again, then the item is there
    assert quiet.import_item("NA12878", "t", big) is Imported.CREATED
    assert quiet.definition(quiet.item("NA12878")) == big


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize("kind", ["lose", "repeat", "drop"])
def test_a_runs_writes_happen_once_whatever_the_network_does(ledger: Ledger, faults: Faults, kind: str) -> None:
    plan = {"lose": faults.lose_next, "repeat": faults.repeat_next, "drop": faults.drop_next}
    plan[kind]("PutItem")
    ledger.begin_run(a_run())
    plan[kind]("UpdateItem")
    run = ledger.take_watch("run-1", "w-1", 60)
    assert run is not None
    assert run.watcher_fence == 1
    plan[kind]("UpdateItem")
    run, made = ledger.reserve_submission(run, size=2, queue="Q", definition="D:1")
    plan[kind]("UpdateItem")
    run = ledger.settle_submission(run, made.sequence, job_id="job")
    plan[kind]("UpdateItem")
    run = ledger.set_mode("run-1", Mode.DRAIN)
    plan[kind]("UpdateItem")
    ended = ledger.end_run("run-1", "drained")
    assert faults.pending == 0
    assert [(s.name, s.job_id, s.outcome) for s in ended.submissions] == [("t-run-1-0", "job", "submitted")]
    assert (ended.mode, ended.outcome, ended) == (Mode.DRAIN, "drained", ledger.run("run-1"))


def test_of_many_watchers_that_race_one_wins(quiet: Ledger) -> None:
    quiet.begin_run(a_run())
    barrier = threading.Barrier(8)

    def take(name: str) -> str | None:
        barrier.wait()
        taken = quiet.take_watch("run-1", name, 60)
        return name if taken else None

    with ThreadPoolExecutor(8) as pool:
        winners = [name for name in pool.map(take, [f"w-{n}" for n in range(8)]) if name]
    assert len(winners) == 1
    assert (quiet.run("run-1").watcher, quiet.run("run-1").watcher_fence) == (winners[0], 1)


def test_of_runs_with_different_revisions_that_begin_at_once_at_most_one_revision_lives(quiet: Ledger) -> None:
    barrier = threading.Barrier(6)

    def begin(number: int) -> str | None:
        barrier.wait()
        try:
            return quiet.begin_run(a_run(f"run-{number}", revision=f"rev-{number % 2}")).run_id
        except RunConflict:
            return None

    with ThreadPoolExecutor(6) as pool:
        begun = [name for name in pool.map(begin, range(6)) if name]
    live = quiet.live_runs()
    assert len({run.revision for run in live}) <= 1
    assert sorted(run.run_id for run in live) == sorted(begun)


# ------------------------------------------------------------------------------------------------- pages and batches


def test_an_old_page_of_the_index_costs_a_refused_claim_and_no_more(ledger: Ledger, faults: Faults) -> None:
    imported(ledger, "a", SEQ)
    shown = [(shard, ids) for shard in range(4) if (ids := ledger.candidates(State.TODO, shard))]
    ((shard, _),) = shown
    assert claimed(ledger, "a").fence == 1
    faults.stale_next()
    assert ledger.candidates(State.TODO, shard) == ["a"]
    assert ledger.claim("a", "pilot-2") is None
    assert ledger.item("a").owner == "pilot-1"


class Reluctant:
    """A client that leaves most keys of a batch unread, as DynamoDB does when it is throttled."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.meta, self.exceptions = client.meta, client.exceptions

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def batch_get_item(self, **parameters: Any) -> Any:
        ((table, asked),) = parameters["RequestItems"].items()
        now, later = asked["Keys"][:40], asked["Keys"][40:]
        answer = self._client.batch_get_item(RequestItems={table: asked | {"Keys": now}})
        return answer | ({"UnprocessedKeys": {table: asked | {"Keys": later}}} if later else {})


def test_rows_that_a_batch_left_unread_are_asked_for_again(
    dynamodb_clients: Clients, quiet: Ledger, table: str, clock: FakeClock
) -> None:
    for number in range(230):
        imported(quiet, f"i{number}", SEQ)
    clients: Any = Wrapped(dynamodb_clients, Reluctant)
    ledger = Ledger(clients, table, rules=RULES, clock=clock)
    assert len({item.item_id for item in ledger.items(State.TODO)}) == 230


# ---------------------------------------------------------------------------------------------------------- concurrency


def test_eight_threads_of_two_runs_record_each_nest_once_through_a_bad_network(
    dynamodb_clients: Clients, quiet: Ledger, table: str
) -> None:
    # Given 24 items of 3 nests, and a network that loses, drops, repeats, throttles, and shows old pages
    definition = Definition(script="x", arguments=("a", "b", "c"))
    for number in range(24):
        imported(quiet, f"i{number}", definition)
    clock = FakeClock()
    rules = Rules(max_tries=100, max_interruptions=1000, lease_seconds=600)
    quiet = Ledger(dynamodb_clients, table, rules=rules, clock=clock)
    recorded: list[tuple[str, int]] = []
    noting = threading.Lock()

    def work(number: int) -> None:
        rng = random.Random(number)
        bad = Faults(rng, lost=0.05, dropped=0.03, repeated=0.1, throttled=0.03, stale=0.1, sleep=clock.sleep)
        clients: Any = Wrapped(dynamodb_clients, lambda client: faulty(client, bad))
        ledger = Ledger(clients, table, rules=rules, clock=clock, rng=random.Random(f"{table} {number}"))
        empty = 0
        while empty < 12:
            try:
                names = [
                    name
                    for state in (State.TODO, State.LOCKED)
                    for shard in range(4)
                    for name in ledger.candidates(state, shard, start=f"{rng.getrandbits(48):012x}")
                ]
                claims = (ledger.claim(name, f"p{number}", run_id=f"run-{number % 2}") for name in names)
                claim = next((claim for claim in claims if claim), None)
                if claim is None:
                    empty += 1
                    clock.sleep(100)
                    continue
                empty = 0
                for index in range(3):
                    if index in ledger.nests(claim.item):
                        continue
                    if ledger.record_nest(claim, nest(claim, index)) is Recorded.WON:
                        with noting:
                            recorded.append((claim.item_id, index))
                    if rng.random() < 0.05:
                        clock.sleep(700)  # a pilot that freezes past its lease
                ledger.finish(claim, nests_done=3)
            except (LeaseLost, OutcomeUnknown, MoveRefused):
                continue
            except PyAnamoError:
                # A read that was never answered: a pilot goes on with its next sweep.
                continue

    # When four pilots of each of two runs work on them at once
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    # Then every item is done, every nest was recorded by one claim, and no nest's fence is above its item's
    items = list(quiet.items())
    assert sorted(item.item_id for item in items) == sorted(f"i{n}" for n in range(24))
    assert {item.state for item in items} == {State.DONE}
    assert len(recorded) == len(set(recorded)) <= 72
    for item in items:
        rows = quiet.nests(item)
        assert [row.status for row in rows.values()] == [NestStatus.DONE] * 3
        assert all(row.fence <= item.fence for row in rows.values())


def test_eight_threads_claim_each_item_once(quiet: Ledger) -> None:
    for number in range(60):
        imported(quiet, f"i{number}", LOCI)

    def take(pilot: int) -> list[str]:
        names = [f"i{number}" for number in range(60)]
        random.Random(pilot).shuffle(names)
        return [name for name in names if quiet.claim(name, f"p{pilot}")]

    with ThreadPoolExecutor(8) as pool:
        taken = [name for names in pool.map(take, range(8)) for name in names]
    assert sorted(taken) == sorted(f"i{number}" for number in range(60))
    assert {item.fence for item in quiet.items(State.LOCKED)} == {1}
