"""Values ⇄ rows of the table (DynamoDB's JSON), their sizes, and what fits where. Pure.

Sizes follow "Capacity unit consumption" of the DynamoDB developer guide: names and strings as UTF-8, numbers about a
byte per two digits and one, lists and maps 3 bytes and one per element.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, cast

from pyanamo_core.errors import BadInput, DefinitionTooBig
from pyanamo_core.ledger import expressions as x
from pyanamo_core.model import (
    MAX_ITEM_ID_BYTES,
    MAX_TASK_ID_BYTES,
    Attempt,
    Cause,
    Definition,
    Item,
    Nest,
    NestStatus,
    PilotRecord,
    State,
    Value,
)

Row = dict[str, Any]
"""A row as boto3's client gives it: attribute → {type: value}."""

ITEM_ROW_BYTES: Final = 920
"""An item's row never grows beyond this: each of its writes is one unit of the table."""
MESSAGE_BYTES: Final = 120
EVIDENCE_BYTES: Final = 120
REASON_BYTES: Final = 160
NEST_MESSAGE_BYTES: Final = 400
INLINE_TAIL_BYTES: Final = 512
TAIL_BYTES: Final = 2048
CHUNK_BYTES: Final = 300_000
VALUE_BYTES: Final = 64 * 1024
"""Linux takes no single argument or environment string above 128 KiB, so no longer script or value could ever run."""
ROW_SAFE_BYTES: Final = 390 * 1024
"""DynamoDB refuses rows above 400 KB."""
OWNER_BYTES: Final = 64
"""Pilot ids and run ids may be that long; longer ones are refused, since the item's row counts on it."""
PILOT_TTL_SECONDS: Final = 30 * 86400

# --------------------------------------------------------------------------------------------------------- plain types


def pack(value: Any) -> dict[str, Any]:
    """A Python value as DynamoDB's JSON. Floats keep milliseconds' worth of digits (15 significant)."""
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, str):
        return {"S": str(value)}
    if isinstance(value, int):
        return {"N": str(value)}
    if isinstance(value, float):
        return {"N": f"{value:.15g}"}
    if value is None:
        return {"NULL": True}
    if isinstance(value, Mapping):
        return {"M": {str(k): pack(v) for k, v in cast("Mapping[str, Any]", value).items()}}
    return {"L": [pack(v) for v in value]}


def unpack(value: Mapping[str, Any]) -> Any:
    ((kind, inner),) = value.items()
    if kind == "N":
        number = float(inner)
        return int(inner) if inner.lstrip("-").isdigit() else number
    if kind == "M":
        return {k: unpack(v) for k, v in inner.items()}
    if kind == "L":
        return [unpack(v) for v in inner]
    if kind == "NULL":
        return None
    return inner


def values(**plain: Any) -> dict[str, Any]:
    """Expression values: `values(now=1)` is {":now": {"N": "1"}}."""
    return {f":{name}": pack(value) for name, value in plain.items()}


def size(row: Mapping[str, Any]) -> int:
    """Bytes of a row, as DynamoDB counts them."""
    return sum(len(name.encode()) + _size(value) for name, value in row.items())


def _size(value: Mapping[str, Any]) -> int:
    ((kind, inner),) = value.items()
    if kind == "S":
        return len(inner.encode())
    if kind == "N":
        digits = len(inner.replace("-", "").replace(".", "").strip("0")) or 1
        return math.ceil(digits / 2) + 1 + ("-" in inner)
    if kind == "M":
        return 3 + sum(1 + len(k.encode()) + _size(v) for k, v in inner.items())
    if kind == "L":
        return 3 + sum(1 + _size(v) for v in inner)
    return 1


def clipped(text: str, limit: int) -> str:
    """The beginning of a text, at most so many bytes of UTF-8."""
    told = text.encode()
    return text if len(told) <= limit else told[: max(0, limit)].decode(errors="ignore")


def clipped_end(text: str, limit: int) -> str:
    """The end of a text, at most so many bytes of UTF-8."""
    told = text.encode()
    return text if len(told) <= limit else told[len(told) - limit :].decode(errors="ignore")


def date_text(when: float) -> str:
    """Seconds since 1970 as text that people and sorting understand: 2026-11-22T18:00:00.000Z."""
    stamp = datetime.fromtimestamp(round(when * 1000) / 1000, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{round(when * 1000) % 1000:03d}Z"


def date_time(text: str) -> float:
    return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp(), 3)


def shard_of(item_id: str, shards: int) -> int:
    """The queue shard of an item: a hash, so that neighbours in a sheet do not share one."""
    return zlib.crc32(item_id.encode()) % shards


def key(item_id: str, row: str) -> Row:
    return {x.HASH: {"S": item_id}, x.RANGE: {"S": row}}


# ----------------------------------------------------------------------------------------------------------- checks


def check_ids(item_id: str, task_id: str) -> None:
    """Raises BadInput for ids that no row may have (the sheet finds them earlier, with line numbers)."""
    for name, text, limit in (("itemID", item_id, MAX_ITEM_ID_BYTES), ("TaskID", task_id, MAX_TASK_ID_BYTES)):
        if not text:
            raise BadInput(f"An empty {name} is no name.")
        if len(text.encode()) > limit:
            raise BadInput(
                f"{name} {clipped(text, 60)!r}… has {len(text.encode())} bytes, at most {limit} are possible."
            )
        if text.startswith("!"):
            raise BadInput(f"{name} {text!r} starts with '!', which marks PyAnamo's own rows.")


def check_owner(what: str, text: str) -> None:
    """Raises BadInput if a pilot's or a run's id is empty or above OWNER_BYTES."""
    if not text or len(text.encode()) > OWNER_BYTES:
        raise BadInput(f"{what} {clipped(text, 80)!r} must have 1 to {OWNER_BYTES} bytes.")


def check_definition(definition: Definition) -> None:
    """Raises DefinitionTooBig for a script or value that no process could be started with."""
    for what, text in (("TaskScript", definition.script), *(("value", value) for value in definition.arguments)):
        if len(text.encode()) > VALUE_BYTES:
            raise DefinitionTooBig(what=what, start=clipped(text, 60), bytes=len(text.encode()), limit=VALUE_BYTES)


# ------------------------------------------------------------------------------------------------------------ items


_OMITTED: Final[dict[str, object]] = {"message": "", "revision": "", "run_id": "", "memory_factor": 1.0}
"""Fields of an item that have no attribute while they hold this."""


def item_attributes(item: Item) -> Row:
    """An item's attributes without its index keys; fields that are unset have none."""
    row: Row = {}
    for field, name in x.ITEM.items():
        value: Any = getattr(item, field)
        if value is None or value is False or (field in _OMITTED and value == _OMITTED[field]):
            continue
        row[name] = pack(date_text(value) if field in x.DATES else value)
    return row


def index_keys(item: Item, shards: int, random_hex: str) -> Row:
    """Where the item stands in the queue index."""
    if item.state is State.TODO:
        due = x.due_todo(item.priority, random_hex)
    elif item.state is State.WAITING:
        due = x.due_at(item.due or 0.0)
    elif item.state is State.LOCKED:
        due = x.due_at(item.lease_end or 0.0)
    else:
        due = x.due_at(item.finished_at or 0.0)
    if item.on_demand and item.state in (State.TODO, State.WAITING, State.LOCKED):
        due = x.marked(due)
    return {x.QUEUE: {"S": x.queue(item.state, shard_of(item.item_id, shards))}, x.DUE: {"S": due}}


def item_row(item: Item, shards: int, random_hex: str, definition: Definition | None = None) -> Row:
    """An item's whole row; with `definition` it stands inline."""
    row = item_attributes(item) | {x.RANGE: {"S": x.ITEM_ROW}} | index_keys(item, shards, random_hex)
    if definition is not None:
        row |= definition_attributes(definition)
    return row


def read_item(row: Mapping[str, Any]) -> Item:
    """The item of a row. Attributes that this version does not know are left aside."""
    fields: dict[str, Any] = {}
    for field, name in x.ITEM.items():
        if name in row:
            value = unpack(row[name])
            fields[field] = date_time(value) if field in x.DATES else value
    fields["state"] = State(fields["state"])
    fields["run_id"] = fields.get("run_id") or None
    if "cause" in fields:
        fields["cause"] = Cause(fields["cause"])
    if fields["state"] is State.WAITING:
        fields["due"] = x.due_time(row[x.DUE]["S"])
    for name in ("lease_end", "memory_factor", "nest_seconds"):
        if name in fields:
            fields[name] = float(fields[name])
    return Item.model_construct(**fields)


def _fullest(item_id: str, task_id: str) -> Row:
    """The biggest row that an item with these ids can have, without message and inline definition."""
    item = Item(
        item_id=item_id,
        task_id=task_id,
        state=State.CANCELLED,
        fence=999_999,
        epoch=9_999,
        tries=99,
        interruptions=999,
        progress_fence=999_999,
        cancelled=True,
        owner="p" * OWNER_BYTES,
        run_id="r" * OWNER_BYTES,
        lease_end=1_899_999_999.999,
        nests=99_999,
        nests_done=99_999,
        nests_failed=99_999,
        definition_hash="d" * 12,
        revision="r" * 12,
        cause=Cause.OUT_OF_MEMORY,
        memory_factor=99.999,
        nest_seconds=999_999.999,
        on_demand=True,
        last_move="t" * 16,
        created=1_899_999_999.999,
        locked_at=1_899_999_999.999,
        finished_at=1_899_999_999.999,
    )
    row = item_row(item, 256, "0" * 14) | {x.LOCK_ID: {"S": "t" * 16}}
    return row | {x.QUEUE: {"S": x.queue(State.CANCELLED, 255)}}


_BARE_BYTES: Final = size(_fullest("i", "t")) - 2


def message_room(item: Item) -> int:
    """Bytes that the message of an item may have, so that its row stays within ITEM_ROW_BYTES whatever happens."""
    taken = _BARE_BYTES + len(item.item_id.encode()) + len(item.task_id.encode()) + len(x.ITEM["message"])
    return max(0, min(MESSAGE_BYTES, ITEM_ROW_BYTES - taken))


def fits_inline(item: Item, definition: Definition) -> bool:
    """May the definition stand in the item's row, with room left for all that the row may come to hold?"""
    taken = _BARE_BYTES + len(item.item_id.encode()) + len(item.task_id.encode()) + len(x.ITEM["message"])
    return taken + MESSAGE_BYTES + size(definition_attributes(definition)) <= ITEM_ROW_BYTES


def with_message(item: Item) -> Item:
    """The item with its message cut to what its row has room for."""
    room = message_room(item)
    return item if len(item.message) * 4 <= room else item.model_copy(update={"message": clipped(item.message, room)})


# ------------------------------------------------------------------------------------------------------ definitions


def definition_attributes(definition: Definition) -> Row:
    row: Row = {x.TASK_SCRIPT: {"S": definition.script}}
    if definition.arguments:
        row[x.TASK_ARGS] = pack(definition.arguments)
    return row


def definition_rows(item_id: str, definition: Definition, now: float) -> list[Row]:
    """The DEF rows of a definition: the first with the script, each with up to 300 KB of the values.

    Args:
        now: when they are written; by this fsck tells what is left over from what an import is about to name.
    """
    chunks: list[list[str]] = [[]]
    taken = len(definition.script.encode())
    for value in definition.arguments:
        needs = len(value.encode()) + 1
        if taken + needs > CHUNK_BYTES:
            chunks.append([])
            taken = 0
        chunks[-1].append(value)
        taken += needs
    rows: list[Row] = []
    for number, chunk in enumerate(chunks):
        row = key(item_id, x.definition_row(definition.hash, number)) | {x.CREATED: pack(now)}
        if number == 0:
            row |= {x.TASK_SCRIPT: {"S": definition.script}, x.PARTS: pack(len(chunks))}
        if chunk:
            row[x.TASK_ARGS] = pack(chunk)
        rows.append(row)
    return rows


def read_definition(rows: list[Row]) -> Definition | None:
    """The definition of its DEF rows in order (or of an item's row with an inline one); None if they are not all there."""
    if not rows or x.TASK_SCRIPT not in rows[0]:
        return None
    if x.PARTS in rows[0] and unpack(rows[0][x.PARTS]) != len(rows):
        return None
    found: list[str] = []
    for row in rows:
        if x.TASK_ARGS in row:
            found += [value["S"] for value in row[x.TASK_ARGS]["L"]]
    return Definition(script=rows[0][x.TASK_SCRIPT]["S"], arguments=tuple(found))


# ------------------------------------------------------------------------------------------------------------ nests


def recordable(nest: Nest) -> tuple[Nest, str]:
    """A nest as its row holds it, and the tail for a LOG row ("" if none is needed).

    On failure the tail (the last 2 KB) always has a row of its own; on success up to 512 B stay in the nest's row.
    The pilot keeps outputs, tags and figures within INLINE_BYTES (more goes into the object that `overflow` names); a
    row that DynamoDB could not take is cut to its minimal form here, and `truncated` says so.
    """
    tail = clipped_end(nest.tail, TAIL_BYTES)
    apart = bool(tail) and (nest.status is NestStatus.FAILED or len(tail.encode()) > INLINE_TAIL_BYTES)
    kept = nest.model_copy(
        update={
            "message": clipped(nest.message, NEST_MESSAGE_BYTES),
            "tail": "" if apart else tail,
            "output_count": nest.output_count or len(nest.outputs),
            "tag_count": nest.tag_count or len(nest.tags),
        }
    )
    if size(nest_row(kept)) > ROW_SAFE_BYTES:
        kept = minimal(kept)
    return kept, tail if apart else ""


def minimal(nest: Nest) -> Nest:
    """The nest without what can be big: too big is not lost."""
    return nest.model_copy(
        update={
            "outputs": (),
            "tags": (),
            "figures": {},
            "tail": "",
            "message": clipped(nest.message, 120),
            "truncated": True,
        }
    )


def nest_row(nest: Nest) -> Row:
    """A nest's row. Figures are JSON text; fields at their defaults have no attribute."""
    row = key(nest.item_id, x.nest_row(nest.epoch, nest.index))
    told = changed_fields(nest, x.NEST)
    if "figures" in told:
        told["figures"] = json.dumps(told["figures"], ensure_ascii=False, separators=(",", ":"), default=str)
    for name in ("outputs",):
        if name in told:
            told[name] = [{k: v for k, v in output.items() if v not in ("", None)} for output in told[name]]
    if "log" in told:
        told["log"] = {k: v for k, v in told["log"].items() if v not in ("", 0, None)}
    row |= {x.NEST[field]: pack(value) for field, value in told.items()}
    row |= {x.NEST["status"]: {"S": nest.status}, x.NEST["fence"]: pack(nest.fence)}
    return row


def read_nest(row: Mapping[str, Any]) -> Nest:
    fields = read_fields(row, x.NEST)
    if "figures" in fields:
        fields["figures"] = json.loads(fields["figures"])
    _, epoch, index = row[x.RANGE]["S"].split("#")
    return Nest.model_validate({"item_id": row[x.HASH]["S"], "epoch": int(epoch), "index": int(index)} | fields)


def log_row(nest: Nest, tail: str) -> Row:
    return key(nest.item_id, x.log_row(nest.epoch, nest.index, nest.fence)) | {x.TAIL: {"S": tail}}


# -------------------------------------------------------------------------------------------- attempts and pilots


def attempt_fields(attempt: Attempt) -> Row:
    """The attributes of an attempt that are told; unset ones leave what stands."""
    told = changed_fields(attempt, x.ATTEMPT)
    if "evidence" in told:
        told["evidence"] = clipped(told["evidence"], EVIDENCE_BYTES)
    return {x.ATTEMPT[field]: pack(value) for field, value in told.items()}


def read_attempt(row: Mapping[str, Any]) -> Attempt:
    fence = int(row[x.RANGE]["S"].removeprefix(x.ATTEMPT_PREFIX))
    return Attempt.model_validate({"item_id": row[x.HASH]["S"], "fence": fence} | read_fields(row, x.ATTEMPT))


def pilot_row(record: PilotRecord, shards: int) -> Row:
    # Whole milliseconds: the index keys that follow from the row as it is read again are then those that stand.
    record = record.model_copy(update={"last_beat": round(record.last_beat, 3)})
    row = key(x.pilot_hash(record.pilot_id), x.PILOT_ROW)
    row |= {x.PILOT[field]: pack(value) for field, value in changed_fields(record, x.PILOT).items()}
    row[x.QUEUE] = {"S": x.queue(x.PILOT_QUEUE, shard_of(record.pilot_id, shards))}
    row[x.DUE] = {"S": x.due_at(record.last_beat)}
    row[x.EXPIRES] = pack(int(record.last_beat + PILOT_TTL_SECONDS))
    return row


def read_pilot(row: Mapping[str, Any]) -> PilotRecord:
    fields = {"pilot_id": row[x.HASH]["S"].removeprefix(x.PILOT_PREFIX)} | read_fields(row, x.PILOT)
    return PilotRecord.model_validate(fields)


def changed_fields(value: Value, names: Mapping[str, str]) -> dict[str, Any]:
    """The fields that differ from their defaults, as plain values."""
    told = value.model_dump(mode="json", exclude_defaults=True)
    return {field: told[field] for field in names if field in told}


def read_fields(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {field: unpack(row[name]) for field, name in names.items() if name in row}


# ------------------------------------------------------------------------------------------ rows and moves together


def written(item: Item, name: str, more: Row, token: str) -> tuple[str, Row]:
    """The update expression that writes the fields of one of expressions.WRITES and `more`, and its values.

    A field that is unset is removed.
    """
    return written_fields(item, x.WRITES[name], more, token, x.DROPS.get(name, ()))


def written_fields(
    item: Item, fields: Iterable[str], more: Row, token: str, drops: Iterable[str] = ()
) -> tuple[str, Row]:
    """The same for fields that are named one by one; `drops` are attributes to remove."""
    row, names = item_attributes(item), [x.ITEM[field] for field in fields]
    sets = {name: row[name] for name in names if name in row} | more | {x.LAST_MOVE: {"S": token}}
    removes = [name for name in names if name not in row] + list(drops)
    return x.set_and_remove(sets, removes), {f":{name}": value for name, value in sets.items()}
