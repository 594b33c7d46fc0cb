"""What must be true of PyAnamo's own rows: workflow versions, runs, pilots. Pure checks, as in fsck.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger import rows
from pyanamo_core.ledger.fsck import Bounds, Finding, Kind, Remove, SetPilotKeys
from pyanamo_core.ledger.rows import Row, unpack
from pyanamo_core.ledger.run_rows import read_run
from pyanamo_core.ledger.versions import tolerant
from pyanamo_core.model import Rules, Run
from pyanamo_core.workflow import Workflow

UNREADABLE = (KeyError, ValueError, TypeError, AttributeError, IndexError)
OPEN_SECONDS = 3600.0
"""A submission that is reserved for so long, with nobody watching, is told."""


@dataclass
class Own:
    """Versions and runs as they were read, and what is wrong with them."""

    workflows: dict[int, Workflow] = field(default_factory=dict[int, Workflow])
    shards: set[int] = field(default_factory=set[int])
    runs: list[Run] = field(default_factory=list[Run])
    findings: list[Finding] = field(default_factory=list[Finding])

    @property
    def live_runs(self) -> list[Run]:
        return [run for run in self.runs if run.ended is None]

    def bounds(self, now: float, *, pilots_work: bool) -> Bounds:
        """What items are measured by. The pins of live runs are respected beside the newest version."""
        newest = self.workflows[max(self.workflows)].rules if self.workflows else Rules()
        pinned = [
            self.workflows[run.workflow_version] for run in self.live_runs if run.workflow_version in self.workflows
        ]
        most_tries = max([newest.max_tries, *(workflow.rules.max_tries for workflow in pinned)])
        longest = max([newest.lease_seconds, *(each.rules.lease_seconds for each in self.workflows.values())])
        shards = max([newest.shards, *self.shards])
        return Bounds(
            now=now,
            rules=newest.model_copy(update={"max_tries": most_tries, "shards": shards}),
            shards=frozenset(self.shards) or frozenset({newest.shards}),
            longest_lease_seconds=longest,
            live=bool(self.live_runs) or pilots_work,
        )


def check_own(versions: Iterable[Row], runs: Iterable[Row], now: float) -> Own:
    """The rows of `!workflow` and `!run`, in the order of their range keys."""
    own = Own()
    most = 0
    for number, row in enumerate(versions, start=1):
        name = row[x.RANGE]["S"]
        try:
            workflow, shards = tolerant(json.loads(row[x.WORKFLOW]["S"])), int(unpack(row[x.SHARDS]))
            wrong = ""
            if name != x.version_row(number):
                wrong = f"version {x.version_row(number)} is missing"
            elif shards < max(most, workflow.shard_count):
                wrong = f"it says {shards} shards, items may stand in {max(most, workflow.shard_count)}"
            own.workflows[int(name.removeprefix(x.VERSION_PREFIX))] = workflow
            own.shards |= {shards, workflow.shard_count}
            most = max(most, shards)
        except UNREADABLE as error:
            wrong = f"it cannot be read: {type(error).__name__}: {error}"
        if wrong:
            own.findings.append(_wrong(Kind.WORKFLOW, x.WORKFLOW_ID, name, wrong))
    for row in runs:
        try:
            own.runs.append(read_run(row))
        except UNREADABLE as error:
            wrong = f"it cannot be read: {type(error).__name__}: {error}"
            own.findings.append(_wrong(Kind.RUN, x.RUN_ID, row[x.RANGE]["S"], wrong))
    for run in own.runs:
        own.findings += _run(run, own, now)
    return own


def _run(run: Run, own: Own, now: float) -> list[Finding]:
    found: list[Finding] = []
    if own.workflows and run.workflow_version not in own.workflows:
        found.append(
            _wrong(Kind.RUN, x.RUN_ID, run.run_id, f"it pins version {run.workflow_version}, which is not there")
        )
    others = sorted({str(other.revision) for other in own.live_runs if other.revision != run.revision})
    if run.ended is None and others:
        wrong = f"it is live with revision {run.revision}, another run with {others[0]}"
        found.append(_wrong(Kind.RUN, x.RUN_ID, run.run_id, wrong, "end one with: pyanamo runs drain"))
    for submission in run.submissions:
        since = now - submission.reserved_at
        if submission.outcome != "reserved" or since <= OPEN_SECONDS or run.watcher_lease_end > now:
            continue
        wrong = (
            f"submission {submission.name} is reserved since {since / 3600:.0f} h, and nobody says what became of it"
        )
        does = f"pyanamo watch {run.run_id}: looks for it by its name" if run.ended is None else "the run has ended"
        found.append(_wrong(Kind.OPEN_SUBMISSION, x.RUN_ID, run.run_id, wrong, does))
    return found


def _wrong(kind: Kind, item_id: str, row: str, wrong: str, does: str = "") -> Finding:
    return Finding(kind, item_id, row, rows.clipped(" ".join(wrong.split()), 240), does)


def check_other(row: Row, shards: Iterable[int]) -> list[Finding]:
    """One row below a hash key that starts with `!`, other than versions and runs: a pilot's, or one nobody knows."""
    item_id, name = row[x.HASH]["S"], row[x.RANGE]["S"]
    if not item_id.startswith(x.PILOT_PREFIX) or name != x.PILOT_ROW:
        return [Finding(Kind.UNKNOWN_ROW, item_id, name, "PyAnamo knows no such row", "it is left alone")]
    try:
        record = rows.read_pilot(row)
    except UNREADABLE as error:
        wrong = f"it cannot be read: {type(error).__name__}"
        return [Finding(Kind.PILOT_KEY, item_id, name, wrong, "the row is removed", Remove(_beat_seen(row)))]
    numbers = sorted(shards)
    right = [rows.pilot_row(record, each) for each in numbers]
    if row.get(x.QUEUE) in [each[x.QUEUE] for each in right] and all(
        row.get(each) == right[-1][each] for each in (x.DUE, x.EXPIRES)
    ):
        return []
    keys = {each: right[-1][each] for each in (x.QUEUE, x.DUE, x.EXPIRES)}
    change = SetPilotKeys(keys, row.get(x.PILOT["last_beat"]))
    return [Finding(Kind.PILOT_KEY, item_id, name, "queue, due or expires is wrong", "they are derived again", change)]


def _beat_seen(row: Row) -> dict[str, object]:
    return {x.PILOT["last_beat"]: row.get(x.PILOT["last_beat"])}
