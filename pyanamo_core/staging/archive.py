"""Unpacking an archive of task scripts: nothing outside its folder, no devices, no bombs."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

from pyanamo_core.errors import SetUpError

MAX_MEMBERS: Final = 20_000
MAX_BYTES: Final = 2 * 2**30
SUFFIXES: Final = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")


def is_archive(name: str) -> bool:
    """Does the name say that it is an archive that `extract` knows?"""
    return name.endswith(SUFFIXES)


def extract(archive: Path, folder: Path, uri: str) -> None:
    """Unpack into `folder`.

    Raises:
        SetUpError: no archive, too big, or a member that would leave the folder.
    """
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder, uri)
        else:
            _extract_tar(archive, folder, uri)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, UnicodeDecodeError) as error:
        raise SetUpError(reason=f"{uri} cannot be unpacked: {error}") from error


def _bounded(uri: str, members: int, size: int) -> None:
    if members > MAX_MEMBERS or size > MAX_BYTES:
        raise SetUpError(
            reason=f"{uri} holds {members} files, {size} bytes; at most {MAX_MEMBERS} and {MAX_BYTES} are unpacked"
        )


def _extract_tar(archive: Path, folder: Path, uri: str) -> None:
    with tarfile.open(archive) as tar:
        size = members = 0
        for member in tar:  # one by one: a bomb is seen before it goes off
            size, members = size + member.size, members + 1
            _bounded(uri, members, size)
            tar.extract(member, folder, filter="data")


def _extract_zip(archive: Path, folder: Path, uri: str) -> None:
    with zipfile.ZipFile(archive) as packed:
        infos = packed.infolist()
        _bounded(uri, len(infos), sum(info.file_size for info in infos))
        for info in infos:
            path = PurePosixPath(info.filename)
            mode = info.external_attr >> 16
            if path.is_absolute() or ".." in path.parts or stat.S_ISLNK(mode):
                raise SetUpError(reason=f"{uri} holds {info.filename!r}, which leads out of its folder")
            target = Path(packed.extract(info, folder))
            if not info.is_dir() and mode & 0o111:
                target.chmod(0o755)


def top_folder(folder: Path) -> Path:
    """The one folder at an archive's top if there is nothing else, else the folder itself."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
