"""Delete the gVCFs of loci that have been gathered, and remember that, so that nobody takes it for a loss.

They may go where one gathered gVCF was made of exactly the nests that the ledger holds now, each by its attempt, and lies
there with the size and SHA-256 of its manifest. Manifests and QC records of the nests stay: they are small, and the
reports read them. What was deleted is written down first (`<results>/<table>/results/cleaned/<item>.json`), so that
a deletion that is interrupted can be finished, and `results verify` and `fsck --outputs` know what is meant to be gone.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from pyanamo_core.aws import Clients, code_of, explained, is_aws_error
from pyanamo_core.errors import ItemMissing, PyAnamoError
from pyanamo_core.model import Item, Nest, NestStatus, Output, State, encoded
from pyanamo_core.protocols import Ledger
from pyanamo_core.report.clean import Sum, chunks, delete_objects
from pyanamo_core.report.results import s3_fetch, unfolded

GVCF_ENDINGS: Final = (".g.vcf.gz", ".g.vcf.gz.tbi")
"""What goes; the manifests and QC records beside them stay."""
_CHUNK: Final = 2**20
_READERS: Final = 16
_ABSENT: Final = frozenset({"404", "NoSuchKey", "NotFound"})


@dataclass(frozen=True)
class Evidence:
    """One gathered gVCF by its manifest: of which nests it was made, and what files it is."""

    uri: str
    sample: str
    nests: Mapping[str, Mapping[int, int]]
    """Item → number of the nest → attempt."""
    files: tuple[Output, ...]
    missing: tuple[str, ...]


@dataclass
class LociTally:
    """What was found (or deleted)."""

    found: Sum = field(default_factory=Sum)
    items: int = 0
    nests: int = 0
    seconds: float = 0.0
    """How long calling these nests took: that is what gathering them anew would cost."""
    stays: dict[str, str] = field(default_factory=dict[str, str])
    """Items whose loci stay, and why."""
    deleted: int = 0


def marker_of(results: str, table: str, item_id: str) -> str:
    """Where it is written that an item's loci were deleted after they had been gathered."""
    return f"{results}/{table}/results/cleaned/{encoded(item_id)}.json"


def read_evidence(uri: str, body: bytes) -> Evidence | None:
    """The manifest of a gathered gVCF; None for any other JSON."""
    try:
        told: dict[str, Any] = json.loads(body)
        if told.get("kind") != "gathered":
            return None
        nests: dict[str, dict[int, int]] = {}
        for one in told["nests"]:
            nests.setdefault(str(one["item"]), {})[int(one["nest"])] = int(one["attempt"])
        files = tuple(Output(uri=one["uri"], bytes=one["bytes"], sha256=one["sha256"]) for one in told["files"])
        return Evidence(uri, str(told["sample"]), nests, files, tuple(told.get("missing", ())))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


class LociCleaner:
    """Finds, and deletes, the gVCFs of loci that have been gathered.

    Args:
        clients: where boto3's clients come from.
        ledger: of the table whose nests were gathered.
        results: the workflow's `buckets.results`.
        delete: False only counts.
        now: seconds since 1970, for the note.
        whole: read every byte of what was gathered.
    """

    def __init__(
        self, clients: Clients, ledger: Ledger, results: str, *, delete: bool, now: float, whole: bool = False
    ) -> None:
        self.tally = LociTally()
        self._clients, self._ledger, self._results = clients, ledger, results
        self._delete, self._now, self._whole = delete, now, whole
        self._fetch = s3_fetch(clients)
        self._settled: set[str] = set()

    def walk(self, manifests: Iterable[str]) -> Iterator[LociTally]:
        """Goes through the manifests of gathered gVCFs; the tally after each.

        Raises:
            DeleteRefused: S3 would not; the same again goes on.
        """
        todo = iter(manifests)
        with ThreadPoolExecutor(_READERS, thread_name_prefix="evidence") as pool:
            while batch := list(islice(todo, 2 * _READERS)):
                for evidence in pool.map(self._evidence, batch):
                    for item_id in evidence.nests if evidence else ():
                        assert evidence is not None  # noqa: S101 - for the type checker
                        self._of_item(item_id, evidence, pool)
                    yield self.tally

    def _evidence(self, uri: str) -> Evidence | None:
        return read_evidence(uri, self._fetch(uri))

    def _of_item(self, item_id: str, evidence: Evidence, pool: ThreadPoolExecutor) -> None:
        if item_id in self._settled:  # by another gathered gVCF of the same nests
            return
        try:
            nests = self._nests(item_id, evidence)
            outputs = [one for nest in nests for one in self._gvcfs(nest)]
            there = [one for one in zip(outputs, pool.map(self._size, outputs), strict=True) if one[1] is not None]
            if not there:
                self._settled.add(item_id)
                return
            self._verify(evidence)
            if self._delete:
                # Looked at again at the last moment: what was redone or extended meanwhile needs its neighbours.
                again = self._nests(item_id, evidence)
                self._note(item_id, evidence, again)
                uris = [output.uri for output, _ in there]
                for chunk in chunks(uris):
                    self.tally.deleted += delete_objects(self._clients, chunk, self.tally.deleted)
        except _Stays as stays:
            self.tally.stays.setdefault(item_id, str(stays))
            return
        self._settled.add(item_id)
        self.tally.stays.pop(item_id, None)
        for _, size in there:
            self.tally.found.add(size or 0)
        self.tally.items += 1
        self.tally.nests += len(nests)
        self.tally.seconds += sum(max(0.0, nest.ended - nest.started) for nest in nests)

    def _nests(self, item_id: str, evidence: Evidence) -> list[Nest]:
        """The item's done nests, if the gathered gVCF was made of exactly these. Raises _Stays."""
        try:
            item: Item = self._ledger.item(item_id)
        except ItemMissing:
            raise _Stays(f"{evidence.uri} names it, and the table does not hold it") from None
        if item.state is not State.DONE:
            raise _Stays(f"it is {item.state}")
        if evidence.missing:
            raise _Stays(f"what was gathered is partial: it lacks {evidence.missing[0]}")
        done = {n: nest for n, nest in self._ledger.nests(item).items() if nest.status is NestStatus.DONE}
        used = evidence.nests[item_id]
        if len(done) != item.nests or set(done) != set(used):
            raise _Stays(f"{len(used)} nests were gathered, it has {item.nests} with {len(done)} done: gather it again")
        other = next((n for n, nest in sorted(done.items()) if nest.fence != used[n]), None)
        if other is not None:
            raise _Stays(f"nest {other} was done again since it was gathered: gather it again")
        return [nest for _, nest in sorted(done.items())]

    def _gvcfs(self, nest: Nest) -> list[Output]:
        whole = unfolded(nest, self._fetch) if nest.overflow else nest
        place = f"/{nest.index:05d}/{nest.fence}/"
        # Only what lies where this claim wrote: a script that names other people's files among its outputs loses none.
        return [
            one
            for one in whole.outputs
            if one.uri.endswith(GVCF_ENDINGS)
            and one.uri.startswith("s3://")
            and "/work/" in one.uri
            and place in one.uri
        ]

    def _verify(self, evidence: Evidence) -> None:
        """Is each file of the gathered gVCF there, as big as its manifest says, with the same SHA-256? Raises _Stays."""
        if not any(one.uri.endswith(".g.vcf.gz") for one in evidence.files):
            raise _Stays(f"{evidence.uri} names no gVCF")
        for one in evidence.files:
            wrong = differs(self._clients, one, evidence.uri, whole=self._whole)
            if wrong:
                raise _Stays(f"the gathered {one.uri} {wrong}: gather it again before its loci go")

    def _size(self, output: Output) -> int | None:
        head = _head(self._clients, output.uri)
        return None if head is None else int(head["ContentLength"])

    def _note(self, item_id: str, evidence: Evidence, nests: Iterable[Nest]) -> None:
        """Written before anything goes."""
        bucket, _, key = marker_of(self._results, self._ledger.table, item_id).removeprefix("s3://").partition("/")
        told = {
            "schema": 1,
            "item": item_id,
            "gathered": evidence.uri,
            "endings": list(GVCF_ENDINGS),
            "nests": {str(nest.index): nest.fence for nest in nests},
            "at": round(self._now, 3),
        }
        body = (json.dumps(told, indent=1, sort_keys=True) + "\n").encode()
        with explained("s3", f"writing s3://{bucket}/{key}"):
            self._clients.client("s3").put_object(
                Bucket=bucket, Key=key, Body=body, ContentType="application/json", ChecksumAlgorithm="SHA256"
            )


class _Stays(Exception):
    """This item's loci stay."""


def differs(clients: Clients, output: Output, manifest: str, *, whole: bool = False) -> str:
    """What is wrong with an object that a manifest names, in words; empty: it is as recorded.

    The SHA-256 that S3 stores is believed. Of what was put in parts S3 has none of the whole: gather has read it back before
    it put the manifest, so it is as recorded unless it was written again since. Without any it is read.

    Args:
        manifest: its address.
        whole: read every byte.
    """
    head = _head(clients, output.uri, ChecksumMode="ENABLED")
    if head is None:
        return "does not exist"
    if int(head["ContentLength"]) != output.bytes:
        return f"has {head['ContentLength']} bytes, not {output.bytes}"
    kept = str(head.get("ChecksumSHA256") or "")
    if "-" in str(head.get("ETag", "")):
        put = _head(clients, manifest)
        if put is None or head["LastModified"] > put["LastModified"]:
            return "was written again after its manifest"
        if not whole:
            return ""
    elif kept and not whole:
        return "" if base64.b64decode(kept).hex() == output.sha256 else "has another SHA-256"
    bucket, _, key = output.uri.removeprefix("s3://").partition("/")
    digest = hashlib.sha256()
    with explained("s3", f"reading {output.uri}"):
        for chunk in clients.client("s3").get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(_CHUNK):
            digest.update(chunk)
    return "" if digest.hexdigest() == output.sha256 else "has another SHA-256"


def _head(clients: Clients, uri: str, **more: str) -> dict[str, Any] | None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with explained("s3", f"looking at {uri}"):
        try:
            return clients.client("s3").head_object(Bucket=bucket, Key=key, **more)
        except Exception as error:
            if is_aws_error(error) and code_of(error) in _ABSENT:
                return None
            raise


# ---------------------------------------------------------------------------------------------------- what is meant to be gone


def cleaned(clients: Clients, results: Iterable[str], table: str) -> Callable[[str, int, int, str], bool]:
    """A function that knows whether an output (item, nest, attempt, address) was deleted after it had been gathered.

    The note of an item is read when it is first asked for; those of the last item asked for are kept.
    """
    places = list(dict.fromkeys(results))
    last: dict[str, list[dict[str, Any]]] = {}

    def notes(item_id: str) -> list[dict[str, Any]]:
        if item_id not in last:
            fetch = s3_fetch(clients)
            found: list[dict[str, Any]] = []
            for place in places:
                try:
                    found.append(json.loads(fetch(marker_of(place, table, item_id))))
                except (PyAnamoError, ValueError):
                    continue
            last.clear()
            last[item_id] = found
        return last[item_id]

    def is_cleaned(item_id: str, nest: int, attempt: int, uri: str) -> bool:
        return any(
            one.get("nests", {}).get(str(nest)) == attempt and uri.endswith(tuple(one.get("endings", ())))
            for one in notes(item_id)
        )

    return is_cleaned
