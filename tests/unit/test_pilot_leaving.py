"""What a signal means, when the first failures are enough, and what becomes of an item that is quiet."""

from __future__ import annotations

import pytest

from pyanamo_core.errors import ForeignTable, PyAnamoError, RunMissing, TableMissing, WorkflowMissing
from pyanamo_core.model import Cause, Claim, Definition, Item, Mode, Run, State, Submission
from pyanamo_core.pilot.leaving import (
    FirstFailures,
    Meaning,
    Order,
    Stop,
    job_kept_instead,
    meaning_of_signal,
    refusal_code,
)
from pyanamo_core.pilot.scheduler import Failure, Held
from pyanamo_core.pilot.settling import settle
from pyanamo_core.workflow import Budgets

BUDGETS = Budgets(tries=3, retry_delay_seconds=60)


@pytest.mark.parametrize(
    ("mode", "notice", "over", "cause", "code", "counts"),
    [
        (Mode.CANCEL, "terminate", True, Cause.CANCELLED, 0, False),
        (Mode.DRAIN, "terminate", True, Cause.DRAINED, 0, False),
        (Mode.RUN, "terminate", True, Cause.SPOT, 75, True),
        (Mode.RUN, "", True, Cause.WALL_TIME, 75, True),
        (Mode.RUN, "", False, Cause.DRAINED, 75, True),
    ],
)
def test_a_signal_means_the_first_of_these_that_is_so(
    mode: Mode, notice: str, over: bool, cause: Cause, code: int, counts: bool
) -> None:
    told = meaning_of_signal(15, Order(mode, "enough"), spot_notice=notice, wall_time_over=over)

    assert (told.cause, told.exit_code, told.counts) == (cause, code, counts)


def test_items_that_fail_alike_are_told_apart_by_nothing_but_numbers_and_names() -> None:
    # Given items whose messages differ in names, numbers and addresses
    first = FirstFailures(3)
    assert not first.failed("NA12878", "exit code 1: no reads of NA12878 at 0x7f8a12345678")
    assert not first.failed("HG002", "exit code 1: no reads of HG002 at 0x7f8a87654321")

    # Then the third is enough
    assert "all failed alike" in first.failed("HG003", "exit code 1: no reads of HG003 at 0x7f8a00000000")


def test_another_message_among_the_first_is_no_rule() -> None:
    first = FirstFailures(2)
    first.failed("a", "no reads")

    assert not first.failed("b", "no reference")
    assert not first.failed("c", "no reads")


def test_one_item_that_fails_often_counts_once() -> None:
    first = FirstFailures(2)

    assert not first.failed("a", "no reads")
    assert not first.failed("a", "no reads")


def test_one_item_that_is_done_turns_the_rule_off() -> None:
    first = FirstFailures(2)
    first.done()

    assert not first.failed("a", "no reads")
    assert not first.failed("b", "no reads")


def held(*, tries: int = 1, nests: int = 2, done: int = 0, pending: tuple[int, ...] = ()) -> Held:
    """A quiet item."""
    item = Item(item_id="a", task_id="T", state=State.LOCKED, fence=1, tries=tries)
    definition = Definition(script="x", arguments=tuple(str(n) for n in range(nests)))
    return Held(Claim(item=item, pilot_id="p", deadline=0), definition, list(pending), done=done)


DRAIN = Stop(0.0, Meaning(Cause.DRAINED, "drained: signal 15"))


def test_an_item_whose_nests_are_all_recorded_is_done_even_while_the_pilot_ends() -> None:
    told = settle(held(done=2), DRAIN, BUDGETS, slots=1, slot_mb=512)

    assert told is not None
    assert (told.cause, told.verdict.state) == (Cause.DONE, State.DONE)


def test_while_the_pilot_ends_other_items_go_back_for_the_pilots_reason() -> None:
    # Given an item with a failed nest and one that was not begun
    item = held(pending=(1,))
    item.failed[0] = Failure(Cause.TASK_ERROR, "exit code 1")

    told = settle(item, DRAIN, BUDGETS, slots=1, slot_mb=512)

    assert told is not None
    assert (told.cause, told.verdict.state, told.counts) == (Cause.DRAINED, State.TODO, True)


def test_nothing_is_decided_before_it_is_known_what_a_signal_means() -> None:
    assert settle(held(pending=(0, 1)), Stop(0.0, None), BUDGETS, slots=1, slot_mb=512) is None


def test_nothing_is_decided_while_nests_are_still_to_be_begun() -> None:
    item = held(pending=(1,))
    item.failed[0] = Failure(Cause.PERMANENT, "exit code 65")

    assert settle(item, None, BUDGETS, slots=1, slot_mb=512) is None


def test_the_gravest_failure_decides_and_names_its_nest() -> None:
    item = held()
    item.failed = {0: Failure(Cause.TASK_ERROR, "exit code 1"), 1: Failure(Cause.PERMANENT, "exit code 65")}

    told = settle(item, None, BUDGETS, slots=1, slot_mb=512)

    assert told is not None
    assert (told.cause, told.message, told.verdict.state) == (Cause.PERMANENT, "nest 1: exit code 65", State.FAILED)


def test_an_item_that_ran_out_of_the_whole_containers_memory_says_what_it_needs() -> None:
    item = held(nests=1)
    item.failed = {0: Failure(Cause.OUT_OF_MEMORY, "exit code 137")}

    told = settle(item, None, BUDGETS, slots=1, slot_mb=512)

    assert told is not None
    assert told.message == "needs ≥ 768 MB: exit code 137"


def test_out_of_memory_on_the_last_try_says_too_what_it_needs() -> None:
    # Given an item that took two of four slots with 512 MB each, at its third try
    item = held(nests=1, tries=3)
    item.claim = item.claim.model_copy(update={"item": item.claim.item.model_copy(update={"memory_factor": 1.5})})
    item.failed = {0: Failure(Cause.OUT_OF_MEMORY, "exit code 137", "exit 137 SIGKILL, oom_kill 1")}

    told = settle(item, None, BUDGETS, slots=4, slot_mb=512)

    assert told is not None
    assert (told.verdict.state, told.message) == (State.FAILED, "needs ≥ 1536 MB: exit code 137")
    assert told.evidence == "exit 137 SIGKILL, oom_kill 1"


def test_where_the_first_failure_ends_its_siblings_it_decides() -> None:
    # Given an item whose nest 2 failed first and ended its siblings; nest 0 was not begun
    item = held(nests=3, pending=(0,))
    item.failed = {2: Failure(Cause.TASK_ERROR, "exit code 1", "exit 1"), 1: Failure(Cause.PERMANENT, "exit code 65")}
    item.ended = True

    told = settle(item, None, BUDGETS, slots=1, slot_mb=512)

    assert told is not None
    assert (told.cause, told.message, told.evidence) == (Cause.TASK_ERROR, "nest 2: exit code 1", "nest 2: exit 1")
    assert not item.startable


def test_every_end_has_evidence() -> None:
    cancelled = held(pending=(0,))
    cancelled.cancelled = True

    ends = [settle(held(done=2), None, BUDGETS, slots=1, slot_mb=512)]
    ends.append(settle(held(pending=(0,)), DRAIN, BUDGETS, slots=1, slot_mb=512))
    ends.append(settle(cancelled, None, BUDGETS, slots=1, slot_mb=512))

    assert [each.evidence if each else "" for each in ends] == [
        "exit 0 of 2 nests",
        "drained: signal 15",
        "cancelled by a user",
    ]


def test_an_item_refused_for_time_goes_back_and_that_is_no_interruption() -> None:
    item = held(pending=(0,))
    item.refused_for_time = True

    told = settle(item, None, BUDGETS, slots=1, slot_mb=512)

    assert told is not None
    assert (told.cause, told.counts, told.verdict.state) == (Cause.WALL_TIME, False, State.TODO)


@pytest.mark.parametrize(
    ("settled", "number", "own", "kept"),
    [
        ("job-1", 0, "job-0:3", "job-1"),
        ("job-1", 0, "job-0", "job-1"),
        ("job-1", 0, "job-1:3", ""),  # ours is the one
        ("", 0, "job-0:3", ""),  # nobody knows yet: work must not wait for a watcher
        ("job-1", 1, "job-0:3", ""),  # a submission that the row does not know
        ("job-1", None, "job-0:3", ""),  # started by hand
        ("job-1", 0, "", ""),  # not in Batch
    ],
)
def test_a_pilot_of_a_double_is_told_by_its_submission_being_settled_with_another_job(
    settled: str, number: int | None, own: str, kept: str
) -> None:
    submission = Submission(
        sequence=0, name="t-0", size=4, queue="q", definition="d:1", reserved_at=1.0, job_id=settled
    )
    run = Run(run_id="r", workflow_version=1, token="t", submissions=(submission,))

    assert job_kept_instead(run, number, own) == kept


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkflowMissing(table="Seq"), 78),
        (TableMissing(table="Seq", where=""), 78),
        (ForeignTable(table="Seq", reason="no key"), 78),
        (RunMissing(run_id="r1", table="Seq"), 4),
    ],
)
def test_a_table_that_no_host_can_work_on_is_the_set_ups_fault(error: PyAnamoError, code: int) -> None:
    assert refusal_code(error, error.exit_code) == code
