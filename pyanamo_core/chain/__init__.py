"""A chain of steps, each a table: from the reads of samples to the VCF of their cohort (docs/prefect.md, docs/calling.md)."""

from __future__ import annotations

from pyanamo_core.chain.chain import Chain
from pyanamo_core.chain.running import AwsTables, plainly
from pyanamo_core.chain.steps import (
    Failure,
    Look,
    Opened,
    Plan,
    Runner,
    Say,
    Step,
    StepEmpty,
    StepIncomplete,
    StepRevisionChanged,
    StepsReversed,
    StepState,
    StepStopped,
    StepUnknown,
    Tables,
)

__all__ = [
    "AwsTables",
    "Chain",
    "Failure",
    "Look",
    "Opened",
    "Plan",
    "Runner",
    "Say",
    "Step",
    "StepEmpty",
    "StepIncomplete",
    "StepRevisionChanged",
    "StepState",
    "StepStopped",
    "StepUnknown",
    "StepsReversed",
    "Tables",
    "plainly",
]
