"""The WSGI front of the local cloud: looks at a request, and answers it, forwards it, or passes it to moto.

Batch's five job calls are answered here (batch_api.py), DynamoDB goes to moto or to DynamoDB Local, the rest to moto.
moto is not atomic under threads, so that each of its services gets one call at a time. Nothing of moto is patched.
"""

from __future__ import annotations

import http.client
import io
import json
import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, Final, cast
from urllib.parse import parse_qs

from pyanamo_core.aws import Clients
from pyanamo_core.local import stacks
from pyanamo_core.local.batch_api import OPERATIONS, BatchApi
from pyanamo_core.local.buckets import Porter, Rule
from pyanamo_core.local.compute import ClientException, part
from pyanamo_core.local.engine import Engine
from pyanamo_core.local.misbehave import Call, Misbehaviour, Plan, error_answer, error_body

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

ENGINE_KEY: Final = "PYANAMOENGINE"
ADMIN: Final = "/_pyanamo/"
_SCOPE: Final = re.compile(r"Credential=(?P<key>[^/]+)/\d+/(?P<region>[^/]+)/(?P<service>[^/,]+)/")
_JSON_SERVICES: Final = {"dynamodb", "logs", "ecs", "events", "secretsmanager", "ssm"}
_REST_JSON_SERVICES: Final = {"batch", "lambda"}
_WRITES: Final = ("PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem", "TransactWriteItems")
_READS: Final = ("GetItem", "Query", "Scan", "BatchGetItem", "TransactGetItems")
_BATCH_JOB_CALLS: Final = {operation.lower(): operation for operation in OPERATIONS}
log = logging.getLogger(__name__)


class AnswerLostError(Exception):
    """The connection is to be closed without an answer."""


class Front:
    """The application that the server serves.

    Args:
        moto: moto's dispatcher.
        engine, batch: the local Batch.
        token: opens the admin path.
        dynamodb: port of a DynamoDB Local to forward to; None leaves DynamoDB to moto.
        health: what `/_pyanamo/health` tells.
        shut_down: called for `/_pyanamo/shutdown`.
        clients: gives clients of a region that come back here, as the engine.
    """

    def __init__(
        self,
        moto: Application,
        engine: Engine,
        batch: BatchApi,
        *,
        token: str,
        region: str,
        dynamodb: int | None,
        health: Callable[[], dict[str, Any]],
        shut_down: Callable[[], None],
        clients: Callable[[str], Clients],
    ) -> None:
        self._clients = clients
        self._moto, self._engine, self._batch, self._token, self._region = moto, engine, batch, token, region
        self._health, self._shut_down, self._dynamodb = health, shut_down, dynamodb
        self._misbehaviour = Misbehaviour()
        self._porter = Porter()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._own = threading.local()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = str(environ.get("PATH_INFO", ""))
        if path.startswith(ADMIN):
            return self._admin(path.removeprefix(ADMIN), environ, start_response)
        scope = _SCOPE.search(environ.get("HTTP_AUTHORIZATION", ""))
        service = scope["service"] if scope else "s3"
        region = scope["region"] if scope else self._region
        call = describe_call(service, environ)
        plan = None
        if not (scope and scope["key"] == ENGINE_KEY):
            refusal = self._porter.pass_by(call, environ)
            plan = refusal or self._misbehaviour.next(call)
        if plan is not None and plan.kind in ("answer", "throttle"):
            return _send(start_response, *error_answer(plan, call))
        if plan is not None and plan.kind == "drop":
            raise AnswerLostError
        if plan is not None and plan.kind == "delay":
            time.sleep(plan.seconds)
        answer = self._answer(call, region, environ, start_response)
        if plan is not None and plan.kind == "lose":
            raise AnswerLostError
        return answer

    def _answer(self, call: Call, region: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if call.service == "batch" and call.operation == "describecomputeenvironments":
            return self._environments(environ, start_response)
        if call.service == "batch" and call.operation in _BATCH_JOB_CALLS:
            return self._batch_call(_BATCH_JOB_CALLS[call.operation], call, region, environ, start_response)
        if call.service == "dynamodb" and self._dynamodb is not None:
            return _send(start_response, *self._forward(self._dynamodb, call, environ))
        said: list[str] = []
        made = stacks.before_delete(self._clients(region), _form(environ)) if call.operation == "DeleteStack" else []

        def start(status: str, *rest: Any) -> Any:
            said.append(status)
            return start_response(status, *rest)

        with self._locks[call.service]:
            # Read within the lock: moto may put the answer together while it is read.
            answer = self._moto(environ, start)
            body = [b"".join(answer)]
            if close := getattr(answer, "close", None):
                close()
        if call.service == "batch" and call.operation.startswith(("create", "update", "delete")):
            self._compute_changed(call, region, environ)
        if call.service == "cloudformation" and said[0].startswith("200"):
            if call.operation == "ExecuteChangeSet":
                stacks.tell_outputs(self._clients(region), _form(environ))
                stacks.tie_subnets(self._clients(region), _form(environ))
            elif call.operation == "DeleteStack":
                stacks.after_delete(self._clients(region), made)
        return body

    def _environments(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """DescribeComputeEnvironments: moto's answer, with the ceilings and faults that the engine knows."""
        said: list[tuple[str, list[tuple[str, str]]]] = []

        def keep(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
            said.append((status, headers))

        with self._locks["batch"]:
            body = b"".join(self._moto(environ, keep))
        if not said[0][0].startswith("200"):
            start_response(*said[0])
            return [body]
        told = cast("dict[str, Any]", json.loads(body))
        told["computeEnvironments"] = self._engine.corrected(told["computeEnvironments"])
        return _send(start_response, 200, {"Content-Type": "application/json"}, json.dumps(told).encode())

    def _batch_call(
        self, operation: str, call: Call, region: str, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        try:
            told = self._batch.answer(operation, _body(environ), region)
        except ClientException as error:
            return _send(start_response, *error_body(call, "ClientException", str(error), 400))
        except Exception as error:  # Batch, too, answers in its own words when it breaks
            log.exception("%s", operation)
            return _send(start_response, *error_body(call, "ServerException", repr(error), 500))
        return _send(start_response, 200, {"Content-Type": "application/json"}, json.dumps(told).encode())

    def _compute_changed(self, call: Call, region: str, environ: Environ) -> None:
        if call.operation == "updatecomputeenvironment":
            told = cast("dict[str, Any]", json.loads(_body(environ) or b"{}"))
            ceiling = part(told, "computeResources").get("maxvCpus")
            if ceiling is not None:
                self._engine.set_ceiling(told["computeEnvironment"], float(ceiling))
        self._batch.refresh(region)

    def _forward(self, port: int, call: Call, environ: Environ) -> tuple[int, dict[str, str], bytes]:
        """Hand a DynamoDB request to DynamoDB Local, over one kept connection per thread.

        While somebody watches, it is asked what each call takes.
        """
        asked = _body(environ)
        metered = self._porter.watching and call.operation in (*_WRITES, *_READS)
        if metered:
            asked = json.dumps({"ReturnConsumedCapacity": "INDEXES", **json.loads(asked)}).encode()
        headers = {
            name.removeprefix("HTTP_").replace("_", "-"): str(value)
            for name, value in environ.items()
            if name.startswith("HTTP_") and name not in ("HTTP_HOST", "HTTP_CONNECTION", "HTTP_EXPECT")
        }
        headers["Content-Type"] = environ.get("CONTENT_TYPE", "application/x-amz-json-1.0")
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("POST", "/", asked, headers)
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            # It may or may not have happened, and the caller is to see just that.
            connection.close()
            self._own.connection = None
            raise AnswerLostError from None
        if metered:
            self._bill(call.operation, json.loads(asked), answer.status, data)
        dropped = ("connection", "transfer-encoding", "content-length")
        return answer.status, {name: value for name, value in answer.getheaders() if name.lower() not in dropped}, data

    def _bill(self, operation: str, asked: dict[str, Any], status: int, answer: bytes) -> None:
        """Note what a call took. A refused condition is billed as the write of a row, which DynamoDB Local does not tell."""
        kind = "write" if operation in _WRITES else "read"
        if status != 200:
            refused = b"ConditionalCheckFailed" in answer
            self._porter.bill(str(asked.get("TableName", "")), kind, 1.0 if refused and kind == "write" else 0.0)
            return
        told: Any = json.loads(answer).get("ConsumedCapacity") or []
        for one in cast("list[dict[str, Any]]", told if isinstance(told, list) else [told]):
            self._porter.bill(str(one["TableName"]), kind, float(one["CapacityUnits"]))

    # ------------------------------------------------------------------------------------------------ the admin path

    def _admin(self, path: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if path.startswith("host/"):
            status, text = self._host(path.removeprefix("host/"))
            return _send(start_response, status, {"Content-Type": "text/plain"}, text.encode())
        if path != "health" and environ.get("HTTP_X_PYANAMO_TOKEN") != self._token:
            return _send(start_response, 403, {"Content-Type": "application/json"}, b'{"message": "wrong token"}')
        try:
            told: dict[str, Any] = {}
            if path == "health":
                told = self._health() | self._engine.counted()
            elif path == "watch":
                self._porter.watch()
            elif path == "seen":
                told = {"requests": self._porter.seen(), "units": self._porter.units()}
            elif path == "misbehave":
                self.misbehave(json.loads(_body(environ)))
            elif path == "shutdown":
                self._shut_down()
            else:
                return _send(start_response, 404, {}, b"")
        except (KeyError, TypeError, ValueError, ClientException) as error:
            body = json.dumps({"message": f"{type(error).__name__}: {error}"}).encode()
            return _send(start_response, 400, {"Content-Type": "application/json"}, body)
        return _send(start_response, 200, {"Content-Type": "application/json"}, json.dumps(told).encode())

    def misbehave(self, told: dict[str, Any]) -> None:
        """Do one misbehaviour, or plan it for a call to come.

        Raises:
            KeyError, TypeError, ValueError, ClientException: it names nothing that exists.
        """
        kind = told["kind"]
        if kind == "clear":
            self._misbehaviour.clear()
            self._porter.clear()
        elif kind == "bucket":
            self._porter.set_rule(Rule(told["bucket"], told.get("access", ""), told.get("region", "")))
        elif kind == "forget":
            self._engine.forget(told["job"])
        elif kind == "terminate_host":
            self._engine.terminate_host(told["job"])
        elif kind == "out_of_memory":
            self._engine.out_of_memory(told["job"])
        elif kind == "spot_notice":
            self._engine.spot_notice(told["job"], float(told.get("seconds", 120)))
        elif kind == "hosts":
            queue = self._batch.queue(told["queue"], told.get("region") or self._region)
            self._engine.set_hosts(queue.arn, told["hosts"])
        elif kind == "invalid":
            self._engine.set_invalid(told["environment"], told.get("reason", ""))
        elif kind == "unstartable":
            queue = self._batch.queue(told["queue"], told.get("region") or self._region)
            self._engine.refuse_to_start(queue.arn, told.get("reason", ""))
        elif kind in ("hold", "release"):
            queue = self._batch.queue(told["queue"], told.get("region") or self._region)
            reason = told.get("reason") or "CAPACITY:INSUFFICIENT_INSTANCE_CAPACITY - no capacity"
            self._engine.hold(queue.arn, reason if kind == "hold" else "")
        elif kind in ("answer", "throttle", "delay", "lose", "drop"):
            known = {each.name for each in fields(Plan)}
            self._misbehaviour.add(Plan(**{name: value for name, value in told.items() if name in known}))
        else:
            raise ValueError(f"no such misbehaviour: {kind}")

    def _host(self, path: str) -> tuple[int, str]:
        """Instance metadata of the host of a running attempt, as far as a pilot asks for them."""
        name, _, wanted = path.partition("/")
        running = self._engine.running_name(name)
        if running is None:
            return 404, ""
        if wanted == "latest/api/token":
            return 200, name
        if wanted == "latest/meta-data/instance-id":
            return 200, running.attempt.host
        if wanted == "latest/meta-data/instance-type":
            return 200, "local"
        if wanted == "latest/meta-data/instance-life-cycle":
            known = self._engine.compute(running.job.plan.region).environments.values()
            told = next((each.lifecycle for each in known if each.name == running.place.name), "")
            return (200, told) if told else (404, "")
        if wanted == "latest/meta-data/placement/availability-zone":
            return 200, f"{running.job.plan.region}a"
        if wanted == "latest/meta-data/spot/instance-action" and running.spot_notice:
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(running.spot_notice))
            return 200, json.dumps({"action": "terminate", "time": when})
        return 404, ""


def describe_call(service: str, environ: Environ) -> Call:
    """Which operation of which service a request asks for, by the protocol of that service."""
    method, path = str(environ.get("REQUEST_METHOD", "POST")), str(environ.get("PATH_INFO", ""))
    target = str(environ.get("HTTP_X_AMZ_TARGET", ""))
    if target or service in _JSON_SERVICES:
        return Call(service, target.rpartition(".")[2], path, "json", method)
    if service in _REST_JSON_SERVICES:
        return Call(service, path.rpartition("/")[2].lower(), path, "rest-json", method)
    if service == "s3":
        return Call(service, _s3_operation(method, path, environ), path, "rest-xml", method)
    form = str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded")
    asked = parse_qs(_body(environ).decode("utf-8", "replace")) if form else {}
    return Call(service, asked.get("Action", [""])[0], path, "query", method)


def _s3_operation(method: str, path: str, environ: Environ) -> str:
    asked = parse_qs(str(environ.get("QUERY_STRING", "")), keep_blank_values=True)
    key = path.strip("/").partition("/")[2]
    if not key:
        plain = {"GET": "ListObjects", "HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket"}
        if method == "GET":
            return "ListObjectsV2" if "list-type" in asked else "ListBuckets" if not path.strip("/") else plain[method]
        return plain.get(method, "DeleteObjects")
    if "uploadId" in asked:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}.get(
            method, "ListParts"
        )
    if "uploads" in asked:
        return "CreateMultipartUpload"
    if method == "PUT" and "HTTP_X_AMZ_COPY_SOURCE" in environ:
        return "CopyObject"
    return {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}.get(method, "")


def _form(environ: Environ) -> dict[str, str]:
    """The fields of a request of AWS's query protocol."""
    return {name: values[0] for name, values in parse_qs(_body(environ).decode("utf-8", "replace")).items()}


def _body(environ: Environ) -> bytes:
    """The request's body, left in place for whoever reads it next (the server has buffered it)."""
    stream: io.BytesIO = environ["wsgi.input"]
    stream.seek(0)
    data = stream.read()
    stream.seek(0)
    return data


def _send(start_response: StartResponse, status: int, headers: dict[str, str], body: bytes) -> Iterable[bytes]:
    named = [*headers.items(), ("Content-Length", str(len(body)))]
    start_response(f"{status} {http.client.responses.get(status, 'Answer')}", named)
    return [body]
