"""Prefect, and only Prefect: the window on PyAnamo. Flows are thin, they call the core and publish what it says.

Exit codes, "done" and counts come from the ledger. What Prefect shows may lag or miss; nothing depends on it.
Importing this package imports nothing of Prefect.
"""

from __future__ import annotations

from pyanamo_flows.entry import enter

enter()
