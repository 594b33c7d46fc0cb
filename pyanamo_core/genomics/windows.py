"""Which bytes of a BAM or CRAM a locus needs, by the file's index: the reader then needs no others.

The answers may be too large, never too small: htslib, reading the same loci from these bytes alone, meets no other
(a test compares what it finds with what it finds in the whole file). Byte ranges are 0-based and half-open.
"""

from __future__ import annotations

import gzip
import itertools
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pyanamo_core.genomics import cram

BLOCK_BYTES = 1 << 16
"""The most that a BGZF block has."""
GAP_BYTES = 1 << 17
"""Two ranges that are no further apart are read as one."""
_CONTAINER_HEAD_BYTES = 1 << 16
Range = tuple[int, int]


def header_end(head: bytes) -> int | None:
    """How many bytes of the file hold its header, to the end of their block; None if `head` is too short to tell.

    Raises:
        ValueError, zlib.error: neither a BAM nor a CRAM.
    """
    if head[:4] == b"CRAM":
        return cram.header_end(head)
    text, at = bytearray(), 0
    while at + 18 <= len(head):
        if head[at : at + 4] != b"\x1f\x8b\x08\x04" or head[at + 12 : at + 14] != b"BC":
            raise ValueError("neither BAM nor CRAM")
        size = struct.unpack_from("<H", head, at + 16)[0] + 1
        if at + size > len(head):
            return None
        text += zlib.decompress(head[at : at + size], wbits=31)
        at += size
        if _holds_bam_header(text):
            return at
    return None


def _holds_bam_header(text: bytearray) -> bool:
    """Does this begin with a whole header of a BAM (SAM specification, 4.2)?"""
    if len(text) >= 4 and bytes(text[:4]) != b"BAM\x01":
        raise ValueError("no BAM")
    try:
        at = 8 + struct.unpack_from("<i", text, 4)[0]
        contigs = struct.unpack_from("<i", text, at)[0]
        at += 4
        for _ in range(contigs):
            at += 8 + struct.unpack_from("<i", text, at)[0]
    except struct.error:
        return False
    return at <= len(text)


class Index:
    """An index on this machine: a .crai, .bai or .csi of a file of `size` bytes.

    Raises:
        ValueError, struct.error, IndexError, OSError, EOFError, zlib.error: it cannot be read.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        self._slices: list[cram.Slice] | None = None
        self._data = b""
        if path.suffix == ".crai":
            self._slices = cram.read_crai(path)
            ends: dict[int, int] = {}
            for one in self._slices:
                end = one.offset + _CONTAINER_HEAD_BYTES + one.slice_offset + one.slice_bytes
                ends[one.offset] = max(end, ends.get(one.offset, 0))
            self._offsets = sorted(ends)
            self._ends = ends
        else:
            data = path.read_bytes()
            self._data = data if data[:4] == b"BAI\x01" else gzip.decompress(data)

    def ranges(self, contig: int, start: int, end: int) -> list[Range]:
        """Ordered ranges of bytes that hold what overlaps `start`-`end` (1-based, closed) of a contig, by its number
        in the file's header. None where the index says that there is nothing."""
        found = (
            self._of_bam(contig, start, end)
            if self._slices is None
            else self._of_cram(self._slices, contig, start, end)
        )
        return merged((max(0, low), min(self._size, high)) for low, high in found)

    def _of_cram(self, slices: Sequence[cram.Slice], contig: int, start: int, end: int) -> Iterator[Range]:
        hits = [
            one.offset
            for one in slices
            if one.contig == contig and one.start <= end and one.start + max(one.span, 1) > start
        ]
        if not hits:
            return
        # htslib reads on until a container begins behind the locus; one of several contigs it reads whole to know.
        behind = bisect_right(self._offsets, max(hits))
        last = self._offsets[min(behind, len(self._offsets) - 1)]
        stop = self._ends[last]
        if behind + 1 < len(self._offsets):
            stop = min(stop, self._offsets[behind + 1] + _CONTAINER_HEAD_BYTES)
        # It may also begin one container early.
        first = max(0, bisect_right(self._offsets, min(hits)) - 2)
        yield self._offsets[first], stop

    def _of_bam(self, contig: int, start: int, end: int) -> Iterator[Range]:
        smallest, depth = 14, 5
        if self._data[:4] != b"BAI\x01":
            if self._data[:4] != b"CSI\x01":
                raise ValueError("neither BAI nor CSI")
            smallest, depth = struct.unpack_from("<2i", self._data, 4)
        # UCSC's binning (SAM specification, 5.3; CSIv1): bins of each level are numbered after those of the level above.
        wanted, behind = set[int](), list[range]()
        first = 0
        for level in range(depth + 1):
            shift = smallest + 3 * (depth - level)
            low, high = first + (start - 1 >> shift), first + (end - 1 >> shift)
            wanted.update(range(low, high + 1))
            first += 1 << 3 * level
            behind.append(range(high + 1, first))
        window = start - 1 >> smallest
        bins, lowest = self._bins(contig, window, ((1 << 3 * depth) - 1) // 7 + window)
        # Reads of a bin that begins behind the locus stand behind all of the locus's, as the file is sorted.
        stop = min((chunks[0] for name, chunks in bins.items() if any(name in each for each in behind)), default=None)
        for name in wanted.intersection(bins):
            for begin, after in zip(bins[name][::2], bins[name][1::2], strict=True):
                if after > lowest and (stop is None or begin < stop):
                    yield begin >> 16, (min(after, stop or after) >> 16) + BLOCK_BYTES

    def _bins(self, contig: int, window: int, smallest_bin: int) -> tuple[dict[int, tuple[int, ...]], int]:
        """Virtual offsets of each bin's chunks (begin and end by turns), and before which no read reaches the locus."""
        data, csi = self._data, self._data[:4] == b"CSI\x01"
        at = 16 + struct.unpack_from("<i", data, 12)[0] if csi else 4
        contigs = struct.unpack_from("<i", data, at)[0]
        at += 4
        bins: dict[int, tuple[int, ...]] = {}
        lowest = 0
        for number in range(min(contig + 1, contigs)):
            count = struct.unpack_from("<i", data, at)[0]
            at += 4
            for _ in range(count):
                name = struct.unpack_from("<I", data, at)[0]
                if csi and number == contig and name == smallest_bin:
                    lowest = struct.unpack_from("<Q", data, at + 4)[0]
                at += 12 if csi else 4
                chunks = struct.unpack_from("<i", data, at)[0]
                if number == contig and chunks:
                    bins[name] = struct.unpack_from(f"<{2 * chunks}Q", data, at + 4)
                at += 4 + 16 * chunks
            if not csi:
                windows = struct.unpack_from("<i", data, at)[0]
                if number == contig and window < windows:
                    lowest = struct.unpack_from("<Q", data, at + 4 + 8 * window)[0]
                at += 4 + 8 * windows
        return bins, lowest


def merged(ranges: Iterable[Range], gap: int = GAP_BYTES) -> list[Range]:
    """Ordered ranges without overlap, those closer than `gap` made one; empty ones left out."""
    found: list[Range] = []
    for low, high in sorted(one for one in ranges if one[0] < one[1]):
        if found and low <= found[-1][1] + gap:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def pieces(ranges: Iterable[Range], largest: int) -> list[Range]:
    """The same bytes in ranges of at most `largest`."""
    return list(
        itertools.chain.from_iterable(
            ((low, min(high, low + largest)) for low in range(start, high, largest)) for start, high in ranges
        )
    )
