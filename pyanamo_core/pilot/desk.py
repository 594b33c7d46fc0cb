"""The pilot's paperwork: everything that is written to and read from the ledger, in threads beside the loop.

The loop never waits for a service: it hands jobs to the desk and hears of their end.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pyanamo_core.errors import (
    AwsFailed,
    EndpointDown,
    ItemMissing,
    LeaseLost,
    MoveRefused,
    OutcomeUnknown,
    PyAnamoError,
)
from pyanamo_core.model import (
    Attempt,
    Cause,
    Claim,
    Definition,
    Item,
    LogPointer,
    Mode,
    Nest,
    NestCall,
    NestResult,
    NestStatus,
    PilotRecord,
    Recorded,
    State,
)
from pyanamo_core.pilot.candidates import Source
from pyanamo_core.pilot.evidence import fitted
from pyanamo_core.pilot.executor import DaemonPool
from pyanamo_core.pilot.lease import Leases
from pyanamo_core.pilot.leaving import NO_ORDER, Order, job_kept_instead
from pyanamo_core.pilot.logs import LogShipper, Marks
from pyanamo_core.pilot.patience import S3_SECONDS, StoreDown, patiently
from pyanamo_core.pilot.record import is_bulky, nest_row, overflow_of, put_overflow, without_payload
from pyanamo_core.pilot.verdict import Verdict
from pyanamo_core.protocols import Clock, Ledger

CLERKS: Final = 4
LOG_CLERKS: Final = 2
PAGE_SECONDS: Final = 5.0
"""What is left of a page of candidates is good for so long."""
AGAIN_SECONDS: Final = 1.0
LOG_SECONDS: Final = 60.0
"""A log is uploaded again for so long; the loop may give it up earlier."""

T = TypeVar("T")

_log = logging.getLogger("pyanamo.pilot")


@dataclass(frozen=True)
class Claimed:
    """An item that was claimed, what it does and what of it is done."""

    claim: Claim
    definition: Definition
    done: frozenset[int]


@dataclass
class Batch:
    """What one batch of claims brought. `open` is the number of items that are not finished, if it was asked for."""

    claimed: list[Claimed] = field(default_factory=list[Claimed])
    conflicts: int = 0
    order: Order = NO_ORDER
    open: int | None = None


@dataclass(frozen=True)
class Status:
    """What a beat learns of the run: its mode and why, and failed items up to the bound."""

    order: Order = NO_ORDER
    failed: int | None = None


@dataclass(frozen=True)
class Entry:
    """A result that was recorded: what the ledger made of it, and where its log is to go."""

    recorded: Recorded
    pointer: LogPointer | None
    cause: Cause
    message: str
    evidence: str = ""


@dataclass(frozen=True)
class Facts:
    """What the rows of a pilot have in common."""

    pilot_id: str
    run_id: str
    revision: str
    batch_job: str = ""
    batch_attempt: int = 0
    submission: int | None = None
    host: str = ""
    instance_type: str = ""
    lifecycle: str = ""
    zone: str = ""
    job_queue: str = ""
    vcpus: float = 0.0
    slots: int = 0
    container_mb: int = 0


@dataclass(frozen=True)
class Used:
    """What a claim has used (seconds; see model.Attempt)."""

    slot_seconds: float = 0.0
    kept_seconds: float = 0.0
    cpu_seconds: float = 0.0


class Desk:
    """Jobs for the ledger and for logs.

    Args:
        s3: gives an S3 client for results that are too big for a row; None where there is no AWS.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        candidates: Source,
        leases: Leases,
        shipper: LogShipper,
        facts: Facts,
        s3: Callable[[], Any] | None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._candidates = candidates
        self._leases = leases
        self._shipper = shipper
        self._facts = facts
        self._s3 = s3
        self._page: list[tuple[State, str]] = []
        self._page_at = 0.0
        self._clerks = DaemonPool(CLERKS, "desk")
        self._log_clerks = DaemonPool(LOG_CLERKS, "logs")
        self._packers = DaemonPool(CLERKS, "packers")
        self._hurry = threading.Event()
        # Claims wait for nobody's results, and results for nobody's claims.
        self._claim_clerk = DaemonPool(1, "claims")

    # ------------------------------------------------------------------ handing out

    def claim(self, wanted: int, *, count_open: bool = False) -> Future[Batch]:
        """Claim up to so many items."""
        return self._claim_clerk.submit(lambda: self._claim_batch(wanted, count_open))

    def record(
        self, call: NestCall, result: NestResult, slot: int, log_bytes: int, output_prefix: str
    ) -> Future[Entry]:
        """Record the result of a nest of ours."""
        # What may need S3, and wait for it, must not keep the paperwork of everything else.
        clerks = self._packers if is_bulky(result) else self._clerks
        return clerks.submit(lambda: self._record(call, result, slot, log_bytes, output_prefix))

    def ship(self, pointer: LogPointer, path: str, marks: Marks) -> Future[str]:
        """Upload a log, remove the file; the future tells a note, "" if all went well."""
        return self._log_clerks.submit(lambda: self._ship(pointer, Path(path), marks))

    def settle(
        self,
        claim: Claim,
        move: Callable[[Ledger, Claim], Item],
        cause: Cause,
        evidence: str,
        used: Used | None = None,
    ) -> Future[Item]:
        """Make the last move of a claim, then its attempt row."""
        return self._clerks.submit(lambda: self._settle(claim, move, cause, evidence, used or Used()))

    def status(self, record: PilotRecord, failure_bound: int | None) -> Future[Status]:
        """Write the pilot's row; read the run's mode and, if there is a bound, count failed items."""
        return self._clerks.submit(lambda: self._status(record, failure_bound))

    def order(self) -> Future[Order]:
        """Read the run's mode, in a thread of its own: it is asked for when time is short."""
        return DaemonPool(1, "mode").submit(self._order)

    def hurry(self) -> None:
        """The pilot is ending: wait for S3 no more."""
        self._hurry.set()

    def close(self) -> None:
        """Take nothing more; threads that are idle end, one that hangs keeps nobody."""
        for pool in (self._clerks, self._log_clerks, self._claim_clerk, self._packers):
            pool.close(0.0)

    # ------------------------------------------------------------------ claims

    def _claim_batch(self, wanted: int, count_open: bool) -> Batch:
        batch = Batch()
        batch.order = self._order()
        if batch.order.mode is not Mode.RUN:
            return batch
        while len(batch.claimed) < wanted:
            try:
                found = self._next_candidate()
                if found is None:
                    break
                claimed = self._claim_one(*found)
            except Exception as error:
                if not batch.claimed:
                    raise
                # What was claimed before is ours and beats on: nobody else may have it, so it must not be forgotten.
                _log.warning("claiming one more item went wrong: %s", error)
                break
            if claimed is None:
                batch.conflicts += 1
            else:
                batch.claimed.append(claimed)
        if count_open and not batch.claimed and not batch.conflicts:
            batch.open = self._candidates.open()
        return batch

    def _next_candidate(self) -> tuple[str, State] | None:
        if self._clock.monotonic() - self._page_at > PAGE_SECONDS:
            self._page.clear()
        if not self._page:
            self._page, self._page_at = self._candidates.page(), self._clock.monotonic()
        if not self._page:
            return None
        state, item_id = self._page.pop()
        self._candidates.tried(item_id)
        return item_id, state

    def _claim_one(self, item_id: str, state: State) -> Claimed | None:
        more = {"on_demand": True} if self._candidates.for_on_demand(item_id) else {}
        claim = self._ledger.claim(item_id, self._facts.pilot_id, run_id=self._facts.run_id, **more)
        if claim is None:
            if state is State.LOCKED:
                self._ledger.expire(item_id)
            return None
        self._leases.add(claim)
        try:
            definition = self._ledger.definition(claim.item)
            nests = self._ledger.nests(claim.item)
        except ItemMissing as error:
            # While it is ours nobody can edit it: its definition is gone for good, and no pilot can do it.
            self._leases.drop(item_id)
            told = f"its definition is gone: {error}"
            self._ledger.fail(claim, Cause.PERMANENT, told, nests_done=0, nests_failed=0)
            self._put_attempt(claim, Cause.PERMANENT, told)
            return None
        except Exception as error:
            self._leases.drop(item_id)
            with contextlib.suppress(Exception):
                told = "its definition could not be read"
                self._ledger.hand_back(claim, Cause.DRAINED, told, progressed=False, started=False, counts=False)
                self._put_attempt(claim, Cause.DRAINED, f"{told}: {error}")
            raise
        self._put_attempt(claim)
        done = frozenset(index for index, nest in nests.items() if nest.status is NestStatus.DONE)
        return Claimed(claim, definition, done)

    def _order(self) -> Order:
        if not self._facts.run_id:
            return NO_ORDER
        run = self._ledger.run(self._facts.run_id)
        kept = job_kept_instead(run, self._facts.submission, self._facts.batch_job)
        if kept and run.mode is Mode.RUN:
            return Order(Mode.DRAIN, f"submitted twice, job {kept} is kept")
        return Order.of(run)

    # ------------------------------------------------------------------ results

    def _record(self, call: NestCall, result: NestResult, slot: int, log_bytes: int, prefix: str) -> Entry:
        cause, message = result.cause, result.message
        packed = overflow_of(result)
        uri = digest = ""
        if packed is not None:
            try:
                if self._s3 is None:
                    raise PyAnamoError("there is no AWS to keep what is too big for a row")
                uri = f"{prefix}overflow.json.gz"
                digest = self._wait_for_s3(partial(put_overflow, self._s3, uri, packed), S3_SECONDS)
            except Exception as error:  # noqa: BLE001 - a result that cannot be kept is none
                dropped: dict[str, Any] = {"outputs": (), "tags": (), "figures": {}}
                if cause is Cause.DONE:  # what had failed before keeps its own reason
                    cause = Cause.TASK_ERROR if isinstance(error, StoreDown) else Cause.UNVERIFIED
                    message = f"its results could not be stored: {error}"
                    dropped |= {"cause": cause, "message": message, "evidence": message}
                result = result.model_copy(update=dropped)
        failed = cause is not Cause.DONE
        pointer = self._shipper.plan(call, slot, log_bytes, result.started, result.ended, failed=failed)
        in_row = pointer is not None and pointer.where == "row"
        nest = nest_row(
            call,
            result,
            log=pointer,
            tail=result.tail if failed or in_row or self._shipper.keeps_tail else "",
            revision=self._facts.revision,
            run_id=self._facts.run_id,
            pilot_id=self._facts.pilot_id,
        )
        if uri and digest:
            nest = without_payload(nest, uri, digest)
        # One token for all tries: the row that an unanswered one left is then our own, and progress.
        nest = nest.model_copy(update={"token": uuid.uuid4().hex[:16]})
        recorded = self._until_deadline(call.item_id, call.fence, lambda claim: self._put_nest(claim, nest))
        return Entry(recorded, pointer, cause, message, result.evidence)

    def _put_nest(self, claim: Claim, nest: Nest) -> Recorded:
        return self._ledger.record_nest(claim, nest)

    def _ship(self, pointer: LogPointer, path: Path, marks: Marks) -> str:
        try:
            return self._wait_for_s3(partial(self._shipper.ship, pointer, path, marks), LOG_SECONDS)
        except Exception as error:  # noqa: BLE001 - a log that cannot be kept must not hold up the item
            return str(error)
        finally:
            path.unlink(missing_ok=True)

    def _wait_for_s3(self, what: Callable[[], T], seconds: float) -> T:
        return patiently(what, self._clock, seconds=seconds, hurry=self._hurry)

    # ------------------------------------------------------------------ last moves

    def _settle(
        self, claim: Claim, move: Callable[[Ledger, Claim], Item], cause: Cause, evidence: str, used: Used
    ) -> Item:
        item = self._until_deadline(claim.item_id, claim.fence, lambda held: move(self._ledger, held))
        self._leases.drop(claim.item_id)
        self._put_attempt(claim, cause, evidence, used)
        return item

    def _until_deadline(self, item_id: str, fence: int, write: Callable[[Claim], T]) -> T:
        """Repeat a write that gets no answer until the claim's own deadline; then the item may be another's.

        Raises:
            LeaseLost: refused, or the deadline has come.
        """
        while True:
            claim = self._leases.claim(item_id)
            if claim is None or claim.fence != fence:
                raise LeaseLost(item_id=item_id, fence=fence, reason="it is no longer ours")
            if self._clock.monotonic() >= claim.deadline:
                raise LeaseLost(item_id=item_id, fence=fence, reason="its deadline has come")
            try:
                return write(claim)
            except (LeaseLost, MoveRefused):
                raise
            except (OutcomeUnknown, EndpointDown, AwsFailed) as error:
                _log.warning("item %s: %s; trying again", item_id, error)
                self._clock.sleep(AGAIN_SECONDS)

    def _put_attempt(
        self, claim: Claim, cause: Cause | None = None, evidence: str = "", used: Used | None = None
    ) -> None:
        facts, told = self._facts, used or Used()
        attempt = Attempt(
            item_id=claim.item_id,
            fence=claim.fence,
            epoch=claim.epoch,
            pilot_id=facts.pilot_id,
            run_id=facts.run_id,
            batch_job=facts.batch_job,
            batch_attempt=facts.batch_attempt,
            host=facts.host,
            instance_type=facts.instance_type,
            lifecycle=facts.lifecycle,
            zone=facts.zone,
            job_queue=facts.job_queue,
            vcpus=facts.vcpus,
            slots=facts.slots,
            started=claim.item.locked_at or 0.0,
            ended=self._clock.now() if cause else None,
            cause=cause,
            evidence=fitted(evidence),
            slot_seconds=None if used is None else round(used.slot_seconds, 3),
            kept_seconds=round(told.kept_seconds, 3),
            cpu_seconds=round(told.cpu_seconds, 3),
        )
        try:
            self._ledger.put_attempt(attempt)
        except Exception as error:  # noqa: BLE001 - best effort: fsck mends a missing one
            _log.warning("the attempt row of item %s was not written: %s", claim.item_id, error)

    # ------------------------------------------------------------------ the pilot's own rows

    def _status(self, record: PilotRecord, failure_bound: int | None) -> Status:
        self._ledger.put_pilot(record)
        order = self._order()
        failed = None if failure_bound is None else self._ledger.count(State.FAILED, bound=failure_bound)
        return Status(order, failed)


def last_move(
    verdict: Verdict,
    cause: Cause,
    message: str,
    *,
    done: int,
    failed: int,
    progressed: bool,
    started: bool,
    counts: bool,
    note: str = "",
) -> Callable[[Ledger, Claim], Item]:
    """The ledger's move that carries a verdict out.

    Args:
        counts: for handing back: does it count as an interruption?
        note: for finishing: what the row shall say beside.
    """

    def move(ledger: Ledger, claim: Claim) -> Item:
        if verdict.state is State.DONE:
            return ledger.finish(claim, nests_done=done, note=note)
        if verdict.state is State.FAILED:
            return ledger.fail(claim, cause, message, nests_done=done, nests_failed=failed)
        if verdict.state is State.WAITING:
            return ledger.wait(
                claim,
                cause,
                message,
                delay_seconds=verdict.delay,
                memory_factor=verdict.memory_factor,
                nests_done=done,
                nests_failed=failed,
            )
        return ledger.hand_back(
            claim, cause, message, progressed=progressed, started=started, counts=counts, nests_done=done
        )

    return move


def close_books(ledger: Ledger, record: PilotRecord, stop_run: str) -> None:
    """Write a pilot's last row; with `stop_run` (a reason) drain the run if enough hosts have seen the same.

    Enough are two, or one where the run has only one.
    """
    ledger.put_pilot(record)
    if not stop_run or not record.run_id:
        return
    run = ledger.run(record.run_id)
    pilots = {each.pilot_id: each for each in ledger.pilots(record.run_id)} | {record.pilot_id: record}
    kind = record.leaving.partition(":")[0]
    saw = {each.host for each in pilots.values() if each.leaving.startswith(kind)}
    one_host = len(pilots) > 1 and len({each.host for each in pilots.values()}) == 1
    if kind == "max_failures" or len(saw) >= 2 or one_host or run.limits.max_pilots <= 1:
        ledger.set_mode(record.run_id, Mode.DRAIN, stop_run)
