"""S3 that does not answer: for how long a pilot asks again, and when it gives up.

An outage of minutes must not cost what a task has worked for hours; one that lasts must not keep the pilot's slots.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from pyanamo_core.aws import explain
from pyanamo_core.errors import AwsFailed, EndpointDown
from pyanamo_core.protocols import Clock

S3_SECONDS: Final = 300.0
"""So long the check of outputs and the storing of big results are repeated, beside what the SDK repeats by itself."""
PAUSE_SECONDS: Final = (0.5, 5.0)
_BUSY: Final = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "429"})

T = TypeVar("T")


class StoreDown(Exception):
    """S3 gave no answer for too long. The text is for the user."""


def patiently(what: Callable[[], T], clock: Clock, *, seconds: float, hurry: threading.Event) -> T:
    """Do something with S3, again and again while it does not answer or says that it is too busy.

    Args:
        seconds: from the first try; 0: once.
        hurry: once it is set nothing is repeated any more.

    Raises:
        StoreDown: no answer in that time.
        what `what` raises: everything else.
    """
    began, pause = clock.monotonic(), PAUSE_SECONDS[0]
    while True:
        try:
            return what()
        except Exception as error:
            reason = unavailable(error)
            if not reason:
                raise
            passed = clock.monotonic() - began
            if passed + pause > seconds or hurry.wait(pause):
                raise StoreDown(f"S3 did not answer for {passed:.0f} s ({reason})") from error
            pause = min(2 * pause, PAUSE_SECONDS[1])


def unavailable(error: Exception) -> str:
    """Why S3 cannot be used now, if that may pass: no answer, too busy, its own fault; else ""."""
    meant = explain(error, "s3", "the request")
    if isinstance(meant, EndpointDown):
        return str(meant.facts.get("reason") or meant)
    if isinstance(meant, AwsFailed):
        status = meant.facts.get("status")
        if meant.code in _BUSY or (isinstance(status, int) and (status >= 500 or status == 429)):
            return f"{meant.code}: {meant.facts.get('reason')}"
    return ""
