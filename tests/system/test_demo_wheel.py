"""The wheel alone, in a clean virtual environment outside of the checkout, runs the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
OURS = ("pyanamo", "pyanamo_core", "pyanamo_flows")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheel, the dependencies of this one, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("clean")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    interpreter = folder / "venv" / "bin" / "python"
    subprocess.run([interpreter, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    # Dependencies come from here, without a network. Its own .pth files, which lead to the checkout, are not read there.
    own = subprocess.run(
        [interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (Path(own) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


def clean() -> dict[str, str]:
    """This environment without what leads to the checkout."""
    return {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}


def test_the_installed_packages_are_the_wheels(python: Path, tmp_path: Path):
    code = f"import json, {', '.join(OURS)}; print(json.dumps([{', '.join(f'{one}.__file__' for one in OURS)}]))"
    told = subprocess.run([python, "-c", code], cwd=tmp_path, env=clean(), check=True, capture_output=True, text=True)
    assert all(Path(one).is_relative_to(python.parents[1]) for one in json.loads(told.stdout))


def test_the_wheel_runs_the_demo(python: Path, tmp_path: Path):
    command = [python.with_name("pyanamo"), "demo", "--samples", "2", "--size", "30000", "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert min(told["recall"], told["precision"]) >= 0.99
    assert Path(told["report"]).is_relative_to(tmp_path)
