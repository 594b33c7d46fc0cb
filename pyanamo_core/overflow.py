"""Results of a nest that were too big for its row: a gzipped object that the row points to, read and checked."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from typing import Any

from pyanamo_core.errors import OverflowBroken, PyAnamoError
from pyanamo_core.model import Nest, Output

Fetch = Callable[[str], bytes]
"""Reads a whole object by its s3:// URI."""


def unfolded(nest: Nest, fetch: Fetch) -> Nest:
    """A nest with the outputs, tags and figures that were too big for its row, read from the object it points to.

    A nest whose row holds everything comes back as it is.

    Raises:
        OverflowBroken: the object is missing, has another checksum, or does not hold what the row says.
    """
    if not nest.overflow:
        return nest
    facts: dict[str, Any] = {"uri": nest.overflow, "item_id": nest.item_id, "nest": nest.index}
    try:
        body = fetch(nest.overflow)
    except PyAnamoError as error:
        raise OverflowBroken(reason=str(error), **facts) from error
    if nest.overflow_sha256 and hashlib.sha256(body).hexdigest() != nest.overflow_sha256:
        raise OverflowBroken(reason="its checksum is not the recorded one", **facts)
    try:
        held: dict[str, Any] = json.loads(gzip.decompress(body))
        outputs = tuple(Output.model_validate(one) for one in held.get("outputs", ()))
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise OverflowBroken(reason=f"it is no gzipped JSON of results ({error})", **facts) from error
    return nest.model_copy(
        update={
            "outputs": outputs,
            "tags": tuple(held.get("tags", ())),
            "figures": held.get("figures", {}),
        }
    )


def s3_fetch(clients: Any) -> Fetch:
    """A reader of objects by s3:// URI over these clients (aws.Clients)."""

    def fetch(uri: str) -> bytes:
        from pyanamo_core.aws import explained

        bucket, _, key = uri.removeprefix("s3://").partition("/")
        with explained("s3", f"reading {uri}"):
            return clients.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()

    return fetch
