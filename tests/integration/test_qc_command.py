"""`results qc` as it is typed, on a table in the local cloud: figures, flags, files for MultiQC, bcftools stats."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyanamo_core.genomics.stats import summary
from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.model import Definition, Nest, NestStatus, Output
from pyanamo_core.workflow import Buckets, Workflow

BUCKET = "qc-results"
VCF = """##fileformat=VCFv4.2
##contig=<ID=chr1,length=1000>
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tANNA\tOTTO
chr1\t10\t.\tA\tG\t50\tPASS\t.\tGT\t0/1\t1/1
chr1\t20\t.\tC\tT\t50\tPASS\t.\tGT\t0/1\t0/0
chr1\t30\t.\tC\tCA\t50\tPASS\t.\tGT\t0/0\t0/1
"""


def figures(sample: str, sex: str, locus: str, depth: int, **counts: int) -> dict[str, Any]:
    sums = {"bases": 10_000, "depth_sum": depth * 10_000, "depth_bases": 10_000}
    sums |= {"block_bases": 10_000, "callable_bases": 9_800}
    gvcf = {"value": locus, "bases": 10_000, "bases_missing": 0, "contigs": {locus.partition(":")[0]: sums}, **counts}
    return {"sample": sample, "sex": sex, "gvcfs": [gvcf]}


@pytest.fixture(scope="module")
def table(cloud_clients, tmp_path_factory) -> str:
    """ANNA's figures are sound; OTTO, declared male, has two X."""
    name = f"qc-{tmp_path_factory.mktemp('name').name[-8:]}".replace("_", "-")
    cloud_clients.client("s3").create_bucket(Bucket=BUCKET)
    create_table(cloud_clients, name, deletion_protection=False, pitr=False)
    ledger = Ledger(cloud_clients, name)
    ledger.add_workflow(Workflow(name=name, queue="q", job_definition="d", buckets=Buckets(results=f"s3://{BUCKET}/x")))
    for sample, sex in (("ANNA", "female"), ("OTTO", "male")):
        loci = ("chr1:1-10000", "chrX:1-10000")
        ledger.import_item(sample, "t", Definition(script="s", arguments=loci))
        claim = ledger.claim(sample, "p1")
        assert claim is not None
        for index, locus in enumerate(loci):
            nest = Nest(
                item_id=sample,
                epoch=claim.epoch,
                index=index,
                status=NestStatus.DONE,
                fence=claim.fence,
                figures=figures(sample, sex, locus, 30, variants=7),
            )
            ledger.record_nest(claim, nest)
        ledger.finish(claim, nests_done=2)
    return name


@pytest.fixture
def pyanamo(table: str, cloud_environment, tmp_path: Path):
    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pyanamo", "results", "qc", *arguments, "--table", table]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


def test_samples_are_told_with_their_flags_and_what_to_look_at_next(pyanamo):
    done = pyanamo()
    anna, otto = done.stdout.splitlines()[1:3]
    assert "ANNA" in anna
    assert "declared male, depth says female (copies: X 2.00, Y not called)" in otto
    assert "2 samples, 1 with a flag" in done.stdout
    assert "next: pyanamo results list OTTO" in done.stderr


def test_json_and_a_table_hold_the_same_figures(pyanamo, tmp_path: Path):
    told = json.loads(pyanamo("--json", "--out", "qc.tsv").stdout)
    assert [(one["sample"], one["mean_depth"], one["variants"]) for one in told] == [
        ("ANNA", 30.0, 14),
        ("OTTO", 30.0, 14),
    ]
    with (tmp_path / "qc.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(one["sample"], one["flags"], one["x_copies"]) for one in rows] == [
        ("ANNA", "", "2.0"),
        ("OTTO", "sex", "2.0"),
    ]


def test_bounds_of_ones_own_and_flagged_samples_only(pyanamo):
    told = json.loads(pyanamo("--json", "--flagged", "--bound", "mean_depth=40..", "ANNA").stdout)
    assert [flag["text"] for one in told for flag in one["flags"]] == ["depth 30 is below 40"]


def test_multiqc_gets_its_files_and_the_statistics_of_vcfs_here_and_in_a_bucket(pyanamo, cloud_clients, tmp_path: Path):
    # Given a genotyped VCF on this machine, and another in a bucket
    (tmp_path / "cohort.vcf").write_text(VCF)
    cloud_clients.client("s3").put_object(Bucket=BUCKET, Key="joint/other.vcf", Body=VCF.encode())
    # When content for MultiQC is written, twice
    for _ in range(2):
        pyanamo("--multiqc", "qc", "--vcf", "cohort.vcf", "--vcf", f"s3://{BUCKET}/joint/other.vcf")
    # Then there is custom content for each view, and each VCF's statistics bear its name
    assert sorted(one.name for one in (tmp_path / "qc").iterdir()) == [
        "cohort.bcftools_stats.txt",
        "other.bcftools_stats.txt",
        "pyanamo_contigs_mqc.json",
        "pyanamo_loci_mqc.json",
        "pyanamo_samples_mqc.json",
        "pyanamo_sex_mqc.json",
    ]
    for name in ("cohort", "other"):
        path = tmp_path / "qc" / f"{name}.bcftools_stats.txt"
        found = summary(path)
        assert (found["samples"], found["records"], found["SNPs"], found["indels"]) == (2, 3, 2, 1)
        assert f"{name}.vcf" in path.read_text()
    told = json.loads((tmp_path / "qc" / "pyanamo_samples_mqc.json").read_text())
    assert told["data"]["OTTO"]["flags"] == "sex"
    assert told["data"]["ANNA"]["flags"] == "none"


def test_multiqc_gets_the_statistics_that_the_chain_has_made(pyanamo, table: str, cloud_clients, tmp_path: Path):
    # Given the last table of a cohort, whose VCF has been concatenated and counted
    body = b"# This file was produced by bcftools stats\nSN\t0\tnumber of records:\t3\n"
    cloud_clients.client("s3").put_object(Bucket=BUCKET, Key="joint/joint.stats.txt", Body=body)
    last = f"{table}-joint"
    create_table(cloud_clients, last, deletion_protection=False, pitr=False)
    ledger = Ledger(cloud_clients, last)
    ledger.add_workflow(Workflow(name=last, queue="q", job_definition="d", buckets=Buckets(results=f"s3://{BUCKET}/x")))
    ledger.import_item("cohort", "concat", Definition(script="s"))
    claim = ledger.claim("cohort", "p1")
    assert claim is not None
    uri = f"s3://{BUCKET}/joint/joint.stats.txt"
    output = Output(uri=uri, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
    told = {"item_id": "cohort", "epoch": claim.epoch, "index": 0, "fence": claim.fence, "outputs": (output,)}
    ledger.record_nest(claim, Nest(status=NestStatus.DONE, **told))
    ledger.finish(claim, nests_done=1)
    # When content for MultiQC is written
    pyanamo("--multiqc", "qc")
    # Then the statistics stand there under the VCF's name
    assert (tmp_path / "qc" / "joint.bcftools_stats.txt").read_bytes() == body


def test_a_vcf_that_is_none_is_named_and_nothing_is_written(pyanamo, tmp_path: Path):
    (tmp_path / "junk.vcf").write_text("no VCF\n")
    done = pyanamo("--multiqc", "qc", "--out", "qc.tsv", "--vcf", "junk.vcf", code=3)
    assert "junk.vcf cannot be read as a VCF" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["junk.vcf"]
