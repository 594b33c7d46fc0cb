"""The example of docs/local-cloud.md works as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "local-cloud.md"


def test_the_example_of_tests_of_ones_own_passes(tmp_path: Path):
    # Given the file of the document
    (source,) = re.findall(r"```python\n(\"\"\"A workflow of ours.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "test_naps.py").write_text(source)
    # When pytest runs it, with nothing around it
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_naps.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    # Then it passes
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 passed" in done.stdout
