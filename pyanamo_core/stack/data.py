"""Around a stack: the data that outlive it, and the roles of AWS's own that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pyanamo_core.aws import Clients, code_of, explain, explained, is_aws_error
from pyanamo_core.errors import AccessDenied, Surroundings

DELETED_AT_ONCE: Final = 1000
SERVICES: Final = {
    "batch.amazonaws.com": "AWSServiceRoleForBatch",
    "ecs.amazonaws.com": "AWSServiceRoleForECS",
    "spot.amazonaws.com": "AWSServiceRoleForEC2Spot",
    "ec2fleet.amazonaws.com": "AWSServiceRoleForEC2Fleet",
    "autoscaling.amazonaws.com": "AWSServiceRoleForAutoScaling",
}
"""Services whose own roles AWS Batch's machines need; AWS makes each once in an account."""
_DATA: Final = {"Bucket": "ResultsBucket", "LogGroup": "Logs", "Repository": "Images"}
"""Parameter that gives a thing → logical id of the one that the stack would make: what outlives the stack."""


def kept(clients: Clients, stack: str, values: Mapping[str, str], *, own: bool = False) -> dict[str, str]:
    """What an earlier stack of this name left behind and still exists: the parameter that gives it, and its name.

    Of several buckets or log groups of this region the newest: a stack of the same name in another region has its own.
    What this account may not look for is not found.

    Args:
        values: the parameters (RepositoryName; `Image`, where no repository is wanted). What they give is not
            looked for.
        own: unless an earlier stack of this name made it.
    """
    bucket, group = f"{stack}-{_DATA['Bucket']}-".lower(), f"{stack}-{_DATA['LogGroup']}-"
    repository = values.get("RepositoryName", "")
    starts = {"Bucket": bucket, "LogGroup": group, "Repository": repository or "-"}
    looks: dict[str, Callable[[], str]] = {
        "Bucket": lambda: _newest_bucket(clients, bucket),
        "LogGroup": lambda: _newest_log_group(clients, group),
    }
    if repository and not values.get("Image"):
        looks["Repository"] = lambda: _repository(clients, repository)
    found: dict[str, str] = {}
    for name, look in looks.items():
        if given := values.get(name):
            if own and given.startswith(starts[name]) and (name != "Bucket" or _is_here(clients, given)):
                found[name] = given
            continue
        try:
            with explained(name, "looking for what an earlier stack kept"):
                value = look()
        except AccessDenied:
            continue
        if value:
            found[name] = value
    return found


def _newest_bucket(clients: Clients, prefix: str) -> str:
    buckets = clients.client("s3").list_buckets()["Buckets"]
    own = [each for each in buckets if each["Name"].startswith(prefix)]
    newest = sorted(own, key=lambda each: each["CreationDate"], reverse=True)
    return next((str(each["Name"]) for each in newest if _is_here(clients, each["Name"])), "")


def _is_here(clients: Clients, bucket: str) -> bool:
    """Is it a bucket of this region? S3 lists those of all. One that cannot be looked at is not."""
    try:
        told = clients.client("s3").head_bucket(Bucket=bucket)
    except Exception as error:
        if is_aws_error(error):
            return False
        raise
    region = told.get("BucketRegion") or told["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    return region == (clients.region or "us-east-1")


def _newest_log_group(clients: Clients, prefix: str) -> str:
    told = clients.client("logs").describe_log_groups(logGroupNamePrefix=prefix)["logGroups"]
    return str(max(told, key=lambda each: each["creationTime"])["logGroupName"]) if told else ""


def _repository(clients: Clients, name: str) -> str:
    try:
        told = clients.client("ecr").describe_repositories(repositoryNames=[name])["repositories"]
    except Exception as error:
        if is_aws_error(error) and code_of(error) == "RepositoryNotFoundException":
            return ""
        raise
    return str(told[0]["repositoryName"])


def service_roles(clients: Clients, *, make: bool) -> tuple[dict[str, str], list[str]]:
    """AWS's own roles for the services that AWS Batch's machines need: those that exist, and those that do not.

    Args:
        make: make what is missing. Where that is not allowed it stays missing: an administrator makes it.

    Returns:
        Service → ARN; and the services without a role.
    """
    iam = clients.client("iam")
    found: dict[str, str] = {}
    missing: list[str] = []
    for service in SERVICES:
        try:
            with explained("iam", "ListRoles"):
                roles = iam.list_roles(PathPrefix=f"/aws-service-role/{service}/")["Roles"]
            if not roles and make:
                with explained("iam", f"CreateServiceLinkedRole {service}"):
                    roles = [iam.create_service_linked_role(AWSServiceName=service)["Role"]]
        except AccessDenied:
            roles = []
        if roles:
            found[service] = str(roles[0]["Arn"])
        else:
            missing.append(service)
    return found, missing


def delete_data(clients: Clients, things: Mapping[str, str], on_progress: Callable[[str], None]) -> None:
    """Delete a bucket with all its objects, a log group, an image repository: what `kept` found. What is gone is fine.

    Args:
        things: `Bucket`, `LogGroup`, `Repository` → name.
    """
    if bucket := things.get("Bucket"):
        _delete_bucket(clients, bucket, on_progress)
    if group := things.get("LogGroup"):
        _gone(lambda: clients.client("logs").delete_log_group(logGroupName=group), "logs", "DeleteLogGroup")
        on_progress(f"deleted log group {group}")
    if repository := things.get("Repository"):
        ecr = clients.client("ecr")
        _gone(lambda: ecr.delete_repository(repositoryName=repository, force=True), "ecr", "DeleteRepository")
        on_progress(f"deleted image repository {repository}")


def bucket_size(clients: Clients, bucket: str) -> tuple[int, int]:
    """Objects and bytes in a bucket, versions that are not the newest included. Raises as `explain` says."""
    objects = size = 0
    with explained("s3", f"ListObjectVersions {bucket}"):
        for page in clients.client("s3").get_paginator("list_object_versions").paginate(Bucket=bucket):
            versions = page.get("Versions", [])
            objects += len(versions)
            size += sum(int(each["Size"]) for each in versions)
    return objects, size


def _delete_bucket(clients: Clients, bucket: str, on_progress: Callable[[str], None]) -> None:
    s3 = clients.client("s3")
    deleted = 0
    with explained("s3", f"deleting {bucket}"):
        try:
            for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
                keys = [
                    {"Key": each["Key"], "VersionId": each["VersionId"]}
                    for kind in ("Versions", "DeleteMarkers")
                    for each in page.get(kind, [])
                ]
                for start in range(0, len(keys), DELETED_AT_ONCE):
                    told = s3.delete_objects(
                        Bucket=bucket, Delete={"Objects": keys[start : start + DELETED_AT_ONCE], "Quiet": True}
                    )
                    if told.get("Errors"):
                        first = told["Errors"][0]
                        raise BucketNotEmptied(bucket=bucket, key=first.get("Key"), reason=first.get("Message"))
                deleted += len(keys)
                on_progress(f"deleted {deleted:,} objects of {bucket}")
        except Exception as error:
            if is_aws_error(error) and code_of(error) == "NoSuchBucket":
                return
            raise
    _gone(lambda: s3.delete_bucket(Bucket=bucket), "s3", "DeleteBucket")
    on_progress(f"deleted bucket {bucket}")


class BucketNotEmptied(Surroundings):
    """Object {key} of bucket {bucket} cannot be deleted: {reason}. The bucket stays; the same command goes on."""


def _gone(call: Callable[[], Any], service: str, operation: str) -> None:
    try:
        call()
    except Exception as error:
        if not is_aws_error(error):
            raise
        told = explain(error, service, operation)
        if code_of(error) in ("NoSuchBucket", "ResourceNotFoundException", "RepositoryNotFoundException"):
            return
        raise told from error


def bucket_exists(clients: Clients, bucket: str) -> bool | None:
    """Is there such a bucket? None if it is not ours to see (403): of somebody else, or without a permission."""
    try:
        clients.client("s3").head_bucket(Bucket=bucket)
    except Exception as error:
        if not is_aws_error(error):
            raise
        code = code_of(error)
        if code in ("404", "NoSuchBucket"):
            return False
        told = explain(error, "s3", "HeadBucket")
        if isinstance(told, AccessDenied):
            return None
        raise told from error
    return True
