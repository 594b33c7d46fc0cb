"""What people, programs and pipes get to see of the same data; and progress where there is no terminal."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from pyanamo import progress as progress_module
from pyanamo.commands.run import page_of
from pyanamo.context import Context
from pyanamo.progress import Bar, RunDisplay, rate
from pyanamo.render import Told, paragraph, share, short, show, size, span, table, view, when
from pyanamo_core.fleet.progress import Progress
from pyanamo_core.model import Counts, Run, State

UUID = "6acdc864-2e4c-439e-91e7-3c473c846d42"


@dataclass(frozen=True)
class Record:
    name: str
    state: State
    path: Path
    count: int | None = None


RECORDS = [Record("A", State.TODO, Path("/x"), 3), Record("B", State.DONE, Path("/y"))]


def test_the_same_data_is_a_table_json_or_bare_lines(capsys: pytest.CaptureFixture[str]) -> None:
    # Given two records
    told = Told(RECORDS, quiet=["A", "B"], next="pyanamo status")
    # When they are shown to people, to a program, and to a pipe
    show(told)
    people = capsys.readouterr()
    show(told, as_json=True)
    program = capsys.readouterr()
    show(told, quiet=True)
    bare = capsys.readouterr()
    # Then each gets its own form, and only people a hint, on standard error
    assert [line.split() for line in people.out.splitlines()] == [
        ["name", "state", "path", "count"],
        ["A", "todo", "/x", "3"],
        ["B", "done", "/y"],
    ]
    assert people.err == "next: pyanamo status\n"
    assert json.loads(program.out)[1] == {"name": "B", "state": "done", "path": "/y", "count": None}
    assert bare.out == "A\nB\n"
    assert program.err == bare.err == ""


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    # Given a log with a tab, brackets and a long line
    text = "a\tb [bold]c[/bold] " + "x" * 500
    # When it is shown, then nothing of it was changed or broken
    show(Told(text))
    assert capsys.readouterr().out == text + "\n"


def test_lines_in_a_pipe_are_neither_cut_nor_padded(capsys: pytest.CaptureFixture[str]) -> None:
    # Given a very long value in a table, when it is printed where no terminal is
    show(Told([{"value": "v" * 300, "other": "x"}, {"value": "w", "other": "y"}]))
    lines = capsys.readouterr().out.splitlines()
    # Then it stands in one line, and no line ends in blanks
    assert "v" * 300 in lines[1]
    assert all(line == line.rstrip() for line in lines)


def test_on_a_narrow_terminal_text_is_folded_and_ids_are_not() -> None:
    # Given a table with an id, a time and a long message
    shown = table(["pilot", "began", "message"], [["6acdc864", "2026-01-31 14:05:09", "no space left on device " * 4]])
    # When it is printed in 50 columns
    out = io.StringIO()
    Console(file=out, width=50).print(shown)
    lines = out.getvalue().splitlines()
    # Then id and time stand whole in one line, and the message in several
    assert "6acdc864  2026-01-31 14:05:09" in lines[1]
    assert len(lines) > 3


def test_an_empty_list_says_so() -> None:
    # Given nothing, then that is what is told
    assert view([]) == "nothing"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, ""),
        (0.04, "0.0s"),
        (9.96, "10.0s"),
        (12.4, "12s"),
        (59.7, "1m00s"),
        (185, "3m05s"),
        (7620, "2h07m"),
        (273600, "3d04h"),
    ],
)
def test_a_time_span_is_told_in_two_units_at_most(seconds: float | None, told: str) -> None:
    # Given seconds, then they read well
    assert span(seconds) == told


def test_sizes_times_ids_and_rates_read_well() -> None:
    # Given numbers as the ledger has them, then people can read them
    assert [size(count) for count in (None, 512, 1536, 5 * 2**30)] == ["", "512 B", "1.5 KiB", "5.0 GiB"]
    assert [share(512, 2048), share(512, None), share(None, None)] == ["512.0 MiB of 2.0 GiB", "512.0 MiB", ""]
    assert when(0) == when(None) == ""
    assert when(1769868309.9) == "2026-01-31 14:05:09"
    assert [short(name) for name in (UUID, f"{UUID}:3", "nightly-run")] == ["6acdc864", "6acdc864:3", "nightly-run"]
    assert [rate(per_second) for per_second in (2.5, 0.2, 0.01)] == ["2.5 items/s", "12.0 items/min", "36.0 items/h"]


def test_the_page_of_a_flow_run_is_beside_the_api_of_ones_own_server() -> None:
    # Given an API's address, then the page is that of the same server; elsewhere only the API is known
    assert page_of("http://127.0.0.1:4200/api", UUID) == f"http://127.0.0.1:4200/runs/flow-run/{UUID}"
    cloud = "https://api.prefect.cloud/api/accounts/a/workspaces/w"
    assert page_of(cloud, UUID) == cloud


class Time:
    """A clock for progress."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(progress_module, "time", made)
    return made


def test_without_a_terminal_progress_is_a_line_every_few_seconds(
    clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given an import that does 30 items a second
    with Bar(Context(), "import") as bar:
        for second in range(1, 11):
            clock.now += 1
            bar.update(30 * second, 1000)
    # Then there is a line at 5 s and one at 10 s, with rate and time left
    assert capsys.readouterr().err.splitlines() == [
        "import: 150 of 1000 items, 30 items/s, 28s left",
        "import: 300 of 1000 items, 30 items/s, 23s left",
    ]


def test_what_is_done_at_once_and_what_is_quiet_shows_no_progress(
    clock: Time, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a short import, and a long one with --quiet
    with Bar(Context(), "import") as bar:
        bar.update(3, 3)
    with Bar(Context(quiet=True), "import") as bar:
        clock.now += 60
        bar.update(3, 30)
    # Then nothing is printed
    assert capsys.readouterr().err == ""


def test_a_run_shows_states_pilots_pace_and_each_note_once(clock: Time, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a run that is told three times, twice alike, with a note
    run = Run(run_id="r", workflow_version=1, token="t")
    counts = Counts(todo=5, locked=2, done=3)
    once = Progress(counts, run, live_pilots=2, rate_per_second=0.5, eta_seconds=14.0, note="queue is full")
    with RunDisplay(Context()) as display:
        for told in (once, once, Progress(counts, run, live_pilots=1)):
            clock.now += 6
            display.update_run(told)
    # Then the note stands once, and a line only where something has changed but the pace
    assert capsys.readouterr().err.splitlines() == [
        "queue is full",
        "run: 3 of 10 items finished: todo 5 locked 2 done 3, 2 pilots, 30.0 items/min, 14s left",
        "run: 3 of 10 items finished: todo 5 locked 2 done 3, 1 pilot",
    ]


def test_prose_is_broken_between_words_on_a_terminal_and_left_in_one_line_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Run 3f2c of table Seq has gone on for 12s; nobody watches it."
    show(Told(text, view=paragraph))
    assert capsys.readouterr().out == text + "\n"
    # On a terminal of thirty columns
    narrow = Console(width=30, force_terminal=True, no_color=True, highlight=False)
    monkeypatch.setattr("pyanamo.render.console", lambda **_: narrow)
    show(Told(text, view=paragraph))
    lines = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in lines] == ["Run 3f2c of table Seq has gone", "on for 12s; nobody watches it."]
