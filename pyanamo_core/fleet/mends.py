"""What a user does about an item that failed: one sentence for each cause, with the commands to type."""

from __future__ import annotations

from collections.abc import Sequence

from pyanamo_core.model import INTERRUPTIONS, Cause, Item, Nest, State
from pyanamo_core.words import quoted, span
from pyanamo_core.workflow import Workflow


def mend_of(item: Item, failed: Sequence[Nest], workflow: Workflow) -> str:
    """The mend for an item that has failed or was cancelled.

    Args:
        failed: its failed nests, the one that is asked for first.
        workflow: whose limits the item had.
    """
    name = quoted(item.item_id)
    retry = f"pyanamo items retry {name}"
    logs = f"pyanamo logs {name}" + (f" {failed[0].index}" if failed else "")
    if item.state is State.CANCELLED:
        return f"Try it again with: {retry}"
    cause = item.cause
    if cause is Cause.TIMED_OUT:
        had = item.nest_seconds or workflow.nest_time_seconds
        limit = f" (each had {span(had)})" if had else ""
        return (
            f"See where it stood: {logs} — then give its nests more time{limit}: {retry} --nest-time SECONDS;"
            " for all items: nest_time_seconds, or nest_silence_seconds for a script that is silent, in the workflow file."
        )
    if cause is Cause.OUT_OF_MEMORY:
        share = workflow.memory_mb / max(1, workflow.slots) * item.memory_factor
        if item.memory_factor >= workflow.slots:
            return (
                f"It had a pilot's whole container ({workflow.memory_mb:,} MB): raise memory_mb in the workflow file and the"
                f" job definition (pyanamo deploy --set MemoryMb=N), or cut it into smaller nests; then: {retry}"
            )
        factor = min(2 * item.memory_factor, workflow.slots)
        return f"Its nests had {share:,.0f} MB each: {retry} --memory-factor {factor:g}"
    if cause is Cause.PERMANENT:
        return (
            "Its script says that trying again is of no use (exit code 64 or 65), or it could not be started."
            f" See why: {logs} — then mend the script or the item (pyanamo sheet import --update) and: {retry}"
        )
    if cause is Cause.UNVERIFIED:
        return (
            f"Its script ended well, but what it made does not pass the check. See: {logs} — once it is mended: {retry}"
        )
    if cause in INTERRUPTIONS:
        return (
            "Its pilots were cut short too often in a row, without a nest done in between: make nests shorter, or let"
            f" pilots live longer (wall_time_seconds); then: {retry} — on machines that nobody takes away: {retry} --on-demand"
        )
    if cause is Cause.TASK_ERROR:
        nest = f" --nest {failed[0].index}" if failed else ""
        return (
            f"See what its script said: {logs} — try it on this machine: pyanamo rehearse SHEET --item {name}{nest} —"
            f" once it is mended: {retry}"
        )
    return f"See: pyanamo items show {name} — then: {retry}"
