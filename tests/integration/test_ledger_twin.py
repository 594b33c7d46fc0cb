"""The twin in memory and DynamoDB's ledger do the same, move by move, whatever the moves are."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

pytest.register_assert_rewrite("ledger_suite")

from ledger_suite import nest, undying  # noqa: E402

from pyanamo_core.aws import Clients  # noqa: E402
from pyanamo_core.clock import FakeClock  # noqa: E402
from pyanamo_core.errors import PyAnamoError  # noqa: E402
from pyanamo_core.ledger import Ledger  # noqa: E402
from pyanamo_core.ledger.memory import MemoryLedger  # noqa: E402
from pyanamo_core.ledger.table import create_table  # noqa: E402
from pyanamo_core.model import Cause, Claim, Definition, Item, Nest, NestStatus, Rules, State  # noqa: E402

RULES = Rules(max_tries=2, max_interruptions=2, lease_seconds=100, shards=2)
NAMES = st.sampled_from(["a", "b"])
FLAG = st.booleans()
# What may differ: tokens are random, and each side draws its own.
DRAWN = {"last_move": "", "token": ""}


def plain(value: object) -> object:
    """A value without what each side draws by itself."""
    if isinstance(value, Item | Nest):
        return value.model_copy(update={k: v for k, v in DRAWN.items() if k in type(value).model_fields})
    if isinstance(value, Claim):
        return value.model_copy(update={"item": plain(value.item)})
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return value


class Twins(RuleBasedStateMachine):
    """Both ledgers get the same moves at the same time; claims are remembered, and old ones used again."""

    clients: Clients

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.clock = FakeClock()
        table = f"twin-{uuid.uuid4().hex}"
        create_table(self.clients, table, deletion_protection=False, pitr=False, wait=False)
        self.table = Ledger(self.clients, table, rules=RULES, clock=self.clock, rng=random.Random(f"{seed} {table}"))
        self.twin = MemoryLedger(RULES, self.clock, random.Random(seed), table=table)
        self.claims: list[Claim] = []
        self.seen: list[Item] = []
        for name in ("a", "b"):
            self.both(
                lambda ledger, name=name: ledger.import_item(name, "t", Definition(script="x", arguments=("1", "2")))
            )

    def both(self, do: Callable[[Any], Any]) -> Any:
        answers: list[object] = []
        for ledger in (self.twin, self.table):
            try:
                answers.append(do(ledger))
            except PyAnamoError as error:
                answers.append(f"{type(error).__name__}: {error}")
        assert plain(answers[0]) == plain(answers[1])
        return answers[1]

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.both(lambda ledger: ledger.counts())
            self.both(lambda ledger: ledger.claimable(within_seconds=10))
            self.clients.client("dynamodb").delete_table(TableName=self.table.table)

    @rule(seconds=st.sampled_from([1, 40, 99, 112, 200]))
    def time_passes(self, seconds: int) -> None:
        self.clock.move(seconds)

    @rule(name=NAMES, pilot=st.sampled_from(["p1", "p2"]))
    def claim(self, name: str, pilot: str) -> None:
        claim = self.both(lambda ledger: ledger.claim(name, pilot, run_id="r"))
        if isinstance(claim, Claim):
            self.claims.append(claim)

    @rule(name=NAMES)
    def look(self, name: str) -> None:
        self.seen.append(self.both(lambda ledger: ledger.item(name)))

    @rule(name=NAMES)
    def expire(self, name: str) -> None:
        self.both(lambda ledger: ledger.expire(name))

    def a_claim(self, data: Any) -> Claim:
        claim = data.draw(st.sampled_from(self.claims[-4:]))
        return undying(claim) if data.draw(FLAG) else claim

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), progressed=FLAG, done=st.integers(0, 2))
    def beat(self, data: Any, progressed: bool, done: int) -> None:
        claim = self.a_claim(data)
        beaten = self.both(lambda ledger: ledger.beat(claim, progressed=progressed, nests_done=done, nests_failed=0))
        if not isinstance(beaten, str) and claim in self.claims:
            self.claims[self.claims.index(claim)] = claim.model_copy(update={"deadline": beaten.deadline})

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), index=st.integers(0, 1), status=st.sampled_from([NestStatus.DONE, NestStatus.FAILED]))
    def record(self, data: Any, index: int, status: NestStatus) -> None:
        claim = self.a_claim(data)
        self.both(lambda ledger: ledger.record_nest(claim, nest(claim, index, status, tail="t")))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), done=st.integers(1, 3))
    def finish(self, data: Any, done: int) -> None:
        claim = self.a_claim(data)
        self.both(lambda ledger: ledger.finish(claim, nests_done=done))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def fail(self, data: Any) -> None:
        claim = self.a_claim(data)
        self.both(lambda ledger: ledger.fail(claim, Cause.PERMANENT, "m", nests_failed=1))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), factor=st.sampled_from([1.0, 1.5]))
    def wait(self, data: Any, factor: float) -> None:
        claim = self.a_claim(data)
        self.both(lambda ledger: ledger.wait(claim, Cause.TASK_ERROR, "m", delay_seconds=50, memory_factor=factor))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), progressed=FLAG, started=FLAG, counts=FLAG)
    def hand_back(self, data: Any, progressed: bool, started: bool, counts: bool) -> None:
        claim = self.a_claim(data)
        self.both(
            lambda ledger: ledger.hand_back(
                claim, Cause.SPOT, "m", progressed=progressed, started=started, counts=counts, nests_done=1
            )
        )

    @precondition(lambda self: self.seen)
    @rule(
        data=st.data(),
        move=st.sampled_from(
            [
                lambda ledger, item: ledger.retry(item),
                lambda ledger, item: ledger.retry(item, memory_factor=2.0, nest_seconds=30.0),
                lambda ledger, item: ledger.reset(item),
                lambda ledger, item: ledger.edit(item, Definition(script="y", arguments=("1", "2"))),
                lambda ledger, item: ledger.extend(item, ["3"]),
                lambda ledger, item: ledger.redo(item, [0]),
                lambda ledger, item: ledger.cancel(item),
                lambda ledger, item: ledger.cancel(item),
            ]
        ),
    )
    def user(self, data: Any, move: Callable[[Any, Item], Item]) -> None:
        item = data.draw(st.sampled_from(self.seen[-3:]))
        self.both(lambda ledger: move(ledger, item))

    @precondition(lambda self: self.seen)
    @rule(data=st.data(), ago=st.sampled_from([10, 70]))
    def recover(self, data: Any, ago: int) -> None:
        item = data.draw(st.sampled_from(self.seen[-3:]))
        self.both(lambda ledger: ledger.recover(item, ended_at=self.clock.now() - ago))

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "table"):
            return
        for name in ("a", "b"):
            item = self.both(lambda ledger, name=name: ledger.item(name))
            rows = self.both(lambda ledger, item=item: ledger.nests(item))
            self.both(lambda ledger, item=item: ledger.attempts(item.item_id))
            assert all(row.fence <= item.fence for row in rows.values())
            if item.state is State.TODO:
                assert item.tries < RULES.max_tries
                assert not item.cancelled


def test_the_twin_does_what_dynamodb_does(dynamodb_clients: Clients) -> None:
    Twins.clients = dynamodb_clients
    run_state_machine_as_test(
        Twins,
        settings=settings(
            max_examples=10,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # a failure is told as it was found: making it small would take minutes
        ),
    )
