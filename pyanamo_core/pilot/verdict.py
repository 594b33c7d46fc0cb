"""From evidence to cause, from cause to what follows: two pure functions and their tables.

`cause_of` reads how a process ended; `judge` says what becomes of the item (docs/ledger.md, Budgets by cause).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyanamo_core.model import INTERRUPTIONS, Cause, State
from pyanamo_core.pilot.evidence import Evidence, last_words
from pyanamo_core.workflow import Budgets

PERMANENT_CODES: Final = frozenset({64, 65})
TRY_AGAIN_CODE: Final = 75
SET_UP_CODE: Final = 78
KILLED_CODE: Final = 137

_NO_SPACE: Final = "No space left on device"
_OUT_OF_MEMORY: Final = (
    "java.lang.OutOfMemoryError",
    "OutOfMemoryError:",
    "MemoryError",
    "std::bad_alloc",
    "Cannot allocate memory",
)

GRAVITY: Final = (
    Cause.SET_UP,
    Cause.HOST_FAULT,
    Cause.PERMANENT,
    Cause.OUT_OF_MEMORY,
    Cause.TIMED_OUT,
    Cause.UNVERIFIED,
    Cause.TASK_ERROR,
)
"""Of several failed nests of an item, the first of these causes decides."""


@dataclass(frozen=True)
class RetryPolicy:
    """The budgets that `judge` needs. `memory_limit_factor`: a pilot's whole container, in shares of one slot."""

    tries: int = 3
    delay_seconds: float = 60.0
    delay_max_seconds: float = 3600.0
    memory_growth: float = 1.5
    memory_factor: float = 1.0
    """What the item had this time."""
    memory_limit_factor: float = 1.0

    @classmethod
    def of(cls, budgets: Budgets, *, memory_factor: float = 1.0, memory_limit_factor: float = 1.0) -> RetryPolicy:
        """The policy of a workflow's budgets, for an item with this memory on a pilot with so many slots."""
        return cls(
            tries=budgets.tries,
            delay_seconds=budgets.retry_delay_seconds,
            delay_max_seconds=budgets.retry_delay_max_seconds,
            memory_growth=budgets.memory_growth,
            memory_factor=memory_factor,
            memory_limit_factor=memory_limit_factor,
        )


@dataclass(frozen=True)
class Verdict:
    """What becomes of an item after an attempt (seconds; memory as a factor of one slot's share)."""

    state: State
    counts: bool
    """Does this attempt use up one of the tries?"""
    interruption: bool = False
    """Does it count against the cap of interruptions?"""
    delay: float = 0.0
    memory_factor: float = 1.0
    stops_run: bool = False
    leaves_host: bool = False
    too_small: bool = False
    """More memory is needed than the container has."""


def weight_of(memory_factor: float, slots: int) -> int:
    """Slots that a nest with this memory takes, and slots' shares that it gets: rounded up, at most all."""
    return max(1, min(slots, math.ceil(memory_factor - 1e-9)))


def judge(cause: Cause, tries: int, policy: RetryPolicy) -> Verdict:
    """What becomes of an item whose attempt ended so.

    Args:
        cause: the attempt's.
        tries: the item's tries, this attempt included (a claim counts it beforehand; hand back gives it back).
    """
    factor = policy.memory_factor
    if cause is Cause.DONE:
        return Verdict(State.DONE, counts=True, memory_factor=factor)
    if cause is Cause.CANCELLED:
        return Verdict(State.CANCELLED, counts=False, memory_factor=factor)
    if cause is Cause.SET_UP:
        return Verdict(State.TODO, counts=False, memory_factor=factor, stops_run=True)
    if cause in INTERRUPTIONS:
        return Verdict(
            State.TODO,
            counts=False,
            interruption=True,
            memory_factor=factor,
            leaves_host=cause is not Cause.LOST,
        )
    if cause is Cause.PERMANENT:
        return Verdict(State.FAILED, counts=True, memory_factor=factor)
    if cause is Cause.OUT_OF_MEMORY:
        if weight_of(factor, int(policy.memory_limit_factor)) >= policy.memory_limit_factor:
            return Verdict(State.FAILED, counts=True, memory_factor=factor, too_small=True)
        factor = min(factor * policy.memory_growth, policy.memory_limit_factor)
    if tries >= policy.tries:
        return Verdict(State.FAILED, counts=True, memory_factor=factor)
    delay = min(policy.delay_seconds * 2.0 ** (max(1, tries) - 1), policy.delay_max_seconds)
    return Verdict(State.WAITING, counts=True, delay=delay, memory_factor=factor)


def cause_of(evidence: Evidence) -> tuple[Cause, str]:
    """The cause that the evidence speaks for, and a message for the user.

    DONE still has to be verified; what is then found is evidence too (`unverified`).
    """
    code = evidence.exit_code
    if evidence.stopped_by is not None:
        if evidence.stopped_by is Cause.HOST_FAULT:
            return Cause.HOST_FAULT, evidence.fault or "the host failed"
        if evidence.stopped_by is Cause.TIMED_OUT:
            return Cause.TIMED_OUT, evidence.fault or "it was stopped at its deadline"
        return evidence.stopped_by, f"it was stopped: {evidence.stopped_by.value}"
    if evidence.host_fault:
        return Cause.HOST_FAULT, evidence.fault
    if code is None:
        return Cause.PERMANENT, evidence.fault or "it could not be started"
    if code == 0 and evidence.unverified and evidence.disk_full:
        return Cause.HOST_FAULT, f"no space left on this host ({evidence.unverified})"
    if code == 0 and evidence.unverified:
        return Cause.UNVERIFIED, evidence.unverified
    if code == 0 and evidence.unchecked:
        return Cause.TASK_ERROR, evidence.unchecked
    if code == 0:
        return Cause.DONE, ""
    said = last_words(evidence.tail)
    told = f"exit code {code}" + (f": {said}" if said else "")
    if code in PERMANENT_CODES:
        return Cause.PERMANENT, told
    if code == SET_UP_CODE:
        return Cause.SET_UP, told
    if code == KILLED_CODE or evidence.oom_kills or any(sign in evidence.tail for sign in _OUT_OF_MEMORY):
        return Cause.OUT_OF_MEMORY, told
    if evidence.disk_full or _NO_SPACE in evidence.tail:
        return Cause.HOST_FAULT, f"no space left on this host ({told})"
    return Cause.TASK_ERROR, told


def gravest(causes: Iterable[Cause]) -> Cause | None:
    """The cause that decides over an item some of whose nests failed; None if none did."""
    seen = set(causes)
    return next((cause for cause in GRAVITY if cause in seen), next(iter(seen), None))
