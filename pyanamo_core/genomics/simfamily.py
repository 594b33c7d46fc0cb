"""Who carries which variant of a simulated cohort: founders by chance, a trio's child by inheritance, X and Y by sex."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pyanamo_core.genomics.genomes import genome_of, normal_sex, ploidy
from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, Locus
from pyanamo_core.genomics.simreads import Carried, Genotype, Variant


class Sexes:
    """Ploidy of each sample along each contig's window; without sexes, two everywhere.

    Args:
        contigs: name to length and window (1-based, closed).
        sexes: sample to male or female.
    """

    def __init__(self, contigs: Mapping[str, tuple[int, tuple[int, int]]], sexes: Mapping[str, str]) -> None:
        self.sexes = sexes
        entries = {name: ContigEntry(name, length) for name, (length, _) in contigs.items()}
        self.genome = genome_of(Dictionary("simulated", entries)) if sexes else None
        self.windows = {name: window for name, (_, window) in contigs.items()}

    def pieces(self, contig: str, sample: str) -> list[tuple[int, int, int]]:
        """Begin, end (0-based in the window, half-open) and ploidy."""
        start, end = self.windows[contig]
        if sample not in self.sexes:
            return [(0, end - start + 1, 2)]
        found = ploidy(Locus(contig, start, end), self.sexes[sample], self.genome)
        return [(x.start - start, x.end - start + 1, value) for x, value in found.pieces]

    def copies(self, contig: str, sample: str, offset: int) -> int:
        """How many copies of a base the sample has."""
        return next(value for a, b, value in self.pieces(contig, sample) if a <= offset < b)

    def present(self, contig: str, sample: str) -> list[list[tuple[int, int]]] | None:
        """Where each haplotype exists; None: both everywhere."""
        pieces = self.pieces(contig, sample)
        if all(value == 2 for _, _, value in pieces):
            return None
        found: list[list[tuple[int, int]]] = [[], []]
        for which, places in enumerate(found):
            for a, b, value in pieces:
                if value > which and places and places[-1][1] == a:
                    places[-1] = (places[-1][0], b)
                elif value > which:
                    places.append((a, b))
        return found


def genotypes(rng: random.Random, variants: dict[str, list[Variant]], samples: Sequence[str], sexed: Sexes) -> Carried:
    """carried[sample][contig] = (variant, (first haplotype, second haplotype)); somebody carries every variant."""
    carried: Carried = {s: {c: [] for c in variants} for s in samples}
    trio = len(samples) == 3
    founders = samples[1:] if trio else samples
    for contig, found in variants.items():
        for variant in found:
            copies = {f: sexed.copies(contig, f, variant.offset) for f in founders}
            drawn: dict[str, Genotype] = {}
            while not any(map(any, drawn.values())) and (not drawn or any(copies.values())):
                drawn = {
                    f: (int(rng.random() < variant.frequency), int(rng.random() < variant.frequency)) for f in founders
                }
                drawn = {f: two[: copies[f]] for f, two in drawn.items()}
            for founder in founders:
                carried[founder][contig].append((variant, drawn[founder]))
        if trio:
            mine, theirs = rng.randrange(2), rng.randrange(2)
            child, one, two = samples
            for (variant, a), (_, b) in zip(carried[one][contig], carried[two][contig], strict=True):
                inherited = _inherited(contig, a, b, mine, theirs, sexed.sexes.get(child, ""))
                carried[child][contig].append((variant, inherited[: sexed.copies(contig, child, variant.offset)]))
    return carried


def _inherited(contig: str, father: Genotype, mother: Genotype, mine: int, theirs: int, sex: str) -> Genotype:
    """A child's alleles; of X a son has his mother's and, in PAR, what is on his father's Y, a daughter her father's X."""
    bare = contig.removeprefix("chr") if sex else ""
    if bare == "Y":
        return father
    if bare == "X" and normal_sex(sex) == "male":
        return (mother[theirs], *father[1:])
    if bare == "X":
        return (father[0], mother[theirs])
    return (father[mine], mother[theirs])
