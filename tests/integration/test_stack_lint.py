"""The template and the policies against what AWS itself publishes: schemas and permissions that come with cfn-lint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pyanamo_core.resources import resource


def test_the_template_passes_cfn_lint() -> None:
    # Given the template, when cfn-lint judges it, offline
    told = subprocess.run(
        [str(Path(sys.executable).with_name("cfn-lint")), str(resource("deployments/cloudformation.yaml"))],
        capture_output=True,
        text=True,
        check=False,
    )
    # Then it has nothing to say
    assert (told.returncode, told.stdout + told.stderr) == (0, "")
