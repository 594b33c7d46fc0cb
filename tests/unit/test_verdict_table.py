"""The tables of causes in the docs say what the pure functions say: row by row, none missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyanamo_core.model import Cause
from pyanamo_core.pilot.evidence import Evidence
from pyanamo_core.pilot.verdict import RetryPolicy, cause_of, judge

DOCS = Path(__file__).parents[2] / "docs"
POLICY = RetryPolicy(tries=3, memory_growth=1.5, memory_factor=1.0, memory_limit_factor=4.0)
WHOLE = RetryPolicy(tries=3, memory_growth=1.5, memory_factor=4.0, memory_limit_factor=4.0)


def rows_of(page: str, first_heading: str) -> list[list[str]]:
    """The cells of a table's rows, backquotes left away."""
    lines = (DOCS / page).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_heading} |"))
    found: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return found


def told(cause: Cause) -> list[str]:
    """What the pure function decides, in the table's words."""
    first, last, whole = (
        judge(cause, tries, policy) for tries, policy in ((1, POLICY), (POLICY.tries, POLICY), (1, WHOLE))
    )
    counts = "a try" if first.counts and cause is not Cause.DONE else "an interruption" if first.interruption else ""
    then = str(first.state)
    if first.delay:
        then += f", {first.delay:g} s, {judge(cause, 2, POLICY).delay:g} s … later"
    if first.memory_factor > 1.0:
        then += f", with memory × {first.memory_factor:g}"
    if whole.too_small:
        then += "; had it the whole container: failed"
    pilot = "the run stops" if first.stops_run else "it leaves its host" if first.leaves_host else ""
    return [cause.value, counts, then, str(last.state), pilot]


def test_the_table_of_causes_is_what_judge_decides() -> None:
    # Given the table in docs/ledger.md, each of whose rows names one cause or several
    documented = {cause: [cause, *row[1:]] for row in rows_of("ledger.md", "cause") for cause in row[0].split(", ")}

    # Then there is a row for every cause, and it says what the pure function decides
    assert list(documented.values()) == [told(Cause(cause)) for cause in documented]
    assert set(documented) == set(Cause)


EVIDENCE = {
    "exit 0, all verified": [Evidence(0), Evidence(0, tail="No space left on device")],
    "exit 0, something is not as told": [Evidence(0, unverified="x does not exist")],
    "exit 0, S3 did not answer for 5 minutes when outputs were checked or big results stored": [
        Evidence(0, unchecked="s3://b/x: no answer")
    ],
    "the verify hook gave no answer for as long as a nest may take (without nest_time_seconds an hour)": [
        Evidence(0, stopped_by=Cause.TIMED_OUT, fault="the verify hook did not answer within 3600 s")
    ],
    "64, 65; TaskScript cannot be started": [Evidence(64), Evidence(65), Evidence(None, fault="too long")],
    "75 and all others": [Evidence(75), Evidence(1), Evidence(143), Evidence(139)],
    "78": [Evidence(78)],
    "137 not by us, oom_kill of the container, words of an allocator in the tail": [
        Evidence(137),
        Evidence(1, oom_kills=1),
        Evidence(1, tail="MemoryError"),
        Evidence(134, tail="std::bad_alloc"),
        Evidence(3, tail="java.lang.OutOfMemoryError: Java heap space"),
    ],
    "ended by us at its deadline, or hung": [
        Evidence(143, stopped_by=Cause.TIMED_OUT, fault="hung: no CPU and no output for 1800 s"),
        Evidence(137, stopped_by=Cause.TIMED_OUT),
    ],
    "no space, I/O error": [
        Evidence(1, tail="cp: No space left on device"),
        Evidence(1, disk_full=True),
        Evidence(0, unverified="PYANAMO_RESULT is no JSON", disk_full=True),
        Evidence(None, host_fault=True, fault="cannot fork"),
        Evidence(143, stopped_by=Cause.HOST_FAULT, fault="the log cannot be written"),
    ],
}


@pytest.mark.parametrize("row", rows_of("pilot.md", "evidence"), ids=lambda row: row[0])
def test_the_table_of_evidence_is_what_cause_of_reads(row: list[str]) -> None:
    seen, cause, *_ = row

    assert {cause_of(each)[0].value for each in EVIDENCE[seen]} == {cause}


def test_the_table_of_evidence_has_every_row() -> None:
    assert [row[0] for row in rows_of("pilot.md", "evidence")] == list(EVIDENCE)
