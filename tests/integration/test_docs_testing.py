"""The examples of docs/testing.md, run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyanamo_core.local.dynamodb import DynamoDbLocal

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
EXAMPLES = {
    re.sub(r"\W+", "-", title).strip("-").lower(): code
    for title, code in re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
}


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("title", sorted(EXAMPLES))
def test_an_example_runs_as_it_stands(title: str, dynamodb_local: DynamoDbLocal, tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(EXAMPLES[title])
    environment = {
        "PATH": "/usr/bin:/bin",
        "AWS_ENDPOINT_URL": dynamodb_local.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "TMPDIR": str(tmp_path),
    }
    told = subprocess.run(
        [sys.executable, str(example)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr.count("Traceback")) == (0, 0), told.stderr
