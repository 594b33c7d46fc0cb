"""References on this host: the file itself, its companions beside it, and the index of a FASTA made where it is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from pyanamo_core.errors import HostFault, SetUpError
from pyanamo_core.staging.fetch import Fetcher, is_remote, local_path, verify
from pyanamo_core.store import Store, key_of
from pyanamo_core.workflow import Reference

FASTA: Final = (".fa", ".fasta", ".fna", ".fa.gz", ".fasta.gz", ".fna.gz", ".fa.bgz", ".fasta.bgz")
_COMPANIONS: Final = {
    ".vcf.gz": (".tbi", ".csi"),
    ".vcf": (".idx",),
    ".bam": (".bai",),
    ".cram": (".crai",),
    ".bed.gz": (".tbi",),
}
_INDEX_SECONDS: Final = 3600.0


def is_fasta(name: str) -> bool:
    """Is it, by its name, a FASTA?"""
    return name.lower().endswith(FASTA)


def dictionary_name(name: str) -> str:
    """Name of a FASTA's .dict as GATK looks for it: `x.fa.gz` has `x.dict`."""
    ending = max((each for each in FASTA if name.lower().endswith(each)), key=len)
    return name[: -len(ending)] + ".dict"


def companions(name: str) -> tuple[str, ...]:
    """Names of the files that may lie beside a reference file."""
    if is_fasta(name):
        packed = (f"{name}.gzi",) if name.endswith(("gz",)) else ()
        return (f"{name}.fai", dictionary_name(name), *packed)
    ending = next((each for each in _COMPANIONS if name.lower().endswith(each)), "")
    return tuple(name + each for each in _COMPANIONS.get(ending, ()))


def is_plain_gzip(path: Path) -> bool:
    """Is it packed by gzip in one piece, so that no base in its middle can be reached? (BGZF is gzip in blocks.)"""
    with path.open("rb") as file:
        head = file.read(18)
    return head[:2] == b"\x1f\x8b" and head[3:4] + head[12:14] != b"\x04BC"


def _complete(path: Path) -> bool:
    """Has the FASTA its indexes beside it?"""
    return all((path.parent / each).exists() for each in companions(path.name)) and not is_plain_gzip(path)


def stage_reference(reference: Reference, store: Store, fetcher: Fetcher) -> Path:
    """The path of a reference on this host, verified, with its index.

    A local file with its index is used where it lies; otherwise a folder of the store holds it (or a link to it).

    Raises:
        SetUpError, HostFault: as fetch.py says; a FASTA that cannot be indexed is the set-up's fault.
    """
    if is_remote(reference.uri):
        return _remote(reference, store, fetcher)
    return _local(reference, store)


def _remote(reference: Reference, store: Store, fetcher: Fetcher) -> Path:
    uri = reference.uri
    name = uri.partition("?")[0].rpartition("/")[2]
    if not name:
        raise SetUpError(reason=f"reference {reference.name}: {uri} names no file")
    version = reference.sha256
    if not version:
        known = fetcher.look(uri)
        if known is None:
            raise SetUpError(reason=f"reference {reference.name}: {uri} does not exist")
        version = f"{known.version} {known.bytes}"

    key = key_of("reference", uri, version)

    def make(folder: Path) -> None:
        fetcher.fetch(uri, folder / name, sha256=reference.sha256, partial=store.partial(key))
        for beside in companions(name):
            if "?" not in uri:
                address = uri[: -len(name)] + beside
                if fetcher.look(address) is not None:
                    fetcher.fetch(address, folder / beside)
        _index(folder / name)

    return store.entry(key, make) / name


def _local(reference: Reference, store: Store) -> Path:
    path = local_path(reference.uri)
    try:
        about = path.stat()
    except OSError as error:
        raise SetUpError(reason=f"reference {reference.name}: {path}: {error.strerror}") from None
    seen = (str(path), str(about.st_size), str(about.st_mtime_ns))
    if reference.sha256:
        # A file that stays the same is read through once per host, not once per pilot.
        store.entry(
            key_of("verified", *seen, reference.sha256), lambda _: verify(path, reference.sha256, reference.uri)
        )
    if not is_fasta(path.name) or _complete(path):
        return path

    def make(folder: Path) -> None:
        for each in (path.name, *companions(path.name)):
            if (path.parent / each).exists():
                (folder / each).symlink_to(path.parent / each)
        _index(folder / path.name)

    return store.entry(key_of("indexed", *seen), make) / path.name


def _index(path: Path) -> None:
    """Make .fai, .gzi and .dict beside a FASTA, if they are missing; see index.py."""
    if not is_fasta(path.name) or _complete(path):
        return
    if importlib.util.find_spec("pysam") is None:
        raise SetUpError(
            reason=f"{path.name} lacks its .fai, .gzi or .dict; making them needs the extra `genomics` (pip install 'pyanamo[genomics]')"
        )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pyanamo_core.staging.index", str(path)],
            capture_output=True,
            text=True,
            timeout=_INDEX_SECONDS,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    except subprocess.TimeoutExpired as error:
        raise HostFault(reason=f"indexing {path.name} took more than {_INDEX_SECONDS:.0f} s") from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        family = HostFault if "No space left" in done.stderr or done.returncode < 0 else SetUpError
        raise family(reason=f"{path.name} cannot be indexed: {said}")
