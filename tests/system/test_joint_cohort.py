"""Joint calls with real GATK: cut into regions, through GenomicsDB, with one sample more, after a redo: the same genotypes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pysam
import pytest
from genomics_support import run_task

from pyanamo_core.genomics.adopt import adopt
from pyanamo_core.genomics.cohort import Reblocking, gather
from pyanamo_core.genomics.compare import call_differences, compare_with_truth, total
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.joint import JointCalled, joint
from pyanamo_core.genomics.recorded import RecordedNest
from pyanamo_core.genomics.simulate import Cohort, Contig, Planted, simulate_cohort

pytestmark = pytest.mark.system
LENGTH, EDGE = 12_000, 4000
LOCI = [f"c:{a}-{a + EDGE - 1}" for a in range(1, LENGTH, EDGE)]


class World:
    """Three samples over three loci, which are the regions, too; deletions reach over their edges, with SNPs under them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        planted = [
            one
            for edge in (EDGE, 2 * EDGE)
            for one in (
                Planted("c", edge - 60, ((1, 0), (0, 1), (1, 0)), deleted=150),
                Planted("c", edge + 40, ((0, 1), (1, 0), (0, 0))),
            )
        ]
        self.cohort: Cohort = simulate_cohort(
            folder / "cohort",
            seed=11,
            contigs=[Contig("c", LENGTH, gap=False)],
            samples=["A", "B", "C"],
            planted=planted,
        )
        self.nests = {sample: [self.call(sample, n) for n in range(len(LOCI))] for sample in self.cohort.samples}
        self.gvcfs = [self.gather(sample) for sample in self.cohort.samples]
        self.whole = self.joint("whole", self.gvcfs, region_bases=LENGTH)

    def call(self, sample: str, nest: int, attempt: int = 1) -> RecordedNest:
        place = self.folder / "called" / sample / f"{nest}-{attempt}"
        place.mkdir(parents=True)
        ran = run_task(self.cohort.reads[sample], LOCI[nest], self.cohort.reference, place / "out", place / "work")
        return ran.recorded(LOCI[nest], nest, attempt)

    def gather(self, sample: str, folder: str = "gathered", **options: Any) -> str:
        work = self.folder / f"gather-{sample}-{folder}"
        work.mkdir(exist_ok=True)
        return gather(self.nests[sample], str(self.folder / folder), work, **options).gvcf.uri

    def joint(self, name: str, gvcfs: list[str], **options: Any) -> JointCalled:
        work = self.folder / f"joint-{name}"
        work.mkdir()
        return joint(gvcfs, self.cohort.reference, str(self.folder / name), work, **options)

    def same(self, one: JointCalled, two: JointCalled) -> None:
        assert call_differences(Path(one.vcf.uri), Path(two.vcf.uri)) == []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    prepare()
    return World(tmp_path_factory.mktemp("joint"))


def test_regions_whose_edges_lie_in_deletions_give_what_the_whole_gives_which_is_the_truth(world: World) -> None:
    cut = world.joint("cut", world.gvcfs, region_bases=EDGE)
    assert len(cut.manifest["parts"]) == 3
    world.same(cut, world.whole)
    cohort = world.cohort
    agreement = total(compare_with_truth(Path(cut.vcf.uri), cohort.truth, cohort.callable_bed, cohort.reference))
    assert agreement.truth > 20
    assert (agreement.recall, agreement.precision) == (1.0, 1.0)


def test_genomicsdb_gives_the_same_genotypes_as_combinegvcfs(world: World) -> None:
    imported = world.joint("imported", world.gvcfs, region_bases=EDGE, combine_up_to=2)
    assert imported.manifest["methods"] == ["GenomicsDBImport"]
    assert world.whole.manifest["methods"] == ["CombineGVCFs"]
    world.same(imported, world.whole)


def test_one_more_sample_gives_what_all_at_once_give_and_a_redo_calls_only_the_regions_near_it(world: World) -> None:
    # Given a cohort of two, whose regions stay
    keep = str(world.folder / "kept")
    options: dict[str, Any] = {"region_bases": EDGE, "keep": keep}
    two = world.joint("two", world.gvcfs[:2], **options)
    assert (two.called, two.kept) == (3, 0)
    assert list(two.manifest["samples"]) == ["A", "B"]
    # When a third comes, every region is called again, and it is as if all had come at once
    three = world.joint("three", world.gvcfs, **options)
    assert (three.called, three.kept) == (3, 0)
    world.same(three, world.whole)
    # When the first locus of A is called again, then its region and the next, which reads from it, are called again
    world.nests["A"][0] = world.call("A", 0, attempt=2)
    again = world.joint("again", [world.gather("A", "again"), *world.gvcfs[1:]], **options)
    assert (again.called, again.kept) == (2, 1)
    world.same(again, world.whole)
    # And the same once more calls none
    assert world.joint("more", [world.gather("A", "again"), *world.gvcfs[1:]], **options).called == 0


def test_a_reblocked_cohort_is_smaller_and_has_the_same_genotypes(world: World) -> None:
    how = Reblocking(world.cohort.reference)
    gvcfs = [world.gather(sample, "reblocked", reblock=how) for sample in world.cohort.samples]
    sizes = [sum(Path(uri).stat().st_size for uri in uris) for uris in (gvcfs, world.gvcfs)]
    assert sizes[0] < sizes[1]
    called = world.joint("reblocked-call", gvcfs, region_bases=LENGTH)
    assert called.manifest["reblocked"] is True
    sites = [_genotypes(Path(one.vcf.uri)) for one in (called, world.whole)]
    assert sites[0] == sites[1]


def _genotypes(vcf: Path) -> dict[tuple[int, str], list[list[str | None]]]:
    with pysam.VariantFile(str(vcf)) as records:
        return {
            (r.pos, r.ref): [sorted((s.alleles or ()), key=str) for s in r.samples.values()]
            for r in records
            if any(a != "*" for a in r.alts or ())
        }


def test_more_than_a_hundred_samples_go_through_genomicsdb_in_batches_of_fifty(world: World, tmp_path: Path) -> None:
    # Given 102 samples: copies of the three under other names, taken in as gVCFs made elsewhere
    gvcfs: list[str] = []
    for number in range(102):
        with pysam.BGZFile(world.gvcfs[number % 3], "rb") as file:
            text = file.read().decode()
        name = f"S{number:03d}"
        head, _, tail = text.partition("\n#CHROM")
        line, _, records = tail.partition("\n")
        (tmp_path / f"{name}.g.vcf").write_text(f"{head}\n#CHROM{line.rpartition(chr(9))[0]}\t{name}\n{records}")
        (tmp_path / f"work-{name}").mkdir()
        source, work = str(tmp_path / f"{name}.g.vcf"), tmp_path / f"work-{name}"
        gvcfs.append(adopt(source, str(tmp_path / "gathered"), work, reference=world.cohort.reference).gvcf.uri)
    # When two kilobases around a deletion are called
    called = world.joint("hundred", gvcfs, regions=[Locus("c", EDGE - 1000, EDGE + 1000)])
    # Then they were imported, 50 at a time, and each copy has its original's genotypes
    assert called.manifest["methods"] == ["GenomicsDBImport"]
    assert "--batch-size 50" in called.manifest["commands"][0]
    with pysam.VariantFile(called.vcf.uri) as records:
        assert list(records.header.samples) == [f"S{n:03d}" for n in range(102)]
        rows = [[s.alleles for s in r.samples.values()] for r in records]
    assert len(rows) > 2
    assert all(row == row[:3] * 34 for row in rows)
