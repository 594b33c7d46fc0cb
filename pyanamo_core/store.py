"""A folder of this host in which processes share what was staged: made once, by one process, whole or not at all.

Each entry is a folder named by a key. Who finds it missing takes its lock file, makes it beside its place and renames
it there. A process that dies while it makes one leaves a lock that the kernel frees and a part that the next one sweeps.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import HostFault, SetUpError
from pyanamo_core.protocols import Clock

LOCK_SECONDS: Final = 3600.0
"""How long one process waits for another that stages the same thing."""
_POLL_SECONDS: Final = 0.2
_HOST_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE})


def key_of(*parts: str) -> str:
    """A name for an entry (20 hex digits) that changes when any of the parts does."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


@contextmanager
def host_faults(what: str) -> Generator[None]:
    """Errors of disk and kernel in this block are this host's fault.

    Raises:
        HostFault: no space, an input/output error, a read-only file system.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _HOST_ERRNOS:
            raise HostFault(reason=f"{what}: {error.strerror}") from error
        raise


class Store:
    """The shared folder.

    Args:
        root: is made if it is missing; only its owner may enter.
        clock: for waiting.
    """

    def __init__(self, root: Path, clock: Clock | None = None) -> None:
        self.root = root
        self._clock = clock or SystemClock()

    def entry(self, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of `key`; `make(folder)` fills it if nobody has yet.

        Raises:
            HostFault: no room, or another process has held the lock for an hour. What `make` raises passes through.
        """
        place = self.root / key
        if place.is_dir():
            return place
        with host_faults(f"staging into {self.root}"):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.root.stat().st_uid != os.getuid():
                # In a shared temporary folder anybody may have made it first, and could swap what we verified.
                raise SetUpError(
                    reason=f"{self.root} belongs to another user; set PYANAMO_STAGING to a folder of your own"
                )
            with self._lock(key):
                if place.is_dir():
                    return place
                part = self.root / f"{key}.part"
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir(mode=0o700)
                try:
                    make(part)
                    _to_disk(part)
                except BaseException:
                    shutil.rmtree(part, ignore_errors=True)
                    raise
                part.rename(place)
        return place

    def partial(self, key: str) -> Path:
        """A file for what `make` has of an entry so far, if that may outlive its process; it lies beside the entries.

        Only `make` of this key may touch it: the entry's lock is held then.
        """
        return self.root / f"{key}.partial"

    @contextmanager
    def _lock(self, key: str) -> Generator[None]:
        give_up = self._clock.monotonic() + LOCK_SECONDS
        descriptor = os.open(self.root / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._clock.monotonic() > give_up:
                        raise HostFault(
                            reason=f"another process has been staging {key} for {LOCK_SECONDS:.0f} s"
                        ) from None
                    self._clock.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)


def _to_disk(folder: Path) -> None:
    """Let the files of a folder outlive a loss of power, before its name says that they are whole."""
    for path in (each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def default_root(environ: Mapping[str, str] | None = None) -> Path:
    """Where this host's processes share: PYANAMO_STAGING, else a folder of this user below the temporary one."""
    environ = os.environ if environ is None else environ
    own = environ.get("PYANAMO_STAGING")
    return Path(own) if own else Path(environ.get("TMPDIR") or "/tmp") / f"pyanamo-staging-{os.getuid()}"  # noqa: S108 - private to the user (mode 700)
