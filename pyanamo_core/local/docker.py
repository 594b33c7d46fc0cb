"""Jobs as real containers: a Docker engine in the place of the launcher, one container per attempt.

What a job definition's containerProperties say is done as ECS on EC2 does it: image, user, read-only root, mounts, limits
of memory and CPU, open files 1024:4096. Containers share this machine's network, so that they reach 127.0.0.1. A host's
folder (`volumes` with a `sourcePath`) lies below the cloud's own `hosts/<instance>/`, open to all users as the stack's
launch template makes it: the real path of this machine is never mounted.

They end with the cloud: the janitor, a process of its own, sees the server go and removes every container that carries
its label; what even that leaves is removed by the next `up`.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from pyanamo_core.errors import ExtraMissing, LocalCloudBroken
from pyanamo_core.local.jobs import Plan
from pyanamo_core.local.launcher import started

LABEL: Final = "pyanamo.cloud"
OUT_OF_MEMORY: Final = "OutOfMemoryError: Container killed due to memory usage"
NO_CODE: Final = 137
_OPEN_FILES: Final = {"Name": "nofile", "Soft": 1024, "Hard": 4096}
_CALL_SECONDS: Final = 60
_MiB: Final = 2**20

log = logging.getLogger(__name__)


def address(socket: str) -> str:
    """The address of an engine: a path becomes `unix://path`; `unix://…` and `tcp://…` stay."""
    return socket if "://" in socket else f"unix://{Path(socket).absolute()}"


def connect(socket: str) -> Any:
    """A client of the engine.

    Raises:
        ExtraMissing: the Docker client is not installed. LocalCloudBroken: no engine answers.
    """
    try:
        import docker
    except ImportError as error:
        raise ExtraMissing(what="Jobs as containers", extra="local") from error
    try:
        engine = cast("Any", docker).APIClient(base_url=address(socket), timeout=_CALL_SECONDS)
        engine.ping()
    except Exception as error:
        raise LocalCloudBroken(what=f"the Docker engine at {address(socket)}", reason=str(error), log="") from error
    return engine


def remove_all(socket: str, home: Path) -> int:
    """Remove every container of the cloud with this state folder, running or not; how many there were."""
    engine = connect(socket)
    found = engine.containers(all=True, filters={"label": f"{LABEL}={home}"})
    for each in found:
        with suppress(Exception):  # another one removes it, too
            engine.remove_container(each["Id"], force=True, v=True)
    return len(found)


class Containers:
    """Starts and ends containers; the same three verbs and two calls back as `Processes`.

    Args:
        socket: of the engine.
        home: the cloud's state folder.
        on_started: told the attempt's name and the number of its first process.
        on_exited: told the attempt's name, its exit code and, if the container did not end by itself, why, in ECS's words.
    """

    def __init__(
        self,
        socket: str,
        home: Path,
        on_started: Callable[[str, int], None],
        on_exited: Callable[[str, int, str], None],
    ) -> None:
        self._engine, self._socket, self._home = connect(socket), socket, home
        self._on_started, self._on_exited = on_started, on_exited
        self._lock = threading.Lock()
        self._ids: dict[str, str] = {}
        self._signals: dict[str, str] = {}
        remove_all(socket, home)
        self._janitor = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import janitor; janitor()", address(socket), str(home)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def start(
        self, name: str, plan: Plan, command: Sequence[str], environment: Mapping[str, str], host: str, output: Path
    ) -> None:
        """Start an attempt's container; its output is appended to `output`.

        Args:
            name: of the attempt; the container is `pyanamo-<name>`.
            command: empty takes the image's own.
            host: the instance that it runs on.
        """
        threading.Thread(
            target=self._run,
            args=(name, plan, command, environment, host, output),
            name=f"container {name}",
            daemon=True,
        ).start()

    def term(self, name: str) -> None:
        """SIGTERM to the container's first process."""
        self._signal(name, "SIGTERM")

    def kill(self, name: str) -> None:
        """SIGKILL to everything in it."""
        self._signal(name, "SIGKILL")

    def close(self) -> None:
        """Remove all containers, and wait for that."""
        if self._janitor.stdin is not None:
            self._janitor.stdin.close()
        try:
            self._janitor.wait(30)
        except subprocess.TimeoutExpired:
            self._janitor.kill()
            self._janitor.wait()
        with suppress(Exception):
            remove_all(self._socket, self._home)
        shutil.rmtree(self._home / "hosts", ignore_errors=True)

    def _signal(self, name: str, signal: str) -> None:
        with self._lock:
            container = self._ids.get(name)
            if container is None:  # it is being made: told as soon as it runs
                self._signals[name] = signal
                return
        with suppress(Exception):  # it has ended meanwhile
            self._engine.kill(container, signal)

    def _run(
        self, name: str, plan: Plan, command: Sequence[str], environment: Mapping[str, str], host: str, output: Path
    ) -> None:
        code, error = NO_CODE, ""
        container = ""
        try:
            engine = connect(self._socket)  # of its own: a connection serves one thread
            container, error = self._make(engine, name, plan, command, environment, host)
            if container:
                code, error = self._follow(engine, name, container, output)
        except Exception as failed:  # the engine's client raises a family of its own, and requests' another
            log.exception("container of %s", name)
            error = error or f"CannotInspectContainerError: {failed}"
        finally:
            with self._lock:
                self._ids.pop(name, None)
                self._signals.pop(name, None)
            if container:
                with suppress(Exception):
                    self._engine.remove_container(container, force=True, v=True)
            (self._home / "processes" / name).unlink(missing_ok=True)
            self._on_exited(name, code, error)

    def _make(
        self, engine: Any, name: str, plan: Plan, command: Sequence[str], environment: Mapping[str, str], host: str
    ) -> tuple[str, str]:
        """Create and start: the container's id, or why there is none."""
        try:
            engine.inspect_image(plan.image)
        except Exception:  # noqa: BLE001 - not here: as an ECS host does, ask the registry for it
            try:
                engine.pull(plan.image)
            except Exception as failed:  # noqa: BLE001 - told as the attempt's reason
                return "", f"CannotPullContainerError: {_told(failed)}"
        config: dict[str, Any] = {
            "Image": plan.image,
            "Env": [f"{key}={value}" for key, value in environment.items()],
            "User": str(plan.container.get("user") or ""),
            "Labels": {LABEL: str(self._home)},
            "HostConfig": host_config(plan, self._home / "hosts" / host),
        }
        if command:
            config["Cmd"] = list(command)
        try:
            made = str(engine.create_container_from_config(config, name=f"pyanamo-{name}")["Id"])
        except Exception as failed:  # noqa: BLE001 - as above
            return "", f"CannotCreateContainerError: {_told(failed)}"
        try:
            engine.start(made)
        except Exception as failed:  # noqa: BLE001 - as above
            with suppress(Exception):
                engine.remove_container(made, force=True, v=True)
            return "", f"CannotStartContainerError: {_told(failed)}"
        return made, ""

    def _follow(self, engine: Any, name: str, container: str, output: Path) -> tuple[int, str]:
        """Until it has ended: exit code, and why if the kernel ended it for its memory."""
        pid = int(engine.inspect_container(container)["State"]["Pid"])
        self._note(name, pid)
        with self._lock:
            self._ids[name] = container
            signal = self._signals.pop(name, "")
        self._on_started(name, pid)
        if signal:
            self._signal(name, signal)
        with output.open("ab", buffering=0) as file:
            for piece in engine.logs(container, stdout=True, stderr=True, stream=True, follow=True):
                file.write(piece)
        engine.wait(container, timeout=None)
        state = engine.inspect_container(container)["State"]
        return int(state["ExitCode"]), OUT_OF_MEMORY if state.get("OOMKilled") else ""

    def _note(self, name: str, pid: int) -> None:
        """Write the first process down for `status` and for whoever has to sweep after us."""
        if pid:
            (self._home / "processes" / name).write_text(f"{pid}:{started(pid)}")


def host_config(plan: Plan, host: Path) -> dict[str, Any]:
    """What ECS tells the engine for a job of this definition.

    Args:
        host: the folder that stands for the instance's disk.
    """
    told = plan.container
    ulimits = [
        {"Name": each["name"], "Soft": int(each["softLimit"]), "Hard": int(each["hardLimit"])}
        for each in cast("list[dict[str, Any]]", told.get("ulimits") or [])
    ]
    if not any(each["Name"] == "nofile" for each in ulimits):
        ulimits.append(_OPEN_FILES)
    linux = cast("dict[str, Any]", told.get("linuxParameters") or {})
    config: dict[str, Any] = {
        "NetworkMode": "host",
        "Memory": plan.memory_mb * _MiB,
        "MemorySwap": plan.memory_mb * _MiB,
        "CpuShares": max(2, int(plan.vcpus * 1024)),
        "ReadonlyRootfs": _is(told.get("readonlyRootFilesystem")),
        "Privileged": _is(told.get("privileged")),
        "Ulimits": ulimits,
        "Binds": binds(told, host),
        "Tmpfs": {
            str(each["containerPath"]): ",".join([f"size={int(each['size'])}m", *(each.get("mountOptions") or [])])
            for each in cast("list[dict[str, Any]]", linux.get("tmpfs") or [])
        },
        "LogConfig": {"Type": "json-file", "Config": {}},
    }
    if _is(linux.get("initProcessEnabled")) and shutil.which("docker-init"):
        config["Init"] = True
    return config


def binds(told: Mapping[str, Any], host: Path) -> list[str]:
    """Mounts as the engine takes them, from the definition's `volumes` and `mountPoints`; folders of the host are made."""
    sources: dict[str, str] = {}
    for volume in cast("list[dict[str, Any]]", told.get("volumes") or []):
        path = str(cast("dict[str, Any]", volume.get("host") or {}).get("sourcePath") or "")
        if path:
            folder = host / path.strip("/")
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)
            sources[str(volume["name"])] = str(folder)
    return [
        f"{sources[str(point['sourceVolume'])]}:{point['containerPath']}{':ro' if _is(point.get('readOnly')) else ''}"
        for point in cast("list[dict[str, Any]]", told.get("mountPoints") or [])
        if str(point.get("sourceVolume")) in sources
    ]


def _is(told: object) -> bool:
    """A yes or no of a definition; CloudFormation may have made a word of it."""
    return str(told).lower() == "true"


def _told(error: Exception) -> str:
    return str(getattr(error, "explanation", "") or error)


def janitor() -> None:
    """Wait until the cloud's server has gone, then remove its containers; the command line names socket and home."""
    sys.stdin.buffer.read()
    remove_all(sys.argv[1], Path(sys.argv[2]))
