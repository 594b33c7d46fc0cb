"""What a pilot is told: by its environment, and by whoever makes one in Python."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pyanamo_core.errors import BadInput
from pyanamo_core.workflow import Workflow


class TableNotNamed(BadInput):
    """No table is named. Set PYANAMO_TABLE, or give --table."""


class OptionInvalid(BadInput):
    """{name} is {value!r}: {reason}."""


@dataclass(frozen=True)
class PilotOptions:
    """Only `table` is needed. What overrides the workflow is recorded in the pilot's row.

    `run_id` empty: a free pilot under the newest workflow's defaults. `items`, `nests`, `results` (s3://bucket/prefix)
    and `scripts` (archive or folder) override the workflow, as does `wall_time_seconds`, from the pilot's start.
    `array_index` is None outside an array; `submission`, the number of the run's submission that made this pilot, where
    nobody said it.
    """

    table: str
    run_id: str = ""
    items: int | None = None
    nests: int | None = None
    results: str = ""
    scripts: str = ""
    wall_time_seconds: float | None = None
    scratch: Path | None = None
    staging: Path | None = None
    batch_job: str = ""
    batch_attempt: int = 0
    array_index: int | None = None
    submission: int | None = None
    job_queue: str = ""
    host: str = field(default_factory=socket.gethostname)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> PilotOptions:
        """From PYANAMO_TABLE, PYANAMO_RUN, PYANAMO_SUBMISSION, PYANAMO_ITEMS, PYANAMO_NESTS, PYANAMO_WALL_TIME (seconds),
        PYANAMO_SCRIPTS, PYANAMO_SCRATCH, PYANAMO_STAGING, S3_BUCKET and Batch's own variables.

        Raises:
            TableNotNamed, OptionInvalid.
        """
        environ = os.environ if environ is None else environ
        if not environ.get("PYANAMO_TABLE"):
            raise TableNotNamed
        index = environ.get("AWS_BATCH_JOB_ARRAY_INDEX")
        submission = environ.get("PYANAMO_SUBMISSION", "")
        scratch, staging = environ.get("PYANAMO_SCRATCH"), environ.get("PYANAMO_STAGING")
        return cls(
            table=environ["PYANAMO_TABLE"],
            run_id=environ.get("PYANAMO_RUN", ""),
            items=_positive(environ, "PYANAMO_ITEMS"),
            nests=_positive(environ, "PYANAMO_NESTS"),
            results=environ.get("S3_BUCKET", ""),
            scripts=environ.get("PYANAMO_SCRIPTS", ""),
            wall_time_seconds=_seconds(environ, "PYANAMO_WALL_TIME"),
            scratch=Path(scratch) if scratch else None,
            staging=Path(staging) if staging else None,
            batch_job=environ.get("AWS_BATCH_JOB_ID", ""),
            batch_attempt=int(environ.get("AWS_BATCH_JOB_ATTEMPT") or 0),
            array_index=int(index) if index else None,
            submission=int(submission) if submission.isdecimal() else None,
            job_queue=environ.get("AWS_BATCH_JQ_NAME", ""),
        )

    @property
    def scratch_root(self) -> Path:
        """Below this, each pilot has a folder of its own."""
        return self.scratch or Path(tempfile.gettempdir()) / f"pyanamo-scratch-{os.getuid()}"

    def overrides(self) -> dict[str, str]:
        """What is not as the workflow says, for the pilot's row."""
        told = {
            "PYANAMO_ITEMS": str(self.items or ""),
            "PYANAMO_NESTS": str(self.nests or ""),
            "S3_BUCKET": self.results,
            "PYANAMO_SCRIPTS": self.scripts,
            "PYANAMO_WALL_TIME": f"{self.wall_time_seconds:g}" if self.wall_time_seconds else "",
        }
        return {name: value for name, value in told.items() if value}

    def results_prefix(self, workflow: Workflow) -> str:
        """s3://bucket/prefix of results: the workflow's, or with another bucket, or another prefix altogether."""
        stated = workflow.buckets.results
        if not self.results:
            return stated
        if self.results.startswith("s3://"):
            return self.results.rstrip("/")
        prefix = stated.removeprefix("s3://").partition("/")[2]
        return f"s3://{self.results.strip('/')}" + (f"/{prefix}" if prefix else "")


def _positive(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name)
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise OptionInvalid(name=name, value=value, reason="it must be a whole number, at least 1")
    return int(value)


def _seconds(environ: Mapping[str, str], name: str) -> float | None:
    value = environ.get(name)
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise OptionInvalid(name=name, value=value, reason="it must be a number of seconds, above 0")
    return seconds
