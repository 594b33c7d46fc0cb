"""Packaged folders are found in a wheel and in a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyanamo_core import resources
from pyanamo_core.resources import ResourceMissing, resource


def test_a_checkout_holds_its_folders_at_its_root() -> None:
    root = Path(resources.__file__).resolve().parent.parent
    assert resource("task_scripts") == root / "task_scripts"
    assert resource("docker/gatk/jars.lock").is_file()


def test_a_wheel_holds_them_inside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / "pyanamo_core" / "packaged" / "task_scripts"
    packaged.mkdir(parents=True)
    (tmp_path / "task_scripts").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "pyanamo_core")
    assert resource("task_scripts") == packaged
    with pytest.raises(ResourceMissing, match="docker is in neither"):
        resource("docker")
