"""`pyanamo local up / status / env / down` as functions: a process of its own on 127.0.0.1 that speaks AWS.

    cloud = up(Options())
    cloud.clients().client("s3").create_bucket(Bucket="results")
    cloud.terminate_host(job_id)         # misbehave on demand
    down()

What it holds (buckets, tables, jobs) lives in its memory and goes with it.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, cast

from pyanamo_core.aws import Clients
from pyanamo_core.errors import LocalCloudBroken, LocalCloudDiffers, LocalCloudMissing, PyAnamoError
from pyanamo_core.local import docker
from pyanamo_core.local.container import ACCESS_KEY, SECRET_KEY, cloud_environment
from pyanamo_core.local.state import (
    Record,
    default_home,
    end,
    locked,
    read_record,
    running_processes,
    sweep,
)

LedgerKind = Literal["moto", "dynamodb-local"]
START_SECONDS: Final = 120
DOWN_SECONDS: Final = 20
# Set by the user for real AWS, these would lead calls away from the local cloud or hand it real keys.
LEADING_AWAY: Final = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_BATCH",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
)
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Options:
    """How a local cloud is started.

    Attributes:
        home: its state folder; None is `$XDG_STATE_HOME/pyanamo/local`.
        ledger: who keeps DynamoDB's tables.
        region: whose endpoints it plays.
        port: 0 takes a free one.
        owner: it ends with this process (a number); 0 lets it run until `down`.
        stop_seconds: between SIGTERM and SIGKILL of a job (Batch: 30).
        shortest_timeout_seconds: the least attemptDurationSeconds that SubmitJob takes (Batch: 60).
        docker: socket of a Docker engine in which jobs run as containers; empty: they are processes of this machine.
    """

    home: Path | None = None
    ledger: LedgerKind = "moto"
    region: str = "us-east-1"
    port: int = 0
    owner: int = 0
    stop_seconds: float = 30.0
    shortest_timeout_seconds: int = 60
    docker: str = ""


@dataclass(frozen=True)
class LocalCloud:
    """A local cloud that runs, and the means to make it misbehave."""

    home: Path
    endpoint: str
    pid: int
    region: str
    ledger: str
    moto: str
    started_at: float
    log: Path
    dynamodb_endpoint: str = ""
    docker: str = ""
    token: str = field(default="", repr=False)

    def environment(self) -> dict[str, str]:
        """Variables by which any SDK, and PyAnamo, finds this cloud."""
        return cloud_environment(self.endpoint, self.region)

    def clients(self, region: str | None = None) -> Clients:
        """boto3 clients of this cloud, whatever the environment says."""
        return Clients.with_keys(ACCESS_KEY, SECRET_KEY, self.endpoint, region or self.region)

    def health(self) -> dict[str, Any]:
        """What the server says of itself: pid, ledger, moto, running and waiting jobs."""
        return self._ask("GET", "health", {})

    def processes(self) -> list[int]:
        """Processes of jobs that run now."""
        return running_processes(self.home)

    def misbehave(self, kind: str, **facts: Any) -> None:
        """Ask for a misbehaviour; docs/local-cloud.md lists kinds and facts.

        Raises:
            LocalCloudBroken: the cloud refused (no such job, queue or kind).
        """
        self._ask("POST", "misbehave", {"kind": kind} | facts)

    def behave(self) -> None:
        """Drop every planned misbehaviour and every bucket's rule; stop watching."""
        self.misbehave("clear")

    def forget(self, job_id: str) -> None:
        """Batch no longer knows this job (or array); its processes run on."""
        self.misbehave("forget", job=job_id)

    def terminate_host(self, job_id: str) -> None:
        """Kill a running job, and all others on its host, as when the instance is terminated."""
        self.misbehave("terminate_host", job=job_id)

    def out_of_memory(self, job_id: str) -> None:
        """Kill a running job as the kernel does when its container's memory is used up."""
        self.misbehave("out_of_memory", job=job_id)

    def spot_notice(self, job_id: str, seconds: float = 120.0) -> None:
        """Give a running job's host a Spot notice, and terminate the host after so many seconds."""
        self.misbehave("spot_notice", job=job_id, seconds=seconds)

    def set_hosts(self, queue: str, hosts: Sequence[Mapping[str, Any]]) -> None:
        """Run a queue's jobs on these hosts instead of one made-up instance for each; none: as before.

        Args:
            hosts: of each `vcpus` and, where something is wrong with it, `environment`: variables that its jobs find
                besides their own. The first one with room gets the next job. A terminated host is replaced by a sound one.
        """
        self.misbehave("hosts", queue=queue, hosts=list(hosts))

    def hold(self, queue: str, reason: str = "") -> None:
        """Keep a queue's jobs RUNNABLE, for this reason."""
        self.misbehave("hold", queue=queue, reason=reason)

    def release(self, queue: str) -> None:
        """Let a held queue go on."""
        self.misbehave("release", queue=queue)

    def invalidate(self, environment: str, reason: str = "") -> None:
        """Make a compute environment INVALID for this reason, so that it starts nothing; an empty one mends it."""
        self.misbehave("invalid", environment=environment, reason=reason)

    def refuse_to_start(self, queue: str, reason: str = "") -> None:
        """Let a queue's containers fail to start (`CannotPullContainerError: …`); an empty reason mends it."""
        self.misbehave("unstartable", queue=queue, reason=reason)

    def throttle(self, service: str, operation: str = "", times: int = 1) -> None:
        """Refuse the next calls as the service does when there are too many (-1: until `behave`)."""
        self.misbehave("throttle", service=service, operation=operation, times=times)

    def delay(self, service: str, operation: str, seconds: float, times: int = 1) -> None:
        """Let the next calls wait first."""
        self.misbehave("delay", service=service, operation=operation, seconds=seconds, times=times)

    def lose(self, service: str, operation: str, times: int = 1) -> None:
        """Do what the next calls ask, and close the connection without an answer."""
        self.misbehave("lose", service=service, operation=operation, times=times)

    def drop(self, service: str, operation: str, times: int = 1) -> None:
        """Close the connection of the next calls, doing nothing."""
        self.misbehave("drop", service=service, operation=operation, times=times)

    def answer(self, service: str, operation: str, shape: str, *, times: int = 1, path: str = "", **facts: Any) -> None:
        """Answer the next calls with AWS's error body.

        Args:
            shape: `expired_token`, `invalid_token`, `access_denied`, `wrong_region`, `requester_pays`, `throttled`,
                `internal_error`, or a code of AWS's (then `message` and `status` may be given).
            path: only requests whose path contains this, e.g. `/bucket/key`.
            times: -1 until `behave`.
        """
        self.misbehave("answer", service=service, operation=operation, shape=shape, times=times, path=path, **facts)

    def bucket_rule(self, bucket: str, access: str = "", region: str = "") -> None:
        """Let a bucket refuse requests of the wrong shape as S3 does, until `behave`.

        Args:
            access: `role` refuses unsigned requests, `anonymous` signed ones (as where a role lacks the permission that
                everybody has), `requester_pays` those that do not say who pays.
            region: requests signed for another one are answered with PermanentRedirect.
        """
        self.misbehave("bucket", bucket=bucket, access=access, region=region)

    def watch(self) -> None:
        """Remember requests from now on, until `behave`; what was remembered before is forgotten."""
        self._ask("POST", "watch", {})

    def seen(self) -> list[dict[str, Any]]:
        """Requests since `watch`, the fields of `pyanamo_core.local.buckets.Request`."""
        return cast("list[dict[str, Any]]", self._ask("GET", "seen", {})["requests"])

    def units(self) -> dict[str, float]:
        """Capacity units that DynamoDB's calls took since `watch`, by table and kind: `Calls write`, `Calls read`.

        DynamoDB Local tells them (`ledger="dynamodb-local"`); of moto there are none.
        """
        return cast("dict[str, float]", self._ask("GET", "seen", {})["units"])

    def _ask(self, method: str, path: str, told: dict[str, Any]) -> dict[str, Any]:
        port = int(self.endpoint.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            headers = {"X-Pyanamo-Token": self.token, "Content-Type": "application/json"}
            connection.request(method, f"/_pyanamo/{path}", json.dumps(told), headers)
            answer = connection.getresponse()
            body = cast("dict[str, Any]", json.loads(answer.read() or b"{}"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LocalCloudBroken(what=self.endpoint, reason=str(error), log=f"(see {self.log})") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise LocalCloudBroken(what=path, reason=body.get("message", f"HTTP {answer.status}"), log="")
        return body


def up(options: Options | None = None) -> LocalCloud:
    """Start a local cloud, or find the one that runs.

    Whatever an earlier one left behind is swept first. Returns when it takes requests and its probe has passed.

    Raises:
        LocalCloudDiffers: one runs already, with another ledger or region.
        LocalCloudBroken: it does not start; names the log.
        ExtraMissing: moto (or Java) is not installed.
    """
    options = options or Options()
    if options.docker:
        options = replace(options, docker=docker.address(options.docker))
    home = _home(options.home)
    with locked(home):
        record = read_record(home)
        if record is not None and record.alive:
            for name, found, asked in (
                ("ledger", record.ledger, options.ledger),
                ("region", record.region, options.region),
                ("docker", record.docker, options.docker),
            ):
                if found != asked:
                    raise LocalCloudDiffers(home=home, found=f"{name} {found}", asked=asked)
            return _cloud(home, record)
        _sweep(home, record)
        _start(home, options)
        record = read_record(home)
        if record is None:
            raise LocalCloudBroken(what=str(home), reason="it ended at once", log=_tail(home / "server.log"))
        return _cloud(home, record)


def status(home: Path | None = None) -> LocalCloud | None:
    """The local cloud that runs with this state folder; None if none does."""
    record = read_record(_home(home))
    return _cloud(_home(home), record) if record is not None and record.alive else None


def env(home: Path | None = None) -> dict[str, str]:
    """Variables that lead a shell's commands to the local cloud.

    Raises:
        LocalCloudMissing: none runs.
    """
    cloud = status(home)
    if cloud is None:
        raise LocalCloudMissing(home=_home(home))
    return cloud.environment()


def export_lines(variables: Mapping[str, str]) -> str:
    """The same for `eval "$(…)"`: unset what would lead away, export the rest, quoted for a shell."""
    lines = [f"unset {' '.join(LEADING_AWAY)}"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    return "\n".join(lines) + "\n"


def down(home: Path | None = None) -> bool:
    """End the local cloud and everything that it runs, and wait for that: TERM, then KILL.

    Returns:
        True if one was running.
    """
    home = _home(home)
    if not home.exists():
        return False
    with locked(home):
        record = read_record(home)
        was_alive = record is not None and record.alive
        if record is not None:
            end(record.pid, record.start_time, DOWN_SECONDS)
            if child := _children.pop(record.pid, None):
                with suppress(subprocess.TimeoutExpired):
                    child.wait(5)
        _sweep(home, record)
        return was_alive


def _sweep(home: Path, record: Record | None) -> None:
    """Remove what an unclean end has left: processes, containers, folders of jobs."""
    sweep(home)
    if record is not None and record.docker:
        with suppress(PyAnamoError):  # without its engine nothing of it runs either
            docker.remove_all(record.docker, home)
    for name in ("jobs", "hosts"):
        shutil.rmtree(home / name, ignore_errors=True)


def _home(home: Path | None) -> Path:
    return (home or default_home()).expanduser().resolve()


def _cloud(home: Path, record: Record) -> LocalCloud:
    return LocalCloud(
        home=home,
        endpoint=record.endpoint,
        pid=record.pid,
        region=record.region,
        ledger=record.ledger,
        moto=record.moto,
        started_at=record.started_at,
        log=home / "server.log",
        dynamodb_endpoint=record.dynamodb_endpoint,
        docker=record.docker,
        token=record.token,
    )


def _start(home: Path, options: Options) -> None:
    reads, writes = os.pipe()
    command = [sys.executable, "-m", "pyanamo_core.local", "serve", "--home", str(home), "--ready-fd", str(writes)]
    command += ["--ledger", options.ledger, "--region", options.region, "--port", str(options.port)]
    command += ["--owner", str(options.owner), "--stop-seconds", str(options.stop_seconds)]
    command += ["--shortest-timeout", str(options.shortest_timeout_seconds), "--docker", options.docker]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PYTEST_"))}
    with (home / "server.log").open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writes],
            start_new_session=True,
            # Whatever region or profile the shell has for real AWS is no business of this server.
            env=environment | cloud_environment("", options.region) | {"AWS_ENDPOINT_URL": ""},
            cwd=home,
        )
    os.close(writes)
    said = _first_line(reads, START_SECONDS)
    os.close(reads)
    if "ready" in said:
        _children[child.pid] = child
        return
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(10)
    if child.poll() is None:
        child.kill()
        child.wait()
    sweep(home)
    if "message" in said:
        raise _error(said["error"], said["message"])
    raise LocalCloudBroken(what="the server", reason=f"exit code {child.returncode}", log=_tail(home / "server.log"))


def _first_line(handle: int, seconds: float) -> dict[str, str]:
    """The JSON that the server writes when it is ready, or cannot be; {} if it says nothing."""
    import select

    give_up, heard = time.monotonic() + seconds, b""
    while not heard.endswith(b"\n"):
        readable, _, _ = select.select([handle], [], [], max(0.0, give_up - time.monotonic()))
        piece = os.read(handle, 65536) if readable else b""
        if not piece:
            break
        heard += piece
    try:
        return cast("dict[str, str]", json.loads(heard))
    except ValueError:
        return {}


def _error(name: str, message: str) -> PyAnamoError:
    """The server's error, of its own class here too; its message is complete already."""
    from pyanamo_core import errors

    kind = getattr(errors, name, LocalCloudBroken)
    return cast("PyAnamoError", kind(message))


def _tail(path: Path) -> str:
    with suppress(OSError):
        return "\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
    return ""
