"""Staging on one host: once, whole, shared; archives and references."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import pysam
import pytest

from pyanamo_core.archive import extract, top_folder
from pyanamo_core.errors import HostFault, SetUpError
from pyanamo_core.resources import resource
from pyanamo_core.staging import Store, stage
from pyanamo_core.staging.fetch import Fetcher
from pyanamo_core.staging.reference import companions, dictionary_name, stage_reference
from pyanamo_core.workflow import Buckets, Reference, Workflow

FASTA = ">one\nACGTACGT\n>two\nGGGG\n"


def workflow(**more: object) -> Workflow:
    """A workflow with little in it."""
    told = {"name": "Seq", "queue": "q", "job_definition": "j", "buckets": Buckets(results="s3://results")}
    return Workflow.model_validate({**told, **more})


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    # Given a store, and eight threads that want the same entry
    store = Store(tmp_path / "store")
    made: list[int] = []

    def make(folder: Path) -> None:
        made.append(1)
        (folder / "file").write_text("content")

    threads = [threading.Thread(target=lambda: store.entry("key", make)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    # Then one of them made it
    assert len(made) == 1
    assert (tmp_path / "store" / "key" / "file").read_text() == "content"


def test_an_entry_whose_making_failed_is_not_there(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise SetUpError(reason="no such bucket")

    with pytest.raises(SetUpError):
        store.entry("key", fails)

    # Then the next one makes it, from an empty folder
    seen: list[list[str]] = []
    store.entry("key", lambda folder: seen.append(names(folder)))
    assert seen == [[]]


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    # Given a part that nobody finished
    (tmp_path / "key.part").mkdir()
    (tmp_path / "key.part" / "half").write_text("half")

    place = Store(tmp_path).entry("key", lambda folder: (folder / "whole").write_text("x") and None)

    assert names(place) == ["whole"]


def test_a_full_disk_is_the_hosts_fault(tmp_path: Path) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(HostFault, match="No space"):
        Store(tmp_path).entry("key", full)


def tar(path: Path, *members: tuple[str, bytes, int]) -> Path:
    """A tar.gz of (name, content, mode)."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content, mode in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), mode
            archive.addfile(info, io.BytesIO(content))
    return path


def test_scripts_keep_that_they_can_be_executed(tmp_path: Path) -> None:
    archive = tar(tmp_path / "s.tar.gz", ("scripts/a.sh", b"#!/bin/sh\n", 0o755), ("scripts/b.txt", b"b", 0o644))
    extract(archive, tmp_path / "out", "s.tar.gz")

    assert top_folder(tmp_path / "out") == tmp_path / "out" / "scripts"
    assert os.access(tmp_path / "out" / "scripts" / "a.sh", os.X_OK)
    assert not os.access(tmp_path / "out" / "scripts" / "b.txt", os.X_OK)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    """A member of a tar, as somebody who means harm would write it."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, size, 0o755
    return info


UNSAFE = {
    "an absolute path": ([member("/etc/evil")], "leads out"),
    "a path upwards": ([member("../evil")], "leads out"),
    "a path up and down": ([member("a/../../evil")], "leads out"),
    "a symlink to an absolute path": ([member("evil", tarfile.SYMTYPE, "/etc/passwd")], "leads out"),
    "a symlink upwards": ([member("a/evil", tarfile.SYMTYPE, "../../x")], "leads out"),
    "a hard link upwards": ([member("a/evil", tarfile.LNKTYPE, "../x")], "leads out"),
    "a file through a link": ([member("a", tarfile.SYMTYPE, "."), member("a/evil")], "through a link"),
    "a device": ([member("evil", tarfile.BLKTYPE)], "device or a pipe"),
    "a character device": ([member("evil", tarfile.CHRTYPE)], "device or a pipe"),
    "a pipe": ([member("evil", tarfile.FIFOTYPE)], "device or a pipe"),
    "more bytes than a host takes": ([member("evil", size=3 * 2**30)], "3221225472 bytes"),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_an_unsafe_member_is_refused_and_nothing_is_staged(tmp_path: Path, what: str) -> None:
    # Given an archive with a good script and this
    members, reason = UNSAFE[what]
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for each in (member("good.sh"), *members):
            # Only headers: the content of a bomb need not be there for it to be seen.
            archive.addfile(each)

    # When it is staged, then it is the set-up's fault, in words, and nothing is left of it
    with pytest.raises(SetUpError, match=reason):
        stage(workflow(scripts=str(tmp_path / "s.tar")), None, root=tmp_path / "store")
    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("../evil", 0o100644, "leads out"),
        ("/etc/evil", 0o100644, "leads out"),
        ("a\\..\\evil", 0o100644, "leads out"),
        ("evil", 0o120777, "a link, device or pipe"),
        ("evil", 0o010644, "a link, device or pipe"),
    ],
)
def test_an_unsafe_member_of_a_zip_is_refused(tmp_path: Path, name: str, kind: int, reason: str) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = kind << 16
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("good.sh", "")
        archive.writestr(info, "/etc/passwd")

    with pytest.raises(SetUpError, match=reason):
        stage(workflow(scripts=str(tmp_path / "s.zip")), None, root=tmp_path / "store")

    assert [path.suffix for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_links_inside_an_archive_are_kept(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for each in (
            member("bin/a.sh"),
            member("bin/b.sh", tarfile.SYMTYPE, "a.sh"),
            member("c", tarfile.LNKTYPE, "bin/a.sh"),
        ):
            archive.addfile(each)

    extract(tmp_path / "s.tar", tmp_path / "out", "s.tar")

    assert (tmp_path / "out" / "bin" / "b.sh").resolve() == (tmp_path / "out" / "bin" / "a.sh").resolve()
    assert (tmp_path / "out" / "c").is_file()


def test_what_is_no_archive_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "s.tar.gz").write_bytes(b"not an archive")

    with pytest.raises(SetUpError, match=r"s\.tar\.gz cannot be unpacked"):
        extract(tmp_path / "s.tar.gz", tmp_path / "out", "s.tar.gz")


def test_an_archive_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyanamo_core.archive.MAX_MEMBERS", 3)
    packed = tar(tmp_path / "s.tar.gz", *[(f"f{n}", b"x", 0o644) for n in range(5)])

    with pytest.raises(SetUpError, match="4 files"):
        extract(packed, tmp_path / "out", "s.tar.gz")


def test_the_packaged_scripts_are_the_default(tmp_path: Path) -> None:
    assert stage(workflow(), None, root=tmp_path).pipeline == str(resource("task_scripts"))


def test_a_local_folder_of_scripts_is_used_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()

    staged = stage(workflow(scripts=str(tmp_path / "scripts")), None, root=tmp_path / "store")

    assert staged.pipeline == str(tmp_path / "scripts")


def test_an_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    packed = tar(tmp_path / "s.tar.gz", ("a.sh", b"x", 0o755))
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()

    good = stage(workflow(scripts=str(packed), scripts_sha256=digest), None, root=tmp_path / "store")
    with pytest.raises(SetUpError, match="SHA-256"):
        stage(workflow(scripts=str(packed), scripts_sha256="0" * 64), None, root=tmp_path / "store")

    assert (Path(good.pipeline) / "a.sh").exists()


def test_scripts_that_do_not_exist_are_the_set_ups_fault(tmp_path: Path) -> None:
    with pytest.raises(SetUpError, match="nowhere"):
        stage(workflow(scripts=str(tmp_path / "nowhere")), None, root=tmp_path)


def test_names_beside_a_reference() -> None:
    assert dictionary_name("x.fa.gz") == "x.dict"
    assert companions("GRCh38.fasta") == ("GRCh38.fasta.fai", "GRCh38.dict")
    assert companions("x.fa.gz") == ("x.fa.gz.fai", "x.dict", "x.fa.gz.gzi")
    assert companions("known.vcf.gz") == ("known.vcf.gz.tbi", "known.vcf.gz.csi")
    assert companions("notes.txt") == ()


def test_the_index_of_a_fasta_is_made_where_it_is_missing(tmp_path: Path) -> None:
    # Given a FASTA without index, in a folder that is not ours to write to
    fasta = tmp_path / "data" / "x.fa"
    fasta.parent.mkdir()
    fasta.write_text(FASTA)

    # When it is staged
    path = stage_reference(Reference(name="ref", uri=str(fasta)), Store(tmp_path / "store"), Fetcher(None))

    # Then .fai and .dict lie beside what is used, and nothing was written there
    assert (path.parent / "x.fa.fai").read_text().startswith("one\t8\t")
    assert "SN:two" in (path.parent / "x.dict").read_text()
    assert path.read_text() == FASTA
    assert names(fasta.parent) == ["x.fa"]


@pytest.mark.parametrize("beside", [(), ("x.fa.gz.fai", "x.dict")])
def test_a_fasta_in_plain_gzip_is_repacked_once_so_that_any_base_can_be_found(
    tmp_path: Path, beside: tuple[str, ...]
) -> None:
    # Given a FASTA as Ensembl packs it, with and without indexes that somebody made of the unpacked one
    fasta = tmp_path / "data" / "x.fa.gz"
    fasta.parent.mkdir()
    fasta.write_bytes(gzip.compress(FASTA.encode()))
    for name in beside:
        (fasta.parent / name).write_text("one\t8\t5\t8\t9\n" if name.endswith("fai") else "@SQ\tSN:one\tLN:8\n")
    store = Store(tmp_path / "store")

    # When it is staged twice
    path, again = (stage_reference(Reference(name="ref", uri=str(fasta)), store, Fetcher(None)) for _ in range(2))

    # Then all indexes lie beside what is used, bases are found, and the original is as it was
    assert path == again
    assert {"x.fa.gz", "x.fa.gz.fai", "x.fa.gz.gzi", "x.dict"} <= set(names(path.parent))
    with pysam.FastaFile(str(path)) as opened:
        assert opened.fetch("two", 1, 3) == FASTA.split("\n")[3][1:3]
    assert names(fasta.parent) == sorted(["x.fa.gz", *beside])
    assert gzip.decompress(fasta.read_bytes()).decode() == FASTA


def test_a_packed_fasta_without_its_gzi_gets_one_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    fasta = tmp_path / "x.fa.gz"
    with pysam.BGZFile(str(fasta), "wb") as out:
        out.write(FASTA.encode())
    pysam.faidx(str(fasta))
    (tmp_path / "x.fa.gz.gzi").unlink()
    (tmp_path / "x.dict").write_text("@SQ\tSN:one\tLN:8\n")
    path = stage_reference(Reference(name="ref", uri=str(fasta)), Store(tmp_path / "s"), Fetcher(None))
    assert (path.parent / "x.fa.gz.gzi").exists()

    (tmp_path / "y.fa.gz").write_bytes(gzip.compress(FASTA.encode() * 1000)[:-20])
    with pytest.raises(SetUpError, match=r"y\.fa\.gz cannot be indexed: EOFError"):
        stage_reference(Reference(name="ref", uri=str(tmp_path / "y.fa.gz")), Store(tmp_path / "s"), Fetcher(None))


def test_a_reference_with_its_index_is_used_where_it_lies(tmp_path: Path) -> None:
    for name in ("x.fa", "x.fa.fai", "x.dict"):
        (tmp_path / name).write_text(FASTA)

    path = stage_reference(Reference(name="ref", uri=str(tmp_path / "x.fa")), Store(tmp_path / "s"), Fetcher(None))

    assert path == tmp_path / "x.fa"


def test_a_reference_with_another_checksum_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bed").write_text("c\t1\t2\n")
    reference = Reference(name="tgt", uri=str(tmp_path / "x.bed"), sha256="0" * 64)

    with pytest.raises(SetUpError, match="SHA-256"):
        stage_reference(reference, Store(tmp_path / "s"), Fetcher(None))


def test_a_fasta_that_is_none_is_the_set_ups_fault(tmp_path: Path) -> None:
    (tmp_path / "x.fa").write_text("no sequence here")

    with pytest.raises(SetUpError, match=r"x\.fa cannot be indexed"):
        stage_reference(Reference(name="ref", uri=str(tmp_path / "x.fa")), Store(tmp_path / "s"), Fetcher(None))


def test_a_reference_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetUpError, match=r"reference tgt: .*none\.bed"):
        stage_reference(Reference(name="tgt", uri=str(tmp_path / "none.bed")), Store(tmp_path / "s"), Fetcher(None))


def test_an_entrys_files_are_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given what is synced noted, and whether the entry had its name then
    synced: list[tuple[str, bool]] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.name, (tmp_path / "key").exists()))

    def make(folder: Path) -> None:
        (folder / "below").mkdir()
        (folder / "one").write_text("1")
        (folder / "below" / "two").write_text("2")

    monkeypatch.setattr(os, "fsync", fsync)
    # When an entry is made
    Store(tmp_path).entry("key", make)
    # Then each of its files came first
    assert sorted(synced) == [("one", False), ("two", False)]
