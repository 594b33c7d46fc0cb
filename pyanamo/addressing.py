"""Nests as users name them: by value, by number (0-based, as in PYANAMO_NEST), or by the region that they overlap."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyanamo_core.errors import BadInput, NestMissing
from pyanamo_core.model import Definition

if TYPE_CHECKING:
    from pyanamo_core.genomics.intervals import Locus

_RANGE = re.compile(r"(\d+)-(\d+)", re.ASCII)
_LAST_BASE = 2**40
"""Beyond the end of any contig: a region without bases is a whole contig."""


class NestAmbiguous(BadInput):
    """{told} is the value of nest {by_value} and the number of nest {by_number} of item {item_id}. Say value={told} or number={told}"""


class RegionInvalid(BadInput):
    """Region {told}: {reason}. A region is contig:start-end (1-based, closed) or a contig."""


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


def read_region(told: str) -> Locus:
    """The region that a user means, without a reference to compare it with. Raises RegionInvalid."""
    from pyanamo_core.genomics.intervals import Locus

    told = told.strip()
    loci = value_loci(told)
    if loci:
        if len(loci) > 1:
            raise RegionInvalid(told=told, reason="these are several; give --region for each")
        return loci[0]
    if not told or told.startswith("@") or any(sign in told for sign in " \t,|"):
        raise RegionInvalid(told=repr(told), reason="it is none")
    if _RANGE.fullmatch(told.rpartition(":")[2]):
        raise RegionInvalid(told=told, reason="it ends before it starts, or starts before base 1")
    return Locus(told, 1, _LAST_BASE)


def value_loci(value: str) -> list[Locus]:
    """The loci of a nest's value (`chr1:1-100` or several with commas); none for any other value."""
    from pyanamo_core.genomics.intervals import Locus

    found: list[Locus] = []
    for part in value.split(","):
        contig, colon, interval = part.strip().rpartition(":")
        match = _RANGE.fullmatch(interval)
        if not colon or not contig or match is None or not 1 <= int(match[1]) <= int(match[2]):
            return []
        found.append(Locus(contig, int(match[1]), int(match[2])))
    return found
