"""`pyanamo doctor`: is everything there that a run needs, and if not, how is it mended?"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.settings import WORKFLOW_FILE

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from pyanamo_core.aws import Clients
    from pyanamo_core.doctor import Case, Line
    from pyanamo_core.workflow import Workflow

WRONG = 8
"""Exit code: something is wrong."""
TRIES, READ_SECONDS = 2, 5.0
"""A person waits: a service that is silent is given up soon."""
SIGNS = {"ok": "ok", "warning": "warning", "wrong": "WRONG", "not checked": "not checked"}


class TwoPlaces(PyAnamoError):
    """--inside looks from here as a pilot would, --as-job has a job do that: give one of them."""

    exit_code = 2


@dataclass(frozen=True)
class Examined:
    """What the doctor found."""

    table: str
    ok: bool
    """Nothing is wrong; what was not checked may be."""
    counts: dict[str, int]
    lines: list[Line]


@command(
    example=(
        "pyanamo doctor",
        "pyanamo doctor workflow.yaml --reads s3://1000genomes/…/NA12878.final.cram",
        "pyanamo doctor --as-job",
        "pyanamo doctor --table HaplotypeCaller --json",
    )
)
def doctor(
    context: Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help=f"A workflow file, for before its table is made; default: {WORKFLOW_FILE} here, if any.",
        ),
    ] = None,
    reads: Annotated[
        str,
        typer.Option("--reads", metavar="S3_URI", help="Reads to try; default: those that the first item names."),
    ] = "",
    no_write: Annotated[
        bool, typer.Option("--no-write", help="Write no probe object into the bucket of results.")
    ] = False,
    as_job: Annotated[
        bool,
        typer.Option(
            "--as-job",
            help="Then also submit one plain job of the run's definition that looks from inside, under the job role;"
            " costs what a pilot's start costs.",
        ),
    ] = False,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=1, help="With --as-job: for its start and end.")
    ] = 900.0,
    inside: Annotated[
        bool, typer.Option("--inside", help="Look as a pilot would: for the container that this runs in.")
    ] = False,
) -> Told:
    """Check all that a run needs, from here: each thing is ok, or wrong and how to mend it, or was not checked and why.

    Credentials, region, clock; the table, its index, and what you may do with it; queue, compute environments, network,
    quota, job definition, image, roles, log groups; the buckets (one small object is written, read and deleted again);
    a range of one CRAM and its index; references and task scripts; Prefect's API; live runs. Nothing else is changed.

    Inside a container (`docker run IMAGE pyanamo doctor --inside`, or --as-job): whose keys it has, scratch, memory, the
    caller's version, and the same reads and writes with the job role.

    Exit code 8: something is wrong.
    """
    from pyanamo_core.doctor import Case, Chart, examine, examine_as_job, examine_inside

    if inside and as_job:
        raise TwoPlaces
    workflow = _workflow(context, file)
    chart = Chart(on_line=_printer(context, inside=inside))
    case = Case(
        clients=_clients(context),
        table=context.settings.table or (workflow.table_name if workflow else ""),
        chart=chart,
        workflow=workflow,
        environ=context.environ,
        region_source=_region_source(context),
        reads=reads,
        inside=inside,
        write=not no_write,
        prefect_api_url=context.settings.prefect_api_url,
    )
    lines = examine_inside(case) if inside else examine(case)
    if as_job:
        if case.workflow is None or not case.table or chart.said("workflow") in (None, "wrong"):
            chart.unknown("job", "", "a job needs a table with a workflow", "Make it: pyanamo workflow create FILE")
        else:
            examine_as_job(case, case.workflow, wait_seconds=wait, say=context.say)
    return _told(context, case, lines)


def _clients(context: Context) -> Clients:
    from pyanamo_core.aws import Clients

    return Clients(endpoint_url=context.endpoint_url, region=context.region, read_seconds=READ_SECONDS, tries=TRIES)


def _workflow(context: Context, file: Path | None) -> Workflow | None:
    """The file's workflow. One that was named must be good; one that merely lies here may be another's."""
    from pyanamo_core.workflow_file import read_workflow

    if file is not None:
        return read_workflow(file)
    here = context.folder / WORKFLOW_FILE
    if not here.is_file():
        return None
    try:
        found = read_workflow(here)
    except PyAnamoError as error:
        context.say(str(error))
        return None
    return found if context.table in (None, found.table_name) else None


def _region_source(context: Context) -> str:
    source = context.settings.source("region")
    return "" if source == "default" else source


def _printer(context: Context, *, inside: bool) -> Callable[[Line], None]:
    """Prints lines for people as they come: a silent service takes seconds, and nobody should wonder."""

    def show(line: Line) -> None:
        if context.for_people:
            sys.stdout.write(as_text(line, place=not inside) + "\n")
            sys.stdout.flush()

    return show


def as_text(line: Line, *, place: bool = True) -> str:
    """A line for people, with what to do below it; `place`: say where it was seen, if not here."""
    subject = f" {line.subject}" if line.subject else ""
    where = "" if line.where == "here" or not place else f"[{line.where}] "
    told = f"{SIGNS[line.state]:<12} {where}{line.check}{subject}: {line.fact}"
    return told + (f"\n{'':<12}   → {line.mend}" if line.mend else "")


def _told(context: Context, case: Case, lines: list[Line]) -> Told:
    counts = {str(state): sum(line.state == state for line in lines) for state in SIGNS}
    wrong = [line for line in lines if line.state == "wrong"]
    found = Examined(case.table, not wrong, counts, lines)
    after = "pyanamo run" if not wrong and case.workflow else "mend what is wrong, then: pyanamo doctor"
    return Told(
        found,
        view=_view,
        quiet=[f"{line.check} {line.subject}".strip() for line in wrong],
        next=after,
        exit_code=WRONG if wrong else 0,
    )


def _view(found: Examined) -> RenderableType:
    told = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    return f"\n{told}"
