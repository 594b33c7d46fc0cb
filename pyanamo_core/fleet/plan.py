"""The fleet's decisions as pure functions: sizes of arrays, top-up, which pilots live, when a run stops, how it ends.

Everything here takes values and gives values; watch.py looks, asks these functions, and acts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from pyanamo_core.model import Cause, Counts, Limits, Mode, PilotRecord, Run

ARRAY_MIN: Final = 2
"""Batch's smallest array; a single pilot is a plain job."""
ARRAY_MAX: Final = 10_000
"""Batch's biggest array."""

DUE_SOON_SECONDS: Final = 300.0
"""A waiting item that may start within this time is worth a pilot now: a container needs minutes to come up."""

FRUITLESS_HOSTS: Final = 3
FRUITLESS_ALONE: Final = 5
"""With fewer hosts than that (a small fleet, or hosts unknown) so many pilots must fail, and none be left."""
SET_UP_HOSTS: Final = 2

STOPPED: Final = "stopped: "
"""How the reason of a drain begins that the watcher ordered; the next watcher then ends the run as stopped, not drained."""

HANDED_BACK: Final = frozenset({75, 143})
"""Exit codes of pilots that gave their items back in good order: Batch starts them again."""

STOPPING: Final = frozenset({Cause.SET_UP, "max_failures"})
"""Ways to leave with which a pilot orders the run's drain (pilot/desk.py)."""
REASON_COMPARED: Final = 100
"""Characters by which a run's reason, which may be clipped, and a pilot's are told to be one."""

QUIET_LEAVINGS: Final = frozenset(
    {"", "empty", Cause.DRAINED, Cause.SPOT, Cause.WALL_TIME, Cause.HOST_FAULT, Cause.CANCELLED, Cause.LOST}
)
"""Ways to leave that say nothing against the run."""


def array_sizes(pilots: int) -> tuple[int, ...]:
    """How so many pilots are cut into jobs of Batch: arrays of 2 to 10,000, a single one as a plain job (size 1)."""
    full, rest = divmod(max(0, pilots), ARRAY_MAX)
    return (ARRAY_MAX,) * full + ((rest,) if rest else ())


def plan_top_up(*, claimable: int, items_per_pilot: int, could_claim: int, live: int, max_pilots: int) -> int:
    """How many pilots to add.

    Args:
        claimable: items that a pilot could claim now or within five minutes.
        items_per_pilot: items that one pilot holds at a time.
        could_claim: pilots that live, or are submitted, and are not leaving.
        live: pilots that live or are submitted.
        max_pilots: the run's limit.

    Returns:
        The smaller of what the work asks for and what the limit leaves; never negative.
    """
    wanted = -(-claimable // max(1, items_per_pilot)) - could_claim
    return max(0, min(wanted, max_pilots - live))


def most_claimable(limits: Limits, live: int, leaving: int) -> int:
    """How many claimable items are enough to know: with so many, a top-up is the biggest that the limits allow."""
    return max(1, live - leaving + max(0, limits.max_pilots - live)) * max(1, limits.items_per_pilot)


def backed_off(poll_seconds: float, fruitless_rounds: int) -> float:
    """Seconds to wait after a top-up whose pilots ended without a claim, before the next one: 1, 2, 4 … polls, ≤ 10 min."""
    return 0.0 if fruitless_rounds <= 0 else min(600.0, poll_seconds * 2.0 ** min(fruitless_rounds - 1, 30))


# ---------------------------------------------------------------------------------------------------- pilots


@dataclass(frozen=True)
class Pilots:
    """What the pilot rows of a run say at one moment.

    Attributes:
        fresh: alive by their own beats.
        leaving: of these, pilots that claim no more.
        silent: neither ended nor beating.
        claims: claims of all of them, ever.
    """

    fresh: tuple[PilotRecord, ...] = ()
    leaving: int = 0
    silent: tuple[PilotRecord, ...] = ()
    ended: tuple[PilotRecord, ...] = ()
    claims: int = 0

    def __len__(self) -> int:
        return len(self.fresh) + len(self.silent) + len(self.ended)

    def __iter__(self) -> Iterator[PilotRecord]:
        return chain(self.fresh, self.silent, self.ended)


def fresh_seconds(beat_seconds: float, lease_seconds: float) -> float:
    """Age up to which a pilot's beat counts as a sign of life: two beats and some."""
    return 2 * beat_seconds + min(30.0, lease_seconds / 10)


def sort_pilots(records: Iterable[PilotRecord], *, now: float, fresh_seconds: float) -> Pilots:
    """Tell living pilots from silent and ended ones.

    Args:
        records: the run's pilot rows.
        now: seconds since 1970.
        fresh_seconds: age up to which a beat counts.
    """
    fresh: list[PilotRecord] = []
    silent: list[PilotRecord] = []
    ended: list[PilotRecord] = []
    claims = 0
    for record in records:
        claims += record.claims
        if record.ended is not None:
            ended.append(record)
        elif now - max(record.last_beat, record.started) <= fresh_seconds:
            fresh.append(record)
        else:
            silent.append(record)
    leaving = sum(1 for record in fresh if record.leaving)
    return Pilots(tuple(fresh), leaving, tuple(silent), tuple(ended), claims)


def of_jobs(pilots: Pilots, job_ids: Collection[str]) -> Pilots:
    """The pilots of these jobs (ids of parents)."""

    def theirs(records: tuple[PilotRecord, ...]) -> tuple[PilotRecord, ...]:
        return tuple(record for record in records if record.batch_job.partition(":")[0] in job_ids)

    if not job_ids:
        return Pilots()
    fresh = theirs(pilots.fresh)
    leaving = sum(1 for record in fresh if record.leaving)
    return Pilots(fresh, leaving, theirs(pilots.silent), theirs(pilots.ended))


def leaving_cause(record: PilotRecord) -> str:
    """The first word of why a pilot left: `empty`, a cause, …"""
    return record.leaving.partition(":")[0].strip()


@dataclass(frozen=True)
class Fruitless:
    """A pilot that ended without a claim and not because nothing was left."""

    host: str
    reason: str


def is_fruitless(record: PilotRecord) -> bool:
    """Did this pilot, which has ended, go without a claim and for a reason that speaks against the run?"""
    if record.claims:
        return False
    quiet_code = record.exit_code is None or record.exit_code == 0 or record.exit_code in HANDED_BACK
    return not (quiet_code and leaving_cause(record) in QUIET_LEAVINGS)


def fruitless_limit(live: int) -> int:
    """How many of them stop a run that has so many pilots alive: 3 of few, 20 of a thousand."""
    return max(FRUITLESS_HOSTS, min(20, live // 10))


def stop_for_fruitless(ends: Sequence[Fruitless], *, live: int) -> str:
    """Why a run must stop because its pilots die before they claim anything, or "".

    One bad host must not stop a run: the ends must come from at least three hosts. A fleet without so many (one machine,
    or hosts that nobody names) stops when none of its pilots is left.
    """
    hosts = {end.host for end in ends if end.host}
    everywhere = len(hosts) >= FRUITLESS_HOSTS and len(ends) >= fruitless_limit(live)
    if not everywhere and not (live == 0 and len(ends) >= FRUITLESS_ALONE):
        return ""
    told = max({end.reason for end in ends}, key=[end.reason for end in ends].count)
    return f"{len(ends)} pilots on {max(1, len(hosts))} host(s) ended without a claim: {told}"


def stop_for_set_up(records: Iterable[PilotRecord], unknown: int = 0) -> str:
    """Why a run must stop because hosts find its set-up wrong (unknown table, no permission, wrong reference), or "".

    Two hosts must have seen it, or the only one that the run has.

    Args:
        records: the run's pilot rows.
        unknown: pilots that live or are submitted and have no row yet: they may be on other hosts.
    """
    hosts: set[str] = set()
    seen: dict[str, str] = {}
    for record in records:
        hosts.add(record.host)
        if leaving_cause(record) == Cause.SET_UP:
            seen[record.host] = record.leaving.partition(":")[2].strip() or " ".join(record.notes[-1:])
    if not seen or (len(seen) < SET_UP_HOSTS and (len(hosts) > 1 or unknown > 0)):
        return ""
    return f"the set-up is wrong (seen on {len(seen)} host(s)): {next(iter(seen.values())) or 'see the pilots’ logs'}"


def stop_for_failures(counts: Counts, max_failures: int | None) -> str:
    """Why a run must stop because too many items of its table have failed, or ""."""
    if max_failures is None or counts.failed < max_failures:
        return ""
    return f"{counts.failed} items have failed, the limit is {max_failures}"


# ---------------------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Absence:
    """A job that DescribeJobs does not name: since when (monotonic seconds) and in how many polls."""

    since: float
    polls: int


def still_absent(before: Absence | None, now: float) -> Absence:
    return Absence(now, 1) if before is None else Absence(before.since, before.polls + 1)


def is_missing(absence: Absence, now: float, *, seconds: float, polls: int) -> bool:
    """Absent for long enough to be called missing: DescribeJobs is not consistent right after SubmitJob."""
    return now - absence.since >= seconds and absence.polls >= polls


def live_pilots(by_batch: int, by_beats: int) -> int:
    """Pilots alive: Batch's summary may lag, and Batch may forget a job whose pilots still work; the bigger one counts."""
    return max(by_batch, by_beats)


def still_beating(pilots: Pilots, ended_jobs: Collection[str], ended_attempts: Collection[tuple[str, int]]) -> int:
    """Pilots with fresh beats, without those that are over by Batch's word: a job as a whole, an attempt, or an earlier
    attempt of a job that has a later one."""
    latest: dict[str, int] = {}
    for record in pilots:
        latest[record.batch_job] = max(latest.get(record.batch_job, 0), record.batch_attempt)
    return sum(
        1
        for record in pilots.fresh
        if record.batch_job.partition(":")[0] not in ended_jobs
        and (record.batch_job, record.batch_attempt) not in ended_attempts
        and (not record.batch_job or record.batch_attempt == latest[record.batch_job])
    )


def merged(summaries: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Jobs by status over several submissions, empty statuses left out."""
    total: dict[str, int] = {}
    for summary in summaries:
        for status, count in summary.items():
            if count:
                total[status] = total.get(status, 0) + count
    return total


# ---------------------------------------------------------------------------------------------------- the end


def stopped_by_pilots(run: Run, records: Iterable[PilotRecord]) -> bool:
    """Was the run's drain ordered by a pilot that saw it going wrong (`set_up`, `max_failures`), and not by a user?"""
    start = run.reason[:REASON_COMPARED]
    return bool(start) and any(
        leaving_cause(record) in STOPPING and record.leaving.partition(":")[2].strip().startswith(start)
        for record in records
    )


def outcome_of(run: Run, counts: Counts, records: Iterable[PilotRecord] = ()) -> tuple[str, str]:
    """How a run without living pilots has ended, and why: completed, failed, cancelled, drained, stopped."""
    if run.mode is Mode.CANCEL:
        return "cancelled", run.reason
    if run.mode is Mode.DRAIN and stopped_by_pilots(run, records):
        return "stopped", run.reason
    if run.mode is Mode.DRAIN and run.reason.startswith(STOPPED):
        return "stopped", run.reason.removeprefix(STOPPED)
    if counts.open and run.mode is Mode.DRAIN:
        return "drained", run.reason
    if counts.failed:
        return (
            "failed",
            f"{counts.failed} of {counts.total} items failed; see them with: pyanamo items list --state failed",
        )
    cancelled = f"; {counts.cancelled} were cancelled" if counts.cancelled else ""
    return "completed", f"{counts.done} of {counts.total} items are done{cancelled}"
