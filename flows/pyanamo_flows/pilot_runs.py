"""The flow runs of pilots that cannot speak for themselves any more. Only `watch` writes them.

A killed pilot leaves its flow run Running for ever, and one whose API was down at its end as well. Their rows in the
ledger say how they ended; a pilot that neither ended nor beats is Crashed, with the cause if Batch or the ledger knows it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pyanamo_core.model import PilotRecord
from pyanamo_core.protocols import Ledger
from pyanamo_flows.publish import REQUEST_SECONDS, Guard

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

EVERY_SECONDS = 30.0
GRACE_SECONDS = 30.0
"""So long after its end a pilot may still be telling Prefect itself."""
PAGE = 100


def verdict(record: PilotRecord, *, now: float, silent_seconds: float, run_ended: bool) -> str:
    """`ended`, `dead` or `alive`.

    Args:
        record: the pilot's row.
        now: seconds since 1970.
        silent_seconds: a pilot without a beat for so long is dead.
        run_ended: no job of the run is left, so whoever has not said his end is dead.
    """
    if record.ended is not None:
        return "ended" if run_ended or now - record.ended > GRACE_SECONDS else "alive"
    quiet = now - max(record.last_beat, record.started)
    return "dead" if run_ended or quiet > silent_seconds else "alive"


def final_state(record: PilotRecord, cause: str) -> State[Any]:
    """The state of a pilot's flow run by its row; `cause` is told for one that never said its end."""
    from prefect.states import Completed, Crashed, Failed

    if record.ended is None:
        return Crashed(message=cause)
    told = f"{record.leaving or 'left'} (exit code {record.exit_code}), by its row in the ledger"
    if record.exit_code == 0:
        return Completed(message=told)
    if record.exit_code == 75:
        return Completed(name="HandedBack", message=told)
    return Failed(message=told)


def cause_of(ledger: Ledger, record: PilotRecord, now: float) -> str:
    """Why a pilot died: the cause of an attempt of what it held, as Batch or the ledger's next claim wrote it down."""
    quiet = f"no beat for {now - max(record.last_beat, record.started):.0f} s"
    for item_id in record.holding[:3]:
        for attempt in ledger.attempts(item_id):
            if attempt.pilot_id == record.pilot_id and attempt.cause:
                return ": ".join(part for part in (str(attempt.cause), attempt.evidence) if part) + f" ({quiet})"
    return f"lost: {quiet}"


class PilotRuns:
    """Closes the flow runs of dead and silent-ended pilots of one run. Every call is guarded."""

    def __init__(self, ledger: Ledger, run_id: str, *, silent_seconds: float, every_seconds: float = EVERY_SECONDS):
        self._ledger = ledger
        self._run_id = run_id
        self._silent = silent_seconds
        self._every = every_seconds
        self._guard = Guard("the state of a dead pilot")
        self._settled: set[str] = set()
        self._next = 0.0

    def settle(self, *, run_ended: bool = False) -> int:
        """Look at the pilots' rows, at most every 30 seconds, and close what must be closed; how many flow runs that were."""
        if not run_ended and time.monotonic() < self._next:
            return 0
        self._next = time.monotonic() + self._every
        return self._guard(self._settle, run_ended) or 0

    def _settle(self, run_ended: bool) -> int:
        now = time.time()
        over = {
            UUID(record.flow_run_id): record
            for record in self._ledger.pilots(self._run_id)
            if record.flow_run_id
            and record.flow_run_id not in self._settled
            and verdict(record, now=now, silent_seconds=self._silent, run_ended=run_ended) != "alive"
        }
        ids = list(over)
        return sum(self._close(ids[start : start + PAGE], over, now) for start in range(0, len(ids), PAGE))

    def _close(self, ids: Iterable[UUID], over: dict[UUID, PilotRecord], now: float) -> int:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        closed = 0
        with get_client(sync_client=True, httpx_settings={"timeout": REQUEST_SECONDS}) as client:
            wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(ids)))
            for flow_run in client.read_flow_runs(flow_run_filter=wanted, limit=PAGE):
                record = over[flow_run.id]
                if flow_run.state is None or not flow_run.state.is_final():
                    cause = "" if record.ended is not None else cause_of(self._ledger, record, now)
                    client.set_flow_run_state(flow_run.id, final_state(record, cause), force=True)
                    closed += 1
                self._settled.add(record.flow_run_id)
        return closed
