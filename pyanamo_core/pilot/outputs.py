"""What a nest says that it made (PYANAMO_RESULT), and whether that is true.

    {"outputs": [{"uri": "s3://…/x.g.vcf.gz", "bytes": 1234, "sha256": "…"}], "figures": {"variants": 12}}

An output is an S3 URI, a `file://` URI or an absolute path. Each is checked for existence, size and checksum; what is
not named is the script's own affair.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

from pyanamo_core.aws import code_of, is_aws_error
from pyanamo_core.model import Output

RESULT_BYTES: Final = 64 * 2**20
"""A bigger PYANAMO_RESULT is refused."""
READ_BACK_BYTES: Final = 256 * 2**20
"""An object up to this size is read back when S3 cannot tell its SHA-256; a bigger one is checked by its size."""
_CHUNK: Final = 1 << 20

Hook = Callable[[dict[str, Any], list[dict[str, Any]]], "str | None"]
"""`verify(call, outputs)`: the call's fields with `figures` among them, and the outputs as the script told them.

`call["read_end"](uri, count)` gives the last bytes of an output, wherever it lies.
"""


class Unverified(Exception):
    """What the nest claims is not so. The text is for the user."""


def read_result(path: Path) -> tuple[dict[str, Any], tuple[Output, ...], dict[str, Any]]:
    """The parsed file, its outputs and its figures; all empty if the script wrote none.

    Raises:
        Unverified: no JSON, or not of the documented shape.
    """
    try:
        if path.stat().st_size > RESULT_BYTES:
            raise Unverified(f"PYANAMO_RESULT has more than {RESULT_BYTES} bytes")
        text = path.read_bytes()
        if not text.strip():
            # What is left of a write that failed unseen: a script that has nothing to tell writes no file.
            raise Unverified("PYANAMO_RESULT is empty")
        told: Any = json.loads(text)
    except FileNotFoundError:
        return {}, (), {}
    except (ValueError, RecursionError) as error:
        raise Unverified(f"PYANAMO_RESULT is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise Unverified("PYANAMO_RESULT is no JSON object")
    result = cast("dict[str, Any]", told)
    figures: Any = result.get("figures") or {}
    outputs: Any = result.get("outputs") or []
    if not isinstance(figures, dict) or not isinstance(outputs, list):
        raise Unverified("PYANAMO_RESULT: outputs must be a list and figures an object")
    return result, tuple(_output(each) for each in cast("list[Any]", outputs)), cast("dict[str, Any]", figures)


def _output(told: Any) -> Output:
    if not isinstance(told, dict):
        raise Unverified(f"PYANAMO_RESULT: {told!r} is no output (uri, bytes, sha256)")
    fields = cast("dict[str, Any]", told)
    uri, size, digest = fields.get("uri"), fields.get("bytes"), fields.get("sha256") or ""
    if not isinstance(uri, str) or not uri:
        raise Unverified(f"PYANAMO_RESULT: an output without uri: {told!r}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Unverified(f"PYANAMO_RESULT: {uri} without its size in bytes")
    if not isinstance(digest, str) or (digest and len(digest) != 64):
        raise Unverified(f"PYANAMO_RESULT: the sha256 of {uri} is not 64 hex digits")
    return Output(uri=uri, bytes=size, sha256=digest.lower())


def check_output(output: Output, s3: Callable[[], Any]) -> None:
    """See for ourselves that an output is there, as big as told and with the checksum told.

    Args:
        s3: gives a boto3 S3 client when one is needed.

    Raises:
        Unverified: it is not so.
    """
    if output.uri.startswith("s3://"):
        _check_object(output, s3())
    elif output.uri.startswith("/") or output.uri.startswith("file://"):
        path = Path(unquote(urlsplit(output.uri).path)) if output.uri.startswith("file://") else Path(output.uri)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise Unverified(f"{output.uri}: {error.strerror}") from None
        _same_size(output, size)
        if output.sha256:
            with path.open("rb") as file:
                _same_digest(output, hashlib.file_digest(file, "sha256").hexdigest())
    else:
        raise Unverified(f"{output.uri} is neither an S3 URI nor an absolute path")


def _check_object(output: Output, client: Any) -> None:
    bucket, _, key = output.uri.removeprefix("s3://").partition("/")
    try:
        head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    except Exception as error:
        if is_aws_error(error) and code_of(error) in {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}:
            raise Unverified(f"{output.uri} does not exist") from None
        if is_aws_error(error) and code_of(error) in {"403", "AccessDenied"}:
            raise Unverified(f"{output.uri} cannot be read") from None
        raise
    _same_size(output, int(head["ContentLength"]))
    if not output.sha256:
        return
    stored = str(head.get("ChecksumSHA256") or "")
    if stored and "-" not in stored:  # with `-n` it is a checksum of parts' checksums
        _same_digest(output, base64.b64decode(stored).hex())
    elif output.bytes <= READ_BACK_BYTES:
        digest = hashlib.sha256()
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        while chunk := body.read(_CHUNK):
            digest.update(chunk)
        _same_digest(output, digest.hexdigest())


def read_end(s3: Callable[[], Any], uri: str, count: int) -> bytes:
    """The last bytes of an output; fewer if it has no more.

    Raises:
        what boto3 and the file system raise.
    """
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return bytes(s3().get_object(Bucket=bucket, Key=key, Range=f"bytes=-{count}")["Body"].read())
    path = Path(unquote(urlsplit(uri).path)) if uri.startswith("file://") else Path(uri)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - count))
        return file.read(count)


def _same_size(output: Output, size: int) -> None:
    if size != output.bytes:
        raise Unverified(f"{output.uri} has {size} bytes, not {output.bytes}")


def _same_digest(output: Output, digest: str) -> None:
    if digest != output.sha256:
        raise Unverified(f"{output.uri} has SHA-256 {digest[:12]}…, not {output.sha256[:12]}…")


def load_hook(entry: str, pipeline: str = "") -> Hook | None:
    """The workflow file's `verify:` entry point `module:function`; None if it names none.

    The module may also lie in the folder of the task scripts.

    Raises:
        ImportError, AttributeError: it cannot be loaded. Every host would fail alike.
    """
    if not entry:
        return None
    module, _, name = entry.partition(":")
    if pipeline and pipeline not in sys.path:
        sys.path.append(pipeline)
    hook = getattr(importlib.import_module(module), name)
    if not callable(hook):
        raise AttributeError(f"{entry} is no function")
    return cast("Hook", hook)


def ask_hook(hook: Hook, call: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Let the hook judge; it returns None, or says what is wrong.

    Args:
        call: the fields of the nest's call.
        result: what `read_result` gave: its figures are handed to the hook within `call`.

    Raises:
        Unverified: it found something, or failed itself.
    """
    try:
        said = hook({**call, "figures": result.get("figures") or {}}, list(result.get("outputs") or []))
    except Exception as error:
        raise Unverified(f"the verify hook failed: {type(error).__name__}: {error}") from error
    if said:
        raise Unverified(said)
