"""Workflow versions: immutable rows `V#0007`, the newest being the highest."""

from __future__ import annotations

import json
from typing import Any, Final, cast

from pydantic import ValidationError

from pyanamo_core.errors import PyAnamoError, SchemaNewer, WorkflowMissing
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.base import LedgerBase
from pyanamo_core.ledger.rows import Row, key, pack, unpack
from pyanamo_core.ledger.store import Won
from pyanamo_core.model import SCHEMA
from pyanamo_core.workflow import Workflow

_ROUNDS: Final = 10


class Versions(LedgerBase):
    """Writes and reads workflow versions."""

    def add_workflow(self, workflow: Workflow) -> int:
        """Store a version and return its number; the newest one, if equal, is returned as it is.

        Raises:
            TableMissing, ForeignTable, SchemaNewer, OutcomeUnknown.
        """
        for _ in range(_ROUNDS):
            newest = self._newest()
            number, shards = 1, workflow.shard_count
            if newest is not None:
                standing, found, most = self._read_version(newest)
                if found == workflow:
                    return standing
                # Items of the older version stay in its shards until their next move: the number never shrinks.
                number, shards = standing + 1, max(shards, most)
            token = self._token()
            row = key(x.WORKFLOW_ID, x.version_row(number)) | {
                x.WORKFLOW: {"S": workflow.model_dump_json(exclude_defaults=True)},
                x.SCHEMA: pack(SCHEMA),
                x.SHARDS: pack(shards),
                x.REVISION: {"S": workflow.revision},
                x.CREATED: pack(self._now()),
                x.LAST_MOVE: {"S": token},
            }
            if isinstance(self._put_once(row, token), Won):
                return number
        raise PyAnamoError(f"Others stored {_ROUNDS} versions of the workflow of {self.table} meanwhile. Try again.")

    def workflow(self, version: int | None = None) -> tuple[int, Workflow]:
        """A version and its number (default: the newest).

        Raises:
            WorkflowMissing, TableMissing, ForeignTable, SchemaNewer.
        """
        number, found, _ = self._version(version)
        return number, found

    def _version(self, version: int | None) -> tuple[int, Workflow, int]:
        if version is None:
            row = self._newest()
            if row is None:
                raise WorkflowMissing(table=self.table)
        else:
            row = self._store.get(x.WORKFLOW_ID, x.version_row(version))
            if row is None:
                raise WorkflowMissing(
                    "Table {table} holds no version {version} of its workflow. See them with: pyanamo workflow list",
                    table=self.table,
                    version=version,
                )
        return self._read_version(row)

    def workflow_versions(self) -> list[tuple[int, Workflow]]:
        """All versions, oldest first."""
        found = [self._read_version(row) for row in self._store.rows(x.WORKFLOW_ID, x.VERSION_PREFIX)]
        return [(number, workflow) for number, workflow, _ in found]

    def most_shards(self) -> int:
        """The highest number of shards that any version had: readers walk them all."""
        newest = self._newest()
        return unpack(newest[x.SHARDS]) if newest else 0

    def _newest(self) -> Row | None:
        return next(self._store.rows(x.WORKFLOW_ID, x.VERSION_PREFIX, newest_first=True, limit=1), None)

    def _read_version(self, row: Row) -> tuple[int, Workflow, int]:
        schema = unpack(row[x.SCHEMA])
        if schema > SCHEMA:
            raise SchemaNewer(table=self.table, found=schema, known=SCHEMA)
        number = int(row[x.RANGE]["S"].removeprefix(x.VERSION_PREFIX))
        return number, tolerant(json.loads(row[x.WORKFLOW]["S"])), unpack(row[x.SHARDS])


def tolerant(told: dict[str, Any]) -> Workflow:
    """The workflow of a row that a newer PyAnamo may have written: additive fields, unknown here, are left aside."""
    try:
        return Workflow.model_validate(told)
    except ValidationError as error:
        unknown = [fault["loc"] for fault in error.errors() if fault["type"] == "extra_forbidden"]
        if len(unknown) < error.error_count():
            raise
    for place in unknown:
        within: Any = told
        for step in place[:-1]:
            within = within[step]
        cast("dict[Any, Any]", within).pop(place[-1], None)
    return Workflow.model_validate(told)
