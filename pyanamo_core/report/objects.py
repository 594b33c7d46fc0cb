"""Compare a bucket with the ledger: objects that no nest names, and outputs that are named and not there.

Below `<results>/<table>/work/` each attempt at a nest has a prefix of its own, which ends in its fence. What claims left
there that died or lost is referred to by no row. Nothing here deletes or writes anything.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from itertools import groupby
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from pyanamo_core.aws import Clients, code_of, explained, is_aws_error
from pyanamo_core.errors import OverflowBroken
from pyanamo_core.ledger.fsck_walk import Fsck
from pyanamo_core.model import Item, Nest, NestStatus, Output, State, encoded
from pyanamo_core.report.results import Fetch, s3_fetch, unfolded
from pyanamo_core.workflow import Workflow

_THREADS: Final = 16


class Astray(StrEnum):
    """What can be wrong between bucket and ledger."""

    ORPHAN = "orphan"
    """No row names it; its claim is over."""
    UNNAMED = "unnamed"
    """Not named either, but it lies beside a recorded result: its script did not declare it."""
    MISSING = "missing"
    """Named by a done nest, and not there."""
    CLEANED = "cleaned"
    """Named by a done nest, and deleted on purpose after it had been gathered (`clean --loci-after-gather`)."""
    DIFFERS = "differs"
    """Named by a done nest, and of another size."""
    BROKEN = "broken"
    """The object with the results that were too big for their row cannot be read."""


FAULTS: Final = frozenset({Astray.MISSING, Astray.DIFFERS, Astray.BROKEN})


@dataclass(frozen=True)
class Stray:
    """One object. `bytes` is what lies there (what was recorded, where nothing does)."""

    kind: Astray
    uri: str
    bytes: int
    item_id: str
    nest: int
    fence: int
    wrong: str


@dataclass
class ObjectTally:
    """What was looked at."""

    objects: int = 0
    bytes: int = 0
    named: int = 0
    """Outputs of done nests that were compared."""
    being_written: int = 0
    """Objects of claims that are at work."""
    elsewhere: int = 0
    """Outputs on file systems, which cannot be looked at from here."""


class Found(NamedTuple):
    """One object below a work prefix. `key` is its s3:// address, `modified` seconds since 1970 by S3's clock."""

    key: str
    bytes: int
    nest: int
    fence: int
    modified: float


class _Seen:
    """Names as sorted 64-bit hashes: 8 bytes each, for a million items 8 MB."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted = False

    def add(self, name: str) -> None:
        self._hashes.append(_hash(name))
        self._sorted = False

    def __contains__(self, name: str) -> bool:
        if not self._sorted:
            self._hashes, self._sorted = array("Q", sorted(self._hashes)), True
        wanted = _hash(name)
        place = bisect_left(self._hashes, wanted)
        return place < len(self._hashes) and self._hashes[place] == wanted


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def work_prefixes(workflows: Iterable[Workflow], table: str) -> list[str]:
    """The prefixes (ending in `/`) below which pilots of these versions write what nests make, and their logs."""
    homes = [home for each in workflows for home in (each.buckets.results, each.buckets.logs) if home]
    return [f"{home}/{encoded(table)}/work/" for home in dict.fromkeys(homes)]


def listed(clients: Clients, prefix: str) -> Iterator[tuple[str, Found | None, int]]:
    """Each object below a work prefix with its item and its bytes; None for a key that is no claim's.

    Objects of one item come together, since keys are listed in order and begin with the item.

    Raises:
        BucketMissing, AccessDenied and the like, as AWS tells them.
    """
    bucket, _, start = prefix.removeprefix("s3://").partition("/")
    pages = clients.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start)
    with explained("s3", f"listing {prefix}"):
        for page in pages:
            for one in page.get("Contents", ()):
                place = claim_of(one["Key"].removeprefix(start))
                if place is None:
                    yield "", None, one["Size"]
                    continue
                item_id, nest, fence = place
                uri = f"s3://{bucket}/{one['Key']}"
                yield item_id, Found(uri, one["Size"], nest, fence, one["LastModified"].timestamp()), one["Size"]


def claim_of(key: str) -> tuple[str, int, int] | None:
    """Item, nest and fence of a key below a work prefix; None for one that no pilot would write."""
    parts = key.split("/", 3)
    if len(parts) == 4 and parts[1].isdigit() and parts[2].isdigit():
        return unquote(parts[0]), int(parts[1]), int(parts[2])
    return None


class ObjectCheck:
    """The comparison of one table. Memory is bounded by the objects and outputs of one item.

    Args:
        clients: where boto3's clients come from.
        fsck: reads the rows.
        prefixes: s3://…/ of work_prefixes.
        is_cleaned: knows of an output (item, nest, attempt, address) that is gone whether it was deleted on purpose.
    """

    def __init__(
        self,
        clients: Clients,
        fsck: Fsck,
        prefixes: Iterable[str],
        is_cleaned: Callable[[str, int, int, str], bool] | None = None,
    ) -> None:
        self._is_cleaned = is_cleaned
        self.tally = ObjectTally()
        self._clients = clients
        self._fsck = fsck
        self._prefixes = list(prefixes)
        self._seen = {prefix: _Seen() for prefix in self._prefixes}
        self._fetch: Fetch = s3_fetch(clients)

    def walk(self) -> Iterator[Stray]:
        """Everything that is astray, as it is found.

        Raises:
            BucketMissing, AccessDenied and the like, as AWS tells them.
        """
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="head") as pool:
            for prefix in self._prefixes:
                # Keys that begin with the same item come together, whatever their order.
                for item_id, objects in groupby(self._listed(prefix), key=lambda each: each[0]):
                    self._seen[prefix].add(item_id)
                    yield from self._compare(prefix, item_id, [each for _, each in objects], pool)
            yield from self._unlisted(pool)

    # ------------------------------------------------------------------------------------------------------- listing

    def _listed(self, prefix: str) -> Iterator[tuple[str, Found]]:
        for item_id, found, size in listed(self._clients, prefix):
            self.tally.objects += 1
            self.tally.bytes += size
            if found is not None:
                yield item_id, found

    def _compare(self, prefix: str, item_id: str, objects: list[Found], pool: ThreadPoolExecutor) -> Iterator[Stray]:
        """The objects of one item with its rows, which are read after the listing: what was recorded since is named."""
        item, nests = self._fsck.results(item_id)
        there = {one.key: one for one in objects}
        recorded: set[tuple[int, int]] = set()
        wanted: list[tuple[Nest, Output]] = []
        for nest in nests:
            present = item is not None and nest.epoch == item.epoch and nest.status is NestStatus.DONE
            if nest.status is NestStatus.DONE:
                recorded.add((nest.index, nest.fence))
            for uri in (nest.overflow, nest.log.uri if nest.log else ""):
                there.pop(uri, None)
            outputs, broken = self._outputs(nest)
            if broken and present:
                yield _stray(Astray.BROKEN, nest, nest.overflow, 0, broken)
            for output in outputs:
                found = there.pop(output.uri, None)
                if present and output.uri.startswith(prefix):
                    self.tally.named += 1
                    if found is None or found.bytes != output.bytes:
                        wanted.append((nest, output))
        yield from self._looked_at(wanted, pool)
        yield from (self._left(one, item_id, item, recorded) for one in there.values() if not self._at_work(one, item))

    def _at_work(self, one: Found, item: Item | None) -> bool:
        at_work = item is not None and item.state is State.LOCKED and item.fence == one.fence
        self.tally.being_written += at_work
        return at_work

    def _left(self, one: Found, item_id: str, item: Item | None, recorded: set[tuple[int, int]]) -> Stray:
        kind, wrong = Astray.ORPHAN, "no nest names it, and its claim is over"
        if item is None:
            wrong = "there is no item of this name"
        elif (one.nest, one.fence) in recorded:
            kind, wrong = Astray.UNNAMED, "its script did not name it among its outputs"
        return Stray(kind, one.key, one.bytes, item_id, one.nest, one.fence, wrong)

    def _outputs(self, nest: Nest) -> tuple[tuple[Output, ...], str]:
        """A nest's outputs, also those that were too big for its row; or why they cannot be read."""
        if not nest.overflow:
            return nest.outputs, ""
        try:
            return unfolded(nest, self._fetch).outputs, ""
        except OverflowBroken as error:
            return (), str(error)

    # ------------------------------------------------------------------------------------------------ what no list shows

    def _unlisted(self, pool: ThreadPoolExecutor) -> Iterator[Stray]:
        """Outputs outside the listed prefixes, and those of items of which nothing was listed."""
        batch: list[tuple[Nest, Output]] = []
        for nest in self._fsck.done_nests():
            unseen = [prefix for prefix in self._prefixes if nest.item_id not in self._seen[prefix]]
            outputs, broken = self._outputs(nest)
            if broken and len(unseen) == len(self._prefixes):
                yield _stray(Astray.BROKEN, nest, nest.overflow, 0, broken)
            for output in outputs:
                if not output.uri.startswith("s3://"):
                    self.tally.elsewhere += 1
                    continue
                home = next((prefix for prefix in self._prefixes if output.uri.startswith(prefix)), None)
                if home is None or home in unseen:
                    self.tally.named += 1
                    batch.append((nest, output))
            if len(batch) >= _THREADS * 8:
                yield from self._looked_at(batch, pool)
                batch = []
        yield from self._looked_at(batch, pool)

    def _looked_at(self, wanted: list[tuple[Nest, Output]], pool: ThreadPoolExecutor) -> Iterator[Stray]:
        """What HEAD says of each: a listing may be older than the rows."""
        sizes = pool.map(self._size, [output.uri for _, output in wanted])
        for (nest, output), size in zip(wanted, sizes, strict=True):
            if size is None and self._is_cleaned and self._is_cleaned(nest.item_id, nest.index, nest.fence, output.uri):
                yield _stray(Astray.CLEANED, nest, output.uri, output.bytes, "it went after it had been gathered")
            elif size is None:
                yield _stray(Astray.MISSING, nest, output.uri, output.bytes, "it is not there")
            elif size != output.bytes:
                yield _stray(Astray.DIFFERS, nest, output.uri, size, f"recorded are {output.bytes} bytes")

    def _size(self, uri: str) -> int | None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        client: Any = self._clients.client("s3")
        with explained("s3", f"looking at {uri}"):
            try:
                return int(client.head_object(Bucket=bucket, Key=key)["ContentLength"])
            except Exception as error:
                if is_aws_error(error) and code_of(error) in {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}:
                    return None
                raise


def _stray(kind: Astray, nest: Nest, uri: str, size: int, wrong: str) -> Stray:
    return Stray(kind, uri, size, nest.item_id, nest.index, nest.fence, wrong)
