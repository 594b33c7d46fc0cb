"""Samples and where their reads lie: listing buckets laid out like 1000 Genomes', and resolving names.

A sample is the @RG SM of its reads, nothing else. In 1000 Genomes' bucket the folder of a CRAM is an ENA run
(ERR3239334), not a sample; both are accepted as names and resolved when a sheet is made, so that pilots list no bucket.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyanamo_core.errors import PyAnamoError, ReadsInvalid, SampleMissing
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.reads import default_indexes, open_reads

# Of 1000 Genomes: the 2,504 unrelated samples and the 698 related ones, from the bucket's root or from this folder.
_ROOT = "1000G_2504_high_coverage"
DATA_FOLDERS = ("data", "additional_698_related/data", f"{_ROOT}/data", f"{_ROOT}/additional_698_related/data")
_READS = (".cram", ".bam")
_RUN = re.compile(r"[ESD]RR\d{5,}")
_ARGUMENT = re.compile(r"(?P<name>[^:=,/\s]+)(?::(?P<alias>[^=/\s]+))?=(?P<uri>.+)")


@dataclass(frozen=True)
class Reads:
    """Reads of one sample, as HaplotypeCaller-1KG.sh takes them: NAME[:SM]=URI[,INDEX], or URI[,INDEX].

    Attributes:
        name: the expected sample; empty = whatever @RG SM says.
        read_group_sample: the SM that is renamed to `name`; empty = SM must be `name`.
        uri: s3:// address or path of a BAM or CRAM.
        index: its index; empty = beside it.
        run: the folder's name, an ENA run in 1000 Genomes' layout.
        size: bytes, where known.
        sex: male, female, unknown; empty = nobody said.
    """

    uri: str
    index: str = ""
    name: str = ""
    read_group_sample: str = ""
    run: str = ""
    size: int = 0
    sex: str = ""

    @property
    def argument(self) -> str:
        """What the task script takes: `parse_argument` gives the same reads back."""
        alias = f":{self.read_group_sample}" if self.read_group_sample else ""
        return (f"{self.name}{alias}=" if self.name else "") + self.uri + (f",{self.index}" if self.index else "")

    @property
    def stem(self) -> str:
        """The file's name up to its first dot: the sample's name in most layouts, but only SM is proof."""
        return self.uri.rpartition("/")[2].split(".", 1)[0]

    def settle(self, found: str) -> str:
        """The sample's name, given the SM found in the header.

        Raises:
            ReadsInvalid: another sample than expected, and no alias declared.
        """
        if self.read_group_sample:
            if found != self.read_group_sample:
                raise ReadsInvalid(
                    reads=self.uri,
                    reason=f"its sample is {found}, the alias {self.name} is declared for {self.read_group_sample}",
                )
            return self.name
        if self.name and found != self.name:
            raise ReadsInvalid(
                reads=self.uri,
                reason=f"its sample (@RG SM) is {found}, not {self.name}; if they are one, declare the alias: {self.name}:{found}={self.uri}, or {found} in the column alias of a table of samples",
            )
        return found


def parse_argument(text: str) -> Reads | None:
    """NAME[:SM]=URI[,INDEX] or URI[,INDEX]; None if it is a bare name that must be looked up."""
    match = _ARGUMENT.fullmatch(text)
    name, alias, rest = (match["name"], match["alias"] or "", match["uri"]) if match else ("", "", text)
    uri, _, index = rest.partition(",")
    if not match and not uri.endswith(_READS) and "/" not in uri:
        return None
    return Reads(uri, index, name, alias, uri.rstrip("/").rpartition("/")[0].rpartition("/")[2])


# ------------------------------------------------------------------------------------------------------------ listing


def list_reads(inputs: Inputs, where: str) -> list[Reads]:
    """All reads below a folder or a bucket's prefix, sorted by address; `index` is empty where none lies beside."""
    files = {entry.uri: entry.size for entry in inputs.listing(where)}
    return [
        Reads(
            uri,
            next((i for i in default_indexes(uri) if i in files), ""),
            run=uri.rpartition("/")[0].rpartition("/")[2],
            size=size,
        )
        for uri, size in sorted(files.items())
        if uri.endswith(_READS)
    ]


def resolve(inputs: Inputs, name: str, where: str) -> Reads:
    """The reads of a sample's name or an ENA run below `where`; tries 1000 Genomes' folders before it lists everything.

    Args:
        where: e.g. s3://1000genomes/1000G_2504_high_coverage, or a folder.

    Raises:
        SampleMissing: none. ReadsInvalid: several.
    """
    where = where.rstrip("/")
    found: list[Reads] = []
    if _RUN.fullmatch(name) and where.startswith("s3://"):
        for folder in (where, *(f"{where}/{f}" for f in DATA_FOLDERS)):
            found = [r for r in list_reads(inputs, f"{folder}/{name}/") if r.run == name]
            if found:
                break
    if not found:
        listed = list_reads(inputs, f"{where}/" if where.startswith("s3://") else where)
        found = match(listed, name)
        if not found:
            raise SampleMissing(sample=name, place=where, hint=_hint(listed, name))
    if len(found) > 1:
        places = ", ".join(r.uri for r in found[:5])
        raise ReadsInvalid(reads=name, reason=f"{len(found)} files fit ({places}); name one by its address")
    return found[0] if found[0].run == name else replace(found[0], name=name)


def match(listed: Iterable[Reads], name: str) -> list[Reads]:
    """Those whose run is `name`, else those whose file is named after it."""
    everything = list(listed)
    return [r for r in everything if r.run == name] or [r for r in everything if r.stem == name]


def _hint(listed: Sequence[Reads], name: str) -> str:
    import difflib

    if not listed:
        return ": there are no BAM or CRAM files"
    names = [r.stem for r in listed] + [r.run for r in listed]
    close = difflib.get_close_matches(name, names, n=3)
    return (
        f"; did you mean {', '.join(close)}?" if close else f", which has {len(listed)} others, e.g. {listed[0].stem}"
    )


def choose(listed: Sequence[Reads], number: int, seed: int) -> list[Reads]:
    """`number` of them at random, the same for the same seed and listing, in the listing's order."""
    if number >= len(listed):
        return list(listed)
    chosen = random.Random(seed).sample(range(len(listed)), number)  # noqa: S311 - repeatable, not secret
    return [listed[i] for i in sorted(chosen)]


# ----------------------------------------------------------------------------------------------------------- checking


@dataclass(frozen=True)
class Checked:
    """Reads after a look inside: their sample, or what is wrong with them."""

    reads: Reads
    sample: str = ""
    problem: str = ""


def check_reads(inputs: Inputs, reads: Reads) -> Checked:
    """Open the reads: one sample, index there and of this file. Gives the problem as a value, so that one bad file
    does not hide the others."""
    with tempfile.TemporaryDirectory(prefix="pyanamo-") as work:
        try:
            if not reads.index:
                reads = with_index(inputs, reads)
            with open_reads(inputs, reads.uri, reads.index or None, Path(work)) as opened:
                sample = reads.settle(opened.sample)
        except PyAnamoError as error:
            return Checked(reads, problem=str(error))
    return Checked(replace(reads, name=sample), sample)


def with_index(inputs: Inputs, reads: Reads) -> Reads:
    """The reads with the index that lies beside them, where one does."""
    for index in default_indexes(reads.uri):
        try:
            inputs.read_range(index, 0, 1)
        except FileNotFoundError:
            continue
        return replace(reads, index=index)
    return reads


def duplicates(checked: Iterable[Checked]) -> dict[str, list[str]]:
    """Samples that several files claim, with the files' addresses."""
    places: dict[str, list[str]] = {}
    for entry in checked:
        if entry.sample:
            places.setdefault(entry.sample, []).append(entry.reads.uri)
    return {sample: uris for sample, uris in places.items() if len(uris) > 1}
