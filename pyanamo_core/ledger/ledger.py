"""The ledger in DynamoDB: all moves in one object, and how it is opened."""

from __future__ import annotations

from pyanamo_core.aws import Clients
from pyanamo_core.ledger.counts import Counting
from pyanamo_core.ledger.items import UserMoves
from pyanamo_core.ledger.moves import PilotMoves
from pyanamo_core.ledger.runs import Runs
from pyanamo_core.ledger.versions import Versions
from pyanamo_core.model import Rules
from pyanamo_core.protocols import Clock
from pyanamo_core.workflow import Workflow


class Ledger(UserMoves, PilotMoves, Counting, Runs, Versions):
    """A ledger in a DynamoDB table (protocols.Ledger): the only way to change it.

    Guaranteed: each item is claimed by one pilot at a time, each nest of an epoch is recorded once, a dead or slow
    pilot's late writes are refused. Not guaranteed: that a nest runs only once. docs/guarantees.md says what was
    shown where.
    """


def open_ledger(
    clients: Clients, table: str, *, version: int | None = None, clock: Clock | None = None
) -> tuple[Ledger, int, Workflow]:
    """The ledger of a table under the rules of a workflow version.

    Args:
        version: as a run pins it; None takes the newest.

    Returns:
        The ledger, the version's number, and the workflow.

    Raises:
        TableMissing, WorkflowMissing, ForeignTable, SchemaNewer: nothing was touched.
    """
    bare = Ledger(clients, table, clock=clock)
    number, workflow = bare.workflow(version)
    rules = Rules(**(workflow.rules.model_dump() | {"shards": max(workflow.rules.shards, bare.most_shards())}))
    return Ledger(clients, table, rules=rules, clock=clock), number, workflow
