"""What a run has cost, from rows of pilots and attempts: every vCPU-second has a fate, dollars are bounds, nothing is told twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyanamo.context import Context, Opened
from pyanamo.main import app
from pyanamo_core.chain.report import steps
from pyanamo_core.clock import FakeClock
from pyanamo_core.cost.items import Pricing, SampleSums, item_costs
from pyanamo_core.cost.prices import price_list
from pyanamo_core.cost.ranges import Range
from pyanamo_core.cost.spent import Spending, in_words, of_run, spent
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.ledger.rows import pilot_row, read_pilot
from pyanamo_core.model import Attempt, Cause, Definition, Nest, NestStatus, PilotRecord, Run, Spent, State
from pyanamo_core.report import collect, render
from pyanamo_core.workflow import Buckets, Workflow

NOW = 1_800_000_000.0
WORKFLOW = Workflow(name="Seq", queue="Q", job_definition="D", vcpus=4, buckets=Buckets(results="s3://bucket/prefix"))
PRICES = "on_demand_vcpu_hour: 0.04\nspot_vcpu_hour: [0.01, 0.02]\nwrite_million: 1\nread_million: 0.5\nscratch_gb_month: 0\naddress_hour: 0\n"


@pytest.fixture
def prices(tmp_path: Path) -> Any:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    return price_list("us-east-1", path)


def pilot(name: str = "p", **more: Any) -> PilotRecord:
    """A pilot of two slots and four vCPUs that began an hour ago."""
    told = {
        "pilot_id": name,
        "run_id": "r",
        "started": NOW - 3600,
        "ready": NOW - 3500,
        "last_beat": NOW,
        "slots": 2,
        "vcpus": 4.0,
        "host": f"i-{name}",
        "lifecycle": "spot",
    }
    return PilotRecord.model_validate(told | more)


def fates(told: Spending) -> dict[str, float]:
    return {line.what: line.vcpu_seconds for line in told.lines}


def test_every_vcpu_second_of_a_pilot_has_one_fate(prices: Any) -> None:
    # Given a pilot of an hour: 100 s of start, 5,000 slot-seconds done, 800 failed, 600 cut short by Spot
    slots = {"done": 5000.0, "task_error": 800.0, "spot": 600.0}
    told = spent([pilot(ended=NOW, spent=Spent(slot_seconds=slots))], prices, now=NOW)
    # Then each slot-second is two vCPU-seconds, and what is left of 2 × 3,600 stood idle
    assert fates(told) == {"done": 10000, "task_error": 1600, "spot": 1200, "idle": 1200, "start-up": 400}
    assert sum(fates(told).values()) == told.vcpu_seconds == 4 * 3600
    assert {line.what: line.kind for line in told.lines} == {
        "done": "useful",
        "task_error": "failed",
        "spot": "cut short",
        "idle": "overhead",
        "start-up": "overhead",
    }
    assert sum(line.share for line in told.lines) == pytest.approx(1)
    # And the dollars are four vCPU hours of Spot, of which a part was lost
    assert (told.compute_dollars.low, told.compute_dollars.high) == (pytest.approx(0.04), pytest.approx(0.08))
    assert told.lost_vcpu_seconds == 4400
    assert told.lost_dollars.high == pytest.approx(0.08 * 4400 / 14400)


def test_spot_saved_what_on_demand_would_have_cost_more(prices: Any) -> None:
    told = spent([pilot(ended=NOW), pilot("q", ended=NOW, lifecycle="on-demand")], prices, now=NOW)
    assert told.on_demand_dollars.low == pytest.approx(0.32)
    assert (told.saved.low, told.saved.high) == (pytest.approx(0.08), pytest.approx(0.12))
    assert {place.lifecycle: place.pilots for place in told.places} == {"spot": 1, "on-demand": 1}


def test_what_nobody_told_is_bounds_and_not_a_guess(prices: Any) -> None:
    told = spent([pilot(ended=NOW, lifecycle="")], prices, now=NOW)
    assert (told.compute_dollars.low, told.compute_dollars.high) == (pytest.approx(0.04), pytest.approx(0.16))
    assert told.saved == Range(0, 0)


def test_pilots_of_the_queue_on_demand_are_on_demand_though_no_metadata_said_so(prices: Any) -> None:
    row = pilot(ended=NOW, lifecycle="", job_queue="Seq_OnDemand")
    arn = "arn:aws:batch:us-east-1:1:job-queue/Seq_OnDemand"
    told = spent([row], prices, now=NOW, on_demand_queue=arn)
    assert (told.compute_dollars.low, told.compute_dollars.high) == (pytest.approx(0.16), pytest.approx(0.16))
    assert [place.lifecycle for place in told.places] == ["on-demand"]
    # The metadata know better than a queue's name
    told = spent([row.model_copy(update={"lifecycle": "spot"})], prices, now=NOW, on_demand_queue=arn)
    assert told.compute_dollars.high == pytest.approx(0.08)


def test_a_type_that_the_list_lacks_has_no_dollars_and_is_named(tmp_path: Path) -> None:
    # Given an hour of four vCPUs on a machine with GPUs, and one on a usual machine
    rows = [pilot(ended=NOW, instance_type="p3.2xlarge", lifecycle="on-demand")]
    usual = pilot("q", ended=NOW, instance_type="m5.xlarge", lifecycle="on-demand")
    told = spent([*rows, usual], price_list("us-east-1"), now=NOW)
    # Then only the usual one has dollars, and the other is named
    assert told.compute_dollars.low == told.compute_dollars.high == pytest.approx(4 * 0.048)
    assert dict(told.unpriced) == {"p3.2xlarge": 4 * 3600}
    assert "without dollars for p3.2xlarge" in in_words(told)
    # But a price of one's own, of the family or of all, is taken
    for text in ("instances: {p3: 0.38}", "on_demand_vcpu_hour: 0.38"):
        (tmp_path / "own.yaml").write_text(text)
        told = spent(rows, price_list("us-east-1", tmp_path / "own.yaml"), now=NOW)
        assert told.compute_dollars.high == pytest.approx(4 * 0.38)
        assert not told.unpriced


def test_a_pilot_that_died_has_lost_what_ran_and_what_came_after_its_last_beat_is_an_upper_bound(prices: Any) -> None:
    # Given a pilot that beat last half an hour ago, with 300 slot-seconds of nests that ran
    row = pilot(last_beat=NOW - 1800, spent=Spent(slot_seconds={"done": 2000.0, "open": 300.0}))
    told = spent([row], prices, now=NOW, beat_seconds=200, lease_seconds=600)
    # Then these are lost, and at most a beat more
    assert told.silent == 1
    assert fates(told)["lost"] == 600
    assert told.unseen_vcpu_seconds == pytest.approx(220 * 4)
    assert told.compute_dollars.low == pytest.approx(1800 * 4 / 3600 * 0.01)
    assert told.compute_dollars.high == pytest.approx((1800 + 220) * 4 / 3600 * 0.02)
    # And of one that works they are useful so far
    alive = spent([row.model_copy(update={"last_beat": NOW - 100})], prices, now=NOW)
    assert (alive.working, alive.silent, alive.unseen_vcpu_seconds) == (1, 0, 0)
    assert fates(alive)["open"] == 600


def test_rows_of_pilots_that_told_less_are_still_counted(prices: Any) -> None:
    row = PilotRecord(pilot_id="old", started=NOW - 100, last_beat=NOW, ended=NOW, slots=2, claims=3, busy_seconds=150)
    told = spent([row], prices, now=NOW, vcpus=2)
    assert told.vcpu_seconds == 200
    assert fates(told) == {"busy": 150, "idle": 50}
    never = PilotRecord(pilot_id="never", started=NOW - 60, last_beat=NOW, ended=NOW)
    assert fates(spent([never], prices, now=NOW)) == {"start-up": 60}


def test_units_requests_and_bytes_are_summed_and_priced(prices: Any) -> None:
    row = pilot(
        ended=NOW,
        spent=Spent(
            write_units=2e6, read_units=1e6, s3_writes=2000, s3_reads=10_000, log_bytes=2**30, output_bytes=2**40
        ),
    )
    told = spent([row, row], prices, now=NOW)
    found = {bill.what: (bill.amount.low, bill.dollars.low) for bill in told.bills}
    assert found["ledger, writes"] == (4e6, pytest.approx(4))
    assert found["ledger, reads"] == (2e6, pytest.approx(1))
    assert found["S3, PUT and LIST"] == (4000, pytest.approx(0.02))
    assert found["S3, GET and HEAD"] == (20_000, pytest.approx(0.008))
    assert found["CloudWatch Logs of nests"] == (2, pytest.approx(1))
    assert told.a_month.low == pytest.approx(2 * 1024 * 0.023)
    # A host's volume is paid for once, however many pilots share it
    hours = next(bill.amount for bill in told.bills if bill.what == "volume and address")
    assert hours.high == pytest.approx(1)


def test_a_pilots_row_keeps_what_it_spent() -> None:
    row = pilot(spent=Spent(slot_seconds={"done": 1.5}, write_units=7.5, s3_reads=3), zone="us-east-1a", job_queue="Q")
    assert read_pilot(pilot_row(row, 4)) == row


# ------------------------------------------------------------------------------------------------- items and samples


class Table:
    """A run in memory: A is done at its second claim after Spot took the first, B failed, C's pilot died, D is to do."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = MemoryLedger(rules=WORKFLOW.rules, clock=self.clock)
        self.ledger.add_workflow(WORKFLOW)
        self.ledger.begin_run(Run(run_id="r", workflow_version=1, token="t", started=self.clock.now()))
        for name in "ABCD":
            self.ledger.import_item(name, "t", Definition(script="s", arguments=("1", "2", "3")))
        self.claimed("A", 100, Cause.SPOT, slot_seconds=180.0, kept_seconds=60.0)
        self.claimed("A", 50, Cause.DONE, slot_seconds=90.0, kept_seconds=90.0)
        self.claimed("B", 10, Cause.PERMANENT, slot_seconds=15.0, kept_seconds=0.0)
        self.claimed("C", 40, None, kept=30.0)

    def claimed(self, name: str, seconds: float, cause: Cause | None, kept: float = 0.0, **told: float) -> None:
        claim = self.ledger.claim(name, "p", run_id="r")
        assert claim is not None
        started = self.clock.now()
        about = {"item_id": name, "fence": claim.fence}
        self.ledger.put_attempt(Attempt(**about, run_id="r", vcpus=4, slots=2, lifecycle="spot", started=started))
        if name in "AC":
            self.ledger.record_nest(
                claim,
                Nest(
                    item_id=name,
                    epoch=0,
                    index=0,
                    status=NestStatus.DONE,
                    fence=claim.fence,
                    started=started,
                    ended=started + kept,
                    figures={"sample": "NA1"} if name == "A" else {},
                ),
            )
        self.clock.move(seconds)
        if cause is Cause.DONE:
            for index in (1, 2):
                self.ledger.record_nest(
                    claim, Nest(item_id=name, epoch=0, index=index, status=NestStatus.DONE, fence=claim.fence)
                )
            self.ledger.finish(claim, nests_done=3)
        elif cause is Cause.SPOT:
            self.ledger.hand_back(claim, cause, progressed=True, started=True)
        elif cause is not None:
            self.ledger.fail(claim, cause, "no", nests_failed=1)
        if cause is not None:
            self.ledger.put_attempt(
                Attempt.model_validate({**about, "cause": cause, "ended": self.clock.now(), "cpu_seconds": 5.0, **told})
            )
        else:
            self.clock.move(1000)
            self.ledger.put_attempt(Attempt(**about, cause=Cause.LOST, ended=started + seconds))


def test_items_tell_their_attempts_and_what_of_them_was_lost(prices: Any) -> None:
    table = Table()
    told = {one.item_id: one for one in item_costs(table.ledger, Pricing(prices, table.clock.now()), run_id="r")}
    # A's first attempt kept 60 of 180 slot-seconds, two vCPUs each; D was never claimed
    assert set(told) == {"A", "B", "C"}
    a, b, c = (told[name] for name in "ABC")
    assert (a.attempts, a.vcpu_seconds, a.lost_vcpu_seconds, dict(a.lost)) == (2, 540, 240, {"spot": 240})
    assert (b.vcpu_seconds, dict(b.lost), b.state) == (30, {"permanent": 30}, "failed")
    assert (a.sample, b.sample) == ("NA1", "B")
    assert a.dollars.high == pytest.approx(540 / 3600 * 0.02)
    # C's pilot died after 40 s, of which one nest took 30: two slots of it are counted, 50 slot-seconds lost
    assert (c.estimated, c.vcpu_seconds, dict(c.lost)) == (True, 160, {"lost": 100})
    assert not a.estimated
    # A: two claims, two ends, two attempt rows of two, three nests; no beat within 200 s
    assert a.write_units == 2 * (3 + 3 + 2) + 3


def died_on_friday() -> tuple[MemoryLedger, FakeClock]:
    """An item of one nest, whose pilot of four vCPUs lived ten minutes; nobody was there to see that it died."""
    clock = FakeClock()
    ledger = MemoryLedger(rules=WORKFLOW.rules, clock=clock)
    ledger.import_item("A", "t", Definition(script="s", arguments=("1",)))
    claim = ledger.claim("A", "p", run_id="r")
    assert claim is not None
    about = {"vcpus": 4, "slots": 1, "lifecycle": "spot", "started": clock.now()}
    ledger.put_attempt(Attempt.model_validate({"item_id": "A", "fence": 1, "run_id": "r"} | about))
    for _ in range(2):
        clock.move(300)
        beaten = ledger.beat(claim, progressed=False, nests_done=0, nests_failed=0)
        claim = claim.model_copy(update={"deadline": beaten.deadline})
    return ledger, clock


def test_a_pilot_that_died_on_friday_costs_no_weekend(prices: Any) -> None:
    ledger, clock = died_on_friday()
    until_lease = 600 + WORKFLOW.timing.lease_seconds
    # While its lease lasts, it may live: nothing is lost
    (seen,) = item_costs(ledger, Pricing(prices, clock.now()))
    assert (seen.vcpu_seconds, seen.lost_vcpu_seconds) == (4 * 600, 0)
    # When Monday comes, then it has cost what its lease allowed at most, and that is lost
    clock.move(3 * 86400)
    (seen,) = item_costs(ledger, Pricing(prices, clock.now()))
    assert seen.vcpu_seconds == pytest.approx(4 * until_lease)
    assert dict(seen.lost) == {"lost": pytest.approx(4 * until_lease)}
    # When the next pilot takes the item, then that is still so, and nothing is added for days without beats
    claim = ledger.claim("A", "q", run_id="r")
    assert claim is not None
    (after,) = item_costs(ledger, Pricing(prices, clock.now()))
    assert (after.vcpu_seconds, dict(after.lost)) == (seen.vcpu_seconds, dict(seen.lost))
    assert after.write_units < 60


def test_rows_of_nests_count_with_their_size_and_those_of_another_run_not_at_all(prices: Any) -> None:
    # Given two nests with rows of 3 KB, each done under another run's claim
    clock = FakeClock()
    ledger = MemoryLedger(rules=WORKFLOW.rules, clock=clock)
    ledger.import_item("A", "t", Definition(script="s", arguments=("1", "2", "3")))
    for index, run in enumerate(("r", "q")):
        claim = ledger.claim("A", "p", run_id=run)
        assert claim is not None
        ledger.put_attempt(Attempt(item_id="A", fence=claim.fence, run_id=run, slots=1, started=clock.now()))
        ledger.record_nest(
            claim,
            Nest(
                item_id="A",
                epoch=0,
                index=index,
                status=NestStatus.DONE,
                fence=claim.fence,
                figures={f"figure-{number:02}": "x" * 80 for number in range(25)},
            ),
        )
        ledger.hand_back(claim, Cause.SPOT, progressed=True, started=True, nests_done=index + 1)
        told = {"cause": Cause.SPOT, "ended": clock.now(), "slot_seconds": 1.0}
        ledger.put_attempt(Attempt.model_validate({"item_id": "A", "fence": claim.fence} | told))
        clock.move(1000)
    # Then both runs have 3 units for the nest that was theirs, and all of it together 6
    (r,), (q,), (whole,) = (
        list(item_costs(ledger, Pricing(prices, clock.now()), run_id=run)) for run in ("r", "q", None)
    )
    assert r.write_units == q.write_units == 8 + 3
    assert whole.write_units == 2 * 8 + 2 * 3


def test_another_run_has_cost_nothing(prices: Any) -> None:
    table = Table()
    assert list(item_costs(table.ledger, Pricing(prices, table.clock.now()), run_id="other")) == []


def test_samples_are_the_sums_of_their_items(prices: Any) -> None:
    table = Table()
    with SampleSums() as sums:
        items = list(sums.passing(item_costs(table.ledger, Pricing(prices, table.clock.now()))))
        # The same items again, as if each sample had a second one of the same cost
        list(sums.passing(items))
        samples = {one.sample: one for one in sums.costs()}
    assert {name: one.items for name, one in samples.items()} == {"NA1": 2, "B": 2, "C": 2}
    assert samples["NA1"].vcpu_seconds == 1080
    assert samples["NA1"].dollars.high == pytest.approx(2 * items_high(items, "NA1"))
    assert next(iter(samples)) == "NA1"
    assert (samples["C"].estimated, samples["NA1"].estimated) == (True, False)


def items_high(items: list[Any], sample: str) -> float:
    return sum(one.dollars.high for one in items if one.sample == sample)


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Table:
    made = Table()
    monkeypatch.setattr(Context, "opened", property(lambda _: Opened(made.ledger, 1, WORKFLOW)))
    monkeypatch.setattr("time.time", made.clock.now)
    monkeypatch.setenv("PYANAMO_TABLE", "Seq")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    (tmp_path / "prices.yaml").write_text(PRICES)
    monkeypatch.setenv("PYANAMO_PRICES", str(tmp_path / "prices.yaml"))
    now = made.clock.now()
    row = pilot(
        started=now - 3600,
        ready=now - 3500,
        last_beat=now,
        ended=now,
        instance_type="m5.xlarge",
        job_queue="Seq_Queue",
        items_done=1,
        spent=Spent(slot_seconds={"done": 5000.0, "spot": 600.0}, write_units=123456.0, output_bytes=2**30),
    )
    made.ledger.put_pilot(row)
    return made


def typed(*words: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))


def test_cost_shows_the_fates_the_place_and_what_is_not_in_it(table: Table) -> None:
    told = typed("cost")
    assert told.exit_code == 0, told.output
    assert "cut short" in told.stdout
    assert "Seq_Queue" in told.stdout
    assert "m5.xlarge" in told.stdout
    assert "saved by Spot" in told.stdout
    assert "123,456 write units" in told.stdout
    assert "not in it" in told.stdout
    assert "next: pyanamo cost r --by sample" in told.stderr
    data = json.loads(typed("cost", "r", "--json").stdout)
    assert data["dollars"]["high"] == pytest.approx(0.08 + 0.123456, rel=0.01)
    assert sum(line["vcpu_seconds"] for line in data["spending"]["lines"]) == 4 * 3600


def test_cost_by_item_shows_the_dearest_and_writes_all(table: Table, tmp_path: Path) -> None:
    told = typed("cost", "--by", "item", "--limit", "1", "--out", str(tmp_path / "items.tsv"))
    assert told.exit_code == 0, told.output
    assert "… and 2 more" in told.stdout
    assert "of none of them" in told.stdout
    with (tmp_path / "items.tsv").open(newline="") as stream:
        rows = {row["item"]: row for row in csv.DictReader(stream, delimiter="\t")}
    assert set(rows) == {"A", "B", "C"}
    assert json.loads(rows["A"]["lost_by_cause"]) == {"spot": 240.0}
    assert float(rows["A"]["dollars_high"]) == pytest.approx(0.003)
    data = json.loads(typed("cost", "--by", "sample", "--json").stdout)
    assert [one["sample"] for one in data["shown"]] == ["NA1", "C", "B"]
    assert data["vcpu_seconds"] == 540 + 30 + 160


def test_cost_refuses_a_name_that_says_no_format_and_a_run_without_pilots(table: Table, tmp_path: Path) -> None:
    for by in ("run", "item"):
        told = typed("cost", "--by", by, "--out", str(tmp_path / "costs.xlsx"))
        assert told.exit_code == 3, told.output
        assert "must end in .tsv" in told.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prices.yaml"]
    table.ledger.end_run("r", "completed")
    table.ledger.begin_run(Run(run_id="empty", workflow_version=1, token="e", started=table.clock.now() + 1))
    told = typed("cost", "empty")
    assert told.exit_code != 0
    assert "no pilot's row" in told.stderr


def test_states_of_the_table_are_as_the_story_says(table: Table) -> None:
    counts = table.ledger.counts()
    assert (counts.done, counts.failed, counts.locked, counts.todo) == (1, 1, 1, 1)
    assert table.ledger.item("C").state is State.LOCKED


def test_the_html_report_tells_what_the_run_cost_where_prices_are_given(table: Table, prices: Any) -> None:
    data = collect(table.ledger, run_id="r", prices=prices, now=table.clock.now())
    assert data.spending is not None
    page = render(data)
    assert "What it cost" in page
    assert in_words(data.spending) in page.replace("&#39;", "'")
    assert "What it cost" not in render(collect(table.ledger, run_id="r", now=table.clock.now()))


def test_the_summary_has_the_cost_in_a_line(table: Table, prices: Any) -> None:
    from pyanamo_flows.publish import summary

    run = table.ledger.run("r")
    told = in_words(of_run(table.ledger, run, prices, now=table.clock.now()))
    assert "4.00 vCPU hours" in told
    assert "Spot saved" in told
    text = summary(run, table.ledger.counts(), "Seq", [], 0, {}, cost=told)
    assert f"Cost: {told} (`pyanamo cost r --table Seq`)" in text


class Gathered(Table):
    """The table of gather beside it: A, B and C are gathered, and nothing was lost."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = MemoryLedger(rules=WORKFLOW.rules, clock=self.clock, table="Seq-gather")
        self.ledger.add_workflow(WORKFLOW)
        self.ledger.import_item("NA1", "t", Definition(script="s", arguments=("1", "2", "3")))
        self.claimed("NA1", 50, Cause.DONE, slot_seconds=50.0, kept_seconds=50.0)


def test_the_cohorts_report_tells_the_cost_of_each_step_and_their_sum(table: Table, prices: Any) -> None:
    told = steps([table.ledger, Gathered().ledger], prices, table.clock.now())
    first, second, sum_of_all = told.rows
    assert first[-2:] == ("4.00", "$0.16–0.20")
    assert second[:3] == ("Seq-gather", "1 of 1", "0")
    assert sum_of_all[-1] == "$0.16–0.20"


def test_a_cohort_is_told_by_steps_and_by_samples_over_call_and_gather(
    table: Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Given the tables of call and gather; sample NA1 has an item in each
    ledgers = {"call": table.ledger, "gather": Gathered().ledger}
    monkeypatch.setattr("pyanamo_core.chain.costs.ledgers_of", lambda *_: ledgers)
    monkeypatch.setattr(Context, "clients", property(lambda _: None))
    # When the cohort's cost is asked for, by steps and by samples
    told = typed("cohort", "cost", "--json")
    assert told.exit_code == 0, told.output
    assert [step["step"] for step in json.loads(told.stdout)["steps"]] == ["call", "gather"]
    out = tmp_path / "samples.csv"
    told = typed("cohort", "cost", "--by", "sample", "--limit", "1", "--out", str(out))
    # Then the sample's time is that of both
    assert told.exit_code == 0, told.output
    assert "… and 2 more" in told.stdout
    with out.open(newline="") as stream:
        rows = {row["sample"]: row for row in csv.DictReader(stream)}
    assert float(rows["NA1"]["vcpu_seconds"]) == 540 + 100
    assert rows["NA1"]["items"] == "2"
    assert typed("cohort", "cost", "--out", "x.pdf").exit_code == 3


def test_runs_show_has_the_cost_in_a_line_and_lives_without_it(table: Table, tmp_path: Path) -> None:
    told = typed("runs", "show", "r")
    assert told.exit_code == 0, told.output
    assert "more: pyanamo cost r" in told.stdout
    # A file of prices that is none costs the line, not the command
    (tmp_path / "prices.yaml").write_text("spot_vcpu_hour: dear\n")
    told = typed("runs", "show", "r")
    assert told.exit_code == 0, told.output
    assert "pyanamo cost r" not in told.stdout
    assert "is no number of dollars" in told.stderr
