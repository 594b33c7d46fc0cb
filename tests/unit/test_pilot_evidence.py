"""What an attempt's row says of its end, in 120 bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyanamo_core.model import Cause
from pyanamo_core.pilot.evidence import EVIDENCE_BYTES, Evidence, evidence_line, fitted

TEXT = st.text(max_size=300)


@pytest.mark.parametrize(
    ("evidence", "told"),
    [
        (Evidence(0), "exit 0"),
        (Evidence(3, tail="reading\nno such sample\n"), "exit 3: no such sample"),
        (
            Evidence(137, oom_kills=1, tail="Killed process 7 (java)\n"),
            "exit 137 SIGKILL, oom_kill 1: Killed process 7 (java)",
        ),
        (Evidence(139), "exit 139 SIGSEGV"),
        (Evidence(255, tail="x"), "exit 255: x"),
        (Evidence(143, stopped_by=Cause.SPOT), "exit 143 SIGTERM by us: spot"),
        (
            Evidence(143, stopped_by=Cause.TIMED_OUT, fault="hung: no CPU and no output for 1800 s", tail="last\n"),
            "exit 143 SIGTERM by us: hung: no CPU and no output for 1800 s",
        ),
        (Evidence(0, unverified="s3://b/x does not exist", tail="all well"), "exit 0: s3://b/x does not exist"),
        (Evidence(1, disk_full=True), "exit 1, disk full"),
        (Evidence(None, fault="its arguments are too long"), "never ran: its arguments are too long"),
    ],
)
def test_the_useful_comes_first(evidence: Evidence, told: str) -> None:
    assert evidence_line(evidence) == told


@given(text=TEXT, limit=st.integers(4, 130))
def test_a_text_is_made_to_fit_without_cutting_a_character(text: str, limit: int) -> None:
    told = fitted(text, limit)

    # Then it fits, is one line of whole characters, and a cut shows
    assert len(told.encode()) <= limit
    assert told.isprintable()
    whole = fitted(text, 10_000)
    assert told == whole or (told.endswith("…") and whole.startswith(told[:-1]))


@given(
    code=st.none() | st.integers(0, 255),
    stopped=st.none() | st.sampled_from(Cause),
    tail=TEXT,
    kills=st.integers(0, 10**6),
    fault=TEXT,
)
def test_whatever_happened_is_told_in_120_bytes_with_the_exit_code_first(
    code: int | None, stopped: Cause | None, tail: str, kills: int, fault: str
) -> None:
    told = evidence_line(Evidence(code, stopped_by=stopped, tail=tail, oom_kills=kills, fault=fault))

    assert len(told.encode()) <= EVIDENCE_BYTES
    assert told.startswith("never ran" if code is None else f"exit {code}")


def test_a_name_that_is_no_text_can_be_told() -> None:
    # Given the name of a file that is no UTF-8, as the system gives it
    name = b"sample-\xff".decode("utf-8", "surrogateescape")

    assert fitted(f"no {name}") == "no sample-?"
