"""The report's section on quality: samples with their flags, copies of X and Y as a picture, loci to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyanamo_core.report.qc import Bounds, LocusQc, QcFold, SampleQc

MAX_SAMPLES = 1000
MAX_LOCI = 12
MAX_POINTS = 5000

WIDTH, HEIGHT = 460.0, 250.0
LEFT, BOTTOM, TOP, RIGHT = 40.0, 34.0, 10.0, 12.0
X_SPAN, Y_SPAN = 2.5, 1.5
"""Copies at the ends of the picture's axes; what is more stands at the edge."""
STYLES = {"male": "c0", "female": "c1"}


@dataclass(frozen=True)
class Point:
    """A sample in the picture of X and Y, in the SVG's units."""

    x: float
    y: float
    style: str
    """Class of the declared sex's colour."""
    doubtful: bool
    title: str


@dataclass(frozen=True)
class SexPicture:
    """Copies of X against copies of Y, one point per sample."""

    width: float
    height: float
    points: tuple[Point, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    left: float
    bottom: float
    """Where the axes cross."""
    right: float
    top: float
    legend: tuple[tuple[str, str], ...]
    """(style, declared sex) of those that occur."""


@dataclass(frozen=True)
class Quality:
    """What the section shows. Flagged samples stand first."""

    samples: tuple[SampleQc, ...]
    samples_left_out: int
    total: int
    flagged: int
    bounds: str
    sexed: bool
    """Does anything say something of sex?"""
    picture: SexPicture | None
    loci: tuple[LocusQc, ...]
    """The least callable that are below the bound."""


def quality(fold: QcFold, max_samples: int = MAX_SAMPLES) -> Quality | None:
    """What the fold's samples and loci look like; None if nothing of it was called."""
    samples = fold.samples()
    if not samples:
        return None
    ranked = sorted(samples, key=lambda one: (not one.flags, one.sample))
    least = fold.bounds.callable_fraction[0]
    poor = [one for one in fold.loci() if one.callable_fraction is not None and one.callable_fraction < least]
    return Quality(
        samples=tuple(ranked[:max_samples]),
        samples_left_out=max(0, len(ranked) - max_samples),
        total=len(samples),
        flagged=sum(bool(one.flags) for one in samples),
        bounds=told(fold.bounds),
        sexed=any(one.depth_says or one.sex != "unknown" for one in samples),
        picture=picture(samples),
        loci=tuple(sorted(poor, key=lambda one: one.callable_fraction or 0.0)[:MAX_LOCI]),
    )


def told(bounds: Bounds) -> str:
    """The bounds as a sentence's end."""
    return (
        f"depth {_span(bounds.mean_depth)}, callable {bounds.callable_fraction[0]:g} or more, Ti/Tv {_span(bounds.titv)}"
        f" and het/hom {_span(bounds.het_hom)} where there are {bounds.min_calls} calls or more"
    )


def picture(samples: Iterable[SampleQc]) -> SexPicture | None:
    """Measure out the copies of X and Y; None if X was called in no sample."""
    seen = [one for one in samples if one.x_copies is not None][:MAX_POINTS]
    if not seen:
        return None
    points = tuple(
        Point(
            x=_x(one.x_copies or 0.0),
            y=_y(one.y_copies or 0.0),
            style=STYLES.get(one.sex, "unknown"),
            doubtful=any(flag.name == "sex" for flag in one.flags),
            title=_title(one),
        )
        for one in seen
    )
    return SexPicture(
        width=WIDTH,
        height=HEIGHT,
        points=points,
        x_ticks=tuple((_x(copies), f"{copies:g}") for copies in (0, 0.5, 1, 1.5, 2, 2.5)),
        y_ticks=tuple((_y(copies), f"{copies:g}") for copies in (0, 0.5, 1, 1.5)),
        left=LEFT,
        bottom=HEIGHT - BOTTOM,
        right=WIDTH - RIGHT,
        top=TOP,
        legend=_legend(seen),
    )


def _legend(samples: Sequence[SampleQc]) -> tuple[tuple[str, str], ...]:
    return tuple((STYLES.get(sex, "unknown"), sex) for sex in ("male", "female", "unknown") if _any(samples, sex))


def _any(samples: Sequence[SampleQc], sex: str) -> bool:
    return any(one.sex == sex for one in samples)


def _title(one: SampleQc) -> str:
    y = "Y not called" if one.y_copies is None else f"Y {one.y_copies:.2f}"
    return f"{one.sample}: declared {one.sex}, X {one.x_copies:.2f}, {y}"


def _x(copies: float) -> float:
    return LEFT + min(copies, X_SPAN) / X_SPAN * (WIDTH - LEFT - RIGHT)


def _y(copies: float) -> float:
    return HEIGHT - BOTTOM - min(copies, Y_SPAN) / Y_SPAN * (HEIGHT - BOTTOM - TOP)


def _span(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return f"{low:g}–{high:g}"
