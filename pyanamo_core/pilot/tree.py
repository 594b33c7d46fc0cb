"""The process tree of one task, as it is seen now and then: memory, CPU, and whether it still does anything."""

from __future__ import annotations

import contextlib
from typing import Any, Final

IDLE_CPU: Final = 0.001
"""Below this share of one CPU nothing is done: the clockwork of an idle JVM takes a quarter of it (measured)."""
STEP_SECONDS: Final = 10.0
"""Between two looks no more than this counts as silence: a machine that stood still did not hang."""


class Tree:
    """All descendants of a task's guardian.

    `cpu_seconds` is what all of them have used so far, those included that ended and were waited for; `peak_bytes` the
    largest sum of resident sizes seen.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.cpu_seconds = 0.0
        self.most_cpu_seconds = 0.0
        self._members: list[Any] = []

    def look(self, guardian: int) -> None:
        """See who is there and what they use."""
        import psutil

        resident = 0
        with contextlib.suppress(psutil.Error, OSError):
            root = psutil.Process(guardian)
            used = root.cpu_times()
            seconds = used.children_user + used.children_system
            self._members = root.children(recursive=True)
            for member in self._members:
                with contextlib.suppress(psutil.Error, OSError), member.oneshot():
                    used = member.cpu_times()
                    seconds += used.user + used.system + used.children_user + used.children_system
                    resident += member.memory_info().rss
            self.cpu_seconds = seconds
        self.peak_bytes = max(self.peak_bytes, resident)
        self.most_cpu_seconds = max(self.most_cpu_seconds, self.cpu_seconds)

    def kill(self) -> None:
        """Kill all that were seen last (psutil makes sure that a process id was not given to another since)."""
        for member in self._members:
            with contextlib.suppress(Exception):
                member.kill()


class Silence:
    """Tells when a task has used no CPU and written nothing for too long.

    Args:
        limit: seconds; None: never.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit or 0.0
        self._cpu_seconds = 0.0
        self._size: int = 0
        self._silent = 0.0
        self._looked: float | None = None

    def look(self, now: float, cpu_seconds: float, size: int) -> bool:
        """Is it hung by now?

        Args:
            now: monotonic seconds.
            cpu_seconds: of the whole tree so far; less than before: somebody has ended, so something is done.
            size: of its output so far (bytes).
        """
        step = 0.0 if self._looked is None else min(STEP_SECONDS, now - self._looked)
        self._looked = now
        used = cpu_seconds - self._cpu_seconds
        if size != self._size or not 0 <= used <= self.limit * IDLE_CPU:
            self._silent = 0.0
            self._cpu_seconds = cpu_seconds
            self._size = size
            return False
        self._silent += step
        return bool(self.limit) and self._silent >= self.limit
