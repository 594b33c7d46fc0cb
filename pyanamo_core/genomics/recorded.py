"""What the ledger holds as done, as gather takes it: nests with their fences, outputs and checksums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyanamo_core.errors import Refused
from pyanamo_core.model import Item, Nest, NestStatus, State
from pyanamo_core.overflow import s3_fetch, unfolded
from pyanamo_core.protocols import Ledger

USED = (".g.vcf.gz", ".manifest.json")
"""Endings of the outputs of a nest that gather reads."""


class ItemNotDone(Refused):
    """Item {item_id} is {state}, with {done} of {nests} nests done. Wait for it, or gather what is there with --partial."""


class SampleTwice(Refused):
    """Items {first} and {second} are both of sample {sample}: one gVCF would replace the other. Gather one of them by name."""


@dataclass(frozen=True)
class RecordedNest:
    """A nest that the ledger holds as done: item, number, the fence that recorded it, its value and outputs (URIs).

    `checksums` has the SHA-256 of outputs by URI, as far as they were recorded.
    """

    item: str
    nest: int
    attempt: int
    value: str
    outputs: tuple[str, ...]
    checksums: Mapping[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"item {self.item} nest {self.nest} ({self.value}), attempt {self.attempt}"


def recorded_nests(
    ledger: Ledger, item: Item, clients: Any, *, partial: bool, nests: Mapping[int, Nest] | None = None
) -> tuple[list[RecordedNest], list[str]]:
    """The done nests of an item's present epoch, and the values of all its nests.

    Args:
        partial: also of an item that has others.
        nests: the item's rows, if they have been read already.

    Raises:
        ItemNotDone: it has others, and `partial` was not asked for.
    """
    definition = ledger.definition(item)
    rows = ledger.nests(item) if nests is None else nests
    done = {n: nest for n, nest in rows.items() if nest.status is NestStatus.DONE}
    if (item.state is not State.DONE or len(done) < definition.nests) and not partial:
        raise ItemNotDone(item_id=item.item_id, state=item.state.value, done=len(done), nests=definition.nests)
    fetch = s3_fetch(clients)
    recorded: list[RecordedNest] = []
    for number, nest in sorted(done.items()):
        outputs = unfolded(nest, fetch).outputs
        sums = {output.uri: output.sha256 for output in outputs if output.sha256}
        uris = tuple(output.uri for output in outputs)
        recorded.append(RecordedNest(item.item_id, number, nest.fence, definition.value(number), uris, sums))
    return recorded, [definition.value(number) for number in range(definition.nests)]


def sample_of(item: Item, nests: Mapping[int, Nest], clients: Any) -> str:
    """The sample that an item's done nests report (the first that does); the item's name where none does."""
    for _, nest in sorted(nests.items()):
        if nest.status is NestStatus.DONE:
            found = unfolded(nest, s3_fetch(clients)).figures.get("sample")
            return str(found) if found else item.item_id
    return item.item_id


def refuse_same_sample(ledger: Ledger, items: Sequence[Item], clients: Any) -> None:
    """Raise SampleTwice if two items made gVCFs of one sample; before anything is written."""
    of_sample: dict[str, str] = {}
    for item in items:
        nests = ledger.nests(item)
        if any(nest.status is NestStatus.DONE for nest in nests.values()):
            refuse_second(of_sample, sample_of(item, nests, clients), item.item_id)


def refuse_second(seen: dict[str, str], sample: str, item_id: str) -> None:
    """Remember that an item made a sample's gVCF; raise SampleTwice if another item has."""
    first = seen.setdefault(sample, item_id)
    if first != item_id:
        raise SampleTwice(first=first, second=item_id, sample=sample)
