"""fsck's checks are pure: they judge the rows of the ledger in memory too, and a table of any size in little memory."""

from __future__ import annotations

import importlib.util
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("ledger_suite", "twin_rows")

from ledger_suite import LOCI, RULES, claimed, imported, in_state, nest, record_all  # noqa: E402
from twin_rows import faults_of, rows_of_twin  # noqa: E402

from pyanamo_core.clock import FakeClock  # noqa: E402
from pyanamo_core.ledger import expressions as x  # noqa: E402
from pyanamo_core.ledger import rows  # noqa: E402
from pyanamo_core.ledger.fsck import Bounds, Kind, Weight, check_item, weight_of  # noqa: E402
from pyanamo_core.ledger.memory import MemoryLedger  # noqa: E402
from pyanamo_core.model import Cause, Definition, State  # noqa: E402


def _benchmark() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "fsck_memory.py"
    spec = importlib.util.spec_from_file_location("fsck_memory_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


benchmark = _benchmark()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> MemoryLedger:
    return MemoryLedger(RULES, clock, random.Random(1))


@pytest.mark.parametrize("state", State)
def test_an_item_in_any_state_as_it_comes_about_has_no_fault(
    ledger: MemoryLedger, clock: FakeClock, state: State
) -> None:
    # Given an item that came into a state as items do, then its rows are sound, now and long after
    in_state(ledger, clock, state)
    assert faults_of(rows_of_twin(ledger), RULES, clock.now()) == []
    clock.move(1e6)
    assert faults_of(rows_of_twin(ledger), RULES, clock.now()) == []


def test_a_nest_recorded_by_a_zombie_after_its_item_moved_on_is_no_fault(
    ledger: MemoryLedger, clock: FakeClock
) -> None:
    # Given a pilot whose result arrives after its item was handed back
    imported(ledger)
    claim = claimed(ledger)
    clock.move(RULES.lease_seconds + RULES.margin_seconds + 1)
    again = claimed(ledger, pilot="pilot-2")
    ledger.fail(again, Cause.PERMANENT, "exit code 65")
    ledger.record_nest(claim.model_copy(update={"deadline": 1e12}), nest(claim, 0))
    # Then the item's count is behind, which is left over and no fault
    found = rows_of_twin(ledger)
    assert faults_of(found, RULES, clock.now()) == []
    of_item = sorted(found, key=lambda row: row[x.RANGE]["S"])
    kinds = {each.kind for each in check_item("NA12878", of_item, Bounds.of(RULES, clock.now(), live=True))}
    assert Kind.COUNTS_BEHIND in kinds


def test_a_definitions_hash_is_made_from_its_rows_one_by_one(clock: FakeClock) -> None:
    # Given definitions with all that JSON must escape, in one row or in many
    for definition in (
        LOCI,
        Definition(script='say "ü\\n"\t\x01', arguments=("", "\u2028", "'", "\\")),
        Definition(script="x", arguments=tuple(f"{n}{'9' * 900}" for n in range(2000))),
    ):
        ledger = MemoryLedger(RULES, clock, random.Random(1))
        ledger.import_item("i", "t", definition)
        # Then their rows hash to what the item says, and to nothing else
        found = sorted(rows_of_twin(ledger), key=lambda row: row[x.RANGE]["S"])
        bounds = Bounds.of(RULES, clock.now(), live=True)
        assert check_item("i", found, bounds) == []
        last = max(n for n, row in enumerate(found) if row[x.RANGE]["S"].startswith(x.DEFINITION_PREFIX))
        found[last] = {**found[last], x.TASK_ARGS: rows.pack(["other"])}
        assert [each.kind for each in check_item("i", found, bounds)] == [Kind.DEFINITION]


def test_rows_that_cannot_be_read_keep_the_others_from_being_repaired(ledger: MemoryLedger, clock: FakeClock) -> None:
    # Given a done item of which one nest's row is damaged
    imported(ledger)
    claim = claimed(ledger)
    record_all(ledger, claim)
    ledger.finish(claim, nests_done=2)
    found = sorted(rows_of_twin(ledger), key=lambda row: row[x.RANGE]["S"])
    for row in found:
        if row[x.RANGE]["S"] == x.nest_row(0, 1):
            del row[x.NEST["status"]]
    # Then it is told, and the item is not taken for undone: who can read that row may see that it is done
    kinds = [each.kind for each in check_item("NA12878", found, Bounds.of(RULES, clock.now(), live=True))]
    assert kinds == [Kind.UNREADABLE]


def test_every_kind_has_a_weight_and_only_faults_fail_the_check() -> None:
    # Given all kinds, then those that a crash or an edit may leave behind are no faults
    weights = {kind: weight_of(kind) for kind in Kind}
    assert weights[Kind.UNDONE] is weights[Kind.STUCK] is weights[Kind.QUEUE_KEY] is Weight.FAULT
    assert weights[Kind.OLD_EPOCH] is weights[Kind.NO_ATTEMPT] is Weight.LEFT_OVER
    assert weights[Kind.TAKEOVER] is weights[Kind.UNKNOWN_ROW] is Weight.NOTE


def test_3000_items_are_checked_in_the_memory_of_300(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a table of 3,000 items of 6 rows each, every hundredth broken
    store = benchmark.MadeUp(3000, broken=100)
    fsck, walk = benchmark.checked(store)
    peaks: list[int] = []

    def peak_until_now(tally: Any) -> None:
        if tally.items >= 300 * (len(peaks) + 1):
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()

    walk = fsck.walk(progress=peak_until_now)
    tracemalloc.start()
    try:
        # When it is walked
        found = sum(1 for _ in walk)
    finally:
        tracemalloc.stop()
    # Then only what was suspected was read again, and the tenth 300 needed no more memory than the first
    assert (found, store.asked, fsck.tally.items, fsck.tally.rows) == (30, 30, 3000, 18_000)
    assert len(peaks) >= 8
    assert max(peaks) < 2 * peaks[0]
    print(f"fsck of 3,000 items: peak {max(peaks) / 2**20:.1f} MB, of the first 300 {peaks[0] / 2**20:.1f} MB")


def test_an_item_with_many_big_nests_is_not_held_in_memory() -> None:
    # Given one item with 3,000 nests of 2 KB each, when it is checked
    peak = benchmark.peak_bytes(benchmark.MadeUp(1, nests=3000, outputs=20))
    # Then of each nest only what the checks need is held
    whole = sum(rows.size(row) for row in benchmark.done_item(nests=3000, outputs=20))
    print(f"fsck of an item with {whole / 2**20:.1f} MB of rows: {peak / 3000 / 2**10:.1f} KB a nest")
    assert whole > 5 * 2**20
    assert peak < 3000 * 2048
