"""Members of a joint call: gathered gVCFs, each known by its manifest, and what makes two of them strangers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from pyanamo_core.errors import CohortRefused
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Dictionary, Locus

GATHERED = "gathered"
SAME = ("caller", "caller_version", "parameters_hash", "reblocked")
READERS = 16
MAX_MANIFEST = 1 << 27


@dataclass(frozen=True)
class GatheredGvcf:
    """A gathered gVCF by the address of its manifest; gVCF and index lie beside it under the same stem.

    `sha256` is the manifest's, where a ledger recorded it; `source` says for people where this is from.
    """

    sample: str
    manifest: str
    sha256: str = ""
    source: str = ""

    @property
    def gvcf(self) -> str:
        return self.manifest.removesuffix(".manifest.json") + ".g.vcf.gz"


@dataclass(frozen=True)
class Member:
    """A gathered gVCF with what its manifest says."""

    sample: str
    gvcf: str
    manifest: Mapping[str, Any]

    @property
    def loci(self) -> list[Locus]:
        return [plain_locus(x) for x in self.manifest["loci"]]

    @property
    def longest(self) -> int:
        """The longest REF of a variant record, in bases."""
        return int(self.manifest["longest_reference_span"])

    def files(self) -> Iterator[tuple[Sequence[Locus], str]]:
        """The locus files that it was made of: loci and SHA-256; the gVCF itself where it does not know them."""
        nests: list[Mapping[str, Any]] = list(self.manifest.get("nests") or ())
        if not nests or any("sha256" not in nest for nest in nests):
            whole = next((str(f["sha256"]) for f in self.manifest["files"] if f["name"].endswith(".g.vcf.gz")), "")
            yield self.loci, whole
            return
        flag = "reblocked " if self.manifest.get("reblocked") else ""
        for nest in nests:
            yield [plain_locus(x) for x in nest["loci"]], flag + str(nest["sha256"])


def plain_locus(text: str) -> Locus:
    """A locus as a manifest writes it: contig:start-end."""
    contig, _, interval = text.rpartition(":")
    start, end = interval.split("-")
    return Locus(contig, int(start), int(end))


def read_member(one: GatheredGvcf, inputs: Inputs) -> Member:
    """A gathered gVCF's manifest.

    Raises:
        CohortRefused: there is none, it changed, or it is not of a gathered gVCF.
    """
    try:
        data, _ = inputs.read_range(one.manifest, 0, MAX_MANIFEST)
        manifest: dict[str, Any] = json.loads(data)
    except (FileNotFoundError, ValueError) as error:
        raise CohortRefused(
            reason=f"{one.gvcf} has no manifest beside it: only gathered gVCFs may be called jointly."
            " One that was made elsewhere is taken with: pyanamo gather --adopt"
        ) from error
    if one.sha256 and hashlib.sha256(data).hexdigest() != one.sha256:
        raise CohortRefused(reason=f"{one.manifest} is not the one that was recorded")
    if manifest.get("kind") != GATHERED:
        raise CohortRefused(
            reason=f"{one.gvcf} is the gVCF of a locus, not a gathered one: joint genotypes at its edges would be wrong"
        )
    return Member(str(manifest["sample"]), one.gvcf, manifest)


def read_members(gathered: Iterable[GatheredGvcf], inputs: Inputs, readers: int = READERS) -> Iterator[Member]:
    """The members in the order given; a few manifests are held at a time."""
    todo = iter(gathered)
    with ThreadPoolExecutor(readers, thread_name_prefix="members") as pool:
        while batch := list(islice(todo, readers * 2)):
            yield from pool.map(partial(read_member, inputs=inputs), batch)


class Strangers:
    """Refuses, member by member, what cannot be called together."""

    def __init__(self, dictionary: Dictionary, *, partial: bool) -> None:
        self._dictionary = dictionary
        self._partial = partial
        self._known: dict[str, tuple[str, Any]] = {}
        self._addresses: dict[str, str] = {}

    def refuse(self, member: Member) -> None:
        """Look at one more member.

        Raises:
            CohortRefused: a second gVCF of a sample, other parameters, caller, version or reference, or loci missing.
        """
        manifest, sample = member.manifest, member.sample
        if sample in self._addresses:
            raise CohortRefused(
                reason=f"{member.gvcf} is a second gVCF of sample {sample}; the first is {self._addresses[sample]}"
            )
        self._addresses[sample] = member.gvcf
        for key in SAME:
            value = manifest.get(key) or ""
            if manifest.get("adopted") and not value:
                continue  # made elsewhere, and its header does not say
            first = self._known.setdefault(key, (sample, value))
            if first[1] != value:
                what = key.replace("_hash", "").replace("_", " ")
                raise CohortRefused(
                    reason=f"sample {sample} has another {what} ({value or 'none'}) than {first[0]} ({first[1] or 'none'})"
                )
        for contig, entry in manifest["reference"].items():
            mine = self._dictionary.contigs.get(contig)
            differs = mine is None or mine.length != entry["length"]
            if differs or (mine and mine.md5 and entry["md5"] and mine.md5 != entry["md5"]):
                raise CohortRefused(
                    reason=f"sample {sample} was called on another reference than {self._dictionary.path} ({contig})"
                )
        if manifest["partial"] and not self._partial:
            raise CohortRefused(
                reason=f"sample {sample} lacks loci ({', '.join(manifest['missing'][:3])} …); to call all the same: --partial"
            )

    @property
    def caller(self) -> str:
        """The caller that all have in common; gatk where nobody says one."""
        return str(self._known.get("caller", ("", ""))[1] or "gatk")

    def common(self) -> dict[str, Any]:
        """What all have in common, for manifests."""
        return {key: self._known.get(key, ("", ""))[1] for key in SAME}
