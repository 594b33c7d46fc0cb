"""Without the fence in their conditions, an owner's delayed writes ruin what came after them: found by the model."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def test_without_the_fence_a_delayed_finish_ends_an_item_that_was_reset() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "ledger_model.py"
    spec = importlib.util.spec_from_file_location("ledger_model_for_fence", path)
    assert spec is not None
    assert spec.loader is not None
    model = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = model
    spec.loader.exec_module(model)
    found = model.explore(model.KNOWN - {"fence"}, pilots=1, claims=2, user=1, limit=200_000)
    assert found.fault == "done with a nest that is not"
    assert "user: reset" in found.path
