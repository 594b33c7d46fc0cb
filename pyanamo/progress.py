"""Live progress: a bar with rate and time left on a terminal, plain lines elsewhere. All on standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pyanamo.render import span

if TYPE_CHECKING:
    from pyanamo.context import Context

LINE_SECONDS = 5.0
"""Plain lines come at most this often."""

ENOUGH = 20
"""A rate out of fewer says nothing yet."""

STATES = ("todo", "waiting", "locked", "done", "failed", "cancelled")


class Bar:
    """So many of so many, e.g. an import. `update` may be called as often as one likes."""

    def __init__(self, context: Context, what: str, *, unit: str = "items") -> None:
        self._what = what
        self._unit = unit
        self._shown = context.for_people
        self._live: Any = None
        self._task: Any = None
        self._began = time.monotonic()
        self._last_line = ""
        self._next_line = self._began + LINE_SECONDS
        self._told = (0, 0, "")

    def __enter__(self) -> Self:
        if self._shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rest]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._live.add_task(self._what, total=None, rest="")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._last_line and self._told[1]:
            self._line(*self._told)

    def update(self, done: int, total: int, rest: str = "") -> None:
        """Show `done` of `total`; `rest` replaces rate and time left, which are otherwise those since the start."""
        if not self._shown:
            return
        now = time.monotonic()
        if not rest and done >= ENOUGH and now > self._began:
            rate = done / (now - self._began)
            rest = f"{rate:,.0f} {self._unit}/s, {span((total - done) / rate)} left"
        self._told = (done, total, rest)
        if self._live is not None:
            self._live.update(self._task, completed=done, total=total, rest=rest)
        elif now >= self._next_line:
            self._line(done, total, rest)
            self._next_line = now + LINE_SECONDS

    def _line(self, done: int, total: int, rest: str) -> None:
        line = f"{self._what}: {done} of {total} {self._unit}"
        if line == self._last_line:
            return
        self._last_line = line
        sys.stderr.write(f"{line}{', ' + rest if rest else ''}\n")
        sys.stderr.flush()


SHOWN_DOLLARS = 0.01
"""Less is not shown."""


class RunDisplay(Bar):
    """A run while it goes on; `update_run` takes the driver's Progress."""

    def __init__(self, context: Context, what: str = "run") -> None:
        super().__init__(context, what)
        self._note = ""

    def update_run(self, progress: Any) -> None:
        """Show items by state, live pilots, rate and time left; a new note gets a line of its own."""
        counts = progress.counts
        finished = counts.done + counts.failed + counts.cancelled
        states = " ".join(f"{name} {count}" for name in STATES if (count := getattr(counts, name)))
        pace = ""
        if progress.rate_per_second:
            pace = f", {rate(progress.rate_per_second)}"
        if progress.eta_seconds is not None:
            pace += f", {span(progress.eta_seconds)} left"
        pilots = "1 pilot" if progress.live_pilots == 1 else f"{progress.live_pilots} pilots"
        if progress.note and progress.note != self._note and self._shown:
            self._note = progress.note
            self._say(progress.note)
        spent = ""
        if progress.spending is not None and progress.spending.high >= SHOWN_DOLLARS:
            from pyanamo_core.cost.ranges import Range, dollars

            spent = f", {dollars(Range(progress.spending.low, progress.spending.high))} of machines"
        self.update(finished, counts.total, f"{states}, {pilots}{pace}{spent}")

    def _say(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(text, markup=False)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _line(self, done: int, total: int, rest: str) -> None:
        line = f"{self._what}: {done} of {total} items finished ({rest.split(' pilot')[0]})"
        if line == self._last_line:
            return
        self._last_line = line
        sys.stderr.write(f"{self._what}: {done} of {total} items finished: {rest}\n")
        sys.stderr.flush()


def rate(per_second: float) -> str:
    """A rate in the unit that reads best: `2.5 items/s`, `12 items/min`, `40 items/h`."""
    if per_second >= 1:
        return f"{per_second:.1f} items/s"
    if per_second * 60 >= 1:
        return f"{per_second * 60:.1f} items/min"
    return f"{per_second * 3600:.1f} items/h"
