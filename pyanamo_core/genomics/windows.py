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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """An index on this machine: a .crai, .bai or .csi of a file of `size` bytes. A contig's part is unpacked once.

    Args:
        to_the_end: give all bytes behind the first that are needed (a CRAM before 3.0: its reader takes a hole for the
            file's end, and would find fewer reads without an error).

    Raises:
        ValueError, struct.error, IndexError, OSError, EOFError, zlib.error: it cannot be read.
    """

    def __init__(self, path: Path, size: int, *, to_the_end: bool = False) -> None:
        self._size = size
        self._crai: Crai | None = None
        self._binned: _Binned | None = None
        if path.suffix == ".crai":
            self._crai = Crai(cram.read_crai(path), size if to_the_end else None)
        else:
            data = path.read_bytes()
            self._binned = _Binned(data if data[:4] == b"BAI\x01" else gzip.decompress(data))

    def ranges(self, contig: int, start: int, end: int) -> list[Range]:
        """Ordered ranges of bytes that hold what overlaps `start`-`end` (1-based, closed) of a contig, by its number
        in the file's header. None where the index says that there is nothing."""
        kind = self._crai or self._binned
        found = kind.ranges(contig, start, end) if kind is not None else ()
        return merged((max(0, low), min(self._size, high)) for low, high in found)


class Crai:
    """The lines of a .crai by contig, ordered by start, with the furthest end of each and those before it."""

    def __init__(self, slices: Sequence[cram.Slice], end: int | None) -> None:
        self._end = end
        self._ends: dict[int, int] = {}
        by_contig: dict[int, list[cram.Slice]] = {}
        for one in slices:
            last = one.offset + _CONTAINER_HEAD_BYTES + one.slice_offset + one.slice_bytes
            self._ends[one.offset] = max(last, self._ends.get(one.offset, 0))
            by_contig.setdefault(one.contig, []).append(one)
        self._offsets = sorted(self._ends)
        self._contigs: dict[int, tuple[list[cram.Slice], list[int], list[int]]] = {}
        for contig, listed in by_contig.items():
            listed.sort(key=lambda one: one.start)
            behind = itertools.accumulate((one.start + max(one.span, 1) for one in listed), max)
            self._contigs[contig] = (listed, [one.start for one in listed], list(behind))

    def near(self, contig: int, start: int, end: int) -> list[cram.Slice]:
        """The slices that may overlap a locus, and few others."""
        listed, starts, behind = self._contigs.get(contig, ([], [], []))
        return listed[bisect_right(behind, start) : bisect_right(starts, end)]

    def ranges(self, contig: int, start: int, end: int) -> Iterator[Range]:
        """The containers of a locus (1-based, closed)."""
        hits = [one.offset for one in self.near(contig, start, end) if one.start + max(one.span, 1) > start]
        if not hits:
            return
        # htslib reads on until a container begins behind the locus; one of several contigs it reads whole to know.
        after = bisect_right(self._offsets, max(hits))
        stop = self._ends[self._offsets[min(after, len(self._offsets) - 1)]]
        if after + 1 < len(self._offsets):
            stop = min(stop, self._offsets[after + 1] + _CONTAINER_HEAD_BYTES)
        # It may also begin one container early.
        first = max(0, bisect_right(self._offsets, min(hits)) - 2)
        yield self._offsets[first], stop if self._end is None else self._end


class _Binned:
    """A .bai or unpacked .csi: UCSC's binning (SAM specification, 5.3; CSIv1), bins numbered level after level."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._csi = data[:4] == b"CSI\x01"
        if not self._csi and data[:4] != b"BAI\x01":
            raise ValueError("neither BAI nor CSI")
        self._smallest, self._depth = struct.unpack_from("<2i", data, 4) if self._csi else (14, 5)
        at = 16 + struct.unpack_from("<i", data, 12)[0] if self._csi else 4
        self._waiting = struct.unpack_from("<i", data, at)[0]
        self._at = at + 4
        self._contigs: list[_Bins] = []

    def ranges(self, contig: int, start: int, end: int) -> Iterator[Range]:
        """The chunks of a locus (1-based, closed) that htslib may open."""
        bins = self._bins(contig)
        wanted: list[range] = []
        first = 0
        for level in range(self._depth + 1):
            shift = self._smallest + 3 * (self._depth - level)
            wanted.append(range(first + (start - 1 >> shift), first + (end - 1 >> shift) + 1))
            first += 1 << 3 * level
        stop, lowest = _stop(bins.chunks, wanted[-1][-1] + 1, first), self._lowest(bins, wanted[-1][0])
        for name in itertools.chain.from_iterable(wanted):
            chunks = bins.chunks.get(name, ())
            for begin, after in zip(chunks[::2], chunks[1::2], strict=True):
                if after > lowest and (stop is None or begin < stop):
                    yield begin >> 16, (min(after, stop or after) >> 16) + BLOCK_BYTES

    def _lowest(self, bins: _Bins, name: int) -> int:
        """Before which virtual offset htslib opens nothing: what the linear index (CSI: the bin) says of the first bin
        that exists, from the locus's first smallest one leftwards to the first of its parent, then of the parent and so
        on. Not what it says of the locus itself: that is higher where the locus has no such bin."""
        while name and name not in bins.chunks:
            name = name - 1 if name % 8 != 1 else name - 1 >> 3
        if name not in bins.chunks:
            return 0
        if self._csi:
            return bins.lowest[name]
        level = next(n for n in range(self._depth, -1, -1) if name >= ((1 << 3 * n) - 1) // 7)
        window = name - ((1 << 3 * level) - 1) // 7 << 3 * (self._depth - level)
        if window >= len(bins.linear):
            return 0
        return next((one for one in reversed(bins.linear[: window + 1]) if one), 0)

    def _bins(self, contig: int) -> _Bins:
        """A contig's part; empty if the index ends before it."""
        data = self._data
        while self._waiting and len(self._contigs) <= contig:
            at, bins = self._at, _Bins({}, {}, ())
            count = struct.unpack_from("<i", data, at)[0]
            at += 4
            for _ in range(count):
                name = struct.unpack_from("<I", data, at)[0]
                if self._csi:
                    bins.lowest[name] = struct.unpack_from("<Q", data, at + 4)[0]
                at += 12 if self._csi else 4
                chunks = struct.unpack_from("<i", data, at)[0]
                bins.chunks[name] = struct.unpack_from(f"<{2 * chunks}Q", data, at + 4)
                at += 4 + 16 * chunks
            if not self._csi:
                windows = struct.unpack_from("<i", data, at)[0]
                bins = replace(bins, linear=struct.unpack_from(f"<{windows}Q", data, at + 4))
                at += 4 + 8 * windows
            self._contigs.append(bins)
            self._at, self._waiting = at, self._waiting - 1
        return self._contigs[contig] if contig < len(self._contigs) else _Bins({}, {}, ())


@dataclass(frozen=True)
class _Bins:
    """Of one contig: virtual offsets of each bin's chunks (begin and end by turns), a CSI's offset of each bin, and a
    BAI's of each window."""

    chunks: dict[int, tuple[int, ...]]
    lowest: dict[int, int]
    linear: tuple[int, ...]


def _stop(bins: Mapping[int, Sequence[int]], name: int, count: int) -> int | None:
    """Where htslib stops reading: at the first chunk of the next bin to the right of the locus's last smallest one or,
    where those of one parent are done, to the right of the parent; None: nowhere. The first bin behind the locus in
    the file may come earlier: htslib would still open chunks between the two."""
    name = 0 if name >= count else name
    while True:
        while name % 8 == 1:
            name = (name - 1) >> 3
        if name == 0:
            return None
        if bins.get(name):
            return bins[name][0]
        name += 1


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
