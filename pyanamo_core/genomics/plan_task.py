"""A nest of gather or joint: follow one plan file. The task scripts gather-gvcfs.sh, joint-region.sh and joint-concat.sh call this.

    python -m pyanamo_core.genomics.plan_task gather|region|concat PLAN

It reads no ledger. Exit codes are those of every task script (docs/task-scripts.md): 65 what the plan names cannot be
gathered or called (no retry helps), 75 try again, 78 the set-up is wrong, 137 out of memory. A killed attempt at a
gather or a concatenation is gone on with by the next one: its segments lie below the plan's folder, in `parts/`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from pyanamo_core import errors
from pyanamo_core.genomics import joint
from pyanamo_core.genomics.bgzf import BGZF_EOF
from pyanamo_core.genomics.cohort import Gathered, Reblocking, gather
from pyanamo_core.genomics.inputs import Inputs, redact
from pyanamo_core.genomics.joint import JointCalled, call_region, concatenated
from pyanamo_core.genomics.load import Stored
from pyanamo_core.genomics.plan_files import PlanInvalid, read_plan
from pyanamo_core.genomics.plans import nests_of_plan
from pyanamo_core.genomics.task import DATA, DONE, SET_UP, TRY_AGAIN, USAGE, exit_code

KINDS = ("gather", "region", "concat")
USAGE_TEXT = """usage: plan_task gather|region|concat PLAN
  PLAN  address of a plan file, as pyanamo gather, joint and cohort write them
  ref   (environment) the reference's FASTA, with .fai and .dict beside it; a gather needs it only to reblock
  PYANAMO_OUTPUT  (environment) an s3:// prefix or a folder for the results; default: ./cohort
  JOINT_COMBINE_UP_TO  (environment) samples up to which CombineGVCFs is used; default: 100"""
Result = tuple[tuple[Stored, ...], dict[str, Any]]


class PlanUsage(errors.BadInput):
    """{reason}"""


def follow(kind: str, plan: str, environ: Mapping[str, str], work: Path, inputs: Inputs) -> Result:
    """Do what a plan says; returns the outputs and the figures.

    Raises:
        PyAnamoError: as gather, call_region and concat do.
    """
    target = environ.get("PYANAMO_OUTPUT") or str(Path("cohort").resolve())
    parts = f"{plan.rpartition('/')[0]}/parts"
    if kind == "gather":
        told = read_plan(inputs, plan, "gather")
        reblock = Reblocking(_reference(environ), _heap(environ)) if told["reblock"] else None
        partial = bool(told["partial"])
        made = gather(
            nests_of_plan(told),
            target,
            work,
            expected=told["expected"],
            partial=partial,
            reblock=reblock,
            state=parts,
            inputs=inputs,
            clients=inputs.clients if target.startswith("s3://") else None,
        )
        return made.outputs, gather_figures(made)
    clients = inputs.clients if target.startswith("s3://") else None
    if kind == "region":
        limit = int(environ.get("JOINT_COMBINE_UP_TO") or joint.COMBINE_UP_TO)
        called = call_region(
            plan,
            target,
            work,
            reference=_reference(environ),
            inputs=inputs,
            clients=clients,
            heap_mb=_heap(environ),
            combine_up_to=limit,
        )
        return called.outputs, joint_figures(called, "region")
    told = read_plan(inputs, plan, "concat")
    called = concatenated(told, target, work, inputs=inputs, clients=clients, state=parts)
    return called.outputs, joint_figures(called, "cohort")


def gather_figures(made: Gathered) -> dict[str, Any]:
    """What a nest's row says of a gathered gVCF."""
    manifest = made.manifest
    kept = ("caller", "caller_version", "parameters_hash", "reblocked", "records", "longest_reference_span")
    return {
        "kind": "gathered",
        "sample": made.sample,
        **{key: manifest[key] for key in (*kept, "partial", "segments_reused")},
        "loci": len(manifest["loci"]),
        "missing": len(manifest["missing"]),
        "bytes": made.gvcf.bytes,
    }


def joint_figures(called: JointCalled, kind: str) -> dict[str, Any]:
    """What a nest's row says of a called region or of the cohort's VCF."""
    manifest = called.manifest
    counted = {f"stats_{key}": value for key, value in manifest.get("stats", {}).items()}
    return {
        "kind": kind,
        "samples": len(manifest["samples"]),
        "regions": len(manifest["regions"]),
        "bases": sum(joint.plain_locus(x).bases for x in manifest["regions"]),
        "variants": manifest["variants"],
        "bytes": called.vcf.bytes,
        **{key: manifest[key] for key in ("method", "methods", "slice_bytes", "segments_reused") if key in manifest},
        **counted,
    }


def _reference(environ: Mapping[str, str]) -> Path:
    given = environ.get("ref")
    if not given or not Path(given).exists():
        raise errors.DictInvalid(path="ref", reason="the variable `ref` names no FASTA file")
    return Path(given).absolute()


def _heap(environ: Mapping[str, str]) -> int:
    """The JVM's heap: what the slot has, less 700 MB for native code (GenomicsDB) and this process."""
    memory = int(environ.get("PYANAMO_MEMORY_MB") or 0)
    return max(256, memory - 700) if memory else 2048


# ------------------------------------------------------------------------------------------------------------- running


def code_of(error: BaseException) -> int:
    """What the pilot shall do about it."""
    if isinstance(error, PlanUsage):
        return USAGE
    if isinstance(error, errors.CohortRefused | errors.GvcfInvalid | PlanInvalid):
        return DATA
    if isinstance(error, errors.ReadsInterrupted):
        return TRY_AGAIN
    return exit_code(error)


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """One invocation, from arguments to exit code; prints why it failed."""
    work: Path | None = None
    began = time.monotonic()
    try:
        if len(arguments) != 2 or arguments[0] not in KINDS or not arguments[1]:
            raise PlanUsage(reason=USAGE_TEXT)
        kind, plan = arguments
        work = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=environ.get("PYANAMO_WORK") or None))
        outputs, figures = follow(kind, plan, environ, work, Inputs.from_environ(environ))
        figures = {**figures, "plan": plan, "seconds": round(time.monotonic() - began, 1)}
        if environ.get("PYANAMO_RESULT"):
            told = {"outputs": [stored.as_dict() for stored in outputs], "figures": figures}
            Path(environ["PYANAMO_RESULT"]).write_text(json.dumps(told))
        shown = ("sample", "samples", "records", "variants", "bytes")
        print("PyAnamo:", kind, *(f"{k}={figures[k]}" for k in shown if k in figures), sep="\t", flush=True)
        return DONE
    except (errors.PyAnamoError, OSError) as error:
        code = code_of(error)
        if work is not None and code not in (USAGE, SET_UP) and shutil.disk_usage(work).free < 1 << 20:
            code, error = TRY_AGAIN, OSError(28, "No space left on device", str(work))
        print(f"Error: {redact(str(error))}", file=sys.stderr, flush=True)
        return code
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _stop(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Entry point; TERM ends the caller, cleans up and exits with 143."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        return run(sys.argv[1:], os.environ)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


# ---------------------------------------------------------------------------------------------------- hook for pilots

_ENDINGS = {
    "gathered": (".g.vcf.gz", ".g.vcf.gz.tbi", ".manifest.json"),
    "region": (".vcf.gz", ".vcf.gz.tbi", ".manifest.json"),
    "cohort": (".vcf.gz", ".vcf.gz.tbi", ".stats.txt", ".manifest.json"),
}


def verify_outputs(call: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> str | None:
    """The `verify:` hook of gather's and joint's workflows: may this nest be recorded as done?

    Args:
        call: the nest's call; `figures` is what the script reported, `value` the plan's address, `read_end(uri, count)`
            gives the last bytes of an output.
        outputs: dicts with uri, bytes and sha256.

    Returns:
        None if it is good, else the reason.
    """
    figures: Any = call.get("figures")
    if not isinstance(figures, Mapping) or cast("Mapping[str, Any]", figures).get("kind") not in _ENDINGS:
        return "the script reported no figures of a gathered gVCF or a called region"
    told = cast("Mapping[str, Any]", figures)
    if told.get("plan") != call.get("value"):
        return f"the script followed {told.get('plan')}, not {call.get('value')}"
    sizes = {str(one.get("uri", "")): int(one.get("bytes") or 0) for one in outputs}
    for ending in _ENDINGS[str(told["kind"])]:
        if not any(uri.endswith(ending) and size for uri, size in sizes.items()):
            return f"no {ending} is among the outputs, or it is empty"
    vcf = next(uri for uri in sizes if uri.endswith(".vcf.gz"))
    read_end = call.get("read_end")
    if callable(read_end):
        with suppress(FileNotFoundError):
            if read_end(vcf, len(BGZF_EOF)) == BGZF_EOF:
                return None
        return f"{vcf}: its BGZF end is missing"
    return None


if __name__ == "__main__":
    raise SystemExit(main())
