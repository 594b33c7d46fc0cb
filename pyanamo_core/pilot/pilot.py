"""A pilot: prepares itself, works until there is a reason to leave, and leaves with the exit code that Batch reads.

pilot = Pilot(PilotOptions.from_environment(), Clients())
pilot.install_signals()
pilot.prepare()
os._exit(pilot.work())
"""

from __future__ import annotations

import logging
import os
import queue
import random
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Unfinished
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import EndpointDown, HostFault, NoCredentials, PilotTooOld, SetUpError
from pyanamo_core.meter import Meter, Reading
from pyanamo_core.model import Cause, PilotRecord, Run
from pyanamo_core.pilot.candidates import Candidates, Chosen, Source
from pyanamo_core.pilot.clock import OFFSET_SAMPLES, Learner, OffsetMeter, WallTimeKeeper
from pyanamo_core.pilot.desk import Batch, Desk, Facts, close_books
from pyanamo_core.pilot.drain import Metadata, Signals, SpotWatch, metadata_of
from pyanamo_core.pilot.executor import DaemonPool, ThreadExecutor
from pyanamo_core.pilot.floor import Floor, Job
from pyanamo_core.pilot.furnish import furnish
from pyanamo_core.pilot.host import Instance, instance_of, keeps_its_machine, own_version, parts_of, vcpus_of
from pyanamo_core.pilot.lease import Leases
from pyanamo_core.pilot.leaving import FirstFailures, Leaving, Order, meaning_of_signal
from pyanamo_core.pilot.logs import LogShipper
from pyanamo_core.pilot.loop import Loop
from pyanamo_core.pilot.nest import Bench
from pyanamo_core.pilot.observer import GuardedObserver, NullObserver
from pyanamo_core.pilot.options import PilotOptions
from pyanamo_core.pilot.scheduler import Board
from pyanamo_core.pilot.scratch import Scratch, sweep
from pyanamo_core.pilot.verdict import SET_UP_CODE, TRY_AGAIN_CODE
from pyanamo_core.pilot.vitals import Vitals
from pyanamo_core.protocols import Clock, Executor, Ledger, Observer
from pyanamo_core.staging import default_root
from pyanamo_core.workflow import Workflow

STAYING_INDEX: Final = 2
"""Pilots with a smaller array index stay until nothing is open; so does one outside an array."""
CLOSING_SECONDS: Final = 3.0
SPOT_WAIT_SECONDS: Final = 150.0
LOOPS_PER_JITTER_SECOND: Final = 200.0
_POLL_SECONDS: Final = 0.1

_log = logging.getLogger("pyanamo.pilot")


class Pilot:
    """One incarnation of a pilot.

    Args:
        options: what it was told.
        clients: aws.Clients; None only together with a ledger that needs none.
        ledger: another ledger than the table's (the one in memory).
        clock: for tests.
        environ: the host's environment; None: this process's.
    """

    def __init__(
        self,
        options: PilotOptions,
        clients: Any,
        *,
        ledger: Ledger | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.options = options
        self.pilot_id = str(uuid.uuid4())
        self.run: Run | None = None
        self.slots = 0
        self._flow_run_id = ""
        self._clients = clients
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or random.Random()  # noqa: S311 - it spreads load
        self._environ = dict(os.environ if environ is None else environ)
        self._ledger = ledger
        self._workflow: Workflow | None = None
        self._version = 0
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._signals = Signals(lambda: self._inbox.put(None))
        self._started = self._clock.monotonic()
        self._born = self._clock.now()
        self._metadata: Metadata | None = metadata_of(self._environ)
        self._instance = Instance(options.host)
        self._vcpus = 0.0
        self._ready: float | None = None
        self._meter = OffsetMeter(self._clock) if isinstance(self._clock, SystemClock) else None
        self._scratch: Scratch | None = None
        self._leases: Leases | None = None
        self._spot: SpotWatch | None = None
        self._desk: Desk | None = None
        self._loop: Loop | None = None
        self._vitals: Vitals | None = None
        self._leaving: Leaving | None = None

    # ------------------------------------------------------------------ what others may ask

    @property
    def workflow(self) -> Workflow:
        """The pinned workflow; only after `prepare`."""
        if self._workflow is None:
            raise RuntimeError("the pilot is not prepared")
        return self._workflow

    @property
    def leaving(self) -> Leaving | None:
        """Why it leaves, as soon as that is decided (already after a `prepare` in vain)."""
        return self._leaving

    @property
    def record(self) -> PilotRecord:
        """Its row as it stands."""
        counters = self._loop.counters if self._loop else None
        offset = self._clock.offset_seconds if isinstance(self._clock, SystemClock) else 0.0
        record = PilotRecord(
            pilot_id=self.pilot_id,
            run_id=self.options.run_id,
            batch_job=self.options.batch_job,
            batch_attempt=self.options.batch_attempt,
            array_index=self.options.array_index,
            version=own_version(),
            started=self._born,
            last_beat=self._clock.now(),
            slots=self.slots,
            flow_run_id=self._flow_run_id,
            overrides=self.options.overrides(),
            clock_offset_seconds=round(offset, 1),
            host=self._instance.host,
            instance_type=self._instance.kind,
            lifecycle=self._instance.lifecycle,
            zone=self._instance.zone,
            job_queue=self.options.job_queue,
            vcpus=self._vcpus,
            ready=self._ready,
        )
        if self._workflow is not None:
            record = record.model_copy(update={"items": self._items, "nests": self._nests})
        if self._vitals is not None:
            record = record.model_copy(update=asdict(self._vitals.room()))
        if self._leaving is not None:
            record = record.model_copy(
                update={"leaving": self._leaving.reason[:300], "exit_code": self._leaving.exit_code}
            )
        if counters is not None and self._loop is not None and self._leases is not None:
            record = record.model_copy(
                update={
                    "claims": counters.claims,
                    "conflicts": counters.conflicts,
                    "items_done": counters.items_done,
                    "items_failed": counters.items_failed,
                    "nests_done": counters.nests_done,
                    "nests_failed": counters.nests_failed,
                    "busy_seconds": round(counters.busy_seconds, 3),
                    "holding": self._leases.holding,
                    "last_lines": self._loop.last_lines,
                    "notes": tuple(counters.notes),
                    "spent": self._loop.spent(self._reading),
                }
            )
        return record

    @property
    def _reading(self) -> Reading:
        """What its clients have asked of AWS."""
        meter: Meter | None = getattr(self._clients, "meter", None)
        return meter.reading if meter else Reading()

    @property
    def _items(self) -> int:
        return self.options.items or self.workflow.items

    @property
    def _nests(self) -> int:
        return self.options.nests or self.workflow.nests

    # ------------------------------------------------------------------ start

    def install_signals(self) -> None:
        """Put in the handlers of TERM and INT; call it from the main thread, as early as possible."""
        self._signals.install()

    def observed_as(self, flow_run_id: str) -> None:
        """Somebody has registered the pilot elsewhere: its row shall name that flow run, at once."""
        self._flow_run_id = flow_run_id
        self._inbox.put(lambda: self._tell(lambda loop: loop.on_beat()))

    def prepare(self) -> None:
        """Open the ledger, read the run, stage, make the first claims.

        A TERM meanwhile, a set-up that is wrong and a host that fails do not raise: `work` then returns the exit code
        at once (a host fault after its wait).

        Raises:
            TableMissing, WorkflowMissing, ForeignTable, SchemaNewer, RunMissing, PilotTooOld, ClockOff: nothing was run.
            NoCredentials, AccessDenied and the like: as aws.explain says.
        """
        try:
            if not self._abandonable(self._open):
                return
            if self._watch_for_notices():
                return
            ready = self._abandonable(self._furnish)
            if ready:
                self._begin()
        except HostFault as fault:
            self._leaving = Leaving(f"host_fault: {fault}", TRY_AGAIN_CODE)
        except (EndpointDown, NoCredentials) as fault:
            # In a container both come from the host: its network, its agent.
            if not self.options.batch_job:
                raise
            self._leaving = Leaving(f"host_fault: {fault}", TRY_AGAIN_CODE)
        except OSError as fault:
            # Whatever the disk or the kernel of this host says that nobody foresaw: others may do better.
            self._leaving = Leaving(f"host_fault: {fault}", TRY_AGAIN_CODE)
        except SetUpError as error:
            self._leaving = Leaving(f"set_up: {error}", SET_UP_CODE, stop_run=str(error))
        if self._leaving is not None:
            _log.error("%s", self._leaving.reason)

    def _abandonable(self, step: Callable[[], None]) -> bool:
        """Run a step that may take long in a thread; False if a signal or a Spot notice came first: the pilot leaves."""
        future = DaemonPool(1, "prepare").submit(step)
        while True:
            try:
                future.result(timeout=_POLL_SECONDS)
                if not self._told_to_end:
                    return True
            except Unfinished:
                if future.done():
                    raise
            if self._told_to_end:
                self._leaving = self._leave_early()
                return False

    @property
    def _told_to_end(self) -> bool:
        """Has a signal come, or a Spot notice?"""
        return self._signals.received is not None or bool(self._spot and self._spot.notice)

    def _watch_for_notices(self) -> bool:
        """Begin to ask for a Spot notice; True if there is one already: nothing is staged or claimed then."""
        if self._metadata is None:
            return False
        self._spot = SpotWatch(
            self._metadata,
            self._clock,
            lambda notice: self._inbox.put(lambda: self._tell(lambda loop: loop.on_spot(notice))),
        )
        if self._spot.look():
            self._leaving = self._leave_early()
            return True
        self._spot.start()
        return False

    def _leave_early(self) -> Leaving:
        """What a signal or a notice means before anything was claimed."""
        order = Order()
        ledger = self._ledger
        if self.run is not None and ledger is not None:
            run_id = self.run.run_id
            asked: Future[Run] = DaemonPool(1, "mode").submit(lambda: ledger.run(run_id))
            try:
                run = asked.result(timeout=CLOSING_SECONDS)
            except Exception:  # noqa: BLE001 - no answer: it was an ordinary drain
                run = self.run
            order = Order.of(run)
        wall_time = self._wall_time if self._workflow is not None else None
        meaning = meaning_of_signal(
            self._signals.received or 0,
            order,
            spot_notice=self._spot.notice if self._spot else "",
            wall_time_over=wall_time is not None and self._clock.monotonic() - self._started >= wall_time,
        )
        early = " before the first claim" if meaning.reason.startswith("drained: signal") else ""
        return Leaving(meaning.reason + early, meaning.exit_code)

    @property
    def _wall_time(self) -> float | None:
        return self.options.wall_time_seconds or self.workflow.wall_time_seconds

    def _open(self) -> None:
        clients: Any = self._clients
        if self._clients is not None and self._meter is not None and self._ledger is None:
            self._meter.listen(self._clients.client("dynamodb"))
        run_id = self.options.run_id
        if self._ledger is None:
            from pyanamo_core.ledger import open_ledger

            ledger, version, workflow = open_ledger(clients, self.options.table, clock=self._clock)
            if run_id:
                self.run = ledger.run(run_id)
                if self.run.workflow_version != version:
                    ledger, version, workflow = open_ledger(
                        clients, self.options.table, version=self.run.workflow_version, clock=self._clock
                    )
            self._ledger = ledger
        else:
            self.run = self._ledger.run(run_id) if run_id else None
            version, workflow = self._ledger.workflow(self.run.workflow_version if self.run else None)
        self._version, self._workflow = version, workflow
        self.slots = self._items * self._nests
        if self.run and self.run.min_pilot and parts_of(self.run.min_pilot) > parts_of(own_version()):
            raise PilotTooOld(run_id=run_id, needed=self.run.min_pilot, found=own_version())
        if self._metadata is not None:
            self._instance = instance_of(self._metadata, self._instance)
        self._vcpus = vcpus_of(self._environ, workflow.vcpus)
        self._check_clock()
        self._ledger.put_pilot(self.record)

    def _check_clock(self) -> None:
        if self._meter is None or self._clients is None or self._ledger is None or not self._meter.samples:
            return
        for _ in range(OFFSET_SAMPLES - self._meter.samples):
            self._ledger.workflow(self._version)
        self._meter.adjust()

    def _furnish(self) -> None:
        """Scratch, task scripts, references, and everything that the loop is made of."""
        workflow, options = self.workflow, self.options
        try:
            sweep(options.scratch_root)
            self._scratch = Scratch(options.scratch_root, self.pilot_id)
        except OSError as error:
            raise HostFault(reason=f"the scratch folder {options.scratch_root}: {error.strerror}") from error
        staging = options.staging or default_root(self._environ)
        vitals = Vitals(self._scratch.path, staging, workflow.min_free_disk_mb, self._clock)
        if short := vitals.short_of_disk():
            raise HostFault(reason=short)
        self._vitals = vitals
        bench = furnish(
            workflow,
            options,
            self._clients,
            scratch=self._scratch.path,
            slots=self.slots,
            environ=self._environ,
            clock=self._clock,
        )
        self._loop = self._make_loop(bench, vitals)

    def _make_loop(self, bench: Bench, vitals: Vitals) -> Loop:
        workflow, ledger, clock, inbox = self.workflow, self._ledger, self._clock, self._inbox
        if ledger is None:
            raise RuntimeError("the ledger is not open")
        timing, memory_mb = workflow.timing, bench.setting.memory_mb
        # The table may have more shards than this version asks for: readers walk them all.
        shards: int = max(workflow.shard_count, getattr(getattr(ledger, "rules", None), "shards", 0))
        self._leases = Leases(
            ledger,
            clock,
            self._rng,
            beat_seconds=timing.beat_seconds,
            lease_seconds=timing.lease_seconds,
            on_lost=self._lost,
            on_cancelled=self._cancelled,
            on_beat=self._beat,
        )
        on_demand = keeps_its_machine(
            batch_job=self.options.batch_job,
            queue=self._environ.get("AWS_BATCH_JQ_NAME", ""),
            on_demand_queue=workflow.on_demand_queue,
            lifecycle=self._instance.lifecycle,
        )
        candidates: Source = Candidates(ledger, shards, clock, self._rng, timing.sweep_seconds, on_demand=on_demand)
        if self.run is not None and self.run.only:
            candidates = Chosen(ledger, self.run.only, clock, self._rng, timing.sweep_seconds)
        facts = Facts(
            pilot_id=self.pilot_id,
            run_id=self.options.run_id,
            revision=workflow.revision,
            batch_job=self.options.batch_job,
            batch_attempt=self.options.batch_attempt,
            submission=self.options.submission,
            container_mb=memory_mb * self.slots,
            host=self._instance.host,
            instance_type=self._instance.kind,
            lifecycle=self._instance.lifecycle,
            zone=self._instance.zone,
            job_queue=self.options.job_queue,
            vcpus=self._vcpus,
            slots=self.slots,
        )
        shipper = LogShipper(self._clients, workflow, self.options.table, self.pilot_id, bench.setting.results)
        s3 = None if self._clients is None else lambda: self._clients.client("s3")
        self._desk = Desk(ledger, clock, candidates, self._leases, shipper, facts, s3)
        learner = Learner()
        limits = self.run.limits if self.run else None
        index = self.options.array_index
        floor = Floor(
            workflow=workflow,
            board=Board(self._items, self.slots),
            desk=self._desk,
            leases=self._leases,
            bench=bench,
            learner=learner,
            keeper=WallTimeKeeper(self._wall_time, self._started, clock, learner),
            clock=clock,
            inbox=inbox,
            memory_mb=memory_mb,
            first=FirstFailures(workflow.budgets.first_items),
            vitals=vitals,
        )
        return Loop(
            floor,
            signals=self._signals,
            stays=index is None or index < STAYING_INDEX,
            max_failures=(limits.max_failures if limits else None) or workflow.budgets.max_failures,
            record=lambda: self.record,
        )

    def _lost(self, item_id: str, fence: int, reason: str) -> None:
        self._inbox.put(lambda: self._tell(lambda loop: loop.on_lost(item_id, fence, reason)))

    def _cancelled(self, item_id: str) -> None:
        self._inbox.put(lambda: self._tell(lambda loop: loop.on_cancelled(item_id)))

    def _tell(self, what: Callable[[Loop], None]) -> None:
        if self._loop is not None:
            what(self._loop)

    def _beat(self) -> None:
        if self._meter is not None:
            self._meter.adjust(at_work=True)
        self._inbox.put(lambda: self._tell(lambda loop: loop.on_beat()))

    def _begin(self) -> None:
        """Leases, Spot watch, start jitter, first claims."""
        loop, desk, leases = self._loop, self._desk, self._leases
        if loop is None or desk is None or leases is None:
            raise RuntimeError("the pilot is not furnished")
        _log.info(
            "pilot %s of %s: %d items, %d slots, workflow version %d, run %s",
            self.pilot_id,
            self.options.table,
            self._items,
            self.slots,
            self._version,
            self.options.run_id or "none",
        )
        leases.start()
        pilots = self.run.limits.max_pilots if self.run else 1
        jitter = min(self.workflow.timing.start_jitter_seconds, pilots * self._items / LOOPS_PER_JITTER_SECOND)
        until = self._clock.monotonic() + self._rng.uniform(0.0, jitter)
        while self._clock.monotonic() < until and not self._told_to_end:
            self._clock.sleep(min(_POLL_SECONDS, until - self._clock.monotonic()))
        if self._told_to_end:
            self._leaving = self._leave_early()
            return
        self._ready = self._clock.now()
        first: Future[Batch] = desk.claim(self._items)
        first.add_done_callback(lambda done: self._inbox.put(partial(loop.on_claimed, done)))
        loop.claiming_began()
        while not first.done() and not self._told_to_end:
            self._clock.sleep(_POLL_SECONDS / 5)

    # ------------------------------------------------------------------ work

    def work(self, executor: Executor | None = None, observer: Observer | None = None) -> int:
        """Run nests until there is a reason to leave; returns the exit code (docs/pilot.md).

        Args:
            executor: runs nests; None: threads.
            observer: is told what happens; it can neither delay nor break anything.
        """
        self._signals.reinstall()
        guard = GuardedObserver(observer or NullObserver(), self._clock)
        if self._leaving is None:
            if self._loop is None:
                raise RuntimeError("the pilot is not prepared")
            executor = executor or ThreadExecutor(self.slots)
            self._loop.attach(executor, guard)
            self._leaving = self._loop.run()
        return self._close(self._leaving, executor, guard)

    def _close(self, leaving: Leaving, executor: Executor | None, guard: GuardedObserver) -> int:
        _log.info("leaving: %s (exit code %d)", leaving.reason, leaving.exit_code)
        for each in (self._leases, self._spot):
            if each is not None:
                each.stop()
        guard.leaving(leaving.reason, leaving.exit_code)
        self._close_books(leaving)
        guard.close(2.0)
        if self._desk is not None:
            self._desk.close()
        if executor is not None:
            executor.close(0.5)
        if self._scratch is not None:
            self._scratch.close()
        kind = leaving.reason.partition(":")[0]
        if kind == Cause.HOST_FAULT or (kind == Cause.SET_UP and self.options.batch_job):
            # A bad host that gave its slot back at once would swallow a whole array.
            seconds = self.workflow.timing.host_fault_wait_seconds if self._workflow else 60.0
            self._wait(seconds)
        elif kind == Cause.SPOT:
            self._wait(SPOT_WAIT_SECONDS)
        return leaving.exit_code

    def _close_books(self, leaving: Leaving) -> None:
        ledger = self._ledger
        if ledger is None or self._workflow is None:
            return
        last = self.record.model_copy(
            update={
                "ended": self._clock.now(),
                "holding": (),
                "last_lines": (),
            }
        )
        closing = DaemonPool(1, "close").submit(lambda: close_books(ledger, last, leaving.stop_run))
        try:
            closing.result(timeout=CLOSING_SECONDS)
        except Exception as error:  # noqa: BLE001 - the row is a courtesy; leases bring back what is held
            _log.warning("the pilot's last row was not written: %s", error or type(error).__name__)

    def _wait(self, seconds: float) -> None:
        """Wait, unless the host's end has been told: 30 s after TERM comes KILL, and with it another exit code."""
        until = self._clock.monotonic() + seconds
        while self._clock.monotonic() < until and self._signals.received is None:
            self._clock.sleep(_POLL_SECONDS)
