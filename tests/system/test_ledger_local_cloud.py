"""The ledger's contract on the local cloud's own DynamoDB (moto, one call at a time): what `make demo` runs on."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("ledger_suite")

from ledger_suite import *  # noqa: E402, F403 - the contract's tests, collected here
from ledger_suite import RULES  # noqa: E402

from pyanamo_core.clock import FakeClock  # noqa: E402
from pyanamo_core.ledger import Ledger  # noqa: E402
from pyanamo_core.ledger.table import create_table  # noqa: E402

if TYPE_CHECKING:
    from pyanamo_core.aws import Clients

pytestmark = pytest.mark.system


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(cloud_clients: Clients, unique_name: str, clock: FakeClock) -> Ledger:
    create_table(cloud_clients, unique_name, deletion_protection=False, pitr=False, wait=False)
    return Ledger(cloud_clients, unique_name, rules=RULES, clock=clock, rng=random.Random(unique_name))
