"""The ledger in memory obeys the ledger's contract, and is safe to share by threads."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.register_assert_rewrite("ledger_suite")

from ledger_suite import *  # noqa: E402, F403 - the contract's tests, collected here
from ledger_suite import RULES, SEQ  # noqa: E402

from pyanamo_core.clock import FakeClock  # noqa: E402
from pyanamo_core.ledger.memory import MemoryLedger  # noqa: E402
from pyanamo_core.model import Rules, State  # noqa: E402


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> MemoryLedger:
    return MemoryLedger(RULES, clock, random.Random(7))


def test_eight_threads_claim_each_item_once() -> None:
    ledger = MemoryLedger(Rules())
    for number in range(200):
        ledger.import_item(f"i{number}", "t", SEQ)

    def work(pilot: int) -> list[str]:
        names = [f"i{number}" for number in range(200)]
        random.Random(pilot).shuffle(names)
        return [name for name in names if ledger.claim(name, f"p{pilot}")]

    with ThreadPoolExecutor(8) as pool:
        taken = [name for names in pool.map(work, range(8)) for name in names]
    assert sorted(taken) == sorted(f"i{number}" for number in range(200))
    assert ledger.count(State.LOCKED) == 200
