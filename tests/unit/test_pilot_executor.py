"""The plain executor: the contract suite, and that it never keeps a process alive."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from executor_suite import *  # noqa: F403

from pyanamo_core.pilot.executor import DaemonPool, ThreadExecutor


@pytest.fixture
def executor() -> Iterator[ThreadExecutor]:
    """Four slots."""
    made = ThreadExecutor(4)
    yield made
    made.close(10)


def test_a_pool_starts_only_the_threads_that_it_needs() -> None:
    pool = DaemonPool(50, "few")
    before = threading.active_count()

    for _ in range(20):
        pool.submit(lambda: None).result(60)

    assert threading.active_count() - before <= 3
    assert pool.close(10)


def test_a_closed_pool_takes_nothing() -> None:
    pool = DaemonPool(1, "closed")
    pool.close(1)

    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(lambda: None)


def test_a_call_that_never_ends_does_not_keep_the_process() -> None:
    # Given a program whose nest hangs for ever
    program = (
        "import threading\n"
        "from pyanamo_core.pilot.executor import ThreadExecutor\n"
        "e = ThreadExecutor(1)\n"
        "e.submit(threading.Event().wait, None)\n"
        "e.close(0.1)\n"
    )

    # Then it ends all the same
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
