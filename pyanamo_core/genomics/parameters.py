"""What HaplotypeCaller-1KG.sh can be told: the HC_… variables, their defaults, and the hash of those that matter.

In a workflow file they stand under `parameters:`; by hand they are set in front of the command.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

from pyanamo_core.errors import ParameterInvalid

CALLERS = ("gatk", "bcftools")
PCR_MODELS = ("NONE", "HOSTILE", "AGGRESSIVE", "CONSERVATIVE")


@dataclass(frozen=True)
class Parameters:
    """Parameters of one call; each comes from the variable HC_ + its name in upper case.

    Attributes:
        caller: gatk or bcftools.
        padding: bases called on each side of a locus, then trimmed off. 1,000 gives the same records as a whole
            contig (measured on 334 edges).
        slack: further bases of reads on each side, for the assembly at the padding's edge.
        gq_bands: lower bounds of GQ that end a reference block.
        ploidy: a number, or auto: by contig, region and sex, or a table (read_ploidies) in the folder of the task
            scripts that goes before that; its name is then followed by @ and a digest of its content.
        sex: male, female, unknown, or a table (sample, tab, sex) in the folder of the task scripts.
        reference_check: m5, or length where a header is known to hold wrong M5s; then only a warning is recorded.
        pcr_model: GATK's --pcr-indel-model; NONE suits PCR-free libraries such as 1000 Genomes 30x.
        short_bases: below it the JVM compiles with C1 alone; changes speed only.
        heap_mb: the JVM's heap; 0 = from PYANAMO_MEMORY_MB.
    """

    caller: str = "gatk"
    padding: int = 1000
    slack: int = 300
    gq_bands: str = "10,20,30,40,50,60,70,80,90"
    ploidy: str = "auto"
    sex: str = "unknown"
    reference_check: str = "m5"
    pcr_model: str = "CONSERVATIVE"
    short_bases: int = 500_000
    heap_mb: int = 0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Parameters:
        """Read HC_…; what is not set has its default.

        Raises:
            ParameterInvalid: unknown name, or a value that cannot be.
        """
        names = {f"HC_{f.name.upper()}": f for f in fields(cls)}
        given: dict[str, Any] = {}
        for name, text in environ.items():
            if not name.startswith("HC_") or text == "":
                continue
            if name not in names:
                raise ParameterInvalid(name=name, reason=f"there is no such parameter; there are {', '.join(names)}")
            whole = names[name].type == "int"
            if whole and not text.isdecimal():
                raise ParameterInvalid(name=name, reason=f"{text!r} is no whole number")
            given[names[name].name] = int(text) if whole else text
        if _is_table(given.get("ploidy", "auto")):
            given["ploidy"] = _with_digest(given["ploidy"], environ.get("PIPELINE"))
        found = cls(**given)
        found._check()
        return found

    def _check(self) -> None:
        if self.caller not in CALLERS:
            raise ParameterInvalid(name="HC_CALLER", reason=f"{self.caller!r} is none of {', '.join(CALLERS)}")
        if self.pcr_model not in PCR_MODELS:
            raise ParameterInvalid(name="HC_PCR_MODEL", reason=f"{self.pcr_model!r} is none of {', '.join(PCR_MODELS)}")
        if self.reference_check not in ("m5", "length"):
            reason = f"{self.reference_check!r} is neither m5 nor length"
            raise ParameterInvalid(name="HC_REFERENCE_CHECK", reason=reason)
        if self.ploidy.isdecimal() and not 0 < int(self.ploidy) <= 20:
            reason = f"{self.ploidy!r} is neither auto nor 1 to 20 nor a table"
            raise ParameterInvalid(name="HC_PLOIDY", reason=reason)
        bands = self.bands()
        if not bands or bands != sorted(set(bands)) or not all(0 < b < 100 for b in bands):
            raise ParameterInvalid(name="HC_GQ_BANDS", reason=f"{self.gq_bands!r} is no growing list of 1 to 99")

    def bands(self) -> list[int]:
        """Lower bounds of the GQ bands."""
        parts = [part.strip() for part in self.gq_bands.split(",")]
        return [int(p) for p in parts] if all(p.isdecimal() for p in parts) else []

    def of_the_result(self) -> dict[str, Any]:
        """Those on which the calls depend; not those that only change speed or memory."""
        return {k: v for k, v in asdict(self).items() if k not in ("short_bases", "heap_mb")}

    def hash(self, caller_version: str) -> str:
        """Results with the same hash may be gathered: parameters and the caller's version, 12 hex digits."""
        text = json.dumps({**self.of_the_result(), "caller_version": caller_version}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def ploidy_table(self, pipeline: str | None) -> Path | None:
        """Where the table of ploidies lies, if there is one."""
        if not _is_table(self.ploidy):
            return None
        return Path(pipeline or ".") / self.ploidy.rpartition("@")[0]

    def sex_of(self, sample: str, pipeline: str | None) -> str:
        """The sample's sex: the parameter itself, or looked up in the table that it names."""
        if self.sex in ("male", "female", "unknown"):
            return self.sex
        path = Path(pipeline or ".") / self.sex
        try:
            rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
        except OSError as error:
            raise ParameterInvalid(name="HC_SEX", reason=f"{path} cannot be read ({error.strerror})") from error
        return next((row[1] for row in rows if row[0] == sample and len(row) > 1), "unknown")


def _is_table(ploidy: str) -> bool:
    return ploidy != "auto" and not ploidy.isdecimal()


def _with_digest(name: str, pipeline: str | None) -> str:
    """A table's name and a digest of its content, so that results of two contents have different hashes."""
    path = Path(pipeline or ".") / name
    try:
        return f"{name}@{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    except OSError as error:
        reason = f"it is neither auto nor 1 to 20, and as a table {path} cannot be read ({error.strerror})"
        raise ParameterInvalid(name="HC_PLOIDY", reason=reason) from error


def heap_megabytes(parameters: Parameters, memory_mb: int | None) -> int:
    """The JVM's heap for a slot of `memory_mb`: the rest is for what lies outside the heap (300 MB) and this process.

    A locus of 20 kb needs 64 MB, up to 5 Mb need 2 GB; more than 3 GB are of no use.
    """
    if parameters.heap_mb:
        return parameters.heap_mb
    if memory_mb is None:
        return 2048
    return max(128, min(3072, memory_mb - 400))


def canonical_json(value: Mapping[str, Any]) -> str:
    """JSON that is the same for equal values, for manifests and QC records."""
    return json.dumps(cast("dict[str, Any]", value), indent=1, sort_keys=True) + "\n"
