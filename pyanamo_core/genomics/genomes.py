"""Facts of two human genomes (lengths, gaps, pseudoautosomal regions), and the ploidy that follows from them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyanamo_core.errors import GenomeUnknown, LocusInvalid, PloidiesInvalid, TargetsInvalid
from pyanamo_core.genomics.intervals import (
    MITOCHONDRIAL,
    ContigEntry,
    Dictionary,
    Locus,
    in_order,
    merge,
    parse_locus,
    read_bed,
    read_gaps,
)

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

    @property
    def present(self) -> list[Locus]:
        """The locus without the stretches whose ploidy is 0."""
        return _joined(x for x, value in self.pieces if value)

    @property
    def absent(self) -> list[Locus]:
        """The stretches whose ploidy is 0."""
        return _joined(x for x, value in self.pieces if not value)


def _joined(pieces: Iterable[Locus]) -> list[Locus]:
    """Neighbours that touch as one."""
    found: list[Locus] = []
    for x in pieces:
        if found and found[-1].end + 1 == x.start:
            found[-1] = Locus(x.contig, found[-1].start, x.end)
        else:
            found.append(x)
    return found


def normal_sex(text: str) -> str:
    """male, female or unknown, from these words, their first letters or a pedigree's 1 and 2."""
    words = {"1": "male", "m": "male", "male": "male", "2": "female", "f": "female", "female": "female"}
    return words.get(text.strip().lower(), "unknown")


@dataclass(frozen=True)
class PloidyRule:
    """A line of one's own table of ploidies: a region's ploidy, of one sex or (empty) of everybody."""

    region: Locus
    value: int
    sex: str = ""


def read_ploidies(path: Path, dictionary: Dictionary) -> list[PloidyRule]:
    """A table of ploidies: contig, begin, end (BED: 0-based, half-open), ploidy, and, if it is of one sex, male or female.

    Raises:
        PloidiesInvalid: all faults with their lines.
    """
    rules: list[PloidyRule] = []
    faults: list[str] = []
    try:
        lines = list(read_bed(path))
    except TargetsInvalid as error:
        raise PloidiesInvalid(path=path, faults=str(error.facts["faults"])) from error
    for number, fields in lines:
        try:
            begin, end, value = int(fields[1]), int(fields[2]), int(fields[3])
            sex = normal_sex(fields[4]) if len(fields) > 4 and fields[4].strip() else ""
            if not 0 <= value <= 20 or sex == "unknown":
                raise ValueError
            rules.append(PloidyRule(parse_locus(f"{fields[0]}:{begin + 1}-{end}", dictionary), value, sex))
        except (IndexError, ValueError):
            faults.append(f"line {number}: not contig, begin, end, ploidy (0 to 20) and perhaps male or female")
        except LocusInvalid as error:
            faults.append(f"line {number}: {error}")
    rules.sort(key=lambda x: (x.region.contig, x.region.start))
    for one, two in itertools.combinations(rules, 2):
        if one.region.overlaps(two.region) and (one.sex == two.sex or not (one.sex and two.sex)):
            faults.append(f"{one.region} and {two.region} overlap")
    if faults:
        raise PloidiesInvalid(path=path, faults="; ".join(faults[:20]))
    return rules


def ploidy(locus: Locus, sex: str, known: Genome | None, rules: Sequence[PloidyRule] = ()) -> Ploidy:
    """Ploidy = f(contig, region, sex): a male's X and Y outside PAR 1, a female's Y 0, mitochondria 1, all else 2.

    Rules of one's own go first. An unknown sex, or a reference whose PAR is not known, is called diploid and warned of.
    """
    here = [rule for rule in rules if rule.region.overlaps(locus)]
    if not here:
        return _by_itself(locus, sex, known)
    sex = normal_sex(sex)
    warning = None
    pieces: list[tuple[Locus, int]] = []
    at = locus.start

    def rest(end: int) -> None:
        nonlocal warning
        if at <= end:
            found = _by_itself(Locus(locus.contig, at, end), sex, known)
            warning = warning or found.warning
            pieces.extend(found.pieces)

    for rule in here:
        if rule.sex and sex == "unknown":
            warning = f"{locus}: the sample's sex is unknown, the table of ploidies was not used"
        if rule.sex not in ("", sex):
            continue
        low, high = max(at, rule.region.start), min(locus.end, rule.region.end)
        rest(low - 1)
        pieces.append((Locus(locus.contig, low, high), rule.value))
        at = high + 1
    rest(locus.end)
    return Ploidy(tuple(pieces), warning)


def call_rounds(
    loci: Sequence[Locus], padding: int, dictionary: Dictionary, ploidy_of: Callable[[Locus], Ploidy]
) -> list[list[tuple[Locus, int]]]:
    """What to call so that each locus has `padding` around it, with one ploidy for each interval; merged, in order.

    Padding does not cross a border of ploidy. A caller would join intervals that touch there, and HaplotypeCaller gives
    an active region over the border the higher ploidy of the two; so those go into a second round, a call of its own.
    """
    by_ploidy: dict[int, list[Locus]] = {}
    for locus in loci:
        wide = ploidy_of(locus.padded(padding, dictionary.length(locus.contig))).pieces
        for piece, value in ploidy_of(locus).pieces:
            if value == 0:
                continue
            whole = next(x for x, _ in wide if x.start <= piece.start <= x.end)
            low, high = max(whole.start, piece.start - padding), min(whole.end, piece.end + padding)
            by_ploidy.setdefault(value, []).append(Locus(piece.contig, low, high))
    merged = {x: value for value, own in by_ploidy.items() for x in merge(own, dictionary)}
    rounds: list[list[tuple[Locus, int]]] = [[], []]
    for x in in_order(merged, dictionary):
        last = rounds[0][-1][0] if rounds[0] else None
        touches = last is not None and last.contig == x.contig and x.start <= last.end + 1
        rounds[int(touches)].append((x, merged[x]))
    return [x for x in rounds if x]


def _by_itself(locus: Locus, sex: str, known: Genome | None) -> Ploidy:
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
