"""What this process has asked of AWS, counted at the SDK's clients: DynamoDB's units, requests to S3, bytes of logs.

DynamoDB is asked for the consumed capacity with every call; it says so in the answer, for nothing. A condition that did
not hold is billed as a write of the row that stands, which the refusal does not tell: one unit is counted, as an item's
row is never bigger. What DynamoDB did without an answer that arrived is not seen.

S3's requests are counted as they are sent, repeats included, in the two classes of its price list. Deleting is free.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

REPORT: Final = "PYANAMO_METER"
"""Names a file to which a process appends its requests to S3 at its end: so a pilot learns of its tasks' calls."""
_REPORT_CHARACTERS: Final = 1 << 20
READS: Final = frozenset({"GetItem", "BatchGetItem", "Query", "Scan", "TransactGetItems"})
WRITES: Final = frozenset({"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems"})
_REFUSED: Final = "ConditionalCheckFailedException"
_CHEAP: Final = ("Get", "Head", "Select")
_FREE: Final = ("Delete", "Abort")


@dataclass(frozen=True)
class Reading:
    """A meter's figures: DynamoDB's units, requests to S3 by class, bytes sent to CloudWatch Logs."""

    write_units: float = 0.0
    read_units: float = 0.0
    s3_writes: int = 0
    """PUT, COPY, POST and LIST."""
    s3_reads: int = 0
    """GET, HEAD and SELECT."""
    log_bytes: int = 0


class Meter:
    """Counts for all clients that it is attached to; any thread may use them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._units = [0.0, 0.0]
        self._requests = [0, 0]
        self._log_bytes = 0
        _reporting(self)

    def attach(self, client: Any, service: str) -> None:
        """Listen to one of boto3's clients."""
        events = client.meta.events
        if service == "dynamodb":
            for operation in READS | WRITES:
                events.register(f"provide-client-params.dynamodb.{operation}", _ask)
            events.register("after-call.dynamodb", self._answered)
        elif service in ("s3", "logs"):
            events.register(f"before-send.{service}", partial(self._sent, service))

    @property
    def reading(self) -> Reading:
        """What it shows now."""
        with self._lock:
            (writes, reads), (puts, gets) = self._units, self._requests
            return Reading(writes, reads, puts, gets, self._log_bytes)

    def _answered(self, model: Any, parsed: dict[str, Any], **_: Any) -> None:
        name = str(model.name)
        if name not in READS and name not in WRITES:
            return
        told: Any = parsed.get("ConsumedCapacity") or []
        listed = cast("list[dict[str, Any]]", told if isinstance(told, list) else [told])
        units = sum(float(each.get("CapacityUnits") or 0.0) for each in listed)
        error = cast("dict[str, Any]", parsed.get("Error") or {})
        if error.get("Code") == _REFUSED:
            units = 1.0
        with self._lock:
            self._units[name in READS] += units

    def _sent(self, service: str, request: Any, event_name: str, **_: Any) -> None:
        # The service has another name in there: cloudwatch-logs.
        operation = event_name.rpartition(".")[2]
        with self._lock:
            if service == "logs":
                if operation == "PutLogEvents":
                    self._log_bytes += len(request.body or b"")
            elif not operation.startswith(_FREE):
                self._requests[operation.startswith(_CHEAP)] += 1


def _ask(params: dict[str, Any], **_: Any) -> dict[str, Any]:
    params.setdefault("ReturnConsumedCapacity", "TOTAL")
    return params


# ------------------------------------------------------------------------------------------- a task tells its pilot

_meters: list[Meter] = []
_process = 0


def _reporting(meter: Meter) -> None:
    """Where a file is named, remember the meter until this process ends; a fork begins anew."""
    global _process
    if not os.environ.get(REPORT):
        return
    if _process != os.getpid():
        _process = os.getpid()
        _meters.clear()
        atexit.register(_report, _process, os.environ[REPORT])
    _meters.append(meter)


def _report(process: int, path: str) -> None:
    if process != os.getpid():
        return
    told = [meter.reading for meter in _meters]
    line = json.dumps({"s3_writes": sum(one.s3_writes for one in told), "s3_reads": sum(one.s3_reads for one in told)})
    with suppress(OSError), Path(path).open("a") as stream:
        stream.write(line + "\n")


def reported(path: Path) -> tuple[int, int]:
    """(PUT, COPY, POST and LIST; GET and HEAD) that processes have told in a file; lines that are none are left out."""
    writes = reads = 0
    with suppress(OSError), path.open(errors="replace") as stream:
        for line in stream.read(_REPORT_CHARACTERS).splitlines():
            with suppress(ValueError, TypeError, AttributeError):
                told = cast("dict[str, Any]", json.loads(line))
                more = int(told.get("s3_writes", 0)), int(told.get("s3_reads", 0))
                if min(more) >= 0:
                    writes, reads = writes + more[0], reads + more[1]
    return writes, reads
