"""The estimate: what can be counted is counted, what is not known is said, and more work never costs less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyanamo.cohort_cost import ALSO, Priced, left_to_gather, price_what_is_left
from pyanamo.commands.plan import summary
from pyanamo.context import Context
from pyanamo.planning import Looked
from pyanamo_core.chain.steps import Look, StepState
from pyanamo_core.cost.cohort_estimate import cohort_estimate
from pyanamo_core.cost.estimate import STACK_VCPUS, SWEEPS, Estimate, Line, Starts, estimate, pilots_of
from pyanamo_core.cost.pace import (
    CALLER_LEAVES,
    NO_PACE,
    Bases,
    Pace,
    RateMalformed,
    Seen,
    default_pace,
    given_pace,
    learnt_pace,
    locus_of,
    seconds_range,
)
from pyanamo_core.cost.prices import built_in, price_list
from pyanamo_core.cost.ranges import NOTHING, Range, exactly
from pyanamo_core.cost.work import Work, losses_seen, work_of_definitions, work_of_sheet, work_of_table
from pyanamo_core.genomics.genomes import genome
from pyanamo_core.genomics.planning import plan_loci
from pyanamo_core.genomics.speed import NothingLearnt
from pyanamo_core.ledger import cost
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Definition, Nest, NestStatus, PilotRecord, Spent
from pyanamo_core.sheet import write_sheet
from pyanamo_core.workflow import Buckets, InputBucket, Reference, Workflow

SCRIPT = "HaplotypeCaller-1KG.sh"


def workflow(**more: Any) -> Workflow:
    told: dict[str, Any] = {"pilots": 10, "nests": 4, "vcpus": 4} | more
    buckets = told.pop("buckets", Buckets(results="s3://results/x"))
    return Workflow(name="Call", queue="q", job_definition="d", buckets=buckets, **told)


def caller(*loci: str) -> Definition:
    return Definition(script=SCRIPT, arguments=loci)


def line(told: Estimate, what: str) -> Line:
    return next(one for one in told.lines if one.what == what)


# ------------------------------------------------------------------------------------------------------------ pace


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("90", exactly(90)), ("60-120", Range(60, 120)), ("2m", exactly(120)), ("1.5-2h", Range(5400, 7200))],
)
def test_a_time_is_a_number_or_a_range(told: str, seconds: Range):
    assert seconds_range(told, "time") == seconds


@pytest.mark.parametrize("told", ["", "fast", "-3", "0", "120-60", "1e3", "5 years", "٣"])
def test_what_is_no_time_is_refused(told: str):
    with pytest.raises(RateMalformed, match="60-120"):
        seconds_range(told, "time of a nest")


def test_a_locus_is_known_by_its_form_and_others_by_dictionary_or_list(tmp_path: Path):
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "0001.bed").write_text("chr1\t100\t200\nchr1\t5000\t5300\n")
    bases = Bases(genome("GRCh38").dictionary, tmp_path)
    assert bases.of("chr20:11-20") == 10
    assert bases.of("HLA-A*01:01:01:01:1-100") == 100
    assert bases.of("chrM") == 16_569
    assert bases.of("@targets/0001.bed") == 400 + 4 * 1000
    assert bases.of("@targets/9999.bed") is None
    assert bases.of("8") is None
    assert locus_of("chr1:20-10") is None


def test_a_pace_learnt_from_few_nests_is_wider_than_one_from_many():
    def pace(count: int) -> Pace:
        return learnt_pace((Seen("8", 10.0) for _ in range(count)), "t", genomic=False)

    few, many = pace(4).nest, pace(400).nest
    assert few == Range(10 / 1.5, 15)
    assert many is not None
    assert many.high == pytest.approx(11)
    with pytest.raises(NothingLearnt):
        pace(0)


def test_many_nests_of_one_item_are_one_sample_and_no_law():
    def pace(items: int) -> Pace:
        return learnt_pace((Seen("8", 10.0, item=f"s{n % items}") for n in range(294)), "t", genomic=False)

    assert pace(1).nest == Range(5, 20)
    assert pace(4).nest == Range(10 / 1.5, 15)
    assert pace(200).nest == Range(10 / 1.1, 11)


def test_loci_teach_seconds_by_bases_and_bytes_by_bases():
    seen = [
        Seen(f"chr20:{at + 1}-{at + bases}", 5 + bases / 1e4, bases=bases, outputs=2, output_bytes=2 * bases, units=3)
        for at, bases in [(0, 100_000), (1_000_000, 200_000), (2_000_000, 400_000)] * 40
    ]
    pace = learnt_pace(seen, "t", genomic=True)
    somewhere = pace.of_bases(300_000)
    assert somewhere.low < 5 + 30 < somewhere.high
    assert somewhere.high < 1.3 * 35
    assert pace.leaves is not None
    assert pace.leaves.bytes_a_base.low < 2 < pace.leaves.bytes_a_base.high
    assert pace.leaves.units.low < 3 < pace.leaves.units.high


def test_a_slot_with_half_a_processor_takes_twice_as_long():
    assert default_pace(0.5).of_bases(10**6) == default_pace(1).of_bases(10**6) * 2
    assert default_pace(4) == default_pace(1)


def test_losses_are_learnt_from_what_pilots_tell():
    def pilot(**seconds: float) -> PilotRecord:
        return PilotRecord(pilot_id="p", run_id="r", started=1.0, spent=Spent(slot_seconds=seconds))

    assert losses_seen([pilot(), pilot(open=5.0)]) is None
    found = losses_seen([pilot(done=900.0, spot=50.0), pilot(done=100.0, task_error=50.0, open=7.0)])
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(0.05), pytest.approx(0.17))
    # … and make a run dearer
    work = genomes(10, default_pace(1))
    none, some = (
        line(estimate(workflow(), work, replace(default_pace(1), losses=one), built_in()), "machines, Spot").amount
        for one in (exactly(0), found)
    )
    assert none is not None
    assert some is not None
    assert none.low < some.low
    assert none.high < some.high


# ------------------------------------------------------------------------------------------------------------ work


def test_a_sheet_is_added_up_whole(tmp_path: Path):
    # Given two samples with three loci, and one with one
    rows = [(f"s{n}", "call", SCRIPT, ["chr1:1-1000000", "chr1:1000001-1500000", "chr2:1-500000"]) for n in (1, 2)]
    sheet = write_sheet(tmp_path / "sheet.txt", [*rows, ("s3", "call", SCRIPT, ["chr1:1-1000000"])])
    # When it is measured at 10 s a megabase, two nests at a time
    work = work_of_sheet(sheet, given_pace(megabase="10"), at_once=2)
    # Then items, nests, bases, seconds and units are those of every item
    assert (work.items, work.nests, work.bases, work.located) == (3, 7, 5_000_000, 7)
    assert work.genomic
    assert work.seconds is not None
    assert work.seconds.low == pytest.approx(50, rel=0.01)
    # … an item of three holds its slots as long as the longest, at least
    assert work.item_seconds is not None
    assert 30 <= work.item_seconds.low <= 32
    assert work.longest is not None
    assert work.longest.high <= 20.1
    units = sum(cost.import_units(row.item_id, row.definition) for row in sheet.rows())
    assert work.import_units == units


def test_an_item_cannot_be_quicker_than_its_longest_nest():
    work = work_of_definitions(
        [("a", caller("chr1:1-9000000", "chr1:9000001-9000100"))], given_pace(megabase="1"), at_once=8
    )
    assert work.item_seconds is not None
    assert work.item_seconds.low >= 9


@pytest.mark.parametrize(("nests", "at_once", "hours"), [(5, 4, 2), (4, 4, 1), (9, 4, 3), (3, 1, 3), (3, 8, 1)])
def test_an_item_of_nests_that_take_an_hour_is_held_as_many_hours_as_they_need_rounds(
    nests: int, at_once: int, hours: int
):
    values = tuple(str(number) for number in range(nests))
    items = [("a", Definition(script="x", arguments=values))]
    work = work_of_definitions(items, given_pace("1h"), at_once=at_once)
    assert work.item_seconds is not None
    assert work.item_seconds.low == pytest.approx(hours * 3600)
    assert work.item_seconds.high == pytest.approx(hours * 3600)


@pytest.mark.parametrize(
    ("items", "true"),
    [(600, 800), (5, 8), (400, 400), (1200, 1200), (401, 404)],
)
def test_pilots_that_hold_four_items_are_paid_until_the_last_of_them_ends(items: int, true: float):
    # Given regions of an hour each, and up to 100 pilots of four vCPUs that do four at a time
    pace = given_pace("1h")
    work = work_of_definitions(
        ((f"r{number}", Definition(script="x", arguments=("1",))) for number in range(items)), pace, at_once=1
    )
    there = workflow(pilots=100, items=4, nests=1)
    told = estimate(there, work, pace, built_in(), on_demand=True, starts=Starts(NOTHING, NOTHING))
    # Then what they must take lies within the plan, where each does another region only if it has one
    looks = told.pilots * 4 * ((SWEEPS - 1) * there.timing.sweep_seconds + there.timing.start_jitter_seconds) / 3600
    assert told.vcpu_hours is not None
    assert told.vcpu_hours.low <= true + looks
    assert true <= told.vcpu_hours.high
    rounds = -(-items // (told.pilots * 4))
    assert told.vcpu_hours.high <= rounds * told.pilots * 4 + looks


def test_without_a_pace_all_is_counted_but_hours():
    work = work_of_definitions([("a", Definition(script="count.sh", arguments=("1", "2")))], NO_PACE, at_once=1)
    assert (work.items, work.nests, work.seconds, work.item_seconds) == (1, 2, None, None)
    assert not work.genomic


def test_of_a_table_what_is_open_counts_without_what_is_done():
    # Given four items of three nests, of which one is done and one has a nest that is done
    ledger = MemoryLedger()
    for item in "abcd":
        ledger.import_item(item, "T", caller("chr1:1-100", "chr1:101-200", "chr1:201-300"))
    for item, count in (("a", 3), ("b", 1)):
        claim = ledger.claim(item, "p")
        assert claim is not None
        for index in range(count):
            ledger.record_nest(
                claim, Nest(item_id=item, epoch=0, index=index, status=NestStatus.DONE, fence=claim.fence)
            )
        if count == 3:
            ledger.finish(claim, nests_done=3)
    # Then eight nests are left
    work = work_of_table(ledger, given_pace("1"), at_once=1)
    assert (work.items, work.nests, work.import_units, work.sampled) == (3, 8, 0, 0)
    # … and from one item that was looked at follows about what the three ask for
    sampled = work_of_table(ledger, given_pace("1"), at_once=1, sample=1)
    assert (sampled.items, sampled.sampled) == (3, 1)
    assert sampled.nests in (6, 9)


def test_an_empty_table_asks_for_nothing():
    told = estimate(workflow(), work_of_table(MemoryLedger(), given_pace("1"), at_once=1), given_pace("1"), built_in())
    assert (told.items, told.pilots, told.vcpu_hours) == (0, 0, exactly(0))
    assert told.once == exactly(0)


# -------------------------------------------------------------------------------------------------------- estimate


def genomes(samples: int, pace: Pace) -> Work:
    known = genome("GRCh38")
    loci = plan_loci(known.dictionary, gaps=known.gaps, borders=known.borders, target_bases=5_000_000)
    values = tuple(str(one) for one in loci)
    return work_of_definitions(((f"NA{n:05d}", caller(*values)) for n in range(samples)), pace, at_once=4)


def told_of(samples: int = 3202, **more: Any) -> Estimate:
    pace = default_pace(1)
    return estimate(workflow(pilots=1000, **more), genomes(samples, pace), pace, built_in())


def test_3202_genomes_cost_what_the_page_says():
    told = told_of()
    # docs/cohort.md: 62,000 to 295,000 vCPU hours, 10.1 million units, $82 of calls, $530 a month for both kinds of gVCF.
    assert told.vcpu_hours is not None
    assert told.vcpu_hours.low < 70_000
    assert 295_000 < told.vcpu_hours.high < 350_000
    assert told.write_units.low < 10.1e6 < told.write_units.high
    puts, gets = line(told, "S3, PUT and LIST").dollars, line(told, "S3, GET and HEAD").dollars
    assert puts is not None
    assert gets is not None
    assert (puts + gets).low < 82 < (puts + gets).high < 100
    kept = line(told, "S3, results").dollars
    assert kept is not None
    assert kept.low < 265 < kept.high


def test_every_line_has_a_basis_and_a_source_of_its_price():
    for one in told_of(10).lines:
        assert one.basis in ("counted", "measured", "assumed"), one
        assert one.source or (one.dollars is not None and one.dollars.high == 0), one


def test_twice_the_samples_cost_about_twice():
    one, two = told_of(100), told_of(200)
    assert two.once.low == pytest.approx(2 * one.once.low, rel=0.1)
    assert two.once.high == pytest.approx(2 * one.once.high, rel=0.1)


def test_more_pilots_take_fewer_hours_and_about_the_same_dollars():
    pace = default_pace(1)
    work = genomes(400, pace)
    few = estimate(workflow(pilots=10), work, pace, built_in())
    many = estimate(workflow(), work, pace, built_in(), pilots=100)
    assert few.hours is not None
    assert many.hours is not None
    assert many.hours.high < few.hours.low
    assert many.once.low == pytest.approx(few.once.low, rel=0.2)


def test_no_more_pilots_than_items_ask_for():
    assert pilots_of(workflow(pilots=100, items=3), 7) == 3
    assert pilots_of(workflow(pilots=2), 7) == 2
    assert pilots_of(workflow(), 7, 5) == 5


def test_on_demand_costs_more_and_loses_nothing():
    pace = default_pace(1)
    work = genomes(10, pace)
    spot = line(estimate(workflow(), work, pace, built_in()), "machines, Spot")
    on_demand = line(estimate(workflow(), work, pace, built_in(), on_demand=True), "machines, on demand")
    assert spot.dollars is not None
    assert on_demand.dollars is not None
    assert spot.dollars.high < on_demand.dollars.high
    assert spot.amount is not None
    assert on_demand.amount is not None
    assert on_demand.amount.high < spot.amount.high


@pytest.mark.parametrize(("memory_gib", "vcpus"), [(12, Range(4, 4)), (32, Range(4, 8)), (64, Range(8, 16))])
def test_memory_occupies_vcpus_that_are_paid_for(memory_gib: int, vcpus: Range):
    work, pace = genomes(10, default_pace(1)), default_pace(1)
    usual = estimate(workflow(), work, pace, built_in())
    told = estimate(workflow(memory_mb=memory_gib * 1024), work, pace, built_in())
    # The containers' hours are the same, what they occupy is paid
    assert told.vcpu_hours == usual.vcpu_hours
    assert told.vcpu_hours is not None
    machines = line(told, "machines, Spot")
    assert machines.amount is not None
    assert machines.amount.low == pytest.approx(told.vcpu_hours.low * vcpus.low / 4)
    assert machines.amount.high == pytest.approx(told.vcpu_hours.high * vcpus.high / 4)
    assert (f"{memory_gib} GiB of memory occupy {vcpus} vCPUs" in machines.note) == (vcpus.high > 4)


def test_hours_say_how_many_vcpus_they_need_at_once():
    told = told_of(3202)
    assert told.vcpus_at_once == 4000
    shown = summary(told)["hours"]
    assert "if Batch gives 4,000 vCPUs at once" in shown
    assert "with the stack's 256, its default, about 16 times as long" in shown
    few = estimate(workflow(pilots=10), genomes(10, default_pace(1)), default_pace(1), built_in())
    assert summary(few)["hours"].endswith("if Batch gives 40 vCPUs at once")
    stack = (Path(__file__).resolve().parents[2] / "deployments" / "cloudformation.yaml").read_text()
    assert f"SpotVcpus:\n    Type: Number\n    Default: {STACK_VCPUS}\n" in stack


def test_ones_own_prices_decide(tmp_path: Path):
    (tmp_path / "p.yaml").write_text("spot_vcpu_hour: 0.01\n")
    pace = default_pace(1)
    told = estimate(workflow(), genomes(1, pace), pace, price_list("us-east-1", tmp_path / "p.yaml"))
    machines = line(told, "machines, Spot")
    assert machines.amount is not None
    assert machines.dollars is not None
    assert machines.dollars.low == pytest.approx(0.01 * machines.amount.low)
    assert "p.yaml" in machines.source


def test_what_is_not_known_is_said_and_not_counted_as_nothing():
    items = [("a", Definition(script="count.sh", arguments=("1", "2")))]
    told = estimate(workflow(), work_of_definitions(items, NO_PACE, at_once=1), NO_PACE, built_in())
    assert (told.hours, told.vcpu_hours, line(told, "machines, Spot").dollars) == (None, None, None)
    assert [one.partition(":")[0] for one in told.missing] == [
        "hours, and what machines cost",
        "how much results take in the bucket, and what that costs a month (--learn)",
    ]


@pytest.mark.parametrize(
    ("bucket", "dollars", "said"),
    [
        ({"region": "us-east-1", "access": "requester_pays"}, exactly(0), "none within us-east-1"),
        ({"region": "eu-west-1", "access": "anonymous"}, exactly(0), "owner pays"),
        ({"region": "eu-west-1", "access": "requester_pays"}, Range(0.02, 0.16), "you pay: from eu-west-1"),
        ({"region": "us-west-2", "access": "requester_pays"}, Range(0.01, 0.02), "you pay: from us-west-2"),
        ({"region": "sa-east-1", "access": "requester_pays"}, Range(0.02, 0.16), "you pay: from sa-east-1"),
        ({"access": "requester_pays"}, Range(0, 0.16), "region is not named"),
        ({"region": "eu-west-1", "access": "role"}, Range(0, 0.16), "its owner's bill"),
        ({"region": "eu-west-1", "endpoint": "https://s3.example.org"}, None, "not AWS"),
    ],
)
def test_reading_from_another_region_is_paid_by_whom_it_concerns(bucket: Any, dollars: Range | None, said: str):
    pace = default_pace(1)
    buckets = Buckets(results="s3://results", inputs=(InputBucket(bucket="reads", **bucket),))
    found = line(estimate(workflow(buckets=buckets), genomes(1, pace), pace, built_in()), "transfer, reads")
    assert found.amount is not None
    assert found.amount.low == pytest.approx(13.4, rel=0.02)  # GiB of a CRAM at 30x
    assert said in found.note
    if dollars is None:
        assert found.dollars is None
    else:
        assert found.dollars is not None
        assert found.dollars.high == pytest.approx(dollars.high * found.amount.high)
        assert found.dollars.low == pytest.approx(dollars.low * found.amount.low)


def transfers(region: str, *buckets: InputBucket) -> list[Line]:
    pace = default_pace(1)
    there = workflow(buckets=Buckets(results="s3://results", inputs=buckets))
    return [
        one
        for one in estimate(there, genomes(1, pace), pace, built_in(region)).lines
        if one.what.startswith("transfer")
    ]


def test_a_transfer_costs_what_the_region_asks_that_the_reads_leave(tmp_path: Path):
    # Given a reader in London, and a bucket of which the requester pays in Virginia
    (found,) = transfers("eu-west-2", InputBucket(bucket="reads", access="requester_pays", region="us-east-1"))
    # Then it is Virginia's price, not London's
    assert found.dollars is not None
    assert found.amount is not None
    assert found.dollars.high == pytest.approx(0.02 * found.amount.high)
    # And one's own price goes before each
    (tmp_path / "p.yaml").write_text("transfer_gb: 0.05\n")
    own = price_list("us-east-1", tmp_path / "p.yaml")
    assert own.transfer_from("sa-east-1").dollars == own.transfer_from("").dollars == exactly(0.05)


def test_reads_in_three_buckets_are_transferred_once_and_not_three_times():
    def bucket(name: str, region: str, access: Any = "requester_pays") -> InputBucket:
        return InputBucket(bucket=name, access=access, region=region)

    (one,) = transfers("us-east-1", bucket("one", "us-west-2"))
    (three,) = transfers("us-east-1", *(bucket(name, "us-west-2") for name in ("one", "two", "three")))
    assert (three.dollars, three.amount) == (one.dollars, one.amount)
    # Where they differ, all may lie in the cheapest, or in the dearest
    (mixed,) = transfers(
        "us-east-1", bucket("one", "us-east-1"), bucket("two", "us-west-2"), bucket("three", "sa-east-1")
    )
    assert mixed.dollars is not None
    assert mixed.amount is not None
    assert mixed.dollars.low == 0
    assert mixed.dollars.high == pytest.approx(0.16 * mixed.amount.high)
    for said in ("one: none within us-east-1", "three: you pay: from sa-east-1"):
        assert said in mixed.note


@pytest.mark.parametrize(
    ("gathered", "to_call", "left"),
    [(0, 5, 3202), (0, 0, 3202), (3197, 5, 5), (3202, 5, 5), (3000, 0, 202)],
)
def test_a_gather_that_waits_has_all_samples_to_do_that_nobody_gathered(gathered: int, to_call: int, left: int):
    seen = Look("gather", "Seq-gather", StepState.WAITS, wanted=gathered, done=gathered)
    assert left_to_gather(seen, to_call, 3202) == left


def test_the_joint_call_has_no_price_before_a_region_was_measured():
    pace = default_pace(1)
    work = genomes(3202, pace)
    called = told_of()
    whole = cohort_estimate(called, work, CALLER_LEAVES, workflow(), workflow(), built_in())
    assert whole.regions == pytest.approx(4700, rel=0.02)
    assert whole.hours is None
    assert any("--region-time" in text for text in whole.missing)
    # Given what a region takes, then it has
    timed = cohort_estimate(
        called, work, CALLER_LEAVES, workflow(), workflow(), built_in(), region_time=Range(600, 1200)
    )
    assert timed.hours is not None
    assert not timed.missing
    assert timed.once.low > whole.once.low


def test_a_cohorts_plan_says_that_earlier_cohorts_are_not_in_it(monkeypatch: pytest.MonkeyPatch):
    # Given 20 genomes of which 17 are called and nobody is gathered
    pace, context = default_pace(1), Context()
    called = workflow(references=(Reference(name="ref", uri="s3://refs/ref.fa"),))
    looked = Looked(called, None, Bases(), True, [])
    monkeypatch.setattr("pyanamo.cohort_cost.look", lambda *_, **__: looked)
    monkeypatch.setattr("pyanamo.cohort_cost.pace_of", lambda *_, **__: pace)
    monkeypatch.setattr("pyanamo.cohort_cost.prices_of", lambda *_: built_in())
    monkeypatch.setattr("pyanamo.cohort_cost._all_samples", lambda *_: genomes(20, pace))
    looks = [
        Look("call", "Seq", StepState.TODO, wanted=20, done=17, open=3),
        Look("gather", "Seq-gather", StepState.WAITS),
        Look("joint", "Seq-joint", StepState.WAITS),
    ]
    alone, with_others = (price_what_is_left(context, called, None, looks, Priced(also=also)) for also in (False, True))
    # Then three are called, all are gathered, and samples of other cohorts are said to be not in it
    assert alone is not None
    assert alone.cohort is not None
    assert (alone.cohort.call.items, alone.cohort.gather.items) == (3, 20)
    assert with_others is not None
    assert (ALSO in with_others.missing, ALSO in alone.missing) == (True, False)


def test_lines_say_the_same_twice():
    assert told_of(3) == told_of(3)
    assert replace(told_of(3), lines=()) != told_of(3)
