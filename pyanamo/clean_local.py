"""What PyAnamo keeps on this machine: staged references, work folders of pilots that died, a local cloud's jobs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class LocalFolder:
    """A folder that may go, or why it stays (`why` is then not empty). Bytes are those of its files."""

    kind: str
    path: Path
    files: int
    bytes: int
    why: str = ""


def local_folders(scratch: Path, staging: Path, cloud: Path) -> Iterator[LocalFolder]:
    """Everything of this user's that PyAnamo put on this machine and that is not a result.

    Args:
        scratch: pilots' work folders (PYANAMO_SCRATCH).
        staging: what pilots share (PYANAMO_STAGING).
        cloud: the local cloud's folder.
    """
    busy = False
    for folder in sorted(scratch.glob("pilot-*")) if _mine(scratch) else []:
        lives = _held(folder / ".lock")
        busy = busy or lives
        yield _told("work of a pilot", folder, "its pilot lives" if lives else "")
    kept = scratch / "kept"
    if _mine(scratch) and kept.is_dir():
        yield _told("kept work of failed nests", kept)
    for entry in sorted(staging.iterdir()) if _mine(staging) and staging.is_dir() else []:
        if entry.is_dir():
            held = _held(staging / f"{entry.name.removesuffix('.part')}.lock")
            why = "a pilot that lives may use it" if busy else "somebody is staging it" if held else ""
            yield _told("staged for pilots", entry, why)
    jobs = cloud / "jobs"
    if _mine(cloud) and jobs.is_dir() and any(jobs.iterdir()):
        yield _told("jobs of the local cloud", jobs, "it runs" if _cloud_runs(cloud) else "")


def remove(folder: LocalFolder) -> None:
    """Remove a folder with all that is in it; one that has begun to be used meanwhile is left alone."""
    lock = folder.path / ".lock"
    with contextlib.ExitStack() as stack:
        if folder.kind == "work of a pilot":
            try:
                handle = stack.enter_context(lock.open("r+"))
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return
        shutil.rmtree(folder.path, ignore_errors=True)


def _mine(root: Path) -> bool:
    """Never go into another user's folder in a shared temporary one."""
    try:
        return root.stat().st_uid == os.getuid()
    except OSError:
        return False


def _held(lock: Path) -> bool:
    """Does a living process hold this lock?"""
    try:
        with lock.open("r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _cloud_runs(home: Path) -> bool:
    from pyanamo_core.local.state import read_record, running_processes

    record = read_record(home)
    return (record is not None and record.alive) or bool(running_processes(home))


def _told(kind: str, folder: Path, why: str = "") -> LocalFolder:
    files = size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += (Path(place) / name).lstat().st_size
                files += 1
    return LocalFolder(kind, folder, files, size, why)
