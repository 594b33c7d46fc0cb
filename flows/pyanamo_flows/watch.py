"""The flow `watch`: keeps an eye on runs until they end. As a subflow of `run`, and as a deployment of its own.

A run needs no watcher to be worked off; a watcher tops up its pilots, explains why nothing runs, and ends it. When it
dies, `recover` starts the next one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as own
from prefect.states import Cancelled, Completed, Failed

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.ledger import open_ledger
from pyanamo_core.protocols import Ledger
from pyanamo_flows.hooks import on_cancellation
from pyanamo_flows.parameters import Aws
from pyanamo_flows.pilot_runs import PilotRuns
from pyanamo_flows.publish import Board, Publisher, StallWatch

SPOKEN_EVERY_SECONDS = 60.0
progress_listener: ContextVar[Callable[[driver.Progress], None] | None] = ContextVar("pyanamo_progress", default=None)
"""Who else is told each poll: the display of `pyanamo run` in this process."""


@flow(name="watch", persist_result=False, on_cancellation=[on_cancellation])
def watch(table: str, run_id: str = "", aws: Aws = Aws()) -> State[Any]:  # noqa: B008 - Prefect's form needs it
    """Watch a run until it ends: top up its pilots, explain, show progress. Cancelling this flow run cancels the run.

    Args:
        table: Name of the table.
        run_id: Id of the run; empty: all live runs of the table that nobody watches.
        aws: Which AWS to talk to.
    """
    clients = aws.clients()
    ledger, _, _ = open_ledger(clients, table)
    wanted = [run_id] if run_id else unwatched(ledger)
    if not wanted:
        return Completed(message="No live run of this table is without a watcher")
    outcomes = _watch_all(clients, ledger, wanted)
    return worst([state_of(outcome) for outcome in outcomes])


def unwatched(ledger: Ledger) -> list[str]:
    """Ids of live runs whose watcher's lease is over."""
    return [run.run_id for run in ledger.live_runs() if run.watcher_lease_end < time.time()]


def state_of(outcome: driver.Outcome) -> State[Any]:
    """A flow run's state by the ledger's outcome: a run with failed items is Failed, a drained one Completed as Drained."""
    counts = outcome.counts
    told = f"{counts.done:,} done, {counts.failed:,} failed, {counts.cancelled:,} cancelled, {counts.open:,} open"
    told = f"{told}; {outcome.reason}" if outcome.reason else told
    if outcome.outcome == "cancelled":
        return Cancelled(message=told)
    if outcome.outcome == "drained":
        return Completed(name="Drained", message=told)
    if outcome.outcome == "completed":
        return Completed(message=told)
    return Failed(message=f"{outcome.outcome or 'the run goes on'}: {told}")


def worst(states: list[State[Any]]) -> State[Any]:
    """Of several runs' states the one that needs looking at."""
    return next((s for s in states if s.is_failed()), next((s for s in states if s.is_cancelled()), states[0]))


def _watch_all(clients: Clients, ledger: Ledger, run_ids: list[str]) -> list[driver.Outcome]:
    if len(run_ids) == 1:
        return [watch_one(clients, ledger, run_ids[0])]
    stop = threading.Event()
    with ThreadPoolExecutor(len(run_ids), thread_name_prefix="watch") as pool:
        watches = [pool.submit(copy_context().run, watch_one, clients, ledger, each, stop) for each in run_ids]
        try:
            return [each.result() for each in watches]
        except BaseException:
            stop.set()
            raise


def watch_one(clients: Clients, ledger: Ledger, run_id: str, stop: threading.Event | None = None) -> driver.Outcome:
    """Watch one run inside a flow run, and show it. What Prefect does cannot end or slow the watch."""
    log = get_run_logger()
    run = ledger.run(run_id)
    _, workflow = ledger.workflow(run.workflow_version)
    shown = Shown(ledger, workflow.table_name, run_id, run.flow_run_id, workflow.timing.lease_seconds, log)
    try:
        outcome = driver.watch(
            clients, ledger, run_id, workflow, watcher=driver.watcher_name(), on_progress=shown.see, stop=stop
        )
    except BaseException:
        shown.close(None)
        raise
    shown.close(outcome)
    return outcome


class Shown:
    """What a watch shows in Prefect: artifacts, a line a minute, events, and the states of dead pilots."""

    def __init__(
        self,
        ledger: Ledger,
        table: str,
        run_id: str,
        root: str,
        lease_seconds: float,
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._log = log
        self._publisher = Publisher(table, run_id, root)
        self._stalled = StallWatch()
        pilot_runs = PilotRuns(ledger, run_id, silent_seconds=lease_seconds)
        self._board = Board(table, run_id, str(own.id), after=pilot_runs.settle)
        self._spoken = 0.0
        self._note = ""
        self._last: driver.Progress | None = None

    def see(self, progress: driver.Progress) -> None:
        """A poll of the watch."""
        self._last = progress
        self._board.show(progress)
        if listener := progress_listener.get():
            listener(progress)
        why = self._stalled.see(progress)
        if why:
            self._log.error("The run stands still: %s", why)
            self._publisher.run_stalled(why)
        now = time.monotonic()
        if now - self._spoken >= SPOKEN_EVERY_SECONDS or progress.note != self._note:
            self._spoken, self._note = now, progress.note
            counts = progress.counts
            self._log.info(
                "%s of %s items finished (%s failed), %s pilots%s",
                counts.total - counts.open,
                counts.total,
                counts.failed,
                progress.live_pilots,
                f"; {progress.note}" if progress.note else "",
            )

    def close(self, outcome: driver.Outcome | None) -> None:
        """The last picture. `outcome` None: the watch was broken off, the run goes on."""
        if outcome and outcome.outcome == "drained":
            self._publisher.run_drained(outcome.reason)
        if outcome and self._last:
            counts = outcome.counts
            self._board.show(driver.Progress(counts=counts, run=outcome.run, live_pilots=0, note=outcome.reason))
        self._board.close(run_ended=bool(outcome and outcome.outcome))
