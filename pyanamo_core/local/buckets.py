"""Buckets that look at who asks, and a record of what was asked: signed or not, who pays, which region, which bytes, and
which units of DynamoDB it took.

S3 tells a client that it asked in the wrong way by its answers alone. A rule makes a bucket of the local cloud give
those answers, from the shape of a request: nobody checks a signature here.
"""

from __future__ import annotations

import io
import json
import re
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, cast
from urllib.parse import parse_qs, unquote

from pyanamo_core.local.misbehave import Call, Plan

KEPT: Final = 200_000
"""So many requests are remembered; older ones go."""
SHORT: Final = 2048
_SCOPE: Final = re.compile(r"(?P<key>[^/=]+)/\d{8}/(?P<region>[^/]+)/(?P<service>[^/,]+)/aws4_request")


@dataclass(frozen=True)
class Request:
    """One request, as far as its shape tells.

    Attributes:
        signed: by header or query; `presigned` by query.
        payer: the value of x-amz-request-payer, from header or query.
        region: of the signature.
        range: the Range header, e.g. `bytes=0-99`.
        if_match: the If-Match header.
        key: the access key that signed it: who asks.
        query: the query, without a signature's parts.
        copies: what CopyObject or UploadPartCopy reads, `bucket/key`.
        asked: of other services than S3 the body's short values, and which tables a batch or a transaction names.
    """

    service: str
    operation: str
    path: str
    signed: bool = False
    presigned: bool = False
    payer: str = ""
    region: str = ""
    range: str = ""
    if_match: str = ""
    key: str = ""
    query: str = ""
    copies: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Rule:
    """How a bucket of S3 wants to be asked.

    Attributes:
        access: `role` refuses unsigned requests; `anonymous` refuses signed ones, as where a role lacks the permission
            that everybody has; `requester_pays` refuses whoever does not say that he pays. "" asks nothing.
        region: requests signed for another one are sent away.
    """

    bucket: str
    access: Literal["", "role", "anonymous", "requester_pays"] = ""
    region: str = ""

    def refusal(self, request: Request) -> Plan | None:
        """With what S3 would answer; None if it would do it."""
        if self.region and request.signed and request.region != self.region:
            return Plan("answer", shape="wrong_region", region=self.region)
        denied = {
            "": False,
            "role": not request.signed,
            "anonymous": request.signed,
            "requester_pays": not (request.signed and request.payer == "requester"),
        }[self.access]
        return Plan("answer", shape="access_denied", message="Access Denied") if denied else None


class Porter:
    """Keeps the rules of buckets, and what was asked while somebody wanted to know."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._seen: deque[Request] | None = None
        self._units: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def set_rule(self, rule: Rule) -> None:
        """Raises KeyError for an access that does not exist."""
        rule.refusal(Request("s3", "GetObject", "/"))
        with self._lock:
            self._rules[rule.bucket] = rule

    def clear(self) -> None:
        """Forget rules and requests."""
        with self._lock:
            self._rules.clear()
            self._seen = None
            self._units.clear()

    def watch(self) -> None:
        """Remember requests from now on."""
        with self._lock:
            self._seen = deque(maxlen=KEPT)
            self._units.clear()

    @property
    def watching(self) -> bool:
        """Does somebody want to know what is asked?"""
        return self._seen is not None

    def bill(self, table: str, kind: str, units: float) -> None:
        """Add capacity units that DynamoDB Local says a call took; `kind` is read or write."""
        with self._lock:
            self._units[f"{table} {kind}"] += units

    def units(self) -> dict[str, float]:
        """Units since `watch`, by table and kind, as `Calls write`."""
        with self._lock:
            return dict(self._units)

    def seen(self) -> list[dict[str, Any]]:
        """What was asked since `watch`, oldest first."""
        with self._lock:
            return [asdict(one) for one in self._seen or ()]

    def pass_by(self, call: Call, environ: Mapping[str, Any]) -> Plan | None:
        """Note a request; what it is refused with, if its bucket has a rule against it."""
        with self._lock:
            if self._seen is None and not self._rules:
                return None
        request = look_at(call, environ)
        with self._lock:
            if self._seen is not None:
                self._seen.append(request)
            rule = self._rules.get(call.path.strip("/").partition("/")[0]) if call.service == "s3" else None
        return rule.refusal(request) if rule else None


def look_at(call: Call, environ: Mapping[str, Any]) -> Request:
    """The shape of a request."""
    asked = parse_qs(str(environ.get("QUERY_STRING", "")), keep_blank_values=True)
    query = {name.lower(): values[0] for name, values in asked.items()}
    header = str(environ.get("HTTP_AUTHORIZATION", ""))
    credential = query.get("x-amz-credential", "")
    scope = _SCOPE.search(header or credential)
    presigned = bool(credential or query.get("awsaccesskeyid"))
    return Request(
        service=call.service,
        operation=call.operation,
        path=call.path,
        signed=bool(header) or presigned,
        presigned=presigned,
        payer=str(environ.get("HTTP_X_AMZ_REQUEST_PAYER") or query.get("x-amz-request-payer", "")),
        region=scope["region"] if scope else "",
        range=str(environ.get("HTTP_RANGE", "")),
        if_match=str(environ.get("HTTP_IF_MATCH", "")),
        key=scope["key"] if scope else query.get("awsaccesskeyid", ""),
        query="&".join(f"{name}={value}" for name, value in query.items() if not name.startswith("x-amz-")),
        copies=unquote(str(environ.get("HTTP_X_AMZ_COPY_SOURCE", ""))).lstrip("/"),
        asked={} if call.service == "s3" else _asked(environ),
    )


def _asked(environ: Mapping[str, Any]) -> dict[str, Any]:
    stream: io.BytesIO = environ["wsgi.input"]
    stream.seek(0)
    body = stream.read()
    stream.seek(0)
    if str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded"):
        form = parse_qs(body.decode("utf-8", "replace"))
        return {name: values[0] for name, values in form.items() if len(values[0]) <= SHORT}
    try:
        told = json.loads(body or b"{}")
    except ValueError:
        return {}
    if not isinstance(told, dict):
        return {}
    fields = cast("dict[str, Any]", told)
    kept: dict[str, Any] = {n: v for n, v in fields.items() if isinstance(v, int | str) and len(str(v)) <= SHORT}
    kept |= {name: fields[name] for name in ("tags", "jobs", "containerOverrides", "repositoryNames") if name in fields}
    if items := fields.get("RequestItems"):
        kept["RequestItems"] = sorted(items)
    if moves := fields.get("TransactItems"):
        kept["TransactItems"] = [[name, one["TableName"]] for move in moves for name, one in move.items()]
    return kept
