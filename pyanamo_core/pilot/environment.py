"""What a task script finds in its environment: an allow-list of the host's variables, and the contract's (docs/pilot.md).

Never Prefect's variables, never secrets of the pilot. Static AWS keys are passed on only where no container
credentials exist (the local cloud, a rehearsal with the user's own keys): there they are the task's only identity.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pyanamo_core.errors import ScriptRefused
from pyanamo_core.meter import REPORT
from pyanamo_core.model import NestCall, encoded
from pyanamo_core.resources import resource
from pyanamo_core.workflow import Workflow

_NAMES: Final = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "LANGUAGE",
        "TZ",
        "LD_LIBRARY_PATH",
        "XDG_CACHE_HOME",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "CURL_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        # A caller of the user's own instead of the pinned one (docs/task-scripts.md).
        "GATK_JAR",
        "JAVA",
        "JAVA_HOME",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_CA_BUNDLE",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_STS_REGIONAL_ENDPOINTS",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_EC2_METADATA_DISABLED",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "AWS_EXECUTION_ENV",
        "ECS_CONTAINER_METADATA_URI_V4",
        "PYANAMO_GATK_CACHE",
        "PYANAMO_STAGING",
    }
)
_PREFIXES: Final = ("LC_", "AWS_ENDPOINT_URL_")
_OWN_IDENTITY: Final = frozenset(
    {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_CONFIG_FILE",
        "AWS_SHARED_CREDENTIALS_FILE",
    }
)
_CONTAINER_IDENTITY: Final = frozenset(
    {
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    }
)
_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh"})
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def allowed(host: Mapping[str, str]) -> dict[str, str]:
    """Of the pilot's own environment, what a task may see."""
    contained = any(name in host for name in _CONTAINER_IDENTITY)
    names = _NAMES if contained else _NAMES | _OWN_IDENTITY
    return {name: value for name, value in host.items() if name in names or name.startswith(_PREFIXES)}


@dataclass(frozen=True)
class Setting:
    """What all nests of a pilot share.

    `results` is the s3://bucket/prefix of results, `pipeline` the folder of the task scripts, `references` the path of
    each reference by its variable's name, `memory_mb` and `cpus` one slot's share.
    """

    workflow: Workflow
    table: str
    run_id: str
    results: str
    pipeline: str
    references: Mapping[str, str] = field(default_factory=dict[str, str])
    host: Mapping[str, str] = field(default_factory=dict[str, str])
    memory_mb: int = 1024
    cpus: int = 1
    shared: str = ""
    """A folder that the pilot's nests share and that goes with it; empty: there is none."""
    work_name: str = "work"
    """First part of the output prefix below the table's: `work`, or `rehearsal`."""

    def output_prefix(self, call: NestCall) -> str:
        """S3 prefix, ending in `/`, of what this attempt at a nest makes: nobody else ever writes there."""
        return f"{self.results}/{encoded(self.table)}/{self.work_name}/{encoded(call.item_id)}/{call.index:05d}/{call.fence}/"


def task_environment(
    setting: Setting, call: NestCall, *, work: str, temporary: str, result: str, shares: int = 1, meter: str = ""
) -> dict[str, str]:
    """The whole environment of one nest's process.

    Args:
        work: its private working directory.
        temporary: its private TMPDIR.
        result: where it may write its outputs, checksums and figures as JSON.
        shares: slots that it takes, whose memory and CPUs it has.
        meter: where its processes tell their requests to S3; empty: nowhere.
    """
    workflow = setting.workflow
    cpus = max(setting.cpus, min(setting.cpus * shares, int(workflow.vcpus)))
    environment = allowed(setting.host)
    # The packaged scripts come last: a folder of one's own with interval lists only need not hold a copy of them.
    places = [environment.get("PATH") or os.defpath, setting.pipeline, str(resource("task_scripts"))]
    environment["PATH"] = os.pathsep.join(dict.fromkeys(places))
    environment |= dict(workflow.parameters)
    environment |= dict(setting.references)
    shared = {"PYANAMO_SHARED": setting.shared} if setting.shared else {}
    return (
        environment
        | shared
        | ({REPORT: meter} if meter else {})
        | {
            "TMPDIR": temporary,
            "PIPELINE": setting.pipeline,
            "S3_BUCKET": setting.results.removeprefix("s3://").partition("/")[0],
            "PYANAMO_TABLE": setting.table,
            "PYANAMO_RUN": setting.run_id,
            "PYANAMO_ITEM": call.item_id,
            "PYANAMO_TASK": call.task_id,
            "PYANAMO_NEST": str(call.index),
            "PYANAMO_ATTEMPT": str(call.fence),
            "PYANAMO_WORK": work,
            "PYANAMO_CPUS": str(cpus),
            "PYANAMO_MEMORY_MB": str(setting.memory_mb * shares),
            "PYANAMO_OUTPUT": setting.output_prefix(call),
            "PYANAMO_RESULT": result,
            "PYANAMO_REVISION": workflow.revision,
            "PYANAMO_CALLER_VERSION": workflow.caller_version,
            "PYANAMO_PYTHON": sys.executable,
            "PYANAMO_INPUT_BUCKETS": json.dumps([bucket.model_dump() for bucket in workflow.buckets.inputs]),
        }
    )


def command_line(call: NestCall, environment: Mapping[str, str]) -> tuple[str, ...]:
    """A nest's arguments: TaskScript with each `${NAME}` replaced, split as a shell would, and the nest's value at the end.

    No shell takes part. In `bash -c '…'` an unknown `${NAME}` is the shell's own business and stays as it is;
    anywhere else it is an error, because nothing would ever replace it.

    Raises:
        ScriptRefused: unknown variable, unbalanced quotes, nothing to run, or a program that is not there.
    """

    def refused(reason: str) -> ScriptRefused:
        return ScriptRefused(script=call.script, reason=reason)

    try:
        words = shlex.split(call.script)
    except ValueError as error:
        raise refused(str(error).lower()) from None
    shell = len(words) > 1 and words[0].rpartition("/")[2] in _SHELLS and words[1].startswith("-") and "c" in words[1]

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in environment and not shell:
            raise refused(f"${{{name}}} is not set: the workflow file has no parameter and no reference of that name")
        return environment.get(name, match.group(0))

    try:
        words = shlex.split(_VARIABLE.sub(value, call.script))
    except ValueError as error:
        raise refused(str(error).lower()) from None
    if not words:
        raise refused("it is empty")
    if shutil.which(words[0], path=environment.get("PATH")) is None:
        raise refused(f"there is no program {words[0]!r}")
    if "\0" in call.value:
        raise refused("the nest's value holds a zero byte")
    return (*words, call.value) if call.value else tuple(words)
