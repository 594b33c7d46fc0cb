"""What Batch's words mean, and how to mend what they complain of: the known reasons, in one place.

The words are AWS's to change, so each entry looks for a few of them, and a reason that nobody knows is told as it stands.
Where they are documented:

* RUNNABLE: AWS Batch User Guide, `Jobs stuck in a RUNNABLE status` (statusReason of ListJobs and DescribeJobs)
* INVALID environments: the same, `INVALID compute environment`
* containers that do not start: Amazon ECS Developer Guide, `Stopped tasks error messages`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Known:
    """A reason that is known: by one of its signs (lower case, without blanks)."""

    code: str
    signs: tuple[str, ...]
    mend: str


UNKNOWN: Final = Known("unknown", (), "")

EXIT_CODES: Final[Mapping[int, str]] = {
    1: "the pilot died of an error that nobody foresaw: see its log",
    2: "the pilot was started with wrong options: see the job definition's command",
    3: "the pilot found bad input: see its log",
    4: "the pilot did not find its table, workflow or run: see PYANAMO_TABLE, region and role",
    5: "the ledger refused the pilot: see its log",
    6: "the pilot's surroundings are wrong (credentials, region, endpoint, disk): see its log",
    75: "the pilot handed its items back again and again (Spot, drain, host fault)",
    78: "the set-up is wrong (no workflow in the table, or a setting of the job definition): see its log",
    125: "the container could not be created: see the reason",
    126: "the container's command cannot be executed: see the job definition's command",
    127: "the container has no command `pyanamo`: is PyAnamo in the image?",
    137: "the pilot was killed: by the kernel for memory, or with its host",
    139: "the pilot crashed (segmentation fault)",
    143: "the pilot was told to end before it had begun",
}

DEPLOY: Final = "pyanamo deploy"

STARTING: Final = (
    Known(
        "image_forbidden",
        ("pullaccessdenied", "cannotpullecrcontainererror", "ecr:getauthorizationtoken", "nobasicauthcredentials"),
        "The image cannot be pulled: check its name and tag, and that the execution role may read the repository"
        " (ecr:GetAuthorizationToken, ecr:BatchGetImage, ecr:GetDownloadUrlForLayer).",
    ),
    Known(
        "image_not_found",
        ("manifestunknown", "imagenotfound", "notfound:manifest", "repositorydoesnotexist", "nosuchimage", ":notfound"),
        "The image cannot be pulled because it is not there: check name and tag in the job definition, push it, and"
        " register a revision that names it (docs/image.md).",
    ),
    Known(
        "image_network",
        ("requestcanceledwhilewaiting", "i/otimeout", "client.timeoutexceeded", "dialtcp"),
        "The image cannot be pulled: the machines do not reach the repository. Their subnets need a way to it: a public"
        " address, a NAT gateway, or endpoints for ecr.api, ecr.dkr and s3.",
    ),
    Known(
        "image_rate_limit",
        ("toomanyrequests:youhavereachedyourpullratelimit", "pullratelimit"),
        "The image cannot be pulled so often from that registry: put it into a repository of your own (docs/image.md).",
    ),
    Known(
        "image_cannot_be_pulled",
        ("cannotpull", "imagepullfailed"),
        "The image cannot be pulled: check its name, tag and the execution role.",
    ),
    Known(
        "role_missing",
        ("unabletoassumetherole", "wasunabletoassume", "invalididentitytoken", "roleisnotvalid", "roleisinvalid"),
        "The job role or the execution role is missing, or does not trust ecs-tasks.amazonaws.com: make it again with"
        f" {DEPLOY}, or name another with {DEPLOY} --set JobRole=ARN (ExecutionRole=ARN).",
    ),
    Known(
        "secret_unreadable",
        ("unabletopullsecrets", "secretsmanager", "retrievesecret"),
        "A secret of the job definition cannot be read: it must exist in this region, and the execution role may call"
        " secretsmanager:GetSecretValue on it.",
    ),
    Known(
        "log_group",
        ("failedtoinitializeloggingdriver", "loggroupdoesnotexist", "failedtocreatecloudwatchlogstream"),
        "The container's log has no home: make the log group that the job definition names, and let the instance or"
        f" execution role write to it ({DEPLOY} does both).",
    ),
    Known(
        "out_of_memory",
        ("outofmemoryerror",),
        "The container needs more memory, or fewer slots: raise `memory_mb` (and MemoryMb of the job definition), or"
        " lower `items` × `nests`.",
    ),
    Known(
        "host_terminated",
        ("hostec2",),
        "Spot reclaims hosts; Batch starts such pilots again, up to 10 times, and no try is counted.",
    ),
    Known(
        "timed_out",
        ("attemptdurationexceededtimeout",),
        f"Batch ended it at the time-out of the job definition: raise it ({DEPLOY} --set AttemptSeconds=N), or let pilots"
        " end sooner by themselves (`wall_time_seconds` of the workflow file).",
    ),
    Known(
        "container_not_started",
        (
            "cannotstartcontainererror",
            "cannotcreatecontainererror",
            "dockertimeouterror",
            "cannotinspectcontainererror",
        ),
        "The container runtime of its host failed: other hosts may do; if all fail alike, see the command and the"
        " volumes of the job definition.",
    ),
)
"""Why a container did not start, or ended; the first entry with a sign in the text counts."""

WAITING: Final = (
    Known(
        "no_capacity",
        ("capacity:",),
        "This passes when capacity is free; more instance types or zones help"
        f" ({DEPLOY} --set InstanceTypes=…, --set Subnets=…).",
    ),
    Known(
        "ceiling_too_low",
        ("misconfiguration:compute_environment_max_resource",),
        "This does not pass by itself: a pilot asks for more vCPUs than the ceiling of every compute environment."
        f" Raise it ({DEPLOY} --set SpotVcpus=N), or ask for fewer (`Vcpus` of the job definition).",
    ),
    Known(
        "job_too_big",
        ("misconfiguration:job_resource_requirement",),
        "This does not pass by itself: no instance type has what a pilot asks for. Change the compute environment"
        f" ({DEPLOY} --set InstanceTypes=…) or the job definition (Vcpus, MemoryMb).",
    ),
    Known(
        "service_role",
        ("misconfiguration:service_role_permissions",),
        "This does not pass by itself: Batch's service role lacks permissions. Use the service-linked role"
        " AWSServiceRoleForBatch, or give yours the managed policy AWSBatchServiceRole.",
    ),
    Known(
        "misconfiguration",
        ("misconfiguration:",),
        "This does not pass by itself: change the compute environment or the job definition.",
    ),
    Known(
        "environment_invalid",
        ("action_required",),
        "This does not pass by itself: a compute environment of the queue is INVALID; its reason says what to mend.",
    ),
    Known(
        "undetermined",
        ("undetermined",),
        "Batch does not know either. Machines that start and never join the cluster look like this: they need a way to"
        " ECS (a public address, a NAT gateway or endpoints) and the instance role's AmazonEC2ContainerServiceforEC2Role.",
    ),
)
"""Why jobs stay RUNNABLE."""

INVALID: Final = (
    Known(
        "environment_role",
        ("assumerole", "servicerole", "notauthorized", "accessdenied", "roleisnotvalid", "spotfleetrole"),
        "Batch may not act: its service role is missing or not trusted. Use the service-linked role"
        f" (aws iam create-service-linked-role --aws-service-name batch.amazonaws.com), then {DEPLOY}.",
    ),
    Known(
        "environment_profile",
        ("instanceprofile", "iaminstanceprofile"),
        f"Its instance profile is missing: make it again with {DEPLOY}.",
    ),
    Known(
        "environment_template",
        ("launchtemplate",),
        f"Its launch template is missing or wrong: make it again with {DEPLOY}.",
    ),
    Known(
        "environment_network",
        ("subnet", "securitygroup", "vpc"),
        f"Its subnets or security groups are missing: name others with {DEPLOY} --set Subnets=… --set SecurityGroups=…",
    ),
    Known(
        "environment_instances",
        ("instancetype", "unsupported"),
        f"Its instance types do not exist in this region: name others with {DEPLOY} --set InstanceTypes=…",
    ),
)
"""Why a compute environment is INVALID."""


def known(text: str, among: tuple[Known, ...]) -> Known:
    """The first known reason with a sign in the text; UNKNOWN without one."""
    plain = "".join(text.lower().split())
    return next((one for one in among if any(sign in plain for sign in one.signs)), UNKNOWN)
