"""Plans of gather and joint: what changed is another plan, all else keeps its own."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from genomics_support import Nest, block, variant

from pyanamo_core.clock import FakeClock
from pyanamo_core.errors import CohortRefused
from pyanamo_core.genomics.cohort import gather
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, Locus
from pyanamo_core.genomics.members import GatheredGvcf
from pyanamo_core.genomics.plan_files import PlanInvalid, read_plan
from pyanamo_core.genomics.plans import (
    JointPlan,
    RegionsOpen,
    Row,
    concat_row,
    gather_rows,
    gathered_below,
    gathered_of,
    joint_rows,
    nests_of_plan,
)
from pyanamo_core.genomics.recorded import ItemNotDone, RecordedNest, SampleTwice
from pyanamo_core.genomics.regions import cut_regions, default_bases, lead_in
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Definition, NestStatus, Output
from pyanamo_core.model import Nest as NestRow

DICTIONARY = Dictionary("ref.dict", {"c": ContigEntry("c", 1000), "d": ContigEntry("d", 500)})
EDGES = [1, 251, 501, 751, 1001]


class World:
    """A call table in memory, its locus files on disk, and gathers of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = MemoryLedger(clock=FakeClock())
        self.plans = str(folder / "plans")

    def called(self, sample: str, *, item: str = "", done: int = 4) -> None:
        """An item whose nests are the quarters of contig c."""
        item = item or sample
        values = tuple(f"c:{a}-{b - 1}" for a, b in itertools.pairwise(EDGES))
        self.ledger.import_item(item, "HC", Definition(script="call.sh", arguments=values))
        self._record(item, sample, range(done), finish=done == 4)

    def again(self, item: str, nest: int) -> None:
        """A nest is done again and comes out with another file."""
        self.ledger.redo(self.ledger.item(item), [nest])
        self._record(item, item, [nest], finish=True, quality=50)

    def _record(self, item: str, sample: str, nests: Sequence[int], *, finish: bool, quality: int = 99) -> None:
        claim = self.ledger.claim(item, "pilot")
        assert claim is not None
        for number in nests:
            a, b = EDGES[number], EDGES[number + 1] - 1
            records = [block(a, b - 1, quality=quality), variant(b, "A", "G")]
            made = Nest(f"c:{a}-{b}", records, sample, number, claim.fence).record(self.folder / "work" / item)
            outputs = tuple(Output(uri=uri, bytes=1) for uri in made.outputs)
            self.ledger.record_nest(
                claim,
                NestRow(
                    item_id=item,
                    epoch=claim.epoch,
                    index=number,
                    status=NestStatus.DONE,
                    fence=claim.fence,
                    outputs=outputs,
                    figures={"sample": sample},
                ),
            )
        if finish:
            self.ledger.finish(claim, nests_done=len(self.ledger.nests(claim.item)))

    def rows(self, **options: Any) -> dict[str, Row]:
        return {row.item_id: row for row in gather_rows(self.ledger, None, self.plans, **options)}

    def gathered(self, *items: str, folder: str = "gathered") -> str:
        """Gather items by their plans; the folder of the results."""
        for item in items:
            told = read_plan(Inputs(), self.rows(items=[item])[item].definition.arguments[0], "gather")
            work = self.folder / f"work-{item}"
            work.mkdir(exist_ok=True)
            gather(nests_of_plan(told), str(self.folder / folder), work, expected=told["expected"])
        return str(self.folder / folder)

    def joint(self, where: str | list[GatheredGvcf], **options: Any) -> JointPlan:
        found = gathered_below(Inputs(), where) if isinstance(where, str) else where
        return joint_rows(found, DICTIONARY, str(self.folder / "joint"), region_bases=250, **options)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.called("A")
    made.called("B")
    return made


def test_a_plan_is_named_by_its_content_and_the_same_state_gives_the_same_plans(world: World) -> None:
    first = world.rows()
    assert world.rows() == first
    uri = first["A"].definition.arguments[0]
    plan = read_plan(Inputs(), uri, "gather")
    assert [nest["value"] for nest in plan["nests"]] == [f"c:{a}-{a + 249}" for a in EDGES[:4]]
    # And a plan that is changed by hand is not followed
    Path(uri).write_text(json.dumps({**plan, "partial": True}))
    with pytest.raises(PlanInvalid, match="not the one that its name says"):
        read_plan(Inputs(), uri, "gather")


def test_a_nest_done_again_makes_its_own_samples_gather_another_one_and_no_other(world: World) -> None:
    before = world.rows()
    world.again("A", 2)
    after = world.rows()
    assert after["B"] == before["B"]
    assert after["A"] != before["A"]
    assert world.rows(reblock=True)["B"] != before["B"]


def test_an_item_with_open_nests_is_refused_before_anything_is_written_unless_partial(world: World) -> None:
    world.called("C", done=3)
    with pytest.raises(ItemNotDone, match="Item C is locked, with 3 of 4 nests done"):
        world.rows()
    assert not Path(world.plans).exists()
    told = read_plan(Inputs(), world.rows(partial=True)["C"].definition.arguments[0])
    assert (len(told["nests"]), len(told["expected"]), told["partial"]) == (3, 4, True)


def test_allowing_partial_samples_changes_no_plan_while_all_are_whole(world: World) -> None:
    where = world.gathered("A", "B")
    assert world.rows(partial=True) == world.rows()
    assert world.joint(where, partial=True).rows == world.joint(where).rows
    # And of a cohort with one that lacks nests, the others' gathers stay
    world.called("C", done=3)
    before, after = world.rows(items=["A", "B"]), world.rows(partial=True)
    assert {name: after[name] for name in before} == before


def test_two_items_of_one_sample_are_refused(world: World) -> None:
    world.called("A", item="A2")
    with pytest.raises(SampleTwice, match="Items A and A2 are both of sample A"):
        world.rows()


def test_regions_are_planned_and_only_those_near_a_changed_locus_are_planned_anew(world: World) -> None:
    # Given a cohort that is planned in four regions of 250 bases, read from 1,000 before each
    plan = world.joint(world.gathered("A", "B"))
    assert [row.item_id for row in plan.rows] == [f"c_{a:09d}_{a + 249}" for a in EDGES[:4]]
    assert (plan.new, plan.changed, plan.same) == (tuple(row.item_id for row in plan.rows), (), ())
    assert (plan.samples, plan.lead_in) == (("A", "B"), 1000)
    # When the third locus of A is called again and A is gathered again
    world.again("A", 2)
    plan = world.joint(world.gathered("A"))
    # Then the third region changes, and the fourth, which is read from the third; the others stay as they are
    assert plan.changed == ("c_000000501_750", "c_000000751_1000")
    assert plan.same == ("c_000000001_250", "c_000000251_500")
    assert plan.new == plan.gone == ()


def test_a_sample_gathered_again_of_the_same_loci_changes_no_region(world: World) -> None:
    world.joint(world.gathered("A", "B"))
    plan = world.joint(world.gathered("A", "B", folder="elsewhere"))
    assert len(plan.same) == 4


def test_one_more_sample_of_another_table_makes_every_region_another_one(world: World) -> None:
    earlier = world.gathered("A", "B")
    before = world.joint(earlier)
    world.called("C")
    later = world.gathered("C", folder="new-table")
    plan = world.joint([*gathered_below(Inputs(), later), *gathered_below(Inputs(), earlier)])
    assert plan.samples == ("A", "B", "C")
    assert plan.changed == tuple(row.item_id for row in before.rows)


def test_a_prefix_where_a_sample_lies_twice_is_refused_instead_of_taking_either(world: World) -> None:
    # Given the folder of a table's attempts: two gVCFs of A, of which the table alone knows the one that counts
    where = world.gathered("A", "B")
    again = Path(where) / "10"
    again.mkdir()
    for suffix in (".g.vcf.gz", ".g.vcf.gz.tbi", ".manifest.json"):
        (again / f"A{suffix}").write_bytes((Path(where) / f"A{suffix}").read_bytes())
    # When it is given as a place of gathered gVCFs, then both are named, and what to do
    with pytest.raises(CohortRefused, match=r"two gVCFs of sample A lie below .*--also TABLE"):
        gathered_below(Inputs(), where)
    # And the other sample can still be had by its name
    assert [one.sample for one in gathered_below(Inputs(), where, ["B"])] == ["B"]


def test_chosen_regions_are_cut_to_what_is_gathered_and_must_not_overlap(world: World) -> None:
    where = world.gathered("A")
    plan = world.joint(where, regions=[Locus("c", 101, 200)])
    assert [row.item_id for row in plan.rows] == ["c_000000101_200"]
    with pytest.raises(CohortRefused, match="overlap: a record could come twice"):
        world.joint(where, regions=[Locus("c", 1, 200), Locus("c", 200, 300)])
    with pytest.raises(CohortRefused, match="nothing of d:1-500 is gathered"):
        world.joint(where, regions=[Locus("d", 1, 500)])


def test_the_cohorts_row_waits_for_every_region_as_it_is_planned_now(world: World) -> None:
    # Given a joint table with the regions imported, of which none is done
    plan = world.joint(world.gathered("A", "B"))
    joint = MemoryLedger(clock=FakeClock())
    place = str(world.folder / "joint")
    for row in plan.rows:
        joint.import_item(row.item_id, row.task_id, row.definition)
    with pytest.raises(RegionsOpen, match=r"4 of 4 regions of table .* the first is c_000000001_250"):
        concat_row(joint, None, place)
    # When all are done, then it lists their VCFs in the reference's order
    for row in plan.rows:
        done(joint, row.item_id, f"/vcf/{row.item_id}.vcf.gz")
    told = read_plan(Inputs(), concat_row(joint, None, place).definition.arguments[0], "concat")
    assert [one["vcf"] for one in told["regions"]] == [f"/vcf/{row.item_id}.vcf.gz" for row in plan.rows]
    # But not once a sample came, until the regions were done again
    world.called("C")
    world.joint(world.gathered("A", "B", "C"))
    with pytest.raises(RegionsOpen, match="4 of 4"):
        concat_row(joint, None, place)


def test_gathers_are_taken_from_the_ledger_of_their_table_with_the_manifests_checksum(world: World) -> None:
    where = world.gathered("A")
    table = MemoryLedger(clock=FakeClock())
    table.import_item("item-1", "gather", Definition(script="g", arguments=("plan",)))
    done(table, "item-1", f"{where}/A.g.vcf.gz", f"{where}/A.manifest.json", sample="A", sha256="0" * 64)
    [found] = gathered_of(table, None)
    assert (found.sample, found.manifest) == ("A", f"{where}/A.manifest.json")
    # And a manifest that is not the recorded one is refused
    with pytest.raises(CohortRefused, match="is not the one that was recorded"):
        world.joint([found])


def done(ledger: MemoryLedger, item: str, *outputs: str, sample: str = "", sha256: str = "") -> None:
    claim = ledger.claim(item, "pilot")
    assert claim is not None
    nest = NestRow(
        item_id=item,
        epoch=claim.epoch,
        index=0,
        status=NestStatus.DONE,
        fence=claim.fence,
        outputs=tuple(Output(uri=uri, bytes=1, sha256=sha256) for uri in outputs),
        figures={"sample": sample} if sample else {},
    )
    ledger.record_nest(claim, nest)
    ledger.finish(claim, nests_done=1)


def test_regions_shrink_with_samples_and_targets_are_grouped_within_a_contig() -> None:
    assert [default_bases(n) for n in (1, 100, 3202)] == [5_000_000, 5_000_000, 624_609]
    assert [lead_in(n) for n in (0, 1000, 1001, 5000)] == [1000, 1000, 2000, 8000]
    targets = [Locus("c", 1, 100), Locus("c", 201, 300), Locus("c", 401, 500), Locus("d", 1, 10)]
    assert [len(region.loci) for region in cut_regions(targets, 200)] == [2, 1, 1]


def test_the_recorded_nests_of_a_plan_are_those_of_the_ledger(world: World) -> None:
    told = read_plan(Inputs(), world.rows()["B"].definition.arguments[0])
    nests = nests_of_plan(told)
    assert isinstance(nests[0], RecordedNest)
    assert [nest.value for nest in nests] == told["expected"]
    assert {uri.rpartition(".")[2] for nest in nests for uri in nest.outputs} == {"gz", "json"}


def test_a_sample_that_lacks_loci_others_have_is_refused_unless_partial_or_only_what_all_have_is_called(
    world: World,
) -> None:
    # Given B, which an earlier table called on the first half only
    where = world.gathered("A")
    work = world.folder / "half"
    work.mkdir()
    told = read_plan(Inputs(), world.rows()["B"].definition.arguments[0])
    gather(nests_of_plan(told)[:2], where, work)
    # Then it would have no genotypes in the other half, as if it had been looked at there
    with pytest.raises(CohortRefused, match="sample B covers nothing of c:501-750, which others do"):
        world.joint(where)
    assert len(world.joint(where, partial=True).rows) == 4
    assert len(world.joint(where, regions=[Locus("c", 1, 400)]).rows) == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("caller_version", "4.5", "sample B has another caller version"),
        ("parameters_hash", "zzz", "sample B has another parameters"),
        ("reblocked", True, "sample B has another reblocked"),
        ("reference", {"c": {"length": 999, "md5": ""}}, "sample B was called on another reference than ref.dict"),
        ("sample", "A", "is a second gVCF of sample A; the first is"),
        ("kind", "locus", "joint genotypes at its edges would be wrong"),
        ("partial", True, "sample B lacks loci"),
    ],
)
def test_strangers_are_not_planned_together(world: World, key: str, value: Any, message: str) -> None:
    where = world.gathered("A", "B")
    manifest = Path(where) / "B.manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), key: value, "missing": ["c:1-2"]}))
    with pytest.raises(CohortRefused, match=message):
        world.joint(where)
    assert not (world.folder / "joint").exists()


class Bucket:
    """An S3 of few words; `sums`: does it tell what it holds by SHA-256?"""

    def __init__(self, *, sums: bool = True) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.puts: list[str] = []
        self.sums = sums

    def client(self, _: str) -> Any:
        return self

    def put_object(self, **told: Any) -> None:
        key, body = told["Key"], told["Body"]
        self.puts.append(key)
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        self.objects[key] = {"ContentLength": len(body)} | ({"ChecksumSHA256": digest} if self.sums else {})

    def head_object(self, **told: Any) -> dict[str, Any]:
        if told["Key"] not in self.objects:
            raise ClientError({"Error": {"Code": "404", "Message": "Not Found"}}, "HeadObject")
        return self.objects[told["Key"]]


@pytest.mark.parametrize("sums", [True, False])
def test_a_plan_that_stands_in_its_bucket_is_not_sent_again(world: World, sums: bool) -> None:
    # Given plans in a bucket
    bucket = Bucket(sums=sums)
    place = "s3://bucket/plans"
    first = gather_rows(world.ledger, bucket, place)
    assert len(bucket.puts) == 2
    # When they are made again, then nothing is sent; of one sample done again, its plan alone
    assert gather_rows(world.ledger, bucket, place) == first
    assert len(bucket.puts) == 2
    world.again("A", 2)
    gather_rows(world.ledger, bucket, place)
    assert len(bucket.puts) == 3
    # And one that came to harm is sent again
    bucket.objects[bucket.puts[1]]["ContentLength"] = 1
    gather_rows(world.ledger, bucket, place)
    assert bucket.puts[3:] == [bucket.puts[1]]
    # And who only looks sends and asks nothing
    bucket.objects.clear()
    bucket.keeps_nothing = True  # type: ignore[attr-defined]
    gather_rows(world.ledger, bucket, place)
    assert len(bucket.puts) == 4
