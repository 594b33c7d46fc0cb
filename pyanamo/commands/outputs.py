"""`pyanamo results manifest, links, verify`: the objects that the ledger calls results, for other programs and for doubters."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.commands.results import SUFFIXES, FormatUnknown, chunks, opened, read_results
from pyanamo.context import Context, command
from pyanamo.progress import Bar
from pyanamo.render import Told, size
from pyanamo_core.errors import BadInput, NotFound, Surroundings
from pyanamo_core.model import NestStatus, Output, State

if TYPE_CHECKING:
    from pyanamo_core.report import Result

COLUMNS = ("sample", "item", "nest", "locus", "attempt", "uri", "bytes", "sha256")
"""Columns of a manifest: one line for each output of each done nest."""

READERS = 16
"""Objects that are checked at a time."""
SHOWN = 50
ABSENT = "does not exist"
LINK_HOURS_MAX = 168.0
"""S3 signs for seven days at most."""

ITEMS = Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="Only these items.")]
STATE = Annotated[State | None, typer.Option("--state", help="Only items in this state.")]
SUFFIX = Annotated[str, typer.Option("--suffix", help="Only outputs whose name ends so, e.g. .g.vcf.gz")]


class NotAllThere(Surroundings):
    """{count} of {total} outputs are not what was recorded:
    {problems}
    Do their nests again with: pyanamo items redo ITEM NEST"""


class NoOutputs(NotFound):
    """No outputs{of} are recorded in table {table}. See what there is with: pyanamo results list"""


class NotInABucket(BadInput):
    """{uri} lies on a machine, not in a bucket: there is no link to it. Leave such outputs out with --suffix."""


@dataclass(frozen=True)
class Line:
    """One output of a done nest. `sample` is what the script told (figure `sample`), else the item."""

    sample: str
    item: str
    nest: int
    locus: str
    attempt: int
    uri: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Link:
    """An address that anybody may read for a while."""

    item: str
    nest: int
    name: str
    link: str


@command(
    example=(
        "pyanamo results manifest manifest.tsv",
        "pyanamo results manifest - --suffix .g.vcf.gz",
        "pyanamo results manifest cohort.sample_map --sample-map",
    )
)
def manifest(
    context: Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Ends in .tsv or .csv; - is standard output.")],
    items: ITEMS = None,
    state: STATE = None,
    suffix: SUFFIX = "",
    sample_map: Annotated[
        bool, typer.Option("--sample-map", help="Samples and their gathered gVCFs, as GATK's --sample-name-map.")
    ] = False,
) -> Told:
    """Write which object is whose: sample, item, nest, locus, attempt, address, bytes, SHA-256."""
    if sample_map:
        return _sample_map(context, file, items or ())
    form = SUFFIXES.get(Path(file).suffix.lower(), "tsv" if file == "-" else "")
    if form not in {"tsv", "csv"}:
        raise FormatUnknown(name=file)
    count = total = 0
    with opened(file) as stream:
        writer = csv.writer(stream, delimiter="\t" if form == "tsv" else ",", lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in lines(read_results(context, items, state), suffix):
            writer.writerow(asdict(line).values())
            count, total = count + 1, total + line.bytes
    if file == "-":
        return Told()
    return Told({"file": file, "outputs": count, "bytes": total}, quiet=[file], next="pyanamo results verify")


def _sample_map(context: Context, file: str, samples: Iterable[str]) -> Told:
    from pyanamo.cohort import gathered_here, results_place

    where = results_place(context.workflow, context.table_name, "gvcf")
    found = gathered_here(context.ledger, context.clients, where, tuple(samples))
    with opened(file) as stream:
        _write_map(stream, found)
    told = {"file": file, "samples": len(found)}
    return Told() if file == "-" else Told(told, quiet=[file])


def _write_map(stream: IO[str], gvcfs: Iterable[str]) -> None:
    for uri in gvcfs:
        stream.write(f"{uri.rpartition('/')[2].removesuffix('.g.vcf.gz')}\t{uri}\n")


@command(
    example=(
        "pyanamo results links NA12878 --suffix .g.vcf.gz --hours 12",
        "pyanamo results links --suffix .g.vcf.gz --out links.tsv",
    )
)
def links(
    context: Context,
    items: ITEMS = None,
    suffix: SUFFIX = "",
    hours: Annotated[float, typer.Option("--hours", min=0.01, max=LINK_HOURS_MAX, help="How long they work.")] = 24.0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write them to a file that only you may read.")
    ] = None,
) -> Told:
    """Make links to outputs that work without an account, for a while. Whoever has one can read that object."""
    s3 = context.clients.client("s3")
    made: list[Link] = []
    for line in lines(read_results(context, items, None), suffix):
        if not line.uri.startswith("s3://"):
            raise NotInABucket(uri=line.uri)
        bucket, _, key = line.uri.removeprefix("s3://").partition("/")
        address = s3.generate_presigned_url(
            "get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=max(1, round(hours * 3600))
        )
        made.append(Link(line.item, line.nest, key.rpartition("/")[2], address))
    if not made:
        raise _none(context, items, suffix)
    context.say(f"These links work for {hours:g} h, or until the credentials that signed them end, if that is sooner.")
    if out is None:
        return Told(made, view=lambda found: "\n".join(one.link for one in found), quiet=[one.link for one in made])
    part = out.with_name(f".{out.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.writelines(f"{one.item}\t{one.nest}\t{one.name}\t{one.link}\n" for one in made)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return Told({"file": out, "links": len(made)}, quiet=[str(out)])


@command(example=("pyanamo results verify", "pyanamo results verify NA12878 --whole", "pyanamo results verify --json"))
def verify(
    context: Context,
    items: ITEMS = None,
    state: STATE = None,
    suffix: SUFFIX = "",
    whole: Annotated[
        bool, typer.Option("--whole", help="Read every byte, instead of believing the SHA-256 that S3 stores.")
    ] = False,
) -> Told:
    """Compare every output with what was recorded of it: is it there, as big, with the same SHA-256?"""
    from pyanamo.cohort import cohort_words
    from pyanamo_core.report.clean_loci import cleaned

    checked: Counter[str] = Counter()
    problems: list[str] = []
    check = _read_whole(context) if whole else _look(context)
    meant = cleaned(
        context.clients, (one.buckets.results for _, one in context.ledger.workflow_versions()), context.table_name
    )
    with Bar(context, "verify", unit="outputs") as bar:
        for line, problem in _checked(lines(read_results(context, items, state), suffix), check):
            checked["outputs"] += 1
            checked["gvcfs"] += line.uri.endswith(".g.vcf.gz")
            checked["bytes"] += line.bytes
            checked["without a checksum"] += not line.sha256
            if problem.endswith(ABSENT) and meant(line.item, line.nest, line.attempt, line.uri):
                checked["gone after they had been gathered"] += 1
            elif problem:
                problems.append(f"  item {line.item}, nest {line.nest}: {problem}")
            bar.update(checked["outputs"], checked["outputs"])
    if not checked["outputs"]:
        raise _none(context, items, suffix)
    if problems:
        more = [f"  … and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        told = "\n".join([*problems[:SHOWN], *more])
        raise NotAllThere(count=len(problems), total=checked["outputs"], problems=told)
    return Told(
        {
            "outputs": checked["outputs"],
            "bytes": checked["bytes"],
            "without_checksum": checked["without a checksum"],
            "gathered_and_gone": checked["gone after they had been gathered"],
            "read_whole": whole,
        },
        view=_verified,
        quiet=[str(checked["outputs"])],
        next=cohort_words(context.ledger, context.table_name, "status")
        or ("pyanamo gather" if checked["gvcfs"] else "pyanamo results manifest manifest.tsv"),
    )


def _none(context: Context, items: list[str] | None, suffix: str) -> NoOutputs:
    named = f" of {', '.join(items)}" if items else ""
    return NoOutputs(of=named + (f" that end in {suffix}" if suffix else ""), table=context.table_name)


def _verified(told: dict[str, Any]) -> str:
    unsure = told["without_checksum"]
    beside = f" ({unsure:,} without a recorded checksum: existence and size only)" if unsure else ""
    how = "every byte read" if told["read_whole"] else "size and checksum"
    gone = told["gathered_and_gone"]
    beside += f"; {gone:,} are gone since they have been gathered (clean --loci-after-gather)" if gone else ""
    return f"{told['outputs']:,} outputs, {size(told['bytes'])}: all as recorded, by {how}{beside}"


def lines(rows: Iterable[Result], suffix: str = "") -> Iterator[Line]:
    """The outputs of done nests, in the rows' order."""
    for row in rows:
        if row.status != NestStatus.DONE:
            continue
        sample = str(row.figures.get("sample") or row.item_id)
        for output in row.outputs:
            if output.uri.endswith(suffix):
                yield Line(
                    sample,
                    row.item_id,
                    row.nest,
                    row.value,
                    row.fence or 0,
                    output.uri,
                    output.bytes,
                    output.sha256,
                )


def _checked(found: Iterable[Line], check: Callable[[Line], str]) -> Iterator[tuple[Line, str]]:
    """Each line with what is wrong with it; so many at a time, in order, and never more than that in memory."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="verify") as pool:
        open_ones: deque[tuple[Line, Future[str]]] = deque()
        for line in found:
            open_ones.append((line, pool.submit(check, line)))
            if len(open_ones) >= 4 * READERS:
                first, future = open_ones.popleft()
                yield first, future.result()
        for line, future in open_ones:
            yield line, future.result()


def _look(context: Context) -> Callable[[Line], str]:
    from pyanamo_core.aws import explained
    from pyanamo_core.pilot.outputs import Unverified, check_output

    def check(line: Line) -> str:
        output = Output(uri=line.uri, bytes=line.bytes, sha256=line.sha256)
        try:
            with explained("s3", f"looking at {line.uri}"):
                check_output(output, lambda: context.clients.client("s3"))
        except Unverified as error:
            return str(error)
        return ""

    return check


def _read_whole(context: Context) -> Callable[[Line], str]:
    def check(line: Line) -> str:
        digest, length = hashlib.sha256(), 0
        try:
            for chunk in chunks(context, line.uri):
                digest.update(chunk)
                length += len(chunk)
        except (NotFound, FileNotFoundError):
            return f"{line.uri} {ABSENT}"
        if length != line.bytes:
            return f"{line.uri} has {length} bytes, not {line.bytes}"
        if line.sha256 and digest.hexdigest() != line.sha256:
            return f"{line.uri} has SHA-256 {digest.hexdigest()[:12]}…, not {line.sha256[:12]}…"
        return ""

    return check
