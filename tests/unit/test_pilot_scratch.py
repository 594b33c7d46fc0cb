"""A pilot's scratch folder on a host that it shares."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from pyanamo_core.pilot.scratch import Scratch, sweep


def test_a_folder_that_another_pilot_swept_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a pilot on this host that sweeps just when another has made its folder, and not yet locked it
    lock = fcntl.flock
    swept: list[str] = []

    def sweeping_first(handle: int, what: int) -> None:
        if not swept:
            swept.append("now")
            swept.extend(sweep(tmp_path))
        lock(handle, what)

    monkeypatch.setattr(fcntl, "flock", sweeping_first)
    scratch = Scratch(tmp_path, "one")

    # Then that one has its folder all the same, and nobody sweeps it while it lives
    assert swept == ["now", "pilot-one"]
    assert scratch.path.is_dir()
    assert sweep(tmp_path) == []
    scratch.close()
    assert list(tmp_path.iterdir()) == []
