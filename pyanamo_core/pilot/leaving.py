"""Why a pilot stops and leaves: values, and what a signal means. No effects."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pyanamo_core.errors import ForeignTable, TableMissing, WorkflowMissing
from pyanamo_core.model import Cause, Mode, Run
from pyanamo_core.pilot.verdict import SET_UP_CODE, TRY_AGAIN_CODE

MAX_REMEMBERED: Final = 1000


@dataclass(frozen=True)
class Leaving:
    """Why a pilot leaves, and with what exit code. `stop_run`: the reason to stop the whole run, if it is one."""

    reason: str
    exit_code: int
    stop_run: str = ""


@dataclass(frozen=True)
class Meaning:
    """What the end of what runs is called: the cause of the attempts, the exit code, the pilot's words.

    `counts`: is it an interruption of the items that are handed back?
    """

    cause: Cause
    reason: str
    exit_code: int = TRY_AGAIN_CODE
    counts: bool = True
    stop_run: str = ""


@dataclass
class Stop:
    """What runs is being ended since a time (monotonic). `meaning` is None while it is being asked for."""

    since: float
    meaning: Meaning | None


@dataclass(frozen=True)
class Order:
    """What the run's row tells its pilots: the mode, why, and for a drain whether it is to end what runs."""

    mode: Mode = Mode.RUN
    reason: str = ""
    hand_back: bool = False

    @classmethod
    def of(cls, run: Run) -> Order:
        """The order of a run's row."""
        return cls(run.mode, run.reason, run.hand_back)

    @property
    def at_once(self) -> bool:
        """Is what runs to be ended now?"""
        return self.mode is Mode.CANCEL or (self.mode is Mode.DRAIN and self.hand_back)


NO_ORDER: Final = Order()


def by_order(order: Order) -> Meaning | None:
    """What the run's mode demands of a pilot that must end; None if it demands nothing."""
    if order.mode is Mode.CANCEL:
        return Meaning(Cause.CANCELLED, worded("cancelled", order.reason), exit_code=0, counts=False)
    if order.mode is Mode.DRAIN:
        return Meaning(Cause.DRAINED, worded("drained", order.reason), exit_code=0, counts=False)
    return None


def job_kept_instead(run: Run, submission: int | None, batch_job: str) -> str:
    """The job that was kept of two that one submission made, if it is not this pilot's; else "".

    SubmitJob may arrive late, after it was given up and sent again. Until its submission is settled a pilot works, so that it
    needs no watcher; from then on only the pilots of the job that the run's row names do.

    Args:
        submission: the number of the submission that made the pilot; None: a person started it.
        batch_job: its own job, `id` or `id:index`.
    """
    told = next((each for each in run.submissions if each.sequence == submission), None)
    own = batch_job.partition(":")[0]
    return told.job_id if told is not None and own and told.job_id not in ("", own) else ""


def meaning_of_signal(number: int, order: Order, *, spot_notice: str, wall_time_over: bool) -> Meaning:
    """What TERM or INT means: the run's mode, a Spot notice, the end of the wall time, else a drain that counts."""
    told = by_order(order)
    if told is not None:
        return told
    if spot_notice:
        return spot(spot_notice)
    if wall_time_over:
        return wall_time()
    return Meaning(Cause.DRAINED, f"drained: signal {number}")


def spot(notice: str) -> Meaning:
    """The instance will be taken away."""
    return Meaning(Cause.SPOT, f"spot: {notice}")


def wall_time() -> Meaning:
    """The pilot's own time is over."""
    return Meaning(Cause.WALL_TIME, "wall_time")


def own_fault(error: BaseException) -> Meaning:
    """The pilot itself failed: what it holds goes back as if it had died."""
    return Meaning(Cause.LOST, f"the pilot failed: {type(error).__name__}: {error}"[:300], exit_code=1)


def host_fault(message: str) -> Meaning:
    """This host cannot do it."""
    return Meaning(Cause.HOST_FAULT, f"host_fault: {message}")


def set_up(message: str) -> Meaning:
    """Every host would fail alike."""
    told = f"set-up wrong: {message}"
    return Meaning(Cause.SET_UP, f"set_up: {message}", exit_code=SET_UP_CODE, counts=False, stop_run=told)


def worded(word: str, why: str) -> str:
    """`drained: why`, or `drained`."""
    return f"{word}: {why}" if why else word


class FirstFailures:
    """The first items that a pilot knows of all failing with one message, none done: something is wrong with all.

    Args:
        enough: so many items.
    """

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._said: dict[str, str] = {}
        self._any_done = False

    def done(self) -> None:
        """An item is done: the rule is off for good."""
        self._any_done = True
        self._said.clear()

    def failed(self, item_id: str, message: str) -> str:
        """An item has failed; gives the reason to stop if that makes enough, else ""."""
        if not self._any_done and len(self._said) < MAX_REMEMBERED:
            self._said.setdefault(item_id, alike(message, item_id))
        if len(self._said) >= self._enough and len(set(self._said.values())) == 1:
            return f"the first {self._enough} items all failed alike: {message}"
        return ""


def alike(message: str, item_id: str) -> str:
    """A message without what differs from item to item: ids, numbers, addresses."""
    return re.sub(r"[0-9a-f]{8,}|\d+", "#", message.replace(item_id, "ITEM"))


def refusal_code(error: Exception, otherwise: int) -> int:
    """A pilot's exit code when it could not even begin: 78 where the table is not there, holds no workflow or is not ours.

    Every host would find the same, so Batch must not try again; otherwise the code that the error has by itself.
    """
    return SET_UP_CODE if isinstance(error, TableMissing | WorkflowMissing | ForeignTable) else otherwise
