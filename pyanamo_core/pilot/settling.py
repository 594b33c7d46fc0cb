"""What becomes of a held item that is quiet: one decision, made of values. The move itself is the desk's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyanamo_core.model import Cause, State
from pyanamo_core.pilot.evidence import fitted
from pyanamo_core.pilot.leaving import Stop
from pyanamo_core.pilot.scheduler import Failure, Held
from pyanamo_core.pilot.verdict import RetryPolicy, Verdict, gravest, judge, weight_of
from pyanamo_core.workflow import Budgets


@dataclass(frozen=True)
class Settlement:
    """How a claim ends. `counts`: for handing back, is it an interruption? `evidence`: for the attempt's row."""

    cause: Cause
    message: str
    verdict: Verdict
    counts: bool = True
    evidence: str = ""


def settle(held: Held, stop: Stop | None, budgets: Budgets, *, slots: int, slot_mb: int) -> Settlement | None:
    """Decide over an item none of whose nests runs or is being recorded; None: it is not at its end.

    Args:
        stop: the pilot's, if it is ending.
        slots, slot_mb: of the pilot; together its container's memory.
    """
    counts, evidence = True, ""
    if held.complete:
        cause, message, evidence = Cause.DONE, "", f"exit 0 of {held.nests} nests" if held.nests > 1 else "exit 0"
    elif held.cancelled:
        cause, message, counts = Cause.CANCELLED, "cancelled by a user", False
    elif stop is not None:
        if stop.meaning is None:
            return None
        cause, message, counts = stop.meaning.cause, stop.meaning.reason, stop.meaning.counts
        evidence = held.host_said if cause is Cause.HOST_FAULT else ""
    elif held.failed and (held.ended or not held.pending):
        index, (cause, message, evidence) = _decisive(held)
        if held.nests > 1:
            message, evidence = f"nest {index}: {message}", f"nest {index}: {evidence or message}"
    elif held.refused_for_time and held.pending:
        # It was refused, not interrupted: this pilot has no time left for it, another has.
        cause, message, counts = Cause.WALL_TIME, "no wall time left for its next nest", False
    else:
        return None
    policy = RetryPolicy.of(budgets, memory_factor=held.claim.item.memory_factor, memory_limit_factor=float(slots))
    verdict = judge(cause, held.claim.item.tries, policy)
    if cause is Cause.OUT_OF_MEMORY and verdict.state is State.FAILED:
        had = slot_mb * weight_of(held.claim.item.memory_factor, slots)
        message = f"needs ≥ {math.ceil(had * budgets.memory_growth)} MB: {message}"
    return Settlement(cause, message, verdict, counts, fitted(evidence or message))


def _decisive(held: Held) -> tuple[int, Failure]:
    """The failure that decides: the gravest; where the first one ended its siblings, that one."""
    if held.ended:
        return next(iter(held.failed.items()))
    cause = gravest(each.cause for each in held.failed.values())
    return next((index, each) for index, each in held.failed.items() if each.cause is cause)
