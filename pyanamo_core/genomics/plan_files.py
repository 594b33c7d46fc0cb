"""Plan files: canonical JSON whose name ends in its own SHA-256's first 12 digits, so that another plan has another name.

A nest of gather or joint reads no ledger: its one argument is such a file's address. That address is part of its item's
definition, so that an item is done again exactly if what it is made from has changed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from pyanamo_core.errors import BadInput
from pyanamo_core.genomics.inputs import Inputs, split_uri

MAX_PLAN_BYTES = 1 << 28


class PlanInvalid(BadInput):
    """{uri} is no plan that can be followed: {reason}. Plans are written by pyanamo gather, pyanamo joint and pyanamo cohort."""


def canonical(value: Mapping[str, Any]) -> bytes:
    """The bytes of a plan: the same for equal values."""
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def plan_name(stem: str, content: bytes) -> str:
    """`<stem>.<12 digits of the SHA-256>.json`."""
    return f"{stem}.{hashlib.sha256(content).hexdigest()[:12]}.json"


def put_plan(clients: Any, place: str, stem: str, value: Mapping[str, Any]) -> str:
    """Write a plan below `place` (an s3:// prefix or a folder) and give its address.

    One that stands there is not sent again: its name says what is in it, a gather's has half a megabyte, and a bucket
    that keeps versions would keep each of them.
    """
    content = canonical(value)
    return put_named(clients, place, stem, content)


def put_named(clients: Any, place: str, stem: str, content: bytes) -> str:
    """Write a file named by its content, unless it stands there; returns its address."""
    name = plan_name(stem, content)
    uri = f"{place.rstrip('/')}/{name}"
    if uri.startswith("s3://") and not keeps_nothing(clients) and _stands(clients, uri, content):
        return uri
    return put_file(clients, place, name, content)


def keeps_nothing(clients: Any) -> bool:
    """Are these clients of somebody who only wants to know what plans there would be?"""
    return bool(getattr(clients, "keeps_nothing", False))


def _stands(clients: Any, uri: str, content: bytes) -> bool:
    """Is this very content there? By its size, and by its SHA-256 where the store tells it."""
    from pyanamo_core.aws import code_of, explained

    bucket, key = split_uri(uri)
    with explained("s3", f"looking for {uri}"):
        try:
            found = clients.client("s3").head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        except Exception as error:
            # 403: who may not list a bucket is not told that an object is missing.
            if code_of(error) in ("404", "NoSuchKey", "NotFound", "403", "AccessDenied", "Forbidden"):
                return False
            raise
    told = found.get("ChecksumSHA256")
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return found["ContentLength"] == len(content) and told in (None, digest)


def put_file(clients: Any, place: str, name: str, content: bytes) -> str:
    """Write a small file whole; returns its address."""
    uri = f"{place.rstrip('/')}/{name}"
    if keeps_nothing(clients):
        return uri
    if uri.startswith("s3://"):
        from pyanamo_core.aws import explained

        bucket, key = split_uri(uri)
        with explained("s3", f"writing {uri}"):
            clients.client("s3").put_object(Bucket=bucket, Key=key, Body=content, ChecksumAlgorithm="SHA256")
        return uri
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
    return uri


def read_plan(inputs: Inputs, uri: str, kind: str = "") -> dict[str, Any]:
    """A plan, compared with the digest in its name.

    Args:
        kind: what it must be (`gather`, `region`, `concat`, `members`); empty: any.

    Raises:
        PlanInvalid: missing, changed, or of another kind.
    """
    told, content = read_json(inputs, uri)
    digest = uri.removesuffix(".json").rpartition(".")[2]
    if hashlib.sha256(content).hexdigest()[:12] != digest:
        raise PlanInvalid(uri=uri, reason="its content is not the one that its name says")
    if kind and told.get("kind") != kind:
        raise PlanInvalid(uri=uri, reason=f"it is a plan of {told.get('kind')}, not of {kind}")
    return told


def read_json(inputs: Inputs, uri: str) -> tuple[dict[str, Any], bytes]:
    """A JSON object and its bytes.

    Raises:
        PlanInvalid: missing, or no JSON object.
    """
    try:
        content, total = inputs.read_range(uri, 0, MAX_PLAN_BYTES)
        told: Any = json.loads(content)
    except FileNotFoundError as error:
        raise PlanInvalid(uri=uri, reason="it does not exist") from error
    except ValueError as error:
        raise PlanInvalid(uri=uri, reason="it is no JSON") from error
    if not isinstance(told, dict) or total > len(content):
        raise PlanInvalid(uri=uri, reason="it is no JSON object")
    return cast("dict[str, Any]", told), content
