"""Loci: parsing against a dictionary, planning, padding, interval lists, ploidy."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyanamo_core.errors import DictInvalid, GenomeUnknown, LocusInvalid, TargetsInvalid
from pyanamo_core.genomics.genomes import genome, genome_of, ploidy
from pyanamo_core.genomics.intervals import (
    ContigEntry,
    Dictionary,
    Locus,
    merge,
    pad_and_merge,
    parse_locus,
    read_dictionary,
    read_targets,
)
from pyanamo_core.genomics.planning import plan_loci, primary_contigs


def dictionary(**lengths: int) -> Dictionary:
    return Dictionary("ref.dict", {n: ContigEntry(n, length) for n, length in lengths.items()})


HG = genome("GRCh38").dictionary
HLA = Dictionary(
    "ref.dict", {"HLA-A*01:01:01:01": ContigEntry("HLA-A*01:01:01:01", 3503), "chr1": ContigEntry("chr1", 100)}
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("21:1-5", r"no contig 21 \(did you mean chr21\?\)"),
        ("chrMT:1-5", r"did you mean chrM\?"),
        ("chr21:5", "not of the form"),
        ("chr21:1,000-2,000", "not of the form"),
        ("chr21:5-1", "not after the end"),
        ("chr21:0-5", "at least 1"),
        ("chr21:1-46709984", "ends at 46709983"),
        ("chr21:1-5-7", "not of the form"),
        (":1-5", "not of the form"),
        ("chr21:١-٥", "not of the form"),
        ("", "neither contig:start-end"),
    ],
)
def test_a_locus_that_cannot_be_is_refused_with_what_to_write_instead(text: str, reason: str) -> None:
    with pytest.raises(LocusInvalid, match=reason):
        parse_locus(text, HG)


def test_a_name_that_holds_colons_is_split_at_the_last_one_and_only_if_the_dictionary_knows_it() -> None:
    assert parse_locus("HLA-A*01:01:01:01:100-200", HLA) == Locus("HLA-A*01:01:01:01", 100, 200)
    assert parse_locus("HLA-A*01:01:01:01", HLA) == Locus("HLA-A*01:01:01:01", 1, 3503)
    with pytest.raises(LocusInvalid, match="no contig HLA-A"):
        parse_locus("HLA-A*01:01:01:99-100", HLA)


def test_names_of_results_hold_neither_colon_nor_star_and_sort_by_place() -> None:
    stems = [Locus("chr1", start, 200_000_000).file_stem for start in (9, 10_000, 199_999_999)]
    assert (
        stems == sorted(stems) == ["chr1_000000009_200000000", "chr1_000010000_200000000", "chr1_199999999_200000000"]
    )
    assert not set(":*") & set(Locus("HLA-A*01:01", 1, 2).file_stem)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 900), st.integers(0, 90)), min_size=1), st.integers(0, 99)
)
def test_padding_and_merging_covers_each_locus_once(drawn: list[tuple[str, int, int]], padding: int) -> None:
    contigs = dictionary(b=1000, a=1000)
    loci = [Locus(c, start, start + more) for c, start, more in drawn]
    called = pad_and_merge(loci, padding, contigs)
    for locus in loci:
        assert sum(c.contig == locus.contig and c.start <= locus.start and locus.end <= c.end for c in called) == 1
    for one, two in itertools.pairwise(called):
        assert one.contig != two.contig or one.end + 1 < two.start
    assert [c.contig for c in called] == sorted((c.contig for c in called), key="ba".index)


def test_planned_loci_leave_out_runs_of_n_and_cut_the_rest_into_equal_parts(tmp_path: Path) -> None:
    # Given a contig of 1,000 bases with N at 301-400 (0-based 300-400) and a short run that is no gap
    fasta = tmp_path / "x.fa"
    bases = "A" * 300 + "N" * 100 + "C" * 200 + "N" * 49 + "G" * 351
    fasta.write_text(f">x\n{bases}\n")
    Path(f"{fasta}.fai").write_text("x\t1000\t3\t1000\t1001\n")
    # When loci of at most 250 bases are planned
    loci = plan_loci(dictionary(x=1000), target_bases=250, fasta=fasta)
    # Then edges fall into the gap, and each stretch is cut into equal parts
    assert [str(x) for x in loci] == ["x:1-150", "x:151-300", "x:401-600", "x:601-800", "x:801-1000"]


def test_a_shipped_genome_is_planned_without_alternates_gaps_and_mitochondria() -> None:
    known = genome("GRCh38")
    loci = plan_loci(known.dictionary, gaps=known.gaps, target_bases=5_000_000)
    assert max(x.bases for x in loci) <= 5_000_000
    assert {x.contig for x in loci} == {f"chr{c}" for c in [*range(1, 23), "X", "Y"]}
    assert sum(x.bases for x in loci) == 2_937_660_115
    assert loci == sorted(loci, key=lambda x: (known.dictionary.rank()[x.contig], x.start))
    assert merge(loci, known.dictionary) != loci  # neighbours touch


def test_without_chromosome_names_every_contig_is_planned() -> None:
    assert primary_contigs(dictionary(demo1=10, chrM=5, q=3)) == ["demo1", "q"]
    assert primary_contigs(dictionary(chr1=10, chr1_KI270706v1_random=5, chrM=3)) == ["chr1"]
    assert primary_contigs(dictionary(chr1=10, chrM=3), mitochondria=True) == ["chr1", "chrM"]
    with pytest.raises(LocusInvalid, match="did you mean chr1"):
        plan_loci(dictionary(chr1=10), contigs=["1"])


def test_an_interval_list_is_read_zero_based_sorted_and_merged(tmp_path: Path) -> None:
    bed = tmp_path / "0007.bed"
    bed.write_text("track name=x\nb\t10\t20\n# remark\na\t0\t5\nb\t20\t30\n")
    assert read_targets(bed, dictionary(a=100, b=100)) == [Locus("a", 1, 5), Locus("b", 11, 30)]


def test_all_faults_of_an_interval_list_are_told_with_their_lines(tmp_path: Path) -> None:
    bed = tmp_path / "bad.bed"
    bed.write_text("a\t0\t5\na\tx\t5\nc\t0\t5\na\t90\t101\na\t-1\t5\n")
    with pytest.raises(TargetsInvalid, match=r"line 2.*line 3: .*no contig c.*line 4: .*ends at 100.*line 5"):
        read_targets(bed, dictionary(a=100))
    with pytest.raises(TargetsInvalid, match="cannot be read"):
        read_targets(tmp_path / "none.bed", dictionary(a=100))


def test_a_missing_or_empty_dictionary_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DictInvalid, match="samtools dict"):
        read_dictionary(tmp_path / "x.fa")
    (tmp_path / "x.dict").write_text("@HD\tVN:1.6\n")
    with pytest.raises(DictInvalid, match="no @SQ"):
        read_dictionary(tmp_path / "x.fa")


@pytest.mark.parametrize(
    ("text", "sex", "pieces"),
    [
        ("chr2:1-9", "male", [("chr2:1-9", 2)]),
        ("chrX:2700000-2800000", "male", [("chrX:2700000-2781479", 2), ("chrX:2781480-2800000", 1)]),
        ("chrX:5000000-5000009", "1", [("chrX:5000000-5000009", 1)]),
        ("chrX:1-20000", "M", [("chrX:1-10000", 1), ("chrX:10001-20000", 2)]),
        ("chrX:5000000-5000009", "female", [("chrX:5000000-5000009", 2)]),
        ("chrY:5000000-5000009", "female", [("chrY:5000000-5000009", 0)]),
        ("chrY:5000000-5000009", "male", [("chrY:5000000-5000009", 1)]),
        ("chrM:1-100", "female", [("chrM:1-100", 1)]),
    ],
)
def test_ploidy_follows_from_contig_region_and_sex(text: str, sex: str, pieces: list[tuple[str, int]]) -> None:
    found = ploidy(parse_locus(text, HG), sex, genome("GRCh38"))
    assert [(str(x), value) for x, value in found.pieces] == pieces
    assert found.warning is None


def test_an_unknown_sex_or_genome_is_called_diploid_and_warned_of() -> None:
    locus = parse_locus("chrX:5000000-5000009", HG)
    for found in (ploidy(locus, "unknown", genome("GRCh38")), ploidy(locus, "male", None)):
        assert found.single == 2
        assert "diploid" in str(found.warning)


def test_a_reference_is_recognised_by_its_sex_chromosomes() -> None:
    assert genome_of(HG) == genome("GRCh38")
    assert genome_of(genome("GRCh37").dictionary) == genome("GRCh37")
    assert genome_of(dictionary(chrX=1000)) is None
    with pytest.raises(GenomeUnknown, match="GRCh38, GRCh37"):
        genome("hg17")
