"""The image of the definition, and the log groups that containers and pilots write to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pyanamo_core.doctor.case import Case
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.workflow import Workflow

PUSH: Final = "docs/aws.md, The image"
_ECR: Final = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/"
    r"(?P<repository>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]+))?"
)


def look_at_image(case: Case) -> None:
    """Is there such an image? Only ECR of this region and account can be asked."""
    chart, check = case.chart, "image"
    if case.definition is None:
        return
    container: Mapping[str, Any] = case.definition.get("containerProperties") or {}
    image = str(container.get("image", ""))
    found = _ECR.fullmatch(image)
    if not found:
        chart.unknown(
            check, image, "its registry is not ECR: only the job shows whether it can be pulled (doctor --as-job)"
        )
        return
    account, region, repository = found["account"], found["region"], found["repository"]
    if region != case.region or (case.account and account != case.account):
        chart.unknown(
            check, image, f"it lies in {region}, account {account}, not here; the job shows it (doctor --as-job)"
        )
        return
    wanted = {"imageDigest": found["digest"]} if found["digest"] else {"imageTag": found["tag"] or "latest"}
    try:
        told = case.ask("ecr", "DescribeImages", repositoryName=repository, imageIds=[wanted])["imageDetails"]
    except PyAnamoError as error:
        code = str(error.facts.get("code", ""))
        if code == "RepositoryNotFoundException":
            chart.wrong(
                check,
                image,
                f"there is no repository {repository}",
                f"Make it (pyanamo deploy) and push the image: {PUSH}.",
            )
        elif code in ("ImageNotFoundException", "InvalidParameterException") or error.exit_code == 4:
            chart.wrong(
                check, image, f"the repository holds no image {next(iter(wanted.values()))}", f"Push it: {PUSH}."
            )
        else:
            chart.told_by(check, image, error, needed=False)
        return
    size = int(told[0].get("imageSizeInBytes", 0)) if told else 0
    chart.ok(
        check, image, f"it is in its repository, {size / 1e6:,.0f} MB packed" if size else "it is in its repository"
    )


def look_at_logs(case: Case, workflow: Workflow) -> None:
    """The log group of containers must exist before one starts; that of nests pilots make themselves if they may."""
    container: Mapping[str, Any] = (case.definition or {}).get("containerProperties") or {}
    told: Mapping[str, Any] = container.get("logConfiguration") or {}
    options: Mapping[str, str] = told.get("options") or {}
    groups: dict[str, bool] = {}
    if case.definition is not None and told.get("logDriver", "awslogs") == "awslogs":
        group = options.get("awslogs-group", "/aws/batch/job")
        # AWS Batch makes its own group; any other one is made only where the option says so.
        groups[group] = group != "/aws/batch/job" and options.get("awslogs-create-group") != "true"
    if workflow.logs == "auto":
        groups.setdefault(workflow.log_group, False)
    for name, needed in groups.items():
        _group(case, name, needed=needed)


def _group(case: Case, name: str, *, needed: bool) -> None:
    chart, check = case.chart, "log group"
    with chart.part(check, name, needed=False):
        told = case.pages("logs", "DescribeLogGroups", "logGroups", logGroupNamePrefix=name)
        group = next((one for one in told if one["logGroupName"] == name), None)
        mend = f"aws logs create-log-group --log-group-name {name}"
        if group is None and needed:
            chart.wrong(
                check,
                name,
                "it does not exist: no container starts",
                f"{mend}, or correct the definition's awslogs-group.",
            )
        elif group is None:
            chart.warn(check, name, "it does not exist: who logs first must be allowed to make it", mend)
        elif not group.get("retentionInDays"):
            mend = f"aws logs put-retention-policy --log-group-name {name} --retention-in-days 90"
            chart.warn(check, name, "it keeps logs for ever, which costs", mend)
        else:
            chart.ok(check, name, f"it keeps logs for {group['retentionInDays']} days")
