"""One big BGZF object put together from a stream in bounded memory, going on where a killed process left off.

To S3 it goes in segments of 16 MiB: each is an object of its own below a place that is named by the plan (not by the
attempt), and after each a small record says how far the stream came. A later attempt, on whatever host, reads the record
and goes on. At the end S3 itself copies the segments together into the attempt's own prefix (UploadPartCopy): no attempt
writes where another one does, segments are named by their content, and a zombie can at most repeat what is there.
What fits into one segment is put at once and leaves no trace. docs/decisions/0067-gather-in-segments.md
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pyanamo_core.errors import OutputRefused, ReadsInterrupted, Refused
from pyanamo_core.genomics.bgzf import BGZF_EOF
from pyanamo_core.genomics.inputs import split_uri

SEGMENT_BYTES = 16 << 20
"""S3 wants 5 MiB at least for each part but the last."""
MAX_PARTS = 9000
"""S3 takes 10,000 parts."""


class Source(Protocol):
    """What streams: units that can be begun anew, each a series of BGZF blocks."""

    @property
    def units(self) -> int: ...

    def snapshot(self) -> dict[str, Any]:
        """Counters as they stand before the next unit, as JSON."""
        ...

    def restore(self, snapshot: dict[str, Any]) -> None: ...

    def stream(self, unit: int, skip: int) -> Iterator[tuple[bytes, int]]:
        """The unit's blocks behind position `skip`, each with the position behind it (0 is only its beginning)."""
        ...


@dataclass
class Progress:
    """How far a stream came: what is stored, and where to go on."""

    unit: int = 0
    position: int = 0
    snapshot: dict[str, Any] = field(default_factory=dict[str, Any])
    segments: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    @property
    def bytes(self) -> int:
        return sum(int(one["bytes"]) for one in self.segments)


@dataclass(frozen=True)
class Assembled:
    """What was put: address, bytes, SHA-256 (empty if a part of it was put by an earlier attempt), segments reused."""

    uri: str
    bytes: int
    sha256: str
    reused: int


class Sink(Protocol):
    """Where blocks go."""

    def begin(self, *, anew: bool) -> Progress | None:
        """Get ready; what an earlier attempt stored, unless all is to begin anew."""
        ...

    def write(self, data: bytes) -> None: ...

    @property
    def full(self) -> bool: ...
    def cut(self, unit: int, position: int, snapshot: dict[str, Any]) -> None: ...
    def close(self) -> Assembled: ...
    def forget(self) -> None:
        """Remove what only an interrupted attempt would need: when the result is whole, or was refused."""
        ...


def assemble(source: Source, sink: Sink, *, anew: bool = False) -> Assembled:
    """Stream a source into a sink, from where an earlier attempt left off.

    Args:
        anew: never go on with an earlier attempt: the source may have changed since.

    Raises:
        OutputRefused: the target takes nothing, or what arrived is not what was sent.
        what the source raises.
    """
    came = sink.begin(anew=anew)
    first, skip = (came.unit, came.position) if came else (0, 0)
    if came:
        source.restore(came.snapshot)
    try:
        for unit in range(first, source.units):
            snapshot = source.snapshot()
            for block, position in source.stream(unit, skip if unit == first else 0):
                sink.write(block)
                if position and sink.full:
                    sink.cut(unit, position, snapshot)
    except Refused:
        sink.forget()  # what came so far is of no use to any attempt
        raise
    sink.write(BGZF_EOF)
    return sink.close()


def sink_for(uri: str, key: str, *, clients: Any = None, state: str = "", expected_bytes: int = 0) -> Sink:
    """A sink for an s3:// address or a path.

    Args:
        key: names what is written (a plan's digest): another attempt at the same goes on.
        state: prefix for segments and record; default: `.parts` beside the result.
        expected_bytes: about how much will come, for the size of segments.
    """
    if uri.startswith("s3://"):
        place = state or f"{uri.rpartition('/')[0]}/.parts"
        return S3Sink(clients, uri, f"{place.rstrip('/')}/{key}", max(SEGMENT_BYTES, expected_bytes // MAX_PARTS))
    return FileSink(Path(uri), key)


class FileSink:
    """A file on this machine: written beside its name, cut back to the last record when an attempt was killed."""

    def __init__(self, path: Path, key: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.path = path
        self._part = path.with_name(f".{path.name}.{key}.part")
        self._record = path.with_name(f".{path.name}.{key}.json")
        self._segment = segment_bytes
        self._file: Any = None
        self._since = 0
        self._digest = hashlib.sha256()
        self._reused = 0

    def begin(self, *, anew: bool) -> Progress | None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        came: Progress | None = None
        with contextlib.suppress(OSError, ValueError, TypeError):
            came = None if anew else Progress(**json.loads(self._record.read_text()))
            if came and self._part.stat().st_size < came.bytes:
                came = None
        self._file = self._part.open("r+b" if came else "wb")
        if came:
            self._file.truncate(came.bytes)
            self._file.seek(0)
            while chunk := self._file.read(1 << 20):
                self._digest.update(chunk)
            self._reused = len(came.segments)
            self._segments = came.segments
        else:
            self._segments: list[dict[str, Any]] = []
        return came

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._since += len(data)

    @property
    def full(self) -> bool:
        return self._since >= self._segment

    def cut(self, unit: int, position: int, snapshot: dict[str, Any]) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._segments.append({"bytes": self._since})
        self._since = 0
        draft = self._record.with_suffix(".draft")
        draft.write_text(
            json.dumps({"unit": unit, "position": position, "snapshot": snapshot, "segments": self._segments})
        )
        draft.replace(self._record)

    def close(self) -> Assembled:
        self._file.close()
        self._part.replace(self.path)
        return Assembled(str(self.path), self.path.stat().st_size, self._digest.hexdigest(), self._reused)

    def forget(self) -> None:
        self._file.close()
        self._record.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)


class S3Sink:
    """An object, through segments that outlive the attempt."""

    def __init__(self, clients: Any, uri: str, state: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        if clients is None:
            from pyanamo_core.aws import Clients

            clients = Clients()
        self._s3: Any = clients.client("s3")
        self.uri = uri
        self._state = state
        self._segment = segment_bytes
        self._held: list[bytes] = []
        self._size = 0
        self._digest = hashlib.sha256()
        self._progress = Progress()
        self._reused = 0

    # ------------------------------------------------------------------------------------------------ going on

    def begin(self, *, anew: bool) -> Progress | None:
        """What an earlier attempt stored, if all of it is still there."""
        if anew:
            return None
        from pyanamo_core.aws import code_of, is_aws_error

        bucket, key = split_uri(f"{self._state}/progress.json")
        try:
            told = json.loads(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read())
            came = Progress(**told)
            for segment in came.segments:
                head = self._s3.head_object(Bucket=bucket, Key=segment["key"])
                if int(head["ContentLength"]) != segment["bytes"] or head["ETag"] != segment["etag"]:
                    return None
        except (ValueError, TypeError, KeyError):
            return None
        except Exception as error:
            # A role that may not list a bucket is told 403 for what is not there; whether it may write shows soon enough.
            if is_aws_error(error) and code_of(error) in ("NoSuchKey", "404", "NoSuchBucket", "AccessDenied", "403"):
                return None
            self._raise(error)
            raise
        self._progress = came
        self._reused = len(came.segments)
        return came if came.segments else None

    def write(self, data: bytes) -> None:
        self._held.append(data)
        self._size += len(data)
        self._digest.update(data)

    @property
    def full(self) -> bool:
        return self._size >= self._segment

    def cut(self, unit: int, position: int, snapshot: dict[str, Any]) -> None:
        """Store what is held as a segment, then the record of how far the stream came."""
        body = b"".join(self._held)
        digest = hashlib.sha256(body)
        bucket, prefix = split_uri(self._state)
        key = f"{prefix}/{len(self._progress.segments) + 1:05d}-{digest.hexdigest()[:16]}"
        checksum = base64.b64encode(digest.digest()).decode()
        with self._told():
            answer = self._s3.put_object(Bucket=bucket, Key=key, Body=body, ChecksumSHA256=checksum)
        segment = {"key": key, "bytes": len(body), "etag": answer["ETag"], "sha256": digest.hexdigest()}
        self._progress = Progress(unit, position, snapshot, [*self._progress.segments, segment])
        record = json.dumps(self._progress.__dict__).encode()
        with self._told():
            self._s3.put_object(Bucket=bucket, Key=f"{prefix}/progress.json", Body=record, ChecksumAlgorithm="SHA256")
        self._held.clear()
        self._size = 0

    # ----------------------------------------------------------------------------------------------- the end

    def close(self) -> Assembled:
        rest = b"".join(self._held)
        total = self._progress.bytes + len(rest)
        bucket, key = split_uri(self.uri)
        if not self._progress.segments:
            checksum = base64.b64encode(self._digest.digest()).decode()
            with self._told():
                self._s3.put_object(Bucket=bucket, Key=key, Body=rest, ChecksumSHA256=checksum)
        else:
            self._together(bucket, key, rest)
        with self._told():
            head = self._s3.head_object(Bucket=bucket, Key=key)
        if int(head["ContentLength"]) != total:
            raise OutputRefused(where=self.uri, reason="what arrived is not what was sent")
        return Assembled(self.uri, total, "" if self._reused else self._digest.hexdigest(), self._reused)

    def _together(self, bucket: str, key: str, rest: bytes) -> None:
        """Let S3 copy the segments into one object, the last part is sent."""
        where, _ = split_uri(self._state)
        with self._told():
            upload = self._s3.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="SHA256")["UploadId"]
        whole = {"Bucket": bucket, "Key": key, "UploadId": upload}
        try:
            with self._told():
                parts: list[dict[str, Any]] = []
                for number, segment in enumerate(self._progress.segments, 1):
                    copied = self._s3.upload_part_copy(
                        **whole,
                        PartNumber=number,
                        CopySource={"Bucket": where, "Key": segment["key"]},
                        CopySourceIfMatch=segment["etag"],
                    )["CopyPartResult"]
                    checksum = base64.b64encode(bytes.fromhex(segment["sha256"])).decode()
                    parts.append({"PartNumber": number, "ETag": copied["ETag"], "ChecksumSHA256": checksum})
                checksum = base64.b64encode(hashlib.sha256(rest).digest()).decode()
                number = len(parts) + 1
                sent = self._s3.upload_part(**whole, PartNumber=number, Body=rest, ChecksumSHA256=checksum)
                parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum})
                self._s3.complete_multipart_upload(**whole, MultipartUpload={"Parts": parts})
        except BaseException:
            with contextlib.suppress(Exception):
                self._s3.abort_multipart_upload(**whole)
            raise

    def forget(self) -> None:
        bucket, prefix = split_uri(self._state)
        if not self._progress.segments:
            return
        # The record first: segments without it are waste, a record without them is a question.
        keys = [f"{prefix}/progress.json", *(str(one["key"]) for one in self._progress.segments)]
        for key in keys:
            with contextlib.suppress(Exception):
                self._s3.delete_object(Bucket=bucket, Key=key)

    @contextlib.contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except Exception as error:
            self._raise(error)
            raise

    def _raise(self, error: Exception) -> None:
        from pyanamo_core.aws import code_of, explain, is_aws_error

        if not is_aws_error(error):
            return
        if code_of(error) in ("NoSuchBucket", "AccessDenied", "403", "404", "AllAccessDisabled"):
            raise OutputRefused(where=self.uri, reason=f"S3 says {code_of(error)}") from error
        if code_of(error) in ("NoSuchKey", "NoSuchUpload", "PreconditionFailed", "412"):
            # An owner that was given up has ended all the same, and tidied up: the next attempt begins anew.
            raise ReadsInterrupted(reads=self._state, reason="segments of an earlier attempt are gone") from error
        raise explain(error, "s3", f"writing {self.uri}") from error
