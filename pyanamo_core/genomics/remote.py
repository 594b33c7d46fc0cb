"""Reads in a bucket, as a file of this machine that holds only the bytes in use.

The file has the size of the original and is empty but for header, end and the ranges that the index names for the loci
asked for (docs/decisions/0060-reads-come-as-ranges-of-bytes.md): htslib never meets the network, and no address with a
signature is ever made. Header, end and index are fetched once and shared by all nests of a pilot on this host.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pyanamo_core.errors import ReadsInterrupted, ReadsInvalid
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.windows import Index, Range, header_end, pieces
from pyanamo_core.store import Store, key_of

END_BYTES = 38
HEADER_BYTES = 1 << 18
LONGEST_HEADER_BYTES = 1 << 26
RANGE_BYTES = 1 << 25
RANGES_AT_A_TIME = 4
ADOPT_TRIES = 10
KEPT_BYTES = 1 << 30
"""Headers and indexes of more samples than fit are forgotten, the longest unused first."""


@dataclass(frozen=True)
class Known:
    """What is known of reads in a bucket without reading them: size and version, and files with header, end and index."""

    uri: str
    size: int
    etag: str
    index_name: str
    key: str = ""


Prove = Callable[[bytes, int, Path], str | None]
"""Given the file's end, its size and its index: what is wrong with them, or None."""


def get_known(inputs: Inputs, uri: str, candidates: Sequence[str], work: Path, prove: Prove) -> Known:
    """Header, end and index of reads, put into `work` as `head`, `end` and `reads.crai` (.bai, .csi).

    Args:
        candidates: where the index may lie.
        prove: is asked once, when they are fetched.

    Raises:
        ReadsInvalid: no such file, no index, or what `prove` finds wrong.
    """
    store = Store(inputs.shared or work / "known")
    key = key_of("reads", uri, *candidates)

    def make(folder: Path) -> None:
        known = _fetch(inputs, uri, candidates, folder, prove)
        (folder / "known.json").write_text(json.dumps(asdict(known)))
        if inputs.shared is not None:
            _make_room(inputs.shared, KEPT_BYTES)

    for _ in range(ADOPT_TRIES):
        folder = store.entry(key, make)
        try:
            told: dict[str, Any] = json.loads((folder / "known.json").read_text())
            known = replace(Known(**told), key=key)
            for name in ("head", "end", known.index_name):
                _adopt(folder / name, work / name)
            os.utime(folder)
        except (FileNotFoundError, ValueError, TypeError):
            _remove(folder)  # damaged, or pushed out by another nest's new sample just now
        else:
            return known
    raise ReadsInterrupted(reads=uri, reason=f"other nests pushed its index out of {store.root} each time")


def forget(inputs: Inputs, known: Known) -> None:
    """Let the next nest fetch header and index anew."""
    if inputs.shared is not None:
        _remove(inputs.shared / known.key)


def _fetch(inputs: Inputs, uri: str, candidates: Sequence[str], folder: Path, prove: Prove) -> Known:
    try:
        end = inputs.read_end(uri, END_BYTES)
    except FileNotFoundError as error:
        raise ReadsInvalid(reads=uri, reason="no such file") from error
    (folder / "end").write_bytes(end.data)
    for candidate in candidates:
        index = folder / f"reads{Path(candidate).suffix}"
        try:
            inputs.fetch(candidate, index)
            break
        except FileNotFoundError:
            index.unlink(missing_ok=True)
    else:
        raise ReadsInvalid(
            reads=uri, reason=f"its index {candidates[0]} is missing; make it with: samtools index {uri}"
        )
    if reason := prove(end.data, end.size, index):
        raise ReadsInvalid(reads=uri, reason=reason)
    (folder / "head").write_bytes(_header(inputs, uri))
    return Known(uri, end.size, end.etag, index.name)


def _header(inputs: Inputs, uri: str) -> bytes:
    head, wanted = b"", HEADER_BYTES
    while True:
        more, size = inputs.read_range(uri, len(head), wanted - len(head))
        head += more
        try:
            end = header_end(head)
        except (ValueError, struct.error, zlib.error) as error:
            raise ReadsInvalid(reads=uri, reason=f"its header cannot be read ({error})") from error
        if end is not None and end <= len(head):
            return head[:end]
        if len(head) >= min(size, LONGEST_HEADER_BYTES):
            raise ReadsInvalid(reads=uri, reason="its header does not end; copy the file again")
        wanted = min(max(4 * wanted, end or 0), size)


def fill(inputs: Inputs, known: Known, work: Path, ranges: Sequence[Range]) -> Path:
    """The file `reads` in `work`: header, end and these ranges of the original at their places, holes elsewhere.

    Raises:
        ReadsInterrupted: the original was replaced by another version since its header was read.
    """
    target = work / "reads"
    if not target.exists():
        with target.open("wb") as file:
            shutil.copyfileobj((work / "head").open("rb"), file)
            end = (work / "end").read_bytes()
            file.truncate(known.size)
            file.seek(known.size - len(end))
            file.write(end)

    def copy(one: Range) -> None:
        with target.open("r+b") as file:
            inputs.copy_range(known.uri, one[0], one[1], file, known.etag)

    wanted = pieces(ranges, RANGE_BYTES)
    try:
        if len(wanted) == 1:
            copy(wanted[0])
        elif wanted:
            with ThreadPoolExecutor(RANGES_AT_A_TIME) as pool:
                list(pool.map(copy, wanted))
    except ReadsInterrupted:
        forget(inputs, known)
        raise
    return target


def ranges_of(known: Known, work: Path, loci: Sequence[tuple[int, int, int]]) -> list[list[Range]]:
    """For each locus (contig's number, 1-based closed start and end) the ranges that hold its reads.

    Raises:
        ReadsInvalid: the index cannot be read.
    """
    try:
        with (work / "head").open("rb") as file:
            begin = file.read(5)
        old = begin[:4] == b"CRAM" and begin[4] < 3
        index = Index(work / known.index_name, known.size, to_the_end=old)
        return [index.ranges(*locus) for locus in loci]
    except (ValueError, struct.error, IndexError, EOFError, zlib.error) as error:
        reason = f"its index cannot be read ({error}); make it with: samtools index {known.uri}"
        raise ReadsInvalid(reads=known.uri, reason=reason) from error


# ------------------------------------------------------------------------------------------------- sharing among nests


def _adopt(shared: Path, own: Path) -> None:
    """A link, so that it stays ours whatever becomes of the shared one; a copy where links cannot be."""
    own.unlink(missing_ok=True)
    try:
        os.link(shared, own)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(shared, own)


def _make_room(root: Path, most: int) -> None:
    """Remove the entries that were longest unused, until the rest has at most `most` bytes."""
    entries: list[tuple[float, int, Path]] = []
    for marker in root.glob("*/known.json"):
        if marker.parent.name.startswith(".") or marker.parent.suffix == ".part":
            continue  # one that is being made by another nest, or is on its way out
        with suppress(OSError):
            folder = marker.parent
            entries.append((folder.stat().st_mtime, sum(x.stat().st_size for x in folder.iterdir()), folder))
    total = sum(size for _, size, _ in entries)
    for _, size, folder in sorted(entries):
        if total <= most:
            return
        _remove(folder)
        total -= size


def _remove(folder: Path) -> None:
    """Out of sight at once, then gone."""
    away = folder.with_name(f".{folder.name}-{os.getpid()}-{os.urandom(4).hex()}")
    with suppress(OSError):
        folder.rename(away)
        shutil.rmtree(away, ignore_errors=True)
