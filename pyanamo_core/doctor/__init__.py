"""A look at everything that a run needs, before it is needed: each thing is well, or wrong and how to mend it."""

from __future__ import annotations

from pyanamo_core.doctor.as_job import examine_as_job
from pyanamo_core.doctor.case import Case
from pyanamo_core.doctor.examine import examine
from pyanamo_core.doctor.inside import examine_inside
from pyanamo_core.doctor.lines import Chart, Line, State

__all__ = ["Case", "Chart", "Line", "State", "examine", "examine_as_job", "examine_inside"]
