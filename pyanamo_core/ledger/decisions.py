"""The moves as pure functions of an item's row: what the row is afterwards, or why the move is refused.

The twin in memory applies them under its lock. DynamoDB's ledger writes their outcome under the move's condition
(expressions.py), and when that is refused asks them again with the row that stood in the way: so both say the same.
Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime

from pyanamo_core.model import (
    LEGAL_FROM,
    Cause,
    Definition,
    Item,
    Mode,
    Move,
    Nest,
    NestStatus,
    Recorded,
    Rules,
    Run,
    State,
)

REDO_MAX = 99
"""One transaction has at most 100 actions; one of them is the item's."""
PAST_DEADLINE = "its lease is over by our own clock"
MODES = (Mode.RUN, Mode.DRAIN, Mode.CANCEL)


class Refusal(Exception):
    """A move that the row does not allow; `reason` goes into MoveRefused or LeaseLost."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def told(when: float | None) -> str:
    """A time for people, e.g. 2026-11-22T18:00:00Z."""
    return "?" if when is None else datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def standing(item: Item) -> str:
    """Where the item stands, as a reason."""
    if item.state is State.LOCKED:
        return f"it is locked by pilot {item.owner} until {told(item.lease_end)}"
    if item.state is State.WAITING:
        return f"it is waiting until {told(item.due)}"
    if item.state is State.FAILED:
        return f"it is failed ({item.cause or 'no cause told'})"
    return f"it is {item.state}"


def _legal(item: Item, move: Move) -> None:
    if item.state not in LEGAL_FROM[move]:
        raise Refusal(standing(item))


def _as_seen(item: Item, seen: Item) -> None:
    if item.fence != seen.fence:
        raise Refusal(f"its fence is {item.fence}, not {seen.fence}: it was moved since you looked")


def _mine(item: Item, fence: int) -> None:
    if item.fence != fence:
        raise Refusal(f"its fence is {item.fence}, not {fence}, and {standing(item)}")
    if item.state is not State.LOCKED:
        raise Refusal(standing(item))


def _lease_over(item: Item, now: float, rules: Rules) -> None:
    if item.lease_end is not None and item.lease_end >= lease_limit(now, rules):
        raise Refusal(standing(item))


def lease_limit(now: float, rules: Rules) -> float:
    """A lease that ended before this time is over for others: the margin covers clocks that disagree."""
    return round(now - rules.margin_seconds, 3)


def no_progress(interruptions: int) -> str:
    """Why an item at the cap of interruptions failed, and what to do: it fits into a row's message."""
    return f"interrupted {interruptions} times in a row without progress: needs shorter nests or longer pilots, then a retry"


def interrupted(item: Item, *, progressed: bool) -> int:
    """Interruptions after one more: after progress the count starts again at 1."""
    return 1 if progressed or item.progress_fence == item.fence else item.interruptions + 1


# ------------------------------------------------------------------------------------------------------- of pilots


def claim(item: Item, *, pilot_id: str, run_id: str, token: str, now: float, rules: Rules) -> Item:
    """(todo or due waiting), tries < max, not cancelled → locked, fence + 1, tries + 1."""
    _legal(item, Move.CLAIM)
    if item.state is State.WAITING and (item.due or 0.0) > now:
        raise Refusal(standing(item))
    if item.cancelled:
        raise Refusal("it is marked as cancelled")
    if item.tries >= rules.max_tries:
        raise Refusal(f"its {rules.max_tries} tries are used up")
    return item.model_copy(
        update={
            "state": State.LOCKED,
            "fence": item.fence + 1,
            "tries": item.tries + 1,
            "due": None,
            "finished_at": None,
        }
        | _owned(pilot_id, run_id, token, now, rules)
    )


def _owned(pilot_id: str, run_id: str, token: str, now: float, rules: Rules) -> dict[str, object]:
    return {
        "owner": pilot_id,
        "run_id": run_id or None,
        "lease_end": round(now + rules.lease_seconds, 3),
        "locked_at": now,
        "last_move": token,
    }


def reclaim(item: Item, *, pilot_id: str, run_id: str, token: str, now: float, rules: Rules) -> Item:
    """Locked, lease over, below the cap, not cancelled → locked by us, fence + 1, an interruption instead of a try."""
    _legal(item, Move.RECLAIM)
    _lease_over(item, now, rules)
    if item.cancelled:
        raise Refusal("it is marked as cancelled")
    if item.interruptions >= rules.max_interruptions:
        raise Refusal(f"its cap of {rules.max_interruptions} interruptions is reached")
    return item.model_copy(
        update={"fence": item.fence + 1, "interruptions": interrupted(item, progressed=False)}
        | _owned(pilot_id, run_id, token, now, rules)
    )


def expire(item: Item, *, token: str, now: float, rules: Rules) -> Item:
    """Locked, lease over, cap reached or cancelled → failed or cancelled; whoever sees it does it."""
    _legal(item, Move.EXPIRE)
    _lease_over(item, now, rules)
    if not item.cancelled and item.interruptions < rules.max_interruptions:
        raise Refusal("it may be claimed again")
    ended = {"lease_end": None, "finished_at": now, "last_move": token, "cancelled": False}
    if item.cancelled:
        return item.model_copy(update=ended | _cancelled())
    return item.model_copy(
        update=ended
        | {
            "state": State.FAILED,
            "cause": Cause.LOST,
            "message": no_progress(item.interruptions),
        }
    )


def _cancelled() -> dict[str, object]:
    return {"state": State.CANCELLED, "cause": Cause.CANCELLED, "message": ""}


def beat(
    item: Item,
    *,
    fence: int,
    token: str,
    lease_end: float,
    progressed: bool,
    nests_done: int,
    nests_failed: int,
) -> Item:
    """Locked, fence mine, the lease grows → lease_end, counts, and progress_fence = mine after progress.

    A beat whose lease end is not later than what stands comes too late to say anything, and is no loss.
    """
    _mine(item, fence)
    if item.lease_end is not None and item.lease_end >= lease_end:
        return item
    return item.model_copy(
        update={
            "lease_end": lease_end,
            "progress_fence": fence if progressed else item.progress_fence,
            "nests_done": nests_done,
            "nests_failed": nests_failed,
            "last_move": token,
        }
    )


def finish(item: Item, *, fence: int, token: str, now: float, nests_done: int, note: str) -> Item:
    """Locked, fence mine, each nest done → done."""
    _mine(item, fence)
    if nests_done != item.nests:
        raise Refusal(f"{nests_done} of its {item.nests} nests are done")
    return item.model_copy(
        update={
            "state": State.DONE,
            "lease_end": None,
            "finished_at": now,
            "cause": Cause.DONE,
            "message": note,
            "cancelled": False,
            "nests_done": nests_done,
            "nests_failed": 0,
            "last_move": token,
        }
    )


def fail(
    item: Item,
    *,
    fence: int,
    token: str,
    now: float,
    cause: Cause,
    message: str,
    nests_done: int,
    nests_failed: int,
) -> Item:
    """Locked, fence mine → failed."""
    _mine(item, fence)
    return item.model_copy(
        update={
            "state": State.FAILED,
            "lease_end": None,
            "finished_at": now,
            "cause": cause,
            "message": message,
            "cancelled": False,
            "nests_done": nests_done,
            "nests_failed": nests_failed,
            "last_move": token,
        }
    )


def _let_go(item: Item, token: str, cause: Cause, message: str) -> dict[str, object]:
    return {
        "owner": None,
        "lease_end": None,
        "locked_at": None,
        "cause": cause,
        "message": message,
        "cancelled": False,
        "last_move": token,
    }


def wait(
    item: Item,
    *,
    fence: int,
    token: str,
    now: float,
    rules: Rules,
    cause: Cause,
    message: str,
    delay_seconds: float,
    memory_factor: float,
    nests_done: int,
    nests_failed: int,
) -> Item:
    """Locked, fence mine → waiting with due. Without a try left: failed; marked as cancelled: cancelled.

    Otherwise an item would wait that nobody may claim.
    """
    _mine(item, fence)
    after = item.model_copy(
        update=_let_go(item, token, cause, message)
        | {
            "state": State.WAITING,
            "due": round(now + max(0.0, delay_seconds), 3),
            "memory_factor": round(memory_factor, 3),
            "nests_done": nests_done,
            "nests_failed": nests_failed,
        }
    )
    if item.cancelled:
        return after.model_copy(update=_cancelled() | {"due": None, "finished_at": now})
    if item.tries >= rules.max_tries:
        return after.model_copy(
            update={"state": State.FAILED, "due": None, "finished_at": now, "owner": item.owner}
            | {"locked_at": item.locked_at}
        )
    return after


def hand_back(
    item: Item,
    *,
    fence: int,
    token: str,
    now: float,
    rules: Rules,
    cause: Cause,
    message: str,
    progressed: bool,
    started: bool,
    counts: bool,
    nests_done: int,
) -> Item:
    """Locked, fence mine → todo, the try given back; an interruption if it counts. At the cap failed; cancelled: cancelled."""
    _mine(item, fence)
    counted = counts and started
    return _returned(
        item,
        token=token,
        now=now,
        rules=rules,
        cause=cause,
        message=message,
        interruptions=interrupted(item, progressed=progressed) if counted else item.interruptions,
        counted=counted,
    ).model_copy(update={"nests_done": nests_done})


def _returned(
    item: Item,
    *,
    token: str,
    now: float,
    rules: Rules,
    cause: Cause,
    message: str,
    interruptions: int,
    counted: bool,
) -> Item:
    after = item.model_copy(
        update=_let_go(item, token, cause, message)
        | {"state": State.TODO, "tries": max(0, item.tries - 1), "interruptions": interruptions}
    )
    if item.cancelled:
        return after.model_copy(update=_cancelled() | {"finished_at": now})
    if counted and interruptions >= rules.max_interruptions:
        return after.model_copy(
            update={
                "state": State.FAILED,
                "finished_at": now,
                "message": no_progress(interruptions) + (f" ({message})" if message else ""),
            }
        )
    return after


def record(standing_row: Nest | None, nest: Nest) -> Recorded:
    """A nest's row is put once per epoch; the first verified result wins, and never over a newer claim's row."""
    if standing_row is None:
        return Recorded.WON
    if standing_row.token == nest.token and nest.token:
        return Recorded.WON
    if standing_row.status is NestStatus.DONE or standing_row.fence > nest.fence:
        return Recorded.KEPT
    return Recorded.WON


# -------------------------------------------------------------------------------------------------------- of users


def _afresh(token: str) -> dict[str, object]:
    return {
        "state": State.TODO,
        "tries": 0,
        "interruptions": 0,
        "cancelled": False,
        "cause": None,
        "message": "",
        "due": None,
        "finished_at": None,
        "last_move": token,
    }


def _unowned() -> dict[str, object]:
    return {"owner": None, "lease_end": None, "locked_at": None}


def retry(
    item: Item,
    *,
    seen: Item,
    token: str,
    memory_factor: float | None,
    nest_seconds: float | None,
    on_demand: bool | None = None,
) -> Item:
    """Failed or cancelled, as seen → todo with fresh budgets, and new limits where given; done nests stay."""
    _legal(item, Move.RETRY)
    _as_seen(item, seen)
    changed = _afresh(token)
    if memory_factor is not None:
        changed["memory_factor"] = round(memory_factor, 3)
    if nest_seconds is not None:
        changed["nest_seconds"] = round(nest_seconds, 3)
    if on_demand is not None:
        changed["on_demand"] = on_demand
    return item.model_copy(update=changed)


def reset(item: Item, *, seen: Item, token: str) -> Item:
    """Not locked, as seen → from nothing: epoch + 1, fence + 1."""
    _legal(item, Move.RESET)
    _as_seen(item, seen)
    return item.model_copy(update=_from_nothing(item, token))


def _from_nothing(item: Item, token: str) -> dict[str, object]:
    return (
        _afresh(token)
        | _unowned()
        | {
            "epoch": item.epoch + 1,
            "fence": item.fence + 1,
            "nests_done": 0,
            "nests_failed": 0,
            "memory_factor": 1.0,
            "nest_seconds": None,
            "on_demand": False,
            "run_id": None,
        }
    )


def edit(item: Item, *, seen: Item, token: str, definition: Definition, revision: str) -> Item:
    """Not locked, as seen → a reset with another definition (whose rows stand already)."""
    _legal(item, Move.EDIT)
    _as_seen(item, seen)
    return item.model_copy(
        update=_from_nothing(item, token)
        | {"nests": definition.nests, "definition_hash": definition.hash, "revision": revision or item.revision}
    )


def extended(definition: Definition, values: Sequence[str]) -> Definition:
    """The definition with values appended under new numbers.

    Raises:
        Refusal: no values, repeated ones, or an item without TaskArgs.
    """
    if not values:
        raise Refusal("no values were given")
    if not definition.arguments:
        raise Refusal("it has no TaskArgs to extend")
    known = set(definition.arguments)
    for value in values:
        if value in known:
            raise Refusal(f"it has a nest {value!r} already")
        if not value:
            raise Refusal("an empty value is no nest")
        known.add(value)
    return definition.model_copy(update={"arguments": (*definition.arguments, *values)})


def extend(item: Item, *, seen: Item, token: str, definition: Definition) -> Item:
    """Not locked, as seen → todo with more nests: fence + 1, same epoch, old nests untouched."""
    _legal(item, Move.EXTEND)
    _as_seen(item, seen)
    return item.model_copy(
        update=_afresh(token)
        | _unowned()
        | {
            "fence": item.fence + 1,
            "nests": definition.nests,
            "definition_hash": definition.hash,
            "nests_failed": 0,
        }
    )


def redo(item: Item, *, seen: Item, token: str, done_left: int, nests: Collection[int]) -> Item:
    """Not locked, as seen → todo, fence + 1; the nests' rows become `reset` with that fence.

    Args:
        done_left: done nests of this epoch that are not done again.
        nests: numbers of the nests to do again.
    """
    _legal(item, Move.REDO)
    _as_seen(item, seen)
    if not nests:
        raise Refusal("no nests were given")
    if len(nests) > REDO_MAX:
        raise Refusal(f"{len(nests)} nests are more than the {REDO_MAX} of a redo; reset the item instead")
    return item.model_copy(
        update=_afresh(token) | _unowned() | {"fence": item.fence + 1, "nests_done": done_left, "nests_failed": 0}
    )


def reset_nest(item: Item, index: int, token: str) -> Nest:
    """The row that a redo leaves: it is never deleted, so that a late write of an older claim stays out."""
    return Nest(
        item_id=item.item_id, epoch=item.epoch, index=index, status=NestStatus.RESET, fence=item.fence, token=token
    )


def cancel(item: Item, *, token: str, now: float) -> Item:
    """Todo or waiting → cancelled; locked → marked, and the owner acts at its next beat."""
    _legal(item, Move.CANCEL)
    if item.state is State.LOCKED:
        return item.model_copy(update={"cancelled": True, "last_move": token})
    return item.model_copy(
        update=_cancelled() | {"due": None, "cancelled": False, "finished_at": now, "last_move": token}
    )


def recover(
    item: Item,
    *,
    seen: Item,
    token: str,
    now: float,
    rules: Rules,
    ended_at: float,
    memory_factor: float | None = None,
    message: str = "",
) -> Item:
    """Locked, fence and owner as seen, its Batch attempt over for `recover_seconds` → as if handed back by the dead pilot, fence + 1.

    With `memory_factor` the container ran out of memory: the try counts, and the next one has that much; failed if that is
    no more than it had, or no try is left.
    """
    _legal(item, Move.RECOVER)
    _as_seen(item, seen)
    if item.owner != seen.owner:
        raise Refusal(f"its pilot is {item.owner}, not {seen.owner}")
    if now - ended_at <= rules.recover_seconds:
        raise Refusal(f"its Batch attempt ended only {max(0.0, now - ended_at):.0f} s ago")
    if memory_factor is not None and not item.cancelled:
        after = item.model_copy(
            update=_let_go(item, token, Cause.OUT_OF_MEMORY, message)
            | {"state": State.TODO, "fence": item.fence + 1, "memory_factor": round(memory_factor, 3)}
        )
        if after.memory_factor > item.memory_factor and item.tries < rules.max_tries:
            return after
        return after.model_copy(update={"state": State.FAILED, "finished_at": now})
    return _returned(
        item,
        token=token,
        now=now,
        rules=rules,
        cause=Cause.LOST,
        message="its Batch attempt is over",
        interruptions=interrupted(item, progressed=False),
        counted=True,
    ).model_copy(update={"fence": item.fence + 1})


# --------------------------------------------------------------------------------------------------------- of runs


def forward(run: Run, wanted: Mode, *, hand_back: bool = False) -> bool:
    """Does the mode change? Raises Refusal if that would be a step back.

    Args:
        hand_back: for drain: at once; one that lets pilots finish may still become one that does not.
    """
    if MODES.index(wanted) < MODES.index(run.mode):
        raise Refusal(f"its mode is {run.mode}, and there is no way back to {wanted}")
    return wanted is not run.mode or (wanted is Mode.DRAIN and hand_back and not run.hand_back)


def same_run(standing_run: Run, wanted: Run) -> None:
    """The same run begun again is the one that stands; with other content it is refused.

    What counts as content: workflow version, revision, limits, dollars, chosen items, oldest pilot. Token, prices and Prefect's
    ids stay as they stand.
    """
    for name in ("workflow_version", "revision", "limits", "max_dollars", "only", "min_pilot"):
        old, new = getattr(standing_run, name), getattr(wanted, name)
        if old != new:
            raise Refusal(f"it exists with another {name.replace('_', ' ')} ({old}, not {new})")


def alone(run: Run, live: Iterable[Run]) -> None:
    """Two live runs of a table must pin the same revision."""
    for other in live:
        if other.run_id != run.run_id and other.revision != run.revision:
            raise Refusal(
                f"run {other.run_id} is live with revision {other.revision or 'none'}, not {run.revision or 'none'}"
            )
