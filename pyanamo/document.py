"""The page of all commands, made from the commands: `python -m pyanamo.document > docs/commands.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from typer.models import ArgumentInfo, OptionInfo

from pyanamo.context import FLAGS, GLOBALS
from pyanamo.main import COMMANDS

HEAD = """\
# Commands

Made from the commands themselves (`python -m pyanamo.document > docs/commands.md`); `--help` after any of them says the
same. Exit codes: docs/exit-codes.md. Settings: an option beats a flow's parameter, that the environment, that the
pinned workflow version, that the default; `pyanamo settings` prints each with its source.

Nests are named by value (`chr21:1-100`) or by number from 0; where a value of one nest is the number of another, say
`value=2` or `number=2`. Commands that lose something ask first, or want `--yes`.

"""


def commands_page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD, "Options that every command takes, before or after its name:\n\n", options(GLOBALS), "\n"]
    for panel, commands in COMMANDS.items():
        parts.append(f"## {panel}\n\n")
        for path, function in commands.items():
            parts.append(section(path, function))
    return "".join(parts).rstrip("\n") + "\n"


def section(path: str, function: Callable[..., Any]) -> str:
    """One command: what it does, its arguments and options, its examples."""
    own = {
        name: parameter.annotation
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.annotation is not GLOBALS.get(name) and hasattr(parameter.annotation, "__metadata__")
    }
    lines = [f"### pyanamo {path}\n\n{inspect.getdoc(function)}\n\n"]
    if listed := options(own):
        lines.append(listed + "\n")
    examples = "\n".join(getattr(function, "__examples__", ()))
    lines.append(f"```sh\n{examples}\n```\n\n")
    return "".join(lines)


def options(annotations: dict[str, Any]) -> str:
    """A line for each argument and option with its help."""
    lines: list[str] = []
    for name, annotation in annotations.items():
        about = annotation.__metadata__[0]
        if isinstance(about, ArgumentInfo):
            lines.append(f"- `{about.metavar or name.upper()}`" + (f": {about.help}" if about.help else ""))
        elif isinstance(about, OptionInfo):
            # The first of typer's declarations stands in `default` where the option is an annotation.
            declared = [one for one in (about.default, *(about.param_decls or ())) if isinstance(one, str)]
            names = ", ".join(f"`{one}`" for one in declared or [f"--{name.replace('_', '-')}"])
            value = "" if name in FLAGS or "bool" in str(annotation) else f" {about.metavar or name.upper()}"
            lines.append(f"- {names}{value}: {about.help}")
    return "\n".join(lines) + "\n" if lines else ""


if __name__ == "__main__":
    sys.stdout.write(commands_page())
