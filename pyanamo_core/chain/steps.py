"""What a chain consists of: steps with their plans, how each stands, and why one does not go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final, Protocol

from pyanamo_core.errors import BadInput, Refused
from pyanamo_core.fleet.progress import Outcome
from pyanamo_core.model import Item, Run, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.sheet import Sheet, SheetRow
from pyanamo_core.workflow import Workflow

SHOWN_FAILURES: Final = 5
OPEN: Final = (State.TODO, State.WAITING, State.LOCKED)


class StepUnknown(BadInput):
    """There is no step {step}. The steps are {known}, in this order."""


class StepsReversed(BadInput):
    """Step {first} comes after step {last}: nothing would be done. The steps are {known}, in this order."""


class StepEmpty(Refused):
    """Step {step} has nothing to do: table {table} holds no item. Import a sheet first: pyanamo cohort run FILE --sheet SHEET"""


class StepIncomplete(Refused):
    """Step {step} stops the chain: of {wanted:,} items of table {table} are {states}.{causes}
    See why:     pyanamo items list --state {state} --table {table}
                 pyanamo logs {example} --table {table}
    Mend, then:  pyanamo items retry --state {state} --table {table}
    Go on with:  pyanamo cohort run{partial}"""

    exit_code = 7


class StepStopped(Refused):
    """Step {step} did not end: run {run_id} of table {table} is {outcome}{reason}. Go on with: pyanamo cohort run"""

    exit_code = 7


class StepRevisionChanged(Refused):
    """Table {table} holds done nests of another revision than step {step} has now: its parameters, references or verify hook differ (section `cohort` of the workflow file). Nothing was changed. Restore them, or have these nests done again with: pyanamo cohort run --new-revision"""


class StepState(StrEnum):
    """How far a step is."""

    WAITS = "waits"
    TODO = "to do"
    RUNNING = "running"
    FAILED = "failed"
    PARTIAL = "partial"
    DONE = "done"


@dataclass(frozen=True)
class Plan:
    """The items that a step wants by what the steps before it hold, and a word about them for people."""

    rows: Sequence[SheetRow]
    note: str = ""


@dataclass(frozen=True)
class Step:
    """A link of the chain: a table with its workflow, or an act without a table.

    Args:
        name: by which users call it.
        workflow: of its table; scripts on this machine have not been published yet.
        plan: the items it wants; None: those that its table holds, or the sheet's. Called with True it also puts the
            files that its items are told by address; with False it writes nothing.
        sheet: imported first.
        update: edit items of the sheet that stand with another definition.
        whole: it is of no use with some of its items only, whatever the chain is told.
        owns: is an item of the table this step's, by its id? Several steps may share a table.
        act: what a step without items does; returns what to tell. Repeated without harm.
        made: when `act` was done last, in seconds since 1970; None: never.
    """

    name: str
    workflow: Workflow
    plan: Callable[[bool], Plan] | None = None
    sheet: Sheet | None = None
    update: bool = False
    whole: bool = False
    owns: Callable[[str], bool] = lambda item_id: True
    act: Callable[[], str] | None = None
    made: Callable[[], float | None] | None = None

    @property
    def table(self) -> str:
        return self.workflow.table_name if self.act is None else ""


@dataclass(frozen=True)
class Failure:
    """An item that is failed or cancelled, and why."""

    item_id: str
    cause: str
    message: str


@dataclass(frozen=True)
class Look:
    """A step as it stands. Figures are items that it wants now, but for `stale`."""

    step: str
    table: str
    state: StepState
    wanted: int = 0
    done: int = 0
    open: int = 0
    failed: int = 0
    cancelled: int = 0
    new: int = 0
    """Not in the table yet."""
    changed: int = 0
    """In the table with another definition: to be done again."""
    stale: int = 0
    """Open in the table and wanted no more."""
    runs: tuple[str, ...] = ()
    """Live runs of the table."""
    failures: tuple[Failure, ...] = ()
    """The first of them."""
    changes: tuple[str, ...] = ()
    """The first items that are new or changed."""
    finished: float = 0.0
    """When the last of its items was finished; seconds since 1970."""
    note: str = ""
    obstacle: str = ""
    """Why a run would refuse this step before it does anything for it, and what to do."""

    @property
    def todo(self) -> int:
        """Items that a run would do."""
        return self.open + self.new + self.changed


@dataclass(frozen=True)
class Opened:
    """A step's table, and the workflow version that its next run pins."""

    ledger: Ledger
    version: int
    workflow: Workflow


class Tables(Protocol):
    """How a chain comes to the ledgers of its steps."""

    def open(self, table: str) -> Opened | None:
        """None: there is no such table yet."""
        ...

    def provision(self, step: Step, *, new_revision: bool) -> Opened: ...


class Runner(Protocol):
    """Works a step's table off by one run: carries on with `live`, or begins one."""

    def __call__(self, step: Step, opened: Opened, live: Run | None) -> Outcome: ...


Say = Callable[[str], None]


def silent(_: str) -> None:
    """Nobody listens."""


def incomplete(seen: Look, *, whole: bool = False) -> StepIncomplete:
    """Why a step's items keep the chain from going on, and what mends them."""
    counts = {"done": seen.done, "failed": seen.failed, "cancelled": seen.cancelled, "to do": seen.todo}
    states = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    first = seen.failures[0].item_id if seen.failures else (seen.changes or ("ITEM",))[0]
    causes = "".join(f"\n  {one.item_id}: {one.cause}: {one.message}" for one in seen.failures)
    return StepIncomplete(
        step=seen.step,
        table=seen.table,
        wanted=seen.wanted,
        states=states,
        causes=causes,
        example=first,
        state="failed" if seen.failed else "cancelled" if seen.cancelled else "todo",
        partial="      (or without these items: --partial)" if seen.done and not whole else "",
    )


def counted(step: Step, pairs: Iterable[tuple[SheetRow | None, Item | None]]) -> Look:
    """Wanted rows and their items, counted; a row None: whatever the item is, it is wanted."""
    wanted = done = opened = failed = cancelled = new = changed = 0
    finished = 0.0
    failures: list[Failure] = []
    changes: list[str] = []
    for row, item in pairs:
        wanted += 1
        if item is None:
            new += 1
            changes += [row.item_id] if row else []
        elif row is not None and row.definition.hash != item.definition_hash:
            changed += 1
            changes.append(row.item_id)
        elif item.state is State.DONE:
            done += 1
            finished = max(finished, item.finished_at or 0.0)
        elif item.state in OPEN:
            opened += 1
        else:
            failed += item.state is State.FAILED
            cancelled += item.state is State.CANCELLED
            failures.append(Failure(item.item_id, str(item.cause or item.state), item.message))
    state = StepState.TODO
    if wanted and done == wanted:
        state = StepState.DONE
    elif failures and not opened + new + changed:
        state = StepState.FAILED
    return Look(
        step.name,
        step.table,
        state,
        wanted=wanted,
        done=done,
        open=opened,
        failed=failed,
        cancelled=cancelled,
        new=new,
        changed=changed,
        failures=tuple(islice(failures, SHOWN_FAILURES)),
        changes=tuple(islice(changes, SHOWN_FAILURES)),
        finished=finished,
    )
