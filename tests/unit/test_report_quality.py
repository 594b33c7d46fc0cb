"""The report shows the samples' quality: flagged ones first, copies of X and Y, loci to look at."""

from __future__ import annotations

from typing import Any

import pytest
from qc_support import gvcf, nest

from pyanamo_core.clock import FakeClock
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Definition, Nest, NestStatus
from pyanamo_core.report import collect, render
from pyanamo_core.report.qc import QcFold
from pyanamo_core.report.quality import picture, quality


def called(ledger: MemoryLedger, sample: str, sex: str, *gvcfs: dict[str, Any]) -> None:
    """An item that is done, with a nest for each gVCF."""
    ledger.import_item(sample, "t", Definition(script="s", arguments=tuple(str(one["value"]) for one in gvcfs)))
    claim = ledger.claim(sample, "p1")
    assert claim is not None
    for index, one in enumerate(gvcfs):
        figures = {"sample": sample, "sex": sex, "gvcfs": [one]}
        told = {
            "item_id": sample,
            "epoch": claim.epoch,
            "index": index,
            "fence": claim.fence,
            "token": f"{sample}{index}",
        }
        ledger.record_nest(claim, Nest(status=NestStatus.DONE, figures=figures, **told))
    ledger.finish(claim, nests_done=len(gvcfs))


@pytest.fixture
def ledger() -> MemoryLedger:
    """ANNA is sound, OTTO was declared male but has two X, EVA's chr2 is hardly callable."""
    made = MemoryLedger(clock=FakeClock())
    called(made, "ANNA", "female", gvcf("chr1:1-9", 30), gvcf("chr2:1-9", 31), gvcf("chrX:1-9", 30))
    called(made, "EVA", "female", gvcf("chr1:1-9", 30), gvcf("chr2:1-9", 12, share=0.4), gvcf("chrX:1-9", 21))
    called(
        made, "OTTO", "male", gvcf("chr1:1-9", 30), gvcf("chr2:1-9", 30), gvcf("chrX:1-9", 30), gvcf("chrY:1-9", 0.2)
    )
    return made


def test_flagged_samples_stand_first_with_why(ledger: MemoryLedger):
    data = collect(ledger)
    assert data.quality is not None
    assert [one.sample for one in data.quality.samples] == ["EVA", "OTTO", "ANNA"]
    assert (data.quality.total, data.quality.flagged) == (3, 2)
    page = render(data)
    assert "<b>2</b> of 3 samples have a figure out of its bounds" in page
    assert '<span class="flag grave">declared male, depth says female (copies: X 2.00, Y 0.01)</span>' in page
    assert '<span class="flag">callable 0.7 is below 0.9</span>' in page


def test_x_and_y_are_drawn_and_a_contradiction_is_ringed(ledger: MemoryLedger):
    page = render(collect(ledger))
    assert page.count("<circle") == 3
    assert page.count('class="c0 doubtful"') == 1
    assert "OTTO: declared male, X 2.00, Y 0.01" in page


def test_loci_below_the_bound_are_listed_the_worst_first(ledger: MemoryLedger):
    data = collect(ledger)
    assert data.quality is not None
    (one,) = data.quality.loci
    assert (one.locus, one.lowest_callable, one.lowest_sample) == ("chr2:1-9", 0.4, "EVA")
    assert "Loci to look at" in render(data)


def test_a_cohort_without_flags_sexes_or_x_says_so_and_draws_nothing():
    ledger = MemoryLedger(clock=FakeClock())
    called(ledger, "ANNA", "", gvcf("chr1:1-9", 30))
    page = render(collect(ledger))
    assert "All figures of 1 sample are within their bounds." in page
    assert "<circle" not in page
    assert "depth says" not in page


def test_what_was_not_called_has_no_section():
    assert 'id="quality"' not in render(collect(MemoryLedger()))


def test_a_cohort_too_big_for_the_page_shows_its_flagged_samples():
    fold = QcFold()
    for number in range(30):
        fold.take(nest(f"S{number:02}", 0, gvcf("chr1:1-9", 10 if number == 29 else 30)))
    shown = quality(fold, max_samples=10)
    assert shown is not None
    assert (shown.samples[0].sample, len(shown.samples), shown.samples_left_out) == ("S29", 10, 20)


def test_copies_beyond_the_axes_stand_at_the_edge():
    fold = QcFold()
    for number, depth in enumerate((30, 200)):
        fold.take(nest("A", number, gvcf(f"chr{'X' if number else '1'}:1-9", depth)))
    drawn = picture(fold.samples())
    assert drawn is not None
    assert drawn.points[0].x == drawn.right
