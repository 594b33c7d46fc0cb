"""What is read from a task's output while it is written: tag lines, the last line, how long the log was when. Bounded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

TAG_PREFIX: Final = b"PyAnamo:\t"
LINE_BYTES: Final = 64 * 1024
"""A longer line is cut here when it is a tag line; the log holds it whole."""
TAG_BYTES: Final = 4 * 1024 * 1024
"""Tag lines of one nest beyond this are counted, not kept."""
TAIL_BYTES: Final = 2048
_LAST_LINE_BYTES: Final = 200
_MARKS: Final = 2048


class TagScanner:
    """Finds tag lines in a stream of bytes, in bounded memory.

    Lines that are not tag lines are never looked at one by one: a task may write hundreds of megabytes a second.
    """

    def __init__(self) -> None:
        self.tags: list[str] = []
        self.dropped = 0
        self.last_line = ""
        self._kept_bytes = 0
        self._line = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of standard output."""
        first = chunk.find(b"\n")
        if first < 0:
            self._take(chunk)
            return
        self._take(chunk[:first])
        self._end_line()
        last = chunk.rfind(b"\n")
        if last > first:
            self._whole_lines(chunk[first:last])
        self._take(chunk[last + 1 :])

    def close(self) -> None:
        """The stream has ended: a last line without its newline counts too."""
        if self._line:
            self._end_line()

    def _take(self, part: bytes) -> None:
        self._line += part[: LINE_BYTES - len(self._line)]

    def _end_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if line.startswith(TAG_PREFIX):
            self._keep(line)
        if line.strip():
            self.last_line = _short(line)

    def _whole_lines(self, lines: bytes) -> None:
        """Lines, each with its newline before it."""
        at = lines.find(b"\n" + TAG_PREFIX)
        while at >= 0:
            end = lines.find(b"\n", at + 1)
            self._keep(lines[at + 1 : end if end >= 0 else len(lines)])
            at = lines.find(b"\n" + TAG_PREFIX, end) if end >= 0 else -1
        said = lines.rstrip()
        if said:
            self.last_line = _short(said[said.rfind(b"\n") + 1 :])

    def _keep(self, line: bytes) -> None:
        line = line[:LINE_BYTES].rstrip(b"\r")
        if self._kept_bytes + len(line) > TAG_BYTES:
            self.dropped += 1
        else:
            self._kept_bytes += len(line)
            self.tags.append(line[len(TAG_PREFIX) :].decode("utf-8", "replace"))


def _short(line: bytes) -> str:
    return line.rstrip()[:_LAST_LINE_BYTES].decode("utf-8", "replace")


class Marks:
    """How long the log was when: at most `_MARKS` pairs, thinned out evenly as they grow."""

    def __init__(self) -> None:
        self._marks: list[tuple[int, float]] = []

    def add(self, size: int, now: float) -> None:
        """Note the log's size (bytes) at a time; nothing is noted while it does not grow."""
        if self._marks and size <= self._marks[-1][0]:
            return
        self._marks.append((size, max(now, self._marks[-1][1]) if self._marks else now))
        if len(self._marks) > _MARKS:
            self._marks = [*self._marks[1:-1:2], self._marks[-1]]

    def told(self) -> tuple[tuple[int, float], ...]:
        """The pairs, ascending."""
        return tuple(self._marks)


def tail_of(path: Path, limit: int = TAIL_BYTES) -> str:
    """The last lines of a file that fit into so many bytes of UTF-8; "" if there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            end = file.read(limit)
    except OSError:
        return ""
    if size > limit and b"\n" in end[:-1]:
        end = end.partition(b"\n")[2]
    text = end.decode("utf-8", "replace")
    while len(text.encode()) > limit:  # a byte that is no UTF-8 becomes three
        text = text[max(1, (len(text.encode()) - limit) // 3) :]
    return text
