"""A new revision on a table with done nests: found, refused, or done again."""

from __future__ import annotations

import pytest

from pyanamo_core.clock import FakeClock
from pyanamo_core.errors import CallerRefused
from pyanamo_core.genomics.callers import caller_version, check_pinned
from pyanamo_core.genomics.parameters import Parameters
from pyanamo_core.genomics.task import SET_UP, exit_code
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Definition, Nest, NestStatus, State
from pyanamo_core.revision import MAX_REDO, RevisionChanged, affected, check_revision, do_again
from pyanamo_core.workflow import Buckets, Reference, Workflow

PLAIN = Workflow(name="Count", queue="Q", job_definition="D", buckets=Buckets(results="s3://bucket/prefix"))


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


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"HC_PADDING": "500"}},
        {"scripts_sha256": "0" * 64},
        {"references": (Reference(name="ref", uri="s3://bucket/other.fa"),)},
        {"verify": "pyanamo_core.genomics.gvcf:verify_outputs"},
        {"caller_version": "4.6.2.0"},
    ],
)
def test_all_that_results_depend_on_is_in_the_revision(change: dict[str, object]) -> None:
    # Given a workflow, when any of what its nests run with changes, then its revision is another
    assert PLAIN.model_copy(update=change).revision != PLAIN.revision


def test_what_only_says_how_fast_it_runs_is_not_in_the_revision() -> None:
    # Given a workflow, when it gets more pilots and another queue, then its revision is the same, and as it always was
    assert PLAIN.model_copy(update={"pilots": 100, "queue": "other", "nests": 7}).revision == PLAIN.revision
    assert PLAIN.revision == "59f4fad831de"


def test_a_caller_of_another_version_than_the_pinned_one_calls_nothing_and_stops_the_run() -> None:
    # Given a workflow that pins a version that this machine has not
    version = caller_version(Parameters(caller="bcftools"))
    # When a nest looks at it
    with pytest.raises(CallerRefused) as refused:
        check_pinned("bcftools", version, {"PYANAMO_CALLER_VERSION": "0.1"})
    # Then that is the set-up's fault, told with both versions; the right one and none at all are taken
    assert exit_code(refused.value) == SET_UP
    assert f"bcftools is version {version} here, the workflow pins 0.1" in str(refused.value)
    check_pinned("bcftools", version, {"PYANAMO_CALLER_VERSION": version})
    check_pinned("bcftools", version, {})
