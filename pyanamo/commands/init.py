"""`pyanamo init`: a folder with everything a first run needs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told
from pyanamo_core.errors import Refused

TEMPLATES = Path(__file__).resolve().parent.parent / "templates"
FILES = ("workflow.yaml", "sheet.txt", "scripts/count.sh")


class FilesThere(Refused):
    """{folder} already holds {names}; nothing was written. Choose another folder."""


@dataclass(frozen=True)
class Written:
    """Files that were written."""

    folder: Path
    files: list[Path]


@command(example=("pyanamo init my-first", "pyanamo init"))
def init(
    context: Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder; made if missing.")] = Path(),
) -> Told:
    """Write a commented workflow file, a sheet with three items, and a script that runs."""
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise FilesThere(folder=folder.resolve(), names=", ".join(there))
    for name in FILES:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(TEMPLATES / name, target)
        if target.suffix == ".sh":
            target.chmod(0o755)
    written = Written(folder, [folder / name for name in FILES])
    go = "" if folder.resolve() == Path.cwd() else f"cd {folder} && "
    return Told(
        written,
        view=lambda told: "\n".join(f"wrote {file}" for file in told.files),
        quiet=[str(file) for file in written.files],
        next=f"{go}scripts/count.sh 5, then pyanamo local up workflow.yaml",
    )
