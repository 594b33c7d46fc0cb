"""gVCFs judged: does every base of a locus stand under a record, and what figures are worth keeping?

A caller that dies leaves a file with a valid BGZF end, a valid index and no record, so existence proves nothing. What
proves is coverage: each base lies in a reference block, or under the REF of a variant record, also of one that starts
left of the locus. This is checked before the trim, because a trimmed file may rightly begin with bases that only its
left neighbour's deletion covers; such a deletion is named, and a trimmed file is checked with it in mind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pyanamo_core.errors import GvcfInvalid
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.records import BGZF_EOF, REFERENCE_ALLELES, Record, has_bgzf_eof, open_gvcf, read_record

SUMMED = (
    "bases",
    "bases_missing",
    "blocks_overlapping",
    "records",
    "blocks",
    "variants",
    "snv",
    "indel",
    "ts",
    "tv",
    "het",
    "hom",
    "haploid",
    "nocall",
    "multiallelic",
    "spanning",
)
"""Figures of a locus whose sum over loci means something."""

_TRANSITIONS = frozenset({("A", "G"), ("G", "A"), ("C", "T"), ("T", "C")})


@dataclass(frozen=True)
class LeftDeletion:
    """A record that starts left of a locus and whose REF reaches into it: it belongs to the left neighbour."""

    position: int
    reference_length: int

    @property
    def end(self) -> int:
        return self.position + self.reference_length - 1


# ---------------------------------------------------------------------------------------------------------- inspection


def _ints(*keys: Any) -> dict[str, int]:
    return {str(k): 0 for k in keys}


@dataclass
class LocusFigures:
    """What one locus of a gVCF holds. Bases, unless the name says records; `covered_to` is the last base covered.

    Blocks that overlap blocks are a fault. Blocks under a deletion are not: GATK itself writes some, where a shorter
    deletion starts below a longer one (its expected.testGVCFMode has 31 such bases).
    """

    locus: Locus
    covered_to: int
    blocks_to: int = 0
    bases_missing: int = 0
    blocks_overlapping: int = 0
    records: int = 0
    blocks: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: _ints(
            "variants", "snv", "indel", "ts", "tv", "het", "hom", "haploid", "nocall", "multiallelic", "spanning"
        )
    )
    variant_gq_over: dict[str, int] = field(default_factory=lambda: _ints(20, 60, 90))
    ref_bases_by_gq: dict[str, int] = field(default_factory=lambda: _ints("0", "1-19", "20-59", "60-98", "99"))
    depth_sum: int = 0
    depth_bases: int = 0
    par: Sequence[tuple[int, int]] = ()
    """Pseudoautosomal regions of its contig, 0-based, half-open; their depth is kept apart, too."""
    par_depth_sum: int = 0
    par_bases: int = 0
    left_deletion: LeftDeletion | None = None
    first_missing: int | None = None

    def take(self, record: Record) -> None:
        """Count a record that overlaps the locus."""
        low, high = max(record.position, self.locus.start), min(record.end, self.locus.end)
        if low > self.covered_to + 1:
            self.first_missing = self.first_missing or self.covered_to + 1
            self.bases_missing += low - self.covered_to - 1
        if record.block:
            self.blocks_overlapping += max(0, min(self.blocks_to, high) - low + 1)
            self.blocks_to = max(self.blocks_to, high)
            self.records += 1
            self.blocks += 1
            self._block(record, low, high)
        elif record.position >= self.locus.start:
            self.records += 1
            self._variant(record)
        elif self.left_deletion is None or self.left_deletion.end < record.end:
            self.left_deletion = LeftDeletion(record.position, len(record.ref))
        self.covered_to = max(self.covered_to, high)

    def close(self) -> None:
        """No further record can overlap the locus."""
        if self.covered_to < self.locus.end:
            self.first_missing = self.first_missing or self.covered_to + 1
            self.bases_missing += self.locus.end - self.covered_to
            self.covered_to = self.locus.end

    def _block(self, record: Record, low: int, high: int) -> None:
        values, bases = record.sample(), high - low + 1
        # bcftools gives blocks no GQ: each reference read halves the odds of a heterozygote, 3 on the Phred scale.
        depth = _number(values.get("DP") or values.get("MIN_DP"))
        quality = _number(values["GQ"]) if "GQ" in values else min(99, 3 * depth)
        name = (
            "0"
            if quality <= 0
            else "1-19"
            if quality < 20
            else "20-59"
            if quality < 60
            else "60-98"
            if quality < 99
            else "99"
        )
        self.ref_bases_by_gq[name] += bases
        self.depth_sum += depth * bases
        self.depth_bases += bases
        for begin, end in self.par:
            inside = max(0, min(high, end) - max(low, begin + 1) + 1)
            self.par_depth_sum += depth * inside
            self.par_bases += inside

    def _variant(self, record: Record) -> None:
        values, counts = record.sample(), self.counts
        self.depth_sum += _number(values.get("DP"))
        self.depth_bases += 1
        called = values.get("GT", ".").replace("|", "/").split("/")
        if "." in called:
            counts["nocall"] += 1
        alleles = {int(g) for g in called if g not in (".", "0")}
        if not alleles:
            return
        counts["variants"] += 1
        # A haploid call says nothing of heterozygosity: a male's X must not make his het/hom look low.
        counts["haploid" if len(called) == 1 else "hom" if len(set(called)) == 1 else "het"] += 1
        quality = _number(values.get("GQ"))
        for threshold in self.variant_gq_over:
            self.variant_gq_over[threshold] += quality > int(threshold)
        alts = record.alts
        counts["multiallelic"] += len([a for a in alts if a not in REFERENCE_ALLELES]) > 1
        for allele in alleles:
            alt = alts[allele - 1]
            if alt == "*":
                counts["spanning"] += 1
            elif len(alt) == len(record.ref) == 1:
                counts["snv"] += 1
                counts["ts" if (record.ref, alt) in _TRANSITIONS else "tv"] += 1
            elif len(alt) != len(record.ref):
                counts["indel"] += 1

    @property
    def block_bases(self) -> int:
        """Bases of the locus that stand in reference blocks."""
        return sum(self.ref_bases_by_gq.values())

    @property
    def callable_bases(self) -> int:
        """Of `block_bases`, those with GQ of 20 or more."""
        return sum(bases for band, bases in self.ref_bases_by_gq.items() if band not in ("0", "1-19"))

    def as_dict(self) -> dict[str, Any]:
        """The QC record's figures of this locus, ready for JSON."""
        left = self.left_deletion
        return {
            "locus": str(self.locus),
            "bases": self.locus.bases,
            "bases_missing": self.bases_missing,
            "blocks_overlapping": self.blocks_overlapping,
            "records": self.records,
            "blocks": self.blocks,
            **self.counts,
            "tstv": round(self.counts["ts"] / max(1, self.counts["tv"]), 2),
            "variant_gq_over": self.variant_gq_over,
            "ref_bases_by_gq": self.ref_bases_by_gq,
            "mean_depth": round(self.depth_sum / max(1, self.depth_bases), 2),
            "callable_fraction": round(self.callable_bases / max(1, self.block_bases), 4),
            "left_deletion": None if left is None else {"pos": left.position, "ref_length": left.reference_length},
        }


def _number(text: str | None) -> int:
    return int(text) if text and text != "." else 0


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found: a file is good if `problems` is empty."""

    samples: list[str]
    bgzf_eof: bool
    indexed: bool
    loci: list[LocusFigures]
    problems: list[str]

    @property
    def bases_missing(self) -> int:
        return sum(x.bases_missing for x in self.loci)

    def as_dict(self) -> dict[str, Any]:
        """Totals, the bases and depth of each contig, and the figures of each locus, ready for JSON."""
        each = [x.as_dict() for x in self.loci]
        return {
            "sample": self.samples[0] if len(self.samples) == 1 else None,
            "samples": self.samples,
            "bgzf_eof": self.bgzf_eof,
            "indexed": self.indexed,
            **{name: sum(x[name] for x in each) for name in SUMMED},
            **{name: _added(x[name] for x in each) for name in ("variant_gq_over", "ref_bases_by_gq")},
            "contigs": self.contigs(),
            "loci": each,
        }

    def contigs(self) -> dict[str, dict[str, int]]:
        """Contig to sums, from which means over any set of nests follow without rounding.

        `depth_sum` is over `depth_bases`, of which `par_bases` (with `par_depth_sum`) are pseudoautosomal;
        `callable_bases` (GQ of 20 or more) are of `block_bases`.
        """
        found: dict[str, dict[str, int]] = {}
        for x in self.loci:
            sums = {name: getattr(x, name) for name in ("depth_sum", "depth_bases", "block_bases", "callable_bases")}
            if x.par_bases:
                sums |= {"par_depth_sum": x.par_depth_sum, "par_bases": x.par_bases}
            found[x.locus.contig] = _added([found.get(x.locus.contig, {}), {"bases": x.locus.bases, **sums}])
        return found


def _added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total


def inspect(
    path: Path,
    loci: Sequence[Locus],
    *,
    sample: str | None = None,
    non_ref: bool = True,
    left: Mapping[Locus, LeftDeletion] | None = None,
    par: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    binary: bool = True,
) -> Inspection:
    """Read a gVCF once and judge it over these loci (sorted, disjoint).

    Args:
        sample: the only sample it may hold.
        non_ref: every record must list <NON_REF>, as GATK's do.
        left: deletions of left neighbours that may cover the first bases of a trimmed locus.
        par: contig to pseudoautosomal regions (0-based, half-open), whose depth is kept apart.
        binary: demand a BGZF end and an index beside it.

    Raises:
        GvcfInvalid: it cannot be read at all; anything else stands in `problems`.
    """
    figures = [LocusFigures(x, max(x.start - 1, (left or {}).get(x, LeftDeletion(0, 0)).end)) for x in loci]
    for figure in figures:
        figure.left_deletion = (left or {}).get(figure.locus)
        figure.par = (par or {}).get(figure.locus.contig, ())
    problems: list[str] = []
    with open_gvcf(path) as (header, lines):
        samples = header[-1].rstrip("\n").split("\t")[9:]
        problems += _walk(path, lines, figures, non_ref)
    for figure in figures:
        figure.close()
        if figure.bases_missing:
            problems.append(
                f"{figure.bases_missing} of {figure.locus.bases} bases of {figure.locus} are under no record, the first at {figure.first_missing}"
            )
        if figure.blocks_overlapping:
            problems.append(f"reference blocks overlap in {figure.locus} by {figure.blocks_overlapping} bases")
    if len(samples) != 1:
        problems.append(f"it holds {len(samples)} samples")
    elif sample is not None and samples != [sample]:
        problems.append(f"its sample is {samples[0]}, not {sample}")
    ended, indexed = has_bgzf_eof(path), Path(f"{path}.tbi").exists()
    if binary and not ended:
        problems.append("its BGZF end is missing")
    if binary and not indexed:
        problems.append("its index is missing")
    return Inspection(samples, ended, indexed, figures, problems)


def _walk(path: Path, lines: Iterator[str], figures: list[LocusFigures], non_ref: bool) -> list[str]:
    """Hand each record to the loci that it overlaps; returns what is wrong with the records themselves."""
    waiting: dict[str, list[LocusFigures]] = {}
    for figure in figures:
        waiting.setdefault(figure.locus.contig, []).append(figure)
    first_locus: dict[str, int] = dict.fromkeys(waiting, 0)
    contig, position, seen = "", 0, set[str]()
    without, unsorted = 0, 0
    for line in lines:
        try:
            record = read_record(line)
        except (ValueError, IndexError) as error:
            raise GvcfInvalid(path=path, reason=f"{error} after {contig}:{position}") from error
        if record.contig != contig:
            unsorted += record.contig in seen
            contig, position = record.contig, 0
            seen.add(contig)
        unsorted += record.position < position
        position = record.position
        without += non_ref and "<NON_REF>" not in record.fields[4]
        here = waiting.get(contig)
        if here is None:
            continue
        number = first_locus[contig]
        while number < len(here) and here[number].locus.end < record.position:
            number += 1
        first_locus[contig] = number
        while number < len(here) and here[number].locus.start <= record.end:
            here[number].take(record)
            number += 1
    problems: list[str] = []
    if unsorted:
        problems.append(f"{unsorted} records are out of order")
    if without:
        problems.append(f"{without} records lack the allele <NON_REF>")
    return problems


def check(path: Path, loci: Sequence[Locus], **wishes: Any) -> Inspection:
    """`inspect`, with problems as an error.

    Raises:
        GvcfInvalid: with every problem.
    """
    found = inspect(path, loci, **wishes)
    if found.problems:
        raise GvcfInvalid(path=path.name, reason="; ".join(found.problems))
    return found


# ---------------------------------------------------------------------------------------------------- hook for pilots


def verify_outputs(call: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> str | None:
    """The `verify:` hook of the workflow file: may this nest of HaplotypeCaller-1KG.sh be recorded as done?

    Args:
        call: the nest's call; `figures` is what the script wrote into PYANAMO_RESULT, `value` the nest's value,
            `read_end(uri, count)` gives the last bytes of an output.
        outputs: dicts with name, uri, bytes, sha256, and path while the file is still on this machine.

    Returns:
        None if it is good, else the reason.
    """
    figures = _figures(call, outputs)
    if figures is None:
        return "the script reported no figures of its gVCFs"
    reported = cast("list[Mapping[str, Any]]", figures.get("gvcfs") or [])
    names = {str(o.get("name") or str(o.get("uri", "")).rpartition("/")[2]): o for o in outputs}
    if not reported and not figures.get("left_out"):
        return "the script reported no gVCF"
    for gvcf in reported:
        name = str(gvcf.get("name", ""))
        for suffix in ("", ".tbi"):
            if not int(names.get(name + suffix, {}).get("bytes") or 0):
                return f"{name}{suffix} is not among the outputs, or empty"
        stem = name.removesuffix(".g.vcf.gz")
        for suffix in (".qc.json", ".manifest.json"):
            if stem + suffix not in names:
                return f"{stem}{suffix} is not among the outputs"
        reason = _bad_figures(gvcf) or _bad_file(call, names[name])
        if reason:
            return f"{name}: {reason}"
    return _wrong_loci(call, reported)


def _figures(call: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    figures = call.get("figures")
    if isinstance(figures, Mapping) and figures:
        return cast("Mapping[str, Any]", figures)
    found: list[Any] = []
    for output in outputs:  # a pilot that hands over no figures: the QC records beside the gVCFs say the same
        path = output.get("path")
        if path and str(path).endswith(".qc.json") and Path(str(path)).exists():
            found.append(json.loads(Path(str(path)).read_text()))
    return {"gvcfs": found} if found else None


def _bad_figures(gvcf: Mapping[str, Any]) -> str | None:
    if gvcf.get("bases_missing") != 0:
        return f"{gvcf.get('bases_missing')} bases of its loci are under no record"
    if gvcf.get("blocks_overlapping"):
        return f"reference blocks overlap by {gvcf['blocks_overlapping']} bases"
    if not gvcf.get("bgzf_eof") or not gvcf.get("indexed"):
        return "its BGZF end or its index is missing"
    if not gvcf.get("sample") or (gvcf.get("expected_sample") and gvcf["sample"] != gvcf["expected_sample"]):
        return f"its sample is {gvcf.get('sample')}, not {gvcf.get('expected_sample')}"
    return None


def _bad_file(call: Mapping[str, Any], output: Mapping[str, Any]) -> str | None:
    """Look at the end of the file itself, here or where it was put: figures may be older than the damage."""
    path, uri, read_end = output.get("path"), output.get("uri"), call.get("read_end")
    if path and Path(str(path)).exists():
        ended = has_bgzf_eof(Path(str(path)))
    elif uri and callable(read_end):
        ended = read_end(str(uri), len(BGZF_EOF)) == BGZF_EOF
    else:
        return None
    return None if ended else "its BGZF end is missing"


def _wrong_loci(call: Mapping[str, Any], reported: Sequence[Mapping[str, Any]]) -> str | None:
    value = str(call.get("value") or "")
    if not value or value.startswith("@") or not reported:
        return None
    done = {str(locus["locus"]) for gvcf in reported for locus in gvcf.get("loci", ())}
    missing = [x for x in value.split(",") if ":" in x and x not in done]
    return f"no gVCF was reported for {', '.join(missing)}" if missing else None
