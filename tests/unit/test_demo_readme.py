"""What README and docs/cohort.md tell to type exists: commands, options, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from pyanamo.main import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COHORT = (ROOT / "docs" / "cohort.md").read_text()
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in ("cohort", "own-workflow", "aws", "image")}


def typed(page: str = README) -> list[str]:
    """Every `pyanamo …` of a page's blocks and inline code, without comments."""
    blocks = re.findall(r"```\n(.*?)```", page, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(pyanamo [^`\n]+)`", page)
    found: list[str] = []
    for line in lines:
        for part in re.split(r"&&|;|\$\(", line.strip().removeprefix("$ ").partition("  #")[0]):
            if part.strip().startswith("pyanamo "):
                found.append(part.strip().rstrip(')"'))
    return sorted(set(found))


def test_readme_shows_the_commands_of_a_first_run():
    told = " ".join(typed())
    for word in ("demo", "rehearse", "run", "gather", "joint", "samples list", "loci plan", "sheet make"):
        assert f"pyanamo {word}" in f"{told} {README}"


@pytest.mark.parametrize("line", sorted({*typed(), *(line for page in PAGES.values() for line in typed(page))}))
def test_what_the_pages_type_exists(line: str):
    command = typer.main.get_command(app)
    words = shlex.split(line.replace("…", "").replace("[", "").replace("]", ""))[1:]
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert not words or not hasattr(command, "commands"), f"{line}: there is no {words[0]}"
    assert [word for word in words if word.startswith("-") and word != "-" and word not in known] == []


def test_links_of_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert "docs/pictures/items.svg" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_of_the_pages_lead_somewhere(page: str):
    links = re.findall(r"\]\((?!https?:)([^)#:]+)(?:#[^)]*)?\)", PAGES[page])
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []


def test_a_folder_of_bams_takes_eight_commands():
    first = re.findall(r"```\n(.*?)```", COHORT, re.S)[0]
    assert len(re.sub(r"<<EOF\n.*?\nEOF\n", "\n", first, flags=re.S).splitlines()) == 8
