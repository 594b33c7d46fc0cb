"""Batch's retry strategy: what follows from the end of an attempt.

https://docs.aws.amazon.com/batch/latest/userguide/job_retries.html: conditions of one rule must all hold, the first rule
that holds decides, without such a rule the job is tried again while attempts are left; a pattern may end with `*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def matches(pattern: str, text: str) -> bool:
    """Batch's globs: equal but for case, or equal up to a final `*`."""
    pattern, text = pattern.lower(), text.lower()
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def is_tried_again(
    strategy: Mapping[str, Any], attempts_made: int, exit_code: int | None, status_reason: str, reason: str
) -> bool:
    """Does Batch start another attempt of a job whose attempt has failed?

    Args:
        strategy: `retryStrategy` as Batch takes it: `attempts` (default 1), `evaluateOnExit`.
        attempts_made: how many attempts have ended, this one included.
        exit_code: of the container; None if it has none (its host was terminated, it never started).
        status_reason: of the attempt, e.g. `Host EC2 (instance i-0) terminated.`
        reason: of the container, e.g. `OutOfMemoryError: Container killed due to memory usage`.
    """
    if attempts_made >= int(strategy.get("attempts") or 1):
        return False
    rules: Sequence[Mapping[str, Any]] = strategy.get("evaluateOnExit") or ()
    for rule in rules:
        conditions = (
            (rule.get("onExitCode"), None if exit_code is None else str(exit_code)),
            (rule.get("onStatusReason"), status_reason),
            (rule.get("onReason"), reason),
        )
        asked = [(pattern, text) for pattern, text in conditions if pattern]
        if all(text is not None and matches(pattern, text) for pattern, text in asked):
            return str(rule.get("action", "")).upper() == "RETRY"
    return True
