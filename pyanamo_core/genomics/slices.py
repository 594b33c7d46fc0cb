"""Slices of gathered gVCFs around a region, by ranged reads through their indexes: never whole files.

htslib ends an iteration silently where a read fails, so each slice must cover what its gVCF covers there, base by base.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyanamo_core.errors import ReadsInterrupted
from pyanamo_core.genomics.bgzf import BGZF_EOF, Packer
from pyanamo_core.genomics.coverage import Covered
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.gathering import deletion, read_place
from pyanamo_core.genomics.inputs import Inputs, redact
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.members import plain_locus

READERS = 8
TRIES = 3


def slice_all(
    members: Sequence[Mapping[str, Any]],
    wide: Sequence[Locus],
    covered: Mapping[str, Sequence[Locus]],
    inputs: Inputs,
    folder: Path,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """The gVCF of each member over the intervals `wide`, with its index, in the members' order.

    Args:
        members: as a plan's list of members has them.
        covered: what the members of each loci set cover.

    Raises:
        ReadsInterrupted: a slice came incomplete three times.
    """

    needed_of = {name: cut(loci, wide) for name, loci in covered.items()}

    def one(pair: tuple[int, Mapping[str, Any]]) -> Path:
        number, member = pair
        path = folder / f"{number:05d}.g.vcf.gz"
        needed = needed_of[str(member["loci"])]
        exempt = [deletion(x) for x in member["outside_deletions"]] + [plain_locus(x) for x in member["left_out"]]
        reason = ""
        for attempt in range(1, TRIES + 1):
            try:
                holes = _slice(str(member["gvcf"]), wide, needed, exempt, inputs, path)
                reason = f"no record covers {holes[0]}" if holes else ""
            except OSError as error:
                reason = redact(str(error))
            if not reason:
                return path
            if attempt < TRIES:
                sleep(2.0**attempt)
        raise ReadsInterrupted(reads=member["gvcf"], reason=reason)

    with ThreadPoolExecutor(READERS, thread_name_prefix="slices") as pool:
        return list(pool.map(one, enumerate(members)))


def cut(loci: Sequence[Locus], wide: Sequence[Locus]) -> list[Locus]:
    """What of `loci` lies within `wide`; both merged, by position within each contig (an exome has 200,000)."""
    by_contig: dict[str, tuple[list[Locus], list[int]]] = {}
    for locus in loci:
        there, ends = by_contig.setdefault(locus.contig, ([], []))
        there.append(locus)
        ends.append(locus.end)
    found: list[Locus] = []
    for interval in wide:
        there, ends = by_contig.get(interval.contig, ([], []))
        for locus in itertools.islice(there, bisect.bisect_left(ends, interval.start), None):
            if locus.start > interval.end:
                break
            found.append(Locus(locus.contig, max(locus.start, interval.start), min(locus.end, interval.end)))
    return found


def _slice(
    uri: str, wide: Sequence[Locus], needed: Sequence[Locus], exempt: Sequence[Locus], inputs: Inputs, path: Path
) -> list[Locus]:
    pysam = require_pysam()
    check = Covered(needed, exempt)
    packer = Packer()
    index = path.with_name(f"{path.name}.remote.tbi")
    inputs.fetch(f"{uri}.tbi", index)
    with pysam.TabixFile(inputs.address(uri), index=str(index), encoding="utf-8") as remote, path.open("wb") as out:
        for line in remote.header:
            out.write(packer.add(f"{line}\n".encode()))
        contigs = set(remote.contigs)
        before = Locus("", 0, 0)
        for interval in wide:
            if interval.contig not in contigs:
                continue
            for text in remote.fetch(interval.contig, interval.start - 1, interval.end):
                line = f"{text}\n".encode()
                contig, position, end, _ = read_place(line, uri)
                if contig == before.contig and position <= before.end:
                    continue  # it reaches over two intervals, and came with the first
                check.saw(contig, position, end)
                out.write(packer.add(line))
            before = interval
        out.write(packer.flush() + BGZF_EOF)
    index.unlink()
    pysam.tabix_index(str(path), preset="vcf", force=True)
    return check.finish()
