"""The seams of PyAnamo: Ledger, Executor, Observer, Clock. (Clients are made by aws.py.)

Of a move there are three answers: won (a value comes back), lost (a MoveRefused or LeaseLost that says which condition
failed) and unknown (OutcomeUnknown, after every try went unanswered and a strong read did not settle it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Protocol

from pyanamo_core.model import (
    Attempt,
    Beaten,
    Cause,
    Claim,
    Counts,
    Definition,
    Imported,
    Item,
    Mode,
    Nest,
    NestCall,
    NestResult,
    PilotRecord,
    Recorded,
    Run,
    State,
    Submission,
)
from pyanamo_core.workflow import Workflow


class Clock(Protocol):
    """Time as the ledger sees it: the machine's clock corrected by the offset to AWS's."""

    def now(self) -> float:
        """Seconds since 1970, corrected."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps; for deadlines of our own."""
        ...

    def sleep(self, seconds: float) -> None: ...


class Ledger(Protocol):
    """The only way to change a table. DynamoDB's is ledger.Ledger, the twin in memory ledger.memory.MemoryLedger."""

    @property
    def table(self) -> str: ...

    # ------------------------------------------------------------------ workflow versions (immutable)
    def add_workflow(self, workflow: Workflow) -> int:
        """Store a version and return its number; the newest one, if equal, is returned as it is."""
        ...

    def workflow(self, version: int | None = None) -> tuple[int, Workflow]:
        """A version and its number (default: the newest). Raises WorkflowMissing, TableMissing, ForeignTable, SchemaNewer."""
        ...

    def workflow_versions(self) -> list[tuple[int, Workflow]]: ...

    # ------------------------------------------------------------------ items: import and moves of users
    def import_item(
        self,
        item_id: str,
        task_id: str,
        definition: Definition,
        *,
        priority: int = 5,
        revision: str = "",
        update: bool = False,
    ) -> Imported:
        """DEF rows first, the item row last and only if it does not exist. `update`: another definition is an edit."""
        ...

    def item(self, item_id: str) -> Item:
        """The item's row, by a strong read. Raises ItemMissing."""
        ...

    def definition(self, item: Item) -> Definition: ...

    def nests(self, item: Item) -> dict[int, Nest]:
        """Recorded nests of the item's present epoch by number, by a strong read; failed and reset ones included."""
        ...

    def attempts(self, item_id: str) -> list[Attempt]: ...

    def histories(self, items: Iterable[Item]) -> Iterator[tuple[Item, list[Attempt], Nest | None]]:
        """Each item with its attempts, in their order, and its nest 0 if that is recorded; many items a call."""
        ...

    def tail(self, item: Item, nest: Nest) -> str:
        """The recorded end of a nest's log (from its row, or the LOG row of its fence)."""
        ...

    def retry(
        self,
        item: Item,
        *,
        memory_factor: float | None = None,
        nest_seconds: float | None = None,
        on_demand: bool | None = None,
    ) -> Item:
        """Failed or cancelled → todo with fresh budgets; limits that are given stand from now on (seconds of one nest; for
        on-demand pilots only, or for all)."""
        ...

    def reset(self, item: Item) -> Item: ...
    def edit(self, item: Item, definition: Definition) -> Item: ...
    def extend(self, item: Item, values: Sequence[str]) -> Item: ...
    def redo(self, item: Item, nests: Iterable[int]) -> Item: ...
    def cancel(self, item: Item) -> Item: ...
    def recover(self, item: Item, *, ended_at: float, memory_factor: float | None = None, message: str = "") -> Item:
        """Take back (to todo) the item of a pilot whose Batch attempt ended (> 60 s ago); fence and owner as seen in `item`.
        `memory_factor`: its container ran out of memory; the try counts, and the next one has so much."""
        ...

    # ------------------------------------------------------------------ moves of pilots
    def candidates(
        self, state: State, shard: int, *, start: str | None = None, limit: int = 10, on_demand: bool = False
    ) -> list[str]:
        """One page of item ids of a shard of the queue index: todo from the random key `start` on (wrapping is the caller's),
        waiting that are due, locked whose lease is over; items for on-demand pilots only, or all others."""
        ...

    def claim(self, item_id: str, pilot_id: str, *, run_id: str = "", on_demand: bool = False) -> Claim | None:
        """Claim a todo or due item, or reclaim one whose lease is over; None if it is no longer free, or if it is not
        for on-demand pilots only although `on_demand` says so, or the other way round."""
        ...

    def expire(self, item_id: str) -> Item | None:
        """End a locked item whose lease is over and which is cancelled or at its cap; None if there is nothing to do."""
        ...

    def beat(self, claim: Claim, *, progressed: bool, nests_done: int, nests_failed: int) -> Beaten: ...
    def record_nest(self, claim: Claim, nest: Nest) -> Recorded: ...
    def finish(self, claim: Claim, *, nests_done: int, note: str = "") -> Item: ...
    def fail(self, claim: Claim, cause: Cause, message: str, *, nests_done: int = 0, nests_failed: int = 0) -> Item: ...
    def wait(
        self,
        claim: Claim,
        cause: Cause,
        message: str,
        *,
        delay_seconds: float,
        memory_factor: float = 1.0,
        nests_done: int = 0,
        nests_failed: int = 0,
    ) -> Item:
        """Tried in vain: again after a delay. The try counts."""
        ...

    def hand_back(
        self,
        claim: Claim,
        cause: Cause,
        message: str = "",
        *,
        progressed: bool,
        started: bool,
        counts: bool = True,
        nests_done: int = 0,
    ) -> Item:
        """Give an item back unfinished. The try is given back; unless nothing was started or an operator drained
        (`counts=False`), it is an interruption. At the cap: failed; cancelled: cancelled."""
        ...

    def put_attempt(self, attempt: Attempt) -> None:
        """Write an attempt row, best effort, keyed by its fence; fields that are unset leave what stands."""
        ...

    # ------------------------------------------------------------------ counting and listing
    def counts(self) -> Counts: ...
    def count(self, state: State, *, bound: int | None = None, since: float = 0.0) -> int:
        """Items in a state; stops counting at `bound`. `since`: of a finished state, those that finished then or later."""
        ...

    def claimable(self, *, within_seconds: float = 0.0, on_demand: bool = False) -> int:
        """todo + waiting due within so many seconds + locked with an expired lease; of the items for on-demand pilots
        only, or of all others."""
        ...

    def item_ids(self, state: State) -> Iterator[str]:
        """Every item id of a state through the index, in the order of `due`, page by page."""
        ...

    def items(self, state: State | None = None) -> Iterator[Item]:
        """Every item (of a state), page by page; None walks all states."""
        ...

    # ------------------------------------------------------------------ pilots
    def put_pilot(self, record: PilotRecord) -> None: ...
    def pilot(self, pilot_id: str) -> PilotRecord | None: ...
    def pilots(self, run_id: str | None = None, *, beaten_since: float = 0.0) -> list[PilotRecord]:
        """Pilots (of a run) whose last beat is not older, oldest start first."""
        ...

    # ------------------------------------------------------------------ runs
    def begin_run(self, run: Run) -> Run:
        """Store a new run. Raises RunConflict if the id exists with other content, or another live run pins another revision."""
        ...

    def run(self, run_id: str) -> Run: ...
    def runs(self) -> list[Run]: ...
    def live_runs(self) -> list[Run]: ...
    def set_mode(self, run_id: str, mode: Mode, reason: str = "", *, hand_back: bool = False) -> Run:
        """Only ever from run to drain to cancel; the same again changes nothing. `hand_back`: for drain, at once."""
        ...

    def take_watch(self, run_id: str, watcher: str, lease_seconds: float) -> Run | None:
        """Take or renew the watcher's fenced lease; None while another holds it."""
        ...

    def release_watch(self, run: Run) -> None: ...
    def reserve_submission(self, run: Run, *, size: int, queue: str, definition: str) -> tuple[Run, Submission]:
        """Reserve (run, next sequence number) under the watcher's fence. Raises RunConflict if the fence is no longer ours."""
        ...

    def settle_submission(self, run: Run, sequence: int, *, job_id: str = "", reason: str = "") -> Run: ...
    def end_run(self, run_id: str, outcome: str, reason: str = "") -> Run: ...


class Executor(Protocol):
    """Runs nests in parallel. Only the pilot's scheduler thread submits."""

    def submit(self, call: Callable[[], NestResult], nest: NestCall) -> Future[NestResult]:
        """Run `call` on a slot of its own; the future is fulfilled with its result (or its exception) in every case."""
        ...

    def close(self, timeout_seconds: float) -> None: ...


class Observer(Protocol):
    """Is told what a pilot does. Methods return nothing, have a time budget, and their exceptions are swallowed."""

    def claimed(self, claim: Claim) -> None: ...
    def nest_started(self, nest: NestCall) -> None: ...
    def nest_finished(self, nest: NestCall, result: NestResult) -> None: ...
    def item_done(self, item: Item) -> None: ...
    def handed_back(self, item_id: str, cause: Cause) -> None: ...
    def leaving(self, reason: str, exit_code: int) -> None: ...
