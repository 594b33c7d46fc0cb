"""The ledger's contract: each move, each refusal with its reason. Run over the twin in memory and over DynamoDB Local.

Modules that import these tests define the fixtures `ledger` (under RULES) and `clock` (a FakeClock, shared with it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyanamo_core.clock import FakeClock
from pyanamo_core.errors import (
    BadInput,
    DefinitionTooBig,
    ItemMissing,
    LeaseLost,
    MoveRefused,
    NestMissing,
    RunConflict,
    RunMissing,
    WorkflowMissing,
)
from pyanamo_core.model import (
    LEGAL_FROM,
    Attempt,
    Cause,
    Claim,
    Counts,
    Definition,
    Imported,
    Item,
    Limits,
    LogPointer,
    Mode,
    Move,
    Nest,
    NestStatus,
    Output,
    PilotRecord,
    Recorded,
    Rules,
    Run,
    State,
)
from pyanamo_core.protocols import Ledger
from pyanamo_core.workflow import Buckets, Workflow

RULES = Rules(max_tries=3, max_interruptions=3, lease_seconds=600, shards=4)
LOCI = Definition(script="bash call.sh NA12878", arguments=("chr1:1-100", "chr1:101-200"))
SEQ = Definition(script="seq 8")


def imported(ledger: Ledger, item_id: str = "NA12878", definition: Definition = LOCI, **more: Any) -> Item:
    assert ledger.import_item(item_id, "trio", definition, **more) is Imported.CREATED
    return ledger.item(item_id)


def claimed(ledger: Ledger, item_id: str = "NA12878", pilot: str = "pilot-1") -> Claim:
    claim = ledger.claim(item_id, pilot, run_id="run-1")
    assert claim is not None
    return claim


def undying(claim: Claim) -> Claim:
    """The claim of a process that does not know how late it is: its messages were on the way all the time."""
    return claim.model_copy(update={"deadline": 1e12})


def nest(claim: Claim, index: int, status: NestStatus = NestStatus.DONE, **more: Any) -> Nest:
    return Nest(
        item_id=claim.item_id, epoch=claim.epoch, index=index, status=status, fence=claim.fence, exit_code=0, **more
    )


def record_all(ledger: Ledger, claim: Claim) -> None:
    for index in range(claim.item.nests):
        assert ledger.record_nest(claim, nest(claim, index)) is Recorded.WON


def pass_lease(clock: FakeClock) -> None:
    clock.move(RULES.lease_seconds + RULES.margin_seconds + 1)


def in_state(ledger: Ledger, clock: FakeClock, state: State) -> Item:
    """An item that has come into this state as items do."""
    imported(ledger)
    if state is State.TODO:
        return ledger.item("NA12878")
    if state is State.CANCELLED:
        return ledger.cancel(ledger.item("NA12878"))
    claim = claimed(ledger)
    if state is State.LOCKED:
        return claim.item
    if state is State.WAITING:
        return ledger.wait(claim, Cause.TASK_ERROR, "exit code 1", delay_seconds=60)
    if state is State.FAILED:
        return ledger.fail(claim, Cause.PERMANENT, "exit code 65", nests_failed=1)
    record_all(ledger, claim)
    return ledger.finish(claim, nests_done=2)


# ------------------------------------------------------------------------------------------------------------ import


def test_an_imported_item_is_to_do_and_its_definition_comes_back(ledger: Ledger) -> None:
    item = imported(ledger, priority=3, revision="abcdef")
    assert (item.state, item.fence, item.epoch, item.tries, item.nests) == (State.TODO, 0, 0, 0, 2)
    assert (item.task_id, item.priority, item.revision, item.definition_hash) == ("trio", 3, "abcdef", LOCI.hash)
    assert ledger.definition(item) == LOCI


def test_the_same_import_again_changes_nothing(ledger: Ledger) -> None:
    before = imported(ledger)
    assert ledger.import_item("NA12878", "trio", LOCI) is Imported.EXISTS
    assert ledger.item("NA12878") == before


def test_another_definition_is_a_conflict_and_changes_nothing(ledger: Ledger) -> None:
    before = imported(ledger)
    assert ledger.import_item("NA12878", "trio", SEQ) is Imported.CONFLICT
    assert ledger.item("NA12878") == before
    assert ledger.definition(before) == LOCI


def test_with_update_another_definition_is_an_edit(ledger: Ledger) -> None:
    imported(ledger, revision="old")
    assert ledger.import_item("NA12878", "trio", SEQ, update=True, revision="new") is Imported.EDITED
    item = ledger.item("NA12878")
    assert (item.epoch, item.fence, item.nests, item.revision) == (1, 1, 1, "new")
    assert ledger.definition(item) == SEQ


def test_a_locked_item_is_not_edited_by_an_import(ledger: Ledger) -> None:
    imported(ledger)
    held = claimed(ledger).item
    assert ledger.import_item("NA12878", "trio", SEQ, update=True) is Imported.CONFLICT
    assert ledger.item("NA12878") == held


@pytest.mark.parametrize(
    ("item_id", "task_id", "said"),
    [
        ("", "t", "empty itemID"),
        ("x" * 257, "t", "257 bytes"),
        ("!run", "t", "starts with '!'"),
        ("i", "t" * 65, "65 bytes"),
        ("i", "!t", "starts with '!'"),
    ],
)
def test_ids_that_no_row_may_have_are_refused(ledger: Ledger, item_id: str, task_id: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        ledger.import_item(item_id, task_id, SEQ)


def test_the_longest_ids_and_any_letters_are_kept(ledger: Ledger) -> None:
    name = "ü/# |" + "x" * 250
    item = imported(ledger, name, SEQ)
    assert ledger.definition(ledger.item(name)) == SEQ
    assert claimed(ledger, name).item.item_id == item.item_id == name


def test_a_definition_of_a_megabyte_comes_back_whole(ledger: Ledger) -> None:
    big = Definition(script="bash call.sh", arguments=tuple(f"chr{n}:{'9' * 90}" for n in range(12_000)))
    item = imported(ledger, definition=big)
    assert item.nests == 12_000
    assert ledger.definition(item) == big


def test_a_value_that_no_process_could_be_given_is_refused(ledger: Ledger) -> None:
    with pytest.raises(DefinitionTooBig, match="value"):
        ledger.import_item("NA12878", "trio", Definition(script="x", arguments=("9" * 70_000,)))
    with pytest.raises(ItemMissing):
        ledger.item("NA12878")


def test_a_missing_item_is_told_by_name(ledger: Ledger) -> None:
    with pytest.raises(ItemMissing, match="no item HG00096"):
        ledger.item("HG00096")


# ------------------------------------------------------------------------------------------------- claim and reclaim


def test_a_claim_locks_the_item_with_a_new_fence_and_counts_a_try(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    assert (claim.item.state, claim.fence, claim.item.tries) == (State.LOCKED, 1, 1)
    assert (claim.item.owner, claim.item.run_id, claim.pilot_id) == ("pilot-1", "run-1", "pilot-1")
    assert claim.item.lease_end == clock.now() + 600
    assert claim.deadline == clock.monotonic() + 600
    assert ledger.item("NA12878") == claim.item


def test_what_is_locked_is_nobody_elses(ledger: Ledger) -> None:
    imported(ledger)
    claimed(ledger)
    assert ledger.claim("NA12878", "pilot-2") is None


def test_nobody_claims_what_does_not_exist(ledger: Ledger) -> None:
    assert ledger.claim("HG00096", "pilot-1") is None
    with pytest.raises(ItemMissing):
        ledger.item("HG00096")


@pytest.mark.parametrize("state", [State.DONE, State.FAILED, State.CANCELLED])
def test_nobody_claims_what_is_finished(ledger: Ledger, clock: FakeClock, state: State) -> None:
    before = in_state(ledger, clock, state)
    assert ledger.claim("NA12878", "pilot-2") is None
    assert ledger.expire("NA12878") is None
    assert ledger.item("NA12878") == before


def test_a_waiting_item_is_claimed_once_it_is_due(ledger: Ledger, clock: FakeClock) -> None:
    in_state(ledger, clock, State.WAITING)
    assert ledger.claim("NA12878", "pilot-2") is None
    clock.move(60)
    claim = claimed(ledger, pilot="pilot-2")
    assert (claim.fence, claim.item.tries, claim.item.due) == (2, 2, None)


def test_a_pilot_with_too_long_a_name_is_refused(ledger: Ledger) -> None:
    imported(ledger)
    with pytest.raises(BadInput, match="1 to 64 bytes"):
        ledger.claim("NA12878", "p" * 65)


def test_within_the_margin_a_lease_is_respected(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claimed(ledger)
    clock.move(RULES.lease_seconds + RULES.margin_seconds)
    assert ledger.claim("NA12878", "pilot-2") is None


def test_after_the_margin_an_item_is_reclaimed_as_an_interruption(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claimed(ledger)
    pass_lease(clock)
    claim = claimed(ledger, pilot="pilot-2")
    assert (claim.fence, claim.item.tries, claim.item.interruptions) == (2, 1, 1)
    assert (claim.item.owner, claim.item.lease_end) == ("pilot-2", clock.now() + 600)


def test_the_dead_claims_attempt_is_marked_lost_unless_more_is_known(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    ledger.put_attempt(Attempt(item_id="NA12878", fence=1, pilot_id="pilot-1", batch_job="job-1", started=clock.now()))
    claimed(ledger)
    pass_lease(clock)
    claimed(ledger, pilot="pilot-2")
    ledger.put_attempt(Attempt(item_id="NA12878", fence=2, cause=Cause.SPOT, ended=clock.now()))
    pass_lease(clock)
    claimed(ledger, pilot="pilot-3")
    first, second = ledger.attempts("NA12878")[:2]
    assert (first.cause, first.pilot_id, first.batch_job, first.evidence) == (
        Cause.LOST,
        "pilot-1",
        "job-1",
        "its lease ended",
    )
    assert (second.cause, second.evidence) == (Cause.SPOT, "")


def test_a_dead_claims_attempt_ended_with_its_lease_and_not_when_somebody_came(
    ledger: Ledger, clock: FakeClock
) -> None:
    imported(ledger)
    lease_end = claimed(ledger).item.lease_end
    clock.move(3 * 86400)
    claimed(ledger, pilot="pilot-2")
    assert ledger.attempts("NA12878")[0].ended == lease_end
    # … and one that Batch says is over, when Batch says
    clock.move(100)
    ledger.recover(ledger.item("NA12878"), ended_at=clock.now() - 61)
    assert ledger.attempts("NA12878")[1].ended == pytest.approx(clock.now() - 61)


def test_after_progress_interruptions_start_again_at_one(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claimed(ledger)
    pass_lease(clock)
    second = claimed(ledger, pilot="pilot-2")
    clock.move(200)
    ledger.beat(second, progressed=True, nests_done=1, nests_failed=0)
    pass_lease(clock)
    assert claimed(ledger, pilot="pilot-3").item.interruptions == 1
    pass_lease(clock)
    assert claimed(ledger, pilot="pilot-4").item.interruptions == 2


def at_cap(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claimed(ledger)
    for _ in range(RULES.max_interruptions):
        pass_lease(clock)
        claimed(ledger)
    pass_lease(clock)


def test_at_the_cap_nobody_reclaims_and_whoever_sees_it_fails_the_item(ledger: Ledger, clock: FakeClock) -> None:
    at_cap(ledger, clock)
    assert ledger.claim("NA12878", "pilot-2") is None
    failed = ledger.expire("NA12878")
    assert failed is not None
    assert (failed.state, failed.cause, failed.lease_end) == (State.FAILED, Cause.LOST, None)
    assert "interrupted 3 times in a row without progress" in failed.message
    assert ledger.expire("NA12878") is None


def test_an_item_below_its_cap_does_not_expire(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    held = claimed(ledger).item
    assert ledger.expire("NA12878") is None
    pass_lease(clock)
    assert ledger.expire("NA12878") is None
    assert ledger.expire("HG00096") is None
    assert ledger.item("NA12878") == held


def test_a_cancelled_item_of_a_dead_pilot_is_not_reclaimed_but_expires(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    ledger.cancel(claimed(ledger).item)
    pass_lease(clock)
    assert ledger.claim("NA12878", "pilot-2") is None
    ended = ledger.expire("NA12878")
    assert ended is not None
    assert (ended.state, ended.cancelled) == (State.CANCELLED, False)


# -------------------------------------------------------------------------------------------------------------- beat


def test_a_beat_renews_lease_and_deadline_and_tells_counts(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    clock.move(200)
    beaten = ledger.beat(claim, progressed=False, nests_done=1, nests_failed=1)
    assert (beaten.lease_end, beaten.deadline, beaten.cancelled) == (clock.now() + 600, clock.monotonic() + 600, False)
    item = ledger.item("NA12878")
    assert (item.lease_end, item.nests_done, item.nests_failed, item.progress_fence) == (beaten.lease_end, 1, 1, 0)


def test_a_beat_brings_the_news_of_a_cancellation(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    ledger.cancel(claim.item)
    clock.move(1)
    assert ledger.beat(claim, progressed=False, nests_done=0, nests_failed=0).cancelled


def test_a_beat_after_a_reclaim_says_whose_fence_it_is(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    dead = undying(claimed(ledger))
    pass_lease(clock)
    claimed(ledger, pilot="pilot-2")
    clock.move(1)
    with pytest.raises(LeaseLost, match="its fence is 2, not 1, and it is locked by pilot pilot-2 until 2027-"):
        ledger.beat(dead, progressed=True, nests_done=2, nests_failed=0)


def test_a_beat_in_the_moment_of_the_claim_still_looks_whose_item_it_is(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    ledger.fail(claim, Cause.PERMANENT, "")
    with pytest.raises(LeaseLost, match="it is failed"):
        ledger.beat(claim, progressed=False, nests_done=0, nests_failed=0)


def test_a_beat_that_comes_late_does_not_shorten_the_lease(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    clock.move(200)
    newer = ledger.beat(claim, progressed=True, nests_done=1, nests_failed=0)
    clock.move(-100)
    ledger.beat(claim, progressed=False, nests_done=0, nests_failed=0)
    item = ledger.item("NA12878")
    assert (item.lease_end, item.nests_done, item.progress_fence) == (newer.lease_end, 1, 1)


@pytest.mark.parametrize(
    "write",
    [
        lambda ledger, claim: ledger.beat(claim, progressed=True, nests_done=2, nests_failed=0),
        lambda ledger, claim: ledger.record_nest(claim, nest(claim, 0)),
        lambda ledger, claim: ledger.finish(claim, nests_done=2),
        lambda ledger, claim: ledger.fail(claim, Cause.PERMANENT, ""),
        lambda ledger, claim: ledger.wait(claim, Cause.TASK_ERROR, "", delay_seconds=1),
        lambda ledger, claim: ledger.hand_back(claim, Cause.SPOT, progressed=False, started=True),
    ],
)
def test_past_its_own_deadline_a_claim_writes_nothing_more(
    ledger: Ledger, clock: FakeClock, write: Callable[[Ledger, Claim], Any]
) -> None:
    imported(ledger)
    claim = claimed(ledger)
    clock.move(RULES.lease_seconds)
    with pytest.raises(LeaseLost, match="its lease is over by our own clock"):
        write(ledger, claim)
    assert ledger.item("NA12878") == claim.item
    assert ledger.nests(claim.item) == {}


# ------------------------------------------------------------------------------------------------------------- nests


def test_a_nest_comes_back_as_it_was_recorded(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    told = nest(
        claim,
        1,
        started=clock.now(),
        ended=clock.now() + 12.5,
        peak_memory_mb=512.25,
        cpu_seconds=11.75,
        outputs=(Output(uri="s3://results/a.g.vcf.gz", bytes=1234, sha256="0" * 64), Output(uri="s3://r/b", bytes=0)),
        tags=("calls\t18", "ü"),
        figures={"calls": 18, "depth": 31.5, "by": {"SNP": 11}, "list": [1, "a", None]},
        log=LogPointer(where="cloudwatch", group="/pyanamo/nests", stream="p/0", start_ms=1, end_ms=2, bytes=99),
        tail="the end",
        revision="abc",
        cause=Cause.DONE,
    )
    assert ledger.record_nest(claim, told) is Recorded.WON
    found = ledger.nests(claim.item)
    assert list(found) == [1]
    expected = told.model_copy(
        update={
            "pilot_id": "pilot-1",
            "run_id": "run-1",
            "output_count": 2,
            "tag_count": 2,
            "token": found[1].token,
        }
    )
    assert found[1] == expected
    assert ledger.tail(claim.item, found[1]) == "the end"


def test_the_first_verified_result_of_a_nest_wins(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    slow = undying(claimed(ledger))
    pass_lease(clock)
    second = claimed(ledger, pilot="pilot-2")
    assert ledger.record_nest(slow, nest(slow, 0, message="slow")) is Recorded.WON
    assert ledger.record_nest(second, nest(second, 0, message="second")) is Recorded.KEPT
    assert ledger.nests(second.item)[0].message == "slow"


def test_a_failed_nest_is_replaced_by_a_later_attempt(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    failed = nest(claim, 0, NestStatus.FAILED, cause=Cause.TASK_ERROR, message="boom")
    assert ledger.record_nest(claim, failed) is Recorded.WON
    assert ledger.record_nest(claim, nest(claim, 0)) is Recorded.WON
    assert ledger.nests(claim.item)[0].status is NestStatus.DONE
    assert ledger.record_nest(claim, failed) is Recorded.KEPT


def test_an_older_claim_does_not_write_over_a_newer_ones_row(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    dead = undying(claimed(ledger))
    pass_lease(clock)
    second = claimed(ledger, pilot="pilot-2")
    assert ledger.record_nest(second, nest(second, 0, NestStatus.FAILED)) is Recorded.WON
    assert ledger.record_nest(dead, nest(dead, 0)) is Recorded.KEPT
    assert ledger.nests(second.item)[0].fence == 2


def test_the_same_result_sent_twice_is_won_twice(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    told = nest(claim, 0, token="0123456789abcdef")
    assert ledger.record_nest(claim, told) is Recorded.WON
    assert ledger.record_nest(claim, told) is Recorded.WON


def test_the_tail_of_a_failure_has_a_row_of_its_own_with_its_last_2_kb(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    ledger.record_nest(claim, nest(claim, 0, NestStatus.FAILED, tail="x" * 3000 + "ERROR at the end"))
    row = ledger.nests(claim.item)[0]
    assert row.tail == ""
    tail = ledger.tail(claim.item, row)
    assert (len(tail), tail[-16:]) == (2048, "ERROR at the end")


def test_a_long_tail_of_a_success_has_a_row_of_its_own_and_a_short_one_has_not(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    ledger.record_nest(claim, nest(claim, 0, tail="s" * 512))
    ledger.record_nest(claim, nest(claim, 1, tail="l" * 513))
    rows = ledger.nests(claim.item)
    assert (rows[0].tail, rows[1].tail) == ("s" * 512, "")
    assert ledger.tail(claim.item, rows[1]) == "l" * 513


def test_a_row_that_dynamodb_would_refuse_is_written_in_minimal_form(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    told = nest(claim, 0, tags=("y" * 1000,) * 500, overflow="s3://results/overflow.json.gz")
    assert ledger.record_nest(claim, told) is Recorded.WON
    row = ledger.nests(claim.item)[0]
    assert (row.truncated, row.tags, row.tag_count) == (True, (), 500)
    assert (row.overflow, row.status, row.exit_code) == ("s3://results/overflow.json.gz", NestStatus.DONE, 0)


# ---------------------------------------------------------------------------------------- finish, fail, wait, hand back


def test_an_item_is_done_when_each_of_its_nests_is(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    record_all(ledger, claim)
    done = ledger.finish(claim, nests_done=2, note="logs given up")
    assert (done.state, done.nests_done, done.cause, done.message) == (State.DONE, 2, Cause.DONE, "logs given up")
    assert (done.finished_at, done.lease_end, done.owner) == (clock.now(), None, "pilot-1")
    assert ledger.item("NA12878") == done


def test_an_item_with_open_nests_is_not_done(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    with pytest.raises(LeaseLost, match="1 of its 2 nests are done"):
        ledger.finish(claim, nests_done=1)
    assert ledger.item("NA12878") == claim.item


def test_a_failed_item_says_why(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    failed = ledger.fail(claimed(ledger), Cause.PERMANENT, "exit code 65", nests_done=1, nests_failed=1)
    assert (failed.state, failed.cause, failed.message) == (State.FAILED, Cause.PERMANENT, "exit code 65")
    assert (failed.nests_done, failed.nests_failed, failed.finished_at) == (1, 1, clock.now())


def test_a_long_message_is_cut_to_what_the_row_has_room_for(ledger: Ledger) -> None:
    imported(ledger)
    failed = ledger.fail(claimed(ledger), Cause.PERMANENT, "ü" * 500)
    assert failed.message == "ü" * 60
    assert ledger.item("NA12878").message == failed.message


def test_a_waiting_item_keeps_its_try_and_asks_for_more_memory(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    waiting = ledger.wait(
        claimed(ledger), Cause.OUT_OF_MEMORY, "killed", delay_seconds=60, memory_factor=1.5, nests_failed=1
    )
    assert (waiting.state, waiting.due, waiting.tries, waiting.memory_factor) == (
        State.WAITING,
        clock.now() + 60,
        1,
        1.5,
    )
    assert (waiting.owner, waiting.lease_end, waiting.nests_failed) == (None, None, 1)
    assert ledger.item("NA12878") == waiting


def test_without_a_try_left_an_item_does_not_wait_but_fails(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    for _ in range(RULES.max_tries):
        last = ledger.wait(claimed(ledger), Cause.TASK_ERROR, "exit code 1", delay_seconds=10)
        clock.move(10)
    assert (last.state, last.tries, last.due) == (State.FAILED, 3, None)


def test_a_cancelled_item_does_not_wait(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    ledger.cancel(claim.item)
    ended = ledger.wait(claim, Cause.TASK_ERROR, "exit code 1", delay_seconds=10)
    assert (ended.state, ended.cancelled, ended.cause) == (State.CANCELLED, False, Cause.CANCELLED)


def test_what_is_handed_back_is_to_do_again_and_its_try_given_back(ledger: Ledger) -> None:
    imported(ledger)
    back = ledger.hand_back(claimed(ledger), Cause.SPOT, "notice", progressed=False, started=True, nests_done=1)
    assert (back.state, back.tries, back.interruptions, back.cause) == (State.TODO, 0, 1, Cause.SPOT)
    assert (back.owner, back.lease_end, back.nests_done) == (None, None, 1)
    assert claimed(ledger, pilot="pilot-2").fence == 2


@pytest.mark.parametrize(
    ("progressed", "started", "counts", "interruptions"),
    [(False, True, True, 2), (True, True, True, 1), (False, False, True, 1), (False, True, False, 1)],
    ids=["counted", "progress", "nothing started", "operator drained"],
)
def test_what_counts_as_an_interruption(
    ledger: Ledger, progressed: bool, started: bool, counts: bool, interruptions: int
) -> None:
    imported(ledger)
    ledger.hand_back(claimed(ledger), Cause.SPOT, progressed=False, started=True)
    back = ledger.hand_back(claimed(ledger), Cause.DRAINED, progressed=progressed, started=started, counts=counts)
    assert (back.state, back.interruptions) == (State.TODO, interruptions)


def test_handed_back_at_the_cap_is_failed(ledger: Ledger) -> None:
    imported(ledger)
    for _ in range(RULES.max_interruptions):
        back = ledger.hand_back(claimed(ledger), Cause.SPOT, "notice", progressed=False, started=True)
    assert (back.state, back.cause, back.interruptions) == (State.FAILED, Cause.SPOT, 3)
    assert back.message.startswith(
        "interrupted 3 times in a row without progress: needs shorter nests or longer pilots"
    )


def test_handed_back_when_cancelled_is_cancelled(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    ledger.cancel(claim.item)
    back = ledger.hand_back(claim, Cause.CANCELLED, progressed=False, started=True)
    assert (back.state, back.cancelled, back.finished_at) == (State.CANCELLED, False, clock.now())


@pytest.mark.parametrize(
    "write",
    [
        lambda ledger, claim: ledger.finish(claim, nests_done=2),
        lambda ledger, claim: ledger.fail(claim, Cause.PERMANENT, ""),
        lambda ledger, claim: ledger.wait(claim, Cause.TASK_ERROR, "", delay_seconds=1),
        lambda ledger, claim: ledger.hand_back(claim, Cause.SPOT, progressed=False, started=True),
        lambda ledger, claim: ledger.beat(claim, progressed=True, nests_done=2, nests_failed=0),
    ],
    ids=["finish", "fail", "wait", "hand back", "beat"],
)
def test_late_writes_of_a_dead_pilot_are_refused_with_the_reason(
    ledger: Ledger, clock: FakeClock, write: Callable[[Ledger, Claim], Any]
) -> None:
    # Given a pilot that died in mid-item, and another that finished its work
    imported(ledger)
    dead = undying(claimed(ledger))
    pass_lease(clock)
    second = claimed(ledger, pilot="pilot-2")
    # When the dead one's writes arrive while the other works, and again after it is done
    with pytest.raises(LeaseLost, match="its fence is 2, not 1, and it is locked by pilot pilot-2"):
        write(ledger, dead)
    record_all(ledger, second)
    done = ledger.finish(second, nests_done=2)
    with pytest.raises(LeaseLost, match="its fence is 2, not 1, and it is done"):
        write(ledger, dead)
    # Then nothing has changed, and its results are not recorded a second time
    assert [ledger.record_nest(dead, nest(dead, index)) for index in (0, 1)] == [Recorded.KEPT, Recorded.KEPT]
    assert ledger.item("NA12878") == done
    assert {row.fence for row in ledger.nests(done).values()} == {2}


def test_the_owner_cannot_move_what_it_has_already_given_away(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    ledger.hand_back(claim, Cause.SPOT, progressed=False, started=True)
    with pytest.raises(LeaseLost, match="it is todo"):
        ledger.finish(claim, nests_done=2)


# -------------------------------------------------------------------------------------------------- moves of users

USER_MOVES: dict[Move, Callable[[Ledger, Item], Item]] = {
    Move.RETRY: lambda ledger, item: ledger.retry(item),
    Move.RESET: lambda ledger, item: ledger.reset(item),
    Move.EDIT: lambda ledger, item: ledger.edit(item, SEQ),
    Move.EXTEND: lambda ledger, item: ledger.extend(item, ["chr2:1-100"]),
    Move.REDO: lambda ledger, item: ledger.redo(item, [1]),
    Move.CANCEL: lambda ledger, item: ledger.cancel(item),
}


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("move", list(USER_MOVES))
def test_a_move_of_a_user_is_legal_from_just_these_states(
    ledger: Ledger, clock: FakeClock, move: Move, state: State
) -> None:
    before = in_state(ledger, clock, state)
    if state in LEGAL_FROM[move]:
        after = USER_MOVES[move](ledger, before)
        assert ledger.item("NA12878") == after != before
    else:
        reason = "it is locked by pilot pilot-1 until" if state is State.LOCKED else f"it is {state.value}"
        with pytest.raises(MoveRefused, match=f"{move.value} of item NA12878 was refused: {reason}"):
            USER_MOVES[move](ledger, before)
        assert ledger.item("NA12878") == before


@pytest.mark.parametrize("move", [m for m in USER_MOVES if m is not Move.CANCEL])
def test_a_move_of_a_user_who_looked_too_long_ago_is_refused(ledger: Ledger, clock: FakeClock, move: Move) -> None:
    seen = in_state(ledger, clock, State.FAILED)
    ledger.reset(seen)
    claim = claimed(ledger)
    now = ledger.fail(claim, Cause.PERMANENT, "again")
    with pytest.raises(MoveRefused, match="its fence is 3, not 1: it was moved since you looked"):
        USER_MOVES[move](ledger, seen)
    assert ledger.item("NA12878") == now


@pytest.mark.parametrize("move", list(USER_MOVES))
def test_a_move_of_a_user_is_judged_by_the_row_as_it_stands(ledger: Ledger, move: Move) -> None:
    # Given a user who looked while the item was locked, and a pilot that has failed it since
    imported(ledger)
    claim = claimed(ledger)
    seen = ledger.item("NA12878")
    failed = ledger.fail(claim, Cause.PERMANENT, "exit code 65")
    # When the user moves it, then what counts is that it is failed now
    if move is Move.CANCEL:
        with pytest.raises(MoveRefused, match="it is failed"):
            USER_MOVES[move](ledger, seen)
    else:
        assert USER_MOVES[move](ledger, seen).state is State.TODO
        assert ledger.item("NA12878") != failed


def test_a_retry_has_fresh_budgets_and_keeps_done_nests(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    ledger.record_nest(claim, nest(claim, 0))
    failed = ledger.fail(claim, Cause.PERMANENT, "exit code 65", nests_done=1)
    again = ledger.retry(failed, memory_factor=2.0, nest_seconds=90.0)
    assert (again.state, again.tries, again.interruptions) == (State.TODO, 0, 0)
    assert (again.memory_factor, again.nest_seconds) == (2.0, 90.0)
    assert (again.fence, again.epoch, again.nests_done, again.cause, again.finished_at) == (1, 0, 1, None, None)
    assert list(ledger.nests(again)) == [0]


def test_new_limits_last_until_others_are_given_or_the_item_is_reset(ledger: Ledger) -> None:
    imported(ledger)
    failed = ledger.fail(claimed(ledger), Cause.TIMED_OUT, "it was stopped at its deadline")
    ledger.retry(failed, memory_factor=1.5, nest_seconds=90.0)
    claim = claimed(ledger)
    assert (claim.item.memory_factor, claim.item.nest_seconds) == (1.5, 90.0)
    again = ledger.retry(ledger.fail(claim, Cause.TIMED_OUT, "again"))
    assert (again.memory_factor, again.nest_seconds) == (1.5, 90.0)
    reset = ledger.reset(again)
    assert (reset.memory_factor, reset.nest_seconds) == (1.0, None)
    assert ledger.item("NA12878").nest_seconds is None


def test_a_reset_item_begins_from_nothing(ledger: Ledger, clock: FakeClock) -> None:
    done = in_state(ledger, clock, State.DONE)
    again = ledger.reset(done)
    assert (again.state, again.epoch, again.fence, again.nests_done) == (State.TODO, 1, 2, 0)
    assert (again.owner, again.run_id, again.memory_factor) == (None, None, 1.0)
    assert ledger.nests(again) == {}
    assert list(ledger.nests(done)) == [0, 1]


def test_a_result_from_before_a_reset_does_not_count(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    again = ledger.reset(ledger.fail(claim, Cause.PERMANENT, ""))
    ledger.record_nest(claim, nest(claim, 0))
    assert ledger.nests(again) == {}


def test_an_edit_brings_another_definition_and_epoch(ledger: Ledger, clock: FakeClock) -> None:
    done = in_state(ledger, clock, State.DONE)
    edited = ledger.edit(done, SEQ)
    assert (edited.epoch, edited.fence, edited.nests, edited.nests_done) == (1, 2, 1, 0)
    assert ledger.definition(edited) == SEQ
    assert claimed(ledger, pilot="pilot-2").item.definition_hash == SEQ.hash


def test_more_nests_have_new_numbers_and_the_old_ones_stay(ledger: Ledger, clock: FakeClock) -> None:
    done = in_state(ledger, clock, State.DONE)
    longer = ledger.extend(done, ["chr2:1-100", "chr2:101-200"])
    assert (longer.state, longer.nests, longer.nests_done, longer.epoch, longer.fence) == (State.TODO, 4, 2, 0, 2)
    definition = ledger.definition(longer)
    assert definition.arguments == (*LOCI.arguments, "chr2:1-100", "chr2:101-200")
    assert list(ledger.nests(longer)) == [0, 1]
    claim = claimed(ledger, pilot="pilot-2")
    with pytest.raises(LeaseLost, match="2 of its 4 nests are done"):
        ledger.finish(claim, nests_done=2)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "no values were given"),
        (["chr1:1-100"], "it has a nest 'chr1:1-100' already"),
        (["a", "a"], "it has a nest 'a' already"),
        ([""], "an empty value is no nest"),
    ],
)
def test_values_that_cannot_be_appended_are_refused(ledger: Ledger, values: list[str], reason: str) -> None:
    before = imported(ledger)
    with pytest.raises(MoveRefused, match=reason):
        ledger.extend(before, values)
    assert ledger.item("NA12878") == before


def test_an_item_without_task_args_is_not_extended(ledger: Ledger) -> None:
    item = imported(ledger, definition=SEQ)
    with pytest.raises(MoveRefused, match="it has no TaskArgs to extend"):
        ledger.extend(item, ["x"])


def test_a_redone_nest_is_reset_and_the_others_stay(ledger: Ledger, clock: FakeClock) -> None:
    done = in_state(ledger, clock, State.DONE)
    again = ledger.redo(done, [1])
    assert (again.state, again.fence, again.epoch, again.nests_done) == (State.TODO, 2, 0, 1)
    rows = ledger.nests(again)
    assert (rows[0].status, rows[1].status, rows[1].fence) == (NestStatus.DONE, NestStatus.RESET, 2)


def test_a_claim_from_before_a_redo_does_not_fill_the_nest_again(ledger: Ledger) -> None:
    imported(ledger)
    dead = undying(claimed(ledger))
    again = ledger.redo(ledger.fail(dead, Cause.PERMANENT, ""), [0])
    assert ledger.record_nest(dead, nest(dead, 0)) is Recorded.KEPT
    assert ledger.nests(again)[0].status is NestStatus.RESET
    claim = claimed(ledger, pilot="pilot-2")
    assert ledger.record_nest(claim, nest(claim, 0)) is Recorded.WON


def test_a_redo_of_an_item_as_seen_before_a_retry_answers_with_the_row(ledger: Ledger, clock: FakeClock) -> None:
    # Given a failed item that somebody has retried with more memory since it was looked at
    seen = in_state(ledger, clock, State.FAILED)
    ledger.retry(seen, memory_factor=2.0)
    # When a nest of it is done again, then the answer is the row as it stands, the retry's memory in it
    assert ledger.redo(seen, [0]) == ledger.item("NA12878")
    assert ledger.item("NA12878").memory_factor == 2.0


def test_a_redo_names_nests_that_exist(ledger: Ledger, clock: FakeClock) -> None:
    done = in_state(ledger, clock, State.DONE)
    with pytest.raises(NestMissing, match="no nest 2"):
        ledger.redo(done, [0, 2])
    with pytest.raises(MoveRefused, match="no nests were given"):
        ledger.redo(done, [])
    assert ledger.item("NA12878") == done


def test_a_redo_of_99_nests_is_one_transaction_and_of_100_is_refused(ledger: Ledger) -> None:
    item = imported(ledger, definition=Definition(script="x", arguments=tuple(str(n) for n in range(100))))
    with pytest.raises(MoveRefused, match="100 nests are more than the 99 of a redo; reset the item instead"):
        ledger.redo(item, range(100))
    again = ledger.redo(item, range(99))
    assert len(ledger.nests(again)) == 99


def test_a_cancelled_locked_item_is_only_marked(ledger: Ledger) -> None:
    imported(ledger)
    claim = claimed(ledger)
    marked = ledger.cancel(claim.item)
    assert (marked.state, marked.cancelled, marked.fence) == (State.LOCKED, True, 1)
    record_all(ledger, claim)
    done = ledger.finish(claim, nests_done=2)
    assert (done.state, done.cancelled) == (State.DONE, False)


def test_an_item_that_was_claimed_meanwhile_is_marked_too(ledger: Ledger) -> None:
    seen = imported(ledger)
    claimed(ledger)
    assert ledger.cancel(seen).cancelled


def test_a_retry_removes_the_cancellation(ledger: Ledger, clock: FakeClock) -> None:
    again = ledger.retry(in_state(ledger, clock, State.CANCELLED))
    assert (again.state, again.cancelled, again.cause) == (State.TODO, False, None)
    assert claimed(ledger).fence == 1


# ------------------------------------------------------------------------------------------------------------ recover


def test_an_item_of_a_pilot_that_batch_says_is_gone_comes_back_at_once(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    dead = undying(claimed(ledger))
    clock.move(61)
    back = ledger.recover(dead.item, ended_at=clock.now() - 61)
    assert (back.state, back.tries, back.interruptions, back.fence) == (State.TODO, 0, 1, 2)
    assert (back.cause, back.owner) == (Cause.LOST, None)
    assert ledger.attempts("NA12878")[0].cause is Cause.LOST
    with pytest.raises(LeaseLost, match="its fence is 2, not 1, and it is todo"):
        ledger.finish(dead, nests_done=2)


def test_nothing_is_recovered_within_60_seconds(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    with pytest.raises(MoveRefused, match="its Batch attempt ended only 59 s ago"):
        ledger.recover(claim.item, ended_at=clock.now() - 59)
    assert ledger.item("NA12878") == claim.item


def test_an_item_that_another_pilot_holds_is_not_recovered(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    dead = claimed(ledger)
    pass_lease(clock)
    claimed(ledger, pilot="pilot-2")
    with pytest.raises(MoveRefused, match="its fence is 2, not 1: it was moved since you looked"):
        ledger.recover(dead.item, ended_at=clock.now() - 61)
    other = ledger.item("NA12878").model_copy(update={"owner": "pilot-9"})
    with pytest.raises(MoveRefused, match="its pilot is pilot-2, not pilot-9"):
        ledger.recover(other, ended_at=clock.now() - 61)


def test_an_item_that_nobody_holds_is_not_recovered(ledger: Ledger, clock: FakeClock) -> None:
    item = in_state(ledger, clock, State.WAITING)
    with pytest.raises(MoveRefused, match="it is waiting until 2027-"):
        ledger.recover(item, ended_at=clock.now() - 61)


def test_recovered_after_progress_or_cancelled_or_at_the_cap(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    claim = claimed(ledger)
    clock.move(100)
    ledger.beat(claim, progressed=True, nests_done=1, nests_failed=0)
    back = ledger.recover(claim.item, ended_at=clock.now() - 61)
    assert back.interruptions == 1
    for expected in (2, 3):
        back = ledger.recover(claimed(ledger).item, ended_at=clock.now() - 61)
        assert back.interruptions == expected
    assert (back.state, back.cause) == (State.FAILED, Cause.LOST)
    ledger.retry(back)
    marked = ledger.cancel(claimed(ledger).item)
    assert ledger.recover(marked, ended_at=clock.now() - 61).state is State.CANCELLED


# ------------------------------------------------------------------------------------------------ attempts and pilots


def test_an_attempt_row_grows_and_forgets_nothing(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger)
    began = Attempt(item_id="NA12878", fence=2, pilot_id="p", run_id="r", batch_job="j", host="h", started=clock.now())
    ledger.put_attempt(began)
    ledger.put_attempt(Attempt(item_id="NA12878", fence=2, cause=Cause.DONE, ended=clock.now() + 5, evidence="e" * 300))
    ledger.put_attempt(Attempt(item_id="NA12878", fence=10, pilot_id="q"))
    first, second = ledger.attempts("NA12878")
    assert first == began.model_copy(update={"cause": Cause.DONE, "ended": clock.now() + 5, "evidence": "e" * 120})
    assert (second.fence, second.pilot_id) == (10, "q")


def test_pilots_are_listed_by_run_and_by_their_last_beat(ledger: Ledger, clock: FakeClock) -> None:
    now = clock.now()
    one = PilotRecord(
        pilot_id="p-1",
        run_id="r",
        started=now,
        last_beat=now,
        array_index=0,
        holding=("a",),
        last_lines=("x",),
        overrides={"PYANAMO_ITEMS": "2"},
        notes=("n",),
        busy_seconds=1.5,
        free_disk_mb=70_000,
        free_staging_mb=0,
        memory_mb=512,
        memory_limit_mb=2048,
    )
    two = PilotRecord(pilot_id="p-2", run_id="other", started=now + 1, last_beat=now + 1)
    ledger.put_pilot(two)
    ledger.put_pilot(one)
    assert ledger.pilots() == [one, two]
    assert ledger.pilots("r") == [one]
    assert ledger.pilots(beaten_since=now + 1) == [two]
    later = one.model_copy(update={"last_beat": now + 200, "exit_code": 0, "leaving": "empty"})
    ledger.put_pilot(later)
    assert ledger.pilot("p-1") == later
    assert ledger.pilots("r") == [later]
    assert ledger.pilot("p-3") is None


def test_a_pilots_last_row_stands_although_an_earlier_beat_arrives_later(ledger: Ledger, clock: FakeClock) -> None:
    # Given a pilot that has told its end, with all its claims
    beat = PilotRecord(pilot_id="p", run_id="r", started=clock.now(), last_beat=clock.now(), claims=1, holding=("a",))
    last = beat.model_copy(update={"claims": 5, "ended": clock.now() + 9, "exit_code": 0, "holding": ()})
    ledger.put_pilot(beat)
    ledger.put_pilot(last)
    # When a beat that was on its way arrives
    ledger.put_pilot(beat)
    # Then the last row stands
    assert ledger.pilot("p") == last


def test_finished_items_are_counted_since_a_time(ledger: Ledger, clock: FakeClock) -> None:
    for name in "abc":
        imported(ledger, name, SEQ)
    ledger.fail(claimed(ledger, "a"), Cause.PERMANENT, "")
    clock.move(100)
    middle = clock.now()
    ledger.fail(claimed(ledger, "b"), Cause.PERMANENT, "")
    clock.move(10)
    ledger.fail(claimed(ledger, "c"), Cause.PERMANENT, "")
    assert [ledger.count(State.FAILED, since=each) for each in (0.0, middle, clock.now(), clock.now() + 1)] == [
        3,
        2,
        1,
        0,
    ]
    assert ledger.count(State.FAILED, since=middle, bound=1) == 1


# -------------------------------------------------------------------------------------------- counting and candidates


def all_candidates(ledger: Ledger, state: State, start: str | None = None) -> list[str]:
    return [found for shard in range(RULES.shards) for found in ledger.candidates(state, shard, start=start, limit=100)]


def test_counts_follow_the_states(ledger: Ledger, clock: FakeClock) -> None:
    for name in "abcdef":
        imported(ledger, name, SEQ)
    ledger.cancel(ledger.item("a"))
    ledger.fail(claimed(ledger, "b"), Cause.PERMANENT, "")
    ledger.wait(claimed(ledger, "c"), Cause.TASK_ERROR, "", delay_seconds=50)
    claimed(ledger, "d")
    claim = claimed(ledger, "e")
    record_all(ledger, claim)
    ledger.finish(claim, nests_done=1)
    assert ledger.counts() == Counts(todo=1, waiting=1, locked=1, done=1, failed=1, cancelled=1)
    assert ledger.claimable() == 1
    assert ledger.claimable(within_seconds=50) == 2
    pass_lease(clock)
    assert ledger.claimable() == 3
    assert {item.item_id: item.state for item in ledger.items()} == {
        "a": State.CANCELLED,
        "b": State.FAILED,
        "c": State.WAITING,
        "d": State.LOCKED,
        "e": State.DONE,
        "f": State.TODO,
    }


def test_a_bounded_count_stops(ledger: Ledger) -> None:
    for number in range(12):
        imported(ledger, f"i{number}", SEQ)
    assert ledger.count(State.TODO) == 12
    assert ledger.count(State.TODO, bound=5) == 5
    assert ledger.count(State.TODO, bound=50) == 12
    assert ledger.count(State.FAILED, bound=5) == 0


def test_items_and_their_ids_are_listed_by_state(ledger: Ledger) -> None:
    for number in range(120):
        imported(ledger, f"i{number:03d}", SEQ)
    ledger.cancel(ledger.item("i007"))
    assert sorted(ledger.item_ids(State.TODO)) == [f"i{n:03d}" for n in range(120) if n != 7]
    assert [item.item_id for item in ledger.items(State.CANCELLED)] == ["i007"]
    assert len({item.item_id for item in ledger.items(State.TODO)}) == 119


@pytest.mark.parametrize("start", ["0" * 12, "7fffffffffff", "f" * 12])
def test_any_random_start_finds_the_items_of_the_best_priority(ledger: Ledger, start: str) -> None:
    for name in ("late-1", "late-2"):
        imported(ledger, name, SEQ, priority=7)
    assert sorted(all_candidates(ledger, State.TODO, start)) == ["late-1", "late-2"]


def test_a_better_priority_comes_first_whatever_the_start(ledger: Ledger) -> None:
    # Given 40 items of an ordinary priority and, in each shard, some urgent ones
    for number in range(40):
        imported(ledger, f"plain-{number}", SEQ)
        imported(ledger, f"urgent-{number}", SEQ, priority=1)
    for start in ("0" * 12, "800000000000", "f" * 12, None):
        pages = [ledger.candidates(State.TODO, shard, start=start, limit=3) for shard in range(RULES.shards)]
        assert all(name.startswith("urgent") for page in pages for name in page)
        assert all(pages)


def test_a_page_is_not_longer_than_asked(ledger: Ledger) -> None:
    for number in range(60):
        imported(ledger, f"i{number}", SEQ)
    for shard in range(RULES.shards):
        assert len(ledger.candidates(State.TODO, shard, start="0" * 12, limit=5)) == 5


def test_candidates_wait_for_their_time(ledger: Ledger, clock: FakeClock) -> None:
    imported(ledger, "w", SEQ)
    imported(ledger, "l", SEQ)
    ledger.wait(claimed(ledger, "w"), Cause.TASK_ERROR, "", delay_seconds=60)
    claimed(ledger, "l")
    assert all_candidates(ledger, State.WAITING) == all_candidates(ledger, State.LOCKED) == []
    clock.move(60)
    assert all_candidates(ledger, State.WAITING) == ["w"]
    clock.move(RULES.lease_seconds - 60 + RULES.margin_seconds)
    assert all_candidates(ledger, State.LOCKED) == []
    clock.move(0.002)
    assert all_candidates(ledger, State.LOCKED) == ["l"]


# ------------------------------------------------------------------------------------------ for on-demand pilots only


def on_demand(ledger: Ledger, item_id: str) -> Item:
    """An item that has failed and was retried for on-demand pilots only."""
    item = imported(ledger, item_id, SEQ)
    return ledger.retry(ledger.cancel(item), on_demand=True)


def on_demand_candidates(ledger: Ledger, state: State) -> list[str]:
    return [found for shard in range(RULES.shards) for found in ledger.candidates(state, shard, on_demand=True)]


def test_an_item_for_on_demand_pilots_is_seen_and_taken_by_no_other(ledger: Ledger) -> None:
    # Given one item for on-demand pilots and one for all
    on_demand(ledger, "mine")
    imported(ledger, "anyone", SEQ)
    # Then each kind of pilot is shown its own
    for start in ("0" * 12, "f" * 12, None):
        assert all_candidates(ledger, State.TODO, start) == ["anyone"]
    assert on_demand_candidates(ledger, State.TODO) == ["mine"]
    assert (ledger.claimable(), ledger.claimable(on_demand=True)) == (1, 1)
    assert ledger.count(State.TODO) == ledger.counts().todo == 2
    # And even who knows its name gets it only as an on-demand pilot
    assert ledger.claim("mine", "spot-pilot") is None
    assert ledger.claim("anyone", "pilot", on_demand=True) is None
    claim = ledger.claim("mine", "pilot", on_demand=True)
    assert claim is not None
    assert claim.item.on_demand


def test_an_item_stays_with_on_demand_pilots_when_it_waits_and_when_its_lease_ends(
    ledger: Ledger, clock: FakeClock
) -> None:
    # Given an item of theirs that is tried in vain
    on_demand(ledger, "mine")
    claim = ledger.claim("mine", "pilot-1", on_demand=True)
    assert claim is not None
    waiting = ledger.wait(claim, Cause.TASK_ERROR, "", delay_seconds=60)
    # Then it waits where only they look, and is due for them in time
    assert waiting.due == pytest.approx(clock.now() + 60)
    assert ledger.item("mine").due == waiting.due
    assert on_demand_candidates(ledger, State.WAITING) == []
    assert (ledger.claimable(within_seconds=30, on_demand=True), ledger.claimable(within_seconds=90)) == (0, 0)
    assert ledger.claimable(within_seconds=90, on_demand=True) == 1
    assert ledger.claim("mine", "pilot-1", on_demand=True) is None
    clock.move(60)
    assert all_candidates(ledger, State.WAITING) == []
    assert on_demand_candidates(ledger, State.WAITING) == ["mine"]
    # When its pilot dies, with or without a beat
    claim = ledger.claim("mine", "pilot-1", on_demand=True)
    assert claim is not None
    ledger.beat(claim, progressed=False, nests_done=0, nests_failed=0)
    clock.move(RULES.lease_seconds + RULES.margin_seconds)
    assert on_demand_candidates(ledger, State.LOCKED) == []
    clock.move(0.002)
    # Then only another one of them takes it over
    assert all_candidates(ledger, State.LOCKED) == []
    assert on_demand_candidates(ledger, State.LOCKED) == ["mine"]
    assert (ledger.claimable(), ledger.claimable(on_demand=True)) == (0, 1)
    assert ledger.claim("mine", "spot-pilot") is None
    taken = ledger.claim("mine", "pilot-2", on_demand=True)
    assert taken is not None
    assert taken.fence > claim.fence


def test_an_item_that_an_on_demand_pilot_hands_back_stays_theirs_until_a_user_says_otherwise(ledger: Ledger) -> None:
    # Given an item of theirs that was handed back
    on_demand(ledger, "mine")
    claim = ledger.claim("mine", "pilot-1", on_demand=True)
    assert claim is not None
    back = ledger.hand_back(claim, Cause.DRAINED, progressed=False, started=True)
    assert back.on_demand
    assert (ledger.claimable(), ledger.claimable(on_demand=True)) == (0, 1)
    # When it is retried as it stands, it stays so
    assert ledger.retry(ledger.cancel(back)).on_demand
    # When it is retried for all, or reset
    free = ledger.retry(ledger.cancel(ledger.item("mine")), on_demand=False)
    assert not free.on_demand
    assert (ledger.claimable(), ledger.claimable(on_demand=True)) == (1, 0)
    again = ledger.retry(ledger.cancel(free), on_demand=True)
    assert not ledger.reset(again).on_demand
    # Then it is everybody's
    assert ledger.claim("mine", "spot-pilot") is not None


# --------------------------------------------------------------------------------------------------- workflow versions


def workflow(**more: Any) -> Workflow:
    return Workflow(
        name="HaplotypeCaller",
        queue="HaplotypeCaller_Queue",
        job_definition="HaplotypeCaller_JobDef",
        buckets=Buckets(results="s3://results/calls"),
        **more,
    )


def test_a_table_without_a_workflow_says_so(ledger: Ledger) -> None:
    with pytest.raises(WorkflowMissing, match="pyanamo workflow create"):
        ledger.workflow()
    assert ledger.workflow_versions() == []


def test_versions_are_numbered_and_stay(ledger: Ledger) -> None:
    first, second = workflow(), workflow(pilots=8, parameters={"PLOIDY": "2"})
    assert [ledger.add_workflow(w) for w in (first, first, second, second, first)] == [1, 1, 2, 2, 3]
    assert ledger.workflow() == (3, first)
    assert ledger.workflow(2) == (2, second)
    assert ledger.workflow_versions() == [(1, first), (2, second), (3, first)]
    with pytest.raises(WorkflowMissing, match="no version 9"):
        ledger.workflow(9)


# ---------------------------------------------------------------------------------------------------------------- runs


def a_run(run_id: str = "run-1", **more: Any) -> Run:
    return Run(**({"run_id": run_id, "workflow_version": 1, "revision": "rev-1", "token": f"t-{run_id}"} | more))


def test_a_run_comes_back_as_it_began(ledger: Ledger, clock: FakeClock) -> None:
    run = a_run(
        limits=Limits(max_failures=10, max_pilots=4),
        min_pilot="0.1",
        started=clock.now(),
        prefect_api_url="http://127.0.0.1:4200/api",
        flow_run_id="f",
        prefect_detail="nest",
    )
    assert ledger.begin_run(run) == run
    assert ledger.run("run-1") == run
    assert ledger.runs() == ledger.live_runs() == [run]


def test_a_run_begun_again_is_the_one_that_stands(ledger: Ledger) -> None:
    first = ledger.begin_run(a_run())
    assert ledger.begin_run(a_run(token="another")) == first
    with pytest.raises(RunConflict, match=r"it exists with another workflow version \(1, not 2\)"):
        ledger.begin_run(a_run(workflow_version=2))


def test_two_live_runs_of_a_table_pin_the_same_revision(ledger: Ledger) -> None:
    ledger.begin_run(a_run("run-1"))
    ledger.begin_run(a_run("run-2"))
    with pytest.raises(RunConflict, match=r"run-[12] is live with revision rev-1, not rev-2"):
        ledger.begin_run(a_run("run-3", revision="rev-2"))
    assert [run.run_id for run in ledger.runs()] == ["run-1", "run-2"]
    for name in ("run-1", "run-2"):
        ledger.end_run(name, "completed")
    assert ledger.begin_run(a_run("run-3", revision="rev-2")).revision == "rev-2"
    assert [run.run_id for run in ledger.live_runs()] == ["run-3"]


def test_a_missing_run_is_told_by_name(ledger: Ledger) -> None:
    with pytest.raises(RunMissing, match="no run nightly"):
        ledger.run("nightly")
    with pytest.raises(RunMissing, match="no run nightly"):
        ledger.set_mode("nightly", Mode.DRAIN)


def test_a_runs_mode_only_goes_forward(ledger: Ledger) -> None:
    ledger.begin_run(a_run())
    assert ledger.set_mode("run-1", Mode.RUN).mode is Mode.RUN
    assert not ledger.set_mode("run-1", Mode.DRAIN, "soon").hand_back
    drained = ledger.set_mode("run-1", Mode.DRAIN, "lunch", hand_back=True)
    assert (drained.hand_back, ledger.run("run-1")) == (True, drained)
    assert (drained.mode, drained.reason) == (Mode.DRAIN, "lunch")
    assert ledger.set_mode("run-1", Mode.DRAIN, "again") == drained
    with pytest.raises(RunConflict, match="its mode is drain, and there is no way back to run"):
        ledger.set_mode("run-1", Mode.RUN)
    assert ledger.set_mode("run-1", Mode.CANCEL).mode is Mode.CANCEL
    with pytest.raises(RunConflict, match="its mode is cancel"):
        ledger.set_mode("run-1", Mode.DRAIN)
    assert ledger.run("run-1").mode is Mode.CANCEL


def test_a_run_is_watched_by_one(ledger: Ledger, clock: FakeClock) -> None:
    ledger.begin_run(a_run())
    first = ledger.take_watch("run-1", "w-1", 60)
    assert first is not None
    assert (first.watcher, first.watcher_fence, first.watcher_lease_end) == ("w-1", 1, clock.now() + 60)
    assert ledger.take_watch("run-1", "w-2", 60) is None
    clock.move(30)
    renewed = ledger.take_watch("run-1", "w-1", 60)
    assert renewed is not None
    assert (renewed.watcher_fence, renewed.watcher_lease_end) == (1, clock.now() + 60)
    clock.move(60)
    second = ledger.take_watch("run-1", "w-2", 60)
    assert second is not None
    assert (second.watcher, second.watcher_fence) == ("w-2", 2)
    assert ledger.take_watch("run-1", "w-1", 60) is None
    ledger.release_watch(renewed)
    assert ledger.run("run-1").watcher == "w-2"
    ledger.release_watch(second)
    third = ledger.take_watch("run-1", "w-1", 60)
    assert third is not None
    assert third.watcher_fence == 3


def watched(ledger: Ledger, watcher: str = "w-1") -> Run:
    run = ledger.take_watch("run-1", watcher, 60)
    assert run is not None
    return run


def test_submissions_are_reserved_first_and_settled_afterwards(ledger: Ledger, clock: FakeClock) -> None:
    ledger.begin_run(a_run())
    run, first = ledger.reserve_submission(watched(ledger), size=8, queue="Q", definition="D:3")
    assert (first.sequence, first.name, first.outcome, first.reserved_at) == (0, "t-run-1-0", "reserved", clock.now())
    run, second = ledger.reserve_submission(run, size=2, queue="Q2", definition="D:4")
    assert second.sequence == 1
    ledger.settle_submission(run, 0, job_id="0a1b2c3d-0000-0000-0000-000000000000")
    ended = ledger.settle_submission(run, 1, reason="no such queue | really")
    one, two = ended.submissions
    assert (one.job_id, one.outcome, one.size, one.queue, one.definition) == (
        "0a1b2c3d-0000-0000-0000-000000000000",
        "submitted",
        8,
        "Q",
        "D:3",
    )
    assert (two.outcome, two.reason, two.queue, two.definition) == ("failed", "no such queue | really", "Q2", "D:4")
    assert ledger.run("run-1") == ended
    assert ledger.settle_submission(run, 0, reason="late").submissions[0].outcome == "submitted"
    with pytest.raises(RunConflict, match="it has no submission 7"):
        ledger.settle_submission(run, 7, job_id="x")


def test_a_watcher_that_lost_its_fence_reserves_nothing(ledger: Ledger, clock: FakeClock) -> None:
    ledger.begin_run(a_run())
    old = watched(ledger)
    clock.move(61)
    watched(ledger, "w-2")
    with pytest.raises(RunConflict, match="its watcher's fence is 2, not 1"):
        ledger.reserve_submission(old, size=8, queue="Q", definition="D:3")
    assert ledger.run("run-1").submissions == ()


def test_a_run_ends_once(ledger: Ledger, clock: FakeClock) -> None:
    ledger.begin_run(a_run())
    ended = ledger.end_run("run-1", "completed", "all done")
    assert (ended.ended, ended.outcome, ended.reason) == (clock.now(), "completed", "all done")
    clock.move(5)
    assert ledger.end_run("run-1", "failed") == ended
