"""Plans of gather and joint: rows of their tables, each with the address of a plan file as its one argument.

    call's ledger   → gather_rows  → items of <table>-gather, one per sample
    gather's ledger → gathered_of    (and gathered_below for gVCFs of earlier tables)
                    → joint_rows   → items of <table>-joint, one per region
    joint's ledger  → concat_row   → its last item, `cohort`

`place` is where plan files go: an s3:// prefix, `<results>/<table>-gather/plans` or `<results>/<table>-joint/plans`.
Import the rows with `update=True`: what has not changed has the same definition and is left alone. Everything is
checked before the first file is written; memory does not grow with nests.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

from pyanamo_core.errors import CohortRefused, ItemMissing, Refused
from pyanamo_core.genomics.inputs import Inputs, split_uri
from pyanamo_core.genomics.intervals import Dictionary, Locus, read_dictionary
from pyanamo_core.genomics.members import GatheredGvcf, Member, Strangers, plain_locus, read_members
from pyanamo_core.genomics.plan_files import PlanInvalid, canonical, put_file, put_named, put_plan, read_json
from pyanamo_core.genomics.recorded import USED, RecordedNest, recorded_nests, refuse_second, sample_of
from pyanamo_core.genomics.regions import (
    Contents,
    Region,
    Union,
    chosen_regions,
    cut_regions,
    default_bases,
    lead_in,
    merged_regions,
)
from pyanamo_core.model import Definition, Item, NestStatus, State, encoded
from pyanamo_core.overflow import s3_fetch, unfolded
from pyanamo_core.protocols import Ledger

GATHER_SCRIPT = "${PIPELINE}/gather-gvcfs.sh"
REGION_SCRIPT = "${PIPELINE}/joint-region.sh"
CONCAT_SCRIPT = "${PIPELINE}/joint-concat.sh"
VERIFY = "pyanamo_core.genomics.plan_task:verify_outputs"
"""The `verify:` hook of the gather and joint workflows; their `scripts` are the packaged ones (empty)."""
COHORT_ITEM = "cohort"
POINTER = "joint.json"
READERS = 8


class NotGathered(Refused):
    """No gVCF is gathered below {where}. Do that first: pyanamo gather"""


class RegionsOpen(Refused):
    """{open} of {regions} regions of table {table} are not done as they are planned now; the first is {first}. Run the table, then concatenate."""


@dataclass(frozen=True)
class Row:
    """An item to be imported."""

    item_id: str
    task_id: str
    definition: Definition


@dataclass(frozen=True)
class JointPlan:
    """The regions of a joint call as rows, and what differs from the plan that stood at the same place before."""

    rows: tuple[Row, ...]
    samples: tuple[str, ...]
    lead_in: int
    region_bases: int
    new: tuple[str, ...]
    changed: tuple[str, ...]
    same: tuple[str, ...]
    gone: tuple[str, ...]
    """Items of the earlier plan that are no region of this one; they are not part of the cohort's VCF."""
    pointer: str


# -------------------------------------------------------------------------------------------------------------- gather


def gather_rows(
    ledger: Ledger,
    clients: Any,
    place: str,
    *,
    items: Sequence[str] | None = None,
    partial: bool = False,
    reblock: bool = False,
) -> list[Row]:
    """A row per item of the call's table, each with a plan of the nests that are recorded now.

    Args:
        items: itemIDs; default: all of the table.
        partial: also items with nests that are not done (those without any are left out).
        reblock: let ReblockGVCF go over the merged gVCF.

    Raises:
        ItemNotDone, SampleTwice, ItemMissing: nothing has been written then.
    """
    chosen: Iterable[Item] = (
        [ledger.item(one) for one in items] if items else sorted(ledger.items(), key=lambda one: one.item_id)
    )
    seen: dict[str, str] = {}
    with tempfile.TemporaryFile("w+") as spool:
        for item, sample, nests, values in _recorded(ledger, clients, chosen, partial=partial):
            refuse_second(seen, sample, item.item_id)
            told = _gather_plan(ledger.table, item, sample, nests, values, partial=partial, reblock=reblock)
            spool.write(json.dumps([item.item_id, told]) + "\n")
        spool.seek(0)

        def put(line: str) -> Row:
            item_id, told = json.loads(line)
            uri = put_plan(clients, place, encoded(item_id), told)
            return Row(item_id, "gather", Definition(script=GATHER_SCRIPT, arguments=(uri,)))

        return list(_few_at_a_time(put, spool))


def _recorded(
    ledger: Ledger, clients: Any, items: Iterable[Item], *, partial: bool
) -> Iterator[tuple[Item, str, list[RecordedNest], list[str]]]:
    def read(item: Item) -> tuple[Item, str, list[RecordedNest], list[str]] | None:
        rows = ledger.nests(item)
        nests, values = recorded_nests(ledger, item, clients, partial=partial, nests=rows)
        return (item, sample_of(item, rows, clients), nests, values) if nests else None

    yield from (found for found in _few_at_a_time(read, items) if found)


def _few_at_a_time(call: Any, things: Iterable[Any]) -> Iterator[Any]:
    todo = iter(things)
    with ThreadPoolExecutor(READERS, thread_name_prefix="plans") as pool:
        while batch := list(islice(todo, READERS * 2)):
            yield from pool.map(call, batch)


def _gather_plan(
    table: str,
    item: Item,
    sample: str,
    nests: Sequence[RecordedNest],
    values: Sequence[str],
    *,
    partial: bool,
    reblock: bool,
) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": "gather",
        "table": table,
        "item": item.item_id,
        "sample": sample,
        # Only of one that lacks nests: for the others the plan, and so what is done with it, stays as it is.
        "partial": partial and len(nests) < len(values),
        "reblock": reblock,
        "expected": list(values),
        "nests": [
            {
                "nest": nest.nest,
                "attempt": nest.attempt,
                "value": nest.value,
                "outputs": [[uri, nest.checksums.get(uri, "")] for uri in nest.outputs if uri.endswith(USED)],
            }
            for nest in nests
        ],
    }


def nests_of_plan(told: Mapping[str, Any]) -> list[RecordedNest]:
    """The recorded nests that a gather plan lists."""
    return [
        RecordedNest(
            str(told["item"]),
            int(one["nest"]),
            int(one["attempt"]),
            str(one["value"]),
            tuple(uri for uri, _ in one["outputs"]),
            {uri: sha256 for uri, sha256 in one["outputs"] if sha256},
        )
        for one in told["nests"]
    ]


# ------------------------------------------------------------------------------------------------------ gathered gVCFs


def gathered_of(ledger: Ledger, clients: Any, *, items: Sequence[str] | None = None) -> list[GatheredGvcf]:
    """The gVCFs that the ledger of a gather table has recorded, by sample.

    Raises:
        ItemNotDone: one is not done.
    """
    chosen = [ledger.item(one) for one in items] if items else ledger.items()

    def read(item: Item) -> GatheredGvcf:
        rows = ledger.nests(item)
        nests, _ = recorded_nests(ledger, item, clients, partial=False, nests=rows)
        uri = next((u for u in nests[0].outputs if u.endswith(".manifest.json")), "")
        if not uri:
            raise CohortRefused(reason=f"{nests[0]} of table {ledger.table} recorded no manifest of a gVCF")
        sample = sample_of(item, rows, clients)
        return GatheredGvcf(sample, uri, nests[0].checksums.get(uri, ""), f"table {ledger.table}")

    return sorted(_few_at_a_time(read, chosen), key=lambda one: one.sample)


def gathered_below(inputs: Inputs, where: str, samples: Sequence[str] = ()) -> list[GatheredGvcf]:
    """Gathered gVCFs below a prefix or folder (results of an earlier table, or adopted ones), by sample.

    Args:
        samples: only these.

    Raises:
        NotGathered: there are none, or a sample has none.
        CohortRefused: a sample has several, as below a table's work/, where each attempt leaves its own.
    """
    by_sample: dict[str, str] = {}
    for uri in sorted(one.uri for one in inputs.listing(f"{where.rstrip('/')}/") if one.uri.endswith(".manifest.json")):
        sample = uri.rpartition("/")[2].removesuffix(".manifest.json")
        if samples and sample not in samples:
            continue
        first = by_sample.setdefault(sample, uri)
        if first != uri:
            raise CohortRefused(
                reason=f"two gVCFs of sample {sample} lie below {where}: {first} and {uri}; which of them counts stands "
                "in the table that made them: let `pyanamo cohort run --also TABLE` take them from it"
            )
    missing = [one for one in samples if one not in by_sample]
    if missing or not by_sample:
        raise NotGathered(where=f"{where}/{missing[0]}" if missing else where)
    return [GatheredGvcf(one, by_sample[one], "", where) for one in sorted(samples or by_sample)]


# --------------------------------------------------------------------------------------------------------------- joint


def joint_rows(
    gathered: Sequence[GatheredGvcf],
    dictionary: Dictionary,
    place: str,
    *,
    clients: Any = None,
    inputs: Inputs | None = None,
    regions: Sequence[Locus] | None = None,
    region_bases: int | None = None,
    partial: bool = False,
) -> JointPlan:
    """A row per region of the cohort, in the reference's order.

    Args:
        gathered: of one or of several tables (N + 1); every sample once.
        regions: call only these; default: all that is gathered.
        region_bases: size of a region; default: as the number of samples allows.
        partial: also samples that lack loci.

    Raises:
        CohortRefused: strangers, two gVCFs of a sample, nothing to call; nothing has been written then.
    """
    inputs = inputs or Inputs(clients=clients)
    if not gathered:
        raise CohortRefused(reason="there is no gathered gVCF")
    checks, union = Strangers(dictionary, partial=partial), Union(dictionary)
    longest, lacking = 0, False
    listed: list[dict[str, Any]] = []
    with tempfile.TemporaryFile("w+") as spool:
        for member in read_members(sorted(gathered, key=lambda one: one.sample), inputs):
            checks.refuse(member)
            loci_set = union.add(member.sample, member.loci)
            longest = max(longest, member.longest)
            lacking = lacking or bool(member.manifest["partial"])
            listed.append({**_listed(member), "loci": loci_set})
            spool.write(json.dumps([[list(map(str, loci)), sha256] for loci, sha256 in member.files()]) + "\n")
        samples = tuple(str(one["sample"]) for one in listed)
        bases = region_bases or default_bases(len(samples))
        cut = chosen_regions(regions, union.covered, dictionary) if regions else cut_regions(union.covered, bases)
        if not partial:
            union.refuse_uneven([x for region in cut for x in region.loci])
        lead = lead_in(longest)
        contents = Contents(cut, lead)
        _add_contents(contents, samples, spool)
    # Only where samples do lack loci: else every region would be called again because somebody allowed it.
    lacking = lacking or len(union.sets) > 1
    common = {"lead_in": lead, "samples": len(samples), "partial": partial and lacking, **checks.common()}
    loci_sets = {name: [str(x) for x in loci] for name, loci in union.sets.items()}
    members = {"schema": 1, "kind": "members", "members": listed, "loci_sets": loci_sets}
    return _written(cut, contents.digests(), members, common, place, clients, inputs, bases)


def _listed(member: Member) -> dict[str, Any]:
    """What a region's nest must know of a member."""
    files = {f["name"].rpartition(".g.vcf")[2]: f for f in member.manifest["files"]}
    whole = files.get(".gz", {})
    return {
        "sample": member.sample,
        "gvcf": member.gvcf,
        "bytes": int(whole.get("bytes", 0)),
        "sha256": str(whole.get("sha256", "")),
        "outside_deletions": list(member.manifest.get("outside_deletions", ())),
        "left_out": list(member.manifest.get("left_out", ())),
        "adopted": bool(member.manifest.get("adopted")),
    }


def _add_contents(contents: Contents, samples: Sequence[str], spool: IO[str]) -> None:
    spool.seek(0)
    for sample, line in zip(samples, spool, strict=True):
        told: list[Any] = json.loads(line)
        contents.add(sample, (([plain_locus(x) for x in loci], str(sha256)) for loci, sha256 in told))


def _written(
    regions: Sequence[Region],
    digests: Sequence[str],
    listed: Mapping[str, Any],
    common: Mapping[str, Any],
    place: str,
    clients: Any,
    inputs: Inputs,
    bases: int,
) -> JointPlan:
    pointer_uri = f"{place.rstrip('/')}/{POINTER}"
    before = _earlier(inputs, pointer_uri)
    members = canonical(listed)
    rows: list[Row] = []
    told: list[dict[str, str]] = []

    def put(pair: tuple[Region, str]) -> str:
        region, digest = pair
        plan = {"schema": 1, "kind": "region", "item": region.name, "regions": [str(x) for x in region.loci]}
        return put_plan(clients, place, region.name, {**plan, "content": digest, "pointer": pointer_uri, **common})

    for region, uri in zip(regions, _few_at_a_time(put, zip(regions, digests, strict=True)), strict=True):
        rows.append(Row(region.name, "joint", Definition(script=REGION_SCRIPT, arguments=(uri,))))
        told.append({"item": region.name, "plan": uri})
    pointer = {
        "schema": 1,
        "kind": "joint",
        "members": put_named(clients, place, "members", members),
        "regions": told,
        "covered": [str(x) for x in merged_regions(regions)],
        "contents": {region.name: digest for region, digest in zip(regions, digests, strict=True)},
        **common,
    }
    # Last: a region's nest finds the members through it, and compares the digest that its own plan holds.
    put_file(clients, place, POINTER, canonical(pointer))
    now = {one["item"]: one["plan"] for one in told}
    return JointPlan(
        rows=tuple(rows),
        samples=tuple(str(one["sample"]) for one in listed["members"]),
        lead_in=int(common["lead_in"]),
        region_bases=bases,
        new=tuple(one for one in now if one not in before),
        changed=tuple(one for one, plan in now.items() if before.get(one, plan) != plan),
        same=tuple(one for one, plan in now.items() if before.get(one) == plan),
        gone=tuple(one for one in before if one not in now),
        pointer=pointer_uri,
    )


def _earlier(inputs: Inputs, pointer: str) -> dict[str, str]:
    """Item to plan of the plan that stands there."""
    try:
        told, _ = read_json(inputs, pointer)
    except PlanInvalid:
        return {}
    return {str(one["item"]): str(one["plan"]) for one in told.get("regions", ())}


def concat_row(ledger: Ledger, clients: Any, place: str, *, name: str = "joint") -> Row:
    """The row of the cohort's VCF: all regions that are planned at `place`, done as they are planned.

    Raises:
        RegionsOpen: some are not done, or done as another plan had them.
        PlanInvalid: nothing is planned there.
    """
    inputs = Inputs(clients=clients)
    pointer, _ = read_json(inputs, f"{place.rstrip('/')}/{POINTER}")
    wanted: list[dict[str, str]] = pointer["regions"]

    def look(one: Mapping[str, str]) -> dict[str, Any] | None:
        try:
            item = ledger.item(one["item"])
        except ItemMissing:
            return None
        if item.state is not State.DONE or ledger.definition(item).arguments != (one["plan"],):
            return None
        nest = ledger.nests(item).get(0)
        if nest is None or nest.status is not NestStatus.DONE:
            return None
        outputs = {o.uri: o for o in unfolded(nest, s3_fetch(clients)).outputs}
        vcf = next((o for uri, o in outputs.items() if uri.endswith(".vcf.gz")), None)
        if vcf is None:
            return None
        return {
            "item": item.item_id,
            "attempt": nest.fence,
            "plan": one["plan"],
            "vcf": vcf.uri,
            "bytes": vcf.bytes,
            "sha256": vcf.sha256,
        }

    found = list(_few_at_a_time(look, wanted))
    still = [one["item"] for one, done in zip(wanted, found, strict=True) if done is None]
    if still:
        raise RegionsOpen(open=len(still), regions=len(wanted), table=ledger.table, first=still[0])
    common = {key: pointer[key] for key in ("samples", "partial", "members", "lead_in", "covered")}
    told = {"schema": 1, "kind": "concat", "name": name, "regions": found, **common}
    uri = put_plan(clients, place, f"{COHORT_ITEM}-{encoded(name)}", told)
    return Row(COHORT_ITEM, "concat", Definition(script=CONCAT_SCRIPT, arguments=(uri,)))


def reference_dictionary(clients: Any, uri: str) -> Dictionary:
    """The .dict beside a reference's FASTA, wherever that lies; the FASTA itself is not fetched.

    Raises:
        DictInvalid: there is none; FileNotFoundError: there is none in the bucket.
    """
    if not uri.startswith("s3://"):
        return read_dictionary(uri.removeprefix("file://"))
    stem = next((uri[: -len(end)] for end in (".gz",) if uri.endswith(end)), uri)
    stem = stem.rpartition(".")[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (split_uri(stem)[1].rpartition("/")[2] + ".dict")
        Inputs(clients=clients).fetch(f"{stem}.dict", path)
        return read_dictionary(path)
