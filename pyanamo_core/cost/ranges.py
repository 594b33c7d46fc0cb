"""A figure that is known only between two bounds, e.g. dollars where Spot is concerned."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Between low and high, both included. One number is `exact`.

    Ranges add and multiply with each other and with numbers; none is below 0. `str` gives both bounds with two digits.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high < math.inf:
            raise ValueError(f"no range: {self.low} to {self.high}")

    def __add__(self, other: Range | float) -> Range:
        more = as_range(other)
        return Range(self.low + more.low, self.high + more.high)

    __radd__ = __add__

    def __mul__(self, other: Range | float) -> Range:
        by = as_range(other)
        return Range(self.low * by.low, self.high * by.high)

    __rmul__ = __mul__

    def __truediv__(self, other: Range | float) -> Range:
        by = as_range(other)
        return Range(self.low / by.high, self.high / by.low)

    @property
    def exact(self) -> bool:
        """Are both bounds one, but for rounding?"""
        return self.high - self.low <= 1e-9 * self.high

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    def __str__(self) -> str:
        low, high = two_digits(self.low), two_digits(self.high)
        return low if low == high else f"{low}–{high}"


NOTHING = Range(0, 0)


def as_range(value: Range | float) -> Range:
    """A number as a range of that number."""
    return value if isinstance(value, Range) else Range(value, value)


def exactly(value: float) -> Range:
    return Range(value, value)


def total(parts: Iterable[Range]) -> Range:
    """The sum; of nothing: 0."""
    return sum(parts, NOTHING)


def two_digits(value: float) -> str:
    """A number with two significant digits, and thousands apart: 0.0034, 1.2, 47, 5,900."""
    if value == 0:
        return "0"
    digits = 1 - math.floor(math.log10(value))
    rounded = round(value, digits)
    if rounded >= 10:
        return f"{rounded:,.0f}"
    digits = max(0, 1 - math.floor(math.log10(rounded)))
    return f"{rounded:.{digits}f}"


def dollars(amount: Range | float) -> str:
    """Dollars for people, as two digits: `$1,200–5,900`, `$0.40–1.8`, `under $0.01`."""
    told = as_range(amount)
    if told.high == 0:
        return "$0"
    if told.high < 0.01:
        return "under $0.01"
    low = "0" if told.low < 0.005 else _cents(told.low)
    high = _cents(told.high)
    return f"${low}" if low == high else f"${low}–{high}"


def _cents(value: float) -> str:
    """Two digits, no fraction of a cent."""
    return two_digits(value) if value >= 1 else f"{value:.2f}"
