"""Where logs go, and the batches in which CloudWatch Logs takes them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from pyanamo_core.model import LogPointer, NestCall
from pyanamo_core.pilot.logs import BATCH_BYTES, EVENT_BYTES, EVENT_OVERHEAD, LogShipper, batches, read_events
from pyanamo_core.workflow import Buckets, Workflow

CALL = NestCall(item_id="a b", task_id="T", index=7, value="8", fence=3, epoch=0, script="seq")


class Aws:
    """Takes log events and objects."""

    def __init__(self, *, rejects: bool = False) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.objects: dict[str, bytes] = {}
        self.streams: list[str] = []
        self.rejects = rejects

    def client(self, service: str, region: str | None = None) -> Any:
        return self

    def create_log_stream(self, **told: Any) -> None:
        self.streams.append(told["logStreamName"])

    def put_log_events(self, **told: Any) -> dict[str, Any]:
        self.batches.append(told["logEvents"])
        return {"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 1}} if self.rejects else {}

    def upload_fileobj(self, file: Any, bucket: str, key: str, **_: Any) -> None:
        self.objects[f"{bucket}/{key}"] = file.read()


def shipper(aws: Aws | None = None, **more: Any) -> LogShipper:
    """The logs of a pilot."""
    workflow = Workflow.model_validate(
        {"name": "Seq", "queue": "q", "job_definition": "j", "buckets": Buckets(results="s3://results/p"), **more}
    )
    return LogShipper(aws or Aws(), workflow, "Seq", "pilot1", "s3://results/p")


@pytest.mark.parametrize(
    ("size", "failed", "where"),
    [
        (1, False, "row"),
        (512, False, "row"),
        (513, False, "cloudwatch"),
        (2048, True, "row"),
        (2049, True, "cloudwatch"),
        (10 * 2**20, False, "cloudwatch"),
        (10 * 2**20 + 1, False, "s3"),
    ],
)
def test_a_log_goes_where_its_size_says(size: int, failed: bool, where: str) -> None:
    pointer = shipper().plan(CALL, 0, size, 100.0, 200.0, failed=failed)

    assert pointer is not None
    assert pointer.where == where


def test_the_workflow_may_send_every_log_to_s3() -> None:
    pointer = shipper(logs="s3").plan(CALL, 0, 10, 100.0, 200.0, failed=False)

    assert pointer is not None
    assert pointer.uri == "s3://results/p/Seq/work/a%20b/00007/3/log.gz"


def test_an_empty_log_has_no_pointer() -> None:
    assert shipper().plan(CALL, 0, 0, 100.0, 200.0, failed=True) is None


def test_nests_of_one_slot_have_time_ranges_of_their_own() -> None:
    # Given two nests of slot 1, the second of which begins in the millisecond in which the first ended
    logs = shipper()
    first = logs.plan(CALL, 1, 5000, 100.0, 200.0, failed=False)
    second = logs.plan(CALL, 1, 5000, 200.0, 300.0, failed=False)

    # Then their ranges do not touch, and their stream is the slot's
    assert first is not None
    assert second is not None
    assert first.stream == second.stream == "pilot1/001"
    assert first.end_ms < second.start_ms


def test_a_log_is_shipped_line_by_line_in_one_stream(tmp_path: Path) -> None:
    # Given a log of three lines, one of them empty
    aws = Aws()
    logs = shipper(aws)
    log = tmp_path / "log"
    log.write_text("first\n\nlast" + "x" * 600)
    pointer = logs.plan(CALL, 2, log.stat().st_size, 100.0, 200.0, failed=False)
    assert pointer is not None

    # When it is shipped twice
    assert logs.ship(pointer, log, ((6, 150.0), (700, 190.0))) == ""
    logs.ship(pointer, log, ())

    # Then lines have the time of the first mark behind them, and the stream was made once
    assert [(e["timestamp"], e["message"][:5]) for e in aws.batches[0]] == [
        (150_000, "first"),
        (190_000, " "),
        (190_000, "lastx"),
    ]
    assert aws.streams == ["pilot1/002"]


def test_rejected_events_are_told(tmp_path: Path) -> None:
    aws = Aws(rejects=True)
    logs = shipper(aws)
    log = tmp_path / "log"
    log.write_text("x" * 600)
    pointer = logs.plan(CALL, 0, 600, 100.0, 200.0, failed=False)
    assert pointer is not None

    assert "rejected" in logs.ship(pointer, log, ())


def test_a_big_log_becomes_one_gzipped_object(tmp_path: Path) -> None:
    aws = Aws()
    log = tmp_path / "log"
    log.write_bytes(b"line\n" * 1000)
    pointer = LogPointer(where="s3", uri="s3://bucket/some/log.gz")

    shipper(aws).ship(pointer, log, ())

    assert gzip.decompress(aws.objects["bucket/some/log.gz"]) == b"line\n" * 1000


def test_batches_respect_cloudwatchs_limits() -> None:
    # Given 25,000 short lines, then 30 of 200 KB
    events = [{"timestamp": n, "message": "x"} for n in range(25_000)]
    events += [{"timestamp": 25_000, "message": "y" * 200_000}] * 30

    # When they are put into batches
    told = list(batches(iter(events)))

    # Then none is too long or too big, and nothing is missing
    assert max(len(batch) for batch in told) <= 10_000
    assert max(sum(len(e["message"]) + EVENT_OVERHEAD for e in batch) for batch in told) <= BATCH_BYTES
    assert [e for batch in told for e in batch] == events


def test_a_batch_spans_less_than_a_day() -> None:
    day = 24 * 3600 * 1000
    events = [{"timestamp": n * day // 4, "message": "x"} for n in range(9)]

    assert all(b[-1]["timestamp"] - b[0]["timestamp"] < day for b in batches(iter(events)))


def test_a_line_longer_than_an_event_comes_in_pieces(tmp_path: Path) -> None:
    # Given one line of a megabyte that is no text
    log = tmp_path / "log"
    log.write_bytes(b"\xff" * 2**20)
    pointer = LogPointer(where="cloudwatch", start_ms=1000, end_ms=2000)

    # Then each piece is an event that CloudWatch takes
    pieces = [event["message"] for event in read_events(log, pointer, ())]
    assert max(len(piece.encode()) for piece in pieces) <= EVENT_BYTES
    assert sum(len(piece) for piece in pieces) == 2**20


def test_times_stay_within_the_pointers_range(tmp_path: Path) -> None:
    # Given marks of a clock that was set
    log = tmp_path / "log"
    log.write_text("a\nb\n")
    pointer = LogPointer(where="cloudwatch", start_ms=1000, end_ms=2000)

    stamps = [event["timestamp"] for event in read_events(log, pointer, ((2, 0.5), (4, 9.0)))]

    assert stamps == [1000, 2000]
