"""`pyanamo items …`: look at items and move them."""

from __future__ import annotations

from typing import Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told
from pyanamo_core.model import State


@command(example=("pyanamo items list --state failed", "pyanamo items list --json"))
def list_items(
    context: Context,
    state: Annotated[State | None, typer.Option("--state", help="Only items in this state.")] = None,
) -> Told:
    """List items."""
    items = list(context.ledger.items(state))
    return Told(items, quiet=[item.item_id for item in items], next="pyanamo items show ITEM")
