"""What is examined, and how AWS is asked: once where a service is silent, and with an ear for AWS's time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, cast

from pyanamo_core.aws import Clients, explained
from pyanamo_core.doctor.lines import Chart, Unanswered
from pyanamo_core.errors import EndpointDown
from pyanamo_core.workflow import Workflow


@dataclass
class Case:
    """A workflow's surroundings.

    Attributes:
        clients: of whoever asks, with few tries: a person waits.
        table: the ledger's name; "" where none is named.
        workflow: as the table or a file tells it; None until one is found.
        region_source: where the region comes from, for people.
        reads: an s3:// address of reads to try instead of the first item's.
        inside: is this the container that a pilot would run in?
        write: may a probe object be written, read and deleted?
        prefect_api_url, prefect_api_key: of this process.
        now: the machine's time (seconds since 1970).
        results: where results go, if not where the workflow says (S3_BUCKET of a container).
        run_definition: the job definition of a live run.
        account, region: as they are found out.
    """

    clients: Clients
    table: str
    chart: Chart
    workflow: Workflow | None = None
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    region_source: str = ""
    reads: str = ""
    inside: bool = False
    write: bool = True
    prefect_api_url: str = ""
    now: Callable[[], float] = time.time
    results: str = ""
    run_definition: str = ""
    account: str = ""
    region: str = ""
    definition: Mapping[str, Any] | None = None
    """The job definition as DescribeJobDefinitions tells it, once it was found."""
    _heard: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    _listened: set[int] = field(default_factory=set[int])

    @property
    def partition(self) -> str:
        """`aws`, `aws-cn`, `aws-us-gov`."""
        return {"cn": "aws-cn", "us-gov": "aws-us-gov"}.get(re.sub(r"-[a-z]+-\d+$", "", self.region), "aws")

    @property
    def heard(self) -> list[tuple[float, float]]:
        """Pairs of AWS's time and ours, of all answers so far."""
        return list(self._heard)

    def client(self, service: str) -> Any:
        """The client of a service, with an ear for the Date of its answers.

        Raises:
            NoRegion, NoCredentials: as aws.explain says.
        """
        return self.listened(self.clients.client(service))

    def listened(self, client: Any) -> Any:
        """Listen to a client's answers; the client itself."""
        if id(client) not in self._listened:
            self._listened.add(id(client))
            client.meta.events.register("after-call.*.*", self._hear)
        return client

    def ask(self, service: str, operation: str, **asked: Any) -> dict[str, Any]:
        """One call, e.g. `ask("batch", "DescribeJobQueues", jobQueues=[...])`; a silent service is asked once.

        Raises:
            Unanswered: it has not answered before. Else as aws.explain says.
        """
        from botocore import xform_name

        with self.asked(service, operation):
            return cast("dict[str, Any]", getattr(self.client(service), xform_name(operation))(**asked))

    def pages(self, service: str, operation: str, key: str, **asked: Any) -> list[dict[str, Any]]:
        """All entries of a call that comes in pages. Raises as `ask`."""
        from botocore import xform_name

        found: list[dict[str, Any]] = []
        with self.asked(service, operation):
            for page in self.client(service).get_paginator(xform_name(operation)).paginate(**asked):
                found += page.get(key, [])
        return found

    @contextmanager
    def asked(self, service: str, operation: str) -> Generator[None]:
        """Errors of this block in PyAnamo's words; a service that does not answer is remembered. Raises as `ask`."""
        if service in self.chart.silent:
            raise Unanswered(service=service)
        try:
            with explained(service, operation):
                yield
        except EndpointDown:
            self.chart.silent.add(service)
            raise

    def _hear(self, parsed: Any = None, **_: Any) -> None:
        about = cast("dict[str, Any]", (cast("dict[str, Any]", parsed or {})).get("ResponseMetadata") or {})
        date = cast("dict[str, str]", about.get("HTTPHeaders") or {}).get("date")
        if date:
            try:
                self._heard.append((parsedate_to_datetime(date).timestamp(), self.now()))
            except ValueError:
                return
