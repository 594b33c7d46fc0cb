"""Rehearsal: task scripts over items on this machine exactly as a pilot would run them, without a ledger.

Same environment, private directories, process group, deadline, verification; outputs go below `rehearsal/` instead of
`work/`, with fence 0, so that nothing of a run is touched.
"""

from __future__ import annotations

import os
import queue
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import SetUpError
from pyanamo_core.model import Cause, Definition, NestCall, NestResult
from pyanamo_core.pilot.environment import Setting
from pyanamo_core.pilot.executor import ThreadExecutor
from pyanamo_core.pilot.nest import Bench, Task
from pyanamo_core.pilot.outputs import load_hook
from pyanamo_core.pilot.vitals import container_memory_mb
from pyanamo_core.protocols import Clock
from pyanamo_core.staging import stage
from pyanamo_core.workflow import Workflow


@dataclass(frozen=True)
class RehearsedNest:
    """One nest that was rehearsed. `log` is the path of its log, which stays."""

    call: NestCall
    result: NestResult
    log: str


def rehearse(
    workflow: Workflow,
    items: Sequence[tuple[str, str, Definition]],
    *,
    clients: Any = None,
    folder: Path | None = None,
    slots: int | None = None,
    results: str = "",
    scripts: str = "",
    staging: Path | None = None,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    on_event: Callable[[str, NestCall, NestResult | None], None] | None = None,
) -> list[RehearsedNest]:
    """Run every nest of the items here, as many at a time as a pilot has slots.

    Args:
        items: (item id, TaskID, definition) of each.
        clients: aws.Clients; for staging, and for checking outputs in S3.
        folder: holds work directories and the logs that stay; None makes a temporary one.
        slots: None: the workflow's items × nests. Memory per nest is the workflow's memory by this number.
        results: s3://bucket/prefix instead of the workflow's.
        on_event: told ("started", call, None) and ("finished", call, result), in this thread.

    Returns:
        One entry per nest, in the order of items and nests.

    Raises:
        SetUpError, HostFault: as staging says.
        KeyboardInterrupt: after what ran was ended.
    """
    clock = clock or SystemClock()
    folder = folder or Path(tempfile.mkdtemp(prefix="pyanamo-rehearsal-"))
    folder.mkdir(parents=True, exist_ok=True)
    slots = slots or workflow.slots
    staged = stage(workflow, clients, root=staging, scripts=scripts)
    try:
        hook = load_hook(workflow.verify, staged.pipeline)
    except Exception as error:
        raise SetUpError(reason=f"the verify hook {workflow.verify} cannot be loaded: {error}") from error
    shared = folder / "shared"
    shared.mkdir(mode=0o700, exist_ok=True)
    setting = Setting(
        workflow=workflow,
        table=workflow.table_name,
        run_id="",
        results=results or workflow.buckets.results,
        pipeline=staged.pipeline,
        references=staged.references,
        host=dict(os.environ if environ is None else environ),
        memory_mb=max(1, container_memory_mb(workflow.memory_mb) // slots),
        cpus=max(1, int(workflow.vcpus / slots)),
        shared=str(shared),
        work_name="rehearsal",
    )
    bench = Bench(
        setting=setting,
        scratch=folder,
        clock=clock,
        s3=lambda: clients.client("s3"),
        hook=hook,
        deadline_seconds=workflow.nest_time_seconds,
        silence_seconds=workflow.nest_silence_seconds,
        keep=folder / "kept" if workflow.keep_work_on_failure else None,
    )
    calls = [
        NestCall(
            item_id=item_id,
            task_id=task_id,
            index=index,
            value=definition.value(index),
            fence=0,
            epoch=0,
            script=definition.script,
        )
        for item_id, task_id, definition in items
        for index in range(definition.nests)
    ]
    try:
        return _Rehearsal(bench, slots, on_event).run(calls)
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def _look_away(_what: str, _call: NestCall, _result: NestResult | None) -> None: ...


class _Rehearsal:
    def __init__(
        self, bench: Bench, slots: int, on_event: Callable[[str, NestCall, NestResult | None], None] | None
    ) -> None:
        self._bench = bench
        self._slots = slots
        self._on_event = on_event or _look_away
        self._came: queue.SimpleQueue[tuple[int, Future[NestResult]]] = queue.SimpleQueue()
        self._running: dict[int, Task] = {}

    def run(self, calls: list[NestCall]) -> list[RehearsedNest]:
        executor = ThreadExecutor(self._slots)
        done: dict[int, RehearsedNest] = {}
        waiting = list(enumerate(calls))
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._slots:
                    self._start(executor, *waiting.pop(0))
                number, future = self._came.get()
                task = self._running.pop(number)
                result = future.result()
                done[number] = RehearsedNest(task.call, result, self._keep_log(task.call, result))
                self._on_event("finished", task.call, result)
        except BaseException:
            for task in list(self._running.values()):
                task.stop(Cause.DRAINED)
            executor.close(10.0)
            raise
        executor.close(1.0)
        return [done[number] for number in sorted(done)]

    def _start(self, executor: ThreadExecutor, number: int, call: NestCall) -> None:
        task = Task(call, self._bench)
        self._running[number] = task
        self._on_event("started", call, None)
        executor.submit(task, call).add_done_callback(lambda future: self._came.put((number, future)))

    def _keep_log(self, call: NestCall, result: NestResult) -> str:
        if not result.log_path or not Path(result.log_path).exists():
            return ""
        target = self._bench.scratch / "logs" / f"{Path(result.log_path).stem}-nest-{call.index:05d}.log"
        target.parent.mkdir(exist_ok=True)
        shutil.move(result.log_path, target)
        return str(target)
