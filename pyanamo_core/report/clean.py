"""Delete what claims left behind below `<results>/<table>/work/`: never what a row names, never what a live claim writes.

An object's key says which claim wrote it: `work/<item>/<nest>/<fence>/…`. It may go if, by a strong read of its item
right before the deletion, that claim is over (a later fence stands, or nobody holds the item) and no row of the item's
present epoch names it, nor a done nest of another item. What lies beside a recorded result stays, too: scripts that
declare no outputs put theirs there. Of an item that the table does not hold nothing goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import groupby, islice
from typing import Any, Final, TypeVar

from pyanamo_core.aws import Clients, explained
from pyanamo_core.errors import OverflowBroken, RowUnreadable, Surroundings
from pyanamo_core.ledger.fsck_walk import Fsck
from pyanamo_core.model import Item, Nest, NestStatus, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.report.objects import Found, claim_of, listed
from pyanamo_core.report.results import Fetch, s3_fetch, unfolded

DELETED_AT_ONCE: Final = 1000
"""DeleteObjects takes no more."""

GB: Final = 2**30
"""S3's price is per GB of 2**30 bytes and month."""


class Leftover(StrEnum):
    """What may go."""

    ORPHAN = "orphan"
    """Written by a claim that is over; no row names it."""
    OLD = "of an older epoch"
    """Named by a row of before a reset or an edit only; or written by an earlier claim of a nest that is to do again."""
    UPLOAD = "unfinished upload"
    """A multipart upload of a claim that is over: it is billed, and no listing shows it."""
    SEGMENT = "segment"
    """What a gather puts aside so that its next attempt goes on, and that no attempt has needed since."""


class Kept(StrEnum):
    """What stays although it is no recorded result, and why."""

    AT_WORK = "of a claim at work"
    UNNAMED = "beside a recorded result"
    YOUNG = "too young"
    NEWER = "newer than its item's row"
    """Its fence is not yet any claim's of this item: of an earlier table of this name, or written this moment."""
    UNSURE = "of rows that cannot be read"
    OLD = "of an older epoch"
    REDONE = "of a nest that is to do again"
    """By a redo: what its earlier claims wrote may be its only result yet."""
    STRANGE = "of no item of this table"
    """Of an earlier table of this name, perhaps: its results are recorded nowhere any more, and may still be wanted."""
    FOREIGN = "named by another item"
    READ = "perhaps read by a gather at work"
    """It may have been a result when that gather was planned."""


class DeleteRefused(Surroundings):
    """{uri} was not deleted: S3 says {code} ({reason}). {done} objects were deleted before it; the same command again goes on. Deleting needs s3:DeleteObject and s3:AbortMultipartUpload below the results' prefix."""


@dataclass
class Sum:
    """Objects and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size

    def dollars(self, price: float) -> float:
        """What keeping them costs a month, at so many a GB and month."""
        return self.bytes / GB * price


@dataclass
class CleanTally:
    """What was seen; `found` is what may go (or went), `kept` what stays."""

    seen: Sum = field(default_factory=Sum)
    found: dict[str, Sum] = field(default_factory=dict[str, Sum])
    kept: Counter[str] = field(default_factory=Counter[str])
    deleted: int = 0

    def add(self, kind: str, size: int) -> None:
        self.found.setdefault(kind, Sum()).add(size)


@dataclass(frozen=True)
class _Rows:
    """What the rows of one item say about objects."""

    item: Item | None
    named: frozenset[str]
    """Addresses that rows of the present epoch name."""
    old: frozenset[str]
    results: frozenset[tuple[int, int]]
    """(nest, fence) of done nests of the present epoch."""
    old_results: frozenset[tuple[int, int]]
    unsure: frozenset[tuple[int, int]]
    """(nest, fence) of which nobody knows what they name."""
    redone: Mapping[int, int]
    """Nest that is to do again → the fence of that redo: what has an older one was written before it."""
    standing: Mapping[int, int]
    """Nest → fence of its row of the present epoch."""


class WorkCleaner:
    """Finds, and deletes, what is left over below work prefixes. Memory is bounded by the objects of one item.

    Args:
        clients: where boto3's clients come from.
        fsck: reads rows.
        prefixes: s3://…/ of objects.work_prefixes.
        kinds: what shall go.
        older_than: seconds since 1970 by S3's clock; what was written later stays.
        delete: False only counts.
        read_on: what was a result until a redo, a reset or an edit stays: somebody may read it by a plan of before.
    """

    def __init__(
        self,
        clients: Clients,
        fsck: Fsck,
        prefixes: Sequence[str],
        *,
        kinds: frozenset[Leftover],
        older_than: float,
        delete: bool,
        read_on: bool = False,
    ) -> None:
        self.tally = CleanTally()
        self._clients, self._fsck, self._prefixes = clients, fsck, prefixes
        self._kinds, self._older_than, self._delete, self._read_on = kinds, older_than, delete, read_on
        self._fetch: Fetch = s3_fetch(clients)

    def walk(self) -> Iterator[CleanTally]:
        """Goes on item by item; the tally after each.

        Raises:
            DeleteRefused: S3 would not; what was deleted is gone, and the same again goes on.
            BucketMissing, AccessDenied and the like, as AWS tells them.
        """
        for prefix in self._prefixes:
            for item_id, found in groupby(listed(self._clients, prefix), key=lambda each: each[0]):
                objects: list[Found] = []
                for _, one, size in found:
                    self.tally.seen.add(size)
                    if one is not None:
                        objects.append(one)
                self._of_item(item_id, objects)
                yield self.tally
            if Leftover.UPLOAD in self._kinds:
                yield from self._uploads(prefix)

    # ------------------------------------------------------------------------------------------------------- objects

    def _of_item(self, item_id: str, objects: list[Found]) -> None:
        for chunk in chunks(objects):
            # Read anew for each deletion: an item may be claimed, redone or finished while many objects are deleted.
            rows = self._rows(item_id)
            doomed = [(one, kind) for one in chunk if (kind := self._judge(one, rows)) is not None]
            if self._delete and doomed:
                self._remove([one.key for one, _ in doomed])
            for one, kind in doomed:
                self.tally.add(kind.value, one.bytes)

    def _judge(self, one: Found, rows: _Rows | None) -> Leftover | None:
        """May it go, and as what? What stays is counted, unless it is a result."""
        if rows is not None and one.key in rows.named:
            return None
        kept = self._why_kept(one, rows)
        place = (one.nest, one.fence)
        if kept is None and rows is not None:
            redone = one.fence < rows.redone.get(one.nest, 0)
            old = redone or one.key in rows.old or place in rows.old_results
            kind = Leftover.OLD if old else Leftover.ORPHAN
            if self._read_on and (old or one.fence < rows.standing.get(one.nest, 0)):
                kept = Kept.READ
            elif kind not in self._kinds:
                kept = Kept.REDONE if redone else Kept.OLD
            elif one.key in self._foreign:
                kept = Kept.FOREIGN
            else:
                return kind
        self.tally.kept[str(kept)] += 1
        return None

    @cached_property
    def _foreign(self) -> frozenset[str]:
        """Addresses below other items' prefixes that done nests name: a pass over the whole table, once, and only
        where something would go."""
        found: set[str] = set()
        for nest in self._fsck.done_nests():
            for uri in self._names(nest)[0]:
                prefix = next((one for one in self._prefixes if uri.startswith(one)), None)
                place = claim_of(uri.removeprefix(prefix)) if prefix else None
                if place is not None and place[0] != nest.item_id:
                    found.add(uri)
        return frozenset(found)

    def _why_kept(self, one: Found, rows: _Rows | None) -> Kept | None:
        if rows is None or (one.nest, one.fence) in rows.unsure:
            return Kept.UNSURE
        if rows.item is None:
            return Kept.STRANGE
        if (one.nest, one.fence) in rows.results:
            return Kept.UNNAMED
        if one.fence > rows.item.fence:
            return Kept.NEWER
        if rows.item.state is State.LOCKED and one.fence == rows.item.fence:
            return Kept.AT_WORK
        return Kept.YOUNG if one.modified > self._older_than else None

    def _rows(self, item_id: str) -> _Rows | None:
        """What rows name, by strong reads; None where one cannot be read."""
        try:
            item, nests = self._fsck.recorded(item_id)
        except RowUnreadable:
            return None
        named: set[str] = set()
        old: set[str] = set()
        results: set[tuple[int, int]] = set()
        old_results: set[tuple[int, int]] = set()
        unsure: set[tuple[int, int]] = set()
        redone: dict[int, int] = {}
        standing: dict[int, int] = {}
        for nest in nests:
            present = item is None or nest.epoch == item.epoch
            place = (nest.index, nest.fence)
            if present:
                standing[nest.index] = nest.fence
                if nest.status is NestStatus.RESET:
                    redone[nest.index] = nest.fence
            if nest.status is NestStatus.DONE:
                (results if present else old_results).add(place)
            uris, whole = self._names(nest)
            (named if present else old).update(uris)
            if not whole:
                unsure.add(place)
        return _Rows(
            item,
            frozenset(named),
            frozenset(old),
            frozenset(results),
            frozenset(old_results),
            frozenset(unsure),
            redone,
            standing,
        )

    def _names(self, nest: Nest) -> tuple[list[str], bool]:
        """Everything that a row names, and whether all of it is known."""
        uris = [one for one in (nest.overflow, nest.log.uri if nest.log else "") if one]
        try:
            outputs = unfolded(nest, self._fetch).outputs if nest.overflow else nest.outputs
        except OverflowBroken:
            return uris, False
        return [*uris, *(output.uri for output in outputs)], True

    def _remove(self, uris: Sequence[str]) -> None:
        self.tally.deleted += delete_objects(self._clients, uris, self.tally.deleted)

    # ------------------------------------------------------------------------------------------------------ segments

    def parts(self, prefixes: Sequence[str], ledger: Ledger) -> None:
        """Segments beside the plans of a gather table, of gathers whose plan was given up: attempts of one plan share
        them, so they go only while nobody holds an item of the table, and no run is live."""
        for prefix in prefixes:
            bucket, _, start = prefix.removeprefix("s3://").partition("/")
            with explained("s3", f"listing {prefix}"):
                pages = (
                    self._clients.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start)
                )
                found = [one for page in pages for one in page.get("Contents", ())]
            if not found:
                continue
            if ledger.live_runs() or ledger.count(State.LOCKED, bound=1):
                self.tally.kept[str(Kept.AT_WORK)] += len(found)
                continue
            doomed = [one for one in found if one["LastModified"].timestamp() <= self._older_than]
            self.tally.kept[str(Kept.YOUNG)] += len(found) - len(doomed)
            if self._delete:
                self._remove([f"s3://{bucket}/{one['Key']}" for one in doomed])
            for one in doomed:
                self.tally.add(Leftover.SEGMENT.value, one["Size"])

    # ------------------------------------------------------------------------------------------------------- uploads

    def _uploads(self, prefix: str) -> Iterator[CleanTally]:
        """Multipart uploads that nobody will finish."""
        bucket, _, start = prefix.removeprefix("s3://").partition("/")
        client: Any = self._clients.client("s3")
        with explained("s3", f"listing uploads below {prefix}"):
            pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=start)
            for page in pages:
                for upload in page.get("Uploads", ()):
                    self._upload(client, bucket, start, upload)
                    yield self.tally

    def _upload(self, client: Any, bucket: str, start: str, upload: Any) -> None:
        place = claim_of(upload["Key"].removeprefix(start))
        if place is None:
            return
        item_id, nest, fence = place
        began = upload["Initiated"].timestamp()
        rows = self._rows(item_id)
        # A claim that is over finishes nothing; what its result names has been finished.
        kept = self._why_kept(Found(upload["Key"], 0, nest, fence, began), rows)
        if kept in {Kept.AT_WORK, Kept.NEWER, Kept.YOUNG, Kept.UNSURE, Kept.STRANGE}:
            self.tally.kept[str(kept)] += 1
            return
        parts = client.get_paginator("list_parts").paginate(
            Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
        )
        size = sum(part["Size"] for page in parts for part in page.get("Parts", ()))
        if self._delete:
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
            self.tally.deleted += 1
        self.tally.add(Leftover.UPLOAD.value, size)


_T = TypeVar("_T")


def chunks(many: Iterable[_T]) -> Iterator[list[_T]]:
    """As many as one DeleteObjects takes, until all were given."""
    rest = iter(many)
    while chunk := list(islice(rest, DELETED_AT_ONCE)):
        yield chunk


def delete_objects(clients: Clients, uris: Iterable[str], done: int = 0) -> int:
    """Delete objects of one bucket, a thousand at a time; how many were.

    Args:
        done: deleted before, for the message.

    Raises:
        DeleteRefused: S3 refused one of them.
    """
    count = 0
    for chunk in chunks(uris):
        bucket = chunk[0].removeprefix("s3://").partition("/")[0]
        keys = [{"Key": uri.removeprefix(f"s3://{bucket}/")} for uri in chunk]
        with explained("s3", f"deleting {chunk[0]} and others"):
            answer = clients.client("s3").delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
        errors: list[dict[str, Any]] = answer.get("Errors") or []
        count += len(chunk) - len(errors)
        if errors:
            first = errors[0]
            raise DeleteRefused(
                uri=f"s3://{bucket}/{first.get('Key', '')}",
                code=first.get("Code", "?"),
                reason=first.get("Message", ""),
                done=done + count,
            )
    return count
