"""One host of several fails every pilot at once: its pilots wait before they leave, so that it does not swallow the array."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver_support import QUICK, Place, recorded_once
from fleet_fire import run_with_a_bad_host, unwritable

from pyanamo_core.local import LocalCloud

CHILDREN = 12
WAIT_SECONDS = 2.0


def script_folder(folder: Path) -> str:
    """Task scripts that have to be staged."""
    scripts = folder / "scripts"
    scripts.mkdir()
    script = scripts / "nap.sh"
    script.write_text("#!/bin/bash\nsleep 0.4\n")
    script.chmod(0o755)
    return str(scripts)


@pytest.mark.parametrize("fault", ["scratch", "staging"])
def test_a_bad_host_does_not_swallow_an_array(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path, fault: str
):
    # Given twelve pilots, two hosts with room for two each, and on the first one no scratch folder (or no staging)
    place = Place(misbehaving_cloud, unique_name, tmp_path, max_vcpus=4)
    timing = QUICK.model_copy(update={"host_fault_wait_seconds": WAIT_SECONDS})
    workflow = place.workflow(pilots=CHILDREN, timing=timing, scripts=script_folder(tmp_path), wall_time_seconds=600)
    told = {"scratch": "PYANAMO_SCRATCH", "staging": "PYANAMO_STAGING"}[fault]
    lines = [f"item-{number}|nap|bash ${{PIPELINE}}/nap.sh|{number}" for number in range(CHILDREN)]
    # When the run goes from start to end
    figures, ledger = run_with_a_bad_host(place, workflow, lines, {told: str(unwritable(tmp_path))}, good_hosts=1)
    print(f"bad host ({fault}), {CHILDREN} children, wait {WAIT_SECONDS} s: {figures}")
    # Then all is done by the other host, Batch has given no child up, and no second array was needed
    assert (figures.outcome, figures.done) == ("completed", CHILDREN)
    recorded_once(ledger)
    assert (figures.failed_children, figures.submissions) == (0, 1)
    assert figures.starts_on_bad >= 2
    # And each of the bad host's two slots took one child per wait, not one per second
    assert figures.starts_on_bad <= 2 * (figures.seconds / WAIT_SECONDS + 1)
    faults = [record for record in ledger.pilots() if record.leaving.startswith("host_fault")]
    assert faults
    assert {record.host for record in faults} == {"i-bad"}
    assert {record.claims for record in faults} == {0}
