"""The one place that makes boto3 clients: time-outs, retries, pool, endpoint; and what their errors mean.

Three tempers of one client. The data path repeats patiently, beats give up early (a late beat is worth nothing), and
SubmitJob is sent exactly once because Batch has no client token. No other module of PyAnamo calls `boto3.client`.
Nothing here imports boto3 before the first client is asked for. `pyanamo_core.faults` wraps a client for tests.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, cast

from pyanamo_core.errors import (
    AccessDenied,
    AwsFailed,
    AwsMissing,
    EndpointDown,
    NoCredentials,
    NoRegion,
    PyAnamoError,
    WrongRegion,
)
from pyanamo_core.faults import Faults, faulty
from pyanamo_core.meter import Meter

__all__ = ["Clients", "Faults", "code_of", "explain", "explained", "faulty", "is_aws_error", "unanswered"]

CONNECT_SECONDS: Final = 3
READ_SECONDS: Final = 10
POOL: Final = 64
DATA_TRIES: Final = 8
BEAT_TRIES: Final = 3
SUBMIT_SECONDS: Final = 60

_CREDENTIAL_ERRORS: Final = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "SSOTokenLoadError",
        "SSOError",
        "UnauthorizedSSOTokenError",
        "TokenRetrievalError",
        "ConfigParseError",
        "InvalidConfigError",
        "LoginRefreshRequired",
    }
)
_CREDENTIAL_CODES: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidToken",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "AuthFailure",
        "MissingAuthenticationTokenException",
        "IncompleteSignature",
        "TokenRefreshRequired",
        "NotSignedUp",
    }
)
_DENIED_CODES: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "UnauthorizedOperation",
        "Unauthorized",
        "AllAccessDisabled",
        "403",
        "Forbidden",
        "AccountProblem",
        "OptInRequired",
    }
)
_MISSING_CODES: Final = frozenset(
    {
        "ResourceNotFoundException",
        "NoSuchBucket",
        "NoSuchKey",
        "NoSuchUpload",
        "NoSuchVersion",
        "NoSuchEntity",
        "404",
        "NotFound",
        "TableNotFoundException",
    }
)
_REGION_CODES: Final = frozenset(
    {
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "301",
    }
)
_CONNECTION_ERRORS: Final = frozenset(
    {
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ConnectionClosedError",
        "ConnectionError",
        "SSLError",
        "ProxyConnectionError",
        "HTTPClientError",
        "ResponseStreamingError",
        "IncompleteReadError",
    }
)


class Clients:
    """boto3 clients of one session, made when first asked for, one per service and temper, safe to share by threads.

    After a fork the child makes clients of its own: sockets and locks of the parent are never used.

    Args:
        session: a boto3 session; None makes one from the SDK's usual chain (environment, profile, instance role).
        endpoint_url: where all services are (the local cloud); None leaves it to the SDK
            (AWS_ENDPOINT_URL).
        region: e.g. `us-east-1`; None leaves it to the session (AWS_REGION, AWS_DEFAULT_REGION, profile).
        read_seconds: how long the data path's clients wait for an answer.
        tries: of the data path's clients; a look that a person waits for takes fewer.
    """

    def __init__(
        self,
        session: Any = None,
        endpoint_url: str | None = None,
        region: str | None = None,
        *,
        read_seconds: float = READ_SECONDS,
        tries: int = DATA_TRIES,
    ) -> None:
        self._given_session = session
        self._read_seconds = read_seconds
        self._tries = tries
        self._given_endpoint = endpoint_url
        self._given_region = region
        self.meter = Meter()
        """Counts what its own clients ask for (not the anonymous ones: that is not on this account's bill)."""
        self._start_afresh()

    @classmethod
    def with_keys(
        cls,
        access_key: str,
        secret_key: str,
        endpoint_url: str | None,
        region: str,
        *,
        read_seconds: float = READ_SECONDS,
        tries: int = DATA_TRIES,
    ) -> Clients:
        """Clients with these keys, whatever the environment says (the local cloud's, which takes any)."""
        import boto3
        import botocore.session

        # No profile: one that AWS_PROFILE names, but that no longer exists, would be an error at the first client.
        plain = botocore.session.Session({"profile": (None, None, None, None)})
        session = boto3.Session(access_key, secret_key, region_name=region, botocore_session=plain)
        return cls(session, endpoint_url, region, read_seconds=read_seconds, tries=tries)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()
        self._session: Any = self._given_session
        self._made: dict[tuple[str, str, str | None], Any] = {}
        self._pid = os.getpid()

    @property
    def region(self) -> str | None:
        """The region that clients are made for, or None when nothing says one."""
        if self._given_region:
            return self._given_region
        if os.environ.get("AWS_REGION"):
            # botocore itself reads AWS_DEFAULT_REGION only; every other SDK and Batch's containers have AWS_REGION.
            return os.environ["AWS_REGION"]
        return cast("str | None", self._boto_session().region_name)

    @property
    def endpoint_url(self) -> str | None:
        """The endpoint given here or by AWS_ENDPOINT_URL; None is AWS itself."""
        return self._given_endpoint or os.environ.get("AWS_ENDPOINT_URL") or None

    @property
    def source_of_credentials(self) -> str:
        """Where the keys come from, in botocore's word (`env`, `shared-credentials-file`, `container-role`,
        `iam-role`, `sso`, `assume-role` …); "" where there are none.

        Raises:
            NoCredentials: the configuration names a profile that does not exist, or a login that is over.
        """
        with explained("session", "looking for credentials"):
            found = self._boto_session().get_credentials()
        return str(found.method) if found else ""

    def regions_of(self, service: str, partition: str = "aws") -> list[str]:
        """Regions in which a service is, as far as this SDK knows (its tables are as old as it is)."""
        return list(self._boto_session().get_available_regions(service, partition_name=partition))

    def client(self, service: str, region: str | None = None) -> Any:
        """The data path's client: 8 tries, 3 s to connect, 10 s to read, 64 connections.

        Args:
            service: boto3's name, e.g. `dynamodb`.
            region: another region than this session's, e.g. that of a public bucket.

        Raises:
            NoRegion, NoCredentials: as `explain` says.
        """
        # Left to itself botocore presigns S3's addresses in us-east-1 with the signature of 2006, which KMS refuses.
        more: dict[str, Any] = {"signature_version": "s3v4"} if service == "s3" else {}
        return self._get("data", service, region, lambda: self._config(self._tries, read=self._read_seconds, **more))

    def quick(self, service: str) -> Any:
        """A client for beats: 3 tries, 2 s to connect, 3 s to read; late news is no news."""
        return self._get("quick", service, None, lambda: self._config(BEAT_TRIES, connect=2, read=3))

    def once(self, service: str = "batch") -> Any:
        """A client that sends each request one single time and waits 60 s for its answer (SubmitJob has no token)."""
        return self._get("once", service, None, lambda: self._config(1, read=SUBMIT_SECONDS))

    def anonymous(self, service: str = "s3", region: str | None = None) -> Any:
        """A client that signs nothing: for public buckets, needs no credentials."""

        def config() -> Any:
            from botocore import UNSIGNED

            return self._config(self._tries, read=self._read_seconds, signature_version=UNSIGNED)

        return self._get("anonymous", service, region, config)

    def elsewhere(self, endpoint_url: str, region: str | None = None) -> Clients:
        """Clients of the same credentials for another endpoint, e.g. that of a bucket outside AWS."""
        return Clients(
            self._given_session, endpoint_url, region or self.region, read_seconds=self._read_seconds, tries=self._tries
        )

    def requester_pays_address(self, bucket: str, key: str, seconds: int, region: str | None = None) -> str:
        """A presigned address of an object in a requester-pays bucket, which says in its query who pays.

        boto3 presigns the payer as a header, which programs that only take an address (htslib) cannot send.
        """
        from botocore.auth import S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest

        plain = self.anonymous("s3", region).generate_presigned_url("get_object", {"Bucket": bucket, "Key": key})
        request = AWSRequest("GET", plain, params={"x-amz-request-payer": "requester"})
        with explained("s3", "presigning"):
            credentials = self._boto_session().get_credentials().get_frozen_credentials()
            S3SigV4QueryAuth(credentials, "s3", region or self.region or "us-east-1", expires=seconds).add_auth(request)
        return str(request.url)

    def _boto_session(self) -> Any:
        if os.getpid() != self._pid:
            self._start_afresh()
        with self._lock:
            if self._session is None:
                import boto3

                with explained("session", "reading the configuration"):
                    self._session = boto3.Session()
            return self._session

    def _get(self, temper: str, service: str, region: str | None, config: Callable[[], Any]) -> Any:
        if os.getpid() != self._pid:
            self._start_afresh()
        key = (temper, service, region)
        made = self._made.get(key)
        if made is not None:
            return made
        with self._lock:
            if key not in self._made:
                session = self._boto_session()
                if not (region or self.region) and os.environ.get("AWS_DEFAULT_REGION") == "":
                    # botocore takes the empty variable for a region, and calls the endpoint invalid.
                    raise NoRegion
                with explained(service, "making a client"):
                    self._made[key] = session.client(
                        service,
                        region_name=region or self.region,
                        endpoint_url=self._given_endpoint,
                        config=config(),
                    )
                    if temper != "anonymous":
                        self.meter.attach(self._made[key], service)
            return self._made[key]

    def _config(self, tries: int, connect: float = CONNECT_SECONDS, read: float = READ_SECONDS, **more: Any) -> Any:
        from botocore.config import Config

        if self.endpoint_url:
            # Buckets in the path: `bucket.localhost` is no name that every machine resolves.
            more["s3"] = {"addressing_style": "path"}
        return Config(
            retries={"mode": "standard", "total_max_attempts": tries},
            connect_timeout=connect,
            read_timeout=read,
            tcp_keepalive=True,
            max_pool_connections=POOL,
            user_agent_extra="pyanamo",
            **more,
        )


# ------------------------------------------------------------------------------------------------ what errors mean


def is_aws_error(error: BaseException) -> bool:
    """Does this exception come from boto3, botocore or s3transfer?"""
    return any(
        kind.__module__.partition(".")[0] in ("boto3", "botocore", "s3transfer", "awscrt")
        for kind in type(error).__mro__
    )


def code_of(error: BaseException) -> str:
    """AWS's error code (`ConditionalCheckFailedException`, `AccessDenied` …), or the exception's class name."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = cast("dict[str, Any]", response).get("Error", {})
        return str(found.get("Code") or type(error).__name__)
    return type(error).__name__


def unanswered(error: BaseException) -> bool:
    """True when no try got an answer, so that the call may or may not have happened."""
    return is_aws_error(error) and any(kind.__name__ in _CONNECTION_ERRORS for kind in type(error).__mro__)


def explain(error: BaseException, service: str, operation: str) -> PyAnamoError:
    """Say in PyAnamo's words what an error of the SDK means.

    Args:
        error: what boto3 raised; an error of PyAnamo is given back as it is.
        service: boto3's name of the service, e.g. `batch`.
        operation: what was asked, e.g. `SubmitJob`.

    Returns:
        NoCredentials, NoRegion, EndpointDown, AccessDenied, WrongRegion, AwsMissing or, for the rest, AwsFailed.
    """
    if isinstance(error, PyAnamoError):
        return error
    inner = error.__cause__ or error.__context__
    if type(error).__module__.startswith(("boto3", "s3transfer")) and inner is not None and is_aws_error(inner):
        return explain(inner, service, operation)
    response = cast("dict[str, Any]", getattr(error, "response", None) or {})
    detail = cast("dict[str, Any]", response.get("Error") or {})
    about = cast("dict[str, Any]", response.get("ResponseMetadata") or {})
    code = code_of(error)
    names = {kind.__name__ for kind in type(error).__mro__}
    facts: dict[str, Any] = {
        "service": service,
        "operation": operation,
        "code": code,
        "reason": detail.get("Message") or str(error),
        "request_id": about.get("RequestId") or "unknown",
        "status": about.get("HTTPStatusCode"),
    }
    if names & _CREDENTIAL_ERRORS or code in _CREDENTIAL_CODES:
        return NoCredentials(**facts)
    if "NoRegionError" in names or "InvalidRegionError" in names:
        return NoRegion(**facts)
    if names & _CONNECTION_ERRORS:
        endpoint = cast("dict[str, Any]", getattr(error, "kwargs", {})).get("endpoint_url")
        return EndpointDown(endpoint=endpoint or f"AWS {service}", **facts)
    if code in _REGION_CODES:
        named = cast("dict[str, str]", about.get("HTTPHeaders") or {}).get("x-amz-bucket-region") or detail.get(
            "Region"
        )
        return WrongRegion(right=named or "another one", **facts)
    if code in _DENIED_CODES:
        return AccessDenied(**facts)
    if code in _MISSING_CODES:
        return AwsMissing(**facts)
    return AwsFailed(**facts)


@contextmanager
def explained(service: str, operation: str) -> Generator[None]:
    """Turn errors of the SDK raised in this block into PyAnamo's, keeping the original as their cause.

    Raises:
        PyAnamoError: as `explain` says. Exceptions that are not the SDK's pass unchanged.
    """
    try:
        yield
    except Exception as error:
        if not is_aws_error(error):
            raise
        raise explain(error, service, operation) from error
