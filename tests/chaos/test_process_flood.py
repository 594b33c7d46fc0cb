"""A gigabyte of output: the log holds it, the pilot's memory stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
from process_support import flood

MEGABYTES = 1024


@pytest.mark.chaos
def test_a_gigabyte_on_each_output_fills_a_file_and_no_memory(tmp_path: Path) -> None:
    # Given a task that writes a gigabyte of lines to standard output, and another to standard error
    ended, grown_mb = flood(tmp_path, MEGABYTES)

    # Then both are in the log, and our memory is as it was
    seconds = ended.ended - ended.started
    print(f"flood: {ended.log_bytes >> 20} MB in {seconds:.1f} s, memory grew by {grown_mb} MB")
    assert ended.exit_code == 0
    assert ended.log_bytes > 2 * MEGABYTES << 20
    assert ended.tags == ("last",)
    assert grown_mb < 16
    (tmp_path / "log").unlink()
