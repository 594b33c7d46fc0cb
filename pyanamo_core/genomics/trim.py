"""Cut a padded gVCF down to its loci: variant records by POS, reference blocks clipped at the edges.

bcftools view -r does not clip blocks; neighbouring files would then overlap.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.records import Record, open_gvcf, read_record


def trim(
    source: Path, targets: Mapping[Path, Sequence[Locus]], reference: Path, header_lines: Sequence[str] = ()
) -> None:
    """Write to each target (BGZF, with .tbi) what of `source` belongs to its loci (all sorted, disjoint).

    A variant record belongs to the locus in which it starts. A deletion that starts before a locus is the left
    neighbour's; its bases at the locus's start stay without a record.

    Args:
        header_lines: further `##key=value` lines for the header.

    Raises:
        GvcfInvalid: the source is truncated.
    """
    pysam = require_pysam()
    with contextlib.ExitStack() as stack:
        header, lines = stack.enter_context(open_gvcf(source))
        bases = stack.enter_context(pysam.FastaFile(str(reference)))
        head = "".join([*header[:-1], *(f"{line}\n" for line in header_lines), header[-1]]).encode()
        by_contig: dict[str, list[tuple[Locus, Any]]] = {}
        for target, loci in targets.items():
            out = stack.enter_context(pysam.BGZFile(str(target), "wb"))
            out.write(head)
            for locus in loci:
                by_contig.setdefault(locus.contig, []).append((locus, out))
        for places in by_contig.values():
            places.sort(key=lambda place: place[0])
        first = dict.fromkeys(by_contig, 0)
        for line in lines:
            record = read_record(line)
            places = by_contig.get(record.contig)
            if places is None:
                continue
            number = first[record.contig]
            while number < len(places) and places[number][0].end < record.position:
                number += 1
            first[record.contig] = number
            while number < len(places) and places[number][0].start <= record.end:
                locus, out = places[number]
                kept = within(record, locus, bases)
                if kept is not None:
                    out.write(kept.encode())
                number += 1
    for target in targets:
        pysam.tabix_index(str(target), preset="vcf", force=True)


def within(record: Record, locus: Locus, bases: Any) -> str | None:
    """The record's line as far as it belongs to the locus; `bases` is the open reference."""
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
