"""A table in the local cloud with the bucket of its results, where objects lie as pilots put them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from pyanamo.main import app
from pyanamo_core.aws import Clients
from pyanamo_core.ledger import Ledger
from pyanamo_core.ledger.table import create_table
from pyanamo_core.model import Attempt, Cause, Claim, Nest, NestStatus, Output, Run, encoded
from pyanamo_core.workflow import Buckets, Workflow

BODY = b"a result\n"
ODD = "ü/a #1"
"""An item whose name must be encoded wherever it is a key."""


class Place:
    """A table with its bucket; objects are put where pilots put them."""

    def __init__(self, clients: Clients, name: str, folder: Path) -> None:
        self.clients, self.name, self.folder = clients, name, folder
        self.s3 = clients.client("s3")
        for bucket in (name, f"{name}-else"):
            self.s3.create_bucket(Bucket=bucket)
        create_table(clients, name, deletion_protection=False, pitr=False)
        self.ledger = Ledger(clients, name)
        self.ledger.add_workflow(
            Workflow(name=name, queue="q", job_definition="d", buckets=Buckets(results=f"s3://{name}/calls"))
        )

    def objects(self, *parts: str) -> list[str]:
        """Keys of all objects (that hold these parts), without what they all begin with."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        found = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return [key.partition(f"calls/{self.name}/")[2] for key in found if all(part in key for part in parts)]

    def put(self, item_id: str, nest: int, fence: int, file: str, body: bytes = BODY) -> Output:
        key = f"calls/{self.name}/work/{encoded(item_id)}/{nest:05d}/{fence}/{file}"
        self.s3.put_object(Bucket=self.name, Key=key, Body=body)
        return self.output(key, body)

    def output(self, key: str, body: bytes) -> Output:
        """What is recorded of an object of the bucket."""
        return Output(uri=f"s3://{self.name}/{key}", bytes=len(body), sha256=hashlib.sha256(body).hexdigest())

    def begin_run(self, run_id: str) -> None:
        """A live run of the newest version."""
        version, workflow = self.ledger.workflow()
        run = Run(run_id=run_id, workflow_version=version, revision=workflow.revision, token=run_id, started=1.8e9)
        self.ledger.begin_run(run)

    def claim(self, item_id: str) -> Claim:
        claim = self.ledger.claim(item_id, "p1")
        assert claim is not None
        self.ledger.put_attempt(Attempt(item_id=item_id, fence=claim.fence, pilot_id="p1"))
        return claim

    def record(self, claim: Claim, index: int, *outputs: Output, **more: Any) -> None:
        told: dict[str, Any] = {"item_id": claim.item_id, "epoch": claim.epoch, "fence": claim.fence, "index": index}
        self.ledger.record_nest(claim, Nest(**({**told, "status": NestStatus.DONE, "outputs": outputs} | more)))

    def finish(self, claim: Claim) -> None:
        self.ledger.finish(claim, nests_done=claim.item.nests)
        self.ledger.put_attempt(Attempt(item_id=claim.item_id, fence=claim.fence, cause=Cause.DONE, ended=1.8e9))

    def dies_typing(self, words: list[str], patch: str) -> None:
        """Type a command in a process of its own that kills itself (-9) where `patch`, run before it, says."""
        code = f"import os, signal\n{patch}\nfrom pyanamo.main import main\nmain()"
        command = [sys.executable, "-c", code, *words, "--table", self.name]
        died = subprocess.run(command, capture_output=True, text=True, check=False)
        assert died.returncode == -9, died.stdout + died.stderr

    def types(self, *words: str, code: int = 0) -> Result:
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*words, "--table", self.name])
        assert done.exit_code == code, done.output
        return done

    def reads(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.types(*words, "--json", code=code).stdout)
