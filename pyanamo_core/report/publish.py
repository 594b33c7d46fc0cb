"""Copies of recorded results under names that people browse, made by S3 itself; each item's manifest comes last.

    <place>/<item>/<nest, 5 digits>/<name>        as the nest's script named it
    <place>/<item>/manifest.json                  nests, attempts, sources, bytes, SHA-256: put when all of it is there

While an item is being published `manifest.part.json` says which objects may lie there, and who is at it; a publication that is
interrupted goes on from it, and nothing is copied twice. Results that are no longer the item's (a redone nest made other
files) are removed; those that are, and that are not asked for now, stay: they may be the only copies.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from pyanamo_core.aws import Clients, code_of, explained, is_aws_error
from pyanamo_core.errors import BadInput, Surroundings
from pyanamo_core.model import Item, NestStatus, Output, encoded
from pyanamo_core.report.clean import delete_objects
from pyanamo_core.report.results import Result

COPY_BYTES: Final = 5 * 2**30
"""CopyObject takes no more; above it the copy goes in parts."""
PART_BYTES: Final = 2**29
THREADS: Final = 16
MANIFEST: Final = "manifest.json"
PART: Final = "manifest.part.json"
_ABSENT: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_FENCED: Final = re.compile(r"/work/[^/]+/\d+/\d+/(.+)$")


class NotInABucket(BadInput):
    """{uri} lies on a machine, not in a bucket: S3 cannot copy it. Leave such outputs out with --suffix."""


class NameTwice(BadInput):
    """Nest {nest} of item {item_id} recorded two outputs that are called {name}: one copy would replace the other. Publish one kind with --suffix."""


class SourceGone(Surroundings):
    """{uri} of item {item_id}, nest {nest}, does not exist. If it went after it had been gathered, publish the rest with --suffix; else do the nest again: pyanamo items redo {item_id} number={nest}"""


class CopyDiffers(Surroundings):
    """The copy {uri} is not what was recorded of {source}: {what}. It was removed. Do the nest again with: pyanamo items redo {item_id} number={nest}"""


class Unsettled(Exception):
    """The item moved, or somebody else published it, meanwhile: read it anew and begin again."""


@dataclass(frozen=True)
class PublishedFile:
    """One copy, as the manifest lists it."""

    nest: int
    locus: str
    attempt: int
    revision: str
    uri: str
    source: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Published:
    """What was done for one item."""

    item: str
    manifest: str
    files: int
    bytes: int
    copied: int
    removed: int


class Publisher:
    """Publishes items below a place.

    Args:
        clients: where boto3's clients come from.
        place: s3://bucket/prefix.
        table: for the manifests.
    """

    def __init__(self, clients: Clients, place: str, table: str) -> None:
        self.place = place.rstrip("/")
        self._clients, self._table = clients, table
        self._bucket, _, self._prefix = self.place.removeprefix("s3://").partition("/")

    def publish(
        self, item: Item, rows: Sequence[Result], suffix: str = "", still: Callable[[], bool] = lambda: True
    ) -> Published:
        """Copy what is recorded of an item's done nests, unless its manifest says that this is there already.

        Args:
            suffix: copy only what ends so; what was published before and still is the item's stays.
            still: is the item as it was when the rows were read? Asked before anything is removed, and before the
                manifest is put.

        Raises:
            NotInABucket, NameTwice: nothing was copied.
            SourceGone, CopyDiffers: the item has no manifest then; the same again goes on.
            Unsettled: read the item anew; what has been copied is not copied again.
        """
        folder = f"{self.place}/{encoded(item.item_id)}"
        done = [row for row in rows if row.status == NestStatus.DONE]
        wanted = self._files(folder, item, done, suffix)
        standing, part = self._read(f"{folder}/{MANIFEST}"), self._read(f"{folder}/{PART}")
        others = ({*_listed(standing), *_listed(part)}) - {one.uri for one in wanted}
        kept, stale = self._sorted(others, _present(folder, done), standing)
        files = sorted([*wanted, *kept], key=lambda one: one.uri)
        whole = len(done) == item.nests and len(files) == sum(len(row.outputs) for row in done)
        told = {
            "schema": 1,
            "kind": "published",
            "table": self._table,
            "item": item.item_id,
            "sample": str(next((row.figures["sample"] for row in done if row.figures.get("sample")), item.item_id)),
            "complete": whole,
            "nests": item.nests,
            "suffix": suffix if all(one.uri.endswith(suffix) for one in files) else "",
            "files": [asdict(one) for one in files],
        }
        body = _canonical(told)
        size = sum(one.bytes for one in files)
        if standing == body:
            if part is not None:
                delete_objects(self._clients, [f"{folder}/{PART}"])
            return Published(item.item_id, f"{folder}/{MANIFEST}", len(files), size, 0, 0)
        may_lie = sorted({one.uri for one in files}.union(others))
        mine = _canonical({"by": uuid.uuid4().hex, "files": [{"uri": uri} for uri in may_lie]})
        self._put(f"{folder}/{PART}", mine)
        if standing is not None:
            delete_objects(self._clients, [f"{folder}/{MANIFEST}"])
        with ThreadPoolExecutor(THREADS, thread_name_prefix="publish") as pool:
            copied = sum(pool.map(partial(self._copy, item.item_id), wanted))
        self._refuse_unsettled(f"{folder}/{PART}", mine, still)
        if stale:
            delete_objects(self._clients, stale)
            self._refuse_unsettled(f"{folder}/{PART}", mine, still)
        self._put(f"{folder}/{MANIFEST}", body)
        delete_objects(self._clients, [f"{folder}/{PART}"])
        return Published(item.item_id, f"{folder}/{MANIFEST}", len(files), size, copied, len(stale))

    def _refuse_unsettled(self, part: str, mine: bytes, still: Callable[[], bool]) -> None:
        if not still() or self._read(part) != mine:
            raise Unsettled

    def _sorted(
        self, uris: set[str], present: Mapping[str, PublishedFile], standing: bytes | None
    ) -> tuple[list[PublishedFile], list[str]]:
        """Of what was published before and is not asked for now: what stays, and what is to be removed."""
        known = _entries(standing)
        ours = [present[uri] for uri in sorted(uris & present.keys())]

        def look(one: PublishedFile) -> bool | None:
            return known.get(one.uri) == asdict(one) or self._is_there(one)

        with ThreadPoolExecutor(THREADS, thread_name_prefix="publish") as pool:
            there = list(pool.map(look, ours))
        kept = [one for one, found in zip(ours, there, strict=True) if found]
        # What is not there needs no removal, and somebody else may be copying it.
        stale = [one.uri for one, found in zip(ours, there, strict=True) if found is False]
        return kept, sorted([*(uris - present.keys()), *stale])

    def _is_there(self, one: PublishedFile) -> bool | None:
        """Is this object the copy of that result? None: there is no object."""
        head = self._head(*_place(one.uri))
        return None if head is None else int(head["ContentLength"]) == one.bytes and _mark(head) == _mark_of(one)

    def _files(self, folder: str, item: Item, rows: Sequence[Result], suffix: str) -> list[PublishedFile]:
        files: dict[str, PublishedFile] = {}
        for row in rows:
            for output in row.outputs:
                if not output.uri.endswith(suffix):
                    continue
                if not output.uri.startswith("s3://"):
                    raise NotInABucket(uri=output.uri)
                one = _file(folder, row, output)
                if one.uri in files:
                    name = one.uri.removeprefix(f"{folder}/{row.nest:05d}/")
                    raise NameTwice(item_id=item.item_id, nest=row.nest, name=name)
                files[one.uri] = one
        return [files[uri] for uri in sorted(files)]

    # ------------------------------------------------------------------------------------------------------- objects

    def _copy(self, item_id: str, one: PublishedFile) -> bool:
        """Copy one object unless it is there; True if it was copied."""
        bucket, key = _place(one.uri)
        from_bucket, from_key = _place(one.source)
        mark = _mark_of(one)
        s3: Any = self._clients.client("s3")
        if self._is_there(one):
            return False
        facts: dict[str, Any] = {"item_id": item_id, "nest": one.nest}
        with explained("s3", f"copying {one.source} to {one.uri}"):
            try:
                if one.bytes < COPY_BYTES:
                    s3.copy_object(
                        Bucket=bucket,
                        Key=key,
                        CopySource={"Bucket": from_bucket, "Key": from_key},
                        MetadataDirective="REPLACE",
                        Metadata={"pyanamo": mark},
                        ChecksumAlgorithm="SHA256",
                    )
                else:
                    self._copy_in_parts(one.bytes, (bucket, key), (from_bucket, from_key), mark)
            except Exception as error:
                if is_aws_error(error) and code_of(error) in _ABSENT:
                    raise SourceGone(uri=one.source, **facts) from error
                raise
        wrong = self._differs(self._head(bucket, key), one)
        if wrong:
            delete_objects(self._clients, [one.uri])
            raise CopyDiffers(uri=one.uri, source=one.source, what=wrong, **facts)
        return True

    def _copy_in_parts(self, size: int, to: tuple[str, str], source: tuple[str, str], mark: str) -> None:
        """A multipart copy on the server. What an interrupted one left is ended first: it would be billed for ever."""
        s3: Any = self._clients.client("s3")
        bucket, key = to
        for upload in s3.list_multipart_uploads(Bucket=bucket, Prefix=key).get("Uploads") or ():
            if upload["Key"] == key:
                s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload["UploadId"])
        upload = s3.create_multipart_upload(
            Bucket=bucket, Key=key, Metadata={"pyanamo": mark}, ChecksumAlgorithm="SHA256"
        )["UploadId"]
        begun = {"Bucket": bucket, "Key": key, "UploadId": upload}
        try:
            parts: list[dict[str, Any]] = []
            for number, start in enumerate(range(0, size, PART_BYTES), start=1):
                end = min(size, start + PART_BYTES) - 1
                answer = s3.upload_part_copy(
                    **begun,
                    PartNumber=number,
                    CopySource={"Bucket": source[0], "Key": source[1]},
                    CopySourceRange=f"bytes={start}-{end}",
                )["CopyPartResult"]
                kept = {name: answer[name] for name in ("ETag", "ChecksumSHA256") if name in answer}
                parts.append({"PartNumber": number, **kept})
            s3.complete_multipart_upload(**begun, MultipartUpload={"Parts": parts})
        except BaseException:
            s3.abort_multipart_upload(**begun)
            raise

    def _differs(self, head: Mapping[str, Any] | None, one: PublishedFile) -> str:
        if head is None:
            return "it is not there"
        if int(head["ContentLength"]) != one.bytes:
            return f"it has {head['ContentLength']} bytes, recorded are {one.bytes}"
        kept = str(head.get("ChecksumSHA256") or "")
        # S3 has no SHA-256 of the whole of what was copied in parts.
        whole = one.bytes < COPY_BYTES and "-" not in kept
        if one.sha256 and kept and whole and base64.b64decode(kept).hex() != one.sha256:
            return "its SHA-256 is another"
        return ""

    def _head(self, bucket: str, key: str) -> dict[str, Any] | None:
        with explained("s3", f"looking at s3://{bucket}/{key}"):
            try:
                return self._clients.client("s3").head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            except Exception as error:
                if is_aws_error(error) and code_of(error) in _ABSENT:
                    return None
                raise

    def _read(self, uri: str) -> bytes | None:
        bucket, key = _place(uri)
        with explained("s3", f"reading {uri}"):
            try:
                return self._clients.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
            except Exception as error:
                if is_aws_error(error) and code_of(error) in _ABSENT:
                    return None
                raise

    def _put(self, uri: str, body: bytes) -> None:
        bucket, key = _place(uri)
        with explained("s3", f"writing {uri}"):
            self._clients.client("s3").put_object(
                Bucket=bucket, Key=key, Body=body, ContentType="application/json", ChecksumAlgorithm="SHA256"
            )


def _place(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _file(folder: str, row: Result, output: Output) -> PublishedFile:
    found = _FENCED.search(output.uri)
    uri = f"{folder}/{row.nest:05d}/{found[1] if found else output.uri.rpartition('/')[2]}"
    return PublishedFile(
        row.nest, row.value, row.fence or 0, row.revision, uri, output.uri, output.bytes, output.sha256
    )


def _present(folder: str, rows: Sequence[Result]) -> dict[str, PublishedFile]:
    """Every result in a bucket that the item has now, by the address of its copy."""
    files = [_file(folder, row, output) for row in rows for output in row.outputs if output.uri.startswith("s3://")]
    return {one.uri: one for one in files}


def _mark_of(one: PublishedFile) -> str:
    """What a copy holds as metadata: of which result it is."""
    return f"{one.sha256 or 'unknown'} {one.attempt}"


def _mark(head: Mapping[str, Any]) -> str:
    return str(head.get("Metadata", {}).get("pyanamo", ""))


def _canonical(told: Mapping[str, Any]) -> bytes:
    return (json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _entries(manifest: bytes | None) -> dict[str, dict[str, Any]]:
    """What a manifest lists, by address; nothing of one that cannot be read."""
    try:
        return {str(one["uri"]): dict(one) for one in json.loads(manifest or b"{}").get("files", ())}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _listed(manifest: bytes | None) -> list[str]:
    """Addresses that a manifest lists."""
    return list(_entries(manifest))
