"""As much of CRAM's layout as is needed to find containers (CRAM specification 3.1, sections 2, 6 and 7)."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

FILE_DEFINITION_BYTES = 26
# Last container of CRAM 3 and of 2.1 (CRAM specification, "End of file container").
CRAM3_EOF = bytes.fromhex("0f000000ffffffff0fe0454f4600000000010005bdd94f0001000606010001000100ee63014b")
CRAM2_EOF = bytes.fromhex("0b000000ffffffff0fe0454f460000000001000001000606010001000100")


@dataclass(frozen=True)
class Container:
    """A container's header: bytes of its body, contig (-1 unplaced, -2 several), 1-based start, bytes of the header."""

    length: int
    contig: int
    start: int
    header_bytes: int


@dataclass(frozen=True)
class Slice:
    """A line of a .crai: contig, 1-based start and span in bases, where its container begins, and its place in it."""

    contig: int
    start: int
    span: int
    offset: int
    slice_offset: int
    slice_bytes: int


def read_crai(path: Path) -> list[Slice]:
    """All lines of a .crai, packed or not.

    Raises:
        ValueError, OSError, EOFError, zlib.error: it is none.
    """
    packed = path.read_bytes()
    text = gzip.decompress(packed).decode() if packed[:2] == b"\x1f\x8b" else packed.decode()
    lines = ([int(x) for x in line.split("\t")] for line in text.splitlines() if line)
    return [Slice(*line) for line in lines] if text else []


def container(head: bytes) -> Container | None:
    """The header of a container that begins here, or None if its checksum (3.x) or its first block (2.x) does not hold.

    Raises:
        struct.error, IndexError: there are too few bytes.
    """
    found, at = _fields(head)
    (crc,) = struct.unpack_from("<I", head, at)
    version_3 = crc == zlib.crc32(head[:at])
    if found.length <= 0 or not (version_3 or head[at : at + 2] in (b"\x00\x01", b"\x01\x01", b"\x04\x01")):
        return None
    return Container(found.length, found.contig, found.start, at + (4 if version_3 else 0))


def header_end(head: bytes) -> int | None:
    """Where the container of the SAM header ends (bytes from the file's start); None if `head` does not tell yet.

    Raises:
        ValueError: this is no CRAM.
    """
    if head[:4] != b"CRAM":
        raise ValueError("no CRAM")
    try:
        found, at = _fields(head[FILE_DEFINITION_BYTES:])
    except (struct.error, IndexError):
        return None
    return FILE_DEFINITION_BYTES + at + (4 if head[4] >= 3 else 0) + found.length


def _fields(head: bytes) -> tuple[Container, int]:
    """A container's fields, and where they end (a checksum follows in 3.x)."""
    (length,) = struct.unpack_from("<i", head)
    at = 4
    values: list[int] = []
    for _ in range(4):  # contig, start, span, number of records
        value, at = _itf8(head, at)
        values.append(value)
    for _ in range(2):  # record counter and bases are LTF8
        at += _ltf8_bytes(head[at])
    _, at = _itf8(head, at)  # blocks
    landmarks, at = _itf8(head, at)
    for _ in range(landmarks):
        _, at = _itf8(head, at)
    contig = values[0] - (1 << 32) if values[0] >= 1 << 31 else values[0]
    return Container(length, contig, values[1], at), at


def _itf8(data: bytes, at: int) -> tuple[int, int]:
    """A CRAM integer of 1 to 5 bytes, and where the next value starts."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    if first < 0xC0:
        return (first & 0x3F) << 8 | data[at + 1], at + 2
    if first < 0xE0:
        return (first & 0x1F) << 16 | int.from_bytes(data[at + 1 : at + 3], "big"), at + 3
    if first < 0xF0:
        return (first & 0x0F) << 24 | int.from_bytes(data[at + 1 : at + 4], "big"), at + 4
    high = (first & 0x0F) << 28 | int.from_bytes(data[at + 1 : at + 4], "big") << 4
    return high | (data[at + 4] & 0x0F), at + 5


def _ltf8_bytes(first: int) -> int:
    """Length of a CRAM long integer: one byte more per leading one bit."""
    return 1 + next((n for n in range(8) if not first & (0x80 >> n)), 8)
