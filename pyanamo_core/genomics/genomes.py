"""Facts of two human genomes (lengths, gaps, pseudoautosomal regions), and the ploidy that follows from them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyanamo_core.errors import GenomeUnknown
from pyanamo_core.genomics.intervals import MITOCHONDRIAL, ContigEntry, Dictionary, Locus, read_gaps

TABLES = Path(__file__).resolve().parent / "tables"
GENOMES = ("GRCh38", "GRCh37")
ALIASES = {"hg38": "GRCh38", "b37": "GRCh37", "hs37d5": "GRCh37"}
DIPLOID = 2


@dataclass(frozen=True)
class Genome:
    """A genome's primary contigs with their lengths, gaps (0-based, half-open) and PAR (0-based, half-open)."""

    name: str
    lengths: Mapping[str, int]
    gaps: Mapping[str, Sequence[tuple[int, int]]]
    par: Mapping[str, Sequence[tuple[int, int]]]

    @property
    def dictionary(self) -> Dictionary:
        return Dictionary(self.name, {name: ContigEntry(name, length) for name, length in self.lengths.items()})

    @property
    def borders(self) -> dict[str, list[int]]:
        """Where ploidy changes along a contig: each PAR's begin and end (0-based), inside the contig."""
        return {
            contig: sorted({x for region in regions for x in region if 0 < x < self.lengths[contig]})
            for contig, regions in self.par.items()
        }

    def renamed(self, names: Mapping[str, str]) -> Genome:
        """The same under other names of contigs; those without a new name are left out."""
        return Genome(
            self.name,
            {names[c]: n for c, n in self.lengths.items() if c in names},
            {names[c]: x for c, x in self.gaps.items() if c in names},
            {names[c]: x for c, x in self.par.items() if c in names},
        )


@functools.cache
def genome(name: str) -> Genome:
    """A shipped genome by its name: one of GENOMES, or of ALIASES (hg19 is GRCh37 with `chr` before its names).

    Raises:
        GenomeUnknown: none of them.
    """
    name = ALIASES.get(name, name)
    if name == "hg19":
        found = genome("GRCh37")
        # UCSC's chrM of hg19 is another sequence (16,571 bases) than GRCh37's MT: it is left out.
        return found.renamed({c: f"chr{c}" for c in found.lengths if c not in MITOCHONDRIAL})
    if name not in GENOMES:
        raise GenomeUnknown(name=name, known=", ".join([*GENOMES, "hg19", *ALIASES]))
    rows = (line.split("\t") for line in (TABLES / f"{name}.lengths.tsv").read_text().splitlines() if line)
    lengths = {contig: int(length) for contig, length in rows}
    return Genome(name, lengths, read_gaps(TABLES / f"{name}.gaps.bed"), read_gaps(TABLES / f"{name}.par.bed"))


def genome_of(dictionary: Dictionary) -> Genome | None:
    """The shipped genome whose X (and Y, where present) this reference has, by length, with or without `chr`."""
    for name in GENOMES:
        known = genome(name)
        names: dict[str, str] = {}
        for contig, length in known.lengths.items():
            bare = contig.removeprefix("chr")
            found = next((x for x in (contig, bare, f"chr{bare}") if x in dictionary), None)
            if found is not None and dictionary.length(found) == length:
                names[contig] = found
            elif found is not None and contig in known.par:
                break  # a sex chromosome of another length: another genome
        else:
            if any(contig in names for contig in known.par):
                return known if all(k == v for k, v in names.items()) else known.renamed(names)
    return None


# --------------------------------------------------------------------------------------------------------------- ploidy


@dataclass(frozen=True)
class Ploidy:
    """Ploidy of a locus, stretch by stretch; `warning` says why it may be wrong. 0 = not there, leave it out."""

    pieces: tuple[tuple[Locus, int], ...]
    warning: str | None = None

    @property
    def single(self) -> int | None:
        """The one ploidy of the whole locus, or None if it differs along it."""
        values = {value for _, value in self.pieces}
        return values.pop() if len(values) == 1 else None


def normal_sex(text: str) -> str:
    """male, female or unknown, from these words, their first letters or a pedigree's 1 and 2."""
    words = {"1": "male", "m": "male", "male": "male", "2": "female", "f": "female", "female": "female"}
    return words.get(text.strip().lower(), "unknown")


def ploidy(locus: Locus, sex: str, known: Genome | None) -> Ploidy:
    """Ploidy = f(contig, region, sex): a male's X and Y outside PAR 1, a female's Y 0, mitochondria 1, all else 2.

    An unknown sex, or a reference whose PAR is not known, is called diploid and warned of.
    """
    name = locus.contig.removeprefix("chr")
    if locus.contig in MITOCHONDRIAL:
        return Ploidy(((locus, 1),))
    if name not in ("X", "Y"):
        return Ploidy(((locus, DIPLOID),))
    sex = normal_sex(sex)
    if sex == "unknown":
        return Ploidy(((locus, DIPLOID),), f"{locus}: the sample's sex is unknown, called diploid")
    if sex == "female":
        return Ploidy(((locus, DIPLOID if name == "X" else 0),))
    if known is None or locus.contig not in known.par:
        return Ploidy(((locus, DIPLOID),), f"{locus}: the PAR of this reference is not known, called diploid")
    pieces: list[tuple[Locus, int]] = []
    at = locus.start
    for begin, end in sorted(known.par[locus.contig]):
        low, high = max(at, begin + 1), min(locus.end, end)
        if low > high:
            continue
        if low > at:
            pieces.append((Locus(locus.contig, at, low - 1), 1))
        pieces.append((Locus(locus.contig, low, high), DIPLOID))
        at = high + 1
    if at <= locus.end:
        pieces.append((Locus(locus.contig, at, locus.end), 1))
    return Ploidy(tuple(pieces))
