"""From evidence to cause, from cause to what follows."""

from __future__ import annotations

import pytest

from pyanamo_core.model import Cause, State
from pyanamo_core.pilot.evidence import Evidence, last_words
from pyanamo_core.pilot.verdict import RetryPolicy, Verdict, cause_of, gravest, judge

POLICY = RetryPolicy(tries=3, delay_seconds=60, delay_max_seconds=200, memory_limit_factor=4.0)


@pytest.mark.parametrize(
    ("cause", "tries", "state", "counts", "interruption", "delay"),
    [
        (Cause.DONE, 1, State.DONE, True, False, 0),
        (Cause.SPOT, 1, State.TODO, False, True, 0),
        (Cause.LOST, 1, State.TODO, False, True, 0),
        (Cause.WALL_TIME, 1, State.TODO, False, True, 0),
        (Cause.DRAINED, 1, State.TODO, False, True, 0),
        (Cause.HOST_FAULT, 3, State.TODO, False, True, 0),
        (Cause.OUT_OF_MEMORY, 1, State.WAITING, True, False, 60),
        (Cause.TASK_ERROR, 1, State.WAITING, True, False, 60),
        (Cause.TASK_ERROR, 2, State.WAITING, True, False, 120),
        (Cause.TASK_ERROR, 3, State.FAILED, True, False, 0),
        (Cause.TIMED_OUT, 2, State.WAITING, True, False, 120),
        (Cause.UNVERIFIED, 3, State.FAILED, True, False, 0),
        (Cause.PERMANENT, 1, State.FAILED, True, False, 0),
        (Cause.SET_UP, 3, State.TODO, False, False, 0),
        (Cause.CANCELLED, 1, State.CANCELLED, False, False, 0),
    ],
)
def test_each_cause_has_its_consequence(
    cause: Cause, tries: int, state: State, counts: bool, interruption: bool, delay: float
) -> None:
    verdict = judge(cause, tries, POLICY)

    assert (verdict.state, verdict.counts, verdict.interruption, verdict.delay) == (state, counts, interruption, delay)


def test_every_cause_is_judged() -> None:
    assert {cause for cause in Cause if isinstance(judge(cause, 1, POLICY), Verdict)} == set(Cause)


def test_the_back_off_has_a_ceiling() -> None:
    # Given a budget of ten tries and at most 200 s of delay
    policy = RetryPolicy(tries=10, delay_seconds=60, delay_max_seconds=200)

    # Then the delays double until they reach it
    assert [judge(Cause.TASK_ERROR, tries, policy).delay for tries in (1, 2, 3, 9)] == [60, 120, 200, 200]


def test_out_of_memory_asks_for_half_as_much_again_up_to_the_whole_container() -> None:
    # Given pilots with four slots
    factors = [1.0]

    # When an item runs out of memory again and again
    while True:
        policy = RetryPolicy(tries=99, memory_factor=factors[-1], memory_limit_factor=4.0)
        verdict = judge(Cause.OUT_OF_MEMORY, 1, policy)
        if verdict.state is State.FAILED:
            break
        factors.append(verdict.memory_factor)

    # Then its factor grows until its slots, rounded up, are the whole container; after that it is impossible
    assert factors == [1.0, 1.5, 2.25, 3.375]
    assert verdict.too_small


def test_only_set_up_stops_the_run_and_only_interruptions_of_ours_leave_the_host() -> None:
    assert [cause for cause in Cause if judge(cause, 1, POLICY).stops_run] == [Cause.SET_UP]
    assert {cause for cause in Cause if judge(cause, 1, POLICY).leaves_host} == {
        Cause.SPOT,
        Cause.WALL_TIME,
        Cause.DRAINED,
        Cause.HOST_FAULT,
    }


@pytest.mark.parametrize(
    ("evidence", "cause"),
    [
        (Evidence(0), Cause.DONE),
        (Evidence(1), Cause.TASK_ERROR),
        (Evidence(75), Cause.TASK_ERROR),
        (Evidence(64), Cause.PERMANENT),
        (Evidence(65), Cause.PERMANENT),
        (Evidence(78), Cause.SET_UP),
        (Evidence(137), Cause.OUT_OF_MEMORY),
        (Evidence(1, oom_kills=1), Cause.OUT_OF_MEMORY),
        (Evidence(0, oom_kills=1), Cause.DONE),
        (Evidence(3, tail="Exception in thread main java.lang.OutOfMemoryError: Java heap space"), Cause.OUT_OF_MEMORY),
        (Evidence(0, tail="caught java.lang.OutOfMemoryError, went on"), Cause.DONE),
        (Evidence(137, stopped_by=Cause.TIMED_OUT), Cause.TIMED_OUT),
        (Evidence(143, stopped_by=Cause.DRAINED), Cause.DRAINED),
        (Evidence(0, stopped_by=Cause.SPOT), Cause.SPOT),
        (Evidence(143), Cause.TASK_ERROR),
        (Evidence(2, tail="cp: error writing 'x': No space left on device"), Cause.HOST_FAULT),
        (Evidence(2, disk_full=True), Cause.HOST_FAULT),
        (Evidence(0, disk_full=True), Cause.DONE),
        (Evidence(0, unverified="x does not exist"), Cause.UNVERIFIED),
        (Evidence(0, unchecked="S3 did not answer for 300 s"), Cause.TASK_ERROR),
        (Evidence(0, unverified="PYANAMO_RESULT is no JSON", disk_full=True), Cause.HOST_FAULT),
        (Evidence(134, tail="terminate called after throwing an instance of 'std::bad_alloc'"), Cause.OUT_OF_MEMORY),
        (Evidence(None, host_fault=True, fault="cannot fork"), Cause.HOST_FAULT),
        (Evidence(None, fault="too long"), Cause.PERMANENT),
    ],
)
def test_evidence_speaks_for_a_cause(evidence: Evidence, cause: Cause) -> None:
    assert cause_of(evidence)[0] is cause


def test_the_message_tells_the_exit_code_and_the_last_words() -> None:
    told = cause_of(Evidence(1, tail="reading\nPyAnamo:\tx\t1\nno such sample\n\n"))[1]

    assert told == "exit code 1: no such sample"
    assert last_words("a\nno such sample\nPyAnamo:\tx\n\n") == "no such sample"


def test_of_several_failed_nests_the_gravest_decides() -> None:
    assert gravest([Cause.TASK_ERROR, Cause.PERMANENT, Cause.TIMED_OUT]) is Cause.PERMANENT
    assert gravest([Cause.TASK_ERROR, Cause.SET_UP]) is Cause.SET_UP
    assert gravest([]) is None
