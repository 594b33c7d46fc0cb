"""Real reads through the whole chain by `pyanamo cohort run`: three samples of 1000 Genomes, and NA12878 against GIAB."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pysam
import pytest
from driver_support import Place, recorded_once
from genomics_support import DATA, copy_reference, run_task

from pyanamo_core.genomics.cohort import gather
from pyanamo_core.genomics.compare import call_differences
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.joint import joint
from pyanamo_core.ledger import open_ledger
from pyanamo_core.local import LocalCloud

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]
SCRIPT = "${PIPELINE}/HaplotypeCaller-1KG.sh"
WORKFLOW = """
name: {name}
queue: {name}
job_definition: {name}
pilots: 1
items: 1
nests: 2
memory_mb: 3072
timing: {{lease_seconds: 20, beat_seconds: 5, sweep_seconds: 0.5, poll_seconds: 1, start_jitter_seconds: 0}}
buckets:
  results: s3://{name}/results
  inputs:
    - bucket: {name}
references:
  - name: ref
    uri: s3://{name}/input/{reference}
verify: pyanamo_core.genomics.gvcf:verify_outputs
parameters:
  HC_REFERENCE_CHECK: length
cohort:
  gather: {{items: 1}}
  joint: {{items: 1, region_bases: {region_bases}}}
"""


@dataclass
class Lab:
    """A group with its reads in a bucket and a folder with workflow file and sheet."""

    cloud: LocalCloud
    name: str
    folder: Path

    def runs(
        self, reference: Path, reads: list[Path], lines: list[str], region_bases: int
    ) -> tuple[Path, dict[str, Any]]:
        """Run the chain; the cohort's VCF on this machine, and what the command said."""
        prepare()
        place = Place(self.cloud, self.name, self.folder, memory=3072)
        s3 = place.clients.client("s3")
        for path in (reference, *reads):
            s3.upload_file(str(path), self.name, f"input/{path.name}")
        told = {"name": self.name, "reference": reference.name, "region_bases": region_bases}
        (self.folder / "workflow.yaml").write_text(WORKFLOW.format(**told))
        sheet = "itemID|TaskID|TaskScript|TaskArgs\n" + "".join(f"{line}\n" for line in lines)
        (self.folder / "sheet.txt").write_text(sheet.replace("BUCKET", f"s3://{self.name}/input"))
        command = [sys.executable, "-m", "pyanamo", "cohort", "run", "workflow.yaml", "--sheet", "sheet.txt", "--yes"]
        done = subprocess.run(
            [*command, "--no-prefect", "--json"], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        for table in (self.name, f"{self.name}-gather", f"{self.name}-joint"):
            recorded_once(open_ledger(place.clients, table)[0])
        vcf = self.folder / "cohort.vcf.gz"
        for suffix in ("", ".tbi"):
            s3.download_file(self.name, said["vcf"].removeprefix(f"s3://{self.name}/") + suffix, f"{vcf}{suffix}")
        return vcf, said


@pytest.fixture
def lab(local_cloud: LocalCloud, cloud_environment: dict[str, str], unique_name: str, tmp_path: Path) -> Lab:
    return Lab(local_cloud, unique_name, tmp_path)


def test_three_samples_of_1000_genomes_go_from_crams_to_a_vcf_that_is_that_of_plain_calls(
    lab: Lab, tmp_path: Path
) -> None:
    # Given three CRAMs of chr17, whose headers hold the M5 of another version of the reference, in two loci
    crams = [DATA / "1kg-chr17" / f"mpileup.{number}.cram" for number in (1, 2, 3)]
    fasta = DATA / "1kg-chr17" / "mpileup.ref.fa"
    lines = [f"{cram.stem}|HC|{SCRIPT} BUCKET/{cram.name}|17:1-2100,17:2101-4200" for cram in crams]
    # When the chain runs, the joint call in three regions
    vcf, _ = lab.runs(fasta, [*crams, *(Path(f"{cram}.crai") for cram in crams)], lines, 1400)
    # Then it is what each sample called whole, and called jointly in one piece, gives
    reference = copy_reference(fasta, tmp_path)
    gvcfs: list[str] = []
    for cram in crams:
        place = tmp_path / cram.stem
        place.mkdir()
        ran = run_task(cram, "17:1-4200", reference, place / "out", place / "work", HC_REFERENCE_CHECK="length")
        (place / "gathering").mkdir()
        gvcfs.append(gather([ran.recorded("17:1-4200")], str(tmp_path / "gathered"), place / "gathering").gvcf.uri)
    (tmp_path / "joining").mkdir()
    plain = joint(gvcfs, reference, str(tmp_path / "plain"), tmp_path / "joining")
    assert call_differences(vcf, Path(plain.vcf.uri)) == []
    with pysam.VariantFile(str(vcf)) as found:
        assert list(found.header.samples) == ["HG00100", "HG00101", "HG00102"]
        assert len(list(found)) >= 10


def test_na12878_goes_from_a_bam_to_a_vcf_with_all_of_giabs_sites(lab: Lab) -> None:
    # Given NA12878's reads, whose SM is 1, in five loci
    bam = DATA / "na12878-chr22" / "NA12878.chr22.tiny.bam"
    loci = ",".join(f"q:{a}-{b - 1}" for a, b in pairwise([1, 2500, 5000, 7500, 10_000, 12_357]))
    line = f"NA12878|HC|{SCRIPT} NA12878:1=BUCKET/{bam.name}|{loci}"
    # When the chain runs, the joint call in four regions
    vcf, _ = lab.runs(DATA / "na12878-chr22" / "q.fa", [bam, Path(f"{bam}.bai")], [line], 3100)
    # Then all 14 sites of GIAB are among its 18
    with pysam.VariantFile(str(vcf)) as found, pysam.VariantFile(str(bam).replace(".bam", ".giab.vcf")) as giab:
        assert list(found.header.samples) == ["NA12878"]
        sites = {(r.pos, r.ref, alt) for r in found for alt in r.alts or ()}
        truth = {(r.pos, r.ref, alt) for r in giab for alt in r.alts or ()}
    assert (len(truth), truth <= sites) == (14, True)
    assert len({position for position, _, _ in sites}) == 18
