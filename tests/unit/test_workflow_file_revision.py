"""A new revision on a table with done nests: found, refused, or done again."""

from __future__ import annotations

import pytest

from pyanamo_core.clock import FakeClock
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Definition, Nest, NestStatus, State
from pyanamo_core.revision import MAX_REDO, RevisionChanged, affected, check_revision, do_again


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger(clock=FakeClock())


def done(ledger: MemoryLedger, item_id: str, *revisions: str) -> None:
    """An item with a nest for each revision, done with it."""
    values = tuple(f"v{number}" for number in range(len(revisions)))
    ledger.import_item(item_id, "t", Definition(script="s", arguments=values))
    claim = ledger.claim(item_id, "pilot-1")
    assert claim is not None
    for number, revision in enumerate(revisions):
        ledger.record_nest(
            claim,
            Nest(
                item_id=item_id,
                epoch=claim.epoch,
                index=number,
                status=NestStatus.DONE,
                fence=claim.fence,
                revision=revision,
            ),
        )
    ledger.finish(claim, nests_done=len(revisions))


def test_a_table_without_done_nests_takes_any_revision(ledger: MemoryLedger) -> None:
    # Given an item to do
    ledger.import_item("A", "t", Definition(script="s", arguments=("1",)))
    # Then no revision is in its way
    check_revision(ledger, "new")
    assert list(affected(ledger, "new")) == []


def test_a_done_nest_of_another_revision_is_refused_and_named(ledger: MemoryLedger) -> None:
    # Given a nest done with the old revision
    done(ledger, "A", "old")
    # When the new one is checked, then item and revisions are told, and the old one again is fine
    with pytest.raises(RevisionChanged, match=r"revision old \(e.g. item A\).*now revision new.*--new-revision"):
        check_revision(ledger, "new")
    check_revision(ledger, "old")


def test_only_nests_of_the_other_revision_are_done_again(ledger: MemoryLedger) -> None:
    # Given one item of both revisions, one of the new one only, and more items than are looked at at a time
    done(ledger, "A", "old", "new", "old")
    done(ledger, "B", "new")
    for number in range(40):
        done(ledger, f"C{number:02d}", "old")
    # When what is affected is done again
    found = {one.item.item_id: one.nests for one in affected(ledger, "new")}
    count = do_again(ledger, affected(ledger, "new"))
    # Then the old nests are reset, the new ones stay, and B is as it was
    assert found["A"] == (0, 2)
    assert "B" not in found
    assert count == 41
    item = ledger.item("A")
    assert item.state is State.TODO
    assert [ledger.nests(item)[index].status for index in range(3)] == ["reset", "done", "reset"]
    assert ledger.item("B").state is State.DONE
    assert list(affected(ledger, "new")) == []


def test_an_item_with_more_nests_than_one_redo_takes_is_reset(ledger: MemoryLedger) -> None:
    # Given an item with one nest more than a redo takes
    done(ledger, "A", *["old"] * (MAX_REDO + 1))
    epoch = ledger.item("A").epoch
    # When it is done again, then it starts from nothing
    do_again(ledger, affected(ledger, "new"))
    item = ledger.item("A")
    assert (item.state, item.epoch, ledger.nests(item)) == (State.TODO, epoch + 1, {})
