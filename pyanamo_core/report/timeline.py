"""Who ran what when: pilots as rows, their nests as bars on lanes, measured out for an inline SVG.

Only geometry is computed here; the template draws it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyanamo_core.model import PilotRecord
from pyanamo_core.report.results import Result

WIDTH = 1000.0
LABEL = 150.0
LANE = 16.0
GAP = 10.0
TOP = 26.0
MIN_BAR = 1.5
COLOURS = 8
"""Colours of items in the style sheet: classes c0 … c7."""


@dataclass(frozen=True)
class Bar:
    """A nest as drawn; x, y, width, height in the SVG's units."""

    x: float
    y: float
    width: float
    height: float
    style: str
    """Class of its colour: c0 … c7 by item, or `bad`."""
    title: str
    text: str
    """What fits into it, or nothing."""


@dataclass(frozen=True)
class Row:
    """A pilot as drawn: its life as a pale bar, its name, and the nests that it ran."""

    y: float
    height: float
    x: float
    width: float
    name: str
    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Tick:
    """A line of the time axis."""

    x: float
    text: str


@dataclass(frozen=True)
class Timeline:
    """The whole picture. `pilots_left_out` and `nests_left_out` say what was too much for one page."""

    width: float
    height: float
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    legend: tuple[tuple[str, str], ...]
    """(style, item) of the items drawn, at most as many as there are colours."""
    seconds: float
    pilots_left_out: int
    nests_left_out: int


def draw(
    pilots: Iterable[PilotRecord], nests: Iterable[Result], *, now: float, max_pilots: int = 60, max_nests: int = 4000
) -> Timeline | None:
    """Measure out the timeline of pilots and nests; None if nothing has begun.

    Nests of pilots without a row (removed by TTL) get a row of their pilot's name.

    Args:
        pilots: their rows.
        nests: results; those that nobody began are skipped.
        now: seconds since 1970; the end of what has not ended.
        max_pilots, max_nests: how much is drawn; the earliest first.
    """
    began = sorted(
        (one for one in nests if one.started is not None and one.pilot_id), key=lambda one: one.started or 0.0
    )
    drawn, nests_left_out = began[:max_nests], max(0, len(began) - max_nests)
    of_pilot: dict[str, list[Result]] = defaultdict(list)
    for one in drawn:
        of_pilot[one.pilot_id].append(one)
    records = {one.pilot_id: one for one in pilots if one.started}
    lives = sorted(
        (_life(pilot_id, records.get(pilot_id), of_pilot[pilot_id], now) for pilot_id in {*records, *of_pilot}),
        key=lambda life: (life.start, life.pilot_id),
    )
    if not lives:
        return None
    shown, pilots_left_out = lives[:max_pilots], max(0, len(lives) - max_pilots)
    start = min(life.start for life in shown)
    end = max(*(life.end for life in shown), start + 1.0)
    scale = (WIDTH - LABEL) / (end - start)
    styles = _styles(drawn)
    rows: list[Row] = []
    y = TOP
    for life in shown:
        row = _row(life, y, start, scale, styles)
        rows.append(row)
        y += row.height + GAP
    legend = tuple((style, item) for item, style in list(styles.items())[:COLOURS])
    return Timeline(
        width=WIDTH,
        height=y,
        rows=tuple(rows),
        ticks=_ticks(end - start),
        legend=legend,
        seconds=end - start,
        pilots_left_out=pilots_left_out,
        nests_left_out=nests_left_out,
    )


@dataclass(frozen=True)
class _Life:
    pilot_id: str
    record: PilotRecord | None
    start: float
    end: float
    nests: tuple[Result, ...]


def _life(pilot_id: str, record: PilotRecord | None, nests: Sequence[Result], now: float) -> _Life:
    starts = [one.started for one in nests if one.started is not None]
    ends = [one.ended if one.ended is not None else now for one in nests]
    if record is not None:
        starts.append(record.started)
        ends.append(record.ended if record.ended is not None else max(record.last_beat, *ends, record.started))
    return _Life(pilot_id, record, min(starts), max(ends), tuple(nests))


def _styles(nests: Iterable[Result]) -> dict[str, str]:
    styles: dict[str, str] = {}
    for one in sorted(nests, key=lambda one: one.item_id):
        styles.setdefault(one.item_id, f"c{len(styles) % COLOURS}")
    return styles


def _row(life: _Life, y: float, start: float, scale: float, styles: dict[str, str]) -> Row:
    free_at: list[float] = []
    bars: list[Bar] = []
    for one in life.nests:
        begun = one.started or start
        ended = one.ended if one.ended is not None else life.end
        lane = next((number for number, free in enumerate(free_at) if free <= begun + 0.001), len(free_at))
        if lane == len(free_at):
            free_at.append(ended)
        else:
            free_at[lane] = ended
        width = max(MIN_BAR, (ended - begun) * scale - 0.6)
        text = one.value or one.item_id
        bars.append(
            Bar(
                x=LABEL + (begun - start) * scale,
                y=y + lane * LANE + 1.5,
                width=width,
                height=LANE - 3,
                style=styles[one.item_id] if one.status == "done" else "bad",
                title=_title(one),
                text=text if len(text) * 5.9 + 8 < width else "",
            )
        )
    height = max(1, len(free_at)) * LANE
    return Row(
        y=y,
        height=height,
        x=LABEL + (life.start - start) * scale,
        width=max(MIN_BAR, (life.end - life.start) * scale),
        name=_name(life),
        title=_pilot_title(life),
        bars=tuple(bars),
    )


def _name(life: _Life) -> str:
    index = life.record.array_index if life.record else None
    return f"pilot {index} · {life.pilot_id[:8]}" if index is not None else f"pilot {life.pilot_id[:12]}"


def _pilot_title(life: _Life) -> str:
    told = [f"pilot {life.pilot_id}"]
    if life.record is not None:
        record = life.record
        told.append(f"host {record.host or 'unknown'}, {record.slots} slots")
        told.append(f"{record.items_done} items and {record.nests_done} nests done, {record.nests_failed} nests failed")
        if record.leaving:
            told.append(f"left: {record.leaving}, exit code {record.exit_code}")
    return "\n".join(told)


def _title(one: Result) -> str:
    took = f"{one.seconds:.1f} s" if one.seconds is not None else "running"
    told = [f"{one.item_id} · nest {one.nest}{' · ' + one.value if one.value else ''}", f"{one.status}, {took}"]
    if one.peak_memory_mb:
        told.append(f"peak memory {one.peak_memory_mb:.0f} MB")
    if one.message:
        told.append(one.message)
    return "\n".join(told)


def _ticks(seconds: float) -> tuple[Tick, ...]:
    step = _step(seconds / 8)
    scale = (WIDTH - LABEL) / seconds
    return tuple(
        Tick(LABEL + number * step * scale, duration(number * step)) for number in range(math.floor(seconds / step) + 1)
    )


def _step(about: float) -> float:
    for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400):
        if step >= about:
            return float(step)
    return math.ceil(about / 86400) * 86400.0


def duration(seconds: float) -> str:
    """A time span for people: `12 s`, `3:05 min`, `2:00 h`, `1 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 86400:
        return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
