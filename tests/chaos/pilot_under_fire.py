"""Pilots as processes, with their whole loop, whose moves are written down and whose clocks, index and keys misbehave.

Run as a program this is a nursery: it has imported everything once, forks a pilot for each line of its input, sends
them signals, and tells on its output who has ended. When its input ends, or it dies, all of them are gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import signal
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Orders:
    """What one pilot is told.

    Args:
        skew_seconds: of its clock. With `corrected` the pilot measures it, as it does against AWS; without, it does
            not know, and the margin has to cover it.
        hot, stale, stale_seconds, throttled: as pyanamo_core.faults.Faults says.
        slow, failing: shares of nests that take up to a lease, or fail at this attempt.
        heals: without it the ledger does not know its own token again: what the checker has to notice.
    """

    name: str
    table: str
    endpoint: str
    folder: str
    seed: int
    skew_seconds: float = 0.0
    corrected: bool = True
    lease_seconds: float = 20.0
    hot: float = 0.0
    hot_seconds: float = 2.0
    stale: float = 0.0
    stale_seconds: float = 1.0
    throttled: float = 0.0
    slow: float = 0.0
    failing: float = 0.0
    tries: int = 3
    heals: bool = True


def work(orders: Orders, session: Any) -> int:
    """Be a pilot to its end; its exit code. The boto3 session is the nursery's: what it has read is not read again."""
    from history import History, LoggedLedger, Pulse

    import pyanamo_core.ledger
    from pyanamo_core import aws
    from pyanamo_core.faults import Faults
    from pyanamo_core.ledger import open_ledger
    from pyanamo_core.pilot import Pilot, PilotOptions
    from pyanamo_core.pilot.console import log_to_stderr

    folder = Path(orders.folder)
    log_to_stderr()
    quicken(orders)
    rng = random.Random(orders.seed)
    faults = Faults(
        rng=rng,
        throttled=orders.throttled,
        hot=orders.hot,
        hot_seconds=orders.hot_seconds,
        stale=orders.stale,
        stale_seconds=orders.stale_seconds,
    )
    history = History(folder / "history" / f"{orders.name}.jsonl", orders.name)
    clients: Any = FaultyClients(aws.Clients(session, orders.endpoint, "us-east-1"), faults)

    def logged(*told: Any, **more: Any) -> tuple[Any, int, Any]:
        ledger, number, workflow = open_ledger(*told, **more)
        pulse = Pulse()
        ledger._store = ListeningStore(ledger._store, pulse, heals=orders.heals)  # type: ignore[assignment]
        return LoggedLedger(ledger, history, pulse), number, workflow

    pyanamo_core.ledger.open_ledger = logged  # type: ignore[assignment]
    options = PilotOptions(
        table=orders.table,
        scratch=folder / "scratch" / orders.name,
        staging=folder / "staging",
    )
    pilot = Pilot(options, clients, clock=clock_of(orders), environ={"PATH": os.environ["PATH"]}, rng=rng)
    pilot.install_signals()
    pilot.prepare()
    return pilot.work(executor=QuickNests(history, orders))


def quicken(orders: Orders) -> None:
    """Leases are much shorter here than real ones, so the SDK shall also give up and repeat sooner."""
    from botocore.retries.standard import ExponentialBackoff

    from pyanamo_core import aws

    aws.DATA_TRIES = orders.tries  # type: ignore[misc]
    share = min(1.0, orders.lease_seconds / 60.0)
    patient = ExponentialBackoff.delay_amount
    ExponentialBackoff.delay_amount = lambda self, context: share * patient(self, context)  # type: ignore[method-assign]


def clock_of(orders: Orders) -> Any:
    """A clock that is off, and knows it or does not."""
    from pyanamo_core.clock import SystemClock

    class Skewed(SystemClock):
        def now(self) -> float:
            return super().now() + orders.skew_seconds

    class Unknowing:
        """Not the machine's clock, so the pilot does not measure its offset."""

        def now(self) -> float:
            return time.time() + orders.skew_seconds

        def monotonic(self) -> float:
            return time.monotonic()

        def sleep(self, seconds: float) -> None:
            time.sleep(max(0.0, seconds))

    return Skewed() if orders.corrected else Unknowing()


class FaultyClients:
    """Clients whose DynamoDB misbehaves."""

    def __init__(self, clients: Any, faults: Any) -> None:
        self._clients, self._faults = clients, faults
        self._made: dict[tuple[str, str], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clients, name)

    def client(self, service: str, region: str | None = None) -> Any:
        return self._wrapped("client", service, lambda: self._clients.client(service, region))

    def quick(self, service: str) -> Any:
        return self._wrapped("quick", service, lambda: self._clients.quick(service))

    def _wrapped(self, temper: str, service: str, make: Callable[[], Any]) -> Any:
        from pyanamo_core.faults import faulty

        if (temper, service) not in self._made:
            self._made[temper, service] = faulty(make(), self._faults)
        return self._made[temper, service]


class ListeningStore:
    """The ledger's store; tells the pulse of writes that got no answer, and of refusals that showed our own token."""

    def __init__(self, store: Any, pulse: Any, *, heals: bool = True) -> None:
        self._store, self._pulse, self._heals = store, pulse, heals

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def update(self, row_key: Any, expressions: Any, *, quick: bool = False) -> Any:
        token = expressions.values.get(":token") or expressions.values.get(":last_move")
        return self._heard(token, lambda: self._store.update(row_key, expressions, quick=quick))

    def put(self, row: Any, condition: str = "", values: Any = None) -> Any:
        return self._heard(row.get("token") or row.get("last_move"), lambda: self._store.put(row, condition, values))

    def _heard(self, token: Any, write: Callable[[], Any]) -> Any:
        from pyanamo_core.ledger.store import Lost, NoAnswer

        try:
            answer = write()
        except NoAnswer:
            self._pulse.silent += 1
            raise
        if token and isinstance(answer, Lost) and answer.row:
            own = [name for name in ("lockID", "last_move", "token") if answer.row.get(name) == token]
            if own and not self._heals:
                return Lost(answer.row | {name: {"S": "another's"} for name in own})
            self._pulse.heals += bool(own)
        return answer


class QuickNests:
    """An Executor whose nests do nothing: most end at once, some take up to a lease, some fail (protocols.Executor)."""

    def __init__(self, history: Any, orders: Orders) -> None:
        from pyanamo_core.pilot.executor import DaemonPool

        self._history, self._orders = history, orders
        self._pool = DaemonPool(16, "nest")

    def submit(self, call: Any, nest: Any) -> Future[Any]:
        dice = random.Random(zlib.crc32(f"{self._orders.seed} {nest.item_id} {nest.index} {nest.fence}".encode()))
        if dice.random() < self._orders.slow:
            seconds = dice.uniform(0.1, 1.0) * self._orders.lease_seconds
            return self._pool.submit(lambda: self._run(call, nest, dice, seconds))
        future: Future[Any] = Future()
        future.set_result(self._run(call, nest, dice, 0.0))
        return future

    def _run(self, task: Any, nest: Any, dice: random.Random, seconds: float) -> Any:
        from pyanamo_core.model import Cause, NestResult

        run = self._history.begin("run", nest.item_id, fence=nest.fence, epoch=nest.epoch, nest=nest.index)
        started = time.time()
        until = time.monotonic() + seconds
        while not task.stopped and (left := until - time.monotonic()) > 0:
            time.sleep(min(0.1, left))
        cause = Cause.DONE
        if task.stopped:
            cause = Cause.LOST
        elif nest.value == "permanent":
            cause = Cause.PERMANENT
        elif dice.random() < self._orders.failing:
            cause = Cause.TASK_ERROR
        self._history.end(run, "won" if cause is Cause.DONE else cause.value)
        message = "" if cause is Cause.DONE else f"it ended with {cause}"
        return NestResult(cause=cause, exit_code=0, message=message, started=started, ended=time.time())

    def close(self, timeout_seconds: float) -> None:
        self._pool.close(timeout_seconds)


# -------------------------------------------------------------------------------------------------------------- nursery


def nursery() -> None:
    """Fork pilots as told, until the input ends."""
    import boto3
    import history  # noqa: F401 - imported once, for all

    import pyanamo_core.ledger
    import pyanamo_core.pilot  # noqa: F401
    from pyanamo_core.aws import Clients

    session = boto3.Session("testing", "testing", region_name="us-east-1")
    Clients(session, "http://127.0.0.1:9", "us-east-1").client("dynamodb")

    children: dict[int, str] = {}
    pending = b""
    say({"ready": True})
    while True:
        readable, _, _ = select.select([0], [], [], POLL_SECONDS)
        if readable:
            read = os.read(0, 1 << 16)
            if not read:
                break
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                obey(json.loads(line), children, session)
        while children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            say({"ended": children.pop(pid), "code": os.waitstatus_to_exitcode(status)})
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)


def obey(told: dict[str, Any], children: dict[int, str], session: Any) -> None:
    """A new pilot, or a signal for one that is still alive (a child that nobody has waited for keeps its number)."""
    if "signal" in told:
        for pid, name in children.items():
            if name == told["name"]:
                os.kill(pid, told["signal"])
                say({"signalled": name, "signal": told["signal"], "at": time.monotonic()})
        return
    orders = Orders(**told)
    pid = os.fork()
    if pid:
        children[pid] = orders.name
        return
    code = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = os.open(Path(orders.folder) / "pilots.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = work(orders, session)
    except BaseException as error:  # noqa: BLE001 - whatever it was: the child must not go on as a nursery
        sys.stderr.write(f"{orders.name}: {type(error).__name__}: {error}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


def say(told: dict[str, Any]) -> None:
    os.write(1, (json.dumps(told) + "\n").encode())


def as_line(orders: Orders) -> bytes:
    return (json.dumps(asdict(orders)) + "\n").encode()


if __name__ == "__main__":
    nursery()
