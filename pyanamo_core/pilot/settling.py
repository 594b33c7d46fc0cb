"""What becomes of a held item that is quiet: one decision, made of values. The move itself is the desk's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pyanamo_core.model import Cause
from pyanamo_core.pilot.leaving import Stop
from pyanamo_core.pilot.scheduler import Held
from pyanamo_core.pilot.verdict import RetryPolicy, Verdict, gravest, judge
from pyanamo_core.workflow import Budgets


@dataclass(frozen=True)
class Settlement:
    """How a claim ends. `counts`: for handing back, is it an interruption?"""

    cause: Cause
    message: str
    verdict: Verdict
    counts: bool = True


def settle(held: Held, stop: Stop | None, budgets: Budgets, *, slots: int, slot_mb: int) -> Settlement | None:
    """Decide over an item none of whose nests runs or is being recorded; None: it is not at its end.

    Args:
        stop: the pilot's, if it is ending.
        slots, slot_mb: of the pilot; together its container's memory.
    """
    counts = True
    if held.complete:
        cause, message = Cause.DONE, ""
    elif held.cancelled:
        cause, message = Cause.CANCELLED, "cancelled by a user"
    elif stop is not None:
        if stop.meaning is None:
            return None
        cause, message, counts = stop.meaning.cause, stop.meaning.reason, stop.meaning.counts
    elif held.failed and not held.pending:
        cause = gravest(cause for cause, _ in held.failed.values()) or Cause.TASK_ERROR
        index, message = next((index, told) for index, (each, told) in held.failed.items() if each is cause)
        message = f"nest {index}: {message}" if held.nests > 1 else message
    elif held.refused_for_time and held.pending:
        # It was refused, not interrupted: this pilot has no time left for it, another has.
        cause, message, counts = Cause.WALL_TIME, "no wall time left for its next nest", False
    else:
        return None
    policy = RetryPolicy.of(budgets, memory_factor=held.claim.item.memory_factor, memory_limit_factor=float(slots))
    verdict = judge(cause, held.claim.item.tries, policy)
    if verdict.too_small:
        message = f"needs ≥ {math.ceil(slot_mb * slots * policy.memory_growth)} MB: {message}"
    return Settlement(cause, message, verdict, counts)
