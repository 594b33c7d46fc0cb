"""What `pyanamo explain` says of runs, items and nests: paragraphs from the ledger in memory and a Batch that stands still."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fleet_fake_batch import refused
from fleet_support import Scene

from pyanamo_core.fleet.account import Account, of_run, of_table
from pyanamo_core.fleet.account_item import of_item, of_nest
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.item_jobs import item_jobs
from pyanamo_core.fleet.mends import mend_of
from pyanamo_core.model import Attempt, Cause, Definition, Item, Mode, Nest, NestStatus, State, VcpuHour


class Asked:
    """A scene, and the questions that a user asks of it."""

    def __init__(self, **told: Any) -> None:
        self.scene = Scene(**told)
        self.batch = Batch(self.scene.clients)

    def run(self) -> Account:
        scene = self.scene
        return of_run(self.batch, scene.ledger, scene.run, scene.workflow, clock=scene.clock)

    def item(self, item_id: str) -> Account:
        scene = self.scene
        return of_item(self.batch, scene.ledger, item_id, scene.workflow, clock=scene.clock)

    def nest(self, item_id: str, number: int = 0) -> Account:
        scene = self.scene
        return of_nest(self.batch, scene.ledger, item_id, number, scene.workflow, clock=scene.clock)

    def holds(self, item_id: str, pilot: str = "p", **told: Any) -> None:
        """A pilot of the first job's first child claims an item."""
        self.scene.batch.job().set("RUNNING", 0)
        self.scene.pilot(pilot, batch_job="job-0:0", batch_attempt=1, holding=(item_id,), **told)
        claim = self.scene.claim(item_id, pilot)
        self.scene.ledger.put_attempt(
            Attempt(item_id=item_id, fence=claim.fence, pilot_id=pilot, host="h1", batch_job="job-0:0", batch_attempt=1)
        )

    def fails(self, item_id: str, cause: Cause, message: str, *, code: int | None = 1, tail: str = "") -> None:
        scene = self.scene
        claim, now = scene.claim(item_id, "p"), scene.clock.now()
        scene.ledger.record_nest(
            claim,
            Nest(
                item_id=item_id,
                epoch=claim.epoch,
                index=0,
                status=NestStatus.FAILED,
                fence=claim.fence,
                exit_code=code,
                cause=cause,
                message=message,
                started=now,
                ended=now + 4,
                peak_memory_mb=300,
                tail=tail,
            ),
        )
        scene.ledger.put_attempt(
            Attempt(
                item_id=item_id,
                fence=claim.fence,
                host="h1",
                instance_type="c5.xlarge",
                lifecycle="spot",
                batch_job="job-0:0",
                started=now,
                ended=now + 5,
                cause=cause,
                evidence="exit 1 no such file",
            )
        )
        scene.ledger.fail(claim, cause, f"nest 0: {message}", nests_failed=1)


def bounded(asked: Asked, **more: Any) -> None:
    """Another run in place of the scene's, with these bounds."""
    standing = asked.scene.run
    asked.scene.ledger.end_run("run", "completed", "")
    made = {"run_id": "bounded", "token": "b", "submissions": (), "ended": None, "outcome": "", "reason": ""} | more
    asked.scene.run_id = asked.scene.ledger.begin_run(standing.model_copy(update=made)).run_id


def codes(account: Account) -> list[str]:
    return [one.code for one in account.findings]


def test_a_table_without_items_says_what_comes_first():
    asked = Asked()
    told = of_table(asked.scene.ledger, asked.scene.workflow, 1)
    assert told.paragraph == (
        "Table memory holds workflow seq, version 1; no run has begun. The table holds no items. Table: it holds no"
        " items. Import a sheet with: pyanamo sheet import SHEET."
    )
    assert (codes(told), told.next) == (["nothing_imported"], "pyanamo sheet import sheet.txt")


def test_a_table_with_items_and_no_run_says_how_to_begin():
    asked = Asked(items=5)
    told = of_table(asked.scene.ledger, asked.scene.workflow, 1)
    assert "All 5 items are to do. Table: nobody works on it. Start pilots with: pyanamo run." in told.paragraph
    assert told.next == "pyanamo run"


def test_the_account_of_a_run_tells_how_far_it_is_who_works_and_where():
    # Given a run of three pilots: one works, one has died silently, one waits
    asked = Asked(items=5, pilots=3)
    asked.scene.polls(asked.scene.watch())
    asked.holds("i0", "p0")
    asked.scene.pilot("p1", batch_job="job-0:1", holding=("i4",))
    asked.scene.claim("i4", "p1")
    asked.scene.clock.move(400)
    asked.scene.pilot("p0", holding=("i0",))
    asked.scene.clock.move(20)
    asked.scene.finish("i1")
    # When the user asks
    told = asked.run()
    # Then the paragraph has it all
    assert told.paragraph == (
        "Run run of table memory (workflow version 1) has gone on for 7m10s; nobody watches it."
        " Of 5 items 1 is done, 2 are being worked on and 2 are to do."
        " It asked Batch for 3 pilots on queue queue (1 vCPUs and 0 MB each): 1 RUNNING and 2 RUNNABLE."
        " 1 pilot beat, the last 20s ago, with 1 item in hand; 1 pilot went silent, the last 7m00s ago."
        " Queue queue is ENABLED and VALID, with compute environment ce (ENABLED, VALID, 0 of at most 64 vCPUs)."
        " 1 pilot: silent (last beat 7m00s ago), it holds i4. That comes back when the leases end; at once, if Batch"
        " says that they are gone, with: pyanamo recover."
    )
    assert told.next == "pyanamo recover"


def test_a_run_that_goes_on_says_so():
    asked = Asked(items=3, pilots=1)
    asked.scene.polls(asked.scene.watch())
    asked.holds("i0")
    told = asked.run()
    assert told.facts[-1] == "Nothing keeps it from going on."
    assert (told.findings, told.next) == ((), "pyanamo watch run")


def test_a_run_that_failed_names_its_failures_and_leads_to_one():
    # Given a run all of whose items failed
    asked = Asked(items=2)
    for item_id in ("i0", "i1"):
        asked.fails(item_id, Cause.TASK_ERROR, "exit code 1: no such file")
    asked.scene.ledger.end_run("run", "failed", "2 of 2 items failed")
    # Then
    told = asked.run()
    assert codes(told) == ["run_failed", "all_failed"]
    assert "2 items failed with task_error, e.g. i0: nest 0: exit code 1: no such file." in told.paragraph
    assert "all 2 items have failed. Mend what one of them tells, then: pyanamo items retry" in told.paragraph
    assert told.next == "pyanamo explain i0"


def test_a_canary_tells_its_items_and_an_item_that_is_not_among_them_says_so():
    asked = Asked(items=4)
    bounded(asked, only=("i1", "i3"))
    asked.scene.finish("i1")
    told = asked.run()
    assert "It is a canary and works on 2 items only: i1 and i3. Of 2 items 1 is done and 1 is to do." in told.paragraph
    told = asked.item("i0")
    assert codes(told) == ["not_chosen"]
    assert "Table: run bounded is live, but a canary: it works on i1 and i3 only. It is claimed" in told.paragraph
    assert codes(asked.item("i3")) == ["unwatched"]


def test_a_run_with_a_limit_of_dollars_tells_what_it_has_spent_and_how_to_go_on_after_it():
    # Given a limit of two dollars, and a pilot of one vCPU that has lived for an hour
    asked = Asked(items=4)
    price = VcpuHour(spot=(0.5, 1.0), on_demand=(2.0, 2.0))
    bounded(asked, max_dollars=2.0, vcpu_hour=price)
    asked.scene.pilot("p", started=asked.scene.clock.now() - 3600, lifecycle="spot")
    told = asked.run()
    assert "It may cost $2.00; its pilots' machines have cost $0.50 to $1.00, and what they hold" in told.paragraph
    # When it has reached it
    asked.scene.ledger.set_mode("bounded", Mode.DRAIN, "stopped: max_dollars $2.00: spent ≤ $1.00, committed $1.20")
    assert "Once it has ended: pyanamo run, with a higher max_dollars." in asked.run().paragraph
    asked.scene.ledger.end_run("bounded", "stopped", "max_dollars $2.00: spent ≤ $1.00, committed $1.20")
    told = asked.run()
    assert codes(told) == ["run_stopped"]
    assert told.paragraph.endswith("committed $1.20). Go on with: pyanamo run, with a higher max_dollars.")


def test_a_drained_run_says_that_it_drains_and_why():
    asked = Asked(items=2)
    asked.scene.ledger.set_mode("run", Mode.DRAIN, "lunch")
    assert "Run run: its mode is drain (lunch). Once it has ended: pyanamo run." in asked.run().paragraph


def test_where_batch_may_not_be_asked_the_ledger_s_facts_are_told_all_the_same():
    asked = Asked(items=2)
    asked.scene.polls(asked.scene.watch())

    def no(**_asked: Any) -> Any:
        raise refused("DescribeJobs", "AccessDeniedException", "not authorized to perform batch:DescribeJobs", 403)

    asked.scene.batch.describe_jobs = no  # type: ignore[method-assign]
    told = asked.run()
    assert "All 2 items are to do." in told.paragraph
    assert codes(told) == ["not_asked"]
    assert "batch:DescribeJobs" in told.findings[0].fact


def test_an_item_that_is_worked_on_tells_who_holds_it_and_what_its_job_does():
    asked = Asked(items=2)
    asked.scene.polls(asked.scene.watch())
    asked.holds("i0", last_lines=("i0 0: crunching", "i1 0: other"))
    asked.scene.clock.move(20)
    told = asked.item("i0")
    assert told.paragraph.endswith(
        "1 of 3 tries is used. 0 of 1 nest is done. 1 attempt: number 1 goes on on h1. Pilot p on h1 holds it, last beat"
        " 20s ago; its lease lasts for another 2m40s. It says: i0 0: crunching. Its Batch job job-0:0, attempt 1, is"
        " RUNNING. Nothing keeps it from going on."
    )
    assert asked.nest("i0").paragraph.startswith("Nest 0 of item i0 has no result yet. Item i0 is being worked on")


def test_an_item_of_a_pilot_whose_host_was_terminated_says_so_and_how_to_take_it_back():
    asked = Asked(items=2)
    asked.scene.polls(asked.scene.watch())
    asked.holds("i0")
    asked.scene.clock.move(100)
    asked.scene.batch.job().fail(
        0, exit_code=None, at=asked.scene.clock.now() - 30, status_reason="Host EC2 (instance i-1) terminated."
    )
    told = asked.item("i0")
    assert codes(told) == ["pilot_gone"]
    assert (
        "Pilot p: it is gone: Batch says that its attempt ended 30s ago (Host EC2 (instance i-1) terminated.). It comes"
        " back in 1m20s, when the lease ends. At once: pyanamo recover." in told.paragraph
    )
    assert told.next == "pyanamo recover"


def test_an_item_whose_dead_pilot_batch_has_forgotten_waits_for_its_lease():
    asked = Asked(items=2)
    asked.scene.polls(asked.scene.watch())
    asked.holds("i0")
    asked.scene.batch.job().forgotten = True
    # While the lease lasts, and after it
    asked.scene.clock.move(170)
    told = asked.item("i0")
    assert codes(told) == ["pilot_silent"]
    assert "Batch does not know its job job-0:0 (any more). Pilot p: it no longer beats, and Batch" in told.paragraph
    asked.scene.clock.move(100)
    told = asked.item("i0")
    assert codes(told) == ["lease_over"]
    assert "its lease ended 1m30s ago" in told.paragraph
    assert "The next pilot that claims takes it." in told.paragraph


def test_an_item_to_do_tells_what_keeps_the_run_from_claiming_it():
    asked = Asked(items=2)
    asked.scene.polls(asked.scene.watch())
    asked.scene.batch.environments["ce"]["computeResources"]["maxvCpus"] = 0
    told = asked.item("i0")
    assert codes(told) == ["ceiling_zero"]
    assert "No pilot has claimed it yet. Run run is live, and no pilot works for it." in told.paragraph


def test_an_item_for_on_demand_pilots_only_tells_what_keeps_them_from_it():
    # Given an item that a user retried so, in a workflow without such a queue
    asked = Asked(items=1)
    scene = asked.scene
    scene.ledger.retry(scene.ledger.cancel(scene.ledger.item("i0")), on_demand=True)
    told = asked.item("i0")
    assert codes(told) == ["no_on_demand_queue"]
    assert "It is for on-demand pilots only; run run is live." in told.paragraph
    # When it names one, whose ceiling is 0 as the stack makes it
    bounded(
        asked, workflow_version=scene.ledger.add_workflow(scene.workflow.model_copy(update={"on_demand_queue": "od"}))
    )
    place = {"computeEnvironment": "od-ce", "order": 1}
    scene.batch.queues["od"] = scene.batch.queues["queue"] | {"jobQueueName": "od", "computeEnvironmentOrder": [place]}
    scene.batch.environments["od-ce"] = scene.batch.environments["ce"] | {
        "computeEnvironmentName": "od-ce",
        "computeResources": {"maxvCpus": 0},
    }
    told = asked.item("i0")
    assert codes(told) == ["on_demand_obstacle"]
    assert "has a ceiling of 0 vCPUs, a pilot needs 1: pyanamo deploy --set OnDemandVcpus=1 raises it" in told.paragraph
    # Then, with room, nothing keeps it
    scene.batch.environments["od-ce"]["computeResources"] = {"maxvCpus": 8}
    told = asked.item("i0")
    assert (told.findings, told.facts[-1]) == ((), "8 pilots fit on queue od; its watcher submits them first.")


def test_an_item_to_do_without_a_live_run_says_how_to_start_one():
    asked = Asked(items=1)
    asked.scene.ledger.end_run("run", "drained", "")
    told = asked.item("i0")
    assert (codes(told), told.next) == (["no_run"], "pyanamo run")


def test_a_failed_item_and_its_nest_tell_what_happened_where_and_what_to_do():
    asked = Asked(items=1)
    asked.fails("i0", Cause.TASK_ERROR, "exit code 1: no such file", tail="oh dear\nno such file\n")
    told = asked.item("i0")
    assert re.sub(r"20\d\d-\S+ \S+", "WHEN", told.paragraph) == (
        "Item i0 failed at WHEN (UTC): task_error; 1 of 3 tries is used. 0 of 1 nest is done. Nest 0 failed after 4.0s in"
        " attempt 1, with 300 MB at its peak: task_error: exit code 1: no such file. 1 attempt: number 1 ended with"
        " task_error after 5.0s on h1 (exit 1 no such file). Item i0: it failed with task_error. See what its script"
        " said: pyanamo logs i0 0 — try it on this machine: pyanamo rehearse SHEET --item i0 --nest 0 — once it is"
        " mended: pyanamo items retry i0."
    )
    assert told.next == "pyanamo logs i0 0"
    nest = asked.nest("i0")
    assert "It ran on h1 (c5.xlarge, spot) in Batch job job-0:0. Its log ends with: 'no such file'." in nest.paragraph


def test_a_waiting_item_says_when_it_starts_again():
    asked = Asked(items=1)
    claim = asked.scene.claim("i0", "p")
    asked.scene.ledger.wait(claim, Cause.TASK_ERROR, "exit code 1", delay_seconds=90)
    assert (
        "Item i0 waits for its next try, in 1m30s; 1 of 3 tries is used: task_error, exit code 1."
        in asked.item("i0").paragraph
    )


def test_a_done_item_and_a_cancelled_one_are_told_shortly():
    asked = Asked(items=2)
    asked.scene.finish("i0")
    told = asked.item("i0")
    assert (told.findings, told.next) == ((), "pyanamo results list i0")
    asked.scene.ledger.cancel(asked.scene.ledger.item("i1"))
    told = asked.item("i1")
    assert (codes(told), told.next) == (["cancelled"], "pyanamo items retry i1")


@pytest.mark.parametrize(
    ("cause", "facts", "words"),
    [
        (Cause.TIMED_OUT, {"nest_seconds": 60.0}, "(each had 1m00s): pyanamo items retry 'a b' --nest-time SECONDS"),
        (Cause.OUT_OF_MEMORY, {}, "had 1,024 MB each: pyanamo items retry 'a b' --memory-factor 2"),
        (Cause.OUT_OF_MEMORY, {"memory_factor": 4.0}, "a pilot's whole container (4,096 MB): raise memory_mb"),
        (Cause.PERMANENT, {}, "trying again is of no use"),
        (Cause.UNVERIFIED, {}, "does not pass the check"),
        (Cause.SPOT, {}, "pyanamo items retry 'a b' --on-demand"),
        (Cause.TASK_ERROR, {}, "pyanamo rehearse SHEET --item 'a b'"),
        (None, {}, "pyanamo items show 'a b'"),
    ],
)
def test_each_cause_of_failure_has_its_mend(cause, facts, words):
    scene = Scene()
    workflow = scene.workflow.model_copy(update={"items": 2, "nests": 2, "memory_mb": 4096})
    item = Item(item_id="a b", task_id="t", state=State.FAILED, cause=cause, **facts)
    assert words in mend_of(item, [], workflow)


def test_the_map_of_locked_items_asks_batch_once_per_hundred_jobs():
    # Given 250 items, each held by a pilot of its own, and one whose pilot is no job
    asked = Asked(items=251, pilots=250)
    scene = asked.scene
    scene.polls(scene.watch())
    for number in range(250):
        scene.pilot(f"p{number:03d}", batch_job=f"job-0:{number}", batch_attempt=1)
        scene.claim(f"i{number}", f"p{number:03d}")
    scene.claim("i250", "by-hand")
    scene.batch.job().set("RUNNING")
    scene.batch.job().fail(7, exit_code=137, at=scene.clock.now(), reason="OutOfMemoryError: Container killed")
    before = scene.batch.calls["DescribeJobs"]
    # When they are mapped to their jobs
    found = {one.item_id: one for one in item_jobs(asked.batch, scene.ledger)}
    # Then it took three calls, and each item is there
    assert scene.batch.calls["DescribeJobs"] - before == 3
    assert len(found) == 251
    assert (found["i3"].job_status, found["i3"].batch_job, found["i3"].gone) == ("RUNNING", "job-0:3", False)
    assert (found["i7"].job_status, found["i7"].gone) == ("FAILED", True)
    assert found["i7"].reason.startswith("OutOfMemoryError")
    assert found["i250"].job_status == "none"


def test_the_map_tells_an_attempt_that_a_later_one_follows_and_a_job_that_batch_forgot():
    asked = Asked(items=2, pilots=2)
    scene = asked.scene
    scene.polls(scene.watch())
    asked.holds("i0")
    ended = {"startedAt": 1000, "stoppedAt": 2000, "container": {}, "statusReason": "Host EC2 (instance i) terminated."}
    scene.batch.job().set("RUNNABLE", 0, attempts=[ended])
    (first,) = item_jobs(asked.batch, scene.ledger)
    assert (first.job_status, first.gone, first.reason) == ("ended", True, "Host EC2 (instance i) terminated.")
    scene.batch.job().forgotten = True
    (first,) = item_jobs(asked.batch, scene.ledger)
    assert (first.job_status, first.gone) == ("unknown", False)


def test_a_nest_is_told_by_its_value():
    asked = Asked()
    asked.scene.ledger.import_item("A", "t", Definition(script="x", arguments=("chr1:1-10", "chr2:1-10")))
    assert asked.nest("A", 1).paragraph.startswith("Nest 1 (chr2:1-10) of item A has no result yet. Item A is to do;")
