"""Quality of samples: means weighted by bases, flags by bounds, sex by depth, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from qc_support import gvcf, nest

from pyanamo_core.model import State
from pyanamo_core.report.qc import GENOME, TARGETS, Flag, QcFold, SampleQc, sex_by_depth
from pyanamo_core.report.results import Result


def folded(*rows: Result, **options: Any) -> QcFold:
    fold = QcFold(**options)
    for row in rows:
        fold.take(row)
    return fold


def judged(*rows: Result, **options: Any) -> SampleQc:
    (one,) = folded(*rows, **options).samples()
    return one


def test_depth_and_callable_fraction_of_a_sample_are_weighted_by_bases():
    # Given a long deep locus and a short shallow one, half of which is callable
    one = judged(
        nest("A", 0, gvcf("chr1:1-900000", 40, 900_000)), nest("A", 1, gvcf("chr1:900001-1000000", 10, share=0.5))
    )
    # Then the long one counts nine times
    assert (one.mean_depth, one.callable_fraction) == (37.0, 0.95)
    assert (one.nests, one.nests_done, one.bases, one.flags) == (2, 2, 1_000_000, ())


def test_nests_of_several_items_of_one_sample_are_one_sample():
    rows = [
        nest("A", 0, gvcf("chr1:1-9", 30, snv=10), item="A-1"),
        nest("A", 0, gvcf("chr2:1-9", 20, snv=5), item="A-2"),
    ]
    one = judged(*rows)
    assert (one.items, one.snv, one.mean_depth) == (("A-1", "A-2"), 15, 25.0)


def test_a_sample_within_all_bounds_has_no_flag():
    counts = {"variants": 4100, "snv": 3100, "ts": 2100, "tv": 1000, "het": 2500, "hom": 1600, "indel": 1000}
    one = judged(nest("A", 0, gvcf("chr1:1-9", 31, **counts)))
    assert (one.titv, one.het_hom, one.flags) == (2.1, 1.562, ())


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"bases_missing": 12}, Flag("bases_missing", "12 bases stand under no record")),
        ({"depth": 19.0}, Flag("mean_depth", "depth 19 is below 20")),
        ({"depth": 51.0}, Flag("mean_depth", "depth 51 is above 50")),
        ({"share": 0.89}, Flag("callable_fraction", "callable 0.89 is below 0.9")),
        ({"snv": 500, "ts": 320, "tv": 180}, Flag("titv", "Ti/Tv 1.778 is below 1.9")),
        ({"snv": 500, "ts": 345, "tv": 155}, Flag("titv", "Ti/Tv 2.226 is above 2.2")),
        ({"het": 350, "hom": 150}, Flag("het_hom", "het/hom 2.333 is above 2.2")),
        ({"het": 280, "hom": 220}, Flag("het_hom", "het/hom 1.273 is below 1.3")),
    ],
)
def test_each_bound_makes_its_flag(change: dict[str, Any], flag: Flag):
    assert judged(nest("A", 0, gvcf("chr1:1-9", **({"depth": 30.0} | change)))).flags == (flag,)


@pytest.mark.parametrize(
    "few", [{"snv": 499, "ts": 320, "tv": 179}, {"het": 350, "hom": 149}], ids=["499 SNVs", "499 genotypes"]
)
def test_a_ratio_of_too_few_calls_is_told_and_not_judged(few: dict[str, int]):
    one = judged(nest("A", 0, gvcf("chr1:1-9", 30, **few)))
    assert one.titv or one.het_hom
    assert one.flags == ()


def test_what_is_not_done_is_flagged_and_does_not_count():
    one = judged(nest("A", 0, gvcf("chr1:1-9", 30)), nest("A", 1, status="failed"), nest("A", 2, status=""))
    assert one.flags == (Flag("incomplete", "2 of 3 nests are not done"),)
    assert one.mean_depth == 30.0


# --------------------------------------------------------------------------------------------------------------- sex


def sexed(x: float, y: float | None, sex: str) -> SampleQc:
    """Autosomes at 30x; X and Y as given."""
    rows = [nest("A", 0, gvcf("chr1:1-9", 30), sex=sex), nest("A", 1, gvcf("chrX:1-9", x), sex=sex)]
    if y is not None:
        rows.append(nest("A", 2, gvcf("chrY:1-9", y), sex=sex))
    return judged(*rows)


@pytest.mark.parametrize(
    ("x", "y", "sex", "says"),
    [
        (15.2, 12.0, "male", "male"),
        (14.8, 9.0, "unknown", "male"),
        (29.5, None, "female", "female"),
        (29.5, 0.3, "unknown", "female"),
    ],
)
def test_depth_of_x_and_y_that_agrees_with_what_was_declared_has_no_flag(
    x: float, y: float | None, sex: str, says: str
):
    one = sexed(x, y, sex)
    assert (one.sex, one.depth_says, one.flags) == (sex, says, ())


@pytest.mark.parametrize(
    ("x", "y", "sex", "text"),
    [
        (15.0, None, "female", "declared female, depth says male (copies: X 1.00, Y not called)"),
        (30.0, 0.6, "male", "declared male, depth says female (copies: X 2.00, Y 0.04)"),
        (30.0, 14.0, "male", "declared male, depth says XXY (copies: X 2.00, Y 0.93)"),
        (15.0, 0.3, "unknown", "declared unknown, depth says X0 (copies: X 1.00, Y 0.02)"),
        (22.5, 14.0, "male", "declared male, depth says unclear (copies: X 1.50, Y 0.93)"),
    ],
)
def test_depth_of_x_and_y_that_contradicts_what_was_declared_is_flagged(x: float, y: float | None, sex: str, text: str):
    assert Flag("sex", text) in sexed(x, y, sex).flags


def test_depth_in_par_says_nothing_of_sex():
    # Given a female declared male whose Y is deep only in PAR, as aligners without a masked Y leave it
    y = gvcf("chrY:1-9", 15)
    y["contigs"]["chrY"] |= {"par_depth_sum": 15 * 90_000, "par_bases": 90_000}
    y["contigs"]["chrY"]["depth_sum"] = 15 * 90_000
    one = judged(
        nest("A", 0, gvcf("chr1:1-9", 30)),
        nest("A", 1, gvcf("chrX:1-9", 30)),
        nest("A", 2, y),
        nest("A", 3, sex="male"),
    )
    assert (one.y_copies, one.depth_says) == (0.0, "female")


def test_a_few_bases_of_x_or_few_reads_say_nothing_of_sex():
    few = judged(nest("A", 0, gvcf("chr1:1-9", 30), gvcf("chrX:1-9", 15, bases=4_000), sex="female"))
    assert (few.x_copies, few.depth_says) == (None, "")
    shallow = judged(nest("A", 0, gvcf("chr1:1-9", 4), gvcf("chrX:1-9", 2), sex="female"))
    assert (shallow.depth_says, [one.name for one in shallow.flags]) == ("", ["mean_depth"])


def test_a_mans_single_x_does_not_make_his_depth_look_low():
    one = judged(nest("A", 0, gvcf("chr1:1-9", 24)), nest("A", 1, gvcf("chrX:1-9", 12, bases=900_000)))
    assert (one.mean_depth, one.flags) == (24.0, ())


def test_nothing_called_on_x_and_y_says_nothing():
    assert sex_by_depth(None, None) == ""


# --------------------------------------------------------------------------------------------------- targets, loci


def test_interval_lists_are_judged_by_the_bounds_of_targets():
    counts = {"snv": 600, "ts": 450, "tv": 150}
    one = judged(nest("A", 0, gvcf("@targets/0000.bed", 90, **counts) | {"contigs": gvcf("chr1:1-9", 90)["contigs"]}))
    assert (one.titv, one.flags) == (3.0, ())
    assert {flag.name for flag in judged(nest("A", 0, gvcf("chr1:1-9", 90, **counts))).flags} == {"mean_depth", "titv"}
    assert judged(nest("A", 0, gvcf("chr1:1-9", 90, **counts)), bounds=TARGETS).flags == ()
    assert GENOME != TARGETS


def test_a_locus_is_compared_with_its_samples_own_depth():
    # Given samples at 20x and 40x; in the second the second locus has half of that
    fold = folded(
        nest("A", 0, gvcf("chr1:1-9", 20)),
        nest("A", 1, gvcf("chr2:1-9", 20, variants=3)),
        nest("B", 0, gvcf("chr1:1-9", 60)),
        nest("B", 1, gvcf("chr2:1-9", 20, share=0.7, variants=4)),
    )
    one, two = fold.loci()
    assert (one.locus, one.samples, one.mean_depth, one.relative_depth) == ("chr1:1-9", 2, 40.0, 1.25)
    assert (two.relative_depth, two.lowest_relative_depth, two.variants) == (0.75, 0.5, 7)
    assert (two.lowest_callable, two.lowest_sample) == (0.7, "B")
    assert fold.relative_depths() == (["chr1", "chr2"], {"A": [1.0, 1.0], "B": [1.5, 0.5]})


def test_rows_of_other_scripts_pass_without_a_trace():
    other = Result(item_id="A", task_id="t", nest=0, value="5", item_state=State.DONE, status="done")
    fold = folded(other, other.model_copy(update={"figures": {"gvcfs": "two", "sample": "A"}}))
    assert (fold.samples(), fold.loci()) == ([], [])


def test_figures_of_before_the_sums_by_contig_count_by_their_loci():
    loci = [
        {"locus": "chr1:1-300", "bases": 300, "mean_depth": 30.0, "callable_fraction": 1.0},
        {"locus": "chr1:301-400", "bases": 100, "mean_depth": 10.0, "callable_fraction": 0.6},
    ]
    one = judged(nest("A", 0, {"value": "chr1:1-400", "bases": 400, "loci": loci}))
    assert (one.mean_depth, one.callable_fraction) == (25.0, 0.9)


def cohort(samples: int, loci: int) -> Iterator[Result]:
    for number in range(samples):
        for locus in range(loci):
            yield nest(f"S{number:05}", locus, gvcf(f"chr{locus % 24}:{locus}-9", 30.0, snv=100))


@pytest.mark.parametrize("loci", [20, 200])
def test_memory_depends_on_samples_and_loci_not_on_their_product(loci: int):
    rows = cohort(100, loci)
    fold = folded(*(next(rows) for _ in range(loci)))
    tracemalloc.start()
    for row in rows:
        fold.take(row)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(fold.samples()) == 100
    assert kept < 100 * 4_000 + 200_000
