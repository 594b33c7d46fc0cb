"""Adopting a gVCF that was made elsewhere: the checks of gather, then a place beside the gathered ones.

Nothing is believed: one sample, contigs and REF bases of this reference, order, <NON_REF> in each record of GATK's,
no overlapping blocks, a whole BGZF file, and every base of the given loci under a record. The index is made anew. What
nobody can know (parameters, a caller that the header does not name) stays empty in the manifest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pyanamo_core.errors import CohortRefused, GvcfInvalid
from pyanamo_core.genomics.assemble import assemble, sink_for
from pyanamo_core.genomics.bgzf import BGZF_EOF, Lines, Packer, RangedReader
from pyanamo_core.genomics.cohort import Gathered, header_contigs
from pyanamo_core.genomics.coverage import Covered
from pyanamo_core.genomics.extras import require_pysam
from pyanamo_core.genomics.gathering import read_place
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Locus, merge, read_dictionary
from pyanamo_core.genomics.load import Stored, Target
from pyanamo_core.genomics.members import GATHERED
from pyanamo_core.genomics.parameters import canonical_json
from pyanamo_core.genomics.read_back import read_back

_GATK = re.compile(
    rb"##GATKCommandLine(?:\.\w+)?=<ID=(?P<tool>HaplotypeCaller)\w*,.*?Version=\"?(?P<version>[^,\">]+)", re.DOTALL
)
_BCFTOOLS = re.compile(rb"##bcftools_callVersion=(?P<version>[^\s+]+)")
_BASES = frozenset("ACGT")


class NotAdopted(CohortRefused):
    """{uri} is not adopted: {reason}."""


def adopt(
    uri: str,
    target: str,
    work: Path,
    *,
    reference: Path,
    loci: Sequence[Locus] = (),
    sample: str = "",
    inputs: Inputs | None = None,
    clients: Any = None,
) -> Gathered:
    """Write <target>/<sample>.g.vcf.gz with .tbi and .manifest.json (last) from a gVCF: BGZF, gzip or plain text.

    Args:
        uri: s3:// address or path.
        reference: FASTA with .fai and .dict, which the gVCF's REF bases must agree with.
        loci: what it must cover, base by base; default: what it happens to cover, which the manifest then lists.
        sample: what its sample must be called.

    Raises:
        NotAdopted: with the first thing that is wrong.
    """
    inputs = inputs or Inputs(clients=clients)
    source = Adopting(uri, inputs, reference, loci, sample)
    with Target(target, clients) as place:
        place.check()
        name = f"{source.sample}.g.vcf.gz"
        where = f"{place.where}/{name}"
        key = hashlib.sha256(f"{uri} {source.size}".encode()).hexdigest()[:16]
        sink = sink_for(where, key, clients=clients, expected_bytes=source.size)
        # Anew each time: what lies outside of the ledger's reach may change between two attempts.
        made = assemble(source, sink, anew=True)
        place.take_over(Stored(name, where, made.bytes, made.sha256))
        index = work / f"{name}.tbi"
        sha256 = read_back(inputs, where, index, sha256=made.sha256)
        whole = Stored(name, where, made.bytes, sha256)
        stored = [whole, place.put(index)]
        place.stored[0] = whole
        manifest = {**source.manifest(), "files": [s.as_dict() for s in stored]}
        record = work / f"{source.sample}.manifest.json"
        record.write_text(canonical_json(manifest))
        place.put(record)
        sink.forget()
        return Gathered(source.sample, whole, manifest, tuple(place.stored))


class Adopting:
    """A source of BGZF blocks (assemble.Source): one gVCF, checked as it passes."""

    def __init__(self, uri: str, inputs: Inputs, reference: Path, loci: Sequence[Locus], sample: str) -> None:
        self.uri, self._inputs, self._reference = uri, inputs, reference
        self._dictionary = read_dictionary(reference)
        self._loci = merge(loci, self._dictionary) if loci else []
        try:
            reader = RangedReader(inputs, uri, chunk=1 << 18)
            self._header = Lines(reader).header
            self.size = reader.total or 0
            start, end = inputs.read_range(uri, 0, 2)[0], inputs.read_range(uri, -len(BGZF_EOF), 0)[0]
        except FileNotFoundError as error:
            raise self._refused("it does not exist") from error
        except GvcfInvalid as error:
            raise self._refused(str(error.facts["reason"])) from error
        if start == b"\x1f\x8b" and end != BGZF_EOF:
            raise self._refused("it has no BGZF end: it is truncated, or was packed with gzip (use bgzip)")
        samples = self._header[-1].decode().rstrip("\n").split("\t")[9:]
        if len(samples) != 1:
            raise self._refused(f"it holds {len(samples)} samples, not one")
        self.sample = samples[0]
        if sample and sample != self.sample:
            raise self._refused(f"its sample is {self.sample}, not {sample}")
        for name, entry in header_contigs(self._header).items():
            mine = self._dictionary.contigs.get(name)
            if mine is not None and entry.length and mine.length != entry.length:
                raise self._refused(
                    f"its header says that {name} has {entry.length} bases, in {reference} it has {mine.length}: another reference"
                )
        text = b"".join(self._header)
        gatk, bcftools = _GATK.search(text), _BCFTOOLS.search(text)
        self._caller = "gatk" if gatk or b"ID=NON_REF" in text else "bcftools" if bcftools else ""
        found = gatk or bcftools
        self._version = found["version"].decode() if found else ""
        self.records = self.longest = 0
        self._spans: list[Locus] = []
        self._digest = ""

    def _refused(self, reason: str) -> NotAdopted:
        return NotAdopted(uri=self.uri, reason=reason)

    @property
    def units(self) -> int:
        return 1

    def snapshot(self) -> dict[str, Any]:
        return {}

    def restore(self, snapshot: dict[str, Any]) -> None:
        del snapshot

    def stream(self, unit: int, skip: int) -> Iterator[tuple[bytes, int]]:
        del unit, skip
        packer = Packer()
        note = f'##PyAnamo_adopted=<From="{self.uri}">\n'.encode()
        for line in [*self._header[:-1], note, self._header[-1]]:
            yield packer.add(line), 0
        reader = RangedReader(self._inputs, self.uri)
        try:
            for line in self._checked(Lines(reader)):
                yield packer.add(line), self.records
        except GvcfInvalid as error:
            raise self._refused(str(error.facts["reason"])) from error
        yield packer.flush(), self.records
        self._digest = reader.whole_digest()

    def _checked(self, lines: Lines) -> Iterator[bytes]:
        covered = Covered(self._loci)
        contig_now, last, reach, block_reach = "", 0, 0, 0
        done: set[str] = set()
        with require_pysam().FastaFile(str(self._reference)) as bases:
            for line in lines:
                contig, position, end, block = read_place(line, self.uri)
                at = f"{contig}:{position}"
                if contig != contig_now:
                    if contig in done or contig not in self._dictionary:
                        why = (
                            "comes twice, or its records are not sorted"
                            if contig in done
                            else "is not in the reference"
                        )
                        raise self._refused(f"contig {contig} {why}")
                    done.add(contig)
                    contig_now, last, reach, block_reach = contig, 0, 0, 0
                if position < last:
                    raise self._refused(f"its records are not sorted: {at} comes after {contig}:{last}")
                if end > self._dictionary.length(contig):
                    raise self._refused(f"the record at {at} ends behind the contig's end: another reference")
                if block and position <= block_reach:
                    raise self._refused(f"the reference block at {at} overlaps the one before it")
                fields = line.split(b"\t", 5)
                ref = fields[3].decode().upper()
                there = bases.fetch(contig, position - 1, position - 1 + len(ref)).upper()
                if any(a != b and b in _BASES for a, b in zip(ref, there, strict=True)):
                    raise self._refused(f"REF at {at} is {ref[:20]}, the reference has {there[:20]}: another reference")
                if not block and self._caller == "gatk" and b"<NON_REF>" not in fields[4]:
                    raise self._refused(f"the record at {at} does not list <NON_REF>: it is no gVCF, or damaged")
                covered.saw(contig, position, end)
                self._span(contig, position, end, reach)
                last, reach = position, max(reach, end)
                if block:
                    block_reach = end
                else:
                    self.longest = max(self.longest, end - position + 1)
                self.records += 1
                yield line
        holes = covered.finish()
        if holes:
            raise self._refused(f"no record covers {holes[0]}: a hole")
        if not self.records:
            raise self._refused("it holds no record")

    def _span(self, contig: str, position: int, end: int, reach: int) -> None:
        """What the records cover, as loci."""
        if self._spans and self._spans[-1].contig == contig and position <= reach + 1:
            self._spans[-1] = Locus(contig, self._spans[-1].start, max(end, reach))
        else:
            self._spans.append(Locus(contig, position, end))

    def manifest(self) -> dict[str, Any]:
        """What is known of it; after the stream."""
        loci = self._loci or self._spans
        contigs = dict.fromkeys(x.contig for x in loci)
        entries = {name: self._dictionary[name] for name in contigs}
        return {
            "schema": 1,
            "kind": GATHERED,
            "sample": self.sample,
            "adopted": {"from": self.uri, "bytes": self.size, "sha256": self._digest},
            "loci": [str(x) for x in loci],
            "left_out": [],
            "missing": [],
            "partial": False,
            "reference": {name: {"length": entry.length, "md5": entry.md5} for name, entry in entries.items()},
            "caller": self._caller,
            "caller_version": self._version,
            "parameters": {},
            "parameters_hash": "",
            "reblocked": False,
            "longest_reference_span": self.longest,
            "records": self.records,
            "outside_deletions": [],
            "nests": [],
        }
