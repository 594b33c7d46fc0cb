"""`pyanamo settings`: each setting, its value and where that comes from."""

from __future__ import annotations

from pyanamo.context import Context, command
from pyanamo.render import Told


@command(example="pyanamo settings --json")
def settings(context: Context) -> Told:
    """Show each setting with its value and where that comes from."""
    return Told(list(context.settings.values.values()), next="pyanamo status")
