"""The server process of the local cloud: everything put together, from the first port to the last child."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import os
import secrets
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyanamo_core.aws import Clients
from pyanamo_core.errors import ExtraMissing, PyAnamoError
from pyanamo_core.local.container import SECRET_KEY
from pyanamo_core.local.front import ENGINE_KEY, Application, Front
from pyanamo_core.local.http_server import Server
from pyanamo_core.local.launcher import started
from pyanamo_core.local.state import Record, prepare, write_record

if TYPE_CHECKING:
    from pyanamo_core.local.dynamodb import DynamoDbLocal

log = logging.getLogger("pyanamo.local")


def _load_moto() -> Application:
    # moto would take the first label of a host name for a bucket; this cloud has a number for a host.
    os.environ["S3_IGNORE_SUBDOMAIN_BUCKETNAME"] = "true"
    try:
        from moto.moto_server import werkzeug_app  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise ExtraMissing(what="The local cloud", extra="local") from error
    return werkzeug_app.DomainDispatcherApplication(werkzeug_app.create_backend_app)


def _watch_owner(owner: int, shut_down: Callable[[], None]) -> None:
    """End with the process that owns this cloud, however that ends."""
    try:
        handle = os.pidfd_open(owner)
    except ProcessLookupError:
        shut_down()
        return
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    poll.poll()
    shut_down()


def serve(options: argparse.Namespace) -> None:
    """Run until told to end; says on `ready_fd`, in one line of JSON, that it is ready or why it cannot be."""
    home: Path = options.home
    prepare(home)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stop.set())
    region: str = options.region
    server = Server(options.port)
    port = int(server.server_address[1])
    endpoint = f"http://127.0.0.1:{port}"

    @cache
    def clients(region: str) -> Clients:
        # Patient, for on a busy machine moto may take long, and a repeated CreateStack would find its own first try.
        return Clients.with_keys(ENGINE_KEY, SECRET_KEY, endpoint, region, read_seconds=120)

    ledger: DynamoDbLocal | None = None
    ledger_failed: list[BaseException] = []

    def start_ledger() -> None:
        nonlocal ledger
        from pyanamo_core.local.dynamodb import DynamoDbLocal

        try:
            ledger = DynamoDbLocal(home / "dynamodb")
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which raises it
            ledger_failed.append(error)

    # Java and moto both need seconds to start: side by side.
    starting = threading.Thread(target=start_ledger)
    if options.ledger == "dynamodb-local":
        starting.start()
    moto = _load_moto()
    from pyanamo_core.local.batch_api import BatchApi
    from pyanamo_core.local.engine import Engine
    from pyanamo_core.local.probe import REGION, probe

    version = importlib.metadata.version("moto")
    engine = Engine(home, endpoint, clients, stop_seconds=options.stop_seconds)
    try:
        if options.ledger == "dynamodb-local":
            starting.join()
            if ledger_failed:
                raise ledger_failed[0]
        record = Record(
            pid=os.getpid(),
            start_time=started(os.getpid()),
            port=port,
            token=secrets.token_hex(16),
            ledger=options.ledger,
            region=region,
            started_at=time.time(),
            moto=version,
            dynamodb_endpoint=ledger.endpoint if ledger else "",
            docker=options.docker,
        )

        def health() -> dict[str, Any]:
            return {"pid": record.pid, "ledger": record.ledger, "moto": version, "region": region}

        batch = BatchApi(engine, clients, shortest_timeout_seconds=options.shortest_timeout)
        server.application = Front(
            moto,
            engine,
            batch,
            token=record.token,
            region=region,
            dynamodb=ledger.port if ledger else None,
            health=health,
            shut_down=stop.set,
            clients=clients,
        )
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 60}, daemon=True).start()
        probe(clients(REGION), version)
        if options.docker:
            engine.contain(options.docker)
        write_record(home, record)
        if options.owner:
            threading.Thread(target=_watch_owner, args=(options.owner, stop.set), daemon=True).start()
        _tell(options.ready_fd, {"ready": endpoint})
        log.warning("ready on %s with moto %s, ledger %s", endpoint, version, options.ledger)
        stop.wait()
    finally:
        engine.close()
        if ledger is not None:
            ledger.close()
        server.server_close()
        (home / "state.json").unlink(missing_ok=True)
        shutil.rmtree(home / "jobs", ignore_errors=True)


def _tell(ready_fd: int, said: dict[str, Any]) -> None:
    if ready_fd >= 0:
        with os.fdopen(ready_fd, "w") as out:
            out.write(json.dumps(said) + "\n")


def main(arguments: list[str]) -> int:
    """`serve`'s command line; only `pyanamo_core.local.cloud` calls it."""
    parser = argparse.ArgumentParser(prog="pyanamo_core.local serve")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--ledger", choices=["moto", "dynamodb-local"], default="moto")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--owner", type=int, default=0)
    parser.add_argument("--ready-fd", type=int, default=-1)
    parser.add_argument("--stop-seconds", type=float, default=30.0)
    parser.add_argument("--shortest-timeout", type=int, default=60)
    parser.add_argument("--docker", default="")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
    try:
        serve(options)
    except PyAnamoError as error:
        _tell(options.ready_fd, {"error": type(error).__name__, "message": str(error)})
        return error.exit_code
    return 0
