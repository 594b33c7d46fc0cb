"""What the local cloud does wrong when it is asked to: delays, throttling, lost answers, AWS's error bodies.

What it injects is a shape, not an enforcement: an `expired_token` here says how PyAnamo meets the answer, not that
anybody checked a token.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from xml.sax.saxutils import escape

Kind = Literal["answer", "throttle", "delay", "lose", "drop"]
FOREVER: Final = -1


@dataclass(frozen=True)
class Plan:
    """One misbehaviour to come.

    Attributes:
        kind: answer with an error, throttle, delay, lose the answer after the call, drop the request before it.
        service, operation: whose calls; empty means any.
        path: only requests whose path contains this (a bucket, a key).
        shape: the error's name in SHAPES, or a code of AWS's.
        times: how many calls; FOREVER until told to behave.
        seconds: of a delay.
        region: where a bucket of `wrong_region` really is.
    """

    kind: Kind
    service: str = ""
    operation: str = ""
    path: str = ""
    shape: str = ""
    message: str = ""
    status: int = 0
    times: int = 1
    seconds: float = 0.0
    region: str = "eu-west-1"

    def hits(self, call: Call) -> bool:
        return (
            self.service in ("", call.service)
            and self.operation.lower() in ("", call.operation.lower())
            and self.path in call.path
        )


@dataclass(frozen=True)
class Call:
    """A request as far as misbehaviour looks at it."""

    service: str
    operation: str
    path: str
    protocol: Literal["json", "rest-json", "query", "rest-xml"]
    method: str = "POST"


@dataclass(frozen=True)
class Shape:
    """An error of AWS: by protocol family its code, and the HTTP status."""

    s3: str
    other: str
    status: int
    message: str
    other_status: int = 400


SHAPES: Final[Mapping[str, Shape]] = {
    "expired_token": Shape(
        "ExpiredToken", "ExpiredTokenException", 400, "The security token included in the request is expired"
    ),
    "invalid_token": Shape(
        "InvalidAccessKeyId",
        "UnrecognizedClientException",
        403,
        "The security token included in the request is invalid.",
    ),
    "access_denied": Shape(
        "AccessDenied", "AccessDeniedException", 403, "User is not authorized to perform this action", 400
    ),
    "wrong_region": Shape(
        "PermanentRedirect",
        "UnrecognizedClientException",
        301,
        "The bucket you are attempting to access must be addressed using the specified endpoint.",
    ),
    # S3 does not say that a bucket is requester pays: it refuses, and that is all that a client sees.
    "requester_pays": Shape("AccessDenied", "AccessDeniedException", 403, "Access Denied"),
    "throttled": Shape("SlowDown", "ThrottlingException", 503, "Rate exceeded"),
    "internal_error": Shape("InternalError", "InternalServerError", 500, "Internal error, please try again", 500),
}
_THROTTLING: Final = {
    "dynamodb": ("ProvisionedThroughputExceededException", 400),
    "s3": ("SlowDown", 503),
    "batch": ("TooManyRequestsException", 429),
}
_PREFIX: Final = {"dynamodb": "com.amazonaws.dynamodb.v20120810#", "logs": "com.amazonaws.logs#"}


class Misbehaviour:
    """The plans in force, taken in the order in which they were made."""

    def __init__(self) -> None:
        self._plans: list[Plan] = []
        self._lock = threading.Lock()

    def add(self, plan: Plan) -> None:
        with self._lock:
            self._plans.append(plan)

    def clear(self) -> None:
        with self._lock:
            self._plans.clear()

    def next(self, call: Call) -> Plan | None:
        """The first plan that hits this call, used up by it."""
        with self._lock:
            for place, plan in enumerate(self._plans):
                if plan.hits(call):
                    if plan.times > 1:
                        self._plans[place] = replace(plan, times=plan.times - 1)
                    elif plan.times != FOREVER:
                        del self._plans[place]
                    return plan
            return None


def error_answer(plan: Plan, call: Call) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body with which AWS would tell this error in this service's protocol."""
    if plan.kind == "throttle":
        code, status = _THROTTLING.get(call.service, ("ThrottlingException", 400))
        return error_body(call, code, "Rate exceeded", status)
    shape = SHAPES.get(plan.shape)
    if shape is None:
        return error_body(call, plan.shape or "InternalFailure", plan.message or plan.shape, plan.status or 400)
    s3 = call.protocol == "rest-xml"
    status = plan.status or (shape.status if s3 else shape.other_status)
    headers = {"x-amz-bucket-region": plan.region} if s3 and plan.shape == "wrong_region" else {}
    return error_body(call, shape.s3 if s3 else shape.other, plan.message or shape.message, status, headers)


def error_body(
    call: Call, code: str, message: str, status: int, headers: Mapping[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """An error in the words of a protocol."""
    request_id = str(uuid.uuid4())
    if call.protocol == "json":
        told: dict[str, Any] = {"__type": _PREFIX.get(call.service, "") + code, "message": message}
        return status, {"x-amzn-RequestId": request_id, "Content-Type": "application/x-amz-json-1.0"}, _json(told)
    if call.protocol == "rest-json":
        named = {"x-amzn-RequestId": request_id, "x-amzn-errortype": code, "Content-Type": "application/json"}
        return status, named, _json({"message": message})
    if call.protocol == "query":
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
            f"</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        )
        return status, {"Content-Type": "text/xml", "x-amzn-RequestId": request_id}, body.encode()
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message>'
        f"<Resource>{escape(call.path)}</Resource><RequestId>{request_id}</RequestId></Error>"
    )
    found = {"Content-Type": "application/xml", "x-amz-request-id": request_id} | dict(headers or {})
    return status, found, b"" if call.method == "HEAD" else body.encode()


def _json(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told).encode()
