"""Loci: read, checked against the reference's .dict, planned, padded and merged.

A locus is 1-based and closed, `contig:start-end`. It is split at its last colon and only against the names of the
.dict, because names such as HLA-A*01:01:01:01 hold colons. BED files are 0-based and half-open, as everywhere.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pyanamo_core.errors import DictInvalid, LocusInvalid, TargetsInvalid

PRIMARY = re.compile(r"(chr)?(\d{1,2}|X|Y|Z|W)", re.ASCII)
MITOCHONDRIAL = ("chrM", "MT", "M", "chrMT")
MIN_GAP_BASES = 50  # shorter runs of N do not end a locus
_RANGE = re.compile(r"(\d+)-(\d+)", re.ASCII)


@dataclass(frozen=True, order=True)
class Locus:
    """A stretch of a contig: 1-based start, end included."""

    contig: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.contig}:{self.start}-{self.end}"

    @property
    def bases(self) -> int:
        return self.end - self.start + 1

    @property
    def file_stem(self) -> str:
        """For names of files and objects: holds neither `:` nor `*`, and sorts by place."""
        return f"{quote(self.contig, safe='')}_{self.start:09d}_{self.end}"

    def padded(self, bases: int, contig_length: int) -> Locus:
        """The locus with up to `bases` more on each side, within the contig."""
        return Locus(self.contig, max(1, self.start - bases), min(contig_length, self.end + bases))

    def overlaps(self, other: Locus) -> bool:
        return self.contig == other.contig and self.start <= other.end and other.start <= self.end


@dataclass(frozen=True)
class ContigEntry:
    """One @SQ line: length in bases, MD5 of the upper-case bases if the line has one."""

    name: str
    length: int
    md5: str | None = None


@dataclass(frozen=True)
class Dictionary:
    """A reference's contigs in order, as its .dict lists them."""

    path: str
    contigs: Mapping[str, ContigEntry] = field(default_factory=dict[str, ContigEntry])

    def __contains__(self, name: object) -> bool:
        return name in self.contigs

    def __getitem__(self, name: str) -> ContigEntry:
        return self.contigs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.contigs)

    def length(self, name: str) -> int:
        return self.contigs[name].length

    def rank(self) -> dict[str, int]:
        """Position of each contig in the reference's order."""
        return {name: place for place, name in enumerate(self.contigs)}


def read_dictionary(path: Path | str) -> Dictionary:
    """Read a .dict, or the .dict beside a FASTA file.

    Raises:
        DictInvalid: missing, or without @SQ lines.
    """
    path = Path(path)
    if path.suffix != ".dict":
        beside = path.with_suffix("") if path.suffix == ".gz" else path
        path = beside.with_suffix(".dict")
    contigs: dict[str, ContigEntry] = {}
    try:
        with path.open() as lines:
            for line in lines:
                if line.startswith("@SQ\t"):
                    tags = dict(f.split(":", 1) for f in line.rstrip("\n").split("\t")[1:] if ":" in f)
                    contigs[tags["SN"]] = ContigEntry(tags["SN"], int(tags["LN"]), tags.get("M5"))
    except FileNotFoundError as error:
        raise DictInvalid(
            path=path, reason="it does not exist; make it with: samtools dict -o FILE.dict FILE.fa"
        ) from error
    except (KeyError, ValueError, UnicodeDecodeError, OSError) as error:
        raise DictInvalid(path=path, reason=f"it cannot be read ({error!r})") from error
    if not contigs:
        raise DictInvalid(path=path, reason="it has no @SQ line")
    return Dictionary(str(path), contigs)


# -------------------------------------------------------------------------------------------------------------- parsing


def parse_locus(text: str, dictionary: Dictionary) -> Locus:
    """A locus, or a whole contig given by its name.

    Raises:
        LocusInvalid: malformed, unknown contig (with the name that was perhaps meant), or beyond the contig.
    """
    text = text.strip()
    if text in dictionary:
        return Locus(text, 1, dictionary.length(text))
    contig, colon, interval = text.rpartition(":")
    match = _RANGE.fullmatch(interval)
    if not colon or not contig or match is None:
        raise LocusInvalid(locus=text, reason=_malformed(text, dictionary))
    if contig not in dictionary:
        raise LocusInvalid(locus=text, reason=f"the reference has no contig {contig}{_suggestion(contig, dictionary)}")
    start, end = int(match[1]), int(match[2])
    length = dictionary.length(contig)
    if start < 1 or end < start:
        raise LocusInvalid(locus=text, reason="start must be at least 1 and not after the end (1-based, closed)")
    if end > length:
        raise LocusInvalid(locus=text, reason=f"contig {contig} ends at {length}")
    return Locus(contig, start, end)


def _malformed(text: str, dictionary: Dictionary) -> str:
    if ":" not in text:
        return f"neither contig:start-end nor a contig of the reference{_suggestion(text, dictionary)}"
    return "not of the form contig:start-end, e.g. chr21:31659566-31669931 (1-based, closed, digits only)"


def _suggestion(contig: str, dictionary: Dictionary) -> str:
    import difflib

    bare = contig[3:] if contig.lower().startswith("chr") else contig
    tries = [f"chr{bare}", bare, f"chr{bare.upper()}", bare.upper()]
    if bare.upper() in ("M", "MT"):
        tries += MITOCHONDRIAL
    found = next((name for name in tries if name in dictionary), None)
    if found is None:
        found = next(iter(difflib.get_close_matches(contig, list(dictionary), n=1, cutoff=0.6)), None)
    return f" (did you mean {found}?)" if found else f" (it begins with {', '.join(list(dictionary)[:5])})"


def read_targets(path: Path, dictionary: Dictionary) -> list[Locus]:
    """The intervals of a BED file, sorted in the reference's order; intervals that touch or overlap are one.

    Raises:
        TargetsInvalid: all faults with their line numbers.
    """
    loci: list[Locus] = []
    faults: list[str] = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetsInvalid(path=path, faults=f"it cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        try:
            contig, begin, end = fields[0], int(fields[1]), int(fields[2])
            if begin < 0:
                raise LocusInvalid(locus=line, reason="begins before the contig")
            loci.append(parse_locus(f"{contig}:{begin + 1}-{end}", dictionary))
        except (IndexError, ValueError):
            faults.append(f"line {number}: not contig, begin and end")
        except LocusInvalid as error:
            faults.append(f"line {number}: {error}")
    if not loci and not faults:
        faults.append("it holds no interval")
    if faults:
        raise TargetsInvalid(path=path, faults="; ".join(faults[:20]))
    return merge(loci, dictionary)


def in_order(loci: Iterable[Locus], dictionary: Dictionary) -> list[Locus]:
    """Sorted in the reference's order."""
    rank = dictionary.rank()
    return sorted(loci, key=lambda x: (rank[x.contig], x.start, x.end))


def merge(loci: Iterable[Locus], dictionary: Dictionary) -> list[Locus]:
    """Sorted in the reference's order, with those that overlap or touch made one."""
    merged: list[Locus] = []
    for locus in in_order(loci, dictionary):
        last = merged[-1] if merged else None
        if last is not None and last.contig == locus.contig and locus.start <= last.end + 1:
            merged[-1] = Locus(last.contig, last.start, max(last.end, locus.end))
        else:
            merged.append(locus)
    return merged


def pad_and_merge(loci: Iterable[Locus], bases: int, dictionary: Dictionary) -> list[Locus]:
    """What to call so that every locus has `bases` around it: padded first, then merged."""
    return merge((x.padded(bases, dictionary.length(x.contig)) for x in loci), dictionary)


# ------------------------------------------------------------------------------------------------------------- planning


def primary_contigs(dictionary: Dictionary, *, mitochondria: bool = False) -> list[str]:
    """The chromosomes of a genome, without alternates, decoys and HLA; every contig where none is named as one."""
    chosen = [name for name in dictionary if PRIMARY.fullmatch(name)]
    if not chosen:
        return [name for name in dictionary if mitochondria or name not in MITOCHONDRIAL]
    return chosen + [name for name in dictionary if mitochondria and name in MITOCHONDRIAL]


def plan_loci(
    dictionary: Dictionary,
    *,
    target_bases: int = 5_000_000,
    fasta: Path | None = None,
    gaps: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    contigs: Sequence[str] | None = None,
    min_gap: int = MIN_GAP_BASES,
    mitochondria: bool = False,
) -> list[Locus]:
    """Loci of about `target_bases` that cover the contigs except their runs of N, in the reference's order.

    Edges fall into runs of N first; only a longer stretch is cut, into equal parts.

    Args:
        fasta: where to look for runs of N; or
        gaps: contig to gaps (0-based, half-open), as `read_gaps` or a shipped genome gives.
        contigs: default: `primary_contigs`.
    """
    loci: list[Locus] = []
    for contig in contigs if contigs is not None else primary_contigs(dictionary, mitochondria=mitochondria):
        if contig not in dictionary:
            raise LocusInvalid(
                locus=contig, reason=f"the reference has no such contig{_suggestion(contig, dictionary)}"
            )
        holes = list(gaps.get(contig, ())) if gaps is not None else []
        if fasta is not None:
            holes += _runs_of_n(fasta, contig, min_gap)
        for start, end in _outside(holes, dictionary.length(contig), min_gap):
            parts = -(-(end - start) // target_bases)
            edges = [start + (end - start) * i // parts for i in range(parts + 1)]
            loci += [Locus(contig, a + 1, b) for a, b in itertools.pairwise(edges)]
    return loci


def read_gaps(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Contig to (begin, end) of a BED file (0-based, half-open)."""
    gaps: dict[str, list[tuple[int, int]]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith(("#", "track", "browser")):
            continue
        fields = line.split()
        try:
            gaps.setdefault(fields[0], []).append((int(fields[1]), int(fields[2])))
        except (IndexError, ValueError) as error:
            raise TargetsInvalid(path=path, faults=f"line {number}: not contig, begin and end") from error
    return gaps


def _runs_of_n(fasta: Path, contig: str, min_gap: int) -> list[tuple[int, int]]:
    from pyanamo_core.genomics.extras import require_pysam

    with require_pysam().FastaFile(str(fasta)) as reference:
        bases: str = reference.fetch(contig)
    return [m.span() for m in re.finditer(f"[Nn]{{{min_gap},}}", bases)]


def _outside(holes: Iterable[tuple[int, int]], length: int, min_gap: int) -> Iterator[tuple[int, int]]:
    """What is left of 0 … length (half-open) outside the holes."""
    at = 0
    for begin, end in sorted(h for h in holes if h[1] - h[0] >= min_gap):
        if begin > at:
            yield at, begin
        at = max(at, end)
    if at < length:
        yield at, length
