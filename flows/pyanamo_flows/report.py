"""The flow `report`: a run's summary as an artifact, and the HTML report beside the results."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.runtime import flow_run as own

from pyanamo_core.aws import Clients, explained
from pyanamo_core.cost.prices import Prices, price_list
from pyanamo_core.cost.spent import in_words, of_run
from pyanamo_core.errors import ExtraMissing, PyAnamoError
from pyanamo_core.ledger import open_ledger
from pyanamo_core.model import Item, Run, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.report.html import ReportData
from pyanamo_core.report.losses import Losses
from pyanamo_core.workflow import Workflow
from pyanamo_flows import publish
from pyanamo_flows.parameters import Aws

SHOWN_FAILED = 50


@flow(name="report", persist_result=False)
def report(table: str, run_id: str = "", html: bool = True, aws: Aws = Aws()) -> str:  # noqa: B008 - Prefect's form needs it
    """Sum a run up: outcome, states, failed items with their causes, where things lie.

    Args:
        table: Name of the table.
        run_id: Id of the run; empty: the newest.
        html: Put an HTML report beside the results, too.
        aws: Which AWS to talk to.

    Returns:
        The summary in Markdown.
    """
    log = get_run_logger()
    clients = aws.clients()
    ledger, _, _ = open_ledger(clients, table)
    run = ledger.run(run_id) if run_id else newest(ledger)
    if run is None:
        log.info("Table %s has no run yet", table)
        return ""
    _, workflow = ledger.workflow(run.workflow_version)
    links = {"results": f"{workflow.buckets.results}/{table}/"}
    lost, quality = Losses(), None
    if html:
        try:
            links["HTML report"], data = put_html(clients, ledger, run, workflow)
            lost, quality = data.losses, data.quality
        except (ExtraMissing, PyAnamoError) as missing:
            log.warning("No HTML report: %s", missing)
    failed, more = failed_items(ledger)
    cost = cost_of(clients, ledger, run, log)
    text = publish.summary(run, ledger.counts(), table, failed, more, links, lost, quality, cost)
    guard = publish.Guard("the summary")
    flow_run_id = UUID(str(own.id)) if own.id else None
    guard(publish.put_artifact, {}, publish.key(table, "summary"), "markdown", text, f"Run `{run.run_id}`", flow_run_id)
    return text


def newest(ledger: Ledger) -> Run | None:
    """The run that began last."""
    return max(ledger.runs(), key=lambda run: run.started, default=None)


def failed_items(ledger: Ledger, shown: int = SHOWN_FAILED) -> tuple[list[Item], int]:
    """The first failed items, and how many more there are."""
    first = list(itertools.islice(ledger.items(State.FAILED), shown))
    return first, max(0, ledger.count(State.FAILED) - len(first)) if len(first) == shown else 0


def prices_of(clients: Clients) -> Prices:
    """Prices of the region; those of the file that PYANAMO_PRICES names go before.

    Raises:
        PricesInvalid.
    """
    return price_list(clients.region or "", os.environ.get("PYANAMO_PRICES"))


def cost_of(clients: Clients, ledger: Ledger, run: Run, log: Any) -> str:
    """What the run has cost, in a line; nothing where no pilot came, or the prices cannot be read."""
    try:
        told = of_run(ledger, run, prices_of(clients), now=time.time())
    except PyAnamoError as error:
        log.warning("What it cost is not told: %s", error)
        return ""
    return in_words(told) if told.pilots else ""


def put_html(clients: Clients, ledger: Ledger, run: Run, workflow: Workflow) -> tuple[str, ReportData]:
    """Write the HTML report, and put it to `<results>/<table>/results/run-<id>.html`.

    Returns:
        Its address, and what it shows.

    Raises:
        ExtraMissing: Jinja2 is not installed. PyAnamoError: the bucket refused it.
    """
    from pyanamo_core.report import write_report
    from pyanamo_core.report.results import s3_fetch

    bucket, _, prefix = workflow.buckets.results.removeprefix("s3://").partition("/")
    key = "/".join(part for part in (prefix, workflow.table_name, "results", f"run-{run.run_id}.html") if part)
    with tempfile.TemporaryDirectory(prefix="pyanamo-") as folder:
        path = Path(folder) / "report.html"
        data = write_report(ledger, path, run_id=run.run_id, fetch=s3_fetch(clients), prices=prices_of(clients))
        with explained("s3", "PutObject"):
            clients.client("s3").put_object(
                Bucket=bucket, Key=key, Body=path.read_bytes(), ContentType="text/html; charset=utf-8"
            )
    return f"s3://{bucket}/{key}", data
