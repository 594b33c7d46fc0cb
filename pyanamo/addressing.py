"""Nests as users name them: by value or by number (0-based, as in PYANAMO_NEST)."""

from __future__ import annotations

from collections.abc import Sequence

from pyanamo_core.errors import BadInput, NestMissing
from pyanamo_core.model import Definition


class NestAmbiguous(BadInput):
    """{told} is the value of nest {by_value} and the number of nest {by_number} of item {item_id}. Say value={told} or number={told}"""


def find_nest(item_id: str, definition: Definition, told: str) -> int:
    """The number of the nest that a user means.

    `number=7` and `value=chr1:1-100` say which of the two they are; without that a value wins over a number that it
    agrees with, and is refused where both exist and differ.

    Raises:
        NestMissing: there is no such nest.
        NestAmbiguous: it is the value of one nest and the number of another.
    """
    values = definition.arguments or ("",)
    if told in values and (number := _number(told, len(values))) is not None and values.index(told) != number:
        raise NestAmbiguous(told=told, by_value=values.index(told), by_number=number, item_id=item_id)
    if told in values:
        return values.index(told)
    way, _, rest = told.partition("=")
    if way == "value" and rest in values:
        return values.index(rest)
    number = _number(rest if way == "number" else told, len(values))
    if number is None:
        raise NestMissing(item_id=item_id, nest=told)
    return number


def find_nests(item_id: str, definition: Definition, told: Sequence[str]) -> list[int]:
    """The numbers of several nests, each once, in ascending order. Raises as `find_nest`."""
    return sorted({find_nest(item_id, definition, one) for one in told})


def _number(told: str, nests: int) -> int | None:
    if not (told.isascii() and told.isdigit()):
        return None
    return int(told) if int(told) < nests else None
