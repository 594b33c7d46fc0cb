"""What users see in Prefect beside runs: artifacts (progress, states, summary) and events. Every call is guarded.

A call that fails is logged once and forgotten; one that hangs hangs in a thread of its own, never in a run. Artifacts
belong to the `watch` flow run, have stable keys per table and are renewed at most every 10 seconds.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import UUID

from pyanamo_core.model import Counts, Item, Run, encoded
from pyanamo_core.report.losses import Losses
from pyanamo_core.report.quality import Quality

if TYPE_CHECKING:
    from pyanamo_core.driver import Progress

P = ParamSpec("P")
R = TypeVar("R")

EVERY_SECONDS = 10.0
REQUEST_SECONDS = 5.0
MAX_ITEM_EVENTS = 100
"""Events of failed items per process: a run in which everything fails must not flood the server."""
STALLED_SECONDS = 600.0

log = logging.getLogger("pyanamo.prefect")


class Guard:
    """Calls that may fail: the first failure is logged, the others are counted."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.failures = 0

    def __call__(self, call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """The call's answer, or None if it raised."""
        try:
            return call(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever Prefect raises, the run goes on
            self.failures += 1
            if self.failures == 1:
                log.warning(
                    "Prefect: %s failed (%s: %.200s); the run goes on without", self.what, type(error).__name__, error
                )
            return None


def key(*parts: str) -> str:
    """A key that Prefect takes for an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(("pyanamo", *parts)).lower()).strip("-")


def state_rows(counts: Counts) -> list[dict[str, Any]]:
    """The table of states: items and their share, in the order in which an item passes through them."""
    total = max(1, counts.total)
    figures = counts.model_dump()
    return [{"state": s, "items": n, "share": f"{100 * n / total:.1f} %"} for s, n in figures.items()]


def percent(counts: Counts) -> float:
    """Finished items of all, 0 to 100."""
    return 100.0 * (counts.total - counts.open) / counts.total if counts.total else 100.0


class Publisher:
    """Events of a run: `pyanamo.item.failed`, `pyanamo.run.stalled`, `pyanamo.run.drained`.

    The resource is the item or the run; the run's root flow run is related, so that the event shows on its page and
    an automation can be tied to it.
    """

    def __init__(self, table: str, run_id: str, flow_run_id: str = "") -> None:
        self._table = table
        self._run_id = run_id
        self._flow_run_id = flow_run_id
        self._guard = Guard("an event")
        self._items = 0

    def item_failed(self, item: Item) -> None:
        self._items += 1
        if self._items <= MAX_ITEM_EVENTS:
            what = {"cause": str(item.cause or ""), "message": item.message, "fence": item.fence, "tries": item.tries}
            self._emit("pyanamo.item.failed", f"item.{self._table}.{encoded(item.item_id)}", item.item_id, what)

    def run_stalled(self, reason: str) -> None:
        self._emit("pyanamo.run.stalled", f"run.{self._run_id}", self._run_id, {"reason": reason})

    def run_drained(self, reason: str) -> None:
        self._emit("pyanamo.run.drained", f"run.{self._run_id}", self._run_id, {"reason": reason})

    def _emit(self, event: str, resource: str, name: str, payload: dict[str, Any]) -> None:
        from prefect.events import emit_event

        related: list[dict[str, str]] = []
        if self._flow_run_id:
            related = [
                {"prefect.resource.id": f"prefect.flow-run.{self._flow_run_id}", "prefect.resource.role": "flow-run"}
            ]
        told = {"table": self._table, "run_id": self._run_id, **payload}
        about = {"prefect.resource.id": f"pyanamo.{resource}", "prefect.resource.name": name}
        self._guard(emit_event, event, resource=about, related=related, payload=told)


class StallWatch:
    """Tells when a run stands still: items are open, no pilot lives, and no count has changed for 10 minutes."""

    def __init__(self, seconds: float = STALLED_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since = clock()
        self._seen: Counts | None = None
        self._told = False

    def see(self, progress: Progress) -> str:
        """Why the run stalls, once per standstill; else ""."""
        now = self._clock()
        if progress.counts != self._seen or progress.live_pilots or not progress.counts.open:
            self._seen, self._since, self._told = progress.counts, now, False
            return ""
        if self._told or now - self._since < self._seconds:
            return ""
        self._told = True
        minutes = (now - self._since) / 60
        waits = f"{progress.counts.open} items are open, no pilot has lived for {minutes:.0f} minutes"
        return f"{waits}: {progress.note}" if progress.note else waits


class Board:
    """Artifacts of one `watch` flow run: a progress bar and the table of states, renewed in a thread of its own.

    `show` never waits; the latest picture wins. `close` shows the last one and waits at most its budget. `after` is
    called in that thread, too, after each picture (with `run_ended=True` when the run has ended).
    """

    def __init__(
        self,
        table: str,
        run_id: str,
        flow_run_id: str,
        *,
        every_seconds: float = EVERY_SECONDS,
        after: Callable[..., object] | None = None,
    ) -> None:
        self._after = after
        self._table = table
        self._run_id = run_id
        self._flow_run_id = UUID(flow_run_id)
        self._every = every_seconds
        self._guard = Guard("an artifact")
        self._made: dict[str, UUID] = {}
        self._next: Progress | None = None
        self._shown = 0.0
        self._lock = threading.Condition()
        self._closing = False
        self._run_ended = False
        self._thread = threading.Thread(target=self._work, name="prefect-board", daemon=True)
        self._thread.start()

    @property
    def failures(self) -> int:
        return self._guard.failures

    def show(self, progress: Progress) -> None:
        """Show this when it is time again."""
        with self._lock:
            self._next = progress
            self._lock.notify()

    def close(self, budget_seconds: float = 2 * REQUEST_SECONDS, *, run_ended: bool = False) -> None:
        """Show the last picture and end."""
        with self._lock:
            self._closing = True
            self._run_ended = run_ended
            self._lock.notify()
        self._thread.join(budget_seconds)

    def _work(self) -> None:
        while True:
            with self._lock:
                while not self._closing:
                    wait = self._shown + self._every - time.monotonic()
                    if self._next is not None and wait <= 0:
                        break
                    self._lock.wait(timeout=max(0.0, wait) if self._next is not None else None)
                now, self._next = self._next, None
                last = self._closing
            if now is not None:
                self._shown = time.monotonic()
                self._guard(self._publish, now)
            if self._after is not None:
                self._guard(self._after, run_ended=last and self._run_ended)
            if last:
                return

    def _publish(self, progress: Progress) -> None:
        counts = progress.counts
        told = f"{counts.total - counts.open:,} of {counts.total:,} items finished, {progress.live_pilots} pilots"
        if progress.eta_seconds is not None:
            told += f", about {progress.eta_seconds / 60:.0f} min left"
        if progress.note:
            told += f". {progress.note}"
        about = f"Run `{self._run_id}` of table `{self._table}`: {told}"
        rows = state_rows(counts) + [
            {"state": f"pilots {name.lower()}", "items": n, "share": ""}
            for name, n in sorted(progress.jobs.items())
            if n
        ]
        put_artifact(self._made, key(self._table, "progress"), "progress", percent(counts), about, self._flow_run_id)
        put_artifact(self._made, key(self._table, "states"), "table", rows, about, self._flow_run_id)


def put_artifact(
    made: dict[str, UUID], name: str, kind: str, data: Any, description: str, flow_run_id: UUID | None
) -> None:
    """Create an artifact, or renew the one of that key that `made` knows. One try, 5 seconds. Raises what Prefect raises."""
    import json

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

    held = json.dumps(data) if kind == "table" else data
    with get_client(sync_client=True, httpx_settings={"timeout": REQUEST_SECONDS}) as client:
        if name in made:
            client.update_artifact(made[name], ArtifactUpdate(data=held, description=description))
            return
        answer = client.create_artifact(
            ArtifactCreate(type=kind, key=name, data=held, description=description, flow_run_id=flow_run_id)
        )
        made[name] = answer.id


def drain(budget_seconds: float) -> bool:
    """Send the events and log lines that are still queued, within a budget for both; what is left is dropped.

    Prefect's own exit would try for about 7 seconds per event with a server that is gone. True if all was sent.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    # One dictionary holds the services of both kinds.
    services = list(EventsWorker._instances.values())
    threads = [
        threading.Thread(target=kind.drain_all, kwargs={"timeout": budget_seconds}, daemon=True)
        for kind in (EventsWorker, APILogWorker)
    ]
    give_up = time.monotonic() + budget_seconds
    for each in threads:
        each.start()
    for each in threads:
        each.join(max(0.0, give_up - time.monotonic()))
    dropped = sum(_drop(service) for service in services)
    if dropped:
        log.warning("Prefect: %s events and log lines were not sent; the ledger has everything", dropped)
    return not dropped


def _drop(service: Any) -> int:
    """Empty a stopped service's queue but for the mark that ends it; how many entries that were."""
    waiting: queue.Queue[Any] = service._queue
    taken: list[Any] = []
    with suppress(queue.Empty):
        while True:
            taken.append(waiting.get_nowait())
    dropped = [each for each in taken if each is not None]
    if len(dropped) < len(taken):
        waiting.put_nowait(None)
    return len(dropped)


SHOWN_SAMPLES = 10
"""Samples out of bounds that the summary names."""


def summary(
    run: Run,
    counts: Counts,
    table: str,
    failed: list[Item],
    more: int,
    links: dict[str, str],
    lost: Losses | None = None,
    quality: Quality | None = None,
    cost: str = "",
) -> str:
    """The report's summary in Markdown: outcome, states, what it cost and what interruptions did, the first failed items with their
    causes, samples with a figure out of its bounds, where things lie."""
    hours = ((run.ended or run.started) - run.started) / 3600
    lines = [f"## {table}: {run.outcome or 'still running'}", ""]
    if run.reason:
        lines += [run.reason, ""]
    lines += [f"Run `{run.run_id}`, workflow version {run.workflow_version}, {hours:.2f} h", ""]
    lines += ["| state | items | share |", "|---|---:|---:|"]
    lines += [f"| {row['state']} | {row['items']:,} | {row['share']} |" for row in state_rows(counts)]
    if cost:
        lines += ["", f"Cost: {cost} (`pyanamo cost {run.run_id} --table {table}`)"]
    if lost is not None and lost.attempts:
        told = ", ".join(f"{loss.attempts:,} × {loss.cause}" for loss in lost.causes)
        lines += ["", f"Interruptions (no failures): {told}; {lost.lost_seconds / 3600:.2f} h of work lost"]
    if failed:
        lines += ["", "### Failed items", "", "| item | cause | tries | message |", "|---|---|---:|---|"]
        lines += [f"| `{i.item_id}` | {i.cause or ''} | {i.tries} | {_cell(i.message)} |" for i in failed]
        if more:
            lines += ["", f"… and {more:,} more: `pyanamo items list --state failed --table {table}`"]
        lines += ["", f"Again: `pyanamo items retry ITEM --table {table}`, then `pyanamo run --table {table}`"]
    if quality is not None and quality.flagged:
        lines += [
            "",
            f"### Quality: {quality.flagged:,} of {quality.total:,} samples have a figure out of its bounds",
            "",
        ]
        shown = [one for one in quality.samples if one.flags][:SHOWN_SAMPLES]
        lines += [f"- `{one.sample}`: {'; '.join(flag.text for flag in one.flags)}" for one in shown]
        if quality.flagged > len(shown):
            lines += [f"- … all of them: `pyanamo results qc --flagged --table {table}`"]
    if links:
        lines += ["", "### Where things lie", "", *(f"- {name}: {where}" for name, where in links.items())]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:200]
