"""Results and the HTML report, read from a ledger that has been worked on."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pyanamo_core.clock import FakeClock
from pyanamo_core.errors import FolderMissing, OverflowBroken, RunMissing
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import (
    Cause,
    Definition,
    Nest,
    NestStatus,
    Output,
    PilotRecord,
    Recorded,
    Run,
    State,
)
from pyanamo_core.report import Section, collect, render, results, write_report

RUN = "run-1"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> MemoryLedger:
    """Item A is done, item B failed in its second nest, item C has not begun."""
    made = MemoryLedger(clock=clock)
    made.begin_run(Run(run_id=RUN, workflow_version=1, token="tok", started=clock.now()))
    made.put_pilot(
        PilotRecord(pilot_id="p1", run_id=RUN, started=clock.now(), last_beat=clock.now(), slots=2, array_index=0)
    )
    for name in "ABC":
        made.import_item(name, "trio", Definition(script="call.sh", arguments=("demo1:1-100", "demo1:101-200")))
    work(made, clock, "A", NestStatus.DONE)
    work(made, clock, "B", NestStatus.FAILED)
    return made


def work(ledger: MemoryLedger, clock: FakeClock, item_id: str, second: NestStatus) -> None:
    claim = ledger.claim(item_id, "p1", run_id=RUN)
    assert claim is not None
    for number, status in enumerate((NestStatus.DONE, second)):
        begun = clock.now()
        clock.move(4)
        bad = status is NestStatus.FAILED
        nest = Nest(
            item_id=item_id,
            epoch=claim.epoch,
            index=number,
            status=status,
            fence=claim.fence,
            exit_code=3 if bad else 0,
            cause=Cause.PERMANENT if bad else Cause.DONE,
            message="<script>alert('truncated CRAM')</script>" if bad else "",
            started=begun,
            ended=clock.now(),
            cpu_seconds=5,
            peak_memory_mb=300 + number,
            outputs=() if bad else (Output(uri=f"s3://b/{item_id}{number}.g.vcf.gz", bytes=1),),
            figures={} if bad else {"variants": 31, "mean_depth": 29.76},
            run_id=RUN,
            pilot_id="p1",
            token=f"{item_id}{number}",
        )
        assert ledger.record_nest(claim, nest) is Recorded.WON
    if second is NestStatus.DONE:
        ledger.finish(claim, nests_done=2)
    else:
        ledger.fail(claim, Cause.PERMANENT, "nest 1 failed", nests_done=1, nests_failed=1)


def test_every_nest_of_every_item_has_a_row_also_those_nobody_began(ledger: MemoryLedger):
    rows = list(results(ledger))
    assert sorted((one.item_id, one.nest, one.status) for one in rows) == [
        ("A", 0, "done"),
        ("A", 1, "done"),
        ("B", 0, "done"),
        ("B", 1, "failed"),
        ("C", 0, ""),
        ("C", 1, ""),
    ]
    assert {one.value for one in rows} == {"demo1:1-100", "demo1:101-200"}


def test_results_of_an_older_epoch_do_not_show(ledger: MemoryLedger):
    ledger.reset(ledger.item("A"))
    rows = list(results(ledger, [ledger.item("A")]))
    assert [(one.status, one.outputs) for one in rows] == [("", ()), ("", ())]


def test_what_was_too_big_for_its_row_is_read_from_its_object(ledger: MemoryLedger):
    body = gzip.compress(
        json.dumps(
            {"outputs": [{"uri": "s3://b/x", "bytes": 5}], "tags": ["a", "b"], "figures": {"variants": 9}}
        ).encode()
    )
    overflowing(ledger, hashlib.sha256(body).hexdigest())
    (row,) = results(ledger, [ledger.item("D")], fetch=lambda uri: {"s3://b/big.json.gz": body}[uri])
    assert ([one.uri for one in row.outputs], row.tags, row.figures) == (["s3://b/x"], ("a", "b"), {"variants": 9})


def test_without_a_reader_the_row_says_where_the_results_are(ledger: MemoryLedger):
    overflowing(ledger, "")
    (row,) = results(ledger, [ledger.item("D")])
    assert "s3://b/big.json.gz" in row.message


@pytest.mark.parametrize(
    "body", [gzip.compress(b'{"outputs": []}'), b"no gzip", gzip.compress(b"[1]")], ids=["other", "no gzip", "a list"]
)
def test_an_object_that_is_not_what_was_recorded_is_refused(ledger: MemoryLedger, body: bytes):
    wrong = (
        "0" * 64
        if body.startswith(b"\x1f") and b"outputs" in gzip.decompress(body)
        else hashlib.sha256(body).hexdigest()
    )
    overflowing(ledger, wrong)
    with pytest.raises(OverflowBroken, match=r"s3://b/big\.json\.gz"):
        list(results(ledger, [ledger.item("D")], fetch=lambda _: body))


def overflowing(ledger: MemoryLedger, sha256: str) -> None:
    ledger.import_item("D", "trio", Definition(script="call.sh"))
    claim = ledger.claim("D", "p1")
    assert claim is not None
    ledger.record_nest(
        claim,
        Nest(
            item_id="D",
            epoch=claim.epoch,
            index=0,
            status=NestStatus.DONE,
            fence=claim.fence,
            overflow="s3://b/big.json.gz",
            overflow_sha256=sha256,
            token="t",
        ),
    )


def test_the_report_counts_states_nests_and_time(ledger: MemoryLedger, clock: FakeClock):
    data = collect(ledger, now=clock.now())
    assert {name: count for name, count, _ in data.states} == {"todo": 1, "done": 1, "failed": 1}
    assert dict(data.nest_counts) == {"done": 3, "failed": 1, "open": 2}
    assert (data.run_seconds, data.busy_seconds, data.parallel) == (16, 16, 1)
    assert data.figure_names == ("variants", "mean_depth")
    assert [one.nest for one in data.problems] == [1]
    by_name = {one.item_id: one for one in data.items}
    assert (by_name["B"].nests_done, by_name["B"].nests_failed) == (1, 1)
    assert by_name["B"].message == "permanent: nest 1 failed"


def test_what_does_not_fit_on_the_page_is_said(ledger: MemoryLedger, clock: FakeClock):
    data = collect(ledger, now=clock.now(), max_items=1, max_nests=2)
    page = render(data)
    assert (len(data.items), data.items_left_out, len(data.nests), data.nests_left_out) == (1, 2, 2, 4)
    assert "2 further items" in page
    assert "4 further nests" in page


class Page(HTMLParser):
    """Addresses that a page would load, tags left open, and its text."""

    VOID = frozenset({"meta", "input", "line", "br", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "data", "action"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """`<rect …/>` opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_loads_nothing_from_elsewhere_and_is_well_formed(ledger: MemoryLedger, clock: FakeClock):
    page = render(
        collect(ledger, now=clock.now(), sections=[Section("Mine", ("a", "b"), (("1", "2"),), kinds=("good",))])
    )
    read = Page()
    read.feed(page)
    assert read.loads == []
    assert not re.search(r"url\(|@import|https?://", page)
    assert (read.open, read.wrong) == ([], [])
    assert "Mine" in read.text


def test_text_from_scripts_cannot_become_code(ledger: MemoryLedger, clock: FakeClock):
    page = render(collect(ledger, now=clock.now()))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_the_report_is_written_whole_or_not_at_all(ledger: MemoryLedger, tmp_path: Path):
    write_report(ledger, tmp_path / "report.html")
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(FolderMissing, match="nowhere"):
        write_report(ledger, tmp_path / "nowhere" / "report.html")
    with pytest.raises(RunMissing):
        write_report(ledger, tmp_path / "other.html", run_id="no-such-run")
    assert not (tmp_path / "other.html").exists()


def test_an_empty_table_has_a_report_too():
    page = render(collect(MemoryLedger()))
    assert "holds no items" in page


def test_rows_come_in_the_order_asked_for_whatever_finishes_first(ledger: MemoryLedger):
    order = [ledger.item(name) for name in ("C", "A", "B", "A")]
    assert [one.item_id for one in results(ledger, order)][::2] == ["C", "A", "B", "A"]


def test_the_page_lists_items_and_nests_by_name(ledger: MemoryLedger, clock: FakeClock):
    data = collect(ledger, now=clock.now())
    assert [one.item_id for one in data.items] == ["A", "B", "C"]
    assert [(one.item_id, one.nest) for one in data.nests] == [(name, nest) for name in "ABC" for nest in (0, 1)]


def test_only_items_of_a_state_are_read_when_asked(ledger: MemoryLedger):
    assert {one.item_id for one in results(ledger, ledger.items(State.FAILED))} == {"B"}
