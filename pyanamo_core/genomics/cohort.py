"""Gather: one gVCF per sample from the recorded nests of an item, streamed, or a refusal that names the nest.

The usual tools accept overlapping, duplicate, missing and foreign loci with exit 0 and write a wrong file. Here every
base of every locus must stand under exactly the files that the manifests name, in the order of the reference, whatever
the order of the sheet was. The records pass through gathering.py into assemble.py: neither memory nor disk grows with
the genome, and an attempt that was killed goes on. The joint call is joint.py's, the comparison with a truth compare.py's.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial as partial_of
from pathlib import Path
from typing import Any

from pyanamo_core.errors import CohortRefused
from pyanamo_core.genomics.assemble import assemble, sink_for
from pyanamo_core.genomics.bgzf import Lines, RangedReader
from pyanamo_core.genomics.gathering import Gathering, Piece, Reblocking
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, Locus, merge, parse_locus
from pyanamo_core.genomics.load import Stored, Target
from pyanamo_core.genomics.members import GATHERED, plain_locus
from pyanamo_core.genomics.parameters import canonical_json
from pyanamo_core.genomics.read_back import read_back
from pyanamo_core.genomics.recorded import RecordedNest

__all__ = [
    "GATHERED",
    "Gathered",
    "Piece",
    "Reblocking",
    "RecordedNest",
    "gather",
    "merged_loci",
    "ordered",
    "read_pieces",
]

READERS = 16
_CONTIG_LINE = re.compile(rb"##contig=<ID=(?P<name>[^,>]+)(?:,length=(?P<length>\d+))?")
_SAME = ("sample", "caller", "caller_version", "parameters_hash")


@dataclass(frozen=True)
class Gathered:
    """What was gathered: where the gVCF lies, and what its manifest says."""

    sample: str
    gvcf: Stored
    manifest: Mapping[str, Any]
    outputs: tuple[Stored, ...]

    @property
    def missing(self) -> list[str]:
        """Values that `partial` left out."""
        return list(self.manifest["missing"])


def gather(
    nests: Sequence[RecordedNest],
    target: str,
    work: Path,
    *,
    expected: Sequence[str] | None = None,
    partial: bool = False,
    reblock: Reblocking | None = None,
    state: str = "",
    inputs: Inputs | None = None,
    clients: Any = None,
) -> Gathered:
    """Write <target>/<sample>.g.vcf.gz with .tbi and .manifest.json (last) from the recorded nests of one item.

    Args:
        target: an s3:// prefix or a folder.
        work: a folder of one's own for temporary files: the index, and with `reblock` one contig's records.
        expected: the values of all nests of the item's definition; default: those of `nests`.
        partial: gather although some of the expected are not recorded; the manifest lists them.
        reblock: let ReblockGVCF go over the merged records, contig by contig.
        state: where segments of an interrupted attempt lie; default: `.parts` below the target.

    Raises:
        CohortRefused: overlap, duplicate, hole, or another sample, reference, caller or parameters; names the nest.
    """
    inputs = inputs or Inputs(clients=clients)
    if not nests:
        raise CohortRefused(reason="no nest is recorded")
    with ThreadPoolExecutor(READERS, thread_name_prefix="manifests") as pool:
        pieces = [piece for found in pool.map(partial_of(_pieces, inputs=inputs), nests) for piece in found]
    refuse_strangers(pieces)
    dictionary = _dictionary(pieces, inputs)
    pieces = ordered(pieces, dictionary)
    missing = _missing(pieces, expected or [n.value for n in nests], dictionary)
    if missing and not partial:
        raise CohortRefused(
            reason=f"{len(missing)} of the loci are not recorded, the first is {missing[0]}: a hole"
            " (to gather all the same: --partial)"
        )
    sample = str(pieces[0].manifest["sample"])
    with Target(target, clients) as place:
        place.check()
        source = Gathering(pieces, inputs, work, partial=bool(missing), reblock=reblock)
        uri = f"{place.where}/{sample}.g.vcf.gz"
        size = sum(piece.bytes for piece in pieces)
        sink = sink_for(uri, _key(pieces, missing, reblock), clients=clients, state=state, expected_bytes=size)
        made = assemble(source, sink)
        place.take_over(Stored(f"{sample}.g.vcf.gz", uri, made.bytes, made.sha256))
        index = work / f"{sample}.g.vcf.gz.tbi"
        sha256 = read_back(inputs, uri, index, sha256=made.sha256)
        whole = Stored(f"{sample}.g.vcf.gz", uri, made.bytes, sha256)
        stored = [whole, place.put(index)]
        place.stored[0] = whole
        first, counters = pieces[0].manifest, source.counters
        manifest: dict[str, Any] = {
            "schema": 1,
            "kind": GATHERED,
            "sample": sample,
            "loci": [x for p in pieces for x in [*map(str, p.loci), *(p.left_out if p.uri else ())]],
            "left_out": [x for p in pieces for x in p.left_out],
            "missing": missing,
            "partial": bool(missing),
            "reference": _references(pieces),
            **{key: first[key] for key in ("caller", "caller_version", "parameters", "parameters_hash")},
            "reblocked": reblock is not None,
            "longest_reference_span": counters.longest,
            "records": counters.records,
            "outside_deletions": counters.outside,
            "segments_reused": made.reused,
            "nests": [
                {
                    "item": p.nest.item,
                    "nest": p.nest.nest,
                    "attempt": p.nest.attempt,
                    "value": p.value,
                    "gvcf": p.uri,
                    "sha256": p.sha256,
                    "loci": [str(x) for x in p.loci],
                }
                for p in pieces
            ],
            "files": [s.as_dict() for s in stored],
        }
        record = work / f"{sample}.manifest.json"
        record.write_text(canonical_json(manifest))
        place.put(record)
        sink.forget()
        return Gathered(sample, whole, manifest, tuple(place.stored))


def _pieces(nest: RecordedNest, inputs: Inputs) -> list[Piece]:
    return list(read_pieces(nest, inputs))


def _key(pieces: Sequence[Piece], missing: Sequence[str], reblock: Reblocking | None) -> str:
    """Names what is gathered: an interrupted attempt at the same files in the same order can be gone on with."""
    told = [[p.uri, p.sha256, [str(x) for x in p.loci]] for p in pieces]
    text = json.dumps([told, bool(missing), reblock is not None])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --------------------------------------------------------------------------------------------------- manifests, order


def read_pieces(nest: RecordedNest, inputs: Inputs) -> Iterator[Piece]:
    """The gVCFs of one nest, by its manifests.

    Raises:
        CohortRefused: no manifest, or it names files that are not among the outputs.
    """
    found = [uri for uri in nest.outputs if uri.endswith(".manifest.json")]
    if not found:
        raise CohortRefused(reason=f"{nest} recorded no manifest")
    for uri in found:
        try:
            data, _ = inputs.read_range(uri, 0, 1 << 26)
            known = nest.checksums.get(uri)
            if known and hashlib.sha256(data).hexdigest() != known:
                raise CohortRefused(reason=f"{nest}: its manifest {uri} is not the one that was recorded")
            manifest: dict[str, Any] = json.loads(data)
            loci = tuple(plain_locus(x) for x in manifest["loci"])
            names = {str(f["name"]) for f in manifest["files"]}
        except FileNotFoundError as error:
            raise CohortRefused(reason=f"{nest}: its manifest {uri} is gone") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CohortRefused(reason=f"{nest}: its manifest {uri} cannot be read ({error!r})") from error
        gvcf = next((u for u in nest.outputs if u.endswith(".g.vcf.gz") and u.rpartition("/")[2] in names), "")
        if not gvcf and not manifest.get("left_out"):
            raise CohortRefused(reason=f"{nest}: the gVCF that {uri} names is not among its outputs")
        piece = Piece(nest, gvcf, manifest, loci)
        if gvcf and nest.checksums.get(gvcf, piece.sha256) != piece.sha256:
            raise CohortRefused(
                reason=f"{nest}: {gvcf} was recorded with SHA-256 {nest.checksums[gvcf]}, its manifest says {piece.sha256}"
            )
        yield piece


def refuse_strangers(pieces: Sequence[Piece]) -> None:
    """All must be of one sample, caller, parameters and reference.

    Raises:
        CohortRefused: with the nest that differs, and both values.
    """
    first = pieces[0]
    seen: dict[str, tuple[Piece, Any]] = {}
    for piece in pieces:
        for key in _SAME:
            if piece.manifest.get(key) != first.manifest.get(key):
                what = {"parameters_hash": "parameters", "caller_version": "version of the caller"}.get(key, key)
                raise CohortRefused(
                    reason=f"{piece.nest} has another {what} ({piece.manifest.get(key)}) than {first.nest} ({first.manifest.get(key)})"
                )
        for contig, entry in piece.manifest["reference"].items():
            before = seen.setdefault(contig, (piece, entry))
            if before[1] != entry:
                raise CohortRefused(
                    reason=f"{piece.nest} has another reference for {contig} ({entry}) than {before[0].nest} ({before[1]})"
                )


def ordered(pieces: Sequence[Piece], dictionary: Dictionary) -> list[Piece]:
    """In the order of the reference.

    Raises:
        CohortRefused: a locus twice, two that overlap, or files whose loci interleave.
    """
    rank = dictionary.rank()
    unknown = next((x for p in pieces for x in p.loci if x.contig not in rank), None)
    if unknown is not None:
        raise CohortRefused(reason=f"the contig of {unknown} is not in the gVCFs' headers")
    places = sorted(
        ((rank[x.contig], x.start, x.end, number) for number, p in enumerate(pieces) for x in p.loci),
    )
    for one, two in itertools.pairwise(places):
        if one[0] == two[0] and two[1] <= one[2]:
            a, b = pieces[one[3]], pieces[two[3]]
            how = "a duplicate: the same locus as" if one[:3] == two[:3] else "an overlap with the locus of"
            raise CohortRefused(reason=f"{b.nest} is {how} {a.nest}")
    turns = [number for number, _ in itertools.groupby(places, key=lambda place: place[3])]
    if len(turns) > len(set(turns)):
        number = next(n for at, n in enumerate(turns) if n in turns[:at])
        between = pieces[turns[turns.index(number) + 1]]
        raise CohortRefused(
            reason=f"the loci of {between.nest} lie between those of {pieces[number].nest}: records of two files would"
            " have to be mixed. Plan interval lists in the reference's order"
        )
    return [pieces[number] for number in turns]


def _dictionary(pieces: Sequence[Piece], inputs: Inputs) -> Dictionary:
    """The reference's contigs in order, from the first gVCF's header."""
    first = next((p for p in pieces if p.uri), None)
    if first is None:
        raise CohortRefused(
            reason=f"{pieces[0].nest} and all others were left out (ploidy 0): there is nothing to gather"
        )
    try:
        header = Lines(RangedReader(inputs, first.uri, chunk=1 << 18)).header
    except FileNotFoundError as error:
        raise CohortRefused(reason=f"{first.nest}: {first.uri} is gone") from error
    return Dictionary(first.uri, header_contigs(header))


def header_contigs(header: Sequence[bytes]) -> dict[str, ContigEntry]:
    """The contigs that a VCF's header lists, in its order."""
    matches = (_CONTIG_LINE.match(line) for line in header)
    return {m["name"].decode(): ContigEntry(m["name"].decode(), int(m["length"] or 0)) for m in matches if m}


def _missing(pieces: Sequence[Piece], expected: Sequence[str], dictionary: Dictionary) -> list[str]:
    """Expected values that no piece has; a value may list several loci."""
    have = {p.value for p in pieces}
    wanted = [part for value in expected for part in (value.split(",") if value else [])]
    normal = [v if v.startswith("@") else str(parse_locus(v, dictionary)) for v in wanted]
    return [value for value in normal if value not in have]


def _references(pieces: Sequence[Piece]) -> dict[str, Any]:
    return {contig: entry for p in pieces for contig, entry in p.manifest["reference"].items()}


def merged_loci(manifests: Sequence[Mapping[str, Any]], dictionary: Dictionary) -> list[Locus]:
    """The union of what several gathered gVCFs cover, in the reference's order."""
    return merge((plain_locus(x) for m in manifests for x in m["loci"]), dictionary)
