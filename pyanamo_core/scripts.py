"""Task scripts on their way to the pilots: a folder becomes one archive with one hash, kept beside the results.

The archive is a plain tar with nothing of this machine in it (no times, no owners, names in order), so that the same
files have the same hash everywhere: it is part of a workflow's revision.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
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


class ScriptsMissing(BadInput):
    """{place} holds no task scripts: a folder with files in it, .tar.gz, .tgz, .tar, .tar.bz2, .tar.xz or .zip is taken."""


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


@dataclass(frozen=True)
class Pack:
    """Task scripts as they travel: the archive's bytes, their SHA-256, the ending of its name, and how many files."""

    content: bytes
    sha256: str
    ending: str
    files: int

    @property
    def name(self) -> str:
        """Name of the object: another content has another name."""
        return f"{self.sha256[:16]}{self.ending}"


@dataclass(frozen=True)
class Pushed:
    """An archive in a bucket; `modified` in seconds since 1970."""

    uri: str
    bytes: int
    modified: float


def pack(place: Path) -> Pack:
    """A folder's files, or an archive as it is, after a look at whether hosts would take it.

    Raises:
        ScriptsMissing: nothing is there, or nothing is in it. ScriptsTooBig.
        SetUpError: the archive cannot be unpacked, or a member would leave its folder.
    """
    if place.is_dir():
        content = pack_scripts(place)
        ending, files = ".tar", sum(1 for _ in script_files(place))
    elif place.is_file() and place.name.endswith(ARCHIVES):
        from pyanamo_core.archive import extract

        content = place.read_bytes()
        if len(content) > MAX_BYTES:
            raise ScriptsTooBig(folder=place, limit_mb=MAX_BYTES // 2**20)
        ending = next(one for one in ARCHIVES if place.name.endswith(one))
        with tempfile.TemporaryDirectory(prefix="pyanamo-scripts-") as folder:
            extract(place, Path(folder), str(place))
            files = sum(1 for each in Path(folder).rglob("*") if each.is_file())
    else:
        raise ScriptsMissing(place=place)
    if not files:
        raise ScriptsMissing(place=place)
    return Pack(content, hashlib.sha256(content).hexdigest(), ending, files)


def scripts_prefix(workflow: Workflow) -> str:
    """Where a workflow's archives lie: `<results>/<table>/scripts`."""
    return f"{workflow.buckets.results}/{encoded(workflow.table_name)}/scripts"


def push(clients: Clients, packed: Pack, prefix: str) -> tuple[str, bool]:
    """Put an archive below an S3 prefix under a name that holds its hash; what is there already is left alone.

    Returns:
        Its URI, and whether it was put there now.

    Raises:
        AwsMissing, AccessDenied …: the bucket does not take it.
    """
    uri = f"{prefix.rstrip('/')}/{packed.name}"
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    s3 = clients.client("s3")
    with explained("s3", f"writing {uri}"):
        try:
            s3.head_object(Bucket=bucket, Key=key)
        except Exception as error:
            if code_of(error) not in ("404", "NoSuchKey", "NotFound"):
                raise
            s3.put_object(Bucket=bucket, Key=key, Body=packed.content)
            return uri, True
    return uri, False


def pushed(clients: Clients, prefix: str) -> Iterator[Pushed]:
    """Archives below an S3 prefix, by name."""
    bucket, _, below = prefix.removeprefix("s3://").partition("/")
    pages = clients.client("s3").get_paginator("list_objects_v2")
    with explained("s3", f"listing {prefix}"):
        for page in pages.paginate(Bucket=bucket, Prefix=f"{below.rstrip('/')}/" if below else ""):
            for each in page.get("Contents", []):
                if each["Key"].endswith(ARCHIVES):
                    yield Pushed(f"s3://{bucket}/{each['Key']}", each["Size"], each["LastModified"].timestamp())


def publish_scripts(clients: Clients, workflow: Workflow) -> Workflow:
    """Put task scripts of this machine where pilots find them, and say so in the workflow.

    They go to `<results>/<table>/scripts/<16 digits of the SHA-256><ending>`; what is there already is left alone. A
    workflow whose scripts are packaged or remote comes back as it is.

    Raises:
        ScriptsMissing, ScriptsTooBig, SetUpError: as `pack`. AwsMissing, AccessDenied …: as `push`.
    """
    if not workflow.scripts or "://" in workflow.scripts:
        return workflow
    packed = pack(Path(workflow.scripts))
    uri, _ = push(clients, packed, scripts_prefix(workflow))
    return workflow.model_copy(update={"scripts": uri, "scripts_sha256": packed.sha256})
