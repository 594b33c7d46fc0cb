"""What a workflow file says about its stack: the parameters, and the lines that the made stack gives back to the file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from pyanamo_core.errors import BadInput
from pyanamo_core.workflow import Workflow

LEAVES_SECONDS: Final = 3600
"""A pilot hands back by its own wall time; Batch's time-out comes so much later, for one that does not."""
LONGEST_SECONDS: Final = 14 * 86_400


class ResultsBare(BadInput):
    """`buckets: results: {results}` has no prefix. Roles are given below one: write e.g. {results}/pyanamo"""


class LinesNotPut(BadInput):
    """The workflow file has no `{field}` to put the stack's value into. Put the printed lines into it by hand."""


def stack_name(workflow: Workflow) -> str:
    """The workflow's name as a stack may have it: letters, digits and '-', at most 36."""
    name = re.sub(r"[^A-Za-z0-9-]+", "-", workflow.name)[:36].strip("-")
    return name if name[:1].isalpha() else f"p-{name}"[:36]


def given_by(workflow: Workflow) -> dict[str, str]:
    """Parameters of the stack for a workflow: names, the container, what its roles may read.

    Raises:
        ResultsBare: results lie at a bucket's root.
    """
    bucket, _, prefix = workflow.buckets.results.removeprefix("s3://").partition("/")
    if not prefix:
        raise ResultsBare(results=workflow.buckets.results)
    definition = workflow.job_definition.partition(":")[0]
    own = re.sub(r"[^a-z0-9]+", "-", workflow.name.lower()).strip("-")
    wall_time = workflow.wall_time_seconds
    told = {
        "Name": re.sub(r"[^A-Za-z0-9_-]+", "-", workflow.name),
        "Table": workflow.table_name,
        "QueueName": workflow.queue,
        "OnDemandQueueName": on_demand_name(workflow.queue),
        "JobDefinitionName": definition,
        "RepositoryName": f"pyanamo/{own}",
        "Prefix": prefix,
        "Vcpus": str(math.ceil(workflow.vcpus)),
        "MemoryMb": str(workflow.memory_mb),
        "AttemptSeconds": str(math.ceil(wall_time) + LEAVES_SECONDS if wall_time else LONGEST_SECONDS),
    }
    if workflow.image:
        told["Image"] = workflow.image
    if arn := re.fullmatch(r"arn:[^:]+:batch:[^:]+:\d+:job-queue/(.+)", workflow.queue):
        told |= {"Queue": workflow.queue, "QueueName": arn[1], "OnDemandQueueName": on_demand_name(arn[1])}
    if workflow.on_demand_queue:
        arn = re.fullmatch(r"arn:[^:]+:batch:[^:]+:\d+:job-queue/(.+)", workflow.on_demand_queue)
        told["OnDemandQueueName"] = arn[1] if arn else workflow.on_demand_queue
        if arn:
            told["OnDemandQueue"] = workflow.on_demand_queue
    buckets = [one.bucket for one in workflow.buckets.inputs if one.access != "anonymous" and not one.endpoint]
    if buckets:
        told["InputBuckets"] = ",".join(dict.fromkeys(buckets))
    public = {one.bucket for one in workflow.buckets.inputs if one.access == "anonymous"}
    own_place = f"{bucket}/{prefix}/{workflow.table_name}/"
    places = [reference.uri.rpartition("/")[0] + "/" for reference in workflow.references] + [workflow.scripts]
    read = [
        place
        for place in (uri.removeprefix("s3://") for uri in places if uri.startswith("s3://"))
        if place.partition("/")[0] not in {*buckets, *public} and not place.startswith(own_place)
    ]
    read += _earlier(workflow, told, f"{bucket}/{prefix}", {*buckets, *public})
    if read:
        told["InputPrefixes"] = ",".join(dict.fromkeys(read))
    if workflow.buckets.logs and workflow.buckets.logs != workflow.buckets.results:
        logs = workflow.buckets.logs.removeprefix("s3://")
        told["OutputPrefixes"] = f"{logs}/{workflow.table_name}"
    return told


def _earlier(workflow: Workflow, told: dict[str, str], results: str, open_buckets: set[str]) -> list[str]:
    """What `cohort: also` takes in: places to read; the driver also reads its ledgers and lists its prefixes."""
    tables = [one for one in workflow.cohort.also if "/" not in one]
    prefixes = [one.removeprefix("s3://").rstrip("/") + "/" for one in workflow.cohort.also if one.startswith("s3://")]
    prefixes = [one for one in prefixes if one.partition("/")[0] not in open_buckets]
    if tables:
        # What was gathered, and what the ledgers keep beside themselves.
        told["EarlierTables"] = ",".join(name for table in tables for name in (table, f"{table}-gather"))
    if prefixes:
        told["ListBuckets"] = ",".join(dict.fromkeys(one.partition("/")[0] for one in prefixes))
        told["ListPrefixes"] = ",".join(dict.fromkeys(one.partition("/")[2] for one in prefixes))
    return [f"{results}/{name}/" for table in tables for name in (table, f"{table}-gather")] + prefixes


def on_demand_name(queue: str) -> str:
    """The on-demand queue's name beside the Spot queue's: `X_Queue` has `X_OnDemandQueue`."""
    return f"{queue.removesuffix('_Queue')}_OnDemandQueue"


def with_lines(text: str, lines: str) -> str:
    """A workflow file's text with these lines' values; comments and all else stay as they are.

    Args:
        lines: as `lines_for` gives them: fields with a value, or with fields of one level. What the text lacks is added
            at its end.

    Raises:
        LinesNotPut: the text is no such file.
    """
    import yaml

    told: dict[str, Any] = yaml.safe_load(lines)
    puts: list[tuple[int, int, str]] = []
    added: list[str] = []
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for name, value in told.items():
        node = _field(root, name)
        if not isinstance(value, dict):
            if node is None:
                added.append(f"{name}: {value}\n")
            else:
                puts.append((node.start_mark.index, node.end_mark.index, str(value)))
            continue
        for below, one in cast("dict[str, Any]", value).items():
            place = _field(node, below)
            if place is None:
                raise LinesNotPut(field=f"{name}: {below}")
            puts.append((place.start_mark.index, place.end_mark.index, str(one)))
    for start, end, value in sorted(puts, reverse=True):
        text = text[:start] + (value if end > start else f" {value}") + text[end:]
    if added and not text.endswith("\n"):
        text += "\n"
    return text + "".join(added)


def _field(node: Any, name: str) -> Any:
    """The node of a mapping's field, None if it has none."""
    pairs: list[tuple[Any, Any]] = getattr(node, "value", []) if getattr(node, "id", "") == "mapping" else []
    return next((value for key, value in pairs if key.value == name), None)


def lines_for(outputs: Mapping[str, str]) -> str:
    """The lines of a workflow file that fit the stack."""
    lines = [f"queue: {outputs['Queue']}"]
    if "OnDemandQueue" in outputs:
        lines.append(f"on_demand_queue: {outputs['OnDemandQueue']}")
    lines.append(f"job_definition: {outputs['JobDefinition']}")
    lines += ["buckets:", f"  results: {outputs['Results']}", f"log_group: {outputs['LogGroup']}"]
    return "\n".join(lines)
