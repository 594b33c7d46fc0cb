"""A Docker engine of the tests' own, PyAnamo's image built in it, and a look into containers.

As root, on a machine where docker.io and debootstrap are installed or can be: the engine has its own socket and folders,
makes no bridge and no firewall rules, and ends with the tests. `TEST_DOCKER_SOCKET` names an engine that runs already,
which keeps its layers between test sessions; `debian:bookworm-slim` must then be in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyanamo_core.errors import PyAnamoError
from pyanamo_core.local.docker import address, connect

ROOT = Path(__file__).parents[1]
BASE = "debian:bookworm-slim"
IMAGE = "pyanamo:test"
LABEL = "pyanamo.source"
PACKAGES = {"dockerd": "docker.io", "debootstrap": "debootstrap"}
NOT_SHOWN = (
    "not shown here: that the image builds, and that its pilots, as real containers, unprivileged and read-only, call "
    "variants, hand back on TERM and are replaced when killed"
)
CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def run(*command: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """A command that must go well; what it said stands in the failure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **more)
    if done.returncode:
        raise AssertionError(
            f"{' '.join(command[:4])} …: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
    return done


def installed() -> None:
    """See that there is a Docker engine and debootstrap; skip where they cannot be had."""
    if os.geteuid() != 0:
        pytest.skip(f"{NOT_SHOWN} (needs root)")
    if missing := [package for program, package in PACKAGES.items() if shutil.which(program) is None]:
        if shutil.which("apt-get") is None:
            pytest.skip(f"{NOT_SHOWN} (needs {' and '.join(missing)})")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (("update",), ("install", "-y", "--no-install-recommends", *missing, "iptables")):
            done = subprocess.run(
                ["apt-get", "-qq", *arguments], env=os.environ | quiet, capture_output=True, text=True, check=False
            )
            if done.returncode:
                pytest.skip(f"{NOT_SHOWN} (apt-get {arguments[0]}: {done.stderr.strip()[-200:]})")


@contextlib.contextmanager
def running_engine(folder: Path) -> Iterator[str]:
    """The socket of a Docker engine with the base image in it; ends with everything in it.

    Skips where it cannot be started (no cgroups, no overlay).
    """
    given = os.environ.get("TEST_DOCKER_SOCKET")
    if given:
        yield given
        return
    installed()
    socket = folder / "d.sock"
    command = [
        "dockerd",
        "-H",
        f"unix://{socket}",
        "--data-root",
        str(folder / "data"),
        "--exec-root",
        str(folder / "exec"),
    ]
    command += ["--pidfile", str(folder / "pid"), "--bridge=none", "--iptables=false"]
    with (folder / "dockerd.log").open("w") as log:
        daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        give_up = time.monotonic() + 60
        while True:
            try:
                connect(str(socket))
                break
            except PyAnamoError:
                if daemon.poll() is not None or time.monotonic() > give_up:
                    pytest.skip(f"{NOT_SHOWN} (dockerd: {(folder / 'dockerd.log').read_text()[-300:]})")
                time.sleep(0.2)
        import_base(folder, str(socket))
        yield str(socket)
    finally:
        daemon.terminate()
        try:
            daemon.wait(60)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        # The engine leaves the network's name space mounted.
        subprocess.run(["umount", str(folder / "exec" / "netns" / "default")], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def import_base(folder: Path, socket: str) -> None:
    """Debian's base by debootstrap as the image that the Dockerfile names; this machine's certificates come along."""
    base = folder / "base"
    run("debootstrap", "--variant=minbase", "bookworm", str(base))
    changes: list[str] = []
    bundle = Path(os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt")
    if bundle.is_file():
        # Beside Debian's own bundle, which the build puts in place; needed where a proxy signs what is fetched.
        shutil.copyfile(bundle, base / "etc" / "machine.crt")
        changes = [f"ENV {name}=/etc/machine.crt" for name in CERTIFICATES]
    shutil.rmtree(base / "var" / "cache" / "apt" / "archives", ignore_errors=True)
    with subprocess.Popen(["tar", "-C", str(base), "-c", "."], stdout=subprocess.PIPE) as packing:
        assert packing.stdout is not None
        name, _, tag = BASE.partition(":")
        connect(socket).import_image_from_stream(packing.stdout, repository=name, tag=tag, changes=changes)
    shutil.rmtree(base)


def built_image(socket: str, source: Path = ROOT, tag: str = IMAGE, **arguments: str) -> Any:
    """Build the image from the checkout, with these build arguments; what the engine tells of it."""
    engine = connect(socket)
    packed = subprocess.run(
        ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    ).stdout
    wanted = [name for name in packed.decode().split("\0") if name and not name.startswith(("tests/", "docs/"))]
    wanted = [name for name in wanted if (source / name).is_file()]
    digest = hashlib.sha256(b"".join(name.encode() + (source / name).read_bytes() for name in wanted)).hexdigest()
    with contextlib.suppress(Exception):  # an engine that is kept may have it from the last time
        told = engine.inspect_image(tag)
        if (told["Config"]["Labels"] or {}).get(LABEL) == digest:
            return told
    with subprocess.Popen(
        ["tar", "-C", str(source), "-c", "--null", "--files-from=-", "--ignore-failed-read"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as packing:
        assert packing.stdin is not None
        assert packing.stdout is not None
        packing.stdin.write("\0".join(wanted).encode())
        packing.stdin.close()
        build(socket, packing.stdout, tag, custom_context=True, labels={LABEL: digest}, buildargs=arguments)
    return engine.inspect_image(tag)


def build(socket: str, packed: Any, tag: str, **more: Any) -> None:
    """Build an image from a packed folder; what the build said stands in the failure."""
    said: list[str] = []
    told = {"dockerfile": "docker/Dockerfile", "network_mode": "host", "rm": True, "timeout": 600} | more
    for line in connect(socket).build(fileobj=packed, tag=tag, decode=True, **told):
        said.append(str(line.get("stream") or line.get("error") or ""))
        assert "error" not in line, "".join(said)[-3000:]


def build_folder(socket: str, folder: Path, tag: str) -> None:
    """What `docker build -t TAG .` does in a folder."""
    with subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE) as packing:
        build(socket, packing.stdout, tag, custom_context=True, dockerfile="Dockerfile")


def containers_of(socket: str) -> dict[str, str]:
    """Batch's job id to container id, of the containers that run now."""
    engine = connect(socket)
    found: dict[str, str] = {}
    for each in engine.containers():
        told = dict(pair.split("=", 1) for pair in engine.inspect_container(each["Id"])["Config"]["Env"])
        if "AWS_BATCH_JOB_ID" in told:
            found[told["AWS_BATCH_JOB_ID"]] = each["Id"]
    return found


def said_in(socket: str, *command: str) -> str:
    """What a program of the image says, run as a job is: unprivileged, read-only root, nothing but /scratch to write to."""
    engine = connect(socket)
    limits = {"NetworkMode": "host", "ReadonlyRootfs": True, "Tmpfs": {"/scratch": "mode=1777,exec"}}
    made = engine.create_container_from_config({"Image": IMAGE, "Cmd": list(command), "HostConfig": limits})["Id"]
    try:
        engine.start(made)
        code = engine.wait(made)["StatusCode"]
        told = engine.logs(made).decode()
        assert code == 0, told
        return told
    finally:
        engine.remove_container(made, force=True)


__all__ = ["BASE", "IMAGE", "address", "build_folder", "built_image", "containers_of", "running_engine", "said_in"]
