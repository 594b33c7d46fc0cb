"""The figures of docs/cohort.md that follow from the plan or the code are what plan and code say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyanamo_core.genomics.genomes import genome
from pyanamo_core.genomics.planning import plan_loci
from pyanamo_core.genomics.regions import default_bases
from pyanamo_core.report.qc import GENOME, NO_Y, ONE_X, SOME_Y, TARGETS, TWO_X

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cohort.md").read_text()
SAMPLES = 3202


def row(begins: str) -> list[str]:
    """The cells of a row of the page's tables."""
    line = next(line for line in PAGE.splitlines() if line.startswith(f"| {begins}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def plan() -> tuple[int, int]:
    """Loci and bases of GRCh38 in pieces of 5 Mb."""
    known = genome("GRCh38")
    loci = plan_loci(known.dictionary, gaps=known.gaps, borders=known.borders, target_bases=5_000_000)
    return len(loci), sum(one.bases for one in loci)


def test_the_number_of_loci_is_the_plans(plan: tuple[int, int]):
    loci, bases = plan
    cells = row("loci (nests)")
    assert cells[1:4] == [f"{loci:,}", f"{3 * loci:,}", f"{SAMPLES * loci / 1e6:.2f} million"]
    assert f"{bases / 1e9:.2f} Gb" in cells[4]


def test_the_number_of_regions_is_the_plans(plan: tuple[int, int]):
    bases = default_bases(SAMPLES)
    cells = row("regions of the joint call")
    assert f"{bases // 1000} kb" in cells[4]
    assert float(cells[3].replace(",", "")) == pytest.approx(plan[1] / bases, rel=0.02)
    assert float(cells[2]) == pytest.approx(plan[1] / default_bases(3), rel=0.02)


def test_dollars_follow_from_bytes_and_calls(plan: tuple[int, int]):
    gigabytes = 2 * 1.22 * plan[1] / 1e9
    assert row("… both, a month in S3")[1:4] == [f"${gigabytes * 0.023:.2f}", "$0.50", "$530"]
    assert SAMPLES * gigabytes * 0.023 == pytest.approx(530, rel=0.02)
    nests = SAMPLES * plan[0]
    assert row("calls to S3 by nests")[3] == f"${nests * (4 * 5 + 12 * 0.4) / 1e6:.0f}"
    assert row("ledger, write units")[3] == "10.1 million: $6.30"
    assert nests * 3 / 1e6 * 0.625 == pytest.approx(6.3, rel=0.02)
    assert nests * 3 / 1e6 == pytest.approx(10.1, rel=0.02)


def test_the_bounds_on_the_page_are_those_in_force():
    for name in ("mean_depth", "titv", "het_hom"):
        low, high = getattr(GENOME, name)
        assert row(f"`{name}`")[1].startswith(f"outside {low:g}–{high:g}")
    assert row("`callable_fraction`")[1] == f"below {GENOME.callable_fraction[0]:g}"
    sex = row("`sex`")[2]
    assert (
        f"X {ONE_X[0]:g}–{ONE_X[1]:g} is one, {TWO_X[0]:g}–{TWO_X[1]:g} two; Y up to {NO_Y:g} none, from {SOME_Y:g} on"
        in sex
    )
    depth, titv = TARGETS.mean_depth, TARGETS.titv
    assert f"(Ti/Tv {titv[0]:g}–{titv[1]:g}, depth {depth[0]:g}–{depth[1]:g})" in PAGE
