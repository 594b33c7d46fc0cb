"""What flows take as parameters beyond plain values, and how they become the core's clients and files.

Parameters show as a form in Prefect's pages and are stored there: nothing secret may stand in them. Prefect takes at
most 512 KiB of parameters per run, so sheets and workflow files are given as a path or an s3:// address.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pyanamo_core.aws import Clients, explained
from pyanamo_core.errors import BadInput, NotFound
from pyanamo_core.workflow import Workflow
from pyanamo_core.workflow_file import read_workflow


class NothingNamed(BadInput):
    """Neither a table nor a workflow file was given. Set the parameter `table`, or `workflow`."""


class FileMissing(NotFound):
    """There is no file {path} on the machine where this flow runs. Give an absolute path, or an s3:// address."""


class Aws(BaseModel):
    """Which AWS to talk to. Empty: the environment of the process that runs the flow."""

    model_config = ConfigDict(title="AWS", extra="forbid")

    region: str = Field(default="", description="Region, e.g. us-east-1. Empty: AWS_REGION of the worker.")
    endpoint_url: str = Field(
        default="",
        description="Endpoint of all services, e.g. of a local cloud. Empty: AWS itself, or AWS_ENDPOINT_URL.",
    )
    credentials_block: str = Field(
        default="",
        description="Name of an AwsCredentials block of prefect-aws. Empty: the worker's own credentials.",
    )

    def clients(self) -> Clients:
        """The core's clients. A block contributes its session, region and endpoint; the configuration stays ours."""
        session: Any = None
        endpoint = self.endpoint_url
        if self.credentials_block:
            # 2.7 s to import: only where a block is named, and never in a pilot.
            from prefect_aws import AwsCredentials

            block: Any = AwsCredentials.load(self.credentials_block)
            session = block.get_boto3_session()
            endpoint = endpoint or block.aws_client_parameters.endpoint_url or ""
        return Clients(session=session, endpoint_url=endpoint or None, region=self.region or None)


@contextmanager
def local_file(clients: Clients, where: str) -> Generator[Path]:
    """A file of this machine as it is; one in S3 as a copy that is gone afterwards.

    Raises:
        FileMissing: no such file here. AwsMissing, AccessDenied …: S3 did not give it.
    """
    if not where.startswith("s3://"):
        path = Path(where).expanduser()
        if not path.is_file():
            raise FileMissing(path=path.absolute())
        yield path
        return
    bucket, _, key = where.removeprefix("s3://").partition("/")
    with tempfile.TemporaryDirectory(prefix="pyanamo-") as folder:
        path = Path(folder) / (Path(key).name or "file")
        with explained("s3", "GetObject"):
            clients.client("s3").download_file(bucket, key, str(path))
        yield path


def workflow_from(clients: Clients, where: str, table: str) -> Workflow:
    """The workflow of a workflow file; `table`, if given, is its table whatever the file says.

    Raises:
        FileMissing, WorkflowInvalid.
    """
    with local_file(clients, where) as path:
        workflow = read_workflow(path)
    return workflow.model_copy(update={"table": table}) if table else workflow


def table_of(clients: Clients, table: str, workflow: str) -> str:
    """The table that these parameters mean. Raises NothingNamed."""
    if table:
        return table
    if workflow:
        return workflow_from(clients, workflow, "").table_name
    raise NothingNamed
