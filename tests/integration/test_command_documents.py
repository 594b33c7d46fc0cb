"""What the documents show does run, as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "python-api.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
PRINTED = re.findall(r"^```text\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def ran(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_table_is_made_filled_run_and_read_in_twenty_lines(
    cloud_environment: dict[str, str], unique_name: str, tmp_path: Path
) -> None:
    # Given the first program of the page, which has 20 lines at most
    program = BLOCKS[0]
    assert len([line for line in program.splitlines() if line.strip()]) <= 20
    # When it is run on the local cloud, under names that no other test has
    printed = ran(program.replace("Squares", unique_name).replace("squares", unique_name), tmp_path)
    # Then it prints what the page says
    assert printed == PRINTED[0]


def test_a_sheet_and_a_workflow_file_run_as_the_page_says(
    cloud_environment: dict[str, str], unique_name: str, tmp_path: Path
) -> None:
    # Given the folder that init makes, its workflow under a name of its own
    from pyanamo.commands.init import FILES, TEMPLATES
    from pyanamo_core.aws import Clients
    from pyanamo_core.local.provision import ensure_compute

    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(
            (TEMPLATES / name).read_text().replace("Count", unique_name).replace("count-results", unique_name)
        )
        (tmp_path / name).chmod(0o755)
    ensure_compute(Clients(), f"{unique_name}_Queue", f"{unique_name}_JobDef", buckets=[unique_name])
    # When the page's program is run there, then the items are done
    assert ran(BLOCKS[1] + "\nprint(outcome.outcome)\n", tmp_path).splitlines()[-1] == "completed"


def test_the_ledger_in_memory_serves_a_test_of_the_users_own(tmp_path: Path) -> None:
    # Given the last program of the page, when it is run without any AWS, then its assertions hold
    assert ran(BLOCKS[-1], tmp_path) == ""


def test_what_a_run_will_cost_is_told_without_any_aws(tmp_path: Path) -> None:
    assert ran(BLOCKS[2] + "\nprint(told.items, told.nests)\n", tmp_path) == "1 2\n"


def test_the_page_of_commands_is_up_to_date() -> None:
    # Given the commands as they are, then docs/commands.md is what they generate
    from pyanamo.document import commands_page

    page = (DOCS / "commands.md").read_text()
    assert page == commands_page(), "write it again: python -m pyanamo.document > docs/commands.md"


@pytest.mark.parametrize("path", sorted([*DOCS.rglob("*.md"), DOCS.parent / "README.md"]), ids=lambda path: path.name)
def test_every_command_that_a_page_names_exists(path: Path) -> None:
    # Given the commands that a page shows
    from pyanamo.main import COMMANDS, GROUPS

    known = {one for panel in COMMANDS.values() for one in panel}
    shown = re.findall(r"(?:^|`|\$ |; |&& )pyanamo ([a-z]+)(?: ([a-z]+))?", path.read_text(), re.MULTILINE)
    # Then each is one of the command's
    unknown = [
        f"pyanamo {first} {second}".strip()
        for first, second in shown
        if first not in known and f"{first} {second}" not in known and not (first in GROUPS and not second)
    ]
    assert unknown == []
