"""Fetching GATK's jars: broken downloads, wrong bytes, going on, two at once; finding it again without a network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyanamo_core.errors import DownloadFailed, GatkMissing, GatkPairRefused, WrongHash
from pyanamo_core.genomics.gatk import (
    Gatk,
    Jar,
    bundled_java,
    cache_folder,
    fetch_jars,
    find_gatk,
    java_major,
    prepare,
    read_lock,
    train_aot_cache,
    verify_jars,
)

CUT = "cut-1.0.jar"


class Repository(SimpleHTTPRequestHandler):
    """A Maven repository that breaks off in the middle of one jar, and counts what it is asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path.rpartition("/")[2])
        if not self.path.endswith(CUT):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 100)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Served:
    """The repository's address, its files, and the lock lines that fit them."""

    def __init__(self, folder: Path, address: str, handler: type[Repository]) -> None:
        self.folder, self.address, self.handler = folder, address, handler

    def add(self, artifact: str, content: bytes) -> Jar:
        path = self.folder / "org" / "x" / artifact / "1.0"
        path.mkdir(parents=True)
        (path / f"{artifact}-1.0.jar").write_bytes(content)
        return Jar("org.x", artifact, "1.0", hashlib.sha256(content).hexdigest())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "repository"
    folder.mkdir()
    handler = type("Handler", (Repository,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Served(folder, f"http://127.0.0.1:{server.server_port}", handler)
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_broken_download_keeps_what_came_and_the_next_try_goes_on(served: Served, tmp_path: Path) -> None:
    # Given a repository that breaks off in the middle of the second of three jars
    jars = [served.add("one", b"1" * 50), served.add("cut", b"x" * 1000), served.add("three", b"3" * 50)]
    cache = tmp_path / "cache"
    # When they are fetched
    with pytest.raises(DownloadFailed, match=r"cut-1\.0\.jar could not be fetched: .*run the same command again"):
        fetch_jars(cache, jars, repository=served.address, report=lambda _: None)
    # Then the two others are there, no part of the broken one is, and nothing temporary
    assert sorted(p.name for p in (cache / "jars").iterdir()) == ["one-1.0.jar", "three-1.0.jar"]
    assert [p.name for p in cache.iterdir()] == ["jars"]
    # And the next try asks for the missing one only
    served.handler.asked.clear()
    with pytest.raises(DownloadFailed):
        fetch_jars(cache, jars, repository=served.address, report=lambda _: None)
    assert {name for name in served.handler.asked if name.endswith(".jar")} == {CUT}


def test_a_jar_with_other_bytes_is_refused_with_both_hashes(served: Served, tmp_path: Path) -> None:
    good = served.add("one", b"1" * 50)
    bad = Jar("org.x", "one", "1.0", "0" * 64)
    with pytest.raises(WrongHash, match=rf"one-1\.0\.jar came with 50 bytes and SHA-256 {good.sha256}.*expects 0000"):
        fetch_jars(tmp_path / "cache", [bad], repository=served.address, report=lambda _: None)
    assert list((tmp_path / "cache" / "jars").iterdir()) == []


def test_a_jar_that_does_not_exist_or_a_repository_that_is_down_is_a_clear_error(
    served: Served, tmp_path: Path
) -> None:
    for address in (served.address, "http://127.0.0.1:9"):
        with pytest.raises(DownloadFailed, match="Check the network"):
            fetch_jars(tmp_path, [Jar("org.x", "none", "1.0", "0" * 64)], repository=address, report=lambda _: None)


def test_a_jar_that_changed_on_disk_is_fetched_again(served: Served, tmp_path: Path) -> None:
    jar = served.add("one", b"1" * 50)
    fetch_jars(tmp_path, [jar], repository=served.address, report=lambda _: None)
    (tmp_path / "jars" / jar.name).write_bytes(b"something else")
    verify_jars(tmp_path, [jar])
    fetch_jars(tmp_path, [jar], repository=served.address, report=lambda _: None)
    assert (tmp_path / "jars" / jar.name).read_bytes() == b"1" * 50


def test_without_jars_the_error_names_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(GatkMissing, match=r"python -m pyanamo_core\.genomics\.gatk"):
        find_gatk({"PYANAMO_GATK_CACHE": str(tmp_path)})


def test_once_there_gatk_is_found_and_prepared_without_a_network() -> None:
    # Given the machine's own cache, filled once
    prepare()
    # When a process prepares GATK again with a repository where nobody listens
    environ = {**os.environ, "PYANAMO_MAVEN_REPOSITORY": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "pyanamo_core.genomics.gatk"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    # Then it is ready, and its command is the same as before with the cache in it
    assert done.returncode == 0, done.stderr
    assert "GATK 4.6.2.0 on Java 25, with AOT cache: ready" in done.stdout
    gatk = find_gatk()
    command = gatk.java_command("HaplotypeCaller", ["-R", "x"], heap_mb=512, short=True)
    assert f"-XX:AOTCache={gatk.aot_cache}" in command
    assert "-XX:TieredStopAtLevel=1" in command
    assert "-XX:TieredStopAtLevel=1" not in gatk.java_command("HaplotypeCaller", [], heap_mb=512, short=False)


def test_two_processes_that_prepare_at_once_wait_for_each_other(tmp_path: Path) -> None:
    # Given a cache that lacks one jar of the machine's own (links, not copies)
    prepare()
    own = cache_folder()
    cache = tmp_path / "cache"
    (cache / "jars").mkdir(parents=True)
    for jar in read_lock():
        (cache / "jars" / jar.name).symlink_to(own / "jars" / jar.name)
    program = (
        "from pathlib import Path; from pyanamo_core.genomics.gatk import prepare;"
        f"print(prepare(Path({str(cache)!r}), train=False).version)"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("4.6.2.0" in text for text in said)


def test_a_jvm_that_makes_no_aot_cache_is_no_error(tmp_path: Path) -> None:
    # Given a "JVM" that ends with an error
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho no cache here >&2\nexit 3\n")
    java.chmod(0o755)
    told: list[str] = []
    train_aot_cache(Gatk(java, ("-cp", "x", "Main"), "4.6.2.0", 25), tmp_path / "aot" / "x.aot", told.append)
    assert not (tmp_path / "aot" / "x.aot").exists()
    assert "GATK will start plainly. no cache here" in told[0]


def test_an_aot_cache_that_does_not_fit_is_silently_left_aside(tmp_path: Path) -> None:
    # Given a cache that is damaged
    prepare()
    damaged = tmp_path / "damaged.aot"
    damaged.write_bytes(b"no cache" * 1000)
    gatk = replace(find_gatk(), aot_cache=damaged)
    # When GATK is started with it
    command = [*gatk.java_command("HaplotypeCaller", [], heap_mb=256, short=True)]
    command = [word for word in command if word not in ("--verbosity", "WARNING", "--QUIET", "true")]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    # Then it starts plainly and says nothing of it
    assert (done.returncode, done.stderr) == (0, "")
    assert "(GATK) v4.6.2.0" in done.stdout


# ------------------------------------------------------------------------------------------------------ the user's pair


def user_jar(folder: Path, version: str) -> Path:
    jar = folder / f"gatk-package-{version}-local.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", f"Manifest-Version: 1.0\nImplementation-Version: {version}\n")
    return jar


def user_java(folder: Path, version: str) -> Path:
    java = folder / f"java-{version}"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize(
    ("gatk", "java", "fits"),
    [
        ("4.6.1.0", "17.0.2", True),
        ("4.4.0.0", "21", True),
        ("4.6.1.0", "11.0.9", False),
        ("4.6.1.0", "1.8.0_292", False),
        ("4.2.6.1", "1.8.0_292", True),
        ("4.2.6.1", "17.0.2", False),
    ],
)
def test_a_pair_of_the_user_that_cannot_work_is_refused(tmp_path: Path, gatk: str, java: str, fits: bool) -> None:
    environ = {"GATK_JAR": str(user_jar(tmp_path, gatk)), "JAVA": str(user_java(tmp_path, java))}
    if not fits:
        with pytest.raises(GatkPairRefused, match=rf"GATK {gatk} cannot run on Java .*: GATK .* needs Java"):
            find_gatk(environ)
        return
    found = find_gatk(environ)
    command = found.java_command("HaplotypeCaller", [], heap_mb=512, short=True)
    assert command[0] == environ["JAVA"]
    assert environ["GATK_JAR"] in command
    assert not any("AOTCache" in word for word in command)
    assert any("-Xlog" in word for word in command) == (not java.startswith("1.8"))


def test_a_pair_that_is_not_there_or_no_jar_is_refused_by_name(tmp_path: Path) -> None:
    java = user_java(tmp_path, "17")
    with pytest.raises(GatkPairRefused, match="is no file"):
        find_gatk({"GATK_JAR": str(tmp_path / "none.jar"), "JAVA": str(java)})
    (tmp_path / "text.jar").write_text("no jar")
    with pytest.raises(GatkPairRefused, match="is no jar"):
        find_gatk({"GATK_JAR": str(tmp_path / "text.jar"), "JAVA": str(java)})


def test_the_bundled_java_is_the_one_the_cache_is_made_for() -> None:
    assert java_major(bundled_java()) == 25
