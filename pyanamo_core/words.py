"""Times, spans and numbers in words: what the engine's messages and the command's tables share."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime


def when(seconds: float | None) -> str:
    """A time as `2026-01-31 14:05:09` (UTC), from seconds since 1970; nothing for None or 0."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if seconds else ""


def span(seconds: float | None) -> str:
    """A length of time: `0.4s`, `12s`, `3m05s`, `2h07m`, `3d04h`; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def number_of(count: int, one: str, several: str = "") -> str:
    """`1 pilot`, `1,200 pilots`, `no pilots`."""
    return f"{count:,} {one if count == 1 else several or one + 's'}" if count else f"no {several or one + 's'}"


def listed(parts: list[str], limit: int = 5) -> str:
    """`a`, `a and b`, `a, b and c`; what is beyond the limit is counted."""
    shown = parts[:limit] + ([f"{len(parts) - limit} more"] if len(parts) > limit else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""


def quoted(name: str) -> str:
    """A name as one types it in a shell."""
    return shlex.quote(name)
