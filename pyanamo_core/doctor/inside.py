"""What only the container can tell: whose keys it has, where it may write, what is installed, what its role may do."""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path
from typing import Any

from pyanamo_core.doctor.case import Case
from pyanamo_core.doctor.data import look_at_data
from pyanamo_core.doctor.identity import look_at_clock, look_at_identity
from pyanamo_core.doctor.lines import IAM_PAGE, Line
from pyanamo_core.doctor.prefect import look_at_prefect
from pyanamo_core.doctor.tables import look_at_table
from pyanamo_core.errors import AccessDenied, AwsMissing, PyAnamoError
from pyanamo_core.pilot.drain import metadata_of
from pyanamo_core.pilot.host import Instance, instance_of, own_version
from pyanamo_core.pilot.options import PilotOptions
from pyanamo_core.pilot.vitals import container_memory_mb, free_mb, memory_mb, short_of_disk
from pyanamo_core.workflow import Workflow


def examine_inside(case: Case) -> list[Line]:
    """Look at what a pilot would find here, with the keys that it would have; changes nothing but for probes.

    Nothing is raised for what is found: each thing has its line.
    """
    chart = case.chart
    chart.where = "container"
    _program(case)
    _metadata(case)
    if not look_at_identity(case):
        _room(case, None)
        chart.unknown("everything else", "", "nothing can be asked before that is mended")
        return chart.lines
    if case.clients.source_of_credentials == "iam-role":
        mend = f"Name a job role in the definition: {IAM_PAGE}."
        chart.warn("keys", "", "they are those of the machine, not of a job role", mend)
    ledger = look_at_table(case)
    workflow = case.workflow
    _room(case, workflow)
    if workflow is not None:
        _caller(case, workflow)
        _log_rights(case, workflow)
        look_at_data(case, workflow, ledger)
    look_at_prefect(case)
    look_at_clock(case)
    return chart.lines


def _program(case: Case) -> None:
    version = sys.version_info
    fact = f"Python {version.major}.{version.minor}.{version.micro}, user {os.getuid()}"
    case.chart.ok("PyAnamo", own_version(), fact)


def _metadata(case: Case) -> None:
    chart, check = case.chart, "instance metadata"
    service = metadata_of(case.environ)
    if service is None:
        chart.unknown(check, "", "this is no container of ECS on EC2: Spot notices are not asked for")
        return
    found = instance_of(service, Instance(""))
    if found.host:
        chart.ok(check, found.host, ", ".join(part for part in (found.kind, found.lifecycle) if part) or "it answers")
    else:
        mend = "Let the launch template give HttpPutResponseHopLimit 2 and HttpEndpoint enabled (pyanamo deploy does)."
        chart.warn(check, "", "it does not answer: a pilot sees no Spot notice, and loses what it runs then", mend)


def _room(case: Case, workflow: Workflow | None) -> None:
    """Disk and memory."""
    chart = case.chart
    try:
        options = PilotOptions.from_environment({**case.environ, "PYANAMO_TABLE": case.table or "none"})
        scratch = options.scratch_root
        if workflow is not None:
            case.results = options.results_prefix(workflow)
    except PyAnamoError as error:
        chart.wrong("settings", "", str(error), "Correct that variable in the job definition.")
        return
    except OSError as error:
        chart.wrong("scratch", "", f"there is no folder for temporary files ({error})", "Set PYANAMO_SCRATCH.")
        return
    least = workflow.min_free_disk_mb if workflow else 0
    fault = unwritable(scratch)
    free = free_mb(scratch)
    if fault:
        mend = "Mount a volume of the host there with mode 1777, or name another folder as PYANAMO_SCRATCH."
        chart.wrong("scratch", str(scratch), f"user {os.getuid()} cannot write there: {fault}", mend)
    elif short := short_of_disk(scratch, free, least):
        chart.wrong("scratch", str(scratch), short, "Give the hosts a bigger volume: pyanamo deploy --set ScratchGb=N")
    else:
        chart.ok("scratch", str(scratch), f"it can be written; {free or 0:,} MB are free")
    if workflow is None:
        return
    has = container_memory_mb(workflow.memory_mb)
    limit = memory_mb()[1]
    told = f"{limit:,} MB" if limit is not None else "no limit of its own"
    if has < workflow.memory_mb * 0.95:
        mend = "Raise the definition's memory (pyanamo deploy), or lower memory_mb in the workflow file."
        fact = f"the container has {has:,} MB, the workflow file says {workflow.memory_mb:,}"
        chart.warn("memory", "", fact, mend)
    else:
        chart.ok("memory", "", f"{told}; {has // workflow.slots:,} MB for each of {workflow.slots} slots")


def unwritable(folder: Path) -> str:
    """Why this process cannot make and remove a file below a folder; "" if it can. The folder is made if it is missing."""
    probe = folder / f".doctor-{uuid.uuid4().hex}"
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
        if made:
            folder.rmdir()
    except OSError as error:
        return f"{error.strerror or error}"
    return ""


def _caller(case: Case, workflow: Workflow) -> None:
    """The caller of the packaged task scripts, where the workflow uses them."""
    if not any(name.startswith("HC_") for name in workflow.parameters) and workflow.scripts:
        return
    chart, check = case.chart, "caller"
    from pyanamo_core.genomics.callers import caller_version
    from pyanamo_core.genomics.parameters import Parameters

    plain = {name: value for name, value in workflow.parameters.items() if name == "HC_CALLER"}
    try:
        parameters = Parameters.from_environ(plain)
        found = caller_version(parameters)
    except PyAnamoError as error:
        chart.wrong(check, plain.get("HC_CALLER", "gatk"), str(error), "Build the image with it (docs/image.md).")
        return
    if workflow.caller_version and found != workflow.caller_version:
        mend = f"Renew the image, or pin {found}: pyanamo workflow create FILE --new-revision"
        chart.wrong(check, parameters.caller, f"it is {found}, the workflow pins {workflow.caller_version}", mend)
    else:
        chart.ok(check, parameters.caller, f"version {found}" + (", as pinned" if workflow.caller_version else ""))


def _log_rights(case: Case, workflow: Workflow) -> None:
    """May nests' logs be written? By an event for a stream that is not there: permissions are judged first."""
    if workflow.logs != "auto":
        return
    chart, check, group = case.chart, "log rights", workflow.log_group
    event: dict[str, Any] = {"timestamp": int(case.now() * 1000), "message": "x"}
    try:
        case.ask("logs", "PutLogEvents", logGroupName=group, logStreamName=f"doctor/{uuid.uuid4()}", logEvents=[event])
    except AwsMissing as error:
        if "log group" in str(error.facts.get("reason", "")).lower():
            mend = f"aws logs create-log-group --log-group-name {group}"
            fact = "the group does not exist: logs of nests are lost unless the role may make it"
            chart.warn(check, group, fact, mend)
        else:
            chart.ok(check, group, "PutLogEvents is allowed")
    except AccessDenied as error:
        mend = f"Allow logs:CreateLogStream and logs:PutLogEvents on it: {IAM_PAGE}."
        chart.wrong(check, group, f"AWS refused PutLogEvents: {error.facts.get('reason')}", mend)
    except PyAnamoError as error:
        chart.told_by(check, group, error)
