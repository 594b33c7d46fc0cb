"""BGZF as it streams: read by ranges from a bucket or a file, hashed while it passes, written block by block.

A whole-genome gVCF has gigabytes: nothing here holds more than a chunk of it. A read that breaks off is asked for again
from where it broke off.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from pyanamo_core.errors import EndpointDown, GvcfInvalid
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.records import BGZF_EOF

CHUNK = 4 << 20
TRIES = 5
BLOCK = 65_280
"""Bytes of text in a block, as htslib has it; a block holds at most 65,536."""
LEVEL = 6
_HEAD = struct.Struct("<4sLBBHBBHH")
_MAGIC = b"\x1f\x8b\x08\x04"


def pack_block(text: bytes, level: int = LEVEL) -> bytes:
    """One BGZF block of at most 64 KB of text."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    packed = packer.compress(text) + packer.flush()
    if len(packed) > 65_000:  # what cannot be compressed grows: a block must stay below 64 KB
        half = len(text) // 2
        return pack_block(text[:half], level) + pack_block(text[half:], level)
    size = len(packed) + 25
    head = _HEAD.pack(_MAGIC, 0, 0, 255, 6, 66, 67, 2, size)
    return head + packed + struct.pack("<LL", zlib.crc32(text), len(text))


def pack(text: bytes) -> bytes:
    """Text as BGZF blocks, without the end-of-file block."""
    return b"".join(pack_block(text[at : at + BLOCK]) for at in range(0, len(text), BLOCK))


class RangedReader(io.RawIOBase):
    """A file or object read from its beginning by ranges, hashed as it passes.

    Raises (while reading):
        FileNotFoundError: it does not exist. EndpointDown: five tries at one range were not answered.
    """

    def __init__(
        self, inputs: Inputs, uri: str, *, chunk: int = CHUNK, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.uri = uri
        self.total: int | None = None
        self._inputs, self._chunk, self._sleep = inputs, chunk, sleep
        self._at = 0
        self._held = memoryview(b"")
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._held and (self.total is None or self._at < self.total):
            self._held = memoryview(self._next())
        count = min(len(buffer), len(self._held))
        buffer[:count] = self._held[:count]
        self._held = self._held[count:]
        return count

    def _next(self) -> bytes:
        for attempt in range(1, TRIES + 1):
            try:
                data, self.total = self._inputs.read_range(self.uri, self._at, self._chunk)
                break
            except EndpointDown:
                if attempt == TRIES:
                    raise
                self._sleep(0.2 * 2**attempt)
        else:  # pragma: no cover - the last attempt raises
            data = b""
        self._at += len(data)
        self._digest.update(data)
        return data

    def chunks(self) -> Iterator[bytes]:
        """What is left, chunk by chunk."""
        if self._held:
            held, self._held = self._held, memoryview(b"")
            yield bytes(held)
        while self.total is None or self._at < self.total:
            data = self._next()
            if not data:
                return
            yield data

    def whole_digest(self) -> str:
        """SHA-256 (hex) of the whole file; reads what is left."""
        for _ in self.chunks():
            pass
        return self._digest.hexdigest()


class Lines:
    """The lines of a BGZF, gzip or plain text as bytes: the header at once, the records as they are asked for.

    Raises:
        GvcfInvalid: no header, truncated or damaged; also while iterating.
    """

    def __init__(self, reader: RangedReader) -> None:
        self.reader = reader
        buffered = io.BufferedReader(reader, 1 << 20)
        packed = buffered.peek(2)[:2] == b"\x1f\x8b"
        self._stream: Any = gzip.GzipFile(fileobj=buffered) if packed else buffered
        self.header: list[bytes] = []
        for line in self:
            self.header.append(line)
            if not line.startswith(b"##"):
                break
        if not self.header or not self.header[-1].startswith(b"#CHROM"):
            raise GvcfInvalid(path=reader.uri, reason="it has no header")

    @property
    def samples(self) -> list[str]:
        """The names in the header's last line."""
        return self.header[-1].decode().rstrip("\n").split("\t")[9:]

    def __iter__(self) -> Iterator[bytes]:
        try:
            # Not `yield from`: that would close the stream with the first iterator.
            for line in self._stream:  # noqa: UP028
                yield line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise GvcfInvalid(path=self.reader.uri, reason=f"it is truncated or damaged ({error})") from error


class Packer:
    """Lines in, BGZF blocks out; a block ends with a line, so that a file can be cut behind any of them."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._size = 0

    @property
    def holding(self) -> bool:
        """Are there lines that stand in no block yet?"""
        return bool(self._held)

    def add(self, line: bytes) -> bytes:
        """Take a line; gives blocks when one is full, else nothing."""
        out = self.flush() if self._size + len(line) > BLOCK else b""
        if len(line) > BLOCK:
            return out + pack(line)
        self._held.append(line)
        self._size += len(line)
        return out

    def flush(self) -> bytes:
        """The block of what is held."""
        if not self._held:
            return b""
        text = b"".join(self._held)
        self._held.clear()
        self._size = 0
        return pack_block(text)


def split_blocks(stream: Iterator[bytes], uri: str) -> Iterator[bytes]:
    """The BGZF blocks of a stream of bytes, as they are.

    Raises:
        GvcfInvalid: it is no BGZF, or ends within a block.
    """
    held = b""
    for chunk in stream:
        held = held + chunk if held else chunk
        at = 0
        while len(held) - at >= 18:
            if held[at : at + 4] != _MAGIC:
                raise GvcfInvalid(path=uri, reason="it is no BGZF")
            size = block_size(held, at)
            if size == 0:
                raise GvcfInvalid(path=uri, reason="it is gzip, but no BGZF")
            if len(held) - at < size:
                break
            yield held[at : at + size]
            at += size
        held = held[at:]
    if held:
        raise GvcfInvalid(path=uri, reason="it ends within a block")


def block_size(data: bytes, at: int) -> int:
    """Bytes of the block that begins at `at`; 0 if it is none (BC need not be the first of the extra fields)."""
    (extra,) = struct.unpack_from("<H", data, at + 10)
    place, end = at + 12, at + 12 + extra
    while place + 4 <= min(end, len(data)):
        kind, length = data[place : place + 2], struct.unpack_from("<H", data, place + 2)[0]
        if kind == b"BC" and length == 2 and place + 6 <= len(data):
            return struct.unpack_from("<H", data, place + 4)[0] + 1
        place += 4 + length
    return 0


def unpack_block(block: bytes) -> bytes:
    """The text of one block."""
    return gzip.decompress(block)


__all__ = [
    "BGZF_EOF",
    "CHUNK",
    "Lines",
    "Packer",
    "RangedReader",
    "block_size",
    "pack",
    "pack_block",
    "split_blocks",
    "unpack_block",
]
