"""What gather and joint take from the ledger: done nests of the present epoch, and nothing that is out of date."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyanamo.cohort import (
    CopyDiffers,
    GatheredOutdated,
    ItemNotDone,
    NotGathered,
    SampleTwice,
    bring,
    gathered_gvcfs,
    recorded_nests,
    refuse_same_sample,
)
from pyanamo_core.genomics import cohort
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Definition, Nest, NestStatus, Output

LOCI = ("demo1:1-6000", "demo1:6001-12000")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return simulate_cohort(
        tmp_path_factory.mktemp("cohort"), depth=12, contigs=(("demo1", 12_000),), samples=("DEMO0001", "DEMO0002")
    )


@pytest.fixture(scope="module")
def called(simulated: Cohort, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, dict]]:
    """Sample and nest to what the task script reported, each called once."""
    folder = tmp_path_factory.mktemp("called")
    found: dict[str, dict[int, dict]] = {}
    for sample in simulated.samples:
        for number, locus in enumerate(LOCI):
            told = folder / f"{sample}.{number}.json"
            environment = os.environ | {
                "ref": str(simulated.reference),
                "READS": str(simulated.folder),
                "HC_CALLER": "bcftools",
                "PYANAMO_OUTPUT": str(folder / sample / str(number)),
                "PYANAMO_RESULT": str(told),
            }
            command = [sys.executable, "-m", "pyanamo_core.genomics.task", sample, locus]
            subprocess.run(command, env=environment, check=True, capture_output=True)
            found.setdefault(sample, {})[number] = json.loads(told.read_text())
    return found


@pytest.fixture
def ledger(called: dict[str, dict[int, dict]]) -> MemoryLedger:
    """Both samples done."""
    made = MemoryLedger()
    for sample, nests in called.items():
        made.import_item(sample, "HC", Definition(script="HaplotypeCaller-1KG.sh X", arguments=LOCI))
        work(made, sample, nests)
    return made


def work(ledger: MemoryLedger, item_id: str, nests: dict[int, dict], *, finish: bool = True) -> None:
    claim = ledger.claim(item_id, "p1")
    assert claim is not None
    for number, told in nests.items():
        ledger.record_nest(
            claim,
            Nest(
                item_id=item_id,
                epoch=claim.epoch,
                index=number,
                status=NestStatus.DONE,
                fence=claim.fence,
                outputs=tuple(Output(uri=o["uri"], bytes=o["bytes"], sha256=o["sha256"]) for o in told["outputs"]),
                figures=told["figures"],
                token=f"{item_id}{number}{claim.fence}",
            ),
        )
    if finish:
        ledger.finish(claim, nests_done=claim.item.nests)
    else:
        ledger.hand_back(claim, Cause.DRAINED, progressed=True, started=True, counts=False, nests_done=len(nests))


def gather(ledger: MemoryLedger, item_id: str, where: Path, work_folder: Path, *, partial: bool = False):
    nests, values = recorded_nests(ledger, ledger.item(item_id), None, partial=partial)
    work_folder.mkdir()
    return cohort.gather(nests, str(where), work_folder, expected=values, partial=partial)


def test_gathered_gvcfs_are_found_by_sample_in_the_order_asked_for(ledger: MemoryLedger, tmp_path: Path):
    for sample in ("DEMO0001", "DEMO0002"):
        gather(ledger, sample, tmp_path / "gvcf", tmp_path / sample)
    where = str(tmp_path / "gvcf")
    assert gathered_gvcfs(ledger, None, where) == [f"{where}/DEMO0001.g.vcf.gz", f"{where}/DEMO0002.g.vcf.gz"]
    assert gathered_gvcfs(ledger, None, where, ["DEMO0002"]) == [f"{where}/DEMO0002.g.vcf.gz"]
    with pytest.raises(NotGathered, match="DEMO0009"):
        gathered_gvcfs(ledger, None, where, ["DEMO0009"])


def test_what_was_gathered_before_a_redo_a_reset_or_an_extension_is_refused(
    ledger: MemoryLedger, called: dict[str, dict[int, dict]], tmp_path: Path
):
    gather(ledger, "DEMO0001", tmp_path / "gvcf", tmp_path / "work")
    where = str(tmp_path / "gvcf")
    # When a nest is done again, the gathered file is of another attempt
    ledger.redo(ledger.item("DEMO0001"), [1])
    with pytest.raises(GatheredOutdated, match="nest 1 of item DEMO0001"):
        gathered_gvcfs(ledger, None, where)
    work(ledger, "DEMO0001", {1: called["DEMO0001"][1]})
    with pytest.raises(GatheredOutdated, match="nest 1 of item DEMO0001"):
        gathered_gvcfs(ledger, None, where)
    # When it is gathered again, it is taken
    gather(ledger, "DEMO0001", tmp_path / "gvcf", tmp_path / "again")
    assert len(gathered_gvcfs(ledger, None, where)) == 1
    # And a reset makes all of it void
    ledger.reset(ledger.item("DEMO0001"))
    with pytest.raises(GatheredOutdated):
        gathered_gvcfs(ledger, None, where)


def test_an_item_that_is_not_done_is_gathered_only_when_asked_and_what_it_lacks_is_recorded(
    ledger: MemoryLedger, called: dict[str, dict[int, dict]], tmp_path: Path
):
    ledger.reset(ledger.item("DEMO0002"))
    work(ledger, "DEMO0002", {0: called["DEMO0002"][0]}, finish=False)
    with pytest.raises(ItemNotDone, match="1 of 2 nests"):
        recorded_nests(ledger, ledger.item("DEMO0002"), None, partial=False)
    made = gather(ledger, "DEMO0002", tmp_path / "gvcf", tmp_path / "work", partial=True)
    assert made.missing == [LOCI[1]]


def test_two_items_of_one_sample_are_refused_before_anything_is_written(
    ledger: MemoryLedger, called: dict[str, dict[int, dict]]
):
    ledger.import_item("again", "HC", Definition(script="HaplotypeCaller-1KG.sh Y", arguments=LOCI))
    work(ledger, "again", called["DEMO0001"])
    with pytest.raises(SampleTwice, match="DEMO0001"):
        refuse_same_sample(ledger, list(ledger.items()), None)


def test_a_copy_that_is_not_what_was_put_is_not_kept(ledger: MemoryLedger, tmp_path: Path):
    made = gather(ledger, "DEMO0001", tmp_path / "gvcf", tmp_path / "work")
    assert [one.name for one in bring(Inputs(), made.outputs, tmp_path / "copy")] == [
        "DEMO0001.g.vcf.gz",
        "DEMO0001.g.vcf.gz.tbi",
        "DEMO0001.manifest.json",
    ]
    (tmp_path / "gvcf" / "DEMO0001.g.vcf.gz").write_bytes(b"other")
    with pytest.raises(CopyDiffers):
        bring(Inputs(), made.outputs, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []
