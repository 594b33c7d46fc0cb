"""`pyanamo logs`: what a nest's script said, wherever that is kept (row, CloudWatch, S3)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pyanamo.addressing import find_nests
from pyanamo.commands.items import quoted
from pyanamo.context import Context, command
from pyanamo.render import Told
from pyanamo_core.errors import NotFound
from pyanamo_core.model import Item, LogPointer, Nest


class LogMissing(NotFound):
    """Item {item_id}{nest} has no log yet: nothing is recorded. See where it is with: pyanamo items show {item_id}"""


@dataclass(frozen=True)
class NestLog:
    """The log of one nest."""

    nest: int
    value: str
    status: str
    attempt: int
    where: str
    text: str


@command(example=("pyanamo logs NA12878", "pyanamo logs NA12878 chr21:31659566-31669931", "pyanamo logs NA12878 0"))
def logs(
    context: Context,
    item: Annotated[str, typer.Argument(metavar="ITEM")],
    nest: Annotated[
        list[str] | None, typer.Argument(metavar="NEST", help="By value or number (from 0); default: all.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only nests that failed.")] = False,
) -> Told:
    """Print the logs of an item's nests, from wherever they are kept."""
    ledger = context.ledger
    row = ledger.item(item)
    definition = ledger.definition(row)
    recorded = ledger.nests(row)
    wanted = find_nests(item, definition, nest) if nest else sorted(recorded)
    found = [number for number in wanted if number in recorded and (not failed or recorded[number].status == "failed")]
    if not found:
        raise LogMissing(item_id=item, nest=f", nest {' '.join(nest)}" if nest else "")
    told = [_log(context, row, recorded[number], definition.value(number)) for number in found]
    return Told(
        told,
        view=_view,
        quiet=[line for one in told for line in one.text.splitlines()],
        next=f"pyanamo items retry {quoted(item)}" if row.state == "failed" else f"pyanamo items show {quoted(item)}",
    )


def _log(context: Context, item: Item, nest: Nest, value: str) -> NestLog:
    pointer = nest.log
    text, where = "", "row"
    if pointer is not None and pointer.where == "cloudwatch":
        text, where = "\n".join(cloudwatch_lines(context, pointer)), f"CloudWatch {pointer.group} {pointer.stream}"
    elif pointer is not None and pointer.where == "s3":
        text, where = s3_text(context, pointer.uri), pointer.uri
    else:
        text = context.ledger.tail(item, nest)
        if pointer is not None and pointer.where == "given up":
            where = f"row; the whole log was given up: {pointer.note}"
    return NestLog(nest.index, value, str(nest.status), nest.fence, where, text.rstrip("\n"))


def cloudwatch_lines(context: Context, pointer: LogPointer) -> Iterator[str]:
    """The lines of a stream within the pointer's time range (ms, both ends included), in order."""
    from pyanamo_core.aws import explained

    logs = context.clients.client("logs")
    token: dict[str, str] = {}
    while True:
        with explained("logs", f"reading the log stream {pointer.stream}"):
            page: Any = logs.get_log_events(
                logGroupName=pointer.group,
                logStreamName=pointer.stream,
                startTime=pointer.start_ms,
                endTime=pointer.end_ms + 1,
                startFromHead=True,
                **token,
            )
        yield from (str(event["message"]) for event in page["events"])
        if page["nextForwardToken"] == token.get("nextToken"):
            return
        token = {"nextToken": page["nextForwardToken"]}


def s3_text(context: Context, uri: str) -> str:
    """A log object's text; gzipped where its name ends in .gz."""
    from pyanamo_core.aws import explained

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with explained("s3", f"reading {uri}"):
        raw: bytes = context.clients.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    return (gzip.decompress(raw) if uri.endswith(".gz") else raw).decode(errors="replace")


def _view(told: list[NestLog]) -> str:
    if len(told) == 1:
        return told[0].text
    parts: list[str] = []
    for one in told:
        value = f" ({one.value})" if one.value else ""
        parts.append(f"==> nest {one.nest}{value}, {one.status}, attempt {one.attempt} <==\n{one.text}")
    return "\n\n".join(parts)
