"""Cut a padded gVCF down to its loci: variant records by POS, reference blocks clipped at the edges.

bcftools view -r does not clip blocks; neighbouring files would then overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.gvcf import Record, open_gvcf, read_record
from pyanamo_core.genomics.intervals import Locus


def trim(source: Path, target: Path, loci: Sequence[Locus], reference: Path, header_lines: Sequence[str] = ()) -> int:
    """Write what of `source` belongs to these loci (sorted, disjoint) to `target` (BGZF, with .tbi).

    A variant record belongs to the locus in which it starts. A deletion that starts before a locus is the left
    neighbour's; its bases at the locus's start stay without a record.

    Args:
        header_lines: further `##key=value` lines for the header.

    Returns:
        How many records were written.

    Raises:
        GvcfInvalid: the source is truncated.
    """
    pysam = require_pysam()
    by_contig: dict[str, list[Locus]] = {}
    for locus in loci:
        by_contig.setdefault(locus.contig, []).append(locus)
    first = dict.fromkeys(by_contig, 0)
    written = 0
    with (
        open_gvcf(source) as (header, lines),
        pysam.FastaFile(str(reference)) as bases,
        pysam.BGZFile(str(target), "wb") as out,
    ):
        head = [*header[:-1], *(f"{line}\n" for line in header_lines), header[-1]]
        out.write("".join(head).encode())
        for line in lines:
            record = read_record(line)
            here = by_contig.get(record.contig)
            if here is None:
                continue
            number = first[record.contig]
            while number < len(here) and here[number].end < record.position:
                number += 1
            first[record.contig] = number
            while number < len(here) and here[number].start <= record.end:
                kept = _within(record, here[number], bases)
                if kept is not None:
                    out.write(kept.encode())
                    written += 1
                number += 1
    pysam.tabix_index(str(target), preset="vcf", force=True)
    return written


def _within(record: Record, locus: Locus, bases: Any) -> str | None:
    """The record's line as far as it belongs to the locus."""
    if not record.block:
        inside = locus.start <= record.position <= locus.end
        return "\t".join(record.fields) + "\n" if inside else None
    low, high = max(record.position, locus.start), min(record.end, locus.end)
    fields = list(record.fields)
    if low != record.position:
        fields[1] = str(low)
        fields[3] = bases.fetch(record.contig, low - 1, low).upper()
    if high != record.end or low != record.position:
        fields[7] = ";".join(
            [f"END={high}", *(x for x in fields[7].split(";") if x != "." and not x.startswith("END="))]
        )
    return "\t".join(fields) + "\n"
