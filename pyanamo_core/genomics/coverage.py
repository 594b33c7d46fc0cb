"""Which bases of given loci lie under no record, as sorted records pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyanamo_core.genomics.intervals import Locus

SHOWN = 1000


class Covered:
    """Follows sorted records over sorted, disjoint loci.

    Args:
        loci: by position within each contig.
        exempt: bases that need no record: those of deletions that start outside of all loci.
    """

    def __init__(self, loci: Iterable[Locus], exempt: Iterable[Locus] = ()) -> None:
        self._loci: dict[str, list[Locus]] = {}
        for locus in loci:
            self._loci.setdefault(locus.contig, []).append(locus)
        self._at = dict.fromkeys(self._loci, 0)
        self._need = {contig: there[0].start for contig, there in self._loci.items()}
        self._exempt: dict[str, list[Locus]] = {}
        for one in exempt:
            self._exempt.setdefault(one.contig, []).append(one)
        self.holes: list[Locus] = []

    def saw(self, contig: str, position: int, end: int) -> None:
        """A record over position to end."""
        loci = self._loci.get(contig)
        if loci is None:
            return
        self._skip(contig, loci, position)
        at, need = self._at[contig], max(self._need[contig], end + 1)
        while at < len(loci) and loci[at].end < need:
            at += 1
        if at < len(loci):
            need = max(need, loci[at].start)
        self._at[contig], self._need[contig] = at, need

    def _skip(self, contig: str, loci: Sequence[Locus], position: int) -> None:
        """What is needed before `position` will not come any more."""
        at, need = self._at[contig], self._need[contig]
        while at < len(loci) and need < position:
            end = min(loci[at].end, position - 1)
            self._hole(Locus(contig, need, end))
            need = end + 1
            if need > loci[at].end:
                at += 1
                need = loci[at].start if at < len(loci) else need
        self._at[contig], self._need[contig] = at, need

    def _hole(self, hole: Locus) -> None:
        start = hole.start
        for one in self._exempt.get(hole.contig, ()):
            if one.start <= start <= one.end:
                start = one.end + 1
        if start <= hole.end and len(self.holes) < SHOWN:
            self.holes.append(Locus(hole.contig, start, hole.end))

    def finish(self) -> list[Locus]:
        """The holes, at the end of the records."""
        for contig, loci in self._loci.items():
            if self._at[contig] < len(loci):
                self._skip(contig, loci, loci[-1].end + 1)
        return self.holes
