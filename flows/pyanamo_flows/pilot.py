"""A pilot as a flow run: a child of the run's root flow run, so that it shows under it. The pilot's work never depends on it.

The pilot has claimed already when it registers; registration has 5 seconds, then the pilot goes on unobserved. At the
end Prefect gets a few seconds to send what it holds, then the caller ends the process with the ledger's exit code.
Prefect is imported inside `run_observed`, after its settings are set.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, cast
from uuid import UUID

from pyanamo_flows import entry

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.flows import Flow

    from pyanamo_core.model import PilotRecord, Run
    from pyanamo_core.protocols import Executor, Observer
    from pyanamo_core.workflow import Workflow

REGISTRATION_SECONDS = 5.0
LOCAL_REGISTRATION_SECONDS = 20.0
"""Where Prefect runs on this very machine it shares its processors with the pilots, and a pilot's seconds cost nothing."""
RETRY_SECONDS = 0.5
DRAIN_SECONDS = 4.0
END_SECONDS = 6.0
"""From the end of the pilot's work to the end of everything about Prefect. Past it the process ends itself."""
HANDED_BACK_SECONDS = 4.0
"""The same for a pilot that was told to end and hands back: Batch gives it 30 s in all."""
HANDED_BACK = 75

log = logging.getLogger("pyanamo.prefect")


class ObservedPilot(Protocol):
    """What is asked of a pilot (pyanamo_core.pilot.Pilot)."""

    @property
    def run(self) -> Run | None: ...
    @property
    def workflow(self) -> Workflow: ...
    @property
    def slots(self) -> int: ...
    @property
    def pilot_id(self) -> str: ...
    @property
    def record(self) -> PilotRecord: ...
    def install_signals(self) -> None: ...
    def observed_as(self, flow_run_id: str) -> None: ...
    def work(self, executor: Executor | None = None, observer: Observer | None = None) -> int: ...


@dataclass
class _Outcome:
    """What the flow's body leaves behind. Prefect's own answer is not asked."""

    begun: bool = False
    code: int | None = None
    error: BaseException | None = None
    returned: threading.Event = field(default_factory=threading.Event)

    @property
    def exit_code(self) -> int:
        if self.code is not None:
            return self.code
        return getattr(self.error, "exit_code", 1)

    def end_in(self, seconds: float) -> None:
        """A process that Prefect holds up for so long after the work ends all the same, with the ledger's code."""

        def end() -> None:
            if self.returned.wait(seconds):
                return
            log.warning("Prefect: not done after %.0f s; ending with code %s", seconds, self.exit_code)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.exit_code)

        threading.Thread(target=end, name="prefect-end", daemon=True).start()


def run_observed(pilot: ObservedPilot) -> int:
    """Run a prepared pilot as a flow run and return the ledger's exit code.

    The caller ends the process with `os._exit(code)`: Prefect's own exit would wait for every unsent event.
    Without an address in the run row nothing of Prefect is imported. Call it in the main thread.

    Raises:
        What `Pilot.work` raises; never anything of Prefect.
    """
    run = pilot.run
    if run is None or not run.prefect_api_url:
        return pilot.work()
    try:
        entry.for_pilot(run.prefect_api_url)
        _import_prefect()
        outcome = _Outcome()
        flow = _pilot_flow(pilot, run, outcome)
        flow_run = _register(flow, pilot, run)
    except Exception as error:  # noqa: BLE001 - the window is shut; the work goes on
        log.warning("Prefect: this pilot works unobserved: %s", _told(error))
        return pilot.work()
    return _observed(flow, flow_run, pilot, outcome)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _import_prefect() -> None:
    """Import it, and keep our own handlers and level of the root logger."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    import prefect.main  # noqa: F401

    if handlers:
        root.handlers[:] = handlers
        root.setLevel(level)
    # To the API, not to the container's log: the core says it there already.
    for name, own in (("prefect.flow_runs", logging.INFO), ("prefect.task_runs", logging.CRITICAL)):
        logging.getLogger(name).setLevel(own)
        logging.getLogger(name).propagate = False


def _pilot_flow(pilot: ObservedPilot, run: Run, outcome: _Outcome) -> Flow[..., Any]:
    """The flow whose body is this pilot's work."""
    from prefect import flow, get_run_logger
    from prefect.states import Completed, Failed
    from prefect.task_runners import ThreadPoolTaskRunner

    # Item runs hold a thread each while their item is held, beside the nests' slots.
    workers = pilot.slots + 2 * pilot.workflow.items + 2

    @flow(
        name="pilot",
        task_runner=cast("Any", ThreadPoolTaskRunner(max_workers=workers)),
        persist_result=False,
        retries=0,
        validate_parameters=False,
        log_prints=False,
    )
    def body(table: str, run_id: str, pilot_id: str, batch_job: str, array_index: int | None, attempt: int) -> Any:
        """A pilot: claims items of the ledger and runs their nests until nothing is left."""
        from pyanamo_flows.executor import Detail, PrefectExecutor
        from pyanamo_flows.observer import PrefectObserver
        from pyanamo_flows.publish import Publisher

        # Prefect's handler would raise in the middle of our work; ours sets an event. They go in again now.
        pilot.install_signals()
        outcome.begun = True
        executor = PrefectExecutor(pilot.slots, Detail(run.prefect_detail or pilot.workflow.prefect_detail))
        observer = PrefectObserver(get_run_logger(), executor, Publisher(table, run_id, run.flow_run_id))
        try:
            outcome.code = pilot.work(executor, observer)
        except BaseException as error:
            outcome.error = error
            raise
        finally:
            executor.close(1.0)
            outcome.end_in(HANDED_BACK_SECONDS if outcome.code == HANDED_BACK else END_SECONDS)
        told = f"{pilot.record.leaving or 'left'}; {executor.detail.summary()}"
        if outcome.code == 0:
            return Completed(message=told)
        if outcome.code == HANDED_BACK:
            return Completed(name="HandedBack", message=told)
        return Failed(message=f"exit code {outcome.code}: {told}")

    return body


def _register(flow: Flow[..., Any], pilot: ObservedPilot, run: Run) -> FlowRun:
    """Create the pilot's flow run below the run's root flow run, within 5 seconds (20 on this machine).

    Raises:
        InterruptedError: a signal came; the pilot's own handler has seen it, too.
        TimeoutError: it took longer. Should it succeed later, that flow run is closed at once.
    """
    answer: list[FlowRun] = []
    fault: list[Exception] = []
    late = threading.Event()

    def ask() -> None:
        while not (answer or fault):
            try:
                answer.append(_create(flow, pilot, run))
            except Exception as error:  # noqa: BLE001 - told to the caller
                if late.wait(RETRY_SECONDS) or not _passes(error):
                    fault.append(error)
        if late.is_set() and answer:
            _close_unused(answer[0].id)

    budget = LOCAL_REGISTRATION_SECONDS if entry.is_loopback(run.prefect_api_url) else REGISTRATION_SECONDS
    thread = threading.Thread(target=ask, name="prefect-registration", daemon=True)
    started = time.monotonic()
    with _told_of_signals() as signalled:
        thread.start()
        while thread.is_alive() and time.monotonic() - started < budget and not signalled:
            thread.join(0.1)
    late.set()
    if signalled:
        raise InterruptedError("it was told to end while it registered")
    if fault:
        raise fault[0]
    if not answer:
        raise TimeoutError(f"{run.prefect_api_url} did not register it within {budget:.0f} s")
    log.info("Prefect: registered as %s in %.1f s", answer[0].id, time.monotonic() - started)
    return answer[0]


def _passes(error: Exception) -> bool:
    """Is this a fault that passes? A database that is locked, a server that is slow; not one that is not there."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TimeoutException)


@contextmanager
def _told_of_signals() -> Generator[list[int]]:
    """The numbers of TERM and INT that come meanwhile; the handlers that are in are called as ever."""
    told: list[int] = []
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        told.append(number)
        handler = former[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in former:
        signal.signal(number, handle)
    try:
        yield told
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _create(flow: Flow[..., Any], pilot: ObservedPilot, run: Run) -> FlowRun:
    """A placeholder task run in the root flow run and a flow run below it: the calls of Prefect's own `run_deployment`."""
    from prefect.client.orchestration import get_client
    from prefect.states import Pending
    from prefect.tasks import Task

    record = pilot.record
    name = f"pilot {record.array_index}" if record.array_index is not None else "pilot"
    if record.batch_attempt > 1:
        name += f" attempt {record.batch_attempt}"
    parameters = {
        "table": pilot.workflow.table_name,
        "run_id": run.run_id,
        "pilot_id": pilot.pilot_id,
        "batch_job": record.batch_job,
        "array_index": record.array_index,
        "attempt": record.batch_attempt,
    }
    with get_client(sync_client=True) as client:
        parent: UUID | None = None
        if run.flow_run_id:
            placeholder = client.create_task_run(
                task=Task(fn=_placeholder, name="pilot"),
                flow_run_id=UUID(run.flow_run_id),
                dynamic_key=f"pilot-{pilot.pilot_id}",
                name=name,
                state=Pending(),
            )
            parent = placeholder.id
        return client.create_flow_run(
            flow, name=name, parameters=parameters, parent_task_run_id=parent, state=Pending()
        )


def _placeholder() -> None:
    """Stands for the pilot in the root flow run; Prefect gives it the pilot's state."""


def _close_unused(flow_run_id: UUID) -> None:
    """End a flow run that no work will be shown in."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled

    try:
        with get_client(sync_client=True) as client:
            told = "Prefect took too long: this pilot works unobserved"
            client.set_flow_run_state(flow_run_id, Cancelled(message=told), force=True)
    except Exception as error:  # noqa: BLE001 - best effort, in a thread of its own
        log.info("Prefect: %s could not be closed: %s", flow_run_id, _told(error))


def _observed(flow: Flow[..., Any], flow_run: FlowRun, pilot: ObservedPilot, outcome: _Outcome) -> int:
    from prefect.flow_engine import run_flow

    pilot.observed_as(str(flow_run.id))
    try:
        run_flow(flow, flow_run=flow_run, parameters=dict(flow_run.parameters), return_type="state")
    except BaseException as error:  # noqa: BLE001 - a TerminationSignal is one; what the pilot raised is in the outcome
        if outcome.error is None:
            log.warning("Prefect: %s; the ledger has everything", _told(error))
    if not outcome.begun:
        log.warning("Prefect: the flow run did not begin; this pilot works unobserved")
        threading.Thread(target=_close_unused, args=(flow_run.id,), name="prefect-close", daemon=True).start()
        return pilot.work()
    from pyanamo_flows.publish import drain

    drain(DRAIN_SECONDS)
    outcome.returned.set()
    if outcome.error is not None:
        raise outcome.error
    return outcome.exit_code
