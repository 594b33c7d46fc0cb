"""Memory that really runs out: the kernel kills within the pilot's own cgroup, and the item is done with more memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = Path("/sys/fs/cgroup")
SLOT_MB = 200
LIMIT_MB = 2 * SLOT_MB + 140
"""Of the container: both slots, and what the pilot itself takes."""
NOT_SHOWN = "not shown here: out of memory by the kernel's hand (needs root and a writable memory cgroup)"


def made(name: str) -> Path:
    """A memory cgroup with the limit, of version 1 or 2; skips where nobody may make one."""
    if os.geteuid() != 0:
        pytest.skip(NOT_SHOWN)
    for parent, limit in ((ROOT / "memory", "memory.limit_in_bytes"), (ROOT, "memory.max")):
        group = parent / name
        try:
            if limit == "memory.max":
                (ROOT / "cgroup.subtree_control").write_text("+memory")
            group.mkdir()
            (group / limit).write_text(str(LIMIT_MB << 20))
        except OSError:
            if group.is_dir():
                group.rmdir()
        else:
            return group
    pytest.skip(NOT_SHOWN)


@pytest.fixture
def group(unique_name: str) -> Iterator[Path]:
    """A memory cgroup of its own."""
    place = made(unique_name)
    yield place
    place.rmdir()


@pytest.mark.system
def test_nests_that_overflow_the_container_are_done_at_the_second_attempt(group: Path, tmp_path: Path) -> None:
    # Given a container of 540 MB, a pilot in it with two slots of 200 MB, and two nests that hold 340 MB at once
    into = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
    command = ["sh", "-c", into, "sh", sys.executable, str(TESTS / "memory_limit.py"), str(tmp_path), str(SLOT_MB)]
    environ = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180, check=False)

    # Then the pilot lived, the kernel killed a nest, and that one was done in two slots
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    first, second = told["attempts"]
    print(f"out of memory in a cgroup of {LIMIT_MB} MB: {first[1]!r}, then {second[0]}; peaks {told['peaks']} MB")
    assert (told["code"], told["state"], told["tries"]) == (0, "done", 2)
    assert first[0] == "out_of_memory"
    assert "exit 137 SIGKILL, oom_kill" in first[1]
    assert second[0] == "done"
    assert told["fences"] == [1, 2]
    assert min(told["peaks"]) > 1.7 * SLOT_MB
    # and its row told of the limit
    assert told["limit_mb"] == LIMIT_MB
    assert 0 < told["used_mb"] < LIMIT_MB
