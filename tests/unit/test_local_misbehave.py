"""Injected errors look to the SDK like AWS's: its own parsers read the code out of them."""

from __future__ import annotations

from typing import Any

import botocore.session
import pytest
from botocore.parsers import create_parser

from pyanamo_core import errors
from pyanamo_core.aws import explain
from pyanamo_core.local.front import describe_call
from pyanamo_core.local.misbehave import Call, Misbehaviour, Plan, error_answer

CALLS = {
    "dynamodb": ("UpdateItem", Call("dynamodb", "UpdateItem", "/", "json")),
    "logs": ("PutLogEvents", Call("logs", "PutLogEvents", "/", "json")),
    "batch": ("SubmitJob", Call("batch", "submitjob", "/v1/submitjob", "rest-json")),
    "iam": ("GetRole", Call("iam", "GetRole", "/", "query")),
    "s3": ("GetObject", Call("s3", "GetObject", "/bucket/key", "rest-xml", "GET")),
}


def read(service: str, plan: Plan) -> tuple[int, dict[str, Any]]:
    """What the SDK's parser makes of an injected answer."""
    operation, call = CALLS[service]
    status, headers, body = error_answer(plan, call)
    model = botocore.session.get_session().get_service_model(service)
    parser = create_parser(model.metadata["protocol"])
    answer = {"headers": {name.lower(): value for name, value in headers.items()}, "body": body, "status_code": status}
    return status, parser.parse(answer, model.operation_model(operation).output_shape)


@pytest.mark.parametrize("service", CALLS)
@pytest.mark.parametrize(
    ("shape", "meaning"),
    [
        ("expired_token", errors.NoCredentials),
        ("invalid_token", errors.NoCredentials),
        ("access_denied", errors.AccessDenied),
        ("requester_pays", errors.AccessDenied),
    ],
)
def test_a_shape_is_read_by_the_sdk_and_means_what_it_says(service: str, shape: str, meaning: type[Exception]):
    from botocore.exceptions import ClientError

    status, told = read(service, Plan("answer", shape=shape))
    assert status >= 400
    assert type(explain(ClientError(told, "Call"), service, "Call")) is meaning


def test_s3_in_another_region_redirects_and_names_the_region():
    _, headers, _ = error_answer(Plan("answer", shape="wrong_region", region="eu-west-1"), CALLS["s3"][1])
    status, told = read("s3", Plan("answer", shape="wrong_region"))
    assert status == 301
    assert told["Error"]["Code"] == "PermanentRedirect"
    assert headers["x-amz-bucket-region"] == "eu-west-1"


def test_a_head_request_gets_no_body():
    status, _, body = error_answer(
        Plan("answer", shape="access_denied"), Call("s3", "HeadObject", "/b/k", "rest-xml", "HEAD")
    )
    assert (status, body) == (403, b"")


def test_each_service_throttles_in_its_own_words():
    told = {service: read(service, Plan("throttle"))[1]["Error"]["Code"] for service in CALLS}
    assert told["dynamodb"] == "ProvisionedThroughputExceededException"
    assert told["batch"] == "TooManyRequestsException"
    assert told["s3"] == "SlowDown"
    assert told["logs"] == "ThrottlingException"


def test_any_code_of_aws_can_be_given():
    status, told = read("batch", Plan("answer", shape="ServerException", message="broken", status=500))
    assert (status, told["Error"]["Code"], told["Error"]["Message"]) == (500, "ServerException", "broken")


def test_a_plan_hits_its_calls_as_often_as_asked_and_no_others():
    # Given two plans, the first one narrow
    planned = Misbehaviour()
    planned.add(Plan("drop", "s3", "GetObject", path="/bucket/a", times=2))
    planned.add(Plan("throttle", "dynamodb", times=-1))
    wanted, other = (
        Call("s3", "GetObject", "/bucket/a.cram", "rest-xml"),
        Call("s3", "GetObject", "/bucket/b", "rest-xml"),
    )
    # Then it is used up by two calls that fit
    assert planned.next(other) is None
    assert [planned.next(wanted) is not None for _ in range(3)] == [True, True, False]
    # And one without end lasts until everything is cleared
    beat = Call("dynamodb", "UpdateItem", "/", "json")
    assert all(planned.next(beat) for _ in range(5))
    planned.clear()
    assert planned.next(beat) is None


@pytest.mark.parametrize(
    ("method", "path", "query", "operation"),
    [
        ("GET", "/", "", "ListBuckets"),
        ("GET", "/b", "list-type=2&prefix=x", "ListObjectsV2"),
        ("HEAD", "/b", "", "HeadBucket"),
        ("PUT", "/b", "", "CreateBucket"),
        ("GET", "/b/k/with/parts", "", "GetObject"),
        ("HEAD", "/b/k", "", "HeadObject"),
        ("PUT", "/b/k", "", "PutObject"),
        ("PUT", "/b/k", "partNumber=1&uploadId=u", "UploadPart"),
        ("POST", "/b/k", "uploads", "CreateMultipartUpload"),
        ("POST", "/b/k", "uploadId=u", "CompleteMultipartUpload"),
        ("DELETE", "/b/k", "", "DeleteObject"),
    ],
)
def test_s3_s_operations_are_known_by_method_path_and_query(method: str, path: str, query: str, operation: str):
    call = describe_call("s3", {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query})
    assert call.operation == operation
