"""From a nest's result to its row: the log's pointer, and an object for what is too big."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

from pyanamo_core.model import INLINE_BYTES, Cause, LogPointer, Nest, NestCall, NestResult, NestStatus

MESSAGE_CHARACTERS: Final = 400


def nest_row(
    call: NestCall,
    result: NestResult,
    *,
    log: LogPointer | None,
    tail: str,
    revision: str,
    run_id: str,
    pilot_id: str,
) -> Nest:
    """The row of a result whose outputs, tag lines and figures fit into it (`overflows` says whether)."""
    return Nest(
        item_id=call.item_id,
        epoch=call.epoch,
        index=call.index,
        status=NestStatus.DONE if result.cause is Cause.DONE else NestStatus.FAILED,
        fence=call.fence,
        exit_code=result.exit_code,
        cause=result.cause,
        message=result.message[:MESSAGE_CHARACTERS],
        started=result.started,
        ended=result.ended,
        peak_memory_mb=result.peak_memory_mb,
        cpu_seconds=result.cpu_seconds,
        outputs=result.outputs,
        tags=result.tags,
        figures=result.figures,
        output_count=len(result.outputs),
        tag_count=len(result.tags),
        log=log,
        tail=tail,
        revision=revision,
        run_id=run_id,
        pilot_id=pilot_id,
    )


def overflow_of(result: NestResult) -> bytes | None:
    """The gzipped JSON of outputs, tag lines and figures if they are too big for a row, else None."""
    told: dict[str, Any] = {
        "outputs": [each.model_dump() for each in result.outputs],
        "tags": list(result.tags),
        "figures": result.figures,
    }
    plain = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    return gzip.compress(plain, mtime=0) if len(plain) > INLINE_BYTES else None


def is_bulky(result: NestResult) -> bool:
    """May it be too big for a row? Cheap, and never wrong in saying no."""
    told = sum(len(each) for each in result.tags) + 400 * len(result.outputs) + len(str(result.figures))
    return 4 * told > INLINE_BYTES


def put_overflow(client: Callable[[], Any], uri: str, packed: bytes) -> str:
    """Put the object; returns its SHA-256 (hex).

    Raises:
        what boto3 raises.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    client().put_object(Bucket=bucket, Key=key, Body=packed, ContentType="application/gzip")
    return hashlib.sha256(packed).hexdigest()


def without_payload(nest: Nest, uri: str, sha256: str) -> Nest:
    """The row that points to an overflow object instead of holding outputs, tag lines and figures."""
    return nest.model_copy(
        update={"outputs": (), "tags": (), "figures": {}, "overflow": uri, "overflow_sha256": sha256}
    )
