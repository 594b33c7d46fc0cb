"""The whole chain with the second caller on the local cloud: reads in a bucket, tables, plans, a VCF; and a cohort that grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pysam
import pytest
from driver_support import Place, recorded_once

from pyanamo.cohort import gathered_here
from pyanamo_core.chain import AwsTables, Chain, Look, StepState, plainly
from pyanamo_core.chain.cohort import cohort_steps, cohort_vcf, tables_of
from pyanamo_core.chain.report import report_uri
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort
from pyanamo_core.ledger import open_ledger
from pyanamo_core.local import LocalCloud
from pyanamo_core.sheet import read_sheet
from pyanamo_core.workflow import Buckets, CohortSection, InputBucket, JointTable, Reference, Workflow

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SAMPLES = ("DEMO0001", "DEMO0002")
LOCI = "demo1:1-6000,demo1:6001-12000"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return simulate_cohort(tmp_path_factory.mktemp("reads"), depth=12, contigs=(("demo1", 12_000),), samples=SAMPLES)


class Bench:
    """A bucket with reads, and cohorts made of it; pilots are `pyanamo pilot`."""

    def __init__(self, cloud: LocalCloud, name: str, folder: Path, simulated: Cohort) -> None:
        self.place, self.name, self.folder, self.simulated = Place(cloud, name, folder), name, folder, simulated
        self.clients = self.place.clients
        for path in sorted(simulated.folder.iterdir()):
            if path.is_file():
                self.clients.client("s3").upload_file(str(path), name, f"input/{path.name}")

    def workflow(self, table: str) -> Workflow:
        told: dict[str, Any] = {
            "buckets": Buckets(results=f"s3://{self.name}/results", inputs=(InputBucket(bucket=self.name),)),
            "references": (Reference(name="ref", uri=f"s3://{self.name}/input/{self.simulated.reference.name}"),),
            "verify": "pyanamo_core.genomics.gvcf:verify_outputs",
            "parameters": {"HC_CALLER": "bcftools"},
            "cohort": CohortSection(joint=JointTable(region_bases=6000)),
            "name": table,
        }
        return self.place.workflow(pilots=1, nests=2).model_copy(update=told)

    def chain(self, table: str, *samples: str, **how: Any) -> Chain:
        script = "${PIPELINE}/HaplotypeCaller-1KG.sh"
        rows = [f"{s}|HC|{script} s3://{self.name}/input/{self.simulated.reads[s].name}|{LOCI}\n" for s in samples]
        path = self.folder / f"{table}.txt"
        path.write_text("itemID|TaskID|TaskScript|TaskArgs\n" + "".join(rows))
        sheet = read_sheet(path) if samples else None
        return Chain(cohort_steps(self.clients, self.workflow(table), sheet=sheet, **how), AwsTables(self.clients))

    def run(self, table: str, *samples: str, **how: Any) -> list[Look]:
        return self.chain(table, *samples, **how).run(plainly(self.clients))

    def objects(self) -> set[str]:
        pages = self.clients.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix="results/")
        return {one["Key"] for page in pages for one in page.get("Contents", ())}

    def samples(self, table: str) -> list[str]:
        """Those of the cohort's VCF."""
        uri = cohort_vcf(open_ledger(self.clients, tables_of(table)["concat"])[0])
        path = self.folder / f"{table}.vcf.gz"
        self.clients.client("s3").download_file(self.name, uri.partition(f"{self.name}/")[2], str(path))
        with pysam.VariantFile(str(path)) as found:
            assert sum(1 for _ in found) > 0
            return list(found.header.samples)


@pytest.fixture
def bench(local_cloud: LocalCloud, unique_name: str, tmp_path: Path, simulated: Cohort) -> Bench:
    return Bench(local_cloud, unique_name, tmp_path, simulated)


def test_a_cohort_goes_from_reads_to_a_vcf_and_is_called_jointly_with_an_earlier_one(bench: Bench):
    first, second = f"{bench.name}-1", f"{bench.name}-2"
    # Given a cohort of one sample
    assert {look.state for look in bench.run(first, SAMPLES[0])} == {StepState.DONE}
    assert bench.samples(first) == [SAMPLES[0]]
    assert report_uri(bench.workflow(first)).partition(f"{bench.name}/")[2] in bench.objects()
    for table in tables_of(first).values():
        recorded_once(open_ledger(bench.clients, table)[0])
    # When another one is planned with it, then nothing is written
    before = bench.objects()
    looks = bench.chain(second, SAMPLES[1], also=[first]).look()
    assert [look.state for look in looks] == [StepState.TODO] + [StepState.WAITS] * 4
    assert bench.objects() == before
    # When it is run, then its VCF has both samples, and the first one's tables are as they were
    standing = {table: list(open_ledger(bench.clients, table)[0].items()) for table in tables_of(first).values()}
    assert {look.state for look in bench.run(second, SAMPLES[1], also=[first])} == {StepState.DONE}
    assert bench.samples(second) == list(SAMPLES)
    assert standing == {
        table: list(open_ledger(bench.clients, table)[0].items()) for table in tables_of(first).values()
    }
    # And without the earlier one its regions would be called again, which a look says and does not do
    before = bench.objects()
    joint = bench.chain(second).look()[2]
    assert (joint.state, joint.changed, joint.done) == (StepState.TODO, 2, 0)
    assert bench.objects() == before
    # And commands that need gathered gVCFs find what the chain gathered, each only once
    ledger = open_ledger(bench.clients, second)[0]
    (found,) = gathered_here(ledger, bench.clients, f"s3://{bench.name}/results/{second}/results/gvcf")
    assert found.startswith(f"s3://{bench.name}/results/{second}-gather/work/")
    assert found.endswith(f"/{SAMPLES[1]}.g.vcf.gz")
