"""Reading where reads lie: a bucket, each with its own access, or this machine.

Everything is read by the SDK, which knows task roles, renews credentials and repeats what failed. Programs that only
take an address can be given a presigned one; it is a secret, and `redact` takes it out of texts.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pyanamo_core.buckets import BucketClients, advice
from pyanamo_core.errors import AccessDenied, EndpointDown, PyAnamoError, ReadsInterrupted, ReadsInvalid, WrongRegion

URL_SECONDS = 3600
RANGE_TRIES = 4
_CHUNK_BYTES = 1 << 20
_SIGNED = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")
_SYSTEM_CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


def redact(text: str) -> str:
    """The text without what follows `?` in addresses: signatures, keys and tokens."""
    return _SIGNED.sub(r"\1?…", text)


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


@dataclass(frozen=True)
class Access:
    """How a bucket is read: `role` (the task's own credentials), `anonymous` or `requester_pays`."""

    bucket: str
    access: str = "role"
    region: str = ""
    endpoint: str = ""


@dataclass(frozen=True)
class End:
    """The last bytes of a file, its size in bytes, and its version where there is one (S3's ETag)."""

    data: bytes
    size: int
    etag: str = ""


@dataclass(frozen=True)
class Listed:
    """A file found: s3:// address or path, and bytes."""

    uri: str
    size: int


class Inputs:
    """Files by s3:// address or path. Clients are made when first needed; without a bucket none is.

    Args:
        buckets: access per bucket; one that is not listed is read with the task's own credentials.
        clients: pyanamo_core.aws.Clients to use for buckets without an endpoint of their own.
        shared: a folder that nests of one pilot share; None: each fetches headers and indexes for itself.
    """

    def __init__(self, buckets: Sequence[Access] = (), clients: Any = None, shared: Path | None = None) -> None:
        self._access = {a.bucket: a for a in buckets}
        self._given = clients
        self.shared = shared

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ, clients: Any = None) -> Inputs:
        """By PYANAMO_INPUT_BUCKETS, a JSON list of {bucket, access, region, endpoint}, and PYANAMO_SHARED."""
        shared = environ.get("PYANAMO_SHARED")
        listed: list[dict[str, str]] = json.loads(environ.get("PYANAMO_INPUT_BUCKETS") or "[]")
        known = ("bucket", "access", "region", "endpoint")
        buckets = [Access(**{k: v for k, v in entry.items() if k in known and v}) for entry in listed]
        return cls(buckets, clients, Path(shared) if shared else None)

    @cached_property
    def clients(self) -> Any:
        if self._given is not None:
            return self._given
        from pyanamo_core.aws import Clients

        return Clients()

    @cached_property
    def _buckets(self) -> BucketClients:
        return BucketClients(self.clients, self._access.values())

    def _s3(self, bucket: str) -> tuple[Any, dict[str, str]]:
        """The client for a bucket, and what each request to it must say besides."""
        return self._buckets.of(bucket)

    def address(self, uri: str) -> str:
        """What htslib opens: the path itself, or an address that is good for an hour. A secret."""
        if not uri.startswith("s3://"):
            return uri
        trust_certificates()
        bucket, key = split_uri(uri)
        access = self._access.get(bucket, Access(bucket))
        with self._explained("presigning", uri):
            if access.access == "requester_pays":
                clients = self._buckets.clients_of(access)
                return str(clients.requester_pays_address(bucket, key, URL_SECONDS, access.region or None))
            s3, _ = self._s3(bucket)
            return str(s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=URL_SECONDS))

    def read_range(self, uri: str, start: int, length: int) -> tuple[bytes, int]:
        """`length` bytes from `start` (negative: the last bytes, `length` ignored), and the whole file's size.

        Raises:
            FileNotFoundError: it does not exist.
        """
        if not uri.startswith("s3://"):
            with Path(uri).open("rb") as file:
                total = file.seek(0, 2)
                file.seek(max(0, total + start) if start < 0 else min(start, total))
                return file.read() if start < 0 else file.read(length), total
        bucket, key = split_uri(uri)
        s3, more = self._s3(bucket)
        wanted = f"bytes={start}" if start < 0 else f"bytes={start}-{start + length - 1}"
        with self._explained("GetObject", uri):
            answer = s3.get_object(Bucket=bucket, Key=key, Range=wanted, **more)
            return answer["Body"].read(), int(answer["ContentRange"].rpartition("/")[2])

    def read_end(self, uri: str, count: int) -> End:
        """The last `count` bytes of a file.

        Raises:
            FileNotFoundError: it does not exist.
        """
        if not uri.startswith("s3://"):
            data, size = self.read_range(uri, -count, 0)
            return End(data, size)
        bucket, key = split_uri(uri)
        s3, more = self._s3(bucket)
        with self._explained("GetObject", uri):
            answer = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes=-{count}", **more)
            return End(answer["Body"].read(), int(answer["ContentRange"].rpartition("/")[2]), str(answer["ETag"]))

    def copy_range(self, uri: str, start: int, end: int, target: BinaryIO, etag: str = "") -> None:
        """Copy the bytes from `start` to before `end` to their own place in `target`; goes on where a connection broke.

        Raises:
            FileNotFoundError: it does not exist.
            ReadsInterrupted: it is no longer the version of this `etag`.
        """
        bucket, key = split_uri(uri)
        s3, more = self._s3(bucket)
        if etag:
            more = {**more, "IfMatch": etag}
        tries = RANGE_TRIES
        while start < end:
            target.seek(start)
            try:
                with self._explained("GetObject", uri):
                    answer = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", **more)
                    for chunk in answer["Body"].iter_chunks(_CHUNK_BYTES):
                        target.write(chunk)
                        start += len(chunk)
            except EndpointDown:
                tries -= 1
                if not tries:
                    raise

    def fetch(self, uri: str, target: Path) -> None:
        """Copy a whole (small) file to `target`.

        Raises:
            FileNotFoundError: it does not exist.
        """
        if not uri.startswith("s3://"):
            shutil.copyfile(uri, target)
            return
        bucket, key = split_uri(uri)
        s3, more = self._s3(bucket)
        with self._explained("GetObject", uri), target.open("wb") as file:
            shutil.copyfileobj(s3.get_object(Bucket=bucket, Key=key, **more)["Body"], file)

    def listing(self, where: str) -> Iterator[Listed]:
        """Every file below a folder or a bucket's prefix."""
        if not where.startswith("s3://"):
            folder = Path(where)
            if not folder.is_dir():
                raise ReadsInvalid(reads=where, reason="no such folder")
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    yield Listed(str(path), path.stat().st_size)
            return
        bucket, prefix = split_uri(where)
        s3, more = self._s3(bucket)
        with self._explained("ListObjectsV2", where):
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **more):
                for entry in page.get("Contents", ()):
                    yield Listed(f"s3://{bucket}/{entry['Key']}", int(entry["Size"]))

    @contextmanager
    def _explained(self, operation: str, uri: str = "") -> Generator[None]:
        """aws.explained, but a missing key is FileNotFoundError as for a path, and a refusal says what would help."""
        try:
            yield
        except Exception as error:
            from pyanamo_core.aws import code_of, explain, is_aws_error

            if code_of(error) in ("NoSuchKey", "404"):
                raise FileNotFoundError(uri) from None
            if code_of(error) in ("PreconditionFailed", "412"):
                raise ReadsInterrupted(reads=uri, reason="it was replaced by another version meanwhile") from error
            if not is_aws_error(error):
                raise
            raise self._advised(explain(error, "s3", f"{operation} {uri}".strip()), uri) from error

    def _advised(self, error: PyAnamoError, uri: str) -> PyAnamoError:
        bucket = split_uri(uri)[0]
        refusal = "denied" if isinstance(error, AccessDenied) else str(error.facts.get("right", ""))
        if not bucket or not isinstance(error, AccessDenied | WrongRegion):
            return error
        told = advice(bucket, self._access.get(bucket), refusal)
        return type(error)(**{**error.facts, "reason": f"{error.facts['reason'].rstrip('.')}. {told}".rstrip(".")})


def trust_certificates() -> None:
    """Tell htslib's curl where certificates lie: its wheel looks only where the build machine had them."""
    if os.environ.get("CURL_CA_BUNDLE"):
        return
    for place in _SYSTEM_CERTIFICATES:
        if Path(place).exists():
            os.environ["CURL_CA_BUNDLE"] = place
            return
    import botocore

    os.environ["CURL_CA_BUNDLE"] = str(Path(botocore.__file__).parent / "cacert.pem")
