"""The ledger: a workflow's to-do list in one DynamoDB table, and the only code that may change it (docs/ledger.md)."""

from __future__ import annotations

from pyanamo_core.ledger.ledger import Ledger, open_ledger

__all__ = ["Ledger", "open_ledger"]
