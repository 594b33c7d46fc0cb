"""Real reads from a bucket through sheet, ledger and pilots to gathered gVCFs and a joint VCF."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pysam
import pytest
from driver_support import Place, recorded_once
from genomics_support import DATA

from pyanamo.cohort import recorded_nests
from pyanamo_core import driver
from pyanamo_core.cost.items import Pricing, item_costs
from pyanamo_core.cost.prices import price_list
from pyanamo_core.genomics.cohort import gather
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.joint import joint
from pyanamo_core.ledger import Ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.workflow import InputBucket, Reference

SCRIPT = "${PIPELINE}/HaplotypeCaller-1KG.sh"


@pytest.fixture(scope="module", autouse=True)
def gatk() -> None:
    """GATK's jars and AOT cache: fetched once per machine."""
    prepare()


@pytest.fixture
def place(misbehaving_cloud: LocalCloud, unique_name: str, tmp_path: Path) -> Place:
    return Place(misbehaving_cloud, unique_name, tmp_path)


def run(place: Place, reference: Path, reads: list[Path], lines: list[str], **parameters: str) -> Ledger:
    """Put reads and reference into the bucket, run the sheet with one pilot, and give the ledger of what was done."""
    s3 = place.clients.client("s3")
    for path in (reference, *reads):
        s3.upload_file(str(path), place.name, f"input/{path.name}")
    told: dict[str, Any] = {
        "references": (Reference(name="ref", uri=f"s3://{place.name}/input/{reference.name}"),),
        "verify": "pyanamo_core.genomics.gvcf:verify_outputs",
        "parameters": parameters,
        "memory_mb": 3000,
    }
    workflow = place.workflow(pilots=1, nests=2, **told)
    workflow = workflow.model_copy(
        update={"buckets": workflow.buckets.model_copy(update={"inputs": (InputBucket(bucket=place.name),)})}
    )
    outcome = driver.run(place.clients, workflow, sheet=place.sheet(lines))
    assert outcome.outcome == "completed"
    ledger = Ledger(place.clients, workflow.table_name, rules=workflow.rules)
    recorded_once(ledger)
    return ledger


def test_na12878_goes_from_a_bucket_through_pilots_to_a_vcf_with_all_of_giabs_sites(
    place: Place, tmp_path: Path
) -> None:
    # Given NA12878's reads, whose SM is 1, in a bucket; and a sheet with five loci
    bam = DATA / "na12878-chr22" / "NA12878.chr22.tiny.bam"
    loci = ",".join(f"q:{a}-{b - 1}" for a, b in pairwise([1, 2500, 5000, 7500, 10_000, 12_357]))
    line = f"NA12878|HC|{SCRIPT} NA12878:1=s3://{place.name}/input/{bam.name}|{loci}"
    # When pilots have run it, and it is gathered and called
    ledger = run(place, DATA / "na12878-chr22" / "q.fa", [bam, Path(f"{bam}.bai")], [line])
    nests, expected = recorded_nests(ledger, ledger.item("NA12878"), place.clients, partial=False)
    for name in ("gathering", "joining"):
        (tmp_path / name).mkdir()
    made = gather(nests, str(tmp_path / "out"), tmp_path / "gathering", expected=expected, clients=place.clients)
    pysam.dict("-u", "q.fa", "-o", str(tmp_path / "q.dict"), str(DATA / "na12878-chr22" / "q.fa"))
    for suffix in ("", ".fai"):
        (tmp_path / f"q.fa{suffix}").symlink_to(DATA / "na12878-chr22" / f"q.fa{suffix}")
    vcf = joint([made.gvcf.uri], tmp_path / "q.fa", str(tmp_path / "out"), tmp_path / "joining").vcf.uri
    # Then its pilot knows what its tasks asked of S3: four objects put by each nest, its reads fetched as ranges
    (pilot,) = ledger.pilots()
    assert 5 * 4 <= pilot.spent.s3_writes <= 5 * 4 + 2
    assert 5 * 4 <= pilot.spent.s3_reads <= 5 * 16 + 10
    # And what it cost is the time of its slots
    (item,) = item_costs(ledger, Pricing(price_list(), time.time()))
    assert (item.sample, item.attempts, item.estimated, item.lost_vcpu_seconds) == ("NA12878", 1, False, 0)
    assert item.vcpu_seconds == pytest.approx(pilot.spent.slot_seconds["done"] / 2 * pilot.vcpus, rel=0.01)
    # Then all 14 sites of GIAB are among its 18
    with pysam.VariantFile(vcf) as found, pysam.VariantFile(str(bam).replace(".bam", ".giab.vcf")) as giab:
        sites = {(r.pos, r.ref, alt) for r in found for alt in r.alts or ()}
        truth = {(r.pos, r.ref, alt) for r in giab for alt in r.alts or ()}
    assert (len(truth), truth <= sites) == (14, True)
    assert len({position for position, _, _ in sites}) == 18


def test_three_samples_of_1000_genomes_go_through_pilots_and_each_has_calls(place: Place) -> None:
    # Given three CRAMs whose headers hold the M5 of another version of the reference, which the workflow declares
    crams = [DATA / "1kg-chr17" / f"mpileup.{number}.cram" for number in (1, 2, 3)]
    indexes = [Path(f"{cram}.crai") for cram in crams]
    lines = [f"{cram.stem}|HC|{SCRIPT} s3://{place.name}/input/{cram.name}|17:1-4200" for cram in crams]
    # When they are run
    ledger = run(place, DATA / "1kg-chr17" / "mpileup.ref.fa", crams + indexes, lines, HC_REFERENCE_CHECK="length")
    # Then each sample, named by its SM, has calls
    figures = [ledger.nests(item)[0].figures for item in ledger.items()]
    assert {f["sample"]: f["variants"] for f in figures} == {"HG00100": 9, "HG00101": 6, "HG00102": 10}
    # And what it cost is told by that name
    costs = {one.item_id: one.sample for one in item_costs(ledger, Pricing(price_list(), time.time()))}
    assert costs == {"mpileup.1": "HG00100", "mpileup.2": "HG00101", "mpileup.3": "HG00102"}
