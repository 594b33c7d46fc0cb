"""What is read from a task's output: tag lines, tails, times."""

from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pyanamo_core.pilot.streams import LINE_BYTES, TAG_BYTES, Marks, TagScanner, tail_of


def scanned(*chunks: bytes) -> TagScanner:
    """A scanner that was fed so and closed."""
    scanner = TagScanner()
    for chunk in chunks:
        scanner.feed(chunk)
    scanner.close()
    return scanner


def test_tag_lines_come_in_order_without_their_prefix() -> None:
    scanner = scanned(b"start\nPyAnamo:\tvariants\t12\nnoise PyAnamo:\tno\nPyAnamo:\tbases\t300\r\nPyAnamo: no tab\n")

    assert scanner.tags == ["variants\t12", "bases\t300"]


def test_a_last_line_without_newline_counts() -> None:
    assert scanned(b"PyAnamo:\tlast").tags == ["last"]


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=8),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_it_does_not_matter_how_the_stream_is_cut(lines: list[bytes], cuts: list[int]) -> None:
    # Given lines, every second of which is a tag line
    stream = b"\n".join(b"PyAnamo:\t" + line if number % 2 else line for number, line in enumerate(lines))

    # When it arrives in pieces
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]

    # Then the same is found as in one piece
    assert scanned(*pieces).tags == scanned(stream).tags


def test_a_line_without_end_is_held_only_up_to_its_limit() -> None:
    # Given a tag line of ten megabytes
    scanner = TagScanner()
    scanner.feed(b"PyAnamo:\t")
    for _ in range(10):
        scanner.feed(b"x" * 2**20)
    scanner.close()

    # Then it is cut
    assert [len(tag) for tag in scanner.tags] == [LINE_BYTES - len("PyAnamo:\t")]


def test_tag_lines_beyond_the_limit_are_counted_not_kept() -> None:
    # Given twice as many bytes of tag lines as are kept
    line = b"PyAnamo:\t" + b"y" * 1000 + b"\n"
    scanner = scanned(*[line] * (2 * TAG_BYTES // len(line)))

    # Then those within the limit are kept and the rest is counted
    assert len(scanner.tags) + scanner.dropped == 2 * TAG_BYTES // len(line)
    assert sum(map(len, scanner.tags)) <= TAG_BYTES
    assert scanner.dropped > 1000


def test_a_tail_begins_with_a_whole_line(tmp_path: Path) -> None:
    # Given a log of 300 lines
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(300)))

    # When its last 100 bytes are asked for
    tail = tail_of(log, 100)

    # Then whole lines come, no more than fit
    assert tail.startswith("line 2")
    assert tail.endswith("line 299\n")
    assert len(tail) <= 100


def test_a_tail_of_bytes_that_are_no_text_stays_within_its_limit(tmp_path: Path) -> None:
    # Given a log of bytes that UTF-8 does not know: each becomes three
    log = tmp_path / "log"
    log.write_bytes(b"\xff" * 5000)

    assert 0 < len(tail_of(log, 2048).encode()) <= 2048


def test_a_missing_log_has_an_empty_tail(tmp_path: Path) -> None:
    assert tail_of(tmp_path / "none") == ""


def test_marks_are_thinned_out_and_keep_the_last() -> None:
    # Given a log that grows 100,000 times
    marks = Marks()
    for size in range(1, 100_001):
        marks.add(size, 1000.0 + size)

    # Then a bounded number of marks ascends to its end
    told = marks.told()
    assert len(told) <= 2048
    assert told[-1] == (100_000, 101_000.0)
    assert list(told) == sorted(told)


def test_marks_never_go_back_in_time() -> None:
    # Given a clock that is set back
    marks = Marks()
    marks.add(10, 500.0)
    marks.add(20, 400.0)

    assert marks.told() == ((10, 500.0), (20, 500.0))
