"""A chain of steps, each a table: a step starts when what it needs is done, and what is done is not done again.

    looks = Chain(steps, AwsTables(clients)).run(plainly(clients), say=print)

A step's items follow from what the steps before it hold (its plan), and each item's argument is the address of a file
named by its content. So nothing is remembered here: the same plan finds its items done, a changed one edits exactly
those items that it changes, and a chain that was killed anywhere goes on when it is run again. Who executes a step's
runs (this process, or a flow) is the `Runner`'s business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import islice
from typing import Final, Protocol

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.errors import BadInput, ItemMissing, PyAnamoError, Refused, TableMissing, WorkflowMissing
from pyanamo_core.fleet.progress import Outcome, Progress
from pyanamo_core.importer import import_sheet
from pyanamo_core.model import Item, Mode, Run, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.revision import RevisionChanged, affected, do_again
from pyanamo_core.sheet import Sheet, SheetRow
from pyanamo_core.workflow import Workflow

log = logging.getLogger(__name__)

READERS: Final = 16
"""Items that are read at a time, each strongly."""
SHOWN_FAILURES: Final = 5
MAX_ROUNDS: Final = 5
"""So often is a step run whose runs complete and leave items that are not done."""
_OPEN: Final = (State.TODO, State.WAITING, State.LOCKED)


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
    """The items that a step wants by what the steps before it hold, and the files that they are told by address."""

    rows: Sequence[SheetRow]
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """s3:// address → content; put before the items are imported."""
    note: str = ""


@dataclass(frozen=True)
class Step:
    """A link of the chain: a table with its workflow, or an act without a table.

    Args:
        name: by which users call it.
        workflow: of its table; scripts on this machine have not been published yet.
        plan: the items it wants; None: those that its table holds, or the sheet's. Reads only.
        sheet: imported first.
        update: edit items of the sheet that stand with another definition.
        owns: is an item of the table this step's, by its id? Several steps may share a table.
        act: what a step without items does; returns what to tell. Repeated without harm.
        made: when `act` was done last, in seconds since 1970; None: never.
    """

    name: str
    workflow: Workflow
    plan: Callable[[], Plan] | None = None
    sheet: Sheet | None = None
    update: bool = False
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
    def put(self, uri: str, content: bytes) -> None: ...


class Runner(Protocol):
    """Works a step's table off by one run: carries on with `live`, or begins one."""

    def __call__(self, step: Step, opened: Opened, live: Run | None) -> Outcome: ...


Say = Callable[[str], None]


def silent(_: str) -> None:
    """Nobody listens."""


class Chain:
    """Steps in their order, over tables.

    Args:
        partial: go on although items of a step have failed or were cancelled.
        new_revision: have done nests of another revision done again, instead of refusing it.
    """

    def __init__(
        self, steps: Sequence[Step], tables: Tables, *, partial: bool = False, new_revision: bool = False
    ) -> None:
        self.steps = tuple(steps)
        self._tables, self._partial, self._new_revision = tables, partial, new_revision

    def span(self, first: str = "", last: str = "") -> list[Step]:
        """The steps from one to another, both included; by default all.

        Raises:
            StepUnknown, StepsReversed.
        """
        names = [step.name for step in self.steps]
        known = ", ".join(names)
        for name in filter(None, (first, last)):
            if name not in names:
                raise StepUnknown(step=name, known=known)
        begin = names.index(first) if first else 0
        end = names.index(last) if last else len(names) - 1
        if begin > end:
            raise StepsReversed(first=first, last=last, known=known)
        return list(self.steps[begin : end + 1])

    def look(self, *, first: str = "", last: str = "") -> list[Look]:
        """How far each step is. Reads only. Of a step that waits for another one, only what its table holds is known."""
        told: list[Look] = []
        before: Look | None = None
        for step in self.span(first, last):
            if before is not None and before.state not in (StepState.DONE, StepState.PARTIAL):
                before = self._waiting(step, before)
            else:
                before = self._look_now(step, before.finished if before else 0.0)
            told.append(before)
        return told

    def run(self, runner: Runner, *, first: str = "", last: str = "", say: Say = silent) -> list[Look]:
        """Bring each step to its end, in order; what is done is left alone.

        Raises:
            StepIncomplete: items failed or were cancelled; with `partial` only if none is done.
            StepStopped: a run was cancelled, drained or stopped. StepEmpty: there is nothing to do at all.
            StepRevisionChanged. PyAnamoError: as planning, provisioning and runs raise them.
        """
        told: list[Look] = []
        finished = 0.0
        for step in self.span(first, last):
            seen = self._act(step, finished, say) if step.act else self._bring_to_its_end(step, runner, say)
            finished = max(finished, seen.finished)
            told.append(seen)
        return told

    # ------------------------------------------------------------------------------------------------- looking

    def _waiting(self, step: Step, before: Look) -> Look:
        waits = before.note if before.state is StepState.WAITS else f"for {before.step}"
        opened = self._tables.open(step.table) if step.table else None
        if opened is None:
            return Look(step.name, step.table, StepState.WAITS, note=waits)
        own = [item for item in opened.ledger.items() if step.owns(item.item_id)]
        seen = _counted(step, [(None, item) for item in own])
        runs = tuple(run.run_id for run in opened.ledger.live_runs())
        return replace(seen, state=StepState.WAITS, runs=runs, note=waits)

    def _look_now(self, step: Step, since: float) -> Look:
        if step.act is not None:
            made = step.made() if step.made else None
            # Whole seconds: S3 tells no fractions.
            done = made is not None and made >= int(since)
            return Look(step.name, "", StepState.DONE if done else StepState.TODO, finished=made or 0.0)
        opened = self._tables.open(step.table)
        try:
            plan = step.plan() if step.plan else None
        except PyAnamoError as refusal:
            return Look(step.name, step.table, StepState.TODO, note=str(refusal))
        return self._look(step, opened, plan)

    def _look(self, step: Step, opened: Opened | None, plan: Plan | None) -> Look:
        """A step against its plan: every item that is wanted, by a strong read."""
        ledger = opened.ledger if opened else None
        if plan is None and step.sheet is not None:
            plan = Plan(list(step.sheet.rows()))
        pairs: list[tuple[SheetRow | None, Item | None]]
        if ledger is None:
            pairs = [(row, None) for row in plan.rows] if plan else []
        elif step.plan is None:
            standing = {item.item_id: item for item in ledger.items() if step.owns(item.item_id)}
            listed = {row.item_id: row for row in plan.rows} if plan else {}
            pairs = [(listed.get(item_id), item) for item_id, item in standing.items()]
            pairs += [(row, None) for item_id, row in listed.items() if item_id not in standing]
        else:
            pairs = list(standing_of(ledger, plan.rows if plan else ()))
        seen = _counted(step, pairs)
        runs = ledger.live_runs() if ledger else []
        stale = len(self._stale(step, ledger, plan)) if ledger and step.plan and plan else 0
        state = seen.state
        if state is StepState.FAILED and self._partial and seen.done:
            state = StepState.PARTIAL
        if runs and state is not StepState.DONE:
            state = StepState.RUNNING
        note = plan.note if plan else ""
        if not seen.wanted:
            note = note or "no item yet"
        return replace(seen, state=state, runs=tuple(run.run_id for run in runs), stale=stale, note=note)

    def _stale(self, step: Step, ledger: Ledger, plan: Plan) -> list[Item]:
        wanted = {row.item_id for row in plan.rows}
        return [
            item
            for state in _OPEN
            for item in ledger.items(state)
            if step.owns(item.item_id) and item.item_id not in wanted
        ]

    # ------------------------------------------------------------------------------------------------- doing

    def _act(self, step: Step, finished: float, say: Say) -> Look:
        assert step.act is not None  # noqa: S101 - asked by the caller
        seen = self._look_now(step, finished)
        if seen.state is StepState.DONE:
            say(f"{step.name}: done already")
            return seen
        say(f"{step.name}: {step.act()}")
        return self._look_now(step, finished)

    def _bring_to_its_end(self, step: Step, runner: Runner, say: Say) -> Look:
        plan = step.plan() if step.plan else None
        for _ in range(MAX_ROUNDS):
            opened = self._prepare(step, plan, say)
            seen = self._look(step, opened, plan)
            live = next(iter(opened.ledger.live_runs()), None)
            if not seen.wanted:
                raise StepEmpty(step=step.name, table=step.table)
            if live is None and not seen.todo:
                return self._ended(step, seen, say)
            if live is not None:
                say(f"{step.name}: run {live.run_id} of table {step.table} is live: carried on")
            else:
                say(f"{step.name}: {seen.todo:,} of {seen.wanted:,} items of table {step.table} are to be done")
            outcome = runner(step, opened, live)
            stopped_before = live is not None and live.mode is not Mode.RUN
            if outcome.outcome == "failed":
                seen = self._look(step, opened, plan)
                if not seen.todo:
                    return self._ended(step, seen, say)
            if outcome.outcome != "completed" and not stopped_before:
                reason = f" ({outcome.reason})" if outcome.reason else ""
                told = outcome.outcome or "no longer watched; its pilots go on"
                raise StepStopped(
                    step=step.name, run_id=outcome.run.run_id, table=step.table, outcome=told, reason=reason
                )
        return self._ended(step, self._look(step, self._tables.open(step.table), plan), say)

    def _prepare(self, step: Step, plan: Plan | None, say: Say) -> Opened:
        """Table, files, items as they are wanted now: each part of it can be repeated."""
        opened = self._provision(step)
        ledger, revision = opened.ledger, opened.workflow.revision
        if step.sheet is not None:
            driver.import_items(ledger, step.sheet, opened.workflow, update=step.update)
        if plan is None:
            return opened
        self._put_files(ledger, plan)
        done = import_sheet(ledger, _Rows(plan.rows), update=True, revision=revision)
        stale = self._stale(step, ledger, plan)
        _each(ledger.cancel, stale)
        # Nobody but this chain cancels items of its tables: earlier plans that did not want them.
        again = [item for _, item in standing_of(ledger, plan.rows) if item and item.state is State.CANCELLED]
        _each(ledger.retry, again)
        told = [
            f"{count:,} {what}"
            for count, what in (
                (done.created, "new"),
                (done.edited, "changed, to be done again"),
                (len(again), "wanted again"),
                (len(stale), "wanted no more and cancelled"),
            )
            if count
        ]
        if told:
            say(f"{step.name}: items of table {step.table}: {', '.join(told)}")
        return opened

    def _provision(self, step: Step) -> Opened:
        try:
            opened = self._tables.provision(step, new_revision=self._new_revision)
        except RevisionChanged as refusal:
            if step.plan is None:
                raise
            raise StepRevisionChanged(table=step.table, step=step.name) from refusal
        if self._new_revision:
            do_again(opened.ledger, affected(opened.ledger, opened.workflow.revision))
        return opened

    def _put_files(self, ledger: Ledger, plan: Plan) -> None:
        """Plan files of the items that are not done with them: before the items, so that none is told of a file that is not there."""
        done = {row.item_id for row, item in standing_of(ledger, plan.rows) if item and _is_done(row, item)}
        needed = {value for row in plan.rows if row.item_id not in done for value in row.definition.arguments}
        uris = [uri for uri in plan.files if uri in needed]
        with ThreadPoolExecutor(READERS, thread_name_prefix="plans") as pool:
            list(pool.map(self._tables.put, uris, [plan.files[uri] for uri in uris]))

    def _ended(self, step: Step, seen: Look, say: Say) -> Look:
        if seen.state is StepState.DONE:
            say(f"{step.name}: {seen.done:,} of {seen.wanted:,} items done")
            return seen
        if seen.done and self._partial and not seen.todo:
            say(f"{step.name}: {seen.done:,} of {seen.wanted:,} items done; goes on without the others (--partial)")
            return replace(seen, state=StepState.PARTIAL)
        raise incomplete(seen)


def incomplete(seen: Look) -> StepIncomplete:
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
        partial="      (or without these items: --partial)" if seen.done else "",
    )


class _Rows:
    """Rows in memory, as the import takes them."""

    def __init__(self, rows: Sequence[SheetRow]) -> None:
        self._rows = rows
        self.items = len(rows)

    def rows(self) -> Iterable[SheetRow]:
        return self._rows


def standing_of(ledger: Ledger, rows: Sequence[SheetRow]) -> Iterable[tuple[SheetRow, Item | None]]:
    """Each row with its item as it stands, by a strong read; None: not in the table."""

    def read(row: SheetRow) -> tuple[SheetRow, Item | None]:
        try:
            return row, ledger.item(row.item_id)
        except ItemMissing:
            return row, None

    with ThreadPoolExecutor(READERS, thread_name_prefix="items") as pool:
        yield from pool.map(read, rows)


def _each(move: Callable[[Item], Item], items: Sequence[Item]) -> None:
    with ThreadPoolExecutor(READERS, thread_name_prefix="moves") as pool:
        list(pool.map(move, items))


def _is_done(row: SheetRow | None, item: Item) -> bool:
    return item.state is State.DONE and (row is None or row.definition.hash == item.definition_hash)


def _counted(step: Step, pairs: Iterable[tuple[SheetRow | None, Item | None]]) -> Look:
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
        elif item.state in _OPEN:
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


# ---------------------------------------------------------------------------------------------------- with AWS


class AwsTables:
    """Ledgers in DynamoDB, files in S3."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def open(self, table: str) -> Opened | None:
        from pyanamo_core.ledger import open_ledger

        try:
            return Opened(*open_ledger(self._clients, table))
        except (TableMissing, WorkflowMissing):
            return None

    def provision(self, step: Step, *, new_revision: bool) -> Opened:
        from pyanamo_core.ledger import open_ledger

        done = driver.provision(self._clients, step.workflow, new_revision=new_revision)
        return Opened(*open_ledger(self._clients, done.table, version=done.version))

    def put(self, uri: str, content: bytes) -> None:
        from pyanamo_core.aws import explained

        bucket, _, key = uri.removeprefix("s3://").partition("/")
        with explained("s3", f"writing {uri}"):
            self._clients.client("s3").put_object(Bucket=bucket, Key=key, Body=content)


def plainly(
    clients: Clients,
    *,
    pilots: Mapping[str, int] | None = None,
    on_begin: Callable[[Step, Run], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Runner:
    """A runner in this process, without Prefect.

    Args:
        pilots: step → pilots at most, instead of the workflow's.
        on_begin: told the run before anything is submitted for it.
    """
    most = pilots or {}

    def work(step: Step, opened: Opened, live: Run | None) -> Outcome:
        run = live or driver.begin(opened.ledger, opened.version, opened.workflow, pilots=most.get(step.name))
        if on_begin is not None:
            on_begin(step, run)
        return driver.carry_on(clients, opened.ledger, run, on_progress=on_progress)

    return work
