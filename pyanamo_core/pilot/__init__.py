"""The pilot: the process in a container that claims items and runs their nests (docs/pilot.md)."""

from __future__ import annotations

from pyanamo_core.pilot.executor import ThreadExecutor
from pyanamo_core.pilot.observer import GuardedObserver, NullObserver
from pyanamo_core.pilot.options import PilotOptions
from pyanamo_core.pilot.pilot import Pilot

__all__ = ["GuardedObserver", "NullObserver", "Pilot", "PilotOptions", "ThreadExecutor"]
