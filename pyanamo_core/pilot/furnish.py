"""What a pilot works with: task scripts and references staged, the verify hook loaded, each slot's share of memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyanamo_core.errors import SetUpError
from pyanamo_core.pilot.environment import Setting
from pyanamo_core.pilot.nest import Bench
from pyanamo_core.pilot.options import PilotOptions
from pyanamo_core.pilot.outputs import load_hook
from pyanamo_core.pilot.patience import S3_SECONDS
from pyanamo_core.pilot.vitals import container_memory_mb
from pyanamo_core.protocols import Clock
from pyanamo_core.staging import stage
from pyanamo_core.workflow import Workflow


def furnish(
    workflow: Workflow,
    options: PilotOptions,
    clients: Any,
    *,
    scratch: Path,
    slots: int,
    environ: Mapping[str, str],
    clock: Clock,
) -> Bench:
    """Stage what the workflow names, and make the bench at which nests are run.

    Args:
        clients: aws.Clients; None where nothing lies in AWS.
        scratch: the pilot's own folder.
        slots: nests at a time; each has an equal share of the container's memory and CPUs.
        environ: the host's environment, of which tasks see what is allowed.

    Raises:
        SetUpError, HostFault: as staging says; the hook cannot be loaded.
    """
    staged = stage(workflow, clients, root=options.staging, scripts=options.scripts)
    try:
        hook = load_hook(workflow.verify, staged.pipeline)
    except Exception as error:
        raise SetUpError(reason=f"the verify hook {workflow.verify} cannot be loaded: {error}") from error
    shared = scratch / "shared"
    shared.mkdir(mode=0o700, exist_ok=True)
    setting = Setting(
        workflow=workflow,
        table=options.table,
        run_id=options.run_id,
        results=options.results_prefix(workflow),
        pipeline=staged.pipeline,
        references=staged.references,
        host=environ,
        memory_mb=max(1, container_memory_mb(workflow.memory_mb) // slots),
        cpus=max(1, int(workflow.vcpus / slots)),
        shared=str(shared),
    )
    return Bench(
        setting=setting,
        scratch=scratch,
        clock=clock,
        s3=lambda: clients.client("s3"),
        hook=hook,
        deadline_seconds=workflow.nest_time_seconds,
        s3_seconds=S3_SECONDS,
        silence_seconds=workflow.nest_silence_seconds,
        keep=options.scratch_root / "kept" if workflow.keep_work_on_failure else None,
    )
