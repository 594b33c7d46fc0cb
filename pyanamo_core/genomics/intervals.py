"""Loci: read, checked against the reference's .dict, padded and merged (planned: planning.py).

A locus is 1-based and closed, `contig:start-end`. It is split at its last colon and only against the names of the
.dict, because names such as HLA-A*01:01:01:01 hold colons. BED files are 0-based and half-open, as everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pyanamo_core.errors import DictInvalid, LocusInvalid, TargetsInvalid

PRIMARY = re.compile(r"(chr)?(\d{1,2}|X|Y|Z|W)", re.ASCII)
MITOCHONDRIAL = ("chrM", "MT", "M", "chrMT")
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
        raise LocusInvalid(locus=text, reason=f"the reference has no contig {contig}{suggestion(contig, dictionary)}")
    start, end = int(match[1]), int(match[2])
    length = dictionary.length(contig)
    if start < 1 or end < start:
        raise LocusInvalid(locus=text, reason="start must be at least 1 and not after the end (1-based, closed)")
    if end > length:
        raise LocusInvalid(locus=text, reason=f"contig {contig} ends at {length}")
    return Locus(contig, start, end)


def _malformed(text: str, dictionary: Dictionary) -> str:
    if ":" not in text:
        return f"neither contig:start-end nor a contig of the reference{suggestion(text, dictionary)}"
    return "not of the form contig:start-end, e.g. chr21:31659566-31669931 (1-based, closed, digits only)"


def suggestion(contig: str, dictionary: Dictionary) -> str:
    """` (did you mean …?)` for a contig that the reference does not have, or how its names begin."""
    import difflib

    bare = contig[3:] if contig.lower().startswith("chr") else contig
    tries = [f"chr{bare}", bare, f"chr{bare.upper()}", bare.upper()]
    if bare.upper() in ("M", "MT"):
        tries += MITOCHONDRIAL
    found = next((name for name in tries if name in dictionary), None)
    if found is None:
        found = next(iter(difflib.get_close_matches(contig, list(dictionary), n=1, cutoff=0.6)), None)
    return f" (did you mean {found}?)" if found else f" (it begins with {', '.join(list(dictionary)[:5])})"


def read_targets(path: Path, dictionary: Dictionary, wanted: Iterable[str] | None = None) -> list[Locus]:
    """The intervals of a BED file, sorted in the reference's order; intervals that touch or overlap are one.

    Args:
        wanted: leave out intervals on other contigs than these.

    Raises:
        TargetsInvalid: all faults with their line numbers.
    """
    loci: list[Locus] = []
    faults: list[str] = []
    known = frozenset(wanted) if wanted is not None else None
    for number, fields in read_bed(path):
        try:
            contig, begin, end = fields[0], int(fields[1]), int(fields[2])
            if begin < 0 or begin >= end:
                why = "begins before the contig" if begin < 0 else f"begin {begin} is not before end {end}"
                faults.append(f"line {number}: the interval {contig} {begin} {end}: {why}")
                continue
            locus = parse_locus(f"{contig}:{begin + 1}-{end}", dictionary)
            if known is None or contig in known:
                loci.append(locus)
        except (IndexError, ValueError):
            faults.append(f"line {number}: not contig, begin and end")
        except LocusInvalid as error:
            faults.append(f"line {number}: {error}".rstrip("."))
    if not loci and not faults:
        faults.append("it holds no interval" + (" on the contigs that are called" if known is not None else ""))
    if faults:
        more = f"; … and {len(faults) - 20:,} more" if len(faults) > 20 else ""
        raise TargetsInvalid(path=path, faults="; ".join(faults[:20]) + more)
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


def read_bed(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each interval of a BED file; remarks, `track` and `browser` lines are left out.

    Raises:
        TargetsInvalid: the file cannot be read.
    """
    try:
        with path.open() as lines:
            for number, line in enumerate(lines, 1):
                if line.strip() and not line.startswith(("#", "track", "browser")):
                    yield number, line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
    except (OSError, UnicodeDecodeError) as error:
        why = f"it cannot be read ({error})"
        if isinstance(error, FileNotFoundError):
            why = "it cannot be read: there is no such file; lists of `loci plan --bed` lie in the folder that the workflow file names in `scripts`"
        raise TargetsInvalid(path=path, faults=why) from error


def read_gaps(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Contig to (begin, end) of a BED file (0-based, half-open)."""
    gaps: dict[str, list[tuple[int, int]]] = {}
    for number, fields in read_bed(path):
        try:
            gaps.setdefault(fields[0], []).append((int(fields[1]), int(fields[2])))
        except (IndexError, ValueError) as error:
            raise TargetsInvalid(path=path, faults=f"line {number}: not contig, begin and end") from error
    return gaps
