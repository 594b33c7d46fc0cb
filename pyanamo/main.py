"""The command `pyanamo`: the table of its commands, and nothing else.

To add a command: write it in pyanamo/commands/ with `@command(example=…)` and add a line to COMMANDS. Modules of
commands are imported at every start: they import boto3, moto, prefect and pysam inside their functions only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from pyanamo.commands import demo, items, loci, results, samples, settings, status
from pyanamo.context import INTERRUPTED, takes_globals

GROUPS: dict[str, str] = {
    "samples": "Which samples lie in a bucket or folder.",
    "loci": "Cut a genome into loci.",
    "results": "What the nests made: as a table, as files, as exports.",
    "items": "Look at items and move them.",
}

COMMANDS: dict[str, dict[str, Callable[..., Any]]] = {
    "Start": {
        "demo": demo.demo,
    },
    "Genomics": {
        "samples list": samples.list_samples,
        "loci plan": loci.plan,
    },
    "Results": {
        "results list": results.list_results,
        "results get": results.get,
        "results export": results.export,
    },
    "Look": {
        "status": status.status,
        "items list": items.list_items,
        "settings": settings.settings,
    },
}
"""Panel of the help → name of the command (`group command`) → function."""


def build() -> typer.Typer:
    """The typer app with every command."""

    def root() -> None:
        """Pilot jobs for big genomic ETLs on AWS: a ledger in DynamoDB, pilots on AWS Batch, flows in Prefect."""

    made = typer.Typer(
        name="pyanamo",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        epilog=epilog(("pyanamo init my-first", "pyanamo local up")),
    )
    made.callback()(takes_globals(root))
    groups: dict[str, typer.Typer] = {}
    for panel, commands in COMMANDS.items():
        for path, function in commands.items():
            group, _, name = path.rpartition(" ")
            home = made
            if group:
                home = groups.get(group) or groups.setdefault(group, add_group(made, group, panel))
            home.command(
                name,
                epilog=epilog(getattr(function, "__examples__", ())),
                rich_help_panel=None if group else panel,
            )(function)
    return made


def add_group(made: typer.Typer, name: str, panel: str) -> typer.Typer:
    """A sub-app for a group of commands, which takes the global options too."""

    def about() -> None: ...

    about.__doc__ = GROUPS[name]
    group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    first = next(
        function for commands in COMMANDS.values() for path, function in commands.items() if path.startswith(f"{name} ")
    )
    group.callback(epilog=epilog(getattr(first, "__examples__", ())[:1]))(takes_globals(about))
    made.add_typer(group, name=name, help=GROUPS[name], rich_help_panel=panel)
    return group


def epilog(examples: tuple[str, ...]) -> str:
    """The examples at the end of a help text."""
    if not examples:
        return ""
    from rich.markup import escape

    head = "[bold]Example:[/bold]" if len(examples) == 1 else "[bold]Examples:[/bold]"
    return "\n".join([head, *(f"  {escape(line)}" for line in examples)])


app = build()


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="pyanamo")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
