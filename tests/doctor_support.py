"""A healthy place for `pyanamo doctor`: all that a run needs, in the local cloud, by names of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from pyanamo_core.aws import Clients
from pyanamo_core.doctor import Case, Chart, Line, State, examine
from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.local import LocalCloud
from pyanamo_core.local.provision import ensure_compute
from pyanamo_core.model import Definition
from pyanamo_core.workflow import Workflow

ACCOUNT, REGION = "123456789012", "us-east-1"
CRAM = b"CRAM\x03\x00" + bytes(200)
OBJECTS = {"in/S1.cram": CRAM, "in/S1.cram.crai": b"x", "in/ref.fa": b">1\nA\n", "in/ref.fa.fai": b"1\t1\t3\t1\t2\n"}
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"digest": "sha256:" + "0" * 64, "size": 1},
        "layers": [],
    }
)
ECS, BATCH, EC2 = "ecs-tasks.amazonaws.com", "batch.amazonaws.com", "ec2.amazonaws.com"


class Ward:
    """A place by one name: table `<name>`, `<name>_Queue`, bucket `<name>`, roles `<name>-job` …"""

    def __init__(self, cloud: LocalCloud, name: str) -> None:
        self.cloud, self.name = cloud, name
        self.clients = cloud.clients()
        self.image = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{name}"
        self.job_role = self.role("job", ECS)
        self.execution_role = self.role("execution", ECS)
        ecr = self.clients.client("ecr")
        ecr.create_repository(repositoryName=name)
        ecr.put_image(repositoryName=name, imageManifest=MANIFEST, imageTag="latest")
        self.logs = f"/test/{name}"
        self._quick = Clients.with_keys("testing", "testing", cloud.endpoint, REGION, tries=1, read_seconds=3)
        self.define()
        for key in OBJECTS:
            self.put(key)
        self.make_table()

    def put(self, key: str, body: bytes = b"") -> None:
        """An object of its bucket."""
        self.clients.client("s3").put_object(Bucket=self.name, Key=key, Body=body or OBJECTS[key])

    def make_table(self) -> None:
        """The table with its workflow and one item."""
        create_table(self.clients, self.name, deletion_protection=False, pitr=False)
        ledger = Ledger(self.clients, self.name, rules=self.workflow().rules)
        ledger.add_workflow(self.workflow())
        script = f"call.sh --reads s3://{self.name}/in/S1.cram"
        definition = Definition(script=script, arguments=("chr1:1-9",))
        ledger.import_item("S1", "call", definition)

    def role(self, kind: str, service: str) -> str:
        """The ARN of a role that a service may assume."""
        trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        told = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        made = self.clients.client("iam").create_role(RoleName=f"{self.name}-{kind}", AssumeRolePolicyDocument=told)
        return str(made["Role"]["Arn"])

    def define(
        self, *, vcpus: float = 1, max_vcpus: int = 8, image: str = "", tag: str = ":latest", **container: Any
    ) -> None:
        """A (new revision of the) job definition, its queue, environment, log group and bucket."""
        made: dict[str, Any] = {"jobRoleArn": self.job_role, "executionRoleArn": self.execution_role}
        ensure_compute(
            self.clients,
            f"{self.name}_Queue",
            f"{self.name}_JobDef",
            vcpus=vcpus,
            memory=1024,
            max_vcpus=max_vcpus,
            image=image or self.image + tag,
            log_group=self.logs,
            buckets=[self.name],
            container=made | container,
        )
        self.clients.client("logs").put_retention_policy(logGroupName=self.logs, retentionInDays=30)

    def workflow(self, **more: Any) -> Workflow:
        """The workflow as a file would say it."""
        told: dict[str, Any] = {
            "name": self.name,
            "queue": f"{self.name}_Queue",
            "job_definition": f"{self.name}_JobDef",
            "memory_mb": 1024,
            "buckets": {"results": f"s3://{self.name}/lab"},
            "references": [{"name": "ref", "uri": f"s3://{self.name}/in/ref.fa"}],
            "log_group": self.logs,
        }
        return Workflow.model_validate(told | more)

    def store(self, **more: Any) -> None:
        """Another version of the workflow."""
        Ledger(self.clients, self.name).add_workflow(self.workflow(**more))

    def examined(
        self, *, clients: Clients | None = None, now: Callable[[], float] = time.time, **more: Any
    ) -> list[Line]:
        """All lines of an examination."""
        case = Case(clients=clients or self._quick, table=self.name, chart=Chart(), now=now, **more)
        return examine(case)


def bad(lines: list[Line]) -> list[Line]:
    """What is wrong or warned of."""
    return [line for line in lines if line.state in (State.WRONG, State.WARNING)]


def the(lines: list[Line], check: str, *words: str) -> Line:
    """The line of a check that says all these words; a failure shows every line that is not well."""
    for line in lines:
        if line.check == check and all(word in f"{line.subject} {line.fact} → {line.mend}" for word in words):
            return line
    raise AssertionError(f"no line of {check} with {words}:\n" + "\n".join(map(str, lines)))
