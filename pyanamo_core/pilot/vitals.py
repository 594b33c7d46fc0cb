"""The room that a pilot has: free disk for work and for what is staged, memory of its container. Looked at with each beat.

A container's own limits lie at the root of /sys/fs/cgroup, or, where its cgroup has no namespace of its own, below the
path that /proc/self/cgroup names. Version 2 is asked first, then version 1.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyanamo_core.protocols import Clock

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Room:
    """What there is (MB): free for work, free for staging, memory in use and its limit. None: unknown, or no limit."""

    free_disk_mb: int | None = None
    free_staging_mb: int | None = None
    memory_mb: int | None = None
    memory_limit_mb: int | None = None


class Vitals:
    """Watches the room.

    Args:
        scratch: folder of the work directories.
        staging: folder of what is staged.
        min_free_disk_mb: with less in `scratch` nothing is to be started.
    """

    def __init__(self, scratch: Path, staging: Path | None, min_free_disk_mb: int, clock: Clock) -> None:
        self._scratch = scratch
        self._staging = staging
        self._least = min_free_disk_mb
        self._clock = clock
        self._looked: float | None = None
        self._free: int | None = None

    def room(self) -> Room:
        """All figures as they are now."""
        used, limit = memory_mb()
        staging = None if self._staging is None else free_mb(self._staging)
        return Room(free_mb(self._scratch), staging, used, limit)

    def short_of_disk(self) -> str:
        """Why nothing is to be started here, "" if there is room. Asks the file system at most once a second."""
        now = self._clock.monotonic()
        if self._looked is None or now - self._looked >= _LOOK_SECONDS:
            self._looked, self._free = now, free_mb(self._scratch)
        return short_of_disk(self._scratch, self._free, self._least)


def short_of_disk(folder: Path, free: int | None, least: int) -> str:
    """In words, "" if there is enough (or nobody knows)."""
    if free is None or free >= least:
        return ""
    return f"too little disk: {free} MB are free in {folder}, min_free_disk_mb is {least}"


def free_mb(folder: Path) -> int | None:
    """Free room of a folder's file system; of the nearest folder above if it is not there yet. None: unknown."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(FileNotFoundError):
            try:
                return shutil.disk_usage(place).free >> 20
            except FileNotFoundError:
                raise
            except OSError:
                return None
    return None


def memory_folders(root: Path = _CGROUPS, own: Path = _OWN) -> list[Path]:
    """Where this process's memory is accounted: the most particular folder first."""
    found: list[Path] = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            number, _, rest = line.partition(":")
            kinds, _, path = rest.partition(":")
            if number == "0" and not kinds:
                found.append(root / path.strip("/"))
            elif "memory" in kinds.split(","):
                found.append(root / "memory" / path.strip("/"))
    return [each for each in dict.fromkeys([*found, root, root / "memory"]) if each.is_dir()]


def memory_mb(root: Path = _CGROUPS, own: Path = _OWN) -> tuple[int | None, int | None]:
    """Memory that the container uses (without the file cache that the kernel would drop first), and its limit."""
    for folder in memory_folders(root, own):
        for usage, limit, cache in (
            ("memory.current", "memory.max", "inactive_file"),
            ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"),
        ):
            used = _number(folder / usage)
            if used is not None:
                return (used - min(used, _line(folder / "memory.stat", cache) or 0)) >> 20, _limit(folder / limit)
    return None, None


def oom_kills(root: Path = _CGROUPS, own: Path = _OWN) -> int:
    """How often the kernel has killed for memory in this container."""
    for folder in memory_folders(root, own):
        for name in ("memory.events", "memory.oom_control"):
            kills = _line(folder / name, "oom_kill")
            if kills is not None:
                return kills
    return 0


def container_memory_mb(asked_mb: int, root: Path = _CGROUPS, own: Path = _OWN) -> int:
    """What a pilot may use: the workflow's figure, the container's limit or the machine's memory, whichever is least."""
    limits = [asked_mb]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20)
    for folder in memory_folders(root, own):
        limits += [
            limit for name in ("memory.max", "memory.limit_in_bytes") if (limit := _limit(folder / name)) is not None
        ]
    return max(1, min(limits))


def _limit(path: Path) -> int | None:
    value = _number(path)
    # Version 1 says "no limit" with the highest number of pages.
    return None if value is None or value >= 1 << 60 else value >> 20


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _line(path: Path, key: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return None
