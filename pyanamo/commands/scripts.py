"""`pyanamo scripts …`: task scripts as an archive, on this machine and where pilots fetch it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told, fields, size, table, when
from pyanamo_core.errors import BadInput
from pyanamo_core.settings import WORKFLOW_FILE

if TYPE_CHECKING:
    from rich.console import RenderableType

PLACE = Annotated[
    Path | None, typer.Argument(metavar="[PLACE]", help="Folder or archive; default: the packaged task scripts.")
]
TO = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="URI",
        help="s3://bucket/prefix; default: beside the results of the table's workflow, or of workflow.yaml.",
    ),
]


class NoPrefix(BadInput):
    """{uri!r} is no s3://bucket/prefix."""


class FileThere(BadInput):
    """{path} is there already. Give another name with --output, or remove it."""


@dataclass(frozen=True)
class Packed:
    """An archive of task scripts on this machine."""

    path: Path
    files: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Sent:
    """An archive of task scripts in a bucket."""

    uri: str
    files: int
    bytes: int
    sha256: str
    new: bool


@dataclass(frozen=True)
class Found:
    """An archive that lies below the prefix; `used_by` is the newest workflow version that names it."""

    uri: str
    bytes: int
    modified: float
    used_by: int | None = None


@command(example=("pyanamo scripts pack my_scripts", "pyanamo scripts pack my_scripts --output scripts.tar"))
def pack(
    context: Context,
    place: PLACE = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The archive to write.")] = Path(
        "task_scripts.tar"
    ),
) -> Told:
    """Make one archive of a folder of task scripts. The same files make the same bytes, on any machine."""
    from pyanamo_core.scripts import pack as packed

    made = packed(_place(place))
    if output.exists() and output.read_bytes() != made.content:
        raise FileThere(path=output)
    output.write_bytes(made.content)
    told = Packed(output, made.files, len(made.content), made.sha256)
    return Told(told, view=_packed_view, quiet=[str(output)], next=f"pyanamo scripts push {output}")


@command(
    example=(
        "pyanamo scripts push my_scripts",
        "pyanamo scripts push scripts.tar --to s3://my-bucket/scripts",
    )
)
def push(context: Context, place: PLACE = None, to: TO = "") -> Told:
    """Put task scripts where pilots fetch them, under a name that holds their hash. Doing it again changes nothing.

    A workflow file whose `scripts` names a folder does this by itself at `workflow create`. Push by hand for jobs that
    are told their scripts (`fetch_and_run.sh URI`), or for a workflow file that names the URI.
    """
    from pyanamo_core.scripts import pack as packed
    from pyanamo_core.scripts import push as pushed

    prefix = _prefix(context, to)
    made = packed(_place(place))
    uri, new = pushed(context.clients, made, prefix)
    told = Sent(uri, made.files, len(made.content), made.sha256, new)
    return Told(
        told,
        view=_sent_view,
        quiet=[uri],
        next=f"write 'scripts: {uri}' into {WORKFLOW_FILE}, then: pyanamo workflow create",
    )


@command(example=("pyanamo scripts list", "pyanamo scripts list --to s3://my-bucket/scripts"))
def list_scripts(context: Context, to: TO = "") -> Told:
    """Show the archives of task scripts that lie in the bucket, and the newest workflow version that uses each."""
    from pyanamo_core.scripts import pushed

    used = {} if to else _used(context)
    found = [
        Found(each.uri, each.bytes, each.modified, used.get(each.uri))
        for each in sorted(pushed(context.clients, _prefix(context, to)), key=lambda one: one.modified)
    ]
    return Told(found, view=_found_view, quiet=[each.uri for each in found])


def _place(place: Path | None) -> Path:
    from pyanamo_core.resources import resource

    return place or resource("task_scripts")


def _prefix(context: Context, to: str) -> str:
    """Where archives are pushed to.

    Raises:
        NoPrefix. TableNotNamed, WorkflowMissing: nothing says where.
    """
    from pyanamo_core.scripts import scripts_prefix
    from pyanamo_core.workflow_file import read_workflow

    if to:
        if not to.startswith("s3://") or not to.removeprefix("s3://").strip("/"):
            raise NoPrefix(uri=to)
        return to.rstrip("/")
    if not context.table and (context.folder / WORKFLOW_FILE).is_file():
        return scripts_prefix(read_workflow(context.folder / WORKFLOW_FILE))
    return scripts_prefix(context.workflow)


def _used(context: Context) -> dict[str, int]:
    """Archive to the newest version that names it; nothing where there is no table yet."""
    from pyanamo.context import TableUnnamed
    from pyanamo_core.errors import NotFound

    try:
        return {workflow.scripts: number for number, workflow in sorted(context.ledger.workflow_versions())}
    except (TableUnnamed, NotFound):
        return {}


def _packed_view(told: Packed) -> RenderableType:
    return fields({"archive": str(told.path), "files": told.files, "size": size(told.bytes), "sha256": told.sha256})


def _sent_view(told: Sent) -> RenderableType:
    return fields(
        {
            "archive": told.uri,
            "": "put there now" if told.new else "was there already",
            "files": told.files,
            "size": size(told.bytes),
            "sha256": told.sha256,
        }
    )


def _found_view(told: list[Found]) -> RenderableType | str:
    if not told:
        return "no archive is there"
    return table(
        ("archive", "size", "pushed", "version"),
        [(each.uri, size(each.bytes), when(each.modified), each.used_by or "") for each in told],
        right=("size", "version"),
    )
