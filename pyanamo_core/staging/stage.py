"""Everything that a pilot needs on its host before it claims: task scripts and references."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyanamo_core.archive import extract, is_archive, top_folder
from pyanamo_core.buckets import S3Clients
from pyanamo_core.errors import SetUpError
from pyanamo_core.protocols import Clock
from pyanamo_core.resources import resource
from pyanamo_core.staging.fetch import Fetcher, is_remote, local_path, verify
from pyanamo_core.staging.reference import stage_reference
from pyanamo_core.store import Store, default_root, host_faults, key_of
from pyanamo_core.workflow import Workflow


@dataclass(frozen=True)
class Staged:
    """Where things are on this host: the folder of the task scripts (PIPELINE), and each reference by its name."""

    pipeline: str
    references: dict[str, str]


def stage(
    workflow: Workflow,
    clients: S3Clients | None,
    *,
    root: Path | None = None,
    scripts: str = "",
    clock: Clock | None = None,
) -> Staged:
    """Fetch, verify and unpack what the workflow names, once per host.

    Args:
        clients: for S3; None where nothing lies there.
        root: the folder that this host's processes share; None: `default_root()`.
        scripts: an archive or folder instead of the workflow's (its checksum is then not demanded).

    Raises:
        SetUpError: 403, 404, a wrong checksum, a broken archive. HostFault: no room, nothing can be reached.
    """
    store = Store(root or default_root(), clock)
    fetcher = Fetcher(clients, workflow.buckets.inputs)
    with host_faults("staging"):
        try:
            pipeline = stage_scripts(
                scripts or workflow.scripts, "" if scripts else workflow.scripts_sha256, store, fetcher
            )
            references = {each.name: str(stage_reference(each, store, fetcher)) for each in workflow.references}
        except PermissionError as error:
            raise SetUpError(reason=str(error)) from error
    return Staged(str(pipeline), references)


def stage_scripts(scripts: str, sha256: str, store: Store, fetcher: Fetcher) -> Path:
    """The folder of the task scripts: packaged ones (""), a local folder as it is, or an unpacked archive or S3 prefix.

    Raises:
        SetUpError, HostFault: as `stage`.
    """
    if not scripts:
        return resource("task_scripts")
    if is_remote(scripts):
        return _remote_scripts(scripts, sha256, store, fetcher)
    path = local_path(scripts)
    if path.is_dir():
        return path
    if not path.is_file():
        raise SetUpError(reason=f"the task scripts {path} do not exist")
    if not is_archive(path.name):
        raise SetUpError(reason=f"the task scripts {path} are neither a folder nor an archive (.tar.gz, .zip)")
    about = path.stat()

    def make(folder: Path) -> None:
        verify(path, sha256, scripts)
        extract(path, folder, scripts)

    return top_folder(
        store.entry(key_of("scripts", str(path), str(about.st_size), str(about.st_mtime_ns), sha256), make)
    )


def _remote_scripts(scripts: str, sha256: str, store: Store, fetcher: Fetcher) -> Path:
    name = scripts.partition("?")[0].rpartition("/")[2]
    if is_archive(name):
        version = sha256
        if not version:
            known = fetcher.look(scripts)
            if known is None:
                raise SetUpError(reason=f"the task scripts {scripts} do not exist")
            version = f"{known.version} {known.bytes}"

        def make(folder: Path) -> None:
            packed = folder / name
            fetcher.fetch(scripts, packed, sha256=sha256)
            unpacked = folder / "unpacked"
            unpacked.mkdir()
            extract(packed, unpacked, scripts)
            packed.unlink()

        return top_folder(store.entry(key_of("scripts", scripts, version), make) / "unpacked")
    if not scripts.startswith("s3://"):
        raise SetUpError(reason=f"the task scripts {scripts} are no archive (.tar.gz, .zip)")
    prefix = scripts.rstrip("/") + "/"
    listed = [(key, etag) for key, etag in fetcher.listing(prefix) if not key.endswith("/")]
    if not listed:
        raise SetUpError(reason=f"the task scripts {prefix} hold no object")
    bucket, _, below = prefix.removeprefix("s3://").partition("/")

    def copy(folder: Path) -> None:
        for key, _ in listed:
            parts = key.removeprefix(below).split("/")
            if ".." in parts or "" in parts:
                raise SetUpError(reason=f"s3://{bucket}/{key} has a key that is no path")
            target = folder.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            fetcher.fetch(f"s3://{bucket}/{key}", target)
            target.chmod(0o755)  # S3 knows no permissions

    return store.entry(key_of("scripts", prefix, *(f"{key} {etag}" for key, etag in listed)), copy)
