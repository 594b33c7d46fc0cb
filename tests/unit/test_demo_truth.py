"""The demo's judge: what counts as found, and that it cannot be fooled."""

from __future__ import annotations

from pathlib import Path

import pysam
import pytest

from pyanamo.demo import Score
from pyanamo_core.genomics.compare import compare_with_truth

SEQUENCE = "ACGTTTTGCATGCCCATGATGATGCA"
HEADER = (
    "##fileformat=VCFv4.2\n##contig=<ID=c,length=26>\n"
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA\tB\n"
)


@pytest.fixture
def judge(tmp_path: Path):
    reference = tmp_path / "r.fa"
    reference.write_text(f">c\n{SEQUENCE}\n")
    pysam.faidx(str(reference))
    bed = tmp_path / "inside.bed"
    bed.write_text("c\t0\t22\n")

    def score(truth: list[str], calls: list[str]):
        for name, records in (("t.vcf", truth), ("c.vcf", calls)):
            (tmp_path / name).write_text(HEADER + "".join(line.replace(" ", "\t") + "\n" for line in records))
        return Score(tuple(compare_with_truth(tmp_path / "c.vcf", tmp_path / "t.vcf", bed, reference)))

    return score


def record(position: int, ref: str, alt: str, a: str, b: str = "0/0") -> str:
    return f"c {position} . {ref} {alt} . PASS . GT {a} {b}"


def test_the_same_calls_are_perfect_whatever_the_phase(judge):
    score = judge(
        [record(2, "C", "T", "0|1"), record(9, "C", "G", "1|1")],
        [record(2, "C", "T", "1/0"), record(9, "C", "G", "1/1")],
    )
    assert (score.total.recall, score.total.precision, score.good) == (1.0, 1.0, True)


def test_a_wrong_genotype_is_missed_and_false_at_once(judge):
    score = judge(
        [record(2, "C", "T", "0|1"), record(9, "C", "G", "1|1")],
        [record(2, "C", "T", "1/1"), record(9, "C", "G", "1/1")],
    )
    assert (score.samples[0].true_positives, score.total.recall, score.total.precision, score.good) == (
        1,
        0.5,
        0.5,
        False,
    )


def test_an_indel_placed_elsewhere_in_its_repeat_is_the_same(judge):
    # Deleting any one T of ACGTTTTG is one and the same change
    score = judge([record(3, "GT", "G", "0|1")], [record(6, "TT", "T", "0/1")])
    assert score.good


def test_alleles_of_a_multiallelic_record_count_one_by_one(judge):
    score = judge(
        [record(2, "C", "T", "1|0", "0|0"), record(2, "C", "G", "0|1", "1|1")], [record(2, "C", "T,G", "1/2", "2/2")]
    )
    assert (score.samples[0].true_positives, score.samples[1].true_positives) == (2, 1)
    assert score.good


def test_what_lies_outside_the_regions_is_not_judged(judge):
    score = judge(
        [record(2, "C", "T", "0|1"), record(24, "G", "T", "0|1")],
        [record(2, "C", "T", "0/1"), record(23, "T", "A", "0/1")],
    )
    assert score.good


def test_no_calls_and_spanning_deletions_are_no_alleles(judge):
    score = judge([record(2, "C", "T", "0|1")], [record(2, "C", "T", "0/1"), record(9, "C", "*,G", "0/1", "./.")])
    assert score.good


def test_calling_nothing_is_not_good(judge):
    assert not judge([record(2, "C", "T", "0|1")], []).good


def test_an_empty_truth_proves_nothing(judge):
    assert not judge([], []).good
