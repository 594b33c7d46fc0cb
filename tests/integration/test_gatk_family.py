"""A family with a son, on GRCh38's X and Y: PAR, X, Y and an autosome, from reads to joint genotypes with their truth."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from genomics_support import TaskRun, run_task

from pyanamo_core.genomics.cohort import Gathered, gather
from pyanamo_core.genomics.compare import compare_with_truth, gvcf_differences, total
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.genomes import genome, genome_of
from pyanamo_core.genomics.intervals import Locus, read_dictionary
from pyanamo_core.genomics.joint import joint
from pyanamo_core.genomics.planning import outside, plan_loci
from pyanamo_core.genomics.simulate import Cohort, Contig, simulate_cohort

HG = genome("GRCh38")
BORDER = 2_781_479  # the last base of PAR1
WINDOWS = {"chr20": (1, 20_000), "chrX": (BORDER - 19_999, BORDER + 20_000), "chrY": (6_000_001, 6_015_000)}
SEXES = {"SON": "male", "FATHER": "male", "MOTHER": "female"}


@pytest.fixture(scope="module", autouse=True)
def gatk() -> None:
    """GATK's jars and AOT cache: fetched once per machine."""
    prepare()


@dataclass(frozen=True)
class Family:
    """A son and his parents, the loci that were called of each, and the gathered gVCFs."""

    cohort: Cohort
    loci: list[Locus]
    gathered: dict[str, Gathered]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder = tmp_path_factory.mktemp("family")
    lengths = {"chr20": 20_000, "chrX": HG.lengths["chrX"], "chrY": HG.lengths["chrY"]}
    contigs = [Contig(c, lengths[c], window, gap=False) for c, window in WINDOWS.items()]
    cohort = simulate_cohort(folder / "cohort", seed=3, contigs=contigs, samples=list(SEXES), sexes=SEXES)
    dictionary = read_dictionary(cohort.reference)
    known = genome_of(dictionary)
    assert known is not None
    gaps = {c: list(outside([(a - 1, b)], dictionary.length(c))) for c, (a, b) in WINDOWS.items()}
    loci = plan_loci(dictionary, gaps=gaps, borders=known.borders, target_bases=20_000)
    # Two nests of every other locus: neighbours are never in one, and a nest has loci of several ploidies.
    values = [",".join(str(x) for x in loci[start::2]) for start in (0, 1)]

    def call(sample: str, number: int) -> TaskRun:
        place = folder / sample
        place.mkdir(exist_ok=True)
        reads, reference = cohort.reads[sample], cohort.reference
        options = ("--sex", SEXES[sample])
        return run_task(reads, values[number], reference, place / str(number), place / f"work{number}", options=options)

    with ThreadPoolExecutor(2) as pool:
        runs = {sample: [pool.submit(call, sample, number) for number in (0, 1)] for sample in SEXES}
    gathered: dict[str, Gathered] = {}
    for sample, done in runs.items():
        nests = [one.result().recorded(values[number], number) for number, one in enumerate(done)]
        gathered[sample] = gather(nests, str(folder / "gathered"), folder / sample)
    return Family(cohort, loci, gathered)


def genotypes(vcf: Path) -> Iterator[tuple[str, int, dict[str, str]]]:
    """Contig, position, and each sample's genotype."""
    samples: list[str] = []
    with gzip.open(vcf, "rt") as lines:
        for line in lines:
            fields = line.rstrip("\n").split("\t")
            if line.startswith("#CHROM"):
                samples = fields[9:]
            elif not line.startswith("#"):
                called = (x.split(":", 1)[0] for x in fields[9:])
                yield fields[0], int(fields[1]), dict(zip(samples, called, strict=True))


def copies(genotype: str) -> int:
    return len(genotype.replace("|", "/").split("/"))


def expected_copies(contig: str, position: int, sample: str) -> int:
    if SEXES[sample] == "male" and (contig == "chrY" or (contig == "chrX" and position > BORDER)):
        return 1
    return 2


def test_a_planned_locus_never_lies_across_the_border_of_par(family: Family) -> None:
    assert [str(x) for x in family.loci] == [
        "chr20:1-20000",
        f"chrX:{BORDER - 19_999}-{BORDER}",
        f"chrX:{BORDER + 1}-{BORDER + 20_000}",
        "chrY:6000001-6015000",
    ]


@pytest.mark.parametrize("sample", SEXES)
def test_every_record_of_a_gathered_gvcf_has_the_ploidy_of_its_place(family: Family, sample: str) -> None:
    # When a sample's gVCF is read, blocks and variants
    found = list(genotypes(Path(family.gathered[sample].gvcf.uri)))
    # Then each record has as many alleles as the sample has copies there, and a woman's Y is left out
    assert {(c, p, g[sample]) for c, p, g in found if copies(g[sample]) != expected_copies(c, p, sample)} == set()
    contigs = {c for c, _, _ in found}
    assert contigs == ({"chr20", "chrX"} if sample == "MOTHER" else set(WINDOWS))
    assert family.gathered[sample].missing == []


@pytest.mark.parametrize(
    "combine_up_to",
    [pytest.param(100, id="CombineGVCFs"), pytest.param(0, id="GenomicsDB", marks=pytest.mark.system)],
)
def test_joint_genotypes_of_a_family_are_the_truth(family: Family, tmp_path: Path, combine_up_to: int) -> None:
    gvcfs = [one.gvcf.uri for one in family.gathered.values()]
    called = joint(gvcfs, family.cohort.reference, str(tmp_path), tmp_path, combine_up_to=combine_up_to)
    vcf = Path(called.vcf.uri)
    # Then genotypes agree with the truth, site by site and by number of copies
    agreement = total(compare_with_truth(vcf, family.cohort.truth, family.cohort.callable_bed, family.cohort.reference))
    assert agreement.truth > 130
    assert agreement.recall >= 0.99
    assert agreement.precision >= 0.99
    # And no male has a diploid genotype on X or Y outside PAR
    found = list(genotypes(vcf))
    males = [(c, p, g[s]) for c, p, g in found for s in ("SON", "FATHER") if expected_copies(c, p, s) == 1]
    assert len(males) > 60
    assert [one for one in males if copies(one[2]) != 1] == []
    assert {c for c, _, _ in found} == set(WINDOWS)


def test_the_second_caller_keeps_to_the_same_ploidies(family: Family, tmp_path: Path) -> None:
    # Given loci that lie across the border, and partly where the son has no reads
    values = f"chrX:{BORDER - 9999}-{BORDER + 10_000},chrX:9000000-9000500,chr20:1-9000,chrY:6000001-6009000"
    cram = family.cohort.reads["SON"]
    where = (family.cohort.reference, tmp_path / "out", tmp_path / "w")
    done = run_task(cram, values, *where, options=("--sex", "male"), HC_CALLER="bcftools")
    assert done.code == 0, done.stderr
    # Then each record, a block without reads too, has as many alleles as there are copies
    (tmp_path / "gather").mkdir()
    made = gather([done.recorded(values)], str(tmp_path / "gathered"), tmp_path / "gather")
    found = list(genotypes(Path(made.gvcf.uri)))
    assert ("chrX", 9_000_000, {"SON": "."}) in found
    assert [x for x in found if copies(x[2]["SON"]) != expected_copies(x[0], x[1], "SON")] == []


def test_a_list_of_ones_own_may_mix_what_a_sample_has_and_has_not(family: Family, tmp_path: Path) -> None:
    # Given an interval list over an autosome and Y, called of both parents
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "mixed.bed").write_text("chr20\t2000\t9000\nchrY\t6002000\t6009000\n")
    gathered: dict[str, Gathered] = {}
    for sample in ("FATHER", "MOTHER"):
        where = (family.cohort.reference, tmp_path / sample, tmp_path / f"w{sample}")
        options, pipeline = ("--sex", SEXES[sample]), str(tmp_path)
        value = "@targets/mixed.bed"
        reads = family.cohort.reads[sample]
        done = run_task(reads, value, *where, options=options, HC_CALLER="bcftools", PIPELINE=pipeline)
        (tmp_path / f"gather-{sample}").mkdir()
        nests = [done.recorded(value)]
        gathered[sample] = gather(nests, str(tmp_path / "gathered"), tmp_path / f"gather-{sample}")
    # Then what the mother lacks is told, so that both cover the same loci and can be called together
    loci = ["chr20:2001-9000", "chrY:6002001-6009000"]
    assert [one.manifest["loci"] for one in gathered.values()] == [loci, loci]
    assert [one.manifest["left_out"] for one in gathered.values()] == [[], loci[1:]]
    (tmp_path / "joint").mkdir()
    called = joint([x.gvcf.uri for x in gathered.values()], family.cohort.reference, str(tmp_path), tmp_path / "joint")
    found = list(genotypes(Path(called.vcf.uri)))
    assert {c for c, _, _ in found} == {"chr20", "chrY"}
    assert {copies(g["FATHER"]) for c, _, g in found if c == "chrY"} == {1}
    assert {g["MOTHER"].strip("./") for c, _, g in found if c == "chrY"} == {""}


def test_a_locus_across_the_border_is_called_with_both_ploidies(family: Family, tmp_path: Path) -> None:
    # Given a locus that a person made, across the border; when the son is called there
    value = f"chrX:{BORDER - 4999}-{BORDER + 5000}"
    cram = family.cohort.reads["SON"]
    done = run_task(cram, value, family.cohort.reference, tmp_path / "out", tmp_path / "w", options=("--sex", "male"))
    assert done.code == 0, done.stderr
    # Then each record has the ploidy of its place
    (tmp_path / "gather").mkdir()
    across = gather([done.recorded(value)], str(tmp_path / "gathered"), tmp_path / "gather")
    lines = [x for x in genotypes(Path(across.gvcf.uri)) if copies(x[2]["SON"]) != expected_copies(x[0], x[1], "SON")]
    assert lines == []
    # And they are those of the planned loci, but for the blocks at its two ends
    differing = gvcf_differences(Path(across.gvcf.uri), Path(family.gathered["SON"].gvcf.uri), limit=10_000)
    inside = [x for x in differing if x.startswith("- ") and "-" in x[2:].split(" ", 1)[0].split(":")[1]]
    assert len([x for x in differing if x.startswith("- ")]) == len(inside) <= 2
