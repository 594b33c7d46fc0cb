"""Reads of one sample: opened with their index, checked against the reference, sliced.

What is checked before a caller sees a read: the end-of-file marker, that the index belongs to this very file, one
sample, and that the contigs in use are the reference's (M5, or name and length with a warning).
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from pyanamo_core.errors import ReadsInvalid
from pyanamo_core.genomics.cram import CRAM2_EOF, CRAM3_EOF, Container, container, read_crai
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Dictionary, Locus
from pyanamo_core.genomics.records import BGZF_EOF
from pyanamo_core.genomics.remote import fill, get_known, ranges_of
from pyanamo_core.genomics.windows import merged

Source = Callable[[Sequence[Locus]], tuple[Any, list[Locus]]]


@dataclass
class OpenReads(AbstractContextManager["OpenReads"]):
    """Reads with what their header says; their bytes are brought here when loci are asked for. Use it in a `with`."""

    uri: str
    file: Any
    header: dict[str, Any]
    sample: str
    source: Source | None = None
    """Brings what loci need; None: the whole file is here."""

    def bring(self, loci: Sequence[Locus]) -> list[Locus]:
        """Make the reads over these loci readable; those of them that the index knows reads of. Raises as `open_reads`."""
        if self.source is None:
            return list(loci)
        self.file.close()
        self.file, there = self.source(loci)
        return there

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()


def open_reads(inputs: Inputs, uri: str, index: str | None, work: Path, reference: Path | None = None) -> OpenReads:
    """Open reads (BAM or CRAM) with their index, which is brought into `work`: htslib then uses no other.

    Raises:
        ReadsInvalid: missing, truncated, index missing or of another file, no or several samples.
        ReadsInterrupted: replaced by another version while they were read; another try begins anew.
    """
    # Without these htslib would ask a server of the EBI for every contig that it does not find.
    os.environ["REF_PATH"] = str(work / "no-reference-but-the-given-one")
    os.environ["REF_CACHE"] = ""
    candidates = [index] if index else default_indexes(uri)
    if not uri.startswith("s3://"):
        found = _bring_index(inputs, uri, candidates, work)
        return _opened(uri, _open_file(uri, Path(uri), found, reference))

    def prove(end: bytes, size: int, found: Path) -> str | None:
        return _truncated(end) or misfit(inputs, uri, size, found)

    known = get_known(inputs, uri, candidates, work, prove)
    here = work / known.index_name
    reads = _opened(uri, _open_file(uri, fill(inputs, known, work, ()), here, reference))

    def bring(loci: Sequence[Locus]) -> tuple[Any, list[Locus]]:
        numbers = {str(entry["SN"]): place for place, entry in enumerate(reads.header.get("SQ", ()))}
        found = ranges_of(known, work, [(numbers[locus.contig], locus.start, locus.end) for locus in loci])
        path = fill(inputs, known, work, merged(chain.from_iterable(found)))
        try:
            file = _open_file(uri, path, here, reference)
        finally:
            path.unlink()  # open, it stays readable; its room is free as soon as it is closed
        return file, [locus for locus, ranges in zip(loci, found, strict=True) if ranges]

    reads.source = bring
    return reads


def _open_file(uri: str, path: Path, index: Path, reference: Path | None) -> Any:
    pysam = require_pysam()
    try:
        return pysam.AlignmentFile(
            str(path),
            "r",
            reference_filename=str(reference) if reference is not None else None,
            index_filename=str(index),
            require_index=True,
        )
    except (OSError, ValueError) as error:
        raise ReadsInvalid(reads=uri, reason=f"cannot be opened ({error})") from error


def _opened(uri: str, file: Any) -> OpenReads:
    try:
        header: dict[str, Any] = file.header.to_dict()
        return OpenReads(uri, file, header, only_sample(uri, header))
    except BaseException:
        file.close()
        raise


def only_sample(uri: str, header: dict[str, Any]) -> str:
    """The SM of all read groups.

    Raises:
        ReadsInvalid: none, or several.
    """
    groups = header.get("RG", [])
    samples = sorted({str(g["SM"]) for g in groups if g.get("SM")})
    if not samples:
        raise ReadsInvalid(reads=uri, reason="no read group names a sample (@RG SM)")
    if len(samples) > 1:
        raise ReadsInvalid(
            reads=uri, reason=f"it holds several samples ({', '.join(samples)}); split it by sample first"
        )
    return samples[0]


# -------------------------------------------------------------------------------------------------------------- index


def default_indexes(uri: str) -> list[str]:
    """Where an index usually lies: beside the reads, with either name."""
    if uri.endswith(".cram"):
        return [f"{uri}.crai", f"{uri.removesuffix('.cram')}.crai"]
    stem = uri.removesuffix(".bam")
    return [f"{uri}.bai", f"{stem}.bai", f"{uri}.csi"]


def _bring_index(inputs: Inputs, uri: str, candidates: Sequence[str], work: Path) -> Path:
    try:
        end = inputs.read_end(uri, len(CRAM3_EOF))
    except FileNotFoundError as error:
        raise ReadsInvalid(reads=uri, reason="no such file") from error
    for candidate in candidates:
        target = work / f"reads{Path(candidate).suffix}"
        try:
            inputs.fetch(candidate, target)
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            continue
        reason = _truncated(end.data) or misfit(inputs, uri, end.size, target)
        if reason:
            raise ReadsInvalid(reads=uri, reason=reason)
        return target
    raise ReadsInvalid(reads=uri, reason=f"its index {candidates[0]} is missing; make it with: samtools index {uri}")


def _truncated(tail: bytes) -> str | None:
    if tail.endswith((CRAM3_EOF, CRAM2_EOF, BGZF_EOF)):
        return None
    return "it is truncated: its end-of-file marker is missing; copy it again"


def misfit(inputs: Inputs, uri: str, size: int, index: Path) -> str | None:
    """Why this index cannot be of this file, or None: the last place that it points to must be what it says."""
    stale = f"its index is stale: it was made for another file or version of it; make it with: samtools index {uri}"
    try:
        fits = _crai_fits if index.suffix == ".crai" else _bam_index_fits
        return None if fits(inputs, uri, size, index) else stale
    except (struct.error, IndexError, ValueError, OSError, EOFError, zlib.error):
        return "its index cannot be read; make it with: samtools index " + uri


def _crai_fits(inputs: Inputs, uri: str, size: int, index: Path) -> bool:
    """The container at the index's last entry is a valid one, is the entry's, and is the file's last."""
    entries = read_crai(index)
    if not entries:
        return True  # a file without reads
    last = max(entries, key=lambda entry: (entry.offset, entry.slice_offset))
    found = _container_at(inputs, uri, last.offset, size)
    if found is None or found.contig not in (-2, last.contig) or found.length != last.slice_offset + last.slice_bytes:
        return False
    if last.contig >= 0 and found.contig == last.contig and found.start > max(last.start, 1):
        return False
    end = last.offset + found.header_bytes + found.length
    if size - end in (len(CRAM3_EOF), len(CRAM2_EOF)):
        return True
    behind = _container_at(inputs, uri, end, size)  # some programs leave unplaced reads out of the index
    return behind is not None and behind.contig == -1


def _container_at(inputs: Inputs, uri: str, offset: int, size: int) -> Container | None:
    """The container that begins at a place of the file, if a whole one does."""
    if offset >= size:
        return None
    head, _ = inputs.read_range(uri, offset, 512)
    try:
        found = container(head)
    except (struct.error, IndexError):
        return None
    return found if found is not None and offset + found.header_bytes + found.length <= size else None


def _bam_index_fits(inputs: Inputs, uri: str, size: int, index: Path) -> bool:
    """The last BGZF block that the index points to is one, and nothing much comes after it but unplaced reads."""
    data = index.read_bytes()
    last, unplaced = _last_bai(data) if data[:4] == b"BAI\x01" else _last_csi(gzip.decompress(data))
    offset = last >> 16
    if offset >= size or not offset:  # htslib ends the last chunk behind the end-of-file block: exactly at the end
        return offset in (size, 0)
    if not unplaced and size - offset > 65_536 + len(BGZF_EOF):
        return False
    head, _ = inputs.read_range(uri, offset, 18)
    return head[:4] == b"\x1f\x8b\x08\x04" and head[12:14] == b"BC"


def _last_bai(data: bytes) -> tuple[int, int]:
    """The last virtual offset in a .bai (SAM specification, 5.2), and the number of unplaced reads."""
    at, last = 8, 0
    for _ in range(struct.unpack_from("<i", data, 4)[0]):
        bins = struct.unpack_from("<i", data, at)[0]
        at += 4
        for _ in range(bins):
            number, chunks = struct.unpack_from("<Ii", data, at)
            if number != 37450:  # the pseudo-bin holds counts
                last = max((last, *struct.unpack_from(f"<{2 * chunks}Q", data, at + 8)))
            at += 8 + 16 * chunks
        at += 4 + 8 * struct.unpack_from("<i", data, at)[0]
    return last, struct.unpack_from("<Q", data, at)[0] if len(data) >= at + 8 else 1


def _last_csi(data: bytes) -> tuple[int, int]:
    """The same of an unpacked .csi (CSIv1 specification)."""
    if data[:4] != b"CSI\x01":
        raise ValueError("neither BAI nor CSI")
    _, depth, auxiliary = struct.unpack_from("<3i", data, 4)
    counts = ((1 << 3 * (depth + 1)) - 1) // 7 + 1  # number of the pseudo-bin
    at, last = 16 + auxiliary, 0
    contigs = struct.unpack_from("<i", data, at)[0]
    at += 4
    for _ in range(contigs):
        bins = struct.unpack_from("<i", data, at)[0]
        at += 4
        for _ in range(bins):
            number, _, chunks = struct.unpack_from("<IQi", data, at)
            if number != counts:
                last = max((last, *struct.unpack_from(f"<{2 * chunks}Q", data, at + 16)))
            at += 16 + 16 * chunks
    return last, struct.unpack_from("<Q", data, at)[0] if len(data) >= at + 8 else 1


# ------------------------------------------------------------------------------------------------ the right reference


def check_reference(
    reads: OpenReads, contigs: Iterable[str], dictionary: Dictionary, *, by_length: bool = False
) -> list[str]:
    """Compare the contigs in use with the .dict; the order of contigs may differ.

    Args:
        by_length: name and length are enough although the M5s differ (HC_REFERENCE_CHECK=length).

    Returns:
        Warnings, where name and length had to do.

    Raises:
        ReadsInvalid: another reference.
    """
    listed = {str(entry["SN"]): entry for entry in reads.header.get("SQ", ())}
    warnings: list[str] = []

    def refused(reason: str) -> ReadsInvalid:
        return ReadsInvalid(reads=reads.uri, reason=f"{reason}: it was aligned to another reference")

    for name in dict.fromkeys(contigs):
        mine, entry = dictionary[name], listed.get(name)
        if entry is None:
            raise refused(f"its header has no contig {name}, which {dictionary.path} has")
        if int(entry["LN"]) != mine.length:
            raise refused(f"contig {name} has {entry['LN']} bases there, {mine.length} in {dictionary.path}")
        theirs, ours = str(entry.get("M5") or "").lower(), (mine.md5 or "").lower()
        if not theirs or not ours:
            side = dictionary.path if theirs else "the reads' header"
            warnings.append(f"contig {name}: M5 missing in {side}; only name and length were compared")
        elif theirs != ours and by_length:
            warnings.append(
                f"contig {name}: M5 {theirs} in the reads' header, {ours} in {dictionary.path}; ignored as declared"
            )
        elif theirs != ours:
            raise refused(f"contig {name} has M5 {theirs} there, {ours} in {dictionary.path}")
    return warnings


# -------------------------------------------------------------------------------------------------------------- slice


def slice_reads(reads: OpenReads, intervals: Sequence[Locus], target: Path, sample: str) -> int:
    """Write the reads that overlap `intervals` (merged, sorted) to `target`, a BAM with index; returns their number.

    A BAM rather than a CRAM because neither this process nor the JVM then loads whole contigs of the reference
    (docs/decisions/0010-slices-are-bam.md). Read groups are renamed to `sample` where an alias says so.

    Raises:
        ReadsInvalid: the reads are damaged, or the reference is not theirs. ReadsInterrupted: as `open_reads`.
    """
    pysam = require_pysam()
    there = reads.bring(intervals)
    header = {**reads.header, "RG": [{**group, "SM": sample} for group in reads.header["RG"]]}
    made = pysam.AlignmentHeader.from_dict(header)
    count, last = 0, Locus("", 0, 0)
    try:
        with pysam.AlignmentFile(str(target), "wb", header=made, format_options=[b"level=1"]) as out:
            for interval in there:
                # A read that reaches from the interval before into this one is already written.
                before = last.end if last.contig == interval.contig else 0
                for read in reads.file.fetch(interval.contig, interval.start - 1, interval.end):
                    if read.reference_start >= before:
                        out.write(read)
                        count += 1
                last = interval
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (28, 5):  # no space, I/O error: of this host, not of the reads
            raise
        raise ReadsInvalid(
            reads=reads.uri,
            reason=f"reading stopped ({error}): truncated, damaged, or of another reference",
        ) from error
    pysam.index(str(target))
    return count
