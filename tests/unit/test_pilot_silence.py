"""When a task counts as hung, and what the room of a container is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyanamo_core.clock import SystemClock
from pyanamo_core.pilot.tree import IDLE_CPU, Silence
from pyanamo_core.pilot.vitals import Vitals, container_memory_mb, memory_mb, oom_kills, short_of_disk


def looks(silence: Silence, *seen: tuple[float, float, int]) -> list[bool]:
    """Its answers to (now, CPU seconds, bytes of output)."""
    return [silence.look(*each) for each in seen]


def test_no_cpu_and_no_output_for_the_limit_is_hung() -> None:
    assert looks(Silence(5.0), (0, 1.0, 10), (2, 1.0, 10), (4, 1.0, 10), (6, 1.0, 10)) == [False, False, False, True]


def test_output_or_cpu_begin_the_count_again() -> None:
    # Given a task that writes a byte in its third look and computes in its fifth
    told = looks(Silence(5.0), (0, 1, 10), (4, 1, 10), (5, 1, 11), (9, 1, 11), (10, 2, 11), (14, 2, 11), (15, 2, 11))

    # Then only five seconds after that it is hung
    assert told == [False] * 6 + [True]


def test_the_clockwork_of_an_idle_jvm_is_no_work() -> None:
    # Given a tree that uses a fifth of what counts, for ten minutes
    silence = Silence(600.0)
    told = [silence.look(now, now * IDLE_CPU / 5, 10) for now in range(0, 602, 2)]

    assert told.index(True) == 300


def test_a_slow_but_steady_worker_is_never_hung() -> None:
    # Given a tree that uses two hundredths of a CPU and writes nothing
    silence = Silence(600.0)

    assert not any(silence.look(now, now * 0.02, 10) for now in range(0, 6000, 2))


def test_a_process_that_ended_uncounted_is_something_done() -> None:
    assert looks(Silence(5.0), (0, 9.0, 1), (4, 9.0, 1), (6, 3.0, 1), (10, 3.0, 1)) == [False] * 4


def test_a_machine_that_stood_still_for_an_hour_did_not_hang() -> None:
    assert looks(Silence(1800.0), (0, 1.0, 1), (3600, 1.0, 1), (3602, 1.0, 1)) == [False] * 3


def test_without_a_limit_nothing_hangs() -> None:
    assert looks(Silence(None), (0, 1.0, 1), (10**6, 1.0, 1), (10**6 + 9, 1.0, 1)) == [False] * 3


@pytest.mark.parametrize(
    ("own", "files"),
    [
        (
            "0::/\n",
            {
                "memory.current": "734003200",
                "memory.max": "1073741824",
                "memory.stat": "anon 1\ninactive_file 104857600\n",
                "memory.events": "low 0\noom 3\noom_kill 2\n",
            },
        ),
        (
            "9:memory:/docker/abc\n",  # on the host; the container sees its own folder at the root
            {
                "memory/memory.usage_in_bytes": "734003200",
                "memory/memory.limit_in_bytes": "1073741824",
                "memory/memory.stat": "cache 1\ntotal_inactive_file 104857600\n",
                "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            },
        ),
        (
            "9:memory:/jobs/x\n",  # without a namespace of its own
            {
                "memory/jobs/x/memory.usage_in_bytes": "734003200",
                "memory/jobs/x/memory.limit_in_bytes": "1073741824",
                "memory/jobs/x/memory.stat": "total_inactive_file 104857600\n",
                "memory/jobs/x/memory.oom_control": "oom_kill 2\n",
                "memory/memory.usage_in_bytes": "9999999999",
                "memory/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.oom_control": "oom_kill 7\n",
            },
        ),
    ],
)
def test_memory_is_read_from_either_version_of_cgroups(tmp_path: Path, own: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    mine = tmp_path / "own"
    mine.write_text(own)

    # Then the file cache that can be dropped is not counted as used
    assert memory_mb(tmp_path, mine) == (600, 1024)
    assert oom_kills(tmp_path, mine) == 2
    assert container_memory_mb(4096, tmp_path, mine) == 1024
    assert container_memory_mb(512, tmp_path, mine) == 512


def test_no_limit_is_no_figure(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("1048576")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712")

    assert memory_mb(tmp_path, tmp_path / "none") == (1, None)
    assert memory_mb(tmp_path / "none", tmp_path / "none") == (None, None)
    assert oom_kills(tmp_path / "none", tmp_path / "none") == 0


def test_too_little_disk_is_told_with_its_figures(tmp_path: Path) -> None:
    assert short_of_disk(tmp_path, 100, 512) == (
        f"too little disk: 100 MB are free in {tmp_path}, min_free_disk_mb is 512"
    )
    assert not short_of_disk(tmp_path, 512, 512)
    assert not short_of_disk(tmp_path, None, 512)


def test_the_room_of_this_very_machine_is_told(tmp_path: Path) -> None:
    vitals = Vitals(tmp_path / "not" / "yet", None, 1, SystemClock())

    room = vitals.room()

    assert room.free_disk_mb is not None
    assert room.free_disk_mb > 0
    assert room.free_staging_mb is None
    assert not vitals.short_of_disk()
