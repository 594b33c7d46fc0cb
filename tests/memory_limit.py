"""A pilot within a memory limit of the kernel: run by tests/system inside a cgroup (`python memory_limit.py FOLDER SLOT_MB`).

An item of two nests, each of which really holds 1.7 × its share at the same time as the other. Prints what came of it
as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from pilot_support import World, make_workflow

HOLD = """
import sys, time
from pathlib import Path
folder, number, attempt, megabytes = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
(folder / f'began-{attempt}-{number}').touch()
while attempt == '1' and len(list(folder.glob('began-1-*'))) < 2:
    time.sleep(0.02)
kept = []
for _ in range(megabytes):
    kept.append(b'x' * (1 << 20))
    if len(kept) % 10 == 0:
        time.sleep(0.01)
time.sleep(1.0)
print('held', len(kept), 'MB')
"""


def main(folder: Path, slot_mb: int) -> dict[str, Any]:
    """Let one pilot with two slots work; what came of it."""
    (folder / "hold.py").write_text(HOLD)
    world = World(folder, make_workflow(nests=2, memory_mb=2 * slot_mb, nest_time_seconds=60))
    script = f"exec python3 -S {folder}/hold.py {folder} $1 $PYANAMO_ATTEMPT {int(1.7 * slot_mb)}"
    world.shell("a", script, "1", "2")
    code, pilot = world.work()
    item = world.ledger.item("a")
    nests = world.ledger.nests(item)
    record = world.ledger.pilot(pilot.pilot_id)
    return {
        "code": code,
        "state": item.state,
        "tries": item.tries,
        "attempts": [(each.cause, each.evidence) for each in world.ledger.attempts("a")],
        "fences": sorted(nest.fence for nest in nests.values()),
        "peaks": sorted(nest.peak_memory_mb for nest in nests.values()),
        "limit_mb": record.memory_limit_mb if record else None,
        "used_mb": record.memory_mb if record else None,
        "room": dataclasses.asdict(pilot._vitals.room()) if pilot._vitals else {},
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
