"""The lock files: renew them, or check offline that they were made from today's pyproject.toml.

python .ci/lock.py renew|check

requirements.lock holds everything. Those below docker/ hold its parts that the image needs: what pilots run with, what
GATK adds to that, and what builds the wheel. Nothing in them differs from requirements.lock.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
MARK = "# dependencies of pyproject.toml: sha256 "
PILOT = ROOT / "docker" / "requirements.lock"
GATK = ROOT / "docker" / "gatk" / "requirements.lock"
BUILD = ROOT / "docker" / "build.lock"
PILOT_EXTRAS = ("genomics", "report")
BUILD_TOOLS = ("hatchling", "uv")


def wanted() -> str:
    """Hash of everything in pyproject.toml that the resolver reads."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {
        "requires-python": project["requires-python"],
        "dependencies": sorted(project["dependencies"]),
        "extras": {k: sorted(v) for k, v in project["optional-dependencies"].items()},
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def uv(*arguments: str, given: str = "") -> str:
    """`uv pip compile` with this project's options; gives what it writes."""
    told = subprocess.run(
        [
            str(Path(sys.executable).parent / "uv"),
            *("pip", "compile", "--quiet", "--universal", "--no-header", "--no-annotate", "--python-version", "3.11"),
            *arguments,
        ],
        check=True,
        cwd=ROOT,
        input=given,
        text=True,
        stdout=subprocess.PIPE,
    )
    return told.stdout


def blocks(text: str) -> dict[str, str]:
    """The entries of a lock file by package: its line with its hashes."""
    found: dict[str, str] = {}
    for block in re.findall(r"^[a-zA-Z0-9].*?(?:\n(?=\S)|\Z)", text, flags=re.DOTALL | re.MULTILINE):
        found[re.split(r"[=\s;\[]", block, maxsplit=1)[0]] = block.rstrip() + "\n"
    return found


def part(names: set[str]) -> str:
    """The entries of requirements.lock for these packages, as a lock file."""
    whole = blocks(LOCK.read_text())
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    return f"{MARK_OF_PART}{digest}\n" + "".join(whole[name] for name in sorted(names))


MARK_OF_PART = "# part of requirements.lock: sha256 "


def renew() -> None:
    text = uv("--generate-hashes", "--all-extras", "pyproject.toml", "--output-file", str(LOCK))
    text = "".join(line for line in LOCK.read_text().splitlines(keepends=True) if not line.startswith(MARK))
    LOCK.write_text(f"{MARK}{wanted()}\n{text}")
    renew_parts()
    check()


def renew_parts() -> None:
    """Make the image's lock files from requirements.lock."""

    def closure(*arguments: str, given: str = "") -> set[str]:
        return set(blocks(uv("--constraint", str(LOCK), *arguments, given=given)))

    pilot = closure(*(f"--extra={extra}" for extra in PILOT_EXTRAS), "pyproject.toml")
    gatk = closure(*(f"--extra={extra}" for extra in (*PILOT_EXTRAS, "gatk")), "pyproject.toml")
    PILOT.write_text(part(pilot))
    GATK.write_text(part(gatk - pilot))
    BUILD.write_text(part(closure("-", given="\n".join(BUILD_TOOLS))))


def check() -> None:
    text = LOCK.read_text()
    first = text.splitlines()[0] if text else ""
    if first != MARK + wanted():
        sys.exit("requirements.lock was not made from this pyproject.toml. Renew it with: make lock")
    whole = MARK_OF_PART + hashlib.sha256(LOCK.read_bytes()).hexdigest()
    for each in (PILOT, GATK, BUILD):
        if not each.exists() or each.read_text().splitlines()[0] != whole:
            sys.exit(f"{each.relative_to(ROOT)} was not made from this requirements.lock. Renew it with: make lock")
    for each in (LOCK, PILOT, GATK, BUILD):
        if found := re.search(r"https?://\S+|--(extra-)?index-url.*", each.read_text()):
            sys.exit(f"{each.relative_to(ROOT)} holds an address ({found.group()}). Renew it with: make lock")
    print("requirements.lock and its parts are fresh")


if __name__ == "__main__":
    {"renew": renew, "parts": renew_parts, "check": check}[sys.argv[1]]()
