"""`items extend` and `items redo` killed in their middle: given again, they bring every item to the same end, once."""

from __future__ import annotations

from pathlib import Path

import pytest
from place_support import Place

from pyanamo_core.aws import Clients
from pyanamo_core.model import Definition, NestStatus, State

ITEMS = ("A", "B", "C", "D")
DIES_AFTER_TWO = """
import threading
from pyanamo_core.ledger import Ledger
really = Ledger.{move}
count, lock = 0, threading.Lock()
def dies(self, *given, **more):
    global count
    with lock:
        count += 1
        if count == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return really(self, *given, **more)
Ledger.{move} = dies
"""


@pytest.fixture
def place(cloud_clients: Clients, cloud_environment: dict[str, str], unique_name: str, tmp_path: Path) -> Place:
    """Four items of two loci, each done by one attempt."""
    made = Place(cloud_clients, unique_name, tmp_path)
    for item_id in ITEMS:
        made.ledger.import_item(item_id, "t", Definition(script="s", arguments=("c:1-100", "c:101-200")))
        claim = made.claim(item_id)
        for nest in (0, 1):
            made.record(claim, nest, made.put(item_id, nest, claim.fence, "x.g.vcf.gz"))
        made.finish(claim)
    return made


def stands(place: Place) -> dict[str, tuple[int, State, int]]:
    items = (place.ledger.item(one) for one in ITEMS)
    return {item.item_id: (item.fence, item.state, item.nests) for item in items}


def test_an_extension_that_was_killed_goes_on_with_the_items_that_are_left(place: Place) -> None:
    # Given an extension of four items that dies (-9) after the second
    objects = place.objects()
    place.dies_typing(["items", "extend", "--loci", "c:201-300", "--yes"], DIES_AFTER_TWO.format(move="extend"))
    assert sorted(nests for _, _, nests in stands(place).values()) == [2, 2, 3, 3]
    half = stands(place)
    # When it is given again
    place.types("items", "extend", "--loci", "c:201-300", "--yes")
    # Then all have the new locus, those that had it were not moved again, and every result is as it was
    whole = stands(place)
    assert {(state, nests) for _, state, nests in whole.values()} == {(State.TODO, 3)}
    assert all(whole[one] == half[one] for one in ITEMS if half[one][2] == 3)
    for one in ITEMS:
        item = place.ledger.item(one)
        assert [nest.status for _, nest in sorted(place.ledger.nests(item).items())] == [NestStatus.DONE] * 2
        assert place.ledger.definition(item).arguments == ("c:1-100", "c:101-200", "c:201-300")
    assert place.objects() == objects


def test_a_redo_that_was_killed_goes_on_with_the_items_that_are_left(place: Place) -> None:
    # Given a redo of a region in four items that dies (-9) after the second
    place.dies_typing(["items", "redo", "--region", "c:150-160", "--yes"], DIES_AFTER_TWO.format(move="redo"))
    assert sorted(state for _, state, _ in stands(place).values()) == [State.DONE] * 2 + [State.TODO] * 2
    half = stands(place)
    # When it is given again
    place.types("items", "redo", "--region", "c:150-160", "--yes")
    # Then the second nest of each is to be done again and the first is not; those that were sent back stayed there
    whole = stands(place)
    assert {state for _, state, _ in whole.values()} == {State.TODO}
    assert all(whole[one] == half[one] for one in ITEMS if half[one][1] is State.TODO)
    for one in ITEMS:
        nests = place.ledger.nests(place.ledger.item(one))
        assert {number for number, nest in nests.items() if nest.status is NestStatus.DONE} == {0}
