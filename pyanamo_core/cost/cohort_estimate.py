"""What gathering samples and calling them jointly will cost, beside the call itself (estimate.py).

The joint call of thousands of genomes was not measured (docs/cohort.md), so that its machines have dollars only where
the user says how long a region takes. Counts of regions, calls and units are told all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

from pyanamo_core.cost.estimate import Estimate, estimate
from pyanamo_core.cost.pace import Leaves, Pace
from pyanamo_core.cost.prices import Prices
from pyanamo_core.cost.ranges import NOTHING, Range, exactly
from pyanamo_core.cost.work import Work
from pyanamo_core.genomics.regions import default_bases
from pyanamo_core.workflow import CohortSection, Workflow

GATHER_BYTES_A_SECOND: Final = Range(10e6, 40e6)
"""Reading the loci, writing and reading back the whole: assumed; one process does all three."""
GATHER_START: Final = Range(5, 20)
SEGMENT: Final = 16 << 20
CHUNK: Final = 4 << 20
ITEM_UNITS: Final = 4
"""Of importing an item of a step: its row, its index entry, and a definition of its own."""
VCF_BYTES: Final = Range(0.0005, 0.004)
"""Of the cohort's VCF, for each base and sample: assumed (a variant every 20 to 300 bases, some tenths of a byte a genotype)."""


@dataclass(frozen=True)
class CohortEstimate:
    """The steps of a cohort, and their sums."""

    call: Estimate
    gather: Estimate
    joint: Estimate
    regions: int

    @property
    def steps(self) -> tuple[Estimate, Estimate, Estimate]:
        return self.call, self.gather, self.joint

    @property
    def once(self) -> Range:
        return self.call.once + self.gather.once + self.joint.once

    @property
    def a_month(self) -> Range:
        return self.call.a_month + self.gather.a_month + self.joint.a_month

    @property
    def hours(self) -> Range | None:
        """By the clock, one step after the other; None where a step's are not known."""
        known = [one.hours for one in self.steps if one.hours is not None]
        return sum(known, NOTHING) if len(known) == len(self.steps) else None

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for one in self.steps for text in one.missing))


def cohort_estimate(
    call: Estimate,
    work: Work,
    leaves: Leaves,
    gather: Workflow,
    joint: Workflow,
    prices: Prices,
    *,
    section: CohortSection | None = None,
    to_gather: int | None = None,
    regions: int | None = None,
    samples: int | None = None,
    sample_time: Range | None = None,
    region_time: Range | None = None,
    pilots: int | None = None,
    on_demand: bool = False,
) -> CohortEstimate:
    """Add gather and joint to the estimate of a call.

    Args:
        work, leaves: of all samples, whether they are called already or not.
        gather, joint: the steps' workflows.
        section: the call's section `cohort`, which says what regions there are.
        to_gather, regions: how many are to be done; None: all.
        samples: of the joint call, with earlier cohorts'; None: the items of `work`.
        sample_time, region_time: seconds of a sample's gather, of a region's joint call; None: assumed, not known.
    """
    samples = samples or work.items
    own = work.bases / work.items if work.items else 0.0
    size = own * leaves.bytes_a_base
    taken = sample_time or size * 2 / GATHER_BYTES_A_SECOND + GATHER_START
    segments = size * (1 / SEGMENT)
    # Each locus is read once by ranges, each segment put, copied and noted, the whole read back once.
    loci = work.nests / work.items if work.items else 0.0
    gather_leaves = Leaves(
        units=exactly(1),
        row_bytes=Range(500, 1000),
        puts=segments * 3 + 6,
        gets=size * (2 / CHUNK) + loci + 6,
        output_bytes=size,
        bytes_a_base=NOTHING,
        log_bytes=Range(0, 3000),
        basis=leaves.basis,
    )
    gathered = estimate(
        gather,
        _work(work.items if to_gather is None else to_gather, taken),
        Pace(
            "given" if sample_time else "assumed",
            "a sample in the time given" if sample_time else "gather reads and writes 10–40 MB a second",
            nest=taken,
            leaves=gather_leaves,
        ),
        prices,
        pilots=pilots,
        on_demand=on_demand,
        reads=False,
        what="gather: ",
    )
    if regions is None:
        regions = _regions(section or joint.cohort, own, samples)
    # What a region holds does not depend on how many are left to do.
    share = own / max(1, _regions(section or joint.cohort, own, samples))
    joint_leaves = Leaves(
        units=Range(1, 2),
        row_bytes=Range(500, 1500),
        puts=Range(4, 8),
        # Of each sample its index and its slice, which is one range or several.
        gets=samples * Range(2, 5) + 10,
        output_bytes=share * samples * VCF_BYTES * 2,
        bytes_a_base=NOTHING,
        log_bytes=Range(1000, 20_000),
        basis="assumed",
    )
    called = estimate(
        joint,
        _work(regions, region_time),
        Pace("given" if region_time else "", "a region in the time given", nest=region_time, leaves=joint_leaves),
        prices,
        pilots=pilots,
        on_demand=on_demand,
        reads=False,
        what="joint: ",
    )
    if region_time is None and regions:
        why = "what the joint call's machines cost: measure a region of your own first (docs/cohort.md), then --region-time"
        missing = tuple(text for text in called.missing if not text.startswith("hours, and"))
        called = replace(called, missing=(*missing, why))
    return CohortEstimate(call, gathered, called, regions)


def _regions(section: CohortSection, bases: float, samples: int) -> int:
    if section.joint.regions:
        return len(section.joint.regions)
    return math.ceil(bases / (section.joint.region_bases or default_bases(samples))) if bases else 0


def _work(items: int, seconds: Range | None) -> Work:
    """So many items of one nest each."""
    held = None if seconds is None else seconds * items
    return Work(
        items=items,
        nests=items,
        import_units=items * ITEM_UNITS,
        read_units=float(items * 2),
        seconds=held,
        item_seconds=held,
        longest=seconds,
    )
