"""A client that misbehaves as networks and DynamoDB do: for tests, ours and the users'.

    faults = Faults()
    client = faulty(clients.client("dynamodb"), faults)
    faults.lose_next("UpdateItem")        # the write happens, its answer is lost

The SDK repeats what was not answered, so a lost answer shows in two ways: as a connection error, when every repetition
was lost too, or as the outcome of the second try (`repeat_next`): a condition that our own first try made false. A
write may also arrive a second time, long afterwards (`copy_next`), a key may be throttled for a while whoever asks
(`heat`), and an index may show what was true some seconds ago (`stale`, `stale_seconds`).
"""

from __future__ import annotations

import contextlib
import copy
import json
import random
import threading
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

Kind = Literal["lost", "silenced", "dropped", "repeated", "delayed", "copied", "throttled", "stale", "refused"]
Later = Callable[[float, Callable[[], None]], None]
When = Callable[[Mapping[str, Any]], bool]

_PAGES_REMEMBERED: Final = 8
_QUERIES_REMEMBERED: Final = 4096
_WRITES: Final = frozenset({"UpdateItem", "PutItem", "DeleteItem", "TransactWriteItems"})
SDK_TRIES: Final = 3
"""So often a silenced call happens: each of the SDK's tries arrives, and none is answered."""


def in_a_thread(seconds: float, call: Callable[[], None]) -> None:
    """Make the call so many seconds from now, in a daemon thread."""
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()


@dataclass(frozen=True)
class Fault:
    """One fault to come: what happens, to which calls, and what it needs (seconds; code and message)."""

    kind: Kind
    when: When | None = None
    seconds: float = 0.0
    code: str = ""
    message: str = ""


@dataclass
class Faults:
    """What goes wrong: scripted with the `…_next` methods, or at random with rates (0-1, tried in this order).

    Args:
        rng: random mode needs one, seeded by the test.
        lost: rate of answers lost after the call happened.
        silenced: rate of calls that the SDK repeats without ever hearing an answer, though each try happens.
        dropped: rate of requests lost before the call happened.
        repeated: rate of calls made twice, the second outcome being told (as the SDK does after a lost answer).
        delayed: rate of calls that wait up to `delay_seconds` first.
        copied: rate of writes of which a copy arrives again, up to `late_seconds` afterwards.
        throttled: rate of calls refused with ProvisionedThroughputExceededException.
        hot: share of keys that are throttled at a time, for everybody, `hot_seconds` long; which ones depends on the
            key and the time alone, so that all processes meet the same. Queries of an index have its hash key.
        stale: rate of index queries answered with an older page: the newest that is `stale_seconds` old, else the oldest.
        operations: names that random faults may touch; empty means all.
        sleep: takes seconds; tests hand in their clock's.
        now: seconds, the same on all machines; for hot keys and the age of pages.
        later: makes a call so many seconds from now; tests hand in their own.
    """

    rng: random.Random | None = None
    lost: float = 0.0
    silenced: float = 0.0
    dropped: float = 0.0
    repeated: float = 0.0
    delayed: float = 0.0
    copied: float = 0.0
    throttled: float = 0.0
    hot: float = 0.0
    stale: float = 0.0
    delay_seconds: float = 0.05
    late_seconds: float = 1.0
    hot_seconds: float = 5.0
    stale_seconds: float = 0.0
    operations: frozenset[str] = frozenset()
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time
    later: Later = in_a_thread
    happened: deque[tuple[str, Kind]] = field(default_factory=lambda: deque(maxlen=10_000))
    _script: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque), repr=False)
    _pages: dict[str, deque[tuple[float, Any]]] = field(
        default_factory=lambda: cast("dict[str, deque[tuple[float, Any]]]", {}), repr=False
    )
    _heated: dict[str, float] = field(default_factory=dict[str, float], repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def lose_next(self, operation: str, *, times: int = 1, repeat: bool = False, when: When | None = None) -> None:
        """Lose the answers of the next calls; with `repeat` the SDK's second try answers instead.

        Args:
            operation: API name, e.g. `UpdateItem`.
            times: how many calls.
            when: takes the call's parameters; only calls for which it is true are hit.
        """
        self._plan(operation, Fault("repeated" if repeat else "lost", when), times)

    def silence_next(self, operation: str, *, times: int = 1, when: When | None = None) -> None:
        """Lose all answers of the next calls: each of the SDK's tries happens, and none is heard of."""
        self._plan(operation, Fault("silenced", when), times)

    def copy_next(self, operation: str, seconds: float, *, times: int = 1, when: When | None = None) -> None:
        """Let a copy of the next calls arrive once more so many seconds later; what becomes of it nobody hears."""
        self._plan(operation, Fault("copied", when, seconds=seconds), times)

    def heat(self, key: str, seconds: float) -> None:
        """Throttle every call for this hash key (an itemID; `todo#0` of the index) from now on, so many seconds long."""
        with self._lock:
            self._heated[key] = self.now() + seconds

    def repeat_next(self, operation: str, *, times: int = 1, when: When | None = None) -> None:
        """Make the next calls twice and tell the outcome of the second."""
        self._plan(operation, Fault("repeated", when), times)

    def drop_next(self, operation: str, *, times: int = 1, when: When | None = None) -> None:
        """Lose the next requests: nothing happens, and the caller cannot know that."""
        self._plan(operation, Fault("dropped", when), times)

    def delay_next(self, operation: str, seconds: float, *, times: int = 1, when: When | None = None) -> None:
        """Let the next calls sleep that long before they happen."""
        self._plan(operation, Fault("delayed", when, seconds=seconds), times)

    def throttle_next(self, operation: str, *, times: int = 1, when: When | None = None) -> None:
        """Refuse the next calls with ProvisionedThroughputExceededException."""
        self._plan(operation, Fault("throttled", when), times)

    def refuse_next(
        self, operation: str, code: str, message: str = "", *, times: int = 1, when: When | None = None
    ) -> None:
        """Answer the next calls with an error of that code."""
        self._plan(operation, Fault("refused", when, code=code, message=message), times)

    def stale_next(self, *, times: int = 1, when: When | None = None) -> None:
        """Answer the next index queries with the oldest page remembered for that query (else they go through)."""
        self._plan("Query", Fault("stale", when), times)

    @property
    def pending(self) -> int:
        """Scripted faults that have not happened yet."""
        with self._lock:
            return sum(len(faults) for faults in self._script.values())

    def _plan(self, operation: str, fault: Fault, times: int) -> None:
        with self._lock:
            self._script[operation].extend([fault] * times)

    def _next(self, operation: str, parameters: Mapping[str, Any]) -> Fault | None:
        with self._lock:
            planned = self._script.get(operation)
            if planned:
                for place, fault in enumerate(planned):
                    if fault.when is None or fault.when(parameters):
                        del planned[place]
                        return fault
            if self._hot(operation, parameters):
                return Fault("throttled")
            if self.rng is None or (self.operations and operation not in self.operations):
                return None
            return self._drawn(operation, parameters, self.rng)

    def _hot(self, operation: str, parameters: Mapping[str, Any]) -> bool:
        key = _hash_key(parameters)
        if key is None:
            return False
        if self._heated.get(key, 0.0) > self.now():
            return True
        if not self.hot or (self.operations and operation not in self.operations):
            return False
        window = int(self.now() / self.hot_seconds)
        return zlib.crc32(f"{window} {key}".encode()) < self.hot * 2**32

    def _drawn(self, operation: str, parameters: Mapping[str, Any], rng: random.Random) -> Fault | None:
        rates: tuple[tuple[Kind, float], ...] = (
            ("lost", self.lost),
            ("silenced", self.silenced),
            ("dropped", self.dropped),
            ("repeated", self.repeated),
            ("delayed", self.delayed),
            ("copied", self.copied if operation in _WRITES else 0.0),
            ("throttled", self.throttled),
            ("stale", self.stale if operation == "Query" and "IndexName" in parameters else 0.0),
        )
        for kind, rate in rates:
            if rate and rng.random() < rate:
                longest = {"delayed": self.delay_seconds, "copied": self.late_seconds}.get(kind, 0.0)
                return Fault(kind, seconds=rng.uniform(0, longest))
        return None

    def _remember(self, query: str, page: Any) -> None:
        with self._lock:
            while len(self._pages) >= _QUERIES_REMEMBERED and query not in self._pages:
                self._pages.pop(next(iter(self._pages)))
            self._pages.setdefault(query, deque(maxlen=_PAGES_REMEMBERED)).append((self.now(), copy.deepcopy(page)))

    def _older(self, query: str) -> Any:
        with self._lock:
            pages = self._pages.get(query)
            if not pages:
                return None
            edge = self.now() - self.stale_seconds
            old = [page for when, page in pages if self.stale_seconds and when <= edge]
            return copy.deepcopy(old[-1] if old else pages[0][1])

    def call(self, operation: str, call: Callable[..., Any], parameters: dict[str, Any], endpoint: str) -> Any:
        """Make one call under the faults planned for it.

        Raises:
            ReadTimeoutError, ConnectionClosedError: no answer, as the SDK raises them.
            ClientError: throttled, refused, or what the call itself raises.
        """
        fault = self._next(operation, parameters)
        query = _query_name(operation, parameters)
        if fault is None:
            return self._through(call, parameters, query)
        with self._lock:
            self.happened.append((operation, fault.kind))
        if fault.kind == "delayed":
            self.sleep(fault.seconds)
        elif fault.kind == "throttled":
            raise _client_error(
                operation,
                "ProvisionedThroughputExceededException",
                "The level of configured throughput was exceeded",
                400,
            )
        elif fault.kind == "refused":
            raise _client_error(operation, fault.code, fault.message, 400)
        elif fault.kind == "dropped":
            raise _no_answer("ReadTimeoutError", endpoint)
        elif fault.kind == "stale" and query is not None:
            older = self._older(query)
            if older is not None:
                return older
        elif fault.kind == "copied":
            again = copy.deepcopy(parameters)
            self.later(fault.seconds, lambda: _unheard(call, again))
        elif fault.kind in ("lost", "repeated", "silenced"):
            for _ in range(SDK_TRIES if fault.kind == "silenced" else 1):
                _unheard(call, parameters)
            if fault.kind != "repeated":
                raise _no_answer("ConnectionClosedError", endpoint)
        return self._through(call, parameters, query)

    def _through(self, call: Callable[..., Any], parameters: dict[str, Any], query: str | None) -> Any:
        answer = call(**parameters)
        if query is not None:
            self._remember(query, answer)
        return answer


class _Faulty:
    """A boto3 client whose operations pass through `Faults`; paginators and waiters included."""

    def __init__(self, client: Any, faults: Faults) -> None:
        self._client, self._faults = client, faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        operation: str | None = self._client.meta.method_to_api_mapping.get(name)
        if operation is None:
            return found

        def misbehaving(**parameters: Any) -> Any:
            return self._faults.call(operation, found, parameters, self._client.meta.endpoint_url)

        return misbehaving

    def get_paginator(self, name: str) -> Any:
        # botocore's own method on this proxy: the paginator then calls this proxy's operations.
        get_paginator = cast("Callable[[Any, str], Any]", type(self._client).get_paginator)
        return get_paginator(self, name)


def faulty(client: Any, faults: Faults) -> Any:
    """Wrap a boto3 client so that its calls suffer these faults; every other attribute is the client's own."""
    return _Faulty(client, faults)


def _unheard(call: Callable[..., Any], parameters: dict[str, Any]) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    with contextlib.suppress(ClientError, BotoCoreError):  # an error is an answer too, and answers get lost
        call(**parameters)


def _hash_key(parameters: Mapping[str, Any]) -> str | None:
    """The hash key of a call for one item or one index queue; None for all others."""
    row = cast("Mapping[str, Any]", parameters.get("Key") or parameters.get("Item") or {})
    values = cast("Mapping[str, Any]", parameters.get("ExpressionAttributeValues") or {})
    value: Any = row.get("itemID") or values.get(":queue" if "IndexName" in parameters else ":hash")
    return str(value["S"]) if value else None


def _query_name(operation: str, parameters: Mapping[str, Any]) -> str | None:
    """Names a query by table, index, condition and string values: the numbers of a sweep's start are random."""
    if operation != "Query" or "IndexName" not in parameters:
        return None
    values = cast("dict[str, dict[str, Any]]", parameters.get("ExpressionAttributeValues") or {})
    texts = {name: value["S"] for name, value in values.items() if "S" in value}
    named = ("TableName", "IndexName", "KeyConditionExpression", "Select", "ScanIndexForward")
    return json.dumps([[parameters.get(name) for name in named], texts], sort_keys=True, default=str)


def _client_error(operation: str, code: str, message: str, status: int) -> Exception:
    from botocore.exceptions import ClientError

    answer: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "injected", "HTTPHeaders": {}, "RetryAttempts": 0},
    }
    return ClientError(answer, operation)


def _no_answer(name: Literal["ReadTimeoutError", "ConnectionClosedError"], endpoint: str) -> Exception:
    from botocore import exceptions

    if name == "ReadTimeoutError":
        return exceptions.ReadTimeoutError(endpoint_url=endpoint)
    return exceptions.ConnectionClosedError(endpoint_url=endpoint)
