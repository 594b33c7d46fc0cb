"""The stream of gather: the records of all locus files in order, each base checked as it passes, none of them copied.

A unit is a locus file, or with reblocking all of a contig's: ReblockGVCF may only go over what is merged, because a
deletion can reach from one file into the next.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from pyanamo_core.errors import CohortRefused, GvcfInvalid
from pyanamo_core.genomics.bgzf import Lines, Packer, RangedReader
from pyanamo_core.genomics.coverage import Covered
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.recorded import RecordedNest

BLOCKS = frozenset({b"<NON_REF>", b"<*>", b"."})
REBLOCK = ("-GQB", "20", "-GQB", "30", "-GQB", "40", "--floor-blocks", "-do-qual-approx")


@dataclass(frozen=True)
class Piece:
    """One gVCF of a nest, with its manifest; `uri` is empty where the locus was left out (ploidy 0)."""

    nest: RecordedNest
    uri: str
    manifest: Mapping[str, Any]
    loci: tuple[Locus, ...]

    @property
    def value(self) -> str:
        return str(self.manifest["value"])

    @property
    def left_out(self) -> list[str]:
        """Loci that the sample does not have (ploidy 0): all, where there is no gVCF, or some of a list."""
        absent: list[str] = list(self.manifest.get("absent", ()))
        return absent if self.uri else [str(x) for x in self.loci]

    @property
    def _file(self) -> Mapping[str, Any]:
        name = self.uri.rpartition("/")[2]
        files: list[Mapping[str, Any]] = self.manifest["files"]
        none: Mapping[str, Any] = {}
        return next((f for f in files if f["name"] == name), none)

    @property
    def sha256(self) -> str:
        """Of the gVCF, as the manifest has it; empty where there is no gVCF."""
        return str(self._file.get("sha256", ""))

    @property
    def bytes(self) -> int:
        return int(self._file.get("bytes", 0))


@dataclass
class Counters:
    """What passed so far."""

    records: int = 0
    longest: int = 0
    outside: list[str] = field(default_factory=list[str])
    contig: str = ""
    reach: int = 0
    """The last base of `contig` that a record covers."""


@dataclass(frozen=True)
class Reblocking:
    """What ReblockGVCF needs besides the records."""

    reference: Path
    heap_mb: int = 2048


class Gathering:
    """A source of BGZF blocks (assemble.Source): checks order and coverage of all pieces as they pass.

    Args:
        pieces: in the reference's order, none of them overlapping or interleaved.
        partial: written into the header.
        work: for one contig's records, if it is reblocked.

    Raises (while streaming):
        CohortRefused: names nest and attempt; what was written so far must not be kept.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        inputs: Inputs,
        work: Path,
        *,
        partial: bool = False,
        reblock: Reblocking | None = None,
    ) -> None:
        self.pieces = [piece for piece in pieces if piece.uri]
        self._places: dict[str, tuple[list[int], list[int]]] = {}
        for x in sorted(x for piece in pieces for x in piece.loci):
            starts, ends = self._places.setdefault(x.contig, ([], []))
            starts.append(x.start)
            ends.append(x.end)
        self._inputs, self._work, self._partial, self._reblock = inputs, work, partial, reblock
        self._units: list[list[Piece]] = (
            _by_contig(self.pieces) if reblock is not None else [[piece] for piece in self.pieces]
        )
        self.counters = Counters()

    @property
    def units(self) -> int:
        return len(self._units)

    def snapshot(self) -> dict[str, Any]:
        return {**self.counters.__dict__, "outside": list(self.counters.outside)}

    def restore(self, snapshot: dict[str, Any]) -> None:
        self.counters = Counters(**snapshot)

    def stream(self, unit: int, skip: int) -> Iterator[tuple[bytes, int]]:
        packer = Packer()
        written = 0  # lines of this unit that stand in blocks given out
        passed = 0
        lines = self._reblocked(self._units[unit], self._reblock) if self._reblock else self._records(self._units[unit])
        for number, line in enumerate(lines):
            if number == 0 and unit == 0 and skip == 0:
                for head in self._header():
                    yield packer.add(head), 0
                yield packer.flush(), 0
            passed += 1
            if passed <= skip:
                continue
            blocks = packer.add(line)
            if blocks:
                # A long line is given out at once; any other stands in the next block.
                written = passed if not packer.holding else passed - 1
                yield blocks, written
        yield packer.flush(), passed

    # ------------------------------------------------------------------------------------------------ records

    def _header(self) -> Iterator[bytes]:
        kept = [x for x in self._head if not x.startswith(b"##PyAnamo_left_deletion")]
        note = f"##PyAnamo_gathered=<Files={len(self.pieces)},Partial={str(self._partial).lower()}>\n"
        return iter([*kept[:-1], note.encode(), kept[-1]])

    def _records(self, pieces: Sequence[Piece]) -> Iterator[bytes]:
        for piece in pieces:
            reader = RangedReader(self._inputs, piece.uri)
            try:
                lines = Lines(reader)
                if lines.samples != [piece.manifest["sample"]]:
                    raise CohortRefused(reason=f"{piece.nest}: its gVCF is of another sample ({lines.samples})")
                self._head = lines.header
                yield from self._checked(piece, lines)
                self._refuse_changed(piece, reader)
            except FileNotFoundError as error:
                raise CohortRefused(reason=f"{piece.nest}: {piece.uri} is gone") from error
            except GvcfInvalid as error:
                self._refuse_changed(piece, reader)
                raise CohortRefused(reason=f"{piece.nest}: {error}") from error
            except CohortRefused:
                # A file that changed is the reason for whatever its records look like.
                self._refuse_changed(piece, reader)
                raise

    def _refuse_changed(self, piece: Piece, reader: RangedReader) -> None:
        found = reader.whole_digest()
        if found != piece.sha256:
            raise CohortRefused(
                reason=f"{piece.nest}: {piece.uri} has SHA-256 {found}, its manifest says {piece.sha256}"
            )

    def _enter(self, locus: Locus, piece: Piece) -> int:
        """The last base already covered when a locus begins: its start - 1, or where an earlier record reaches."""
        counters = self.counters
        if locus.contig != counters.contig:
            counters.contig, counters.reach = locus.contig, 0
        named = piece.manifest.get("left_deletions", {}).get(str(locus))
        covered = max(locus.start - 1, counters.reach)
        if named is None:
            return covered
        position, length = int(named["position"]), int(named["reference_length"])
        if self._has(locus.contig, position):
            return covered
        # Its locus is not part of this item: the bases are the deletion's all the same.
        counters.outside.append(f"{locus.contig}:{position}+{length}")
        return max(covered, position + length - 1)

    def _has(self, contig: str, position: int) -> bool:
        """Does a locus of any piece hold this base? An exome has 200,000 of them, and a deletion at some hundreds."""
        starts, ends = self._places[contig]
        before = bisect_right(starts, position)
        return before > 0 and position <= ends[before - 1]

    def _checked(self, piece: Piece, lines: Lines) -> Iterator[bytes]:
        """The piece's lines, unless a base is missing, twice, or outside its loci."""
        counters = self.counters
        waiting = iter(piece.loci)
        locus = next(waiting)
        covered = self._enter(locus, piece)

        def hole(at: int) -> CohortRefused:
            return CohortRefused(
                reason=f"{piece.nest}: no record covers {locus.contig}:{covered + 1}-{at}: a hole in {piece.uri}"
            )

        for line in lines:
            contig, position, end, block = read_place(line, piece.uri)
            while contig != locus.contig or position > locus.end:
                if covered < locus.end:
                    raise hole(locus.end)
                following = next(waiting, None)
                if following is None:
                    raise CohortRefused(reason=f"{piece.nest}: a record at {contig}:{position} is outside its loci")
                locus = following
                covered = self._enter(locus, piece)
            if position < locus.start or (block and end > locus.end):
                raise CohortRefused(reason=f"{piece.nest}: a record at {contig}:{position} leaves its locus {locus}")
            if position > covered + 1:
                raise hole(position - 1)
            if end > covered:
                covered = end
                counters.reach = max(counters.reach, end)
            if not block:
                counters.longest = max(counters.longest, end - position + 1)
            counters.records += 1
            yield line
        while True:
            if covered < locus.end:
                raise hole(locus.end)
            following = next(waiting, None)
            if following is None:
                return
            locus = following
            covered = self._enter(locus, piece)

    # ------------------------------------------------------------------------------------------------ reblocking

    def _reblocked(self, pieces: Sequence[Piece], how: Reblocking) -> Iterator[bytes]:
        """What ReblockGVCF makes of these pieces' records, which is checked for holes again."""
        from pyanamo_core.genomics.gatk import run_tool

        merged, made = self._work / "merged.g.vcf.gz", self._work / "reblocked.g.vcf.gz"
        outside, records = len(self.counters.outside), self.counters.records
        with require_pysam().BGZFile(str(merged), "wb") as out:
            for number, line in enumerate(self._records(pieces)):
                if number == 0:
                    out.write(b"".join(self._header()))
                out.write(line)
        require_pysam().tabix_index(str(merged), preset="vcf", force=True)
        arguments = ["-R", str(how.reference), "-V", str(merged), "-O", str(made), *REBLOCK]
        run_tool("ReblockGVCF", arguments, heap_mb=how.heap_mb, work=self._work)
        loci = [x for piece in pieces for x in piece.loci]
        covered = Covered(loci, [deletion(x) for x in self.counters.outside[outside:]])
        lines = Lines(RangedReader(Inputs(), str(made)))
        self._head = lines.header
        self.counters.records = records
        for line in lines:
            contig, position, end, _ = read_place(line, str(made))
            covered.saw(contig, position, end)
            self.counters.records += 1
            yield line
        if covered.finish():
            raise CohortRefused(reason=f"ReblockGVCF left no record over {covered.holes[0]}; gather without --reblock")
        for path in (merged, made):
            for suffix in ("", ".tbi"):
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{path}{suffix}").unlink()


def _by_contig(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces that share a contig, directly or through others, together."""
    number = 0
    numbers: list[int] = []
    last = ""
    for piece in pieces:
        number += piece.loci[0].contig != last
        last = piece.loci[-1].contig
        numbers.append(number)
    pairs = zip(numbers, pieces, strict=True)
    return [[piece for _, piece in group] for _, group in groupby(pairs, key=lambda pair: pair[0])]


def deletion(text: str) -> Locus:
    """The bases of a deletion as a manifest writes it: contig:position+length."""
    contig, _, where = text.rpartition(":")
    position, _, length = where.partition("+")
    return Locus(contig, int(position), int(position) + int(length) - 1)


def read_place(line: bytes, where: str) -> tuple[str, int, int, bool]:
    """Contig, first and last base (1-based, closed) of a single-sample record, and whether it is a reference block.

    Raises:
        GvcfInvalid: it is no record.
    """
    fields = line.split(b"\t", 9)
    try:
        position = int(fields[1])
        block = fields[4] in BLOCKS
        end = position + len(fields[3]) - 1
        if block:
            info = fields[7]
            at = 4 if info.startswith(b"END=") else info.find(b";END=") + 5
            if at >= 5 or info.startswith(b"END="):
                end = int(info[at:].split(b";", 1)[0])
        if len(fields) != 10:
            raise ValueError(f"it has {len(fields)} columns, not 10")
        return fields[0].decode(), position, end, block
    except (IndexError, ValueError) as error:
        raise GvcfInvalid(path=where, reason=f"a line is no record of one sample ({error})") from error
