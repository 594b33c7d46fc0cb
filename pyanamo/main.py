"""The command `pyanamo`: the table of its commands, and nothing else.

To add a command: write it in pyanamo/commands/ with `@command(example=…)` and add a line to COMMANDS. Modules of
commands are imported at every start: they import boto3, moto, prefect and pysam inside their functions only.
"""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pyanamo.commands import (
    again,
    clean,
    cohort,
    cohort_cost,
    cost,
    demo,
    deploy,
    doctor,
    explain,
    fsck,
    gather,
    init,
    items,
    joint,
    local,
    loci,
    logs,
    outputs,
    pilot,
    plan,
    prefect,
    publish,
    qc,
    rehearse,
    results,
    run,
    runs,
    samples,
    scale,
    scripts,
    settings,
    sheet,
    status,
    workflow,
)
from pyanamo.context import INTERRUPTED, takes_globals

GROUPS: dict[str, str] = {
    "local": "AWS on this machine: Batch, DynamoDB, S3, Logs.",
    "samples": "Which samples lie in a bucket or folder.",
    "loci": "Cut a genome into loci.",
    "scripts": "Task scripts as an archive, where pilots fetch them.",
    "sheet": "Make, check and import the to-do list.",
    "workflow": "A workflow's table and the versions of its file.",
    "runs": "Executions of a workflow.",
    "cohort": "From samples to the VCF of their cohort: call, gather, joint.",
    "prefect": "Prefect's deployments of the flows.",
    "items": "Look at items and move them.",
    "results": "What the nests made: as a table, as files, as exports.",
}

COMMANDS: dict[str, dict[str, Callable[..., Any]]] = {
    "Start": {
        "init": init.init,
        "demo": demo.demo,
        "local up": local.up,
        "local status": local.status,
        "local env": local.env,
        "local down": local.down,
    },
    "AWS": {
        "deploy": deploy.deploy,
        "destroy": deploy.destroy,
        "doctor": doctor.doctor,
    },
    "Prepare": {
        "samples list": samples.list_samples,
        "loci plan": loci.plan,
        "loci check": loci.check,
        "workflow create": workflow.create,
        "workflow show": workflow.show,
        "workflow list": workflow.list_workflows,
        "workflow delete": workflow.delete,
        "workflow scale": scale.scale,
        "scripts pack": scripts.pack,
        "scripts push": scripts.push,
        "scripts list": scripts.list_scripts,
        "sheet make": sheet.make,
        "sheet check": sheet.check,
        "sheet import": sheet.import_,
        "rehearse": rehearse.rehearse,
        "plan": plan.plan,
    },
    "Run": {
        "run": run.run,
        "cohort run": cohort.run,
        "cohort status": cohort.status,
        "cohort plan": cohort.plan,
        "cohort cost": cohort_cost.cost,
        "watch": run.watch,
        "recover": run.recover,
        "pilot": pilot.pilot,
        "runs list": runs.list_runs,
        "runs show": runs.show,
        "runs losses": runs.losses,
        "cost": cost.cost,
        "runs drain": runs.drain,
        "runs cancel": runs.cancel,
        "prefect setup": prefect.setup,
    },
    "Look and mend": {
        "status": status.status,
        "explain": explain.explain,
        "logs": logs.logs,
        "fsck": fsck.fsck,
        "settings": settings.settings,
        "items list": items.list_items,
        "items show": items.show,
        "items jobs": explain.jobs,
        "items reset": items.reset,
        "items redo": again.redo,
        "items retry": items.retry,
        "items extend": again.extend,
        "items cancel": items.cancel,
    },
    "Results": {
        "results list": results.list_results,
        "results get": results.get,
        "results export": results.export,
        "results qc": qc.qc,
        "results manifest": outputs.manifest,
        "results links": outputs.links,
        "results publish": publish.publish,
        "results verify": outputs.verify,
        "clean": clean.clean,
        "gather": gather.gather,
        "joint": joint.joint,
    },
}
"""Panel of the help → name of the command (`group command`) → function."""


def tell_version(asked: bool) -> None:
    """Print the version, and do nothing else."""
    if asked:
        from importlib.metadata import version

        sys.stdout.write(f"pyanamo {version('pyanamo')}\n")
        raise typer.Exit


VERSION = inspect.Parameter(
    "version",
    inspect.Parameter.KEYWORD_ONLY,
    annotation=Annotated[
        bool, typer.Option("--version", is_eager=True, callback=tell_version, help="Print the version.")
    ],
    default=False,
)


class InOrder(TyperGroup):
    """Lists commands and groups in the order of COMMANDS; by itself typer puts groups last."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = list(dict.fromkeys(path.partition(" ")[0] for panel in COMMANDS.values() for path in panel))
        return sorted(super().list_commands(ctx), key=order.index)


def build() -> typer.Typer:
    """The typer app with every command."""

    def root() -> None:
        """Pilot jobs for big genomic ETLs on AWS: a ledger in DynamoDB, pilots on AWS Batch, flows in Prefect."""

    made = typer.Typer(
        name="pyanamo",
        cls=InOrder,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["--help", "-h"]},
        epilog=epilog(("pyanamo init my-first", "pyanamo local up")),
    )
    made.callback()(takes_globals(root, VERSION))
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
    head = "[bold]Example:[/bold]" if len(examples) == 1 else "[bold]Examples:[/bold]"
    # As rich.markup.escape does it; rich itself is loaded for help only.
    escaped = [line.replace("[", "\\[") for line in examples]
    return "\n".join([head, *(f"  {line}" for line in escaped)])


app = build()


def main() -> None:
    """Run the command line of this process."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # as pyanamo.__main__ left it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(prog_name="pyanamo")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
