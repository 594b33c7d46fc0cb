"""Write units of moves, measured on DynamoDB Local, are those that cost.py says."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.register_assert_rewrite("ledger_suite")

from ledger_suite import RULES, a_run, claimed, imported, nest, pass_lease  # noqa: E402

from pyanamo_core.clock import FakeClock  # noqa: E402
from pyanamo_core.ledger import Ledger, cost, rows  # noqa: E402
from pyanamo_core.ledger import expressions as x  # noqa: E402
from pyanamo_core.ledger.table import create_table  # noqa: E402
from pyanamo_core.model import Cause, Claim, Definition, Item, Move, NestStatus  # noqa: E402

if TYPE_CHECKING:
    from pyanamo_core.aws import Clients


def _benchmark() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "ledger_cost.py"
    spec = importlib.util.spec_from_file_location("ledger_cost_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


benchmark = _benchmark()


def test_an_item_of_100_nests_with_6_beats_costs_at_most_135_units_without_tails(dynamodb_clients: Clients) -> None:
    found, said, _ = benchmark.measured(dynamodb_clients, nests=100, beats=6, tail="")
    assert found == said
    assert found.total <= 135


def test_tails_of_2_kb_cost_three_units_each_more(dynamodb_clients: Clients) -> None:
    found, said, _ = benchmark.measured(dynamodb_clients, nests=10, beats=1, tail="x" * 2048)
    assert found == said
    assert found.nests == 10 * (1 + 3)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def meter() -> Any:
    return benchmark.Meter()


@pytest.fixture
def ledger(dynamodb_clients: Clients, unique_name: str, clock: FakeClock, meter: Any) -> Ledger:
    create_table(dynamodb_clients, unique_name, deletion_protection=False, pitr=False, wait=False)
    clients = benchmark.MeteredClients(dynamodb_clients, meter)
    return Ledger(clients, unique_name, rules=RULES, clock=clock)


LONGEST = "i" * 256


def held(ledger: Ledger) -> Claim:
    """The longest item there is: every attribute as long as it may be."""
    ledger.import_item(LONGEST, "t" * 64, Definition(script="x", arguments=("a", "b")), revision="r" * 12)
    claim = ledger.claim(LONGEST, "p" * 64, run_id="r" * 64)
    assert claim is not None
    return claim


def _failed(ledger: Ledger) -> Item:
    return ledger.fail(held(ledger), Cause.OUT_OF_MEMORY, "m" * 500)


HELD: dict[Move, Callable[[Ledger, Claim], object]] = {
    Move.BEAT: lambda ledger, claim: ledger.beat(claim, progressed=True, nests_done=1, nests_failed=0),
    Move.FINISH: lambda ledger, claim: ledger.finish(claim, nests_done=2, note="n" * 500),
    Move.FAIL: lambda ledger, claim: ledger.fail(claim, Cause.OUT_OF_MEMORY, "m" * 500),
    Move.WAIT: lambda ledger, claim: ledger.wait(
        claim, Cause.OUT_OF_MEMORY, "m" * 500, delay_seconds=5, memory_factor=1.5
    ),
    Move.HAND_BACK: lambda ledger, claim: ledger.hand_back(claim, Cause.SPOT, "m" * 500, progressed=True, started=True),
}
FREE: dict[Move, Callable[[Ledger, Item], object]] = {
    Move.RETRY: lambda ledger, item: ledger.retry(item, memory_factor=1.5),
    Move.RESET: lambda ledger, item: ledger.reset(item),
}


@pytest.mark.parametrize("move", list(HELD))
def test_an_owners_move_costs_what_is_said_even_for_the_longest_item(
    ledger: Ledger, clock: FakeClock, meter: Any, move: Move
) -> None:
    claim = held(ledger)
    clock.move(100)
    meter.take()
    HELD[move](ledger, claim)
    assert meter.take() == cost.MOVE_UNITS[move]


@pytest.mark.parametrize("move", list(FREE))
def test_a_users_move_costs_what_is_said_even_for_the_longest_item(ledger: Ledger, meter: Any, move: Move) -> None:
    failed = _failed(ledger)
    meter.take()
    FREE[move](ledger, failed)
    assert meter.take() == cost.MOVE_UNITS[move]


def test_claims_reclaims_and_expiries_cost_what_is_said(ledger: Ledger, clock: FakeClock, meter: Any) -> None:
    imported(ledger)
    meter.take()
    claimed(ledger)
    assert meter.take() == cost.MOVE_UNITS[Move.CLAIM]
    # A refusal is an error, and tells no capacity; DynamoDB bills it as a write (developer guide, conditional writes).
    for _ in range(RULES.max_interruptions):
        pass_lease(clock)
        meter.take()
        claimed(ledger)
        assert meter.take() == cost.MOVE_UNITS[Move.RECLAIM] - cost.REFUSED_UNITS
    pass_lease(clock)
    meter.take()
    ledger.expire("NA12878")
    assert meter.take() == cost.MOVE_UNITS[Move.EXPIRE]


def test_a_mark_and_a_recovery_cost_what_is_said(ledger: Ledger, clock: FakeClock, meter: Any) -> None:
    claim = held(ledger)
    meter.take()
    marked = ledger.cancel(claim.item)
    assert meter.take() == cost.MARK_UNITS
    ledger.recover(marked, ended_at=clock.now() - 61)
    assert meter.take() == cost.MOVE_UNITS[Move.RECOVER]


def test_no_state_of_the_longest_item_has_more_than_920_bytes(ledger: Ledger, clock: FakeClock) -> None:
    def check() -> None:
        row = ledger._store.get(LONGEST, x.ITEM_ROW)
        assert row is not None
        assert rows.size(row) <= rows.ITEM_ROW_BYTES

    claim = held(ledger)
    check()
    clock.move(100)
    ledger.beat(claim, progressed=True, nests_done=2, nests_failed=0)
    ledger.cancel(claim.item)
    check()
    ended = ledger.hand_back(claim, Cause.SPOT, "m" * 500, progressed=False, started=True)
    check()
    ledger.retry(ended, memory_factor=99.999, nest_seconds=999_999.0)
    again = ledger.claim(LONGEST, "p" * 64, run_id="r" * 64)
    assert again is not None
    check()
    ledger.wait(again, Cause.OUT_OF_MEMORY, "ü" * 500, delay_seconds=5, memory_factor=99.999)
    check()


def test_a_nest_row_with_an_output_and_figures_is_one_unit(ledger: Ledger, meter: Any) -> None:
    imported(ledger)
    claim = claimed(ledger)
    told = benchmark.typical_nest(0, "")
    assert rows.size(rows.nest_row(told)) <= 900
    meter.take()
    ledger.record_nest(claim, told)
    assert meter.take() == 1
    meter.take()
    ledger.record_nest(claim, nest(claim, 1, NestStatus.FAILED, tail="x" * 2048))
    assert meter.take() == 1 + 3


def test_a_run_row_of_six_arrays_stays_below_a_kilobyte(ledger: Ledger, clock: FakeClock) -> None:
    ledger.begin_run(
        a_run(run_id="2026-11-23-nightly", prefect_api_url="http://10.0.0.1:4200/api", flow_run_id="f" * 36)
    )
    run = ledger.take_watch("2026-11-23-nightly", "watcher-" + "0" * 20, 60)
    assert run is not None
    for number in range(6):
        run, made = ledger.reserve_submission(
            run, size=10_000, queue="HaplotypeCaller_Queue", definition="HaplotypeCaller_JobDef:12"
        )
        run = ledger.settle_submission(run, made.sequence, job_id=f"{number:036d}")
    row = ledger._store.get(x.RUN_ID, "2026-11-23-nightly")
    assert row is not None
    assert rows.size(row) < 1024
