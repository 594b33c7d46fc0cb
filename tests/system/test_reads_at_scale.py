"""Twenty samples by 50 loci through real pilots with the second caller: what S3 is asked, by pilots and by the plans after them.

25 loci to a nest by default, which makes 40 nests; PYANAMO_TEST_NESTS=50 makes them 1,000 (a quarter of an hour).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from outage_support import running

from pyanamo_core.aws import Clients
from pyanamo_core.genomics.plans import gather_rows
from pyanamo_core.genomics.simulate import Cohort, Contig, simulate_cohort, upload_cohort
from pyanamo_core.importer import import_sheet
from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.local import LocalCloud
from pyanamo_core.sheet import read_sheet
from pyanamo_core.workflow import Workflow

SAMPLES, LOCI = 20, 50
NESTS = int(os.environ.get("PYANAMO_TEST_NESTS", "2"))
LOCUS_BASES = 400
PILOTS = 2

pytestmark = [pytest.mark.system, pytest.mark.timeout(6000)]


@dataclass
class Scale:
    """A cohort in a bucket, and a table for its calls."""

    folder: Path
    cloud: LocalCloud
    clients: Clients
    cohort: Cohort
    reads: str
    results: str
    ledger: Ledger
    told: list[str] = field(default_factory=list[str])

    def requests(self, bucket: str) -> list[dict[str, Any]]:
        """S3's requests for a bucket since the cloud was watched."""
        return [one for one in self.cloud.seen() if one["service"] == "s3" and one["path"].startswith(f"/{bucket}")]

    def pyanamo(self, *arguments: str) -> None:
        environ = {**os.environ, **self.cloud.environment()}
        command = [sys.executable, "-m", "pyanamo", *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def pilot(self) -> subprocess.Popen[bytes]:
        environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environ |= self.cloud.environment()
        environ |= {"PYANAMO_TABLE": self.ledger.table, "PYANAMO_SCRATCH": str(self.folder / "scratch")}
        environ |= {"PYANAMO_STAGING": str(self.folder / "staging")}
        with (self.folder / "pilots.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "pyanamo_core.pilot"], env=environ, stderr=log, stdout=log)


@pytest.fixture
def scale(misbehaving_cloud: LocalCloud, cloud_clients: Clients, unique_name: str, tmp_path: Path) -> Scale:
    names = [f"S{number:02d}" for number in range(SAMPLES)]
    contig = Contig("c", LOCI * LOCUS_BASES + 4000, gap=False)
    cohort = simulate_cohort(tmp_path / "cohort", contigs=[contig], samples=names, depth=10)
    reads, results = f"{unique_name}-reads", f"{unique_name}-results"
    s3 = cloud_clients.client("s3")
    for bucket in (reads, results):
        s3.create_bucket(Bucket=bucket)
    upload_cohort(cohort, s3, reads)
    create_table(cloud_clients, unique_name, deletion_protection=False, pitr=False)
    workflow = Workflow.model_validate(
        {
            "name": unique_name,
            "queue": "q",
            "job_definition": "d",
            "nests": 2,
            "memory_mb": 1024,
            "buckets": {"results": f"s3://{results}/prefix", "inputs": [{"bucket": reads, "access": "requester_pays"}]},
            "references": [{"name": "ref", "uri": str(cohort.reference)}],
            "parameters": {"HC_CALLER": "bcftools", "HC_PADDING": "200"},
            "verify": "pyanamo_core.genomics.gvcf:verify_outputs",
            "timing": {"sweep_seconds": 0.2, "start_jitter_seconds": 0, "lease_seconds": 60, "beat_seconds": 10},
        }
    )
    ledger = Ledger(cloud_clients, unique_name, rules=workflow.rules)
    ledger.add_workflow(workflow)
    return Scale(tmp_path, misbehaving_cloud, cloud_clients, cohort, reads, results, ledger)


def test_no_nest_lists_a_bucket_and_header_and_index_are_read_once_per_pilot_and_sample(scale: Scale) -> None:
    # Given a sheet of 20 samples, made of a bucket that wants its readers to pay
    cloud, nests = scale.cloud, SAMPLES * NESTS
    cloud.bucket_rule(scale.reads, "requester_pays")
    scale.pyanamo("samples", "list", f"s3://{scale.reads}", "--access", "requester_pays", "--out", "samples.tsv")
    first = 2000
    loci = [f"c:{first + n * LOCUS_BASES + 1}-{first + (n + 1) * LOCUS_BASES}" for n in range(LOCI)]
    share = LOCI // NESTS
    lines = [",".join(loci[at : at + share]) for at in range(0, LOCI, share)]
    (scale.folder / "loci.txt").write_text("\n".join(lines) + "\n")
    delimiter = ("--nested-delimiter", ";")
    scale.pyanamo("sheet", "make", "--samples", "samples.tsv", "--loci", "loci.txt", *delimiter)
    sheet = read_sheet(scale.folder / "sheet.txt", nested_delimiter=";")
    assert (sheet.nests, import_sheet(scale.ledger, sheet).created) == (nests, SAMPLES)
    # When pilots call all of it
    cloud.watch()
    pilots = [scale.pilot() for _ in range(PILOTS)]
    with running(*pilots):
        codes = [pilot.wait(6000) for pilot in pilots]
    log = (scale.folder / "pilots.log").read_text()
    assert codes == [0] * PILOTS, log[-3000:]
    assert (scale.ledger.counts().done, scale.ledger.counts().failed) == (SAMPLES, 0), log[-3000:]
    # Then the bucket of reads was asked for objects only, by who pays
    asked = scale.requests(scale.reads)
    assert {(one["operation"], one["payer"], one["presigned"]) for one in asked} == {("GetObject", "requester", False)}
    # And what all nests of a sample share was asked for once by each pilot that worked on it
    indexes = Counter(one["path"] for one in asked if one["path"].endswith(".crai"))
    assert len(indexes) == SAMPLES
    assert max(indexes.values()) <= PILOTS
    shared = sum(indexes.values())
    ranges = [one for one in asked if one["path"].endswith(".cram")]
    assert all(one["range"] for one in ranges)
    of_nests = [one for one in ranges if one["if_match"]]
    assert len(of_nests) == nests
    assert len(ranges) - len(of_nests) <= 4 * shared
    results = Counter(one["operation"] for one in scale.requests(scale.results))
    assert "ListObjectsV2" not in results
    # And no address with a signature, nor a key, is in any log
    logs = log + _objects_text(scale, ".log")
    assert "X-Amz-" not in logs
    assert "Signature" not in logs
    # When gather is planned
    cloud.watch()
    rows = gather_rows(scale.ledger, scale.clients, f"s3://{scale.results}/plans")
    looked_at = scale.requests(scale.results)
    planned = Counter(one["operation"] for one in looked_at)
    # Then that is one plan per sample, and of a nest nothing is read but what its row had no room for
    assert len(rows) == SAMPLES
    assert set(planned) <= {"PutObject", "HeadObject", "GetObject"}
    assert planned["PutObject"] == SAMPLES
    read = [one["path"] for one in looked_at if one["operation"] == "GetObject"]
    # once for what it recorded, and a sample's first nest once more for the sample's name
    assert len(read) <= len(set(read)) + SAMPLES
    assert max(Counter(read).values(), default=0) <= 2
    assert all(path.endswith("/overflow.json.gz") for path in read)
    per_nest = {name: round(count / nests, 2) for name, count in sorted(results.items())}
    print(
        f"\n{SAMPLES} samples x {LOCI} loci, {nests} nests, {PILOTS} pilots: bucket of reads {len(of_nests) / nests:.2f} GET a nest"
    )
    print(f"and {(len(asked) - len(of_nests)) / shared:.1f} once per pilot and sample ({shared}); bucket of results")
    print(f"a nest: {per_nest}; plans of gather: {dict(planned)}")


def _objects_text(scale: Scale, ending: str) -> str:
    """All objects of the results' bucket whose key ends so, as one text."""
    s3, found = scale.clients.client("s3"), list[str]()
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=scale.results):
        for entry in page.get("Contents", ()):
            if str(entry["Key"]).endswith((ending, ".json")):
                found.append(
                    s3.get_object(Bucket=scale.results, Key=entry["Key"])["Body"].read().decode(errors="replace")
                )
    assert found
    return "".join(found)
