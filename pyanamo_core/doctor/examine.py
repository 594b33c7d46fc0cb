"""The whole examination, in the order in which a run needs things."""

from __future__ import annotations

from pyanamo_core import driver
from pyanamo_core.doctor.case import Case
from pyanamo_core.doctor.compute import look_at_compute
from pyanamo_core.doctor.data import look_at_data
from pyanamo_core.doctor.identity import look_at_clock, look_at_identity
from pyanamo_core.doctor.image import look_at_image, look_at_logs
from pyanamo_core.doctor.lines import Line
from pyanamo_core.doctor.network import look_at_network
from pyanamo_core.doctor.prefect import look_at_prefect
from pyanamo_core.doctor.roles import look_at_roles
from pyanamo_core.doctor.tables import look_at_table
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.ledger import Ledger

RUNS: int = 3
"""Live runs that are explained."""


def examine(case: Case) -> list[Line]:
    """Look at everything that a run of this workflow needs, from here; changes nothing but for a probe object.

    Nothing is raised for what is found: each thing has its line.
    """
    chart = case.chart
    if not look_at_identity(case):
        chart.unknown("everything else", "", "nothing can be asked before that is mended")
        return chart.lines
    ledger = look_at_table(case)
    workflow = case.workflow
    if workflow is None:
        mend = "Give --table NAME or a workflow FILE."
        chart.unknown("queue, image, roles, buckets", "", "no workflow says which they are", mend)
    else:
        environments = look_at_compute(case, workflow)
        look_at_network(case, environments)
        look_at_image(case)
        look_at_roles(case, workflow, environments)
        look_at_logs(case, workflow)
        look_at_data(case, workflow, ledger)
    look_at_prefect(case)
    if ledger is not None:
        _runs(case, ledger)
    look_at_clock(case)
    return chart.lines


def _runs(case: Case, ledger: Ledger) -> None:
    """Why live runs do not go on, by the same words as `pyanamo status`."""
    with case.chart.part("runs", case.table):
        with case.asked("dynamodb", "Query"):
            runs = ledger.live_runs()
        for run in runs[:RUNS]:
            check, name = "run", run.run_id
            case.run_definition = case.run_definition or next((one.definition for one in run.submissions), "")
            try:
                with case.asked("batch", "DescribeJobs"):
                    _, pinned = ledger.workflow(run.workflow_version)
                    found = driver.explain_run(case.clients, ledger, run.run_id, pinned)
            except PyAnamoError as error:
                case.chart.told_by(check, name, error)
                continue
            for one in found:
                case.chart.warn(check, name, f"{one.subject}: {one.fact}", one.advice)
            if not found:
                case.chart.ok(check, name, "nothing keeps it")
