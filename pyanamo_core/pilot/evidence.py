"""What is known of a process that ended, and how that is told in 120 bytes. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from pyanamo_core.model import Cause

EVIDENCE_BYTES: Final = 120
"""What an attempt's row has room for."""
_MORE: Final = "…"


@dataclass(frozen=True)
class Evidence:
    """What is known of a process that ended.

    `oom_kills` is how often the kernel killed in this container while it ran; `disk_full` that its scratch has no room;
    `fault` why it could not be started, its log not be written, or it was ended by us; `unverified` what is not so of
    what it claims, `unchecked` why that could not be seen.
    """

    exit_code: int | None
    stopped_by: Cause | None = None
    tail: str = ""
    oom_kills: int = 0
    disk_full: bool = False
    host_fault: bool = False
    fault: str = ""
    unverified: str = ""
    unchecked: str = ""


def evidence_line(evidence: Evidence) -> str:
    """The evidence in at most 120 bytes of UTF-8, the useful first.

    `exit 137 SIGKILL, oom_kill 1: Killed process …`; `exit 143 SIGTERM by us: hung: no CPU and no output for 1800 s`.
    """
    code = evidence.exit_code
    facts = [f"exit {code}{signal_name(code)}" if code is not None else "never ran"]
    if evidence.stopped_by is not None:
        facts[0] += " by us"
    if evidence.oom_kills:
        facts.append(f"oom_kill {evidence.oom_kills}")
    if evidence.disk_full:
        facts.append("disk full")
    said = evidence.fault or evidence.unverified or evidence.unchecked or last_words(evidence.tail)
    if not said and evidence.stopped_by is not None:
        said = evidence.stopped_by.value
    return fitted(", ".join(facts) + (f": {said}" if said else ""))


def signal_name(code: int) -> str:
    """` SIGKILL` for 137 and so on; "" for codes that name no signal."""
    try:
        return f" {signal.Signals(code - 128).name}" if code > 128 else ""
    except ValueError:
        return ""


def fitted(text: str, limit: int = EVIDENCE_BYTES) -> str:
    """One line of at most so many bytes of UTF-8: never cut within a character, a cut shows as `…`."""
    # A name of a file that is no UTF-8 comes with surrogates, which no row could take.
    text = text.encode("utf-8", "replace").decode()
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    told = line.encode()
    if len(told) <= limit:
        return line
    return told[: limit - len(_MORE.encode())].decode("utf-8", "ignore").rstrip() + _MORE


def last_words(tail: str, limit: int = 160) -> str:
    """The last line of a log that is not empty, cut to so many characters; tag lines do not count."""
    for line in reversed(tail.splitlines()):
        if line.strip() and not line.startswith("PyAnamo:\t"):
            line = line.strip()
            return line if len(line) <= limit else line[: limit - 1] + _MORE
    return ""
