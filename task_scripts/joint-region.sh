#!/usr/bin/env bash
# Call one region of a cohort jointly, from gathered gVCFs.
#
#   joint-region.sh PLAN
#
# Works by hand and under a pilot; the environment that it reads, its results and its exit codes: docs/task-scripts.md
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
if [[ -n "${PYANAMO_PYTHON:-}" ]]; then
    python=$PYANAMO_PYTHON # set by the pilot: the Python that it runs in itself
elif [[ -x "$here/../.venv/bin/python" ]]; then
    python=$here/../.venv/bin/python # a checkout
else
    python=python3
fi
exec "$python" -m pyanamo_core.genomics.plan_task region "$@"
