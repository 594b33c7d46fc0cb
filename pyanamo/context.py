"""What every command has: its settings, clients and ledger, the global options, and one way to fail.

A command is a function decorated with `command`, whose first parameter is a `Context`. The decorator gives it the
global options (accepted before and after the sub-command), prints what it returns (render.py) and turns errors into
one message and an exit code (docs/exit-codes.md).
"""

from __future__ import annotations

import functools
import inspect
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints
from urllib.parse import urlsplit

import typer

from pyanamo.render import Told, as_json_text, show
from pyanamo_core.errors import EndpointDown, PyAnamoError, Refused
from pyanamo_core.settings import Settings, resolve

if TYPE_CHECKING:
    from pyanamo_core.aws import Clients
    from pyanamo_core.protocols import Ledger
    from pyanamo_core.workflow import Workflow

PANEL = "Global options"
FLAGS = ("json", "quiet", "debug")
GLOBALS: dict[str, Any] = {
    "json": Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=PANEL)],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print bare values only.", rich_help_panel=PANEL)],
    "debug": Annotated[bool, typer.Option("--debug", help="Show where an error came from.", rich_help_panel=PANEL)],
    "table": Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="The ledger's table.", rich_help_panel=PANEL)
    ],
    "region": Annotated[
        str | None, typer.Option("--region", metavar="NAME", help="The AWS region.", rich_help_panel=PANEL)
    ],
    "endpoint_url": Annotated[
        str | None,
        typer.Option("--endpoint-url", metavar="URL", help="Where AWS is (the local cloud).", rich_help_panel=PANEL),
    ],
}
INTERRUPTED = 130


class NotConfirmed(Refused):
    """Nothing was changed: {why}."""


class TableUnnamed(PyAnamoError):
    """No table is named. Give --table NAME, set PYANAMO_TABLE, or go to the folder of your workflow.yaml."""

    exit_code = 2


@dataclass(frozen=True)
class Opened:
    """A table that was opened: its ledger, and the newest version of its workflow."""

    ledger: Ledger
    version: int
    workflow: Workflow


@dataclass
class Context:
    """What a command works with. Made anew for each call of a command."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    table: str | None = None
    region: str | None = None
    endpoint_url: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    folder: Path = field(default_factory=Path.cwd)

    @property
    def options(self) -> dict[str, str]:
        """The global options that were given and name a setting."""
        given = {"table": self.table, "region": self.region, "endpoint_url": self.endpoint_url}
        return {name: value for name, value in given.items() if value}

    @cached_property
    def settings(self) -> Settings:
        """Options, environment and the folder's workflow file; no table is read for it."""
        return resolve(self.options, environ=self.environ, folder=self.folder)

    @cached_property
    def clients(self) -> Clients:
        """Clients for the settings' endpoint and region; imports boto3 only when one is asked for.

        Raises:
            EndpointDown: nobody listens at an endpoint of this machine; the SDK would try for half a minute.
        """
        check_endpoint(self.settings.get("endpoint_url"))
        return self.patient_clients

    @cached_property
    def patient_clients(self) -> Clients:
        """The same without a look at the endpoint first: for pilots, which have time."""
        from pyanamo_core.aws import Clients

        return Clients(endpoint_url=self.endpoint_url, region=self.region)

    @property
    def table_name(self) -> str:
        """The name of the ledger's table. Raises TableUnnamed."""
        name = self.settings.table
        if not name:
            raise TableUnnamed
        return name

    @cached_property
    def opened(self) -> Opened:
        """The table with the rules of its newest workflow. Raises TableMissing, WorkflowMissing, ForeignTable, SchemaNewer."""
        from pyanamo_core.ledger import open_ledger

        ledger, version, workflow = open_ledger(self.clients, self.table_name)
        return Opened(ledger, version, workflow)

    @property
    def ledger(self) -> Ledger:
        return self.opened.ledger

    @property
    def workflow(self) -> Workflow:
        return self.opened.workflow

    @property
    def for_people(self) -> bool:
        """True when neither --json nor --quiet was given."""
        return not (self.json or self.quiet)

    def say(self, text: str) -> None:
        """A line on standard error for people: what goes on, what was assumed."""
        if self.for_people:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def confirm(self, what: str, *, yes: bool) -> None:
        """Ask before something is lost, e.g. `Delete table X`. Raises NotConfirmed, also where nobody can be asked."""
        if yes:
            return
        if not is_there_somebody() or not self.for_people:
            raise NotConfirmed(why=f"nobody is there to answer '{what}?'. With --yes it is done without being asked")
        if not typer.confirm(f"{what}?", err=True):
            raise NotConfirmed(why="the answer was no")


def is_there_somebody() -> bool:
    """Can a question be answered: is standard input a terminal?"""
    return bool(sys.stdin and sys.stdin.isatty())


def read_workflow_for(context: Context, file: Path) -> Workflow:
    """The workflow of a file, for the table that --table names."""
    from pyanamo_core.workflow_file import read_workflow

    workflow = read_workflow(file)
    return workflow.model_copy(update={"table": context.table}) if context.table else workflow


def check_endpoint(url: str) -> None:
    """Raise EndpointDown at once if the endpoint is on this machine and nobody listens there."""
    parts = urlsplit(url)
    if parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or 80), timeout=3).close()
    except OSError as error:
        raise EndpointDown(endpoint=url, reason=error.strerror or str(error)) from error


def command(
    *, example: str | Sequence[str], replaces: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a command of `pyanamo`.

    The function's first parameter is its Context, the others are typer's; it returns data, a Told, or None.

    Args:
        example: one or more command lines, shown at the end of its `--help`.
        replaces: names of global options for which the function has parameters of its own; the global ones are then
            taken before the sub-command only.
    """
    examples = [example] if isinstance(example, str) else list(example)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        own = list(inspect.signature(function).parameters.values())[1:]
        parameters = [
            inspect.Parameter("typer_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
            *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in own),
            *(p for p in global_parameters() if p.name not in replaces),
        ]

        @functools.wraps(function)
        def run(*, typer_context: typer.Context, **given: Any) -> None:
            context = context_of(
                typer_context, {name: None if name in replaces else given.pop(name) for name in GLOBALS}
            )
            raise typer.Exit(guarded(context, lambda: function(context, **given)))

        shown = run
        shown.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        shown.__annotations__ = {p.name: p.annotation for p in parameters}
        shown.__examples__ = tuple(examples)  # type: ignore[attr-defined]
        return shown

    return decorate


def global_parameters() -> list[inspect.Parameter]:
    """The global options as parameters for typer."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=annotation,
            default=False if name in FLAGS else None,
        )
        for name, annotation in GLOBALS.items()
    ]


def takes_globals(callback: Callable[[], None], *more: inspect.Parameter) -> Callable[..., None]:
    """Let the callback of a group of commands accept the global options; the command's own win over them.

    Args:
        more: further options, which act by a callback of their own (`--version`).
    """

    def run(**_given: Any) -> None:
        callback()

    run.__doc__ = callback.__doc__
    run.__signature__ = inspect.Signature([*more, *global_parameters()])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in more} | GLOBALS
    return run


def context_of(typer_context: typer.Context, given: Mapping[str, Any]) -> Context:
    """Global options from the command, its group and the root; the nearest to the command wins."""
    merged: dict[str, Any] = dict(given)
    parent = typer_context.parent
    while parent is not None:
        for name in GLOBALS:
            merged[name] = merged.get(name) or parent.params.get(name)
        parent = parent.parent
    return Context(
        json=bool(merged["json"]),
        quiet=bool(merged["quiet"]),
        debug=bool(merged["debug"]),
        table=merged["table"],
        region=merged["region"],
        endpoint_url=merged["endpoint_url"],
    )


def guarded(context: Context, call: Callable[[], Any]) -> int:
    """Run a command, print what it returns or why it failed, and give its exit code."""
    try:
        told = call()
        told = told if isinstance(told, Told) else Told(told)
        show(told, as_json=context.json, quiet=context.quiet)
    except (typer.Exit, BrokenPipeError):
        raise
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told in words
        return tell_error(context, error)
    return told.exit_code


def tell_error(context: Context, error: Exception) -> int:
    """One message on standard error (a traceback with --debug); returns the exit code."""
    known = in_words(error)
    if context.debug:
        import traceback

        traceback.print_exception(error)
    code = known.exit_code if known else 1
    message = str(known) if known else f"unexpected {type(error).__name__}: {error}"
    if context.json:
        kind = type(known or error).__name__
        sys.stderr.write(as_json_text({"error": message, "kind": kind, "exit_code": code}) + "\n")
        return code
    sys.stderr.write(f"error: {message}\n")
    if known is None and not context.debug:
        sys.stderr.write("This is a fault of PyAnamo. See where it comes from with the same command and --debug\n")
    return code


def in_words(error: Exception) -> PyAnamoError | None:
    """The error as one of PyAnamo's; None if it is one that nobody foresaw."""
    if isinstance(error, PyAnamoError):
        return error
    if "botocore" in sys.modules:
        from pyanamo_core.aws import explain, is_aws_error

        if is_aws_error(error):
            return explain(error, "service", getattr(error, "operation_name", "a request"))
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return FileFault(path=error.filename, reason=error.strerror)
    return None


class FileFault(PyAnamoError):
    """{path}: {reason}."""

    exit_code = 3
