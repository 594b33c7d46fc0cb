"""A run from start to end in plain Python: provision, import, begin, fan out, watch, drain, cancel, recover.

    clients = Clients()
    outcome = driver.run(clients, read_workflow("workflow.yaml"), sheet=read_sheet("sheet.txt"))

The command and the flows call these functions and nothing below them. Each can be repeated: a second `provision` changes
nothing, a second `fan_out` submits nothing, `cancel` twice cancels once, and a `watch` carries on where one ended.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyanamo_core.aws import Clients, code_of, explain, is_aws_error
from pyanamo_core.clock import SystemClock
from pyanamo_core.cost.estimate import SCRATCH_GB
from pyanamo_core.cost.prices import HOURS_A_MONTH, Prices, price_list
from pyanamo_core.errors import (
    AccessDenied,
    AwsMissing,
    BucketMissing,
    PyAnamoError,
    RunConflict,
    RunMissing,
    SheetConflict,
)
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.cancel import CANCEL_WAIT_SECONDS, cancel
from pyanamo_core.fleet.explain import Finding, findings, observe
from pyanamo_core.fleet.progress import Outcome, Progress
from pyanamo_core.fleet.recover import RecoverReport, recover
from pyanamo_core.fleet.submit import Patience
from pyanamo_core.fleet.watch import Watch
from pyanamo_core.model import Limits, Mode, Run, VcpuHour
from pyanamo_core.protocols import Clock, Ledger
from pyanamo_core.revision import check_version
from pyanamo_core.scripts import publish_scripts
from pyanamo_core.workflow import Workflow

if TYPE_CHECKING:
    from pyanamo_core.importer import ImportReport
    from pyanamo_core.sheet import Sheet

__all__ = [
    "CANCEL_WAIT_SECONDS",
    "Finding",
    "Outcome",
    "Patience",
    "Progress",
    "Provisioned",
    "RecoverReport",
    "begin",
    "cancel",
    "carry_on",
    "drain",
    "explain_run",
    "fan_out",
    "import_items",
    "provision",
    "recover",
    "run",
    "watch",
    "watcher_name",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provisioned:
    """What `provision` found or made."""

    table: str
    created: bool
    """Was the table made now?"""
    version: int
    """Of the workflow, in the table."""


def watcher_name() -> str:
    """A name for a watcher, unique to this call: two watchers of one name would share their lease."""
    return f"{socket.gethostname()[:32]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def provision(
    clients: Clients,
    workflow: Workflow,
    *,
    deletion_protection: bool = True,
    pitr: bool = True,
    tags: Mapping[str, str] | None = None,
    new_revision: bool = False,
) -> Provisioned:
    """Check queue, job definition and buckets; then make the table where it is missing, and store the workflow in it.

    Task scripts of this machine are put beside the results first, where pilots find them.

    Args:
        deletion_protection, pitr, tags: of a table that is made now.
        new_revision: store another revision although nests of an older one are done (see `pyanamo_core.revision`).

    Raises:
        QueueMissing, QueueClosed, DefinitionMissing, BucketMissing: nothing was made.
        RevisionChanged: nests are done with other parameters, scripts or references; nothing was stored.
        RevisionPinned: so works a live run; nothing was stored.
        ForeignTable, SchemaNewer: the table is not ours to use.
    """
    from pyanamo_core.ledger import Ledger as DynamoLedger
    from pyanamo_core.ledger.table import create_table

    batch = Batch(clients)
    batch.open_queue(workflow.queue)
    batch.definition(workflow.job_definition)
    for uri in dict.fromkeys(filter(None, (workflow.buckets.results, workflow.buckets.logs))):
        _check_bucket(clients, uri)
    workflow = publish_scripts(clients, workflow)
    created = create_table(
        clients, workflow.table_name, deletion_protection=deletion_protection, pitr=pitr, tags=tags, wait=True
    )
    ledger = DynamoLedger(clients, workflow.table_name, rules=workflow.rules)
    if not created:
        check_version(ledger, workflow.revision, new_revision=new_revision)
    return Provisioned(workflow.table_name, created, ledger.add_workflow(workflow))


def _check_bucket(clients: Clients, uri: str) -> None:
    bucket = uri.removeprefix("s3://").partition("/")[0]
    try:
        clients.client("s3").head_bucket(Bucket=bucket)
    except Exception as error:
        if not is_aws_error(error):
            raise
        told = explain(error, "s3", "HeadBucket")
        if isinstance(told, AwsMissing) or code_of(error) in ("404", "NoSuchBucket"):
            raise BucketMissing(uri=uri) from error
        if isinstance(told, AccessDenied):
            # Pilots write with a role of their own; ours need not see the bucket.
            log.warning("bucket %s cannot be checked from here: %s", bucket, told)
            return
        raise told from error


def begin(
    ledger: Ledger,
    version: int,
    workflow: Workflow,
    *,
    run_id: str | None = None,
    pilots: int | None = None,
    flow_run_id: str = "",
    prefect_api_url: str = "",
    prefect_detail: str = "auto",
    max_failures: int | None = None,
    max_dollars: float | None = None,
    vcpu_hour: VcpuHour | None = None,
    only: Sequence[str] = (),
    clock: Clock | None = None,
) -> Run:
    """Store a new run, or give back the one of this id that is live already.

    Args:
        version: of the workflow in the table, pinned by the run.
        run_id: a flow run's id; None makes a UUID.
        pilots, max_failures, max_dollars: None takes the workflow's.
        vcpu_hour: what a vCPU costs; None takes the built-in prices of us-east-1.
        only: item ids of a canary; its pilots claim no others.
        prefect_api_url: the address that pilots use; empty: they do without Prefect.

    Raises:
        RunConflict: the run has ended or has other content, or another live run pins another revision.
    """
    standing = _standing(ledger, run_id) if run_id else None
    if standing is not None and standing.ended is not None:
        raise RunConflict(run_id=standing.run_id, reason=f"it has ended ({standing.outcome}); begin a new one")
    limits = Limits(
        max_failures=max_failures if max_failures is not None else workflow.budgets.max_failures,
        max_pilots=pilots if pilots is not None else workflow.pilots,
        items_per_pilot=workflow.items,
    )
    if standing is not None and pilots is None and max_failures is None:
        limits = standing.limits
    dollars = max_dollars if max_dollars is not None else workflow.budgets.max_dollars
    if standing is not None:
        dollars, only = standing.max_dollars if max_dollars is None else dollars, only or standing.only
    return ledger.begin_run(
        Run(
            run_id=run_id or str(uuid.uuid4()),
            workflow_version=version,
            revision=workflow.revision,
            token=_token(workflow.name),
            limits=limits,
            max_dollars=dollars,
            vcpu_hour=vcpu_hour or vcpu_hour_of(price_list()),
            only=tuple(only),
            started=(clock or SystemClock()).now(),
            prefect_api_url=prefect_api_url,
            flow_run_id=flow_run_id,
            prefect_detail=prefect_detail,
        )
    )


def vcpu_hour_of(prices: Prices) -> VcpuHour:
    """What a run's row needs of a list of prices.

    Spot costs as much as on demand at most; less only where the user's own prices say what Spot costs.
    """
    spot, on_demand = prices.spot_vcpu_hour.dollars, prices.on_demand_vcpu_hour.dollars
    most = max(on_demand.high, *prices.own_instances.values(), spot.high)
    own = prices.own & {"spot_vcpu_hour", "spot_share", "on_demand_vcpu_hour"}
    factor = (0.0, 0.0) if own or prices.own_instances else (prices.factor.low, prices.factor.high)
    an_hour = prices.scratch_gb_month.dollars * (SCRATCH_GB / HOURS_A_MONTH) + prices.address_hour.dollars
    return VcpuHour(
        spot=(spot.low, spot.high if own & {"spot_vcpu_hour", "spot_share"} else most),
        on_demand=(on_demand.low, most if prices.own_instances else on_demand.high),
        factor=factor,
        machine=(round(an_hour.low, 6), round(an_hour.high, 6)),
    )


def _standing(ledger: Ledger, run_id: str) -> Run | None:
    try:
        return ledger.run(run_id)
    except RunMissing:
        return None


def begin_or_join(ledger: Ledger, version: int, workflow: Workflow, *, run_id: str, **how: Any) -> Run:
    """Store a new run of this id, or give back the one that stands, whatever its limits, live or ended.

    For those who may begin the same run in one moment: one of them begins it, the others look on. Else as `begin`.
    """
    try:
        return begin(ledger, version, workflow, run_id=run_id, **how)
    except RunConflict:
        standing = _standing(ledger, run_id)
        if standing is None:
            raise
        return standing


def _token(name: str) -> str:
    """Prefix of a run's job names: Batch takes letters, digits, `-` and `_`, and its filter by name ignores case."""
    told = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60].lstrip("-_")
    return f"{told or 'pyanamo'}-{uuid.uuid4().hex[:12]}"


def fan_out(
    clients: Clients,
    ledger: Ledger,
    run: Run,
    workflow: Workflow,
    *,
    watcher: str,
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    patience: Patience | None = None,
) -> Run:
    """Submit the run's pilots, as many as its items ask for and its limit allows; those that live count, so that a
    second call submits nothing. A run that was cancelled or drained submits nothing.

    Args:
        watcher: see `watcher_name`.
        environment: overrides for the pilots.

    Raises:
        SubmitRefused, DefinitionMissing, OverridesTooBig: nothing was submitted, and why.
    """
    one = Watch(
        clients,
        ledger,
        run.run_id,
        workflow,
        watcher=watcher,
        clock=clock,
        environment=environment,
        patience=patience,
    )
    return one.fan_out()


def watch(
    clients: Clients,
    ledger: Ledger,
    run_id: str,
    workflow: Workflow,
    *,
    watcher: str,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    patience: Patience | None = None,
) -> Outcome:
    """Watch a run to its end: top up, take back, stop, end. Several may watch; one acts, the others look on.

    Args:
        workflow: the version that the run pins.
        watcher: see `watcher_name`.
        on_progress: called at each poll.
        stop: set from elsewhere, it ends the watch and not the run; the outcome is then "".

    Raises:
        RunMissing: there is no such run.
        PyAnamoError: credentials, permissions, or the ledger silent for 15 minutes; the run goes on.
    """
    one = Watch(
        clients,
        ledger,
        run_id,
        workflow,
        watcher=watcher,
        clock=clock,
        environment=environment,
        patience=patience,
        on_progress=on_progress,
        stop=stop,
    )
    return one.until_end()


def drain(ledger: Ledger, run_id: str, reason: str = "", *, finish: bool = False) -> Run:
    """Let the run's pilots claim no more and hand back what they hold, within a beat. Its watcher ends it when they left.

    Args:
        finish: they first finish the items that they hold, however long that takes.

    Raises:
        RunMissing, RunConflict: there is no such run, it has ended, or it was cancelled.
    """
    standing = ledger.run(run_id)
    if standing.ended is not None:
        raise RunConflict(run_id=run_id, reason=f"it has ended ({standing.outcome})")
    return ledger.set_mode(run_id, Mode.DRAIN, reason, hand_back=not finish)


def explain_run(
    clients: Clients, ledger: Ledger, run_id: str, workflow: Workflow, *, clock: Clock | None = None
) -> list[Finding]:
    """Why a run does not go on, the gravest first; empty if nothing keeps it."""
    return findings(observe(Batch(clients), ledger, ledger.run(run_id), workflow, clock=clock))


def run(
    clients: Clients,
    workflow: Workflow,
    *,
    sheet: Sheet | None = None,
    update: bool = False,
    run_id: str | None = None,
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
) -> Outcome:
    """Everything: provision, import, begin, fan out, watch.

    Args:
        sheet: as `sheet.read_sheet` gives it; None runs what the table holds.
        update: edit items that stand with another definition, instead of refusing the sheet.
        run_id: of a run that is live already: it is resumed.
        max_dollars, vcpu_hour: as of `begin`.
        on_import: told (items so far, items of the sheet).
        on_begin: told the run's row before anything is submitted.

    Raises:
        SheetConflict: items stand with another definition; nothing was submitted.
        PyAnamoError: as the parts raise them. A run whose first submission is refused is ended as `stopped`.
    """
    from pyanamo_core.ledger import Ledger as DynamoLedger

    done = provision(clients, workflow)
    ledger = DynamoLedger(clients, done.table, rules=workflow.rules, clock=clock)
    if sheet is not None:
        import_items(ledger, sheet, workflow, update=update, on_import=on_import)
    begun = begin(
        ledger,
        done.version,
        workflow,
        run_id=run_id,
        pilots=pilots,
        max_failures=max_failures,
        max_dollars=max_dollars,
        vcpu_hour=vcpu_hour,
        clock=clock,
    )
    if on_begin is not None:
        on_begin(begun)
    return carry_on(
        clients,
        ledger,
        begun,
        workflow,
        on_progress=on_progress,
        stop=stop,
        environment=environment,
        clock=clock,
        patience=patience,
    )


def carry_on(
    clients: Clients,
    ledger: Ledger,
    run: Run,
    workflow: Workflow | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    patience: Patience | None = None,
) -> Outcome:
    """Fan a run out that stands in the table, and watch it to its end; what has been submitted is not submitted again.

    Args:
        workflow: the version that the run pins; None reads it.

    Raises:
        PyAnamoError: as `fan_out` and `watch`. A run whose first submission is refused is ended as `stopped`.
    """
    pinned = workflow or ledger.workflow(run.workflow_version)[1]
    watcher = watcher_name()
    try:
        fan_out(
            clients,
            ledger,
            run,
            pinned,
            watcher=watcher,
            environment=environment,
            clock=clock,
            patience=patience,
        )
    except PyAnamoError as error:
        if all(each.outcome == "failed" for each in ledger.run(run.run_id).submissions):
            ledger.end_run(run.run_id, "stopped", str(error))
        raise
    return watch(
        clients,
        ledger,
        run.run_id,
        pinned,
        watcher=watcher,
        on_progress=on_progress,
        stop=stop,
        environment=environment,
        clock=clock,
        patience=patience,
    )


def import_items(
    ledger: Ledger,
    sheet: Sheet,
    workflow: Workflow,
    *,
    update: bool = False,
    on_import: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Import a whole sheet, or refuse it.

    Raises:
        SheetConflict: items stand with another definition and were left alone; the others were imported.
    """
    from pyanamo_core.importer import import_sheet

    report = import_sheet(ledger, sheet, update=update, progress=on_import, revision=workflow.revision)
    if report.conflicts:
        raise SheetConflict(
            count=report.conflicts,
            path=sheet.path,
            table=ledger.table,
            example=report.shown_conflicts[0].item_id,
        )
    return report
