"""Sharding changes nothing: loci with edges in and at indels give, gathered, what the whole contig gives."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pysam
import pytest
from genomics_support import DATA, TaskRun, copy_reference, run_task

from pyanamo_core.genomics.cohort import Gathered, gather
from pyanamo_core.genomics.compare import call_differences, compare_with_truth, gvcf_differences, total
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.intervals import Locus, read_dictionary
from pyanamo_core.genomics.joint import joint
from pyanamo_core.genomics.simulate import Cohort, Contig, Planted, Repeat, simulate_cohort

SPACING = 3000
"""Between indels: far enough apart that every other locus, padded by 1,000, is an interval of its own in one JVM."""
KINDS = (("deletion", 1), ("deletion", 8), ("deletion", 20), ("deletion", 150), ("insertion", 6), ("repeat", 4))
EDGES = ("in the middle", "at", "one base before")
LENGTH = SPACING * (len(KINDS) * len(EDGES) + 2)


@pytest.fixture(scope="module", autouse=True)
def gatk() -> None:
    """GATK's jars and AOT cache: fetched once per machine."""
    prepare()


@dataclass(frozen=True)
class Edges:
    """Two samples over a contig full of indels, and the loci whose edges lie in them."""

    cohort: Cohort
    loci: list[Locus]


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Edges:
    """Each kind of indel three times, a SNP under (or beside) it on the other haplotype, in both samples."""
    planted: list[Planted] = []
    repeats: list[Repeat] = []
    wanted = [(edge, kind, size) for edge in EDGES for kind, size in KINDS]
    for number, (_, kind, size) in enumerate(wanted, 1):
        place = SPACING * number
        if kind == "repeat":
            repeats.append(Repeat("edges", place - 10, "CA", 14))
            planted.append(Planted("edges", place, ((1, 0), (1, 1)), deleted=size))
            planted.append(Planted("edges", place + 25, ((0, 1), (0, 1))))
        elif kind == "insertion":
            planted.append(Planted("edges", place, ((1, 0), (0, 1)), inserted="GATTAC"))
            planted.append(Planted("edges", place + 1, ((0, 1), (1, 0))))
        else:
            planted.append(Planted("edges", place, ((1, 0), (0, 1)), deleted=size))
            planted.append(Planted("edges", place + size - 1, ((0, 1), (1, 0))))
    cohort = simulate_cohort(
        tmp_path_factory.mktemp("edges"),
        seed=3,
        contigs=[Contig("edges", LENGTH, gap=False)],
        samples=["A", "B"],
        planted=planted,
        repeats=repeats,
        random_variants=False,
    )
    with pysam.VariantFile(str(cohort.truth)) as truth:
        indels = [(r.pos, len(r.ref)) for r in truth if r.alts and len(r.ref) != len(r.alts[0])]
    assert len(indels) == len(wanted)
    starts = [1]
    for (position, length), (edge, _, _) in zip(indels, wanted, strict=True):
        behind = {"in the middle": 1 + max(length - 1, 1) // 2, "at": 1, "one base before": 0}[edge]
        starts.append(position + behind)
    starts.append(LENGTH + 1)
    return Edges(cohort, [Locus("edges", a, b - 1) for a, b in pairwise(starts)])


def gathered(folder: Path, runs: list[TaskRun], values: list[str]) -> Gathered:
    (folder / "gathering").mkdir(parents=True)
    nests = [run.recorded(value, nest) for nest, (run, value) in enumerate(zip(runs, values, strict=True))]
    return gather(nests, str(folder / "gathered"), folder / "gathering")


def called(folder: Path, gvcfs: list[Gathered], reference: Path) -> Path:
    (folder / "joining").mkdir()
    return Path(joint([g.gvcf.uri for g in gvcfs], reference, str(folder), folder / "joining").vcf.uri)


def compare_sharded_with_whole(edges: Edges, folder: Path, shares: list[list[Locus]]) -> None:
    """Call each share of the loci in a JVM of its own, and the whole contig in one; everything must be equal."""
    cohort = edges.cohort
    both: dict[str, list[Gathered]] = {"sharded": [], "whole": []}
    spanning = 0
    for sample, cram in cohort.reads.items():
        for name, parts in (("sharded", shares), ("whole", [[Locus("edges", 1, LENGTH)]])):
            place = folder / name / sample
            place.mkdir(parents=True)
            values = [",".join(map(str, part)) for part in parts]
            runs = [
                run_task(cram, value, cohort.reference, place / str(i), place / f"work{i}")
                for i, value in enumerate(values)
            ]
            both[name].append(gathered(place, runs, values))
            figures = [f for run in runs for gvcf in run.result["figures"]["gvcfs"] for f in gvcf["loci"]]
            assert sum(f["bases_missing"] for f in figures) == 0
            if name == "sharded":
                spanning += sum(f["left_deletion"] is not None for f in figures)
    # Loci did begin below their left neighbour's deletion: 5 kinds with reference bases, at two of three edges
    assert spanning == 2 * 10
    for sharded, whole in zip(both["sharded"], both["whole"], strict=True):
        assert gvcf_differences(Path(sharded.gvcf.uri), Path(whole.gvcf.uri)) == []
        assert sharded.manifest["longest_reference_span"] == 151
    one = called(folder / "sharded", both["sharded"], cohort.reference)
    two = called(folder / "whole", both["whole"], cohort.reference)
    assert call_differences(one, two) == []
    # And both are right, under each deletion too
    agreement = total(compare_with_truth(one, cohort.truth, cohort.callable_bed, cohort.reference))
    assert (agreement.truth, agreement.true_positives, agreement.false_positives) == (72, 72, 0)


def test_loci_with_edges_in_indels_give_what_the_whole_contig_gives(edges: Edges, tmp_path: Path) -> None:
    # Every other locus in one JVM: neighbours never share one
    compare_sharded_with_whole(edges, tmp_path, [edges.loci[0::2], edges.loci[1::2]])


@pytest.mark.system
def test_each_locus_in_a_process_of_its_own_gives_what_the_whole_contig_gives(edges: Edges, tmp_path: Path) -> None:
    compare_sharded_with_whole(edges, tmp_path, [[locus] for locus in edges.loci])


# ----------------------------------------------------------------------------------------------------------- real data


def test_na12878_whole_and_in_five_loci_gives_the_same_calls_with_all_of_giabs_sites(tmp_path: Path) -> None:
    # Given 12.5 kb of chr22 of NA12878, whose SM is 1: an alias is declared
    reference = copy_reference(DATA / "na12878-chr22/q.fa", tmp_path)
    length = read_dictionary(reference).length("q")
    reads = f"NA12878:1={DATA}/na12878-chr22/NA12878.chr22.tiny.bam"
    starts = [1, 2500, 5000, 7500, 10_000, length + 1]
    loci = {"whole": ["q"], "five": [f"q:{a}-{b - 1}" for a, b in pairwise(starts)]}
    made: dict[str, Gathered] = {}
    calls: dict[str, Path] = {}
    for name, values in loci.items():
        place = tmp_path / name
        place.mkdir()
        runs = [run_task(reads, v, reference, place / str(i), place / f"w{i}") for i, v in enumerate(values)]
        made[name] = gathered(place, runs, values)
        calls[name] = called(place, [made[name]], reference)
    # Then gathered equals whole, as a gVCF and as calls
    assert gvcf_differences(Path(made["five"].gvcf.uri), Path(made["whole"].gvcf.uri)) == []
    assert call_differences(calls["five"], calls["whole"]) == []
    # And of 18 sites the 14 of GIAB are found, as GATK finds them directly
    with pysam.VariantFile(str(calls["five"])) as found:
        assert list(found.header.samples) == ["NA12878"]
        sites = [(r.pos, r.ref, alt) for r in found for alt in r.alts or ()]
    with pysam.VariantFile(str(DATA / "na12878-chr22/NA12878.chr22.tiny.giab.vcf")) as giab:
        truth = [(r.pos, r.ref, alt) for r in giab for alt in r.alts or ()]
    assert len(truth) == 14
    assert set(truth) <= set(sites)
    assert len({position for position, _, _ in sites}) == 18
    # And the alias stands in the gVCF's header
    with pysam.VariantFile(made["five"].gvcf.uri) as gvcf:
        assert any(r.key == "PyAnamo_alias" and r["ID"] == "NA12878" for r in gvcf.header.records)


@pytest.mark.parametrize(("number", "sample", "sites"), [(1, "HG00100", 9), (2, "HG00101", 6), (3, "HG00102", 10)])
def test_three_samples_of_1000_genomes_give_calls(number: int, sample: str, sites: int, tmp_path: Path) -> None:
    reference = copy_reference(DATA / "1kg-chr17/mpileup.ref.fa", tmp_path)
    # The published headers hold the M5 of another version of this reference; that is declared
    reads = f"{DATA}/1kg-chr17/mpileup.{number}.cram"
    done = run_task(reads, "17", reference, tmp_path / "out", tmp_path / "w", HC_REFERENCE_CHECK="length")
    assert done.code == 0, done.stderr
    assert (done.result["figures"]["sample"], done.result["figures"]["variants"]) == (sample, sites)
    assert "ignored as declared" in done.result["figures"]["warnings"][0]
