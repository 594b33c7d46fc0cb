"""aws.py: how clients are made, and what the SDK's errors mean."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest
from botocore import exceptions

from pyanamo_core import errors
from pyanamo_core.aws import Clients, code_of, explain, explained, unanswered


@pytest.fixture
def clients() -> Clients:
    return Clients.with_keys("key", "secret", "http://127.0.0.1:9", "eu-central-1")


def client_error(code: str, message: str = "said AWS", **about: Any) -> exceptions.ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"RequestId": "r-1"} | about}
    return exceptions.ClientError(answer, "AnyCall")


def test_importing_the_module_does_not_load_boto3():
    # Given a fresh interpreter
    code = "import sys, pyanamo_core.aws; print('boto3' in sys.modules or 'botocore' in sys.modules)"
    # When it imports aws.py
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    # Then the SDK is not there yet
    assert said.strip() == "False"


def test_the_same_client_is_given_twice_and_each_temper_has_its_own(clients: Clients):
    assert clients.client("dynamodb") is clients.client("dynamodb")
    assert clients.client("dynamodb") is not clients.quick("dynamodb")
    assert clients.client("s3") is not clients.client("s3", region="us-west-2")


def test_tempers_differ_in_tries_and_time_outs(clients: Clients):
    data, beat, submit = clients.client("dynamodb"), clients.quick("dynamodb"), clients.once("batch")
    assert data.meta.config.retries["total_max_attempts"] == 8
    assert beat.meta.config.retries["total_max_attempts"] == 3
    assert submit.meta.config.retries["total_max_attempts"] == 1
    assert (data.meta.config.read_timeout, beat.meta.config.read_timeout, submit.meta.config.read_timeout) == (
        10,
        3,
        60,
    )
    assert data.meta.config.max_pool_connections == 64


def test_clients_with_keys_of_their_own_need_no_profile(monkeypatch: pytest.MonkeyPatch):
    # Given a shell whose AWS_PROFILE names a profile that is gone
    monkeypatch.setenv("AWS_PROFILE", "gone")
    # When clients are made with keys, then that profile is not asked for
    made = Clients.with_keys("key", "secret", "http://127.0.0.1:9", "eu-central-1").client("s3")
    assert made.meta.region_name == "eu-central-1"


def test_an_anonymous_client_needs_no_credentials(monkeypatch: pytest.MonkeyPatch):
    # Given an environment without keys
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    anonymous = Clients(endpoint_url="http://127.0.0.1:9", region="us-east-1").anonymous("s3")

    class Sent(Exception):
        """The request, caught on its way out."""

    def catch(request: Any, **_: Any) -> None:
        raise Sent(dict(request.headers))

    anonymous.meta.events.register("before-send.s3", catch)
    # When a public bucket is asked
    with pytest.raises(Sent) as caught:
        anonymous.head_bucket(Bucket="public")
    # Then the request carries no signature
    assert "Authorization" not in caught.value.args[0]


def test_region_and_endpoint_come_from_arguments_before_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_REGION", "us-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:10")
    given = Clients(endpoint_url="http://127.0.0.1:11", region="eu-west-1")
    found = Clients()
    assert (given.region, given.endpoint_url) == ("eu-west-1", "http://127.0.0.1:11")
    assert (found.region, found.endpoint_url) == ("us-west-1", "http://127.0.0.1:10")
    assert found.client("dynamodb").meta.endpoint_url == "http://127.0.0.1:10"
    assert found.client("dynamodb").meta.region_name == "us-west-1"


def test_a_missing_region_is_said_in_our_words(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    with pytest.raises(errors.NoRegion, match="--region"):
        Clients().client("dynamodb")


def test_an_unknown_profile_is_a_matter_of_credentials(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(errors.NoCredentials, match="nobody"):
        Clients().client("dynamodb")


def test_many_threads_that_ask_at_once_share_one_client(clients: Clients):
    # Given sixteen threads that wait for each other
    ready, found = threading.Barrier(16), []

    def ask() -> None:
        ready.wait()
        found.append(clients.client("logs"))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    # When all ask for the first client at once
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then it was made once
    assert len({id(each) for each in found}) == 1


def test_a_forked_child_makes_clients_of_its_own_even_if_the_parent_held_the_lock(clients: Clients):
    # Given a client of the parent, and a lock that is held while the process forks
    parents = clients.client("dynamodb")
    with clients._lock:
        child = os.fork()
        if child == 0:
            # When the child asks
            os._exit(0 if clients.client("dynamodb") is not parents else 1)
    # Then it gets another one, and does not hang
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("raised", "meaning", "says"),
    [
        (exceptions.NoCredentialsError(), errors.NoCredentials, "Unable to locate credentials"),
        (client_error("ExpiredTokenException"), errors.NoCredentials, "said AWS"),
        (client_error("ExpiredToken"), errors.NoCredentials, "said AWS"),
        (client_error("InvalidClientTokenId"), errors.NoCredentials, "renew the login"),
        (client_error("UnrecognizedClientException"), errors.NoCredentials, "said AWS"),
        (exceptions.NoRegionError(), errors.NoRegion, "--region"),
        (exceptions.EndpointConnectionError(endpoint_url="http://a"), errors.EndpointDown, "http://a cannot be"),
        (exceptions.ConnectTimeoutError(endpoint_url="http://a"), errors.EndpointDown, "http://a cannot be"),
        (exceptions.ReadTimeoutError(endpoint_url="http://a"), errors.EndpointDown, "http://a cannot be"),
        (client_error("AccessDeniedException"), errors.AccessDenied, "refused SubmitJob"),
        (client_error("403"), errors.AccessDenied, "refused SubmitJob"),
        (client_error("ResourceNotFoundException"), errors.AwsMissing, "said AWS"),
        (client_error("NoSuchBucket"), errors.AwsMissing, "said AWS"),
        (
            client_error("PermanentRedirect", HTTPHeaders={"x-amz-bucket-region": "eu-west-1"}),
            errors.WrongRegion,
            "eu-west-1",
        ),
        (client_error("ClientException"), errors.AwsFailed, "ClientException: said AWS (request r-1)"),
        (exceptions.ParamValidationError(report="wrong"), errors.AwsFailed, "wrong"),
    ],
)
def test_errors_of_the_sdk_are_told_in_our_words(raised: Exception, meaning: type[errors.PyAnamoError], says: str):
    told = explain(raised, "batch", "SubmitJob")
    assert type(told) is meaning
    assert says in str(told)


def test_an_upload_that_failed_is_explained_by_what_was_under_it():
    from boto3.exceptions import S3UploadFailedError

    with pytest.raises(S3UploadFailedError) as caught:  # noqa: PT012
        try:
            raise client_error("AccessDenied")
        except exceptions.ClientError as under:
            # As boto3 does: not `from under`, so that only the context tells.
            raise S3UploadFailedError(f"Failed to upload: {under}")  # noqa: B904
    assert type(explain(caught.value, "s3", "PutObject")) is errors.AccessDenied


def test_our_own_errors_and_foreign_ones_pass_unchanged():
    ours = errors.TableMissing(table="t", where="")
    assert explain(ours, "dynamodb", "Query") is ours
    with pytest.raises(ZeroDivisionError), explained("dynamodb", "Query"):
        _ = 1 / 0


def test_the_cause_is_kept():
    with pytest.raises(errors.AwsFailed) as caught, explained("dynamodb", "Query"):
        raise client_error("ValidationException")
    assert isinstance(caught.value.__cause__, exceptions.ClientError)
    assert caught.value.code == "ValidationException"


def test_only_calls_without_an_answer_are_unanswered():
    assert unanswered(exceptions.ReadTimeoutError(endpoint_url="http://a"))
    assert unanswered(exceptions.ConnectionClosedError(endpoint_url="http://a"))
    assert not unanswered(client_error("InternalServerError"))
    assert not unanswered(TimeoutError())
    assert code_of(client_error("Throttled")) == "Throttled"
    assert code_of(KeyError()) == "KeyError"


def test_a_patient_session_waits_longer_for_data_but_not_for_beats():
    patient = Clients.with_keys("key", "secret", "http://127.0.0.1:9", "us-east-1", read_seconds=120)
    assert patient.client("s3").meta.config.read_timeout == 120
    assert patient.quick("s3").meta.config.read_timeout == 3


def test_an_endpoint_of_one_s_own_has_buckets_in_the_path(clients: Clients):
    asked = clients.client("s3").generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
    assert asked.startswith("http://127.0.0.1:9/bucket/key?")
    named = Clients.with_keys("key", "secret", "http://localhost:9", "us-east-1")
    asked = named.client("s3").generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
    assert asked.startswith("http://localhost:9/bucket/key?")
