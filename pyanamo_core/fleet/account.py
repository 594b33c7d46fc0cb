"""The account of a run: one paragraph of facts, what keeps it, and how that is mended (`pyanamo explain`).

account_item.py has the same for an item and for a nest. Facts come from the ledger; Batch is asked a handful of calls
whatever the run's size, and where it cannot be asked the account says so and tells the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import PyAnamoError
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.explain import Finding, findings, guarded
from pyanamo_core.fleet.failures import failures
from pyanamo_core.fleet.jobs import Environment
from pyanamo_core.fleet.observe import Observation, counted, observe
from pyanamo_core.fleet.plan import Pilots, fresh_seconds, leaving_cause, merged, sort_pilots
from pyanamo_core.fleet.spending import spending
from pyanamo_core.model import Counts, Run
from pyanamo_core.protocols import Clock, Ledger
from pyanamo_core.words import listed, number_of, quoted, span, when
from pyanamo_core.workflow import Workflow

FAILURES_TOLD: Final = 5
NEXT: Final = {
    "nothing_imported": "pyanamo sheet import sheet.txt",
    "pilots_silent": "pyanamo recover",
    "no_run": "pyanamo run",
}
"""The next command by the code of a finding."""


@dataclass(frozen=True)
class Account:
    """What is to be told of a run, an item, a nest or a table.

    Attributes:
        name: its id; of a nest the item's and the nest's number.
        facts: sentences, in order.
        findings: what keeps it from going on, the gravest first, each with its mend where that is known.
        next: the command to type next.
    """

    about: Literal["run", "item", "nest", "table"]
    name: str
    facts: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    next: str = ""

    @property
    def paragraph(self) -> str:
        """All of it in one paragraph."""
        return " ".join([*self.facts, *(sentence(one.told) for one in self.findings)])


def sentence(text: str) -> str:
    """Text with a capital at its start and a stop at its end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def items_told(counts: Counts) -> str:
    """`Of 10 items 3 are done, 1 has failed, 2 are locked and 4 are to do.`"""
    if not counts.total:
        return "The table holds no items."
    words = {
        "done": ("is done", "are done"),
        "failed": ("has failed", "have failed"),
        "locked": ("is being worked on", "are being worked on"),
        "waiting": ("waits for another try", "wait for another try"),
        "todo": ("is to do", "are to do"),
        "cancelled": ("is cancelled", "are cancelled"),
    }
    told = counts.model_dump()
    parts = [
        f"{told[state]:,} {one if told[state] == 1 else more}" for state, (one, more) in words.items() if told[state]
    ]
    if len(parts) == 1:
        return f"All {parts[0].replace(' ', ' items ', 1)}." if counts.total > 1 else f"Its one item {parts[0][2:]}."
    return f"Of {number_of(counts.total, 'item')} {listed(parts, 6)}."


def of_table(ledger: Ledger, workflow: Workflow, version: int) -> Account:
    """A table without a run."""
    counts = ledger.counts()
    facts = [
        f"Table {ledger.table} holds workflow {workflow.name}, version {version}; no run has begun.",
        items_told(counts),
    ]
    if counts.total == 0:
        advice = "Import a sheet with: pyanamo sheet import SHEET"
        found = Finding("table", "it holds no items", advice, "nothing_imported")
    else:
        found = Finding("table", "nobody works on it", "Start pilots with: pyanamo run", "no_run")
    return Account("table", ledger.table, tuple(facts), (found,), NEXT[found.code])


def of_run(batch: Batch, ledger: Ledger, run: Run, workflow: Workflow, *, clock: Clock | None = None) -> Account:
    """A run: how far it is, its pilots by Batch and by their own beats, where they run, and what keeps it."""
    clock = clock or SystemClock()
    now = clock.now()
    try:
        seen = observe(batch, ledger, run, workflow, clock=clock)
        found = findings(seen)
    except PyAnamoError as error:
        seen, found = _without_batch(ledger, run, workflow, clock), [guarded(error)]
    facts = [_beginning(ledger, run, now), *_bounds(seen, workflow), items_told(seen.counts)]
    facts += _asked(seen) + _beats(seen.pilots or Pilots(), now)
    if run.ended is None:
        facts += _surroundings(seen)
    told = failures(ledger, shown=FAILURES_TOLD) if seen.counts.failed else []
    facts += [
        f"{number_of(one.items, 'item')} failed with {one.cause or 'no cause'}, e.g. {one.example}:"
        f" {one.message.rstrip('.') or 'nothing was said'}."
        for one in told
    ]
    example = told[0].example if told else ""
    if not found:
        facts.append("Nothing keeps it from going on.")
    return Account("run", run.run_id, tuple(facts), tuple(found), _next(run, seen.counts, found, example))


def _without_batch(ledger: Ledger, run: Run, workflow: Workflow, clock: Clock) -> Observation:
    timing, now = workflow.timing, clock.now()
    fresh = fresh_seconds(timing.beat_seconds, timing.lease_seconds)
    pilots = sort_pilots(ledger.pilots(run.run_id), now=now, fresh_seconds=fresh)
    counts, claimable = counted(ledger, run, clock)
    return Observation(run, counts, claimable, queue_name=workflow.queue, pilots=pilots, now=now)


def _bounds(seen: Observation, workflow: Workflow) -> list[str]:
    """What a run was bounded to: a canary's items, dollars."""
    run, facts = seen.run, list[str]()
    if run.only:
        facts.append(f"It is a canary and works on {number_of(len(run.only), 'item')} only: {listed(list(run.only))}.")
    pilots, queue = seen.pilots or Pilots(), workflow.on_demand_queue
    spent = spending(run, pilots, vcpus=workflow.vcpus, now=seen.now, on_demand_queue=queue)
    if run.max_dollars is not None and spent is not None:
        facts.append(
            f"It may cost ${run.max_dollars:,.2f}; its pilots' machines have cost ${spent.low:,.2f} to ${spent.high:,.2f},"
            f" and what they hold will cost some ${spent.committed:,.2f} more."
        )
    return facts


def _beginning(ledger: Ledger, run: Run, now: float) -> str:
    what = f"Run {run.run_id} of table {ledger.table} (workflow version {run.workflow_version})"
    if run.ended is not None:
        return f"{what} began {when(run.started)} and ended {when(run.ended)} (UTC), after {span(run.ended - run.started)}."
    watched = f"{run.watcher} watches it" if run.watcher_lease_end > now else "nobody watches it"
    return f"{what} has gone on for {span(now - run.started)}; {watched}."


def _asked(seen: Observation) -> list[str]:
    """What was submitted, and what Batch says of it."""
    run = seen.run
    submitted = [one for one in run.submissions if one.outcome != "failed"]
    if not submitted:
        return ["It has asked for no pilots." if run.ended is not None else "It has not asked for any pilots yet."]
    by_queue: Counter[str] = Counter()
    for one in submitted:
        by_queue[one.queue] += one.size
    needs = ""
    if seen.definition is not None:
        needs = f" ({seen.definition.vcpus:g} vCPUs and {seen.definition.memory_mb:,} MB each)"
    asked = listed([f"{number_of(count, 'pilot')} on queue {queue}" for queue, count in by_queue.items()])
    told = f"It asked Batch for {asked}{needs}"
    states = [f"{count:,} {status}" for status, count in merged(job.summary for job in seen.jobs).items()]
    return [f"{told}: {listed(states, 8)}." if states else f"{told}."]


def _beats(pilots: Pilots, now: float) -> list[str]:
    """What the pilots' own rows say."""
    if not len(pilots):
        return ["No pilot has written its row."]
    parts: list[str] = []
    if pilots.fresh:
        beat = span(now - max(one.last_beat for one in pilots.fresh))
        holding = sum(len(one.holding) for one in pilots.fresh)
        held = f"{number_of(holding, 'item')} in hand" if holding else "nothing in hand"
        parts.append(f"{number_of(len(pilots.fresh), 'pilot')} beat, the last {beat} ago, with {held}")
    if pilots.silent:
        beat = span(now - max(max(one.last_beat, one.started) for one in pilots.silent))
        parts.append(f"{number_of(len(pilots.silent), 'pilot')} went silent, the last {beat} ago")
    if pilots.ended:
        why = Counter(leaving_cause(one) or "no reason" for one in pilots.ended)
        left = listed([f"{count:,} {cause}" for cause, count in why.most_common()])
        parts.append(f"{number_of(len(pilots.ended), 'pilot')} left ({left})")
    return [sentence("; ".join(parts))]


def _surroundings(seen: Observation) -> list[str]:
    """Queue, environments and image as they are."""
    told: list[str] = []
    for place in seen.places:
        if place.queue is None:
            continue
        around = [_environment(one) for one in place.environments]
        told.append(f"Queue {place.name} is {place.queue.state} and {place.queue.status}" + _with(around) + ".")
    if seen.definition is not None and seen.definition.image:
        told.append(f"Its pilots are containers of {seen.definition.image} ({seen.definition.name}).")
    return told


def _environment(one: Environment) -> str:
    used = f", {one.desired_vcpus or 0} of at most {one.max_vcpus} vCPUs" if one.max_vcpus is not None else ""
    return f"compute environment {one.name} ({one.state}, {one.status}{used})"


def _with(parts: Iterable[str]) -> str:
    told = listed(list(parts))
    return f", with {told}" if told else ""


def _next(run: Run, counts: Counts, found: list[Finding], example: str) -> str:
    for one in found:
        if one.code in NEXT:
            return NEXT[one.code]
    if run.ended is None:
        return f"pyanamo watch {run.run_id}"
    if example:
        return f"pyanamo explain {quoted(example)}"
    return "pyanamo run" if counts.open else "pyanamo results list"
