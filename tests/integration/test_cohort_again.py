"""Again next month, with real calls: extend and redo leave other nests' rows and objects byte for byte; N + 1 is all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from driver_support import Place
from genomics_support import SCRIPT, run_task
from typer.testing import CliRunner

from pyanamo.main import app
from pyanamo_core import driver
from pyanamo_core.genomics.cohort import RecordedNest, gather
from pyanamo_core.genomics.compare import call_differences, canonical_calls
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.joint import joint
from pyanamo_core.genomics.plans import gather_rows, gathered_below
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort
from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger import expressions as x
from pyanamo_core.local import LocalCloud
from pyanamo_core.model import NestStatus, State
from pyanamo_core.workflow import InputBucket, Reference, Workflow

SAMPLES = ("DEMO0001", "DEMO0002", "DEMO0003")
LOCI = ("demo1:1-4000", "demo1:4001-8000", "demo1:8001-12000")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    contigs = (("demo1", 12_000),)
    return simulate_cohort(tmp_path_factory.mktemp("reads"), depth=15, contigs=contigs, samples=SAMPLES)


class World:
    """A table with reads and reference in its bucket, worked by pilots of the local cloud."""

    def __init__(self, cloud: LocalCloud, name: str, folder: Path, simulated: Cohort) -> None:
        self.place = Place(cloud, name, folder, memory=2048)
        self.clients, self.name = self.place.clients, name
        self.s3 = self.clients.client("s3")
        for path in simulated.folder.iterdir():
            if path.is_file():
                self.s3.upload_file(str(path), name, f"input/{path.name}")
        made = self.place.workflow(
            pilots=1,
            nests=2,
            references=(Reference(name="ref", uri=f"s3://{name}/input/{simulated.reference.name}"),),
            verify="pyanamo_core.genomics.gvcf:verify_outputs",
            parameters={"HC_CALLER": "bcftools"},
        )
        buckets = made.buckets.model_copy(update={"inputs": (InputBucket(bucket=name),)})
        self.workflow: Workflow = made.model_copy(update={"buckets": buckets})
        self.reads = {s: next(p.name for p in simulated.folder.glob(f"{s}*.cram")) for s in SAMPLES}

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.clients, self.workflow.table_name, rules=self.workflow.rules)

    def run(self, *samples: str, loci: tuple[str, ...] = LOCI) -> None:
        lines = [f"{s}|HC|{SCRIPT} s3://{self.name}/input/{self.reads[s]}|{','.join(loci)}" for s in samples]
        outcome = driver.run(self.clients, self.workflow, sheet=self.place.sheet(lines) if lines else None)
        assert outcome.outcome == "completed"

    def rows(self) -> dict[tuple[str, str], Any]:
        """Every row of nests, tails and attempts as DynamoDB holds it."""
        pages = self.clients.client("dynamodb").get_paginator("scan")
        found = pages.paginate(TableName=self.workflow.table_name, ConsistentRead=True).search("Items")
        kept = (x.NEST_PREFIX, x.ATTEMPT_PREFIX, "LOG#")
        return {(row[x.HASH]["S"], row[x.RANGE]["S"]): row for row in found if row[x.RANGE]["S"].startswith(kept)}

    def objects(self) -> dict[str, Any]:
        """Every object below work/: when it was written, and the hash of what it holds."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        found = [one for page in pages for one in page.get("Contents", ()) if "/work/" in one["Key"]]
        return {one["Key"]: (one["LastModified"], one["ETag"], one["Size"]) for one in found}

    def types(self, *words: str) -> str:
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--table", self.workflow.table_name])
        assert done.exit_code == 0, done.output
        return done.stdout

    def plans(self) -> dict[str, str]:
        """Sample to the plan of its gather."""
        rows = gather_rows(self.ledger, self.clients, f"s3://{self.name}/plans")
        return {row.item_id: row.definition.arguments[0] for row in rows}


@pytest.fixture
def world(
    local_cloud: LocalCloud,
    cloud_environment: dict[str, str],
    unique_name: str,
    tmp_path: Path,
    simulated: Cohort,
) -> World:
    return World(local_cloud, unique_name, tmp_path, simulated)


def nest_row(sample: str, nest: int) -> tuple[str, str]:
    return sample, x.nest_row(0, nest)


def test_extend_and_redo_leave_other_nests_rows_and_objects_as_they_were(world: World, tmp_path: Path) -> None:
    # Given two samples called at two loci, and results that are verified
    world.run(*SAMPLES[:2], loci=LOCI[:2])
    rows, objects, plans = world.rows(), world.objects(), world.plans()
    assert len([key for key in rows if key[1].startswith(x.NEST_PREFIX)]) == 4
    # When a third locus is added from a file and called
    (tmp_path / "more.tsv").write_text(f"locus\tbases\n{LOCI[2]}\t4000\n")
    world.types("items", "extend", "--loci", str(tmp_path / "more.tsv"), "--yes")
    world.run()
    # Then every row and every object of before is there, byte for byte, and only the new nests came
    after, objects_after = world.rows(), world.objects()
    assert {key: after[key] for key in rows} == rows
    assert {key: objects_after[key] for key in objects} == objects
    new = {key for key in after if key not in rows and key[1].startswith(x.NEST_PREFIX)}
    assert new == {nest_row(sample, 2) for sample in SAMPLES[:2]}
    assert all(world.plans()[sample] != plans[sample] for sample in SAMPLES[:2])
    # When one locus of one sample is done again
    rows, objects, plans = after, objects_after, world.plans()
    world.types("items", "redo", SAMPLES[0], "--region", "demo1:5000-5000", "--yes")
    world.run()
    # Then its row is another, and everything else is as it was: its old objects, too
    after, objects_after = world.rows(), world.objects()
    redone = nest_row(SAMPLES[0], 1)
    assert {key: after[key] for key in rows if key != redone} == {k: v for k, v in rows.items() if k != redone}
    assert after[redone] != rows[redone]
    assert {key: objects_after[key] for key in objects} == objects
    came = {key.rpartition("/work/")[2] for key in objects_after if key not in objects}
    fence = world.ledger.nests(world.ledger.item(SAMPLES[0]))[1].fence
    assert came
    assert all(key.startswith(f"{SAMPLES[0]}/00001/{fence}/") for key in came)
    # and only that sample is gathered again
    assert world.plans()[SAMPLES[1]] == plans[SAMPLES[1]]
    assert world.plans()[SAMPLES[0]] != plans[SAMPLES[0]]
    assert "all as recorded" in world.types("results", "verify", "--whole")
    # When both are gathered, their loci may go, and nothing that is needed is lost
    world.types("gather")
    told = json.loads(world.types("clean", "--loci-after-gather", "--yes", "--json"))
    assert [one["objects"] for one in told["cleaned"]] == [2 * 3 * 2], told
    assert told["stays"] == []
    assert "12 are gone since they have been gathered" in world.types("results", "verify")
    # but for the redone nest's first attempt, which no row names and a cleaning of orphans takes when it is older
    assert any(f"{SAMPLES[0]}/00001/" in key and key.endswith(".g.vcf.gz") for key in world.objects())
    world.types("joint", "--out", str(tmp_path / "joint.vcf.gz"))
    assert sum(1 for _ in canonical_calls(tmp_path / "joint.vcf.gz")) > 5


def test_new_samples_are_imported_and_only_they_run(world: World) -> None:
    # Given two samples that are called
    world.run(*SAMPLES[:2])
    rows, objects = world.rows(), world.objects()
    before = {sample: world.ledger.item(sample) for sample in SAMPLES[:2]}
    # When a sheet with a third one is imported and run
    world.run(*SAMPLES)
    # Then only it was called
    assert {sample: world.ledger.item(sample) for sample in SAMPLES[:2]} == before
    after, objects_after = world.rows(), world.objects()
    assert {key: after[key] for key in rows} == rows
    assert {key: objects_after[key] for key in objects} == objects
    assert {key[0] for key in after if key not in rows} == {SAMPLES[2]}
    assert world.ledger.item(SAMPLES[2]).state is State.DONE
    assert all(nest.status is NestStatus.DONE for nest in world.ledger.nests(world.ledger.item(SAMPLES[2])).values())


@pytest.mark.parametrize("caller", ["bcftools", pytest.param("gatk", marks=pytest.mark.system)])
def test_one_sample_more_beside_an_earlier_table_gives_the_genotypes_of_all_at_once(
    simulated: Cohort, tmp_path: Path, caller: str
) -> None:
    # Given two samples gathered in an earlier table, and a third one called and gathered in a table of its own
    if caller == "gatk":
        prepare()
    gathered(simulated, tmp_path / "earlier", caller, *SAMPLES[:2])
    gathered(simulated, tmp_path / "new", caller, SAMPLES[2])
    # When they are called jointly, and all three are called, gathered and joined at once
    gathered(simulated, tmp_path / "all", caller, *SAMPLES)
    added = called(simulated, tmp_path, "added", tmp_path / "earlier", tmp_path / "new")
    at_once = called(simulated, tmp_path, "at_once", tmp_path / "all")
    # Then the genotypes are the same
    assert call_differences(added, at_once) == []
    assert sum(1 for _ in canonical_calls(added)) > 5


def gathered(simulated: Cohort, place: Path, caller: str, *samples: str) -> None:
    """Call samples at two loci in one invocation each, and gather them."""
    loci = ("demo1:1-6000", "demo1:6001-12000")
    for sample in samples:
        work = place.parent / f"{place.name}-{sample}"
        told = run_task(
            sample,
            ",".join(loci),
            simulated.reference,
            work / "out",
            work / "work",
            READS=str(simulated.folder),
            HC_CALLER=caller,
        )
        nest: RecordedNest = told.recorded(",".join(loci))
        (work / "gather").mkdir()
        gather([nest], str(place), work / "gather")


def called(simulated: Cohort, folder: Path, name: str, *places: Path) -> Path:
    members = [one for place in places for one in gathered_below(Inputs(), str(place))]
    work = folder / f"{name}-work"
    work.mkdir()
    made = joint([one.gvcf for one in members], simulated.reference, str(folder / name), work, heap_mb=1024)
    assert json.loads(Path(made.vcf.uri.replace(".vcf.gz", ".manifest.json")).read_text())["samples"] == list(SAMPLES)
    return Path(made.vcf.uri)
