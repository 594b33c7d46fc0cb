"""Staging: task scripts and references on this host, fetched once, verified, shared by its processes."""

from __future__ import annotations

from pyanamo_core.staging.stage import Staged, stage
from pyanamo_core.store import Store, default_root

__all__ = ["Staged", "Store", "default_root", "stage"]
