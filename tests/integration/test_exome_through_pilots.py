"""Targets from a BED file through `loci plan`, a sheet and pilots to gathered gVCFs: lists in a folder of nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from driver_support import Place, recorded_once

from pyanamo.cohort import recorded_nests
from pyanamo_core import driver
from pyanamo_core.genomics.cohort import gather
from pyanamo_core.genomics.gvcf import check
from pyanamo_core.genomics.intervals import read_dictionary, read_targets
from pyanamo_core.genomics.simulate import simulate_cohort
from pyanamo_core.ledger import Ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.revision import RevisionChanged
from pyanamo_core.scripts import hash_scripts
from pyanamo_core.sheet import read_sheet
from pyanamo_core.workflow import InputBucket, Reference, Workflow


@pytest.fixture
def place(misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path) -> Place:
    return Place(misbehaving_cloud, unique_name, tmp_path)


def pyanamo(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pyanamo", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def workflow_of(place: Place, reference: Path, scripts: Path) -> Workflow:
    made = place.workflow(
        pilots=1,
        nests=2,
        references=(Reference(name="ref", uri=f"s3://{place.name}/input/{reference.name}"),),
        verify="pyanamo_core.genomics.gvcf:verify_outputs",
        parameters={"HC_CALLER": "bcftools", "HC_PADDING": "300"},
        scripts=str(scripts),
        scripts_sha256=hash_scripts(scripts),
    )
    inputs = made.buckets.model_copy(update={"inputs": (InputBucket(bucket=place.name),)})
    return made.model_copy(update={"buckets": inputs})


def test_targets_become_nests_that_pilots_call_and_gather_takes(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given reads of two samples in a bucket, and targets of which one lies on no contig that is called
    contigs = (("chr1", 12_000), ("chr2", 9_000), ("chrUn_decoy", 3000))
    cohort = simulate_cohort(tmp_path / "data", depth=12, contigs=contigs, samples=["T1", "T2"])
    s3 = place.clients.client("s3")
    for path in (cohort.reference, *(Path(f"{x}{end}") for x in cohort.reads.values() for end in ("", ".crai"))):
        s3.upload_file(str(path), place.name, f"input/{path.name}")
    starts = range(1000, 8000, 500)
    lines = [f"{c}\t{at}\t{at + 120}\n" for c in ("chr2", "chr1") for at in starts]
    (tmp_path / "t.bed").write_text("".join([*lines, "chrUn_decoy\t500\t900\n"]))
    # When they are planned and made into a sheet, as a person types it
    reference = str(cohort.reference)
    pyanamo(
        tmp_path, "loci", "plan", reference, "--bed", "t.bed", "--size", "5000", "--padding", "300", "-o", "loci.tsv"
    )
    samples = "".join(f"{s}\ts3://{place.name}/input/{x.name}\n" for s, x in cohort.reads.items())
    (tmp_path / "samples.tsv").write_text("sample\treads\n" + samples)
    script = "HaplotypeCaller-1KG.sh {reads}"
    pyanamo(tmp_path, "sheet", "make", "--items", "samples.tsv", "--script", script, "--loci", "loci.tsv")
    # And run by a pilot, whose task scripts are a folder that holds the lists and nothing else
    scripts = tmp_path / "scripts"
    assert sorted(x.name for x in scripts.iterdir()) == ["targets", "targets.txt"]
    workflow = workflow_of(place, cohort.reference, scripts)
    outcome = driver.run(place.clients, workflow, sheet=read_sheet(tmp_path / "sheet.txt"))
    assert outcome.outcome == "completed"
    ledger = Ledger(place.clients, workflow.table_name, rules=workflow.rules)
    recorded_once(ledger)
    # Then each sample's gathered gVCF covers the targets, and nothing else
    dictionary = read_dictionary(cohort.reference)
    targets = read_targets(tmp_path / "t.bed", dictionary, ["chr1", "chr2"])
    for sample in cohort.samples:
        nests, expected = recorded_nests(ledger, ledger.item(sample), place.clients, partial=False)
        assert len(nests) == 3
        work = tmp_path / f"gather-{sample}"
        work.mkdir()
        made = gather(nests, str(tmp_path / "out"), work, expected=expected, clients=place.clients)
        assert made.manifest["loci"] == [str(x) for x in targets]
        found = check(Path(made.gvcf.uri), targets, sample=sample, non_ref=False)
        assert found.bases_missing == 0
    # And lists of a time are planned from what these took, with the bases that were called
    for name, value in place.cloud.environment().items():
        monkeypatch.setenv(name, value)
    words = ("loci", "plan", reference, "--bed", "t.bed", "--padding", "300", "--json", "--learn", workflow.table_name)
    timed = json.loads(pyanamo(tmp_path, *words, "--time", "1h"))
    [whole, called] = (sum(x[name] for x in timed) for name in ("seconds", "called_bases"))
    assert (len(timed), called) == (1, 14_440)
    assert 0 < whole < 3600
    assert "--time" in pyanamo(tmp_path, *words, "--time", "0.001s", code=3)
    # And with the same targets planned again the revision is the same; with others it is refused, as they are done
    pyanamo(
        tmp_path, "loci", "plan", reference, "--bed", "t.bed", "--size", "5000", "--padding", "300", "-o", "again.tsv"
    )
    assert workflow_of(place, cohort.reference, scripts).revision == workflow.revision
    (tmp_path / "t.bed").write_text("".join(lines[:-1]))
    words = ("loci", "plan", reference, "--bed", "t.bed", "--size", "5000", "--padding", "300", "-o", "new.tsv")
    pyanamo(tmp_path, *words, "--force")
    with pytest.raises(RevisionChanged, match="--new-revision"):
        driver.provision(place.clients, workflow_of(place, cohort.reference, scripts))
