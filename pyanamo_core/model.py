"""The values that PyAnamo speaks of: states and causes, items, nests, attempts, pilots, runs. All are frozen.

Times are seconds since 1970 (UTC, float); sizes are bytes unless the name ends in `_mb` (2**20 bytes).
The workflow file's model is in workflow.py.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1
"""Version of the table's layout. A table with a higher one is refused."""

MAX_ITEM_ID_BYTES = 256
MAX_TASK_ID_BYTES = 64
INLINE_BYTES = 16 * 1024
"""Outputs and tag lines of a nest up to this size stand in its row; above, in an object that the row points to."""


class Value(BaseModel):
    """A frozen value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Rules(Value):
    """What the ledger's conditions need to know of a workflow."""

    max_tries: int = 3
    max_interruptions: int = 10
    lease_seconds: float = 600.0
    shards: int = 4

    @property
    def margin_seconds(self) -> float:
        """How long past its end a lease is still respected: covers clocks that disagree."""
        return min(30.0, self.lease_seconds / 10) + 1.0

    @property
    def recover_seconds(self) -> float:
        """How long after the end of a pilot's Batch attempt its items may be taken back without waiting for their leases:
        covers clocks that disagree. A minute, or a tenth of a short lease."""
        return min(60.0, self.lease_seconds / 10)


class State(StrEnum):
    """State of an item."""

    TODO = "todo"
    WAITING = "waiting"
    LOCKED = "locked"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED = frozenset({State.DONE, State.FAILED, State.CANCELLED})


class Cause(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    TASK_ERROR = "task_error"
    PERMANENT = "permanent"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    UNVERIFIED = "unverified"
    SPOT = "spot"
    WALL_TIME = "wall_time"
    LOST = "lost"
    DRAINED = "drained"
    HOST_FAULT = "host_fault"
    SET_UP = "set_up"
    CANCELLED = "cancelled"


INTERRUPTIONS = frozenset({Cause.SPOT, Cause.LOST, Cause.WALL_TIME, Cause.DRAINED, Cause.HOST_FAULT})


class NestStatus(StrEnum):
    """What a nest row says. `reset` is what a redo leaves behind: to be done again."""

    DONE = "done"
    FAILED = "failed"
    RESET = "reset"


class Mode(StrEnum):
    """What a run's pilots shall do: go on, stop claiming, or stop at once."""

    RUN = "run"
    DRAIN = "drain"
    CANCEL = "cancel"


class Move(StrEnum):
    """Every move of an item (docs/ledger.md)."""

    CLAIM = "claim"
    RECLAIM = "reclaim"
    EXPIRE = "expire"
    BEAT = "beat"
    FINISH = "finish"
    FAIL = "fail"
    WAIT = "wait"
    HAND_BACK = "hand back"
    RETRY = "retry"
    EXTEND = "extend"
    RESET = "reset"
    EDIT = "edit"
    REDO = "redo"
    CANCEL = "cancel"
    RECOVER = "recover"


_OPEN = frozenset({State.TODO, State.WAITING})
LEGAL_FROM: dict[Move, frozenset[State]] = {
    Move.CLAIM: _OPEN,
    Move.RECLAIM: frozenset({State.LOCKED}),
    Move.EXPIRE: frozenset({State.LOCKED}),
    Move.BEAT: frozenset({State.LOCKED}),
    Move.FINISH: frozenset({State.LOCKED}),
    Move.FAIL: frozenset({State.LOCKED}),
    Move.WAIT: frozenset({State.LOCKED}),
    Move.HAND_BACK: frozenset({State.LOCKED}),
    Move.RETRY: frozenset({State.FAILED, State.CANCELLED}),
    Move.EXTEND: _OPEN | FINISHED,
    Move.RESET: _OPEN | FINISHED,
    Move.EDIT: _OPEN | FINISHED,
    Move.REDO: _OPEN | FINISHED,
    Move.CANCEL: _OPEN | {State.LOCKED},
    Move.RECOVER: frozenset({State.LOCKED}),
}
"""From which states a move is legal."""


def encoded(text: str) -> str:
    """An itemID or TaskID as it may stand in a path, a key or a stream name (percent-encoded, no `/`, `:` or `*`)."""
    return quote(text, safe="") if text not in {".", ".."} else text.replace(".", "%2E")


class Definition(Value):
    """What an item does: its TaskScript and the ordered values of its nests.

    `arguments` is empty for an item without TaskArgs, which has exactly one nest with the value "".
    """

    script: str
    arguments: tuple[str, ...] = ()

    @property
    def nests(self) -> int:
        return max(1, len(self.arguments))

    def value(self, nest: int) -> str:
        """The value of the nest with this number (0-based)."""
        return self.arguments[nest] if self.arguments else ""

    @property
    def hash(self) -> str:
        """The first 12 hex digits of the SHA-256 of TaskScript and ordered values."""
        told = json.dumps([self.script, list(self.arguments)], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(told.encode()).hexdigest()[:12]


class Item(Value):
    """An item's row."""

    item_id: str
    task_id: str
    state: State
    fence: int = 0
    epoch: int = 0
    tries: int = 0
    interruptions: int = 0
    progress_fence: int = 0
    priority: int = 5
    """0 (first) to 9 (last)."""
    cancelled: bool = False
    owner: str | None = None
    """Incarnation id of the pilot that holds it (attribute InstanceID)."""
    run_id: str | None = None
    lease_end: float | None = None
    due: float | None = None
    """When a waiting item may start; None in every other state."""
    nests: int = 1
    nests_done: int = 0
    nests_failed: int = 0
    definition_hash: str = ""
    revision: str = ""
    cause: Cause | None = None
    message: str = ""
    memory_factor: float = 1.0
    nest_seconds: float | None = None
    """A deadline of its own for each of its nests, instead of the workflow's."""
    on_demand: bool = False
    """Only for pilots on machines that nobody takes away."""
    last_move: str = ""
    """Token of the last move: a refusal that shows my own token is a win."""
    created: float = 0.0
    locked_at: float | None = None
    finished_at: float | None = None


class Output(Value):
    """One object or file that a nest made."""

    uri: str
    bytes: int
    sha256: str = ""


class LogPointer(Value):
    """Where the log of a nest is: `row`, `cloudwatch` (stream, time range in ms) or `s3` (URI); `given up` says why it is nowhere."""

    where: str
    group: str = ""
    stream: str = ""
    start_ms: int = 0
    end_ms: int = 0
    uri: str = ""
    bytes: int = 0
    note: str = ""


class Nest(Value):
    """The recorded result of a nest: the latest attempt's, of one epoch."""

    item_id: str
    epoch: int
    index: int
    status: NestStatus
    fence: int
    exit_code: int | None = None
    cause: Cause | None = None
    message: str = ""
    started: float = 0.0
    ended: float = 0.0
    peak_memory_mb: float = 0.0
    cpu_seconds: float = 0.0
    outputs: tuple[Output, ...] = ()
    tags: tuple[str, ...] = ()
    """Lines `PyAnamo:<TAB>…` of the script's standard output, in order, without the prefix."""
    figures: dict[str, Any] = Field(default_factory=dict)
    overflow: str = ""
    """URI of the gzipped object that holds outputs, tags and figures when they are too big for the row."""
    overflow_sha256: str = ""
    output_count: int = 0
    tag_count: int = 0
    log: LogPointer | None = None
    tail: str = ""
    """The last lines of the log: up to 512 B in the row, up to 2 KB in a row of its own."""
    truncated: bool = False
    revision: str = ""
    run_id: str = ""
    pilot_id: str = ""
    token: str = ""


class Spent(Value):
    """What a pilot has spent since it began, as it counts itself (docs/cost.md).

    A nest holds one slot of its pilot, or several if it needs their memory; slot-seconds are the seconds of all slots held.
    """

    slot_seconds: dict[str, float] = Field(default_factory=dict[str, float])
    """By what came of them: `done`; `kept` (done, but another's result was first); the cause of what failed or was cut
    short; `open`: of nests that ran when this was written."""
    cpu_seconds: float = 0.0
    """What the processes of nests used."""
    write_units: float = 0.0
    read_units: float = 0.0
    """DynamoDB's, as it told them."""
    s3_writes: int = 0
    s3_reads: int = 0
    """Requests to S3 by class of price: the pilot's own, and those that its tasks told (PYANAMO_METER)."""
    log_bytes: int = 0
    """Sent to CloudWatch Logs."""
    outputs: int = 0
    output_bytes: int = 0
    """Of nests that were recorded as done."""


class Attempt(Value):
    """One claim of an item and how it ended."""

    item_id: str
    fence: int
    epoch: int = 0
    pilot_id: str = ""
    run_id: str = ""
    batch_job: str = ""
    batch_attempt: int = 0
    host: str = ""
    instance_type: str = ""
    lifecycle: str = ""
    zone: str = ""
    job_queue: str = ""
    vcpus: float = 0.0
    """Of its pilot's container; 0: not told."""
    slots: int = 0
    """Of its pilot."""
    started: float = 0.0
    ended: float | None = None
    cause: Cause | None = None
    evidence: str = ""
    """At most 120 bytes."""
    slot_seconds: float | None = None
    """Of all nests that ended under this claim; told at its end, so not by a pilot that died (None)."""
    kept_seconds: float = 0.0
    """Slot-seconds of those that were recorded as done."""
    cpu_seconds: float = 0.0


class PilotRecord(Value):
    """A pilot's row: absolute figures that only the pilot itself writes."""

    pilot_id: str
    run_id: str = ""
    batch_job: str = ""
    batch_attempt: int = 0
    array_index: int | None = None
    host: str = ""
    instance_type: str = ""
    lifecycle: str = ""
    """`spot` or `on-demand`; empty: nobody said."""
    zone: str = ""
    """Availability zone."""
    job_queue: str = ""
    """The Batch queue that it came from."""
    vcpus: float = 0.0
    """Of its container; 0: not told."""
    version: str = ""
    started: float = 0.0
    ready: float | None = None
    """When it asked for its first items: staged, open for work."""
    last_beat: float = 0.0
    ended: float | None = None
    leaving: str = ""
    """Why it left: `empty`, a cause, …"""
    exit_code: int | None = None
    items: int = 0
    nests: int = 0
    slots: int = 0
    claims: int = 0
    conflicts: int = 0
    items_done: int = 0
    items_failed: int = 0
    nests_done: int = 0
    nests_failed: int = 0
    busy_seconds: float = 0.0
    holding: tuple[str, ...] = ()
    """The items that it holds."""
    last_lines: tuple[str, ...] = ()
    flow_run_id: str = ""
    overrides: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    clock_offset_seconds: float = 0.0
    free_disk_mb: int | None = None
    """Where it works; below the workflow's `min_free_disk_mb` it starts nothing."""
    free_staging_mb: int | None = None
    memory_mb: int | None = None
    """In use by its container, and the container's limit (None: it has none)."""
    memory_limit_mb: int | None = None
    spent: Spent = Spent()


class Submission(Value):
    """One SubmitJob of a run: reserved first, told its job id afterwards."""

    sequence: int
    name: str
    """`<token>-<n>`: the job's name, by which it is found again."""
    size: int
    queue: str
    definition: str
    """`name:revision`."""
    reserved_at: float
    job_id: str = ""
    outcome: str = "reserved"
    """reserved, submitted, failed."""
    reason: str = ""


class Limits(Value):
    """What stops a run by itself."""

    max_failures: int | None = None
    max_pilots: int = 1
    items_per_pilot: int = 1


class VcpuHour(Value):
    """Dollars of a vCPU for an hour, least and most, as they were known when a run began."""

    spot: tuple[float, float]
    on_demand: tuple[float, float]
    factor: tuple[float, float] = (0.0, 0.0)
    """What the region asks for an instance type, of the built-in list's price; 0: the prices above hold for all types."""
    machine: tuple[float, float] = (0.0, 0.0)
    """Of a machine for an hour, beside its vCPUs: volume and address."""


class Run(Value):
    """One execution of a workflow: fan-out to completion."""

    run_id: str
    mode: Mode = Mode.RUN
    hand_back: bool = False
    """In mode drain: pilots end what runs and hand it back; otherwise they finish what they hold."""
    workflow_version: int
    revision: str = ""
    token: str
    """Prefix of its Batch job names."""
    limits: Limits = Limits()
    max_dollars: float | None = None
    """Its pilots' machines may cost so much; its watcher then drains it (fleet/spending.py)."""
    vcpu_hour: VcpuHour | None = None
    only: tuple[str, ...] = ()
    """A canary: it works on these items only. Empty: on all of the table."""
    min_pilot: str = ""
    submissions: tuple[Submission, ...] = ()
    watcher: str = ""
    watcher_fence: int = 0
    watcher_lease_end: float = 0.0
    started: float = 0.0
    ended: float | None = None
    outcome: str = ""
    """completed, failed (items failed), cancelled, drained, stopped."""
    reason: str = ""
    prefect_api_url: str = ""
    """The address that pilots use; empty: they do without Prefect."""
    flow_run_id: str = ""
    """Root flow run of the run; empty without Prefect."""
    prefect_detail: str = ""


class Counts(Value):
    """Items of a table by state; approximate while pilots work."""

    todo: int = 0
    waiting: int = 0
    locked: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def open(self) -> int:
        return self.todo + self.waiting + self.locked

    @property
    def total(self) -> int:
        return self.open + self.done + self.failed + self.cancelled


class Claim(Value):
    """An item that is ours: what every later write of this claim needs."""

    item: Item
    pilot_id: str
    deadline: float
    """On the monotonic clock: past it we stop the children and write nothing more. Measured from before the request was sent."""

    @property
    def item_id(self) -> str:
        return self.item.item_id

    @property
    def fence(self) -> int:
        return self.item.fence

    @property
    def epoch(self) -> int:
        return self.item.epoch


class Beaten(Value):
    """What a beat brought back: the new lease, and whether a user has cancelled the item."""

    lease_end: float
    deadline: float
    cancelled: bool


class Recorded(StrEnum):
    """What became of a nest's result: ours was recorded, or an earlier (or newer) one is kept."""

    WON = "won"
    KEPT = "kept"


class Imported(StrEnum):
    """What an import did with one item."""

    CREATED = "created"
    EXISTS = "exists"
    EDITED = "edited"
    CONFLICT = "conflict"


class NestCall(Value):
    """One nest to run: everything that its process needs to know."""

    item_id: str
    task_id: str
    index: int
    value: str
    fence: int
    epoch: int
    script: str


class NestResult(Value):
    """How a nest's process ended, before it is recorded. `cause` is DONE only if its outputs were verified."""

    cause: Cause
    exit_code: int | None = None
    message: str = ""
    started: float = 0.0
    ended: float = 0.0
    peak_memory_mb: float = 0.0
    cpu_seconds: float = 0.0
    outputs: tuple[Output, ...] = ()
    tags: tuple[str, ...] = ()
    figures: dict[str, Any] = Field(default_factory=dict)
    tail: str = ""
    evidence: str = ""
    """At most 120 bytes, for the attempt's row."""
    s3_writes: int = 0
    s3_reads: int = 0
    """Requests to S3 that its processes have told (PYANAMO_METER)."""
    log_path: str = ""
    """The log file on this machine, for the upload."""
