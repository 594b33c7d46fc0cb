"""The report of a cohort: the call's HTML report with its steps and its VCF on top, beside the results."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyanamo_core.aws import Clients, explained
from pyanamo_core.chain.costs import step_costs
from pyanamo_core.cost.prices import Prices, price_list
from pyanamo_core.cost.ranges import dollars, total
from pyanamo_core.model import State
from pyanamo_core.protocols import Ledger
from pyanamo_core.report import Section, write_report
from pyanamo_core.report.results import results, s3_fetch
from pyanamo_core.report.timeline import duration
from pyanamo_core.workflow import Workflow


def report_uri(workflow: Workflow) -> str:
    """`<results>/<table>/results/cohort.html`."""
    return f"{workflow.buckets.results}/{workflow.table_name}/results/cohort.html"


def put_report(clients: Clients, call: Workflow, others: Sequence[Workflow]) -> str:
    """Write the report and put it beside the results; gives its address.

    Raises:
        ExtraMissing: Jinja2 is not installed. PyAnamoError: the bucket refused it.
    """
    from pyanamo_core.ledger import open_ledger

    uri = report_uri(call)
    fetch = s3_fetch(clients)
    ledgers = [open_ledger(clients, one.table_name)[0] for one in (call, *others)]
    prices = price_list(clients.region or "", os.environ.get("PYANAMO_PRICES"))
    sections = [steps(ledgers, prices, time.time()), *_vcf(ledgers[-1], fetch)]
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with tempfile.TemporaryDirectory(prefix="pyanamo-") as folder:
        path = Path(folder) / "cohort.html"
        write_report(ledgers[0], path, title=f"Cohort of {call.table_name}", fetch=fetch, sections=sections)
        with explained("s3", f"writing {uri}"):
            clients.client("s3").put_object(
                Bucket=bucket, Key=key, Body=path.read_bytes(), ContentType="text/html; charset=utf-8"
            )
    return uri


def steps(ledgers: Sequence[Ledger], prices: Prices, now: float) -> Section:
    """A line for each step's table: items, runs, hours, and what its pilots have cost (of the last 30 days)."""
    told = step_costs({ledger.table: ledger for ledger in ledgers}, prices, now)
    rows = [
        (
            one.table,
            f"{one.items_done:,} of {one.items:,}",
            str(one.runs),
            duration(one.seconds),
            f"{one.vcpu_seconds / 3600:,.2f}",
            dollars(one.dollars),
        )
        for one in told
    ]
    rows.append(("in all", "", "", "", "", dollars(total(one.dollars for one in told))))
    columns = ("table", "items done", "runs", "from their starts to their ends", "vCPU hours", "cost, list prices")
    return Section("Steps of the cohort", columns, tuple(rows))


def _vcf(ledger: Ledger, fetch: Any) -> list[Section]:
    done = [item for item in ledger.items(State.DONE) if item.item_id == "cohort"]
    rows: list[tuple[str, ...]] = []
    for one in results(ledger, done, fetch=fetch):
        rows += [(output.uri, f"{output.bytes:,}") for output in one.outputs]
        rows += [(str(name), str(value)) for name, value in one.figures.items() if isinstance(value, int | float | str)]
    return [Section("The cohort's VCF", ("file or figure", "bytes or value"), tuple(rows))] if rows else []
