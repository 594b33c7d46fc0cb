"""S3 clients for buckets that people read from, each with the access, region and endpoint that the workflow declares."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Protocol


class Declared(Protocol):
    """An input bucket, as the workflow file's `buckets: inputs:` has it."""

    @property
    def bucket(self) -> str: ...
    @property
    def access(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def endpoint(self) -> str: ...


class S3Clients(Protocol):
    """What of aws.Clients is needed here."""

    def client(self, service: str, region: str | None = None) -> Any: ...
    def anonymous(self, service: str = "s3", region: str | None = None) -> Any: ...
    def elsewhere(self, endpoint_url: str, region: str | None = None) -> Any: ...


class BucketClients:
    """Clients for reading buckets; one that is not declared is read with the task's own credentials.

    Args:
        clients: aws.Clients of the session.
        declared: access `role`, `anonymous` or `requester_pays`, region and endpoint of each bucket.
    """

    def __init__(self, clients: S3Clients, declared: Iterable[Declared] = ()) -> None:
        self._clients = clients
        self._declared = {one.bucket: one for one in declared}
        self._elsewhere: dict[tuple[str, str], S3Clients] = {}
        self._lock = threading.Lock()

    def of(self, bucket: str) -> tuple[Any, dict[str, str]]:
        """The S3 client for a bucket, and what each request to it says besides.

        Raises:
            NoRegion, NoCredentials: as aws.explain says.
        """
        declared = self._declared.get(bucket)
        if declared is None:
            return self._clients.client("s3"), {}
        clients = self.clients_of(declared)
        make = clients.anonymous if declared.access == "anonymous" else clients.client
        more = {"RequestPayer": "requester"} if declared.access == "requester_pays" else {}
        return make("s3", declared.region or None), more

    def clients_of(self, declared: Declared) -> Any:
        """The session's clients, or those of the bucket's own endpoint, made once."""
        if not declared.endpoint:
            return self._clients
        key = (declared.endpoint, declared.region)
        with self._lock:
            if key not in self._elsewhere:
                self._elsewhere[key] = self._clients.elsewhere(declared.endpoint, declared.region or None)
            return self._elsewhere[key]


def advice(bucket: str, declared: Declared | None, refusal: str) -> str:
    """What to write into the workflow file after S3 refused to let a bucket be read, for the end of a message.

    Args:
        refusal: `denied`, or the region that S3 named (`another one` if it named none).
    """
    where = f"`buckets: inputs:` of the workflow file, {bucket}"
    if refusal != "denied":
        return f"In {where}: set `region: {refusal}`." if refusal != "another one" else f"In {where}: set its `region`."
    access = declared.access if declared else "role"
    others = {
        "role": "a public bucket needs `access: anonymous`, one whose readers pay `access: requester_pays`",
        "anonymous": "it is not public: give `access: role`, or `access: requester_pays` if its readers pay",
        "requester_pays": "the task's role needs s3:GetObject and s3:ListBucket on it",
    }[access]
    return f"It was read with `access: {access}`. In {where}: {others}."
