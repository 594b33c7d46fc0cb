"""The lock file: renew it, or check offline that it was made from today's pyproject.toml.

python .ci/lock.py renew|check
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


def wanted() -> str:
    """Hash of everything in pyproject.toml that the resolver reads."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {
        "requires-python": project["requires-python"],
        "dependencies": sorted(project["dependencies"]),
        "extras": {k: sorted(v) for k, v in project["optional-dependencies"].items()},
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def renew() -> None:
    subprocess.run(
        [
            str(Path(sys.executable).parent / "uv"),
            *("pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"),
            *("--python-version", "3.11", "--all-extras", "pyproject.toml", "--output-file", str(LOCK)),
        ],
        check=True,
        cwd=ROOT,
    )
    text = "".join(line for line in LOCK.read_text().splitlines(keepends=True) if not line.startswith(MARK))
    LOCK.write_text(f"{MARK}{wanted()}\n{text}")
    check()


def check() -> None:
    text = LOCK.read_text()
    first = text.splitlines()[0] if text else ""
    if first != MARK + wanted():
        sys.exit("requirements.lock was not made from this pyproject.toml. Renew it with: make lock")
    if found := re.search(r"https?://\S+|--(extra-)?index-url.*", text):
        sys.exit(f"requirements.lock holds an address ({found.group()}). Renew it with: make lock")
    print("requirements.lock is fresh")


if __name__ == "__main__":
    {"renew": renew, "check": check}[sys.argv[1]]()
