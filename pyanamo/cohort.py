"""From the ledger's recorded nests to what gather and joint take, and where their results lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyanamo_core.errors import BadInput, Refused, Surroundings
from pyanamo_core.genomics.plans import NotGathered
from pyanamo_core.genomics.recorded import (
    ItemNotDone,
    RecordedNest,
    SampleTwice,
    recorded_nests,
    refuse_same_sample,
    sample_of,
)
from pyanamo_core.model import NestStatus

if TYPE_CHECKING:
    from pyanamo_core.genomics.cohort import Gathered
    from pyanamo_core.genomics.load import Stored
    from pyanamo_core.genomics.members import GatheredGvcf
    from pyanamo_core.model import Item
    from pyanamo_core.protocols import Ledger
    from pyanamo_core.workflow import Workflow


__all__ = [
    "CopyDiffers",
    "GatheredOutdated",
    "ItemNotDone",
    "NotGathered",
    "ReferenceMissing",
    "SampleTwice",
    "bring",
    "gathered_gvcfs",
    "gathered_here",
    "kept_gather",
    "recorded_nests",
    "refuse_same_sample",
    "results_place",
    "workflow_reference",
]


class GatheredOutdated(Refused):
    """The gathered gVCF of {sample} is not of what the ledger holds now: {reason}. Gather it again: pyanamo gather {item_id}"""


class ReferenceMissing(BadInput):
    """The workflow names no reference `ref`. Give one with --reference FILE."""


class CopyDiffers(Surroundings):
    """{uri} came as something else than was put there ({bytes} bytes); nothing was kept of it."""


def cohort_words(ledger: Ledger, table: str, command: str) -> str:
    """`pyanamo cohort <command>` for the table of a cohort's call, gather or joint step; empty: for any other table.

    A call's table is known by the section `cohort` of its workflow.
    """
    from pyanamo_core.errors import NotFound
    from pyanamo_core.genomics.plans import VERIFY
    from pyanamo_core.workflow import CohortSection

    try:
        workflow = ledger.workflow()[1]
    except NotFound:
        return ""
    for step in ("-gather", "-joint"):
        if workflow.verify == VERIFY and table.endswith(step):
            return f"pyanamo cohort {command} --table {table.removesuffix(step)}"
    return f"pyanamo cohort {command}" if workflow.cohort != CohortSection() else ""


def results_place(workflow: Workflow, table: str, folder: str) -> str:
    """Where people find results: `<results>/<table>/results/<folder>`."""
    return f"{workflow.buckets.results}/{table}/results/{folder}"


def gathered_gvcfs(ledger: Ledger, clients: Any, where: str, samples: Sequence[str] = ()) -> list[str]:
    """Addresses of the gathered gVCFs below a place, each of which must be of what the ledger holds now.

    Raises:
        NotGathered: there are none, or a sample has none.
        GatheredOutdated: one was made before its item was reset, redone or extended.
        CohortRefused: a sample has several.
    """
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.genomics.plans import gathered_below

    return _current(ledger, Inputs(clients=clients), gathered_below(Inputs(clients=clients), where, samples))


def gathered_here(ledger: Ledger, clients: Any, where: str, samples: Sequence[str] = ()) -> list[str]:
    """As `gathered_gvcfs`; where nothing is gathered, those that `pyanamo cohort run` made in the table `<table>-gather`.

    Raises:
        ItemNotDone: a sample's gather is not done. The others as `gathered_gvcfs`.
    """
    from pyanamo_core.errors import TableMissing, WorkflowMissing
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.genomics.plans import gathered_of
    from pyanamo_core.ledger import open_ledger

    try:
        return gathered_gvcfs(ledger, clients, where, samples)
    except NotGathered:
        try:
            made = gathered_of(open_ledger(clients, f"{ledger.table}-gather")[0], clients)
        except (TableMissing, WorkflowMissing):
            made = []
        chosen = [one for one in made if not samples or one.sample in samples]
        if not chosen or len(chosen) < len(samples):
            raise
        return _current(ledger, Inputs(clients=clients), chosen)


def _current(ledger: Ledger, inputs: Any, gathered: Iterable[GatheredGvcf]) -> list[str]:
    told: list[str] = []
    for one in gathered:
        _refuse_outdated(ledger, inputs, one.sample, one.manifest)
        told.append(one.gvcf)
    return told


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


def kept_gather(
    inputs: Any, where: str, ledger: Ledger, item: Item, nests: Sequence[RecordedNest], clients: Any, *, reblocked: bool
) -> Gathered | None:
    """What was gathered from these very nests before, if it is still there whole."""
    import json

    from pyanamo_core.genomics.cohort import Gathered
    from pyanamo_core.genomics.load import Stored

    sample = sample_of(item, ledger.nests(item), clients)
    uri = f"{where}/{sample}.manifest.json"
    try:
        data, _ = inputs.read_range(uri, 0, 1 << 27)
        manifest = json.loads(data)
        used = {(one["item"], one["nest"], one["attempt"]) for one in manifest["nests"]}
        wanted = {(one.item, one.nest, one.attempt) for one in nests}
        if used != wanted or bool(manifest.get("reblocked")) != reblocked:
            return None
        files = [
            Stored(one["name"], f"{where}/{one['name']}", one["bytes"], one["sha256"]) for one in manifest["files"]
        ]
        for one in files:
            if inputs.read_range(one.uri, 0, 1)[1] != one.bytes:
                return None
    except (FileNotFoundError, ValueError, KeyError):
        return None
    record = Stored(f"{sample}.manifest.json", uri, len(data), hashlib.sha256(data).hexdigest())
    return Gathered(sample, files[0], manifest, (*files, record))


def workflow_reference(workflow: Workflow, clients: Any) -> Path:
    """The workflow's reference `ref` on this machine, with index and .dict, as pilots have it.

    Raises:
        ReferenceMissing: it names none.
    """
    from pyanamo_core.staging import stage

    found = stage(workflow, clients).references.get("ref")
    if not found:
        raise ReferenceMissing
    return Path(found)


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
