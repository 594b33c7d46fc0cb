"""`pyanamo status`: how far a workflow is."""

from __future__ import annotations

from pyanamo.context import Context, command
from pyanamo.render import Told


@command(example="pyanamo status --table HaplotypeCaller")
def status(context: Context) -> Told:
    """Show how many items are in each state."""
    return Told(context.ledger.counts(), next="pyanamo items list")
