"""The exhaustive model of the ledger's moves, bounded: no violation with all rules, and each rule is needed.

benchmarks/ledger_model.py explores more; it asks the ledger's own decisions, so a change of a rule shows here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def _model() -> Any:
    path = Path(__file__).parents[2] / "benchmarks" / "ledger_model.py"
    spec = importlib.util.spec_from_file_location("ledger_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


model = _model()


def test_one_pilot_a_user_and_a_bad_network_reach_no_wrong_state() -> None:
    found = model.explore(pilots=1, claims=1, user=1)
    assert (found.fault, found.path) == ("", [])
    assert found.states > 3000


def test_two_pilots_and_a_user_reach_no_wrong_state_in_the_nearest_20_000() -> None:
    found = model.explore(pilots=2, claims=1, user=1, limit=20_000)
    assert (found.fault, found.path) == ("stopped at 20000 states", [])


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ("epoch", "a result of an older definition counts"),
        ("nest_fence", "a claim from before the reset filled a nest again"),
        ("cap", "interrupted past the cap"),
        ("expire", "locked for ever"),
        ("nest_first", "done with a nest that is not"),
        ("cancelled", "todo and cancelled: nobody may claim it"),
    ],
)
def test_without_one_rule_the_model_shows_the_way_to_a_wrong_state(rule: str, fault: str) -> None:
    found = model.explore(model.KNOWN - {rule}, limit=100_000)
    assert found.fault == fault
    assert found.path
