"""A run that begins with a few of its items: what they took says what the others will (fleet/canary.py chooses them).

    outcome = canary.run_first(clients, workflow, 3, sheet=sheet)
    found = canary.measured(ledger, outcome.run, workflow)
    pace = canary.pace(ledger, outcome.run, genomic=True)        # for cost.estimate of the rest

Given again, a canary that was broken off goes on, and one that was the table's last run is not run again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyanamo_core import driver
from pyanamo_core.aws import Clients
from pyanamo_core.clock import SystemClock
from pyanamo_core.cost.pace import Pace, learnt_pace
from pyanamo_core.cost.work import seen_nests
from pyanamo_core.driver import Outcome, Patience, Progress
from pyanamo_core.fleet.canary import choose, standing
from pyanamo_core.fleet.plan import Pilots
from pyanamo_core.fleet.spending import pilot_seconds, spending
from pyanamo_core.fleet.tally import ChosenTally
from pyanamo_core.model import NestStatus, Run, VcpuHour
from pyanamo_core.protocols import Clock, Ledger
from pyanamo_core.workflow import Workflow

if TYPE_CHECKING:
    from pyanamo_core.sheet import Sheet


@dataclass(frozen=True)
class Measured:
    """What a canary took.

    Attributes:
        items: its items; `done` and `failed` of them.
        nests: that were done, in `nest_seconds` each on average, `shortest` to `longest`.
        pilots: that worked; `vcpu_hours` of them from their starts to their ends, or last beats.
        dollars: of these, least and most; None: the run's row holds no prices.
    """

    run_id: str
    items: tuple[str, ...]
    done: int
    failed: int
    nests: int
    nest_seconds: float
    shortest: float
    longest: float
    pilots: int
    vcpu_hours: float
    dollars: tuple[float, float] | None


def run_first(
    clients: Clients,
    workflow: Workflow,
    count: int,
    *,
    sheet: Sheet | None = None,
    update: bool = False,
    pilots: int | None = None,
    max_failures: int | None = None,
    max_dollars: float | None = None,
    vcpu_hour: VcpuHour | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_import: Callable[[int, int], None] | None = None,
    on_begin: Callable[[Run], None] | None = None,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    patience: Patience | None = None,
) -> Outcome | None:
    """Provision, import, and run so many items of what is to do; the canary that stands already is carried on or taken.

    Args:
        sheet, update, pilots …: as of driver.run.
        on_begin: told the canary's row before anything is submitted, also of one that is carried on.

    Returns:
        How it ended; None: nothing is to do.

    Raises:
        CanaryTooBig, SheetConflict, PyAnamoError: as driver.run does.
    """
    from pyanamo_core.ledger import Ledger as DynamoLedger

    done = driver.provision(clients, workflow)
    ledger = DynamoLedger(clients, done.table, rules=workflow.rules, clock=clock)
    if sheet is not None:
        driver.import_items(ledger, sheet, workflow, update=update, on_import=on_import)
    run = standing(ledger, workflow.revision)
    if run is None:
        names = choose(ledger, count)
        if not names:
            return None
        run = driver.begin(
            ledger,
            done.version,
            workflow,
            pilots=pilots,
            max_failures=max_failures,
            max_dollars=max_dollars,
            vcpu_hour=vcpu_hour,
            only=names,
            clock=clock,
        )
    if run.ended is not None:
        return Outcome(run, ChosenTally(ledger, clock or SystemClock(), run.only).counts(), run.outcome, run.reason)
    if on_begin is not None:
        on_begin(run)
    return driver.carry_on(
        clients,
        ledger,
        run,
        on_progress=on_progress,
        stop=stop,
        environment=environment,
        clock=clock,
        patience=patience,
    )


def measured(ledger: Ledger, run: Run, workflow: Workflow) -> Measured:
    """What the items of a canary took in it, by the rows of its nests and pilots.

    Args:
        workflow: the version that it pins.
    """
    items = [ledger.item(each) for each in run.only]
    seconds = [
        nest.ended - nest.started
        for item in items
        for nest in ledger.nests(item).values()
        if nest.status is NestStatus.DONE and nest.run_id == run.run_id
    ]
    pilots = ledger.pilots(run.run_id)
    now = run.ended or run.started
    # Those that said no farewell (Spot took them) were paid for, too: at least up to their last beat.
    seen = Pilots(
        ended=tuple(record for record in pilots if record.ended is not None),
        silent=tuple(record for record in pilots if record.ended is None),
    )
    spent = spending(run, seen, vcpus=workflow.vcpus, now=now, on_demand_queue=workflow.on_demand_queue)
    return Measured(
        run_id=run.run_id,
        items=run.only,
        done=sum(item.state.value == "done" for item in items),
        failed=sum(item.state.value == "failed" for item in items),
        nests=len(seconds),
        nest_seconds=sum(seconds) / len(seconds) if seconds else 0.0,
        shortest=min(seconds, default=0.0),
        longest=max(seconds, default=0.0),
        pilots=len(pilots),
        vcpu_hours=pilot_seconds(seen, now) * workflow.vcpus / 3600,
        dollars=(spent.low, spent.high) if spent is not None else None,
    )


def pace(ledger: Ledger, run: Run, *, genomic: bool) -> Pace:
    """How long nests take, by the canary's.

    Raises:
        NothingLearnt: none of them is done.
    """
    items = [ledger.item(each) for each in run.only]
    return learnt_pace(seen_nests(ledger, items), f"canary {run.run_id[:8]}", genomic=genomic)
