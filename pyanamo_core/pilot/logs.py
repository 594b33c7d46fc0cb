"""Where a nest's log goes, by its size: its row, CloudWatch Logs, or a gzipped object. And how it gets there.

The pointer is known before the upload, so that the result can be recorded first; what could not be uploaded is said in
the item's row.
"""

from __future__ import annotations

import bisect
import io
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from pyanamo_core.aws import code_of, is_aws_error
from pyanamo_core.model import LogPointer, NestCall, encoded
from pyanamo_core.workflow import Workflow

ROW_BYTES: Final = 2048
ROW_BYTES_ON_SUCCESS: Final = 512
"""A longer tail costs a row of its own, which a success is not worth unless `keep_tail_on_success` says so."""
CLOUDWATCH_BYTES: Final = 10 * 2**20

# PutLogEvents, Amazon CloudWatch Logs API Reference: 1,048,576 bytes a batch, each event counting 26 bytes more than
# its message; 10,000 events; 24 hours; 256 KB an event (the older, smaller limit is kept to).
BATCH_BYTES: Final = 1_048_576
BATCH_EVENTS: Final = 10_000
BATCH_MS: Final = 23 * 3600 * 1000
EVENT_OVERHEAD: Final = 26
EVENT_BYTES: Final = 256 * 1024 - EVENT_OVERHEAD

_CHUNK_BYTES: Final = 1 << 20

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

Marks = tuple[tuple[int, float], ...]


class LogClients(Protocol):
    """What of aws.Clients is needed here."""

    def client(self, service: str, region: str | None = None) -> Any: ...


class LogShipper:
    """Logs of one pilot: one CloudWatch stream per slot (CreateLogStream allows 50 a second in an account).

    Args:
        clients: None where there is no AWS: every log that does not fit its row is given up.
        results: s3://bucket/prefix of results; the logs' own prefix comes from the workflow file.
    """

    def __init__(self, clients: LogClients | None, workflow: Workflow, table: str, pilot_id: str, results: str) -> None:
        self._clients = clients
        self._group = workflow.log_group
        self._always_s3 = workflow.logs == "s3"
        self._keep_tail = workflow.keep_tail_on_success
        self._prefix = f"{workflow.buckets.logs or results}/{encoded(table)}/work"
        self._pilot_id = pilot_id
        self._streams: set[str] = set()
        self._last_ms: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def keeps_tail(self) -> bool:
        """Does a success keep its tail too?"""
        return self._keep_tail

    def plan(
        self, call: NestCall, slot: int, size: int, started: float, ended: float, *, failed: bool
    ) -> LogPointer | None:
        """Where the log of this attempt will be; None if there is none.

        Args:
            size: of the log in bytes.
            started, ended: of the nest (seconds since 1970).
        """
        if not size:
            return None
        limit = ROW_BYTES if failed or self._keep_tail else ROW_BYTES_ON_SUCCESS
        if size <= limit and not self._always_s3:
            return LogPointer(where="row", bytes=size)
        if self._clients is None:
            return LogPointer(where="given up", bytes=size, note="there is no AWS to keep it")
        if self._always_s3 or size > CLOUDWATCH_BYTES:
            uri = f"{self._prefix}/{encoded(call.item_id)}/{call.index:05d}/{call.fence}/log.gz"
            return LogPointer(where="s3", uri=uri, bytes=size)
        with self._lock:
            # Time ranges of one stream must not overlap: they are all that tells its nests apart.
            start_ms = max(int(started * 1000), self._last_ms.get(slot, 0) + 1)
            end_ms = max(int(ended * 1000), start_ms)
            self._last_ms[slot] = end_ms
        stream = f"{self._pilot_id}/{slot:03d}"
        return LogPointer(
            where="cloudwatch", group=self._group, stream=stream, start_ms=start_ms, end_ms=end_ms, bytes=size
        )

    def ship(self, pointer: LogPointer, path: Path, marks: Marks) -> str:
        """Upload a log to where its pointer says; returns a note if part of it was rejected, else "".

        Raises:
            what boto3 raises: the log is then given up by the caller.
        """
        if self._clients is None or pointer.where not in {"s3", "cloudwatch"}:
            return ""
        if pointer.where == "s3":
            ship_object(self._clients.client("s3"), pointer.uri, path)
            return ""
        client = self._clients.client("logs")
        self._ensure_stream(client, pointer.stream)
        rejected = 0
        for events in batches(read_events(path, pointer, marks)):
            answer = client.put_log_events(logGroupName=pointer.group, logStreamName=pointer.stream, logEvents=events)
            if answer.get("rejectedLogEventsInfo"):
                rejected += 1
        return f"CloudWatch Logs rejected events of {rejected} batches" if rejected else ""

    def _ensure_stream(self, client: Any, stream: str) -> None:
        if stream in self._streams:
            return
        _once(lambda: _create_stream(client, self._group, stream))
        self._streams.add(stream)


def _once(make: Callable[[], None]) -> None:
    try:
        make()
    except Exception as error:
        if not is_aws_error(error) or code_of(error) != "ResourceAlreadyExistsException":
            raise


def _create_stream(client: Any, group: str, stream: str) -> None:
    try:
        client.create_log_stream(logGroupName=group, logStreamName=stream)
    except Exception as error:
        if not is_aws_error(error) or code_of(error) != "ResourceNotFoundException":
            raise
        _once(lambda: client.create_log_group(logGroupName=group))
        client.create_log_stream(logGroupName=group, logStreamName=stream)


def ship_object(client: Any, uri: str, path: Path) -> None:
    """Put a file, gzipped on the way, as one object: it takes no room on the disk, which may be full."""
    from boto3.s3.transfer import TransferConfig

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with path.open("rb") as file:
        client.upload_fileobj(
            Gzipped(file),
            bucket,
            key,
            ExtraArgs={"ContentType": "application/gzip"},
            # One part in memory at a time.
            Config=TransferConfig(use_threads=False),
        )


class Gzipped(io.RawIOBase):
    """Reads as the gzipped bytes of another file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packer = zlib.compressobj(wbits=31)  # 15, and 16 for gzip's header
        self._packed = bytearray()
        self._ended = False

    def readable(self) -> bool:
        """Yes; it cannot be sought."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """As of any raw file."""
        view = memoryview(buffer)
        while len(self._packed) < len(view) and not self._ended:
            chunk = self._file.read(_CHUNK_BYTES)
            self._ended = not chunk
            self._packed += self._packer.compress(chunk) if chunk else self._packer.flush()
        count = min(len(view), len(self._packed))
        view[:count] = self._packed[:count]
        del self._packed[:count]
        return count


def read_events(path: Path, pointer: LogPointer, marks: Marks) -> Iterator[dict[str, Any]]:
    """Events of a log, line by line, long lines in pieces; timestamps (ms) ascend within the pointer's range.

    A line's time is that of the first mark behind it: the log is looked at every two seconds or oftener.
    """
    offsets = [size for size, _ in marks]
    position = 0
    with path.open("rb") as file:
        # A byte that is no UTF-8 becomes three, so a piece is read that fits in any case.
        while piece := file.readline(EVENT_BYTES // 3):
            position += len(piece)
            index = bisect.bisect_left(offsets, position)
            at = int(marks[index][1] * 1000) if index < len(marks) else pointer.end_ms
            message = piece.rstrip(b"\r\n").decode("utf-8", "replace")
            # An event must not be empty.
            yield {"timestamp": min(max(at, pointer.start_ms), pointer.end_ms), "message": message or " "}


def batches(events: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Events in lists that PutLogEvents takes."""
    batch: list[dict[str, Any]] = []
    size = 0
    for event in events:
        weight = len(event["message"].encode()) + EVENT_OVERHEAD
        full = size + weight > BATCH_BYTES or len(batch) >= BATCH_EVENTS
        if batch and (full or event["timestamp"] - batch[0]["timestamp"] > BATCH_MS):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += weight
    if batch:
        yield batch
