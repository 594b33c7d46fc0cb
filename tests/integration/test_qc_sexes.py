"""Sex by depth, from reads: simulated people on GRCh38's X and Y go through the task script into the quality fold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from genomics_support import run_task

from pyanamo_core.genomics.genomes import genome
from pyanamo_core.genomics.simulate import Contig, simulate_cohort
from pyanamo_core.model import State
from pyanamo_core.report.qc import QcFold, SampleQc
from pyanamo_core.report.results import Result

HG = genome("GRCh38")
BORDER = 2_781_479  # the last base of PAR1
WINDOWS = {"chr20": (1, 12_000), "chrX": (BORDER - 5_999, BORDER + 10_000), "chrY": (6_000_001, 6_008_000)}
VALUE = ",".join(
    ["chr20:1-12000", f"chrX:{BORDER - 5_999}-{BORDER}", f"chrX:{BORDER + 1}-{BORDER + 10_000}", "chrY:6000001-6008000"]
)
SEXES = {"OTTO": "male", "ANNA": "female"}
DECLARED = (("OTTO", "male"), ("OTTO", "female"), ("OTTO", "unknown"), ("ANNA", "female"), ("ANNA", "male"))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], SampleQc]:
    """(sample, declared sex) → what its nest's figures say."""
    folder = tmp_path_factory.mktemp("sexes")
    lengths = {"chr20": 12_000, "chrX": HG.lengths["chrX"], "chrY": HG.lengths["chrY"]}
    contigs = [Contig(c, lengths[c], window, gap=False) for c, window in WINDOWS.items()]
    cohort = simulate_cohort(folder / "cohort", seed=5, contigs=contigs, samples=list(SEXES), sexes=SEXES)

    def call(which: tuple[str, str]) -> SampleQc:
        sample, sex = which
        place = folder / f"{sample}-{sex}"
        place.mkdir()
        reads = cohort.reads[sample]
        done = run_task(
            reads, VALUE, cohort.reference, place / "out", place / "w", options=("--sex", sex), HC_CALLER="bcftools"
        )
        assert done.code == 0, done.stderr
        fold = QcFold()
        row = Result(item_id=sample, task_id="t", nest=0, value=VALUE, item_state=State.DONE, status="done")
        fold.take(row.model_copy(update={"figures": done.result["figures"]}))
        (one,) = fold.samples()
        return one

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(DECLARED, pool.map(call, DECLARED), strict=True))


@pytest.mark.parametrize("which", [("OTTO", "male"), ("OTTO", "unknown"), ("ANNA", "female")])
def test_depth_agrees_with_a_sex_that_was_declared_rightly_or_not_at_all(judged, which: tuple[str, str]):
    one = judged[which]
    assert (one.sex, one.depth_says) == (which[1], SEXES[which[0]])
    assert [flag for flag in one.flags if flag.name == "sex"] == []
    assert one.x_copies == pytest.approx(1 if which[0] == "OTTO" else 2, abs=0.2)


@pytest.mark.parametrize("which", [("OTTO", "female"), ("ANNA", "male")])
def test_depth_contradicts_a_sex_that_was_declared_wrongly(judged, which: tuple[str, str]):
    one = judged[which]
    assert [flag.name for flag in one.flags if flag.name == "sex"] == ["sex"]
    assert one.depth_says == SEXES[which[0]]


def test_the_y_of_one_declared_female_is_not_called_and_says_nothing(judged):
    assert judged["OTTO", "female"].y_copies is None
    assert judged["ANNA", "male"].y_copies == pytest.approx(0, abs=0.05)


def test_a_mans_haploid_calls_are_counted_apart(judged):
    assert judged["OTTO", "male"].haploid > 0
    assert judged["ANNA", "female"].haploid == 0
