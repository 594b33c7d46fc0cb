"""Every key, attribute name, condition and update of the table; nothing else in the package spells one.

Attributes that PyAnamo 1 had keep their names (itemID, TaskID, TaskScript, ItemState, InstanceID, Lock_Date, Done_Date,
Nested_Tasks, lockID). Expressions are written with bare names: `named` puts the `#` that DynamoDB wants before each of
them, so that no reserved word (status, mode, row …) ever bites.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

# ------------------------------------------------------------------------------------------------------------- keys

HASH: Final = "itemID"
RANGE: Final = "row"
INDEX: Final = "by-queue"
QUEUE: Final = "queue"
DUE: Final = "due"
EXPIRES: Final = "expires"

ITEM_ROW: Final = "ITEM"
PILOT_ROW: Final = "PILOT"
WORKFLOW_ID: Final = "!workflow"
RUN_ID: Final = "!run"
PILOT_PREFIX: Final = "!pilot/"
PILOT_QUEUE: Final = "pilot"

DEFINITION_PREFIX: Final = "DEF#"
NEST_PREFIX: Final = "NEST#"
LOG_PREFIX: Final = "LOG#"
ATTEMPT_PREFIX: Final = "TRY#"
VERSION_PREFIX: Final = "V#"


def definition_prefix(definition_hash: str) -> str:
    """`DEF#<hash12>#`: the rows of one definition."""
    return f"{DEFINITION_PREFIX}{definition_hash}#"


def definition_row(definition_hash: str, chunk: int) -> str:
    return f"{definition_prefix(definition_hash)}{chunk:03d}"


def nest_prefix(epoch: int) -> str:
    """`NEST#<epoch>#`: the rows of one epoch."""
    return f"{NEST_PREFIX}{epoch}#"


def nest_row(epoch: int, nest: int) -> str:
    return f"{nest_prefix(epoch)}{nest:05d}"


def log_row(epoch: int, nest: int, fence: int) -> str:
    return f"{LOG_PREFIX}{epoch}#{nest:05d}#{fence}"


def attempt_row(fence: int) -> str:
    return f"{ATTEMPT_PREFIX}{fence}"


def version_row(version: int) -> str:
    return f"{VERSION_PREFIX}{version:04d}"


def pilot_hash(pilot_id: str) -> str:
    return f"{PILOT_PREFIX}{pilot_id}"


def queue(state: str, shard: int) -> str:
    """`<state>#<shard>`: the index's hash key."""
    return f"{state}#{shard}"


def due_at(when: float) -> str:
    """A time (seconds since 1970) as the index sorts it: 15 digits of milliseconds."""
    return f"{max(0, round(when * 1000)):015d}"


def due_time(due: str) -> float:
    return int(due.removeprefix(MARK_ON_DEMAND)) / 1000


MARK_ON_DEMAND: Final = "o"
"""Before the `due` of an open item that is for on-demand pilots only: behind all digits, where no other pilot looks."""


def marked(due: str) -> str:
    """A `due` among the items for on-demand pilots."""
    return MARK_ON_DEMAND + due


def due_todo(priority: int, random_hex: str) -> str:
    """Priority digit and 12 random hex digits: a random place among the items of one priority."""
    return f"{priority}{random_hex}"


# ------------------------------------------------------------------------------------------------------- attributes

LOCK_ID: Final = "lockID"
TASK_SCRIPT: Final = "TaskScript"
TASK_ARGS: Final = "TaskArgs"
PARTS: Final = "parts"
TAIL: Final = "tail"
LAST_MOVE: Final = "last_move"
ON_DEMAND: Final = "od"
"""Short: the fullest row must stay below 1 KB."""

ITEM: Final[dict[str, str]] = {
    "item_id": HASH,
    "task_id": "TaskID",
    "state": "ItemState",
    "fence": "fence",
    "epoch": "epoch",
    "tries": "tries",
    "interruptions": "interruptions",
    "progress_fence": "progress_fence",
    "priority": "priority",
    "cancelled": "cancelled",
    "owner": "InstanceID",
    "run_id": "run",
    "lease_end": "lease_end",
    "nests": "Nested_Tasks",
    "nests_done": "nests_done",
    "nests_failed": "nests_failed",
    "definition_hash": "definition",
    "revision": "revision",
    "cause": "cause",
    "message": "message",
    "memory_factor": "memory_factor",
    "nest_seconds": "nest_seconds",
    "on_demand": ON_DEMAND,
    "last_move": LAST_MOVE,
    "created": "created",
    "locked_at": "Lock_Date",
    "finished_at": "Done_Date",
}
"""Field of model.Item → attribute. `due` of a waiting item is the index's `due`."""

DATES: Final = frozenset({"created", "locked_at", "finished_at"})
"""Fields of an item that stand in its row as text, e.g. 2026-11-22T18:00:00.000Z."""

NEST: Final[dict[str, str]] = {
    name: name
    for name in (
        "status",
        "fence",
        "exit_code",
        "cause",
        "message",
        "started",
        "ended",
        "peak_memory_mb",
        "cpu_seconds",
        "outputs",
        "tags",
        "overflow",
        "overflow_sha256",
        "output_count",
        "tag_count",
        "log",
        "tail",
        "truncated",
        "revision",
        "token",
    )
} | {"figures": "figures", "run_id": "run", "pilot_id": "InstanceID"}

ATTEMPT: Final[dict[str, str]] = {
    name: name
    for name in (
        "epoch",
        "batch_job",
        "batch_attempt",
        "host",
        "instance_type",
        "lifecycle",
        "zone",
        "job_queue",
        "vcpus",
        "slots",
        "started",
        "ended",
        "cause",
        "evidence",
        "slot_seconds",
        "kept_seconds",
        "cpu_seconds",
    )
} | {"pilot_id": "InstanceID", "run_id": "run"}

PILOT: Final[dict[str, str]] = {
    name: name
    for name in (
        "batch_job",
        "batch_attempt",
        "array_index",
        "host",
        "instance_type",
        "lifecycle",
        "zone",
        "job_queue",
        "vcpus",
        "version",
        "started",
        "ready",
        "last_beat",
        "ended",
        "leaving",
        "exit_code",
        "items",
        "nests",
        "slots",
        "claims",
        "conflicts",
        "items_done",
        "items_failed",
        "nests_done",
        "nests_failed",
        "busy_seconds",
        "holding",
        "last_lines",
        "overrides",
        "notes",
        "clock_offset_seconds",
        "free_disk_mb",
        "free_staging_mb",
        "memory_mb",
        "memory_limit_mb",
        "spent",
    )
} | {"pilot_id": "InstanceID", "run_id": "run", "flow_run_id": "flow_run"}

RUN: Final[dict[str, str]] = {
    name: name
    for name in (
        "mode",
        "hand_back",
        "revision",
        "token",
        "limits",
        "max_dollars",
        "vcpu_hour",
        "only",
        "min_pilot",
        "watcher",
        "watcher_fence",
        "watcher_lease_end",
        "started",
        "ended",
        "outcome",
        "reason",
        "prefect_api_url",
        "prefect_detail",
    )
} | {"workflow_version": "version", "flow_run_id": "flow_run"}

SUBMISSIONS: Final = "submissions"
NAMES: Final = "names"
"""Queues and job definitions of a run's submissions, which refer to them by number: the row stays below 1 KB."""

WORKFLOW: Final = "workflow"
SCHEMA: Final = "schema"
SHARDS: Final = "shards"
CREATED: Final = "created"
REVISION: Final = "revision"

# ------------------------------------------------------------------------------------------------------- conditions

NEW: Final = "attribute_not_exists(itemID)"
"""Import, a workflow's version, a run: put once."""

CLAIM: Final = (
    "(ItemState = :todo OR (ItemState = :waiting AND due <= :now))"
    " AND tries < :max_tries AND attribute_not_exists(cancelled)"
    " AND (attribute_not_exists(lockID) OR lockID <> :token)"
)
"""The last line refuses a delayed copy of a claim that was won, used and handed back."""
CLAIM_ORDINARY: Final = f"{CLAIM} AND attribute_not_exists(od)"
CLAIM_ON_DEMAND: Final = f"{CLAIM} AND attribute_exists(od)"

_OVER: Final = (
    "ItemState = :locked AND fence = :seen_fence AND lease_end = :seen_lease_end AND lease_end < :lease_limit"
)
RECLAIM: Final = f"{_OVER} AND interruptions < :max_interruptions AND attribute_not_exists(cancelled)"
EXPIRE_AT_CAP: Final = f"{_OVER} AND interruptions >= :max_interruptions AND attribute_not_exists(cancelled)"
EXPIRE_CANCELLED: Final = f"{_OVER} AND attribute_exists(cancelled)"

HELD: Final = "ItemState = :locked AND fence = :seen_fence"
"""Locked, and the fence is mine."""
BEAT: Final = f"{HELD} AND lease_end < :lease_end"
FINISH: Final = f"{HELD} AND Nested_Tasks = :nests_done"
HELD_WANTED: Final = f"{HELD} AND attribute_not_exists(cancelled)"
HELD_CANCELLED: Final = f"{HELD} AND attribute_exists(cancelled)"

_UNMOVED: Final = "last_move = :seen_move"
"""For moves that mint no fence: a copy of one that arrives after newer moves must not be made once more."""
RETRY: Final = f"ItemState IN (:failed, :cancelled) AND fence = :seen_fence AND {_UNMOVED}"
NOT_LOCKED: Final = "attribute_exists(itemID) AND ItemState <> :locked AND fence = :seen_fence"
CANCEL_OPEN: Final = f"ItemState IN (:todo, :waiting) AND {_UNMOVED}"
CANCEL_LOCKED: Final = f"ItemState = :locked AND {_UNMOVED}"
RECOVER: Final = f"{HELD} AND InstanceID = :seen_owner AND lease_end = :seen_lease_end"
RECOVER_WANTED: Final = f"{RECOVER} AND attribute_not_exists(cancelled)"
RECOVER_CANCELLED: Final = f"{RECOVER} AND attribute_exists(cancelled)"

NEST_PUT: Final = (
    "(attribute_not_exists(status) OR status <> :done) AND (attribute_not_exists(fence) OR fence <= :fence)"
)
"""The first verified result of an epoch wins, and nobody writes over a newer claim's row."""

ATTEMPT_OPEN: Final = "attribute_not_exists(cause)"
"""A dead claim is marked `lost` only where nothing better is known."""

MODE_FORWARD: Final = "attribute_exists(itemID) AND mode IN (:before_1, :before_2)"
WATCH_FREE: Final = (
    "attribute_exists(itemID) AND watcher_fence = :seen_fence AND (watcher = :watcher OR watcher_lease_end <= :now)"
)
WATCH_MINE: Final = "attribute_exists(itemID) AND watcher_fence = :seen_fence"
RESERVE: Final = f"{WATCH_MINE} AND attribute_not_exists(submissions.{{sequence}}) AND size(submissions) = :before"
SETTLE: Final = "attribute_exists(submissions.{sequence})"
SETTLE_FAILED: Final = "submissions.{sequence} = :reserved"
RUN_EXISTS: Final = "attribute_exists(itemID)"
PILOT_NOT_ENDED: Final = "attribute_not_exists(ended)"
RUN_LIVE: Final = "attribute_exists(itemID) AND attribute_not_exists(ended)"
RUN_WITHDRAW: Final = "token = :token AND watcher_fence = :zero"

AS_SEEN: Final = "ItemState = :seen_state AND fence = :seen_fence AND last_move = :seen_move"
"""A repair of fsck: nothing has moved since it looked."""
PILOT_AS_SEEN: Final = "attribute_exists(itemID) AND last_beat = :seen_beat"

# ---------------------------------------------------------------------------------------------------------- updates

CLAIM_UPDATE: Final = (
    "SET ItemState = :locked, queue = :queue, due = :due, fence = fence + :one, tries = tries + :one,"
    " lockID = :token, last_move = :token, InstanceID = :owner, run = :run_id, lease_end = :lease_end,"
    " Lock_Date = :locked_at REMOVE Done_Date"
)
RESERVE_UPDATE: Final = "SET submissions.{sequence} = :submission, names = :names"
SETTLE_UPDATE: Final = "SET submissions.{sequence} = :submission"
MODE_UPDATE: Final = "SET mode = :mode, reason = :reason, hand_back = :hand_back"
WATCH_UPDATE: Final = "SET watcher = :watcher, watcher_fence = :watcher_fence, watcher_lease_end = :watcher_lease_end"
RELEASE_UPDATE: Final = "SET watcher = :nobody, watcher_lease_end = :zero"
END_UPDATE: Final = "SET ended = :ended, outcome = :outcome, reason = :reason"

_LEAVES = ("state", "owner", "lease_end", "cause", "message", "tries", "interruptions", "cancelled")
WRITES: Final[dict[str, tuple[str, ...]]] = {
    "reclaim": ("fence", "interruptions", "owner", "run_id", "lease_end", "locked_at"),
    "expire": ("state", "lease_end", "cause", "message", "cancelled", "finished_at"),
    "beat": ("lease_end", "nests_done", "nests_failed"),
    "beat with progress": ("lease_end", "progress_fence", "nests_done", "nests_failed"),
    "finish": ("state", "lease_end", "cause", "message", "cancelled", "nests_done", "nests_failed", "finished_at"),
    "fail": ("state", "lease_end", "cause", "message", "cancelled", "nests_done", "nests_failed", "finished_at"),
    "wait": (*_LEAVES, "memory_factor", "nests_done", "nests_failed", "locked_at", "finished_at"),
    "hand back": (*_LEAVES, "nests_done", "locked_at", "finished_at"),
    "retry": (
        "state",
        "tries",
        "interruptions",
        "cancelled",
        "cause",
        "message",
        "memory_factor",
        "nest_seconds",
        "on_demand",
        "finished_at",
    ),
    "reset": (
        *_LEAVES,
        "fence",
        "epoch",
        "memory_factor",
        "nest_seconds",
        "on_demand",
        "nests_done",
        "nests_failed",
        "run_id",
        "locked_at",
        "finished_at",
    ),
    "edit": (
        *_LEAVES,
        "fence",
        "epoch",
        "memory_factor",
        "nest_seconds",
        "on_demand",
        "nests",
        "nests_done",
        "nests_failed",
        "definition_hash",
        "revision",
        "run_id",
        "locked_at",
        "finished_at",
    ),
    "extend": (*_LEAVES, "fence", "nests", "nests_failed", "definition_hash", "locked_at", "finished_at"),
    "redo": (*_LEAVES, "fence", "nests_done", "nests_failed", "locked_at", "finished_at"),
    "cancel": ("state", "cause", "message", "cancelled", "finished_at"),
    "mark": ("cancelled",),
    "recover": (*_LEAVES, "fence", "memory_factor", "locked_at", "finished_at"),
}
"""Which fields each move writes, as absolute values; a field that is unset then is removed. Index keys follow the state."""

DROPS: Final[dict[str, tuple[str, ...]]] = {"edit": (TASK_SCRIPT, TASK_ARGS), "extend": (TASK_SCRIPT, TASK_ARGS)}
"""Attributes that a move removes: an inline definition goes when another one, in DEF rows, takes its place."""

MARK: Final = "mark"
BEAT_WITH_PROGRESS: Final = "beat with progress"

# ------------------------------------------------------------------------------------------------------------ names

_WORD = re.compile(r"(?<![:#\w])([A-Za-z_]\w*)")
_GRAMMAR = frozenset(
    [
        "SET",
        "REMOVE",
        "ADD",
        "DELETE",
        "AND",
        "OR",
        "NOT",
        "IN",
        "BETWEEN",
        "size",
        "begins_with",
        "attribute_exists",
        "attribute_not_exists",
        "if_not_exists",
        "list_append",
    ]
)


def named(*expressions: str) -> tuple[list[str], dict[str, str]]:
    """The expressions with `#` before each attribute name, and the names for ExpressionAttributeNames."""
    names: dict[str, str] = {}

    def hashed(found: re.Match[str]) -> str:
        word = found.group(1)
        if word in _GRAMMAR:
            return word
        names[f"#{word}"] = word
        return f"#{word}"

    return [_WORD.sub(hashed, expression) for expression in expressions], names


@dataclass(frozen=True)
class Expressions:
    """What one guarded write says: condition, update (empty for a put), and the values that both name."""

    condition: str
    update: str
    values: Mapping[str, Any]

    def parameters(self) -> dict[str, Any]:
        """As boto3 takes them; values that neither expression names are left out."""
        (condition, update), names = named(self.condition, self.update)
        mentioned = set(re.findall(r":\w+", condition + " " + update))
        told: dict[str, Any] = {"ExpressionAttributeNames": names} if names else {}
        values = {name: self.values[name] for name in sorted(mentioned)}
        if values:
            told["ExpressionAttributeValues"] = values
        if condition:
            told["ConditionExpression"] = condition
        if update:
            told["UpdateExpression"] = update
        return told


def as_seen(seen: Mapping[str, Any | None]) -> tuple[str, dict[str, Any]]:
    """The condition that a row stands and that these attributes are as seen (None: absent), and its values."""
    told, values = ["attribute_exists(itemID)"], dict[str, Any]()
    for name, value in seen.items():
        if value is None:
            told.append(f"attribute_not_exists({name})")
        else:
            told.append(f"{name} = :seen_{name}")
            values[f":seen_{name}"] = value
    return " AND ".join(told), values


def set_and_remove(sets: Iterable[str], removes: Iterable[str]) -> str:
    """An update that sets each attribute to the value of its own name (`:fence` for fence) and removes the others."""
    told = "SET " + ", ".join(f"{name} = :{name}" for name in sets)
    gone = ", ".join(removes)
    return f"{told} REMOVE {gone}" if gone else told
