"""Putting results where they belong: each file with its checksum, read back, the manifest last; or nothing at all."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pyanamo_core.errors import OutputRefused
from pyanamo_core.genomics.inputs import split_uri

MULTIPART_BYTES = 4 * 2**30  # PutObject takes 5 GB at most


@dataclass(frozen=True)
class Stored:
    """One result: its file name, address or path, bytes and SHA-256 (hex)."""

    name: str
    uri: str
    bytes: int
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Target:
    """An s3:// prefix or a folder that results are put into; in a `with`, an error takes back what was put.

    Args:
        where: `s3://bucket/prefix/` or a folder.
        clients: pyanamo_core.aws.Clients; made from the environment when first needed.
    """

    def __init__(self, where: str, clients: Any = None) -> None:
        self.where = where.rstrip("/")
        self._clients = clients
        self.stored: list[Stored] = []
        self._made_folders: list[Path] = []

    @property
    def remote(self) -> bool:
        return self.where.startswith("s3://")

    def _s3(self) -> Any:
        if self._clients is None:
            from pyanamo_core.aws import Clients

            self._clients = Clients()
        return self._clients.client("s3")

    def check(self, shared: Path | None = None) -> None:
        """Refuse early what can be told before anything is computed: no such bucket, folder not writable.

        Args:
            shared: a folder of the pilot's nests, of which then only the first ones ask for a bucket.

        Raises:
            OutputRefused: with the reason.
        """
        if self.remote:
            from pyanamo_core.aws import code_of, is_aws_error

            bucket, _ = split_uri(self.where)
            seen = shared / f"bucket-{bucket}" if shared is not None else None
            if seen is not None and seen.exists():
                return
            try:
                self._s3().head_bucket(Bucket=bucket)
                if seen is not None:
                    with contextlib.suppress(OSError):
                        seen.touch()
            except Exception as error:
                if not is_aws_error(error):
                    raise
                if code_of(error) in ("404", "NoSuchBucket"):
                    raise OutputRefused(where=self.where, reason=f"there is no bucket {bucket}") from error
            return  # a role may put objects without being allowed to ask for the bucket
        folder = Path(self.where)
        try:
            for missing in [p for p in (folder, *folder.parents) if not p.exists()][::-1]:
                missing.mkdir()
                self._made_folders.append(missing)
            probe = folder / ".pyanamo-probe"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            if error.errno == 28:
                raise
            raise OutputRefused(where=self.where, reason=str(error.strerror)) from error

    def put(self, path: Path) -> Stored:
        """Store a file under its own name and read back that it is whole.

        Raises:
            OutputRefused: bucket missing or not writable, or what arrived is not what was sent.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        size = path.stat().st_size
        stored = Stored(path.name, f"{self.where}/{path.name}", size, digest.hexdigest())
        self.stored.append(stored)
        if self.remote:
            self._put_object(path, stored, base64.b64encode(digest.digest()).decode())
        else:
            self._put_file(path, stored)
        return stored

    def take_over(self, stored: Stored) -> None:
        """Count a file that was put in another way among what an error takes back."""
        self.stored.append(stored)

    def _put_file(self, path: Path, stored: Stored) -> None:
        target = Path(stored.uri)
        partial = target.with_name(f".{target.name}.part")
        try:
            shutil.copyfile(path, partial)
            if partial.stat().st_size != stored.bytes:
                raise OSError(28, "No space left on device", str(partial))
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _put_object(self, path: Path, stored: Stored, checksum: str) -> None:
        from pyanamo_core.aws import code_of, explain, is_aws_error

        bucket, key = split_uri(stored.uri)
        try:
            if stored.bytes < MULTIPART_BYTES:
                with path.open("rb") as body:
                    self._s3().put_object(Bucket=bucket, Key=key, Body=body, ChecksumSHA256=checksum)
            else:
                self._s3().upload_file(str(path), bucket, key, ExtraArgs={"ChecksumAlgorithm": "SHA256"})
            head = self._s3().head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        except Exception as error:
            if not is_aws_error(error):
                raise
            if code_of(error) in ("NoSuchBucket", "AccessDenied", "403", "404", "AllAccessDisabled"):
                raise OutputRefused(where=self.where, reason=f"S3 says {code_of(error)}") from error
            raise explain(error, "s3", "PutObject") from error
        kept = str(head.get("ChecksumSHA256") or checksum)
        if int(head["ContentLength"]) != stored.bytes or ("-" not in kept and kept != checksum):
            raise OutputRefused(where=stored.uri, reason="what arrived is not what was sent")

    def take_back(self) -> None:
        """Remove what was put, best effort: after a failure nothing is left that looks like a result."""
        for stored in reversed(self.stored):
            with contextlib.suppress(Exception):
                if self.remote:
                    bucket, key = split_uri(stored.uri)
                    self._s3().delete_object(Bucket=bucket, Key=key)
                else:
                    Path(stored.uri).unlink(missing_ok=True)
        self.stored.clear()
        for folder in reversed(self._made_folders):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.take_back()


def remove(uri: str, clients: Any) -> None:
    """Remove one file or object; one that is not there is no error."""
    if not uri.startswith("s3://"):
        Path(uri).unlink(missing_ok=True)
        return
    from pyanamo_core.aws import explained

    bucket, key = split_uri(uri)
    with explained("s3", f"removing {uri}"):
        clients.client("s3").delete_object(Bucket=bucket, Key=key)
