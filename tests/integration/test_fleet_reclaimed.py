"""A third of the pilots is reclaimed by Spot: nothing counts as a failure, and what it cost is told."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from driver_support import PILOT, Place, sleeping
from fleet_fire import nothing_counted, run_with_reclaimed_pilots

from pyanamo_core.local import LocalCloud


def asked(place: Place, *words: str) -> dict:
    """What a command tells with --json."""
    done = subprocess.run(
        [PILOT[0], *words, "--json"],
        env=os.environ | place.cloud.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_third_of_the_pilots_reclaimed_costs_no_try_and_the_time_lost_is_told(
    misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path
):
    # Given six pilots at work, of which two are reclaimed, one after a notice
    place = Place(misbehaving_cloud, unique_name, tmp_path)
    workflow = place.workflow(pilots=6, nests=1)
    # When the run goes on to its end
    figures, ledger, run = run_with_reclaimed_pilots(place, workflow, sleeping(10, 2.5, nests=2))
    print(f"third reclaimed: {figures}")
    # Then every item is done at its first counted try
    nothing_counted(ledger)
    assert figures.reclaimed == 2
    # And both interruptions stand in the attempt rows as Spot's, one of them by Batch's word, with the time lost
    assert figures.causes == {"spot": 2}
    assert figures.lost_seconds > 0
    # And the commands show them
    told = asked(place, "runs", "losses", "--table", ledger.table)["losses"]
    assert (told["attempts"], told["causes"][0]["cause"], told["lost_seconds"]) == (2, "spot", figures.lost_seconds)
    shown = asked(place, "runs", "show", run.run_id, "--table", ledger.table)
    assert sum(shown["interrupted"].values()) == 2
    assert sum(asked(place, "status", "--table", ledger.table)["interrupted"].values()) == 2
