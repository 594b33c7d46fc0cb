"""A driver that dies of SIGKILL at one step of a submission: a process of its own for the tests of the fleet.

    python killed_driver.py TABLE RUN STEP

The steps are reached by wrapping this process's ledger and Batch; the product knows nothing of them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.driver import Patience
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.ledger import Ledger, open_ledger

ON_ITS_WAY = "while SubmitJob is on its way"
STEPS = ("before the reservation", "after the reservation", "before SubmitJob", "after SubmitJob", "after the settle")
QUICK_PATIENCE = Patience(
    window_seconds=1.0,
    answer_seconds=1.0,
    look_seconds=1.5,
    double_seconds=1.0,
    missing_seconds=2.0,
    leave_seconds=5.0,
)


def die(*_: Any) -> None:
    """As `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def wrap_with_timer(owner: Any, name: str, seconds: float) -> None:
    """Let this process die so long after a method has been called."""
    method = getattr(owner, name)

    def dying(*args: Any, **more: Any) -> Any:
        threading.Timer(seconds, die).start()
        return method(*args, **more)

    setattr(owner, name, dying)


def wrap(owner: Any, name: str, *, after: bool) -> None:
    """Let a method end this process, before its call or after it."""
    method = getattr(owner, name)

    def dying(*args: Any, **more: Any) -> Any:
        if not after:
            die()
        answer = method(*args, **more)
        die()
        return answer

    setattr(owner, name, dying)


def main(table: str, run_id: str, step: str) -> None:
    """Fan out and watch; dies on the way, unless the step is none of STEPS."""
    if step == STEPS[0]:
        wrap(Ledger, "reserve_submission", after=False)
    elif step == STEPS[1]:
        wrap(Ledger, "reserve_submission", after=True)
    elif step == STEPS[2]:
        wrap(Batch, "submit", after=False)
    elif step == STEPS[3]:
        wrap(Batch, "submit", after=True)
    elif step == STEPS[4]:
        wrap(Ledger, "settle_submission", after=True)
    elif step == ON_ITS_WAY:
        wrap_with_timer(Batch, "submit", 0.7)
    clients = Clients()
    ledger, _, workflow = open_ledger(clients, table)
    run = ledger.run(run_id)
    watcher = driver.watcher_name()
    driver.fan_out(clients, ledger, run, workflow, watcher=watcher, patience=QUICK_PATIENCE)
    driver.watch(clients, ledger, run_id, workflow, watcher=watcher, patience=QUICK_PATIENCE)


if __name__ == "__main__":
    main(*sys.argv[1:4])
