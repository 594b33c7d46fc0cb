"""Concatenation: the regions' VCFs become the cohort's, block by block, without being unpacked.

The regions' bodies are copied as they are compressed; only a block that holds the end of a header is packed anew. What
is refused: a region missing, twice, out of order or overlapping, other samples or another order of them, a file that is
not the recorded one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyanamo_core.errors import CohortRefused, GvcfInvalid
from pyanamo_core.genomics.assemble import assemble, sink_for
from pyanamo_core.genomics.bgzf import BGZF_EOF, RangedReader, pack, split_blocks, unpack_block
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.load import Stored, Target
from pyanamo_core.genomics.members import SAME, plain_locus
from pyanamo_core.genomics.parameters import canonical_json
from pyanamo_core.genomics.plan_files import read_json, read_plan
from pyanamo_core.genomics.read_back import read_back

READERS = 16


def concat_plan(pointer_uri: str, vcfs: Sequence[Stored], inputs: Inputs, *, name: str) -> dict[str, Any]:
    """The plan of a concatenation from the regions that were called in this process, in the order of their plan."""
    pointer, _ = read_json(inputs, pointer_uri)
    regions = [
        {**planned, "attempt": 0, "vcf": vcf.uri, "bytes": vcf.bytes, "sha256": vcf.sha256}
        for planned, vcf in zip(pointer["regions"], vcfs, strict=True)
    ]
    common = {key: pointer[key] for key in ("samples", "partial", "members", "lead_in", "covered")}
    return {"schema": 1, "kind": "concat", "name": name, "regions": regions, **common}


class Concatenating:
    """A source of BGZF blocks (assemble.Source): the header once, then each region's body as it is."""

    def __init__(self, regions: Sequence[Mapping[str, Any]], samples: Sequence[str], inputs: Inputs) -> None:
        self._regions, self._samples, self._inputs = regions, list(samples), inputs

    @property
    def units(self) -> int:
        return len(self._regions)

    def snapshot(self) -> dict[str, Any]:
        return {}

    def restore(self, snapshot: dict[str, Any]) -> None:
        del snapshot

    def stream(self, unit: int, skip: int) -> Iterator[tuple[bytes, int]]:
        region = self._regions[unit]
        reader = RangedReader(self._inputs, str(region["vcf"]))
        try:
            yield from self._blocks(region, reader, first=unit == 0, skip=skip)
        except FileNotFoundError as error:
            raise CohortRefused(reason=f"region {region['item']}: {region['vcf']} is gone") from error
        except GvcfInvalid as error:
            raise CohortRefused(reason=f"region {region['item']}: {error}") from error
        found = reader.whole_digest()
        if found != region["sha256"]:
            raise CohortRefused(
                reason=f"region {region['item']}: {region['vcf']} has SHA-256 {found}, it was recorded with {region['sha256']}",
                changed=str(region["vcf"]),
            )

    def _blocks(
        self, region: Mapping[str, Any], reader: RangedReader, *, first: bool, skip: int
    ) -> Iterator[tuple[bytes, int]]:
        blocks = split_blocks(reader.chunks(), str(region["vcf"]))
        head, body = _header(blocks, str(region["vcf"]))
        samples = head.rstrip(b"\n").rpartition(b"\n")[2].decode().split("\t")[9:]
        if samples != self._samples:
            raise CohortRefused(reason=f"region {region['item']} holds other samples, or in another order")
        if first and not skip:
            yield pack(head), 0
        position = 1
        if skip < position and body:
            yield pack(body), position
        last = b""
        for block in blocks:
            last = block
            position += 1
            if position > skip and block != BGZF_EOF:
                yield block, position
        if last != BGZF_EOF:
            raise CohortRefused(reason=f"region {region['item']}: {region['vcf']} has no BGZF end: it is truncated")


def _header(blocks: Iterator[bytes], uri: str) -> tuple[bytes, bytes]:
    """The header's text, and what stands behind it in its last block."""
    text = b""
    for block in blocks:
        text += unpack_block(block)
        at = 0 if text.startswith(b"#CHROM\t") else text.find(b"\n#CHROM\t") + 1
        end = text.find(b"\n", at) + 1 if at or text.startswith(b"#CHROM\t") else 0
        if end:
            return text[:end], text[end:]
    raise GvcfInvalid(path=uri, reason="it has no header")


def concat(
    told: Mapping[str, Any], target: str, work: Path, *, inputs: Inputs, clients: Any = None, state: str = ""
) -> tuple[Stored, dict[str, Any], tuple[Stored, ...]]:
    """Write <target>/<name>.vcf.gz with .tbi, .stats.txt (bcftools stats) and .manifest.json (last).

    Args:
        told: a concat plan.
        state: where segments of an interrupted attempt lie; default: `.parts` below the target.

    Raises:
        CohortRefused: a region is missing, twice, out of order, not the recorded one, or of other samples.
    """
    regions: list[dict[str, Any]] = told["regions"]
    members = read_plan(inputs, str(told["members"]), "members")["members"]
    samples = [str(one["sample"]) for one in members]
    manifests = _manifests(regions, inputs)
    _refuse(regions, manifests, samples, [plain_locus(x) for x in told["covered"]])
    regions = [_with_digest(*pair) for pair in zip(regions, manifests, strict=True)]
    name = str(told["name"])
    with Target(target, clients) as place:
        place.check()
        uri = f"{place.where}/{name}.vcf.gz"
        key = hashlib.sha256(json.dumps([[r["vcf"], r["sha256"]] for r in regions]).encode()).hexdigest()[:16]
        size = sum(int(one["bytes"]) for one in regions)
        sink = sink_for(uri, key, clients=clients, state=state, expected_bytes=size)
        made = assemble(Concatenating(regions, samples, inputs), sink)
        place.take_over(Stored(f"{name}.vcf.gz", uri, made.bytes, made.sha256))
        index, stats = work / f"{name}.vcf.gz.tbi", work / f"{name}.stats.txt"
        sha256 = read_back(inputs, uri, index, sha256=made.sha256, stats=stats, name=f"{name}.vcf.gz")
        whole = Stored(f"{name}.vcf.gz", uri, made.bytes, sha256)
        stored = [whole, place.put(index), place.put(stats)]
        place.stored[0] = whole
        variants = sum(int(one["variants"]) for one in manifests)
        counted = read_stats(stats)
        if counted.get("records") != variants:
            raise CohortRefused(reason=f"{uri} holds {counted.get('records')} records, the regions hold {variants}")
        manifest: dict[str, Any] = {
            "schema": 1,
            "kind": "joint",
            "samples": samples,
            "regions": list(told["covered"]),
            "parts": [{key: one[key] for key in ("item", "attempt", "vcf", "sha256")} for one in regions],
            "lead_in": told["lead_in"],
            "partial": told["partial"],
            **{key: manifests[0].get(key, "") for key in SAME},
            "methods": sorted({str(one["method"]) for one in manifests}),
            "joint_version": str(manifests[0].get("joint_version", "")),
            "commands": manifests[0]["commands"],
            "variants": variants,
            "stats": counted,
            "adopted": [str(one["sample"]) for one in members if one["adopted"]],
            "gvcfs": [{"sample": one["sample"], "uri": one["gvcf"], "sha256": one["sha256"]} for one in members],
            "segments_reused": made.reused,
            "files": [s.as_dict() for s in stored],
        }
        record = work / f"{name}.manifest.json"
        record.write_text(canonical_json(manifest))
        place.put(record)
        sink.forget()
        return whole, manifest, tuple(place.stored)


def _manifests(regions: Sequence[Mapping[str, Any]], inputs: Inputs) -> list[dict[str, Any]]:
    def read(region: Mapping[str, Any]) -> dict[str, Any]:
        told, _ = read_json(inputs, str(region["vcf"]).removesuffix(".vcf.gz") + ".manifest.json")
        if told.get("kind") != "region" or told.get("plan") != region["plan"]:
            raise CohortRefused(reason=f"region {region['item']}: its manifest is of another plan")
        return told

    with ThreadPoolExecutor(READERS, thread_name_prefix="manifests") as pool:
        return list(pool.map(read, regions))


def _with_digest(region: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The region with a SHA-256: the ledger's, else its manifest's."""
    name = str(region["vcf"]).rpartition("/")[2]
    own = next((str(one.get("sha256") or "") for one in manifest.get("files", ()) if one.get("name") == name), "")
    digest = str(region["sha256"] or own)
    if not digest:
        raise CohortRefused(
            reason=f"region {region['item']}: neither the ledger nor its manifest has a SHA-256 of {region['vcf']}; "
            "call it again"
        )
    return {**region, "sha256": digest}


def _refuse(
    regions: Sequence[Mapping[str, Any]],
    manifests: Sequence[Mapping[str, Any]],
    samples: Sequence[str],
    covered: Sequence[Locus],
) -> None:
    """Samples alike; regions in the order of what is covered, without gap, overlap or duplicate."""
    if not regions:
        raise CohortRefused(reason="there is no region")
    called = [(str(one["method"]), str(one.get("joint_version", ""))) for one in manifests]
    for region, how in zip(regions, called, strict=True):
        if how != called[0]:
            raise CohortRefused(
                reason=f"region {region['item']} was called by {' '.join(how).strip()}, region {regions[0]['item']} by "
                f"{' '.join(called[0]).strip()}: call all regions again by one of them"
            )
    waiting = list(covered)[::-1]
    seen: dict[str, str] = {}
    for region, manifest in zip(regions, manifests, strict=True):
        if list(manifest["samples"]) != list(samples):
            raise CohortRefused(reason=f"region {region['item']} holds other samples, or in another order")
        for text in manifest["regions"]:
            if text in seen:
                raise CohortRefused(reason=f"{text} is called twice: in {seen[text]} and in {region['item']}")
            seen[text] = str(region["item"])
            locus = plain_locus(text)
            rest = waiting.pop() if waiting else None
            if rest is None or locus.contig != rest.contig or locus.start != rest.start or locus.end > rest.end:
                what = f"{rest.contig}:{rest.start} comes next" if rest else "all is covered already"
                raise CohortRefused(reason=f"region {region['item']} ({text}) is out of order, or a gap: {what}")
            if locus.end < rest.end:
                waiting.append(Locus(rest.contig, locus.end + 1, rest.end))
    if waiting:
        raise CohortRefused(reason=f"no region covers {waiting[-1]}: a gap")


def read_stats(path: Path) -> dict[str, int]:
    """The summary numbers (SN) of bcftools stats, with short names: records, snps, indels, multiallelic_sites …"""
    found: dict[str, int] = {}
    for line in path.read_text().splitlines():
        if line.startswith("SN\t"):
            _, _, key, value = line.split("\t")
            name = key.removeprefix("number of ").rstrip(":").lower().replace(" ", "_").replace("-", "_")
            found[name] = int(value)
    return found
