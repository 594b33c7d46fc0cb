"""A chain of steps, each a table: a step starts when what it needs is done, and what is done is not done again.

    looks = Chain(steps, AwsTables(clients)).run(plainly(clients), say=print)

A step's items follow from what the steps before it hold (its plan), and each item's argument is the address of a file
named by its content. So nothing is remembered here: the same plan finds its items done, a changed one edits exactly
those items that it changes, and a chain that was killed anywhere goes on when it is run again. Who executes a step's
runs (this process, or a flow) is the `Runner`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from pyanamo_core import driver
from pyanamo_core.chain.obstacles import obstacle
from pyanamo_core.chain.steps import (
    OPEN,
    Look,
    Opened,
    Plan,
    Runner,
    Say,
    Step,
    StepEmpty,
    StepRevisionChanged,
    StepsReversed,
    StepState,
    StepStopped,
    StepUnknown,
    Tables,
    counted,
    incomplete,
    silent,
)
from pyanamo_core.errors import ItemMissing, PyAnamoError, Refused
from pyanamo_core.importer import import_sheet
from pyanamo_core.model import Item, Mode, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.revision import RevisionChanged, affected, check_done, do_again
from pyanamo_core.sheet import SheetRow

READERS: Final = 16
"""Items that are read at a time, each strongly."""
MAX_ROUNDS: Final = 5
"""So often is a step run whose runs complete and leave items that are not done."""


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
        span = self.span(first, last)
        for step in span:
            if before is not None and before.state not in (StepState.DONE, StepState.PARTIAL):
                before = self._waiting(step, before)
            else:
                before = self._look_now(step, before.finished if before else self._finished_before(span[0]))
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
        span = self.span(first, last)
        finished = self._finished_before(span[0])
        for step in span:
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
        seen = counted(step, [(None, item) for item in own])
        runs = tuple(run.run_id for run in opened.ledger.live_runs())
        return replace(seen, state=StepState.WAITS, runs=runs, note=waits)

    def _finished_before(self, step: Step) -> float:
        """When the last item of the steps before an act was finished; seconds since 1970."""
        if step.act is None:
            return 0.0
        tables = dict.fromkeys(one.table for one in self.steps[: self.steps.index(step)] if one.table)
        opened = [found for found in map(self._tables.open, tables) if found]
        return max((item.finished_at or 0.0 for one in opened for item in one.ledger.items(State.DONE)), default=0.0)

    def _look_now(self, step: Step, since: float) -> Look:
        if step.act is not None:
            made = step.made() if step.made else None
            # Whole seconds: S3 tells no fractions.
            done = made is not None and made >= int(since)
            return Look(step.name, "", StepState.DONE if done else StepState.TODO, finished=made or 0.0)
        opened = self._tables.open(step.table)
        try:
            plan = step.plan(False) if step.plan else None
        except PyAnamoError as refusal:
            return Look(step.name, step.table, StepState.TODO, note=str(refusal))
        seen = self._look(step, opened, plan)
        told = obstacle(step, opened, seen, new_revision=self._new_revision) if opened else ""
        if told and seen.state in (StepState.DONE, StepState.PARTIAL):
            # A run does not get past it, whatever is done.
            seen = replace(seen, state=StepState.TODO)
        return replace(seen, obstacle=told)

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
        seen = counted(step, pairs)
        runs = ledger.live_runs() if ledger else []
        stale = len(self._stale(step, ledger, plan)) if ledger and step.plan and plan else 0
        state = seen.state
        if state is StepState.FAILED and self._partial and seen.done and not step.whole:
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
            for state in OPEN
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
        for _ in range(MAX_ROUNDS):
            opened = self._provision(step)
            live = next(iter(opened.ledger.live_runs()), None)
            if live is not None:
                # Its plans and items are left as its pilots found them, whoever began it; what comes next is planned after.
                say(f"{step.name}: run {live.run_id} of table {step.table} is live: carried on")
                self._import(step, opened)
            else:
                # Planned anew in each round: another chain may have gone on with these tables while a run was watched.
                seen = self._look(step, opened, self._prepare(step, opened, say))
                if not seen.wanted:
                    raise StepEmpty(step=step.name, table=step.table)
                if not seen.todo:
                    return self._ended(step, opened, seen, say)
                live = next(iter(opened.ledger.live_runs()), None)
                say(f"{step.name}: {seen.todo:,} of {seen.wanted:,} items of table {step.table} are to be done")
            outcome = runner(step, opened, live)
            stopped_before = live is not None and live.mode is not Mode.RUN
            if outcome.outcome in ("failed", "stopped"):
                seen = self._look_again(step, opened)
                if seen.wanted and not seen.todo:
                    return self._ended(step, opened, seen, say)
                if seen.failures:
                    # It stopped at too many failures: their causes are the reason.
                    raise incomplete(seen, whole=True)
            if outcome.outcome != "completed" and not stopped_before:
                reason = f" ({outcome.reason})" if outcome.reason else ""
                told = outcome.outcome or "no longer watched; its pilots go on"
                raise StepStopped(
                    step=step.name, run_id=outcome.run.run_id, table=step.table, outcome=told, reason=reason
                )
        opened = self._provision(step)
        return self._ended(step, opened, self._look_again(step, opened), say)

    def _look_again(self, step: Step, opened: Opened) -> Look:
        return self._look(step, opened, step.plan(False) if step.plan else None)

    def _import(self, step: Step, opened: Opened) -> None:
        if step.sheet is not None:
            driver.import_items(opened.ledger, step.sheet, opened.workflow, update=step.update)

    def _prepare(self, step: Step, opened: Opened, say: Say) -> Plan | None:
        """Plans, their files, items as they are wanted now: each part of it can be repeated. No run is live meanwhile."""
        ledger, revision = opened.ledger, opened.workflow.revision
        self._import(step, opened)
        plan = step.plan(True) if step.plan else None
        if plan is None:
            return None
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
        return plan

    def _provision(self, step: Step) -> Opened:
        try:
            opened = self._tables.provision(step, new_revision=self._new_revision)
        except RevisionChanged as refusal:
            raise _told_by_step(step, refusal) from refusal
        if self._new_revision:
            do_again(opened.ledger, affected(opened.ledger, opened.workflow.revision))
        return opened

    def _ended(self, step: Step, opened: Opened, seen: Look, say: Say) -> Look:
        try:
            # A run that pins another revision may have begun between our look and the storing of this one.
            check_done(opened.ledger, opened.workflow.revision)
        except RevisionChanged as refusal:
            raise _told_by_step(step, refusal) from refusal
        if seen.state is StepState.DONE:
            say(f"{step.name}: {seen.done:,} of {seen.wanted:,} items done")
            return seen
        if seen.done and self._partial and not (seen.todo or step.whole):
            say(f"{step.name}: {seen.done:,} of {seen.wanted:,} items done; goes on without the others (--partial)")
            return replace(seen, state=StepState.PARTIAL)
        raise incomplete(seen, whole=step.whole)


def _told_by_step(step: Step, refusal: RevisionChanged) -> Refused:
    return StepRevisionChanged(table=step.table, step=step.name) if step.plan else refusal


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
