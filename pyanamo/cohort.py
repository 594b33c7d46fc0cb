"""From the ledger's recorded nests to what gather and joint take, and where their results lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyanamo_core.errors import Refused, Surroundings
from pyanamo_core.model import Item, NestStatus, State

if TYPE_CHECKING:
    from pyanamo_core.genomics.cohort import RecordedNest
    from pyanamo_core.genomics.load import Stored
    from pyanamo_core.protocols import Ledger
    from pyanamo_core.workflow import Workflow


class ItemNotDone(Refused):
    """Item {item_id} is {state}, with {done} of {nests} nests done. Wait for it, or gather what is there with --partial."""


class SampleTwice(Refused):
    """Items {first} and {second} are both of sample {sample}: one gVCF would replace the other. Gather one of them by name."""


class NotGathered(Refused):
    """No gVCF is gathered below {where}. Do that first: pyanamo gather"""


class GatheredOutdated(Refused):
    """The gathered gVCF of {sample} is not of what the ledger holds now: {reason}. Gather it again: pyanamo gather {item_id}"""


class CopyDiffers(Surroundings):
    """{uri} came as something else than was put there ({bytes} bytes); nothing was kept of it."""


def results_place(workflow: Workflow, table: str, folder: str) -> str:
    """Where people find results: `<results>/<table>/results/<folder>`."""
    return f"{workflow.buckets.results}/{table}/results/{folder}"


def recorded_nests(ledger: Ledger, item: Item, clients: Any, *, partial: bool) -> tuple[list[RecordedNest], list[str]]:
    """The done nests of an item's present epoch, and the values of all its nests.

    Raises:
        ItemNotDone: it has others, and `partial` was not asked for.
    """
    from pyanamo_core.genomics.cohort import RecordedNest
    from pyanamo_core.report.results import s3_fetch, unfolded

    definition = ledger.definition(item)
    done = {n: nest for n, nest in ledger.nests(item).items() if nest.status is NestStatus.DONE}
    if (item.state is not State.DONE or len(done) < definition.nests) and not partial:
        raise ItemNotDone(item_id=item.item_id, state=item.state.value, done=len(done), nests=definition.nests)
    fetch = s3_fetch(clients)
    recorded: list[RecordedNest] = []
    for number, nest in sorted(done.items()):
        whole = unfolded(nest, fetch) if nest.overflow else nest
        uris = tuple(output.uri for output in whole.outputs)
        recorded.append(RecordedNest(item.item_id, number, nest.fence, definition.value(number), uris))
    return recorded, [definition.value(number) for number in range(definition.nests)]


def refuse_same_sample(ledger: Ledger, items: Sequence[Item], clients: Any) -> None:
    """Raise SampleTwice if two items made gVCFs of one sample; before anything is written."""
    from pyanamo_core.report.results import s3_fetch, unfolded

    of_sample: dict[str, str] = {}
    for item in items:
        nest = next((one for one in ledger.nests(item).values() if one.status is NestStatus.DONE), None)
        if nest is None:
            continue
        figures = unfolded(nest, s3_fetch(clients)).figures if nest.overflow else nest.figures
        sample = str(figures.get("sample") or item.item_id)
        first = of_sample.setdefault(sample, item.item_id)
        if first != item.item_id:
            raise SampleTwice(first=first, second=item.item_id, sample=sample)


def gathered_gvcfs(ledger: Ledger, clients: Any, where: str, samples: Sequence[str] = ()) -> list[str]:
    """Addresses of the gathered gVCFs below a place, each of which must be of what the ledger holds now.

    Raises:
        NotGathered: there are none, or a sample has none.
        GatheredOutdated: one was made before its item was reset, redone or extended.
    """
    from pyanamo_core.genomics.inputs import Inputs

    inputs = Inputs(clients=clients)
    found = sorted(one.uri for one in inputs.listing(f"{where}/") if one.uri.endswith(".manifest.json"))
    by_sample = {uri.rpartition("/")[2].removesuffix(".manifest.json"): uri for uri in found}
    missing = [one for one in samples if one not in by_sample]
    if missing or not by_sample:
        raise NotGathered(where=f"{where}/{missing[0]}" if missing else where)
    wanted = samples or list(by_sample)
    for sample in wanted:
        _refuse_outdated(ledger, inputs, sample, by_sample[sample])
    return [by_sample[one].removesuffix(".manifest.json") + ".g.vcf.gz" for one in wanted]


def _refuse_outdated(ledger: Ledger, inputs: Any, sample: str, uri: str) -> None:
    import json

    from pyanamo_core.errors import ItemMissing

    data, _ = inputs.read_range(uri, 0, 1 << 26)
    manifest = json.loads(data)
    by_item: dict[str, dict[int, int]] = {}
    for one in manifest["nests"]:
        by_item.setdefault(one["item"], {})[int(one["nest"])] = int(one["attempt"])
    for item_id, used in by_item.items():
        facts = {"sample": sample, "item_id": item_id}
        try:
            item = ledger.item(item_id)
        except ItemMissing as error:
            raise GatheredOutdated(reason=f"item {item_id} is not in the table", **facts) from error
        now = {n: nest.fence for n, nest in ledger.nests(item).items() if nest.status is NestStatus.DONE}
        other = sorted(n for n, fence in used.items() if now.get(n) != fence)
        if other:
            raise GatheredOutdated(reason=f"nest {other[0]} of item {item_id} was done again or is open", **facts)
        new = sorted(now.keys() - used.keys())
        if new:
            raise GatheredOutdated(reason=f"nest {new[0]} of item {item_id} came since", **facts)


def bring(inputs: Any, stored: Iterable[Stored], folder: Path) -> list[Path]:
    """Copy results into a folder of this machine, each checked, in the order in which they were put."""
    folder.mkdir(parents=True, exist_ok=True)
    brought: list[Path] = []
    for one in stored:
        target = folder / one.name
        part = target.with_name(f".{target.name}.part")
        try:
            inputs.fetch(one.uri, part)
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != one.sha256:
                raise CopyDiffers(uri=one.uri, bytes=part.stat().st_size)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        brought.append(target)
    return brought
