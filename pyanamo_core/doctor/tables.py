"""The ledger's table, its index, what this identity may do with it, and the workflow that it holds."""

from __future__ import annotations

from typing import Any

from pyanamo_core.doctor.case import Case
from pyanamo_core.doctor.lines import State
from pyanamo_core.errors import EndpointDown, PyAnamoError, TableMissing, WorkflowMissing
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.probe import probe_rights
from pyanamo_core.ledger.table import why_foreign
from pyanamo_core.workflow import Workflow

CREATE = "Create it with: pyanamo workflow create FILE"


def look_at_table(case: Case) -> Ledger | None:
    """Table, index, rights and workflow; the ledger if it can be read."""
    chart = case.chart
    if not case.table:
        chart.unknown("table", "", "none is named", "Give --table NAME, or go to the folder of your workflow.yaml.")
        return None
    if not _table(case):
        return None
    _rights(case)
    if chart.said("table rights") is State.WRONG:
        return None
    return _workflow(case)


def _table(case: Case) -> bool:
    chart, name = case.chart, case.table
    try:
        told: dict[str, Any] = case.ask("dynamodb", "DescribeTable", TableName=name)["Table"]
    except PyAnamoError as error:
        if error.exit_code == TableMissing.exit_code:
            chart.wrong(
                "table",
                name,
                f"it does not exist in {case.region}, account {case.account}",
                f"{CREATE}, or correct its name or the region.",
            )
        else:
            chart.told_by("table", name, error)
        return False
    if told["TableStatus"] not in ("ACTIVE", "UPDATING"):
        chart.wrong("table", name, f"it is {told['TableStatus']}", "Wait until it is ACTIVE.")
        return False
    if told.get("SSEDescription", {}).get("InaccessibleEncryptionDateTime"):
        chart.wrong("table", name, "its key in KMS cannot be used", "Enable that key, or give it back its policy.")
        return False
    if reason := why_foreign(told):
        mend = "Choose another table, or delete this one and make it again: pyanamo workflow create FILE"
        chart.wrong("index" if "index" in reason else "table", name, f"it is no ledger: {reason}", mend)
        return False
    billing = told.get("BillingModeSummary", {}).get("BillingMode", "PROVISIONED")
    protected = (
        "protected against deletion" if told.get("DeletionProtectionEnabled") else "not protected against deletion"
    )
    kind = "on-demand capacity" if billing == "PAY_PER_REQUEST" else "provisioned capacity"
    chart.ok("table", name, f"{told['TableStatus']}, {kind}, {protected}")
    index = next(one for one in told["GlobalSecondaryIndexes"] if one["IndexName"] == x.INDEX)
    status = index.get("IndexStatus", "ACTIVE")
    if status == "ACTIVE":
        chart.ok("index", x.INDEX, "ACTIVE")
    else:
        chart.wrong("index", x.INDEX, f"it is {status}", "Wait until it is ACTIVE: no pilot finds an item without it.")
    if not case.inside:  # a pilot has nothing to do with it, and may not ask
        _expiry(case)
    return True


def _expiry(case: Case) -> None:
    with case.chart.part("table expiry", case.table, needed=False):
        told = case.ask("dynamodb", "DescribeTimeToLive", TableName=case.table)["TimeToLiveDescription"]
        if told.get("TimeToLiveStatus") in ("ENABLED", "ENABLING") and told.get("AttributeName") == x.EXPIRES:
            case.chart.ok("table expiry", x.EXPIRES, "rows of old logs and attempts go by themselves")
        else:
            mend = (
                f"aws dynamodb update-time-to-live --table-name {case.table} "
                f"--time-to-live-specification Enabled=true,AttributeName={x.EXPIRES}"
            )
            case.chart.warn("table expiry", x.EXPIRES, "it is off: rows of old logs and attempts stay, and cost", mend)


def _rights(case: Case) -> None:
    """Reads and writes by calls that change nothing."""
    found = probe_rights(case.clients, case.table)
    refused = {operation: error for operation, error in found.items() if error is not None}
    for operation, error in refused.items():
        case.chart.told_by("table rights", operation, error)
        if isinstance(error, EndpointDown):
            return
    if not refused:
        case.chart.ok("table rights", case.table, f"{', '.join(found)} are allowed")


def _workflow(case: Case) -> Ledger | None:
    chart = case.chart
    from_file = case.workflow
    try:
        with case.asked("dynamodb", "Query"):
            ledger, version, workflow = open_ledger(case.clients, case.table)
    except WorkflowMissing:
        chart.wrong("workflow", case.table, "the table holds none", CREATE)
        return None
    except PyAnamoError as error:
        chart.told_by("workflow", case.table, error)
        return None
    case.workflow = workflow
    fact = f"version {version}, revision {workflow.revision}"
    if from_file is not None and (differing := differences(from_file, workflow)):
        mend = "If the file is what you mean, store it: pyanamo workflow create FILE"
        chart.warn("workflow", workflow.name, f"{fact}; the file here differs in {', '.join(differing)}", mend)
    else:
        chart.ok("workflow", workflow.name, fact)
    return ledger


def differences(one: Workflow, other: Workflow) -> list[str]:
    """Fields in which two workflows differ, but for those that `workflow create` fills in."""
    filled = {"scripts", "scripts_sha256", "table"}
    return [name for name in Workflow.model_fields if name not in filled and getattr(one, name) != getattr(other, name)]
