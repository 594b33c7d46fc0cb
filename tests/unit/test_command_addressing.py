"""Nests are named by value or by number, and never guessed."""

from __future__ import annotations

import pytest

from pyanamo.addressing import NestAmbiguous, find_nest, find_nests
from pyanamo_core.errors import NestMissing
from pyanamo_core.model import Definition

LOCI = Definition(script="call", arguments=("chr1:1-100", "chr1:101-200", "chr2:1-50"))
NUMBERS = Definition(script="seq", arguments=("8", "2", "1"))


@pytest.mark.parametrize(("told", "number"), [("chr1:101-200", 1), ("0", 0), ("2", 2), ("number=1", 1)])
def test_a_locus_is_found_by_its_value_or_its_number(told: str, number: int) -> None:
    # Given loci, when one is named, then its number is found
    assert find_nest("A", LOCI, told) == number


def test_what_is_one_nests_value_and_anothers_number_is_refused_and_both_can_be_said() -> None:
    # Given values 8, 2, 1: nest 1 has value 2, nest 2 has value 1
    with pytest.raises(NestAmbiguous, match="2 is the value of nest 1 and the number of nest 2 of item A"):
        find_nest("A", NUMBERS, "2")
    # Then the words decide, and what is not ambiguous needs none
    assert find_nest("A", NUMBERS, "value=2") == 1
    assert find_nest("A", NUMBERS, "number=2") == 2
    assert find_nest("A", NUMBERS, "8") == 0
    assert find_nest("A", NUMBERS, "0") == 0


@pytest.mark.parametrize("told", ["3", "-1", "chr3:1-2", "number=3", "value=x", "", "１"])
def test_a_nest_that_is_not_there_is_missing(told: str) -> None:
    # Given three loci, when another one is named, then it is missing
    with pytest.raises(NestMissing):
        find_nest("A", LOCI, told)


def test_several_nests_come_once_each_in_order() -> None:
    # Given a nest named twice, by number and by value
    assert find_nests("A", LOCI, ["2", "chr1:1-100", "0"]) == [0, 2]


def test_an_item_without_values_has_one_nest_zero() -> None:
    # Given no TaskArgs, then nest 0 is there and nest 1 is not
    bare = Definition(script="seq 3")
    assert find_nest("A", bare, "0") == 0
    with pytest.raises(NestMissing):
        find_nest("A", bare, "1")
