"""`pyanamo results …`: what the nests made, as a table, as files, and as exports for other programs."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from pyanamo.addressing import find_nests
from pyanamo.context import Context, command
from pyanamo.render import Told, span, table
from pyanamo_core.errors import BadInput, NotFound, Surroundings
from pyanamo_core.model import Item, NestStatus, State, encoded

if TYPE_CHECKING:
    from pyanamo_core.model import Output
    from pyanamo_core.report import Result

FIGURES = ("variants", "snv", "indel", "titv", "tstv", "mean_depth", "callable_fraction")
SHORT = {"mean_depth": "depth", "callable_fraction": "callable"}
SUFFIXES = {
    ".tsv": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".json": "json",
    ".html": "html",
    ".htm": "html",
    ".parquet": "parquet",
}
CHUNK_BYTES = 2**20


class FormatUnknown(BadInput):
    """The name {name} does not say which format is meant. End it in .tsv, .csv, .json, .html or .parquet, or give --format."""


class NothingRecorded(NotFound):
    """Item {item_id}{nest} has no outputs recorded. See what it has with: pyanamo items show {item_id}"""


class OutputDiffers(Surroundings):
    """{uri} is not what was recorded: {what}. Nothing was kept of it. Do the nest again with: pyanamo items redo {item_id} number={nest}"""


@dataclass(frozen=True)
class Fetched:
    """An output on this machine."""

    item_id: str
    nest: int
    uri: str
    path: Path
    bytes: int


@command(example=("pyanamo results list", "pyanamo results list DEMO0001 --status failed --json"))
def list_results(
    context: Context,
    items: Annotated[list[str] | None, typer.Argument(metavar="[ITEM]...", help="Only these items.")] = None,
    state: Annotated[State | None, typer.Option("--state", help="Only items in this state.")] = None,
    status: Annotated[NestStatus | None, typer.Option("--status", help="Only nests with this status.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Nests to show at most.")] = 1000,
) -> Told:
    """List nests with their results: time, figures, outputs."""
    from itertools import islice

    from pyanamo_core.report.export import record

    rows = (one for one in read_results(context, items, state) if status is None or one.status == status)
    shown = list(islice(rows, limit + 1))
    more, shown = len(shown) > limit, shown[:limit]
    if not items:
        shown.sort(key=lambda one: (one.item_id, one.nest))
    return Told(
        [record(one) for one in shown],
        view=lambda _: _view(shown, more, limit),
        quiet=[one.uri for row in shown for one in row.outputs],
        next="pyanamo results export results.tsv",
    )


@command(
    example=(
        "pyanamo results get DEMO0001 --out results/",
        "pyanamo results get DEMO0001 demo1:1-40000 --suffix .g.vcf.gz",
    )
)
def get(
    context: Context,
    item: Annotated[str, typer.Argument(metavar="ITEM")],
    nests: Annotated[
        list[str] | None, typer.Argument(metavar="[NEST]...", help="By value or number; default: all.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder; made if missing.")] = Path("results"),
    suffix: Annotated[str, typer.Option("--suffix", help="Only outputs whose name ends so.")] = "",
) -> Told:
    """Fetch an item's outputs, checked against what was recorded."""
    from pyanamo_core.report.results import results, s3_fetch

    row = context.ledger.item(item)
    definition = context.ledger.definition(row)
    wanted = find_nests(item, definition, nests or ())
    fetched: list[Fetched] = []
    for one in results(context.ledger, [row], fetch=s3_fetch(context.clients)):
        if one.status != NestStatus.DONE or (wanted and one.nest not in wanted):
            continue
        for output in one.outputs:
            if output.uri.endswith(suffix):
                target = out / encoded(item) / f"{one.nest:05d}" / output.uri.rsplit("/", 1)[-1]
                fetched.append(fetch_output(context, one, output, target))
    if not fetched:
        raise NothingRecorded(item_id=item, nest=f", nest {' '.join(nests)}" if nests else "")
    return Told(
        fetched, quiet=[str(one.path) for one in fetched], next=f"pyanamo results verify --table {context.table_name}"
    )


@command(
    example=(
        "pyanamo results export results.tsv",
        "pyanamo results export report.html",
        "pyanamo results export outputs.parquet",
        "pyanamo results export - --format json",
    )
)
def export(
    context: Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Ends in .tsv, .csv, .json, .html or .parquet; - is standard output.")
    ],
    form: Annotated[
        str | None, typer.Option("--format", help="tsv, csv, json, html or parquet; default: by the name.")
    ] = None,
    state: Annotated[State | None, typer.Option("--state", help="Only items in this state.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="HTML: the run whose timeline is drawn; default: the newest.")
    ] = None,
) -> Told:
    """Write all results to a file: TSV, CSV or JSON with a row for each nest, the HTML report, or Parquet.

    Parquet has a row for each output of a done nest: sample, item, nest, locus, attempt, revision, uri, size, sha256.
    """
    chosen = _format(file, form)
    if chosen == "parquet":
        return _export_parquet(context, file, state)
    if chosen == "html":
        return _export_html(context, file, run)
    from pyanamo_core.report import export as write

    with opened(file) as stream:
        count = write(read_results(context, None, state), stream, chosen)
    if file == "-":
        return Told()
    return Told(
        {"file": file, "format": chosen, "nests": count}, quiet=[file], next="pyanamo results export report.html"
    )


def _export_parquet(context: Context, file: str, state: State | None) -> Told:
    from pyanamo_core.report.parquet import write_parquet

    if file == "-":
        raise FormatUnknown("Parquet cannot be written to standard output: name a file.")
    count = write_parquet(read_results(context, None, state), Path(file))
    return Told({"file": file, "format": "parquet", "outputs": count}, quiet=[file], next="pyanamo results verify")


def _export_html(context: Context, file: str, run: str | None) -> Told:
    from pyanamo.planning import prices_of
    from pyanamo_core.report import collect, render, write_report
    from pyanamo_core.report.results import s3_fetch

    fetch, prices = s3_fetch(context.clients), prices_of(context, None)
    if file == "-":
        sys.stdout.write(render(collect(context.ledger, run_id=run, fetch=fetch, prices=prices)))
        return Told()
    data = write_report(context.ledger, Path(file), run_id=run, fetch=fetch, prices=prices)
    told = {"file": file, "format": "html", "items": data.counts.total, "nests": sum(data.nest_counts.values())}
    return Told(told, quiet=[file], next=f"xdg-open {file}")


def read_results(context: Context, names: list[str] | None, state: State | None) -> Iterator[Result]:
    """Every nest of the chosen items, with the results that were too big for its row."""
    from pyanamo_core.report.results import results, s3_fetch

    ledger = context.ledger
    items: Iterator[Item] = (ledger.item(name) for name in names) if names else ledger.items(state)
    if names and state is not None:
        items = (one for one in items if one.state is state)
    return results(ledger, items, fetch=s3_fetch(context.clients))


def _format(file: str, form: str | None) -> str:
    chosen = form or SUFFIXES.get(Path(file).suffix.lower(), "")
    if chosen not in {"tsv", "csv", "json", "html", "parquet"}:
        raise FormatUnknown(name=form or file)
    return chosen


@contextmanager
def opened(file: str) -> Iterator[IO[str]]:
    """Standard output, or a file that appears when it is whole."""
    if file == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    target = Path(file)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def fetch_output(context: Context, row: Result, output: Output, target: Path) -> Fetched:
    """Copy one output beside its place, compare it with what was recorded, and only then put it there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    told: dict[str, Any] = {"uri": output.uri, "item_id": row.item_id, "nest": row.nest}
    try:
        digest, size = hashlib.sha256(), 0
        with part.open("wb") as file:
            for chunk in chunks(context, output.uri):
                digest.update(chunk)
                size += file.write(chunk)
        if size != output.bytes:
            raise OutputDiffers(what=f"it has {size} bytes, recorded are {output.bytes}", **told)
        if output.sha256 and digest.hexdigest() != output.sha256:
            raise OutputDiffers(what="its SHA-256 is another", **told)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return Fetched(row.item_id, row.nest, output.uri, target, size)


def chunks(context: Context, uri: str) -> Iterator[bytes]:
    """An output piece by piece: an object, or a file of this machine (a script may name a shared file system)."""
    from pyanamo_core.aws import explained

    if not uri.startswith("s3://"):
        with Path(unquote(urlsplit(uri).path) if uri.startswith("file:") else uri).open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        return
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with explained("s3", f"reading {uri}"):
        yield from context.clients.client("s3").get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(CHUNK_BYTES)


def _view(rows: list[Result], more: bool, limit: int) -> Any:
    from rich.console import Group

    from pyanamo_core.report.figures import tabular

    figures = [tabular(one.figures) for one in rows]
    names = [name for name in FIGURES if any(name in one for one in figures)]
    columns = ["item", "nest", "value", "status", "took", *(SHORT.get(name, name) for name in names)]
    lines: list[list[Any]] = [
        [
            one.item_id,
            one.nest,
            one.value,
            one.status or "open",
            span(one.seconds),
            *(told.get(name, "") for name in names),
        ]
        for one, told in zip(rows, figures, strict=True)
    ]
    # What a script says in tag lines, or the names of its files, where there are no figures to tell it better.
    extra: dict[str, list[str]] = {}
    if not names:
        extra["tags"] = ["; ".join(one.tags).replace("\t", " ") for one in rows]
        extra["output"] = [one.outputs[0].uri.rsplit("/", 1)[-1] if one.outputs else "" for one in rows]
    extra["why"] = [one.message if one.status != "done" else "" for one in rows]
    for name, cells in extra.items():
        if any(cells):
            columns.append(name)
            lines = [[*line, cell] for line, cell in zip(lines, cells, strict=True)]
    right = ["nest", "took", *(SHORT.get(name, name) for name in names)]
    parts: list[Any] = [table(columns, lines, right=right) if lines else "no nests"]
    if more:
        parts.append(f"… more than {limit}; all of them with: pyanamo results export results.tsv")
    return Group(*parts)
