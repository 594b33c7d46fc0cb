"""A disk that is really full, in each step of a pilot's work: the item goes elsewhere, nothing is left half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyanamo_core.pilot.outputs import Unverified, read_result

TESTS = Path(__file__).parents[1]
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
NOBODY_MAY = "not shown here: steps on a full disk (this machine lets nobody mount a file system)"


def worked(step: str, folder: Path) -> dict[str, Any]:
    """What came of a step on a full disk (tests/disk_full.py), in a mount namespace of its own."""
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip(NOBODY_MAY)
    environ = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*UNSHARE, sys.executable, str(TESTS / "disk_full.py"), step, str(folder)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(f"disk full in step {step!r}: {told['leavings'][0]}")
    return told


@pytest.mark.parametrize("step", ["scratch", "scripts", "reference", "index"])
def test_a_disk_that_is_full_before_the_first_claim_keeps_a_pilot_from_claiming(step: str, tmp_path: Path) -> None:
    # Given a host without room for scratch, or for what is to be staged
    told = worked(step, tmp_path)

    # Then its pilot leaves for another host without a claim, the run goes on, and nothing half is staged
    assert told["codes"] == [75, 0]
    assert told["leavings"][0].startswith("host_fault: ")
    assert told["first"]["half"] == []
    assert told["first"]["run"] == "run"
    # and the next pilot does the item at its first attempt
    assert (told["state"], told["attempts"]) == ("done", [["done", "exit 0"]])


@pytest.mark.parametrize(
    "step", ["work", "log", "write", "silent write", "standard output", "standard error", "result"]
)
def test_a_disk_that_gets_full_at_work_hands_back_and_the_item_is_done_elsewhere(step: str, tmp_path: Path) -> None:
    # Given a host whose disk gets full in a step of a nest
    told = worked(step, tmp_path)

    # Then the item is handed back as interrupted, the pilot leaves its host, and nothing stays there
    first = told["first"]
    assert told["codes"] == [75, 0]
    assert told["leavings"][0].startswith("host_fault: ")
    assert (first["state"], first["tries"], first["interruptions"], first["run"]) == ("todo", 0, 1, "run")
    assert first["left"] == ["pilots"]
    cause, evidence = told["attempts"][0]
    assert cause == "host_fault"
    assert any(words in evidence for words in ("No space left", "disk full", "the log cannot be written")), evidence
    # and the next pilot, with room, does it
    assert (told["state"], told["attempts"][1][0]) == ("done", "done")


def test_a_folder_that_cannot_be_kept_does_not_hide_why_its_nest_failed(tmp_path: Path) -> None:
    told = worked("kept folder", tmp_path)

    assert told["first"]["state"] == "failed"
    assert told["attempts"] == [["permanent", "exit 65"]]
    assert "its folder could not be kept: No space left on device" in told["first"]["message"]


def test_a_log_goes_up_although_the_disk_is_full(tmp_path: Path) -> None:
    # Given a nest that succeeds, and a disk that has no byte left when its log of 589 KB is to be gzipped and sent
    told = worked("upload", tmp_path)

    # Then the item is done at once, and its log is where it belongs
    assert (told["state"], told["attempts"]) == ("done", [["done", "exit 0"]])
    assert [size > 100_000 for size in told["objects"].values()] == [True]
    assert told["first"]["message"] == ""


def test_an_empty_result_is_what_a_full_disk_leaves_and_no_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").touch()

    with pytest.raises(Unverified, match="PYANAMO_RESULT is empty"):
        read_result(tmp_path / "result.json")
    assert read_result(tmp_path / "none") == ({}, (), {})
