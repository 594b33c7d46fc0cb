"""The output of jobs, sent to CloudWatch Logs as the awslogs driver does: line by line, in batches within its limits.

Limits of PutLogEvents: 1 MiB with 26 bytes added for each event, 10,000 events, 24 hours between first and last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pyanamo_core.aws import Clients, code_of, is_aws_error

BATCH_BYTES: Final = 1_048_576
BATCH_EVENTS: Final = 10_000
EVENT_BYTES: Final = 262_144 - 26
OVERHEAD_BYTES: Final = 26
READ_BYTES: Final = 4_194_304
TRIES: Final = 3

log = logging.getLogger(__name__)


@dataclass
class Tail:
    """A file that grows, and how much of it has been sent."""

    path: Path
    group: str
    stream: str
    sent_bytes: int = 0
    made: bool = False
    given_up: bool = field(default=False)

    def unsent(self, final: bool) -> tuple[list[str], int]:
        """Complete lines not yet sent (with `final` an unfinished last one too), and where they end in the file."""
        try:
            with self.path.open("rb") as handle:
                handle.seek(self.sent_bytes)
                data = handle.read(READ_BYTES)
        except FileNotFoundError:
            return [], self.sent_bytes
        whole = data.rfind(b"\n") + 1
        if (final and len(data) < READ_BYTES) or (not whole and len(data) == READ_BYTES):
            whole = len(data)
        lines = data[:whole].decode("utf-8", "replace").split("\n")
        if lines and not lines[-1]:
            lines.pop()
        # CloudWatch refuses empty events; an empty line is still worth seeing.
        return [line.rstrip("\r") or " " for line in lines], self.sent_bytes + whole


def batches(lines: list[str], now_ms: int) -> Iterator[list[dict[str, Any]]]:
    """Cut lines into requests that PutLogEvents takes; a line that is too long becomes several events."""
    batch: list[dict[str, Any]] = []
    size = 0
    for piece in (piece for line in lines for piece in pieces(line)):
        bytes_ = len(piece.encode()) + OVERHEAD_BYTES
        if batch and (size + bytes_ > BATCH_BYTES or len(batch) >= BATCH_EVENTS):
            yield batch
            batch, size = [], 0
        batch.append({"timestamp": now_ms, "message": piece})
        size += bytes_
    if batch:
        yield batch


def pieces(line: str) -> Iterator[str]:
    """A line in parts of at most EVENT_BYTES bytes of UTF-8, never cutting a character."""
    data = line.encode()
    while len(data) > EVENT_BYTES:
        end = EVENT_BYTES
        while data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[:end].decode()
        data = data[end:]
    yield data.decode()


def send(tail: Tail, clients: Clients, final: bool = False) -> None:
    """Send what is new; with `final` everything, giving up after three failures in a row."""
    failures = 0
    while not tail.given_up:
        lines, upto = tail.unsent(final)
        if not lines:
            return
        try:
            _put(tail, clients, lines)
            tail.sent_bytes = upto
            failures = 0
        except Exception as error:
            if not is_aws_error(error):
                raise
            failures += 1
            log.warning("log of %s not sent: %s", tail.stream, error)
            if not final:
                return
            tail.given_up = failures >= TRIES
        if not final and len(lines) < BATCH_EVENTS:
            return


def _put(tail: Tail, clients: Clients, lines: list[str]) -> None:
    logs = clients.client("logs")
    if not tail.made:
        for make, names in (
            (logs.create_log_group, {"logGroupName": tail.group}),
            (logs.create_log_stream, {"logGroupName": tail.group, "logStreamName": tail.stream}),
        ):
            try:
                make(**names)
            except Exception as error:
                if code_of(error) != "ResourceAlreadyExistsException":
                    raise
        tail.made = True
    for batch in batches(lines, int(time.time() * 1000)):
        logs.put_log_events(logGroupName=tail.group, logStreamName=tail.stream, logEvents=batch)
