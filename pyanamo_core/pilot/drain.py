"""Signals and Spot notices: they set a mark and wake the loop; what they mean is decided there."""

from __future__ import annotations

import json
import logging
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final

from pyanamo_core.protocols import Clock

SPOT_POLL_SECONDS: Final = 5.0
METADATA: Final = "http://169.254.169.254"
_SECONDS: Final = 2.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("pyanamo.pilot")


class Signals:
    """TERM and INT.

    Args:
        wake: called by the handler; must be safe there (queue.SimpleQueue.put is, threading.Event.set is not: the
            interrupted thread may hold the event's lock).
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.received: int | None = None
        self.installed = False

    def install(self) -> None:
        """Put the handlers in, from the main thread; again whenever somebody else has put theirs."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        self.installed = True

    def reinstall(self) -> None:
        """Put them in again if they were in once and this is the main thread."""
        if self.installed and threading.current_thread() is threading.main_thread():
            self.install()

    def _handle(self, number: int, _frame: object) -> None:
        if self.received is None:
            self.received = number
        self._wake()


class Metadata:
    """The instance's metadata service, version 2 (token first).

    Args:
        endpoint: where it is.
    """

    def __init__(self, endpoint: str = METADATA) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._token = ""

    def get(self, path: str) -> str | None:
        """A value below /latest/meta-data/; None if there is none.

        Raises:
            OSError: the service cannot be reached.
        """
        for _ in range(2):
            if not self._token:
                self._token = self._ask("api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
            try:
                return self._ask(f"meta-data/{path}", "GET", {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401:
                    raise
                self._token = ""  # it has run out
        return None

    def _ask(self, path: str, method: str, headers: Mapping[str, str]) -> str:
        request = urllib.request.Request(f"{self._endpoint}/latest/{path}", method=method, headers=dict(headers))  # noqa: S310 - http only
        # Never through a proxy: the address is link-local.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_SECONDS) as answer:
            return str(answer.read().decode())


def metadata_of(environ: Mapping[str, str]) -> Metadata | None:
    """The metadata service if this is a container on EC2 (or an endpoint is named); None elsewhere."""
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    endpoint = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    if endpoint:
        return Metadata(endpoint)
    return Metadata() if environ.get("AWS_EXECUTION_ENV", "").startswith("AWS_ECS_EC2") else None


class SpotWatch:
    """Asks the metadata service every five seconds whether this Spot instance will be taken away.

    Args:
        on_notice: called once with the notice's words, e.g. `terminate at 2026-01-01T00:00:00Z`.
    """

    def __init__(self, metadata: Metadata, clock: Clock, on_notice: Callable[[str], None]) -> None:
        self._metadata = metadata
        self._clock = clock
        self._on_notice = on_notice
        self._stop = threading.Event()
        self.notice = ""

    def start(self) -> None:
        """Begin to ask, in a thread of its own."""
        threading.Thread(target=self._run, name="spot", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self.look():
                return
            self._stop.wait(SPOT_POLL_SECONDS)

    def look(self) -> bool:
        """Ask once; True if there is a notice."""
        try:
            told = self._metadata.get("spot/instance-action")
        except OSError as error:
            _log.debug("the metadata service did not answer: %s", error)
            return False
        if told is None:
            return False
        self.notice = _words(told)
        self._on_notice(self.notice)
        return True


def _words(told: str) -> str:
    try:
        action: dict[str, Any] = json.loads(told)
    except ValueError:
        return told[:80]
    return f"{action.get('action', 'interruption')} at {action.get('time', 'an unknown time')}"
