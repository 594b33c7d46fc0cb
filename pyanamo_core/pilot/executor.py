"""Threads that run nests (ThreadExecutor), and the daemon pool below it that also does the pilot's paperwork.

The standard library's pool waits at interpreter exit for threads that hang; a pilot that has decided to leave must not.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar, cast

from pyanamo_core.model import NestCall, NestResult
from pyanamo_core.protocols import Clock

T = TypeVar("T")


class DaemonPool:
    """At most `threads` daemon threads that live until `close`; started when there is work for them."""

    def __init__(self, threads: int, name: str) -> None:
        self._limit = max(1, threads)
        self._name = name
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False
        self._lock = threading.Lock()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run `call` in a thread of the pool; waits its turn when all are busy.

        Raises:
            RuntimeError: the pool is closed.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the pool {self._name} is closed")
            self._work.put((cast("Future[Any]", future), call))
            if self._idle > 0:
                self._idle -= 1
            elif len(self._threads) < self._limit:
                thread = threading.Thread(target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def _run(self) -> None:
        while True:
            job = self._work.get()
            if job is None:
                return
            future, call = job
            if not future.set_running_or_notify_cancel():
                self._rests()
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the future
                self._rests()
                future.set_exception(error)
            else:
                self._rests()
                future.set_result(result)
                del result  # an idle thread shall not keep the last result alive
            del job, future, call

    def _rests(self) -> None:
        # Before the future is fulfilled: who submits because of it finds this thread free.
        with self._lock:
            self._idle += 1

    def close(self, timeout_seconds: float, clock: Clock | None = None) -> bool:
        """Take nothing more and wait at most so long for what runs; True if all threads have ended."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        for _ in threads:
            self._work.put(None)
        left = timeout_seconds
        for thread in threads:
            if clock is None:
                thread.join(max(0.0, left / max(1, len(threads))))
            else:
                started = clock.monotonic()
                thread.join(max(0.0, left))
                left -= clock.monotonic() - started
        return not any(thread.is_alive() for thread in threads)


class ThreadExecutor:
    """The plain Executor: as many threads as slots."""

    def __init__(self, slots: int) -> None:
        self._pool = DaemonPool(slots, "nest")

    def submit(self, call: Callable[[], NestResult], nest: NestCall) -> Future[NestResult]:
        """Run `call` on a slot of its own; the future gets its result or its exception."""
        return self._pool.submit(call)

    def close(self, timeout_seconds: float) -> None:
        """Wait at most so long for nests that still run; their threads never keep the process alive."""
        self._pool.close(timeout_seconds)
