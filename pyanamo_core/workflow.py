"""The workflow file's model (its reader, with line numbers, is workflow_file.py).

A workflow is one table, one image, one job definition, one queue. It is stored as an immutable version in its table.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from pyanamo_core.model import Rules, Value

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _environment_name(name: str) -> str:
    if not _ENVIRONMENT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an environment variable")
    if name.startswith(("PREFECT_", "PYANAMO_", "AWS_")):
        raise ValueError(f"{name!r} is reserved: names starting with PREFECT_, PYANAMO_ or AWS_ are set by the pilot")
    return name


EnvironmentName = Annotated[str, AfterValidator(_environment_name)]


class InputBucket(Value):
    """A bucket that tasks read from."""

    bucket: str = Field(min_length=3, max_length=63)
    access: Literal["role", "anonymous", "requester_pays"] = "role"
    region: str = ""
    endpoint: str = ""


class Buckets(Value):
    """Where results and logs go, and where input comes from."""

    results: str = Field(description="s3://bucket/prefix for results")
    logs: str = Field(default="", description="s3://bucket/prefix for big logs; default: beside the results")
    inputs: tuple[InputBucket, ...] = ()

    @field_validator("results", "logs")
    @classmethod
    def _is_uri(cls, value: str) -> str:
        if value and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", value):
            raise ValueError(f"{value!r} is no s3://bucket/prefix")
        return value.rstrip("/")


class Reference(Value):
    """A reference file that staging fetches once per host; its path is exported under `name` (`ref`, `tgt` …)."""

    name: EnvironmentName
    uri: str
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")


class Budgets(Value):
    """Policy by cause (docs/ledger.md, Budgets)."""

    tries: int = Field(default=3, ge=1, le=100)
    interruptions: int = Field(default=10, ge=1, le=1000)
    max_failures: int | None = Field(default=None, ge=1)
    max_dollars: float | None = Field(default=None, gt=0)
    """What the machines of one run may cost; its watcher then drains it."""
    first_items: int = Field(default=10, ge=1, le=1000)
    """If the first so many items all fail with one message and none is done, claiming stops."""
    retry_delay_seconds: float = Field(default=60.0, ge=0)
    retry_delay_max_seconds: float = Field(default=3600.0, ge=0)
    memory_growth: float = Field(default=1.5, ge=1.0, le=4.0)


class Timing(Value):
    """Rhythms, in seconds. Shorter ones serve the local cloud and tests."""

    lease_seconds: float = Field(default=600.0, gt=0)
    beat_seconds: float = Field(default=200.0, gt=0)
    sweep_seconds: float = Field(default=30.0, ge=0)
    """Pause between empty sweeps; a pilot leaves after 3 of them."""
    poll_seconds: float = Field(default=15.0, gt=0)
    """The watcher's rhythm."""
    start_jitter_seconds: float = Field(default=60.0, ge=0)
    host_fault_wait_seconds: float = Field(default=60.0, ge=0)

    @model_validator(mode="after")
    def _beats_fit(self) -> Self:
        if self.beat_seconds > self.lease_seconds / 2:
            raise ValueError("beat_seconds must be at most half of lease_seconds")
        return self


class StepTable(Value):
    """What the table of a step of the cohort has instead of the call's; what is left out is the call's, or as told."""

    pilots: int | None = Field(default=None, ge=1, le=100_000)
    items: int | None = Field(default=None, ge=1, le=1000, description="Items that a pilot works on at a time")
    queue: str = ""
    on_demand_queue: str = ""
    job_definition: str = ""
    vcpus: float | None = Field(default=None, gt=0)
    memory_mb: int | None = Field(default=None, ge=64)
    nest_time_seconds: float | None = Field(default=None, gt=0)
    parameters: dict[EnvironmentName, str] = Field(default_factory=dict, description="Exported to the step's script")


class GatherTable(StepTable):
    """`<table>-gather`: an item per sample."""

    reblock: bool = Field(default=False, description="ReblockGVCF goes over each gathered gVCF")


class JointTable(StepTable):
    """`<table>-joint`: an item per region, then one that joins the regions."""

    region_bases: int | None = Field(
        default=None, ge=1000, description="Bases of a region; empty: 5 Mb, fewer above 400 samples"
    )
    regions: tuple[str, ...] = Field(default=(), description="Call only these (contig:start-end); empty: all gathered")
    name: str = Field(default="joint", pattern=r"^[A-Za-z0-9_.-]{1,100}$", description="Name of the cohort's VCF")


class CohortSection(Value):
    """How `pyanamo cohort` goes on after the call."""

    gather: GatherTable = GatherTable()
    joint: JointTable = JointTable()
    also: tuple[str, ...] = Field(
        default=(),
        description="Earlier cohorts' call tables, or s3:// prefixes with gathered gVCFs: called jointly, too",
    )


class Workflow(Value):
    """A workflow, as its file says."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9_.-]{3,128}$", description="Name of the workflow and, by default, of its table"
    )
    table: str = Field(default="", pattern=r"^([A-Za-z0-9_.-]{3,255})?$")
    queue: str = Field(min_length=1)
    on_demand_queue: str = Field(
        default="",
        description="Queue of machines that nobody takes away: for the last items of a run, and `items retry --on-demand`",
    )
    job_definition: str = Field(min_length=1)
    image: str = ""
    pilots: int = Field(default=1, ge=1, le=100_000)
    items: int = Field(default=1, ge=1, le=1000, description="Items that a pilot holds at a time (PYANAMO_ITEMS)")
    nests: int = Field(default=1, ge=1, le=1000, description="Nests that run at a time per item (PYANAMO_NESTS)")
    vcpus: float = Field(default=1, gt=0)
    memory_mb: int = Field(default=2048, ge=64, description="Memory of a pilot's container")
    min_free_disk_mb: int = Field(
        default=512, ge=0, description="With less room for work a pilot starts nothing and, if nothing runs, leaves"
    )
    nest_time_seconds: float | None = Field(default=None, gt=0, description="Deadline of one nest")
    nest_silence_seconds: float | None = Field(
        default=1800.0, gt=0, description="A nest without CPU and output for so long is hung and ended; null: never"
    )
    stop_on_failure: bool = Field(default=False, description="The first failed nest ends its item's siblings")
    wall_time_seconds: float | None = Field(default=None, gt=0, description="A pilot's wall time (PyAnamo 1's -w)")
    budgets: Budgets = Budgets()
    timing: Timing = Timing()
    buckets: Buckets
    scripts: str = Field(
        default="", description="Folder, .tar.gz, .zip or S3 URI of the task scripts; empty: the packaged ones"
    )
    scripts_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="Filled in by `workflow create`")
    references: tuple[Reference, ...] = ()
    verify: str = Field(
        default="", pattern=r"^([\w.]+:\w+)?$", description="module:function that judges a nest's outputs"
    )
    caller_version: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9._+-]*$",
        max_length=64,
        description="Version of the caller that the scripts run; pinned: another one is refused, and a change is a new revision",
    )
    parameters: dict[EnvironmentName, str] = Field(default_factory=dict, description="Exported to the task script")
    cohort: CohortSection = CohortSection()
    shards: int = Field(default=0, ge=0, le=256, description="Shards of the queue index; 0: by the number of pilots")
    prefect_api_url_for_pilots: str = ""
    prefect_detail: Literal["auto", "nest", "item", "none"] = "auto"
    logs: Literal["auto", "s3"] = "auto"
    keep_tail_on_success: bool = False
    keep_work_on_failure: bool = False
    log_group: str = "/pyanamo/nests"

    @property
    def table_name(self) -> str:
        return self.table or self.name

    @property
    def slots(self) -> int:
        """Nests that a pilot runs at a time."""
        return self.items * self.nests

    @property
    def shard_count(self) -> int:
        """4 up to 1,000 claim loops, 16 up to 5,000, 32 beyond (docs/ledger.md)."""
        if self.shards:
            return self.shards
        loops = self.pilots * self.items
        return 4 if loops <= 1000 else 16 if loops <= 5000 else 32

    @property
    def rules(self) -> Rules:
        return Rules(
            max_tries=self.budgets.tries,
            max_interruptions=self.budgets.interruptions,
            lease_seconds=self.timing.lease_seconds,
            shards=self.shard_count,
        )

    @property
    def revision(self) -> str:
        """Hash of what the definitions run with: parameters, scripts, references, verify hook, pinned caller (12 hex digits)."""
        told: dict[str, object] = {
            "parameters": dict(sorted(self.parameters.items())),
            "scripts": self.scripts_sha256 or self.scripts,
            "references": [r.model_dump() for r in self.references],
            "verify": self.verify,
        }
        if self.caller_version:  # not told where nothing is pinned: the revision of such workflows stays what it was
            told["caller_version"] = self.caller_version
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
