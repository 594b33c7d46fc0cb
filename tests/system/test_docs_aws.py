"""docs/aws.md's commands, typed as they stand on the local cloud: both ways end in a gVCF.

Not typed are Docker's commands and those of the AWS command line; the administrator is played by boto3 with the papers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pysam
import pytest

from pyanamo_core.aws import Clients
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort, upload_cohort
from pyanamo_core.stack.data import SERVICES
from pyanamo_core.stack.given import lines_for, with_lines
from pyanamo_core.workflow_file import read_workflow

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "aws.md").read_text()
BLOCKS = re.findall(r"```\n(.*?)```", PAGE, re.S)
STACK, IMAGE, FIRST, PROFILE, SECRET, PAPERS = BLOCKS
LOCI = ("chr20:10000000-11000000,chr20:11000001-12000000", "chr20:1-15000,chr20:15001-30000")
"""Those of the page, and those of a chromosome that a test can call."""
QUICK = {"start_jitter_seconds": 0, "sweep_seconds": 0.5, "poll_seconds": 0.5}


@dataclass(frozen=True)
class Newcomer:
    """A checkout's top as far as the page needs it, and a shell with a region and credentials."""

    folder: Path
    environment: dict[str, str]

    def types(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def workflow(self) -> Path:
        return self.folder / "workflow.yaml"

    @property
    def clients(self) -> Clients:
        return Clients.with_keys("x", "x", self.environment["AWS_ENDPOINT_URL"], "us-east-1")

    def hurries(self) -> None:
        """Rhythms of a test instead of those of thousands of pilots."""
        text = self.workflow.read_text()
        for name, seconds in QUICK.items():
            text = re.sub(rf"{name}: [0-9.]+", f"{name}: {seconds}", text)
        self.workflow.write_text(text)

    def comes_to_a_gvcf(self) -> None:
        """The page's first try, and what it must give."""
        self.hurries()
        self.types(FIRST.replace(*LOCI))
        (gvcf,) = (self.folder / "gvcf").glob("*.g.vcf.gz")
        with pysam.VariantFile(str(gvcf)) as opened:
            assert len(list(opened.header.samples)) == 1
            last = [record.stop for record in opened][-1]
        assert last == 30_000


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    prepare()
    samples = ("NA00001", "NA00002")  # the second one lies where the page looks
    return simulate_cohort(tmp_path_factory.mktemp("reads"), depth=15, contigs=(("chr20", 30_000),), samples=samples)


@pytest.fixture
def newcomer(tmp_path: Path, simulated: Cohort) -> Iterator[Newcomer]:
    """Public reads and reference where the page has them, in an account of its own."""
    folder = tmp_path / "pyanamo"
    shutil.copytree(ROOT / "deployments", folder / "deployments")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "PYANAMO_", "PREFECT_"))}
    kept |= {k: v for k, v in os.environ.items() if k in ("PYANAMO_GATK_CACHE", "PYANAMO_MAVEN_REPOSITORY")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    plain = Newcomer(folder, {**kept, "PATH": path, "XDG_STATE_HOME": str(tmp_path / "state")})
    plain.types("pyanamo local up")
    told = json.loads(plain.types("pyanamo local env --json"))
    made = Newcomer(folder, {**plain.environment, **{k: v for k, v in told.items() if v}})
    try:
        s3 = made.clients.client("s3")
        s3.create_bucket(Bucket="1000genomes", ACL="public-read")
        keys = upload_cohort(simulated, s3, "1000genomes")
        reference = "technical/reference/GRCh38_reference_genome/GRCh38_full_analysis_set_plus_decoy_hla.fa"
        s3.upload_file(str(simulated.reference), "1000genomes", reference)
        for key in [*keys, reference]:
            s3.put_object_acl(Bucket="1000genomes", Key=key, ACL="public-read")
        yield made
    finally:
        subprocess.run(["pyanamo", "local", "down"], env=made.environment, capture_output=True, check=False)


def scratch_in(newcomer: Newcomer, commands: str) -> str:
    """A host's folder that a test may write to, instead of /scratch."""
    return re.sub(r"(?m)^(pyanamo deploy)", rf"\1 --set Scratch={newcomer.folder / 'scratch'}", commands)


def test_from_an_empty_account_to_the_first_gvcf(newcomer: Newcomer) -> None:
    # Given an empty account, when the page's first block is typed
    newcomer.types(scratch_in(newcomer, STACK))
    # Then the stack is there, and the workflow file names what it made
    (stack,) = newcomer.clients.client("cloudformation").describe_stacks(StackName="HaplotypeCaller")["Stacks"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
    workflow = read_workflow(newcomer.workflow)
    assert (workflow.buckets.results, workflow.log_group) == (outputs["Results"], outputs["LogGroup"])
    assert "dkr.ecr" in outputs["Repository"]
    # And the next block leads to a gVCF
    newcomer.comes_to_a_gvcf()


def test_from_an_account_where_one_may_create_nothing_to_the_first_gvcf(newcomer: Newcomer) -> None:
    # Given papers, written without any login
    bare = {k: v for k, v in newcomer.environment.items() if not k.startswith("AWS_")}
    nobody = bare | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
    Newcomer(newcomer.folder, {**nobody, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}).types(PAPERS)
    papers = newcomer.folder / "papers"
    assert "aws cloudformation deploy" in (papers / "letter.md").read_text()
    # When an administrator makes the stack from nothing but them, AWS's own roles first, and tells its outputs
    asked: list[dict[str, Any]] = json.loads((papers / "parameters.json").read_text())
    asked.append({"ParameterKey": "Scratch", "ParameterValue": str(newcomer.folder / "scratch")})
    iam = newcomer.clients.client("iam")
    own = {one: iam.create_service_linked_role(AWSServiceName=one)["Role"]["Arn"] for one in SERVICES}
    # moto gives them other ARNs than AWS, which the template could not know.
    asked.append({"ParameterKey": "ServiceRole", "ParameterValue": own["batch.amazonaws.com"]})
    made = newcomer.clients.client("cloudformation")
    made.create_stack(
        StackName="HaplotypeCaller",
        TemplateBody=(papers / "cloudformation.yaml").read_text(),
        Parameters=asked,
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = made.describe_stacks(StackName="HaplotypeCaller")["Stacks"]
    outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
    newcomer.workflow.write_text(with_lines(newcomer.workflow.read_text(), lines_for(outputs)))
    # Then the same block leads to a gVCF
    newcomer.comes_to_a_gvcf()
