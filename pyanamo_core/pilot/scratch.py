"""A pilot's scratch folder: private, locked while the pilot lives, swept by the next one when it does not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import Final

_LOCK: Final = ".lock"
_PREFIX: Final = "pilot-"


class Scratch:
    """The folder `root/pilot-<id>`; `close` removes it."""

    def __init__(self, root: Path, pilot_id: str) -> None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = root / f"{_PREFIX}{pilot_id}"
        self.path.mkdir(mode=0o700)
        # Another container of this host may sweep between the folder's making and its lock: then it is made again.
        while (lock := self._locked()) is None:
            self.path.mkdir(mode=0o700, exist_ok=True)
        self._lock = lock

    def _locked(self) -> int | None:
        """The lock's descriptor; None if the folder was swept before it was locked."""
        try:
            lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(lock).st_ino == (self.path / _LOCK).stat().st_ino:
                return lock
        os.close(lock)
        return None

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def sweep(root: Path) -> list[str]:
    """Remove what killed pilots left behind; names of the folders removed."""
    removed: list[str] = []
    for folder in root.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder.name)
            except BlockingIOError:
                pass  # its pilot lives
            finally:
                os.close(lock)
    return removed
