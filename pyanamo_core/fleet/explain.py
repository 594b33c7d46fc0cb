"""Why nothing runs, or why it stopped: ledger, fleet, queue, compute environment and children's exits in plain words.

`findings` is pure: what is known comes from observe.py. What the words of Batch mean stands in reasons.py; account.py tells the
whole story of a run, an item or a nest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from pyanamo_core.errors import PyAnamoError
from pyanamo_core.fleet.ends import End, end_of
from pyanamo_core.fleet.jobs import Definition, Environment, Queue
from pyanamo_core.fleet.observe import Observation as Observation
from pyanamo_core.fleet.observe import Place as Place
from pyanamo_core.fleet.observe import look as look
from pyanamo_core.fleet.observe import observe as observe
from pyanamo_core.fleet.plan import leaving_cause, merged, stop_for_set_up
from pyanamo_core.fleet.reasons import DEPLOY, INVALID, WAITING, known
from pyanamo_core.model import Cause, Mode, Run
from pyanamo_core.words import listed, number_of, span

DOLLARS: Final = "max_dollars"
"""A word of the reason of a run that its limit has drained (spending.py)."""
SLOW_SECONDS: Final = 900.0
"""A machine takes minutes to come up; pilots that wait for longer wait for something else."""


@dataclass(frozen=True)
class Finding:
    """Something that keeps pilots from working: of what, what it is, and what to do.

    `code` names the known reason in one word for programs ("" where there is none).
    """

    subject: str
    fact: str
    advice: str = ""
    code: str = ""

    @property
    def told(self) -> str:
        return f"{self.subject}: " + (f"{self.fact.removesuffix('.')}. {self.advice}" if self.advice else self.fact)


def findings(seen: Observation) -> list[Finding]:
    """What keeps this run from going on, the gravest first; empty if nothing does."""
    if seen.run.ended is not None:
        return [*_about_end(seen), *(_about_ends(seen) if seen.run.outcome == "stopped" else [])]
    places = [one for place in seen.places for one in _about_place(seen, place)]
    definition = _about_definition(seen)
    return [
        *_about_run(seen),
        *definition,
        *places,
        *_about_waiting(seen, told_already=bool(places or definition)),
        *_about_ends(seen),
        *_about_pilots(seen),
    ]


def _about_end(seen: Observation) -> list[Finding]:
    run, counts = seen.run, seen.counts
    fact = f"it has ended: {run.outcome}" + (f" ({run.reason})" if run.reason else "")
    found = [Finding(f"run {run.run_id}", fact, _go_on(run) if counts.open else "", f"run_{run.outcome}")]
    if counts.failed and not counts.done and not counts.open:
        found.append(
            Finding(
                "table",
                f"all {number_of(counts.failed, 'item')} have failed",
                "Mend what one of them tells, then: pyanamo items retry --state failed",
                "all_failed",
            )
        )
    return found


def _go_on(run: Run) -> str:
    """How what a run has left is gone on with."""
    if DOLLARS in run.reason:
        return "Go on with: pyanamo run, with a higher max_dollars"
    return "Go on with: pyanamo run" + (", once that is mended" if run.outcome == "stopped" else "")


def _about_run(seen: Observation) -> list[Finding]:
    run, counts = seen.run, seen.counts
    name = f"run {run.run_id}"
    found: list[Finding] = []
    if run.mode is not Mode.RUN:
        reason = f" ({run.reason})" if run.reason else ""
        advice = f"Once it has ended: {_go_on(run).removeprefix('Go on with: ')}"
        found.append(Finding(name, f"its mode is {run.mode}{reason}", advice, f"mode_{run.mode}"))
    if counts.total == 0:
        advice = "Import a sheet with: pyanamo sheet import SHEET"
        found.append(Finding("table", "it holds no items", advice, "nothing_imported"))
    elif counts.open == 0:
        found.append(Finding("table", "nothing is left to do", code="nothing_left"))
    elif seen.claimable == 0 and counts.locked == 0 and not counts.todo:
        fact = f"{counts.waiting} items wait for their next try, none is due within 5 minutes"
        found.append(Finding("table", fact, code="all_wait"))
    if seen.marked and seen.obstacle and run.ended is None:
        fact = f"{number_of(seen.marked, 'item')} for on-demand pilots only; {seen.obstacle}"
        advice = "Or let any pilot have them: pyanamo items cancel NAME, then pyanamo items retry NAME --anywhere"
        found.append(Finding("table", fact, advice, "on_demand_only"))
    live = sum(job.live for job in seen.jobs) + (len(seen.pilots.fresh) if seen.pilots else 0)
    if seen.now and run.watcher_lease_end < seen.now and (seen.claimable or seen.marked) and not live:
        advice = f"Let it go on with: pyanamo watch {run.run_id}"
        found.append(Finding(name, "nobody watches it, so that no pilots come", advice, "unwatched"))
    for submission in run.submissions:
        if submission.outcome == "reserved":
            found.append(
                Finding(
                    f"job {submission.name}",
                    "nobody knows yet whether it was submitted",
                    "It is looked for by its name.",
                    "submission_open",
                )
            )
        elif submission.outcome == "failed":
            fact = submission.reason or "it was not submitted"
            found.append(Finding(f"job {submission.name}", fact, code="submission_refused"))
    found += [
        Finding(
            f"job {job_id}",
            "Batch does not know it (any more)",
            "Its items come back by their leases.",
            "job_forgotten",
        )
        for job_id in seen.missing
    ]
    return found


def _about_definition(seen: Observation) -> list[Finding]:
    if seen.definition is not None:
        return []
    name, advice = f"job definition {seen.definition_name}", f"Register it, e.g. with: {DEPLOY}"
    return [Finding(name, "no revision of it is active", advice, "definition_missing")]


def _about_place(seen: Observation, place: Place) -> list[Finding]:
    name = f"queue {place.name}"
    if place.queue is None:
        advice = f"Create it ({DEPLOY}), or correct `queue` in the workflow file."
        return [Finding(name, "it does not exist", advice, "queue_missing")]
    found: list[Finding] = []
    if not place.queue.open:
        reason = _reason(place.queue)
        advice = f"Enable it with: aws batch update-job-queue --job-queue {place.name} --state ENABLED"
        invalid = place.queue.state == "ENABLED"
        fact = f"it is {place.queue.state}, {place.queue.status}{reason}"
        if invalid:
            advice = "Its compute environments must be VALID and ENABLED first."
        found.append(Finding(name, fact, advice, "queue_invalid" if invalid else "queue_disabled"))
    usable: list[Environment] = []
    for one in place.environments:
        subject = f"compute environment {one.name}"
        reason = _reason(one)
        if one.state != "ENABLED":
            command = f"aws batch update-compute-environment --compute-environment {one.name} --state ENABLED"
            fact = f"it is {one.state}{reason}"
            found.append(Finding(subject, fact, f"Enable it with: {command}", "environment_disabled"))
        elif one.status == "INVALID":
            why = known(one.status_reason, INVALID)
            advice = why.mend or "Its reason says what to mend."
            found.append(Finding(subject, f"it is INVALID{reason}", advice, "environment_invalid"))
        else:
            usable.append(one)
    waiting = sum(job.waiting for job in seen.jobs_of(place))
    if waiting and usable and seen.definition is not None:
        found += _about_ceilings(seen, place, usable, seen.definition, waiting)
    return found


def _reason(of: Queue | Environment) -> str:
    """Why it is as it is; of what is VALID Batch says no more than that it is healthy."""
    return f" ({of.status_reason})" if of.status_reason and of.status != "VALID" else ""


def _about_ceilings(
    seen: Observation, place: Place, usable: list[Environment], definition: Definition, waiting: int
) -> list[Finding]:
    """The environments' ceilings together: Batch tries one after the other."""
    ceilings = [one.max_vcpus for one in usable if one.max_vcpus is not None]
    if len(ceilings) < len(usable):  # one without a ceiling
        return []
    name = f"compute environment{'s' * (len(usable) > 1)} {listed([one.name for one in usable])}"
    most, every = max(ceilings), sum(ceilings)
    command = f"aws batch update-compute-environment --compute-environment {usable[0].name}"
    advice = f"Raise it with {DEPLOY} --set SpotVcpus=N (OnDemandVcpus=N), or: {command} --compute-resources maxvCpus=N"
    if most == 0:
        fact = f"the ceiling is 0 vCPUs, which switches queue {place.name} off; {number_of(waiting, 'pilot')} wait"
        return [Finding(name, fact.replace("1 pilot wait", "1 pilot waits"), advice, "ceiling_zero")]
    if definition.vcpus > most:
        fact = f"a pilot asks for {definition.vcpus:g} vCPUs, the ceiling is {most}: it can never start"
        return [Finding(name, fact, f"{advice} — or ask for fewer vCPUs.", "ceiling_too_low")]
    summary = merged(job.summary for job in seen.jobs_of(place))
    running = sum(summary.get(status, 0) for status in ("STARTING", "RUNNING"))
    used = max(running * definition.vcpus, float(sum(one.desired_vcpus or 0 for one in usable)))
    if used + definition.vcpus <= every:
        return []
    fact = f"it is at its ceiling of {every} vCPUs; {waiting} pilots of {definition.vcpus:g} wait"
    return [Finding(name, fact, f"They start as others end. To start them sooner: {advice}", "at_ceiling")]


def _about_waiting(seen: Observation, *, told_already: bool) -> list[Finding]:
    waiting = sum(job.waiting for job in seen.jobs)
    if not waiting:
        return []
    name = f"{number_of(waiting, 'pilot')} not started"
    if seen.waiting_reasons:
        found = [(reason, known(reason, WAITING)) for reason in seen.waiting_reasons]
        return [Finding(name, reason, one.mend, one.code) for reason, one in found]
    started = sum(job.live for job in seen.jobs) - waiting
    if started or told_already:
        return []
    since = min((job.created for job in seen.jobs if job.waiting and job.created), default=0.0)
    waited = seen.now - since if seen.now and since else 0.0
    if waited < SLOW_SECONDS:
        return [Finding(name, "Batch gives no reason; a new machine takes minutes", code="machine_comes")]
    advice = known("undetermined", WAITING).mend.removeprefix("Batch does not know either. ")
    return [Finding(name, f"Batch gives no reason, and they wait since {span(waited)}", advice, "undetermined")]


def _about_ends(seen: Observation) -> list[Finding]:
    """Failed pilots, grouped by what Batch says of their last attempt."""
    grouped: Counter[End] = Counter()
    for job in seen.failed:
        if not job.ended_by_us:
            grouped[end_of(job)] += 1
    return [
        Finding(f"{number_of(count, 'pilot')} failed", end.fact, end.advice, end.code)
        for end, count in grouped.most_common()
    ]


def _about_pilots(seen: Observation) -> list[Finding]:
    """What the pilots' own rows complain of."""
    if seen.pilots is None:
        return []
    found: list[Finding] = []
    if set_up := stop_for_set_up(seen.pilots):
        advice = "Pilots leave at once until it is put right."
        found.append(Finding("pilots", set_up, advice, "set_up"))
    faults = [one for one in seen.pilots.ended if leaving_cause(one) == Cause.HOST_FAULT]
    if faults and not seen.pilots.fresh:
        fact = f"they left their hosts: {faults[-1].leaving.partition(':')[2].strip() or 'host_fault'}"
        advice = (
            "Batch starts such pilots again, on another host if it has one. If every host is like that, give them more"
            f" room ({DEPLOY} --set ScratchGb=N) or see the pilots' logs."
        )
        found.append(Finding(number_of(len(faults), "pilot"), fact, advice, "host_fault"))
    if silent := _about_silent(seen):
        found.append(silent)
    return found


def _about_silent(seen: Observation) -> Finding | None:
    """Items that pilots hold which neither beat nor left."""
    if not seen.stranded or seen.pilots is None:
        return None
    owners = {item.owner for item in seen.stranded}
    beats = [record.last_beat for record in seen.pilots.silent if record.pilot_id in owners]
    quiet = f" (last beat {span(seen.now - max(beats))} ago)" if seen.now else ""
    holds = "it holds" if len(owners) == 1 else "they hold"
    fact = f"silent{quiet}, {holds} {listed([item.item_id for item in seen.stranded])}"
    advice = "That comes back when the leases end; at once, if Batch says that they are gone, with: pyanamo recover"
    return Finding(number_of(len(owners), "pilot"), fact, advice, "pilots_silent")


def told(seen: Observation, limit: int = 2) -> str:
    """The gravest findings in one line."""
    return "; ".join(one.told for one in findings(seen)[:limit])


def guarded(error: PyAnamoError) -> Finding:
    """A finding for what could not be asked."""
    return Finding("Batch", f"it could not be asked: {error}", code="not_asked")
