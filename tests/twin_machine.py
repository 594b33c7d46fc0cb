"""Both ledgers side by side: the twin in memory and DynamoDB's are given the same moves at the same time.

A hypothesis state machine draws the moves, legal or not. Answers must be the same (values, or type and words of the
error), and after each step so must all rows, and fsck must find no fault in them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ledger_suite import undying
from twin_rows import comparable, faults_of, plain, rows_of_table, rows_of_twin

from pyanamo_core.aws import Clients
from pyanamo_core.clock import FakeClock
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.ledger import Ledger, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import (
    Attempt,
    Cause,
    Claim,
    Definition,
    Item,
    Nest,
    NestStatus,
    Output,
    Recorded,
    Rules,
    State,
)
from pyanamo_core.workflow import Buckets, Budgets, Timing, Workflow

RULES = Rules(max_tries=2, max_interruptions=2, lease_seconds=100, shards=2)
NAMES = ("a", "b", "ü/1")
BIG = Definition(script="bash call.sh", arguments=tuple(f"chr1:{n}00-{n}99" for n in range(60)))
"""Too big for an item's row: these stand in rows of their own."""
DEFINITIONS = (
    Definition(script="x", arguments=("1", "2")),
    Definition(script="y", arguments=("1", "2")),
    Definition(script="seq 8"),
    BIG,
)
PILOTS = ("p1", "p2", "p1", "p2", "p3" * 33)
OPEN_OR_ENDED = (State.TODO, State.WAITING, State.DONE, State.FAILED, State.CANCELLED)
RUNS = ("r1", "r1", "r1", "r2")
FLAG = st.booleans()
MAY_BE_NONE = {"claim", "expire", "watch"}
"""Moves that answer None where they are refused."""
MOSTLY = st.sampled_from([True, True, True, False])


def workflow(pilots: int) -> Workflow:
    return Workflow(
        name="Twins",
        queue="q",
        job_definition="d",
        buckets=Buckets(results="s3://results/x"),
        budgets=Budgets(tries=RULES.max_tries, interruptions=RULES.max_interruptions),
        timing=Timing(lease_seconds=RULES.lease_seconds, beat_seconds=20),
        shards=RULES.shards,
        pilots=pilots,
    )


# ---------------------------------------------------------------------------------------------------------- machines


class Both(RuleBasedStateMachine):
    """What both machines share: the two ledgers, one call to both, and what must hold after each step."""

    clients: Clients
    table_name: str
    answers: Counter[tuple[str, str]]
    """(move, `won`, `None` or the error's type) → how often, over all examples."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.clock = FakeClock()
        self.table = Ledger(self.clients, self.table_name, rules=RULES, clock=self.clock, rng=random.Random(seed))
        self.twin = MemoryLedger(RULES, self.clock, random.Random(seed + 1), table=self.table_name)
        self._empty()
        self.both("version", lambda ledger: ledger.add_workflow(workflow(1)))
        self.begin()

    def begin(self) -> None:
        """What stands before the first move."""

    def _empty(self) -> None:
        client = self.clients.client("dynamodb")
        gone = [
            {"DeleteRequest": {"Key": rows.key(r[x.HASH]["S"], r[x.RANGE]["S"])}} for r in rows_of_table(self.table)
        ]
        for begin in range(0, len(gone), 25):
            client.batch_write_item(RequestItems={self.table_name: gone[begin : begin + 25]})

    def both(self, move: str, do: Callable[[Any], Any]) -> Any:
        """The same to both; returns the table's answer, or None where it was an error."""
        answers: list[object] = []
        kind = "won"
        for ledger in (self.twin, self.table):
            try:
                answers.append(do(ledger))
            except PyAnamoError as error:
                kind = type(error).__name__
                answers.append(f"{kind}: {error}")
        assert plain(answers[0]) == plain(answers[1]), f"{move}: {answers[0]} in memory, {answers[1]} in the table"
        self.answers[move, "None" if answers[1] is None and kind == "won" and move in MAY_BE_NONE else kind] += 1
        return answers[1] if kind == "won" else None

    @rule(seconds=st.sampled_from([1, 40, 99, 112, 200]))
    def time_passes(self, seconds: int) -> None:
        self.clock.move(seconds)

    @invariant()
    def rows_are_the_same_and_sound(self) -> None:
        if not hasattr(self, "table"):
            return
        of_table, of_twin = rows_of_table(self.table), rows_of_twin(self.twin)
        assert comparable(of_twin) == comparable(of_table)
        assert faults_of(of_table, RULES, self.clock.now()) == []
        assert faults_of(of_twin, RULES, self.clock.now()) == []

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.both("counts", lambda ledger: ledger.counts())
            self.both("claimable", lambda ledger: ledger.claimable(within_seconds=10))


class Items(Both):
    """Moves of items. Claims and items are remembered as they were seen, and old ones are used again.

    What a caller owes the ledger is kept: a nest's result is one of its item's nests, counts are those that are recorded,
    and a fence is told only with the item that came with it.
    """

    def begin(self) -> None:
        self.claims: list[Claim] = []
        self.seen: list[Item] = []
        self.progressed: set[tuple[str, int]] = set()
        for name in NAMES[:2]:
            self.both("import", lambda ledger, name=name: ledger.import_item(name, "t", DEFINITIONS[0]))

    # ------------------------------------------------------------------------------------------------------ pilots

    @rule(name=st.sampled_from(NAMES), pilot=st.sampled_from(PILOTS), run=st.sampled_from(["r1", ""]), told=FLAG)
    def claim(self, name: str, pilot: str, run: str, told: bool) -> None:
        """Claim or reclaim; `told`: the pilot lives long enough to write its attempt row."""
        claim = self.both("claim", lambda ledger: ledger.claim(name, pilot, run_id=run))
        if claim is None:
            return
        self.claims.append(claim)
        if told:
            began = Attempt(
                item_id=name, fence=claim.fence, epoch=claim.epoch, pilot_id=pilot, started=self.clock.now()
            )
            self.both("attempt", lambda ledger: ledger.put_attempt(began))

    @rule(name=st.sampled_from(NAMES))
    def look(self, name: str) -> None:
        item = self.both("item", lambda ledger: ledger.item(name))
        if item is not None:
            self.seen.append(item)

    @rule(name=st.sampled_from(NAMES))
    def expire(self, name: str) -> None:
        self.both("expire", lambda ledger: ledger.expire(name))

    @rule(name=st.sampled_from(NAMES[:2]), times=st.integers(1, 3))
    def pilots_die(self, name: str, times: int) -> None:
        """Pilots take the item one after the other and are never heard of again, until somebody must end it."""
        for _ in range(times):
            self.claim(name, "p1", "r1", told=False)
            self.clock.move(112)
        if self.twin.item(name).interruptions >= RULES.max_interruptions:
            self.expire(name)

    def a_claim(self, data: Any) -> Claim | None:
        """Mostly one that holds its item (made now, if there is none), else one of the last; as its pilot knows it, of a
        process that does not know how late it is, or of nobody, with a fence that was never given."""
        likely = data.draw(MOSTLY)
        held = [claim for claim in self.claims if self.holds(claim)]
        if likely and not held:
            self.claim(data.draw(st.sampled_from(NAMES[:2])), "p1", "r1", told=data.draw(FLAG))
            held = [claim for claim in self.claims if self.holds(claim)]
        if not self.claims:
            return None
        claim = data.draw(st.sampled_from(held if likely and held else self.claims[-4:]))
        what = data.draw(st.sampled_from(["as it is", "as it is", "as it is", "undying", "forged"]))
        if what == "as it is":
            return claim
        if what == "forged":
            fence = claim.fence + data.draw(st.sampled_from([-1, 1]))
            if fence != self.twin.item(claim.item_id).fence:
                claim = claim.model_copy(update={"item": claim.item.model_copy(update={"fence": fence})})
        return undying(claim)

    def holds(self, claim: Claim) -> bool:
        item = self.twin.item(claim.item_id)
        return item.state is State.LOCKED and item.fence == claim.fence

    def progress(self, claim: Claim, told: bool) -> bool:
        """A claim that has once told of progress tells of it to its end, as a pilot does."""
        if told:
            self.progressed.add((claim.item_id, claim.fence))
        return (claim.item_id, claim.fence) in self.progressed

    def done(self, claim: Claim) -> int:
        """The nests that are recorded as done, as the claim's pilot counts them."""
        return sum(1 for nest in self.twin.nests(claim.item).values() if nest.status is NestStatus.DONE)

    @rule(data=st.data(), progressed=FLAG)
    def beat(self, data: Any, progressed: bool) -> None:
        claim = self.a_claim(data)
        if claim is None:
            return
        counts = {"nests_done": self.done(claim), "nests_failed": 0}
        sofar = self.progress(claim, progressed)
        beaten = self.both("beat", lambda ledger: ledger.beat(claim, progressed=sofar, **counts))
        if beaten is not None and claim in self.claims:
            self.claims[self.claims.index(claim)] = claim.model_copy(update={"deadline": beaten.deadline})

    @rule(
        data=st.data(),
        index=st.integers(0, 2),
        status=st.sampled_from([NestStatus.DONE, NestStatus.DONE, NestStatus.FAILED]),
        tail=st.sampled_from(["", "t", "t" * 600]),
    )
    def record(self, data: Any, index: int, status: NestStatus, tail: str) -> None:
        claim = self.a_claim(data)
        if claim is None:
            return
        if claim.fence > self.twin.item(claim.item_id).fence:
            return  # a fence that was never given comes with no message from a pilot
        self._record(claim, min(index, claim.item.nests - 1), status, tail)

    def _record(self, claim: Claim, index: int, status: NestStatus, tail: str) -> None:
        made = Nest(
            item_id=claim.item_id,
            epoch=claim.epoch,
            index=index,
            status=status,
            fence=claim.fence,
            tail=tail,
            outputs=(Output(uri="s3://results/x", bytes=index),),
            figures={"variants": index},
        )
        answer = self.both("record", lambda ledger: ledger.record_nest(claim, made))
        if answer is Recorded.KEPT:
            self.answers["record", "kept"] += 1

    @rule(name=st.sampled_from(NAMES[:2]), index=st.integers(0, 1), first=st.sampled_from(NestStatus))
    def a_zombie_records(self, name: str, index: int, first: NestStatus) -> None:
        """A pilot is taken for dead, its successor (or a redo) leaves a row, and then its own result arrives."""
        self.claim(name, "p1", "r1", told=False)
        old = self.claims[-1:]
        self.clock.move(112)
        self.claim(name, "p2", "r1", told=False)
        held = [claim for claim in self.claims if self.holds(claim) and claim.item_id == name]
        if not held or not old or old[0].item_id != name or index >= old[0].item.nests:
            return
        if first is NestStatus.RESET:
            item = self.both("fail", lambda ledger: ledger.fail(held[-1], Cause.PERMANENT, "m"))
            if item is not None:
                self.both("redo", lambda ledger: ledger.redo(item, [index]))
        else:
            self._record(held[-1], index, first, "")
        self._record(undying(old[0]), index, NestStatus.DONE, "t" * 600)

    @rule(name=st.sampled_from(NAMES[:2]))
    def a_pilot_does_its_item(self, name: str) -> None:
        self.claim(name, "p1", "r1", told=True)
        held = [claim for claim in self.claims if self.holds(claim) and claim.item_id == name]
        if not held or held[-1].item.nests > 3:
            return
        claim = held[-1]
        for index in range(claim.item.nests):
            self._record(claim, index, NestStatus.DONE, "")
        self.both("finish", lambda ledger: ledger.finish(claim, nests_done=self.done(claim), note="n" * 130))

    @rule(data=st.data(), wrong=st.sampled_from([0, 0, 1]))
    def finish(self, data: Any, wrong: int) -> None:
        claim = self.a_claim(data)
        if claim is None:
            return
        told = self.done(claim) if not wrong else claim.item.nests + wrong
        self.both("finish", lambda ledger: ledger.finish(claim, nests_done=told))

    @rule(data=st.data(), message=st.sampled_from(["m", "ü" * 100]))
    def fail(self, data: Any, message: str) -> None:
        claim = self.a_claim(data)
        if claim is None:
            return
        counts = {"nests_done": self.done(claim), "nests_failed": 1}
        self.both("fail", lambda ledger: ledger.fail(claim, Cause.PERMANENT, message, **counts))

    @rule(data=st.data(), factor=st.sampled_from([1.0, 1.5]), delay=st.sampled_from([0, 50, -1]))
    def wait(self, data: Any, factor: float, delay: int) -> None:
        claim = self.a_claim(data)
        if claim is None:
            return
        more = {"delay_seconds": delay, "memory_factor": factor, "nests_done": self.done(claim)}
        self.both("wait", lambda ledger: ledger.wait(claim, Cause.TASK_ERROR, "m", **more))

    @rule(data=st.data(), progressed=FLAG, started=FLAG, counts=FLAG)
    def hand_back(self, data: Any, progressed: bool, started: bool, counts: bool) -> None:
        claim = self.a_claim(data)
        if claim is None:
            return
        sofar = self.progress(claim, progressed)
        more = {"progressed": sofar, "started": started, "counts": counts, "nests_done": self.done(claim)}
        self.both("hand back", lambda ledger: ledger.hand_back(claim, Cause.SPOT, "m", **more))

    @rule(data=st.data(), cause=st.sampled_from([None, Cause.DONE, Cause.SPOT]))
    def attempt(self, data: Any, cause: Cause | None) -> None:
        claim = self.a_claim(data)
        if claim is None or claim.fence > self.twin.item(claim.item_id).fence:
            return
        told = Attempt(
            item_id=claim.item_id,
            fence=claim.fence,
            host="h",
            cause=cause,
            ended=self.clock.now() if cause else None,
            evidence="e" * 130,
        )
        self.both("attempt", lambda ledger: ledger.put_attempt(told))

    # ------------------------------------------------------------------------------------------------------- users

    @rule(
        name=st.sampled_from(NAMES),
        definition=st.sampled_from(DEFINITIONS),
        update=FLAG,
        priority=st.sampled_from([5, 0]),
    )
    def import_item(self, name: str, definition: Definition, update: bool, priority: int) -> None:
        self.both("import", lambda ledger: ledger.import_item(name, "t", definition, priority=priority, update=update))

    @rule(item_id=st.sampled_from(["!x", "", "x" * 257]))
    def import_of_a_bad_name(self, item_id: str) -> None:
        self.both("import", lambda ledger: ledger.import_item(item_id, "t", DEFINITIONS[0]))

    def an_item(self, data: Any, *likely: State) -> Item:
        """Mostly an item as it stands, in a state from which the move is legal, else one as it was seen a while ago."""
        if self.seen and not data.draw(MOSTLY):
            return data.draw(st.sampled_from(self.seen[-3:]))
        items = [self.twin.item(name) for name in NAMES[:2]]
        legal = [item for item in items if item.state in likely]
        return data.draw(st.sampled_from(legal if legal and data.draw(MOSTLY) else items))

    @rule(data=st.data(), factor=st.sampled_from([None, 2.0]), seconds=st.sampled_from([None, 30.0]))
    def retry(self, data: Any, factor: float | None, seconds: float | None) -> None:
        item = self.an_item(data, State.FAILED, State.CANCELLED)
        self.both("retry", lambda ledger: ledger.retry(item, memory_factor=factor, nest_seconds=seconds))

    @rule(data=st.data())
    def reset(self, data: Any) -> None:
        item = self.an_item(data, *OPEN_OR_ENDED)
        self.both("reset", lambda ledger: ledger.reset(item))

    @rule(data=st.data(), definition=st.sampled_from(DEFINITIONS))
    def edit(self, data: Any, definition: Definition) -> None:
        item = self.an_item(data, *OPEN_OR_ENDED)
        self.both("edit", lambda ledger: ledger.edit(item, definition))

    @rule(data=st.data(), values=st.sampled_from([["3"], ["4", "5"], ["6"], ["7"], ["1"], [""], []]))
    def extend(self, data: Any, values: list[str]) -> None:
        item = self.an_item(data, *OPEN_OR_ENDED)
        self.both("extend", lambda ledger: ledger.extend(item, values))

    @rule(data=st.data(), nests=st.sampled_from([[0], [0, 1], [1, 1], [7], [-1], []]))
    def redo(self, data: Any, nests: list[int]) -> None:
        item = self.an_item(data, State.DONE, State.FAILED)
        self.both("redo", lambda ledger: ledger.redo(item, nests))

    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        item = self.an_item(data, State.LOCKED, State.TODO)
        self.both("cancel", lambda ledger: ledger.cancel(item))

    @rule(
        data=st.data(),
        ago=st.sampled_from([70, 70, 70, 10]),
        owner=st.sampled_from(["", "", "", "", "p3"]),
        memory=st.sampled_from([None, None, 1.0, 1.5]),
    )
    def recover(self, data: Any, ago: int, owner: str, memory: float | None) -> None:
        self.a_claim(data)
        item = self.an_item(data, State.LOCKED)
        if owner:
            item = item.model_copy(update={"owner": owner})
        self.both(
            "recover",
            lambda ledger: ledger.recover(item, ended_at=self.clock.now() - ago, memory_factor=memory, message="m"),
        )

    # ----------------------------------------------------------------------------------------------------- read all

    @rule(state=st.sampled_from(State))
    def listings(self, state: State) -> None:
        """What is read through the index; its order is random within a state."""
        for shard in range(RULES.shards):
            self.both("candidates", lambda ledger, shard=shard: sorted(ledger.candidates(state, shard, limit=50)))
        self.both("ids", lambda ledger: sorted(ledger.item_ids(state)))
        self.both("count", lambda ledger: (ledger.count(state), ledger.count(state, bound=1)))
        self.both("items", lambda ledger: sorted(item.item_id for item in ledger.items()))

    @rule(name=st.sampled_from(NAMES))
    def read(self, name: str) -> None:
        item = self.both("item", lambda ledger: ledger.item(name))
        if item is None:
            return
        self.both("definition", lambda ledger: ledger.definition(item))
        nests = self.both("nests", lambda ledger: ledger.nests(item))
        self.both("attempts", lambda ledger: ledger.attempts(name))
        for nest in nests.values():
            self.both("tail", lambda ledger, nest=nest: ledger.tail(item, nest))
