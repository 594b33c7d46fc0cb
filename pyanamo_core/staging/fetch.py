"""Fetching one file: S3 URIs, https and local paths; and whose fault it is when that fails.

403, 404 and a wrong checksum are the set-up's fault: every host would see them. Time-outs, a lost network and a full
disk are this host's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from pyanamo_core.aws import explain, is_aws_error
from pyanamo_core.buckets import BucketClients, S3Clients, advice
from pyanamo_core.errors import (
    AccessDenied,
    AwsFailed,
    EndpointDown,
    HostFault,
    PyAnamoError,
    SetUpError,
    WrongRegion,
)
from pyanamo_core.staging.ranges import Partial
from pyanamo_core.workflow import InputBucket

WEB_SECONDS: Final = 30.0
WEB_TRIES: Final = 3
RANGE_TRIES: Final = 5
_CHUNK: Final = 1 << 20
_BUSY: Final = frozenset({408, 425, 429})
_BUSY_CODES: Final = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "500", "502", "503", "504"}
)


@dataclass(frozen=True)
class Remote:
    """A file elsewhere: its size in bytes (None: unknown) and what changes when its content does ("": unknown).

    `etag` is what a request for a range can be tied to; "" where there is none, or ranges are not served.
    """

    bytes: int | None
    version: str
    etag: str = ""


def is_remote(uri: str) -> bool:
    """Is it an S3 URI or a web address, not a path of this machine?"""
    return uri.startswith(("s3://", "https://", "http://"))


def local_path(uri: str) -> Path:
    """The absolute path of a local URI or path."""
    path = unquote(urlsplit(uri).path) if uri.startswith("file://") else uri
    return Path(path).expanduser().absolute()


class Fetcher:
    """Fetches from S3 with the access that the workflow's input buckets declare, and from the web."""

    def __init__(self, clients: S3Clients | None, inputs: Sequence[InputBucket] = ()) -> None:
        self._buckets = BucketClients(clients, inputs) if clients is not None else None
        self._inputs = {each.bucket: each for each in inputs}

    def look(self, uri: str) -> Remote | None:
        """Size and version of a remote file; None if it does not exist.

        Raises:
            SetUpError: it may not be read. HostFault: nothing can be reached.
        """
        if uri.startswith("s3://"):
            client, bucket, key, more = self._s3(uri)
            try:
                head = client.head_object(Bucket=bucket, Key=key, **more)
            except Exception as error:
                if _code(error) in {"404", "NoSuchKey", "NotFound"}:
                    return None
                raise self._fault(uri, error) from error
            etag = str(head.get("ETag", ""))
            return Remote(int(head["ContentLength"]), f"{etag}{head.get('VersionId') or ''}", etag)
        try:
            with _open(urllib.request.Request(uri, method="HEAD")) as answer:  # noqa: S310 - http(s) only, see is_remote
                size = answer.headers.get("Content-Length")
                version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
                etag = str(answer.headers.get("ETag") or "")
                served = answer.headers.get("Accept-Ranges") == "bytes" and not etag.startswith("W/")
                return Remote(int(size) if size else None, version, etag if served else "")
        except urllib.error.HTTPError as error:
            if error.code in {404, 410}:
                return None
            if error.code in {405, 501}:  # a server without HEAD
                return Remote(None, "")
            raise _fault(uri, error) from error
        except Exception as error:
            raise _fault(uri, error) from error

    def fetch(self, uri: str, target: Path, *, sha256: str = "", partial: Path | None = None) -> None:
        """Copy a remote file to `target` and verify it.

        Args:
            partial: a file on the same disk in which what has arrived outlives this process, for the next one to go on.
                It stays after a lost network or a kill, and after nothing else.

        Raises:
            SetUpError: missing, forbidden, or another checksum. HostFault: unreachable, or no room.
        """
        known = self.look(uri)
        if known is None:
            raise SetUpError(reason=f"{uri} does not exist")
        if partial is not None and known.bytes is not None and known.etag:
            self._fetch_in_ranges(uri, known, Partial(partial, uri, known.version, known.bytes), target, sha256)
            return
        free = shutil.disk_usage(target.parent).free
        if known.bytes is not None and known.bytes > free:
            raise HostFault(reason=f"{uri} has {known.bytes} bytes, {target.parent} has room for {free}")
        if uri.startswith("s3://"):
            client, bucket, key, more = self._s3(uri)
            try:
                client.download_file(bucket, key, str(target), ExtraArgs=more or None)
            except OSError:
                raise
            except Exception as error:
                raise self._fault(uri, error) from error
        else:
            _fetch_web(uri, target)
        if known.bytes is not None and target.stat().st_size != known.bytes:
            raise HostFault(reason=f"{uri} arrived with {target.stat().st_size} of {known.bytes} bytes")
        verify(target, sha256, uri)

    def _fetch_in_ranges(self, uri: str, known: Remote, partial: Partial, target: Path, sha256: str) -> None:
        try:
            free = shutil.disk_usage(partial.path.parent).free
            if partial.size - partial.bytes_done > free:
                here = partial.bytes_done
                partial.drop()
                raise HostFault(
                    reason=f"{uri} has {partial.size} bytes, {here} of them were here; {target.parent} has room for {free}"
                )
            partial.fetch(lambda first, last: self._range(uri, known, first, last))
            verify(partial.path, sha256, uri)
            partial.move_to(target)
        except SetUpError:
            partial.drop()
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                partial.drop()  # the room is needed
            raise

    def _range(self, uri: str, known: Remote, first: int, last: int) -> Iterator[bytes]:
        """The bytes of a range; a connection that breaks is taken up again from the byte that is missing.

        Raises:
            SetUpError, HostFault: as `fetch`; also HostFault if the object is no longer the one that was looked at.
        """
        broken = 0
        while first <= last:
            try:
                for piece in self._answer(uri, known.etag, first, last):
                    yield piece
                    first, broken = first + len(piece), 0
                if first <= last:
                    raise EOFError(f"the answer ended before byte {last}")
            except PyAnamoError:
                raise
            except Exception as error:
                if _code(error) in {"412", "PreconditionFailed"} or getattr(error, "code", None) == 412:
                    raise HostFault(reason=f"{uri} was changed while it was fetched") from error
                if _code(error) or isinstance(error, urllib.error.HTTPError):
                    raise self._fault(uri, error) from error
                broken += 1
                if broken == RANGE_TRIES:
                    raise HostFault(reason=f"{uri}: {error}") from error

    def _answer(self, uri: str, etag: str, first: int, last: int) -> Iterator[bytes]:
        span = f"bytes={first}-{last}"
        if uri.startswith("s3://"):
            client, bucket, key, more = self._s3(uri)
            body = client.get_object(Bucket=bucket, Key=key, Range=span, IfMatch=etag, **more)["Body"]
            with contextlib.closing(body):
                yield from body.iter_chunks(_CHUNK)
            return
        headers = {"Range": span, "If-Match": etag}
        with _open(urllib.request.Request(uri, headers=headers)) as answer:  # noqa: S310 - http(s) only, see is_remote
            if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
                raise HostFault(reason=f"{uri}: the server gave the whole file where a range was asked for")
            while piece := answer.read(_CHUNK):
                yield piece

    def listing(self, uri: str) -> list[tuple[str, str]]:
        """Objects below an S3 prefix: (key, ETag), ordered.

        Raises:
            SetUpError, HostFault: as `look`.
        """
        client, bucket, prefix, more = self._s3(uri)
        found: list[tuple[str, str]] = []
        try:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **more):
                found += [(str(each["Key"]), str(each["ETag"])) for each in page.get("Contents", [])]
        except Exception as error:
            raise self._fault(uri, error) from error
        return sorted(found)

    def _s3(self, uri: str) -> tuple[Any, str, str, dict[str, str]]:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if self._buckets is None:
            raise SetUpError(reason=f"{uri}: there is no client for S3")
        try:
            client, more = self._buckets.of(bucket)
        except PyAnamoError as error:
            raise SetUpError(reason=f"{uri}: {error}") from error
        return client, bucket, key, more

    def _fault(self, uri: str, error: Exception) -> PyAnamoError:
        """Whose fault a failed call to S3 is; what the workflow file should say instead, where that may help."""
        fault = _fault(uri, error)
        if not is_aws_error(error):
            return fault
        bucket = uri.removeprefix("s3://").partition("/")[0]
        meant = explain(error, "s3", uri)
        if isinstance(meant, AccessDenied):
            return SetUpError(reason=f"{fault.facts['reason']} {advice(bucket, self._inputs.get(bucket), 'denied')}")
        if isinstance(meant, WrongRegion):
            told = advice(bucket, self._inputs.get(bucket), str(meant.facts["right"]))
            return SetUpError(reason=f"{fault.facts['reason']} {told}")
        return fault


def verify(path: Path, sha256: str, uri: str) -> None:
    """See that a file has the checksum that the workflow file demands; "" demands nothing.

    Raises:
        SetUpError: it has another.
    """
    if not sha256:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise SetUpError(reason=f"{uri} has SHA-256 {digest}, the workflow demands {sha256}")


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    return cast("http.client.HTTPResponse", urllib.request.urlopen(request, timeout=WEB_SECONDS))  # noqa: S310 - http(s) only, see is_remote


def _fetch_web(uri: str, target: Path) -> None:
    for tries_left in reversed(range(WEB_TRIES)):
        try:
            with _open(urllib.request.Request(uri)) as answer, target.open("wb") as file:  # noqa: S310 - as above
                shutil.copyfileobj(answer, file, _CHUNK)
            return
        except Exception as error:
            if (
                isinstance(error, OSError)
                and error.errno
                and not isinstance(error, urllib.error.URLError | TimeoutError)
            ):
                raise
            fault = _fault(uri, error)
            if isinstance(fault, SetUpError) or not tries_left:
                raise fault from error


def _code(error: Exception) -> str:
    response = cast("dict[str, Any]", getattr(error, "response", None) or {})
    return str(cast("dict[str, Any]", response.get("Error") or {}).get("Code", ""))


def _fault(uri: str, error: Exception) -> PyAnamoError:
    """Whose fault a failed fetch is."""
    if isinstance(error, PyAnamoError):
        return error
    if isinstance(error, urllib.error.HTTPError):
        family = HostFault if error.code >= 500 or error.code in _BUSY else SetUpError
        return family(reason=f"{uri}: HTTP {error.code} {error.reason}")
    if is_aws_error(error):
        meant = explain(error, "s3", uri)
        busy = isinstance(meant, EndpointDown) or (isinstance(meant, AwsFailed) and meant.code in _BUSY_CODES)
        return HostFault(reason=str(meant)) if busy else SetUpError(reason=str(meant))
    if isinstance(error, OSError | http.client.HTTPException):
        return HostFault(reason=f"{uri}: {error}")
    return SetUpError(reason=f"{uri}: {error}")
