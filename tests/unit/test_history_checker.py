"""The checker of histories is itself checked: broken ledgers are caught, the sound one never is, in the same stories."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from broken_ledgers import (
    BROKEN,
    ImportOverwrites,
    ImportOverwritesRows,
    NestTwice,
    NoExpiry,
    NoFence,
    NoMargin,
    NoSelfHeal,
    ResetWithoutEpoch,
    ReusedAttemptNumbers,
    UnconditionalFinish,
    Wire,
    World,
)
from checker import Table, Violation, check, told
from history import LOST, UNKNOWN, WON, Histories, History, LoggedLedger, Op, read_histories
from toy_world import RULES, ToyWorld

from pyanamo_core.errors import LeaseLost
from pyanamo_core.model import Cause, Claim, Definition, Item, Nest, NestStatus, State

ONE = Definition(script="work", arguments=("a", "b"))
OTHER = Definition(script="other work", arguments=("a", "b"))
LEASE = RULES.lease_seconds
SOUND_SEEDS = range(12)


class Stage:
    """One item, and actors that are told what to do."""

    def __init__(self, make: type[Wire], folder: Path) -> None:
        self.world = World()
        self.wire = make(RULES, self.world, random.Random(1))
        self._folder = folder
        self._ticks = 0
        self._histories: dict[str, History] = {}
        self.user = self.actor("user")
        self.user.import_item("i", "T", ONE)

    def _now(self) -> float:
        self._ticks += 1
        return self.world.monotonic() + self._ticks * 1e-9

    def actor(self, name: str) -> LoggedLedger:
        history = History(self._folder / f"{name}.jsonl", name, self._now)
        self._histories[name] = history
        return LoggedLedger(self.wire, history)

    def claims(self, name: str) -> tuple[LoggedLedger, Claim]:
        """A new pilot claims the item, and gets it."""
        ledger = self.actor(name)
        claim = ledger.claim("i", name)
        assert claim is not None
        assert ledger.definition(claim.item)
        return ledger, claim

    @contextmanager
    def running(self, claim: Claim, index: int) -> Iterator[None]:
        history = self._histories[claim.pilot_id]
        run = history.begin("run", "i", fence=claim.fence, epoch=claim.epoch, nest=index)
        yield
        history.end(run, WON)

    def does(self, ledger: LoggedLedger, claim: Claim, *indexes: int) -> None:
        """The pilot runs and records nests."""
        for index in indexes:
            with self.running(claim, index):
                pass
            ledger.record_nest(claim, row(claim, index))

    def does_all(self, ledger: LoggedLedger, claim: Claim) -> None:
        """The pilot does what is not done, and finishes."""
        done = ledger.nests(claim.item)
        self.does(ledger, claim, *(index for index in range(2) if index not in done))
        ledger.finish(claim, nests_done=2)

    def meanwhile(self, happens: Callable[[], None]) -> None:
        """While the next call is under way, this happens."""

        def travel() -> None:
            self.wire.travel = lambda: None
            happens()

        self.wire.travel = travel

    def lose_an_answer(self) -> None:
        lost = iter([True])
        self.wire.loses = lambda: next(lost, False)

    def pass_lease(self) -> None:
        self.world.move(LEASE + RULES.margin_seconds + 1)

    def end(self) -> list[Violation]:
        """Long afterwards: the verdict."""
        self.world.move(10 * LEASE)
        item = self.wire.item("i")
        table = Table({"i": item}, {"i": self.wire.nests(item)}, self.world.now() - 5 * LEASE, LEASE)
        return check(read_histories(self._folder.glob("*.jsonl")), table)


def row(claim: Claim, index: int) -> Nest:
    return Nest(
        item_id=claim.item_id, epoch=claim.epoch, index=index, status=NestStatus.DONE, fence=claim.fence, exit_code=0
    )


# -------------------------------------------------------------------------------------------------------------- stories


def a_late_hand_back_meets_a_new_owner(stage: Stage) -> None:
    first, claim = stage.claims("first")
    taken: list[tuple[LoggedLedger, Claim]] = []

    def overtaken() -> None:
        stage.pass_lease()
        taken.append(stage.claims("second"))

    stage.meanwhile(overtaken)
    with suppress(LeaseLost):
        first.hand_back(claim, Cause.SPOT, progressed=False, started=True)
    second, held = taken[0]
    with stage.running(held, 0):
        third = stage.actor("third")
        third.claim("i", "third")
    try:
        second.record_nest(held, row(held, 0))
        stage.does(second, held, 1)
        second.finish(held, nests_done=2)
    except LeaseLost:
        pass


def a_claim_s_answer_is_lost(stage: Stage) -> None:
    stage.lose_an_answer()
    first = stage.actor("first")
    claim = first.claim("i", "first")
    if claim is None:
        stage.pass_lease()
        first, claim = stage.claims("second")
    stage.does_all(first, claim)


def a_late_finish_meets_a_new_owner(stage: Stage) -> None:
    first, claim = stage.claims("first")
    stage.does(first, claim, 0, 1)
    taken: list[tuple[LoggedLedger, Claim]] = []

    def overtaken() -> None:
        stage.pass_lease()
        taken.append(stage.claims("second"))

    stage.meanwhile(overtaken)
    with suppress(LeaseLost):
        first.finish(claim, nests_done=2)
    second, held = taken[0]
    with suppress(LeaseLost):
        second.finish(held, nests_done=2)


def clocks_disagree(stage: Stage) -> None:
    with stage.world.seen_with(-5.0):
        first, claim = stage.claims("first")
    with stage.running(claim, 0):
        stage.world.move(LEASE - 2)
        second = stage.actor("second")
        taken = second.claim("i", "second")
        stage.world.move(1)
    if taken is None:
        first.record_nest(claim, row(claim, 0))
        stage.does(first, claim, 1)
        first.finish(claim, nests_done=2)
    else:
        stage.does_all(second, taken)


def a_pilot_dies_and_another_takes_over(stage: Stage) -> None:
    stage.claims("first")
    stage.pass_lease()
    stage.does_all(*stage.claims("second"))


def another_definition_is_imported(stage: Stage) -> None:
    stage.user.import_item("i", "T", OTHER)
    stage.does_all(*stage.claims("first"))


def an_item_is_reset_and_done_again(stage: Stage) -> None:
    stage.does_all(*stage.claims("first"))
    stage.user.reset(stage.wire.item("i"))
    stage.does_all(*stage.claims("second"))


def every_pilot_that_takes_it_dies(stage: Stage) -> None:
    for number in range(RULES.max_interruptions + 1):
        stage.claims(f"pilot-{number}")
        stage.pass_lease()
    last = stage.actor("last")
    assert last.claim("i", "last") is None
    last.expire("i")


def two_pilots_record_one_nest(stage: Stage) -> None:
    first, claim = stage.claims("first")
    with stage.running(claim, 0):
        pass

    def overtaken() -> None:
        stage.pass_lease()
        stage.does_all(*stage.claims("second"))

    stage.meanwhile(overtaken)
    first.record_nest(claim, row(claim, 0))


STORIES: list[tuple[Callable[[Stage], None], type[Wire], str]] = [
    (a_late_hand_back_meets_a_new_owner, NoFence, "acting"),
    (a_claim_s_answer_is_lost, NoSelfHeal, "unowned"),
    (a_late_finish_meets_a_new_owner, UnconditionalFinish, "released"),
    (clocks_disagree, NoMargin, "acting"),
    (a_pilot_dies_and_another_takes_over, ReusedAttemptNumbers, "fence"),
    (another_definition_is_imported, ImportOverwrites, "definition"),
    (another_definition_is_imported, ImportOverwritesRows, "definition"),
    (an_item_is_reset_and_done_again, ResetWithoutEpoch, "epoch"),
    (every_pilot_that_takes_it_dies, NoExpiry, "lost"),
    (two_pilots_record_one_nest, NestTwice, "twice"),
]


@pytest.mark.parametrize(("story", "make", "rule"), STORIES, ids=[make.__name__ for _, make, _ in STORIES])
def test_a_ledger_without_a_rule_is_caught_and_the_sound_one_passes_the_same_story(
    story: Callable[[Stage], None], make: type[Wire], rule: str, tmp_path: Path
) -> None:
    # Given the same story on a sound ledger and on one that lacks a rule
    found: dict[str, list[Violation]] = {}
    for each in (Wire, make):
        folder = tmp_path / each.__name__
        folder.mkdir()
        stage = Stage(each, folder)
        # When it is played, and its history is checked
        story(stage)
        found[each.__name__] = stage.end()
    # Then only the broken ledger is found out, by the rule that it breaks, and the lines that show it are named
    assert found["Wire"] == [], told(found["Wire"])
    assert rule in {each.rule for each in found[make.__name__]}, told(found[make.__name__])
    if rule != "lost":
        assert ".jsonl:" in told(found[make.__name__])


def test_every_broken_ledger_has_its_story() -> None:
    assert {make for _, make, _ in STORIES} == set(BROKEN)


# ------------------------------------------------------------------------------------------------------------ bad weather


@pytest.mark.parametrize("seed", SOUND_SEEDS)
def test_a_sound_ledger_passes_in_bad_weather(seed: int, tmp_path: Path) -> None:
    found = ToyWorld(Wire, tmp_path, seed).run()
    assert found == [], told(found)


COINCIDENCES = {NoFence, NoMargin}
"""Shown by one seed in twenty; their stories show them for certain."""


@pytest.mark.parametrize("make", [make for make in BROKEN if make not in COINCIDENCES], ids=lambda make: make.__name__)
def test_a_broken_ledger_is_found_in_bad_weather(make: type[Wire], tmp_path: Path) -> None:
    found: set[str] = set()
    for seed in range(8):
        folder = tmp_path / str(seed)
        folder.mkdir()
        found |= {each.rule for each in ToyWorld(make, folder, seed).run()}
        if BROKEN[make] in found:
            return
    pytest.fail(f"no seed shows it: {found}")


# -------------------------------------------------------------------------------------------------------- rule by rule


def op(kind: str, began: float, outcome: str = WON, *, took: float = 0.1, actor: str = "p", **told: object) -> Op:
    return Op(actor, kind, "i", began, dict(told), "x.jsonl:1", began + took, outcome)


def claim(began: float, fence: int, *, actor: str = "p", deadline: float = 1000.0, **more: object) -> Op:
    shown: dict[str, object] = {"epoch": 0, "hash": "h", "nests": 1, "tries": 1, "deadline": deadline}
    return op("claim", began, actor=actor, fence=fence, **(shown | more))


def record(began: float, fence: int, outcome: str = WON, *, actor: str = "p", **more: object) -> Op:
    shown: dict[str, object] = {"epoch": 0, "nest": 0, "status": "done", "deadline": 1000.0}
    return op("record", began, outcome, actor=actor, fence=fence, **(shown | more))


IMPORT = op("import", 0, hash="h", nests=1, update=False, imported="created")


def verdict(*ops: Op, item: Item | None = None, nests: dict[int, Nest] | None = None) -> set[str]:
    standing = item or Item(item_id="i", task_id="T", state=State.FAILED, fence=9, definition_hash="h")
    signs = {each.actor: max(o.ended for o in ops if o.actor == each.actor and o.ended < 1e9) for each in ops}
    table = Table({"i": standing}, {"i": nests or {}}, over_before=500.0, lease_seconds=100.0)
    ghosts = [op("claim", 0, UNKNOWN, took=5000) for _ in range(9)]
    return {each.rule for each in check(Histories([IMPORT, *ops, *ghosts], signs), table)}


def test_an_orderly_life_is_no_violation() -> None:
    life = [claim(1, 1), op("run", 2, fence=1, nest=0), record(3, 1)]
    assert verdict(*life, op("finish", 4, fence=1, epoch=0, deadline=1000.0, nests_done=1, state="done")) == set()


def test_a_write_begun_past_its_own_deadline_must_not_be_accepted() -> None:
    assert verdict(claim(1, 1, deadline=5), record(6, 1, deadline=5.0)) == {"deadline"}
    assert verdict(claim(1, 1, deadline=5), record(6, 1, LOST, deadline=5.0)) == set()


def test_a_write_under_way_when_the_next_fence_is_given_is_no_violation_but_one_begun_later_is() -> None:
    second = claim(10, 2, actor="q")
    assert verdict(claim(1, 1), record(9, 1, took=5), second) == set()
    assert verdict(claim(1, 1), record(11, 1), second) == {"acting"}


def test_a_nest_whose_pilot_was_killed_ran_until_its_pilot_s_last_sign() -> None:
    run = Op("p", "run", "i", 2, {"fence": 1, "epoch": 0, "nest": 0}, "x:1")
    second = claim(50, 2, actor="q")
    alive = op("beat", 60, LOST, fence=1, deadline=1000.0)
    assert verdict(claim(1, 1), run, second) == set()
    assert verdict(claim(1, 1), run, second, alive) == {"acting"}


def test_a_frozen_pilot_s_nest_counts_only_up_to_its_own_deadline() -> None:
    run = op("run", 2, took=500, fence=1, epoch=0, nest=0)
    assert verdict(claim(1, 1, deadline=40), run, claim(50, 2, actor="q")) == set()
    beat = op("beat", 30, fence=1, deadline=40.0, renewed=80.0)
    assert verdict(claim(1, 1, deadline=40), run, beat, claim(50, 2, actor="q")) == {"acting"}


def test_a_late_copy_of_an_owner_s_write_must_be_refused_once_another_owns_the_item() -> None:
    second = claim(50, 2, actor="q")
    late = op("late", 60, actor="network", fence=1, owners=True)
    assert verdict(claim(1, 1), second, late) == {"acting"}
    unfenced = op("late", 60, actor="network", owners=True, stale=True)
    assert verdict(claim(1, 1), second, unfenced) == {"acting"}


def test_a_nest_recorded_by_whoever_has_no_such_claim_is_a_violation() -> None:
    assert verdict(claim(1, 1), record(2, 1, actor="q")) == {"nest fence"}


def test_a_finish_needs_each_nest_and_an_answer_to_each_put() -> None:
    finish = op("finish", 4, fence=1, epoch=0, deadline=1000.0, nests_done=1, state="done")
    assert verdict(claim(1, 1), finish) == {"done"}
    assert verdict(claim(1, 1), record(3, 1, took=9), finish) == {"done"}
    assert verdict(claim(1, 1), record(3, 1, status="failed"), finish) == {"done"}
    assert verdict(claim(1, 1, nests=2), record(3, 1), finish) == {"done"}


def test_what_is_recorded_as_done_must_have_run_to_its_end() -> None:
    ran = op("run", 2, fence=1, nest=0)
    assert verdict(claim(1, 1), ran, record(3, 1)) == set()
    assert verdict(claim(1, 1), op("run", 2, "timed_out", fence=1, nest=0), record(3, 1)) == {"verified"}
    assert verdict(claim(1, 1), op("run", 2, fence=1, nest=1), record(3, 1)) == {"verified"}


def test_an_item_that_vanished_or_stays_locked_or_open_is_lost() -> None:
    gone = Table({}, {}, 500.0, 100.0)
    assert {each.rule for each in check(Histories([IMPORT], {}), gone)} == {"lost"}
    told = {"item_id": "i", "task_id": "T", "definition_hash": "h", "fence": 1}
    for state, lease_end in ((State.LOCKED, 400.0), (State.LOCKED, 900.0), (State.TODO, None), (State.WAITING, None)):
        item = Item(**told, state=state, lease_end=lease_end)
        assert verdict(claim(1, 1), item=item) == {"lost"}


def test_a_done_item_whose_nests_are_not_and_a_nest_above_its_item_are_seen_in_the_table() -> None:
    told = {"item_id": "i", "task_id": "T", "definition_hash": "h", "fence": 1, "state": State.DONE}
    high = Nest(item_id="i", epoch=0, index=0, status=NestStatus.DONE, fence=2)
    assert verdict(claim(1, 1), item=Item(**told)) == {"done"}
    assert "nest fence" in verdict(claim(1, 1), item=Item(**told), nests={0: high})


def test_an_owner_that_is_refused_although_nobody_else_had_the_item_was_robbed() -> None:
    held = claim(1, 1)
    refused = op("beat", 5, LOST, fence=1, deadline=1000.0, why="it is todo")
    item = Item(item_id="i", task_id="T", definition_hash="h", fence=1, state=State.FAILED)
    gone = Table({"i": item}, {}, over_before=500.0, lease_seconds=100.0)

    def rules(*ops: Op) -> set[str]:
        return {each.rule for each in check(Histories([IMPORT, held, *ops], {}), gone)}

    assert rules(refused) == {"robbed"}
    assert rules(op("beat", 5, LOST, fence=1, deadline=1000.0, why="its lease is over by our own clock")) == set()
    assert rules(op("hand back", 3, UNKNOWN, fence=1, deadline=1000.0), refused) == set()
    assert rules(op("reset", 3, UNKNOWN, actor="user", seen=1), refused) == set()
    assert rules(Op("q", "claim", "i", 4, {}, "x:1"), refused) == set()


def test_an_item_that_is_cancelled_against_its_user_s_last_word_is_seen() -> None:
    told = {"item_id": "i", "task_id": "T", "definition_hash": "h", "fence": 0, "state": State.CANCELLED}
    retried = op("retry", 9, fence=0)
    assert verdict(item=Item(**told)) == {"unasked"}
    assert verdict(op("cancel", 5, fence=0), item=Item(**told)) == set()
    assert verdict(op("cancel", 5, fence=0), retried, item=Item(**told)) == {"unasked"}
    assert verdict(op("cancel", 5, UNKNOWN, took=900, fence=0), retried, item=Item(**told)) == set()


# ------------------------------------------------------------------------------------------------------------- the file


def test_a_history_that_ends_in_the_middle_of_a_call_says_that_nobody_knows(tmp_path: Path) -> None:
    # Given a pilot that is killed between a call's two lines, and in the middle of a third line
    path = tmp_path / "p.jsonl"
    history = History(path, "p", iter([1.0, 2.0, 3.0]).__next__)
    history.end(history.begin("claim", "i"), WON, fence=1)
    history.begin("finish", "i", fence=1)
    with path.open("ab") as file:
        file.write(b'{"n":3,"t":4,"a":"p","do":"cl')
    # When it is read
    found = read_histories([path])
    # Then the claim stands, the finish is open, and the half line is nothing
    assert [(each.kind, each.outcome, each.fence) for each in found.ops] == [("claim", "won", 1), ("finish", "open", 1)]
    assert found.last_sign == {"p": 3.0}
    assert found.ops[1].possible
    assert not found.ops[1].happened
