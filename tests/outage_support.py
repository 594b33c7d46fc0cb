"""Help for tests of outages: pilots as processes of their own on a table of DynamoDB Local, and proxies that fail.

`Lives` starts pilots and checks what a pilot that was told to end must have left behind. `Cut` is a TCP proxy whose line
can be cut, with or without the other side noticing. `Faulty` is an HTTP proxy that is slow or answers with errors.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pilot_support import eventually, make_workflow

from pyanamo_core.aws import Clients
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.local.launcher import descendants
from pyanamo_core.model import Cause, Definition, Limits, NestStatus, Run, State

TOLD_TO_END = {75, 0, -signal.SIGTERM}
"""Exit codes of a pilot that got TERM: handed back; it was leaving anyway; its handlers did not stand yet."""


def a_table(clients: Clients, name: str, **workflow: Any) -> Ledger:
    """A table with a workflow of quick rhythms; the ledger under its rules."""
    create_table(clients, name, deletion_protection=False, pitr=False)
    told = {"name": name, "nests": 2, "timing__lease_seconds": 60.0, **workflow}
    Ledger(clients, name).add_workflow(make_workflow(**told))
    return open_ledger(clients, name)[0]


def begin_run(ledger: Ledger, **more: Any) -> Run:
    """A run of the table's newest workflow."""
    version, workflow = ledger.workflow()
    run = Run(
        run_id=more.pop("run_id", "r1"),
        workflow_version=version,
        revision=workflow.revision,
        token="r1",
        limits=Limits(),
        started=time.time(),
        **more,
    )
    return ledger.begin_run(run)


def environment(endpoint: str, table: str, folder: Path, **more: str) -> dict[str, str]:
    """What a pilot of that table has in its environment."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYANAMO_TABLE": table,
        "PYANAMO_SCRATCH": str(folder / "scratch"),
        "PYANAMO_STAGING": str(folder / "staging"),
        **more,
    }


def recorded_once(ledger: Ledger, *, causes: set[Cause]) -> None:
    """Each item is done with one try, each nest of it was recorded by a claim that had it, and claims ended so."""
    for item in ledger.items():
        nests = ledger.nests(item)
        assert (item.state, sorted(nests)) == (State.DONE, list(range(item.nests))), item
        assert {nest.status for nest in nests.values()} == {NestStatus.DONE}
        assert all(nest.fence <= item.fence for nest in nests.values()), item
        ended = {attempt.fence: attempt.cause for attempt in ledger.attempts(item.item_id)}
        assert item.tries == 1, item
        assert ended[item.fence] is Cause.DONE
        assert set(ended.values()) <= causes | {Cause.DONE}, (item, ended)


@dataclass
class Lives:
    """Pilots that are told to end at random times of their lives, some at a time, on a table that never runs empty."""

    ledger: Ledger
    environment: dict[str, str]
    folder: Path
    module: Sequence[str] = ("pyanamo_core.pilot",)
    lanes: int = 1
    rng: random.Random = field(default_factory=lambda: random.Random(11))
    codes: Counter[int] = field(default_factory=Counter[int])
    slowest: float = 0.0
    """From TERM to the end of the process, in seconds."""
    _items: int = 0

    SCRIPT = "bash -c 'sleep 0.$((RANDOM % 6)); seq 2000; echo made $1; sleep 0.1' _"

    def fill(self) -> None:
        """Let there be four items to do for each pilot."""
        for _ in range(4 * self.lanes - self.ledger.counts().open):
            definition = Definition(script=self.SCRIPT, arguments=("1", "2"))
            self.ledger.import_item(f"i{self._items:04d}", "T", definition)
            self._items += 1

    def start(self) -> subprocess.Popen[bytes]:
        """A pilot, from exec on."""
        with (self.folder / "pilots.log").open("ab") as log:
            command = [sys.executable, "-m", *self.module]
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def undisturbed(self) -> float:
        """How long a pilot lives that nobody disturbs (seconds)."""
        self.fill()
        began = time.monotonic()
        pilots = [self.start() for _ in range(self.lanes)]
        assert [pilot.wait(180) for pilot in pilots] == [0] * self.lanes, self.log
        return time.monotonic() - began

    def told_to_end(self, after: Sequence[float]) -> None:
        """Start pilots, send each TERM so many seconds later, and look at what they leave behind."""
        self.fill()
        before = set(descendants(os.getpid()))
        pilots = [self.start() for _ in after]
        threads = [
            threading.Thread(target=self._term, args=(pilot, seconds))
            for pilot, seconds in zip(pilots, after, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = [pilot.returncode for pilot in pilots]
        self.codes.update(codes)
        assert set(codes) <= TOLD_TO_END, (codes, after, self.log)
        # Nothing is left of them: no process, and no item that others would have to wait for.
        assert eventually(lambda: not set(descendants(os.getpid())) - before, 30.0), "a process was left"
        assert eventually(lambda: not self.ledger.counts().locked, 5.0), (codes, after, self.log)

    def _term(self, pilot: subprocess.Popen[bytes], seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            pilot.wait(seconds)
        sent = time.monotonic()
        pilot.terminate()
        try:
            pilot.wait(60)
        except subprocess.TimeoutExpired:
            pilot.kill()
            pilot.wait()
        self.slowest = max(self.slowest, time.monotonic() - sent)

    def random_times(self, times: int, life: float) -> None:
        """So many pilots, each told to end at a random time of a life."""
        for _ in range(times // self.lanes):
            self.told_to_end([self.rng.uniform(0.0, life * 1.1) for _ in range(self.lanes)])

    def finish(self) -> int:
        """Let one pilot do the rest; how many items there were."""
        pilot = self.start()
        assert pilot.wait(300) == 0, self.log
        assert self.ledger.counts().open == 0
        return self._items

    @property
    def log(self) -> str:
        """The end of what the pilots said."""
        return (self.folder / "pilots.log").read_text(errors="replace")[-4000:]


class Cut:
    """A TCP proxy whose line can be cut.

    Args:
        target: `host:port` or an address of what is behind it.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target if "//" in target else f"//{target}")
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._whole = threading.Event()
        self._whole.set()
        self._ended = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """The address to use instead of the target's."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self, *, silently: bool = False) -> None:
        """From now on nothing passes. Silently: connections stay, requests are never answered; else they break."""
        self._whole.clear()
        if not silently:
            self._break()

    def _break(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let everything pass again; what was under way is broken off: its answers never arrive."""
        self._break()
        self._whole.set()

    def close(self) -> None:
        """End it."""
        self._ended = True
        self._listener.close()
        self._break()
        self._whole.set()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._target)
            except OSError:
                continue
            with self._lock:
                self._pairs.add((client, server))
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), client, server:
            while True:
                for each in select.select([client, server], [], [])[0]:
                    chunk = each.recv(65536)
                    if not chunk:
                        return
                    if not self._whole.is_set():
                        self._whole.wait()
                        return  # what was sent into the cut is lost
                    (server if each is client else client).sendall(chunk)
        with self._lock:
            self._pairs.discard((client, server))


class Faulty(http.server.ThreadingHTTPServer):
    """An HTTP proxy before one server: `seconds` before each request, and `status` instead of an answer.

    Websockets pass through after their delay; with a status they are refused like all else.
    """

    daemon_threads = True

    def __init__(self, target: str, *, seconds: float = 0.0, status: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        parts = urlsplit(target)
        self.target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.path = parts.path
        self.seconds, self.status = seconds, status
        self.requests = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The address to use instead of the target's."""
        return f"http://127.0.0.1:{self.server_port}{self.path}"

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are no news."""


class _Forward(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faulty

    def _forward(self) -> None:
        faulty = self.server
        faulty.requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(faulty.seconds)
        if faulty.status:
            self._answer(faulty.status, {"Retry-After": "5"}, b'{"detail": "injected"}')
        elif self.headers.get("Upgrade"):
            self._tunnel()
        else:
            asked = http.client.HTTPConnection(*faulty.target, timeout=60)
            try:
                asked.request(self.command, self.path, body, dict(self.headers))
                told = asked.getresponse()
                skipped = {"transfer-encoding", "content-length", "connection"}
                kept = {name: value for name, value in told.getheaders() if name.lower() not in skipped}
                self._answer(told.status, kept, told.read())
            except OSError:
                self.close_connection = True
            finally:
                asked.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _forward  # noqa: N815 - http.server asks for these

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _tunnel(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError), socket.create_connection(self.server.target) as server:
            head = f"{self.command} {self.path} HTTP/1.1\r\n" + "".join(
                f"{n}: {v}\r\n" for n, v in self.headers.items()
            )
            server.sendall(head.encode() + b"\r\n")
            while True:
                for each in select.select([self.connection, server], [], [])[0]:
                    chunk = each.recv(65536)
                    if not chunk or self.server.status:
                        return
                    (server if each is self.connection else self.connection).sendall(chunk)

    def log_message(self, format: str, *_: Any) -> None: ...


@contextlib.contextmanager
def running(*pilots: subprocess.Popen[Any]) -> Iterator[None]:
    """Pilots that do not outlive the test."""
    try:
        yield
    finally:
        for pilot in pilots:
            pilot.kill()
            pilot.wait()


LONG_FIRST = (
    "bash -c '[ $PYANAMO_ATTEMPT = 1 ] || exit 0;"
    ' trap "" TERM; while true; do date +%s.%N >> {folder}/$PYANAMO_ITEM; sleep 0.2; done\' _'
)
"""A nest that never ends at its item's first claim, does not listen to TERM, and notes when it was alive."""


def cut_off(ledger: Ledger, line: Cut, folder: Path, pilots: int, *, silently: bool) -> str:
    """Cut DynamoDB off from pilots that hold an item each, for 1.5 leases; look at what they do; tell how it went.

    Args:
        ledger: one that does not go through the line.
        folder: where the nests of `LONG_FIRST` note that they are alive.
    """
    rules = ledger.rules
    assert eventually(lambda: len(list(folder.glob("i*"))) >= pilots, 120.0), "the nests never ran"
    # When nothing passes for one and a half leases
    line.cut(silently=silently)
    time.sleep(1.5 * rules.lease_seconds)
    # Then what ran for an item ended before another could have had the item
    alive = {path.name: float(path.read_text().split()[-1]) for path in folder.glob("i*")}
    spare: list[float] = []
    for item_id, last in alive.items():
        item = ledger.item(item_id)
        assert (item.state, item.fence, item.lease_end is not None) == (State.LOCKED, 1, True)
        spare.append((item.lease_end or 0.0) + rules.margin_seconds - last)
        assert spare[-1] > 0, f"{item_id} was worked on when another could have had it"
    time.sleep(0.3)
    assert alive == {path.name: float(path.read_text().split()[-1]) for path in folder.glob("i*")}
    # When the line is mended, they go on
    line.mend()
    return f"{len(alive)} nests ended {min(spare):.1f} to {max(spare):.1f} s before another could have had their items"
