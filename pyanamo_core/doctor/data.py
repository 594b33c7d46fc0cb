"""Where data lie: buckets (write, read, delete under a probe key), reads by a range, references, task scripts."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from pyanamo_core.aws import code_of, explained, is_aws_error
from pyanamo_core.buckets import BucketClients, advice
from pyanamo_core.doctor.case import Case
from pyanamo_core.doctor.lines import Unanswered
from pyanamo_core.errors import AccessDenied, AwsMissing, EndpointDown, PyAnamoError, WrongRegion
from pyanamo_core.genomics.reads import default_indexes
from pyanamo_core.ledger import Ledger
from pyanamo_core.model import State, encoded
from pyanamo_core.staging.fetch import Fetcher, is_remote, local_path
from pyanamo_core.staging.reference import companions, is_fasta
from pyanamo_core.workflow import Workflow

PROBE: Final = b"a probe of pyanamo doctor: it may be deleted at any time\n"
_READS: Final = re.compile(r"s3://[^\s'\"|,;]+\.(?:cram|bam)(?=$|[\s'\"|,;])")
_BEGINS: Final = {".cram": b"CRAM", ".bam": b"\x1f\x8b"}


def look_at_data(case: Case, workflow: Workflow, ledger: Ledger | None) -> None:
    """Buckets, reads, references, task scripts."""
    results = case.results or workflow.buckets.results
    for name, uri in (("results", results), ("logs", workflow.buckets.logs)):
        if uri and (name == "results" or uri != results):
            _bucket(case, f"bucket of {name}", uri, case.table or workflow.table_name)
    _reads(case, workflow, ledger)
    _references(case, workflow)
    _scripts(case, workflow)


# ---------------------------------------------------------------------------------------------------- buckets


def _bucket(case: Case, check: str, uri: str, table: str) -> None:
    chart = case.chart
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    region = ""
    try:
        told = case.ask("s3", "HeadBucket", Bucket=bucket)
        headers: dict[str, str] = told["ResponseMetadata"]["HTTPHeaders"]
        region = str(told.get("BucketRegion") or headers.get("x-amz-bucket-region") or "")
    except AccessDenied:
        pass  # what counts is writing below the prefix, which is tried
    except PyAnamoError as error:
        if isinstance(error, AwsMissing) or str(error.facts.get("code")) in ("404", "NoSuchBucket"):
            chart.wrong(
                check,
                uri,
                f"there is no bucket {bucket}",
                "Make it (pyanamo deploy does), or name another in the workflow file's `buckets`.",
            )
            return
        if isinstance(error, WrongRegion):
            region = str(error.facts.get("right", ""))
        else:
            chart.told_by(check, uri, error)
            return
    if region and region != case.region:
        mend = f"Use a bucket of {case.region}: each GB read or written across regions costs, and takes longer."
        chart.warn(check, uri, f"it lies in {region}, pilots run in {case.region}", mend)
    if not case.write:
        chart.unknown(check, uri, "nothing was written (--no-write)")
        return
    key = "/".join(part for part in (prefix.strip("/"), encoded(table), "doctor", str(uuid.uuid4())) if part)
    _probe(case, check, uri, bucket, key)


def _probe(case: Case, check: str, uri: str, bucket: str, key: str) -> None:
    """Write, read and delete one small object; what was written is deleted even where it cannot be read."""
    chart, where = case.chart, f"s3://{bucket}/{key}"
    with chart.part(f"{check}: write", uri):
        case.ask("s3", "PutObject", Bucket=bucket, Key=key, Body=PROBE)
        chart.ok(f"{check}: write", uri, "allowed")
        try:
            with chart.part(f"{check}: read", uri):
                told = case.ask("s3", "GetObject", Bucket=bucket, Key=key, Range=f"bytes=0-{len(PROBE) - 1}")
                with case.asked("s3", "GetObject"):
                    got = told["Body"].read()
                if got == PROBE:
                    chart.ok(f"{check}: read", uri, "allowed")
                else:
                    chart.wrong(
                        f"{check}: read",
                        uri,
                        f"{where} came back with other bytes",
                        "Something between here and S3 changes them.",
                    )
        finally:
            with chart.part(f"{check}: delete", uri):
                case.ask("s3", "DeleteObject", Bucket=bucket, Key=key)
                chart.ok(f"{check}: delete", uri, "allowed")
        if chart.lines[-1].state == "wrong" and chart.lines[-1].check.endswith("delete"):
            chart.warn(f"{check}: left", where, "the probe object stays", f"aws s3 rm {where}")


# ---------------------------------------------------------------------------------------------------- reads


def reads_named(texts: Sequence[str]) -> str:
    """The first s3:// address of a CRAM or BAM in a TaskScript and its arguments; "" if there is none."""
    return next((found[0] for text in texts if (found := _READS.search(text))), "")


def some_item(ledger: Ledger) -> str:
    """The id of an item of the table by a few small queries; "" if there seems to be none."""
    for state in (State.TODO, State.DONE, State.FAILED, State.WAITING, State.CANCELLED):
        for shard in range(ledger.rules.shards):
            if found := ledger.candidates(state, shard, limit=1):
                return found[0]
    return ""


def _reads(case: Case, workflow: Workflow, ledger: Ledger | None) -> None:
    chart = case.chart
    uri, item = case.reads, ""
    if not uri and ledger is not None:
        try:
            with case.asked("dynamodb", "Query"):
                item = some_item(ledger)
                if item:
                    definition = ledger.definition(ledger.item(item))
                    uri = reads_named([definition.script, *definition.arguments[:1]])
        except PyAnamoError as error:
            chart.told_by("reads", "", error)
            return
    if not uri:
        why = f"item {item} names none" if item else "no item names any"
        chart.unknown("reads", "", f"{why} as s3://….cram or .bam", "Name some: --reads s3://BUCKET/SAMPLE.cram")
        return
    if not uri.startswith("s3://"):
        chart.unknown(
            "reads", uri, "only reads in S3 can be tried from here", "Name some: --reads s3://BUCKET/SAMPLE.cram"
        )
        return
    buckets = BucketClients(case.clients, workflow.buckets.inputs)
    ending = f".{uri.rpartition('.')[2]}"
    if not _range(case, workflow, buckets, "reads", uri, _BEGINS.get(ending, b"")):
        return
    for candidate in default_indexes(uri):
        found = _range(case, workflow, buckets, "index of reads", candidate, b"", missing_is_fine=True)
        if found is not None:
            return
    chart.wrong("index of reads", uri, "none lies beside them", "Make it (samtools index) and put it beside them.")


def _range(
    case: Case,
    workflow: Workflow,
    buckets: BucketClients,
    check: str,
    uri: str,
    begins: bytes,
    *,
    missing_is_fine: bool = False,
) -> bool | None:
    """Read a file's first bytes as a task would; True if they came, False if something is wrong, None: not there."""
    chart = case.chart
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    declared = next((one for one in workflow.buckets.inputs if one.bucket == bucket), None)
    access = declared.access if declared else "role"
    try:
        if "s3" in chart.silent and not (declared and declared.endpoint):
            raise Unanswered(service="s3")
        with explained("s3", "GetObject"):
            client, more = buckets.of(bucket)
            told = case.listened(client).get_object(Bucket=bucket, Key=key, Range="bytes=0-63", **more)
            got: bytes = told["Body"].read()
    except PyAnamoError as error:
        if isinstance(error, AwsMissing) or _is_missing(error):
            if missing_is_fine:
                return None
            chart.wrong(check, uri, "there is no such object", "Correct the sheet, or name other reads with --reads.")
        elif isinstance(error, AccessDenied):
            reason = f"S3 refused to let them be read with access `{access}`: {error.facts.get('reason')}"
            chart.wrong(check, uri, reason, advice(bucket, declared, "denied"))
        elif isinstance(error, WrongRegion):
            right = str(error.facts.get("right", "another one"))
            chart.wrong(check, uri, f"its bucket lies in another region ({right})", advice(bucket, declared, right))
        else:
            if isinstance(error, EndpointDown) and declared and declared.endpoint:
                chart.wrong(
                    check,
                    uri,
                    f"{declared.endpoint} cannot be reached",
                    "Correct `endpoint` of that bucket in the workflow file.",
                )
                return False
            chart.told_by(check, uri, error)
        return False
    size = str(told.get("ContentRange", "")).rpartition("/")[2]
    if not got.startswith(begins):
        chart.wrong(
            check,
            uri,
            f"it begins with {got[:4]!r}: that is no {uri.rpartition('.')[2].upper()}",
            "Correct the address.",
        )
        return False
    chart.ok(
        check,
        uri,
        f"a range of its {int(size):,} bytes was read (access `{access}`)"
        if size.isdecimal()
        else f"a range was read (access `{access}`)",
    )
    return True


def _is_missing(error: PyAnamoError) -> bool:
    cause = error.__cause__
    return cause is not None and is_aws_error(cause) and code_of(cause) in ("NoSuchKey", "404", "NoSuchBucket")


# ---------------------------------------------------------------------------------------------------- references, scripts


def _references(case: Case, workflow: Workflow) -> None:
    fetcher = Fetcher(case.clients, workflow.buckets.inputs)
    for one in workflow.references:
        check = f"reference {one.name}"
        if not is_remote(one.uri) and case.inside:
            _local(case, check, local_path(one.uri))
            continue
        if not is_remote(one.uri):
            case.chart.unknown(check, one.uri, "it is a path inside the container; the job shows it (doctor --as-job)")
            continue
        if one.uri.startswith("s3://") and "s3" in case.chart.silent:
            case.chart.unknown(check, one.uri, "s3 did not answer (see above)")
            continue
        known = _seen(case, check, one.uri, fetcher)
        if known is None:
            continue
        name = one.uri.partition("?")[0].rpartition("/")[2]
        lacking = [each for each in _beside(fetcher, one.uri, name) if is_fasta(name)]
        made = f"; {', '.join(lacking)} are made on each host" if lacking else ""
        sworn = "" if one.sha256 else "; no sha256 is demanded of it"
        case.chart.ok(check, one.uri, f"{known:,} bytes{made}{sworn}")


def _local(case: Case, check: str, path: Path) -> None:
    if path.exists():
        case.chart.ok(check, str(path), "it is in this container")
    else:
        case.chart.wrong(check, str(path), "it is not in this container", "Put it into the image, or name its address.")


def _beside(fetcher: Fetcher, uri: str, name: str) -> list[str]:
    """Companions of a reference that do not lie beside it."""
    lacking: list[str] = []
    for each in companions(name) if "?" not in uri else ():
        try:
            if fetcher.look(uri[: -len(name)] + each) is None:
                lacking.append(each)
        except PyAnamoError:
            lacking.append(each)
    return lacking


def _seen(case: Case, check: str, uri: str, fetcher: Fetcher) -> int | None:
    """A remote file's size in bytes; None, with its line, if it cannot be had."""
    try:
        known: Any = fetcher.look(uri)
    except PyAnamoError as error:
        case.chart.wrong(
            check,
            uri,
            str(error.facts.get("reason", error)),
            "Correct its address or `buckets: inputs:` in the workflow file.",
        )
        return None
    if known is None:
        case.chart.wrong(
            check, uri, "there is no such file", "Correct its `uri` in the workflow file, or put it there."
        )
        return None
    return int(known.bytes or 0)


def _scripts(case: Case, workflow: Workflow) -> None:
    check, scripts = "task scripts", workflow.scripts
    if not scripts:
        case.chart.ok(check, "", "those that come with PyAnamo, in the image")
    elif case.inside and not is_remote(scripts):
        _local(case, check, local_path(scripts))
    elif not scripts.startswith("s3://"):
        why = "they lie on this machine: `pyanamo workflow create` puts them beside the results"
        if is_remote(scripts):
            why = "only those in S3 are looked at from here"
        case.chart.unknown(check, scripts, why)
    elif "s3" in case.chart.silent:
        case.chart.unknown(check, scripts, "s3 did not answer (see above)")
    elif scripts.endswith((".tar.gz", ".tgz", ".zip", ".tar")):
        known = _seen(case, check, scripts, Fetcher(case.clients, workflow.buckets.inputs))
        if known is not None:
            sworn = "its sha256 is demanded" if workflow.scripts_sha256 else "no sha256 is demanded of it"
            case.chart.ok(check, scripts, f"{known:,} bytes; {sworn}")
    else:
        with case.chart.part(check, scripts):
            listed = Fetcher(case.clients, workflow.buckets.inputs).listing(scripts.rstrip("/") + "/")
            if listed:
                case.chart.ok(check, scripts, f"{len(listed)} objects")
            else:
                case.chart.wrong(check, scripts, "nothing lies below it", "Put them there: pyanamo scripts push FOLDER")
