"""A file fetched in ranges: what has arrived is not fetched again, and only what has arrived counts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyanamo_core.staging.ranges import Partial

CONTENT = bytes(range(256)) * 10
RANGE = 300


class Source:
    """Gives ranges of the content, and remembers which; `broken` ones end after 100 bytes."""

    def __init__(self, content: bytes = CONTENT, broken: tuple[int, ...] = ()) -> None:
        self.content, self.broken = content, broken
        self.asked: list[int] = []

    def __call__(self, first: int, last: int) -> Iterator[bytes]:
        number = first // RANGE
        self.asked.append(number)
        piece = self.content[first : last + 1]
        yield piece[:100]
        if number in self.broken:
            raise ConnectionResetError("gone")
        yield piece[100:]


def partial(folder: Path, version: str = "v1") -> Partial:
    """A file on its way, in nine ranges."""
    return Partial(folder / "x.partial", "s3://b/x", version, len(CONTENT), RANGE)


def test_a_file_arrives_whole_and_leaves_no_notes(tmp_path: Path) -> None:
    source = Source()
    going = partial(tmp_path)

    going.fetch(source)
    going.move_to(tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == CONTENT
    assert sorted(source.asked) == list(range(9))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_next_one_fetches_only_what_is_missing(tmp_path: Path) -> None:
    # Given a fetch of which two ranges broke
    with pytest.raises(ConnectionResetError):
        partial(tmp_path).fetch(Source(broken=(7, 8)))

    # When another process goes on
    going, source = partial(tmp_path), Source()
    here = going.bytes_done
    going.fetch(source)

    # Then it asks for these two, and the file is whole
    assert {7, 8} <= set(source.asked)
    assert len(source.asked) < 9
    assert here == sum(RANGE for _ in range(9 - len(source.asked)))
    assert (tmp_path / "x.partial").read_bytes() == CONTENT


def test_of_another_version_nothing_is_taken_over(tmp_path: Path) -> None:
    # Given all of an older version, not yet moved
    partial(tmp_path).fetch(Source(bytes(len(CONTENT))))

    source = Source()
    partial(tmp_path, "v2").fetch(source)

    assert sorted(source.asked) == list(range(9))
    assert (tmp_path / "x.partial").read_bytes() == CONTENT


@pytest.mark.parametrize("damage", ["cut", "gone", "short"])
def test_a_range_whose_note_was_cut_off_or_whose_bytes_are_gone_is_fetched_again(tmp_path: Path, damage: str) -> None:
    # Given a fetch that was complete, and then
    partial(tmp_path).fetch(Source())
    notes, file = tmp_path / "x.partial.notes", tmp_path / "x.partial"
    lines = notes.read_text()
    if damage == "cut":  # the kill came in the middle of writing "8\n"
        notes.write_text(lines.replace("8\n", "") + "8")
    elif damage == "gone":
        file.unlink()
    else:
        os.truncate(file, 1000)

    source = Source()
    partial(tmp_path).fetch(source)

    assert sorted(source.asked) == ([8] if damage == "cut" else list(range(9)))
    assert file.read_bytes() == CONTENT


def test_an_answer_that_is_too_short_does_not_count(tmp_path: Path) -> None:
    with pytest.raises(EOFError, match="ended after 50"):
        partial(tmp_path).fetch(lambda first, last: iter([CONTENT[first : first + 50]]))

    assert partial(tmp_path).bytes_done == 0


def test_an_empty_file_is_whole_at_once(tmp_path: Path) -> None:
    going = Partial(tmp_path / "x.partial", "s3://b/x", "v", 0, RANGE)
    going.fetch(Source())
    going.move_to(tmp_path / "x")

    assert (tmp_path / "x").read_bytes() == b""


def test_a_range_is_on_disk_before_its_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given what the notes said at each fsync of the file
    lines: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda _: lines.append((tmp_path / "x.partial.notes").read_text().count("\n") - 1))
    # When all nine ranges arrive
    partial(tmp_path).fetch(Source())
    # Then there was one for each, and never more lines than ranges that had been synced before
    assert len(lines) == 9
    assert all(told <= number for number, told in enumerate(lines))
