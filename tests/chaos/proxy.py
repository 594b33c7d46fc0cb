"""A proxy in front of DynamoDB that is a bad network: it loses answers, and lets requests arrive late or twice.

It sits in the way of real boto3 clients, so that the SDK's own repetitions are part of what is tested; all tries of one
call carry one `amz-sdk-invocation-id`. What is on its way here outlives the pilot that sent it.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
import zlib
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from history import LOST, WON, History

AIMED_SECONDS = 0.2
WRITES = frozenset({"UpdateItem", "PutItem", "TransactWriteItems", "DeleteItem"})


@dataclass(frozen=True)
class Weather:
    """Rates (0-1) per request, except `silenced`, which is per call.

    Args:
        lost: answers lost after the request arrived.
        silenced: calls none of whose tries is answered; each try arrives or not.
        held: writes that arrive up to `late_seconds` late: their connection is cut at once, newer ones overtake them.
        copied: writes that arrive a second time, up to `late_seconds` later.
    """

    lost: float = 0.05
    silenced: float = 0.01
    held: float = 0.01
    copied: float = 0.02
    late_seconds: float = 10.0


class Cut(Exception):
    """The client's connection ends here."""


class Proxy:
    """Listens on a port of 127.0.0.1 in a thread of its own, as a context.

    Args:
        port: of the DynamoDB behind it.
        history: is told of each late write, and what became of it.
    """

    def __init__(self, port: int, weather: Weather, history: History, seed: int) -> None:
        self._target, self._weather, self._history = port, weather, history
        self._rng = random.Random(seed)
        self._salt = str(seed).encode()
        self._loop = asyncio.new_event_loop()
        self._late: set[asyncio.Task[None]] = set()
        self._serving: set[asyncio.Task[Any]] = set()  # the event loop itself holds tasks weakly
        self._calm = False
        self._old: dict[str, deque[bytes]] = {}
        self.port = 0
        self.counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    @property
    def calmed(self) -> bool:
        return self._calm

    def calm(self) -> None:
        """From now on it passes everything on as it is; what is late still comes."""
        self._calm = True

    def deliver(self, seconds: float) -> None:
        """Wait until nothing is on its way any more."""

        async def delivered() -> None:
            while self._late:
                await asyncio.wait(set(self._late))

        asyncio.run_coroutine_threadsafe(delivered(), self._loop).result(seconds)

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512, limit=1 << 20)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _close(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    # ------------------------------------------------------------------ connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while True:
                request = await _message(reader)
                if upstream is None:
                    upstream = await asyncio.open_connection("127.0.0.1", self._target, limit=1 << 22)
                answer = await self._pass(request, upstream)
                writer.write(answer)
                await writer.drain()
        except (Cut, OSError, EOFError):
            pass
        finally:
            for each in (writer, upstream[1] if upstream else None):
                if each is not None:
                    each.close()

    async def _pass(self, request: bytes, upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
        weather, rng = self._weather, self._rng
        head = request[: request.index(b"\r\n\r\n")]
        operation = _header(head, b"x-amz-target").rpartition(b".")[2].decode()
        self.counts["requests"] += 1
        if self._calm:
            return await _exchange(request, upstream)
        write = operation in WRITES
        call = _header(head, b"amz-sdk-invocation-id")
        if call and zlib.crc32(self._salt + call) < weather.silenced * 2**32:
            self.counts["tries of silenced calls"] += 1
            if b"attempt=1" in _header(head, b"amz-sdk-request"):
                self.counts["silenced calls"] += 1
            if rng.random() < 0.5:
                await _exchange(request, upstream)
            raise Cut
        if write and rng.random() < weather.held:
            self._send_late(operation, request, "held")
            raise Cut
        answer = await _exchange(request, upstream)
        if operation == "UpdateItem":
            self._aim(request, answer)
        if write and rng.random() < weather.copied:
            self._send_late(operation, request, "copied")
        if rng.random() < weather.lost:
            self.counts["lost answers"] += 1
            raise Cut
        return answer

    # ------------------------------------------------------------------ late writes

    def _aim(self, request: bytes, answer: bytes) -> None:
        """Copies of what an item's last owner wrote come again just when the next one has claimed it."""
        body = request[request.index(b"\r\n\r\n") + 4 :]
        item = json.loads(body)["Key"]["itemID"]["S"]
        if b"#lockID = :" in body and answer.startswith(b"HTTP/1.1 200"):
            for old in self._old.pop(item, ()):
                self._send_late("UpdateItem", old, "aimed", AIMED_SECONDS)
        elif b":seen_lease_end" not in body and _about("UpdateItem", request)["owners"]:
            self._old.setdefault(item, deque(maxlen=3)).append(request)

    def _send_late(self, operation: str, request: bytes, how: str, within: float | None = None) -> None:
        seconds = self._rng.uniform(0.0, self._weather.late_seconds if within is None else within)
        task = asyncio.ensure_future(self._arrive(operation, request, how, seconds))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _arrive(self, operation: str, request: bytes, how: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        about = _about(operation, request) | ({"stale": True} if how == "aimed" else {})
        number = self._history.begin("late", about.pop("item"), how=how, **about)
        with suppress(OSError, EOFError):
            upstream = await asyncio.open_connection("127.0.0.1", self._target, limit=1 << 22)
            try:
                answer = await _exchange(request, upstream)
            finally:
                upstream[1].close()
            accepted = answer.startswith(b"HTTP/1.1 200")
            self.counts[f"{how}, accepted" if accepted else f"{how}, refused"] += 1
            self._history.end(number, WON if accepted else LOST)


def _about(operation: str, request: bytes) -> dict[str, Any]:
    """Which row a late write is for, and whether it is one of an item's owner, with which fence."""
    told = json.loads(request[request.index(b"\r\n\r\n") + 4 :])
    if operation == "TransactWriteItems":
        told = told["TransactItems"][0].get("Update", {})
    key = told.get("Key") or told.get("Item") or {}
    condition = told.get("ConditionExpression", "")
    values = told.get("ExpressionAttributeValues", {})
    about: dict[str, Any] = {
        "item": key.get("itemID", {}).get("S", ""),
        "row": key.get("row", {}).get("S", ""),
        "operation": operation,
    }
    if about["item"].startswith("!"):
        about["item"] = ""
    if about["row"] != "ITEM":
        # Rows beside the item's are kept apart by their own conditions, and looked at in the final table.
        about["row_of"], about["item"] = about["item"], ""
    fence = values.get(":seen_fence", {}).get("N")
    if fence is not None:
        about["fence"] = int(fence)
    # The owner's condition is `locked, fence = mine`; a reclaim and an expiry add the lease that they saw.
    about["owners"] = condition.startswith("#ItemState = :locked") and ":seen_lease_end" not in condition
    return about


# ------------------------------------------------------------------------------------------------------------------ HTTP


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(_header(head, b"content-length") or 0)
    return head + (await reader.readexactly(length) if length else b"")


async def _exchange(request: bytes, upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    reader, writer = upstream
    writer.write(request)
    await writer.drain()
    return await _message(reader)


def _header(head: bytes, name: bytes) -> bytes:
    lower = head.lower()
    begin = lower.find(b"\r\n" + name + b":")
    if begin < 0:
        return b""
    begin += len(name) + 3
    end = head.find(b"\r\n", begin)
    return head[begin : end if end >= 0 else len(head)].strip()
