"""Task scripts on their way to the pilots: a folder becomes one archive with one hash, kept beside the results.

The archive is a plain tar with nothing of this machine in it (no times, no owners, names in order), so that the same
files have the same hash everywhere: it is part of a workflow's revision.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pyanamo_core.aws import Clients, code_of, explained
from pyanamo_core.errors import BadInput
from pyanamo_core.model import encoded
from pyanamo_core.workflow import Workflow

MAX_BYTES: Final = 256 * 2**20
ARCHIVES: Final = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")
LEFT_OUT: Final = frozenset({"__pycache__"})


class ScriptsTooBig(BadInput):
    """The task scripts in {folder} have more than {limit_mb} MB. Put data into `references`, which hosts fetch once."""


def script_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of a folder of task scripts by their names in it, in order; without hidden ones and what Python leaves."""
    found: list[tuple[str, Path]] = []
    for file in folder.rglob("*"):
        inner = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") or part in LEFT_OUT for part in inner.parts):
            found.append((inner.as_posix(), file))
    yield from sorted(found)


def pack_scripts(folder: Path) -> bytes:
    """A folder's files as a tar: content, names and whether they can be run, and nothing else.

    Raises:
        ScriptsTooBig: more than 256 MB.
    """
    packed = io.BytesIO()
    total = 0
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, file in script_files(folder):
            content = file.read_bytes()
            total += len(content)
            if total > MAX_BYTES:
                raise ScriptsTooBig(folder=folder, limit_mb=MAX_BYTES // 2**20)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if file.stat().st_mode & 0o100 else 0o644
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def hash_scripts(place: Path) -> str:
    """SHA-256 of an archive's bytes, or of the archive that a folder becomes."""
    return hashlib.sha256(place.read_bytes() if place.is_file() else pack_scripts(place)).hexdigest()


def publish_scripts(clients: Clients, workflow: Workflow) -> Workflow:
    """Put task scripts of this machine where pilots find them, and say so in the workflow.

    They go to `<results>/<table>/scripts/<16 digits of the SHA-256><ending>`; what is there already is left alone. A workflow whose
    scripts are packaged or remote comes back as it is.

    Raises:
        ScriptsTooBig. AwsMissing, AccessDenied …: the results' bucket does not take them.
    """
    if not workflow.scripts or "://" in workflow.scripts:
        return workflow
    place = Path(workflow.scripts)
    content = place.read_bytes() if place.is_file() else pack_scripts(place)
    digest = hashlib.sha256(content).hexdigest()
    ending = next((one for one in ARCHIVES if place.is_file() and place.name.endswith(one)), ".tar")
    uri = f"{workflow.buckets.results}/{encoded(workflow.table_name)}/scripts/{digest[:16]}{ending}"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3 = clients.client("s3")
    with explained("s3", f"writing {uri}"):
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except Exception as error:
            if code_of(error) not in ("404", "NoSuchKey", "NotFound"):
                raise
            s3.put_object(Bucket=bucket, Key=key, Body=content)
    return workflow.model_copy(update={"scripts": uri, "scripts_sha256": digest})
