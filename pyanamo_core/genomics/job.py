"""What one invocation of HaplotypeCaller-1KG.sh knows and makes, as values that its steps hand on."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyanamo_core.errors import BadInput
from pyanamo_core.genomics.callers import Called
from pyanamo_core.genomics.genomes import Genome, Ploidy, PloidyRule, ploidy
from pyanamo_core.genomics.gvcf import Inspection
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Dictionary, Locus
from pyanamo_core.genomics.parameters import Parameters
from pyanamo_core.genomics.samples import Reads


class Usage(BadInput):
    """{reason}"""


@dataclass(frozen=True)
class Group:
    """Loci that share one gVCF: one locus, or all of an interval list."""

    stem: str
    value: str
    loci: list[Locus]
    absent: tuple[Locus, ...] = ()
    """What of them the sample does not have (ploidy 0), where it has the rest."""


@dataclass
class Job:
    """Everything that one invocation knows before it touches reads."""

    sample_argument: str
    groups: list[Group]
    reference: Path
    dictionary: Dictionary
    parameters: Parameters
    version: str
    environ: Mapping[str, str]
    inputs: Inputs
    sex: str = ""
    """Of this sample, if the definition says it; empty: the parameter `sex` does."""
    genome: Genome | None = None
    """The genome that the reference is, if it is known."""
    ploidy_rules: Sequence[PloidyRule] = ()
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def sex_of(self, sample: str) -> str:
        """The sample's sex: what the definition says, else the workflow's parameter."""
        return self.sex or self.parameters.sex_of(sample, self.environ.get("PIPELINE"))

    def ploidy(self, locus: Locus, sample: str) -> Ploidy:
        """The sample's ploidy along a locus."""
        if self.parameters.ploidy.isdecimal():
            return Ploidy(((locus, int(self.parameters.ploidy)),))
        return ploidy(locus, self.sex_of(sample), self.genome, self.ploidy_rules)

    @property
    def loci(self) -> list[Locus]:
        """Of all groups, in the reference's order."""
        rank = self.dictionary.rank()
        return sorted((x for g in self.groups for x in g.loci), key=lambda x: (rank[x.contig], x.start))


@dataclass(frozen=True)
class Extracted:
    """The slice of a sample's reads, and what its header and the sample's sex say of the loci."""

    sample: str
    reads: Reads
    read_group_sample: str
    groups: list[Group]
    left_out: list[Group]
    ploidies: list[Ploidy]
    warnings: list[str]
    slice: Path
    read_count: int
    slice_bytes: int

    @property
    def loci(self) -> list[Locus]:
        """What is to be called; empty if all is left out (ploidy 0)."""
        return [locus for group in self.groups for locus in group.loci]


@dataclass(frozen=True)
class Made:
    """What came of an extract: the verified, trimmed gVCF of each group (in the work folder), and how."""

    extracted: Extracted
    gvcfs: list[tuple[Group, Path, Inspection]]
    called: Called
    intervals: list[Locus]


class Timed:
    """Seconds of one step, kept in the job and told on stderr."""

    def __init__(self, job: Job, step: str) -> None:
        self.job, self.step = job, step

    def __enter__(self) -> None:
        self.began = time.monotonic()

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.job.seconds[self.step] = round(time.monotonic() - self.began, 3)
        if kind is None:
            print(f"{self.step}: {self.job.seconds[self.step]:.2f} s", file=sys.stderr, flush=True)
