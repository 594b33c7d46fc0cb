"""Unpacking an archive of task scripts: nothing outside its folder, no links out of it, no devices, no bombs."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from pyanamo_core.errors import SetUpError

MAX_MEMBERS: Final = 20_000
MAX_BYTES: Final = 2 * 2**30
BROKEN: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    UnicodeDecodeError,
    FileNotFoundError,  # a hard link to what is not in it
    FileExistsError,  # a file and a folder of one name
    IsADirectoryError,
    NotADirectoryError,
)
SUFFIXES: Final = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz", ".zip")


def is_archive(name: str) -> bool:
    """Does the name say that it is an archive that `extract` knows?"""
    return name.endswith(SUFFIXES)


def extract(archive: Path, folder: Path, uri: str) -> None:
    """Unpack into `folder`.

    Raises:
        SetUpError: no archive, too big, a member that would leave the folder, or one that is neither file, folder nor link.
            What was unpacked until then stays in `folder`: unpack into one that is thrown away.
    """
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder, uri)
        else:
            _extract_tar(archive, folder, uri)
    except BROKEN as error:
        raise SetUpError(reason=f"{uri} cannot be unpacked: {error}") from error


def _bounded(uri: str, members: int, size: int) -> None:
    if members > MAX_MEMBERS or size > MAX_BYTES:
        raise SetUpError(
            reason=f"{uri} holds {members} files, {size} bytes; at most {MAX_MEMBERS} and {MAX_BYTES} are unpacked"
        )


def _inside(uri: str, name: str) -> PurePosixPath:
    """A member's path, which must lie in the folder.

    Raises:
        SetUpError: it is absolute, or has a `..`.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or "\\" in name:
        raise SetUpError(reason=f"{uri} holds {name!r}, which leads out of its folder")
    return path


def _extract_tar(archive: Path, folder: Path, uri: str) -> None:
    with tarfile.open(archive) as tar:
        size = 0
        links: set[PurePosixPath] = set()
        for number, member in enumerate(tar, 1):  # one by one: a bomb is seen before it goes off
            size += member.size
            _bounded(uri, number, size)
            path = _inside(uri, member.name) if PurePosixPath(member.name).parts else PurePosixPath(".")
            if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
                raise SetUpError(reason=f"{uri} holds {member.name!r}, which is no file but a device or a pipe")
            if member.issym() or member.islnk():
                _check_link(uri, member, path)
            if links & {path, *path.parents}:
                raise SetUpError(reason=f"{uri} holds {member.name!r}, which is written through a link")
            if member.issym():
                links.add(path)
            _write(tar, member, folder / path, folder)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, top: Path) -> None:
    """Write one member that was found safe: content, link, and whether it can be executed; nothing else of it.

    By hand, because the filters of tarfile came with Python 3.11.4, and Debian 12 has an older one.
    """
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        target.hardlink_to(top / member.linkname)
    else:
        source = tar.extractfile(member)
        if source is None:
            raise tarfile.TarError(f"{member.name} has no content")
        with source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
        target.chmod(0o755 if member.mode & 0o111 else 0o644)


def _check_link(uri: str, member: tarfile.TarInfo, path: PurePosixPath) -> None:
    """See that a link leads to something in the folder: a hard link's target is named from the top, a symlink's from here."""
    target = PurePosixPath(member.linkname)
    depth = 0 if member.islnk() else len(path.parent.parts)
    for part in target.parts:
        depth += -1 if part == ".." else 1
        if depth < 0 or target.is_absolute():
            raise SetUpError(
                reason=f"{uri} holds {member.name!r}, a link to {member.linkname!r}, which leads out of its folder"
            )


def _extract_zip(archive: Path, folder: Path, uri: str) -> None:
    with zipfile.ZipFile(archive) as packed:
        infos = packed.infolist()
        _bounded(uri, len(infos), sum(info.file_size for info in infos))
        for info in infos:
            _inside(uri, info.orig_filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise SetUpError(reason=f"{uri} holds {info.filename!r}, which is no file but a link, device or pipe")
        for info in infos:
            target = Path(packed.extract(info, folder))
            if not info.is_dir() and (info.external_attr >> 16) & 0o111:
                target.chmod(0o755)


def top_folder(folder: Path) -> Path:
    """The one folder at an archive's top if there is nothing else, else the folder itself."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder
