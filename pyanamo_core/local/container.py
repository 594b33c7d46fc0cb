"""What a job's first process sees: its command and its environment, as a container of Batch would give them to it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pyanamo_core.local.jobs import Job

ACCESS_KEY: Final = "PYANAMOLOCAL"
SECRET_KEY: Final = "local"  # noqa: S105 - no secret: the local cloud takes any key
IMAGES_COMMAND: Final = ("pyanamo", "pilot")
"""What the image runs if a job definition names no command: docker/fetch_and_run.sh, of which this is left here."""
# What a process of this machine needs to run at all; of everything else in the server's environment it sees nothing.
PASSED: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "USER",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    # This machine stands for the image, in which these say where the caller is.
    "PYANAMO_GATK_CACHE",
    "GATK_JAR",
    "JAVA",
    "JAVA_HOME",
)


def cloud_environment(endpoint: str, region: str) -> dict[str, str]:
    """The variables by which any SDK finds the local cloud, and nothing but the local cloud."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def job_environment(
    job: Job, attempt: int, size: int, name: str, endpoint: str, folder: Path, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Everything that the job's main process finds in its environment.

    Args:
        attempt: 1-based, as Batch counts.
        size: of the array; 1 for a plain job.
        name: of this attempt's container; its host's metadata are served under it.
        folder: private to this attempt.
        inherited: the server's own environment, of which only `PASSED` goes on.
    """
    plan = job.plan
    passed = {key: inherited[key] for key in PASSED if key in inherited}
    # The interpreter's folder first: `pyanamo` and `python` are then the ones that this PyAnamo is installed with.
    passed["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), passed.get("PATH", os.defpath)])
    own = {
        "TMPDIR": str(folder / "tmp"),
        "PYANAMO_CONTAINER_MEMORY_MB": str(plan.memory_mb),
        "PYANAMO_CONTAINER_VCPUS": f"{plan.vcpus:g}",
    }
    return passed | container_environment(job, attempt, size, name, endpoint) | own


def container_environment(job: Job, attempt: int, size: int, name: str, endpoint: str) -> dict[str, str]:
    """What Batch gives to a container: the definition's and the submission's variables, Batch's own, and this cloud.

    Args: as `job_environment`.
    """
    plan = job.plan
    own = {
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{endpoint}/_pyanamo/host/{name}/",
        "AWS_BATCH_JOB_ID": job.job_id,
        "AWS_BATCH_JOB_ATTEMPT": str(attempt),
        "AWS_BATCH_JQ_NAME": plan.queue_name,
    }
    if job.index is not None:
        own |= {"AWS_BATCH_JOB_ARRAY_INDEX": str(job.index), "AWS_BATCH_JOB_ARRAY_SIZE": str(size)}
    cloud = cloud_environment(endpoint, plan.region)
    # Only the host's own metadata are served, so asking them is allowed here.
    del cloud["AWS_EC2_METADATA_DISABLED"]
    return cloud | dict(plan.environment) | dict(plan.secrets) | own


def job_command(words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The words to execute; `pyanamo` is this PyAnamo, even where no script of that name is installed."""
    words = words or IMAGES_COMMAND
    if words[0] == "pyanamo" and shutil.which("pyanamo", path=environment.get("PATH")) is None:
        return [sys.executable, "-c", "from pyanamo.main import main; main()", *words[1:]]
    return list(words)
