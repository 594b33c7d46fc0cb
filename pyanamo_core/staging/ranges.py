"""A big file fetched in ranges, side by side, that goes on where an earlier process was ended.

Beside the partial file lie notes: whose content it is (address, version, size), then one line for each range that has
arrived whole. A kill between a range and its line costs that range. Whoever fetches holds the entry's lock (store.py).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

RANGE_BYTES: Final = 32 * 2**20
READERS: Final = 8
Get = Callable[[int, int], Iterable[bytes]]
"""Pieces of the file from its first to its last byte asked for, both 0-based and included."""


class Cancelled(Exception):
    """Another range has failed."""


class Partial:
    """A file on its way.

    Args:
        path: where its bytes go; the notes lie at `path` + `.notes`.
        uri, version: what it is, and what changes when its content does; of another one nothing is taken over.
        size: in bytes.
        range_bytes: of one range; 0: RANGE_BYTES.
    """

    def __init__(self, path: Path, uri: str, version: str, size: int, range_bytes: int = 0) -> None:
        self.path, self.size, self._range = path, size, range_bytes or RANGE_BYTES
        self._notes = path.with_name(f"{path.name}.notes")
        self._head = json.dumps({"uri": uri, "version": version, "bytes": size, "range_bytes": self._range})
        self._done = self._read()
        self._lock = threading.Lock()

    @property
    def bytes_done(self) -> int:
        """What need not be fetched again."""
        return sum(last - first + 1 for first, last in map(self._span, self._done))

    def fetch(self, get: Get) -> None:
        """Fetch what is missing; the first range that fails ends it, and what has arrived stays."""
        missing = [number for number in range(-(-self.size // self._range)) if number not in self._done]
        failed = threading.Event()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not self._done:
                os.ftruncate(handle, 0)
                self._notes.write_text(f"{self._head}\n")
            os.ftruncate(handle, self.size)
            with ThreadPoolExecutor(READERS, thread_name_prefix="fetch") as pool:
                futures = [pool.submit(self._fetch_one, handle, number, get, failed) for number in missing]
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                errors = [error for each in done if (error := each.exception()) is not None]
                if errors:
                    failed.set()
                    for each in futures:
                        each.cancel()
                    raise next((each for each in errors if not isinstance(each, Cancelled)), errors[0])
        finally:
            os.close(handle)

    def move_to(self, target: Path) -> None:
        """Give the whole file its name; the notes go."""
        self.path.replace(target)
        self._notes.unlink(missing_ok=True)

    def drop(self) -> None:
        """Remove what has arrived."""
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def _span(self, number: int) -> tuple[int, int]:
        first = number * self._range
        return first, min(first + self._range, self.size) - 1

    def _fetch_one(self, handle: int, number: int, get: Get, failed: threading.Event) -> None:
        first, last = self._span(number)
        place = first
        for piece in get(first, last):
            if failed.is_set():
                raise Cancelled
            view = memoryview(piece)
            while view:
                written = os.pwrite(handle, view, place)
                place, view = place + written, view[written:]
        if place != last + 1:
            raise EOFError(f"bytes {first}-{last} ended after {place - first}")
        os.fsync(handle)  # a host that loses its power must not keep the line and lose the bytes
        with self._lock, self._notes.open("a") as notes:
            notes.write(f"{number}\n")

    def _read(self) -> set[int]:
        try:
            head, *lines = self._notes.read_text().split("\n")
            there = self.path.stat().st_size == self.size
        except OSError:
            return set()
        if head != self._head or not there:
            return set()
        # The last line may have been cut off by a kill: what has no end does not count.
        return {int(line) for line in lines[:-1] if line.isdecimal()}
