"""Gather: one gVCF per sample from the recorded nests of an item, streamed, or a refusal that names the nest.

The usual tools accept overlapping, duplicate, missing and foreign loci with exit 0 and write a wrong file. Here every
base of every locus must stand under exactly the files that the manifests name, in the order of the reference, whatever
the order of the sheet was. The joint call is joint.py's, the comparison with a truth compare.py's.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyanamo_core.errors import CohortRefused
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, Locus, merge, parse_locus
from pyanamo_core.genomics.load import Stored, Target
from pyanamo_core.genomics.members import GATHERED, plain_locus
from pyanamo_core.genomics.parameters import canonical_json
from pyanamo_core.genomics.recorded import RecordedNest
from pyanamo_core.genomics.records import open_gvcf, read_record

_CONTIG_LINE = re.compile(r"##contig=<ID=(?P<name>[^,>]+)(?:,length=(?P<length>\d+))?")
_SAME = ("sample", "caller", "caller_version", "parameters_hash")


@dataclass(frozen=True)
class Piece:
    """One gVCF of a nest, with its manifest; `uri` is empty where the locus was left out (ploidy 0)."""

    nest: RecordedNest
    uri: str
    manifest: Mapping[str, Any]
    loci: tuple[Locus, ...]

    @property
    def value(self) -> str:
        return str(self.manifest["value"])

    @property
    def sha256(self) -> str:
        """Of the gVCF, as the manifest has it; of the manifest's locus list where there is no gVCF."""
        name = self.uri.rpartition("/")[2]
        return next((str(f["sha256"]) for f in self.manifest["files"] if f["name"] == name), "")


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
    inputs: Inputs | None = None,
    clients: Any = None,
) -> Gathered:
    """Write <target>/<sample>.g.vcf.gz with .tbi and .manifest.json (last) from the recorded nests of one item.

    Args:
        target: an s3:// prefix or a folder.
        work: a folder of one's own for temporary files.
        expected: the values of all nests of the item's definition; default: those of `nests`.
        partial: gather although some of the expected are not recorded; the manifest lists them.

    Raises:
        CohortRefused: overlap, duplicate, hole, or another sample, reference, caller or parameters; names the nest.
    """
    inputs = inputs or Inputs(clients=clients)
    if not nests:
        raise CohortRefused(reason="no nest is recorded")
    pieces = [piece for nest in nests for piece in read_pieces(nest, inputs)]
    refuse_strangers(pieces)
    dictionary = _dictionary(pieces, inputs, work)
    pieces = ordered(pieces, dictionary)
    missing = _missing(pieces, expected or [n.value for n in nests], dictionary)
    if missing and not partial:
        raise CohortRefused(
            reason=f"{len(missing)} of the loci are not recorded, the first is {missing[0]}: a hole"
            " (to gather all the same: --partial)"
        )
    sample = str(pieces[0].manifest["sample"])
    path = work / f"{sample}.g.vcf.gz"
    written = _write(path, pieces, inputs, work, bool(missing))
    require_pysam().tabix_index(str(path), preset="vcf", force=True)
    with Target(target, clients) as place:
        place.check()
        stored = [place.put(path), place.put(Path(f"{path}.tbi"))]
        first = pieces[0].manifest
        manifest: dict[str, Any] = {
            "schema": 1,
            "kind": GATHERED,
            "sample": sample,
            "loci": [str(x) for p in pieces for x in p.loci],
            "missing": missing,
            "partial": bool(missing),
            "reference": _references(pieces),
            **{key: first[key] for key in ("caller", "caller_version", "parameters", "parameters_hash")},
            "longest_reference_span": written.longest,
            "records": written.records,
            "outside_deletions": written.outside,
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
        return Gathered(sample, stored[0], manifest, tuple(place.stored))


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
            data, _ = inputs.read_range(uri, 0, 1 << 24)
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
        yield Piece(nest, gvcf, manifest, loci)


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
        CohortRefused: a locus twice, or two that overlap.
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
    return sorted(pieces, key=lambda p: min((rank[x.contig], x.start) for x in p.loci))


def _dictionary(pieces: Sequence[Piece], inputs: Inputs, work: Path) -> Dictionary:
    """The reference's contigs in order, from the first gVCF's header."""
    first = next((p for p in pieces if p.uri), None)
    if first is None:
        raise CohortRefused(
            reason=f"{pieces[0].nest} and all others were left out (ploidy 0): there is nothing to gather"
        )
    with open_gvcf(_bring(first, inputs, work)) as (header, _):
        matches = (_CONTIG_LINE.match(line) for line in header)
        contigs = {m["name"]: ContigEntry(m["name"], int(m["length"] or 0)) for m in matches if m}
    return Dictionary(first.uri, contigs)


def _missing(pieces: Sequence[Piece], expected: Sequence[str], dictionary: Dictionary) -> list[str]:
    """Expected values that no piece has; a value may list several loci."""
    have = {p.value for p in pieces}
    wanted = [part for value in expected for part in (value.split(",") if value else [])]
    normal = [v if v.startswith("@") else str(parse_locus(v, dictionary)) for v in wanted]
    return [value for value in normal if value not in have]


def _references(pieces: Sequence[Piece]) -> dict[str, Any]:
    return {contig: entry for p in pieces for contig, entry in p.manifest["reference"].items()}


def _bring(piece: Piece, inputs: Inputs, work: Path) -> Path:
    """The piece's gVCF on this machine, its checksum compared with the manifest's.

    Raises:
        CohortRefused: gone or changed.
    """
    path = work / f"piece-{hashlib.sha256(piece.uri.encode()).hexdigest()[:16]}.g.vcf.gz"
    if path.exists():
        return path
    partial = path.with_suffix(".part")
    try:
        inputs.fetch(piece.uri, partial)
    except FileNotFoundError as error:
        raise CohortRefused(reason=f"{piece.nest}: {piece.uri} is gone") from error
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    name = piece.uri.rpartition("/")[2]
    told = next((f["sha256"] for f in piece.manifest["files"] if f["name"] == name), "")
    if found != told:
        raise CohortRefused(reason=f"{piece.nest}: {piece.uri} has SHA-256 {found}, its manifest says {told}")
    return partial.replace(path)


# ------------------------------------------------------------------------------------------------------------ records


@dataclass
class _Written:
    records: int = 0
    longest: int = 0
    outside: list[str] = field(default_factory=list[str])


class _Coverage:
    """Are the loci covered base by base, with deletions that reach from one file into the next?"""

    def __init__(self, pieces: Sequence[Piece], written: _Written) -> None:
        self.loci = [(x, p) for p in pieces if p.uri for x in p.loci]
        self.everything = [x for p in pieces for x in p.loci]
        self.written = written
        self.contig, self.reach = "", 0

    def enter(self, locus: Locus, piece: Piece) -> int:
        """The last base already covered when a locus begins: its start - 1, or where an earlier record reaches."""
        if locus.contig != self.contig:
            self.contig, self.reach = locus.contig, 0
        named = piece.manifest.get("left_deletions", {}).get(str(locus))
        if named is not None:
            position, length = int(named["position"]), int(named["reference_length"])
            owner = next(
                (x for x in self.everything if x.contig == locus.contig and x.start <= position <= x.end), None
            )
            if owner is None:  # its locus is not part of this item: the bases are the deletion's all the same
                self.written.outside.append(f"{locus.contig}:{position}+{length}")
                return max(locus.start - 1, self.reach, position + length - 1)
        return max(locus.start - 1, self.reach)

    def saw(self, end: int) -> None:
        self.reach = max(self.reach, end)


def _write(path: Path, pieces: Sequence[Piece], inputs: Inputs, work: Path, partial: bool) -> _Written:
    """Stream all pieces into one BGZF file, checking order and coverage as they pass."""
    written = _Written()
    coverage = _Coverage(pieces, written)
    with require_pysam().BGZFile(str(path), "wb") as out:
        headed = False
        for piece in pieces:
            if not piece.uri:
                continue
            local = _bring(piece, inputs, work)
            with open_gvcf(local) as (header, lines):
                if header[-1].split("\t")[9:] != [f"{piece.manifest['sample']}\n"]:
                    raise CohortRefused(
                        reason=f"{piece.nest}: its gVCF is of another sample ({header[-1].split(chr(9))[9:]})"
                    )
                if not headed:
                    kept = [x for x in header if not x.startswith("##PyAnamo_left_deletion")]
                    note = f"##PyAnamo_gathered=<Files={sum(bool(p.uri) for p in pieces)},Partial={str(partial).lower()}>\n"
                    out.write("".join([*kept[:-1], note, kept[-1]]).encode())
                    headed = True
                _copy(piece, lines, out, coverage, written)
            local.unlink()
    return written


def _copy(piece: Piece, lines: Iterator[str], out: Any, coverage: _Coverage, written: _Written) -> None:
    waiting = list(piece.loci)
    locus = waiting.pop(0)
    covered = coverage.enter(locus, piece)

    def hole(at: int) -> CohortRefused:
        return CohortRefused(
            reason=f"{piece.nest}: no record covers {locus.contig}:{covered + 1}-{at}: a hole in {piece.uri}"
        )

    for line in lines:
        record = read_record(line)
        while record.contig != locus.contig or record.position > locus.end:
            if covered < locus.end:
                raise hole(locus.end)
            if not waiting:
                raise CohortRefused(
                    reason=f"{piece.nest}: a record at {record.contig}:{record.position} is outside its loci"
                )
            locus = waiting.pop(0)
            covered = coverage.enter(locus, piece)
        if record.position < locus.start or (record.block and record.end > locus.end):
            raise CohortRefused(
                reason=f"{piece.nest}: a record at {record.contig}:{record.position} leaves its locus {locus}"
            )
        if record.position > covered + 1:
            raise hole(record.position - 1)
        covered = max(covered, record.end)
        coverage.saw(record.end)
        if not record.block:
            written.longest = max(written.longest, len(record.ref))
        written.records += 1
        out.write(line.encode())
    while True:
        if covered < locus.end:
            raise hole(locus.end)
        if not waiting:
            return
        locus = waiting.pop(0)
        covered = coverage.enter(locus, piece)


def merged_loci(manifests: Sequence[Mapping[str, Any]], dictionary: Dictionary) -> list[Locus]:
    """The union of what several gathered gVCFs cover, in the reference's order."""
    return merge((plain_locus(x) for m in manifests for x in m["loci"]), dictionary)
