"""The rows of both ledgers in one form, so that they can be compared, and what fsck says of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from pyanamo_core.ledger import Ledger, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.fsck import Bounds, Kind, Weight, check_item
from pyanamo_core.ledger.fsck_own import check_other, check_own
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.ledger.run_rows import read_run, run_row
from pyanamo_core.model import Claim, Item, Nest, NestStatus, Rules, State

Row = dict[str, Any]


def rows_of_table(ledger: Ledger) -> list[Row]:
    return [row for page in ledger._store.scan() for row in page]


def rows_of_twin(twin: MemoryLedger) -> list[Row]:
    """The rows that the twin would have in a table. Definitions stand in rows of their own."""
    found: list[Row] = []
    for item in twin._items.values():
        queue, due = twin._places[item.item_id]
        found.append(rows.item_row(item, twin.rules.shards, "") | {x.QUEUE: {"S": queue}, x.DUE: {"S": due}})
    for (item_id, _), definition in twin._definitions.items():
        found += rows.definition_rows(item_id, definition, 0)
    found += [rows.nest_row(nest) for nests in twin._nests.values() for nest in nests.values()]
    for (item_id, epoch, index, fence), tail in twin._tails.items():
        nest = Nest(item_id=item_id, epoch=epoch, index=index, fence=fence, status=NestStatus.FAILED)
        found.append(rows.log_row(nest, tail))
    for item_id, attempts in twin._attempts.items():
        for fence, attempt in attempts.items():
            found.append(rows.key(item_id, x.attempt_row(fence)) | rows.attempt_fields(attempt))
    found += [rows.pilot_row(record, twin.rules.shards) for record in twin._pilots.values()]
    found += [run_row(run) for run in twin._runs.values()]
    for number, each in enumerate(twin._workflows, start=1):
        told = each.model_dump_json(exclude_defaults=True)
        found.append(
            rows.key(x.WORKFLOW_ID, x.version_row(number))
            | {x.WORKFLOW: {"S": told}, x.SHARDS: rows.pack(each.shard_count), x.SCHEMA: rows.pack(1)}
        )
    return found


def comparable(found: Iterable[Row]) -> dict[tuple[str, str], Any]:
    """Rows by their key, without what each side draws by itself and where its definitions stand."""
    told: dict[tuple[str, str], Any] = {}
    for row in found:
        item_id, name = row[x.HASH]["S"], row[x.RANGE]["S"]
        if name.startswith(x.DEFINITION_PREFIX):
            continue
        if item_id == x.RUN_ID:
            told[item_id, name] = read_run(row)
        elif item_id == x.WORKFLOW_ID:
            told[item_id, name] = row[x.WORKFLOW]["S"], row[x.SHARDS]["N"]
        else:
            drawn = {x.LOCK_ID, x.LAST_MOVE, x.NEST["token"], x.TASK_SCRIPT, x.TASK_ARGS}
            kept = {each: value for each, value in row.items() if each not in drawn and value != {"S": ""}}
            if kept.get(x.ITEM["state"], {}).get("S") == State.TODO:
                kept[x.DUE] = {"S": kept[x.DUE]["S"][:1]}
            told[item_id, name] = {each: _number(value) for each, value in kept.items()}
    return told


def _number(value: Any) -> Any:
    """100 and 100.0 are one number in DynamoDB."""
    return float(value["N"]) if "N" in value else value


def faults_of(found: list[Row], rules: Rules, now: float) -> list[tuple[str, Kind, str]]:
    """What fsck's pure checks call a fault in a whole table, whether or not a run is live (then items may be stuck)."""
    told: list[tuple[str, Kind, str]] = []
    by_hash = sorted(found, key=lambda row: (row[x.HASH]["S"], row[x.RANGE]["S"]))
    groups = {name: list(group) for name, group in groupby(by_hash, key=lambda row: str(row[x.HASH]["S"]))}
    own = check_own(groups.get(x.WORKFLOW_ID, []), groups.get(x.RUN_ID, []), now)
    findings = list(own.findings)
    for live in (True, False):
        bounds = Bounds.of(rules, now, live=live)
        for name, group in groups.items():
            if name.startswith(x.PILOT_PREFIX):
                findings += [each for row in group for each in check_other(row, bounds.shards)]
            elif not name.startswith("!"):
                findings += [each for each in check_item(name, group, bounds) if live or each.kind is not Kind.STUCK]
    for each in findings:
        if each.weight is Weight.FAULT or each.kind is Kind.UNKNOWN_ROW:
            told.append((f"{each.item_id} {each.row}", each.kind, each.wrong))
    return told


def plain(value: object) -> object:
    """An answer without what each side draws by itself."""
    if isinstance(value, Item):
        return value.model_copy(update={"last_move": ""})
    if isinstance(value, Nest):
        return value.model_copy(update={"token": ""})
    if isinstance(value, Claim):
        return value.model_copy(update={"item": plain(value.item)})
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
